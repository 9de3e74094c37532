//! The running program: threads, sockets and their end.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::Configuration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};

use crate::app::{App, StartError};
use crate::clock::Clock;
use crate::drain::Phase;
use crate::journey::Worker;
use crate::pool::Pool;
use crate::repeat::Budget;
use crate::state::{Inheritance, State};
use crate::{admin, descriptors, listener};

/// How often memory is returned and idle connections are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Sockets that are bound and threads that serve them.
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    admin_address: SocketAddr,
    workers: Vec<JoinHandle<()>>,
    control: JoinHandle<Ended>,
    state: Option<State>,
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was in flight ended.
    Drained,
    /// The deadline passed first.
    Late,
}

impl Server {
    /// Binds, starts the threads and returns. `access` gets the access lines.
    ///
    /// Without `state_dir` it is unknown what a run before this one admitted, so the replay guard applies, unless
    /// `fresh_credentials` says that none of the credentials existed before this process.
    pub fn start(
        configuration: Configuration,
        clock: Clock,
        access: Box<dyn Write + Send>,
        fresh_credentials: bool,
    ) -> Result<Self, StartError> {
        let settings = &configuration.settings;
        let state = settings
            .state_dir
            .as_deref()
            .map(State::open)
            .transpose()
            .map_err(StartError::State)?;
        let (socket, address) = bind(settings.listen.address)?;
        let (admin_socket, admin_address) = bind(settings.admin.address)?;
        let threads = settings
            .listen
            .threads
            .map_or_else(cores, NonZeroUsize::get);
        let wanted = settings.listen.max_connections.get();
        let fit = descriptors::room_for_connections();
        if fit < wanted {
            tracing::warn!(
                wanted,
                fit,
                "the limit on open files is too low for listen.max_connections; raise it (LimitNOFILE, ulimit -n)"
            );
        }
        let room = wanted.min(fit).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(room));

        let inherit = || match &state {
            Some(state) => state.inherit(),
            None if fresh_credentials => Ok(Inheritance::FirstStart),
            None => Ok(Inheritance::Lost),
        };
        let app = App::new(configuration, clock, inherit, access)?;
        let workers = (0..threads)
            .map(|number| {
                let socket = socket
                    .try_clone()
                    .map_err(|error| StartError::Listen(address, error))?;
                let (app, room) = (Arc::clone(&app), Arc::clone(&room));
                let runtime = runtime()?;
                thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || {
                        runtime.block_on(work(app, socket, room, number == 0));
                        // A name that is still being looked up is not waited for.
                        runtime.shutdown_background();
                    })
                    .map_err(StartError::Thread)
            })
            .collect::<Result<_, _>>()?;
        let control = {
            let (app, runtime) = (Arc::clone(&app), runtime()?);
            thread::Builder::new()
                .name("control".into())
                .spawn(move || {
                    let ended = runtime.block_on(control(app, admin_socket));
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
            state,
        })
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
        self.app.drain.enter(Phase::Leaving);
    }

    /// What ends the drain at once, whatever is in flight.
    pub fn hurry(&self) -> impl FnOnce() + Send + 'static {
        let app = Arc::clone(&self.app);
        move || app.drain.enter(Phase::Over)
    }

    /// Waits for the end that [`leave`](Self::leave) begins.
    ///
    /// # Panics
    /// If a thread of the program panicked, with its message.
    pub fn wait(self) -> Ended {
        let ended = self
            .control
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // Late or not, the workers end: what they drop is recorded as it falls.
        self.app.drain.enter(Phase::Over);
        for worker in self.workers {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let memory = self.app.replay.hand_over();
        if let Some(state) = self.state
            && let Err(error) = state.hand_over(&memory)
        {
            tracing::error!(%error, "the replay memory was not handed over: the next start will wait");
        }
        // Last and not for long: a reader that has stalled must not cost the memory.
        self.app.log.finish();
        ended
    }
}

/// One worker: a runtime of one thread, a clone of the listening socket, connections of its own to GatePay. One of them
/// `probes` for all.
async fn work(app: Arc<App>, socket: TcpListener, room: Arc<Semaphore>, probes: bool) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker cannot use the listening socket");
            return;
        }
    };
    let pool = Arc::new(Pool::new(
        Arc::clone(&app.upstream),
        Arc::clone(&app.metrics),
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
        budget: Budget::new(app.settings.upstream.repeat_budget),
    });
    let probing = probes.then(|| {
        let worker = Arc::clone(&worker);
        tokio::spawn(async move { worker.probe().await })
    });
    listener::accept(worker, listener, room).await;
    tokio::select! {
        () = app.drain.finished() => {}
        () = app.drain.reached(Phase::Over) => {}
    }
    sweeping.abort();
    if let Some(probing) = probing {
        probing.abort();
    }
}

/// The admin listener, housekeeping, and the drain.
async fn control(app: Arc<App>, socket: TcpListener) -> Ended {
    match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => drop(tokio::spawn(admin::serve(Arc::clone(&app), listener))),
        Err(error) => tracing::error!(%error, "the admin listener cannot be used"),
    }
    let housekeeping = tokio::spawn({
        let app = Arc::clone(&app);
        async move {
            let mut tick = interval(HOUSEKEEPING);
            loop {
                tick.tick().await;
                let now = app.clock.unix_ms();
                app.replay.forget(now);
                app.guardian.look();
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
    app.drain.reached(Phase::Leaving).await;
    let ended = tokio::select! {
        // What is cut because of it counts as cut, even if nothing is left running then.
        biased;
        () = app.drain.reached(Phase::Over) => Ended::Late,
        ended = drain(&app) => ended,
    };
    housekeeping.abort();
    ended
}

/// From asking callers to leave to having nothing in flight, or to the deadline.
async fn drain(app: &App) -> Ended {
    let times = app.settings.drain;
    let running = || app.drain.running();
    tracing::info!(grace = ?times.grace, running = running(), "draining: asking callers to leave");
    sleep(times.grace).await;
    app.drain.enter(Phase::Finishing);
    tracing::info!(running = running(), "draining: no new connections");
    let left = times.deadline.saturating_sub(times.grace);
    if timeout(left, app.drain.finished()).await.is_ok() {
        return Ended::Drained;
    }
    tracing::error!(
        running = running(),
        "draining: the deadline passed with requests in flight"
    );
    Ended::Late
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let socket = TcpListener::bind(address)
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
