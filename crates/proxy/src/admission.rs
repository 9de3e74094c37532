//! Admission of requests: rate limits, the quota, breakers and the replay memory; pure but for locks.

pub mod breaker;
pub mod limit_name;
pub mod limiter;
pub mod pushback_throttle;
pub mod quota;
pub mod replay;
pub mod replay_capacity;
pub mod seats;
