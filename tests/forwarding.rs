use crate::support::*;
use gatepay_core::Stamp;
use gatepay_core::{Signature, verify};

/// Bodies that any parse-and-write-again would change.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "trailing LF",
            b"{\"merchantTradeNo\":\"A-0001\"}\n".to_vec(),
        ),
        (
            "CR LF",
            b"{\r\n\"merchantTradeNo\" : \"A-0001\"\r\n}\r\n".to_vec(),
        ),
        (
            "escapes",
            br#"{"merchantTradeNo":"A-0001","x":"\u003cb\u003e \/ <>&"}"#.to_vec(),
        ),
        (
            "non-ASCII",
            r#"{"merchantTradeNo":"A-0001","x":"Ödemesi 订单 🧾 é é"}"#
                .as_bytes()
                .to_vec(),
        ),
        (
            "duplicate keys",
            br#"{"merchantTradeNo":"A-0001","x":1.0,"x":1.00}"#.to_vec(),
        ),
        (
            "big numbers",
            br#"{"merchantTradeNo":"A-0001","x":123456789012345678901234567890}"#.to_vec(),
        ),
        ("one MiB", {
            let mut body = br#"{"merchantTradeNo":"A-0001","pad":""#.to_vec();
            body.resize((1 << 20) - 2, b'a');
            body.extend_from_slice(b"\"}");
            body
        }),
    ]
}

#[tokio::test]
async fn a_body_arrives_byte_for_byte_and_signed_by_the_institution() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).tenant(acme()).start();
    for (name, body) in bodies() {
        let answer = proxy.send(acme().post(QUERY, body.clone())).await;
        assert_eq!((answer.status, answer.refusal()), (200, None), "{name}");
        let received = gatepay.last();
        assert_eq!(received.body, body, "{name}");
        assert!(received.verified, "{name}");
        let header = |name| received.header(name).unwrap();
        let stamp = Stamp::parse(
            header("x-gatepay-timestamp").as_bytes(),
            header("x-gatepay-nonce").as_bytes(),
        )
        .unwrap();
        let signature = Signature::parse(header("x-gatepay-signature").as_bytes()).unwrap();
        assert!(
            verify(&institution().key, &stamp, &body, &signature),
            "{name}"
        );
    }
}
