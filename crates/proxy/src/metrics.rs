//! Metrics for Prometheus: few, in base units, starting at zero, with labels from the registry and the catalogue only.

mod durations;
mod limits;
mod requests;
mod size;
mod totals;
mod uses;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gatepay_core::envelope::{Code, Verdict};
use gatepay_core::look_up::Observed;
use gatepay_core::{Catalogue, Kind};
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use self::durations::Durations;
pub use self::limits::{LimitMetrics, QuotaMeters, TenantLimits};
use self::requests::{Ends, Requests};
pub use self::size::Size;
pub use self::totals::{Spread, Totals};
use crate::breaker::BreakerMeters;
use crate::guardian::Fault;
use crate::heartbeat::WorkerMeters;
use crate::journal;
use crate::line::{Spent, Turn};
use crate::log::LogMeters;
use crate::process::Process;
use crate::refusal::Refusal;
use crate::repeat::Reason;

/// Upper bounds in seconds: a proxy's own tenths of a millisecond up to GatePay's slowest.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
];

/// The same for the proxy's own part, which is a thousandth of that.
const OWN_SECONDS: [f64; 12] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1,
];

/// The label of what has no series of its own: tenants that are counted together, codes that GatePay does not publish.
const OTHER: &str = "other";

/// The label `tenant` of the tenant or operator whose id is [`OTHER`]: no id begins with an underscore.
const NAMED_OTHER: &str = "_other";

/// The label `tenant` of a party by its id, or of all parties that are counted together.
fn tenant_label(id: Option<&str>) -> &str {
    match id {
        None => OTHER,
        Some(OTHER) => NAMED_OTHER,
        Some(id) => id,
    }
}

/// Every metric, and the children that are kept instead of looked up.
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    /// Limits, and how the institution's quota is shared.
    pub limits: LimitMetrics,
    refusals: HashMap<&'static str, IntCounter>,
    took: Took,
    answers: [IntCounter; CODES.len()],
    other_answers: IntCounter,
    /// Connections from tenants that are open.
    pub connections: IntGauge,
    /// Heads that hyper could not read and answered itself, or closed.
    pub unreadable_heads: IntCounter,
    /// Times a new connection found no slot free and none that could be given up.
    pub connections_full: IntCounter,
    /// When the listener's certificate expires.
    pub certificate_expiry: IntGauge,
    /// Connections the system did not hand over, mostly for want of a file descriptor.
    pub accept_errors: IntCounter,
    /// Connections refused because their address has as many as it may.
    pub connections_refused: IntCounter,
    /// Connections of trusted proxies that did not begin with a PROXY header.
    pub proxy_headers_refused: IntCounter,
    /// Connections that were asked to end although nothing on them was late.
    pub connections_ended: EndedMeters,
    /// Connections closed because answers were not being taken.
    pub readers_stalled: IntCounter,
    /// Connections of HTTP/2 closed because of what they were flooded with.
    pub http2_floods: IntCounter,
    /// Requests refused because as many as may be were being answered.
    pub requests_crowded: IntCounter,
    /// Requests between their head and the end of their answer.
    pub in_flight: IntGauge,
    /// GatePay's side.
    pub upstream: UpstreamMeters,
    /// This machine's clock.
    pub clock: ClockMeters,
    /// Stamps remembered.
    pub replay_entries: IntGauge,
    /// How many may be.
    pub replay_entries_limit: IntGauge,
    /// Access lines that were dropped because the writer could not keep up.
    pub lines_dropped: IntCounter,
    /// Access lines that `log.sample_successes` left out.
    pub lines_left_out: IntCounter,
    /// 1 while `/ready` says so.
    pub ready: IntGauge,
    /// What the kernel says.
    pub process: Process,
    /// The audit journal's, if there is one.
    pub journal: journal::Meters,
    /// What becomes of changed files.
    pub reloads: ReloadMeters,
    /// How the institution's credentials take turns.
    pub signer: SignerMeters,
    /// Whether workers turn.
    pub workers: WorkerMeters,
}

