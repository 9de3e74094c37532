//! The store: the state that the instances of one institution share, in one PostgreSQL database, or that one process
//! keeps in a SQLite file.
//!
//! An instance asks the store before it sends a request to GatePay. The store records the request's stamp, and commits,
//! so that no other instance admits a copy; in the same transaction it applies halts and writes down the numbers by which
//! a notification is led back to its tenant. An answer counts only after the server's `ReadyForQuery`, without an error
//! and without a notice.
//!
//! A failover, a restore or a snapshot put back may lose commits that were acknowledged. The store's functions compare the
//! server with the instance's last contact ([`identity`]); if commits may be missing, they refuse every stamp that may
//! have been admitted before.
//!
//! Money caps hold over all instances together: what a call spends is reserved in the same transaction ([`caps`]). From when
//! on a tenant's money may go to a destination is counted here too ([`destinations`]).
//!
//! Limits hold over all instances together: the store lends tokens, seats and parts of the institution's rate ([`limits`]).
//!
//! Days, waits and ages go by the store's time, its clock without the steps ([`store_clock`]).
//!
//! Statements tell what each tenant used on a day, in counts and exact amounts ([`statement`]).
//!
//! The crate has no HTTP, writes no log and counts no metric. The rules are SQL functions with a version in their name
//! (`crates/store/sql`), so that two versions of the program run side by side during an upgrade.
//!
//! Read [`admission`] first, then [`engine`], [`identity`], [`limits`], [`caps`], and the SQL.

#[cfg(test)]
extern crate self as gatepay_store;

pub mod admission;
pub mod caps;
pub mod destinations;
pub mod found;
pub mod identity;
pub mod instance;
pub mod limits;
pub mod notifications;
pub mod statement;
pub mod stored_text;

pub mod error;
pub mod settings;

mod aside;
pub mod breaker;
pub mod check;
pub mod engine;
pub mod postgres;
pub mod queue;
mod server_facts;
pub mod sqlite;
pub mod store_clock;

pub mod model;
pub mod ring;

#[cfg(test)]
#[path = "../tests/cap_steps.rs"]
mod cap_steps;
#[cfg(test)]
#[path = "../tests/destination_steps.rs"]
mod destination_steps;
#[cfg(test)]
#[path = "../tests/notification_steps.rs"]
mod notification_steps;
#[cfg(test)]
#[path = "../tests/operator_steps.rs"]
mod operator_steps;
#[cfg(test)]
#[path = "../tests/refund_steps.rs"]
mod refund_steps;
#[cfg(test)]
#[path = "../tests/rows.rs"]
mod rows;
#[cfg(test)]
#[path = "../tests/statement_steps.rs"]
mod statement_steps;
