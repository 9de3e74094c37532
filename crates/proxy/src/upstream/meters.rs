//! Metrics of the upstream side: connections, retries, the clock offset, and credential rotation.

use gatepay_core::look_up::ObservedOutcome;
use prometheus::{Gauge, IntCounter, IntGauge, Registry};

use crate::prom::registrar::{Registrar, opts};

/// Metrics of connections and calls to GatePay.
pub struct UpstreamMeters {
    /// Connections that were opened.
    pub connects: IntCounter,
    /// Connections that are open.
    pub connections: IntGauge,
    /// Times a request waited for a connection to be free.
    pub waits: IntCounter,
    /// TLS handshakes: full, resumed.
    pub handshakes: [IntCounter; 2],
    /// Attempts that were repeated, by [`RetryReason`].
    pub repeats: [IntCounter; RetryReason::ALL.len()],
    /// Attempts that were not repeated because the budget was spent.
    pub repeats_denied: IntCounter,
    /// Results of look-ups of lost calls, by [`ObservedOutcome`].
    pub resolutions: [IntCounter; ObservedOutcome::ALL.len()],
    /// The circuit breaker's metrics.
    pub breaker: BreakerMeters,
    /// Number of parties with an open breaker of their own.
    pub breaker_open_tenants: IntGauge,
}

/// Metrics of the circuit breaker.
#[derive(Clone)]
pub struct BreakerMeters {
    /// 1 while the breaker is open; set at each scrape.
    pub is_open: IntGauge,
    /// How often the breaker opened.
    pub opened: IntCounter,
    /// How often a party's own breaker opened.
    pub party_opened: IntCounter,
}

/// Metrics of the machine's clock beside GatePay's.
#[derive(Clone)]
pub struct ClockMeters {
    /// How far GatePay's clock is ahead, in seconds.
    pub offset: Gauge,
    /// Number of answers that agree on that offset.
    pub agreeing: IntGauge,
    /// Faults in the movement of the machine's clock, by [`ClockFault::WORDS`].
    pub faults: [IntCounter; ClockFault::WORDS.len()],
}

/// Metrics of the institution's credential rotation.
#[derive(Clone)]
pub struct SignerMeters {
    /// Switches to another credential.
    pub switched: IntCounter,
    /// Failed switches: GatePay did not accept the credential.
    pub failed: IntCounter,
    /// 1 while GatePay refuses the institution credential that should sign.
    pub failing: IntGauge,
}

/// Why an attempt is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// A kept connection had died; nothing was written to it.
    StaleConnection,
    /// No connection was opened, or no byte was written to it.
    NotSent,
    /// A read that got no whole answer.
    Lost,
    /// A read that GatePay, or a server in front of GatePay, could not answer at that moment.
    Answer,
}

impl RetryReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::StaleConnection,
        Self::NotSent,
        Self::Lost,
        Self::Answer,
    ];

    /// The value of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StaleConnection => "stale_connection",
            Self::NotSent => "not_sent",
            Self::Lost => "lost",
            Self::Answer => "answer",
        }
    }
}

/// A fault in the movement of the machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockFault {
    /// The clock moved by this many milliseconds more or less than the elapsed time.
    Stepped(i64),
    /// The clock stands still.
    Frozen,
}

impl UpstreamMeters {
    /// Metrics of a program that is not scraped.
    pub fn unscraped() -> Self {
        Self::new(&Registrar::new(&Registry::new()))
    }

    /// Registers the metrics, all at zero.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            connects: make.counter("upstream_connects_total", "Connections opened to GatePay."),
            connections: make.gauge("upstream_connections", "Open connections to GatePay."),
            waits: make.counter(
                "upstream_waits_total",
                "Times a request waited because upstream.max_connections were in use.",
            ),
            handshakes: make.counter_each(
                "upstream_tls_handshakes_total",
                "TLS handshakes with GatePay, by whether an earlier session was resumed.",
                "kind",
                ["full", "resumed"],
            ),
            repeats: make.counter_each(
                "upstream_repeats_total",
                "Attempts that were repeated, by reason.",
                "reason",
                RetryReason::ALL.map(RetryReason::as_str),
            ),
            repeats_denied: make.counter(
                "upstream_repeats_denied_total",
                "Attempts not repeated because upstream.repeat_budget was spent.",
            ),
            resolutions: make.counter_each(
                "resolutions_total",
                "Write and money calls whose answer was lost, by the result of the look-up at GatePay.",
                "observed",
                [ObservedOutcome::Found, ObservedOutcome::NotFound, ObservedOutcome::Unknown].map(ObservedOutcome::as_str),
            ),
            breaker: BreakerMeters {
                is_open: make.gauge(
                    "upstream_breaker_open",
                    "1 while the circuit breaker is open: only the proxy's own test reads are sent to GatePay.",
                ),
                opened: make.counter(
                    "upstream_breaker_opened_total",
                    "Times the circuit breaker opened.",
                ),
                party_opened: make.counter(
                    "upstream_breaker_tenant_opened_total",
                    "Times the circuit breaker of one tenant or operator opened.",
                ),
            },
            breaker_open_tenants: make.gauge(
                "upstream_breaker_open_tenants",
                "Tenants and operators whose own circuit breaker is open: GatePay keeps failing only their calls.",
            ),
        }
    }
}

impl ClockMeters {
    /// Registers the metrics, all at zero.
    pub fn new(make: &Registrar<'_>) -> Self {
        Self {
            offset: make.register(Gauge::with_opts(opts(
                "clock_offset_seconds",
                "Seconds by which GatePay's clock is ahead of this machine's, by the Date of its answers.",
            ))),
            agreeing: make.gauge(
                "clock_offset_answers",
                "Recent answers of GatePay that agree on clock_offset_seconds; 0 while the offset is unknown.",
            ),
            faults: make.counter_each(
                "clock_faults_total",
                "Seconds in which this machine's clock was wrong, by fault: stepped or frozen.",
                "fault",
                ClockFault::WORDS,
            ),
        }
    }
}

impl SignerMeters {
    /// Registers the metrics, all at zero.
    pub fn new(make: &Registrar<'_>) -> Self {
        let [switched, failed] = make.counter_each(
            "institution_switches_total",
            "Switches to another credential of the institution, by whether GatePay accepted it.",
            "result",
            ["switched", "failed"],
        );
        Self {
            switched,
            failed,
            failing: make.gauge(
                "institution_switch_failing",
                "1 while GatePay refuses the institution credential that should sign.",
            ),
        }
    }
}

impl ClockFault {
    /// The label values, in the order of the counters.
    pub const WORDS: [&'static str; 2] = ["stepped", "frozen"];
}
