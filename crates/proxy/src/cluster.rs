//! Cluster: this process as one of the instances that share a store.
//!
//! The workers hand each request's stamp to the thread `store`, and wait for the store's verdict. The thread owns the
//! connections: the store's queue batches the workers' requests and probes a store that is away, and the thread gives a
//! sign of life each second.

pub mod connection;
pub mod fingerprint;
pub mod halt_cache;
pub mod halt_check;
pub mod halt_meters;
pub mod handover_marker;
pub mod limits;
pub mod local_halts;
pub mod meters;
mod notes;
mod previous_instance;
pub mod store_calls;
mod store_thread;
pub mod store_use;
pub mod usage_tally;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use gatepay_admission::seats::SeatLimit;
use gatepay_core::StampWindow;
use gatepay_store::admission::{AdmissionRow, HaltScope};
use gatepay_store::instance::{ClusterView, HaltInForce, LOST_AFTER_MS, ResumeResult};
use gatepay_store::queue::{AdmissionQueue, AdmissionRunner, JudgedRow};
use gatepay_store::sqlite::file_place::FilePlace;
use gatepay_tenancy::settings::StoreSettings;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cluster::connection::StoreConnection;
use crate::cluster::fingerprint::FingerprintKey;
use crate::cluster::halt_cache::{HaltCache, HaltCacheFile};
use crate::cluster::halt_check::{HaltCheck, HaltableCall, LatestView};
use crate::cluster::handover_marker::HandoverMarker;
use crate::cluster::limits::SharedLimits;
use crate::cluster::meters::ClusterMeters;
use crate::cluster::notes::ClusterNotes;
use crate::cluster::store_calls::{StoreCalls, StoreJob, WAITING_CALLS};
use crate::process::clock::{self, Clock};

/// The store that instances share, as the workers use it.
pub struct Cluster {
    shared: Arc<ClusterShared>,
    /// The thread's inputs; `None` once it runs.
    unstarted: Mutex<Option<UnstartedThread>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while the suspension of a party moves between this process and the store.
    suspending: tokio::sync::Mutex<()>,
}

/// The state that the workers and the thread `store` share.
struct ClusterShared {
    clock: Clock,
    /// The store's place for people: hosts, database and user, or the file.
    place: String,
    /// The random number of this instance.
    id: i64,
    window: StampWindow,
    timeout: Duration,
    max_skew_ms: u64,
    reads_without_store: bool,
    admissions: AdmissionQueue,
    orders: mpsc::Sender<StoreOrder>,
    /// The way for the calls of other rooms.
    calls: StoreCalls,
    /// Whether a run of this folder served before this one.
    served_before: AtomicBool,
    /// Set when this instance has joined.
    key: OnceLock<FingerprintKey>,
    /// Whether the store is a file that was put back, and that no operator had accepted when this instance joined.
    is_put_back: AtomicBool,
    /// Where the store's file lies, if the store is one. Set before this instance joins.
    file_place: OnceLock<Arc<FilePlace>>,
    /// Whether the last sign of life was answered.
    is_heard: AtomicBool,
    /// Wakes the thread to give a sign of life at once.
    hurry: Notify,
    /// Wakes the thread to leave the store.
    leaving: Notify,
    /// The store's clock less this machine's, in milliseconds.
    offset_ms: AtomicI64,
    /// The view that the newest sign of life showed.
    latest: LatestView,
    config_hash: ArcSwap<String>,
    /// The newest head of the audit journal's chain.
    journal_head: Mutex<Option<String>>,
    marker: HandoverMarker,
    /// Whether the folder has halts of a run without the store, which the store takes over.
    has_own_halts: AtomicBool,
    /// The file of the store's halts, while this process has the folder.
    halts_file: Mutex<Option<HaltCacheFile>>,
    notes: ClusterNotes,
    meters: ClusterMeters,
    /// The number of the last run's instance in this folder, until its limits are given back.
    previous: Mutex<Option<i64>>,
    /// The limits that instances share, if the engine is one of several processes.
    limits: Option<Arc<SharedLimits>>,
}

