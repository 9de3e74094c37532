//! Listener: connections from tenants, HTTP/1.1 and HTTP/2, within limits.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};

use crate::drain::{Phase, Running};
use crate::inbound::Inbound;
use crate::ingress;
use crate::journey::{self, Worker};
use crate::pace::{Pace, Verdict};

/// hyper's own limit on a head, above ours so that ours answers.
const HYPER_HEAD: usize = 4 * ingress::HEAD_LIMIT;
/// How many requests one HTTP/2 connection may have open.
const STREAMS: u32 = 100;
/// How many streams a peer may open and reset before the connection is closed.
const RESETS: usize = 20;
/// How often a connection that is ending is looked at.
const ENDING: Duration = Duration::from_millis(50);
/// How long accepting pauses after the system refused a connection, so that it neither stops nor spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the drain finishes admitting. `room` is shared by all workers.
pub async fn accept(worker: Arc<Worker>, listener: TcpListener, room: Arc<Semaphore>) {
    let app = Arc::clone(&worker.app);
    let mut finishing = pin!(app.drain.reached(Phase::Finishing));
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
                let worker = Arc::clone(&worker);
                let running = Running::begin(&app);
                tokio::spawn(async move {
                    let _until_it_ends = (permit, running);
                    serve(worker, tcp, peer).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(worker: Arc<Worker>, tcp: TcpStream, peer: SocketAddr) {
    let app = Arc::clone(&worker.app);
    let _open = Open::count(&app.metrics.connections);
    let listen = &app.settings.listen;
    let pace = Pace::new(listen.head_timeout, listen.idle_timeout);
    let begun = timeout(
        listen.head_timeout,
        Inbound::begin(tcp, app.tls.as_ref(), Arc::clone(&pace)),
    );
    let begun = tokio::select! {
        begun = begun => begun,
        // Nobody is kept waiting who has not asked for anything.
        () = app.drain.reached(Phase::Finishing) => return,
    };
    let (http2, stream) = match begun {
        Ok(Ok(begun)) => begun,
        // Port scans and health checks connect and say nothing; that is no event.
        Ok(Err(error)) => {
            return tracing::debug!(%error, %peer, "a connection ended before its first request");
        }
        Err(_) => return,
    };
    let peer = peer.ip().to_canonical();
    let ended = if http2 {
        serve_http2(&worker, stream, peer, &pace).await
    } else {
        serve_http1(&worker, stream, peer, &pace).await
    };
    if ended.is_err_and(|error| error.is_parse()) {
        app.metrics.unreadable_heads.inc();
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
    peer: IpAddr,
    pace: &Arc<Pace>,
) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let (worker, busy) = (Arc::clone(worker), pace.request());
        async move { Ok::<_, Infallible>(journey::handle(worker, peer, busy, request).await) }
    });
    let connection = http1::Builder::new()
        // Heads are timed by `pace`: hyper's timer would be the idle time-out as well.
        .header_read_timeout(None)
        .max_headers(2 * ingress::HEAD_LINES)
        .max_buf_size(HYPER_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut finishing = pin!(worker.app.drain.reached(Phase::Finishing));
    let mut alarm = pin!(sleep(worker.app.settings.listen.head_timeout));
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = &mut alarm => match pace.judge() {
                Verdict::Fine(until) => alarm.set(sleep_until(until)),
                Verdict::Late => return Ok(()),
            },
            () = &mut finishing, if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn serve_http2(
    worker: &Arc<Worker>,
    stream: Inbound,
    peer: IpAddr,
    pace: &Arc<Pace>,
) -> hyper::Result<()> {
    pace.begun();
    let service = service_fn(|request| {
        let (worker, busy) = (Arc::clone(worker), pace.request());
        async move { Ok::<_, Infallible>(journey::handle(worker, peer, busy, request).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(2 * ingress::HEAD_LIMIT).expect("the limit is small"))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut leaving = pin!(worker.app.drain.reached(Phase::Leaving));
    let mut alarm = pin!(sleep(worker.app.settings.listen.idle_timeout));
    let mut finishing = pin!(worker.app.drain.reached(Phase::Finishing));
    let (mut told, mut ending) = (false, false);
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = &mut finishing, if !ending => {
                ending = true;
                alarm.set(sleep(ENDING));
            }
            // A peer that has gone silent never acknowledges the GOAWAY; once it has all its answers it is left.
            () = &mut alarm => match pace.judge() {
                Verdict::Late => return Ok(()),
                _ if ending && pace.is_settled() => return Ok(()),
                _ if ending => alarm.set(sleep(ENDING)),
                Verdict::Fine(until) => alarm.set(sleep_until(until)),
            },
            // GOAWAY: streams that are open end, new ones go elsewhere.
            () = &mut leaving, if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
