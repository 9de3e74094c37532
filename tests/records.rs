use crate::support::scripted::{Scripted, Then, chunks};
use crate::support::*;
use gatepay_sandbox::InjectedFault;
use gatepay_tenancy::settings::LogFormat;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;

/// Some of a line's fields.
fn fields(line: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| line[name].clone()).collect()
}

const WHAT: [&str; 6] = [
    "tenant",
    "operation",
    "outcome",
    "refusal",
    "key",
    "caller_left",
];

#[tokio::test]
async fn every_request_leaves_one_line_under_the_id_its_answer_has() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.resolve = Duration::from_millis(600))
        .start();
    let create = || acme().post(CREATE, order("A-0001"));
    let cases = [
        (
            create(),
            json!(["acme", "create_order", "success", null, "A-0001", false]),
        ),
        (
            create(),
            json!(["acme", "create_order", "failure", null, "A-0001", false]),
        ),
        (
            globex().post(QUERY, BY_NUMBER),
            json!(["globex", "query_order", "failure", null, null, false]),
        ),
        (
            acme().post(REFUND, A_REFUND),
            json!(["acme", "refund_order", "failure", null, "R-0001", false]),
        ),
        (
            create().secret("fake-other"),
            json!([
                "acme",
                "create_order",
                "refused",
                "signature_mismatch",
                null,
                false
            ]),
        ),
        (
            create().without("x-gatepay-nonce"),
            json!([
                null,
                "create_order",
                "refused",
                "malformed_request",
                null,
                false
            ]),
        ),
        (
            acme().post("/none", "{}"),
            json!([null, null, "refused", "unknown_operation", null, false]),
        ),
        (
            acme().post(QUERY, "{}"),
            json!([
                "acme",
                "query_order",
                "refused",
                "invalid_body",
                null,
                false
            ]),
        ),
    ];
    let mut ids = Vec::new();
    for (call, _) in &cases {
        ids.push(proxy.send(call.clone()).await.request_id());
    }
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    ids.push(
        proxy
            .send(acme().post(CREATE, order("A-0002")))
            .await
            .request_id(),
    );

    let lines = proxy.stop().await;
    let line = |id: &String| {
        let mut with_id = lines.iter().filter(|line| line["id"] == **id);
        let line = with_id.next().expect("a line for every answer");
        assert!(with_id.next().is_none(), "one line for every answer");
        line
    };
    for (id, (_, expected)) in ids.iter().zip(&cases) {
        assert_eq!(fields(line(id), &WHAT), *expected);
    }
    let unknown = json!([
        "acme",
        "create_order",
        "unknown",
        "outcome_unknown",
        "A-0002",
        false
    ]);
    assert_eq!(fields(line(&ids[8]), &WHAT), unknown);
    assert_eq!(lines.len(), ids.len());
}

#[tokio::test]
async fn a_caller_that_gets_the_head_it_requested_has_not_left() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let answer = proxy.send(acme().get("/none").method(Method::HEAD)).await;
    assert_eq!((answer.status, answer.body.len()), (404, 0));
    let lines = proxy.stop().await;
    let expected = json!([null, null, "refused", "unknown_operation", null, false]);
    assert_eq!(fields(&lines[0], &WHAT), expected);
}

#[tokio::test]
async fn an_access_line_answers_an_operators_first_questions() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let body = order("A-0001");
    let answer = proxy.send(acme().post(CREATE, body.clone())).await;
    let lines = proxy.stop().await;
    let expected = json!({
        "time": "2026-01-01T00:00:00.000Z", "level": "info", "id": answer.request_id(),
        "trace_id": null, "parent_id": null, "span_id": null, "tenant": "acme", "client_id": "client-acme",
        "operation": "create_order", "kind": "write", "key": "A-0001", "outcome": "success", "refusal": null,
        "detail": null, "status": 200, "code": "000000", "bytes_in": body.len(), "bytes_out": answer.body.len(),
        "ms": 0.0, "own_ms": 0.0, "body_ms": 0.0, "journal_ms": 0.0, "connect_ms": 0.0, "upstream_ms": 0.0, "look_up_ms": null,
        "relay_ms": 0.0, "attempts": 1, "observed": null, "peer": "127.0.0.1", "caller_left": false,
    });
    assert_eq!(lines, [expected]);
}

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_callers_trace_is_logged_and_answered_and_goes_no_further() {
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.log.sample_successes = 0.0)
        .start();
    let traced = |trace: &str| acme().get(DETAILS).header("traceparent", trace);
    let answer = proxy.send(traced(TRACE)).await;
    assert_eq!(answer.status, 200);
    let id = answer.request_id();
    let ours = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", &id[..16]);
    assert_eq!(answer.headers["traceresponse"], ours.as_str());
    assert!(!upstream.received_text().contains("traceparent"));
    for bad in [
        "",
        "00-0-0-0",
        &TRACE.to_uppercase(),
        &TRACE.replace("00-0", "ff-0"),
    ] {
        let answer = proxy.send(traced(bad)).await;
        assert!(!answer.headers.contains_key("traceresponse"), "{bad}");
    }
    let refused = proxy.send(traced(TRACE).secret("fake-other")).await;
    assert!(refused.headers.contains_key("traceresponse"));

    // A caller will look for its sampled request; the other successes are left out.
    proxy.counts("access_lines_left_out_total 4").await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 2);
    let line = lines.iter().find(|line| line["id"] == *id);
    let names = ["id", "trace_id", "parent_id", "span_id"];
    let expected = json!([
        id,
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
        id[..16]
    ]);
    assert_eq!(fields(line.unwrap(), &names), expected);
}