/// The inputs that the thread takes over when it starts.
struct UnstartedThread {
    connection: StoreConnection,
    admissions: AdmissionRunner,
    orders: mpsc::Receiver<StoreOrder>,
    calls: mpsc::Receiver<StoreJob>,
}

/// A request of an operator's to the store.
enum StoreOrder {
    /// To set a halt, in the name of an operator.
    Halt {
        scope: HaltScope,
        by: String,
        answer: oneshot::Sender<Result<i64, String>>,
    },
    /// To lift a halt.
    Resume {
        scope: HaltScope,
        seen: i64,
        answer: oneshot::Sender<Result<ResumeResult, String>>,
    },
    /// To look at the instances and halts.
    Look {
        answer: oneshot::Sender<Result<ClusterView, String>>,
    },
}

impl StoreOrder {
    /// Whether its caller has stopped waiting for the answer.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Halt { answer, .. } => answer.is_closed(),
            Self::Resume { answer, .. } => answer.is_closed(),
            Self::Look { answer } => answer.is_closed(),
        }
    }
}

/// The store does not answer, or did not answer in time. The stamp may have been recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct StoreAway;

/// Whether this instance may be sent requests, as far as the store decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterReadiness {
    /// The store answers.
    Ready,
    /// The store did not answer for [`READY_WITHOUT`], or this instance has not joined yet, or it has lent nothing yet.
    Away,
    /// This machine's clock differs from the store's by more than `max_skew_ms`.
    ClockSkew {
        /// The store's clock less this machine's, in milliseconds.
        offset_ms: i64,
    },
    /// The store was not asked lately whether it has other lists of destinations.
    StaleLists {
        /// How long ago it was.
        age: Duration,
    },
}

/// How long an instance stays ready while the store does not answer.
pub const READY_WITHOUT: Duration = Duration::from_secs(5);
/// How long a halt waits for the instances: until one without a sign of life counts as gone, and some time to ask.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(LOST_AFTER_MS + 3_000);
/// The interval at which a halt that waits looks at the instances.
const CONFIRMATION_CHECK: Duration = Duration::from_millis(100);
/// The interval at which an order that waits looks at this instance's view.
const VIEW_CHECK: Duration = Duration::from_millis(5);
/// The most requests that wait for the store.
const WAITING: usize = 8_192;
/// The most orders that wait for the store.
const ORDERS: usize = 16;

impl Cluster {
    /// The store of these settings, not asked yet. Reads the certificates and keys.
    pub fn open(
        settings: &StoreSettings,
        window: StampWindow,
        state_dir: &Path,
        clock: &Clock,
        (meters, limits): (ClusterMeters, Option<Arc<SharedLimits>>),
    ) -> Result<Self, String> {
        let connection = StoreConnection::in_folder(settings, window, state_dir)?;
        let (queue, admissions) = AdmissionQueue::new(WAITING, u64::from_le_bytes(clock::random()));
        let (order_sender, orders) = mpsc::channel(ORDERS);
        let (call_sender, calls) = mpsc::channel(WAITING_CALLS);
        let shared = ClusterShared {
            clock: clock.clone(),
            place: connection.place(),
            id: i64::from_le_bytes(clock::random()),
            window,
            timeout: settings.timeout,
            max_skew_ms: settings.max_skew_ms,
            reads_without_store: settings.reads_without_store,
            admissions: queue,
            orders: order_sender,
            calls: StoreCalls::new(call_sender),
            served_before: AtomicBool::new(false),
            key: OnceLock::new(),
            is_put_back: AtomicBool::new(false),
            file_place: OnceLock::new(),
            is_heard: AtomicBool::new(false),
            hurry: Notify::new(),
            leaving: Notify::new(),
            offset_ms: AtomicI64::new(0),
            latest: LatestView::new(clock.clone(), meters.clone()),
            config_hash: ArcSwap::default(),
            journal_head: Mutex::default(),
            marker: HandoverMarker::in_folder(state_dir),
            has_own_halts: AtomicBool::new(false),
            halts_file: Mutex::default(),
            notes: ClusterNotes::new(settings.max_skew_ms),
            meters,
            previous: Mutex::default(),
            limits,
        };
        Ok(Self {
            shared: Arc::new(shared),
            unstarted: Mutex::new(Some(UnstartedThread {
                connection,
                admissions,
                orders,
                calls,
            })),
            thread: Mutex::new(None),
            suspending: tokio::sync::Mutex::default(),
        })
    }

