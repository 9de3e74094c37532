//! The same bytes to real servers: each server is paired with the proxy, as front and as back, and the pair is judged.
//!
//! As a front, the server passes requests of the corpus on to the proxy. Each request that the proxy finds in the bytes
//! it gets must be a request that the front read on that client's connection, with the same method, target, identity
//! and body; a request with an answer of 200 is a request that the proxy found. As a back, the server stands in
//! GatePay's place: the server must read as many requests as the proxy answered, with the account and the body that the
//! proxy acted on. A server that is not installed is skipped with a message.

mod corpus;
mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_proxy::process::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::corpus::Case;
use self::servers::{RealServer, SERVERS, SeenRequest, ServerKind};
use crate::fuzzing::laws::{self, Found, read};
use crate::support::*;

/// Mixtures of the corpus in the usual run: with the entries themselves there are more than 500 cases.
const MIXTURES: usize = 300;
/// Mixtures in the long form.
const MANY_MIXTURES: usize = 20_000;

/// A case after its run: the client's port, and the answer.
struct Played {
    case: usize,
    port: u16,
    answer: Vec<u8>,
}

/// Sends each case on a connection of its own, several at once, and reads to the end.
async fn play(cases: &[Case], to: SocketAddr) -> Vec<Played> {
    let places = Arc::new(Semaphore::new(48));
    let mut playing = JoinSet::new();
    for (case, bytes) in cases.iter().map(|case| case.bytes.clone()).enumerate() {
        let places = Arc::clone(&places);
        playing.spawn(async move {
            let _place = places.acquire().await.expect("it stays open");
            let mut stream = TcpStream::connect(to).await.expect("it accepts");
            let port = stream.local_addr().expect("it is bound").port();
            // The server may have closed the connection already.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let rest = timeout(Duration::from_secs(4), stream.read_to_end(&mut answer));
            let _ = rest.await;
            Played { case, port, answer }
        });
    }
    playing.join_all().await
}

fn proxy(url: &str, clock: &Clock) -> Proxy {
    let patient = |settings: &mut gatepay_tenancy::settings::Settings| {
        settings.listen.body_timeout = Duration::from_millis(1_500);
        settings.listen.head_timeout = Duration::from_millis(1_500);
    };
    Proxy::at(url, clock).with(patient).start()
}

fn start(kind: ServerKind, next: SocketAddr) -> Option<RealServer> {
    let server = RealServer::start(kind, next);
    if server.is_none() {
        say(format!("SKIPPED: {kind:?} is not installed here"));
    }
    server
}

/// A front, and the proxy behind it.
async fn judge_front(kind: ServerKind, mixtures: usize) {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay.url(), &gatepay.clock);
    let relay = Relay::before(proxy.address());
    let Some(front) = start(kind, relay.address()) else {
        return;
    };
    let cases = corpus::cases(mixtures, &gatepay.clock);
    let played = play(&cases, front.address).await;
    let mut theirs: BTreeMap<u16, Vec<SeenRequest>> = BTreeMap::new();
    for seen in front.seen() {
        theirs.entry(seen.port).or_default().push(seen);
    }
    // The front's kept connections end with it.
    drop(front);
    until("the front's connections are over", || relay.is_quiet()).await;
    let names: BTreeMap<u16, &str> = played
        .iter()
        .map(|played| (played.port, cases[played.case].name.as_str()))
        .collect();
    let mut faults = Vec::new();
    let mut count = 0;
    for stream in relay.asked() {
        for ours in read([stream.clone()]).whole {
            let Some(port) = front_port(&ours) else {
                faults.push(format!("a request that {kind:?} did not send: {ours:?}"));
                continue;
            };
            let theirs = theirs.entry(port).or_default();
            // A request that the front refused afterwards, or failed to deliver, is only in its log.
            let same = theirs.iter().position(|theirs| is_same(&ours, theirs));
            match same {
                Some(at) => drop(theirs.remove(at)),
                None => faults.push(format!(
                    "{}\n  ours {ours:?}\n  theirs {theirs:?}",
                    names[&port]
                )),
            }
            count += 1;
        }
    }
    for (port, left) in &theirs {
        for seen in left.iter().filter(|seen| seen.status == 200) {
            faults.push(format!("{}: answered, but not read: {seen:?}", names[port]));
        }
    }
    let reached = gatepay.count();
    say(format!(
        "{kind:?} before: {} cases, {count} requests read, {reached} at GatePay",
        cases.len()
    ));
    assert_none(kind, &faults);
    assert!(
        reached >= cases.len() / 8,
        "{kind:?}: {reached} reached GatePay"
    );
}

fn front_port(request: &Found) -> Option<u16> {
    let mut lines = request
        .lines
        .iter()
        .filter(|(name, _)| name == "x-front-port");
    let port = str::from_utf8(&lines.next()?.1).ok()?.parse().ok();
    port.filter(|_| lines.next().is_none())
}

