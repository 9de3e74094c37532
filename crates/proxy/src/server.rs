//! The running program: threads, sockets and their end.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::settings::{Listen, Upstream};
use gatepay_tenancy::{Configuration, Watch};
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use crate::admin;
use crate::app::{App, StartError};
use crate::callers::connection_slots::ConnectionSlots;
use crate::callers::open_files;
use crate::journey::Worker;
use crate::listener::accept;
use crate::process::clock::Clock;
use crate::process::drain::{DrainPhase, EntryGate, cut_after};
use crate::process::heartbeat::WorkerHeartbeat;
use crate::process::shutdown::{join_unless, lock_unless, until};
use crate::process::state_dir::{
    HandoverFile, PreviousRun, StateDir, SuspensionFile, SuspensionList,
};
use crate::process::systemd::{self, InheritedSockets};
use crate::process::watermark::StampWatermark;
use crate::reload::{self, EnvironmentLookup};
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::retry::RetryBudget;

/// How often memory is returned and idle connections are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long those whose connections were accepted have to ask, before the replay memory is handed over. New callers
/// wait for the next process meanwhile.
const LAST_CALL: Duration = Duration::from_secs(2);
/// How much longer than a drain may take a successor waits for the lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after calls were cut the control thread may take to notice.
const CONTROL_AFTER_CUT: Duration = Duration::from_millis(300);
/// How much time has to be left before the end once the workers have been waited for, and so on. Together with what
/// the control thread takes it is less than closing has at least.
const LEFT_AFTER_WORKERS: Duration = Duration::from_millis(500);
const LEFT_AFTER_MEMORY: Duration = Duration::from_millis(400);
const LEFT_AFTER_JOURNAL: Duration = Duration::from_millis(200);
/// How long the reload thread is waited for.
const RELOAD: Duration = Duration::from_secs(2);

/// Sockets that are bound and threads that serve them.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    admin_address: SocketAddr,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<ServerExit>,
    reload: Option<JoinHandle<()>>,
    memory: Arc<Mutex<ReplayHandover>>,
}

