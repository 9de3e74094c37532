//! Thread numbers, for data that is split by thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// This thread's number.
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number for the next thread that asks.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The number of this thread, unique in the process: from 0, in the order of each thread's first call.
pub fn number() -> usize {
    MINE.get().unwrap_or_else(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        MINE.set(Some(next));
        next
    })
}
