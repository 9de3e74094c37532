//! `GET /-/halt`, `POST /-/halt` and `POST /-/halt/end`: halts of calls of one kind.
//!
//! A halt takes effect first, and stays in effect whatever fails afterwards: with a store for all instances, without one for
//! this process. Its end is first written to the audit journal, and is not done if that fails. Both run to their end even if
//! the caller leaves.

use std::sync::Arc;

use gatepay_core::operation::ApiModule;
use gatepay_store::admission::HaltScope;
use gatepay_store::instance::{HaltInForce, ResumeResult};
use gatepay_tenancy::PartyId;
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::approver_count::{approvers, other_approver};
use super::query_fields::query_fields;
use super::reply::{AdminFailure, AdminResponse, json};
use super::suspend::{AdminActor, finished, journaled, note_failure};
use crate::app::App;
use crate::cluster::local_halts::LocalEnd;
use crate::generation::tenant_limits::TenantLimits;
use crate::journal::entry::{SuspensionAct, SuspensionAction};

/// The answer about halts.
#[derive(Serialize)]
struct HaltReply {
    /// The scope that the request names; `null` if it names none.
    scope: Option<String>,
    /// Whether calls of the scope are halted now.
    halted: bool,
    /// Whether all instances are known to obey: from here on no byte of a halted call is sent.
    confirmed: bool,
    /// The operators that have ordered the end, if it needs another one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approved_by: Vec<String>,
    /// How many other operators the end waits for.
    needs: u64,
    /// Whether the audit journal holds the change; `null` if there is no journal, or no change to write.
    journaled: Option<bool>,
    /// Calls that this instance has in flight: of the tenant, if the scope is one.
    in_flight: u64,
    /// The halts in force.
    halts: Vec<HaltView>,
    /// Failures and further facts for the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// One halt in force.
#[derive(Serialize)]
struct HaltView {
    scope: String,
    since_ms: u64,
    by: String,
}

/// An order about one scope.
struct HaltOrder {
    app: Arc<App>,
    scope: HaltScope,
    actor: AdminActor,
}

/// Shows the halts in force, and what is in flight.
pub(super) fn look(app: &App, query: Option<&str>) -> AdminResponse {
    let scope = match query {
        None => None,
        Some(_) => match scope_of(app, query) {
            Ok(scope) => Some(scope),
            Err(failure) => return failure.answer(),
        },
    };
    json(StatusCode::OK, &reply(app, scope.as_ref()))
}

/// Halts calls.
pub(super) async fn halt(app: &Arc<App>, query: Option<&str>, actor: AdminActor) -> AdminResponse {
    match HaltOrder::read(app, query, actor) {
        Err(failure) => failure.answer(),
        Ok(order) => finished(tokio::spawn(order.halt())).await,
    }
}

/// Ends a halt.
pub(super) async fn end(app: &Arc<App>, query: Option<&str>, actor: AdminActor) -> AdminResponse {
    match HaltOrder::read(app, query, actor) {
        Err(failure) => failure.answer(),
        Ok(order) => finished(tokio::spawn(order.end())).await,
    }
}

/// The scope that a query names.
fn scope_of(app: &App, query: Option<&str>) -> Result<HaltScope, AdminFailure> {
    let [scope] = query_fields(query, ["scope"])?;
    let failure = |status, text: &'static str| AdminFailure(status, text.into());
    let scope = scope.unwrap_or_default();
    if let Some(id) = scope.strip_prefix("tenant:") {
        let known = PartyId::parse(id).ok();
        let known = known.filter(|id| {
            app.generation
                .load()
                .registry
                .position(id.as_str())
                .is_some()
        });
        let is_halted = |halt: &HaltInForce| halt.scope == HaltScope::Party(id.to_owned());
        return match known {
            Some(id) => Ok(HaltScope::Party(id.to_string())),
            None if app.halts().iter().any(is_halted) => Ok(HaltScope::Party(id.to_owned())),
            None => Err(failure(
                StatusCode::NOT_FOUND,
                "no tenant or operator has this id: GET /tenants and `gatepay-proxy tenant list` have them\n",
            )),
        };
    }
    match &*scope {
        "all" => Ok(HaltScope::All),
        "money" => Ok(HaltScope::Money),
        "payouts" => Ok(HaltScope::Module(ApiModule::Payout.as_str().to_owned())),
        _ => Err(failure(
            StatusCode::BAD_REQUEST,
            "say ?scope=all, money, payouts or tenant:<id>\n",
        )),
    }
}

/// The word of a scope in requests and answers.
pub(super) fn word(scope: &HaltScope) -> String {
    match scope {
        HaltScope::Module(module) if module == ApiModule::Payout.as_str() => "payouts".to_owned(),
        HaltScope::Party(id) => format!("tenant:{id}"),
        scope => scope.to_string(),
    }
}

fn reply(app: &App, scope: Option<&HaltScope>) -> HaltReply {
    let halts = app.halts();
    let is_halted = scope.is_some_and(|scope| halts.iter().any(|halt| halt.scope == *scope));
    let generation = app.generation.load();
    let now = app.clock.elapsed();
    let of = |limits: &TenantLimits| u64::from(limits.view(now).in_flight);
    let in_flight = if let Some(HaltScope::Party(id)) = scope {
        let position = generation.registry.position(id);
        position.map_or(0, |at| of(generation.tenant_limits(at)))
    } else {
        generation
            .all_tenant_limits()
            .map(|limits| of(limits))
            .sum()
    };
    HaltReply {
        scope: scope.map(word),
        halted: is_halted,
        confirmed: true,
        approved_by: Vec::new(),
        needs: 0,
        journaled: None,
        in_flight,
        halts: halts
            .iter()
            .map(|halt| HaltView {
                scope: word(&halt.scope),
                since_ms: halt.since_ms,
                by: halt.by.clone(),
            })
            .collect(),
        notes: Vec::new(),
    }
}

impl HaltOrder {
    fn read(app: &Arc<App>, query: Option<&str>, actor: AdminActor) -> Result<Self, AdminFailure> {
        if app.settings.state_dir.is_none() {
            return Err(AdminFailure(
                StatusCode::CONFLICT,
                "without state_dir a restart would forget it: set state_dir\n".into(),
            ));
        }
        Ok(Self {
            scope: scope_of(app, query)?,
            app: Arc::clone(app),
            actor,
        })
    }

