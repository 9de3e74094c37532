//! What must hold for whatever bytes arrive: one function for each fuzz target, and nothing in any of them may panic.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::missing_panics_doc,
    reason = "a fuzz target calls one of the laws, the tests all of them"
)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use gatepay_core::check::{Strictness, inspect};
use gatepay_core::guard::{Own, guard};
use gatepay_core::operation::{self, Method};
use gatepay_core::{
    Catalogue, ClientId, Credential, Kind, Payload, SecretKey, Signature, Stamp, envelope, sign,
    translate, verify,
};
use gatepay_proxy::framing::Framing;
use gatepay_proxy::gate::Gate;
use gatepay_proxy::headers::Lines;
use gatepay_proxy::ingress;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus::IntCounter;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// hyper finds the requests that the gate found, and no head it cannot read; how the bytes are cut changes nothing.
pub(crate) fn head(bytes: &[u8]) {
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
    let whole = handed_on([bytes.to_vec()], &mut [0; 1024]);
    if let [first, ..] = bytes {
        let (one, other) = bytes.split_at(usize::from(*first) % bytes.len());
        let parts = [one, other].into_iter().filter(|part| !part.is_empty());
        let cut: VecDeque<_> = parts.map(<[u8]>::to_vec).collect();
        assert_eq!(handed_on(cut, &mut [0; 1024]), whole, "{text:?}");
    }
}

/// All that the gate hands on of a stream that comes in these pieces, and what it says when it breaks off.
pub(crate) fn handed_on(
    pieces: impl Into<VecDeque<Vec<u8>>>,
    room: &mut [u8],
) -> (Vec<u8>, Option<String>) {
    let mut gate = Gate::before(Pieces(pieces.into()), counter());
    let mut all = Vec::new();
    loop {
        let mut buf = ReadBuf::new(room);
        match Pin::new(&mut gate).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (all, None),
            Poll::Ready(Ok(())) => all.extend_from_slice(buf.filled()),
            Poll::Ready(Err(error)) => return (all, Some(error.to_string())),
            Poll::Pending => return (all, None),
        }
    }
}

fn counter() -> IntCounter {
    IntCounter::new("faults", "faults").expect("a good name")
}

/// How many requests hyper reads of what the gate hands on, and whether it found a head it could not read.
fn read_by_hyper(bytes: &[u8]) -> (usize, bool) {
    let gate = Gate::before(Pieces([bytes.to_vec()].into()), counter());
    let heads = Cell::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        heads.set(heads.get() + 1);
        async move {
            // Its end is looked for, so that the next head is found behind it.
            let _whole = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(2 * ingress::HEAD_LINES)
        .max_buf_size(4 * ingress::HEAD_LIMIT)
        .serve_connection(TokioIo::new(gate), service);
    let mut connection = pin!(connection);
    let _timers = RUNTIME.enter();
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    loop {
        again.0.store(false, Ordering::Relaxed);
        match connection.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending if again.0.load(Ordering::Relaxed) => {}
            Poll::Pending => return (heads.get(), false),
            Poll::Ready(ended) => return (heads.get(), ended.is_err_and(|error| error.is_parse())),
        }
    }
}

/// For the timers of the gate, which is polled by hand.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
});

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

/// Pieces of a stream, one for each time it is read; then it is silent. Whatever is written goes nowhere.
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

/// Client id, timestamp, nonce and signature, each on a line, then a body. A stamp keeps its text; what is signed
/// verifies, however the body comes in pieces; a signature that is not ours does not.
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

/// A path that is canonical leads to the row that has it, and no other path leads anywhere.
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
            assert!(operation::is_canonical(text));
        }
    }
    let Ok(request) = Request::builder().uri(text).body(()) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    if let Ok(head) = ingress::head(&parts, &Lines::read(&parts.headers)) {
        let path = head.path;
        assert!(path == "/" || operation::is_canonical(path));
        assert!(!path.contains("//") && !path.contains('%'), "{path}");
        assert!(
            !path.split('/').any(|segment| matches!(segment, "." | "..")),
            "{path}"
        );
    }
}

/// A number that chooses an operation, the query, and the body, the first two ended by a line feed each. What a tenant's
/// call to a money operation may go on with names no account but its own, as another parser reads it.
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
    let own = Own {
        account: ACCOUNT,
        client_id: CLIENT,
    };
    let passed = guard(operation, query, body, Some(own), false).is_ok();
    if passed
        && operation.kind == Kind::Money
        && let Ok(json) = serde_json::from_slice::<Value>(body)
    {
        assert!(!names_another(&json), "{}: {json}", operation.name);
    }
    for strictness in [Strictness::Off, Strictness::Certain, Strictness::Strict] {
        let _ = inspect(operation, query, body, strictness);
    }
    let _ = envelope::judge(operation.kind, 200, body);
    let _ = translate::balance_answer(body);
    let _ = translate::balance_request(query, body, &["USDT"]);
}

const ACCOUNT: &str = "2124538349";
const CLIENT: &str = "client-acme";

/// Whether a member anywhere names an account that is not [`ACCOUNT`].
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

/// `proxy.toml`, and behind a NUL a tenant's file: there is a configuration, or a list of problems that each say
/// something, and the same one the second time.
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
