//! Pace: how long a connection may take for its next head, how long to take its answers, and how long it may idle.
//!
//! A timer for every request would cost. Here a connection notes when it began to wait, and one alarm per connection
//! looks once in a while.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::callers::address_limits::RequestSlot;

/// What a connection waits for, and since when.
#[derive(Debug)]
pub struct ConnectionActivity {
    made: Instant,
    /// Requests whose answers are not over.
    busy: AtomicU32,
    /// Those of which more of the body is awaited, so that nothing is proved of them yet.
    receiving: AtomicU32,
    /// Since when a body is awaited, in milliseconds since `made`, less the time that what came meanwhile was worth; plus
    /// one.
    receiving_since: AtomicU64,
    /// When the first byte of a head came, in milliseconds since `made`, plus one; 0 if none has.
    head_since: AtomicU64,
    /// When the last answer ended or the last byte moved, in milliseconds since `made`.
    moved: AtomicU64,
    /// There has been a request.
    asked: AtomicBool,
    /// When the last answer ended.
    answered: AtomicU64,
    /// Whether HTTP/2 is spoken: its bytes need not be about requests, and its heads are framed.
    http2: AtomicBool,
    /// Since when what was written waits for room, less the time that what was written meanwhile was worth; plus one,
    /// 0 if nothing waits.
    blocked_since: AtomicU64,
    /// Answers that have begun and not ended: those since `looked`, and the others, which may have been there before.
    answers: [AtomicU32; 2],
    /// Which of the two are those since `looked`.
    newer: AtomicUsize,
    /// When the answers were last looked at.
    looked: AtomicU64,
    /// An answer was cut short, so that the connection must not end as if it were whole.
    aborted: AtomicBool,
    /// The party whose request was verified last, as [`verified`](Busy::verified) was told; 0 if none ever was.
    party: AtomicUsize,
    /// A [`Leave`], once the connection is to end as soon as no request is under way; 0 until then.
    leave: AtomicU8,
    /// Wakes the connection when `leave` is set.
    told: Notify,
    limits: ActivityLimits,
}

/// Why a connection is to end although nothing on it is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaveReason {
    /// All slots are taken, and a new connection needs one.
    Full = 1,
    /// It has been open for `listen.connection_age_ms`.
    Age = 2,
    /// `listen.tls.client_ca` is not what it was when the caller showed its certificate.
    ClientCa = 3,
    /// All slots are taken, and all it has under way are requests whose bodies come slowly. It does not wait for those.
    SlowBody = 4,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct ActivityLimits {
    /// A head.
    pub head: Duration,
    /// Nothing being taken of an answer.
    pub answer: Duration,
    /// Nothing at all.
    pub idle: Duration,
}

/// A request on the connection; it is not idle until this is dropped.
#[derive(Debug)]
pub struct ActiveRequest {
    pace: Arc<ConnectionActivity>,
    /// Once its answer has begun: among which it is counted.
    answer: Option<usize>,
    /// Its place among all requests.
    seat: Option<RequestSlot>,
    /// Whether more of its body is awaited.
    receives: bool,
}

/// What the alarm finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutCheck {
    /// Nothing is late; look again then.
    Fine(Instant),
    /// A head has taken too long, or nothing has happened for too long.
    Late,
    /// An answer is not being taken.
    Stalled,
}

impl ConnectionActivity {
    /// A connection that was just accepted. Its first byte is already awaited, under the head's time-out.
    pub fn new(limits: ActivityLimits) -> Arc<Self> {
        Arc::new(Self {
            made: Instant::now(),
            busy: AtomicU32::new(0),
            receiving: AtomicU32::new(0),
            receiving_since: AtomicU64::new(0),
            head_since: AtomicU64::new(1),
            moved: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            blocked_since: AtomicU64::new(0),
            answers: Default::default(),
            newer: AtomicUsize::new(0),
            looked: AtomicU64::new(0),
            aborted: AtomicBool::new(false),
            party: AtomicUsize::new(0),
            leave: AtomicU8::new(0),
            told: Notify::new(),
            limits,
        })
    }

