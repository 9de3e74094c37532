//! The limits of one party: its limiters, its seats, its share of the institution's quota and its counters. They
//! outlive every reload, which changes them in place.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use gatepay_admission::breaker::{BreakerEra, PartyBreaker};
use gatepay_admission::limit_name::{self, LimitName};
use gatepay_admission::limiter::{Limiter, RateExceeded};
use gatepay_admission::pushback_throttle::PushbackThrottle;
use gatepay_admission::quota::QuotaShare;
use gatepay_admission::seats::SeatLimit;
use gatepay_core::Kind;
use gatepay_tenancy::{PartyId, PartyLimits, PartyRef, Rate};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use serde::Serialize;

use crate::cluster::limits::{PartyLoans, SharedLimits};
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::refusal_counts::RefusalCounts;
use crate::generation::suspension::Suspensions;
use crate::generation::tenant_meters::{TenantMeters, TenantSeries};
use crate::process::clock::nanos;

/// The limits of one party. With a thousand parties none is in a near cache when its request comes. So the fields that
/// every request reads lie in two cache lines, and the fields that the end of a request reads in the first of them
/// (with the count of the [`Arc`] that holds the limits). The rarely read fields are last.
#[repr(C)]
pub struct TenantLimits {
    /// The party's counters, which a reload may replace.
    meters: ArcSwap<TenantMeters>,
    /// The party's seats: the limit of its requests in flight.
    seats: SeatLimit,
    /// The party's share of the institution's quota.
    pub share: QuotaShare,
    /// The party's circuit breaker for GatePay.
    pub breaker: PartyBreaker,
    /// Read by every request, written by a reload that changes the limits.
    terms: RwLock<LimitTerms>,
    /// How often the party's requests were refused.
    pub refusals: RefusalCounts,
    /// The loans of the party's limits, if instances share them. The limiters of `terms` are then those of this instance
    /// alone, for a time without the store.
    shared: Option<Box<SharedTerms>>,
}

/// A party's part of the limits that instances share.
struct SharedTerms {
    limits: Arc<SharedLimits>,
    loans: Arc<PartyLoans>,
    /// When the time without the store began for which the limiters started empty, in nanoseconds of the clock's elapsed
    /// time.
    alone_since: AtomicU64,
}

/// Limiters that change together.
#[repr(C)]
struct LimitTerms {
    all: Limiter,
    /// How often they were changed.
    changes: u64,
    /// Boxed, since few parties have limits by kind and all would spend the space.
    by_kind: Option<Box<[Option<Limiter>; 3]>>,
    /// The party's rate while GatePay pushes it back; boxed, since hardly any party has a throttle.
    throttle: Option<Box<PushbackThrottle>>,
    weight: NonZeroU32,
    limits: PartyLimits,
}

/// A party's use of its limits, for operators to look at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TenantLimitsView {
    /// The party's own rate, per second.
    pub requests_per_second: u32,
    /// The largest number of requests at once after a quiet time.
    pub burst: u32,
    /// The tokens left of that burst.
    pub left: u32,
    /// The limit of requests in flight.
    pub in_flight_limit: u32,
    /// The requests in flight now.
    pub in_flight: u32,
    /// The weight of the party's share of the institution's quota, relative to the others'.
    pub weight: u32,
    /// The rate that this share guarantees now, per second.
    pub share: f64,
    /// The rate that the party took of the quota in the last ten seconds or so, per second.
    pub used: f64,
    /// Calls ever admitted on tokens that others left.
    pub borrowed: u64,
    /// The party's rate while GatePay pushes it back, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed_back_to: Option<u32>,
    /// Whether the party's calls keep failing at GatePay, so that they are refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub breaker_open: bool,
}

const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Money];

impl TenantLimits {
    /// Limits with full buckets and free seats.
    pub fn new(
        breaker: PartyBreaker,
        limits: &PartyLimits,
        weight: NonZeroU32,
        quota: &InstitutionQuota,
        meters: Arc<TenantMeters>,
    ) -> Self {
        let terms = LimitTerms {
            all: Limiter::new(limits.all),
            changes: 0,
            by_kind: has_kinds(limits)
                .then(|| Box::new(KINDS.map(|kind| limits.of_kind(kind).map(Limiter::new)))),
            weight,
            throttle: None,
            limits: *limits,
        };
        Self {
            meters: ArcSwap::new(meters),
            seats: SeatLimit::new(limits.in_flight),
            share: quota.join(weight),
            breaker,
            terms: RwLock::new(terms),
            refusals: RefusalCounts::default(),
            shared: None,
        }
    }

