use crate::support::*;
use gatepay_core::header;
use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

#[tokio::test]
async fn gatepay_gets_four_headers_of_the_tenants_and_ours_and_no_other() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let theirs = [
        ("content-type", "Application/JSON; charset=utf-8"),
        ("accept", "application/json, */*"),
        ("accept-language", "tr"),
        ("user-agent", "gatepay-shop/3.1"),
    ];
    let kept_back = [
        ("x-gatepay-on-behalf-of", acme().sub_account),
        ("x-gatepay-merchantid", "666"),
        ("x-gatepay-certificate-sn", "old"),
        ("x-gatepay-anything", "666"),
        ("x-gatepay-proxy-outcome", "found"),
        ("x-request-id", "mine"),
        ("x-forwarded-for", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
        ("x-foo", "bar"),
        ("cookie", "session=1"),
        ("authorization", "Basic Zm9v"),
        ("proxy-authorization", "Basic Zm9v"),
        ("te", "trailers"),
        ("trailer", "x-foo"),
        ("connection", "keep-alive, user-agent, x-bar"),
        ("keep-alive", "timeout=5"),
        ("x-bar", "hop"),
        ("accept-encoding", "gzip"),
        ("expect", "100-continue"),
        ("via", "1.1 somewhere"),
    ];
    let lines = theirs
        .iter()
        .chain(&kept_back)
        .filter(|line| line.0 != "content-type");
    let call = acme()
        .post(QUERY, BY_NUMBER)
        .instead(theirs[0].0, theirs[0].1);
    let call = lines.fold(call, |call, (name, value)| call.header(name, value));
    assert_eq!(proxy.send(call).await.refusal(), None);

    let received = gatepay.last();
    let names: BTreeSet<&str> = received.headers.iter().map(|(name, _)| &**name).collect();
    let ours = [
        "host",
        "accept-encoding",
        "content-length",
        header::ON_BEHALF_OF,
        header::CLIENT_ID,
        header::TIMESTAMP,
        header::NONCE,
        header::SIGNATURE,
    ];
    let expected = theirs.iter().map(|(name, _)| *name).chain(ours).collect();
    assert_eq!(names, expected);
    assert_eq!(received.header("accept-encoding"), Some("identity"));
    assert_eq!(received.headers.len(), names.len(), "each once");
    for (name, value) in theirs {
        assert_eq!(received.header(name), Some(value));
    }
    let host = gatepay.sandbox.address().to_string();
    assert_eq!(received.header("host"), Some(&*host));
    assert_eq!(received.header(header::CLIENT_ID), Some(INSTITUTION_ID));
}

#[tokio::test]
async fn every_call_is_made_on_behalf_of_the_callers_own_account() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    for shop in [acme(), globex()] {
        for call in [
            shop.post(QUERY, BY_NUMBER),
            shop.post(CREATE, order("A-0001")),
            shop.post(REFUND, A_REFUND),
            shop.get(DETAILS),
            // GatePay leaves the account optional here: without it the institution would pay.
            shop.post("/v1/pay/batch/transfer", "{}"),
        ] {
            assert_eq!(proxy.send(call).await.refusal(), None);
            let received = gatepay.last();
            assert_eq!(
                received.header(header::ON_BEHALF_OF),
                Some(shop.sub_account)
            );
        }
    }
    assert_eq!(gatepay.count(), 10);
}

#[tokio::test]
async fn every_call_has_a_nonce_of_its_own_and_the_time_at_which_it_is_sent() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let mut nonces = HashSet::new();
    for seconds in 0..20 {
        // The tenant keeps its nonce, and its stamps are a minute behind: neither may show.
        let late = T0 + seconds * 1_000 - 60_000;
        let call = acme().post(QUERY, BY_NUMBER).nonce("kept").timestamp(&late);
        assert_eq!(proxy.send(call).await.status, 200);
        let received = gatepay.last();
        let now = (T0 + seconds * 1_000).to_string();
        assert_eq!(received.header(header::TIMESTAMP), Some(&*now));
        let nonce = received.header(header::NONCE).unwrap().to_owned();
        assert!(nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        nonces.insert(nonce);
        proxy.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(nonces.len(), 20);
}
