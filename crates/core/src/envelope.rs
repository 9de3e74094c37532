//! Envelope: judges whether an answer is a success, and defines the form of the proxy's own answers.

use std::borrow::Cow;
use std::fmt;

use arrayvec::ArrayString;
use serde::Serialize;

use crate::codes::{self, CodeMeaning};
use crate::json::{self, JsonShape, JsonText};
use crate::operation::Kind;
use crate::text;
use crate::words::words;

/// The verdict of an answer on its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerVerdict {
    /// GatePay accepted the call. An accepted refund or payout is not yet "done" (protocol.md 4.1).
    Success,
    /// GatePay refused the call.
    Failure,
    /// The answer is inconclusive. A money call has to be looked up.
    Unknown,
}

words!(AnswerVerdict { Success = "success", Failure = "failure", Unknown = "unknown" });

/// The result of judging an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerJudgement {
    /// Whether the call succeeded.
    pub verdict: AnswerVerdict,
    /// GatePay's code, if the answer has one.
    pub code: Option<EnvelopeCode>,
    /// The form of the answer's body.
    pub form: AnswerShape,
}

/// The form of an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerShape {
    /// The body is empty, or white space.
    Empty,
    /// The body is not exactly one complete JSON text.
    NotJson,
    /// A JSON scalar, which may be truncated: the beginning of a number is a number too.
    Scalar,
    /// A JSON object or array, which is complete, since its last bracket is present.
    Structure,
}

impl AnswerJudgement {
    /// The judgment of an answer that was not read.
    pub const UNREAD: Self = Self {
        verdict: AnswerVerdict::Unknown,
        code: None,
        form: AnswerShape::NotJson,
    };
}

/// Judges a complete answer by the rules of protocol.md 4.1, in their order. The proxy relays the answer unchanged.
///
/// Do not pass a truncated answer: code that reads a truncated answer assigns [`AnswerVerdict::Unknown`] itself.
pub fn judge(kind: Kind, status: u16, body: &[u8]) -> AnswerJudgement {
    let members = str::from_utf8(body).ok().and_then(EnvelopeMembers::read);
    match members {
        Some(members) => members.judge(kind, status),
        None => judge_recoded(kind, status, body),
    }
}

/// Judges a body that is not JSON in UTF-8.
///
/// The body may be JSON in another encoding. In an unknown encoding only the code is read, without a verdict: a code
/// that rejects the institution is an alarm.
#[cold]
fn judge_recoded(kind: Kind, status: u16, body: &[u8]) -> AnswerJudgement {
    if body.trim_ascii().is_empty() {
        return AnswerJudgement {
            form: AnswerShape::Empty,
            ..AnswerJudgement::UNREAD
        };
    }
    if let Some(members) = text::decode(body)
        .as_deref()
        .and_then(EnvelopeMembers::read)
    {
        return members.judge(kind, status);
    }
    let lossy = String::from_utf8_lossy(body);
    let code = EnvelopeMembers::read(&lossy).and_then(|members| members.kept_code());
    AnswerJudgement {
        code,
        ..AnswerJudgement::UNREAD
    }
}

/// Whether a code judges the institution's signature, clock or client id (protocol.md 4.2).
///
/// A tenant that sees such a code would look for the fault in its own signature, clock or client id. Every answer takes
/// this check, so the function does not search the table in [`codes`], with which it agrees.
pub fn rejects_institution(code: &str) -> bool {
    matches!(code, "400002" | "400003" | "400004" | "400020")
}

/// Whether a code means "unknown, repeat with the same parameters" (protocol.md 4.2).
fn is_unsettled(code: &str) -> bool {
    matches!(code, "300000" | "300001" | "400000")
}

/// A code as GatePay printed it: 1 to 16 visible ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnvelopeCode(ArrayString<LONGEST_CODE>);

impl EnvelopeCode {
    /// Accepts a code that is fit for logs and metrics.
    pub fn new(text: &str) -> Option<Self> {
        let is_visible = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let code = ArrayString::from(text).ok().filter(|_| is_visible)?;
        Some(Self(code))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvelopeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EnvelopeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// GatePay's standard envelope (protocol.md 4.1). A merchant's existing code reads the proxy's refusals in this form.
///
/// ```
/// # use gatepay_core::envelope::Envelope;
/// let refusal = Envelope::failure("400002", "SIGNATURE_MISMATCH", "signature does not match");
/// assert_eq!(
///     serde_json::to_string(&refusal).unwrap(),
///     r#"{"status":"FAIL","code":"400002","label":"SIGNATURE_MISMATCH","errorMessage":"signature does not match","data":null}"#,
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<'a, D = ()> {
    /// `SUCCESS` or `FAIL`.
    pub status: &'a str,
    /// A code of protocol.md 4.2, or of the proxy's own range.
    pub code: &'a str,
    /// The code as a word, for failures only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    /// The code as a sentence, or empty.
    pub error_message: Cow<'a, str>,
    /// The data the caller asked for; `null` if there is none.
    pub data: D,
}

impl<'a> Envelope<'a> {
    /// A refusal without data.
    pub fn failure(code: &'a str, label: &'a str, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            status: "FAIL",
            code,
            label: Some(label),
            error_message: message.into(),
            data: (),
        }
    }