    /// The same limits with loans of them: instances share them.
    fn sharing(mut self, limits: &Arc<SharedLimits>, now: Duration) -> Self {
        let terms = self.terms.get_mut();
        let loans = limits.join(self.breaker.id().as_str(), &terms.limits, terms.weight);
        let shared = SharedTerms {
            limits: Arc::clone(limits),
            loans,
            alone_since: AtomicU64::new(u64::MAX),
        };
        terms.all = terms.all.carried_to(shared.local(terms.limits.all), now);
        for kind in KINDS {
            if let Some(limiters) = &mut terms.by_kind
                && let Some(limiter) = &mut limiters[kind as usize]
            {
                *limiter = limiter.carried_to(shared.local(limiter.rate()), now);
            }
        }
        self.shared = Some(Box::new(shared));
        self
    }

    /// The loans of the limits, if instances share them.
    pub fn loans(&self) -> Option<&Arc<PartyLoans>> {
        Some(&self.shared.as_ref()?.loans)
    }

    /// Changes the limits in place. Spent tokens stay spent, and requests in flight keep their seats: no reload refills
    /// a bucket, nor do two reloads that change a limit and change it back. A new limit on one kind starts full.
    pub fn adjust(&self, limits: &PartyLimits, weight: NonZeroU32, now: Duration) {
        let terms = self.terms();
        let (same, same_weight) = (terms.limits == *limits, terms.weight == weight);
        drop(terms);
        if !same_weight {
            // This takes the lock that every request takes: a reload skips it for the hundred thousand parties that
            // stay as they are.
            self.share.reweigh(weight);
        }
        if same && same_weight {
            return;
        }
        if let Some(shared) = &self.shared {
            let full = self.full(limits);
            shared.loans.adjust(limits, weight, full, now);
        }
        let local = |rate| {
            self.shared
                .as_ref()
                .map_or(rate, |shared| shared.local(rate))
        };
        let mut terms = self.terms.write();
        terms.weight = weight;
        if same {
            return;
        }
        terms.all = terms.all.carried_to(local(limits.all), now);
        if has_kinds(limits) || terms.by_kind.is_some() {
            let by_kind = terms.by_kind.get_or_insert_default();
            for kind in KINDS {
                let slot = &mut by_kind[kind as usize];
                if let Some(rate) = limits.of_kind(kind).map(local) {
                    *slot = Some(match slot {
                        Some(limiter) => limiter.carried_to(rate, now),
                        None if self.shared.is_some() => Limiter::empty_at(rate, now),
                        None => Limiter::new(rate),
                    });
                }
                // A limiter without a limit stays here unused: its limit may come back.
            }
        }
        terms.limits = *limits;
        if let Some(throttle) = &terms.throttle {
            throttle.adjust(self.full(limits), now);
        }
        terms.changes += 1;
        self.seats.adjust(limits.in_flight);
    }

    /// Takes one token of every limit that applies, or none and returns when all of them will have one. A limit in
    /// shadow mode refuses no request; it is added to `shadow` if it would have refused this one.
    pub fn take(
        &self,
        kind: Kind,
        now: Duration,
        shadow: &mut limit_name::LimitSet,
    ) -> Result<TakenTokens, (LimitName, RateExceeded)> {
        let mut terms = self.terms();
        if terms.is_throttle_over(now) {
            drop(terms);
            self.unthrottle(now);
            terms = self.terms();
        }
        let mut worst: Option<(LimitName, RateExceeded)> = None;
        let mut refused = |limit, exceeded: RateExceeded, in_shadow| {
            if in_shadow {
                shadow.add(limit);
            } else if worst.is_none_or(|(_, other)| other.wait < exceeded.wait) {
                worst = Some((limit, exceeded));
            }
        };
        let mut tokens = TakenTokens {
            since: now,
            changes: terms.changes,
            all: false,
            of_kind: None,
            throttled: false,
        };
        match terms.all.take(now) {
            Ok(()) => tokens.all = true,
            Err(exceeded) => refused(LimitName::Rate, exceeded, terms.limits.shadow.all),
        }
        match terms.of_kind(kind).map(|limiter| limiter.take(now)) {
            None => {}
            Some(Ok(())) => tokens.of_kind = Some(kind),
            Some(Err(exceeded)) => {
                let in_shadow = terms.limits.shadow.of_kind(kind);
                refused(LimitName::of_kind(kind), exceeded, in_shadow);
            }
        }
        match terms.throttle.as_ref().map(|throttle| throttle.take(now)) {
            None => {}
            Some(Ok(())) => tokens.throttled = true,
            // GatePay imposed the throttle: it is enforced in every shadow mode.
            Some(Err(exceeded)) => refused(LimitName::Rate, exceeded, false),
        }
        match worst {
            None => Ok(tokens),
            Some(refused) => {
                terms.give_back(tokens, now);
                Err(refused)
            }
        }
    }

