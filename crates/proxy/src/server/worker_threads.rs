//! The threads that serve callers, each with a runtime of its own.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::settings::{ListenSettings, UpstreamSettings};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::interval;

use crate::app::App;
use crate::callers::connection_slots::ConnectionSlots;
use crate::callers::open_files;
use crate::listener::accept;
use crate::process::drain::{DrainPhase, EntryGate};
use crate::process::heartbeat::WorkerHeartbeat;
use crate::server::{later_look_ups, own_reads};
use crate::start_error::StartError;
use crate::upstream::pool::{Pool, PoolLimits};
use crate::upstream::retry::RetryBudget;
use crate::worker::Worker;

/// The interval at which each worker closes idle upstream connections and the control thread expires replay memory.
pub(super) const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Starts the worker threads; returns them and the handles of their runtimes.
pub(super) fn workers(
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

/// The connection slots, as many as configured and as the file descriptors allow, and the connection limit per address.
pub(super) fn slots(listen: &ListenSettings) -> (Arc<ConnectionSlots>, usize) {
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

pub(super) fn runtime() -> Result<Runtime, StartError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