    /// The same envelope with data.
    pub fn with<D>(self, data: D) -> Envelope<'a, D> {
        let Self {
            status,
            code,
            label,
            error_message,
            data: (),
        } = self;
        Envelope {
            status,
            code,
            label,
            error_message,
            data,
        }
    }
}

impl<D> Envelope<'static, D> {
    /// A success with data.
    pub fn success(data: D) -> Self {
        Self {
            status: "SUCCESS",
            code: "000000",
            label: None,
            error_message: "".into(),
            data,
        }
    }
}

/// The members of an answer that decide the verdict, each at most once.
struct EnvelopeMembers<'a> {
    shape: JsonShape,
    success: Option<JsonText<'a>>,
    status: Option<JsonText<'a>>,
    code: Option<JsonText<'a>>,
    /// A member occurs twice with different values, so that two parsers may decide differently.
    contradictory: bool,
}

impl<'a> EnvelopeMembers<'a> {
    /// Reads the members; `None` if the body is not exactly one JSON text.
    fn read(body: &'a str) -> Option<Self> {
        let mut members = Self {
            shape: JsonShape::Scalar,
            success: None,
            status: None,
            code: None,
            contradictory: false,
        };
        let shape = json::read(body, &mut |name, value| {
            let slot = match name {
                b"success" => &mut members.success,
                b"status" => &mut members.status,
                b"code" => &mut members.code,
                _ => return,
            };
            let before = slot.replace(value);
            members.contradictory |= before.is_some_and(|before| !before.same(value));
        });
        members.shape = shape.ok()?;
        Some(members)
    }

    fn judge(&self, kind: Kind, status: u16) -> AnswerJudgement {
        let code = self.code.and_then(printed_code);
        let code = code.as_deref();
        let verdict = if status >= 500 || code.is_some_and(is_unsettled) {
            AnswerVerdict::Unknown
        } else {
            match (status, self.verdict(kind, code)) {
                (200..=299, AnswerVerdict::Success) if kind != Kind::Read && self.denies(code) => {
                    AnswerVerdict::Unknown
                }
                (200..=299, verdict) => verdict,
                (_, AnswerVerdict::Failure) => AnswerVerdict::Failure,
                (_, AnswerVerdict::Success | AnswerVerdict::Unknown) => AnswerVerdict::Unknown,
            }
        };
        AnswerJudgement {
            verdict,
            code: code.and_then(EnvelopeCode::new),
            form: match self.shape {
                JsonShape::Scalar => AnswerShape::Scalar,
                JsonShape::Object | JsonShape::Array => AnswerShape::Structure,
            },
        }
    }

    fn kept_code(&self) -> Option<EnvelopeCode> {
        EnvelopeCode::new(&self.code.and_then(printed_code)?)
    }

    /// Whether the code contradicts a success. For a write or money call the verdict is then unknown.
    fn denies(&self, code: Option<&str>) -> bool {
        let is_usual = self.code.is_none() || code == Some("000000");
        !is_usual
            && code
                .and_then(codes::meaning)
                .is_some_and(|meaning| meaning != CodeMeaning::Success)
    }

