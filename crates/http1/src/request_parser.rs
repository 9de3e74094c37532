//! Request parser: finds the start and end of an HTTP/1 request, and accepts only input that all parsers read alike.
//!
//! Inputs that RFC 9112 lets a lenient server interpret are refused: two lengths, or a length and chunks; a bare LF as
//! a line end; a target cut at `#`; a head without Host. Other decisions:
//!
//! - Empty lines before a request are skipped, as RFC 9112 section 2.2 asks; old clients send them after a body.
//! - Pipelined requests are read one after the other, each answered before the next is parsed.
//! - `Expect: 100-continue` is obeyed; any other expectation is refused.
//! - `Upgrade` is ignored: Java's client offers h2c in every first request.
//! - Trailers are read by the same rules as headers and then dropped: they are not signed.
//! - Chunk extensions are refused, since parsers differ about where they end. Bytes after the end of a body are parsed
//!   as the next request, and refused if they are none.
//!
//! This module does no I/O: the caller hands over the bytes received so far.

use std::mem;

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use crate::request_head::{FieldSpan, RequestHead};

/// Maximum bytes of a head: the sum of its names and values, in HTTP/1 also its length on the wire.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Maximum number of lines of a head; GatePay's clients send about a dozen.
pub const HEAD_LINES: usize = 64;

/// The reason for refusing a head, or the body behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
#[expect(missing_docs, reason = "`text` says what each is")]
pub enum FramingError {
    TooLarge,
    RequestLine,
    Method,
    Target,
    Control,
    Folded,
    Name,
    NoHost,
    Hosts,
    OddHost,
    OtherHost,
    Length,
    Coding,
    LengthAndCoding,
    Expect,
}

/// Parser of a partly received head. Each line is parsed once, when it is complete.
///
/// A connection keeps its parser from request to request, and so reuses the allocation for the lines.
#[derive(Debug, Default)]
pub struct RequestParser {
    /// Offset of the first line that was not parsed yet.
    at: usize,
    /// Bytes of that line already searched for a line end.
    seen: usize,
    method: (u16, u16),
    target: (u16, u16),
    lines: Vec<FieldSpan>,
    flags: HeadFlags,
    length: Option<u64>,
}

/// Facts found in a head.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is whether one thing was there"
)]
struct HeadFlags {
    request_line: bool,
    http10: bool,
    host: bool,
    chunked: bool,
    expect: bool,
    close: bool,
    keep_alive: bool,
}

/// Framing of a request's body, as far as the body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// A body of this many bytes.
    Length(u64),
    /// A body in chunks.
    Chunks(ChunkPosition),
}

/// Result of one step through a body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyEvent {
    /// A piece of the body.
    Piece(Bytes),
    /// More bytes must arrive first.
    More,
    /// The body is over.
    Over,
}

