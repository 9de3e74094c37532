//! `not-executed` concerns a stamp, not a single delivery: no copy of the request was executed, by any path.

use crate::support::scripted::Scripted;
use crate::support::*;
use bytes::Bytes;
use gatepay_tenancy::settings::RefusalStatus;
use http::Request;
use http_body_util::Full;
use std::time::Duration;

const PATH: &str = "/v2/pay/refund/details";

fn refund() -> Call {
    acme()
        .post(REFUND, A_REFUND)
        .nonce("once")
        .timestamp(&(T0 - 1_000))
}

fn answering() -> Scripted {
    Scripted::body(r#"{"status":"SUCCESS","code":"000000","data":{}}"#)
}

/// A refund that this proxy executed.
async fn executed(proxy: &Proxy) -> Request<Full<Bytes>> {
    let request = refund().request(&proxy.clock);
    let answer = proxy.connect().await.send(request.clone()).await;
    assert_eq!(answer.refused(), (200, "not refused"));
    request
}

/// The answer refuses the call for this reason, its outcome is unknown, and the message names the look-up.
fn in_doubt(answer: &Answer, refused: (u16, &str), key: &str) {
    assert_eq!(answer.refused(), refused, "{}", answer.message());
    assert_eq!(answer.outcome(), Some("unknown"), "{refused:?}");
    let look_up = format!("{PATH} by refundRequestId{key} before anything else");
    let message = answer.message();
    assert!(message.contains(&look_up), "{message}");
    assert!(!message.contains("sign anew"), "{message}");
}

#[tokio::test]
async fn after_a_crash_the_outcome_of_a_refund_sent_again_is_unknown() {
    let upstream = answering();
    let before = Proxy::before_scripted(&upstream).start();
    let request = executed(&before).await;
    let after = Proxy::before_scripted(&upstream).after_a_crash().start();
    let answer = after.connect().await.send(request.clone()).await;
    in_doubt(&answer, (503, "starting"), " R-0001");
    // The outcome stays uncertain after the guard.
    after.clock.advance(Duration::from_secs(11));
    let answer = after.connect().await.send(request.clone()).await;
    in_doubt(&answer, (503, "starting"), " R-0001");
    after.clock.advance(Duration::from_mins(5));
    let answer = after.connect().await.send(request).await;
    in_doubt(&answer, (401, "stale_timestamp"), "");
    assert_eq!(upstream.count(), 1);
}

/// A read executes nothing, but its stamp may be that of a call that does: the signature does not cover the path.
#[tokio::test]
async fn an_executed_refund_sent_again_by_the_path_of_a_read_is_unknown_for_every_refusal() {
    let upstream = answering();
    let before = Proxy::before_scripted(&upstream).start();
    executed(&before).await;
    let by_a_read = || {
        let call = acme().post(QUERY, A_REFUND).nonce("once");
        call.timestamp(&(T0 - 1_000))
    };
    let after = Proxy::before_scripted(&upstream).after_a_crash().start();
    let starting = after.send(by_a_read()).await;
    assert_eq!(starting.refused(), (503, "starting"));
    before.clock.advance(Duration::from_mins(10));
    until("it forgets", || {
        before.app().admission.replay.horizon() > T0
    })
    .await;
    let stale = before.send(by_a_read()).await;
    assert_eq!(stale.refused(), (401, "stale_timestamp"));
    for answer in [starting, stale] {
        assert_eq!(answer.outcome(), Some("unknown"));
        let message = answer.message();
        assert!(
            message.contains("may be repeated, signed anew"),
            "{message}"
        );
        assert!(message.contains("look that one up"), "{message}");
    }
    assert_eq!(upstream.count(), 1);
}

/// Sends this head, with the body of a refund, and nothing behind it; returns the answer.
async fn refused_head(proxy: &Proxy, head: &str) -> Answer {
    let mut caller = proxy.raw().await;
    caller.write(format!("{head}{A_REFUND}")).await;
    let answer = caller.answer().await;
    assert!(answer.refusal().is_some(), "{head}");
    answer
}

/// A change of a head on its way.
type Tear<'a> = &'a dyn Fn(&str) -> String;

#[tokio::test]
async fn a_copy_of_an_executed_refund_whose_head_cannot_be_read_is_unknown() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream).start();
    executed(&proxy).await;
    let head = |nonce: &str| {
        let call = acme().post(REFUND, A_REFUND).nonce(nonce);
        let call = call.timestamp(&(T0 - 1_000));
        let bytes = call.head(&proxy.clock, "content-length: 77");
        String::from_utf8(bytes).unwrap()
    };
    let long = format!("x: {}\r\n", "y".repeat(64 << 10));
    let many = "x: y\r\n".repeat(70);
    let after_the_request_line =
        |head: &str, line: &str| head.replacen("\r\n", &format!("\r\n{line}"), 1);
    let at_the_end =
        |head: &str, line: &str| head.replacen("\r\n\r\n", &format!("\r\n{line}\r\n"), 1);
    let torn: [(&str, Tear); 16] = [
        ("two hosts", &|head| {
            after_the_request_line(head, "Host: x\r\n")
        }),
        ("no host", &|head| head.replace("host:", "x-host:")),
        ("two lengths", &|head| {
            after_the_request_line(head, "content-length: 1\r\n")
        }),
        ("a length and chunks", &|head| {
            after_the_request_line(head, "transfer-encoding: chunked\r\n")
        }),
        ("a folded line", &|head| {
            after_the_request_line(head, "x: y\r\n z\r\n")
        }),
        ("a folded nonce", &|head| {
            head.replace("x-gatepay-nonce:", "x-gatepay-nonce:\r\n")
        }),
        ("a blank before a colon", &|head| {
            head.replace("x-gatepay-nonce:", "x-gatepay-nonce :")
        }),
        ("bare line feeds", &|head| head.replace("\r\n", "\n")),
        ("a control character", &|head| {
            after_the_request_line(head, "x: \u{1}\r\n")
        }),
        ("another version", &|head| {
            head.replacen("HTTP/1.1", "HTTP/1.2", 1)
        }),
        ("another expectation", &|head| {
            after_the_request_line(head, "expect: more\r\n")
        }),
        ("too many lines", &|head| at_the_end(head, &many)),
        ("a long line at the end", &|head| at_the_end(head, &long)),
        ("a long line at the beginning", &|head| {
            after_the_request_line(head, &long)
        }),
        ("two nonces", &|head| {
            after_the_request_line(head, "x-gatepay-nonce: two\r\n")
        }),
        ("the stamp twice and two hosts", &|head| {
            after_the_request_line(
                head,
                &format!("host: x\r\nx-gatepay-nonce: two\r\nx-gatepay-timestamp: {T0}\r\n"),
            )
        }),
    ];
    for (fault, tear) in torn {
        let answer = refused_head(&proxy, &tear(&head("once"))).await;
        assert_eq!(answer.outcome(), Some("unknown"), "{fault}");
        assert!(
            answer.message().contains("before anything else"),
            "{fault}: {}",
            answer.message()
        );
        // A stamp that was never admitted has a certain outcome, unless the head was cut off before its stamp.
        let expected = if fault == "a long line at the beginning" {
            "unknown"
        } else {
            "not-executed"
        };
        let answer = refused_head(&proxy, &tear(&head("never sent"))).await;
        assert_eq!(answer.outcome(), Some(expected), "{fault}");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn access_line_and_metric_say_of_a_copy_what_the_header_says() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream).start();
    executed(&proxy).await;
    let (unread, head) = ("host: x\r\nhost: y\r\n", refund().bytes(&proxy.clock));
    let torn = String::from_utf8(head)
        .unwrap()
        .replace("host:", unread.trim_end());
    let mut caller = proxy.raw().await;
    caller.write(torn).await;
    let mut told = vec![caller.answer().await];
    for call in [
        refund(),
        refund().instead("content-type", "text/plain"),
        refund().secret("fake-other"),
        refund().nonce("never sent").secret("fake-other"),
        acme()
            .post(QUERY, A_REFUND)
            .nonce("once")
            .timestamp(&(T0 - 1_000)),
    ] {
        told.push(proxy.send(call).await);
    }
    let told: Vec<_> = told
        .iter()
        .map(|answer| answer.outcome().unwrap().to_owned())
        .collect();
    assert_eq!(
        told.iter()
            .filter(|outcome| *outcome == "not-executed")
            .count(),
        1
    );
    proxy
        .counts(r#"requests_total{kind="money",outcome="refused_unknown",tenant="acme"} 1"#)
        .await;
    proxy
        .counts(r#"requests_total{kind="money",outcome="unknown",tenant="acme"} 0"#)
        .await;
    let lines = proxy.stop().await;
    let of = |outcome: &str| {
        lines
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (of("success"), of("refused"), of("refused_unknown")),
        (1, 1, 5)
    );
}

#[tokio::test]
async fn a_timestamp_grown_old_leaves_the_outcome_unknown_and_one_too_far_ahead_does_not() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream).start();
    let request = executed(&proxy).await;
    proxy.clock.advance(Duration::from_secs(301));
    let answer = proxy.connect().await.send(request.clone()).await;
    in_doubt(&answer, (401, "stale_timestamp"), "");
    // After the replay memory forgot a stamp, its admission is uncertain.
    until("it forgets", || {
        proxy.app().admission.replay.horizon() >= T0 - 10_000
    })
    .await;
    proxy.clock.advance(Duration::from_mins(10));
    until("it forgets", || proxy.app().admission.replay.horizon() > T0).await;
    for request in [request, refund().nonce("never sent").request(&proxy.clock)] {
        let answer = proxy.connect().await.send(request).await;
        in_doubt(&answer, (401, "stale_timestamp"), "");
    }
    let ahead = refund().timestamp(&(proxy.clock.unix_ms() + 10_001));
    let answer = proxy.send(ahead).await;
    assert_eq!(answer.refused(), (401, "stale_timestamp"));
    assert_eq!(answer.outcome(), Some("not-executed"));
}

