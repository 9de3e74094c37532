//! Secret: mistakes in the MAC's key.

use zeroize::Zeroizing;

use super::claimed::unbase64;
use super::{MistakeChange, MistakeHypothesis};
use crate::secret::SecretKey;

/// The mark that some old text editors write before a text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// The keys that may have been used instead of the secret: each differs from the secret and from the others.
pub(super) fn hypotheses(secret: &SecretKey) -> Vec<MistakeHypothesis> {
    let right = secret.as_bytes();
    let Ok(text) = str::from_utf8(right) else {
        return Vec::new();
    };
    let mut distinct: Vec<(&str, Zeroizing<Vec<u8>>)> = Vec::new();
    let mistaken = surrounded(text)
        .into_iter()
        .chain(shortened(text))
        .chain(recoded(text));
    for (mistake, key) in mistaken {
        if key.as_slice() != right && distinct.iter().all(|(_, other)| *other != key) {
            distinct.push((mistake, key));
        }
    }
    distinct
        .into_iter()
        .map(|(mistake, key)| MistakeHypothesis::new(mistake, MistakeChange::Key(key)))
        .collect()
}

/// A mistake in words, and the resulting key.
type MistakenKey = (&'static str, Zeroizing<Vec<u8>>);

/// The secret with characters before or after it.
fn surrounded(text: &str) -> Vec<MistakenKey> {
    let with =
        |before: &str, after: &str| Zeroizing::new([before, text, after].concat().into_bytes());
    vec![
        ("the secret with a line feed after it", with("", "\n")),
        ("the secret with CR LF after it", with("", "\r\n")),
        ("the secret with a space after it", with("", " ")),
        ("the secret with a space before it", with(" ", "")),
        ("the secret in double quotes", with("\"", "\"")),
        ("the secret in single quotes", with("'", "'")),
        (
            "the secret with a byte order mark before it",
            with(BYTE_ORDER_MARK, ""),
        ),
        ("the secret with `=` added", with("", "=")),
    ]
}

/// The secret without some of its characters.
fn shortened(text: &str) -> Vec<MistakenKey> {
    let but_last = text
        .char_indices()
        .next_back()
        .map_or("", |(at, _)| &text[..at]);
    let but_first = text.char_indices().nth(1).map_or("", |(at, _)| &text[at..]);
    let unquoted = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    [
        ("the secret without the quotes around it", unquoted),
        (
            "the secret without the byte order mark before it",
            text.strip_prefix(BYTE_ORDER_MARK),
        ),
        (
            "the secret without the `=` at its end",
            Some(text.trim_end_matches('=')),
        ),
        ("the secret without its last character", Some(but_last)),
        ("the secret without its first character", Some(but_first)),
        ("nothing: the secret was empty", Some("")),
    ]
    .into_iter()
    .filter_map(|(mistake, text)| Some((mistake, Zeroizing::new(text?.as_bytes().to_vec()))))
    .collect()
}

/// The secret decoded, or in another case.
fn recoded(text: &str) -> Vec<MistakenKey> {
    let bytes = text.as_bytes();
    [
        (
            "the secret decoded from hexadecimal",
            hex::decode(text).ok(),
        ),
        ("the secret decoded from base64", unbase64(text)),
        ("the secret in upper case", Some(bytes.to_ascii_uppercase())),
        ("the secret in lower case", Some(bytes.to_ascii_lowercase())),
    ]
    .into_iter()
    .filter_map(|(mistake, key)| Some((mistake, Zeroizing::new(key?))))
    .collect()
}
