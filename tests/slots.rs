use crate::support::abuse::{END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, head};
use crate::support::scripted::Scripted;
use crate::support::tls::{Caller, Files, Pair};
use crate::support::*;
use gatepay_proxy::tls::certificate::CertificateRenewal;
use gatepay_tenancy::settings::Settings;
use rustls::version::TLS13;
use std::time::Duration;

/// The connection limit in most of these tests.
const SLOTS: usize = 200;
/// A request for a path without an operation.
const NOWHERE: &[u8] = b"GET / HTTP/1.1\r\nhost: pay.example\r\n\r\n";

/// This many connection slots, and timeouts far longer than these tests.
fn slots(slots: usize) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.listen.max_connections = slots.try_into().unwrap();
        settings.listen.head_timeout = Duration::from_mins(10);
        settings.listen.body_timeout = Duration::from_mins(10);
        settings.listen.idle_timeout = Duration::from_hours(1);
    }
}

/// The same call over HTTP/2, on the stream of this number.
fn stream(number: u32, method: &str, path: &str, lines: &[(String, String)]) -> Vec<u8> {
    let head = head(&http2_fields(method, path, lines));
    frame(HEADERS, END_HEADERS | END_STREAM, number, &head)
}

/// An HTTP/2 client's first bytes.
fn preface() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

fn query(proxy: &Proxy) -> Vec<u8> {
    acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock)
}

/// Fills all slots from ten addresses with connections that send these bytes, in this order.
async fn besiege(proxy: &Proxy, says: impl Fn() -> Vec<u8>) -> Vec<Raw> {
    let mut held = Vec::new();
    for number in 0..SLOTS {
        let from = format!("127.0.1.{}", number % 10);
        let mut caller = proxy.raw_from(&from).await;
        caller.write(says()).await;
        held.push(caller);
    }
    proxy.counts(&format!("connections {SLOTS}")).await;
    held
}

/// The number of connections that ended for this reason.
async fn ended(proxy: &Proxy, reason: &str) -> usize {
    let metrics = proxy.metrics().await;
    let series = format!("gatepay_proxy_connections_ended_total{{reason=\"{reason}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn connections_on_which_nothing_was_verified_give_their_slots_to_others() {
    let gatepay = GatePay::start();
    let http2_nowhere = || [preface(), stream(1, "GET", "/", &[])].concat();
    let refused_unread = b"POST / HTTP/1.1\r\nhost: pay.example\r\ncontent-length: 900\r\n\r\n{";
    let clock = gatepay_proxy::process::clock::Clock::manual(T0);
    // The client id is known and the stamp fresh: only most of the body is missing.
    let call = || acme().post(QUERY, BY_NUMBER).nonce("slow");
    let body_awaited = || [call().head(&clock, "content-length: 900"), b"{".to_vec()].concat();
    let stream_awaited = || {
        let mut opened = [preface(), stream(1, "POST", QUERY, &call().lines(&clock))].concat();
        let flags = preface().len() + 4;
        opened[flags] &= !END_STREAM;
        opened
    };
    let sieges: [(&str, &dyn Fn() -> Vec<u8>); 9] = [
        ("a body that does not come", &body_awaited),
        ("HTTP/2, a body that does not come", &stream_awaited),
        ("refused, and the body never ends", &|| {
            refused_unread.to_vec()
        }),
        ("answered and idle", &|| NOWHERE.to_vec()),
        ("silent", &Vec::new),
        ("half a head", &|| NOWHERE[..20].to_vec()),
        ("HTTP/2, answered and idle", &http2_nowhere),
        ("HTTP/2, nothing asked", &preface),
        ("half a preface", &|| PREFACE[..10].to_vec()),
    ];
    for (siege, says) in sieges {
        let proxy = Proxy::before(&gatepay).with(slots(SLOTS)).start();
        let held = besiege(&proxy, says).await;
        let mut served = Vec::new();
        for _ in 0..20 {
            let mut caller = proxy.raw().await;
            caller.write(query(&proxy)).await;
            assert_eq!(caller.answer().await.status, 200, "{siege}");
            served.push(caller);
        }
        // Served connections stay, for their party has fewer connections than the attackers have.
        for caller in &mut served {
            caller.write(query(&proxy)).await;
            assert_eq!(caller.answer().await.status, 200, "{siege}");
        }
        assert_eq!(ended(&proxy, "full_unverified").await, 20, "{siege}");
        drop(held);
    }
}

#[tokio::test]
async fn a_tenant_that_holds_all_slots_gives_them_to_another_and_loses_its_longest_idle() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(slots(SLOTS)).start();
    let mut held = Vec::new();
    for number in 0..SLOTS {
        let mut caller = proxy.raw_from(&format!("127.0.1.{}", number % 10)).await;
        caller.write(query(&proxy)).await;
        assert_eq!(caller.answer().await.status, 200);
        held.push(caller);
        if number == 20 {
            // Times are kept in milliseconds.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // The first two are used again, so that other connections have idled for longer.
    for caller in &mut held[..2] {
        caller.write(query(&proxy)).await;
        assert_eq!(caller.answer().await.status, 200);
    }
    for _ in 0..3 {
        let answer = proxy.send(globex().post(QUERY, BY_NUMBER)).await;
        assert_eq!(answer.status, 200);
    }
    let gone = ended(&proxy, "full_verified").await;
    assert!((1..=3).contains(&gone), "{gone}");
    for (number, caller) in held.iter_mut().enumerate() {
        if !(2..=20).contains(&number) {
            caller.write(query(&proxy)).await;
            assert_eq!(caller.answer().await.status, 200, "{number}");
        }
    }
}

#[tokio::test]
async fn a_tenant_that_holds_all_slots_by_http_2_gives_them_to_another_although_it_reads_nothing() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(slots(SLOTS)).start();
    let clock = proxy.clock.clone();
    let says = || {
        let lines = acme().get(DETAILS).lines(&clock);
        [preface(), stream(1, "GET", DETAILS, &lines)].concat()
    };
    let _held = besiege(&proxy, says).await;
    until("all were answered", || gatepay.count() == SLOTS).await;
    proxy.counts("in_flight 0").await;
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(proxy.raw().await);
    }
    // All at once: each evicts another connection.
    for caller in &mut callers {
        let call = globex().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        caller.write(call).await;
    }
    for caller in &mut callers {
        assert_eq!(caller.answer().await.status, 200);
    }
    assert!(ended(&proxy, "full_verified").await >= 10);
}

