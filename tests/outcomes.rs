use crate::support::scripted::{Scripted, Then, answer, chunks};
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const NUMBER: &str = "A-0001";

fn create() -> Call {
    acme().post(CREATE, order(NUMBER))
}

#[tokio::test]
async fn where_nothing_listens_nothing_was_executed() {
    let nowhere = Nowhere::reserve();
    let proxy = Proxy::at(&nowhere.url(), &Clock::manual(T0)).start();
    for call in [
        create(),
        acme().post(REFUND, A_REFUND),
        acme().post(QUERY, BY_NUMBER),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (502, "upstream_unreachable"));
        assert_eq!(answer.outcome(), Some("not-executed"));
    }
}

#[tokio::test]
async fn a_call_that_was_sent_and_not_answered_is_unknown_and_not_sent_again() {
    for (fault, executed) in [
        (InjectedFault::ResetBeforeReading, 0),
        (InjectedFault::ResetBeforeExecuting, 0),
        (InjectedFault::ResetAfterExecuting, 1),
        (InjectedFault::ResetMidAnswer { after_bytes: 0 }, 1),
        (InjectedFault::ResetMidAnswer { after_bytes: 9 }, 1),
        (InjectedFault::ResetMidAnswer { after_bytes: 120 }, 1),
        (InjectedFault::Truncated, 1),
        (InjectedFault::Garbage("once upon a time\r\n\r\n".into()), 1),
    ] {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay).start();
        gatepay.inject(fault.clone().once());
        let answer = proxy.send(create()).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"), "{fault:?}");
        assert_eq!(answer.outcome(), Some("unknown"), "{fault:?}");
        let advice = "ask POST /v1/pay/order/query by merchantTradeNo A-0001";
        assert!(answer.message().contains(advice), "{}", answer.message());
        assert_eq!(
            (gatepay.count(), gatepay.executed()),
            (1, executed),
            "{fault:?}"
        );

        let found = proxy.send(acme().post(QUERY, BY_NUMBER)).await;
        let code = if executed == 1 { "000000" } else { "400202" };
        assert_eq!(found.code(), code, "{fault:?}: what the advice finds");
        let lines = proxy.stop().await;
        let mut unknown = lines.iter().filter(|line| line["outcome"] == "unknown");
        assert_eq!(
            unknown.next().map(|line| &line["attempts"]),
            Some(&1.into())
        );
    }
}

