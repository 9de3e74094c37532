//! Spend: what a money call takes of its caps, and the proofs that give it back.
//!
//! A spend belongs to one key of one party; each admitted call under it is an *attempt*. It counts while an attempt is
//! open, or once GatePay is known to have accepted one. Only two things end it: the proof that nothing was executed, for
//! every attempt, or GatePay's own word that the object under the key has finally failed. "Not found" proves neither.

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::{CurrencyCode, MoneyDemand, MoneyPart, PartCurrency};
use gatepay_core::notification::StatedAmount;

use super::approval::ApprovalSubject;
use crate::stored_text::{Fingerprint, StoredText};

/// What a call spends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendDemand {
    /// The name under which the call is [counted](MoneyDemand::counted_as).
    pub counted_as: &'static str,
    /// The call's own key, if one key is one spend. Every call without one counts.
    pub key: Option<StoredText>,
    /// The amounts. Two in one currency count as their sum.
    pub parts: Vec<SpendAmount>,
    /// The amount of a refund, whose currency the store alone knows: it reads the ledger in the transaction that admits. If the
    /// ledger does not know it, a call that a rule covers is refused, and another one is not counted.
    pub of_order: Option<OrderSpend>,
    /// The subject of an approval of the call; `None` if this instance knows of no rule that asks for approvals.
    pub approval: Option<ApprovalSubject>,
}

/// An amount of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendAmount {
    /// The currency.
    pub currency: CurrencyCode,
    /// The amount.
    pub amount: ExactAmount,
}

/// An amount in the currency of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSpend {
    /// GatePay's id of the order.
    pub order: StoredText,
    /// The amount.
    pub amount: ExactAmount,
}

/// What is known about one admitted call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// Nothing of it was sent, or GatePay refused it with a code that proves that nothing was executed: codes that may mean
    /// that the key exists prove nothing.
    NotExecuted,
    /// GatePay accepted it.
    Executed,
    /// GatePay has the object under its key, which this call or an earlier one has made. It counts.
    Found,
    /// It may have been executed. It counts.
    Unknown,
}

/// What an instance knows about a call that it sent, or did not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledAttempt {
    /// The stamp that the call was admitted with.
    pub stamp: Fingerprint,
    /// What is known.
    pub result: AttemptResult,
}

/// GatePay's last word on the object under a key, by a notification or a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledObject {
    /// The tenant or operator.
    pub party: StoredText,
    /// The sub-account.
    pub account: StoredText,
    /// The names under which the call may have been counted: a notification does not always tell.
    pub counted_as: Vec<&'static str>,
    /// The key.
    pub key: StoredText,
    /// Whether the object exists and has not failed; otherwise it failed as a whole, finally.
    pub stands: bool,
    /// Amounts of the object as GatePay states them. A failure of another amount is not that of the spend. An object that stands
    /// counts whatever they are: of several amounts under one key the largest counts.
    pub amounts: Vec<StatedAmount>,
    /// A time at which GatePay had already decided, in milliseconds since 1970 by the store's clock. Attempts that were
    /// admitted later are not covered.
    pub decided_ms: u64,
}

/// A spend with attempts that GatePay may have executed or not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownSpend {
    /// When the oldest of these attempts was admitted, in milliseconds since 1970 by the store's clock.
    pub since_ms: u64,
    /// The tenant or operator.
    pub party: StoredText,
    /// The sub-account.
    pub account: StoredText,
    /// The name under which it is counted.
    pub counted_as: String,
    /// The key; `None` if the calls had none, so that GatePay cannot be asked.
    pub key: Option<StoredText>,
}

/// How long an instance without a sign of life may still know what became of its calls, in milliseconds.
pub const UNKNOWN_AFTER_MS: u64 = 60_000;
/// After this time an attempt is unknown although its instance lives: the report was lost. In milliseconds.
pub const LOST_REPORT_MS: u64 = 600_000;
/// Instances with a sign of life within this time are alive, in milliseconds.
pub const ALIVE_MS: u64 = 5_000;
/// How long the rules of an instance without a sign of life count, in milliseconds.
pub const CLAIM_MS: u64 = 60_000;
/// How long a spend is kept, and its key is not a new one, in milliseconds: 400 days.
pub const KEPT_MS: u64 = 400 * 86_400_000;

/// The beginning of the stored key of a call without one. No key of a call contains it.
pub(crate) const NO_KEY: char = '\u{1f}';

impl SpendDemand {
    /// What a call spends; `None` if it cannot be kept so, as if its amounts could not be read.
    pub fn of(demand: &MoneyDemand) -> Option<Self> {
        let (mut parts, mut of_order) = (Vec::new(), None);
        for MoneyPart { currency, amount } in &demand.parts {
            match currency {
                PartCurrency::Stated(currency) => parts.push(SpendAmount {
                    currency: currency.clone(),
                    amount: *amount,
                }),
                PartCurrency::OfOrder(_) if of_order.is_some() => return None,
                PartCurrency::OfOrder(order) => {
                    of_order = Some(OrderSpend {
                        order: StoredText::parse(order.text())?,
                        amount: *amount,
                    });
                }
            }
        }
        let key = demand.key.as_deref().map(StoredText::parse);
        Some(Self {
            counted_as: demand.counted_as,
            key: key.flatten(),
            parts,
            of_order,
            approval: None,
        })
    }

    /// Takes the currency of the order, which is known now.
    pub fn price(&mut self, currency: CurrencyCode) {
        let priced = self.of_order.take();
        self.parts
            .extend(priced.map(|OrderSpend { amount, .. }| SpendAmount { currency, amount }));
    }

    /// The key in tables: a call without one has its stamp's.
    pub(crate) fn stored_key(&self, stamp: &Fingerprint) -> String {
        match &self.key {
            Some(key) => key.as_str().to_owned(),
            None => format!("{NO_KEY}{}", hex::encode(stamp)),
        }
    }
}
