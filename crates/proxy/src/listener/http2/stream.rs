//! One request on an HTTP/2 connection, and its answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gatepay_http1::request_head::RequestHead;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};

use crate::callers::activity::ActiveRequest;
use crate::callers::address_limits::ConnectionPeer;
use crate::headers;
use crate::journey;
use crate::journey::ingress::{LINGER, RequestBody};
use crate::journey::relay::{Reply, TruncatedAnswer};
use crate::listener::turned_away;
use crate::listener::{http2_head, lifetime};
use crate::process::clock::Clock;
use crate::process::drain::EntryGuard;
use crate::process::yielding::SinceYield;
use crate::record::refused_head::RefusedHead;
use crate::worker::Worker;

/// How many bytes of an answer one HTTP/2 stream holds ready to be sent.
pub(super) const SEND_BUFFER: usize = 64 * 1024;

/// How many bytes of an answer must go into the caller's window before the answer counts as being taken. If fewer
/// counted, a caller that opens its window byte by byte could hold an answer for hours.
const TAKEN: usize = 16 * 1024;

/// The state that all streams of a connection share.
pub struct Http2Caller {
    /// The worker that serves the connection.
    pub worker: Arc<Worker>,
    /// The connection's peer.
    pub peer: ConnectionPeer,
}

/// A request on a stream whose answer has not begun: its body, and the handle for its answer.
pub struct Http2Stream {
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    /// How many bytes of the body are still to come, if the length was announced.
    remaining: Option<u64>,
    /// Whether the caller waits for `100 Continue` before it sends its body.
    awaits_continue: bool,
}

/// Why an answer was not sent completely.
enum StreamStopped {
    /// GatePay's answer was cut short.
    Cut,
    /// The caller reset the stream, or its connection ended.
    Gone,
}

/// Answers a request. Then discards the rest of its body, if the answer came before the body's end.
pub async fn serve(
    caller: Arc<Http2Caller>,
    active: ActiveRequest,
    entry: EntryGuard,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (parts, receive) = request.into_parts();
    let mut stream = Http2Stream::new(&parts, receive, respond);
    let Some(reply) = answer(&caller, active, entry, &parts, &mut stream).await else {
        return;
    };
    let Http2Stream {
        receive, respond, ..
    } = stream;
    let is_for_head = parts.method == Method::HEAD;
    let sent = send(respond, reply, is_for_head, &caller.worker.app.clock).await;
    if sent.is_ok() && !receive.is_end_stream() {
        // A separate task needs far less memory than a request.
        tokio::spawn(async move {
            let app = &caller.worker.app;
            let limit = app.settings.listen.body_timeout;
            lifetime::linger(discard(receive), limit, &app.lifecycle.drain).await;
        });
    }
}

/// The answer to a request, unless its caller has left.
async fn answer(
    caller: &Http2Caller,
    active: ActiveRequest,
    entry: EntryGuard,
    parts: &Parts,
    stream: &mut Http2Stream,
) -> Option<Reply> {
    let Http2Caller { worker, peer } = caller;
    let head = RequestHead::of_parts(parts);
    match http2_head::check(parts) {
        Ok(()) => journey::handle(worker, peer, active, entry, &head, stream).await,
        Err(fault) => {
            worker.app.metrics.unreadable_heads.inc();
            let head = RefusedHead::of_lines(head.lines());
            Some(turned_away::unreadable(
                &worker.app,
                peer,
                active,
                fault,
                &head,
            ))
        }
    }
}

/// Sends a complete answer.
async fn send(
    mut respond: SendResponse<Bytes>,
    reply: Reply,
    is_for_head: bool,
    clock: &Clock,
) -> Result<(), StreamStopped> {
    let is_empty =
        is_for_head || reply.is_over() || matches!(reply.head().status.as_u16(), 204 | 304);
    let head = response(&reply, clock);
    if is_empty {
        drop(reply);
        return match respond.send_response(head, true) {
            Ok(_) => Ok(()),
            Err(_) => Err(unsendable(&mut respond)),
        };
    }
    let Ok(mut out) = respond.send_response(head, false) else {
        return Err(unsendable(&mut respond));
    };
    let mut answer = Some(reply);
    while let Some(reply) = &mut answer {
        if let Some(piece) = next_piece(reply, &mut out).await? {
            send_piece(piece, &mut answer, &mut out).await?;
        } else {
            answer = None;
            out.send_data(Bytes::new(), true).map_err(gone)?;
        }
    }
    Ok(())
}

/// Handles a head that cannot be sent: resets the stream with `INTERNAL_ERROR`, unless the caller has reset it already.
fn unsendable(respond: &mut SendResponse<Bytes>) -> StreamStopped {
    respond.send_reset(Reason::INTERNAL_ERROR);
    StreamStopped::Gone
}

fn gone(_: h2::Error) -> StreamStopped {
    StreamStopped::Gone
}

