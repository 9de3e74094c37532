//! Wire: a connection to GatePay that asks one thing at a time and knows how many bytes the kernel took, so that "nothing
//! was sent" is a fact.
//!
//! Ours and not hyper's client, because that one has a task of its own to every connection: what was written is then
//! known only by asking another task, and every request wakes it twice. Here whoever asks also writes and reads, and a
//! connection that is dropped writes nothing more.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::response;
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::client::TlsStream;

use crate::answer::{self, Rest, Step, Unreadable};
use crate::pool::Place;

/// How much is read at once: an answer has a few hundred bytes.
const READ: usize = 4 * 1024;
/// How much is read at once of an answer that is longer.
const READ_MORE: usize = 16 * 1024;
/// Bodies up to this length are written together with their head.
const TOGETHER: usize = 8 * 1024;

/// A connection to GatePay.
pub struct Wire {
    stream: Stream,
    /// The request's head, and a short body; kept, so that the next finds the room.
    out: Vec<u8>,
    /// What came and was not taken yet.
    came: BytesMut,
    /// What is still to come of the answer.
    rest: Rest,
    /// Whether the connection may serve another request after this answer.
    keeps: bool,
    /// One timer for all requests: it is moved, not made anew.
    alarm: Pin<Box<Sleep>>,
    _open: Open,
}

/// What the bytes go through.
pub enum Stream {
    /// As they are.
    Plain(Metered),
    /// Encrypted.
    Tls(Box<TlsStream<Metered>>),
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ended before the answer did.
    #[error("the connection was closed before the answer was over")]
    Closed,
    /// The answer is none.
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    /// It took too long.
    #[error("deadline passed")]
    Late,
}

/// How sure it has to be that a kept connection is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surely {
    /// The kernel is asked: for what must not be sent in vain. Costs a system call and no round trip.
    Now,
    /// As of the last time the reactor looked, which was before this task ran: for what may be sent again.
    Lately,
}

impl Wire {
    /// Nothing asked yet.
    pub fn new(stream: Stream, place: Place, open: IntGauge) -> Self {
        open.inc();
        Self {
            stream,
            out: Vec::new(),
            came: BytesMut::new(),
            rest: Rest::Exactly(0),
            keeps: true,
            alarm: Box::pin(sleep_until(Instant::now())),
            _open: Open {
                gauge: open,
                _place: place,
            },
        }
    }

    /// How many bytes the kernel took so far, ever.
    pub fn written(&self) -> u64 {
        self.stream.metered().written
    }

