//! Response parser: finds the start and end of GatePay's answer. No I/O: bytes in, head and pieces of the body out.
//!
//! `httparse`, the parser of hyper, parses the head. This module decides where the body ends (RFC 9112, 6.3): that
//! decides whether an answer was cut, and whether the connection may serve another request.
//!
//! ```
//! use bytes::BytesMut;
//! use gatepay_http1::response_parser::{self, ResponseError, ResponseEvent};
//!
//! let mut received = BytesMut::from("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\n{}");
//! let relayed = |name: &str| !name.eq_ignore_ascii_case("server");
//! let mut head = response_parser::head(&mut received, 0, relayed)?.expect("the head is complete");
//! assert_eq!(head.parts.status, 200);
//! assert_eq!(head.parts.fields.as_bytes(), b"Content-Length: 2\r\n");
//! assert!(head.keeps, "the connection may serve another request");
//! assert_eq!(head.rest.step(&mut received)?, ResponseEvent::Piece("{}".into()));
//! assert_eq!(head.rest.step(&mut received)?, ResponseEvent::Over);
//! # Ok::<(), ResponseError>(())
//! ```

use std::mem::MaybeUninit;
use std::time::Duration;

use arrayvec::ArrayVec;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use httparse::{ParserConfig, Status};

use crate::content_coding::ContentCoding;
use crate::header_block::HeaderBlock;

/// Maximum bytes of a head.
const HEAD: usize = 64 * 1024;
/// Maximum bytes of trailers.
const TRAILERS: u32 = 64 * 1024;
/// Number of header lines parsed on the stack; most answers have no more.
const LINES: usize = 100;
/// Number of header lines relayed, besides those that the body is read by: common clients refuse a head of more than
/// 100 lines, and the proxy adds some.
const RELAYED_LINES: usize = 80;
/// Maximum number of header lines.
const MOST_LINES: usize = 1_000;
/// Bytes reserved for the header lines that `relay` adds.
const OUR_LINES: usize = 160;
/// How long before the server's idle timeout an idle connection is closed.
const IDLE_MARGIN: Duration = Duration::from_secs(1);
/// Maximum bytes of a chunk's size line, and of a trailer line.
const CHUNK_LINE: usize = 4 * 1024;

/// Maximum number of `Connection` options heeded, since each header line is compared with all of them. With more
/// options the connection serves no other request.
const OPTIONS: usize = 16;

/// Why an answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A missing or malformed status line, or a malformed header line.
    #[error("its head is not HTTP/1")]
    Head,
    /// A head beyond the limits on bytes or lines.
    #[error("its head is too large")]
    TooLarge,
    /// Lengths that contradict each other or are malformed.
    #[error("its length cannot be told")]
    Length,
    /// Malformed chunks.
    #[error("its chunks are broken")]
    Chunks,
}

/// Framing of an answer's body, as far as the body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    /// The body ends after this many bytes.
    Exactly(u64),
    /// The body ends with its last chunk.
    Chunked(ResponseChunk),
    /// The body ends with the connection: a cut body looks like a whole body.
    UntilClosed,
}

/// The next expected part of a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseChunk {
    /// The size line of the next chunk, with the number of its bytes already searched for a line end.
    Size(u32),
    /// Chunk data, with the number of bytes left.
    Data(u64),
    /// The line end after the data of a chunk.
    End,
    /// Trailers or the empty line that ends the body: the number of bytes still allowed, and the number of bytes of the
    /// next line already searched for a line end.
    Trailers(u32, u32),
    /// The body is complete.
    Over,
}

/// Result of one step through a body.
#[derive(Debug, PartialEq, Eq)]
pub enum ResponseEvent {
    /// A piece of the body.
    Piece(Bytes),
    /// More bytes must arrive first.
    More,
    /// The body is over.
    Over,
}

/// The part of an answer's head that is relayed or judged.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The header lines that may be relayed.
    pub fields: HeaderBlock,
    /// The content coding of the body.
    pub coding: ContentCoding,
}

impl ResponseHead {
    /// An `http::Response` with this head and `body`.
    pub fn with<B>(&self, body: B) -> Response<B> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.fields.to_map();
        response
    }
}

