//! Tests of the store against real PostgreSQL servers, in one binary, so that linking happens once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::large_futures,
    reason = "a test that cannot be set up has failed, or says that it is skipped"
)]

mod cap_steps;
mod clocked;
mod destination_steps;
mod limit_cluster;
mod limit_stores;
mod notification_steps;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;
#[path = "../../../tests/support/postgres_relay.rs"]
mod postgres_relay;
mod refund_steps;
mod rows;
mod statement_steps;
mod support;

// Verdicts, halts, guards and the ledger of one server.
mod admitting;
// The SQL functions answer as the model in Rust does.
mod agreement;
// Money caps: the functions answer as the model does, and what GatePay executes stays within the caps.
mod capping;
// Sums of caps: nothing is left of what was not spent, reports read what caps need, a clock comes back.
mod cap_sums;
// Destinations: the function keeps the same lists as the model, and opens nothing early.
mod destining;
// Statements: both engines add up the same days, and a day that has ended does not change.
mod stating;
// Upkeep of statements: what is forgotten is found without reading what is kept.
mod usage_upkeep;
// Notifications: the functions answer as the model does, nothing acknowledged is lost, due work is found without a scan.
mod notified;
// Owners that GatePay was asked for, operators that follow one another.
mod asked;
// `find` answers the same from both engines, and looks at no table as a whole.
mod finding;
// The long forms: many failovers under load, a million raced copies, throughput and latency.
mod campaign;
// Failovers, restarts and restores: a stamp that was admitted is not admitted again.
mod failover;
// A clock that steps deletes nothing, makes no room, and delays nothing.
mod clocking;
// Functions that lock the same do so in one order.
mod crossing;
// Another database in the place of the one that was joined, an old one that was put back, a clock that steps.
mod other_databases;
// Roles, TLS, migrations, the ring of partitions, and the findings of `store check`.
mod operating;
mod operator_steps;
// Requests that are asked for one by one go to the store in batches, and are refused at once while it is away.
mod queueing;
// A connection that breaks, a commit that fails or is only local, a server that is silent: nothing is admitted.
mod failures;
// Limits across instances, in simulated time: the model and the SQL functions, driven by the same scripts.
mod limits;
// A month by the store's clock: no table grows.
mod month;
