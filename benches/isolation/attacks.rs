//! Globex's attacks, within its limits and with its own valid signature.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::honest::{answer, connect};
use crate::setup::{BANK, FORM, GLOBEX, JSON, PLACES, QUERY, REFUND};
use crate::signed::Signer;

/// An attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// GatePay's answers to globex meanwhile.
    pub(crate) gatepay: Answers,
    how: How,
}

/// How GatePay answers globex. Other tenants get regular answers.
#[derive(Clone, Copy)]
pub(crate) enum Answers {
    /// The regular answer.
    Right,
    /// A dropped connection.
    Nothing,
    /// A status that an intermediary before GatePay would send.
    Status(u16),
}

enum How {
    /// The same body repeatedly, on eight connections.
    Bodies(&'static str, &'static str, fn() -> String),
    /// Connections in every connection slot. Each sends one request, verified or unverified, and then idles.
    Idle { verified: bool },
}

pub(crate) const ATTACKS: [Attack; 9] = [
    bodies("=name in a form, 300 KB", BANK, FORM, || {
        "=name".repeat(60_000)
    }),
    bodies("name=\" in a form, 2 MB", BANK, FORM, || {
        "name=\"".repeat(333_000)
    }),
    bodies("members of a refund, 1 MB", REFUND, JSON, members),
    bodies("escapes in a name, 900 KB", QUERY, JSON, || {
        format!(r#"{{"{}":1}}"#, r"\u0061".repeat(150_000))
    }),
    reads("reads without an answer", Answers::Nothing),
    reads("reads answered 502", Answers::Status(502)),
    reads("reads answered 429", Answers::Status(429)),
    idle("idle connections, unverified", false),
    idle("idle connections, verified", true),
];

const fn bodies(
    name: &'static str,
    path: &'static str,
    media: &'static str,
    body: fn() -> String,
) -> Attack {
    Attack {
        name,
        gatepay: Answers::Right,
        how: How::Bodies(path, media, body),
    }
}

const fn reads(name: &'static str, gatepay: Answers) -> Attack {
    Attack {
        name,
        gatepay,
        how: How::Bodies(QUERY, JSON, || {
            r#"{"merchantTradeNo":"tea-0001"}"#.to_owned()
        }),
    }
}

const fn idle(name: &'static str, verified: bool) -> Attack {
    Attack {
        name,
        gatepay: Answers::Right,
        how: How::Idle { verified },
    }
}

fn members() -> String {
    let members: Vec<_> = (0..70_000)
        .map(|number| format!(r#""m{number}":"x""#))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Attacks for this time, and returns how many requests or connections it made.
pub(crate) fn run(number: usize, address: SocketAddr, time: Duration) -> u64 {
    let end = Instant::now() + time;
    match &ATTACKS[number].how {
        How::Bodies(path, media, body) => send_bodies(path, media, &body(), address, end),
        How::Idle { verified } => hold_connections(*verified, address, end),
    }
}

fn send_bodies(path: &str, media: &str, body: &str, address: SocketAddr, end: Instant) -> u64 {
    let sent = AtomicU64::new(0);
    let globex = Signer::new(GLOBEX.client_id, GLOBEX.secret);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let Ok(mut tcp) = connect("127.0.0.8", address) else {
                        continue;
                    };
                    while Instant::now() < end {
                        let request = globex.post(path, media, body.as_bytes());
                        sent.fetch_add(1, Ordering::Relaxed);
                        if tcp.write_all(&request).is_err() || answer(&mut tcp).is_err() {
                            break;
                        }
                    }
                }
            });
        }
    });
    sent.into_inner()
}

fn hold_connections(verified: bool, address: SocketAddr, end: Instant) -> u64 {
    let globex = Arc::new(Signer::new(GLOBEX.client_id, GLOBEX.secret));
    let mut held = Vec::new();
    for number in 0..PLACES {
        let from = format!("127.0.1.{}", 1 + number % 10);
        let Ok(mut tcp) = connect(&from, address) else {
            continue;
        };
        let request = if verified {
            globex.post(QUERY, JSON, br#"{"merchantTradeNo":"tea-0001"}"#)
        } else {
            b"GET / HTTP/1.1\r\nhost: pay.example\r\n\r\n".to_vec()
        };
        if tcp.write_all(&request).is_ok() {
            held.push(tcp);
        }
    }
    thread::sleep(end.saturating_duration_since(Instant::now()));
    held.len() as u64
}
