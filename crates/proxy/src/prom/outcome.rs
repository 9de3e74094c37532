//! How a request ended: the label that metrics, access lines and the journal share.

use gatepay_core::envelope::AnswerVerdict;

/// How a request ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// GatePay confirmed the call.
    Success,
    /// GatePay refused the call.
    Failure,
    /// GatePay's answer, or its absence, leaves the outcome open.
    Unknown,
    /// The proxy refused, and no request with this stamp was executed.
    Refused,
    /// The caller left before the request was forwarded, or during a read.
    CallerLeft,
    /// The proxy refused this delivery, but another copy of the request was or may have been executed.
    RefusedUnknown,
}

const ENDS: [&str; 6] = [
    "success",
    "failure",
    "unknown",
    "refused",
    "caller_left",
    "refused_unknown",
];

impl RequestOutcome {
    /// Every outcome.
    pub const ALL: [Self; ENDS.len()] = [
        Self::Success,
        Self::Failure,
        Self::Unknown,
        Self::Refused,
        Self::CallerLeft,
        Self::RefusedUnknown,
    ];

    /// The outcome's label.
    pub fn as_str(self) -> &'static str {
        ENDS[self as usize]
    }
}

impl From<AnswerVerdict> for RequestOutcome {
    fn from(verdict: AnswerVerdict) -> Self {
        match verdict {
            AnswerVerdict::Success => Self::Success,
            AnswerVerdict::Failure => Self::Failure,
            AnswerVerdict::Unknown => Self::Unknown,
        }
    }
}