    /// Starts the thread and waits for its first attempt to join, within the time limit of a call. A store that is away is
    /// joined later; a store that this version cannot use is an error. If a run of this folder `served_before`, and not
    /// through this store, the store is guarded against its stamps. A file that the previous process holds is waited for
    /// with this patience.
    pub fn start(&self, served_before: bool, patience: Duration) -> Result<(), String> {
        let Some(unstarted) = self.unstarted.lock().take() else {
            return Ok(());
        };
        let shared = &self.shared;
        shared.served_before.store(served_before, Ordering::Release);
        let lead_ms = self.shared.window.future_ms + self.shared.max_skew_ms;
        let noted = store_use::note(self.shared.marker.folder(), lead_ms);
        noted.map_err(|error| format!("state_dir: {error}"))?;
        let halts = HaltCacheFile::open(self.shared.marker.folder());
        let (file, left) = halts.map_err(|error| format!("state_dir: {error}"))?;
        *self.shared.halts_file.lock() = Some(file);
        self.shared.latest.take_over(left);
        let own = local_halts::left_in(self.shared.marker.folder());
        let own = own.map_err(|error| format!("state_dir: {error}"))?;
        if !own.is_empty() {
            tracing::warn!(
                halts = own.len(),
                "calls were halted without the store: it takes the halts over"
            );
            self.shared.latest.move_own_halts(&own);
            self.shared.has_own_halts.store(true, Ordering::Release);
        }
        if self.shared.limits.is_some() {
            let previous = previous_instance::replace(self.shared.marker.folder(), self.shared.id);
            let previous = previous.map_err(|error| format!("state_dir: {error}"))?;
            *self.shared.previous.lock() = previous;
        }
        let (tried, first) = std::sync::mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let thread = store_thread::start(shared, unstarted, tried, patience)?;
        *self.thread.lock() = Some(thread);
        let tried = first.recv_timeout(self.shared.timeout * 2);
        if matches!(tried, Ok(Ok(()))) && self.key().is_some() {
            self.wait_for_limits();
        }
        tried.unwrap_or(Ok(()))
    }