/// Whether both read the same request. The proxy refuses a request with a duplicate identity header.
fn is_same(ours: &Found, theirs: &SeenRequest) -> bool {
    let target = match &ours.query {
        Some(query) => format!("{}?{query}", ours.path),
        None => ours.path.clone(),
    };
    let is_identity = [
        "x-gatepay-certificate-clientid",
        "x-gatepay-nonce",
        "x-gatepay-signature",
    ]
    .into_iter()
    .zip(&theirs.identity)
    .all(|(name, theirs)| {
        let values: Vec<_> = ours.lines.iter().filter(|line| line.0 == name).collect();
        match values[..] {
            [(_, one)] => one == theirs,
            _ => true,
        }
    });
    ours.method == theirs.method
        && target.as_bytes() == theirs.target
        && ours.body == theirs.body
        && is_identity
}

/// The proxy, and a back behind it, which stands before GatePay.
async fn judge_back(kind: ServerKind, mixtures: usize) {
    let gatepay = GatePay::start();
    let Some(back) = start(kind, gatepay.sandbox.address()) else {
        return;
    };
    let proxy = proxy(&format!("http://{}", back.address), &gatepay.clock);
    let cases = corpus::cases(mixtures, &gatepay.clock);
    let played = play(&cases, proxy.address()).await;
    let mut seen: BTreeMap<Vec<u8>, Vec<SeenRequest>> = BTreeMap::new();
    for request in back.seen() {
        seen.entry(request.agent.clone()).or_default().push(request);
    }
    let mut faults = Vec::new();
    let mut count = 0;
    for played in &played {
        let case = &cases[played.case];
        let answered = occurrences(&played.answer, b"HTTP/1.1 200 OK\r\n")
            + occurrences(&played.answer, b"HTTP/1.0 200 OK\r\n");
        let theirs = seen.remove(format!("case-{}", played.case).as_bytes());
        let theirs = theirs.unwrap_or_default();
        count += theirs.len();
        if theirs.len() != answered {
            faults.push(format!("{}: {answered} answered, of {theirs:?}", case.name));
        }
        let ours = read([case.bytes.clone()]).whole;
        let mut ours = ours.iter();
        for theirs in &theirs {
            let is_acme = theirs.identity[0] == INSTITUTION_ID.as_bytes()
                && theirs.identity[3] == acme().sub_account.as_bytes();
            let target = String::from_utf8_lossy(&theirs.target);
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (&*target, None),
            };
            // Requests that the proxy refused stand between; one may have the same body.
            let same = path.starts_with(PREFIX)
                && ours.any(|ours| ours.body == theirs.body && query == ours.query.as_deref());
            if !is_acme || !same {
                faults.push(format!("{}: read otherwise: {theirs:?}", case.name));
            }
        }
    }
    for (agent, requests) in seen {
        faults.push(format!("of no case: {} {requests:?}", agent.escape_ascii()));
    }
    say(format!(
        "{kind:?} behind: {} cases, {count} requests passed on",
        cases.len()
    ));
    assert_none(kind, &faults);
    assert!(count >= cases.len() / 8, "{kind:?}: {count} passed on");
}

fn assert_none(kind: ServerKind, faults: &[String]) {
    let count = faults.len();
    assert!(count == 0, "{kind:?}: {count}\n{}", faults.join("\n"));
}

fn occurrences(text: &[u8], what: &[u8]) -> usize {
    text.windows(what.len())
        .filter(|window| *window == what)
        .count()
}

#[tokio::test]
async fn no_front_and_the_proxy_read_different_requests() {
    for kind in SERVERS {
        judge_front(kind, MIXTURES).await;
    }
}

#[tokio::test]
async fn no_back_reads_another_request_than_the_proxy_acted_on() {
    for kind in SERVERS {
        judge_back(kind, MIXTURES).await;
    }
}

#[tokio::test]
#[ignore = "the long form: 20,000 mixtures before and behind each server"]
async fn no_pair_reads_different_requests_in_many_mixtures() {
    for kind in SERVERS {
        judge_front(kind, MANY_MIXTURES).await;
        judge_back(kind, MANY_MIXTURES).await;
    }
}

#[test]
fn hyper_and_httparse_read_the_corpus_as_the_proxy_does() {
    let cases = corpus::cases(MIXTURES, &Clock::manual(T0));
    assert!(cases.len() >= 500, "{} cases", cases.len());
    let mut count = 0;
    for case in &cases {
        laws::request_parser(&case.bytes);
        let Some(first) = read([case.bytes.clone()]).whole.into_iter().next() else {
            continue;
        };
        count += 1;
        let mut lines = [httparse::EMPTY_HEADER; 100];
        let mut theirs = httparse::Request::new(&mut lines);
        let parsed = theirs.parse(&case.bytes);
        assert!(
            parsed.is_ok_and(|parsed| parsed.is_complete()),
            "{}",
            case.name
        );
        assert_eq!(theirs.method, Some(first.method.as_str()), "{}", case.name);
        let target = match first.query {
            Some(query) => format!("{}?{query}", first.path),
            None => first.path,
        };
        assert_eq!(theirs.path, Some(target.as_str()), "{}", case.name);
        assert_eq!(theirs.headers.len(), first.lines.len(), "{}", case.name);
    }
    assert!(count >= cases.len() / 8, "{count} were read");
}
