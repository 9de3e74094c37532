//! HTTP/1 with a caller: a request is read and answered, and then the next request.
//!
//! This replaces hyper's server, because `request_parser` must read every head by stricter rules anyway, and two
//! parsers may read the same head differently. The remaining work is little, and no step is done twice: header lines
//! stay where they were read, and an answer is assembled in one buffer and written at once. hyper's server behind that
//! parser takes 19 % more CPU time for a request (`docs/explanation/http1.md`). HTTP/2 is in [`http2`](crate::listener::http2).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use gatepay_http1::buffer_pool::{self, PooledBuffer};
use gatepay_http1::request_head::RequestHead;
use gatepay_http1::request_parser::{
    BodyEvent, BodyFraming, FramingError, HEAD_LIMIT, RequestParser,
};
use gatepay_http1::response_encoder::{
    self, AnswerFraming, CHUNK_END, CONTINUE, LAST_CHUNK, RequestTraits,
};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::task::yield_now;

use crate::callers::activity::ConnectionActivity;
use crate::callers::address_limits::ConnectionPeer;
use crate::headers;
use crate::journey;
use crate::journey::ingress::{LINGER, RequestBody};
use crate::journey::relay::Reply;
use crate::listener::transport::InboundStream;
use crate::listener::turned_away;
use crate::listener::{lifetime, write_batching};
use crate::process::clock::Clock;
use crate::process::drain::{Drain, DrainPhase, EntryGuard};
use crate::process::yielding::{SinceYield, YIELD_AFTER};
use crate::record::refused_head::RefusedHead;
use crate::worker::Worker;

/// How many bytes are read at once: a request has less than a KiB.
const READ: usize = 4 * 1024;
/// How many bytes are read at once of a longer body.
const READ_MORE: usize = 16 * 1024;
/// How many bytes are read at once while a request awaits its answer. Usually none arrive, so a new buffer for them is
/// not worthwhile: the request's buffer is free again after the answer.
const READ_AHEAD: usize = 128;
/// Pieces of an answer up to this many bytes are written together with their head.
const TOGETHER: usize = 8 * 1024;

/// How many bytes a connection holds at most besides bodies: a head as it comes, the bytes read after it, and an
/// answer.
pub const BUFFERS: usize = 5 * HEAD_LIMIT;

/// A connection that speaks HTTP/1.
struct Http1Connection {
    stream: InboundStream,
    /// The bytes that were received and not consumed yet.
    received: BytesMut,
    /// The parser of the next head.
    parser: RequestParser,
}

/// The caller on a connection, and the worker that serves it.
#[derive(Clone, Copy)]
struct Http1Caller<'a> {
    worker: &'a Arc<Worker>,
    peer: &'a ConnectionPeer,
    activity: &'a Arc<ConnectionActivity>,
}

/// The body of a request, read as it arrives.
struct Http1Body<'a> {
    stream: &'a mut InboundStream,
    received: &'a mut BytesMut,
    remaining: BodyFraming,
    /// The part of `100 Continue` that is still to be sent before the caller sends the body.
    continue_left: Option<&'static [u8]>,
    /// Whether the caller has closed its sending side. It may still wait for its answer.
    is_half_closed: bool,
}

/// Why a body did not arrive completely.
#[derive(Debug, thiserror::Error)]
enum BodyBroken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the connection was closed before the body was over")]
    Closed,
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// Serves a connection to its end. `entry` becomes the entry guard of its first request.
pub async fn serve(
    worker: &Arc<Worker>,
    stream: InboundStream,
    peer: &ConnectionPeer,
    activity: &Arc<ConnectionActivity>,
    entry: EntryGuard,
) {
    let app = &worker.app;
    let caller = Http1Caller {
        worker,
        peer,
        activity,
    };
    let mut connection = Http1Connection {
        stream,
        received: BytesMut::new(),
        parser: RequestParser::default(),
    };
    let mut finishing = FinishingSignal {
        drain: &app.lifecycle.drain,
        reached: pin!(app.lifecycle.drain.reached(DrainPhase::Finishing)),
    };
    let mut first_entry = Some(entry);
    let ending = loop {
        // An accepted connection may still send its first request, because its caller expects to be served.
        let may_end = first_entry.is_none();
        let Some(read) = connection.head(&mut finishing, may_end, activity).await else {
            break AfterRequest::Close;
        };
        let entry = first_entry
            .take()
            .unwrap_or_else(|| worker.entry_gate.enter());
        let after = match read {
            Ok(length) => connection.request(caller, entry, length).await,
            Err(fault) => connection.refuse(caller, entry, fault).await,
        };
        if after != AfterRequest::NextRequest {
            break after;
        }
    };
    match ending {
        AfterRequest::NextRequest | AfterRequest::Drop => {}
        AfterRequest::Close => {
            let _closed = connection.stream.shutdown().await;
        }
        AfterRequest::Linger => connection.linger(caller).await,
    }
}

