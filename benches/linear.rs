//! The code that reads a caller's or GatePay's bytes, over inputs that are expensive for it. Each reader reads half of
//! its largest input, then all of it. `benches/linear.sh` counts the instructions of both.
//!
//! Each reading is one call of [`measured`], in the order of the printed lines.

#![expect(clippy::print_stdout, reason = "it says what it did")]

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use gatepay_core::body::BodyReading;
use gatepay_core::check::{Strictness, inspect};
use gatepay_core::guard::{CallerIdentity, guard};
use gatepay_core::look_up::LookUpQuestion;
use gatepay_core::money::MoneyCall;
use gatepay_core::{Catalogue, Kind, Operation, SecretKey, envelope, explain, translate};
use gatepay_http1::request_parser::{self, BodyEvent, RequestParser};
use gatepay_http1::response_parser;
use gatepay_proxy::callers::body_memory::BodyMemory;
use gatepay_proxy::callers::client_address::TrustedProxies;
use gatepay_proxy::headers::{self, KnownHeaders};
use gatepay_proxy::journey::ingress::{self, BodyTime};
use gatepay_proxy::listener::proxy_protocol;
use gatepay_proxy::process::timestamp::Rfc3339Cache;
use gatepay_proxy::record::access_line::{AccessLine, LineDetails, TextBuffer};
use gatepay_tenancy::settings::LogFormat;
use http_body::Frame;
use http_body_util::StreamBody;
use zeroize::Zeroizing;

fn main() {
    let wanted = env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'));
    for (name, limit, read, families) in readers() {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        for (family, bytes) in families {
            for length in [limit / 2, limit] {
                let bytes = bytes.of(length);
                println!("{name}\t{family}\t{}", bytes.len());
                measured(&*read, &bytes);
            }
        }
    }
}

/// The code that is counted.
#[inline(never)]
fn measured(read: &dyn Fn(&[u8]), bytes: &[u8]) {
    read(black_box(bytes));
}

/// Bytes of any length: a beginning, then a repeated piece with its number in place of `@`, then an end.
#[derive(Clone, Copy)]
struct Family(&'static str, &'static str, &'static str);

impl Family {
    fn of(self, length: usize) -> Vec<u8> {
        let Self(begin, piece, end) = self;
        let mut bytes = begin.as_bytes().to_vec();
        let mut number = 0_u64;
        while bytes.len() + piece.len() + 8 + end.len() <= length {
            // Six digits, so that all pieces have the same length.
            let number_text = format!("{number:06}");
            bytes.extend_from_slice(piece.replace('@', &number_text).as_bytes());
            number += 1;
        }
        bytes.extend_from_slice(end.as_bytes());
        bytes
    }
}

/// A made-up input: repeated pieces, or nested brackets, as many closing as opening.
enum Made {
    Of(Family),
    Nested(&'static str, &'static str),
}

impl Made {
    fn of(&self, length: usize) -> Vec<u8> {
        match self {
            Self::Of(family) => family.of(length),
            Self::Nested(open, close) => {
                let times = (length - 8) / (open.len() + close.len());
                let nested = open.repeat(times) + "1" + &close.repeat(times);
                format!("{{\"a\":{nested}}}").into_bytes()
            }
        }
    }
}

type Reader = Box<dyn Fn(&[u8])>;
type Named = (&'static str, usize, Reader, Vec<(&'static str, Made)>);

