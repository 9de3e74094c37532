//! Buffer pool: write buffers that the connections of a thread share.
//!
//! A write is short. If each connection kept a buffer of its own, a hundred connections would use as many cold memory
//! regions in turn. So they share warm buffers, and an idle connection holds none.

use std::cell::RefCell;

/// Maximum capacity of a kept buffer, in bytes.
const KEPT: usize = 16 * 1024;
/// Maximum number of kept buffers: about as many as answers wait for their batched write at once.
const MOST: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty buffer: the last one given back, or a new one.
pub fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives a buffer back. A buffer without capacity, as an answer in pieces leaves, is dropped, since it would hide the
/// useful ones.
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