/// Counts of connections that were asked to end although nothing on them was late.
pub struct EndedMeters {
    /// For a new connection, when all slots were taken: of a party.
    pub full_verified: IntCounter,
    /// The same, where no request was ever verified.
    pub full_unverified: IntCounter,
    /// A new one, of an address that had more requests under way than any holder of an idle connection had connections.
    pub full_refused: IntCounter,
    /// It was open for `listen.connection_age_ms`.
    pub age: IntCounter,
    /// `listen.tls.client_ca` changed.
    pub client_ca: IntCounter,
}

/// Counts of the institution's credentials taking over.
#[derive(Clone)]
pub struct SignerMeters {
    /// One took over.
    pub switched: IntCounter,
    /// One should have, and GatePay did not accept it.
    pub failed: IntCounter,
    /// 1 while one should have.
    pub failing: IntGauge,
}

/// Counts of reloads.
pub struct ReloadMeters {
    /// Changes that are at work.
    pub applied: IntCounter,
    /// Changes that were not, because something is wrong with them.
    pub failed: IntCounter,
    /// Changes that were not yet, because somebody has to confirm them.
    pub guarded: IntCounter,
    /// 1 while what the files say is at work, 0 while something is wrong with them or waits.
    pub in_step: IntGauge,
    /// 1 while a change waits to be confirmed.
    pub waiting: IntGauge,
    /// Parties that were suspended ahead of the rest, which is wrong or waits.
    pub suspended_ahead: IntGauge,
    /// 1 while a change of the process's own settings waits for its next start.
    pub restart_needed: IntGauge,
    /// When files were applied last, in seconds since 1970.
    pub applied_at: IntGauge,
    /// How long it is from one look at the files to the next.
    pub poll_seconds: Gauge,
    at_work: IntGaugeVec,
}

/// How long requests take.
struct Took {
    whole: Durations,
    /// Of that GatePay.
    upstream: Durations,
    /// And the proxy itself.
    own: Durations,
}

/// What the way to GatePay is like.
pub struct UpstreamMeters {
    /// Connections that were opened.
    pub connects: IntCounter,
    /// Connections that are open.
    pub connections: IntGauge,
    /// Times a request waited for a connection to be free.
    pub waits: IntCounter,
    /// TLS handshakes: full, resumed.
    pub handshakes: [IntCounter; 2],
    /// Attempts that were repeated, by [`Reason`].
    pub repeats: [IntCounter; Reason::ALL.len()],
    /// Attempts that were not repeated because the budget was spent.
    pub repeats_denied: IntCounter,
    /// What look-ups of lost calls saw, by [`Observed`].
    pub resolutions: [IntCounter; Observed::ALL.len()],
    /// The breaker's.
    pub breaker: BreakerMeters,
    /// Parties whose own breaker is open.
    pub breaker_open_tenants: IntGauge,
}

/// How the machine's clock is, beside GatePay's.
#[derive(Clone)]
pub struct ClockMeters {
    /// How far GatePay's is ahead, in seconds.
    pub offset: Gauge,
    /// How many answers agree on that.
    pub agreeing: IntGauge,
    /// What was wrong with how the machine's moves, by [`Fault::WORDS`].
    pub faults: [IntCounter; Fault::WORDS.len()],
}

/// What is counted of one tenant.
pub struct TenantMeters {
    ends: Ends<AtomicU64>,
    /// Of its limits.
    pub limits: TenantLimits,
}

/// How a request ended, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// GatePay said yes.
    Success,
    /// GatePay said no.
    Failure,
    /// GatePay's answer, or its absence, leaves it open.
    Unknown,
    /// The proxy said no.
    Refused,
    /// The caller left before it was forwarded, or during a read.
    CallerLeft,
}

const ENDS: [&str; 5] = ["success", "failure", "unknown", "refused", "caller_left"];

