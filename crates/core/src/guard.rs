//! Guard: refuses requests that name another account, that parsers could read differently, or that make GatePay call
//! the tenant directly.
//!
//! The signature proves the identity of the sender, but not that the body names the sender's own account. The guard's
//! rules hold at every strictness of the other checks.

mod form;
mod parameters;

use std::fmt;

use crate::body::{BodyPlace, BodyReading};
use crate::operation::{Kind, MediaType, Operation};
use crate::query::decode;
use crate::reserved::{self, CLIENT_ID, ReservedName};
use parameters::FoldedParameters;

/// The identifiers that a tenant may use for itself.
#[derive(Debug, Clone, Copy)]
pub struct CallerIdentity<'a> {
    /// The tenant's sub-account.
    pub account: &'a str,
    /// The client id of the tenant's signature.
    pub client_id: &'a str,
}

/// The reason for a refusal. It names the field, and never contains the field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SteeringAttempt {
    /// A field names an account other than the tenant's own.
    Account(&'static str),
    /// `callbackUrl` is set.
    Callback,
    /// The body is not exactly one JSON text.
    NotOneText {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the fault.
        column: usize,
    },
    /// An object in a write or money call has two members of one name, so that two parsers could read two requests.
    /// Names that differ only in case are equal, since some parsers ignore case. In a write only the top object counts.
    Repeated {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the second member.
        column: usize,
    },
    /// The body of a write or money call has a member with a name outside ASCII. Some parsers that ignore case take
    /// certain letters outside ASCII for ASCII letters, others do not.
    NotAscii {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the name.
        column: usize,
    },
    /// The body of a write or money call nests arrays and objects deeper than all parsers accept.
    TooDeep {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the array or object that is too deep.
        column: usize,
    },
    /// The body of a money call is JSON, but has a string with half of a surrogate pair, or a number beyond the largest
    /// (RFC 8259, sections 7 and 6). Some parsers read another value, others refuse the text.
    ReadDifferently {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the value.
        column: usize,
    },
    /// The query of a write or money call has a parameter with a name outside ASCII.
    ParameterNotAscii,
    /// The query of a write or money call has a parameter with a name that is not plain: parsers unescape and truncate
    /// such names in different ways.
    ParameterName,
    /// The query of a write or money call has two parameters of one name, in any spelling: some parsers take the first,
    /// some the last, some both.
    RepeatedParameter,
    /// The query and the body of a write or money call give a field of one name different values.
    Contradicted,
    /// A form has a part with a name encoded by RFC 2231: `name*`. Some parsers decode the name, others find no name.
    EncodedName,
    /// A form has a part with two names, or with a name that is not plain: parsers undo escapes, encodings and quotes
    /// in different ways.
    PartName,
    /// A form has two parts of one name, in any spelling, or a part with the name of a query parameter.
    RepeatedPart,
    /// A form has more parts than all parsers accept.
    TooManyParts,
}

impl fmt::Display for SteeringAttempt {
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
                write!(f, "body names one member twice, in any case (line {line}, column {column})")
            }
            Self::NotAscii { line, column } => write!(
                f,
                "body has a member whose name is not ASCII (line {line}, column {column})"
            ),
            Self::TooDeep { line, column } => write!(
                f,
                "body nests more than 128 arrays and objects (line {line}, column {column})"
            ),
            Self::ReadDifferently { line, column } => write!(
                f,
                "body is JSON, but has a number or an escape that parsers read differently: half of a surrogate pair, or a \
                 number above 1.7e308 (line {line}, column {column})"
            ),
            Self::ParameterNotAscii => {
                f.write_str("query has a parameter whose name is not ASCII")
            }
            Self::ParameterName => f.write_str(
                "query has a parameter whose name is not plain: ASCII letters, digits, and any of . _ - [ ]",
            ),
            Self::RepeatedParameter => f.write_str(
                "query names one parameter twice; names that differ in case, punctuation or an index count as one",
            ),
            Self::Contradicted => {
                f.write_str("query and body give one field different values; send it in the body only")
            }
            Self::EncodedName => f.write_str(
                "a part of the form has its name encoded (name*): name it in plain ASCII",
            ),
            Self::PartName => f.write_str(
                "a part of the form has a name that is not plain: one name of ASCII letters, digits, and any of . _ - [ ]",
            ),
            Self::RepeatedPart => f.write_str(
                "a name stands at two parts of the form, or in the query too; names that differ in case, punctuation or an \
                 index count as one",
            ),
            Self::TooManyParts => write!(f, "the form has more than {} parts", form::MOST_PARTS),
        }
    }
}

