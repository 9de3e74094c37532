//! Relay: GatePay's answer to the caller, its body byte for byte.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Response, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::admit::Permit;
use crate::forward::Long;
use crate::headers;
use crate::line::Turn;
use crate::record::Record;
use crate::refusal;

/// The body of an answer. Permit and record travel inside it, so that they end when it does.
pub struct Reply {
    source: Source,
    record: Box<Record>,
    _permit: Option<Permit>,
}

enum Source {
    Whole(Option<Bytes>),
    Long {
        long: Box<Long>,
        stalled: Pin<Box<Sleep>>,
        stall: Duration,
    },
}

/// A long answer of GatePay's stopped before its end. The caller's connection is aborted, so that what it has cannot
/// be taken for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub struct Cut;

/// An answer that is all there.
pub fn whole(
    head: response::Parts,
    body: Bytes,
    record: Box<Record>,
    permit: Option<Permit>,
) -> Response<Reply> {
    finish(head, Source::Whole(Some(body)), record, permit)
}

/// An answer too long to be held: relayed as it comes, given up if nothing comes for `stall`.
pub fn long(
    head: response::Parts,
    long: Long,
    stall: Duration,
    record: Box<Record>,
    permit: Permit,
) -> Response<Reply> {
    let stalled = Box::pin(tokio::time::sleep(stall));
    finish(
        head,
        Source::Long {
            long: Box::new(long),
            stalled,
            stall,
        },
        record,
        Some(permit),
    )
}

/// An answer of the proxy's own.
pub fn refusal(
    status: StatusCode,
    lines: HeaderMap,
    body: Bytes,
    record: Box<Record>,
) -> Response<Reply> {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers = lines;
    finish(head, Source::Whole(Some(body)), record, None)
}

fn finish(
    mut head: response::Parts,
    source: Source,
    mut record: Box<Record>,
    permit: Option<Permit>,
) -> Response<Reply> {
    record.decided();
    record.turn(Turn::Relay);
    if let Some(trace) = record.trace() {
        head.headers.insert(headers::TRACERESPONSE, trace);
    }
    let id = HeaderValue::from_bytes(&record.id()).expect("hexadecimal digits make a header");
    head.headers.insert(headers::REQUEST_ID, id);
    if let Some((rate, left)) = record.left()
        && !head.headers.contains_key(&headers::RATELIMIT)
    {
        let (policy, left) = refusal::limit_lines("tenant", rate, left, None);
        for (name, value) in [
            (headers::RATELIMIT_POLICY, policy),
            (headers::RATELIMIT, left),
        ] {
            let value = HeaderValue::try_from(value).expect("digits and letters make a header");
            head.headers.insert(name, value);
        }
    }
    record.answering();
    if matches!(&source, Source::Whole(Some(body)) if body.is_empty()) {
        record.relayed();
    }
    Response::from_parts(
        head,
        Reply {
            source,
            record,
            _permit: permit,
        },
    )
}

impl Source {
    /// Whether all of it was handed over.
    fn is_over(&self) -> bool {
        match self {
            Self::Whole(body) => body.as_ref().is_none_or(Bytes::is_empty),
            Self::Long { long, .. } => long.is_over(),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let Self { source, record, .. } = &mut *self;
        let piece = match source {
            Source::Whole(body) => body.take().filter(|body| !body.is_empty()),
            Source::Long {
                long,
                stalled,
                stall,
            } => match long.poll_piece(cx) {
                Poll::Pending if stalled.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending | Poll::Ready(Err(_)) => {
                    record.cut();
                    return Poll::Ready(Some(Err(Cut)));
                }
                Poll::Ready(Ok(piece)) => {
                    stalled.as_mut().reset(Instant::now() + *stall);
                    piece
                }
            },
        };
        let Some(piece) = piece else {
            record.relayed();
            return Poll::Ready(None);
        };
        record.sent(piece.len() as u64);
        // A body of known length is not always polled to its end.
        if source.is_over() {
            record.relayed();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Source::Long { long, .. } => {
                long.left().map_or_else(SizeHint::new, SizeHint::with_exact)
            }
        }
    }
}
