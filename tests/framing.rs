//! One request, one reading: what stands in `framing/*.http` is said over bare sockets.
//!
//! A case is a name, the answers that are expected in their order, and bytes:
//!
//! ```text
//! === two lengths that differ
//! -> 400 malformed_request
//! POST /v1/pay/order/query HTTP/1.1\r\n…
//! ```
//!
//! Line breaks of the file are not part of the bytes; `\r`, `\n`, `\t`, `\0`, `\\` and `\x` with two digits are. What
//! stands in `<…>` is filled in: `<signed>` (the headers of a right signature over `<body>`), `<signed-empty>` (over
//! nothing), `<text*7>` (that text so often), `<pause>` (the rest is said after the first answer). Each answer of 200
//! means one request at GatePay, and nothing else arrives there. A refusal that was one of framing, or left a body
//! unread, is the end of the connection; `-> closed` expects that end after another answer.

use crate::support::*;
use gatepay_proxy::clock::Clock;
use gatepay_proxy::framing::Framing;
use gatepay_proxy::gate::Gate;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

struct Case {
    name: String,
    /// Statuses and slugs.
    answers: Vec<String>,
    text: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/framing");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("=== ") {
                let file = file.file_stem().unwrap().to_string_lossy();
                cases.push(Case {
                    name: format!("{file}: {name}"),
                    answers: Vec::new(),
                    text: String::new(),
                });
            } else if let Some(answer) = line.strip_prefix("-> ") {
                let case = cases.last_mut().expect("a case has a name");
                case.answers.push(answer.to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                let case = cases.last_mut().expect("a case has a name");
                case.text.push_str(line);
            }
        }
    }
    assert!(cases.len() >= 60, "{} cases", cases.len());
    cases
}

impl Case {
    /// Its bytes, signed now: what is said at once, and what after the first answer.
    fn bytes(&self, clock: &Clock) -> Vec<Vec<u8>> {
        let mut parts = vec![Vec::new()];
        let mut rest = self.text.as_str();
        while let Some((before, after)) = rest.split_once('<') {
            let (word, after) = after.split_once('>').expect("a placeholder ends");
            let part = parts.last_mut().expect("there is one");
            unescape(before, part);
            match word {
                "pause" => parts.push(Vec::new()),
                "body" => part.extend_from_slice(BY_NUMBER.as_bytes()),
                "signed" => signed(&acme().post(QUERY, BY_NUMBER), clock, part),
                "signed-empty" => signed(&acme().get(DETAILS), clock, part),
                word => {
                    let (text, times) = word.rsplit_once('*').expect("a known placeholder");
                    for _ in 0..times.parse().unwrap() {
                        unescape(text, part);
                    }
                }
            }
            rest = after;
        }
        unescape(rest, parts.last_mut().expect("there is one"));
        parts
    }
}

/// The headers that sign a call, and its type.
fn signed(call: &Call, clock: &Clock, out: &mut Vec<u8>) {
    let lines = call.lines(clock);
    for (name, value) in lines.iter().filter(|(name, _)| name != "host") {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
}

fn unescape(text: &str, out: &mut Vec<u8>) {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            _ => match bytes.next().expect("an escape ends") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'\\' => b'\\',
                b'x' => {
                    let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
                    u8::try_from(digit() << 4 | digit()).unwrap()
                }
                other => panic!("\\{} is no escape", char::from(other)),
            },
        });
    }
}

fn proxy(gatepay: &GatePay) -> Proxy {
    let patient = |settings: &mut gatepay_tenancy::settings::Settings| {
        settings.listen.body_timeout = Duration::from_millis(500);
    };
    Proxy::before(gatepay).with(patient).start()
}

