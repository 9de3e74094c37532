//! Store verdict: whether the store that instances share lets a call go ahead.
//!
//! The call has its tokens and its seat already, so that a flood of refusals costs the store nothing. Its stamp counts as
//! under way until the verdict: a refusal gives everything back and leaves the stamp unspent.

use std::borrow::Cow;
use std::time::Duration;

use gatepay_admission::replay::{EarlierCopy, UnusableStamp};
use gatepay_core::stamp::ClockSkew;
use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, HaltScope, StoredText};
use tokio::time::Instant;

use crate::cluster::halt_check::{HaltCheck, StopBeforeSending};
use crate::cluster::{Cluster, StoreAway};
use crate::journey::admit::{AdmissionGate, Admitted, LocallyAdmitted, StoreNeed};
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
    let verdict = match row(cluster, &local, claim) {
        // After a wait for loans that took all the time there is none for a verdict.
        Some(row) if Instant::now() < until => cluster.admit(row, until).await,
        _ => Err(StoreAway),
    };
    let asked = match verdict {
        Ok(AdmissionVerdict::Admitted) => {
            record.judged_elsewhere(None);
            Some(asked)
        }
        Ok(verdict) => {
            let now_ms = gate.clock.unix_ms();
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
    let now_ms = gate.clock.unix_ms();
    match gate.replay.record(stamp.fingerprint(), now_ms) {
        Ok(()) => record.admitted(),
        Err(UnusableStamp::HandedOver | UnusableStamp::Full) if asked.is_some() => {
            record.admitted_by_store();
            return Err(Refusal::Overloaded(SPENT));
        }
        Err(unusable) => return Err(stamp::refuse(unusable, now_ms)),
    }
    Ok(local.confirmed(asked))
}

/// The halts that an admitted call has to pass before a byte of it is sent, if instances share a store: one may have been
/// set since the call's verdict.
pub fn halt_check<'a>(
    cluster: Option<&'a Cluster>,
    admitted: &'a Admitted,
) -> Option<HaltCheck<'a>> {
    let cluster = cluster?;
    let limits = admitted.tenant_limits();
    let party = (limits.breaker.id().as_str(), limits.seats());
    Some(cluster.halt_check(admitted.operation(), party, admitted.asked_store()))
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
        module: operation.module.as_str(),
        operation: operation.name.clone(),
        has_body: local.question.as_ref()?.need != StoreNeed::Forbidden,
        intents: local
            .call()
            .ledger()
            .map_or_else(Vec::new, |entry| entry.intents.clone()),
        spend: None,
    })
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
        // No row asks for a spend yet, so no cap is exceeded.
        AdmissionVerdict::Admitted
        | AdmissionVerdict::CapExceeded(_)
        | AdmissionVerdict::Restored => ("away", Refusal::StoreUnavailable),
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
/// The refusal text of a write without a body while reads may go on without the store.
const BODY_LESS: &str = "a write without a body is refused while reads go on without the store (store.reads_without_store)";
