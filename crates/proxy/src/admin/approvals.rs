//! `GET /approvals`, `POST /-/approvals/approve` and `reject`: what operators have to decide about, and their orders.
//!
//! An order is first written to the audit journal, and is not carried out if that fails. It runs to its end even if the
//! caller leaves.

use std::sync::Arc;

use gatepay_store::admission::StoredText;
use gatepay_store::caps::approval::{
    Approval, ApprovalId, ApprovalListing, ApprovalOrder, ApprovalPlace, ApprovalQuery,
    ApprovalState,
};
use gatepay_tenancy::{PartyId, PartyRef};
use http::StatusCode;
use serde::Serialize;
use tokio::time::timeout;

use crate::admin::approver_count::named_operator;
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::{AdminActor, DISK, finished, unknown_party};
use crate::app::App;
use crate::cluster::Cluster;
use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::journal::entry::{ApprovalAct, ApprovalAction};
use crate::process::timestamp::Rfc3339;

/// As many approvals as one answer lists.
const PAGE: u32 = 100;

/// The approvals in one state, or in any.
#[derive(Serialize)]
struct ApprovalPage {
    approvals: Vec<ApprovalEntry>,
    /// The `after` of the next page, if there is one.
    next: Option<String>,
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
    let query = asked(query)?;
    let calls = calls(app)?;
    let registry = &app.generation.load().registry;
    // The store keeps the approvals of a party that was removed.
    let is_known = |id: &StoredText| registry.position(id.as_str()).is_some();
    let is_unknown = query.party.as_ref().is_some_and(|id| !is_known(id));
    let approvals = calls.call(move |store| async move {
        let needed = store.approvers_needed().await?;
        Ok((store.approvals(&query).await?, needed))
    });
    let (mut approvals, in_force) = approvals.await.map_err(|error| away(&error))?;
    if is_unknown && approvals.is_empty() {
        return Err(unknown_party("no such approval of it is kept"));
    }
    let has_more = approvals.len() > PAGE as usize;
    approvals.truncate(PAGE as usize);
    let last = approvals.last().filter(|_| has_more);
    let needed = needed(app, in_force);
    let entries = approvals.iter().map(|it| entry(app, it, needed));
    Ok(ApprovalPage {
        next: last.map(|it| it.place().to_string()),
        approvals: entries.collect(),
    })
}

/// What a request lists: one more than a page, so that the last page is known.
fn asked(query: Option<&str>) -> Result<ApprovalQuery, AdminFailure> {
    let [state, party, after] = match query {
        None => [None, None, None],
        Some(_) => query_fields(query, ["state", "party", "after"])?,
    };
    let bad = |text: &'static str| AdminFailure(StatusCode::BAD_REQUEST, text.into());
    let state = state.map(|word| {
        let text = "state is waiting, approved, rejected, used or expired\n";
        ApprovalListing::parse(&word).ok_or_else(|| bad(text))
    });
    let party = party.map(|id| {
        let id = PartyId::parse(&id).ok();
        let id = id.and_then(|id| StoredText::parse(id.as_str()));
        id.ok_or_else(|| bad("party is the id of a tenant or an operator\n"))
    });
    let after = after.map(|place| {
        let text = "after is the next of the page before\n";
        ApprovalPlace::parse(&place).ok_or_else(|| bad(text))
    });
    Ok(ApprovalQuery {
        state: state.transpose()?,
        party: party.transpose()?,
        after: after.transpose()?,
        most: PAGE + 1,
    })
}

/// An order that was read and may be carried out.
struct ApprovalDecision {
    order: MoneyOrder,
    id: ApprovalId,
    /// The digest of the judged call's body: the store decides about this call only.
    body_sha256: [u8; 32],
    decision: Decision,
}

