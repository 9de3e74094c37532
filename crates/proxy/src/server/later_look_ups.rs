//! Later look-ups: asks GatePay about calls of unknown outcome, whose instance may be gone.
//!
//! GatePay's answer that it has the object ends the doubt, and a spend goes on counting. "Not found" proves nothing: such a
//! call stays unknown until a notification, or an operator, settles it. Where the answer states amounts, the object is that of
//! the call which asked for them; if none did, the calls stay unknown. Calls that caps count come first, since they take
//! room; for all others the statement wants to know.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use gatepay_core::body::BodyReading;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use gatepay_core::money::{MoneyRow, ObjectAmounts};
use gatepay_core::operation::IdempotencyKey;
use gatepay_core::{Catalogue, Operation};
use gatepay_store::admission::StoredText;
use gatepay_store::caps::spend::{SettledObject, UnknownSpend};
use gatepay_store::engine::statements::ObjectWord;
use gatepay_store::instance::HaltInForce;
use gatepay_store::statement::account_book::UnknownCall;
use serde_json::json;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::journey::sign::Outbound;
use crate::upstream::forward::CallOwner;
use crate::upstream::resolve;
use crate::worker::Worker;

/// The interval at which unknown calls are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The time for one look-up.
const WITHIN: Duration = Duration::from_secs(3);
/// The most calls that are read at once, and the most look-ups of one round, which take of the quota's spare part.
const MOST: u32 = 1_000;
const MOST_ASKED: usize = 10;
/// The pause before the next look-up of one call: its age, so that pauses double also over restarts, within these bounds.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// What GatePay is asked about: the object of an operation under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct UnknownObject {
    party: StoredText,
    account: StoredText,
    operation: String,
    key: StoredText,
}

/// How urgent a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Urgency {
    /// When a call for the object was admitted.
    since_ms: u64,
    /// Whether caps count it.
    is_spend: bool,
}

/// Asks about unknown calls, for as long as this future is polled.
pub(super) async fn keep_asking(worker: &Worker) {
    let app = &worker.app;
    let (Some(caps), Some(cluster)) = (&app.caps, &app.cluster) else {
        return;
    };
    // The time of the next look-up by object.
    let mut asked: HashMap<UnknownObject, Duration> = HashMap::new();
    loop {
        sleep(LOOK).await;
        let generation = app.generation.load_full();
        let operations: Vec<String> = answerable(&generation.catalogue)
            .map(|operation| operation.name.to_string())
            .collect();
        let calls = cluster.calls().call(move |store| async move {
            let operations: Vec<&str> = operations.iter().map(String::as_str).collect();
            store.unknown_calls(&operations, MOST).await
        });
        let Ok(calls) = calls.await else {
            continue;
        };
        let now = app.clock.elapsed();
        let now_ms = app
            .clock
            .unix_ms()
            .saturating_add_signed(cluster.time_offset_ms());
        let unknown = unknown(&caps.unknown_spends(), calls, &generation.catalogue);
        asked.retain(|object, _| unknown.contains_key(object));
        for object in due(&unknown, &asked, now) {
            let Urgency { since_ms, is_spend } = unknown[&object];
            let age = Duration::from_millis(now_ms.saturating_sub(since_ms));
            if ask(worker, cluster, &object).await.is_some() {
                let (party, operation) = (object.party.as_str(), &object.operation);
                let counts = if is_spend {
                    ": it goes on counting as spent"
                } else {
                    ""
                };
                tracing::info!(%party, %operation, "GatePay has a call of unknown outcome{counts}");
            }
            // Also after an answer, since `unknown` may have been read before the answer came.
            asked.insert(object, now + age.clamp(FIRST_PAUSE, LONGEST_PAUSE));
        }
    }
}

/// The operations whose calls GatePay can be asked about later, by their key alone.
fn answerable(catalogue: &Catalogue) -> impl Iterator<Item = &Operation> {
    let rows = catalogue.rows().iter();
    rows.filter(|operation| key_field(operation).is_some())
}

