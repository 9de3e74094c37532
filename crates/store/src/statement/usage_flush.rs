//! Usage flush: the counts of a process since its last flush, on their way to the store.

use crate::stored_text::StoredText;

/// The counts that a process adds to the day. A repeated flush changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageFlush {
    /// The instance that counted.
    pub instance: i64,
    /// The flush's number: higher than that of the instance's flush before.
    pub number: i64,
    /// Whether it is the instance's last one: nothing is lost then.
    pub is_last: bool,
    /// The present day in the configured time zone, and the days after it. If the store's last day has ended, the first of
    /// these begins that has a later date.
    pub days: Vec<DayBounds>,
    /// Requests by operation and end.
    pub counts: Vec<UsageCount>,
    /// Requests by second.
    pub seconds: Vec<SecondCount>,
}

/// A day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayBounds {
    /// Its date: `2026-11-27`.
    pub date: String,
    /// Its first moment.
    pub begins_ms: u64,
    /// The first moment of the day after.
    pub ends_ms: u64,
}

/// Requests of one operation that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageCount {
    /// The tenant or operator.
    pub party: StoredText,
    /// Its sub-account.
    pub account: StoredText,
    /// The operation's name.
    pub operation: String,
    /// How they ended.
    pub outcome: String,
    /// How many.
    pub calls: u64,
}

/// Requests of one party in one second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondCount {
    /// The tenant or operator.
    pub party: StoredText,
    /// Its sub-account.
    pub account: StoredText,
    /// The second since 1970.
    pub second: u64,
    /// How many.
    pub calls: u64,
}

/// How long days, counts and booked calls are kept, in milliseconds: 400 days.
pub const KEPT_MS: u64 = 400 * 86_400_000;
/// How long the seconds of a party are added up over instances.
pub const SECONDS_KEPT: u64 = 60;
