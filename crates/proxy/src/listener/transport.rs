//! Transport of a connection from a tenant: TLS or plain TCP, and detection of the HTTP version.

use std::io;
use std::mem;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::callers::activity::ConnectionActivity;
use crate::listener::http2_frames::FrameCounter;
use crate::process::yielding::SinceYield;

/// The first bytes that an HTTP/2 client sends.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many bytes are read from an HTTP/2 connection before its streams get their turn. Frames that the streams have
/// not taken are queued one by one, and each keeps the whole buffer that it was read into.
const TURN: usize = 16 * 1024;

/// Pieces of HTTP/2 up to this many bytes are copied and written together.
const TOGETHER: usize = 2 * 1024;

/// A connection whose HTTP version is known from its first bytes.
pub struct InboundStream {
    stream: CallerStream,
    seen: [u8; PREFACE.len()],
    /// The range of `seen` that is still to be read.
    left: Range<usize>,
    /// The frame counter of an HTTP/2 connection.
    frames: Option<FrameCounter>,
    /// Bytes of HTTP/2 that wait for more bytes or for the flush, at most [`TOGETHER`].
    ///
    /// A stream that takes lists of pieces would be handed every answer of 256 bytes or more by itself. One that takes
    /// none is handed the short answers of all requests together, but a longer one in two parts, which are joined here.
    held: Vec<u8>,
    /// How many bytes were read since other tasks last had their turn.
    in_turn: usize,
    /// How many bytes of HTTP/2 were written since the last yield. Without it the library would fill the send buffer in
    /// one turn.
    since_yield: SinceYield,
    /// Whether no answer is under way that is ended by the connection's end.
    whole: bool,
    activity: Arc<ConnectionActivity>,
}

enum CallerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl InboundStream {
    /// Does the TLS handshake if there is one, then reads until the HTTP version is clear. Returns whether it is
    /// HTTP/2.
    pub async fn begin(
        tcp: TcpStream,
        tls: Option<&TlsAcceptor>,
        activity: Arc<ConnectionActivity>,
    ) -> io::Result<(bool, Self)> {
        // An answer is written at once, so Nagle's algorithm would only delay it.
        tcp.set_nodelay(true)?;
        let mut stream = match tls {
            None => CallerStream::Plain(tcp),
            Some(acceptor) => CallerStream::Tls(Box::new(acceptor.accept(tcp).await?)),
        };
        let mut seen = [0; PREFACE.len()];
        let mut length = 0;
        while length < seen.len() && seen[..length] == PREFACE[..length] {
            match stream.read(&mut seen[length..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length += read,
            }
        }
        let http2 = seen == *PREFACE;
        Ok((
            http2,
            Self {
                stream,
                seen,
                left: 0..length,
                frames: http2.then(FrameCounter::begin),
                held: Vec::new(),
                in_turn: 0,
                since_yield: SinceYield::default(),
                whole: true,
                activity,
            },
        ))
    }
}

impl InboundStream {
    /// Sets whether the connection may end in order. Otherwise dropping it resets it, because its end would make half
    /// an answer look whole.
    pub fn ends_whole(&mut self, whole: bool) {
        self.whole = whole;
    }

    /// Notes that part of a head is there.
    pub fn head_begun(&self) {
        self.activity.head_begun();
    }

