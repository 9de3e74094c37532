//! The institution's quota as the proxy uses it: measured by the process's clock, counted and logged.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use gatepay_admission::limiter::RateExceeded;
use gatepay_admission::quota::{OwnCallPurpose, Quota, QuotaShare, QuotaView};
use gatepay_tenancy::settings;

use crate::generation::limit_meters::QuotaMeters;
use crate::process::clock::Clock;

/// The quota, with the clock and the counters that every use of it takes.
pub struct InstitutionQuota {
    quota: Arc<Quota>,
    clock: Clock,
    meters: QuotaMeters,
}

impl InstitutionQuota {
    /// A full quota, with nothing in flight.
    pub fn new(quota: &settings::QuotaSettings, meters: QuotaMeters, clock: &Clock) -> Self {
        Self::of(Quota::new(quota, clock.elapsed()), meters, clock)
    }

    /// A quota that instances share, of which nothing is lent to this one yet.
    pub fn leased(quota: &settings::QuotaSettings, meters: QuotaMeters, clock: &Clock) -> Self {
        Self::of(Quota::leased(quota, clock.elapsed()), meters, clock)
    }

    fn of(quota: Arc<Quota>, meters: QuotaMeters, clock: &Clock) -> Self {
        Self {
            quota,
            clock: clock.clone(),
            meters,
        }
    }

    /// The quota that the store lends parts of.
    pub fn lent(&self) -> &Arc<Quota> {
        &self.quota
    }

    /// The time by which limits are measured.
    pub fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Adds a party to those that share the quota.
    pub fn join(&self, weight: NonZeroU32) -> QuotaShare {
        QuotaShare::new(&self.quota, weight)
    }

    /// Puts other terms in force: see [`Quota::adjust`].
    pub fn adjust(&self, quota: &settings::QuotaSettings) {
        self.quota.adjust(quota, self.now());
    }

    /// Takes a token for one call of the proxy's own, or returns when there might be one.
    pub fn take_for(&self, purpose: OwnCallPurpose) -> Result<(), RateExceeded> {
        self.quota.take_for(purpose, self.now())?;
        self.meters.own_calls[purpose as usize].inc();
        Ok(())
    }

    /// Whether this code is a push-back of GatePay.
    pub fn is_pushback(&self, code: &str) -> bool {
        self.quota.is_pushback(code)
    }

    /// Notes that GatePay pushed back a call of this share's party, or one of the proxy's own, perhaps for a stated
    /// time.
    pub fn pushed_back(&self, share: Option<&QuotaShare>, retry_after: Option<Duration>) {
        self.meters.pushbacks.inc();
        let now = self.now();
        let lowered = match share {
            Some(share) => share.pushed_back(retry_after, now),
            None => self.quota.pushed_back(retry_after, now),
        };
        if let Some(lowered) = lowered {
            tracing::warn!(before = %lowered.before, after = %lowered.after, ?retry_after, "GatePay pushed back the institution: its rate was lowered");
        }
    }

    /// The view of the quota for operators.
    pub fn view(&self) -> QuotaView {
        self.quota.view(self.now())
    }
}