    /// Notes that GatePay pushes this party back, perhaps for a stated time. The party sends less from now on, and so
    /// do all parties if another one was pushed back lately.
    pub fn pushed_back(&self, quota: &InstitutionQuota, retry_after: Option<Duration>) {
        let (before, after) = self.throttled(retry_after, quota.now());
        if after < before {
            let party = self.breaker.id().as_str();
            tracing::warn!(%party, %before, %after, ?retry_after, "GatePay pushed back one party: its rate was lowered");
        }
        quota.pushed_back(Some(&self.share), retry_after);
    }

    /// Lowers the party's rate; returns it before and after.
    fn throttled(&self, retry_after: Option<Duration>, now: Duration) -> (u32, u32) {
        let mut terms = self.terms.write();
        let full = self.full(&terms.limits);
        if let Some(shared) = &self.shared {
            let full_limiter = Limiter::new(full);
            return shared
                .loans
                .pushed_back(&full_limiter, full, retry_after, now);
        }
        // Tokens held by now are forfeit: they were taken at another rate.
        terms.changes += 1;
        let LimitTerms { all, throttle, .. } = &mut *terms;
        let begun = || Box::new(PushbackThrottle::new(all, full, now));
        throttle
            .get_or_insert_with(begun)
            .pushed_back(retry_after, now)
    }

    /// Ends a throttle whose rate has grown to the full one.
    fn unthrottle(&self, now: Duration) {
        let mut terms = self.terms.write();
        if terms.is_throttle_over(now) {
            terms.throttle = None;
        }
    }

    /// The rate that a push-back lowers: the party's own rate, within the institution's.
    fn full(&self, limits: &PartyLimits) -> Rate {
        let (own, most) = (limits.all, self.share.most());
        Rate {
            per_second: own.per_second.min(most.per_second),
            burst: own.burst.min(most.burst),
        }
    }

    /// The party's rate while GatePay pushes it back, per second.
    pub fn pushed_back_to(&self, now: Duration) -> Option<u32> {
        match self.loans() {
            None => self.terms().pushed_back_to(now),
            Some(loans) => loans.pushed_back_to(now),
        }
    }

    /// Undoes [`take`](Self::take).
    pub fn give_back(&self, tokens: TakenTokens, now: Duration) {
        self.terms().give_back(tokens, now);
    }

    /// Takes a seat if one is free, or returns the number of seats. In shadow mode no request is refused: beyond the
    /// limit it goes ahead without a seat.
    pub fn take_seat(&self, shadow: &mut limit_name::LimitSet) -> Result<bool, u32> {
        if self.seats.take() {
            Ok(true)
        } else if self.terms().limits.shadow.in_flight {
            shadow.add(LimitName::InFlight);
            Ok(false)
        } else {
            Err(self.seats.all())
        }
    }

    /// Takes a seat of this instance's part of them, while the store is away. Seats that the store lent count.
    pub fn take_seat_alone(&self, shadow: &mut limit_name::LimitSet) -> Result<bool, u32> {
        let is_seated = self.take_seat(shadow)?;
        let all = NonZeroU32::new(self.seats.all());
        let (Some(shared), Some(all), true) = (&self.shared, all, is_seated) else {
            return Ok(is_seated);
        };
        let part = shared.limits.alone_part(all).get();
        if self.seats.taken() > part {
            if !self.has_shadow_seats() {
                self.seats.leave();
                return Err(part);
            }
            shadow.add(LimitName::InFlight);
        }
        Ok(is_seated)
    }

