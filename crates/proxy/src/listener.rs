//! Listener: connections from tenants, HTTP/1.1 and HTTP/2 by prior knowledge, within limits.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, sleep_until, timeout};

use crate::drain::{Phase, Running};
use crate::ingress;
use crate::journey::{self, Worker};
use crate::pace::{Pace, Verdict};

/// What an HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// hyper's own limit on a head, above ours so that ours answers.
const HYPER_HEAD: usize = 4 * ingress::HEAD_LIMIT;
/// How many requests one HTTP/2 connection may have open.
const STREAMS: u32 = 100;
/// How many streams a peer may open and reset before the connection is closed.
const RESETS: usize = 20;
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
                tokio::spawn(async move {
                    let _permit = permit;
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
    let _running = Running::begin(&app);
    app.metrics.connections.inc();
    let listen = &app.settings.listen;
    let pace = Pace::new(listen.head_timeout, listen.idle_timeout);
    // An answer is written at once; waiting for more to send would only delay it.
    if tcp.set_nodelay(true).is_ok()
        && let Ok(Ok((http2, stream))) =
            timeout(listen.head_timeout, Inbound::begin(tcp, Arc::clone(&pace))).await
    {
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
    app.metrics.connections.dec();
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
    let mut told = false;
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = &mut alarm => match pace.judge() {
                Verdict::Fine(until) => alarm.set(sleep_until(until)),
                Verdict::Late => return Ok(()),
            },
            // GOAWAY: streams that are open end, new ones go elsewhere.
            () = &mut leaving, if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A connection whose first bytes have been looked at.
struct Inbound {
    tcp: TcpStream,
    seen: [u8; PREFACE.len()],
    /// Which of `seen` are still to be read.
    left: std::ops::Range<usize>,
    pace: Arc<Pace>,
}

impl Inbound {
    /// Reads until it is clear whether HTTP/2 is spoken.
    async fn begin(mut tcp: TcpStream, pace: Arc<Pace>) -> io::Result<(bool, Self)> {
        let mut seen = [0; PREFACE.len()];
        let mut length = 0;
        while length < seen.len() && seen[..length] == PREFACE[..length] {
            match tcp.read(&mut seen[length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        Ok((
            seen == *PREFACE,
            Self {
                tcp,
                seen,
                left: 0..length,
                pace,
            },
        ))
    }
}

impl AsyncRead for Inbound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.left.is_empty() {
            let take = self.left.len().min(buf.remaining());
            let from = self.left.start;
            buf.put_slice(&self.seen[from..from + take]);
            self.left.start += take;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.pace.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.pace.wrote();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs))?;
        self.pace.wrote();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
