//! Exhaustion: an honest tenant beside attackers, before the real binary.
//!
//! `cargo bench -p gatepay-proxy --bench exhaustion`, or `benches/exhaustion/run.sh`, which installs what is missing.
//! Every phase runs an attack from other addresses while the honest tenant goes on calling; it fails if the tenant was
//! not answered once, if its median latency is more than twice that of the quiet phases around, or if the process ever
//! holds more memory than `check` says. `EXHAUSTION_SECONDS` is the length of a phase; `GATEPAY_PROXY`
//! names another binary.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for a terminal, which may not go on without what it asks for"
)]

#[path = "../../tests/support/abuse.rs"]
mod abuse;

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use abuse::{ATTACKS, Attack};
use bytes::Bytes;
use gatepay_core::{ClientId, Credential, SecretKey, header, sign};
use gatepay_proxy::clock::Clock;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use zeroize::Zeroizing;

const QUERY: &str = "/v1/pay/order/query";
const BODY: &str = r#"{"merchantTradeNo":"tea-0001"}"#;
/// Where the honest tenant calls from; slowhttptest calls from 127.0.0.1.
const HONEST: &str = "127.0.0.9";
const ABUSER: &str = "127.0.0.8";
/// How many connections slowhttptest keeps up.
const CONNECTIONS: usize = 1_000;
/// How often the honest tenant calls.
const EVERY: Duration = Duration::from_millis(10);

