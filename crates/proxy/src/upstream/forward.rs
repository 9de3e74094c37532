//! Forward: sends one request to GatePay within its deadline and reports truly whether any byte was sent.
//!
//! Nothing else retries: automatic retries of libraries are off. `retry` decides which attempts are retried and how
//! often; every attempt is signed afresh.

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Kind;
use gatepay_core::envelope::{self, AnswerJudgement, AnswerShape};
use gatepay_http1::body_buffer::BodyBuffer;
use gatepay_http1::content_coding::{self, ContentCoding};
use gatepay_http1::response_parser::ResponseHead;
use http::header::{DATE, RETRY_AFTER};
use tokio::time::{Instant, sleep};

use crate::admission::breaker::AttemptOwner;
use crate::admission::quota::OwnCallPurpose;
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::tenant_limits::TenantLimits;
use crate::headers;
use crate::process::yielding::{OffloadThreads, SinceYield, YIELD_AFTER};
use crate::upstream::breaker::UpstreamBreaker;
use crate::upstream::clock_offset::UpstreamClock;
use crate::upstream::connect::ConnectError;
use crate::upstream::connection::{ExchangeError, MakeAttempt};
use crate::upstream::exchange::{AnswerBody, CallFailure, LongBody, UpstreamAnswer};
use crate::upstream::meters::RetryReason;
use crate::upstream::pool::{Acquired, Pool, PooledConnection};
use crate::upstream::retry::{self, RetryBudget};
use crate::upstream::wait_line::LineClaim;

/// Answers to reads up to this size are read whole before any of them is relayed; longer ones are relayed as they come.
pub const WHOLE: usize = 64 * 1024;
/// Answers to write and money calls are always read whole, so that a cut answer is not relayed in part. They have a
/// few hundred bytes; an answer longer than this counts as lost.
pub const WHOLE_OF_A_CHANGE: usize = 1024 * 1024;
/// Maximum decoded bytes of an answer in gzip: coded and decoded bytes together stay within `WHOLE_OF_A_CHANGE`.
const DECODED: usize = WHOLE_OF_A_CHANGE - WHOLE;

/// The resources of one worker that a call to GatePay uses.
#[derive(Clone, Copy)]
pub struct UpstreamCall<'a> {
    /// The worker's connection pool.
    pub pool: &'a Arc<Pool>,
    /// The worker's retry budget.
    pub budget: &'a RetryBudget,
    /// The institution's quota.
    pub quota: &'a InstitutionQuota,
    /// The circuit breaker for GatePay.
    pub breaker: &'a UpstreamBreaker,
    /// GatePay's clock, as measured.
    pub clock: &'a UpstreamClock,
    /// Threads for long computations.
    pub offload: &'a OffloadThreads,
    /// The owner of the call.
    pub owner: CallOwner<'a>,
    /// Whether the request accepts an answer in gzip.
    pub gzip: bool,
}

/// The owner of a call: the outcome is counted for that party.
#[derive(Clone, Copy)]
pub enum CallOwner<'a> {
    /// A call of the proxy's own.
    Proxy,
    /// A party's call.
    Party(&'a TenantLimits),
    /// A look-up for a party, of a call of that party with unknown outcome.
    LookUp(&'a TenantLimits),
}

impl<'a> CallOwner<'a> {
    /// Whether more attempts in a row failed than one call makes.
    fn keeps_failing(self) -> bool {
        match self {
            Self::Proxy => false,
            Self::Party(lane) | Self::LookUp(lane) => {
                lane.breaker.failures_in_a_row() > retry::MOST + 1
            }
        }
    }

    /// The claim of the owner's calls of this kind on a connection. Look-ups and the proxy's own reads do not count as
    /// party reads, for which the last slots are closed.
    fn claim(self, kind: Kind) -> LineClaim {
        let number = |lane: &TenantLimits| ptr::from_ref(lane).addr();
        match self {
            Self::Proxy => LineClaim::OWN,
            Self::Party(lane) => LineClaim::of_party(number(lane), kind),
            Self::LookUp(lane) => LineClaim::urgent(number(lane)),
        }
    }

    fn sender(self) -> AttemptOwner<'a> {
        match self {
            Self::Proxy => AttemptOwner::Own,
            Self::Party(lane) => AttemptOwner::Party(&lane.breaker),
            Self::LookUp(lane) => AttemptOwner::LookUp(&lane.breaker),
        }
    }
}

