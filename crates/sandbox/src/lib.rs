//! A GatePay emulator for the demo, the tests and tenants' conformance runs.
//!
//! The sandbox serves the institution API over HTTP/1.1. It verifies requests as GatePay does, and answers every
//! operation of the catalogue that has an institution path. It keeps accounts, balances, business and received requests
//! in memory, and injects faults on demand. Money is conserved: it moves between accounts and the outside world, and is
//! never created. Where GatePay's documentation and its official client libraries differ, answers follow the libraries'
//! types, unless [`AnswerForms`] selects the documentation. Where neither source specifies the behavior, the sandbox
//! makes a choice, which [`ApiFailure`] and the operations document. References like "protocol.md 4.2" are to the
//! protocol notes in `docs/`.
//!
//! Deliberate limits: this crate is no part of production, it persists nothing, it reads no clock (time is passed in),
//! it takes no fees, and it sends no notifications unless [`SandboxConfig::notifications`] is set.
//!
//! Reading order:
//!
//! - start: [`SandboxConfig`], [`Sandbox`];
//! - the path of a request: `service`;
//! - authentication: `service/authentication`;
//! - request parameters: `wire/parameters`;
//! - execution: `operations`, whose table names one file in `api` for each part of the API; `ledger` has their books;
//! - answers: `wire/answer`, [`ApiFailure`];
//! - faults: [`InjectedFault`], `service/disruption`;
//! - the log of received requests: [`ReceivedRequest`];
//! - notifications: `rules/news`, where the parts of the API tell news of their business; `notify/outbox`, which schedules
//!   attempts; [`SendingFault`]; the log of attempts: [`SentNotification`].
//!
//! [`examples`] has a request for every operation.
//!
//! Paths that start with `/-/sandbox/` are the emulator's own and unsigned; no path of GatePay's starts with `/-/`:
//!
//! - `POST /-/sandbox/pay` with `{"prepayId":"…"}` pays an order as its customer would.
//! - `POST /-/sandbox/fund` with `{"account":"…","currency":"…","amount":"…"}` gives an account money.
//! - `POST /-/sandbox/deposit` with `{"address":"…","currency":"…","amount":"…"}` pays to a static address.
//! - `POST /-/sandbox/collect` with `{"subscriptionOrderNo":"…","currency":"…","amount":"…"}` pays a subscription on its
//!   chain.
//! - `GET /-/sandbox/received` lists the requests received, oldest first, with their signatures masked.
//! - `GET /-/sandbox/notifications` lists the attempts to send notifications, oldest first, with their answers.
//! - `POST /-/sandbox/notify` with `{"body":…}`, an object or any text, sends that body, to the institution's URL or to
//!   `"url"`; with `{"id":…}` it sends the body of an earlier notification again.

mod api;
pub mod examples;
mod notify;
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
    AccountStatus, AnswerForms, Clock, NotificationSending, NumbersUniquePer, OpeningBalance,
    OrderLookUps, RepetitionStamp, SandboxConfig, SubAccount,
};
pub use notify::fault::{SendingFault, SendingInjection};
pub use notify::sent::{CallbackAnswer, SentNotification};
pub use service::fault::{FaultInjection, InjectedFault};
pub use service::received::ReceivedRequest;
pub use service::server::Sandbox;
pub use wire::failure::ApiFailure;
