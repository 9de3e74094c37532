//! Resolve: asks GatePay for the outcome of a call whose answer was lost or proves nothing.
//!
//! The call itself is never retried. Its look-up is a read, signed for the same account. The look-up is sent a few
//! times, since the call may still be under way, and never later than `upstream.resolve_ms` after the loss.

use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::quota::OwnCallPurpose;
use gatepay_core::Kind;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use tokio::time::{Instant, sleep_until};

use crate::upstream::exchange::{AnswerBody, UpstreamAnswer};
use crate::upstream::forward::{self, UpstreamCall};

/// When look-ups are sent, and their share of the quota.
pub struct ResolveSchedule {
    after: &'static [Duration],
    purpose: OwnCallPurpose,
}

/// After a lost answer: early, because the caller waits; later, when a slow call has ended.
pub const AFTER_LOSS: ResolveSchedule = ResolveSchedule {
    after: &[
        Duration::from_millis(500),
        Duration::from_millis(1_500),
        Duration::from_secs(4),
    ],
    purpose: OwnCallPurpose::LookUp,
};
/// After an answer that shows that GatePay has decided: at once and only once, since a second answer would be equal.
pub const AFTER_REFUSAL: ResolveSchedule = ResolveSchedule {
    after: &[Duration::ZERO],
    purpose: OwnCallPurpose::Settle,
};
/// For a call that ended long ago: once.
pub const LATER: ResolveSchedule = ResolveSchedule {
    after: &[Duration::ZERO],
    purpose: OwnCallPurpose::LookUp,
};
/// Timeout of one look-up, so that a hanging answer leaves time for the next look-up.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends look-ups as scheduled until GatePay has the call, or until `within` has passed.
///
/// `seen` always holds the latest observation, so that it survives when this future is dropped.
pub async fn resolve(
    call: UpstreamCall<'_>,
    question: &LookUpQuestion,
    schedule: &ResolveSchedule,
    within: Duration,
    seen: &mut LookUpObservation,
    mut ask: impl FnMut(&mut Vec<u8>) -> Bytes,
) {
    let began = Instant::now();
    let until = began + within;
    for &after in schedule.after {
        if after >= within || Instant::now() >= until {
            return;
        }
        sleep_until(began + after).await;
        if call.quota.take_for(schedule.purpose).is_err() {
            continue;
        }
        let now = Instant::now();
        let limit = TIMEOUT.min(until.saturating_duration_since(now));
        let answer = forward::send(&call, Kind::Read, now, limit, &mut ask).await;
        if let Ok(UpstreamAnswer {
            head,
            body: AnswerBody::Whole(body, _),
        }) = answer
        {
            let heard = question.observe(head.status.as_u16(), &body);
            // An empty observation does not replace an earlier one.
            if heard.observed != ObservedOutcome::Unknown || heard.order.is_some() {
                *seen = heard;
            }
        }
        if seen.observed == ObservedOutcome::Found {
            return;
        }
    }
}
