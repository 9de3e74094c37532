//! Limits that instances share in PostgreSQL: the store's loans to this instance, and how requests take of them.
//!
//! A request takes a token or a seat of its party's [loans](PartyLoans) at once. If there is none, it waits for the
//! answer to the next question. One task on the thread `store` asks the questions, and exchanges the demand of the parties
//! here for a part of the institution's rate.

mod lending_task;
mod loan_meters;
mod party_loans;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use gatepay_admission::limiter::{Limiter, RateExceeded};
use gatepay_admission::quota::{Quota, RatePart};
use gatepay_store::limits::StoreHeard;
use gatepay_tenancy::settings::StoreSettings;
use gatepay_tenancy::{PartyLimits, Rate};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::process::clock::{Clock, nanos};

pub use loan_meters::LoanMeters;
pub use party_loans::{LoanRefused, PartyLoans, SeatWanted, TakenLoans, TokensWanted};

pub(super) use lending_task::lend;

/// The limits that instances share, as this instance has them.
pub struct SharedLimits {
    queue: Arc<LoanQueue>,
    quota: Arc<Quota>,
    /// The institution's calls in flight.
    institution: Arc<PartyLoans>,
    instances_max: NonZeroU32,
    /// The institution's rate for this instance while the store is away.
    alone: Mutex<RateAlone>,
}

/// A rate for this instance alone.
struct RateAlone {
    limiter: Limiter,
    /// When the time without the store began for which the limiter started empty.
    since: Duration,
}

/// The messages between requests and the task.
struct LoanQueue {
    clock: Clock,
    meters: LoanMeters,
    /// All parties.
    parties: Mutex<Vec<Weak<PartyLoans>>>,
    /// The number of the last call about limits.
    last_number: AtomicI64,
    /// Parties with a question about their loans, now or at a later time.
    due: Mutex<Vec<Arc<PartyLoans>>>,
    /// Parties that asked for a part of the institution's rate since the last exchange.
    asking: Mutex<Vec<Arc<PartyLoans>>>,
    /// Whether this instance's part of the institution's rate was too small for a party that the store has not heard of.
    is_hurried: AtomicBool,
    wake: Notify,
    heard: Mutex<StoreHeard>,
    /// The end of the lease, in nanoseconds of the clock's elapsed time; 0 while the store lends nothing.
    lent_until: AtomicU64,
    /// When a lease was last in force, in the same nanoseconds; 0 before the first.
    last_lent_at: AtomicU64,
    /// Whether the first lease has brought enough tokens.
    has_filled: AtomicBool,
    /// When the first lease began, in the same nanoseconds; 0 before.
    first_lent_at: AtomicU64,
    /// Whether the store lends seats, by the last exchange.
    lends_seats: AtomicBool,
    /// When a request last asked for loans, in the same nanoseconds.
    asked_at: AtomicU64,
    /// The institution's places that calls hold without the store.
    places_alone: AtomicU32,
}

/// How long an instance that starts waits at most for the tokens of its first lease.
pub(super) const FILLS_WITHIN: Duration = Duration::from_secs(1);

impl SharedLimits {
    /// Limits of which nothing is lent yet; `None` if these settings are of one process.
    pub fn of(
        store: Option<&StoreSettings>,
        quota: &Arc<Quota>,
        meters: &LoanMeters,
        clock: &Clock,
    ) -> Option<Arc<Self>> {
        let store = store?;
        let instances_max = store.sharing()?;
        let queue = LoanQueue::new(clock, meters);
        let now = clock.elapsed();
        let (full, _) = quota.reported(now);
        let alone = RateAlone {
            limiter: Limiter::empty_at(divided(full, instances_max), now),
            since: now,
        };
        let limits = PartyLimits::default();
        let institution = PartyLoans::new(&queue, "", &limits, NonZeroU32::MIN);
        Some(Arc::new(Self {
            institution,
            quota: Arc::clone(quota),
            instances_max,
            alone: Mutex::new(alone),
            queue,
        }))
    }

