//! Stamp: timestamp and nonce, which distinguish each signed request from every other (protocol.md 1.4, 1.5).

use std::fmt;

use crate::explain;

/// Maximum length of a nonce, in bytes. GatePay recommends 32; clients in the field send 9 to 32 (protocol.md 1.5).
pub const LONGEST_NONCE: usize = 128;

/// A timestamp and a nonce as the headers state them, checked for form only.
///
/// The texts are kept, not the numbers: `0123` and `123` are the same time, but different signed strings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp<'a> {
    /// Timestamp and nonce are printable ASCII. They are kept as bytes, since the MAC takes bytes. The text is seldom
    /// needed.
    timestamp: &'a [u8],
    nonce: &'a [u8],
    millis: u64,
}

/// The reason why two header values are not a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The timestamp is not 1 to 20 decimal digits.
    #[error("timestamp must be milliseconds since 1970 in decimal digits")]
    TimestampNotDigits,
    /// The timestamp is in seconds with a fraction, as from Python's `time.time()`.
    #[error(
        "timestamp must be milliseconds since 1970 in decimal digits; this looks like seconds with a fraction"
    )]
    TimestampInSeconds,
    /// The nonce is empty.
    #[error("nonce is empty")]
    NonceEmpty,
    /// The nonce has more than [`LONGEST_NONCE`] characters.
    #[error("nonce has {0} characters; at most {LONGEST_NONCE} are accepted")]
    NonceTooLong(usize),
    /// The nonce has a byte outside printable ASCII, which could move the border between nonce and body.
    #[error("nonce has a byte outside printable ASCII")]
    NonceNotPrintable,
}

impl<'a> Stamp<'a> {
    /// Checks the form of both values. A number beyond 64 bits counts as the farthest future, outside every window.
    pub fn parse(timestamp: &'a [u8], nonce: &'a [u8]) -> Result<Self, StampError> {
        let millis = number(timestamp).ok_or_else(|| {
            if is_seconds_with_fraction(timestamp) {
                StampError::TimestampInSeconds
            } else {
                StampError::TimestampNotDigits
            }
        })?;
        if nonce.is_empty() {
            return Err(StampError::NonceEmpty);
        }
        if nonce.len() > LONGEST_NONCE {
            return Err(StampError::NonceTooLong(nonce.len()));
        }
        // One check of all bytes without a branch is several times cheaper than a branch for each byte.
        let printable = |all, byte: &u8| all & matches!(byte, 0x20..=0x7e);
        if !nonce.iter().fold(true, printable) {
            return Err(StampError::NonceNotPrintable);
        }
        Ok(Self {
            timestamp,
            nonce,
            millis,
        })
    }

    /// The timestamp's text, as signed.
    ///
    /// # Panics
    /// Never: the checked form is ASCII.
    pub fn timestamp(&self) -> &'a str {
        str::from_utf8(self.timestamp).expect("digits are ASCII")
    }

    /// The nonce's text, as signed.
    ///
    /// # Panics
    /// Never: the checked form is ASCII.
    pub fn nonce(&self) -> &'a str {
        str::from_utf8(self.nonce).expect("what is printable is ASCII")
    }

    /// The bytes of the timestamp and of the nonce, as signed.
    pub fn bytes(&self) -> [&'a [u8]; 2] {
        [self.timestamp, self.nonce]
    }

    /// The timestamp in milliseconds since 1970.
    pub fn millis(&self) -> u64 {
        self.millis
    }
}

/// The number of 1 to 20 digits, or the greatest `u64` if the number is greater.
fn number(digits: &[u8]) -> Option<u64> {
    if !(1..=20).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit.into()))
    })
}

/// Whether a text is ten digits, a dot or a comma, and digits: until 2286 this form is a time in seconds.
fn is_seconds_with_fraction(text: &[u8]) -> bool {
    let (seconds, rest) = text.split_at(text.len().min(10));
    seconds.len() == 10
        && seconds.iter().all(u8::is_ascii_digit)
        && matches!(rest, [b'.' | b',', fraction @ ..] if fraction.iter().all(u8::is_ascii_digit))
}

/// A stamp of the proxy's own, made at the moment of sending, for a single attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FreshStamp {
    timestamp: [u8; 20],
    digits: u8,
    nonce: [u8; 32],
    millis: u64,
}

impl FreshStamp {
    /// Builds a stamp of the time, and 32 letters and digits (protocol.md 1.5) that carry 160 of the given random bits.
    ///
    /// # Panics
    /// Never: a `u64` has at most 20 digits.
    pub fn new(millis: u64, random: [u8; 32]) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(millis);
        let mut timestamp = [0; 20];
        timestamp[..text.len()].copy_from_slice(text.as_bytes());
        let digits = u8::try_from(text.len()).expect("at most 20 digits");
        // Ten digits and 22 letters make 32 characters, so that five bits of a byte choose a character without bias.
        let mut nonce = random;
        for byte in &mut nonce {
            *byte = match *byte & 31 {
                number @ 0..10 => b'0' + number,
                number => b'A' - 10 + number,
            };
        }
        Self {
            timestamp,
            digits,
            nonce,
            millis,
        }
    }

    /// This stamp as a borrowed [`Stamp`].
    pub fn as_stamp(&self) -> Stamp<'_> {
        Stamp {
            timestamp: &self.timestamp[..usize::from(self.digits)],
            nonce: &self.nonce,
            millis: self.millis,
        }
    }
}

