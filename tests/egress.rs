use crate::support::scripted::Scripted;
use crate::support::*;
use gatepay_core::SecretKey;
use gatepay_proxy::process::clock::Clock;
use gatepay_tenancy::settings::{
    BreakerSettings, EgressCredentials, EgressSettings, Settings, UpstreamUrl,
};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

fn create(number: usize) -> Call {
    acme().post(CREATE, order(&format!("A-{number:04}")))
}

fn most(connections: usize) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.upstream.max_connections = NonZeroUsize::new(connections).unwrap();
    }
}

/// The answers to this many concurrent callers.
async fn all_at_once(proxy: &Proxy, callers: usize) -> JoinSet<Answer> {
    let mut answers = JoinSet::new();
    for number in 0..callers {
        let mut caller = proxy.connect().await;
        let request = create(number).request(&proxy.clock);
        answers.spawn(async move { caller.send(request).await });
    }
    answers
}

#[tokio::test]
async fn connections_to_gatepay_are_limited_and_calls_queue_if_none_is_free() {
    let upstream = Scripted::held();
    let proxy = Proxy::before_scripted(&upstream).with(most(4)).start();
    let answers = all_at_once(&proxy, 40).await;
    proxy.counts("in_flight 40").await;
    until("four calls are under way", || upstream.count() >= 1).await;
    assert!(upstream.connections() <= 4);
    upstream.release();
    for answer in answers.join_all().await {
        assert_eq!(answer.refused(), (200, "not refused"));
    }
    assert_eq!(upstream.count(), 40);
    assert!(upstream.connections() <= 4, "{}", upstream.connections());
}

#[tokio::test]
async fn sessions_with_gatepay_are_resumed() {
    let gatepay = GatePay::secured(|_| {});
    let port = gatepay.sandbox.address().port();
    let proxy = Proxy::at(&format!("https://localhost:{port}"), &gatepay.clock)
        .with(|settings| {
            settings.upstream.ca = Some(CERTIFICATE.into());
            // Every call has a connection of its own.
            settings.upstream.max_idle_connections = 0;
        })
        .start();
    for number in 0..10 {
        assert_eq!(proxy.send(create(number)).await.status, 200);
    }
    // Each of the two workers may begin with a full handshake, but shares its session tickets.
    let metrics = proxy.metrics().await;
    let count = |kind: &str| -> u32 {
        let name = format!("gatepay_proxy_upstream_tls_handshakes_total{{kind=\"{kind}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    };
    assert_eq!(count("full") + count("resumed"), 10);
    assert!(count("full") <= 2, "{} full handshakes", count("full"));
}

/// An egress proxy that makes tunnels to one place, or answers otherwise, and keeps the bytes it could read.
struct Middle {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    passed: Arc<Mutex<Vec<u8>>>,
}

impl Middle {
    async fn saying(answer: &'static str, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let middle = Self {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            passed: Arc::default(),
        };
        let (heads, passed) = (Arc::clone(&middle.heads), Arc::clone(&middle.passed));
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (heads, passed) = (Arc::clone(&heads), Arc::clone(&passed));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(near.read_u8().await.unwrap());
                    }
                    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
                    near.write_all(answer.as_bytes()).await.unwrap();
                    if !answer.starts_with("HTTP/1.1 200") {
                        // The connection stays open: the bytes sent so far have to be enough.
                        return std::future::pending::<()>().await;
                    }
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let mut first = [0; 16];
                    near.peek(&mut first).await.unwrap();
                    passed.lock().unwrap().extend_from_slice(&first);
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        middle
    }

    fn egress(&self, credentials: Option<&str>) -> impl FnOnce(&mut Settings) + use<> {
        let url = UpstreamUrl::parse(&format!("http://{}", self.address)).unwrap();
        let authorization = credentials.map(|text| {
            let secret = SecretKey::new(text.to_owned().into()).unwrap();
            EgressCredentials::basic(&secret).unwrap()
        });
        move |settings| settings.egress = Some(EgressSettings { url, authorization })
    }
}

const YES: &str = "HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n";

#[tokio::test]
async fn an_egress_proxy_makes_tunnels_and_sees_no_plain_text() {
    let gatepay = GatePay::secured(|_| {});
    let address = gatepay.sandbox.address();
    let middle = Middle::saying(YES, address).await;
    let url = format!("https://localhost:{}", address.port());
    let proxy = Proxy::at(&url, &gatepay.clock)
        .with(|settings| settings.upstream.ca = Some(CERTIFICATE.into()))
        .with(middle.egress(Some("proxy-user:fake-password")))
        .start();
    let mut caller = proxy.connect().await;
    for number in 0..3 {
        let answer = caller.send(create(number).request(&proxy.clock)).await;
        assert_eq!(answer.refused(), (200, "not refused"));
    }
    let port = address.port();
    let expected = format!(
        "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\
         Proxy-Authorization: Basic cHJveHktdXNlcjpmYWtlLXBhc3N3b3Jk\r\n\r\n"
    );
    assert_eq!(
        *middle.heads.lock().unwrap(),
        [expected],
        "one tunnel for all"
    );
    let passed = middle.passed.lock().unwrap();
    assert_eq!(passed[..2], [0x16, 0x03], "TLS runs inside");
}