    /// Brings the limiters of this instance alone in step: empty at the time at which the time without the store began,
    /// and as low as GatePay's push-back demands.
    pub fn follow_alone(&self, since: Duration, now: Duration) {
        let Some(shared) = &self.shared else {
            return;
        };
        let rate = shared.local(shared.loans.rate_of_all(now));
        let since_nanos = nanos(since);
        let is_same = shared.alone_since.load(Ordering::Acquire) == since_nanos;
        if is_same && self.terms().all.rate() == rate {
            return;
        }
        let mut terms = self.terms.write();
        terms.changes += 1;
        if shared.alone_since.swap(since_nanos, Ordering::AcqRel) == since_nanos {
            terms.all = terms.all.carried_to(rate, now);
            return;
        }
        terms.all = Limiter::empty_at(rate, since);
        let by_kind = terms.by_kind.iter_mut();
        for limiter in by_kind.flat_map(|by_kind| by_kind.iter_mut()).flatten() {
            *limiter = Limiter::empty_at(limiter.rate(), since);
        }
    }

    /// Whether the limit of requests in flight is in shadow mode.
    pub fn has_shadow_seats(&self) -> bool {
        self.terms().limits.shadow.in_flight
    }

    /// The party's weight.
    pub fn weight(&self) -> NonZeroU32 {
        self.terms().weight
    }

    /// Whether the party is suspended by hand, regardless of its file.
    pub fn is_suspended(&self) -> bool {
        self.seats.is_closed()
    }

    /// The party's seats, which are closed while it is suspended by hand.
    pub fn seats(&self) -> &SeatLimit {
        &self.seats
    }

    /// Frees a seat that was taken.
    pub fn leave_seat(&self) {
        self.seats.leave();
    }

    /// The scarcest of the rates that apply to calls of a kind, and the tokens it has left.
    pub fn left(&self, kind: Kind, now: Duration) -> (Rate, u32) {
        if let Some(loans) = self.loans() {
            return loans.left(kind, now);
        }
        let terms = self.terms();
        let limiters = terms.of_kind(kind).into_iter().chain([&terms.all]);
        let throttle = terms.throttle.as_ref().map(|throttle| throttle.left(now));
        limiters
            .map(|limiter| (limiter.rate(), limiter.left(now)))
            .chain(throttle)
            .min_by_key(|(_, left)| *left)
            .expect("there is a rate over all calls")
    }

    /// How many of the party's requests are in flight.
    pub fn in_flight(&self) -> u32 {
        self.seats.taken()
    }

    /// Counts a request that a limit refused.
    pub fn refused(&self, limit: LimitName) {
        self.meters().limits.refused(limit);
    }

    /// Counts an admitted request: whether it took a token that others left, and the limits in shadow mode that would
    /// have refused it. Most requests add nothing to the counters.
    pub fn admitted(&self, borrowed: bool, shadow: limit_name::LimitSet) {
        if borrowed || !shadow.is_empty() {
            self.meters().limits.admitted(borrowed, shadow);
        }
    }

    /// The party's counters.
    pub fn meters(&self) -> Guard<Arc<TenantMeters>> {
        self.meters.load()
    }

    /// The view of these limits for operators.
    pub fn view(&self, now: Duration) -> TenantLimitsView {
        let share = self.share.view(now);
        let pushed_back_to = self.pushed_back_to(now);
        let lent = self.loans().map(|loans| loans.left_of_all(now));
        let terms = self.terms();
        TenantLimitsView {
            requests_per_second: terms.limits.all.per_second.get(),
            burst: terms.limits.all.burst.get(),
            left: lent.unwrap_or_else(|| terms.all.left(now)),
            in_flight_limit: self.seats.all(),
            in_flight: self.seats.taken(),
            weight: terms.weight.get(),
            share: share.share,
            used: share.used,
            borrowed: share.borrowed,
            pushed_back_to,
            breaker_open: self.breaker.is_failing(),
        }
    }

    /// Whether nothing is in flight and every bucket is full, so that new limits would be no different.
    fn is_at_rest(&self, now: Duration) -> bool {
        if let Some(loans) = self.loans() {
            return self.seats.taken() == 0 && loans.is_at_rest(now);
        }
        let terms = self.terms();
        let by_kind = terms.by_kind.iter().flat_map(|by_kind| by_kind.iter());
        let by_kind = by_kind.flatten();
        self.seats.taken() == 0
            && terms.pushed_back_to(now).is_none()
            && by_kind
                .chain([&terms.all])
                .all(|limiter| limiter.left(now) == limiter.rate().burst.get())
    }

