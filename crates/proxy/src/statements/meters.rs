//! Metrics of statements. They stay at zero without a store.

use std::time::Duration;

use prometheus::{Gauge, IntGauge};

use crate::prom::registrar::Registrar;

/// The metrics of statements.
#[derive(Clone)]
pub struct StatementMeters {
    flush_age: Gauge,
    lost: IntGauge,
}

impl StatementMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            flush_age: make.gauge_of_parts(
                "statement_flush_age_seconds",
                "Seconds for which the store has not taken this process's counts for statements; 0 if it takes them.",
            ),
            lost: make.gauge(
                "statement_counts_lost",
                "Processes that ended in the last 24 hours without their last counts for statements.",
            ),
        }
    }

    /// Shows for how long the store has taken no counts.
    pub(super) fn waiting(&self, age: Duration) {
        self.flush_age.set(age.as_secs_f64());
    }

    /// Shows how many processes ended without their last counts.
    pub(super) fn lost(&self, processes: u64) {
        self.lost.set(i64::try_from(processes).unwrap_or(i64::MAX));
    }
}
