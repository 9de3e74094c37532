//! Notes: the log's lines about the store when a sign of life shows a change.

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
    is_skewed: bool,
    /// Whether nothing is deleted for its age.
    keeps: bool,
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
        let max_skew_ms = self.max_skew_ms;
        match told.standbys(asynchronous(view.replication)) {
            None => {}
            Some(0) => tracing::info!("the store has no asynchronous standbys any more"),
            Some(standbys) => tracing::warn!(
                standbys,
                "the store's standbys are asynchronous: a failover can lose commits, and an old primary that still answers admits stamps again"
            ),
        }
        match told.keeps(view.time.keeps) {
            None => {}
            Some(false) => {
                tracing::info!("the store's clock is trusted again: old rows are deleted");
            }
            Some(true) => tracing::error!(
                step_ms = view.time.apart_ms,
                "the store's clock has stepped, or nothing used the store for more than a day: nothing is deleted for its age, and a step does not count as time, for 25 hours or until `gatepay-proxy store distrust` accepts the clock"
            ),
        }
        match told.skew(offset_ms, max_skew_ms) {
            None => {}
            Some(false) => {
                tracing::info!(
                    offset_ms,
                    "the store's clock and this machine's agree again"
                );
            }
            Some(true) => tracing::warn!(
                offset_ms,
                max_skew_ms,
                "the store's clock and this machine's differ: beyond max_skew_ms this instance is not ready"
            ),
        }
    }
}

impl ToldState {
    /// The number of asynchronous standbys, if it has changed.
    fn standbys(&mut self, now: u32) -> Option<u32> {
        let before = std::mem::replace(&mut self.asynchronous, now);
        (before != now).then_some(now)
    }

    /// Whether nothing is deleted for its age, if that has changed.
    fn keeps(&mut self, now: bool) -> Option<bool> {
        let before = std::mem::replace(&mut self.keeps, now);
        (before != now).then_some(now)
    }

    /// Whether the clocks differ too much, if that has changed. They have to come closer to agree again than they had to
    /// part, so that clocks at the edge are told once.
    fn skew(&mut self, offset_ms: i64, max_skew_ms: u64) -> Option<bool> {
        let apart_ms = offset_ms.unsigned_abs();
        let is_skewed = if self.is_skewed {
            apart_ms > max_skew_ms / 4
        } else {
            apart_ms > max_skew_ms / 2
        };
        let was_skewed = std::mem::replace(&mut self.is_skewed, is_skewed);
        (was_skewed != is_skewed).then_some(is_skewed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_standbys_is_told_once() {
        let mut told = ToldState::default();
        let changes = [0, 2, 2, 1, 0, 0].map(|standbys| told.standbys(standbys));
        assert_eq!(changes, [None, Some(2), None, Some(1), Some(0), None]);
    }

    #[test]
    fn a_clock_in_doubt_is_told_once_and_its_end_once() {
        let mut told = ToldState::default();
        let changes = [false, true, true, false, false].map(|keeps| told.keeps(keeps));
        assert_eq!(changes, [None, Some(true), None, Some(false), None]);
    }

    #[test]
    fn clocks_at_the_edge_are_told_once_in_either_direction() {
        let mut told = ToldState::default();
        let offsets = [400, 501, 499, 501, 251, 250, 499, -501, -260, 0];
        let changes = offsets.map(|offset_ms| told.skew(offset_ms, 1_000));
        let told: Vec<_> = changes.into_iter().flatten().collect();
        assert_eq!(told, [true, false, true, false]);
        assert_eq!(changes[1], Some(true));
        assert_eq!(changes[5], Some(false));
    }
}
