//! The question to a store before a request is sent to GatePay, and the store's answer.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use gatepay_core::Kind;
use gatepay_core::money::CurrencyCode;

use crate::caps::approval::ApprovalDemand;
use crate::caps::rule::{CapBreach, ShadowBreach};
use crate::caps::spend::SpendDemand;
use crate::statement::account_book::CallUsage;
pub use crate::stored_text::{Fingerprint, LONGEST_TEXT, StoredText};

/// The largest number of requests in one [`AdmissionBatch`].
pub const MOST_ROWS: usize = 256;

/// One request to be admitted: its stamp, the facts that halts apply to, and the numbers for the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionRow {
    /// The fingerprint of client id, nonce and timestamp.
    pub stamp: Fingerprint,
    /// The fingerprint of client id and nonce, if the nonce may not come again with another timestamp.
    pub nonce: Option<Fingerprint>,
    /// The stamp's time, in milliseconds since 1970.
    pub stamp_ms: u64,
    /// The id of the tenant or operator.
    pub party: StoredText,
    /// The sub-account that the call is made for. A tenant id that is used again with another one is another tenant.
    pub account: StoredText,
    /// Whether the call reads, writes or moves money.
    pub kind: Kind,
    /// The module of the call, as `[operations] allow` spells it: `payout`.
    pub module: &'static str,
    /// The operation's name in the catalogue.
    pub operation: Cow<'static, str>,
    /// Whether the call has a body. GatePay's signature covers the body and not the path, so that a read and a write
    /// without a body are signed alike.
    pub has_body: bool,
    /// A ledger entry that is written before the call is sent.
    pub intents: Vec<LedgerIntent>,
    /// What the call spends, if money caps count it.
    pub spend: Option<Box<SpendDemand>>,
    /// The usage that statements show of the call; `None` for a read.
    pub usage: Option<Box<CallUsage>>,
}

/// A number by which a notification can be led back to the party that made the call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerIntent {
    /// The name of the number: `merchantTradeNo`, `refundRequestId`.
    pub key_kind: &'static str,
    /// The number as the body spells it.
    pub key: StoredText,
    /// The currency of the call, if it has one.
    pub currency: Option<StoredText>,
}

/// Requests that one transaction decides: at most [`MOST_ROWS`], no fingerprint twice.
#[derive(Debug, Default)]
pub struct AdmissionBatch {
    rows: Vec<AdmissionRow>,
    prints: HashSet<Fingerprint>,
}

/// Why a row does not go into this batch; it may go into the next one.
#[derive(Debug, PartialEq, Eq)]
pub enum BatchRefusal {
    /// The batch has [`MOST_ROWS`] rows.
    Full(Box<AdmissionRow>),
    /// A row with the same stamp or nonce is in the batch, and is decided first.
    Duplicate(Box<AdmissionRow>),
}

/// A store's decision about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmissionVerdict {
    /// The stamp is recorded and committed: no other copy will be admitted, by any instance.
    Admitted,
    /// A copy of the stamp was admitted.
    Replayed {
        /// When the first copy was admitted, in milliseconds since 1970 by the store's clock.
        admitted_ms: u64,
    },
    /// The nonce was admitted with another timestamp.
    NonceReplayed {
        /// When that request was admitted, in milliseconds since 1970 by the store's clock.
        admitted_ms: u64,
    },
    /// The stamp is older than the oldest remembered minute of its slot.
    Forgotten,
    /// A copy may have been admitted in a life of the store of which the last commits may be lost.
    Guarded {
        /// How far the stamp lies below the first usable one, in milliseconds.
        wait_ms: u64,
    },
    /// The store is a restored file: money is refused until an operator accepts it (`store distrust`).
    Restored,
    /// A halt covers the call. The stamp of a write or money call is spent with it.
    Halted(HaltScope),
    /// The stamp lies too far ahead of the store's clock.
    Premature {
        /// How far beyond the latest usable stamp, in milliseconds.
        ahead_ms: u64,
    },
    /// A money cap has no room for it. Its stamp is spent.
    CapExceeded(Box<CapBreach>),
    /// Operators have to approve the call. Its stamp is spent.
    ApprovalRequired(Box<ApprovalDemand>),
    /// It is a refund of an order whose currency the ledger does not know, and a money cap covers it. Its stamp is spent.
    UnknownCurrency,
    /// A write without a body, while an instance serves reads without the store, or shortly after it did.
    Bodyless,
}

