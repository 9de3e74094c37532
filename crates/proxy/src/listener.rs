//! Listener: connections from tenants, HTTP/1.1 and HTTP/2, within limits.

use std::error::Error;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::iter;
use std::pin::pin;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::app::App;
use crate::clock;
use crate::crowd::{Peer, Place};
use crate::drain::{Entering, Phase, Running};
use crate::head::Head;
use crate::headers::Lines;
use crate::http1;
use crate::http2_head;
use crate::identity::{ClientCa, Identity};
use crate::inbound::Inbound;
use crate::ingress;
use crate::journey::{self, Worker};
use crate::origin::Origin;
use crate::pace::{Busy, Leave, Limits, Pace, Verdict};
use crate::penalty::FLOOD_WAIT;
use crate::proxy_header;
use crate::relay::Reply;
use crate::slots::{Holder, InLine, Outcome, Slot, Slots};

/// How many requests one HTTP/2 connection may have open: as many as common clients open before they have read how many
/// they may, so that none of those is refused.
pub const STREAMS: u32 = 100;
/// How many streams a peer may open and reset, or make us reset, before the connection is closed.
const RESETS: usize = 20;
/// How much of bodies may arrive on one HTTP/2 connection before it is read; a stream may have all of it. A call has less
/// than a KiB, so that a connection from 100 ms away brings some 600 calls in a second.
pub const WINDOW: u32 = 64 * 1024;
/// How much of answers one HTTP/2 stream holds ready to be sent.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame, and the table heads are compressed with: as the standard has them.
const FRAME: u32 = 16 * 1024;
const HEADER_TABLE: u32 = 4 * 1024;
/// How long a caller has to answer a GOAWAY before an idle connection is dropped.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a connection that is ending is looked at.
const ENDING: Duration = Duration::from_millis(50);
/// How long a connection has to begin, and its caller to learn that it should go elsewhere, once the process drains: some
/// round trips. It was accepted, so its caller believes that it will be served.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How often it is looked whether a connection has asked, while the process drains.
const LOOK: Duration = Duration::from_millis(2);
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
                let running = Running::begin(&app);
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
    async fn begin(self, app: &Arc<App>, pace: &Arc<Pace>) -> Option<Begun> {
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
        let lifetime = Lifetime::begin(app, pace);
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

/// What ends a connection although nothing on it is late.
struct Lifetime {
    app: Arc<App>,
    pace: Arc<Pace>,
    ends: Instant,
    client_ca: Option<ClientCa>,
}

impl Lifetime {
    fn begin(app: &Arc<App>, pace: &Arc<Pace>) -> Self {
        let age = app.settings.listen.connection_age;
        // Connections that were opened together do not end together.
        let early = age
            .mul_f64(f64::from(u16::from_le_bytes(clock::random())) / f64::from(u16::MAX) / 10.0);
        Self {
            app: Arc::clone(app),
            pace: Arc::clone(pace),
            ends: Instant::now() + age.saturating_sub(early),
            client_ca: app.identity.as_ref().map(Identity::client_ca),
        }
    }

    /// Asks the connection to leave if it is time; when to look again otherwise, `next` at the latest.
    fn judge(&self, next: Instant) -> Instant {
        let ended = &self.app.metrics.connections_ended;
        let is_old = self.ends <= Instant::now();
        let client_ca = self.app.identity.as_ref().map(Identity::client_ca);
        if is_old && self.pace.leave(Leave::Age) {
            ended.age.inc();
        } else if client_ca != self.client_ca && self.pace.leave(Leave::ClientCa) {
            ended.client_ca.inc();
        }
        if is_old { next } else { next.min(self.ends) }
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
    let header = timeout(app.settings.listen.head_timeout, proxy_header::read(tcp)).await;
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
        begun = newcomer.begin(&app, &pace) => begun,
        // The process does not wait for those who never ask.
        () = long_after(&app, Phase::Finishing) => return,
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
    let peer = Arc::new(peer);
    let ended = if http2 {
        serve_http2(&worker, stream, peer, &lifetime, entering).await
    } else {
        serve_http1(&worker, stream, &peer, &lifetime, entering).await
    };
    if let Err(Ended::Broken(error)) = &ended
        && is_abuse(error)
        && let Some(address) = origin.accountable()
    {
        app.floods.ended(address);
    }
    match ended {
        Err(Ended::Stalled) => app.metrics.readers_stalled.inc(),
        Err(Ended::Broken(error)) if is_flood(&error) => app.metrics.http2_floods.inc(),
        Ok(()) | Err(Ended::Broken(_)) => {}
    }
}

/// When whoever was accepted before a phase has had time to begin.
async fn long_after(app: &App, phase: Phase) {
    app.drain.reached(phase).await;
    sleep(FIRST_WORD).await;
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

/// Why a connection ended before its time.
enum Ended {
    /// It broke, or its peer broke the rules.
    Broken(hyper::Error),
    /// Its peer does not take its answers.
    Stalled,
}

/// What is left of the answer is not waited for, by the system either: it is told before the connection is let go.
fn stalled(pace: &Pace) -> Ended {
    pace.abort();
    Ended::Stalled
}

/// Whether a peer sent more frames than it may, by our count or by the library's.
fn is_flood(error: &hyper::Error) -> bool {
    is_ours(error)
        || h2_error(error)
            .is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Whether that, or frames no client makes, for which we ended the connection.
fn is_abuse(error: &hyper::Error) -> bool {
    is_ours(error) || h2_error(error).is_some_and(|error| error.is_go_away() && error.is_library())
}

fn is_ours(error: &hyper::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::QuotaExceeded)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes(error: &hyper::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(error.source(), |cause| (*cause).source())
}

async fn serve_http1(
    worker: &Arc<Worker>,
    stream: Inbound,
    peer: &Peer,
    lifetime: &Lifetime,
    entering: Entering,
) -> Result<(), Ended> {
    let pace = &lifetime.pace;
    let mut serving = pin!(http1::serve(worker, stream, peer, pace, entering));
    let mut leaving = pin!(pace.asked_to_leave());
    let first = Instant::now() + worker.app.settings.listen.head_timeout;
    let mut alarm = pin!(sleep_until(first.min(lifetime.ends)));
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
                Verdict::Stalled => return Poll::Ready(Err(stalled(pace))),
            }
            is_set = false;
        }
        Poll::Pending
    })
    .await
}

