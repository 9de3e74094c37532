//! How many bytes of requests are held at the same time: of all together, and of an address that has proved nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::http1::body_buffer::FIRST_PART;

/// Memory for all bodies together, so that many large ones cannot take the machine's memory.
#[derive(Default)]
pub struct BodyMemory(Arc<MemoryTaken>);

/// How many pieces of it are taken. Nobody waits for one, so this is all there is to know.
#[derive(Default)]
struct MemoryTaken(AtomicUsize);

/// Room that one request holds, until dropped.
pub struct BodyReservation {
    room: Arc<MemoryTaken>,
    /// How many pieces of it.
    taken: usize,
    /// What is held whatever arrives: the head, what it takes to wait, and what a small body will need.
    begun: usize,
    /// What was allocated for the body.
    allocated: usize,
    /// Of everybody at its address, until it is proved to be somebody's.
    unauthenticated: Option<UnauthenticatedBytes>,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// All of it is taken.
    Everywhere,
    /// The address has taken all that it may before its requests are proved to be somebody's.
    OfAddress,
}

/// A part of what came from an address and is not proved to be anybody's.
struct UnauthenticatedBytes {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

/// How many bytes of requests may be held at once: a hundred of the largest JSON bodies, or two bank uploads, which take
/// twice their length while their parts are put together.
pub const BODIES: usize = 256 << 20;
/// How many of them one address may hold that are not proved to be anybody's: the largest upload, and some more.
pub const UNPROVED: usize = 80 << 20;
/// What a request takes besides its bytes while it waits for its body: 6 to 9 KB, as `tests/bound.rs` measures.
pub const WAITING: usize = 10 << 10;
/// Bodies up to this length are given room once, when they are announced.
const SMALL: usize = FIRST_PART;
/// Room is given out in pieces of this many bytes.
pub(crate) const PIECE: usize = 1024;

impl BodyMemory {
    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.0.0.load(Ordering::Relaxed) * PIECE
    }

    /// Room for a request whose body is about to be read. `unproved` counts what comes from its address.
    pub fn hold(&self, unproved: Option<&Arc<AtomicUsize>>) -> BodyReservation {
        BodyReservation {
            room: Arc::clone(&self.0),
            taken: 0,
            begun: 0,
            allocated: 0,
            unauthenticated: unproved.map(|of| UnauthenticatedBytes {
                of: Arc::clone(of),
                bytes: 0,
            }),
        }
    }
}

impl BodyReservation {
    /// Takes room for a head, and for a body that is announced to have so many bytes.
    pub fn begin(&mut self, head: usize, announced: u64) -> Result<(), NoRoom> {
        let small = usize::try_from(announced).map_or(SMALL, |bytes| bytes.min(SMALL));
        self.begun = WAITING + head;
        self.take(self.begun + small)
    }

    /// Takes room for so many bytes more that are allocated for a body.
    pub fn more(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.allocated += bytes;
        self.take(self.begun + self.allocated)
    }

    /// Takes room for a body once more, while its parts are put together: how many pieces. That is over in a moment, so
    /// it is not counted to the address.
    pub fn twice(&mut self, bytes: usize) -> Result<usize, NoRoom> {
        let pieces = bytes.div_ceil(PIECE);
        if !self.room.take(pieces) {
            return Err(NoRoom::Everywhere);
        }
        self.taken += pieces;
        Ok(pieces)
    }

    /// Gives room back.
    pub fn give(&mut self, pieces: usize) {
        self.taken -= pieces;
        self.room.0.fetch_sub(pieces, Ordering::Relaxed);
    }

    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.taken * PIECE
    }

    /// It is proved whose it is: to its address it no longer counts.
    pub fn authenticated(&mut self) {
        self.unauthenticated = None;
    }

    fn take(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let missing = bytes.div_ceil(PIECE).saturating_sub(self.taken);
        if missing == 0 {
            return Ok(());
        }
        if let Some(unproved) = &mut self.unauthenticated
            && !unproved.more(missing * PIECE)
        {
            return Err(NoRoom::OfAddress);
        }
        if !self.room.take(missing) {
            return Err(NoRoom::Everywhere);
        }
        self.taken += missing;
        Ok(())
    }
}

impl Drop for BodyReservation {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.room.0.fetch_sub(self.taken, Ordering::Relaxed);
        }
    }
}

impl MemoryTaken {
    /// Takes so many pieces more, or none.
    fn take(&self, pieces: usize) -> bool {
        let more = |taken: usize| {
            let all = taken.checked_add(pieces)?;
            (all <= BODIES / PIECE).then_some(all)
        };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

impl UnauthenticatedBytes {
    /// So many more; whether that is not too much.
    fn more(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.of.fetch_add(bytes, Ordering::Relaxed) + bytes <= UNPROVED
    }
}

impl Drop for UnauthenticatedBytes {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
