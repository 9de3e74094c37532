//! Shutdown: every thread is waited for, but no longer than the process may take to end.
//!
//! A thread may be stuck in a loop, or in a system call on a disk that does not answer. Such a thread is left behind
//! and ends with the process; the other threads still write their data.

use std::panic::resume_unwind;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// The interval at which a thread or lock is checked again.
const LOOK: Duration = Duration::from_millis(2);

/// Waits for a thread until `overdue` is true. Then the thread is left behind, and the log reports it.
///
/// # Panics
/// If the thread panicked, with its message.
pub fn join_unless<T>(thread: JoinHandle<T>, overdue: impl FnMut() -> bool) -> Option<T> {
    if !comes_true(|| thread.is_finished(), overdue) {
        let name = thread.thread().name().unwrap_or_default();
        tracing::error!(
            thread = name,
            "draining: a thread does not end: the process ends without it"
        );
        return None;
    }
    let ended = thread.join();
    Some(ended.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Takes a lock, unless its holder keeps it until `overdue` is true.
pub fn lock_unless<T>(
    mutex: &Mutex<T>,
    mut overdue: impl FnMut() -> bool,
) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Some(guard) => return Some(guard),
            None if overdue() => return None,
            None => thread::sleep(LOOK),
        }
    }
}

/// Waits until `done` is true; false if `overdue` is true first.
pub fn comes_true(mut done: impl FnMut() -> bool, mut overdue: impl FnMut() -> bool) -> bool {
    while !done() {
        if overdue() {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

/// A condition that is true once only the time `left` remains until `end`.
pub fn until(end: Instant, left: Duration) -> impl Fn() -> bool {
    move || Instant::now() + left >= end
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_ends_is_joined_and_one_that_does_not_is_left_behind() {
        let (go, gone) = mpsc::channel::<()>();
        let stuck = thread::spawn(move || gone.recv().is_err());
        let mut looks = 0;
        let joined = join_unless(stuck, || {
            looks += 1;
            looks == 3
        });
        assert_eq!(joined, None);
        drop(go);
        assert_eq!(join_unless(thread::spawn(|| 7), || false), Some(7));
    }

    #[test]
    fn a_lock_that_is_never_given_back_is_not_waited_for() {
        let mutex = Mutex::new(7);
        let held = mutex.lock();
        assert!(lock_unless(&mutex, || true).is_none());
        drop(held);
        assert_eq!(lock_unless(&mutex, || true).as_deref(), Some(&7));
    }

    #[test]
    fn a_lock_whose_holder_panics_is_free_again() {
        let mutex = Mutex::new(7);
        let holder = thread::scope(|scope| {
            let panics = || {
                let _held = mutex.lock();
                resume_unwind(Box::new("the holder ends"));
            };
            scope.spawn(panics).join()
        });
        assert!(holder.is_err());
        assert_eq!(lock_unless(&mutex, || true).as_deref(), Some(&7));
    }
}