impl ApprovalDecision {
    async fn read(
        app: &Arc<App>,
        query: Option<&str>,
        (actor, decision): (AdminActor, Decision),
    ) -> Result<Self, AdminFailure> {
        let calls = calls(app)?;
        may_approve(app, &actor)?;
        let [id] = query_fields(query, ["id"])?;
        let id = id.as_deref().and_then(ApprovalId::parse).ok_or_else(|| {
            let text = "say id=, 16 hexadecimal digits as the refusal tells them\n";
            AdminFailure(StatusCode::BAD_REQUEST, text.into())
        })?;
        let (approval, _) = found(&calls, id).await?;
        let body_sha256 = approval.of.body_sha256;
        if decision == Decision::Approve {
            is_independent(app, &approval, &actor.name)?;
            // Names are noted before links are in force: these may be those of another proxy.toml by now.
            may_approve(app, &actor)?;
        }
        let Approval { of, .. } = approval;
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
            order: MoneyOrder {
                app: Arc::clone(app),
                calls,
                act,
            },
            id,
            body_sha256,
            decision,
        })
    }

    async fn carry_out(self) -> Result<ApprovalEntry, AdminFailure> {
        let (order, id, decision) = (self.order, self.id, self.decision);
        let body_sha256 = self.body_sha256;
        let journaled = order.journaled().await?;
        // The store knows whether more are in force.
        let needed = needed(&order.app, 1);
        let by = StoredText::parse(&order.act.by).unwrap_or_default();
        let ordered = order.calls.call(move |store| async move {
            match decision {
                Decision::Approve => store.approve((id, &body_sha256), &by, needed).await,
                Decision::Reject => store.reject((id, &body_sha256)).await,
            }
        });
        let failure = |status, text: &'static str| AdminFailure(status, text.into());
        let failure = match ordered.await {
            Ok(ApprovalOrder::Taken) => {
                let (approval, in_force) = found(&order.calls, id).await?;
                let needed = self::needed(&order.app, in_force);
                let (party, by) = (&order.act.party, &order.act.by);
                let state = approval.state.as_str();
                tracing::warn!(approval = %id, %party, operator = %by, state, "an operator has decided about a call");
                let entry = entry(&order.app, &approval, needed);
                return Ok(ApprovalEntry { journaled, ..entry });
            }
            Ok(ApprovalOrder::NotFound) => failure(StatusCode::NOT_FOUND, NOT_FOUND),
            Ok(ApprovalOrder::Closed) => failure(
                StatusCode::CONFLICT,
                "it is used, rejected, or over: the call has to ask anew\n",
            ),
            Ok(ApprovalOrder::OwnCall) => failure(StatusCode::FORBIDDEN, OWN_CALL),
            Err(error) => return Err(order.unanswered(&error)),
        };
        order.note(ApprovalAction::OrderFailed);
        Err(failure)
    }
}

/// An operator's order about a money call or a cap, with its record in the audit journal.
pub(super) struct MoneyOrder {
    pub(super) app: Arc<App>,
    pub(super) calls: StoreCalls,
    /// The record about it, before it is carried out.
    pub(super) act: ApprovalAct,
}

impl MoneyOrder {
    /// Writes the order down; returns whether there is a journal. Without the record the order is not carried out.
    pub(super) async fn journaled(&self) -> Result<Option<bool>, AdminFailure> {
        let Some(journal) = &self.app.journal else {
            return Ok(None);
        };
        let written = timeout(DISK, journal.approval(self.act.clone())).await;
        if written.is_ok_and(|written| written.is_ok()) {
            return Ok(Some(true));
        }
        // A slow disk may still write the record.
        self.note(ApprovalAction::OrderFailed);
        Err(AdminFailure(
            StatusCode::SERVICE_UNAVAILABLE,
            "not done: the audit journal cannot be written; ask again once it can\n".into(),
        ))
    }

    /// The failure of an order that the store did not answer, written down as failed or unknown.
    pub(super) fn unanswered(&self, error: &StoreCallError) -> AdminFailure {
        self.note(match error {
            StoreCallError::NotJoined => ApprovalAction::OrderFailed,
            StoreCallError::Store(_) => ApprovalAction::OrderUnknown,
        });
        away(error)
    }

    /// Writes down the end of the order.
    pub(super) fn note(&self, action: ApprovalAction) {
        if let Some(journal) = &self.app.journal {
            let act = self.act.clone();
            journal.note_approval(ApprovalAct { action, ..act });
        }
    }
}