    /// The loans of a party. It has none before it asks.
    pub fn join(&self, id: &str, limits: &PartyLimits, weight: NonZeroU32) -> Arc<PartyLoans> {
        PartyLoans::new(&self.queue, id, limits, weight)
    }

    /// The loans of the institution's calls in flight.
    pub fn institution(&self) -> &Arc<PartyLoans> {
        &self.institution
    }

    /// Whether the limit of the institution's calls in flight is in shadow mode.
    pub fn has_shadow_places(&self) -> bool {
        self.quota.has_shadow_places()
    }

    /// The meters of loans.
    pub fn meters(&self) -> &LoanMeters {
        &self.queue.meters
    }

    /// Whether the store lends this instance a part of the institution's rate at this time.
    pub fn is_lending(&self, now: Duration) -> bool {
        nanos(now) < self.queue.lent_until.load(Ordering::Acquire)
    }

    /// How long the store has lent this instance no part of the institution's rate.
    pub(super) fn unlent_for(&self, now: Duration) -> Duration {
        self.queue.unlent_for(now)
    }

    /// Whether the store lends seats: not so soon after a crash or a failover of its own.
    pub fn is_lending_seats(&self) -> bool {
        self.queue.lends_seats.load(Ordering::Acquire)
    }

    /// Whether the first lease has brought enough for a first burst of calls, or has lasted for [`FILLS_WITHIN`].
    pub(super) fn has_filled(&self) -> bool {
        let queue = &self.queue;
        let began = queue.first_lent_at.load(Ordering::Acquire);
        if began == 0 || queue.has_filled.load(Ordering::Acquire) {
            return began > 0;
        }
        let now = queue.clock.elapsed();
        let has_lasted = nanos(now) >= began.saturating_add(nanos(FILLS_WITHIN));
        let has_filled = has_lasted || self.quota.is_half_full(now);
        queue.has_filled.store(has_filled, Ordering::Release);
        has_filled
    }

    /// Prepares for a task that knows nothing of the last one: the last one's calls have no answer, and its lease is not in
    /// use any more.
    fn recover(&self) {
        let now = self.queue.clock.elapsed();
        let parties = self.queue.parties.lock().clone();
        for party in parties.iter().filter_map(Weak::upgrade) {
            party.recover(now);
        }
        self.quota.lend(RatePart::default(), now);
        self.queue.note_lease(Duration::ZERO, now);
    }

    /// Notes that a request asks for loans.
    pub fn note_asked(&self, now: Duration) {
        self.queue.asked_at.fetch_max(nanos(now), Ordering::AcqRel);
    }

    /// When the time without the store began: with the last request for loans, or with the end of the last lease. The
    /// limits of this instance alone start empty then, since the loans until then may have been a whole burst.
    pub fn alone_since(&self, now: Duration) -> Duration {
        let queue = &self.queue;
        let asked_at = queue.asked_at.load(Ordering::Acquire);
        // A lease that no request takes of, since the store gives no verdicts, begins no other time.
        let lent_at = if self.is_lending(now) {
            0
        } else {
            queue.last_lent_at.load(Ordering::Acquire)
        };
        Duration::from_nanos(asked_at.max(lent_at))
    }

    /// Takes a token of the part of the institution's rate that this instance has while the store is away.
    pub fn take_alone(&self, now: Duration) -> Result<(), RateExceeded> {
        let (mut whole, pushed_back_to) = self.quota.reported(now);
        if let Some(lowered) = pushed_back_to.and_then(NonZeroU32::new) {
            whole.per_second = whole.per_second.min(lowered);
        }
        let rate = self.alone_rate(whole);
        let since = self.alone_since(now);
        let mut alone = self.alone.lock();
        if alone.since != since {
            alone.limiter = Limiter::empty_at(rate, since);
            alone.since = since;
        } else if alone.limiter.rate() != rate {
            alone.limiter = alone.limiter.carried_to(rate, now);
        }
        alone.limiter.take(now)
    }

