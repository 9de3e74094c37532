//! Lost call: what the proxy finds out about a call whose answer is lost or does not decide the outcome, and what it
//! advises the caller.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::body::BodyReading;
use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use gatepay_core::money::MoneyCall;
use gatepay_core::operation::{IdempotencyKey, LookUp};
use gatepay_core::proof::{LookUpRule, SettledCall};
use gatepay_core::{Credential, Kind, Operation};
use gatepay_store::notifications::ledger::TenantAccount;
use gatepay_store::notifications::settlement::OpenCall;

use crate::caps::Caps;
use crate::generation::Generation;
use crate::journey::admit::Admitted;
use crate::notify::ledger::{FoundIds, LedgerQueue};
use crate::process::drain::Drain;
use crate::process::yielding::YIELD_AFTER;
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::refusal::{self, CallOutcome, Refusal};
use crate::upstream::forward::{CallOwner, UpstreamCall};
use crate::upstream::resolve::{self, ResolveSchedule};

/// What look-ups of a call use.
pub struct LookUpMeans<'a> {
    /// The worker's way to GatePay.
    pub upstream: UpstreamCall<'a>,
    /// The institution's credential.
    pub credential: &'a Credential,
    /// The time for all look-ups of a call: `upstream.resolve_ms`.
    pub within: Duration,
    /// The drain, and its deadline from its beginning, which ends look-ups early.
    pub drain: (&'a Drain, Duration),
    /// The way of GatePay's ids to the ledger, if notifications are received.
    pub ledger: Option<&'a LedgerQueue>,
    /// What money calls may spend, if there is a store.
    pub caps: Option<&'a Caps>,
}

/// The refusal of a call that was sent and has no answer fit to relay. The outcome is looked up at GatePay where
/// possible.
pub async fn lost(
    what: &'static str,
    admitted: &Admitted,
    means: &LookUpMeans<'_>,
    record: &mut RequestRecord,
) -> Refusal {
    let observation = match admitted.kind() {
        Kind::Read => None,
        Kind::Write | Kind::Money => {
            record.enter_phase(RequestPhase::LookUp);
            Some(look_up(admitted, means, &resolve::AFTER_LOSS).await)
        }
    };
    record.enter_phase(RequestPhase::Own);
    if let Some(observation) = &observation {
        observed(observation, record);
        note_observation(admitted, means, observation);
        if observation.observed != ObservedOutcome::Found {
            note_open(admitted, means, record);
        }
    }
    let (generation, operation) = (admitted.generation(), admitted.operation());
    let by_operator = admitted.is_by_operator();
    Refusal::OutcomeUnknown {
        what,
        advice: advice(generation, operation, record.known_key(), by_operator),
        observation,
    }
}

/// The outcome of an answered call after its look-up.
pub struct LookedUpCall {
    /// The outcome.
    pub outcome: CallOutcome,
    /// Whether GatePay states other amounts under the call's key.
    pub has_other_amounts: bool,
}

impl LookedUpCall {
    /// An outcome that no amount speaks against.
    pub fn of(outcome: CallOutcome) -> Self {
        Self {
            outcome,
            has_other_amounts: false,
        }
    }
}

/// Determines the outcome of a call by look-up, where the answer alone does not decide it.
pub async fn settle(
    rule: LookUpRule,
    admitted: &Admitted,
    means: &LookUpMeans<'_>,
    record: &mut RequestRecord,
) -> LookedUpCall {
    let schedule = match rule {
        LookUpRule::UnderWay => &resolve::AFTER_LOSS,
        // A call without a key cannot have used it before.
        LookUpRule::RefusedIfUnused if admitted.operation().key == IdempotencyKey::None => {
            return LookedUpCall::of(CallOutcome::Refused);
        }
        // GatePay offers no query that could show what an earlier delivery left behind.
        LookUpRule::RefusedUnlessFound if admitted.operation().look_up.is_none() => {
            return LookedUpCall::of(CallOutcome::Refused);
        }
        LookUpRule::Decided
        | LookUpRule::RefusedIfAbsent
        | LookUpRule::RefusedIfUnused
        | LookUpRule::RefusedUnlessFound => &resolve::AFTER_REFUSAL,
    };
    record.enter_phase(RequestPhase::LookUp);
    let observation = look_up(admitted, means, schedule).await;
    record.enter_phase(RequestPhase::Own);
    observed(&observation, record);
    note_observation(admitted, means, &observation);
    let settled = rule.settle(&observation);
    if settled == SettledCall::Unknown {
        note_open(admitted, means, record);
    }
    LookedUpCall {
        outcome: settled.into(),
        has_other_amounts: observation.has_other_amounts,
    }
}

fn observed(observation: &LookUpObservation, record: &mut RequestRecord) {
    record.observed(observation.observed);
    if observation.is_of_another_order {
        record.detail(ANOTHER_ORDER.to_owned());
    } else if observation.has_other_amounts {
        record.detail(OTHER_AMOUNTS.to_owned());
    }
}

/// Hands the ids in a found object to the ledger, as those of an answer.
fn note_observation(admitted: &Admitted, means: &LookUpMeans<'_>, observation: &LookUpObservation) {
    let operation = admitted.operation();
    let (Some(ledger), Some(object)) = (means.ledger, &observation.object) else {
        return;
    };
    let Some((row, holder)) = LedgerRow::of(operation).zip(holder(admitted)) else {
        return;
    };
    let chosen = chosen(admitted);
    let ids = row.found_ids(&chosen, object);
    if !ids.is_empty() && !chosen.is_empty() {
        let intents = admitted.ledger().into_iter().flat_map(|it| &it.intents);
        let mut currencies = intents.filter_map(|intent| intent.currency.as_ref());
        let currency = currencies.next();
        ledger.note_found(FoundIds {
            holder,
            operation: operation.name.to_string(),
            chosen,
            ids,
            currency: currency.map(|it| it.as_str().to_owned()),
        });
    }
}

