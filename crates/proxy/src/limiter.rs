//! A rate limit that can give back what it took and be changed while it is in use, and seats that are given back by being
//! dropped.

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

/// GCRA (governor's) over a state of our own, since governor's in-memory state can neither give a token back nor be
/// carried over to another rate.
pub struct Limiter {
    gcra: RateLimiter<NotKeyed, ArrivalTime, Clock, NoOpMiddleware<Duration>>,
    arrival: Arc<AtomicU64>,
    /// What `arrival` counts from, on the clock; a little late rather than early, so that what was spent is never
    /// believed to be less.
    began: Duration,
    /// Nanoseconds until one token is back, rounded up: never more than the rate.
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

impl Limiter {
    /// Starts full: a burst is admitted at once, then `per_second`.
    pub fn new(rate: Rate, clock: &Clock) -> Self {
        Self::begin(rate, 0, clock)
    }

    /// The same limit at another rate: what was spent stays spent, token for token, whatever a token is worth now.
    /// `self` must not be asked any more.
    ///
    /// The fill of the bucket, counted in tokens, does not jump. So in any time no more is admitted than the rates of
    /// that time let flow, and one burst, the largest: also if rates are changed back and forth.
    #[must_use]
    pub fn carried_to(&self, rate: Rate, clock: &Clock) -> Self {
        let now = clock.elapsed();
        let spent = u128::from(self.ahead(now)) * u128::from(per_token(rate));
        let spent = spent.div_ceil(self.per_token.into());
        Self::begin(rate, u64::try_from(spent).unwrap_or(u64::MAX), clock)
    }

    fn begin(rate: Rate, arrival: u64, clock: &Clock) -> Self {
        let per_token = per_token(rate);
        let quota = Quota::with_period(Duration::from_nanos(per_token))
            .expect("a token takes some time")
            // A burst that is not named would be one.
            .allow_burst(rate.burst);
        let arrival = Arc::new(AtomicU64::new(arrival));
        let gcra = RateLimiter::new(quota, ArrivalTime(Arc::clone(&arrival)), clock.clone());
        Self {
            gcra,
            arrival,
            began: clock.elapsed(),
            per_token,
            rate,
        }
    }

    /// Takes a token, or says how long until there is one.
    pub fn take(&self) -> Result<(), Spent> {
        self.gcra.check().map_err(|not_until| Spent {
            wait: not_until.wait_time_from(self.gcra.clock().now()),
            rate: self.rate,
        })
    }

    /// Undoes one [`take`](Self::take) of `held` ago.
    ///
    /// A token that was held for a while has come back in part by itself: had it never been taken, the bucket might
    /// have been full meanwhile, and what flowed over would be lost. So only the rest is given back; anything more
    /// could make room that would not be there if the token had not been taken.
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

    /// Tokens there are at `now`.
    pub fn left(&self, now: Duration) -> u32 {
        let spent = self.ahead(now).div_ceil(self.per_token);
        let burst = self.rate.burst.get();
        burst.saturating_sub(u32::try_from(spent).unwrap_or(u32::MAX))
    }