/// Answers one stream.
async fn answer_stream(
    worker: Arc<Worker>,
    peer: Arc<Peer>,
    busy: Busy,
    entering: Entering,
    request: Request<Incoming>,
) -> Result<Response<Reply>, h2::Error> {
    let (parts, mut body) = request.into_parts();
    let reply = match http2_head::check(&parts) {
        Ok(()) => {
            let head = Head::of_parts(&parts);
            let reply = journey::handle(&worker, &peer, busy, entering, &head, &mut body).await;
            reply.ok_or(h2::Reason::CANCEL)?
        }
        Err(fault) => {
            worker.app.metrics.unreadable_heads.inc();
            let lines = Lines::read(Head::of_parts(&parts).lines());
            journey::unreadable(&worker.app, &peer, busy, fault, &lines)
        }
    };
    if !body.is_end_stream() {
        ingress::discard(&mut body).await;
    }
    Ok(reply.into_response())
}

async fn serve_http2(
    worker: &Arc<Worker>,
    stream: Inbound,
    peer: Arc<Peer>,
    lifetime: &Lifetime,
    entering: Entering,
) -> Result<(), Ended> {
    let pace = &lifetime.pace;
    pace.http2();
    let service = service_fn(|request| {
        let entering = worker.door.enter();
        let (worker, peer) = (Arc::clone(worker), Arc::clone(&peer));
        let (busy, seat) = (pace.request(), worker.app.crowd.seat(&peer));
        // In a place of its own: the library makes a task of every stream at once, and of those that are refused there
        // may be many times as many as of those that have a seat.
        let answering = seat.map(|seat| {
            let (worker, busy) = (Arc::clone(&worker), busy.seated(seat));
            Box::pin(answer_stream(worker, peer, busy, entering, request))
        });
        async move {
            let Some(answering) = answering else {
                // An answer of many streams takes as much memory as what it is to save. This says the same with less: by
                // the standard the request was not processed, and may be sent again.
                worker.app.metrics.requests_crowded.inc();
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
            };
            answering.await
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(2 * ingress::HEAD_LIMIT).expect("the limit is small"))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .header_table_size(HEADER_TABLE)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut leaving = pin!(async {
        tokio::select! {
            () = long_after(&worker.app, Phase::Leaving) => {}
            // One that is new may ask before it is sent away, or its caller could never ask at all.
            () = async {
                worker.app.drain.reached(Phase::Leaving).await;
                while !pace.has_asked() {
                    sleep(LOOK).await;
                }
            } => {}
        }
    });
    let first = Instant::now() + worker.app.settings.listen.head_timeout;
    let mut alarm = pin!(sleep_until(first.min(lifetime.ends)));
    let mut asked_to_leave = pin!(pace.asked_to_leave());
    let mut finishing = pin!(worker.app.drain.reached(Phase::Finishing));
    let (mut told, mut ending, mut late, mut leaves) = (false, false, false, false);
    // Its caller opens more requests until it has read the GOAWAY, so the connection stays at the door for so long.
    let mut entering = Some(entering);
    let mut known = pin!(sleep(FIRST_WORD));
    loop {
        tokio::select! {
            ended = &mut connection => return ended.map_err(Ended::Broken),
            () = &mut finishing, if !ending => {
                ending = true;
                alarm.set(sleep(ENDING));
            }
            // A peer that has gone silent never acknowledges the GOAWAY; once it has all its answers it is left.
            () = &mut alarm => match pace.judge() {
                Verdict::Stalled => return Err(stalled(pace)),
                // It had its time to acknowledge the GOAWAY.
                _ if leaves && pace.is_idle_for(farewell(worker, pace)) => return Ok(()),
                Verdict::Late if late => return Ok(()),
                // A request that is under way meets a GOAWAY, and not a closed door.
                Verdict::Late => {
                    late = true;
                    connection.as_mut().graceful_shutdown();
                    alarm.set(sleep(FAREWELL));
                }
                _ if ending && pace.is_settled() => return Ok(()),
                _ if ending || leaves => alarm.set(sleep(ENDING)),
                Verdict::Fine(until) => alarm.set(sleep_until(lifetime.judge(until))),
            },
            () = &mut asked_to_leave, if !leaves => {
                leaves = true;
                connection.as_mut().graceful_shutdown();
                alarm.set(sleep(farewell(worker, pace)));
            }
            // GOAWAY: streams that are open end, new ones go elsewhere.
            () = &mut leaving, if !told => {
                told = true;
                known.set(sleep(FIRST_WORD));
                connection.as_mut().graceful_shutdown();
            }
            () = &mut known, if told && entering.is_some() => entering = None,
        }
    }
}

/// How long a caller has to acknowledge the GOAWAY by which its connection leaves.
fn farewell(worker: &Worker, pace: &Pace) -> Duration {
    match (pace.leaves(), pace.party()) {
        // A new connection waits meanwhile.
        (Some(Leave::Full), None) => ENDING,
        (Some(Leave::Full), Some(_)) => FAREWELL / 4,
        _ => worker.app.settings.listen.head_timeout,
    }
}
