//! `POST /-/suspend` and `POST /-/resume`: the kill switch, which takes effect without any change to a file.
//!
//! A suspension takes effect first, before it is written, and stays in effect whatever fails afterwards. A resumption
//! is first written to the audit journal and the state folder, and is not done if that fails. Both run to their end
//! even if the caller leaves.
//!
//! If instances share a store, the store keeps a suspension as a halt, for all of them and over their restarts. An
//! instance keeps a suspension by itself only until the store has it.
//!
//! If `caps.approvals` is 2, two operators end a suspension, as they end a halt.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::query_text;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::ResumeResult;
use gatepay_tenancy::problem::closest;
use gatepay_tenancy::{PartyId, Standing};
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::approver_count::{approvers, other_approver};
use super::reply::{AdminFailure, AdminResponse, answer_text, json, text};
use crate::app::App;
use crate::cluster::Cluster;
use crate::generation::suspension::{LiftResult, NotKept, SuspendedBy};
use crate::journal::entry::{SuspensionAct, SuspensionAction};
use crate::process::state_dir::Suspension;

/// The timeout for the disk, after which the answer says that the disk did not respond.
pub(super) const DISK: Duration = Duration::from_secs(5);

/// The epoch of no halt.
const NO_EPOCH: i64 = 0;

/// The operator that asks for a change.
#[derive(Clone)]
pub(super) struct AdminActor {
    /// The operator's name.
    pub(super) name: PartyId,
    /// The address that the request came from.
    pub(super) peer: IpAddr,
}

