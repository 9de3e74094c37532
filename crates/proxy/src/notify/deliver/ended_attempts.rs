//! Ended attempts: what the results mean for their events, until the store has recorded them.

use std::time::Duration;

use gatepay_core::delivery_schedule::{AfterFailure, DeliveryOutcome, OLDEST, after_failure};
use gatepay_store::notifications::delivery::{
    AttemptEffect, AttemptRecord, AttemptVerdict, DueEvent, EndpointBreaker, EndpointKey,
    LONGEST_SAID, UrlPrint,
};

use crate::notify::deliver::attempt::{AttemptResult, AttemptWord};
use crate::notify::deliver::breaker_rules;
use crate::notify::deliver::delivery_store::DeliveryStore;
use crate::notify::deliver::held_claims::HeldClaims;
use crate::notify::deliver::meters::{DeliveryMeters, DeliveryResult};
use crate::notify::operator_news::{OperatorNews, OperatorNewsQueue};
use crate::process::clock;

/// An attempt that has ended.
pub(super) struct EndedAttempt {
    pub(super) endpoint: EndpointKey,
    /// The claim's number and turn.
    pub(super) claim: (i64, i64),
    /// The event, without its body.
    pub(super) event: DueEvent,
    /// `None` if the attempt was abandoned.
    pub(super) result: Option<AttemptResult>,
    pub(super) took: Duration,
    /// The print of the URL that it went to.
    pub(super) url: UrlPrint,
}

/// The attempts that the store has not recorded yet, in the order of their ends.
pub(super) struct EndedAttempts {
    waiting: Vec<JudgedAttempt>,
    operators: OperatorNewsQueue,
}

struct JudgedAttempt {
    record: AttemptRecord,
    endpoint: EndpointKey,
    event: DueEvent,
    result: DeliveryResult,
}

impl EndedAttempts {
    pub(super) fn new(operators: OperatorNewsQueue) -> Self {
        Self {
            waiting: Vec::new(),
            operators,
        }
    }

    /// Judges an attempt, by the schedule and the endpoint's breaker. An abandoned attempt changes nothing: the event is
    /// sent again.
    pub(super) fn push(
        &mut self,
        ended: EndedAttempt,
        claims: &mut HeldClaims,
        store: &dyn DeliveryStore,
        meters: &DeliveryMeters,
    ) {
        let Some(attempt) = &ended.result else {
            claims.ended(ended.claim.0, ended.event.line);
            return;
        };
        let now_ms = store.now_ms();
        let tenant = &ended.endpoint.tenant.tenant;
        if attempt.word == AttemptWord::ForbiddenAddress {
            meters.address_refused(tenant);
        }
        let (effect, result) = effect(attempt.outcome, &ended, now_ms);
        let mut breaker = claims
            .breaker(ended.claim.0)
            .map(|breaker| *breaker)
            .unwrap_or_default();
        if judge_breaker(&mut breaker, &ended, attempt, now_ms) {
            self.operators.tell(OperatorNews::EndpointFailing {
                endpoint: ended.endpoint.clone(),
                since_ms: breaker.failing_since_ms.unwrap_or(now_ms),
                outcome: attempt.word.as_str(),
            });
        }
        if let Some(held) = claims.breaker(ended.claim.0) {
            *held = breaker;
        }
        let mut said = attempt.said.clone();
        said.truncate(LONGEST_SAID);
        let record = AttemptRecord {
            event: ended.event.id,
            claim: ended.claim,
            instance: store.instance(),
            took: ended.took,
            status: attempt.status,
            outcome: attempt.word.as_str().to_owned(),
            said,
            effect,
            breaker,
        };
        self.waiting.push(JudgedAttempt {
            record,
            endpoint: ended.endpoint,
            event: ended.event,
            result,
        });
    }

    /// Ends an event without an attempt, since the breaker has kept it from being sent for too long, and a probe has just
    /// failed. Otherwise a probe after each pause would be all that ever ends the events of an endpoint that stays dead.
    pub(super) fn expire(
        &mut self,
        endpoint: EndpointKey,
        claim: (i64, i64),
        event: DueEvent,
        store: &dyn DeliveryStore,
        breaker: EndpointBreaker,
    ) {
        let record = AttemptRecord {
            event: event.id,
            claim,
            instance: store.instance(),
            took: Duration::ZERO,
            status: None,
            outcome: EXPIRED.to_owned(),
            said: Vec::new(),
            effect: AttemptEffect::Dead,
            breaker,
        };
        self.waiting.push(JudgedAttempt {
            record,
            endpoint,
            event,
            result: DeliveryResult::Dead,
        });
    }

