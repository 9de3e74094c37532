//! Journal entries and their format: one JSON object per line, its link last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::Bytes;
use gatepay_core::amount::{BodyAmount, BodyAmounts};
use gatepay_core::{ChainLink, Signature, SigningKey, Stamp, payload};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::{ChainHead, ChainPosition};
use crate::process::timestamp::Rfc3339;

/// The ids that GatePay gives (schemas.md), by which disputes and notifications are matched to calls.
const IDS: [&str; 19] = [
    "prepayId",
    "transactionId",
    "merchantTradeNo",
    "refundRequestId",
    "refundId",
    "gateRefundId",
    "refundGateId",
    "batch_id",
    "merchant_batch_no",
    "withdraw_id",
    "order_id",
    "orderId",
    "chain",
    "address",
    "planNo",
    "subscriptionOrderNo",
    "deductOrderNo",
    "paymentOrderNo",
    "batchId",
];

/// A record and its time, in milliseconds since 1970.
pub(super) struct TimedEntry {
    pub(super) unix_ms: u64,
    pub(super) entry: JournalEntry,
}

/// The kinds of records.
pub(super) enum JournalEntry {
    /// A run begins, after the previous run.
    Begun {
        version: &'static str,
        follows: Option<PreviousEnd>,
        /// The kept head of an earlier run whose record was not in the journal as it was written.
        missing: Option<ChainHead>,
        /// Run numbers that starts took without writing a record.
        unused: Vec<u32>,
    },
    /// The record *before*: a call is about to be sent.
    Before(CallIntent),
    /// The record *after*: the outcome of the call.
    After(CallResult),
    /// Another configuration is in force.
    Configuration { hash: String, changes: Vec<String> },
    /// A party was suspended by hand, or is about to be resumed.
    Suspension(SuspensionAct),
    /// A notification is about to be assigned or sent again by hand.
    Notification(NotificationAct),
    /// A call asks for an approval, or an operator is about to decide about one.
    Approval(ApprovalAct),
    /// A notification has settled a call without a known outcome.
    Settled(CallSettlement),
    /// A money call was refused by a rule of the institution's.
    Refused(RuleRefusal),
    /// The journal can be written again, after this many milliseconds.
    Resumed { after_ms: u64 },
    /// The run ended in order.
    Ended,
}

/// The end of the previous run, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousEnd {
    /// The run's number.
    pub run: u32,
    /// The number of the run's last whole record, or 0 without a record.
    pub seq: u64,
    /// That record's link, as it was read.
    pub link: String,
    /// Bytes after that record that were no whole record: a write that the end of the process or machine interrupted.
    pub torn_bytes: u64,
    /// Whether that run's process still had the file open, so that more records may have come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
}

/// The contents of a record *before*: the caller and the call.
pub struct CallIntent {
    /// `X-Request-Id` of the answer: 32 hexadecimal digits.
    pub id: [u8; 32],
    /// The tenant or operator.
    pub party: String,
    /// The client id of the credential that signed the call.
    pub client_id: String,
    /// The caller's IP address.
    pub peer: IpAddr,
    /// The catalogue's name for the call.
    pub operation: String,
    /// The operation's kind.
    pub kind: &'static str,
    /// The account that the call is made for, if any.
    pub account: Option<String>,
    /// The value of the call's idempotency key.
    pub key: Option<String>,
    /// The amounts in the body.
    pub amounts: BodyAmounts,
    /// The caller's timestamp, as signed.
    pub timestamp: String,
    /// The caller's nonce, as signed.
    pub nonce: String,
    /// The caller's signature. With the digest it proves the call's contents to a holder of the caller's secret.
    pub signature: Signature,
    /// The body that was signed. Only its digest is written down.
    pub body: Bytes,
}

/// A suspension or resumption of a party by an operator of the proxy, on the admin address.
#[derive(Debug, Clone)]
pub struct SuspensionAct {
    /// The action taken.
    pub action: SuspensionAction,
    /// The tenant or operator that the action concerns.
    pub party: String,
    /// The name of the operator of the proxy.
    pub by: String,
    /// The IP address that the request came from.
    pub peer: IpAddr,
}

/// The settlement of a call without a known outcome by a notification.
#[derive(Debug, Clone)]
pub struct CallSettlement {
    /// The request id of the call.
    pub call: String,
    /// The tenant that made the call.
    pub party: String,
    /// The catalogue's name for the call.
    pub operation: String,
    /// The outcome: `found`, `failed` or `done`.
    pub outcome: &'static str,
    /// The status in the notification.
    pub status: String,
    /// The notification.
    pub event: String,
}