    /// The connection is read from now on: until then it waited for a slot, a PROXY header or the end of a penalty.
    pub fn begin(&self) {
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        self.head_since.store(now + 1, Ordering::Relaxed);
    }

    /// Asks the connection to end as soon as no request is under way; whether this is the first reason, which stands.
    pub fn leave(&self, why: LeaveReason) -> bool {
        let first = self
            .leave
            .compare_exchange(0, why as u8, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        if first {
            self.told.notify_one();
        }
        first
    }

    /// Why the connection was asked to end, if it was.
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
            self.told.notified().await;
        }
    }

    /// The party whose request was verified last on the connection, if any was.
    pub fn party(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.party.load(Ordering::Relaxed))
    }

    /// Since when no request has been under way: since the last answer, or since a head began that is not complete.
    /// Nothing while a request is under way, that is from its complete head until its answer is written.
    pub fn idle_since(&self) -> Option<Instant> {
        let is_busy = self.busy.load(Ordering::Relaxed) > 0;
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        if is_busy || is_writing {
            return None;
        }
        let answered = self.answered.load(Ordering::Relaxed);
        let head = self.head_since.load(Ordering::Relaxed).saturating_sub(1);
        Some(self.at(answered.max(head)))
    }

    /// Since when bodies are awaited that come slowly, if nothing else is under way: some for `SLOW_MS` more than what
    /// has come of them is worth at `PER_SECOND`. Later, the more has come.
    pub fn slow_since(&self) -> Option<Instant> {
        let receiving = self.receiving.load(Ordering::Relaxed);
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        if receiving == 0 || receiving != self.busy.load(Ordering::Relaxed) || is_writing {
            return None;
        }
        let since = self.receiving_since.load(Ordering::Relaxed);
        (self.now() + 1 >= since + SLOW_MS).then(|| self.at(since.saturating_sub(1)))
    }

    /// Whether all that is under way are requests whose bodies are awaited.
    pub fn only_receives(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) == self.busy.load(Ordering::Relaxed)
    }

    /// Whether the last answer ended so long ago, and is written.
    pub fn is_idle_for(&self, time: Duration) -> bool {
        let is_writing = self.blocked_since.load(Ordering::Relaxed) > 0;
        let answered = self.at(self.answered.load(Ordering::Relaxed));
        self.busy.load(Ordering::Relaxed) == 0 && !is_writing && answered.elapsed() >= time
    }

    /// So many bytes came in.
    pub fn read(&self, bytes: usize) {
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        if self.receiving.load(Ordering::Relaxed) > 0 {
            let worth = bytes as u64 * 1_000 / PER_SECOND;
            let since = self.receiving_since.load(Ordering::Relaxed) + worth;
            self.receiving_since
                .store(since.min(now + 1), Ordering::Relaxed);
        }
        if self.http2.load(Ordering::Relaxed) {
            return;
        }
        if self.busy.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// When the last byte came or went, or the last answer ended.
    pub fn moved(&self) -> Instant {
        self.at(self.moved.load(Ordering::Relaxed))
    }

    /// Some of a head is there, whenever it came.
    pub fn head_begun(&self) {
        if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// So many bytes went out.
    pub fn wrote(&self, bytes: usize) {
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        let since = self.blocked_since.load(Ordering::Relaxed);
        if since > 0 {
            let worth = bytes as u64 * 1_000 / PER_SECOND;
            let since = (since + worth).min(now + 1);
            self.blocked_since.store(since, Ordering::Relaxed);
        }
    }

    /// What is to go out finds no room, for the caller takes nothing.
    pub fn blocked(&self) {
        if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Everything that was to go out is out.
    pub fn flushed(&self) {
        if self.blocked_since.load(Ordering::Relaxed) != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
        }
    }

    /// From here on only requests count as something that happens: HTTP/2 has bytes of its own. The first is still
    /// awaited, under the head's time-out; those after it come when they come.
    pub fn http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    /// What went on here was an attack: the connection ends at once.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
    }

    /// A head is complete.
    pub fn request(self: &Arc<Self>) -> ActiveRequest {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        ActiveRequest {
            pace: Arc::clone(self),
            answer: None,
            seat: None,
            receives: false,
        }
    }

    /// Whether there has been a request.
    pub fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether an answer was cut short.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Whether nothing is in flight, and nothing has moved for a moment: what was answered is out.
    pub fn is_settled(&self) -> bool {
        let quiet = self
            .now()
            .saturating_sub(self.moved.load(Ordering::Relaxed));
        self.busy.load(Ordering::Relaxed) == 0 && quiet >= SETTLED_MS
    }

    /// Whether something is late.
    pub fn check_timeouts(&self) -> TimeoutCheck {
        if self.is_stalled() {
            return TimeoutCheck::Stalled;
        }
        let ActivityLimits { head, answer, idle } = self.limits;
        let busy = self.busy.load(Ordering::Relaxed) > 0;
        let last = if !busy && self.http2.load(Ordering::Relaxed) {
            &self.answered
        } else {
            &self.moved
        };
        // A connection that waits for GatePay is not idle. One on which nothing was ever verified may be anybody's.
        let idle = match busy {
            true => idle.max(WAITING),
            false if self.party().is_none() => idle.min(head),
            false => idle,
        };
        let idle_until = self.at(last.load(Ordering::Relaxed)) + idle;
        let until = match self.head_since.load(Ordering::Relaxed) {
            since if since > 0 && !busy => idle_until.min(self.at(since - 1) + head),
            _ => idle_until,
        };
        let now = Instant::now();
        if until <= now {
            TimeoutCheck::Late
        } else {
            TimeoutCheck::Fine(until.min(now + head.min(answer)))
        }
    }

    /// Whether an answer is not being taken. One that was there at the last look but one, and of which nothing was
    /// taken since, is older than the limit, and at most twice as old.
    fn is_stalled(&self) -> bool {
        let now = self.now();
        let limit = u64::try_from(self.limits.answer.as_millis()).unwrap_or(u64::MAX);
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked > 0 && now + 1 >= blocked.saturating_add(limit) {
            return true;
        }
        if now.saturating_sub(self.looked.load(Ordering::Relaxed)) < limit {
            return false;
        }
        let newer = self.newer.load(Ordering::Relaxed);
        if self.answers[1 - newer].load(Ordering::Relaxed) > 0 {
            return true;
        }
        self.newer.store(1 - newer, Ordering::Relaxed);
        self.looked.store(now, Ordering::Relaxed);
        false
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.made + Duration::from_millis(millis)
    }
}