    /// Waits for the first lease of limits, if instances share them, so that the first requests find some.
    fn wait_for_limits(&self) {
        let clock = &self.shared.clock;
        let until = clock.elapsed() + limits::FILLS_WITHIN + self.shared.timeout;
        while self.waits_for_limits() && clock.elapsed() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether instances share limits, and the first lease has brought nothing yet.
    fn waits_for_limits(&self) -> bool {
        let limits = self.shared.limits.as_ref();
        limits.is_some_and(|limits| !limits.has_filled())
    }

    /// Whether instances share limits, and the store has lent none to this one for [`READY_WITHOUT`].
    fn lacks_limits(&self) -> bool {
        let limits = self.shared.limits.as_ref();
        let now = self.shared.clock.elapsed();
        limits.is_some_and(|limits| limits.unlent_for(now) > READY_WITHOUT)
    }

    /// Whether the run of the process before this one admitted requests through this store only, so that the store has
    /// every stamp that it admitted.
    pub fn covers_previous_run(&self) -> bool {
        let key = self.shared.key.get();
        key.is_some_and(|key| self.shared.marker.names(key))
    }

    /// Says from when on, in milliseconds since 1970, no stamp is fresh that a run without this store admitted.
    pub fn own_stamps_from(&self, unix_ms: u64) {
        self.shared.marker.may_be_written_from(unix_ms);
    }

    /// The fingerprints' key, once this instance has joined.
    pub fn key(&self) -> Option<&FingerprintKey> {
        self.shared.key.get()
    }

    /// Whether the store is a file that was put back. Known once this instance has joined.
    pub fn is_put_back(&self) -> bool {
        self.shared.is_put_back.load(Ordering::Acquire)
    }

    /// Where the store's file lies; `None` if the store is a server. Known once the thread runs.
    pub fn file_place(&self) -> Option<&Arc<FilePlace>> {
        self.shared.file_place.get()
    }

    /// Until when a request that arrives now waits for the store's answers: for `timeout_ms`.
    pub fn answers_until(&self) -> Instant {
        Instant::now() + self.shared.timeout
    }

    /// How long a call waits for the store: `timeout_ms`.
    pub fn patience(&self) -> Duration {
        self.shared.timeout
    }

    /// Waits for the store's verdict about a request until a time; a store that failed lately is not asked.
    pub async fn admit(&self, row: AdmissionRow, until: Instant) -> Result<JudgedRow, StoreAway> {
        let asked = self.shared.admissions.judge(row);
        match timeout_at(until, asked).await {
            Ok(Ok(judged)) => Ok(judged),
            Ok(Err(_)) | Err(_) => Err(StoreAway),
        }
    }

    /// The way to call the store on its thread.
    pub fn calls(&self) -> &StoreCalls {
        &self.shared.calls
    }

    /// The limits that instances share; `None` if the store is one process's own.
    pub fn limits(&self) -> Option<&SharedLimits> {
        self.shared.limits.as_deref()
    }

    /// Whether reads without a body go on while the store is away.
    pub fn reads_without_store(&self) -> bool {
        self.shared.reads_without_store
    }

    /// Whether this instance has seen the halts in force, in this run or in the last one of its folder. Before that no read
    /// goes on without the store.
    pub fn knows_halts(&self) -> bool {
        self.known_halts().is_some()
    }

    /// The halts in force as this instance saw them last, in this run or in the last one of its folder.
    pub fn known_halts(&self) -> Option<Vec<HaltInForce>> {
        self.shared.latest.known_halts()
    }

    /// Counts a refusal that the store caused.
    pub fn refused(&self, why: &str) {
        self.shared.meters.refused(why);
    }

    /// The check that a call of a party has to pass each time before a byte of it is sent. `asked` is when the store was
    /// asked for the call's verdict, in the clock's elapsed time; `None` for a read that goes on without the store. The
    /// party's `seats` are closed while this process by itself has it suspended.
    pub fn halt_check<'a>(
        &'a self,
        call: HaltableCall<'a>,
        seats: &'a SeatLimit,
        asked: Option<Duration>,
    ) -> HaltCheck<'a> {
        self.shared.latest.check(call, seats, asked)
    }

    /// Stamps up to here are refused by the store, in milliseconds since 1970.
    pub fn guarded_until(&self) -> u64 {
        self.shared.latest.guarded_until()
    }

    /// Whether this instance may be sent requests, as far as the store decides.
    pub fn readiness(&self) -> ClusterReadiness {
        let shared = &self.shared;
        let offset_ms = shared.offset_ms.load(Ordering::Acquire);
        if shared.key.get().is_none() || shared.away_for() > READY_WITHOUT {
            return ClusterReadiness::Away;
        }
        if offset_ms.unsigned_abs() > shared.max_skew_ms {
            return ClusterReadiness::ClockSkew { offset_ms };
        }
        if self.waits_for_limits() || self.lacks_limits() {
            return ClusterReadiness::Away;
        }
        ClusterReadiness::Ready
    }

    /// Whether the store answered the last calls of this instance.
    pub fn is_available(&self) -> bool {
        self.shared.is_available()
    }

    /// The store's place for people: hosts, database and user, or the file. Never a password.
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// The number of this instance.
    pub fn id(&self) -> i64 {
        self.shared.id
    }

    /// The name of this instance in the store and in logs.
    pub fn name(&self) -> String {
        instance_name(self.shared.id)
    }

    /// The view that the newest sign of life showed, and how long ago it was asked for.
    pub fn view(&self) -> Option<(ClusterView, Duration)> {
        let seen = self.shared.latest.get()?;
        let age = self.shared.clock.elapsed().saturating_sub(seen.asked);
        Some((seen.view.clone(), age))
    }

    /// The store's clock less this machine's, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.shared.offset_ms.load(Ordering::Acquire)
    }

    /// The store's time less this machine's clock, in milliseconds. The time since the newest sign of life goes by the
    /// monotonic clock, so that a step of this machine's clock moves nothing.
    pub fn time_offset_ms(&self) -> i64 {
        let Some(seen) = self.shared.latest.get() else {
            return 0;
        };
        let clock = &self.shared.clock;
        let since = clock.elapsed().saturating_sub(seen.answered).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        let now_ms = seen.view.time.now_ms.saturating_add(since);
        let [now_ms, own_ms] =
            [now_ms, clock.unix_ms()].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        now_ms - own_ms
    }

    /// Sets the hash of the configuration in force, which the next sign of life tells.
    pub fn tell_configuration(&self, hash: &str) {
        self.shared.config_hash.store(Arc::new(hash.to_owned()));
    }

    /// Sets the head of the audit journal's chain, which the next sign of life tells.
    pub fn tell_journal_head(&self, head: String) {
        *self.shared.journal_head.lock() = Some(head);
    }

    /// Sets a halt for all instances, in the name of an operator. Returns the epoch of halts that has it: once each
    /// instance has [confirmed](Self::confirmed) the epoch, no byte of a halted call is sent any more.
    pub async fn halt(&self, scope: HaltScope, by: &str) -> Result<i64, String> {
        let mut halt = HaltInForce {
            scope: scope.clone(),
            since_ms: self.shared.clock.unix_ms(),
            by: by.to_owned(),
            epoch: 0,
        };
        let by = by.to_owned();
        let epoch = self
            .order(|answer| StoreOrder::Halt { scope, by, answer })
            .await;
        if let Ok(epoch) = epoch {
            halt.epoch = epoch;
            self.shared.latest.note_order(halt);
        }
        self.shared.hurry.notify_one();
        epoch
    }

    /// Lifts a halt for all instances, if it was not set once more since it was seen with this epoch. After an error it may
    /// have been lifted.
    pub async fn resume(&self, scope: HaltScope, seen: i64) -> Result<ResumeResult, String> {
        let resumed = self
            .order(|answer| StoreOrder::Resume {
                scope,
                seen,
                answer,
            })
            .await;
        self.shared.hurry.notify_one();
        resumed
    }

    /// The instances and the halts as the store has them now.
    pub async fn look(&self) -> Result<ClusterView, String> {
        self.order(|answer| StoreOrder::Look { answer }).await
    }

    /// Waits until each instance obeys an epoch of halts, or counts as gone. An instance counts as gone 5 s after its last
    /// sign of life, and sends nothing from 4 s after it on.
    ///
    /// The store's word that an instance is gone counts only once these 5 s have passed here too: after a failover the
    /// rows may be older, and the new server's clock may be ahead.
    pub async fn confirmed(&self, epoch: i64) -> Result<(), String> {
        let gone_from = Instant::now() + Duration::from_millis(LOST_AFTER_MS);
        let deadline = Instant::now() + CONFIRMED_WITHIN;
        loop {
            // Read first: an instance that was gone by then has sent nothing since.
            let is_gone_here = Instant::now() >= gone_from;
            let view = self.look().await?;
            let silent = view.gone.iter().filter(|_| !is_gone_here);
            let mut instances = view.instances.iter().chain(silent);
            let Some(behind) = instances.find(|instance| instance.halt_epoch < epoch) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let name = instance_name(behind.id);
                return Err(format!(
                    "instance {name} ({}) has not confirmed it",
                    behind.host
                ));
            }
            sleep(CONFIRMATION_CHECK).await;
        }
    }

    /// Waits until this instance has seen an epoch of halts, but no longer than for two calls.
    pub async fn seen(&self, epoch: i64) {
        let is_seen = || {
            let seen = self.shared.latest.get();
            seen.is_some_and(|seen| seen.view.halt_epoch >= epoch)
        };
        let _late = self.wait_until(is_seen).await;
    }

    /// Waits until this instance's view has a halt that it set with this epoch, or shows that an operator ended it, and keeps
    /// the view in the state folder. No longer than for two calls, and for the disk.
    pub async fn takes_over(&self, scope: &HaltScope, epoch: i64) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        if !self
            .wait_until(|| !shared.latest.awaits(scope, epoch))
            .await
        {
            return Err("this instance has not seen it yet".to_owned());
        }
        let kept = spawn_blocking(move || shared.keep_halts()).await;
        match kept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(true) => Ok(()),
            Ok(false) => Err("state_dir belongs to the next process".to_owned()),
            Err(error) => Err(format!("state_dir cannot be written: {error}")),
        }
    }

    /// Waits until a condition holds, but no longer than for two calls. Returns whether it does.
    async fn wait_until(&self, holds: impl Fn() -> bool) -> bool {
        let waiting = async {
            while !holds() {
                sleep(VIEW_CHECK).await;
            }
        };
        timeout(self.shared.timeout * 2, waiting).await.is_ok()
    }

    /// The turn to move the suspension of a party between this process and the store.
    pub async fn turn_to_suspend(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.suspending.lock().await
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, String>>) -> StoreOrder,
    ) -> Result<T, String> {
        let (answer, done) = oneshot::channel();
        let away = || "the store does not answer".to_owned();
        let sent = self.shared.orders.try_send(order(answer));
        sent.map_err(|_| away())?;
        // The connection may be busy with one call before this one.
        match timeout(self.shared.timeout * 2, done).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => Err(away()),
        }
    }

    /// Keeps the halts in force in the state folder, and leaves it to the next process. Waits for the disk.
    pub fn leave_folder(&self) {
        let kept = self.shared.keep_halts();
        *self.shared.halts_file.lock() = None;
        let removed = previous_instance::remove(self.shared.marker.folder());
        if let Err(error) = removed {
            tracing::warn!(%error, "state_dir cannot be written: the next process may use this one's limits while its last calls are in flight");
        }
        if let Err(error) = kept {
            tracing::warn!(%error, "state_dir cannot be written: a start while the store is away does not know the newest halts");
        }
    }

    /// Leaves the store, and returns the thread, which ends then. No call is sent any more: a halt no longer waits for this
    /// instance.
    pub fn leave(&self) -> Option<JoinHandle<()>> {
        self.shared.latest.close();
        self.shared.leaving.notify_one();
        self.thread.lock().take()
    }
}

