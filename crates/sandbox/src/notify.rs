//! Notifications: GatePay's calls to the institution (protocol.md 5).

pub(crate) mod body;
pub(crate) mod callback;
pub(crate) mod fault;
pub(crate) mod outbox;
pub(crate) mod sender;
pub(crate) mod sent;
