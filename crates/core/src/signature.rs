//! A signature: 64 bytes, written as 128 hexadecimal digits.

use std::fmt;

/// How many hexadecimal digits a signature has. "64-char-hex" on one page is an error (protocol.md 1.3, 7).
pub const SIGNATURE_DIGITS: usize = 128;

/// The 64 bytes of an HMAC-SHA512. Compared only inside [`Payload::verify`](crate::Payload::verify), in constant time.
///
/// It may be written down where it is sent; it has no `Debug`, so that it does not slip into a log.
pub struct Signature(pub(crate) [u8; 64]);

/// Why a header value cannot be a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not [`SIGNATURE_DIGITS`] bytes. 64 are what HMAC-SHA256 gives, 88 are base64.
    #[error("signature has {0} characters; HMAC-SHA512 in hexadecimal has {SIGNATURE_DIGITS}")]
    Length(usize),
    /// A byte that is no hexadecimal digit.
    #[error("signature has a character that is not a hexadecimal digit")]
    NotHexadecimal,
}

impl Signature {
    /// Reads 128 hexadecimal digits of either case (protocol.md 1.3).
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        if text.len() != SIGNATURE_DIGITS {
            return Err(SignatureError::Length(text.len()));
        }
        let (mut bytes, mut odd) = ([0; 64], 0);
        for (byte, [high, low]) in bytes.iter_mut().zip(text.as_chunks().0) {
            let (high, low) = (DIGITS[usize::from(*high)], DIGITS[usize::from(*low)]);
            *byte = (high << 4) | low;
            odd |= high | low;
        }
        // Every request pays for this, so that the digits are looked up, and the verdict on all of them is one.
        if odd & NO_DIGIT != 0 {
            return Err(SignatureError::NotHexadecimal);
        }
        Ok(Self(bytes))
    }

    /// The 128 lower-case digits that go into the header.
    ///
    /// # Panics
    /// Never: 64 bytes make 128 digits.
    pub fn to_hex(&self) -> [u8; SIGNATURE_DIGITS] {
        let mut digits = [0; SIGNATURE_DIGITS];
        hex::encode_to_slice(self.0, &mut digits).expect("64 bytes make 128 digits");
        digits
    }
}

/// What each byte is worth as a hexadecimal digit, or [`NO_DIGIT`].
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut worth = 0;
    while worth < 16 {
        let digit = b"0123456789abcdef"[worth as usize];
        digits[digit as usize] = worth;
        digits[digit.to_ascii_uppercase() as usize] = worth;
        worth += 1;
    }
    digits
};
/// A bit that no digit's worth has.
const NO_DIGIT: u8 = 0x80;

/// The 128 lower-case digits, for headers and the audit journal.
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
    fn any_length_but_128_is_refused() {
        for length in [0, 64, 88, 127, 129, 256] {
            assert_eq!(
                Signature::parse(&vec![b'a'; length]).err(),
                Some(SignatureError::Length(length))
            );
        }
    }

    proptest! {
        #[test]
        fn either_case_is_read_and_lower_case_written(bytes in prop::array::uniform32(any::<u8>())) {
            let mut whole = [0; 64];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&bytes);
            let lower = Signature(whole).to_string();
            prop_assert_eq!(&lower, &lower.to_lowercase());
            let upper = Signature::parse(lower.to_uppercase().as_bytes()).ok().unwrap();
            prop_assert_eq!(upper.to_string(), lower);
        }

        #[test]
        fn parsing_never_panics(text: Vec<u8>) {
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
