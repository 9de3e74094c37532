//! Lists, replay, counts and retention of the model.

use gatepay_core::ownership::TenantIncarnation;

use super::super::event::{EventId, EventState};
use super::super::listing::{
    AttemptRow, EventDetail, EventPage, EventSummary, MOST_EXAMINED, MOST_LISTED, MOST_ON_PAGE,
    NotificationCounts, RETENTION_STEP, RedeliveryReport, ReplayFilter, RetentionReport,
    RetentionTerms,
};
use super::{ModelEvent, NotificationModel, millis};

impl NotificationModel {
    /// As [`Store::tenant_events`](crate::engine::Store::tenant_events).
    pub fn tenant_events(
        &self,
        tenant: &TenantIncarnation,
        state: Option<EventState>,
        after: i64,
        most: u32,
    ) -> EventPage {
        let most = most.clamp(1, MOST_ON_PAGE);
        let examined = if state.is_some() { MOST_EXAMINED } else { most } as usize;
        let mut own: Vec<(i64, EventId)> = Vec::new();
        for (id, event) in &self.events {
            let owned = event.owned.as_ref();
            let owned = owned.filter(|owned| owned.tenant == *tenant && owned.place > after);
            own.extend(owned.map(|owned| (owned.place, *id)));
        }
        own.sort_unstable();
        own.truncate(examined);
        let last = own.last().map_or(after, |last| last.0);
        let fitting = own
            .iter()
            .filter(|(_, id)| state.is_none_or(|state| self.events[id].state == state));
        let page = fitting.take(most as usize).map(|(_, id)| {
            let event = &self.events[id];
            (summary(*id, event), event.event.body.clone())
        });
        EventPage::of(page.collect(), last, own.len() == examined, most)
    }

    /// As [`Store::list_events`](crate::engine::Store::list_events).
    pub fn list_events(
        &self,
        state: Option<EventState>,
        before: Option<EventId>,
        most: u32,
    ) -> (Vec<EventSummary>, Option<EventId>) {
        let most = most.clamp(1, MOST_LISTED);
        let ids = self.events.keys().rev();
        let mut ids: Vec<EventId> = ids
            .copied()
            .filter(|id| before.is_none_or(|before| *id < before))
            .collect();
        let is_indexed = state.is_none_or(EventState::is_listed);
        let is_cut = !is_indexed && ids.len() >= MOST_EXAMINED as usize;
        if is_cut {
            ids.truncate(MOST_EXAMINED as usize);
        }
        let last = ids.last().copied().filter(|_| is_cut);
        ids.retain(|id| state.is_none_or(|state| self.events[id].state == state));
        let events = ids
            .iter()
            .take(most as usize)
            .map(|id| summary(*id, &self.events[id]));
        let events: Vec<EventSummary> = events.collect();
        let next = EventSummary::next_page(&events, last, most);
        (events, next)
    }

    /// As [`Store::event`](crate::engine::Store::event).
    pub fn event(&self, id: EventId) -> Option<EventDetail> {
        let event = self.events.get(&id)?;
        let owned = event.owned.as_ref();
        let first = event.attempt_count as usize - event.attempts.len();
        let attempts = event
            .attempts
            .iter()
            .enumerate()
            .map(|(at, (at_ms, attempt))| AttemptRow {
                number: u32::try_from(first + at + 1).unwrap_or(u32::MAX),
                at_ms: *at_ms,
                instance: attempt.instance,
                took_ms: millis(attempt.took),
                status: attempt.status,
                outcome: attempt.outcome.clone(),
                said: attempt.said.clone(),
            });
        Some(EventDetail {
            summary: summary(id, event),
            url: owned.and_then(|owned| self.endpoints[owned.endpoint].key.url.clone()),
            token: event.event.token.clone(),
            body: event.event.body.clone(),
            attempts: attempts.collect(),
        })
    }

