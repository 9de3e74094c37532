//! `POST /-/notifications/test`: a signed test event to the endpoints of a tenant, with what was answered and what to do.

use std::sync::Arc;

use gatepay_core::delivery_schedule::DeliveryOutcome;
use gatepay_store::notifications::delivery::{EndpointKey, EndpointOffReason, EndpointState};
use http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::admin::notification_endpoints::{BreakerEntry, of_tenant, shown};
use crate::admin::notification_view::{bad, relay, tenant};
use crate::admin::query_fields::query_fields;
use crate::admin::reply::{AdminFailure, AdminResponse, json};
use crate::app::App;
use crate::notify::Notifications;
use crate::notify::deliver::attempt::{AttemptResult, AttemptWord};
use crate::notify::deliver::target::DeliveryHold;
use crate::notify::deliver::test_delivery::{self, TestDelivery, TestInputs};

/// The answer to an order to test.
#[derive(Serialize)]
struct TestReply {
    tenant: String,
    endpoints: Vec<TestedEndpoint>,
}

/// One endpoint with its test.
#[derive(Serialize)]
struct TestedEndpoint {
    /// The URL without its query.
    url: String,
    /// Whether the endpoint acknowledged the test event.
    acknowledged: bool,
    /// What was sent; `null` if nothing was.
    sent: Option<SentTest>,
    answer: Option<TestAnswer>,
    /// The verdict of the guard against addresses that are not on the public Internet.
    addresses: String,
    /// Why the store holds events for this endpoint back; `null` if it is on, or no event has gone to it yet.
    off: Option<&'static str>,
    breaker: Option<BreakerEntry>,
    /// What to do.
    advice: Vec<String>,
}

/// The test event as it was sent.
#[derive(Serialize)]
struct SentTest {
    event: String,
    /// The client id of the tenant's credential that signed.
    client_id: String,
    body: String,
}

/// The result of the test.
#[derive(Serialize)]
struct TestAnswer {
    outcome: &'static str,
    status: Option<u16>,
    took_ms: u128,
    /// The beginning of the answer's body.
    body: String,
    error: Option<String>,
}

/// The most bytes of an answer that are shown.
const SHOWN: usize = 256;

/// Sends a test event to each endpoint of a tenant. It runs to its end even if the caller leaves.
pub(super) async fn test(app: &Arc<App>, query: Option<&str>) -> AdminResponse {
    let tested = tested(app, query).await;
    tested.map_or_else(AdminFailure::answer, |reply| json(StatusCode::OK, &reply))
}

async fn tested(app: &Arc<App>, query: Option<&str>) -> Result<TestReply, AdminFailure> {
    let relay = relay(app)?;
    let [Some(id), url] = query_fields(query, ["tenant", "url"])? else {
        return Err(bad(
            "say tenant=, and url= for one URL of a call of the tenant's\n",
        ));
    };
    let owner = tenant(relay, &id)?;
    let (endpoints, now_ms) = of_tenant(relay, &owner, url.as_deref()).await?;
    let inputs = Arc::new(inputs(app, relay, &id));
    let mut tests = Vec::with_capacity(endpoints.len());
    for (endpoint, state) in endpoints {
        let inputs = Arc::clone(&inputs);
        tests.push((
            endpoint.clone(),
            state,
            spawn_blocking(move || test_delivery::send(&inputs, &endpoint)),
        ));
    }
    let mut endpoints = Vec::with_capacity(tests.len());
    for (endpoint, state, test) in tests {
        let sent = test
            .await
            .map_err(|_panicked| not_sent("a fault of this program"))?;
        let sent = sent.map_err(|error| not_sent(&error))?;
        let configured = relay
            .registered_tenants()
            .and_then(|tenants| tenants.configured_url(&id));
        let url = endpoint.url.clone().or(configured);
        endpoints.push(TestedEndpoint::of(
            url.as_deref(),
            &endpoint,
            state,
            (sent, now_ms),
        ));
    }
    Ok(TestReply {
        tenant: owner.tenant,
        endpoints,
    })
}

