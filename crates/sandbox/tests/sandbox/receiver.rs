//! A receiver of notifications that keeps every byte.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A received notification.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedCallback {
    pub(crate) request_line: String,
    /// By name in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// A server for one callback URL, which ends with the test's process.
pub(crate) struct CallbackReceiver {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<Mutex<ReceiverState>>,
}

struct ReceiverState {
    received: Vec<ReceivedCallback>,
    status: u16,
    answer: &'static str,
}

impl CallbackReceiver {
    /// Starts over plain HTTP with this answer to every notification.
    pub(crate) fn start(status: u16, answer: &'static str) -> Self {
        Self::serve(status, answer, None)
    }

    pub(crate) fn start_tls(status: u16, answer: &'static str, tls: Arc<ServerConfig>) -> Self {
        Self::serve(status, answer, Some(tls))
    }

    fn serve(status: u16, answer: &'static str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Vec::new();
        let state = Arc::new(Mutex::new(ReceiverState {
            received,
            status,
            answer,
        }));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The error is ignored: the sandbox's log has it.
                let _: Option<()> = match &tls {
                    None => receive(stream, &shared),
                    Some(tls) => {
                        let connection = ServerConnection::new(Arc::clone(tls)).unwrap();
                        receive(StreamOwned::new(connection, stream), &shared)
                    }
                };
            }
        });
        Self {
            address,
            scheme,
            state,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Changes the answer.
    pub(crate) fn answer(&self, status: u16, answer: &'static str) {
        let mut state = self.state.lock();
        state.status = status;
        state.answer = answer;
    }

    pub(crate) fn received(&self) -> Vec<ReceivedCallback> {
        self.state.lock().received.clone()
    }
}

/// Reads one request and answers it. A connection that ends before is none.
fn receive(stream: impl Read + Write, state: &Mutex<ReceiverState>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        let read = stream.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    };
    let request_line = line()?;
    let mut headers = BTreeMap::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let (status, answer) = {
        let mut state = state.lock();
        state.received.push(ReceivedCallback {
            request_line,
            headers,
            body,
        });
        (state.status, state.answer)
    };
    let length = answer.len();
    let answer = format!("HTTP/1.1 {status} \r\nContent-Length: {length}\r\n\r\n{answer}");
    stream.get_mut().write_all(answer.as_bytes()).ok()?;
    stream.get_mut().flush().ok()
}

/// Waits for a condition that the sandbox's own thread brings about.
pub(crate) fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < end, "it does not come about");
        thread::sleep(Duration::from_millis(2));
    }
}
