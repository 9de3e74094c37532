//! Notifications: what the store keeps of them, and what is asked of it.
//!
//! A notification is an [`event`](event::NewEvent). It belongs to a tenant's incarnation, to the operators, or is in
//! quarantine. The events of one tenant about one object form a *line*, of which only the head is sent; an *endpoint* is
//! a URL of one tenant, with the lines whose heads go there. One instance at a time claims an endpoint.
//!
//! What a status that arrives does to its line is decided by [`delivery_order`](gatepay_core::delivery_order). [`model`] is
//! the whole in Rust, without an engine; the property tests drive it beside both engines.
//!
//! Times are milliseconds since 1970 by the store's clock.

pub mod delivery;
pub mod event;
pub mod isolation;
pub mod ledger;
pub mod listing;
pub mod settlement;

pub mod model;
