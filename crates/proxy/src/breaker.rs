//! Breaker: while GatePay keeps failing nothing is sent to it but a read now and then, to see whether it is back.
//!
//! A call that is refused meanwhile was certainly not executed, which is more than one can say of a call that is sent
//! to something that is failing. Money is never sent to find out.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gatepay_core::Kind;
use gatepay_tenancy::settings;
use prometheus::{IntCounter, IntGauge};

/// How often one read may find out whether GatePay is back: often enough to be back within a second.
const EVERY: Duration = Duration::from_millis(500);
/// The time over which failures are compared with attempts.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer attempts have no ratio.
const FEWEST: u32 = 20;

/// Shared by all workers. While GatePay is well it costs an attempt two atomic operations.
pub struct Breaker {
    /// How many failures in a row open it; 0 for never.
    failures: u32,
    /// Which part of the attempts must fail to open it; 0 for never.
    ratio: f64,
    open: AtomicBool,
    in_a_row: AtomicU32,
    /// Attempts in the upper half, failures among them in the lower.
    counts: AtomicU64,
    times: Mutex<Times>,
    is_open: IntGauge,
    opened: IntCounter,
}

struct Times {
    /// When the counts began.
    window: Instant,
    /// When the next read may find out.
    probe: Instant,
    /// When it opened.
    opened: Instant,
}

/// The right to send an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// GatePay is well.
    Free,
    /// It is not; this attempt finds out whether it is again.
    Probe,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: settings::Breaker, is_open: IntGauge, opened: IntCounter) -> Self {
        let now = Instant::now();
        Self {
            failures: settings.failures,
            ratio: settings.ratio,
            open: AtomicBool::new(false),
            in_a_row: AtomicU32::new(0),
            counts: AtomicU64::new(0),
            times: Mutex::new(Times {
                window: now,
                probe: now,
                opened: now,
            }),
            is_open,
            opened,
        }
    }

    /// Whether an attempt of this kind may be sent now.
    pub fn pass(&self, kind: Kind) -> Option<Pass> {
        if !self.is_open() {
            return Some(Pass::Free);
        }
        (kind == Kind::Read && self.claim(Instant::now())).then_some(Pass::Probe)
    }

    /// Whether GatePay keeps failing.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether it is open and nobody has tried to find out for a while.
    pub fn is_due(&self) -> bool {
        self.is_open() && Instant::now() >= self.times().probe
    }

    /// There is no read to find out by. After a while it is closed all the same, or calls that change something would be
    /// refused for ever where there are no others.
    pub fn despair(&self) {
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.times().opened);
        if self.is_open() && waited > WINDOW {
            self.close(now);
        }
    }

    /// Whether nobody else finds out just now. One that hangs does not keep the next from trying.
    fn claim(&self, now: Instant) -> bool {
        let mut times = self.times();
        let due = now >= times.probe;
        if due {
            times.probe = now + EVERY;
        }
        due
    }

    /// GatePay answered, whatever it said.
    pub fn succeeded(&self, pass: Pass) {
        self.counts.fetch_add(1 << 32, Ordering::Relaxed);
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        if pass == Pass::Probe {
            self.close(Instant::now());
        }
    }

    /// No connection, no whole answer, or one of something that stands before GatePay.
    pub fn failed(&self) {
        self.failed_at(Instant::now());
    }

    fn failed_at(&self, now: Instant) {
        let in_a_row = self
            .in_a_row
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let mut times = self.times();
        if now.saturating_duration_since(times.window) > WINDOW {
            times.window = now;
            self.counts.store(0, Ordering::Relaxed);
        }
        let counts = self.counts.fetch_add((1 << 32) + 1, Ordering::Relaxed) + (1 << 32) + 1;
        let attempts = u32::try_from(counts >> 32).unwrap_or(u32::MAX);
        let failures = u32::try_from(counts & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let enough = self.failures != 0 && in_a_row >= self.failures;
        let often = self.ratio > 0.0
            && attempts >= FEWEST
            && f64::from(failures) >= self.ratio * f64::from(attempts);
        if (enough || often) && !self.open.swap(true, Ordering::Relaxed) {
            (times.opened, times.probe) = (now, now + EVERY);
            self.is_open.set(1);
            self.opened.inc();
            tracing::error!(
                in_a_row,
                failures,
                attempts,
                "GatePay keeps failing: until a read gets through, nothing else is sent"
            );
        }
    }

    fn close(&self, now: Instant) {
        let mut times = self.times();
        if self.open.swap(false, Ordering::Relaxed) {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.counts.store(0, Ordering::Relaxed);
            times.window = now;
            self.is_open.set(0);
            let after = now.saturating_duration_since(times.opened);
            tracing::warn!(?after, "GatePay answers again: everything is sent");
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(failures: u32, ratio: f64) -> Breaker {
        let gauge = IntGauge::new("open", "open").unwrap();
        let counter = IntCounter::new("opened", "opened").unwrap();
        Breaker::new(settings::Breaker { failures, ratio }, gauge, counter)
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_success_between_does_not() {
        let breaker = breaker(3, 0.0);
        for _ in 0..100 {
            breaker.failed();
            breaker.failed();
            breaker.succeeded(Pass::Free);
        }
        assert!(!breaker.is_open());
        for _ in 0..3 {
            assert!(!breaker.is_open());
            breaker.failed();
        }
        assert!(breaker.is_open());
        assert_eq!((breaker.is_open.get(), breaker.opened.get()), (1, 1));
    }

    #[test]
    fn a_part_that_fails_opens_it_once_there_are_enough_of_them() {
        let breaker = breaker(0, 0.5);
        for _ in 0..9 {
            breaker.succeeded(Pass::Free);
            breaker.failed();
        }
        assert!(!breaker.is_open(), "18 attempts have no ratio");
        breaker.succeeded(Pass::Free);
        breaker.failed();
        assert!(breaker.is_open());
    }

    #[test]
    fn old_attempts_do_not_hide_new_failures_nor_old_failures_new_success() {
        let breaker = breaker(0, 0.5);
        for _ in 0..1_000 {
            breaker.succeeded(Pass::Free);
        }
        let later = Instant::now() + WINDOW + EVERY;
        for _ in 0..20 {
            assert!(!breaker.is_open());
            breaker.failed_at(later);
        }
        assert!(breaker.is_open());
    }

    #[test]
    fn while_it_is_open_one_read_at_a_time_finds_out_and_nothing_else_goes() {
        let breaker = breaker(1, 0.0);
        breaker.failed();
        let now = Instant::now();
        for kind in [Kind::Read, Kind::Write, Kind::Money] {
            assert_eq!(breaker.pass(kind), None, "it has only just opened");
        }
        assert!(!breaker.claim(now) && breaker.claim(now + EVERY));
        assert!(!breaker.claim(now + EVERY), "somebody else has it");
        assert!(breaker.claim(now + 2 * EVERY), "though it did not end");
        breaker.succeeded(Pass::Free);
        assert!(breaker.is_open(), "what was sent before it opened");
        breaker.succeeded(Pass::Probe);
        assert_eq!(breaker.pass(Kind::Money), Some(Pass::Free));
        assert_eq!((breaker.is_open.get(), breaker.opened.get()), (0, 1));
    }

    #[test]
    fn without_limits_it_never_opens() {
        let breaker = breaker(0, 0.0);
        for _ in 0..1_000 {
            breaker.failed();
        }
        assert!(!breaker.is_open());
    }
}
