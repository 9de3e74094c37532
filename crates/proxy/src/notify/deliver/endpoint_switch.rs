//! Endpoint switch: turns endpoints off and on in the store, as the configuration in force and the parties' standing say,
//! and shows the figures of all endpoints.
//!
//! The events of an endpoint that is off wait. Without the switch, the endpoint of a suspended tenant would be claimed
//! again and again.

use std::collections::HashMap;
use std::time::Duration;

use gatepay_store::notifications::delivery::{EndpointKey, EndpointOffReason, EndpointState};
use tokio::time::Instant;

use crate::notify::deliver::delivery_store::{DeliveryStore, NoStoreReply};
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::deliver::target::{DeliveryHold, TargetDirectory};

/// The interval of comparisons.
const INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two comparisons.
const SHORTEST: Duration = Duration::from_secs(1);

/// The switch of all endpoints.
#[derive(Default)]
pub(super) struct EndpointSwitch {
    last: Option<Instant>,
    is_wanted: bool,
    /// Each endpoint as the last comparison found it in the configuration: the print of its URL, or nothing if it is on
    /// hold.
    known: HashMap<EndpointKey, Option<u64>>,
}

impl EndpointSwitch {
    /// An endpoint was found on hold.
    pub(super) fn compare_soon(&mut self) {
        self.is_wanted = true;
    }

    /// An attempt begins at an endpoint that may be new.
    pub(super) fn note(&mut self, endpoint: &EndpointKey, directory: &dyn TargetDirectory) {
        if !self.known.contains_key(endpoint) {
            let print = directory.url_print(endpoint);
            self.known.insert(endpoint.clone(), print);
        }
    }

    /// Whether it is time to compare.
    pub(super) fn is_due(&self) -> bool {
        let interval = if self.is_wanted { SHORTEST } else { INTERVAL };
        self.last.is_none_or(|last| last.elapsed() >= interval)
    }

    /// Compares all endpoints of the store with the configuration in force.
    pub(super) async fn compare(
        &mut self,
        store: &dyn DeliveryStore,
        directory: &dyn TargetDirectory,
        meters: &DeliveryMeters,
    ) -> Result<(), NoStoreReply> {
        self.last = Some(Instant::now());
        self.is_wanted = false;
        let counts = store.notification_counts().await?;
        meters.show(&counts, &directory.own_series());
        let mut known = HashMap::with_capacity(counts.endpoints.len());
        for state in &counts.endpoints {
            let hold = directory.target(&state.endpoint).err();
            let print = match hold {
                None => directory.url_print(&state.endpoint),
                Some(_) => None,
            };
            let has_changed = self.known.get(&state.endpoint) != Some(&print);
            let reason = hold.map(reason_of);
            if let Some(reason) = reason.filter(|reason| turns_off(state, *reason)) {
                store.turn_endpoint_off(&state.endpoint, reason).await?;
            } else if hold.is_none() && has_changed && turns_on(state) {
                store.turn_endpoint_on(&state.endpoint).await?;
            }
            known.insert(state.endpoint.clone(), print);
        }
        self.known = known;
        Ok(())
    }
}

/// An endpoint that answered 410 is tried again once its URL has changed, and after a start of the process: the URL may have
/// changed meanwhile.
fn turns_on(state: &EndpointState) -> bool {
    match state.off {
        Some(
            EndpointOffReason::Gone
            | EndpointOffReason::Removed
            | EndpointOffReason::Suspended
            | EndpointOffReason::NoCredential,
        ) => true,
        Some(EndpointOffReason::Operator) | None => false,
    }
}

/// An endpoint that is off shows the present hold, unless it has answered 410 or an operator has turned it off.
fn turns_off(state: &EndpointState, reason: EndpointOffReason) -> bool {
    match state.off {
        None => true,
        Some(EndpointOffReason::Gone | EndpointOffReason::Operator) => false,
        Some(present) => present != reason,
    }
}

fn reason_of(hold: DeliveryHold) -> EndpointOffReason {
    match hold {
        DeliveryHold::NoEndpoint => EndpointOffReason::Removed,
        DeliveryHold::Suspended => EndpointOffReason::Suspended,
        DeliveryHold::NoCredential => EndpointOffReason::NoCredential,
    }
}