/// The head of an answer.
fn response(reply: &Reply, clock: &Clock) -> Response<()> {
    let mut response = reply.head().with(());
    let lines = response.headers_mut();
    if let Some(id) = lines.get_mut(headers::REQUEST_ID) {
        // Kept out of the table that compresses later heads: none repeats it, and it would displace what they do repeat.
        id.set_sensitive(true);
    }
    if let Some(length @ 1..) = reply.length() {
        lines.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !lines.contains_key(DATE) {
        let date = headers::date(clock.unix_ms() / 1_000);
        lines.extend(HeaderValue::from_bytes(&date).map(|date| (DATE, date)));
    }
    response
}

/// The next piece of an answer's body; `None` after the last.
async fn next_piece(
    reply: &mut Reply,
    out: &mut SendStream<Bytes>,
) -> Result<Option<Bytes>, StreamStopped> {
    let piece = poll_fn(|cx| match reply.poll_piece(cx) {
        Poll::Ready(piece) => Poll::Ready(piece.map_err(|TruncatedAnswer| StreamStopped::Cut)),
        Poll::Pending => out.poll_reset(cx).map(|_| Err(StreamStopped::Gone)),
    });
    let piece = piece.await;
    if let Err(StreamStopped::Cut) = piece {
        // The reset keeps the caller from taking the part for the whole answer.
        out.send_reset(Reason::INTERNAL_ERROR);
    }
    piece
}

/// Sends a piece as fast as the caller takes it. The reply is dropped with the last piece.
async fn send_piece(
    mut piece: Bytes,
    answer: &mut Option<Reply>,
    out: &mut SendStream<Bytes>,
) -> Result<(), StreamStopped> {
    let is_last = answer.as_ref().is_some_and(Reply::is_over);
    let mut taken = 0;
    while !piece.is_empty() {
        let part = piece.split_to(room(piece.len(), out).await?);
        let ends = is_last && piece.is_empty();
        taken += part.len();
        if ends {
            // Dropping the reply ends its permit and record before the caller sees the end and can ask again.
            *answer = None;
        } else if let Some(reply) = answer
            && taken >= TAKEN
        {
            taken = 0;
            reply.taken();
        }
        out.send_data(part, ends).map_err(gone)?;
    }
    Ok(())
}

/// Waits until the caller can take some of the `wanted` bytes; returns how many.
async fn room(wanted: usize, out: &mut SendStream<Bytes>) -> Result<usize, StreamStopped> {
    out.reserve_capacity(wanted.min(SEND_BUFFER));
    poll_fn(|cx| {
        while out.capacity() == 0 {
            match ready!(out.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(StreamStopped::Gone)),
            }
        }
        Poll::Ready(Ok(out.capacity().min(wanted)))
    })
    .await
}

/// Reads and discards at most `LINGER` bytes of a body whose request is answered. The stream is then reset with
/// `NO_ERROR` (RFC 9113, 8.1). After an immediate reset, many clients that still send would not read the answer.
async fn discard(mut receive: RecvStream) {
    let (mut remaining, mut since_yield) = (LINGER, SinceYield::default());
    while let Some(Ok(piece)) = receive.data().await
        && remaining > piece.len()
    {
        remaining -= piece.len();
        // This fails if the stream is over; then no capacity has to be released.
        let _released = receive.flow_control().release_capacity(piece.len());
        since_yield.worked_on(piece.len()).await;
    }
}

impl Http2Stream {
    /// The stream of a request whose head was checked or will be.
    fn new(parts: &Parts, receive: RecvStream, respond: SendResponse<Bytes>) -> Self {
        let length = parts.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            remaining: length,
            // `100-continue` is the only expectation: a head with another is refused.
            awaits_continue: parts.headers.contains_key(EXPECT),
            receive,
            respond,
        }
    }

    /// Sends `100 Continue` to a caller that waits for it.
    fn send_continue(&mut self) -> Result<(), h2::Error> {
        if std::mem::take(&mut self.awaits_continue) {
            let interim = Response::builder().status(100).body(());
            let interim = interim.expect("100 is a status");
            self.respond.send_informational(interim)?;
        }
        Ok(())
    }
}

impl Body for Http2Stream {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Poll::Ready(piece) = self.receive.poll_data(cx) else {
            return match self.send_continue() {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Some(Err(error))),
            };
        };
        // A caller that sends its body or has ended it does not wait for `100 Continue`. Trailers are ignored.
        self.awaits_continue = false;
        Poll::Ready(piece.map(|piece| {
            let piece = piece?;
            self.receive.flow_control().release_capacity(piece.len())?;
            if let Some(remaining) = &mut self.remaining {
                *remaining = remaining.saturating_sub(piece.len() as u64);
            }
            Ok(Frame::data(piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.receive.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl RequestBody for Http2Stream {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.respond.poll_reset(cx).map(drop)
    }
}
