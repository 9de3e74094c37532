//! Tenants' incarnations, the ledger beyond a call's intents, and the tokens of URLs.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ownership::TenantIncarnation;
use gatepay_core::settlement::ObjectOutcome;

use super::event::EventId;

/// The largest number of keys, rows or tokens in one call.
pub const MOST_KEYS: usize = 1_000;

/// A tenant id and its sub-account, as the configuration in force has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantAccount {
    /// The tenant id.
    pub tenant: String,
    /// The sub-account.
    pub account: String,
}

/// What an instance knows of the credential by which a party has made its last call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCredential {
    /// The id of the tenant or operator.
    pub party: String,
    /// The client id, if the party has made a call since the instance asked before.
    pub used: Option<String>,
}

/// A tenant that has a key, according to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerHolder {
    /// The tenant. Its incarnation is 0 if no configuration with the tenant id and sub-account was registered.
    pub tenant: TenantIncarnation,
    /// When the ledger learned it.
    pub at_ms: u64,
    /// The operation of the call.
    pub operation: String,
    /// Where the row comes from: a word of [`LedgerSource`].
    pub source: String,
    /// The outcome of the object that the key names, if a notification has proved it.
    pub proved: Option<ProvedOutcome>,
}

/// The outcome of an object, with its basis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvedOutcome {
    /// The outcome of the object.
    pub outcome: ObjectOutcome,
    /// The status as GatePay sent it.
    pub status: String,
    /// The notification.
    pub event: EventId,
    /// When the ledger learned it.
    pub at_ms: u64,
}

/// A row for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerNote {
    /// The key.
    pub key: LedgerKey,
    /// The tenant with its sub-account, at the time of the call.
    pub holder: TenantAccount,
    /// When the call was made, if that was before now. It shows which incarnation made it.
    pub at_ms: Option<u64>,
    /// The operation of the call.
    pub operation: String,
    /// The currency of the call.
    pub currency: Option<String>,
}

/// Where a row of the ledger comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerSource {
    /// A call, before it was sent.
    Call,
    /// GatePay's answer to a call.
    Answer,
    /// An audit journal from before the ledger existed.
    Journal,
    /// GatePay's answer to a question about a notification.
    Asked,
    /// An operator.
    Operator,
}

/// A URL of a tenant's for which the proxy gives GatePay a URL of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackUrl {
    /// The tenant, in its newest incarnation.
    pub tenant: TenantIncarnation,
    /// The tenant's own URL.
    pub url: String,
    /// The operation that named the URL.
    pub made_for: String,
}

/// The answer to the wish for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackToken {
    /// The token for this URL and operation: the proposed one, or one that was given before.
    Token(String),
    /// The tenant has [`MOST_CALLBACK_URLS`] other URLs.
    TooManyUrls,
    /// The incarnation is not the tenant's newest.
    Removed,
}

/// The largest number of URLs of one tenant, beside the one in its file. Together they are its 16 endpoints.
pub const MOST_CALLBACK_URLS: u32 = 15;

impl LedgerSource {
    /// The word that is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Answer => "answer",
            Self::Journal => "journal",
            Self::Asked => "asked",
            Self::Operator => "operator",
        }
    }
}
