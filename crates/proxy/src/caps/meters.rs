//! Metrics of money caps. They stay at zero without caps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gatepay_store::caps::report::CapReport;
use gatepay_store::caps::rule::{CapBreach, CapMeasure, CapScope};
use gatepay_store::caps::spend::UnknownSpend;
use gatepay_store::destinations::DestinationFault;
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use serde::Serialize;

use crate::prom::registrar::{Registrar, tenant_label};

/// The metrics of money caps.
#[derive(Clone)]
pub struct CapMeters {
    /// Reports about the ends of calls that were lost.
    pub lost_reports: IntCounter,
    refusals: IntCounterVec,
    shadows: IntCounterVec,
    destinations: IntCounterVec,
    used: GaugeVec,
    unknown: IntGaugeVec,
    unknown_oldest: Gauge,
    /// Calls that operators have yet to decide about.
    pub approvals_waiting: IntGauge,
    /// The tenants that have series of their own. All others are counted together.
    own: Arc<Mutex<BTreeSet<String>>>,
    /// The caps that are used most, as shown last.
    fullest: Arc<Mutex<Vec<UsedCap>>>,
}

/// How much of a cap is used.
#[derive(Debug, Clone, Serialize)]
pub struct UsedCap {
    /// The label of the tenant: `other` for caps over all tenants, too.
    pub tenant: String,
    /// The label of the cap.
    pub cap: &'static str,
    /// The largest part that is used in any currency, from 0 to 1.
    pub used_ratio: f64,
}

impl CapMeters {
    /// Makes and registers the metrics.
    pub fn new(make: &Registrar<'_>) -> Self {
        let labels = &["tenant", "cap"];
        let made = Self {
            lost_reports: make.counter(
                "spend_reports_lost_total",
                "Ends of money calls that found no room on the way to the store: they count as unknown.",
            ),
            refusals: make.counters(
                "cap_refusals_total",
                "Money calls refused because a cap had no room, by tenant and cap.",
                labels,
            ),
            shadows: make.counters(
                "cap_shadow_breaches_total",
                "Admitted money calls that a cap in shadow mode would have refused, by tenant and cap.",
                labels,
            ),
            destinations: make.counters(
                "destination_refusals_total",
                "Money calls refused because of where they send money, by tenant and reason: unlisted, held or unreadable.",
                &["tenant", "reason"],
            ),
            used: make.gauges(
                "cap_used_ratio",
                "The largest part of a cap that is used in any currency, from 0 to 1, by tenant and cap.",
                labels,
            ),
            unknown: make.gauge_vec(
                "spends_unknown",
                "Spends that count although it is not known whether GatePay executed them.",
                &["tenant"],
            ),
            unknown_oldest: make.gauge_of_parts(
                "spend_unknown_oldest_seconds",
                "Age of the oldest spend of unknown outcome among those of the last 25 hours, which caps may count; 0 if there is none.",
            ),
            approvals_waiting: make.gauge(
                "approvals_waiting",
                "Money calls that were refused until operators approve them, and have not been decided about.",
            ),
            own: Arc::default(),
            fullest: Arc::default(),
        };
        made.arrange(&BTreeSet::new());
        made
    }

    /// Counts a refusal.
    pub fn refused(&self, tenant: &str, breach: &CapBreach) {
        let labels = [&*self.label(tenant), cap(breach)];
        self.refusals.with_label_values(&labels).inc();
    }

    /// Counts a refusal because of where the money goes.
    pub fn misdirected(&self, tenant: &str, fault: &DestinationFault) {
        let labels = [&*self.label(tenant), reason(fault)];
        self.destinations.with_label_values(&labels).inc();
    }

    /// Counts an admitted call that a shadow cap would have refused.
    pub fn shadowed(&self, tenant: &str, breach: &CapBreach) {
        let labels = [&*self.label(tenant), cap(breach)];
        self.shadows.with_label_values(&labels).inc();
    }

    /// Shows the spends of unknown outcome.
    pub(super) fn show(&self, unknown: &[UnknownSpend], now_ms: u64) {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for spend in unknown {
            *counts.entry(self.label(spend.party.as_str())).or_default() += 1;
        }
        for label in self.labels() {
            let count = counts.get(&label).copied().unwrap_or(0);
            self.unknown.with_label_values(&[&label]).set(count);
        }
        self.unknown_oldest
            .set(oldest_counted(unknown, now_ms).as_secs_f64());
    }

    /// Shows the used part of each enforced cap, for each tenant of its sub-account. Caps over all have the label of tenants that
    /// are counted together.
    pub(super) fn show_used(&self, report: &CapReport, tenants_of: impl Fn(&str) -> Vec<String>) {
        let mut largest: BTreeMap<(String, &'static str), f64> = BTreeMap::new();
        for state in report.caps.iter().filter(|state| !state.name.shadow) {
            let (over_all, labels) = match &state.name.scope {
                CapScope::All => (true, vec![tenant_label(None).to_owned()]),
                CapScope::Account(account) => {
                    let tenants = tenants_of(account.as_str());
                    let labels = tenants.iter().map(|id| self.label(id)).collect();
                    (false, labels)
                }
            };
            for label in labels {
                let place = (label, of_measure(state.name.measure, over_all));
                let used = largest.entry(place).or_default();
                *used = used.max(state.used_ratio());
            }
        }
        for label in self.labels() {
            for cap in CAPS {
                let used = largest.get(&(label.clone(), cap));
                let used = used.copied().unwrap_or(0.0);
                self.used.with_label_values(&[&*label, cap]).set(used);
            }
        }
        let used = largest.into_iter().filter(|(_, used)| *used > 0.0);
        let mut used: Vec<_> = used
            .map(|((tenant, cap), used_ratio)| UsedCap {
                tenant,
                cap,
                used_ratio,
            })
            .collect();
        used.sort_by(|one, other| other.used_ratio.total_cmp(&one.used_ratio));
        used.truncate(FULLEST);
        *self.fullest.lock() = used;
    }

    /// The caps that are used most, the fullest first; a limited number.
    pub fn fullest(&self) -> Vec<UsedCap> {
        self.fullest.lock().clone()
    }

    /// Shows the number of calls that wait for operators.
    pub(super) fn show_approvals(&self, waiting: u64) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.approvals_waiting.set(waiting);
    }

