//! A call as operations see it: in whose name, when, and what comes of it.

use serde::Serialize;
use serde_json::Value;

use crate::config::AnswerForms;
use crate::wire::failure::ApiFailure;

/// Who calls, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerCall<'a> {
    /// The account in whose name the call is made.
    pub(crate) account: &'a str,
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
    /// Which forms the answer has, where there are two.
    pub(crate) forms: AnswerForms,
}

/// Data, or why there is none.
pub(crate) type Outcome = Result<Value, ApiFailure>;

impl LedgerCall<'_> {
    /// The account as a number, which some answers have. Account ids are decimal digits in all samples.
    pub(crate) fn merchant_id(self) -> u64 {
        self.account.parse().unwrap_or_default()
    }
}

/// A model as data.
pub(crate) fn data(model: impl Serialize) -> Value {
    serde_json::to_value(model).expect("a model has text keys only")
}

/// A time in the type that models have it in.
pub(crate) fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
