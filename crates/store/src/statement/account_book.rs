//! Account book: the admitted calls that change something, and how each of them stands at a time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use crate::caps::spend::{NO_KEY, SpendAmount};
use crate::error::StoreError;
use crate::stored_text::{Fingerprint, StoredText};

/// The booking of a write or money call, made when it is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallUsage {
    /// The call's own key, by which GatePay knows a repetition; a call without one stands alone.
    pub key: Option<StoredText>,
    /// Whether all calls under one key are one: those of a write, and money calls of which GatePay documents it. Otherwise
    /// each call that it accepts counts.
    pub is_once: bool,
    /// The amounts of a money call; `None` if they cannot be read exactly. Empty for a write.
    pub amounts: Option<Vec<SpendAmount>>,
}

/// A booked call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedCall {
    /// The stamp that the call was admitted with.
    pub stamp: Fingerprint,
    /// The operation's name.
    pub operation: String,
    /// The key in tables.
    pub key: String,
    /// As [`CallUsage::is_once`].
    pub is_once: bool,
    /// As [`CallUsage::amounts`], one for each currency.
    pub amounts: Option<Vec<SpendAmount>>,
    /// When the call was admitted.
    pub at_ms: u64,
    /// The result of the call, and the time at which it was learned.
    pub learned: Option<(LearnedResult, u64)>,
    /// When it was learned that the object of an accepted call has finally failed.
    pub failed_ms: Option<u64>,
}

/// The result of a booked call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnedResult {
    /// It was not sent, or GatePay refused it.
    Refused,
    /// GatePay accepted it.
    Accepted,
    /// GatePay has the object under its key, which this call or another one has made.
    Found,
}

/// How a booked call stands at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallStanding {
    /// GatePay executed it.
    Executed,
    /// Another call under its key is the executed one: it is the same transaction.
    Repeated,
    /// GatePay executed it, and the object has finally failed.
    Failed,
    /// It was not sent, or GatePay refused it.
    Refused,
    /// It may have been executed.
    Unknown,
}

impl CallStanding {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Repeated => "repeated",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl LearnedResult {
    /// The result that an engine stores as this number.
    pub(crate) fn of(number: i64) -> Option<Self> {
        Some(match number {
            0 => Self::Refused,
            1 => Self::Accepted,
            3 => Self::Found,
            _ => return None,
        })
    }
}

/// The column for amounts that cannot be read exactly.
const UNREAD: &str = "?";

impl CallUsage {
    /// The amounts as a column: `ETH=0.5,USDT=12`.
    pub(crate) fn parts_text(&self) -> String {
        let Some(amounts) = &self.amounts else {
            return UNREAD.to_owned();
        };
        let mut sums: BTreeMap<&str, ExactAmount> = BTreeMap::new();
        for part in amounts {
            let sum = sums.entry(part.currency.as_str()).or_default();
            *sum = sum.plus(part.amount).unwrap_or(ExactAmount::MOST);
        }
        let mut text = String::new();
        for (currency, amount) in sums {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{currency}={amount}");
        }
        text
    }

    /// The key in tables: a call without one has its stamp's.
    pub(crate) fn stored_key(&self, stamp: &Fingerprint) -> String {
        match &self.key {
            Some(key) => key.as_str().to_owned(),
            None => format!("{NO_KEY}{}", hex::encode(stamp)),
        }
    }
}

/// The amounts in a column; `None` if they could not be read when the call was admitted.
pub(crate) fn amounts_of(text: &str) -> Result<Option<Vec<SpendAmount>>, StoreError> {
    if text == UNREAD {
        return Ok(None);
    }
    let unexpected = || StoreError::Unexpected("parts of a booked call".to_owned());
    let parts = text.split(',').filter(|part| !part.is_empty());
    let amounts = parts.map(|part| {
        let (currency, amount) = part.split_once('=').ok_or_else(unexpected)?;
        Ok(SpendAmount {
            currency: CurrencyCode::parse(currency).ok_or_else(unexpected)?,
            amount: ExactAmount::parse(amount).map_err(|_| unexpected())?,
        })
    });
    amounts.collect::<Result<_, _>>().map(Some)
}

impl BookedCall {
    /// Whether other calls may have the same key.
    pub(crate) fn has_key(&self) -> bool {
        !self.key.starts_with(NO_KEY)
    }

    fn learned_by(&self, ms: u64) -> Option<(LearnedResult, u64)> {
        self.learned.filter(|(_, learned)| *learned < ms)
    }

    fn failed_by(&self, ms: u64) -> Option<u64> {
        self.failed_ms.filter(|failed| *failed < ms)
    }

