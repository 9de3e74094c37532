//! Mistakes in the function.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};

use super::{Change, Hypothesis};

/// What is computed of key and string.
#[derive(Clone, Copy)]
pub(super) enum Recipe {
    Hmac,
    Swapped,
    KeyThenString,
    StringThenKey,
    StringAlone,
}

/// By which hash function.
#[derive(Clone, Copy)]
pub(super) enum Hash {
    Sha512,
    Sha256,
}

pub(super) fn hypotheses() -> Vec<Hypothesis> {
    [
        (
            "HMAC with the string as its key and the secret as its message",
            Recipe::Swapped,
        ),
        (
            "a plain hash of secret and string, without HMAC",
            Recipe::KeyThenString,
        ),
        (
            "a plain hash of string and secret, without HMAC",
            Recipe::StringThenKey,
        ),
        (
            "a plain hash of the string, without any secret",
            Recipe::StringAlone,
        ),
    ]
    .into_iter()
    .map(|(what, recipe)| Hypothesis::new(what, Change::Recipe(recipe)))
    .collect()
}

impl Recipe {
    pub(super) fn compute(self, by: Hash, key: &[u8], string: &[u8]) -> Vec<u8> {
        match self {
            Self::Hmac => hmac(by, key, string),
            Self::Swapped => hmac(by, string, key),
            Self::KeyThenString => hash(by, &[key, string]),
            Self::StringThenKey => hash(by, &[string, key]),
            Self::StringAlone => hash(by, &[string]),
        }
    }
}

fn hmac(by: Hash, key: &[u8], message: &[u8]) -> Vec<u8> {
    const ANY: &str = "HMAC takes a key of any length";
    match by {
        Hash::Sha512 => Hmac::<Sha512>::new_from_slice(key)
            .expect(ANY)
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
        Hash::Sha256 => Hmac::<Sha256>::new_from_slice(key)
            .expect(ANY)
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
    }
}

fn hash(by: Hash, parts: &[&[u8]]) -> Vec<u8> {
    match by {
        Hash::Sha512 => parts
            .iter()
            .fold(Sha512::new(), Sha512::chain_update)
            .finalize()
            .to_vec(),
        Hash::Sha256 => parts
            .iter()
            .fold(Sha256::new(), Sha256::chain_update)
            .finalize()
            .to_vec(),
    }
}
