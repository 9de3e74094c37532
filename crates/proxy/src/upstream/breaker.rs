//! The circuit breaker as calls to GatePay use it: measured by the machine's clock, counted and logged.

use std::time::{Duration, Instant};

use gatepay_admission::breaker::{
    AttemptOwner, Breaker, BreakerClosed, BreakerEra, BreakerOpen, BreakerPass, FailureEffects,
    OpenEvidence, PartyOpenEvidence,
};
use gatepay_core::Kind;
use gatepay_tenancy::settings;
use tokio::sync::Notify;

use crate::upstream::meters::BreakerMeters;

/// The institution's breaker, with the clock and the counters that every use of it takes.
pub struct UpstreamBreaker {
    breaker: Breaker,
    /// The origin of the breaker's times.
    begun: Instant,
    /// Notified when a read of the proxy's own is wanted.
    wanted: Notify,
    meters: BreakerMeters,
}

impl UpstreamBreaker {
    /// A closed breaker.
    pub fn new(
        settings: settings::BreakerSettings,
        era: BreakerEra,
        meters: BreakerMeters,
    ) -> Self {
        Self {
            breaker: Breaker::new(settings, era),
            begun: Instant::now(),
            wanted: Notify::new(),
            meters,
        }
    }

    /// Whether an attempt of this kind may be sent now.
    pub fn pass(&self, owner: AttemptOwner<'_>, kind: Kind) -> Result<BreakerPass, BreakerOpen> {
        self.breaker.pass(owner, kind, || self.now())
    }

    /// Whether GatePay keeps failing.
    pub fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Counts an answer of GatePay, of any status.
    pub fn answered(&self, owner: AttemptOwner<'_>, pass: BreakerPass) {
        let closed = self.breaker.answered(owner, pass, || self.now());
        if let Some(closed) = closed {
            tell_closed(owner, closed);
        }
    }

    /// Counts a failure: no connection, no whole answer, or an answer of an intermediary before GatePay.
    pub fn failed(&self, owner: AttemptOwner<'_>) {
        let FailureEffects {
            party_opened,
            opened,
            wants_read,
        } = self.breaker.failed(owner, self.now());
        if let Some(evidence) = party_opened {
            self.meters.party_opened.inc();
            tell_party_opened(owner, evidence);
        }
        if let Some(evidence) = opened {
            self.meters.opened.inc();
            tell_opened(evidence);
        }
        if wants_read {
            self.wanted.notify_one();
        }
    }

    /// Waits until a read of the proxy's own is wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether a read of the proxy's own should be sent now.
    pub fn wants_read(&self) -> bool {
        self.breaker.wants_read(self.now())
    }

    /// Notes that such a read is being sent.
    pub fn asked(&self) {
        self.breaker.asked(self.now());
    }

    /// Notes that there is no read to probe with: see [`Breaker::despair`].
    pub fn despair(&self) {
        if let Some(closed) = self.breaker.despair(self.now()) {
            tell_closed(AttemptOwner::Own, closed);
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

fn party_of(owner: AttemptOwner<'_>) -> &str {
    owner.party().map_or("", |party| party.id().as_str())
}

fn tell_party_opened(owner: AttemptOwner<'_>, evidence: PartyOpenEvidence) {
    tracing::error!(
        party = %party_of(owner),
        in_a_row = evidence.in_a_row,
        failures = evidence.failures,
        attempts = evidence.attempts,
        "the circuit breaker of this party is open: GatePay keeps failing its calls; until one is answered, only a call now and then is sent"
    );
}

fn tell_opened(evidence: OpenEvidence) {
    tracing::error!(
        in_a_row = evidence.in_a_row,
        parties = evidence.parties,
        own_failed = evidence.own_failed,
        "the circuit breaker is open: GatePay keeps failing; until a test read of the proxy is answered, calls are refused"
    );
}

fn tell_closed(owner: AttemptOwner<'_>, closed: BreakerClosed) {
    match closed {
        BreakerClosed::Institution { after } => {
            tracing::warn!(
                ?after,
                "the circuit breaker is closed: GatePay answers again"
            );
        }
        BreakerClosed::Party => {
            tracing::warn!(party = %party_of(owner), "the circuit breaker of this party is closed: GatePay answers its calls again");
        }
    }
}