    /// Asks: `write` puts a head into the buffer it is given and returns the body. Ends with the head of the answer, of
    /// which the lines are there whose names `passes`; its body comes by [`poll_piece`](Self::poll_piece).
    ///
    /// # Errors
    /// If there is no answer that can be read, by `deadline`. The connection is good for nothing then.
    pub async fn ask(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Bytes,
        passes: fn(&str) -> bool,
        deadline: Instant,
    ) -> Result<response::Parts, Broken> {
        self.keeps = false;
        self.out.clear();
        let mut body = write(&mut self.out);
        if body.len() <= TOGETHER {
            self.out.extend_from_slice(&body);
            body = Bytes::new();
        }
        self.alarm.as_mut().reset(deadline);
        let mut sending = Sending {
            done: 0,
            body,
            is_over: false,
        };
        // How much of what came was looked at for a head.
        let mut seen = 0;
        poll_fn(|cx| {
            loop {
                if !sending.is_over
                    && let Poll::Ready(sent) = sending.poll(&self.out, &mut self.stream, cx)
                {
                    sent?;
                    sending.is_over = true;
                }
                if let Some(head) = answer::head(&mut self.came, seen, passes)? {
                    seen = 0;
                    if head.parts.status.is_informational() && head.parts.status.as_u16() != 101 {
                        continue;
                    }
                    self.rest = head.rest;
                    // Who answers before it was asked, or has not heard all of it, is not asked again.
                    self.keeps = head.keeps && sending.is_over;
                    return Poll::Ready(Ok(head.parts));
                }
                seen = self.came.len();
                match self.poll_read(cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(Broken::Closed)),
                    Poll::Ready(read) => read?,
                    Poll::Pending => {
                        ready!(self.alarm.as_mut().poll(cx));
                        return Poll::Ready(Err(Broken::Late));
                    }
                };
            }
        })
        .await
    }

    /// The next piece of the answer's body, by the deadline of the request; nothing after the last.
    ///
    /// # Errors
    /// If the answer is cut or broken, or late.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        poll_fn(|cx| match self.poll_piece(cx) {
            Poll::Pending => {
                ready!(self.alarm.as_mut().poll(cx));
                Poll::Ready(Err(Broken::Late))
            }
            piece @ Poll::Ready(_) => piece,
        })
        .await
    }

    /// The same, for as long as it takes.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            match self.rest.step(&mut self.came)? {
                Step::Piece(piece) => return Poll::Ready(Ok(Some(piece))),
                Step::Over => return Poll::Ready(Ok(None)),
                Step::More => {}
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.keeps = false;
                return Poll::Ready(if self.rest.shows_its_end() {
                    Err(Broken::Closed)
                } else {
                    Ok(None)
                });
            }
        }
    }

    /// What is still to come of the answer.
    pub fn rest(&self) -> Rest {
        self.rest
    }

    /// Whether the answer is over and another request may follow. What stands behind an answer belongs to nobody.
    pub fn is_free(&mut self) -> bool {
        let is_over = matches!(self.rest.step(&mut self.came), Ok(Step::Over));
        self.keeps && is_over && self.came.is_empty()
    }

    /// Whether the peer has neither closed nor said anything unasked.
    pub fn is_quiet(&mut self, surely: Surely) -> bool {
        if self.stream.is_silent(surely) {
            return true;
        }
        // Over TLS what came may be no answer but a ticket: then reading it leaves nothing.
        let Stream::Tls(tls) = &mut self.stream else {
            return false;
        };
        let mut byte = [0];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let read = Pin::new(tls).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        read.is_pending() && self.stream.is_silent(surely)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.came.capacity() - self.came.len() < READ / 2 {
            let is_long = self.rest.left().is_some_and(|left| left > READ as u64);
            self.came.reserve(if is_long { READ_MORE } else { READ });
        }
        pin!(self.stream.read_buf(&mut self.came)).poll(cx)
    }
}

/// A request on its way out.
struct Sending {
    /// How many bytes of head and body are written.
    done: usize,
    /// The body, if it is not written together with its head.
    body: Bytes,
    is_over: bool,
}

impl Sending {
    fn poll(
        &mut self,
        head: &[u8],
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let whole = head.len() + self.body.len();
        while self.done < whole {
            let part = match self.done.checked_sub(head.len()) {
                Some(of_body) => &self.body[of_body..],
                None => &head[self.done..],
            };
            match ready!(Pin::new(&mut *stream).poll_write(cx, part))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.done += written,
            }
        }
        Pin::new(stream).poll_flush(cx)
    }
}

/// One in a gauge, and a place, for as long as the socket is open.
struct Open {
    gauge: IntGauge,
    _place: Place,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Stream {
    fn metered(&self) -> &Metered {
        match self {
            Self::Plain(metered) => metered,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Whether nothing can be read, not even the end.
    fn is_silent(&self, surely: Surely) -> bool {
        let tcp = &self.metered().tcp;
        let look = || {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            socket2::SockRef::from(tcp).peek(&mut byte)
        };
        let seen = match surely {
            Surely::Now => look(),
            Surely::Lately => tcp.try_io(Interest::READABLE, look),
        };
        matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A TCP stream that counts what it writes.
pub struct Metered {
    tcp: TcpStream,
    /// Bytes the kernel took, ever.
    written: u64,
}

impl Metered {
    /// Counts from here on.
    pub fn new(tcp: TcpStream) -> Self {
        Self { tcp, written: 0 }
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
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs))?;
        self.written += written as u64;
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

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
