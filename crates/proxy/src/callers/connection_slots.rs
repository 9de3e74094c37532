//! Connection slots: `listen.max_connections` slots, and the choice of the connection that gives its slot up when all
//! are taken.
//!
//! A new connection takes a free slot. If no slot is free, the longest idle connection of the holder with the most
//! slots is asked to leave. The holder of a connection is the party of its last verified request, or its address before
//! the first. If that holder has no idle connection, its connection with the longest wait for a slow body leaves,
//! because such a request is not verified yet. A connection with any other request under way is never asked. If no
//! connection can leave, new connections wait: a few of them accepted, the others in the backlog.
//!
//! A request takes no lock for this: [`ConnectionActivity`] holds the time at which its connection was last used. All
//! connections are ranked only when no slot is free, once for up to `RANKED` new connections.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, sleep};

use crate::callers::activity::{ConnectionActivity, LeaveReason};
use crate::callers::client_address::{ClientAddress, network};

/// The most connections that one ranking holds. Ranking 10,000 connections takes about a millisecond, so a new
/// connection that needs a slot costs some ten microseconds.
const RANKED: usize = 64;
/// How long a ranking is used.
const FRESH: Duration = Duration::from_millis(100);
/// The least time between two rankings, if no connection of the earlier one can leave any more.
const AGAIN: Duration = Duration::from_millis(20);
/// How many accepted connections may wait for a slot. They have no buffers yet.
pub const LINE: usize = 64;
/// How long a new connection waits for a slot before it tries again to make room.
const PATIENCE: Duration = Duration::from_millis(300);

/// The slots of all workers.
pub struct ConnectionSlots {
    free: Arc<Semaphore>,
    line: Arc<Semaphore>,
    taken: Mutex<TakenSlots>,
}

/// A connection's slot, held until dropped.
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue for a slot, taken before a connection is accepted.
pub struct AcceptPermit(OwnedSemaphorePermit);

/// The holder of a connection and its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotHolder {
    /// A party, by the number passed to [`verified`](crate::callers::activity::ActiveRequest::verified).
    Party(NonZeroUsize),
    /// An address, or an IPv6 /64, for a connection without a verified request.
    Address(IpAddr),
}

/// The outcome of an attempt to make room for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOutcome {
    /// A connection of this holder was asked to leave.
    Leaves(SlotHolder),
    /// No connection may leave.
    NoneIdle,
    /// The new connection's own address has more slots than any holder of a connection that may leave. All requests of
    /// that address are under way.
    Refused,
}

/// The connection is refused: its address has more slots than any holder that could give one up.
#[derive(Debug)]
pub struct SlotRefused;

#[derive(Default)]
struct TakenSlots {
    entries: HashMap<u64, SlotEntry>,
    next: u64,
    ranking: Option<SlotRanking>,
    /// When the last message was logged.
    last_logged: Option<Instant>,
}

struct SlotEntry {
    network: IpAddr,
    activity: Arc<ConnectionActivity>,
}

/// The connections that leave next, in this order.
struct SlotRanking {
    ranked_at: Instant,
    next: VecDeque<SlotCandidate>,
    /// How many slots each address has for connections without a verified request.
    addresses: HashMap<IpAddr, usize>,
}

struct SlotCandidate {
    number: u64,
    standing: SlotStanding,
    holder: SlotHolder,
    /// How many slots the holder has.
    held: usize,
}

/// Why a connection may leave, and since when. Idle connections leave before those with slow bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SlotStanding {
    /// No request is under way.
    Idle(Instant),
    /// All requests under way await slow bodies.
    Slow(Instant),
}

impl SlotStanding {
    fn of(activity: &ConnectionActivity) -> Option<Self> {
        let idle = activity.idle_since().map(Self::Idle);
        idle.or_else(|| activity.slow_since().map(Self::Slow))
    }

    /// Whether a connection that was ranked with this standing may still leave for it. A slow body may have progressed
    /// since, as long as it is still slow.
    fn is_still(self, activity: &ConnectionActivity) -> bool {
        match self {
            Self::Idle(since) => activity.idle_since() == Some(since),
            Self::Slow(_) => activity.slow_since().is_some(),
        }
    }

    fn reason(self) -> LeaveReason {
        match self {
            Self::Idle(_) => LeaveReason::Full,
            Self::Slow(_) => LeaveReason::SlowBody,
        }
    }
}

/// The slots of one holder, and its connections that may leave.
#[derive(Default)]
struct HolderSlots {
    slots: usize,
    may_leave: BinaryHeap<Reverse<(SlotStanding, u64)>>,
}

