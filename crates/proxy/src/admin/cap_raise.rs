//! `POST /-/caps/raise?id=`: operators have a raise of caps that waits hold at once.
//!
//! Who can make the calls that a cap bounds does not approve its raise, as with [approvals](crate::admin::approvals) of calls: alone
//! with `approvals = 1`, or with one more, it would lift the bound of its own calls.
//!
//! An order is first written to the audit journal, and is not carried out if that fails. It runs to its end even if the
//! caller leaves.

use std::sync::Arc;

use gatepay_store::admission::StoredText;
use gatepay_store::caps::approval::ApprovalOrder;
use gatepay_store::caps::early_raise::{PendingRaise, RaiseDigest};
use gatepay_store::caps::rule::CapScope;
use gatepay_tenancy::{PartyId, PartyRef, Registry};
use http::StatusCode;
use serde::Serialize;

use crate::admin::approvals::{MoneyOrder, away, holds, may_approve, needed};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::{AdminActor, finished};
use crate::app::App;
use crate::cluster::store_calls::StoreCalls;
use crate::journal::entry::{ApprovalAct, ApprovalAction};

/// The state of a raise after an order.
#[derive(Serialize)]
struct RaiseEntry {
    id: String,
    /// The operators that have approved it, this one included.
    approved_by: Vec<String>,
    /// How many other operators it waits for; 0: it holds.
    needs: usize,
    /// Whether the audit journal holds the order; `null` without a journal.
    journaled: Option<bool>,
}

/// Takes an operator's order.
pub(super) async fn raise(app: &Arc<App>, query: Option<&str>, actor: AdminActor) -> AdminResponse {
    match RaiseOrder::read(app, query, &actor).await {
        Err(failure) => failure.answer(),
        Ok(order) => {
            let task = tokio::spawn(async move {
                let raised = order.carry_out().await;
                raised.map_or_else(AdminFailure::answer, |entry| json(StatusCode::OK, &entry))
            });
            finished(task).await
        }
    }
}

/// An order that was read and may be carried out.
struct RaiseOrder {
    order: MoneyOrder,
    digest: RaiseDigest,
    /// The operators that have approved it before.
    signers: Vec<String>,
    /// How many operators have to approve it.
    needed: usize,
}

impl RaiseOrder {
    async fn read(
        app: &Arc<App>,
        query: Option<&str>,
        actor: &AdminActor,
    ) -> Result<Self, AdminFailure> {
        let cluster = app.cluster.as_ref().ok_or_else(|| {
            let text = "proxy.toml has no [store], which caps need\n";
            AdminFailure(StatusCode::CONFLICT, text.into())
        })?;
        may_approve(app, actor)?;
        let [id] = query_fields(query, ["id"])?;
        let is_id = |id: &str| {
            let is_digit = |digit: u8| digit.is_ascii_digit() || matches!(digit, b'a'..=b'f');
            matches!(id.len(), 16 | 64) && id.bytes().all(is_digit)
        };
        let id = id.filter(|id| is_id(id)).ok_or_else(|| {
            let text = "say id=, 16 hexadecimal digits as `caps show` tells them, or all 64 of the digest\n";
            AdminFailure(StatusCode::BAD_REQUEST, text.into())
        })?;
        let calls = cluster.calls().clone();
        let (waiting, in_force) = waiting(&calls).await?;
        let (waiting, signers) = named(waiting, &id)?;
        let digest = waiting.digest;
        let signers: Vec<String> = signers.iter().map(|it| it.as_str().to_owned()).collect();
        let registry = &app.generation.load().registry;
        is_independent(registry, &waiting.scope, (&actor.name, &signers))?;
        // Names are noted before links are in force: these may be those of another proxy.toml by now.
        may_approve(app, actor)?;
        let act = ApprovalAct {
            action: ApprovalAction::Approve,
            approval: digest.to_string(),
            party: match &waiting.scope {
                CapScope::All => "all".to_owned(),
                CapScope::Account(account) => account.as_str().to_owned(),
            },
            operation: "raise_caps".to_owned(),
            by: actor.name.to_string(),
            peer: actor.peer,
        };
        Ok(Self {
            order: MoneyOrder {
                app: Arc::clone(app),
                calls,
                act,
            },
            digest,
            needed: needed(app, in_force),
            signers,
        })
    }

