//! Seats that can be taken and freed: a few words, as a limiter is.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

/// The limit of requests in flight at once: a request in flight holds a seat.
#[derive(Debug)]
pub struct SeatLimit {
    taken: AtomicU32,
    /// The number of seats, and the bit [`CLOSED`]: a party's limits have no space for one more word in the cache line
    /// that every request reads.
    all: AtomicU32,
}

/// The bit that closes the seats for new requests. No configuration has as many seats.
const CLOSED: u32 = 1 << 31;

impl SeatLimit {
    /// Seats that are all free.
    pub fn new(all: NonZeroU32) -> Self {
        Self {
            taken: AtomicU32::new(0),
            all: AtomicU32::new(all.get() & !CLOSED),
        }
    }

    /// Closes the seats for new requests, or opens them again. Taken seats stay taken, and [`take`](Self::take) still
    /// gives seats: its caller has to check [`is_closed`](Self::is_closed) first.
    pub fn close(&self, closed: bool) {
        if closed {
            self.all.fetch_or(CLOSED, Ordering::AcqRel);
        } else {
            self.all.fetch_and(!CLOSED, Ordering::AcqRel);
        }
    }

    /// Whether the seats are closed for new requests.
    pub fn is_closed(&self) -> bool {
        self.all.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Takes a seat if one is free. The caller must [`leave`](Self::leave) it.
    #[must_use]
    pub fn take(&self) -> bool {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
                (taken < self.all()).then_some(taken + 1)
            })
            .is_ok()
    }

    /// Frees a seat that was taken.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    /// The number of seats.
    pub fn all(&self) -> u32 {
        self.all.load(Ordering::Relaxed) & !CLOSED
    }

    /// The number of taken seats.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Changes the number of seats. Taken seats stay taken: if there are more of them than seats, none is given until
    /// enough are free again.
    pub fn adjust(&self, all: NonZeroU32) {
        // A closed limit stays closed, in either order of the two calls.
        let _ = self
            .all
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |before| {
                Some(before & CLOSED | all.get() & !CLOSED)
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_that_are_left_are_free() {
        let seats = SeatLimit::new(NonZeroU32::new(2).unwrap());
        assert_eq!([(); 3].map(|()| seats.take()), [true, true, false]);
        seats.leave();
        assert!(seats.take());
    }

    #[test]
    fn a_request_keeps_its_seat_when_the_seats_become_fewer() {
        let seats = SeatLimit::new(NonZeroU32::new(3).unwrap());
        assert_eq!([(); 3].map(|()| seats.take()), [true; 3]);
        seats.adjust(NonZeroU32::MIN);
        for _ in 0..3 {
            assert!(!seats.take());
            seats.leave();
        }
        assert_eq!(seats.taken(), 0);
        assert_eq!([(); 2].map(|()| seats.take()), [true, false]);
    }
}
