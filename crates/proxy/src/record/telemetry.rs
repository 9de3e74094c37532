//! Telemetry: the parts of the program that the record of every request needs.

use std::sync::Arc;

use gatepay_admission::replay::{EarlierCopy, Replay, StampFingerprint};

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
    /// Which refused requests another process may have admitted a copy of.
    pub elsewhere: CopiesElsewhere,
    /// The counts for statements, if there is a store.
    pub usage: Option<Arc<UsageTally>>,
    /// Whether every answer states the rest of the caller's rate limit.
    pub ratelimit_headers: bool,
}

/// Which refused requests another process may have admitted a copy of, as far as the store was not asked. This process knows of
/// its own copies by the [replay memory](Telemetry::replay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiesElsewhere {
    /// None: the replay memory is complete.
    None,
    /// Those with stamps up to a time, in milliseconds since 1970, by an earlier run: the store is a file that no other process has
    /// beside this one.
    Until(u64),
    /// All: instances share the store, or a run that is not known may have had the file.
    Any,
}

impl CopiesElsewhere {
    /// Those by earlier runs with a file that one process has at a time. A run with this folder admitted no stamp above its mark,
    /// whatever its clock was. If the file is guarded beyond the mark, another run may have had it since; before its first mark the
    /// folder knows of none. `latest_ms` is the latest stamp that can be admitted by now.
    pub fn of_earlier_runs((mark_ms, guarded_until): (u64, u64), latest_ms: u64) -> Self {
        if mark_ms == 0 || guarded_until > mark_ms {
            return Self::Any;
        }
        Self::Until(latest_ms.max(mark_ms))
    }

    /// Why another process may have admitted a copy.
    pub fn of(self, print: StampFingerprint) -> Option<EarlierCopy> {
        match self {
            // The run before may have admitted the nonce with an earlier timestamp.
            Self::Until(until_ms) if print.is_by_nonce() || print.stamp_ms() <= until_ms => {
                Some(EarlierCopy::BeforeTheStart)
            }
            Self::None | Self::Until(_) => None,
            Self::Any => Some(EarlierCopy::OtherInstance),
        }
    }
}

#[cfg(test)]
mod tests {
    use gatepay_admission::replay::Replay;
    use gatepay_core::Stamp;
    use gatepay_tenancy::ReplayRule;
    use gatepay_tenancy::party::DEFAULT_WINDOW;

    use super::*;

    #[test]
    fn a_stamp_after_all_of_the_run_before_is_in_doubt_only_by_its_nonce() {
        let replay = Replay::new(DEFAULT_WINDOW, 10, [7; 16], 0);
        let doubts = |elsewhere: CopiesElsewhere, stamp_ms: &str, rule| {
            let stamp = Stamp::parse(stamp_ms.as_bytes(), b"a-nonce").unwrap();
            elsewhere.of(replay.fingerprint("client", &stamp, rule))
        };
        let (last, later) = ("1767225600000", "1767225600001");
        let until = CopiesElsewhere::Until(1_767_225_600_000);
        let before = Some(EarlierCopy::BeforeTheStart);
        assert_eq!(doubts(until, last, ReplayRule::Pair), before);
        assert_eq!(doubts(until, later, ReplayRule::Pair), None);
        assert_eq!(doubts(until, later, ReplayRule::Nonce), before);
        let any = doubts(CopiesElsewhere::Any, later, ReplayRule::Pair);
        assert_eq!(any, Some(EarlierCopy::OtherInstance));
        let none = doubts(CopiesElsewhere::None, last, ReplayRule::Nonce);
        assert_eq!(none, None);
    }

    #[test]
    fn earlier_runs_are_bounded_by_the_mark_that_the_folder_kept() {
        let of = |mark_ms, guarded_until, latest_ms| {
            CopiesElsewhere::of_earlier_runs((mark_ms, guarded_until), latest_ms)
        };
        assert_eq!(of(500, 100, 600), CopiesElsewhere::Until(600));
        // The clock of the run before was ahead of this one's.
        assert_eq!(of(900, 100, 600), CopiesElsewhere::Until(900));
        assert_eq!(of(0, 0, 600), CopiesElsewhere::Any);
        assert_eq!(of(500, 501, 600), CopiesElsewhere::Any);
    }
}
