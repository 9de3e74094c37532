use crate::support::*;
use std::time::Duration;

#[tokio::test]
async fn each_fault_is_refused_under_its_own_name() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(acme())
        .tenant(globex())
        .start();
    let good = || acme().post(QUERY, BY_NUMBER);
    let stranger = Shop::new("nobody", "client-nobody", "fake-secret", "1");
    for (fault, call, status, slug, code) in [
        (
            "a changed byte",
            good().signing(BY_NUMBER.replace('1', "2")),
            401,
            "signature_mismatch",
            "400002",
        ),
        (
            "another secret",
            good().secret("fake-other"),
            401,
            "signature_mismatch",
            "400002",
        ),
        (
            "a minute past the window",
            good().timestamp(T0 - 360_000),
            401,
            "stale_timestamp",
            "400003",
        ),
        (
            "ahead of the window",
            good().timestamp(T0 + 10_001),
            401,
            "stale_timestamp",
            "400003",
        ),
        (
            "seconds for milliseconds",
            good().timestamp(T0 / 1000),
            401,
            "stale_timestamp",
            "400003",
        ),
        (
            "no digits",
            good().timestamp("soon"),
            400,
            "malformed_request",
            "400001",
        ),
        (
            "an unknown client",
            stranger.post(QUERY, BY_NUMBER),
            401,
            "unknown_client",
            "400004",
        ),
        (
            "no client id",
            good().without("x-gatepay-certificate-clientid"),
            401,
            "unknown_client",
            "400004",
        ),
        (
            "no timestamp",
            good().without("x-gatepay-timestamp"),
            400,
            "malformed_request",
            "400001",
        ),
        (
            "no nonce",
            good().without("x-gatepay-nonce"),
            400,
            "malformed_request",
            "400001",
        ),
        (
            "no signature",
            good().without("x-gatepay-signature"),
            400,
            "malformed_request",
            "400001",
        ),
        (
            "two nonces",
            good().header("x-gatepay-nonce", "second"),
            400,
            "malformed_request",
            "400001",
        ),
        (
            "an empty nonce",
            good().nonce(""),
            401,
            "malformed_nonce",
            "400020",
        ),
        (
            "a long nonce",
            good().nonce(&"n".repeat(129)),
            401,
            "malformed_nonce",
            "400020",
        ),
        (
            "a short signature",
            good()
                .without("x-gatepay-signature")
                .header("x-gatepay-signature", "ab"),
            401,
            "signature_mismatch",
            "400002",
        ),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(
            (answer.status, answer.refusal()),
            (status, Some(slug)),
            "{fault}"
        );
        assert_eq!(
            (answer.code(), answer.outcome()),
            (code.to_owned(), Some("not-executed")),
            "{fault}"
        );
        assert!(answer.headers.contains_key("x-request-id"), "{fault}");
    }
    assert_eq!(gatepay.count(), 0, "GatePay saw none of it");
    let lines = proxy.stop();
    assert_eq!(lines.len(), 15, "one line for each");
}

#[tokio::test]
async fn the_same_request_twice_is_acted_on_once() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme()).start();
    let request = acme().post(CREATE, order("A-0001")).request(&proxy.clock);
    let mut connection = proxy.connect().await;
    assert_eq!(connection.send(request.clone()).await.status, 200);
    proxy.clock.advance(Duration::from_millis(1_500));
    let answer = connection.send(request).await;
    assert_eq!(
        (answer.status, answer.refusal(), answer.outcome()),
        (401, Some("replayed"), Some("unknown"))
    );
    let message = answer.message();
    assert!(message.contains("1500 ms ago"), "{message}");
    assert!(
        message.contains("/v1/pay/order/query by merchantTradeNo A-0001"),
        "{message}"
    );
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn a_signature_for_one_path_is_not_good_for_another() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme()).start();
    let call = acme().post(QUERY, BY_NUMBER).nonce("same").timestamp(T0);
    assert_eq!(proxy.send(call.clone()).await.status, 200);
    let elsewhere = acme().post(CLOSE, BY_NUMBER).nonce("same").timestamp(T0);
    assert_eq!(proxy.send(elsewhere).await.refusal(), Some("replayed"));
}
