//! Scratch: room for what is about to be written, used again by whoever writes next on the same thread.
//!
//! Most writes are over at once. If each connection kept room of its own for them, a hundred would take turns with as many
//! cold places in memory; so they share one that is warm, and a connection that idles holds none.

use std::cell::Cell;

/// How much room is kept.
const KEPT: usize = 16 * 1024;

thread_local! {
    static FREE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer. Whoever else asks before it is given back gets one of its own.
pub fn take() -> Vec<u8> {
    FREE.take()
}

/// Gives a buffer back.
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT {
        buffer.clear();
        FREE.set(buffer);
    }
}