/// The field of the key by which GatePay can be asked about a call to the operation.
fn key_field(operation: &Operation) -> Option<&str> {
    let look_up = operation.look_up.as_ref().filter(|it| it.proves)?;
    match (&operation.key, &look_up.by) {
        (IdempotencyKey::One(own), IdempotencyKey::One(asked)) if own == asked => {
            Some(own.as_ref())
        }
        _ => None,
    }
}

/// The fields and values of an object's key, as a call states them. The key of a refund that caps count has its order too.
fn key_fields(operation: &Operation, key: &str) -> Option<BTreeMap<String, String>> {
    let asked = key_field(operation)?;
    let spend = MoneyRow::of(operation).and_then(|row| row.key);
    let of_spend = spend.and_then(|spend| spend.values(key));
    let fields = of_spend.unwrap_or_else(|| vec![(asked, key)]).into_iter();
    Some(
        fields
            .map(|(field, value)| (field.to_owned(), value.to_owned()))
            .collect(),
    )
}

/// The objects of unknown calls. A call without a key cannot be asked about.
fn unknown(
    spends: &[UnknownSpend],
    calls: Vec<UnknownCall>,
    catalogue: &Catalogue,
) -> HashMap<UnknownObject, Urgency> {
    let mut unknown = HashMap::new();
    for call in calls {
        let urgency = Urgency {
            since_ms: call.at_ms,
            is_spend: false,
        };
        let object = UnknownObject {
            party: call.party,
            account: call.account,
            operation: call.operation,
            key: call.key,
        };
        unknown.entry(object).or_insert(urgency);
    }
    for spend in spends {
        let row = MoneyRow::counted_as(&spend.counted_as).zip(spend.key.clone());
        let Some((row, key)) = row else {
            continue;
        };
        let operation = catalogue.named(row.operation);
        if operation.and_then(key_field).is_none() {
            continue;
        }
        let object = UnknownObject {
            party: spend.party.clone(),
            account: spend.account.clone(),
            operation: row.operation.to_owned(),
            key,
        };
        let urgency = Urgency {
            since_ms: spend.since_ms,
            is_spend: true,
        };
        unknown.insert(object, urgency);
    }
    unknown
}

/// The objects of one round: those that caps count first, of each party in turn, and the youngest first. An object that
/// GatePay does not find is asked about ever more rarely, and keeps no younger one waiting.
fn due(
    unknown: &HashMap<UnknownObject, Urgency>,
    asked: &HashMap<UnknownObject, Duration>,
    now: Duration,
) -> Vec<UnknownObject> {
    let mut parties: BTreeMap<(bool, &str), Vec<(u64, &UnknownObject)>> = BTreeMap::new();
    for (object, urgency) in unknown {
        if asked.get(object).is_none_or(|at| *at <= now) {
            let party = (!urgency.is_spend, object.party.as_str());
            let of_party = parties.entry(party).or_default();
            of_party.push((urgency.since_ms, object));
        }
    }
    let mut due = Vec::new();
    for ((is_later, _), mut of_party) in parties {
        of_party.sort_by_key(|(since_ms, object)| (std::cmp::Reverse(*since_ms), *object));
        let places = of_party.into_iter().enumerate();
        due.extend(places.map(|(place, (since_ms, object))| {
            let rank = (is_later, place, std::cmp::Reverse(since_ms));
            (rank, object)
        }));
    }
    due.sort();
    due.truncate(MOST_ASKED);
    due.into_iter().map(|(_, object)| object.clone()).collect()
}