/// Refuses a call to `operation` that breaks a rule of this module.
///
/// `own` is `None` for the institution's own back office, which may name any account. The rules cover a money call at
/// every depth. In other calls they cover the query and the top of the body, where GatePay's calls have their
/// parameters. Names in a write or money call are ASCII, at every depth.
pub fn guard(
    operation: &Operation,
    reading: &BodyReading<'_>,
    own: Option<CallerIdentity<'_>>,
    callbacks: bool,
) -> Result<(), SteeringAttempt> {
    let changes = operation.kind != Kind::Read;
    if changes && !reading.parameters_are_ascii() {
        return Err(SteeringAttempt::ParameterNotAscii);
    }
    if let Some(own) = own {
        GuardRules { own, callbacks }.query(reading)?;
    }
    let parameters = if changes {
        FoldedParameters::read(reading)?
    } else {
        FoldedParameters::default()
    };
    match operation.media {
        MediaType::Json => {
            json(operation.kind, reading, own, callbacks)?;
            if parameters.contradict(reading) {
                return Err(SteeringAttempt::Contradicted);
            }
            Ok(())
        }
        MediaType::Multipart => form::guard(reading.body(), &parameters, |name| match name {
            ReservedName::Account(_) => own.is_none(),
            ReservedName::Callback => callbacks,
        }),
    }
}

/// Whether a name is plain: no parser unquotes, decodes, folds or truncates the name.
fn is_plain_name(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'[' | b']' | b' ')
    };
    !name.is_empty() && name.iter().all(is_plain)
}

fn json(
    kind: Kind,
    reading: &BodyReading<'_>,
    own: Option<CallerIdentity<'_>>,
    callbacks: bool,
) -> Result<(), SteeringAttempt> {
    if let Some(BodyPlace { line, column }) = reading.fault() {
        // A lenient parser may find an account in a body that is not JSON, before a fault that it ignores, such as
        // trailing garbage. The parsing of a read matters only if the body mentions a reserved name.
        let matters = match kind {
            Kind::Money => true,
            Kind::Write => own.is_some(),
            Kind::Read => own.is_some() && reserved::is_mentioned(reading.body()),
        };
        return if matters {
            Err(SteeringAttempt::NotOneText { line, column })
        } else {
            Ok(())
        };
    }
    if let Some(BodyPlace { line, column }) = reading.not_ascii() {
        return Err(SteeringAttempt::NotAscii { line, column });
    }
    if let Some(own) = own {
        GuardRules { own, callbacks }.members(reading)?;
    }
    if let Some(BodyPlace { line, column }) = reading.repeated() {
        return Err(SteeringAttempt::Repeated { line, column });
    }
    if let Some(BodyPlace { line, column }) = reading.too_deep() {
        return Err(SteeringAttempt::TooDeep { line, column });
    }
    match reading.unreadable() {
        Some(BodyPlace { line, column }) => Err(SteeringAttempt::ReadDifferently { line, column }),
        None => Ok(()),
    }
}

#[derive(Clone, Copy)]
struct GuardRules<'a> {
    own: CallerIdentity<'a>,
    callbacks: bool,
}