    /// How far the theoretical arrival time lies ahead of `now`: what was spent and is not back yet, in nanoseconds.
    fn ahead(&self, now: Duration) -> u64 {
        let now = nanos(now.saturating_sub(self.began));
        self.arrival.load(Ordering::Acquire).saturating_sub(now)
    }
}

fn per_token(rate: Rate) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    SECOND.div_ceil(rate.per_second.get().into())
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How many may be in flight at once.
#[derive(Debug)]
pub struct Seats {
    taken: AtomicU32,
    all: AtomicU32,
}

/// The right to be in flight, until dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// All free.
    pub fn new(all: NonZeroU32) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicU32::new(0),
            all: AtomicU32::new(all.get()),
        })
    }

    /// Takes a seat if one is free.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
                (taken < self.all()).then_some(taken + 1)
            })
            .ok()
            .map(|_| Seat(Arc::clone(self)))
    }

    /// How many there are.
    pub fn all(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// From now on there are this many. Who sits stays: if there are fewer seats than that, nobody sits down until
    /// enough have left.
    pub fn adjust(&self, all: NonZeroU32) {
        self.all.store(all.get(), Ordering::Relaxed);
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
            limiter.take().unwrap();
        }
        assert_eq!(
            limiter.take().err().map(|spent| spent.wait),
            Some(Duration::from_millis(500))
        );
        clock.advance(Duration::from_millis(500));
        limiter.take().unwrap();
        assert!(limiter.take().is_err());
    }

    #[test]
    fn a_token_that_was_given_back_is_there_again() {
        let clock = Clock::manual(1_000_000);
        let limiter = Limiter::new(rate(1, 1), &clock);
        for _ in 0..100 {
            limiter.take().unwrap();
            limiter.give_back(Duration::ZERO);
        }
        limiter.take().unwrap();
        assert!(limiter.take().is_err());
    }

    #[test]
    fn what_was_spent_is_carried_over_token_for_token() {
        let clock = Clock::manual(1_000_000);
        let slow = Limiter::new(rate(1, 10), &clock);
        for _ in 0..6 {
            slow.take().unwrap();
        }
        assert_eq!(slow.left(clock.elapsed()), 4);
        let fast = slow.carried_to(rate(100, 10), &clock);
        assert_eq!(fast.left(clock.elapsed()), 4);
        clock.advance(Duration::from_millis(20));
        assert_eq!(fast.left(clock.elapsed()), 6);
        let narrow = fast.carried_to(rate(1, 3), &clock);
        // Four are spent of three: one more second until there are three spent of three, and another for a token.
        assert_eq!(
            narrow.take().err().map(|spent| spent.wait),
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn seats_come_back_when_dropped() {
        let seats = Seats::new(NonZeroU32::new(2).unwrap());
        let (first, second) = (seats.take(), seats.take());
        assert!(first.is_some() && second.is_some() && seats.take().is_none());
        drop(first);
        assert!(seats.take().is_some());
    }

    #[test]
    fn who_sits_stays_when_seats_become_fewer() {
        let seats = Seats::new(NonZeroU32::new(3).unwrap());
        let sitting: Vec<_> = (0..3).map(|_| seats.take().unwrap()).collect();
        seats.adjust(NonZeroU32::MIN);
        for seat in sitting {
            assert!(seats.take().is_none());
            drop(seat);
        }
        assert_eq!(seats.taken(), 0);
        let _only = seats.take().unwrap();
        assert!(seats.take().is_none());
    }

    /// What happens to a limiter.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Pause(u64),
        Take,
        /// One that is given back after as many further events.
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
        /// window no more is admitted than what flowed in at the rates of that time, and the largest burst.
        #[test]
        fn never_more_than_rate_times_time_and_burst(
            limits in [(1..200_u32, 1..50_u32), (1..200_u32, 1..50_u32)],
            events in prop::collection::vec(event(), 1..300),
        ) {
            let clock = Clock::manual(1_000_000);
            let limits = limits.map(|(per_second, burst)| rate(per_second, burst));
            let mut current = 0;
            let mut limiter = Limiter::new(limits[0], &clock);
            let mut held: Vec<(usize, Duration)> = Vec::new();
            // What flowed in until then, of each admission that stands.
            let mut admitted: Vec<f64> = Vec::new();
            let mut flowed = 0.0;
            for (number, event) in events.into_iter().enumerate() {
                match event {
                    Event::Pause(ms) => {
                        clock.advance(Duration::from_millis(ms));
                        flowed += Duration::from_millis(ms).as_secs_f64() * f64::from(limits[current].per_second.get());
                    }
                    Event::Take => if limiter.take().is_ok() {
                        admitted.push(flowed);
                    },
                    Event::TakeFor(events) => if limiter.take().is_ok() {
                        held.push((number + events, clock.elapsed()));
                    },
                    Event::Adjust(other) => {
                        // The lane forgets what is held across a reload: see `lane`.
                        held.clear();
                        current = usize::from(other);
                        limiter = limiter.carried_to(limits[current], &clock);
                    }
                }
                held.retain(|(until, since)| {
                    if *until <= number {
                        limiter.give_back(clock.elapsed().saturating_sub(*since));
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
