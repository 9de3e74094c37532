use crate::support::*;
use bytes::Bytes;
use gatepay_core::{Signature, Stamp, header, verify};
use gatepay_sandbox::ReceivedRequest;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// Bodies that a parser followed by a serializer would change.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let mib = {
        let mut body = br#"{"merchantTradeNo":"A-0001","pad":""#.to_vec();
        body.resize((1 << 20) - 2, b'a');
        body.extend_from_slice(b"\"}");
        body
    };
    let texts = [
        ("trailing LF", "{\"merchantTradeNo\":\"A-0001\"}\n"),
        ("CR LF", "{\r\n\"merchantTradeNo\" : \"A-0001\"\r\n}\r\n"),
        (
            "escapes",
            r#"{"merchantTradeNo":"A-0001","x":"\u003cb\u003e \/ <>&"}"#,
        ),
        (
            "non-ASCII",
            r#"{"merchantTradeNo":"A-0001","x":"Ödemesi 订单 🧾 é é"}"#,
        ),
        (
            "duplicate keys",
            r#"{"merchantTradeNo":"A-0001","x":1.0,"x":1.00}"#,
        ),
        (
            "big numbers",
            r#"{"merchantTradeNo":"A-0001","x":123456789012345678901234567890}"#,
        ),
    ];
    let texts = texts.map(|(name, text)| (name, text.as_bytes().to_vec()));
    texts.into_iter().chain([("one MiB", mib)]).collect()
}

/// Asserts that GatePay got this body, signed by the institution.
#[track_caller]
fn assert_arrived(received: &ReceivedRequest, body: &[u8], name: &str) {
    assert!(received.body == body, "{name}: the body is another");
    let bytes = |name| received.header(name).expect("it is signed").as_bytes();
    let stamp = Stamp::parse(bytes(header::TIMESTAMP), bytes(header::NONCE)).unwrap();
    let signature = Signature::parse(bytes(header::SIGNATURE)).unwrap();
    let key = institution().key;
    assert!(
        verify(&key, &stamp, body, &signature),
        "{name}: the signature"
    );
    assert!(received.verified, "{name}: GatePay did not accept it");
}

#[tokio::test]
async fn a_body_arrives_byte_for_byte_and_signed_by_the_institution() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (name, body) in bodies() {
        let answer = proxy.send(acme().post(QUERY, body.clone())).await;
        assert_eq!((answer.status, answer.refusal()), (200, None), "{name}");
        assert_arrived(&gatepay.last(), &body, name);
    }
}

#[tokio::test]
async fn a_body_in_chunks_arrives_as_the_whole() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (name, body) in bodies() {
        let mut caller = proxy.raw().await;
        let chunk = body.len() / 7 + 1;
        let call = acme().post(QUERY, body.clone());
        caller.write(call.chunked(&proxy.clock, chunk)).await;
        let answer = caller.answer().await;
        assert_eq!((answer.status, answer.refusal()), (200, None), "{name}");
        assert_arrived(&gatepay.last(), &body, name);
        let length = body.len().to_string();
        assert_eq!(gatepay.last().header("content-length"), Some(&*length));
    }
}

#[tokio::test]
async fn a_body_may_come_with_any_method_and_a_query_with_any_body() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let json = ("content-type", "application/json");
    for (name, call, method, target, body) in [
        (
            "an empty body",
            acme()
                .post("/v1/pay/order/query?merchantTradeNo=A-0001", "")
                .header(json.0, json.1),
            "POST",
            "/v1/pay/order/query?merchantTradeNo=A-0001",
            "",
        ),
        (
            "a GET with a body",
            acme().get_with(DETAILS, r#"{"refundRequestId": "R-1"}"#),
            "GET",
            DETAILS,
            r#"{"refundRequestId": "R-1"}"#,
        ),
        (
            "a GET without one",
            acme().get("/v2/pay/refund/details?refundRequestId=R-1&x=%2f&x=+"),
            "GET",
            "/v2/pay/refund/details?refundRequestId=R-1&x=%2f&x=+",
            "",
        ),
        (
            "a POST with body and query",
            acme().post("/v1/pay/order/query?a=%E8%AE%A2&&b", BY_NUMBER),
            "POST",
            "/v1/pay/order/query?a=%E8%AE%A2&&b",
            BY_NUMBER,
        ),
    ] {
        assert_eq!(proxy.send(call).await.refusal(), None, "{name}");
        let received = gatepay.last();
        assert_eq!(received.method, method, "{name}");
        assert_eq!(received.target, format!("{PREFIX}{target}"), "{name}");
        assert_arrived(&received, body.as_bytes(), name);
    }
}

#[test]
fn any_body_with_an_id_and_any_query_arrive_unchanged() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut connection = runtime.block_on(proxy.connect());
    let member = ("[a-z]{1,8}", any::<String>());
    let space = "[ \t\r\n]{0,3}";
    let body =
        (prop::collection::vec(member, 0..6), space, space).prop_map(|(members, before, after)| {
            let member = |(name, value)| format!(",{before}\"{name}\":{}", json!(value));
            let members: Vec<String> = members
                .iter()
                .map(|(name, value)| member((name, value)))
                .collect();
            let members = members.concat();
            format!("{before}{{\"merchantTradeNo\":{after}\"A-0001\"{members}}}{after}")
        });
    // Every byte that may stand in a query, escaped or not.
    let query = "[!$-;=?-Z_a-z~]{0,40}";
    let config = Config {
        cases: 128,
        failure_persistence: None,
        ..Config::default()
    };
    let arrives = |(body, query): (String, String)| {
        let call = acme().post(&format!("{QUERY}?{query}"), Bytes::from(body.clone()));
        let answer = runtime.block_on(connection.send(call.request(&proxy.clock)));
        prop_assert_eq!(answer.refusal(), None);
        let received = gatepay.last();
        prop_assert!(received.verified);
        prop_assert_eq!(&received.body[..], body.as_bytes());
        prop_assert_eq!(received.target, format!("{PREFIX}{QUERY}?{query}"));
        gatepay.sandbox.clear();
        Ok(())
    };
    let arrives = std::cell::RefCell::new(arrives);
    TestRunner::new(config)
        .run(&(body, query), |case| (arrives.borrow_mut())(case))
        .unwrap();
}
