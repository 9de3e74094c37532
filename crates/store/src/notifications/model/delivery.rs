//! Claims, due events and attempts of the model.

use super::super::delivery::{
    AttemptEffect, AttemptRecord, AttemptVerdict, CLAIM_LASTS, DueEvent, EndpointBreaker,
    EndpointClaim, EndpointKey, EndpointOffReason, EndpointState,
};
use super::super::event::{EventId, EventState};
use super::{ModelEndpoint, ModelEvent, NotificationModel, OwnedEvent, millis};

/// The head of a line.
struct LineHead {
    object: usize,
    endpoint: usize,
    id: EventId,
    next_ms: u64,
}

impl NotificationModel {
    /// As [`Store::claim_endpoints`](crate::engine::Store::claim_endpoints).
    pub fn claim_endpoints(&mut self, instance: i64, most: u32) -> Vec<EndpointClaim> {
        let now_ms = self.now_ms;
        let mut due: Vec<(u64, usize)> = Vec::new();
        for (number, endpoint) in self.endpoints.iter().enumerate() {
            let next = self.next_of(number).filter(|next| *next <= now_ms);
            let next = next.filter(|_| endpoint.claimed_until <= now_ms);
            due.extend(next.map(|next| (next, number)));
        }
        due.sort_unstable();
        let mut claims = Vec::new();
        for (_, number) in due.into_iter().take(most as usize) {
            let endpoint = &mut self.endpoints[number];
            endpoint.claimed_by = Some(instance);
            endpoint.claimed_until = now_ms + millis(CLAIM_LASTS);
            endpoint.turn += 1;
            claims.push(EndpointClaim {
                endpoint: endpoint.key.clone(),
                number: stored(number),
                turn: endpoint.turn,
                breaker: endpoint.breaker,
            });
        }
        claims
    }

    /// As [`Store::renew_claims`](crate::engine::Store::renew_claims).
    pub fn renew_claims(&mut self, claims: &[EndpointClaim]) -> Vec<bool> {
        let until = self.now_ms + millis(CLAIM_LASTS);
        let renew = |claim: &EndpointClaim| {
            let endpoint = self.claimed(claim.number, claim.turn);
            let endpoint = endpoint.filter(|endpoint| endpoint.claimed_by.is_some());
            endpoint
                .map(|endpoint| endpoint.claimed_until = until)
                .is_some()
        };
        claims.iter().map(renew).collect()
    }

    /// As [`Store::release_endpoints`](crate::engine::Store::release_endpoints).
    pub fn release_endpoints(&mut self, claims: &[EndpointClaim]) {
        for claim in claims {
            if let Some(endpoint) = self.claimed(claim.number, claim.turn) {
                endpoint.claimed_by = None;
                endpoint.claimed_until = 0;
            }
        }
    }

    /// As [`Store::due_events`](crate::engine::Store::due_events).
    pub fn due_events(&mut self, claims: &[EndpointClaim], most: u32) -> Vec<Vec<DueEvent>> {
        let now_ms = self.now_ms;
        let mut all = Vec::new();
        for claim in claims {
            let endpoint = self.claimed(claim.number, claim.turn);
            let is_held = endpoint.is_some_and(|it| it.claimed_until > now_ms && it.off.is_none());
            let mut heads = self.heads();
            heads.retain(|head| {
                is_held && stored(head.endpoint) == claim.number && head.next_ms <= now_ms
            });
            heads.sort_unstable_by_key(|head| (head.next_ms, head.object));
            let due = heads
                .iter()
                .take(most as usize)
                .map(|head| self.due_event(head));
            all.push(due.collect());
        }
        all
    }

    fn due_event(&self, head: &LineHead) -> DueEvent {
        let event = &self.events[&head.id];
        let on_since_ms = self.endpoints[head.endpoint].on_since_ms;
        DueEvent {
            id: head.id,
            line: stored(head.object),
            kind: event.event.key.kind.as_str().to_owned(),
            object: event.event.key.object.clone(),
            status: event.event.key.status.clone(),
            received_ms: event.received_ms,
            waits_since_ms: event.waits_since_ms.expect("it waits").max(on_since_ms),
            attempts: event.attempt_count,
            failed_attempts: event.failed,
            has_conflict: event.has_conflict,
            is_changed: event.is_changed,
            body: event.event.body.clone(),
        }
    }

    /// As [`Store::record_attempts`](crate::engine::Store::record_attempts).
    pub fn record_attempts(&mut self, attempts: &[AttemptRecord]) -> Vec<AttemptVerdict> {
        attempts
            .iter()
            .map(|attempt| self.record(attempt))
            .collect()
    }

