//! Thread: `caps`, which declares the rules and destinations of each configuration, takes the ends of calls to the store, and
//! shows the spends of unknown outcome.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_store::caps::rule::CapDeclaration;
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource};
use gatepay_tenancy::settings::MetricsSettings;
use tokio::runtime::Builder;
use tokio::task::spawn;
use tokio::time::{sleep, timeout};

use crate::caps::declaration::{self, declaration};
use crate::caps::spend_reports::{MOST, SpendNews, SpendReportsEnd};
use crate::caps::{Caps, destinations, has_any};
use crate::cluster::store_calls::{LongReader, StoreCallError, StoreCalls};
use crate::generation::Generation;
use crate::process::clock::Clock;
use crate::process::drain::Drain;
use crate::process::yielding::OffloadThreads;

/// The interval at which the configuration in force is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The shorter interval until the store has the first rules.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// The interval at which the start looks whether the store has them.
const START_LOOK: Duration = Duration::from_millis(2);
/// The interval at which spends age, and their figures are read.
const AGE: Duration = Duration::from_secs(5);
/// The pause after the store did not take a call.
const RETRY: Duration = Duration::from_millis(500);
/// The time for the last reports to the store.
const FINISH: Duration = Duration::from_secs(1);
/// The interval at which the amounts that caps count are read.
const USE: Duration = Duration::from_secs(10);
/// The most spends of unknown outcome that are looked at.
const MOST_UNKNOWN: u32 = 10_000;

/// The parts of the process that the thread uses.
pub struct CapInputs {
    /// The shared part.
    pub caps: Arc<Caps>,
    /// The store.
    pub calls: StoreCalls,
    /// The configuration in force.
    pub in_force: Box<dyn Fn() -> Arc<Generation> + Send + Sync>,
    /// The settings of metrics, which name the number of tenants with series of their own.
    pub metrics: MetricsSettings,
    /// The number of operators for an order that one alone may not give.
    pub approvers: u32,
    /// The process's clock.
    pub clock: Clock,
    /// The store's time less this machine's clock, in milliseconds.
    pub offset_ms: Box<dyn Fn() -> i64 + Send + Sync>,
    /// The process's drain.
    pub drain: Arc<Drain>,
}

/// Starts the thread, and waits until the store has the rules and lists, so that the first calls find them, but no longer than
/// `patience`. The thread ends once the last request has ended and its end is in the store.
pub fn start(inputs: CapInputs, patience: Duration) -> std::io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let caps = Arc::clone(&inputs.caps);
    let thread = thread::Builder::new().name("caps".into()).spawn(move || {
        runtime.block_on(run(inputs));
        runtime.shutdown_background();
    })?;
    let mut left = patience;
    while caps.is_starting() && !left.is_zero() {
        thread::sleep(START_LOOK);
        left = left.saturating_sub(START_LOOK);
    }
    Ok(thread)
}

