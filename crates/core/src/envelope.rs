//! Answers: what they say about success, and the form of those the proxy composes itself.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::json::{self, Raw, Shape};
use crate::operation::Kind;
use crate::words::words;

/// What an answer says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// GatePay accepted it. For a refund or a payout that is not yet "done" (protocol.md 4.1).
    Success,
    /// GatePay refused it.
    Failure,
    /// Nobody can tell. A money call has to be looked up.
    Unknown,
}

words!(Verdict { Success = "success", Failure = "failure", Unknown = "unknown" });

/// What was read off an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Whether the call succeeded.
    pub verdict: Verdict,
    /// GatePay's code, if the answer has one.
    pub code: Option<Code>,
}

/// Judges a whole answer by the rules of protocol.md 4.1, in their order. It never changes what is relayed.
///
/// An answer that was cut off is not for this function: whoever read it knows that it is [`Verdict::Unknown`].
pub fn judge(kind: Kind, status: u16, body: &[u8]) -> Judgement {
    let Some(members) = Members::read(body) else {
        return Judgement {
            verdict: Verdict::Unknown,
            code: None,
        };
    };
    let code = members.code.and_then(Raw::text_or_number);
    let verdict = if status >= 500 || code.as_deref().is_some_and(is_unsettled) {
        Verdict::Unknown
    } else {
        match (status, members.verdict(kind, code.as_deref())) {
            (200..=299, verdict) => verdict,
            (_, Verdict::Failure) => Verdict::Failure,
            (_, Verdict::Success | Verdict::Unknown) => Verdict::Unknown,
        }
    };
    Judgement {
        verdict,
        code: code.as_deref().and_then(Code::new),
    }
}

/// Whether a code judges the institution's signature, clock or client id: a tenant who saw it would look for the
/// fault in its own (protocol.md 4.2).
pub fn rejects_institution(code: &str) -> bool {
    matches!(code, "400002" | "400003" | "400004" | "400020")
}

/// GatePay's word for "unknown, repeat with the same parameters" (protocol.md 4.2).
fn is_unsettled(code: &str) -> bool {
    matches!(code, "300000" | "300001" | "400000")
}

/// A code as GatePay printed it: 1 to 16 visible ASCII characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    bytes: [u8; LONGEST_CODE],
    length: u8,
}

impl Code {
    /// Keeps a code that is fit for logs and metrics.
    pub fn new(text: &str) -> Option<Self> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        let length = u8::try_from(text.len()).ok()?;
        if !visible || text.is_empty() || text.len() > LONGEST_CODE {
            return None;
        }
        let mut bytes = [0; LONGEST_CODE];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { bytes, length })
    }

    /// The code's characters, and zeros behind them: what is quickest to compare.
    pub fn padded(&self) -> [u8; LONGEST_CODE] {
        self.bytes
    }

    /// The code.
    ///
    /// # Panics
    /// Never: its characters are ASCII.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("visible ASCII was kept")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// GatePay's standard envelope (protocol.md 4.1), so that a merchant's existing code reads a refusal of the proxy's.
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
    /// One of protocol.md 4.2, or of the proxy's own range.
    pub code: &'a str,
    /// The code in a word; printed for failures only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    /// The code in a sentence, or nothing.
    pub error_message: Cow<'a, str>,
    /// What was asked for; `null` if there is nothing.
    pub data: D,
}

impl<'a> Envelope<'a> {
    /// A refusal: no data.
    pub fn failure(code: &'a str, label: &'a str, message: impl Into<Cow<'a, str>>) -> Self {
        Self {
            status: "FAIL",
            code,
            label: Some(label),
            error_message: message.into(),
            data: (),
        }
    }

    /// The same with data.
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
    /// An answer with data.
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

/// The members of an answer that decide, each at most once.
struct Members<'a> {
    shape: Shape,
    success: Option<Raw<'a>>,
    status: Option<Raw<'a>>,
    code: Option<Raw<'a>>,
    /// One of them occurs twice with different values, so that two readers may decide differently.
    contradictory: bool,
}

impl<'a> Members<'a> {
    /// Nothing, if the body is not one JSON text and nothing else.
    fn read(body: &'a [u8]) -> Option<Self> {
        let mut members = Self {
            shape: Shape::Scalar,
            success: None,
            status: None,
            code: None,
            contradictory: false,
        };
        let shape = json::read(str::from_utf8(body).ok()?, &mut |name, value| {
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

    /// The verdict of a 2xx.
    fn verdict(&self, kind: Kind, code: Option<&str>) -> Verdict {
        if self.contradictory {
            return Verdict::Unknown;
        }
        match (self.shape, self.success.map(Raw::as_str)) {
            (Shape::Array, _) | (_, Some("true")) => return Verdict::Success,
            (Shape::Scalar, _) => return Verdict::Unknown,
            (_, Some("false")) => return Verdict::Failure,
            _ => {}
        }
        if let Some(status) = self.status {
            return match status.text() {
                Some(text) if text.eq_ignore_ascii_case("SUCCESS") => Verdict::Success,
                Some(text) if text.eq_ignore_ascii_case("FAIL") => Verdict::Failure,
                _ => Verdict::Unknown,
            };
        }
        match (self.code.map(Raw::as_str), code) {
            (Some("null"), _) | (_, Some("000000" | "00000" | "0" | "SUCCESS" | "")) => {
                Verdict::Success
            }
            (_, Some(_)) => Verdict::Failure,
            (None, None) if kind == Kind::Read && self.success.is_none() => Verdict::Success,
            // A code that is neither number nor text, or a `success` that is no boolean, says nothing.
            (_, None) => Verdict::Unknown,
        }
    }
}

const LONGEST_CODE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::{Money, Read, Write};
    use Verdict::{Failure, Success, Unknown};
    use proptest::prelude::*;

    fn verdict(kind: Kind, status: u16, body: &str) -> Verdict {
        judge(kind, status, body.as_bytes()).verdict
    }

    /// The verdict of a 200, which must not depend on the kind.
    fn ok(body: &str) -> Verdict {
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
            Code::new("400202")
        );
    }

    #[test]
    fn success_has_many_codes() {
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
    fn wallet_lists_have_no_envelope() {
        assert_eq!(ok(r#"[{"status":"DONE","code":"1"}]"#), Success);
        assert_eq!(ok("[]"), Success);
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
    fn what_stands_in_data_decides_nothing() {
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
            (Failure, Code::new("400605"))
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
                    assert_eq!(judge(Read, status, body.as_bytes()).code, Code::new(code));
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
    fn what_is_not_one_json_text_is_unknown() {
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
        assert_eq!(Code::new("000000").unwrap().as_str(), "000000");
        assert_eq!(
            Code::new("ABCDEFGHIJKLMNOP").unwrap().to_string(),
            "ABCDEFGHIJKLMNOP"
        );
        for odd in ["", "ABCDEFGHIJKLMNOPQ", "a b", "a\n", "é", &"0".repeat(300)] {
            assert_eq!(Code::new(odd), None, "{odd:?}");
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
        fn judging_never_panics(status: u16, body: Vec<u8>) {
            let _ = judge(Money, status, &body);
        }

        #[test]
        fn no_success_is_seen_in_an_answer_cut_short(cut in 0_usize..62) {
            let body = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"17"}} "#;
            prop_assert_eq!(verdict(Read, 200, &body[..cut]), if cut == 61 { Success } else { Unknown });
        }
    }
}
