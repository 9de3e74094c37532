//! A store in memory, on the paused clock of a test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::notifications::delivery::{
    AttemptEffect, AttemptRecord, AttemptVerdict, CLAIM_LASTS, DueEvent, EndpointBreaker,
    EndpointClaim, EndpointKey, EndpointOffReason, EndpointState,
};
use gatepay_store::notifications::event::{EventId, EventState};
use gatepay_store::notifications::listing::NotificationCounts;
use tokio::time::Instant;

use crate::notify::deliver::delivery_store::{DeliveryStore, NoStoreReply, StoreReply};

pub(super) const START: u64 = 1_767_225_600_000;

/// The rows that all instances share.
pub(super) struct FakeRows {
    began: Instant,
    endpoints: RefCell<Vec<FakeEndpoint>>,
    pub(super) records: RefCell<Vec<AttemptRecord>>,
    next: Cell<i64>,
    /// Whether calls fail.
    pub(super) is_away: Cell<bool>,
    /// Whether attempts are not recorded: the call does not return.
    pub(super) record_hangs: Cell<bool>,
}

struct FakeEndpoint {
    state: EndpointState,
    number: i64,
    turn: i64,
    claimed_until_ms: u64,
    events: Vec<FakeEvent>,
}

struct FakeEvent {
    due: DueEvent,
    state: EventState,
    next_ms: u64,
}

/// The rows as one instance uses them.
#[derive(Clone)]
pub(super) struct FakeStore {
    pub(super) rows: Rc<FakeRows>,
    pub(super) instance: i64,
    /// The body of events that arrive.
    pub(super) body: &'static [u8],
}

/// The endpoint of a tenant, such as `acme`, or one more of it, such as `acme#1`.
pub(super) fn key(endpoint: &str) -> EndpointKey {
    let (tenant, url) = match endpoint.split_once('#') {
        Some((tenant, url)) => (tenant, Some(url.to_owned())),
        None => (endpoint, None),
    };
    EndpointKey {
        tenant: TenantIncarnation {
            tenant: tenant.to_owned(),
            account: format!("account-{tenant}"),
            incarnation: 1,
        },
        url,
    }
}

impl FakeStore {
    pub(super) fn new() -> Self {
        let rows = FakeRows {
            began: Instant::now(),
            endpoints: RefCell::default(),
            records: RefCell::default(),
            next: Cell::new(1),
            is_away: Cell::new(false),
            record_hangs: Cell::new(false),
        };
        Self {
            rows: Rc::new(rows),
            instance: 1,
            body: b"{}",
        }
    }

    /// The same rows, as another instance uses them.
    pub(super) fn of_instance(&self, instance: i64) -> Self {
        Self {
            rows: Rc::clone(&self.rows),
            instance,
            body: self.body,
        }
    }

    fn next(&self) -> i64 {
        self.rows.next.replace(self.rows.next.get() + 1)
    }

    /// An event of an object of its own.
    pub(super) fn arrive(&self, tenant: &str) -> EventId {
        let line = self.next();
        self.arrive_in(tenant, line)
    }

    /// An event of this line.
    pub(super) fn arrive_in(&self, tenant: &str, line: i64) -> EventId {
        let number = self.next();
        let now_ms = self.now_ms();
        let id = EventId::parse(&format!("00000000-0000-7000-8000-{number:012}")).unwrap();
        let due = DueEvent {
            id,
            line,
            kind: "PAY".to_owned(),
            object: line.to_string(),
            status: "PAY_SUCCESS".to_owned(),
            received_ms: now_ms,
            waits_since_ms: now_ms,
            attempts: 0,
            failed_attempts: 0,
            has_conflict: false,
            is_changed: false,
            body: self.body.to_vec(),
        };
        let mut endpoints = self.rows.endpoints.borrow_mut();
        let event = FakeEvent {
            due,
            state: EventState::Waiting,
            next_ms: now_ms,
        };
        let known = endpoints
            .iter_mut()
            .find(|known| known.state.endpoint == key(tenant));
        match known {
            Some(known) => known.events.push(event),
            None => endpoints.push(FakeEndpoint {
                state: EndpointState {
                    endpoint: key(tenant),
                    off: None,
                    gone: None,
                    breaker: EndpointBreaker::default(),
                    next_ms: None,
                    claimed_by: None,
                    waiting: 0,
                    dead: 0,
                    oldest_waiting_ms: None,
                },
                number,
                turn: 0,
                claimed_until_ms: 0,
                events: vec![event],
            }),
        }
        id
    }

    /// Dead events wait again.
    pub(super) fn replay(&self, tenant: &str) {
        let now_ms = self.now_ms();
        self.with(tenant, |endpoint| {
            for event in &mut endpoint.events {
                if event.state == EventState::Dead {
                    event.state = EventState::Waiting;
                    event.next_ms = now_ms;
                    event.due.waits_since_ms = now_ms;
                    event.due.failed_attempts = 0;
                }
            }
        });
    }