/// The accepted distance of a stamp from the proxy's clock, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampWindow {
    /// Maximum age of a stamp, in milliseconds.
    pub past_ms: u64,
    /// Maximum lead of a stamp over the proxy's clock, in milliseconds.
    pub future_ms: u64,
}

/// The distance between a stamp outside the window and the proxy's clock. The sign shows the direction, since a clock
/// that runs ahead fails as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    /// The stamp minus the proxy's clock, in milliseconds.
    pub millis: i128,
    /// The stamp's timestamp, in milliseconds since 1970 if the sender used that unit.
    pub stamp: u64,
    /// The window that the stamp was checked against.
    pub window: StampWindow,
}

impl StampWindow {
    /// GatePay's window: ten seconds either way, the stricter of two documented figures (protocol.md 1.4).
    pub const GATEPAY: Self = Self {
        past_ms: 10_000,
        future_ms: 10_000,
    };

    /// Whether a stamp is fresh at `now` (milliseconds since 1970). Both ends are inside.
    pub fn check(self, stamp_millis: u64, now: u64) -> Result<(), ClockSkew> {
        let fresh = if stamp_millis <= now {
            now - stamp_millis <= self.past_ms
        } else {
            stamp_millis - now <= self.future_ms
        };
        if fresh {
            Ok(())
        } else {
            Err(ClockSkew {
                millis: i128::from(stamp_millis) - i128::from(now),
                stamp: stamp_millis,
                window: self,
            })
        }
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StampWindow { past_ms, future_ms } = self.window;
        let distance = self.millis.unsigned_abs();
        let (direction, most) = if self.millis < 0 {
            ("behind", past_ms)
        } else {
            ("ahead of", future_ms)
        };
        write!(
            f,
            "timestamp is {distance} ms {direction} this clock; at most {most} ms are accepted"
        )?;
        match explain::unit(itoa::Buffer::new().format(self.stamp)) {
            Some(unit) => write!(f, "; this looks like {unit}, send milliseconds since 1970"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stamp_keeps_the_text_that_was_signed() {
        let stamp = Stamp::parse(b"0001767225600000", b"a1B2c3D4e").unwrap();
        assert_eq!(
            (stamp.timestamp(), stamp.millis()),
            ("0001767225600000", 1_767_225_600_000)
        );
    }

    #[test]
    fn malformed_stamps_are_refused_by_the_name_of_their_fault() {
        let long = [b'n'; LONGEST_NONCE + 1];
        for (timestamp, nonce, want) in [
            (&b""[..], &b"n"[..], StampError::TimestampNotDigits),
            (b"+1767225600000", b"n", StampError::TimestampNotDigits),
            (b"1767225600000 ", b"n", StampError::TimestampNotDigits),
            (b"1767225600000.0", b"n", StampError::TimestampNotDigits),
            (b"1767225600.123", b"n", StampError::TimestampInSeconds),
            (b"1767225600.", b"n", StampError::TimestampInSeconds),
            (b"1767225600,5", b"n", StampError::TimestampInSeconds),
            (b"1767225600.1e3", b"n", StampError::TimestampNotDigits),
            (b"1767225600 ", b"n", StampError::TimestampNotDigits),
            (b"17672256", b"", StampError::NonceEmpty),
            (
                b"123456789012345678901",
                b"n",
                StampError::TimestampNotDigits,
            ),
            (b"1", b"", StampError::NonceEmpty),
            (b"1", &long, StampError::NonceTooLong(129)),
            (b"1", b"a\nb", StampError::NonceNotPrintable),
            (b"1", b"a\tb", StampError::NonceNotPrintable),
            (b"1", "é".as_bytes(), StampError::NonceNotPrintable),
        ] {
            assert_eq!(Stamp::parse(timestamp, nonce), Err(want));
        }
        assert_eq!(
            Stamp::parse(b"99999999999999999999", b"n").map(|s| s.millis()),
            Ok(u64::MAX)
        );
    }

    #[test]
    fn both_ends_of_the_stamp_window_are_inside() {
        let window = StampWindow {
            past_ms: 300_000,
            future_ms: 10_000,
        };
        let now = 1_767_225_600_000;
        assert_eq!(window.check(now - 300_000, now), Ok(()));
        assert_eq!(window.check(now + 10_000, now), Ok(()));
        assert_eq!(
            window.check(now - 300_001, now).unwrap_err().millis,
            -300_001
        );
        assert_eq!(window.check(now + 10_001, now).unwrap_err().millis, 10_001);
        assert_eq!(
            window.check(now / 1000, now).unwrap_err().to_string(),
            "timestamp is 1765458374400 ms behind this clock; at most 300000 ms are accepted; this looks like seconds, \
             send milliseconds since 1970"
        );
    }

    proptest! {
        #[test]
        fn a_fresh_stamp_is_a_stamp_gatepay_accepts(millis: u64, random: [u8; 32]) {
            let fresh = FreshStamp::new(millis, random);
            let stamp = fresh.as_stamp();
            prop_assert_eq!(stamp.timestamp(), millis.to_string());
            prop_assert_eq!(stamp.nonce().len(), 32);
            prop_assert!(stamp.nonce().bytes().all(|b| b.is_ascii_alphanumeric()));
            prop_assert_eq!(Stamp::parse(stamp.timestamp().as_bytes(), stamp.nonce().as_bytes()), Ok(stamp));
        }

        #[test]
        fn parsing_a_stamp_never_panics(timestamp: Vec<u8>, nonce: Vec<u8>) {
            let _ = Stamp::parse(&timestamp, &nonce);
        }
    }
}
