//! Halt check: whether an admitted call may still be sent, asked before each attempt's first byte.
//!
//! The store's verdict proves that no halt covered the call when it was admitted. A halt that was set later is in the view
//! of the cluster that the next sign of life shows. The check is made under the lock of the view, which is held while the
//! first bytes are handed to the kernel: an instance that confirms a halt to the store has the halt's view in place, so none
//! of its calls is still to be sent by the view before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_admission::seats::SeatLimit;
use gatepay_core::Kind;
use gatepay_core::operation::ApiModule;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::{ClusterView, HaltInForce};
use gatepay_tenancy::PartyId;
use parking_lot::{Mutex, RwLock};

use crate::cluster::fingerprint::FingerprintKey;
use crate::cluster::halt_cache::HaltCache;
use crate::cluster::meters::ClusterMeters;
use crate::process::clock::Clock;

/// The latest view of the cluster that a sign of life showed.
pub(super) struct LatestView {
    /// A worker reads it locked while it hands a call's first bytes to the kernel.
    seen: RwLock<Option<Arc<SeenCluster>>>,
    /// Set while the store may lose commits: only reads that go on without it are sent. Changed with `seen` locked.
    is_revoked: AtomicBool,
    /// Set before this instance leaves the store: nothing is sent any more. Changed with `seen` locked.
    is_closed: AtomicBool,
    /// The halts that the last run of this folder saw, until the first view.
    left: Mutex<Option<HaltCache>>,
    /// The halts that this instance set and that no view has shown yet.
    ordered: Mutex<Vec<HaltInForce>>,
    /// Stamps up to here are refused by the store, in milliseconds since 1970.
    guarded_until: AtomicU64,
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

/// The properties of a call that halts go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaltableCall<'a> {
    /// Whether it reads, writes or moves money.
    pub kind: Kind,
    /// Its operation's module, or that of payouts for a refund that may pay out.
    pub module: ApiModule,
    /// The party that makes it. Few calls meet a halt, so few read the id, which lies in a far cache line.
    pub party: &'a PartyId,
}

