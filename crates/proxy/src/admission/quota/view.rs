//! What is seen of the quota, for operators to look at.

/// What is seen of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaView {
    /// The configured rate, per second.
    pub configured: u32,
    /// The rate in force: less since GatePay pushed back.
    pub in_force: u32,
    /// Tokens of the burst that are left.
    pub left: i64,
    /// Parties that asked in the last ten seconds.
    pub active: u32,
    /// What they weigh together.
    pub weight: u64,
    /// Calls of parties that are in flight, if they are limited.
    pub in_flight: u32,
}

/// What is seen of one party's share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShareView {
    /// Its weight.
    pub weight: u32,
    /// What it is guaranteed now, per second; if it is not active, what it would be.
    pub share: f64,
    /// What it took in the last ten seconds or so, per second.
    pub used: f64,
    /// Calls ever admitted out of what others left.
    pub borrowed: u64,
}
