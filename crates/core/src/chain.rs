//! Chain: links the audit journal's records. Each record carries a MAC over itself and the previous link.
//!
//! Without the key, no altered, inserted, removed or reordered record keeps the chain valid. The chain alone does not
//! show that its end was cut off; for that its head is recorded elsewhere.

use std::fmt;

use hmac::{Mac as _, digest::FixedOutput as _};
use subtle::ConstantTimeEq;

use crate::credential::SigningKey;

/// Domain separation: distinguishes these MACs from any other use of the same key.
const DOMAIN: &[u8] = b"gatepay-proxy audit journal 1\n";

/// The link of a record: HMAC-SHA512 over the domain, the previous link and the record's bytes, cut to 256 bits.
#[derive(Clone, Copy)]
pub struct ChainLink([u8; 32]);

impl ChainLink {
    /// The predecessor of the first link of a chain.
    pub const ORIGIN: Self = Self([0; 32]);

    /// The link of `record`, the record after the record with this link.
    ///
    /// # Panics
    /// Never: a MAC of 64 bytes has 32 first bytes.
    #[must_use]
    pub fn next(&self, key: &SigningKey, record: &[u8]) -> Self {
        let mut mac = key.mac();
        mac.update(DOMAIN);
        mac.update(&self.0);
        mac.update(record);
        let whole: [u8; 64] = mac.finalize_fixed().into();
        Self(*whole.first_chunk().expect("64 bytes have 32"))
    }

    /// Reads 64 hexadecimal digits in lower case. A digit in upper case is refused: it shows an altered record.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes)).filter(|link| link.to_string() == text)
    }
}

/// Compares in constant time, since a caller that feeds records to a verifier must not learn links byte by byte.
impl PartialEq for ChainLink {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for ChainLink {}

impl fmt::Display for ChainLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(&SecretKey::new(text.to_owned().into()).unwrap())
    }

    #[test]
    fn a_link_depends_on_the_key_the_record_and_all_before_it() {
        let one = ChainLink::ORIGIN.next(&key("k"), b"one");
        assert_ne!(one, ChainLink::ORIGIN.next(&key("j"), b"one"));
        assert_ne!(one, ChainLink::ORIGIN.next(&key("k"), b"two"));
        assert_ne!(
            one.next(&key("k"), b"two"),
            ChainLink::ORIGIN.next(&key("k"), b"two")
        );
    }

    /// The expected link is the result of `openssl dgst -sha512 -hmac k` over the domain, 32 zero bytes and `one`.
    #[test]
    fn a_chain_link_is_the_hmac_of_the_record_and_the_previous_link() {
        assert_eq!(
            ChainLink::ORIGIN.next(&key("k"), b"one").to_string(),
            "7aea728e436841a937e9ffa9aa61b3e68af442ec0aea80d5b9483c14e57ef103"
        );
    }

    #[test]
    fn a_chain_link_parses_from_its_own_text() {
        let link = ChainLink::ORIGIN.next(&key("k"), b"one");
        assert_eq!(ChainLink::parse(&link.to_string()), Some(link));
        assert_eq!(ChainLink::parse("00"), None);
        assert_eq!(ChainLink::parse(&link.to_string().to_uppercase()), None);
    }
}
