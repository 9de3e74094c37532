//! The honest tenant: it calls on a fixed schedule, whatever happens to its calls.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// The number of callers that take turns, so that a call is sent on time while others are in flight.
const CALLERS: u32 = 8;
/// The number of calls that a caller sends on one connection.
const CALLS_ON_A_CONNECTION: u32 = 10;
/// The timeout of a call.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tenant's calls, their source address and their interval.
pub(crate) struct Plan {
    /// The proxy's address.
    pub(crate) address: SocketAddr,
    /// The tenant's source address, one of this machine's loopback addresses.
    pub(crate) from: &'static str,
    /// The interval between calls.
    pub(crate) every: Duration,
    /// A text in the body of every good answer, in lower case.
    pub(crate) expects: &'static str,
    /// The bytes of a call, by its number.
    pub(crate) request: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
}

/// The callers; they end when this value is dropped.
pub(crate) struct Honest {
    begun: Instant,
    every: Duration,
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

struct Shared {
    plan: Plan,
    over: AtomicBool,
    calls: Mutex<Vec<Call>>,
}

/// A finished call.
#[derive(Clone, Copy)]
struct Call {
    number: u32,
    /// The latency from when the call was due, not from when it was sent: a stall counts for every call due meanwhile.
    took: Option<Duration>,
}

/// The results of the calls that were due within a time.
pub(crate) struct Calls {
    pub(crate) failures: usize,
    /// The latencies of the answered calls, sorted, in milliseconds.
    latencies: Vec<f64>,
}

impl Honest {
    /// Starts the callers.
    pub(crate) fn calling(plan: Plan) -> Self {
        let (begun, every) = (Instant::now(), plan.every);
        let shared = Arc::new(Shared {
            plan,
            over: AtomicBool::new(false),
            calls: Mutex::default(),
        });
        let callers = (0..CALLERS).map(|first| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.call(first, begun))
        });
        Self {
            begun,
            every,
            callers: callers.collect(),
            shared,
        }
    }

    /// The results of all calls due in this time, once they have finished.
    pub(crate) fn due(&self, time: Range<Instant>) -> Calls {
        let number = |at: Instant| {
            let calls = (at - self.begun).as_micros() / self.every.as_micros();
            u32::try_from(calls).unwrap() + 1
        };
        let numbers = number(time.start)..number(time.end);
        loop {
            let mut calls = self.shared.calls.lock().unwrap();
            // No caller of this function asks for earlier calls.
            calls.retain(|call| call.number >= numbers.start);
            let due = calls.iter().filter(|call| numbers.contains(&call.number));
            let due: Vec<Call> = due.copied().collect();
            drop(calls);
            if due.len() == numbers.len() {
                return Calls::of(&due);
            }
            thread::sleep(self.every);
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
    /// Sends every `CALLERS`-th call, when it is due or, if the call before takes longer, right after that call.
    fn call(&self, first: u32, begun: Instant) {
        let mut connection = None;
        let mut number = first;
        while !self.over.load(Ordering::Relaxed) {
            let due = begun + self.plan.every * number;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if (number / CALLERS).is_multiple_of(CALLS_ON_A_CONNECTION) {
                connection = None;
            }
            let answered = call(&mut connection, &self.plan, number);
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

    /// Both results merged.
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

    /// The latency at this percentile, in milliseconds; infinite if no call was answered.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let place = self.latencies.len() * percent / 100;
        let latency = self.latencies.get(place).copied();
        latency.unwrap_or(f64::INFINITY)
    }
}

/// The status of the answer, if GatePay sent it.
fn call(connection: &mut Option<TcpStream>, plan: &Plan, number: u32) -> io::Result<u16> {
    let mut tcp = match connection.take() {
        Some(tcp) => tcp,
        None => connect(plan.from, plan.address)?,
    };
    tcp.write_all(&(plan.request)(number))?;
    let (status, body) = answer(&mut tcp)?;
    if !body.contains(plan.expects) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    *connection = Some(tcp);
    Ok(status)
}

/// A connection from this address, with the call's timeout on every operation.
pub(crate) fn connect(from: &str, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let tcp = TcpStream::from(socket);
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

/// Reads a whole short answer with a `Content-Length`: its status, and its body in lower case.
pub(crate) fn answer(tcp: &mut TcpStream) -> io::Result<(u16, String)> {
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
            return Ok((status.ok_or_else(broken)?, body.to_owned()));
        }
    }
}