#[tokio::test]
async fn a_clock_that_steps_makes_no_executed_refund_not_executed() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream).start();
    let request = executed(&proxy).await;
    let send = || async { proxy.connect().await.send(request.clone()).await };
    // The clock moves back, so that the stamp lies ahead of the accepted range.
    proxy.clock.set(T0 - 3_600_000);
    in_doubt(&send().await, (401, "stale_timestamp"), "");
    // The clock moves ahead, so that the stamp is forgotten, and back, so that the stamp would be fresh.
    proxy.clock.set(T0 + 3_600_000);
    until("it forgets", || proxy.app().admission.replay.horizon() > T0).await;
    in_doubt(&send().await, (401, "stale_timestamp"), "");
    proxy.clock.set(T0);
    in_doubt(&send().await, (503, "starting"), " R-0001");
    assert_eq!(upstream.count(), 1);
}

/// The signature covers neither path nor most of the head, and copies may be torn or changed on the way.
#[tokio::test]
async fn a_faulty_copy_of_an_executed_refund_has_an_unknown_outcome_for_every_fault() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.listen.body_timeout = Duration::from_millis(100))
        .start();
    executed(&proxy).await;
    let stranger = Shop::new("x", "client-acme", "fake-other-secret-9999", "1");
    for (slug, call) in [
        ("signature_mismatch", refund().secret("fake-other")),
        ("signature_mismatch", refund().signing("{}")),
        ("signature_mismatch", refund().signature("00")),
        (
            "unsupported_media_type",
            refund().instead("content-type", "text/plain"),
        ),
        (
            "body_too_large",
            refund().header("content-length", "99999999"),
        ),
        ("request_timeout", refund().header("content-length", "62")),
        ("replayed", refund()),
        (
            "signature_mismatch",
            stranger
                .post(REFUND, A_REFUND)
                .nonce("once")
                .timestamp(&(T0 - 1_000)),
        ),
    ] {
        let mut raw = proxy.raw().await;
        let framed = if slug == "body_too_large" || slug == "request_timeout" {
            [call.head(&proxy.clock, "x-framing: none").as_slice(), b"{"].concat()
        } else {
            call.bytes(&proxy.clock)
        };
        raw.write(framed).await;
        let answer = raw.answer().await;
        let key = if slug == "replayed" { " R-0001" } else { "" };
        in_doubt(&answer, (answer.status, slug), key);
    }
    // By a path of no operation, or of a read.
    let elsewhere = |path| {
        acme()
            .post(path, A_REFUND)
            .nonce("once")
            .timestamp(&(T0 - 1_000))
    };
    for (slug, path) in [
        ("unknown_operation", "/v1/pay/nowhere"),
        ("malformed_request", "/v1//pay"),
        ("replayed", QUERY),
    ] {
        let answer = proxy.send(elsewhere(path)).await;
        assert_eq!(answer.refusal(), Some(slug));
        assert_eq!(answer.outcome(), Some("unknown"), "{slug}");
    }
    // By HTTP/2, with a line that has two readings.
    let torn = refund()
        .header("expect", "the unexpected")
        .request(&proxy.clock);
    let answer = Http2::open(proxy.address()).await.send(torn).await;
    assert_eq!(answer.refusal(), Some("malformed_request"));
    assert_eq!(answer.outcome(), Some("unknown"));
    // For a stamp that was never admitted no such doubt is stated.
    for call in [
        refund().nonce("other").secret("fake-other"),
        elsewhere("/v1/pay/nowhere").nonce("other"),
    ] {
        assert_eq!(proxy.send(call).await.outcome(), Some("not-executed"));
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_429_says_send_the_same_bytes_again_and_is_certain_only_while_no_other_copy_is_under_way()
{
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().rate(1, 1))
        .start();
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    // The first copy is still incomplete when the second copy is refused.
    let mut slow = proxy.raw().await;
    let bytes = refund().bytes(&proxy.clock);
    slow.write(&bytes[..bytes.len() - 1]).await;
    until("its head was read", || {
        let (client_id, stamp) = (acme().client_id, (T0 - 1_000).to_string());
        let stamp = gatepay_core::Stamp::parse(stamp.as_bytes(), b"once").unwrap();
        let replay = &proxy.app().admission.replay;
        let print = replay.fingerprint(client_id, &stamp, gatepay_tenancy::ReplayRule::Pair);
        replay.doubt(print).is_some()
    })
    .await;
    let answer = proxy.send(refund()).await;
    in_doubt(&answer, (429, "rate_limited"), " R-0001");
    let again = "send the same bytes again after Retry-After";
    assert!(answer.message().contains(again), "{}", answer.message());
    assert!(
        answer
            .message()
            .contains("another copy of this request is under way")
    );
    // Once no copy is under way, the outcome is certain.
    proxy.clock.advance(Duration::from_secs(1));
    slow.write(&bytes[bytes.len() - 1..]).await;
    assert_eq!(slow.answer().await.status, 200);
    let other = refund().nonce("another");
    let answer = proxy.send(other.clone()).await;
    assert_eq!(answer.refused(), (429, "rate_limited"));
    assert_eq!(answer.outcome(), Some("not-executed"));
    assert!(answer.message().contains(again), "{}", answer.message());
    proxy.clock.advance(Duration::from_secs(1));
    assert_eq!(proxy.send(other).await.status, 200);
}

