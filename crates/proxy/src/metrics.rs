//! Metrics for Prometheus: few, in base units, starting at zero, with labels from the registry and the catalogue only.

mod credential_families;
pub mod credential_series;
pub mod size;
pub mod totals;

use std::sync::Arc;

use gatepay_core::Catalogue;
use gatepay_tenancy::settings::MetricsSettings;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use crate::caps::meters::CapMeters;
use crate::cluster::halt_meters::HaltMeters;
use crate::cluster::limits::LoanMeters;
use crate::cluster::meters::ClusterMeters;
use crate::generation::meters::ReloadMeters;
use crate::generation::suspension_meters::SuspensionMeters;
use crate::generation::tenant_meters::TenantSeries;
use crate::journal;
use crate::metrics::credential_families::CredentialFamilies;
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::receive::meters::ReceptionMeters;
use crate::process::heartbeat::WorkerMeters;
use crate::process::usage::ProcessUsage;
use crate::prom::histogram::OperationLabels;
use crate::prom::registrar::{MetricDescription, Registrar, SECONDS, opts};
use crate::record::access_log::LogMeters;
use crate::record::meters::RequestMeters;
use crate::statements::meters::StatementMeters;
use crate::upstream::meters::{ClockMeters, SignerMeters, UpstreamMeters};

/// Every metric of the program. Labeled children are kept here, so counting needs no look-up.
pub struct Metrics {
    registry: Registry,
    /// Metrics of requests, over all callers.
    pub requests: Arc<RequestMeters>,
    /// Metrics of tenants and operators.
    pub tenants: Arc<TenantSeries>,
    /// Open connections from callers.
    pub connections: IntGauge,
    /// Heads that were refused because they have no valid reading, or more than one.
    pub unreadable_heads: IntCounter,
    /// Times a new connection found no free connection slot, and no idle connection to close for it.
    pub connections_full: IntCounter,
    /// When the listener's certificate expires, in seconds since 1970.
    pub certificate_expiry: IntGauge,
    /// Connections that `accept` failed to hand over, mostly for want of a file descriptor.
    pub accept_errors: IntCounter,
    /// Connections refused because their address had `listen.max_connections_per_address` open.
    pub connections_refused: IntCounter,
    /// Connections of trusted proxies that did not begin with a PROXY header.
    pub proxy_headers_refused: IntCounter,
    /// Connections that were asked to end although none of their timeouts had passed.
    pub connections_ended: EndedMeters,
    /// Connections closed because the caller did not read the answer.
    pub readers_stalled: IntCounter,
    /// HTTP/2 connections closed because of a flood of frames.
    pub http2_floods: IntCounter,
    /// Requests refused because the most requests allowed, in all or per address, were being answered.
    pub requests_crowded: IntCounter,
    /// Metrics of calls to GatePay.
    pub upstream: Arc<UpstreamMeters>,
    /// Metrics of this machine's clock.
    pub clock: ClockMeters,
    /// Stamps in the replay memory.
    pub replay_entries: IntGauge,
    /// The capacity of the replay memory, in stamps.
    pub replay_entries_limit: IntGauge,
    /// Access lines that were dropped because the writer could not keep up.
    pub lines_dropped: IntCounter,
    /// Access lines that `log.sample_successes` left out.
    pub lines_left_out: IntCounter,
    /// 1 while `/ready` reports readiness.
    pub ready: IntGauge,
    /// Process metrics, read from the kernel.
    pub process: ProcessUsage,
    /// Metrics of the audit journal. They stay at zero without a journal.
    pub journal: journal::meters::JournalMeters,
    /// Metrics of the store that instances share. They stay at zero without a store.
    pub cluster: ClusterMeters,
    /// Metrics of GatePay's notifications. They stay at zero without `[notifications]`.
    pub notifications: ReceptionMeters,
    /// Metrics of deliveries to tenants. They stay at zero without `[notifications]`.
    pub deliveries: DeliveryMeters,
    /// Halts in force, by scope.
    pub halted: HaltMeters,
    /// Metrics of money caps. They stay at zero without caps.
    pub caps: CapMeters,
    /// Metrics of statements. They stay at zero without a store.
    pub statements: StatementMeters,
    /// When the certificate of the listener for notifications expires, in seconds since 1970.
    pub notification_certificate_expiry: IntGauge,
    /// Limits that instances share.
    pub loans: LoanMeters,
    /// Metrics of configuration reloads.
    pub reloads: ReloadMeters,
    /// Metrics of parties suspended by hand.
    pub suspensions: SuspensionMeters,
    /// Metrics of the rotation of the institution's credentials.
    pub signer: SignerMeters,
    /// Metrics of stalled workers.
    pub workers: WorkerMeters,
}

