//! Calls whose outcome the proxy does not know, and the outcomes that notifications prove.
//!
//! A call without a known outcome is *open*. It is settled by a notification that names one of its keys and belongs to
//! the same tenant: by one that comes later, or by one that came before the call was known to be open. The outcome stays
//! in the ledger, in the rows of the object's keys.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::settlement::{ObjectOutcome, OutcomeProof};

use super::event::{EventArrival, EventId};
use super::ledger::{ProvedOutcome, TenantAccount};

/// A call without a known outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    /// The request id of the call, by which the audit journal has it.
    pub call: String,
    /// The party with the account that the call was made for.
    pub holder: TenantAccount,
    /// The operation of the call.
    pub operation: String,
    /// The numbers that the call chose, or the keys of the order that it closes.
    pub keys: Vec<LedgerKey>,
    /// Whether the call closes an order, so that only the end of the order settles it.
    pub closes: bool,
}

/// A notification of a tenant with the proof in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectNews {
    /// The notification.
    pub event: EventId,
    /// The tenant that the notification belongs to.
    pub holder: TenantAccount,
    /// The proof.
    pub proof: OutcomeProof,
}

/// An open call that is settled now. It is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledCall {
    /// The request id of the call.
    pub call: String,
    /// The party with the account that the call was made for.
    pub holder: TenantAccount,
    /// The operation of the call.
    pub operation: String,
    /// Whether the call closes an order.
    pub closes: bool,
    /// Since when the call was open.
    pub open_since_ms: u64,
    /// The outcome of the object.
    pub proved: ProvedOutcome,
}

impl SettledCall {
    /// The outcome of the call: of the order if the call made one, of the closing if it closes one.
    pub fn outcome(&self) -> ObjectOutcome {
        let ProvedOutcome {
            outcome, status, ..
        } = &self.proved;
        if self.closes {
            outcome.of_closing(status).unwrap_or(*outcome)
        } else {
            *outcome
        }
    }
}

/// A row of the ledger whose outcome has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeChange {
    /// The key.
    pub key: LedgerKey,
    /// The tenant that has the key.
    pub holder: TenantAccount,
    /// The operation of the call that the row comes from.
    pub operation: String,
    /// The outcome before; `None` if it was not known.
    pub before: Option<ObjectOutcome>,
    /// The outcome now: a greater one.
    pub now: ObjectOutcome,
}

/// The effects of notifications on the ledger and on open calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettlementReport {
    /// Rows of the ledger whose outcome has changed, in the order of the news and their keys.
    pub changes: Vec<OutcomeChange>,
    /// Open calls that are settled now, each once.
    pub calls: Vec<SettledCall>,
}

/// An event at its place, with the effects of the outcome that it proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledEvent {
    /// The event.
    pub arrival: EventArrival,
    /// The effects; none unless the event has its owner now.
    pub report: SettlementReport,
}
