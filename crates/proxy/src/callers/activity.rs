//! Activity of a connection: its timeouts for the next head, for taking answers, and for idling.
//!
//! A timer for each request would cost too much. Instead a connection notes when it began to wait, and one timer per
//! connection checks these times now and then.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::callers::address_limits::RequestSlot;

/// The state of a connection's waits, and the time at which each wait began.
#[derive(Debug)]
pub struct ConnectionActivity {
    created: Instant,
    /// The number of requests whose answers are not over.
    active: AtomicU32,
    /// The number of those that still await more of their body, and so are not verified yet.
    receiving: AtomicU32,
    /// When the wait for bodies began, in milliseconds since `created`, plus one. Bytes that arrive move it later, by the
    /// time that they are worth at `PER_SECOND`.
    receiving_since: AtomicU64,
    /// When the wait for a complete head began, in milliseconds since `created`, plus one; 0 while no wait runs. The wait
    /// for the first head begins with the connection. The wait for a later HTTP/1 head begins with its first byte.
    head_since: AtomicU64,
    /// When the last answer ended or the last byte moved, in milliseconds since `created`.
    last_activity: AtomicU64,
    /// Whether a request has come on the connection.
    had_request: AtomicBool,
    /// When the last answer ended, in milliseconds since `created`.
    last_answer: AtomicU64,
    /// Whether the connection speaks HTTP/2: its bytes may belong to no request, and its heads are framed.
    http2: AtomicBool,
    /// When writing was blocked by a full send buffer, in milliseconds since `created`, plus one; 0 if nothing waits.
    /// Bytes that are written move it later, by the time that they are worth at `PER_SECOND`.
    blocked_since: AtomicU64,
    /// Counts of answers in progress: those that began or progressed since `checked_at`, and the others.
    answers: [AtomicU32; 2],
    /// The index in `answers` of the count since `checked_at`.
    newer: AtomicUsize,
    /// When the answers were last checked for a stall, in milliseconds since `created`.
    checked_at: AtomicU64,
    /// Whether the connection must be reset instead of closed in order; see [`abort`](Self::abort).
    aborted: AtomicBool,
    /// The party of the last verified request, as passed to [`verified`](ActiveRequest::verified); 0 before the first.
    party: AtomicUsize,
    /// A [`LeaveReason`] once the connection is to end as soon as no request is under way; 0 until then.
    leave: AtomicU8,
    /// Wakes the connection when `leave` is set.
    leave_requested: Notify,
    limits: ActivityLimits,
}

/// The reason for which a connection is to end without a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaveReason {
    /// All slots are taken, and a new connection needs one.
    Full = 1,
    /// The connection has been open for about `listen.connection_age_ms`.
    Age = 2,
    /// `listen.tls.client_ca` has changed since the connection began.
    ClientCa = 3,
    /// All slots are taken, and all requests under way have slow bodies. The connection ends without these bodies.
    SlowBody = 4,
}

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ActivityLimits {
    /// The longest time until a head is complete.
    pub head: Duration,
    /// The longest time in which the caller takes nothing of an answer.
    pub answer: Duration,
    /// The longest time without any activity.
    pub idle: Duration,
}

/// A request on the connection, which is busy until this is dropped.
#[derive(Debug)]
pub struct ActiveRequest {
    activity: Arc<ConnectionActivity>,
    /// The index in `answers` at which the answer is counted, once the answer has begun.
    answer: Option<usize>,
    /// The request's slot among all requests.
    slot: Option<RequestSlot>,
    /// Whether more of the request's body is awaited.
    receives: bool,
}

/// The result of a timeout check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutCheck {
    /// No timeout has passed. The next check is due at this time.
    Fine(Instant),
    /// The timeout of a head or of an idle connection has passed.
    Late,
    /// The caller has taken too little of an answer for too long.
    Stalled,
}

impl ConnectionActivity {
    /// A connection that was just accepted. Its first head is awaited from now on, under the head timeout.
    pub fn new(limits: ActivityLimits) -> Arc<Self> {
        Arc::new(Self {
            created: Instant::now(),
            active: AtomicU32::new(0),
            receiving: AtomicU32::new(0),
            receiving_since: AtomicU64::new(0),
            head_since: AtomicU64::new(1),
            last_activity: AtomicU64::new(0),
            had_request: AtomicBool::new(false),
            last_answer: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            answers: Default::default(),
            newer: AtomicUsize::new(0),
            checked_at: AtomicU64::new(0),
            aborted: AtomicBool::new(false),
            party: AtomicUsize::new(0),
            leave: AtomicU8::new(0),
            leave_requested: Notify::new(),
            limits,
        })
    }

    /// Restarts the head timeout, now that reading begins after a wait for a slot, a PROXY header or a flood's penalty.
    pub fn begin(&self) {
        let now = self.now();
        self.last_activity.store(now, Ordering::Relaxed);
        self.head_since.store(now + 1, Ordering::Relaxed);
    }