#[tokio::test]
async fn money_on_a_connection_that_was_used_before_is_not_sent_twice_either() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.threads = Some(1.try_into().unwrap()))
        .start();
    for fault in [
        InjectedFault::ResetBeforeReading,
        InjectedFault::ResetAfterExecuting,
    ] {
        assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
        gatepay.sandbox.clear();
        gatepay.inject(fault.clone().once());
        let answer = proxy.send(acme().post(REFUND, A_REFUND)).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"), "{fault:?}");
        let advice = "ask GET /v2/pay/refund/details by refundRequestId R-0001";
        assert!(answer.message().contains(advice), "{}", answer.message());
        assert_eq!(gatepay.count(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_leaves_the_outcome_unknown() {
    for fault in [
        InjectedFault::Delay(PATIENCE),
        InjectedFault::Drip(Duration::from_secs(5)),
    ] {
        let gatepay = GatePay::start();
        let proxy = Proxy::before(&gatepay)
            .with(|settings| settings.upstream.deadline = Duration::from_secs(1))
            .start();
        gatepay.inject(fault.clone().once());
        let answer = proxy.send(create()).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"), "{fault:?}");
        assert_eq!((gatepay.count(), gatepay.executed()), (1, 1), "{fault:?}");
        assert_eq!(
            proxy.send(acme().post(QUERY, BY_NUMBER)).await.code(),
            "000000"
        );
    }
}

#[tokio::test]
async fn a_long_answer_that_stops_coming_is_given_up() {
    let upstream = Scripted::always(Then::Answer(chunks(&vec![b'x'; 200 << 10], 9_999)));
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.upstream.deadline = Duration::from_secs(1))
        .start();
    let request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
    assert!(proxy.connect().await.try_send(request).await.is_err());
    assert_eq!(proxy.stop().await[0]["outcome"], "unknown");
}

#[tokio::test]
async fn a_verdict_on_the_institutions_own_signature_is_not_the_tenants_to_read() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for failure in [
        ApiFailure::InvalidSignature,
        ApiFailure::StaleTimestamp,
        ApiFailure::UnknownClient,
        ApiFailure::MalformedNonce,
    ] {
        gatepay.inject(InjectedFault::Failure(failure).once());
        let answer = proxy.send(create()).await;
        assert_eq!(answer.refused(), (502, "institution_rejected"), "{failure}");
        assert_eq!(
            (answer.outcome(), answer.code()),
            (Some("not-executed"), "900018".to_owned())
        );
        let text = answer.text();
        assert!(
            !text.contains(failure.code()) && !text.contains(failure.label()),
            "{text}"
        );
    }
    let count = r#"refusals_total{reason="institution_rejected"} 4"#;
    proxy.counts(count).await;
}

#[tokio::test]
async fn a_wrong_institution_secret_is_the_institutions_fault() {
    let gatepay = GatePay::with(|config| {
        config.institution = vec![credential(INSTITUTION_ID, "fake-rotated-away")];
    });
    let proxy = Proxy::before(&gatepay).start();
    let answer = proxy.send(create()).await;
    assert_eq!(answer.refused(), (502, "institution_rejected"));
    assert!(!gatepay.last().verified);
    assert_eq!(gatepay.executed(), 0);
}

#[tokio::test]
async fn without_a_valid_institution_credential_nothing_is_sent() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| whole(&mut settings.institution).credentials[0].not_before = Some(T0 + 1))
        .start();
    let answer = proxy.send(create()).await;
    assert_eq!(answer.refused(), (500, "internal"));
    assert_eq!(
        (answer.outcome(), gatepay.count()),
        (Some("not-executed"), 0)
    );
    proxy.clock.advance(Duration::from_millis(1));
    assert_eq!(proxy.send(create()).await.refused(), (200, "not refused"));
}

#[tokio::test]
async fn other_failures_are_relayed_with_their_code() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (call, code) in [
        (create(), "000000"),
        (create(), "400201"),
        (acme().post(REFUND, A_REFUND), "400202"),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!((answer.status, answer.refusal()), (200, None));
        assert_eq!(answer.code(), code);
    }
}

const CREATED: &str = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"17"}}"#;

/// The answer to a create when GatePay sends these bytes and closes.
async fn told(wire: impl Into<Vec<u8>>) -> Answer {
    let upstream = Scripted::always(Then::AnswerAndClose(wire.into()));
    let proxy = Proxy::before_scripted(&upstream).start();
    let answer = proxy.send(create()).await;
    assert_eq!(upstream.count(), 1, "written once");
    answer
}

#[tokio::test]
async fn an_answer_that_is_whole_is_relayed_however_it_is_framed() {
    let length = CREATED.len();
    for wire in [
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{CREATED}"
        ),
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{CREATED}"
        ),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ncontent-length: {length}\r\n\r\n{CREATED}"
        ),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{CREATED}\r\n0\r\n\r\n"
        ),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n{length:x}\r\n{CREATED}\r\n0\r\nx-sum: 1\r\n\r\n"
        ),
        // The answer ends with its connection: a single whole JSON text shows that no part is missing.
        format!("HTTP/1.1 200 OK\r\n\r\n{CREATED}"),
        format!("HTTP/1.0 200 OK\r\n\r\n{CREATED}"),
    ] {
        let answer = told(wire.clone()).await;
        assert_eq!(answer.refused(), (200, "not refused"), "{wire}");
        assert_eq!(
            (&*answer.body, answer.header("x-sum")),
            (CREATED.as_bytes(), None),
            "{wire}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_not_surely_whole_leaves_the_outcome_unknown() {
    let (length, half) = (CREATED.len(), &CREATED[..30]);
    for wire in [
        String::new(),
        "HTTP/1.1 100 Continue\r\n\r\n".to_owned(),
        "HTTP/1.1 200".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\n\r\n{half}"),
        "HTTP/1.0 502 Bad Gateway\r\n\r\n<html>".to_owned(),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{half}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{CREATED}\r\n"),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{CREATED}\r\n0\r\n"
        ),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n{CREATED}"),
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: {length}\r\n\r\n{CREATED}"
        ),
        format!("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{CREATED}"),
        format!("HTTP/9.9 200 OK\r\ncontent-length: {length}\r\n\r\n{CREATED}"),
    ] {
        let answer = told(wire.clone()).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"), "{wire}");
        assert_eq!(answer.outcome(), Some("unknown"), "{wire}");
    }
}

