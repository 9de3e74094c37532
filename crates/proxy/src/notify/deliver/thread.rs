//! Thread: `deliver`, which sends notifications to tenants. A thread of its own, so that neither the calls of tenants nor
//! the notifications of GatePay wait for the TLS of deliveries.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use gatepay_tenancy::notifications::NotificationSettings;
use gatepay_tenancy::settings::MetricsSettings;
use rustls::ClientConfig;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::notify::deliver::delivery_loop::{
    CLAIM_INTERVAL, DeliveryInputs, DeliveryLimits, DeliveryLoop,
};
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::deliver::store_deliveries::StoreDeliveries;
use crate::notify::deliver::tenant_target::{ConfigurationInForce, TenantDirectory};
use crate::notify::endpoint::checked_addresses::SystemResolver;
use crate::notify::endpoint::client::EndpointNetwork;
use crate::process::clock::Clock;
use crate::tls::config;

/// What the thread needs of the process.
pub struct DeliverInputs {
    /// The settings of notifications.
    pub settings: Arc<NotificationSettings>,
    /// The settings of metrics, which name the number of tenants with series of their own.
    pub metrics: MetricsSettings,
    /// The store.
    pub store: StoreDeliveries,
    /// The configuration in force.
    pub in_force: ConfigurationInForce,
    /// The process's clock.
    pub clock: Clock,
    /// The metrics.
    pub meters: DeliveryMeters,
    /// Wakes the loop when a notification was stored.
    pub wake: DeliveryWake,
    /// The end of the process: once it is set, nothing more is begun, and at this time attempts are abandoned.
    pub stop: watch::Receiver<Option<Instant>>,
    /// The trust in the system's authorities.
    pub system_trust: Arc<ClientConfig>,
}

/// The trust in the system's authorities, for endpoints without certificates of their own.
pub fn system_trust() -> Result<Arc<ClientConfig>, String> {
    config::client(None)
}

/// Starts the thread. It ends once its attempts have ended, or were abandoned, and its claims are given up.
pub fn start(inputs: DeliverInputs) -> std::io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("deliver".into())
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async {
                DeliveryLoop::new(loop_inputs(inputs)).run().await;
            });
            runtime.shutdown_background();
        })
}

fn loop_inputs(inputs: DeliverInputs) -> DeliveryInputs {
    let settings = &inputs.settings;
    let attempts = settings.attempts_at_once.get();
    let limits = DeliveryLimits {
        attempts_at_once: usize::try_from(attempts).unwrap_or(usize::MAX),
        deadline: settings.deadline,
        claim_interval: CLAIM_INTERVAL,
    };
    let network = EndpointNetwork::new(Arc::new(SystemResolver), inputs.meters.connections.clone());
    let directory = TenantDirectory::new(
        inputs.in_force,
        inputs.clock,
        settings.endpoints.clone(),
        inputs.metrics,
        (network, inputs.system_trust),
    );
    DeliveryInputs {
        store: Rc::new(inputs.store),
        directory: Rc::new(directory),
        limits,
        meters: inputs.meters,
        wake: inputs.wake,
        stop: inputs.stop,
    }
}
