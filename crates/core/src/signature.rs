//! A signature: 64 bytes, written as 128 hexadecimal digits.

use std::fmt;

/// Number of hexadecimal digits in a signature. "64-char-hex" on one page is an error (protocol.md 1.3, 7).
pub const SIGNATURE_DIGITS: usize = 128;

/// The 64 bytes of an HMAC-SHA512. Compared only inside [`Payload::verify`](crate::Payload::verify), in constant time.
///
/// A signature has `Display`, for sending, and no `Debug`, so that it does not slip into a log.
pub struct Signature(pub(crate) [u8; 64]);

/// The reason why a header value is not a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The length is not [`SIGNATURE_DIGITS`] bytes. 64 bytes indicate HMAC-SHA256, 88 bytes indicate base64.
    #[error("signature has {0} characters; HMAC-SHA512 in hexadecimal has {SIGNATURE_DIGITS}")]
    Length(usize),
    /// A byte is not a hexadecimal digit.
    #[error("signature has a character that is not a hexadecimal digit")]
    NotHexadecimal,
}

impl Signature {
    /// Reads 128 hexadecimal digits of either case (protocol.md 1.3).
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        let digits: &[u8; SIGNATURE_DIGITS] = text
            .try_into()
            .map_err(|_| SignatureError::Length(text.len()))?;
        let (mut bytes, mut any) = ([0; 64], 0);
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks().0) {
            let [high, low]: [u8; 2] = pair.map(value);
            any |= high | low;
            *byte = (high << 4) | low;
        }
        if any > 0xf {
            return Err(SignatureError::NotHexadecimal);
        }
        Ok(Self(bytes))
    }

    /// The 128 lower-case digits that go into the header.
    pub fn to_hex(&self) -> [u8; SIGNATURE_DIGITS] {
        let mut digits = [0; SIGNATURE_DIGITS];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(self.0) {
            *pair = [digit(byte >> 4), digit(byte & 0xf)];
        }
        digits
    }
}

// Every request reads one signature and writes another. Neither loop has a branch for a digit, so that many digits are
// read or written together.

/// The value of a hexadecimal digit; more than 15 for another byte.
fn value(digit: u8) -> u8 {
    let number = digit.wrapping_sub(b'0');
    let letter = (digit | 0x20).wrapping_sub(b'a');
    if number < 10 {
        number
    } else if letter < 6 {
        letter + 10
    } else {
        u8::MAX
    }
}

/// The lower-case digit of a value below 16.
fn digit(value: u8) -> u8 {
    value + if value < 10 { b'0' } else { b'a' - 10 }
}

/// Writes the 128 lower-case digits, for headers and the audit journal.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex()
            .iter()
            .try_for_each(|digit| fmt::Write::write_char(f, char::from(*digit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use static_assertions::assert_not_impl_any;

    assert_not_impl_any!(Signature: fmt::Debug, serde::Serialize, PartialEq, Clone);

    #[test]
    fn a_signature_of_any_length_but_128_is_refused() {
        for length in [0, 64, 88, 127, 129, 256] {
            assert_eq!(
                Signature::parse(&vec![b'a'; length]).err(),
                Some(SignatureError::Length(length))
            );
        }
    }

    #[test]
    fn a_signature_digit_is_valid_exactly_if_the_hex_crate_accepts_it() {
        for at in 0..SIGNATURE_DIGITS {
            for byte in 0..=u8::MAX {
                let mut text = b"0123456789abcdefABCDEF9876543210".repeat(4);
                text[at] = byte;
                let parsed = Signature::parse(&text)
                    .ok()
                    .map(|signature| signature.0.to_vec());
                assert_eq!(parsed, hex::decode(&text).ok(), "{byte} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_signature_is_read_in_either_case_and_written_in_lower_case(bytes in prop::array::uniform32(any::<u8>())) {
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&bytes);
            let lower = Signature(whole).to_string();
            prop_assert_eq!(&lower, &lower.to_lowercase());
            let upper = Signature::parse(lower.to_uppercase().as_bytes()).ok().unwrap();
            prop_assert_eq!(upper.to_string(), lower);
        }

        #[test]
        fn parsing_a_signature_never_panics(text: Vec<u8>) {
            let _ = Signature::parse(&text);
        }

        #[test]
        fn the_same_texts_are_signatures_as_for_hex(
            digits in "[0-9a-fA-F]{128}", at in 0..128_usize, byte: u8
        ) {
            let mut text = digits.into_bytes();
            text[at] = byte;
            let parsed = Signature::parse(&text).ok().map(|signature| signature.0.to_vec());
            prop_assert_eq!(parsed, hex::decode(&text).ok());
        }
    }
}
