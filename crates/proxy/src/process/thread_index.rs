//! Threads by number, for what each of them has a part of.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// This thread's number.
    static MINE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What the next thread that asks gets.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// The number of this thread, which no other has: from 0, in the order in which they first ask.
pub fn number() -> usize {
    MINE.get().unwrap_or_else(|| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        MINE.set(Some(next));
        next
    })
}
