//! What a tenant must not steer: bodies that name another account, that two parsers could read in two ways, or that
//! make GatePay call the tenant directly.
//!
//! The signature proves who sent a body, not that it is about the sender. These rules hold however lenient the other
//! checks are.

mod form;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::json::{self, Raw};
use crate::operation::{Kind, Media, Operation};
use crate::sent::{decode, end_of, unhex};

/// Names that matter, by their letters. Readers differ in what they take for the same name, so every spelling of a name
/// counts as that name: `merchantId`, `merchant_id` and `MERCHANT-ID[]` are one.
const NAMES: [(&str, Name); 5] = [
    ("merchantid", Name::Account("merchant_id")),
    ("clientid", Name::Account(CLIENT_ID)),
    ("accountid", Name::Account("accountId (account_id)")),
    ("submerchantid", Name::Account("sub_merchant_id")),
    // Makes GatePay call this URL, signed with the institution's secret (schemas.md, static address).
    ("callbackurl", Name::Callback),
];
const CLIENT_ID: &str = "client_id";

/// A name that a tenant must not use freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// It names an account (schemas.md); refusals call it so.
    Account(&'static str),
    /// It makes GatePay call somebody.
    Callback,
}

impl Name {
    fn of(name: &[u8]) -> Option<Self> {
        let name = fold(name);
        let named = |(letters, _): &&(&str, Self)| has_letters(&name, letters);
        NAMES.iter().find(named).map(|(_, name)| *name)
    }
}

/// A name with its letters as a reader that ignores case takes them. Outside ASCII there are letters that differ from
/// one of ASCII only in case (`ſ`, `ı`, `İ` and the Kelvin sign), and the wide ones of East Asian typesetting.
fn fold(name: &[u8]) -> Cow<'_, [u8]> {
    if name.is_ascii() {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(fold_letters(name))
    }
}

#[cold]
fn fold_letters(name: &[u8]) -> Vec<u8> {
    let name = String::from_utf8_lossy(name);
    let narrow = name.chars().map(|letter| match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter),
        _ => letter,
    });
    let folded = narrow
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase);
    folded.collect::<String>().into_bytes()
}

/// Whether these are the letters of a name, without what tells spellings apart: case, separators, and an index.
///
/// Not to be inlined: that would make five of it, of which most names need the first line.
#[inline(never)]
fn has_letters(name: &[u8], letters: &str) -> bool {
    if name.len() < letters.len() {
        return false;
    }
    let mut letters = letters.bytes();
    for byte in name {
        if *byte == b'[' {
            break;
        }
        if byte.is_ascii_alphanumeric() && letters.next() != Some(byte.to_ascii_lowercase()) {
            return false;
        }
    }
    letters.next().is_none()
}

/// What a tenant may call itself.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// Its sub-account.
    pub account: &'a str,
    /// The client id it signed with.
    pub client_id: &'a str,
}

/// What a request tries to steer. Names the field, never what stood in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// A field names an account other than the tenant's own.
    Account(&'static str),
    /// `callbackUrl` is set.
    Callback,
    /// The body is not exactly one JSON text.
    NotOneText {
        /// Counted from 1.
        line: usize,
        /// Bytes of that line up to the fault.
        column: usize,
    },
    /// The body of a money call has an object with two members of one name: two parsers could read two requests.
    Repeated {
        /// Counted from 1.
        line: usize,
        /// Bytes of that line up to the second one.
        column: usize,
    },
    /// The body of a write or money call has a member whose name is not ASCII: readers that ignore case take some
    /// letters outside ASCII for letters of it, others do not.
    NotAscii {
        /// Counted from 1.
        line: usize,
        /// Bytes of that line up to the name.
        column: usize,
    },
    /// The query of a write or money call has a parameter whose name is not ASCII.
    ParameterNotAscii,
    /// A form has a part whose name is encoded as RFC 2231 says: `name*`. Some readers decode it, others see no name.
    EncodedName,
    /// A form has a part whose name is not plain: readers undo escapes, encodings and quotes in different ways.
    PartName,
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(field) => write!(f, "{field} names an account that is not yours"),
            Self::Callback => f.write_str(
                "callbackUrl would be called by GatePay directly, with a signature you cannot verify; leave it out or ask \
                 your institution",
            ),
            Self::NotOneText { line, column } => {
                write!(f, "body is not JSON (line {line}, column {column})")
            }
            Self::Repeated { line, column } => {
                write!(f, "body names one member twice (line {line}, column {column})")
            }
            Self::NotAscii { line, column } => write!(
                f,
                "body has a member whose name is not ASCII (line {line}, column {column})"
            ),
            Self::ParameterNotAscii => {
                f.write_str("query has a parameter whose name is not ASCII")
            }
            Self::EncodedName => f.write_str(
                "a part of the form has its name encoded (name*): name it in plain ASCII",
            ),
            Self::PartName => f.write_str(
                "a part of the form has a name that is not plain: one name of ASCII letters, digits, and any of . _ - [ ]",
            ),
        }
    }
}

