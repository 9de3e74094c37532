//! Relay: passes GatePay's answer to the caller, its body byte for byte.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gatepay_http1::content_coding::ContentCoding;
use gatepay_http1::header_block::HeaderBlock;
use gatepay_http1::response_parser::ResponseHead;
use http::{StatusCode, header};
use tokio::time::{Instant, Sleep};

use crate::journey::admit::Permit;
use crate::record::RequestRecord;
use crate::record::access_line::RequestPhase;
use crate::upstream::exchange::LongBody;
use crate::{headers, refusal};

/// The reply to a caller. It owns the permit and the record, so both end with the reply.
pub struct Reply {
    head: ResponseHead,
    closes: bool,
    source: ReplyBody,
    record: Box<RequestRecord>,
    _permit: Option<Permit>,
}

enum ReplyBody {
    Whole(Option<Bytes>),
    Long {
        long: Box<LongBody>,
        stalled: Pin<Box<Sleep>>,
        stall: Duration,
    },
}

/// A long answer of GatePay stopped before its end. The caller's connection is aborted, so that the caller cannot take
/// the part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut short")]
pub struct TruncatedAnswer;

/// A reply with GatePay's whole answer.
pub fn whole(
    head: ResponseHead,
    body: Bytes,
    record: Box<RequestRecord>,
    permit: Option<Permit>,
) -> Reply {
    finish(head, ReplyBody::Whole(Some(body)), record, permit)
}

/// A reply with an answer too long to buffer: relayed as it arrives, given up after `stall` without a new piece.
pub fn long(
    head: ResponseHead,
    long: Box<LongBody>,
    stall: Duration,
    record: Box<RequestRecord>,
    permit: Permit,
) -> Reply {
    let stalled = Box::pin(tokio::time::sleep(stall));
    finish(
        head,
        ReplyBody::Long {
            long,
            stalled,
            stall,
        },
        record,
        Some(permit),
    )
}

/// A reply with the proxy's own refusal.
pub fn refusal(
    status: StatusCode,
    fields: HeaderBlock,
    body: Bytes,
    record: Box<RequestRecord>,
) -> Reply {
    let head = ResponseHead {
        status,
        fields,
        coding: ContentCoding::Identity,
    };
    finish(head, ReplyBody::Whole(Some(body)), record, None)
}

fn finish(
    mut head: ResponseHead,
    source: ReplyBody,
    mut record: Box<RequestRecord>,
    permit: Option<Permit>,
) -> Reply {
    record.decided();
    record.enter_phase(RequestPhase::Relay);
    if let Some(trace) = record.trace() {
        head.fields.add(&headers::TRACERESPONSE, trace);
    }
    head.fields.add(&headers::REQUEST_ID, record.id());
    if let Some(challenge) = refusal::challenge(head.status) {
        head.fields.add(&header::WWW_AUTHENTICATE, challenge);
    }
    if let Some((rate, left)) = record.left()
        && head.fields.get(&headers::RATELIMIT).is_none()
    {
        let (policy, left) = refusal::limit_lines("tenant", rate, left, None);
        head.fields.add(&headers::RATELIMIT_POLICY, policy);
        head.fields.add(&headers::RATELIMIT, left);
    }
    record.answering();
    if matches!(&source, ReplyBody::Whole(Some(body)) if body.is_empty()) {
        record.relayed();
    }
    Reply {
        head,
        closes: false,
        source,
        record,
        _permit: permit,
    }
}

impl Reply {
    /// Asks an HTTP/1 caller to use another connection next; HTTP/2 has GOAWAY for that.
    pub fn close(&mut self) {
        self.closes = true;
    }

    /// Whether the caller is asked to use another connection.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// The status and header lines of the reply.
    pub fn head(&self) -> &ResponseHead {
        &self.head
    }

    /// The length of the body in bytes, or of its remainder, if known.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            ReplyBody::Whole(body) => Some(body.as_ref().map_or(0, |body| body.len() as u64)),
            ReplyBody::Long { long, .. } => long.left(),
        }
    }

    /// Whether the whole body was handed over.
    pub fn is_over(&self) -> bool {
        match &self.source {
            ReplyBody::Whole(body) => body.as_ref().is_none_or(Bytes::is_empty),
            ReplyBody::Long { long, .. } => long.is_over(),
        }
    }

    /// The next piece of the body; `None` after the last piece.
    ///
    /// # Errors
    /// If the answer was cut: the part relayed so far must not look whole.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, TruncatedAnswer>> {
        let Self { source, record, .. } = self;
        let piece = match source {
            ReplyBody::Whole(body) => body.take().filter(|body| !body.is_empty()),
            ReplyBody::Long {
                long,
                stalled,
                stall,
            } => match long.poll_piece(cx) {
                Poll::Pending if stalled.as_mut().poll(cx).is_pending() => return Poll::Pending,
                Poll::Pending | Poll::Ready(Err(_)) => {
                    record.cut();
                    return Poll::Ready(Err(TruncatedAnswer));
                }
                Poll::Ready(Ok(piece)) => {
                    stalled.as_mut().reset(Instant::now() + *stall);
                    piece
                }
            },
        };
        let Some(piece) = piece else {
            record.relayed();
            return Poll::Ready(Ok(None));
        };
        record.sent(piece.len() as u64);
        // A body of known length is not always polled to its end.
        if self.is_over() {
            self.record.relayed();
        }
        Poll::Ready(Ok(Some(piece)))
    }

    /// Records that the caller took part of the body.
    pub fn taken(&mut self) {
        self.record.answering();
    }
}
