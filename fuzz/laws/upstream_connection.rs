//! The law of sending: a call that is reported as not sent reached no peer, and a money call reaches one once at most.

use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use gatepay_admission::breaker::BreakerEra;
use gatepay_core::Kind;
use gatepay_core::stamp::StampWindow;
use gatepay_proxy::generation::institution_quota::InstitutionQuota;
use gatepay_proxy::generation::limit_meters::QuotaMeters;
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::process::yielding::OffloadThreads;
use gatepay_proxy::prom::registrar::Registrar;
use gatepay_proxy::upstream::breaker::UpstreamBreaker;
use gatepay_proxy::upstream::clock_offset::UpstreamClock;
use gatepay_proxy::upstream::connect::UpstreamConnector;
use gatepay_proxy::upstream::exchange::CallFailure;
use gatepay_proxy::upstream::forward::{self, CallOwner, UpstreamCall};
use gatepay_proxy::upstream::meters::{BreakerMeters, ClockMeters, UpstreamMeters};
use gatepay_proxy::upstream::pool::{Pool, PoolLimits};
use gatepay_proxy::upstream::retry::RetryBudget;
use gatepay_tenancy::settings::{BreakerSettings, QuotaSettings, UpstreamUrl};
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

/// How many calls a script is tried with: the later ones find kept connections.
const CALLS: u8 = 3;
/// The deadline of a call whose peer does nothing more.
const DEADLINE: Duration = Duration::from_millis(40);

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
const UNTIL_CLOSED: &[u8] = b"HTTP/1.0 200 OK\r\n\r\n{}";

/// The first byte is the length of a call's body in KiB, the second which calls are reads, the others the script of a
/// peer: what it reads, writes and closes, over as many connections as it is asked for.
pub(crate) fn upstream_connection(bytes: &[u8]) {
    let [kib, reads, script @ ..] = bytes else {
        return;
    };
    let body = usize::from(*kib) * 1024;
    // On a thread of its own, since a test may call this from a runtime.
    let played = thread::scope(|threads| {
        let play = || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(play(body, *reads, script));
        };
        threads.spawn(play).join()
    });
    played.unwrap_or_else(|panicked| resume_unwind(panicked));
}

async fn play(body: usize, reads: u8, script: &[u8]) {
    // Another address for each script, since a closed port is not free at once.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let listener = TcpListener::bind(SocketAddr::from(([127, 77, high, low], 0)));
    let listener = listener.await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let peer = Peer {
        listener,
        script,
        received: [0; 256],
        request: body + HEAD,
    };
    let (over, are_over) = watch::channel(false);
    let calls = async {
        let ended = calls(address, body, reads).await;
        let _ = over.send(true);
        ended
    };
    let (counts, ended) = tokio::join!(peer.run(are_over), calls);
    for (number, (kind, ended)) in ended.into_iter().enumerate() {
        let name = call_name(number);
        let got = counts[usize::from(name)];
        let text = format!("{kind:?} {ended}, {got} bytes: {body} {script:?}");
        assert!(got == 0 || ended != Ended::NotSent, "it was sent: {text}");
        assert!(
            got <= (body + HEAD) as u64 || kind == Kind::Read,
            "it was sent twice: {text}"
        );
    }
}

/// How a call ended, as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Answered,
    NotSent,
    Lost,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The length of a call's head.
const HEAD: usize = 64;

/// A call consists of this byte alone, so that its bytes are known from other calls' bytes.
fn call_name(number: usize) -> u8 {
    b'a' + u8::try_from(number).expect("there are few calls")
}

/// What a worker calls with.
struct Sender {
    pool: Arc<Pool>,
    budget: RetryBudget,
    quota: InstitutionQuota,
    breaker: UpstreamBreaker,
    clock: UpstreamClock,
    offload: OffloadThreads,
}

impl Sender {
    fn new(address: SocketAddr) -> Self {
        let registry = Registry::new();
        let make = Registrar::new(&registry);
        let counter = || IntCounter::new("x", "x").expect("a good name");
        let url = UpstreamUrl::parse(&format!("http://{address}")).expect("a good URL");
        let upstream = UpstreamConnector::new(url, None, DEADLINE).expect("an address");
        let limits = PoolLimits {
            connections: 2,
            idle: 2,
            idle_timeout: Duration::from_secs(20),
        };
        let clock = Clock::system();
        let quota_meters = QuotaMeters {
            pushbacks: counter(),
            own_calls: std::array::from_fn(|_| counter()),
        };
        let never_opens = BreakerSettings {
            failures: 0,
            ratio: 0.0,
        };
        let breaker_meters = BreakerMeters {
            is_open: IntGauge::new("x", "x").expect("a good name"),
            opened: counter(),
            party_opened: counter(),
        };
        let window = StampWindow {
            past_ms: 1_000,
            future_ms: 1_000,
        };
        let meters = Arc::new(UpstreamMeters::new(&make));
        Self {
            pool: Arc::new(Pool::new(Arc::new(upstream), meters, limits)),
            // Without pauses for retries.
            budget: RetryBudget::new(0.0),
            quota: InstitutionQuota::new(&QuotaSettings::default(), quota_meters, &clock),
            breaker: UpstreamBreaker::new(never_opens, BreakerEra::default(), breaker_meters),
            clock: UpstreamClock::new(clock, false, window, ClockMeters::new(&make)),
            offload: OffloadThreads::with(1),
        }
    }

