//! Payload: the signed bytes. Only this module defines them.

use hmac::Mac as _;
use hmac::{Hmac, digest::FixedOutput as _};
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::credential::SigningKey;
use crate::signature::Signature;
use crate::stamp::Stamp;

/// A MAC over `timestamp LF nonce LF body LF` (protocol.md 1.3) that takes the body piece by piece on arrival.
///
/// ```
/// # use gatepay_core::{SecretKey, SigningKey, Stamp, Payload};
/// # let key = SigningKey::new(&SecretKey::new("123".to_owned().into()).unwrap());
/// let stamp = Stamp::parse(b"1700073707111", b"456").unwrap();
/// let mut payload = Payload::begin(&key, &stamp);
/// payload.body(b"{the_answer:");
/// payload.body(b" 42}");
/// assert!(payload.sign().to_string().starts_with("1b03f547af065490"));
/// ```
pub struct Payload(Hmac<Sha512>);

impl Payload {
    /// Starts with the stamp; the body follows.
    pub fn begin(key: &SigningKey, stamp: &Stamp<'_>) -> Self {
        let mut mac = key.mac();
        head(stamp, |bytes| mac.update(bytes));
        Self(mac)
    }

    /// Adds the next bytes of the body, as received after transfer decoding.
    pub fn body(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the body and returns the signature.
    pub fn sign(mut self) -> Signature {
        self.0.update(b"\n");
        Signature(self.0.finalize_fixed().into())
    }

    /// Ends the body and compares the signatures in constant time.
    pub fn verify(self, claimed: &Signature) -> bool {
        words(&self.sign()).ct_eq(&words(claimed)).into()
    }
}

/// The signature as words, since eight bytes are compared at once: a comparison byte by byte takes a tenth of the
/// hashing time.
fn words(signature: &Signature) -> [u64; 8] {
    let (words, _) = signature.0.as_chunks();
    std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
}

/// SHA-256 of the whole signed string. A caller that compares this digest with its own learns which half of its code is
/// wrong.
pub fn digest(stamp: &Stamp<'_>, body: &[u8]) -> [u8; 32] {
    let mut digest = PayloadDigest::begin(stamp);
    digest.body(body);
    digest.end()
}

/// The same digest as [`digest`], from a body in pieces.
pub struct PayloadDigest(Sha256);

impl PayloadDigest {
    /// Starts with the stamp; the body follows.
    pub fn begin(stamp: &Stamp<'_>) -> Self {
        let mut hash = Sha256::new();
        head(stamp, |bytes| hash.update(bytes));
        Self(hash)
    }

    /// Adds the next bytes of the body.
    pub fn body(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the body and returns the digest.
    pub fn end(mut self) -> [u8; 32] {
        self.0.update(b"\n");
        self.0.finalize().into()
    }
}

fn head(stamp: &Stamp<'_>, mut feed: impl FnMut(&[u8])) {
    for bytes in stamp.bytes() {
        feed(bytes);
        feed(b"\n");
    }
}
