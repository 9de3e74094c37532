//! Body memory: limits for the request bytes held at the same time, of all callers and of one address's unverified
//! requests.

use gatepay_http1::body_buffer::FIRST_PART;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory for all requests together, so that many large bodies cannot exhaust the machine's memory.
#[derive(Default)]
pub struct BodyMemory(Arc<MemoryTaken>);

/// The number of pieces taken. A reservation fails at once instead of waiting, so a counter is enough.
#[derive(Default)]
struct MemoryTaken(AtomicUsize);

/// The memory reserved for one request, held until dropped.
pub struct BodyReservation {
    room: Arc<MemoryTaken>,
    /// The number of pieces reserved.
    taken: usize,
    /// The bytes reserved apart from the body: the head, and the request's state while it waits.
    begun: usize,
    /// The bytes allocated for the body.
    allocated: usize,
    /// The share of the address's unverified bytes, until the request is verified.
    unauthenticated: Option<UnauthenticatedBytes>,
}

/// The limit for which a reservation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// The memory for all requests is taken.
    Everywhere,
    /// The address holds as many unverified bytes as it may.
    OfAddress,
}

/// One request's part of the unverified bytes from its address.
struct UnauthenticatedBytes {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

/// How many bytes of requests may be held at once: a hundred of the largest JSON bodies, or two bank uploads. An upload
/// takes twice its length while its parts are put together.
pub const BODIES: usize = 256 << 20;
/// How many of these bytes one address may hold for unverified requests: the largest upload, and some more.
pub const UNPROVED: usize = 80 << 20;
/// The bytes that a request takes besides its content while it waits for its body: 6 to 9 KB, measured by
/// `tests/bound.rs`.
pub const WAITING: usize = 10 << 10;
/// For bodies up to this many bytes, memory is reserved once, when they are announced.
const SMALL: usize = FIRST_PART;
/// Memory is reserved in pieces of this many bytes.
pub(crate) const PIECE: usize = 1024;

impl BodyMemory {
    /// The bytes reserved by all requests.
    pub fn bytes(&self) -> usize {
        self.0.0.load(Ordering::Relaxed) * PIECE
    }

    /// An empty reservation for a request whose body is about to be read. `unproved` counts its address's unverified
    /// bytes.
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
    /// Reserves memory for a head of `head` bytes, and for the first part of a body of `announced` bytes.
    pub fn begin(&mut self, head: usize, announced: u64) -> Result<(), NoRoom> {
        let small = usize::try_from(announced).map_or(SMALL, |bytes| bytes.min(SMALL));
        self.begun = WAITING + head;
        self.take(self.begun + small)
    }

    /// Reserves memory for `bytes` more bytes that are allocated for the body.
    pub fn more(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.allocated += bytes;
        self.take(self.begun + self.allocated)
    }

    /// Reserves memory for a second copy of the body while its parts are put together; returns the number of pieces.
    /// The copy is short-lived, so it does not count against the address.
    pub fn twice(&mut self, bytes: usize) -> Result<usize, NoRoom> {
        let pieces = bytes.div_ceil(PIECE);
        if !self.room.take(pieces) {
            return Err(NoRoom::Everywhere);
        }
        self.taken += pieces;
        Ok(pieces)
    }

    /// Releases pieces.
    pub fn give(&mut self, pieces: usize) {
        self.taken -= pieces;
        self.room.0.fetch_sub(pieces, Ordering::Relaxed);
    }

    /// The bytes reserved by this request.
    pub fn bytes(&self) -> usize {
        self.taken * PIECE
    }

    /// Notes that the request is verified: its bytes no longer count against its address.
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
    /// Takes `pieces` more, or none.
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
    /// Adds `bytes`; returns whether the address is still within its limit.
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