/// What test deliveries need of this process.
pub(super) fn inputs(app: &App, relay: &Notifications, tenant: &str) -> TestInputs {
    TestInputs {
        generation: app.generation.load_full(),
        is_suspended: app.is_suspended(tenant),
        settings: relay.settings().clone(),
        metrics: app.settings.metrics.clone(),
        clock: app.clock.clone(),
    }
}

fn not_sent(why: &str) -> AdminFailure {
    AdminFailure(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("no test event was sent: {why}\n").into(),
    )
}

impl TestedEndpoint {
    fn of(
        url: Option<&str>,
        endpoint: &EndpointKey,
        state: Option<EndpointState>,
        (sent, now_ms): (Result<TestDelivery, DeliveryHold>, u64),
    ) -> Self {
        let mut advice = match &sent {
            Ok(test) => advice(&test.result),
            Err(hold) => vec![hold_advice(*hold, endpoint).to_owned()],
        };
        if let Some(state) = &state {
            advice.extend(state_advice(state, &sent));
        }
        let addresses = addresses(&sent);
        let url = url.map_or("no URL", shown).to_owned();
        let (sent, answer) = match sent {
            Ok(test) => (Some(SentTest::of(&test)), Some(TestAnswer::of(&test))),
            Err(_) => (None, None),
        };
        Self {
            url,
            acknowledged: answer
                .as_ref()
                .is_some_and(|it| it.outcome == "acknowledged"),
            sent,
            answer,
            addresses,
            off: state
                .as_ref()
                .and_then(|state| state.off)
                .map(EndpointOffReason::as_str),
            breaker: state.map(|state| BreakerEntry::of(&state, now_ms)),
            advice,
        }
    }
}

impl SentTest {
    fn of(test: &TestDelivery) -> Self {
        Self {
            event: test.event.to_string(),
            client_id: test.client_id.clone(),
            body: String::from_utf8_lossy(&test.body).into_owned(),
        }
    }
}

impl TestAnswer {
    fn of(test: &TestDelivery) -> Self {
        let said = &test.result.said;
        Self {
            outcome: test.result.word.as_str(),
            status: test.result.status,
            took_ms: test.took.as_millis(),
            body: String::from_utf8_lossy(&said[..said.len().min(SHOWN)]).into_owned(),
            error: test.result.error.clone(),
        }
    }
}

/// The verdict of the address check, in a sentence.
fn addresses(sent: &Result<TestDelivery, DeliveryHold>) -> String {
    let Ok(test) = sent else {
        return "not looked up, since nothing is sent".to_owned();
    };
    let error = test.result.error.as_deref().unwrap_or_default();
    match test.result.word {
        AttemptWord::ForbiddenAddress => format!("refused, and nothing was connected: {error}"),
        AttemptWord::Unresolved => format!("the name has none: {error}"),
        _ => "allowed".to_owned(),
    }
}

/// What to do about a result.
fn advice(result: &AttemptResult) -> Vec<String> {
    let text = match result.word {
        AttemptWord::Acknowledged => return Vec::new(),
        AttemptWord::Gone => {
            "the endpoint answers 410, which turns it off at the next notification: have the tenant answer 200"
        }
        AttemptWord::Redirected => "redirects are not followed: enter the URL that it redirects to",
        AttemptWord::RefusedStatus => {
            "have the tenant answer 200 to a bizType that it does not know, PROXY_TEST included; a 401 or 403 often means that it verifies with another secret than that of the client id above"
        }
        AttemptWord::NotAcknowledged => {
            "the answer's body must be JSON with \"returnCode\":\"SUCCESS\"; or set ack = \"status\" in the tenant's [notifications]"
        }
        AttemptWord::AnswerCut => "the endpoint closed the connection within its answer",
        AttemptWord::ForbiddenAddress => {
            "enter a URL whose addresses are on the public Internet, or add the network to notifications.allow_networks of proxy.toml"
        }
        AttemptWord::Unresolved => "look the name up on this machine; enter the right name",
        AttemptWord::NotConnected => {
            "see that the endpoint listens on this port and that firewalls let this machine connect"
        }
        AttemptWord::TlsFailed => {
            "see that the endpoint's certificate is valid for this name and its chain is complete; for an authority of the tenant's own set ca in its [notifications]"
        }
        AttemptWord::Late => {
            "no answer within notifications.deadline_ms: the endpoint must answer first and work afterwards, and firewalls must let this machine connect"
        }
        AttemptWord::OwnFault => "the proxy's log has the fault: report it",
        AttemptWord::NoAnswer => {
            "the endpoint closed the connection without an HTTP answer: see its log"
        }
    };
    vec![text.to_owned()]
}