    /// Asks the connection to end as soon as no request is under way. Returns whether `why` is the first reason, which
    /// stands.
    pub fn leave(&self, why: LeaveReason) -> bool {
        let first = self
            .leave
            .compare_exchange(0, why as u8, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if first {
            self.leave_requested.notify_one();
        }
        first
    }

    /// The reason for which the connection was asked to end, if any.
    pub fn leaves(&self) -> Option<LeaveReason> {
        match self.leave.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(LeaveReason::Full),
            2 => Some(LeaveReason::Age),
            3 => Some(LeaveReason::ClientCa),
            _ => Some(LeaveReason::SlowBody),
        }
    }

    /// Waits until the connection is asked to end. One task at a time may wait.
    pub async fn asked_to_leave(&self) {
        while self.leaves().is_none() {
            self.leave_requested.notified().await;
        }
    }

    /// The party of the last verified request on the connection, if any.
    pub fn party(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.party.load(Ordering::Relaxed))
    }

    /// Since when no request has been under way: since the last answer, or since the wait for an incomplete head began.
    /// `None` while a request is under way, that is from its complete head until its answer is written.
    pub fn idle_since(&self) -> Option<Instant> {
        let is_busy = self.active.load(Ordering::Relaxed) > 0;
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        if is_busy || is_writing {
            return None;
        }
        let last_answer = self.last_answer.load(Ordering::Relaxed);
        let head = self.head_since.load(Ordering::Relaxed).saturating_sub(1);
        Some(self.at(last_answer.max(head)))
    }

    /// Since when slow bodies are awaited, if nothing else is under way. Bodies are slow once the wait exceeds the time
    /// that their received bytes are worth at `PER_SECOND` by `SLOW_MS`. Received bytes make the time later.
    pub fn slow_since(&self) -> Option<Instant> {
        let receiving = self.receiving.load(Ordering::Relaxed);
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        if receiving == 0 || receiving != self.active.load(Ordering::Relaxed) || is_writing {
            return None;
        }
        let since = self.receiving_since.load(Ordering::Relaxed);
        (self.now() + 1 >= since + SLOW_MS).then(|| self.at(since.saturating_sub(1)))
    }

    /// Whether all requests under way still await their bodies.
    pub fn only_receives(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) == self.active.load(Ordering::Relaxed)
    }

    /// Whether the last answer ended at least `time` ago and is written, and no request is under way.
    pub fn is_idle_for(&self, time: Duration) -> bool {
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        let last_answer = self.at(self.last_answer.load(Ordering::Relaxed));
        self.active.load(Ordering::Relaxed) == 0 && !is_writing && last_answer.elapsed() >= time
    }

    /// Notes that bytes were read.
    pub fn read(&self, bytes: usize) {
        let now = self.now();
        self.last_activity.store(now, Ordering::Relaxed);
        if self.receiving.load(Ordering::Relaxed) > 0 {
            let worth = bytes as u64 * 1_000 / PER_SECOND;
            let since = self.receiving_since.load(Ordering::Relaxed) + worth;
            self.receiving_since
                .store(since.min(now + 1), Ordering::Relaxed);
        }
        if self.http2.load(Ordering::Relaxed) {
            return;
        }
        if self.active.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// When the last byte was read or written, or the last answer ended.
    pub fn last_activity(&self) -> Instant {
        self.at(self.last_activity.load(Ordering::Relaxed))
    }

    /// Notes that part of a head is there. Its bytes may have come before the previous answer ended.
    pub fn head_begun(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Notes that bytes were written.
    pub fn wrote(&self, bytes: usize) {
        let now = self.now();
        self.last_activity.store(now, Ordering::Relaxed);
        let since = self.blocked_since.load(Ordering::Relaxed);
        if since > 0 {
            let worth = bytes as u64 * 1_000 / PER_SECOND;
            let since = (since + worth).min(now + 1);
            self.blocked_since.store(since, Ordering::Relaxed);
        }
    }

    /// Notes that writing is blocked: the send buffer is full, because the caller takes nothing.
    pub fn blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Notes that everything was written.
    pub fn flushed(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
        }
    }

    /// Switches to HTTP/2, whose own frames must not count as activity: between requests only answers do. The first
    /// request is still under the head timeout; later heads are not.
    pub fn http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// Marks the connection to be reset when it ends, instead of closed in order: an answer was cut short, the caller
    /// does not take its answers, or the peer sent a flood of frames.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// Begins a request once its head is complete.
    pub fn request(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.had_request.store(true, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        ActiveRequest {
            activity: Arc::clone(self),
            answer: None,
            slot: None,
            receives: false,
        }
    }

    /// Whether a request has come on the connection.
    pub fn had_request(&self) -> bool {
        self.had_request.load(Ordering::Relaxed)
    }

    /// Whether the connection must be reset, for one of the reasons of [`abort`](Self::abort).
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Whether no request is in flight and no byte has moved for `SETTLED_MS`, so that the answers are written.
    pub fn is_settled(&self) -> bool {
        let quiet = self
            .now()
            .saturating_sub(self.last_activity.load(Ordering::Relaxed));
        self.active.load(Ordering::Relaxed) == 0 && quiet >= SETTLED_MS
    }

    /// Checks the timeouts.
    pub fn check_timeouts(&self) -> TimeoutCheck {
        if self.is_stalled() {
            return TimeoutCheck::Stalled;
        }
        let ActivityLimits { head, answer, idle } = self.limits;
        let active = self.active.load(Ordering::Relaxed) > 0;
        let last = if !active && self.http2.load(Ordering::Relaxed) {
            &self.last_answer
        } else {
            &self.last_activity
        };
        // A connection that waits for GatePay is not idle. Before the first verified request, the caller is unknown.
        let idle = match active {
            true => idle.max(WAITING),
            false if self.party().is_none() => idle.min(head),
            false => idle,
        };
        let idle_until = self.at(last.load(Ordering::Relaxed)) + idle;
        let until = match self.head_since.load(Ordering::Relaxed) {
            since if since > 0 && !active => idle_until.min(self.at(since - 1) + head),
            _ => idle_until,
        };
        let now = Instant::now();
        if until <= now {
            TimeoutCheck::Late
        } else {
            TimeoutCheck::Fine(until.min(now + head.min(answer)))
        }
    }

    /// Whether an answer is stalled. The counts are checked once per limit, and an answer of which nothing was taken
    /// between two checks is stalled. So a stall is found after the limit, and after twice the limit at most.
    fn is_stalled(&self) -> bool {
        let now = self.now();
        let limit = u64::try_from(self.limits.answer.as_millis()).unwrap_or(u64::MAX);
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked > 0 && now + 1 >= blocked.saturating_add(limit) {
            return true;
        }
        if now.saturating_sub(self.checked_at.load(Ordering::Relaxed)) < limit {
            return false;
        }
        let newer = self.newer.load(Ordering::Relaxed);
        if self.answers[1 - newer].load(Ordering::Relaxed) > 0 {
            return true;
        }
        self.newer.store(1 - newer, Ordering::Relaxed);
        self.checked_at.store(now, Ordering::Relaxed);
        false
    }

    fn now(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.created + Duration::from_millis(millis)
    }
}

impl ActiveRequest {
    /// Keeps the request's slot until the request is over.
    #[must_use]
    pub fn with_slot(mut self, slot: RequestSlot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Marks the connection to be reset, because the answer was cut short.
    pub fn abort(&self) {
        self.activity.abort();
    }

    /// Notes that the request was verified as this party's. Any number that identifies the party will do.
    pub fn verified(&self, party: NonZeroUsize) {
        // A store invalidates other cores' caches; on most connections the party never changes.
        if self.activity.party.load(Ordering::Relaxed) != party.get() {
            self.activity.party.store(party.get(), Ordering::Relaxed);
        }
    }

    /// Notes that more of the body is awaited, from now until [`received`](Self::received).
    pub fn receives(&mut self) {
        self.receives = true;
        let now = self.activity.now();
        if self.activity.receiving.fetch_add(1, Ordering::Relaxed) == 0 {
            self.activity
                .receiving_since
                .store(now + 1, Ordering::Relaxed);
        }
    }

    /// Notes that no more of the body is awaited.
    pub fn received(&mut self) {
        if std::mem::take(&mut self.receives) {
            self.activity.receiving.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the wait for the body ends, because a new connection needs the slot.
    pub fn gives_way(&self) -> bool {
        self.activity.leaves() == Some(LeaveReason::SlowBody)
    }

    /// Notes that the answer begins, or that the caller took more of it.
    pub fn answering(&mut self) {
        let newer = self.activity.newer.load(Ordering::Relaxed);
        if self.answer != Some(newer) {
            self.activity.answers[newer].fetch_add(1, Ordering::Relaxed);
            self.answered();
            self.answer = Some(newer);
        }
    }

    fn answered(&mut self) {
        if let Some(before) = self.answer.take() {
            self.activity.answers[before].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How long no byte may move while an answer is due; a longer idle timeout takes precedence. By default a call takes at
/// most 20 s (`upstream.deadline_ms` plus `upstream.resolve_ms`). The settings accept up to 24 h for each. A call that
/// takes more than five minutes can therefore lose its connection.
const WAITING: Duration = Duration::from_mins(5);
/// The least rate, in bytes per second, at which an answer must be taken once the send buffer is full. A body that
/// comes more slowly gives way to a new connection.
const PER_SECOND: u64 = 1_024;
/// How many milliseconds behind that rate a body is before it gives way.
const SLOW_MS: u64 = 1_000;
/// How many milliseconds no byte moves before a connection counts as settled.
const SETTLED_MS: u64 = 200;

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.answered();
        self.received();
        let now = self.activity.now();
        self.activity.last_activity.store(now, Ordering::Relaxed);
        self.activity.last_answer.store(now, Ordering::Relaxed);
        self.activity.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
