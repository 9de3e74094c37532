//! `audit show`.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use gatepay_core::Catalogue;
use gatepay_core::visible::visible;
use gatepay_proxy::journal::folder::DiskFolder;
use gatepay_proxy::journal::show::{
    CallFilter, FoundRecord, JournalEvent, JournalRecord, SearchResult, ShownCall, show,
};
use gatepay_proxy::journal::verify::VerifyReport;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{amounts, changes, ids, text};
use super::names::KnownNames;
use super::time::moment;
use super::{JournalPlace, csv};
use crate::command::{ExitStatus, complain, fail, say, say_json};

/// Find calls and changes: the party, the operation, the amount and the outcome.
/// Prints the records that match all given options: calls, changes of the configuration, suspensions by hand, and orders
/// about notifications and approvals. Options with several values may be repeated, and all but --key and --head take values separated
/// by commas; one matching value is enough. Only calls match --operation, --outcome, --key and --id; all others match
/// --tenant if they name that tenant.
/// The records are verified with the journal's key, as by `audit verify`. Altered records are marked and reported on
/// standard error, and the command exits with 4. Otherwise it exits with 0, with 1 if no record matches or the journal
/// cannot be read, and with 64 for bad usage, such as a name that is neither in the configuration nor in the journal.
/// With --dir and without --key-file the records are not verified, and standard error says so.
#[derive(Args)]
pub(crate) struct AuditShow {
    #[command(flatten)]
    place: JournalPlace,
    /// Only calls of this tenant or operator, and changes, suspensions and orders that name it.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    tenant: Vec<String>,
    /// Only calls with this idempotency key (merchantTradeNo, refundRequestId …) or id of GatePay's.
    #[arg(long, value_name = "VALUE")]
    key: Vec<String>,
    /// Only the request with this `X-Request-Id`.
    #[arg(long, value_name = "REQUEST", value_delimiter = ',')]
    id: Vec<String>,
    /// Only calls of this operation; `gatepay-proxy operations` lists the names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    operation: Vec<String>,
    /// Only records of this kind.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<RecordKind>,
    /// Only calls with this outcome. `open`: in flight, or the record of the end was lost in a crash.
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',')]
    outcome: Vec<OutcomeFilter>,
    /// Only records from this time on: RFC 3339, a date (UTC), or a time ago such as 2h or 30d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only records before this time, in the same form.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only the last matching records, at most this number.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<NonZeroUsize>,
    /// Print one JSON object per line: a call's two records as `before` and `after`, anything else under its kind.
    #[arg(long)]
    json: bool,
    /// Print a table as RFC 4180 has it, with a line of names.
    /// Cells that a spreadsheet would read as a formula begin with an apostrophe. If a call names several amounts, the
    /// first has columns of its own, and the others share `more_amounts`.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RecordKind {
    Write,
    Money,
    Configuration,
    Suspension,
    Notification,
    Approval,
    Settled,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutcomeFilter {
    Success,
    Failure,
    Unknown,
    Refused,
    #[value(name = "caller_left")]
    CallerLeft,
    #[value(name = "refused_unknown")]
    RefusedUnknown,
    Open,
}

impl AuditShow {
    pub(super) fn run(&self) -> Result<ExitStatus, ExitStatus> {
        let subject = self.place.subject()?;
        let key = subject.key.as_ref();
        let kept = key.map(|key| subject.heads(key)).transpose()?.flatten();
        let shown = show(&DiskFolder::at(&subject.folder), key, &self.wanted());
        let shown = shown.map_err(|error| subject.unreadable(&error))?;
        let standard = Catalogue::standard();
        KnownNames::of(&subject, &standard, &shown).check(&self.operation, &self.tenant)?;
        if self.csv {
            say(csv::header());
        }
        shown.found.iter().for_each(|found| self.print(found));
        let found = if shown.found.is_empty() {
            Err(fail("no record matches"))
        } else {
            Ok(ExitStatus::Fine)
        };
        let Some(key) = key else {
            complain(
                "note: the records are not verified: give the file of the journal's key with --key-file",
            );
            return found;
        };
        let report = subject.verify(&self.place, key, kept.as_ref())?;
        if is_whole(&shown, &report) {
            found
        } else {
            Err(ExitStatus::Altered)
        }
    }

    fn wanted(&self) -> CallFilter {
        CallFilter {
            parties: self.tenant.clone(),
            keys: self.key.clone(),
            ids: self.id.clone(),
            operations: self.operation.clone(),
            kinds: words(&self.kind),
            outcomes: words(&self.outcome),
            since: self.since,
            until: self.until,
            limit: self.limit.map(NonZeroUsize::get),
        }
    }

    fn print(&self, found: &FoundRecord) {
        match found {
            _ if self.csv => say(csv::row(found)),
            _ if self.json => say_json(&object(found)),
            found => lines_of(found).iter().for_each(say),
        }
    }
}

/// The command-line words of these values.
fn words(values: &[impl ValueEnum]) -> Vec<String> {
    let names = values.iter().filter_map(ValueEnum::to_possible_value);
    names.map(|name| name.get_name().to_owned()).collect()
}

