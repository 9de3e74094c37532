//! Spend look-ups: asks GatePay about spends of unknown outcome, whose instance may be gone.
//!
//! GatePay's answer that it has the object ends the doubt, and the spend goes on counting. "Not found" proves nothing: such a
//! spend counts until a notification, or an operator, settles it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use gatepay_core::body::BodyReading;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use gatepay_core::money::MoneyRow;
use gatepay_store::caps::spend::{SettledObject, UnknownSpend};
use gatepay_store::engine::statements::UsageSettlement;
use gatepay_store::instance::HaltInForce;
use serde_json::json;
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::journey::sign::Outbound;
use crate::upstream::forward::CallOwner;
use crate::upstream::resolve;
use crate::worker::Worker;

/// The interval at which spends are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The time for one look-up.
const WITHIN: Duration = Duration::from_secs(3);
/// The most spends that are read at once, and the most look-ups of one round, which take of the quota's spare part.
const MOST: u32 = 1_000;
const MOST_ASKED: usize = 10;
/// The pause before the next look-up of one spend: its age, so that pauses double also over restarts, within these bounds.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// Asks about unknown spends, for as long as this future is polled.
pub(super) async fn keep_asking(worker: &Worker) {
    let app = &worker.app;
    let (Some(caps), Some(cluster)) = (&app.caps, &app.cluster) else {
        return;
    };
    // The time of the next look-up by spend.
    let mut asked: HashMap<UnknownSpend, Duration> = HashMap::new();
    loop {
        sleep(LOOK).await;
        if !caps.is_counting() {
            continue;
        }
        let unknown = cluster
            .calls()
            .call(|store| async move { store.unknown_spends(MOST).await });
        let Ok(unknown) = unknown.await else {
            continue;
        };
        let now = app.clock.elapsed();
        let now_ms = app
            .clock
            .unix_ms()
            .saturating_add_signed(cluster.offset_ms());
        // A call without a key cannot be asked about.
        let unknown: HashSet<UnknownSpend> =
            unknown.into_iter().filter(|it| it.key.is_some()).collect();
        asked.retain(|spend, _| unknown.contains(spend));
        for spend in due(unknown, &asked, now) {
            let age = Duration::from_millis(now_ms.saturating_sub(spend.since_ms));
            let settled = ask(worker, cluster, &spend).await;
            if settled.is_none() {
                asked.insert(spend, now + age.clamp(FIRST_PAUSE, LONGEST_PAUSE));
            }
        }
    }
}

/// The spends of one round: of each party in turn, those that were asked about longest ago, new ones first.
fn due(
    unknown: HashSet<UnknownSpend>,
    asked: &HashMap<UnknownSpend, Duration>,
    now: Duration,
) -> Vec<UnknownSpend> {
    let mut parties: BTreeMap<String, Vec<(Option<Duration>, UnknownSpend)>> = BTreeMap::new();
    for spend in unknown {
        let at = asked.get(&spend).copied();
        if at.is_none_or(|at| at <= now) {
            let of_party = parties.entry(spend.party.as_str().to_owned()).or_default();
            of_party.push((at, spend));
        }
    }
    let mut due: Vec<(usize, Option<Duration>, UnknownSpend)> = Vec::new();
    for of_party in parties.values_mut() {
        of_party.sort_by_key(|(at, spend)| (*at, spend.since_ms));
        let places = of_party.drain(..).enumerate();
        due.extend(places.map(|(place, (at, spend))| (place, at, spend)));
    }
    due.sort_by_key(|(place, at, _)| (*place, *at));
    due.truncate(MOST_ASKED);
    due.into_iter().map(|(_, _, spend)| spend).collect()
}

