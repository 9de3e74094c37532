//! Request metrics: refusals, GatePay's answer codes, and durations.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use gatepay_core::envelope::EnvelopeCode;
use prometheus::{IntCounter, IntGauge};

use crate::prom::histogram::{LatencyHistogram, OperationLabels};
use crate::prom::registrar::{OTHER, Registrar};
use crate::record::access_line::{PhaseTimings, RequestPhase};
use crate::refusal::Refusal;

/// Upper bounds in seconds of a call and of GatePay's part of it. Every operation has a series for each, so they are few:
/// close together where GatePay answers, with one on either side of the 5 s that an alert asks about.
const CALL_SECONDS: [f64; 9] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0];
/// Upper bounds in seconds of the proxy's own time, which is a thousandth of a call's. An alert asks about 10 ms.
const OWN_SECONDS: [f64; 7] = [0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.01, 0.1];

/// Metrics of requests, over all callers.
pub struct RequestMeters {
    refusals: HashMap<&'static str, IntCounter>,
    answers: HashMap<&'static str, IntCounter, RandomState>,
    other_answers: IntCounter,
    /// Requests in flight, between their head and the end of their answer.
    pub in_flight: IntGauge,
    /// Durations of requests.
    pub took: LatencyHistograms,
}

/// Durations of requests, by part.
pub struct LatencyHistograms {
    /// From the head to the end of the answer.
    pub whole: LatencyHistogram,
    /// The time that GatePay takes.
    pub upstream: LatencyHistogram,
    /// The time that the proxy itself takes.
    pub own: LatencyHistogram,
}

/// GatePay's codes that have a series of their own (protocol.md 4.2); every other is counted as `other`.
const CODES: [&str; 42] = [
    "0", "000000", "300000", "300001", "400000", "400001", "400002", "400003", "400004", "400007",
    "400020", "400201", "400202", "400203", "400204", "400205", "400304", "400603", "400604",
    "400605", "400607", "400608", "400620", "400621", "400622", "400623", "400624", "500008",
    "500100", "500101", "500103", "500203", "500204", "500205", "500206", "500207", "500208",
    "550233", "550238", "550245", "550249", "SUCCESS",
];

impl RequestMeters {
    /// Makes all request metrics, at zero.
    pub fn new(operations: &OperationLabels<'_>, make: &Registrar<'_>) -> Self {
        let refusals = make.counters(
            "refusals_total",
            "Requests the proxy refused, by reason.",
            &["reason"],
        );
        let answers = make.counters(
            "gatepay_answers_total",
            "Answers of GatePay by envelope code.",
            &["code"],
        );
        Self {
            refusals: Refusal::SLUGS
                .map(|slug| (slug, refusals.with_label_values(&[slug])))
                .into(),
            answers: CODES
                .map(|code| (code, answers.with_label_values(&[code])))
                .into_iter()
                .collect(),
            other_answers: answers.with_label_values(&[OTHER]),
            in_flight: make.gauge(
                "in_flight",
                "Requests between their head and the end of their answer.",
            ),
            took: LatencyHistograms::new(operations, make),
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, slug: &'static str) {
        if let Some(counter) = self.refusals.get(slug) {
            counter.inc();
        }
    }

    /// Counts an answer of GatePay's by its code.
    pub fn answered(&self, code: &EnvelopeCode) {
        let counter = self.answers.get(code.as_str());
        counter.unwrap_or(&self.other_answers).inc();
    }

    /// Records a request's whole time, the proxy's own time, and GatePay's time if the request was `sent` there.
    pub fn took(&self, operation: usize, timings: &PhaseTimings, sent: bool) {
        let took = &self.took;
        took.whole.observe(operation, timings.whole().as_secs_f64());
        took.own
            .observe(operation, timings.of(RequestPhase::Own).as_secs_f64());
        if sent {
            let upstream = timings.of(RequestPhase::Upstream);
            took.upstream.observe(operation, upstream.as_secs_f64());
        }
    }

    /// The count of each refusal, in the order of `Refusal::SLUGS`.
    pub fn refusals(&self) -> [u64; Refusal::SLUGS.len()] {
        Refusal::SLUGS.map(|slug| self.refusals.get(slug).map_or(0, IntCounter::get))
    }
}

impl LatencyHistograms {
    fn new(operations: &OperationLabels<'_>, make: &Registrar<'_>) -> Self {
        let by_operation = |name, help, bounds: &[f64]| {
            let family = make.histograms(name, help, bounds, &["operation"]);
            LatencyHistogram::new(&family, operations)
        };
        Self {
            whole: by_operation(
                "request_duration_seconds",
                "Seconds from the head of a request to the end of its answer, by operation.",
                &CALL_SECONDS,
            ),
            upstream: by_operation(
                "upstream_duration_seconds",
                "Seconds from sending a request to GatePay until its answer, by operation.",
                &CALL_SECONDS,
            ),
            own: by_operation(
                "own_duration_seconds",
                "Seconds of a request that the proxy itself used, without waiting for the caller or GatePay, by operation.",
                &OWN_SECONDS,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::Catalogue;
    use gatepay_tenancy::settings::MetricsSettings;
    use prometheus::{Registry, TextEncoder};

    fn made() -> (Registry, RequestMeters) {
        let registry = Registry::new();
        let catalogue = Catalogue::standard();
        let operations = OperationLabels::new(&catalogue, &MetricsSettings::default());
        let meters = RequestMeters::new(&operations, &Registrar::new(&registry));
        (registry, meters)
    }

    fn scrape(registry: &Registry) -> String {
        let families = registry.gather();
        TextEncoder::new().encode_to_string(&families).unwrap()
    }

    #[test]
    fn an_answer_is_counted_under_its_own_code() {
        let (registry, metrics) = made();
        for code in CODES {
            metrics.answered(&EnvelopeCode::new(code).unwrap());
        }
        let text = scrape(&registry);
        for code in CODES {
            let once = format!("gatepay_proxy_gatepay_answers_total{{code=\"{code}\"}} 1\n");
            assert!(text.contains(&once), "{once}");
        }
        assert!(text.contains("gatepay_answers_total{code=\"other\"} 0\n"));
    }

    #[test]
    fn an_unpublished_envelope_code_makes_no_series() {
        let (registry, metrics) = made();
        metrics.answered(&EnvelopeCode::new("31337").unwrap());
        let text = scrape(&registry);
        assert!(
            text.contains("gatepay_proxy_gatepay_answers_total{code=\"other\"} 1")
                && !text.contains("31337")
        );
    }
}
