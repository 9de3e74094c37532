//! Money caps: how much may leave, per call, hour, day or 24 hours, for one party or for all together.
//!
//! An admitted money call **reserves** its amounts in the transaction that records its stamp. From then on it may have
//! been sent, so they count until every attempt under the call's key is proven to have done nothing ([`spend`]). What
//! counts is kept as sums over slices of time that do not depend on any rule ([`window`]), so a rule that is new or
//! changed is exact at once. Which rules are in force is the store's own knowledge, not an instance's: a lower cap holds
//! at once, a higher one after a while ([`rule_book`]).
//!
//! [`judge`](mod@judge) is the whole in Rust, over tables that [`model`] keeps in memory and the SQLite file on disk.
//! PostgreSQL's functions (`sql/0001_caps.sql`) answer the same; property tests drive all three.

pub mod rule;
pub mod rule_book;
pub mod spend;
pub mod window;

pub mod judge;
pub mod model;
