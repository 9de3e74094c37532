use crate::support::*;
use gatepay_core::header;
use gatepay_sandbox::examples;
use http::Method;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tokio::task::spawn_blocking;

const BANK: &str = "/withdraw/open/otc/api/bank/create";
const FORM: &str = "multipart/form-data; boundary=example-boundary";

#[tokio::test]
async fn an_upload_arrives_with_every_byte_of_its_files() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let every_byte: Vec<u8> = (0..=255).collect();
    for file in [
        every_byte.clone(),
        b"\r\n--example-boundary-not\r\n\0".to_vec(),
        // More bytes than any other operation allows.
        every_byte.repeat(3 * 4096),
    ] {
        let body = upload(&gatepay, &file);
        let call = acme().post(BANK, body.clone());
        let answer = proxy.send(call.instead("content-type", FORM)).await;
        assert_eq!(
            answer.status,
            200,
            "{} bytes: {}",
            file.len(),
            answer.text()
        );
        let received = gatepay.last();
        assert!(received.body == body, "{} bytes", file.len());
        assert!(received.verified && received.executed);
        assert_eq!(received.header("content-type"), Some(FORM));
        assert_eq!(
            received.header(header::ON_BEHALF_OF),
            Some(acme().sub_account)
        );
    }
    assert_eq!(gatepay.count(), 3);
}

#[tokio::test]
async fn only_uploads_may_be_larger_than_the_limit() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let head = acme()
        .post(CREATE, "{")
        .head(&proxy.clock, "content-length: 3145728");
    let mut raw = proxy.raw().await;
    raw.write(head).await;
    let answer = raw.answer().await;
    assert_eq!(answer.refused(), (413, "body_too_large"));
    assert_eq!(gatepay.count(), 0);
}

/// Sends a whole body before it reads, as Node's client does, and returns the answer.
fn send_before_reading(address: SocketAddr, head: &[u8], bytes: usize) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head)?;
    let piece = vec![b'x'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(piece.len());
        stream.write_all(&piece[..part])?;
        left -= part;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn a_client_that_sends_a_refused_body_to_its_end_still_sees_why() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for megabytes in [1, 5, 30] {
        let bytes = (megabytes << 20) + 1;
        let head = acme()
            .post(CREATE, "{")
            .head(&proxy.clock, &format!("content-length: {bytes}"));
        let address = proxy.address();
        let sent = spawn_blocking(move || send_before_reading(address, &head, bytes));
        let answer = sent.await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{megabytes}: {answer}");
        assert!(answer.contains("body_too_large"), "{megabytes}: {answer}");
    }
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_refused_body_without_end_is_cut_off() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let endless = 1 << 30;
    let head = acme()
        .post(CREATE, "{")
        .head(&proxy.clock, &format!("content-length: {endless}"));
    let address = proxy.address();
    let sent = spawn_blocking(move || send_before_reading(address, &head, endless));
    let error = sent.await.unwrap().unwrap_err();
    let cut = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
    assert!(cut.contains(&error.kind()), "{error}");
    proxy.counts("connections 0").await;
}

#[tokio::test]
async fn uploads_are_forms_and_everything_else_is_json() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let form = upload(&gatepay, b"%PDF");
    for (path, body, media_type) in [
        (BANK, form.clone(), "application/json"),
        (BANK, form.clone(), "application/x-www-form-urlencoded"),
        (BANK, form, "multipart/mixed; boundary=example-boundary"),
        (CREATE, order("A-0001").into_bytes(), FORM),
        (CREATE, order("A-0001").into_bytes(), "text/plain"),
    ] {
        let call = acme().post(path, body).instead("content-type", media_type);
        let answer = proxy.send(call).await;
        assert_eq!(
            answer.refused(),
            (415, "unsupported_media_type"),
            "{path} {media_type}"
        );
    }
    assert_eq!(gatepay.count(), 0);
}

/// A new bank account with a file of these bytes.
fn upload(gatepay: &GatePay, file: &[u8]) -> Vec<u8> {
    let example = examples::prepare(&gatepay.sandbox, acme().sub_account, "create_otc_bank");
    let body = example.unwrap().body;
    let mark = b"%PDF-1.7";
    let at = body
        .windows(mark.len())
        .position(|part| part == mark)
        .unwrap();
    [&body[..at], file, &body[at + mark.len()..]].concat()
}

