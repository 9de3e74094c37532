//! Listener: connections from tenants, HTTP/1.1 and HTTP/2, within limits.

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
use crate::callers::activity::{Limits, Pace, Verdict};
use crate::callers::address_limits::{Peer, Place};
use crate::callers::auth_throttle::FLOOD_WAIT;
use crate::callers::client_address::Origin;
use crate::callers::connection_slots::{Holder, InLine, Outcome, Slot, Slots};
use crate::journey::Worker;
use crate::listener::http1;
use crate::listener::http2;
use crate::listener::lifetime::{CloseReason, Lifetime};
use crate::listener::proxy_protocol;
use crate::listener::transport::Inbound;
use crate::process::drain::{Entering, Phase, Running};
use crate::tls::certificate::Identity;

/// How long accepting pauses after the system refused a connection, so that it neither stops nor spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often it is said again that connections are not accepted.
const NEWS: Duration = Duration::from_secs(10);

/// Accepts until the drain ends that. `slots` are shared by all workers.
pub async fn accept(worker: Arc<Worker>, listener: TcpListener, slots: Arc<Slots>) {
    accept_until_told(&worker, listener, slots).await;
    worker.door.shut();
}

async fn accept_until_told(worker: &Arc<Worker>, listener: TcpListener, slots: Arc<Slots>) {
    let app = Arc::clone(&worker.app);
    let mut finishing = pin!(app.drain.reached(Phase::Finishing));
    let mut said = None;
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
                let origin = app.trusted.origin(peer.ip());
                let Ok(place) = place(&app, origin) else {
                    reset(&tcp);
                    continue;
                };
                let newcomer = Newcomer {
                    slots: Arc::clone(&slots),
                    line,
                    tcp,
                    peer: Peer { origin, place },
                };
                let (worker, entering) = (Arc::clone(worker), worker.door.enter());
                let running = Running::begin(&app.drain);
                tokio::spawn(async move {
                    let _until_it_ends = running;
                    serve(worker, newcomer, entering).await;
                });
            }
            Err(error) => {
                app.metrics.accept_errors.inc();
                if said.is_none_or(|said: Instant| said.elapsed() >= NEWS) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, "connections are not accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that was accepted, and may have no slot yet.
struct Newcomer {
    slots: Arc<Slots>,
    line: InLine,
    tcp: TcpStream,
    peer: Peer,
}

/// A connection that can be served.
struct Begun {
    slot: Slot,
    peer: Peer,
    http2: bool,
    stream: Inbound,
    lifetime: Lifetime,
}

impl Newcomer {
    /// Waits for a slot, then for what comes before the first request: a PROXY header, the TLS handshake, the bytes that
    /// tell which HTTP is spoken. Nothing if the connection ends before.
    async fn begin(self, worker: &Arc<Worker>, pace: &Arc<Pace>) -> Option<Begun> {
        let app = &worker.app;
        let Self {
            slots,
            line,
            mut tcp,
            mut peer,
        } = self;
        let told = |outcome| full(app, &slots, outcome);
        let Ok(slot) = slots.take(line, peer.origin, pace, told).await else {
            reset(&tcp);
            return None;
        };
        let listen = &app.settings.listen;
        if listen.proxy_protocol && peer.origin.is_trusted() {
            peer = announced(app, &mut tcp, peer.origin).await.ok()?;
            slot.comes_from(peer.origin);
        }
        if let Some(address) = peer.origin.accountable()
            && app.floods.remember(address)
        {
            sleep(FLOOD_WAIT).await;
        }
        pace.begin();
        let lifetime = Lifetime::begin(worker, pace);
        let acceptor = app.identity.as_ref().map(Identity::acceptor);
        let begun = Inbound::begin(tcp, acceptor.as_ref(), Arc::clone(pace));
        match timeout(listen.head_timeout, begun).await {
            Ok(Ok((http2, stream))) => Some(Begun {
                slot,
                peer,
                http2,
                stream,
                lifetime,
            }),
            // Port scans and health checks connect and say nothing; that is no event.
            Ok(Err(error)) => {
                let address = peer.origin.address;
                tracing::debug!(%error, %address, "a connection ended before its first request");
                None
            }
            Err(_) => None,
        }
    }
}

/// Counts what became of a connection that found no slot free, and says so now and then.
fn full(app: &App, slots: &Slots, outcome: Outcome) {
    let ended = &app.metrics.connections_ended;
    let holder = match outcome {
        Outcome::NoneIdle => return app.metrics.connections_full.inc(),
        Outcome::Refused => return ended.full_refused.inc(),
        Outcome::Leaves(holder) => holder,
    };
    match holder {
        Holder::Party(_) => ended.full_verified.inc(),
        Holder::Address(_) => ended.full_unverified.inc(),
    }
    if !slots.is_news(NEWS) {
        return;
    }
    let most = app.settings.listen.max_connections;
    match holder {
        Holder::Address(address) => {
            tracing::info!(%address, %most, "all connections are taken: idle ones of this address end for new ones");
        }
        Holder::Party(number) => {
            let generation = app.generation.load();
            let mut lanes = generation.lanes();
            let position = lanes.position(|lane| NonNull::from(&**lane).addr() == number);
            let party = position.map(|at| generation.registry.at(at).party().id.as_str());
            tracing::info!(party, %most, "all connections are taken: idle ones of this party end for new ones");
        }
    }
}

/// The connection's place among those of its address; a trusted proxy needs none, for behind it are many.
fn place(app: &App, origin: Origin) -> Result<Option<Place>, Crowded> {
    let Some(address) = origin.accountable() else {
        return Ok(None);
    };
    if let Some(place) = app.crowd.enter(address) {
        return Ok(Some(place));
    }
    app.metrics.connections_refused.inc();
    tracing::debug!(%address, "a connection was refused: its address has as many as it may");
    Err(Crowded)
}

/// Its address has as many connections as it may.
struct Crowded;

/// Lets go of a connection without waiting for its peer.
fn reset(tcp: &TcpStream) {
    // If it cannot be reset it was reset already.
    let _reset = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Where a trusted proxy says that the connection comes from, with its place there.
async fn announced(app: &App, tcp: &mut TcpStream, proxy: Origin) -> Result<Peer, ()> {
    let header = timeout(app.settings.listen.head_timeout, proxy_protocol::read(tcp)).await;
    let source = match header {
        Ok(Ok(source)) => source,
        // Whoever only looks whether the port is open says nothing.
        Ok(Err(error)) if error.kind() != ErrorKind::InvalidData => return Err(()),
        Ok(Err(_)) | Err(_) => {
            app.metrics.proxy_headers_refused.inc();
            let proxy = proxy.address;
            tracing::warn!(%proxy, "a trusted proxy's connection did not begin with a PROXY header");
            return Err(());
        }
    };
    let origin = source.map_or(proxy, |source| app.trusted.origin(source));
    let place = place(app, origin).map_err(|Crowded| reset(tcp))?;
    Ok(Peer { origin, place })
}

async fn serve(worker: Arc<Worker>, newcomer: Newcomer, entering: Entering) {
    let app = Arc::clone(&worker.app);
    let _open = Open::count(&app.metrics.connections);
    let listen = &app.settings.listen;
    let pace = Pace::new(Limits {
        head: listen.head_timeout,
        answer: listen.answer_timeout,
        idle: listen.idle_timeout,
    });
    let begun = tokio::select! {
        begun = newcomer.begin(&worker, &pace) => begun,
        // The process does not wait for those who never ask.
        () = app.drain.long_after(Phase::Finishing) => return,
        // Nor does a new connection.
        () = pace.asked_to_leave() => return,
    };
    let Some(begun) = begun else {
        return;
    };
    let Begun {
        slot: _slot,
        peer,
        http2,
        stream,
        lifetime,
    } = begun;
    let origin = peer.origin;
    let ended = if http2 {
        http2::serve(&worker, stream, peer, &lifetime, entering).await
    } else {
        serve_http1(&worker, stream, &peer, &lifetime, entering).await
    };
    match ended {
        Ok(()) => {}
        Err(CloseReason::Stalled) => app.metrics.readers_stalled.inc(),
        Err(CloseReason::Broken(error)) => broken(&app, origin, &error),
    }
}

/// Counts a connection that ended in an error of HTTP/2, and remembers its address if that was abuse.
fn broken(app: &App, origin: Origin, error: &h2::Error) {
    if http2::is_abuse(error)
        && let Some(address) = origin.accountable()
    {
        app.floods.ended(address);
    }
    if http2::is_flood(error) {
        app.metrics.http2_floods.inc();
    }
}

/// One in a gauge while it lives, however it ends.
struct Open<'a>(&'a IntGauge);

impl<'a> Open<'a> {
    fn count(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve_http1(
    worker: &Arc<Worker>,
    stream: Inbound,
    peer: &Peer,
    lifetime: &Lifetime,
    entering: Entering,
) -> Result<(), CloseReason> {
    let pace = &lifetime.pace;
    let mut serving = pin!(http1::serve(worker, stream, peer, pace, entering));
    let mut leaving = pin!(pace.asked_to_leave());
    let mut alarm = pin!(sleep_until(lifetime.first_look()));
    let (mut listens, mut is_set) = (false, false);
    poll_fn(|cx| {
        // What serves looks by itself; it only has to be woken.
        if !listens && has_budget_remaining() {
            listens = true;
            let _asked = leaving.as_mut().poll(cx);
        }
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Once it is set it is asked only when it has gone off: to ask before costs, and tells nothing. A task that has
        // used up its turn does not set it.
        while !is_set || alarm.is_elapsed() {
            is_set = has_budget_remaining();
            ready!(alarm.as_mut().poll(cx));
            match pace.judge() {
                Verdict::Fine(until) => alarm.set(sleep_until(lifetime.judge(until))),
                Verdict::Late => return Poll::Ready(Ok(())),
                Verdict::Stalled => return Poll::Ready(Err(lifetime.stalled())),
            }
            is_set = false;
        }
        Poll::Pending
    })
    .await
}