/// Refuses what the tenant must not steer in a call to `operation`; `own` is `None` for the institution's own back
/// office, which may name any account.
///
/// A money call is read whole, at every depth; of others the query and the top of the body, where GatePay's calls have
/// their parameters. Names in a call that changes something are ASCII, at every depth.
pub fn guard(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
    own: Option<Own<'_>>,
    callbacks: bool,
) -> Result<(), Steering> {
    if operation.kind != Kind::Read {
        names_are_ascii(operation, query, body)?;
    }
    if let Some(own) = own {
        let rules = Rules { own, callbacks };
        if let Some(query) = query {
            rules.query(query)?;
        }
        match operation.media {
            Media::Json => match rules.json(body) {
                // Nothing depends on how a read is read, unless an account could be read out of it.
                Err(Steering::NotOneText { .. })
                    if operation.kind == Kind::Read && !mentions_name(body) => {}
                judged => judged?,
            },
            Media::Multipart => {}
        }
    }
    if operation.media == Media::Multipart {
        form::guard(body, |name| match name {
            Name::Account(_) => own.is_none(),
            Name::Callback => callbacks,
        })?;
    }
    match operation.kind {
        Kind::Money => one_reading(body, own),
        Kind::Read | Kind::Write => Ok(()),
    }
}

/// Whether every name in the query and in the body is ASCII, at every depth.
fn names_are_ascii(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
) -> Result<(), Steering> {
    let mut names = query.unwrap_or_default().split(['&', ';']);
    if !names.all(|pair| decode(pair.split('=').next().unwrap_or_default()).is_ascii()) {
        return Err(Steering::ParameterNotAscii);
    }
    // A body of an operator's may be no JSON, and then has no names.
    match (operation.media, str::from_utf8(body)) {
        (Media::Json, Ok(text)) => match json::name_outside_ascii(text) {
            Some(at) => {
                let (line, column) = end_of(&body[..at]);
                Err(Steering::NotAscii { line, column })
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a name that matters stands anywhere in a body, in any spelling, escape or width of characters.
///
/// Letters outside ASCII may stand for `i`, `k` or `s` (see [`fold`]), in any encoding: these three are left out of
/// what is looked for and of what is looked at.
#[cold]
fn mentions_name(body: &[u8]) -> bool {
    let keep = |letter: u8| {
        let letter = letter.to_ascii_lowercase();
        let kept = letter.is_ascii_lowercase() && !matches!(letter, b'i' | b'k' | b's');
        kept.then(|| char::from(letter))
    };
    let mut letters = String::with_capacity(body.len());
    let folded = fold(body);
    let mut rest = &*folded;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'\\', [b'u', a, b, c, d, after @ ..])
                if let (Some(high), Some(low)) = (unhex(*a, *b), unhex(*c, *d)) =>
            {
                (if high == 0 { low } else { 0 }, after)
            }
            _ => (*first, after),
        };
        letters.extend(keep(byte));
        rest = after;
    }
    NAMES.iter().any(|(name, _)| {
        let name: String = name.bytes().filter_map(keep).collect();
        letters.contains(&name)
    })
}

#[derive(Clone, Copy)]
struct Rules<'a> {
    own: Own<'a>,
    callbacks: bool,
}

