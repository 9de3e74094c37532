//! The institution's quota: the rate that GatePay allows all parties together, shared by weight, with a reserve for
//! payments.
//!
//! The quota is one small piece of arithmetic behind one lock, held for a few hundred instructions: exact, and the same
//! in simulated time. `core` is the arithmetic, `bands` defines access to the last tokens, `activity` finds the active
//! parties.

mod activity;
mod aimd;
mod bands;
mod core;
mod lease;
mod pushes;
#[cfg(test)]
mod simulation;
mod view;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use gatepay_core::Kind;
use gatepay_tenancy::{Rate, settings};
use parking_lot::{Mutex, MutexGuard};

use crate::limiter::{RateExceeded, nanos};
pub(crate) use aimd::{AimdRate, RateRange};
pub use core::OwnCallPurpose;
use core::{Entitlement, FairShare, QuotaTerms, TokenShortage, TokenTaken};
pub use lease::RatePart;
pub use view::{QuotaView, ShareView};

/// The quota of the institution as a whole.
///
/// Callers read the clock before the lock is taken. A time before the latest one counts as the latest one.
pub struct Quota {
    core: Mutex<FairShare>,
    /// Codes by which GatePay pushes back.
    codes: ArcSwap<Vec<String>>,
    /// Whether there are any codes: most institutions have none, and then no answer is searched.
    has_codes: AtomicBool,
}

/// One party's membership in the quota. It may outlive its registry, and ends when it is dropped.
pub struct QuotaShare {
    quota: Arc<Quota>,
    member: u32,
}

/// The grant of one call, and of a slot in flight. Its holder reports the end of the call to the share that granted it.
#[must_use]
#[derive(Clone, Copy)]
pub struct QuotaGrant(TokenTaken);

/// The reason why a call gets no grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaDenied {
    /// The rate is spent.
    Rate(RateExceeded),
    /// The calls in flight have reached their limit.
    Places {
        /// The limit of calls in flight.
        all: u32,
    },
}

/// A push-back that lowered the institution's rate, in requests per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLowered {
    /// The rate until then.
    pub before: NonZeroU32,
    /// The rate from then on.
    pub after: NonZeroU32,
}

impl Quota {
    /// A full quota, with nothing in flight.
    pub fn new(quota: &settings::QuotaSettings, now: Duration) -> Arc<Self> {
        Self::begin(quota, FairShare::new(terms(quota), nanos(now)))
    }

    /// A quota that instances share: calls use the part that is [lent](Self::lend) to this instance.
    pub fn leased(quota: &settings::QuotaSettings, now: Duration) -> Arc<Self> {
        Self::begin(quota, FairShare::leased(terms(quota), nanos(now)))
    }

    fn begin(quota: &settings::QuotaSettings, core: FairShare) -> Arc<Self> {
        Arc::new(Self {
            core: Mutex::new(core),
            codes: ArcSwap::from_pointee(quota.pushback_codes.clone()),
            has_codes: AtomicBool::new(!quota.pushback_codes.is_empty()),
        })
    }

    /// Puts other terms in force. Spent tokens stay spent, calls in flight keep their slots, and a rate that GatePay
    /// pushed down is not pushed up.
    pub fn adjust(&self, quota: &settings::QuotaSettings, now: Duration) {
        self.core().adjust(terms(quota), nanos(now));
        self.codes.store(Arc::new(quota.pushback_codes.clone()));
        self.has_codes
            .store(!quota.pushback_codes.is_empty(), Ordering::Release);
    }

    /// Puts a part of the rate in force at this instance. A larger burst brings no tokens; a smaller one takes those
    /// beyond it.
    pub fn lend(&self, part: RatePart, now: Duration) {
        self.core().lend(part, nanos(now));
    }

    /// The configured rate, and the rate per second to which GatePay pushed this instance back, if it did.
    pub fn reported(&self, now: Duration) -> (Rate, Option<u32>) {
        let mut core = self.core();
        (core.full(), core.pushed_back_to(nanos(now)))
    }

    /// How long the rate to which GatePay pushed this instance back stays as it is.
    pub fn holds(&self, now: Duration) -> Duration {
        self.core().holds(nanos(now))
    }

    /// Whether half of the burst is there, or more.
    pub fn is_half_full(&self, now: Duration) -> bool {
        self.core().is_half_full(nanos(now))
    }

    /// The limit of calls in flight, if there is one.
    pub fn places(&self) -> Option<NonZeroU32> {
        self.core().places().and_then(NonZeroU32::new)
    }

    /// Whether the limit of calls in flight is in shadow mode.
    pub fn has_shadow_places(&self) -> bool {
        self.core().has_shadow_places()
    }

    /// Takes a token for one call of the proxy's own, or returns when there might be one.
    pub fn take_for(&self, purpose: OwnCallPurpose, now: Duration) -> Result<(), RateExceeded> {
        let mut core = self.core();
        let taken = core.take_for(purpose, nanos(now));
        taken.map_err(|wait| RateExceeded {
            wait: Duration::from_nanos(wait),
            rate: core.rate(),
        })
    }

    /// Whether this code is a push-back of GatePay.
    pub fn is_pushback(&self, code: &str) -> bool {
        self.has_codes.load(Ordering::Acquire) && self.codes.load().iter().any(|it| it == code)
    }

    /// Notes that GatePay pushed a call of the proxy's own back, perhaps for a stated time: from now on less is sent.
    pub fn pushed_back(&self, retry_after: Option<Duration>, now: Duration) -> Option<RateLowered> {
        self.hear(None, retry_after, now)
    }

