//! Metrics of deliveries. They stay at zero without `[notifications]`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::delivery::{EndpointOffReason, EndpointState};
use gatepay_store::notifications::listing::NotificationCounts;
use parking_lot::Mutex;
use prometheus::{GaugeVec, Histogram, IntCounterVec, IntGauge, IntGaugeVec};
use serde::Serialize;

use crate::cluster::usage_tally::UsageTally;
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
    /// The tenants with something undelivered, as last shown.
    backlogs: Arc<Mutex<Vec<DeliveryBacklog>>>,
    /// The counts for statements.
    usage: Option<Arc<UsageTally>>,
}

/// What is undelivered of one tenant, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryBacklog {
    /// The tenant.
    pub id: String,
    /// The age of the oldest notification that waits, in milliseconds; 0 if none waits.
    pub lag_ms: u64,
    /// Notifications whose schedule is used up.
    pub dead: u64,
    /// Endpoints that keep failing.
    pub breakers_open: u64,
    /// Endpoints that are turned off.
    pub endpoints_off: u64,
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

/// What is undelivered of all tenants, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BacklogSummary {
    /// The age of the oldest notification that waits, in milliseconds; 0 if none waits.
    pub lag_ms: u64,
    /// Notifications whose schedule is used up.
    pub dead: u64,
    /// The tenants with something undelivered, the longest waiting first.
    pub longest: Vec<DeliveryBacklog>,
}

/// The figures of one tenant's endpoints, or of several tenants'.
#[derive(Clone, Copy, Default)]
struct TenantBacklog {
    dead: u64,
    open_breakers: u64,
    off: u64,
    oldest_ms: Option<u64>,
}

impl TenantBacklog {
    fn add(&mut self, state: &EndpointState) {
        self.dead += state.dead;
        self.open_breakers += u64::from(state.breaker.open_until_ms.is_some());
        // Tenants that the configuration has no more are left out.
        let is_off = |reason| reason != EndpointOffReason::Removed;
        self.off += u64::from(state.off.is_some_and(is_off));
        let oldest = [self.oldest_ms, state.oldest_waiting_ms];
        self.oldest_ms = oldest.into_iter().flatten().min();
    }

    fn merge(&mut self, other: Self) {
        self.dead += other.dead;
        self.open_breakers += other.open_breakers;
        self.off += other.off;
        let oldest = [self.oldest_ms, other.oldest_ms];
        self.oldest_ms = oldest.into_iter().flatten().min();
    }

    fn lag_ms(&self, now_ms: u64) -> u64 {
        self.oldest_ms
            .map_or(0, |oldest| now_ms.saturating_sub(oldest))
    }
}

fn by_tenant(endpoints: &[EndpointState]) -> BTreeMap<&str, TenantBacklog> {
    let mut by_tenant: BTreeMap<&str, TenantBacklog> = BTreeMap::new();
    for state in endpoints {
        let tenant = by_tenant.entry(&state.endpoint.tenant.tenant);
        tenant.or_default().add(state);
    }
    by_tenant
}

/// The tenants with something undelivered, the longest waiting first.
fn undelivered(by_tenant: &BTreeMap<&str, TenantBacklog>, now_ms: u64) -> Vec<DeliveryBacklog> {
    let backlogs = by_tenant.iter().map(|(id, backlog)| DeliveryBacklog {
        id: (*id).to_owned(),
        lag_ms: backlog.lag_ms(now_ms),
        dead: backlog.dead,
        breakers_open: backlog.open_breakers,
        endpoints_off: backlog.off,
    });
    let is_something = |it: &DeliveryBacklog| {
        it.lag_ms > 0 || it.dead > 0 || it.breakers_open > 0 || it.endpoints_off > 0
    };
    let mut backlogs: Vec<_> = backlogs.filter(is_something).collect();
    backlogs.sort_by_key(|it| (Reverse(it.lag_ms), Reverse(it.dead)));
    backlogs
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
            backlogs: Arc::default(),
            usage: None,
        };
        made.show(&NotificationCounts::default(), &BTreeSet::new());
        made
    }

    /// The same, which also tell the counts for statements.
    #[must_use]
    pub fn telling(self, usage: Option<Arc<UsageTally>>) -> Self {
        Self { usage, ..self }
    }

    /// Counts an attempt that was recorded.
    pub(super) fn ended(&self, tenant: &TenantIncarnation, result: DeliveryResult) {
        if let (DeliveryResult::Delivered, Some(usage)) = (result, &self.usage) {
            usage.delivered((&tenant.tenant, &tenant.account));
        }
        let label = self.label(&tenant.tenant);
        let labels = [&*label, result.as_str()];
        self.results.with_label_values(&labels).inc();
    }

    /// Attempts with this result since the start, over all tenants that have not left.
    pub fn count(&self, result: DeliveryResult) -> u64 {
        let own: Vec<String> = self.own.lock().iter().cloned().collect();
        let labels = own.iter().map(|id| Some(id.as_str())).chain([None]);
        let counted = labels.map(|id| {
            let labels = [tenant_label(id), result.as_str()];
            self.results.with_label_values(&labels).get()
        });
        counted.sum()
    }

    /// What is undelivered, as last shown, with the `most` tenants that wait longest.
    pub fn backlog(&self, most: usize) -> BacklogSummary {
        let backlogs = self.backlogs.lock();
        BacklogSummary {
            lag_ms: backlogs.first().map_or(0, |longest| longest.lag_ms),
            dead: backlogs.iter().map(|it| it.dead).sum(),
            longest: backlogs.iter().take(most).cloned().collect(),
        }
    }

    /// Counts an attempt whose endpoint had an address that is not allowed.
    pub(super) fn address_refused(&self, tenant: &str) {
        let label = self.label(tenant);
        self.addresses_refused.with_label_values(&[&label]).inc();
    }

    /// Shows the figures of all endpoints. Tenants outside `own` are counted together, and lose their series.
    pub(super) fn show(&self, counts: &NotificationCounts, own: &BTreeSet<String>) {
        self.arrange(own);
        let by_tenant = by_tenant(&counts.endpoints);
        *self.backlogs.lock() = undelivered(&by_tenant, counts.now_ms);
        let mut backlogs: BTreeMap<String, TenantBacklog> = BTreeMap::new();
        let labels = own.iter().map(|id| self.label(id));
        backlogs.extend(labels.map(|label| (label, TenantBacklog::default())));
        backlogs.entry(tenant_label(None).to_owned()).or_default();
        for (tenant, backlog) in by_tenant {
            let label = self.label(tenant);
            backlogs.entry(label).or_default().merge(backlog);
        }
        for (label, backlog) in backlogs {
            let gauge = |number| i64::try_from(number).unwrap_or(i64::MAX);
            let lag = Duration::from_millis(backlog.lag_ms(counts.now_ms)).as_secs_f64();
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
