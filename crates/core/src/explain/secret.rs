//! Mistakes in the key.

use zeroize::Zeroizing;

use super::claimed::unbase64;
use super::{MistakeChange, MistakeHypothesis};
use crate::secret::SecretKey;

/// What a text editor of another age puts before a text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// What was used instead of the secret, as far as it differs from it and from each other.
pub(super) fn hypotheses(secret: &SecretKey) -> Vec<MistakeHypothesis> {
    let right = secret.as_bytes();
    let Ok(text) = str::from_utf8(right) else {
        return Vec::new();
    };
    let with = |before: &str, after: &str| Some([before, text, after].concat().into_bytes());
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    let but_last = text
        .char_indices()
        .next_back()
        .map_or("", |(at, _)| &text[..at]);
    let but_first = text.char_indices().nth(1).map_or("", |(at, _)| &text[at..]);
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    let all = [
        ("the secret with a line feed after it", with("", "\n")),
        ("the secret with CR LF after it", with("", "\r\n")),
        ("the secret with a space after it", with("", " ")),
        ("the secret with a space before it", with(" ", "")),
        ("the secret in double quotes", with("\"", "\"")),
        ("the secret in single quotes", with("'", "'")),
        (
            "the secret without the quotes around it",
            unquoted.and_then(bytes),
        ),
        (
            "the secret with a byte order mark before it",
            with(BYTE_ORDER_MARK, ""),
        ),
        (
            "the secret without the byte order mark before it",
            text.strip_prefix(BYTE_ORDER_MARK).and_then(bytes),
        ),
        (
            "the secret without the `=` at its end",
            bytes(text.trim_end_matches('=')),
        ),
        ("the secret without its last character", bytes(but_last)),
        ("the secret without its first character", bytes(but_first)),
        ("the secret with `=` added", with("", "=")),
        (
            "the secret decoded from hexadecimal",
            hex::decode(text).ok(),
        ),
        ("the secret decoded from base64", unbase64(text)),
        ("the secret in upper case", Some(right.to_ascii_uppercase())),
        ("the secret in lower case", Some(right.to_ascii_lowercase())),
        ("nothing: the secret was empty", Some(Vec::new())),
    ];
    let mut distinct: Vec<(&str, Zeroizing<Vec<u8>>)> = Vec::new();
    for (what, key) in all {
        if let Some(key) = key.map(Zeroizing::new)
            && key.as_slice() != right
            && distinct.iter().all(|(_, other)| *other != key)
        {
            distinct.push((what, key));
        }
    }
    distinct
        .into_iter()
        .map(|(what, key)| MistakeHypothesis::new(what, MistakeChange::Key(key)))
        .collect()
}
