//! The server: connections, authentication, injected faults, and the sandbox's own unsigned paths.

pub(crate) mod authentication;
pub(crate) mod control;
pub(crate) mod disruption;
pub(crate) mod exchange;
pub(crate) mod fault;
mod notifications;
pub(crate) mod received;
pub(crate) mod server;
pub(crate) mod world;
