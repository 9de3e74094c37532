//! Quarantine: decides again about notifications without an owner.

use std::time::Duration;

use gatepay_core::notification::Notification;
use gatepay_core::ownership::QuarantineReason;
use gatepay_store::notifications::event::{
    EventArrival, EventId, EventPlacement, EventState, PlacementBasis, QuarantineDecision,
    QuarantinedEvent,
};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::asking::isolation_proof::IsolationProof;
use crate::notify::asking::{Asking, InquiryOutcome};
use crate::notify::operator_news::{OperatorNews, OperatorNewsQueue};
use crate::notify::owner::placement::{OwnerQuestion, PlacedNotification, place};
use crate::notify::owner::registered_tenants::RegisteredTenants;
use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::settling::{self, Settling};

/// The most notifications that are decided again together.
const TOGETHER: u32 = 64;
/// The same if GatePay is asked: all look-ups about them fit into the time for which the store gives them to no other
/// instance.
const ASKED_TOGETHER: u32 = 2;
/// The most decisions about a notification for which GatePay gives no clear answer: three days of the last delay.
const MOST_DECISIONS: usize = 16;

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

/// What repeated decisions use.
pub struct RepeatedDecisions<'a> {
    /// The way to the store.
    pub calls: &'a StoreCalls,
    /// The way of proved outcomes to the store.
    pub settling: &'a Settling,
    /// The way to GatePay's answers.
    pub asking: &'a Asking,
    /// The metrics.
    pub meters: &'a ReceptionMeters,
    /// The way of news to operators.
    pub operators: &'a OperatorNewsQueue,
}

impl RepeatedDecisions<'_> {
    /// Decides again about the notifications that are due, until none is.
    pub async fn run(&self, tenants: &RegisteredTenants) -> Result<(), StoreCallError> {
        // Only one instance gets an event from the store for a while, so that only one asks.
        let together = if self.asking.is_set {
            ASKED_TOGETHER
        } else {
            TOGETHER
        };
        loop {
            let take = self
                .calls
                .call(move |store| async move { store.take_quarantined(together).await });
            let events = take.await?;
            if events.is_empty() {
                return Ok(());
            }
            self.decide(&events, tenants).await?;
        }
    }

    async fn decide(
        &self,
        events: &[QuarantinedEvent],
        tenants: &RegisteredTenants,
    ) -> Result<(), StoreCallError> {
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
                proved: None,
            })
            .collect();
        let placements = place(&questions, tenants, self.calls).await?;
        let may_ask = placements.iter().any(|it| !it.candidates.is_empty());
        let proof = if may_ask {
            self.asking.proof().await?
        } else {
            None
        };
        for ((event, question), placed) in events.iter().zip(questions).zip(placements) {
            let (placement, is_unclear) = match &proof {
                Some(proof) if !placed.candidates.is_empty() => {
                    self.asked(question, placed, proof, tenants).await?
                }
                _ => (placed.placement, false),
            };
            self.carry_out(event, question.notification, placement, is_unclear)
                .await?;
        }
        Ok(())
    }

    /// The place after GatePay was asked, and whether its answers were unclear.
    async fn asked(
        &self,
        question: OwnerQuestion<'_>,
        placed: PlacedNotification,
        proof: &IsolationProof,
        tenants: &RegisteredTenants,
    ) -> Result<(EventPlacement, bool), StoreCallError> {
        let (notification, candidates) = (question.notification, &placed.candidates);
        let outcome = self.asking.ask(proof, notification, candidates).await?;
        let owner = match outcome {
            InquiryOutcome::Owner(owner) => owner,
            InquiryOutcome::Unproved => return Ok((placed.placement, false)),
            InquiryOutcome::Unclear => return Ok((placed.placement, true)),
        };
        // The ledger may have learned a key meanwhile: all hints decide together, this one among them.
        let question = OwnerQuestion {
            proved: Some(&owner),
            ..question
        };
        let placed = place(&[question], tenants, self.calls).await?.pop();
        let placement = placed.map(|placed| placed.placement);
        let unproved = EventPlacement::Quarantine(QuarantineReason::Unproved);
        Ok((placement.unwrap_or(unproved), false))
    }

    async fn carry_out(
        &self,
        event: &QuarantinedEvent,
        notification: &Notification,
        placement: EventPlacement,
        is_unclear: bool,
    ) -> Result<(), StoreCallError> {
        // Before the event has its owner: after a crash in between it is decided again.
        if let EventPlacement::Tenant { tenant, .. } = &placement {
            let news = settling::news(event.id, tenant, notification);
            self.settling.settle(news.into_iter().collect()).await?;
        }
        let asked = match &placement {
            EventPlacement::Tenant {
                tenant,
                by: PlacementBasis::Asked,
                ..
            } => Some(tenant.clone()),
            _ => None,
        };
        let decision = decision(event, placement, is_unclear);
        let Some(arrival) = settle(self.calls, event.id, decision).await? else {
            return Ok(());
        };
        report(event, &arrival, self.meters);
        if let Some(news) = stays(event, &arrival) {
            self.operators.tell(news);
        }
        match asked {
            Some(owner) if arrival.state != EventState::Quarantined => {
                self.meters.decided("asked");
                self.asking.remember(notification, &owner).await
            }
            _ => Ok(()),
        }
    }
}

/// A quarantine is decided again after the next delay. After the last delay it waits for the ledger or an operator; but if
/// GatePay gave no clear answer, the last delay is repeated for some days.
fn decision(
    event: &QuarantinedEvent,
    placement: EventPlacement,
    is_unclear: bool,
) -> QuarantineDecision {
    let EventPlacement::Quarantine(reason) = placement else {
        return QuarantineDecision::Placed(placement);
    };
    let repetitions = usize::try_from(event.decisions).unwrap_or(usize::MAX);
    let last = DELAYS
        .last()
        .filter(|_| is_unclear && repetitions < MOST_DECISIONS);
    match DELAYS.get(repetitions.saturating_sub(1)).or(last) {
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
            .map(
                |decisions| match decision(&event(decisions), stays(), false) {
                    QuarantineDecision::Again(_, delay) => delay.as_secs(),
                    QuarantineDecision::Placed(_) => 0,
                },
            )
            .collect();
        assert_eq!(delays, [30, 300, 3_600, 21_600]);
        for decisions in [5, u32::MAX] {
            let last = decision(&event(decisions), stays(), false);
            assert_eq!(last, QuarantineDecision::Placed(stays()));
        }
        let placed = decision(&event(1), EventPlacement::Operators, false);
        assert_eq!(
            placed,
            QuarantineDecision::Placed(EventPlacement::Operators)
        );
    }

    #[test]
    fn an_unclear_answer_repeats_the_last_delay_for_three_days() {
        let stays = || EventPlacement::Quarantine(QuarantineReason::Unproved);
        let again = |decisions| decision(&event(decisions), stays(), true);
        let six_hours = QuarantineDecision::Again(QuarantineReason::Unproved, DELAYS[3]);
        assert!((4..16).all(|decisions| again(decisions) == six_hours));
        assert_eq!(again(16), QuarantineDecision::Placed(stays()));
    }
}
