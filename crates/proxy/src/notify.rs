//! Notifications: GatePay's news about payments, on their way to the tenant that owns them.

pub mod deliver;
pub mod endpoint;
