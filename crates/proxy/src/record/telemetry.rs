//! Telemetry: the parts of the program that the record of every request needs.

use std::sync::Arc;

use gatepay_admission::replay::{EarlierCopy, Replay, StampFingerprint};
use gatepay_store::sqlite::file_place::FilePlace;

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
#[derive(Debug, Clone)]
pub enum CopiesElsewhere {
    /// None: the replay memory is complete.
    None,
    /// Those that processes with the same store may have admitted.
    ByStore {
        /// Up to here, in milliseconds since 1970, are the stamps that an earlier run may have admitted.
        earlier_ms: u64,
        /// The processes beside this one.
        others: OtherProcesses,
    },
}

/// The processes that may admit requests with the store beside this one.
#[derive(Debug, Clone)]
pub enum OtherProcesses {
    /// Some: instances share the store, or a run that is not known may have had the file.
    Any,
    /// None, as long as the file lies where this process opened it.
    NoneWithFile(Arc<FilePlace>),
}

impl CopiesElsewhere {
    /// Why another process may have admitted a copy.
    pub fn of(&self, print: StampFingerprint) -> Option<EarlierCopy> {
        let Self::ByStore { earlier_ms, others } = self else {
            return None;
        };
        match others {
            _ if print.stamp_ms() <= *earlier_ms => Some(EarlierCopy::BeforeTheStart),
            // The run before may have admitted the nonce with an earlier timestamp.
            OtherProcesses::NoneWithFile(_) if print.is_by_nonce() => {
                Some(EarlierCopy::BeforeTheStart)
            }
            // Looked at now: another file may lie there since the last sign of life.
            OtherProcesses::NoneWithFile(place) if place.is_kept() => None,
            OtherProcesses::Any | OtherProcesses::NoneWithFile(_) => {
                Some(EarlierCopy::OtherInstance)
            }
        }
    }
}

impl OtherProcesses {
    /// Those with a file that one process has at a time. A run with this folder admitted no stamp above its mark, however its
    /// clock was set. If the file is guarded beyond the mark, another run may have had it since; before its first mark the folder
    /// knows of none.
    pub fn with_file((mark_ms, guarded_until): (u64, u64), place: &Arc<FilePlace>) -> Self {
        if mark_ms == 0 || guarded_until > mark_ms {
            return Self::Any;
        }
        Self::NoneWithFile(Arc::clone(place))
    }
}

#[cfg(test)]
mod tests {
    use gatepay_admission::replay::Replay;
    use gatepay_core::Stamp;
    use gatepay_store::settings::{SqliteSettings, StoreTerms};
    use gatepay_store::sqlite::SqliteStore;
    use gatepay_tenancy::ReplayRule;
    use gatepay_tenancy::party::DEFAULT_WINDOW;
    use tempfile::TempDir;

    use super::*;

    /// The place of a store's file in this folder.
    fn place_in(folder: &TempDir) -> Arc<FilePlace> {
        let settings = SqliteSettings {
            path: folder.path().join("gatepay.db"),
            contact_file: folder.path().join("store-contact"),
        };
        let store = SqliteStore::open(&settings, StoreTerms::default()).unwrap();
        store.place()
    }

    /// The copy for which a stamp is in doubt.
    fn doubt(others: &OtherProcesses, stamp_ms: &str, rule: ReplayRule) -> Option<EarlierCopy> {
        let replay = Replay::new(DEFAULT_WINDOW, 10, [7; 16], 0);
        let stamp = Stamp::parse(stamp_ms.as_bytes(), b"a-nonce").unwrap();
        let elsewhere = CopiesElsewhere::ByStore {
            earlier_ms: 1_767_225_600_000,
            others: others.clone(),
        };
        elsewhere.of(replay.fingerprint("client", &stamp, rule))
    }

    /// The latest stamp of the run before, and the first after it.
    const STAMPS: (&str, &str) = ("1767225600000", "1767225600001");

    #[test]
    fn a_stamp_after_all_of_the_run_before_is_in_doubt_only_by_its_nonce() {
        let (last, later) = STAMPS;
        let folder = tempfile::tempdir().unwrap();
        let alone = OtherProcesses::NoneWithFile(place_in(&folder));
        let before = Some(EarlierCopy::BeforeTheStart);
        assert_eq!(doubt(&alone, last, ReplayRule::Pair), before);
        assert_eq!(doubt(&alone, later, ReplayRule::Pair), None);
        assert_eq!(doubt(&alone, later, ReplayRule::Nonce), before);
        let any = &OtherProcesses::Any;
        let other = Some(EarlierCopy::OtherInstance);
        assert_eq!(doubt(any, later, ReplayRule::Pair), other);
        assert_eq!(doubt(any, later, ReplayRule::Nonce), other);
    }

    #[test]
    fn a_stamp_of_the_run_before_is_known_as_such_where_others_may_have_the_store_too() {
        let (last, _) = STAMPS;
        let before = Some(EarlierCopy::BeforeTheStart);
        let any = &OtherProcesses::Any;
        assert_eq!(doubt(any, last, ReplayRule::Pair), before);
        assert_eq!(doubt(any, last, ReplayRule::Nonce), before);
    }

    #[test]
    fn every_stamp_is_in_doubt_from_the_exchange_of_the_file_on() {
        let (_, later) = STAMPS;
        let folder = tempfile::tempdir().unwrap();
        let alone = OtherProcesses::NoneWithFile(place_in(&folder));
        assert_eq!(doubt(&alone, later, ReplayRule::Pair), None);
        let (file, away) = (folder.path().join("gatepay.db"), folder.path().join("away"));
        std::fs::rename(&file, &away).unwrap();
        let other = Some(EarlierCopy::OtherInstance);
        assert_eq!(doubt(&alone, later, ReplayRule::Pair), other);
        std::fs::rename(&away, &file).unwrap();
        assert_eq!(doubt(&alone, later, ReplayRule::Pair), other, "put back");
    }

    #[test]
    fn another_run_may_have_had_a_file_that_is_guarded_beyond_the_mark_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = place_in(&folder);
        let is_alone = |mark_ms, guarded_until| {
            let others = OtherProcesses::with_file((mark_ms, guarded_until), &place);
            matches!(others, OtherProcesses::NoneWithFile(_))
        };
        assert!(is_alone(500, 100));
        assert!(is_alone(500, 500));
        assert!(!is_alone(500, 501));
        assert!(!is_alone(0, 0));
    }
}