    /// The verdict of an answer with a 2xx status.
    fn verdict(&self, kind: Kind, code: Option<&str>) -> AnswerVerdict {
        if self.contradictory {
            return AnswerVerdict::Unknown;
        }
        match (self.shape, self.success.map(JsonText::as_str)) {
            // Only reads answer with a bare list (protocol.md 4.1).
            (JsonShape::Array, _) if kind == Kind::Read => return AnswerVerdict::Success,
            (JsonShape::Array | JsonShape::Scalar, _) => return AnswerVerdict::Unknown,
            (_, Some("true")) => return AnswerVerdict::Success,
            (_, Some("false")) => return AnswerVerdict::Failure,
            _ => {}
        }
        if let Some(status) = self.status {
            return match status.text() {
                Some(text) if text.eq_ignore_ascii_case("SUCCESS") => AnswerVerdict::Success,
                Some(text) if text.eq_ignore_ascii_case("FAIL") => AnswerVerdict::Failure,
                _ => AnswerVerdict::Unknown,
            };
        }
        match (self.code.map(JsonText::as_str), code) {
            (Some("null"), _) | (_, Some("000000" | "00000" | "0" | "SUCCESS" | "")) => {
                AnswerVerdict::Success
            }
            (_, Some(_)) => AnswerVerdict::Failure,
            (None, None) if kind == Kind::Read && self.success.is_none() => AnswerVerdict::Success,
            // A code that is neither number nor text, or a `success` that is no boolean, decides nothing.
            (_, None) => AnswerVerdict::Unknown,
        }
    }
}

/// A code as printed: text or a number. A number may be written as `4.00002e5` too.
fn printed_code(code: JsonText<'_>) -> Option<Cow<'_, str>> {
    let text = code.text_or_number()?;
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(text);
    }
    Some(plain_code(code, text))
}

#[cold]
fn plain_code<'a>(code: JsonText<'a>, text: Cow<'a, str>) -> Cow<'a, str> {
    let number = code.number().and_then(|number| number.parse::<f64>().ok());
    match number {
        Some(number) if number.fract() == 0.0 && (0.0..1e9).contains(&number) => {
            Cow::Owned(format!("{number:.0}"))
        }
        Some(_) => text,
        None => Cow::Owned(text.trim().to_owned()),
    }
}

