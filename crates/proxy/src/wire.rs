//! Wire: a TCP stream that counts the bytes the kernel took, so that "nothing was sent" is a fact.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::pool::Place;

/// What a connection knows of its own bytes.
pub struct Wire {
    /// Bytes the kernel took, ever.
    written: AtomicU64,
    /// Nothing may be written any more.
    cut: AtomicBool,
    /// The same socket, for a look that waits for nothing.
    socket: socket2::Socket,
    open: IntGauge,
    _place: Place,
}

impl Wire {
    /// Nothing written yet.
    pub fn new(tcp: &TcpStream, place: Place, open: IntGauge) -> io::Result<Self> {
        use std::os::fd::AsFd as _;
        let socket = socket2::Socket::from(tcp.as_fd().try_clone_to_owned()?);
        open.inc();
        Ok(Self {
            written: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            socket,
            open,
            _place: place,
        })
    }

    /// How many bytes the kernel took so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Lets nothing be written any more, and says how many bytes were. After this, [`written`](Self::written) is final.
    pub fn cut(&self) -> u64 {
        self.cut.store(true, Ordering::Release);
        self.written()
    }

    /// Whether the peer has neither closed nor said anything unasked. Costs a system call and no round trip.
    pub fn is_quiet(&self) -> bool {
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
pub struct Metered {
    tcp: TcpStream,
    wire: Arc<Wire>,
}

impl Metered {
    /// Counts on `wire` from here on.
    pub fn new(tcp: TcpStream, wire: Arc<Wire>) -> Self {
        Self { tcp, wire }
    }

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