/// Notes that the outcome of a call is not known, so that a notification settles it.
fn note_open(admitted: &Admitted, means: &LookUpMeans<'_>, record: &RequestRecord) {
    let operation = admitted.operation();
    let (Some(ledger), Some(row)) = (means.ledger, LedgerRow::of(operation)) else {
        return;
    };
    let mut keys = chosen(admitted);
    let (query, body) = admitted.outbound().content();
    let closes = keys.is_empty() && !row.closes.is_empty();
    if closes && body.len() <= YIELD_AFTER {
        keys = row.closes(&BodyReading::read(operation, query, body));
    }
    keys.truncate(OPEN_KEYS);
    if let Some(holder) = holder(admitted).filter(|_| !keys.is_empty()) {
        ledger.note_open(OpenCall {
            call: String::from_utf8_lossy(&record.id()).into_owned(),
            holder,
            operation: operation.name.to_string(),
            keys,
            closes,
        });
    }
}

/// The detail for the log if GatePay shows a refund under the call's number that may be another call's.
const ANOTHER_ORDER: &str =
    "the refund that GatePay has under this number is of another order, or names none";
/// The detail for the log if GatePay states other amounts under the call's key.
const OTHER_AMOUNTS: &str =
    "GatePay has another amount under this key: another call may have made the object";
/// The most keys of a call without a known outcome. A call has more only if its body names a number more than once.
const OPEN_KEYS: usize = 2;

/// The numbers that the call chose.
fn chosen(admitted: &Admitted) -> Vec<LedgerKey> {
    let intents = admitted.ledger().map_or(&[][..], |entry| &entry.intents);
    let keys = intents.iter().filter_map(|intent| {
        let kind = LedgerKeyKind::parse(intent.key_kind)?;
        LedgerKey::new(kind, intent.key.as_str())
    });
    keys.collect()
}

/// The party of the call with the account that it is made for.
fn holder(admitted: &Admitted) -> Option<TenantAccount> {
    Some(TenantAccount {
        tenant: admitted.tenant_limits().breaker.id().as_str().to_owned(),
        account: admitted.ledger()?.account.clone(),
    })
}

/// The advice to a caller before a repeat: the query to make, and its key.
pub fn advice(
    generation: &Generation,
    operation: &Operation,
    key: Option<&str>,
    by_operator: bool,
) -> Cow<'static, str> {
    let look_up = look_up_row(generation, operation);
    let look_up = look_up.and_then(|(_, row)| match &row.merchant_path {
        Some(path) if !by_operator => Some((row.method, path.as_ref())),
        _ => Some((row.institution_method, row.institution_path.as_deref()?)),
    });
    refusal::advice(operation, look_up, key)
}

/// Looks a call up at GatePay on schedule, until the call is found, or `upstream.resolve_ms` or the drain ends it.
async fn look_up(
    admitted: &Admitted,
    means: &LookUpMeans<'_>,
    schedule: &ResolveSchedule,
) -> LookUpObservation {
    let upstream = means.upstream;
    let mut seen = LookUpObservation::UNKNOWN;
    let (generation, position) = (admitted.generation(), admitted.position());
    let (query, body) = admitted.outbound().content();
    let asked = if body.len() <= YIELD_AFTER {
        question(generation, position, query, body)
    } else {
        let generation = Arc::clone(generation);
        let (query, body) = (query.map(str::to_owned), body.clone());
        let read = move || question(&generation, position, query.as_deref(), &body);
        let offload = upstream.offload.of_party(admitted.tenant_limits());
        Box::pin(offload.run(read)).await
    };
    let row = look_up_row(generation, admitted.operation());
    let Some((question, (_, row))) = asked.zip(row) else {
        return seen;
    };
    let Ok(outbound) = admitted.outbound().look_up(row, &question) else {
        return seen;
    };
    let ask =
        |head: &mut Vec<u8>| outbound.attempt(means.credential, &upstream.clock.stamp(), head);
    let call = UpstreamCall {
        owner: CallOwner::LookUp(admitted.tenant_limits()),
        ..upstream
    };
    let (drain, deadline) = means.drain;
    tokio::select! {
        () = resolve::resolve(call, &question, schedule, means.within, &mut seen, ask) => {}
        // The drain deadline is near: answer with the observation so far while there is time.
        () = drain.before_deadline(deadline) => {}
    }
    seen
}

/// The look-up question about a call with this body.
fn question(
    generation: &Generation,
    position: usize,
    query: Option<&str>,
    body: &[u8],
) -> Option<LookUpQuestion> {
    let operation = &generation.catalogue.rows()[position];
    let (by, row) = look_up_row(generation, operation)?;
    let reading = BodyReading::read(operation, query, body);
    let question = LookUpQuestion::about(by, row, &reading)?;
    let demand = MoneyCall::new(operation, &reading)
        .demand()
        .and_then(Result::ok);
    Some(question.asking_for(demand.map_or_else(Vec::new, |demand| demand.parts)))
}

/// The operation's look-up and the row of the look-up operation, if there is such a row and it is on.
fn look_up_row<'a>(
    generation: &'a Generation,
    operation: &'a Operation,
) -> Option<(&'a LookUp, &'a Operation)> {
    let look_up = operation.look_up.as_ref()?;
    let row = generation.catalogue.named(look_up.operation)?;
    row.off().is_none().then_some((look_up, row))
}
