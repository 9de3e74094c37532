//! Reading a JSON body as GatePay does: unknown fields are ignored, and null or empty text counts as absent.

use serde_json::{Map, Value};

use crate::Failure;

/// A JSON object.
pub(crate) struct Body(Map<String, Value>);

impl Body {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|_| Failure::Malformed("body"))
    }

    /// A text that must be there.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, Failure> {
        self.optional_text(name)?.ok_or(Failure::Malformed(name))
    }

    /// A text that need not be there, and has at most 32 bytes: what GatePay allows a number or id.
    pub(crate) fn optional_id(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        match self.optional_text(name)? {
            Some(id) if id.len() > 32 => Err(Failure::Malformed(name)),
            id => Ok(id),
        }
    }

    /// Such a text that must be there.
    pub(crate) fn id(&self, name: &'static str) -> Result<&str, Failure> {
        self.optional_id(name)?.ok_or(Failure::Malformed(name))
    }

    /// A text that need not be there.
    pub(crate) fn optional_text(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(Failure::Malformed(name)),
        }
    }

    /// A time in milliseconds that need not be there. Clients send 0, as number or text, for "none".
    pub(crate) fn optional_time(&self, name: &'static str) -> Result<Option<u64>, Failure> {
        let time = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        let time = time.ok_or(Failure::Malformed(name))?;
        Ok(Some(time).filter(|time| *time != 0))
    }

    /// An object that must be there.
    pub(crate) fn object(&self, name: &'static str) -> Result<Self, Failure> {
        match self.0.get(name) {
            Some(Value::Object(members)) => Ok(Self(members.clone())),
            _ => Err(Failure::Malformed(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> Body {
        Body::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_and_empty_text_count_as_absent() {
        let body = body(r#"{"a":null,"b":"","c":"x","d":1}"#);
        assert_eq!(body.optional_text("a"), Ok(None));
        assert_eq!(body.optional_text("b"), Ok(None));
        assert_eq!(body.text("b"), Err(Failure::Malformed("b")));
        assert_eq!(body.text("c"), Ok("x"));
        assert_eq!(body.text("d"), Err(Failure::Malformed("d")));
        assert_eq!(body.text("e"), Err(Failure::Malformed("e")));
    }

    #[test]
    fn a_time_may_be_absent_in_the_ways_clients_say_so() {
        for absent in [
            "{}",
            r#"{"t":null}"#,
            r#"{"t":""}"#,
            r#"{"t":0}"#,
            r#"{"t":"0"}"#,
        ] {
            assert_eq!(body(absent).optional_time("t"), Ok(None), "{absent}");
        }
        assert_eq!(body(r#"{"t":17}"#).optional_time("t"), Ok(Some(17)));
        for odd in [
            r#"{"t":-1}"#,
            r#"{"t":1.5}"#,
            r#"{"t":"soon"}"#,
            r#"{"t":[]}"#,
        ] {
            assert_eq!(
                body(odd).optional_time("t"),
                Err(Failure::Malformed("t")),
                "{odd}"
            );
        }
    }

    #[test]
    fn only_an_object_is_a_body() {
        for odd in [&b""[..], b"[]", b"null", b"{", b"{}x", b"\xff"] {
            assert_eq!(Body::parse(odd).err(), Some(Failure::Malformed("body")));
        }
    }
}
