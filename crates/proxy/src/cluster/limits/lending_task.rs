//! The task that asks the store for loans: tokens and seats of parties, and this instance's part of the institution's
//! rate. All its calls follow each other, as the store demands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gatepay_admission::quota::RatePart;
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::limits::{
    DemandReport, DemandTally, EXCHANGE_AT_MOST, LeaseGrant, LimitQuestions, RateLease, StoreHeard,
    named,
};
use gatepay_store::postgres::PostgresStore;
use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until};

use super::party_loans::{AnswersLeft, OpenLoans};
use super::{PartyLoans, SharedLimits};
use crate::process::clock::nanos;

/// How long the task waits for more parties that have something to ask, before one call asks for all.
const GATHER: Duration = Duration::from_millis(1);
/// The most parties in one call.
const MOST_PARTIES: usize = 512;
/// A party that did not ask for this long has no part of its demand here.
const RESTS_AFTER: Duration = Duration::from_secs(10);

/// The task's state.
struct LendingTask<'a> {
    limits: &'a SharedLimits,
    store: &'a PostgresStore,
    instance: i64,
    /// The number of the last call.
    number: i64,
    lease: RateLease,
    tally: DemandTally,
    /// The name of the parties with a small demand here, if there are many: no party can have it.
    others: Arc<str>,
    /// The parties that asked lately, and when they did last.
    active: HashMap<Arc<str>, (Arc<PartyLoans>, Duration)>,
    /// Parties by the time at which there is something to ask about them, and a number that makes it unique.
    timer: BTreeMap<(Duration, u64), Arc<PartyLoans>>,
    timed: u64,
    era: Option<i64>,
    /// The era in which all seats here are declared, and no loan of an earlier one is in use.
    declared: i64,
    /// Whether the last call failed.
    is_failing: bool,
    /// No call before this time: the last one failed.
    pauses_until: Duration,
}

/// Asks for loans until the thread ends. `took` counts the seconds of a call.
pub(in crate::cluster) async fn lend(
    limits: Arc<SharedLimits>,
    store: Arc<Store>,
    instance: i64,
    took: impl Fn(&'static str, Duration),
) {
    let Store::Postgres(store) = &*store else {
        return;
    };
    limits.recover();
    let mut task = LendingTask {
        limits: &limits,
        store,
        instance,
        number: limits.queue.last_number.load(Ordering::Acquire),
        lease: RateLease::default(),
        tally: DemandTally::default(),
        others: Arc::from(format!("others/{instance}")),
        active: HashMap::new(),
        timer: BTreeMap::new(),
        timed: 0,
        era: None,
        declared: 0,
        is_failing: false,
        pauses_until: Duration::ZERO,
    };
    let mut last = None;
    loop {
        task.gather();
        let now = task.now();
        if now < task.pauses_until {
            sleep_until(limits.queue.clock.instant(task.pauses_until)).await;
            continue;
        }
        let call = LendingCall::next(task.exchange_due(), task.next_due(), last, now);
        match call {
            Some(LendingCall::Exchange) => {
                task.exchange().await;
                took("exchange", now);
            }
            Some(LendingCall::Take) => {
                if task.take().await {
                    took("take", now);
                } else {
                    // Nothing was awaited: the thread's other tasks go first.
                    yield_now().await;
                }
            }
            None => task.wait().await,
        }
        last = call;
    }
}

/// A call to the store about limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LendingCall {
    Exchange,
    Take,
}

impl LendingCall {
    /// The call that is due. After an exchange a take goes first: an exchange that takes as long as the interval between
    /// two of them would otherwise leave no time for a take.
    fn next(
        exchange_due: Duration,
        take_due: Option<Duration>,
        last: Option<Self>,
        now: Duration,
    ) -> Option<Self> {
        let exchange = exchange_due <= now;
        let take = take_due.is_some_and(|due| due <= now);
        match (exchange, take) {
            (true, true) if last == Some(Self::Exchange) => Some(Self::Take),
            (true, _) => Some(Self::Exchange),
            (false, true) => Some(Self::Take),
            (false, false) => None,
        }
    }
}