    async fn halt(self) -> AdminResponse {
        let Self { app, scope, actor } = &self;
        let by = actor.name.as_str();
        let set = match &app.cluster {
            Some(cluster) => match cluster.halt(scope.clone(), by).await {
                Ok(epoch) => {
                    let confirmed = cluster.confirmed(epoch).await;
                    cluster.seen(epoch).await;
                    confirmed.map_err(|error| {
                        format!("the store has it, ask again until all instances obey: {error}")
                    })
                }
                Err(error) => Err(format!("not halted, ask again: {error}")),
            },
            None => self
                .locally(|app, scope, actor| {
                    let halt = HaltInForce {
                        scope,
                        since_ms: app.clock.unix_ms(),
                        by: actor.name.to_string(),
                        epoch: 0,
                    };
                    app.local_halts.set(halt)
                })
                .await
                .map_err(|error| {
                    format!("halted until this process ends, and not after that: {error}")
                }),
        };
        let written = journaled(app, self.act(SuspensionAction::Halt)).await;
        let mut reply = reply(app, Some(scope));
        tracing::warn!(scope = %word(scope), operator = by, peer = %actor.peer, confirmed = set.is_ok(), in_flight = reply.in_flight, "calls are halted");
        reply.journaled = written;
        if written == Some(false) {
            reply.notes.push(
                "the audit journal cannot be written: this is written there once it can be"
                    .to_owned(),
            );
        }
        let status = match set {
            Ok(()) => StatusCode::OK,
            Err(note) => {
                tracing::error!(scope = %word(scope), "{note}");
                reply.confirmed = false;
                reply.notes.push(note);
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        json(status, &reply)
    }

    async fn end(self) -> AdminResponse {
        match self.ended().await {
            Ok(reply) => json(StatusCode::OK, &reply),
            Err(failure) => failure.answer(),
        }
    }

    async fn ended(&self) -> Result<HaltReply, AdminFailure> {
        let Self { app, scope, actor } = self;
        let away = |error: String| {
            let text = format!("not resumed: {error}\n");
            AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into())
        };
        let in_force = match &app.cluster {
            Some(cluster) => cluster.look().await.map_err(away)?.halts,
            None => app.local_halts.all(),
        };
        let Some(halt) = in_force.into_iter().find(|halt| halt.scope == *scope) else {
            let mut reply = reply(app, Some(scope));
            reply.notes.push("it was not halted".to_owned());
            return Ok(reply);
        };
        let mut approved_by = vec![actor.name.to_string()];
        if approvers(app).await? > 1 {
            let seen = (scope, halt.epoch);
            let is_shared = app.cluster.is_some();
            let Some(other) = other_approver(app, seen, is_shared, &actor.name).await? else {
                return Ok(self.waits(approved_by).await);
            };
            approved_by.insert(0, other);
        }
        let written = journaled(app, self.act(SuspensionAction::EndHalt)).await;
        if written == Some(false) {
            note_failure(app, self.act(SuspensionAction::EndHaltFailed));
            return Err(away("the audit journal cannot be written".to_owned()));
        }
        if let Err((action, failure)) = self.lift(halt.epoch).await {
            note_failure(app, self.act(action));
            return Err(failure);
        }
        tracing::warn!(scope = %word(scope), operator = %actor.name, peer = %actor.peer, "a halt has ended");
        let mut reply = reply(app, Some(scope));
        (reply.approved_by, reply.journaled) = (approved_by, written);
        Ok(reply)
    }

    /// The answer to the first of two orders.
    async fn waits(&self, approved_by: Vec<String>) -> HaltReply {
        let Self { app, scope, actor } = self;
        let mut reply = reply(app, Some(scope));
        reply.journaled = journaled(app, self.act(SuspensionAction::ProposeEnd)).await;
        (reply.approved_by, reply.needs) = (approved_by, 1);
        tracing::warn!(scope = %word(scope), operator = %actor.name, "the end of a halt waits for another operator");
        reply
    }

    /// Ends the halt that was seen with this epoch, and no newer one.
    async fn lift(&self, epoch: i64) -> Result<(), (SuspensionAction, AdminFailure)> {
        let Self { app, scope, .. } = self;
        let halted_again = || {
            let text = "not resumed: it was halted once more meanwhile; look at the halts, and ask again to end that one\n";
            let failure = AdminFailure(StatusCode::CONFLICT, text.into());
            Err((SuspensionAction::EndHaltFailed, failure))
        };
        let failed = |action, error: String| {
            let text = format!("not resumed: {error}\n");
            let failure = AdminFailure(StatusCode::SERVICE_UNAVAILABLE, text.into());
            Err((action, failure))
        };
        let Some(cluster) = &app.cluster else {
            let ended = self
                .locally(move |app, scope, _| app.local_halts.end(&scope, epoch))
                .await;
            return match ended {
                Ok(LocalEnd::Ended | LocalEnd::NotInForce) => Ok(()),
                Ok(LocalEnd::HaltedAgain) => halted_again(),
                Err(error) => failed(SuspensionAction::EndHaltFailed, error.to_string()),
            };
        };
        match cluster.resume(scope.clone(), epoch).await {
            Ok(ResumeResult::Resumed { epoch }) => {
                cluster.seen(epoch).await;
                Ok(())
            }
            Ok(ResumeResult::SuspendedAgain) => halted_again(),
            Err(error) => failed(
                SuspensionAction::EndHaltUnknown,
                format!("it may have ended, ask again: {error}"),
            ),
        }
    }

    async fn locally<T: Send + 'static>(
        &self,
        work: impl FnOnce(&App, HaltScope, &AdminActor) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let (app, scope, actor) = (
            Arc::clone(&self.app),
            self.scope.clone(),
            self.actor.clone(),
        );
        let done = spawn_blocking(move || work(&app, scope, &actor)).await;
        done.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    }

    fn act(&self, action: SuspensionAction) -> SuspensionAct {
        SuspensionAct {
            action,
            party: format!("scope {}", word(&self.scope)),
            by: self.actor.name.to_string(),
            peer: self.actor.peer,
        }
    }
}