/// The halts that one call has to pass before a byte of it is sent.
pub struct HaltCheck<'a> {
    latest: &'a LatestView,
    call: HaltableCall<'a>,
    /// The party's seats, which are closed while this process by itself has it suspended.
    seats: &'a SeatLimit,
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
            is_revoked: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            left: Mutex::default(),
            ordered: Mutex::default(),
            guarded_until: AtomicU64::new(0),
            clock,
            meters,
        }
    }

    /// The latest view, if a sign of life was answered.
    pub(super) fn get(&self) -> Option<Arc<SeenCluster>> {
        self.seen.read().clone()
    }

    /// Takes over the halts that the last run of this folder saw.
    pub(super) fn take_over(&self, left: Option<HaltCache>) {
        *self.left.lock() = left;
    }

    /// Takes the halts of the last run to this store if it had another one. Returns their number.
    pub(super) fn move_halts_of_another_store(&self, key: &FingerprintKey) -> usize {
        let of_another = self.left.lock().take_if(|left| !left.is_of(key));
        let halts = of_another.map_or_else(Vec::new, |left| left.halts());
        let number = halts.len();
        for halt in halts {
            self.note_order(halt);
        }
        number
    }

    /// Takes the halts to the store that the last run of this folder had without one.
    pub(super) fn move_own_halts(&self, halts: &[HaltInForce]) {
        for halt in halts {
            // Epochs of a store are times of its clock: one that was ended there later stays ended.
            let epoch = halt.since_ms.cast_signed();
            self.note_order(HaltInForce {
                epoch,
                ..halt.clone()
            });
        }
    }

    /// Whether every halt that this instance has for the store is in a view.
    pub(super) fn has_no_orders(&self) -> bool {
        self.ordered.lock().is_empty()
    }

    /// The halts in force as this instance saw them last, in this run or in the last one of its folder.
    pub(super) fn known_halts(&self) -> Option<Vec<HaltInForce>> {
        let seen = self.get().map(|seen| seen.view.halts.clone());
        seen.or_else(|| self.left.lock().as_ref().map(HaltCache::halts))
    }

    /// Notes a halt that the store must have: a store that lacks it at the next sign of life gets it.
    pub(super) fn note_order(&self, halt: HaltInForce) {
        let mut ordered = self.ordered.lock();
        ordered.retain(|it| it.scope != halt.scope || it.epoch > halt.epoch);
        if !ordered.iter().any(|it| it.scope == halt.scope) {
            ordered.push(halt);
        }
    }

    /// Whether no view has shown yet what became of a halt that this instance set.
    pub(super) fn awaits(&self, scope: &HaltScope, epoch: i64) -> bool {
        let ordered = self.ordered.lock();
        ordered
            .iter()
            .any(|it| it.scope == *scope && it.epoch >= epoch)
    }

    /// The halts that the next sign of life tells: those that were seen last, and those that this instance set since.
    pub(super) fn halts_to_tell(&self) -> Vec<HaltInForce> {
        // The orders first: one that leaves them meanwhile is in the view.
        let ordered = self.ordered.lock().clone();
        let mut halts = self.known_halts().unwrap_or_default();
        for halt in ordered {
            halts.retain(|it| it.scope != halt.scope || it.epoch > halt.epoch);
            if !halts.iter().any(|it| it.scope == halt.scope) {
                halts.push(halt);
            }
        }
        halts
    }

    /// Forgets the orders that a sign of life told and its view answered.
    pub(super) fn forget_orders(&self, told: &[HaltInForce]) {
        self.ordered.lock().retain(|it| !told.contains(it));
    }

    /// Stamps up to here are refused by the store, in milliseconds since 1970.
    pub(super) fn guarded_until(&self) -> u64 {
        self.guarded_until.load(Ordering::Acquire)
    }

    /// Raises the guard. Returns whether it is new.
    pub(super) fn raise_guard(&self, until: u64) -> bool {
        self.guarded_until.fetch_max(until, Ordering::AcqRel) < until
    }

    /// Puts another view in place. When this returns, no call is still to be sent by the view before.
    pub(super) fn replace(&self, seen: SeenCluster) {
        let mut place = self.seen.write();
        *place = Some(Arc::new(seen));
        self.is_revoked.store(false, Ordering::Release);
    }

    /// Ends the lease until the next view. When this returns, no call is still to be sent by the view before.
    pub(super) fn revoke(&self) {
        let _no_call_is_being_sent = self.seen.write();
        self.is_revoked.store(true, Ordering::Release);
    }

    /// Ends the lease for good. When this returns, no call is still to be sent, also by a worker that is stuck.
    pub(super) fn close(&self) {
        let _no_call_is_being_sent = self.seen.write();
        self.is_closed.store(true, Ordering::Release);
    }

    /// The check for one call.
    pub(super) fn check<'a>(
        &'a self,
        call: HaltableCall<'a>,
        seats: &'a SeatLimit,
        asked: Option<Duration>,
    ) -> HaltCheck<'a> {
        HaltCheck {
            latest: self,
            call,
            seats,
            asked,
        }
    }
}

