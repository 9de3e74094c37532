//! Usage tally: counts requests for statements, until the thread `statements` takes the counts to the store.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};

use gatepay_core::Operation;
use gatepay_store::admission::StoredText;
use gatepay_store::statement::usage_flush::{DayBounds, SecondCount, UsageCount, UsageFlush};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::prom::outcome::RequestOutcome;

/// The counts of this process that the store does not have yet.
pub struct UsageTally {
    instance: i64,
    counts: Mutex<TallyCounts>,
    /// Wakes the thread for its last flush.
    ends: Notify,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct TallyCounts {
    parties: HashMap<String, PartyCounts>,
    /// The counts of parties whose account has changed since the last flush.
    former: Vec<(String, PartyCounts)>,
    number: i64,
}

#[derive(Default)]
struct PartyCounts {
    account: String,
    by_end: HashMap<(Cow<'static, str>, &'static str), u64>,
    by_second: BTreeMap<u64, u64>,
}

/// The name under which deliveries are counted, beside those of operations.
pub const DELIVERIES: &str = "notifications";
/// How a delivered notification ended.
pub const DELIVERED: &str = "delivered";

impl UsageTally {
    /// Nothing is counted yet.
    pub fn new(instance: i64) -> Self {
        Self {
            instance,
            counts: Mutex::default(),
            ends: Notify::new(),
            has_ended: AtomicBool::new(false),
        }
    }

    /// A verified request of a party with its account has ended. The store counts booked calls itself: of these only the
    /// second counts.
    pub fn ended(
        &self,
        holder: (&str, &str),
        operation: &Operation,
        end: Option<RequestOutcome>,
        second: u64,
    ) {
        let mut counts = self.counts.lock();
        let party = counts.of(holder);
        *party.by_second.entry(second).or_default() += 1;
        if let Some(end) = end {
            let name = (operation.name.clone(), word(end));
            *party.by_end.entry(name).or_default() += 1;
        }
    }

    /// A notification was delivered to a tenant.
    pub fn delivered(&self, holder: (&str, &str)) {
        let name = (Cow::Borrowed(DELIVERIES), DELIVERED);
        let mut counts = self.counts.lock();
        *counts.of(holder).by_end.entry(name).or_default() += 1;
    }

    /// Takes all counts, as the next flush. It goes to the store, however often that takes, before the next one.
    pub fn take(&self, days: Vec<DayBounds>, is_last: bool) -> UsageFlush {
        let mut counts = self.counts.lock();
        counts.number += 1;
        let mut flush = UsageFlush {
            instance: self.instance,
            number: counts.number,
            is_last,
            days,
            counts: Vec::new(),
            seconds: Vec::new(),
        };
        let taken = mem::take(&mut counts.parties).into_iter();
        let taken: Vec<_> = taken.chain(mem::take(&mut counts.former)).collect();
        drop(counts);
        for (party, counted) in taken {
            let holder = StoredText::parse(&party).zip(StoredText::parse(&counted.account));
            let Some((party, account)) = holder else {
                continue;
            };
            let by_end = counted.by_end.into_iter();
            flush
                .counts
                .extend(by_end.map(|((operation, outcome), calls)| UsageCount {
                    party: party.clone(),
                    account: account.clone(),
                    operation: operation.to_string(),
                    outcome: outcome.to_owned(),
                    calls,
                }));
            let by_second = counted.by_second.into_iter();
            flush
                .seconds
                .extend(by_second.map(|(second, calls)| SecondCount {
                    party: party.clone(),
                    account: account.clone(),
                    second,
                    calls,
                }));
        }
        flush
    }

    /// All requests have ended: the thread makes its last flush.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.ends.notify_one();
    }

    /// Waits for [`end`](Self::end).
    pub async fn until_end(&self) {
        while !self.has_ended.load(Ordering::Acquire) {
            self.ends.notified().await;
        }
    }
}

impl TallyCounts {
    fn of(&mut self, (party, account): (&str, &str)) -> &mut PartyCounts {
        if !self.parties.contains_key(party) {
            self.parties
                .insert(party.to_owned(), PartyCounts::of(account));
        }
        let counts = self
            .parties
            .get_mut(party)
            .expect("it was inserted above if it was missing");
        if counts.account != account {
            let former = mem::replace(counts, PartyCounts::of(account));
            self.former.push((party.to_owned(), former));
        }
        counts
    }
}

impl PartyCounts {
    fn of(account: &str) -> Self {
        Self {
            account: account.to_owned(),
            ..Self::default()
        }
    }
}

fn word(end: RequestOutcome) -> &'static str {
    match end {
        RequestOutcome::Success => "success",
        RequestOutcome::Failure => "failure",
        RequestOutcome::Unknown => "unknown",
        RequestOutcome::Refused | RequestOutcome::RefusedUnknown => "refused_by_proxy",
        RequestOutcome::CallerLeft => "caller_left",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::Catalogue;

    #[test]
    fn a_flush_takes_what_was_counted_since_the_one_before() {
        let tally = UsageTally::new(7);
        let catalogue = Catalogue::standard();
        let query = catalogue.named("query_order").unwrap();
        for second in [5, 5, 6] {
            let end = Some(RequestOutcome::Success);
            tally.ended(("acme", "100"), query, end, second);
        }
        tally.ended(("acme", "100"), query, None, 6);
        tally.ended(("acme", "200"), query, Some(RequestOutcome::Refused), 6);
        let first = tally.take(Vec::new(), false);
        let mut told: Vec<_> = first
            .counts
            .iter()
            .map(|it| (it.account.as_str(), &*it.outcome, it.calls))
            .collect();
        told.sort_unstable();
        let expected = [("100", "success", 3), ("200", "refused_by_proxy", 1)];
        assert_eq!(told, expected);
        let seconds = first.seconds.iter();
        let mut seconds: Vec<_> = seconds
            .map(|it| (it.account.as_str(), it.second, it.calls))
            .collect();
        seconds.sort_unstable();
        assert_eq!(seconds, [("100", 5, 2), ("100", 6, 2), ("200", 6, 1)]);
        let next = tally.take(Vec::new(), true);
        assert_eq!((next.counts, next.seconds), (Vec::new(), Vec::new()));
        assert_eq!((first.number, next.number, next.is_last), (1, 2, true));
    }
}
