//! HTTP/2 frames: the limit on frames without content that a peer may send.
//!
//! The library limits streams, windows and heads. It answers pings, settings, resets and the like without a limit, so
//! they are counted here. A connection has an allowance of such frames. The allowance refills with time, with each
//! request and with the bytes of answers, so that working clients never exhaust it.

use std::time::Instant;

/// The most frames that a connection's allowance holds.
const ALLOWANCE: u32 = 2_000;
/// How many frames the allowance regains per second.
const REFILL: u64 = 100;
/// How many frames a head adds: for a cancellation, and for window updates for its answer.
const FOR_A_HEAD: u32 = 4;
/// How many bytes of an answer add one frame.
const FOR_BYTES: usize = 1024;
/// A DATA frame of fewer bytes that ends no stream is tiny. In the library's queue it takes some 250 bytes, and keeps
/// the buffer that it was read into.
const TINY: usize = 64;
/// The cost of a tiny frame beyond the free one that each head adds. So the allowance covers a hundred tiny frames at
/// once, and five per second.
const FOR_TINY: u32 = 20;
/// The most free tiny frames that a connection may keep: as many as streams may be open.
const TINY_LEFT: u32 = 100;
/// The length in bytes of a frame's head.
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
    /// How many bytes of the next head have arrived.
    have: usize,
    /// How many bytes of the current payload are still to come.
    payload: usize,
    left: u32,
    /// How many tiny frames are free of cost.
    tiny: u32,
    refilled: Instant,
}

/// The peer sent more frames without content than its allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a flood of HTTP/2 frames that carry nothing")]
pub struct FrameFlood;

impl FrameCounter {
    /// The counter of a connection that has just begun.
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

    /// Counts the frames in received bytes, which may be split anywhere.
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

    /// Adds to the allowance for bytes that were sent.
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
            // Each such frame costs the proxy work on a stream, or continues a head.
            DATA | SETTINGS | CONTINUATION => 5,
            // More than the head before it added.
            RST_STREAM => FOR_A_HEAD + 2,
            _ => 1,
        };
        if self.left < cost {
            // The clock is read only when the allowance is too low.
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

    /// How many rounds of these frames pass before they are a flood.
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
    fn a_working_client_never_meets_the_flood_limit() {
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
        // A long answer, with window updates for stream and connection after every frame.
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
