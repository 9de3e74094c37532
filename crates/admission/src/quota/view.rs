//! The views of the quota, for operators.

/// The view of the whole quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaView {
    /// The configured rate, per second.
    pub configured: u32,
    /// The rate in force: less than configured after a push-back of GatePay.
    pub in_force: u32,
    /// Tokens of the burst that are left.
    pub left: i64,
    /// Parties that asked in the last ten seconds.
    pub active: u32,
    /// The total weight of the active parties.
    pub weight: u64,
    /// Calls of parties that are in flight, if they are limited.
    pub in_flight: u32,
}

/// The view of one party's share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShareView {
    /// The party's weight.
    pub weight: u32,
    /// The rate that the party is guaranteed, or would be if it were active, per second.
    pub share: f64,
    /// The rate that the party took in the last ten seconds or so, per second.
    pub used: f64,
    /// Calls ever admitted on tokens that others left.
    pub borrowed: u64,
}