    async fn carry_out(self) -> Result<RaiseEntry, AdminFailure> {
        let (order, digest, needed) = (self.order, self.digest, self.needed);
        let id = digest.id();
        let journaled = order.journaled().await?;
        let by = StoredText::parse(&order.act.by).unwrap_or_default();
        let ordered = order
            .calls
            .call(move |store| async move { store.raise_caps(digest, &by, needed).await });
        match ordered.await {
            Ok(ApprovalOrder::Taken) => {
                let mut approved_by = self.signers;
                if !approved_by.contains(&order.act.by) {
                    approved_by.push(order.act.by.clone());
                }
                let needs = needed.saturating_sub(approved_by.len());
                let (scope, by) = (&order.act.party, &order.act.by);
                tracing::warn!(raise = %id, %scope, operator = %by, needs, "an operator has approved a raise of caps");
                Ok(RaiseEntry {
                    id: id.to_string(),
                    approved_by,
                    needs,
                    journaled,
                })
            }
            Ok(_) => {
                order.note(ApprovalAction::OrderFailed);
                Err(not_found())
            }
            Err(error) => Err(order.unanswered(&error)),
        }
    }
}

/// The changes of an id: of its first digits, if no others begin like it, or of the whole digest.
fn named(waiting: Vec<SignedRaise>, id: &str) -> Result<SignedRaise, AdminFailure> {
    let waiting = waiting.into_iter();
    let mut named = waiting.filter(|(raise, _)| raise.digest.to_string().starts_with(id));
    let first = named.next().ok_or_else(not_found)?;
    match named.next() {
        None => Ok(first),
        Some(_) => Err(AdminFailure(
            StatusCode::CONFLICT,
            "the digests of other changes begin like this too: say id= with all 64 digits of GET /caps\n".into(),
        )),
    }
}

/// Refuses an operator that can make the calls itself which the caps of a scope bound, and a raise that such an operator has
/// approved before.
fn is_independent(
    registry: &Registry,
    scope: &CapScope,
    (name, signers): (&PartyId, &[String]),
) -> Result<(), AdminFailure> {
    let mut bound: Vec<PartyRef<'_>> = match scope {
        CapScope::All => registry.parties().collect(),
        CapScope::Account(account) => {
            let tenants = registry.tenants_of(account.as_str());
            tenants.map(PartyRef::Tenant).collect()
        }
    };
    if bound.is_empty() {
        let text = "no file in force here has a tenant of this sub-account, so the holders of its secret are unknown: the changes \
                    hold after caps.raise_after\n";
        return Err(AdminFailure(StatusCode::CONFLICT, text.into()));
    }
    if matches!(scope, CapScope::Account(_)) {
        // They call for any sub-account, and its caps count that.
        bound.extend(registry.operators().iter().map(PartyRef::Operator));
    }
    for party in bound {
        if holds(party, name.as_str())? {
            return Err(AdminFailure(StatusCode::FORBIDDEN, OWN_CAP.into()));
        }
        for signer in signers {
            if holds(party, signer)? {
                let id = &party.party().id;
                let text = format!(
                    "{signer} has approved it and holds the secret of {id}: ask again a day after that, or wait for caps.raise_after\n"
                );
                return Err(AdminFailure(StatusCode::CONFLICT, text.into()));
            }
        }
    }
    Ok(())
}

const OWN_CAP: &str = "no operator approves a raise of a cap that bounds calls of its own\n";

/// Changes that wait, with the operators that have approved them.
type SignedRaise = (PendingRaise, Vec<StoredText>);

/// The changes that wait with the operators that have approved them, and how many operators the store has in force.
async fn waiting(calls: &StoreCalls) -> Result<(Vec<SignedRaise>, u32), AdminFailure> {
    let waiting = calls.call(|store| async move {
        let needed = store.approvers_needed().await?;
        Ok((store.waiting_raises().await?, needed))
    });
    waiting.await.map_err(|error| away(&error))
}

fn not_found() -> AdminFailure {
    let text = "no raise that waits has this id: it holds already, or the files have changed; see `caps show`\n";
    AdminFailure(StatusCode::NOT_FOUND, text.into())
}
