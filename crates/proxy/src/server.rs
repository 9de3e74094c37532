//! The running program: its threads, its sockets and its shutdown.

mod later_look_ups;
pub mod own_reads;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::settings::{ListenSettings, Settings, UpstreamSettings};
use gatepay_tenancy::{ConfigWatch, Configuration};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use crate::admin;
use crate::app::{self, App};
use crate::callers::connection_slots::ConnectionSlots;
use crate::callers::open_files;
use crate::caps::{self, thread::CapInputs};
use crate::cluster::{Cluster, halt_cache, local_halts};
use crate::listener::accept;
use crate::notify;
use crate::notify::deliver::store_deliveries::StoreDeliveries;
use crate::notify::deliver::thread::{self as deliver, DeliverInputs};
use crate::notify::thread::NotifyInputs;
use crate::process::clock::Clock;
use crate::process::drain::{DrainPhase, EntryGate, cut_after, successor_patience};
use crate::process::heartbeat::WorkerHeartbeat;
use crate::process::shutdown::{join_unless, lock_unless, until};
use crate::process::state_dir::{
    HandoverFile, PreviousRun, StateDir, SuspensionFile, SuspensionList,
};
use crate::process::systemd::{self, InheritedSockets};
use crate::process::watermark::StampWatermark;
use crate::record::log_level::LogLevel;
use crate::reload::{self, EnvironmentLookup};
use crate::start_error::StartError;
use crate::statements::{self, thread::StatementInputs};
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::retry::RetryBudget;
use crate::worker::Worker;

/// The interval at which each worker closes idle upstream connections and the control thread expires replay memory.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long the callers of accepted connections have to send a request before the replay memory is handed over. New
/// callers wait for the next process meanwhile.
const LAST_CALL: Duration = Duration::from_secs(2);
/// How long the control thread may take to end after the calls in flight were cut.
const CONTROL_AFTER_CUT: Duration = Duration::from_millis(300);
/// The time that must be left before the end when waiting for the workers stops, and likewise for the next two steps.
/// Together with `CONTROL_AFTER_CUT` the largest is less than the time that is always kept for closing.
const LEFT_AFTER_WORKERS: Duration = Duration::from_millis(500);
const LEFT_AFTER_MEMORY: Duration = Duration::from_millis(400);
const LEFT_AFTER_JOURNAL: Duration = Duration::from_millis(200);
/// The longest wait for the reload thread.
const RELOAD: Duration = Duration::from_secs(2);

/// The bound sockets and the threads that serve them.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    admin_address: SocketAddr,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<ServerExit>,
    reload: Option<JoinHandle<()>>,
    /// The thread `notify` and its address, if notifications are configured.
    notify: Option<(JoinHandle<()>, SocketAddr)>,
    /// The thread `deliver`, if notifications are configured.
    deliver: Option<JoinHandle<()>>,
    /// The thread `caps`, if there is a store.
    caps: Option<JoinHandle<()>>,
    /// The thread `statements`, if there is a store.
    statements: Option<JoinHandle<()>>,
    memory: Arc<Mutex<ReplayHandover>>,
}

