//! Gate: between the socket and hyper, hands on one HTTP/1 request at a time, and only what has one reading.
//!
//! Bytes go straight into hyper's buffer and are looked at there; nothing is copied unless a head comes in pieces or
//! requests are pipelined. In place of a head that has a [`Fault`] hyper gets one that stands in for it, so that
//! `ingress` refuses it as it refuses everything else, and after it nothing.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::framing::{Fault, Framing};
use crate::ingress::{DISCARD, DISCARD_TIME};

/// A stream of which hyper reads only whole heads in one reading, and their bodies.
pub struct Gate<S> {
    stream: S,
    framing: Framing,
    /// What came and was not handed on yet.
    kept: Vec<u8>,
    /// How much of the front of `kept` may be handed on.
    passed: usize,
    /// Nothing more is handed on, whatever comes.
    shut: bool,
    faults: IntCounter,
    /// After the last answer: how much of what still comes is read, and until when.
    lingering: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Gate<S> {
    /// Before this stream; heads that get a stand-in are counted.
    pub fn before(stream: S, faults: IntCounter) -> Self {
        Self {
            stream,
            framing: Framing::default(),
            kept: Vec::new(),
            passed: 0,
            shut: false,
            faults,
            lingering: None,
        }
    }

    /// Hands on of what is kept as much as may go and fits.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let now = self.passed.min(buf.remaining());
        buf.put_slice(&self.kept[..now]);
        self.passed -= now;
        self.kept.drain(..now);
        if self.kept.is_empty() {
            // Most connections never need it again.
            self.kept = Vec::new();
        }
    }

    fn refuse(&mut self, fault: Fault) -> io::Result<()> {
        self.shut = true;
        if self.framing.is_in_body() {
            // Its head is with hyper already, which tells whoever reads the body.
            self.kept = Vec::new();
            return Err(io::Error::new(io::ErrorKind::InvalidData, fault.text()));
        }
        self.faults.inc();
        self.kept = fault.stand_in();
        self.passed = self.kept.len();
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.passed == 0 && !gate.kept.is_empty() {
            // The request before is over as far as hyper has read it.
            match gate.framing.pass(&gate.kept) {
                Ok(passed) => gate.passed = passed,
                Err(fault) => gate.refuse(fault)?,
            }
        }
        loop {
            if gate.passed > 0 {
                gate.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            if gate.shut {
                // Not the end: hyper would take it for a caller that has left, and not answer.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut gate.stream).poll_read(cx, buf))?;
            let came = &buf.filled()[before..];
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let judged = if gate.kept.is_empty() {
                gate.framing.pass(came)
            } else {
                gate.kept.extend_from_slice(came);
                buf.set_filled(before);
                gate.framing.pass(&gate.kept)
            };
            match judged {
                Ok(passed) if gate.kept.is_empty() => {
                    gate.kept
                        .extend_from_slice(&buf.filled()[before + passed..]);
                    buf.set_filled(before + passed);
                    if passed > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Ok(passed) => gate.passed = passed,
                Err(fault) => {
                    buf.set_filled(before);
                    gate.refuse(fault)?;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends the connection in order. A caller that is still sending would have it reset, and many lose the answer then:
    /// for a moment its bytes are read and thrown away.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        ready!(Pin::new(&mut gate.stream).poll_shutdown(cx))?;
        if !gate.shut && !gate.framing.is_in_body() {
            return Poll::Ready(Ok(()));
        }
        let (left, alarm) = gate
            .lingering
            .get_or_insert_with(|| (DISCARD, Box::pin(sleep(DISCARD_TIME))));
        while *left > 0 {
            let mut piece = [MaybeUninit::uninit(); 4096];
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut gate.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    *left = left.saturating_sub(piece.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return alarm.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    /// A caller, and the gate after it has read what the caller said.
    async fn after(said: &str) -> (DuplexStream, Gate<DuplexStream>) {
        let (mut caller, stream) = duplex(1024);
        let faults = IntCounter::new("faults", "faults").unwrap();
        let mut gate = Gate::before(stream, faults);
        caller.write_all(said.as_bytes()).await.unwrap();
        assert!(gate.read(&mut [0; 1024]).await.unwrap() > 0);
        (caller, gate)
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_still_sending_is_heard_out_but_not_for_long() {
        for said in [
            "nonsense\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n",
        ] {
            let (mut caller, mut gate) = after(said).await;
            let begun = Instant::now();
            let ending = tokio::spawn(async move { gate.shutdown().await });
            caller.write_all(&[b'x'; 8 * 1024]).await.unwrap();
            drop(caller);
            ending.await.unwrap().unwrap();
            assert!(begun.elapsed() < DISCARD_TIME, "it ends with the caller");

            let (_caller, mut gate) = after(said).await;
            let begun = Instant::now();
            gate.shutdown().await.unwrap();
            assert!(begun.elapsed() >= DISCARD_TIME);

            let (mut caller, mut gate) = after(said).await;
            let ending = tokio::spawn(async move { gate.shutdown().await });
            let much = vec![b'x'; DISCARD + 64 * 1024];
            assert!(caller.write_all(&much).await.is_err(), "enough is enough");
            ending.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_said_all_is_not_waited_for() {
        let (_caller, mut gate) = after("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let begun = Instant::now();
        gate.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
    }
}
