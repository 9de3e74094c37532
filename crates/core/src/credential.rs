//! Credential: the identity of a signing party, a client id with its key.

use std::borrow::Borrow;
use std::fmt;
use std::hint::black_box;

use arrayvec::ArrayString;
use hmac::block_api::HmacCore;
use hmac::digest::block_api::{Buffer, CoreProxy as _};
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha512;
use subtle::ConstantTimeEq;

use crate::secret::SecretKey;

/// The value of `X-GatePay-Certificate-ClientId`: 1 to 64 visible ASCII characters. The text is stored inline, beside
/// the key: a request needs both, and a separate allocation would cost a cache miss.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(ArrayString<64>);

/// The reason why a text is not a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 visible ASCII characters")]
pub struct ClientIdError;

impl ClientId {
    /// Accepts a valid value of the header `X-GatePay-Certificate-ClientId`.
    pub fn parse(text: &str) -> Result<Self, ClientIdError> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if !visible || text.is_empty() {
            return Err(ClientIdError);
        }
        ArrayString::from(text)
            .map(Self)
            .map_err(|_longer| ClientIdError)
    }

    /// The id, as the header states it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClientId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An HMAC-SHA512 state, keyed once: for a short body, cloning the state costs half as much as keying anew. The state
/// omits the buffer of a MAC in progress, since there can be a hundred thousand keys.
///
/// Like its secret, the key cannot be printed, serialized or cloned by a holder. It is wiped when dropped.
pub struct SigningKey(HmacCore<Sha512>);

impl SigningKey {
    /// Keys the MAC with the secret's UTF-8 bytes, as issued (protocol.md 1.3).
    ///
    /// # Panics
    /// Never: HMAC takes a key of any length.
    pub fn new(secret: &SecretKey) -> Self {
        Self(HmacCore::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length"))
    }

    /// A new MAC under this key.
    pub(crate) fn mac(&self) -> Hmac<Sha512> {
        Hmac::compose(self.0.clone(), Buffer::<HmacCore<Sha512>>::default())
    }

    /// Prefetches the key into the CPU cache before a MAC needs it: among a thousand keys, none is in a near cache.
    pub fn warm(&self) {
        black_box(self.0.clone());
    }

    /// Copies the key, for a credential with new dates while the old credential is in use. `Clone` is missing so that
    /// each copy is explicit. Each copy is wiped when dropped.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// Whether both keys were made from the same secret: two tenants must not share a secret.
    pub fn same_secret(&self, other: &Self) -> bool {
        self.fingerprint().ct_eq(&other.fingerprint()).into()
    }

    /// A value that is equal for equal secrets and reveals nothing else. It serves to find a secret that is used twice.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut mac = self.mac();
        mac.update(b"gatepay-proxy: is this secret used twice?");
        let mut out = [0; 32];
        out.copy_from_slice(&mac.finalize().into_bytes()[..32]);
        out
    }
}

/// The credential of a signing party: public id and secret key.
pub struct Credential {
    /// The client id, which every request carries.
    pub client_id: ClientId,
    /// The key, which is never sent.
    pub key: SigningKey,
}

impl Credential {
    /// Builds the credential from its id and its secret.
    pub fn new(client_id: ClientId, secret: &SecretKey) -> Self {
        Self {
            client_id,
            key: SigningKey::new(secret),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use zeroize::Zeroizing;

    assert_not_impl_any!(SigningKey: fmt::Debug, fmt::Display, serde::Serialize, Clone, PartialEq);
    assert_not_impl_any!(Credential: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    fn key(text: &str) -> SigningKey {
        SigningKey::new(&SecretKey::new(Zeroizing::new(text.to_owned())).unwrap())
    }

    #[test]
    fn a_client_id_is_one_to_sixty_four_visible_characters() {
        assert!(ClientId::parse("4186d0c6-6a35-55a9-8dc6-5312769dbff8").is_ok());
        assert!(ClientId::parse(&"a".repeat(64)).is_ok());
        for bad in ["", "a b", "a\u{7f}", "é", &"a".repeat(65)] {
            assert_eq!(ClientId::parse(bad), Err(ClientIdError), "{bad:?}");
        }
    }

    #[test]
    fn two_keys_from_the_same_secret_are_recognized() {
        assert!(key("one").same_secret(&key("one")));
        assert!(!key("one").same_secret(&key("two")));
    }
}
