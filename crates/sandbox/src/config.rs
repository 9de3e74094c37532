//! What a sandbox is started with.

use std::sync::Arc;
use std::time::Duration;

use gatepay_core::Credential;

/// Tells the time, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What a sandbox is started with.
pub struct SandboxConfig {
    /// Who may sign: the institution's credentials.
    pub institution: Vec<Credential>,
    /// The accounts that `X-GatePay-On-Behalf-Of` may name.
    pub sub_accounts: Vec<SubAccount>,
    /// The institution's own account: it receives what it charges, and pays rewards that nobody else pays.
    pub institution_account: String,
    /// What `X-GatePay-MerchantId` must be on fee settings; without it any value will do.
    pub merchant_id: Option<String>,
    /// What accounts have at the start.
    pub opening_balances: Vec<OpeningBalance>,
    /// How long an account that is created stays INIT, by the clock. With zero it is ACTIVE when looked at next.
    pub account_delay: Duration,
    /// Among whose orders, refunds and other business a number may occur once only.
    pub numbers_unique_per: NumbersUniquePer,
    /// Which forms answers have, where the documentation and the official client libraries differ.
    pub answer_forms: AnswerForms,
    /// What time it is.
    pub clock: Clock,
    /// With it the sandbox speaks TLS, without it plain text. ALPN is set to HTTP/1.1, whatever it says.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// How many received requests are remembered, newest first to stay; 0 for none.
    pub record: usize,
    /// How long every answer is held back, as the network and GatePay's own work would.
    pub answer_delay: Duration,
}

impl SandboxConfig {
    /// One credential, no sub-accounts yet, plain text, and the defaults.
    pub fn new(credential: Credential, clock: Clock) -> Self {
        Self {
            institution: vec![credential],
            sub_accounts: Vec::new(),
            institution_account: "1000000000".to_owned(),
            merchant_id: None,
            opening_balances: Vec::new(),
            account_delay: Duration::ZERO,
            numbers_unique_per: NumbersUniquePer::SubAccount,
            answer_forms: AnswerForms::Clients,
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

/// What an account has at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpeningBalance {
    /// The institution's account or a sub-account.
    pub account: String,
    /// In upper case.
    pub currency: String,
    /// Decimal text, above zero.
    pub amount: String,
}

impl OpeningBalance {
    /// So much of a currency for an account.
    pub fn new(
        account: impl Into<String>,
        currency: impl Into<String>,
        amount: impl Into<String>,
    ) -> Self {
        Self {
            account: account.into(),
            currency: currency.into(),
            amount: amount.into(),
        }
    }
}

/// Among whose orders, refunds and other business a number may occur once only. GatePay does not say, so a client should be tested
/// against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumbersUniquePer {
    /// Two sub-accounts may use the same number.
    SubAccount,
    /// A number used by one sub-account is taken for all.
    Institution,
}

/// Which forms answers have, where two sources differ. A client should be tested against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForms {
    /// As the types of GatePay's official client libraries for Go, Java and Python read them: the best evidence of what
    /// GatePay sends.
    Clients,
    /// As the samples of GatePay's documentation print them.
    Documentation,
}
