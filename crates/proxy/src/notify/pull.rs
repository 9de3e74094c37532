//! Pull: a tenant, or the operator that gets notifications, asks for its own notifications, and has its dead ones sent
//! again.
//!
//! The tenant is the caller that was verified, in the incarnation that has the sub-account of the call. No parameter names
//! a tenant.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gatepay_core::ClientId;
use gatepay_core::notification::Notification;
use gatepay_core::ownership::TenantIncarnation;
use gatepay_core::query_text;
use gatepay_store::notifications::event::{EventId, EventState};
use gatepay_store::notifications::listing::{
    EventSummary, MOST_ON_PAGE, RedeliveryReport, ReplayFilter,
};
use gatepay_tenancy::PartyRef;
use gatepay_tenancy::notifications::DeliveredClientId;
use serde::{Deserialize, Serialize};

use crate::cluster::store_calls::StoreCallError;
use crate::generation::Generation;
use crate::notify::Notifications;
use crate::notify::deliver::signed_delivery::DeliveryCredentials;
use crate::notify::owner::registered_tenants::INSTITUTION_ACCOUNT;

/// The events that are read from the store at once. A body has 1 MiB at most.
const AT_ONCE: u32 = 8;
/// The number of bytes of bodies after which a page ends.
const PAGE_BYTES: usize = 1 << 20;
/// The most reads for a page, since with a filter a read may find nothing.
const MOST_READS: u32 = 16;

/// A tenant that pulls.
pub struct PullingTenant {
    incarnation: TenantIncarnation,
    /// The client id for a body in place of the institution's; `None` if the tenant wants bodies as GatePay sent them.
    client_id: Option<ClientId>,
}

/// The parameters of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct PullRequest {
    state: Option<EventState>,
    after: i64,
    limit: u32,
}

/// The body of a request for a replay: one of the two.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnReplay {
    /// One notification.
    id: Option<String>,
    /// All that came since this time, in milliseconds since 1970.
    since: Option<u64>,
}

/// A page of a tenant's notifications.
#[derive(Debug, Serialize)]
pub struct PulledPage {
    notifications: Vec<PulledEvent>,
    /// The `after` of the next page.
    next: String,
    /// Whether there are more now.
    has_more: bool,
}

/// A notification, as its tenant sees it.
#[derive(Debug, Serialize)]
struct PulledEvent {
    id: String,
    received: u64,
    state: &'static str,
    conflict: bool,
    attempts: u32,
    /// The body as it is delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// The result of a replay.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct OwnReplayed {
    /// Notifications that wait for delivery again.
    waiting: u32,
    /// Notifications that a later status has superseded.
    superseded: u32,
}

impl PullRequest {
    /// Reads a query.
    pub fn read(query: Option<&str>) -> Result<Self, &'static str> {
        let mut request = Self {
            state: None,
            after: 0,
            limit: MOST_ON_PAGE,
        };
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = query_text(value);
            match name {
                "after" => {
                    let after = value.parse().ok().filter(|after| *after >= 0);
                    request.after = after.ok_or("after must be the next of the page before")?;
                }
                "limit" => {
                    let limit = value.parse().ok();
                    let limit = limit.filter(|limit| (1..=MOST_ON_PAGE).contains(limit));
                    request.limit = limit.ok_or("limit must be 1 to 100")?;
                }
                "state" => {
                    let state = EventState::parse(&value).filter(|state| state.has_owner());
                    let meant = "state must be waiting, delivered, superseded or dead";
                    request.state = Some(state.ok_or(meant)?);
                }
                _ => return Err("the parameters are after, limit and state"),
            }
        }
        Ok(request)
    }
}

impl PullingTenant {
    /// The tenant with this id in the generation that judged its call. `None` while the store has not registered it with
    /// the sub-account that it has there.
    pub fn of(
        relay: &Notifications,
        generation: &Generation,
        id: &str,
        now_ms: u64,
    ) -> Option<Self> {
        let position = generation.registry.position(id)?;
        let party = generation.registry.at(position);
        let account = match party {
            PartyRef::Tenant(tenant) => tenant.sub_account.as_str(),
            PartyRef::Operator(_) => INSTITUTION_ACCOUNT,
        };
        let registered = relay.registered_tenants()?;
        let incarnation = registered.addressee(id)?;
        if incarnation.account != account {
            return None;
        }
        let settings = party.notifications();
        let as_sent = settings.is_some_and(|it| it.client_id == DeliveredClientId::AsSent);
        let credentials = party.party().credentials.iter().enumerate();
        let used = credentials.map(|(index, dated)| {
            let usage = generation.used(position, index);
            (dated, usage.last_anywhere_ms())
        });
        let configured = settings.and_then(|it| it.credential.as_ref());
        let chosen = DeliveryCredentials::choose(used, configured, now_ms)?;
        Some(Self {
            incarnation: incarnation.clone(),
            client_id: (!as_sent).then(|| chosen.signing.client_id.clone()),
        })
    }

