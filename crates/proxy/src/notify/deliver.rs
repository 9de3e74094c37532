//! Deliver: sends stored notifications to their tenants' endpoints, each at least once.
//!
//! The store has the work: endpoints with a time at which their next notification is due. The [`delivery_loop`] claims due
//! endpoints and sends the heads of their lines. Each endpoint has its own queue, connections and breaker, so that a
//! dead endpoint delays no other.

pub mod attempt;
pub mod breaker_rules;
pub mod delivery_loop;
pub mod delivery_store;
pub mod delivery_wake;
mod ended_attempts;
mod endpoint_switch;
mod held_claims;
pub mod meters;
mod retry_after;
pub mod signed_delivery;
pub mod store_deliveries;
pub mod target;
pub mod tenant_target;
pub mod test_delivery;
#[cfg(test)]
pub(crate) mod tests;
pub mod thread;