async fn run(inputs: CapInputs) {
    let (inputs, unread) = {
        let unread = inputs.caps.unread.lock().take();
        (Arc::new(inputs), unread)
    };
    let upkeep = [
        spawn(declare(Arc::clone(&inputs))),
        spawn(watch_destinations(Arc::clone(&inputs))),
        spawn(age(Arc::clone(&inputs))),
        spawn(watch_use(Arc::clone(&inputs))),
    ];
    if let Some(mut unread) = unread {
        let (calls, drain) = (&inputs.calls, &inputs.drain);
        tokio::select! {
            () = take_reports(calls, &mut unread) => {}
            () = drain.last_call_ended() => {}
        }
        unread.news.close();
        let _late = timeout(FINISH, take_reports(calls, &mut unread)).await;
    }
    upkeep.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Takes reports to the store until there are no more, each until the store has it. A report that the store has already
/// changes nothing.
async fn take_reports(calls: &StoreCalls, unread: &mut SpendReportsEnd) {
    let mut taken = Vec::new();
    while unread.news.recv_many(&mut taken, MOST).await > 0 {
        let mut was_away = false;
        while let Err(error) = settle(calls, &taken).await {
            if !was_away {
                tracing::warn!(%error, reports = taken.len(), "the store takes no ends of money calls; they wait, and count meanwhile");
            }
            was_away = true;
            sleep(RETRY).await;
        }
        taken.clear();
    }
}

async fn settle(calls: &StoreCalls, news: &[SpendNews]) -> Result<(), StoreCallError> {
    let (mut ends, mut orders) = (Vec::new(), Vec::new());
    for one in news {
        match one {
            SpendNews::End(end) => ends.push(*end),
            SpendNews::Order(order) => orders.push(LedgerNote::clone(order)),
        }
    }
    if !orders.is_empty() {
        let noted = calls.call(move |store| async move {
            store.note_owners(&orders, LedgerSource::Answer).await
        });
        let _woken = noted.await?;
    }
    if ends.is_empty() {
        return Ok(());
    }
    let settled = calls.call(move |store| async move { store.settle_attempts(&ends).await });
    settled.await
}

/// Learns which calls the rules in force in the store cover. Returns whether it has.
async fn learn(caps: &Caps, calls: &StoreCalls) -> bool {
    let capped = calls.call(|store| async move { store.capped_calls().await });
    match capped.await {
        Ok(capped) => caps.learned(capped),
        Err(StoreCallError::NotJoined) => return false,
        Err(error) => {
            tracing::debug!(%error, "the money caps in force are not looked at");
            return false;
        }
    }
    true
}

/// Whether the store has lost this process's last declaration, or has rules of an instance that has ended.
async fn is_undeclared(calls: &StoreCalls, number: i64) -> bool {
    let stand = calls.call(move |store| async move { store.caps_stand(number).await });
    stand.await.is_ok_and(|stand| !stand)
}

/// Declares rules, and learns which calls those in force then cover.
async fn put(
    caps: &Caps,
    calls: &StoreCalls,
    (rules, number): (CapDeclaration, i64),
) -> Result<(), StoreCallError> {
    if rules.asks_approvals() {
        caps.ask_approvals();
    }
    let count = rules.rules.len();
    let put = calls.call(move |store| async move {
        let is_taken = store.declare_caps(&rules, number).await?;
        Ok((is_taken, store.capped_calls().await?))
    });
    let (is_taken, capped) = put.await?;
    caps.learned(capped);
    if !is_taken {
        return Err(StoreCallError::NotJoined);
    }
    caps.declared();
    if count > 0 {
        tracing::info!(
            rules = count,
            "the store has the money caps of this configuration"
        );
    }
    Ok(())
}

/// Declares the rules of each configuration with the number of operators, and midnights before they run out.
async fn declare(inputs: Arc<CapInputs>) {
    let CapInputs {
        caps,
        calls,
        in_force,
        clock,
        offset_ms,
        approvers,
        ..
    } = &*inputs;
    let aside = OffloadThreads::with(1);
    let mut declared: Option<(Arc<Generation>, Duration)> = None;
    let mut number = 0;
    let mut learned: Option<Duration> = None;
    let mut was_away = false;
    loop {
        let generation = in_force();
        let now = clock.elapsed();
        if learned.is_none_or(|at| now.saturating_sub(at) >= AGE) {
            learned = learn(caps, calls).await.then_some(now);
            if declared.is_some() && is_undeclared(calls, number).await {
                declared = None;
            }
        }
        let is_due = declared.as_ref().is_none_or(|(known, at)| {
            !Arc::ptr_eq(known, &generation)
                || now.saturating_sub(*at) >= declaration::RENEWAL && has_any(&generation)
        });
        if is_due && learned.is_some() {
            if has_any(&generation) || caps.has_rules() {
                arrange(&inputs, &generation);
            }
            let now_ms = clock.unix_ms().saturating_add_signed(offset_ms());
            let (of, approvers) = (Arc::clone(&generation), *approvers);
            let rules = aside
                .own()
                .run(move || declaration(&of, now_ms, approvers))
                .await;
            number += 1;
            match put(caps, calls, (rules, number)).await {
                Ok(()) => {
                    declared = Some((generation, now));
                    was_away = false;
                }
                Err(error) => {
                    // Before this instance has joined the store, the log tells why.
                    if !was_away && !matches!(error, StoreCallError::NotJoined) {
                        tracing::error!(%error, "the store does not take the money caps of this configuration: the ones before hold");
                    }
                    was_away = true;
                }
            }
        }
        let pause = if caps.awaits_store() {
            FIRST_LOOK
        } else {
            LOOK
        };
        sleep(pause).await;
    }
}

/// Declares destinations, and follows what other instances declare.
async fn watch_destinations(inputs: Arc<CapInputs>) {
    let CapInputs {
        caps,
        calls,
        in_force,
        clock,
        ..
    } = &*inputs;
    let arrange = |generation: &Generation| arrange(&inputs, generation);
    destinations::watch::run(caps, calls, (in_force, clock), arrange).await;
}

/// Makes the series of a generation's tenants.
fn arrange(inputs: &CapInputs, generation: &Generation) {
    let own = generation.registry.own_series(&inputs.metrics);
    let parties = generation.registry.parties().zip(own);
    let own = parties.filter(|(_, own)| *own);
    let own = own.map(|(who, _)| who.party().id.to_string());
    inputs.caps.meters.arrange(&own.collect());
}

/// Marks the calls that instances left open when they ended as unknown, and shows the unknown ones. Later look-ups use the same
/// reading.
async fn age(inputs: Arc<CapInputs>) {
    let CapInputs {
        caps,
        calls,
        clock,
        offset_ms,
        ..
    } = &*inputs;
    let mut was_away = false;
    loop {
        sleep(AGE).await;
        let aged = calls.call(|store| async move {
            store.age_spends().await?;
            let unknown = store.unknown_spends(MOST_UNKNOWN).await?;
            Ok((unknown, store.approval_figures().await?))
        });
        match aged.await {
            Ok((unknown, approvals)) => {
                if approvals.is_asked {
                    caps.ask_approvals();
                }
                caps.meters.show_approvals(approvals.waiting);
                let now_ms = clock.unix_ms().saturating_add_signed(offset_ms());
                caps.meters.show(&unknown, now_ms);
                caps.unknown.store(Arc::new(unknown));
                was_away = false;
            }
            Err(error) => {
                if !was_away && !matches!(error, StoreCallError::NotJoined) {
                    tracing::warn!(%error, "spends of unknown outcome are not looked at");
                }
                was_away = true;
            }
        }
    }
}

/// Shows the used part of each cap, in a task of its own: the reading waits for its turn.
async fn watch_use(inputs: Arc<CapInputs>) {
    let CapInputs {
        caps,
        calls,
        in_force,
        ..
    } = &*inputs;
    let aside = OffloadThreads::with(1);
    sleep(AGE).await;
    loop {
        show_used((caps, calls), in_force(), &aside).await;
        sleep(USE).await;
    }
}

/// The report is made on a thread of its own: this one asks about destinations and takes the ends of calls to the store.
async fn show_used(
    (caps, calls): (&Caps, &StoreCalls),
    generation: Arc<Generation>,
    aside: &OffloadThreads,
) {
    let facts = calls.call_in_turn(LongReader::Institution, |store| async move {
        store.cap_facts(None).await
    });
    match facts.await {
        Ok(facts) => {
            let meters = caps.meters.clone();
            let show = move || {
                let tenants_of = |account: &str| {
                    let tenants = generation.registry.tenants_of(account);
                    tenants.map(|it| it.party.id.to_string()).collect()
                };
                meters.show_used(&facts.report(None), tenants_of);
            };
            aside.own().run(show).await;
        }
        Err(error) => tracing::debug!(%error, "the amounts that caps count are not looked at"),
    }
}
