//! Halt check: whether an admitted call may still be sent, asked before each attempt's first byte.
//!
//! The store's verdict proves that no halt covered the call when it was admitted. A halt that was set later is in the view
//! of the cluster that the next sign of life shows. The check is made under the lock of the view, which is held while the
//! first bytes are handed to the kernel: an instance that confirms a halt to the store has the halt's view in place, so none
//! of its calls is still to be sent by the view before.

use std::sync::Arc;
use std::time::Duration;

use gatepay_core::Operation;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::ClusterView;
use parking_lot::RwLock;

use crate::cluster::meters::ClusterMeters;
use crate::process::clock::Clock;

/// The latest view of the cluster that a sign of life showed.
pub(super) struct LatestView {
    /// A worker reads it locked while it hands a call's first bytes to the kernel.
    seen: RwLock<Option<Arc<SeenCluster>>>,
    clock: Clock,
    meters: ClusterMeters,
}

/// The cluster as a sign of life showed it.
pub(super) struct SeenCluster {
    pub(super) view: ClusterView,
    /// When it was asked for, in the clock's elapsed time.
    pub(super) asked: Duration,
    /// The same in milliseconds since 1970: the clock of elapsed time stands still while the machine does.
    pub(super) asked_unix_ms: u64,
    /// When the answer was there, in the clock's elapsed time.
    pub(super) answered: Duration,
}

/// The halts that one call has to pass before a byte of it is sent.
pub struct HaltCheck<'a> {
    latest: &'a LatestView,
    operation: &'a Operation,
    party: &'a str,
    /// When the store was asked for the call's verdict; `None` for a read that goes on without the store.
    asked: Option<Duration>,
}

/// Why an admitted call must not be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopBeforeSending {
    /// A halt covers it.
    Halted,
    /// Its party is suspended.
    Suspended,
    /// The newest sign of life is too old to rule out a halt.
    NoLease,
}

/// How old the newest sign of life may be when a call is sent. The store counts an instance as gone after
/// [`LOST_AFTER_MS`](gatepay_store::instance::LOST_AFTER_MS), which is longer, so that a halt need not wait for it.
const LEASE: Duration = Duration::from_secs(4);

impl LatestView {
    /// No view yet.
    pub(super) fn new(clock: Clock, meters: ClusterMeters) -> Self {
        Self {
            seen: RwLock::default(),
            clock,
            meters,
        }
    }

    /// The latest view, if a sign of life was answered.
    pub(super) fn get(&self) -> Option<Arc<SeenCluster>> {
        self.seen.read().clone()
    }

    /// Puts another view in place. When this returns, no call is still to be sent by the view before.
    pub(super) fn replace(&self, seen: SeenCluster) {
        *self.seen.write() = Some(Arc::new(seen));
    }

    /// The check for one call.
    pub(super) fn check<'a>(
        &'a self,
        operation: &'a Operation,
        party: &'a str,
        asked: Option<Duration>,
    ) -> HaltCheck<'a> {
        HaltCheck {
            latest: self,
            operation,
            party,
            asked,
        }
    }
}

