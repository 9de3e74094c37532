//! Store thread: owns the connections to the store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::instance::{InstanceBeat, InstanceIntroduction};
use gatepay_store::queue::BatchFacts;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use crate::cluster::fingerprint::FingerprintKey;
use crate::cluster::halt_check::SeenCluster;
use crate::cluster::limits;
use crate::cluster::{ClusterShared, StoreOrder, UnstartedThread, store_calls};
use crate::process::clock;
use crate::process::host;

/// The interval of signs of life, and the longest pause after one that was not answered.
const BEAT: Duration = Duration::from_secs(1);
/// The pause after the first sign of life that was not answered; it doubles.
const RETRY: Duration = Duration::from_millis(250);

/// How often limits look whether this instance has joined.
const JOINED: Duration = Duration::from_millis(10);

/// The answer of the first attempt to join: an error only if this version cannot use the store.
type FirstAttempt = Sender<Result<(), String>>;

/// Starts the thread. A file that the previous process holds is waited for with this patience.
pub(super) fn start(
    shared: Arc<ClusterShared>,
    unstarted: UnstartedThread,
    tried: FirstAttempt,
    patience: Duration,
) -> Result<JoinHandle<()>, String> {
    let UnstartedThread {
        connection,
        admissions,
        orders,
        calls,
    } = unstarted;
    let store = Arc::new(connection.open_in_turn(patience)?);
    if let Some(place) = store.file_place() {
        let _opened_once = shared.file_place.set(place);
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let observed = Arc::clone(&shared);
    let admissions = admissions.observed_by(Box::new(move |batch| show_batch(&observed, batch)));
    let thread = thread::Builder::new().name("store".into());
    let spawned = thread.spawn(move || {
        LocalSet::new().block_on(&runtime, async {
            let admitting = spawn_local(admissions.run(Arc::clone(&store)));
            let watching = spawn_local(watch_admissions(Arc::clone(&shared)));
            let ordering = spawn_local(obey(Arc::clone(&store), orders));
            let of_calls = Arc::clone(&shared);
            let has_joined = move || of_calls.key.get().is_some();
            let calling = store_calls::run(has_joined, Arc::clone(&store), calls);
            let calling = spawn_local(calling);
            let keeping = spawn_local(keep_up(Arc::clone(&shared), Arc::clone(&store)));
            let lent = (Arc::clone(&shared), Arc::clone(&store));
            let lend = move || lend_limits(Arc::clone(&lent.0), Arc::clone(&lent.1));
            let lending = spawn_local(restarted(lend));
            stay(&shared, &store, tried).await;
            lending.abort();
            admitting.abort();
            watching.abort();
            ordering.abort();
            calling.abort();
            keeping.abort();
            let _unanswered = timeout(shared.timeout, store.leave()).await;
        });
        runtime.shutdown_background();
    });
    spawned.map_err(|error| error.to_string())
}

/// Joins the store and gives signs of life, until the process leaves.
async fn stay(shared: &ClusterShared, store: &Store, tried: FirstAttempt) {
    let mut tried = Some(tried);
    let mut retry = RETRY;
    let mut was_heard = true;
    loop {
        let heard = match shared.key.get() {
            None => join(shared, store).await,
            Some(_) => beat(shared, store).await,
        };
        shared.is_heard.store(heard.is_ok(), Ordering::Release);
        show_available(shared);
        if let Some(tried) = tried.take() {
            let first = first_attempt(heard.as_ref().err());
            // The start fails, and prints the reason.
            was_heard &= first.is_ok();
            let _ended = tried.send(first);
        }
        let pause = match heard {
            Ok(()) => {
                if !was_heard {
                    tracing::info!("the store answers again");
                }
                (was_heard, retry) = (true, RETRY);
                BEAT
            }
            Err(error) => {
                if was_heard {
                    tracing::error!(%error, "the store does not answer this instance's signs of life: nothing is sent until it does");
                }
                was_heard = false;
                let pause = jittered(retry);
                retry = (retry * 2).min(BEAT);
                pause
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.hurry.notified() => {}
            () = shared.leaving.notified() => return,
        }
    }
}

/// The start's outcome after the first attempt to join: an error only if this version cannot use the store.
fn first_attempt(error: Option<&StoreError>) -> Result<(), String> {
    match error {
        Some(error) if error.is_lasting() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Runs a task, and starts it again whenever it panics. Ends when the task ends.
async fn restarted<F: Future<Output = ()> + 'static>(begin: impl Fn() -> F) {
    loop {
        // Ends its task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn_local(begin());
        match task.join_next().await {
            Some(Err(ended)) if ended.is_panic() => {
                tracing::error!(
                    "the task that borrows limits from the store has panicked: it starts again"
                );
                sleep(RETRY).await;
            }
            _ => return,
        }
    }
}

/// Asks for limits once this instance has joined, if instances share them.
async fn lend_limits(shared: Arc<ClusterShared>, store: Arc<Store>) {
    let Some(limits) = shared.limits.clone() else {
        return;
    };
    while shared.key.get().is_none() {
        sleep(JOINED).await;
    }
    let previous = shared.previous.lock().take();
    if let (Store::Postgres(store), Some(previous)) = (&*store, previous) {
        // If this fails, the loans end by themselves.
        let _ended = store.leave_limits(previous).await;
    }
    let took = |call: &'static str, began| took(&shared, call, began);
    limits::lend(limits, store, shared.id, took).await;
}

async fn join(shared: &ClusterShared, store: &Store) -> Result<(), StoreError> {
    let mut introduction = InstanceIntroduction {
        id: shared.id,
        host: host::name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: shared.config_hash.load().to_string(),
        past_ms: shared.window.past_ms,
        uncovered: false,
    };
    let began = shared.clock.elapsed();
    let joined = store.join(&introduction).await;
    took(shared, "join", began);
    let mut joined = joined?;
    let key = FingerprintKey::new(joined.fingerprint_key);
    let moved = shared.latest.move_halts_of_another_store(&key);
    if moved > 0 {
        tracing::warn!(
            halts = moved,
            "the last run of this folder had another store: this one takes its halts over"
        );
    }
    let is_shared = matches!(store, Store::Postgres(_));
    if is_shared && shared.served_before.load(Ordering::Acquire) && !shared.marker.names(&key) {
        // The other instances do not know the stamps that this folder's last run admitted.
        introduction.uncovered = true;
        joined = store.join(&introduction).await?;
        tracing::warn!(
            "the last run of this instance served without the store: all instances refuse the stamps that it may have admitted, for timestamp.future_ms and store.max_skew_ms"
        );
    }
    raise_guard(shared, joined.guarded_until);
    shared.see_clock(joined.now_ms);
    beat(shared, store).await?;
    if let Store::Sqlite(file) = store
        && file.is_restored().await?
    {
        shared.is_put_back.store(true, Ordering::Release);
        tracing::error!(
            "the store's file was put back from a copy: money is refused until `gatepay-proxy store distrust`"
        );
    }
    tracing::info!(schema = joined.schema, "joined the store");
    // Nothing is admitted before, so that the first call finds a view of the halts in force.
    let _joined_once = shared.key.set(key);
    Ok(())
}

/// Gives a sign of life, and another one at once if halts have changed: by then this instance obeys them.
async fn beat(shared: &ClusterShared, store: &Store) -> Result<(), StoreError> {
    let obeyed = shared.latest.get().map_or(0, |seen| seen.view.halt_epoch);
    if sign_of_life(shared, store, obeyed).await? != obeyed {
        let obeyed = shared.latest.get().map_or(0, |seen| seen.view.halt_epoch);
        sign_of_life(shared, store, obeyed).await?;
    }
    if let Some(key) = shared.key.get()
        && let Err(error) = shared.marker.write(key, shared.clock.unix_ms())
    {
        tracing::warn!(%error, "state_dir cannot be written: the next start may refuse requests for timestamp.future_ms");
    }
    Ok(())
}

/// Tells the store which epoch of halts this instance obeys, and puts the view that the store shows in place. Returns its
/// epoch.
async fn sign_of_life(
    shared: &ClusterShared,
    store: &Store,
    obeyed: i64,
) -> Result<i64, StoreError> {
    let signs = InstanceBeat {
        config_hash: shared.config_hash.load().to_string(),
        journal_head: shared.journal_head.lock().clone(),
        halt_epoch: obeyed,
        bodyless: shared.reads_without_store,
        known_halts: shared.latest.halts_to_tell(),
    };
    let (asked, asked_unix_ms) = (shared.clock.elapsed(), shared.clock.unix_ms());
    let view = store.beat(&signs).await;
    took(shared, "beat", asked);
    if matches!(view, Err(StoreError::Unsafe(_) | StoreError::Replaced)) {
        // The lease is not waited out: what is admitted now may be lost, or admitted by another instance too.
        shared.latest.revoke();
    }
    let view = view?;
    raise_guard(shared, view.guarded_until);
    if !view.brought_back.is_empty() {
        let scopes: Vec<_> = view.brought_back.iter().map(ToString::to_string).collect();
        tracing::error!(
            ?scopes,
            "the store had lost halts that this instance knows: they are in force again"
        );
    }
    shared.see_clock(view.now_ms);
    shared.meters.show(&view);
    shared
        .notes
        .hear(&view, shared.offset_ms.load(Ordering::Acquire));
    let epoch = view.halt_epoch;
    let seen = SeenCluster {
        view,
        asked,
        asked_unix_ms,
        answered: shared.clock.elapsed(),
    };
    shared.latest.replace(seen);
    // Each of them is in the view, or an operator ended it.
    shared.latest.forget_orders(&signs.known_halts);
    Ok(epoch)
}

/// Keeps room for stamps and the contact file, beside the signs of life: neither a slow disk nor a locked partition makes
/// this instance's view of the halts old.
async fn keep_up(shared: Arc<ClusterShared>, store: Arc<Store>) {
    let (mut was_done, mut are_kept) = (true, true);
    loop {
        sleep(BEAT).await;
        if shared.key.get().is_none() || !shared.is_heard.load(Ordering::Acquire) {
            continue;
        }
        keep_halts(&shared, &mut are_kept).await;
        let done = store.upkeep().await;
        match &done {
            Err(error) if was_done => {
                tracing::error!(%error, "the upkeep of the store fails: its stamps take more room, or this instance's next start is guarded");
            }
            Ok(()) if !was_done => tracing::info!("the upkeep of the store succeeds again"),
            _ => {}
        }
        was_done = done.is_ok();
    }
}

/// Keeps the store's halts in the state folder, beside the async threads.
async fn keep_halts(shared: &Arc<ClusterShared>, were_kept: &mut bool) {
    let keeper = Arc::clone(shared);
    let kept = spawn_blocking(move || keeper.keep_halts().map(drop)).await;
    let kept = kept.unwrap_or_else(|error| Err(io::Error::other(error)));
    if let Err(error) = &kept
        && *were_kept
    {
        tracing::warn!(%error, "state_dir cannot be written: a start while the store is away does not know the newest halts");
    }
    *were_kept = kept.is_ok();
}

/// Follows how the store answers admissions: shows it, logs it, and gives a sign of life at once when the store is back.
async fn watch_admissions(shared: Arc<ClusterShared>) {
    let mut health = shared.admissions.health();
    let (mut was_away, mut was_refused) = (false, false);
    while health.changed().await.is_ok() {
        let (is_away, error, guarded_until) = {
            let now = health.borrow_and_update();
            (
                now.away_since.is_some(),
                now.error.clone(),
                now.guarded_until,
            )
        };
        if raise_guard(&shared, guarded_until) {
            // The store may have lost halts: this instance brings them back.
            shared.hurry.notify_one();
        }
        show_available(&shared);
        let is_refused = error.is_some() && !is_away;
        match (was_away, is_away, error) {
            (false, true, Some(error)) => {
                tracing::error!(%error, "the store does not admit: requests are refused until it does");
            }
            (_, false, Some(error)) if !was_refused => {
                tracing::error!(%error, "the store refused an admission");
            }
            (true, false, None) => {
                tracing::info!("the store admits again");
                shared.hurry.notify_one();
            }
            _ => {}
        }
        (was_away, was_refused) = (is_away, is_refused);
    }
}

/// Takes the orders of operators to the store. An order is dropped once its caller has stopped waiting: the operator may have
/// decided otherwise since.
async fn obey(store: Arc<Store>, mut orders: mpsc::Receiver<StoreOrder>) {
    let store = &*store;
    while let Some(order) = orders.recv().await {
        if order.is_abandoned() {
            continue;
        }
        match order {
            StoreOrder::Halt { scope, by, answer } => {
                let _gone = answer.send(insist(async || store.halt(&scope, &by).await).await);
            }
            StoreOrder::Resume {
                scope,
                seen,
                answer,
            } => {
                let _gone = answer.send(insist(async || store.resume(&scope, seen).await).await);
            }
            StoreOrder::Look { answer } => {
                let _gone = answer.send(insist(async || store.cluster().await).await);
            }
        }
    }
}

/// Asks once more if the connection was lost: the store may have been started again since it was used last. Each order has
/// the same effect if it is carried out twice.
async fn insist<T>(order: impl AsyncFn() -> Result<T, StoreError>) -> Result<T, String> {
    let done = match order().await {
        Err(StoreError::Lost(_) | StoreError::ReadOnly) => order().await,
        done => done,
    };
    done.map_err(|error| error.to_string())
}

fn show_batch(shared: &ClusterShared, batch: BatchFacts) {
    shared.meters.batch_rows.observe(batch.rows.into());
    let seconds = shared.meters.seconds.with_label_values(&["admit"]);
    seconds.observe(batch.took.as_secs_f64());
}

fn show_available(shared: &ClusterShared) {
    let meters = &shared.meters;
    meters.available.set(shared.is_available().into());
}

/// Raises the guard that this instance knows of. One that is not over was set because commits may be lost. Returns whether
/// it is new.
fn raise_guard(shared: &ClusterShared, guarded_until: u64) -> bool {
    let is_new = shared.latest.raise_guard(guarded_until);
    if is_new && guarded_until > shared.clock.unix_ms() {
        shared.meters.lives.inc();
        tracing::error!(
            guarded_until,
            "the store is new, or may have lost commits: stamps that it may have admitted before are refused for timestamp.future_ms"
        );
    }
    is_new
}

fn took(shared: &ClusterShared, call: &str, began: Duration) {
    let seconds = shared.clock.elapsed().saturating_sub(began).as_secs_f64();
    let histogram = shared.meters.seconds.with_label_values(&[call]);
    histogram.observe(seconds);
}

/// Between three quarters and five quarters of a pause, so that instances do not ask together.
fn jittered(pause: Duration) -> Duration {
    let [part] = clock::random();
    pause * (192 + u32::from(part) / 2) / 256
}

impl ClusterShared {
    /// Compares the store's clock with this machine's, as of the moment at which the answer came.
    fn see_clock(&self, store_ms: u64) {
        let ours = i64::try_from(self.clock.unix_ms()).unwrap_or(i64::MAX);
        let offset = i64::try_from(store_ms).unwrap_or(i64::MAX) - ours;
        self.offset_ms.store(offset, Ordering::Release);
        let seconds = Duration::from_millis(offset.unsigned_abs()).as_secs_f64();
        let signed = if offset < 0 { -seconds } else { seconds };
        self.meters.clock_offset.set(signed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let begun = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&begun);
        let begin = move || {
            counted.set(counted.get() + 1);
            let number = counted.get();
            async move { assert!(number > 2, "a panic of a test") }
        };
        LocalSet::new().run_until(restarted(begin)).await;
        assert_eq!(begun.get(), 3);
    }
}