impl ConnectionSlots {
    /// Slots for `slots` connections, with a queue of `LINE`.
    pub fn new(slots: usize) -> Arc<Self> {
        Self::with_line(slots, LINE)
    }

    /// Slots for `slots` connections, with a shorter queue, for a process with few descriptors.
    pub fn of_few(slots: usize) -> Arc<Self> {
        Self::with_line(slots, LINE.min((slots / 2).max(1)))
    }

    fn with_line(slots: usize, line: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            line: Arc::new(Semaphore::new(line)),
            taken: Mutex::default(),
        })
    }

    /// Waits until one more connection may be accepted. Calls `full` if it has to wait.
    pub async fn line(&self, full: impl FnOnce()) -> AcceptPermit {
        let permit = match Arc::clone(&self.line).try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                full();
                let permit = Arc::clone(&self.line).acquire_owned().await;
                permit.expect("the semaphore is never closed")
            }
        };
        AcceptPermit(permit)
    }

    /// Waits for a slot for an accepted connection. `report` is called with the outcome of attempts to make room.
    ///
    /// # Errors
    /// If the connection's address has more slots than any holder that could give one up.
    pub async fn take(
        self: &Arc<Self>,
        line: AcceptPermit,
        origin: ClientAddress,
        activity: &Arc<ConnectionActivity>,
        report: impl Fn(SlotOutcome),
    ) -> Result<ConnectionSlot, SlotRefused> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.next(origin.attributable(), report).await?,
        };
        drop(line.0);
        let network = network(origin.address);
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        let activity = Arc::clone(activity);
        taken
            .entries
            .insert(number, SlotEntry { network, activity });
        Ok(ConnectionSlot {
            slots: Arc::clone(self),
            number,
            _permit: permit,
        })
    }

    /// Waits for the next slot that is given up. The connection keeps its turn while it tries again to make room.
    async fn next(
        &self,
        newcomer: Option<IpAddr>,
        report: impl Fn(SlotOutcome),
    ) -> Result<OwnedSemaphorePermit, SlotRefused> {
        let mut permit = pin!(Arc::clone(&self.free).acquire_owned());
        let mut waits = false;
        loop {
            let outcome = self.make_room(newcomer);
            if outcome != SlotOutcome::NoneIdle || !waits {
                report(outcome);
            }
            match outcome {
                SlotOutcome::Refused => return Err(SlotRefused),
                SlotOutcome::NoneIdle => waits = true,
                SlotOutcome::Leaves(_) => {}
            }
            tokio::select! {
                permit = &mut permit => return Ok(permit.expect("the semaphore is never closed")),
                () = sleep(PATIENCE) => {}
            }
        }
    }

    /// Asks a connection to leave for a new connection from the address `newcomer`, which is `None` for a trusted
    /// proxy, because that stands for many callers.
    fn make_room(&self, newcomer: Option<IpAddr>) -> SlotOutcome {
        let newcomer = newcomer.map(network);
        let mut taken = self.taken();
        let taken = &mut *taken;
        if let Some(ranking) = &mut taken.ranking
            && ranking.ranked_at.elapsed() < FRESH
            && let Some(outcome) = ranking.make_room(&taken.entries, newcomer)
        {
            return outcome;
        }
        if let Some(ranking) = &taken.ranking
            && ranking.ranked_at.elapsed() < AGAIN
        {
            return SlotOutcome::NoneIdle;
        }
        let ranking = taken.ranking.insert(SlotRanking::of(&taken.entries));
        ranking
            .make_room(&taken.entries, newcomer)
            .unwrap_or(SlotOutcome::NoneIdle)
    }

    /// Whether a message is due: none was logged for `every`. If so, this counts as a message.
    pub fn is_log_due(&self, every: Duration) -> bool {
        let mut taken = self.taken();
        let is_log_due = taken
            .last_logged
            .is_none_or(|last_logged| last_logged.elapsed() >= every);
        if is_log_due {
            taken.last_logged = Some(Instant::now());
        }
        is_log_due
    }

    fn taken(&self) -> MutexGuard<'_, TakenSlots> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionSlot {
    /// Sets another address for the connection, as its PROXY header says.
    pub fn comes_from(&self, origin: ClientAddress) {
        let network = network(origin.address);
        if let Some(entry) = self.slots.taken().entries.get_mut(&self.number) {
            entry.network = network;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.taken().entries.remove(&self.number);
    }
}