/// Counts of connections that were asked to end although none of their timeouts had passed.
pub struct EndedMeters {
    /// Closed for a new connection when all connection slots were taken; a request on it had been verified.
    pub full_verified: IntCounter,
    /// Closed for a new connection when all connection slots were taken; no request on it had been verified.
    pub full_unverified: IntCounter,
    /// New connections that were refused when all connection slots were taken: their address had more requests under
    /// way than any holder of an idle connection had connections.
    pub full_refused: IntCounter,
    /// Connections that were open for `listen.connection_age_ms`.
    pub age: IntCounter,
    /// Connections that ended because `listen.tls.client_ca` changed.
    pub client_ca: IntCounter,
}

impl Metrics {
    /// Makes all metrics, at zero.
    ///
    /// # Panics
    /// Never: the names are distinct and well formed, as a test shows.
    pub fn new(catalogue: &Catalogue, settings: &MetricsSettings) -> Self {
        let registry = Registry::new();
        Self::made(
            &Registrar::new(&registry),
            registry.clone(),
            &OperationLabels::new(catalogue, settings),
        )
    }

    /// What each metric is, of those with a series and of those that have none yet, by name.
    pub fn described() -> Vec<MetricDescription> {
        let registry = Registry::new();
        let make = Registrar::describing(&registry);
        let catalogue = Catalogue::standard();
        let operations = OperationLabels::new(&catalogue, &MetricsSettings::default());
        Self::made(&make, registry.clone(), &operations);
        CredentialFamilies::new(&make);
        make.into_described()
    }

