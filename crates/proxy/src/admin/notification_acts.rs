//! `POST /-/notifications/assign`, `replay` and `enable`: an operator's orders about notifications.
//!
//! Each is first written to the audit journal, and is not carried out if that fails, since an assignment shows a tenant
//! GatePay's news about a payment. Each runs to its end even if the caller leaves.

use std::sync::Arc;

use gatepay_core::notification::Notification;
use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::delivery::EndpointState;
use gatepay_store::notifications::event::{EventId, EventState, ProposalResult};
use gatepay_store::notifications::listing::{EventSummary, RedeliveryReport, ReplayFilter};
use gatepay_store::notifications::settlement::{ObjectNews, SettlementReport};
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;

use crate::admin::approver_count::{approvers, named_operator};
use crate::admin::notification_endpoints::{of_tenant, shown};
use crate::admin::notification_order::{NotificationOrder, conflict};
use crate::admin::notification_view::{bad, event, event_id, is_of_former, relay, tenant};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::{AdminActor, finished};
use crate::admin::test_notification;
use crate::app::App;
use crate::journal::entry::{NotificationAct, NotificationAction};
use crate::notify::deliver::test_delivery;
use crate::notify::settling;

/// The answer to an assignment.
#[derive(Serialize)]
struct AssignReply {
    id: String,
    tenant: String,
    state: &'static str,
    /// Whether another final status of the object contradicts it.
    conflict: bool,
    /// The operators that have ordered it: one, or two if `caps.approvals` is 2.
    approved_by: Vec<String>,
    /// How many other operators it waits for.
    needs: u64,
    /// Whether the audit journal holds it; `null` without a journal.
    journaled: Option<bool>,
}

/// The answer to a replay.
#[derive(Serialize)]
struct ReplayReply {
    /// Notifications that wait for delivery again.
    waiting: u32,
    /// Notifications that a later status has superseded.
    superseded: u32,
    /// Whether the audit journal holds it; `null` without a journal.
    journaled: Option<bool>,
}

/// The answer to an order to turn endpoints on.
#[derive(Serialize)]
struct EnableReply {
    tenant: String,
    /// The endpoints that are on now; that of the tenant's file is `null`. URLs are without their query.
    enabled: Vec<Option<String>>,
    /// The notifications that are due now.
    waiting: u64,
    /// Whether the audit journal holds it; `null` without a journal.
    journaled: Option<bool>,
}

/// Gives a notification to a tenant: one in quarantine, of the operators, or that a former configuration of the tenant with the same
/// sub-account has not got.
pub(super) async fn assign(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    match read_assignment(app, query, actor).await {
        Err(failure) => failure.answer(),
        Ok((order, needed, (id, owner, state))) => {
            let task = tokio::spawn(async move {
                let assigned = if needed > 1 {
                    order.propose(id, owner, state).await
                } else {
                    order.assign(id, owner).await
                };
                assigned.map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
            });
            finished(task).await
        }
    }
}

/// Sends dead notifications again.
pub(super) async fn replay(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    match read_replay(app, query, actor).await {
        Err(failure) => failure.answer(),
        Ok((order, filter)) => {
            let task = tokio::spawn(async move {
                let replayed = order.replay(filter).await;
                replayed.map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
            });
            finished(task).await
        }
    }
}

/// Turns endpoints on that are off or whose breaker is open.
pub(super) async fn enable(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    match read_enable(app, query, actor).await {
        Err(failure) => failure.answer(),
        Ok((order, held)) => {
            let task = tokio::spawn(async move {
                let enabled = order.enable(held).await;
                enabled.map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
            });
            finished(task).await
        }
    }
}

