//! Attempt: the result of one POST to an endpoint.

use gatepay_core::delivery_schedule::{AckRule, DeliveryOutcome};

use crate::notify::deliver::retry_after;
use crate::notify::endpoint::checked_addresses::AddressError;
use crate::notify::endpoint::client::{EndpointAnswer, EndpointError};
use crate::upstream::connection::ExchangeError;

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResult {
    /// What the result means for the notification.
    pub outcome: DeliveryOutcome,
    /// The result in a word.
    pub word: AttemptWord,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The beginning of the answer's body.
    pub said: Vec<u8>,
    /// The error, for logs. It has no part of the URL, of a body or of a secret.
    pub error: Option<String>,
}

/// The result of one attempt in a word, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptWord {
    /// The tenant has acknowledged the notification.
    Acknowledged,
    /// Status 410.
    Gone,
    /// A redirect, which is not followed.
    Redirected,
    /// Another status than 2xx.
    RefusedStatus,
    /// Status 2xx without an acknowledgment in the body.
    NotAcknowledged,
    /// Status 2xx with a body that was cut short.
    AnswerCut,
    /// An address of the endpoint is not allowed.
    ForbiddenAddress,
    /// The endpoint's name has no address.
    Unresolved,
    /// No TCP connection.
    NotConnected,
    /// The TLS handshake failed.
    TlsFailed,
    /// The time limit passed.
    Late,
    /// The connection broke before the head of an answer, or the answer was not HTTP.
    NoAnswer,
    /// The attempt ended by a fault of this program.
    OwnFault,
}

impl AttemptWord {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Gone => "gone",
            Self::Redirected => "redirected",
            Self::RefusedStatus => "refused_status",
            Self::NotAcknowledged => "not_acknowledged",
            Self::AnswerCut => "answer_cut",
            Self::ForbiddenAddress => "forbidden_address",
            Self::Unresolved => "unresolved",
            Self::NotConnected => "not_connected",
            Self::TlsFailed => "tls_failed",
            Self::Late => "late",
            Self::NoAnswer => "no_answer",
            Self::OwnFault => "own_fault",
        }
    }
}

impl AttemptResult {
    /// The result of an attempt that ended by a fault of this program. The panic is in the log.
    pub fn panicked() -> Self {
        Self {
            outcome: DeliveryOutcome::NO_ANSWER,
            word: AttemptWord::OwnFault,
            status: None,
            said: Vec::new(),
            error: Some("a fault of the proxy's own".to_owned()),
        }
    }

    /// Judges an answer, or its absence. `now_ms` is wall time, for a `Retry-After` that is a date.
    pub fn of(rule: AckRule, answered: Result<EndpointAnswer, EndpointError>, now_ms: u64) -> Self {
        match answered {
            Ok(answer) => Self::of_answer(rule, answer, now_ms),
            Err(error) => Self {
                outcome: DeliveryOutcome::NO_ANSWER,
                word: word_of_error(&error),
                status: None,
                said: Vec::new(),
                error: Some(error.to_string()),
            },
        }
    }

    fn of_answer(rule: AckRule, answer: EndpointAnswer, now_ms: u64) -> Self {
        let retry_after = answer.retry_after.as_deref();
        let retry_after = retry_after.map(|value| retry_after::in_seconds(value, now_ms));
        // Half of a body acknowledges nothing.
        let body = if answer.is_cut { &[][..] } else { &answer.body };
        let outcome = DeliveryOutcome::of(rule, answer.status, retry_after.as_deref(), body);
        let word = match (outcome, answer.status) {
            (DeliveryOutcome::Acknowledged, _) => AttemptWord::Acknowledged,
            (DeliveryOutcome::Gone, _) => AttemptWord::Gone,
            (DeliveryOutcome::Failed { .. }, 200..=299) if answer.is_cut => AttemptWord::AnswerCut,
            (DeliveryOutcome::Failed { .. }, 200..=299) => AttemptWord::NotAcknowledged,
            (DeliveryOutcome::Failed { .. }, 300..=399) => AttemptWord::Redirected,
            (DeliveryOutcome::Failed { .. }, _) => AttemptWord::RefusedStatus,
        };
        Self {
            outcome,
            word,
            status: Some(answer.status),
            said: answer.body,
            error: None,
        }
    }
}

fn word_of_error(error: &EndpointError) -> AttemptWord {
    match error {
        EndpointError::Address(AddressError::Forbidden { .. }) => AttemptWord::ForbiddenAddress,
        EndpointError::Address(AddressError::Unresolved(_) | AddressError::NoAddress) => {
            AttemptWord::Unresolved
        }
        EndpointError::Connect(_) => AttemptWord::NotConnected,
        EndpointError::Tls(_) => AttemptWord::TlsFailed,
        EndpointError::ConnectTimeout | EndpointError::NoAnswer(ExchangeError::Late) => {
            AttemptWord::Late
        }
        EndpointError::NoAnswer(_) => AttemptWord::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn judged(
        rule: AckRule,
        status: u16,
        retry_after: Option<&str>,
        body: &str,
        is_cut: bool,
    ) -> AttemptResult {
        let answer = EndpointAnswer {
            status,
            retry_after: retry_after.map(str::to_owned),
            body: body.as_bytes().to_vec(),
            is_cut,
        };
        AttemptResult::of(rule, Ok(answer), 1_767_225_600_000)
    }

    #[test]
    fn an_answer_is_named_by_its_status_and_body() {
        let success = r#"{"returnCode":"SUCCESS"}"#;
        for (status, body, is_cut, by_code, by_status) in [
            (200, success, false, "acknowledged", "acknowledged"),
            (200, success, true, "answer_cut", "acknowledged"),
            (
                200,
                r#"{"returnCode":"FAIL"}"#,
                false,
                "not_acknowledged",
                "acknowledged",
            ),
            (302, success, false, "redirected", "redirected"),
            (410, success, false, "gone", "gone"),
            (500, success, false, "refused_status", "refused_status"),
        ] {
            let word = |rule| judged(rule, status, None, body, is_cut).word.as_str();
            assert_eq!(word(AckRule::ReturnCode), by_code, "{status} {body}");
            assert_eq!(word(AckRule::Status), by_status, "{status} {body}");
        }
    }

    #[test]
    fn a_date_in_retry_after_is_honored() {
        let date = Some("Thu, 01 Jan 2026 00:02:00 GMT");
        let result = judged(AckRule::ReturnCode, 503, date, "", false);
        let retry_after = Some(Duration::from_mins(2));
        assert_eq!(result.outcome, DeliveryOutcome::Failed { retry_after });
    }
}
