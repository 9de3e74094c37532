//! `GET /notifications`, `GET /notifications/ID` and `GET /ledger`: GatePay's notifications in the store, and the ledger.
//!
//! A body, and the beginning of a tenant's answer, are shown only if they are asked for: they name payers and amounts.
//! Of an endpoint the query is left out, since tenants put secrets there; a token is shown never.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::event::{EventId, EventState};
use gatepay_store::notifications::ledger::LedgerHolder;
use gatepay_store::notifications::listing::{AttemptRow, EventDetail, EventSummary, MOST_ON_PAGE};
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde::Serialize;

use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::app::App;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::Notifications;

/// A page of notifications.
#[derive(Serialize)]
struct NotificationPage {
    notifications: Vec<NotificationEntry>,
    /// The `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A notification, without its body.
#[derive(Serialize)]
struct NotificationEntry {
    id: String,
    received: String,
    kind: String,
    object: String,
    status: String,
    state: &'static str,
    /// Why it is in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine: Option<String>,
    tenant: Option<String>,
    /// The tenant's sub-account.
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// Whether it is of a former configuration of the tenant, which gets nothing any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    former: bool,
    /// The basis of the decision about the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    placed_by: Option<String>,
    /// Whether another final status of the object contradicts it.
    conflict: bool,
    /// Whether another body came before for the same status.
    changed: bool,
    attempts: u32,
    /// The time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<String>,
}

/// A notification with its attempts.
#[derive(Serialize)]
struct NotificationDetail {
    #[serde(flatten)]
    notification: NotificationEntry,
    /// The URL that the tenant's call named, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Whether GatePay called a URL that the proxy had made for one tenant.
    by_token: bool,
    deliveries: Vec<DeliveryEntry>,
    body_bytes: usize,
    #[serde(flatten)]
    body: Option<ShownBytes>,
}

/// One attempt to deliver.
#[derive(Serialize)]
struct DeliveryEntry {
    attempt: u32,
    at: String,
    instance: i64,
    took_ms: u64,
    outcome: String,
    status: Option<u16>,
    /// The beginning of the tenant's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

/// A body as text, or in base64 if it is no UTF-8.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ShownBytes {
    Body(String),
    BodyBase64(String),
}

/// The tenants that have a key.
#[derive(Serialize)]
struct LedgerPage {
    key: String,
    holders: Vec<HolderEntry>,
}

/// A row of the ledger.
#[derive(Serialize)]
struct HolderEntry {
    kind: &'static str,
    tenant: String,
    account: String,
    /// Counts the sub-accounts that the tenant id has had.
    incarnation: u64,
    at: String,
    operation: String,
    source: String,
    /// The outcome of the object that the key names, if a notification has proved it.
    outcome: Option<OutcomeEntry>,
}

/// The outcome of an object, with its basis.
#[derive(Serialize)]
struct OutcomeEntry {
    outcome: &'static str,
    status: String,
    notification: String,
    at: String,
}

/// Answers `GET /notifications`.
pub(super) async fn list(app: &App, query: Option<&str>) -> AdminResponse {
    let page = page(app, query).await;
    page.map_or_else(AdminFailure::answer, |page| json(StatusCode::OK, &page))
}

/// Answers `GET /notifications/ID`.
pub(super) async fn one(app: &App, id: &str, query: Option<&str>) -> AdminResponse {
    let detail = detail(app, id, query).await;
    detail.map_or_else(AdminFailure::answer, |detail| json(StatusCode::OK, &detail))
}

/// Answers `GET /ledger`.
pub(super) async fn ledger(app: &App, query: Option<&str>) -> AdminResponse {
    let page = holders(app, query).await;
    page.map_or_else(AdminFailure::answer, |page| json(StatusCode::OK, &page))
}

async fn page(app: &App, query: Option<&str>) -> Result<NotificationPage, AdminFailure> {
    let relay = relay(app)?;
    let [state, tenant, after] = query_fields(query, ["state", "tenant", "after"])?;
    let state = state.map(|word| event_state(&word)).transpose()?;
    let behind = || bad("after is the next of the page before\n");
    if let Some(id) = tenant {
        let tenant = self::tenant(relay, &id)?;
        let after = after.map_or(Ok(0), |after| after.parse::<i64>());
        let after = after.map_err(|_no_number| behind())?;
        let events = relay.calls().call(move |store| async move {
            store
                .tenant_events(&tenant, state, after, MOST_ON_PAGE)
                .await
        });
        let page = events.await.map_err(|error| away(&error))?;
        let events = page.events.into_iter();
        return Ok(NotificationPage {
            notifications: events
                .map(|(event, _body)| NotificationEntry::of(relay, event))
                .collect(),
            next: page.has_more.then(|| page.next.to_string()),
        });
    }
    let after = after.map(|after| EventId::parse(&after).ok_or_else(behind));
    let after = after.transpose()?;
    let events = relay
        .calls()
        .call(move |store| async move { store.list_events(state, after, MOST_ON_PAGE).await });
    let (events, next) = events.await.map_err(|error| away(&error))?;
    Ok(NotificationPage {
        notifications: events
            .into_iter()
            .map(|event| NotificationEntry::of(relay, event))
            .collect(),
        next: next.map(|id| id.to_string()),
    })
}

async fn detail(
    app: &App,
    id: &str,
    query: Option<&str>,
) -> Result<NotificationDetail, AdminFailure> {
    let relay = relay(app)?;
    let [body] = query_fields(query, ["body"])?;
    let shows_body = match body.as_deref() {
        None | Some("0") => false,
        Some("1") => true,
        Some(_) => return Err(bad("body is 1 to have the body, or is left out\n")),
    };
    let event = event(relay.calls(), event_id(id)?).await?;
    let url = event.url.as_deref();
    Ok(NotificationDetail {
        url: url.map(|url| url.split('?').next().unwrap_or_default().to_owned()),
        by_token: event.token.is_some(),
        deliveries: event
            .attempts
            .into_iter()
            .map(|attempt| DeliveryEntry::of(attempt, shows_body))
            .collect(),
        body_bytes: event.body.len(),
        body: shows_body.then(|| event.body.into()),
        notification: NotificationEntry::of(relay, event.summary),
    })
}

async fn holders(app: &App, query: Option<&str>) -> Result<LedgerPage, AdminFailure> {
    let relay = relay(app)?;
    let [kind, key] = query_fields(query, ["kind", "key"])?;
    let text = key.filter(|key| !key.is_empty());
    let text = text.ok_or(bad("say key=, and kind= if one kind of key is meant\n"))?;
    let kinds = match kind {
        None => LedgerKeyKind::ALL.to_vec(),
        Some(word) => vec![LedgerKeyKind::parse(&word).ok_or_else(|| {
            let words = LedgerKeyKind::ALL.iter().map(|kind| kind.as_str());
            let words = words.collect::<Vec<_>>().join(", ");
            AdminFailure(
                StatusCode::BAD_REQUEST,
                format!("a kind is one of {words}\n").into(),
            )
        })?],
    };
    let keys = kinds.iter().map(|kind| LedgerKey::written(*kind, &text));
    let keys: Option<Vec<LedgerKey>> = keys.collect();
    let keys = keys.ok_or(bad("a key is 1 to 256 bytes without control characters\n"))?;
    let asked = keys.clone();
    let owners = relay
        .calls()
        .call(move |store| async move { store.owners(&asked).await });
    let owners = owners.await.map_err(|error| away(&error))?;
    let rows = keys.iter().zip(owners).flat_map(|(key, holders)| {
        let kind = key.kind().as_str();
        holders
            .into_iter()
            .map(move |holder| HolderEntry::of(kind, holder))
    });
    Ok(LedgerPage {
        holders: rows.collect(),
        key: text.into_owned(),
    })
}

/// The part of the process that has the store of notifications.
pub(super) fn relay(app: &App) -> Result<&Arc<Notifications>, AdminFailure> {
    let missing = "proxy.toml has no [notifications]\n";
    let relay = app.notifications.as_ref();
    relay.ok_or(AdminFailure(StatusCode::CONFLICT, missing.into()))
}

/// A tenant of the configuration in force, or the operator that gets notifications, as the store has registered it.
pub(super) fn tenant(relay: &Notifications, id: &str) -> Result<TenantIncarnation, AdminFailure> {
    let registered = relay.registered_tenants().ok_or(AdminFailure(
        StatusCode::SERVICE_UNAVAILABLE,
        "the store has not registered the tenants yet\n".into(),
    ))?;
    let tenant = registered.addressee(id).cloned();
    tenant.ok_or(AdminFailure(
        StatusCode::NOT_FOUND,
        "no tenant has this id, and no operator that gets notifications\n".into(),
    ))
}

pub(super) fn event_id(text: &str) -> Result<EventId, AdminFailure> {
    EventId::parse(text).ok_or(bad("the id of a notification is a UUID\n"))
}

/// A notification with all that is kept of it.
pub(super) async fn event(calls: &StoreCalls, id: EventId) -> Result<EventDetail, AdminFailure> {
    let found = calls.call(move |store| async move { store.event(id).await });
    let found = found.await.map_err(|error| away(&error))?;
    found.ok_or(AdminFailure(
        StatusCode::NOT_FOUND,
        "no notification has this id, or it is kept no longer\n".into(),
    ))
}

fn event_state(word: &str) -> Result<EventState, AdminFailure> {
    EventState::parse(word).ok_or_else(|| {
        let words = EventState::ALL.iter().map(|state| state.as_str());
        let words = words.collect::<Vec<_>>().join(", ");
        AdminFailure(
            StatusCode::BAD_REQUEST,
            format!("a state is one of {words}\n").into(),
        )
    })
}

pub(super) fn bad(text: &'static str) -> AdminFailure {
    AdminFailure(StatusCode::BAD_REQUEST, text.into())
}

/// The failure of a call that reads.
pub(super) fn away(error: &StoreCallError) -> AdminFailure {
    AdminFailure(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("the store gave no answer: {error}\n").into(),
    )
}

/// Whether a notification is of a former incarnation of a tenant of the configuration in force.
pub(super) fn is_of_former(relay: &Notifications, event: &EventSummary) -> bool {
    let registered = relay.registered_tenants();
    let owner = event.tenant.as_ref();
    owner.zip(registered).is_some_and(|(owner, registered)| {
        let newest = registered.addressee(&owner.tenant);
        newest.is_some_and(|newest| newest != owner)
    })
}

impl NotificationEntry {
    fn of(relay: &Notifications, event: EventSummary) -> Self {
        let former = is_of_former(relay, &event);
        let (tenant, account) = match event.tenant {
            Some(tenant) => (Some(tenant.tenant), Some(tenant.account)),
            None => (None, None),
        };
        Self {
            id: event.id.to_string(),
            received: time(event.received_ms),
            kind: event.kind,
            object: event.object,
            status: event.status,
            state: event.state.as_str(),
            quarantine: event.quarantine,
            tenant,
            account,
            former,
            placed_by: event.placed_by,
            conflict: event.has_conflict,
            changed: event.is_changed,
            attempts: event.attempts,
            next_attempt: event.next_ms.map(time),
        }
    }
}

impl DeliveryEntry {
    fn of(attempt: AttemptRow, shows_answer: bool) -> Self {
        let answer = || String::from_utf8_lossy(&attempt.said).into_owned();
        Self {
            attempt: attempt.number,
            at: time(attempt.at_ms),
            instance: attempt.instance,
            took_ms: attempt.took_ms,
            status: attempt.status,
            answer: shows_answer.then(answer),
            outcome: attempt.outcome,
        }
    }
}

impl HolderEntry {
    fn of(kind: &'static str, holder: LedgerHolder) -> Self {
        Self {
            kind,
            tenant: holder.tenant.tenant,
            account: holder.tenant.account,
            incarnation: holder.tenant.incarnation,
            at: time(holder.at_ms),
            operation: holder.operation,
            source: holder.source,
            outcome: holder.proved.map(|proved| OutcomeEntry {
                outcome: proved.outcome.as_str(),
                status: proved.status,
                notification: proved.event.to_string(),
                at: time(proved.at_ms),
            }),
        }
    }
}

impl From<Vec<u8>> for ShownBytes {
    fn from(body: Vec<u8>) -> Self {
        match String::from_utf8(body) {
            Ok(text) => Self::Body(text),
            Err(error) => Self::BodyBase64(STANDARD.encode(error.as_bytes())),
        }
    }
}