/// Says a case in so many pieces on a connection of its own, and looks at what is answered.
async fn play(case: &Case, gatepay: &GatePay, proxy: &Proxy, pieces: usize) {
    let name = &case.name;
    let before = gatepay.count();
    let mut caller = proxy.raw().await;
    let mut parts = case.bytes(&proxy.clock).into_iter();
    let mut closes = false;
    let mut expected = 0;
    let mut say = parts.next();
    for answer in &case.answers {
        if let Some(part) = say.take() {
            for piece in part.chunks(part.len().div_ceil(pieces)) {
                if caller.try_write(piece).await.is_err() {
                    break; // It has heard enough.
                }
            }
        }
        if answer == "closed" {
            closes = true;
            break;
        }
        let got = caller.answer().await;
        let (status, slug) = got.refused();
        let got_text = match (status, slug) {
            (100 | 200, "not refused") => status.to_string(),
            _ => format!("{status} {slug}"),
        };
        assert_eq!(&got_text, answer, "{name}");
        closes = got.header("connection") == Some("close");
        if matches!(status, 400 | 408 | 413 | 431) {
            assert!(closes, "{name}: framing is lost");
        }
        expected += usize::from(status == 200);
        say = parts.next();
    }
    if closes {
        let rest = caller.rest().await.unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&rest), "", "{name}");
    } else {
        // Both sides still agree where the next request begins.
        caller
            .write(acme().post(QUERY, BY_NUMBER).bytes(&proxy.clock))
            .await;
        assert_eq!(
            caller.answer().await.status,
            200,
            "{name}: and then another"
        );
        expected += 1;
    }
    assert_eq!(
        gatepay.count() - before,
        expected,
        "{name}: what arrived upstream"
    );
}

#[tokio::test]
async fn every_request_is_read_one_way_or_refused() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay);
    for case in cases() {
        play(&case, &gatepay, &proxy, 1).await;
    }
    let faults = proxy.metrics().await;
    let faults = faults
        .lines()
        .find(|line| line.contains("unreadable_heads_total "));
    assert!(
        faults.is_some_and(|line| !line.ends_with(" 0")),
        "{faults:?}"
    );
}

#[tokio::test]
async fn how_a_request_is_cut_into_packets_changes_nothing() {
    let gatepay = GatePay::start();
    let proxy = proxy(&gatepay);
    for (number, case) in cases().iter().enumerate() {
        play(case, &gatepay, &proxy, 2 + number % 7).await;
    }
}

/// Pieces of a stream, one for each time it is read; then it is silent.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.0.pop_front() else {
            return Poll::Pending;
        };
        let now = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..now]);
        if now < piece.len() {
            self.0.push_front(piece.split_off(now));
        }
        Poll::Ready(Ok(()))
    }
}

/// All that the gate hands on of a stream that comes in these pieces, and what it says when it breaks off.
fn handed_on(pieces: impl Into<VecDeque<Vec<u8>>>, room: &mut [u8]) -> (Vec<u8>, Option<String>) {
    let faults = prometheus::IntCounter::new("faults", "faults").unwrap();
    let mut gate = Gate::before(Pieces(pieces.into()), faults);
    let mut all = Vec::new();
    loop {
        let mut buf = ReadBuf::new(room);
        match Pin::new(&mut gate).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) => {
                assert!(!buf.filled().is_empty(), "the stream does not end");
                all.extend_from_slice(buf.filled());
            }
            Poll::Ready(Err(error)) => return (all, Some(error.to_string())),
            Poll::Pending => return (all, None),
        }
    }
}

#[test]
fn the_gate_reads_every_case_the_same_however_it_is_split() {
    let clock = Clock::manual(T0);
    let mut room = vec![0; 8192];
    for case in cases() {
        let whole = case.bytes(&clock).concat();
        let expected = handed_on([whole.clone()], &mut room);
        let name = &case.name;
        for cut in 1..whole.len().min(2_000) {
            let (first, second) = whole.split_at(cut);
            let pieces = [first.to_vec(), second.to_vec()];
            assert_eq!(
                handed_on(pieces, &mut room),
                expected,
                "{name}: cut at {cut}"
            );
        }
        let bytes: VecDeque<_> = whole.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(
            handed_on(bytes, &mut room),
            expected,
            "{name}: byte for byte"
        );
        let little = handed_on([whole], &mut room[..7]);
        assert_eq!(little, expected, "{name}: into little room");
    }
}