impl SlotRanking {
    /// Ranks the connections. The largest holder gives a connection up, counts as smaller by that connection, and so
    /// on. Of two equal holders, an unverified address comes before a party, then the longer idle connection decides.
    fn of(entries: &HashMap<u64, SlotEntry>) -> Self {
        let mut holders: HashMap<SlotHolder, HolderSlots> = HashMap::new();
        for (number, entry) in entries {
            if entry.activity.leaves().is_some() {
                continue;
            }
            let held = holders.entry(entry.holder()).or_default();
            held.slots += 1;
            let standing = SlotStanding::of(&entry.activity);
            held.may_leave
                .extend(standing.map(|standing| Reverse((standing, *number))));
        }
        let addresses = holders.iter().filter_map(|(holder, held)| match holder {
            SlotHolder::Address(address) => Some((*address, held.slots)),
            SlotHolder::Party(_) => None,
        });
        let addresses = addresses.collect();
        let mut largest = BinaryHeap::with_capacity(holders.len());
        largest.extend(
            holders
                .iter()
                .filter_map(|(holder, held)| held.rank(*holder)),
        );
        let mut next = VecDeque::with_capacity(RANKED);
        while let Some((held, _, _, holder)) = largest.pop()
            && next.len() < RANKED
        {
            let Some(of) = holders.get_mut(&holder) else {
                continue;
            };
            let Some(Reverse((standing, number))) = of.may_leave.pop() else {
                continue;
            };
            of.slots -= 1;
            largest.extend(of.rank(holder));
            next.push_back(SlotCandidate {
                number,
                standing,
                holder,
                held,
            });
        }
        Self {
            ranked_at: Instant::now(),
            next,
            addresses,
        }
    }

    /// Asks the first connection to leave that still may, unless the new connection's own address has more slots.
    /// `None` if every ranked connection is gone or in use again.
    fn make_room(
        &mut self,
        entries: &HashMap<u64, SlotEntry>,
        newcomer: Option<IpAddr>,
    ) -> Option<SlotOutcome> {
        let own = newcomer.and_then(|newcomer| self.addresses.get(&newcomer));
        while let Some(candidate) = self.next.pop_front() {
            let entry = entries.get(&candidate.number);
            let Some(entry) = entry.filter(|entry| candidate.is_still(&entry.activity)) else {
                continue;
            };
            if own.is_some_and(|own| *own > candidate.held) {
                self.next.push_front(candidate);
                return Some(SlotOutcome::Refused);
            }
            entry.activity.leave(candidate.standing.reason());
            return Some(SlotOutcome::Leaves(candidate.holder));
        }
        None
    }
}

impl HolderSlots {
    /// The key by which holders are ordered, if this one has a connection that may leave.
    fn rank(&self, holder: SlotHolder) -> Option<(usize, bool, Reverse<SlotStanding>, SlotHolder)> {
        let Reverse((standing, _)) = self.may_leave.peek()?;
        let is_unverified = matches!(holder, SlotHolder::Address(_));
        Some((self.slots, is_unverified, Reverse(*standing), holder))
    }
}

impl SlotCandidate {
    /// Whether the connection may still leave as ranked, and was not asked to leave yet.
    fn is_still(&self, activity: &ConnectionActivity) -> bool {
        activity.leaves().is_none() && self.standing.is_still(activity)
    }
}

