//! Fingerprint: a stamp as all instances know it.

use std::hash::Hasher as _;

use gatepay_core::Stamp;
use gatepay_store::admission::Fingerprint;
use gatepay_tenancy::ReplayRule;
use sha2::{Digest as _, Sha256};
use siphasher::sip128::{Hash128, Hasher128 as _, SipHasher24};
use zeroize::Zeroizing;

/// The key of fingerprints, which the store has made: with it an outsider could aim for a collision.
pub struct FingerprintKey(Zeroizing<[u8; 16]>);

/// The fingerprints of one stamp.
pub struct StampPrints {
    /// The fingerprint of client id, nonce and timestamp.
    pub stamp: Fingerprint,
    /// The fingerprint of client id and nonce, if the nonce may not come again with another timestamp.
    pub nonce: Option<Fingerprint>,
}

impl FingerprintKey {
    /// The key that the store gave.
    pub fn new(key: Zeroizing<[u8; 16]>) -> Self {
        Self(key)
    }

    /// The fingerprints under which the store records a stamp. The first is the same under either rule, so that instances
    /// with different configurations during a roll-out refuse each other's copies.
    pub fn prints(&self, client_id: &str, stamp: &Stamp<'_>, rule: ReplayRule) -> StampPrints {
        let mut hash = SipHasher24::new_with_key(&self.0);
        let [timestamp, nonce] = stamp.bytes();
        // None of the three can contain a line feed, so the borders cannot move.
        hash.write(client_id.as_bytes());
        hash.write_u8(b'\n');
        hash.write(nonce);
        let nonce = hash.finish128();
        hash.write_u8(b'\n');
        hash.write(timestamp);
        StampPrints {
            stamp: bytes(hash.finish128()),
            nonce: (rule == ReplayRule::Nonce).then(|| bytes(nonce)),
        }
    }

    /// A public name of the store that the key belongs to.
    pub fn store_name(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"gatepay-proxy store\n");
        hash.update(*self.0);
        hex::encode(hash.finalize())
    }
}

fn bytes(hash: Hash128) -> Fingerprint {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&hash.h1.to_be_bytes());
    bytes[8..].copy_from_slice(&hash.h2.to_be_bytes());
    bytes
}
