//! The tenant that only wants to be served: it calls on a fixed schedule, whatever becomes of its calls.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gatepay_core::{ClientId, Credential, SecretKey, sign};
use gatepay_proxy::clock::Clock;
use socket2::{Domain, Socket, Type};
use zeroize::Zeroizing;

use crate::{HONEST, QUERY};

const BODY: &str = r#"{"merchantTradeNo":"tea-0001"}"#;
/// How often a call is due.
const EVERY: Duration = Duration::from_millis(5);
/// How many callers take turns, so that a call is made in time while others are still under way.
const CALLERS: u32 = 8;
/// A caller makes a new connection for every so many calls.
const CALLS_ON_A_CONNECTION: u32 = 10;
/// When a call has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The callers; they end when this is dropped.
pub(crate) struct Honest {
    begun: Instant,
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    calls: Mutex<Vec<Call>>,
}

/// A call that is over.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    /// From when it was due, not from when it was made: a stall counts for every call that was due meanwhile.
    took: Option<Duration>,
}

/// What became of the calls that were due within a time.
pub(crate) struct Calls {
    pub(crate) failures: usize,
    /// Of the others, sorted, in milliseconds.
    latencies: Vec<f64>,
}

impl Honest {
    /// Begins to call.
    pub(crate) fn calling(address: SocketAddr) -> Self {
        let (begun, shared) = (Instant::now(), Arc::new(Shared::default()));
        let callers = (0..CALLERS).map(|first| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.call(first, begun, address))
        });
        Self {
            begun,
            callers: callers.collect(),
            shared,
        }
    }

    /// What became of all calls that were due in this time, once they are over.
    pub(crate) fn due(&self, time: Range<Instant>) -> Calls {
        let number = |at: Instant| {
            let calls = (at - self.begun).as_micros() / EVERY.as_micros();
            u32::try_from(calls).unwrap() + 1
        };
        let numbers = number(time.start)..number(time.end);
        loop {
            let mut calls = self.shared.calls.lock().unwrap();
            // Nobody asks for what was before.
            calls.retain(|call| call.number >= numbers.start);
            let due = calls.iter().filter(|call| numbers.contains(&call.number));
            let due: Vec<Call> = due.copied().collect();
            drop(calls);
            if due.len() == numbers.len() {
                return Calls::of(&due);
            }
            thread::sleep(EVERY);
        }
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for caller in self.callers.drain(..) {
            caller.join().unwrap();
        }
    }
}

impl Shared {
    /// Makes every so many-th call, each when it is due or, if the one before takes longer, right after it.
    fn call(&self, first: u32, begun: Instant, address: SocketAddr) {
        let (clock, credential) = (Clock::system(), credential());
        let mut connection = None;
        let mut number = first;
        while !self.over.load(Ordering::Relaxed) {
            let due = begun + EVERY * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if (number / CALLERS).is_multiple_of(CALLS_ON_A_CONNECTION) {
                connection = None;
            }
            let answered = call(&mut connection, address, &clock, &credential);
            let took = matches!(answered, Ok(200)).then(|| due.elapsed());
            if took.is_none() {
                connection = None;
            }
            self.calls.lock().unwrap().push(Call { number, took });
            number += CALLERS;
        }
    }
}

impl Calls {
    fn of(calls: &[Call]) -> Self {
        let answered = calls.iter().filter_map(|call| call.took);
        let mut latencies: Vec<f64> = answered.map(|took| took.as_secs_f64() * 1e3).collect();
        latencies.sort_by(f64::total_cmp);
        Self {
            failures: calls.len() - latencies.len(),
            latencies,
        }
    }

    /// Both, as one.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let mut latencies = [self.latencies.as_slice(), &other.latencies].concat();
        latencies.sort_by(f64::total_cmp);
        Self {
            failures: self.failures + other.failures,
            latencies,
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.failures + self.latencies.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// Below which so many of a hundred calls were; endless if none was answered.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let place = self.latencies.len() * percent / 100;
        let latency = self.latencies.get(place).copied();
        latency.unwrap_or(f64::INFINITY)
    }
}

/// The status of the answer, if it is GatePay's.
fn call(
    connection: &mut Option<TcpStream>,
    address: SocketAddr,
    clock: &Clock,
    credential: &Credential,
) -> io::Result<u16> {
    let mut tcp = match connection.take() {
        Some(tcp) => tcp,
        None => connect(address)?,
    };
    let mut request = format!(
        "POST {QUERY} HTTP/1.1\r\nhost: pay.example\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        BODY.len()
    );
    let stamp = clock.stamp();
    for (name, value) in sign::headers(credential, &stamp.as_stamp(), BODY.as_bytes()) {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request += "\r\n";
    request += BODY;
    tcp.write_all(request.as_bytes())?;
    let status = answer(&mut tcp)?;
    *connection = Some(tcp);
    Ok(status)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(HONEST.parse().unwrap(), 0).into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let tcp = TcpStream::from(socket);
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

/// Reads a whole answer, which is short and says how long it is.
fn answer(tcp: &mut TcpStream) -> io::Result<u16> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let mut bytes = Vec::new();
    let mut piece = [0; 8 * 1024];
    loop {
        let read = tcp.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let line = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let length: usize = line("content-length:")
            .and_then(|length| length.trim().parse().ok())
            .ok_or_else(broken)?;
        if body.len() >= length {
            if line("x-gatepay-proxy-refusal:").is_some() {
                return Err(broken());
            }
            let status = line("http/1.1 ").and_then(|status| status.get(..3)?.parse().ok());
            return status.ok_or_else(broken);
        }
    }
}

fn credential() -> Credential {
    let secret = SecretKey::new(Zeroizing::new("fake-acme-secret".to_owned())).unwrap();
    Credential::new(ClientId::parse("client-acme").unwrap(), &secret)
}