/// The handover of the replay memory to the next process.
struct ReplayHandover {
    state: Option<StateDir>,
    /// The file that was handed over; `None` before the handover and after the process has ended.
    departure: Option<HandoverFile>,
    handed_over: bool,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerExit {
    /// All connections and calls in flight ended.
    Drained,
    /// The deadline or an immediate end came before the shutdown was complete.
    Late,
}

impl Server {
    /// Binds each socket that is missing in `sockets`, starts the threads and returns. Access log lines go to `access`.
    ///
    /// With an inherited listening socket the start waits for the lock of the state folder: the previous process may
    /// still be draining.
    ///
    /// Without `state_dir`, or with one in its first use, earlier admissions are unknown. The replay guard then
    /// applies, unless `fresh_credentials` states that none of the credentials existed before this process.
    pub fn start(
        configuration: Configuration,
        sockets: InheritedSockets,
        clock: Clock,
        access: Box<dyn Write + Send>,
        fresh_credentials: bool,
    ) -> Result<Self, StartError> {
        let settings = &configuration.settings;
        let is_successor = sockets.listen.is_some();
        let admin_outlives = sockets.admin.is_some();
        let mut state = InheritedState::open(settings, is_successor, fresh_credentials)
            .map_err(StartError::State)?;
        let (socket, address) = bind(sockets.listen, settings.listen.address)?;
        let (admin_socket, admin_address) = bind(sockets.admin, settings.admin.address)?;
        let notify_socket = settings
            .notifications
            .as_ref()
            .map(|settings| bind(sockets.notifications, settings.address))
            .transpose()?;
        let (slots, of_one_address) = slots(&settings.listen);
        // This runs last: everything else is ready by then, so callers wait only while the replay memory is read.
        let app = App::new(configuration, clock, || state.inherit(), access)?;
        if let Some((file, left)) = state.suspended {
            app.keep_suspensions(file, left);
        }
        if let Some(path) = &state.path {
            app.keep_halts(path).map_err(StartError::State)?;
        }
        app.listener
            .address_limits
            .limit_addresses_to(of_one_address);
        let caps = caps_thread(&app)?;
        let (workers, runtimes) = workers(&app, &socket, address, &slots)?;
        let memory = Arc::new(Mutex::new(ReplayHandover {
            state: state.folder,
            departure: None,
            handed_over: false,
        }));
        let notify = notify_socket.map(|socket| notify_thread(&app, socket));
        let deliver = deliver_thread(&app)?;
        let statements = statements_thread(&app)?;
        let control = control_thread(&app, admin_socket, admin_outlives, &memory, runtimes)?;
        Ok(Self {
            app,
            address,
            admin_address,
            workers,
            control,
            reload: None,
            notify: notify.transpose()?,
            deliver,
            caps,
            statements,
            memory,
        })
    }

    /// Watches the files of the configuration, and reloads them when they change.
    pub fn follow(&mut self, watch: ConfigWatch, env: EnvironmentLookup) -> Result<(), StartError> {
        let thread = reload::follow(&self.app, watch, env).map_err(StartError::Thread)?;
        self.reload = Some(thread);
        Ok(())
    }

    /// Lets operators change the level of the program's log.
    pub fn control_log(&self, level: LogLevel) {
        // It fails only if a level was set before, which stays.
        let _ = self.app.lifecycle.log_level.set(level);
    }

    /// A function that requests a reload and returns at once.
    pub fn reload(&self) -> impl Fn() + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.lifecycle.reload.soon()
    }

    /// The address of the tenant listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin listener, for operators and Prometheus.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The address of the listener for notifications, if there is one.
    pub fn notify_address(&self) -> Option<SocketAddr> {
        self.notify.as_ref().map(|(_, address)| *address)
    }

    /// The shared state of all requests, for tests of internals.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Begins the drain; returns at once.
    pub fn leave(&self) {
        self.app.lifecycle.drain.enter(DrainPhase::Leaving);
    }

