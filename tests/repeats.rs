use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use std::time::Duration;

const CALM: &[u8] = b"<html>not now</html>";

fn status(status: u16) -> InjectedFault {
    InjectedFault::Status {
        status,
        body: CALM.into(),
    }
}

/// Transient faults, after which a retry makes sense.
fn passing() -> Vec<InjectedFault> {
    vec![
        InjectedFault::ResetBeforeReading,
        InjectedFault::ResetBeforeExecuting,
        InjectedFault::ResetAfterExecuting,
        InjectedFault::ResetMidAnswer { after_bytes: 9 },
        InjectedFault::Truncated,
        InjectedFault::Garbage("once upon a time\r\n\r\n".into()),
        status(502),
        status(503),
        status(504),
        InjectedFault::Failure(ApiFailure::SystemError),
        InjectedFault::Failure(ApiFailure::InternalError),
    ]
}

#[tokio::test]
async fn a_read_that_fails_in_passing_is_repeated_signed_anew() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    assert_eq!(
        proxy
            .send(acme().post(CREATE, order("A-0001")))
            .await
            .status,
        200
    );
    for fault in passing() {
        gatepay.sandbox.clear();
        gatepay.inject(fault.clone().once());
        let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
        assert_eq!(answer.refused(), (200, "not refused"), "{fault:?}");
        let nonces: Vec<_> = gatepay
            .received()
            .iter()
            .map(|received| received.header("x-gatepay-nonce").unwrap().to_owned())
            .collect();
        assert_eq!(nonces.len(), 2, "{fault:?}");
        assert_ne!(nonces[0], nonces[1], "{fault:?}");
    }
    let count = r#"upstream_repeats_total{reason="lost"} 6"#;
    proxy.counts(count).await;
    let count = r#"upstream_repeats_total{reason="answer"} 5"#;
    proxy.counts(count).await;
    let lines = proxy.stop().await;
    let mut attempts: Vec<_> = lines.iter().map(|line| line["attempts"].as_u64()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [&[Some(1)][..], &[Some(2); 11]].concat());
}

#[tokio::test]
async fn a_read_that_keeps_failing_gets_the_last_answer() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    gatepay.inject(InjectedFault::ResetAfterExecuting.times(2));
    gatepay.inject(status(502).times(10));
    let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!((answer.status, answer.refusal()), (502, None));
    assert_eq!((&*answer.body, gatepay.count()), (CALM, 3));
    gatepay.sandbox.clear_faults();
    gatepay.inject(InjectedFault::ResetAfterExecuting.times(10));
    let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(answer.refused(), (504, "outcome_unknown"));
    assert_eq!(answer.json()["data"], serde_json::Value::Null);
    assert!(answer.message().contains("it may be repeated"));
}

#[tokio::test]
async fn a_write_call_is_not_repeated_once_a_byte_was_written() {
    for fault in passing() {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay).start();
        gatepay.inject(fault.clone().once());
        proxy.send(acme().post(CREATE, order("A-0001"))).await;
        gatepay.inject(fault.clone().once());
        proxy.send(acme().post(REFUND, A_REFUND)).await;
        assert_eq!(gatepay.count(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    assert_eq!(
        proxy.send(acme().post(QUERY, BY_NUMBER)).await.code(),
        "400202"
    );
    gatepay.inject(InjectedFault::Failure(ApiFailure::InvalidSignature).once());
    let answer = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!(answer.refused(), (502, "institution_rejected"));
    assert_eq!(gatepay.count(), 2);
}

#[tokio::test]
async fn money_too_is_tried_again_while_nothing_of_it_was_written() {
    let nowhere = Nowhere::reserve();
    let proxy = Proxy::at(&nowhere.url(), &Clock::manual(T0)).start();
    let answer = proxy.send(acme().post(REFUND, A_REFUND)).await;
    assert_eq!(answer.refused(), (502, "upstream_unreachable"));
    let count = r#"upstream_repeats_total{reason="not_sent"} 2"#;
    proxy.counts(count).await;
}

#[tokio::test]
async fn repeats_end_with_their_budget_the_quota_and_the_deadline() {
    let gatepay = GatePay::start();
    let read = || acme().post(QUERY, BY_NUMBER);
    let asked = async |proxy: &Proxy| {
        gatepay.sandbox.clear();
        gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
        let answer = proxy.send(read()).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"));
        assert_eq!(gatepay.count(), 1);
    };
    let thrifty = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.repeat_budget = 0.0)
        .start();
    asked(&thrifty).await;
    thrifty.counts("upstream_repeats_denied_total 1").await;

    let limited = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.quota.rate = rate(1, 1))
        .start();
    asked(&limited).await;

    let hasty = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.deadline = Duration::from_millis(20))
        .start();
    gatepay.sandbox.clear();
    gatepay.inject(InjectedFault::ResetBeforeExecuting.once());
    hasty.send(read()).await;
    assert!(gatepay.count() <= 1);
}
