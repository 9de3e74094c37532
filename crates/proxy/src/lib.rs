//! The reverse proxy between an institution's sub-merchants and GatePay.
//!
//! What it deliberately is not: it does not know the bytes that are signed (`gatepay-core` does) nor how a file
//! becomes a tenant (`gatepay-tenancy` does).
//!
//! Read [`journey`] first: it lists the steps of a request in order, one module each.

pub mod memory_bound;
pub mod journey;

pub mod record;

pub mod admin;
pub mod app;
pub mod generation;
pub mod headers;
pub mod journal;
pub mod metrics;
pub mod refusal;
pub mod reload;
pub mod server;