    /// A function that ends the drain at once and cuts the requests in flight.
    pub fn hurry(&self) -> impl FnOnce() + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.lifecycle.drain.enter(DrainPhase::Over)
    }

    /// A function that gives the moment by which the process must have ended, even if a thread is stuck.
    pub fn ends_at(&self) -> impl Fn() -> Instant + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.lifecycle.drain.ends_at(app.settings.drain.deadline)
    }

    /// Waits for the shutdown that [`leave`](Self::leave) begins. A stuck thread is waited for until shortly before
    /// [`ends_at`](Self::ends_at). Then the thread is left behind and ends with the process.
    ///
    /// # Panics
    /// If a thread of the program panicked, with its message.
    pub fn wait(self) -> ServerExit {
        let app = &self.app;
        let (drain, deadline) = (&app.lifecycle.drain, app.settings.drain.deadline);
        let mut cut = None;
        let ended = join_unless(self.control, || {
            drain.is_cut(deadline)
                && cut.get_or_insert_with(Instant::now).elapsed() >= CONTROL_AFTER_CUT
        });
        let mut ended = ended.unwrap_or(ServerExit::Late);
        if ended == ServerExit::Late {
            drain.enter(DrainPhase::Over);
        }
        // If no call was cut, the rest of the deadline is available.
        let end = drain.ends_at(deadline);
        drain.enter(DrainPhase::Over);
        // The workers end in either case; each call that they cut writes its own request record.
        for worker in self.workers {
            if join_unless(worker, until(end, LEFT_AFTER_WORKERS)).is_none() {
                ended = ServerExit::Late;
            }
        }
        // Its attempts end first, so that their results reach the store.
        if let Some(deliver) = self.deliver {
            join_unless(deliver, until(end, LEFT_AFTER_WORKERS));
        }
        // The thread's last work is to take the ids of the last answers to the store.
        if let Some((notify, _)) = self.notify {
            join_unless(notify, until(end, LEFT_AFTER_MEMORY));
        }
        // As is that of the thread that takes the ends of the last money calls there.
        if let Some(caps) = self.caps {
            join_unless(caps, until(end, LEFT_AFTER_MEMORY));
        }
        end_counts(app, self.statements, end);
        app.lifecycle.reload.end();
        // Not before the workers have ended: until then a halt has to reach the calls in flight.
        let store = app.cluster.as_ref().and_then(Cluster::leave);
        match lock_unless(&self.memory, until(end, LEFT_AFTER_MEMORY)) {
            Some(mut memory) => {
                memory.hand_over(app);
                memory.ends();
            }
            None => ended = ServerExit::Late,
        }
        if let Some(journal) = &app.journal
            && !journal.end_unless(until(end, LEFT_AFTER_JOURNAL))
        {
            ended = ServerExit::Late;
        }
        if let Some(store) = store {
            join_unless(store, until(end, LEFT_AFTER_JOURNAL));
        }
        if let Some(reload) = self.reload {
            // The files that the reload thread may still be reading are no longer needed.
            let overdue = until(end.min(Instant::now() + RELOAD), LEFT_AFTER_JOURNAL);
            join_unless(reload, overdue);
        }
        // The access log comes last and gets little time: a stalled reader of the log must not cost the replay memory.
        app.telemetry.log.finish();
        ended
    }
}

/// The state folder as the process starts, and the state of the previous run in it.
struct InheritedState {
    path: Option<PathBuf>,
    folder: Option<StateDir>,
    /// How long to wait for the lock of the state folder.
    patience: Duration,
    /// The time within which the previous run must have ended for its replay memory to be used.
    guard: Duration,
    fresh_credentials: bool,
    /// Whether this run has a store.
    has_store: bool,
    /// The parties that the previous run left suspended by hand, and the file that holds them.
    suspended: Option<(SuspensionFile, SuspensionList)>,
}

impl InheritedState {
    /// Opens the state folder, unless a previous process may still hold its lock.
    fn open(settings: &Settings, is_successor: bool, fresh_credentials: bool) -> io::Result<Self> {
        let path = settings.state_dir.clone();
        let folder = match path.as_deref() {
            Some(path) if !is_successor => Some(StateDir::open(path)?),
            _ => None,
        };
        Ok(Self {
            path,
            folder,
            patience: successor_patience(settings.drain.deadline),
            guard: Duration::from_millis(settings.window.future_ms),
            fresh_credentials,
            has_store: settings.store.is_some(),
            suspended: None,
        })
    }

    /// Waits for the lock if the folder is not open yet, and takes the replay memory and the stamp watermark.
    fn inherit(&mut self) -> io::Result<(PreviousRun, StampWatermark)> {
        if self.folder.is_none()
            && let Some(path) = &self.path
        {
            self.folder = Some(StateDir::open_in_turn(path, self.patience)?);
        }
        let (previous, watermark) = match &mut self.folder {
            Some(folder) => {
                let (file, left) = left_suspended(folder)?;
                // Before the memory is taken: a start that fails leaves it to the next one.
                let mut moved = SuspensionList::new();
                if let Some(path) = &self.path {
                    let _readable = local_halts::left_in(path)?;
                    if !self.has_store {
                        moved = suspended_in_store(path)?;
                    }
                }
                let previous = folder.inherit(self.guard)?;
                let mut list = left.clone().unwrap_or_default();
                for (party, suspension) in moved {
                    list.entry(party).or_insert(suspension);
                }
                // From now on a missing file means that the file was removed.
                if left.as_ref() != Some(&list) {
                    file.write(&list)?;
                }
                self.suspended = Some((file, list));
                (previous, folder.watermark()?)
            }
            None => (PreviousRun::FirstUse, StampWatermark::nowhere()),
        };
        let previous = match previous {
            PreviousRun::FirstUse if self.fresh_credentials => PreviousRun::NeverServed,
            previous => previous,
        };
        Ok((previous, watermark))
    }
}

