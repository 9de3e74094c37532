//! `GET /approvals`, `POST /-/approvals/approve` and `reject`: what operators have to decide about, and their orders.
//!
//! An order is first written to the audit journal, and is not carried out if that fails. It runs to its end even if the
//! caller leaves.

use std::sync::Arc;

use gatepay_store::admission::StoredText;
use gatepay_store::caps::approval::{Approval, ApprovalId, ApprovalOrder, ApprovalState};
use gatepay_tenancy::settings::ApprovalRule;
use http::StatusCode;
use serde::Serialize;
use tokio::time::timeout;

use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::{AdminActor, DISK, finished};
use crate::app::App;
use crate::cluster::Cluster;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::journal::entry::{ApprovalAct, ApprovalAction};
use crate::process::timestamp::Rfc3339;

/// The most approvals that are listed.
const MOST: u32 = 1_000;

/// The approvals in one state, or in any.
#[derive(Serialize)]
struct ApprovalPage {
    approvals: Vec<ApprovalEntry>,
}

/// An approval.
#[derive(Serialize)]
struct ApprovalEntry {
    id: String,
    /// `waiting`, `approved`, `rejected`, `used`, or `expired`.
    state: &'static str,
    party: String,
    account: String,
    /// The operation; `/payout` follows if a refund pays out.
    operation: String,
    key: Option<String>,
    amounts: String,
    targets: String,
    body_sha256: String,
    asked: Rfc3339,
    until: Rfc3339,
    approved_by: Vec<String>,
    /// How many other operators it waits for.
    needs: usize,
    /// Whether the audit journal holds the order; `null` without a journal, or an order.
    journaled: Option<bool>,
}

/// An operator's order about an approval.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The call may pass.
    Approve,
    /// It may not.
    Reject,
}

/// Lists approvals, the newest first.
pub(super) async fn list(app: &App, query: Option<&str>) -> AdminResponse {
    listed(app, query)
        .await
        .map_or_else(AdminFailure::answer, |page| json(StatusCode::OK, &page))
}

/// Takes an operator's order.
pub(super) async fn decide(
    app: &Arc<App>,
    query: Option<&str>,
    (actor, decision): (AdminActor, Decision),
) -> AdminResponse {
    match ApprovalDecision::read(app, query, (actor, decision)).await {
        Err(failure) => failure.answer(),
        Ok(order) => {
            let task = tokio::spawn(async move {
                let decided = order.carry_out().await;
                decided.map_or_else(AdminFailure::answer, |entry| json(StatusCode::OK, &entry))
            });
            finished(task).await
        }
    }
}

async fn listed(app: &App, query: Option<&str>) -> Result<ApprovalPage, AdminFailure> {
    let [state] = match query {
        None => [None],
        Some(_) => query_fields(query, ["state"])?,
    };
    let calls = calls(app)?;
    let approvals = calls.call(|store| async move { store.approvals(MOST).await });
    let approvals = approvals.await.map_err(|error| away(&error))?;
    let entries = approvals.iter().map(|it| entry(app, it, None));
    let is_asked = |entry: &ApprovalEntry| state.as_deref().is_none_or(|it| it == entry.state);
    Ok(ApprovalPage {
        approvals: entries.filter(is_asked).collect(),
    })
}

/// An order that was read and may be carried out.
struct ApprovalDecision {
    app: Arc<App>,
    calls: StoreCalls,
    id: ApprovalId,
    decision: Decision,
    act: ApprovalAct,
}

impl ApprovalDecision {
    async fn read(
        app: &Arc<App>,
        query: Option<&str>,
        (actor, decision): (AdminActor, Decision),
    ) -> Result<Self, AdminFailure> {
        let calls = calls(app)?;
        let mut operators = app.settings.admin.operators.iter();
        if !operators.any(|operator| operator.name == actor.name && operator.approves) {
            return Err(AdminFailure(
                StatusCode::FORBIDDEN,
                "approvals need the token of an [[admin.operator]] with approve = true\n".into(),
            ));
        }
        let [id] = query_fields(query, ["id"])?;
        let id = id.as_deref().and_then(ApprovalId::parse).ok_or_else(|| {
            let text = "say id=, 16 hexadecimal digits as the refusal tells them\n";
            AdminFailure(StatusCode::BAD_REQUEST, text.into())
        })?;
        let Approval { of, .. } = found(&calls, id).await?;
        let act = ApprovalAct {
            action: match decision {
                Decision::Approve => ApprovalAction::Approve,
                Decision::Reject => ApprovalAction::Reject,
            },
            approval: id.to_string(),
            party: of.party.as_str().to_owned(),
            operation: of.counted_as,
            by: actor.name.to_string(),
            peer: actor.peer,
        };
        Ok(Self {
            app: Arc::clone(app),
            calls,
            id,
            decision,
            act,
        })
    }

