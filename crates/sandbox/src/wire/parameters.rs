//! Reads the parameters of a call as GatePay does: unknown names are ignored, and null or empty text counts as absent.
//!
//! Names are case-insensitive: official client libraries send `MerchantTradeNo` and `Count` where the pages have
//! `merchantTradeNo` and `count`. The page's spelling takes precedence over other spellings.

use std::collections::HashSet;

use gatepay_core::Operation;
use gatepay_core::operation::{MediaType, Method, Translation};
use serde_json::{Map, Value};

use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::multipart;

/// A request as received: method, query, content type and body.
#[derive(Clone, Copy)]
pub(crate) struct SentRequest<'a> {
    pub(crate) method: Method,
    pub(crate) query: Option<&'a str>,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// The members of a JSON object, of a query, or of a form.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RequestParameters(Map<String, Value>);

/// The name under which a JSON array body is stored. Only the balance query has such a body: a list of currencies.
pub(crate) const CURRENCIES: &str = "currencies";

impl RequestParameters {
    /// Reads the body in the operation's format, and the query. Clients send parameters in either, or in both
    /// (schemas.md). Where they differ the body takes precedence, since the body is signed.
    pub(crate) fn read(operation: &Operation, sent: SentRequest<'_>) -> Result<Self, ApiFailure> {
        let mut parameters = match (operation.media, operation.translation, sent.method) {
            (MediaType::Multipart, ..) => Self(multipart::fields(sent.content_type, sent.body)?),
            (_, _, Method::Get | Method::Delete) if sent.body.is_empty() => Self::default(),
            (_, Translation::Balance, Method::Post) => Self::list(CURRENCIES, sent.body)?,
            _ => Self::parse(sent.body)?,
        };
        parameters.add_query(sent.query.unwrap_or_default());
        Ok(parameters)
    }

