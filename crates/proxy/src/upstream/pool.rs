//! Connection pool: keeps connections to GatePay for the next request, up to a limit per worker.
//!
//! A general client cannot report whether any byte of an attempt was written. For a money call that decides between
//! "not executed" and "unknown", so the proxy has a pool of its own.
//!
//! Each worker has its share of the connection slots. A call without a slot waits in the
//! [wait line](crate::upstream::wait_line): a returned connection goes to the next call in line, and so does the slot
//! of a connection that closes. Reads never have the last slots: slow reads of one tenant must not delay payments of
//! the others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use gatepay_core::Kind;
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
    /// The connection itself.
    pub connection: UpstreamConnection,
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
                connection,
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
mod tests {
    use super::*;
    use gatepay_tenancy::UpstreamUrl;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    fn meters() -> Arc<UpstreamMeters> {
        Arc::new(UpstreamMeters::unscraped())
    }

    /// A pool of `most` connections to a server that accepts connections and never answers.
    async fn pool(most: usize) -> Arc<Pool> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
        let limit = Duration::from_secs(5);
        let upstream =
            UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
        Arc::new(Pool::new(Arc::new(upstream), meters(), limits(most, most)))
    }

    fn limits(connections: usize, idle: usize) -> PoolLimits {
        PoolLimits {
            connections,
            idle,
            idle_timeout: Duration::from_secs(50),
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn who_waits_in_vain_is_told_so() {
        let pool = pool(1).await;
        let held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
        let begun = Instant::now();
        let refused = pool
            .connect(LineClaim::OWN, begun + Duration::from_millis(50))
            .await;
        assert!(matches!(refused, Err(ConnectError::NoPlace(1))));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        pool.give_back(held.pooled);
        assert!(
            pool.reuse(Kind::Money, LineClaim::OWN, Instant::now())
                .is_some(),
            "nobody is in line any more"
        );
    }

    #[tokio::test]
    async fn places_and_connections_go_to_the_first_in_line() {
        let pool = pool(1).await;
        let mut held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
        let turn = Arc::new(AtomicUsize::new(0));
        let mut line = Vec::new();
        for number in 0..10 {
            let (waiting, turn) = (Arc::clone(&pool), Arc::clone(&turn));
            line.push(tokio::spawn(async move {
                let had = waiting.connect(LineClaim::OWN, soon()).await.unwrap();
                assert_eq!(turn.fetch_add(1, Ordering::Relaxed), number);
                had
            }));
            while pool.meters.waits.get() <= number as u64 {
                tokio::task::yield_now().await;
            }
        }
        for (number, next) in line.into_iter().enumerate() {
            // Connections are returned and closed in turn.
            if number % 2 == 0 {
                pool.give_back(held.pooled);
            } else {
                drop(held);
            }
            held = next.await.unwrap();
            assert_eq!(held.reused, number % 2 == 0);
        }
        assert_eq!(pool.meters.connections.get(), 1);
    }

    #[tokio::test]
    async fn what_is_needed_in_turns_is_kept_for_a_moment_and_no_longer() {
        let pool = pool(10).await;
        let pool = Pool::new(
            Arc::clone(&pool.upstream),
            Arc::clone(&pool.meters),
            limits(10, 2),
        );
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(pool.connect(LineClaim::OWN, soon()).await.unwrap().pooled);
        }
        for pooled in held {
            pool.give_back(pooled);
        }
        pool.sweep();
        let open = || pool.meters.connections.get();
        assert_eq!(open(), 10);
        for pooled in &mut pool.permits.state().idle {
            pooled.idle_since = Instant::now() - SPARE * 2;
        }
        pool.sweep();
        assert_eq!(open(), 2);
    }

    /// A pool with one connection, given back after an answer with these header lines.
    async fn pool_after_an_answer(lines: &str) -> Pool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{lines}\r\n");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            let _read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        });
        let limit = Duration::from_secs(5);
        let upstream =
            UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
        let pool = Pool::new(Arc::new(upstream), meters(), limits(1, 1));
        let mut pooled = pool.connect(LineClaim::OWN, soon()).await.unwrap().pooled;
        let mut request = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
            bytes::Bytes::new()
        };
        let asked = pooled.connection.ask(&mut request, |_| true, soon());
        asked.await.unwrap();
        pool.give_back(pooled);
        pool
    }

    #[tokio::test]
    async fn a_connection_idles_no_longer_than_the_server_lets_it() {
        for (lines, idle_ms) in [
            ("", 50_000),
            ("keep-alive: timeout=1\r\n", 500),
            ("Keep-Alive: timeout=20, max=5\r\n", 19_000),
            ("keep-alive: timeout=3600\r\n", 50_000),
        ] {
            let pool = pool_after_an_answer(lines).await;
            let idle = Duration::from_millis(idle_ms);
            let since = pool.permits.state().idle[0].idle_since;
            let before = pool.reuse(
                Kind::Read,
                LineClaim::OWN,
                since + idle - Duration::from_millis(1),
            );
            pool.permits.state().idle.push(before.expect(lines));
            assert!(
                pool.reuse(Kind::Read, LineClaim::OWN, since + idle)
                    .is_none(),
                "{lines}"
            );
        }
        let pool = pool_after_an_answer("keep-alive: max=0\r\n").await;
        assert!(pool.permits.state().idle.is_empty());
    }

    #[tokio::test]
    async fn money_uses_no_connection_that_has_idled_for_half_of_its_time() {
        let pool = pool_after_an_answer("keep-alive: timeout=1\r\n").await;
        let since = pool.permits.state().idle[0].idle_since;
        let later = since + Duration::from_millis(251);
        for kind in [Kind::Money, Kind::Write] {
            assert!(pool.reuse(kind, LineClaim::OWN, later).is_none());
        }
        assert!(
            pool.reuse(Kind::Read, LineClaim::OWN, later).is_some(),
            "reads still use it"
        );
    }

    #[tokio::test]
    async fn who_left_the_line_is_passed_over() {
        let pool = pool(1).await;
        let held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
        let line = |pool: &Arc<Pool>| {
            let pool = Arc::clone(pool);
            tokio::spawn(async move { pool.connect(LineClaim::OWN, soon()).await.unwrap() })
        };
        let (first, second) = (line(&pool), line(&pool));
        while pool.meters.waits.get() < 2 {
            tokio::task::yield_now().await;
        }
        first.abort();
        assert!(first.await.is_err());
        drop(held);
        assert!(!second.await.unwrap().reused);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_given_to_nobody_its_place_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limit = Duration::from_secs(5);
        let upstream =
            UpstreamConnector::new(UpstreamUrl::parse(&url).unwrap(), None, limit).unwrap();
        let pool = Arc::new(Pool::new(Arc::new(upstream), meters(), limits(1, 1)));
        let mut held = pool.connect(LineClaim::OWN, soon()).await.unwrap();
        let waiting = Arc::clone(&pool);
        let next =
            tokio::spawn(async move { waiting.connect(LineClaim::OWN, soon()).await.unwrap() });
        while pool.meters.waits.get() < 1 {
            tokio::task::yield_now().await;
        }
        drop(listener.accept().await.unwrap());
        while held.pooled.connection.is_quiet(Liveness::Now) {
            tokio::task::yield_now().await;
        }
        pool.give_back(held.pooled);
        assert!(!next.await.unwrap().reused);
        assert_eq!(pool.meters.connections.get(), 0);
    }

    fn claim(party: usize, kind: Kind) -> LineClaim {
        LineClaim::of_party(party, kind)
    }

    /// Starts a call that waits in line.
    async fn waits(pool: &Arc<Pool>, claim: LineClaim) -> tokio::task::JoinHandle<Acquired> {
        let (waiting, before) = (Arc::clone(pool), pool.meters.waits.get());
        let call = tokio::spawn(async move { waiting.connect(claim, soon()).await.unwrap() });
        while pool.meters.waits.get() == before {
            tokio::task::yield_now().await;
        }
        call
    }

    #[tokio::test]
    async fn reads_have_no_part_of_the_last_eighth_of_the_places() {
        for (permits, reads) in [(1, 1), (2, 1), (3, 2), (8, 7), (15, 14), (16, 14), (24, 21)] {
            let pool = pool(permits).await;
            let mut held = Vec::new();
            for _ in 0..reads {
                held.push(pool.connect(claim(1, Kind::Read), soon()).await.unwrap());
            }
            let waiting = waits(&pool, claim(2, Kind::Read)).await;
            for _ in reads..permits {
                held.push(pool.connect(claim(3, Kind::Money), soon()).await.unwrap());
            }
            let idle = held.len() - 1;
            // A connection that a money call returns stays reserved for calls other than reads.
            if reads < permits {
                pool.give_back(held.remove(idle).pooled);
                let now = Instant::now();
                assert!(pool.reuse(Kind::Read, claim(1, Kind::Read), now).is_none());
                let kept = pool.reuse(Kind::Write, claim(1, Kind::Write), now);
                drop(kept.unwrap());
            }
            assert!(!waiting.is_finished(), "{permits}");
            // A connection that a read returns goes to the next read.
            pool.give_back(held.remove(0).pooled);
            assert!(waiting.await.unwrap().reused, "{permits}");
        }
    }

    #[tokio::test]
    async fn money_gets_the_next_connection_before_reads_that_came_first() {
        let pool = pool(1).await;
        let held = pool.connect(claim(1, Kind::Read), soon()).await.unwrap();
        let read = waits(&pool, claim(1, Kind::Read)).await;
        let write = waits(&pool, claim(2, Kind::Write)).await;
        let money = waits(&pool, claim(3, Kind::Money)).await;
        pool.give_back(held.pooled);
        let held = money.await.unwrap();
        assert!(!read.is_finished() && !write.is_finished());
        // A freed slot goes to the same call as a returned connection would.
        drop(held);
        let held = write.await.unwrap();
        assert!(!held.reused && !read.is_finished());
        pool.give_back(held.pooled);
        assert!(read.await.unwrap().reused);
        assert_eq!(pool.permits.state().reads, 0);
    }

    #[tokio::test]
    async fn places_of_reads_are_counted_however_they_end() {
        let pool = pool(8).await;
        let read = || pool.connect(claim(1, Kind::Read), soon());
        let (kept, closed) = (read().await.unwrap(), read().await.unwrap());
        assert_eq!(pool.permits.state().reads, 2);
        drop(closed);
        pool.give_back(kept.pooled);
        assert_eq!(pool.permits.state().reads, 0);
        let again = pool.reuse(Kind::Read, claim(1, Kind::Read), Instant::now());
        assert_eq!(pool.permits.state().reads, 1);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(read().await.unwrap());
        }
        // A call that leaves the line after its connection was granted returns that connection.
        let (gone, next) = (
            waits(&pool, claim(2, Kind::Read)).await,
            waits(&pool, claim(2, Kind::Read)).await,
        );
        drop(again);
        gone.abort();
        assert!(gone.await.is_err());
        let next = next.await.unwrap();
        assert_eq!(pool.permits.state().reads, 7);
        drop((held, next));
        let state = pool.permits.state();
        assert_eq!((state.reads, state.in_use), (0, 0));
    }
}