/// A parsed head, with the framing of its body and the fate of the connection.
#[derive(Debug)]
pub struct ParsedHead {
    /// Status and lines.
    pub parts: ResponseHead,
    /// Framing of the body.
    pub rest: ResponseFraming,
    /// Whether the connection may serve another request after this answer.
    pub keeps: bool,
    /// How long the connection may idle before the next request, if the server sent a timeout.
    pub idle: Option<Duration>,
}

/// Takes a head off the front of `came`, if the head is complete.
///
/// `seen` is the number of bytes already searched for the end of the head. Only lines with a name that `passes` accepts
/// are kept.
///
/// # Errors
/// If the head is malformed, or leaves the end of the body ambiguous.
pub fn head(
    came: &mut BytesMut,
    seen: usize,
    passes: fn(&str) -> bool,
) -> Result<Option<ParsedHead>, ResponseError> {
    let Some(end) = end_of_head(came, seen) else {
        return if came.len() > HEAD {
            Err(ResponseError::TooLarge)
        } else {
            Ok(None)
        };
    };
    if end > HEAD {
        return Err(ResponseError::TooLarge);
    }
    let head = came.split_to(end);
    let mut lines = [const { MaybeUninit::uninit() }; LINES];
    let read = match read(&head, &ParserConfig::default(), &mut lines, passes) {
        Err(ResponseError::Head | ResponseError::TooLarge) => read_odd(head, passes)?,
        read => {
            let mut read = read?;
            // RFC 9112, 2.2, lets a line end in LF alone. Such a connection is not reused: the next answer may be
            // worse.
            read.keeps &= ends_are_usual(&head);
            read
        }
    };
    Ok(Some(read))
}

/// Reads an unusual head that a client may accept though no server should send it (RFC 9112, 4, 5.1 and 5.2).
///
/// Such a head has folded lines, blanks before a colon, extra blanks in the status line, or more lines than usual. Its
/// connection serves no other request.
#[cold]
fn read_odd(mut head: BytesMut, passes: fn(&str) -> bool) -> Result<ParsedHead, ResponseError> {
    unfold(&mut head);
    let mut config = ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true);
    let mut lines = vec![MaybeUninit::uninit(); MOST_LINES];
    let read = read(&head, &config, &mut lines, passes)?;
    Ok(ParsedHead {
        keeps: false,
        ..read
    })
}

/// Replaces each line end that only folds a line by blanks.
///
/// The status line cannot be folded: a blank at the start of the next line stays, and the head is refused.
fn unfold(head: &mut [u8]) {
    let Some(first) = memchr::memchr(b'\n', head) else {
        return;
    };
    let mut from = first + 1;
    while let Some(found) = memchr::memchr(b'\n', &head[from..]) {
        let at = from + found;
        if matches!(head.get(at + 1), Some(b' ' | b'\t')) {
            head[at] = b' ';
            if head[at - 1] == b'\r' {
                head[at - 1] = b' ';
            }
        }
        from = at + 1;
    }
}

/// Whether every line ends in CR LF. All bytes are checked without a branch for each, so that many are checked at once.
fn ends_are_usual(head: &[u8]) -> bool {
    let is_bare = |before: u8, byte: u8| byte == b'\n' && before != b'\r';
    let pairs = head.iter().zip(head.iter().skip(1));
    head.first() != Some(&b'\n')
        && !pairs.fold(false, |any, (before, byte)| any | is_bare(*before, *byte))
}

/// Reads a complete head.
fn read<'a>(
    head: &'a [u8],
    config: &ParserConfig,
    lines: &mut [MaybeUninit<httparse::Header<'a>>],
    passes: fn(&str) -> bool,
) -> Result<ParsedHead, ResponseError> {
    let mut parsed = httparse::Response::new(&mut []);
    match config.parse_response_with_uninit_headers(&mut parsed, head, lines) {
        Ok(Status::Complete(used)) if used == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::TooLarge),
        Ok(_) | Err(_) => return Err(ResponseError::Head),
    }
    let code = parsed.code.ok_or(ResponseError::Head)?;
    let said = FramingHeaders::of(parsed.headers)?;
    let mut fields = HeaderBlock::with_capacity(head.len() + OUR_LINES);
    let mut passed = 0;
    for line in parsed.headers.iter().filter(|line| passes(line.name)) {
        // A header that `Connection` names concerns this connection only.
        if said.names(line.name) || (passed >= RELAYED_LINES && !is_needed(line.name)) {
            continue;
        }
        passed += 1;
        fields.add(line.name, line.value);
    }
    let is_new = parsed.version == Some(1);
    let (rest, is_plain) = said.rest(code, is_new);
    let keeps = is_plain && rest.shows_its_end() && said.keeps(is_new);
    let idle = said.keep_alive.and_then(idle);
    let status = code.try_into().map_err(|_| ResponseError::Head)?;
    let parts = ResponseHead {
        status,
        fields,
        coding: said.content,
    };
    Ok(ParsedHead {
        parts,
        rest,
        keeps,
        idle,
    })
}

