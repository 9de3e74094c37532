//! Push-back throttle: one party's rate while GatePay pushes that party back, beside its configured limits.
//!
//! The rate falls and grows as the institution's rate does. A party that was not pushed back lately has no throttle.

use std::num::NonZeroU32;
use std::time::Duration;

use gatepay_tenancy::Rate;
use parking_lot::{Mutex, MutexGuard};

use crate::limiter::{Limiter, RateExceeded};
use crate::quota::{AimdRate, RateRange};

/// Shared by all workers; only calls of a party that was pushed back wait for its lock.
pub struct PushbackThrottle(Mutex<ThrottleState>);

struct ThrottleState {
    limiter: Limiter,
    /// The rate when GatePay does not push back.
    full: Rate,
    aimd: AimdRate,
}

impl PushbackThrottle {
    /// Begins at the full rate, with the tokens that the party's own `limiter` has left; no call is refused before
    /// GatePay [pushes back](Self::pushed_back).
    pub fn new(limiter: &Limiter, full: Rate, now: Duration) -> Self {
        Self(Mutex::new(ThrottleState {
            limiter: limiter.carried_to(full, now),
            full,
            aimd: AimdRate::default(),
        }))
    }

    /// Notes a push-back of GatePay, perhaps for a stated time. Returns the rates before and after.
    pub fn pushed_back(&self, retry_after: Option<Duration>, now: Duration) -> (u32, u32) {
        let mut state = self.at(now);
        let (before, range) = (state.per_second(), state.range());
        let after = state.aimd.shrink(before, range, retry_after, now);
        state.force(after, now);
        (before, after)
    }

    /// Takes a token, or returns how long until there is one.
    pub fn take(&self, now: Duration) -> Result<(), RateExceeded> {
        self.at(now).limiter.take(now)
    }

    /// Undoes one [`take`](Self::take) of `held` ago.
    pub fn give_back(&self, held: Duration) {
        self.state().limiter.give_back(held);
    }

    /// The rate in force, and the number of tokens left.
    pub fn left(&self, now: Duration) -> (Rate, u32) {
        let state = self.at(now);
        (state.limiter.rate(), state.limiter.left(now))
    }

    /// How long the rate stays as it is, if GatePay does not push back again.
    pub fn holds(&self, now: Duration) -> Duration {
        self.at(now).aimd.holds(now)
    }

    /// Whether the rate is the full one again.
    pub fn is_over(&self, now: Duration) -> bool {
        let state = self.at(now);
        state.per_second() == state.range().full
    }

    /// Puts another configured rate in force. A rate that GatePay pushed down is not pushed up.
    pub fn adjust(&self, full: Rate, now: Duration) {
        let mut state = self.at(now);
        state.full = full;
        let per_second = state.per_second().min(full.per_second.get());
        state.force(per_second, now);
    }

    /// The state at `now`, with the growth of the rate until then.
    fn at(&self, now: Duration) -> MutexGuard<'_, ThrottleState> {
        let mut state = self.state();
        let (rate, range) = (state.per_second(), state.range());
        let grown = state.aimd.grow(rate, range, now);
        if grown != rate {
            state.force(grown, now);
        }
        state
    }

    fn state(&self) -> MutexGuard<'_, ThrottleState> {
        self.0.lock()
    }
}

impl ThrottleState {
    fn per_second(&self) -> u32 {
        self.limiter.rate().per_second.get()
    }

    fn range(&self) -> RateRange {
        RateRange::of(self.full.per_second.get())
    }

    /// Puts a rate in force, and a burst in proportion. Spent tokens stay spent.
    fn force(&mut self, per_second: u32, now: Duration) {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let full = self.full;
        let burst =
            u64::from(full.burst.get()) * u64::from(per_second) / u64::from(full.per_second.get());
        let rate = Rate {
            per_second: at_least_one(per_second),
            burst: at_least_one(u32::try_from(burst).unwrap_or(u32::MAX)),
        };
        self.limiter = self.limiter.carried_to(rate, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    fn throttle(full: Rate) -> PushbackThrottle {
        PushbackThrottle::new(&Limiter::new(full), full, Duration::ZERO)
    }

    #[test]
    fn a_pushed_back_rate_falls_at_once_and_grows_back_slowly() {
        let throttle = throttle(rate(100, 100));
        let at = Duration::from_secs;
        assert_eq!(throttle.pushed_back(None, at(1)), (100, 70));
        assert_eq!(throttle.pushed_back(None, at(1)), (70, 70), "many are one");
        assert_eq!(throttle.pushed_back(None, at(2)), (70, 49));
        assert_eq!(throttle.left(at(6)).0.per_second.get(), 49);
        assert_eq!(throttle.left(at(7)).0.per_second.get(), 50);
        assert_eq!(throttle.left(at(17)).0.per_second.get(), 60);
        assert!(!throttle.is_over(at(56)) && throttle.is_over(at(57)));
    }

    #[test]
    fn a_pushed_back_rate_stays_at_a_tenth_for_as_long_as_gatepay_says() {
        let throttle = throttle(rate(100, 100));
        let at = Duration::from_secs;
        assert_eq!(throttle.pushed_back(Some(at(30)), at(0)), (100, 10));
        assert_eq!(throttle.left(at(29)).0, rate(10, 10));
        assert_eq!(throttle.left(at(31)).0, rate(12, 12));
        throttle.pushed_back(Some(at(86_400)), at(31));
        assert_eq!(
            throttle.left(at(92)).0,
            rate(12, 12),
            "a minute is the longest"
        );
    }

    #[test]
    fn the_slowest_party_still_sends() {
        let throttle = throttle(rate(1, 1));
        throttle.pushed_back(Some(Duration::from_secs(5)), Duration::ZERO);
        assert!(throttle.take(Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_reload_pushes_nothing_up() {
        let throttle = throttle(rate(100, 100));
        throttle.pushed_back(None, Duration::ZERO);
        throttle.adjust(rate(1_000, 1_000), Duration::ZERO);
        assert_eq!(throttle.left(Duration::ZERO).0.per_second.get(), 70);
        throttle.adjust(rate(50, 50), Duration::ZERO);
        assert_eq!(throttle.left(Duration::ZERO).0.per_second.get(), 50);
        assert!(throttle.is_over(Duration::ZERO));
    }

    proptest! {
        /// For any push-backs at any times, the rate stays between the floor and the full rate, and grows back to the
        /// full rate.
        #[test]
        fn the_rate_keeps_within_its_range(
            full in 1..5_000_u32,
            events in prop::collection::vec((0..20_000_u64, prop::option::of(0..200_u64)), 1..40),
        ) {
            let throttle = throttle(rate(full, full));
            let mut now = Duration::ZERO;
            for (pause_ms, retry_after) in events {
                now += Duration::from_millis(pause_ms);
                let (before, after) = throttle.pushed_back(retry_after.map(Duration::from_secs), now);
                prop_assert!(after <= before && before <= full && after >= (full / 10).max(1));
            }
            prop_assert!(throttle.is_over(now + Duration::from_secs(60 + 100)));
        }
    }
}
