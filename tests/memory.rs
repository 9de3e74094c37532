use crate::support::program::{Folder, Program, printed};
use crate::support::*;
use bytes::Bytes;
use gatepay_proxy::process::clock::Clock;
use http::Uri;
use http_body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{Domain, Socket, Type};
use std::convert::Infallible;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

/// The body limit in bytes. Thirty bodies of this length are as many as fit.
const LONG: usize = 8_400_000;

/// A folder whose process may hold little memory besides bodies.
fn folder() -> Folder {
    let folder = Folder::with(UNUSED, INSTITUTION_SECRET, &[]);
    folder.tenant(
        &acme(),
        "limits = { in_flight = 5, requests_per_second = 5 }",
    );
    folder.edit(
        "proxy.toml",
        "threads = 2 }",
        "threads = 2, max_connections = 200, body_timeout_ms = 120_000, body_limit_bytes = 8_400_000 }",
    );
    folder.edit(
        "proxy.toml",
        "upstream = {",
        "upstream = { quota = { requests_per_second = 5, burst = 5 },",
    );
    folder
}

/// The pod memory limit and the memory bound that `check` prints, in MiB.
fn bound(folder: &Folder) -> (usize, usize) {
    let (text, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{text}");
    let number = |before: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(before));
        let number = line.unwrap_or_else(|| panic!("{before}: {text}"));
        number.split(' ').next().unwrap().parse().unwrap()
    };
    (number("memory limit: "), number("memory: at most "))
}

/// A line of the process's memory, in MiB.
fn memory(program: &Program, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix(name)).unwrap();
    let kib: usize = kib.trim().trim_end_matches(" kB").parse().unwrap();
    kib / 1024
}

/// From another of this machine's addresses, so that each address stays within its limit.
fn dial(number: usize, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = format!("127.0.1.{}:0", number % 10 + 1);
    let from: SocketAddr = from.parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    TcpStream::from(socket)
}

/// A call of acme's, signed without acme's secret.
fn forged() -> Call {
    acme().post(QUERY, BY_NUMBER).secret("fake-other")
}

/// The way a body arrives.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// In chunks of this many bytes.
    Chunks(usize),
    /// The first bytes one by one, so that as much as possible is kept for each.
    Bytes(usize),
}

/// A chunked body of this many bytes that does not end.
fn chunks(pace: Pace) -> Vec<u8> {
    let (single, size) = match pace {
        Pace::Chunks(size) => (0, size),
        Pace::Bytes(single) => (single, 16 * 1024),
    };
    let mut wire = b"1\r\n \r\n".repeat(single);
    let mut left = LONG - single - 1;
    while left > 0 {
        let now = size.min(left);
        wire.extend_from_slice(format!("{now:x}\r\n").as_bytes());
        wire.resize(wire.len() + now, b' ');
        wire.extend_from_slice(b"\r\n");
        left -= now;
    }
    wire
}

/// Sends this many bodies over HTTP/1 at once, each up to its last byte, and keeps the connections.
fn over_http1(program: &Program, bodies: usize, pace: Pace) -> Vec<TcpStream> {
    let head = forged().head(&Clock::system(), "transfer-encoding: chunked");
    let wire: std::sync::Arc<[u8]> = [head, chunks(pace)].concat().into();
    let senders = (0..bodies).map(|number| {
        let (address, wire) = (program.address, std::sync::Arc::clone(&wire));
        thread::spawn(move || {
            let mut caller = dial(number, address);
            // The request is refused once there is no room.
            let _sent = caller.write_all(&wire);
            caller
        })
    });
    let senders: Vec<_> = senders.collect();
    let joined = senders.into_iter().map(|sender| sender.join().unwrap());
    joined.collect()
}

/// A body of HTTP/2 that comes in frames of these many bytes, and does not end.
struct Endless {
    frame: usize,
    left: usize,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let now = self.frame.min(self.left);
        self.left -= now;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; now])))))
    }
}

/// Sends this many bodies over HTTP/2, each on a connection of its own, until writes stall; returns their guards.
async fn over_http2(program: &Program, bodies: usize, frame: usize) -> Vec<impl Sized + use<>> {
    let mut kept = Vec::new();
    for number in 0..bodies {
        let tcp = dial(number, program.address);
        tcp.set_nonblocking(true).unwrap();
        let io = TokioIo::new(tokio::net::TcpStream::from_std(tcp).unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let (mut parts, _) = forged().request(&Clock::system()).into_parts();
        parts.headers.remove("host");
        parts.uri = Uri::try_from(format!("http://pay.example{QUERY}")).unwrap();
        let body = Endless {
            frame,
            left: LONG - 1,
        };
        let answer = sender.send_request(http::Request::from_parts(parts, body));
        kept.push((sender, tokio::spawn(answer)));
    }
    kept
}

/// Waits until the process holds more memory than `least`, in MiB, and no more than a moment ago; not for ever, since it may
/// never hold so much.
async fn settled(program: &Program, least: usize) -> usize {
    let (began, mut before) = (Instant::now(), 0);
    loop {
        let now = memory(program, "VmHWM:");
        let is_all = now > least || began.elapsed() > PATIENCE;
        if now == before && is_all {
            return now;
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn unverified_bodies_take_no_more_memory_than_check_says() {
    let folder = folder();
    let (limit, all) = bound(&folder);
    assert!(limit > all, "it leaves room for what the kernel counts");
    for pace in [
        Pace::Chunks(16 * 1024),
        Pace::Chunks(1_000_000),
        Pace::Bytes(100_000),
    ] {
        let program = Program::serve(&folder).await;
        let kept = over_http1(&program, 45, pace);
        let most = settled(&program, 220).await;
        say(format_args!(
            "{pace:?}: {most} MiB, at most {all}, limit {limit}"
        ));
        assert!(
            most > 220,
            "{pace:?}: {most} MiB are not all there is room for"
        );
        assert!(most <= all, "{pace:?}: {most} MiB, more than {all}");
        drop(kept);
    }
    for (frame, least) in [(16 * 1024, 220), (1_000, 0)] {
        let program = Program::serve(&folder).await;
        let kept = over_http2(&program, 45, frame).await;
        let most = settled(&program, least).await;
        say(format_args!("frames of {frame}: {most} MiB, at most {all}"));
        assert!(most > least, "frames of {frame}: {most} MiB are too little");
        assert!(
            most <= all,
            "frames of {frame}: {most} MiB, more than {all}"
        );
        drop(kept);
    }
}
