//! `GET /find?id=`: what the store knows of one id, in the order of time.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_store::found::{FoundInStore, FoundOpenCall, FoundSpend};
use gatepay_store::notifications::event::EventState;
use gatepay_store::notifications::ledger::LedgerHolder;
use gatepay_store::notifications::listing::{AttemptRow, EventSummary};
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::notification_view::{away, bad};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json as answer};
use crate::app::App;

/// The longest id, in bytes.
const LONGEST_ID: usize = 256;

/// The story of an id.
#[derive(Serialize)]
struct Story {
    id: String,
    /// In the order of time.
    entries: Vec<StoryEntry>,
    /// What the store does not have.
    note: &'static str,
}

/// One thing that happened.
#[derive(Serialize)]
struct StoryEntry {
    at: String,
    source: &'static str,
    tenant: Option<String>,
    account: Option<String>,
    /// In plain words.
    says: String,
    #[serde(flatten)]
    fields: Value,
}

/// Answers `GET /find`.
pub(super) async fn find(app: &App, query: Option<&str>) -> AdminResponse {
    let story = story(app, query).await;
    story.map_or_else(AdminFailure::answer, |story| answer(StatusCode::OK, &story))
}

async fn story(app: &App, query: Option<&str>) -> Result<Story, AdminFailure> {
    let cluster = app.cluster.as_ref().ok_or(AdminFailure(
        StatusCode::CONFLICT,
        "proxy.toml has no [store]: `gatepay-proxy find` reads this machine's journal\n".into(),
    ))?;
    let [id] = query_fields(query, ["id"])?;
    let fits = |id: &str| (1..=LONGEST_ID).contains(&id.len()) && !id.contains(char::is_control);
    let id = id.filter(|id| fits(id));
    let id = id.ok_or(bad("say id=: 1 to 256 bytes without control characters\n"))?;
    let id = id.into_owned();
    let wanted = id.clone();
    let found = cluster
        .calls()
        .call(move |store| async move { store.find(&wanted).await });
    let found = found.await.map_err(|error| away(&error))?;
    Ok(Story {
        entries: entries(found, &id),
        note: "the caller's address, the amounts and GatePay's answers are in the audit journal of the machine that had the \
               call: gatepay-proxy find",
        id,
    })
}

fn entries(found: FoundInStore, id: &str) -> Vec<StoryEntry> {
    // The key of a refund has its order beside its number.
    let beside = |key: &str| match key {
        key if key == id => String::new(),
        key => format!(" {key}"),
    };
    let mut entries: Vec<(u64, StoryEntry)> = Vec::new();
    for (key, holder) in &found.holders {
        entries.push(of_holder(key, &beside(key.text()), holder));
    }
    entries.extend(found.open_calls.into_iter().map(of_open_call));
    let spends = found.spends.into_iter();
    entries.extend(spends.map(|spend| {
        let beside = beside(&spend.key);
        of_spend(spend, &beside)
    }));
    for (event, attempts) in &found.events {
        entries.push(of_event(event));
        entries.extend(attempts.iter().map(|attempt| of_attempt(event, attempt)));
    }
    entries.sort_by_key(|(at_ms, _)| *at_ms);
    entries.into_iter().map(|(_, entry)| entry).collect()
}

fn of_holder(key: &LedgerKey, beside: &str, holder: &LedgerHolder) -> (u64, StoryEntry) {
    let kind = key.kind().as_str();
    let outcome = holder.proved.as_ref();
    let proved = outcome.map_or_else(String::new, |proved| {
        let (outcome, status) = (proved.outcome.as_str(), &proved.status);
        format!("; {outcome} by {status} of notification {}", proved.event)
    });
    let (operation, source) = (&holder.operation, &holder.source);
    let entry = StoryEntry {
        at: time(holder.at_ms),
        source: "ledger",
        tenant: Some(holder.tenant.tenant.clone()),
        account: Some(holder.tenant.account.clone()),
        says: format!("{kind}{beside} of {operation}, from {source}{proved}"),
        fields: json!({
            "kind": kind,
            "key": key.text(),
            "operation": operation,
            "from": source,
            "outcome": outcome.map(|proved| proved.outcome.as_str()),
            "notification": outcome.map(|proved| proved.event.to_string()),
        }),
    };
    (holder.at_ms, entry)
}

fn of_open_call(call: FoundOpenCall) -> (u64, StoryEntry) {
    let entry = StoryEntry {
        at: time(call.since_ms),
        source: "open_call",
        tenant: Some(call.holder.tenant),
        account: Some(call.holder.account),
        says: format!(
            "{} of request {} has no known outcome yet",
            call.operation, call.call
        ),
        fields: json!({"operation": call.operation, "request": call.call}),
    };
    (call.since_ms, entry)
}

fn of_spend(spend: FoundSpend, beside: &str) -> (u64, StoryEntry) {
    let (amount, currency) = (&spend.amount, &spend.currency);
    let state = match (spend.executed_ms, spend.open_attempts) {
        (Some(_), _) => "executed",
        (None, 0) => "counted, its end is not known",
        (None, _) => "reserved",
    };
    let entry = StoryEntry {
        at: time(spend.at_ms),
        source: "spend",
        tenant: Some(spend.holder.tenant),
        account: Some(spend.holder.account),
        says: format!(
            "{amount} {currency} by {}{beside}: {state}",
            spend.counted_as
        ),
        fields: json!({
            "key": spend.key,
            "amount": amount,
            "currency": currency,
            "counted_as": spend.counted_as,
            "executed": spend.executed_ms.map(time),
            "open_attempts": spend.open_attempts,
        }),
    };
    (spend.at_ms, entry)
}

fn of_event(event: &EventSummary) -> (u64, StoryEntry) {
    let tenant = event.tenant.as_ref();
    let (kind, status, state) = (&event.kind, &event.status, event.state);
    let reason = event
        .quarantine
        .as_ref()
        .filter(|_| state == EventState::Quarantined);
    let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let entry = StoryEntry {
        at: time(event.received_ms),
        source: "notification",
        tenant: tenant.map(|tenant| tenant.tenant.clone()),
        account: tenant.map(|tenant| tenant.account.clone()),
        says: format!(
            "GatePay notified {kind} {status} of {}: {state}{reason}, notification {}",
            event.object, event.id
        ),
        fields: json!({
            "notification": event.id.to_string(),
            "kind": kind,
            "object": event.object,
            "status": status,
            "state": state.as_str(),
            "conflict": event.has_conflict,
        }),
    };
    (event.received_ms, entry)
}

fn of_attempt(event: &EventSummary, attempt: &AttemptRow) -> (u64, StoryEntry) {
    let tenant = event.tenant.as_ref();
    let status = attempt
        .status
        .map_or_else(String::new, |status| format!(", HTTP {status}"));
    let entry = StoryEntry {
        at: time(attempt.at_ms),
        source: "delivery",
        tenant: tenant.map(|tenant| tenant.tenant.clone()),
        account: tenant.map(|tenant| tenant.account.clone()),
        says: format!(
            "delivery {} of notification {}: {}{status}, {} ms",
            attempt.number, event.id, attempt.outcome, attempt.took_ms
        ),
        fields: json!({
            "notification": event.id.to_string(),
            "attempt": attempt.number,
            "outcome": attempt.outcome,
            "status": attempt.status,
            "took_ms": attempt.took_ms,
            "instance": attempt.instance,
        }),
    };
    (attempt.at_ms, entry)
}