    /// Notes a push-back, which may lower the rate: a push-back against one party alone concerns only that party.
    fn hear(
        &self,
        member: Option<u32>,
        retry_after: Option<Duration>,
        now: Duration,
    ) -> Option<RateLowered> {
        let mut core = self.core();
        let before = core.rate().per_second;
        core.hear(member, retry_after.map(nanos), nanos(now));
        let after = core.rate().per_second;
        (after < before).then_some(RateLowered { before, after })
    }

    /// The view of the quota for operators.
    pub fn view(&self, now: Duration) -> QuotaView {
        self.core().view(nanos(now))
    }

    fn core(&self) -> MutexGuard<'_, FairShare> {
        self.core.lock()
    }
}

impl QuotaShare {
    /// Adds a party. It counts as active once it asks.
    pub fn new(quota: &Arc<Quota>, weight: NonZeroU32) -> Self {
        let member = quota.core().join(weight.get());
        Self {
            quota: Arc::clone(quota),
            member,
        }
    }

    /// Changes the party's weight from now on.
    pub fn reweigh(&self, weight: NonZeroU32) {
        self.quota.core().reweigh(self.member, weight.get());
    }

    /// Takes a token for one call, and a slot in flight.
    pub fn take(&self, kind: Kind, now: Duration) -> Result<QuotaGrant, QuotaDenied> {
        self.take_from(&mut self.quota.core(), kind, now)
    }

    /// Takes a token as [`take`](Self::take) does, where instances share the quota: the party counts with the part of its
    /// weight that it has at this instance.
    pub fn take_part(
        &self,
        kind: Kind,
        weight: f64,
        now: Duration,
    ) -> Result<QuotaGrant, QuotaDenied> {
        let mut core = self.quota.core();
        core.weigh_part(self.member, weight);
        self.take_from(&mut core, kind, now)
    }

    fn take_from(
        &self,
        core: &mut FairShare,
        kind: Kind,
        now: Duration,
    ) -> Result<QuotaGrant, QuotaDenied> {
        match core.take(self.member, acts(kind), nanos(now)) {
            Ok(taken) => Ok(QuotaGrant(taken)),
            Err(TokenShortage::Rate(wait)) => Err(QuotaDenied::Rate(RateExceeded {
                wait: Duration::from_nanos(wait),
                rate: core.rate(),
            })),
            Err(TokenShortage::Places) => Err(QuotaDenied::Places {
                all: core.places().unwrap_or(u32::MAX),
            }),
        }
    }

    /// Undoes a grant whose call did not go ahead, as if it had never been taken.
    pub fn give_back(&self, grant: QuotaGrant, now: Duration) {
        let mut core = self.quota.core();
        core.give_back(self.member, grant.0, nanos(now));
    }

    /// Frees the slot in flight of a call that is over.
    pub fn vacate(&self, grant: QuotaGrant) {
        // Most institutions have no limit on calls in flight: then there is nothing to do, and the lock is not taken.
        if grant.0.seated {
            self.quota.core().vacate(self.member, true);
        }
    }

    /// How long until there would be a token for one call, if no other call took it.
    pub fn wait(&self, kind: Kind, now: Duration) -> Duration {
        let mut core = self.quota.core();
        Duration::from_nanos(core.wait(self.member, acts(kind), nanos(now)))
    }

    /// Notes that GatePay pushed this party back. If another party was pushed back lately, all parties send less from
    /// now on.
    pub fn pushed_back(&self, retry_after: Option<Duration>, now: Duration) -> Option<RateLowered> {
        self.quota.hear(Some(self.member), retry_after, now)
    }

    /// The institution's configured rate, within which every party's rate lies.
    pub fn most(&self) -> Rate {
        self.quota.core().full()
    }

    /// The view of this share for operators.
    pub fn view(&self, now: Duration) -> ShareView {
        self.quota.core().view_of(self.member, nanos(now))
    }
}

impl Drop for QuotaShare {
    fn drop(&mut self) {
        self.quota.core().leave(self.member);
    }
}

impl QuotaGrant {
    /// Whether the call took a token that others left.
    pub fn is_borrowed(self) -> bool {
        self.0.ground == Entitlement::Borrowed
    }

    /// Whether the call should have been refused for the rate, which is in shadow mode.
    pub fn is_beyond_share(self) -> bool {
        matches!(self.0.ground, Entitlement::Shadow | Entitlement::Beyond)
    }

    /// Whether the call has a slot in flight of the institution's.
    pub fn is_seated(self) -> bool {
        self.0.seated
    }

    /// Whether the call should have been refused for calls in flight, which are in shadow mode.
    pub fn is_crowded(self) -> bool {
        self.0.crowded
    }
}

/// Write and money calls may take from the reserve.
fn acts(kind: Kind) -> bool {
    kind != Kind::Read
}

fn terms(quota: &settings::QuotaSettings) -> QuotaTerms {
    let per_second = quota.rate.per_second.get();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of at most a half, in millionths"
    )]
    let reserve = (quota.reserve.clamp(0.0, 0.5) * f64::from(bands::WHOLE)).round() as u32;
    QuotaTerms {
        per_second,
        burst: quota.rate.burst.get(),
        reserve,
        floor: quota
            .floor
            .map_or((per_second / 10).max(1), NonZeroU32::get),
        in_flight: quota.in_flight.map(NonZeroU32::get),
        shadow: quota.shadow,
    }
}
