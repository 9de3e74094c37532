//! Callback URL: the URL in a call at which GatePay notifies, and its exchange for another.
//!
//! The URL stands in the place of the institution's own, so that a call of GatePay's to it leads to one tenant
//! (protocol.md 5.1).

use std::ops::Range;

use crate::body::BodyReading;
use crate::operation::Operation;
use crate::query::decode;
use crate::reserved::ReservedName;

/// The operations in which a callback URL is exchanged: fixed addresses (schemas.md), and orders of subscriptions
/// (protocol.md 5.1).
pub const EXCHANGED: [&str; 2] = ["save_fixed_address", "create_subscription"];

/// The callback URL in a call's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackField {
    /// The URL.
    pub url: String,
    /// The place of its JSON string in the body, quotes included.
    place: Range<usize>,
}

/// A callback URL that is not one text at the top of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnclearCallback;

/// Whether the callback URL of calls to an operation is exchanged.
pub fn is_exchanged(operation: &Operation) -> bool {
    EXCHANGED.contains(&&*operation.name)
}

impl CallbackField {
    /// The callback URL of a call, in any spelling of its name; `None` if it is absent or empty.
    pub fn read(reading: &BodyReading<'_>) -> Result<Option<Self>, UnclearCallback> {
        let is_callback = |name: &[u8]| ReservedName::of(name) == Some(ReservedName::Callback);
        let mut parameters = reading.parameters();
        if parameters.any(|(name, value)| !value.is_empty() && is_callback(decode(name).as_bytes()))
        {
            return Err(UnclearCallback);
        }
        let members = reading.reserved().iter();
        let mut values = members
            .filter(|(name, value)| *name == ReservedName::Callback && !value.is_nothing())
            .map(|(_, value)| *value);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(UnclearCallback);
        }
        let url = value.text().ok_or(UnclearCallback)?.into_owned();
        if url.is_empty() {
            return Ok(None);
        }
        // The value is a part of the body, so its address gives its place.
        let (body, text) = (reading.body(), value.as_str());
        let begin = (text.as_ptr() as usize).checked_sub(body.as_ptr() as usize);
        let begin = begin.ok_or(UnclearCallback)?;
        let place = begin..begin + text.len();
        match body.get(place.clone()) {
            Some(part) if part == text.as_bytes() => Ok(Some(Self { url, place })),
            _ => Err(UnclearCallback),
        }
    }

    /// The body with another URL in the place of this one. `body` is the one that was read.
    ///
    /// # Panics
    /// Never: a text always serializes.
    pub fn exchanged(&self, body: &[u8], url: &str) -> Vec<u8> {
        let (before, after) = (&body[..self.place.start], &body[self.place.end..]);
        let text = serde_json::to_string(url).expect("a text always serializes");
        [before, text.as_bytes(), after].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    fn read(query: Option<&str>, body: &str) -> Result<Option<CallbackField>, UnclearCallback> {
        let catalogue = Catalogue::standard();
        let row = catalogue.named("save_fixed_address").unwrap();
        CallbackField::read(&BodyReading::read(row, query, body.as_bytes()))
    }

    #[test]
    fn only_the_url_changes_in_a_body() {
        for (body, exchanged) in [
            (
                r#"{"channelId":"1", "callbackUrl" : "https://shop.example/a\/b" ,"x":"callbackUrl"}"#,
                r#"{"channelId":"1", "callbackUrl" : "https://n.example/n/t" ,"x":"callbackUrl"}"#,
            ),
            (
                r#"{"x":{"callbackUrl":"inner"},"CALLBACK_URL":"https://shop.example"}"#,
                r#"{"x":{"callbackUrl":"inner"},"CALLBACK_URL":"https://n.example/n/t"}"#,
            ),
        ] {
            let field = read(None, body).unwrap().unwrap();
            assert!(
                field.url.starts_with("https://shop.example"),
                "{}",
                field.url
            );
            let after = field.exchanged(body.as_bytes(), "https://n.example/n/t");
            assert_eq!(String::from_utf8(after).unwrap(), exchanged);
        }
    }

    #[test]
    fn a_url_that_is_absent_or_empty_is_no_url() {
        for body in ["", "{}", r#"{"callbackUrl":""}"#, r#"{"callbackUrl":null}"#] {
            assert_eq!(read(None, body), Ok(None), "{body}");
        }
        assert_eq!(read(Some("callbackUrl="), "{}"), Ok(None));
    }

    #[test]
    fn a_url_that_parsers_may_find_elsewhere_is_unclear() {
        for (query, body) in [
            (Some("callbackUrl=https://shop.example"), "{}"),
            (Some("callback%55rl=x"), r#"{"callbackUrl":"x"}"#),
            (None, r#"{"callbackUrl":"x","callback_url":"x"}"#),
            (None, r#"{"callbackUrl":["x"]}"#),
            (None, r#"{"callbackUrl":7}"#),
        ] {
            assert_eq!(read(query, body), Err(UnclearCallback), "{query:?} {body}");
        }
    }

    #[test]
    fn each_exchanged_operation_is_a_row_of_the_catalogue_that_writes() {
        let catalogue = Catalogue::standard();
        for name in EXCHANGED {
            let row = catalogue.named(name).unwrap();
            assert!(
                is_exchanged(row) && row.kind == crate::Kind::Write,
                "{name}"
            );
        }
    }
}
