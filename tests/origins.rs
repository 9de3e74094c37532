use crate::support::*;
use gatepay_proxy::listener::proxy_protocol;
use gatepay_tenancy::settings::Settings;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

const PROXY: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.3";

/// A valid query, from behind a proxy that states these addresses.
fn forwarded(proxy: &Proxy, addresses: &str) -> Vec<u8> {
    let call = acme().post(QUERY, BY_NUMBER);
    call.header("x-forwarded-for", addresses)
        .bytes(&proxy.clock)
}

fn trusting(settings: &mut Settings) {
    settings.listen.trusted_proxies = vec!["127.0.0.2/32".parse().unwrap()];
}

fn with_header(settings: &mut Settings) {
    trusting(settings);
    settings.listen.proxy_protocol = true;
}

/// Version 2, over IPv4, with an extension.
fn binary(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12".to_vec();
    header.extend(source);
    header.extend([10, 0, 0, 1, 0xC3, 0x50, 0x01, 0xBB, 0x04, 0, 3, 0, 0, 0]);
    header
}

fn only_from(network: &str) -> Shop {
    let network = network.parse().unwrap();
    acme().with(move |party| party.addresses = [network].into())
}

async fn peers(proxy: Proxy) -> Vec<String> {
    let lines = proxy.stop().await.into_iter();
    let peer = |line: serde_json::Value| line["peer"].as_str().unwrap().to_owned();
    lines.map(peer).collect()
}

#[tokio::test]
async fn a_trusted_proxy_says_where_its_callers_are() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(only_from("203.0.113.0/24"))
        .with(trusting)
        .start();
    let mut caller = proxy.raw_from(PROXY).await;
    for (addresses, refused) in [
        ("203.0.113.7", (200, "not refused")),
        ("192.0.2.9, 203.0.113.7, 127.0.0.2", (200, "not refused")),
        ("203.0.113.7, 192.0.2.9", (403, "address_not_allowed")),
        ("203.0.113.7, junk", (403, "address_not_allowed")),
        ("", (403, "address_not_allowed")),
    ] {
        caller.write(forwarded(&proxy, addresses)).await;
        assert_eq!(caller.answer().await.refused(), refused, "{addresses}");
    }
    let seen = peers(proxy).await;
    let expected = ["203.0.113.7", "203.0.113.7", "192.0.2.9", PROXY, PROXY];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn forwarded_addresses_of_untrusted_peers_change_nothing() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(only_from("203.0.113.0/24"))
        .with(with_header)
        .start();
    let mut caller = proxy.raw_from(STRANGER).await;
    caller.write(forwarded(&proxy, "203.0.113.7")).await;
    let answer = caller.answer().await;
    assert_eq!(answer.refused(), (403, "address_not_allowed"));
    // A listener without trusted proxies reads a PROXY header as broken HTTP.
    for header in [
        b"PROXY TCP4 203.0.113.7 10.0.0.1 50000 443\r\n".to_vec(),
        binary([203, 0, 113, 7]),
    ] {
        let mut caller = proxy.raw_from(STRANGER).await;
        let call = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        caller.write([header, call].concat()).await;
        let said = caller.rest().await.unwrap_or_default();
        assert!(!said.starts_with(b"HTTP/1.1 200"));
    }
    proxy.counts("unreadable_heads_total 2").await;
    assert_eq!(gatepay.count(), 0);
    assert_eq!(peers(proxy).await, [STRANGER; 3]);
}

