//! `GET /notifications/endpoints`: the tenants' endpoints as the store has them.
//!
//! A URL is shown without its query, since tenants put secrets there.

use std::sync::Arc;

use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::delivery::{EndpointKey, EndpointOffReason, EndpointState};
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde::Serialize;

use crate::admin::notification_view::{away, relay, tenant};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::app::App;
use crate::notify::Notifications;
use crate::notify::deliver::breaker_rules::{BreakerAllowance, allowance};

/// The endpoints to which an event has gone or is to go.
#[derive(Serialize)]
struct EndpointPage {
    endpoints: Vec<EndpointEntry>,
}

/// An endpoint.
#[derive(Serialize)]
struct EndpointEntry {
    tenant: String,
    account: String,
    /// `null` for the URL in the tenant's file.
    url: Option<String>,
    /// Why nothing is sent: `gone`, `removed` or `operator`.
    off: Option<&'static str>,
    breaker: BreakerEntry,
    waiting: u64,
    dead: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_waiting: Option<String>,
}

/// The breaker of an endpoint.
#[derive(Serialize)]
pub(super) struct BreakerEntry {
    /// `closed`, `open`, or `probing` once the next attempt is to find out whether the endpoint works again.
    pub(super) state: &'static str,
    /// Failed attempts since the last success.
    pub(super) failures: u32,
    /// When the next attempt is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<String>,
}

impl BreakerEntry {
    pub(super) fn of(state: &EndpointState, now_ms: u64) -> Self {
        let word = match allowance(&state.breaker, now_ms) {
            BreakerAllowance::All => "closed",
            BreakerAllowance::Nothing => "open",
            BreakerAllowance::Probe => "probing",
        };
        Self {
            state: word,
            failures: state.breaker.failures,
            until: state.breaker.open_until_ms.map(time),
        }
    }
}

/// Answers `GET /notifications/endpoints`.
pub(super) async fn list(app: &App, query: Option<&str>) -> AdminResponse {
    let page = page(app, query).await;
    page.map_or_else(AdminFailure::answer, |page| json(StatusCode::OK, &page))
}

async fn page(app: &App, query: Option<&str>) -> Result<EndpointPage, AdminFailure> {
    let relay = relay(app)?;
    let [of] = query_fields(query, ["tenant"])?;
    let of = of.map(|id| tenant(relay, &id)).transpose()?;
    let (states, now_ms) = states(relay).await?;
    let is_wanted =
        |state: &EndpointState| of.as_ref().is_none_or(|of| state.endpoint.tenant == *of);
    let mut endpoints: Vec<EndpointEntry> = states
        .into_iter()
        .filter(is_wanted)
        .map(|state| EndpointEntry::of(state, now_ms))
        .collect();
    endpoints.sort_by(|one, other| (&one.tenant, &one.url).cmp(&(&other.tenant, &other.url)));
    Ok(EndpointPage { endpoints })
}

/// The endpoints in the store, and the store's clock.
async fn states(relay: &Notifications) -> Result<(Vec<EndpointState>, u64), AdminFailure> {
    let counts = relay
        .calls()
        .call(|store| async move { store.notification_counts().await });
    let counts = counts.await.map_err(|error| away(&error))?;
    Ok((counts.endpoints, counts.now_ms))
}

/// The endpoints of a tenant, each with its state: that in its file first, then those of its calls. An endpoint that no
/// event has gone to has no state.
pub(super) async fn of_tenant(
    relay: &Arc<Notifications>,
    owner: &TenantIncarnation,
    url: Option<&str>,
) -> Result<(Vec<(EndpointKey, Option<EndpointState>)>, u64), AdminFailure> {
    let (states, now_ms) = states(relay).await?;
    let mut states: Vec<EndpointState> = states
        .into_iter()
        .filter(|state| state.endpoint.tenant == *owner)
        .collect();
    states.sort_by(|one, other| one.endpoint.url.cmp(&other.endpoint.url));
    let mut endpoints: Vec<_> = states
        .into_iter()
        .map(|state| (state.endpoint.clone(), Some(state)))
        .collect();
    let configured = EndpointKey {
        tenant: owner.clone(),
        url: None,
    };
    if endpoints
        .iter()
        .all(|(endpoint, _)| *endpoint != configured)
    {
        endpoints.insert(0, (configured.clone(), None));
    }
    if let Some(url) = url {
        let own = relay
            .registered_tenants()
            .and_then(|tenants| tenants.configured_url(&owner.tenant));
        endpoints.retain(|(endpoint, _)| {
            let own = own.as_deref().filter(|_| *endpoint == configured);
            let named = endpoint.url.as_deref().or(own);
            named.is_some_and(|it| shown(it) == url || it == url)
        });
        if endpoints.is_empty() {
            return Err(AdminFailure(
                StatusCode::NOT_FOUND,
                "this URL is not the tenant's notifications.url, and no event has gone to it: GET /notifications/endpoints lists those that are known\n".into(),
            ));
        }
    }
    Ok((endpoints, now_ms))
}

/// A URL without its query.
pub(super) fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

impl EndpointEntry {
    fn of(state: EndpointState, now_ms: u64) -> Self {
        Self {
            off: state.off.map(EndpointOffReason::as_str),
            breaker: BreakerEntry::of(&state, now_ms),
            url: state
                .endpoint
                .url
                .as_deref()
                .map(|url| shown(url).to_owned()),
            tenant: state.endpoint.tenant.tenant,
            account: state.endpoint.tenant.account,
            waiting: state.waiting,
            dead: state.dead,
            oldest_waiting: state.oldest_waiting_ms.map(time),
        }
    }
}
