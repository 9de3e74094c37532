//! Cluster: this process as one of the instances that share a store.
//!
//! The workers hand each request's stamp to the thread `store`, and wait for the store's verdict. The thread owns the
//! connections: it batches what the workers bring, gives a sign of life each second, and probes a store that is away.

pub mod connection;
pub mod fingerprint;
pub mod handover_marker;
pub mod meters;
mod notes;
mod store_thread;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use gatepay_core::{Kind, StampWindow};
use gatepay_store::admission::{AdmissionRow, AdmissionVerdict, HaltScope};
use gatepay_store::instance::ClusterView;
use gatepay_tenancy::settings::StoreSettings;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use crate::cluster::connection::StoreConnection;
use crate::cluster::fingerprint::FingerprintKey;
use crate::cluster::handover_marker::HandoverMarker;
use crate::cluster::meters::ClusterMeters;
use crate::cluster::notes::ClusterNotes;
use crate::process::clock::{self, Clock};

/// The store that instances share, as the workers use it.
pub struct Cluster {
    shared: Arc<ClusterShared>,
    /// What the thread begins with; `None` once it runs.
    unstarted: Mutex<Option<UnstartedThread>>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
    rows: mpsc::Sender<WaitingRow>,
    orders: mpsc::Sender<HaltOrder>,
    /// Set when this instance has joined.
    key: OnceLock<FingerprintKey>,
    /// Whether the store failed lately: callers are refused at once, until a probe succeeds.
    breaker_open: AtomicBool,
    /// Wakes the thread when the breaker opens.
    opened: Notify,
    /// Wakes the thread to leave the store.
    leaving: Notify,
    /// When the store was last known to be available, in milliseconds of the clock's elapsed time.
    available_at: AtomicU64,
    /// Stamps up to here are refused by the store, in milliseconds since 1970.
    guarded_until: AtomicU64,
    /// The store's clock less this machine's, in milliseconds.
    offset_ms: AtomicI64,
    view: ArcSwapOption<SeenCluster>,
    config_hash: ArcSwap<String>,
    marker: HandoverMarker,
    notes: ClusterNotes,
    meters: ClusterMeters,
}

/// What a sign of life showed of the cluster.
struct SeenCluster {
    view: ClusterView,
    /// When it was asked for, in the clock's elapsed time.
    asked: Duration,
}

/// What the thread takes over when it starts.
struct UnstartedThread {
    connection: StoreConnection,
    rows: mpsc::Receiver<WaitingRow>,
    orders: mpsc::Receiver<HaltOrder>,
}

/// A request that waits for the store's verdict.
struct WaitingRow {
    row: AdmissionRow,
    answer: oneshot::Sender<Option<AdmissionVerdict>>,
}

/// A halt to be set or lifted.
struct HaltOrder {
    scope: HaltScope,
    /// The operator that sets it; `None` to lift it.
    by: Option<String>,
    answer: oneshot::Sender<Result<i64, String>>,
}

/// The store does not answer, or did not answer in time. The stamp may have been recorded.
#[derive(Debug, PartialEq, Eq)]
pub struct StoreAway;

/// Whether this instance may be sent requests, as far as the store decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterReadiness {
    /// The store answers.
    Ready,
    /// The store did not answer for [`READY_WITHOUT`], or this instance has not joined yet.
    Away,
    /// This machine's clock differs from the store's by more than `max_skew_ms`.
    ClockSkew {
        /// The store's clock less this machine's, in milliseconds.
        offset_ms: i64,
    },
}

/// How long an instance stays ready while the store does not answer.
pub const READY_WITHOUT: Duration = Duration::from_secs(5);
/// How old the newest sign of life may be when money is sent. An instance without one for longer counts as gone, so that a
/// halt does not wait for it. Less than [`LOST_AFTER_MS`](gatepay_store::instance::LOST_AFTER_MS).
const LEASE: Duration = Duration::from_secs(4);
/// The most requests that wait for the store.
const WAITING: usize = 8_192;
/// The most halts that wait to be set.
const ORDERS: usize = 16;

impl Cluster {
    /// The store of these settings, not asked yet. Reads the certificates and keys.
    pub fn open(
        settings: &StoreSettings,
        window: StampWindow,
        state_dir: &Path,
        clock: &Clock,
        meters: ClusterMeters,
    ) -> Result<Self, String> {
        let connection = StoreConnection::in_folder(settings, window, state_dir)?;
        let (row_sender, rows) = mpsc::channel(WAITING);
        let (order_sender, orders) = mpsc::channel(ORDERS);
        let shared = ClusterShared {
            clock: clock.clone(),
            place: connection.place(),
            id: i64::from_le_bytes(clock::random()),
            window,
            timeout: settings.timeout,
            max_skew_ms: settings.max_skew_ms,
            reads_without_store: settings.reads_without_store,
            rows: row_sender,
            orders: order_sender,
            key: OnceLock::new(),
            breaker_open: AtomicBool::new(true),
            opened: Notify::new(),
            leaving: Notify::new(),
            available_at: AtomicU64::new(0),
            guarded_until: AtomicU64::new(0),
            offset_ms: AtomicI64::new(0),
            view: ArcSwapOption::empty(),
            config_hash: ArcSwap::default(),
            marker: HandoverMarker::in_folder(state_dir),
            notes: ClusterNotes::new(settings.max_skew_ms),
            meters,
        };
        Ok(Self {
            shared: Arc::new(shared),
            unstarted: Mutex::new(Some(UnstartedThread {
                connection,
                rows,
                orders,
            })),
            thread: Mutex::new(None),
        })
    }

