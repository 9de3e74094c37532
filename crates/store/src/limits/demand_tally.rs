//! The demand of the tenants at one instance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::messages::TenantDemand;

/// Counts the requests of tenants, admitted or not, for the next report.
#[derive(Debug, Clone, Default)]
pub struct DemandTally {
    tenants: HashMap<Arc<str>, TenantTally>,
    reported_at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct TenantTally {
    weight: f64,
    count: u32,
    /// Requests per second, smoothed over [`SMOOTHED`].
    smooth: f64,
    asked_at: Duration,
    /// Whether a request since the last report found this instance's part of the rate too small.
    is_refused: bool,
}

/// A tenant that did not ask for this long is not reported.
const ACTIVE: Duration = Duration::from_secs(10);
/// The time over which rates are smoothed.
const SMOOTHED: Duration = Duration::from_millis(400);
/// The most tenants that are reported by name.
const NAMED: usize = 256;

impl DemandTally {
    /// Counts requests of a tenant.
    pub fn count(&mut self, tenant: &Arc<str>, weight: f64, requests: u32, now: Duration) {
        let new = TenantTally {
            weight,
            count: 0,
            smooth: 0.0,
            asked_at: now,
            is_refused: false,
        };
        let tally = self.tenants.entry(Arc::clone(tenant)).or_insert(new);
        tally.weight = weight;
        tally.count = tally.count.saturating_add(requests);
        tally.asked_at = now;
    }

    /// Notes that a request of a tenant found this instance's part of the rate too small.
    pub fn refused(&mut self, tenant: &Arc<str>) {
        if let Some(tally) = self.tenants.get_mut(tenant) {
            tally.is_refused = true;
        }
    }

    /// The tenants' demand since the last report: the smoothed rate, which counts each request once over all reports. A
    /// tenant that was refused since then needs more at once: its present rate is reported if that is more.
    pub fn report(&mut self, now: Duration) -> Vec<TenantDemand> {
        // A shorter time would take one request for a flood.
        let past = now.saturating_sub(self.reported_at);
        let past = past.max(Duration::from_millis(50)).as_secs_f64();
        self.reported_at = now;
        self.tenants.retain(|_, it| now < it.asked_at + ACTIVE);
        let part = (past / SMOOTHED.as_secs_f64()).min(1.0);
        let demands = self.tenants.iter_mut().map(|(tenant, tally)| {
            let rate = f64::from(std::mem::take(&mut tally.count)) / past;
            tally.smooth += (rate - tally.smooth) * part;
            let at_least = if std::mem::take(&mut tally.is_refused) {
                rate
            } else {
                0.0
            };
            TenantDemand {
                tenant: Arc::clone(tenant),
                weight: tally.weight,
                asked: tally.smooth.max(at_least),
            }
        });
        demands.collect()
    }
}

/// The largest demands by name, and all others together under one name: the store's work for an exchange stays the same
/// however many tenants are active. The name has to be another one at each instance, and no tenant's.
pub fn named(mut demands: Vec<TenantDemand>, others: &Arc<str>) -> Vec<TenantDemand> {
    if demands.len() <= NAMED {
        return demands;
    }
    demands.select_nth_unstable_by(NAMED - 1, |one, other| other.asked.total_cmp(&one.asked));
    let small = demands.split_off(NAMED);
    demands.push(TenantDemand {
        tenant: Arc::clone(others),
        weight: small.iter().map(|it| it.weight).sum(),
        asked: small.iter().map(|it| it.asked).sum(),
    });
    demands
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u32) -> Arc<str> {
        Arc::from(format!("t{number}"))
    }

    #[test]
    fn a_thousand_tenants_that_ask_each_ten_seconds_are_reported_with_their_rates() {
        let mut tally = DemandTally::default();
        let (mut sum, mut reports) = (0.0, 0.0);
        for step in 0..150 {
            let now = Duration::from_millis(200) * step;
            for number in 0..20 {
                tally.count(&tenant((20 * step + number) % 1_000), 1.0, 1, now);
            }
            let asked: f64 = tally.report(now).iter().map(|it| it.asked).sum();
            if step >= 50 {
                (sum, reports) = (sum + asked, reports + 1.0);
            }
        }
        let mean: f64 = sum / reports;
        assert!((mean - 100.0).abs() < 2.0, "{mean}");
    }

    #[test]
    fn a_tenant_that_was_refused_is_reported_with_its_present_rate_once() {
        let mut tally = DemandTally::default();
        let at = |step: u32| Duration::from_millis(200) * step;
        let mut reported = |step, is_refused| {
            tally.count(&tenant(1), 1.0, 100, at(step));
            if is_refused {
                tally.refused(&tenant(1));
            }
            tally.report(at(step))[0].asked
        };
        assert!(reported(1, false) < 251.0);
        assert!((reported(2, true) - 500.0).abs() < 1.0);
        assert!(reported(3, false) < 450.0);
    }

    #[test]
    fn small_demands_are_reported_together_with_their_weights() {
        let demands = (0..1_000_u32).map(|number| TenantDemand {
            tenant: tenant(number),
            weight: 2.0,
            asked: f64::from(number),
        });
        let named = named(demands.collect(), &Arc::from("others/1"));
        assert_eq!(named.len(), NAMED + 1);
        let (others, largest) = named.split_last().unwrap();
        assert!(largest.iter().all(|it| it.asked > 743.0));
        assert_eq!(&*others.tenant, "others/1");
        assert!((others.weight - 2.0 * 744.0).abs() < 1e-6);
        assert!((others.asked - f64::from(744 * 743 / 2)).abs() < 1e-6);
    }
}
