//! Registrar: makes metrics under the program's prefix and registers them.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

/// Upper bounds in seconds, from the proxy's own tenths of a millisecond to GatePay's slowest answers.
pub const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
];

/// Makes and registers metrics under the program's prefix.
pub struct Registrar<'a> {
    registry: &'a Registry,
    /// The descriptions of the registered metrics, if they are wanted.
    described: Option<RefCell<Vec<MetricDescription>>>,
}

/// What a metric is, whether or not it has a series so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricDescription {
    /// The whole name.
    pub name: String,
    /// The type as Prometheus names it: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The names of the labels, in their order.
    pub labels: Vec<String>,
    /// The text after `# HELP`.
    pub help: String,
}

impl<'a> Registrar<'a> {
    /// Registers metrics in this registry.
    pub fn new(registry: &'a Registry) -> Self {
        let described = None;
        Self {
            registry,
            described,
        }
    }

    /// Registers metrics in this registry, and keeps their descriptions.
    pub fn describing(registry: &'a Registry) -> Self {
        let described = Some(RefCell::default());
        Self {
            registry,
            described,
        }
    }

    /// The descriptions that were kept, by name.
    pub fn into_described(self) -> Vec<MetricDescription> {
        let mut described = self.described.map_or_else(Vec::new, RefCell::into_inner);
        described.sort_by(|one, other| one.name.cmp(&other.name));
        described
    }

    /// Registers a metric that was made.
    pub fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("names and labels are well formed");
        self.registry
            .register(Box::new(metric.clone()))
            .expect("names are distinct");
        if let Some(described) = &self.described {
            described.borrow_mut().extend(descriptions(&metric));
        }
        metric
    }

    /// Makes a counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(opts(name, help)))
    }

    /// Makes counters with these labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(opts(name, help), labels))
    }

    /// Makes a counter for each of a label's fixed values.
    pub fn counter_each<const N: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> [IntCounter; N] {
        let counters = self.counters(name, help, &[label]);
        values.map(|value| counters.with_label_values(&[value]))
    }

    /// Makes a gauge of whole numbers.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)))
    }

    /// Makes a gauge of numbers with decimals.
    pub fn gauge_of_parts(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(opts(name, help)))
    }

    /// Makes gauges of whole numbers with these labels.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(opts(name, help), labels))
    }

    /// Makes gauges of numbers with decimals, with these labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register(GaugeVec::new(opts(name, help), labels))
    }

    /// Makes histograms with these upper bounds and labels.
    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        bounds: &[f64],
        labels: &[&str],
    ) -> HistogramVec {
        let opts = HistogramOpts {
            common_opts: opts(name, help),
            buckets: bounds.to_vec(),
        };
        self.register(HistogramVec::new(opts, labels))
    }
}

/// The descriptions of the families that a collector has.
fn descriptions(metric: &impl Collector) -> Vec<MetricDescription> {
    let families = metric.collect();
    let kind = |name: &str| {
        let mut of_name = families.iter().filter(|family| family.name() == name);
        match of_name.next().map(MetricFamily::get_field_type) {
            Some(MetricType::COUNTER) => "counter",
            Some(MetricType::GAUGE) => "gauge",
            Some(MetricType::HISTOGRAM) => "histogram",
            _ => "untyped",
        }
    };
    let described = metric.desc().into_iter().map(|desc| MetricDescription {
        kind: kind(&desc.fq_name),
        name: desc.fq_name.clone(),
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    });
    described.collect()
}

/// A metric's name under the program's prefix, and its help.
pub fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("gatepay_proxy")
}

/// The label value for things without their own series: tenants that are counted together, and codes that GatePay does
/// not publish.
pub const OTHER: &str = "other";

/// The label `tenant` of a tenant or operator with the id [`OTHER`]: no id begins with an underscore.
pub const NAMED_OTHER: &str = "_other";

/// The label `tenant` of a party by its id, or of all parties that are counted together.
pub fn tenant_label(id: Option<&str>) -> &str {
    match id {
        None => OTHER,
        Some(OTHER) => NAMED_OTHER,
        Some(id) => id,
    }
}
