//! Secret: a secret as issued. The text is never decoded, trimmed or shown.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A Payment API secret (protocol.md 1.3), wiped from memory when dropped.
///
/// The type has no `Debug`, `Display`, `Serialize`, `Clone` or `PartialEq`, so a struct that holds a secret cannot
/// derive them either. A secret lives only from its reading until a [`SigningKey`](crate::SigningKey) is made from it.
pub struct SecretKey(Zeroizing<String>);

/// The reason why a text is not a secret. It names the position of the fault, and contains no text of the secret except
/// an invalid character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text has white space or a control character, which no issued secret has. A paste or an editor has added it.
    #[error("has white space or a control character at byte {0}")]
    Whitespace(usize),
    /// The text has a character outside visible ASCII, which no issued secret has either: for example a byte order
    /// mark, or a character that no editor shows.
    #[error("has U+{:04X} at byte {at}, which is not visible ASCII", u32::from(*.found))]
    NotVisible {
        /// The invalid character.
        found: char,
        /// Number of bytes before the character.
        at: usize,
    },
}

impl SecretKey {
    /// Accepts a secret exactly as issued, in visible ASCII. Every character counts, a trailing `=` too.
    pub fn new(text: Zeroizing<String>) -> Result<Self, SecretError> {
        let odd = text.char_indices().find(|(_, c)| !c.is_ascii_graphic());
        match odd {
            Some((at, found)) if !found.is_ascii() => Err(SecretError::NotVisible { found, at }),
            _ => Self::of_any_text(text),
        }
    }

    /// Accepts characters outside ASCII too, for a secret that was issued with some. White space and control characters
    /// are still refused.
    pub fn of_any_text(text: Zeroizing<String>) -> Result<Self, SecretError> {
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        match text
            .char_indices()
            .find(|(_, c)| c.is_whitespace() || c.is_control())
        {
            Some((at, _)) => Err(SecretError::Whitespace(at)),
            None => Ok(Self(text)),
        }
    }

    /// The value of an `Authorization` or `Proxy-Authorization` header (RFC 7617). `None` unless the secret is a user
    /// and a password with a colon between them.
    pub fn to_basic(&self) -> Option<Zeroizing<String>> {
        const SCHEME: &str = "Basic ";
        if !self.0.contains(':') {
            return None;
        }
        // The whole capacity is reserved at once, since a growing text leaves copies in memory.
        let mut value = Zeroizing::new(String::with_capacity(SCHEME.len() + self.0.len() * 2 + 4));
        value.push_str(SCHEME);
        STANDARD.encode_string(self.as_bytes(), &mut value);
        Some(value)
    }

    /// The secret as the password of a connection that is no part of GatePay's API: a database's.
    pub fn to_password(&self) -> Zeroizing<String> {
        self.0.clone()
    }

    /// The UTF-8 bytes that key the MAC.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(SecretKey: fmt::Debug, fmt::Display, serde::Serialize, Clone, PartialEq);

    fn error(text: &str) -> Option<SecretError> {
        SecretKey::new(Zeroizing::new(text.to_owned())).err()
    }

    #[test]
    fn every_character_of_an_issued_secret_is_kept() {
        let key = SecretKey::new(Zeroizing::new("c2VjcmV0LWtleS0wMDAx=".to_owned())).unwrap();
        assert_eq!(key.as_bytes(), b"c2VjcmV0LWtleS0wMDAx=");
    }

    #[test]
    fn a_user_and_a_password_make_a_header() {
        let basic = |text: &str| {
            SecretKey::new(Zeroizing::new(text.to_owned()))
                .unwrap()
                .to_basic()
        };
        let value = basic("Aladdin:open-sesame").unwrap();
        assert_eq!(*value, "Basic QWxhZGRpbjpvcGVuLXNlc2FtZQ==");
        assert!(basic("no-colon").is_none());
    }

    #[test]
    fn an_empty_secret_or_one_with_whitespace_is_refused_by_position() {
        assert_eq!(error(""), Some(SecretError::Empty));
        assert_eq!(error("abc "), Some(SecretError::Whitespace(3)));
        assert_eq!(error("ab\nc"), Some(SecretError::Whitespace(2)));
    }

    #[test]
    fn a_secret_with_an_invisible_character_is_refused_by_code_point_and_position() {
        for (found, at, text) in [
            ('\u{feff}', 0, "\u{feff}abc"),
            ('\u{200b}', 3, "abc\u{200b}"),
            ('\u{2060}', 1, "a\u{2060}bc"),
            ('\u{ad}', 1, "a\u{ad}"),
            ('é', 1, "aé"),
            ('\u{a0}', 2, "ab\u{a0}"),
            ('\u{1f511}', 0, "\u{1f511} "),
        ] {
            let expected = SecretError::NotVisible { found, at };
            assert_eq!(error(text), Some(expected), "{text:?}");
        }
        let any = |text: &str| SecretKey::of_any_text(Zeroizing::new(text.to_owned())).err();
        assert_eq!(any("\u{feff}aé"), None);
        assert_eq!(any("ab\u{a0}"), Some(SecretError::Whitespace(2)));
        let said = SecretError::NotVisible {
            found: '\u{feff}',
            at: 0,
        };
        assert_eq!(
            said.to_string(),
            "has U+FEFF at byte 0, which is not visible ASCII"
        );
    }
}
