//! Daily statement: the sums of one party and one day.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use gatepay_core::exact_amount::ExactAmount;

use super::account_book::{BookedCall, CallStanding, KeyHeads, standing};
use super::usage_flush::DayBounds;
use crate::stored_text::Fingerprint;

/// The calls and amounts of one party on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DailyStatement {
    /// The day.
    pub day: DayBounds,
    /// The store's clock at the reading.
    pub now_ms: u64,
    /// Writes and money calls that were admitted on the day, as they stood at its end.
    pub calls: BTreeMap<StatementLine, LineTotal>,
    /// Reads, and requests that the proxy refused.
    pub counts: Vec<DayCount>,
    /// The most requests in one second, and that second since 1970.
    pub peak: Option<(u64, u64)>,
    /// Corrections that the day's results make to calls of earlier days.
    pub corrections: BTreeMap<CorrectionLine, LineTotal>,
    /// The last flushes of instances that ended on the day without their last counts.
    pub losses_ms: Vec<u64>,
}

/// Calls of one operation for one sub-account that stand alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementLine {
    /// The sub-account.
    pub account: String,
    /// The operation's name.
    pub operation: String,
    /// How they stood.
    pub standing: CallStanding,
}

/// Calls of one operation for one sub-account on one earlier day that stood alike before, and stand alike now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrectionLine {
    /// The date of the day that is corrected.
    pub date: String,
    /// The sub-account.
    pub account: String,
    /// The operation's name.
    pub operation: String,
    /// How they stood at the beginning of the day on which the correction was learned.
    pub before: CallStanding,
    /// How they stood at its end.
    pub now: CallStanding,
}

/// The calls of a line, and their amounts by currency.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineTotal {
    /// How many calls.
    pub calls: u64,
    /// Of these, money calls whose amounts could not be read exactly.
    pub unread: u64,
    /// The amounts.
    pub amounts: BTreeMap<String, AmountSum>,
}

/// Requests of one operation that ended alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayCount {
    /// The operation's name.
    pub operation: String,
    /// How they ended.
    pub outcome: String,
    /// How many.
    pub calls: u64,
}

/// A sum of amounts, which has no largest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct AmountSum {
    coins: u128,
    /// Units of the 18th place, less than one coin.
    units: u128,
}

const COIN: u128 = 10_u128.pow(18);

impl AmountSum {
    /// Adds an amount.
    pub fn add(&mut self, amount: ExactAmount) {
        let units = self.units + amount.units() % COIN;
        self.coins += amount.units() / COIN + units / COIN;
        self.units = units % COIN;
    }
}

/// Plain digits without surplus zeros.
impl fmt::Display for AmountSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.units == 0 {
            return write!(f, "{}", self.coins);
        }
        let places = format!("{:018}", self.units);
        write!(f, "{}.{}", self.coins, places.trim_end_matches('0'))
    }
}

impl LineTotal {
    fn count(&mut self, call: &BookedCall) {
        self.calls += 1;
        match &call.amounts {
            None => self.unread += 1,
            Some(amounts) => {
                for part in amounts {
                    let sum = self.amounts.entry(part.currency.as_str().to_owned());
                    sum.or_default().add(part.amount);
                }
            }
        }
    }
}

/// The name under which calls are one group. A call without a key stands alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyName {
    pub(crate) account: String,
    pub(crate) operation: String,
    pub(crate) key: String,
}

/// The heads of keys at one time. A key of which nothing is known has none.
pub(crate) type HeadsByKey = HashMap<KeyName, KeyHeads>;

impl KeyName {
    /// The name of a call's group; `None` for one that stands alone.
    pub(crate) fn of(call: &BookedCall) -> Option<Self> {
        call.has_key().then(|| Self {
            account: call.account.clone(),
            operation: call.operation.clone(),
            key: call.key.clone(),
        })
    }

