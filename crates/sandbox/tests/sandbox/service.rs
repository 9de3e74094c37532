//! Orders over HTTP, recording, the emulator's own paths, start and stop.

use std::net::TcpStream;
use std::time::Duration;

use gatepay_core::header;
use gatepay_sandbox::{AccountStatus, AnswerForms, ApiFailure, Sandbox, SubAccount};
use serde_json::{Value, json};

use crate::support::{
    ACME, CREATE, NOW, OTHER, QUERY, call, config, create_body, envelope, exchange, post, start,
};

fn order(sandbox: &Sandbox, account: &str, step: &str, body: &Value) -> Value {
    let path = format!("{CREATE}{step}");
    envelope(sandbox, &post(&path, account, &body.to_string()))
}

#[test]
fn in_the_documentations_forms_a_created_order_has_no_status() {
    let mut config = config();
    config.answer_forms = AnswerForms::Documentation;
    let sandbox = start(config);
    let created = envelope(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    assert_eq!(created["code"], "SUCCESS");
    assert!(created.get("status").is_none());
}

#[test]
fn an_order_lives_its_whole_life_over_http() {
    let sandbox = start(config());
    let created = envelope(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    let prepay_id = "50000000000000001";
    let data = json!({"prepayId": prepay_id, "terminalType": "APP", "expireTime": NOW + 3_600_000});
    assert_eq!(
        created,
        json!({"status": "SUCCESS", "code": "000000", "errorMessage": "", "data": data})
    );

    let refund =
        json!({"refundRequestId": "refund-1", "prepayId": prepay_id, "refundAmount": "0.8"});
    assert_eq!(order(&sandbox, ACME, "/refund", &refund)["code"], "400604");
    sandbox.pay(ACME, prepay_id).unwrap();
    let number = json!({"merchantTradeNo": "order-1"});
    let paid = order(&sandbox, ACME, "/query", &number);
    assert_eq!(
        (&paid["status"], &paid["code"], &paid["data"]["status"]),
        (&json!("SUCCESS"), &json!("000000"), &json!("PAID"))
    );
    assert_eq!(
        order(&sandbox, ACME, "/refund", &refund),
        json!({
            "status": "SUCCESS",
            "code": "000000",
            "errorMessage": "",
            "data": {
                "refundRequestId": "refund-1", "prepayId": prepay_id,
                "orderAmount": "1.21", "refundAmount": "0.8", "channelId": "",
            },
        })
    );
    let refund_id = json!({"refundRequestId": "refund-1"});
    let done = order(&sandbox, ACME, "/refund/query", &refund_id);
    assert_eq!(done["data"]["refundStatus"], "REFUND_SUCCESS");

    envelope(&sandbox, &post(CREATE, ACME, &create_body("order-2")));
    let number = json!({"merchantTradeNo": "order-2"});
    let closed = order(&sandbox, ACME, "/close", &number);
    assert_eq!(closed["data"], json!({"result": "SUCCESS"}));
    assert_eq!(
        order(&sandbox, ACME, "/close", &number),
        json!({
            "status": "FAIL",
            "code": "400204",
            "label": "INVALID_ORDER_STATUS",
            "errorMessage": "order status does not allow it",
            "data": null,
        })
    );
}

#[test]
fn a_business_failure_is_http_200_and_an_unknown_path_a_bare_404() {
    let sandbox = start(config());
    let body = r#"{"merchantTradeNo":"none"}"#;
    let (status, _, answer) = call(&sandbox, &post(QUERY, ACME, body));
    assert_eq!(status, 200);
    assert!(answer.contains("400202"), "{answer}");
    for path in ["/v1/pay/order/query", "/nowhere", "/-/sandbox/nowhere"] {
        let (status, _, answer) = call(&sandbox, &post(path, ACME, body));
        assert_eq!((status, answer.as_str()), (404, ""), "{path}");
    }
}

#[test]
fn an_account_that_is_unknown_or_not_active_is_refused() {
    let mut config = config();
    config.sub_accounts.push(SubAccount {
        id: "3".to_owned(),
        status: AccountStatus::Init,
    });
    let sandbox = start(config);
    for account in ["3", "4"] {
        let refused = envelope(&sandbox, &post(CREATE, account, &create_body("order-1")));
        assert_eq!(refused["code"], "400203");
    }
    let received = sandbox.received();
    assert!(received[0].verified && !received[0].executed);
}

#[test]
fn any_bytes_as_body_are_answered() {
    let sandbox = start(config());
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        "{\"env\":{\"env\":[[[[",
        "\"\\ud800\"",
    ] {
        let refused = envelope(&sandbox, &post(CREATE, ACME, body));
        assert_eq!(refused["code"], "400001", "{body:?}");
    }
}

#[test]
fn a_received_request_is_logged_byte_for_byte() {
    let sandbox = start(config());
    let target = format!("{QUERY}?a=%20b");
    let request = post(&target, ACME, r#"{"merchantTradeNo":"none"}"#);
    let (status, _, answer) = call(&sandbox, &request);

    let received = sandbox.received();
    assert_eq!(received.len(), 1);
    let received = &received[0];
    assert_eq!((received.at_ms, received.method.as_str()), (NOW, "POST"));
    assert_eq!(received.target, target);
    assert_eq!(received.header(header::ON_BEHALF_OF), Some(ACME));
    assert_eq!(received.body, r#"{"merchantTradeNo":"none"}"#);
    assert_eq!(received.operation.as_deref(), Some("query_order"));
    assert!(received.verified && received.executed);
    assert_eq!(received.answer_status, Some(status));
    assert_eq!(received.answer_body, answer);

    let signature = received.header(header::SIGNATURE).unwrap();
    assert!(!format!("{received:?}").contains(signature));
    sandbox.clear();
    assert_eq!(sandbox.received(), []);
}

#[test]
fn the_log_of_requests_keeps_the_newest() {
    for (record, targets) in [(0, vec![]), (2, vec!["/2", "/3"])] {
        let mut config = config();
        config.record = record;
        let sandbox = start(config);
        for target in ["/1", "/2", "/3"] {
            call(&sandbox, &post(target, ACME, ""));
        }
        let received = sandbox.received();
        let received: Vec<_> = received.iter().map(|one| one.target.as_str()).collect();
        assert_eq!(received, targets);
    }
}

#[test]
fn a_forged_request_is_remembered_as_not_verified() {
    let sandbox = start(config());
    let request = String::from_utf8(post(QUERY, ACME, r#"{"merchantTradeNo":"none"}"#)).unwrap();
    let forged = request.replace("none", "more");
    let refused = envelope(&sandbox, forged.as_bytes());
    assert_eq!(
        (&refused["code"], &refused["label"]),
        (&json!("400002"), &json!("INVALID_SIGNATURE"))
    );
    assert!(!sandbox.received()[0].verified && !sandbox.received()[0].executed);
}

#[test]
fn orders_are_paid_and_requests_listed_over_the_emulators_own_paths() {
    let sandbox = start(config());
    envelope(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    let signature = sandbox.received()[0]
        .header(header::SIGNATURE)
        .unwrap()
        .to_owned();
    let pay = |body: &str| {
        let length = body.len();
        let request = format!(
            "POST /-/sandbox/pay HTTP/1.1\r\nHost: sandbox\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        envelope(&sandbox, request.as_bytes())["code"].clone()
    };
    assert_eq!(pay(r#"{"prepayId":"50000000000000001"}"#), "000000");
    assert_eq!(pay(r#"{"prepayId":"50000000000000001"}"#), "400620");
    assert_eq!(pay(r#"{"prepayId":"17"}"#), "400202");
    assert_eq!(pay("{}"), "400001");

    let list = b"GET /-/sandbox/received HTTP/1.1\r\nHost: sandbox\r\n\r\n";
    let (_, _, listed) = call(&sandbox, list);
    assert!(!listed.contains(&signature));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        listed.as_array().map(Vec::len),
        Some(1),
        "own paths are not listed"
    );
    assert_eq!(listed[0]["operation"], "create_order");
}

#[test]
fn paying_needs_the_orders_own_sub_account() {
    let sandbox = start(config());
    envelope(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    let prepay_id = "50000000000000001";
    assert_eq!(sandbox.pay(OTHER, prepay_id), Err(ApiFailure::UnknownOrder));
    assert_eq!(sandbox.pay(ACME, prepay_id), Ok(()));
}

#[test]
fn answers_are_dated_by_the_sandboxs_clock() {
    let sandbox = start(config());
    let (_, head, _) = call(&sandbox, &post(QUERY, ACME, "{}"));
    assert!(
        head.contains("date: Thu, 01 Jan 2026 00:00:00 GMT"),
        "{head}"
    );
}

#[test]
fn every_answer_can_be_held_back() {
    let mut config = config();
    config.answer_delay = Duration::from_millis(20);
    let sandbox = start(config);
    let began = std::time::Instant::now();
    call(&sandbox, &post(QUERY, ACME, "{}"));
    assert!(began.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let sandbox = start(config());
    let mut requests = post(QUERY, ACME, "{}");
    let last = String::from_utf8(post(QUERY, ACME, "{}")).unwrap();
    requests.extend(
        last.replacen("\r\n", "\r\nConnection: close\r\n", 1)
            .into_bytes(),
    );
    let (answers, end) = exchange(&sandbox, &requests);
    end.unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2);
}

#[test]
fn the_sandbox_stops_when_told_or_when_its_last_handle_is_dropped() {
    let sandbox = start(config());
    let (address, other) = (sandbox.address(), sandbox.clone());
    drop(sandbox);
    assert!(TcpStream::connect(address).is_ok());
    drop(other);
    assert!(TcpStream::connect(address).is_err());

    let sandbox = Sandbox::start(config(), address).unwrap();
    sandbox.stop();
    sandbox.stop();
    assert!(TcpStream::connect(address).is_err());
}
