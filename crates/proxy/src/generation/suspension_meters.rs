//! The metrics of suspensions by hand.

use prometheus::IntGauge;

use crate::prom::registrar::Registrar;

/// Gauges of suspensions by hand.
pub struct SuspensionMeters {
    /// The number of suspensions.
    pub count: IntGauge,
    /// 1 while some suspensions are missing in the state folder.
    pub unkept: IntGauge,
}

impl SuspensionMeters {
    /// Gauges at zero.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            count: make.gauge(
                "suspensions",
                "Tenants and operators that are suspended by POST /-/suspend.",
            ),
            unkept: make.gauge(
                "suspensions_unkept",
                "1 while state_dir lacks a suspension by POST /-/suspend: a restart would lose it.",
            ),
        }
    }
}