#[tokio::test]
async fn a_proxy_header_says_where_a_connection_comes_from() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .tenant(only_from("203.0.113.7/32"))
        .with(with_header)
        .start();
    for header in [
        b"PROXY TCP4 203.0.113.7 10.0.0.1 50000 443\r\n".to_vec(),
        binary([203, 0, 113, 7]),
    ] {
        let mut caller = proxy.raw_from(PROXY).await;
        for byte in header {
            caller.write([byte]).await;
        }
        // The connection's address is not a trusted proxy's, so its forwarded addresses are ignored.
        for _ in 0..2 {
            caller.write(forwarded(&proxy, "192.0.2.9")).await;
            assert_eq!(caller.answer().await.refused(), (200, "not refused"));
        }
    }
    // Header and request at once; one proxy behind another; and a proxy speaking for itself.
    for (header, refused) in [
        (
            "PROXY TCP4 192.0.2.9 10.0.0.1 50000 443\r\n",
            (403, "address_not_allowed"),
        ),
        (
            "PROXY TCP4 127.0.0.2 10.0.0.1 50000 443\r\n",
            (200, "not refused"),
        ),
        ("PROXY UNKNOWN\r\n", (200, "not refused")),
    ] {
        let mut caller = proxy.raw_from(PROXY).await;
        let call = forwarded(&proxy, "203.0.113.7");
        caller.write([header.as_bytes(), &call].concat()).await;
        assert_eq!(caller.answer().await.refused(), refused, "{header}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_that_sends_no_header_is_not_served() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(with_header)
        .with(|settings| settings.listen.head_timeout = Duration::from_secs(1))
        .start();
    let call = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    for begun in [&call[..], b"PROXY TCP4 203.0.113.7\r\n", b"PROXY", b""] {
        let mut caller = proxy.raw_from(PROXY).await;
        caller.write(begun).await;
        assert_eq!(caller.rest().await.unwrap_or_default(), b"");
    }
    proxy.counts("proxy_headers_refused_total 4").await;
    // A health check connects and leaves.
    drop(proxy.raw_from(PROXY).await);
    proxy.counts("connections 0").await;
    proxy.counts("proxy_headers_refused_total 4").await;
    assert_eq!(gatepay.count(), 0);
}

#[tokio::test]
async fn a_proxy_header_is_taken_to_its_end_and_no_further() {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (mut tcp, _) = listener.accept().await.unwrap();
    let header = binary([203, 0, 113, 7]);
    sender
        .write_all(&[&header[..], b"\x16\x03\x01"].concat())
        .await
        .unwrap();
    let source = proxy_protocol::read(&mut tcp).await.unwrap();
    assert_eq!(source, Some("203.0.113.7".parse().unwrap()));
    let mut rest = [0; 3];
    tokio::io::AsyncReadExt::read_exact(&mut tcp, &mut rest)
        .await
        .unwrap();
    assert_eq!(&rest, b"\x16\x03\x01");
}

#[tokio::test]
async fn one_address_has_only_so_many_connections() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.max_connections_per_address = 3.try_into().unwrap();
        })
        .start();
    let call = || acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut caller = proxy.raw_from(STRANGER).await;
        caller.write(call()).await;
        assert_eq!(caller.answer().await.status, 200);
        open.push(caller);
    }
    for refused in 1..=5 {
        if let Ok(mut caller) = Raw::open_from(STRANGER, proxy.address()).await {
            assert!(caller.rest().await.is_err(), "it is reset at once");
        }
        proxy
            .counts(&format!("connections_refused_total {refused}"))
            .await;
    }
    // Other callers are undisturbed, and a slot is free after its connection ended.
    assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
    open.pop();
    proxy.counts("connections 2").await;
    let mut caller = proxy.raw_from(STRANGER).await;
    caller.write(call()).await;
    assert_eq!(caller.answer().await.status, 200);
}

#[tokio::test]
async fn a_trusted_proxy_is_not_held_to_one_callers_share_but_its_callers_are() {
    let gatepay = GatePay::start();
    let few = |settings: &mut Settings| {
        settings.listen.max_connections_per_address = 2.try_into().unwrap();
    };
    let proxy = Proxy::before(&gatepay).with(trusting).with(few).start();
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut caller = proxy.raw_from(PROXY).await;
        caller.write(forwarded(&proxy, "203.0.113.7")).await;
        assert_eq!(caller.answer().await.status, 200);
        open.push(caller);
    }
    let proxy = Proxy::before(&gatepay).with(with_header).with(few).start();
    let mut open = Vec::new();
    for (source, served) in [(7, true), (7, true), (7, false), (8, true)] {
        let mut caller = proxy.raw_from(PROXY).await;
        let call = acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        caller
            .write([binary([203, 0, 113, source]), call].concat())
            .await;
        if served {
            assert_eq!(caller.answer().await.status, 200);
        } else {
            assert!(caller.rest().await.is_err());
        }
        open.push(caller);
    }
    proxy.counts("connections_refused_total 1").await;
}

#[tokio::test]
async fn failures_are_held_against_the_caller_never_against_the_proxy_before_it() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(trusting).start();
    let wrong = |addresses: &str| {
        let call = acme().post(QUERY, BY_NUMBER).secret("fake-other");
        call.header("x-forwarded-for", addresses)
            .bytes(&proxy.clock)
    };
    let mut caller = proxy.raw_from(PROXY).await;
    for addresses in ["", "203.0.113.7"] {
        for _ in 0..30 {
            caller.write(wrong(addresses)).await;
            assert_eq!(caller.answer().await.refused(), (401, "signature_mismatch"));
        }
    }
    let failing = |address: &str| {
        let address = address.parse().unwrap();
        proxy.app().admission.auth_throttle.is_failing(address)
    };
    assert!(failing("203.0.113.7"));
    assert!(!failing(PROXY));
    // The connection waits for its turn like all others from there, and is served.
    caller.write(forwarded(&proxy, "203.0.113.7")).await;
    assert_eq!(caller.answer().await.status, 200);
}
