//! A GatePay emulator for the demo, the tests and tenants' conformance runs.
//!
//! It speaks the institution API over HTTP/1.1: it verifies requests as GatePay does, answers every operation of the
//! catalogue that has an institution path, keeps accounts, balances and business in memory, remembers what it
//! received, and misbehaves on demand. Money adds up: it is moved between accounts and the world outside, and never
//! made. Where GatePay's documentation and its official client libraries differ, answers are as the libraries' types read
//! them, unless [`AnswerForms`] says otherwise. Where both are silent it has to choose; [`ApiFailure`] and the operations say where.
//! References like "protocol.md 4.2" are to the protocol notes in `docs/`.
//!
//! What this crate deliberately is not: it is no part of production, it keeps nothing beyond its own life, it reads
//! no clock (time is passed in), it takes no fees, and it sends no notifications.
//!
//! Read in this order: how it is started ([`SandboxConfig`], [`Sandbox`]), what becomes of a request (`service`), who is let
//! in (`service/authentication`), what is asked for (`wire/parameters`), what is done (`operations`, whose table names one file for each part of
//! the API in `api`; `ledger` has their books), what is answered (`wire/answer`, [`ApiFailure`]), how it misbehaves ([`InjectedFault`], `service/disruption`) and what it
//! remembers ([`ReceivedRequest`]). [`examples`] has a request for every operation.
//!
//! Paths that start with `/-/sandbox/` are the emulator's own and unsigned; no path of GatePay's starts with `/-/`:
//!
//! - `POST /-/sandbox/pay` with `{"prepayId":"…"}` pays an order as its customer would.
//! - `POST /-/sandbox/fund` with `{"account":"…","currency":"…","amount":"…"}` gives an account money.
//! - `POST /-/sandbox/deposit` with `{"address":"…","currency":"…","amount":"…"}` pays to a static address.
//! - `GET /-/sandbox/received` lists the requests received, oldest first, with their signatures masked.

mod api;
pub mod examples;
mod rules;
mod service;
mod wire;

mod config;

mod ledger;
mod operations;

#[cfg(test)]
mod conservation;
#[cfg(test)]
mod desk;

pub use config::{
    AccountStatus, AnswerForms, Clock, NumbersUniquePer, OpeningBalance, SandboxConfig, SubAccount,
};
pub use service::fault::{FaultInjection, InjectedFault};
pub use service::received::ReceivedRequest;
pub use service::server::Sandbox;
pub use wire::failure::ApiFailure;