#[tokio::test]
async fn a_connection_with_a_request_under_way_keeps_its_slot() {
    let gatepay = Scripted::held();
    let proxy = Proxy::before_scripted(&gatepay).with(slots(3)).start();
    let mut busy = Vec::new();
    for number in 1..=2 {
        let mut caller = proxy.raw_from("127.0.1.1").await;
        caller.write(query(&proxy)).await;
        until("it is at GatePay", || gatepay.count() == number).await;
        busy.push(caller);
    }
    let mut idle = proxy.raw_from("127.0.1.2").await;
    idle.write(NOWHERE).await;
    assert_eq!(idle.answer().await.status, 404);
    // Its holder has fewer connections, but the others are in use.
    let mut third = proxy.raw().await;
    third.write(query(&proxy)).await;
    assert_eq!(idle.rest().await.unwrap(), b"");
    until("it is at GatePay", || gatepay.count() == 3).await;
    // Now all connections are in use: the next connection waits.
    let mut fourth = proxy.raw_from("127.0.1.3").await;
    fourth.write(query(&proxy)).await;
    until("it was noticed", || {
        proxy.app().metrics.connections_full.get() > 0
    })
    .await;
    gatepay.release();
    for caller in busy.iter_mut().chain([&mut third, &mut fourth]) {
        assert_eq!(caller.answer().await.status, 200);
    }
    assert_eq!(gatepay.count(), 4);
}

#[tokio::test]
async fn an_address_whose_requests_take_the_slots_takes_no_others_connection() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).with(slots(4)).start();
    let mut other = proxy.raw_from("127.0.1.2").await;
    other.write(query(&proxy)).await;
    assert_eq!(other.answer().await.status, 200);
    // Bodies that do not come, with a wrong signature.
    let call = acme().post(QUERY, BY_NUMBER).secret("fake-other");
    let head = call.head(&proxy.clock, "content-length: 100");
    let mut held = Vec::new();
    for waiting in 1..=3 {
        let mut caller = proxy.raw_from("127.0.1.1").await;
        caller.write(&head).await;
        until("its body is awaited", || {
            proxy.app().metrics.requests.in_flight.get() == waiting
        })
        .await;
        held.push(caller);
    }
    let _more = Raw::open_from("127.0.1.1", proxy.address()).await;
    // On a slow machine its bodies may count as slow by now: then one of those connections is evicted.
    until("it is reset, or one of its own leaves", || {
        let ended = &proxy.app().metrics.connections_ended;
        ended.full_refused.get() + ended.full_unverified.get() == 1
    })
    .await;
    other.write(query(&proxy)).await;
    assert_eq!(other.answer().await.status, 200);
}