impl RequestParser {
    /// Continues parsing `bytes` and returns the length of the head, once the head is complete.
    ///
    /// `bytes` are all bytes received since the end of the previous request.
    ///
    /// # Errors
    /// If the head is malformed or ambiguous.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<usize>, FramingError> {
        loop {
            let rest = &bytes[self.at..];
            let Some(end) = memchr(b'\n', &rest[self.seen..]).map(|end| self.seen + end) else {
                if bytes.len() > HEAD_LIMIT {
                    return Err(FramingError::TooLarge);
                }
                // Refused before the line is complete: no head has such bytes. The last byte may begin a line end.
                let unended = rest.strip_suffix(b"\r").unwrap_or(rest);
                if !is_plain(&unended[self.seen..]) {
                    return Err(FramingError::Control);
                }
                self.seen = unended.len();
                return Ok(None);
            };
            let line = rest[..end]
                .strip_suffix(b"\r")
                .ok_or(FramingError::Control)?;
            let at = self.at;
            self.at += end + 1;
            self.seen = 0;
            if self.at > HEAD_LIMIT {
                return Err(FramingError::TooLarge);
            }
            if !is_plain(line) {
                return Err(FramingError::Control);
            }
            match (self.flags.request_line, line) {
                (false, []) => {}
                (false, line) => self.request_line(at, line)?,
                (true, []) => return self.finish().map(Some),
                (true, line) => self.field(at, line)?,
            }
            if self.lines.len() > HEAD_LINES {
                return Err(FramingError::TooLarge);
            }
        }
    }

    /// The parsed head, over the bytes it was parsed from.
    ///
    /// # Panics
    /// If `text` is other bytes than those parsed.
    pub fn head<'a>(&'a self, text: &'a [u8]) -> RequestHead<'a> {
        let part = |(from, to): (u16, u16)| {
            let part = &text[usize::from(from)..usize::from(to)];
            str::from_utf8(part).expect("its bytes were found to be ASCII")
        };
        RequestHead::of_text(part(self.method), part(self.target), text, &self.lines)
    }

    /// Framing of the body behind the head.
    pub fn rest(&self) -> BodyFraming {
        if self.flags.chunked {
            BodyFraming::Chunks(ChunkPosition::FIRST)
        } else {
            BodyFraming::Length(self.length.unwrap_or(0))
        }
    }

    /// Whether the caller waits for `100 Continue` before sending its body. HTTP/1.0 lacks this (RFC 9110, 10.1.1).
    pub fn is_partial(&self) -> bool {
        self.flags.expect && !self.flags.http10
    }

    /// Whether the version is 1.0.
    pub fn is_old(&self) -> bool {
        self.flags.http10
    }

    /// Whether the caller keeps the connection open for another request (RFC 9112, 9.3).
    pub fn keeps(&self) -> bool {
        !self.flags.close && (!self.flags.http10 || self.flags.keep_alive)
    }

    /// Resets the parser for the next request.
    pub fn reset(&mut self) {
        self.at = 0;
        self.seen = 0;
        self.lines.clear();
        self.flags = HeadFlags::default();
        self.length = None;
    }

    fn request_line(&mut self, at: usize, line: &[u8]) -> Result<(), FramingError> {
        let (method, rest) = split_at(line, b' ').ok_or(FramingError::RequestLine)?;
        let (target, version) = split_at(rest, b' ').ok_or(FramingError::RequestLine)?;
        self.flags.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(FramingError::RequestLine),
        };
        if method.is_empty() || !method.iter().all(|byte| TOKEN[usize::from(*byte)]) {
            return Err(FramingError::RequestLine);
        }
        if method == b"CONNECT" || method == b"TRACE" {
            return Err(FramingError::Method);
        }
        if !is_target(target) {
            return Err(FramingError::Target);
        }
        self.flags.request_line = true;
        self.method = place(at, method.len());
        self.target = place(at + method.len() + 1, target.len());
        Ok(())
    }

    fn field(&mut self, at: usize, line: &[u8]) -> Result<(), FramingError> {
        let (name, value, value_at) = field(line)?;
        self.lines.push(FieldSpan {
            name: place(at, name.len()),
            value: place(at + value_at, value.len()),
        });
        let flags = &mut self.flags;
        // Compared by length first: most lines have none of these names.
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match name.len() {
            4 if is("host") => {
                if mem::replace(&mut flags.host, true) {
                    return Err(FramingError::Hosts);
                }
                if !is_host(value) {
                    return Err(FramingError::OddHost);
                }
            }
            6 if is("expect")
                && (mem::replace(&mut flags.expect, true)
                    || !value.eq_ignore_ascii_case(b"100-continue")) =>
            {
                return Err(FramingError::Expect);
            }
            10 if is("connection") => {
                for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    flags.close |= word.eq_ignore_ascii_case(b"close");
                    flags.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            14 if is("content-length") => {
                let length = number(value).ok_or(FramingError::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(FramingError::Length);
                }
            }
            17 if is("transfer-encoding")
                && (mem::replace(&mut flags.chunked, true)
                    || flags.http10
                    || !value.eq_ignore_ascii_case(b"chunked")) =>
            {
                return Err(FramingError::Coding);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&self) -> Result<usize, FramingError> {
        if !self.flags.host && !self.flags.http10 {
            return Err(FramingError::NoHost);
        }
        if self.flags.chunked && self.length.is_some() {
            return Err(FramingError::LengthAndCoding);
        }
        Ok(self.at)
    }
}

/// Span of a part of a head. `u16` suffices, since heads are read up to [`HEAD_LIMIT`].
fn place(at: usize, length: usize) -> (u16, u16) {
    let short = |place: usize| u16::try_from(place).unwrap_or(u16::MAX);
    (short(at), short(at + length))
}

const _: () = assert!(HEAD_LIMIT < u16::MAX as usize);

impl BodyFraming {
    /// Whether the body is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunks(ChunkPosition::End))
    }

    /// Minimum number of bytes still to come.
    pub fn at_least(self) -> u64 {
        match self {
            Self::Length(left) => left,
            Self::Chunks(_) => 0,
        }
    }

    /// Takes the next piece of the body off the front of `came`.
    ///
    /// # Errors
    /// If the chunks are malformed.
    pub fn step(&mut self, came: &mut BytesMut) -> Result<BodyEvent, FramingError> {
        match self {
            Self::Length(0) => Ok(BodyEvent::Over),
            Self::Length(_) if came.is_empty() => Ok(BodyEvent::More),
            Self::Length(left) => {
                let now = usize::try_from(*left).map_or(came.len(), |left| left.min(came.len()));
                *left -= now as u64;
                Ok(BodyEvent::Piece(came.split_to(now).freeze()))
            }
            Self::Chunks(chunk) => chunk.next(came),
        }
    }
}

/// The name of a line, its value without the blanks around it, and the offset of the value.
fn field(line: &[u8]) -> Result<(&[u8], &[u8], usize), FramingError> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(FramingError::Folded);
    }
    // Only a colon may end the token.
    let end = line.iter().position(|byte| !TOKEN[usize::from(*byte)]);
    match end.map(|end| line.split_at(end)) {
        Some((name @ [_, ..], [b':', padded @ ..])) => {
            let value = padded.trim_ascii_start();
            let value_at = line.len() - value.len();
            Ok((name, value.trim_ascii_end(), value_at))
        }
        _ => Err(FramingError::Name),
    }
}