/// Starts the worker threads; returns them and the handles of their runtimes.
fn workers(
    app: &Arc<App>,
    socket: &TcpListener,
    address: SocketAddr,
    slots: &Arc<ConnectionSlots>,
) -> Result<(Vec<JoinHandle<()>>, Vec<Handle>), StartError> {
    let settings = &app.settings;
    let threads = settings
        .listen
        .threads
        .map_or_else(cores, NonZeroUsize::get)
        // A worker without an upstream connection could serve no call.
        .min(settings.upstream.max_connections.get());
    let (mut workers, mut runtimes) = (Vec::new(), Vec::new());
    for number in 0..threads {
        let socket = socket
            .try_clone()
            .map_err(|error| StartError::Listen(address, error))?;
        let (app, slots) = (Arc::clone(app), Arc::clone(slots));
        let entry_gate = app.lifecycle.drain.entry_gate();
        let heartbeat = app.lifecycle.heartbeats.add();
        let runtime = runtime()?;
        runtimes.push(runtime.handle().clone());
        let share = WorkerShare::of(&app.settings.upstream, number, threads);
        let worker = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || {
                runtime.block_on(work(app, socket, slots, (entry_gate, heartbeat), share));
                // A DNS lookup that still runs is abandoned.
                runtime.shutdown_background();
            })
            .map_err(StartError::Thread)?;
        workers.push(worker);
    }
    Ok((workers, runtimes))
}

/// Starts the thread that receives notifications.
fn notify_thread(
    app: &Arc<App>,
    (socket, address): (TcpListener, SocketAddr),
) -> Result<(JoinHandle<()>, SocketAddr), StartError> {
    let Some(notifications) = &app.notifications else {
        let missing = io::Error::other("notifications need a store");
        return Err(StartError::Listen(address, missing));
    };
    let of_app = Arc::clone(app);
    let inputs = NotifyInputs {
        notifications: Arc::clone(notifications),
        in_force: Arc::new(move || of_app.generation.load_full()),
        settling: notifications.settling(app.journal.as_ref()),
        clock: app.clock.clone(),
        drain: Arc::clone(&app.lifecycle.drain),
        subject: app.isolation_subject(),
    };
    let thread = notify::thread::start(inputs, socket).map_err(StartError::Thread)?;
    Ok((thread, address))
}

/// Starts the thread that sends notifications to tenants, if notifications are configured.
fn deliver_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(notifications), Some(cluster)) = (&app.notifications, &app.cluster) else {
        return Ok(None);
    };
    let [of_app, of_store, suspended_in] = [0, 1, 2].map(|_| Arc::clone(app));
    let store = StoreDeliveries {
        calls: cluster.calls().clone(),
        instance: cluster.id(),
        clock: app.clock.clone(),
        offset_ms: Box::new(move || of_store.cluster.as_ref().map_or(0, Cluster::time_offset_ms)),
    };
    let inputs = DeliverInputs {
        settings: Arc::new(notifications.settings().clone()),
        metrics: app.settings.metrics.clone(),
        store,
        in_force: Box::new(move || of_app.generation.load_full()),
        suspended: Box::new(move |tenant| suspended_in.is_suspended(tenant)),
        clock: app.clock.clone(),
        meters: app.metrics.deliveries.clone().telling(app.usage.clone()),
        wake: notifications.wake.clone(),
        operators: notifications.operators.clone(),
        drain: (
            Arc::clone(&app.lifecycle.drain),
            app.settings.drain.deadline,
        ),
        system_trust: deliver::system_trust().map_err(StartError::Notifications)?,
    };
    let thread = deliver::start(inputs).map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Starts the thread that takes what money calls spend to the store, if there is one.
fn caps_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(caps), Some(cluster)) = (&app.caps, &app.cluster) else {
        return Ok(None);
    };
    let [of_app, of_store] = [0, 1].map(|_| Arc::clone(app));
    let inputs = CapInputs {
        caps: Arc::clone(caps),
        calls: cluster.calls().clone(),
        in_force: Box::new(move || of_app.generation.load_full()),
        metrics: app.settings.metrics.clone(),
        approvers: app.settings.approvals.count(),
        clock: app.clock.clone(),
        offset_ms: Box::new(move || of_store.cluster.as_ref().map_or(0, Cluster::time_offset_ms)),
        drain: Arc::clone(&app.lifecycle.drain),
    };
    // A store that is away is joined later; calls that spend money wait for it.
    let joined = cluster.key().map(|_| cluster.patience());
    let thread = caps::thread::start(inputs, joined.unwrap_or_default());
    let thread = thread.map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Starts the thread that takes the counts for statements to the store, if there is one.
