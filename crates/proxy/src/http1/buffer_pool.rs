//! Scratch: room for what is about to be written, used again by whoever writes next on the same thread.
//!
//! A write is soon over. If each connection kept room of its own for it, a hundred would take turns with as many cold
//! places in memory; so they share what is warm, and a connection that idles holds none.

use std::cell::RefCell;

/// How large a buffer may be that is kept.
const KEPT: usize = 16 * 1024;
/// How many are kept: about as many as answers wait for their [`turn`](crate::listener::write_batching) at once.
const MOST: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, the last one that was given back if there is any.
pub fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back. One without room, as is left of an answer in pieces, would hide those that have some.
pub fn give(mut buffer: Vec<u8>) {
    if !(1..=KEPT).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    FREE.with_borrow_mut(|free| {
        if free.len() < MOST {
            free.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_taken_again_empty() {
        let mut buffer = take();
        buffer.extend_from_slice(b"an answer");
        let place = buffer.as_ptr();
        give(buffer);
        give(Vec::new());
        let buffer = take();
        assert_eq!((buffer.as_ptr(), buffer.len()), (place, 0));
    }

    #[test]
    fn neither_large_ones_nor_more_than_so_many_are_kept() {
        give(Vec::with_capacity(KEPT + 1));
        for _ in 0..2 * MOST {
            give(Vec::with_capacity(1));
        }
        let kept = (0..2 * MOST).filter(|_| take().capacity() > 0);
        assert_eq!(kept.count(), MOST);
    }
}