#[tokio::test]
async fn behind_a_trusted_proxy_a_slot_is_held_by_the_party_that_used_it() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(slots(5))
        .with(|settings| settings.listen.trusted_proxies = vec!["127.0.1.0/24".parse().unwrap()])
        .start();
    let mut open = Vec::new();
    for shop in [acme(), globex(), globex(), globex(), globex()] {
        let mut caller = proxy.raw_from("127.0.1.1").await;
        let call = shop.post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        caller.write(call).await;
        assert_eq!(caller.answer().await.status, 200);
        open.push(caller);
    }
    for round in 0..3 {
        // From the address with the most connections, but none of them is held against it.
        let mut caller = proxy.raw_from("127.0.1.1").await;
        let call = globex().post(QUERY, BY_NUMBER).bytes(&proxy.clock);
        caller.write(call).await;
        assert_eq!(caller.answer().await.status, 200, "{round}");
        open.push(caller);
    }
    assert!(ended(&proxy, "full_verified").await >= 3);
    // Idle for longest, but of a tenant that has only this connection.
    open[0].write(query(&proxy)).await;
    assert_eq!(open[0].answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_on_which_nothing_was_verified_idles_no_longer_than_a_head_may_take() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| settings.listen.head_timeout = Duration::from_millis(500))
        .start();
    let mut verified = proxy.raw().await;
    verified.write(query(&proxy)).await;
    assert_eq!(verified.answer().await.status, 200);
    let mut unknown = proxy.raw().await;
    unknown.write(NOWHERE).await;
    assert_eq!(unknown.answer().await.status, 404);
    let mut forged = proxy.raw().await;
    let call = acme().post(QUERY, BY_NUMBER).secret("fake-other");
    forged.write(call.bytes(&proxy.clock)).await;
    assert_eq!(forged.answer().await.status, 401);
    let mut http2 = proxy.raw().await;
    http2
        .write([preface(), stream(1, "GET", "/", &[])].concat())
        .await;
    assert_eq!(unknown.rest().await.unwrap(), b"");
    assert_eq!(forged.rest().await.unwrap(), b"");
    assert!(!http2.rest().await.unwrap().is_empty(), "its answer");
    verified.write(query(&proxy)).await;
    assert_eq!(verified.answer().await.status, 200);
}

#[tokio::test]
async fn a_connection_ends_with_its_age_once_no_request_is_under_way() {
    let gatepay = Scripted::held();
    let proxy = Proxy::before_scripted(&gatepay)
        .with(|settings| settings.listen.connection_age = Duration::from_secs(1))
        .start();
    let mut http1 = proxy.raw().await;
    http1.write(query(&proxy)).await;
    let http2 = Http2::open(proxy.address()).await;
    let call = acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
    let answer = tokio::spawn({
        let mut http2 = http2.clone();
        async move { http2.send(call).await }
    });
    until("both are at GatePay", || gatepay.count() == 2).await;
    let (mut old, mut pings) = (proxy.raw().await, proxy.raw().await);
    old.write(NOWHERE).await;
    assert_eq!(old.answer().await.status, 404);
    pings.write(preface()).await;
    assert_eq!(old.rest().await.unwrap(), b"", "nothing is under way");
    let _goaway = pings.rest().await.unwrap();
    until("all four are of age", || {
        proxy.app().metrics.connections_ended.age.get() == 4
    })
    .await;
    gatepay.release();
    // A request that came in time is answered, with a notice of the close.
    let last = http1.answer().await;
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(http1.rest().await.unwrap(), b"");
    assert_eq!(answer.await.unwrap().status, 200);
    until("the connection is over", || http2.is_closed()).await;
    proxy.counts("connections 0").await;
}

#[tokio::test]
async fn connections_let_in_by_a_client_ca_that_was_removed_end() {
    let gatepay = GatePay::start();
    let pair = Pair::new();
    let (theirs, others) = (Pair::authority(), Pair::authority());
    let files = Files::of(&pair);
    files.client_ca(&theirs);
    let named = files.named_with_client_ca();
    let proxy = Proxy::before(&gatepay)
        .with(|settings| {
            settings.listen.tls = Some(named);
            // The interval of the check of connections.
            settings.listen.head_timeout = Duration::from_millis(500);
        })
        .start();
    let caller = |protocols| Caller::speaking(&[&TLS13], protocols, &[&pair], Some(theirs.signs()));
    let stream = caller(&["h2"]).connect(proxy.address()).await.unwrap();
    let mut http2 = Http2::over(stream).await;
    let stream = caller(&["http/1.1"])
        .connect(proxy.address())
        .await
        .unwrap();
    let mut http1 = Connection::over(stream).await;
    let call = || acme().post(QUERY, BY_NUMBER).request(&proxy.clock);
    assert_eq!(http2.send(call()).await.status, 200);
    assert_eq!(http1.send(call()).await.status, 200);
    // A renewed certificate of the listener ends no connection.
    let unchanged = proxy.app().renew_certificate();
    assert_eq!(unchanged, Ok(CertificateRenewal::Unchanged));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!http2.is_closed());
    files.client_ca(&others);
    assert_eq!(
        proxy.app().renew_certificate(),
        Ok(CertificateRenewal::Renewed)
    );
    until("both are over", || http2.is_closed()).await;
    proxy.counts("connections 0").await;
    assert_eq!(proxy.app().metrics.connections_ended.client_ca.get(), 2);
    assert!(http1.try_send(call()).await.is_err());
}