/// The replay memory's way to the next process, until it has gone it.
struct ReplayHandover {
    state: Option<StateDir>,
    /// What was left, until this process ends.
    departure: Option<HandoverFile>,
    handed_over: bool,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerExit {
    /// Everything that was in flight ended.
    Drained,
    /// The deadline passed first.
    Late,
}

impl Server {
    /// Binds what is not in `sockets`, starts the threads and returns. `access` gets the access lines.
    ///
    /// With a socket that outlives the process it waits for its turn: the process before this one may still be draining.
    ///
    /// Without `state_dir`, and where one is used for the first time, it is unknown what was admitted before, so the replay
    /// guard applies, unless `fresh_credentials` says that none of the credentials existed before this process.
    pub fn start(
        configuration: Configuration,
        sockets: InheritedSockets,
        clock: Clock,
        access: Box<dyn Write + Send>,
        fresh_credentials: bool,
    ) -> Result<Self, StartError> {
        let settings = &configuration.settings;
        let in_turn = sockets.listen.is_some();
        let admin_outlives = sockets.admin.is_some();
        let folder = settings.state_dir.clone();
        let mut state = match folder.as_deref() {
            Some(folder) if !in_turn => Some(StateDir::open(folder).map_err(StartError::State)?),
            _ => None,
        };
        let (socket, address) = bind(sockets.listen, settings.listen.address)?;
        let (admin_socket, admin_address) = bind(sockets.admin, settings.admin.address)?;
        let patience = settings.drain.deadline + PATIENCE;
        let threads = settings
            .listen
            .threads
            .map_or_else(cores, NonZeroUsize::get)
            // A worker that may have no connection could carry nothing.
            .min(settings.upstream.max_connections.get());
        let (slots, of_one_address) = slots(&settings.listen);

        let guard = Duration::from_millis(settings.window.future_ms);
        let mut suspended = None;
        // Last: everything else is ready by then, so that nobody waits for longer than it takes to read the memory.
        let inherit = || {
            if in_turn && let Some(folder) = &folder {
                state = Some(StateDir::open_in_turn(folder, patience)?);
            }
            let (inheritance, mark) = match &mut state {
                Some(state) => {
                    let (file, left) = left_suspended(state)?;
                    let inheritance = state.inherit(guard)?;
                    // From now on that it is missing means that it was removed.
                    if left.is_none() {
                        file.write(&SuspensionList::new())?;
                    }
                    suspended = Some((file, left.unwrap_or_default()));
                    (inheritance, state.mark()?)
                }
                None => (PreviousRun::FirstUse, StampWatermark::nowhere()),
            };
            let inheritance = match inheritance {
                PreviousRun::FirstUse if fresh_credentials => PreviousRun::NeverServed,
                inheritance => inheritance,
            };
            Ok((inheritance, mark))
        };
        let app = App::new(configuration, clock, inherit, access)?;
        if let Some((file, left)) = suspended {
            app.keep_suspensions(file, left);
        }
        app.address_limits.limit_addresses_to(of_one_address);
        let mut turning = Vec::new();
        let workers = (0..threads)
            .map(|number| {
                let socket = socket
                    .try_clone()
                    .map_err(|error| StartError::Listen(address, error))?;
                let (app, slots) = (Arc::clone(&app), Arc::clone(&slots));
                let door = app.drain.entry_gate();
                let heart = app.heartbeats.add();
                let runtime = runtime()?;
                turning.push(runtime.handle().clone());
                let share = WorkerShare::of(&app.settings.upstream, number, threads);
                thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || {
                        runtime.block_on(work(app, socket, slots, (door, heart), share));
                        // A name that is still being looked up is not waited for.
                        runtime.shutdown_background();
                    })
                    .map_err(StartError::Thread)
            })
            .collect::<Result<_, _>>()?;
        let memory = Arc::new(Mutex::new(ReplayHandover {
            state,
            departure: None,
            handed_over: false,
        }));
        let control = {
            let (app, runtime) = (Arc::clone(&app), runtime()?);
            let memory = Arc::clone(&memory);
            thread::Builder::new()
                .name("control".into())
                .spawn(move || {
                    let watchdog = runtime.spawn(systemd::keep_telling(turning));
                    let controlled = control(&app, admin_socket, admin_outlives, &memory);
                    let ended = runtime.block_on(controlled);
                    watchdog.abort();
                    runtime.shutdown_background();
                    ended
                })
                .map_err(StartError::Thread)?
        };
        Ok(Self {
            app,
            address,
            admin_address,
            workers,
            control,
            reload: None,
            memory,
        })
    }

    /// Watches the files that the configuration came from, and brings in what changes.
    pub fn follow(&mut self, watch: Watch, env: EnvironmentLookup) -> Result<(), StartError> {
        let thread = reload::follow(&self.app, watch, env).map_err(StartError::Thread)?;
        self.reload = Some(thread);
        Ok(())
    }

