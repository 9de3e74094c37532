//! The outcome that GatePay's answer to a write or money call proves.

use crate::support::scripted::{Scripted, Then, answer};
use crate::support::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use gatepay_sandbox::{ApiFailure, InjectedFault};
use gatepay_tenancy::settings::{AcceptEncoding, RefusalStatus, Settings};
use serde_json::json;
use std::io::Write as _;
use std::time::Duration;

const SUCCESS: &str = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"17"}}"#;

fn create() -> Call {
    acme().post(CREATE, order("A-0001"))
}

/// A write and a money call.
fn changes() -> [Call; 2] {
    [create(), acme().post(REFUND, A_REFUND)]
}

/// Long enough for two questions after a lost answer, of which a machine that stalls may lose the first. A question that finds
/// the call is the last one.
fn two_questions(settings: &mut Settings) {
    settings.upstream.resolve = Duration::from_millis(3_900);
}

fn status(status: u16, body: &'static str) -> InjectedFault {
    InjectedFault::Status {
        status,
        body: body.into(),
    }
}

/// The proxy's answer to each call when GatePay sends these bytes and closes, and answers every question with them.
async fn told(wire: &[u8], call: Call) -> Answer {
    let upstream = Scripted::always(Then::AnswerAndClose(wire.to_vec()));
    let proxy = Proxy::before_scripted(&upstream).start();
    let answer = proxy.send(call).await;
    proxy.stop().await;
    answer
}