    /// Makes the series of these tenants at zero, and ends those of all others.
    pub(super) fn arrange(&self, own: &BTreeSet<String>) {
        let before = std::mem::replace(&mut *self.own.lock(), own.clone());
        for id in before.difference(own) {
            let label = tenant_label(Some(id));
            for cap in CAPS {
                let _none = self.refusals.remove_label_values(&[label, cap]);
                let _none = self.shadows.remove_label_values(&[label, cap]);
                let _none = self.used.remove_label_values(&[label, cap]);
            }
            for reason in REASONS {
                let _none = self.destinations.remove_label_values(&[label, reason]);
            }
            let _none = self.unknown.remove_label_values(&[label]);
        }
        for label in self.labels() {
            for cap in CAPS {
                self.refusals.with_label_values(&[&*label, cap]);
                self.shadows.with_label_values(&[&*label, cap]);
                self.used.with_label_values(&[&*label, cap]);
            }
            for reason in REASONS {
                self.destinations.with_label_values(&[&*label, reason]);
            }
            self.unknown.with_label_values(&[&label]);
        }
    }

    fn labels(&self) -> Vec<String> {
        let own = self.own.lock();
        let all = own.iter().map(|id| Some(id.as_str())).chain([None]);
        all.map(|id| tenant_label(id).to_owned()).collect()
    }

    fn label(&self, tenant: &str) -> String {
        let has_own = self.own.lock().contains(tenant);
        tenant_label(has_own.then_some(tenant)).to_owned()
    }
}

/// The number of caps that the status names at most.
const FULLEST: usize = 15;

/// The values of the label `reason`.
const REASONS: [&str; 3] = ["unlisted", "held", "unreadable"];
fn reason(fault: &DestinationFault) -> &'static str {
    REASONS[match fault {
        DestinationFault::Unlisted(_) => 0,
        DestinationFault::Held { .. } => 1,
        DestinationFault::Unreadable(_) => 2,
    }]
}

/// The age of the oldest spend that a window of caps may count. What is older takes no tenant's money any more, and would
/// page for as long as spends are kept.
fn oldest_counted(unknown: &[UnknownSpend], now_ms: u64) -> Duration {
    let ages = unknown
        .iter()
        .map(|spend| Duration::from_millis(now_ms.saturating_sub(spend.since_ms)));
    let counted = ages.filter(|age| *age <= LONGEST_WINDOW);
    counted.max().unwrap_or_default()
}

/// The longest window of a cap: a day on which clocks are put back.
const LONGEST_WINDOW: Duration = Duration::from_hours(25);

/// The values of the label `cap`. Those of caps over all tenants begin with `all_`.
const CAPS: [&str; 13] = [
    "per_call",
    "per_hour",
    "per_24h",
    "per_day",
    "count_per_hour",
    "approve_above",
    "all_per_call",
    "all_per_hour",
    "all_per_24h",
    "all_per_day",
    "all_count_per_hour",
    "all_approve_above",
    "no_cap",
];

/// The label of a breach. `no_cap`: the currency has no cap, and others have.
fn cap(breach: &CapBreach) -> &'static str {
    let Some((measure, _)) = breach.rule else {
        return CAPS[12];
    };
    of_measure(measure, breach.over_all)
}

fn of_measure(measure: CapMeasure, over_all: bool) -> &'static str {
    let own = match measure {
        CapMeasure::PerCall => 0,
        CapMeasure::PerHour => 1,
        CapMeasure::Per24Hours => 2,
        CapMeasure::PerDay => 3,
        CapMeasure::CountPerHour => 4,
        CapMeasure::ApproveAbove => 5,
        CapMeasure::NoCap => return CAPS[12],
    };
    CAPS[if over_all { own + 6 } else { own }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_store::admission::StoredText;

    #[test]
    fn the_age_that_pages_is_that_of_a_spend_that_a_window_may_count() {
        let text = |text| StoredText::parse(text).unwrap();
        let now_ms = 1_767_225_600_000;
        let spend = |hours: u64| UnknownSpend {
            since_ms: now_ms - hours * 3_600_000,
            party: text("acme"),
            account: text("100"),
            counted_as: "create_payout".to_owned(),
            key: None,
        };
        let oldest = |hours: &[u64]| {
            let unknown: Vec<UnknownSpend> = hours.iter().map(|hours| spend(*hours)).collect();
            oldest_counted(&unknown, now_ms).as_secs() / 3_600
        };
        assert_eq!(oldest(&[]), 0);
        assert_eq!(oldest(&[2, 24 * 300, 7]), 7);
        assert_eq!(oldest(&[26]), 0);
    }
}
