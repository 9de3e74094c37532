//! The quarantine of the model.

use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};

use super::super::event::{
    DECISION_LEASE, DecisionTerms, EventArrival, EventId, EventPlacement, EventState,
    PROPOSAL_LASTS, PlacementBasis, ProposalResult, QuarantineDecision, QuarantineQueue,
    QuarantinedEvent,
};
use super::super::settlement::{ObjectNews, SettledEvent};
use super::{ModelEvent, NotificationModel, millis};

impl NotificationModel {
    /// As [`Store::take_quarantined`](crate::engine::Store::take_quarantined).
    pub fn take_quarantined(&mut self, queue: QuarantineQueue, most: u32) -> Vec<QuarantinedEvent> {
        let now_ms = self.now_ms;
        let asks = queue == QuarantineQueue::Asked;
        let mut due: Vec<(u64, EventId)> = Vec::new();
        for (id, event) in self.events.iter().filter(|(_, event)| event.asks == asks) {
            let decide_ms = event.decide_ms.filter(|decide_ms| *decide_ms <= now_ms);
            due.extend(decide_ms.map(|decide_ms| (decide_ms, *id)));
        }
        due.sort_unstable();
        let mut taken = Vec::new();
        for (_, id) in due.into_iter().take(most as usize) {
            let event = self.events.get_mut(&id).expect("it was found above");
            event.decide_ms = Some(now_ms + millis(DECISION_LEASE));
            taken.push(QuarantinedEvent {
                id,
                received_ms: event.received_ms,
                reason: event
                    .quarantine
                    .expect("only events in quarantine are decided again"),
                decisions: event.decisions + 1,
                token: event.event.token.clone(),
                body: event.event.body.clone(),
            });
        }
        taken
    }

    /// As [`Store::settle_quarantine`](crate::engine::Store::settle_quarantine).
    pub fn settle_quarantine(
        &mut self,
        event: EventId,
        decision: &QuarantineDecision,
        proved: Option<&ObjectNews>,
    ) -> Option<SettledEvent> {
        if self.events.get(&event)?.state != EventState::Quarantined {
            return None;
        }
        let terms = DecisionTerms::of(decision);
        let arrival = self.place(event, &terms);
        if arrival.quarantine.is_some() && !terms.to_ask {
            let known = self.events.get_mut(&event).expect("it was found above");
            known.decisions += 1;
        }
        Some(self.settled(arrival, proved))
    }

    /// As [`Store::assign`](crate::engine::Store::assign).
    pub fn assign(
        &mut self,
        event: EventId,
        (tenant, url): (&TenantIncarnation, Option<&str>),
        by: &str,
        proved: Option<&ObjectNews>,
    ) -> Option<SettledEvent> {
        let known = self.events.get(&event)?;
        let arrival = match known.state {
            EventState::Quarantined | EventState::Operator if !self.is_newest(tenant) => {
                EventArrival {
                    id: event,
                    state: known.state,
                    has_conflict: false,
                    quarantine: known.quarantine,
                }
            }
            EventState::Quarantined | EventState::Operator => {
                self.place(event, &DecisionTerms::assigned(tenant, url, by))
            }
            EventState::Waiting | EventState::Dead if self.is_of_former(known, tenant) => {
                let had_conflict = known.has_conflict;
                let known = self.events.get_mut(&event).expect("it was found above");
                known.state = EventState::Operator;
                known.failed = 0;
                let arrival = self.place(event, &DecisionTerms::assigned(tenant, url, by));
                let known = self.events.get_mut(&event).expect("it was found above");
                known.has_conflict |= had_conflict;
                arrival
            }
            _ => return None,
        };
        Some(self.settled(arrival, proved))
    }