impl HaltCheck<'_> {
    /// Runs `send`, which hands the first bytes of the call to the kernel, unless the call must not be sent any more.
    pub fn pass<T>(&self, send: impl FnOnce() -> T) -> Result<T, StopBeforeSending> {
        let seen = self.latest.seen.read();
        let Err(stop) = self.judge(seen.as_deref()) else {
            return Ok(send());
        };
        drop(seen);
        self.latest.meters.refused(match stop {
            StopBeforeSending::Halted | StopBeforeSending::Suspended => "halted",
            StopBeforeSending::NoLease => "away",
        });
        Err(stop)
    }

    fn judge(&self, seen: Option<&SeenCluster>) -> Result<(), StopBeforeSending> {
        // Before the first view the halts in force are unknown, also to a read that goes on without the store.
        let seen = seen.ok_or(StopBeforeSending::NoLease)?;
        let Some(asked) = self.asked else {
            return self.covering(&seen.view).map_or(Ok(()), Err);
        };
        // A verdict that was asked for after the view was there is the newer word: a halt in the view was lifted since.
        if asked <= seen.answered
            && let Some(stop) = self.covering(&seen.view)
        {
            return Err(stop);
        }
        let clock = &self.latest.clock;
        let passed = clock.elapsed().saturating_sub(seen.asked);
        let by_the_wall = clock.unix_ms().saturating_sub(seen.asked_unix_ms);
        if passed.max(Duration::from_millis(by_the_wall)) > LEASE {
            return Err(StopBeforeSending::NoLease);
        }
        Ok(())
    }

    fn covering(&self, view: &ClusterView) -> Option<StopBeforeSending> {
        let Operation { kind, module, .. } = self.operation;
        let mut halts = view.halts.iter().map(|halt| &halt.scope);
        let covering = halts.find(|scope| scope.covers(*kind, module.as_str(), self.party))?;
        Some(match covering {
            HaltScope::Suspended(_) => StopBeforeSending::Suspended,
            _ => StopBeforeSending::Halted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use gatepay_core::Catalogue;
    use gatepay_store::instance::{HaltInForce, Replication};

    const NOW: u64 = 1_767_225_600_000;
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        clock: Clock,
        latest: LatestView,
        catalogue: Catalogue,
    }

    impl World {
        fn new() -> Self {
            let (clock, catalogue) = (Clock::manual(NOW), Catalogue::standard());
            let meters = Metrics::new(&catalogue).cluster.clone();
            Self {
                latest: LatestView::new(clock.clone(), meters),
                clock,
                catalogue,
            }
        }

        /// A sign of life is answered now, and shows these halts.
        fn sees(&self, halts: &[&str]) {
            let now = self.clock.elapsed();
            let halts = halts.iter().map(|scope| HaltInForce {
                scope: HaltScope::parse(scope).unwrap(),
                since_ms: NOW,
                by: "alice".to_owned(),
                epoch: 1,
            });
            self.latest.replace(SeenCluster {
                view: ClusterView {
                    now_ms: NOW,
                    guarded_until: 0,
                    instances: Vec::new(),
                    gone: Vec::new(),
                    halts: halts.collect(),
                    halt_epoch: 1,
                    replication: Replication::None,
                },
                asked: now,
                asked_unix_ms: self.clock.unix_ms(),
                answered: now,
            });
        }

        /// Whether a call of acme's is sent, with a verdict that was asked for at this time.
        fn sends(&self, name: &str, asked: Option<Duration>) -> Result<(), StopBeforeSending> {
            let row = self.catalogue.named(name).unwrap();
            self.latest.check(row, "acme", asked).pass(|| ())
        }
    }

    #[test]
    fn a_halt_stops_the_calls_that_it_covers_unless_their_verdict_is_newer() {
        let world = World::new();
        let asked = Some(world.clock.elapsed());
        for (scope, name, stop) in [
            ("all", "query_order", Some(StopBeforeSending::Halted)),
            ("money", "refund_order", Some(StopBeforeSending::Halted)),
            ("money", "create_order", None),
            (
                "suspended:acme",
                "query_order",
                Some(StopBeforeSending::Suspended),
            ),
            ("suspended:globex", "query_order", None),
            (
                "party:acme",
                "refund_order",
                Some(StopBeforeSending::Halted),
            ),
            ("party:acme", "query_order", None),
        ] {
            world.sees(&[scope]);
            assert_eq!(world.sends(name, asked).err(), stop, "{scope} {name}");
            assert_eq!(
                world.sends(name, None).err(),
                stop,
                "{scope} {name}, without the store"
            );
            world.clock.advance(Duration::from_millis(1));
            let newer = Some(world.clock.elapsed());
            assert_eq!(world.sends(name, newer), Ok(()), "{scope} {name}");
        }
    }

    #[test]
    fn without_a_recent_sign_of_life_nothing_is_sent_by_either_clock() {
        let world = World::new();
        let asked = || Some(world.clock.elapsed());
        let no_lease = Err(StopBeforeSending::NoLease);
        for asked in [asked(), None] {
            assert_eq!(
                world.sends("query_order", asked),
                no_lease,
                "before the first"
            );
        }
        world.sees(&[]);
        assert_eq!(world.sends("refund_order", asked()), Ok(()));
        world.clock.advance(4 * SECOND);
        assert_eq!(world.sends("query_order", asked()), Ok(()));
        world.clock.advance(Duration::from_millis(1));
        // A newer verdict is no sign of life: the store counts this instance as gone.
        assert_eq!(world.sends("query_order", asked()), no_lease);
        assert_eq!(
            world.sends("query_order", None),
            Ok(()),
            "a read that needs no store"
        );
        world.sees(&[]);
        assert_eq!(world.sends("refund_order", asked()), Ok(()));
        // The machine stood still.
        world.clock.step(5_000);
        assert_eq!(world.sends("refund_order", asked()), no_lease);
    }

    #[test]
    fn a_view_is_in_place_only_after_the_calls_that_are_being_sent_by_the_view_before() {
        let world = World::new();
        world.sees(&[]);
        let row = world.catalogue.named("refund_order").unwrap();
        let check = world.latest.check(row, "acme", Some(world.clock.elapsed()));
        let sent = std::sync::atomic::AtomicBool::new(false);
        let (in_place, sending) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let passed = check.pass(|| {
                scope.spawn(|| {
                    world.sees(&["all"]);
                    in_place
                        .send(sent.load(std::sync::atomic::Ordering::SeqCst))
                        .unwrap();
                });
                std::thread::sleep(Duration::from_millis(50));
                sent.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            assert_eq!(passed, Ok(()));
        });
        assert_eq!(sending.recv(), Ok(true));
        assert_eq!(check.pass(|| ()), Err(StopBeforeSending::Halted));
    }
}
