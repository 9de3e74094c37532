//! Lifecycle: start, reload, health and drain of the process.

use std::sync::{Arc, OnceLock};

use crate::generation::reload_status::ReloadControl;
use crate::metrics::Metrics;
use crate::process::clock::Clock;
use crate::process::drain::Drain;
use crate::process::heartbeat::WorkerHeartbeats;
use crate::record::log_level::LogLevel;

/// Start, reload, health and drain of the process.
pub struct Lifecycle {
    /// When the process began, in milliseconds since 1970.
    pub began_ms: u64,
    /// The control of reloads, and the result of the last.
    pub reload: ReloadControl,
    /// The heartbeats that show stalled workers.
    pub heartbeats: WorkerHeartbeats,
    /// The state of the drain.
    pub drain: Arc<Drain>,
    /// The level of the program's log, if the process has one of its own.
    pub log_level: OnceLock<LogLevel>,
}

impl Lifecycle {
    /// The lifecycle of a process that begins now.
    pub fn begin(reload: ReloadControl, metrics: &Metrics, clock: &Clock) -> Self {
        Self {
            began_ms: clock.unix_ms(),
            reload,
            heartbeats: WorkerHeartbeats::new(metrics.workers.clone()),
            drain: Arc::default(),
            log_level: OnceLock::new(),
        }
    }
}