/// How many requests hyper reads of what the gate hands on, and whether it found a head it could not read.
fn read_by_hyper(bytes: &[u8]) -> (usize, bool) {
    let faults = prometheus::IntCounter::new("faults", "faults").unwrap();
    let stream = Duplex(Gate::before(Pieces([bytes.to_vec()].into()), faults));
    let heads = std::cell::Cell::new(0);
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
        heads.set(heads.get() + 1);
        async move {
            // Its end is looked for, so that the next head is found behind it.
            let whole = http_body_util::BodyExt::collect(request.into_body()).await;
            let status = if whole.is_ok() { 200 } else { 400 };
            let answer = http::Response::builder().status(status);
            Ok::<_, std::convert::Infallible>(
                answer.body(http_body_util::Empty::<&[u8]>::new()).unwrap(),
            )
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(128)
        .max_buf_size(64 << 10)
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    let mut ended = Poll::Pending;
    while ended.is_pending() {
        again.0.store(false, Ordering::Relaxed);
        ended = connection.as_mut().poll(&mut Context::from_waker(&waker));
        if !again.0.load(Ordering::Relaxed) {
            break;
        }
    }
    let unreadable = matches!(ended, Poll::Ready(Err(error)) if error.is_parse());
    (heads.get(), unreadable)
}

/// Whether a task asked to be polled again.
#[derive(Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads as the gate does, and takes whatever is written.
struct Duplex(Gate<Pieces>);

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Where bytes are replaced: how many, and by what.
type Change = (prop::sample::Index, usize, &'static str);

/// How many heads the gate finds, up to the first it would not hand on, which is one too.
fn read_by_gate(bytes: &[u8]) -> usize {
    let (mut framing, mut at, mut heads) = (Framing::default(), 0, 0);
    loop {
        let in_body = framing.is_in_body();
        match framing.pass(&bytes[at..]) {
            Ok(0) => return heads,
            Ok(passed) => at += passed,
            Err(_) if in_body => return heads,
            Err(_) => return heads + 1,
        }
        heads += usize::from(!in_body);
    }
}

fn assert_agreed(bytes: &[u8]) {
    let (heads, unreadable) = read_by_hyper(bytes);
    let text = String::from_utf8_lossy(bytes);
    assert!(
        !unreadable,
        "hyper was handed a head it cannot read: {text:?}"
    );
    // hyper stops early where it is asked to: `Connection: close`, HTTP/1.0.
    let asked = text.to_ascii_lowercase().contains("close") || text.contains("HTTP/1.0");
    let found = read_by_gate(bytes);
    assert!(
        heads == found || asked && heads < found,
        "{heads} for hyper, {found} for the gate: {text:?}"
    );
}

#[test]
fn hyper_finds_the_requests_that_the_gate_found() {
    for case in cases() {
        assert_agreed(&case.bytes(&Clock::manual(T0)).concat());
    }
    // Whichever byte stands in the target: hyper knows the same ones.
    for byte in 0..=u8::MAX {
        for before in ["GET /x", "GET /x?"] {
            assert_agreed(&[before.as_bytes(), &[byte], b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat());
        }
        assert_agreed(
            &[
                b"GET / HTTP/1.1\r\nHost: x\r\nx",
                &[byte][..],
                b": y\r\n\r\n",
            ]
            .concat(),
        );
        assert_agreed(
            &[
                b"GET / HTTP/1.1\r\nHost: x\r\nx: y",
                &[byte][..],
                b"\r\n\r\n",
            ]
            .concat(),
        );
    }
}

#[test]
fn hyper_and_the_gate_agree_on_cases_with_bytes_changed() {
    let clock = Clock::manual(T0);
    let originals: Vec<Vec<u8>> = cases()
        .iter()
        .map(|case| case.bytes(&clock).concat())
        .collect();
    let piece = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ",",
        ";",
        "0",
        "\0",
        "\r\n\r\n",
        "chunked",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "Connection: close\r\n",
    ]);
    let change = (any::<prop::sample::Index>(), 0..4_usize, piece);
    let strategy = (
        prop::sample::select(originals.clone()),
        prop::collection::vec(change, 1..4),
        prop::sample::select(originals),
    );
    let law = async |(mut bytes, changes, behind): (Vec<u8>, Vec<Change>, Vec<u8>)| {
        for (at, cut, piece) in changes {
            let at = at.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, piece.bytes());
        }
        bytes.extend(behind);
        assert_agreed(&bytes);
        Ok(())
    };
    holds(2_000, &strategy, law);
}
