//! GatePay's rules as pure functions: signing and verifying, the operation catalogue, bodies and envelopes.
//!
//! The crate deliberately does no I/O, reads no clock, draws no randomness, awaits nothing and logs nothing. Time and
//! nonces are arguments. References like "protocol.md 1.3" are to the protocol notes in `docs/`.
//!
//! Read in this order: the signing party ([`SecretKey`], [`Credential`]), the signed text ([`Stamp`], [`Payload`],
//! [`Signature`]), the two functions [`sign()`] and [`verify()`], then the API's calls ([`operation`], [`catalogue`]),
//! the rules for a body ([`check`], [`order`]), its amounts ([`amount`]) and what a money call asks for ([`money`],
//! [`exact_amount`]), the judgment of an answer ([`envelope`]),
//! its value as proof ([`proof`]), and the look-up of a call without an answer ([`look_up`]). For notifications read the
//! keys of the ledger ([`ledger_key`], [`ledger_rows`]), the reading of a body ([`notification`]), its owner
//! ([`ownership`], [`owner_look_up`]), and its delivery ([`delivery_order`], [`delivery_schedule`], [`destination`]).

pub mod amount;
pub mod body;
pub mod callback_url;
pub mod catalogue;
pub mod chain;
pub mod check;
pub mod codes;
pub mod credential;
mod currency_code;
pub mod delivery_order;
pub mod delivery_schedule;
pub mod destination;
pub mod envelope;
pub mod exact_amount;
pub mod explain;
pub mod field;
pub mod guard;
pub mod header;
pub mod ledger_key;
pub mod ledger_rows;
pub mod look_up;
pub mod money;
pub mod notification;
pub mod operation;
pub mod order;
pub mod own_operation;
pub mod owner_look_up;
pub mod ownership;
pub mod payload;
pub mod proof;
pub mod secret;
pub mod settlement;
pub mod sign;
pub mod signature;
pub mod spelling;
pub mod stamp;
pub mod translate;
pub mod verify;
pub mod visible;

mod catalogue_rows;
mod json;
mod query;
mod reserved;
mod text;
mod word_search;
mod words;

pub use catalogue::Catalogue;
pub use chain::ChainLink;
pub use credential::{ClientId, Credential, SigningKey};
pub use operation::{Kind, Operation};
pub use payload::Payload;
pub use query::decode as query_text;
pub use query::encode as query_of;
pub use secret::SecretKey;
pub use sign::sign;
pub use signature::Signature;
pub use stamp::{FreshStamp, Stamp, StampWindow};
pub use verify::verify;
