//! Load: the callers, and the GatePay that they reach through a target, on one thread around one epoll. So the load
//! uses little of the machine, and waiting until a request is due delays no GatePay answer.

use std::collections::VecDeque;
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_proxy::tls::config;
use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ClientConnection, Connection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::http2::Http2;
use crate::requests::{DIGITS, Requests, answer};
use crate::target::Certificate;
use crate::wire::Wire;

/// How long the load waits for the last answers.
const LAST: Duration = Duration::from_secs(30);
const LISTENER: Token = Token(usize::MAX);
const ORDER: &[u8] = b"\"merchantTradeNo\":\"";

/// Both ends of a target.
pub(crate) struct Load {
    poll: Poll,
    gatepay: TcpListener,
    server: Option<Arc<ServerConfig>>,
    /// Connections accepted by GatePay.
    served: Vec<Option<Wire>>,
    callers: Vec<Caller>,
    /// The idle callers, in the order of their turn.
    free: VecDeque<usize>,
}

/// How callers connect to a target.
#[derive(Clone, Copy)]
pub(crate) enum Callers<'a> {
    Plain,
    /// HTTP/1.1 over TLS, with the authority that they trust.
    Tls(&'a Path),
    /// HTTP/2 over TLS, with this number of requests in flight on a connection at most.
    Http2(&'a Path, usize),
}

struct Caller {
    wire: Wire,
    http2: Option<Http2>,
    /// The requests in flight. With HTTP/1.1 there is one at most.
    waits: Vec<Waiting>,
}

struct Waiting {
    /// The request's stream on an HTTP/2 connection.
    stream: u32,
    number: usize,
    due: Duration,
}

/// How many requests are sent, and when.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// The most requests in flight.
    pub(crate) in_flight: usize,
    /// Requests per second, due at fixed moments whatever happened to earlier requests. `None` sends as fast as answers
    /// come.
    pub(crate) rate: Option<u32>,
    /// The longest time of the run.
    pub(crate) time: Duration,
}

/// The results of a run.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) good: usize,
    /// Answers that do not match their request, and requests without an answer.
    pub(crate) wrong: usize,
    pub(crate) elapsed: Duration,
    /// In nanoseconds, from the moment each request was due.
    pub(crate) latencies: Vec<u64>,
}

impl Load {
    pub(crate) fn new(certificate: Option<&Certificate>) -> Self {
        let poll = Poll::new().unwrap();
        let mut gatepay = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let register = |listener| {
            poll.registry()
                .register(listener, LISTENER, Interest::READABLE)
        };
        register(&mut gatepay).unwrap();
        let server = certificate.map(|of| config::server(&of.chain, &of.key, None).unwrap());
        Self {
            poll,
            gatepay,
            server: server.map(Arc::new),
            served: Vec::new(),
            callers: Vec::new(),
            free: VecDeque::new(),
        }
    }

    /// GatePay's address.
    pub(crate) fn gatepay(&self) -> SocketAddr {
        self.gatepay.local_addr().unwrap()
    }

