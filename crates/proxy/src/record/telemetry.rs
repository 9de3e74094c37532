//! Telemetry: the parts of the program that the record of every request needs.

use std::sync::Arc;

use gatepay_admission::replay::Replay;

use crate::cluster::usage_tally::UsageTally;
use crate::process::clock::Clock;
use crate::process::drain::Drain;
use crate::record::access_log::{AccessLog, LogThrottle};
use crate::record::meters::RequestMeters;
use crate::upstream::meters::UpstreamMeters;

/// The clock, metrics, log and replay memory of every [`RequestRecord`](crate::record::RequestRecord).
pub struct Telemetry {
    /// The process's clock.
    pub clock: Clock,
    /// Metrics of requests.
    pub requests: Arc<RequestMeters>,
    /// Metrics of calls to GatePay.
    pub upstream: Arc<UpstreamMeters>,
    /// The access log.
    pub log: AccessLog,
    /// Limits how often the program's log repeats a message about requests.
    pub seldom: LogThrottle,
    /// The replay memory: stamps that were used, and copies that are under way.
    pub replay: Arc<Replay>,
    /// The drain phase. Once it is over, an unfinished answer does not count as a caller that left.
    pub drain: Arc<Drain>,
    /// Whether instances share a store: then another instance may have admitted a copy of any refused request.
    pub has_cluster: bool,
    /// The counts for statements, if there is a store.
    pub usage: Option<Arc<UsageTally>>,
    /// Whether every answer states the rest of the caller's rate limit.
    pub ratelimit_headers: bool,
}
