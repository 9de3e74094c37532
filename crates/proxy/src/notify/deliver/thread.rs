//! Thread: `deliver`, which sends notifications to tenants. A thread of its own, so that neither the calls of tenants nor
//! the notifications of GatePay wait for the TLS of deliveries.

use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gatepay_tenancy::notifications::NotificationSettings;
use gatepay_tenancy::settings::MetricsSettings;
use rustls::ClientConfig;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use crate::notify::deliver::delivery_loop::{
    CLAIM_INTERVAL, DeliveryInputs, DeliveryLimits, DeliveryLoop,
};
use crate::notify::deliver::delivery_wake::DeliveryWake;
use crate::notify::deliver::meters::DeliveryMeters;
use crate::notify::deliver::store_deliveries::StoreDeliveries;
use crate::notify::deliver::tenant_target::{
    ConfigurationInForce, SuspendedByHand, TenantDirectory,
};
use crate::notify::endpoint::checked_addresses::SystemResolver;
use crate::notify::endpoint::client::EndpointNetwork;
use crate::notify::operator_news::OperatorNewsQueue;
use crate::process::clock::Clock;
use crate::process::drain::{Drain, DrainPhase};
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
    /// The tenants that are suspended by hand.
    pub suspended: SuspendedByHand,
    /// The process's clock.
    pub clock: Clock,
    /// The metrics.
    pub meters: DeliveryMeters,
    /// Wakes the loop when a notification was stored.
    pub wake: DeliveryWake,
    /// The way of news to the operator that gets notifications.
    pub operators: OperatorNewsQueue,
    /// Whether it is known which credentials tenants have used last.
    pub heard: watch::Receiver<bool>,
    /// The process's drain, and how long it may take.
    pub drain: (Arc<Drain>, Duration),
    /// The trust in the system's authorities.
    pub system_trust: Arc<ClientConfig>,
}

/// How long attempts that are under way may go on once the process finishes.
const FINISH: Duration = Duration::from_secs(5);
/// How long they may go on once the process has nothing else to do.
const LAST: Duration = Duration::from_secs(1);

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
                let (stop, stopped) = watch::channel(None);
                let (drain, deadline) = inputs.drain.clone();
                spawn_local(follow_drain(drain, deadline, stop));
                until_heard(inputs.heard.clone(), stopped.clone()).await;
                DeliveryLoop::new(loop_inputs(inputs, stopped)).run().await;
            });
            runtime.shutdown_background();
        })
}

/// Waits until it is known which credentials tenants have used last, or until the process stops.
async fn until_heard(
    mut heard: watch::Receiver<bool>,
    mut stopped: watch::Receiver<Option<Instant>>,
) {
    tokio::select! {
        _ = heard.wait_for(|heard| *heard) => {}
        _ = stopped.wait_for(Option::is_some) => {}
    }
}

/// Stops the loop when the process finishes its calls in flight.
async fn follow_drain(drain: Arc<Drain>, deadline: Duration, stop: watch::Sender<Option<Instant>>) {
    drain.reached(DrainPhase::Finishing).await;
    let end = drain.cut_at(deadline).min(Instant::now() + FINISH);
    stop.send_replace(Some(end));
    drain.reached(DrainPhase::Over).await;
    stop.send_replace(Some(end.min(Instant::now() + LAST)));
    pending::<()>().await;
}

fn loop_inputs(inputs: DeliverInputs, stop: watch::Receiver<Option<Instant>>) -> DeliveryInputs {
    let settings = &inputs.settings;
    let attempts = settings.attempts_at_once.get();
    let limits = DeliveryLimits {
        attempts_at_once: usize::try_from(attempts).unwrap_or(usize::MAX),
        deadline: settings.deadline,
        claim_interval: CLAIM_INTERVAL,
    };
    let network = EndpointNetwork::new(Arc::new(SystemResolver), inputs.meters.connections.clone());
    let directory = TenantDirectory::new(
        (inputs.in_force, inputs.suspended),
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
        operators: inputs.operators,
        stop,
    }
}
