use crate::support::scripted::{Scripted, Then, answer, chunks};
use crate::support::*;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use http::header::SET_COOKIE;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// The names of an answer's headers.
fn names(answer: &Answer) -> BTreeSet<&str> {
    answer
        .headers
        .keys()
        .map(http::HeaderName::as_str)
        .collect()
}

async fn asked(upstream: &Scripted) -> Answer {
    let proxy = Proxy::before_scripted(upstream).start();
    proxy.send(acme().post(QUERY, BY_NUMBER)).await
}

#[tokio::test]
async fn status_headers_and_body_come_back_as_gatepay_sent_them() {
    let body = b"{\"status\" : \"SUCCESS\",\n \"code\":\"000000\", \"x\":1.0, \"x\":1.00}\r\n";
    let lines = "Content-Type: application/json;charset=UTF-8\r\n\
                 X-Gate-Trace: abc\r\nX-Two: 1\r\nX-Two: 2\r\nCache-Control: no-store\r\n\
                 Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    let upstream = Scripted::always(Then::Answer(answer("200 OK", lines, body)));
    let answer = asked(&upstream).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, body.as_slice());
    assert_eq!(
        answer.header("content-type"),
        Some("application/json;charset=UTF-8")
    );
    assert_eq!(answer.header("x-gate-trace"), Some("abc"));
    assert_eq!(answer.header("date"), Some("Thu, 01 Jan 2026 00:00:00 GMT"));
    let both: Vec<_> = answer.headers.get_all("x-two").iter().collect();
    assert_eq!(both, ["1", "2"]);
    assert_eq!(answer.refusal(), None);
}

#[tokio::test]
async fn hop_by_hop_headers_and_headers_of_gatepays_own_site_are_not_relayed() {
    let lines = "Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nAlt-Svc: h3=\":443\"\r\n\
                 Strict-Transport-Security: max-age=1\r\nServer: openresty\r\n\
                 Connection: keep-alive, X-Hop\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: trailers\r\n\
                 Proxy-Authenticate: Basic\r\nX-Stays: 1\r\n";
    let upstream = Scripted::always(Then::Answer(answer("200 OK", lines, b"{}")));
    let answer = asked(&upstream).await;
    assert!(answer.headers.get_all(SET_COOKIE).iter().next().is_none());
    let expected = ["content-length", "date", "x-request-id", "x-stays"];
    assert_eq!(names(&answer), BTreeSet::from(expected));
}

#[tokio::test]
async fn gatepay_cannot_forge_the_headers_that_mark_the_proxys_own_answers() {
    let lines = "X-Gatepay-Proxy-Refusal: replayed\r\nX-GATEPAY-PROXY-OUTCOME: not-executed\r\n\
                 X-Request-Id: forged\r\nX-Request-Id: again\r\n";
    let upstream = Scripted::always(Then::Answer(answer("200 OK", lines, b"{}")));
    let answer = asked(&upstream).await;
    assert_eq!((answer.refusal(), answer.outcome()), (None, None));
    let ids: Vec<_> = answer.headers.get_all("x-request-id").iter().collect();
    assert!(ids.len() == 1 && ids[0].len() == 32, "{ids:?}");
}

