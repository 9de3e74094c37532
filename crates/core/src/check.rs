//! Body checks: refuse requests that GatePay would refuse anyway, and save the round trip.
//!
//! A check reads a body and never rewrites it. The rules stand on the catalogue row, as [`BodyField`]s.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use crate::body::{BodyPlace, BodyReading, BodyValue};
use crate::field::{BodyField, FieldForm, FieldNeed};
use crate::operation::{IdempotencyKey, Kind, Operation};
use crate::words::words;

/// The strictness of the body checks; `checks` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strictness {
    /// Refuses only requests that GatePay is certain to refuse: a body that is not JSON, a required field that is
    /// missing.
    #[default]
    Certain,
    /// Also enforces the lengths and patterns that the pages state, though the pages contradict each other.
    Strict,
    /// Refuses nothing.
    Off,
}

words!(Strictness { Certain = "certain", Strict = "strict", Off = "off" });

/// The result of a passed check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckedBody {
    /// The value that identifies the business transaction, as the tenant sent it, for logs: at most [`LONGEST_KEY`]
    /// visible ASCII characters. A read has no key.
    pub key: Option<String>,
}

/// The reason for refusing a body. It names the field and the rule, and never contains the field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFault {
    /// The field's path, or `None` if the body as a whole is at fault.
    pub field: Option<&'static str>,
    /// The broken rule.
    pub problem: BodyRule,
}

/// A rule that a body breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRule {
    /// The body is not exactly one JSON text; the place of the fault.
    NotJson {
        /// The line, counted from 1.
        line: usize,
        /// Bytes of that line up to the fault.
        column: usize,
    },
    /// The field is required. Null and empty text count as absent.
    Missing,
    /// The field and the given alternative are both absent.
    Neither(&'static str),
    /// The field does not have the given form.
    NotOfForm(FieldForm),
}

/// Checks a request by the rules of its row.
///
/// A field may stand in the query or in the body, in upper or lower case. Clients send ids in either, or in both
/// (schemas.md), and GatePay is not certain to refuse another spelling. A row without rules refuses nothing, and a body
/// that is not JSON merely has no key.
pub fn inspect(
    operation: &Operation,
    reading: &BodyReading<'_>,
    strictness: Strictness,
) -> Result<CheckedBody, BodyFault> {
    let rules = match strictness {
        Strictness::Off => &[],
        Strictness::Certain | Strictness::Strict => operation.fields,
    };
    if let Some(BodyPlace { line, column }) = reading.fault()
        && !rules.is_empty()
    {
        return Err(BodyFault {
            field: None,
            problem: BodyRule::NotJson { line, column },
        });
    }
    check(rules, reading, strictness)?;
    let key = match operation.kind {
        Kind::Read => None,
        Kind::Write | Kind::Money => key_of(&operation.key, reading),
    };
    Ok(CheckedBody { key })
}

fn check(
    fields: &[BodyField],
    sent: &BodyReading<'_>,
    strictness: Strictness,
) -> Result<(), BodyFault> {
    for field in fields {
        check_need(field, sent)?;
        if strictness == Strictness::Strict {
            check_form(field, sent)?;
        }
    }
    Ok(())
}

fn check_need(field: &BodyField, sent: &BodyReading<'_>) -> Result<(), BodyFault> {
    match field.need {
        FieldNeed::Required if !sent.has(field.name) => Err(field.fault(BodyRule::Missing)),
        FieldNeed::Or(other) if !sent.has(field.name) && !sent.has(other) => {
            Err(field.fault(BodyRule::Neither(other)))
        }
        FieldNeed::Required | FieldNeed::Or(_) | FieldNeed::Optional => Ok(()),
    }
}