const LONGEST_CODE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use AnswerVerdict::{Failure, Success, Unknown};
    use Kind::{Money, Read, Write};
    use proptest::prelude::*;

    fn verdict(kind: Kind, status: u16, body: &str) -> AnswerVerdict {
        judge(kind, status, body.as_bytes()).verdict
    }

    /// The verdict of an answer with status 200, which must not depend on the call's kind.
    fn ok(body: &str) -> AnswerVerdict {
        let [read, write, money] = [Read, Write, Money].map(|kind| verdict(kind, 200, body));
        assert_eq!((read, read), (write, money), "{body}");
        read
    }

    #[test]
    fn the_standard_envelope_says_success_or_fail() {
        assert_eq!(
            ok(r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{}}"#),
            Success
        );
        let failure = r#"{"status":"FAIL","code":"400202","label":"ORDER_NOT_EXIST","errorMessage":"","data":null}"#;
        assert_eq!(ok(failure), Failure);
        assert_eq!(
            judge(Read, 200, failure.as_bytes()).code,
            EnvelopeCode::new("400202")
        );
    }

    #[test]
    fn every_documented_success_code_is_a_success() {
        for code in [
            r#""000000""#,
            r#""00000""#,
            r#""0""#,
            "0",
            "null",
            r#""""#,
            r#""SUCCESS""#,
        ] {
            assert_eq!(
                ok(&format!(r#"{{"status":"SUCCESS","code":{code}}}"#)),
                Success,
                "{code}"
            );
            assert_eq!(
                ok(&format!(r#"{{"code":{code},"message":""}}"#)),
                Success,
                "{code}"
            );
        }
    }

    #[test]
    fn quotes_of_otc_say_success_in_lower_case() {
        assert_eq!(
            ok(r#"{"status":"success","code":"0","data":{"quoteToken":"t"}}"#),
            Success
        );
        assert_eq!(ok(r#"{"status":"fail","code":"1"}"#), Failure);
    }

    #[test]
    fn create_order_answers_without_a_status() {
        assert_eq!(
            ok(
                r#"{"code":"SUCCESS","message":"订单创建成功","data":{"prepayId":"GATE202400001"}}"#
            ),
            Success
        );
        assert_eq!(ok(r#"{"code":"ERROR","message":"","data":null}"#), Failure);
    }

    #[test]
    fn subscriptions_answer_with_a_boolean() {
        assert_eq!(
            ok(r#"{"code":"0","message":"","data":{},"success":true}"#),
            Success
        );
        assert_eq!(
            ok(r#"{"code":"0","message":"","data":{},"success":false}"#),
            Failure
        );
        assert_eq!(
            ok(r#"{"success":"true"}"#),
            Unknown,
            "no boolean, and no bare object"
        );
    }

    #[test]
    fn wallet_lists_have_no_envelope_and_nothing_that_changes_something_is_answered_by_one() {
        for body in [r#"[{"status":"DONE","code":"1"}]"#, "[]"] {
            assert_eq!(verdict(Read, 200, body), Success);
            assert_eq!(verdict(Write, 200, body), Unknown);
            assert_eq!(verdict(Money, 200, body), Unknown);
        }
    }

    #[test]
    fn an_answer_to_money_that_says_success_and_has_the_code_of_a_failure_is_unknown() {
        for body in [
            r#"{"status":"SUCCESS","code":"400605"}"#,
            r#"{"success":true,"code":400002}"#,
        ] {
            assert_eq!(
                verdict(Read, 200, body),
                Success,
                "as protocol.md 4.1 has it"
            );
            assert_eq!(verdict(Write, 200, body), Unknown);
            assert_eq!(verdict(Money, 200, body), Unknown);
        }
    }

    #[test]
    fn one_json_text_is_judged_alike_in_every_encoding() {
        let text = r#"{"status":"FAIL","code":"400002"}"#;
        let units: Vec<u16> = text.encode_utf16().collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let plain = judge(Money, 200, text.as_bytes());
        assert_eq!(
            (plain.verdict, plain.form),
            (Failure, AnswerShape::Structure)
        );
        for mark in [true, false] {
            for (encoded, bom) in [
                (text.as_bytes(), &b"\xef\xbb\xbf"[..]),
                (&big, b"\xfe\xff"),
                (&little, b"\xff\xfe"),
            ] {
                let body = [if mark { bom } else { b"" }, encoded].concat();
                assert_eq!(judge(Money, 200, &body), plain, "{body:?}");
            }
        }
    }

    #[test]
    fn a_rejection_of_the_institution_is_seen_in_text_of_any_encoding_and_spelling() {
        for code in [
            r#""400002""#,
            "400002",
            "400002.0",
            "4.00002e5",
            r#"" 400002 ""#,
            r#""\u0034\u0030\u0030\u0030\u0030\u0032""#,
        ] {
            let body = format!(r#"{{"status":"FAIL","code":{code},"errorMessage":"é"}}"#);
            let latin = body.replace('é', "?").into_bytes();
            let latin: Vec<u8> = latin
                .iter()
                .map(|byte| if *byte == b'?' { 0xe9 } else { *byte })
                .collect();
            for body in [body.into_bytes(), latin] {
                let judged = judge(Read, 200, &body).code.unwrap();
                assert!(rejects_institution(judged.as_str()), "{code}");
            }
        }
    }

    #[test]
    fn a_bare_object_is_an_answer_to_a_read_only() {
        for body in [
            r#"{"details":{"USDT":"1"}}"#,
            r#"{"refundRequestId":"1"}"#,
            "{}",
        ] {
            assert_eq!(verdict(Read, 200, body), Success);
            assert_eq!(verdict(Write, 200, body), Unknown);
            assert_eq!(verdict(Money, 200, body), Unknown);
        }
    }

    #[test]
    fn the_data_member_of_an_envelope_does_not_change_the_verdict() {
        for data in [
            r#"{"status":"EXPIRED","code":"1"}"#,
            r#"[{"status":"FAIL"}]"#,
            r#""{\"status\":\"FAIL\"}""#,
            "null",
            "{}",
            r#"{"bizCode":"1","bizData":{},"bizMessage":"FAIL"}"#,
        ] {
            assert_eq!(
                ok(&format!(
                    r#"{{"data":{data},"status":"SUCCESS","code":"000000"}}"#
                )),
                Success,
                "{data}"
            );
        }
    }

    #[test]
    fn a_number_is_a_code_and_other_types_say_nothing() {
        let judged = judge(Money, 200, br#"{"code":400605}"#);
        assert_eq!(
            (judged.verdict, judged.code),
            (Failure, EnvelopeCode::new("400605"))
        );
        for code in ["true", "{}", "[0]"] {
            assert_eq!(ok(&format!(r#"{{"code":{code}}}"#)), Unknown);
        }
    }

    #[test]
    fn an_unsettled_code_is_unknown_at_any_status() {
        for code in ["300000", "300001", "400000"] {
            for status in [200, 400, 500] {
                for body in [
                    format!(r#"{{"status":"FAIL","code":"{code}"}}"#),
                    format!(r#"{{"success":true,"code":{code}}}"#),
                ] {
                    assert_eq!(verdict(Money, status, &body), Unknown, "{status} {body}");
                    assert_eq!(
                        judge(Read, status, body.as_bytes()).code,
                        EnvelopeCode::new(code)
                    );
                }
            }
        }
    }

    #[test]
    fn an_http_failure_needs_an_envelope_to_be_one() {
        let failure = r#"{"status":"FAIL","code":"400204"}"#;
        let success = r#"{"status":"SUCCESS","code":"000000"}"#;
        for status in [100, 302, 400, 404, 429] {
            assert_eq!(verdict(Write, status, failure), Failure);
            for body in [success, "[]", "{}", r#"{"status":404,"error":"Not Found"}"#] {
                assert_eq!(verdict(Read, status, body), Unknown, "{status} {body}");
            }
        }
        for status in [500, 502, 503, 599] {
            assert_eq!(verdict(Read, status, failure), Unknown);
            assert_eq!(verdict(Read, status, success), Unknown);
        }
    }

    #[test]
    fn an_answer_that_is_not_one_json_text_is_unknown() {
        let success = r#"{"status":"SUCCESS"}"#;
        for body in [
            "",
            "<html>",
            "SUCCESS",
            "\"SUCCESS\"",
            "null",
            "true",
            &success[..19],
            &format!("{success}{success}"),
        ] {
            assert_eq!(ok(body), Unknown, "{body}");
        }
        for (body, form) in [
            ("", AnswerShape::Empty),
            (" \r\n\t", AnswerShape::Empty),
            ("<html>", AnswerShape::NotJson),
            (&success[..19], AnswerShape::NotJson),
            ("12", AnswerShape::Scalar),
            ("[]", AnswerShape::Structure),
            (success, AnswerShape::Structure),
        ] {
            assert_eq!(judge(Money, 200, body.as_bytes()).form, form, "{body}");
        }
        assert_eq!(
            judge(Read, 200, b"{\"status\":\"SUCCESS\",\"x\":\"\xff\"}").verdict,
            Unknown
        );
        assert_eq!(ok(&format!("\r\n {success} \n")), Success);
    }

    #[test]
    fn a_status_is_a_known_word_or_unknown() {
        for status in [
            "null",
            "200",
            "true",
            r#""PENDING_EFFECTIVE""#,
            r#""""#,
            r#"" SUCCESS""#,
        ] {
            assert_eq!(
                ok(&format!(r#"{{"status":{status},"code":"000000"}}"#)),
                Unknown,
                "{status}"
            );
        }
    }

    #[test]
    fn an_answer_that_contradicts_itself_is_unknown() {
        assert_eq!(ok(r#"{"status":"FAIL","status":"SUCCESS"}"#), Unknown);
        assert_eq!(ok(r#"{"code":"0","code":"1"}"#), Unknown);
        assert_eq!(ok(r#"{"success":true,"succe\u0073s":false}"#), Unknown);
        assert_eq!(
            verdict(Write, 400, r#"{"status":"FAIL","status":"SUCCESS"}"#),
            Unknown
        );
        assert_eq!(
            ok(r#"{"status":"SUCCESS","status":"\u0053UCCESS"}"#),
            Success,
            "the same twice"
        );
    }

    #[test]
    fn a_code_is_kept_if_it_is_short_and_visible() {
        assert_eq!(EnvelopeCode::new("000000").unwrap().as_str(), "000000");
        assert_eq!(
            EnvelopeCode::new("ABCDEFGHIJKLMNOP").unwrap().to_string(),
            "ABCDEFGHIJKLMNOP"
        );
        for odd in ["", "ABCDEFGHIJKLMNOPQ", "a b", "a\n", "é", &"0".repeat(300)] {
            assert_eq!(EnvelopeCode::new(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn four_codes_judge_the_institutions_signature() {
        for code in ["400002", "400003", "400004", "400020"] {
            assert!(rejects_institution(code));
        }
        assert!(!rejects_institution("400001") && !rejects_institution("400007"));
    }

    #[test]
    fn an_envelope_carries_any_data() {
        let answer = Envelope::success(serde_json::json!({"result": "SUCCESS"}));
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"status":"SUCCESS","code":"000000","errorMessage":"","data":{"result":"SUCCESS"}}"#
        );
        assert_eq!(ok(&serde_json::to_string(&answer).unwrap()), Success);
        assert_eq!(
            ok(&serde_json::to_string(&Envelope::failure("900005", "RATE_LIMITED", "")).unwrap()),
            Failure
        );
    }

    proptest! {
        #[test]
        fn judging_an_answer_never_panics(status: u16, body: Vec<u8>) {
            let _ = judge(Money, status, &body);
        }

        #[test]
        fn a_truncated_answer_is_never_a_success(cut in 0_usize..62) {
            let body = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"17"}} "#;
            prop_assert_eq!(verdict(Read, 200, &body[..cut]), if cut == 61 { Success } else { Unknown });
        }
    }
}