    fn terms(&self) -> RwLockReadGuard<'_, LimitTerms> {
        self.terms.read()
    }
}

impl SharedTerms {
    /// A limit of this instance alone, for a time without the store.
    fn local(&self, rate: Rate) -> Rate {
        self.limits.alone_rate(rate)
    }
}

impl LimitTerms {
    fn of_kind(&self, kind: Kind) -> Option<&Limiter> {
        // The boxed limiters are read first: few parties have them, and `limits` lies in another cache line.
        let limiter = self.by_kind.as_ref()?[kind as usize].as_ref()?;
        self.limits.of_kind(kind).map(|_| limiter)
    }

    fn give_back(&self, tokens: TakenTokens, now: Duration) {
        // Tokens held across a reload are forfeit: the part of them that flowed back meanwhile is unknown.
        if self.changes != tokens.changes {
            return;
        }
        let held = now.saturating_sub(tokens.since);
        if let Some(limiter) = tokens.of_kind.and_then(|kind| self.of_kind(kind)) {
            limiter.give_back(held);
        }
        if tokens.all {
            self.all.give_back(held);
        }
        if let Some(throttle) = self.throttle.as_ref().filter(|_| tokens.throttled) {
            throttle.give_back(held);
        }
    }

    fn is_throttle_over(&self, now: Duration) -> bool {
        let throttle = self.throttle.as_ref();
        throttle.is_some_and(|throttle| throttle.is_over(now))
    }

    fn pushed_back_to(&self, now: Duration) -> Option<u32> {
        let throttle = self.throttle.as_ref()?;
        (!throttle.is_over(now)).then(|| throttle.left(now).0.per_second.get())
    }
}

/// Whether calls of some kind have a limit of their own.
fn has_kinds(limits: &PartyLimits) -> bool {
    KINDS.iter().any(|kind| limits.of_kind(*kind).is_some())
}

/// The tokens that were taken of a party's limits: spent, unless they are given back.
#[must_use]
#[derive(Clone, Copy)]
pub struct TakenTokens {
    since: Duration,
    changes: u64,
    all: bool,
    of_kind: Option<Kind>,
    throttled: bool,
}

/// The limits of all parties, so that a reload finds them again.
pub struct TenantLimitsMap {
    by_party: Mutex<HashMap<PartyId, Arc<TenantLimits>>>,
    /// The quota that all parties share.
    pub quota: Arc<InstitutionQuota>,
    /// The era of the breaker that all parties' breakers are a part of.
    pub era: BreakerEra,
    /// The parties that are suspended by hand.
    pub suspensions: Suspensions,
    /// The limits that instances share, if they do.
    shared: Option<Arc<SharedLimits>>,
}

impl TenantLimitsMap {
    /// No limits yet; they will share this quota.
    pub fn new(quota: Arc<InstitutionQuota>) -> Self {
        Self::sharing(quota, None)
    }

    /// No limits yet; instances will share them, if these are given.
    pub fn sharing(quota: Arc<InstitutionQuota>, shared: Option<Arc<SharedLimits>>) -> Self {
        Self {
            by_party: Mutex::default(),
            quota,
            era: BreakerEra::default(),
            suspensions: Suspensions::default(),
            shared,
        }
    }

    /// Closes the seats of a party that is suspended by hand, and opens them if it is not. When this returns, every
    /// worker sees the change.
    pub fn follow_suspension(&self, id: &str) {
        let by_party = self.by_party.lock();
        if let Some(party_limits) = by_party.get(id) {
            // Under the lock: of two concurrent calls, the last sees the latest.
            party_limits.seats.close(self.suspensions.of(id).is_some());
        }
    }

