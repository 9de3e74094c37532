//! Store verdict: whether the store that instances share lets a call go ahead.
//!
//! The call has its tokens and its seat already, so that a flood of refusals costs the store nothing. Its stamp counts as
//! under way until the verdict: a refusal gives everything back and leaves the stamp unspent.

use std::borrow::Cow;
use std::time::Duration;

use gatepay_admission::replay::{EarlierCopy, UnusableStamp};
use gatepay_core::own_operation::OwnOperation;
use gatepay_core::stamp::ClockSkew;
use gatepay_core::{Kind, Operation};
use gatepay_store::admission::{
    AdmissionRow, AdmissionVerdict, Fingerprint, HaltScope, StoredText,
};
use gatepay_store::caps::approval::ApprovalSubject;
use gatepay_store::caps::rule::CapBreach;
use gatepay_store::caps::spend::SpendDemand;
use gatepay_store::destinations::DestinationFault;
use gatepay_store::queue::JudgedRow;
use gatepay_store::statement::account_book::CallUsage;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use crate::caps::destinations::{ConfiguredLists, DestinationVerdict, is_boundable};
use crate::caps::{CappedAccounts, Caps};
use crate::cluster::halt_check::{HaltableCall, StopBeforeSending};
use crate::cluster::local_halts::LocalHalts;
use crate::cluster::{Cluster, StoreAway};
use crate::journal::entry::{ApprovalAct, ApprovalAction, RuleRefusal};
use crate::journey::admit::{AdmissionGate, Admitted, LocallyAdmitted, StoreNeed};
use crate::journey::sign::SendCheck;
use crate::journey::stamp::{self, ClaimedCall, CoveredStamp};
use crate::record::RequestRecord;
use crate::refusal::{Refusal, StaleStamp};