impl End {
    /// Every end.
    pub const ALL: [Self; ENDS.len()] = [
        Self::Success,
        Self::Failure,
        Self::Unknown,
        Self::Refused,
        Self::CallerLeft,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        ENDS[self as usize]
    }
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Success => Self::Success,
            Verdict::Failure => Self::Failure,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// GatePay's codes that have a series of their own (protocol.md 4.2), sorted; every other is counted as `other`.
const CODES: [&str; 42] = [
    "0", "000000", "300000", "300001", "400000", "400001", "400002", "400003", "400004", "400007",
    "400020", "400201", "400202", "400203", "400204", "400205", "400304", "400603", "400604",
    "400605", "400607", "400608", "400620", "400621", "400622", "400623", "400624", "500008",
    "500100", "500101", "500103", "500203", "500204", "500205", "500206", "500207", "500208",
    "550233", "550238", "550245", "550249", "SUCCESS",
];

/// The same as [`Code::padded`] has them, as numbers: these are in the same order, and compared at once.
static PADDED: [u128; CODES.len()] = {
    let mut all = [0; CODES.len()];
    let mut at = 0;
    while at < all.len() {
        let code = CODES[at].as_bytes();
        let mut place = 0;
        while place < 16 {
            let byte = if place < code.len() { code[place] } else { 0 };
            all[at] = (all[at] << 8) | byte as u128;
            place += 1;
        }
        at += 1;
    }
    all
};

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// Never: the names are distinct and well formed, as a test shows.
    pub fn new(catalogue: &Catalogue) -> Self {
        let registry = Registry::new();
        let make = Make(&registry);
        let refusals = make.counters(
            "refusals_total",
            "Requests the proxy refused, by reason.",
            &["reason"],
        );
        let answers = make.counters(
            "gatepay_answers_total",
            "Answers of GatePay's by envelope code.",
            &["code"],
        );
        tell_version(&make);
        Self {
            refusals: Refusal::SLUGS
                .map(|slug| (slug, refusals.with_label_values(&[slug])))
                .into(),
            took: Took::new(catalogue, &make),
            answers: CODES.map(|code| answers.with_label_values(&[code])),
            other_answers: answers.with_label_values(&[OTHER]),
            connections: make.gauge("connections", "Open connections from tenants."),
            unreadable_heads: make.counter(
                "unreadable_heads_total",
                "Heads refused for having no reading or more than one.",
            ),
            connections_full: make.counter(
                "connections_full_total",
                "Times a connection had to wait because listen.max_connections were open and none of them was idle.",
            ),
            certificate_expiry: make
                .gauge_vec(
                    "certificate_expiry_timestamp_seconds",
                    "When a certificate that is shown expires, in seconds since 1970; 0 if none is.",
                    &["certificate"],
                )
                .with_label_values(&["listener"]),
            accept_errors: make.counter(
                "accept_errors_total",
                "Times the system handed over no connection, mostly for want of a file descriptor.",
            ),
            connections_refused: make.counter(
                "connections_refused_total",
                "Connections closed at once because listen.max_connections_per_address of their address were open.",
            ),
            proxy_headers_refused: make.counter(
                "proxy_headers_refused_total",
                "Connections of trusted proxies closed because their PROXY header was malformed, late or missing.",
            ),
            connections_ended: EndedMeters::new(&make),
            readers_stalled: make.counter(
                "readers_stalled_total",
                "Connections closed because nothing of an answer was taken for listen.answer_timeout_ms.",
            ),
            http2_floods: make.counter(
                "http2_floods_total",
                "Connections of HTTP/2 closed because of more frames that carry nothing than any client needs.",
            ),
            requests_crowded: make.counter(
                "requests_crowded_total",
                "Requests refused unread because listen.max_requests, or an address's part of them, were being answered.",
            ),
            in_flight: make.gauge(
                "in_flight",
                "Requests between their head and the end of their answer.",
            ),
            upstream: UpstreamMeters::new(&make),
            clock: ClockMeters::new(&make),
            replay_entries: make.gauge("replay_entries", "Stamps the replay memory holds."),
            replay_entries_limit: make.gauge(
                "replay_entries_limit",
                "How many stamps it has room for; then requests are refused as overloaded.",
            ),
            limits: LimitMetrics::new(&make),
            lines_dropped: make.counter(
                "access_lines_dropped_total",
                "Access lines lost because they came too fast or nobody took them.",
            ),
            lines_left_out: make.counter(
                "access_lines_left_out_total",
                "Access lines of successes that log.sample_successes left out.",
            ),
            ready: make.gauge(
                "ready",
                "1 while the process answers requests, 0 while it starts or drains or a worker has stalled.",
            ),
            journal: journal_meters(&make),
            reloads: ReloadMeters::new(&make),
            signer: SignerMeters::new(&make),
            workers: worker_meters(&make),
            process: make.register(Process::new()),
            requests: make.register(Requests::new()),
            registry,
        }
    }

