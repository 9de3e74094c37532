//! JSON read in one pass and only as far as somebody asks: named members of one object, their values as they stand.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a JSON text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Array,
    Scalar,
}

/// Reads a whole text and hands over the members of its top object that `wanted` knows, in their order, every
/// occurrence of them. What nobody wants is checked for grammar and passed by, however deep.
pub(crate) fn read<'a, T>(
    text: &'a str,
    wanted: impl Fn(&[u8]) -> Option<T>,
    found: impl FnMut(T, Raw<'a>),
) -> Result<Shape, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let shape = match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => {
            deserializer.deserialize_map(Members { wanted, found })?;
            Shape::Object
        }
        first => {
            deserializer.deserialize_ignored_any(IgnoredAny)?;
            if first == Some(&b'[') {
                Shape::Array
            } else {
                Shape::Scalar
            }
        }
    };
    deserializer.end()?;
    Ok(shape)
}

/// One value as it stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// The value's own text, quotes and escapes included.
    pub(crate) fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether both say the same, whatever their escapes.
    pub(crate) fn same(self, other: Self) -> bool {
        self == other || self.text().is_some_and(|text| other.text() == Some(text))
    }

    /// The content of a string. Half of a surrogate pair, which the grammar allows, is no text.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        let content = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if content.contains('\\') {
            serde_json::from_str(self.0).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(content))
        }
    }

    /// The digits of a number, as they were written.
    pub(crate) fn number(self) -> Option<&'a str> {
        self.0
            .starts_with(|first: char| first == '-' || first.is_ascii_digit())
            .then_some(self.0)
    }

    /// A string's content or a number's digits: ids and codes are sent as either.
    pub(crate) fn text_or_number(self) -> Option<Cow<'a, str>> {
        self.number().map(Cow::Borrowed).or_else(|| self.text())
    }
}

struct Members<W, F> {
    wanted: W,
    found: F,
}

impl<'a, T, W, F> Visitor<'a> for Members<W, F>
where
    W: Fn(&[u8]) -> Option<T>,
    F: FnMut(T, Raw<'a>),
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(wanted) = map.next_key_seed(Name(&self.wanted))? {
            match wanted {
                Some(member) => {
                    let value: &RawValue = map.next_value()?;
                    (self.found)(member, Raw(value.get()));
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A member's name, asked for as bytes: as text, half a surrogate pair in a name nobody wants would be an error.
struct Name<'w, W>(&'w W);

impl<'a, T, W: Fn(&[u8]) -> Option<T>> DeserializeSeed<'a> for Name<'_, W> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<T, W: Fn(&[u8]) -> Option<T>> Visitor<'_> for Name<'_, W> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Option<T>, E> {
        Ok((self.0)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values<'a>(text: &'a str, name: &str) -> Option<Vec<Raw<'a>>> {
        let mut values = Vec::new();
        let wanted = |other: &[u8]| (other == name.as_bytes()).then_some(());
        read(text, wanted, |(), value| values.push(value)).ok()?;
        Some(values)
    }

    #[test]
    fn every_occurrence_is_handed_over_as_it_stands() {
        let text = r#" {"a":1,"b":{"a":9},"\u0061" : "x\u0041" , "a":[1, 2]} "#;
        let values = values(text, "a").unwrap();
        let raw: Vec<_> = values.iter().map(|value| value.as_str()).collect();
        assert_eq!(raw, ["1", r#""x\u0041""#, "[1, 2]"]);
        assert_eq!(values[1].text().as_deref(), Some("xA"));
        assert_eq!(values[0].number(), Some("1"));
        assert_eq!(values[2].text_or_number(), None);
    }

    #[test]
    fn what_the_grammar_allows_is_json_however_odd() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in [
            r#"{"\ud800":"\ud800","a":"\udfff"}"#,
            &format!(r#"{{"a":{deep},"b":{deep}}}"#),
            &deep,
            "1e999",
            r#"{"a":1e999,"b":1e999}"#,
        ] {
            assert!(values(text, "a").is_some(), "{text:.40}");
        }
        assert_eq!(
            values(r#"{"a":"\ud800"}"#, "a").unwrap()[0].text(),
            None,
            "half a pair is no text"
        );
    }

    #[test]
    fn what_follows_the_text_makes_it_no_json() {
        for text in [
            "",
            " ",
            "{} x",
            "{}{}",
            "[1,]",
            r#"{"a":1,}"#,
            "{'a':1}",
            "nul",
            "\u{feff}{}",
        ] {
            assert!(values(text, "a").is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_same_texts_are_json_as_for_serde_json(text in r#"[ \[\]{}:,"a\\u01e.\-tnrf]{0,24}"#) {
            let serde = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(values(&text, "a").is_some(), serde);
        }
    }
}