impl Rules<'_> {
    /// Both separators that are in use count.
    #[inline(never)]
    fn query(self, query: &str) -> Result<(), Steering> {
        for pair in query.split(['&', ';']) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let Some(name) = Name::of(decode(name).as_bytes()) {
                self.admit(name, Some(&decode(value)))?;
            }
        }
        Ok(())
    }

    /// The top of a JSON text. What is none is a fault: a lenient reader may find an account before what it does not
    /// mind, trailing garbage say.
    fn json(self, body: &[u8]) -> Result<(), Steering> {
        if body.trim_ascii().is_empty() {
            return Ok(());
        }
        let not_text = |error: std::str::Utf8Error| Steering::NotOneText {
            line: 1,
            column: error.valid_up_to() + 1,
        };
        let text = str::from_utf8(body).map_err(not_text)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut steering = Ok(());
        let mut found = |name: &[u8], value: Raw<'_>| {
            if let Some(name) = Name::of(name)
                && steering.is_ok()
                && !matches!(value.as_str(), "null" | "\"\"")
            {
                steering = self.admit(name, value.text_or_number().as_deref());
            }
        };
        json::read(text, &mut found).map_err(|error| Steering::NotOneText {
            line: error.line(),
            column: error.column(),
        })?;
        steering
    }

    /// One value of a name; `None` is neither text nor number.
    fn admit(self, name: Name, value: Option<&str>) -> Result<(), Steering> {
        match name {
            Name::Callback if self.callbacks || value == Some("") => Ok(()),
            Name::Callback => Err(Steering::Callback),
            Name::Account(field) if value.is_some_and(|value| self.own.admits(field, value)) => {
                Ok(())
            }
            Name::Account(field) => Err(Steering::Account(field)),
        }
    }
}

impl Own<'_> {
    /// Published clients send absent values as `0` and `"0"` too (schemas.md).
    fn admits(self, field: &str, value: &str) -> bool {
        matches!(value, "" | "0")
            || value == self.account
            || (field == CLIENT_ID && value == self.client_id)
    }
}

/// Reads a body at every depth: one text, no name twice in an object, no account but the tenant's own.
#[inline(never)]
fn one_reading(body: &[u8], own: Option<Own<'_>>) -> Result<(), Steering> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let found = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let read = Walk {
        own,
        found: &found,
        field: None,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    read.map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match found.get() {
            Some(Found::Account(field)) => Steering::Account(field),
            Some(Found::Repeated) => Steering::Repeated { line, column },
            None => Steering::NotOneText { line, column },
        }
    })
}

#[derive(Clone, Copy)]
enum Found {
    Account(&'static str),
    Repeated,
}

/// Walks a value; `field` is the account field it is the value of, if it is.
#[derive(Clone, Copy)]
struct Walk<'w> {
    own: Option<Own<'w>>,
    found: &'w Cell<Option<Found>>,
    field: Option<&'static str>,
}