    /// Starts the thread and waits for its first attempt to join, within the time limit of a call. A store that is away is
    /// joined later; a store that this version cannot use is an error.
    pub fn start(&self) -> Result<(), String> {
        let Some(unstarted) = self.unstarted.lock().take() else {
            return Ok(());
        };
        let (tried, first) = std::sync::mpsc::channel();
        let shared = Arc::clone(&self.shared);
        let thread = store_thread::start(shared, unstarted, tried)?;
        *self.thread.lock() = Some(thread);
        first
            .recv_timeout(self.shared.timeout * 2)
            .unwrap_or(Ok(()))
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

    /// Waits for the store's verdict about a request, within `timeout_ms`; at once while the breaker is open.
    pub async fn admit(&self, row: AdmissionRow) -> Result<AdmissionVerdict, StoreAway> {
        let shared = &self.shared;
        if shared.breaker_open.load(Ordering::Acquire) {
            return Err(StoreAway);
        }
        let (answer, verdict) = oneshot::channel();
        let waiting = WaitingRow { row, answer };
        shared.rows.try_send(waiting).map_err(|_| StoreAway)?;
        match timeout(shared.timeout, verdict).await {
            Ok(Ok(Some(verdict))) => Ok(verdict),
            _ => Err(StoreAway),
        }
    }

    /// Whether reads without a body go on while the store is away.
    pub fn reads_without_store(&self) -> bool {
        self.shared.reads_without_store
    }

    /// Counts a refusal that the store caused.
    pub fn refused(&self, why: &str) {
        self.shared.meters.refused(why);
    }

    /// Whether a halt that was set after this instance asked for the call's verdict covers the call, or whether the store was
    /// not heard of for too long to rule that out. Read again before an admitted call is sent.
    pub fn stops(
        &self,
        (kind, module, party): (Kind, &str, &str),
        asked: Duration,
    ) -> Option<StopBeforeSending> {
        let seen = self.shared.view.load();
        // The verdict is the newer answer if the sign of life was asked for before it.
        let newer = seen.as_deref().filter(|seen| seen.asked > asked);
        let mut halts = newer.iter().flat_map(|seen| &seen.view.halts);
        if halts.any(|halt| covers(&halt.scope, kind, module, party)) {
            return Some(StopBeforeSending::Halted);
        }
        let heard = newer.map_or(asked, |seen| seen.asked);
        let age = self.shared.clock.elapsed().saturating_sub(heard);
        (kind == Kind::Money && age > LEASE).then_some(StopBeforeSending::NoLease)
    }

    /// Stamps up to here are refused by the store, in milliseconds since 1970.
    pub fn guarded_until(&self) -> u64 {
        self.shared.guarded_until.load(Ordering::Acquire)
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
        ClusterReadiness::Ready
    }

    /// Whether the store answered the last call.
    pub fn is_available(&self) -> bool {
        !self.shared.breaker_open.load(Ordering::Acquire)
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

    /// What the newest sign of life showed, and how long ago it was asked for.
    pub fn view(&self) -> Option<(ClusterView, Duration)> {
        let seen = self.shared.view.load_full()?;
        let age = self.shared.clock.elapsed().saturating_sub(seen.asked);
        Some((seen.view.clone(), age))
    }

    /// The store's clock less this machine's, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.shared.offset_ms.load(Ordering::Acquire)
    }

    /// Sets the hash of the configuration in force, which the next sign of life tells.
    pub fn tell_configuration(&self, hash: &str) {
        if **self.shared.config_hash.load() != hash {
            self.shared.config_hash.store(Arc::new(hash.to_owned()));
        }
    }

    /// Sets a halt for all instances, in the name of an operator. Returns the epoch of halts that has it.
    pub async fn halt(&self, scope: HaltScope, by: &str) -> Result<i64, String> {
        self.order(scope, Some(by.to_owned())).await
    }

    /// Lifts a halt for all instances.
    pub async fn resume(&self, scope: HaltScope) -> Result<i64, String> {
        self.order(scope, None).await
    }

    async fn order(&self, scope: HaltScope, by: Option<String>) -> Result<i64, String> {
        let (answer, done) = oneshot::channel();
        let order = HaltOrder { scope, by, answer };
        let away = || "the store does not answer".to_owned();
        self.shared.orders.try_send(order).map_err(|_| away())?;
        // The connection may be busy with one call before this one.
        match timeout(self.shared.timeout * 2, done).await {
            Ok(Ok(done)) => done,
            _ => Err(away()),
        }
    }

    /// Leaves the store, and returns the thread, which ends then.
    pub fn leave(&self) -> Option<JoinHandle<()>> {
        self.shared.leaving.notify_one();
        self.thread.lock().take()
    }
}

/// Why an admitted call must not be sent any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopBeforeSending {
    /// A halt covers it.
    Halted,
    /// It moves money, and the newest sign of life is too old to rule out a halt.
    NoLease,
}

impl ClusterShared {
    /// How long the store has not answered; zero while the breaker is closed.
    fn away_for(&self) -> Duration {
        if !self.breaker_open.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let at = Duration::from_millis(self.available_at.load(Ordering::Acquire));
        self.clock.elapsed().saturating_sub(at)
    }
}

/// The name of an instance for people: its number, which is longer than a number that every JSON reader keeps exact.
pub fn instance_name(id: i64) -> String {
    format!("{id:016x}")
}

/// Whether a halt covers a call. The store decides by the same rule when it admits.
fn covers(scope: &HaltScope, kind: Kind, module: &str, party: &str) -> bool {
    let changes = kind != Kind::Read;
    match scope {
        HaltScope::All => true,
        HaltScope::Money => kind == Kind::Money,
        HaltScope::Module(halted) => changes && halted == module,
        HaltScope::Party(halted) => changes && halted == party,
        HaltScope::Suspended(suspended) => suspended == party,
    }
}
