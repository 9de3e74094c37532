//! A rate limit that can give tokens back and be changed while it is in use.
//!
//! It is a few words without pointers, so that a request finds all of its party's limits in one place. Time is an
//! argument, so that a request reads the clock once for all limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatepay_tenancy::Rate;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// GCRA (governor's) over a state of this module, since governor's in-memory state can neither give a token back nor be
/// carried over to another rate.
///
/// ```
/// # use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use gatepay_admission::limiter::Limiter;
/// # use gatepay_tenancy::Rate;
///
/// # let [per_second, burst] = [2, 3].map(|number| NonZeroU32::new(number).expect("not zero"));
/// let limiter = Limiter::new(Rate { per_second, burst }); // Two a second, three at once.
/// let now = Duration::ZERO;
/// for _ in 0..3 {
///     limiter.take(now).expect("a token of the burst");
/// }
/// let refused = limiter.take(now).unwrap_err();
/// assert_eq!(refused.wait, Duration::from_millis(500));
/// assert!(limiter.take(now + refused.wait).is_ok());
/// ```
pub struct Limiter {
    /// The theoretical arrival time, in nanoseconds on the clock; 0 before the first request.
    arrival: AtomicU64,
    /// Nanoseconds until one token is back, rounded up: the tokens never come faster than the rate.
    per_token: u64,
    rate: Rate,
}

/// The refusal of a limit that is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateExceeded {
    /// The time until there is a token, if no other call takes it.
    pub wait: Duration,
    /// The limit that refused.
    pub rate: Rate,
}

/// A limiter's state as governor sees it at one moment. That moment is its time 0: governor's limiter is made for one
/// question and keeps neither a clock nor a start.
struct ArrivalState<'a> {
    time: &'a AtomicU64,
    now: u64,
}

/// The clock of that moment: its time is always 0.
#[derive(Clone)]
struct GcraInstant;

impl Clock for GcraInstant {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(0)
    }
}

impl StateStore for ArrivalState<'_> {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.time.load(Ordering::Acquire);
        loop {
            // Governor treats an arrival in the past as none: only its distance ahead of `now` matters.
            let (outcome, ahead) = decide(Some(seen.saturating_sub(self.now).into()))?;
            let next = self.now.saturating_add(ahead.into());
            match self
                .time
                .compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(outcome),
                Err(newer) => seen = newer,
            }
        }
    }
}

impl Limiter {
    /// Starts full: a burst is admitted at once, then `per_second`.
    pub fn new(rate: Rate) -> Self {
        Self::begin(rate, 0)
    }

    /// Starts empty at a time, perhaps a past one: the tokens since then are there.
    pub fn empty_at(rate: Rate, at: Duration) -> Self {
        let burst = per_token(rate).saturating_mul(rate.burst.get().into());
        Self::begin(rate, nanos(at).saturating_add(burst))
    }

    /// The same limit at another rate: spent tokens stay spent, token for token, at any worth of a token now. `self`
    /// must not be used any more.
    ///
    /// The fill of the bucket, counted in tokens, does not jump. So any period admits at most the inflow at its rates
    /// and one burst, the largest: also if rates are changed back and forth.
    #[must_use]
    pub fn carried_to(&self, rate: Rate, now: Duration) -> Self {
        let spent = u128::from(self.ahead(now)) * u128::from(per_token(rate));
        let spent = u64::try_from(spent.div_ceil(self.per_token.into())).unwrap_or(u64::MAX);
        Self::begin(rate, nanos(now).saturating_add(spent))
    }

    fn begin(rate: Rate, arrival: u64) -> Self {
        Self {
            arrival: AtomicU64::new(arrival),
            per_token: per_token(rate),
            rate,
        }
    }

    /// Takes a token, or returns how long until there is one.
    pub fn take(&self, now: Duration) -> Result<(), RateExceeded> {
        let quota = Quota::with_period(Duration::from_nanos(self.per_token))
            .expect("a token takes some time")
            // Without `allow_burst` the burst would be one token.
            .allow_burst(self.rate.burst);
        let arrival = ArrivalState {
            time: &self.arrival,
            now: nanos(now),
        };
        let gcra = RateLimiter::<_, _, _, NoOpMiddleware<Nanos>>::new(quota, arrival, GcraInstant);
        gcra.check().map_err(|not_until| RateExceeded {
            wait: not_until.wait_time_from(GcraInstant.now()),
            rate: self.rate,
        })
    }

    /// Undoes one [`take`](Self::take) of `held` ago.
    ///
    /// A token that was held for a while has come back in part by itself. Had it never been taken, the bucket might
    /// have been full meanwhile, and the overflow would be lost. So only the rest is given back; anything more could
    /// make room that would not be there if the token had not been taken.
    pub fn give_back(&self, held: Duration) {
        let rest = self.per_token.saturating_sub(nanos(held));
        let _ = self
            .arrival
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |arrival| {
                Some(arrival.saturating_sub(rest))
            });
    }

    /// The limit.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The tokens left at `now`.
    pub fn left(&self, now: Duration) -> u32 {
        let spent = self.ahead(now).div_ceil(self.per_token);
        let burst = self.rate.burst.get();
        burst.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
    }

    /// How far the theoretical arrival time lies ahead of `now`: the spent part that is not back yet, in nanoseconds.
    fn ahead(&self, now: Duration) -> u64 {
        let arrival = self.arrival.load(Ordering::Acquire);
        arrival.saturating_sub(nanos(now))
    }
}