#[tokio::test]
async fn an_answer_that_is_empty_cut_no_json_or_a_redirect_is_a_lost_one() {
    let html = "<html>busy</html>";
    let mut wires = vec![
        answer("200 OK", "", b""),
        answer("200 OK", "", b" \r\n"),
        answer("201 Created", "", b""),
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        answer("200 OK", "", format!("{SUCCESS}{SUCCESS}").as_bytes()),
        answer("200 OK", "", format!("{SUCCESS};").as_bytes()),
        answer("200 OK", "", format!("{SUCCESS}\0").as_bytes()),
        answer("200 OK", "", &SUCCESS.as_bytes()[..SUCCESS.len() - 1]),
        // A length that is shorter than the JSON, and one that is longer.
        format!("HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{SUCCESS}").into_bytes(),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{SUCCESS}").into_bytes(),
        answer("200 OK", "", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        answer("200 OK", "", b"{\"status\":\"SUCCESS\",\"data\":\"\xff\"}"),
    ];
    for code in [
        "200 OK",
        "400 Bad Request",
        "404 Not Found",
        "408 Request Timeout",
        "425 Too Early",
        "429 Too Many Requests",
        "500 Oops",
        "502 Bad Gateway",
        "503 Busy",
        "504 Late",
    ] {
        wires.push(answer(code, "", html.as_bytes()));
        wires.push(answer(code, "", b""));
    }
    for code in ["300 x", "301 x", "302 x", "303 x", "307 x", "308 x"] {
        let lines = "location: https://elsewhere.example/\r\n";
        wires.push(answer(code, lines, SUCCESS.as_bytes()));
    }
    for wire in wires {
        for call in changes() {
            let answer = told(&wire, call).await;
            let wire = String::from_utf8_lossy(&wire);
            assert_eq!(answer.refused(), (504, "outcome_unknown"), "{wire}");
            assert_eq!(answer.outcome(), Some("unknown"), "{wire}");
            assert!(answer.message().contains("before anything else"), "{wire}");
            assert_eq!(answer.header("location"), None, "{wire}");
        }
    }
}

#[tokio::test]
async fn whole_json_is_relayed_byte_for_byte_with_what_it_proves() {
    let fail = |code: &str| format!(r#"{{"status":"FAIL","code":"{code}","data":null}}"#);
    for (code, body, outcome) in [
        ("200 OK", SUCCESS.to_owned(), "executed"),
        ("202 Accepted", SUCCESS.to_owned(), "executed"),
        ("200 OK", format!("\u{feff}{SUCCESS}"), "executed"),
        ("200 OK", fail("400202"), "refused"),
        ("400 Bad", fail("400205"), "refused"),
        ("400 Bad", fail("400001"), "unknown"),
        ("200 OK", fail("550249"), "unknown"),
        ("200 OK", fail("400605"), "unknown"),
        ("200 OK", fail("400204"), "unknown"),
        ("200 OK", fail("400201"), "unknown"),
        ("200 OK", fail("550245"), "unknown"),
        ("200 OK", fail("400620"), "unknown"),
        ("200 OK", fail("400999"), "unknown"),
        ("200 OK", r#"{"status":"FAIL"}"#.to_owned(), "unknown"),
        ("200 OK", r#"{"success":false}"#.to_owned(), "unknown"),
        ("200 OK", fail("300000"), "unknown"),
        ("500 Oops", fail("300001"), "unknown"),
        ("500 Oops", fail("400605"), "unknown"),
        ("503 Busy", SUCCESS.to_owned(), "unknown"),
        ("429 Slow", r#"{"message":"x"}"#.to_owned(), "unknown"),
        ("200 OK", r#"{"prepayId":"17"}"#.to_owned(), "unknown"),
        ("200 OK", "{}".to_owned(), "unknown"),
        ("200 OK", "[]".to_owned(), "unknown"),
        ("200 OK", "null".to_owned(), "unknown"),
        ("200 OK", "17".to_owned(), "unknown"),
        ("200 OK", r#""SUCCESS""#.to_owned(), "unknown"),
    ] {
        for call in changes() {
            let answer = told(&answer(code, "", body.as_bytes()), call).await;
            assert_eq!(answer.refusal(), None, "{code} {body}");
            assert!(code.starts_with(&answer.status.to_string()), "{code}");
            assert_eq!(answer.body, body.as_bytes(), "{code}");
            assert_eq!(answer.outcome(), Some(outcome), "{code} {body}");
        }
    }
}

#[tokio::test]
async fn an_answer_in_utf_16_is_judged_like_any_other() {
    let body: Vec<u8> = SUCCESS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for call in changes() {
        let answer = told(&answer("200 OK", "", &body), call).await;
        assert_eq!(
            (answer.refusal(), answer.outcome()),
            (None, Some("executed"))
        );
        assert_eq!(answer.body, body);
    }
}

#[tokio::test]
async fn of_every_published_code_the_outcome_is_what_the_code_proves() {
    let page = include_str!("../docs/gatepay/protocol.md");
    let begin = page.find("### 4.2 Error codes").unwrap();
    let end = page.find("### 4.3").unwrap();
    let codes = page[begin..end]
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| digits.len() == 6);
    let mut seen = 0;
    for code in codes {
        let body = format!(r#"{{"status":"FAIL","code":"{code}","data":null}}"#);
        let answer = told(&answer("200 OK", "", body.as_bytes()), changes()[1].clone()).await;
        let outcome = answer.outcome().unwrap();
        match code {
            "400002" | "400003" | "400004" | "400020" => {
                assert_eq!(answer.refused(), (502, "institution_rejected"));
                assert_eq!(outcome, "not-executed");
            }
            "000000" | "300000" | "300001" | "400000" | "400201" | "400620" | "550245"
            | "400204" | "400604" | "500100" | "500101" | "500103" | "400001" | "400603"
            | "400607" | "550249" | "400605" | "400608" | "400622" | "500206" | "550233" => {
                assert_eq!(outcome, "unknown", "{code}");
            }
            _ => assert_eq!(outcome, "refused", "{code}"),
        }
        seen += 1;
    }
    assert!(seen > 45, "{seen}");
}

#[tokio::test]
async fn a_lost_or_unclear_answer_is_looked_up_and_found() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    assert_eq!(proxy.send(create()).await.outcome(), Some("executed"));
    for (fault, is_relayed) in [
        (status(200, ""), false),
        (status(204, ""), false),
        (status(200, "<html>"), false),
        (status(302, SUCCESS), false),
        (status(429, "<html>"), false),
        (status(503, "<html>"), false),
        (status(200, "null"), true),
        (status(200, "[]"), true),
        (status(200, "{}"), true),
        (status(500, "{}"), true),
        (InjectedFault::Failure(ApiFailure::SystemError), true),
        (InjectedFault::Failure(ApiFailure::UnknownError), true),
    ] {
        gatepay.sandbox.clear();
        gatepay.inject(fault.clone().once());
        let answer = proxy.send(create()).await;
        assert_eq!(answer.outcome(), Some("found"), "{fault:?}");
        let asked: Vec<_> = gatepay.received();
        assert_eq!(asked.len(), 2, "{fault:?}: the call, and one question");
        assert_eq!(asked[1].operation.as_deref(), Some("query_order"));
        if is_relayed {
            assert_eq!(answer.refusal(), None, "{fault:?}");
            assert_eq!(answer.body, asked[0].answer_body, "{fault:?}");
        } else {
            assert_eq!(answer.refused(), (504, "outcome_unknown"), "{fault:?}");
            assert_eq!(answer.json()["data"]["observed"], "found", "{fault:?}");
        }
    }
    let lines = proxy.stop().await;
    let unclear = lines.iter().filter(|line| line["outcome"] != "success");
    let told: Vec<_> = unclear
        .map(|line| (&line["outcome"], &line["observed"]))
        .collect();
    assert_eq!(told, vec![(&json!("unknown"), &json!("found")); 12]);
}

#[tokio::test]
async fn a_code_that_says_that_the_key_exists_is_looked_up_at_once_and_never_called_refused() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    let dearer = acme().post(CREATE, order("A-0001").replace("1.21", "5.00"));
    let mut told = Vec::new();
    for (call, outcome) in [
        (create(), "executed"),
        (create(), "found"),
        // The order with this number differs from the order of this call.
        (dearer, "unknown"),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!((answer.status, answer.refusal()), (200, None));
        assert_eq!(answer.outcome(), Some(outcome));
        told.push(answer.request_id());
    }
    assert_eq!(gatepay.count(), 5, "one question about each of the two");
    let lines = proxy.stop().await;
    let ends = told.iter().map(|id| {
        let line = lines.iter().find(|line| line["id"] == **id).unwrap();
        json!([line["outcome"], line["observed"]])
    });
    let expected = [
        json!(["success", null]),
        json!(["failure", "found"]),
        json!(["unknown", "not_found"]),
    ];
    assert_eq!(ends.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_key_that_was_used_with_other_parameters_is_never_called_refused() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    let paid = gatepay.paid_order(&proxy).await;
    let refund = |id: &str, amount: &str, reason: &str| {
        let body = format!(
            r#"{{"refundRequestId":"{id}","prepayId":"{paid}","refundAmount":"{amount}","refundReason":"{reason}"}}"#
        );
        acme().post(REFUND, body)
    };
    // The caller never saw this answer.
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    proxy.send(refund("R-1", "0.01", "broken")).await;
    for (call, code, outcome) in [
        // GatePay states the amount of the first one.
        (refund("R-1", "0.02", "broken"), "400001", "unknown"),
        (refund("R-1", "0.01", "late"), "400001", "found"),
        (refund("R-2", "0.01", "broken"), "400001", "refused"),
    ] {
        if outcome == "refused" {
            let malformed = ApiFailure::Malformed("refundReason");
            gatepay.inject(InjectedFault::Failure(malformed).once());
        }
        let before = gatepay.count();
        let answer = proxy.send(call).await;
        assert_eq!((answer.refusal(), &*answer.code()), (None, code));
        assert_eq!(answer.outcome(), Some(outcome), "{}", answer.text());
        assert_eq!(gatepay.count() - before, 2, "the call, and one question");
    }
}

#[tokio::test]
async fn a_refusal_that_an_earlier_delivery_caused_is_not_called_one() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(two_questions).start();
    let paid = gatepay.paid_order(&proxy).await;
    let refund = |id: &str| {
        let body =
            format!(r#"{{"refundRequestId":"{id}","prepayId":"{paid}","refundAmount":"0.01"}}"#);
        acme().post(REFUND, body)
    };
    // The caller never saw this answer.
    gatepay.inject(InjectedFault::ResetAfterExecuting.once());
    proxy.send(refund("R-1")).await;
    for (id, failure, outcome) in [
        ("R-1", ApiFailure::InsufficientBalance, "found"),
        ("R-1", ApiFailure::OrderStatus, "found"),
        ("R-2", ApiFailure::InsufficientBalance, "refused"),
        ("R-2", ApiFailure::OrderStatus, "refused"),
    ] {
        gatepay.inject(InjectedFault::Failure(failure).once());
        let answer = proxy.send(refund(id)).await;
        assert_eq!((answer.refusal(), &*answer.code()), (None, failure.code()));
        assert_eq!(answer.outcome(), Some(outcome), "{id} {failure}");
    }
    let close = || acme().post(CLOSE, BY_NUMBER);
    assert_eq!(proxy.send(create()).await.outcome(), Some("executed"));
    assert_eq!(proxy.send(close()).await.outcome(), Some("executed"));
    let again = proxy.send(close()).await;
    assert_eq!(
        (&*again.code(), again.outcome()),
        ("400204", Some("unknown"))
    );
}

#[tokio::test]
async fn an_answer_to_a_read_says_nothing_of_an_outcome() {
    for body in [SUCCESS, "[]", "null", "<html>", "", "{}"] {
        let read = acme().post(QUERY, BY_NUMBER);
        let answer = told(&answer("200 OK", "", body.as_bytes()), read).await;
        assert_eq!(answer.refused(), (200, "not refused"), "{body}");
        assert_eq!((answer.outcome(), &*answer.body), (None, body.as_bytes()));
    }
}

#[tokio::test]
async fn clients_that_read_only_the_envelope_learn_an_unknown_outcome_from_the_status() {
    for (body, relayed, outcome) in [
        (r#"{"status":"FAIL","code":"400999"}"#, 500, "unknown"),
        (r#"{"prepayId":"17"}"#, 500, "unknown"),
        (r#"{"status":"FAIL","code":"400205"}"#, 200, "refused"),
        (SUCCESS, 200, "executed"),
    ] {
        let upstream = Scripted::body(body);
        let proxy = Proxy::before_scripted(&upstream)
            .with(|settings| settings.refusal_status = RefusalStatus::Gatepay)
            .start();
        let answer = proxy.send(create()).await;
        assert_eq!((answer.status, answer.refusal()), (relayed, None), "{body}");
        assert_eq!(
            (answer.outcome(), &*answer.body),
            (Some(outcome), body.as_bytes())
        );
    }
}

#[tokio::test]
async fn a_slightly_odd_answer_head_is_relayed_and_costs_its_connection() {
    let length = SUCCESS.len();
    let many = "x-many: y\r\n".repeat(150);
    for head in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nx-odd: a\r\n b\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nx-odd : a\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\ncontent-length : {length}\r\n\r\n"),
        format!(
            "HTTP/1.1 200 OK\r\n{many}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ),
        format!("HTTP/1.1 200 OK\ncontent-length: {length}\n\n"),
        format!("HTTP/1.1  200 OK\r\ncontent-length: {length}\r\n\r\n"),
    ] {
        let wire = format!("{head}{SUCCESS}").into_bytes();
        let upstream = Scripted::always(Then::Answer(wire));
        let proxy = Proxy::before_scripted(&upstream)
            .with(|settings| settings.listen.threads = Some(1.try_into().unwrap()))
            .start();
        for call in changes() {
            let answer = proxy.send(call).await;
            assert_eq!(answer.refused(), (200, "not refused"), "{head:.70}");
            assert_eq!(answer.outcome(), Some("executed"), "{head:.70}");
            assert_eq!(&*answer.body, SUCCESS.as_bytes());
            if head.contains("x-many") {
                assert_eq!(answer.header("content-type"), Some("application/json"));
            }
            let odd = answer.header("x-odd").unwrap_or("a");
            assert!(odd.starts_with('a') && odd.split_whitespace().count() <= 2);
        }
        assert_eq!(upstream.connections(), 2, "not used again: {head:.70}");
    }
}

#[tokio::test]
async fn a_length_that_is_in_doubt_is_none() {
    let length = SUCCESS.len();
    let chunked = format!("{length:x}\r\n{SUCCESS}\r\n0\r\n\r\n");
    for (lines, body) in [
        (format!("content-length: +{length}"), SUCCESS),
        (format!("content-length: {length}\r\n 1"), SUCCESS),
        (
            format!("content-length: 5\r\ncontent-length : {length}"),
            SUCCESS,
        ),
        (
            format!("content-length: {length}\r\ntransfer-encoding: chunked"),
            &chunked,
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length : 9999".to_owned(),
            &chunked,
        ),
        ("transfer-encoding: gzip, chunked".to_owned(), &chunked),
        (
            "transfer-encoding: chunked\r\nTransfer-Encoding: chunked".to_owned(),
            &chunked,
        ),
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}");
        for call in changes() {
            let answer = told(wire.as_bytes(), call).await;
            assert_eq!(answer.refused(), (504, "outcome_unknown"), "{lines}");
            assert_eq!(answer.outcome(), Some("unknown"), "{lines}");
        }
    }
}

/// The failure with code 400002, compressed with gzip.
const REJECTION_IN_GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x2e\x49\x2c\x29\x2d\x56\xb2\x52\x72\x73\xf4\xf4\x51\xd2\x51\x4a\xce\x4f\x49\x05\xf2\x4c\x0c\x80\xc0\x08\xc8\xcf\x49\x4c\x4a\xcd\x01\x0a\x78\xfa\x85\x39\xfa\x78\xba\xc4\x07\x7b\xba\xfb\x39\x86\x84\x06\xb9\x2a\xd5\x02\x00\xd1\xf1\x8d\xd4\x3d\x00\x00\x00";

#[tokio::test]
async fn an_answer_in_a_coding_that_was_not_requested_is_not_relayed() {
    let long = [REJECTION_IN_GZIP, &vec![0; 100_000]].concat();
    let coded = "content-encoding: gzip\r\n";
    for (lines, body) in [
        (coded, REJECTION_IN_GZIP),
        ("Content-Encoding: br\r\n", b"\x0b\x02\x80{}\x03"),
        ("content-encoding: x-gzip, identity\r\n", REJECTION_IN_GZIP),
        // No line names the encoding, but the first bytes show it.
        ("", REJECTION_IN_GZIP),
        (coded, SUCCESS.as_bytes()),
        (coded, &long),
        ("", &long),
    ] {
        let wire = answer("200 OK", lines, body);
        let [write, money] = changes();
        for call in [write, money, acme().post(QUERY, BY_NUMBER)] {
            let answer = told(&wire, call).await;
            let what = answer.text();
            assert_eq!(answer.refused(), (504, "outcome_unknown"), "{lines} {what}");
            assert_eq!(answer.outcome(), Some("unknown"), "{lines}");
            assert_eq!(answer.header("content-encoding"), None);
        }
    }
    let plain = "content-encoding: identity\r\n";
    for call in changes() {
        let answer = told(&answer("200 OK", plain, SUCCESS.as_bytes()), call).await;
        assert_eq!(answer.outcome(), Some("executed"));
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// A proxy that allows gzip, before an upstream that always answers with this body in it.
fn allowing_gzip(body: &[u8]) -> (Scripted, Proxy) {
    let coded = answer(
        "200 OK",
        "Content-Encoding: gzip\r\nvary: accept-encoding\r\n",
        body,
    );
    let upstream = Scripted::always(Then::Answer(coded));
    let proxy = Proxy::before_scripted(&upstream)
        .with(|settings| settings.upstream.accept_encoding = AcceptEncoding::Gzip)
        .start();
    (upstream, proxy)
}

fn read_accepting(value: &str) -> Call {
    acme()
        .post(QUERY, BY_NUMBER)
        .header("accept-encoding", value)
}

#[tokio::test]
async fn gzip_is_asked_for_a_read_whose_caller_accepts_it_and_relayed_as_it_came() {
    let long: Vec<u8> = (0..400_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for body in [SUCCESS.as_bytes(), b"[]", &long] {
        let coded = gzip(body);
        let (upstream, proxy) = allowing_gzip(&coded);
        let answer = proxy.send(read_accepting("br, gzip")).await;
        assert_eq!(answer.refused(), (200, "not refused"));
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("vary"), Some("accept-encoding"));
        assert!(answer.body == coded, "byte for byte");
        assert!(
            upstream
                .received_text()
                .contains("accept-encoding: gzip\r\n")
        );
    }
}

#[tokio::test]
async fn gzip_is_asked_for_nothing_else() {
    let (upstream, proxy) = allowing_gzip(&gzip(SUCCESS.as_bytes()));
    let [write, money] = changes();
    for call in [
        write.header("accept-encoding", "gzip"),
        money.header("accept-encoding", "gzip"),
        acme().post(QUERY, BY_NUMBER),
        read_accepting("gzip;q=0"),
        acme()
            .get("/v1/pay/balance/query")
            .header("accept-encoding", "gzip"),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refused(), (504, "outcome_unknown"));
        assert_eq!(answer.outcome(), Some("unknown"));
    }
    let received = upstream.received_text();
    assert!(!received.contains("accept-encoding: gzip"), "{received}");
    assert!(received.contains("accept-encoding: identity"), "{received}");
    let upstream = Scripted::body(SUCCESS);
    let proxy = Proxy::before_scripted(&upstream).start();
    assert_eq!(proxy.send(read_accepting("gzip")).await.status, 200);
    assert!(
        upstream
            .received_text()
            .contains("accept-encoding: identity")
    );
}

#[tokio::test]
async fn an_answer_in_gzip_is_judged_and_what_cannot_be_read_is_no_answer() {
    let whole = gzip(SUCCESS.as_bytes());
    for (body, refused) in [
        (REJECTION_IN_GZIP.to_vec(), (502, "institution_rejected")),
        (whole[..whole.len() - 1].to_vec(), (504, "outcome_unknown")),
        (gzip(REJECTION_IN_GZIP), (504, "outcome_unknown")),
        (gzip(&vec![b' '; 32 << 20]), (504, "outcome_unknown")),
        (SUCCESS.as_bytes().to_vec(), (504, "outcome_unknown")),
    ] {
        let (_, proxy) = allowing_gzip(&body);
        let answer = proxy.send(read_accepting("gzip")).await;
        assert_eq!(answer.refused(), refused);
        assert!(answer.body.starts_with(b"{"));
        assert_eq!(answer.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn a_rejection_of_the_institution_is_known_in_every_encoding_of_text() {
    let text = r#"{"status":"FAIL","code":"400002","label":"INVALID_SIGNATURE"}"#;
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let latin = [
        text.trim_end_matches('}').as_bytes(),
        b",\"errorMessage\":\"\xe9\"}",
    ]
    .concat();
    for (body, is_certain) in [
        (text.as_bytes().to_vec(), true),
        ([b"\xef\xbb\xbf", text.as_bytes()].concat(), true),
        ([b"\xff\xfe", &little[..]].concat(), true),
        ([b"\xfe\xff", &big[..]].concat(), true),
        (little, true),
        (big, true),
        (text.replace("\"400002\"", "4.00002e5").into_bytes(), true),
        (latin, false),
    ] {
        let [write, money] = changes();
        for call in [write, money, acme().post(QUERY, BY_NUMBER)] {
            let upstream = Scripted::always(Then::Answer(answer("200 OK", "", &body)));
            let proxy = Proxy::before_scripted(&upstream).start();
            let answer = proxy.send(call).await;
            let refused = if is_certain {
                (502, "institution_rejected")
            } else {
                (504, "outcome_unknown")
            };
            assert_eq!(answer.refused(), refused, "{body:?}");
            assert!(!answer.text().contains("INVALID_SIGNATURE"), "{body:?}");
        }
    }
}