    fn record(&mut self, attempt: &AttemptRecord) -> AttemptVerdict {
        let now_ms = self.now_ms;
        let is_claimed = self.claimed(attempt.claim.0, attempt.claim.1).is_some();
        let Some(event) = self.events.get_mut(&attempt.event) else {
            return AttemptVerdict::Forgotten;
        };
        event.attempt_count += 1;
        event.attempts.push((now_ms, attempt.clone()));
        let Some(OwnedEvent { endpoint, .. }) = event.owned else {
            return AttemptVerdict::ClaimLost;
        };
        let is_valid = is_claimed && stored(endpoint) == attempt.claim.0;
        let was_waiting = event.state == EventState::Waiting;
        match attempt.effect {
            AttemptEffect::Delivered => {
                event.state = EventState::Delivered;
                event.next_ms = None;
            }
            AttemptEffect::Retry(delay) if is_valid && was_waiting => {
                event.failed += 1;
                event.next_ms = Some(now_ms + millis(delay));
            }
            AttemptEffect::Dead if is_valid && was_waiting => {
                event.failed += 1;
                event.state = EventState::Dead;
                event.next_ms = None;
            }
            AttemptEffect::EndpointOff(print) if is_valid => {
                let endpoint = &mut self.endpoints[endpoint];
                endpoint.off.get_or_insert(EndpointOffReason::Gone);
                endpoint.gone = Some(print);
            }
            AttemptEffect::Retry(_) | AttemptEffect::Dead | AttemptEffect::EndpointOff(_) => {}
        }
        if !is_valid {
            return AttemptVerdict::ClaimLost;
        }
        self.endpoints[endpoint].breaker = attempt.breaker;
        if was_waiting {
            AttemptVerdict::Recorded
        } else {
            AttemptVerdict::Overtaken
        }
    }

    /// As [`Store::turn_endpoint_off`](crate::engine::Store::turn_endpoint_off).
    pub fn turn_endpoint_off(&mut self, key: &EndpointKey, reason: EndpointOffReason) {
        if let Some(endpoint) = self.endpoints.iter_mut().find(|known| known.key == *key) {
            endpoint.off = Some(reason);
        }
    }

    /// As [`Store::turn_endpoint_on`](crate::engine::Store::turn_endpoint_on).
    pub fn turn_endpoint_on(&mut self, key: &EndpointKey) {
        let now_ms = self.now_ms;
        let is_newest = self.is_newest(&key.tenant);
        let mut endpoints = self.endpoints.iter_mut();
        if let Some(endpoint) = endpoints.find(|known| is_newest && known.key == *key) {
            endpoint.off = None;
            endpoint.on_since_ms = now_ms;
            endpoint.breaker = EndpointBreaker::default();
        }
    }

    pub(super) fn state_of(&self, number: usize) -> EndpointState {
        let endpoint = &self.endpoints[number];
        let of_endpoint = |state: EventState| {
            let events = self.events.values();
            let own = move |event: &&ModelEvent| {
                let owned = event.owned.as_ref();
                event.state == state && owned.is_some_and(|owned| owned.endpoint == number)
            };
            events.filter(own)
        };
        let is_claimed = endpoint.claimed_until > self.now_ms;
        EndpointState {
            endpoint: endpoint.key.clone(),
            off: endpoint.off,
            gone: endpoint.gone,
            breaker: endpoint.breaker,
            next_ms: self.next_of(number),
            claimed_by: endpoint.claimed_by.filter(|_| is_claimed),
            waiting: of_endpoint(EventState::Waiting).count() as u64,
            dead: of_endpoint(EventState::Dead).count() as u64,
            oldest_waiting_ms: of_endpoint(EventState::Waiting)
                .map(|event| event.received_ms)
                .min(),
        }
    }

    /// When an endpoint is to be claimed next.
    fn next_of(&self, number: usize) -> Option<u64> {
        let endpoint = &self.endpoints[number];
        let heads = self.heads();
        let own = heads
            .iter()
            .filter(|head| head.endpoint == number && endpoint.off.is_none());
        let first = own.map(|head| head.next_ms).min();
        first.map(|first| first.max(endpoint.breaker.open_until_ms.unwrap_or(0)))
    }

    /// The heads of all lines: the first event with a rank, or else the first without.
    fn heads(&self) -> Vec<LineHead> {
        let head = |object: usize| {
            let waiting = self.events.iter().filter_map(|(id, event)| {
                let owned = event
                    .owned
                    .as_ref()
                    .filter(|owned| owned.object == object)?;
                let is_waiting = event.state == EventState::Waiting;
                is_waiting.then_some((event.event.rank.is_none(), owned.place, *id))
            });
            let (_, _, id) = waiting.min()?;
            let event = &self.events[&id];
            Some(LineHead {
                object,
                endpoint: event.owned.as_ref()?.endpoint,
                id,
                next_ms: event.next_ms?,
            })
        };
        (0..self.objects.len()).filter_map(head).collect()
    }

    fn claimed(&mut self, number: i64, turn: i64) -> Option<&mut ModelEndpoint> {
        let at = usize::try_from(number - 1).ok()?;
        let endpoint = self.endpoints.get_mut(at)?;
        (endpoint.turn == turn).then_some(endpoint)
    }
}

/// The number of a row in an engine, where numbers count from 1.
fn stored(number: usize) -> i64 {
    i64::try_from(number + 1).unwrap_or(i64::MAX)
}
