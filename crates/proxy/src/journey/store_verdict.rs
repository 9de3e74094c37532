//! Store verdict: whether the store that instances share lets a call go ahead.
//!
//! The call has its tokens and its seat already, so that a flood of refusals costs the store nothing. Its stamp counts as
//! under way until the verdict: a refusal gives everything back and leaves the stamp unspent.

use std::borrow::Cow;
use std::time::Duration;

use gatepay_admission::replay::EarlierCopy;
use gatepay_core::Kind;
use gatepay_core::stamp::ClockSkew;
use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, HaltScope, StoredText};

use crate::cluster::{Cluster, StopBeforeSending, StoreAway};
use crate::journey::admit::{AdmissionGate, Admitted, LocallyAdmitted};
use crate::journey::stamp::{self, ClaimedCall, CoveredStamp};
use crate::record::RequestRecord;
use crate::refusal::{Refusal, StaleStamp};

/// Completes the admission of a call: asks the store, if there is one.
pub async fn confirm(
    local: LocallyAdmitted,
    proved: (&ClaimedCall<'_>, &CoveredStamp),
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> Result<Box<Admitted>, Refusal> {
    match gate.cluster {
        None => Ok(local.alone()),
        Some(cluster) => Box::pin(ask(cluster, local, proved, gate, record)).await,
    }
}

/// Asks the store about a call, and then records the call's stamp here, in front of the store.
async fn ask(
    cluster: &Cluster,
    local: LocallyAdmitted,
    (claim, stamp): (&ClaimedCall<'_>, &CoveredStamp),
    gate: &AdmissionGate<'_>,
    record: &mut RequestRecord,
) -> Result<Box<Admitted>, Refusal> {
    let kind = local.call().kind();
    let is_bare_read = local
        .question
        .as_ref()
        .is_some_and(|asked| asked.is_bare_read);
    if cluster.reads_without_store()
        && kind != Kind::Read
        && local.call().outbound().body().is_empty()
    {
        // Such a read may have used this stamp while the store was away: the signature does not cover the path.
        cluster.refused("body_less_write");
        return Err(Refusal::OperationNotAllowed(Cow::Borrowed(BODY_LESS)));
    }
    let asked = gate.clock.elapsed();
    let verdict = match row(cluster, &local, claim) {
        Some(row) => cluster.admit(row).await,
        None => Err(StoreAway),
    };
    let asked = match verdict {
        Ok(AdmissionVerdict::Admitted) => {
            record.judged_elsewhere(None);
            Some(asked)
        }
        Ok(verdict) => {
            let now_ms = gate.clock.unix_ms();
            let (why, refusal) = refuse(&verdict, claim, now_ms);
            record.judged_elsewhere(doubt(&verdict));
            cluster.refused(why);
            return Err(refusal);
        }
        Err(StoreAway) if is_bare_read && cluster.reads_without_store() => None,
        Err(StoreAway) => {
            cluster.refused("away");
            return Err(Refusal::StoreUnavailable);
        }
    };
    let now_ms = gate.clock.unix_ms();
    gate.replay
        .record(stamp.fingerprint(), now_ms)
        .map_err(|unusable| stamp::refuse(unusable, now_ms))?;
    record.admitted();
    Ok(local.confirmed(asked))
}

/// Asks once more before the call is sent: a halt may have been set since.
pub fn ask_again(cluster: Option<&Cluster>, admitted: &Admitted) -> Result<(), Refusal> {
    let (Some(cluster), Some(asked)) = (cluster, admitted.asked_store()) else {
        return Ok(());
    };
    let (operation, party) = (admitted.operation(), admitted.tenant_limits().breaker.id());
    let call = (operation.kind, operation.module.as_str(), party.as_str());
    match cluster.stops(call, asked) {
        None => Ok(()),
        Some(StopBeforeSending::Halted) => {
            cluster.refused("halted");
            Err(Refusal::Halted)
        }
        Some(StopBeforeSending::NoLease) => {
            cluster.refused("away");
            Err(Refusal::StoreUnavailable)
        }
    }
}

/// What the store is asked; `None` before this instance has joined it.
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
        intents: Vec::new(),
        spend_key: None,
        spends: Vec::new(),
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
        // No version of the store that this one works with answers so without a cap.
        AdmissionVerdict::Admitted | AdmissionVerdict::CapExceeded | AdmissionVerdict::Restored => {
            ("away", Refusal::StoreUnavailable)
        }
    }
}

/// Why another instance may have admitted a copy, by the verdict. A restored store has lost what came after its copy.
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

/// The refusal text of a write without a body while reads may go on without the store.
const BODY_LESS: &str = "a write without a body is refused while reads go on without the store (store.reads_without_store)";
