//! Metrics of halts.

use gatepay_store::admission::HaltScope;
use gatepay_store::instance::HaltInForce;
use prometheus::IntGauge;

use crate::prom::registrar::Registrar;

/// The halts in force, by scope.
pub struct HaltMeters([(&'static str, IntGauge); 4]);

/// The values of the label `scope`.
const SCOPES: [&str; 4] = ["all", "money", "payouts", "tenant"];

impl HaltMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        let gauges = make.gauge_vec(
            "halted",
            "Halts in force, by scope: all, money, payouts (or another module), or one tenant each.",
            &["scope"],
        );
        Self(SCOPES.map(|scope| (scope, gauges.with_label_values(&[scope]))))
    }

    /// Shows the halts in force.
    pub fn show(&self, halts: &[HaltInForce]) {
        for (scope, gauge) in &self.0 {
            let of_scope = halts
                .iter()
                .filter(|halt| label(&halt.scope) == Some(scope));
            gauge.set(i64::try_from(of_scope.count()).unwrap_or(i64::MAX));
        }
    }
}

fn label(scope: &HaltScope) -> Option<&'static str> {
    match scope {
        HaltScope::All | HaltScope::Unknown(_) => Some(SCOPES[0]),
        HaltScope::Money => Some(SCOPES[1]),
        HaltScope::Module(_) => Some(SCOPES[2]),
        HaltScope::Party(_) => Some(SCOPES[3]),
        HaltScope::Suspended(_) => None,
    }
}
