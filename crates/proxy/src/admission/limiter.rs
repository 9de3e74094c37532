//! A rate limit that can give tokens back and be changed while it is in use, and seats that can be taken and freed.
//!
//! Both are a few words without pointers, so that a request finds them in one place in its `TenantLimits`. Time is an
//! argument, so that a request reads the clock once for all limits.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_tenancy::Rate;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// GCRA (governor's) over a state of this module, since governor's in-memory state can neither give a token back nor be
/// carried over to another rate.
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

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The limit of requests in flight at once: a request in flight holds a seat.
#[derive(Debug)]
pub struct SeatLimit {
    taken: AtomicU32,
    /// The number of seats, and the bit [`CLOSED`]: `TenantLimits` has no space for one more word in the cache line
    /// that every request reads.
    all: AtomicU32,
}

/// The bit that closes the seats for new requests. No configuration has as many seats.
const CLOSED: u32 = 1 << 31;

impl SeatLimit {
    /// Seats that are all free.
    pub fn new(all: NonZeroU32) -> Self {
        Self {
            taken: AtomicU32::new(0),
            all: AtomicU32::new(all.get() & !CLOSED),
        }
    }

    /// Closes the seats for new requests, or opens them again. Taken seats stay taken, and [`take`](Self::take) still
    /// gives seats: its caller has to check [`is_closed`](Self::is_closed) first.
    pub fn close(&self, closed: bool) {
        if closed {
            self.all.fetch_or(CLOSED, Ordering::AcqRel);
        } else {
            self.all.fetch_and(!CLOSED, Ordering::AcqRel);
        }
    }

    /// Whether the seats are closed for new requests.
    pub fn is_closed(&self) -> bool {
        self.all.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Takes a seat if one is free. The caller must [`leave`](Self::leave) it.
    #[must_use]
    pub fn take(&self) -> bool {
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| {
                (taken < self.all()).then_some(taken + 1)
            })
            .is_ok()
    }

    /// Frees a seat that was taken.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    /// The number of seats.
    pub fn all(&self) -> u32 {
        self.all.load(Ordering::Relaxed) & !CLOSED
    }

    /// The number of taken seats.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Changes the number of seats. Taken seats stay taken: if there are more of them than seats, none is given until
    /// enough are free again.
    pub fn adjust(&self, all: NonZeroU32) {
        // A closed limit stays closed, in either order of the two calls.
        let _ = self
            .all
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |before| {
                Some(before & CLOSED | all.get() & !CLOSED)
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::clock::Clock;
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
        let limiter = Limiter::new(rate(2, 3));
        for _ in 0..3 {
            limiter.take(clock.elapsed()).unwrap();
        }
        assert_eq!(
            limiter.take(clock.elapsed()).err().map(|spent| spent.wait),
            Some(Duration::from_millis(500))
        );
        clock.advance(Duration::from_millis(500));
        limiter.take(clock.elapsed()).unwrap();
        assert!(limiter.take(clock.elapsed()).is_err());
    }

    #[test]
    fn a_token_that_was_given_back_is_there_again() {
        let clock = Clock::manual(1_000_000);
        let limiter = Limiter::new(rate(1, 1));
        for _ in 0..100 {
            limiter.take(clock.elapsed()).unwrap();
            limiter.give_back(Duration::ZERO);
        }
        limiter.take(clock.elapsed()).unwrap();
        assert!(limiter.take(clock.elapsed()).is_err());
    }

    #[test]
    fn what_was_spent_is_carried_over_token_for_token() {
        let clock = Clock::manual(1_000_000);
        let slow = Limiter::new(rate(1, 10));
        for _ in 0..6 {
            slow.take(clock.elapsed()).unwrap();
        }
        assert_eq!(slow.left(clock.elapsed()), 4);
        let fast = slow.carried_to(rate(100, 10), clock.elapsed());
        assert_eq!(fast.left(clock.elapsed()), 4);
        clock.advance(Duration::from_millis(20));
        assert_eq!(fast.left(clock.elapsed()), 6);
        let narrow = fast.carried_to(rate(1, 3), clock.elapsed());
        // Four are spent of three: one more second until there are three spent of three, and another for a token.
        assert_eq!(
            narrow.take(clock.elapsed()).err().map(|spent| spent.wait),
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn seats_that_are_left_are_free() {
        let seats = SeatLimit::new(NonZeroU32::new(2).unwrap());
        assert_eq!([(); 3].map(|()| seats.take()), [true, true, false]);
        seats.leave();
        assert!(seats.take());
    }

    #[test]
    fn who_sits_stays_when_seats_become_fewer() {
        let seats = SeatLimit::new(NonZeroU32::new(3).unwrap());
        assert_eq!([(); 3].map(|()| seats.take()), [true; 3]);
        seats.adjust(NonZeroU32::MIN);
        for _ in 0..3 {
            assert!(!seats.take());
            seats.leave();
        }
        assert_eq!(seats.taken(), 0);
        assert_eq!([(); 2].map(|()| seats.take()), [true, false]);
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
            let clock = Clock::manual(1_000_000);
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
                        clock.advance(Duration::from_millis(ms));
                        flowed += Duration::from_millis(ms).as_secs_f64() * f64::from(limits[current].per_second.get());
                    }
                    Event::Take => if limiter.take(clock.elapsed()).is_ok() {
                        admitted.push(flowed);
                    },
                    Event::TakeFor(events) => if limiter.take(clock.elapsed()).is_ok() {
                        held.push((number + events, clock.elapsed()));
                    },
                    Event::Adjust(other) => {
                        // `TenantLimits` forfeits tokens held across a reload: see `give_back` there.
                        held.clear();
                        current = usize::from(other);
                        limiter = limiter.carried_to(limits[current], clock.elapsed());
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