/// Every reader with its largest input size in bytes, and its inputs.
fn readers() -> Vec<Named> {
    let row = |name: &'static str| row(name);
    vec![
        ("body of a read", BODY, row("query_order"), json()),
        ("body of a write", BODY, row("create_order"), json()),
        ("body of a money call", BODY, row("refund_order"), json()),
        ("body of a payout", BODY, row("create_payout"), json()),
        ("form", BODY, row("create_otc_bank"), forms()),
        ("query", HEAD, Box::new(query), queries()),
        (
            "list of currencies",
            BODY,
            Box::new(currencies),
            currency_lists(),
        ),
        ("answer", BODY, Box::new(judge), json()),
        (
            "explain",
            EXPLAINED,
            Box::new(explained),
            explained_bodies(),
        ),
        (
            "head",
            HEAD,
            Box::new(|bytes| head(bytes, usize::MAX)),
            heads(),
        ),
        (
            "head, byte by byte",
            HEAD,
            Box::new(|bytes| head(bytes, 1)),
            heads(),
        ),
        (
            "chunks",
            BODY / 4,
            Box::new(|bytes| chunks(bytes, usize::MAX)),
            chunked(),
        ),
        (
            "chunks, byte by byte",
            BODY / 4,
            Box::new(|bytes| chunks(bytes, 1)),
            chunked(),
        ),
        ("pieces of a body", BODY / 4, Box::new(pieces), plain()),
        (
            "PROXY header, byte by byte",
            4_096,
            Box::new(proxied),
            proxy_headers(),
        ),
        (
            "answer's head",
            ANSWER_HEAD,
            Box::new(|bytes| answered(bytes, usize::MAX)),
            answer_heads(),
        ),
        (
            "answer's head, byte by byte",
            ANSWER_HEAD,
            Box::new(|bytes| answered(bytes, 1)),
            answer_heads(),
        ),
        (
            "answer's chunks",
            BODY / 4,
            Box::new(|bytes| answer_chunks(bytes, usize::MAX)),
            chunked(),
        ),
        (
            "answer's chunks, byte by byte",
            BODY / 4,
            Box::new(|bytes| answer_chunks(bytes, 1)),
            chunked(),
        ),
        (
            "access line",
            HEAD,
            Box::new(|bytes| line(bytes, LogFormat::Json)),
            plain(),
        ),
        (
            "access line for a terminal",
            HEAD,
            Box::new(|bytes| line(bytes, LogFormat::Human)),
            plain(),
        ),
    ]
}

/// An eighth of the default limit of a JSON body, so that the run takes one minute and not ten.
const BODY: usize = 1 << 17;
const HEAD: usize = request_parser::HEAD_LIMIT - 512;
const ANSWER_HEAD: usize = 60 * 1_024;
/// The reader signs a body of this size in about a thousand ways.
const EXPLAINED: usize = 1_024;

