//! The found records as CSV (RFC 4180), safe to open in a spreadsheet.
//!
//! Callers choose parts of the text, and a spreadsheet takes a cell for a formula by its first character. So an
//! apostrophe is put before each `=`, `+`, `-` or `@` that begins a cell, or would begin a cell in a program that
//! divides lines elsewhere. Numbers stay numbers. Characters that end lines or steer terminals are written as escapes.

use std::borrow::Cow;

use gatepay_core::visible::visible;
use gatepay_proxy::journal::show::{FoundRecord, JournalEvent, JournalRecord, ShownCall};
use serde_json::Value;

use super::fields::{amounts, changes, ids, text};

/// The names of the columns. They are stable: new columns may only be added at the end.
const COLUMNS: [&str; 27] = [
    "time",
    "kind",
    "operation",
    "outcome",
    "amount",
    "currency",
    "count",
    "more_amounts",
    "party",
    "client_id",
    "peer",
    "account",
    "key",
    "request",
    "status",
    "code",
    "observed",
    "attempts",
    "ended",
    "gatepay_ids",
    "changes",
    "hash",
    "run",
    "seq",
    "signed_sha256",
    "verified",
    "settled",
];

/// The line with the names of the columns.
pub(super) fn header() -> String {
    line(COLUMNS.map(str::to_owned))
}

/// The line of a call or an event.
pub(super) fn row(found: &FoundRecord) -> String {
    match found {
        FoundRecord::Call(call) => of_call(call),
        FoundRecord::Event(event) => of_event(event),
    }
}

fn of_call(call: &ShownCall) -> String {
    let before = |name| text(&call.before, name).unwrap_or_default();
    let after = |name| {
        let after = call.after.as_ref();
        after
            .and_then(|after| text(after, name))
            .unwrap_or_default()
    };
    let (amounts, unlisted) = amounts(&call.before);
    let mut amounts = amounts.into_iter();
    let first = amounts.next().unwrap_or_default();
    let mut more: Vec<String> = amounts.map(|amount| amount.to_string()).collect();
    more.extend(unlisted.map(|unlisted| format!("{unlisted} in other currencies")));
    let attempts = call.after.as_ref().and_then(|after| after.get("attempts"));
    let attempts = attempts.and_then(Value::as_array).map(Vec::len);
    line([
        before("time"),
        before("kind"),
        before("operation"),
        call.outcome().to_owned(),
        first.amount.unwrap_or_default(),
        first.currency.unwrap_or_default(),
        first
            .count
            .map(|count| count.to_string())
            .unwrap_or_default(),
        more.join("; "),
        before("party"),
        before("client_id"),
        before("peer"),
        before("account"),
        before("key"),
        before("id"),
        after("status"),
        after("code"),
        after("observed"),
        attempts
            .map(|attempts| attempts.to_string())
            .unwrap_or_default(),
        after("time"),
        call.after
            .as_ref()
            .map(|after| ids(after).join("; "))
            .unwrap_or_default(),
        String::new(),
        String::new(),
        before("run"),
        before("seq"),
        before("signed_sha256"),
        verified(call.verified),
        call.settled.as_ref().map(settlement).unwrap_or_default(),
    ])
}

fn of_event(event: &JournalEvent) -> String {
    let mut cells = [const { String::new() }; COLUMNS.len()];
    let mut set = |column: &str, text: String| {
        if let Some(at) = COLUMNS.iter().position(|name| *name == column) {
            cells[at] = text;
        }
    };
    set("kind", text(&event.record, "record").unwrap_or_default());
    for column in ["time", "party", "peer", "hash", "run", "seq"] {
        set(column, text(&event.record, column).unwrap_or_default());
    }
    set("changes", changes(&event.record).join("; "));
    if text(&event.record, "record").as_deref() == Some("settled") {
        for (column, name) in [("request", "id"), ("operation", "operation")] {
            set(column, text(&event.record, name).unwrap_or_default());
        }
        set("settled", settlement(&event.record));
    }
    if text(&event.record, "record").as_deref() == Some("refused") {
        for (column, name) in [
            ("request", "id"),
            ("operation", "operation"),
            ("client_id", "client_id"),
        ] {
            set(column, text(&event.record, name).unwrap_or_default());
        }
    }
    set("verified", verified(event.verified));
    line(cells)
}

/// The settlement of a call: outcome, status, time and notification.
fn settlement(settled: &JournalRecord) -> String {
    let words = ["outcome", "status", "time", "event"].map(|name| text(settled, name));
    words.map(Option::unwrap_or_default).join(" ")
}

fn verified(verified: Option<bool>) -> String {
    match verified {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    }
    .to_owned()
}

/// Joins cells into a line that ends in CR; the caller prints the LF after it.
fn line(cells: [String; COLUMNS.len()]) -> String {
    let cells = cells.map(|text| cell(&text));
    cells.join(",") + "\r"
}

fn cell(text: &str) -> String {
    let visible = visible(text);
    let safe = harmless(&visible);
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    if safe.chars().all(is_plain) {
        return safe.into_owned();
    }
    format!("\"{}\"", safe.replace('"', "\"\""))
}

/// The text with an apostrophe before every part that a spreadsheet would calculate.
fn harmless(text: &str) -> Cow<'_, str> {
    if is_number(text) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for piece in text.split_inclusive([',', ';', '|', '\t']) {
        let begins = piece.trim_start_matches(|c: char| c == '"' || c.is_whitespace());
        if begins.starts_with(FORMULA) {
            safe.push('\'');
        }
        safe.push_str(piece);
    }
    Cow::Owned(safe)
}

/// The characters that begin formulas, in half and full width.
const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];

/// Whether the text is digits, with an optional decimal point between them and an optional minus before them.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = text.strip_prefix('-').unwrap_or(text);
    match number.split_once('.') {
        Some((whole, places)) => digits(whole) && digits(places),
        None => digits(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_has_to_be() {
        for (text, expected) in [
            ("", ""),
            ("1.21", "1.21"),
            ("T-1001", "T-1001"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("a;b", "\"a;b\""),
            ("two\r\nlines", "\"two\\r\\nlines\""),
            ("tab\there", "\"tab\\there\""),
            ("\u{1b}[2J\u{9b}", "\"\\u{1b}[2J\\u{9b}\""),
        ] {
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }

    #[test]
    fn no_cell_is_a_formula() {
        for (text, expected) in [
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-1+cmd|' /C calc'!A0", "\"'-1+cmd|' /C calc'!A0\""),
            (" =1", "\"' =1\""),
            ("＝1", "\"'＝1\""),
            ("a;=1", "\"a;'=1\""),
            ("a,\"=1", "\"a,'\"\"=1\""),
            ("\t=1", "\"\\t=1\""),
            ("-5", "-5"),
            ("-5.00", "-5.00"),
            ("-5e3", "'-5e3"),
            ("-", "'-"),
            ("--5", "'--5"),
            ("1=1", "\"1=1\""),
        ] {
            let expected = match expected.strip_prefix('\'') {
                Some(_) => format!("\"{expected}\""),
                None => expected.to_owned(),
            };
            assert_eq!(cell(text), expected, "{text:?}");
        }
    }

    #[test]
    fn every_line_has_as_many_cells_as_the_header_and_ends_with_cr() {
        let event = JournalEvent {
            record: serde_json::from_str(r#"{"record":"configuration","time":"t"}"#).unwrap(),
            verified: Some(false),
        };
        let row = row(&FoundRecord::Event(event));
        assert_eq!(row.split(',').count(), header().split(',').count());
        assert!(row.starts_with("t,configuration,") && row.ends_with(",no,\r"));
    }
}