/// Whether a caller needs this header to read the body or to retry the call.
fn is_needed(name: &str) -> bool {
    const NEEDED: [&str; 4] = ["content-type", "content-encoding", "date", "retry-after"];
    NEEDED
        .iter()
        .any(|needed| needed.eq_ignore_ascii_case(name))
}

/// The end of the empty line behind the head.
fn end_of_head(came: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(2);
    memchr::memchr_iter(b'\n', &came[from..]).find_map(|at| {
        let after = from + at + 1;
        match came.get(after..)? {
            [b'\n', ..] => Some(after + 1),
            [b'\r', b'\n', ..] => Some(after + 2),
            _ => None,
        }
    })
}

/// The headers of an answer that decide the end of its body and the reuse of its connection.
struct FramingHeaders<'a> {
    length: Option<u64>,
    /// The transfer coding.
    coding: Option<&'a [u8]>,
    /// The options of `Connection`; most answers have none.
    options: ArrayVec<&'a [u8], OPTIONS>,
    /// Whether `Connection` names more than `OPTIONS` options.
    is_crowded: bool,
    keep_alive: Option<&'a [u8]>,
    content: ContentCoding,
}

impl<'a> FramingHeaders<'a> {
    fn of(lines: &'a [httparse::Header<'a>]) -> Result<Self, ResponseError> {
        let mut said = Self {
            length: None,
            coding: None,
            options: ArrayVec::new(),
            is_crowded: false,
            keep_alive: None,
            content: ContentCoding::Identity,
        };
        for line in lines {
            let is = |name: &str| line.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let length = length(line.value).ok_or(ResponseError::Length)?;
                if said
                    .length
                    .replace(length)
                    .is_some_and(|said| said != length)
                {
                    return Err(ResponseError::Length);
                }
            } else if is("transfer-encoding") {
                let coding = line.value.trim_ascii();
                // The proxy requests no transfer coding, and decodes chunks only: several codings cannot be decoded.
                if coding.contains(&b',') || said.coding.replace(coding).is_some() {
                    return Err(ResponseError::Length);
                }
            } else if is("connection") {
                for option in line.value.split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    if !option.is_empty() {
                        said.is_crowded |= said.options.try_push(option).is_err();
                    }
                }
            } else if is("keep-alive") {
                said.keep_alive = Some(line.value);
            } else if is("content-encoding") {
                said.content = said.content.and(ContentCoding::of(line.value));
            }
        }
        if said.coding.is_some() && said.length.is_some() {
            // Chunks would count (RFC 9112, 6.3), but servers that send both have been seen to mean the length.
            return Err(ResponseError::Length);
        }
        Ok(said)
    }

    /// Whether `Connection` names this option.
    fn names(&self, name: &str) -> bool {
        self.options
            .iter()
            .any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn keeps(&self, is_new: bool) -> bool {
        let asked = if is_new {
            !self.names("close")
        } else {
            self.names("keep-alive")
        };
        asked && !self.is_crowded
    }

    /// Framing of the body, and whether the head states it unambiguously.
    fn rest(&self, code: u16, is_new: bool) -> (ResponseFraming, bool) {
        match (self.coding, self.length) {
            _ if matches!(code, 100..=199 | 204 | 304) => (ResponseFraming::Exactly(0), true),
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => {
                // HTTP/1.0 has no chunks (RFC 9112, 6.1).
                (ResponseFraming::Chunked(ResponseChunk::Size(0)), is_new)
            }
            (Some(_), _) | (None, None) => (ResponseFraming::UntilClosed, true),
            (None, Some(length)) => (ResponseFraming::Exactly(length), true),
        }
    }
}

