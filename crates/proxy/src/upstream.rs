//! The upstream side: connections to GatePay, attempts and retries, and the health and clock of GatePay.

pub mod breaker;
pub mod client;
pub mod clock_offset;
pub mod connect;
pub mod connection;
pub mod credential_rotation;
pub mod exchange;
pub mod forward;
pub mod happy_eyeballs;
pub mod meters;
pub mod pool;
pub mod probe;
pub mod resolve;
pub mod retry;
pub mod wait_line;
