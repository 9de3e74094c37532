//! `check` prints a bound of the process's memory, a sum of parts. Each test takes one part many times from the real
//! binary, as an attacker would, and holds the memory of a single part to its constant.

use crate::support::abuse::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, frame, head};
use crate::support::program::{Folder, Program};
use crate::support::scripted::Scripted;
use crate::support::tls::Pair;
use crate::support::*;
use gatepay_http1::request_parser::HEAD_LIMIT;
use gatepay_proxy::callers::body_memory::WAITING;
use gatepay_proxy::listener::http1::BUFFERS;
use gatepay_proxy::listener::http2::STREAMS;
use gatepay_proxy::memory_bound::{ANSWER, CONNECTION, PARTY, PROGRAM, REQUEST, STREAM, TLS};
use gatepay_proxy::process::clock::Clock;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A path without an operation: the head alone of such a request leads to its refusal.
const NOBODY: &str = "/nowhere";
/// A frame of an unknown type, which HTTP/2 ignores.
const UNKNOWN: u8 = 0xFF;

/// A process whose `[listen]` section has only these lines.
async fn program(url: &str, listen: &str) -> Program {
    let folder = Folder::with(url, INSTITUTION_SECRET, &[]);
    folder.tenant(
        &acme(),
        "limits = { in_flight = 5_000, requests_per_second = 10_000 }",
    );
    folder.edit(
        "proxy.toml",
        "threads = 2 }",
        &format!(
            "threads = 2, max_connections_per_address = 1_000, body_timeout_ms = 120_000, {listen} }}"
        ),
    );
    folder.edit(
        "proxy.toml",
        "upstream = {",
        "upstream = { quota = { requests_per_second = 10_000, burst = 10_000 },",
    );
    let program = Program::serve(&folder).await;
    // Memory that the process allocates once is allocated from here on.
    assert_eq!(count(&program, "in_flight").await, 0);
    program
}

/// Anonymous memory of the process, in bytes.
fn held(program: &Program) -> usize {
    memory(program, "RssAnon:")
}

/// A line of the kernel's figures on the process's memory, in bytes.
fn memory(program: &Program, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix(name));
    let kib: usize = kib.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1024
}

/// The sum of a metric's series.
async fn count(program: &Program, name: &str) -> usize {
    let answer = program.admin("GET", "/metrics").await;
    let text = str::from_utf8(&answer.body).unwrap();
    let lines = text.lines().filter_map(|line| {
        let series = line.strip_prefix("gatepay_proxy_")?.strip_prefix(name)?;
        let value = series.split_once("} ").map_or(series, |(_, value)| value);
        series
            .starts_with(['{', ' '])
            .then(|| value.trim().parse::<usize>().unwrap())
    });
    lines.sum()
}

