use crate::support::*;
use gatepay_proxy::clock::Clock;
use gatepay_sandbox::{Failure, Fault};
use gatepay_tenancy::settings::{Breaker, Settings};
use std::time::Duration;

fn as_configured(settings: &mut Settings) {
    settings.upstream.breaker = Breaker::default();
}

fn refund() -> Call {
    acme().post(REFUND, A_REFUND)
}

fn read() -> Call {
    acme().post(QUERY, BY_NUMBER)
}

#[tokio::test]
async fn when_gatepay_keeps_failing_nothing_is_sent_and_that_is_said() {
    let nowhere = Nowhere::reserve();
    let proxy = Proxy::at(&nowhere.url(), &Clock::manual(T0))
        .with(as_configured)
        .start();
    proxy.counts("upstream_breaker_open 0").await;
    for _ in 0..20 {
        let answer = proxy.send(refund()).await;
        if answer.refusal() == Some("upstream_unavailable") {
            break;
        }
        assert_eq!(answer.refused(), (502, "upstream_unreachable"));
    }
    proxy.counts("upstream_breaker_open 1").await;
    proxy.counts("upstream_breaker_opened_total 1").await;
    for _ in 0..3 {
        let answer = proxy.send(refund()).await;
        assert_eq!(answer.refused(), (503, "upstream_unavailable"));
        assert_eq!(
            (answer.outcome(), answer.retry_after()),
            (Some("not-executed"), 1)
        );
    }
}

#[tokio::test]
async fn where_only_money_is_moved_the_proxy_finds_out_by_itself() {
    let mut gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(as_configured).start();
    gatepay.sandbox.stop();
    until_open(&proxy).await;
    gatepay.again();
    proxy.counts("upstream_breaker_open 0").await;
    let received = gatepay.received();
    assert!(!received.is_empty(), "somebody asked");
    for asked in &received {
        assert!(asked.verified, "signed");
        assert_eq!(asked.operation.as_deref(), Some("list_accounts"));
        assert_eq!(asked.header("x-gatepay-on-behalf-of"), None);
    }
    assert_eq!(proxy.send(refund()).await.status, 200);
}

/// Moves money until it is refused.
async fn until_open(proxy: &Proxy) {
    while proxy.send(refund()).await.refusal() != Some("upstream_unavailable") {}
}

#[tokio::test]
async fn what_stands_before_gatepay_counts_and_what_gatepay_says_does_not() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(as_configured)
        .with(|settings| settings.upstream.resolve = Duration::ZERO)
        .start();
    for failure in [
        Failure::SystemError,
        Failure::UnknownOrder,
        Failure::InsufficientBalance,
        Failure::InvalidSignature,
    ] {
        gatepay.inject(Fault::Failure(failure).times(15));
        for _ in 0..15 {
            let answer = proxy.send(refund()).await;
            assert_ne!(answer.refusal(), Some("upstream_unavailable"), "{failure}");
        }
    }
    let down = Fault::Status {
        status: 503,
        body: "<html>".into(),
    };
    gatepay.inject(down.times(10));
    for _ in 0..10 {
        let answer = proxy.send(refund()).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"));
    }
    let answer = proxy.send(refund()).await;
    assert_eq!(answer.refused(), (503, "upstream_unavailable"));
    until_read(&proxy).await;
    assert_eq!(proxy.send(refund()).await.status, 200);
}

/// Reads until one gets through.
async fn until_read(proxy: &Proxy) {
    while proxy.send(read()).await.refusal() == Some("upstream_unavailable") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
