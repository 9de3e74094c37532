//! Calls as tests ask a store for them. The tests of both engines include this file.

use gatepay_core::Kind;
use gatepay_store::admission::AdmissionRow;
use gatepay_store::caps::spend::{SpendAmount, SpendDemand};

use crate::cap_steps::{amount, currency, text};

/// A money call of acme's that spends nothing.
pub(crate) fn money_row(stamp: [u8; 16], stamp_ms: u64) -> AdmissionRow {
    AdmissionRow {
        stamp,
        nonce: None,
        stamp_ms,
        party: text("acme"),
        account: text("100"),
        kind: Kind::Money,
        module: "payout",
        operation: "create_payout".into(),
        has_body: true,
        intents: Vec::new(),
        spend: None,
        usage: None,
    }
}

/// A payout under no key.
pub(crate) fn payout(parts: Vec<SpendAmount>) -> SpendDemand {
    SpendDemand {
        counted_as: "create_payout",
        key: None,
        parts,
        of_order: None,
        approval: None,
    }
}

/// The same amount in each of some currencies.
pub(crate) fn units_of<T: AsRef<str>>(units: &str, currencies: &[T]) -> Vec<SpendAmount> {
    let parts = currencies.iter().map(|of| SpendAmount {
        currency: currency(of.as_ref()),
        amount: amount(units),
    });
    parts.collect()
}
