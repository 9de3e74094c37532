//! Notes: what the log says about the store when a sign of life shows a change.

use gatepay_store::instance::ClusterView;
use parking_lot::Mutex;

use crate::cluster::meters::asynchronous;

/// The last state of the store that the log told.
pub(super) struct ClusterNotes {
    max_skew_ms: u64,
    told: Mutex<ToldState>,
}

#[derive(Default)]
struct ToldState {
    /// Standbys that no commit waits for.
    asynchronous: u32,
    skewed: bool,
}

impl ClusterNotes {
    pub(super) fn new(max_skew_ms: u64) -> Self {
        Self {
            max_skew_ms,
            told: Mutex::default(),
        }
    }

    /// Compares a view with the state that was told last. `offset_ms` is the store's clock less this machine's.
    pub(super) fn hear(&self, view: &ClusterView, offset_ms: i64) {
        let mut told = self.told.lock();
        let standbys = asynchronous(view.replication);
        if standbys != told.asynchronous {
            told.asynchronous = standbys;
            if standbys > 0 {
                tracing::warn!(
                    standbys,
                    "the store's standbys are asynchronous: a failover can lose commits, and an old primary that still answers admits stamps again"
                );
            } else {
                tracing::info!("the store has no asynchronous standbys any more");
            }
        }
        // A second threshold below the first, so that a clock at the edge is told once.
        let apart = offset_ms.unsigned_abs();
        let max_skew_ms = self.max_skew_ms;
        if !told.skewed && apart > max_skew_ms / 2 {
            told.skewed = true;
            tracing::warn!(
                offset_ms,
                max_skew_ms,
                "the store's clock and this machine's differ: beyond max_skew_ms this instance is not ready"
            );
        } else if told.skewed && apart <= max_skew_ms / 4 {
            told.skewed = false;
            tracing::info!(
                offset_ms,
                "the store's clock and this machine's agree again"
            );
        }
    }
}
