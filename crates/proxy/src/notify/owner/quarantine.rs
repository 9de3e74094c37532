//! Quarantine: decides again about notifications without an owner.

use std::sync::Arc;
use std::time::Duration;

use gatepay_core::notification::Notification;
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use gatepay_store::notifications::event::{
    EventArrival, EventId, EventPlacement, EventState, PlacementBasis, QuarantineDecision,
    QuarantineQueue, QuarantinedEvent,
};
use gatepay_store::notifications::settlement::{ObjectNews, SettledEvent};
use tokio::time::sleep;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::asking::isolation_proof::IsolationProof;
use crate::notify::asking::{Asking, InquiryOutcome};
use crate::notify::operator_news::{OperatorNews, OperatorNewsQueue};
use crate::notify::owner::placement::{OwnerQuestion, PlacedNotification, place};
use crate::notify::owner::registered_tenants::{RegisteredTenants, have_always_been_alone};
use crate::notify::receive::meters::ReceptionMeters;
use crate::notify::settling::{self, Settling};

/// The most notifications that are taken together.
const TOGETHER: u32 = 64;
/// The same if GatePay is asked: all look-ups about them fit into the time for which the store gives them to no other
/// instance.
const ASKED_TOGETHER: u32 = 2;
/// The pause after the store did not take the spends that a notification settles.
const RETRY: Duration = Duration::from_millis(500);
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

/// Gives the tenants of the configuration in force; `None` while the store has not registered them.
pub type TenantSource = dyn Fn() -> Option<Arc<RegisteredTenants>> + Send + Sync;

/// What repeated decisions use.
pub struct RepeatedDecisions {
    /// The way to the store.
    pub calls: StoreCalls,
    /// The tenants of the configuration in force. Each decision is by those of its own moment.
    pub tenants: Arc<TenantSource>,
    /// The way of proved outcomes to the store.
    pub settling: Settling,
    /// The way to GatePay's answers.
    pub asking: Asking,
    /// The metrics.
    pub meters: ReceptionMeters,
    /// The way of news to operators.
    pub operators: OperatorNewsQueue,
}

impl RepeatedDecisions {
    /// Decides again about the notifications that are due in a queue, until none is.
    pub async fn run(&self, queue: QuarantineQueue) -> Result<(), StoreCallError> {
        // Only one instance gets an event from the store for a while, so that only one asks.
        let together = match queue {
            QuarantineQueue::Known => TOGETHER,
            QuarantineQueue::Asked => ASKED_TOGETHER,
        };
        while (self.tenants)().is_some() {
            let take = self
                .calls
                .call(move |store| async move { store.take_quarantined(queue, together).await });
            let events = take.await?;
            if events.is_empty() {
                return Ok(());
            }
            let proof = self.asking.proof().await?;
            for event in &events {
                self.decide(queue, event, proof.as_ref()).await?;
            }
        }
        Ok(())
    }

    async fn decide(
        &self,
        queue: QuarantineQueue,
        event: &QuarantinedEvent,
        proof: Option<&IsolationProof>,
    ) -> Result<(), StoreCallError> {
        let notification = Notification::read(&event.body);
        let question = OwnerQuestion {
            notification: &notification,
            token: event.token.as_deref(),
            proved: None,
        };
        // The configuration changes just now: the store gives the event again after a while.
        let Some(placed) = self.place(question).await? else {
            return Ok(());
        };
        let proof = proof.filter(|proof| Asking::covers(proof, &notification));
        let proof = proof.filter(|_| !placed.candidates.is_empty());
        match (queue, proof) {
            (_, None) => {
                self.carry_out(event, question, placed.placement, false)
                    .await
            }
            (QuarantineQueue::Known, Some(_)) => {
                let ask = QuarantineDecision::Ask(QuarantineReason::Unproved);
                self.settle(event.id, ask, None).await.map(drop)
            }
            (QuarantineQueue::Asked, Some(_)) => match self.asked(question, placed).await? {
                Some((placement, is_unclear)) => {
                    self.carry_out(event, question, placement, is_unclear).await
                }
                None => Ok(()),
            },
        }
    }

    /// The place by all that is known at this moment.
    async fn place(
        &self,
        question: OwnerQuestion<'_>,
    ) -> Result<Option<PlacedNotification>, StoreCallError> {
        let Some(tenants) = (self.tenants)() else {
            return Ok(None);
        };
        Ok(place(&[question], &tenants, &self.calls).await?.pop())
    }