#[tokio::test]
async fn the_proxys_own_headers_appear_once_beside_any_of_gatepays() {
    let lines = "RateLimit: \"gw\";r=999999\r\nratelimit-policy: \"gw\";q=1\r\nRateLimit-Limit: 7\r\n\
                 RateLimit-Remaining: 7\r\nX-RateLimit-Limit: 7\r\nX-Rate-Limit-Reset: 7\r\n\
                 TraceResponse: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                 X-Request-ID: theirs\r\nX-Gatepay-Proxy-Else: theirs\r\nX-Gatepay-Proxy-Outcome: found\r\n\
                 Retry-After: 3\r\n";
    let body = br#"{"status":"SUCCESS","code":"000000","data":{}}"#;
    let upstream = Scripted::always(Then::Answer(answer("200 OK", lines, body)));
    let trace = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01";
    for says_limits in [true, false] {
        let proxy = Proxy::before_scripted(&upstream)
            .with(move |settings| settings.ratelimit_headers = says_limits)
            .start();
        for (call, outcome) in [
            (acme().post(QUERY, BY_NUMBER), None),
            (acme().post(CREATE, order("A-0001")), Some("executed")),
            (acme().post(REFUND, A_REFUND), Some("executed")),
        ] {
            let answer = proxy.send(call.header("traceparent", trace)).await;
            assert_eq!((answer.status, answer.outcome()), (200, outcome));
            let all: Vec<_> = answer
                .headers
                .keys()
                .map(http::HeaderName::as_str)
                .collect();
            let theirs = all.iter().filter(|name| name.contains("rate"));
            let limits = if says_limits { 2 } else { 0 };
            assert_eq!(theirs.count(), limits, "{all:?}");
            for name in [
                "ratelimit",
                "ratelimit-policy",
                "traceresponse",
                "x-request-id",
            ] {
                let values: Vec<_> = answer.headers.get_all(name).iter().collect();
                let times = usize::from(says_limits || !name.starts_with("rate"));
                assert_eq!(values.len(), times, "{name}: {values:?}");
                let told = format!("{values:?}");
                assert!(!told.contains("gw") && !told.contains("theirs"), "{told}");
            }
            let ours = answer.header("traceresponse").unwrap();
            assert!(ours.contains("aaaaaaaa"), "{ours}");
            assert_eq!(answer.header("x-gatepay-proxy-else"), None);
            assert_eq!(answer.header("retry-after"), Some("3"));
        }
    }
}

#[tokio::test]
async fn gatepays_own_failures_are_relayed_as_they_are() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.upstream.resolve = Duration::ZERO)
        .start();
    for call in [
        acme().post(CREATE, order("A-0001")),
        acme().post(QUERY, BY_NUMBER),
    ] {
        gatepay.inject(InjectedFault::Failure(ApiFailure::UnknownError).once());
        let answer = proxy.send(call).await;
        assert_eq!((answer.status, answer.refusal()), (500, None));
        assert_eq!(answer.code(), "400000");
        assert_eq!(answer.body, gatepay.last().answer_body);
    }
}

#[tokio::test]
async fn a_read_is_answered_as_gatepay_or_what_stands_before_it_answers() {
    for (status, body) in [
        ("200 OK", "<html>maintenance</html>"),
        ("404 Not Found", "<html>not found</html>"),
        ("302 Found", "<html>elsewhere</html>"),
        ("500 Oops", "<html>oops</html>"),
    ] {
        let lines = "Location: https://login.example/\r\n";
        let upstream = Scripted::always(Then::Answer(answer(status, lines, body.as_bytes())));
        let answer = asked(&upstream).await;
        assert!(status.starts_with(&answer.status.to_string()), "{status}");
        assert_eq!((answer.refusal(), answer.outcome()), (None, None));
        assert_eq!(answer.body, body.as_bytes());
    }
}

#[tokio::test]
async fn an_answer_without_a_body_stays_without_one() {
    let nothing = b"HTTP/1.1 204 No Content\r\nX-Stays: 1\r\n\r\n".to_vec();
    let upstream = Scripted::always(Then::Answer(nothing));
    let answer = asked(&upstream).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(
        names(&answer),
        BTreeSet::from(["date", "x-request-id", "x-stays"])
    );
}

#[tokio::test]
async fn an_answer_of_any_length_arrives_whole() {
    for length in [0, 1, 64 << 10, (64 << 10) + 1, 5 << 20] {
        let body: Vec<u8> = (b'a'..=b'w').cycle().take(length).collect();
        let mut in_chunks = chunks(&body, 9_999);
        in_chunks.extend_from_slice(b"0\r\n\r\n");
        for wire in [answer("200 OK", "", &body), in_chunks] {
            let upstream = Scripted::always(Then::Answer(wire));
            let proxy = Proxy::before_scripted(&upstream).start();
            let mut caller = proxy.connect().await;
            // The second one shows that the first left no byte behind, on either side.
            for _ in 0..2 {
                let answer = caller
                    .send(acme().post(QUERY, BY_NUMBER).request(&proxy.clock))
                    .await;
                assert_eq!(answer.status, 200);
                assert!(
                    answer.body == body,
                    "{} of {length} bytes",
                    answer.body.len()
                );
            }
            assert_eq!(upstream.connections(), 1, "{length} bytes");
        }
    }
}