/// The refusal of a call by a rule of the institution's about money. Nothing of the call was sent.
#[derive(Debug, Clone)]
pub struct RuleRefusal {
    /// `X-Request-Id` of the answer: 32 hexadecimal digits.
    pub id: [u8; 32],
    /// The tenant or operator.
    pub party: String,
    /// The client id of the credential that signed the call.
    pub client_id: String,
    /// The caller's IP address.
    pub peer: IpAddr,
    /// The catalogue's name for the call.
    pub operation: String,
    /// The refusal's slug.
    pub refusal: &'static str,
    /// The rule, and the rest of its limit.
    pub rule: String,
}

/// An order of an operator of the proxy about notifications, on the admin address.
#[derive(Debug, Clone)]
pub struct NotificationAct {
    /// The action taken.
    pub action: NotificationAction,
    /// The notification, if it is one.
    pub event: Option<String>,
    /// The tenant that gets it, or gets them again.
    pub party: Option<String>,
    /// Notifications that came before this time, in milliseconds since 1970, are left out.
    pub since_ms: Option<u64>,
    /// The name of the operator of the proxy.
    pub by: String,
    /// The operator that has ordered the same before, if an order needs two.
    pub proposed_by: Option<String>,
    /// The IP address that the request came from.
    pub peer: IpAddr,
}

/// A call that needs an approval, or an order of an operator of the proxy about it.
#[derive(Debug, Clone)]
pub struct ApprovalAct {
    /// The action taken.
    pub action: ApprovalAction,
    /// The id of the approval.
    pub approval: String,
    /// The tenant or operator that makes the call.
    pub party: String,
    /// The catalogue's name for the call.
    pub operation: String,
    /// The name of the operator of the proxy; of a call, its party.
    pub by: String,
    /// The IP address that the request came from.
    pub peer: IpAddr,
}

/// The action that a record about approvals states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalAction {
    /// A call was refused until operators approve it.
    Ask,
    /// An operator is about to approve it.
    Approve,
    /// An operator is about to reject it.
    Reject,
    /// The announced order failed.
    OrderFailed,
    /// Whether the announced order took effect is not known.
    OrderUnknown,
}

/// The action that a record about notifications states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationAction {
    /// An operator orders an assignment that needs two operators.
    Propose,
    /// The announced proposal failed.
    ProposeFailed,
    /// Whether the announced proposal was stored is not known.
    ProposeUnknown,
    /// A notification is about to be given to a tenant.
    Assign,
    /// The announced assignment failed.
    AssignFailed,
    /// Whether the announced assignment took effect is not known.
    AssignUnknown,
    /// Dead notifications are about to be sent again.
    Replay,
    /// The announced replay failed.
    ReplayFailed,
    /// Whether the announced replay took effect, or a part of it, is not known.
    ReplayUnknown,
    /// Endpoints of a tenant are about to be turned on.
    Enable,
    /// The announced order to turn on failed.
    EnableFailed,
    /// Whether the announced order to turn on took effect, or a part of it, is not known.
    EnableUnknown,
}

/// The action that a suspension record states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionAction {
    /// The party was suspended.
    Suspend,
    /// An operator orders the resumption of a party that needs two operators.
    ProposeResume,
    /// The party is about to be resumed.
    Resume,
    /// The announced resumption failed.
    ResumeFailed,
    /// Whether the announced resumption took effect is not known.
    ResumeUnknown,
    /// Calls were halted; the party is the scope.
    Halt,
    /// An operator orders the end of a halt that needs two operators.
    ProposeEnd,
    /// A halt is about to end.
    EndHalt,
    /// The announced end failed.
    EndHaltFailed,
    /// Whether the announced end took effect is not known.
    EndHaltUnknown,
}

impl JournalEntry {
    /// Whether the recorded act may happen only once the record is written.
    pub(super) fn comes_first(&self) -> bool {
        match self {
            Self::Before(_) => true,
            Self::Suspension(act) => matches!(
                act.action,
                SuspensionAction::Resume | SuspensionAction::EndHalt
            ),
            Self::Notification(act) => matches!(
                act.action,
                NotificationAction::Propose
                    | NotificationAction::Assign
                    | NotificationAction::Replay
                    | NotificationAction::Enable
            ),
            Self::Approval(act) => {
                matches!(act.action, ApprovalAction::Approve | ApprovalAction::Reject)
            }
            _ => false,
        }
    }
}

/// The contents of a record *after*: the outcome of a call.
pub(super) struct CallResult {
    pub(super) id: [u8; 32],
    pub(super) party: String,
    pub(super) attempts: Vec<JournaledAttempt>,
    pub(super) status: Option<u16>,
    pub(super) code: Option<String>,
    pub(super) outcome: &'static str,
    pub(super) observed: Option<&'static str>,
    pub(super) answer: Bytes,
}

