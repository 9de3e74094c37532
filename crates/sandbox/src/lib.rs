//! A GatePay emulator for the demo, the tests and tenants' conformance runs.
//!
//! It speaks the institution API over HTTP/1.1: it verifies requests as GatePay does, keeps orders and refunds in
//! memory, remembers what it received, and misbehaves on demand. Where GatePay's documentation is silent it has to
//! choose; [`Failure`] and the operations say where. References like "protocol.md 4.2" are to the protocol notes in
//! `docs/`.
//!
//! What this crate deliberately is not: it is no part of production, it keeps nothing beyond its own life, it reads
//! no clock (time is passed in), and it sends no notifications.
//!
//! Read in this order: how it is started ([`Config`], [`Sandbox`]), what becomes of a request (`exchange`), who is let
//! in (`gate`), what is done (`ledger`, `orders`), what is answered (`answer`, [`Failure`]), how it misbehaves
//! ([`Fault`], `disruption`) and what it remembers ([`Received`]).
//!
//! Paths that start with `/-/sandbox/` are the emulator's own and unsigned; no path of GatePay's starts with `/-/`:
//!
//! - `POST /-/sandbox/pay` with `{"prepayId":"…"}` pays an order as its customer would.
//! - `GET /-/sandbox/received` lists the requests received, oldest first, with their signatures masked.

mod config;
mod server;

mod control;
mod exchange;
mod gate;

mod amount;
mod body;
mod ledger;
mod orders;

mod answer;
mod failure;

mod disruption;
mod fault;
mod received;

pub use config::{AccountStatus, Clock, Config, NumbersUniquePer, SubAccount};
pub use failure::Failure;
pub use fault::{Fault, Injection};
pub use received::Received;
pub use server::Sandbox;