    /// The next attempts to record, `most` at most.
    pub(super) fn next(&self, most: usize) -> Vec<AttemptRecord> {
        let next = self.waiting.iter().take(most);
        next.map(|judged| judged.record.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes note that the store has recorded the next `count` attempts. Returns whether one turned an endpoint off.
    pub(super) fn recorded(
        &mut self,
        count: usize,
        verdicts: &[AttemptVerdict],
        claims: &mut HeldClaims,
        meters: &DeliveryMeters,
    ) -> bool {
        let mut is_gone = false;
        let verdicts = verdicts.iter().map(Some).chain(std::iter::repeat(None));
        for (judged, verdict) in self.waiting.drain(..count).zip(verdicts) {
            let JudgedAttempt {
                record,
                endpoint,
                event,
                result,
            } = judged;
            if verdict == Some(&AttemptVerdict::ClaimLost) {
                claims.lost(record.claim);
            }
            claims.ended(record.claim.0, event.line);
            is_gone |= result == DeliveryResult::Gone;
            meters.ended(&endpoint.tenant, result);
            log(&endpoint, &event, &record, result);
            // What an attempt did not change, the instance that has the claim tells.
            if verdict == Some(&AttemptVerdict::Recorded)
                && let Some(news) = news(endpoint, &event, record, result)
            {
                self.operators.tell(news);
            }
        }
        is_gone
    }
}

/// The word for an event that ended without an attempt.
const EXPIRED: &str = "expired";

/// Whether an event has waited longer than any schedule.
pub(super) fn is_too_old(event: &DueEvent, now_ms: u64) -> bool {
    let age = Duration::from_millis(now_ms.saturating_sub(event.waits_since_ms));
    age >= OLDEST
}

fn effect(
    outcome: DeliveryOutcome,
    EndedAttempt { event, url, .. }: &EndedAttempt,
    now_ms: u64,
) -> (AttemptEffect, DeliveryResult) {
    match outcome {
        DeliveryOutcome::Acknowledged => (AttemptEffect::Delivered, DeliveryResult::Delivered),
        DeliveryOutcome::Gone => (AttemptEffect::EndpointOff(*url), DeliveryResult::Gone),
        DeliveryOutcome::Failed { retry_after } => {
            let age = Duration::from_millis(now_ms.saturating_sub(event.waits_since_ms));
            let failed = event.failed_attempts.saturating_add(1);
            let random = u32::from_le_bytes(clock::random());
            match after_failure(failed, age, retry_after, random) {
                AfterFailure::Retry(delay) => (AttemptEffect::Retry(delay), DeliveryResult::Failed),
                AfterFailure::Dead => (AttemptEffect::Dead, DeliveryResult::Dead),
            }
        }
    }
}

/// What operators are told about an attempt.
fn news(
    endpoint: EndpointKey,
    event: &DueEvent,
    record: AttemptRecord,
    result: DeliveryResult,
) -> Option<OperatorNews> {
    let attempt = event.attempts.saturating_add(1);
    match result {
        DeliveryResult::Dead => Some(OperatorNews::Dead {
            endpoint,
            event: event.id,
            attempt,
            outcome: record.outcome,
        }),
        DeliveryResult::Gone => Some(OperatorNews::EndpointOff {
            endpoint,
            event: event.id,
            attempt,
        }),
        DeliveryResult::Delivered | DeliveryResult::Failed => None,
    }
}

/// Returns whether the breaker opened.
fn judge_breaker(
    breaker: &mut EndpointBreaker,
    ended: &EndedAttempt,
    attempt: &AttemptResult,
    now_ms: u64,
) -> bool {
    let tenant = &*ended.endpoint.tenant.tenant;
    if attempt.outcome == DeliveryOutcome::Acknowledged {
        if breaker_rules::acknowledged(breaker) {
            tracing::info!(
                tenant,
                "the tenant's endpoint acknowledges notifications again"
            );
        }
        return false;
    }
    let opened = breaker_rules::failed(breaker, now_ms);
    if opened {
        let (reason, status) = (attempt.word.as_str(), attempt.status);
        let error = attempt.error.as_deref();
        tracing::warn!(
            tenant,
            reason,
            status,
            error,
            "the tenant's endpoint keeps failing: one attempt after each pause is made until one succeeds"
        );
    }
    opened
}

fn log(endpoint: &EndpointKey, event: &DueEvent, record: &AttemptRecord, result: DeliveryResult) {
    let tenant = &*endpoint.tenant.tenant;
    let (id, kind, attempt) = (event.id, &*event.kind, event.attempts.saturating_add(1));
    let reason = &*record.outcome;
    match result {
        DeliveryResult::Dead => {
            tracing::error!(tenant, event = %id, kind, attempt, reason, "a notification is dead: its tenant has not acknowledged it in the whole schedule");
        }
        DeliveryResult::Gone => {
            tracing::error!(tenant, event = %id, kind, attempt, "the tenant's endpoint answered 410: it is turned off, and its notifications wait");
        }
        DeliveryResult::Delivered | DeliveryResult::Failed => {
            tracing::debug!(tenant, event = %id, kind, attempt, reason, "delivery attempt");
        }
    }
}
