//! Laws that must hold for any bytes that arrive: one function for each fuzz target. None of them may panic.

#![allow(
    dead_code,
    unused_imports,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    reason = "a fuzz target calls one of the laws, the tests all of them"
)]

#[path = "laws/response_parser.rs"]
mod response;
#[path = "laws/upstream_connection.rs"]
mod upstream;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::{fs, io};

use bytes::{Bytes, BytesMut};
use gatepay_core::body::BodyReading;
use gatepay_core::check::{Strictness, inspect};
use gatepay_core::guard::{CallerIdentity, guard};
use gatepay_core::operation::Method;
use gatepay_core::{
    Catalogue, ClientId, Credential, Kind, Payload, SecretKey, Signature, Stamp, envelope, sign,
    spelling, translate, verify,
};
use gatepay_http1::request_head::RequestHead;
use gatepay_http1::request_parser::{self, BodyEvent, BodyFraming, FramingError, RequestParser};
use gatepay_proxy::headers::KnownHeaders;
use gatepay_proxy::journey::ingress;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) use response::response_parser;
pub(crate) use upstream::upstream_connection;

/// A parsed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// The header lines, with names in lower case.
    pub(crate) lines: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// The result of reading a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Requests that arrived whole.
    pub(crate) whole: Vec<Found>,
    /// A request whose head arrived whole, but not its body.
    begun: Option<Found>,
    /// The framing error that ended the reading.
    fault: Option<FramingError>,
    /// The total length of the whole requests, in bytes.
    bytes: usize,
}

/// hyper finds the requests that our parser finds, word for word. How the bytes are cut changes nothing.
pub(crate) fn request_parser(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let ours = read([bytes.to_vec()]);
    let theirs = read_by_hyper(&bytes[..ours.bytes]);
    // hyper stops early where the request asks for it: `Connection: close`, HTTP/1.0.
    let asked = text.to_ascii_lowercase().contains("close") || text.contains("HTTP/1.0");
    let ends = ours.whole.len().min(theirs.len());
    assert_eq!(theirs[..], ours.whole[..ends], "{text:?}");
    assert!(
        asked || ends == ours.whole.len(),
        "{ends} of {} for hyper: {text:?}",
        ours.whole.len()
    );
    if let [first, ..] = bytes {
        let (one, other) = bytes.split_at(usize::from(*first) % bytes.len());
        assert_eq!(read([one.to_vec(), other.to_vec()]), ours, "{text:?}");
    }
}

/// Reads a stream that arrives in these pieces.
pub(crate) fn read(pieces: impl IntoIterator<Item = Vec<u8>>) -> Reads {
    let (mut reads, mut came, mut reading) =
        (Reads::default(), BytesMut::new(), RequestParser::default());
    let mut rest: Option<(Found, BodyFraming)> = None;
    let mut all = 0;
    for piece in pieces {
        all += piece.len();
        came.extend_from_slice(&piece);
        loop {
            if rest.is_none() && !came.is_empty() {
                match reading.read(&came) {
                    Ok(None) => break,
                    Ok(Some(length)) => {
                        let text = came.split_to(length);
                        rest = Some((found(&reading.head(&text)), reading.rest()));
                    }
                    Err(fault) => {
                        reads.fault = Some(fault);
                        return reads;
                    }
                }
            }
            let Some((request, body)) = &mut rest else {
                break;
            };
            match body.step(&mut came) {
                Ok(BodyEvent::Piece(piece)) => request.body.extend_from_slice(&piece),
                Ok(BodyEvent::More) => break,
                Ok(BodyEvent::Over) => {
                    reads.whole.extend(rest.take().map(|(found, _)| found));
                    reads.bytes = all - came.len();
                    reading.reset();
                }
                Err(fault) => {
                    reads.fault = Some(fault);
                    // How much of the body arrived before the fault depends on how the bytes are cut, so the body is
                    // dropped.
                    reads.begun = rest.take().map(|(found, _)| Found {
                        body: Vec::new(),
                        ..found
                    });
                    return reads;
                }
            }
        }
    }
    reads.begun = rest.map(|(found, _)| found);
    reads
}