/// Asks GatePay about an object. Settles its calls if GatePay has it.
async fn ask(worker: &Worker, cluster: &Cluster, unknown: &UnknownObject) -> Option<()> {
    let app = &worker.app;
    let generation = app.generation.load_full();
    let operation = generation.catalogue.named(&unknown.operation)?;
    let fields = key_fields(operation, unknown.key.as_str())?;
    let look_up = operation.look_up.as_ref()?;
    let row = generation.catalogue.named(look_up.operation)?;
    let halts = cluster.known_halts()?;
    let party = unknown.party.as_str();
    let covers = |halt: &HaltInForce| halt.scope.covers(row.kind, row.module.as_str(), party);
    if row.off().is_some() || halts.iter().any(covers) {
        return None;
    }
    let body = json!(fields).to_string();
    let reading = BodyReading::read(operation, None, body.as_bytes());
    let question = LookUpQuestion::about(look_up, row, &reading)?;
    if !question.can_prove() {
        return None;
    }
    let (host, account) = (&app.upstream.host, unknown.account.as_str());
    let outbound = Outbound::later_look_up(row, &question, account, host).ok()?;
    let signing = &app.upstream.credential_rotation;
    let signing = signing.signing(&generation.institution)?;
    let stamp = || app.upstream.clock.stamp();
    let ask = |head: &mut Vec<u8>| outbound.attempt(signing.credential(), &stamp(), head);
    // GatePay answers later than now, so its answer covers all attempts that were admitted before.
    let now_ms = app.clock.unix_ms();
    let decided_ms = now_ms.saturating_add_signed(cluster.time_offset_ms());
    let mut seen = LookUpObservation::UNKNOWN;
    let call = worker.upstream_call(CallOwner::Proxy);
    resolve::resolve(call, &question, &resolve::LATER, WITHIN, &mut seen, ask).await;
    if seen.is_of_another_order {
        let operation = &unknown.operation;
        tracing::warn!(%party, %operation, key = %unknown.key.as_str(),
            "GatePay has another order's refund under the number of a refund of unknown outcome: it stays unknown");
    }
    if seen.observed != ObservedOutcome::Found {
        return None;
    }
    let word = word_about(unknown, operation, seen, decided_ms);
    // Both calls may be repeated: after an error the object is asked about again.
    let settled = cluster.calls().call(move |store| async move {
        let is_other = store.settle_usage(&word).await?;
        store.settle_object(&word.object).await?;
        Ok(is_other)
    });
    if settled.await.ok()? {
        let operation = &unknown.operation;
        tracing::warn!(%party, %operation, key = %unknown.key.as_str(),
            "GatePay has another amount under the key of a call of unknown outcome: it stays unknown");
        return None;
    }
    Some(())
}