impl LendingTask<'_> {
    /// The number of the next call. It outlives this task: the store refuses a lower one.
    fn next_number(&mut self) {
        self.number += 1;
        let queue = &self.limits.queue;
        queue.last_number.store(self.number, Ordering::Release);
    }

    fn now(&self) -> Duration {
        self.limits.queue.clock.elapsed()
    }

    /// Reads the messages of requests since the last call.
    fn gather(&mut self) {
        let queue = &self.limits.queue;
        let due = std::mem::take(&mut *queue.due.lock());
        for party in due {
            if let Some(at) = party.queued() {
                self.timed += 1;
                self.timer.insert((at, self.timed), party);
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        self.timer.keys().next().map(|(at, _)| *at)
    }

    fn exchange_due(&self) -> Duration {
        let due = self.lease.due();
        if self.limits.queue.is_hurried.load(Ordering::Acquire) {
            return due.min(self.lease.asked_at() + EXCHANGE_AT_MOST);
        }
        due
    }

    /// Waits until there is something to ask.
    async fn wait(&self) {
        let next = self.next_due();
        let exchange = self.exchange_due();
        let next = next.map_or(exchange, |next| next.min(exchange));
        let queue = &self.limits.queue;
        tokio::select! {
            () = sleep_until(queue.clock.instant(next)) => {}
            () = queue.wake.notified() => sleep(GATHER).await,
        }
    }

    /// Asks for tokens and seats. Returns whether there was anything to ask.
    async fn take(&mut self) -> bool {
        let asked_at = self.now();
        let queue = &self.limits.queue;
        let heard = queue.heard();
        let mut questions = LimitQuestions {
            instance: self.instance,
            number: self.number + 1,
            ..LimitQuestions::default()
        };
        if let Some(places) = self.limits.quota.places() {
            self.limits.institution.set_seats(places);
        }
        let mut asked: Vec<(Arc<PartyLoans>, OpenLoans)> = Vec::new();
        let mut at_rest = Vec::new();
        while asked.len() < MOST_PARTIES
            && let Some(first) = self.timer.first_entry()
            && first.key().0 <= asked_at
        {
            let ((at, _), party) = first.remove_entry();
            // Another entry is about the same party's new time.
            if party.queued() != Some(at) {
                continue;
            }
            let open = party.ask(&mut questions, &heard, asked_at);
            if open.is_empty() {
                at_rest.push((party, open));
            } else {
                asked.push((party, open));
            }
        }
        for (party, open) in at_rest {
            party.answer_to(open, Some(&mut AnswersLeft::none()), &heard, asked_at);
        }
        if questions.is_empty() {
            return false;
        }
        self.next_number();
        let answers = self.store.take(&questions).await;
        self.note(answers.as_ref().err());
        let now = self.now();
        if let Ok(answers) = &answers {
            self.hear(answers.era, asked_at, now);
        }
        let heard = queue.heard();
        let mut left = answers.as_ref().ok().map(AnswersLeft::of);
        for (party, open) in asked {
            party.answer_to(open, left.as_mut(), &heard, now);
        }
        true
    }

    /// Reports the demand here, and puts the part of the rate in force that the store lends for it.
    async fn exchange(&mut self) {
        let asked_at = self.now();
        self.count_demand(asked_at);
        let tenants = named(self.tally.report(asked_at), &self.others);
        let (full, pushed_back_to) = self.limits.quota.reported(asked_at);
        let heard = self.limits.queue.heard();
        let silent = heard.silent(self.declared, asked_at);
        if self.has_declared(&heard) {
            self.declared = heard.era();
        }
        self.next_number();
        self.lease.ask(asked_at);
        self.put_in_force(asked_at);
        let report = self.lease.report(DemandReport {
            instance: self.instance,
            number: self.number,
            era: self.declared,
            silent,
            rate: full.per_second.get().into(),
            burst: full.burst.get().into(),
            in_force: pushed_back_to.map(f64::from),
            holds: self.limits.quota.holds(asked_at),
            tenants,
            ..DemandReport::default()
        });
        let answer = self.store.exchange(&report).await;
        self.note(answer.as_ref().err());
        match answer {
            Ok(grant) => self.granted(&report, grant, asked_at),
            Err(_) => self.put_in_force(self.now()),
        }
    }

    /// Counts the requests since the last exchange.
    fn count_demand(&mut self, now: Duration) {
        let queue = &self.limits.queue;
        queue.is_hurried.store(false, Ordering::Release);
        let asking = std::mem::take(&mut *queue.asking.lock());
        for party in asking {
            let (asked, weight, is_refused) = party.demand();
            self.tally.count(party.tenant(), weight, asked, now);
            if is_refused {
                self.tally.refused(party.tenant());
            }
            self.active.insert(Arc::clone(party.tenant()), (party, now));
        }
        self.active.retain(|_, (party, at)| {
            let stays = now < *at + RESTS_AFTER;
            if !stays {
                party.rest();
            }
            stays
        });
    }

    /// Notes an answer. When the store may have forgotten seats of this instance, or lent them to others, every party
    /// with a seat has something to ask: the timer has all of them. Tokens of an earlier era end.
    fn hear(&mut self, era: i64, asked_at: Duration, now: Duration) {
        self.gather();
        let queue = &self.limits.queue;
        let begins = queue.heard.lock().note(era, asked_at, now);
        let heard = queue.heard();
        if begins {
            for party in self.timer.values() {
                party.look_again(&heard, now);
            }
        }
    }

    /// Whether the store has counted all seats of calls here in its era, and no loan of an earlier one is in use.
    fn has_declared(&self, heard: &StoreHeard) -> bool {
        let is_leased = self.lease.grant().is_some_and(|it| it.era == heard.era());
        let is_asked = self.declared == heard.era();
        is_leased && (is_asked || !self.timer.values().any(|it| it.is_undeclared(heard)))
    }

    fn granted(&mut self, report: &DemandReport, grant: LeaseGrant, asked_at: Duration) {
        let (queue, now) = (&self.limits.queue, self.now());
        self.hear(grant.era, asked_at, now);
        self.set_fractions(report, &grant.fractions);
        let is_other_era = self.era.is_some_and(|era| era != grant.era);
        if is_other_era {
            tracing::warn!(
                "the store has forgotten its loans of limits: it lends again once every instance has declared its calls in flight, or after five seconds"
            );
        }
        self.era = Some(grant.era);
        queue.lends_seats.store(grant.is_open, Ordering::Release);
        self.lease.answered(grant, now);
        self.put_in_force(now);
    }

    /// Tells the parties which part of their demand is here; a party that is not reported by name counts whole.
    fn set_fractions(&self, report: &DemandReport, fractions: &[f64]) {
        let last = report.tenants.last();
        if last.is_some_and(|it| it.tenant == self.others) {
            let named: HashSet<&str> = report.tenants.iter().map(|it| &*it.tenant).collect();
            for (party, _) in self.active.values() {
                if !named.contains(&**party.tenant()) {
                    party.set_fraction(1.0);
                }
            }
        }
        for (demand, fraction) in report.tenants.iter().zip(fractions) {
            if let Some((party, _)) = self.active.get(&demand.tenant) {
                party.set_fraction(*fraction);
            }
        }
    }

    /// Puts the lease in force as far as it is usable.
    fn put_in_force(&self, now: Duration) {
        let Some(grant) = self.lease.grant() else {
            return;
        };
        let usable_until = self.lease.usable_until();
        let part = RatePart {
            per_second: grant.rate,
            burst: grant.burst,
            whole: grant.whole_rate,
            weight: grant.weight,
            seated_elsewhere: grant.seats_elsewhere,
            usable_until,
            ends: self.lease.ends(),
        };
        self.limits.quota.lend(part, now);
        let queue = &self.limits.queue;
        let is_lent = grant.burst > 0.0;
        if is_lent && queue.first_lent_at.load(Ordering::Acquire) == 0 {
            queue.first_lent_at.store(nanos(now), Ordering::Release);
        }
        let end = if is_lent {
            usable_until
        } else {
            Duration::ZERO
        };
        queue.note_lease(end, now);
        let per_second = if now < usable_until { grant.rate } else { 0.0 };
        queue.meters.lease.set(per_second);
    }

    /// Logs when calls begin to fail, and when they succeed again.
    fn note(&mut self, error: Option<&StoreError>) {
        match error {
            Some(error) if !self.is_failing => {
                tracing::warn!(%error, "the store does not answer about limits: its loans to this instance end within two seconds");
            }
            None if self.is_failing => tracing::info!("the store lends limits again"),
            _ => {}
        }
        self.is_failing = error.is_some();
        if self.is_failing {
            self.pauses_until = self.now() + EXCHANGE_AT_MOST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_take_follows_an_exchange_that_is_due_again() {
        let (due, now) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut last = None;
        let mut calls = Vec::new();
        for _ in 0..4 {
            last = LendingCall::next(due, Some(due), last, now);
            calls.extend(last);
        }
        let (exchange, take) = (LendingCall::Exchange, LendingCall::Take);
        assert_eq!(calls, [exchange, take, exchange, take]);
        let later = Some(Duration::from_secs(3));
        assert_eq!(
            LendingCall::next(due, later, Some(exchange), now),
            Some(exchange)
        );
        assert_eq!(LendingCall::next(now * 2, later, Some(exchange), now), None);
    }
}
