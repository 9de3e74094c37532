//! Delivery loop: claims due endpoints, sends the heads of their lines, and records the results.
//!
//! One task does all this: no two attempts of one line are ever under way, and the results of many attempts are recorded in
//! one transaction. Attempts run beside it; no transaction is open while HTTP runs. If the process ends between an
//! attempt and its record, the notification is sent again, with the same id.

use std::collections::HashMap;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use gatepay_store::notifications::delivery::{
    CLAIM_LASTS, DueEvent, EndpointClaim, EndpointKey, UrlPrint,
};
use gatepay_store::notifications::event::MOST_EVENTS;
use gatepay_tenancy::notifications::NotificationSettings;
use tokio::sync::watch;
use tokio::task::{Id as TaskId, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::notify::deliver::attempt::AttemptResult;
use crate::notify::deliver::delivery_store::{DeliveryStore, NoStoreReply};
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::deliver::ended_attempts::{self, EndedAttempt, EndedAttempts};
use crate::notify::deliver::endpoint_switch::EndpointSwitch;
use crate::notify::deliver::held_claims::HeldClaims;
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::deliver::target::{DeliveryTarget, TargetDirectory};
use crate::notify::operator_news::OperatorNewsQueue;

/// The interval at which due endpoints are claimed, if nothing wakes the loop before.
pub const CLAIM_INTERVAL: Duration = Duration::from_millis(300);
/// How long after a notification arrives the loop waits for others, to claim for all of them at once.
const GATHER: Duration = Duration::from_millis(5);
/// The pause after a call to the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// A claim is renewed when less time is left of it than an attempt takes, and this.
const RENEW_BEFORE: Duration = Duration::from_secs(8);
/// The time of a claim that is kept free at its end, since instances' clocks and the network differ.
const CLAIM_MARGIN: Duration = Duration::from_secs(2);
/// The bytes of bodies under way from which on no further attempt begins.
pub const BODY_BYTES: usize = 64 << 20;
/// The time to record the last results and to release claims at the end.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// The longest attempt that the configuration allows is not cut short.
const _: () = assert!(
    NotificationSettings::LONGEST_DEADLINE.as_millis() + RENEW_BEFORE.as_millis()
        <= CLAIM_LASTS.as_millis()
);

/// The limits of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// Attempts at the same time, to all endpoints together.
    pub attempts_at_once: usize,
    /// How long one attempt may take.
    pub deadline: Duration,
    /// The interval at which due endpoints are claimed.
    pub claim_interval: Duration,
}

impl DeliveryLimits {
    /// The most attempts at the same time to one endpoint that takes `at_once`: never more than a tenth of all.
    pub fn of_endpoint(&self, at_once: usize) -> usize {
        at_once.min(self.attempts_at_once / 10).max(1)
    }

    /// The most attempts at the same time to all endpoints of one tenant, beside a number of attempts of others: a tenth of
    /// what these leave.
    pub fn of_tenant(&self, others: usize) -> usize {
        (self.attempts_at_once.saturating_sub(others) / 10).max(1)
    }

    /// The time limit of an attempt. It ends within the claim under which it began.
    fn attempt(&self) -> Duration {
        self.deadline.min(CLAIM_LASTS.saturating_sub(RENEW_BEFORE))
    }
}

/// What the loop works with.
pub struct DeliveryInputs {
    /// The store.
    pub store: Rc<dyn DeliveryStore>,
    /// The tenants' endpoints.
    pub directory: Rc<dyn TargetDirectory>,
    /// The limits.
    pub limits: DeliveryLimits,
    /// The metrics.
    pub meters: DeliveryMeters,
    /// Wakes the loop when a notification was stored.
    pub wake: DeliveryWake,
    /// The way of news to the operator that gets notifications.
    pub operators: OperatorNewsQueue,
    /// The end of the process: once it is set, nothing more is begun, and at this time attempts are abandoned.
    pub stop: watch::Receiver<Option<Instant>>,
}

