//! Quarantine: decides again about notifications without an owner.

use std::time::Duration;

use gatepay_core::notification::Notification;
use gatepay_store::notifications::event::{
    EventArrival, EventId, EventPlacement, EventState, QuarantineDecision, QuarantinedEvent,
};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::operator_news::{OperatorNews, OperatorNewsQueue};
use crate::notify::owner::placement::{OwnerQuestion, place};
use crate::notify::owner::registered_tenants::RegisteredTenants;
use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::settling::{self, Settling};

/// The most notifications that are decided again together.
const TOGETHER: u32 = 64;

/// The delays before the second and each further repetition of a decision. The first repetition comes after 5 s, which
/// is the store's rule.
const DELAYS: [Duration; 4] = [
    Duration::from_secs(30),
    Duration::from_mins(5),
    Duration::from_hours(1),
    Duration::from_hours(6),
];

/// The repeated decision from which on operators are told, after 5 s, 30 s and 5 min.
const TOLD_FROM: u32 = 3;

/// Decides again about the notifications that are due, until none is.
pub async fn decide_again(
    tenants: &RegisteredTenants,
    calls: &StoreCalls,
    settling: &Settling,
    (meters, operators): (&ReceptionMeters, &OperatorNewsQueue),
) -> Result<(), StoreCallError> {
    loop {
        let take = calls.call(|store| async move { store.take_quarantined(TOGETHER).await });
        let events = take.await?;
        if events.is_empty() {
            return Ok(());
        }
        let read: Vec<Notification> = events
            .iter()
            .map(|event| Notification::read(&event.body))
            .collect();
        let questions: Vec<OwnerQuestion<'_>> = events
            .iter()
            .zip(&read)
            .map(|(event, notification)| OwnerQuestion {
                notification,
                token: event.token.as_deref(),
            })
            .collect();
        let placements = place(&questions, tenants, calls).await?;
        for ((event, notification), placement) in events.iter().zip(&read).zip(placements) {
            // Before the event has its owner: after a crash in between it is decided again.
            if let EventPlacement::Tenant { tenant, .. } = &placement {
                let news = settling::news(event.id, tenant, notification);
                settling.settle(news.into_iter().collect()).await?;
            }
            let decision = decision(event, placement);
            if let Some(arrival) = settle(calls, event.id, decision).await? {
                report(event, &arrival, meters);
                if let Some(news) = stays(event, &arrival) {
                    operators.tell(news);
                }
            }
        }
    }
}

/// A quarantine is decided again after the next delay. After the last delay it waits for the ledger or an operator.
fn decision(event: &QuarantinedEvent, placement: EventPlacement) -> QuarantineDecision {
    let EventPlacement::Quarantine(reason) = placement else {
        return QuarantineDecision::Placed(placement);
    };
    let repetitions = usize::try_from(event.decisions).unwrap_or(usize::MAX);
    match DELAYS.get(repetitions.saturating_sub(1)) {
        Some(delay) => QuarantineDecision::Again(reason, *delay),
        None => QuarantineDecision::Placed(EventPlacement::Quarantine(reason)),
    }
}

async fn settle(
    calls: &StoreCalls,
    event: EventId,
    decision: QuarantineDecision,
) -> Result<Option<EventArrival>, StoreCallError> {
    let settled =
        calls.call(move |store| async move { store.settle_quarantine(event, &decision).await });
    settled.await
}

fn report(event: &QuarantinedEvent, arrival: &EventArrival, meters: &ReceptionMeters) {
    if arrival.state == EventState::Quarantined {
        return;
    }
    if arrival.has_conflict {
        meters.conflicts.inc();
    }
    tracing::info!(
        event = %event.id, reason = event.reason.as_str(), state = %arrival.state,
        "a notification has left quarantine"
    );
}

/// The news that a notification stays in quarantine, once the delays are long. The same news is stored once.
fn stays(event: &QuarantinedEvent, arrival: &EventArrival) -> Option<OperatorNews> {
    let reason = arrival.quarantine?;
    (event.decisions >= TOLD_FROM).then(|| OperatorNews::Quarantined {
        event: event.id,
        reason: reason.as_str(),
        received_ms: event.received_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::ownership::QuarantineReason;

    #[test]
    fn operators_are_told_of_a_notification_that_is_still_in_quarantine_after_five_minutes() {
        let arrival = |quarantine, state| EventArrival {
            id: event(0).id,
            state,
            has_conflict: false,
            quarantine,
        };
        let held = arrival(Some(QuarantineReason::NoHolder), EventState::Quarantined);
        let told = (1..=4).map(|decisions| stays(&event(decisions), &held).is_some());
        // After 5 s, 35 s, 5.5 min and 1 h.
        assert_eq!(told.collect::<Vec<_>>(), [false, false, true, true]);
        let left = arrival(None, EventState::Waiting);
        assert_eq!(stays(&event(4), &left), None);
    }

    fn event(decisions: u32) -> QuarantinedEvent {
        QuarantinedEvent {
            id: EventId::parse("018f0000-0000-7000-8000-000000000000").unwrap(),
            received_ms: 0,
            reason: QuarantineReason::NoHolder,
            decisions,
            token: None,
            body: Vec::new(),
        }
    }

    #[test]
    fn a_quarantine_is_decided_again_at_growing_delays_and_then_waits() {
        let reason = QuarantineReason::NoHolder;
        let stays = || EventPlacement::Quarantine(reason);
        let delays: Vec<u64> = (1..=4)
            .map(|decisions| match decision(&event(decisions), stays()) {
                QuarantineDecision::Again(_, delay) => delay.as_secs(),
                QuarantineDecision::Placed(_) => 0,
            })
            .collect();
        assert_eq!(delays, [30, 300, 3_600, 21_600]);
        for decisions in [5, u32::MAX] {
            let last = decision(&event(decisions), stays());
            assert_eq!(last, QuarantineDecision::Placed(stays()));
        }
        let placed = decision(&event(1), EventPlacement::Operators);
        assert_eq!(
            placed,
            QuarantineDecision::Placed(EventPlacement::Operators)
        );
    }
}
