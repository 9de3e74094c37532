//! The law of answers: where one ends is the same however it arrives, and hyper agrees where the connection is kept.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use gatepay_http1::response_parser::{self, ParsedHead, ResponseEvent, ResponseFraming};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Again;

/// Names in lower case, sorted, and values.
type Lines = Vec<(String, Vec<u8>)>;

/// An answer as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    lines: Lines,
    body: Vec<u8>,
}

/// What is read of a stream that holds one answer, after informational ones.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    answer: Answer,
    /// Whether the body is complete.
    is_over: bool,
    is_chunked: bool,
    keeps: bool,
    /// How many bytes of the stream the answer has.
    bytes: usize,
}

/// An answer is read the same however it is cut. hyper reads the same answer, if ours keeps the connection after it.
pub(crate) fn response_parser(bytes: &[u8]) {
    let ours = read(&[bytes]);
    if let [first, ..] = bytes {
        let (one, other) = bytes.split_at(usize::from(*first) % bytes.len());
        assert_eq!(
            read(&[one, other]),
            ours,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }
    let Ok(Some(ours)) = ours else { return };
    if !ours.is_over || !ours.keeps || ours.answer.status == 101 {
        return;
    }
    let bytes = &bytes[..ours.bytes];
    let text = String::from_utf8_lossy(bytes);
    // hyper reads trailers, which are dropped here, and refuses them or waits for another end.
    let may_have_trailers = ours.is_chunked;
    let Some((status, lines, body)) = read_by_hyper(bytes) else {
        assert!(
            may_have_trailers,
            "hyper cannot read a head that we read: {text:?}"
        );
        return;
    };
    // What `Connection` names is of this hop, and more than these lines are not relayed.
    if lines.len() <= 80 {
        let lines = relayed(lines);
        assert_eq!((status, &lines), (ours.answer.status, &ours.answer.lines));
    }
    match body {
        Some(body) => assert_eq!(body, ours.answer.body, "{text:?}"),
        None => assert!(may_have_trailers, "hyper cannot read the body: {text:?}"),
    }
}

/// What is read of a stream that comes in these pieces; `None` without a whole head.
fn read(pieces: &[&[u8]]) -> Result<Option<Reading>, ()> {
    let (mut received, mut seen, mut all) = (BytesMut::new(), 0, 0);
    let mut found: Option<(ParsedHead, Vec<u8>)> = None;
    let mut keeps = true;
    for piece in pieces {
        all += piece.len();
        received.extend_from_slice(piece);
        while found.is_none() {
            let Some(mut head) =
                response_parser::head(&mut received, seen, |_| true).map_err(|_| ())?
            else {
                break;
            };
            seen = 0;
            // One odd informational answer is enough.
            keeps &= head.keeps;
            head.keeps = keeps;
            let status = head.parts.status.as_u16();
            if !(100..200).contains(&status) || status == 101 {
                found = Some((head, Vec::new()));
            }
        }
        seen = received.len();
        let Some((head, body)) = &mut found else {
            continue;
        };
        loop {
            match head.rest.step(&mut received).map_err(|_| ())? {
                ResponseEvent::Piece(piece) => body.extend_from_slice(&piece),
                ResponseEvent::More => break,
                ResponseEvent::Over => {
                    return Ok(Some(reading(head, body, true, all - received.len())));
                }
            }
        }
    }
    Ok(found.map(|(head, body)| reading(&head, &body, false, all - received.len())))
}

fn reading(head: &ParsedHead, body: &[u8], is_over: bool, bytes: usize) -> Reading {
    let fields = head.parts.fields.iter();
    let lines = fields.map(|(name, value)| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        (name, value.to_vec())
    });
    let answer = Answer {
        status: head.parts.status.as_u16(),
        lines: sorted(lines),
        body: body.to_vec(),
    };
    Reading {
        answer,
        is_over,
        is_chunked: matches!(head.rest, ResponseFraming::Chunked(_)),
        keeps: head.keeps,
        // Bytes of an unfinished chunk may stay behind.
        bytes: if is_over { bytes } else { 0 },
    }
}

fn relayed(mut lines: Lines) -> Lines {
    let options = lines.iter().filter(|(name, _)| name == "connection");
    let options: Vec<String> = options
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase())
        .collect();
    lines.retain(|(name, _)| !options.contains(name));
    lines
}

fn sorted(lines: impl Iterator<Item = (String, Vec<u8>)>) -> Lines {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

/// Status, lines and body, the body only if it can be read.
type ByHyper = (u16, Lines, Option<Vec<u8>>);

fn read_by_hyper(bytes: &[u8]) -> Option<ByHyper> {
    let exchange = async {
        let stream = TokioIo::new(Server {
            answer: bytes.to_vec(),
            is_asked: false,
            reader: None,
        });
        let (mut sender, connection) = http1::handshake(stream).await.ok()?;
        let mut connection = pin!(connection);
        let mut is_closed = false;
        let asked = async {
            let request = Request::new(Empty::<Bytes>::new());
            let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
            let lines = parts.headers.iter();
            let lines =
                sorted(lines.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
            let body = body.collect().await.ok();
            let body = body.map(|body| body.to_bytes().to_vec());
            Some((parts.status.as_u16(), lines, body))
        };
        let mut asked = pin!(asked);
        poll_fn(|cx| {
            if !is_closed {
                is_closed = connection.as_mut().poll(cx).is_ready();
            }
            asked.as_mut().poll(cx)
        })
        .await
    };
    let mut exchange = pin!(exchange);
    let again = Arc::new(Again::default());
    let waker = Waker::from(Arc::clone(&again));
    loop {
        again.0.store(false, Ordering::Relaxed);
        match exchange.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(read) => return read,
            Poll::Pending if again.0.load(Ordering::Relaxed) => {}
            Poll::Pending => return None,
        }
    }
}

/// A server that gives its answer once it is asked, and then is silent.
struct Server {
    answer: Vec<u8>,
    is_asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked || self.answer.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now = self.answer.len().min(buf.remaining());
        let left = self.answer.split_off(now);
        buf.put_slice(&self.answer);
        self.answer = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
