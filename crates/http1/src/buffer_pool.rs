//! Buffer pool: write buffers that the connections of a thread share.
//!
//! A write is short. If each connection kept a buffer of its own, a hundred connections would use as many cold memory
//! regions in turn. So they share warm buffers, and an idle connection holds none.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};

/// Maximum capacity of a kept buffer, in bytes.
const KEPT: usize = 16 * 1024;
/// Maximum number of kept buffers: about as many as answers wait for their batched write at once.
const MOST: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A write buffer. When it is dropped, its memory goes back to the pool of the thread.
#[derive(Debug, Clone, Default)]
pub struct PooledBuffer(Vec<u8>);

/// Takes an empty buffer: the last one given back, or a new one.
pub fn take() -> PooledBuffer {
    PooledBuffer(FREE.with_borrow_mut(Vec::pop).unwrap_or_default())
}

impl Deref for PooledBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        // A buffer without capacity, as an answer in pieces leaves, would hide the useful ones.
        if !(1..=KEPT).contains(&self.0.capacity()) {
            return;
        }
        let mut buffer = mem::take(&mut self.0);
        buffer.clear();
        // A thread that is ending has no pool any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MOST {
                free.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_taken_again_empty() {
        let mut buffer = take();
        buffer.extend_from_slice(b"an answer");
        let place = buffer.as_ptr();
        drop(buffer);
        drop(PooledBuffer::default());
        let buffer = take();
        assert_eq!((buffer.as_ptr(), buffer.len()), (place, 0));
    }

    #[test]
    fn neither_large_ones_nor_more_than_so_many_are_kept() {
        drop(PooledBuffer(Vec::with_capacity(KEPT + 1)));
        let few: Vec<_> = (0..2 * MOST).map(|_| Vec::with_capacity(1)).collect();
        drop(few.into_iter().map(PooledBuffer).collect::<Vec<_>>());
        let taken: Vec<_> = (0..2 * MOST).map(|_| take()).collect();
        let kept = taken.iter().filter(|buffer| buffer.capacity() > 0);
        assert_eq!(kept.count(), MOST);
    }
}