impl ActiveRequest {
    /// Holds the request's place among all for as long as itself.
    #[must_use]
    pub fn seated(mut self, seat: RequestSlot) -> Self {
        self.seat = Some(seat);
        self
    }

    /// The answer was cut short.
    pub fn abort(&self) {
        self.pace.abort();
    }

    /// The request was proved to be this party's. Any number that is one party's alone will do.
    pub fn verified(&self, party: NonZeroUsize) {
        // A store is seen by other cores; on most connections the party never changes.
        if self.pace.party.load(Ordering::Relaxed) != party.get() {
            self.pace.party.store(party.get(), Ordering::Relaxed);
        }
    }

    /// More of the body is awaited, from now until [`received`](Self::received).
    pub fn receives(&mut self) {
        self.receives = true;
        let now = self.pace.now();
        if self.pace.receiving.fetch_add(1, Ordering::Relaxed) == 0 {
            self.pace.receiving_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// No more of the body is awaited.
    pub fn received(&mut self) {
        if std::mem::take(&mut self.receives) {
            self.pace.receiving.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether its body is no longer waited for, since a new connection needs the slot.
    pub fn gives_way(&self) -> bool {
        self.pace.leaves() == Some(LeaveReason::SlowBody)
    }

    /// The answer begins, or more of it was taken.
    pub fn answering(&mut self) {
        let newer = self.pace.newer.load(Ordering::Relaxed);
        if self.answer != Some(newer) {
            self.pace.answers[newer].fetch_add(1, Ordering::Relaxed);
            self.answered();
            self.answer = Some(newer);
        }
    }

    fn answered(&mut self) {
        if let Some(before) = self.answer.take() {
            self.pace.answers[before].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How long nothing may move while an answer is due. Above every deadline of a call.
const WAITING: Duration = Duration::from_mins(5);
/// How fast an answer has to be taken once the caller's buffers are full, and how fast a body comes that does not give way
/// to a new connection, in bytes.
const PER_SECOND: u64 = 1_024;
/// How far behind that a body is before it gives way.
const SLOW_MS: u64 = 1_000;
/// How long nothing moves before a connection counts as settled.
const SETTLED_MS: u64 = 200;

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.answered();
        self.received();
        let now = self.pace.now();
        self.pace.moved.store(now, Ordering::Relaxed);
        self.pace.answered.store(now, Ordering::Relaxed);
        self.pace.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const HEAD: Duration = Duration::from_secs(10);
    const ANSWER: Duration = Duration::from_secs(30);
    const IDLE: Duration = Duration::from_mins(2);
    const LIMITS: ActivityLimits = ActivityLimits {
        head: HEAD,
        answer: ANSWER,
        idle: IDLE,
    };

    const PARTY: NonZeroUsize = NonZeroUsize::MIN;

    /// A connection on which a request was verified and answered.
    fn verified() -> Arc<ConnectionActivity> {
        let pace = ConnectionActivity::new(LIMITS);
        pace.request().verified(PARTY);
        pace
    }

    /// Looks as often as it asks to, for so long; what it finds at last.
    async fn watch(pace: &ConnectionActivity, time: Duration) -> TimeoutCheck {
        let end = Instant::now() + time;
        loop {
            match pace.check_timeouts() {
                TimeoutCheck::Fine(next) if next < end => advance(next - Instant::now()).await,
                TimeoutCheck::Fine(_) => {
                    advance(end - Instant::now()).await;
                    return pace.check_timeouts();
                }
                late => return late,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_late_after_the_heads_time() {
        let pace = ConnectionActivity::new(LIMITS);
        advance(HEAD.saturating_sub(Duration::from_millis(1))).await;
        assert!(matches!(pace.check_timeouts(), TimeoutCheck::Fine(_)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(pace.check_timeouts(), TimeoutCheck::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_it_may_idle_but_the_next_head_may_not_dawdle() {
        let pace = verified();
        pace.read(1);
        drop(pace.request());
        advance(Duration::from_mins(1)).await;
        assert!(matches!(pace.check_timeouts(), TimeoutCheck::Fine(_)));
        pace.read(1);
        advance(HEAD).await;
        assert_eq!(pace.check_timeouts(), TimeoutCheck::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_is_not_a_slow_head() {
        let pace = ConnectionActivity::new(LIMITS);
        let _busy = pace.request();
        advance(Duration::from_mins(1)).await;
        assert!(matches!(pace.check_timeouts(), TimeoutCheck::Fine(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_nobody_takes_is_stalled_whatever_else_goes_on() {
        let pace = ConnectionActivity::new(LIMITS);
        pace.http2();
        let mut stalled = pace.request();
        stalled.answering();
        for second in 0.. {
            assert!(second <= 2 * ANSWER.as_secs(), "it was never noticed");
            // Other answers of the connection, and pings.
            let mut other = pace.request();
            other.answering();
            drop(other);
            pace.read(1);
            pace.wrote(17);
            if watch(&pace, Duration::from_secs(1)).await == TimeoutCheck::Stalled {
                assert!(second + 1 >= ANSWER.as_secs(), "after {second} s");
                break;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_that_is_being_taken_is_not_stalled() {
        let pace = verified();
        let mut long = pace.request();
        for _ in 0..100 {
            long.answering();
            pace.wrote(1);
            assert!(matches!(
                watch(&pace, ANSWER / 2).await,
                TimeoutCheck::Fine(_)
            ));
        }
        drop(long);
        assert!(matches!(
            watch(&pace, IDLE / 2).await,
            TimeoutCheck::Fine(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_a_byte_now_and_then_is_stalled_one_that_is_slow_is_not() {
        let pace = ConnectionActivity::new(LIMITS);
        drop(pace.request());
        pace.blocked();
        for _ in 0..29 {
            assert!(matches!(
                watch(&pace, Duration::from_secs(1)).await,
                TimeoutCheck::Fine(_)
            ));
            pace.wrote(10);
        }
        assert_eq!(
            watch(&pace, Duration::from_secs(2)).await,
            TimeoutCheck::Stalled
        );

        let pace = verified();
        for _ in 0..100 {
            pace.blocked();
            assert!(matches!(
                watch(&pace, Duration::from_secs(10)).await,
                TimeoutCheck::Fine(_)
            ));
            pace.wrote(20 * 1024);
        }
        pace.flushed();
        assert!(matches!(
            watch(&pace, IDLE / 2).await,
            TimeoutCheck::Fine(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_keep_a_connection_that_asks_for_nothing() {
        let pace = ConnectionActivity::new(LIMITS);
        pace.http2();
        let ping = || {
            pace.read(1);
            pace.wrote(17);
        };
        ping();
        assert_eq!(
            watch(&pace, HEAD).await,
            TimeoutCheck::Late,
            "no first request"
        );

        let pace = verified();
        pace.http2();
        for _ in 0..11 {
            pace.read(1);
            pace.wrote(17);
            assert!(matches!(watch(&pace, HEAD).await, TimeoutCheck::Fine(_)));
        }
        assert_eq!(watch(&pace, HEAD).await, TimeoutCheck::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_was_verified_idles_no_longer_than_a_head_may_take() {
        for http2 in [false, true] {
            let pace = ConnectionActivity::new(LIMITS);
            if http2 {
                pace.http2();
            }
            for _ in 0..3 {
                drop(pace.request());
                advance(HEAD / 2).await;
                assert!(matches!(pace.check_timeouts(), TimeoutCheck::Fine(_)));
            }
            // A request that waits for its body or for GatePay is not held to it.
            let busy = pace.request();
            assert!(matches!(watch(&pace, IDLE).await, TimeoutCheck::Fine(_)));
            drop(busy);
            assert_eq!(
                watch(&pace, HEAD).await,
                TimeoutCheck::Late,
                "http2: {http2}"
            );
            let pace = verified();
            assert!(matches!(
                watch(&pace, IDLE / 2).await,
                TimeoutCheck::Fine(_)
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_between_an_answer_and_the_next_complete_head() {
        let pace = ConnectionActivity::new(LIMITS);
        let made = Instant::now();
        advance(Duration::from_secs(1)).await;
        assert_eq!(pace.idle_since(), Some(made), "it waits for its first head");
        let busy = pace.request();
        assert_eq!(pace.idle_since(), None);
        drop(busy);
        pace.blocked();
        assert_eq!(pace.idle_since(), None, "its answer is being written");
        pace.flushed();
        assert_eq!(pace.idle_since(), Some(Instant::now()));
        advance(Duration::from_secs(1)).await;
        pace.head_begun();
        let begun = Instant::now();
        // A head that drips is idle since it began.
        advance(Duration::from_secs(1)).await;
        pace.read(1);
        assert_eq!(pace.idle_since(), Some(begun));
    }

    #[tokio::test]
    async fn a_connection_that_is_asked_to_leave_learns_it_once_and_keeps_the_first_reason() {
        let pace = ConnectionActivity::new(LIMITS);
        assert_eq!(pace.leaves(), None);
        pace.leave(LeaveReason::Age);
        pace.leave(LeaveReason::Full);
        pace.asked_to_leave().await;
        assert_eq!(pace.leaves(), Some(LeaveReason::Age));
    }
}
