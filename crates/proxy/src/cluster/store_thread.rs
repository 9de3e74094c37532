//! Store thread: owns the connections to the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_store::admission::{AdmissionBatch, AdmissionReply, BatchRefusal, MOST_ROWS};
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::instance::{InstanceBeat, InstanceIntroduction};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use crate::cluster::fingerprint::FingerprintKey;
use crate::cluster::{ClusterShared, HaltOrder, SeenCluster, UnstartedThread, WaitingRow};
use crate::process::clock;
use crate::process::host;

/// The interval of signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// The pauses before the first probe of a store that is away, and before each later one at most.
const PROBE: Duration = Duration::from_millis(250);
const LAST_PROBE: Duration = Duration::from_secs(2);

/// The answer of the first attempt to join: an error only if this version cannot use the store.
type FirstAttempt = Sender<Result<(), String>>;

/// Starts the thread.
pub(super) fn start(
    shared: Arc<ClusterShared>,
    unstarted: UnstartedThread,
    tried: FirstAttempt,
) -> Result<JoinHandle<()>, String> {
    let UnstartedThread {
        connection,
        rows,
        orders,
    } = unstarted;
    let store = Arc::new(connection.open()?);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let thread = thread::Builder::new().name("store".into());
    let spawned = thread.spawn(move || {
        LocalSet::new().block_on(&runtime, async {
            let admitting = spawn_local(admit_rows(Arc::clone(&shared), Arc::clone(&store), rows));
            let ordering = spawn_local(set_halts(Arc::clone(&store), orders));
            stay(&shared, &store, tried).await;
            admitting.abort();
            ordering.abort();
            let _unanswered = timeout(shared.timeout, store.leave()).await;
        });
        runtime.shutdown_background();
    });
    spawned.map_err(|error| error.to_string())
}

/// Joins the store, gives signs of life and probes a store that is away, until the process leaves.
async fn stay(shared: &Arc<ClusterShared>, store: &Store, tried: FirstAttempt) {
    let mut tried = Some(tried);
    let mut probe = PROBE;
    let mut logged = false;
    loop {
        let done = match shared.key.get() {
            None => join(shared, store).await,
            // On a connection that admits: a sign of life does not wait for a standby.
            Some(_) if shared.breaker_open.load(Ordering::Acquire) => match store.probe().await {
                Ok(()) => beat(shared, store).await,
                Err(error) => Err(error),
            },
            Some(_) => beat(shared, store).await,
        };
        let first = tried.take();
        let pause = match done {
            Ok(()) => {
                if let Some(first) = first {
                    let _ended = first.send(Ok(()));
                }
                if logged {
                    tracing::info!("the store answers again");
                }
                (logged, probe) = (false, PROBE);
                BEAT
            }
            Err(error) => {
                if let Some(first) = first {
                    let said = if error.is_lasting() {
                        Err(error.to_string())
                    } else {
                        Ok(())
                    };
                    let _ended = first.send(said);
                }
                if !logged {
                    tracing::error!(%error, "the store does not answer: requests are refused until it does");
                }
                logged = true;
                open_breaker(shared);
                let pause = jittered(probe);
                probe = (probe * 2).min(LAST_PROBE);
                pause
            }
        };
        let is_open = shared.breaker_open.load(Ordering::Acquire);
        tokio::select! {
            () = sleep(pause) => {}
            // An admission has failed: the probe comes early.
            () = shared.opened.notified(), if !is_open => sleep(jittered(PROBE)).await,
            () = shared.leaving.notified() => return,
        }
    }
}

async fn join(shared: &ClusterShared, store: &Store) -> Result<(), StoreError> {
    let introduction = InstanceIntroduction {
        id: shared.id,
        host: host::name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_hash: shared.config_hash.load().to_string(),
        past_ms: shared.window.past_ms,
    };
    let began = shared.clock.elapsed();
    let joined = store.join(&introduction).await;
    took(shared, "join", began);
    let joined = joined?;
    raise_guard(shared, joined.guarded_until);
    shared.see_clock(joined.now_ms);
    tracing::info!(schema = joined.schema, "joined the store");
    let _joined_once = shared.key.set(FingerprintKey::new(joined.fingerprint_key));
    close_breaker(shared);
    beat(shared, store).await
}

async fn beat(shared: &ClusterShared, store: &Store) -> Result<(), StoreError> {
    let seen = shared.view.load();
    let signs = InstanceBeat {
        config_hash: shared.config_hash.load().to_string(),
        journal_head: None,
        // The view of the beat before: every worker has read it since, before it sent anything.
        halt_epoch: seen.as_deref().map_or(0, |seen| seen.view.halt_epoch),
        in_force: None,
    };
    let asked = shared.clock.elapsed();
    let view = store.beat(&signs).await;
    took(shared, "beat", asked);
    let view = view?;
    raise_guard(shared, view.guarded_until);
    shared.see_clock(view.now_ms);
    shared.meters.show(&view);
    shared
        .notes
        .hear(&view, shared.offset_ms.load(Ordering::Acquire));
    shared
        .view
        .store(Some(Arc::new(SeenCluster { view, asked })));
    close_breaker(shared);
    if let Some(key) = shared.key.get()
        && let Err(error) = shared.marker.write(key, shared.clock.unix_ms())
    {
        tracing::warn!(%error, "state_dir cannot be written: the next start may refuse requests for timestamp.future_ms");
    }
    Ok(())
}

