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
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
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
        self.taken.lock()
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
mod tests;