fn statements_thread(app: &Arc<App>) -> Result<Option<JoinHandle<()>>, StartError> {
    let (Some(usage), Some(cluster)) = (&app.usage, &app.cluster) else {
        return Ok(None);
    };
    let [of_app, of_store] = [0, 1].map(|_| Arc::clone(app));
    let inputs = StatementInputs {
        usage: Arc::clone(usage),
        calls: cluster.calls().clone(),
        in_force: Box::new(move || of_app.generation.load_full()),
        clock: app.clock.clone(),
        offset_ms: Box::new(move || of_store.cluster.as_ref().map_or(0, Cluster::time_offset_ms)),
        meters: app.metrics.statements.clone(),
    };
    let thread = statements::thread::start(inputs).map_err(StartError::Thread)?;
    Ok(Some(thread))
}

/// Ends the thread `statements`, once its last counts are in the store: all requests and deliveries are recorded.
fn end_counts(app: &App, thread: Option<JoinHandle<()>>, end: Instant) {
    if let (Some(usage), Some(thread)) = (&app.usage, thread) {
        usage.end();
        join_unless(thread, until(end, LEFT_AFTER_MEMORY));
    }
}

/// Starts the control thread. It also tells the systemd watchdog that the runtimes of the workers still turn.
fn control_thread(
    app: &Arc<App>,
    admin_socket: TcpListener,
    admin_outlives: bool,
    memory: &Arc<Mutex<ReplayHandover>>,
    runtimes: Vec<Handle>,
) -> Result<JoinHandle<ServerExit>, StartError> {
    let (app, memory, runtime) = (Arc::clone(app), Arc::clone(memory), runtime()?);
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            let watchdog = runtime.spawn(systemd::keep_telling(runtimes));
            let controlled = control(&app, admin_socket, admin_outlives, &memory);
            let ended = runtime.block_on(controlled);
            watchdog.abort();
            runtime.shutdown_background();
            ended
        })
        .map_err(StartError::Thread)
}

/// The share of the upstream limits that belongs to one worker.
struct WorkerShare {
    connections: usize,
    idle_connections: usize,
    /// Whether this worker sends the proxy's own probes; the first worker does.
    probes: bool,
}

impl WorkerShare {
    fn of(upstream: &UpstreamSettings, number: usize, workers: usize) -> Self {
        let part = |of: usize| of / workers + usize::from(number < of % workers);
        Self {
            connections: part(upstream.max_connections.get()),
            idle_connections: part(upstream.max_idle_connections),
            probes: number == 0,
        }
    }
}

/// The manual suspensions that the previous run left, if known, and the file that holds them. Changes nothing.
fn left_suspended(state: &StateDir) -> io::Result<(SuspensionFile, Option<SuspensionList>)> {
    let file = state.suspensions();
    let left = file.read()?;
    if left.is_none() && state.is_used()? {
        tracing::warn!(
            "state_dir has no file `suspended`: it was removed, or the last process was of a version without it; no party is suspended by hand"
        );
    }
    Ok((file, left))
}

/// The parties that were suspended in the store that the last run had.
fn suspended_in_store(folder: &Path) -> io::Result<SuspensionList> {
    let halts = halt_cache::left_in(folder)?.unwrap_or_default();
    Ok(halts.iter().filter_map(app::suspension).collect())
}

/// The connection slots, as many as configured and as the file descriptors allow, and the connection limit per address.
fn slots(listen: &ListenSettings) -> (Arc<ConnectionSlots>, usize) {
    let wanted = listen.max_connections.get();
    let fit = open_files::room_for_connections();
    let each = listen.max_connections_per_address.get();
    let of_one_address = open_files::of_one_address(each, wanted, fit);
    if fit >= wanted {
        return (ConnectionSlots::new(wanted), of_one_address);
    }
    tracing::warn!(
        wanted,
        fit,
        of_one_address,
        "the limit on open files is too low for listen.max_connections; raise it (LimitNOFILE, ulimit -n)"
    );
    (ConnectionSlots::of_few(fit), of_one_address)
}

