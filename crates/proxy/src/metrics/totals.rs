//! Totals over all tenants and operations, for the status page, which compares two readings.

use gatepay_core::Kind;

use super::Metrics;
use crate::prom::outcome::RequestOutcome;
use crate::refusal::Refusal;

/// The totals at the time of a reading.
#[derive(Clone)]
pub struct MetricTotals {
    outcomes: [[u64; RequestOutcome::ALL.len()]; 3],
    refusals: [u64; Refusal::SLUGS.len()],
    /// Whole durations of requests.
    pub whole: LatencySpread,
    /// GatePay's part of the durations.
    pub upstream: LatencySpread,
    /// The proxy's own part of the durations.
    pub own: LatencySpread,
}

/// A cumulative histogram: upper bounds in seconds, each with the number of observations within the bound.
#[derive(Clone)]
pub struct LatencySpread(Vec<(f64, u64)>);

impl Metrics {
    /// Reads the totals.
    pub fn totals(&self) -> MetricTotals {
        MetricTotals {
            outcomes: self.tenants.ended(),
            refusals: self.requests.refusals(),
            whole: LatencySpread(self.requests.took.whole.within()),
            upstream: LatencySpread(self.requests.took.upstream.within()),
            own: LatencySpread(self.requests.took.own.within()),
        }
    }
}

impl MetricTotals {
    /// The counts since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        let (one, other) = (&mut since.outcomes, &earlier.outcomes);
        for (now, before) in one.iter_mut().flatten().zip(other.iter().flatten()) {
            // A tenant that was removed took its counts with it.
            *now = now.saturating_sub(*before);
        }
        for (now, before) in since.refusals.iter_mut().zip(&earlier.refusals) {
            *now = now.saturating_sub(*before);
        }
        for (now, before) in [
            (&mut since.whole, &earlier.whole),
            (&mut since.upstream, &earlier.upstream),
            (&mut since.own, &earlier.own),
        ] {
            for ((_, now), (_, before)) in now.0.iter_mut().zip(&before.0) {
                *now = now.saturating_sub(*before);
            }
        }
        since
    }

    /// The number of requests of all kinds with this outcome.
    pub fn ended(&self, end: RequestOutcome) -> u64 {
        self.outcomes
            .iter()
            .map(|of_kind| of_kind[end as usize])
            .sum()
    }

    /// The number of requests of a kind with this outcome.
    pub fn of_kind(&self, kind: Kind, end: RequestOutcome) -> u64 {
        self.outcomes[kind as usize][end as usize]
    }

    /// The number of requests that ended.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().flatten().sum()
    }

    /// The count of every refusal, by slug.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::SLUGS.into_iter().zip(self.refusals)
    }

    /// The count of the refusal with this slug.
    pub fn refused(&self, slug: &str) -> u64 {
        self.refusals()
            .filter(|(other, _)| *other == slug)
            .map(|(_, count)| count)
            .sum()
    }
}

impl LatencySpread {
    /// [`Self::quantile`] in milliseconds, to the microsecond.
    pub fn milliseconds(&self, part: f64) -> Option<f64> {
        let seconds = self.quantile(part)?;
        Some((seconds * 1e6).round() / 1e3)
    }

    /// The duration in seconds that this part of the observations did not exceed. The value is interpolated linearly
    /// within a bucket, as by Prometheus, and capped at the last finite bound. `None` without observations.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let (_, all) = *self.0.last().filter(|(_, all)| *all > 0)?;
        let rank = part * number(all);
        let (mut low, mut below) = (0.0, 0);
        for (bound, within) in &self.0 {
            if number(*within) >= rank {
                let inside = number(within.saturating_sub(below));
                let share = if inside > 0.0 {
                    (rank - number(below)) / inside
                } else {
                    1.0
                };
                return Some(if bound.is_finite() {
                    low + (bound - low) * share
                } else {
                    low
                });
            }
            (low, below) = (*bound, *within);
        }
        None
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts to look at")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::access_line::{PhaseTimings, RequestPhase};
    use gatepay_core::Catalogue;
    use gatepay_tenancy::settings::MetricsSettings;
    use std::time::Duration;

    fn took(metrics: &Metrics, milliseconds: u64, times: usize) {
        for _ in 0..times {
            let mut timings = PhaseTimings::default();
            timings.add(RequestPhase::Upstream, Duration::from_millis(milliseconds));
            metrics.requests.took(times % 5, &timings, true);
        }
    }

    #[test]
    fn quantiles_lie_where_prometheus_would_say() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        assert_eq!(metrics.totals().whole.quantile(0.5), None);
        // Buckets end at 10, 25 and 50 ms.
        took(&metrics, 20, 50);
        took(&metrics, 40, 50);
        let totals = metrics.totals();
        let near = |part, wanted: f64| {
            let seconds = totals.upstream.quantile(part).unwrap();
            assert!((seconds - wanted).abs() < 1e-9, "{part}: {seconds}");
        };
        near(0.25, 0.0175);
        near(0.5, 0.025);
        near(0.75, 0.0375);
        took(&metrics, 60_000, 400);
        let late = metrics.totals().upstream.quantile(0.99);
        assert_eq!(late, Some(15.0), "no more than the last bound");
    }

    #[test]
    fn two_looks_say_what_came_between_them() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let (acme, other) = (metrics.tenants.of(Some("acme")), metrics.tenants.of(None));
        acme.ended(Kind::Money, RequestOutcome::Unknown);
        metrics.requests.refused("replayed");
        took(&metrics, 7, 3);
        let before = metrics.totals();
        acme.ended(Kind::Money, RequestOutcome::Unknown);
        acme.ended(Kind::Read, RequestOutcome::Success);
        other.ended(Kind::Read, RequestOutcome::Success);
        metrics.requests.refused("replayed");
        took(&metrics, 7, 1);
        let since = metrics.totals().since(&before);
        assert_eq!(
            (since.requests(), since.ended(RequestOutcome::Success)),
            (3, 2)
        );
        assert_eq!(since.of_kind(Kind::Money, RequestOutcome::Unknown), 1);
        assert_eq!(
            (since.refused("replayed"), since.refused("internal")),
            (1, 0)
        );
        assert_eq!(since.whole.0.last().map(|(_, count)| *count), Some(1));
    }
}