/// An attempt under way.
struct AttemptUnderWay {
    endpoint: EndpointKey,
    /// The claim's number and turn.
    claim: (i64, i64),
    /// The event, without its body.
    event: DueEvent,
    began: Instant,
    /// The print of the URL.
    url: UrlPrint,
    /// The length of the body.
    bytes: usize,
}

/// The loop with its state.
pub struct DeliveryLoop {
    inputs: DeliveryInputs,
    claims: HeldClaims,
    attempts: JoinSet<Option<AttemptResult>>,
    /// What is under way, by its task.
    under_way: HashMap<TaskId, AttemptUnderWay>,
    /// The bytes of the bodies of these.
    body_bytes: usize,
    ended: EndedAttempts,
    switch: EndpointSwitch,
    /// When endpoints are claimed next.
    next_claim: Instant,
    /// Whether the last call to the store failed.
    store_failed: bool,
    /// Whether the store has ever answered. Before, the log of the thread `store` says why it does not.
    was_heard: bool,
}

impl DeliveryLoop {
    /// A loop without claims.
    pub fn new(inputs: DeliveryInputs) -> Self {
        let ended = EndedAttempts::new(inputs.operators.clone());
        Self {
            inputs,
            claims: HeldClaims::default(),
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            body_bytes: 0,
            ended,
            switch: EndpointSwitch::default(),
            next_claim: Instant::now(),
            store_failed: false,
            was_heard: false,
        }
    }

    /// Delivers until the process stops. Runs in a `LocalSet`.
    pub async fn run(mut self) {
        let mut stop = self.inputs.stop.clone();
        let end = loop {
            if let Some(end) = *stop.borrow_and_update() {
                break end;
            }
            self.turn().await;
            tokio::select! {
                () = self.news() => {}
                stopped = stop.changed() => if stopped.is_err() {
                    break Instant::now();
                },
            }
        };
        self.drain(end).await;
    }

    /// One turn: record, claim, send, release.
    async fn turn(&mut self) {
        self.gather_ended();
        self.record().await;
        if Instant::now() >= self.next_claim {
            self.next_claim = Instant::now() + self.inputs.limits.claim_interval;
            self.renew().await;
            self.claim().await;
            self.claims.look_at_all();
            self.compare().await;
            self.inputs.directory.tidy();
        }
        self.send().await;
        self.release().await;
    }

    /// Waits for the end of an attempt, a stored notification, or the next claim.
    async fn news(&mut self) {
        let has_work = self.claims.wants_look() && self.has_room() || !self.ended.is_empty();
        if has_work && !self.store_failed {
            return;
        }
        let first = async {
            match self.attempts.join_next_with_id().await {
                Some(ended) => ended,
                None => pending().await,
            }
        };
        tokio::select! {
            ended = first => self.judge(ended),
            () = self.inputs.wake.woken() => {
                self.next_claim = self.next_claim.min(Instant::now() + GATHER);
            }
            () = sleep_until(self.next_claim) => {}
        }
        if self.store_failed {
            self.next_claim = Instant::now() + STORE_PAUSE;
            sleep_until(self.next_claim).await;
        }
    }

    fn has_room(&self) -> bool {
        self.attempts.len() < self.inputs.limits.attempts_at_once && self.body_bytes < BODY_BYTES
    }

