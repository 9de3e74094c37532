//! A call as operations receive it: the acting account, the time, and the outcome.

use serde::Serialize;
use serde_json::Value;

use crate::config::AnswerForms;
use crate::wire::failure::ApiFailure;

/// The acting account and the time of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerCall<'a> {
    /// The acting account.
    pub(crate) account: &'a str,
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
    /// The form of the answer, where there are two.
    pub(crate) forms: AnswerForms,
}

/// The data of an answer, or the failure.
pub(crate) type Outcome = Result<Value, ApiFailure>;

impl LedgerCall<'_> {
    /// The account as a number, which some answers have. Account ids are decimal digits in all samples.
    pub(crate) fn merchant_id(self) -> u64 {
        self.account.parse().unwrap_or_default()
    }
}

/// Converts a model to JSON data.
pub(crate) fn data(model: impl Serialize) -> Value {
    serde_json::to_value(model).expect("a model has text keys only")
}

/// Converts a time to the signed type that models use.
pub(crate) fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