impl HaltableCall<'_> {
    /// Whether a halt of this scope covers the call.
    pub(super) fn is_covered_by(&self, scope: &HaltScope) -> bool {
        scope.covers(self.kind, self.module.as_str(), self.party.as_str())
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
        if self.seats.is_closed() {
            return Err(StopBeforeSending::Suspended);
        }
        if self.latest.is_closed.load(Ordering::Acquire) {
            return Err(StopBeforeSending::NoLease);
        }
        let (Some(asked), Some(seen)) = (self.asked, seen) else {
            return self.judge_alone(seen);
        };
        // A verdict that was asked for after the view was there is the newer word: a halt in the view was lifted since. If the
        // store has another guard since then, it may have lost the halt.
        let guarded_anew = self.latest.guarded_until() > seen.view.guarded_until;
        if (guarded_anew || asked <= seen.answered)
            && let Some(stop) = self.covering(&seen.view.halts)
        {
            return Err(stop);
        }
        if self.latest.is_revoked.load(Ordering::Acquire) {
            return Err(StopBeforeSending::NoLease);
        }
        let clock = &self.latest.clock;
        let passed = clock.elapsed().saturating_sub(seen.asked);
        let by_the_wall = clock.unix_ms().saturating_sub(seen.asked_unix_ms);
        if passed.max(Duration::from_millis(by_the_wall)) > LEASE {
            return Err(StopBeforeSending::NoLease);
        }
        Ok(())
    }

    /// The judgment of a read that goes on without the store, by the halts that were seen last. Before any were seen the
    /// halts in force are unknown, and any other call needs a view.
    fn judge_alone(&self, seen: Option<&SeenCluster>) -> Result<(), StopBeforeSending> {
        let left = self.latest.left.lock();
        let covering = match (seen, &*left) {
            _ if self.asked.is_some() => return Err(StopBeforeSending::NoLease),
            (Some(seen), _) => self.covering(&seen.view.halts),
            (None, Some(left)) => self.covering(&left.halts()),
            (None, None) => return Err(StopBeforeSending::NoLease),
        };
        covering.map_or(Ok(()), Err)
    }

    fn covering(&self, halts: &[HaltInForce]) -> Option<StopBeforeSending> {
        let mut halts = halts.iter().map(|halt| &halt.scope);
        let covering = halts.find(|scope| self.call.is_covered_by(scope))?;
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
    use gatepay_store::instance::Replication;
    use gatepay_store::store_clock::StoreTime;
    use gatepay_tenancy::settings::MetricsSettings;
    use std::num::NonZeroU32;

    const NOW: u64 = 1_767_225_600_000;
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        clock: Clock,
        latest: LatestView,
        catalogue: Catalogue,
        party: PartyId,
        seats: SeatLimit,
    }

    impl World {
        fn new() -> Self {
            let (clock, catalogue) = (Clock::manual(NOW), Catalogue::standard());
            let meters = Metrics::new(&catalogue, &MetricsSettings::default())
                .cluster
                .clone();
            Self {
                latest: LatestView::new(clock.clone(), meters),
                clock,
                catalogue,
                party: PartyId::parse("acme").unwrap(),
                seats: SeatLimit::new(NonZeroU32::MIN),
            }
        }

        /// A sign of life is answered now, and shows these halts.
        fn sees(&self, halts: &[&str]) {
            let now = self.clock.elapsed();
            let halts = halts.iter().map(|scope| HaltInForce {
                scope: HaltScope::parse(scope),
                since_ms: NOW,
                by: "alice".to_owned(),
                epoch: 1,
            });
            self.latest.replace(SeenCluster {
                view: ClusterView {
                    now_ms: NOW,
                    time: StoreTime::default(),
                    guarded_until: 0,
                    instances: Vec::new(),
                    gone: Vec::new(),
                    halts: halts.collect(),
                    halt_epoch: 1,
                    brought_back: Vec::new(),
                    replication: Replication::None,
                },
                asked: now,
                asked_unix_ms: self.clock.unix_ms(),
                answered: now,
            });
        }

        /// A call of acme's.
        fn call(&self, name: &str) -> HaltableCall<'_> {
            let row = self.catalogue.named(name).unwrap();
            HaltableCall {
                kind: row.kind,
                module: row.module,
                party: &self.party,
            }
        }

        /// Whether a call of acme's is sent, with a verdict that was asked for at this time.
        fn sends(&self, name: &str, asked: Option<Duration>) -> Result<(), StopBeforeSending> {
            let call = self.call(name);
            self.latest.check(call, &self.seats, asked).pass(|| ())
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
    fn a_halt_of_payouts_stops_an_admitted_refund_that_pays_out() {
        let world = World::new();
        let asked = Some(world.clock.elapsed());
        world.sees(&["module:payout"]);
        let refund = world.call("refund_order_v2");
        let paying_out = HaltableCall {
            module: ApiModule::Payout,
            ..refund
        };
        let sends = |call| world.latest.check(call, &world.seats, asked).pass(|| ());
        assert_eq!(sends(refund), Ok(()));
        assert_eq!(sends(paying_out), Err(StopBeforeSending::Halted));
    }

    #[test]
    fn a_party_that_this_process_suspends_is_stopped_by_either_verdict() {
        let world = World::new();
        world.sees(&[]);
        world.seats.close(true);
        for asked in [Some(world.clock.elapsed()), None] {
            let sent = world.sends("query_order", asked);
            assert_eq!(sent, Err(StopBeforeSending::Suspended));
        }
        world.seats.close(false);
        assert_eq!(world.sends("query_order", None), Ok(()));
    }

    #[test]
    fn a_halt_that_this_instance_set_is_told_until_a_view_has_answered_it() {
        let world = World::new();
        let halt = |epoch| HaltInForce {
            scope: HaltScope::Suspended("acme".to_owned()),
            since_ms: NOW,
            by: "alice".to_owned(),
            epoch,
        };
        let is_awaited = |epoch| world.latest.awaits(&halt(epoch).scope, epoch);
        world.sees(&["suspended:acme"]);
        world.latest.note_order(halt(2));
        let told = world.latest.halts_to_tell();
        assert_eq!(told, [halt(2)], "the newer order of a scope");
        // Set once more, while the sign of life was under way.
        world.latest.note_order(halt(3));
        world.latest.note_order(halt(2));
        world.sees(&[]);
        world.latest.forget_orders(&told);
        assert!(is_awaited(3) && is_awaited(2) && !is_awaited(4));
        let told = world.latest.halts_to_tell();
        assert_eq!(told, [halt(3)]);
        world.latest.forget_orders(&told);
        assert!(!is_awaited(3));
        assert_eq!(world.latest.halts_to_tell(), []);
    }

    #[test]
    fn a_verdict_of_a_store_with_a_new_guard_does_not_outweigh_a_halt_that_was_seen_before() {
        let world = World::new();
        world.sees(&["suspended:acme"]);
        world.clock.advance(Duration::from_millis(1));
        let newer = Some(world.clock.elapsed());
        assert_eq!(world.sends("query_order", newer), Ok(()));
        assert!(world.latest.raise_guard(NOW));
        let stopped = Err(StopBeforeSending::Suspended);
        assert_eq!(world.sends("query_order", newer), stopped);
    }

    #[test]
    fn before_the_first_view_a_read_without_the_store_passes_the_halts_of_the_last_run() {
        let world = World::new();
        let seen = |scope: &str| HaltInForce {
            scope: HaltScope::parse(scope),
            since_ms: NOW,
            by: "alice".to_owned(),
            epoch: 1,
        };
        let key = FingerprintKey::new(zeroize::Zeroizing::new([1; 16]));
        let left = HaltCache::new(&key, &[seen("suspended:acme")]);
        world.latest.take_over(Some(left));
        let stopped = Err(StopBeforeSending::Suspended);
        assert_eq!(world.sends("query_order", None), stopped);
        let left = HaltCache::new(&key, &[seen("suspended:globex")]);
        world.latest.take_over(Some(left));
        assert_eq!(world.sends("query_order", None), Ok(()));
        let no_lease = Err(StopBeforeSending::NoLease);
        let asked = Some(world.clock.elapsed());
        assert_eq!(world.sends("query_order", asked), no_lease);
        let another = FingerprintKey::new(zeroize::Zeroizing::new([2; 16]));
        assert_eq!(world.latest.move_halts_of_another_store(&another), 1);
        assert_eq!(world.sends("query_order", None), no_lease);
        assert_eq!(world.latest.halts_to_tell(), [seen("suspended:globex")]);
    }

    #[test]
    fn a_lease_that_is_revoked_comes_back_with_the_next_view_and_one_that_is_closed_does_not() {
        let world = World::new();
        world.sees(&[]);
        let asked = Some(world.clock.elapsed());
        let no_lease = Err(StopBeforeSending::NoLease);
        world.latest.revoke();
        assert_eq!(world.sends("refund_order", asked), no_lease);
        assert_eq!(world.sends("query_order", None), Ok(()));
        world.sees(&[]);
        assert_eq!(world.sends("refund_order", asked), Ok(()));
        world.latest.close();
        world.sees(&[]);
        for asked in [asked, None] {
            assert_eq!(world.sends("query_order", asked), no_lease);
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
        let (call, asked) = (world.call("refund_order"), world.clock.elapsed());
        let check = world.latest.check(call, &world.seats, Some(asked));
        let sent = AtomicBool::new(false);
        let (in_place, sending) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let passed = check.pass(|| {
                scope.spawn(|| {
                    world.sees(&["all"]);
                    in_place.send(sent.load(Ordering::SeqCst)).unwrap();
                });
                std::thread::sleep(Duration::from_millis(50));
                sent.store(true, Ordering::SeqCst);
            });
            assert_eq!(passed, Ok(()));
        });
        assert_eq!(sending.recv(), Ok(true));
        assert_eq!(check.pass(|| ()), Err(StopBeforeSending::Halted));
    }
}
