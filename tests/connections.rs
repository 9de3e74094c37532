use crate::support::abuse::{END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, head};
use crate::support::*;
use std::time::Duration;

/// A valid query, as text for a raw socket.
fn request(proxy: &Proxy) -> String {
    let bytes = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    String::from_utf8(bytes).expect("this one is text")
}

#[tokio::test]
async fn a_connection_without_a_head_is_closed() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.head_timeout = Duration::from_secs(1))
        .start();
    let head = "POST /v1/pay/order HTTP/1.1\r\nhost: x\r\n";
    let mut callers = Vec::new();
    for said in ["", "P", "PRI * HTTP/2", head] {
        let mut caller = proxy.raw().await;
        caller.write(said).await;
        callers.push((said, caller));
    }
    for (said, mut caller) in callers {
        assert_eq!(caller.rest().await.unwrap(), b"", "{said}");
    }
    proxy.counts("connections 0").await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_happens_is_closed() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.head_timeout = Duration::from_secs(1);
            settings.listen.idle_timeout = Duration::from_secs(1);
        })
        .start();
    let mut caller = proxy.raw().await;
    caller.write(request(&proxy)).await;
    assert_eq!(caller.answer().await.status, 200);
    assert_eq!(caller.rest().await.unwrap(), b"");

    let mut caller = proxy.raw().await;
    caller
        .write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    assert!(!caller.rest().await.unwrap().is_empty(), "its settings");
}

#[tokio::test]
async fn older_and_odder_clients_of_http_1_are_answered() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let upgrade = "host: pay.example\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    for (name, from, to) in [
        ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0"),
        ("an offer of h2c", "host: pay.example\r\n", upgrade),
        (
            "a type in capitals",
            "application/json",
            "APPLICATION/JSON ; charset=UTF-8",
        ),
        (
            "no type",
            "content-type: application/json\r\n",
            "accept: */*\r\n",
        ),
        ("empty lines first", "POST ", "\r\n\r\nPOST "),
    ] {
        let mut caller = proxy.raw().await;
        caller.write(request(&proxy).replacen(from, to, 1)).await;
        let answer = caller.answer().await;
        assert_eq!(answer.refused(), (200, "not refused"), "{name}");
        assert_eq!(answer.header("upgrade"), None, "{name}");
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another_also_pipelined() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let mut caller = proxy.raw().await;
    caller.write(request(&proxy) + &request(&proxy)).await;
    let refused = acme()
        .post(QUERY, BY_NUMBER)
        .secret("fake-other")
        .bytes(&proxy.clock);
    caller.write(refused).await;
    caller.write(request(&proxy)).await;
    for status in [200, 200, 401, 200] {
        assert_eq!(caller.answer().await.status, status);
    }
}

#[tokio::test]
async fn http_2_by_prior_knowledge_carries_many_calls_at_once() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let connection = Http2::open(proxy.address()).await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        let call = acme().post(CREATE, order(&format!("A-{number:04}")));
        let (mut connection, request) = (connection.clone(), call.request(&proxy.clock));
        calls.spawn(async move { connection.send(request).await });
    }
    for answer in calls.join_all().await {
        assert_eq!((answer.status, answer.code()), (200, "000000".to_owned()));
        assert_eq!(answer.request_id().len(), 32);
    }
    let mut connection = connection;
    let stale = acme().get(DETAILS).timestamp(&(T0 - 300_001));
    let answer = connection.send(stale.request(&proxy.clock)).await;
    assert_eq!(answer.refused(), (401, "stale_timestamp"));
    assert_eq!(gatepay.executed(), 20);
    assert_eq!(proxy.stop().await.len(), 21);
}

#[tokio::test]
async fn over_http_2_an_answer_like_the_one_before_adds_nothing_to_the_table_of_its_connection() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let mut caller = proxy.raw().await;
    let preface = [PREFACE, &frame(4, 0, 0, &[])].concat();
    caller.write(preface).await;
    let mut heads = Vec::new();
    // The proxy's own answers, whose date is that of the test's clock.
    for stream in [1, 3] {
        let lines = acme().get("/v1/nowhere").lines(&proxy.clock);
        let head = head(&http2_fields("GET", "/v1/nowhere", &lines));
        let asks = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        caller.write(asks).await;
        heads.push(loop {
            if let (HEADERS, _, _, block) = caller.frame().await {
                break hpack_forms(&block);
            }
        });
    }
    let [first, second] = heads.try_into().unwrap();
    assert!(first.contains(&HpackForm::Added), "{first:?}");
    assert_eq!(first.len(), second.len());
    assert!(!second.contains(&HpackForm::Added), "{second:?}");
}

