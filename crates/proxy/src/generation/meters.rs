//! The metrics of reloads.

use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec};

use crate::prom::registrar::Registrar;

/// Counters and gauges of reloads.
pub struct ReloadMeters {
    /// Changes that were put in force.
    pub applied: IntCounter,
    /// Changes that were rejected, because something is wrong with them.
    pub failed: IntCounter,
    /// Changes that are held back, because an operator has to confirm them.
    pub guarded: IntCounter,
    /// 1 while the configuration in the files is in force, 0 while it is wrong or waits.
    pub in_step: IntGauge,
    /// 1 while a change waits to be confirmed.
    pub waiting: IntGauge,
    /// Parties that were suspended ahead of the rest of a change, which is wrong or waits.
    pub suspended_ahead: IntGauge,
    /// Parties of which credentials ended ahead of the rest of a change, which is wrong or waits.
    pub credentials_ended_ahead: IntGauge,
    /// 1 while a changed setting takes effect only after a restart.
    pub restart_needed: IntGauge,
    /// When files were applied last, in seconds since 1970.
    pub applied_at: IntGauge,
    /// The time from one check of the files to the next, in seconds.
    pub poll_seconds: Gauge,
    at_work: IntGaugeVec,
}

impl ReloadMeters {
    /// Shows that a configuration of this hash is in force, and the one before it is not any more.
    pub fn at_work(&self, hash: &str) {
        self.at_work.reset();
        self.at_work.with_label_values(&[hash]).set(1);
    }

    /// Shows that the configuration in the files is in force since now.
    pub fn applied_now(&self, now_ms: u64) {
        let seconds = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
        self.applied_at.set(seconds);
    }

    /// Metrics at zero, and in step.
    pub fn new(make: &Registrar<'_>) -> Self {
        let [applied, failed, guarded] = make.counter_each(
            "reloads_total",
            "Changes of the configuration on disk, by result.",
            "result",
            ["applied", "failed", "guarded"],
        );
        let in_step = make.gauge(
            "reload_in_step",
            "1 while the configuration on disk is applied, 0 while it has errors, waits to be confirmed or keeps changing.",
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
                "Tenants and operators suspended ahead of the other changes on disk, which have errors or wait to be confirmed.",
            ),
            credentials_ended_ahead: make.gauge(
                "reload_credentials_ended_ahead",
                "Tenants and operators with credentials that ended ahead of the other changes on disk, which have errors or wait to be confirmed.",
            ),
            restart_needed: make.gauge(
                "reload_restart_needed",
                "1 while a changed setting takes effect only after a restart.",
            ),
            applied_at: make.gauge(
                "reload_last_applied_timestamp_seconds",
                "Unix time at which the configuration on disk was last applied, the start included.",
            ),
            poll_seconds: make.gauge_of_parts(
                "reload_poll_seconds",
                "Seconds between two checks of the files for changes; 0 if they are not watched.",
            ),
            at_work: make.gauge_vec(
                "configuration_info",
                "Always 1; the label is a hash of the configuration in force.",
                &["hash"],
            ),
        }
    }
}