fn found(head: &RequestHead<'_>) -> Found {
    let line = |(name, value): (&[u8], &[u8])| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        (name, value.to_vec())
    };
    let mut lines: Vec<_> = head.lines().map(line).collect();
    // A map groups the lines of one name; only their order among themselves counts.
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    Found {
        method: head.method.to_owned(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        lines,
        body: Vec::new(),
    }
}

/// Reads these bytes with hyper.
fn read_by_hyper(bytes: &[u8]) -> Vec<Found> {
    let requests = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let requests = &requests;
        async move {
            let body = body.collect().await.map(Collected::to_bytes);
            let body = body.unwrap_or_default().to_vec();
            let head = found(&RequestHead::of_parts(&parts));
            requests.borrow_mut().push(Found { body, ..head });
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(2 * request_parser::HEAD_LINES)
        .max_buf_size(4 * request_parser::HEAD_LIMIT)
        .serve_connection(TokioIo::new(Pieces([bytes.to_vec()].into())), service);
    let mut connection = pin!(connection);
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    loop {
        again.0.store(false, Ordering::Relaxed);
        match connection.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending if again.0.load(Ordering::Relaxed) => {}
            Poll::Pending => return requests.take(),
            Poll::Ready(ended) => {
                let text = String::from_utf8_lossy(bytes);
                assert!(
                    !ended.is_err_and(|error| error.is_parse()),
                    "hyper cannot read a head that we read: {text:?}"
                );
                return requests.take();
            }
        }
    }
}

/// A stream that yields one piece for each read, and is silent after the last. Written bytes are discarded.
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

