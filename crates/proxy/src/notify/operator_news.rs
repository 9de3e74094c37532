//! Operator news: notifications of the proxy's own, which tell the operator that gets notifications what needs a look.
//!
//! They are stored as events of the operator's, and so are delivered, repeated, listed and pulled like GatePay's. Metrics
//! and log state the same: news that the process has not stored at its end is lost.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gatepay_core::notification::Notification;
use gatepay_store::notifications::delivery::EndpointKey;
use gatepay_store::notifications::event::{
    EventId, EventPlacement, MOST_EVENTS, NewEvent, PlacementBasis,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::store_calls::StoreCalls;
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::owner::registered_tenants::{INSTITUTION_ACCOUNT, RegisteredTenants};

/// The most news that wait for the store.
const WAITING: usize = 1_024;
/// The pause after the store gave no answer.
const PAUSE: Duration = Duration::from_secs(1);

/// What operators are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorNews {
    /// A notification stays in quarantine: an operator has to assign it.
    Quarantined {
        /// The notification.
        event: EventId,
        /// Why.
        reason: &'static str,
        /// When it came, in milliseconds since 1970.
        received_ms: u64,
    },
    /// A notification is dead: its tenant has not acknowledged it in the whole schedule.
    Dead {
        /// The tenant's endpoint.
        endpoint: EndpointKey,
        /// The notification.
        event: EventId,
        /// The number of its last attempt, which is another one after a replay.
        attempt: u32,
        /// The result of this attempt.
        outcome: String,
    },
    /// A tenant's endpoint answered 410 and is off.
    EndpointOff {
        /// The endpoint.
        endpoint: EndpointKey,
        /// The notification that it answered so.
        event: EventId,
        /// The number of the attempt.
        attempt: u32,
    },
    /// A tenant's endpoint keeps failing: its breaker has opened.
    EndpointFailing {
        /// The endpoint.
        endpoint: EndpointKey,
        /// Since when, in milliseconds since 1970.
        since_ms: u64,
        /// The result of the last attempt.
        outcome: &'static str,
    },
}

/// The way of news to the store.
#[derive(Clone)]
pub struct OperatorNewsQueue(mpsc::Sender<OperatorNews>);

/// The other end of an [`OperatorNewsQueue`].
pub struct OperatorNewsWriter {
    waiting: mpsc::Receiver<OperatorNews>,
    tenants: Arc<ArcSwapOption<RegisteredTenants>>,
    wake: DeliveryWake,
}

/// A queue and its other end.
pub fn queue(
    tenants: &Arc<ArcSwapOption<RegisteredTenants>>,
    wake: &DeliveryWake,
) -> (OperatorNewsQueue, OperatorNewsWriter) {
    let (sender, waiting) = mpsc::channel(WAITING);
    let writer = OperatorNewsWriter {
        waiting,
        tenants: Arc::clone(tenants),
        wake: wake.clone(),
    };
    (OperatorNewsQueue(sender), writer)
}

impl OperatorNewsQueue {
    /// Has operators told. News about the operator's own endpoint would have nowhere to go.
    pub fn tell(&self, news: OperatorNews) {
        if news.is_about_operator() {
            return;
        }
        if self.0.try_send(news).is_err() {
            tracing::warn!("operators are not told: too much news waits for the store");
        }
    }
}

impl OperatorNewsWriter {
    /// Stores news until the last queue is dropped. Without an operator that gets notifications there is nothing to store.
    pub async fn run(mut self, calls: &StoreCalls) {
        let mut batch = Vec::new();
        while self.waiting.recv_many(&mut batch, MOST_EVENTS).await > 0 {
            let batch = std::mem::take(&mut batch);
            let mut was_away = false;
            loop {
                let tenants = self.tenants.load_full();
                let operator = tenants.as_deref().and_then(RegisteredTenants::operator);
                let Some(operator) = operator else {
                    break;
                };
                let placement = EventPlacement::Tenant {
                    tenant: operator.clone(),
                    url: None,
                    by: PlacementBasis::Institution,
                };
                let events: Vec<NewEvent> = batch
                    .iter()
                    .map(|news| news.event(placement.clone()))
                    .collect();
                let stored = calls.call(move |store| async move { store.receive(&events).await });
                match stored.await {
                    Ok(_) => {
                        self.wake.wake();
                        break;
                    }
                    Err(error) if !was_away => {
                        tracing::warn!(%error, "news for operators waits for the store");
                        was_away = true;
                    }
                    Err(_) => {}
                }
                sleep(PAUSE).await;
            }
        }
    }
}

impl OperatorNews {
    fn is_about_operator(&self) -> bool {
        match self {
            Self::Quarantined { .. } => false,
            Self::Dead { endpoint, .. }
            | Self::EndpointOff { endpoint, .. }
            | Self::EndpointFailing { endpoint, .. } => {
                endpoint.tenant.account == INSTITUTION_ACCOUNT
            }
        }
    }