/// Runs one worker, with a single-threaded runtime, a clone of the listening socket, an upstream connection pool and an
/// entry gate of its own.
async fn work(
    app: Arc<App>,
    socket: TcpListener,
    slots: Arc<ConnectionSlots>,
    (entry_gate, heartbeat): (Arc<EntryGate>, Arc<WorkerHeartbeat>),
    share: WorkerShare,
) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker cannot use the listening socket");
            entry_gate.shut();
            return;
        }
    };
    let beating = tokio::spawn({
        let heartbeat = Arc::clone(&heartbeat);
        async move { heartbeat.beat().await }
    });
    let pool = Arc::new(Pool::new(
        Arc::clone(&app.upstream.connector),
        Arc::clone(&app.metrics.upstream),
        PoolLimits {
            connections: share.connections,
            idle: share.idle_connections,
            idle_timeout: app.settings.upstream.idle_timeout,
        },
    ));
    let sweeping = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move {
            let mut tick = interval(HOUSEKEEPING);
            loop {
                tick.tick().await;
                pool.sweep();
            }
        }
    });
    let worker = Arc::new(Worker {
        app: Arc::clone(&app),
        pool,
        budget: RetryBudget::new(app.settings.upstream.repeat_budget),
        entry_gate,
    });
    let probing = share.probes.then(|| {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move {
            tokio::join!(
                own_reads::probe(&worker),
                own_reads::rotate(&worker),
                own_reads::inquire(&worker),
                later_look_ups::keep_asking(&worker),
            )
        })
    });
    accept::accept(worker, listener, slots).await;
    tokio::select! {
        () = app.lifecycle.drain.finished() => {}
        () = app.lifecycle.drain.reached(DrainPhase::Over) => {}
    }
    heartbeat.end();
    beating.abort();
    sweeping.abort();
    if let Some(probing) = probing {
        probing.abort();
    }
}

/// Runs the admin listener, the housekeeping and the drain.
async fn control(
    app: &Arc<App>,
    socket: TcpListener,
    socket_outlives: bool,
    memory: &Mutex<ReplayHandover>,
) -> ServerExit {
    let admin = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => Some(tokio::spawn(admin::serve(Arc::clone(app), listener))),
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be used");
            None
        }
    };
    let housekeeping = tokio::spawn(expire_stamps(Arc::clone(app)));
    let watermarking = tokio::spawn(keep_watermark(Arc::clone(app)));
    let suspending = tokio::spawn(hand_suspensions_to_store(Arc::clone(app)));
    let watching = tokio::spawn({
        let app = Arc::clone(app);
        async move { app.lifecycle.heartbeats.watch().await }
    });
    app.lifecycle.drain.reached(DrainPhase::Leaving).await;
    let deadline = app.lifecycle.drain.cut_at(app.settings.drain.deadline);
    let ended = tokio::select! {
        // `Over` is checked first: an immediate end counts as late, even if its cut leaves nothing running.
        biased;
        () = app.lifecycle.drain.reached(DrainPhase::Over) => ServerExit::Late,
        ended = async {
            dismiss_callers(app).await;
            let memory = || memory.lock();
            memory().hand_over(app);
            if let Some(admin) = admin.filter(|_| socket_outlives) {
                // From here on the next process serves the admin socket.
                admin.abort();
            }
            finish(app, deadline).await
        } => ended,
    };
    housekeeping.abort();
    watermarking.abort();
    suspending.abort();
    watching.abort();
    ended
}

/// Hands suspensions that this process keeps by itself to the store, every second, if there is a store.
async fn hand_suspensions_to_store(app: Arc<App>) {
    if app.cluster.is_none() {
        return;
    }
    let mut tick = interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        admin::hand_suspensions_to_store(&app).await;
    }
}

