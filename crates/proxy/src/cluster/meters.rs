//! Metrics of the store that instances share. They stay at zero without a store.

use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::prom::registrar::{Registrar, SECONDS};

/// The metrics of the store.
#[derive(Clone)]
pub struct ClusterMeters {
    /// 1 while the store answers.
    pub(super) available: IntGauge,
    /// Seconds of the calls to the store.
    pub(super) seconds: HistogramVec,
    /// Rows of one admission.
    pub(super) batch_rows: Histogram,
    /// Seconds until the store's guard ends.
    pub(super) guarded_seconds: Gauge,
    /// 1 while a commit waits for a standby.
    pub(super) synchronous: IntGauge,
    /// The store's clock less this machine's, in seconds.
    pub(super) clock_offset: Gauge,
    /// Guards that this instance saw begin.
    pub(super) lives: IntCounter,
    /// Refusals that the store caused.
    refusals: IntCounterVec,
    /// Instances with a sign of life.
    pub(super) instances: IntGauge,
    /// Different configurations of these instances.
    pub(super) configurations: IntGauge,
}

/// The reasons of refusals that the store causes.
const REASONS: [&str; 6] = [
    "away",
    "replayed",
    "guarded",
    "halted",
    "clock",
    "body_less_write",
];
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
        Self {
            available: make.gauge(
                "store_available",
                "1 while the store that instances share answers.",
            ),
            seconds: make.histograms(
                "store_seconds",
                "Seconds of calls to the store that instances share, by call.",
                &SECONDS,
                &["call"],
            ),
            batch_rows: rows.with_label_values(&[] as &[&str]),
            guarded_seconds: make.gauge_of_parts(
                "store_guarded_seconds",
                "Seconds until the store admits stamps again after its start, a failover or a restore.",
            ),
            synchronous: make.gauge(
                "store_synchronous",
                "1 while the store's commits wait for a standby.",
            ),
            clock_offset: make.gauge_of_parts(
                "store_clock_offset_seconds",
                "The store's clock less this machine's, in seconds.",
            ),
            lives: make.counter(
                "store_lives_total",
                "Guards of the store that this instance saw begin: first use, failover or restore.",
            ),
            refusals,
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

    /// Counts a refusal.
    pub(super) fn refused(&self, why: &str) {
        self.refusals.with_label_values(&[why]).inc();
    }
}
