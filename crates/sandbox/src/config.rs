//! The configuration of a sandbox.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::Credential;
use gatepay_core::delivery_schedule::{DelaySteps, GATEPAY_CURRENT};

/// Tells the time, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The configuration of a sandbox.
pub struct SandboxConfig {
    /// The institution's credentials: the sandbox accepts signatures made with these.
    pub institution: Vec<Credential>,
    /// The accounts that `X-GatePay-On-Behalf-Of` may name.
    pub sub_accounts: Vec<SubAccount>,
    /// The id of the institution's own account. It receives the institution's charges, and pays batch transfers without
    /// `X-GatePay-On-Behalf-Of`.
    pub institution_account: String,
    /// The required value of `X-GatePay-MerchantId` on fee settings; `None` accepts any value.
    pub merchant_id: Option<String>,
    /// The balances of accounts at the start.
    pub opening_balances: Vec<OpeningBalance>,
    /// How long a created account stays INIT, by the sandbox's clock. Zero makes the account ACTIVE on the next call.
    pub account_delay: Duration,
    /// The scope in which a merchant's number (of an order, a refund or other business) must be unique.
    pub numbers_unique_per: NumbersUniquePer,
    /// The orders that a look-up shows.
    pub order_look_ups: OrderLookUps,
    /// The form of answers where the documentation and the official client libraries differ.
    pub answer_forms: AnswerForms,
    /// The sandbox's clock.
    pub clock: Clock,
    /// The TLS configuration; `None` serves plain text. The sandbox overwrites ALPN with HTTP/1.1.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The capacity of the log of received requests. A full log drops its oldest request. 0 keeps no log.
    pub record: usize,
    /// The delay of every answer, which stands for the network and GatePay's own work.
    pub answer_delay: Duration,
    /// The notifications that are sent; `None` sends none.
    pub notifications: Option<NotificationSending>,
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
            order_look_ups: OrderLookUps::OwnOrders,
            answer_forms: AnswerForms::Clients,
            clock,
            tls: None,
            // Some 20 MB of usual requests: a long test run, not a day of load.
            record: 10_000,
            answer_delay: Duration::ZERO,
            notifications: None,
        }
    }
}

/// How the sandbox sends notifications (protocol.md 5).
pub struct NotificationSending {
    /// The institution's callback URL: `https`, or `http` to a loopback address. A fixed address or a subscription with a
    /// `callbackUrl` of its own is notified there, under the same rule.
    pub url: String,
    /// The TLS configuration for `https`, with its trust anchor.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The credential that signs: the institution's. Bodies have its client id.
    pub credential: Credential,
    /// The delays before repetitions, by the sandbox's clock: one of GatePay's three schedules.
    pub schedule: DelaySteps,
    /// Divides every delay of the schedule.
    pub speed: NonZeroU32,
    /// The stamp of repetitions.
    pub repetition_stamp: RepetitionStamp,
    /// The maximum time of one attempt in real time. GatePay does not publish its own.
    pub answer_timeout: Duration,
    /// The capacity of the log of attempts. A full log drops its oldest attempt. 0 keeps no log.
    pub record: usize,
}

impl NotificationSending {
    /// Notifications to `url`, by GatePay's current schedule.
    pub fn new(url: impl Into<String>, credential: Credential) -> Self {
        Self {
            url: url.into(),
            tls: None,
            credential,
            schedule: GATEPAY_CURRENT,
            speed: NonZeroU32::MIN,
            repetition_stamp: RepetitionStamp::Fresh,
            answer_timeout: Duration::from_secs(10),
            record: 10_000,
        }
    }
}

/// The stamp of a repeated notification. GatePay does not document which it sends, so a receiver should be tested
/// against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepetitionStamp {
    /// Each attempt has a timestamp and a nonce of its own.
    Fresh,
    /// Each repetition has the timestamp and the nonce of the first attempt, and so the same signature.
    Same,
}

/// An account under the institution (protocol.md 6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAccount {
    /// The account id, as `X-GatePay-On-Behalf-Of` names it.
    pub id: String,
    /// Whether the account is usable yet.
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

/// The balance of an account in one currency at the start.
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
    /// An opening balance of `amount` in `currency` for `account`.
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

/// The scope in which a merchant's number must be unique.
///
/// The number identifies an order, a refund or other business. GatePay does not document the scope, so a client should
/// be tested against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumbersUniquePer {
    /// Two sub-accounts may use the same number.
    SubAccount,
    /// A number used by one sub-account is taken for all.
    Institution,
}

/// The orders that the look-ups of orders show to a sub-account.
///
/// GatePay does not document whether it keeps accounts apart, so code that concludes from an answer should be tested against
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderLookUps {
    /// The orders of the sub-account.
    OwnOrders,
    /// The orders of all sub-accounts, if they are named by `prepayId`.
    AllOrders,
}

/// The form of answers where two sources differ. A client should be tested against both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerForms {
    /// The form that GatePay's official client libraries for Go, Java and Python decode: the best evidence of GatePay's
    /// real answers.
    Clients,
    /// The form that the samples of GatePay's documentation print.
    Documentation,
}
