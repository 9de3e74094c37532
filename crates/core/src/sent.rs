//! The fields of a request that somebody asks for, from its query and its body alike.

use std::borrow::Cow;

use crate::json::{self, Raw, Shape};

/// What was sent, every occurrence, the query before the body. Null and empty text were not sent (schemas.md).
#[derive(Default)]
pub(crate) struct Sent<'a>(Vec<(&'a str, Value<'a>)>);

/// One value: text in a query, JSON in a body.
pub(crate) enum Value<'a> {
    Query(Cow<'a, str>),
    Body(Raw<'a>),
}

impl<'a> Sent<'a> {
    /// Adds the parameters of these names.
    pub(crate) fn read_query<N>(&mut self, query: &'a str, names: impl Fn() -> N)
    where
        N: Iterator<Item = &'a str>,
    {
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            if let Some(name) = names().find(|wanted| *wanted == name)
                && !value.is_empty()
            {
                self.0.push((name, Value::Query(decode(value))));
            }
        }
    }

    /// Adds the members of these names, or says in which line and column the body stops being JSON.
    ///
    /// A body without content has no members, and neither has JSON that is no object.
    pub(crate) fn read_body<N>(
        &mut self,
        body: &'a [u8],
        names: impl Fn() -> N,
    ) -> Result<(), (usize, usize)>
    where
        N: Iterator<Item = &'a str>,
    {
        if body.trim_ascii().is_empty() {
            return Ok(());
        }
        let text = str::from_utf8(body).map_err(|error| end_of(&body[..error.valid_up_to()]))?;
        // A reader may ignore a byte order mark (RFC 8259, 8.1), so GatePay is not certain to refuse it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let before = self.0.len();
        match self.read_members(text, names) {
            Ok(_) => Ok(()),
            Err(error) => {
                // What stood before the fault was not sent either: nobody would read it.
                self.0.truncate(before);
                Err((error.line(), error.column()))
            }
        }
    }

    fn read_members<N>(
        &mut self,
        text: &'a str,
        names: impl Fn() -> N,
    ) -> Result<Shape, serde_json::Error>
    where
        N: Iterator<Item = &'a str>,
    {
        json::read(text, &mut |name, value| {
            if let Some(name) = names().find(|wanted| wanted.as_bytes() == name)
                && !matches!(value.as_str(), "null" | "\"\"")
            {
                self.0.push((name, Value::Body(value)));
            }
        })
    }

    /// Whether it was sent at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Every value it was sent with. The last one is what most readers take.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &Value<'a>> {
        let named = self.0.iter().filter(move |(other, _)| *other == name);
        named.map(|(_, value)| value)
    }
}

impl<'a> Value<'a> {
    /// The text it is, if it is text.
    pub(crate) fn text(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text(),
        }
    }

    /// The number it is, as it was written. In a query, every text may be one.
    pub(crate) fn number(&self) -> Option<&str> {
        match self {
            Self::Query(text) => Some(text),
            Self::Body(raw) => raw.number(),
        }
    }

    /// Its text, or its number as it was written: ids are sent as either.
    pub(crate) fn text_or_number(&self) -> Option<Cow<'a, str>> {
        match self {
            Self::Query(text) => Some(text.clone()),
            Self::Body(raw) => raw.text_or_number(),
        }
    }

    /// Its text, or the texts of a list.
    pub(crate) fn texts(&self) -> Vec<Cow<'a, str>> {
        match (self.text(), self) {
            (Some(text), _) => vec![text],
            (None, Self::Body(raw)) => serde_json::from_str(raw.as_str()).unwrap_or_default(),
            (None, Self::Query(_)) => Vec::new(),
        }
    }

    /// Whether it is a list, and every item a text.
    pub(crate) fn is_list_of_texts(&self) -> bool {
        match self {
            Self::Query(_) => false,
            Self::Body(raw) => serde_json::from_str::<Vec<Cow<'_, str>>>(raw.as_str()).is_ok(),
        }
    }

    /// Its members of these names, if it is an object.
    pub(crate) fn members<N>(&self, names: impl Fn() -> N) -> Option<Sent<'a>>
    where
        N: Iterator<Item = &'a str>,
    {
        let Self::Body(raw) = self else { return None };
        let mut members = Sent::default();
        let shape = members.read_members(raw.as_str(), names).ok()?;
        (shape == Shape::Object).then_some(members)
    }
}

/// The line and column, in bytes, that follow a text.
pub(crate) fn end_of(text: &[u8]) -> (usize, usize) {
    let mut lines = text.rsplit(|byte| *byte == b'\n');
    let last = lines.next().unwrap_or_default();
    (lines.count() + 1, last.len() + 1)
}

/// A query's text as it was meant: `+` is a space, an escape is a byte, an odd escape stands for itself.
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

/// Fields as a query: the reverse of [`decode`], with every byte escaped that means something anywhere.
pub(crate) fn encode<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
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
    fn a_fault_is_placed_by_line_and_column() {
        assert_eq!(end_of(b""), (1, 1));
        assert_eq!(end_of(b"{\n \"a"), (2, 4));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_again(value: String) {
            let query = encode([("a", value.as_str())].into_iter());
            prop_assert_eq!(decode(query.strip_prefix("a=").unwrap()), value);
        }

        #[test]
        fn decoding_never_panics_and_never_grows_beyond_a_replacement(text in "[%+0-9a-fé]{0,20}") {
            prop_assert!(decode(&text).len() <= text.len() * 3);
        }
    }
}
