//! Forward: sends one request to GatePay within its deadline and reports truly whether any byte was sent.
//!
//! Nothing else retries: automatic retries of libraries are off. `retry` decides which attempts are retried and how
//! often; every attempt is signed afresh.

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::breaker::{AttemptOwner, BreakerPass};
use gatepay_admission::quota::OwnCallPurpose;
use gatepay_core::Kind;
use gatepay_core::envelope::{self, AnswerJudgement, AnswerShape};
use gatepay_http1::body_buffer::BodyBuffer;
use gatepay_http1::content_coding::{self, ContentCoding};
use gatepay_http1::response_parser::ResponseHead;
use http::header::{DATE, RETRY_AFTER};
use tokio::time::{Instant, sleep};

use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::tenant_limits::TenantLimits;
use crate::headers;
use crate::process::yielding::{OffloadThreads, PartyOffload, SinceYield, YIELD_AFTER};
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
    /// A question of the proxy's own about the owner of a notification, which can wait: it is repeated only from the quota's
    /// spare part.
    Inquiry,
    /// A party's call.
    Party(&'a TenantLimits),
    /// A look-up for a party, of a call of that party with unknown outcome.
    LookUp(&'a TenantLimits),
}

impl<'a> CallOwner<'a> {
    /// Whether more attempts in a row failed than one call makes.
    fn keeps_failing(self) -> bool {
        match self {
            Self::Proxy | Self::Inquiry => false,
            Self::Party(limits) | Self::LookUp(limits) => {
                limits.breaker.failures_in_a_row() > retry::MAX_RETRIES + 1
            }
        }
    }

    /// The claim of the owner's calls of this kind on a connection. Look-ups and the proxy's own reads do not count as
    /// party reads, for which the last slots are closed.
    fn claim(self, kind: Kind) -> LineClaim {
        let number = |limits: &TenantLimits| ptr::from_ref(limits).addr();
        match self {
            Self::Proxy | Self::Inquiry => LineClaim::OWN,
            Self::Party(limits) => LineClaim::of_party(number(limits), kind),
            Self::LookUp(limits) => LineClaim::urgent(number(limits)),
        }
    }

    /// The threads for work on the answer.
    fn offload(self, threads: &OffloadThreads) -> PartyOffload<'_> {
        match self {
            Self::Proxy | Self::Inquiry => threads.own(),
            Self::Party(limits) | Self::LookUp(limits) => threads.of_party(limits),
        }
    }

    /// The rank of a repetition in the institution's quota.
    const fn repeats_as(self) -> OwnCallPurpose {
        match self {
            Self::Inquiry => OwnCallPurpose::Owner,
            Self::Proxy | Self::Party(_) | Self::LookUp(_) => OwnCallPurpose::Repeat,
        }
    }

    fn sender(self) -> AttemptOwner<'a> {
        match self {
            Self::Proxy | Self::Inquiry => AttemptOwner::Own,
            Self::Party(limits) => AttemptOwner::Party(&limits.breaker),
            Self::LookUp(limits) => AttemptOwner::LookUp(&limits.breaker),
        }
    }
}