    fn made(make: &Registrar<'_>, registry: Registry, operations: &OperationLabels<'_>) -> Self {
        register_version(make);
        let expiries = make.gauge_vec(
            "certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate in use expires; 0 if there is none.",
            &["certificate"],
        );
        // A table: one entry per metric or group of metrics.
        Self {
            requests: Arc::new(RequestMeters::new(operations, make)),
            tenants: Arc::new(TenantSeries::new(make)),
            connections: make.gauge("connections", "Open connections from tenants."),
            unreadable_heads: make.counter(
                "unreadable_heads_total",
                "Request heads refused as malformed or ambiguous.",
            ),
            connections_full: make.counter(
                "connections_full_total",
                "Times a new connection waited because listen.max_connections were open and none was idle.",
            ),
            certificate_expiry: expiries.with_label_values(&["listener"]),
            notification_certificate_expiry: expiries.with_label_values(&["notifications"]),
            notifications: ReceptionMeters::new(make),
            deliveries: DeliveryMeters::new(make),
            halted: HaltMeters::new(make),
            caps: CapMeters::new(make),
            statements: StatementMeters::new(make),
            accept_errors: make.counter(
                "accept_errors_total",
                "Failed accepts of a connection, mostly for lack of file descriptors.",
            ),
            connections_refused: make.counter(
                "connections_refused_total",
                "Connections closed at once because their address had listen.max_connections_per_address open.",
            ),
            proxy_headers_refused: make.counter(
                "proxy_headers_refused_total",
                "Connections of trusted proxies closed because their PROXY header was malformed, late or missing.",
            ),
            connections_ended: EndedMeters::new(make),
            readers_stalled: make.counter(
                "readers_stalled_total",
                "Connections closed because the caller read no byte of its answer for listen.answer_timeout_ms.",
            ),
            http2_floods: make.counter(
                "http2_floods_total",
                "HTTP/2 connections closed because of a flood of empty or control frames.",
            ),
            requests_crowded: make.counter(
                "requests_crowded_total",
                "Requests refused unread because listen.max_requests, or the part of one address, were in progress.",
            ),
            upstream: Arc::new(UpstreamMeters::new(make)),
            clock: ClockMeters::new(make),
            replay_entries: make.gauge("replay_entries", "Stamps the replay memory holds."),
            replay_entries_limit: make.gauge(
                "replay_entries_limit",
                "Stamps the replay memory has room for; when full, requests are refused as overloaded.",
            ),
            lines_dropped: make.counter(
                "access_lines_dropped_total",
                "Access lines lost because standard output was read too slowly or not at all.",
            ),
            lines_left_out: make.counter(
                "access_lines_left_out_total",
                "Access lines of successes that log.sample_successes left out.",
            ),
            ready: make.gauge(
                "ready",
                "1 while the process answers requests, 0 while it starts or drains or a worker has stalled.",
            ),
            journal: journal_meters(make),
            cluster: ClusterMeters::new(make),
            loans: LoanMeters::new(make),
            reloads: ReloadMeters::new(make),
            suspensions: SuspensionMeters::new(make),
            signer: SignerMeters::new(make),
            workers: worker_meters(make),
            process: make.register(ProcessUsage::new()),
            registry,
        }
    }

