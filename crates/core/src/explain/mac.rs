//! MAC: mistakes in the MAC function.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};

use super::{MistakeChange, MistakeHypothesis};

/// The function that is computed from key and string.
#[derive(Clone, Copy)]
pub(super) enum MacRecipe {
    Hmac,
    Swapped,
    KeyThenString,
    StringThenKey,
    StringAlone,
}

/// The hash function inside the MAC.
#[derive(Clone, Copy)]
pub(super) enum HashFunction {
    Sha512,
    Sha256,
}

pub(super) fn hypotheses() -> Vec<MistakeHypothesis> {
    [
        (
            "HMAC with the string as its key and the secret as its message",
            MacRecipe::Swapped,
        ),
        (
            "a plain hash of secret and string, without HMAC",
            MacRecipe::KeyThenString,
        ),
        (
            "a plain hash of string and secret, without HMAC",
            MacRecipe::StringThenKey,
        ),
        (
            "a plain hash of the string, without any secret",
            MacRecipe::StringAlone,
        ),
    ]
    .into_iter()
    .map(|(what, recipe)| MistakeHypothesis::new(what, MistakeChange::Recipe(recipe)))
    .collect()
}

impl MacRecipe {
    pub(super) fn compute(self, by: HashFunction, key: &[u8], string: &[u8]) -> Vec<u8> {
        match self {
            Self::Hmac => hmac(by, key, string),
            Self::Swapped => hmac(by, string, key),
            Self::KeyThenString => hash(by, &[key, string]),
            Self::StringThenKey => hash(by, &[string, key]),
            Self::StringAlone => hash(by, &[string]),
        }
    }
}

fn hmac(by: HashFunction, key: &[u8], message: &[u8]) -> Vec<u8> {
    const ANY: &str = "HMAC takes a key of any length";
    match by {
        HashFunction::Sha512 => Hmac::<Sha512>::new_from_slice(key)
            .expect(ANY)
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
        HashFunction::Sha256 => Hmac::<Sha256>::new_from_slice(key)
            .expect(ANY)
            .chain_update(message)
            .finalize()
            .into_bytes()
            .to_vec(),
    }
}

fn hash(by: HashFunction, parts: &[&[u8]]) -> Vec<u8> {
    match by {
        HashFunction::Sha512 => parts
            .iter()
            .fold(Sha512::new(), Sha512::chain_update)
            .finalize()
            .to_vec(),
        HashFunction::Sha256 => parts
            .iter()
            .fold(Sha256::new(), Sha256::chain_update)
            .finalize()
            .to_vec(),
    }
}
