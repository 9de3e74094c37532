//! Limits that instances share in PostgreSQL: what the store lends to this instance, and how requests take of it.
//!
//! A request takes a token or a seat of its party's [loans](PartyLoans) at once. If there is none, it waits for the
//! answer to the next question. One task on the thread `store` asks the questions, and exchanges the demand of the parties
//! here for a part of the institution's rate.

mod lending_task;
mod loan_meters;
mod party_loans;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_admission::limiter::{Limiter, RateExceeded};
use gatepay_admission::quota::Quota;
use gatepay_store::limits::StoreHeard;
use gatepay_tenancy::settings::StoreSettings;
use gatepay_tenancy::{PartyLimits, Rate};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::process::clock::Clock;

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
    alone: Mutex<Limiter>,
}

/// What requests leave for the task, and what the task tells them.
struct LoanQueue {
    clock: Clock,
    meters: LoanMeters,
    /// Parties about whose loans there is something to ask, now or at a time.
    due: Mutex<Vec<Arc<PartyLoans>>>,
    /// Parties that asked for a part of the institution's rate since the last exchange.
    asking: Mutex<Vec<Arc<PartyLoans>>>,
    /// Whether this instance's part of the institution's rate was too small for a party that the store has not heard of.
    is_hurried: AtomicBool,
    wake: Notify,
    heard: Mutex<StoreHeard>,
    /// The end of the lease, in nanoseconds of the clock's elapsed time; 0 while the store lends nothing.
    lent_until: AtomicU64,
    /// The latest end that a lease ever had, in the same nanoseconds; 0 before the first.
    last_lent_until: AtomicU64,
    /// Whether the first lease has brought enough tokens.
    has_filled: AtomicBool,
    /// When the first lease began, in the same nanoseconds; 0 before.
    first_lent_at: AtomicU64,
    /// When the store begins to lend seats, in the same nanoseconds.
    seats_from: AtomicU64,
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
        let (full, _) = quota.reported(clock.elapsed());
        let nobody = PartyLimits::default();
        let institution = PartyLoans::new(&queue, "", &nobody, NonZeroU32::MIN);
        Some(Arc::new(Self {
            institution,
            quota: Arc::clone(quota),
            instances_max,
            alone: Mutex::new(Limiter::new(divided(full, instances_max))),
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

    /// Whether the store lends seats at this time: not so soon after a crash or a failover of its own.
    pub fn is_lending_seats(&self, now: Duration) -> bool {
        nanos(now) >= self.queue.seats_from.load(Ordering::Acquire)
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

    /// Takes a token of the part of the institution's rate that this instance has while the store is away.
    pub fn take_alone(&self, now: Duration) -> Result<(), RateExceeded> {
        let (full, _) = self.quota.reported(now);
        let rate = self.alone_rate(full);
        let mut alone = self.alone.lock();
        if alone.rate() != rate {
            *alone = alone.carried_to(rate, now);
        }
        alone.take(now)
    }

    /// The part of a rate that an instance has while the store is away.
    pub fn alone_rate(&self, rate: Rate) -> Rate {
        divided(rate, self.instances_max)
    }
}

impl LoanQueue {
    fn new(clock: &Clock, meters: &LoanMeters) -> Arc<Self> {
        Arc::new(Self {
            clock: clock.clone(),
            meters: meters.clone(),
            due: Mutex::default(),
            asking: Mutex::default(),
            is_hurried: AtomicBool::new(false),
            wake: Notify::new(),
            heard: Mutex::default(),
            lent_until: AtomicU64::new(0),
            last_lent_until: AtomicU64::new(0),
            has_filled: AtomicBool::new(false),
            first_lent_at: AtomicU64::new(0),
            seats_from: AtomicU64::new(0),
        })
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

    /// Notes the end of the lease; zero if the store lends nothing.
    fn lent_until(&self, end: Duration) {
        self.lent_until.store(nanos(end), Ordering::Release);
        self.last_lent_until.fetch_max(nanos(end), Ordering::AcqRel);
    }

    fn unlent_for(&self, now: Duration) -> Duration {
        let ended = self.last_lent_until.load(Ordering::Acquire);
        now.saturating_sub(Duration::from_nanos(ended))
    }

    fn heard(&self) -> StoreHeard {
        *self.heard.lock()
    }
}

/// An equal part of a rate, and at least one request.
fn divided(rate: Rate, instances: NonZeroU32) -> Rate {
    let part = |number: NonZeroU32| {
        NonZeroU32::new(number.get() / instances.get()).unwrap_or(NonZeroU32::MIN)
    };
    Rate {
        per_second: part(rate.per_second),
        burst: part(rate.burst),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::prom::registrar::Registrar;

    #[test]
    fn the_time_without_a_lease_counts_from_the_end_of_the_last_one() {
        let meters = LoanMeters::new(&Registrar(&Registry::new()));
        let queue = LoanQueue::new(&Clock::manual(0), &meters);
        let at = Duration::from_secs;
        queue.lent_until(at(7));
        queue.lent_until(Duration::ZERO);
        assert_eq!(
            (queue.unlent_for(at(6)), queue.unlent_for(at(13))),
            (at(0), at(6))
        );
    }
}
