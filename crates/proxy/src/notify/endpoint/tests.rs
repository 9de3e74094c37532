use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::destination::{DestinationError, DestinationUrl};
use gatepay_http1::header_block::HeaderBlock;
use gatepay_tenancy::notifications::EndpointBounds;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::checked_addresses::{AddressError, NameLookup, NameResolver};
use super::client::{
    EndpointAnswer, EndpointClient, EndpointError, EndpointNetwork, LOOKUPS, MOST_READ,
};
use crate::tls::config;
use crate::upstream::connection::ExchangeError;
use tls_server::{SUCCESS, ServerManner, TlsServer};

mod forbidden_destinations;
mod kernel_connects;
pub(crate) mod tls_server;

/// A resolver of a test: each name has a list of results, the last of which repeats.
#[derive(Default)]
pub(crate) struct ScriptedResolver {
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    lookups: AtomicUsize,
}

impl ScriptedResolver {
    pub(crate) fn of(names: &[(&str, &[&[IpAddr]])]) -> Arc<Self> {
        let names = names.iter().map(|(name, results)| {
            let results = results.iter().map(|result| result.to_vec()).collect();
            ((*name).to_owned(), results)
        });
        Arc::new(Self {
            names: Mutex::new(names.collect()),
            lookups: AtomicUsize::new(0),
        })
    }

    fn lookups(&self) -> usize {
        self.lookups.load(Ordering::SeqCst)
    }
}

impl NameResolver for ScriptedResolver {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> NameLookup<'a> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let mut names = self.names.lock();
        let found = names.get_mut(name).map(|results| {
            if results.len() > 1 {
                results.remove(0)
            } else {
                results[0].clone()
            }
        });
        let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let with_port = move |all: Vec<IpAddr>| {
            let all = all.into_iter();
            all.map(|address| SocketAddr::new(address, port)).collect()
        };
        Box::pin(std::future::ready(found.map(with_port)))
    }
}

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn parse(url: &str, bounds: &EndpointBounds) -> Result<DestinationUrl, DestinationError> {
    bounds.with_rules(|rules| DestinationUrl::parse(url, rules))
}