impl Walk<'_> {
    fn scalar<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match self.field {
            Some(field) if !self.own.is_none_or(|own| own.admits(field, value)) => {
                self.stop(Found::Account(field))
            }
            _ => Ok(()),
        }
    }

    fn compound<E: serde::de::Error>(self) -> Result<(), E> {
        match self.field {
            Some(field) if self.own.is_some() => self.stop(Found::Account(field)),
            _ => Ok(()),
        }
    }

    fn stop<E: serde::de::Error>(self, found: Found) -> Result<(), E> {
        self.found.set(Some(found));
        Err(E::custom("refused"))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.compound()?;
        while items
            .next_element_seed(Walk {
                field: None,
                ..self
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.compound()?;
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            let field = match Name::of(name.as_bytes()) {
                Some(Name::Account(field)) => Some(field),
                Some(Name::Callback) | None => None,
            };
            if !seen.insert(name) {
                self.found.set(Some(Found::Repeated));
                return Err(A::Error::custom("refused"));
            }
            members.next_value_seed(Walk { field, ..self })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;
    use proptest::prelude::*;

    const OWN: Own<'_> = Own {
        account: "2124538349",
        client_id: "client-acme",
    };

    /// As clients and others spell them, and as refusals call them.
    const FIELDS: [(&str, &str); 9] = [
        ("merchant_id", "merchant_id"),
        ("merchantId", "merchant_id"),
        ("MERCHANT-ID", "merchant_id"),
        ("client_id", "client_id"),
        ("clientId", "client_id"),
        ("accountId", "accountId (account_id)"),
        ("account_id", "accountId (account_id)"),
        ("AccountId", "accountId (account_id)"),
        ("sub_merchant_id", "sub_merchant_id"),
    ];

    proptest! {
        /// However it is spelled, and only then.
        #[test]
        fn a_name_is_what_its_letters_are(name in "[ms][a-z_]{0,3}(ub_?|erc[hH])?(ant|Id|_ID|[.-]id){0,2}[x\\[é]{0,2}[0-9]?|(?i)sub[_-]?merchant.?id.{0,2}|(?i)callback.url") {
            let plain: String = name.split('[').next().unwrap().to_uppercase().to_lowercase().chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|letter| letter.to_ascii_lowercase())
                .collect();
            let known = NAMES.iter().find(|(other, _)| *other == plain).map(|(_, name)| *name);
            prop_assert_eq!(Name::of(name.as_bytes()), known);
        }
    }

    fn judge(operation: &str, query: Option<&str>, body: &str) -> Result<(), Steering> {
        let catalogue = Catalogue::standard();
        guard(
            catalogue.named(operation).unwrap(),
            query,
            body.as_bytes(),
            Some(OWN),
            false,
        )
    }

    #[test]
    fn an_account_field_may_only_name_the_tenant_itself() {
        for (sent, field) in FIELDS {
            for operation in ["create_batch_transfer", "create_order", "query_payout"] {
                for own in [
                    r#""2124538349""#,
                    "2124538349",
                    "null",
                    r#""""#,
                    "0",
                    r#""0""#,
                ] {
                    assert_eq!(
                        judge(operation, None, &format!(r#"{{"{sent}":{own}}}"#)),
                        Ok(()),
                        "{field} {own}"
                    );
                }
                for other in [
                    r#""2124538350""#,
                    "2124538350",
                    "-1",
                    "true",
                    r#"["2124538349"]"#,
                    r#"{"a":1}"#,
                ] {
                    let body = format!(r#"{{"{sent}":{other}}}"#);
                    assert_eq!(
                        judge(operation, None, &body),
                        Err(Steering::Account(field)),
                        "{operation} {body}"
                    );
                }
                let query = format!("a=1&{sent}[]=2124538350");
                assert_eq!(
                    judge(operation, Some(&query), ""),
                    Err(Steering::Account(field)),
                    "{query}"
                );
            }
        }
        assert_eq!(
            judge(
                "create_batch_transfer",
                None,
                r#"{"client_id":"client-acme"}"#
            ),
            Ok(())
        );
    }

    #[test]
    fn a_money_call_is_read_at_every_depth_and_under_every_spelling() {
        let deep = r#"{"list":[{"x":{"account\u0049d":"2124538350"}}]}"#;
        assert_eq!(
            judge("create_payout", None, deep),
            Err(Steering::Account("accountId (account_id)"))
        );
        assert_eq!(
            judge("create_order", None, deep),
            Ok(()),
            "a label of the merchant's own"
        );
    }

    #[test]
    fn a_money_call_has_one_reading() {
        for (body, refused) in [
            (
                r#"{"a":1,"a":1}"#,
                Steering::Repeated {
                    line: 1,
                    column: 10,
                },
            ),
            (
                r#"{"x":[{"a":1,"\u0061":2}]}"#,
                Steering::Repeated {
                    line: 1,
                    column: 21,
                },
            ),
            (
                r#"{"a":1} {"a":2}"#,
                Steering::NotOneText { line: 1, column: 9 },
            ),
            ("{\"a\":1}\nx", Steering::NotOneText { line: 2, column: 1 }),
            ("a=1", Steering::NotOneText { line: 1, column: 1 }),
        ] {
            assert_eq!(judge("refund_order", None, body), Err(refused), "{body}");
            let write = match refused {
                Steering::Repeated { .. } => Ok(()),
                refused => Err(refused),
            };
            assert_eq!(judge("close_order", None, body), write, "a write: {body}");
            assert_eq!(judge("query_order", None, body), Ok(()), "a read: {body}");
        }
        assert_eq!(judge("refund_order", None, " {\"a\":1}\r\n"), Ok(()));
        assert_eq!(judge("refund_order", None, ""), Ok(()));
        let catalogue = Catalogue::standard();
        let transfer = |body: &str| {
            guard(
                catalogue.named("create_transfer").unwrap(),
                None,
                body.as_bytes(),
                None,
                true,
            )
        };
        assert_eq!(
            transfer(r#"{"accountId":"anybody"}"#),
            Ok(()),
            "the back office names whom it likes"
        );
        assert!(transfer(r#"{"a":1,"a":2}"#).is_err(), "but once");
    }

    #[test]
    fn a_callback_is_gatepay_calling_past_the_proxy() {
        let body = r#"{"channelId":"1","callbackUrl":"https://shop.example/hook"}"#;
        assert_eq!(
            judge("save_fixed_address", None, body),
            Err(Steering::Callback)
        );
        assert_eq!(
            judge("save_fixed_address", Some("callbackUrl=x"), "{}"),
            Err(Steering::Callback)
        );
        assert_eq!(
            judge("save_fixed_address", None, r#"{"callbackUrl":""}"#),
            Ok(())
        );
        let catalogue = Catalogue::standard();
        let row = catalogue.named("save_fixed_address").unwrap();
        assert_eq!(guard(row, None, body.as_bytes(), Some(OWN), true), Ok(()));
    }

    #[test]
    fn a_form_may_name_no_account_in_any_part() {
        let form = |disposition: &str| {
            format!("--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n7\r\n--b--\r\n")
        };
        for name in [
            "name=\"merchant_id\"",
            "Name=accountId",
            "name*=utf-8''client_id",
            "filename=a; name=\"AccountId\"",
        ] {
            assert!(
                judge("create_otc_bank", None, &form(name)).is_err(),
                "{name}"
            );
        }
        for name in [
            "name=\"bankAccountName\"",
            "name=file; filename=\"merchant_id\"",
        ] {
            assert_eq!(
                judge("create_otc_bank", None, &form(name)),
                Ok(()),
                "{name}"
            );
        }
        assert!(
            judge("create_otc_bank", Some("accountId=9"), "").is_err(),
            "nor in the query"
        );
        assert!(
            judge("create_order", Some("a=1;account%49d=9"), "").is_err(),
            "whatever separates it"
        );
    }

    #[test]
    fn what_is_no_json_is_refused_before_somebody_reads_it_otherwise() {
        let utf_16: Vec<u8> =
            r#"{"accountId":"9"}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let catalogue = Catalogue::standard();
        for operation in ["query_order_v2", "query_payout", "close_order"] {
            let row = catalogue.named(operation).unwrap();
            assert!(
                guard(row, None, &utf_16, Some(OWN), false).is_err(),
                "{operation}"
            );
            for body in [
                r#"{"merchantId":"9"} x"#,
                r#"{"m\u0065rchant_id":"9"} x"#,
                r#"{"CallBack-URL":"9"} x"#,
            ] {
                assert!(judge(operation, None, body).is_err(), "{operation} {body}");
            }
            let harmless = judge(operation, None, r#"{"a":"9"} x"#);
            assert_eq!(harmless.is_ok(), row.kind == Kind::Read, "{operation}");
        }
    }

    /// Names that a reader which ignores case takes for `callbackUrl`, `sub_merchant_id`, `accountId`, `merchant_id`.
    const FOLDED: [&str; 9] = [
        "callbac\u{212a}Url",
        "CALLBAC\\u212aURL",
        "\u{17f}ub_merchant_id",
        r"\u017fub_merchant_id",
        "merchant_\u{131}d",
        r"merchant_\u0131d",
        "account\u{130}d",
        r"account\u0130D",
        "\u{ff41}ccount\u{ff29}d",
    ];

    #[test]
    fn a_call_that_changes_something_has_ascii_names_at_every_depth() {
        let names = FOLDED
            .into_iter()
            .chain(["\u{e9}", r"a\u00e9", r"\ud800", r"\\\u00e9"]);
        for name in names {
            for body in [
                format!(r#"{{"{name}":""}}"#),
                format!(r#"{{"a":"\u00e9","b":[1,{{"{name}" : null}}]}}"#),
                format!(
                    "{{\"a\":{}{{\"{name}\":1}}{}}}",
                    "[".repeat(100),
                    "]".repeat(100)
                ),
            ] {
                for operation in [
                    "close_order",
                    "create_order",
                    "refund_order",
                    "create_payout",
                ] {
                    let judged = judge(operation, None, &body);
                    assert!(
                        matches!(judged, Err(Steering::NotAscii { .. })),
                        "{operation} {body}"
                    );
                }
            }
        }
        for body in [
            "{\"a\":\"\u{e9}\"}",
            r#"{"a":"\u00e9","b":["\u212a"]}"#,
            r#"{"\\u00e9":"1"}"#,
            r#"{"\u0061":"x","a\"":"\u00e9"}"#,
            "{\"a\":\"\\\"\u{e9}\\\":\"}",
        ] {
            assert_eq!(judge("close_order", None, body), Ok(()), "{body}");
            assert_eq!(judge("refund_order", None, body), Ok(()), "{body}");
        }
        let place = judge("close_order", None, "{\"a\":1,\n \"\u{e9}\":2}");
        assert_eq!(place, Err(Steering::NotAscii { line: 2, column: 2 }));
    }

    #[test]
    fn a_parameter_of_a_call_that_changes_something_has_an_ascii_name() {
        for query in [
            "a=1&%E2%84%AA=2",
            "%c3%a9",
            "a=%c3%a9;%ff=1",
            "a=1&b%C5%BF=1",
        ] {
            for operation in ["close_order", "refund_order", "create_otc_bank"] {
                let judged = judge(operation, Some(query), "");
                assert_eq!(
                    judged,
                    Err(Steering::ParameterNotAscii),
                    "{operation} {query}"
                );
            }
            assert_eq!(
                judge("query_order", Some(query), ""),
                Ok(()),
                "a read: {query}"
            );
        }
        assert_eq!(
            judge("refund_order", Some("a=%c3%a9&b=\u{e9}"), ""),
            Ok(()),
            "a value"
        );
    }

    #[test]
    fn a_read_names_no_account_in_letters_that_fold_to_ascii() {
        for name in FOLDED {
            for body in [
                format!(r#"{{"{name}":"9"}}"#),
                format!(r#"{{"{name}":"9"}} x"#),
            ] {
                assert!(judge("query_order", None, &body).is_err(), "{body}");
            }
            if name.is_ascii() {
                continue;
            }
            let wide: Vec<u8> = format!(r#"{{"{name}":"9"}}"#)
                .encode_utf16()
                .flat_map(u16::to_be_bytes)
                .collect();
            let catalogue = Catalogue::standard();
            let row = catalogue.named("query_order").unwrap();
            let is_fullwidth = name.contains('\u{ff41}');
            assert!(
                is_fullwidth || guard(row, None, &wide, Some(OWN), false).is_err(),
                "{name}"
            );
            assert!(
                judge("query_order", Some(&format!("{name}=9")), "").is_err(),
                "{name}"
            );
        }
        assert_eq!(
            judge("query_order", None, "{\"\u{e9}\":\"9\"}"),
            Ok(()),
            "no account"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, query in "[ -~]{0,40}") {
            let catalogue = Catalogue::standard();
            for operation in ["refund_order", "query_order"] {
                let _unread = guard(catalogue.named(operation).unwrap(), Some(&query), &body, Some(OWN), false);
            }
        }
    }
}