#[tokio::test]
async fn a_long_answer_to_what_changes_something_is_judged_before_any_of_it_is_relayed() {
    let long = |bytes: usize| {
        let filling = "x".repeat(bytes);
        format!(r#"{{"status":"SUCCESS","code":"000000","data":"{filling}"}}"#).into_bytes()
    };
    let whole = long(200 << 10);
    let relayed = told(answer("200 OK", "", &whole)).await;
    assert_eq!((relayed.status, relayed.body.len()), (200, whole.len()));
    let mut cut = answer("200 OK", "", &whole);
    cut.pop();
    for wire in [
        cut,
        chunks(&whole, 9_999),
        answer("200 OK", "", &long(2 << 20)),
    ] {
        assert_eq!(told(wire).await.refused(), (504, "outcome_unknown"));
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_was_written_is_relayed_or_unknown() {
    // The upstream answers at the head's end and closes before the body is read, as a gateway with a body limit does.
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let refused = answer(
        "413 Too Large",
        "connection: close\r\n",
        br#"{"status":"FAIL","code":"413"}"#,
    );
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            stream.read_exact(&mut head).await.unwrap();
            stream.write_all(&refused).await.unwrap();
        }
    });
    let proxy = Proxy::at(&url, &Clock::manual(T0)).start();
    for bytes in [1_000, 900_000] {
        let body = order("A-0001").replace("NF2T", &"x".repeat(bytes));
        let answer = proxy.send(acme().post(CREATE, body)).await;
        let refused = answer.refused();
        assert!(
            refused == (413, "not refused") || refused == (504, "outcome_unknown"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_kept_connection_that_gatepay_closed_costs_no_caller_its_answer() {
    let body = br#"{"status":"SUCCESS","code":"000000","data":{}}"#;
    let upstream = Scripted::always(Then::AnswerAndClose(answer("200 OK", "", body)));
    let proxy = Proxy::before_scripted(&upstream).start();
    let mut caller = proxy.connect().await;
    for number in 1..=20 {
        let call = acme().post(CREATE, order(&format!("A-{number:04}")));
        let answer = caller.send(call.request(&proxy.clock)).await;
        assert_eq!(answer.refused(), (200, "not refused"), "number {number}");
        // A request sent while GatePay is closing may be lost, and is reported as lost; here GatePay has closed.
        until("GatePay closed it", || upstream.closed() == number).await;
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 20));
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_call() {
    let upstream = Scripted::body("{}");
    let proxy = Proxy::before_scripted(&upstream).start();
    let mut caller = proxy.connect().await;
    for _ in 0..20 {
        let request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
        assert_eq!(caller.send(request).await.status, 200);
    }
    assert_eq!((upstream.count(), upstream.connections()), (20, 1));
}

#[tokio::test]
async fn clients_that_read_only_the_envelope_are_told_in_gatepays_own_words() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.refusal_status = gatepay_tenancy::settings::RefusalStatus::Gatepay;
        })
        .start();
    let answer = proxy.send(create().secret("fake-other")).await;
    assert_eq!(answer.refused(), (200, "signature_mismatch"));
    assert_eq!(
        (answer.json()["status"].as_str(), &*answer.code()),
        (Some("FAIL"), "400002")
    );
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    let answer = proxy.send(create()).await;
    assert_eq!(answer.refused(), (500, "outcome_unknown"));
    assert_eq!(
        (answer.outcome(), &*answer.code()),
        (Some("unknown"), "400000")
    );
}
