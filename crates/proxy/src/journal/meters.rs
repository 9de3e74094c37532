//! Journal metrics, and the limits of a journal file.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};

/// The limits at which a new file is begun.
#[derive(Debug, Clone, Copy)]
pub struct FileRotation {
    /// The size that a file must not exceed, in bytes.
    pub bytes: u64,
    /// The age after which a file is replaced by a new file.
    pub age: Duration,
}

/// The metrics of the journal.
#[derive(Clone)]
pub struct JournalMeters {
    /// Records written and synced.
    pub records: IntCounter,
    /// Durations of syncs in seconds. Records per sync show how well calls share syncs.
    pub syncs: Histogram,
    /// 1 while the journal can be written.
    pub available: IntGauge,
}
