//! A party's lane: its limiters, its seats and its counters. It outlives every reload, which changes it in place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use gatepay_core::Kind;
use gatepay_tenancy::{Limits, PartyId, Rate, Registry};

use crate::clock::Clock;
use crate::limiter::{Limiter, Seats, Spent};
use crate::metrics::{Metrics, TenantMeters};

/// One party's room.
pub struct Lane {
    /// Read by every request, written by a reload that changes the limits.
    terms: RwLock<Terms>,
    clock: Clock,
    /// How many of its requests may be in flight.
    pub seats: Arc<Seats>,
    /// Its counters.
    pub meters: Arc<TenantMeters>,
}

/// Limiters that change together.
struct Terms {
    limits: Limits,
    all: Limiter,
    by_kind: [Option<Limiter>; 3],
    /// How often they were changed.
    changes: u64,
}

const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Money];

impl Lane {
    /// Full buckets, free seats.
    pub fn new(limits: &Limits, meters: Arc<TenantMeters>, clock: &Clock) -> Self {
        let limiter = |rate: Rate| Limiter::new(rate, clock);
        let terms = Terms {
            limits: *limits,
            all: limiter(limits.all),
            by_kind: KINDS.map(|kind| limits.of_kind(kind).map(limiter)),
            changes: 0,
        };
        Self {
            terms: RwLock::new(terms),
            seats: Seats::new(limits.in_flight),
            clock: clock.clone(),
            meters,
        }
    }

    /// Changes the limits in place. What was spent stays spent, and who is in flight stays so: no reload refills a
    /// bucket, nor do two that change a limit and change it back. A limit on one kind that is new starts full.
    pub fn adjust(&self, limits: &Limits) {
        if self.terms().limits == *limits {
            return;
        }
        let mut terms = self.terms.write().unwrap_or_else(PoisonError::into_inner);
        terms.all = terms.all.carried_to(limits.all, &self.clock);
        for kind in KINDS {
            let slot = &mut terms.by_kind[kind as usize];
            if let Some(rate) = limits.of_kind(kind) {
                *slot = Some(match slot {
                    Some(limiter) => limiter.carried_to(rate, &self.clock),
                    None => Limiter::new(rate, &self.clock),
                });
            }
            // One that is gone is kept, unasked: it may come back.
        }
        terms.limits = *limits;
        terms.changes += 1;
        self.seats.adjust(limits.in_flight);
    }

    /// Takes one token of every limit that applies, or none and says when all of them will have one.
    pub fn take(&self, kind: Kind) -> Result<Tokens<'_>, Spent> {
        let since = self.clock.elapsed();
        let terms = self.terms();
        let (all, of_kind) = (&terms.all, terms.of_kind(kind));
        let spent = match (all.take(), of_kind.map_or(Ok(()), Limiter::take)) {
            (Ok(()), Ok(())) => {
                return Ok(Tokens {
                    lane: self,
                    kind,
                    since,
                    changes: terms.changes,
                    spent: false,
                });
            }
            (Err(spent), Ok(())) => {
                of_kind.inspect(|limiter| limiter.give_back(Duration::ZERO));
                spent
            }
            (Ok(()), Err(spent)) => {
                all.give_back(Duration::ZERO);
                spent
            }
            (Err(one), Err(other)) if one.wait < other.wait => other,
            (Err(one), Err(_)) => one,
        };
        Err(spent)
    }

    /// Whether nothing is in flight and every bucket is full, so that a new lane would be no different.
    fn is_at_rest(&self) -> bool {
        let (terms, now) = (self.terms(), self.clock.elapsed());
        let limiters = terms.by_kind.iter().flatten().chain([&terms.all]);
        self.seats.taken() == 0
            && limiters
                .into_iter()
                .all(|limiter| limiter.left(now) == limiter.rate().burst.get())
    }

    fn terms(&self) -> RwLockReadGuard<'_, Terms> {
        self.terms.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Terms {
    fn of_kind(&self, kind: Kind) -> Option<&Limiter> {
        let limited = self.limits.of_kind(kind).is_some();
        self.by_kind[kind as usize].as_ref().filter(|_| limited)
    }
}

/// What was taken; dropped, it is given back.
pub struct Tokens<'a> {
    lane: &'a Lane,
    kind: Kind,
    since: Duration,
    changes: u64,
    spent: bool,
}

