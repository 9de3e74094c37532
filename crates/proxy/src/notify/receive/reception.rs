//! Reception: verified notifications, from their reading to the store's commit, in batches.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use gatepay_core::notification::Notification;
use gatepay_core::ownership::QuarantineReason;
use gatepay_store::error::StoreError;
use gatepay_store::notifications::event::{
    EventArrival, EventPlacement, MOST_EVENTS, NewEvent, PlacementBasis, ReceiveResult,
};
use gatepay_store::notifications::settlement::ObjectNews;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::owner::placement::{OwnerQuestion, place};
use crate::notify::owner::registered_tenants::RegisteredTenants;
use crate::notify::receive::meters::{ReceptionMeters, ReceptionResult};
use crate::notify::settling::{self, Settling};

/// The most notifications that wait for their batch.
const WAITING: usize = 1_024;
/// How long a notification waits for its commit. GatePay repeats one that was not acknowledged.
pub const WITHIN: Duration = Duration::from_secs(10);

/// The way of verified notifications to the store.
#[derive(Clone)]
pub struct Reception {
    waiting: mpsc::Sender<WaitingNotification>,
    meters: ReceptionMeters,
}

/// The other end of a [`Reception`].
pub struct ReceptionBatches {
    waiting: mpsc::Receiver<WaitingNotification>,
    tenants: Arc<ArcSwapOption<RegisteredTenants>>,
    calls: StoreCalls,
    settling: Settling,
    meters: ReceptionMeters,
    wake: DeliveryWake,
}

/// A notification that waits for its commit.
struct WaitingNotification {
    notification: Notification,
    body: Bytes,
    token: Option<String>,
    stored: oneshot::Sender<ReceptionResult>,
}

/// A reception and its other end.
pub fn reception(
    tenants: Arc<ArcSwapOption<RegisteredTenants>>,
    (calls, settling): (&StoreCalls, &Settling),
    meters: &ReceptionMeters,
    wake: DeliveryWake,
) -> (Reception, ReceptionBatches) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let meters = meters.clone();
    let reception = Reception {
        waiting: sender,
        meters: meters.clone(),
    };
    let batches = ReceptionBatches {
        waiting,
        tenants,
        calls: calls.clone(),
        settling: settling.clone(),
        meters,
        wake,
    };
    (reception, batches)
}

impl Reception {
    /// Stores a notification that GatePay has signed. Returns whether it is committed, now or before.
    pub async fn store(&self, body: Bytes, token: Option<String>) -> bool {
        let notification = Notification::read(&body);
        let kind = notification.kind;
        let (stored, answer) = oneshot::channel();
        let waiting = WaitingNotification {
            notification,
            body,
            token,
            stored,
        };
        // A full queue is answered at once: GatePay repeats the notification.
        let result = match self.waiting.try_send(waiting) {
            Ok(()) => timeout(WITHIN, answer).await.ok().and_then(Result::ok),
            Err(_) => None,
        };
        let result = result.unwrap_or(ReceptionResult::Failed);
        self.meters.received(kind, result);
        result != ReceptionResult::Failed
    }
}

