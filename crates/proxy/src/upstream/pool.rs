//! Connection pool: keeps connections to GatePay for the next request, up to a limit per worker.
//!
//! A general client cannot report whether any byte of an attempt was written. For a money call that decides between
//! "not executed" and "unknown", so the proxy has a pool of its own.
//!
//! Each worker has its share of the connection slots. A call without a slot waits in the
//! [wait line](crate::upstream::wait_line): a returned connection goes to the next call in line, and so does the slot
//! of a connection that closes. Reads never have the last slots: slow reads of one tenant must not delay payments of
//! the others.

use std::sync::{Arc, Weak};
use std::time::Duration;

use gatepay_core::Kind;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::upstream::connect::{ConnectError, UpstreamConnector};
use crate::upstream::connection::{Liveness, UpstreamConnection};
use crate::upstream::meters::{RetryReason, UpstreamMeters};
use crate::upstream::wait_line::{LineClaim, LinePosition, WaitLine};

/// How long idle connections beyond `PoolLimits::idle` are kept: a connection that several callers use in turn is not
/// closed and reopened between two of them.
const SPARE: Duration = Duration::from_secs(1);
/// Maximum age of a connection, so that a changed DNS answer takes effect.
const MAX_AGE: Duration = Duration::from_mins(10);

/// One worker's connections.
pub struct Pool {
    upstream: Arc<UpstreamConnector>,
    meters: Arc<UpstreamMeters>,
    permits: Arc<PoolPermits>,
}

/// Limits of a pool: number of connections and idle time.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Maximum number of open connections.
    pub connections: usize,
    /// Maximum number of connections that stay idle for longer than a second.
    pub idle: usize,
    /// Idle timeout of a connection, unless the server sends a shorter one.
    pub idle_timeout: Duration,
}

/// The connection slots of a pool, with their limits and current use.
struct PoolPermits {
    limits: PoolLimits,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<PooledConnection>,
    /// Slots in use, by idle connections too.
    in_use: usize,
    /// Slots in use by parties' reads.
    reads: usize,
    line: WaitLine<SlotGrant>,
}

/// A grant to a waiting call: a connection, or a slot to open a connection in.
enum SlotGrant {
    Connection(PooledConnection),
    Permit(PoolPermit),
}

/// The permit for one connection slot. It is stored beside the socket, so that sockets never outnumber slots.
pub struct PoolPermit {
    permits: Weak<PoolPermits>,
    /// Whether a party's read holds this permit.
    reads: bool,
}

/// A call's position in the wait line, until dropped.
struct WaitingGuard<'a> {
    permits: &'a PoolPermits,
    position: LinePosition,
}

/// A connection that belongs to one request until it is given back.
pub struct PooledConnection {
    /// The connection itself. It is boxed, since it moves between the pool and each step of a call.
    pub connection: Box<UpstreamConnection>,
    /// When the connection reaches its maximum age.
    expires: Instant,
    idle_since: Instant,
    /// Idle timeout of this connection.
    idle_timeout: Duration,
    /// The slot's permit; the last field, so that it is dropped after the socket is closed.
    permit: PoolPermit,
}

/// A connection acquired for a request.
pub struct Acquired {
    /// The connection.
    pub pooled: PooledConnection,
    /// Whether the connection served an earlier request, so that it may have died since.
    pub reused: bool,
}

impl Pool {
    /// A pool without connections.
    pub fn new(
        upstream: Arc<UpstreamConnector>,
        meters: Arc<UpstreamMeters>,
        limits: PoolLimits,
    ) -> Self {
        Self {
            upstream,
            meters,
            permits: Arc::new(PoolPermits {
                limits,
                state: Mutex::default(),
            }),
        }
    }

    /// An idle connection that is still alive, the last used first, or `None`.
    ///
    /// For a write or money call the kernel is asked whether the connection is alive, and a connection that has idled
    /// for half of its idle timeout is not used: the server may be closing it, and then nothing tells whether the call
    /// was received.
    ///
    /// `None` also for a read while reads have as many connections as they may.
    pub fn reuse(&self, kind: Kind, claim: LineClaim, now: Instant) -> Option<PooledConnection> {
        let liveness = match kind {
            Kind::Read => Liveness::Lately,
            Kind::Write | Kind::Money => Liveness::Now,
        };
        // Dead connections are dropped after the lock is released, since their drop takes the lock.
        let mut dead = Vec::new();
        let mut state = self.permits.state();
        if claim.is_read() && !self.permits.admits_reads(&state) {
            return None;
        }
        while let Some(mut pooled) = state.idle.pop_if(|last| last.suits(kind, now)) {
            if pooled.is_fresh(now) && pooled.connection.is_quiet(liveness) {
                state.assign(&mut pooled.permit, claim.is_read());
                drop(state);
                return Some(pooled);
            }
            dead.push(pooled);
        }
        drop(state);
        None
    }

    /// A new connection, or, if all slots are in use, the next returned connection or freed slot.
    pub async fn connect(
        &self,
        claim: LineClaim,
        deadline: Instant,
    ) -> Result<Acquired, ConnectError> {
        let permit = match self.permit(claim, deadline).await? {
            SlotGrant::Permit(permit) => permit,
            SlotGrant::Connection(mut pooled) => {
                // The server may have sent bytes or closed the connection after its last answer.
                if pooled.connection.is_quiet(Liveness::Now) {
                    return Ok(Acquired {
                        pooled,
                        reused: true,
                    });
                }
                // The socket closes before its slot is given to another call.
                let PooledConnection {
                    connection, permit, ..
                } = pooled;
                drop(connection);
                permit
            }
        };
        let connection = self.upstream.connect(deadline, &self.meters).await?;
        let now = Instant::now();
        Ok(Acquired {
            pooled: PooledConnection {
                connection: Box::new(connection),
                expires: now + MAX_AGE,
                idle_since: now,
                idle_timeout: self.permits.limits.idle_timeout,
                permit,
            },
            reused: false,
        })
    }