    /// What is counted of one tenant, or of all that have no series of their own.
    pub fn tenant(&self, id: Option<&str>) -> Arc<TenantMeters> {
        self.requests.of(id, || TenantMeters {
            ends: Ends::zero(),
            limits: self.limits.tenant(id),
        })
    }

    /// Ends the series of a tenant that has none of its own any more.
    pub fn forget_tenant(&self, id: &str) {
        self.requests.forget(id);
        self.limits.forget(id);
    }

    /// Counts a refusal.
    pub fn refused(&self, slug: &'static str) {
        if let Some(counter) = self.refusals.get(slug) {
            counter.inc();
        }
    }

    /// Counts an answer of GatePay's by its code.
    pub fn answered(&self, code: &Code) {
        PADDED
            .binary_search(&u128::from_be_bytes(code.padded()))
            .map_or(&self.other_answers, |at| &self.answers[at])
            .inc();
    }

    /// Records how long a request took, of that how long the proxy did, and GatePay if it was `sent` there.
    pub fn took(&self, operation: usize, spent: &Spent, sent: bool) {
        let took = &self.took;
        took.whole.observe(operation, spent.whole().as_secs_f64());
        took.own
            .observe(operation, spent.of(Turn::Own).as_secs_f64());
        if sent {
            let upstream = spent.of(Turn::Upstream);
            took.upstream.observe(operation, upstream.as_secs_f64());
        }
    }

    /// What is counted of access lines.
    pub fn lines(&self) -> LogMeters {
        LogMeters {
            dropped: self.lines_dropped.clone(),
            left_out: self.lines_left_out.clone(),
        }
    }