pub(crate) fn bounds(ports: &[u16], allow: &[&str]) -> EndpointBounds {
    EndpointBounds {
        ports: ports.to_vec(),
        allow_networks: allow.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn client(
    url: &str,
    rules: &EndpointBounds,
    resolver: Arc<dyn NameResolver>,
    ca: Option<&Path>,
) -> EndpointClient {
    let gauge = IntGauge::new("open", "Open.").unwrap();
    let network = Arc::new(EndpointNetwork::new(resolver, gauge));
    let network = (network, Arc::new(Semaphore::new(LOOKUPS)));
    let url = parse(url, rules).unwrap();
    EndpointClient::new(url, rules.clone(), config::client(ca).unwrap(), network).unwrap()
}

/// A client for a server on this machine, which is allowed, by the name `shop.example`.
fn client_of(server: &TlsServer) -> EndpointClient {
    let port = server.address.port();
    client(
        &format!("https://shop.example:{port}/hook?secret=1"),
        &bounds(&[port], &["127.0.0.1/32"]),
        ScriptedResolver::of(&[("shop.example", &[&[LOCAL]])]),
        Some(&server.ca),
    )
}

async fn post_within(
    client: &EndpointClient,
    timeout: Duration,
) -> Result<EndpointAnswer, EndpointError> {
    let body = Bytes::from_static(b"{}");
    let sign = |lines: &mut HeaderBlock| lines.add("X-Test", "1");
    client.post(&body, sign, Instant::now() + timeout).await
}

async fn post(client: &EndpointClient) -> Result<EndpointAnswer, EndpointError> {
    post_within(client, Duration::from_secs(30)).await
}

/// A time limit for servers that never come to an end.
const SHORT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_post_is_sent_as_it_is_and_its_answer_is_read() {
    let server = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
    let client = client_of(&server);
    let answer = post(&client).await.unwrap();
    assert_eq!((answer.status, answer.is_cut), (200, false));
    assert_eq!(answer.body, &SUCCESS[SUCCESS.len() - 43..]);
    let requests = server.requests();
    let request = &requests[0];
    let port = server.address.port();
    assert!(
        request.head.starts_with("POST /hook?secret=1 HTTP/1.1\r\n"),
        "{}",
        request.head
    );
    for (name, value) in [
        ("host", &*format!("shop.example:{port}")),
        ("content-type", "application/json"),
        ("content-length", "2"),
        ("x-test", "1"),
    ] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert_eq!(request.body, b"{}");
}

#[tokio::test]
async fn a_connection_is_kept_for_a_limited_number_of_requests() {
    let server = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
    let client = client_of(&server);
    for _ in 0..150 {
        post(&client).await.unwrap();
    }
    assert_eq!((server.connections(), server.requests().len()), (2, 150));
}

#[tokio::test]
async fn a_connection_serves_new_requests_for_a_minute() {
    let server = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
    let client = client_of(&server);
    for _ in 0..22 {
        post(&client).await.unwrap();
        // Less than the time that a connection may be idle.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3)).await;
        tokio::time::resume();
    }
    // More if this machine was busy for longer than a connection may be idle.
    assert!(server.connections() >= 2);
}

/// A resolver that never answers.
#[derive(Default)]
struct SilentResolver(AtomicUsize);

impl NameResolver for SilentResolver {
    fn resolve<'a>(&'a self, _name: &'a str, _port: u16) -> NameLookup<'a> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenants_endpoints_have_four_names_resolved_at_once_even_after_their_attempts_were_left()
{
    let resolver = Arc::new(SilentResolver::default());
    let gauge = IntGauge::new("open", "Open.").unwrap();
    let of_resolver = Arc::clone(&resolver) as Arc<dyn NameResolver>;
    let network = Arc::new(EndpointNetwork::new(of_resolver, gauge));
    let rules = bounds(&[443], &[]);
    let tls = config::client(None).unwrap();
    for looked_up in [LOOKUPS, 2 * LOOKUPS] {
        // Each tenant has permits of its own.
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        for number in 0..10 {
            let url = parse(&format!("https://s{number}.example/"), &rules).unwrap();
            let own = (Arc::clone(&network), Arc::clone(&lookups));
            let client = EndpointClient::new(url, rules.clone(), Arc::clone(&tls), own).unwrap();
            let failed = post_within(&client, SHORT).await;
            assert!(failed.is_err());
        }
        assert_eq!(resolver.0.load(Ordering::SeqCst), looked_up);
    }
}

#[tokio::test]
async fn a_kept_connection_that_its_server_closed_costs_no_attempt() {
    let server = TlsServer::local(ServerManner::AnswersAndCloses(SUCCESS.to_vec())).await;
    let client = client_of(&server);
    for _ in 0..20 {
        assert_eq!(post(&client).await.unwrap().status, 200);
    }
    assert_eq!(server.requests().len(), 20);
}

#[tokio::test]
async fn the_servers_certificate_must_be_trusted_and_for_the_name() {
    let server = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
    let port = server.address.port();
    let resolver = || {
        ScriptedResolver::of(&[
            ("shop.example", &[&[LOCAL]]),
            ("other.example", &[&[LOCAL]]),
        ])
    };
    let rules = bounds(&[port], &["127.0.0.1/32"]);
    for (url, ca) in [
        (format!("https://shop.example:{port}/"), None),
        (format!("https://other.example:{port}/"), Some(&*server.ca)),
    ] {
        let refused = post(&client(&url, &rules, resolver(), ca)).await;
        assert!(matches!(refused, Err(EndpointError::Tls(_))), "{refused:?}");
    }
    let url = format!("https://127.0.0.1:{port}/");
    let by_address = client(&url, &rules, resolver(), Some(&server.ca));
    assert_eq!(post(&by_address).await.unwrap().status, 200);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_silent_server_is_left_at_the_deadline() {
    let server = TlsServer::local(ServerManner::SilentTcp).await;
    let silent = post_within(&client_of(&server), SHORT).await;
    assert!(
        matches!(silent, Err(EndpointError::ConnectTimeout)),
        "{silent:?}"
    );
    let server = TlsServer::local(ServerManner::Silent).await;
    let silent = post_within(&client_of(&server), SHORT * 5).await;
    assert!(
        matches!(silent, Err(EndpointError::NoAnswer(ExchangeError::Late))),
        "{silent:?}"
    );
    assert_eq!(server.requests().len(), 1, "nothing is sent again");
}

#[tokio::test]
async fn a_server_that_closes_or_resets_gives_no_answer() {
    for manner in [ServerManner::Closes, ServerManner::Resets] {
        let server = TlsServer::local(manner).await;
        let broken = post(&client_of(&server)).await;
        assert!(
            matches!(
                broken,
                Err(EndpointError::NoAnswer(
                    ExchangeError::Closed | ExchangeError::Io(_)
                ))
            ),
            "{broken:?}"
        );
        assert_eq!(server.requests().len(), 1, "nothing is sent again");
    }
}

#[tokio::test]
async fn where_nothing_listens_there_is_no_connection() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let client = client(
        &format!("https://127.0.0.1:{port}/"),
        &bounds(&[port], &["127.0.0.0/8"]),
        ScriptedResolver::of(&[]),
        None,
    );
    assert!(matches!(
        post(&client).await,
        Err(EndpointError::Connect(_))
    ));
}

#[tokio::test]
async fn of_an_endless_body_the_beginning_is_read() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let until_closed = b"HTTP/1.1 200 OK\r\n\r\n";
    for (head, again) in [
        (&length[..], vec![b'x'; 100_000]),
        (chunked, b"3\r\nxxx\r\n".repeat(1_000)),
        (until_closed, vec![b'x'; 1_000]),
    ] {
        let server = TlsServer::local(ServerManner::Endless(head.to_vec(), again)).await;
        let client = client_of(&server);
        let answer = post(&client).await.unwrap();
        assert_eq!((answer.body, answer.is_cut), (vec![b'x'; MOST_READ], false));
        post(&client).await.unwrap();
        assert_eq!(server.connections(), 2, "such a connection is not kept");
    }
}

#[tokio::test]
async fn an_endless_or_malformed_head_is_no_answer() {
    let (start, empty) = (b"HTTP/1.1 200 OK\r\n".to_vec(), Vec::new());
    for (first, again) in [
        (start.clone(), b"X-Line: x\r\n".repeat(1_000)),
        (start, vec![b'x'; 10_000]),
        (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), empty.clone()),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
            empty,
        ),
        (vec![0; 70_000], vec![0]),
    ] {
        let server = TlsServer::local(ServerManner::Endless(first, again)).await;
        let bad = post(&client_of(&server)).await;
        assert!(
            matches!(
                bad,
                Err(EndpointError::NoAnswer(ExchangeError::Unreadable(_)))
            ),
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn informational_answers_without_end_are_left_at_the_deadline() {
    let again = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(50);
    let server = TlsServer::local(ServerManner::Endless(again.clone(), again)).await;
    let late = post_within(&client_of(&server), SHORT * 5).await;
    assert!(
        matches!(late, Err(EndpointError::NoAnswer(ExchangeError::Late))),
        "{late:?}"
    );
}

#[tokio::test]
async fn an_answer_that_drips_is_cut_at_the_deadline() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{".to_vec();
    let pause = Duration::from_millis(10);
    let server = TlsServer::local(ServerManner::Drips(head, b" ".to_vec(), pause)).await;
    let answer = post_within(&client_of(&server), SHORT * 3).await.unwrap();
    assert!(answer.is_cut && answer.body.starts_with(b"{"), "{answer:?}");
    let server = TlsServer::local(ServerManner::Drips(
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"X: x\r\n".to_vec(),
        pause,
    ))
    .await;
    let late = post_within(&client_of(&server), SHORT * 3).await;
    assert!(
        matches!(late, Err(EndpointError::NoAnswer(ExchangeError::Late))),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_cut_answer_says_so() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nRetry-After: 7\r\n\r\n{\"returnCode\":\"SUCCESS\"}";
    let server = TlsServer::local(ServerManner::AnswersAndCloses(half.to_vec())).await;
    let answer = post(&client_of(&server)).await.unwrap();
    assert_eq!(
        (answer.is_cut, answer.retry_after.as_deref()),
        (true, Some("7"))
    );
}

/// The certificate of a tenant's client is presented to its own endpoint.
#[tokio::test]
async fn a_client_certificate_must_belong_to_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, owner_only).unwrap();
        path
    };
    let keys = [0, 1].map(|_| rcgen::KeyPair::generate().unwrap());
    let params = rcgen::CertificateParams::new(vec!["institution.example".to_owned()]).unwrap();
    let certificate = write("own.pem", params.self_signed(&keys[0]).unwrap().pem());
    let [own, other] = [0, 1].map(|at| write(&format!("{at}.key"), keys[at].serialize_pem()));
    assert!(config::client_with(None, Some((&certificate, &own))).is_ok());
    let error = config::client_with(None, Some((&certificate, &other))).unwrap_err();
    assert!(error.contains("is not the key of"), "{error}");
}
