//! Refusal counts: how often requests of one party were refused, by reason.
//!
//! Of many thousand parties few are ever refused a request, so the counters of a party are allocated with its first
//! refusal.

use std::cmp::Reverse;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

use crate::refusal::Refusal;

const REASONS: usize = Refusal::SLUGS.len();

/// Refusals of one party's verified requests since the process started.
#[derive(Default)]
pub struct RefusalCounts(OnceLock<Box<RefusalCounters>>);

struct RefusalCounters {
    /// In the order of [`Refusal::SLUGS`].
    by_reason: [AtomicU64; REASONS],
    last_ms: AtomicU64,
}

/// The values of [`RefusalCounts`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusalView {
    /// Requests that were refused, for any reason.
    pub refused: u64,
    /// The refusals by reason, the most frequent first; reasons that did not occur are left out.
    #[serde(rename = "refusals", skip_serializing_if = "ByReason::is_empty")]
    pub by_reason: ByReason,
}

/// Reasons by slug, each with its count: an object in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByReason(Vec<(&'static str, u64)>);

impl RefusalCounts {
    /// Counts a refusal by its slug, at a time in milliseconds since 1970.
    pub fn count(&self, slug: &str, now_ms: u64) {
        let counts = self.0.get_or_init(|| {
            Box::new(RefusalCounters {
                by_reason: [const { AtomicU64::new(0) }; REASONS],
                last_ms: AtomicU64::new(0),
            })
        });
        let reasons = Refusal::SLUGS.iter().zip(&counts.by_reason);
        for (_, count) in reasons.filter(|(reason, _)| **reason == slug) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        counts.last_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// When the last refusal was, in milliseconds since 1970.
    pub fn last_ms(&self) -> Option<u64> {
        let counts = self.0.get()?;
        Some(counts.last_ms.load(Ordering::Relaxed))
    }

    /// The number of refusals, for any reason.
    pub fn total(&self) -> u64 {
        self.each().sum()
    }

    /// The view of all counts.
    pub fn view(&self) -> RefusalView {
        let by_reason = Refusal::SLUGS.into_iter().zip(self.each());
        let mut by_reason: Vec<_> = by_reason.filter(|(_, count)| *count > 0).collect();
        by_reason.sort_by_key(|(slug, count)| (Reverse(*count), *slug));
        RefusalView {
            refused: by_reason.iter().map(|(_, count)| count).sum(),
            by_reason: ByReason(by_reason),
        }
    }

    fn each(&self) -> impl Iterator<Item = u64> {
        let counts = self.0.get().into_iter();
        let counts = counts.flat_map(|counts| &counts.by_reason);
        counts.map(|count| count.load(Ordering::Relaxed))
    }
}

impl ByReason {
    /// Whether there was no refusal.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for ByReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_counted_by_itself_and_the_most_frequent_is_first() {
        let counts = RefusalCounts::default();
        for (times, slug) in Refusal::SLUGS.iter().enumerate() {
            for _ in 0..times {
                counts.count(slug, 1_000 + times as u64);
            }
        }
        let view = counts.view();
        let wanted = (1..REASONS).rev();
        let wanted = wanted.map(|times| (Refusal::SLUGS[times], times as u64));
        assert_eq!(view.by_reason.0, wanted.collect::<Vec<_>>());
        let most = REASONS as u64 - 1;
        assert_eq!(view.refused, most * (most + 1) / 2);
        assert_eq!(
            (counts.total(), counts.last_ms()),
            (view.refused, Some(1_000 + most))
        );
    }

    #[test]
    fn a_party_that_is_refused_nothing_has_two_words_of_counters() {
        let counts = RefusalCounts::default();
        let nothing = serde_json::json!({ "refused": 0 });
        assert_eq!(serde_json::to_value(counts.view()).unwrap(), nothing);
        assert!(counts.0.get().is_none());
        assert!(size_of::<RefusalCounts>() <= 2 * size_of::<usize>());
        counts.count("replayed", 7);
        let one = serde_json::json!({ "refused": 1, "refusals": { "replayed": 1 } });
        assert_eq!(serde_json::to_value(counts.view()).unwrap(), one);
    }
}
