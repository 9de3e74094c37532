//! Operators test the tenants' endpoints, and turn them on again.

use super::delivered::{folder_with, verifies};
use super::*;
use crate::support::tenant_endpoint::TenantEndpoint;

const TEST: &str = "/-/notifications/test?tenant=acme";

/// A receiver with an audit journal and an endpoint for acme and for globex.
async fn receiver(
    gatepay: &GatePay,
    engine: &Engine,
) -> (Folder, Receiver, TenantEndpoint, TenantEndpoint) {
    let [to_acme, to_globex] = [(); 2].map(|()| TenantEndpoint::start());
    let shops = [acme(), globex()];
    let endpoints = [(&shops[0], &to_acme), (&shops[1], &to_globex)];
    let folder = folder_with(&gatepay.url(), engine, endpoints);
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    (folder, receiver, to_acme, to_globex)
}

#[tokio::test]
async fn a_test_event_reaches_the_tenants_endpoint_signed_and_is_not_a_notification() {
    let gatepay = GatePay::now();
    let (_folder, receiver, to_acme, to_globex) = receiver(&gatepay, &Engine::File).await;
    let (said, code) = receiver.command(&["notifications", "test", "--tenant", "acme"]);
    assert_eq!(code, Some(0), "{said}");
    let delivery = to_acme.take().remove(0);
    assert!(verifies(&delivery, acme().secret));
    let body: Value = serde_json::from_slice(&delivery.body).unwrap();
    assert_eq!(body["bizType"], "PROXY_TEST");
    assert_eq!(body["client_id"], acme().client_id);
    let event = delivery.header("x-gatepay-proxy-event");
    for part in [
        event,
        acme().client_id,
        "acknowledged after",
        "status 200: {\"returnCode\":\"SUCCESS\"",
        "addresses  allowed",
        "breaker    closed: no notification has gone",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("shop=1"), "no query: {said}");
    assert_eq!(to_globex.count(), 0, "and no other tenant");
    // It is stored and counted nowhere.
    assert!(receiver.ids("/notifications").await.is_empty());
    let delivered = "deliveries_total{result=\"delivered\",tenant=\"acme\"}";
    assert_eq!(receiver.program.metric(delivered).await, "0");
    let attempts = receiver
        .program
        .metric("delivery_attempt_seconds_count")
        .await;
    assert_eq!(attempts, "0");

    to_acme.answers(302);
    let (said, code) = receiver.command(&["notifications", "test", "--tenant", "acme"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("answered   redirected"), "{said}");
    assert!(
        said.contains("to do      redirects are not followed"),
        "{said}"
    );
    for url in [to_acme.url("/hook"), to_acme.url("/hook%3Fshop=1")] {
        let path = format!("{TEST}&url={url}");
        let (status, said) = receiver.orders(&path).await;
        assert_eq!(status, 200, "the URL in the file: {said}");
    }
    for (path, status) in [
        ("/-/notifications/test", 400),
        ("/-/notifications/test?tenant=nobody", 404),
        (
            "/-/notifications/test?tenant=acme&url=https://b.example/x",
            404,
        ),
        // Nothing is off.
        ("/-/notifications/enable?tenant=acme", 409),
    ] {
        assert_eq!(receiver.orders(path).await.0, status, "{path}");
    }
    receiver.program.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_answered_410_is_turned_on_by_hand_and_the_journal_has_it() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let (folder, receiver, to_acme, _) = receiver(&gatepay, &engine).await;
        to_acme.answers(410);
        let id = receiver.order(&acme(), "A-0001").await;
        receiver.acknowledges(&paid(&id, "A-0001")).await;
        let endpoint = receiver.turns_off("acme", "gone").await;
        assert_eq!(endpoint["waiting"], 1, "{endpoint}");
        assert_eq!(to_acme.take().len(), 1, "the notification");

        let status = receiver.says("an endpoint of acme is turned off").await;
        let backlog = &status["notifications"]["tenants"][0];
        assert_eq!(
            (&backlog["id"], &backlog["endpoints_off"]),
            (&json!("acme"), &json!(1))
        );

        // The test tells that it works again, and does not turn it on.
        to_acme.answers(200);
        let (status, said) = receiver.orders(TEST).await;
        assert_eq!(status, 200, "{said}");
        let tested = &said["endpoints"][0];
        assert_eq!(
            (&tested["acknowledged"], &tested["off"]),
            (&json!(true), &json!("gone"))
        );
        let advice = tested["advice"][0].as_str().unwrap();
        assert!(
            advice.ends_with("notifications enable --tenant acme"),
            "{advice}"
        );
        assert_eq!(to_acme.take().len(), 1, "the test event alone");

        let (said, code) = receiver.command(&["notifications", "enable", "--tenant", "acme"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("1 notifications are due now"), "{said}");
        until("the notification is there", || to_acme.count() == 1).await;
        let journal = folder.journal();
        let enabled = "\"action\":\"enable\",\"party\":\"acme\",\"by\":\"loopback\"";
        assert_eq!(journal.matches(enabled).count(), 1, "{journal}");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn what_the_configuration_holds_back_is_neither_tested_nor_turned_on() {
    let gatepay = GatePay::now();
    let (_folder, receiver, to_acme, _) = receiver(&gatepay, &Engine::File).await;
    to_acme.answers(410);
    let id = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&id, "A-0001")).await;
    until("it was sent", || to_acme.count() == 1).await;
    let suspended = receiver.orders("/-/suspend?tenant=acme").await;
    assert_eq!(suspended.0, 200, "{suspended:?}");
    let (said, code) = receiver.command(&["notifications", "test", "--tenant", "acme"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("sent       nothing"), "{said}");
    assert!(said.contains("the tenant is suspended"), "{said}");
    let began = Instant::now();
    loop {
        let (said, code) = receiver.command(&["notifications", "enable", "--tenant", "acme"]);
        assert_eq!(code, Some(1), "{said}");
        if said.contains("not done: the tenant is suspended") {
            break;
        }
        // Until the store has recorded the attempt.
        assert!(said.contains("no endpoint of the tenant is off"), "{said}");
        assert!(began.elapsed() < PATIENCE, "{said}");
    }
    assert_eq!(to_acme.count(), 1);
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_tenant_that_is_suspended_by_hand_gets_its_notifications_once_it_is_resumed() {
    let gatepay = GatePay::now();
    let (_folder, receiver, to_acme, _) = receiver(&gatepay, &Engine::File).await;
    let id = receiver.order(&acme(), "A-0001").await;
    assert_eq!(receiver.orders("/-/suspend?tenant=acme").await.0, 200);
    receiver.acknowledges(&paid(&id, "A-0001")).await;
    let endpoint = receiver.turns_off("acme", "suspended").await;
    assert_eq!(endpoint["waiting"], 1, "{endpoint}");
    assert_eq!(to_acme.count(), 0, "nothing is sent to it");
    assert_eq!(receiver.orders("/-/resume?tenant=acme").await.0, 200);
    until("the notification is there", || to_acme.count() == 1).await;
    receiver.program.stop().await;
}