    /// What asks for a reload, and does not wait for it.
    pub fn reload(&self) -> impl Fn() + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.reload.soon()
    }

    /// Where tenants connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators and Prometheus connect.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// What requests share, for tests that look inside.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Begins to drain; returns at once.
    pub fn leave(&self) {
        self.app.drain.enter(DrainPhase::Leaving);
    }

    /// What ends the drain at once, whatever is in flight.
    pub fn hurry(&self) -> impl FnOnce() + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.drain.enter(DrainPhase::Over)
    }

    /// When the process has to be gone, whatever its threads do, once it was asked to end.
    pub fn ends_at(&self) -> impl Fn() -> Instant + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.drain.ends_at(app.settings.drain.deadline)
    }

    /// Waits for the end that [`leave`](Self::leave) begins. A thread that does not end is waited for until shortly
    /// before [`ends_at`](Self::ends_at) and then left behind; it ends with the process.
    ///
    /// # Panics
    /// If a thread of the program panicked, with its message.
    pub fn wait(self) -> ServerExit {
        let app = &self.app;
        let (drain, deadline) = (&app.drain, app.settings.drain.deadline);
        let mut cut = None;
        let ended = join_unless(self.control, || {
            drain.is_cut(deadline)
                && cut.get_or_insert_with(Instant::now).elapsed() >= CONTROL_AFTER_CUT
        });
        let mut ended = ended.unwrap_or(ServerExit::Late);
        if ended == ServerExit::Late {
            drain.enter(DrainPhase::Over);
        }
        // Where nothing was cut there is all the time that is left of the deadline.
        let end = drain.ends_at(deadline);
        drain.enter(DrainPhase::Over);
        // Late or not, the workers end: what they drop is recorded as it falls.
        for worker in self.workers {
            if join_unless(worker, until(end, LEFT_AFTER_WORKERS)).is_none() {
                ended = ServerExit::Late;
            }
        }
        app.reload.end();
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
        if let Some(reload) = self.reload {
            // What it may still be reading is no longer needed.
            let overdue = until(end.min(Instant::now() + RELOAD), LEFT_AFTER_JOURNAL);
            join_unless(reload, overdue);
        }
        // Last and not for long: a reader that has stalled must not cost the memory.
        app.telemetry.log.finish();
        ended
    }
}

/// What of the whole one worker has.
struct WorkerShare {
    connections: usize,
    idle_connections: usize,
    /// Whether it asks what only the proxy itself wants to know.
    probes: bool,
}

impl WorkerShare {
    fn of(upstream: &Upstream, number: usize, workers: usize) -> Self {
        let part = |of: usize| of / workers + usize::from(number < of % workers);
        Self {
            connections: part(upstream.max_connections.get()),
            idle_connections: part(upstream.max_idle_connections),
            probes: number == 0,
        }
    }
}

/// Who was left suspended by hand, if that is known, and where it is kept. Nothing is changed yet.
fn left_suspended(state: &StateDir) -> io::Result<(SuspensionFile, Option<SuspensionList>)> {
    let file = state.suspensions();
    let left = file.read()?;
    if left.is_none() && state.is_used()? {
        tracing::warn!(
            "state_dir has no file `suspended`: it was removed, or the last process was of a version without it; nobody is \
             suspended by hand"
        );
    }
    Ok((file, left))
}

/// Places for as many connections as are wanted and file descriptors allow, and how many of them one address may have.
fn slots(listen: &Listen) -> (Arc<ConnectionSlots>, usize) {
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

/// One worker: a runtime of one thread, a clone of the listening socket, connections of its own to GatePay, a door of its
/// own.
async fn work(
    app: Arc<App>,
    socket: TcpListener,
    slots: Arc<ConnectionSlots>,
    (door, heart): (Arc<EntryGate>, Arc<WorkerHeartbeat>),
    share: WorkerShare,
) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker cannot use the listening socket");
            door.shut();
            return;
        }
    };
    let beating = tokio::spawn({
        let heart = Arc::clone(&heart);
        async move { heart.beat().await }
    });
    let pool = Arc::new(Pool::new(
        Arc::clone(&app.upstream),
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
        entry_gate: door,
    });
    let probing = share.probes.then(|| {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move { tokio::join!(worker.probe(), worker.rotate()) })
    });
    accept::accept(worker, listener, slots).await;
    tokio::select! {
        () = app.drain.finished() => {}
        () = app.drain.reached(DrainPhase::Over) => {}
    }
    heart.end();
    beating.abort();
    sweeping.abort();
    if let Some(probing) = probing {
        probing.abort();
    }
}