/// A length in decimal digits, without leading zeros.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let one_spelling = matches!(text, [b'0'] | [b'1'..=b'9', ..]);
    // 18 digits never overflow.
    (digits && one_spelling && text.len() <= 18).then(|| {
        text.iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    })
}

/// Whether `bytes` have no control characters except tabs.
///
/// Sixteen bytes are checked at once; the last block may overlap the one before.
fn is_plain(bytes: &[u8]) -> bool {
    let is_plain = |bytes: &[u8]| {
        let odd = |byte: u8| u8::from((byte < 0x20 && byte != b'\t') || byte == 0x7f);
        bytes.iter().fold(0, |any, byte| any | odd(*byte)) == 0
    };
    match bytes.last_chunk::<16>() {
        Some(last) => {
            bytes
                .as_chunks::<16>()
                .0
                .iter()
                .all(|block| is_plain(block))
                && is_plain(last)
        }
        None => is_plain(bytes),
    }
}

fn split_at(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr(at, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Position of the next byte in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPosition {
    /// In a chunk's size, with the value so far and the number of digits read.
    Size(u32, u8),
    /// Before the LF of the size line.
    SizeLf(u32),
    /// In a chunk, with this many bytes left.
    Data(u32),
    /// Behind a chunk, before the CR.
    DataCr,
    /// Behind a chunk, before the LF.
    DataLf,
    /// Behind the last chunk, in the trailers or their end, with the number of trailer bytes read and of lines begun.
    Trailer(TrailerPart, u16, u8),
    /// Behind the whole body.
    End,
}

/// The part of a trailer that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is that part")]
pub enum TrailerPart {
    Start,
    Name,
    Value,
    Lf,
    LastLf,
}

impl ChunkPosition {
    const FIRST: Self = Self::Size(0, 0);

    /// The next piece of the body, as far as the bytes reach.
    fn next(&mut self, came: &mut BytesMut) -> Result<BodyEvent, FramingError> {
        let mut at = 0;
        while *self != Self::End {
            if let Self::Data(left) = *self {
                let _sizes = came.split_to(at);
                let now = usize::try_from(left).map_or(came.len(), |left| left.min(came.len()));
                if now == 0 {
                    return Ok(BodyEvent::More);
                }
                let taken = u32::try_from(now).expect("no more than are left of a chunk");
                *self = match left - taken {
                    0 => Self::DataCr,
                    left => Self::Data(left),
                };
                return Ok(BodyEvent::Piece(came.split_to(now).freeze()));
            }
            let Some(byte) = came.get(at) else {
                came.clear();
                return Ok(BodyEvent::More);
            };
            *self = self.step(*byte).ok_or(FramingError::Coding)?;
            at += 1;
        }
        let _trailers = came.split_to(at);
        Ok(BodyEvent::Over)
    }

    fn step(self, byte: u8) -> Option<Self> {
        use TrailerPart::{LastLf, Lf, Name, Start, Value};
        Some(match (self, byte) {
            // Eight digits are 4 GiB: more than any limit, and no overflow.
            (Self::Size(size, digits @ 0..8), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                Self::Size(size << 4 | digit, digits + 1)
            }
            (Self::Size(size, 1..), b'\r') => Self::SizeLf(size),
            (Self::SizeLf(0), b'\n') => Self::Trailer(Start, 0, 0),
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::FIRST,
            (Self::Trailer(LastLf, ..), b'\n') => Self::End,
            (Self::Trailer(_, TRAILER_LIMIT, _), _) => return None,
            (Self::Trailer(part, read, lines), byte) => {
                let part = match (part, byte) {
                    (Start, b'\r') => LastLf,
                    (Start, _) if usize::from(lines) == HEAD_LINES => return None,
                    (Start | Name, byte) if TOKEN[usize::from(byte)] => Name,
                    (Name, b':') => Value,
                    (Value, b'\r') => Lf,
                    (Value, byte) if is_plain(&[byte]) => Value,
                    (Lf, b'\n') => Start,
                    _ => return None,
                };
                let lines = lines + u8::from(part == Start);
                Self::Trailer(part, read + 1, lines)
            }
            _ => return None,
        })
    }
}

/// Maximum bytes of trailers, which are read and dropped. They have at most [`HEAD_LINES`] lines.
const TRAILER_LIMIT: u16 = 4096;

impl FramingError {
    /// The error text for the caller.
    pub fn text(self) -> &'static str {
        match self {
            Self::TooLarge => "the head is too large",
            Self::RequestLine => {
                "the request line must be a method, a path and HTTP/1.1 or HTTP/1.0, with one space between them"
            }
            Self::Method => "CONNECT and TRACE are not served",
            Self::Target => {
                "the target must be a path, not a URL, without # and other bytes no path has"
            }
            Self::Control => "lines must end in CR LF, and a head has no other control characters",
            Self::Folded => "a header must not be folded over two lines",
            Self::Name => "a header must be a name with the colon right behind it",
            Self::NoHost => "Host is missing",
            Self::Hosts => "Host stands more than once",
            Self::OddHost => "Host must be a name or an address, and perhaps a port",
            Self::OtherHost => "Host and :authority name different hosts",
            Self::Length => "Content-Length must stand once, in plain digits",
            Self::Coding => {
                "Transfer-Encoding must be chunked, once, in HTTP/1.1, without chunk extensions"
            }
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding exclude each other",
            Self::Expect => "nothing but 100-continue can be expected, once",
        }
    }
}

/// Whether `target` is a valid request target: a path, with an optional query.
pub fn is_target(target: &[u8]) -> bool {
    target.first() == Some(&b'/') && target.iter().all(|byte| TARGET[usize::from(*byte)])
}

/// Whether `host` is a valid host with an optional port, without user information.
pub fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|byte| HOST[usize::from(*byte)])
}

/// The bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = set(b"!#$%&'*+-.^_`|~");
/// The bytes of a path and query: all of RFC 3986 and a few more, as hyper takes them.
const TARGET: [bool; 256] = set(b"!$%&'()*+,-./:;=?@[\\]^_{|}~");
/// The bytes of a host and a port.
const HOST: [bool; 256] = set(b"-._~:[]");

/// The set of letters, digits and the bytes in `more`.
const fn set(more: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        set[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < more.len() {
        set[more[at] as usize] = true;
        at += 1;
    }
    set
}