fn main() {
    let seconds = std::env::var("EXHAUSTION_SECONDS");
    let phase = Duration::from_secs(seconds.map_or(20, |text| text.parse().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let gatepay = free_address();
    configure(folder.path(), gatepay);
    let bound = bound(folder.path());
    let _gatepay = sandbox(folder.path(), gatepay);
    let (_proxy, id, address) = serve(folder.path());
    println!("proxy at {address}; check says at most {bound} MiB; phases of {phase:?}\n");

    let honest = Arc::new(Honest::default());
    let calling = {
        let honest = Arc::clone(&honest);
        thread::spawn(move || honest.call(address))
    };
    println!(
        "{:<28} {:>7} {:>7} {:>10} {:>10} {:>9}  what became of the attack",
        "phase", "calls", "failed", "median ms", "p99 ms", "RSS MiB"
    );
    let mut failed = Vec::new();
    let mut quiet = Vec::new();
    let mut judge = |name: &str, attack: &mut dyn FnMut() -> String| {
        let before = honest.quiet(id, phase / 4);
        let seen = honest.during(id, attack);
        let name = name.to_owned();
        println!(
            "{name:<28} {:>7} {:>7} {:>10.2} {:>10.2} {:>9}  {}",
            seen.calls, seen.failures, seen.median, seen.p99, seen.memory, seen.note
        );
        quiet.push(before.median);
        let usual = median(&mut quiet.clone());
        if seen.failures > 0 || before.failures > 0 {
            failed.push(format!("{name}: {} calls failed", seen.failures));
        }
        if seen.median > 2.0 * usual {
            failed.push(format!(
                "{name}: {:.2} ms, quiet {usual:.2} ms",
                seen.median
            ));
        }
        if seen.memory > bound {
            failed.push(format!("{name}: {} MiB, more than {bound}", seen.memory));
        }
    };
    judge("quiet", &mut || {
        thread::sleep(phase);
        String::new()
    });
    for (name, options) in SLOW {
        judge(name, &mut || slowhttptest(options, address, phase));
    }
    for kind in ATTACKS {
        judge(&format!("HTTP/2 {kind:?}"), &mut || {
            abuse(kind, address, phase)
        });
    }
    judge("quiet again", &mut || {
        thread::sleep(phase);
        String::new()
    });
    honest.over.store(true, Ordering::Relaxed);
    calling.join().unwrap();
    println!("\nquiet median over all: {:.2} ms", median(&mut quiet));
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    println!("the honest tenant noticed nothing");
}

const SLOW: [(&str, &[&str]); 4] = [
    ("slow heads", &["-H", "-i", "5", "-x", "24"]),
    (
        "slow bodies",
        &["-B", "-i", "5", "-s", "8192", "-x", "10", "-t", "POST"],
    ),
    ("range", &["-R", "-t", "HEAD", "-a", "10", "-b", "3000"]),
    (
        "slow readers",
        &[
            "-X", "-w", "10", "-y", "20", "-n", "5", "-z", "5", "-k", "3",
        ],
    ),
];

fn slowhttptest(options: &[&str], address: SocketAddr, phase: Duration) -> String {
    let output = Command::new("slowhttptest")
        .args(options)
        .args(["-c", &CONNECTIONS.to_string(), "-r", "500", "-p", "3"])
        .args(["-l", &phase.as_secs().to_string()])
        .args(["-u", &format!("http://{address}{QUERY}")])
        .output()
        .expect("slowhttptest is installed (Debian: apt install slowhttptest)");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = |what: &str| {
        let line = text.lines().rev().find(|line| line.contains(what));
        let line = line.unwrap_or("-").rsplit(':').next().unwrap_or("-");
        let plain = line.replace("\u{1b}[0m", "");
        plain
            .split("\u{1b}[")
            .last()
            .unwrap_or("-")
            .rsplit('m')
            .next()
            .unwrap_or("-")
            .trim()
            .to_owned()
    };
    format!(
        "connected {}, closed {}, service available {}",
        last("connected"),
        last("closed"),
        last("service available")
    )
}

/// The attack from many connections, each opened again once it is closed.
fn abuse(kind: Attack, address: SocketAddr, phase: Duration) -> String {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (frames, closed, opened) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new((frames, closed, opened));
    let deadline = Instant::now() + phase;
    // Floods are closed at once: a few that come back at once are as many as a machine can make.
    // A siege has a hundred streams on each.
    let connections = if kind.is_flood() { 20 } else { CONNECTIONS / 5 };
    runtime.block_on(async {
        let mut attackers = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let counts = Arc::clone(&counts);
            attackers.spawn(async move {
                while Instant::now() < deadline {
                    counts.2.fetch_add(1, Ordering::Relaxed);
                    let fields = fields();
                    let left = deadline.saturating_duration_since(Instant::now());
                    if let Ok(report) = abuse::attack(kind, ABUSER, address, &fields, left).await {
                        counts.0.fetch_add(report.frames, Ordering::Relaxed);
                        counts.1.fetch_add(report.closed.into(), Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        attackers.join_all().await;
    });
    let [frames, closed, opened] =
        [&counts.0, &counts.1, &counts.2].map(|count| count.load(Ordering::Relaxed));
    format!("{opened} connections, {closed} of them closed, {frames} frames")
}

/// What gets furthest without a secret: a known client's id, and a fresh stamp.
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

/// The tenant that only wants to be served.
#[derive(Default)]
struct Honest {
    over: AtomicBool,
    failures: AtomicU64,
    latencies: Mutex<Vec<f64>>,
}

struct Seen {
    calls: usize,
    failures: u64,
    median: f64,
    p99: f64,
    memory: u64,
    note: String,
}

impl Honest {
    /// Calls on and on; every tenth call on a new connection.
    fn call(&self, address: SocketAddr) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (clock, credential) = (Clock::system(), credential());
            let mut connection = None;
            let mut calls = 0_u64;
            while !self.over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                if calls.is_multiple_of(10) {
                    connection = None;
                }
                calls += 1;
                let call = call(&mut connection, address, &clock, &credential);
                let answered = tokio::time::timeout(Duration::from_secs(5), call).await;
                if answered.is_ok_and(|answer| answer.is_some()) {
                    let took = begun.elapsed().as_secs_f64() * 1e3;
                    self.latencies.lock().unwrap().push(took);
                } else {
                    connection = None;
                    self.failures.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(EVERY.saturating_sub(begun.elapsed())).await;
            }
        });
    }

    fn quiet(&self, id: u32, time: Duration) -> Seen {
        self.during(id, &mut || {
            thread::sleep(time);
            String::new()
        })
    }

    fn during(&self, id: u32, attack: &mut dyn FnMut() -> String) -> Seen {
        self.latencies.lock().unwrap().clear();
        self.failures.store(0, Ordering::Relaxed);
        let over = AtomicBool::new(false);
        let (note, memory) = thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = 0;
                while !over.load(Ordering::Relaxed) {
                    most = most.max(resident(id));
                    thread::sleep(Duration::from_millis(50));
                }
                most
            });
            let note = attack();
            over.store(true, Ordering::Relaxed);
            (note, watching.join().unwrap())
        });
        let mut latencies = std::mem::take(&mut *self.latencies.lock().unwrap());
        let middle = median(&mut latencies);
        Seen {
            calls: latencies.len(),
            failures: self.failures.load(Ordering::Relaxed),
            median: middle,
            p99: latencies
                .get(latencies.len() * 99 / 100)
                .copied()
                .unwrap_or_default(),
            memory,
            note,
        }
    }
}