/// How long a connection may idle by `Keep-Alive: timeout=5, max=100` (RFC 2068, 19.7.1.1).
///
/// The server closes the connection at its timeout, so a margin is left for the next request to arrive: a second, or
/// half of the timeout if that is shorter. After `max=0` no request may follow.
fn idle(value: &[u8]) -> Option<Duration> {
    let parameter = |name: &str| {
        let named = value
            .split(|byte| matches!(byte, b',' | b';'))
            .find_map(|part| {
                let (key, number) = str::from_utf8(part).ok()?.split_once('=')?;
                key.trim().eq_ignore_ascii_case(name).then_some(number)
            });
        named?.trim().trim_matches('"').parse::<u32>().ok()
    };
    if parameter("max") == Some(0) {
        return Some(Duration::ZERO);
    }
    let timeout = Duration::from_secs(parameter("timeout")?.into());
    let margin = IDLE_MARGIN.min(timeout / 2);
    Some(timeout.saturating_sub(margin))
}

/// A length of digits only: no sign, no list.
fn length(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let digits = str::from_utf8(value).ok().filter(|_| is_number)?;
    digits.parse().ok()
}

impl ResponseFraming {
    /// Whether a cut answer can be told from a whole answer.
    pub fn shows_its_end(self) -> bool {
        self != Self::UntilClosed
    }

    /// How many bytes are still to come, if that is known.
    pub fn left(self) -> Option<u64> {
        match self {
            Self::Exactly(left) => Some(left),
            Self::Chunked(_) | Self::UntilClosed => None,
        }
    }

    /// Takes the next piece of the body off the front of `came`.
    ///
    /// # Errors
    /// If the chunks are malformed.
    pub fn step(&mut self, came: &mut BytesMut) -> Result<ResponseEvent, ResponseError> {
        match self {
            Self::Exactly(0) => Ok(ResponseEvent::Over),
            Self::Exactly(left) => Ok(take(came, left)),
            Self::UntilClosed if came.is_empty() => Ok(ResponseEvent::More),
            Self::UntilClosed => Ok(ResponseEvent::Piece(came.split().freeze())),
            Self::Chunked(chunk) => chunk.step(came),
        }
    }
}

/// Takes the received bytes of a body or chunk with `left` bytes left.
fn take(came: &mut BytesMut, left: &mut u64) -> ResponseEvent {
    if came.is_empty() {
        return ResponseEvent::More;
    }
    let there = usize::try_from(*left).map_or(came.len(), |left| left.min(came.len()));
    *left -= there as u64;
    ResponseEvent::Piece(came.split_to(there).freeze())
}

impl ResponseChunk {
    fn step(&mut self, came: &mut BytesMut) -> Result<ResponseEvent, ResponseError> {
        loop {
            match self {
                // `httparse` reads a size without digits as zero, which would end the body.
                Self::Size(_) if came.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                    return Err(ResponseError::Chunks);
                }
                Self::Size(seen) => {
                    let Some(end) = line(came, seen)? else {
                        return Ok(ResponseEvent::More);
                    };
                    // Only this line: `httparse` would read an extension on over a bare LF, as far as bytes have come.
                    let read = httparse::parse_chunk_size(&came[..end]);
                    let Ok(Status::Complete((used, size))) = read else {
                        return Err(ResponseError::Chunks);
                    };
                    let _line = came.split_to(used);
                    *self = if size == 0 {
                        Self::Trailers(TRAILERS, 0)
                    } else {
                        Self::Data(size)
                    };
                }
                Self::Data(0) => *self = Self::End,
                Self::Data(left) => return Ok(take(came, left)),
                Self::End => match came.get(..2) {
                    Some(b"\r\n") => {
                        let _end = came.split_to(2);
                        *self = Self::Size(0);
                    }
                    Some(_) => return Err(ResponseError::Chunks),
                    None => return Ok(ResponseEvent::More),
                },
                // Trailers are read and dropped: the protocol does not use them.
                Self::Trailers(left, seen) => {
                    let Some(end) = line(came, seen)? else {
                        return Ok(ResponseEvent::More);
                    };
                    let line = came.split_to(end);
                    let length = u32::try_from(end).map_err(|_| ResponseError::Chunks)?;
                    *left = left.checked_sub(length).ok_or(ResponseError::Chunks)?;
                    if matches!(&line[..], b"\r\n" | b"\n") {
                        *self = Self::Over;
                    }
                }
                Self::Over => return Ok(ResponseEvent::Over),
            }
        }
    }
}