/// The calls that a halt covers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HaltScope {
    /// Every call, reads too.
    All,
    /// Calls that move money.
    Money,
    /// Writes and money calls of one module: `payout`.
    Module(String),
    /// Writes and money calls of one party.
    Party(String),
    /// Every call of a suspended party, reads too.
    Suspended(String),
    /// The text of a newer version's scope: it counts as every call.
    Unknown(String),
}

/// A store's answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionReply {
    /// The verdicts, in the order of the batch's rows.
    pub verdicts: Vec<AdmissionVerdict>,
    /// The store's clock when it decided, in milliseconds since 1970.
    pub now_ms: u64,
    /// Stamps up to here are refused as [guarded](AdmissionVerdict::Guarded), in milliseconds since 1970.
    pub guarded_until: u64,
    /// Whether this batch found that the store may have lost commits, and set a new guard.
    pub new_guard: bool,
    /// The admitted rows that a shadow cap would have refused.
    pub shadows: Vec<ShadowBreach>,
}

impl AdmissionRow {
    /// Takes the currency of the order that the call refunds.
    pub(crate) fn price(&mut self, currency: CurrencyCode) {
        let Some(spend) = &mut self.spend else {
            return;
        };
        spend.price(currency);
        if let Some(usage) = &mut self.usage {
            usage.amounts = Some(spend.parts.clone());
        }
    }
}

impl AdmissionBatch {
    /// Puts a row at the end, or returns it.
    pub fn push(&mut self, row: AdmissionRow) -> Result<(), BatchRefusal> {
        if self.rows.len() == MOST_ROWS {
            return Err(BatchRefusal::Full(Box::new(row)));
        }
        let has = |print: &Fingerprint| self.prints.contains(print);
        if has(&row.stamp) || row.nonce.as_ref().is_some_and(has) {
            return Err(BatchRefusal::Duplicate(Box::new(row)));
        }
        self.prints.insert(row.stamp);
        self.prints.extend(row.nonce);
        self.rows.push(row);
        Ok(())
    }

    /// The rows, in the order in which they came.
    pub fn rows(&self) -> &[AdmissionRow] {
        &self.rows
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl AdmissionVerdict {
    /// Whether the store proves that no copy of a write's stamp was admitted, and none can be any more. Otherwise the
    /// outcome of a refused write or money call is unknown: an instance may ask for another copy a moment later.
    pub fn proves_no_copy(&self) -> bool {
        match self {
            Self::Restored
            | Self::Halted(_)
            | Self::CapExceeded(_)
            | Self::ApprovalRequired(_)
            | Self::UnknownCurrency => true,
            Self::Admitted
            | Self::Replayed { .. }
            | Self::NonceReplayed { .. }
            | Self::Forgotten
            | Self::Premature { .. }
            | Self::Bodyless
            | Self::Guarded { .. } => false,
        }
    }
}

impl HaltScope {
    /// Whether it covers a call of this kind and module by this party.
    pub fn covers(&self, kind: Kind, module: &str, party: &str) -> bool {
        let changes = kind != Kind::Read;
        match self {
            Self::All | Self::Unknown(_) => true,
            Self::Money => kind == Kind::Money,
            Self::Module(halted) => changes && halted == module,
            Self::Party(halted) => changes && halted == party,
            Self::Suspended(suspended) => suspended == party,
        }
    }

    /// The scope that a text of [`Display`](fmt::Display) states.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            None if text == "all" => Self::All,
            None if text == "money" => Self::Money,
            Some(("module", name)) => Self::Module(name.to_owned()),
            Some(("party", name)) => Self::Party(name.to_owned()),
            Some(("suspended", name)) => Self::Suspended(name.to_owned()),
            _ => Self::Unknown(text.to_owned()),
        }
    }
}

impl fmt::Display for HaltScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Money => f.write_str("money"),
            Self::Module(name) => write!(f, "module:{name}"),
            Self::Party(name) => write!(f, "party:{name}"),
            Self::Suspended(name) => write!(f, "suspended:{name}"),
            Self::Unknown(text) => f.write_str(text),
        }
    }
}
