//! Metrics of limits that instances share. They stay at zero without PostgreSQL.

use prometheus::{Gauge, IntCounter};

use crate::prom::registrar::Registrar;

/// The metrics of loans.
#[derive(Clone)]
pub struct LoanMeters {
    /// This instance's part of the institution's rate.
    pub(super) lease: Gauge,
    /// Requests that took their party's tokens.
    pub takes: IntCounter,
    /// Requests that waited for the store's answer about a token or a seat.
    pub waits: IntCounter,
}

impl LoanMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            lease: make.gauge_of_parts(
                "lease_requests_per_second",
                "Requests per second of the institution's quota that the store lends to this instance now.",
            ),
            takes: make.counter(
                "stock_takes_total",
                "Requests that took tokens of their tenant's limits from those that the store lends to this instance.",
            ),
            waits: make.counter(
                "stock_waits_total",
                "Requests that waited for the store's answer about a token or a place in flight.",
            ),
        }
    }
}