    /// A slot or a connection, at once or after waiting in line.
    async fn permit(&self, claim: LineClaim, deadline: Instant) -> Result<SlotGrant, ConnectError> {
        let reads = claim.is_read();
        let (position, granted) = {
            let mut state = self.permits.state();
            if !reads || self.permits.admits_reads(&state) {
                if state.in_use < self.permits.limits.connections {
                    state.in_use += 1;
                    state.reads += usize::from(reads);
                    let permits = Arc::downgrade(&self.permits);
                    return Ok(SlotGrant::Permit(PoolPermit { permits, reads }));
                }
                // A connection was returned meanwhile.
                if let Some(mut pooled) = state.idle.pop() {
                    state.assign(&mut pooled.permit, reads);
                    return Ok(SlotGrant::Connection(pooled));
                }
            }
            state.line.join(claim)
        };
        let permits = &*self.permits;
        let _waiting = WaitingGuard { permits, position };
        self.meters.waits.inc();
        match timeout_at(deadline, granted).await {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(_)) | Err(_) => Err(ConnectError::NoPlace(self.permits.limits.connections)),
        }
    }

    /// Keeps a connection for the next request, if it can serve another.
    pub fn give_back(&self, mut pooled: PooledConnection) {
        let now = Instant::now();
        pooled.idle_since = now;
        if let Some(server_timeout) = pooled.connection.idle() {
            pooled.idle_timeout = server_timeout.min(self.permits.limits.idle_timeout);
        }
        if !pooled.connection.is_free() || !pooled.is_fresh(now) {
            return;
        }
        let mut state = self.permits.state();
        state.reads -= usize::from(std::mem::take(&mut pooled.permit.reads));
        let surplus = match self
            .permits
            .grant(&mut state, SlotGrant::Connection(pooled))
        {
            Some(SlotGrant::Connection(pooled)) if self.permits.limits.idle > 0 => {
                state.idle.push(pooled);
                None
            }
            left => left,
        };
        drop(state);
        drop(surplus);
    }

    /// Counts a retry.
    pub fn count_retry(&self, reason: RetryReason) {
        self.meters.repeats[reason as usize].inc();
    }

    /// Counts a retry that the retry budget denied.
    pub fn count_denied_retry(&self) {
        self.meters.repeats_denied.inc();
    }

    /// Closes connections that have been idle or open for too long, exceed the idle limit, or were closed by the peer.
    ///
    /// Called every second.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.permits.state();
        let mut spare = state.idle.len().saturating_sub(self.permits.limits.idle);
        let surplus: Vec<_> = state
            .idle
            .extract_if(.., |pooled| {
                // The first connections are those that have idled for the longest time.
                let is_spare = spare > 0 && now.duration_since(pooled.idle_since) > SPARE;
                let closes =
                    is_spare || !pooled.is_fresh(now) || !pooled.connection.is_quiet(Liveness::Now);
                spare = spare.saturating_sub(usize::from(closes));
                closes
            })
            .collect();
        // Dropped after the lock is released, since the drop takes the lock.
        drop(state);
        drop(surplus);
    }
}

impl PoolState {
    /// Assigns a free place to a call, and counts it if the call is a party's read.
    fn assign(&mut self, permit: &mut PoolPermit, reads: bool) {
        permit.reads = reads;
        self.reads += usize::from(reads);
    }
}

impl PoolPermits {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }

    /// Whether one more read may have a connection.
    ///
    /// The last eighth of the slots, at least one slot, is reserved for other calls. A single slot serves all calls.
    fn admits_reads(&self, state: &PoolState) -> bool {
        let all = self.limits.connections;
        let kept = if all < 2 { 0 } else { (all / 8).max(1) };
        state.reads < all - kept
    }

    /// Gives `grant` to the next call in line; returns `grant` if no call takes it.
    fn grant(&self, state: &mut PoolState, mut grant: SlotGrant) -> Option<SlotGrant> {
        while let Some((next, is_read)) = state.line.next(self.admits_reads(state)) {
            grant.permit().reads = is_read;
            match next.send(grant) {
                Ok(()) => {
                    state.reads += usize::from(is_read);
                    return None;
                }
                // The call has stopped waiting.
                Err(refused) => grant = refused,
            }
        }
        grant.permit().reads = false;
        Some(grant)
    }
}

impl SlotGrant {
    fn permit(&mut self) -> &mut PoolPermit {
        match self {
            Self::Connection(pooled) => &mut pooled.permit,
            Self::Permit(permit) => permit,
        }
    }
}

impl Drop for WaitingGuard<'_> {
    fn drop(&mut self) {
        self.permits.state().line.leave(self.position);
    }
}

impl Drop for PoolPermit {
    fn drop(&mut self) {
        let Some(permits) = self.permits.upgrade() else {
            return;
        };
        let mut state = permits.state();
        state.reads -= usize::from(self.reads);
        let freed = PoolPermit {
            permits: Weak::clone(&self.permits),
            reads: false,
        };
        if let Some(mut left) = permits.grant(&mut state, SlotGrant::Permit(freed)) {
            state.in_use -= 1;
            // The permit's drop would take the lock that is held here.
            left.permit().permits = Weak::new();
        }
    }
}

impl PooledConnection {
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.idle_since + self.idle_timeout && now < self.expires
    }

    /// Whether its idle time is short enough for a call of this kind.
    fn suits(&self, kind: Kind, now: Instant) -> bool {
        kind == Kind::Read || now <= self.idle_since + self.idle_timeout / 2
    }
}

#[cfg(test)]
mod tests;
