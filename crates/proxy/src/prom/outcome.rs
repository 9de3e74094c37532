//! How a request ended: the label that metrics, access lines and the journal share.

use gatepay_core::envelope::AnswerVerdict;

/// How a request ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// GatePay said yes.
    Success,
    /// GatePay said no.
    Failure,
    /// GatePay's answer, or its absence, leaves it open.
    Unknown,
    /// The proxy said no, and nothing with the request's stamp was executed.
    Refused,
    /// The caller left before it was forwarded, or during a read.
    CallerLeft,
    /// The proxy said no to this delivery, but another copy of the request was or may have been executed.
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
    /// Every end.
    pub const ALL: [Self; ENDS.len()] = [
        Self::Success,
        Self::Failure,
        Self::Unknown,
        Self::Refused,
        Self::CallerLeft,
        Self::RefusedUnknown,
    ];

    /// The label.
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
