//! Spend look-ups: asks GatePay about spends of unknown outcome, whose instance may be gone.
//!
//! GatePay's answer that it has the object ends the doubt, and the spend goes on counting. "Not found" proves nothing: such a
//! spend counts until a notification, or an operator, settles it.

use std::collections::HashMap;
use std::time::Duration;

use gatepay_core::body::BodyReading;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use gatepay_core::money::MoneyRow;
use gatepay_store::caps::spend::{SettledObject, UnknownSpend};
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
/// The pause between two look-ups of one spend: it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// When a spend is to be asked about, and the pause after that.
type NextLookUp = (Duration, Duration);

/// Asks about unknown spends, for as long as this future is polled.
pub(super) async fn keep_asking(worker: &Worker) {
    let app = &worker.app;
    let (Some(caps), Some(cluster)) = (&app.caps, &app.cluster) else {
        return;
    };
    let mut asked: HashMap<UnknownSpend, NextLookUp> = HashMap::new();
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
        asked.retain(|spend, _| unknown.contains(spend));
        let is_due = |spend: &UnknownSpend| asked.get(spend).is_none_or(|(at, _)| *at <= now);
        let due: Vec<UnknownSpend> = unknown.into_iter().filter(is_due).collect();
        for spend in due.into_iter().take(MOST_ASKED) {
            let pause = asked.get(&spend).map_or(FIRST_PAUSE, |(_, pause)| *pause);
            let next = (pause * 2).min(LONGEST_PAUSE);
            let settled = ask(worker, cluster, &spend).await;
            if settled.is_none() {
                asked.insert(spend, (now + pause, next));
            }
        }
    }
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
    let settled = cluster
        .calls()
        .call(move |store| async move { store.settle_object(&object).await });
    settled.await.ok()?;
    tracing::info!(party = %spend.party.as_str(), operation = %operation.name, "GatePay has a call of unknown outcome: it goes on counting as spent");
    Some(())
}
