//! Proof: the conclusion from GatePay's complete answer to a write or money call, which may require a look-up first.
//!
//! A refusal concerns one delivery of the call, but a caller asks about the call's key. GatePay may have executed an
//! earlier delivery with a lost answer, and may refuse the present delivery for that very reason. The table in
//! [`codes`](crate::codes) says for every code of protocol.md 4.2 whether this is possible.

use crate::codes::{CodeMeaning, meaning};
use crate::envelope::{AnswerJudgement, AnswerShape, AnswerVerdict, EnvelopeCode};
use crate::look_up::{LookUpObservation, ObservedOutcome};

/// The conclusion from a complete answer to a write or money call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerProof {
    /// The response is not an answer: the call counts as a call with a lost answer. The text is the reason.
    Lost(&'static str),
    /// GatePay accepted the call.
    Executed,
    /// GatePay refused the call, and no earlier delivery of the call can be the reason.
    Refused,
    /// The answer proves nothing yet: the proxy looks up the call first.
    LookUp(LookUpRule),
}

/// The conclusion from a look-up. If GatePay has the call, the outcome is always "found".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookUpRule {
    /// The call may still be under way: the proxy looks it up as often as after a lost answer. If not found, unknown.
    UnderWay,
    /// GatePay has decided: the proxy looks up once. If not found, unknown.
    Decided,
    /// GatePay has decided: the proxy looks up once. Refused if GatePay has nothing under the key, otherwise unknown.
    RefusedIfAbsent,
    /// GatePay has refused this delivery, maybe for an earlier one: the proxy looks up once. Refused if GatePay has nothing
    /// under the key, otherwise unknown.
    RefusedIfUnused,
    /// GatePay has refused this delivery, maybe since an earlier one took the funds: the proxy looks up once. Refused if GatePay
    /// has nothing under the key, or offers no query for it; otherwise unknown.
    RefusedUnlessFound,
}

/// The outcome of an answered call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettledCall {
    /// A look-up found the call.
    Found,
    /// GatePay refused the call.
    Refused,
    /// GatePay may have executed the call.
    Unknown,
}

impl AnswerProof {
    /// The conclusion from an answer with this HTTP status.
    pub fn of(status: u16, judgement: &AnswerJudgement) -> Self {
        if matches!(status, 300..=399) {
            // A client that follows a redirect repeats a signed body elsewhere.
            return Self::Lost("GatePay's answer was a redirect");
        }
        match judgement.form {
            AnswerShape::Empty => return Self::Lost("GatePay's answer was empty"),
            AnswerShape::NotJson => {
                return Self::Lost("GatePay's answer was not one whole JSON text");
            }
            AnswerShape::Scalar | AnswerShape::Structure => {}
        }
        match judgement.verdict {
            AnswerVerdict::Success => Self::Executed,
            AnswerVerdict::Unknown => Self::LookUp(LookUpRule::UnderWay),
            AnswerVerdict::Failure => Self::of_refusal(
                judgement
                    .code
                    .as_ref()
                    .map(EnvelopeCode::as_str)
                    .and_then(meaning),
            ),
        }
    }

    fn of_refusal(meaning: Option<CodeMeaning>) -> Self {
        match meaning {
            Some(CodeMeaning::Refused | CodeMeaning::InstitutionRejected) => Self::Refused,
            Some(CodeMeaning::KeyMayExist) => Self::LookUp(LookUpRule::RefusedIfUnused),
            Some(CodeMeaning::ShortOfFunds) => Self::LookUp(LookUpRule::RefusedUnlessFound),
            Some(CodeMeaning::StateConflict) => Self::LookUp(LookUpRule::RefusedIfAbsent),
            // An unpublished code may mean that the key exists: for most keys GatePay publishes no such code.
            Some(CodeMeaning::KeyExists) | None => Self::LookUp(LookUpRule::Decided),
            // The envelope says failure, but the code does not.
            Some(CodeMeaning::Success | CodeMeaning::Unsettled) => {
                Self::LookUp(LookUpRule::UnderWay)
            }
        }
    }
}

