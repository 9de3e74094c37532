//! Work on many items, shared among threads.

use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// So few that all threads end at nearly the same time, and so many that taking them costs nothing.
const TAKEN_AT_ONCE: usize = 512;

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

/// Does the same with each of many small items, each thread taking the next ones, and `first` on this thread before it
/// joins in. Other threads help if there are `least` items for each. Results are in order.
pub(crate) fn on_threads_beside<A: Sync, B: Send, F>(
    all: &[A],
    least: usize,
    each: impl Fn(&A) -> B + Sync,
    first: impl FnOnce() -> F,
) -> (F, Vec<B>) {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let helpers = (processors - 1).min(all.len() / least);
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        loop {
            let begin = next.fetch_add(TAKEN_AT_ONCE, Ordering::Relaxed);
            let Some(rest) = all.get(begin..).filter(|rest| !rest.is_empty()) else {
                return done;
            };
            let part = &rest[..TAKEN_AT_ONCE.min(rest.len())];
            done.push((begin, part.iter().map(&each).collect::<Vec<B>>()));
        }
    };
    thread::scope(|scope| {
        let helpers = (0..helpers).map(|_| thread::Builder::new().spawn_scoped(scope, take));
        // Without a thread to be had, this one does all.
        let helpers: Vec<_> = helpers.filter_map(Result::ok).collect();
        let first = first();
        let mut parts = take();
        for helper in helpers {
            parts.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        parts.sort_by_key(|(begin, _)| *begin);
        (
            first,
            parts.into_iter().flat_map(|(_, part)| part).collect(),
        )
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

    #[test]
    fn results_are_in_order_whichever_thread_takes_the_items() {
        for count in [0, 1, 511, 512, 513, 5_000] {
            let numbers: Vec<u32> = (0..count).collect();
            let expected: Vec<u32> = numbers.iter().map(|number| number * 2).collect();
            for least in [1, 600, usize::MAX] {
                let done = on_threads_beside(&numbers, least, |number| number * 2, || "first");
                assert_eq!(
                    done,
                    ("first", expected.clone()),
                    "{count}, at least {least}"
                );
            }
        }
    }
}
