//! Query: parses and writes queries.

use std::borrow::Cow;

/// The parameters of a query, names and values verbatim.
///
/// Both separators in use count, `&` and `;`. Some parsers split at either (old form parsers, and Netty, which
/// GatePay's gateway may be), others take `;` for part of a value. So a parameter is found under both readings. A
/// decision that depends on the end of a value must not use a query with a `;`: see [`is_clear`].
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = (!query.is_empty()).then(|| query.split(['&', ';']));
    pairs
        .into_iter()
        .flatten()
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Whether all parsers agree on the end of each value.
pub(crate) fn is_clear(query: &str) -> bool {
    !query.contains(';')
}

/// Decodes a query's text: `+` is a space, an escape is a byte, and an invalid escape is kept.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) if let Some(byte) = unhex(*high, *low) => (byte, after),
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes fields as a query: the reverse of [`decode`] for the values. Every byte of a value is escaped except letters,
/// digits, `-`, `.`, `_` and `~`.
pub fn encode<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = String::new();
    for (name, value) in fields {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(name);
        query.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                query.push(char::from(byte));
            } else {
                query.push('%');
                query.push_str(&hex::encode_upper([byte]));
            }
        }
    }
    query
}

pub(crate) fn unhex(high: u8, low: u8) -> Option<u8> {
    let mut byte = [0];
    hex::decode_to_slice([high, low], &mut byte).ok()?;
    Some(byte[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_is_decoded_as_forms_are() {
        for (text, want) in [
            ("A-1", "A-1"),
            ("a+b%20c", "a b c"),
            ("%41%2D1", "A-1"),
            ("%c3%a9", "é"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%+1", "%zz% 1"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(decode(text), want, "{text}");
        }
    }

    #[test]
    fn ampersand_and_semicolon_both_end_a_query_parameter() {
        let pairs: Vec<_> = pairs("a=1&b;c=2=3;;&=4").collect();
        let want = [
            ("a", "1"),
            ("b", ""),
            ("c", "2=3"),
            ("", ""),
            ("", ""),
            ("", "4"),
        ];
        assert_eq!(pairs, want);
        assert!(is_clear("a=1&b") && !is_clear("a=1;b"));
    }

    proptest! {
        #[test]
        fn an_encoded_query_decodes_to_the_original(value: String) {
            let query = encode([("a", value.as_str())].into_iter());
            prop_assert_eq!(decode(query.strip_prefix("a=").unwrap()), value);
        }

        #[test]
        fn decoding_a_query_never_panics_and_never_grows_beyond_a_replacement(text in "[%+0-9a-fé]{0,20}") {
            prop_assert!(decode(&text).len() <= text.len() * 3);
        }
    }
}
