//! Statement view: a statement as JSON, for operators and for the tenant itself.

use std::collections::BTreeMap;

use gatepay_store::engine::statements::{CLOSING_MS, StatementSubject};
use gatepay_store::statement::daily_statement::{
    CorrectionLine, DailyStatement, LineTotal, StatementLine,
};
use gatepay_tenancy::facts::time;
use serde::Serialize;

use crate::cluster::store_calls::{LongReader, StoreCallError, StoreCalls};
use crate::cluster::usage_tally::{DELIVERED, DELIVERIES};

/// A statement.
#[derive(Serialize)]
pub struct StatementView {
    tenant: String,
    account: Option<String>,
    day: String,
    begins: String,
    ends: String,
    /// Whether the day goes on, has just ended, or is closed: then the statement changes no more.
    state: &'static str,
    /// Writes and money calls that were admitted on the day, as they stood at its end.
    calls: Vec<CallEntry>,
    /// Reads, and requests that the proxy refused.
    requests: Vec<RequestEntry>,
    notifications_delivered: u64,
    /// The second with the most requests.
    peak: Option<PeakEntry>,
    /// Corrections that this day's results make to calls of earlier days.
    corrections: Vec<CorrectionEntry>,
    /// The last counts of processes that ended on this day without leaving: requests and deliveries of about a second after
    /// each of these times are not counted. Calls are.
    counts_lost_after: Vec<String>,
}

#[derive(Serialize)]
struct CallEntry {
    /// The sub-account, where the statement is about several.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    operation: String,
    outcome: &'static str,
    #[serde(flatten)]
    total: TotalEntry,
}

#[derive(Serialize)]
struct CorrectionEntry {
    day: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    operation: String,
    was: &'static str,
    is: &'static str,
    #[serde(flatten)]
    total: TotalEntry,
}

#[derive(Serialize)]
struct TotalEntry {
    calls: u64,
    /// Money calls whose amounts could not be read exactly.
    #[serde(skip_serializing_if = "is_zero")]
    calls_without_amount: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    amounts: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RequestEntry {
    operation: String,
    outcome: String,
    requests: u64,
}

#[derive(Serialize)]
struct PeakEntry {
    requests_per_second: u64,
    at: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl StatementView {
    /// Whether the store has nothing of the party on the day.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
            && self.requests.is_empty()
            && self.corrections.is_empty()
            && self.notifications_delivered == 0
            && self.peak.is_none()
    }
}

/// Reads a statement; `None` if the store has no such day.
pub async fn read(
    calls: &StoreCalls,
    reader: LongReader,
    subject: StatementSubject,
) -> Result<Option<StatementView>, StoreCallError> {
    let asked = subject.clone();
    let statement =
        calls.call_in_turn(
            reader,
            move |store| async move { store.statement(&asked).await },
        );
    Ok(statement.await?.map(|statement| view(&subject, statement)))
}

/// Whether a text is a date: `2026-11-27`.
pub fn is_date(text: &str) -> bool {
    let is_digit = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(is_digit)
}

fn view(subject: &StatementSubject, statement: DailyStatement) -> StatementView {
    let DailyStatement {
        day,
        now_ms,
        calls,
        counts,
        peak,
        corrections,
        losses_ms,
    } = statement;
    let state = match now_ms.checked_sub(day.ends_ms) {
        None => "open",
        Some(since) if since < CLOSING_MS => "closing",
        Some(_) => "closed",
    };
    let is_of_several = subject.account.is_none();
    let is_delivery =
        |operation: &str, outcome: &str| (operation, outcome) == (DELIVERIES, DELIVERED);
    let deliveries = counts
        .iter()
        .filter(|it| is_delivery(&it.operation, &it.outcome));
    StatementView {
        tenant: subject.party.as_str().to_owned(),
        account: subject.account.as_ref().map(|it| it.as_str().to_owned()),
        day: day.date,
        begins: time(day.begins_ms),
        ends: time(day.ends_ms),
        state,
        notifications_delivered: deliveries.map(|it| it.calls).sum(),
        calls: call_entries(calls, is_of_several),
        requests: counts
            .into_iter()
            .filter(|it| !is_delivery(&it.operation, &it.outcome))
            .map(|it| RequestEntry {
                operation: it.operation,
                outcome: it.outcome,
                requests: it.calls,
            })
            .collect(),
        peak: peak.map(|(requests_per_second, second)| PeakEntry {
            requests_per_second,
            at: time(second * 1000),
        }),
        corrections: correction_entries(corrections, is_of_several),
        counts_lost_after: losses_ms.into_iter().map(time).collect(),
    }
}

fn call_entries(calls: BTreeMap<StatementLine, LineTotal>, is_of_several: bool) -> Vec<CallEntry> {
    let calls = calls.into_iter();
    let entries = calls.map(|(line, total)| CallEntry {
        account: Some(line.account).filter(|_| is_of_several),
        operation: line.operation,
        outcome: line.standing.as_str(),
        total: total.into(),
    });
    entries.collect()
}

fn correction_entries(
    corrections: BTreeMap<CorrectionLine, LineTotal>,
    is_of_several: bool,
) -> Vec<CorrectionEntry> {
    let corrections = corrections.into_iter();
    let entries = corrections.map(|(line, total)| CorrectionEntry {
        day: line.date,
        account: Some(line.account).filter(|_| is_of_several),
        operation: line.operation,
        was: line.before.as_str(),
        is: line.now.as_str(),
        total: total.into(),
    });
    entries.collect()
}

impl From<LineTotal> for TotalEntry {
    fn from(total: LineTotal) -> Self {
        let amounts = total.amounts.into_iter();
        Self {
            calls: total.calls,
            calls_without_amount: total.unread,
            amounts: amounts
                .map(|(currency, sum)| (currency, sum.to_string()))
                .collect(),
        }
    }
}
