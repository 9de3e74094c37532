//! Telemetry: what the record of a request needs of the program, whatever becomes of the request.

use std::sync::Arc;

use crate::admission::replay::Replay;
use crate::process::clock::Clock;
use crate::process::drain::Drain;
use crate::record::access_log::{AccessLog, LogThrottle};
use crate::record::meters::RequestMeters;
use crate::upstream::meters::UpstreamMeters;

/// What every [`RequestRecord`](crate::record::RequestRecord) is written with.
pub struct Telemetry {
    /// Time.
    pub clock: Clock,
    /// What is counted of requests.
    pub requests: Arc<RequestMeters>,
    /// What is counted of calls to GatePay.
    pub upstream: Arc<UpstreamMeters>,
    /// Access lines.
    pub log: AccessLog,
    /// How often the program's log says what happens to every request.
    pub seldom: LogThrottle,
    /// Stamps that were used, and copies that are under way.
    pub replay: Arc<Replay>,
    /// Whether the process is over: then a caller did not leave by itself.
    pub drain: Arc<Drain>,
    /// Whether every answer says what is left of the caller's rate.
    pub ratelimit_headers: bool,
}
