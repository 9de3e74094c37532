//! The outcomes of requests, by tenant. A tenant's counts stand side by side and become series at a scrape. As counters
//! of their own they would take fifteen allocations a tenant, and every request would read one more far cache line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gatepay_core::Kind;
use parking_lot::{Mutex, MutexGuard};
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec};

use crate::generation::limit_meters::{LimitMeters, TenantLimitMeters};
use crate::prom::outcome::RequestOutcome;
use crate::prom::registrar::{Registrar, opts, tenant_label};

/// The counts of one tenant, by kind and outcome.
pub struct OutcomeCounts<T>(pub [[T; RequestOutcome::ALL.len()]; Kind::ALL.len()]);

/// The metrics of one tenant.
pub struct TenantMeters {
    ends: OutcomeCounts<AtomicU64>,
    /// The metrics of the tenant's limits.
    pub limits: TenantLimitMeters,
    not_in_force: IntCounter,
}

/// The series of all tenants and operators.
pub struct TenantSeries {
    requests: RequestSeries,
    /// Limits, and the sharing of the institution's quota.
    pub limits: LimitMeters,
    not_in_force: IntCounterVec,
}

/// The metrics of all tenants that have series.
#[derive(Clone)]
struct RequestSeries {
    desc: Desc,
    by_tenant: Arc<Mutex<ByTenant>>,
}

/// By name; the tenants that are counted together have no name.
type ByTenant = BTreeMap<Option<String>, Arc<TenantMeters>>;

impl TenantSeries {
    /// Series without any tenant.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            requests: make.register(RequestSeries::new()),
            limits: LimitMeters::new(make),
            not_in_force: make.counters(
                "credential_not_in_force_total",
                "Requests refused as unknown_client whose signature is right, by a credential that was not in force.",
                &["tenant"],
            ),
        }
    }

    /// The metrics of one tenant, or of all tenants that have no series of their own.
    pub fn of(&self, id: Option<&str>) -> Arc<TenantMeters> {
        self.requests.of(id, || TenantMeters {
            ends: OutcomeCounts::zero(),
            limits: self.limits.tenant(id),
            not_in_force: self.not_in_force.with_label_values(&[tenant_label(id)]),
        })
    }

    /// Ends the series of a tenant that has none of its own any more.
    pub fn forget(&self, id: &str) {
        self.requests.forget(id);
        self.limits.forget(id);
        // The tenant may have had no such series.
        let _ = self
            .not_in_force
            .remove_label_values(&[tenant_label(Some(id))]);
    }

    /// The outcomes of all requests of all tenants.
    pub fn ended(&self) -> [[u64; RequestOutcome::ALL.len()]; Kind::ALL.len()] {
        self.requests.sum().0
    }
}

impl TenantMeters {
    /// Counts a request of this tenant.
    pub fn ended(&self, kind: Kind, end: RequestOutcome) {
        self.ends.count(kind, end);
    }

    /// Counts a request whose signature is right, by a credential that is not in force.
    pub fn not_in_force(&self) {
        self.not_in_force.inc();
    }
}

impl OutcomeCounts<AtomicU64> {
    fn zero() -> Self {
        Self([const { [const { AtomicU64::new(0) }; RequestOutcome::ALL.len()] }; Kind::ALL.len()])
    }

    fn count(&self, kind: Kind, end: RequestOutcome) {
        self.0[kind as usize][end as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn iter(&self) -> impl Iterator<Item = (Kind, RequestOutcome, u64)> {
        let of_kind = |kind| {
            let counts = &self.0[kind as usize];
            let count = move |end| (kind, end, counts[end as usize].load(Ordering::Relaxed));
            RequestOutcome::ALL.into_iter().map(count)
        };
        Kind::ALL.iter().copied().flat_map(of_kind)
    }
}

impl OutcomeCounts<u64> {
    const NONE: Self = Self([[0; RequestOutcome::ALL.len()]; Kind::ALL.len()]);

    fn add(&mut self, ends: &OutcomeCounts<AtomicU64>) {
        for (kind, end, count) in ends.iter() {
            self.0[kind as usize][end as usize] += count;
        }
    }
}

impl RequestSeries {
    fn new() -> prometheus::Result<Self> {
        let labels = ["tenant", "kind", "outcome"].map(str::to_owned);
        let help = "Requests by tenant, kind of operation and how they ended.";
        let desc = opts("requests_total", help).variable_labels(labels.into());
        Ok(Self {
            desc: desc.describe()?,
            by_tenant: Arc::default(),
        })
    }

    /// The metrics of a tenant, created if missing.
    fn of(&self, id: Option<&str>, new: impl FnOnce() -> TenantMeters) -> Arc<TenantMeters> {
        let mut all = self.all();
        let made = all.entry(id.map(str::to_owned));
        Arc::clone(made.or_insert_with(|| Arc::new(new())))
    }

    /// Ends a tenant's series.
    fn forget(&self, id: &str) {
        self.all().remove(&Some(id.to_owned()));
    }

    /// The sum over all tenants.
    fn sum(&self) -> OutcomeCounts<u64> {
        let mut sum = OutcomeCounts::NONE;
        for meters in self.all().values() {
            sum.add(&meters.ends);
        }
        sum
    }

    fn all(&self) -> MutexGuard<'_, ByTenant> {
        self.by_tenant.lock()
    }
}

impl Collector for RequestSeries {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let by_tenant = self.all();
        let mut all =
            Vec::with_capacity(by_tenant.len() * RequestOutcome::ALL.len() * Kind::ALL.len());
        for (id, meters) in &*by_tenant {
            let label = tenant_label(id.as_deref());
            let ends = meters.ends.iter();
            all.extend(ends.map(|(kind, end, count)| series(label, kind, end, count)));
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(all);
        vec![family]
    }
}

fn series(tenant: &str, kind: Kind, end: RequestOutcome, count: u64) -> Metric {
    // By name, as the library writes labels.
    let labels = [
        ("kind", kind.as_str()),
        ("outcome", end.as_str()),
        ("tenant", tenant),
    ];
    let label = |(name, value): (&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.to_owned());
        label.set_value(value.to_owned());
        label
    };
    let mut metric = Metric::from_label(labels.map(label).into());
    let mut counter = Counter::default();
    #[expect(
        clippy::cast_precision_loss,
        reason = "every value of Prometheus's is one"
    )]
    counter.set_value(count as f64);
    metric.set_counter(counter);
    metric
}
