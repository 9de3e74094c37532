//! Resolve: what became of a call whose answer was lost or proves nothing, asked of GatePay instead of guessed.
//!
//! The call itself is never repeated. Its look-up is a read, signed for the same account; it is asked a few times, since
//! the call may still be under way, and never longer than `upstream.resolve_ms` after the loss.

use std::time::Duration;

use bytes::Bytes;
use gatepay_core::Kind;
use gatepay_core::look_up::{LookUpObservation, LookUpQuestion, ObservedOutcome};
use tokio::time::{Instant, sleep_until};

use crate::admission::quota::OwnCallPurpose;
use crate::upstream::exchange::{AnswerBody, UpstreamAnswer};
use crate::upstream::forward::{self, UpstreamCall};

/// When GatePay is asked, and how much of the quota that may take.
pub struct ResolveSchedule {
    after: &'static [Duration],
    purpose: OwnCallPurpose,
}

/// After a loss: soon, for a caller waits; then when a slow call is through.
pub const AFTER_LOSS: ResolveSchedule = ResolveSchedule {
    after: &[
        Duration::from_millis(500),
        Duration::from_millis(1_500),
        Duration::from_secs(4),
    ],
    purpose: OwnCallPurpose::LookUp,
};
/// After an answer that says that GatePay has decided: at once, and once, for a second answer would be the same.
pub const AFTER_REFUSAL: ResolveSchedule = ResolveSchedule {
    after: &[Duration::ZERO],
    purpose: OwnCallPurpose::Settle,
};
/// How long one answer is waited for, so that one that hangs is not all that is heard.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks as scheduled until GatePay has it, or until the time is up. What is known stands in `seen` at any moment, so that it is
/// known as well when nobody waits for the rest.
pub async fn resolve(
    road: UpstreamCall<'_>,
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
        if road.quota.take_for(schedule.purpose).is_err() {
            continue;
        }
        let now = Instant::now();
        let limit = PATIENCE.min(until.saturating_duration_since(now));
        let answer = forward::send(road, Kind::Read, now, limit, &mut ask).await;
        if let Ok(UpstreamAnswer {
            head,
            body: AnswerBody::Whole(body, _),
        }) = answer
        {
            let heard = question.observe(head.status.as_u16(), &body);
            // Silence after an answer unsays nothing.
            if heard.observed != ObservedOutcome::Unknown || heard.order.is_some() {
                *seen = heard;
            }
        }
        if seen.observed == ObservedOutcome::Found {
            return;
        }
    }
}