/// The answer to a suspension or a resumption.
#[derive(Serialize)]
struct SuspendReply {
    /// The tenant or operator.
    party: String,
    /// The standing in force now.
    standing: &'static str,
    /// The standing in the party's file, if there is a file.
    file_standing: Option<&'static str>,
    /// Whether this request changed anything.
    changed: bool,
    /// The operators that have ordered the end, if it needs two of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approved_by: Vec<String>,
    /// How many other operators the end waits for.
    needs: u64,
    /// The suspension by hand that is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended: Option<SuspendedBy>,
    /// Whether the state folder, or the store that instances share, holds the suspension, so that a restart keeps it.
    kept: bool,
    /// Whether the audit journal holds the change; `null` if there is no journal, or no change to write.
    journaled: Option<bool>,
    /// The number of the party's calls that this instance still has in flight.
    in_flight: u32,
    /// Failures and further facts for the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// Stops a party's calls.
pub(super) async fn suspend(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    let id = match named(app, query) {
        Ok(id) if position(app, &id).is_some() => id,
        Ok(id) => return unknown(app, id).await,
        Err(unnamed) => return unnamed.answer(),
    };
    let app = Arc::clone(app);
    finished(tokio::spawn(
        async move { suspend_party(&app, id, actor).await },
    ))
    .await
}

/// Ends a suspension by hand: the standing in the party's file applies again.
pub(super) async fn resume(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> AdminResponse {
    let id = match named(app, query) {
        Ok(id) => id,
        Err(unnamed) => return unnamed.answer(),
    };
    // A tenant that was removed while suspended by hand would be suspended again once it is added again.
    let is_suspended = app.suspensions().contains_key(&id);
    if !is_suspended && position(app, &id).is_none() {
        return unknown(app, id).await;
    }
    let app = Arc::clone(app);
    finished(tokio::spawn(
        async move { resume_party(&app, id, actor).await },
    ))
    .await
}

/// The answer of a task that goes on if the caller leaves.
pub(super) async fn finished(task: tokio::task::JoinHandle<AdminResponse>) -> AdminResponse {
    let internal = || text(StatusCode::INTERNAL_SERVER_ERROR, "it was not finished\n");
    task.await.unwrap_or_else(|_| internal())
}

/// Why a query names no party.
enum UnknownParty {
    /// There is no state folder.
    NoPlace,
    /// The query does not have the form `tenant=` and one id.
    Malformed,
    /// No party can have this id.
    Nobody,
}

impl UnknownParty {
    fn answer(self) -> AdminResponse {
        match self {
            Self::NoPlace => text(
                StatusCode::CONFLICT,
                "without state_dir a restart would forget it: use the command tenant suspend, which edits the file\n",
            ),
            Self::Malformed => text(
                StatusCode::BAD_REQUEST,
                "say ?tenant= and the id of a tenant or an operator, once, and nothing else\n",
            ),
            Self::Nobody => text(StatusCode::NOT_FOUND, NOBODY),
        }
    }
}

/// The party that a query names. The query may hold no other parameter.
fn named(app: &App, query: Option<&str>) -> Result<PartyId, UnknownParty> {
    if !app.admission.tenant_limits.suspensions.have_a_place() {
        return Err(UnknownParty::NoPlace);
    }
    let id = query.and_then(|query| query.strip_prefix("tenant="));
    let id = id.filter(|id| !id.is_empty() && !id.contains('&'));
    let id = id.ok_or(UnknownParty::Malformed)?;
    PartyId::parse(&query_text(id)).map_err(|_| UnknownParty::Nobody)
}

/// The failure of a question about a party that is not configured, and of which the store keeps nothing either: `also` says so.
pub(super) fn unknown_party(also: &str) -> AdminFailure {
    AdminFailure(
        StatusCode::NOT_FOUND,
        format!(
            "no tenant or operator has this id (GET /tenants and `gatepay-proxy tenant list` have them), and {also}\n"
        )
        .into(),
    )
}

const NOBODY: &str =
    "no tenant or operator has this id: GET /tenants and `gatepay-proxy tenant list` have them\n";

fn position(app: &App, id: &PartyId) -> Option<usize> {
    app.generation.load().registry.position(id.as_str())
}

/// Suggests the party that was probably meant. With many parties this takes time, so a separate thread does it.
async fn unknown(app: &Arc<App>, id: PartyId) -> AdminResponse {
    let app = Arc::clone(app);
    let meant = spawn_blocking(move || {
        let generation = app.generation.load_full();
        let ids = generation.registry.parties().map(|who| &who.party().id);
        closest(id.as_str(), ids.map(PartyId::as_str)).map(str::to_owned)
    });
    match meant.await {
        Ok(Some(meant)) => answer_text(
            StatusCode::NOT_FOUND,
            format!("no tenant or operator has this id; did you mean {meant}?\n"),
        ),
        _ => text(StatusCode::NOT_FOUND, NOBODY),
    }
}

async fn suspend_party(
    app: &Arc<App>,
    id: PartyId,
    AdminActor { name, peer }: AdminActor,
) -> AdminResponse {
    let new = Suspension {
        by: name.clone(),
        since_ms: app.clock.unix_ms(),
    };
    let was_suspended = app.suspensions().contains_key(&id);
    let (_, is_new) = app.admission.tenant_limits.suspensions.add(&id, new);
    app.admission.tenant_limits.follow_suspension(id.as_str());
    let changed = is_new && !was_suspended;
    tracing::warn!(party = %id, operator = %name, %peer, changed, "suspended by hand: calls of this party are refused from now on");

    let act = SuspensionAct {
        action: SuspensionAction::Suspend,
        party: id.to_string(),
        by: name.to_string(),
        peer,
    };
    let (journaled, (kept, shared)) = tokio::join!(journaled(app, act), settle(app, &id, &name));
    let mut notes = Vec::new();
    if let Some(Err(error)) = &shared {
        notes.push(format!(
            "suspended on this instance, ask again until all instances are known to have it: {error}"
        ));
    }
    if journaled == Some(false) {
        notes.push(
            "the audit journal cannot be written: this is written there once it can be".to_owned(),
        );
    }
    let status = match &kept {
        Ok(()) if matches!(shared, Some(Err(_))) => StatusCode::SERVICE_UNAVAILABLE,
        Ok(()) => StatusCode::OK,
        Err(NotKept::Closed) => StatusCode::SERVICE_UNAVAILABLE,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    if let Err(error) = &kept {
        notes.push(format!(
            "suspended until this process ends, and not after that: {error}"
        ));
    }
    for note in &notes {
        tracing::error!(party = %id, operator = %name, "suspended by hand: {note}");
    }
    json(
        status,
        &reply(app, &id, (changed, kept.is_ok(), journaled), notes),
    )
}

/// Has a suspension of this process kept: by the store for all instances, and otherwise in the state folder. With a store
/// also returns whether no byte of the party's calls is sent any more, by any instance.
async fn settle(
    app: &Arc<App>,
    id: &PartyId,
    by: &PartyId,
) -> (Result<(), NotKept>, Option<Result<(), String>>) {
    let Some(cluster) = &app.cluster else {
        return (kept(app).await, None);
    };
    let orders = app.admission.tenant_limits.suspensions.orders(id);
    let set = {
        let _turn = cluster.turn_to_suspend().await;
        cluster.halt(suspended(id), by.as_str()).await
    };
    let epoch = match set {
        Ok(epoch) => epoch,
        Err(error) => return (kept(app).await, Some(Err(error))),
    };
    let confirmed = cluster.confirmed(epoch).await;
    if confirmed.is_err() {
        return (kept(app).await, Some(confirmed));
    }
    let _turn = cluster.turn_to_suspend().await;
    if !leave_to_store(app, cluster, id, (epoch, orders)).await {
        // The store keeps it in either case.
        let _kept_here_too = kept(app).await;
    }
    (Ok(()), Some(confirmed))
}

/// Hands the suspensions that this process keeps by itself to the store, which was away when they were set.
pub(super) async fn hand_to_store(app: &Arc<App>) {
    let suspensions = &app.admission.tenant_limits.suspensions;
    let Some(cluster) = app.cluster.as_ref().filter(|it| it.is_available()) else {
        return;
    };
    for (id, Suspension { by, .. }) in suspensions.all() {
        let _turn = cluster.turn_to_suspend().await;
        // The next process has them from its start on: it hands them over, and a resume there must last.
        if suspensions.are_closed() {
            return;
        }
        let orders = suspensions.orders(&id);
        // It may have been lifted since.
        if suspensions.of(id.as_str()).is_none() {
            continue;
        }
        let Ok(epoch) = cluster.halt(suspended(&id), by.as_str()).await else {
            return;
        };
        tracing::warn!(party = %id, operator = %by, "suspended by hand: the store has it now, for all instances");
        if !leave_to_store(app, cluster, &id, (epoch, orders)).await {
            return;
        }
    }
}

/// Gives up this process's own copy of a suspension that the store has since this epoch of halts. This instance first obeys the
/// store's copy and keeps it in its folder, so that neither a kill nor a lost commit of the store ends the suspension. If the
/// party was ordered to be suspended more than `orders` times by now, the copy stays. Returns whether the copy is given up.
async fn leave_to_store(
    app: &Arc<App>,
    cluster: &Cluster,
    id: &PartyId,
    (epoch, orders): (i64, u64),
) -> bool {
    let taken_over = cluster.takes_over(&suspended(id), epoch).await;
    let given_up = match taken_over {
        Ok(()) => lifted(app, id, orders)
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    if let Err(error) = &given_up {
        tracing::warn!(party = %id, %error, "the store keeps the suspension, and so does this instance by itself");
    }
    given_up.is_ok()
}

/// The halt of a suspended party.
fn suspended(id: &PartyId) -> HaltScope {
    HaltScope::Suspended(id.to_string())
}

async fn resume_party(app: &Arc<App>, id: PartyId, actor: AdminActor) -> AdminResponse {
    let suspensions = &app.admission.tenant_limits.suspensions;
    let orders = suspensions.orders(&id);
    let order = |shared| ResumeOrder {
        app,
        id: &id,
        actor: &actor,
        seen: SeenSuspension { shared, orders },
    };
    let shared = match shared_epoch(app, &id).await {
        Ok(shared) => shared,
        Err(error) => {
            let note = format!("not resumed: {error}");
            return order(None).refused(StatusCode::SERVICE_UNAVAILABLE, None, note);
        }
    };
    if shared.is_some() || suspensions.of(id.as_str()).is_some() {
        return order(shared).resume().await;
    }
    let needed = match approvers(app).await {
        Ok(needed) => needed,
        Err(failure) => return failure.answer(),
    };
    // Where two operators are needed, a suspension that comes back is ended by two orders.
    if let Some(cluster) = app.cluster.as_ref().filter(|_| needed < 2) {
        // Another instance may still know a suspension that the store has lost, and must not bring it back.
        let ended = cluster.resume(suspended(&id), NO_EPOCH).await;
        if let Err(error) = ended {
            tracing::warn!(party = %id, %error, "a suspension that the store has lost may come back");
        }
    }
    let facts = (false, !suspensions.are_unkept(), None);
    json(StatusCode::OK, &reply(app, &id, facts, Vec::new()))
}

/// The suspension that an order is about. A later one needs orders of its own.
#[derive(Clone, Copy)]
struct SeenSuspension {
    /// The epoch in the store, if it is there.
    shared: Option<i64>,
    /// How often this process was ordered to suspend the party.
    orders: u64,
}

/// An operator's order to end a suspension.
struct ResumeOrder<'a> {
    app: &'a Arc<App>,
    id: &'a PartyId,
    actor: &'a AdminActor,
    seen: SeenSuspension,
}

impl ResumeOrder<'_> {
    async fn resume(&self) -> AdminResponse {
        let Self {
            app,
            id,
            actor: AdminActor { name, peer },
            ..
        } = self;
        let approved_by = match self.approved().await {
            Ok(Ok(approved_by)) => approved_by,
            Ok(Err(FirstOfTwo)) => return self.waits().await,
            Err(failure) => return failure.answer(),
        };
        let is_written = journaled(app, self.act(SuspensionAction::Resume)).await;
        if is_written == Some(false) {
            // A slow disk may still write the entry.
            note_failure(app, self.act(SuspensionAction::ResumeFailed));
            tracing::error!(party = %id, operator = %name, %peer, "not resumed: the audit journal cannot be written");
            let note = "not resumed: the audit journal cannot be written; ask again once it can";
            return self.refused(StatusCode::SERVICE_UNAVAILABLE, is_written, note.to_owned());
        }
        let Some(NotResumed {
            status,
            note,
            journaled,
        }) = lifted_everywhere(app, id, self.seen).await
        else {
            tracing::warn!(party = %id, operator = %name, %peer, "resumed: the party's file decides again");
            let mut reply = reply(app, id, (true, true, is_written), Vec::new());
            reply.approved_by = approved_by;
            return json(StatusCode::OK, &reply);
        };
        if let Some(action) = journaled {
            note_failure(app, self.act(action));
            tracing::error!(party = %id, operator = %name, %peer, "{note}");
        }
        self.refused(status, is_written, note)
    }

    /// Notes the order. Returns the operators that have ordered the same, if it takes two.
    async fn approved(&self) -> Result<Result<Vec<String>, FirstOfTwo>, AdminFailure> {
        let Self { app, id, actor, .. } = self;
        if approvers(app).await? < 2 {
            return Ok(Ok(Vec::new()));
        }
        let SeenSuspension { shared, orders } = self.seen;
        let scope = suspended(id);
        let seen = (&scope, shared.unwrap_or_else(|| orders.cast_signed()));
        let other = other_approver(app, seen, shared.is_some(), &actor.name).await?;
        let other = other.ok_or(FirstOfTwo);
        Ok(other.map(|other| vec![other, actor.name.to_string()]))
    }

    /// The answer to the first of two orders.
    async fn waits(&self) -> AdminResponse {
        let Self { app, id, actor, .. } = self;
        let is_written = journaled(app, self.act(SuspensionAction::ProposeResume)).await;
        tracing::warn!(party = %id, operator = %actor.name, "a resumption waits for another operator");
        let note = "still suspended: another operator has to order the same within a day";
        let mut reply = self.unchanged(is_written, note.to_owned());
        (reply.approved_by, reply.needs) = (vec![actor.name.to_string()], 1);
        json(StatusCode::OK, &reply)
    }

    fn refused(&self, status: StatusCode, journaled: Option<bool>, note: String) -> AdminResponse {
        json(status, &self.unchanged(journaled, note))
    }

    fn unchanged(&self, journaled: Option<bool>, note: String) -> SuspendReply {
        let kept = !self.app.admission.tenant_limits.suspensions.are_unkept();
        reply(self.app, self.id, (false, kept, journaled), vec![note])
    }

    fn act(&self, action: SuspensionAction) -> SuspensionAct {
        SuspensionAct {
            action,
            party: self.id.to_string(),
            by: self.actor.name.to_string(),
            peer: self.actor.peer,
        }
    }
}

/// The order is the first of two.
struct FirstOfTwo;

/// The epoch of the party's suspension in the store, for all instances; `None` if it has none.
async fn shared_epoch(app: &App, id: &PartyId) -> Result<Option<i64>, String> {
    let Some(cluster) = &app.cluster else {
        return Ok(None);
    };
    let view = cluster.look().await?;
    let scope = suspended(id);
    let mut halts = view.halts.iter();
    Ok(halts
        .find(|halt| halt.scope == scope)
        .map(|halt| halt.epoch))
}

/// Lifts a suspension: that of this process first, so that it is not handed to the store again, then that of the store.
/// Returns why the party is not known to be resumed.
async fn lifted_everywhere(
    app: &Arc<App>,
    id: &PartyId,
    SeenSuspension { shared, orders }: SeenSuspension,
) -> Option<NotResumed> {
    let turn = match &app.cluster {
        Some(cluster) => Some((cluster, cluster.turn_to_suspend().await)),
        None => None,
    };
    match lifted(app, id, orders).await {
        Ok(LiftResult::Unchanged) if shared.is_some() => {}
        other => {
            if let Some(failed) = resume_failure(&other) {
                return Some(failed);
            }
        }
    }
    let (cluster, _turn) = turn?;
    match cluster
        .resume(suspended(id), shared.unwrap_or(NO_EPOCH))
        .await
    {
        Ok(ResumeResult::Resumed { epoch }) => {
            cluster.seen(epoch).await;
            None
        }
        Ok(ResumeResult::SuspendedAgain) => resume_failure(&Ok(LiftResult::SuspendedAgain)),
        // The order may have reached the store, or may still reach it.
        Err(error) => Some(NotResumed {
            status: StatusCode::SERVICE_UNAVAILABLE,
            note: format!("it may have been resumed, ask again: {error}"),
            journaled: Some(SuspensionAction::ResumeUnknown),
        }),
    }
}

/// Why a request is not known to have resumed the party.
struct NotResumed {
    /// The status of the answer.
    status: StatusCode,
    /// The text for the operator.
    note: String,
    /// The audit journal's entry after the announced resumption; `None` if another request resumed the party.
    journaled: Option<SuspensionAction>,
}

/// Why this request did not resume the party; `None` if it did.
fn resume_failure(lifted: &Result<LiftResult, NotKept>) -> Option<NotResumed> {
    let (status, note) = match lifted {
        Ok(LiftResult::Lifted) => return None,
        Ok(LiftResult::Unchanged) => (StatusCode::OK, "it was resumed by another request".into()),
        Ok(LiftResult::SuspendedAgain) => (
            StatusCode::CONFLICT,
            "not resumed: it was suspended once more meanwhile".into(),
        ),
        Err(error @ NotKept::Closed) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not resumed: {error}"),
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("not resumed: {error}"),
        ),
    };
    let failed = status != StatusCode::OK;
    Some(NotResumed {
        status,
        note,
        journaled: failed.then_some(SuspensionAction::ResumeFailed),
    })
}

/// The answer about a party: its standing now and the facts of this request.
fn reply(
    app: &App,
    id: &PartyId,
    (changed, kept, journaled): (bool, bool, Option<bool>),
    mut notes: Vec<String>,
) -> SuspendReply {
    let suspension = app.suspensions().remove(id);
    let generation = app.generation.load();
    let position = generation.registry.position(id.as_str());
    let file = position.map(|at| generation.registry.at(at).party().standing);
    let standing = match (&suspension, file) {
        (None, Some(file)) => file.as_str(),
        (None, None) => "unknown",
        (Some(_), _) => Standing::Suspended.as_str(),
    };
    if let (None, Some(file @ (Standing::Suspended | Standing::ReadOnly))) = (&suspension, file) {
        let file = file.as_str();
        notes.push(format!(
            "its file says {file}: that is changed by the command tenant resume"
        ));
    }
    SuspendReply {
        party: id.to_string(),
        standing,
        file_standing: file.map(Standing::as_str),
        changed,
        approved_by: Vec::new(),
        needs: 0,
        suspended: suspension.as_ref().map(SuspendedBy::from),
        kept,
        journaled,
        in_flight: position.map_or(0, |at| {
            let limits = generation.tenant_limits(at);
            limits.view(app.clock.elapsed()).in_flight
        }),
        notes,
    }
}

/// Writes the change to the audit journal, if there is one; returns whether it was written in time.
pub(super) async fn journaled(app: &App, act: SuspensionAct) -> Option<bool> {
    let journal = app.journal.as_ref()?;
    let written = timeout(DISK, journal.suspension(act)).await;
    Some(written.is_ok_and(|written| written.is_ok()))
}

pub(super) fn note_failure(app: &App, act: SuspensionAct) {
    if let Some(journal) = &app.journal {
        journal.note_suspension(act);
    }
}

async fn kept(app: &Arc<App>) -> Result<(), NotKept> {
    let app = Arc::clone(app);
    on_blocking_thread(move || app.admission.tenant_limits.suspensions.keep()).await
}

/// Lifts the suspension, unless the party was suspended once more since it had this number of orders, and updates the party's
/// `TenantLimits`. The work goes on even after the timeout.
async fn lifted(app: &Arc<App>, id: &PartyId, orders: u64) -> Result<LiftResult, NotKept> {
    let (app, id) = (Arc::clone(app), id.clone());
    on_blocking_thread(move || {
        let limits = &app.admission.tenant_limits;
        let lifted = limits.suspensions.lift(&id, orders)?;
        limits.follow_suspension(id.as_str());
        Ok(lifted)
    })
    .await
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NotKept> + Send + 'static,
) -> Result<T, NotKept> {
    let slow = |_| NotKept::Disk(std::io::ErrorKind::TimedOut.into());
    let done = timeout(DISK, spawn_blocking(work)).await.map_err(slow)?;
    done.unwrap_or_else(|error| Err(NotKept::Disk(std::io::Error::other(error))))
}
