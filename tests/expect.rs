//! `Expect: 100-continue` (RFC 9110, section 10.1.1): a caller that waits before sending its body gets 100, or a
//! refusal instead.

use crate::support::abuse::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, head};
use crate::support::scripted::Scripted;
use crate::support::streams::{self, Streams};
use crate::support::tls::{Caller, Files, Pair};
use crate::support::*;
use bytes::Bytes;
use h2::Reason;
use std::time::Duration;

fn expecting(call: Call) -> Call {
    call.header("expect", "100-continue")
}

/// A call that waits for 100, with this announced `length` in bytes.
fn announcing(call: Call, length: usize) -> Call {
    expecting(call).header("content-length", &length.to_string())
}

/// The statuses for an HTTP/1 caller that sends its body after 100, and only then.
async fn told_over_http1(proxy: &Proxy, call: &Call, body: &str) -> Vec<u16> {
    let mut caller = proxy.raw().await;
    caller.write(call.head(&proxy.clock, "x-end: 1")).await;
    let mut told = Vec::new();
    loop {
        let status = caller.answer().await.status;
        told.push(status);
        if status != 100 {
            return told;
        }
        caller.write(body).await;
    }
}

/// The same over HTTP/2.
async fn told_over_http2(proxy: &Proxy, call: &Call, body: &'static str) -> Vec<u16> {
    let connection = Streams::open(proxy.address()).await;
    let mut stream = connection.begin(call, &proxy.clock, false).await;
    let mut told = Vec::new();
    while let Some(status) = stream.informed().await {
        told.push(status);
        let body = Bytes::from_static(body.as_bytes());
        stream.body.send_data(body, true).unwrap();
    }
    let (answer, _) = stream.answer().await;
    assert!(!answer.body.is_empty(), "a whole answer");
    told.push(answer.status);
    told
}

#[tokio::test]
async fn a_caller_that_waits_is_told_to_send_its_body_or_refused_instead_over_either_http() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let query = || acme().post(QUERY, BY_NUMBER);
    let length = BY_NUMBER.len();
    let nobody = Shop::new("x", "client-nobody", "fake-other-secret-9999", "1");
    for (name, call, told) in [
        ("a good call", announcing(query(), length), &[100, 200][..]),
        (
            "in capitals",
            query()
                .header("content-length", &length.to_string())
                .header("Expect", "100-Continue"),
            &[100, 200],
        ),
        (
            "a signature that does not fit its body",
            announcing(query().secret("fake-other"), length),
            &[100, 401],
        ),
        (
            "an unknown path",
            announcing(acme().post("/v1/nowhere", BY_NUMBER), length),
            &[404],
        ),
        (
            "an unknown client",
            announcing(nobody.post(QUERY, BY_NUMBER), length),
            &[401],
        ),
        (
            "a stale timestamp",
            announcing(query().timestamp(&(T0 - 300_001)), length),
            &[401],
        ),
        (
            "no signature",
            announcing(query().without("x-gatepay-signature"), length),
            &[400],
        ),
        ("too long a body", announcing(query(), 8 << 20), &[413]),
        (
            "another kind of body",
            announcing(query().instead("content-type", "text/xml"), length),
            &[415],
        ),
        (
            "another expectation",
            query()
                .header("expect", "200-ok")
                .header("content-length", &length.to_string()),
            &[400],
        ),
        (
            "two expectations",
            announcing(query(), length).header("expect", "100-continue"),
            &[400],
        ),
    ] {
        assert_eq!(
            told_over_http1(&proxy, &call, BY_NUMBER).await,
            told,
            "{name}, HTTP/1"
        );
        assert_eq!(
            told_over_http2(&proxy, &call, BY_NUMBER).await,
            told,
            "{name}, HTTP/2"
        );
    }
}

#[tokio::test]
async fn a_caller_over_tls_gets_its_100_continue_too() {
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let files = Files::of(&pair);
    let named = files.named();
    let proxy = Proxy::before(&gatepay)
        .with(move |settings| settings.listen.tls = Some(named))
        .start();
    let caller = Caller::speaking(&[&rustls::version::TLS13], &["h2"], &[&pair], None);
    let tls = caller.connect(proxy.address()).await.unwrap();
    let connection = Streams::over(tls).await;
    let call = announcing(acme().post(QUERY, BY_NUMBER), BY_NUMBER.len());
    let mut stream = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(stream.informed().await, Some(100));
    stream.body.send_data(BY_NUMBER.into(), true).unwrap();
    assert_eq!(stream.answer().await.0.status, 200);
}

#[tokio::test]
async fn a_caller_gets_one_100_continue_however_its_body_arrives() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let connection = Streams::open(proxy.address()).await;
    // Without a length, and in pieces.
    let call = expecting(acme().post(QUERY, BY_NUMBER));
    let mut stream = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(stream.informed().await, Some(100));
    for piece in BY_NUMBER.as_bytes().chunks(5) {
        stream.body.send_data(piece.into(), false).unwrap();
        tokio::task::yield_now().await;
    }
    stream.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(stream.informed().await, None);
    assert_eq!(stream.answer().await.0.status, 200);
}