#[tokio::test]
async fn only_routine_successes_are_sampled() {
    let upstream = Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#);
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.log.sample_successes = 0.25)
        .start();
    let mut caller = proxy.connect().await;
    for _ in 0..400 {
        let read = acme().get(DETAILS).request(&proxy.clock);
        assert_eq!(caller.send(read).await.status, 200);
    }
    let money = proxy.send(acme().post(REFUND, A_REFUND)).await;
    let stranger = acme().get(DETAILS).secret("fake-other");
    let kept = [money, proxy.send(stranger).await].map(|answer| answer.request_id());
    let lines = proxy.stop().await;
    for id in &kept {
        assert!(lines.iter().any(|line| line["id"] == **id));
    }
    // A quarter of 400 is 100; a count beyond these bounds happens once in ten million runs.
    let reads = lines.len() - kept.len();
    assert!((55..=150).contains(&reads), "{reads}");
}

#[tokio::test]
async fn a_terminal_gets_lines_for_people() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.log.format = LogFormat::Human)
        .start();
    let id = proxy
        .send(acme().post(CREATE, order("A-0001")))
        .await
        .request_id();
    proxy.counts("in_flight 0").await;
    let text = proxy.stop_and_read().await;
    let wanted = "2026-01-01T00:00:00.000Z info  acme create_order success 200 code=\"000000\" key=\"A-0001\" 0ms own=0ms \
                  gatepay=0ms attempts=1";
    assert!(text.starts_with(wanted) && text.contains(&id), "{text}");
    assert_eq!(text.lines().count(), 1);
}

/// Sends this call, resets the connection once GatePay has the call, and lets GatePay answer after the proxy saw that.
async fn leave_during(call: Call) -> (Vec<Value>, usize) {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream).start();
    let mut caller = proxy.raw().await;
    caller.write(call.bytes(&proxy.clock)).await;
    until("GatePay has it", || upstream.count() == 1).await;
    caller.reset();
    proxy.counts("connections 0").await;
    upstream.release();
    proxy.counts("in_flight 0").await;
    (proxy.stop().await, upstream.count())
}

#[tokio::test]
async fn a_write_ends_though_its_caller_left() {
    let (lines, sent) = leave_during(acme().post(CREATE, order("A-0001"))).await;
    assert_eq!((lines.len(), sent), (1, 1));
    let expected = json!(["acme", "create_order", "success", null, "A-0001", true]);
    assert_eq!(fields(&lines[0], &WHAT), expected);
    assert_eq!(
        fields(&lines[0], &["status", "code"]),
        json!([200, "000000"])
    );
}

#[tokio::test]
async fn a_key_is_recorded_in_any_letter_case() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let refund = |name: &str| A_REFUND.replace("refundRequestId", name);
    let clear = format!("{CLOSE}?PREPAYID=7");
    let unclear = format!("{CLOSE}?prepayId=7;8");
    let calls = [
        (
            acme().post(
                CREATE,
                order("A-1").replace("merchantTradeNo", "MerchantTradeNo"),
            ),
            json!("A-1"),
        ),
        (
            acme().post(REFUND, refund("RefundRequestID")),
            json!("R-0001"),
        ),
        (
            acme().post(REFUND, refund(r"refund\u0052EQUESTId")),
            json!("R-0001"),
        ),
        (acme().post(&clear, "{}"), json!("7")),
        // One parser may take the value as 7, another as 7;8.
        (acme().post(&unclear, "{}"), Value::Null),
    ];
    let mut keys = Vec::new();
    for (call, key) in calls {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refusal(), None, "{key}");
        keys.push((answer.request_id(), key));
    }
    let lines = proxy.stop().await;
    for (id, key) in keys {
        let line = lines.iter().find(|line| line["id"] == id);
        assert_eq!(line.unwrap()["key"], key, "{id}");
    }
}

#[tokio::test]
async fn a_read_ends_with_its_caller() {
    let (lines, sent) = leave_during(acme().post(QUERY, BY_NUMBER)).await;
    assert_eq!((lines.len(), sent), (1, 1));
    let expected = json!(["acme", "query_order", "caller_left", null, null, true]);
    assert_eq!(fields(&lines[0], &WHAT), expected);
}

#[tokio::test]
async fn a_caller_that_leaves_within_its_own_body_is_recorded_and_nothing_is_sent() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let all = acme().post(CREATE, order("A-0001")).bytes(&proxy.clock);
    let mut caller = proxy.raw().await;
    caller.write(&all[..all.len() - 1]).await;
    proxy.counts("in_flight 1").await;
    drop(caller);
    proxy.counts("in_flight 0").await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 1);
    let expected = json!(["acme", "create_order", "refused", "malformed_request", null]);
    assert_eq!(fields(&lines[0], &WHAT[..5]), expected);
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_long_answer_that_was_cut_is_one_line_and_not_a_success() {
    let cut = chunks(&vec![b'x'; 100 << 10], 9_999);
    let upstream = Scripted::always(Then::AnswerAndClose(cut));
    let proxy = Proxy::before_scripted(&upstream).start();
    let request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
    assert!(proxy.connect().await.try_send(request).await.is_err());
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 1);
    let expected = json!(["acme", "query_order", "unknown", null, null, true]);
    assert_eq!(fields(&lines[0], &WHAT), expected);
}