async fn call(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    address: SocketAddr,
    clock: &Clock,
    credential: &Credential,
) -> Option<()> {
    if connection.is_none() {
        let socket = TcpSocket::new_v4().ok()?;
        socket.bind(SocketAddr::new(HONEST.parse().ok()?, 0)).ok()?;
        let tcp = socket.connect(address).await.ok()?;
        tcp.set_nodelay(true).ok()?;
        let (sender, driver) = handshake(TokioIo::new(tcp)).await.ok()?;
        tokio::spawn(driver);
        *connection = Some(sender);
    }
    let stamp = clock.stamp();
    let mut request = Request::post(QUERY)
        .header("host", "pay.example")
        .header("content-type", "application/json");
    for (name, value) in sign::headers(credential, &stamp.as_stamp(), BODY.as_bytes()) {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(Bytes::from_static(BODY.as_bytes())))
        .ok()?;
    let sender = connection.as_mut()?;
    sender.ready().await.ok()?;
    let response = sender.send_request(request).await.ok()?;
    let ours = response.headers().contains_key("x-gatepay-proxy-refusal");
    response.into_body().collect().await.ok()?;
    (!ours).then_some(())
}

fn credential() -> Credential {
    let secret = SecretKey::new(Zeroizing::new("fake-acme-secret".to_owned())).unwrap();
    Credential::new(ClientId::parse("client-acme").unwrap(), &secret)
}

/// Sorts, and says what stands in the middle.
fn median(latencies: &mut [f64]) -> f64 {
    latencies.sort_by(f64::total_cmp);
    latencies
        .get(latencies.len() / 2)
        .copied()
        .unwrap_or_default()
}

fn configure(folder: &Path, gatepay: SocketAddr) {
    use std::os::unix::fs::PermissionsExt as _;
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    file(
        "proxy.toml",
        &format!(
            "state_dir = 'state'
[listen]
address = '127.0.0.1:0'
# The attack is to get in, not to be turned away for its number.
max_connections_per_address = 2_000
[admin]
address = '127.0.0.2:0'
[upstream]
url = 'http://{gatepay}'
[[institution.credential]]
client_id = 'fake-institution'
secret = {{ file = 'secrets/institution.key' }}
"
        ),
    );
    file("secrets/institution.key", "fake-institution-secret");
    file("secrets/acme.key", "fake-acme-secret");
    file(
        "tenants.d/acme.toml",
        "id = 'acme'
sub_account = '2124538349'
credential = [{ client_id = 'client-acme', secret = { file = '../secrets/acme.key' } }]
limits = { requests_per_second = 1000, in_flight = 100 }
",
    );
}

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let named = std::env::var_os("GATEPAY_PROXY");
    let mut command = Command::new(named.unwrap_or(env!("CARGO_BIN_EXE_gatepay-proxy").into()));
    command
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

/// What `check` says that the process holds at most, in MiB.
fn bound(folder: &Path) -> u64 {
    let output = program(folder, &["check"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    print!("{text}");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("memory: at most "));
    line.unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// A process, killed when it is no longer needed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where nothing listens yet.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.3:0").unwrap();
    listener.local_addr().unwrap()
}

fn sandbox(folder: &Path, address: SocketAddr) -> Running {
    let listen = address.to_string();
    let arguments = [
        "sandbox",
        "--listen",
        &listen,
        "--client-id",
        "fake-institution",
        "--secret-file",
        "secrets/institution.key",
        "--sub-account",
        "2124538349",
    ];
    let mut command = program(folder, &arguments);
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(quiet.spawn().unwrap());
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "no emulator");
        thread::sleep(Duration::from_millis(20));
    }
    running
}

fn serve(folder: &Path) -> (Running, u32, SocketAddr) {
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = program(folder, &["serve"]);
    let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let (id, running) = (child.id(), Running(child));
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(folder.join("log")).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let serving = |line: &serde_json::Value| line["message"] == "serving";
        if let Some(line) = lines.into_iter().find(serving) {
            return (
                running,
                id,
                line["address"].as_str().unwrap().parse().unwrap(),
            );
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "it does not serve: {text}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a process holds in memory, in MiB.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() / 1024
}
