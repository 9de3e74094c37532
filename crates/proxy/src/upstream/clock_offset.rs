//! Clock offset: measures how far this machine's clock is from GatePay's, and whether the clock steps or stands still.
//!
//! GatePay refuses a request whose stamp is more than ten seconds off (protocol.md 1.4), and no payment succeeds then.
//! So the offset is learned from the `Date` of GatePay's answers, long before it matters. With `clock = "follow"`
//! outbound stamps are GatePay's own time; tenants' stamps are still judged by this machine's clock.
//!
//! `Date` has whole seconds. An answer dated `d` was written at some moment in `[d, d + 1 s)` of GatePay's time, and
//! between sending and receiving of this machine's time: that bounds the offset from both sides, and several answers
//! bound it closely. A single deviating answer is outvoted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use gatepay_core::{FreshStamp, StampWindow};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use parking_lot::{Mutex, MutexGuard};

use crate::process::clock::{self, Clock};
use crate::upstream::meters::{ClockFault, ClockMeters};

/// Maximum number of remembered samples.
const REMEMBERED: usize = 16;
/// Number of samples that must agree before stamps follow them.
const ENOUGH: usize = 2;
/// Maximum age of a sample: a quartz clock drifts by milliseconds in that time.
const SAYS: Duration = Duration::from_mins(10);
/// Interval at which a persisting offset is logged again.
const AGAIN: Duration = Duration::from_mins(1);
/// The smallest difference between the clock's movement and the elapsed time that counts as a fault, in milliseconds.
const STEP_MS: i64 = 500;
/// No offset is known.
const UNKNOWN: i64 = i64::MIN;

/// GatePay's clock as measured, shared by all workers. Without a wanted sample an attempt costs one atomic operation.
pub struct UpstreamClock {
    clock: Clock,
    follow: bool,
    /// How far tenants' stamps may be ahead, in milliseconds.
    future_ms: i64,
    /// Whether the next answer is to be sampled.
    wanted: AtomicBool,
    /// GatePay's time less the time since the process start, in milliseconds, if known well enough to be followed. This
    /// offset stays valid when the machine's clock steps.
    origin: AtomicI64,
    measured: Mutex<ClockSamples>,
    meters: ClockMeters,
}

#[derive(Default)]
struct ClockSamples {
    samples: VecDeque<ClockSample>,
    state: ClockHealth,
    /// When the offset was logged last.
    last_logged: Duration,
    /// The machine's clock and the time since the process start, at the last check.
    last_check: Option<(u64, Duration)>,
    frozen: bool,
}

/// Bounds from one answer on GatePay's time less the time since the process start, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct ClockSample {
    at: Duration,
    min_ms: i64,
    max_ms: i64,
}

/// State of the machine's clock beside GatePay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum ClockHealth {
    #[default]
    InSync,
    /// Beyond half of the difference that GatePay tolerates.
    Skewed,
    /// So far off that requests are refused.
    BeyondTolerance,
}

impl UpstreamClock {
    /// A measurement without samples.
    pub fn new(clock: Clock, follow: bool, window: StampWindow, meters: ClockMeters) -> Self {
        Self {
            clock,
            follow,
            future_ms: i64::try_from(window.future_ms).unwrap_or(i64::MAX),
            wanted: AtomicBool::new(true),
            origin: AtomicI64::new(UNKNOWN),
            measured: Mutex::default(),
            meters,
        }
    }

    /// A stamp for one attempt: this moment by GatePay's clock if it is followed and known, and a fresh nonce.
    pub fn stamp(&self) -> FreshStamp {
        if self.follow
            && let origin = self.origin.load(Ordering::Relaxed)
            && origin != UNKNOWN
        {
            let now = millis(self.clock.elapsed()).saturating_add(origin);
            return FreshStamp::new(u64::try_from(now).unwrap_or_default(), clock::random());
        }
        self.clock.stamp()
    }

