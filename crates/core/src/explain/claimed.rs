//! Claimed signature: the possible readings of a header's text, for example as base64 or as truncated hexadecimal.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq as _;

use super::mac::HashFunction;
use super::{MistakeCause, SignaturePart};
use crate::signature::SIGNATURE_DIGITS;

/// One reading of a claimed signature.
pub(super) struct ClaimedReading {
    pub(super) hash: HashFunction,
    /// The mistakes of the sender if this reading is the right one.
    pub(super) causes: Vec<MistakeCause>,
    /// The first digits of the signature, in lower case.
    digits: String,
}

/// Minimum number of digits: fewer digits could match by chance.
const FEWEST_DIGITS: usize = 16;
/// Maximum number of lost leading zeros: a signature does not begin with more zeros by chance.
const MOST_ZEROS: usize = 16;

/// Every reading of the text, the protocol's notation first.
pub(super) fn readings(text: &str) -> Vec<ClaimedReading> {
    let mut readings = Vec::new();
    if (FEWEST_DIGITS..=SIGNATURE_DIGITS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_hexdigit())
    {
        hexadecimal(&text.to_ascii_lowercase(), &mut readings);
    }
    if let Some(bytes) = unbase64(text) {
        let mut read = |digits: String, how| readings.extend(whole(digits, vec![written(how)]));
        if let Ok(digits) = str::from_utf8(&bytes).map(str::to_ascii_lowercase)
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
        {
            read(digits, "the hexadecimal digits once more in base64");
        }
        read(hex::encode(&bytes), "in base64");
    }
    readings
}

fn hexadecimal(digits: &str, readings: &mut Vec<ClaimedReading>) {
    readings.extend(whole(digits.to_owned(), Vec::new()));
    let missing = SIGNATURE_DIGITS - digits.len();
    if missing == 0 {
        return;
    }
    let cut = written(format!(
        "only the first {} of {SIGNATURE_DIGITS} digits",
        digits.len()
    ));
    readings.push(ClaimedReading {
        hash: HashFunction::Sha512,
        causes: vec![cut],
        digits: digits.to_owned(),
    });
    if missing <= MOST_ZEROS {
        let zeros = written("without its leading zeros, as a number");
        readings.extend(whole("0".repeat(missing) + digits, vec![zeros]));
    }
}

/// The reading of a complete signature: its length shows the hash function.
fn whole(digits: String, mut causes: Vec<MistakeCause>) -> Option<ClaimedReading> {
    let hash = match digits.len() {
        SIGNATURE_DIGITS => HashFunction::Sha512,
        64 => {
            causes.insert(
                0,
                MistakeCause {
                    part: SignaturePart::Mac,
                    what: "SHA-256 instead of SHA-512".into(),
                },
            );
            HashFunction::Sha256
        }
        _ => return None,
    };
    Some(ClaimedReading {
        hash,
        causes,
        digits,
    })
}

fn written(how: impl Into<Cow<'static, str>>) -> MistakeCause {
    MistakeCause {
        part: SignaturePart::Writing,
        what: how.into(),
    }
}

impl ClaimedReading {
    /// Whether the claimed digits agree with the computed MAC, compared in constant time.
    pub(super) fn is(&self, computed: &[u8]) -> bool {
        let computed = hex::encode(computed);
        let first = &computed.as_bytes()[..self.digits.len().min(computed.len())];
        first.ct_eq(self.digits.as_bytes()).into()
    }
}

/// Decodes base64 of either alphabet, with or without padding.
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    let alphabet = if text.contains(['-', '_']) {
        alphabet::URL_SAFE
    } else {
        alphabet::STANDARD
    };
    GeneralPurpose::new(&alphabet, lenient)
        .decode(text.trim_end_matches('='))
        .ok()
}