impl SlotEntry {
    fn holder(&self) -> SlotHolder {
        self.activity
            .party()
            .map_or(SlotHolder::Address(self.network), SlotHolder::Party)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::activity::{ActiveRequest, ActivityLimits};
    use crate::callers::client_address::TrustedProxies;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::time::advance;

    const MINUTE: Duration = Duration::from_mins(1);

    fn origin(address: &str) -> ClientAddress {
        TrustedProxies::new(&["10.0.0.0/8".parse().unwrap()]).origin(address.parse().unwrap())
    }

    fn party(number: usize) -> SlotHolder {
        SlotHolder::Party(number.try_into().unwrap())
    }

    fn address(address: &str) -> SlotHolder {
        SlotHolder::Address(address.parse().unwrap())
    }

    fn activity() -> Arc<ConnectionActivity> {
        ConnectionActivity::new(ActivityLimits {
            head: MINUTE,
            answer: MINUTE,
            idle: MINUTE,
        })
    }

    /// Slots, and the open connections that hold them.
    struct Open {
        slots: Arc<ConnectionSlots>,
        connections: Vec<(Arc<ConnectionActivity>, ConnectionSlot)>,
    }

    impl Open {
        fn new(slots: usize) -> Self {
            Self {
                slots: ConnectionSlots::new(slots),
                connections: Vec::new(),
            }
        }

        /// Opens a connection that finds a slot free.
        async fn from(&mut self, address: &str) -> Arc<ConnectionActivity> {
            let activity = activity();
            let line = self.slots.line(|| {}).await;
            let slot = self
                .slots
                .take(line, origin(address), &activity, |_| {})
                .await;
            self.connections
                .push((Arc::clone(&activity), slot.unwrap()));
            // The order of idle times must not depend on chance.
            advance(Duration::from_millis(1)).await;
            activity
        }

        /// Opens a connection and answers a request of this party on it.
        async fn of(&mut self, party: usize, address: &str) -> Arc<ConnectionActivity> {
            let activity = self.from(address).await;
            activity.request().verified(party.try_into().unwrap());
            advance(Duration::from_millis(1)).await;
            activity
        }

        /// Closes the connections that were asked to leave, as their tasks do.
        fn close(&mut self) {
            self.connections
                .retain(|(activity, _)| activity.leaves().is_none());
        }

        /// Opens one more connection from this address and returns the outcomes. Connections that were asked to leave
        /// do.
        async fn one_more(&mut self, address: &str) -> Vec<SlotOutcome> {
            let outcomes = Rc::new(RefCell::new(Vec::new()));
            let line = self.slots.line(|| {}).await;
            let slots = Arc::clone(&self.slots);
            let (activity, heard) = (activity(), Rc::clone(&outcomes));
            let report = move |outcome| heard.borrow_mut().push(outcome);
            let mut taking = pin!(slots.take(line, origin(address), &activity, report));
            let slot = tokio::select! {
                biased;
                slot = &mut taking => Some(slot),
                () = sleep(PATIENCE / 2) => None,
            };
            self.close();
            let slot = match slot {
                Some(slot) => slot.ok(),
                None => tokio::time::timeout(MINUTE, taking)
                    .await
                    .map_or(None, Result::ok),
            };
            self.connections
                .extend(slot.map(|slot| (Arc::clone(&activity), slot)));
            outcomes.take()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_of_the_largest_holder_leaves() {
        let mut open = Open::new(6);
        let single = open.of(1, "192.0.2.1").await;
        let first = open.from("192.0.2.2").await;
        let second = open.from("192.0.2.2").await;
        // Connections of one party from several addresses have one holder.
        let mut of_party = Vec::new();
        for from in ["192.0.2.3", "192.0.2.4", "192.0.2.5"] {
            of_party.push(open.of(2, from).await);
        }
        drop(of_party[0].request());
        assert_eq!(
            open.one_more("192.0.2.9").await,
            [SlotOutcome::Leaves(party(2))]
        );
        assert_eq!(
            of_party[1].leaves(),
            Some(LeaveReason::Full),
            "used before the others"
        );
        // Of equal holders, a connection without a verified request leaves.
        assert_eq!(
            open.one_more("192.0.2.9").await,
            [SlotOutcome::Leaves(address("192.0.2.2"))]
        );
        assert_eq!(
            (first.leaves(), second.leaves()),
            (Some(LeaveReason::Full), None)
        );
        assert_eq!(single.leaves(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn of_ipv6_a_64_is_one_holder() {
        let mut open = Open::new(4);
        for from in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
            open.from(from).await;
        }
        let leaves = open.one_more("192.0.2.9").await;
        assert_eq!(leaves, [SlotOutcome::Leaves(address("2001:db8::"))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_whose_requests_are_all_under_way_is_passed_over_and_all_such_wait() {
        let mut open = Open::new(3);
        let busy: Vec<ActiveRequest> = vec![
            open.of(1, "192.0.2.1").await.request(),
            open.of(1, "192.0.2.1").await.request(),
        ];
        let idle = open.of(2, "192.0.2.2").await;
        assert_eq!(
            open.one_more("192.0.2.3").await,
            [SlotOutcome::Leaves(party(2))]
        );
        assert_eq!(idle.leaves(), Some(LeaveReason::Full));
        let last = open.connections[2].0.request();
        assert_eq!(open.one_more("192.0.2.4").await, [SlotOutcome::NoneIdle]);
        drop((busy, last));
        assert_eq!(
            open.one_more("192.0.2.4").await,
            [SlotOutcome::Leaves(party(1))]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_more_under_way_than_any_could_give_up_is_refused_unless_it_is_trusted()
    {
        let mut open = Open::new(3);
        let _busy = [
            open.from("10.0.0.1").await.request(),
            open.from("10.0.0.1").await.request(),
        ];
        open.of(1, "192.0.2.1").await;
        assert_eq!(
            open.one_more("10.0.0.1").await,
            [SlotOutcome::Leaves(party(1))]
        );

        let mut open = Open::new(3);
        let _busy = [
            open.from("192.0.2.2").await.request(),
            open.from("192.0.2.2").await.request(),
        ];
        let idle = open.of(1, "192.0.2.1").await;
        assert_eq!(open.one_more("192.0.2.2").await, [SlotOutcome::Refused]);
        assert_eq!(idle.leaves(), None);
        // Other addresses are let in.
        assert_eq!(
            open.one_more("192.0.2.3").await,
            [SlotOutcome::Leaves(party(1))]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_give_way_the_largest_holders_longest_awaited_first() {
        let mut open = Open::new(6);
        let small = open.of(1, "192.0.2.1").await;
        let mut bodies = Vec::new();
        for _ in 0..5 {
            let activity = open.from("192.0.2.2").await;
            let mut body = activity.request();
            body.receives();
            bodies.push((activity, body));
        }
        assert_eq!(
            open.slots.make_room(None),
            SlotOutcome::Leaves(party(1)),
            "each has its time before it is slow"
        );
        assert_eq!(small.leaves(), Some(LeaveReason::Full));
        advance(Duration::from_secs(1)).await;
        // One body comes fast enough, another is complete and at GatePay.
        bodies[0].0.read(512);
        bodies[1].1.received();
        let left: Vec<_> = (0..3).map(|_| open.slots.make_room(None)).collect();
        assert_eq!(left, [SlotOutcome::Leaves(address("192.0.2.2")); 3]);
        assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
        let leaves: Vec<_> = bodies
            .iter()
            .map(|(activity, _)| activity.leaves())
            .collect();
        let slow = Some(LeaveReason::SlowBody);
        assert_eq!(leaves, [None, None, slow, slow, slow]);
        // The first body goes on as fast, and then stops.
        advance(Duration::from_millis(400)).await;
        bodies[0].0.read(512);
        advance(Duration::from_millis(500)).await;
        assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
        advance(Duration::from_secs(1)).await;
        assert_eq!(
            open.slots.make_room(None),
            SlotOutcome::Leaves(address("192.0.2.2"))
        );
        assert_eq!(bodies[0].0.leaves(), slow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_beside_a_request_that_is_whole_does_not_give_way() {
        let mut open = Open::new(1);
        let activity = open.from("192.0.2.1").await;
        let (mut slow, whole) = (activity.request(), activity.request());
        slow.receives();
        advance(MINUTE).await;
        assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
        drop(whole);
        advance(AGAIN).await;
        assert_eq!(
            open.slots.make_room(None),
            SlotOutcome::Leaves(address("192.0.2.1"))
        );
        drop(slow);
        assert!(activity.slow_since().is_none() && activity.only_receives());
    }

    #[tokio::test(start_paused = true)]
    async fn one_look_serves_many_new_connections_and_what_changed_since_is_noticed() {
        let mut open = Open::new(100);
        for _ in 0..100 {
            open.from("192.0.2.1").await;
        }
        let mut ranked_at = Vec::new();
        for _ in 0..RANKED {
            open.slots.make_room(None);
            ranked_at.push(open.slots.taken().ranking.as_ref().unwrap().ranked_at);
        }
        ranked_at.dedup();
        assert_eq!(ranked_at.len(), 1);
        let asked = |open: &Open| {
            let leaving = open.connections.iter();
            leaving
                .filter(|(activity, _)| activity.leaves().is_some())
                .count()
        };
        assert_eq!(asked(&open), RANKED);
        advance(AGAIN).await;
        open.slots.make_room(None);
        let left: Vec<_> = open
            .connections
            .iter()
            .map(|(activity, _)| activity)
            .collect();
        let idle = || left.iter().filter(|activity| activity.leaves().is_none());
        // All but one of the other connections are used again after the ranking.
        let busy: Vec<ActiveRequest> = idle().skip(1).map(|activity| activity.request()).collect();
        assert!(matches!(open.slots.make_room(None), SlotOutcome::Leaves(_)));
        assert_eq!(open.slots.make_room(None), SlotOutcome::NoneIdle);
        assert_eq!(asked(&open), RANKED + 2);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_given_back_is_forgotten() {
        let mut open = Open::new(2);
        open.from("192.0.2.1").await;
        open.from("192.0.2.1").await;
        open.connections.clear();
        assert!(open.slots.taken().entries.is_empty());
        assert_eq!(open.slots.free.available_permits(), 2);
        assert_eq!(open.slots.line.available_permits(), LINE);
    }
}