/// The admin listener, housekeeping, and the drain.
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
    let housekeeping = tokio::spawn({
        let app = Arc::clone(app);
        async move {
            let mut tick = interval(HOUSEKEEPING);
            loop {
                tick.tick().await;
                let now = app.clock.unix_ms();
                app.replay.forget(now);
                app.upstream_clock.look();
                if let Some(ahead) = app.replay.horizon().checked_sub(now)
                    && now > app.replay.guarded_until()
                {
                    let wait = Duration::from_millis(ahead);
                    tracing::error!(
                        ?wait,
                        "the clock was ahead: what it made the memory forget cannot be admitted until then"
                    );
                }
            }
        }
    });
    let marking = tokio::spawn(keep_mark(Arc::clone(app)));
    let watching = tokio::spawn({
        let app = Arc::clone(app);
        async move { app.heartbeats.watch().await }
    });
    app.drain.reached(DrainPhase::Leaving).await;
    let deadline = app.drain.cut_at(app.settings.drain.deadline);
    let ended = tokio::select! {
        // What is cut because of it counts as cut, even if nothing is left running then.
        biased;
        () = app.drain.reached(DrainPhase::Over) => ServerExit::Late,
        ended = async {
            say_goodbye(app).await;
            let memory = || memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory().hand_over(app);
            if let Some(admin) = admin.filter(|_| socket_outlives) {
                // From here on the next process answers there.
                admin.abort();
            }
            finish(app, deadline).await
        } => ended,
    };
    housekeeping.abort();
    marking.abort();
    watching.abort();
    ended
}

/// Moves the mark on. The disk may take its time, which is not for those who ask for metrics to wait for.
async fn keep_mark(app: Arc<App>) {
    let mut tick = interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        let (now, future) = (app.clock.unix_ms(), app.settings.window.future_ms);
        if !app.watermark.is_due(now, future) {
            continue;
        }
        let app = Arc::clone(&app);
        let moved = spawn_blocking(move || app.watermark.advance(now, future)).await;
        if let Ok(Err(error)) = moved {
            tracing::error!(%error, "state_dir cannot be written: in a moment nothing more will be admitted");
        }
    }
}

/// From asking callers to leave to the moment after which nobody is admitted.
async fn say_goodbye(app: &App) {
    let times = app.settings.drain;
    let running = || app.drain.running();
    let cut = cut_after(times.deadline);
    let grace = times.grace.min(cut);
    tracing::info!(
        ?grace,
        running = running(),
        "draining: asking callers to leave"
    );
    sleep(grace).await;
    app.drain.enter(DrainPhase::Finishing);
    tracing::info!(running = running(), "draining: no new connections");
    let left = cut.saturating_sub(grace);
    if timeout(LAST_CALL.min(left), app.drain.entered())
        .await
        .is_err()
    {
        tracing::info!("draining: callers that have not asked by now ask the next process");
    }
}

/// What is in flight, to its end or to the deadline.
async fn finish(app: &App, deadline: Instant) -> ServerExit {
    if timeout_at(deadline, app.drain.finished()).await.is_ok() {
        // The memory may have been on its way to the disk when it was asked to end at once.
        return match app.drain.phase() {
            DrainPhase::Over => ServerExit::Late,
            _ => ServerExit::Drained,
        };
    }
    tracing::error!(
        running = app.drain.running(),
        "draining: the deadline passed with requests in flight"
    );
    ServerExit::Late
}

impl ReplayHandover {
    /// The process ends a moment from now. The next tells by this how long none served.
    fn ends(&mut self) {
        let departure = self.departure.take();
        if let Some(Err(error)) = departure.map(|departure| departure.touch()) {
            tracing::warn!(%error, "state_dir: the next start may wait");
        }
    }

    /// Closes the memory, so that nothing more is admitted here, leaves it for the next process, and lets that one have
    /// the folder. Whoever owns the folder's lock owns the memory: never two, whatever is still in flight here.
    fn hand_over(&mut self, app: &App) {
        if self.handed_over {
            return;
        }
        self.handed_over = true;
        app.watermark.close();
        app.tenant_limits.suspensions.close();
        let memory = app.replay.hand_over();
        let Some(state) = self.state.take() else {
            return;
        };
        match state.hand_over(&memory) {
            Ok(departure) => {
                self.departure = Some(departure);
                tracing::info!(
                    bytes = memory.len(),
                    running = app.drain.running(),
                    "draining: replay memory handed over"
                );
            }
            Err(error) => tracing::error!(
                %error,
                "the replay memory was not handed over: the next start will wait"
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