/// What follows a request on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterRequest {
    /// The next request.
    NextRequest,
    /// The connection is closed in order.
    Close,
    /// The connection is closed in order while the caller may still send.
    Linger,
    /// The connection is dropped, because its answer was not written completely.
    Drop,
}

impl AfterRequest {
    fn ending(still_sends: bool) -> Self {
        if still_sends {
            Self::Linger
        } else {
            Self::Close
        }
    }
}

/// Ready once the process only finishes the requests in flight and takes no new ones.
struct FinishingSignal<'a, F> {
    drain: &'a Drain,
    reached: Pin<&'a mut F>,
}

impl<F: Future<Output = ()>> FinishingSignal<'_, F> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A future that is ready must not be polled again.
        if self.drain.phase() >= DrainPhase::Finishing {
            return Poll::Ready(());
        }
        self.reached.as_mut().poll(cx)
    }
}

/// The traits of the request that `parser` has just read.
fn request_traits(head: &RequestHead<'_>, parser: &RequestParser) -> RequestTraits {
    RequestTraits {
        for_head: head.method == "HEAD",
        is_old: parser.is_old(),
        keeps: parser.keeps(),
    }
}

impl Http1Connection {
    /// The length of the next head in bytes, once the head is complete. `None` if the connection ends, or is to end,
    /// before.
    async fn head(
        &mut self,
        finishing: &mut FinishingSignal<'_, impl Future<Output = ()>>,
        may_end: bool,
        activity: &ConnectionActivity,
    ) -> Option<Result<usize, FramingError>> {
        let mut has_yielded = false;
        loop {
            if !self.received.is_empty() {
                match self.parser.read(&self.received) {
                    // Its first bytes may have come with the previous request, when no head time was noted.
                    Ok(None) => self.stream.head_begun(),
                    Ok(Some(length)) => return Some(Ok(length)),
                    Err(fault) => return Some(Err(fault)),
                }
            }
            // A head that has begun may be completed.
            let may_end = may_end && self.received.is_empty();
            let read = poll_fn(|cx| match self.poll_read(cx) {
                // Without a complete head no request is under way. A request to leave wakes the task.
                Poll::Pending if activity.leaves().is_some() => Poll::Ready(None),
                Poll::Pending if may_end => finishing.poll(cx).map(|()| None),
                read => read.map(Some),
            });
            match read.await {
                Some(Ok(1..)) => {}
                None if !has_yielded => {
                    has_yielded = true;
                    // Bytes that have arrived by now are read first.
                    yield_now().await;
                }
                Some(Ok(0) | Err(_)) | None => return None,
            }
        }
    }

    /// Reads and answers the request whose head is the first `length` received bytes.
    async fn request(
        &mut self,
        caller: Http1Caller<'_>,
        entry: EntryGuard,
        length: usize,
    ) -> AfterRequest {
        let Http1Caller {
            worker,
            peer,
            activity,
        } = caller;
        let app = &worker.app;
        let active = activity.request();
        let text = self.received.split_to(length);
        let head = self.parser.head(&text);
        let traits = request_traits(&head, &self.parser);
        let remaining = self.parser.rest();
        let is_usual =
            matches!(remaining, BodyFraming::Length(body) if length as u64 + body <= READ as u64);
        let mut body = Http1Body {
            stream: &mut self.stream,
            received: &mut self.received,
            remaining,
            continue_left: self.parser.is_partial().then_some(CONTINUE),
            is_half_closed: false,
        };
        let reply = if let Some(request_slot) = app.listener.address_limits.request_slot(peer) {
            let active = active.with_slot(request_slot);
            journey::handle(worker, peer, active, entry, &head, &mut body).await
        } else {
            drop(entry);
            Some(turned_away::crowded(app, peer, active, &head))
        };
        let Some(reply) = reply.filter(|_| !body.is_continue_cut()) else {
            return AfterRequest::Drop;
        };
        // The rest of an unread body would be taken for the next request.
        let is_unread = !body.remaining.is_over();
        let may_follow = !body.is_half_closed && !reply.closes() && activity.leaves().is_none();
        let traits = RequestTraits {
            keeps: traits.keeps && !is_unread && may_follow,
            ..traits
        };
        let Ok(keeps) = self.answer(&app.clock, reply, traits).await else {
            return AfterRequest::Drop;
        };
        if !keeps || app.lifecycle.drain.phase() >= DrainPhase::Finishing {
            return AfterRequest::ending(is_unread);
        }
        if !is_usual && self.received.is_empty() {
            // The buffer of a long request is not kept while the connection idles.
            self.received = BytesMut::new();
        }
        self.parser.reset();
        AfterRequest::NextRequest
    }