#[tokio::test]
async fn a_copy_whose_sender_left_is_no_longer_under_way() {
    let upstream = answering();
    let proxy = Proxy::before_scripted(&upstream)
        .tenant(acme().rate(1, 1))
        .start();
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    let mut slow = proxy.raw().await;
    let bytes = refund().bytes(&proxy.clock);
    slow.write(&bytes[..bytes.len() - 1]).await;
    until_outcome(&proxy, "unknown").await;
    drop(slow);
    until_outcome(&proxy, "not-executed").await;
}

/// Sends copies that are refused for their rate until the answer states this outcome.
async fn until_outcome(proxy: &Proxy, outcome: &str) {
    let sending = async { while proxy.send(refund()).await.outcome() != Some(outcome) {} };
    let sent = tokio::time::timeout(PATIENCE, sending).await;
    assert_eq!(sent, Ok(()), "it never was {outcome}");
}

#[tokio::test]
async fn clients_that_read_only_the_envelope_get_500_for_every_refund_that_may_have_been_executed()
{
    let upstream = answering();
    let plan = |plan: Plan| plan.with(|settings| settings.refusal_status = RefusalStatus::Gatepay);
    let before = plan(Proxy::before_scripted(&upstream)).start();
    let request = executed(&before).await;
    let replayed = before.connect().await.send(request.clone()).await;
    let mismatch = before.send(refund().secret("fake-other")).await;
    let after = plan(Proxy::before_scripted(&upstream))
        .after_a_crash()
        .start();
    let starting = after.connect().await.send(request).await;
    let read = after.send(acme().post(QUERY, BY_NUMBER)).await;
    for (answer, status, slug, code) in [
        // With its key GatePay would know the call again, so its own "repeat with the same parameters" is right.
        (&replayed, 500, "replayed", "400000"),
        (&starting, 500, "starting", "400000"),
        // Here the key is not known: the body is not the caller's.
        (&mismatch, 500, "signature_mismatch", "400002"),
        (&read, 200, "starting", "900019"),
    ] {
        assert_eq!(answer.refused(), (status, slug));
        assert_eq!(answer.code(), code, "{slug}");
    }
}
