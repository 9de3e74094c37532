//! `/-/probe/isolation`: POST finds out whether GatePay keeps accounts apart, GET shows what was found out last.

use std::sync::Arc;

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::owner_look_up::{IsolationVerdict, OwnerLookUp};
use gatepay_core::ownership::TenantStanding;
use gatepay_store::notifications::isolation::{IsolationFinding, IsolationSubject, KeptFinding};
use gatepay_store::notifications::ledger::{LedgerHolder, LedgerSource};
use gatepay_tenancy::facts::time;
use http::StatusCode;
use serde::Serialize;

use crate::admin::notification_view::{away, bad, relay};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::admin::suspend::{AdminActor, finished};
use crate::app::App;
use crate::notify::asking::Asking;
use crate::notify::asking::isolation_probe::{self, LookUpReport, ProbedObject};
use crate::notify::asking::isolation_proof;
use crate::notify::owner::registered_tenants::RegisteredTenants;

/// The most objects of one probe.
const MOST_OBJECTS: usize = 32;

/// The answer to POST.
#[derive(Serialize)]
struct ProbeReply {
    upstream: String,
    client_id: String,
    /// `apart`, `shared` or `inconclusive`.
    verdict: &'static str,
    look_ups: Vec<LookUpReport>,
}

/// The answer to GET.
#[derive(Serialize)]
struct KeptReply {
    upstream: String,
    client_id: String,
    /// The days for which a proof counts.
    counts_days: u64,
    /// Whether `notifications.ask` is set.
    ask: bool,
    findings: Vec<FindingEntry>,
}

#[derive(Serialize)]
struct FindingEntry {
    operation: String,
    verdict: &'static str,
    accounts: u32,
    at: String,
    /// Whether GatePay may be asked by it.
    counts: bool,
}

/// What a probe needs.
struct IsolationOrder {
    asking: Asking,
    subject: IsolationSubject,
    objects: Vec<ProbedObject>,
    actor: AdminActor,
    /// When it began, by the store's clock.
    since_ms: u64,
    /// The look-ups whose operations are on.
    look_ups: Vec<&'static OwnerLookUp>,
}

/// Shows what the newest probes have found out.
pub(super) async fn show(app: &Arc<App>) -> AdminResponse {
    shown(app)
        .await
        .map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
}

/// Probes with these objects. It runs to its end even if the caller leaves.
pub(super) async fn probe(app: &Arc<App>, query: Option<&str>, actor: AdminActor) -> AdminResponse {
    match read_order(app, query, actor).await {
        Err(failure) => failure.answer(),
        Ok(order) => {
            let task = tokio::spawn(async move {
                let probed = order.carry_out().await;
                probed.map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
            });
            finished(task).await
        }
    }
}

async fn shown(app: &Arc<App>) -> Result<KeptReply, AdminFailure> {
    let asking = relay(app)?.asking(app.isolation_subject());
    let subject = subject(&asking)?;
    let proof = isolation_proof::IsolationProof::read(&asking.calls, subject).await;
    let proof = proof.map_err(|error| away(&error))?;
    let entry = |kept: &KeptFinding| FindingEntry {
        operation: kept.finding.operation.clone(),
        verdict: kept.finding.verdict.as_str(),
        accounts: kept.finding.accounts,
        at: time(kept.at_ms),
        counts: proof.covers(&kept.finding.operation),
    };
    Ok(KeptReply {
        findings: proof.findings().iter().map(entry).collect(),
        upstream: proof.subject.upstream.clone(),
        client_id: proof.subject.client_id.clone(),
        counts_days: isolation_proof::PROOF_LASTS.as_secs() / 86_400,
        ask: asking.is_set,
    })
}

fn subject(asking: &Asking) -> Result<IsolationSubject, AdminFailure> {
    (asking.subject)().ok_or(AdminFailure(
        StatusCode::CONFLICT,
        "no credential of the institution is in force\n".into(),
    ))
}

