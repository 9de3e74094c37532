//! How a call to GatePay ends: its answer, or why there is none.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gatepay_core::envelope::AnswerJudgement;

use crate::admission::breaker::BreakerOpen;
use crate::http1::content_coding::{ContentCoding, begins_coded};
use crate::http1::response_parser::{ResponseFraming, ResponseHead};
use crate::process::yielding::SinceYield;
use crate::upstream::connection::ExchangeError;
use crate::upstream::pool::{Pool, PooledConnection};

/// GatePay's answer.
pub struct UpstreamAnswer {
    /// Status and headers.
    pub head: ResponseHead,
    /// The body, or what has come of it.
    pub body: AnswerBody,
}

impl UpstreamAnswer {
    /// Whether its body is in a content coding that was not asked for: by its head, or by how it begins.
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
    /// All of it, and what it says.
    Whole(Bytes, AnswerJudgement),
    /// The beginning of a long one, and where the rest comes from.
    Long(Box<LongBody>),
}

/// A body too long to be held.
pub struct LongBody {
    /// What has come.
    begun: Option<Bytes>,
    /// Where the rest comes from, until all of it has.
    connection: Option<PooledConnection>,
    pool: Arc<Pool>,
    since_yield: SinceYield,
}

impl LongBody {
    /// Of this beginning has come; the rest comes from this connection, which then goes back to its pool.
    pub(crate) fn begin(begun: Bytes, connection: PooledConnection, pool: &Arc<Pool>) -> Self {
        Self {
            begun: Some(begun),
            connection: Some(connection),
            pool: Arc::clone(pool),
            since_yield: SinceYield::default(),
        }
    }

    /// The next piece of it; nothing after the last. Then the connection serves others.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ExchangeError>> {
        let piece = match (self.begun.take(), &mut self.connection) {
            (Some(begun), _) => Ok(Some(begun)),
            (None, Some(_)) if self.since_yield.is_time() => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            (None, Some(connection)) => ready!(connection.wire.poll_piece(cx)),
            (None, None) => Ok(None),
        };
        if let Ok(Some(piece)) = &piece {
            self.since_yield.add(piece.len());
        }
        // Who was told a length does not always ask what follows the last piece.
        let is_over = |connection: &mut PooledConnection| {
            matches!(piece, Ok(None)) || connection.wire.rest() == ResponseFraming::Exactly(0)
        };
        if let Some(connection) = self.connection.take_if(is_over) {
            self.pool.give_back(connection);
        }
        Poll::Ready(piece)
    }

    /// Whether all of it was taken.
    pub fn is_over(&self) -> bool {
        self.begun.is_none() && self.connection.is_none()
    }

    /// How many bytes are still to come, if that is known.
    pub fn left(&self) -> Option<u64> {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.len() as u64);
        let rest = match &self.connection {
            Some(connection) => connection.wire.rest().left()?,
            None => 0,
        };
        Some(begun + rest)
    }
}

/// Why there is no answer. The two are different facts, and with money the difference is everything.
#[derive(Debug)]
pub enum CallFailure {
    /// Nothing was written.
    NotSent(String),
    /// Nothing was written, for all connections there may be were in use.
    NoPlace(String),
    /// Nothing was written, for GatePay has been failing, or this party's calls to it.
    Unavailable(BreakerOpen),
    /// Something was written, and no whole answer came.
    Lost {
        /// What the caller is told.
        what: &'static str,
        /// What the log may know.
        detail: String,
    },
}