impl ReceptionBatches {
    /// Stores batches until no connection is left.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        let mut was_away = false;
        while self.waiting.recv_many(&mut batch, MOST_EVENTS).await > 0 {
            let batch = mem::take(&mut batch);
            let stored = self.store(&batch).await;
            match &stored {
                Err(error) if !was_away => {
                    tracing::error!(%error, "notifications are not stored: GatePay repeats them");
                }
                Ok(_) if was_away => tracing::info!("notifications are stored again"),
                _ => {}
            }
            was_away = stored.is_err();
            if stored.is_ok() {
                self.wake.wake();
            }
            // Without a result the answer is that nothing is stored.
            for (waiting, result) in batch.into_iter().zip(stored.unwrap_or_default()) {
                if let Some(result) = result {
                    let _gone = waiting.stored.send(result);
                }
            }
        }
    }

    /// Stores a batch in one commit, and in another the outcomes that it proves. `None` for a notification that the store
    /// refuses.
    async fn store(
        &self,
        batch: &[WaitingNotification],
    ) -> Result<Vec<Option<ReceptionResult>>, StoreCallError> {
        let tenants = self.tenants.load_full().ok_or(StoreCallError::NotJoined)?;
        let questions: Vec<OwnerQuestion<'_>> = batch
            .iter()
            .map(|waiting| OwnerQuestion {
                notification: &waiting.notification,
                token: waiting.token.as_deref(),
                proved: None,
            })
            .collect();
        let placements = place(&questions, &tenants, &self.calls).await?;
        // GatePay is never asked before the notification is acknowledged: the quarantine asks.
        let events: Vec<NewEvent> = batch
            .iter()
            .zip(placements)
            .map(|(waiting, placed)| {
                let placement = placed.placement;
                let (body, token) = (waiting.body.to_vec(), waiting.token.clone());
                NewEvent::new(&waiting.notification, body, token, placement)
            })
            .collect();
        let stored: Vec<Option<ReceiveResult>> = match self.receive(events.clone()).await {
            Ok(results) => results.into_iter().map(Some).collect(),
            // One event that the store refuses must not keep the others away.
            Err(error) if is_refusal(&error) && events.len() > 1 => {
                self.receive_singly(&events).await?
            }
            Err(error) => return Err(error),
        };
        // Without the outcomes nothing is acknowledged: GatePay repeats the batch, and a duplicate proves the same.
        self.settling.settle(news(batch, &events, &stored)).await?;
        let reported = batch.iter().zip(&events).zip(stored);
        let report = |((waiting, event), result): ((&WaitingNotification, &NewEvent), _)| {
            let result: Option<ReceiveResult> = result;
            result.map(|result| self.report(&waiting.notification, event, &result))
        };
        Ok(reported.map(report).collect())
    }

    async fn receive(&self, events: Vec<NewEvent>) -> Result<Vec<ReceiveResult>, StoreCallError> {
        let received = self
            .calls
            .call(move |store| async move { store.receive(&events).await });
        received.await
    }

    async fn receive_singly(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<Option<ReceiveResult>>, StoreCallError> {
        let mut stored = Vec::with_capacity(events.len());
        for event in events {
            match self.receive(vec![event.clone()]).await {
                Ok(results) => stored.extend(results.into_iter().map(Some)),
                Err(error) if is_refusal(&error) => {
                    let kind = event.key.kind;
                    tracing::error!(%error, %kind, "the store refuses a notification");
                    stored.push(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(stored)
    }

    fn report(
        &self,
        notification: &Notification,
        event: &NewEvent,
        result: &ReceiveResult,
    ) -> ReceptionResult {
        let (arrival, result) = match result {
            ReceiveResult::Duplicate(_) => return ReceptionResult::Duplicate,
            ReceiveResult::Changed(arrival) => (arrival, ReceptionResult::Changed),
            ReceiveResult::New(arrival) => (arrival, ReceptionResult::New),
        };
        self.meters.decided(decided_by(event, arrival));
        if arrival.has_conflict {
            self.meters.conflicts.inc();
        }
        let tenant = match &event.placement {
            EventPlacement::Tenant { tenant, .. } => Some(tenant.tenant.as_str()),
            EventPlacement::Operators | EventPlacement::Quarantine(_) => None,
        };
        tracing::info!(
            event = %arrival.id, kind = %notification.kind, status = notification.status, tenant,
            state = %arrival.state, conflict = arrival.has_conflict,
            quarantine = arrival.quarantine.map(QuarantineReason::as_str), "notification"
        );
        match notification.fault {
            Some(_) => ReceptionResult::Unreadable,
            None => result,
        }
    }
}

/// The outcomes that stored notifications prove. One that the store has put into quarantine proves none.
fn news(
    batch: &[WaitingNotification],
    events: &[NewEvent],
    stored: &[Option<ReceiveResult>],
) -> Vec<ObjectNews> {
    let mut proved = Vec::new();
    for ((waiting, event), result) in batch.iter().zip(events).zip(stored) {
        let id = match result {
            Some(ReceiveResult::Duplicate(id)) => *id,
            Some(ReceiveResult::New(arrival) | ReceiveResult::Changed(arrival))
                if arrival.quarantine.is_none() =>
            {
                arrival.id
            }
            _ => continue,
        };
        // An operator's calls are for an account, not for the operator.
        if let EventPlacement::Tenant { tenant, by, .. } = &event.placement
            && *by != PlacementBasis::Institution
        {
            proved.extend(settling::news(id, tenant, &waiting.notification));
        }
    }
    proved
}

/// Whether the store answers and refuses the events.
fn is_refusal(error: &StoreCallError) -> bool {
    matches!(
        error,
        StoreCallError::Store(
            StoreError::Refused { .. } | StoreError::Sqlite(_) | StoreError::Unexpected(_)
        )
    )
}

/// The word of a decision for the metric. The store may put an event of a former incarnation into quarantine.
fn decided_by(event: &NewEvent, arrival: &EventArrival) -> &'static str {
    match (&event.placement, arrival.quarantine) {
        (_, Some(reason)) => reason.as_str(),
        (EventPlacement::Quarantine(reason), None) => reason.as_str(),
        (EventPlacement::Operators, None) => "operators",
        (EventPlacement::Tenant { by, .. }, None) => match by {
            PlacementBasis::Hints(strength) => strength.as_str(),
            PlacementBasis::Asked => "asked",
            PlacementBasis::Institution | PlacementBasis::Operator(_) => "operators",
        },
    }
}
