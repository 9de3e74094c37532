//! Test delivery: a signed test event to a tenant's endpoint, at an operator's order.
//!
//! It goes the way of a real delivery: the same address check, credential, signature and judgment of the answer. It is no
//! event: the store does not have it, no metric counts it, and it neither waits for the endpoint's breaker nor changes it.

use std::sync::Arc;
use std::time::Duration;

use gatepay_store::notifications::delivery::{DueEvent, EndpointKey};
use gatepay_store::notifications::event::EventId;
use gatepay_tenancy::notifications::NotificationSettings;
use gatepay_tenancy::settings::MetricsSettings;
use prometheus::IntGauge;
use serde_json::json;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::generation::Generation;
use crate::notify::deliver::attempt::AttemptResult;
use crate::notify::deliver::target::DeliveryHold;
use crate::notify::deliver::tenant_target::{TenantDirectory, TenantTarget};
use crate::notify::deliver::thread::system_trust;
use crate::notify::endpoint::checked_addresses::SystemResolver;
use crate::notify::endpoint::client::EndpointNetwork;
use crate::process::clock::{self, Clock};

/// The `bizType` of a test event, which GatePay does not use.
pub const TEST_KIND: &str = "PROXY_TEST";

/// What a test delivery needs of the process.
pub struct TestInputs {
    /// The configuration in force.
    pub generation: Arc<Generation>,
    /// Whether the tenant is suspended by hand.
    pub is_suspended: bool,
    /// The settings of notifications.
    pub settings: NotificationSettings,
    /// The settings of metrics.
    pub metrics: MetricsSettings,
    /// The process's clock.
    pub clock: Clock,
}

/// A test event that was sent, or was to be sent.
pub struct TestDelivery {
    /// The event's id.
    pub event: EventId,
    /// The client id of the credential that signed it.
    pub client_id: String,
    /// The body as the tenant gets it.
    pub body: Vec<u8>,
    /// The result.
    pub result: AttemptResult,
    /// How long it took.
    pub took: Duration,
}

/// Sends a test event to an endpoint, on the calling thread. An error says why the runtime or the system's authorities are
/// not there.
pub fn send(
    inputs: &TestInputs,
    endpoint: &EndpointKey,
) -> Result<Result<TestDelivery, DeliveryHold>, String> {
    let directory = directory(inputs)?;
    let target = match directory.tenant_target(endpoint) {
        Ok(target) => target,
        Err(hold) => return Ok(Err(hold)),
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let deadline = inputs.settings.deadline;
    let sent = LocalSet::new().block_on(&runtime, attempt(inputs, &target, deadline));
    // A look-up of the system's resolver cannot be stopped.
    runtime.shutdown_background();
    Ok(sent.ok_or(DeliveryHold::NoCredential))
}

/// Why nothing is sent to an endpoint, if it is on hold.
pub fn hold(inputs: &TestInputs, endpoint: &EndpointKey) -> Result<Option<DeliveryHold>, String> {
    Ok(directory(inputs)?.tenant_target(endpoint).err())
}

fn directory(inputs: &TestInputs) -> Result<TenantDirectory, String> {
    let (generation, is_suspended) = (Arc::clone(&inputs.generation), inputs.is_suspended);
    // A gauge of its own: the metric has the connections of deliveries.
    let open = IntGauge::new("test_delivery_connections", "Not shown.");
    let open = open.map_err(|error| error.to_string())?;
    let network = EndpointNetwork::new(Arc::new(SystemResolver), open);
    Ok(TenantDirectory::new(
        (
            Box::new(move || Arc::clone(&generation)),
            Box::new(move |_tenant| is_suspended),
        ),
        inputs.clock.clone(),
        inputs.settings.endpoints.clone(),
        inputs.metrics.clone(),
        (network, system_trust()?),
    ))
}

async fn attempt(
    inputs: &TestInputs,
    target: &TenantTarget,
    deadline: Duration,
) -> Option<TestDelivery> {
    let event = event(inputs, target);
    let credentials = target.credentials()?;
    let client_id = credentials.signing.client_id.as_str().to_owned();
    let body = target.body(&event, credentials.signing).to_vec();
    let began = Instant::now();
    let result = target.send(&event, began + deadline).await;
    Some(TestDelivery {
        event: event.id,
        client_id,
        body,
        result,
        took: began.elapsed(),
    })
}

/// A test event in the shape of GatePay's notifications, with the institution's client id where GatePay writes it.
fn event(inputs: &TestInputs, target: &TenantTarget) -> DueEvent {
    let now_ms = inputs.clock.unix_ms();
    let id = event_id(now_ms);
    let institution = &target.generation.institution.credentials;
    let client_id = institution
        .first()
        .map(|dated| dated.credential.client_id.as_str());
    let body = json!({
        "bizType": TEST_KIND, "bizId": id.to_string(), "bizStatus": "TEST",
        "client_id": client_id, "data": "{}",
    });
    DueEvent {
        id,
        line: 0,
        kind: TEST_KIND.to_owned(),
        object: String::new(),
        status: "TEST".to_owned(),
        received_ms: now_ms,
        waits_since_ms: now_ms,
        attempts: 0,
        failed_attempts: 0,
        has_conflict: false,
        is_changed: false,
        body: body.to_string().into_bytes(),
    }
}

/// A UUID of version 7, as the store makes it for events.
fn event_id(now_ms: u64) -> EventId {
    let mut bytes: [u8; 16] = clock::random();
    bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    EventId::parse(&hex::encode(bytes)).expect("32 hexadecimal digits are a UUID")
}