/// The end of a line, if the line is complete; `seen` is the number of bytes already searched for the line end.
fn line(came: &[u8], seen: &mut u32) -> Result<Option<usize>, ResponseError> {
    let from = *seen as usize;
    if let Some(end) = memchr::memchr(b'\n', &came[from..]) {
        *seen = 0;
        let length = from + end + 1;
        return (length <= CHUNK_LINE)
            .then_some(Some(length))
            .ok_or(ResponseError::Chunks);
    }
    if came.len() >= CHUNK_LINE {
        return Err(ResponseError::Chunks);
    }
    *seen = u32::try_from(came.len()).map_err(|_| ResponseError::Chunks)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_servers_idle_timeout_is_read_and_leaves_a_margin() {
        for (value, expected) in [
            ("timeout=60", Some(59_000)),
            ("timeout=5, max=100", Some(4_000)),
            ("max=1000,TIMEOUT = 2", Some(1_000)),
            ("timeout=\"1\"", Some(500)),
            ("timeout=0", Some(0)),
            ("max=0, timeout=9", Some(0)),
            ("max=7", None),
            ("timeout=-1", None),
            ("timeout=99999999999", None),
            ("timeout", None),
            ("", None),
        ] {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(idle(value.as_bytes()), expected, "{value}");
        }
    }

    use super::*;
    use http::HeaderName;
    use proptest::prelude::*;

    /// The lines that the framing is read from are not relayed.
    fn passes(name: &str) -> bool {
        !["content-length", "transfer-encoding"]
            .iter()
            .any(|stays| stays.eq_ignore_ascii_case(name))
    }

    /// The head and the body of an answer that arrives in these pieces before the connection closes.
    fn read(pieces: &[&[u8]]) -> Result<(ParsedHead, Vec<u8>, bool), ResponseError> {
        let (mut came, mut seen, mut found, mut body) = (BytesMut::new(), 0, None, Vec::new());
        let mut over = false;
        for piece in pieces {
            came.extend_from_slice(piece);
            if found.is_none() {
                found = head(&mut came, seen, passes)?;
                seen = came.len();
            }
            let Some(head) = &mut found else { continue };
            loop {
                match head.rest.step(&mut came)? {
                    ResponseEvent::Piece(piece) => body.extend_from_slice(&piece),
                    ResponseEvent::More => break,
                    ResponseEvent::Over => {
                        over = true;
                        break;
                    }
                }
            }
        }
        let head = found.ok_or(ResponseError::Head)?;
        let over = over || head.rest == ResponseFraming::UntilClosed;
        Ok((head, body, over && came.is_empty()))
    }

    fn read_text(text: &str) -> Result<(ParsedHead, Vec<u8>, bool), ResponseError> {
        read(&[text.as_bytes()])
    }

    #[test]
    fn where_a_body_ends_is_told_by_its_head() {
        for (text, body, keeps) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "{}", true),
            (
                "HTTP/1.1 200\r\ncontent-length:2\r\nContent-Length: 2\r\n\r\n{}",
                "{}",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\n{}",
                "{}",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                "{}",
                false,
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\n{}",
                "{}",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n{}", "{}", false),
            ("HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", "{}", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n{}", "{}", false),
            ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                "",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: y\r\n\r\n",
                "{}",
                true,
            ),
            (
                "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                "{}",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
                "{}",
                false,
            ),
        ] {
            let (head, read, whole) = read_text(text).unwrap();
            assert_eq!(
                (&read[..], head.keeps, whole),
                (body.as_bytes(), keeps, true),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_one_end_is_not_read() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD));
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "X: y\r\n".repeat(MOST_LINES + 1)
        );
        let trailers = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
            "X: y\r\n".repeat(HEAD / 6 + 1)
        );
        for (text, why) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                ResponseError::Chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx",
                ResponseError::Chunks,
            ),
            // A missing chunk size is not the size zero.
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n\r\n\r\n",
                ResponseError::Chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n;a\r\n\r\n",
                ResponseError::Chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
                ResponseError::Chunks,
            ),
            (&trailers, ResponseError::Chunks),
            // A line end within an extension.
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n",
                ResponseError::Chunks,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n 2\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length : 3\r\n\r\n{}",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                ResponseError::Length,
            ),
            (
                "HTTP/1.1 200 OK\r\n X: y\r\nContent-Length: 2\r\n\r\n{}",
                ResponseError::Head,
            ),
            ("HTTP/1.1 200 OK\r\nX y: z\r\n\r\n", ResponseError::Head),
            ("HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", ResponseError::Head),
            ("HTTP/2 200\r\n\r\n", ResponseError::Head),
            ("SSH-2.0-x\r\n\r\n", ResponseError::Head),
            (&long, ResponseError::TooLarge),
            (&many, ResponseError::TooLarge),
        ] {
            assert_eq!(read_text(text).unwrap_err(), why, "{text:.80}");
        }
    }

    #[test]
    fn a_long_line_between_chunks_is_refused_however_it_arrives() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (extension, is_read) in [(CHUNK_LINE - 4, true), (CHUNK_LINE - 3, false)] {
            let size = format!("2;{}\r\n", "x".repeat(extension));
            let text = format!("{head}{size}{{}}\r\n0\r\n\r\n");
            let last = head.len() + size.len() - 1;
            for cut in [head.len(), last - 1, last, last + 1] {
                let (one, other) = text.as_bytes().split_at(cut);
                assert_eq!(read(&[one, other]).is_ok(), is_read, "{extension} {cut}");
            }
            assert_eq!(read_text(&text).is_ok(), is_read, "{extension}");
        }
    }

    #[test]
    fn an_odd_head_is_read_as_rfc_9112_lets_a_client_and_its_connection_not_used_again() {
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\n{{}}",
            "x: y\r\n".repeat(LINES)
        );
        for (text, line) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx: a\r\n\tb\r\n  c\r\n\r\n{}",
                "x: a  \tb    c\r\n",
            ),
            (
                "HTTP/1.1 200 OK\nContent-Length: 2\nx: a\n b\n\n{}",
                "x: a  b\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nx: a\r\n b\r\nContent-Length:\r\n 2\r\n\r\n{}",
                "x: a   b\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length \t: 2\r\nx : a\r\n\r\n{}",
                "x: a\r\n",
            ),
            (
                "HTTP/1.1  200  OK\r\nContent-Length: 2\r\nx: a\r\n\r\n{}",
                "x: a\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nx: a\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
                "x: a\r\n",
            ),
            (&many, "x: y\r\n"),
        ] {
            for cut in 0..text.len() {
                let pieces = [&text.as_bytes()[..cut], &text.as_bytes()[cut..]];
                let (head, body, whole) = read(&pieces).unwrap();
                assert_eq!((&body[..], whole), (&b"{}"[..], true), "{text:.80}");
                assert!(!head.keeps, "{text:.80}");
                let fields = head.parts.fields.as_bytes();
                assert!(fields.starts_with(line.as_bytes()), "{text:.80}");
            }
        }
    }

    #[test]
    fn half_an_answer_is_never_whole() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}",
        ] {
            assert!(!read_text(text).unwrap().2, "{text}");
        }
    }

    proptest! {
        #[test]
        fn however_it_arrives_it_is_read_the_same(
            body in proptest::collection::vec(any::<u8>(), 0..200),
            chunk in 1_usize..50,
            cuts in proptest::collection::vec(1_usize..40, 0..60),
            is_chunked: bool,
        ) {
            let mut text = b"HTTP/1.1 200 OK\r\nX-Lab: 1\r\n".to_vec();
            if is_chunked {
                text.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(chunk) {
                    text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    text.extend_from_slice(chunk);
                    text.extend_from_slice(b"\r\n");
                }
                text.extend_from_slice(b"0\r\n\r\n");
            } else {
                text.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                text.extend_from_slice(&body);
            }
            let (mut pieces, mut left) = (Vec::new(), &text[..]);
            for cut in cuts {
                let (piece, rest) = left.split_at(cut.min(left.len()));
                pieces.push(piece);
                left = rest;
            }
            pieces.push(left);
            let (head, read, whole) = read(&pieces).unwrap();
            prop_assert_eq!(head.parts.fields.get(&HeaderName::from_static("x-lab")), Some(&b"1"[..]));
            prop_assert_eq!((read, whole), (body, true));
        }

        #[test]
        fn nothing_a_server_says_panics(text: Vec<u8>, after in "[ -~\r\n]{0,80}") {
            let _ = read(&[&text]);
            let _ = read_text(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{after}"));
            let _ = read_text(&format!("HTTP/1.1 200 OK\r\n{after}\r\n\r\n{after}"));
        }
    }
}
