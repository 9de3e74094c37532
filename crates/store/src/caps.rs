//! Money caps: how much may leave, per call, hour, day or 24 hours, from one sub-account or from all together. Every party
//! that acts for a sub-account is bound by its caps, and counts in them.
//!
//! An admitted money call **reserves** its amounts in the transaction that records its stamp. From then on it may have
//! been sent, so they count until every attempt under the call's key is proven to have done nothing ([`spend`]). What
//! counts is kept as sums over slices of time that do not depend on any rule ([`window`]), so a rule that is new or
//! changed is exact at once. Which rules are in force is the store's own knowledge, not an instance's: a lower cap holds
//! at once, a higher one after a while ([`rule_book`]).
//!
//! A call above `approve_above` passes once operators have approved it ([`approval`]), and a higher cap holds early
//! ([`early_raise`]).
//!
//! [`judge`](mod@judge) is the whole in Rust, over tables that [`model`] keeps in memory and the SQLite file on disk.
//! PostgreSQL's functions (`0001_caps.sql`, `0001_spends.sql` and `0001_approvals.sql` in `sql`) answer the same; property
//! tests drive all three.
//!
//! An instance uses them so. At start and at each reload it [declares](crate::engine::Store::declare_caps) its rules. For a
//! money call it reads the [demand](gatepay_core::money::MoneyDemand), makes a [`SpendDemand`](spend::SpendDemand) of it,
//! with the order's currency from the ledger, and puts that into the row that it asks about; a demand that cannot be read
//! is refused before that if the sub-account has caps for the call. After the answer it
//! [settles the attempt](crate::engine::Store::settle_attempts) by its stamp: what was not sent or was refused with proof, what
//! was accepted, and what is unknown. A notification or a look-up with a last word
//! [settles the object](crate::engine::Store::settle_object). Each few seconds it calls
//! [`age_spends`](crate::engine::Store::age_spends), and looks up the
//! [unknown spends](crate::engine::Store::unknown_spends). Operators see a [`report`].

pub mod approval;
pub mod approver_rule;
pub mod early_raise;
pub mod rule;
pub mod rule_book;
pub mod spend;
pub mod window;

pub mod judge;
pub mod model;
pub mod report;