    /// Whether other tasks have their turn first, because enough was written. The task is then woken after them.
    fn gives_way(&mut self, cx: &mut Context<'_>) -> bool {
        self.since_yield.is_time() && pin!(yield_now()).poll(cx).is_pending()
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(Ok(bytes)) => {
                self.activity.wrote(*bytes);
                if let Some(frames) = &mut self.frames {
                    frames.sent(*bytes);
                    self.since_yield.add(*bytes);
                }
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl Drop for InboundStream {
    fn drop(&mut self) {
        // A caller that reads to the connection's end would take half an answer for a whole one after an orderly end.
        if self.activity.is_aborted() || !self.whole {
            let tcp = match &self.stream {
                CallerStream::Plain(tcp) => tcp,
                CallerStream::Tls(tls) => tls.get_ref().0,
            };
            // A failure means that the connection was reset already.
            let _reset = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for InboundStream {
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
        if self.in_turn >= TURN && self.frames.is_some() {
            self.in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_pending() {
            self.in_turn = 0;
        }
        ready!(polled)?;
        let read = &buf.filled()[before..];
        self.in_turn += read.len();
        if !read.is_empty() {
            self.activity.read(read.len());
        }
        if let Some(frames) = &mut self.frames
            && let Err(flood) = frames.received(read)
        {
            self.activity.abort();
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, flood)));
        }
        Poll::Ready(Ok(()))
    }
}

impl InboundStream {
    fn poll_write_now(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gives_way(cx) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    /// Writes the held bytes and then some of `buf`, in one piece if possible. Returns how many bytes of `buf` it were.
    fn poll_write_behind_held(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        while !self.held.is_empty() {
            if self.gives_way(cx) {
                return Poll::Pending;
            }
            let both = [&*self.held, buf].map(io::IoSlice::new);
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &both);
            self.wrote(&written);
            let written = ready!(written)?;
            let of_held = written.min(self.held.len());
            self.held.drain(..of_held);
            if written == 0 || written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
        self.poll_write_now(cx, buf)
    }

    /// Writes the held bytes, and frees their buffer.
    fn poll_write_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let held = mem::take(&mut self.held);
            let written = self.poll_write_now(cx, &held);
            self.held = held;
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for InboundStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.frames.is_none() {
            return self.poll_write_now(cx, buf);
        }
        if self.held.len() + buf.len() > TOGETHER {
            return self.poll_write_behind_held(cx, buf);
        }
        if self.held.capacity() == 0 {
            self.held.reserve_exact(TOGETHER);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_held(cx))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        match flushed {
            Poll::Pending => self.activity.blocked(),
            Poll::Ready(_) => self.activity.flushed(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_aborted() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_write_held(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for CallerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for CallerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use std::io::Read as _;

    use socket2::SockRef;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::callers::activity::ActivityLimits;
    use crate::process::yielding::YIELD_AFTER;

    /// A connection that begins with these bytes and on which nothing is read, with room for several times
    /// [`YIELD_AFTER`] bytes.
    async fn unread(first: &[u8]) -> (InboundStream, TcpStream) {
        connection(first, 1 << 20).await
    }

    async fn connection(first: &[u8], send_buffer: usize) -> (InboundStream, TcpStream) {
        let (tcp, mut peer) = sockets(send_buffer).await;
        peer.write_all(first).await.unwrap();
        let inbound = InboundStream::begin(tcp, None, activity()).await;
        (inbound.unwrap().1, peer)
    }

    async fn sockets(send_buffer: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap());
        let (peer, accepted) = tokio::join!(peer, listener.accept());
        let (tcp, _) = accepted.unwrap();
        SockRef::from(&tcp)
            .set_send_buffer_size(send_buffer)
            .unwrap();
        (tcp, peer.unwrap())
    }

    fn activity() -> Arc<ConnectionActivity> {
        let minute = Duration::from_mins(1);
        ConnectionActivity::new(ActivityLimits {
            head: minute,
            answer: minute,
            idle: minute,
        })
    }

    /// How many bytes are written before the task has to wait.
    async fn written_in_a_turn(inbound: &mut InboundStream) -> usize {
        let mut written = 0;
        poll_fn(|cx| {
            loop {
                match Pin::new(&mut *inbound).poll_write(cx, &[0; 8 * 1024]) {
                    Poll::Ready(bytes) => written += bytes.unwrap(),
                    Poll::Pending => return Poll::Ready(()),
                }
            }
        })
        .await;
        written
    }

    #[tokio::test]
    async fn other_tasks_run_while_a_long_answer_is_written_over_http_2() {
        let (mut http2, _peer) = unread(PREFACE).await;
        for _ in 0..2 {
            assert_eq!(written_in_a_turn(&mut http2).await, YIELD_AFTER);
        }
        // An HTTP/1 answer is handed over in pieces of that length, so each write may fill the send buffer.
        let (mut http1, _peer) = unread(b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(written_in_a_turn(&mut http1).await > 2 * YIELD_AFTER);
    }

    #[tokio::test]
    async fn short_pieces_of_http_2_are_written_together_at_the_flush() {
        let (mut http2, peer) = unread(PREFACE).await;
        let mut peer = peer.into_std().unwrap();
        let mut came = [0; TOGETHER];
        for piece in [&[1; 900][..], &[2; 1_000]] {
            http2.write_all(piece).await.unwrap();
            let nothing = peer.read(&mut came).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        }
        http2.flush().await.unwrap();
        assert_eq!(peer.read(&mut came).unwrap(), 1_900);
        assert_eq!(came[..1_900], [[1; 900].as_slice(), &[2; 1_000]].concat());
        assert_eq!(http2.held.capacity(), 0);
    }

    /// Writes pieces of many lengths, and reads until the connection's end that they came in their order.
    async fn pieces_arrive(mut http2: InboundStream, mut peer: impl AsyncRead + Unpin) {
        let lengths = [1, TOGETHER - 1, 1, TOGETHER, TOGETHER + 1, 700, 1_500];
        let lengths = lengths.into_iter().cycle().take(700).chain([1 << 20, 3]);
        let pieces: Vec<Vec<u8>> = lengths
            .zip((0..=u8::MAX).cycle())
            .map(|(length, byte)| vec![byte; length])
            .collect();
        let write = async {
            for (number, piece) in pieces.iter().enumerate() {
                http2.write_all(piece).await.unwrap();
                if number % 3 == 0 {
                    http2.flush().await.unwrap();
                }
            }
            http2.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let read = peer.read_to_end(&mut came);
        let (read, ()) = tokio::join!(read, write);
        read.unwrap();
        assert!(came == pieces.concat());
    }

    #[tokio::test]
    async fn pieces_of_http_2_of_any_length_arrive_in_their_order() {
        // Less room than a long piece takes, so that some writes are partial.
        let (http2, peer) = connection(PREFACE, 4 * 1024).await;
        pieces_arrive(http2, peer).await;
    }

    #[tokio::test]
    async fn held_bytes_that_are_written_in_part_arrive_in_their_order() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (tcp, peer) = sockets(4 * 1024).await;
        let connecting = async {
            let name = "127.0.0.1".try_into().unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let mut peer = connector.connect(name, peer).await.unwrap();
            peer.write_all(PREFACE).await.unwrap();
            peer
        };
        let begun = InboundStream::begin(tcp, Some(&acceptor), activity());
        let (begun, peer) = tokio::join!(begun, connecting);
        let (_, mut http2) = begun.unwrap();
        // TLS keeps a few bytes at a time for the socket: unlike TCP it takes a part of a short piece.
        if let CallerStream::Tls(tls) = &mut http2.stream {
            tls.get_mut().1.set_buffer_limit(Some(100));
        }
        pieces_arrive(http2, peer).await;
    }
}