/// An upstream attempt, under a stamp of the institution's.
#[derive(Serialize)]
pub(super) struct JournaledAttempt {
    pub(super) client_id: String,
    pub(super) timestamp: String,
    pub(super) nonce: String,
}

impl CallResult {
    /// A result without an answer: the outcome is `unknown`.
    pub(super) fn of(before: &CallIntent) -> Self {
        Self {
            id: before.id,
            party: before.party.clone(),
            attempts: Vec::new(),
            status: None,
            code: None,
            outcome: "unknown",
            observed: None,
            answer: Bytes::new(),
        }
    }
}

/// The members of every line.
#[derive(Serialize)]
struct EntryLine<'a> {
    run: u32,
    seq: u64,
    time: Rfc3339,
    #[serde(flatten)]
    what: EntryBody<'a>,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum EntryBody<'a> {
    Begun {
        version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        follows: Option<&'a PreviousEnd>,
        #[serde(skip_serializing_if = "Option::is_none")]
        missing: Option<String>,
        #[serde(skip_serializing_if = "<[u32]>::is_empty")]
        unused: &'a [u32],
    },
    Before {
        id: &'a str,
        party: &'a str,
        client_id: &'a str,
        peer: IpAddr,
        operation: &'a str,
        kind: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        account: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "<[BodyAmount]>::is_empty")]
        amounts: &'a [BodyAmount],
        /// The count of amounts in lists with more currencies than are listed apart.
        #[serde(skip_serializing_if = "is_none")]
        unlisted_amounts: u32,
        timestamp: &'a str,
        nonce: &'a str,
        signature: String,
        signed_sha256: String,
        body_bytes: usize,
    },
    After {
        id: &'a str,
        party: &'a str,
        outcome: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        observed: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        attempts: &'a [JournaledAttempt],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        ids: BTreeMap<&'static str, String>,
    },
    Configuration {
        hash: &'a str,
        changes: &'a [String],
    },
    Suspension {
        action: SuspensionAction,
        party: &'a str,
        by: &'a str,
        peer: IpAddr,
    },
    Notification {
        action: NotificationAction,
        #[serde(skip_serializing_if = "Option::is_none")]
        event: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        party: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        since: Option<Rfc3339>,
        by: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        proposed_by: Option<&'a str>,
        peer: IpAddr,
    },
    Approval {
        action: ApprovalAction,
        approval: &'a str,
        party: &'a str,
        operation: &'a str,
        by: &'a str,
        peer: IpAddr,
    },
    Settled {
        id: &'a str,
        party: &'a str,
        operation: &'a str,
        outcome: &'a str,
        status: &'a str,
        event: &'a str,
    },
    Refused {
        id: &'a str,
        party: &'a str,
        client_id: &'a str,
        peer: IpAddr,
        operation: &'a str,
        refusal: &'a str,
        rule: &'a str,
    },
    Resumed {
        after_ms: u64,
    },
    Ended,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it a reference"
)]
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// Appends the record that follows `place`, and advances `place` to the new record.
pub(super) fn append(
    text: &mut Vec<u8>,
    place: &mut ChainPosition,
    key: &SigningKey,
    timed: &TimedEntry,
) {
    place.seq += 1;
    let begin = text.len();
    let line = EntryLine {
        run: place.run,
        seq: place.seq,
        time: Rfc3339(timed.unix_ms),
        what: what(&timed.entry),
    };
    // Strings and numbers always serialize into memory.
    let _ = serde_json::to_writer(&mut *text, &line);
    // The closing brace is written after the link.
    text.pop();
    place.link = place.link.next(key, &text[begin..]);
    text.extend_from_slice(LINK);
    text.extend_from_slice(place.link.to_string().as_bytes());
    text.extend_from_slice(b"\"}\n");
}

/// The bytes between a record and its link.
const LINK: &[u8] = b",\"link\":\"";
/// The bytes after the link, without the line feed.
const CLOSE: &[u8] = b"\"}";
/// Hexadecimal digits of a link.
const DIGITS: usize = 64;

/// Splits a line without its line feed into the chained bytes and the link.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], ChainLink)> {
    let rest = line.strip_suffix(CLOSE)?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    let record = rest.strip_suffix(LINK)?;
    Some((record, ChainLink::parse(str::from_utf8(digits).ok()?)?))
}

/// The record's number, as the line states it.
pub(super) fn seq(line: &[u8]) -> Option<u64> {
    numbers(line).map(|(_, seq)| seq)
}

/// The run and the record's number in it, as the line states them.
pub(super) fn numbers(line: &[u8]) -> Option<(u32, u64)> {
    #[derive(Deserialize)]
    struct NumberedAttempt {
        run: u32,
        seq: u64,
    }
    let numbered: NumberedAttempt = serde_json::from_slice(line).ok()?;
    Some((numbered.run, numbered.seq))
}