/// Asks GatePay about the object under the spend's key. Settles the spend if GatePay has it.
async fn ask(worker: &Worker, cluster: &Cluster, spend: &UnknownSpend) -> Option<()> {
    let app = &worker.app;
    let key = spend.key.clone()?;
    let money = MoneyRow::counted_as(&spend.counted_as)?;
    let generation = app.generation.load_full();
    let operation = generation.catalogue.named(money.operation)?;
    let look_up = operation.look_up.as_ref()?;
    let row = generation.catalogue.named(look_up.operation)?;
    let halts = cluster.known_halts()?;
    let party = spend.party.as_str();
    let covers = |halt: &HaltInForce| halt.scope.covers(row.kind, row.module.as_str(), party);
    if row.off().is_some() || halts.iter().any(covers) {
        return None;
    }
    let body = json!({ money.key?: key.as_str() }).to_string();
    let reading = BodyReading::read(operation, None, body.as_bytes());
    let question = LookUpQuestion::about(look_up, row, &reading)?;
    let (host, account) = (&app.upstream.host, spend.account.as_str());
    let outbound = Outbound::later_look_up(row, &question, account, host).ok()?;
    let signing = &app.upstream.credential_rotation;
    let signing = signing.signing(&generation.institution)?;
    let stamp = || app.upstream.clock.stamp();
    let ask = |head: &mut Vec<u8>| outbound.attempt(signing.credential(), &stamp(), head);
    // What GatePay says from now on, it had decided by now or later: attempts of before are covered.
    let now_ms = app.clock.unix_ms();
    let decided_ms = now_ms.saturating_add_signed(cluster.offset_ms());
    let mut seen = LookUpObservation::UNKNOWN;
    let call = worker.upstream_call(CallOwner::Proxy);
    resolve::resolve(call, &question, &resolve::LATER, WITHIN, &mut seen, ask).await;
    if seen.observed != ObservedOutcome::Found {
        return None;
    }
    let object = SettledObject {
        party: spend.party.clone(),
        account: spend.account.clone(),
        counted_as: money
            .counted_names()
            .filter(|name| **name == *spend.counted_as)
            .collect(),
        key,
        stands: true,
        amounts: Vec::new(),
        decided_ms,
    };
    let usage = UsageSettlement {
        party: object.party.clone(),
        account: object.account.clone(),
        operations: vec![money.operation],
        key: object.key.clone(),
        has_failed: false,
        decided_ms,
    };
    // Repeating either changes nothing, so that a spend which stays unknown after an error is asked about once more.
    let settled = cluster.calls().call(move |store| async move {
        store.settle_usage(&usage).await?;
        store.settle_object(&object).await
    });
    settled.await.ok()?;
    tracing::info!(party = %spend.party.as_str(), operation = %operation.name, "GatePay has a call of unknown outcome: it goes on counting as spent");
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_store::admission::StoredText;

    fn spend(party: &str, number: u64) -> UnknownSpend {
        let text = |text: &str| StoredText::parse(text).unwrap();
        UnknownSpend {
            since_ms: number,
            party: text(party),
            account: text("100"),
            counted_as: "create_payout".to_owned(),
            key: Some(text(&number.to_string())),
        }
    }

    #[test]
    fn look_ups_take_parties_in_turn_and_new_spends_first() {
        let acme = (0..50).map(|number| spend("acme", number));
        let unknown: HashSet<UnknownSpend> = acme.chain([spend("globex", 90)]).collect();
        let seconds = Duration::from_secs;
        let mut asked: HashMap<UnknownSpend, Duration> = (0..45)
            .map(|number| (spend("acme", number), seconds(5)))
            .collect();
        asked.insert(spend("acme", 0), seconds(9));
        asked.insert(spend("acme", 7), seconds(4));
        let due = due(unknown, &asked, seconds(8));
        assert_eq!(due.len(), MOST_ASKED);
        let first: HashSet<&UnknownSpend> = due[..2].iter().collect();
        assert_eq!(
            first,
            HashSet::from([&spend("acme", 45), &spend("globex", 90)])
        );
        let new: Vec<u64> = due[2..6].iter().map(|it| it.since_ms).collect();
        assert_eq!(new, [46, 47, 48, 49]);
        assert_eq!(due[6], spend("acme", 7), "asked about longest ago");
        assert!(!due.contains(&spend("acme", 0)), "not yet");
    }
}