/// Every occurrence of a field has to have its form, since it is unknown which occurrence GatePay reads.
fn check_form(field: &BodyField, sent: &BodyReading<'_>) -> Result<(), BodyFault> {
    let malformed = field.fault(BodyRule::NotOfForm(field.form));
    for value in sent.values(field.name) {
        if let FieldForm::Object(fields) = field.form {
            let members = value.members().ok_or(malformed)?;
            check(fields, &members, Strictness::Strict)?;
        } else if !field.form.admits(&value) {
            return Err(malformed);
        }
    }
    Ok(())
}

/// The key of the transaction, if the key is complete and fit for a log.
fn key_of(key: &IdempotencyKey, sent: &BodyReading<'_>) -> Option<String> {
    let text = |field: &str| sent.last(field);
    let key = match key {
        IdempotencyKey::None => None,
        IdempotencyKey::One(field) => text(field),
        IdempotencyKey::Either(first, second) => text(first).or_else(|| text(second)),
        IdempotencyKey::Both(first, second) => text(first)
            .zip(text(second))
            .map(|(first, second)| Cow::Owned(format!("{first}+{second}"))),
    }?;
    let fit = key.len() <= LONGEST_KEY && key.bytes().all(|byte| byte.is_ascii_graphic());
    fit.then(|| key.into_owned())
}

impl FieldForm {
    /// Whether a value has this form. The members of an object are not checked.
    pub(crate) fn admits(self, value: &BodyValue<'_>) -> bool {
        let text = |fits: &dyn Fn(&str) -> bool| value.text().is_some_and(|text| fits(&text));
        match self {
            Self::Text => text(&|_| true),
            Self::Characters(least, most) => {
                text(&|text| (least..=most).contains(&text.chars().count()))
            }
            Self::Bytes(most) => text(&|text| text.len() <= most),
            Self::OneOf(words) => text(&|text| words.contains(&text)),
            Self::Amount(decimals) => text(&|text| is_positive_amount(text, decimals)),
            Self::Integer => value.number().is_some_and(is_integer),
            Self::Texts => value.is_list_of_texts(),
            Self::Object(_) => value.members().is_some(),
        }
    }
}

/// Whether a text matches `^\d+(\.\d{1,n})?$` and is above zero.
fn is_positive_amount(text: &str, decimals: usize) -> bool {
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let well_formed = match text.split_once('.') {
        Some((whole, fraction)) => {
            is_digits(whole) && is_digits(fraction) && fraction.len() <= decimals
        }
        None => is_digits(text),
    };
    well_formed && text.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
}

fn is_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

impl BodyField {
    fn fault(&self, problem: BodyRule) -> BodyFault {
        BodyFault {
            field: Some(self.path),
            problem,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field, self.problem) {
            (Some(field), BodyRule::Neither(other)) => {
                write!(f, "{field} or {other}: {}", self.problem)
            }
            (Some(field), _) => write!(f, "{field}: {}", self.problem),
            (None, _) => write!(f, "body {}", self.problem),
        }
    }
}

impl Error for BodyFault {}

impl fmt::Display for BodyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson { line, column } => {
                write!(f, "is not JSON (line {line}, column {column})")
            }
            Self::Missing => f.write_str("required field is missing"),
            Self::Neither(_) => f.write_str("one of the two is required"),
            Self::NotOfForm(form) => form.fmt(f),
        }
    }
}