fn what(entry: &JournalEntry) -> EntryBody<'_> {
    match entry {
        JournalEntry::Begun {
            version,
            follows,
            missing,
            unused,
        } => EntryBody::Begun {
            version,
            follows: follows.as_ref(),
            missing: missing.map(|head| head.to_string()),
            unused,
        },
        JournalEntry::Before(before) => EntryBody::Before {
            id: digits(&before.id),
            party: &before.party,
            client_id: &before.client_id,
            peer: before.peer,
            operation: &before.operation,
            kind: before.kind,
            account: before.account.as_deref(),
            key: before.key.as_deref(),
            amounts: &before.amounts.listed,
            unlisted_amounts: before.amounts.unlisted,
            timestamp: &before.timestamp,
            nonce: &before.nonce,
            signature: String::from_utf8_lossy(&before.signature.to_hex()).into_owned(),
            signed_sha256: digest(before),
            body_bytes: before.body.len(),
        },
        JournalEntry::After(after) => EntryBody::After {
            id: digits(&after.id),
            party: &after.party,
            outcome: after.outcome,
            observed: after.observed,
            status: after.status,
            code: after.code.as_deref(),
            attempts: &after.attempts,
            ids: ids(&after.answer),
        },
        JournalEntry::Configuration { hash, changes } => EntryBody::Configuration { hash, changes },
        JournalEntry::Settled(settled) => settlement(settled),
        JournalEntry::Refused(refused) => refusal(refused),
        JournalEntry::Suspension(act) => EntryBody::Suspension {
            action: act.action,
            party: &act.party,
            by: &act.by,
            peer: act.peer,
        },
        JournalEntry::Notification(act) => order(act),
        JournalEntry::Approval(act) => approval(act),
        JournalEntry::Resumed { after_ms } => EntryBody::Resumed {
            after_ms: *after_ms,
        },
        JournalEntry::Ended => EntryBody::Ended,
    }
}

fn order(act: &NotificationAct) -> EntryBody<'_> {
    EntryBody::Notification {
        action: act.action,
        event: act.event.as_deref(),
        party: act.party.as_deref(),
        since: act.since_ms.map(Rfc3339),
        by: &act.by,
        proposed_by: act.proposed_by.as_deref(),
        peer: act.peer,
    }
}

fn approval(act: &ApprovalAct) -> EntryBody<'_> {
    EntryBody::Approval {
        action: act.action,
        approval: &act.approval,
        party: &act.party,
        operation: &act.operation,
        by: &act.by,
        peer: act.peer,
    }
}

fn settlement(settled: &CallSettlement) -> EntryBody<'_> {
    EntryBody::Settled {
        id: &settled.call,
        party: &settled.party,
        operation: &settled.operation,
        outcome: settled.outcome,
        status: &settled.status,
        event: &settled.event,
    }
}

fn refusal(refused: &RuleRefusal) -> EntryBody<'_> {
    EntryBody::Refused {
        id: digits(&refused.id),
        party: &refused.party,
        client_id: &refused.client_id,
        peer: refused.peer,
        operation: &refused.operation,
        refusal: refused.refusal,
        rule: &refused.rule,
    }
}

fn digest(before: &CallIntent) -> String {
    // The stamp parsed when the request was verified, so it parses again.
    Stamp::parse(before.timestamp.as_bytes(), before.nonce.as_bytes())
        .map(|stamp| hex::encode(payload::digest(&stamp, &before.body)))
        .unwrap_or_default()
}

fn digits(id: &[u8; 32]) -> &str {
    str::from_utf8(id).unwrap_or_default()
}

/// GatePay's ids in an answer, from `data` or else from the top level.
fn ids(answer: &[u8]) -> BTreeMap<&'static str, String> {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
        return BTreeMap::new();
    };
    let data = answer.get("data").filter(|data| data.is_object());
    let data = data.unwrap_or(&answer);
    let id = |name: &'static str| match data.get(name)? {
        Value::String(text) if !text.is_empty() => Some((name, text.chars().take(64).collect())),
        Value::Number(number) => Some((name, number.to_string())),
        _ => None,
    };
    IDS.into_iter().filter_map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::ledger_rows::{LedgerRow, ROWS};

    #[test]
    fn a_journal_keeps_every_id_by_which_the_ledger_knows_an_object() {
        let fields = ROWS.iter().flat_map(LedgerRow::own_id_fields);
        // The account of a sub-account is in the configuration.
        for field in fields.filter(|field| *field != "account_id") {
            let answer = serde_json::json!({ "status": "SUCCESS", "data": { field: "id of it" } });
            let kept = ids(answer.to_string().as_bytes());
            assert_eq!(
                kept.get(field).map(String::as_str),
                Some("id of it"),
                "{field}"
            );
        }
    }
}