    async fn carry_out(self) -> Result<ApprovalEntry, AdminFailure> {
        let journaled = self.journaled().await?;
        let (id, decision, needed) = (self.id, self.decision, needed(&self.app));
        let by = StoredText::parse(&self.act.by).unwrap_or_default();
        let ordered = self.calls.call(move |store| async move {
            match decision {
                Decision::Approve => store.approve(id, &by, needed).await,
                Decision::Reject => store.reject(id).await,
            }
        });
        let failure = |status, text: &'static str| AdminFailure(status, text.into());
        let failure = match ordered.await {
            Ok(ApprovalOrder::Taken) => {
                let approval = found(&self.calls, id).await?;
                let (party, by) = (&self.act.party, &self.act.by);
                let state = approval.state.as_str();
                tracing::warn!(approval = %id, %party, operator = %by, state, "an operator has decided about a call");
                return Ok(entry(&self.app, &approval, journaled));
            }
            Ok(ApprovalOrder::NotFound) => failure(StatusCode::NOT_FOUND, NOT_FOUND),
            Ok(ApprovalOrder::Closed) => failure(
                StatusCode::CONFLICT,
                "it is used, rejected, or over: the call has to ask anew\n",
            ),
            Ok(ApprovalOrder::OwnCall) => failure(
                StatusCode::FORBIDDEN,
                "no operator approves a call of its own\n",
            ),
            Err(error) => {
                let action = match error {
                    StoreCallError::NotJoined => ApprovalAction::OrderFailed,
                    StoreCallError::Store(_) => ApprovalAction::OrderUnknown,
                };
                self.note(action);
                return Err(away(&error));
            }
        };
        self.note(ApprovalAction::OrderFailed);
        Err(failure)
    }

    /// Writes the order down; returns whether there is a journal. Without the record the order is not carried out.
    async fn journaled(&self) -> Result<Option<bool>, AdminFailure> {
        let Some(journal) = &self.app.journal else {
            return Ok(None);
        };
        let written = timeout(DISK, journal.approval(self.act.clone())).await;
        if written.is_ok_and(|written| written.is_ok()) {
            return Ok(Some(true));
        }
        self.note(ApprovalAction::OrderFailed);
        Err(AdminFailure(
            StatusCode::SERVICE_UNAVAILABLE,
            "not done: the audit journal cannot be written; ask again once it can\n".into(),
        ))
    }

    fn note(&self, action: ApprovalAction) {
        if let Some(journal) = &self.app.journal {
            let act = self.act.clone();
            journal.note_approval(ApprovalAct { action, ..act });
        }
    }
}

const NOT_FOUND: &str = "no approval has this id\n";

fn calls(app: &App) -> Result<StoreCalls, AdminFailure> {
    let cluster = app.cluster.as_ref().ok_or_else(|| {
        let text = "approvals need a [store] in proxy.toml\n";
        AdminFailure(StatusCode::CONFLICT, text.into())
    })?;
    Ok(cluster.calls().clone())
}

async fn found(calls: &StoreCalls, id: ApprovalId) -> Result<Approval, AdminFailure> {
    let found = calls.call(move |store| async move { store.approval(id).await });
    let found = found.await.map_err(|error| away(&error))?;
    found.ok_or_else(|| AdminFailure(StatusCode::NOT_FOUND, NOT_FOUND.into()))
}

fn away(error: &StoreCallError) -> AdminFailure {
    let text = format!("the store gave no answer, ask again: {error}\n");
    AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into())
}

/// How many operators have to approve a call.
fn needed(app: &App) -> usize {
    match app.settings.approvals {
        ApprovalRule::One => 1,
        ApprovalRule::Two => 2,
    }
}

fn entry(app: &App, approval: &Approval, journaled: Option<bool>) -> ApprovalEntry {
    let offset_ms = app.cluster.as_ref().map_or(0, Cluster::offset_ms);
    let now_ms = app.clock.unix_ms().saturating_add_signed(offset_ms);
    let is_expired = approval.state != ApprovalState::Used && approval.is_over(now_ms);
    let needs = match approval.state {
        ApprovalState::Waiting => needed(app).saturating_sub(approval.signers.len()),
        _ => 0,
    };
    ApprovalEntry {
        id: approval.id.to_string(),
        state: if is_expired {
            "expired"
        } else {
            approval.state.as_str()
        },
        party: approval.of.party.as_str().to_owned(),
        account: approval.of.account.as_str().to_owned(),
        operation: approval.of.counted_as.clone(),
        key: approval.of.key.as_ref().map(|it| it.as_str().to_owned()),
        amounts: approval.amounts.as_str().to_owned(),
        targets: approval.targets.as_str().to_owned(),
        body_sha256: hex::encode(approval.of.body_sha256),
        asked: Rfc3339(approval.asked_ms),
        until: Rfc3339(approval.until_ms),
        approved_by: approval
            .signers
            .iter()
            .map(|it| it.as_str().to_owned())
            .collect(),
        needs,
        journaled,
    }
}
