//! Thread: `notify`, which receives notifications and keeps their owners in step with configuration and ledger.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::event::QuarantineQueue;
use gatepay_store::notifications::listing::RetentionTerms;
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{JoinHandle as TaskHandle, spawn};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::generation::Generation;
use crate::notify::Notifications;
use crate::notify::asking::SubjectSource;
use crate::notify::ledger::LedgerWriter;
use crate::notify::owner::quarantine::{RepeatedDecisions, TenantSource};
use crate::notify::owner::registered_tenants::RegisteredTenants;
use crate::notify::receive::institution_keys::InstitutionKeys;
use crate::notify::receive::listener::NotificationListener;
use crate::notify::receive::notification_exchange::NotificationExchange;
use crate::notify::receive::reception::{self, Reception};
use crate::notify::settling::Settling;
use crate::process::clock::Clock;
use crate::process::drain::Drain;

/// The interval at which the configuration in force and the quarantine are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The same while no tenant is registered, since nothing can be received.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The interval at which notifications for former operators are looked for: instances that still have the configuration
/// before a change may have stored some.
const HAND_OVER: Duration = Duration::from_mins(10);
/// The interval at which the store's figures are read.
const COUNT: Duration = Duration::from_secs(10);
/// The interval at which old notifications are removed, and the pause between two steps of it.
const RETAIN: Duration = Duration::from_mins(10);
const RETAIN_STEP: Duration = Duration::from_millis(200);
/// How long the last ids of GatePay's may take to the ledger.
const FINISH: Duration = Duration::from_secs(1);

/// Gives the configuration in force.
pub type GenerationSource = Arc<dyn Fn() -> Arc<Generation> + Send + Sync>;

/// The parts of the process that the thread uses.
pub struct NotifyInputs {
    /// The shared part.
    pub notifications: Arc<Notifications>,
    /// The configuration in force.
    pub in_force: GenerationSource,
    /// The way of proved outcomes to the store.
    pub settling: Settling,
    /// The process's clock.
    pub clock: Clock,
    /// The process's drain.
    pub drain: Arc<Drain>,
    /// The GatePay that is asked for owners.
    pub subject: SubjectSource,
}

/// Starts the thread on a bound socket. It ends once the last request has ended and its ids are in the ledger.
pub fn start(inputs: NotifyInputs, socket: TcpListener) -> std::io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let socket = {
        let _within = runtime.enter();
        tokio::net::TcpListener::from_std(socket)?
    };
    thread::Builder::new().name("notify".into()).spawn(move || {
        runtime.block_on(run(inputs, socket));
        runtime.shutdown_background();
    })
}

async fn run(inputs: NotifyInputs, socket: tokio::net::TcpListener) {
    let NotifyInputs {
        notifications,
        in_force,
        settling,
        clock,
        drain,
        subject,
    } = inputs;
    let (meters, calls) = (&notifications.meters, &notifications.calls);
    let keys = InstitutionKeys::new(Arc::clone(&in_force().institution));
    let keys = Arc::new(keys);
    let tenants = Arc::clone(&notifications.tenants);
    let (reception, batches) = reception::reception(
        tenants,
        (calls, &settling),
        meters,
        notifications.wake.clone(),
    );
    let listener = listener(
        &notifications,
        (Arc::clone(&keys), reception),
        &clock,
        &drain,
    );
    let learned = Arc::new(Notify::new());
    let decisions = Arc::new(RepeatedDecisions {
        calls: calls.clone(),
        tenants: tenants_in_force(&notifications, &in_force),
        settling: settling.clone(),
        asking: notifications.asking(subject),
        meters: meters.clone(),
        operators: notifications.operators.clone(),
    });
    let upkeep = [
        spawn(batches.run()),
        spawn(listener.run(socket)),
        spawn(decide_again(Arc::clone(&decisions), Arc::clone(&learned))),
        spawn(decide_by_asking(decisions)),
        spawn(follow(
            Arc::clone(&notifications),
            (Arc::clone(&in_force), keys, clock.clone()),
        )),
        spawn(count(Arc::clone(&notifications))),
        spawn(retain(Arc::clone(&notifications))),
        spawn(tell_operators(Arc::clone(&notifications))),
    ];
    let writer = notifications.writer.lock().take();
    if let Some(writer) = writer {
        write_ledger(&notifications, (writer, &settling), &learned, &drain).await;
    }
    upkeep.iter().for_each(TaskHandle::abort);
    let in_force = in_force();
    let telling = notifications.last_credentials.step(&in_force, &clock);
    let _late = timeout(FINISH, telling).await;
}

