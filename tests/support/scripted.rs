//! An upstream that answers exactly the bytes a test gives it, and keeps exactly the bytes it was sent.

use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::gate::Gate;

/// A scripted upstream.
pub(crate) struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    then: Then,
    received: Mutex<Vec<Vec<u8>>>,
    connections: Mutex<usize>,
    closed: Mutex<usize>,
    answers: Gate,
}

/// Answers a request, given as head and body.
type Say = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// The reaction to a request.
pub(crate) enum Then {
    /// Sends these bytes; the connection stays open.
    Answer(Vec<u8>),
    /// Sends these bytes, then closes the connection.
    AnswerAndClose(Vec<u8>),
    /// Answers with a new code each time: the number of earlier requests.
    Codes,
    /// Answers with the result for this request. `None` closes the connection without an answer.
    Each(Say),
}

impl Scripted {
    /// Answers every request in the same way.
    pub(crate) fn always(then: Then) -> Self {
        Self::start(then, Gate::open())
    }

    /// Answers 200 with this body.
    pub(crate) fn body(body: &str) -> Self {
        Self::always(Then::Answer(answer("200 OK", "", body.as_bytes())))
    }

    /// Refuses every request, each with a code that has not occurred before.
    pub(crate) fn codes() -> Self {
        Self::always(Then::Codes)
    }

    /// Answers each request with the result of `say`. `None` closes the connection without an answer.
    pub(crate) fn each(say: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::always(Then::Each(Box::new(say)))
    }

    /// Holds every answer back until [`release`](Self::release).
    pub(crate) fn held() -> Self {
        let body = br#"{"status":"SUCCESS","code":"000000","data":{}}"#;
        Self::start(Then::Answer(answer("200 OK", "", body)), Gate::closed())
    }

    fn start(then: Then, answers: Gate) -> Self {
        let listener = TcpListener::bind(super::any_port()).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            then,
            received: Mutex::default(),
            connections: Mutex::new(0),
            closed: Mutex::new(0),
            answers,
        });
        let kept = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&kept);
                *shared.connections.lock().expect("nobody panicked") += 1;
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Sends the held answers.
    pub(crate) fn release(&self) {
        self.shared.answers.let_through();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        self.shared.received.lock().expect("nobody panicked").len()
    }

    /// All bytes received, as text.
    pub(crate) fn received_text(&self) -> String {
        let received = self.shared.received.lock().expect("nobody panicked");
        String::from_utf8_lossy(&received.concat()).into_owned()
    }

    /// The bodies of all requests received.
    pub(crate) fn bodies(&self) -> Vec<Vec<u8>> {
        let received = self.shared.received.lock().expect("nobody panicked");
        let body = |request: &Vec<u8>| {
            let head = request.windows(4).position(|four| four == b"\r\n\r\n");
            request[head.expect("it has a head") + 4..].to_vec()
        };
        received.iter().map(body).collect()
    }

    /// How many connections it has closed.
    pub(crate) fn closed(&self) -> usize {
        *self.shared.closed.lock().expect("nobody panicked")
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.lock().expect("nobody panicked")
    }
}

/// An answer with these extra header lines, each ended by CR LF.
pub(crate) fn answer(status: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{lines}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// An answer in chunks of these many bytes, without the last chunk that completes it.
pub(crate) fn chunks(body: &[u8], bytes: usize) -> Vec<u8> {
    let mut wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(bytes) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            while let Some(length) = whole(&buffer) {
                let request: Vec<u8> = buffer.drain(..length).collect();
                let asked = String::from_utf8_lossy(&request).into_owned();
                let mut received = self.received.lock().expect("nobody panicked");
                let code = received.len();
                received.push(request);
                drop(received);
                self.answers.pass();
                let (bytes, close) = match &self.then {
                    Then::Each(say) => match say(&asked) {
                        Some(bytes) => (bytes.into(), false),
                        None => (Vec::new().into(), true),
                    },
                    Then::Answer(bytes) => (Cow::from(bytes), false),
                    Then::AnswerAndClose(bytes) => (Cow::from(bytes), true),
                    Then::Codes => {
                        let body = format!(r#"{{"status":"FAIL","code":"9{code}","data":null}}"#);
                        (answer("200 OK", "", body.as_bytes()).into(), false)
                    }
                };
                if stream.write_all(&bytes).is_err() || close {
                    // The proxy may have closed the connection first.
                    let _ = stream.shutdown(Shutdown::Both);
                    *self.closed.lock().expect("nobody panicked") += 1;
                    return;
                }
            }
            let mut piece = [0; 16 * 1024];
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.extend_from_slice(&piece[..read]),
            }
        }
    }
}

/// The length of the first request, once it is complete. The proxy always sends a length or no body.
pub(crate) fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let length = text.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let total = head + length.unwrap_or(0);
    (bytes.len() >= total).then_some(total)
}