    fn with<T>(&self, tenant: &str, act: impl FnOnce(&mut FakeEndpoint) -> T) -> T {
        let mut endpoints = self.rows.endpoints.borrow_mut();
        let mut all = endpoints.iter_mut();
        act(all
            .find(|known| known.state.endpoint == key(tenant))
            .unwrap())
    }

    /// The number of a tenant's events in this state.
    pub(super) fn count(&self, tenant: &str, state: EventState) -> usize {
        self.with(tenant, |endpoint| {
            let events = endpoint.events.iter();
            events.filter(|event| event.state == state).count()
        })
    }

    pub(super) fn off(&self, tenant: &str) -> Option<EndpointOffReason> {
        self.with(tenant, |endpoint| endpoint.state.off)
    }

    pub(super) fn claimed_by(&self, tenant: &str) -> Option<i64> {
        let now_ms = self.now_ms();
        self.with(tenant, |endpoint| {
            let is_claimed = endpoint.claimed_until_ms > now_ms;
            endpoint.state.claimed_by.filter(|_| is_claimed)
        })
    }

    /// Runs a call, unless the store is away.
    fn call<T: 'static>(
        &self,
        act: impl FnOnce(&mut Vec<FakeEndpoint>, u64) -> T,
    ) -> StoreReply<'_, T> {
        let reply = if self.rows.is_away.get() {
            Err(NoStoreReply("away".to_owned()))
        } else {
            Ok(act(&mut self.rows.endpoints.borrow_mut(), self.now_ms()))
        };
        Box::pin(std::future::ready(reply))
    }
}

impl FakeEndpoint {
    fn is_servable(&self, now_ms: u64) -> bool {
        let is_closed = self
            .state
            .breaker
            .open_until_ms
            .is_none_or(|until| until <= now_ms);
        self.state.off.is_none() && is_closed
    }

    fn has(&self, claim: (i64, i64), now_ms: u64) -> bool {
        (self.number, self.turn) == claim && self.claimed_until_ms > now_ms
    }

    /// The heads of due lines, the longest due first.
    fn due(&self, now_ms: u64) -> Vec<&FakeEvent> {
        let (mut lines, mut due) = (BTreeSet::new(), Vec::new());
        // Days of many events are simulated without optimization, where a chain of iterators takes three times as long.
        for event in &self.events {
            let is_head =
                matches!(event.state, EventState::Waiting) && lines.insert(event.due.line);
            if is_head && event.next_ms <= now_ms {
                due.push(event);
            }
        }
        due.sort_by_key(|event| event.next_ms);
        due
    }
}

fn claim_of(endpoint: &FakeEndpoint) -> EndpointClaim {
    EndpointClaim {
        endpoint: endpoint.state.endpoint.clone(),
        number: endpoint.number,
        turn: endpoint.turn,
        breaker: endpoint.state.breaker,
    }
}

fn claim_ends(now_ms: u64) -> u64 {
    now_ms + u64::try_from(CLAIM_LASTS.as_millis()).unwrap()
}

impl DeliveryStore for FakeStore {
    fn now_ms(&self) -> u64 {
        START + u64::try_from(self.rows.began.elapsed().as_millis()).unwrap()
    }