    /// Reads a JSON object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiFailure> {
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|_| ApiFailure::Malformed("body"))
    }

    /// Reads a JSON array.
    fn list(name: &str, body: &[u8]) -> Result<Self, ApiFailure> {
        let items = serde_json::from_slice(body).map_err(|_| ApiFailure::Malformed("body"))?;
        Ok(Self(Map::from_iter([(
            name.to_owned(),
            Value::Array(items),
        )])))
    }

    /// Adds the query parameters that the body does not have.
    fn add_query(&mut self, query: &str) {
        let mut said = self.said();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            if name.is_empty() || said.contains(&name.to_ascii_lowercase()) {
                continue;
            }
            if !value.is_empty() {
                said.insert(name.to_ascii_lowercase());
            }
            self.0.insert(name, Value::String(value));
        }
    }

    /// All parameters as sent.
    pub(crate) fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The value sent under `name`; `null` if there is none.
    pub(crate) fn echo(&self, name: &str) -> Value {
        self.named(name).cloned().unwrap_or_default()
    }

    /// The value sent under `name` as text, which clients expect; empty if there is none.
    pub(crate) fn echo_text(&self, name: &str) -> String {
        match self.named(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// The list sent under `name`; an empty list if there is none.
    pub(crate) fn echo_list(&self, name: &str) -> Value {
        match self.named(name) {
            Some(list @ Value::Array(_)) => list.clone(),
            _ => Value::Array(Vec::new()),
        }
    }

    /// Overwrites the parameters that `others` has, and keeps the rest.
    pub(crate) fn merge(&mut self, others: &Self) {
        let said = others.said();
        self.0
            .retain(|name, _| !said.contains(&name.to_ascii_lowercase()));
        let said = others.0.iter().filter(|(_, value)| !is_absent(value));
        self.0
            .extend(said.map(|(name, value)| (name.clone(), value.clone())));
    }

    /// The names of the parameters that are not absent, in lower case.
    fn said(&self) -> HashSet<String> {
        let said = self.0.iter().filter(|(_, value)| !is_absent(value));
        said.map(|(name, _)| name.to_ascii_lowercase()).collect()
    }

    /// A required text.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, ApiFailure> {
        self.optional_text(name)?.ok_or(ApiFailure::Malformed(name))
    }

    /// An optional text.
    pub(crate) fn optional_text(&self, name: &'static str) -> Result<Option<&str>, ApiFailure> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiFailure::Malformed(name)),
        }
    }

    /// A required text of at most 32 bytes: GatePay's limit for a number or id.
    pub(crate) fn id(&self, name: &'static str) -> Result<&str, ApiFailure> {
        self.optional_id(name)?.ok_or(ApiFailure::Malformed(name))
    }

    /// An optional text of at most 32 bytes.
    pub(crate) fn optional_id(&self, name: &'static str) -> Result<Option<&str>, ApiFailure> {
        match self.optional_text(name)? {
            Some(id) if id.len() > 32 => Err(ApiFailure::Malformed(name)),
            id => Ok(id),
        }
    }

    /// A required amount above zero, as text.
    pub(crate) fn amount(&self, name: &'static str) -> Result<Amount, ApiFailure> {
        Amount::positive(self.text(name)?).ok_or(ApiFailure::Malformed(name))
    }

    /// An optional amount, as text. Clients send 0, as number or text, for "none".
    pub(crate) fn optional_amount(&self, name: &'static str) -> Result<Option<Amount>, ApiFailure> {
        let text = match self.present(name) {
            None => return Ok(None),
            Some(Value::Number(number)) if number.as_u64() == Some(0) => return Ok(None),
            Some(Value::String(text)) => text,
            Some(_) => return Err(ApiFailure::Malformed(name)),
        };
        let amount = Amount::parse(text).ok_or(ApiFailure::Malformed(name))?;
        Ok(Some(amount).filter(|amount| *amount > Amount::ZERO))
    }

    /// A required amount above zero, as a JSON number.
    pub(crate) fn number_amount(&self, name: &'static str) -> Result<Amount, ApiFailure> {
        match self.present(name) {
            Some(Value::Number(number)) => {
                Amount::positive(&number.to_string()).ok_or(ApiFailure::Malformed(name))
            }
            _ => Err(ApiFailure::Malformed(name)),
        }
    }

    /// A required integer of at least zero. In a query the integer is text.
    pub(crate) fn integer(&self, name: &'static str) -> Result<u64, ApiFailure> {
        self.optional_integer(name)?
            .ok_or(ApiFailure::Malformed(name))
    }

    /// An optional integer of at least zero.
    pub(crate) fn optional_integer(&self, name: &'static str) -> Result<Option<u64>, ApiFailure> {
        let number = match self.present(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or(ApiFailure::Malformed(name))
    }

    /// An optional time in milliseconds. Clients send 0, as number or text, for "none".
    pub(crate) fn optional_time(&self, name: &'static str) -> Result<Option<u64>, ApiFailure> {
        Ok(self.optional_integer(name)?.filter(|time| *time != 0))
    }

    /// A required object.
    pub(crate) fn object(&self, name: &'static str) -> Result<Self, ApiFailure> {
        match self.named(name) {
            Some(Value::Object(members)) => Ok(Self(members.clone())),
            _ => Err(ApiFailure::Malformed(name)),
        }
    }

    /// A required list of objects, with at least one element.
    pub(crate) fn objects(&self, name: &'static str) -> Result<Vec<Self>, ApiFailure> {
        let Some(Value::Array(items)) = self.named(name) else {
            return Err(ApiFailure::Malformed(name));
        };
        let objects = items.iter().map(|item| match item {
            Value::Object(members) => Ok(Self(members.clone())),
            _ => Err(ApiFailure::Malformed(name)),
        });
        if items.is_empty() {
            return Err(ApiFailure::Malformed(name));
        }
        objects.collect()
    }

    /// Texts: a list, or one comma-separated text; an absent parameter gives no texts.
    pub(crate) fn texts(&self, name: &'static str) -> Result<Vec<&str>, ApiFailure> {
        match self.present(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split(',').map(str::trim).collect()),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().ok_or(ApiFailure::Malformed(name)))
                .collect(),
            Some(_) => Err(ApiFailure::Malformed(name)),
        }
    }

    fn present(&self, name: &str) -> Option<&Value> {
        self.named(name).filter(|value| !is_absent(value))
    }

    /// The value sent under `name` in any case. The exact spelling comes first, and a value that counts as absent last.
    fn named(&self, name: &str) -> Option<&Value> {
        let exact = self.0.get(name);
        if exact.is_some_and(|value| !is_absent(value)) {
            return exact;
        }
        let mut others = self.0.iter();
        others
            .find(|(other, value)| other.eq_ignore_ascii_case(name) && !is_absent(value))
            .map_or(exact, |(_, value)| Some(value))
    }
}

fn is_absent(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("")
}