/// Sends a request that `attempt` makes afresh for every try, and reads the answer, within `limit` from `now`.
pub async fn send(
    call: &UpstreamCall<'_>,
    kind: Kind,
    now: Instant,
    limit: Duration,
    mut attempt: impl MakeAttempt,
) -> Result<UpstreamAnswer, CallFailure> {
    let deadline = now + limit;
    let claim = call.owner.claim(kind);
    call.budget.earn(claim.party);
    let sender = call.owner.sender();
    let pass = call.breaker.pass(sender, kind);
    let mut pass = pass.map_err(CallFailure::Unavailable)?;
    let mut kept = call.pool.reuse(kind, claim, now);
    let mut retries = 0;
    // The outcome of the last attempt that was sent: a retry that is stopped does not undo it.
    let mut last_sent = None;
    loop {
        let acquired = match kept.take() {
            Some(pooled) => Ok(Acquired {
                pooled,
                reused: true,
            }),
            None => call.pool.connect(claim, deadline).await,
        };
        let reused = acquired.as_ref().is_ok_and(|acquired| acquired.reused);
        let outcome = match acquired {
            Ok(Acquired { pooled, .. }) => {
                exchange(call, pooled, kind, &mut attempt, deadline).await
            }
            Err(error @ ConnectError::NoPlace(_)) => {
                return Err(CallFailure::NoPlace(error.to_string()));
            }
            Err(error) => Err(CallFailure::NotSent(error.to_string())),
        };
        if matches!(outcome, Err(CallFailure::Stopped(_))) {
            // No outcome of GatePay's.
            return last_sent.unwrap_or(outcome);
        }
        if reused && matches!(outcome, Err(CallFailure::NotSent(_))) {
            // A dead kept connection is no failure of GatePay, and the next kept connection may be dead too.
            call.pool.count_retry(RetryReason::StaleConnection);
            continue;
        }
        judge_attempt(call, pass, &outcome);
        let Some(reason) = retry::reason(kind, &outcome) else {
            return outcome;
        };
        let pause = retry::pause(retries);
        let is_last = retries == retry::MAX_RETRIES || Instant::now() + pause >= deadline;
        if is_last || !affords_retry(call, claim, reason) {
            return outcome;
        }
        sleep(pause).await;
        let Ok(next) = call.breaker.pass(sender, kind) else {
            return outcome;
        };
        pass = next;
        retries += 1;
        last_sent = sent(outcome).or(last_sent);
        call.pool.count_retry(reason);
        kept = call.pool.reuse(kind, claim, Instant::now());
    }
}

/// The outcome of an attempt that was sent, to be kept during its retry; `None` if no byte was written.
fn sent(
    outcome: Result<UpstreamAnswer, CallFailure>,
) -> Option<Result<UpstreamAnswer, CallFailure>> {
    match outcome {
        // It holds a connection, which the retry may need.
        Ok(UpstreamAnswer {
            body: AnswerBody::Long(_),
            head,
        }) => {
            let status = head.status.to_string();
            Some(Err(lost("GatePay's answer was not kept", &status)))
        }
        Ok(_) | Err(CallFailure::Lost { .. }) => Some(outcome),
        Err(_) => None,
    }
}

/// Reports the outcome of one attempt to the circuit breaker, and its push-back to the rate limit.
fn judge_attempt(
    call: &UpstreamCall<'_>,
    pass: BreakerPass,
    outcome: &Result<UpstreamAnswer, CallFailure>,
) {
    if let Ok(answer) = outcome {
        heed_pushback(call, answer);
    }
    let sender = call.owner.sender();
    if is_failing(outcome) {
        call.breaker.failed(sender);
    } else {
        call.breaker.answered(sender, pass);
    }
}

/// Takes one retry out of the budgets. Returns whether they allow it.
fn affords_retry(call: &UpstreamCall<'_>, claim: LineClaim, reason: RetryReason) -> bool {
    let was_sent = matches!(reason, RetryReason::Lost | RetryReason::Answer);
    // Calls of a party that keeps failing are not retried at the expense of the shared budget.
    if (was_sent && call.owner.keeps_failing()) || !call.budget.spend(claim.party) {
        call.pool.count_denied_retry();
        return false;
    }
    // Retrying a request that was sent costs GatePay another request and the institution a part of its quota.
    !was_sent || call.quota.take_for(call.owner.repeats_as()).is_ok()
}