    fn claim_endpoints(&self, most: u32) -> StoreReply<'_, Vec<EndpointClaim>> {
        let instance = self.instance;
        self.call(move |endpoints, now_ms| {
            let is_due = |endpoint: &&mut FakeEndpoint| {
                endpoint.claimed_until_ms <= now_ms
                    && endpoint.is_servable(now_ms)
                    && !endpoint.due(now_ms).is_empty()
            };
            let due = endpoints.iter_mut().filter(is_due).take(most as usize);
            let claimed = due.map(|endpoint| {
                endpoint.turn += 1;
                endpoint.claimed_until_ms = claim_ends(now_ms);
                endpoint.state.claimed_by = Some(instance);
                claim_of(endpoint)
            });
            claimed.collect()
        })
    }

    fn renew_claims<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, Vec<bool>> {
        self.call(|endpoints, now_ms| {
            let renew = |claim: &EndpointClaim| {
                let mut all = endpoints.iter_mut();
                let held = all.find(|known| known.has((claim.number, claim.turn), now_ms));
                held.map(|held| held.claimed_until_ms = claim_ends(now_ms))
                    .is_some()
            };
            claims.iter().map(renew).collect()
        })
    }

    fn release_endpoints<'a>(&'a self, claims: &'a [EndpointClaim]) -> StoreReply<'a, ()> {
        self.call(|endpoints, now_ms| {
            for claim in claims {
                let mut all = endpoints.iter_mut();
                if let Some(held) = all.find(|known| known.has((claim.number, claim.turn), now_ms))
                {
                    held.claimed_until_ms = 0;
                }
            }
        })
    }

    fn due_events<'a>(
        &'a self,
        claims: &'a [EndpointClaim],
        most: u32,
    ) -> StoreReply<'a, Vec<Vec<DueEvent>>> {
        self.call(|endpoints, now_ms| {
            let due = |claim: &EndpointClaim| {
                let mut all = endpoints.iter();
                let held = all.find(|known| known.has((claim.number, claim.turn), now_ms));
                let held = held.filter(|held| held.state.off.is_none());
                let due = held.map(|held| held.due(now_ms)).unwrap_or_default();
                let due = due.into_iter().take(most as usize);
                due.map(|event| event.due.clone()).collect()
            };
            claims.iter().map(due).collect()
        })
    }

    fn record_attempts<'a>(
        &'a self,
        attempts: &'a [AttemptRecord],
    ) -> StoreReply<'a, Vec<AttemptVerdict>> {
        if self.rows.record_hangs.get() {
            return Box::pin(std::future::pending());
        }
        if !self.rows.is_away.get() {
            self.rows
                .records
                .borrow_mut()
                .extend(attempts.iter().cloned());
        }
        self.call(|endpoints, now_ms| {
            attempts
                .iter()
                .map(|attempt| record(endpoints, attempt, now_ms))
                .collect()
        })
    }

    fn turn_endpoint_off<'a>(
        &'a self,
        endpoint: &'a EndpointKey,
        reason: EndpointOffReason,
    ) -> StoreReply<'a, ()> {
        self.call(|endpoints, _| {
            let mut all = endpoints.iter_mut();
            if let Some(known) = all.find(|known| known.state.endpoint == *endpoint) {
                known.state.off = Some(reason);
            }
        })
    }

    fn turn_endpoint_on<'a>(&'a self, endpoint: &'a EndpointKey) -> StoreReply<'a, ()> {
        self.call(|endpoints, now_ms| {
            let mut all = endpoints.iter_mut();
            if let Some(known) = all.find(|known| known.state.endpoint == *endpoint) {
                known.state.off = None;
                known.state.breaker = EndpointBreaker::default();
                for event in &mut known.events {
                    event.due.waits_since_ms = now_ms;
                }
            }
        })
    }

    fn notification_counts(&self) -> StoreReply<'_, NotificationCounts> {
        self.call(|endpoints, now_ms| {
            let count = |endpoint: &FakeEndpoint, state| {
                let events = endpoint.events.iter();
                events.filter(|event| event.state == state).count() as u64
            };
            let states = endpoints.iter().map(|endpoint| {
                let waiting = endpoint.events.iter();
                let waiting = waiting.filter(|event| event.state == EventState::Waiting);
                EndpointState {
                    waiting: count(endpoint, EventState::Waiting),
                    dead: count(endpoint, EventState::Dead),
                    oldest_waiting_ms: waiting.map(|event| event.due.received_ms).min(),
                    ..endpoint.state.clone()
                }
            });
            NotificationCounts {
                quarantined: 0,
                oldest_quarantined_ms: None,
                open_calls: 0,
                endpoints: states.collect(),
                now_ms,
            }
        })
    }

    fn instance(&self) -> i64 {
        self.instance
    }
}

fn record(endpoints: &mut [FakeEndpoint], attempt: &AttemptRecord, now_ms: u64) -> AttemptVerdict {
    let mut all = endpoints.iter_mut();
    let endpoint = all.find(|known| known.number == attempt.claim.0).unwrap();
    let is_held = endpoint.has(attempt.claim, now_ms);
    if is_held {
        endpoint.state.breaker = attempt.breaker;
    }
    let mut events = endpoint.events.iter_mut();
    let event = events.find(|event| event.due.id == attempt.event).unwrap();
    event.due.attempts += 1;
    let is_waiting = event.state == EventState::Waiting;
    match attempt.effect {
        AttemptEffect::Delivered => event.state = EventState::Delivered,
        _ if !is_held || !is_waiting => {}
        AttemptEffect::Retry(delay) => {
            event.due.failed_attempts += 1;
            event.next_ms = now_ms + u64::try_from(delay.as_millis()).unwrap();
        }
        AttemptEffect::Dead => event.state = EventState::Dead,
        AttemptEffect::EndpointOff(url) => {
            endpoint.state.off = Some(EndpointOffReason::Gone);
            endpoint.state.gone = Some(url);
        }
    }
    match (is_held, is_waiting) {
        (false, _) => AttemptVerdict::ClaimLost,
        (true, false) => AttemptVerdict::Overtaken,
        (true, true) => AttemptVerdict::Recorded,
    }
}

/// A time of the test, in milliseconds after its start.
pub(super) fn after(time: Duration) -> u64 {
    START + u64::try_from(time.as_millis()).unwrap()
}
