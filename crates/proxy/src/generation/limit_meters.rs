//! Metrics of limits: refusals, and the sharing of the institution's quota.

use gatepay_admission::limit_name::{LimitName, LimitSet};
use gatepay_admission::quota::{OwnCallPurpose, QuotaView};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge};

use crate::prom::registrar::{Registrar, tenant_label};

/// The metrics of all limits.
pub struct LimitMeters {
    refused: IntCounterVec,
    shadowed: IntCounterVec,
    borrowed: IntCounterVec,
    shares: GaugeVec,
    uses: GaugeVec,
    rates: [IntGauge; 2],
    left: IntGauge,
    active: IntGauge,
    in_flight: IntGauge,
    pushed_back: IntGauge,
    /// The metrics of push-backs and of the proxy's own calls.
    pub quota: QuotaMeters,
}

/// The counters of the institution's quota.
#[derive(Clone)]
pub struct QuotaMeters {
    /// Push-backs of GatePay.
    pub pushbacks: IntCounter,
    /// Calls of the proxy's own, by purpose.
    pub own_calls: [IntCounter; OwnCallPurpose::ALL.len()],
}

/// The child metrics of one tenant.
pub struct TenantLimitMeters {
    refused: [IntCounter; LimitName::ALL.len()],
    borrowed: IntCounter,
    /// Gauges of share and use; tenants that are counted together have none.
    standing: Option<[Gauge; 2]>,
    /// The child is looked up at each use: few tenants have a limit in shadow mode.
    shadowed: IntCounterVec,
    label: String,
}

impl LimitMeters {
    /// Metrics at zero.
    pub fn new(make: &Registrar<'_>) -> Self {
        let rates = make.gauge_vec(
            "quota_requests_per_second",
            "Requests per second of the institution's quota: configured, and in force after GatePay's pushback.",
            &["rate"],
        );
        Self {
            refused: make.counters(
                "limit_refusals_total",
                "Requests refused for a limit, by tenant and limit.",
                &["tenant", "limit"],
            ),
            shadowed: make.counters(
                "limit_shadow_total",
                "Requests admitted that a limit in shadow would have refused, by tenant and limit.",
                &["tenant", "limit"],
            ),
            borrowed: make.counters(
                "quota_borrowed_total",
                "Requests admitted beyond the tenant's share, from shares that other tenants left unused.",
                &["tenant"],
            ),
            shares: make.gauges(
                "quota_share_requests_per_second",
                "Requests per second of the institution's quota that the tenant is guaranteed now.",
                &["tenant"],
            ),
            uses: make.gauges(
                "quota_use_requests_per_second",
                "Requests per second of the institution's quota that the tenant used in about the last ten seconds.",
                &["tenant"],
            ),
            rates: ["configured", "in_force"].map(|rate| rates.with_label_values(&[rate])),
            left: make.gauge("quota_left", "Requests left of the institution's burst."),
            active: make.gauge(
                "quota_active_tenants",
                "Tenants and operators that sent a request in the last ten seconds.",
            ),
            in_flight: make.gauge(
                "quota_in_flight",
                "Requests that count against upstream.quota.in_flight.",
            ),
            pushed_back: make.gauge(
                "quota_pushed_back_tenants",
                "Tenants and operators whose own rate is lowered because GatePay pushed back their account.",
            ),
            quota: QuotaMeters {
                pushbacks: make.counter(
                    "quota_pushbacks_total",
                    "Answers by which GatePay pushed back: HTTP 429 or a code of upstream.quota.pushback_codes.",
                ),
                own_calls: make.counter_each(
                    "quota_own_calls_total",
                    "Calls of the proxy's own that were counted against the institution's quota.",
                    "purpose",
                    OwnCallPurpose::ALL.map(OwnCallPurpose::as_str),
                ),
            },
        }
    }

    /// The child metrics for one tenant.
    pub fn tenant(&self, id: Option<&str>) -> TenantLimitMeters {
        let label = tenant_label(id);
        let own = |vec: &GaugeVec| vec.with_label_values(&[label]);
        let standing = id.map(|_| [own(&self.shares), own(&self.uses)]);
        TenantLimitMeters {
            refused: LimitName::ALL
                .map(|limit| self.refused.with_label_values(&[label, limit.as_str()])),
            borrowed: self.borrowed.with_label_values(&[label]),
            standing,
            shadowed: self.shadowed.clone(),
            label: label.to_owned(),
        }
    }

    /// Ends a tenant's series.
    pub fn forget(&self, id: &str) {
        let id = tenant_label(Some(id));
        // The tenant may have had no such series.
        let _ = self.shares.remove_label_values(&[id]);
        let _ = self.uses.remove_label_values(&[id]);
        let _ = self.borrowed.remove_label_values(&[id]);
        for limit in LimitName::ALL {
            let labels = &[id, limit.as_str()];
            let _ = self.refused.remove_label_values(labels);
            let _ = self.shadowed.remove_label_values(labels);
        }
    }

    /// Shows the state of the institution's quota.
    pub fn show(&self, view: &QuotaView) {
        for (gauge, rate) in self.rates.iter().zip([view.configured, view.in_force]) {
            gauge.set(rate.into());
        }
        self.left.set(view.left);
        self.active.set(view.active.into());
        self.in_flight.set(view.in_flight.into());
    }

    /// Shows the number of parties whose own rates are lowered.
    pub fn pushed_back(&self, parties: usize) {
        self.pushed_back
            .set(i64::try_from(parties).unwrap_or(i64::MAX));
    }
}

impl TenantLimitMeters {
    /// Counts a refusal.
    pub fn refused(&self, limit: LimitName) {
        self.refused[limit as usize].inc();
    }

    /// Counts an admission: whether it took a token that others left, and the limits in shadow mode that would have
    /// refused it.
    pub fn admitted(&self, borrowed: bool, shadow: LimitSet) {
        if borrowed {
            self.borrowed.inc();
        }
        for limit in shadow.iter() {
            let labels = [self.label.as_str(), limit.as_str()];
            self.shadowed.with_label_values(&labels).inc();
        }
    }

    /// Shows share and use, in this order, if this tenant has series of its own.
    pub fn stands(&self, view: impl FnOnce() -> [f64; 2]) {
        if let Some(gauges) = &self.standing {
            for (gauge, value) in gauges.iter().zip(view()) {
                gauge.set(value);
            }
        }
    }
}
