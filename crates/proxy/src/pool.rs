//! Connections to GatePay, kept for the next request.
//!
//! Ours over `hyper::client::conn`, because a general client cannot say whether anything of an attempt was written,
//! and with money that decides between "not executed" and "unknown".

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatepay_tenancy::settings::UpstreamUrl;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prometheus::IntGauge;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::metrics::Metrics;
use crate::repeat::Reason;

/// Where GatePay is and how to get there.
pub struct Upstream {
    url: UpstreamUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why no connection could be had. Nothing of a request was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name, route or port.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The handshake, the certificate among it.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// The connection closed before it was used.
    #[error("http: {0}")]
    Http(hyper::Error),
    /// It took too long.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// How long connecting may take, TLS included. GatePay answers in less or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address may take to answer.
const ADDRESS_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long an idle connection is kept. Below the 60 s of common load balancers, which close without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// How old a connection may get, so that a changed DNS answer is noticed.
const MAX_AGE: Duration = Duration::from_mins(10);
/// How many idle connections one worker keeps.
const MAX_IDLE: usize = 256;
/// The largest head GatePay's answers may have.
const MAX_HEAD: usize = 64 * 1024;

impl Upstream {
    /// GatePay at `url`, with `tls` if the URL says so.
    pub fn new(
        url: UpstreamUrl,
        tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, rustls_pki_types::InvalidDnsNameError> {
        let tls = match tls {
            Some(config) => Some((
                TlsConnector::from(config),
                ServerName::try_from(url.host.clone())?,
            )),
            None => None,
        };
        Ok(Self { url, tls })
    }

    /// The value of `Host`.
    pub fn authority(&self) -> String {
        self.url.authority()
    }
}

/// One worker's connections.
pub struct Pool {
    upstream: Arc<Upstream>,
    metrics: Arc<Metrics>,
    idle: Mutex<Vec<Connection>>,
}

/// A connection that belongs to one request until it is given back.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    wire: Arc<Wire>,
    born: Instant,
    idle_since: Instant,
}

/// What a connection knows of its own bytes.
struct Wire {
    /// Bytes the kernel took, ever.
    written: AtomicU64,
    /// Nothing may be written any more.
    cut: AtomicBool,
    /// The same socket, for a look that waits for nothing.
    socket: socket2::Socket,
    open: IntGauge,
}

impl Pool {
    /// Without connections.
    pub fn new(upstream: Arc<Upstream>, metrics: Arc<Metrics>) -> Self {
        Self {
            upstream,
            metrics,
            idle: Mutex::default(),
        }
    }

    /// An idle connection that is still alive, the last used first, or none.
    pub fn reuse(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let candidate = &idle[at];
            if candidate.sender.is_closed() || !candidate.is_fresh(now) {
                idle.remove(at);
            } else if candidate.sender.is_ready() {
                let connection = idle.remove(at);
                if connection.wire.is_quiet() {
                    return Some(connection);
                }
            }
            // One that is neither closed nor ready has yet to notice that its last answer is over.
        }
        None
    }

    /// A new connection, tried on every address the name has.
    pub async fn connect(&self, deadline: Instant) -> Result<Connection, ConnectError> {
        let limit = CONNECT_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
        match timeout(limit, self.dial()).await {
            Ok(dialed) => dialed,
            Err(_) => Err(ConnectError::Timeout(limit)),
        }
    }

    async fn dial(&self) -> Result<Connection, ConnectError> {
        let url = &self.upstream.url;
        let tcp = connect_any(&url.host, url.port)
            .await
            .map_err(ConnectError::Connect)?;
        tcp.set_nodelay(true).map_err(ConnectError::Connect)?;
        let wire = Arc::new(
            Wire::new(&tcp, self.metrics.upstream.connections.clone())
                .map_err(ConnectError::Connect)?,
        );
        self.metrics.upstream.connects.inc();
        let tcp = Metered {
            tcp,
            wire: Arc::clone(&wire),
        };
        match &self.upstream.tls {
            None => handshake(tcp, wire).await,
            Some((tls, name)) => {
                let stream = tls
                    .connect(name.clone(), tcp)
                    .await
                    .map_err(ConnectError::Tls)?;
                handshake(stream, wire).await
            }
        }
    }

    /// Keeps a connection for the next request, if it can take one.
    pub fn give_back(&self, mut connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !connection.sender.is_closed() && idle.len() < MAX_IDLE {
            connection.idle_since = Instant::now();
            idle.push(connection);
        }
    }

    /// Counts an attempt that is made again.
    pub fn repeated(&self, reason: Reason) {
        self.metrics.upstream.repeats[reason as usize].inc();
    }

    /// Counts an attempt that is not made again because too many are.
    pub fn repeat_denied(&self) {
        self.metrics.upstream.repeats_denied.inc();
    }

    /// Closes what has been idle or open for too long. Called every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| connection.is_fresh(now) && !connection.sender.is_closed());
    }
}

/// Tries every address of a name in turn, none for so long that it hides the others.
async fn connect_any(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn handshake<S>(stream: S, wire: Arc<Wire>) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    // It ends when the sender is dropped or the peer closes; an error reaches the request in flight.
    tokio::spawn(async move {
        let _ = driver.await;
    });
    let now = Instant::now();
    Ok(Connection {
        sender,
        wire,
        born: now,
        idle_since: now,
    })
}

impl Connection {
    /// The way to send a request.
    pub fn sender(&mut self) -> &mut SendRequest<Full<Bytes>> {
        &mut self.sender
    }

    /// How many bytes the kernel took so far.
    pub fn written(&self) -> u64 {
        self.wire.written.load(Ordering::Acquire)
    }

    /// Lets nothing be written any more, and says how many bytes were. After this, [`written`](Self::written) is final.
    pub fn cut(&self) -> u64 {
        self.wire.cut.store(true, Ordering::Release);
        self.written()
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.idle_since) < IDLE_TIMEOUT
            && now.duration_since(self.born) < MAX_AGE
    }
}

impl Wire {
    fn new(tcp: &TcpStream, open: IntGauge) -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        let socket = socket2::Socket::from(tcp.as_fd().try_clone_to_owned()?);
        open.inc();
        Ok(Self {
            written: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            socket,
            open,
        })
    }

    /// Whether the peer has neither closed nor said anything unasked. Costs a system call and no round trip.
    fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        matches!(self.socket.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// A TCP stream that counts what it writes, and stops writing when it is cut.
struct Metered {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

impl Metered {
    fn poll_counted(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.wire.cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = std::task::ready!(write(Pin::new(&mut self.tcp), cx))?;
        self.wire
            .written
            .fetch_add(written as u64, Ordering::AcqRel);
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_counted(cx, |tcp, cx| tcp.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_counted(cx, |tcp, cx| tcp.poll_write_vectored(cx, bufs))
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