impl ClusterShared {
    /// How long neither signs of life nor admissions were answered.
    fn away_for(&self) -> Duration {
        let seen = self.latest.get();
        let unheard = seen.map_or(Duration::MAX, |seen| {
            self.clock.elapsed().saturating_sub(seen.answered)
        });
        let admissions = self.admissions.health();
        let away = admissions.borrow().away_since;
        unheard.max(away.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Keeps the store's halts in the state folder. Waits for the disk. Returns whether the folder has them: there must be a
    /// view, and the folder must be this process's.
    fn keep_halts(&self) -> io::Result<bool> {
        let Some(key) = self.key.get() else {
            return Ok(false);
        };
        let mut file = self.halts_file.lock();
        // Read under the lock: the last writer keeps the newest view.
        let (Some(seen), Some(file)) = (self.latest.get(), file.as_mut()) else {
            return Ok(false);
        };
        file.keep(HaltCache::new(key, &seen.view.halts))?;
        if self.has_own_halts.load(Ordering::Acquire) && self.latest.has_no_orders() {
            local_halts::remove(self.marker.folder())?;
            self.has_own_halts.store(false, Ordering::Release);
        }
        Ok(true)
    }

    fn is_available(&self) -> bool {
        let admissions = self.admissions.health();
        let is_away = admissions.borrow().away_since.is_some();
        self.is_heard.load(Ordering::Acquire) && !is_away
    }
}

/// The name of an instance for people: its number, which is longer than a number that every JSON reader keeps exact.
pub fn instance_name(id: i64) -> String {
    format!("{id:016x}")
}
