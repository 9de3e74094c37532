//! The attackers: `slowhttptest`, and our own abuser of HTTP/2. Each is a separate process that gets only processor
//! time that no other process wants, as if it ran on another machine. It costs the proxy only the work that its bytes
//! cause.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gatepay_core::header;
use gatepay_proxy::process::clock::Clock;
use tokio::runtime::Builder;

use crate::abuse::{self, ATTACKS, Attack, Uplink};
use crate::{ABUSER, CONNECTIONS, QUERY};

/// A mode of slowhttptest, with options that make the attack last.
pub(crate) struct Slow {
    pub(crate) name: &'static str,
    options: &'static [&'static str],
    /// Extra header lines. slowhttptest has no option for them but accepts line ends in a cookie.
    lines: &'static str,
}

/// The modes of slowhttptest, in the order below.
///
/// - Heads that do not end.
/// - Bodies that do not end, by a known client: the proxy refuses an unknown client by its head.
/// - Heads full of ranges. A proxy has no content to serve in parts, so such a request would be over at once: these
///   announce a body that never arrives.
/// - Answers that are not read. A caller without a secret gets no long answers, so the kernel buffers all ten answers
///   of a connection, and the proxy holds only the connection itself.
pub(crate) const SLOW: [Slow; 4] = [
    Slow {
        name: "slowhttptest -H",
        options: &["-H", "-i", "2", "-x", "24"],
        lines: "",
    },
    Slow {
        name: "slowhttptest -B",
        options: &[
            "-B",
            "-t",
            "POST",
            "-i",
            "2",
            "-s",
            "8192",
            "-x",
            "10",
            "-f",
            "application/json",
        ],
        lines: "",
    },
    Slow {
        name: "slowhttptest -R",
        options: &["-R", "-t", "POST", "-a", "10", "-b", "1500"],
        lines: "\r\ncontent-type: application/json\r\ncontent-length: 100",
    },
    Slow {
        name: "slowhttptest -X",
        options: &[
            "-X", "-t", "GET", "-w", "10", "-y", "20", "-n", "5", "-z", "5", "-k", "10",
        ],
        lines: "",
    },
];

impl Slow {
    /// Attacks for this time. slowhttptest ends once all of its connections are closed, and is then started again.
    pub(crate) fn attack(&self, address: SocketAddr, time: Duration) -> String {
        let deadline = Instant::now() + time;
        let mut rounds = 0;
        let mut said = String::new();
        while let left = deadline.saturating_duration_since(Instant::now()).as_secs()
            && left > 0
        {
            rounds += 1;
            // HTTP/2 pseudo-headers are left out, and the media type is set by an option.
            let fields = fields().into_iter();
            let fields = fields.filter(|(name, _)| name.starts_with("x-"));
            let fields = fields.map(|(name, value)| format!("\r\n{name}: {value}"));
            let cookie = format!("a=b{}{}", fields.collect::<String>(), self.lines);
            let output = behind_all_others("slowhttptest")
                .args(self.options)
                .args(["-c", &CONNECTIONS.to_string(), "-r", "500", "-p", "3"])
                .args(["-l", &left.to_string(), "-j", &cookie])
                .args(["-u", &format!("http://{address}{QUERY}")])
                .output()
                .expect("there is a chrt (util-linux)");
            assert!(
                output.status.code().is_some_and(|code| code <= 1),
                "slowhttptest is installed (Debian: apt install slowhttptest)"
            );
            said = String::from_utf8_lossy(&output.stdout).into_owned();
        }
        let available = said
            .lines()
            .rfind(|line| line.contains("service available"));
        let available = available.is_some_and(|line| line.contains("YES"));
        format!("{rounds} times over; it finds the service available: {available}")
    }
}

/// Abuses HTTP/2 for this time, from a separate process, and returns its report.
pub(crate) fn abuse(kind: Attack, address: SocketAddr, time: Duration) -> String {
    let own = std::env::current_exe().unwrap();
    let number = ATTACKS.iter().position(|one| *one == kind).unwrap();
    let output = behind_all_others(own.to_str().unwrap())
        .args(["abuse", &number.to_string(), &address.to_string()])
        .arg(time.as_millis().to_string())
        .stderr(Stdio::inherit())
        .output()
        .expect("there is a chrt (util-linux)");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The main function of the separate process of [`abuse`].
pub(crate) fn abuse_as_told(arguments: &[String]) -> String {
    let [number, address, milliseconds] = arguments else {
        panic!("an attack, an address and a time are told");
    };
    let kind = ATTACKS[number.parse::<usize>().unwrap()];
    let (address, time) = (address.parse().unwrap(), milliseconds.parse().unwrap());
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(all_connections(kind, address, Duration::from_millis(time)))
}

async fn all_connections(kind: Attack, address: SocketAddr, time: Duration) -> String {
    let (frames, closed, opened) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new((frames, closed, opened));
    let uplink = Arc::new(Uplink::of(UPLINK));
    let deadline = Instant::now() + time;
    let mut attackers = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let (counts, uplink) = (Arc::clone(&counts), Arc::clone(&uplink));
        attackers.spawn(async move {
            // Open 500 connections per second, as slowhttptest does.
            tokio::time::sleep(Duration::from_millis(2 * number as u64)).await;
            while Instant::now() < deadline {
                counts.2.fetch_add(1, Ordering::Relaxed);
                let fields = fields();
                let left = deadline.saturating_duration_since(Instant::now());
                let attack = abuse::attack(&uplink, kind, ABUSER, address, &fields, left);
                if let Ok(report) = attack.await {
                    counts.0.fetch_add(report.frames, Ordering::Relaxed);
                    counts.1.fetch_add(report.closed.into(), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    attackers.join_all().await;
    let [frames, closed, opened] =
        [&counts.0, &counts.1, &counts.2].map(|count| count.load(Ordering::Relaxed));
    format!("{opened} connections, {closed} of them closed, {frames} frames")
}

/// The abuser's uplink, in bytes per second: a full line of 100 Mbit/s. Without a limit the run would measure how much
/// faster loopback is than a line. With a much wider line an attacker needs no knowledge of HTTP/2 to do harm.
const UPLINK: u64 = 12_500_000;

/// Starts a program in the kernel's lowest class: it runs when no other process wants its processor.
fn behind_all_others(program: &str) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0", program]).stdin(Stdio::null());
    command
}

/// The header fields that get furthest without a secret: a known client's id, and a fresh stamp.
fn fields() -> Vec<(&'static str, String)> {
    let stamp = Clock::system().stamp();
    let stamp = stamp.as_stamp();
    vec![
        (":method", "POST".to_owned()),
        (":path", QUERY.to_owned()),
        (":authority", "pay.example".to_owned()),
        ("content-type", "application/json".to_owned()),
        (header::CLIENT_ID, "client-acme".to_owned()),
        (header::TIMESTAMP, stamp.timestamp().to_owned()),
        (header::NONCE, stamp.nonce().to_owned()),
        (header::SIGNATURE, "0".repeat(128)),
    ]
}