    /// The names of calls, each once, and whether each call under it may be one of its own.
    pub(crate) fn all(calls: &[BookedCall]) -> BTreeMap<Self, bool> {
        let mut names = BTreeMap::new();
        for call in calls {
            if let Some(name) = Self::of(call) {
                *names.entry(name).or_default() |= !call.is_once;
            }
        }
        names
    }
}

/// Adds up a statement, page by page.
pub(crate) struct StatementSum {
    pub(crate) statement: DailyStatement,
    /// The days of the store, for the dates of corrections.
    days: Vec<DayBounds>,
    corrected: HashSet<Fingerprint>,
}

/// The heads of keys at the beginning of a day and at its end.
pub(crate) struct HeadsOfDay {
    pub(crate) before: HeadsByKey,
    pub(crate) now: HeadsByKey,
}

impl HeadsOfDay {
    /// The keys of which these calls have changed the heads: others under the key may stand in another way for that reason.
    pub(crate) fn changed_by(&self, calls: &[BookedCall]) -> Vec<KeyName> {
        let changed = calls.iter().filter_map(|call| {
            let name = KeyName::of(call)?;
            let [before, now] = [&self.before, &self.now].map(|heads| heads.get(&name));
            let [before, now] = [before, now].map(|heads| heads.copied().unwrap_or_default());
            (before != now && (before.have(call) || now.have(call))).then_some(name)
        });
        let changed: BTreeSet<KeyName> = changed.collect();
        changed.into_iter().collect()
    }
}

impl StatementSum {
    pub(crate) fn begin(day: DayBounds, now_ms: u64, days: Vec<DayBounds>) -> Self {
        Self {
            statement: DailyStatement {
                day,
                now_ms,
                calls: BTreeMap::new(),
                counts: Vec::new(),
                peak: None,
                corrections: BTreeMap::new(),
                losses_ms: Vec::new(),
            },
            days,
            corrected: HashSet::new(),
        }
    }

    /// Counts calls that were admitted on the day, each once.
    pub(crate) fn count(&mut self, calls: &[BookedCall], heads: &HeadsByKey) {
        let ends_ms = self.statement.day.ends_ms;
        for call in calls {
            let line = StatementLine {
                account: call.account.clone(),
                operation: call.operation.clone(),
                standing: standing(call, &heads_of(call, heads, ends_ms), ends_ms),
            };
            self.statement.calls.entry(line).or_default().count(call);
        }
    }

    /// Counts what the day's news change about calls of earlier days.
    pub(crate) fn correct(&mut self, calls: &[BookedCall], heads: &HeadsOfDay) {
        let DayBounds {
            begins_ms, ends_ms, ..
        } = self.statement.day;
        for call in calls.iter().filter(|call| call.at_ms < begins_ms) {
            let times = [(&heads.before, begins_ms), (&heads.now, ends_ms)];
            let [before, now] =
                times.map(|(heads, ms)| standing(call, &heads_of(call, heads, ms), ms));
            if before == now || !self.corrected.insert(call.stamp) {
                continue;
            }
            let line = CorrectionLine {
                date: self.date_of(call.at_ms),
                account: call.account.clone(),
                operation: call.operation.clone(),
                before,
                now,
            };
            let total = self.statement.corrections.entry(line);
            total.or_default().count(call);
        }
    }

    fn date_of(&self, at_ms: u64) -> String {
        let day = self.days.iter().rfind(|day| day.begins_ms <= at_ms);
        day.map_or_else(String::new, |day| day.date.clone())
    }
}

fn heads_of(call: &BookedCall, heads: &HeadsByKey, before_ms: u64) -> KeyHeads {
    match KeyName::of(call) {
        None => KeyHeads::of_one(call, before_ms),
        Some(name) => heads.get(&name).copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_beyond_the_largest_amount() {
        let mut sum = AmountSum::default();
        for _ in 0..10 {
            sum.add(ExactAmount::MOST);
        }
        assert_eq!(sum.to_string(), "999999999999999999999.99999999999999999");
        sum.add(ExactAmount::from_units(10).unwrap());
        assert_eq!(sum.to_string(), "1000000000000000000000");
    }
}
