//! Admission: whether a verified request may go ahead now, by which limits, and with which verdict.
//!
//! The crate is pure but for locks and atomics. Time is an argument: a [`Duration`](std::time::Duration) since some fixed
//! point for rates and breakers, milliseconds since 1970 for stamps. There is no I/O, no async runtime, no log and no
//! metric: a method returns its verdict and what it changed, and the proxy counts and logs that.
//!
//! # Limits and verdicts
//!
//! | what is limited | asked with | verdict if it is refused |
//! | --- | --- | --- |
//! | a party's rate, in all or of one kind of calls | [`Limiter::take`](limiter::Limiter::take) | [`RateExceeded`](limiter::RateExceeded): the rate, and the wait for a token |
//! | its rate while GatePay pushes it back | [`PushbackThrottle::take`](pushback_throttle::PushbackThrottle::take) | the same |
//! | its requests in flight | [`SeatLimit::take`](seats::SeatLimit::take) | `false` |
//! | its share of the institution's rate, and of the institution's calls in flight | [`QuotaShare::take`](quota::QuotaShare::take) | [`QuotaDenied`](quota::QuotaDenied) |
//! | calls of the proxy's own, by rank | [`Quota::take_for`](quota::Quota::take_for) | `RateExceeded` |
//! | uses of a stamp | [`Replay::record`](replay::Replay::record) | [`UnusableStamp`](replay::UnusableStamp) |
//! | attempts while GatePay keeps failing | [`Breaker::pass`](breaker::Breaker::pass) | [`BreakerOpen`](breaker::BreakerOpen) |
//!
//! A request that one limit refuses gives back what it took of the others, so that it costs its party nothing; the stamp
//! is recorded last, since a recorded stamp stays recorded. That order is the caller's, in the proxy's `journey/admit`.
//! Limits in shadow mode are not refusals: the caller collects them in a [`LimitSet`](limit_name::LimitSet).
//!
//! # Example
//!
//! ```
//! # use std::num::NonZeroU32;
//! # use std::time::Duration;
//! use gatepay_admission::limiter::Limiter;
//! use gatepay_admission::quota::{Quota, QuotaShare};
//! use gatepay_admission::seats::SeatLimit;
//! use gatepay_core::Kind;
//! use gatepay_tenancy::{Rate, settings};
//!
//! let number = |number| NonZeroU32::new(number).expect("not zero");
//! let rate = |burst| Rate { per_second: number(1), burst: number(burst) };
//! let now = Duration::ZERO;
//! let terms = settings::QuotaSettings { rate: rate(1), ..settings::QuotaSettings::default() };
//! let quota = Quota::new(&terms, now);
//! let (own, seats, share) = (Limiter::new(rate(5)), SeatLimit::new(number(2)), QuotaShare::new(&quota, number(1)));
//!
//! // The first request takes a token of its party's rate, one of the institution's, and a seat.
//! own.take(now).expect("four are left");
//! let grant = share.take(Kind::Read, now).expect("the only one");
//! assert!(seats.take());
//!
//! // The second finds the institution's rate spent, and gives back what it took.
//! own.take(now).expect("three are left");
//! assert!(share.take(Kind::Read, now).is_err());
//! own.give_back(Duration::ZERO);
//! assert_eq!(own.left(now), 4);
//!
//! // The first request ends. Its tokens stay spent.
//! share.vacate(grant);
//! seats.leave();
//! ```
//!
//! Read [`limiter`] first, then [`quota`] and [`replay`].

pub mod limit_name;
pub mod limiter;
pub mod seats;

pub mod pushback_throttle;
pub mod quota;

pub mod replay;
pub mod replay_capacity;

pub mod breaker;
