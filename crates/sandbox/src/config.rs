//! What a sandbox is started with.

use std::sync::Arc;
use std::time::Duration;

use gatepay_core::Credential;

/// Tells the time, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a sandbox is started with.
pub struct Config {
    /// Who may sign: the institution's credentials.
    pub institution: Vec<Credential>,
    /// The accounts that `X-GatePay-On-Behalf-Of` may name.
    pub sub_accounts: Vec<SubAccount>,
    /// Among whose orders and refunds a number may occur once only.
    pub numbers_unique_per: NumbersUniquePer,
    /// What time it is.
    pub clock: Clock,
    /// With it the sandbox speaks TLS, without it plain text. ALPN is set to HTTP/1.1, whatever it says.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How many received requests are remembered, newest first to stay; 0 for none.
    pub record: usize,
    /// How long every answer is held back, as the network and GatePay's own work would.
    pub answer_delay: Duration,
}

impl Config {
    /// One credential, no sub-accounts yet, plain text, and the defaults.
    pub fn new(credential: Credential, clock: Clock) -> Self {
        Self {
            institution: vec![credential],
            sub_accounts: Vec::new(),
            numbers_unique_per: NumbersUniquePer::SubAccount,
            clock,
            tls: None,
            // Some 20 MB of usual requests: a long test run, not a day of load.
            record: 10_000,
            answer_delay: Duration::ZERO,
        }
    }
}

/// An account under the institution (protocol.md 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAccount {
    /// As `X-GatePay-On-Behalf-Of` names it.
    pub id: String,
    /// Whether it can be used yet.
    pub status: AccountStatus,
}

impl SubAccount {
    /// An account that can be used.
    pub fn active(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            status: AccountStatus::Active,
        }
    }

    /// An account that was created and is not usable yet.
    pub fn init(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            status: AccountStatus::Init,
        }
    }
}

/// How far the creation of an account has come (protocol.md 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountStatus {
    /// Created, not usable yet.
    Init,
    /// Usable.
    Active,
}

/// Among whose orders and refunds a number may occur once only. GatePay does not say, so a client should be tested
/// against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumbersUniquePer {
    /// Two sub-accounts may use the same number.
    SubAccount,
    /// A number used by one sub-account is taken for all.
    Institution,
}
