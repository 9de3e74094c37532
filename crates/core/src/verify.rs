//! Verify: checks a signature over a complete body.

use crate::credential::SigningKey;
use crate::payload::Payload;
use crate::signature::Signature;
use crate::stamp::Stamp;

/// Whether `claimed` is the signature of `body` under `stamp`, compared in constant time.
///
/// [`Payload`] verifies a body that arrives in pieces.
#[must_use]
pub fn verify(key: &SigningKey, stamp: &Stamp<'_>, body: &[u8], claimed: &Signature) -> bool {
    let mut payload = Payload::begin(key, stamp);
    payload.body(body);
    payload.verify(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SecretKey, sign};
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(&SecretKey::new(Zeroizing::new(text.to_owned())).unwrap())
    }

    fn flip(text: &str, bit: usize) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    }

    proptest! {
        #[test]
        fn a_signed_payload_verifies(secret in "[!-~]{1,200}", time: u64, nonce in "[ -~]{1,128}", body: Vec<u8>) {
            let key = key(&secret);
            let time = time.to_string();
            let stamp = Stamp::parse(time.as_bytes(), nonce.as_bytes()).unwrap();
            prop_assert!(verify(&key, &stamp, &body, &sign(&key, &stamp, &body)));
        }

        #[test]
        fn a_body_in_pieces_signs_as_the_whole(body: Vec<u8>, cuts: Vec<prop::sample::Index>) {
            let key = key("secret");
            let stamp = Stamp::parse(b"1", b"n").unwrap();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.sort_unstable();
            let mut payload = Payload::begin(&key, &stamp);
            let mut at = 0;
            for cut in cuts {
                payload.body(&body[at..cut]);
                at = cut;
            }
            payload.body(&body[at..]);
            prop_assert!(payload.verify(&sign(&key, &stamp, &body)));
        }

        #[test]
        fn a_payload_with_any_flipped_bit_is_refused(
            secret in "[!-~]{1,40}", nonce in "[ -~]{1,40}", body in prop::collection::vec(any::<u8>(), 1..200), bit: usize,
        ) {
            let (signing, timestamp) = (key(&secret), "1767225600000");
            let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
            let good = sign(&signing, &stamp, &body);

            let mut other = body.clone();
            let at = bit % (body.len() * 8);
            other[at / 8] ^= 1 << (at % 8);
            prop_assert!(!verify(&signing, &stamp, &other, &good), "body");

            // A flipped bit may leave the alphabet; then the stamp or the secret itself is refused.
            if let Ok(stamp) = Stamp::parse(&flip(timestamp, bit), nonce.as_bytes()) {
                prop_assert!(!verify(&signing, &stamp, &body, &good), "timestamp");
            }
            if let Ok(stamp) = Stamp::parse(timestamp.as_bytes(), &flip(&nonce, bit)) {
                prop_assert!(!verify(&signing, &stamp, &body, &good), "nonce");
            }
            if let Some(secret) = String::from_utf8(flip(&secret, bit)).ok().and_then(|s| SecretKey::new(Zeroizing::new(s)).ok()) {
                prop_assert!(!verify(&SigningKey::new(&secret), &stamp, &body, &good), "key");
            }
            let mut wrong = Signature(good.0);
            wrong.0[(bit / 8) % 64] ^= 1 << (bit % 8);
            prop_assert!(!verify(&signing, &stamp, &body, &wrong), "signature");
        }
    }
}
