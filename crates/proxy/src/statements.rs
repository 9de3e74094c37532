//! Statements: the calls and amounts of each tenant on a day, as finance and tenants read them.
//!
//! The store books each admitted write and money call, and computes a statement of the booked calls. Here the other
//! requests' counts go to the store ([`thread`]), and a statement is read and shown ([`statement_view`]).

pub mod meters;
pub mod statement_view;
pub mod thread;
