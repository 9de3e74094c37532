//! The process before this one, which may still hold what one process at a time can hold.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// The interval at which a successor tries again.
const LOOK: Duration = Duration::from_millis(5);

/// Opens what the process before this one may still hold: tries until that process lets it go, for `patience` at most, and
/// returns the last result. `waits` is called once, when the first try finds it held.
pub(crate) fn open_after<T, E>(
    patience: Duration,
    open: impl Fn() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
    waits: impl FnOnce(),
) -> Result<T, E> {
    let began = Instant::now();
    let mut waits = Some(waits);
    loop {
        match open() {
            Err(error) if is_held(&error) && began.elapsed() < patience => {}
            opened => return opened,
        }
        if let Some(waits) = waits.take() {
            waits();
        }
        sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn only_what_another_process_holds_is_waited_for_and_the_wait_is_told_once() {
        let (tries, told) = (Cell::new(0), Cell::new(0));
        let opened_after = |held: u32, end: Result<u32, &'static str>| {
            tries.set(0);
            told.set(0);
            let open = || {
                tries.set(tries.get() + 1);
                if tries.get() > held { end } else { Err("held") }
            };
            let patience = Duration::from_mins(1);
            let tell = || told.set(told.get() + 1);
            let opened = open_after(patience, open, |error| *error == "held", tell);
            (opened, tries.get(), told.get())
        };
        assert_eq!(opened_after(0, Ok(7)), (Ok(7), 1, 0));
        assert_eq!(opened_after(3, Ok(7)), (Ok(7), 4, 1));
        assert_eq!(opened_after(1, Err("broken")), (Err("broken"), 2, 1));
        let impatient = open_after(Duration::ZERO, || Err::<(), _>("held"), |_| true, || ());
        assert_eq!(impatient, Err("held"));
    }
}
