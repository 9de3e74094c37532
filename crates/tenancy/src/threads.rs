//! Work on many items, shared among threads.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::thread;

/// Does the same with each, on as many threads as there are processors if each has `least` to do. Results are in
/// order.
pub(crate) fn on_threads<A: Sync, B: Send>(
    all: &[A],
    least: usize,
    each: impl Fn(&A) -> B + Sync,
) -> Vec<B> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let part = all.len().div_ceil(processors).max(least);
    let run = |part: &[A]| part.iter().map(&each).collect::<Vec<B>>();
    let run = &run;
    thread::scope(|scope| {
        let mut parts = all.chunks(part);
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| {
                let other = thread::Builder::new().spawn_scoped(scope, move || run(part));
                (part, other)
            })
            .collect();
        let mut done = run(first);
        for (part, other) in others {
            done.extend(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread to be had.
                Err(_) => run(part),
            });
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_on_any_number_of_threads() {
        let numbers: Vec<u32> = (0..1_000).collect();
        for least in [1, 300, 999, 1_000, 5_000] {
            let doubled = on_threads(&numbers, least, |number| number * 2);
            let expected: Vec<u32> = numbers.iter().map(|number| number * 2).collect();
            assert_eq!(doubled, expected, "at least {least} a thread");
        }
        assert!(on_threads(&[0_u32; 0], 1, |number| *number).is_empty());
    }
}