#[tokio::test]
async fn a_body_that_has_arrived_or_ended_gets_no_100_continue() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    // Head and body in one write.
    let call = announcing(acme().post(QUERY, BY_NUMBER), BY_NUMBER.len());
    let lines = call.lines(&proxy.clock);
    let fields = http2_fields("POST", QUERY, &lines);
    let mut caller = proxy.raw().await;
    let begin = [PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat();
    let request = [
        frame(HEADERS, END_HEADERS, 1, &head(&fields)),
        frame(DATA, END_STREAM, 1, BY_NUMBER.as_bytes()),
    ];
    caller.write([begin, request.concat()].concat()).await;
    let heads = heads_on_stream_one(&mut caller).await;
    assert_eq!(heads, 1, "the final answer alone");

    // The head is the end.
    let connection = Streams::open(proxy.address()).await;
    let call = expecting(acme().get(DETAILS));
    let mut stream = connection.begin(&call, &proxy.clock, true).await;
    assert_eq!(stream.informed().await, None);
    assert_eq!(stream.answer().await.0.status, 200);

    // A body of no bytes whose end the caller holds back.
    let call = announcing(acme().get(DETAILS), 0);
    let mut stream = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(stream.informed().await, Some(100));
    stream.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(stream.answer().await.0.status, 200);
}

/// The number of heads on the first stream until the stream ends.
async fn heads_on_stream_one(caller: &mut Raw) -> usize {
    let mut heads = 0;
    loop {
        let (kind, flags, stream, _) = caller.frame().await;
        if stream == 1 {
            heads += usize::from(kind == HEADERS);
            if flags & END_STREAM != 0 {
                return heads;
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_is_told_and_sends_nothing_is_refused_in_its_time() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.body_timeout = Duration::from_millis(200))
        .start();
    let connection = Streams::open(proxy.address()).await;
    let call = announcing(acme().post(QUERY, BY_NUMBER), BY_NUMBER.len());
    let mut stream = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(stream.informed().await, Some(100));
    let (answer, mut body) = stream.answer().await;
    assert_eq!(answer.refused(), (408, "request_timeout"));
    assert_eq!(streams::reset(&mut body).await, Reason::NO_ERROR);
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_is_noticed() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream).start();
    let connection = Streams::open(proxy.address()).await;
    let call = announcing(acme().post(QUERY, BY_NUMBER), BY_NUMBER.len());
    let mut told = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(told.informed().await, Some(100));
    told.body.send_reset(Reason::CANCEL);
    let mut sent = connection.begin(&call, &proxy.clock, false).await;
    assert_eq!(sent.informed().await, Some(100));
    sent.body.send_data(BY_NUMBER.into(), true).unwrap();
    until("the second is at GatePay", || upstream.count() == 1).await;
    sent.body.send_reset(Reason::CANCEL);
    proxy.counts("in_flight 0").await;
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 2);
    assert!(
        lines.iter().all(|line| line["caller_left"] == true),
        "{lines:?}"
    );
}

/// A refusal is not held back until the body is there, and the caller may go on sending.
#[tokio::test]
async fn a_refused_caller_that_still_sends_is_answered_first_and_the_connection_lasts() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let connection = Streams::open(proxy.address()).await;
    for expects in [false, true] {
        let call = acme().post("/v1/nowhere", BY_NUMBER);
        let call = if expects { expecting(call) } else { call };
        let stream = connection.begin(&call, &proxy.clock, false).await;
        let (answer, mut body) = stream.answer().await;
        assert_eq!(answer.refused(), (404, "unknown_operation"));
        assert_eq!(
            streams::send(&mut body, 5 << 20).await,
            None,
            "all of it is taken"
        );
    }
    let call = acme().get(DETAILS);
    let stream = connection.begin(&call, &proxy.clock, true).await;
    assert_eq!(stream.answer().await.0.status, 200);
}

#[tokio::test]
async fn a_refused_body_without_end_is_reset_without_an_error_and_the_connection_lasts() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.body_timeout = Duration::from_millis(200))
        .start();
    let connection = Streams::open(proxy.address()).await;
    let call = acme().post("/v1/nowhere", BY_NUMBER);
    let stream = connection.begin(&call, &proxy.clock, false).await;
    let (answer, mut body) = stream.answer().await;
    assert_eq!(answer.status, 404);
    let reason = streams::send(&mut body, usize::MAX).await;
    assert_eq!(reason, Some(Reason::NO_ERROR));
    let stream = connection
        .begin(&acme().get(DETAILS), &proxy.clock, true)
        .await;
    assert_eq!(stream.answer().await.0.status, 200);
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let connection = Streams::open(proxy.address()).await;
    let call = acme().get("/v1/nowhere").method(http::Method::HEAD);
    let stream = connection.begin(&call, &proxy.clock, true).await;
    let (answer, _) = stream.answer().await;
    assert_eq!(answer.refused(), (404, "unknown_operation"));
    assert_ne!(answer.header("content-length"), None);
    assert!(answer.header("date").is_some() && answer.body.is_empty());
}