#[tokio::test]
async fn a_long_answer_that_is_cut_is_never_taken_for_a_whole_one() {
    assert_shows_every_cut("HTTP/1.1").await;
}

#[tokio::test]
async fn a_cut_answer_is_visibly_broken_for_a_caller_without_chunks_and_keep_alive() {
    assert_shows_every_cut("HTTP/1.0").await;
}

async fn assert_shows_every_cut(version: &str) {
    let body = vec![b'x'; 200 << 10];
    let mut promised = answer("200 OK", "", &body);
    promised.truncate(promised.len() - 1);
    for (framing, wire) in [("length", promised), ("chunks", chunks(&body, 9_999))] {
        let upstream = Scripted::always(Then::AnswerAndClose(wire));
        let proxy = Proxy::before_scripted(&upstream).start();
        let request = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        let request = String::from_utf8(request).unwrap();
        let mut caller = proxy.raw().await;
        caller.write(request.replace("HTTP/1.1", version)).await;
        let all = caller.rest().await;
        assert!(shows_the_cut(&all), "{framing}: it looks whole");
    }
}

#[tokio::test]
async fn a_cut_answer_is_visibly_broken_for_a_caller_that_read_too_slowly() {
    // More bytes than all buffers on the path hold.
    let body = vec![b'x'; 24 << 20];
    let mut wire = chunks(&body, 1 << 20);
    wire.extend_from_slice(b"0\r\n\r\n");
    let upstream = Scripted::always(Then::Answer(wire));
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let proxy = Proxy::before_scripted(&upstream)
            .with(|settings| {
                settings.listen.head_timeout = Duration::from_secs(1);
                settings.listen.answer_timeout = Duration::from_secs(1);
            })
            .start();
        let request = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        let request = String::from_utf8(request).unwrap();
        let mut caller = proxy.raw().await;
        caller.write(request.replace("HTTP/1.1", version)).await;
        proxy.counts("readers_stalled_total 1").await;
        proxy.counts("connections 0").await;
        // The proxy does not leave the rest to the system for unlimited time.
        assert!(caller.rest().await.is_err(), "{version}: it is reset");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_closes_the_callers_connection() {
    let mut wire = chunks(&vec![b'x'; 200 << 10], 1 << 14);
    wire.extend_from_slice(b"0\r\n\r\n");
    let upstream = Scripted::always(Then::Answer(wire));
    let proxy = Proxy::before_scripted(&upstream).start();
    let request = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    let request = String::from_utf8(request).unwrap();
    let old = "HTTP/1.0\r\nConnection: keep-alive";
    let mut caller = proxy.raw().await;
    caller.write(request.replacen("HTTP/1.1", old, 1)).await;
    let all = caller.rest().await.unwrap();
    assert!(all.len() > 200 << 10, "{} bytes", all.len());
    let head = String::from_utf8_lossy(&all[..400]).to_lowercase();
    assert!(head.contains("connection: close"), "{head}");
}

/// Whether a client can detect a missing part: by the connection's end, by the length, or by the last chunk.
fn shows_the_cut(all: &io::Result<Vec<u8>>) -> bool {
    let Ok(all) = all else { return true };
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => all.len() - end < length.parse().unwrap(),
        None => head.contains("transfer-encoding: chunked") && !all.ends_with(b"0\r\n\r\n"),
    }
}

#[tokio::test]
async fn a_client_library_sees_an_error_when_a_long_answer_is_cut() {
    let wire = chunks(&vec![b'x'; 200 << 10], 9_999);
    let upstream = Scripted::always(Then::AnswerAndClose(wire));
    let proxy = Proxy::before_scripted(&upstream).start();
    let request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
    let answer = proxy.connect().await.try_send(request).await;
    assert!(answer.is_err());
    let lines = proxy.stop().await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["outcome"], "unknown");
    assert_eq!(lines[0]["caller_left"], true);
}
