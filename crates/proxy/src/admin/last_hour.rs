//! The last hour, minute by minute, for the plots of the status page. It is kept whether or not a page is open, so that a page
//! that is opened after something happened shows what happened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::interval;

use crate::app::App;
use crate::metrics::totals::MetricTotals;
use crate::prom::outcome::RequestOutcome;

/// The length of a part of the hour, and the number of parts.
const PART: Duration = Duration::from_mins(1);
const PARTS: usize = 60;
/// The time between two looks at the use of the quota, which is the average of about as long.
const LOOK: Duration = Duration::from_secs(10);
/// How often the clock is asked whether a look is due.
const TICK: Duration = Duration::from_secs(1);

/// The minutes of the last hour.
#[derive(Default)]
pub(super) struct LastHour(Mutex<HourParts>);

#[derive(Default)]
struct HourParts {
    begun: Option<BegunMinute>,
    ended: VecDeque<MinuteReport>,
}

/// The minute that has not ended.
struct BegunMinute {
    at: Duration,
    totals: MetricTotals,
    looked: Duration,
    quota_used: f64,
}

/// What came in one minute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct MinuteReport {
    /// When it ended, in milliseconds since 1970.
    ended_ms: u64,
    /// Its length: more than 60 if the machine slept.
    seconds: f64,
    requests: u64,
    /// Requests that GatePay refused.
    failure: u64,
    /// Requests of unknown outcome.
    unknown: u64,
    /// Requests that the proxy refused after it had verified them.
    refused: u64,
    /// Durations of whole requests.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// The largest part of the institution's rate in force that was used.
    quota_used: f64,
}

/// A look at the metrics.
struct HourReading {
    at: Duration,
    unix_ms: u64,
    totals: MetricTotals,
    quota_used: f64,
}

impl LastHour {
    /// Looks at the metrics until the runtime ends.
    pub(super) async fn keep(self: Arc<Self>, app: Arc<App>) {
        let mut tick = interval(TICK);
        loop {
            tick.tick().await;
            if !self.is_due(app.clock.elapsed()) {
                continue;
            }
            let (hour, app) = (Arc::clone(&self), Arc::clone(&app));
            // A hundred thousand tenants take some milliseconds. A look that panics leaves the hour as it was.
            let _ = spawn_blocking(move || hour.note(HourReading::of(&app))).await;
        }
    }

    /// The minutes that have ended, the oldest first.
    pub(super) fn minutes(&self) -> Vec<MinuteReport> {
        self.0.lock().ended.iter().cloned().collect()
    }

    fn is_due(&self, now: Duration) -> bool {
        let parts = self.0.lock();
        let looked = parts.begun.as_ref().map(|begun| begun.looked);
        looked.is_none_or(|looked| now.saturating_sub(looked) >= LOOK)
    }

    fn note(&self, now: HourReading) {
        let mut parts = self.0.lock();
        let Some(begun) = &mut parts.begun else {
            parts.begun = Some(BegunMinute::at(now));
            return;
        };
        begun.looked = now.at;
        begun.quota_used = begun.quota_used.max(now.quota_used);
        if now.at.saturating_sub(begun.at) < PART {
            return;
        }
        let ended = begun.ended(&now);
        parts.begun = Some(BegunMinute::at(now));
        parts.ended.push_back(ended);
        if parts.ended.len() > PARTS {
            parts.ended.pop_front();
        }
    }
}

impl BegunMinute {
    fn at(now: HourReading) -> Self {
        Self {
            at: now.at,
            totals: now.totals,
            looked: now.at,
            quota_used: now.quota_used,
        }
    }

    fn ended(&self, now: &HourReading) -> MinuteReport {
        let since = now.totals.since(&self.totals);
        MinuteReport {
            ended_ms: now.unix_ms,
            seconds: now.at.saturating_sub(self.at).as_secs_f64(),
            requests: since.requests(),
            failure: since.ended(RequestOutcome::Failure),
            unknown: since.ended(RequestOutcome::Unknown),
            refused: since.ended(RequestOutcome::Refused)
                + since.ended(RequestOutcome::RefusedUnknown),
            p50_ms: since.whole.milliseconds(0.5),
            p99_ms: since.whole.milliseconds(0.99),
            quota_used: self.quota_used,
        }
    }
}

impl HourReading {
    fn of(app: &App) -> Self {
        let at = app.clock.elapsed();
        let generation = app.generation.load();
        let used = generation.all_tenant_limits();
        let used: f64 = used.map(|limits| limits.view(at).used).sum();
        let in_force = app.admission.quota.view().in_force.max(1);
        Self {
            at,
            unix_ms: app.clock.unix_ms(),
            totals: app.metrics.totals(),
            quota_used: used / f64::from(in_force),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use gatepay_core::{Catalogue, Kind};
    use gatepay_tenancy::settings::MetricsSettings;

    fn reading(metrics: &Metrics, seconds: u64, quota_used: f64) -> HourReading {
        HourReading {
            at: Duration::from_secs(seconds),
            unix_ms: seconds * 1_000,
            totals: metrics.totals(),
            quota_used,
        }
    }

    #[test]
    fn a_minute_holds_what_came_in_it_and_the_highest_use_of_the_quota() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let acme = metrics.tenants.of(Some("acme"));
        let hour = LastHour::default();
        acme.ended(Kind::Read, RequestOutcome::Success);
        hour.note(reading(&metrics, 5, 0.1));
        for outcome in [
            RequestOutcome::Success,
            RequestOutcome::Failure,
            RequestOutcome::Refused,
            RequestOutcome::RefusedUnknown,
        ] {
            acme.ended(Kind::Money, outcome);
        }
        hour.note(reading(&metrics, 15, 0.7));
        assert!(!hour.is_due(Duration::from_secs(24)) && hour.is_due(Duration::from_secs(25)));
        assert_eq!(hour.minutes(), []);
        hour.note(reading(&metrics, 65, 0.2));
        acme.ended(Kind::Money, RequestOutcome::Unknown);
        hour.note(reading(&metrics, 185, 0.0));
        let minute = MinuteReport {
            ended_ms: 65_000,
            seconds: 60.0,
            requests: 4,
            failure: 1,
            unknown: 0,
            refused: 2,
            p50_ms: None,
            p99_ms: None,
            quota_used: 0.7,
        };
        let slept = MinuteReport {
            ended_ms: 185_000,
            seconds: 120.0,
            requests: 1,
            failure: 0,
            unknown: 1,
            refused: 0,
            quota_used: 0.2,
            ..minute.clone()
        };
        assert_eq!(hour.minutes(), [minute, slept]);
    }

    #[test]
    fn an_hour_has_sixty_minutes() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let hour = LastHour::default();
        for minute in 0..=200 {
            hour.note(reading(&metrics, minute * 60, 0.0));
        }
        let minutes = hour.minutes();
        assert_eq!(minutes.len(), PARTS);
        assert_eq!(minutes[0].ended_ms, 141 * 60_000);
        assert_eq!(minutes[59].ended_ms, 200 * 60_000);
    }
}