    /// Whether an event belongs to a former incarnation of the tenant with the sub-account of its newest one.
    fn is_of_former(&self, event: &ModelEvent, tenant: &TenantIncarnation) -> bool {
        let owner = event.owned.as_ref().map(|owned| &owned.tenant);
        self.is_newest(tenant)
            && owner.is_some_and(|owner| {
                owner.tenant == tenant.tenant
                    && owner.account == tenant.account
                    && owner.incarnation < tenant.incarnation
            })
    }

    fn settled(&mut self, arrival: EventArrival, proved: Option<&ObjectNews>) -> SettledEvent {
        let proved = proved.filter(|_| arrival.is_owned());
        let report = self.settle_objects(proved.map_or(&[], std::slice::from_ref));
        SettledEvent { arrival, report }
    }

    /// As [`Store::hand_over_news`](crate::engine::Store::hand_over_news).
    pub fn hand_over_news(&mut self, to: &TenantIncarnation, most: u32) -> u32 {
        let mut waiting: Vec<(i64, EventId)> = Vec::new();
        for (id, event) in &self.events {
            let owned = event.owned.as_ref().filter(|owned| {
                owned.tenant.account == to.account && owned.tenant.tenant != to.tenant
            });
            if let Some(owned) = owned.filter(|_| event.state == EventState::Waiting) {
                waiting.push((owned.place, *id));
            }
        }
        if !self.is_newest(to) {
            waiting.clear();
        }
        waiting.sort_unstable();
        waiting.truncate(most as usize);
        for (_, id) in &waiting {
            let event = self.events.get_mut(id).expect("it was found above");
            let had_conflict = event.has_conflict;
            event.state = EventState::Operator;
            event.failed = 0;
            self.own(*id, to, None, &PlacementBasis::Institution);
            let event = self.events.get_mut(id).expect("it was found above");
            event.has_conflict |= had_conflict;
        }
        u32::try_from(waiting.len()).unwrap_or(u32::MAX)
    }

    /// As [`Store::propose`](crate::engine::Store::propose).
    pub fn propose(
        &mut self,
        event: EventId,
        tenant: &TenantIncarnation,
        by: &str,
    ) -> ProposalResult {
        let until = self.now_ms.saturating_sub(millis(PROPOSAL_LASTS));
        self.proposals.retain(|_, (_, _, at)| *at > until);
        match self.proposals.get(&event) {
            Some((same, other, _)) if other != by && same == tenant => {
                ProposalResult::Confirmed { by: other.clone() }
            }
            Some((differs, other, _)) if other != by => ProposalResult::Differs {
                by: other.clone(),
                tenant: differs.tenant.clone(),
            },
            _ => {
                let proposal = (tenant.clone(), by.to_owned(), self.now_ms);
                self.proposals.insert(event, proposal);
                ProposalResult::Noted
            }
        }
    }

    /// Gives an event without an owner its place.
    pub(super) fn place(&mut self, id: EventId, terms: &DecisionTerms) -> EventArrival {
        match &terms.placement {
            EventPlacement::Tenant { tenant, url, by } if self.is_newest(tenant) => {
                self.own(id, tenant, url.as_deref(), by);
            }
            EventPlacement::Operators => {
                let event = self.events.get_mut(&id).expect("the caller has it");
                event.state = EventState::Operator;
                event.quarantine = None;
                event.decide_ms = None;
            }
            EventPlacement::Tenant { .. } | EventPlacement::Quarantine(_) => {
                let event = self.events.get_mut(&id).expect("the caller has it");
                let is_due = event.decide_ms.is_some_and(|at| at <= self.now_ms);
                if !is_due {
                    event.decide_ms = terms.delay.map(|delay| self.now_ms + millis(delay));
                }
                event.asks = terms.to_ask && !is_due;
                event.quarantine = Some(match &terms.placement {
                    EventPlacement::Quarantine(reason) => *reason,
                    _ => QuarantineReason::Removed,
                });
            }
        }
        let event = &self.events[&id];
        EventArrival {
            id,
            state: event.state,
            has_conflict: event.has_conflict,
            quarantine: event.quarantine,
        }
    }
}