    fn call(&self) -> UpstreamCall<'_> {
        UpstreamCall {
            pool: &self.pool,
            budget: &self.budget,
            quota: &self.quota,
            breaker: &self.breaker,
            clock: &self.clock,
            offload: &self.offload,
            owner: CallOwner::Proxy,
            gzip: false,
        }
    }
}

/// Makes the calls one after the other over one pool.
async fn calls(address: SocketAddr, body: usize, reads: u8) -> Vec<(Kind, Ended)> {
    let sender = Sender::new(address);
    let mut ended = Vec::new();
    for number in 0..usize::from(CALLS) {
        let is_read = reads >> number & 1 == 1;
        let kind = if is_read { Kind::Read } else { Kind::Money };
        let name = call_name(number);
        let attempt = |head: &mut Vec<u8>| {
            head.resize(HEAD, name);
            Bytes::from(vec![name; body])
        };
        let sent = forward::send(&sender.call(), kind, Instant::now(), DEADLINE, attempt).await;
        let sent = match sent {
            Ok(_) => Ended::Answered,
            Err(CallFailure::Lost { .. }) => Ended::Lost,
            Err(_) => Ended::NotSent,
        };
        ended.push((kind, sent));
    }
    ended
}

/// The other end, which counts each byte it is sent.
struct Peer<'a> {
    listener: TcpListener,
    script: &'a [u8],
    received: [u64; 256],
    /// The length of a request.
    request: usize,
}

impl Peer<'_> {
    /// Plays the script over one connection after the other until the calls are over, and counts how often each byte
    /// was received.
    async fn run(mut self, mut are_over: watch::Receiver<bool>) -> [u64; 256] {
        let mut script = self.script;
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.listener.accept() => accepted,
                _ = are_over.wait_for(|over| *over) => {
                    // A connection that was opened before may still wait.
                    let waiting = timeout(Duration::from_millis(1), self.listener.accept());
                    let Ok(accepted) = waiting.await else {
                        return self.received;
                    };
                    accepted
                }
            };
            let (stream, _) = accepted.expect("the listener lasts");
            self.serve(stream, &mut script).await;
        }
    }

    async fn serve(&mut self, mut stream: TcpStream, script: &mut &[u8]) {
        let _ = stream.set_nodelay(true);
        let (mut got, mut said) = (0, 0);
        while let [step, rest @ ..] = *script {
            *script = rest;
            // It waits for no byte of a request that may not come.
            let may_read = got < self.request * (1 + said);
            let written = match step {
                b'r' if may_read => {
                    got += self
                        .read(
                            &mut stream,
                            1 + usize::from(rest.first().copied().unwrap_or(0)),
                        )
                        .await;
                    continue;
                }
                b'R' => {
                    while got < self.request * (1 + said) {
                        match self.read(&mut stream, 64 * 1024).await {
                            0 => break,
                            read => got += read,
                        }
                    }
                    continue;
                }
                b'a' | b'A' => ANSWER,
                b'b' => CHUNKED,
                b'h' => &ANSWER[..20],
                b'i' => b"HTTP/1.1 100 Continue\r\n\r\n",
                b'p' => UNTIL_CLOSED,
                b'W' => {
                    let length = rest.first().map_or(0, |length| usize::from(*length));
                    let (literal, rest) = rest.split_at(rest.len().min(1 + length));
                    *script = rest;
                    &literal[literal.len().min(1)..]
                }
                b's' => {
                    let _ = stream.shutdown().await;
                    continue;
                }
                b'n' => {
                    yield_now().await;
                    continue;
                }
                b'c' => return,
                b'x' => return reset(&stream),
                _ => continue,
            };
            said += 1;
            if stream.write_all(written).await.is_err() {
                break;
            }
        }
        // It says nothing more, and what is under way counts too.
        let _ = stream.shutdown().await;
        let over = async { while self.read(&mut stream, 64 * 1024).await > 0 {} };
        let _ = timeout(DEADLINE * 4, over).await;
        reset(&stream);
    }

    async fn read(&mut self, stream: &mut TcpStream, most: usize) -> usize {
        let mut bytes = vec![0; most];
        let read = stream.read(&mut bytes).await.unwrap_or(0);
        for byte in &bytes[..read] {
            self.received[usize::from(*byte)] += 1;
        }
        read
    }
}

/// Closes with a reset, which leaves no port behind.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