fn all(families: impl IntoIterator<Item = (&'static str, Family)>) -> Vec<(&'static str, Made)> {
    let made = families.into_iter();
    made.map(|(name, family)| (name, Made::Of(family)))
        .collect()
}

fn json() -> Vec<(&'static str, Made)> {
    let mut made = all([
        ("members", Family("{", r#""m@":1,"#, r#""a":1}"#)),
        (
            "one long prefix",
            Family(
                "{",
                r#""aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@":1,"#,
                r#""a":1}"#,
            ),
        ),
        ("one name", Family("{", r#""a":1,"#, r#""a":1}"#)),
        (
            "one name, escaped",
            Family("{", r#""\u0061":"\u0061","#, r#""a":1}"#),
        ),
        ("escaped names", Family("{", r#""\u0061@":1,"#, r#""a":1}"#)),
        ("prepayId", Family("{", r#""prepayId":"@","#, r#""a":1}"#)),
        ("accounts", Family("{", r#""accountId":"","#, r#""a":1}"#)),
        (
            "accounts, deep",
            Family(r#"{"a":["#, r#"{"accountId":"2124538349"},"#, "1]}"),
        ),
        (
            "names of separators",
            Family("{", r#""----------------------------@":1,"#, r#""a":1}"#),
        ),
        ("one name of separators", Family(r#"{""#, "-", r#"":1}"#)),
        ("one name of escapes", Family(r#"{""#, r"\u002d", r#"":1}"#)),
        (
            "letters that fold",
            Family("{", "\"\u{17f}@\":1,", r#""a":1}"#),
        ),
        (
            "objects",
            Family(r#"{"a":["#, r#"{"b":1,"c":{"d":2}},"#, "1]}"),
        ),
        (
            "objects of objects",
            Family("{", r#""m@":{"m@":{"m@":1}},"#, r#""a":1}"#),
        ),
        ("code", Family("{", r#""code":"@","#, r#""a":1}"#)),
        (
            "one code, escaped",
            Family("{", r#""code":"\u0030","#, r#""a":1}"#),
        ),
        ("quotes", Family(r#"{"a":""#, "\\\"", r#""}"#)),
        ("backslashes", Family(r#"{"a":""#, r"\\", r#""}"#)),
        ("escapes", Family(r#"{"a":""#, r"\u00e9", r#""}"#)),
        ("surrogates", Family(r#"{"a":["#, r#""\ud83d","#, "1]}")),
        ("digits", Family(r#"{"a":"#, "7", "}")),
        ("numbers", Family(r#"{"a":["#, "1e999,", "1]}")),
        ("white space", Family("{", " \n", r#""a":1}"#)),
        ("line ends in a fault", Family("{", "\n", "x")),
        ("a fault at the end", Family("{", r#""m@":1,"#, "}")),
        ("no JSON with names", Family("", "merchant_i account ", "x")),
        ("no JSON of escapes", Family("", r"\u0041\u212a", "x")),
        ("not closed", Family("", "[", "")),
        (
            "a list",
            Family(
                r#"{"status":"SUCCESS","data":["#,
                r#"{"merchantTradeNo":"@"},"#,
                "1]}",
            ),
        ),
        (
            "balanceList",
            Family(
                r#"{"data":{"x":["#,
                r#""balanceList","#,
                r#"1],"balanceList" :1}}"#,
            ),
        ),
    ]);
    made.push(("arrays in one another", Made::Nested("[", "]")));
    made.push(("objects in one another", Made::Nested(r#"{"a":"#, "}")));
    made.push((
        "objects with a name before",
        Made::Nested(r#"{"b":1,"a":"#, "}"),
    ));
    made
}

fn explained_bodies() -> Vec<(&'static str, Made)> {
    let mut made = all([
        ("members", Family("{", r#""m@":1.50,"#, r#""a":1}"#)),
        ("escapes", Family(r#"{"a":""#, r"\u00e9/<", r#""}"#)),
        ("line ends", Family("", "\r\n", "")),
        ("letters", Family("", "a", "")),
    ]);
    made.push(("arrays in one another", Made::Nested("[", "]")));
    made
}

fn forms() -> Vec<(&'static str, Made)> {
    const DISPOSITION: &str = "--b\r\nContent-Disposition: form-data; ";
    all([
        ("=name", Family("", "=name", "")),
        ("name", Family("", "name", "")),
        ("name and a blank", Family("", "name ", "")),
        ("name;", Family("", "name;", "")),
        ("name*", Family("", "name*", "")),
        ("name* and blanks", Family("", "name  *  ", "")),
        ("name'", Family("", "name'", "")),
        ("name=\"", Family("", "name=\"", "")),
        ("name%6e", Family("", "name=%6e%", "")),
        ("lines", Family("", "name\r\n", "")),
        ("folded lines", Family("", "name=\r\n ", "")),
        ("line ends", Family("", "\r\n", "name")),
        ("blanks", Family("name", "\r\n ", "=x")),
        ("separators", Family("name=", "-", "")),
        (
            "dispositions",
            Family(
                "",
                "--b\r\nContent-Disposition: form-data; name=\"m@\"\r\n\r\n1\r\n",
                "",
            ),
        ),
        ("parameters", Family(DISPOSITION, "x=1;", "name=x")),
        (
            "names of a file",
            Family(DISPOSITION, "filename=\"a name=b\";", "name=x"),
        ),
        ("quotes", Family(DISPOSITION, "\"", "name=x")),
        (
            "one long name",
            Family("--b\r\nContent-Disposition: form-data; name=\"", "a", "\""),
        ),
        ("letters that fold", Family("name=", "\u{130}", "")),
    ])
}

fn queries() -> Vec<(&'static str, Made)> {
    all([
        ("&", Family("", "&", "")),
        (";", Family("", ";", "")),
        ("=", Family("", "=", "")),
        ("%41", Family("", "%41", "")),
        ("%", Family("", "%", "")),
        ("+", Family("", "+", "")),
        ("one name", Family("", "a&", "")),
        ("many names", Family("", "m@=1&", "")),
        ("prepayId", Family("", "prepayId=@&", "")),
        ("escaped", Family("", "prepay%49d=%41;", "")),
        ("accounts", Family("", "accountId=0&", "")),
        ("letters that fold", Family("", "%c5%bf=1&", "")),
    ])
}

fn currency_lists() -> Vec<(&'static str, Made)> {
    all([
        ("in a text", Family(r#"{"currency":""#, "C@,", r#""}"#)),
        (
            "in an array",
            Family(r#"{"currencies":["#, r#""C@","#, r#""C"]}"#),
        ),
        ("members", Family("{", r#""currency":"C@","#, r#""a":1}"#)),
        ("commas", Family(r#"{"currency":""#, ",", r#""}"#)),
        ("one currency", Family(r#"{"currency":""#, "USDT,", r#""}"#)),
    ])
}

fn heads() -> Vec<(&'static str, Made)> {
    const GET: &str = "GET /v1/pay HTTP/1.1\r\nHost: x\r\n";
    all([
        (
            "a long target",
            Family("GET /", "a", " HTTP/1.1\r\nHost: x\r\n\r\n"),
        ),
        (
            "a long query",
            Family("GET /v1?", "a=1&", " HTTP/1.1\r\nHost: x\r\n\r\n"),
        ),
        (
            "a long method",
            Family("", "A", " / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ),
        (
            "a long name",
            Family("GET /v1/pay HTTP/1.1\r\nHost: x\r\n", "a", ": 1\r\n\r\n"),
        ),
        (
            "a long value",
            Family("GET /v1/pay HTTP/1.1\r\nHost: x\r\na: ", "a", "\r\n\r\n"),
        ),
        (
            "blanks",
            Family("GET /v1/pay HTTP/1.1\r\nHost: x\r\na: ", " ", "\r\n\r\n"),
        ),
        ("empty lines", Family("", "\r\n", GET)),
        ("CR", Family("GET /v1", "\r", GET)),
        ("lines", Family(GET, "a: 1\r\n", "\r\n")),
        (
            "Connection",
            Family(
                "GET /v1 HTTP/1.1\r\nHost: x\r\nConnection: ",
                "a,",
                "\r\n\r\n",
            ),
        ),
        (
            "X-Forwarded-For",
            Family(
                "GET /v1 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: ",
                "127.0.0.1,",
                "1\r\n\r\n",
            ),
        ),
        (
            "commas",
            Family(
                "GET /v1 HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: ",
                ",",
                "\r\n\r\n",
            ),
        ),
    ])
}

fn chunked() -> Vec<(&'static str, Made)> {
    all([
        ("of one byte", Family("", "1\r\na\r\n", "0\r\n\r\n")),
        (
            "of eight digits",
            Family("", "00000001\r\na\r\n", "0\r\n\r\n"),
        ),
        ("trailers", Family("0\r\n", "a: 1\r\n", "\r\n")),
        ("extensions", Family("", "1;a=b\r\na\r\n", "0\r\n\r\n")),
        ("one extension", Family("1;", "a", "\r\na\r\n")),
        ("one trailer", Family("0\r\na: ", "a", "\r\n\r\n")),
        ("one chunk", Family("fffffff\r\n", "a", "")),
        ("digits", Family("", "0", "")),
    ])
}

fn answer_heads() -> Vec<(&'static str, Made)> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    all([
        ("a long reason", Family("HTTP/1.1 200 ", "a", "\r\n\r\n")),
        (
            "a long value",
            Family("HTTP/1.1 200 OK\r\na: ", "a", "\r\n\r\n"),
        ),
        ("a long name", Family(OK, "a", ": 1\r\n\r\n")),
        ("lines", Family(OK, "a: 1\r\n", "\r\n")),
        (
            "Connection",
            Family("HTTP/1.1 200 OK\r\nConnection: ", "a,", "\r\n\r\n"),
        ),
        ("lines of Connection", Family(OK, CONNECTIONS, "\r\n")),
        (
            "Transfer-Encoding",
            Family(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: ",
                "a,",
                "chunked\r\n\r\n",
            ),
        ),
        (
            "Keep-Alive",
            Family("HTTP/1.1 200 OK\r\nKeep-Alive: ", "a,", "timeout=1\r\n\r\n"),
        ),
        ("no end", Family(OK, "\n a", "")),
        ("CR", Family(OK, "\r", "\r\n\r\n")),
    ])
}

/// Of which some dozens are as many lines as an answer may have.
const CONNECTIONS: &str = concat!(
    "Connection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,",
    "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,",
    "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,",
    "a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n"
);

fn proxy_headers() -> Vec<(&'static str, Made)> {
    all([
        ("version 1", Family("PROXY TCP4 ", "1", "\r\n")),
        (
            "version 2",
            Family("\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\x7f", "\0", ""),
        ),
        ("no header", Family("", "\r\n", "")),
    ])
}

fn plain() -> Vec<(&'static str, Made)> {
    all([
        ("letters", Family("", "a", "")),
        ("quotes", Family("", "\"", "")),
        ("control characters", Family("", "\u{1}", "")),
        ("beyond ASCII", Family("", "\u{e9}", "")),
    ])
}

/// The body steps of a call to this row: guard, checks, key, the query after a lost answer, and its amounts and targets.
fn row(name: &'static str) -> Reader {
    let catalogue = Catalogue::standard();
    Box::new(move |bytes| {
        let row = catalogue.named(name).expect("a row");
        ask(&catalogue, row, &BodyReading::read(row, None, bytes));
    })
}

fn ask(catalogue: &Catalogue, row: &Operation, reading: &BodyReading<'_>) {
    let own = CallerIdentity {
        account: "2124538349",
        client_id: "client-fake",
    };
    let _judged = black_box(guard(row, reading, Some(own), false));
    for strictness in [Strictness::Off, Strictness::Certain, Strictness::Strict] {
        let _inspected = black_box(inspect(row, reading, strictness));
    }
    if let Some(look_up) = &row.look_up {
        let asked = catalogue.named(look_up.operation).expect("a row");
        black_box(LookUpQuestion::about(look_up, asked, reading));
    }
    let money = MoneyCall::new(row, reading);
    let _read = black_box((money.demand(), money.bounded_targets()));
    black_box((money.documented_key(), money.may_be_disguised_payout()));
}

fn query(bytes: &[u8]) {
    let catalogue = Catalogue::standard();
    let text = str::from_utf8(bytes).expect("a text");
    for name in ["refund_order", "close_order", "query_order"] {
        let row = catalogue.named(name).expect("a row");
        ask(&catalogue, row, &BodyReading::read(row, Some(text), b"{}"));
    }
}

fn currencies(bytes: &[u8]) {
    let catalogue = Catalogue::standard();
    let row = catalogue.named("query_balance").expect("a row");
    let reading = BodyReading::read(row, None, bytes);
    black_box(translate::balance_request(&reading, &["USDT"]));
}

fn judge(bytes: &[u8]) {
    let catalogue = Catalogue::standard();
    let row = catalogue.named("create_order").expect("a row");
    let look_up = row.look_up.as_ref().expect("it has one");
    let asked = catalogue.named(look_up.operation).expect("a row");
    let call = BodyReading::read(row, None, br#"{"merchantTradeNo":"A-1"}"#);
    let question = LookUpQuestion::about(look_up, asked, &call).expect("it has a key");
    black_box(envelope::judge(Kind::Money, 200, bytes));
    black_box(question.observe(200, bytes));
    black_box(translate::balance_answer(bytes));
}

fn explained(bytes: &[u8]) {
    let secret = SecretKey::new(Zeroizing::new("fake-secret-0001".to_owned())).expect("a good one");
    let signature = "0".repeat(128);
    let request = explain::ClaimedRequest {
        timestamp: "1767225600123",
        nonce: "k64Nonce",
        signature: &signature,
        body: bytes,
        line: Some(explain::RequestLine {
            method: "POST",
            target: "/v1/pay/order?a=1",
        }),
    };
    black_box(explain::hypotheses(&secret, &request));
    black_box(explain::arrived(&request, &[0; 32]));
}

/// Parses a head that arrives in pieces of this many bytes.
fn head(bytes: &[u8], piece: usize) {
    let (mut came, mut reading) = (Vec::with_capacity(bytes.len()), RequestParser::default());
    let trusted = TrustedProxies::new(&["127.0.0.0/8".parse().expect("a network")]);
    for piece in bytes.chunks(piece.min(bytes.len())) {
        came.extend_from_slice(piece);
        match reading.read(&came) {
            Ok(None) => {}
            Ok(Some(length)) => {
                let head = reading.head(&came[..length]);
                let lines = KnownHeaders::read(head.lines());
                let _target = black_box(ingress::target(&head, &lines));
                let here = trusted.origin(IpAddr::V4(Ipv4Addr::LOCALHOST));
                black_box(trusted.caller(here, &head));
                return;
            }
            Err(fault) => {
                black_box(fault);
                return;
            }
        }
    }
}

/// Parses a chunked body behind its head, in pieces of this many bytes.
fn chunks(bytes: &[u8], piece: usize) {
    let head = b"POST /v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut reading = RequestParser::default();
    reading.read(head).expect("a good head");
    let (mut rest, mut came) = (reading.rest(), BytesMut::new());
    for piece in bytes.chunks(piece.min(bytes.len())) {
        came.extend_from_slice(piece);
        loop {
            match black_box(rest.step(&mut came)) {
                Ok(BodyEvent::Piece(_)) => {}
                Ok(BodyEvent::More) => break,
                Ok(BodyEvent::Over) | Err(_) => return,
            }
        }
    }
}

/// A body that arrives in pieces of one byte.
fn pieces(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let frames = (0..bytes.len()).map(|at| Ok::<_, Infallible>(Frame::data(bytes.slice(at..=at))));
    let mut body = StreamBody::new(stream::iter(frames));
    let time = BodyTime {
        whole: Duration::from_secs(10),
        bytes_per_second: NonZeroU32::MIN,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let mut held = BodyMemory::default().hold(None);
    let read = ingress::body(&mut body, u64::MAX, &time, &mut held, |_| {});
    let _body = black_box(runtime.expect("a runtime").block_on(read));
}

fn proxied(bytes: &[u8]) {
    for length in 1..=bytes.len() {
        match black_box(proxy_protocol::parse(&bytes[..length])) {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

fn answered(bytes: &[u8], piece: usize) {
    let (mut came, mut seen) = (BytesMut::with_capacity(bytes.len()), 0);
    for piece in bytes.chunks(piece.min(bytes.len())) {
        came.extend_from_slice(piece);
        match black_box(response_parser::head(&mut came, seen, headers::passes)) {
            Ok(None) => seen = came.len(),
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

fn answer_chunks(bytes: &[u8], piece: usize) {
    let mut came = BytesMut::from(&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..]);
    let head = response_parser::head(&mut came, 0, headers::passes).expect("a good head");
    let mut rest = head.expect("a whole one").rest;
    for piece in bytes.chunks(piece.min(bytes.len())) {
        came.extend_from_slice(piece);
        loop {
            match black_box(rest.step(&mut came)) {
                Ok(response_parser::ResponseEvent::Piece(_)) => {}
                Ok(response_parser::ResponseEvent::More) => break,
                Ok(response_parser::ResponseEvent::Over) | Err(_) => return,
            }
        }
    }
}

/// Writes an access line with these bytes as key and detail.
fn line(bytes: &[u8], format: LogFormat) {
    let text = str::from_utf8(bytes).expect("a text");
    let line = AccessLine::begin(
        1_767_225_600_000,
        [7; 16],
        None,
        IpAddr::V4(Ipv4Addr::LOCALHOST),
    );
    let rest = LineDetails {
        generation: None,
        key: Some(text),
        detail: Some(text),
    };
    let mut out = TextBuffer::default();
    line.write(rest, format, &mut Rfc3339Cache::default(), &mut out);
    black_box(out.as_bytes());
}