impl AsyncWrite for Pieces {
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

/// Whether a task asked to be polled again.
#[derive(Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Input: client id, timestamp, nonce and signature, each on a line, then a body. A stamp keeps its text. Our signature
/// verifies, however the body is cut into pieces. Another signature does not verify.
pub(crate) fn signature(bytes: &[u8]) {
    let mut parts = bytes.splitn(5, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let [client_id, timestamp, nonce, claimed, body] = [next(), next(), next(), next(), next()];
    if let Some(id) = str::from_utf8(client_id)
        .ok()
        .and_then(|text| ClientId::parse(text).ok())
    {
        assert_eq!(id.as_str().as_bytes(), client_id);
    }
    let claimed = Signature::parse(claimed).ok();
    let Ok(stamp) = Stamp::parse(timestamp, nonce) else {
        return;
    };
    assert_eq!(
        (stamp.timestamp().as_bytes(), stamp.nonce().as_bytes()),
        (timestamp, nonce)
    );
    let id = ClientId::parse("client-fake").expect("a good id");
    let secret = SecretKey::new("fake-secret-0001".to_owned().into()).expect("a good secret");
    let key = Credential::new(id, &secret).key;
    let ours = sign(&key, &stamp, body);
    assert!(verify(&key, &stamp, body, &ours));
    assert_eq!(
        Signature::parse(&ours.to_hex())
            .ok()
            .map(|again| again.to_hex()),
        Some(ours.to_hex())
    );
    let mut payload = Payload::begin(&key, &stamp);
    for piece in body.chunks(7) {
        payload.body(piece);
    }
    assert!(payload.verify(&ours), "in pieces");
    if let Some(claimed) = claimed {
        let same = claimed.to_hex() == ours.to_hex();
        assert_eq!(verify(&key, &stamp, body, &claimed), same);
    }
}

/// A canonical path leads to the catalogue row that has it. No other path leads to a row.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let catalogue = Catalogue::standard();
    for method in [Method::Get, Method::Post] {
        let found = [
            catalogue
                .merchant(method, text)
                .map(|at| catalogue.rows()[at].merchant_path.as_deref()),
            catalogue
                .institution(method, text)
                .map(|at| catalogue.rows()[at].institution_path.as_deref()),
        ];
        for row in found.into_iter().flatten() {
            assert_eq!(row, Some(text));
            assert!(spelling::is_canonical(text));
        }
    }
    let Ok(request) = Request::builder().uri(text).body(()) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let head = RequestHead::of_parts(&parts);
    if let Ok(target) = ingress::target(&head, &KnownHeaders::read(head.lines())) {
        let path = target.path;
        assert!(path == "/" || spelling::is_canonical(path));
        assert!(!path.contains("//") && !path.contains('%'), "{path}");
        assert!(
            !path.split('/').any(|segment| matches!(segment, "." | "..")),
            "{path}"
        );
    }
}

/// Input: a number that chooses an operation, then the query, each ended by a line feed, then the body. A tenant's call
/// to a money operation that passes the guard names no account but its own, as another JSON parser reads the body.
pub(crate) fn body(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let [number, query, body] = [next(), next(), next()];
    let number = str::from_utf8(number)
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    let query = str::from_utf8(query).ok();
    let catalogue = Catalogue::standard();
    let rows = catalogue.rows();
    let operation = &rows[number.unwrap_or(0) % rows.len()];
    let own = CallerIdentity {
        account: ACCOUNT,
        client_id: CLIENT,
    };
    let reading = BodyReading::read(operation, query, body);
    let passed = guard(operation, &reading, Some(own), false).is_ok();
    if passed
        && operation.kind == Kind::Money
        && let Ok(json) = serde_json::from_slice::<Value>(body)
    {
        assert!(!names_another(&json), "{}: {json}", operation.name);
    }
    for strictness in [Strictness::Off, Strictness::Certain, Strictness::Strict] {
        let _ = inspect(operation, &reading, strictness);
    }
    let _ = envelope::judge(operation.kind, 200, body);
    let _ = translate::balance_answer(body);
    let _ = translate::balance_request(&reading, &["USDT"]);
}

const ACCOUNT: &str = "2124538349";
const CLIENT: &str = "client-acme";

/// Whether any member names an account that is not [`ACCOUNT`].
fn names_another(json: &Value) -> bool {
    match json {
        Value::Array(all) => all.iter().any(names_another),
        Value::Object(members) => members.iter().any(|(name, value)| {
            let own = match name.as_str() {
                "merchant_id" | "accountId" | "account_id" | "sub_merchant_id" => ACCOUNT,
                "client_id" => CLIENT,
                _ => return names_another(value),
            };
            match value {
                Value::String(text) => text != own,
                Value::Number(number) => number.to_string() != own,
                _ => names_another(value),
            }
        }),
        _ => false,
    }
}

/// Input: `proxy.toml`, and behind a NUL a tenant's file. Loading gives a configuration, or a list of problems that
/// each have a text. Loading a second time gives the same result.
pub(crate) fn config(bytes: &[u8]) {
    let mut files = bytes.splitn(2, |byte| *byte == 0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let proxy = folder.path().join("proxy.toml");
    fs::write(&proxy, files.next().unwrap_or_default()).expect("a file");
    fs::create_dir(folder.path().join("tenants.d")).expect("a folder");
    if let Some(tenant) = files.next() {
        fs::write(folder.path().join("tenants.d/a.toml"), tenant).expect("a file");
    }
    // One that names other places, of this machine or of the network, is not read again from there.
    let load = || {
        let loaded = gatepay_tenancy::load(&proxy, &|name| Some(format!("fake-value-of-{name}")));
        loaded
            .err()
            .map(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let problems = load();
    assert_eq!(problems, load());
    for problem in problems.iter().flatten() {
        assert!(!problem.trim().is_empty());
        assert!(!problem.contains("fake-value-of-"), "{problem}");
    }
}