    /// Answers a head that cannot be read unambiguously.
    async fn refuse(
        &mut self,
        caller: Http1Caller<'_>,
        entry: EntryGuard,
        fault: FramingError,
    ) -> AfterRequest {
        let Http1Caller { worker, peer, .. } = caller;
        let app = &worker.app;
        let active = caller.activity.request();
        app.metrics.unreadable_heads.inc();
        let head = RefusedHead::of_bytes(&self.received);
        let reply = turned_away::unreadable(app, peer, active, fault, &head);
        drop((head, entry));
        let written = self
            .answer(&app.clock, reply, RequestTraits::UNREADABLE)
            .await;
        written.map_or(AfterRequest::Drop, |_| AfterRequest::Linger)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        read_more(&mut self.stream, &mut self.received, READ, cx)
    }

    /// Writes an answer. Returns whether the connection may be used again.
    ///
    /// # Errors
    /// If the answer could not be written, or was cut. The connection is unusable then.
    async fn answer(
        &mut self,
        clock: &Clock,
        mut reply: Reply,
        traits: RequestTraits,
    ) -> io::Result<bool> {
        let framing = AnswerFraming::of(reply.head().status, reply.length(), traits);
        let traits = RequestTraits {
            keeps: traits.keeps && framing != AnswerFraming::Closing,
            ..traits
        };
        let mut out = buffer_pool::take();
        let date = || headers::date(clock.unix_ms() / 1_000);
        response_encoder::write_head(&mut out, reply.head(), traits, framing, date);
        if traits.for_head || framing == AnswerFraming::AtOnce {
            drop(reply);
            self.write(out).await?;
            return Ok(traits.keeps);
        }
        // If the connection's end marks the answer's end, it must be a reset until the answer is complete.
        self.stream.ends_whole(framing != AnswerFraming::Closing);
        loop {
            let piece = match poll_fn(|cx| reply.poll_piece(cx)).await {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(cut) => {
                    // The bytes so far may be written, because they cannot be taken for the whole answer.
                    let _written = self.write(out).await;
                    return Err(io::Error::other(cut));
                }
            };
            if framing == AnswerFraming::Chunks {
                response_encoder::write_chunk_size(&mut out, piece.len());
            }
            if piece.len() <= TOGETHER {
                out.extend_from_slice(&piece);
            } else {
                // A long piece is not copied.
                self.write(std::mem::take(&mut out)).await?;
                write_in_pieces(&mut self.stream, &piece).await?;
            }
            if framing == AnswerFraming::Chunks {
                out.extend_from_slice(CHUNK_END);
            } else if reply.is_over() {
                break;
            }
            self.write(std::mem::take(&mut out)).await?;
        }
        // Dropping the reply ends its permit and record before the caller sees the end and can ask again.
        drop(reply);
        if framing == AnswerFraming::Chunks {
            out.extend_from_slice(LAST_CHUNK);
        }
        self.write(out).await?;
        self.stream.ends_whole(true);
        Ok(traits.keeps)
    }

    /// Writes all of `out`.
    async fn write(&mut self, out: PooledBuffer) -> io::Result<()> {
        write_batching::last().await;
        self.stream.write_all(&out).await?;
        drop(out);
        self.stream.flush().await
    }