fn per_token(rate: Rate) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    SECOND.div_ceil(rate.per_second.get().into())
}

/// A time in nanoseconds.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_limit_that_starts_empty_has_the_tokens_of_the_time_since() {
        let at = Duration::from_secs(1_000);
        let limiter = Limiter::empty_at(rate(2, 3), at);
        assert_eq!(limiter.left(at), 0);
        let refused = limiter.take(at).unwrap_err();
        assert_eq!(refused.wait, Duration::from_millis(500));
        assert_eq!(limiter.left(at + Duration::from_secs(1)), 2);
        assert_eq!(limiter.left(at + Duration::from_secs(9)), 3);
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut now = Duration::from_secs(1_000);
        let limiter = Limiter::new(rate(2, 3));
        for _ in 0..3 {
            limiter.take(now).unwrap();
        }
        assert_eq!(
            limiter.take(now).err().map(|spent| spent.wait),
            Some(Duration::from_millis(500))
        );
        now += Duration::from_millis(500);
        limiter.take(now).unwrap();
        assert!(limiter.take(now).is_err());
    }

    #[test]
    fn a_token_that_was_given_back_is_there_again() {
        let now = Duration::from_secs(1_000);
        let limiter = Limiter::new(rate(1, 1));
        for _ in 0..100 {
            limiter.take(now).unwrap();
            limiter.give_back(Duration::ZERO);
        }
        limiter.take(now).unwrap();
        assert!(limiter.take(now).is_err());
    }

    #[test]
    fn spent_tokens_are_carried_over_one_for_one() {
        let mut now = Duration::from_secs(1_000);
        let slow = Limiter::new(rate(1, 10));
        for _ in 0..6 {
            slow.take(now).unwrap();
        }
        assert_eq!(slow.left(now), 4);
        let fast = slow.carried_to(rate(100, 10), now);
        assert_eq!(fast.left(now), 4);
        now += Duration::from_millis(20);
        assert_eq!(fast.left(now), 6);
        let narrow = fast.carried_to(rate(1, 3), now);
        // Four are spent of three: one more second until there are three spent of three, and another for a token.
        assert_eq!(
            narrow.take(now).err().map(|spent| spent.wait),
            Some(Duration::from_secs(2))
        );
    }

    /// An event in the life of a limiter.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Pause(u64),
        Take,
        /// A token that is given back after as many further events.
        TakeFor(usize),
        /// A reload, to one of two limits.
        Adjust(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            3 => (0..1_500_u64).prop_map(Event::Pause),
            8 => Just(Event::Take),
            4 => (0..6_usize).prop_map(Event::TakeFor),
            2 => any::<bool>().prop_map(Event::Adjust),
        ]
    }

    proptest! {
        /// The law of the limit, for any arrivals, any of them given back early or late, and any reloads: in every
        /// window, at most the inflow at the rates of that time and the largest burst are admitted.
        #[test]
        fn never_more_than_rate_times_time_and_burst(
            limits in [(1..200_u32, 1..50_u32), (1..200_u32, 1..50_u32)],
            events in prop::collection::vec(event(), 1..300),
        ) {
            let mut now = Duration::from_secs(1_000);
            let limits = limits.map(|(per_second, burst)| rate(per_second, burst));
            let mut current = 0;
            let mut limiter = Limiter::new(limits[0]);
            let mut held: Vec<(usize, Duration)> = Vec::new();
            // The inflow up to each admission that stands.
            let mut admitted: Vec<f64> = Vec::new();
            let mut flowed = 0.0;
            for (number, event) in events.into_iter().enumerate() {
                match event {
                    Event::Pause(ms) => {
                        now += Duration::from_millis(ms);
                        flowed += Duration::from_millis(ms).as_secs_f64() * f64::from(limits[current].per_second.get());
                    }
                    Event::Take => if limiter.take(now).is_ok() {
                        admitted.push(flowed);
                    },
                    Event::TakeFor(events) => if limiter.take(now).is_ok() {
                        held.push((number + events, now));
                    },
                    Event::Adjust(other) => {
                        // `TenantLimits` forfeits tokens held across a reload: see `give_back` there.
                        held.clear();
                        current = usize::from(other);
                        limiter = limiter.carried_to(limits[current], now);
                    }
                }
                held.retain(|(until, since)| {
                    if *until <= number {
                        limiter.give_back(now.saturating_sub(*since));
                    }
                    *until > number
                });
            }
            let burst = limits.iter().map(|limit| limit.burst.get()).max().unwrap();
            for (first, from) in admitted.iter().enumerate() {
                for (count, to) in (1_u32..).zip(&admitted[first..]) {
                    prop_assert!(f64::from(count) <= to - from + f64::from(burst) + 1e-6);
                }
            }
        }
    }
}