    /// As [`Store::replay`](crate::engine::Store::replay).
    pub fn replay(&mut self, filter: &ReplayFilter) -> RedeliveryReport {
        let now_ms = self.now_ms;
        let mut report = RedeliveryReport::default();
        let dead = self.events.iter_mut().filter(|(id, event)| {
            let is_meant = match filter {
                ReplayFilter::Event(one) => *id == one,
                ReplayFilter::Tenant { tenant, since_ms } => {
                    let owned = event.owned.as_ref();
                    owned.is_some_and(|owned| owned.tenant == *tenant)
                        && event.received_ms >= *since_ms
                }
            };
            is_meant && event.state == EventState::Dead
        });
        for (_, event) in dead.take(MOST_LISTED as usize) {
            let owned = event.owned.as_ref().expect("only a tenant's event dies");
            let object = self.objects[owned.object].as_mut();
            let is_late = object.is_some_and(|object| {
                object.at_ms = now_ms;
                object.progress.supersedes(event.event.rank)
            });
            event.failed = 0;
            if is_late {
                event.state = EventState::Superseded;
                report.superseded += 1;
            } else {
                event.state = EventState::Waiting;
                event.waits_since_ms = Some(now_ms);
                event.next_ms = Some(now_ms);
                report.waiting += 1;
            }
        }
        let is_step = matches!(filter, ReplayFilter::Tenant { .. });
        report.has_more = is_step && report.waiting + report.superseded == MOST_LISTED;
        report
    }

    /// As [`Store::notification_counts`](crate::engine::Store::notification_counts).
    pub fn notification_counts(&self) -> NotificationCounts {
        let quarantined = self
            .events
            .values()
            .filter(|it| it.state == EventState::Quarantined);
        NotificationCounts {
            quarantined: quarantined.clone().count() as u64,
            oldest_quarantined_ms: quarantined.map(|event| event.received_ms).min(),
            open_calls: self.open_calls.len() as u64,
            endpoints: (0..self.endpoints.len())
                .map(|number| self.state_of(number))
                .collect(),
            now_ms: self.now_ms,
        }
    }

    /// As [`Store::retain`](crate::engine::Store::retain).
    pub fn retain(&mut self, terms: &RetentionTerms) -> RetentionReport {
        let before = |age| self.now_ms.saturating_sub(millis(age));
        let (events, attempts, owners) = (
            before(terms.events),
            before(terms.attempts),
            before(terms.owners),
        );
        let is_old = |id: &EventId, event: &ModelEvent| {
            *id < EventId::floor(events)
                && event.state != EventState::Quarantined
                && event.waits_since_ms.unwrap_or(0) < events
        };
        let old = self.events.iter().filter(|(id, event)| is_old(id, event));
        let old: Vec<EventId> = old
            .map(|(id, _)| *id)
            .take(RETENTION_STEP as usize)
            .collect();
        let mut report = RetentionReport::default();
        for id in old {
            self.events.remove(&id);
            report.events += 1;
        }
        if report.events < RETENTION_STEP {
            for object in &mut self.objects {
                if object.as_ref().is_some_and(|object| object.at_ms < events) {
                    *object = None;
                    report.objects += 1;
                }
            }
        }
        for event in self.events.values_mut() {
            let count = event.attempts.len();
            event.attempts.retain(|(at_ms, _)| *at_ms >= attempts);
            report.attempts += u32::try_from(count - event.attempts.len()).unwrap_or(u32::MAX);
        }
        let count = self.owners.len();
        self.owners.retain(|_, (at_ms, _, _)| *at_ms >= owners);
        report.owners = u32::try_from(count - self.owners.len()).unwrap_or(u32::MAX);
        self.proved.retain(|row, _| self.owners.contains_key(row));
        self.open_calls.retain(|_, (_, at_ms)| *at_ms >= owners);
        report
    }
}

fn summary(id: EventId, event: &ModelEvent) -> EventSummary {
    let owned = event.owned.as_ref();
    EventSummary {
        id,
        place: owned.map_or(0, |owned| owned.place),
        received_ms: event.received_ms,
        kind: event.event.key.kind.as_str().to_owned(),
        object: event.event.key.object.clone(),
        status: event.event.key.status.clone(),
        tenant: owned.map(|owned| owned.tenant.clone()),
        placed_by: owned.map(|owned| owned.by.to_string()),
        state: event.state,
        quarantine: event.quarantine.map(|reason| reason.as_str().to_owned()),
        has_conflict: event.has_conflict,
        is_changed: event.is_changed,
        attempts: event.attempt_count,
        next_ms: event.next_ms,
    }
}