/// GatePay's word that it has an object, with the amounts that it states.
fn word_about(
    unknown: &UnknownObject,
    operation: &Operation,
    seen: LookUpObservation,
    decided_ms: u64,
) -> ObjectWord {
    let money = MoneyRow::of(operation);
    let (amounts, is_whole) = match seen.amounts.map(|stated| *stated) {
        Some(ObjectAmounts { amounts, is_whole }) => (amounts, is_whole),
        None => (Vec::new(), false),
    };
    ObjectWord {
        object: SettledObject {
            party: unknown.party.clone(),
            account: unknown.account.clone(),
            counted_as: money.map_or_else(Vec::new, |row| row.counted_names().collect()),
            key: unknown.key.clone(),
            stands: true,
            amounts,
            decided_ms,
        },
        operations: vec![unknown.operation.clone()],
        is_whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(8);

    fn object(party: &str, number: u64) -> UnknownObject {
        let text = |text: &str| StoredText::parse(text).unwrap();
        UnknownObject {
            party: text(party),
            account: text("100"),
            operation: "create_payout".to_owned(),
            key: text(&number.to_string()),
        }
    }

    fn of(since_ms: u64, is_spend: bool) -> Urgency {
        Urgency { since_ms, is_spend }
    }

    #[test]
    fn look_ups_take_parties_in_turn_and_young_calls_first() {
        let acme = (0..50).map(|number| (object("acme", number), of(number, true)));
        let globex = (object("globex", 90), of(3, true));
        let unknown: HashMap<_, _> = acme.chain([globex]).collect();
        let asked = HashMap::from([
            (object("acme", 49), Duration::from_secs(9)),
            (object("acme", 48), Duration::from_secs(7)),
        ]);
        let due = due(&unknown, &asked, NOW);
        assert_eq!(due.len(), MOST_ASKED);
        let first = [object("acme", 48), object("globex", 90)];
        assert_eq!(due[..2], first, "again, since its pause is over");
        assert_eq!(due[2], object("acme", 47));
        assert!(!due.contains(&object("acme", 49)), "not yet");
    }

    #[test]
    fn calls_that_gatepay_never_finds_keep_no_younger_one_waiting() {
        let old = (0..1_000).map(|number| (object("acme", number), of(number, true)));
        let unknown: HashMap<_, _> = old
            .chain([(object("acme", 5_000), of(5_000, true))])
            .collect();
        // The pauses of all are over; those of the old calls ended earlier.
        let asked = unknown.iter().map(|(object, urgency)| {
            let seconds = if urgency.since_ms == 5_000 { 7 } else { 1 };
            (object.clone(), Duration::from_secs(seconds))
        });
        let due = due(&unknown, &asked.collect(), NOW);
        assert_eq!(due[0], object("acme", 5_000));
    }

    #[test]
    fn calls_that_no_cap_counts_take_what_spends_leave() {
        let spends = (0..9).map(|number| (object("acme", number), of(number, true)));
        let others = (100..105).map(|number| (object("globex", number), of(number, false)));
        let unknown: HashMap<_, _> = spends.chain(others).collect();
        let due = due(&unknown, &HashMap::new(), NOW);
        assert_eq!(due[9], object("globex", 104));
        let spends = due.iter().filter(|it| it.party.as_str() == "acme");
        assert_eq!(spends.count(), 9);
    }

    #[test]
    fn a_refund_is_asked_about_by_its_own_number() {
        let catalogue = Catalogue::standard();
        let fields = |operation: &str, key: &str| {
            let operation = catalogue.named(operation).unwrap();
            let fields = key_fields(operation, key).unwrap();
            serde_json::to_string(&fields).unwrap()
        };
        let expected = r#"{"prepayId":"P","refundRequestId":"R"}"#;
        assert_eq!(fields("refund_order", "P R"), expected);
        assert_eq!(fields("refund_order", "R"), r#"{"refundRequestId":"R"}"#);
        assert_eq!(fields("create_payout", "B"), r#"{"batch_id":"B"}"#);
    }

    #[test]
    fn an_object_is_asked_about_once_and_only_by_a_key_that_proves_it() {
        let catalogue = Catalogue::standard();
        let text = |text: &str| StoredText::parse(text).unwrap();
        let call = |operation: &str| UnknownCall {
            at_ms: 5,
            party: text("acme"),
            account: text("100"),
            operation: operation.to_owned(),
            key: text("7"),
        };
        let spend = |counted_as: &str, key| UnknownSpend {
            since_ms: 3,
            party: text("acme"),
            account: text("100"),
            counted_as: counted_as.to_owned(),
            key,
        };
        let spends = [
            spend("refund_order_v2/payout", Some(text("7"))),
            spend("create_conversion", Some(text("7"))),
            spend("create_payout", None),
        ];
        let calls = vec![call("refund_order_v2"), call("create_order")];
        let unknown = unknown(&spends, calls, &catalogue);
        let mut told: Vec<_> = unknown
            .iter()
            .map(|(object, urgency)| (object.operation.as_str(), *urgency))
            .collect();
        told.sort_by_key(|(operation, _)| *operation);
        let expected = [
            ("create_order", of(5, false)),
            ("refund_order_v2", of(3, true)),
        ];
        assert_eq!(told, expected);
        let named: Vec<&str> = answerable(&catalogue).map(|it| &*it.name).collect();
        assert!(named.contains(&"create_payout") && named.contains(&"create_otc_order"));
        assert!(
            !named.contains(&"close_order"),
            "an older order may be closed"
        );
    }
}