impl GuardRules<'_> {
    fn query(self, reading: &BodyReading<'_>) -> Result<(), SteeringAttempt> {
        for (name, value) in reading.parameters() {
            if let Some(name) = ReservedName::of(decode(name).as_bytes()) {
                self.admit(name, Some(&decode(value)))?;
            }
        }
        Ok(())
    }

    fn members(self, reading: &BodyReading<'_>) -> Result<(), SteeringAttempt> {
        for (name, value) in reading.reserved() {
            if !value.is_nothing() {
                self.admit(*name, value.text_or_number().as_deref())?;
            }
        }
        Ok(())
    }

    /// Checks one value of a reserved name; `None` is a value that is neither text nor number.
    fn admit(self, name: ReservedName, value: Option<&str>) -> Result<(), SteeringAttempt> {
        match name {
            ReservedName::Callback if self.callbacks || value == Some("") => Ok(()),
            ReservedName::Callback => Err(SteeringAttempt::Callback),
            ReservedName::Account(field)
                if value.is_some_and(|value| self.own.admits(field, value)) =>
            {
                Ok(())
            }
            ReservedName::Account(field) => Err(SteeringAttempt::Account(field)),
        }
    }
}

impl CallerIdentity<'_> {
    /// Whether a value names the caller. Published clients also send `0` and `"0"` for absent values (schemas.md).
    fn admits(self, field: &str, value: &str) -> bool {
        matches!(value, "" | "0")
            || value == self.account
            || (field == CLIENT_ID && value == self.client_id)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_money_body_that_is_json_is_not_called_anything_else() {
        for body in [
            r#"{"refundReason":"\ud800"}"#,
            r#"{"refundReason":"\udfff\ud800"}"#,
            r#"{"x":[1e400]}"#,
            r#"{"refundAmount":-1E+999}"#,
        ] {
            let refused = judge("refund_order", None, body).unwrap_err();
            assert!(
                matches!(refused, SteeringAttempt::ReadDifferently { .. }),
                "{body}"
            );
            assert!(refused.to_string().contains("is JSON, but"), "{body}");
            assert_eq!(judge("create_order", None, body), Ok(()), "a write: {body}");
            assert_eq!(judge("query_order", None, body), Ok(()), "a read: {body}");
        }
        assert_eq!(
            judge("refund_order", None, r#"{"a":"\ud83d\ude00","b":1e308}"#),
            Ok(())
        );
    }

    use super::*;
    use crate::Catalogue;
    use proptest::prelude::*;

    const OWN: CallerIdentity<'_> = CallerIdentity {
        account: "2124538349",
        client_id: "client-acme",
    };

    /// Account fields in various spellings, with their names in refusals.
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

    fn guard_bytes(
        row: &Operation,
        query: Option<&str>,
        body: &[u8],
        own: Option<CallerIdentity<'_>>,
        callbacks: bool,
    ) -> Result<(), SteeringAttempt> {
        guard(row, &BodyReading::read(row, query, body), own, callbacks)
    }

    fn judge(operation: &str, query: Option<&str>, body: &str) -> Result<(), SteeringAttempt> {
        let catalogue = Catalogue::standard();
        guard_bytes(
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
                        Err(SteeringAttempt::Account(field)),
                        "{operation} {body}"
                    );
                }
                let query = format!("a=1&{sent}[]=2124538350");
                assert_eq!(
                    judge(operation, Some(&query), ""),
                    Err(SteeringAttempt::Account(field)),
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
            Err(SteeringAttempt::Account("accountId (account_id)"))
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
                SteeringAttempt::Repeated {
                    line: 1,
                    column: 10,
                },
            ),
            (
                r#"{"refundAmount":1,"RefundAmount":1}"#,
                SteeringAttempt::Repeated {
                    line: 1,
                    column: 32,
                },
            ),
            (
                r#"{"x":[{"a":1,"\u0061":2}]}"#,
                SteeringAttempt::Repeated {
                    line: 1,
                    column: 21,
                },
            ),
            (
                r#"{"a":1} {"a":2}"#,
                SteeringAttempt::NotOneText { line: 1, column: 9 },
            ),
            (
                "{\"a\":1}\nx",
                SteeringAttempt::NotOneText { line: 2, column: 1 },
            ),
            ("a=1", SteeringAttempt::NotOneText { line: 1, column: 1 }),
        ] {
            assert_eq!(judge("refund_order", None, body), Err(refused), "{body}");
            let write = match refused {
                // Below the top of a write, names are the merchant's own.
                SteeringAttempt::Repeated { .. } if body.contains('x') => Ok(()),
                refused => Err(refused),
            };
            assert_eq!(judge("close_order", None, body), write, "a write: {body}");
            assert_eq!(judge("query_order", None, body), Ok(()), "a read: {body}");
        }
        assert_eq!(judge("refund_order", None, " {\"a\":1}\r\n"), Ok(()));
        assert_eq!(judge("refund_order", None, ""), Ok(()));
        let catalogue = Catalogue::standard();
        let transfer = |body: &str| {
            guard_bytes(
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
            Err(SteeringAttempt::Callback)
        );
        assert_eq!(
            judge("save_fixed_address", Some("callbackUrl=x"), "{}"),
            Err(SteeringAttempt::Callback)
        );
        assert_eq!(
            judge("save_fixed_address", None, r#"{"callbackUrl":""}"#),
            Ok(())
        );
        let catalogue = Catalogue::standard();
        let row = catalogue.named("save_fixed_address").unwrap();
        assert_eq!(
            guard_bytes(row, None, body.as_bytes(), Some(OWN), true),
            Ok(())
        );
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
    fn a_body_that_is_not_json_is_refused_even_if_lenient_parsers_accept_it() {
        let utf_16: Vec<u8> =
            r#"{"accountId":"9"}"#.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let catalogue = Catalogue::standard();
        for operation in ["query_order_v2", "query_payout", "close_order"] {
            let row = catalogue.named(operation).unwrap();
            assert!(
                guard_bytes(row, None, &utf_16, Some(OWN), false).is_err(),
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

    /// Names that a parser which ignores case takes for `callbackUrl`, `sub_merchant_id`, `accountId`, `merchant_id`.
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
                        matches!(judged, Err(SteeringAttempt::NotAscii { .. })),
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
        assert_eq!(place, Err(SteeringAttempt::NotAscii { line: 2, column: 2 }));
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
                    Err(SteeringAttempt::ParameterNotAscii),
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
    fn a_parameter_of_a_call_that_changes_something_stands_once_in_any_spelling() {
        for query in [
            "prepayId=1&prepayId=2",
            "prepayId=1&prepayId=1",
            "prepayId=1;prepayId=2",
            "prepayId=1&x=1;PrepayID=2",
            "prepayId=1&prepay%49d=2",
            "prepayId=1&%70repayId",
            "prepayId=&prepayId=2",
            "prepayId[]=1&prepayId[]=2",
            "prepayId=1&prepayId[]=2",
            "prepayId=1&prepayId%5B0%5D=2",
            "a+b=1&a%20b=2",
            "a+b=1&ab=2",
            "prepay_id=1&prepayId=2",
            "=1&=2",
        ] {
            for operation in ["close_order", "refund_order", "create_otc_bank"] {
                let judged = judge(operation, Some(query), "");
                let refused = if query.starts_with('=') {
                    SteeringAttempt::ParameterName
                } else {
                    SteeringAttempt::RepeatedParameter
                };
                assert_eq!(judged, Err(refused), "{operation} {query}");
            }
            assert_eq!(
                judge("query_order", Some(query), ""),
                Ok(()),
                "a read: {query}"
            );
        }
        for query in [
            "",
            "&&",
            "a=1&b=2&",
            "a=1&b=1;c=1",
            "a[0]=x&b[0]=x",
            "_=17&a.b-c=1",
        ] {
            assert_eq!(judge("refund_order", Some(query), ""), Ok(()), "{query}");
        }
    }

    #[test]
    fn a_parameter_of_a_call_that_changes_something_has_a_name_that_no_reader_changes() {
        for query in [
            "prepayI%2564=1",
            "prepay%u0049d=1",
            "prepayId%00=1",
            "prepayId%0a=1",
            "a%26prepayId=1",
            "a%3Bprepay=1",
            "a%3D1=1",
            "%22a%22=1",
            "a%2Bb=1",
            "%=1",
        ] {
            for operation in ["close_order", "refund_order", "create_otc_bank"] {
                let judged = judge(operation, Some(query), "");
                assert_eq!(
                    judged,
                    Err(SteeringAttempt::ParameterName),
                    "{operation} {query}"
                );
            }
            assert_eq!(judge("query_order", Some(query), ""), Ok(()), "{query}");
        }
    }

    #[test]
    fn query_and_body_of_a_call_that_changes_something_do_not_contradict_each_other() {
        let cases = [
            ("prepayId=1", r#"{"prepayId":"2"}"#, false),
            ("prepayId=1", r#"{"PREPAY_ID":2}"#, false),
            ("x=1&prepay%49d=1", r#"{"prepayId":"2"}"#, false),
            ("prepayId=1", r#"{"prepayId":["1"]}"#, false),
            ("prepayId=1", r#"{"prepayId":1.0}"#, false),
            ("prepayId=1", r#"{"prepayId":"1"}"#, true),
            ("prepayId=%31", r#"{"prepayId":1}"#, true),
            ("flag=true", r#"{"flag":true}"#, true),
            ("prepayId=", r#"{"prepayId":"2"}"#, true),
            ("prepayId=1", r#"{"prepayId":""}"#, true),
            ("prepayId=1", r#"{"prepayId":null}"#, true),
            ("prepayId=1", r#"{"x":{"prepayId":"2"}}"#, true),
            ("prepayId=1", r#"["2"]"#, true),
            ("", r#"{"prepayId":"2"}"#, true),
        ];
        for (query, body, passes) in cases {
            for operation in ["close_order", "refund_order"] {
                let judged = judge(operation, Some(query), body);
                assert_eq!(judged.is_ok(), passes, "{operation} {query} {body}");
            }
            assert_eq!(
                judge("query_order", Some(query), body),
                Ok(()),
                "{query} {body}"
            );
        }
        let many: Vec<_> = (0..40).map(|at| format!(r#""m{at}":1,"#)).collect();
        let many = many.concat();
        let body = format!(r#"{{{many}"prepayId":"2"}}"#);
        let judged = judge("close_order", Some("prepayId=1"), &body);
        assert_eq!(judged, Err(SteeringAttempt::Contradicted));
    }

    #[test]
    fn a_parameter_has_no_name_of_a_part() {
        let form = "--b\r\nContent-Disposition: form-data; name=\"iban\"\r\n\r\n7\r\n--b--\r\n";
        for query in ["iban=7", "IBAN=9", "iban[]=9"] {
            let judged = judge("create_otc_bank", Some(query), form);
            assert_eq!(judged, Err(SteeringAttempt::RepeatedPart), "{query}");
        }
        assert_eq!(judge("create_otc_bank", Some("x=7"), form), Ok(()));
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
                is_fullwidth || guard_bytes(row, None, &wide, Some(OWN), false).is_err(),
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
        fn guarding_a_body_never_panics(body: Vec<u8>, query in "[ -~]{0,40}") {
            let catalogue = Catalogue::standard();
            for operation in ["refund_order", "query_order"] {
                let _unread = guard_bytes(catalogue.named(operation).unwrap(), Some(&query), &body, Some(OWN), false);
            }
        }
    }
}
