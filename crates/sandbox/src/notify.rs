//! Notifications: what GatePay calls the institution with (protocol.md 5).

pub(crate) mod body;
pub(crate) mod callback;
pub(crate) mod fault;
pub(crate) mod outbox;
pub(crate) mod sender;
pub(crate) mod sent;