    /// The place after GatePay was asked, and whether its answers were unclear.
    async fn asked(
        &self,
        question: OwnerQuestion<'_>,
        placed: PlacedNotification,
    ) -> Result<Option<(EventPlacement, bool)>, StoreCallError> {
        let candidates = self.only_alone(placed.candidates).await?;
        if candidates.is_empty() {
            let shared = EventPlacement::Quarantine(QuarantineReason::SharedAccount);
            return Ok(Some((shared, false)));
        }
        let Some(proof) = self.asking.proof().await? else {
            return Ok(Some((placed.placement, false)));
        };
        let notification = question.notification;
        let (found, is_unclear) = match self.asking.ask(&proof, notification, &candidates).await? {
            InquiryOutcome::Owner(owner) => (vec![owner], false),
            InquiryOutcome::Unproved => (Vec::new(), false),
            InquiryOutcome::Unclear => (Vec::new(), true),
        };
        // Meanwhile the configuration may have changed, the ledger may have learned a key, and the proof may have been refuted:
        // all that is known now decides, the answer among it.
        let is_proof = self.asking.proof().await?;
        let is_proof = is_proof.is_some_and(|proof| Asking::covers(&proof, notification));
        let found = if is_proof {
            self.only_alone(found).await?
        } else {
            Vec::new()
        };
        let question = OwnerQuestion {
            proved: found.first(),
            ..question
        };
        let placed = self.place(question).await?;
        Ok(placed.map(|placed| (placed.placement, is_unclear)))
    }

    /// The tenants whose sub-account no other tenant has or has had: GatePay's answer about such an account is about the tenant.
    async fn only_alone(
        &self,
        tenants: Vec<TenantIncarnation>,
    ) -> Result<Vec<TenantIncarnation>, StoreCallError> {
        let accounts = tenants.iter().map(|it| it.account.clone()).collect();
        let alone = have_always_been_alone(&self.calls, accounts).await?;
        let alone = tenants.into_iter().zip(alone);
        Ok(alone
            .filter_map(|(it, alone)| alone.then_some(it))
            .collect())
    }

    async fn carry_out(
        &self,
        event: &QuarantinedEvent,
        question: OwnerQuestion<'_>,
        placement: EventPlacement,
        is_unclear: bool,
    ) -> Result<(), StoreCallError> {
        let notification = question.notification;
        // An operator's calls are for an account, not for the operator.
        let (owner, by) = match &placement {
            EventPlacement::Tenant { tenant, by, .. } => (Some(tenant.clone()), Some(by.clone())),
            EventPlacement::Operators | EventPlacement::Quarantine(_) => (None, None),
        };
        let of_tenant = owner.filter(|_| by != Some(PlacementBasis::Institution));
        let proved = of_tenant
            .as_ref()
            .and_then(|tenant| settling::news(event.id, tenant, notification));
        let decision = decision(event, placement, is_unclear);
        let settled = self.settle(event.id, decision, proved.clone()).await?;
        let Some(SettledEvent {
            arrival,
            report: effects,
        }) = settled
        else {
            return Ok(());
        };
        report(event, &arrival, &self.meters);
        if let Some(news) = stays(event, &arrival) {
            self.operators.tell(news);
        }
        if !arrival.is_owned() {
            return Ok(());
        }
        if let Some(news) = &proved {
            // The calls are settled with the decision. What was reserved counts until this is done, also after a crash.
            while let Err(error) = self.settling.settled(news, &effects).await {
                tracing::warn!(%error, event = %event.id, "spends that a notification settles wait for the store");
                sleep(RETRY).await;
            }
        }
        match of_tenant.filter(|_| by == Some(PlacementBasis::Asked)) {
            Some(owner) => {
                self.meters.decided("asked");
                self.asking.remember(notification, &owner).await
            }
            None => Ok(()),
        }
    }

    async fn settle(
        &self,
        event: EventId,
        decision: QuarantineDecision,
        proved: Option<ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreCallError> {
        let settled = self.calls.call(move |store| async move {
            let settled = store.settle_quarantine(event, &decision, proved.as_ref());
            settled.await
        });
        settled.await
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
                    QuarantineDecision::Placed(_) | QuarantineDecision::Ask(_) => 0,
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