/// The listener for GatePay.
fn listener(
    notifications: &Notifications,
    (keys, reception): (Arc<InstitutionKeys>, Reception),
    clock: &Clock,
    drain: &Arc<Drain>,
) -> NotificationListener {
    let exchange = NotificationExchange::new(
        Arc::clone(&notifications.settings),
        keys,
        reception,
        clock.clone(),
        notifications.meters.clone(),
    );
    NotificationListener {
        settings: Arc::clone(&notifications.settings),
        identity: notifications.identity.clone(),
        exchange: Arc::new(exchange),
        clock: clock.clone(),
        drain: Arc::clone(drain),
        meters: notifications.meters.clone(),
    }
}

/// Writes the ledger until the last request has ended, and then the notes that still wait.
async fn write_ledger(
    notifications: &Notifications,
    (mut writer, settling): (LedgerWriter, &Settling),
    learned: &Notify,
    drain: &Drain,
) {
    tokio::select! {
        () = writer.run(&notifications.calls, settling, learned) => {}
        () = drain.last_call_ended() => {}
    }
    let finishing = writer.finish(&notifications.calls, settling, learned);
    let _late = timeout(FINISH, finishing).await;
}

/// The tenants of the configuration in force, once the store has registered them. Those of another configuration decide about
/// no notification: a tenant may have got the account of another one meanwhile.
fn tenants_in_force(
    notifications: &Arc<Notifications>,
    in_force: &GenerationSource,
) -> Arc<TenantSource> {
    let (notifications, in_force) = (Arc::clone(notifications), Arc::clone(in_force));
    Arc::new(move || {
        let registered = notifications.registered_tenants();
        registered.filter(|tenants| tenants.are_of(&in_force()))
    })
}

/// Follows the credentials that tenants use, registers the tenants of each configuration, and gives the operator that gets notifications the news that waits for former
/// ones.
async fn follow(
    notifications: Arc<Notifications>,
    (in_force, keys, clock): (GenerationSource, Arc<InstitutionKeys>, Clock),
) {
    let (calls, tenants) = (&notifications.calls, &notifications.tenants);
    let mut handed_over: Option<Instant> = None;
    let mut was_away = false;
    loop {
        let generation = in_force();
        keys.follow(&generation.institution, clock.elapsed());
        let told = notifications.last_credentials.step(&generation, &clock);
        let told = told.await;
        if let Err(error) = &told
            && !was_away
            && tenants.load().is_some()
        {
            tracing::warn!(%error, "the store does not know which credentials tenants use now");
        }
        was_away = told.is_err();
        let registered = tenants.load_full();
        if registered.is_none_or(|tenants| !tenants.are_of(&generation)) {
            match RegisteredTenants::register(calls, generation).await {
                Ok(registered) => {
                    tenants.store(Some(Arc::new(registered)));
                    handed_over = None;
                }
                // Before this instance has joined the store, the log tells why.
                Err(error) if tenants.load().is_some() => {
                    tracing::warn!(%error, "the tenants of the configuration are not registered in the store");
                }
                Err(_) => {}
            }
        }
        if handed_over.is_none_or(|at| at.elapsed() >= HAND_OVER)
            && let Some(operator) = tenants
                .load()
                .as_deref()
                .and_then(RegisteredTenants::operator)
        {
            match hand_over(calls, operator).await {
                Ok(0) => {}
                Ok(news) => {
                    tracing::info!(
                        news,
                        operator = operator.tenant,
                        "the operator gets the notifications that waited for a former one"
                    );
                    notifications.wake.wake();
                }
                Err(error) => {
                    tracing::warn!(%error, "notifications for a former operator wait on");
                }
            }
            handed_over = Some(Instant::now());
        }
        sleep(look(tenants.load().is_some())).await;
    }
}