    /// The send time of an attempt, if its answer is to be sampled.
    pub fn sample_wanted(&self) -> Option<Duration> {
        (self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed))
            .then(|| self.clock.elapsed())
    }

    /// Takes a sample from the `Date` of an answer to a request sent at `sent`.
    pub fn observe(&self, sent: Duration, date: Option<&[u8]>) {
        let now = self.clock.elapsed();
        let date = date.and_then(|date| str::from_utf8(date).ok());
        let date = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
        let Some(date) = date.map(Timestamp::as_millisecond) else {
            return;
        };
        let mut measured = self.measured();
        if measured.samples.len() == REMEMBERED {
            measured.samples.pop_front();
        }
        measured.samples.push_back(ClockSample {
            at: now,
            min_ms: date.saturating_sub(millis(now)),
            max_ms: date.saturating_add(1_000).saturating_sub(millis(sent)),
        });
        self.judge(&mut measured, now);
        if measured.samples.len() < ENOUGH {
            self.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Records that GatePay refused a stamp of the proxy's: the next answer is sampled.
    pub fn is_refused(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether stamps should follow GatePay's clock while it is still unknown.
    pub fn is_unknown(&self) -> bool {
        self.follow && self.origin.load(Ordering::Relaxed) == UNKNOWN
    }

    /// How far GatePay's clock is ahead of this machine's, in milliseconds, if it is known.
    pub fn offset_ms(&self) -> Option<i64> {
        offset(&self.clock, &self.measured().samples).map(|(offset, _)| offset)
    }

    /// Drops old samples and checks how the machine's clock moves; called every second.
    pub fn look(&self) {
        let before = self.clock.elapsed();
        let wall = self.clock.unix_ms();
        let now = self.clock.elapsed();
        let mut measured = self.measured();
        measured
            .samples
            .retain(|sample| now.saturating_sub(sample.at) < SAYS);
        // A delay of the thread between the readings would look like a fault of the clock.
        if now.saturating_sub(before) < Duration::from_millis(50) {
            let fault = measured
                .last_check
                .replace((wall, now))
                .and_then(|last_check| fault(last_check, (wall, now)));
            self.report(&mut measured, fault);
        }
        self.judge(&mut measured, now);
        self.wanted.store(true, Ordering::Relaxed);
    }

    fn report(&self, measured: &mut ClockSamples, fault: Option<ClockFault>) {
        let was_frozen = std::mem::replace(&mut measured.frozen, fault == Some(ClockFault::Frozen));
        match fault {
            Some(ClockFault::Stepped(by_ms)) => {
                self.meters.faults[0].inc();
                tracing::error!(
                    by_ms,
                    "this machine's clock stepped: stamps of tenants may be refused as stale; check the time service"
                );
            }
            Some(ClockFault::Frozen) => {
                self.meters.faults[1].inc();
                if !was_frozen {
                    tracing::error!(
                        "this machine's clock stood still: stamps of tenants may be refused as stale; check the time service"
                    );
                }
            }
            None => {}
        }
    }

    /// Updates the followed offset, the metrics and the log from the current samples.
    fn judge(&self, measured: &mut ClockSamples, now: Duration) {
        let Some((offset_ms, agreeing)) = offset(&self.clock, &measured.samples) else {
            self.origin.store(UNKNOWN, Ordering::Relaxed);
            self.meters.agreeing.set(0);
            return;
        };
        if agreeing >= ENOUGH
            && let Some((min_ms, max_ms, _)) = agreed(&measured.samples)
        {
            self.origin
                .store(min_ms.midpoint(max_ms), Ordering::Relaxed);
        }
        self.meters.offset.set(
            Duration::from_millis(offset_ms.unsigned_abs())
                .as_secs_f64()
                .copysign(if offset_ms < 0 { -1.0 } else { 1.0 }),
        );
        self.meters
            .agreeing
            .set(i64::try_from(agreeing).unwrap_or(i64::MAX));
        let state = self.state(offset_ms);
        let news = state != measured.state || now.saturating_sub(measured.last_logged) >= AGAIN;
        if news && state.max(measured.state) > ClockHealth::InSync {
            measured.last_logged = now;
            self.say(state, offset_ms);
        }
        measured.state = state;
    }

    fn state(&self, offset_ms: i64) -> ClockHealth {
        let off = offset_ms.abs();
        let tolerated = i64::try_from(StampWindow::GATEPAY.future_ms).unwrap_or(i64::MAX);
        if off > self.future_ms || (off >= tolerated && !self.follow) {
            ClockHealth::BeyondTolerance
        } else if off >= tolerated / 2 {
            ClockHealth::Skewed
        } else {
            ClockHealth::InSync
        }
    }

    fn say(&self, state: ClockHealth, gatepay_ahead_ms: i64) {
        let stamps = if self.follow {
            "requests to GatePay are stamped with GatePay's time"
        } else {
            "GatePay refuses stamps that are more than 10 s off; correct the clock, or set clock = \"follow\""
        };
        match state {
            ClockHealth::InSync => tracing::info!(
                gatepay_ahead_ms,
                "this machine's clock and GatePay's agree again"
            ),
            ClockHealth::Skewed => tracing::warn!(
                gatepay_ahead_ms,
                "this machine's clock is off GatePay's: {stamps}"
            ),
            ClockHealth::BeyondTolerance => tracing::error!(
                gatepay_ahead_ms,
                "this machine's clock is off GatePay's by more than is tolerated: {stamps}; tenants are judged by this clock, and \
                 those whose clocks are right may be refused"
            ),
        }
    }

    fn measured(&self) -> MutexGuard<'_, ClockSamples> {
        self.measured.lock()
    }
}

/// How far GatePay is ahead of the machine's clock, and how many samples agree on it. The offset is zero if the bounds
/// include zero.
fn offset(clock: &Clock, samples: &VecDeque<ClockSample>) -> Option<(i64, usize)> {
    let (min_ms, max_ms, agreeing) = agreed(samples)?;
    let wall = i64::try_from(clock.unix_ms()).unwrap_or(i64::MAX);
    let ours = wall.saturating_sub(millis(clock.elapsed()));
    let (min_ms, max_ms) = (min_ms.saturating_sub(ours), max_ms.saturating_sub(ours));
    let offset = if min_ms <= 0 && max_ms >= 0 {
        0
    } else {
        min_ms.midpoint(max_ms)
    };
    Some((offset, agreeing))
}

/// The bounds on which most samples agree, if more than half of them do (Marzullo's algorithm).
fn agreed(samples: &VecDeque<ClockSample>) -> Option<(i64, i64, usize)> {
    let agreeing = |at: i64| {
        let with = samples
            .iter()
            .filter(move |sample| (sample.min_ms..=sample.max_ms).contains(&at));
        with.clone().count()
    };
    // The largest overlap begins at the lower bound of a sample. Of several such bounds the latest sample's counts.
    let begin = samples.iter().rev().map(|sample| sample.min_ms);
    let (begin, count) = begin
        .map(|at| (at, agreeing(at)))
        .reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    let end = samples
        .iter()
        .filter(|sample| (sample.min_ms..=sample.max_ms).contains(&begin));
    let end = end.map(|sample| sample.max_ms).min()?;
    (count * 2 > samples.len()).then_some((begin, end, count))
}

/// Compares how far the machine's clock moved with the time that passed.
fn fault(before: (u64, Duration), after: (u64, Duration)) -> Option<ClockFault> {
    let moved = i64::try_from(after.0)
        .ok()?
        .saturating_sub(i64::try_from(before.0).ok()?);
    let passed = millis(after.1.saturating_sub(before.1));
    let by = moved - passed;
    match moved {
        _ if by.abs() < STEP_MS => None,
        0 => Some(ClockFault::Frozen),
        _ => Some(ClockFault::Stepped(by)),
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