async fn read_order(
    app: &Arc<App>,
    query: Option<&str>,
    actor: AdminActor,
) -> Result<IsolationOrder, AdminFailure> {
    let relay = relay(app)?;
    let asking = relay.asking(app.isolation_subject());
    let subject = subject(&asking)?;
    let [ids] = query_fields(query, ["objects"])?;
    let ids: Vec<&str> = ids
        .as_deref()
        .into_iter()
        .flat_map(|ids| ids.split(','))
        .collect();
    if ids.len() > MOST_OBJECTS {
        return Err(bad("at most 32 objects are probed at once\n"));
    }
    let proof = isolation_proof::IsolationProof::read(&asking.calls, subject).await;
    let proof = proof.map_err(|error| away(&error))?;
    let registered = relay.registered_tenants().ok_or(AdminFailure(
        StatusCode::SERVICE_UNAVAILABLE,
        "the store has not registered the tenants yet\n".into(),
    ))?;
    let mut objects = Vec::new();
    for id in ids {
        objects.push(object(&asking, &registered, id).await?);
    }
    let catalogue = &registered.generation().catalogue;
    let look_ups = OwnerLookUp::ALL.iter();
    let look_ups = look_ups.filter(|it| it.row(catalogue).is_some()).collect();
    Ok(IsolationOrder {
        asking,
        since_ms: proof.read_ms(),
        subject: proof.subject,
        objects,
        actor,
        look_ups,
    })
}

/// The object with this id of GatePay's, if the ledger has it of exactly one present tenant, by an answer of GatePay's.
async fn object(
    asking: &Asking,
    registered: &RegisteredTenants,
    id: &str,
) -> Result<ProbedObject, AdminFailure> {
    let kinds = OwnerLookUp::ALL.iter().map(|it| it.id.kind);
    let mut keys: Vec<LedgerKey> = kinds.filter_map(|kind| LedgerKey::new(kind, id)).collect();
    keys.dedup();
    let asked = keys.clone();
    let owners = asking
        .calls
        .call(move |store| async move { store.owners(&asked).await });
    let owners = owners.await.map_err(|error| away(&error))?;
    let known = keys.into_iter().zip(owners);
    let mut known: Vec<(LedgerKey, LedgerHolder)> = known
        .flat_map(|(key, holders)| holders.into_iter().map(move |holder| (key.clone(), holder)))
        .collect();
    let is_told = |source: &str| {
        [LedgerSource::Answer, LedgerSource::Journal]
            .iter()
            .any(|it| it.as_str() == source)
    };
    let wanting = |why: &str| {
        let text = format!("{id:?} proves nothing: {why}\n");
        Err(AdminFailure(StatusCode::CONFLICT, text.into()))
    };
    match (known.pop(), known.is_empty()) {
        (None, _) => wanting(
            "the ledger does not know it as an id of GatePay's for an order, a batch of rewards or an OTC order",
        ),
        (Some(_), false) => wanting("the ledger knows it of more than one tenant"),
        (Some((_, holder)), true) if !is_told(&holder.source) => {
            wanting("no answer of GatePay's to a call has shown whose it is")
        }
        (Some((id, holder)), true) => {
            let present = registered.holder(holder.tenant.clone());
            if present.standing != TenantStanding::Alone {
                return wanting("its tenant is removed, or shares its sub-account");
            }
            Ok(ProbedObject {
                id,
                owner: holder.tenant,
                made_by: holder.operation,
            })
        }
    }
}

impl IsolationOrder {
    async fn carry_out(self) -> Result<ProbeReply, AdminFailure> {
        let mut reports = Vec::new();
        let mut findings = Vec::new();
        let client_id = &self.subject.client_id;
        for look_up in &self.look_ups {
            let ask = |inquiry, tenant| {
                let inquiries = &self.asking.inquiries;
                async move { inquiries.ask(&inquiry, &tenant, client_id).await }
            };
            let (verdict, report) = isolation_probe::probe(look_up, &self.objects, ask).await;
            // What was not probed stays as it was found before.
            if report.look_ups > 0 {
                findings.push(IsolationFinding {
                    operation: report.operation.to_owned(),
                    verdict,
                    accounts: u32::try_from(report.accounts.len()).unwrap_or(u32::MAX),
                });
            }
            tracing::info!(
                operation = report.operation, verdict = report.verdict, look_ups = report.look_ups,
                detail = report.detail, operator = %self.actor.name, "GatePay's isolation is probed"
            );
            reports.push(report);
        }
        let found = |wanted| {
            findings
                .iter()
                .any(|it: &IsolationFinding| it.verdict == wanted)
        };
        let verdict = if found(IsolationVerdict::Shared) {
            IsolationVerdict::Shared
        } else if found(IsolationVerdict::Apart) {
            IsolationVerdict::Apart
        } else {
            IsolationVerdict::Inconclusive
        };
        let (calls, subject) = (&self.asking.calls, self.subject.clone());
        let noted = isolation_proof::note(calls, subject, findings, self.since_ms);
        noted.await.map_err(|error| away(&error))?;
        Ok(ProbeReply {
            upstream: self.subject.upstream,
            client_id: self.subject.client_id,
            verdict: verdict.as_str(),
            look_ups: reports,
        })
    }
}
