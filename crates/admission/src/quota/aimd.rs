//! How a rate falls while GatePay pushes back, and grows again: additive increase, multiplicative decrease (AIMD), as
//! TCP does it. The institution's rate follows it, and so does the rate of each party that GatePay pushes back.

use std::time::Duration;

/// A push-back takes effect once in this time: the requests under way at the first one tell nothing new.
const SHRINK_EVERY: Duration = Duration::from_secs(1);
/// How long after the last push-back the rate begins to grow.
const GROW_AFTER: Duration = Duration::from_secs(5);
/// The rate grows by a step each second.
const GROW_EVERY: Duration = Duration::from_secs(1);
/// A longer `Retry-After` of GatePay's is not believed: payments would stand still for a slip.
const LONGEST_HOLD: Duration = Duration::from_mins(1);

/// When the rate fell, and when it grows next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AimdRate {
    shrunk: Option<Duration>,
    grows: Duration,
}

/// The range of a rate, in requests per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateRange {
    /// The rate when GatePay does not push back.
    pub(crate) full: u32,
    /// The rate never falls below this.
    pub(crate) floor: u32,
}

impl RateRange {
    /// A range up to `full`, and never less than a tenth of it.
    pub(crate) fn of(full: u32) -> Self {
        Self {
            full,
            floor: (full / 10).max(1),
        }
    }
}

impl AimdRate {
    /// The rate after a push-back: three tenths less, once a second; the floor for as long as `Retry-After` says.
    pub(crate) fn shrink(
        &mut self,
        per_second: u32,
        range: RateRange,
        retry_after: Option<Duration>,
        now: Duration,
    ) -> u32 {
        let mut per_second = per_second;
        if let Some(hold) = retry_after {
            per_second = range.floor;
            self.grows = self.grows.max(now + hold.min(LONGEST_HOLD));
        }
        if self.shrunk.is_none_or(|last| now >= last + SHRINK_EVERY) {
            self.shrunk = Some(now);
            let shrunk = u64::from(per_second) * 7 / 10;
            per_second = u32::try_from(shrunk).expect("less than it was");
        }
        self.grows = self.grows.max(now + GROW_AFTER);
        per_second.max(range.floor.min(range.full))
    }

    /// How long the rate stays as it is, if GatePay does not push back again.
    pub(crate) fn holds(&self, now: Duration) -> Duration {
        self.grows.saturating_sub(now)
    }

    /// The rate at `now`: each second a hundredth of the full rate more.
    pub(crate) fn grow(&mut self, per_second: u32, range: RateRange, now: Duration) -> u32 {
        let mut per_second = per_second;
        while per_second < range.full && now >= self.grows {
            let step = range.full.div_ceil(100);
            per_second = per_second.saturating_add(step).min(range.full);
            self.grows += GROW_EVERY;
        }
        per_second
    }
}