/// Gives an operator the notifications that wait for former ones, in small steps. Returns their number.
async fn hand_over(
    calls: &StoreCalls,
    operator: &TenantIncarnation,
) -> Result<u32, StoreCallError> {
    let mut given = 0;
    loop {
        let to = operator.clone();
        let step = calls.call(move |store| async move { store.hand_over_news(&to, 64).await });
        match step.await? {
            0 => return Ok(given),
            some => given += some,
        }
    }
}

/// Decides again about the quarantine: at an interval, and when the ledger has learned a key.
async fn decide_again(decisions: Arc<RepeatedDecisions>, learned: Arc<Notify>) {
    let mut was_away = false;
    loop {
        decide(&decisions, QuarantineQueue::Known, &mut was_away).await;
        tokio::select! {
            () = sleep(look((decisions.tenants)().is_some())) => {}
            () = learned.notified() => {}
        }
    }
}

/// Decides about the notifications for which GatePay is asked. Its answers take time, for which no other decision waits.
async fn decide_by_asking(decisions: Arc<RepeatedDecisions>) {
    let (mut was_away, mut told, mut shown) = (false, None, None);
    loop {
        if (decisions.tenants)().is_some()
            && shown.is_none_or(|shown: Instant| shown.elapsed() >= COUNT)
        {
            decisions.asking.show(&mut told).await;
            shown = Some(Instant::now());
        }
        decide(&decisions, QuarantineQueue::Asked, &mut was_away).await;
        sleep(look((decisions.tenants)().is_some())).await;
    }
}

async fn decide(decisions: &RepeatedDecisions, queue: QuarantineQueue, was_away: &mut bool) {
    let decided = decisions.run(queue).await;
    if let Err(error) = &decided
        && !*was_away
    {
        tracing::warn!(%error, "owners of notifications are not decided again");
    }
    *was_away = decided.is_err();
}

fn look(is_registered: bool) -> Duration {
    if is_registered { LOOK } else { FIRST_LOOK }
}

/// Stores news for the operator that gets notifications.
async fn tell_operators(notifications: Arc<Notifications>) {
    let writer = notifications.news_writer.lock().take();
    if let Some(writer) = writer {
        writer.run(&notifications.calls).await;
    }
}

/// Shows the store's figures.
async fn count(notifications: Arc<Notifications>) {
    let meters = &notifications.meters;
    loop {
        let counts = notifications
            .calls
            .call(|store| async move { store.notification_counts().await });
        if let Ok(counts) = counts.await {
            let quarantined = i64::try_from(counts.quarantined).unwrap_or(i64::MAX);
            meters.quarantined.set(quarantined);
            let open = i64::try_from(counts.open_calls).unwrap_or(i64::MAX);
            meters.open_calls.set(open);
            let oldest = counts.oldest_quarantined_ms;
            let age = oldest.map_or(0, |since_ms| counts.now_ms.saturating_sub(since_ms));
            let age = Duration::from_millis(age).as_secs_f64();
            meters.oldest_quarantined.set(age);
        }
        sleep(COUNT).await;
    }
}

/// Removes what is older than `notifications.keep_days`, in small steps.
async fn retain(notifications: Arc<Notifications>) {
    const DAY: Duration = Duration::from_hours(24);
    let terms = RetentionTerms {
        events: DAY * notifications.settings.keep_days.get(),
        ..RetentionTerms::default()
    };
    loop {
        sleep(RETAIN).await;
        loop {
            let step = notifications
                .calls
                .call(move |store| async move { store.retain(&terms).await });
            match step.await {
                Ok(report) if report.has_more() => sleep(RETAIN_STEP).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "old notifications are not removed");
                    break;
                }
            }
        }
    }
}