/// Prints which shown records and parts of the journal are not as they were written; returns whether all are.
fn is_whole(shown: &SearchResult, report: &VerifyReport) -> bool {
    let is_altered = |found: &&FoundRecord| found.verified() == Some(false);
    let altered = shown.found.iter().filter(is_altered).count();
    if altered > 0 {
        complain(format_args!(
            "{altered} of {} records shown cannot be verified: they were altered, or follow a record that was",
            shown.found.len()
        ));
    }
    let findings = &report.findings;
    findings.iter().take(FINDINGS).for_each(complain);
    if !findings.is_empty() {
        complain(format_args!(
            "the journal is not as it was written, findings: {}; `audit verify` names all",
            findings.len()
        ));
    }
    altered == 0 && findings.is_empty()
}

/// The number of findings about the journal that are printed.
const FINDINGS: usize = 3;

/// A match as JSON.
pub(crate) fn object(found: &FoundRecord) -> Value {
    match found {
        FoundRecord::Call(ShownCall {
            before,
            after,
            settled: None,
            verified,
        }) => json!({"before": before, "after": after, "verified": verified}),
        FoundRecord::Call(ShownCall {
            before,
            after,
            settled,
            verified,
        }) => json!({"before": before, "after": after, "settled": settled, "verified": verified}),
        FoundRecord::Event(JournalEvent { record, verified }) => {
            let kind = record.get("record").and_then(Value::as_str);
            json!({kind.unwrap_or_default(): record, "verified": verified})
        }
    }
}

/// The lines about a match, harmless for terminals.
pub(crate) fn lines_of(found: &FoundRecord) -> Vec<String> {
    let (mut lines, verified) = match found {
        FoundRecord::Call(call) => (call_lines(call), call.verified),
        FoundRecord::Event(event) => (event_lines(event), event.verified),
    };
    if verified == Some(false) {
        lines.push("    NOT VERIFIED: altered, or after a record that was".to_owned());
    }
    lines
}

fn call_lines(call: &ShownCall) -> Vec<String> {
    let before = |name| shown(&call.before, name);
    let mut lines = vec![format!(
        "{}  {} {} key {} by {} ({}) from {}",
        before("time"),
        before("kind"),
        before("operation"),
        before("key"),
        before("party"),
        before("client_id"),
        before("peer"),
    )];
    let (amounts, unlisted) = amounts(&call.before);
    let amounts = amounts.iter().map(ToString::to_string);
    lines.extend(amounts.map(|amount| format!("    {}", visible(&amount))));
    lines.extend(unlisted.map(|unlisted| format!("    {unlisted} amounts in other currencies")));
    lines.push(format!(
        "    request {}  account {}  signed {} at {}, SHA-256 of the signed string {}",
        before("id"),
        before("account"),
        before("nonce"),
        before("timestamp"),
        before("signed_sha256"),
    ));
    lines.push(call.after.as_ref().map_or_else(
        || "    in flight, or the record of its end was lost in a crash: ask GatePay".to_owned(),
        end_line,
    ));
    if let Some(settled) = &call.settled {
        let settled = |name| shown(settled, name);
        lines.push(format!(
            "    settled at {}: {}, by {} of notification {}",
            settled("time"),
            settled("outcome"),
            settled("status"),
            settled("event"),
        ));
    }
    lines
}

fn end_line(after: &JournalRecord) -> String {
    let attempts = after.get("attempts").and_then(Value::as_array);
    let ids = ids(after).into_iter().map(|id| format!(", {id}"));
    format!(
        "    {} at {}: HTTP {}, code {}, attempts {}{}",
        shown(after, "outcome"),
        shown(after, "time"),
        shown(after, "status"),
        shown(after, "code"),
        attempts.map_or(0, Vec::len),
        visible(&ids.collect::<String>())
    )
}

fn event_lines(event: &JournalEvent) -> Vec<String> {
    let kind = shown(&event.record, "record");
    let hash = text(&event.record, "hash").unwrap_or_default();
    let line = format!(
        "{}  {kind} {}",
        shown(&event.record, "time"),
        visible(&hash)
    );
    let changes = changes(&event.record).into_iter();
    let changes = changes.map(|change| format!("    {}", visible(&change)));
    std::iter::once(line.trim_end().to_owned())
        .chain(changes)
        .collect()
}

/// A field as people read it: with `-` if it is missing.
fn shown(record: &JournalRecord, name: &str) -> String {
    let text = text(record, name);
    text.map_or_else(|| "-".to_owned(), |text| visible(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_proxy::journal::show::{EVENTS, OPEN};
    use gatepay_proxy::prom::outcome::RequestOutcome;

    #[test]
    fn every_outcome_and_kind_that_is_written_down_can_be_asked_for() {
        let ends = RequestOutcome::ALL.map(RequestOutcome::as_str);
        assert_eq!(
            words(OutcomeFilter::value_variants()),
            [&ends[..], &[OPEN]].concat()
        );
        assert_eq!(
            words(RecordKind::value_variants()),
            [&["write", "money"], &EVENTS[..]].concat()
        );
    }
}
