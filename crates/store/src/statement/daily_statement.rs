//! Daily statement: the sums of one party and one day.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use gatepay_core::exact_amount::ExactAmount;

use super::account_book::{BookedCall, CallStanding, standing};
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

/// Calls of one operation that stand alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatementLine {
    /// The operation's name.
    pub operation: String,
    /// How they stood.
    pub standing: CallStanding,
}

/// Calls of one operation and one earlier day that stood alike before, and stand alike now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrectionLine {
    /// The date of the day that is corrected.
    pub date: String,
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
    /// Of the 18th place, below one coin.
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

    /// Adds a sum.
    pub fn add_sum(&mut self, other: Self) {
        let units = self.units + other.units;
        self.coins += other.coins + units / COIN;
        self.units = units % COIN;
    }

    /// The difference, if it is not negative.
    pub fn less(self, other: Self) -> Option<Self> {
        let (coins, units) = if self.units >= other.units {
            (self.coins, self.units - other.units)
        } else {
            (self.coins.checked_sub(1)?, self.units + COIN - other.units)
        };
        let coins = coins.checked_sub(other.coins)?;
        Some(Self { coins, units })
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

/// Calls by operation and key. A call without a key is alone and not in here.
pub(crate) type KeyGroups = HashMap<(String, String), Vec<BookedCall>>;

/// Adds up a statement, page by page.
pub(crate) struct StatementSum {
    pub(crate) statement: DailyStatement,
    /// The days of the store, for the dates of corrections.
    days: Vec<DayBounds>,
    corrected: HashSet<Fingerprint>,
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
    pub(crate) fn count(&mut self, calls: &[BookedCall], groups: &KeyGroups) {
        let ends_ms = self.statement.day.ends_ms;
        for call in calls {
            let line = StatementLine {
                operation: call.operation.clone(),
                standing: standing(call, group_of(call, groups), ends_ms),
            };
            self.statement.calls.entry(line).or_default().count(call);
        }
    }

    /// Counts what these calls, of which something was learned on the day, change about earlier days.
    pub(crate) fn correct(&mut self, calls: &[BookedCall], groups: &KeyGroups) {
        for call in calls {
            let group = group_of(call, groups);
            for one in group {
                self.correct_one(one, group);
            }
        }
    }

    fn correct_one(&mut self, call: &BookedCall, group: &[BookedCall]) {
        let DayBounds {
            begins_ms, ends_ms, ..
        } = self.statement.day;
        if call.at_ms >= begins_ms {
            return;
        }
        let [before, now] = [begins_ms, ends_ms].map(|ms| standing(call, group, ms));
        if before == now || !self.corrected.insert(call.stamp) {
            return;
        }
        let line = CorrectionLine {
            date: self.date_of(call.at_ms),
            operation: call.operation.clone(),
            before,
            now,
        };
        self.statement
            .corrections
            .entry(line)
            .or_default()
            .count(call);
    }

    fn date_of(&self, at_ms: u64) -> String {
        let day = self.days.iter().rfind(|day| day.begins_ms <= at_ms);
        day.map_or_else(String::new, |day| day.date.clone())
    }
}

fn group_of<'a>(call: &'a BookedCall, groups: &'a KeyGroups) -> &'a [BookedCall] {
    let alone = std::slice::from_ref(call);
    if !call.has_key() {
        return alone;
    }
    let group = groups.get(&(call.operation.clone(), call.key.clone()));
    group.map_or(alone, Vec::as_slice)
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
        let mut small = AmountSum::default();
        small.add(ExactAmount::from_units(10).unwrap());
        let mut whole = sum;
        whole.add_sum(small);
        assert_eq!(whole.to_string(), "1000000000000000000000");
        assert_eq!(whole.less(small), Some(sum));
        assert_eq!(small.less(sum), None);
    }
}