/// Gathers what the workers bring while the last admissions are under way, and admits it together.
async fn admit_rows(
    shared: Arc<ClusterShared>,
    store: Arc<Store>,
    mut rows: mpsc::Receiver<WaitingRow>,
) {
    let turns = Arc::new(Semaphore::new(store.lines()));
    // Rows whose stamp is in the batch before them.
    let mut held: VecDeque<WaitingRow> = VecDeque::new();
    loop {
        let turn = Arc::clone(&turns).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        let first = match held.pop_front() {
            Some(row) => row,
            None => match rows.recv().await {
                Some(row) => row,
                None => return,
            },
        };
        let (batch, answers) = gather(first, &mut held, &mut rows);
        if batch.is_empty() {
            continue;
        }
        if shared.breaker_open.load(Ordering::Acquire) {
            // The callers read the refusal when their answers are dropped.
            continue;
        }
        let (shared, store) = (Arc::clone(&shared), Arc::clone(&store));
        spawn_local(async move {
            let began = shared.clock.elapsed();
            let reply = store.admit(&batch).await;
            took(&shared, "admit", began);
            match reply {
                Ok(reply) => answer(&shared, reply, answers),
                Err(error) => {
                    tracing::warn!(%error, "an admission by the store failed");
                    open_breaker(&shared);
                }
            }
            drop(turn);
        });
    }
}

type Answers = Vec<oneshot::Sender<Option<gatepay_store::admission::AdmissionVerdict>>>;

/// A batch of what is waiting, without the rows whose callers have gone.
fn gather(
    first: WaitingRow,
    held: &mut VecDeque<WaitingRow>,
    rows: &mut mpsc::Receiver<WaitingRow>,
) -> (AdmissionBatch, Answers) {
    let (mut batch, mut answers) = (AdmissionBatch::default(), Answers::new());
    let mut again = VecDeque::new();
    let mut next = Some(first);
    while let Some(WaitingRow { row, answer }) = next.take() {
        if !answer.is_closed() {
            match batch.push(row) {
                Ok(()) => answers.push(answer),
                Err(BatchRefusal::Full(row) | BatchRefusal::Duplicate(row)) => {
                    again.push_back(WaitingRow { row: *row, answer });
                }
            }
        }
        if answers.len() < MOST_ROWS {
            next = held.pop_front().or_else(|| rows.try_recv().ok());
        }
    }
    again.append(held);
    *held = again;
    (batch, answers)
}

fn answer(shared: &ClusterShared, reply: AdmissionReply, answers: Answers) {
    let rows = u32::try_from(answers.len()).unwrap_or(u32::MAX);
    shared.meters.batch_rows.observe(rows.into());
    if reply.new_guard {
        shared.meters.lives.inc();
        tracing::error!(
            "the store may have lost commits: stamps that it may have admitted before are refused for timestamp.future_ms"
        );
    }
    raise_guard(shared, reply.guarded_until);
    shared.is_available();
    for (answer, verdict) in answers.into_iter().zip(reply.verdicts) {
        let _gone = answer.send(Some(verdict));
    }
}

async fn set_halts(store: Arc<Store>, mut orders: mpsc::Receiver<HaltOrder>) {
    while let Some(HaltOrder { scope, by, answer }) = orders.recv().await {
        let done = match by {
            Some(by) => store.halt(&scope, &by).await,
            None => store.resume(&scope).await,
        };
        let _gone = answer.send(done.map_err(|error| error.to_string()));
    }
}

fn open_breaker(shared: &ClusterShared) {
    if !shared.breaker_open.swap(true, Ordering::AcqRel) {
        shared.opened.notify_one();
    }
    shared.meters.available.set(0);
}

fn close_breaker(shared: &ClusterShared) {
    shared.is_available();
    shared.breaker_open.store(false, Ordering::Release);
    shared.meters.available.set(1);
}

fn raise_guard(shared: &ClusterShared, guarded_until: u64) {
    shared
        .guarded_until
        .fetch_max(guarded_until, Ordering::AcqRel);
}

fn took(shared: &ClusterShared, call: &str, began: Duration) {
    let seconds = shared.clock.elapsed().saturating_sub(began).as_secs_f64();
    let histogram = shared.meters.seconds.with_label_values(&[call]);
    histogram.observe(seconds);
}

/// Between three quarters and five quarters of a pause, so that instances do not probe together.
fn jittered(pause: Duration) -> Duration {
    let [part] = clock::random();
    pause * (192 + u32::from(part) / 2) / 256
}

impl ClusterShared {
    fn is_available(&self) {
        let now = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.available_at.store(now, Ordering::Release);
    }

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
