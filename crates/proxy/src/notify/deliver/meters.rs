//! Metrics of deliveries. They stay at zero without `[notifications]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gatepay_store::notifications::listing::NotificationCounts;
use parking_lot::Mutex;
use prometheus::{GaugeVec, Histogram, IntCounterVec, IntGauge, IntGaugeVec};

use crate::prom::registrar::{Registrar, SECONDS, tenant_label};

/// The metrics of deliveries.
#[derive(Clone)]
pub struct DeliveryMeters {
    /// Seconds of attempts.
    pub attempt_seconds: Histogram,
    /// Open connections to endpoints.
    pub connections: IntGauge,
    results: IntCounterVec,
    addresses_refused: IntCounterVec,
    lag: GaugeVec,
    breaker: IntGaugeVec,
    dead: IntGaugeVec,
    /// The tenants that have series of their own. All others are counted together.
    own: Arc<Mutex<BTreeSet<String>>>,
}

/// The result of an attempt, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The tenant acknowledged the notification.
    Delivered,
    /// The attempt failed, and another one follows.
    Failed,
    /// The attempt failed, and the schedule is used up.
    Dead,
    /// The endpoint answered 410.
    Gone,
}

impl DeliveryResult {
    const ALL: [Self; 4] = [Self::Delivered, Self::Failed, Self::Dead, Self::Gone];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Gone => "gone",
        }
    }
}

/// The figures of one tenant's endpoints.
#[derive(Default)]
struct TenantBacklog {
    dead: u64,
    open_breakers: u64,
    oldest_ms: Option<u64>,
}

impl DeliveryMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        let seconds = make.histograms(
            "delivery_attempt_seconds",
            "Seconds of attempts to deliver a notification to its tenant.",
            &SECONDS,
            &[],
        );
        let tenant = &["tenant"];
        let made = Self {
            attempt_seconds: seconds.with_label_values(&[] as &[&str]),
            connections: make.gauge("delivery_connections", "Open connections to tenants' endpoints."),
            results: make.counters(
                "deliveries_total",
                "Attempts to deliver a notification, by tenant and result.",
                &["tenant", "result"],
            ),
            addresses_refused: make.counters(
                "delivery_addresses_refused_total",
                "Attempts that opened no connection because an address of the tenant's endpoint is not on the public Internet.",
                tenant,
            ),
            lag: make.gauges(
                "delivery_lag_seconds",
                "Age of the oldest notification that waits for its delivery; 0 if none waits.",
                tenant,
            ),
            breaker: make.gauge_vec(
                "delivery_breaker",
                "Endpoints of the tenant that keep failing, so that only one attempt is made after each pause.",
                tenant,
            ),
            dead: make.gauge_vec(
                "notifications_dead",
                "Notifications whose schedule is used up, until they are replayed or their retention ends.",
                tenant,
            ),
            own: Arc::default(),
        };
        made.show(&NotificationCounts::default(), &BTreeSet::new());
        made
    }

    /// Counts an attempt that was recorded.
    pub(super) fn ended(&self, tenant: &str, result: DeliveryResult) {
        let label = self.label(tenant);
        let labels = [&*label, result.as_str()];
        self.results.with_label_values(&labels).inc();
    }

    /// Counts an attempt whose endpoint had an address that is not allowed.
    pub(super) fn address_refused(&self, tenant: &str) {
        let label = self.label(tenant);
        self.addresses_refused.with_label_values(&[&label]).inc();
    }

    /// Shows the figures of all endpoints. Tenants outside `own` are counted together, and lose their series.
    pub(super) fn show(&self, counts: &NotificationCounts, own: &BTreeSet<String>) {
        self.arrange(own);
        let mut backlogs: BTreeMap<String, TenantBacklog> = BTreeMap::new();
        let labels = own.iter().map(|id| self.label(id));
        backlogs.extend(labels.map(|label| (label, TenantBacklog::default())));
        backlogs.entry(tenant_label(None).to_owned()).or_default();
        for state in &counts.endpoints {
            let label = self.label(&state.endpoint.tenant.tenant);
            let backlog = backlogs.entry(label).or_default();
            backlog.dead += state.dead;
            backlog.open_breakers += u64::from(state.breaker.open_until_ms.is_some());
            let oldest = [backlog.oldest_ms, state.oldest_waiting_ms];
            backlog.oldest_ms = oldest.into_iter().flatten().min();
        }
        for (label, backlog) in backlogs {
            let gauge = |number| i64::try_from(number).unwrap_or(i64::MAX);
            let lag_ms = backlog
                .oldest_ms
                .map_or(0, |oldest| counts.now_ms.saturating_sub(oldest));
            let lag = std::time::Duration::from_millis(lag_ms).as_secs_f64();
            self.lag.with_label_values(&[&label]).set(lag);
            self.dead
                .with_label_values(&[&label])
                .set(gauge(backlog.dead));
            let open = gauge(backlog.open_breakers);
            self.breaker.with_label_values(&[&label]).set(open);
        }
    }

    /// Makes the series of these tenants at zero, and ends those of all others.
    fn arrange(&self, own: &BTreeSet<String>) {
        let before = std::mem::replace(&mut *self.own.lock(), own.clone());
        for id in before.difference(own) {
            let label = tenant_label(Some(id));
            for result in DeliveryResult::ALL {
                let _none = self.results.remove_label_values(&[label, result.as_str()]);
            }
            let _none = self.addresses_refused.remove_label_values(&[label]);
            let _none = self.lag.remove_label_values(&[label]);
            let _none = self.breaker.remove_label_values(&[label]);
            let _none = self.dead.remove_label_values(&[label]);
        }
        let all = own.iter().map(|id| Some(id.as_str()));
        for label in all.chain([None]).map(tenant_label) {
            for result in DeliveryResult::ALL {
                self.results.with_label_values(&[label, result.as_str()]);
            }
            self.addresses_refused.with_label_values(&[label]);
        }
    }

    fn label(&self, tenant: &str) -> String {
        let has_own = self.own.lock().contains(tenant);
        tenant_label(has_own.then_some(tenant)).to_owned()
    }
}
