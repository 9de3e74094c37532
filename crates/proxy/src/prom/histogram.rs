//! Latency histograms by operation. Each thread counts in its own part, and a reader adds the parts up. A histogram
//! that workers share would cost a request a dozen locked operations, on memory that another processor has just
//! written. The local histograms of `prometheus` leave no such traffic, but only the thread that owns one can flush it: a
//! scrape would miss the requests since the last flush.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use gatepay_core::Catalogue;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::process::thread_index;
use crate::prom::registrar::opts;

/// The number of parts. The first threads have a part each; all later threads share the last part.
const PARTS: usize = 16;

/// A histogram for every operation.
#[derive(Clone)]
pub struct LatencyHistogram(Arc<HistogramFamily>);

struct HistogramFamily {
    desc: Desc,
    /// Upper bounds, in seconds.
    bounds: &'static [f64],
    operations: Vec<String>,
    /// The cells of each part. An operation has a count for each bound, a count for observations above all bounds, and
    /// the sum in seconds. A part is allocated by the first thread that needs it.
    parts: [OnceLock<Box<[AtomicU64]>>; PARTS],
}

/// The observations of an operation.
struct ObservedLatency {
    /// The counts by bound, and the count above all bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl LatencyHistogram {
    /// A histogram for every operation of the catalogue, with upper bounds in seconds.
    pub fn new(
        name: &str,
        help: &str,
        bounds: &'static [f64],
        catalogue: &Catalogue,
    ) -> prometheus::Result<Self> {
        let opts = opts(name, help).variable_labels(vec!["operation".to_owned()]);
        let rows = catalogue.rows().iter();
        Ok(Self(Arc::new(HistogramFamily {
            desc: opts.describe()?,
            bounds,
            operations: rows.map(|row| row.name.to_string()).collect(),
            parts: Default::default(),
        })))
    }

    /// Adds an observation, in seconds, by the operation's position in the catalogue.
    pub fn observe(&self, operation: usize, seconds: f64) {
        let family = &*self.0;
        let part = thread_index::number().min(PARTS - 1);
        let cells = family.parts[part].get_or_init(|| {
            let cells = family.operations.len() * family.width();
            (0..cells).map(|_| AtomicU64::new(0)).collect()
        });
        let (counts, sum) = family.of(cells, operation);
        let within = family.bounds.iter().position(|bound| seconds <= *bound);
        let count = &counts[within.unwrap_or(family.bounds.len())];
        let add = |sum: u64| (f64::from_bits(sum) + seconds).to_bits();
        if part == PARTS - 1 {
            count.fetch_add(1, Ordering::Relaxed);
            let more = |sum| Some(add(sum));
            // The closure always gives a value, so the update cannot fail.
            let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        } else {
            // No other thread writes to this part, so no write comes between load and store.
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            sum.store(add(sum.load(Ordering::Relaxed)), Ordering::Relaxed);
        }
    }

    /// Cumulative counts over all operations, by bound in seconds. The last bound is infinite.
    pub fn within(&self) -> Vec<(f64, u64)> {
        let family = &*self.0;
        let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
        let mut all: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
        for operation in 0..family.operations.len() {
            let counts = family.observed(operation).counts;
            for ((_, all), within) in all.iter_mut().zip(cumulative(&counts)) {
                *all += within;
            }
        }
        all
    }
}

impl HistogramFamily {
    /// The number of cells of an operation.
    fn width(&self) -> usize {
        self.bounds.len() + 2
    }

    /// The counts and the sum of an operation.
    fn of<'a>(&self, cells: &'a [AtomicU64], operation: usize) -> (&'a [AtomicU64], &'a AtomicU64) {
        let own = &cells[operation * self.width()..][..self.width()];
        let (sum, counts) = own.split_last().expect("a sum at least");
        (counts, sum)
    }

    fn observed(&self, operation: usize) -> ObservedLatency {
        let mut all = ObservedLatency {
            counts: vec![0; self.bounds.len() + 1],
            sum: 0.0,
        };
        for cells in self.parts.iter().filter_map(OnceLock::get) {
            let (counts, sum) = self.of(cells, operation);
            for (all, count) in all.counts.iter_mut().zip(counts) {
                *all += count.load(Ordering::Relaxed);
            }
            all.sum += f64::from_bits(sum.load(Ordering::Relaxed));
        }
        all
    }

    fn series(&self, operation: usize) -> Metric {
        let observed = self.observed(operation);
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (bound, within) in self.bounds.iter().zip(cumulative(&observed.counts)) {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(within);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(observed.counts.iter().sum());
        histogram.set_sample_sum(observed.sum);
        let mut label = LabelPair::default();
        label.set_name("operation".to_owned());
        label.set_value(self.operations[operation].clone());
        let mut metric = Metric::from_label(vec![label]);
        metric.set_histogram(histogram);
        metric
    }
}

impl Collector for LatencyHistogram {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let family = &*self.0;
        let mut all = MetricFamily::default();
        all.set_name(family.desc.fq_name.clone());
        all.set_help(family.desc.help.clone());
        all.set_field_type(MetricType::HISTOGRAM);
        let operations = 0..family.operations.len();
        all.set_metric(
            operations
                .map(|operation| family.series(operation))
                .collect(),
        );
        vec![all]
    }
}

/// Running totals of the counts.
fn cumulative(counts: &[u64]) -> impl Iterator<Item = u64> {
    counts.iter().scan(0, |all, count| {
        *all += count;
        Some(*all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Encoder as _, HistogramOpts, HistogramVec, Registry, TextEncoder};

    const BOUNDS: [f64; 3] = [0.25, 0.5, 2.0];

    fn text(collector: impl Collector + 'static) -> String {
        let registry = Registry::new();
        registry.register(Box::new(collector)).unwrap();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&registry.gather(), &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn observations_of_many_threads_are_written_as_by_the_library() {
        let catalogue = Catalogue::standard();
        let ours = LatencyHistogram::new("took_seconds", "How long.", &BOUNDS, &catalogue).unwrap();
        let theirs = HistogramOpts {
            common_opts: opts("took_seconds", "How long."),
            buckets: BOUNDS.to_vec(),
        };
        let theirs = HistogramVec::new(theirs, &["operation"]).unwrap();
        for row in catalogue.rows() {
            let _there_at_zero = theirs.with_label_values(&[row.name.as_ref()]);
        }
        assert_eq!(text(ours.clone()), text(theirs.clone()));
        // There are more threads than parts. Sums of multiples of an eighth are exact in any order.
        std::thread::scope(|scope| {
            for thread in 0..2 * PARTS {
                let (ours, theirs, catalogue) = (&ours, &theirs, &catalogue);
                scope.spawn(move || {
                    for (count, eighths) in (0..2_000).zip((0_u8..32).cycle()) {
                        let operation = (count + thread) % 5;
                        let seconds = f64::from(eighths) / 8.0;
                        ours.observe(operation, seconds);
                        let name = catalogue.rows()[operation].name.as_ref();
                        theirs.with_label_values(&[name]).observe(seconds);
                    }
                });
            }
        });
        assert_eq!(text(ours.clone()), text(theirs));
        let within: Vec<u64> = ours.within().iter().map(|(_, count)| *count).collect();
        // Of 2,000 observations, each of the first 16 durations comes 63 times, and each of the other 16 comes 62
        // times.
        let all = [3 * 63, 5 * 63, 16 * 63 + 62, 2_000];
        assert_eq!(within, all.map(|of_one| of_one * 2 * PARTS as u64));
    }
}
