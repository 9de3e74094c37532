//! Frames: how many an HTTP/2 peer may send that carry nothing.
//!
//! Streams, windows and heads are limited by the library; what it answers one by one without end, pings, settings,
//! resets and the like, is counted here. A connection has an allowance of them, which refills with time and with every
//! request it makes and answer it gets, so that clients that work never meet it.

use std::time::Instant;

/// What a connection may have left at most.
const ALLOWANCE: u32 = 2_000;
/// How much comes back each second.
const REFILL: u64 = 100;
/// What a head brings: for a cancellation, and window updates for its answer.
const FOR_A_HEAD: u32 = 4;
/// An answer of so many bytes brings one more.
const FOR_BYTES: usize = 1024;
/// DATA of fewer bytes that ends no stream is tiny: in the library's queue it takes some 250 bytes, and keeps what was read
/// with it.
const TINY: usize = 64;
/// What such a frame costs, beyond the one that a head brings: a hundred at once, and five each second.
const FOR_TINY: u32 = 20;
/// How many of those that heads brought may be left, for as many streams as may be open.
const TINY_LEFT: u32 = 100;
/// What stands before each frame.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The frames of one connection, from its preface on.
pub struct FrameCounter {
    head: [u8; HEAD],
    /// How much of the next head is here.
    have: usize,
    /// How much of a payload is still to come.
    payload: usize,
    left: u32,
    /// How many tiny frames are free.
    tiny: u32,
    refilled: Instant,
}

/// More frames that carry nothing than anybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a flood of HTTP/2 frames that carry nothing")]
pub struct FrameFlood;

impl FrameCounter {
    /// Of a connection that has just begun.
    pub fn begin() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            payload: 0,
            left: ALLOWANCE,
            tiny: 0,
            refilled: Instant::now(),
        }
    }

    /// Bytes came in, in whatever pieces.
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<(), FrameFlood> {
        while !bytes.is_empty() {
            let skip = self.payload.min(bytes.len());
            self.payload -= skip;
            bytes = &bytes[skip..];
            let take = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have == HEAD {
                self.have = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    /// Bytes of answers went out.
    pub fn sent(&mut self, bytes: usize) {
        self.earn(u32::try_from(bytes / FOR_BYTES).unwrap_or(ALLOWANCE));
    }

    fn frame(&mut self) -> Result<(), FrameFlood> {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        let cost = match kind {
            HEADERS => {
                self.earn(FOR_A_HEAD);
                self.tiny = (self.tiny + 1).min(TINY_LEFT);
                return Ok(());
            }
            DATA if self.payload >= TINY || flags & END_STREAM != 0 => return Ok(()),
            DATA if self.payload > 0 && self.tiny > 0 => {
                self.tiny -= 1;
                return Ok(());
            }
            DATA if self.payload > 0 => FOR_TINY,
            // Each costs us work on a stream, or a head that goes on.
            DATA | SETTINGS | CONTINUATION => 5,
            // More than the head before it brought.
            RST_STREAM => FOR_A_HEAD + 2,
            _ => 1,
        };
        if self.left < cost {
            // Time is only read when it matters.
            self.refill(Instant::now());
        }
        self.left = self.left.checked_sub(cost).ok_or(FrameFlood)?;
        Ok(())
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let more = u32::try_from(passed.saturating_mul(REFILL) / 1_000).unwrap_or(ALLOWANCE);
        if more > 0 {
            self.refilled = now;
            self.earn(more);
        }
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(ALLOWANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0xFF; payload]].concat()
    }

    /// How many of these frames pass before it is a flood.
    fn passing(frames: &[Vec<u8>]) -> Option<usize> {
        let mut connection = FrameCounter::begin();
        (0..100_000).find(|_| {
            let received = frames
                .iter()
                .try_for_each(|frame| connection.received(frame));
            received.is_err()
        })
    }

    #[test]
    fn frames_that_carry_nothing_are_a_flood_at_some_point() {
        for (name, frames, most) in [
            ("pings", vec![frame(PING, 0, 8)], 10_000),
            ("settings", vec![frame(SETTINGS, 0, 6)], 2_000),
            ("settings acknowledged", vec![frame(SETTINGS, 1, 0)], 2_000),
            ("priorities", vec![frame(2, 0, 5)], 10_000),
            ("empty data", vec![frame(DATA, 0, 0)], 2_000),
            ("data of a byte", vec![frame(DATA, 0, 1)], 120),
            ("data of some bytes", vec![frame(DATA, 0, TINY - 1)], 120),
            ("padding", vec![frame(WINDOW_UPDATE, 0, 4)], 10_000),
            ("continuations", vec![frame(CONTINUATION, 0, 0)], 2_000),
            ("unknown", vec![frame(0xFF, 0xFF, 100)], 10_000),
            (
                "requests reset",
                vec![frame(HEADERS, 5, 40), frame(RST_STREAM, 0, 4)],
                1_050,
            ),
        ] {
            let passed = passing(&frames).expect(name);
            assert!(passed <= most, "{name}: {passed}");
        }
    }

    #[test]
    fn a_client_that_works_never_meets_it() {
        let call = [
            frame(HEADERS, 4, 120),
            frame(DATA, 0, 300),
            frame(DATA, END_STREAM, 0),
            frame(WINDOW_UPDATE, 0, 4),
            frame(WINDOW_UPDATE, 0, 4),
            frame(PING, 0, 8),
        ];
        assert_eq!(passing(&call), None);
        let short = [
            frame(HEADERS, 4, 120),
            frame(DATA, 0, 2),
            frame(DATA, END_STREAM, 0),
        ];
        assert_eq!(passing(&short), None);
        assert_eq!(passing(&[frame(DATA, 0, TINY)]), None);
        // A long answer, acknowledged on stream and connection for every frame of it.
        let mut connection = FrameCounter::begin();
        for _ in 0..100_000 {
            connection.sent(16 * 1024);
            for _ in 0..2 {
                let update = frame(WINDOW_UPDATE, 0, 4);
                assert_eq!(connection.received(&update), Ok(()));
            }
        }
    }

    #[test]
    fn the_allowance_comes_back_with_time() {
        let mut connection = FrameCounter::begin();
        let ping = frame(PING, 0, 8);
        for _ in 0..ALLOWANCE {
            assert_eq!(connection.received(&ping), Ok(()));
        }
        connection.refill(connection.refilled + Duration::from_secs(1));
        for _ in 0..REFILL {
            assert_eq!(connection.received(&ping), Ok(()));
        }
        assert_eq!(connection.received(&ping), Err(FrameFlood));
    }

    proptest! {
        #[test]
        fn frames_are_the_same_in_any_pieces(
            kinds in proptest::collection::vec((0_u8..12, 0_u8..2, 0_usize..40), 1..60),
            cut in 1_usize..50,
        ) {
            let wire: Vec<u8> = kinds.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, *payload)).collect();
            let (mut whole, mut cut_up) = (FrameCounter::begin(), FrameCounter::begin());
            prop_assert!(whole.received(&wire).is_ok());
            for piece in wire.chunks(cut) {
                prop_assert!(cut_up.received(piece).is_ok());
            }
            prop_assert_eq!((whole.left, whole.payload, whole.have), (cut_up.left, cut_up.payload, cut_up.have));
        }
    }
}
