//! An upstream that answers exactly the bytes a test tells it to, and keeps exactly the bytes it was sent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A scripted upstream. It stops answering when it is dropped.
pub(crate) struct Scripted {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// What is done once a request has arrived.
#[derive(Clone)]
pub(crate) enum Then {
    /// These bytes are sent; the connection stays open.
    Answer(Vec<u8>),
    /// These bytes are sent, then the connection is closed.
    AnswerAndClose(Vec<u8>),
}

impl Scripted {
    /// Answers every request in the same way.
    pub(crate) fn always(then: Then) -> Self {
        let listener = TcpListener::bind(super::any_port()).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (then, kept) = (then.clone(), Arc::clone(&kept));
                thread::spawn(move || serve(stream, &then, &kept));
            }
        });
        Self { address, received }
    }

    /// Answers 200 with this body.
    pub(crate) fn body(body: &str) -> Self {
        Self::always(Then::Answer(answer("200 OK", "", body.as_bytes())))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request it was sent, head and body as they came.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.received
            .lock()
            .expect("no server thread panicked")
            .clone()
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

fn serve(mut stream: TcpStream, then: &Then, kept: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = Vec::new();
    loop {
        while let Some(length) = whole(&buffer) {
            kept.lock()
                .expect("no server thread panicked")
                .push(buffer.drain(..length).collect());
            let (bytes, close) = match then {
                Then::Answer(bytes) => (bytes, false),
                Then::AnswerAndClose(bytes) => (bytes, true),
            };
            if stream.write_all(bytes).is_err() || close {
                let _ = stream.shutdown(Shutdown::Both);
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

/// How long the first request is, once all of it is there. The proxy always sends a length or no body.
fn whole(bytes: &[u8]) -> Option<usize> {
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