#[tokio::test]
async fn plain_text_is_tunneled_too() {
    let gatepay = GatePay::start();
    let middle = Middle::saying(YES, gatepay.sandbox.address()).await;
    let proxy = Proxy::before(&gatepay).with(middle.egress(None)).start();
    assert_eq!(proxy.send(create(1)).await.status, 200);
    assert!(!middle.heads.lock().unwrap()[0].contains("Authorization"));
}

#[tokio::test]
async fn a_tunnel_that_is_refused_means_that_nothing_was_sent() {
    for (answer, why) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "egress proxy: answered 407",
        ),
        (
            "HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno",
            "egress proxy: answered 503",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nand more",
            "egress proxy: gave no answer that can be read",
        ),
        (
            "220 mail.example ESMTP\r\n\r\n",
            "egress proxy: gave no answer that can be read",
        ),
        ("", "no connection within 300 ms"),
    ] {
        let nobody: SocketAddr = ([127, 0, 0, 1], 9).into();
        // Only of the egress proxy that says nothing.
        let connect_timeout = if answer.is_empty() {
            Duration::from_millis(300)
        } else {
            PATIENCE
        };
        let middle = Middle::saying(answer, nobody).await;
        let proxy = Proxy::at("http://127.0.0.1:9", &Clock::manual(T0))
            .with(middle.egress(Some("proxy-user:fake-password")))
            .with(move |settings| {
                settings.upstream.connect_timeout = connect_timeout;
                settings.upstream.repeat_budget = 0.0;
            })
            .start();
        let refused = proxy.send(acme().post(REFUND, A_REFUND)).await;
        assert_eq!(refused.refused(), (502, "upstream_unreachable"), "{answer}");
        assert_eq!(refused.outcome(), Some("not-executed"));
        let lines = proxy.stop().await;
        assert_eq!(lines[0]["detail"], why);
        assert!(!refused.text().contains("Basic"));
    }
}

#[tokio::test]
async fn when_gatepay_comes_back_all_callers_are_served_on_few_connections() {
    // Ten times shorter than the next test, and the time is not judged: this machine may have other work.
    come_back(Duration::from_secs(1), PATIENCE).await;
}

#[tokio::test]
#[ignore = "takes twelve seconds, and needs a machine to itself"]
async fn after_ten_seconds_of_outage_calls_recover_within_one_second() {
    come_back(Duration::from_secs(10), Duration::from_secs(1)).await;
}

#[expect(clippy::print_stdout, reason = "a proof shows its figures")]
/// Kills GatePay for the duration `away` under load, and waits until every caller is served.
async fn come_back(away: Duration, within: Duration) {
    const CALLERS: usize = 16;
    const MOST: usize = 8;
    let mut gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay)
        // The clock stands still, so that the rate limit's tokens do not come back.
        .tenant(acme().rate(1_000_000, 1_000_000))
        .with(most(MOST))
        .with(|settings| settings.upstream.breaker = BreakerSettings::default())
        .start();
    let served = Arc::new(Mutex::new([None::<Instant>; CALLERS]));
    let mut load = JoinSet::new();
    for caller in 0..CALLERS {
        let mut connection = proxy.connect().await;
        let (clock, served) = (proxy.clock.clone(), Arc::clone(&served));
        load.spawn(async move {
            loop {
                let call = match caller % 2 {
                    0 => acme().post(QUERY, BY_NUMBER),
                    _ => acme().post(REFUND, A_REFUND),
                };
                let answer = connection.send(call.request(&clock)).await;
                match answer.refusal() {
                    None => served.lock().unwrap()[caller] = Some(Instant::now()),
                    Some("upstream_unreachable" | "upstream_unavailable") => {
                        assert_eq!(answer.outcome(), Some("not-executed"));
                    }
                    Some("outcome_unknown") => assert_eq!(answer.outcome(), Some("unknown")),
                    Some(other) => panic!("{other}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let all_since = |since: Instant| {
        let served = *served.lock().unwrap();
        served.iter().all(|at| at.is_some_and(|at| at > since))
    };
    let begun = Instant::now();
    until("everybody is served", || all_since(begun)).await;
    gatepay.sandbox.stop();
    tokio::time::sleep(away).await;
    gatepay.again();
    let back = Instant::now();
    until("everybody is served again", || all_since(back)).await;
    let took = back.elapsed();
    assert!(took <= within, "{took:?}");
    load.abort_all();
    let open = proxy.metrics().await;
    let open = open
        .lines()
        .find_map(|line| line.strip_prefix("gatepay_proxy_upstream_connections "));
    let open: usize = open.unwrap().parse().unwrap();
    assert!(open <= MOST, "{open} connections");
    println!("recovered after {took:?} on {open} connections");
}