/// The maximum length of a key for logs, in bytes.
pub const LONGEST_KEY: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::operation::Method;
    use proptest::prelude::*;

    const CREATE: &str = r#"{"merchantTradeNo":"22212345678555","env":{"terminalType":"APP"},"currency":"GT","orderAmount":"1.21","goods":{"goodsName":"NF2T"}}"#;

    fn inspect_bytes(
        row: &Operation,
        query: Option<&str>,
        body: &[u8],
        strictness: Strictness,
    ) -> Result<CheckedBody, BodyFault> {
        inspect(row, &BodyReading::read(row, query, body), strictness)
    }

    fn run(
        name: &str,
        query: &str,
        body: &str,
        strictness: Strictness,
    ) -> Result<Option<String>, String> {
        let catalogue = Catalogue::standard();
        let row = catalogue.named(name).unwrap();
        let query = Some(query).filter(|query| !query.is_empty());
        inspect_bytes(row, query, body.as_bytes(), strictness)
            .map(|inspected| inspected.key)
            .map_err(|fault| fault.to_string())
    }

    fn certain(name: &str, query: &str, body: &str) -> Result<Option<String>, String> {
        run(name, query, body, Strictness::Certain)
    }

    fn strict(name: &str, body: &str) -> Result<Option<String>, String> {
        run(name, "", body, Strictness::Strict)
    }

    fn fault(text: &str) -> Result<Option<String>, String> {
        Err(text.to_owned())
    }

    #[test]
    fn every_required_field_is_missed_by_name() {
        for (row, fields) in [
            (
                "create_order",
                "merchantTradeNo env currency orderAmount goods",
            ),
            ("refund_order", "refundRequestId prepayId refundAmount"),
            ("query_refund", "refundRequestId"),
        ] {
            let fields: Vec<_> = fields.split(' ').collect();
            for missing in &fields {
                for odd in [
                    "",
                    r#","MISSING":null"#,
                    r#","MISSING":"""#,
                    r#","x":{"MISSING":1}"#,
                ] {
                    let present = fields.iter().filter(|field| field != &missing);
                    let members: Vec<_> =
                        present.map(|field| format!(r#""{field}":"1","#)).collect();
                    let members = members.concat();
                    let body = format!(r#"{{{members}"_":0{}}}"#, odd.replace("MISSING", missing));
                    assert_eq!(
                        certain(row, "", &body),
                        fault(&format!("{missing}: required field is missing")),
                        "{row}: {body}"
                    );
                }
            }
        }
    }

    #[test]
    fn one_of_two_ids_is_enough_wherever_it_stands() {
        let neither = "prepayId or merchantTradeNo: one of the two is required";
        for row in ["query_order", "close_order"] {
            for (query, body) in [
                ("", r#"{"prepayId":"1"}"#),
                ("", r#"{"prepayId":"","merchantTradeNo":"A-1"}"#),
                ("", r#"{"prepayId":null,"merchantTradeNo":17}"#),
                ("", "\u{feff}{\"prepayId\":\"1\"}"),
                ("prepayId=1", "{}"),
                ("prepayId=1", ""),
                ("x=%zz&merchantTradeNo=A%2D1&prepayId=", "\n"),
            ] {
                assert!(certain(row, query, body).is_ok(), "{query} {body}");
            }
            for (query, body) in [
                ("", ""),
                ("", "{}"),
                ("", r#"{"prepayId":"","merchantTradeNo":null}"#),
                ("prepayId=&merchantTradeNo", r#"["prepayId"]"#),
                ("prepay_id=1", "null"),
            ] {
                assert_eq!(certain(row, query, body), fault(neither), "{query} {body}");
            }
        }
    }

    #[test]
    fn a_required_field_in_another_case_is_not_certain_to_be_missed() {
        for (row, query, body) in [
            (
                "create_order",
                "",
                CREATE.replace("merchantTradeNo", "MerchantTradeNo"),
            ),
            ("create_order", "", CREATE.replace("goods\"", "GOODS\"")),
            ("query_order", "", r#"{"PREPAYID":"1"}"#.to_owned()),
            ("query_order", "prepayid=1", String::new()),
            ("query_order", "x=1;prepayId=1", String::new()),
        ] {
            assert!(certain(row, query, &body).is_ok(), "{query} {body}");
        }
        let strict = |from: &str, to: &str| strict("create_order", &CREATE.replace(from, to));
        assert!(strict("goodsName", "GoodsName").is_ok());
        let short = strict(
            "merchantTradeNo\":\"22212345678555",
            "MerchantTradeNo\":\"1",
        );
        assert_eq!(
            short,
            fault("merchantTradeNo: must be text of 5 to 32 characters")
        );
    }

    #[test]
    fn a_body_that_is_not_json_is_placed_but_not_repeated() {
        for (body, at) in [
            ("{1234", "line 1, column 2"),
            ("{\n  \"prepayId\": 'secret'}", "line 2, column 15"),
            (r#"{"prepayId":"1"} x"#, "line 1, column 18"),
        ] {
            let want = format!("body is not JSON ({at})");
            assert_eq!(certain("query_order", "prepayId=1", body), fault(&want));
        }
        let catalogue = Catalogue::standard();
        let row = catalogue.named("query_order").unwrap();
        let fault = inspect_bytes(row, None, b"{\n\"\xff\"}", Strictness::Certain).unwrap_err();
        assert_eq!(fault.to_string(), "body is not JSON (line 2, column 2)");
    }

    #[test]
    fn lengths_and_patterns_are_not_certain() {
        for (from, to) in [
            ("22212345678555", "123"),
            ("1.21", "1.210000"),
            ("1.21", "0"),
            (r#""APP""#, r#""FRIDGE""#),
            (r#"{"goodsName":"NF2T"}"#, "{}"),
            (r#"{"goodsName":"NF2T"}"#, r#""x""#),
            (r#""GT""#, r#""GT","currency":null"#),
        ] {
            assert!(
                certain("create_order", "", &CREATE.replace(from, to)).is_ok(),
                "{to}"
            );
        }
    }

    #[test]
    fn strict_checks_add_the_rules_of_gatepays_pages() {
        assert_eq!(
            strict("create_order", CREATE),
            Ok(Some("22212345678555".to_owned()))
        );
        let long = |length| format!("\"{}\"", "é".repeat(length));
        for (from, to, want) in [
            (
                "\"22212345678555\"",
                "\"1234\"",
                "merchantTradeNo: must be text of 5 to 32 characters",
            ),
            (
                "\"22212345678555\"",
                &long(33),
                "merchantTradeNo: must be text of 5 to 32 characters",
            ),
            (
                "\"22212345678555\"",
                "22212345678555",
                "merchantTradeNo: must be text of 5 to 32 characters",
            ),
            (
                "APP",
                "app",
                "env.terminalType: must be one of APP, WEB, WAP, MINIAPP, OTHERS",
            ),
            (
                r#"{"terminalType":"APP"}"#,
                "{}",
                "env.terminalType: required field is missing",
            ),
            (
                r#"{"terminalType":"APP"}"#,
                r#""APP""#,
                "env: must be an object",
            ),
            (r#"{"goodsName":"NF2T"}"#, "[]", "goods: must be an object"),
            (
                "\"NF2T\"",
                &long(161),
                "goods.goodsName: must be text of at most 160 characters",
            ),
            (
                "NF2T\"",
                "x\",\"goodsDetail\":7",
                "goods.goodsDetail: must be text of at most 256 characters",
            ),
        ] {
            assert_eq!(
                strict("create_order", &CREATE.replace(from, to)),
                fault(want),
                "{to}"
            );
        }
    }

    #[test]
    fn strict_checks_cover_amounts_times_lists_and_lengths() {
        let long = |length| format!("\"{}\"", "é".repeat(length));
        for (amount, fits) in [
            ("1", true),
            ("0.01", true),
            ("10.5", true),
            ("00", false),
            ("0.00", false),
            ("1.", false),
            (".5", false),
            ("1.234", false),
            ("-1", false),
            ("1e3", false),
            ("１", false),
            (" 1", false),
        ] {
            assert_eq!(
                strict("create_order", &CREATE.replace("1.21", amount)).is_ok(),
                fits,
                "{amount}"
            );
        }
        for (member, fits) in [
            (r#""orderExpireTime":1672909255498"#, true),
            (r#""orderExpireTime":"1672909255498""#, false),
            (r#""orderExpireTime":1.5"#, false),
            (r#""orderExpireTime":1e3"#, false),
            (r#""orderExpireTime":null"#, true),
            (r#""payTypes":["A","B"]"#, true),
            (r#""payTypes":["A",1]"#, false),
            (r#""payTypes":"A""#, false),
            (r#""channelId":"""#, true),
            (r#""fiatAmount":1"#, false),
            (r#""somethingNew":{"deep":[1]}"#, true),
        ] {
            let body = CREATE.replacen('{', &format!("{{{member},"), 1);
            assert_eq!(strict("create_order", &body).is_ok(), fits, "{member}");
        }
        for member in ["returnUrl", "cancelUrl", "channelId"] {
            let most = if member == "channelId" { 32 } else { 512 };
            for length in [most, most + 1] {
                let body = CREATE.replacen('{', &format!("{{\"{member}\":{},", long(length)), 1);
                assert_eq!(
                    strict("create_order", &body).is_ok(),
                    length == most,
                    "{member}"
                );
            }
        }
    }

    #[test]
    fn an_order_is_queried_by_at_most_32_bytes() {
        for row in ["query_order", "close_order"] {
            let body = |id: &str| format!(r#"{{"merchantTradeNo":"{id}"}}"#);
            assert!(strict(row, &body(&"a".repeat(32))).is_ok());
            let want = fault("merchantTradeNo: must be text of at most 32 bytes");
            assert_eq!(strict(row, &body(&"é".repeat(17))), want);
            let query = format!("merchantTradeNo={}", "a".repeat(33));
            assert_eq!(run(row, &query, "", Strictness::Strict), want);
        }
    }

    #[test]
    fn the_idempotency_key_is_the_one_in_the_tenants_body() {
        let none = Ok(None);
        assert_eq!(
            certain("create_order", "", CREATE),
            Ok(Some("22212345678555".to_owned()))
        );
        assert_eq!(
            certain("query_order", "", r#"{"prepayId":"1"}"#),
            none,
            "a read has none"
        );
        assert_eq!(
            certain("close_order", "merchantTradeNo=Q", r#"{"prepayId":"P"}"#),
            Ok(Some("Q".to_owned()))
        );
        assert_eq!(
            certain(
                "create_order",
                "",
                &CREATE.replace("merchantTradeNo", "MerchantTradeNo")
            ),
            Ok(Some("22212345678555".to_owned())),
            "as Java's library writes it"
        );
        assert_eq!(
            certain("close_order", "merchantTradeNo=Q;R", "{}"),
            none,
            "Q, or Q;R"
        );
        assert_eq!(
            certain("close_order", "prepayId=Q", r#"{"prepayId":"P"}"#),
            Ok(Some("P".to_owned()))
        );
        assert_eq!(
            certain("close_order", "", r#"{"prepayId":7,"merchantTradeNo":""}"#),
            Ok(Some("7".to_owned()))
        );
        assert_eq!(
            certain("close_order", "", r#"{"prepayId":"a b"}"#),
            none,
            "not fit for a log"
        );
        for (length, kept) in [(LONGEST_KEY, true), (LONGEST_KEY + 1, false)] {
            let body = format!(r#"{{"batch_id":"{}"}}"#, "x".repeat(length));
            assert_eq!(
                certain("create_payout", "", &body).map(|key| key.is_some()),
                Ok(kept)
            );
        }
        let address = |body| certain("save_fixed_address", "", body);
        assert_eq!(
            address(r#"{"chain":"BSC","channelId":"c"}"#),
            Ok(Some("c+BSC".to_owned()))
        );
        assert_eq!(address(r#"{"chain":"BSC"}"#), none);
    }

    #[test]
    fn strictness_off_refuses_no_body() {
        let cut = r#"{"merchantTradeNo":"A-1","batch_id":"B-1","env":"#;
        for body in ["", "not json", "{}", cut] {
            assert_eq!(run("create_order", "", body, Strictness::Off), Ok(None));
            assert_eq!(strict("create_payout", body), Ok(None));
            assert_eq!(strict("list_products", body), Ok(None));
        }
        assert_eq!(
            run("create_order", "", CREATE, Strictness::Off),
            Ok(Some("22212345678555".to_owned()))
        );
        assert_eq!(
            run(
                "create_order",
                "merchantTradeNo=Q",
                "not json",
                Strictness::Off
            ),
            Ok(Some("Q".to_owned()))
        );
    }

    #[test]
    fn half_a_surrogate_pair_is_json() {
        let body = CREATE.replace("NF2T", r"\ud83d");
        assert!(certain("create_order", "", &body).is_ok());
    }

    #[test]
    fn a_faulty_body_is_an_error_that_can_be_passed_on() {
        fn is_error(_: impl Error + Copy) {}
        is_error(BodyFault {
            field: None,
            problem: BodyRule::Missing,
        });
    }

    #[test]
    fn no_published_sample_is_refused() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/gatepay/samples.json"
        );
        let file: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let samples = file["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 4);
        let catalogue = Catalogue::standard();
        for sample in samples {
            let path = sample["merchant_path"].as_str().unwrap();
            let row = &catalogue.rows()[catalogue.merchant(Method::Post, path).unwrap()];
            assert!(!row.fields.is_empty(), "{path}");
            let body = sample["request"].to_string();
            for strictness in Strictness::ALL {
                let inspected = inspect_bytes(row, None, body.as_bytes(), *strictness).unwrap();
                assert_eq!(inspected.key.is_some(), row.kind != Kind::Read, "{path}");
            }
        }
    }

    /// Bodies near the rules: names from the rules, values of every type, sometimes truncated.
    fn near_body() -> impl Strategy<Value = Vec<u8>> {
        let name = prop::sample::select(vec![
            "merchantTradeNo",
            "prepayId",
            "env",
            "goods",
            "currency",
            "orderAmount",
            "payTypes",
            "refundRequestId",
            "refundAmount",
            "orderExpireTime",
            r"prepay\u0049d",
            "other",
        ]);
        let value = prop::sample::select(vec![
            "null",
            r#""""#,
            r#""12345""#,
            r#""1.21""#,
            "0",
            "1.5",
            "[]",
            r#"["a"]"#,
            "{}",
            r#"{"terminalType":"APP"}"#,
            r#"{"goodsName":"x"}"#,
            r#""\ud800""#,
            "1e999",
            "tru",
        ]);
        let members = prop::collection::vec((name, value), 0..8);
        (
            members,
            any::<prop::sample::Index>(),
            prop::bool::weighted(0.2),
        )
            .prop_map(|(members, cut, is_cut)| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                let mut body = format!("{{{}}}", members.join(",")).into_bytes();
                if is_cut {
                    body.truncate(cut.index(body.len()));
                }
                body
            })
    }

    proptest! {
        #[test]
        fn every_fault_of_the_certain_checks_is_a_fault_of_the_strict_checks(body in near_body(), query in "((prepayId|merchantTradeNo|env)=[%+a1]{0,3}&?){0,2}") {
            for row in Catalogue::standard().rows() {
                let of = |strictness| inspect_bytes(row, Some(&query), &body, strictness);
                if of(Strictness::Certain).is_err() {
                    prop_assert!(of(Strictness::Strict).is_err(), "{}", row.name);
                }
                prop_assert!(of(Strictness::Off).is_ok());
            }
        }

        #[test]
        fn inspecting_a_body_never_panics(body: Vec<u8>, query: String) {
            for row in Catalogue::standard().rows() {
                for strictness in Strictness::ALL {
                    drop(inspect_bytes(row, Some(&query), &body, *strictness));
                }
            }
        }
    }
}
