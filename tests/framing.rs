//! One request, one reading: the cases of `framing/*.http` are sent over raw sockets.
//!
//! A case is a name, the answers that are expected in their order, and bytes:
//!
//! ```text
//! === two lengths that differ
//! -> 400 malformed_request
//! POST /v1/pay/order/query HTTP/1.1\r\n…
//! ```
//!
//! Line breaks of the file are not part of the bytes; `\r`, `\n`, `\t`, `\0`, `\\` and `\x` with two digits are. Text
//! in `<…>` is filled in: `<signed>` (the headers of a right signature over `<body>`), `<signed-empty>` (over
//! nothing), `<text*7>` (that text seven times), `<pause>` (the rest is sent after the first answer). Each answer of
//! 200 means one request at GatePay, and nothing else arrives there. A refusal for framing, or one that left a body
//! unread, ends the connection; `-> closed` expects that end after another answer.

use crate::fuzzing::laws::read;
use crate::support::*;
use gatepay_proxy::process::clock::Clock;
use std::fs;
use std::path::Path;
use std::time::Duration;

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
    /// Its bytes, signed now: the bytes sent at once, and the bytes sent after the first answer.
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

/// The bytes of every case, signed at one time.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let clock = Clock::manual(T0);
    let cases = cases();
    cases
        .iter()
        .map(|case| case.bytes(&clock).concat())
        .collect()
}

fn proxy(gatepay: &GatePay) -> Proxy {
    let patient = |settings: &mut gatepay_tenancy::settings::Settings| {
        settings.listen.body_timeout = Duration::from_millis(500);
    };
    Proxy::before(gatepay).with(patient).start()
}

/// Sends a case in this many pieces on a connection of its own, and checks the answers.
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
                    break; // The proxy has closed the connection already.
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

#[test]
fn every_case_is_read_the_same_however_it_is_split() {
    let clock = Clock::manual(T0);
    for case in cases() {
        let whole = case.bytes(&clock).concat();
        let expected = read([whole.clone()]);
        let name = &case.name;
        for cut in 1..whole.len().min(2_000) {
            let (first, second) = whole.split_at(cut);
            let pieces = [first.to_vec(), second.to_vec()];
            assert_eq!(read(pieces), expected, "{name}: cut at {cut}");
        }
        let bytes = whole.iter().map(|byte| vec![*byte]);
        assert_eq!(read(bytes), expected, "{name}: byte for byte");
    }
}