    fn accepted_by(&self, ms: u64) -> CallStanding {
        match self.failed_by(ms) {
            Some(_) => CallStanding::Failed,
            None => CallStanding::Executed,
        }
    }
}

/// How a call stands before a time, by what was learned of all calls of its operation under its key.
///
/// Under one key the call counts of which it was learned first, so that a later call does not change what counts. After the
/// object has failed, the next call under the key may make another one.
pub fn standing(call: &BookedCall, group: &[BookedCall], before_ms: u64) -> CallStanding {
    let learned = call.learned_by(before_ms);
    if matches!(learned, Some((LearnedResult::Refused, _))) {
        return CallStanding::Refused;
    }
    let is_accepted =
        |it: &&BookedCall| matches!(it.learned_by(before_ms), Some((LearnedResult::Accepted, _)));
    if !call.is_once {
        match learned {
            Some((LearnedResult::Accepted, _)) => return call.accepted_by(before_ms),
            Some(_) if group.iter().any(|it| is_accepted(&it)) => return CallStanding::Repeated,
            // GatePay may execute it beside the accepted one.
            None if group.iter().any(|it| is_accepted(&it)) => return CallStanding::Unknown,
            _ => {}
        }
    }
    let is_known = |it: &&BookedCall| {
        let learned = it.learned_by(before_ms);
        matches!(
            learned,
            Some((LearnedResult::Accepted | LearnedResult::Found, _))
        )
    };
    let mut known: Vec<&BookedCall> = group.iter().filter(is_known).collect();
    known.sort_by_key(|it| (it.learned.map(|(_, ms)| ms), it.stamp));
    let mut counted: Option<&BookedCall> = None;
    for one in known {
        let is_next = counted.is_none_or(|before| {
            let failed = before.failed_by(before_ms);
            failed.is_some_and(|failed| one.at_ms > failed)
        });
        if is_next {
            counted = Some(one);
        }
        if one.stamp == call.stamp {
            return if is_next {
                call.accepted_by(before_ms)
            } else {
                CallStanding::Repeated
            };
        }
    }
    // The call itself is not known. The object under its key is the one that it may have made, unless it came after the end
    // of that one.
    let covers = |it: &BookedCall| {
        it.failed_by(before_ms)
            .is_none_or(|failed| call.at_ms <= failed)
    };
    match counted {
        Some(counted) if covers(counted) => CallStanding::Repeated,
        _ => CallStanding::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u8, is_once: bool, learned: Option<(LearnedResult, u64)>) -> BookedCall {
        BookedCall {
            stamp: [number; 16],
            operation: "create_payout".to_owned(),
            key: "k".to_owned(),
            is_once,
            amounts: Some(Vec::new()),
            at_ms: u64::from(number) * 10,
            learned,
            failed_ms: None,
        }
    }

    fn standings(group: &[BookedCall], before_ms: u64) -> Vec<&'static str> {
        let all = group.iter();
        all.map(|one| standing(one, group, before_ms).as_str())
            .collect()
    }

    use LearnedResult::{Accepted, Found, Refused};

    #[test]
    fn a_call_is_unknown_until_its_end_is_learned() {
        let group = [call(1, true, Some((Accepted, 15)))];
        assert_eq!(standings(&group, 15), ["unknown"]);
        assert_eq!(standings(&group, 16), ["executed"]);
    }

    #[test]
    fn calls_under_one_key_are_one_transaction_the_one_that_was_learned_first() {
        let group = [
            call(1, true, None),
            call(2, true, Some((Accepted, 25))),
            call(3, true, Some((Accepted, 35))),
            call(4, true, Some((Refused, 45))),
        ];
        assert_eq!(
            standings(&group, 20),
            ["unknown", "unknown", "unknown", "unknown"]
        );
        let now = ["repeated", "executed", "repeated", "refused"];
        assert_eq!(standings(&group, 100), now);
    }

    #[test]
    fn without_a_documented_key_each_accepted_call_counts() {
        let group = [
            call(1, false, None),
            call(2, false, Some((Accepted, 25))),
            call(3, false, Some((Accepted, 35))),
            call(4, false, Some((Found, 45))),
        ];
        let now = ["unknown", "executed", "executed", "repeated"];
        assert_eq!(standings(&group, 100), now);
        let found = [call(1, false, None), call(2, false, Some((Found, 25)))];
        assert_eq!(standings(&found, 100), ["repeated", "executed"]);
    }

    #[test]
    fn after_a_failure_the_next_call_under_the_key_counts_anew() {
        let mut first = call(1, true, Some((Accepted, 15)));
        first.failed_ms = Some(25);
        let group = [
            first,
            call(2, true, Some((Accepted, 28))),
            call(3, true, Some((Accepted, 38))),
        ];
        assert_eq!(standings(&group, 25), ["executed", "repeated", "repeated"]);
        assert_eq!(standings(&group, 100), ["failed", "repeated", "executed"]);
    }

    #[test]
    fn amounts_of_a_column_are_those_that_were_written() {
        let part = |currency: &str, amount: &str| SpendAmount {
            currency: CurrencyCode::parse(currency).unwrap(),
            amount: ExactAmount::parse(amount).unwrap(),
        };
        let usage = |amounts| CallUsage {
            key: None,
            is_once: true,
            amounts,
        };
        let two = usage(Some(vec![
            part("USDT", "1.000000000000000001"),
            part("ETH", "2"),
            part("USDT", "1"),
        ]));
        assert_eq!(two.parts_text(), "ETH=2,USDT=2.000000000000000001");
        let read = vec![part("ETH", "2"), part("USDT", "2.000000000000000001")];
        let of = |usage: &CallUsage| amounts_of(&usage.parts_text()).unwrap();
        assert_eq!(of(&two), Some(read));
        assert_eq!(of(&usage(None)), None);
        assert_eq!(of(&usage(Some(Vec::new()))), Some(Vec::new()));
        assert!(amounts_of("USDT").is_err());
    }
}