/// Waits until the sum of these metrics has reached `least`.
async fn counts(program: &Program, names: &[&str], least: usize) {
    let begun = Instant::now();
    loop {
        let mut sum = 0;
        for name in names {
            sum += count(program, name).await;
        }
        if sum >= least {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{names:?}: {sum} of {least}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Prints the bytes of a single part, and holds them to `most`. Far fewer than that are a fault of the measurement.
fn judge(what: &str, bytes: usize, of: usize, most: usize) {
    at_most(what, bytes, of, most);
    let each = bytes / of;
    assert!(each > 1024, "{what}: {each} bytes cannot be all of it");
}

/// The same of parts so small that all of them may fit into the present heap: it grows by up to 4 MiB at once.
fn at_most(what: &str, bytes: usize, of: usize, most: usize) {
    let each = bytes / of;
    say(format_args!("{what}: {each} bytes, at most {most}"));
    assert!(each <= most, "{what}: {each} bytes, more than {most}");
}

/// A connection that speaks HTTP/2 by hand and never reads.
struct Peer(TcpStream);

impl Peer {
    fn open(from: &str, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        socket.bind(&from.into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self(TcpStream::from(socket))
    }

    fn http2(self, window: u32) -> Self {
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let begin = [PREFACE, &frame(4, 0, 0, &settings), &frame(4, 1, 0, &[])];
        self.say(&begin.concat());
        self
    }

    fn say(&self, bytes: &[u8]) {
        (&self.0).write_all(bytes).unwrap();
    }

    /// Opens these streams, each with the frames that `of` makes.
    fn streams(&self, numbers: Range<u32>, of: impl Fn(u32) -> Vec<u8>) {
        let wire: Vec<u8> = numbers.flat_map(|number| of(2 * number + 1)).collect();
        self.say(&wire);
    }
}

/// A head with a signature that is not acme's.
fn call(method: &str, path: &str) -> Vec<u8> {
    let call = acme().post(QUERY, BY_NUMBER).secret("fake-other");
    with_lines(method, path, &call.lines(&Clock::system()))
}

/// A head with these lines, encoded for HTTP/2.
fn with_lines(method: &str, path: &str, lines: &[(String, String)]) -> Vec<u8> {
    head(&http2_fields(method, path, lines))
}

/// Memory of a stream with these frames, measured on sixty connections with a hundred streams each: bytes and streams.
async fn each_stream(window: u32, of: impl Fn(u32) -> Vec<u8>) -> (usize, usize) {
    let program = program(UNUSED, "max_requests = 40_000").await;
    let peers: Vec<_> = (0..60)
        // One address may hold only a limited number of unauthenticated requests.
        .map(|number| {
            let from = format!("127.0.0.{}", 8 + number % 2);
            Peer::open(&from, program.address).http2(window)
        })
        .collect();
    let all = |numbers: Range<u32>| {
        for peer in &peers {
            peer.streams(numbers.clone(), &of);
        }
    };
    all(0..1);
    counts(&program, &["in_flight"], peers.len()).await;
    let before = held(&program);
    all(1..100);
    counts(&program, &["in_flight"], 100 * peers.len()).await;
    (held(&program) - before, 99 * peers.len())
}

#[tokio::test]
async fn a_request_that_waits_for_its_body_takes_what_is_counted_for_it() {
    let call = call("POST", QUERY);
    let (bytes, requests) =
        each_stream(65_535, |stream| frame(HEADERS, END_HEADERS, stream, &call)).await;
    judge(
        "a request that waits for its body",
        bytes,
        requests,
        WAITING,
    );
    // The byte that is kept retains no more of the bytes that arrived with it than the bound counts for a head.
    let junk = frame(UNKNOWN, 0, 0, &[0; 16_384]);
    let (bytes, requests) = each_stream(65_535, |stream| {
        let begun = frame(HEADERS, END_HEADERS, stream, &call);
        [begun, frame(DATA, 0, stream, b"{"), junk.clone()].concat()
    })
    .await;
    let most = REQUEST + HEAD_LIMIT;
    judge("one of which a byte has come", bytes, requests, most);
}

#[tokio::test]
async fn an_answer_that_is_not_taken_takes_what_is_counted_for_its_request() {
    let call = call("GET", NOBODY);
    let flags = END_HEADERS | END_STREAM;
    let (bytes, requests) = each_stream(0, |stream| frame(HEADERS, flags, stream, &call)).await;
    judge("a refusal that is not taken", bytes, requests, REQUEST);
}

#[tokio::test]
async fn streams_that_were_refused_take_what_is_counted_for_them() {
    let program = program(UNUSED, "max_requests = 400").await;
    let call = call("POST", QUERY);
    let stream = |number: u32| frame(HEADERS, END_HEADERS, number, &call);
    // Other callers take all request permits, so that every later request is refused.
    let _others: Vec<_> = (1..=5)
        .map(|number| {
            let peer = Peer::open(&format!("127.0.1.{number}"), program.address);
            let peer = peer.http2(65_535);
            peer.streams(0..100, stream);
            peer
        })
        .collect();
    counts(&program, &["requests_crowded_total"], 100).await;
    let ask = async |number: usize| {
        let refused = count(&program, "requests_crowded_total").await;
        let peers = (0..number).map(|_| Peer::open("127.0.0.8", program.address).http2(0));
        let peers: Vec<_> = peers.collect();
        for peer in &peers {
            peer.streams(0..100, stream);
        }
        counts(
            &program,
            &["requests_crowded_total"],
            refused + 100 * number,
        )
        .await;
        peers
    };
    let _first = ask(20).await;
    let before = held(&program);
    // The library still remembers the streams that were refused a second ago.
    let peers = ask(200).await;
    let most = CONNECTION + STREAMS as usize * STREAM;
    let all = held(&program) - before;
    judge(
        "a connection of which every stream was refused",
        all,
        peers.len(),
        most,
    );
}

#[tokio::test]
async fn a_connection_takes_what_is_counted_for_it() {
    let (first, connections) = (100, 800);
    let program = program(UNUSED, "max_requests = 1_000").await;
    let ask = |number: usize| {
        let peers = (0..number).map(|_| Peer::open("127.0.0.8", program.address));
        let peers: Vec<_> = peers.collect();
        for peer in &peers {
            peer.say(b"GET / HTTP/1.1\r\nhost: pay.example\r\n\r\n");
        }
        peers
    };
    let _first = ask(first);
    counts(&program, &["refusals_total"], first).await;
    let before = held(&program);
    let peers = ask(connections);
    counts(&program, &["refusals_total"], first + connections).await;
    let idle = held(&program) - before;
    let most = CONNECTION + BUFFERS;
    judge("an idle connection", idle, connections, most);
    // A head without an end is kept until its end arrives.
    let head = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(HEAD_LIMIT - 100));
    for peer in &peers {
        for piece in head.as_bytes().chunks(HEAD_LIMIT / 4) {
            peer.say(piece);
        }
    }
    until("the heads are there", || {
        held(&program) - before > idle + connections * (HEAD_LIMIT - 4_096)
    })
    .await;
    let all = held(&program) - before;
    judge("a connection with a long head", all, connections, most);
}

#[tokio::test]
async fn a_call_that_is_at_gatepay_takes_what_is_counted_for_it() {
    let gatepay = Scripted::held();
    let program = program(&gatepay.url(), "max_requests = 4_000").await;
    let peers: Vec<_> = (0..10)
        .map(|_| Peer::open("127.0.0.8", program.address).http2(65_535))
        .collect();
    let clock = Clock::system();
    let ask = |numbers: Range<u32>| {
        let flags = END_HEADERS | END_STREAM;
        for peer in &peers {
            peer.streams(numbers.clone(), |stream| {
                let lines = acme().get(DETAILS).lines(&clock);
                frame(HEADERS, flags, stream, &with_lines("GET", DETAILS, &lines))
            });
        }
    };
    ask(0..1);
    until("the first are at GatePay", || gatepay.count() == 10).await;
    let before = held(&program);
    ask(1..21);
    until("all are at GatePay", || gatepay.count() == 210).await;
    let all = held(&program).saturating_sub(before);
    // Each call counts a request with room for its answer, and a connection to GatePay.
    at_most("a call at GatePay", all, 200, REQUEST + ANSWER);
    gatepay.release();
}

#[tokio::test]
async fn the_program_itself_takes_what_is_counted_for_it() {
    let program = program(UNUSED, "max_requests = 1_000").await;
    for _ in 0..20 {
        let _scraped = count(&program, "in_flight").await;
    }
    // The binary is larger here than in a release; the 20 MiB of a release binary are counted apart.
    judge("the program", held(&program), 1, PROGRAM - (20 << 20));
}

#[tokio::test]
async fn a_tenant_takes_what_is_counted_for_it_also_while_all_files_are_read_again() {
    const TENANTS: usize = 800;
    let most = async |tenants: usize| {
        let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[acme()]);
        for number in 1..tenants {
            folder.file(
                &format!("tenants.d/t{number}.toml"),
                &format!(
                    "id = 't{number}'\nsub_account = '99{number}'\ncredential = [{{ client_id = 'client-{number}', secret = {{ file = '../secrets/t{number}.key' }} }}]\n"
                ),
            );
            folder.secret(
                &format!("t{number}"),
                &format!("fake-secret-of-{number:08}"),
            );
        }
        let program = Program::serve(&folder).await;
        for seats in [7, 8] {
            for number in 1..tenants {
                let name = format!("tenants.d/t{number}.toml");
                let text = fs::read_to_string(folder.path(&name)).unwrap();
                let text = text.split("limits").next().unwrap();
                folder.file(
                    &name,
                    &format!("{text}limits = {{ in_flight = {seats} }}\n"),
                );
            }
            assert_eq!(program.reload("").await.0, 200);
        }
        let _scraped = count(&program, "in_flight").await;
        memory(&program, "VmHWM:")
    };
    let (one, many) = (most(1).await, most(TENANTS + 1).await);
    judge("a tenant", many - one, TENANTS, PARTY);
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_end_takes_what_is_counted_for_it() {
    let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[acme()]);
    let pair = Pair::new();
    folder.file("cert.pem", &pair.certificate.pem());
    folder.secret("listener", &pair.key.serialize_pem());
    folder.edit(
        "proxy.toml",
        "threads = 2 }",
        "threads = 2, head_timeout_ms = 120_000, max_connections_per_address = 1_000, tls = { certificate = 'cert.pem', key = 'secrets/listener.key' } }",
    );
    let program = Program::serve(&folder).await;
    let before = held(&program);
    // A client's first message, of nearly 64 KiB, without its end.
    let (message, record) = (65_000_usize, 16_000);
    let mut wire = Vec::new();
    let begin = [&[1, 0], &65_000_u16.to_be_bytes()[..]].concat();
    let body = [begin, vec![0; message - 1_000]].concat();
    for piece in body.chunks(record) {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        wire.extend_from_slice(&[&[22, 3, 1], &length[..], piece].concat());
    }
    let peers: Vec<_> = (0..400)
        .map(|_| Peer::open("127.0.0.8", program.address))
        .collect();
    for peer in &peers {
        peer.say(&wire);
    }
    counts(&program, &["connections"], peers.len()).await;
    let mut last = 0;
    while held(&program) > last {
        last = held(&program);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let most = CONNECTION + TLS;
    let all = held(&program) - before;
    judge("a handshake that does not end", all, peers.len(), most);
    assert_eq!(count(&program, "connections").await, peers.len());
}
