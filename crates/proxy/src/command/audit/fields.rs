//! The fields of a record, as `audit show` prints them.

use std::fmt;

use gatepay_proxy::journal::show::JournalRecord;
use serde_json::Value;

/// One amount of a call.
#[derive(Debug, Default)]
pub(super) struct ShownAmount {
    pub(super) amount: Option<String>,
    pub(super) currency: Option<String>,
    pub(super) count: Option<u64>,
    field: Option<String>,
}

/// The amounts of a record, and the number of its amounts in unlisted currencies.
pub(super) fn amounts(before: &JournalRecord) -> (Vec<ShownAmount>, Option<u64>) {
    let listed = before.get("amounts").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(Value::as_object);
    let amounts = listed.map(|amount| ShownAmount {
        amount: text(amount, "amount"),
        currency: text(amount, "currency"),
        // The journal writes the count only if it is more than 1.
        count: Some(amount.get("count").and_then(Value::as_u64).unwrap_or(1)),
        field: text(amount, "field"),
    });
    let unlisted = before.get("unlisted_amounts").and_then(Value::as_u64);
    (amounts.collect(), unlisted)
}

/// Formats an amount as in `3.5 USDT (withdraw_list.amount, 2 added)`.
impl fmt::Display for ShownAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |text: &Option<String>| text.as_deref().unwrap_or("-").to_owned();
        let (amount, currency) = (word(&self.amount), word(&self.currency));
        write!(f, "{amount} {currency} ({}", word(&self.field))?;
        match self.count {
            Some(count) if count != 1 => write!(f, ", {count} added)"),
            _ => f.write_str(")"),
        }
    }
}

/// The changes that an event made, one line each.
pub(super) fn changes(record: &JournalRecord) -> Vec<String> {
    let lines = record.get("changes").and_then(Value::as_array);
    let lines = lines.into_iter().flatten().filter_map(Value::as_str);
    let mut changes: Vec<String> = lines.map(str::to_owned).collect();
    if text(record, "record").as_deref() == Some("settled") {
        let word = |name| text(record, name).unwrap_or_default();
        changes.push(format!(
            "request {} ({}) of {}: {}, by {} of notification {}",
            word("id"),
            word("operation"),
            word("party"),
            word("outcome"),
            word("status"),
            word("event")
        ));
    }
    if text(record, "record").as_deref() == Some("refused") {
        let word = |name| text(record, name).unwrap_or_default();
        changes.push(format!(
            "request {} ({}) of {} from {}: {}, by the {}",
            word("id"),
            word("operation"),
            word("party"),
            word("peer"),
            word("refusal"),
            word("rule")
        ));
    }
    if let Some(action) = text(record, "action") {
        let word = |name| text(record, name).unwrap_or_default();
        let event = text(record, "event").map(|id| format!(" {id}"));
        let since = text(record, "since").map(|time| format!(" since {time}"));
        changes.push(format!(
            "{action}{} {}{} by {} from {}",
            event.unwrap_or_default(),
            word("party"),
            since.unwrap_or_default(),
            word("by"),
            word("peer")
        ));
    }
    changes
}

/// The ids that GatePay assigned, each as in `prepayId 77`.
pub(super) fn ids(after: &JournalRecord) -> Vec<String> {
    let ids = after.get("ids").and_then(Value::as_object);
    let ids = ids.into_iter().flatten();
    ids.map(|(name, id)| format!("{name} {}", id.as_str().unwrap_or_default()))
        .collect()
}

/// A field of a record: text as it is, anything else as JSON.
pub(super) fn text(record: &JournalRecord, name: &str) -> Option<String> {
    match record.get(name)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