/// Whether the outcome is a failure of GatePay: no answer, or a server error without GatePay's envelope code, which a
/// server in front of GatePay sends.
fn is_failing(outcome: &Result<UpstreamAnswer, CallFailure>) -> bool {
    match outcome {
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
fn heed_pushback(call: &UpstreamCall<'_>, answer: &UpstreamAnswer) {
    let head = &answer.head;
    let code = match &answer.body {
        AnswerBody::Whole(_, judgement) => judgement.code.as_ref(),
        AnswerBody::Long(_) => None,
    };
    let code = code.map(envelope::EnvelopeCode::as_str);
    if head.status.as_u16() == 429 || code.is_some_and(|code| call.quota.is_pushback(code)) {
        let after = head.fields.get(&RETRY_AFTER);
        let after = after.and_then(|value| str::from_utf8(value).ok());
        // A date in `Retry-After` is ignored, since it needs another clock: the default back-off suffices then.
        let after = after.and_then(|text| text.trim().parse().ok());
        let after = after.map(Duration::from_secs);
        match call.owner {
            CallOwner::Party(limits) | CallOwner::LookUp(limits) => {
                limits.pushed_back(call.quota, after);
            }
            CallOwner::Proxy | CallOwner::Inquiry => call.quota.pushed_back(None, after),
        }
    }
}

async fn exchange(
    call: &UpstreamCall<'_>,
    mut pooled: PooledConnection,
    kind: Kind,
    attempt: &mut impl MakeAttempt,
    deadline: Instant,
) -> Result<UpstreamAnswer, CallFailure> {
    let listens = call.clock.sample_wanted();
    let before = pooled.connection.written();
    let head = match pooled
        .connection
        .ask(attempt, headers::passes, deadline)
        .await
    {
        Ok(head) => head,
        Err(ExchangeError::Stopped(stop)) => return Err(CallFailure::Stopped(stop)),
        // Only this task writes to the connection, and it has stopped: the count is final.
        Err(error) if pooled.connection.written() == before => {
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
        call.clock.observe(sent, head.fields.get(&DATE));
    }
    if head.status.as_u16() == 101 {
        // No request asked for an upgrade, and the following bytes are no answer.
        return Err(lost("GatePay's answer was none", "101 Switching Protocols"));
    }
    read(call, pooled, kind, head).await
}

/// Reads the body of an answer: whole, or for a long answer to a read its beginning.
async fn read(
    call: &UpstreamCall<'_>,
    mut pooled: PooledConnection,
    kind: Kind,
    head: ResponseHead,
) -> Result<UpstreamAnswer, CallFailure> {
    // Without a length or chunks an answer ends with its connection, and a cut answer looks like a whole one.
    let shows_its_end = pooled.connection.rest().shows_its_end();
    let limit = match kind {
        Kind::Read => WHOLE,
        Kind::Write | Kind::Money => WHOLE_OF_A_CHANGE,
    };
    let (mut body, mut since_yield) = (BodyBuffer::default(), SinceYield::default());
    loop {
        match pooled.connection.piece().await {
            Ok(None) => break,
            Ok(Some(piece)) => {
                let bytes = piece.len();
                body.push(piece);
                since_yield.worked_on(bytes).await;
            }
            Err(error) => return Err(cut_short(&error)),
        }
        if body.len() > limit {
            if kind != Kind::Read {
                return Err(too_long(limit));
            }
            if !shows_its_end {
                return Err(endless());
            }
            let long = LongBody::begin(body.into_bytes(), pooled, call.pool);
            return Ok(UpstreamAnswer {
                head,
                body: AnswerBody::Long(Box::new(long)),
            });
        }
    }
    let body = body.into_bytes();
    let status = head.status.as_u16();
    let offload = call.owner.offload(call.offload);
    let judgement = match head.coding {
        ContentCoding::Gzip if call.gzip && !body.is_empty() => {
            let judged = judged_in_gzip(offload, kind, status, &body).await;
            judged
                .ok_or_else(|| lost("GatePay's answer cannot be read", "it is not plain in gzip"))?
        }
        _ => judged(offload, kind, status, &body).await,
    };
    if !shows_its_end && judgement.form != AnswerShape::Structure {
        return Err(endless());
    }
    call.pool.give_back(pooled);
    Ok(UpstreamAnswer {
        head,
        body: AnswerBody::Whole(body, judgement),
    })
}

/// Judges a whole answer; a long one on an offload thread.
async fn judged(
    offload: PartyOffload<'_>,
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
    offload: PartyOffload<'_>,
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

fn cut_short(error: &ExchangeError) -> CallFailure {
    match error {
        ExchangeError::Late => lost("GatePay's answer did not end in time", error),
        error => lost("GatePay's answer was cut short", error),
    }
}

fn too_long(limit: usize) -> CallFailure {
    lost(
        "GatePay's answer is longer than any it gives",
        &format!("more than {limit} bytes"),
    )
}

/// The answer may be cut: it has neither length nor chunks.
fn endless() -> CallFailure {
    lost(
        "GatePay's answer may have been cut short",
        "it has neither length nor chunks",
    )
}

fn lost(what: &'static str, detail: &(impl ToString + ?Sized)) -> CallFailure {
    CallFailure::Lost {
        what,
        detail: detail.to_string(),
    }
}
