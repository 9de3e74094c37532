//! Endpoint switch: turns endpoints off and on in the store, as the configuration in force and the parties' standing say,
//! and shows the figures of all endpoints.
//!
//! The events of an endpoint that is off wait. Without the switch, the endpoint of a suspended tenant would be claimed
//! again and again.

use std::time::Duration;

use gatepay_store::notifications::delivery::{EndpointOffReason, EndpointState};
use tokio::time::Instant;

use crate::notify::deliver::delivery_store::{DeliveryStore, NoStoreReply};
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::deliver::target::{DeliveryHold, DeliveryTarget, TargetDirectory};

/// The interval of comparisons.
const INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two comparisons.
const SHORTEST: Duration = Duration::from_secs(1);

/// The switch of all endpoints.
#[derive(Default)]
pub(super) struct EndpointSwitch {
    last: Option<Instant>,
    is_wanted: bool,
}

impl EndpointSwitch {
    /// An endpoint was found on hold, or has just been turned off.
    pub(super) fn compare_soon(&mut self) {
        self.is_wanted = true;
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
        for state in &counts.endpoints {
            match directory.target(&state.endpoint) {
                Err(hold) => {
                    let reason = reason_of(hold);
                    if turns_off(state, reason) {
                        store.turn_endpoint_off(&state.endpoint, reason).await?;
                    }
                }
                Ok(target) if turns_on(state, &*target) => {
                    store.turn_endpoint_on(&state.endpoint).await?;
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

/// An endpoint that answered 410 is tried again once its URL is another one than that which answered so.
fn turns_on(state: &EndpointState, target: &dyn DeliveryTarget) -> bool {
    match state.off {
        Some(EndpointOffReason::Gone) => state.gone != Some(target.url_print()),
        Some(
            EndpointOffReason::Removed
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
