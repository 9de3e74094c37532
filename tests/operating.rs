use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::InjectedFault;
use std::time::Duration;

#[tokio::test]
async fn metrics_count_every_end_by_tenant_and_kind() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.resolve = Duration::from_millis(600))
        .start();
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(CREATE, order("A-0001")),
        globex().post(REFUND, A_REFUND),
        acme().post(QUERY, "{}"),
        acme().post(QUERY, BY_NUMBER).secret("fake-other"),
    ] {
        proxy.send(call).await;
    }
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    proxy.send(globex().post(CREATE, order("A-0001"))).await;
    for line in [
        r#"requests_total{kind="write",outcome="success",tenant="acme"} 1"#,
        r#"requests_total{kind="write",outcome="failure",tenant="acme"} 1"#,
        r#"requests_total{kind="money",outcome="failure",tenant="globex"} 1"#,
        r#"requests_total{kind="write",outcome="unknown",tenant="globex"} 1"#,
        // A request without proof of acme's secret is not counted as acme's.
        r#"requests_total{kind="read",outcome="refused",tenant="acme"} 1"#,
        r#"refusals_total{reason="signature_mismatch"} 1"#,
        r#"refusals_total{reason="invalid_body"} 1"#,
        r#"refusals_total{reason="outcome_unknown"} 1"#,
        r#"gatepay_answers_total{code="000000"} 1"#,
        r#"gatepay_answers_total{code="400201"} 1"#,
        r#"request_duration_seconds_count{operation="create_order"} 3"#,
        "replay_entries 4",
        "in_flight 0",
        "ready 1",
    ] {
        proxy.counts(line).await;
    }
}

#[tokio::test]
async fn probes_answer_liveness_readiness_and_version() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0)).start();
    for (path, status, body) in [
        ("/live", 200, "live\n"),
        ("/ready", 200, "ready\n"),
        (
            "/version",
            200,
            concat!("gatepay-proxy ", env!("CARGO_PKG_VERSION"), "\n"),
        ),
    ] {
        let answer = proxy.admin(path).await;
        assert_eq!(
            (answer.status, &*answer.body),
            (status, body.as_bytes()),
            "{path}"
        );
    }
    assert_eq!(proxy.admin("/v1/pay/order").await.status, 404);
    let metrics = proxy.send(acme().get("/metrics")).await;
    assert_eq!(
        metrics.refused(),
        (404, "unknown_operation"),
        "on the tenants' address"
    );
}

#[tokio::test]
async fn after_a_crash_the_proxy_waits_until_no_earlier_request_can_be_replayed() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).after_a_crash().start();
    let before = acme()
        .post(CREATE, order("A-0001"))
        .timestamp(&(T0 + 10_000))
        .nonce("before");
    let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(answer.refused(), (503, "starting"));
    // The same stamp may have been admitted before, on another path.
    assert_eq!(answer.outcome(), Some("unknown"));
    assert_eq!(
        proxy.send(before.clone()).await.refused(),
        (503, "starting")
    );
    let ready = proxy.admin("/ready").await;
    assert_eq!(
        (ready.status, ready.body.starts_with(b"starting")),
        (503, true)
    );

    proxy
        .clock
        .advance(Duration::from_secs(answer.retry_after()));
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    assert_eq!(proxy.admin("/ready").await.status, 200);
    // A stamp that the previous run may have admitted is refused as long as it is fresh.
    assert_ne!(proxy.send(before).await.status, 200);
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn the_metric_that_says_ready_is_what_the_probe_says() {
    let proxy = Proxy::at(UNUSED, &Clock::manual(T0))
        .after_a_crash()
        .start();
    assert_eq!(proxy.admin("/ready").await.status, 503);
    let metrics = proxy.metrics().await;
    assert!(
        metrics.contains("\ngatepay_proxy_ready 0\n"),
        "not ready, yet ready is 1"
    );
    proxy.clock.advance(Duration::from_secs(11));
    proxy.counts("ready 1").await;
}
