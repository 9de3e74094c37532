//! A rate limit that can give back what it took, and seats that are given back by being dropped.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_tenancy::Rate;
use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;

/// GCRA (governor's) over a state of our own, since governor's in-memory state cannot give a token back.
pub struct Limiter {
    gcra: RateLimiter<NotKeyed, ArrivalTime, Clock, NoOpMiddleware<Duration>>,
    arrival: Arc<AtomicU64>,
    per_token: u64,
    rate: Rate,
}

/// A limit that is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// When there will be a token, if nobody else takes it.
    pub wait: Duration,
    /// The limit.
    pub rate: Rate,
}

/// The theoretical arrival time, in nanoseconds since the limiter was made; 0 before the first request.
struct ArrivalTime(Arc<AtomicU64>);

impl StateStore for ArrivalTime {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (outcome, next) = decide((seen != 0).then(|| seen.into()))?;
            match self.0.compare_exchange_weak(
                seen,
                next.into(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(outcome),
                Err(newer) => seen = newer,
            }
        }
    }
}

/// A token that was taken. Dropped, it is given back; [`spend`](Token::spend) keeps it taken.
pub struct Token<'a>(Option<&'a Limiter>);

impl Limiter {
    /// Starts full: a burst is admitted at once, then `per_second`.
    pub fn new(rate: Rate, clock: &Clock) -> Self {
        // A burst that is not named would be a whole second's worth.
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let arrival = Arc::new(AtomicU64::new(0));
        let per_token =
            u64::try_from(quota.replenish_interval().as_nanos()).expect("a second fits 64 bits");
        let gcra = RateLimiter::new(quota, ArrivalTime(Arc::clone(&arrival)), clock.clone());
        Self {
            gcra,
            arrival,
            per_token,
            rate,
        }
    }

    /// Takes a token, or says how long until there is one.
    pub fn take(&self) -> Result<Token<'_>, Spent> {
        match self.gcra.check() {
            Ok(()) => Ok(Token(Some(self))),
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.gcra.clock().now());
                Err(Spent {
                    wait,
                    rate: self.rate,
                })
            }
        }
    }

    /// Undoes one [`take`](Self::take). The arrival time moves back by one token, which never makes more room than
    /// there would be if the token had not been taken.
    fn give_back(&self) {
        let _ = self
            .arrival
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |arrival| {
                Some(arrival.saturating_sub(self.per_token))
            });
    }
}

impl Token<'_> {
    /// The request went ahead: the token stays taken.
    pub fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if let Some(limiter) = self.0 {
            limiter.give_back();
        }
    }
}

/// How many may be in flight at once.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicU32,
    all: NonZeroU32,
}

/// The right to be in flight, until dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// All free.
    pub fn new(all: NonZeroU32) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU32::new(0),
            all,
        })
    }

    /// Takes a seat if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
                (taken < self.all.get()).then_some(taken + 1)
            })
            .ok()
            .map(|_| Seat(Arc::clone(self)))
    }

    /// How many there are.
    pub fn all(&self) -> u32 {
        self.all.get()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
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

    #[test]
    fn a_burst_then_the_rate() {
        let clock = Clock::manual(1_000_000);
        let limiter = Limiter::new(rate(2, 3), &clock);
        for _ in 0..3 {
            limiter.take().ok().unwrap().spend();
        }
        assert_eq!(
            limiter.take().err().map(|spent| spent.wait),
            Some(Duration::from_millis(500))
        );
        clock.advance(Duration::from_millis(500));
        limiter.take().ok().unwrap().spend();
        assert!(limiter.take().is_err());
    }

    #[test]
    fn a_token_that_was_not_spent_is_there_again() {
        let clock = Clock::manual(1_000_000);
        let limiter = Limiter::new(rate(1, 1), &clock);
        for _ in 0..100 {
            drop(limiter.take().ok().unwrap());
        }
        limiter.take().ok().unwrap().spend();
        assert!(limiter.take().is_err());
    }

    #[test]
    fn seats_come_back_when_dropped() {
        let seats = Seats::new(NonZeroU32::new(2).unwrap());
        let (first, second) = (seats.take(), seats.take());
        assert!(first.is_some() && second.is_some() && seats.take().is_none());
        drop(first);
        assert!(seats.take().is_some());
    }

    proptest! {
        /// The law of the limit, for any arrivals, with any of them given back.
        #[test]
        fn never_more_than_rate_times_time_and_burst(
            per_second in 1..200_u32, burst in 1..50_u32,
            arrivals in prop::collection::vec((0..2_000_u64, any::<bool>()), 1..400),
        ) {
            let clock = Clock::manual(1_000_000);
            let limiter = Limiter::new(rate(per_second, burst), &clock);
            let mut admitted: Vec<Duration> = Vec::new();
            for (pause, keep) in arrivals {
                clock.advance(Duration::from_millis(pause));
                if let Ok(token) = limiter.take() && keep {
                    token.spend();
                    admitted.push(clock.elapsed());
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (count, to) in (1_u32..).zip(&admitted[first..]) {
                    let time = to.saturating_sub(*from).as_secs_f64();
                    let allowed = time * f64::from(per_second) + f64::from(burst);
                    prop_assert!(f64::from(count) <= allowed + 1e-6);
                }
            }
        }
    }
}
