//! Limits across instances: stocks of tokens, seats, and leases of the institution's rate.
//!
//! A tenant's bucket is in the store. An instance takes a *stock* of tokens from it, and admits calls from the stock
//! without asking. Tokens that are out count as not refilled, so that the tokens in the store and in all stocks are never
//! more than the burst: calls admitted in any period are at most rate × time and one burst, over all instances together,
//! as they are in one process. *Seats* (calls in flight) are lent in the same way. The institution's rate is lent in parts
//! (*leases*), by the demand of the tenants at each instance; the parts are never more than the whole.
//!
//! A loan ends by itself if its instance falls silent: at the instance by its monotonic clock, counted from before it
//! asked, and at the store by the database's clock, counted from when it answered. So the instance is always the earlier.
//!
//! Everything here is pure: time is an argument, in the form of the time since any fixed moment, by a monotonic clock.
//! [`TokenStock`], [`SeatStock`] and [`RateLease`] are the instance's side. They make the questions and read the answers
//! that [`PostgresStore::take`](crate::postgres::PostgresStore::take) and
//! [`exchange`](crate::postgres::PostgresStore::exchange) carry. [`model`] is the store's side, as the SQL functions have
//! it.

mod demand_tally;
mod max_min;
mod messages;
pub mod model;
mod rate_lease;
mod seat_stock;
mod token_stock;

pub use demand_tally::{DemandTally, named};
pub use max_min::{WaterLine, water_line};
pub use messages::{
    DemandReport, EXCHANGE_AT_MOST, EXCHANGE_EVERY, LEASE_GRACE, LOAN_ENDS, LeaseGrant,
    LimitAnswers, LimitQuestions, SEATS_END, SeatAnswer, SeatQuestion, TenantDemand, TokenAnswer,
    TokenQuestion,
};
pub use rate_lease::RateLease;
pub use seat_stock::{SeatStock, SeatsTaken, StoreHeard};
pub use token_stock::{StockEmpty, StockToken, TokenStock};
