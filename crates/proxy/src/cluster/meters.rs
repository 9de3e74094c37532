//! Metrics of the store that instances share. They stay at zero without a store.

use std::collections::HashSet;
use std::time::Duration;

use gatepay_store::instance::{ClusterView, Replication};
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::prom::registrar::{Registrar, SECONDS};

/// The metrics of the store.
#[derive(Clone)]
pub struct ClusterMeters {
    /// 1 if a store is configured.
    configured: IntGauge,
    /// 1 while the store answers.
    pub(super) available: IntGauge,
    /// Seconds of the calls to the store.
    pub(super) seconds: HistogramVec,
    /// Rows of one admission.
    pub(super) batch_rows: Histogram,
    /// The store's clock less this machine's, in seconds.
    pub(super) clock_offset: Gauge,
    /// The step of the store's clock that does not count as time, in seconds.
    clock_step: Gauge,
    /// 1 while nothing is deleted for its age.
    deletion_held: IntGauge,
    /// Guards that this instance saw begin.
    pub(super) lives: IntCounter,
    /// Refusals that the store caused.
    refusals: IntCounterVec,
    view: ClusterViewMeters,
}

/// The metrics of the view that a sign of life shows.
#[derive(Clone)]
struct ClusterViewMeters {
    /// Seconds until the store's guard ends.
    guarded_seconds: Gauge,
    /// 1 while a commit waits for a standby.
    synchronous: IntGauge,
    /// Standbys that no commit waits for.
    asynchronous_standbys: IntGauge,
    /// Instances with a sign of life.
    instances: IntGauge,
    /// Different configurations of these instances.
    configurations: IntGauge,
}

/// The reasons of refusals that the store causes.
const REASONS: [&str; 9] = [
    "away",
    "replayed",
    "guarded",
    "halted",
    "clock",
    "body_less_write",
    "approval",
    "cap",
    "lists",
];
/// The calls to the store.
const CALLS: [&str; 5] = ["admit", "beat", "join", "exchange", "take"];
/// Upper bounds of the rows of one admission.
const ROWS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

impl ClusterMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        let refusals = make.counters(
            "store_refusals_total",
            "Requests that were refused because of the store that instances share, by reason.",
            &["why"],
        );
        for why in REASONS {
            refusals.with_label_values(&[why]);
        }
        let rows = make.histograms(
            "store_batch_rows",
            "Requests that one transaction of the store decided.",
            &ROWS,
            &[],
        );
        let seconds = make.histograms(
            "store_seconds",
            "Seconds of calls to the store that instances share, by call.",
            &SECONDS,
            &["call"],
        );
        for call in CALLS {
            seconds.with_label_values(&[call]);
        }
        Self {
            configured: make.gauge(
                "store_configured",
                "1 if this instance shares a store with others, or has a store of its own.",
            ),
            available: make.gauge(
                "store_available",
                "1 while the store that instances share answers.",
            ),
            seconds,
            batch_rows: rows.with_label_values(&[] as &[&str]),
            clock_offset: make.gauge_of_parts(
                "store_clock_offset_seconds",
                "The store's clock less this machine's, in seconds.",
            ),
            clock_step: make.gauge_of_parts(
                "store_clock_step_seconds",
                "The step of the store's clock that does not count as time, in seconds: negative if it went back.",
            ),
            deletion_held: make.gauge(
                "store_deletion_held",
                "1 while nothing is deleted from the store for its age, because its clock is in doubt.",
            ),
            lives: make.counter(
                "store_lives_total",
                "Guards of the store that this instance saw begin: first use, failover or restore.",
            ),
            refusals,
            view: ClusterViewMeters::new(make),
        }
    }

    /// A store is configured.
    pub fn configured(&self) {
        self.configured.set(1);
    }

    /// Shows the view of a sign of life.
    pub(super) fn show(&self, view: &ClusterView) {
        let time = view.time;
        let step = Duration::from_millis(time.apart_ms.unsigned_abs()).as_secs_f64();
        let signed = if time.apart_ms < 0 { -step } else { step };
        self.clock_step.set(signed);
        self.deletion_held.set(time.keeps.into());
        self.view.show(view);
    }

    /// Counts a refusal.
    pub(super) fn refused(&self, why: &str) {
        self.refusals.with_label_values(&[why]).inc();
    }
}

impl ClusterViewMeters {
    fn new(make: &Registrar<'_>) -> Self {
        Self {
            guarded_seconds: make.gauge_of_parts(
                "store_guarded_seconds",
                "Seconds until the store admits stamps again after its start, a failover or a restore.",
            ),
            synchronous: make.gauge(
                "store_synchronous",
                "1 while the store's commits wait for a standby.",
            ),
            asynchronous_standbys: make.gauge(
                "store_asynchronous_standbys",
                "Standbys of the store that no commit waits for: a failover to one can lose commits.",
            ),
            instances: make.gauge(
                "cluster_instances",
                "Instances that share the store and gave a sign of life lately.",
            ),
            configurations: make.gauge(
                "cluster_configurations",
                "Different configurations of the instances that share the store.",
            ),
        }
    }

    fn show(&self, view: &ClusterView) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.instances.set(count(view.instances.len()));
        self.configurations.set(count(configurations(view)));
        let synchronous = view.replication == Replication::Synchronous;
        self.synchronous.set(synchronous.into());
        let asynchronous = asynchronous(view.replication);
        self.asynchronous_standbys.set(asynchronous.into());
        let left = view.guarded_until.saturating_sub(view.now_ms);
        let left = Duration::from_millis(left);
        self.guarded_seconds.set(left.as_secs_f64());
    }
}

/// The number of different configurations of the instances. An instance that has not told its own does not count.
pub fn configurations(view: &ClusterView) -> usize {
    let instances = view.instances.iter();
    let hashes = instances.map(|instance| instance.config_hash.as_str());
    let hashes: HashSet<_> = hashes.filter(|hash| !hash.is_empty()).collect();
    hashes.len()
}

/// The number of standbys that no commit waits for.
pub fn asynchronous(replication: Replication) -> u32 {
    match replication {
        Replication::Asynchronous { standbys } => standbys,
        Replication::None | Replication::Synchronous => 0,
    }
}