/// The failure of a question that the store did not answer.
pub(super) fn away(error: &StoreCallError) -> AdminFailure {
    let text = format!("the store gave no answer, ask again: {error}\n");
    AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into())
}

const NOT_FOUND: &str = "no approval has this id\n";
const OWN_CALL: &str = "no operator approves a call of its own\n";

fn calls(app: &App) -> Result<StoreCalls, AdminFailure> {
    let cluster = app.cluster.as_ref().ok_or_else(|| {
        let text = "approvals need a [store] in proxy.toml\n";
        AdminFailure(StatusCode::CONFLICT, text.into())
    })?;
    Ok(cluster.calls().clone())
}

/// The approval of an id, and how many operators the store has in force.
async fn found(calls: &StoreCalls, id: ApprovalId) -> Result<(Approval, u32), AdminFailure> {
    let found = calls.call(move |store| async move {
        let needed = store.approvers_needed().await?;
        Ok((store.approval(id).await?, needed))
    });
    let (found, needed) = found.await.map_err(|error| away(&error))?;
    let found = found.ok_or_else(|| AdminFailure(StatusCode::NOT_FOUND, NOT_FOUND.into()))?;
    Ok((found, needed))
}

/// Refuses the approval of a call whose secret the operator holds, or one who has approved it, by the party's file in force.
fn is_independent(app: &App, approval: &Approval, name: &PartyId) -> Result<(), AdminFailure> {
    let conflict = |text: String| AdminFailure(StatusCode::CONFLICT, text.into());
    let registry = &app.generation.load().registry;
    let party = approval.of.party.as_str();
    let Some(found) = registry.position(party).map(|at| registry.at(at)) else {
        let text = format!("{party} stands in no file that is in force here\n");
        return Err(conflict(text));
    };
    if holds(found, name.as_str())? {
        return Err(AdminFailure(StatusCode::FORBIDDEN, OWN_CALL.into()));
    }
    for signer in approval.signers.iter().map(StoredText::as_str) {
        if holds(found, signer)? {
            let text = format!(
                "{signer} has approved it and holds the secret of {party}: it ends with its day, and then the call asks anew\n"
            );
            return Err(conflict(text));
        }
    }
    Ok(())
}

/// Whether an operator of the admin address can make a party's calls itself, by the party's file: as the party of its own name,
/// or because it holds the secret. That is unknown, and an error, if the file does not say which operators hold the secret.
pub(super) fn holds(party: PartyRef<'_>, name: &str) -> Result<bool, AdminFailure> {
    let id = &party.party().id;
    let holders = party.admin_operators().ok_or_else(|| {
        let text = format!(
            "the file of {id} does not say which [[admin.operator]] hold its secret: set admin_operators there, [] if \
             none does\n"
        );
        AdminFailure(StatusCode::CONFLICT, text.into())
    })?;
    Ok(id.as_str() == name || holders.iter().any(|holder| holder.as_str() == name))
}

/// Refuses the order of an operator that may not approve.
pub(super) fn may_approve(app: &App, actor: &AdminActor) -> Result<(), AdminFailure> {
    if named_operator(app, &actor.name).is_some_and(|operator| operator.approves) {
        return Ok(());
    }
    Err(AdminFailure(
        StatusCode::FORBIDDEN,
        "approvals need the token of an [[admin.operator]] with approve = true\n".into(),
    ))
}

/// How many operators have to approve a call, or a raise: as many as the configuration or the store says, whichever is more.
pub(super) fn needed(app: &App, in_force: u32) -> usize {
    app.settings.approvals.count().max(in_force) as usize
}

fn entry(app: &App, approval: &Approval, needed: usize) -> ApprovalEntry {
    let offset_ms = app.cluster.as_ref().map_or(0, Cluster::time_offset_ms);
    let now_ms = app.clock.unix_ms().saturating_add_signed(offset_ms);
    let needs = match approval.state {
        ApprovalState::Waiting => needed.saturating_sub(approval.signers.len()),
        _ => 0,
    };
    ApprovalEntry {
        id: approval.id.to_string(),
        state: approval.listing(now_ms).as_str(),
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
        journaled: None,
    }
}
