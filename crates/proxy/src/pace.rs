//! Pace: how long a connection may take for its next head, and how long it may idle between requests.
//!
//! hyper has one time-out for both, and arms a timer for every request. Here a connection notes when it began to
//! wait, and one alarm per connection looks once in a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What a connection waits for, and since when.
#[derive(Debug)]
pub struct Pace {
    made: Instant,
    /// Requests whose answers are not over.
    busy: AtomicU32,
    /// When the first byte of a head came, in milliseconds since `made`, plus one; 0 if none has.
    head_since: AtomicU64,
    /// When the last answer ended or the last byte moved, in milliseconds since `made`.
    moved: AtomicU64,
    /// There has been a request.
    asked: AtomicBool,
    /// An answer was cut short, so that the connection must not end as if it were whole.
    aborted: AtomicBool,
    /// How long a head may take.
    head: Duration,
    /// How long nothing may happen.
    idle: Duration,
}

/// A request on the connection; it is not idle until this is dropped.
#[derive(Debug)]
pub struct Busy(Arc<Pace>);

/// What the alarm finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is late; look again then.
    Fine(Instant),
    /// A head has taken too long, or nothing has happened for too long.
    Late,
}

impl Pace {
    /// A connection that was just accepted. Its first byte is already awaited, under the head's time-out.
    pub fn new(head: Duration, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            made: Instant::now(),
            busy: AtomicU32::new(0),
            head_since: AtomicU64::new(1),
            moved: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            head,
            idle,
        })
    }

    /// Bytes came in.
    pub fn read(&self) {
        let now = self.now();
        self.moved.store(now, Ordering::Relaxed);
        if self.busy.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(now + 1, Ordering::Relaxed);
        }
    }

    /// Bytes went out.
    pub fn wrote(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    /// From here on heads are somebody else's to time: HTTP/2 frames them.
    pub fn begun(&self) {
        self.head_since.store(0, Ordering::Relaxed);
    }

    /// A head is complete.
    pub fn request(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.asked.store(true, Ordering::Relaxed);
        self.begun();
        Busy(Arc::clone(self))
    }

    /// Whether there has been a request.
    pub fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether a head is awaited of which something may have come, and no request is in flight.
    pub fn is_reading(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) > 0
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
    pub fn judge(&self) -> Verdict {
        let busy = self.busy.load(Ordering::Relaxed) > 0;
        // Whoever waits for GatePay is not idle; whoever takes no byte of an answer for so long is gone.
        let idle = if busy {
            self.idle.max(STALLED)
        } else {
            self.idle
        };
        let idle_until = self.at(self.moved.load(Ordering::Relaxed)) + idle;
        let until = match self.head_since.load(Ordering::Relaxed) {
            since if since > 0 && !busy => idle_until.min(self.at(since - 1) + self.head),
            _ => idle_until,
        };
        if until <= Instant::now() {
            Verdict::Late
        } else {
            Verdict::Fine(until.min(Instant::now() + self.head))
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, millis: u64) -> Instant {
        self.made + Duration::from_millis(millis)
    }
}

impl Busy {
    /// The answer was cut short.
    pub fn abort(&self) {
        self.0.aborted.store(true, Ordering::Relaxed);
    }
}

/// How long nothing may move while an answer is due. Above every deadline of a call.
const STALLED: Duration = Duration::from_mins(5);
/// How long nothing moves before a connection counts as settled.
const SETTLED_MS: u64 = 200;

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wrote();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_mins(2);

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_late_after_the_heads_time() {
        let pace = Pace::new(HEAD, IDLE);
        advance(HEAD.saturating_sub(Duration::from_millis(1))).await;
        assert!(matches!(pace.judge(), Verdict::Fine(_)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(pace.judge(), Verdict::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_it_may_idle_but_the_next_head_may_not_dawdle() {
        let pace = Pace::new(HEAD, IDLE);
        pace.read();
        drop(pace.request());
        advance(Duration::from_mins(1)).await;
        assert!(matches!(pace.judge(), Verdict::Fine(_)));
        pace.read();
        advance(HEAD).await;
        assert_eq!(pace.judge(), Verdict::Late);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_is_not_a_slow_head() {
        let pace = Pace::new(HEAD, IDLE);
        let _busy = pace.request();
        advance(Duration::from_mins(1)).await;
        assert!(matches!(pace.judge(), Verdict::Fine(_)));
    }
}
