//! Accepting connections from tenants, over HTTP/1.1 and HTTP/2, within limits.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::app::App;
use crate::callers::activity::{ActivityLimits, ConnectionActivity, TimeoutCheck};
use crate::callers::address_limits::{AddressSlot, ConnectionPeer};
use crate::callers::auth_throttle::FLOOD_WAIT;
use crate::callers::client_address::ClientAddress;
use crate::callers::connection_slots::{
    AcceptPermit, ConnectionSlot, ConnectionSlots, SlotHolder, SlotOutcome,
};
use crate::listener::lifetime::{CloseReason, ConnectionLifetime};
use crate::listener::transport::InboundStream;
use crate::listener::{http1, http2, proxy_protocol};
use crate::process::drain::{DrainPhase, EntryGuard, RunningGuard};
use crate::tls::certificate::ListenerIdentity;
use crate::worker::Worker;

/// How long accepting pauses after the system refused a connection. Accepting then neither stops nor spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The least time between two log messages of the same kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until the drain ends accepting. All workers share `slots`.
pub async fn accept(worker: Arc<Worker>, listener: TcpListener, slots: Arc<ConnectionSlots>) {
    accept_until_told(&worker, listener, slots).await;
    worker.entry_gate.shut();
}

async fn accept_until_told(
    worker: &Arc<Worker>,
    listener: TcpListener,
    slots: Arc<ConnectionSlots>,
) {
    let app = Arc::clone(&worker.app);
    let mut finishing = pin!(app.lifecycle.drain.reached(DrainPhase::Finishing));
    let mut last_warning = None;
    loop {
        let next = async {
            let line = slots.line(|| app.metrics.connections_full.inc()).await;
            (line, listener.accept().await)
        };
        let (line, accepted) = tokio::select! {
            () = &mut finishing => return,
            next = next => next,
        };
        match accepted {
            Ok((tcp, peer)) => {
                let origin = app.listener.trusted_proxies.origin(peer.ip());
                let Ok(address_slot) = address_slot(&app, origin) else {
                    reset(&tcp);
                    continue;
                };
                let connection = AcceptedConnection {
                    slots: Arc::clone(&slots),
                    line,
                    tcp,
                    peer: ConnectionPeer {
                        origin,
                        address_slot,
                    },
                };
                let (worker, entry) = (Arc::clone(worker), worker.entry_gate.enter());
                let running = RunningGuard::begin(&app.lifecycle.drain);
                tokio::spawn(async move {
                    let _until_it_ends = running;
                    serve(worker, connection, entry).await;
                });
            }
            Err(error) => {
                app.metrics.accept_errors.inc();
                if last_warning
                    .is_none_or(|last_warning: Instant| last_warning.elapsed() >= LOG_INTERVAL)
                {
                    last_warning = Some(Instant::now());
                    tracing::warn!(%error, "a connection cannot be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was accepted, and may have no slot yet.
struct AcceptedConnection {
    slots: Arc<ConnectionSlots>,
    line: AcceptPermit,
    tcp: TcpStream,
    peer: ConnectionPeer,
}

/// A connection that can be served.
struct ReadyConnection {
    slot: ConnectionSlot,
    peer: ConnectionPeer,
    http2: bool,
    stream: InboundStream,
    lifetime: ConnectionLifetime,
}

impl AcceptedConnection {
    /// Waits for a slot, then for a PROXY header, the TLS handshake, and the bytes that tell the HTTP version. `None`
    /// if the connection ends before.
    async fn begin(
        self,
        worker: &Arc<Worker>,
        activity: &Arc<ConnectionActivity>,
    ) -> Option<ReadyConnection> {
        let app = &worker.app;
        let Self {
            slots,
            line,
            mut tcp,
            mut peer,
        } = self;
        let report = |outcome| full(app, &slots, outcome);
        let Ok(slot) = slots.take(line, peer.origin, activity, report).await else {
            reset(&tcp);
            return None;
        };
        let listen = &app.settings.listen;
        if listen.proxy_protocol && peer.origin.is_trusted() {
            peer = announced(app, &mut tcp, peer.origin).await.ok()?;
            slot.comes_from(peer.origin);
        }
        if let Some(address) = peer.origin.attributable()
            && app.listener.recent_floods.remember(address)
        {
            sleep(FLOOD_WAIT).await;
        }
        activity.begin();
        let lifetime = ConnectionLifetime::begin(worker, activity);
        let acceptor = app
            .listener
            .identity
            .as_ref()
            .map(ListenerIdentity::acceptor);
        let handshake = InboundStream::begin(tcp, acceptor.as_ref(), Arc::clone(activity));
        match timeout(listen.head_timeout, handshake).await {
            Ok(Ok((http2, stream))) => Some(ReadyConnection {
                slot,
                peer,
                http2,
                stream,
                lifetime,
            }),
            // Port scans and health checks connect and send nothing, which deserves no warning.
            Ok(Err(error)) => {
                let address = peer.origin.address;
                tracing::debug!(%error, %address, "a connection ended before its first request");
                None
            }
            Err(_) => None,
        }
    }
}

/// Counts the outcome for a connection that found no slot free, and logs it at intervals.
fn full(app: &App, slots: &ConnectionSlots, outcome: SlotOutcome) {
    let ended = &app.metrics.connections_ended;
    let holder = match outcome {
        SlotOutcome::NoneIdle => return app.metrics.connections_full.inc(),
        SlotOutcome::Refused => return ended.full_refused.inc(),
        SlotOutcome::Leaves(holder) => holder,
    };
    match holder {
        SlotHolder::Party(_) => ended.full_verified.inc(),
        SlotHolder::Address(_) => ended.full_unverified.inc(),
    }
    if !slots.is_log_due(LOG_INTERVAL) {
        return;
    }
    let limit = app.settings.listen.max_connections;
    match holder {
        SlotHolder::Address(address) => {
            tracing::info!(%address, most = %limit, "listen.max_connections are open: idle connections of this address are closed for new ones");
        }
        SlotHolder::Party(number) => {
            let generation = app.generation.load();
            let mut all_limits = generation.all_tenant_limits();
            let position = all_limits.position(|limits| NonNull::from(&**limits).addr() == number);
            let party = position.map(|at| generation.registry.at(at).party().id.as_str());
            tracing::info!(party, most = %limit, "listen.max_connections are open: idle connections of this party are closed for new ones");
        }
    }
}

/// The connection's slot among those of its address. A trusted proxy needs none, because it stands for many callers.
fn address_slot(
    app: &App,
    origin: ClientAddress,
) -> Result<Option<AddressSlot>, TooManyConnections> {
    let Some(address) = origin.attributable() else {
        return Ok(None);
    };
    if let Some(address_slot) = app.listener.address_limits.enter(address) {
        return Ok(Some(address_slot));
    }
    app.metrics.connections_refused.inc();
    tracing::debug!(%address, "a connection was refused: its address has listen.max_connections_per_address open");
    Err(TooManyConnections)
}

/// The connection's address has as many connections as it may.
struct TooManyConnections;

/// Makes the connection's drop a reset, which does not wait for the peer.
fn reset(tcp: &TcpStream) {
    // A failure means that the connection was reset already.
    let _reset = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// The peer that a trusted proxy's PROXY header names, with a slot of that peer's address.
async fn announced(
    app: &App,
    tcp: &mut TcpStream,
    proxy: ClientAddress,
) -> Result<ConnectionPeer, ()> {
    let header = timeout(app.settings.listen.head_timeout, proxy_protocol::read(tcp)).await;
    let source = match header {
        Ok(Ok(source)) => source,
        // A port check connects and closes without a header.
        Ok(Err(error)) if error.kind() != ErrorKind::InvalidData => return Err(()),
        Ok(Err(_)) | Err(_) => {
            app.metrics.proxy_headers_refused.inc();
            let proxy = proxy.address;
            tracing::warn!(%proxy, "a trusted proxy's connection did not begin with a PROXY header");
            return Err(());
        }
    };
    let origin = source.map_or(proxy, |source| app.listener.trusted_proxies.origin(source));
    let address_slot = address_slot(app, origin).map_err(|TooManyConnections| reset(tcp))?;
    Ok(ConnectionPeer {
        origin,
        address_slot,
    })
}

async fn serve(worker: Arc<Worker>, connection: AcceptedConnection, entry: EntryGuard) {
    let app = Arc::clone(&worker.app);
    let _open = GaugeGuard::count(&app.metrics.connections);
    let listen = &app.settings.listen;
    let activity = ConnectionActivity::new(ActivityLimits {
        head: listen.head_timeout,
        answer: listen.answer_timeout,
        idle: listen.idle_timeout,
    });
    let ready = tokio::select! {
        ready = connection.begin(&worker, &activity) => ready,
        // The process does not wait for connections that never send a request.
        () = app.lifecycle.drain.long_after(DrainPhase::Finishing) => return,
        // A new connection that needs the slot does not wait for this one either.
        () = activity.asked_to_leave() => return,
    };
    let Some(ready) = ready else {
        return;
    };
    let ReadyConnection {
        slot: _slot,
        peer,
        http2,
        stream,
        lifetime,
    } = ready;
    let origin = peer.origin;
    let ended = if http2 {
        http2::serve(&worker, stream, peer, &lifetime, entry).await
    } else {
        serve_http1(&worker, stream, &peer, &lifetime, entry).await
    };
    match ended {
        Ok(()) => {}
        Err(CloseReason::Stalled) => app.metrics.readers_stalled.inc(),
        Err(CloseReason::Broken(error)) => broken(&app, origin, &error),
    }
}

/// Counts a connection that ended in an HTTP/2 flood, and remembers its address if the error was abuse.
fn broken(app: &App, origin: ClientAddress, error: &h2::Error) {
    if http2::is_abuse(error)
        && let Some(address) = origin.attributable()
    {
        app.listener.recent_floods.ended(address);
    }
    if http2::is_flood(error) {
        app.metrics.http2_floods.inc();
    }
}

/// Counts one in a gauge until dropped.
struct GaugeGuard<'a>(&'a IntGauge);

impl<'a> GaugeGuard<'a> {
    fn count(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve_http1(
    worker: &Arc<Worker>,
    stream: InboundStream,
    peer: &ConnectionPeer,
    lifetime: &ConnectionLifetime,
    entry: EntryGuard,
) -> Result<(), CloseReason> {
    let activity = &lifetime.activity;
    let mut serving = pin!(http1::serve(worker, stream, peer, activity, entry));
    let mut leaving = pin!(activity.asked_to_leave());
    let mut alarm = pin!(sleep_until(lifetime.first_check()));
    let (mut listens, mut is_set) = (false, false);
    poll_fn(|cx| {
        // `http1::serve` checks by itself whether to leave. This poll only registers the task to be woken.
        if !listens && has_budget_remaining() {
            listens = true;
            let _asked = leaving.as_mut().poll(cx);
        }
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // A set alarm is polled only once it has elapsed, because an earlier poll costs time and tells nothing. A task
        // without remaining budget cannot set it.
        while !is_set || alarm.is_elapsed() {
            is_set = has_budget_remaining();
            ready!(alarm.as_mut().poll(cx));
            match activity.check_timeouts() {
                TimeoutCheck::Fine(until) => alarm.set(sleep_until(lifetime.judge(until))),
                TimeoutCheck::Late => return Poll::Ready(Ok(())),
                TimeoutCheck::Stalled => return Poll::Ready(Err(lifetime.stalled())),
            }
            is_set = false;
        }
        Poll::Pending
    })
    .await
}
