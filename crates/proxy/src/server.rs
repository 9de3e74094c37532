//! The running program: its threads, its sockets and its shutdown.

mod later_look_ups;
pub mod own_reads;
mod state_handover;
mod store_threads;
mod worker_threads;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::{ConfigWatch, Configuration};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, sleep, timeout, timeout_at};

use crate::admin;
use crate::app::App;
use crate::cluster::Cluster;
use crate::process::clock::Clock;
use crate::process::drain::{DrainPhase, cut_after};
use crate::process::shutdown::{join_unless, lock_unless, until};
use crate::process::systemd::{self, InheritedSockets};
use crate::record::log_level::LogLevel;
use crate::reload::{self, EnvironmentLookup};
use crate::start_error::StartError;
use state_handover::{InheritedState, ReplayHandover};
use store_threads::{caps_thread, deliver_thread, notify_thread, statements_thread};
use worker_threads::{HOUSEKEEPING, runtime, slots, workers};

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
        let memory = Arc::new(Mutex::new(ReplayHandover::of(state.folder)));
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
