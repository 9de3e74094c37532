//! What the store knows of one id: the ledger, open calls, notifications with their deliveries, and spends.

use std::collections::BTreeSet;

use gatepay_core::ledger_key::LedgerKey;

use crate::notifications::event::EventId;
use crate::notifications::ledger::{LedgerHolder, TenantAccount};
use crate::notifications::listing::{AttemptRow, EventSummary};

/// The most notifications and open calls of one id, and the most refunds of one order or under one number.
pub const MOST_FOUND: u32 = 100;

/// Everything of one id. Nothing is found by any other field than an id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundInStore {
    /// The tenants that have the id as a key.
    pub holders: Vec<(LedgerKey, LedgerHolder)>,
    /// Calls without a known outcome.
    pub open_calls: Vec<FoundOpenCall>,
    /// Notifications of the objects that the id names, in the order in which they came, each with its deliveries.
    pub events: Vec<(EventSummary, Vec<AttemptRow>)>,
    /// What calls under the id have spent.
    pub spends: Vec<FoundSpend>,
}

/// A call without a known outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundOpenCall {
    /// Its request id.
    pub call: String,
    /// The party with the account that the call was made for.
    pub holder: TenantAccount,
    /// Its operation.
    pub operation: String,
    /// Since when it is open.
    pub since_ms: u64,
}

/// A spend that counts, in one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSpend {
    /// The party with the account that the call was made for.
    pub holder: TenantAccount,
    /// The name under which it is counted.
    pub counted_as: String,
    /// Its key: that of a refund is its order's `prepayId` and its number, with a space between them.
    pub key: String,
    /// The currency.
    pub currency: String,
    /// The largest amount of any attempt, as a decimal number.
    pub amount: String,
    /// When the last attempt was admitted.
    pub at_ms: u64,
    /// When the newest attempt was admitted that GatePay accepted.
    pub executed_ms: Option<u64>,
    /// The attempts whose end is not known.
    pub open_attempts: u64,
}

/// Where to look for notifications.
#[derive(Debug, Clone)]
pub(crate) struct EventSearch {
    /// The id.
    pub(crate) text: String,
    /// The kinds of keys that it may be, and the key of each kind.
    pub(crate) keys: Vec<LedgerKey>,
    /// Notifications that are known to be about it.
    pub(crate) events: Vec<EventId>,
}

/// Where to look for spends.
#[derive(Debug, Clone)]
pub(crate) struct SpendSearch {
    /// The keys, each with a party that may have spent under it.
    pub(crate) keys: BTreeSet<(TenantAccount, String)>,
    /// The names under which calls are counted.
    pub(crate) counted_as: Vec<String>,
}

/// The texts between which the keys of an order's refunds lie, in the order of their bytes: the order's id, and a space, which
/// no id contains.
pub(crate) fn refunds_of(order: &str) -> (String, String) {
    (format!("{order} "), format!("{order}!"))
}