/// Completes the admission of a call: asks the store, which has to answer until a time, and then records the call's stamp
/// here, in front of the store.
pub async fn confirm(
    (cluster, until): (&Cluster, Instant),
    local: LocallyAdmitted,
    (claim, stamp): (&ClaimedCall<'_>, &CoveredStamp),
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> Result<Box<Admitted>, Refusal> {
    let reads_go_on = cluster.reads_without_store();
    let need = local.question.as_ref().map(|question| question.need);
    if reads_go_on && need == Some(StoreNeed::Forbidden) {
        cluster.refused("body_less_write");
        return Err(Refusal::OperationNotAllowed(Cow::Borrowed(BODY_LESS)));
    }
    let asked = gate.clock.elapsed();
    let (judged, spent) = judge((cluster, until), &local, (claim, record), gate).await?;
    let asked = match judged {
        Ok(JudgedRow {
            verdict: AdmissionVerdict::Admitted,
            shadow,
        }) => {
            note_shadow(gate.caps, shadow, claim);
            record.judged_elsewhere(None);
            if spent.is_some() {
                record.is_booked();
            }
            Some(asked)
        }
        Ok(JudgedRow { verdict, .. }) => {
            let now_ms = gate.clock.unix_ms();
            note_refusal(&verdict, &local, (claim, record), gate);
            if verdict == AdmissionVerdict::Restored {
                record.detail(RESTORED.to_owned());
            }
            let (why, refusal) = refuse(&verdict, claim, now_ms);
            record.judged_elsewhere(doubt(&verdict));
            cluster.refused(why);
            return Err(refusal);
        }
        Err(StoreAway)
            if reads_go_on && need == Some(StoreNeed::Dispensable) && cluster.knows_halts() =>
        {
            None
        }
        Err(StoreAway) => {
            cluster.refused("away");
            return Err(Refusal::StoreUnavailable);
        }
    };
    // From here on the call counts until its report says otherwise.
    let report = gate.caps.zip(spent.filter(|_| asked.is_some()));
    let report = report.map(|(caps, stamp)| Box::new(caps.reports.of(stamp)));
    let now_ms = gate.clock.unix_ms();
    match gate.replay.record(stamp.fingerprint(), now_ms) {
        Ok(()) => record.admitted(),
        Err(UnusableStamp::HandedOver | UnusableStamp::Full) if asked.is_some() => {
            record.admitted_by_store();
            return Err(Refusal::Overloaded(SPENT));
        }
        Err(unusable) => return Err(stamp::refuse(unusable, now_ms)),
    }
    Ok(local.confirmed(asked, report))
}

/// Why the money of a call may not go where it sends it. The store has yet to say whether a copy of it was admitted.
fn misdirected(
    (cluster, gate): (&Cluster, &AdmissionGate<'_>),
    local: &LocallyAdmitted,
    claim: &ClaimedCall<'_>,
) -> Result<Option<DestinationFault>, Refusal> {
    let operation = local.call().operation();
    let question = local.question.as_ref().filter(|_| is_boundable(operation));
    let (Some(caps), Some(question)) = (gate.caps, question) else {
        return Ok(None);
    };
    // None if no list bound the call when its body was read. One may have been turned on while the call waited.
    let (targets, account) = (question.targets.as_deref(), &*question.account);
    let party = party_of(claim);
    // The file may have changed while the body was read.
    let registry = &gate.in_force.registry;
    let Some(party) = registry.position(party).map(|at| registry.at(at)) else {
        return Err(Refusal::StoreUnavailable);
    };
    let configured = ConfiguredLists::of(registry, account, party);
    let now_ms = gate.clock.unix_ms();
    let now_ms = now_ms.saturating_add_signed(cluster.time_offset_ms());
    match caps
        .destinations
        .verdict(&configured, targets, (now_ms, gate.clock.elapsed()))
    {
        DestinationVerdict::Allowed => Ok(None),
        DestinationVerdict::Refused(fault) => Ok(Some(fault)),
        DestinationVerdict::Unknown => {
            if caps.destinations.is_unknown() {
                cluster.refused("away");
                return Err(Refusal::StoreUnavailable);
            }
            if caps.destinations.begins_to_refuse() {
                let age = caps.destinations.age(gate.clock.elapsed());
                tracing::error!(
                    ?age,
                    "the store was not asked about lists of destinations lately: money calls with a target are refused until it is"
                );
            }
            cluster.refused("lists");
            Err(Refusal::StoreUnavailable)
        }
    }
}

/// Asks the store about a call. Also returns the stamp, if the store books the call. A call whose money may not go where it
/// sends it spends nothing but its stamp, so that no copy of it was or will be admitted.
async fn judge(
    (cluster, until): (&Cluster, Instant),
    local: &LocallyAdmitted,
    (claim, record): (&ClaimedCall<'_>, &mut RequestRecord),
    gate: &AdmissionGate<'_>,
) -> Result<(Result<JudgedRow, StoreAway>, Option<Fingerprint>), Refusal> {
    let misdirected = misdirected((cluster, gate), local, claim)?;
    let demand = match misdirected {
        None => spend_of(local, claim, gate),
        Some(_) => None,
    };
    let usage = match misdirected {
        None => {
            let documented = local
                .question
                .as_ref()
                .and_then(|it| it.money_key.as_deref());
            let keys = (documented, record.known_key());
            usage_of(local.call().operation(), demand.as_deref(), keys)
        }
        Some(_) => None,
    };
    let is_money = local.call().operation().kind == Kind::Money && misdirected.is_none();
    if is_money && gate.caps.is_some_and(Caps::awaits_store) {
        return Ok((Err(StoreAway), None));
    }
    let Some(row) = row(cluster, local, claim) else {
        return Ok((Err(StoreAway), None));
    };
    let intents = match misdirected {
        None => row.intents,
        Some(_) => Vec::new(),
    };
    let row = AdmissionRow {
        // Always: another instance may have declared the first cap a moment ago, and the store alone knows.
        spend: demand,
        intents,
        usage,
        ..row
    };
    let is_unread = is_money && row.spend.is_none();
    let spent = row.usage.is_some().then_some(row.stamp);
    // After a wait for loans that took all the time there is none for a verdict.
    let judged = if Instant::now() < until {
        cluster.admit(row, until).await
    } else {
        Err(StoreAway)
    };
    let is_admitted = matches!(&judged, Ok(judged) if judged.verdict == AdmissionVerdict::Admitted);
    if let Some(fault) = misdirected.filter(|_| is_admitted) {
        record.judged_elsewhere(None);
        record.admitted_by_store();
        if let Some(caps) = gate.caps {
            caps.meters.misdirected(party_of(claim), &fault);
        }
        return Err(Refusal::DestinationNotAllowed(fault));
    }
    if is_unread && is_admitted {
        allow_unread((cluster, until), local, (gate, spent), record).await?;
    }
    Ok((judged, spent))
}

/// Refuses an admitted call that tells no amount if a rule that the store has by now covers it. Asked after the admission, so that
/// no rule that was in force at that moment is missed.
async fn allow_unread(
    (cluster, until): (&Cluster, Instant),
    local: &LocallyAdmitted,
    (gate, spent): (&AdmissionGate<'_>, Option<Fingerprint>),
    record: &mut RequestRecord,
) -> Result<(), Refusal> {
    let account = local.question.as_ref().map(|it| it.account.as_str());
    let account = account.unwrap_or_default();
    let of = StoredText::parse(account).ok_or(Refusal::StoreUnavailable)?;
    let asked = cluster.calls().call(move |store| async move {
        let capped = store.capped_calls_of(&of).await;
        capped.map(CappedAccounts::of)
    });
    let operation = local.call().operation();
    let refusal = match timeout_at(until, asked).await {
        Ok(Ok(capped)) if !capped.covers(account, operation) => return Ok(()),
        Ok(Ok(_)) => Refusal::InvalidBody(UNREAD.to_owned()),
        _ => Refusal::StoreUnavailable,
    };
    // Nothing is sent, and the statement of the tenant says so.
    drop(
        gate.caps
            .zip(spent)
            .map(|(caps, stamp)| caps.reports.of(stamp)),
    );
    record.judged_elsewhere(None);
    record.admitted_by_store();
    Err(refusal)
}

fn party_of<'a>(claim: &'a ClaimedCall<'_>) -> &'a str {
    claim.caller().owner.party().id.as_str()
}

/// Counts the refusal of a call by a cap, and writes it into the audit journal.
fn note_refusal(
    verdict: &AdmissionVerdict,
    local: &LocallyAdmitted,
    (claim, record): (&ClaimedCall<'_>, &RequestRecord),
    gate: &AdmissionGate<'_>,
) {
    let (breach, refusal) = match verdict {
        AdmissionVerdict::CapExceeded(breach) => (&**breach, "cap_exceeded"),
        AdmissionVerdict::ApprovalRequired(demand) => (&demand.breach, "approval_required"),
        _ => return,
    };
    let party = party_of(claim);
    if let Some(caps) = gate.caps {
        caps.meters.refused(party, breach);
    }
    let Some(journal) = gate.journal else {
        return;
    };
    let operation = local.call().operation().name.to_string();
    if let AdmissionVerdict::ApprovalRequired(demand) = verdict
        && let Some(id) = demand.id.filter(|_| demand.begins)
    {
        journal.note_approval(ApprovalAct {
            action: ApprovalAction::Ask,
            approval: id.to_string(),
            party: party.to_owned(),
            operation: operation.clone(),
            by: party.to_owned(),
            peer: gate.address,
        });
    }
    journal.note_refusal(RuleRefusal {
        id: record.id(),
        party: party.to_owned(),
        client_id: claim.caller().client_id.to_string(),
        peer: gate.address,
        operation,
        refusal,
        rule: breach.to_string(),
    });
}

fn note_shadow(caps: Option<&Caps>, shadow: Option<CapBreach>, claim: &ClaimedCall<'_>) {
    let (Some(caps), Some(breach)) = (caps, shadow) else {
        return;
    };
    let party = party_of(claim);
    caps.meters.shadowed(party, &breach);
    let operation = &claim.routed().operation().name;
    tracing::warn!(%party, %operation, %breach, "a cap in shadow mode would have refused this call");
}

/// What a money call spends, if that can be read exactly. The store alone knows the currency of an order.
fn spend_of(
    local: &LocallyAdmitted,
    claim: &ClaimedCall<'_>,
    gate: &AdmissionGate<'_>,
) -> Option<Box<SpendDemand>> {
    let demand = local.question.as_ref()?.demand.as_deref()?;
    let spend = SpendDemand::of(demand)?;
    let approval = gate.caps.filter(|caps| caps.asks_approvals());
    let approval = approval.map(|_| {
        let digest = digest(local.call().outbound().body(), claim.routed().query());
        ApprovalSubject::of(digest, demand)
    });
    Some(Box::new(SpendDemand { approval, ..spend }))
}

/// The subject of an approval: the body, which is signed, and the query, which may name a target too.
fn digest(body: &[u8], query: Option<&str>) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(body);
    if let Some(query) = query {
        digest.update([0]);
        digest.update(query);
    }
    digest.finalize().into()
}

/// The halts that an admitted call has to pass before a byte of it is sent: one may have been set since the call's verdict.
pub fn send_check<'a>(
    (cluster, local): (Option<&'a Cluster>, &'a LocalHalts),
    admitted: &'a Admitted,
) -> SendCheck<'a> {
    let limits = admitted.tenant_limits();
    let call = HaltableCall {
        kind: admitted.kind(),
        module: admitted.halted_module(),
        party: limits.breaker.id(),
    };
    match cluster {
        None => SendCheck::Local(local.check(call, limits.seats())),
        Some(cluster) => {
            let asked = admitted.asked_store();
            SendCheck::Shared(cluster.halt_check(call, limits.seats(), asked))
        }
    }
}

/// The refusal of an admitted call of which no byte was sent. No other copy of it can have been admitted.
pub fn stopped(stop: StopBeforeSending) -> Refusal {
    match stop {
        StopBeforeSending::Halted => Refusal::Halted,
        StopBeforeSending::Suspended => Refusal::TenantSuspended,
        StopBeforeSending::NoLease => Refusal::StoreUnavailable,
    }
}

/// The question to the store; `None` before this instance has joined it.
fn row(
    cluster: &Cluster,
    local: &LocallyAdmitted,
    claim: &ClaimedCall<'_>,
) -> Option<AdmissionRow> {
    let key = cluster.key()?;
    let (caller, operation) = (claim.caller(), local.call().operation());
    let party = caller.owner.party();
    let prints = key.prints(caller.client_id.as_str(), &caller.stamp, party.replay);
    Some(AdmissionRow {
        stamp: prints.stamp,
        nonce: prints.nonce,
        stamp_ms: caller.stamp.millis(),
        party: StoredText::parse(party.id.as_str())?,
        account: StoredText::parse(&local.question.as_ref()?.account)?,
        kind: operation.kind,
        module: local.call().halted_module().as_str(),
        operation: operation.name.clone(),
        has_body: local.question.as_ref()?.need != StoreNeed::Forbidden,
        intents: local
            .call()
            .ledger()
            .map_or_else(Vec::new, |entry| entry.intents.clone()),
        spend: None,
        usage: None,
    })
}

/// The usage that statements show of a call; `None` if it changes nothing at GatePay.
fn usage_of(
    operation: &Operation,
    demand: Option<&SpendDemand>,
    (documented, key): (Option<&str>, Option<&str>),
) -> Option<Box<CallUsage>> {
    if operation.kind == Kind::Read || OwnOperation::of(operation).is_some() {
        return None;
    }
    let documented = documented.and_then(StoredText::parse);
    Some(Box::new(CallUsage {
        // A write has no amount: its repetition makes nothing that counts.
        is_once: documented.is_some() || operation.kind == Kind::Write,
        key: documented.or_else(|| key.and_then(StoredText::parse)),
        amounts: match operation.kind {
            // The store writes the amount of a refund down once it has read its currency.
            Kind::Money => demand
                .filter(|demand| demand.of_order.is_none())
                .map(|demand| demand.parts.clone()),
            Kind::Read | Kind::Write => Some(Vec::new()),
        },
    }))
}

/// The refusal of a verdict, and the reason for the metric.
fn refuse(
    verdict: &AdmissionVerdict,
    claim: &ClaimedCall<'_>,
    now_ms: u64,
) -> (&'static str, Refusal) {
    let ago = |admitted_ms: &u64| now_ms.saturating_sub(*admitted_ms);
    match verdict {
        AdmissionVerdict::Replayed { admitted_ms } => (
            "replayed",
            Refusal::Replayed {
                what: "this timestamp and nonce were",
                admitted_ms_ago: ago(admitted_ms),
            },
        ),
        AdmissionVerdict::NonceReplayed { admitted_ms } => (
            "replayed",
            Refusal::Replayed {
                what: "this nonce was used with another timestamp, which was",
                admitted_ms_ago: ago(admitted_ms),
            },
        ),
        AdmissionVerdict::Forgotten => ("clock", Refusal::StaleTimestamp(StaleStamp::Forgotten)),
        AdmissionVerdict::Guarded { wait_ms } => (
            "guarded",
            Refusal::Starting {
                retry: Duration::from_millis(*wait_ms),
            },
        ),
        AdmissionVerdict::Halted(HaltScope::Suspended(_)) => ("halted", Refusal::TenantSuspended),
        AdmissionVerdict::Halted(_) => ("halted", Refusal::Halted),
        AdmissionVerdict::Premature { ahead_ms } => {
            let (caller, ahead_ms) = (claim.caller(), i128::from(*ahead_ms));
            let window = caller.owner.party().window;
            let skew = ClockSkew {
                millis: i128::from(window.future_ms) + ahead_ms,
                stamp: caller.stamp.millis(),
                window,
            };
            ("clock", Refusal::StaleTimestamp(StaleStamp::Skew(skew)))
        }
        AdmissionVerdict::Bodyless => (
            "body_less_write",
            Refusal::OperationNotAllowed(Cow::Borrowed(BODY_LESS)),
        ),
        AdmissionVerdict::CapExceeded(breach) => {
            let wait = |frees_ms: u64| Duration::from_millis(frees_ms.saturating_sub(now_ms));
            let refusal = Refusal::CapExceeded {
                breach: breach.clone(),
                frees: breach.frees_ms.map(wait),
            };
            ("cap", refusal)
        }
        AdmissionVerdict::ApprovalRequired(demand) => {
            ("approval", Refusal::ApprovalRequired(demand.clone()))
        }
        AdmissionVerdict::UnknownCurrency => {
            ("cap", Refusal::InvalidBody(UNKNOWN_ORDER.to_owned()))
        }
        AdmissionVerdict::Admitted | AdmissionVerdict::Restored => {
            ("away", Refusal::StoreUnavailable)
        }
    }
}

/// Why another instance may have admitted a copy, by the verdict. A restored store has lost the stamps after its copy.
fn doubt(verdict: &AdmissionVerdict) -> Option<EarlierCopy> {
    match verdict {
        AdmissionVerdict::Replayed { admitted_ms }
        | AdmissionVerdict::NonceReplayed { admitted_ms } => Some(EarlierCopy::Admitted {
            admitted_ms: *admitted_ms,
        }),
        AdmissionVerdict::Guarded { .. } => Some(EarlierCopy::BeforeTheStart),
        AdmissionVerdict::Forgotten => Some(EarlierCopy::Forgotten),
        AdmissionVerdict::Restored => Some(EarlierCopy::OtherInstance),
        verdict if verdict.proves_no_copy() => None,
        _ => Some(EarlierCopy::OtherInstance),
    }
}

/// The detail for the log while the store is a restored file.
const RESTORED: &str = "the store's file was put back from a copy: run `gatepay-proxy store distrust` while no process serves";
/// The refusal text for a request that the store admitted, and that this process cannot remember any more.
const SPENT: &str =
    "this process takes no more requests; this one was not sent, and its stamp is spent: sign anew";
/// The fault of a body without an exact amount, if a cap covers the call since a moment ago.
const UNREAD: &str =
    "the amount cannot be read exactly; caps count this call, so that its amount must be exact";
/// The fault of a refund whose currency cannot be known.
const UNKNOWN_ORDER: &str = "prepayId names no order of yours in the ledger, so that its currency is not known; caps count this call";
/// The refusal text of a write without a body while reads may go on without the store.
const BODY_LESS: &str = "a write without a body is refused while reads go on without the store (store.reads_without_store)";