    /// A page of the tenant's notifications.
    pub async fn page(
        &self,
        relay: &Notifications,
        request: &PullRequest,
    ) -> Result<PulledPage, StoreCallError> {
        let (state, mut after, mut left) = (request.state, request.after, request.limit);
        let (mut notifications, mut bytes, mut reads) = (Vec::new(), 0, 0);
        loop {
            let (tenant, most) = (self.incarnation.clone(), left.min(AT_ONCE));
            let events = relay.calls().call(move |store| async move {
                store.tenant_events(&tenant, state, after, most).await
            });
            let page = events.await?;
            reads += 1;
            after = page.next;
            for (summary, body) in page.events {
                bytes += body.len();
                left -= 1;
                notifications.push(self.event(&summary, body));
            }
            let is_full = left == 0 || bytes >= PAGE_BYTES || reads >= MOST_READS;
            if !page.has_more || is_full {
                return Ok(PulledPage {
                    notifications,
                    next: after.to_string(),
                    has_more: page.has_more,
                });
            }
        }
    }

    fn event(&self, summary: &EventSummary, body: Vec<u8>) -> PulledEvent {
        let body = match &self.client_id {
            None => body,
            Some(own) => {
                let read = Notification::read(&body);
                read.for_tenant(&body, own).into_owned()
            }
        };
        let (body, body_base64) = match String::from_utf8(body) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        PulledEvent {
            id: summary.id.to_string(),
            received: summary.received_ms,
            state: summary.state.as_str(),
            conflict: summary.has_conflict,
            attempts: summary.attempts,
            body,
            body_base64,
        }
    }

    /// The filter for a replay. `None` for a notification that is not the tenant's.
    async fn filter(
        &self,
        relay: &Notifications,
        wanted: &OwnReplay,
    ) -> Result<Option<ReplayFilter>, StoreCallError> {
        if let Some(since_ms) = wanted.since {
            let tenant = self.incarnation.clone();
            return Ok(Some(ReplayFilter::Tenant { tenant, since_ms }));
        }
        let Some(id) = wanted.id.as_deref().and_then(EventId::parse) else {
            return Ok(None);
        };
        let event = relay
            .calls()
            .call(move |store| async move { store.event(id).await });
        let owner = event.await?.and_then(|event| event.summary.tenant);
        let is_own = owner.as_ref() == Some(&self.incarnation);
        Ok(is_own.then_some(ReplayFilter::Event(id)))
    }

    /// Has dead notifications of the tenant sent again. Those of others, and unknown ones, count as none.
    pub async fn replay(
        &self,
        relay: &Notifications,
        wanted: &OwnReplay,
    ) -> Result<OwnReplayed, StoreCallError> {
        let mut replayed = OwnReplayed::default();
        let Some(filter) = self.filter(relay, wanted).await? else {
            return Ok(replayed);
        };
        loop {
            let filter = filter.clone();
            let step = relay
                .calls()
                .call(move |store| async move { store.replay(&filter).await });
            let RedeliveryReport {
                waiting,
                superseded,
                has_more,
            } = step.await?;
            replayed.waiting = replayed.waiting.saturating_add(waiting);
            replayed.superseded = replayed.superseded.saturating_add(superseded);
            if !has_more {
                relay.wake.wake();
                return Ok(replayed);
            }
        }
    }
}

impl OwnReplay {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, &'static str> {
        let read: Self = serde_json::from_slice(body).map_err(|_unread| MEANT)?;
        match (&read.id, read.since) {
            (Some(_), None) | (None, Some(_)) => Ok(read),
            _ => Err(MEANT),
        }
    }
}

const MEANT: &str =
    "the body must be {\"id\":\"…\"}, or {\"since\":…} with a time in milliseconds since 1970";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_cursor_limit_and_state() {
        let read = PullRequest::read;
        let all = PullRequest {
            state: None,
            after: 0,
            limit: 100,
        };
        assert_eq!(read(None), Ok(all));
        let some = PullRequest {
            state: Some(EventState::Dead),
            after: 7,
            limit: 1,
        };
        assert_eq!(read(Some("limit=1&after=7&state=dead")), Ok(some));
        for wrong in [
            "tenant=globex",
            "after=-1",
            "after=x",
            "limit=0",
            "limit=101",
            "state=quarantined",
            "state=operator",
            "state=",
        ] {
            assert!(read(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replay_is_of_one_notification_or_since_a_time() {
        let read = |body: &str| OwnReplay::read(body.as_bytes()).is_ok();
        assert!(read("{\"id\":\"x\"}") && read("{\"since\":0}"));
        for wrong in [
            "",
            "{}",
            "{\"id\":\"x\",\"since\":0}",
            "{\"since\":0,\"tenant\":\"globex\"}",
            "{\"since\":-1}",
        ] {
            assert!(!read(wrong), "{wrong}");
        }
    }
}