/// Forgets expired stamps and checks GatePay's clock, every second.
async fn expire_stamps(app: Arc<App>) {
    let mut tick = interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        let now = app.clock.unix_ms();
        app.admission.replay.forget(now);
        app.upstream.clock.look();
        if let (Some(cluster), Some(journal)) = (&app.cluster, &app.journal)
            && let Some(head) = journal.told_head()
        {
            cluster.tell_journal_head(head.to_string());
        }
        if let Some(ahead) = app.admission.replay.horizon().checked_sub(now)
            && now > app.admission.replay.guarded_until()
        {
            let wait = Duration::from_millis(ahead);
            tracing::error!(
                ?wait,
                "the clock was ahead: stamps that the replay memory dropped meanwhile are refused until that time"
            );
        }
    }
}

/// Advances the stamp watermark every second. The write runs on another thread, so a slow disk does not delay metrics
/// scrapes.
async fn keep_watermark(app: Arc<App>) {
    let mut tick = interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        let (now, future) = (app.clock.unix_ms(), app.settings.window.future_ms);
        if !app.admission.watermark.is_due(now, future) {
            continue;
        }
        let app = Arc::clone(&app);
        let moved = spawn_blocking(move || app.admission.watermark.advance(now, future)).await;
        if let Ok(Err(error)) = moved {
            tracing::error!(%error, "state_dir cannot be written: unless that is repaired, all requests will be refused in a moment");
        }
    }
}

/// Runs the drain from the request that callers leave up to the moment after which no request is admitted.
async fn dismiss_callers(app: &App) {
    let times = app.settings.drain;
    let running = || app.lifecycle.drain.running();
    let cut = cut_after(times.deadline);
    let grace = times.grace.min(cut);
    tracing::info!(
        ?grace,
        running = running(),
        "draining: answers ask callers to close their connections"
    );
    sleep(grace).await;
    app.lifecycle.drain.enter(DrainPhase::Finishing);
    tracing::info!(running = running(), "draining: no new connections");
    let left = cut.saturating_sub(grace);
    if timeout(LAST_CALL.min(left), app.lifecycle.drain.entered())
        .await
        .is_err()
    {
        tracing::info!(
            "draining: idle connections are closed; callers reconnect to the next process"
        );
    }
}

/// Waits for the requests in flight, up to the deadline.
async fn finish(app: &App, deadline: Instant) -> ServerExit {
    if timeout_at(deadline, app.lifecycle.drain.finished())
        .await
        .is_ok()
    {
        // An immediate end may have been requested while the replay memory was being written.
        return match app.lifecycle.drain.phase() {
            DrainPhase::Over => ServerExit::Late,
            _ => ServerExit::Drained,
        };
    }
    tracing::error!(
        running = app.lifecycle.drain.running(),
        "draining: the deadline passed with requests in flight"
    );
    ServerExit::Late
}

impl ReplayHandover {
    /// Marks the end of this process: the next process measures from here how long no process served.
    fn ends(&mut self) {
        let departure = self.departure.take();
        if let Some(Err(error)) = departure.map(|departure| departure.touch()) {
            tracing::warn!(%error, "state_dir cannot be written: the next start may refuse requests for timestamp.future_ms");
        }
    }

    /// Closes the replay memory, so that this process admits nothing more, writes the memory for the next process, and
    /// releases the folder. The process that holds the folder's lock owns the memory, so two processes never own it at
    /// once, even with calls still in flight here.
    fn hand_over(&mut self, app: &App) {
        if self.handed_over {
            return;
        }
        self.handed_over = true;
        app.admission.watermark.close();
        app.admission.tenant_limits.suspensions.close();
        app.local_halts.leave_folder();
        if let Some(cluster) = &app.cluster {
            cluster.leave_folder();
        }
        let memory = app.admission.replay.hand_over();
        let Some(state) = self.state.take() else {
            return;
        };
        match state.hand_over(&memory) {
            Ok(departure) => {
                self.departure = Some(departure);
                tracing::info!(
                    bytes = memory.len(),
                    running = app.lifecycle.drain.running(),
                    "draining: replay memory handed over"
                );
            }
            Err(error) => tracing::error!(
                %error,
                "the replay memory was not handed over: the next start will refuse requests for timestamp.future_ms"
            ),
        }
    }
}

fn bind(
    inherited: Option<TcpListener>,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let socket = inherited
        .map_or_else(|| TcpListener::bind(address), Ok)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|error| StartError::Listen(address, error))?;
    let bound = socket
        .local_addr()
        .map_err(|error| StartError::Listen(address, error))?;
    Ok((socket, bound))
}

fn runtime() -> Result<Runtime, StartError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
