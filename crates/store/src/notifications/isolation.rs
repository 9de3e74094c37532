//! What probes have found out about GatePay: whether it keeps accounts apart.

use gatepay_core::owner_look_up::IsolationVerdict;

/// The GatePay and the credential of which a finding tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IsolationSubject {
    /// The URL of GatePay, without its path.
    pub upstream: String,
    /// The client id of the institution's credential that signed the look-ups.
    pub client_id: String,
}

/// What a probe has found out about one look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationFinding {
    /// The operation that looks up.
    pub operation: String,
    /// The result.
    pub verdict: IsolationVerdict,
    /// The number of accounts that took part.
    pub accounts: u32,
}

/// A finding with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFinding {
    /// The finding.
    pub finding: IsolationFinding,
    /// When the store took it.
    pub at_ms: u64,
}

/// The newest finding about each look-up, in the order of their operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsolationRecord {
    /// The findings.
    pub findings: Vec<KeptFinding>,
    /// The store's clock.
    pub now_ms: u64,
}