#[tokio::test]
async fn the_absent_values_of_stock_clients_go_through_unchanged() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for (path, body) in [
        (
            CREATE,
            r#"{"merchantTradeNo":"A-0001","env":{"terminalType":"APP"},"currency":"USDT","orderAmount":"1.21","goods":{"goodsName":"NF2T","goodsType":null},"merchantUserId":0,"returnUrl":"","cancelUrl":null,"channelId":"0","callbackUrl":"","merchant_id":null,"client_id":"","accountId":0}"#,
        ),
        (
            CREATE,
            r#"{ "merchantTradeNo":"A-0002","env":{"terminalType":"APP","ip":"203.0.113.9"},"currency":"USDT","orderAmount":1.50,"goods":{"goodsName":"\u00e9"},"newer":{"than":["us",{"deep":[[]]}]} }"#,
        ),
        (QUERY, r#"{"prepayId":"","merchantTradeNo":"A-0001"}"#),
        (
            QUERY,
            "{\"prepayId\":null,\r\n\t\"merchantTradeNo\":\"A-0002\"}\n",
        ),
    ] {
        let answer = proxy.send(acme().post(path, body)).await;
        assert_eq!(answer.refusal(), None, "{body}: {}", answer.text());
        let received = gatepay.last();
        assert_eq!(received.body, body);
        assert!(received.verified && received.executed, "{body}");
        assert_eq!(answer.body, received.answer_body);
    }
}

#[tokio::test]
async fn parameters_may_stand_in_query_and_body_at_once() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let query = "?merchantTradeNo=A-0001&x=%C3%A9+a&x=&y";
    let json = r#"{"merchantTradeNo":"A-0001","prepayId":null}"#;
    for (call, path) in [
        (acme().post(&format!("{QUERY}{query}"), json), QUERY),
        (acme().get_with(&format!("{DETAILS}{query}"), json), DETAILS),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refusal(), None, "{path}: {}", answer.text());
        let received = gatepay.last();
        assert_eq!(received.target, format!("{PREFIX}{path}{query}"));
        assert_eq!(received.body, json);
        assert!(received.verified);
    }
}

#[tokio::test]
async fn a_get_may_carry_a_body_which_is_signed() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let json = r#"{"refundRequestId":"R-0001"}"#;
    proxy.send(acme().get_with(DETAILS, json)).await;
    let received = gatepay.last();
    assert_eq!(
        (&*received.method, &*received.body),
        ("GET", json.as_bytes())
    );
    assert!(received.verified);
    let other = acme().get_with(DETAILS, json).signing("");
    assert_eq!(
        proxy.send(other).await.refused(),
        (401, "signature_mismatch")
    );
    assert_eq!(gatepay.count(), 1);
}

#[tokio::test]
async fn header_names_may_be_written_in_any_case() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let title = |name: &str| {
        let words = name
            .split('-')
            .map(|word| word[..1].to_uppercase() + &word[1..]);
        words.collect::<Vec<_>>().join("-")
    };
    let spellings: [&dyn Fn(&str) -> String; 3] = [&str::to_lowercase, &str::to_uppercase, &title];
    for (sent, spelled) in spellings.into_iter().enumerate() {
        let mut head = format!("POST {QUERY} HTTP/1.1\r\n");
        let length = ("content-length".to_owned(), BY_NUMBER.len().to_string());
        for (name, value) in acme()
            .post(QUERY, BY_NUMBER)
            .lines(&proxy.clock)
            .into_iter()
            .chain([length])
        {
            head.extend([&*spelled(&name), ": ", &value, "\r\n"]);
        }
        let mut raw = proxy.raw().await;
        raw.write(format!("{head}\r\n{BY_NUMBER}")).await;
        assert_eq!(raw.answer().await.status, 200, "{head}");
        assert_eq!(gatepay.count(), sent + 1);
        assert!(gatepay.last().verified);
    }
}

#[tokio::test]
async fn a_nonce_is_good_again_under_a_fresh_timestamp() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let call = || acme().post(QUERY, BY_NUMBER).nonce("000000");
    for _ in 0..3 {
        assert_eq!(proxy.send(call()).await.status, 200);
        assert_eq!(proxy.send(call()).await.refused(), (401, "replayed"));
        proxy.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(gatepay.count(), 3);
}

#[tokio::test]
async fn calls_without_a_body_name_a_media_type_or_none() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let path = "/v1/pay/channelmanage/delete?channelId=1";
    for call in [
        acme().get("/v1/pay/balance"),
        acme()
            .get("/v1/pay/balance")
            .header("content-type", "application/json"),
        acme()
            .get("/v1/pay/balance")
            .header("content-type", "text/plain"),
        acme().get(path).method(Method::DELETE),
    ] {
        let answer = proxy.send(call).await;
        assert_eq!(answer.refusal(), None, "{}", answer.text());
        assert!(gatepay.last().verified);
    }
    assert_eq!(gatepay.count(), 4);
}