    /// The metrics of access lines.
    pub fn lines(&self) -> LogMeters {
        LogMeters {
            dropped: self.lines_dropped.clone(),
            left_out: self.lines_left_out.clone(),
        }
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        use prometheus::Encoder as _;
        let mut text = Vec::with_capacity(64 * 1024);
        // Writing to memory does not fail, and the families are well formed by construction.
        let _ = prometheus::TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn worker_meters(make: &Registrar<'_>) -> WorkerMeters {
    WorkerMeters {
        stalled: make.gauge(
            "workers_stalled",
            "Worker threads that have run no other task for over a second.",
        ),
        stalls: make.counter(
            "worker_stalls_total",
            "Times a worker thread ran no other task for a second.",
        ),
    }
}

fn register_version(make: &Registrar<'_>) {
    let build = make.gauge_vec(
        "build_info",
        "Always 1; the version is the label.",
        &["version"],
    );
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

impl EndedMeters {
    fn new(make: &Registrar<'_>) -> Self {
        let [full_verified, full_unverified, full_refused, age, client_ca] = make.counter_each(
            "connections_ended_total",
            "Idle connections closed before a timeout, by reason.",
            "reason",
            [
                "full_verified",
                "full_unverified",
                "full_refused",
                "age",
                "client_ca",
            ],
        );
        Self {
            full_verified,
            full_unverified,
            full_refused,
            age,
            client_ca,
        }
    }
}

fn journal_meters(make: &Registrar<'_>) -> journal::meters::JournalMeters {
    journal::meters::JournalMeters {
        records: make.counter(
            "journal_records_total",
            "Records of the audit journal that are on the disk.",
        ),
        syncs: make.register(Histogram::with_opts(HistogramOpts {
            common_opts: opts(
                "journal_sync_seconds",
                "Seconds the disk took for one sync of the audit journal; write and money calls wait for the sync.",
            ),
            buckets: SECONDS.to_vec(),
        })),
        available: make.gauge(
            "journal_available",
            "1 while the audit journal can be written; 0 if it cannot, or if there is none.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prom::outcome::RequestOutcome;
    use crate::prom::registrar::{NAMED_OTHER, tenant_label};
    use gatepay_admission::limit_name::{LimitName, LimitSet};
    use gatepay_core::Kind;

    #[test]
    fn counters_of_events_that_have_not_happened_are_zero() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let _tenant = metrics.tenants.of(Some("acme"));
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            "gatepay_proxy_requests_total{kind=\"money\",outcome=\"unknown\",tenant=\"acme\"} 0",
            "gatepay_proxy_refusals_total{reason=\"replayed\"} 0",
            "gatepay_proxy_request_duration_seconds_count{operation=\"create_order\"} 0",
            "gatepay_proxy_gatepay_answers_total{code=\"400002\"} 0",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn counts_stay_with_a_tenant_until_it_is_forgotten() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let said = || {
            let text = String::from_utf8(metrics.render()).unwrap();
            let of = |line: &&str| {
                line.starts_with("gatepay_proxy_requests_total{kind=\"write\",outcome=\"failure\"")
            };
            text.lines().find(of).map(str::to_owned)
        };
        let line = |count| {
            let labels = "kind=\"write\",outcome=\"failure\",tenant=\"acme\"";
            Some(format!("gatepay_proxy_requests_total{{{labels}}} {count}"))
        };
        assert_eq!(said(), None);
        for number in 1..=3 {
            // Every reload asks for the tenant's metrics anew.
            let tenant = metrics.tenants.of(Some("acme"));
            tenant.ended(Kind::Write, RequestOutcome::Failure);
            assert_eq!(said(), line(number));
        }
        assert_eq!(
            metrics
                .totals()
                .of_kind(Kind::Write, RequestOutcome::Failure),
            3
        );
        metrics.tenants.forget("acme");
        assert_eq!(said(), None);
        let _anew = metrics.tenants.of(Some("acme"));
        assert_eq!(said(), line(0));
    }

    #[test]
    fn a_tenant_called_other_has_series_of_its_own_that_end_with_it() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let [together, own] = [None, Some("other")].map(|id| metrics.tenants.of(id));
        let mut shadow = LimitSet::default();
        shadow.add(LimitName::Money);
        for (tenant, times) in [(&together, 3), (&own, 1)] {
            for _ in 0..times {
                tenant.ended(Kind::Read, RequestOutcome::Success);
                tenant.limits.refused(LimitName::Rate);
                tenant.limits.admitted(true, shadow);
            }
        }
        let series = || {
            let text = String::from_utf8(metrics.render()).unwrap();
            let of = |label: &str| {
                let label = format!("tenant=\"{label}\"");
                let lines = text.lines().filter(|line| line.contains(&label));
                let counted = lines.filter(|line| !line.ends_with(" 0"));
                let values = counted.map(|line| line.rsplit_once(' ').unwrap().1.to_owned());
                values.collect::<Vec<_>>()
            };
            (of("other"), of("_other"))
        };
        let four = |count: &str| vec![count.to_owned(); 4];
        assert_eq!(series(), (four("3"), four("1")));
        assert_eq!(metrics.totals().ended(RequestOutcome::Success), 4);
        metrics.tenants.forget("other");
        assert_eq!(series(), (four("3"), Vec::new()));
    }

    #[test]
    fn no_two_ids_and_no_id_and_the_overflow_have_one_label() {
        let ids = [
            "other", "others", "other_", "0other", "unknown", "none", "a",
        ];
        let ids = ids.map(|id| gatepay_tenancy::PartyId::parse(id).unwrap());
        let labels = ids.iter().map(|id| tenant_label(Some(id.as_str())));
        let labels: Vec<_> = labels.chain([tenant_label(None)]).collect();
        let distinct: std::collections::BTreeSet<_> = labels.iter().collect();
        assert_eq!(distinct.len(), labels.len(), "{labels:?}");
        assert!(gatepay_tenancy::PartyId::parse(NAMED_OTHER).is_err());
    }
}