/// Decodes the text of a query: `+` is a space, `%` starts an escape. A malformed escape stays unchanged.
fn decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        decoded.push(match (first, after) {
            (b'%', [high, low, beyond @ ..]) if let Some(byte) = escaped(*high, *low) => {
                rest = beyond;
                byte
            }
            (b'+', _) => b' ',
            (byte, _) => *byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn escaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    u8::try_from(16 * digit(high)? + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> RequestParameters {
        RequestParameters::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn null_and_empty_text_count_as_absent() {
        let body = body(r#"{"a":null,"b":"","c":"x","d":1}"#);
        assert_eq!(body.optional_text("a"), Ok(None));
        assert_eq!(body.optional_text("b"), Ok(None));
        assert_eq!(body.text("b"), Err(ApiFailure::Malformed("b")));
        assert_eq!(body.text("c"), Ok("x"));
        assert_eq!(body.text("d"), Err(ApiFailure::Malformed("d")));
        assert_eq!(body.text("e"), Err(ApiFailure::Malformed("e")));
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
                Err(ApiFailure::Malformed("t")),
                "{odd}"
            );
        }
    }

    #[test]
    fn a_body_that_is_not_a_json_object_is_refused() {
        for odd in [&b""[..], b"[]", b"null", b"{", b"{}x", b"\xff"] {
            assert_eq!(
                RequestParameters::parse(odd).err(),
                Some(ApiFailure::Malformed("body"))
            );
        }
    }

    fn query(query: &str, body: &str) -> RequestParameters {
        let mut parameters = self::body(body);
        parameters.add_query(query);
        parameters
    }

    #[test]
    fn query_parameters_fill_in_those_that_the_body_lacks() {
        let both = query("a=1&b=%E2%82%ac+%2B&a=2&c&d=x", r#"{"c":"body","d":null}"#);
        assert_eq!(both.text("a"), Ok("1"));
        assert_eq!(both.text("b"), Ok("\u{20ac} +"));
        assert_eq!(both.text("c"), Ok("body"));
        assert_eq!(both.text("d"), Ok("x"));
        assert_eq!(query("n=17", "{}").integer("n"), Ok(17));
    }

    #[test]
    fn upper_and_lower_case_of_a_name_are_the_same() {
        let asked = query(
            "Count=5&AMOUNT=2&n=query",
            r#"{"MerchantTradeNo":"A-1","amount":"1","N":"body","e":"","E":"x","Env":{"T":"APP"},"LIST":[{"Id":"7"}]}"#,
        );
        assert_eq!(asked.text("merchantTradeNo"), Ok("A-1"));
        assert_eq!(asked.integer("count"), Ok(5));
        assert_eq!(asked.text("Amount"), Ok("1"), "the body is signed");
        assert_eq!(asked.text("n"), Ok("body"));
        assert_eq!(asked.text("e"), Ok("x"), "an empty text counts as absent");
        assert_eq!(asked.object("env").unwrap().text("t"), Ok("APP"));
        assert_eq!(asked.objects("list").unwrap()[0].text("id"), Ok("7"));
        assert_eq!(asked.echo("MERCHANTTRADENO"), "A-1");
        let both = body(r#"{"ID":"1","id":"2","iD":"3"}"#);
        assert_eq!(
            both.text("id"),
            Ok("2"),
            "the page's own spelling goes first"
        );
    }

    #[test]
    fn an_amount_that_is_zero_in_any_form_is_none() {
        for none in [
            "{}",
            r#"{"a":null}"#,
            r#"{"a":""}"#,
            r#"{"a":"0"}"#,
            r#"{"a":"0.00"}"#,
            r#"{"a":0}"#,
        ] {
            assert_eq!(body(none).optional_amount("a"), Ok(None), "{none}");
            assert!(body(none).amount("a").is_err(), "{none}");
        }
        for odd in [r#"{"a":1}"#, r#"{"a":"-0"}"#, r#"{"a":"x"}"#] {
            assert!(body(odd).optional_amount("a").is_err(), "{odd}");
        }
    }

    #[test]
    fn a_repeated_parameter_replaces_the_earlier_one_in_any_case() {
        let mut known = body(r#"{"Name":"a","city":"b"}"#);
        known.merge(&body(r#"{"name":"c","CITY":"","zip":null}"#));
        assert_eq!(known, body(r#"{"name":"c","city":"b"}"#));
    }

    #[test]
    fn an_invalid_percent_escape_stays_as_it_is() {
        for odd in ["%", "%4", "%zz", "100%", "%\u{e9}\u{e9}"] {
            assert_eq!(decoded(odd), odd);
        }
        assert_eq!(decoded("%ff"), "\u{fffd}");
        assert_eq!(decoded("%+1"), "% 1", "a sign is no digit");
    }

    #[test]
    fn a_list_of_texts_is_a_json_list_or_separated_by_commas() {
        let body = body(r#"{"list":["a","b"],"text":"a, b","odd":[1]}"#);
        assert_eq!(body.texts("list"), Ok(vec!["a", "b"]));
        assert_eq!(body.texts("text"), Ok(vec!["a", "b"]));
        assert_eq!(body.texts("none"), Ok(vec![]));
        assert_eq!(body.texts("odd"), Err(ApiFailure::Malformed("odd")));
    }

    #[test]
    fn an_amount_is_text_and_above_zero_but_where_a_number_is_asked_for() {
        let body = body(r#"{"text":"1.50","number":1.5,"zero":"0.0","small":1e-9}"#);
        let amount = Amount::parse("1.5").unwrap();
        assert_eq!(body.amount("text"), Ok(amount));
        assert_eq!(body.number_amount("number"), Ok(amount));
        assert!(body.amount("number").is_err() && body.number_amount("text").is_err());
        assert!(body.amount("zero").is_err() && body.number_amount("small").is_err());
    }
}
