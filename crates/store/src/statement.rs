//! Statements: a tenant's calls and exact amounts of a day.
//!
//! Each admitted write or money call is *booked* in the transaction that admits it ([`account_book`]), and its end is noted
//! with the time at which it was learned. Nothing else is stored of a statement: it is computed from the booked calls
//! ([`daily_statement`]). At the end of a day a call of which nothing was learned is unknown; what is learned later is a
//! correction of the day on which it is learned. So the statement of a day that has ended does not change.
//!
//! Reads, and requests that the proxy refuses, are counted in each process and added up in the store each second
//! ([`usage_flush`]): a process that is killed loses its last counts, and the statement tells that.
//!
//! Times are milliseconds since 1970 by the store's clock.

pub mod account_book;
pub mod daily_statement;
pub mod usage_flush;