    /// Opens connections to a target.
    pub(crate) fn connect(&mut self, address: SocketAddr, count: usize, callers: Callers<'_>) {
        let (ca, streams) = match callers {
            Callers::Plain => (None, None),
            Callers::Tls(ca) => (Some(ca), None),
            Callers::Http2(ca, streams) => (Some(ca), Some(streams)),
        };
        let client = ca.map(|ca| {
            let mut client = (*config::client(Some(ca)).unwrap()).clone();
            if streams.is_some() {
                client.alpn_protocols = vec![b"h2".to_vec()];
            }
            Arc::new(client)
        });
        for _ in 0..count {
            let mut tcp = std::net::TcpStream::connect(address).unwrap();
            tcp.set_nodelay(true).unwrap();
            let tls = client.as_ref().map(|config| {
                let name = ServerName::try_from("localhost").unwrap();
                let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
                let mut tls = Connection::from(tls);
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp).unwrap();
                }
                tls
            });
            tcp.set_nonblocking(true).unwrap();
            let mut wire = Wire::new(TcpStream::from_std(tcp), tls);
            let token = Token(2 * self.callers.len());
            let registry = self.poll.registry();
            registry
                .register(&mut wire.tcp, token, Interest::READABLE)
                .unwrap();
            let http2 = streams.map(|_| Http2::begin(&mut wire));
            // The new connection's turn is next.
            for _ in 0..streams.unwrap_or(1) {
                self.free.push_front(self.callers.len());
            }
            self.callers.push(Caller {
                wire,
                http2,
                waits: Vec::new(),
            });
            // Without a target this connection leads to GatePay itself, whose accept backlog is limited.
            self.accept();
        }
    }

    /// Keeps this number of connections in use, and leaves all others idle.
    pub(crate) fn rest(&mut self, busy: usize) {
        self.free.retain(|at| *at < busy);
    }

    /// Sends each request once, until all are answered or the time is over.
    pub(crate) fn run(&mut self, requests: &Requests, plan: Plan) -> Seen {
        let mut seen = Seen::default();
        let mut events = Events::with_capacity(1_024);
        let (mut next, mut flying) = (0, 0);
        let begun = Instant::now();
        let due = |next: usize| {
            let nanos = plan
                .rate
                .map_or(0, |rate| next as u64 * 1_000_000_000 / u64::from(rate));
            Duration::from_nanos(nanos)
        };
        loop {
            let now = begun.elapsed();
            let more = next < requests.len() && now < plan.time;
            while more && next < requests.len() && flying < plan.in_flight && due(next) <= now {
                let Some(at) = self.free.pop_front() else {
                    break;
                };
                let due = plan.rate.map_or(now, |_| due(next));
                if self.callers[at].ask(requests, next, due).is_ok() {
                    flying += 1;
                } else {
                    seen.wrong += 1;
                }
                next += 1;
            }
            if flying == 0 && (!more || self.free.is_empty()) || now > plan.time + LAST {
                break;
            }
            // The last 2 ms before a due request are spent polling: epoll's timeout counts milliseconds.
            let soon = plan
                .rate
                .filter(|_| more)
                .map_or(Duration::from_millis(100), |_| {
                    let left = due(next).saturating_sub(now);
                    left.saturating_sub(Duration::from_millis(2))
                });
            self.poll.poll(&mut events, Some(soon)).unwrap();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(at) if at % 2 == 1 => self.serve(at / 2),
                    Token(at) => {
                        let mut freed = 0;
                        let caller = &mut self.callers[at / 2];
                        let open = caller.hear(|waiting, body| {
                            flying -= 1;
                            freed += 1;
                            if body.is_some_and(|body| body == requests.answer(waiting.number)) {
                                seen.good += 1;
                                let took = begun.elapsed().saturating_sub(waiting.due);
                                seen.latencies.push(u64::try_from(took.as_nanos()).unwrap());
                            } else {
                                if seen.wrong == 0 {
                                    // The first wrong answer is enough.
                                    let text = body.map(String::from_utf8_lossy);
                                    println!("wrong, of request {}: {text:?}", waiting.number);
                                }
                                seen.wrong += 1;
                            }
                        });
                        if open {
                            self.free.extend(iter::repeat_n(at / 2, freed));
                        }
                    }
                }
            }
        }
        seen.wrong += flying;
        seen.elapsed = begun.elapsed().min(plan.time);
        seen.latencies.sort_unstable();
        seen
    }

    fn accept(&mut self) {
        while let Ok((tcp, _)) = self.gatepay.accept() {
            tcp.set_nodelay(true).unwrap();
            let tls = self.server.as_ref().map(|config| {
                let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                Connection::from(tls)
            });
            let mut wire = Wire::new(tcp, tls);
            let free = self.served.iter().position(Option::is_none);
            let place = free.unwrap_or(self.served.len());
            let token = Token(2 * place + 1);
            let registry = self.poll.registry();
            registry
                .register(&mut wire.tcp, token, Interest::READABLE)
                .unwrap();
            if place == self.served.len() {
                self.served.push(None);
            }
            self.served[place] = Some(wire);
        }
    }

    /// GatePay's side: answers with the account and the order of the request.
    fn serve(&mut self, at: usize) {
        let Some(wire) = &mut self.served[at] else {
            return;
        };
        let mut open = wire.fill().unwrap_or(false);
        while let Some((head, all)) = whole(&wire.inbox) {
            let (head, body) = wire.inbox[..all].split_at(head);
            let account = field(head, b"x-gatepay-on-behalf-of").unwrap_or(b"nobody");
            let order = memmem::find(body, ORDER).map(|at| &body[at + ORDER.len()..]);
            let order = order.and_then(|rest| rest.get(..DIGITS));
            let answer = answer(account, order.unwrap_or(b"none"));
            let mut text = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nServer: gatepay\r\n\r\n",
                answer.len()
            )
            .into_bytes();
            text.extend_from_slice(&answer);
            wire.inbox.drain(..all);
            open &= wire.send(&text).is_ok();
        }
        if !open {
            self.served[at] = None;
        }
    }
}

impl Caller {
    fn ask(&mut self, requests: &Requests, number: usize, due: Duration) -> io::Result<()> {
        let text = requests.text(number);
        let stream = match &mut self.http2 {
            None => self.wire.send(text).map(|()| 0)?,
            Some(http2) => http2.send(text, &mut self.wire)?,
        };
        self.waits.push(Waiting {
            stream,
            number,
            due,
        });
        Ok(())
    }

    /// Reads the bytes that have arrived. `over` is told of each request that is over, and of the body of its answer if that is
    /// well-formed and its status 200. Returns whether more can arrive.
    fn hear(&mut self, mut over: impl FnMut(Waiting, Option<&[u8]>)) -> bool {
        let mut open = self.wire.fill().unwrap_or(false);
        if let Some(http2) = &mut self.http2 {
            let read = http2.read(&mut self.wire, |stream, body| {
                let waits = |waiting: &Waiting| waiting.stream == stream;
                if let Some(at) = self.waits.iter().position(waits) {
                    over(self.waits.swap_remove(at), body);
                }
            });
            open &= read.is_ok();
        } else if let Some(end) = whole(&self.wire.inbox)
            && let Some(waiting) = self.waits.pop()
        {
            over(waiting, body(&self.wire.inbox, end));
            self.wire.inbox.clear();
        }
        if !open {
            for waiting in self.waits.drain(..) {
                over(waiting, None);
            }
        }
        open
    }
}

/// The body of a good answer whose head and whole end there.
fn body(text: &[u8], (head, all): (usize, usize)) -> Option<&[u8]> {
    let good = text.starts_with(b"HTTP/1.1 200 ") && all == text.len();
    good.then(|| &text[head..])
}

/// The length of a message's head, and of the whole message, once all of it has arrived.
fn whole(text: &[u8]) -> Option<(usize, usize)> {
    let head = memmem::find(text, b"\r\n\r\n")? + 4;
    let length = field(&text[..head], b"content-length");
    let length = length.map_or(0, |digits| str::from_utf8(digits).unwrap().parse().unwrap());
    (text.len() >= head + length).then_some((head, head + length))
}

fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let (line, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        line.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}