    /// Closes the sending side, then discards for a while what the caller still sends. If the connection were closed at
    /// once, the kernel would reset it at the next byte, and the caller would see the reset instead of the answer.
    async fn linger(&mut self, caller: Http1Caller<'_>) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        // The serving task is woken when its connection is asked to leave, so polling the reason is enough.
        let leaves = poll_fn(|_| match caller.activity.leaves() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        });
        let app = &caller.worker.app;
        let limit = app.settings.listen.body_timeout;
        tokio::select! {
            () = lifetime::linger(self.discard(), limit, &app.lifecycle.drain) => {}
            () = leaves => {}
        }
    }

    /// Reads and discards at most `LINGER` bytes.
    async fn discard(&mut self) {
        let (mut left, mut since_yield) = (LINGER, SinceYield::default());
        while left > 0 {
            self.received.clear();
            let (stream, received) = (&mut self.stream, &mut self.received);
            match poll_fn(|cx| read_more(stream, received, READ_MORE, cx)).await {
                Ok(read @ 1..) => {
                    left = left.saturating_sub(read);
                    since_yield.worked_on(read).await;
                }
                Ok(0) | Err(_) => return,
            }
        }
    }
}

/// Writes all of a long piece, and yields to other connections in between.
async fn write_in_pieces(stream: &mut InboundStream, piece: &[u8]) -> io::Result<()> {
    let mut since_yield = SinceYield::default();
    for part in piece.chunks(YIELD_AFTER) {
        stream.write_all(part).await?;
        if part.len() < piece.len() {
            since_yield.worked_on(part.len()).await;
        }
    }
    Ok(())
}

/// Reads available bytes to the end of `received`. The buffer has room for at least half of `limit` bytes. It may have
/// more, because a buffer made for a longer body or head is used up first, which is never more than [`BUFFERS`].
fn read_more(
    stream: &mut InboundStream,
    received: &mut BytesMut,
    limit: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if received.capacity() - received.len() < limit / 2 {
        received.reserve(limit);
    }
    pin!(stream.read_buf(received)).poll(cx)
}

impl Http1Body<'_> {
    /// Sends `100 Continue` to a caller that waits for it.
    fn poll_send_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.continue_left {
            if left.is_empty() {
                ready!(Pin::new(&mut *self.stream).poll_flush(cx))?;
                self.continue_left = None;
            } else {
                let written = ready!(Pin::new(&mut *self.stream).poll_write(cx, left))?;
                self.continue_left = Some(&left[written..]);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that the caller sends no more. Nothing more is read, so the socket no longer wakes the request.
    fn half_closed(&mut self) -> Poll<()> {
        self.is_half_closed = true;
        Poll::Pending
    }

    /// Whether `100 Continue` was sent in part. An answer would then stand in the middle of it.
    fn is_continue_cut(&self) -> bool {
        let left = self.continue_left.map_or(0, <[u8]>::len);
        (1..CONTINUE.len()).contains(&left)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        loop {
            match self.remaining.step(self.received)? {
                BodyEvent::Piece(piece) => {
                    // A caller that sends its body does not wait for `100 Continue`.
                    self.continue_left = None;
                    return Poll::Ready(Ok(Some(piece)));
                }
                BodyEvent::Over => return Poll::Ready(Ok(None)),
                BodyEvent::More => {}
            }
            ready!(self.poll_send_continue(cx))?;
            let is_long = self.remaining.at_least() > READ as u64;
            let limit = if is_long { READ_MORE } else { READ };
            if ready!(read_more(self.stream, self.received, limit, cx))? == 0 {
                return Poll::Ready(Err(BodyBroken::Closed));
            }
        }
    }
}

impl Body for Http1Body<'_> {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        self.poll_piece(cx)
            .map(|piece| piece.transpose().map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match self.remaining {
            BodyFraming::Length(left) => SizeHint::with_exact(left),
            BodyFraming::Chunks(_) => SizeHint::default(),
        }
    }
}

impl RequestBody for Http1Body<'_> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The end of the connection is not visible behind an unread body or bytes of the next request.
        if !self.remaining.is_over() || !self.received.is_empty() || self.is_half_closed {
            return Poll::Pending;
        }
        match ready!(read_more(self.stream, self.received, READ_AHEAD, cx)) {
            Ok(1..) => Poll::Pending,
            // A FIN, with TLS's close_notify before it or without: no more requests come, but the answer may be read
            // (RFC 9112, 9.6). A caller that closed both directions looks the same, until it resets the connection at
            // the first written byte.
            Ok(0) => self.half_closed(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.half_closed(),
            Err(_) => Poll::Ready(()),
        }
    }
}
