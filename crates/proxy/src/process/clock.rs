//! The one place that reads time and randomness, so that tests can set both.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use gatepay_core::FreshStamp;

/// Wall time for stamps and windows, monotonic time for limits and durations.
#[derive(Clone, Debug)]
pub struct Clock(TimeSource);

#[derive(Clone, Debug)]
enum TimeSource {
    System {
        started: Instant,
    },
    /// A clock that a test moves.
    Manual(Arc<ManualClock>),
}

/// A manual clock's time.
#[derive(Debug)]
struct ManualClock {
    /// Monotonic time, in milliseconds.
    elapsed_ms: AtomicU64,
    /// How far wall time (milliseconds since 1970) is ahead of monotonic time.
    ahead_ms: AtomicI64,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(TimeSource::System {
            started: Instant::now(),
        })
    }

    /// A clock for tests, which shows `unix_ms` until it is moved.
    pub fn manual(unix_ms: u64) -> Self {
        Self(TimeSource::Manual(Arc::new(ManualClock {
            elapsed_ms: AtomicU64::new(unix_ms),
            ahead_ms: AtomicI64::new(0),
        })))
    }

    /// Milliseconds since 1970, UTC.
    pub fn unix_ms(&self) -> u64 {
        match &self.0 {
            TimeSource::System { .. } => system_unix_ms(),
            TimeSource::Manual(hands) => {
                let ahead = hands.ahead_ms.load(Ordering::Relaxed);
                let elapsed = hands.elapsed_ms.load(Ordering::Relaxed);
                elapsed.saturating_add_signed(ahead)
            }
        }
    }

    /// Time since some fixed point; never goes back while the machine's clock is used.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            TimeSource::System { started } => started.elapsed(),
            TimeSource::Manual(hands) => {
                Duration::from_millis(hands.elapsed_ms.load(Ordering::Relaxed))
            }
        }
    }

    /// The timers' instant of a result of [`elapsed`](Self::elapsed), so that one reading serves both.
    pub fn instant(&self, elapsed: Duration) -> tokio::time::Instant {
        match &self.0 {
            TimeSource::System { started } => (*started + elapsed).into(),
            // Timers do not follow a manual clock.
            TimeSource::Manual(_) => tokio::time::Instant::now(),
        }
    }

    /// A stamp of our own for one attempt: the present moment, and a fresh nonce.
    pub fn stamp(&self) -> FreshStamp {
        FreshStamp::new(self.unix_ms(), random())
    }

    /// Moves a manual clock; the machine's clock stays unchanged.
    pub fn advance(&self, by: Duration) {
        if let TimeSource::Manual(hands) = &self.0 {
            hands.elapsed_ms.fetch_add(
                u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
        }
    }

    /// Sets both times of a manual clock, also to a time in its past.
    pub fn set(&self, unix_ms: u64) {
        if let TimeSource::Manual(hands) = &self.0 {
            hands.elapsed_ms.store(unix_ms, Ordering::Relaxed);
            hands.ahead_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Steps the wall time of a manual clock, forth or back, as a correction steps the machine's clock. Monotonic time
    /// is unaffected.
    pub fn step(&self, by_ms: i64) {
        if let TimeSource::Manual(hands) = &self.0 {
            hands.ahead_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that reads time"
)]
fn system_unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in nanoseconds. 64 bits of them hold centuries.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// `N` random bytes. The system supplies them in bulk: a system call for each use would cost as much as a signature.
///
/// # Panics
/// If the system has no randomness to give: without it no request can be signed safely.
pub fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= BULK) };
    RANDOM.with_borrow_mut(|bulk| {
        if bulk.left < N {
            getrandom::fill(&mut bulk.bytes).expect("the system gives random bytes");
            bulk.left = BULK;
        }
        bulk.left -= N;
        let next = bulk.bytes[bulk.left..].first_chunk_mut();
        // The bytes that were handed out are erased here.
        mem::replace(next.expect("so many were left"), [0; N])
    })
}

const BULK: usize = 4096;

struct RandomBuffer {
    bytes: [u8; BULK],
    left: usize,
}

thread_local! {
    static RANDOM: RefCell<RandomBuffer> = const { RefCell::new(RandomBuffer { bytes: [0; BULK], left: 0 }) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_nonce_comes_twice() {
        let clock = Clock::manual(1_767_225_600_000);
        let nonces: HashSet<String> = (0..10_000)
            .map(|_| clock.stamp().as_stamp().nonce().to_owned())
            .collect();
        assert_eq!(nonces.len(), 10_000);
    }

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(
            (clock.unix_ms(), clock.elapsed()),
            (3_000, Duration::from_secs(3))
        );
        clock.set(500);
        assert_eq!(clock.unix_ms(), 500);
        clock.step(-200);
        assert_eq!(
            (clock.unix_ms(), clock.elapsed()),
            (300, Duration::from_millis(500)),
            "only wall time is stepped"
        );
    }
}
