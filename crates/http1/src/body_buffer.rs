//! Body buffer: collects the pieces of a body as they arrive.

use bytes::{Bytes, BytesMut};

/// The pieces of a body received so far.
///
/// Most bodies arrive in one piece, which is kept without a copy. Others are copied into parts that never grow, so that
/// the allocated size is known in advance and bytes are never moved.
#[derive(Default)]
pub struct BodyBuffer {
    first: Bytes,
    parts: Vec<BytesMut>,
    length: usize,
}

/// A body up to this length, in bytes, is copied into a single part.
pub const FIRST_PART: usize = 4096;
/// Sizes of the parts in bytes: the first is small, since most bodies are.
const PARTS: [usize; 3] = [FIRST_PART, 16 * 1024, 64 * 1024];

impl BodyBuffer {
    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Allocated bytes.
    pub fn capacity(&self) -> usize {
        self.parts.iter().map(BytesMut::capacity).sum()
    }

    /// Whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a piece.
    pub fn push(&mut self, piece: Bytes) {
        if self.is_empty() {
            self.length = piece.len();
            self.first = piece;
            return;
        }
        let first = std::mem::take(&mut self.first);
        if !first.is_empty() {
            self.length = 0;
            self.reserve(self.missing(first.len() + piece.len(), usize::MAX));
            self.copy(&first);
        }
        self.reserve(self.missing(piece.len(), usize::MAX));
        self.copy(&piece);
    }

    /// Bytes to allocate before `bytes` more are copied here, if no more than `left` bytes will follow in all.
    pub fn missing(&self, bytes: usize, left: usize) -> usize {
        let missing = bytes.saturating_sub(self.free());
        if missing == 0 {
            return 0;
        }
        let usual = PARTS[self.parts.len().min(PARTS.len() - 1)];
        missing.max(usual.min(left.saturating_sub(self.free())))
    }

    /// Allocates a part of this many bytes; none for zero.
    pub fn reserve(&mut self, bytes: usize) {
        if bytes > 0 {
            self.parts.push(BytesMut::with_capacity(bytes));
        }
    }

    /// Adds a piece that there is room for.
    pub fn copy(&mut self, mut piece: &[u8]) {
        self.length += piece.len();
        let last = self.parts.len().saturating_sub(2);
        for part in &mut self.parts[last..] {
            let now = piece.len().min(part.capacity() - part.len());
            part.extend_from_slice(&piece[..now]);
            piece = &piece[now..];
        }
        debug_assert!(piece.is_empty(), "room was reserved for all of it");
    }

    /// Free bytes in the last part.
    pub fn free(&self) -> usize {
        let last = self.parts.last();
        last.map_or(0, |part| part.capacity() - part.len())
    }

    /// The whole body if it has one part at most, otherwise the parts, for concatenation.
    pub fn into_parts(mut self) -> Result<Bytes, (usize, Vec<BytesMut>)> {
        match self.parts.len() {
            0 => Ok(self.first),
            1 => Ok(self.parts.remove(0).freeze()),
            _ => Err((self.length, self.parts)),
        }
    }

    /// The whole body, copied together if it has several parts.
    pub fn into_bytes(self) -> Bytes {
        self.into_parts().unwrap_or_else(|(length, parts)| {
            let mut whole = Vec::with_capacity(length);
            for part in parts {
                whole.extend_from_slice(&part);
            }
            whole.into()
        })
    }
}
