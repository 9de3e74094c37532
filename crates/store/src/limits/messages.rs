//! The messages between an instance and the store about limits, and their times of validity.

use std::sync::Arc;
use std::time::Duration;

/// How long a stock of tokens and a lease may be used without a sign of life, counted from before the instance asked.
pub const LOAN_ENDS: Duration = Duration::from_secs(2);
/// How long seats may be held without a sign of life: their calls last longer.
pub const SEATS_END: Duration = Duration::from_secs(5);
/// How long a lease is used while the question for the next one has no answer: a store that is late is not away.
pub const LEASE_GRACE: Duration = Duration::from_secs(1);
/// How often an instance calls [`exchange`](crate::postgres::PostgresStore::exchange) without a reason.
pub const EXCHANGE_EVERY: Duration = Duration::from_millis(200);
/// How often it does so at most: if the store does not know the demand of a refused tenant yet, or if the lease is below
/// its target, or has become smaller: the store lends the difference to others once it hears that the old one has ended.
pub const EXCHANGE_AT_MOST: Duration = Duration::from_millis(50);

/// An instance's questions about its tenants' limits in one call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LimitQuestions {
    /// The number with which the instance joined.
    pub instance: i64,
    /// The number of the call: higher than that of every earlier call of the instance about limits, also of exchanges.
    pub number: i64,
    /// Questions about tokens, at most one for each tenant and limit.
    pub tokens: Vec<TokenQuestion>,
    /// Questions about seats, at most one for each tenant.
    pub seats: Vec<SeatQuestion>,
}

/// A question about the tokens of one limit.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenQuestion {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The limit's name.
    pub limit: &'static str,
    /// The limit by this instance's configuration, in tokens per second. The smallest that an instance reports is in
    /// force.
    pub rate: f64,
    /// The burst by this instance's configuration, in tokens.
    pub burst: f64,
    /// How long the figures bind even if this instance ends, since GatePay has lowered them; zero if it has not.
    pub holds: Duration,
    /// The tokens that the instance expects to need soon.
    pub want: u32,
    /// The requests that wait for this answer.
    pub waiting: u32,
    /// The tokens that the instance still holds.
    pub held: u32,
    /// The tokens that it gives back unspent; they are not among `held`.
    pub returned: u32,
}

/// The answer to a [`TokenQuestion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenAnswer {
    /// How many of the tokens `held` are still the instance's: fewer if it was silent for too long.
    pub kept: u32,
    /// The tokens that it gets.
    pub lent: u32,
    /// If no token is left in the store: for how long it should not ask again, in milliseconds.
    pub wait_ms: u64,
    /// The bucket has less than four tokens an instance. It lends only for requests that wait, and an instance reports
    /// spent tokens at once.
    pub small: bool,
}

/// A question about a tenant's seats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatQuestion {
    /// The tenant; empty for the institution as a whole.
    pub tenant: Arc<str>,
    /// The number of seats by this instance's configuration. The smallest that an instance reports is in force.
    pub seats: u32,
    /// The seats that the instance wants in addition.
    pub want: u32,
    /// The seats that it keeps, taken or free.
    pub held: u32,
}

/// The answer to a [`SeatQuestion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatAnswer {
    /// How many of the seats `held` are still the instance's.
    pub kept: u32,
    /// The seats that it gets.
    pub lent: u32,
    /// There are less than four seats an instance: a seat that is left is given back at once.
    pub small: bool,
}

/// The answers to [`LimitQuestions`], in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitAnswers {
    /// The era of the limits: another one after a crash or a failover of the store.
    pub era: i64,
    /// The instances that use limits.
    pub instances: u32,
    /// The answers about tokens.
    pub tokens: Vec<TokenAnswer>,
    /// The answers about seats.
    pub seats: Vec<SeatAnswer>,
}

/// An instance's report in an exchange.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DemandReport {
    /// The number with which the instance joined.
    pub instance: i64,
    /// The number of the call, one sequence with that of [`LimitQuestions`].
    pub number: i64,
    /// The number of the last exchange with an answer in use; 0 before the first.
    pub applied: i64,
    /// The era in which the instance has declared its seats, and uses no loan of an earlier one; 0 before the first.
    pub era: i64,
    /// The time since the store's last answer in that era, or in a later one in which nothing is declared yet; `None`
    /// before the first.
    pub silent: Option<Duration>,
    /// The institution's rate by this instance's configuration, in requests per second.
    pub rate: f64,
    /// The institution's burst by this instance's configuration.
    pub burst: f64,
    /// The institution's rate to which GatePay pushed this instance back.
    pub in_force: Option<f64>,
    /// How long that rate binds even if this instance ends.
    pub holds: Duration,
    /// The tenants that asked for something in the last ten seconds.
    pub tenants: Vec<TenantDemand>,
}

/// One tenant's demand at one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantDemand {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Its weight.
    pub weight: f64,
    /// The requests per second that it asks for, admitted or not.
    pub asked: f64,
}

/// The answer to a [`DemandReport`]: a part of the institution's rate.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseGrant {
    /// The number of the exchange.
    pub number: i64,
    /// The era of the limits.
    pub era: i64,
    /// Whether seats are lent. An era begins without: until every instance has declared the seats that it has of the era
    /// before, or for five seconds. Tokens and parts of the rate are lent after two seconds at the latest.
    pub is_open: bool,
    /// The instances that share the rate.
    pub instances: u32,
    /// The part of the rate, in requests per second.
    pub rate: f64,
    /// The part of the burst.
    pub burst: f64,
    /// The rate that the instance should have. It is more than `rate` until the others have given up their excess.
    pub target: f64,
    /// The institution's rate in force over all instances: the configured one, or less after a push-back.
    pub whole_rate: f64,
    /// The institution's burst in force over all instances.
    pub whole_burst: f64,
    /// The total weight of all tenants that are active at any instance.
    pub weight: f64,
    /// The institution's seats that other instances hold.
    pub seats_elsewhere: u32,
    /// For each reported tenant, the part of its demand that it has here.
    pub fractions: Vec<f64>,
}

impl LimitQuestions {
    /// Whether there is nothing to ask.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.seats.is_empty()
    }
}
