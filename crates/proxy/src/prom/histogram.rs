//! Latency histograms by operation.

use gatepay_core::Catalogue;
use gatepay_tenancy::settings::MetricsSettings;
use prometheus::core::Metric as _;
use prometheus::{Histogram, HistogramVec};

/// The label of histograms that count all operations together.
const ALL: &str = "all";

/// The labels `operation` of histograms: the name of every operation, in the order of the catalogue, or one for all.
pub struct OperationLabels<'a>(Vec<&'a str>);

impl<'a> OperationLabels<'a> {
    /// The labels that the settings ask for.
    pub fn new(catalogue: &'a Catalogue, settings: &MetricsSettings) -> Self {
        Self(if settings.operation_histograms {
            let rows = catalogue.rows().iter();
            rows.map(|row| row.name.as_ref()).collect()
        } else {
            vec![ALL]
        })
    }
}

/// A histogram for every operation, in the order of the catalogue, or one for all.
///
/// All threads share a histogram. A histogram of each thread's own would save a request 0.1 % of its instructions, and
/// 0.5 µs where two workers do nothing but observe (docs/explanation/performance.md, "Hand-written or a crate").
pub struct LatencyHistogram(Vec<Histogram>);

impl LatencyHistogram {
    /// Makes the series of every label, so that no request adds a series. `operation` is the only label of `family`.
    pub fn new(family: &HistogramVec, operations: &OperationLabels<'_>) -> Self {
        let labels = operations.0.iter();
        Self(
            labels
                .map(|label| family.with_label_values(&[*label]))
                .collect(),
        )
    }

    /// Adds an observation, in seconds, by the operation's position in the catalogue.
    pub fn observe(&self, operation: usize, seconds: f64) {
        // A single series counts all operations.
        let series = self.0.get(operation).unwrap_or(&self.0[0]);
        series.observe(seconds);
    }

    /// Cumulative counts over all operations, by bound in seconds. The last bound is infinite.
    pub fn within(&self) -> Vec<(f64, u64)> {
        let mut all: Vec<(f64, u64)> = Vec::new();
        for operation in &self.0 {
            let metric = operation.metric();
            let observed = metric.get_histogram();
            let buckets = observed.get_bucket().iter();
            let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
            let counts = buckets.chain([(f64::INFINITY, observed.get_sample_count())]);
            if all.is_empty() {
                all = counts.collect();
            } else {
                for ((_, all), (_, count)) in all.iter_mut().zip(counts) {
                    *all += count;
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prom::registrar::Registrar;
    use prometheus::proto::{Bucket, Metric};
    use prometheus::{Registry, TextEncoder};
    use std::sync::atomic::{AtomicBool, Ordering};

    const BOUNDS: [f64; 3] = [0.25, 0.5, 2.0];

    fn made() -> (Registry, LatencyHistogram) {
        made_with(true)
    }

    fn made_with(operation_histograms: bool) -> (Registry, LatencyHistogram) {
        let registry = Registry::new();
        let family =
            Registrar::new(&registry).histograms("took_seconds", "Time.", &BOUNDS, &["operation"]);
        let settings = MetricsSettings {
            operation_histograms,
            ..MetricsSettings::default()
        };
        let catalogue = Catalogue::standard();
        let operations = OperationLabels::new(&catalogue, &settings);
        let histogram = LatencyHistogram::new(&family, &operations);
        (registry, histogram)
    }

    fn scrape(registry: &Registry) -> String {
        let families = registry.gather();
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn every_operation_has_its_series_before_the_first_request() {
        let (registry, histogram) = made();
        let before = scrape(&registry);
        for (operation, row) in Catalogue::standard().rows().iter().enumerate() {
            let count = format!(
                "gatepay_proxy_took_seconds_count{{operation=\"{}\"}} 0",
                row.name
            );
            assert!(before.contains(&count), "{count}");
            histogram.observe(operation, 1.0);
        }
        assert_eq!(scrape(&registry).lines().count(), before.lines().count());
    }

    #[test]
    fn one_series_counts_all_operations_if_the_settings_say_so() {
        let (registry, histogram) = made_with(false);
        for operation in 0..Catalogue::standard().rows().len() {
            histogram.observe(operation, 0.3);
        }
        let all = Catalogue::standard().rows().len() as u64;
        let text = scrape(&registry);
        let count = format!("gatepay_proxy_took_seconds_count{{operation=\"all\"}} {all}\n");
        assert!(text.contains(&count), "{text}");
        assert_eq!(text.matches("_count{").count(), 1);
        let expected = [(0.25, 0), (0.5, all), (2.0, all), (f64::INFINITY, all)];
        assert_eq!(histogram.within(), expected);
    }

    #[test]
    fn a_scrape_among_observations_is_consistent() {
        let (registry, histogram) = made();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        histogram.observe(1, 1.0);
                    }
                });
            }
            let mut scrapes = Vec::new();
            let mut last = 0;
            // Only scrapes with observations since the last scrape show anything.
            while scrapes.len() < 100 {
                let scrape = registry.gather();
                let count = |metric: &Metric| metric.get_histogram().get_sample_count();
                let all: u64 = scrape[0].get_metric().iter().map(count).sum();
                if all > last {
                    scrapes.push(scrape);
                }
                last = all;
            }
            done.store(true, Ordering::Relaxed);
            for metric in scrapes.iter().flat_map(|all| all[0].get_metric()) {
                let observed = metric.get_histogram();
                let count = observed.get_sample_count();
                let within = observed.get_bucket().iter();
                let within: Vec<_> = within.map(Bucket::cumulative_count).collect();
                assert_eq!(within, [0, 0, count]);
                // Each observation is one second, so the sum is the count, exactly.
                assert_eq!(observed.get_sample_sum().to_string(), count.to_string());
            }
        });
    }

    #[test]
    fn the_counts_within_a_bound_are_of_all_operations() {
        let (_registry, histogram) = made();
        for (operation, seconds) in [(0, 0.25), (1, 0.3), (1, 2.0), (4, 2.5)] {
            histogram.observe(operation, seconds);
        }
        let expected = [(0.25, 1), (0.5, 2), (2.0, 3), (f64::INFINITY, 4)];
        assert_eq!(histogram.within(), expected);
    }
}