/// Sends a request that `attempt` makes afresh for every try, and reads the answer, within `limit` from `now`.
pub async fn send(
    road: UpstreamCall<'_>,
    kind: Kind,
    now: Instant,
    limit: Duration,
    mut attempt: impl MakeAttempt,
) -> Result<UpstreamAnswer, CallFailure> {
    let deadline = now + limit;
    let claim = road.owner.claim(kind);
    road.budget.earn(claim.party);
    let mut repeats = 0;
    let sender = road.owner.sender();
    let pass = road.breaker.pass(sender, kind);
    let mut pass = pass.map_err(CallFailure::Unavailable)?;
    let mut kept = road.pool.reuse(kind, claim, now);
    loop {
        let had = match kept.take() {
            Some(connection) => Ok(Acquired {
                connection,
                reused: true,
            }),
            None => road.pool.connect(claim, deadline).await,
        };
        let reused = had.as_ref().is_ok_and(|had| had.reused);
        let tried = match had {
            Ok(had) => exchange(road, had.connection, kind, &mut attempt, deadline).await,
            Err(error @ ConnectError::NoPlace(_)) => {
                return Err(CallFailure::NoPlace(error.to_string()));
            }
            Err(error) => Err(CallFailure::NotSent(error.to_string())),
        };
        if reused && matches!(tried, Err(CallFailure::NotSent(_))) {
            // A dead kept connection is no failure of GatePay, and the next kept connection may be dead too.
            road.pool.repeated(RetryReason::StaleConnection);
            continue;
        }
        if let Ok(answer) = &tried {
            heed_pushback(road, answer);
        }
        if is_failing(&tried) {
            road.breaker.failed(sender);
        } else {
            road.breaker.answered(sender, pass);
        }
        let Some(reason) = retry::reason(kind, &tried) else {
            return tried;
        };
        let pause = retry::pause(repeats);
        if repeats == retry::MOST || Instant::now() + pause >= deadline {
            return tried;
        }
        let was_sent = matches!(reason, RetryReason::Lost | RetryReason::Answer);
        // Calls of a party that keeps failing are not retried at the expense of the shared budget.
        if (was_sent && road.owner.keeps_failing()) || !road.budget.spend(claim.party) {
            road.pool.repeat_denied();
            return tried;
        }
        // Retrying a request that was sent costs GatePay another request and the institution a part of its quota.
        if was_sent && road.quota.take_for(OwnCallPurpose::Repeat).is_err() {
            return tried;
        }
        sleep(pause).await;
        let Ok(next) = road.breaker.pass(sender, kind) else {
            return tried;
        };
        pass = next;
        repeats += 1;
        road.pool.repeated(reason);
        kept = road.pool.reuse(kind, claim, Instant::now());
    }
}

/// Whether the outcome is a failure of GatePay: no answer, or a server error without GatePay's envelope code, which a
/// server in front of GatePay sends.
fn is_failing(tried: &Result<UpstreamAnswer, CallFailure>) -> bool {
    match tried {
        Err(_) => true,
        Ok(answer) => {
            let speaks =
                matches!(&answer.body, AnswerBody::Whole(_, judgement) if judgement.code.is_some());
            answer.head.status.is_server_error() && !speaks
        }
    }
}

