use crate::support::*;
use std::time::Duration;

/// A valid query, as text for a raw socket.
fn request(proxy: &Proxy) -> String {
    let bytes = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    String::from_utf8(bytes).expect("this one is text")
}

/// Sends the query with a part of its head replaced, and expects this refusal and the end of the connection.
async fn assert_refused(proxy: &Proxy, from: &str, to: &str, refusal: (u16, &str)) {
    let text = request(proxy);
    assert!(text.contains(from), "{from}");
    let mut caller = proxy.raw().await;
    caller.write(text.replacen(from, to, 1)).await;
    let answer = caller.answer().await;
    assert_eq!(answer.refused(), refusal, "{to}");
    assert_eq!(answer.outcome(), Some("not-executed"), "{to}");
    // Its body was not read and must not be taken for the next request.
    assert_eq!(answer.header("connection"), Some("close"), "{to}");
    assert_eq!(caller.rest().await.unwrap(), b"", "{to}");
}

const HOST: &str = "host: pay.example\r\n";
const TYPE: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_request_must_have_one_reading() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let malformed = (400, "malformed_request");
    for (from, to) in [
        (HOST, ""),
        (HOST, "host: pay.example\r\nHost: pay.example\r\n"),
        (
            TYPE,
            "content-type: application/json\r\nContent-Type: a/b\r\n",
        ),
        ("POST /", "POST http://pay.example/"),
        ("POST /", "POST https://evil.example/"),
    ] {
        assert_refused(&proxy, from, to, malformed).await;
    }
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    assert_refused(&proxy, TYPE, form, (415, "unsupported_media_type")).await;
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_head_has_a_largest_size_and_a_largest_number_of_lines() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let too_large = (431, "head_too_large");
    let long = "x".repeat(16 << 10);
    assert_refused(&proxy, HOST, &format!("{HOST}x: {long}\r\n"), too_large).await;
    assert_refused(&proxy, "query ", &format!("query?{long} "), too_large).await;
    let lines = "x: y\r\n".repeat(60);
    assert_refused(&proxy, HOST, &format!("{HOST}{lines}"), too_large).await;

    let mut caller = proxy.raw().await;
    let lines = "x: y\r\n".repeat(50) + "x: " + &"x".repeat(15 << 10) + "\r\n";
    caller
        .write(request(&proxy).replacen(HOST, &(HOST.to_owned() + &lines), 1))
        .await;
    assert_eq!(caller.answer().await.status, 200, "just below both");
}

#[tokio::test]
async fn a_path_outside_the_catalogue_is_an_unknown_operation() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (from, to) in [
        ("POST ", "PATCH "),
        ("POST ", "GET "),
        ("POST ", "BREW "),
        ("POST ", "OPTIONS "),
        ("/query ", "/query/x "),
        ("/query ", "/QUERY "),
        ("/v1/pay/order/query ", "/v1 "),
    ] {
        assert_refused(&proxy, from, to, (404, "unknown_operation")).await;
    }
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_path_has_one_spelling() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for path in [
        "//v1/pay/order/query",
        "/v1//pay/order/query",
        "/v1/pay/order/query/",
        "/./v1/pay/order/query",
        "/v1/pay/order/./query",
        "/v1/pay/order/x/../query",
        "/../v1/pay/order/query",
        "/v1/pay/order%2Fquery",
        "/v1/pay/order%2fquery",
        "/v1/pay/%6frder/query",
        "/v1/pay/order/%2e%2e/order/query",
        "/v1/pay/order/query%00",
        "/v1/pay/order/query;x=1",
        "/v1\\pay\\order\\query",
    ] {
        let mut caller = proxy.raw().await;
        let text = request(&proxy).replacen(QUERY, path, 1);
        caller.write(text).await;
        assert_eq!(
            caller.answer().await.refused(),
            (400, "malformed_request"),
            "{path}"
        );
    }
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_however_it_is_framed() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.body_limit = 64)
        .start();
    let body = |bytes: usize| {
        format!(
            "{{\"prepayId\":\"1\",\"x\":\"{}\"}}",
            "x".repeat(bytes - 23)
        )
    };
    let largest = acme().post(QUERY, body(64));
    assert_eq!(proxy.send(largest).await.status, 200);
    let larger = acme().post(QUERY, body(65));
    let announced = larger.head(&proxy.clock, "content-length: 65\r\nexpect: 100-continue");
    for (name, wire) in [
        // No byte of the body is there yet, and the proxy sends no 100.
        ("announced", announced),
        ("in one piece", larger.bytes(&proxy.clock)),
        ("in chunks", larger.chunked(&proxy.clock, 20)),
    ] {
        let mut caller = proxy.raw().await;
        caller.write(wire).await;
        let answer = caller.answer().await;
        assert_eq!(answer.refused(), (413, "body_too_large"), "{name}");
        assert!(
            answer.message().contains("64 bytes"),
            "{}",
            answer.message()
        );
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        assert_eq!(caller.rest().await.unwrap(), b"", "{name}");
    }
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.body_timeout = Duration::from_millis(100))
        .start();
    let mut caller = proxy.raw().await;
    let all = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    caller.write(&all[..all.len() - 1]).await;
    let answer = caller.answer().await;
    assert_eq!(answer.refused(), (408, "request_timeout"));
    assert_eq!(answer.outcome(), Some("not-executed"));
    assert_eq!(caller.rest().await.unwrap(), b"");
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn an_unreadable_head_is_refused_like_any_other_and_counted() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let lines = "x: y\r\n".repeat(200);
    for (said, refusal, outcome) in [
        (
            "nonsense\r\n\r\n".to_owned(),
            (400, "malformed_request"),
            "not-executed",
        ),
        (
            format!("GET / HTTP/1.1\r\n{lines}\r\n"),
            (431, "head_too_large"),
            "not-executed",
        ),
        (
            // The rest of the request was not read.
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(80 << 10)),
            (431, "head_too_large"),
            "unknown",
        ),
    ] {
        let mut caller = proxy.raw().await;
        caller.write(said).await;
        let answer = caller.answer().await;
        assert_eq!(answer.refused(), refusal);
        assert_eq!(answer.outcome(), Some(outcome));
    }
    proxy.counts("unreadable_heads_total 3").await;
}