impl Tokens<'_> {
    /// The request went ahead.
    pub fn spend(mut self) {
        self.spent = true;
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        let terms = self.lane.terms();
        // Held across a reload, they are forfeit: how much of them came back by itself meanwhile is no longer known.
        if !self.spent && terms.changes == self.changes {
            let held = self.lane.clock.elapsed().saturating_sub(self.since);
            terms.all.give_back(held);
            terms
                .of_kind(self.kind)
                .inspect(|limiter| limiter.give_back(held));
        }
    }
}

/// All lanes by party, so that a reload finds them again.
#[derive(Default)]
pub struct Lanes(Mutex<HashMap<PartyId, Arc<Lane>>>);

impl Lanes {
    /// The lanes of a registry's parties, in their order: those there are, with their limits adjusted, and new ones. Call
    /// it when nothing can fail any more: it changes what requests under way meet.
    ///
    /// The lane of a party that is gone is kept until it is at rest: removed and added again, a party finds its buckets
    /// as it left them.
    pub fn arrange(
        &self,
        registry: &Registry,
        max_tenants: usize,
        metrics: &Metrics,
        clock: &Clock,
    ) -> Vec<Arc<Lane>> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || !lane.is_at_rest());
        let mut arranged = Vec::new();
        for (position, who) in registry.parties().enumerate() {
            let party = who.party();
            let lane = lanes.entry(party.id.clone()).or_insert_with(|| {
                // Which tenants have series of their own follows from configuration, never from traffic.
                let label = (position < max_tenants).then(|| party.id.as_str());
                Arc::new(Lane::new(&party.limits, metrics.tenant(label), clock))
            });
            lane.adjust(&party.limits);
            arranged.push(Arc::clone(lane));
        }
        arranged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::Catalogue;
    use std::num::NonZeroU32;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    fn lane(limits: &Limits, clock: &Clock) -> Lane {
        let metrics = Metrics::new(&Catalogue::standard());
        Lane::new(limits, metrics.tenant(None), clock)
    }

    fn admitted(lane: &Lane, kind: Kind) -> usize {
        let took = || lane.take(kind).map(Tokens::spend).is_ok();
        (0..1_000).take_while(|_| took()).count()
    }

    #[test]
    fn a_limit_changed_and_changed_back_admits_nothing_more() {
        let clock = Clock::manual(1_000_000);
        let slow = Limits {
            all: rate(1, 8),
            ..Limits::default()
        };
        let fast = Limits {
            all: rate(1_000, 8),
            ..slow
        };
        let lane = lane(&slow, &clock);
        assert_eq!(admitted(&lane, Kind::Read), 8);
        for _ in 0..50 {
            lane.adjust(&fast);
            lane.adjust(&slow);
            assert_eq!(admitted(&lane, Kind::Read), 0);
        }
        clock.advance(Duration::from_millis(2_001));
        assert_eq!(admitted(&lane, Kind::Read), 2);
    }

    #[test]
    fn a_limit_on_a_kind_that_goes_and_comes_back_remembers() {
        let clock = Clock::manual(1_000_000);
        let without = Limits::default();
        let with = Limits {
            money: Some(rate(1, 3)),
            ..without
        };
        let lane = lane(&with, &clock);
        assert_eq!(admitted(&lane, Kind::Money), 3);
        lane.adjust(&without);
        lane.take(Kind::Money).ok().unwrap().spend();
        lane.adjust(&with);
        assert_eq!(admitted(&lane, Kind::Money), 0);
    }

    #[test]
    fn what_is_not_spent_is_given_back_to_every_limit() {
        let clock = Clock::manual(1_000_000);
        let limits = Limits {
            all: rate(1, 3),
            money: Some(rate(1, 2)),
            ..Limits::default()
        };
        let lane = lane(&limits, &clock);
        for _ in 0..20 {
            drop(lane.take(Kind::Money).ok().unwrap());
        }
        assert_eq!(admitted(&lane, Kind::Money), 2);
        // Refused by one limit, nothing was taken of the other.
        assert_eq!(admitted(&lane, Kind::Read), 1);
    }

    #[test]
    fn tokens_held_across_a_reload_make_no_room() {
        let clock = Clock::manual(1_000_000);
        let slow = Limits {
            all: rate(1, 1),
            ..Limits::default()
        };
        let fast = Limits {
            all: rate(1_000, 1),
            ..slow
        };
        let lane = lane(&fast, &clock);
        let held = lane.take(Kind::Read).ok().unwrap();
        clock.advance(Duration::from_millis(1));
        lane.take(Kind::Read).ok().unwrap().spend();
        lane.adjust(&slow);
        drop(held);
        assert_eq!(admitted(&lane, Kind::Read), 0);
    }
}