    /// The `bizType`, which GatePay does not use, and the status.
    const fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::Quarantined { .. } => ("PROXY_NOTIFICATION", "QUARANTINED"),
            Self::Dead { .. } => ("PROXY_NOTIFICATION", "DEAD"),
            Self::EndpointOff { .. } => ("PROXY_ENDPOINT", "OFF"),
            Self::EndpointFailing { .. } => ("PROXY_ENDPOINT", "FAILING"),
        }
    }

    /// What it is about: a notification's id, or a tenant's.
    fn subject(&self) -> String {
        match self {
            Self::Quarantined { event, .. } | Self::Dead { event, .. } => event.to_string(),
            Self::EndpointOff { endpoint, .. } | Self::EndpointFailing { endpoint, .. } => {
                endpoint.tenant.tenant.clone()
            }
        }
    }

    fn data(&self) -> Value {
        // A query may hold a tenant's secret.
        let url = |endpoint: &EndpointKey| {
            let url = endpoint.url.as_deref();
            url.and_then(|url| url.split('?').next()).map(str::to_owned)
        };
        match self {
            Self::Quarantined {
                event,
                reason,
                received_ms,
            } => {
                json!({ "notification": event.to_string(), "reason": reason, "received": received_ms })
            }
            Self::Dead {
                endpoint,
                event,
                attempt,
                outcome,
            } => json!({
                "notification": event.to_string(), "tenant": endpoint.tenant.tenant, "url": url(endpoint),
                "attempt": attempt, "outcome": outcome,
            }),
            Self::EndpointOff {
                endpoint,
                event,
                attempt,
            } => json!({
                "notification": event.to_string(), "tenant": endpoint.tenant.tenant, "url": url(endpoint),
                "attempt": attempt,
            }),
            Self::EndpointFailing {
                endpoint,
                since_ms,
                outcome,
            } => json!({
                "tenant": endpoint.tenant.tenant, "url": url(endpoint), "since": since_ms, "outcome": outcome,
            }),
        }
    }

    /// The news in the shape of GatePay's notifications. The same news has the same bytes, and so is stored once.
    fn body(&self) -> Vec<u8> {
        let (kind, status) = self.kind();
        let body = json!({
            "bizType": kind, "bizId": self.subject(), "bizStatus": status, "data": self.data().to_string(),
        });
        body.to_string().into_bytes()
    }

    fn event(&self, placement: EventPlacement) -> NewEvent {
        let body = self.body();
        let (kind, status) = self.kind();
        let mut event = NewEvent::new(&Notification::read(&body), body, None, placement);
        // No key of the ledger is meant.
        event.hints.clear();
        event.key.object = format!("{kind} {}", self.subject());
        status.clone_into(&mut event.key.status);
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_core::ownership::TenantIncarnation;

    fn endpoint(account: &str) -> EndpointKey {
        EndpointKey {
            tenant: TenantIncarnation {
                tenant: "acme".to_owned(),
                account: account.to_owned(),
                incarnation: 1,
            },
            url: Some("https://shop.example/hook?key=hunter22".to_owned()),
        }
    }

    fn dead(account: &str, attempt: u32) -> OperatorNews {
        OperatorNews::Dead {
            endpoint: endpoint(account),
            event: EventId::parse("018f0000-0000-7000-8000-000000000000").unwrap(),
            attempt,
            outcome: "refused_status".to_owned(),
        }
    }

    #[test]
    fn the_same_news_is_one_event_and_the_next_death_another() {
        let of = |news: OperatorNews| news.event(EventPlacement::Operators).key;
        assert_eq!(of(dead("1", 20)), of(dead("1", 20)));
        assert!(of(dead("1", 40)).same_news(&of(dead("1", 20))));
        assert_ne!(of(dead("1", 40)), of(dead("1", 20)));
    }

    #[test]
    fn news_has_gatepays_shape_and_no_query_of_a_tenants_url() {
        let body: Value = serde_json::from_slice(&dead("1", 20).body()).unwrap();
        assert_eq!(body["bizType"], "PROXY_NOTIFICATION");
        assert_eq!(body["bizStatus"], "DEAD");
        let data: Value = serde_json::from_str(body["data"].as_str().unwrap()).unwrap();
        assert_eq!(data["url"], "https://shop.example/hook");
        assert_eq!(data["tenant"], "acme");
        assert!(!body.to_string().contains("hunter22"));
    }

    #[tokio::test]
    async fn the_operators_own_endpoint_causes_no_news() {
        let (queue, mut writer) = queue(&Arc::default(), &DeliveryWake::default());
        queue.tell(dead(INSTITUTION_ACCOUNT, 20));
        queue.tell(dead("1", 20));
        assert_eq!(writer.waiting.try_recv(), Ok(dead("1", 20)));
        assert!(writer.waiting.try_recv().is_err());
    }
}