impl LookUpRule {
    /// The outcome of the call, given the result of its look-up. A call is never refused while GatePay shows something under
    /// its key, be it another call's: by that key something was executed.
    pub fn settle(self, seen: &LookUpObservation) -> SettledCall {
        match (seen.observed, self) {
            (ObservedOutcome::Found, _) => SettledCall::Found,
            _ if seen.order.is_some() => SettledCall::Unknown,
            (
                ObservedOutcome::NotFound,
                Self::RefusedIfAbsent | Self::RefusedIfUnused | Self::RefusedUnlessFound,
            ) => SettledCall::Refused,
            (ObservedOutcome::NotFound | ObservedOutcome::Unknown, _) => SettledCall::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::TABLE;
    use crate::envelope::{judge, rejects_institution};
    use crate::operation::Kind;
    use std::collections::BTreeSet;

    fn proof(status: u16, body: &str) -> AnswerProof {
        let judgements =
            [Kind::Write, Kind::Money].map(|kind| judge(kind, status, body.as_bytes()));
        assert_eq!(judgements[0], judgements[1], "{status} {body}");
        AnswerProof::of(status, &judgements[0])
    }

    use ObservedOutcome::{Found, NotFound, Unknown};

    fn seen(observed: ObservedOutcome, shows_something: bool) -> LookUpObservation {
        let order = serde_json::value::to_raw_value("an object").unwrap();
        LookUpObservation {
            observed,
            order: shows_something.then_some(order),
            ..LookUpObservation::UNKNOWN
        }
    }

    fn refusal(code: &str) -> AnswerProof {
        proof(
            200,
            &format!(r#"{{"status":"FAIL","code":"{code}","data":null}}"#),
        )
    }

    #[test]
    fn the_table_has_every_published_code_once_and_no_other() {
        let page = include_str!("../../../docs/gatepay/protocol.md");
        let begin = page.find("### 4.2 Error codes").unwrap();
        let end = page.find("### 4.3").unwrap();
        let published: BTreeSet<&str> = page[begin..end]
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| digits.len() == 6)
            .collect();
        let listed: Vec<&str> = TABLE
            .iter()
            .flat_map(|(_, codes)| *codes)
            .copied()
            .collect();
        let once: BTreeSet<&str> = listed.iter().copied().collect();
        assert_eq!(published.len(), 46, "what the page is read to have");
        assert_eq!(once, published);
        assert_eq!(listed.len(), once.len(), "each once");
        for code in published {
            let rejects = meaning(code) == Some(CodeMeaning::InstitutionRejected);
            assert_eq!(rejects_institution(code), rejects, "{code}");
            let unsettled = meaning(code) == Some(CodeMeaning::Unsettled);
            let judged = judge(
                Kind::Money,
                200,
                format!(r#"{{"success":true,"code":{code}}}"#).as_bytes(),
            );
            assert!(
                !unsettled || judged.verdict == AnswerVerdict::Unknown,
                "{code}"
            );
        }
    }

    #[test]
    fn a_code_that_means_that_the_key_exists_is_never_a_refusal() {
        for code in ["400201", "400620", "550245"] {
            let AnswerProof::LookUp(rule) = refusal(code) else {
                panic!("{code} is looked up");
            };
            assert_eq!(rule.settle(&seen(Found, true)), SettledCall::Found);
            for observed in [NotFound, Unknown] {
                let settled = rule.settle(&seen(observed, false));
                assert_eq!(settled, SettledCall::Unknown, "{code}");
            }
        }
    }

    #[test]
    fn a_code_that_an_earlier_delivery_may_have_caused_is_a_refusal_only_if_none_is_found() {
        for (code, absent, unclear) in [
            ("400001", SettledCall::Refused, SettledCall::Unknown),
            ("400603", SettledCall::Refused, SettledCall::Unknown),
            ("400607", SettledCall::Refused, SettledCall::Unknown),
            ("550249", SettledCall::Refused, SettledCall::Unknown),
            ("400204", SettledCall::Refused, SettledCall::Unknown),
            ("400605", SettledCall::Refused, SettledCall::Unknown),
            ("550233", SettledCall::Refused, SettledCall::Unknown),
        ] {
            let AnswerProof::LookUp(rule) = refusal(code) else {
                panic!("{code} is looked up");
            };
            let settle = |observed, shows| rule.settle(&seen(observed, shows));
            assert_eq!(settle(Found, true), SettledCall::Found, "{code}");
            assert_eq!(settle(NotFound, false), absent, "{code}");
            assert_eq!(settle(Unknown, false), unclear, "{code}");
            // Another call's object stands under the key.
            assert_eq!(settle(NotFound, true), SettledCall::Unknown, "{code}");
            assert_eq!(settle(Unknown, true), SettledCall::Unknown, "{code}");
        }
    }

    #[test]
    fn a_code_that_faults_the_request_itself_is_a_refusal() {
        for code in ["400007", "400202", "550241"] {
            assert_eq!(refusal(code), AnswerProof::Refused, "{code}");
        }
    }

    #[test]
    fn a_refusal_with_another_code_or_none_proves_nothing() {
        for body in [
            r#"{"status":"FAIL","code":"400999"}"#,
            r#"{"status":"FAIL"}"#,
            r#"{"success":false}"#,
            r#"{"code":"ERROR","message":"","data":null}"#,
        ] {
            let rule = AnswerProof::LookUp(LookUpRule::Decided);
            assert_eq!(proof(200, body), rule, "{body}");
        }
    }

    #[test]
    fn an_answer_without_a_verdict_is_lost_at_any_status() {
        for status in [200, 202, 204, 404, 408, 425, 429, 500, 502, 503, 504] {
            for body in [
                "",
                " \r\n",
                "<html>",
                r#"{"status":"SUCCESS""#,
                r#"{"status":"SUCCESS"}{}"#,
                r#"{"status":"SUCCESS"}<"#,
                "\u{1f}\u{8b}\u{8}",
            ] {
                assert!(
                    matches!(proof(status, body), AnswerProof::Lost(_)),
                    "{status} {body}"
                );
            }
        }
        for status in [300, 301, 302, 303, 304, 307, 308, 399] {
            let body = r#"{"status":"SUCCESS","code":"000000"}"#;
            assert!(matches!(proof(status, body), AnswerProof::Lost(_)));
        }
    }

    #[test]
    fn whole_json_without_a_verdict_is_looked_up_as_a_lost_answer_is() {
        let success = r#"{"status":"SUCCESS","code":"000000"}"#;
        for (status, body) in [
            (200, "null"),
            (200, "1"),
            (200, r#""SUCCESS""#),
            (200, "[]"),
            (200, r#"[{"status":"SUCCESS"}]"#),
            (200, "{}"),
            (200, r#"{"prepayId":"1"}"#),
            (200, r#"{"status":"FAIL","code":"300000"}"#),
            (200, r#"{"status":"FAIL","code":"000000"}"#),
            (200, r#"{"status":"SUCCESS","code":"400605"}"#),
            (200, r#"{"success":true,"code":"400002"}"#),
            (404, r#"{"status":404,"error":"Not Found"}"#),
            (429, r#"{"message":"slow down"}"#),
            (500, r#"{"status":"FAIL","code":"400605"}"#),
            (502, success),
            (400, success),
        ] {
            let rule = AnswerProof::LookUp(LookUpRule::UnderWay);
            assert_eq!(proof(status, body), rule, "{status} {body}");
        }
        assert_eq!(proof(200, success), AnswerProof::Executed);
        let with_mark = format!("\u{feff}{success}");
        assert_eq!(proof(202, &with_mark), AnswerProof::Executed);
    }
}