async fn read_assignment(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> Result<
    (
        NotificationOrder,
        u32,
        (EventId, TenantIncarnation, EventState),
    ),
    AdminFailure,
> {
    let relay = relay(app)?;
    let [Some(id), Some(owner)] = query_fields(query, ["id", "tenant"])? else {
        return Err(bad("say id= and tenant=\n"));
    };
    let (id, owner) = (event_id(&id)?, tenant(relay, &owner)?);
    let needed = approvers(app).await?;
    if needed > 1 && named_operator(app, &actor.name).is_none() {
        return Err(AdminFailure(
            StatusCode::FORBIDDEN,
            "caps.approvals is 2: two operators assign, each with the token of an [[admin.operator]]\n".into(),
        ));
    }
    let EventSummary {
        state,
        tenant: had_by,
        ..
    } = event(relay.calls(), id).await?.summary;
    let is_open = matches!(state, EventState::Quarantined | EventState::Operator);
    let is_undelivered = matches!(state, EventState::Waiting | EventState::Dead);
    let returns = is_undelivered && had_by.is_some_and(|former| is_former(&former, &owner));
    if !is_open && !returns {
        return Err(conflict(format!(
            "only a notification in quarantine, of the operators, or undelivered to a former configuration of the tenant with \
             the same sub-account is assigned: this one is {state}\n"
        )));
    }
    let act = NotificationAct {
        action: NotificationAction::Assign,
        event: Some(id.to_string()),
        party: Some(owner.tenant.clone()),
        since_ms: None,
        by: actor.name.to_string(),
        proposed_by: None,
        peer: actor.peer,
    };
    Ok((
        NotificationOrder::new(app, relay.calls(), act),
        needed,
        (id, owner, state),
    ))
}

async fn read_replay(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> Result<(NotificationOrder, ReplayFilter), AdminFailure> {
    let relay = relay(app)?;
    let mut act = NotificationAct {
        action: NotificationAction::Replay,
        event: None,
        party: None,
        since_ms: None,
        by: actor.name.to_string(),
        proposed_by: None,
        peer: actor.peer,
    };
    let filter = match query_fields(query, ["id", "tenant", "since"])? {
        [Some(id), None, None] => {
            let id = event_id(&id)?;
            let summary = event(relay.calls(), id).await?.summary;
            if summary.state != EventState::Dead {
                let state = summary.state;
                return Err(conflict(format!(
                    "only a dead notification is sent again: this one is {state}\n"
                )));
            }
            if is_of_former(relay, &summary) {
                return Err(conflict(
                    "it is of a former configuration of the tenant, which gets nothing any more: assign it if the tenant has the \
                     same sub-account again\n"
                        .to_owned(),
                ));
            }
            act.event = Some(id.to_string());
            act.party = summary.tenant.map(|tenant| tenant.tenant);
            ReplayFilter::Event(id)
        }
        [None, Some(id), Some(since)] => {
            let tenant = tenant(relay, &id)?;
            let since_ms = moment(&since)?;
            act.party = Some(tenant.tenant.clone());
            act.since_ms = Some(since_ms);
            ReplayFilter::Tenant { tenant, since_ms }
        }
        _ => return Err(bad("say id=, or tenant= and since=\n")),
    };
    Ok((NotificationOrder::new(app, relay.calls(), act), filter))
}

/// Reads an order to turn on the endpoints of a tenant that the store holds back. Those that the configuration holds back
/// would be off again at once.
async fn read_enable(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> Result<(NotificationOrder, Vec<EndpointState>), AdminFailure> {
    let relay = relay(app)?;
    let [Some(id), url] = query_fields(query, ["tenant", "url"])? else {
        return Err(bad(
            "say tenant=, and url= for one URL of a call of the tenant's\n",
        ));
    };
    let owner = tenant(relay, &id)?;
    let (endpoints, _) = of_tenant(relay, &owner, url.as_deref()).await?;
    let states = endpoints.into_iter().filter_map(|(_, state)| state);
    let held: Vec<EndpointState> = states
        .filter(|state| state.off.is_some() || state.breaker.open_until_ms.is_some())
        .collect();
    if held.is_empty() {
        return Err(conflict(
            "no endpoint of the tenant is off, and no breaker is open\n".to_owned(),
        ));
    }
    let inputs = test_notification::inputs(app, relay, &owner.tenant);
    for state in &held {
        let hold = test_delivery::hold(&inputs, &state.endpoint);
        let hold = hold.map_err(|error| conflict(format!("not done: {error}\n")))?;
        if let Some(hold) = hold {
            let advice = test_notification::hold_advice(hold, &state.endpoint);
            return Err(conflict(format!("not done: {advice}\n")));
        }
    }
    let act = NotificationAct {
        action: NotificationAction::Enable,
        event: None,
        party: Some(owner.tenant),
        since_ms: None,
        by: actor.name.to_string(),
        proposed_by: None,
        peer: actor.peer,
    };
    Ok((NotificationOrder::new(app, relay.calls(), act), held))
}

/// Whether a tenant is a former incarnation of another one, with the same sub-account.
fn is_former(former: &TenantIncarnation, newest: &TenantIncarnation) -> bool {
    former.tenant == newest.tenant
        && former.account == newest.account
        && former.incarnation < newest.incarnation
}

/// Milliseconds since 1970, written so or as RFC 3339.
fn moment(text: &str) -> Result<u64, AdminFailure> {
    let written = || {
        text.parse::<Timestamp>()
            .ok()?
            .as_millisecond()
            .try_into()
            .ok()
    };
    let moment = text.parse().ok().or_else(written);
    moment.ok_or(bad(
        "since is a time as RFC 3339 writes it, or in milliseconds since 1970\n",
    ))
}

impl NotificationOrder {
    /// The assignment, if another operator has ordered the same; else it waits for one.
    async fn propose(
        mut self,
        id: EventId,
        owner: TenantIncarnation,
        state: EventState,
    ) -> Result<AssignReply, AdminFailure> {
        self.act.action = NotificationAction::Propose;
        let journaled = self.journaled(NotificationAction::ProposeFailed).await?;
        let (tenant, by) = (owner.clone(), self.act.by.clone());
        let proposed = self
            .calls
            .call(move |store| async move { store.propose(id, &tenant, &by).await });
        let proposed = proposed.await.map_err(|error| {
            let unknown = NotificationAction::ProposeUnknown;
            self.failed(&error, (NotificationAction::ProposeFailed, unknown))
        })?;
        match proposed {
            ProposalResult::Confirmed { by } => {
                self.act.action = NotificationAction::Assign;
                self.act.proposed_by = Some(by);
                self.assign(id, owner).await
            }
            ProposalResult::Noted => {
                let tenant = owner.tenant;
                tracing::warn!(event = %id, %tenant, operator = %self.act.by, "an assignment waits for another operator");
                Ok(AssignReply {
                    id: id.to_string(),
                    tenant,
                    state: state.as_str(),
                    conflict: false,
                    approved_by: vec![self.act.by],
                    needs: 1,
                    journaled,
                })
            }
            ProposalResult::Differs { by, tenant } => {
                self.note(NotificationAction::ProposeFailed);
                Err(conflict(format!(
                    "not assigned: {by} has ordered it for {tenant}, and that order lasts a day\n"
                )))
            }
        }
    }

    async fn assign(
        self,
        id: EventId,
        owner: TenantIncarnation,
    ) -> Result<AssignReply, AdminFailure> {
        let journaled = self.journaled(NotificationAction::AssignFailed).await?;
        let approved_by: Vec<String> = self
            .act
            .proposed_by
            .iter()
            .chain([&self.act.by])
            .cloned()
            .collect();
        let body = event(&self.calls, id).await?.body;
        let news = settling::news(id, &owner, &Notification::read(&body));
        let proved = news.clone();
        let (by, tenant, to) = (approved_by.join(", "), owner.tenant.clone(), owner);
        let assigned = self.calls.call(move |store| async move {
            let assigned = store.assign(id, (&to, None), &by, proved.as_ref());
            assigned.await
        });
        let (arrival, effects) = match assigned.await {
            Ok(Some(it)) if it.arrival.is_owned() => (it.arrival, it.report),
            Ok(stays) => {
                self.note(NotificationAction::AssignFailed);
                let why = match stays {
                    Some(_) => "the tenant has another sub-account by now",
                    None => "it has left quarantine meanwhile",
                };
                return Err(conflict(format!("not assigned: {why}\n")));
            }
            Err(error) => {
                let unknown = NotificationAction::AssignUnknown;
                return Err(self.failed(&error, (NotificationAction::AssignFailed, unknown)));
            }
        };
        self.wake();
        if let Some(news) = &news {
            self.settled(news, &effects).await;
        }
        tracing::warn!(event = %id, %tenant, operator = %self.act.by, peer = %self.act.peer, "a notification was assigned by hand");
        Ok(AssignReply {
            id: id.to_string(),
            tenant,
            state: arrival.state.as_str(),
            conflict: arrival.has_conflict,
            approved_by,
            needs: 0,
            journaled,
        })
    }

    /// Tells what the assigned notification has settled. The assignment stands without what it proves about spends.
    async fn settled(&self, news: &ObjectNews, effects: &SettlementReport) {
        let Some(relay) = &self.app.notifications else {
            return;
        };
        let settling = relay.settling(self.app.journal.as_ref());
        if let Err(error) = settling.settled(news, effects).await {
            tracing::warn!(%error, event = %news.event, "the store has not taken the spends that an assigned notification settles");
        }
    }

    async fn replay(self, filter: ReplayFilter) -> Result<ReplayReply, AdminFailure> {
        let journaled = self.journaled(NotificationAction::ReplayFailed).await?;
        let mut report = RedeliveryReport::default();
        loop {
            let filter = filter.clone();
            let step = self
                .calls
                .call(move |store| async move { store.replay(&filter).await });
            let step = step.await.map_err(|error| {
                let unknown = NotificationAction::ReplayUnknown;
                self.failed(&error, (NotificationAction::ReplayFailed, unknown))
            })?;
            report.waiting = report.waiting.saturating_add(step.waiting);
            report.superseded = report.superseded.saturating_add(step.superseded);
            if !step.has_more {
                break;
            }
        }
        self.wake();
        let RedeliveryReport {
            waiting,
            superseded,
            ..
        } = report;
        let (by, peer) = (&self.act.by, &self.act.peer);
        tracing::warn!(event = ?self.act.event, tenant = ?self.act.party, waiting, superseded, operator = %by, %peer, "notifications are sent again");
        Ok(ReplayReply {
            waiting,
            superseded,
            journaled,
        })
    }

    async fn enable(self, held: Vec<EndpointState>) -> Result<EnableReply, AdminFailure> {
        let journaled = self.journaled(NotificationAction::EnableFailed).await?;
        let (mut enabled, mut waiting) = (Vec::new(), 0);
        for state in held {
            let endpoint = state.endpoint.clone();
            let turned = self
                .calls
                .call(move |store| async move { store.turn_endpoint_on(&endpoint).await });
            turned.await.map_err(|error| {
                let unknown = NotificationAction::EnableUnknown;
                self.failed(&error, (NotificationAction::EnableFailed, unknown))
            })?;
            let url = state.endpoint.url.as_deref();
            enabled.push(url.map(|url| shown(url).to_owned()));
            waiting += state.waiting;
        }
        self.wake();
        let (tenant, by, peer) = (&self.act.party, &self.act.by, &self.act.peer);
        tracing::warn!(?tenant, waiting, operator = %by, %peer, "the tenant's endpoint was turned on by hand");
        Ok(EnableReply {
            tenant: tenant.clone().unwrap_or_default(),
            enabled,
            waiting,
            journaled,
        })
    }
}