/// What to do about an endpoint on hold.
pub(super) fn hold_advice(hold: DeliveryHold, endpoint: &EndpointKey) -> &'static str {
    match hold {
        DeliveryHold::NoEndpoint if endpoint.url.is_none() => {
            "the tenant's file has no url in [notifications]: enter one, or the tenant pulls"
        }
        DeliveryHold::NoEndpoint => {
            "the tenant's file no longer allows this URL: add its origin to urls in [notifications]"
        }
        DeliveryHold::Suspended => "the tenant is suspended: nothing is sent until it is resumed",
        DeliveryHold::NoCredential => {
            "no credential of the tenant is in force: add one, or extend not_after"
        }
    }
}

/// What to do about an endpoint that the store holds back.
fn state_advice(
    state: &EndpointState,
    sent: &Result<TestDelivery, DeliveryHold>,
) -> Option<String> {
    let is_well = |test: &TestDelivery| test.result.outcome == DeliveryOutcome::Acknowledged;
    let is_well = sent.as_ref().is_ok_and(is_well);
    let tenant = &state.endpoint.tenant.tenant;
    let waiting = state.waiting;
    let enable = format!("gatepay-proxy notifications enable --tenant {tenant}");
    match (state.off, state.breaker.open_until_ms) {
        (Some(EndpointOffReason::Gone | EndpointOffReason::Operator), _) if is_well => {
            Some(format!(
                "the endpoint is off and {waiting} notifications wait: turn it on with: {enable}"
            ))
        }
        (Some(EndpointOffReason::Gone | EndpointOffReason::Operator), _) => Some(format!(
            "the endpoint is off and {waiting} notifications wait: once it works, turn it on with: {enable}"
        )),
        (None, Some(_)) if is_well => Some(format!(
            "{waiting} notifications wait for the breaker's next attempt; to send them now: {enable}"
        )),
        (
            Some(
                EndpointOffReason::Removed
                | EndpointOffReason::Suspended
                | EndpointOffReason::NoCredential,
            )
            | None,
            _,
        ) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_store::notifications::event::EventId;
    use std::time::Duration;

    #[test]
    fn a_forbidden_address_is_named_with_the_way_out() {
        let error = "the address 10.0.0.5 is not on the public Internet (private)";
        let sent = Ok(TestDelivery {
            event: EventId::parse("018f0000-0000-7000-8000-000000000000").unwrap(),
            client_id: "acme".to_owned(),
            body: b"{}".to_vec(),
            result: AttemptResult {
                outcome: DeliveryOutcome::NO_ANSWER,
                word: AttemptWord::ForbiddenAddress,
                status: None,
                said: Vec::new(),
                error: Some(error.to_owned()),
            },
            took: Duration::from_millis(1),
        });
        let verdict = addresses(&sent);
        assert_eq!(
            verdict,
            format!("refused, and nothing was connected: {error}")
        );
        let Ok(test) = sent else {
            unreachable!("it was sent")
        };
        assert!(advice(&test.result)[0].contains("notifications.allow_networks"));
    }
}
