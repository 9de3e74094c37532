//! What is counted of the journal, and when it begins a new file.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

/// When a new file is begun.
#[derive(Debug, Clone, Copy)]
pub struct FileRotation {
    /// Before a file would be larger, in bytes.
    pub bytes: u64,
    /// When a file is older.
    pub age: Duration,
}

/// What is counted.
#[derive(Clone)]
pub struct JournalMeters {
    /// Records written and synced.
    pub records: IntCounter,
    /// Syncs; records per sync say how well calls share them.
    pub syncs: Histogram,
    /// 1 while it can be written.
    pub available: IntGauge,
}