/// Lowers the rate limit after an answer that asks for fewer calls: the party's, or the institution's after a call of
/// the proxy's own.
fn heed_pushback(road: UpstreamCall<'_>, answer: &UpstreamAnswer) {
    let head = &answer.head;
    let code = match &answer.body {
        AnswerBody::Whole(_, judgement) => judgement.code.as_ref(),
        AnswerBody::Long(_) => None,
    };
    let code = code.map(envelope::EnvelopeCode::as_str);
    if head.status.as_u16() == 429 || code.is_some_and(|code| road.quota.is_pushback(code)) {
        let after = head.fields.get(&RETRY_AFTER);
        let after = after.and_then(|value| str::from_utf8(value).ok());
        // A date in `Retry-After` is ignored, since it needs another clock: the default back-off suffices then.
        let after = after.and_then(|text| text.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        match road.owner {
            CallOwner::Party(lane) | CallOwner::LookUp(lane) => lane.pushed_back(road.quota, after),
            CallOwner::Proxy => road.quota.pushed_back(None, after),
        }
    }
}

async fn exchange(
    road: UpstreamCall<'_>,
    mut connection: PooledConnection,
    kind: Kind,
    attempt: &mut impl MakeAttempt,
    deadline: Instant,
) -> Result<UpstreamAnswer, CallFailure> {
    let listens = road.clock.sample_wanted();
    let before = connection.wire.written();
    let head = match connection
        .wire
        .ask(attempt, headers::passes, deadline)
        .await
    {
        Ok(head) => head,
        // Only this task writes to the connection, and it has stopped: the count is final.
        Err(error) if connection.wire.written() == before => {
            return Err(CallFailure::NotSent(error.to_string()));
        }
        Err(ExchangeError::Late) => {
            return Err(lost("GatePay did not answer in time", &ExchangeError::Late));
        }
        Err(error) => {
            return Err(lost(
                "the connection to GatePay broke before its answer",
                &error,
            ));
        }
    };
    if let Some(sent) = listens {
        road.clock.observe(sent, head.fields.get(&DATE));
    }
    if head.status.as_u16() == 101 {
        // No request asked for an upgrade, and the following bytes are no answer.
        return Err(lost("GatePay's answer was none", "101 Switching Protocols"));
    }
    read(road, connection, kind, head).await
}

/// Reads the body of an answer: whole, or for a long answer to a read its beginning.
async fn read(
    road: UpstreamCall<'_>,
    mut connection: PooledConnection,
    kind: Kind,
    head: ResponseHead,
) -> Result<UpstreamAnswer, CallFailure> {
    // Without a length or chunks an answer ends with its connection, and a cut answer looks like a whole one.
    let shows_its_end = connection.wire.rest().shows_its_end();
    let endless = || {
        lost(
            "GatePay's answer may have been cut short",
            "it has neither length nor chunks",
        )
    };
    let most = match kind {
        Kind::Read => WHOLE,
        Kind::Write | Kind::Money => WHOLE_OF_A_CHANGE,
    };
    let (mut whole, mut since_yield) = (BodyBuffer::default(), SinceYield::default());
    loop {
        match connection.wire.piece().await {
            Ok(None) => break,
            Ok(Some(piece)) => {
                let bytes = piece.len();
                whole.push(piece);
                since_yield.worked_on(bytes).await;
            }
            Err(ExchangeError::Late) => {
                return Err(lost(
                    "GatePay's answer did not end in time",
                    &ExchangeError::Late,
                ));
            }
            Err(error) => return Err(lost("GatePay's answer was cut short", &error)),
        }
        if whole.len() > most {
            if kind != Kind::Read {
                return Err(lost(
                    "GatePay's answer is longer than any it gives",
                    &format!("more than {most} bytes"),
                ));
            }
            if !shows_its_end {
                return Err(endless());
            }
            let long = LongBody::begin(whole.into_bytes(), connection, road.pool);
            return Ok(UpstreamAnswer {
                head,
                body: AnswerBody::Long(Box::new(long)),
            });
        }
    }
    let body = whole.into_bytes();
    let status = head.status.as_u16();
    let judgement = match head.coding {
        ContentCoding::Gzip if road.gzip && !body.is_empty() => {
            let judged = judged_in_gzip(road.offload, kind, status, &body).await;
            judged
                .ok_or_else(|| lost("GatePay's answer cannot be read", "it is not plain in gzip"))?
        }
        _ => judged(road.offload, kind, status, &body).await,
    };
    if !shows_its_end && judgement.form != AnswerShape::Structure {
        return Err(endless());
    }
    road.pool.give_back(connection);
    Ok(UpstreamAnswer {
        head,
        body: AnswerBody::Whole(body, judgement),
    })
}

/// Judges a whole answer; a long one on an offload thread.
async fn judged(
    offload: &OffloadThreads,
    kind: Kind,
    status: u16,
    body: &Bytes,
) -> AnswerJudgement {
    if body.len() <= YIELD_AFTER {
        return envelope::judge(kind, status, body);
    }
    let body = body.clone();
    Box::pin(offload.run(move || envelope::judge(kind, status, &body))).await
}

/// Judges a whole answer in gzip, if it decodes. Always on an offload thread: the coded length does not bound the work.
async fn judged_in_gzip(
    offload: &OffloadThreads,
    kind: Kind,
    status: u16,
    body: &Bytes,
) -> Option<AnswerJudgement> {
    let body = body.clone();
    let judge = move || {
        content_coding::decoded(&body, DECODED).map(|body| envelope::judge(kind, status, &body))
    };
    Box::pin(offload.run(judge)).await
}

fn lost(what: &'static str, detail: &(impl ToString + ?Sized)) -> CallFailure {
    CallFailure::Lost {
        what,
        detail: detail.to_string(),
    }
}