    /// Takes one of the institution's places that this instance has while the store is away, or returns how many it has.
    /// The calls that began with the store's places count.
    pub fn take_place_alone(&self, taken: &mut TakenLoans) -> Result<(), u32> {
        let Some(all) = self.quota.places() else {
            return Ok(());
        };
        let part = self.alone_part(all).get();
        let held = taken.take_place_alone() + self.institution.seats_taken();
        if held <= part { Ok(()) } else { Err(part) }
    }

    /// The part of a rate that an instance has while the store is away.
    pub fn alone_rate(&self, rate: Rate) -> Rate {
        divided(rate, self.instances_max)
    }

    /// The part of places that an instance has while the store is away, and at least one.
    pub fn alone_part(&self, places: NonZeroU32) -> NonZeroU32 {
        part(places, self.instances_max)
    }
}

impl LoanQueue {
    fn new(clock: &Clock, meters: &LoanMeters) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            meters: meters.clone(),
            parties: Mutex::default(),
            last_number: AtomicI64::new(0),
            due: Mutex::default(),
            asking: Mutex::default(),
            is_hurried: AtomicBool::new(false),
            wake: Notify::new(),
            heard: Mutex::default(),
            lent_until: AtomicU64::new(0),
            last_lent_at: AtomicU64::new(0),
            has_filled: AtomicBool::new(false),
            first_lent_at: AtomicU64::new(0),
            lends_seats: AtomicBool::new(true),
            asked_at: AtomicU64::new(0),
            places_alone: AtomicU32::new(0),
        })
    }

    /// Adds a party that was made, in place of one that is gone.
    fn note_party(&self, party: &Arc<PartyLoans>) {
        let mut parties = self.parties.lock();
        if parties.len() == parties.capacity() {
            parties.retain(|party| party.strong_count() > 0);
        }
        parties.push(Arc::downgrade(party));
    }

    /// Adds a party about which there is something to ask.
    fn push_due(&self, party: Arc<PartyLoans>) {
        self.due.lock().push(party);
        self.wake.notify_one();
    }

    /// Adds a party that asks for a part of the institution's rate.
    fn push_asking(&self, party: Arc<PartyLoans>) {
        self.asking.lock().push(party);
    }

    /// Lets the next exchange come soon.
    fn hurry_exchange(&self) {
        self.is_hurried.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Notes the end of the lease as it is now; zero if the store lends nothing.
    fn note_lease(&self, end: Duration, now: Duration) {
        self.lent_until.store(nanos(end), Ordering::Release);
        let last = nanos(end.min(now));
        self.last_lent_at.fetch_max(last, Ordering::AcqRel);
    }

    fn unlent_for(&self, now: Duration) -> Duration {
        let last = self.last_lent_at.load(Ordering::Acquire);
        now.saturating_sub(Duration::from_nanos(last))
    }

    fn heard(&self) -> StoreHeard {
        *self.heard.lock()
    }
}

/// An equal part of a rate, and at least one request.
fn divided(rate: Rate, instances: NonZeroU32) -> Rate {
    Rate {
        per_second: part(rate.per_second, instances),
        burst: part(rate.burst, instances),
    }
}

fn part(number: NonZeroU32, instances: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(number.get() / instances.get()).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::prom::registrar::Registrar;

    #[test]
    fn the_time_without_a_lease_counts_from_the_end_of_the_last_one() {
        let meters = LoanMeters::new(&Registrar::new(&Registry::new()));
        let queue = LoanQueue::new(&Clock::manual(0), &meters);
        let at = Duration::from_secs;
        queue.note_lease(at(9), at(7));
        // An exchange without an answer shortens it.
        queue.note_lease(at(7), at(8));
        queue.note_lease(Duration::ZERO, at(9));
        assert_eq!(
            (queue.unlent_for(at(6)), queue.unlent_for(at(13))),
            (at(0), at(6))
        );
    }
}
