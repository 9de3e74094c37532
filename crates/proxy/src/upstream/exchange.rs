//! Exchange: how a call to GatePay ends, with its answer or with the reason for the failure.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gatepay_admission::breaker::BreakerOpen;
use gatepay_core::envelope::AnswerJudgement;
use gatepay_http1::content_coding::{ContentCoding, begins_coded};
use gatepay_http1::response_parser::{ResponseFraming, ResponseHead};

use crate::cluster::halt_check::StopBeforeSending;
use crate::process::yielding::SinceYield;
use crate::upstream::connection::ExchangeError;
use crate::upstream::pool::{Pool, PooledConnection};

/// GatePay's answer.
pub struct UpstreamAnswer {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body, or its received beginning.
    pub body: AnswerBody,
}

impl UpstreamAnswer {
    /// Whether the body is in a content coding that the request did not accept, by its head or by its first bytes.
    pub fn is_coded(&self, gzip_was_asked_for: bool) -> bool {
        if gzip_was_asked_for && self.head.coding == ContentCoding::Gzip {
            return false;
        }
        let begun: &[u8] = match &self.body {
            AnswerBody::Whole(body, _) => body,
            AnswerBody::Long(long) => long.begun.as_deref().unwrap_or_default(),
        };
        self.head.coding != ContentCoding::Identity && !begun.is_empty() || begins_coded(begun)
    }
}

/// An answer's body.
pub enum AnswerBody {
    /// The whole body and its judgement.
    Whole(Bytes, AnswerJudgement),
    /// The beginning of a long body, and the connection that the rest comes from.
    Long(Box<LongBody>),
}

/// A body too long to be held in memory.
pub struct LongBody {
    /// The received beginning, until it is taken.
    begun: Option<Bytes>,
    /// The connection that the rest comes from, until the body is complete.
    pooled: Option<PooledConnection>,
    pool: Arc<Pool>,
    since_yield: SinceYield,
}

impl LongBody {
    /// A body that begins with `begun`; the rest comes from `pooled`, which then returns to `pool`.
    pub(crate) fn begin(begun: Bytes, pooled: PooledConnection, pool: &Arc<Pool>) -> Self {
        Self {
            begun: Some(begun),
            pooled: Some(pooled),
            pool: Arc::clone(pool),
            since_yield: SinceYield::default(),
        }
    }

    /// The next piece of the body; `None` after the last. Then the connection serves other calls.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ExchangeError>> {
        let piece = match (self.begun.take(), &mut self.pooled) {
            (Some(begun), _) => Ok(Some(begun)),
            (None, Some(_)) if self.since_yield.is_time() => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            (None, Some(pooled)) => ready!(pooled.connection.poll_piece(cx)),
            (None, None) => Ok(None),
        };
        if let Ok(Some(piece)) = &piece {
            self.since_yield.add(piece.len());
        }
        // A reader that knows the length may not poll again after the last piece.
        let is_over = |pooled: &mut PooledConnection| {
            matches!(piece, Ok(None)) || pooled.connection.rest() == ResponseFraming::Exactly(0)
        };
        if let Some(pooled) = self.pooled.take_if(is_over) {
            self.pool.give_back(pooled);
        }
        Poll::Ready(piece)
    }

    /// Whether the whole body was taken.
    pub fn is_over(&self) -> bool {
        self.begun.is_none() && self.pooled.is_none()
    }

    /// How many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.len() as u64);
        let rest = match &self.pooled {
            Some(pooled) => pooled.connection.rest().left()?,
            None => 0,
        };
        Some(begun + rest)
    }
}

/// Why there is no answer. A money call must tell "not sent" from "sent, outcome unknown".
#[derive(Debug)]
pub enum CallFailure {
    /// No byte was written.
    NotSent(String),
    /// No byte was written, because all connection slots were in use.
    NoPlace(String),
    /// No byte was written, because a circuit breaker is open: GatePay's, or this party's.
    Unavailable(BreakerOpen),
    /// No byte was written, because the call must not be sent any more.
    Stopped(StopBeforeSending),
    /// Some bytes were written, and no whole answer came.
    Lost {
        /// The text for the caller.
        what: &'static str,
        /// The detail for the log.
        detail: String,
    },
}