    /// The text Prometheus scrapes.
    pub fn render(&self) -> Vec<u8> {
        use prometheus::Encoder as _;
        let mut text = Vec::with_capacity(64 * 1024);
        // Writing to memory does not fail, and the families are well formed by construction.
        let _ = prometheus::TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

impl Took {
    fn new(catalogue: &Catalogue, make: &Make<'_>) -> Self {
        Self {
            whole: make.register(Durations::new(
                "request_duration_seconds",
                "From the head of a request to the end of its answer, by operation.",
                &SECONDS,
                catalogue,
            )),
            upstream: make.register(Durations::new(
                "upstream_duration_seconds",
                "From sending a request to GatePay to having its answer, by operation.",
                &SECONDS,
                catalogue,
            )),
            own: make.register(Durations::new(
                "own_duration_seconds",
                "Of the time a request takes the proxy's own part, without waiting for the caller or GatePay, by operation.",
                &OWN_SECONDS,
                catalogue,
            )),
        }
    }
}

impl UpstreamMeters {
    fn new(make: &Make<'_>) -> Self {
        Self {
            connects: make.counter("upstream_connects_total", "Connections opened to GatePay."),
            connections: make.gauge("upstream_connections", "Open connections to GatePay."),
            waits: make.counter(
                "upstream_waits_total",
                "Times a request waited because upstream.max_connections were in use.",
            ),
            handshakes: make.counter_each(
                "upstream_tls_handshakes_total",
                "TLS handshakes with GatePay, by whether an earlier session was resumed.",
                "kind",
                ["full", "resumed"],
            ),
            repeats: make.counter_each(
                "upstream_repeats_total",
                "Attempts that were repeated, by reason.",
                "reason",
                Reason::ALL.map(Reason::as_str),
            ),
            repeats_denied: make.counter(
                "upstream_repeats_denied_total",
                "Attempts that might have been repeated, had upstream.repeat_budget not been spent.",
            ),
            resolutions: make.counter_each(
                "resolutions_total",
                "Write and money calls whose answer was lost, by what GatePay was then seen to have.",
                "observed",
                [Observed::Found, Observed::NotFound, Observed::Unknown].map(Observed::as_str),
            ),
            breaker: BreakerMeters {
                is_open: make.gauge(
                    "upstream_breaker_open",
                    "1 while nothing but reads of the proxy's own is sent, for GatePay keeps failing.",
                ),
                opened: make.counter(
                    "upstream_breaker_opened_total",
                    "Times GatePay was found to keep failing.",
                ),
                party_opened: make.counter(
                    "upstream_breaker_tenant_opened_total",
                    "Times GatePay was found to keep failing the calls of one tenant or operator alone.",
                ),
            },
            breaker_open_tenants: make.gauge(
                "upstream_breaker_open_tenants",
                "Tenants and operators whose calls are refused, for GatePay keeps failing theirs alone.",
            ),
        }
    }
}

impl ClockMeters {
    fn new(make: &Make<'_>) -> Self {
        Self {
            offset: make.register(Gauge::with_opts(opts(
                "clock_offset_seconds",
                "How far GatePay's clock is ahead of this machine's, by the dates of its answers.",
            ))),
            agreeing: make.gauge(
                "clock_offset_answers",
                "How many of the last answers agree on clock_offset_seconds; 0 while nothing is known.",
            ),
            faults: make.counter_each(
                "clock_faults_total",
                "Seconds in which this machine's clock did not move as time did, by what it did.",
                "fault",
                Fault::WORDS,
            ),
        }
    }
}

fn worker_meters(make: &Make<'_>) -> WorkerMeters {
    WorkerMeters {
        stalled: make.gauge(
            "workers_stalled",
            "Worker threads that have not turned for over a second.",
        ),
        stalls: make.counter(
            "worker_stalls_total",
            "Times a worker thread had not turned for a second.",
        ),
    }
}

fn tell_version(make: &Make<'_>) {
    let build = make.gauge_vec(
        "build_info",
        "Always 1; the version is the label.",
        &["version"],
    );
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

impl EndedMeters {
    fn new(make: &Make<'_>) -> Self {
        let [
            full_verified,
            full_unverified,
            full_refused,
            age,
            client_ca,
        ] = make.counter_each(
            "connections_ended_total",
            "Connections without a request under way that were closed although nothing on them was late, by reason.",
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

impl SignerMeters {
    fn new(make: &Make<'_>) -> Self {
        let [switched, failed] = make.counter_each(
            "institution_switches_total",
            "Times another credential of the institution's should sign, by whether GatePay accepted it.",
            "result",
            ["switched", "failed"],
        );
        Self {
            switched,
            failed,
            failing: make.gauge(
                "institution_switch_failing",
                "1 while a credential should sign that GatePay does not accept.",
            ),
        }
    }
}

impl ReloadMeters {
    /// A configuration of this hash is at work, and the one before it is not any more.
    pub fn at_work(&self, hash: &str) {
        self.at_work.reset();
        self.at_work.with_label_values(&[hash]).set(1);
    }

    /// What the files say is at work since now.
    pub fn applied_now(&self, now_ms: u64) {
        let seconds = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        self.applied_at.set(seconds);
    }

    fn new(make: &Make<'_>) -> Self {
        let [applied, failed, guarded] = make.counter_each(
            "reloads_total",
            "Changes of files, by what became of them.",
            "result",
            ["applied", "failed", "guarded"],
        );
        let in_step = make.gauge(
            "reload_in_step",
            "1 while what the files say is at work, 0 while it is wrong or waits.",
        );
        in_step.set(1);
        Self {
            applied,
            failed,
            guarded,
            in_step,
            waiting: make.gauge("reload_waiting", "1 while a change waits to be confirmed."),
            suspended_ahead: make.gauge(
                "reload_suspended_ahead",
                "Tenants and operators suspended ahead of the rest of what the files say, which is wrong or waits.",
            ),
            restart_needed: make.gauge(
                "reload_restart_needed",
                "1 while a change of the process's own settings waits for its next start.",
            ),
            applied_at: make.gauge(
                "reload_last_applied_timestamp_seconds",
                "When the files were applied last, the start included.",
            ),
            poll_seconds: make.gauge_of_parts(
                "reload_poll_seconds",
                "From one look at the files to the next; 0 if nobody looks.",
            ),
            at_work: make.gauge_vec(
                "configuration_info",
                "Always 1; the label is a hash of the configuration that is at work.",
                &["hash"],
            ),
        }
    }
}

impl TenantMeters {
    /// Counts a request of this tenant.
    pub fn ended(&self, kind: Kind, end: End) {
        self.ends.count(kind, end);
    }
}

fn journal_meters(make: &Make<'_>) -> journal::Meters {
    journal::Meters {
        records: make.counter(
            "journal_records_total",
            "Records of the audit journal that are on the disk.",
        ),
        syncs: make.register(Histogram::with_opts(HistogramOpts {
            common_opts: opts(
                "journal_sync_seconds",
                "How long the disk took for one sync of the audit journal; write and money calls wait for it.",
            ),
            buckets: SECONDS.to_vec(),
        })),
        available: make.gauge(
            "journal_available",
            "1 while the audit journal can be written; 0 if it cannot, or if there is none.",
        ),
    }
}

/// Makes and registers metrics under the program's prefix.
struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("names and labels are well formed");
        self.0
            .register(Box::new(metric.clone()))
            .expect("names are distinct");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(opts(name, help), labels))
    }

    /// One counter for each value of a label that has no others.
    fn counter_each<const N: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> [IntCounter; N] {
        let counters = self.counters(name, help, &[label]);
        values.map(|value| counters.with_label_values(&[value]))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)))
    }