/// How a field of a head is written (RFC 7541, 6).
#[derive(Debug, PartialEq)]
enum HpackForm {
    /// By its number in the table.
    Indexed,
    /// As a literal that is added to the table.
    Added,
    /// As a literal that is not.
    Literal,
}

/// The forms of a head's fields. None has a string of 127 bytes or more.
fn hpack_forms(mut block: &[u8]) -> Vec<HpackForm> {
    let string = |block: &mut &[u8]| {
        let length = usize::from(block[0] & 0x7f);
        assert!(length < 0x7f);
        *block = &block[1 + length..];
    };
    let mut forms = Vec::new();
    while let [first, rest @ ..] = block {
        block = rest;
        let (form, prefix) = match first {
            0x80.. => (HpackForm::Indexed, 0x7f),
            0x40.. => (HpackForm::Added, 0x3f),
            0x20.. => continue,
            _ => (HpackForm::Literal, 0x0f),
        };
        let index = first & prefix;
        if form != HpackForm::Indexed {
            if index == prefix {
                block = &block[1..];
            }
            if index == 0 {
                string(&mut block);
            }
            string(&mut block);
        }
        forms.push(form);
    }
    forms
}

#[tokio::test]
async fn http_2_heads_are_held_to_the_rules_of_http_1() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let mut connection = Http2::open(proxy.address()).await;
    for (authority, host, status) in [
        ("pay.example", None, 200),
        ("pay.example", Some("PAY.example:80"), 200),
        ("pay.example", Some("other.example"), 400),
        ("pay.example", Some("user@pay.example"), 400),
        ("user:key@pay.example", None, 400),
    ] {
        let mut request = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
        *request.uri_mut() = format!("http://{authority}{QUERY}").parse().unwrap();
        request.headers_mut().remove("host");
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let answer = connection.send_as_it_is(request).await;
        assert_eq!(answer.status, status, "{authority} {host:?}");
        if status == 400 {
            assert_eq!(answer.refusal(), Some("malformed_request"));
        }
    }
    proxy.counts("unreadable_heads_total 3").await;
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_gets_it() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(QUERY, BY_NUMBER);
    let mut caller = proxy.raw().await;
    let framing = format!(
        "content-length: {}\r\nexpect: 100-continue",
        BY_NUMBER.len()
    );
    caller.write(call.head(&proxy.clock, &framing)).await;
    assert_eq!(caller.answer().await.status, 100);
    caller.write(BY_NUMBER).await;
    assert_eq!(caller.answer().await.status, 200);
}

#[tokio::test]
async fn a_caller_that_has_begun_to_send_its_body_gets_no_100_continue() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = acme().post(QUERY, BY_NUMBER);
    let expecting = |more: &str| {
        let framing = format!(
            "content-length: {}\r\nexpect: 100-continue{more}",
            BY_NUMBER.len()
        );
        String::from_utf8(call.head(&proxy.clock, &framing)).unwrap()
    };
    let mut caller = proxy.raw().await;
    // A caller without support for 100 gets none, nor does a refused caller: that caller may no longer send the body.
    let old = expecting("\r\nconnection: keep-alive").replace("HTTP/1.1", "HTTP/1.0");
    for head in [expecting(""), old] {
        caller.write(head + BY_NUMBER).await;
        assert_eq!(caller.answer().await.status, 200);
    }
    caller
        .write(expecting("").replace(QUERY, "/v1/nowhere"))
        .await;
    let answer = caller.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (404, Some("close"))
    );
    assert_eq!(caller.rest().await.unwrap(), b"");
}

#[tokio::test]
async fn a_connection_of_http_1_0_lasts_if_both_say_so() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let old = || request(&proxy).replacen("HTTP/1.1", "HTTP/1.0", 1);
    let lasting = || old().replacen("host:", "connection: Keep-Alive\r\nhost:", 1);
    let mut caller = proxy.raw().await;
    caller
        .write([lasting(), lasting(), old(), old()].concat())
        .await;
    for said in ["keep-alive", "keep-alive", "close"] {
        let answer = caller.answer().await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some(said))
        );
    }
    assert_eq!(caller.rest().await.unwrap(), b"", "it was told");
}

#[tokio::test]
async fn a_head_that_came_with_the_request_before_it_may_not_dawdle_either() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.head_timeout = Duration::from_secs(1))
        .start();
    let mut caller = proxy.raw().await;
    caller.write(request(&proxy) + "POST /v1/pay/").await;
    assert_eq!(caller.answer().await.status, 200);
    // Long before the idle timeout.
    assert_eq!(caller.rest().await.unwrap(), b"");
}
