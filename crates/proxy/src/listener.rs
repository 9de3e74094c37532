//! Listener: connections from tenants, HTTP/1.1 and HTTP/2, within limits.

use std::error::Error;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::iter;
use std::pin::pin;
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
use tokio::sync::Semaphore;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::app::App;
use crate::crowd::{Peer, Place};
use crate::drain::{Entering, Phase, Running};
use crate::head::Head;
use crate::http1;
use crate::http2_head;
use crate::identity::Identity;
use crate::inbound::Inbound;
use crate::ingress;
use crate::journey::{self, Worker};
use crate::origin::Origin;
use crate::pace::{Busy, Limits, Pace, Verdict};
use crate::penalty::FLOOD_WAIT;
use crate::proxy_header;
use crate::relay::Reply;

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
/// How often it is said again that it did.
const ACCEPT_NEWS: Duration = Duration::from_secs(10);

/// Accepts until the drain ends that. `room` is shared by all workers.
pub async fn accept(worker: Arc<Worker>, listener: TcpListener, room: Arc<Semaphore>) {
    accept_until_told(&worker, listener, room).await;
    worker.door.shut();
}

async fn accept_until_told(worker: &Arc<Worker>, listener: TcpListener, room: Arc<Semaphore>) {
    let app = Arc::clone(&worker.app);
    let mut finishing = pin!(app.drain.reached(Phase::Finishing));
    let mut said = None;
    loop {
        if room.available_permits() == 0 {
            app.metrics.connections_full.inc();
        }
        let next = async {
            let permit = Arc::clone(&room)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
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
                let (worker, entering) = (Arc::clone(worker), worker.door.enter());
                let running = Running::begin(&app);
                tokio::spawn(async move {
                    let _until_it_ends = (permit, running);
                    serve(worker, tcp, Peer { origin, place }, entering).await;
                });
            }
            Err(error) => {
                app.metrics.accept_errors.inc();
                if said.is_none_or(|said: Instant| said.elapsed() >= ACCEPT_NEWS) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, "connections are not accepted");
                }
                sleep(ACCEPT_PAUSE).await;
            }
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

async fn serve(worker: Arc<Worker>, mut tcp: TcpStream, peer: Peer, entering: Entering) {
    let app = Arc::clone(&worker.app);
    let _open = Open::count(&app.metrics.connections);
    let listen = &app.settings.listen;
    let begin = async {
        let peer = if listen.proxy_protocol && peer.origin.is_trusted() {
            announced(&app, &mut tcp, peer.origin).await?
        } else {
            peer
        };
        if let Some(address) = peer.origin.accountable()
            && app.floods.remember(address)
        {
            sleep(FLOOD_WAIT).await;
        }
        let pace = Pace::new(Limits {
            head: listen.head_timeout,
            answer: listen.answer_timeout,
            idle: listen.idle_timeout,
        });
        let acceptor = app.identity.as_ref().map(Identity::acceptor);
        let begun = Inbound::begin(tcp, acceptor.as_ref(), Arc::clone(&pace));
        match timeout(listen.head_timeout, begun).await {
            Ok(Ok((http2, stream))) => Ok((peer, pace, http2, stream)),
            // Port scans and health checks connect and say nothing; that is no event.
            Ok(Err(error)) => {
                let address = peer.origin.address;
                tracing::debug!(%error, %address, "a connection ended before its first request");
                Err(())
            }
            Err(_) => Err(()),
        }
    };
    let begun = tokio::select! {
        begun = begin => begun,
        // The process does not wait for those who never ask.
        () = long_after(&app, Phase::Finishing) => return,
    };
    let Ok((peer, pace, http2, stream)) = begun else {
        return;
    };
    let origin = peer.origin;
    let peer = Arc::new(peer);
    let ended = if http2 {
        serve_http2(&worker, stream, peer, &pace, entering).await
    } else {
        serve_http1(&worker, stream, &peer, &pace, entering).await
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
    pace: &Arc<Pace>,
    entering: Entering,
) -> Result<(), Ended> {
    let mut serving = pin!(http1::serve(worker, stream, peer, pace, entering));
    let mut alarm = pin!(sleep(worker.app.settings.listen.head_timeout));
    let mut is_set = false;
    poll_fn(|cx| {
        if serving.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // Once it is set it is asked only when it has gone off: to ask before costs, and tells nothing. A task that has
        // used up its turn does not set it.
        while !is_set || alarm.is_elapsed() {
            is_set = has_budget_remaining();
            ready!(alarm.as_mut().poll(cx));
            match pace.judge() {
                Verdict::Fine(until) => alarm.set(sleep_until(until)),
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
            journey::unreadable(&worker.app, &peer, busy, fault)
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
    pace: &Arc<Pace>,
    entering: Entering,
) -> Result<(), Ended> {
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
    let mut alarm = pin!(sleep(worker.app.settings.listen.head_timeout));
    let mut finishing = pin!(worker.app.drain.reached(Phase::Finishing));
    let (mut told, mut ending, mut late) = (false, false, false);
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
                Verdict::Late if late => return Ok(()),
                // A request that is under way meets a GOAWAY, and not a closed door.
                Verdict::Late => {
                    late = true;
                    connection.as_mut().graceful_shutdown();
                    alarm.set(sleep(FAREWELL));
                }
                _ if ending && pace.is_settled() => return Ok(()),
                _ if ending => alarm.set(sleep(ENDING)),
                Verdict::Fine(until) => alarm.set(sleep_until(until)),
            },
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
