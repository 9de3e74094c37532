//! The laws of `fuzz/`, over its seeds and over changes of them. The fuzzer itself needs a nightly compiler; the long
//! form here is a weaker substitute without nightly.

#[path = "../fuzz/laws.rs"]
pub(crate) mod laws;

use crate::support::*;
use proptest::prelude::*;
use std::fs;
use std::path::Path;

type Law = fn(&[u8]);

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let files = fs::read_dir(folder.join(target)).unwrap();
    let mut seeds: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 3, "{target}");
    seeds.iter().map(|seed| fs::read(seed).unwrap()).collect()
}

/// The place of a change, the number of bytes replaced, and their replacement.
type Change = (prop::sample::Index, usize, Vec<u8>);

/// Holds the law to the seeds unchanged, and to this many seeds with bytes replaced and another seed appended.
fn hold(law: Law, seeds: Vec<Vec<u8>>, words: &[&str], cases: u32) {
    for seed in &seeds {
        law(seed);
    }
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let piece = prop_oneof![
        3 => prop::sample::select(words),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let change = (any::<prop::sample::Index>(), 0..5_usize, piece);
    let strategy = (
        prop::sample::select(seeds.clone()),
        prop::collection::vec(change, 0..5),
        prop::option::weighted(0.3, prop::sample::select(seeds)),
    );
    let changed = async |(mut bytes, changes, behind): (Vec<u8>, Vec<Change>, Option<Vec<u8>>)| {
        for (at, cut, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        bytes.extend(behind.unwrap_or_default());
        law(&bytes);
        Ok(())
    };
    holds(cases, &strategy, changed);
}

const FRAMING: &[&str] = &[
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
    "HTTP/1.0",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\nConnection: upgrade\r\n",
    "TRACE /0",
    "#",
    "HEAD",
];
const ANSWERS: &[&str] = &[
    "\r\n",
    "\n",
    " ",
    ":",
    ";",
    "0",
    "\r\n\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 204 \r\n\r\n",
    "HTTP/1.1 304 \r\n",
    "Content-Length: 2\r\n",
    "Transfer-Encoding: chunked\r\n",
    "\r\n0\r\n\r\n",
    "\r\n0\r\nX: y\r\n\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close, x\r\n",
    "Keep-Alive: timeout=5\r\n",
    "\r\n folded",
    "\0",
    "é",
];
/// Steps of a peer's script.
const PEERS: &[&str] = &[
    "r",
    "R",
    "a",
    "A",
    "b",
    "h",
    "i",
    "c",
    "x",
    "s",
    "n",
    "p",
    "W\u{3}2\r\n",
    "W\u{1}H",
    "aR",
];
const STAMPS: &[&str] = &[
    "\n",
    "\n\n",
    "0",
    "9999999999",
    "\u{7f}",
    " ",
    "+1",
    "é",
    "ABCDEF",
    "\r",
];
const PATHS: &[&str] = &[
    "/", "//", "..", "/.", "%2f", "%", "?", "#", "\\", ";", "http://x", "\0", "é", "*",
];
const BODIES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\n",
    "\\u0061",
    "\\",
    "null",
    "1e999",
    "-0",
    "\"account_id\":\"1\",",
    "\"accountId\":2,",
    "\"merchant_id\":{\"account_id\":3},",
    "\"client_id\":\"x\",",
    "\u{feff}",
    "/**/",
    "7\n",
    "account_id=4&",
    "\"callbackUrl\":\"x\",",
];
const FILES: &[&str] = &[
    "\n",
    "[",
    "]]",
    "=",
    "'",
    "\"\"\"",
    "{",
    "}",
    ",",
    "\0",
    "[[tenant]]\n",
    "id = 'b'\n",
    "18446744073709551615",
    "-1",
    "1e400",
    "1979-05-27",
    "secret = 'inline'\n",
    "env = ''",
    "= true\n",
    "[x.y]\n",
    "\\u0000",
    "limits = 1\n",
];

/// Each law, with its seeds and words, and its slowness relative to the quickest law.
fn laws() -> [(&'static str, Law, &'static [&'static str], u32); 7] {
    [
        ("request_parser", laws::request_parser, FRAMING, 2),
        ("response_parser", laws::response_parser, ANSWERS, 2),
        ("upstream_connection", laws::upstream_connection, PEERS, 100),
        ("signature", laws::signature, STAMPS, 1),
        ("path", laws::path, PATHS, 1),
        ("body", laws::body, BODIES, 1),
        ("config", laws::config, FILES, 10),
    ]
}

/// Two thousand changed inputs for the quickest law.
#[test]
fn the_laws_hold_for_the_seeds_and_for_changes_of_them() {
    for (target, law, words, slow) in laws() {
        hold(law, seeds(target), words, 2_000 / slow);
    }
}

#[test]
#[ignore = "the long form: a million changed inputs for the quickest of the laws"]
fn the_laws_hold_for_many_changes_of_the_seeds() {
    for (target, law, words, slow) in laws() {
        hold(law, seeds(target), words, 1_000_000 / slow);
    }
}

/// hyper reads as many trailers as header lines, so more of them would be one request to us and none to hyper.
#[test]
fn a_body_has_at_most_as_many_trailers_as_a_head_has_lines() {
    let request = |trailers: usize| {
        let head =
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n";
        [head, &"x:y\r\n".repeat(trailers), "\r\n"].concat()
    };
    for trailers in [0, 1, 63, 64, 65, 100, 101, 400] {
        let bytes = request(trailers).into_bytes();
        laws::request_parser(&bytes);
        let whole = laws::read([bytes]).whole.len();
        assert_eq!(whole, usize::from(trailers <= 64), "{trailers}");
    }
}

/// The cases of the framing corpus serve as seeds too.
#[test]
fn hyper_and_the_gate_agree_on_every_case_of_framing_and_on_changes_of_them() {
    hold(laws::request_parser, crate::framing::all(), FRAMING, 1_000);
    // Any byte may stand in a target, a name or a value: hyper accepts the same bytes.
    for byte in 0..=u8::MAX {
        for (before, behind) in [
            ("GET /x", " HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("GET /x?", " HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: x\r\nx", ": y\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: x\r\nx: y", "\r\n\r\n"),
        ] {
            laws::request_parser(&[before.as_bytes(), &[byte], behind.as_bytes()].concat());
        }
    }
}