    fn gauge_of_parts(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(opts(name, help)))
    }

    fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(opts(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(opts(name, help), labels))
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("gatepay_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Limit, Limits};

    #[test]
    fn what_has_not_happened_yet_is_there_as_zero() {
        let metrics = Metrics::new(&Catalogue::standard());
        let _tenant = metrics.tenant(Some("acme"));
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
        let metrics = Metrics::new(&Catalogue::standard());
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
            // As every reload asks.
            let tenant = metrics.tenant(Some("acme"));
            tenant.ended(Kind::Write, End::Failure);
            assert_eq!(said(), line(number));
        }
        assert_eq!(metrics.totals().of_kind(Kind::Write, End::Failure), 3);
        metrics.forget_tenant("acme");
        assert_eq!(said(), None);
        let _anew = metrics.tenant(Some("acme"));
        assert_eq!(said(), line(0));
    }

    #[test]
    fn a_tenant_called_other_has_series_of_its_own_that_end_with_it() {
        let metrics = Metrics::new(&Catalogue::standard());
        let [together, own] = [None, Some("other")].map(|id| metrics.tenant(id));
        let mut shadow = Limits::default();
        shadow.add(Limit::Money);
        for (tenant, times) in [(&together, 3), (&own, 1)] {
            for _ in 0..times {
                tenant.ended(Kind::Read, End::Success);
                tenant.limits.refused(Limit::Rate);
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
        assert_eq!(metrics.totals().ended(End::Success), 4);
        metrics.forget_tenant("other");
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

    #[test]
    fn codes_are_found_by_halves() {
        assert!(CODES.is_sorted() && PADDED.is_sorted());
        let metrics = Metrics::new(&Catalogue::standard());
        for (at, code) in CODES.iter().enumerate() {
            metrics.answered(&Code::new(code).unwrap());
            assert_eq!(metrics.answers[at].get(), 1, "{code}");
        }
    }

    #[test]
    fn a_code_nobody_published_makes_no_series() {
        let metrics = Metrics::new(&Catalogue::standard());
        metrics.answered(&Code::new("31337").unwrap());
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(
            text.contains("gatepay_proxy_gatepay_answers_total{code=\"other\"} 1")
                && !text.contains("31337")
        );
    }
}
