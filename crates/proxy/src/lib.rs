//! The reverse proxy between an institution's sub-merchants and GatePay.
//!
//! What it deliberately is not: it does not know the bytes that are signed (`gatepay-core` does) nor how a file
//! becomes a tenant (`gatepay-tenancy` does).
//!
//! Read [`journey`] first: it lists the steps of a request in order, one module each. The rooms stand here from the top
//! to the ground; each names only rooms below it, as `tests/architecture.rs` checks.

pub mod memory_bound;
pub mod server;

pub mod listener;

pub mod admin;
pub mod journey;
pub mod reload;

pub mod worker;

pub mod app;

pub mod metrics;
pub mod start_error;

pub mod caps;
pub mod notify;
pub mod record;
pub mod statements;

pub mod upstream;

pub mod generation;

pub mod cluster;
pub mod refusal;

pub mod journal;
pub mod prom;

pub mod callers;
pub mod headers;
pub mod process;
pub mod tls;
