//! Ledger intents: the numbers in a call's body that lead a notification back to the call's party.

use gatepay_core::body::BodyReading;
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::{Kind, Operation};
use gatepay_store::admission::{LedgerIntent, StoredText};

/// The numbers of a call, from the reading that judged its body; `None` if the call makes nothing that GatePay notifies
/// about.
pub(super) fn of(operation: &Operation, reading: &BodyReading<'_>) -> Option<Vec<LedgerIntent>> {
    if operation.kind == Kind::Read {
        return None;
    }
    let row = LedgerRow::of(operation)?;
    let currency = LedgerRow::called_currency(reading);
    let currency = currency.and_then(|currency| StoredText::parse(currency.as_str()));
    let intents = row.intents(reading).into_iter().filter_map(|key| {
        Some(LedgerIntent {
            key_kind: key.kind().as_str(),
            key: StoredText::parse(key.text())?,
            currency: currency.clone(),
        })
    });
    Some(intents.collect())
}
