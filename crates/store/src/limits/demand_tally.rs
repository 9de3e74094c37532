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
}

/// A tenant that did not ask for this long is not reported.
const ACTIVE: Duration = Duration::from_secs(10);
/// The time over which rates are smoothed.
const SMOOTHED: Duration = Duration::from_secs(1);

impl DemandTally {
    /// Counts requests of a tenant. Returns whether it did not ask lately: then an exchange is due at once.
    pub fn count(&mut self, tenant: &Arc<str>, weight: f64, requests: u32, now: Duration) -> bool {
        let mut new = false;
        let tally = self.tenants.entry(Arc::clone(tenant)).or_insert_with(|| {
            new = true;
            TenantTally {
                weight,
                count: 0,
                smooth: 0.0,
                asked_at: now,
            }
        });
        tally.weight = weight;
        tally.count = tally.count.saturating_add(requests);
        tally.asked_at = now;
        new
    }

    /// The tenants' demand since the last report: the present rate or the smoothed one, whichever is more.
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
            TenantDemand {
                tenant: Arc::clone(tenant),
                weight: tally.weight,
                asked: rate.max(tally.smooth),
            }
        });
        demands.collect()
    }
}