    /// Takes the attempts that have ended.
    fn gather_ended(&mut self) {
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.judge(ended);
        }
    }

    fn judge(&mut self, ended: Result<(TaskId, Option<AttemptResult>), JoinError>) {
        let (id, result) = match ended {
            Ok(ended) => ended,
            // A panic in an attempt is a failure of that attempt alone.
            Err(error) => (error.id(), error.is_panic().then(AttemptResult::panicked)),
        };
        let Some(begun) = self.under_way.remove(&id) else {
            return;
        };
        let AttemptUnderWay {
            endpoint,
            claim,
            event,
            began,
            url,
            bytes,
        } = begun;
        self.body_bytes -= bytes;
        let took = began.elapsed();
        let inputs = &self.inputs;
        inputs.meters.attempt_seconds.observe(took.as_secs_f64());
        let ended = EndedAttempt {
            endpoint,
            claim,
            event,
            result,
            took,
            url,
        };
        self.ended
            .push(ended, &mut self.claims, &*inputs.store, &inputs.meters);
    }

    /// Records the attempts that have ended.
    async fn record(&mut self) {
        while !self.ended.is_empty() {
            let batch = self.ended.next(MOST_EVENTS);
            let recorded = self.inputs.store.record_attempts(&batch).await;
            if !self.heard(&recorded) {
                return;
            }
            let verdicts = recorded.unwrap_or_default();
            let meters = &self.inputs.meters;
            let is_gone = self
                .ended
                .recorded(batch.len(), &verdicts, &mut self.claims, meters);
            if is_gone {
                self.switch.compare_soon();
            }
        }
    }

    /// Turns endpoints off and on, now and then.
    async fn compare(&mut self) {
        if self.switch.is_due() {
            let inputs = &self.inputs;
            let (store, directory) = (&*inputs.store, &*inputs.directory);
            let compared = self.switch.compare(store, directory, &inputs.meters).await;
            self.heard(&compared);
        }
    }

    async fn renew(&mut self) {
        let left = self.inputs.limits.attempt() + RENEW_BEFORE;
        let claims = self.claims.ending_within(left);
        if claims.is_empty() {
            return;
        }
        let began = Instant::now();
        let renewed = self.inputs.store.renew_claims(&claims).await;
        if self.heard(&renewed) {
            let renewed = renewed.unwrap_or_default();
            self.claims.renewed(&claims, &renewed, began + CLAIM_LASTS);
        }
    }

    async fn claim(&mut self) {
        let limits = self.inputs.limits;
        let counted = self.claims.counted(|others| limits.of_tenant(others));
        let room = limits.attempts_at_once.saturating_sub(counted);
        let Some(most) = u32::try_from(room).ok().filter(|room| *room > 0) else {
            return;
        };
        let began = Instant::now();
        let claimed = self.inputs.store.claim_endpoints(most).await;
        if self.heard(&claimed) {
            self.claims
                .add(claimed.unwrap_or_default(), began + CLAIM_LASTS);
        }
    }

    /// Begins attempts for due events, as many as the limits allow.
    async fn send(&mut self) {
        let limits = self.inputs.limits;
        let margin = limits.attempt() + CLAIM_MARGIN;
        while self.has_room() {
            let now_ms = self.inputs.store.now_ms();
            let directory = Rc::clone(&self.inputs.directory);
            let at_once = |endpoint: &EndpointKey| {
                let target = directory.target(endpoint);
                target.map_or(0, |target| limits.of_endpoint(target.at_once()))
            };
            let of_tenant = |others| limits.of_tenant(others);
            let looked = self
                .claims
                .next_to_look_at(at_once, of_tenant, now_ms, margin);
            let Some((claims, most)) = looked else {
                return;
            };
            let due = self.inputs.store.due_events(&claims, most).await;
            if !self.heard(&due) {
                for claim in &claims {
                    self.claims.look_again(claim.number);
                }
                return;
            }
            for (claim, events) in claims.iter().zip(due.unwrap_or_default()) {
                self.begin_attempts(claim, events);
            }
        }
    }

    fn begin_attempts(&mut self, claim: &EndpointClaim, events: Vec<DueEvent>) {
        let (limits, number) = (self.inputs.limits, claim.number);
        if self.claims.is_expiring(number, self.inputs.store.now_ms()) {
            self.expire(claim, events);
            return;
        }
        self.claims.looked(number, !events.is_empty());
        for event in events {
            // The configuration of this moment: a reload holds for the next attempt.
            let Ok(target) = self.inputs.directory.target(&claim.endpoint) else {
                self.claims.looked(number, false);
                self.switch.compare_soon();
                return;
            };
            if !self.has_room() {
                self.claims.look_again(number);
                return;
            }
            let at_once = limits.of_endpoint(target.at_once());
            let now_ms = self.inputs.store.now_ms();
            let most = (at_once, |others| limits.of_tenant(others));
            if let Some(turn) = self.claims.begin(number, event.line, most, now_ms) {
                self.begin_attempt(target, event, (number, turn), claim.endpoint.clone());
            }
        }
    }

    /// Ends the events that are too old. The breaker pauses after a failed probe, so that none is begun.
    fn expire(&mut self, claim: &EndpointClaim, mut events: Vec<DueEvent>) {
        let now_ms = self.inputs.store.now_ms();
        events.retain(|event| ended_attempts::is_too_old(event, now_ms));
        self.claims.looked(claim.number, !events.is_empty());
        for event in events {
            if let Some(turn) = self.claims.expire(claim.number, event.line) {
                let (claim_of, endpoint) = ((claim.number, turn), claim.endpoint.clone());
                self.ended.expire(
                    endpoint,
                    claim_of,
                    event,
                    &*self.inputs.store,
                    claim.breaker,
                );
            }
        }
    }

    fn begin_attempt(
        &mut self,
        target: Rc<dyn DeliveryTarget>,
        mut event: DueEvent,
        claim: (i64, i64),
        endpoint: EndpointKey,
    ) {
        let began = Instant::now();
        let deadline = began + self.inputs.limits.attempt();
        let stop = self.inputs.stop.clone();
        let body = std::mem::take(&mut event.body);
        let (bytes, url) = (body.len(), target.url_print());
        let sent = DueEvent {
            body,
            ..event.clone()
        };
        let task = self.attempts.spawn_local(async move {
            unless_stopped(target.attempt(&sent, deadline), stop).await
        });
        self.body_bytes += bytes;
        let begun = AttemptUnderWay {
            endpoint,
            claim,
            event,
            began,
            url,
            bytes,
        };
        self.under_way.insert(task.id(), begun);
    }

    /// Gives up the claims under which nothing is due and nothing is under way.
    async fn release(&mut self) {
        let idle = self.claims.idle();
        if idle.is_empty() {
            return;
        }
        let released = self.inputs.store.release_endpoints(&idle).await;
        // If this fails, the claims end by themselves.
        let _ = self.heard(&released);
        self.claims.remove(&idle);
    }

    /// Waits for the attempts under way until `end`, abandons the rest, and gives up all claims.
    async fn drain(mut self, end: Instant) {
        while let Ok(Some(ended)) =
            timeout_at(end + LAST_CALLS / 4, self.attempts.join_next_with_id()).await
        {
            self.judge(ended);
            self.gather_ended();
            self.record().await;
        }
        self.attempts.abort_all();
        let claims = self.claims.all();
        let last_calls = async {
            self.record().await;
            let _ended_by_themselves = self.inputs.store.release_endpoints(&claims).await;
        };
        let _late = timeout_at(Instant::now().max(end) + LAST_CALLS, last_calls).await;
    }

    /// Whether the store answered. Logs the first call that failed, and the first that succeeded again.
    fn heard<T>(&mut self, reply: &Result<T, NoStoreReply>) -> bool {
        match reply {
            Ok(_) if self.store_failed && self.was_heard => {
                tracing::info!("the store answers deliveries again");
            }
            Err(error) if !self.store_failed && self.was_heard => {
                tracing::error!(%error, "the store does not answer: notifications are not delivered until it does");
            }
            Ok(_) | Err(_) => {}
        }
        self.was_heard |= reply.is_ok();
        self.store_failed = reply.is_err();
        reply.is_ok()
    }
}

/// The result of an attempt; `None` if the process ends before.
async fn unless_stopped(
    attempt: impl Future<Output = AttemptResult>,
    mut stop: watch::Receiver<Option<Instant>>,
) -> Option<AttemptResult> {
    let stopped = async {
        loop {
            let end = *stop.borrow_and_update();
            match end {
                Some(end) => return sleep_until(end).await,
                None if stop.changed().await.is_err() => return pending().await,
                None => {}
            }
        }
    };
    tokio::select! {
        biased;
        result = attempt => Some(result),
        () = stopped => None,
    }
}