    /// The limits of parties, in the same order: existing limits are adjusted, missing ones are created. Each party comes
    /// with whether it has series of its own. Call this when nothing can fail any more: it changes the limits of requests
    /// under way.
    ///
    /// The limits of a removed party are kept until they are at rest: a party that is removed and added again finds its
    /// buckets as it left them. `in_force` is the number of parties in the generation in force, which hold their limits.
    pub fn arrange<'a>(
        &self,
        parties: impl Iterator<Item = (PartyRef<'a>, bool)>,
        in_force: usize,
        series: &TenantSeries,
    ) -> Vec<Arc<TenantLimits>> {
        let mut by_party = self.by_party.lock();
        let now = self.quota.now();
        // Without others there is nothing to forget, and a look at each takes long.
        if by_party.len() > in_force {
            by_party.retain(|_, party_limits| {
                Arc::strong_count(party_limits) > 1 || !party_limits.is_at_rest(now)
            });
        }
        let other = series.of(None);
        let mut arranged = Vec::new();
        if by_party.is_empty()
            && let Some(all) = parties.size_hint().1
        {
            // All at a start: lists that grow leave memory behind that nothing else fits into.
            by_party.reserve(all);
            arranged.reserve_exact(all);
        }
        for (who, own) in parties {
            let (party, weight) = (who.party(), who.weight());
            // Configuration decides which tenants have series of their own, never traffic.
            let meters = if own {
                series.of(Some(party.id.as_str()))
            } else {
                Arc::clone(&other)
            };
            let party_limits = if let Some(party_limits) = by_party.get(&party.id) {
                party_limits.adjust(&party.limits, weight, now);
                // A store takes many times as long as a comparison.
                if !Arc::ptr_eq(&party_limits.meters(), &meters) {
                    party_limits.meters.store(meters);
                }
                Arc::clone(party_limits)
            } else {
                let breaker = PartyBreaker::new(party.id.clone(), self.era.clone());
                let party_limits =
                    TenantLimits::new(breaker, &party.limits, weight, &self.quota, meters);
                let party_limits = match &self.shared {
                    None => party_limits,
                    Some(shared) => party_limits.sharing(shared, now),
                };
                party_limits
                    .seats
                    .close(self.suspensions.of(party.id.as_str()).is_some());
                let party_limits = Arc::new(party_limits);
                by_party.insert(party.id.clone(), Arc::clone(&party_limits));
                party_limits
            };
            arranged.push(party_limits);
        }
        arranged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::process::clock::Clock;
    use gatepay_core::Catalogue;
    use gatepay_tenancy::{LimitsShadow, settings};
    use std::mem::offset_of;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    fn party_limits(limits: &PartyLimits, clock: &Clock) -> Arc<TenantLimits> {
        let metrics = Metrics::new(
            &Catalogue::standard(),
            &settings::MetricsSettings::default(),
        );
        let quota = InstitutionQuota::new(
            &settings::QuotaSettings::default(),
            metrics.tenants.limits.quota.clone(),
            clock,
        );
        Arc::new(TenantLimits::new(
            PartyBreaker::new(PartyId::parse("acme").unwrap(), BreakerEra::default()),
            limits,
            NonZeroU32::MIN,
            &quota,
            metrics.tenants.of(None),
        ))
    }

    fn take(party_limits: &TenantLimits, kind: Kind, clock: &Clock) -> Option<TakenTokens> {
        let mut shadow = limit_name::LimitSet::default();
        let tokens = party_limits.take(kind, clock.elapsed(), &mut shadow);
        assert!(shadow.is_empty());
        tokens.ok()
    }

    fn adjust(party_limits: &TenantLimits, limits: &PartyLimits, clock: &Clock) {
        party_limits.adjust(limits, NonZeroU32::MIN, clock.elapsed());
    }

    fn admitted(party_limits: &TenantLimits, kind: Kind, clock: &Clock) -> usize {
        let took = || take(party_limits, kind, clock).is_some();
        (0..1_000).take_while(|_| took()).count()
    }

    #[test]
    fn the_limits_a_request_reads_lie_in_two_cache_lines() {
        // An `Arc` keeps two counts before its content, and a lock keeps its own state.
        let at = |offset| 2 * size_of::<usize>() + offset;
        let lock = size_of::<RwLock<LimitTerms>>() - size_of::<LimitTerms>();
        assert!(at(offset_of!(TenantLimits, terms)) <= 64);
        assert!(at(offset_of!(TenantLimits, terms) + lock + offset_of!(LimitTerms, weight)) <= 128);
        assert!(at(size_of::<TenantLimits>()) <= 192);
    }

    #[test]
    fn a_limit_changed_and_changed_back_admits_nothing_more() {
        let clock = Clock::manual(1_000_000);
        let slow = PartyLimits {
            all: rate(1, 8),
            ..PartyLimits::default()
        };
        let fast = PartyLimits {
            all: rate(1_000, 8),
            ..slow
        };
        let party_limits = party_limits(&slow, &clock);
        assert_eq!(admitted(&party_limits, Kind::Read, &clock), 8);
        for _ in 0..50 {
            adjust(&party_limits, &fast, &clock);
            adjust(&party_limits, &slow, &clock);
            assert_eq!(admitted(&party_limits, Kind::Read, &clock), 0);
        }
        clock.advance(Duration::from_millis(2_001));
        assert_eq!(admitted(&party_limits, Kind::Read, &clock), 2);
    }

    #[test]
    fn a_limit_on_a_kind_that_goes_and_comes_back_remembers() {
        let clock = Clock::manual(1_000_000);
        let without = PartyLimits::default();
        let with = PartyLimits {
            money: Some(rate(1, 3)),
            ..without
        };
        let party_limits = party_limits(&with, &clock);
        assert_eq!(admitted(&party_limits, Kind::Money, &clock), 3);
        adjust(&party_limits, &without, &clock);
        let _ = take(&party_limits, Kind::Money, &clock).unwrap();
        adjust(&party_limits, &with, &clock);
        assert_eq!(admitted(&party_limits, Kind::Money, &clock), 0);
    }

    #[test]
    fn unspent_tokens_are_given_back_to_every_limit() {
        let clock = Clock::manual(1_000_000);
        let limits = PartyLimits {
            all: rate(1, 3),
            money: Some(rate(1, 2)),
            ..PartyLimits::default()
        };
        let party_limits = party_limits(&limits, &clock);
        for _ in 0..20 {
            let tokens = take(&party_limits, Kind::Money, &clock).unwrap();
            party_limits.give_back(tokens, clock.elapsed());
        }
        assert_eq!(admitted(&party_limits, Kind::Money, &clock), 2);
        // Refused by one limit, the request took nothing of the others.
        assert_eq!(admitted(&party_limits, Kind::Read, &clock), 1);
    }

    #[test]
    fn tokens_held_across_a_reload_make_no_room() {
        let clock = Clock::manual(1_000_000);
        let slow = PartyLimits {
            all: rate(1, 1),
            ..PartyLimits::default()
        };
        let fast = PartyLimits {
            all: rate(1_000, 1),
            ..slow
        };
        let party_limits = party_limits(&fast, &clock);
        let held = take(&party_limits, Kind::Read, &clock).unwrap();
        clock.advance(Duration::from_millis(1));
        let _ = take(&party_limits, Kind::Read, &clock).unwrap();
        adjust(&party_limits, &slow, &clock);
        party_limits.give_back(held, clock.elapsed());
        assert_eq!(admitted(&party_limits, Kind::Read, &clock), 0);
    }

    #[test]
    fn a_limit_in_shadow_counts_and_lets_pass() {
        let clock = Clock::manual(1_000_000);
        let limits = PartyLimits {
            all: rate(1, 5),
            in_flight: NonZeroU32::MIN,
            money: Some(rate(1, 1)),
            shadow: LimitsShadow {
                money: true,
                in_flight: true,
                ..LimitsShadow::default()
            },
            ..PartyLimits::default()
        };
        let party_limits = party_limits(&limits, &clock);
        let mut told = Vec::new();
        assert_eq!(
            party_limits.take_seat(&mut limit_name::LimitSet::default()),
            Ok(true)
        );
        for _ in 0..6 {
            let mut shadow = limit_name::LimitSet::default();
            let tokens = party_limits.take(Kind::Money, clock.elapsed(), &mut shadow);
            let admitted = tokens.is_ok();
            assert_eq!(party_limits.take_seat(&mut shadow), Ok(false));
            let names: Vec<_> = shadow.iter().map(LimitName::as_str).collect();
            told.push((admitted, names.join(" ")));
        }
        let expected = [
            (true, "in_flight"),
            (true, "money in_flight"),
            (true, "money in_flight"),
            (true, "money in_flight"),
            (true, "money in_flight"),
            // The rate over all calls is enforced.
            (false, "money in_flight"),
        ];
        assert_eq!(
            told,
            expected.map(|(admitted, names)| (admitted, names.to_owned()))
        );
    }
}
