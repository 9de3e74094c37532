//! Framing: where an HTTP/1 request begins and ends, in the one way two readers cannot differ about.
//!
//! What RFC 9112 allows a lenient server to guess at is refused here, before hyper sees it: hyper prefers chunks to a
//! length it then hides, takes a bare LF for a line's end, cuts the target at `#` and does not ask for a Host. What is
//! read, and how:
//!
//! - Empty lines before a request are skipped, as RFC 9112 section 2.2 asks; old clients leave them over.
//! - Pipelined requests are read one after the other, each answered before the next is handed on.
//! - `Expect: 100-continue` is obeyed; whoever expects anything else is refused.
//! - `Upgrade` is read as if it were not there: Java's client offers h2c in every first request.
//! - Trailers are read by the same rules as headers and then dropped: nobody signed them.
//! - Chunk extensions are refused, since parsers differ about where they end; so is a body that goes on after its end,
//!   which is taken for the next request and is none.
//!
//! Nothing here does I/O: [`gate`](crate::gate) stands between the socket and hyper and asks.

use http::{Method, Version, request};
use memchr::memchr;

use crate::ingress::{HEAD_LIMIT, HEAD_LINES};

/// A connection's bytes, followed from request to request.
#[derive(Debug)]
pub struct Framing(Place);

/// Where in a request the next byte stands.
#[derive(Debug)]
enum Place {
    Head(Head),
    /// In a body of known length; so many bytes are left.
    Length(u64),
    Chunks(Chunk),
}

/// What keeps a head from having one reading. The order is that of [`Fault::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "`text` says what each is")]
pub enum Fault {
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
    Length,
    Coding,
    LengthAndCoding,
    Expect,
}

impl Default for Framing {
    fn default() -> Self {
        Self(Place::Head(Head::default()))
    }
}

impl Framing {
    /// How many of these bytes, which follow those passed before, may be handed on: never more than one request's, and
    /// of a head all or nothing. `Ok(0)` asks for more bytes; all that was not passed is to be shown again.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        if let Place::Head(head) = &mut self.0 {
            let Some((length, body)) = head.read(bytes)? else {
                return Ok(0);
            };
            passed = length;
            self.0 = match body {
                Body::Length(0) => return Ok(self.next(passed)),
                Body::Length(length) => Place::Length(length),
                Body::Chunks => Place::Chunks(Chunk::FIRST),
            };
        }
        let rest = &bytes[passed..];
        match &mut self.0 {
            Place::Head(_) => unreachable!("a head that was read is followed by a body"),
            Place::Length(left) => {
                let now = usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                *left -= now as u64;
                passed += now;
                if *left == 0 {
                    return Ok(self.next(passed));
                }
            }
            Place::Chunks(chunk) => {
                let (now, fine) = chunk.advance(rest);
                passed += now;
                if *chunk == Chunk::End {
                    return Ok(self.next(passed));
                }
                if !fine && passed == 0 {
                    return Err(Fault::Coding);
                }
            }
        }
        Ok(passed)
    }

    /// Whether the next byte belongs to a body: the head before it was handed on.
    pub fn is_in_body(&self) -> bool {
        !matches!(self.0, Place::Head(_))
    }

    fn next(&mut self, passed: usize) -> usize {
        *self = Self::default();
        passed
    }
}

/// What follows a head.
enum Body {
    Length(u64),
    Chunks,
}

/// A head as far as it has come. Each line is looked at once, when it is complete.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is whether one line was there"
)]
struct Head {
    /// Where the first line begins that was not looked at.
    at: usize,
    /// How many were, empty ones before the request aside.
    lines: usize,
    http10: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    expect: bool,
}

impl Head {
    fn read(&mut self, bytes: &[u8]) -> Result<Option<(usize, Body)>, Fault> {
        loop {
            let rest = &bytes[self.at..];
            let Some(end) = memchr(b'\n', rest) else {
                if bytes.len() > HEAD_LIMIT {
                    return Err(Fault::TooLarge);
                }
                // Not waited for: whoever sends this will not send a head.
                let unended = rest.strip_suffix(b"\r").unwrap_or(rest);
                return if is_plain(unended) {
                    Ok(None)
                } else {
                    Err(Fault::Control)
                };
            };
            let line = rest[..end].strip_suffix(b"\r").ok_or(Fault::Control)?;
            self.at += end + 1;
            if self.at > HEAD_LIMIT {
                return Err(Fault::TooLarge);
            }
            if !is_plain(line) {
                return Err(Fault::Control);
            }
            match (self.lines, line) {
                (0, []) => continue,
                (0, line) => self.request_line(line)?,
                (_, []) => return self.body().map(|body| Some((self.at, body))),
                (_, line) => self.field(line)?,
            }
            self.lines += 1;
            if self.lines > 1 + HEAD_LINES {
                return Err(Fault::TooLarge);
            }
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (method, target) = split_at(line, b' ').ok_or(Fault::RequestLine)?;
        let (target, version) = split_at(target, b' ').ok_or(Fault::RequestLine)?;
        self.http10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Fault::RequestLine),
        };
        if method.is_empty() || !method.iter().all(|byte| TOKEN[usize::from(*byte)]) {
            return Err(Fault::RequestLine);
        }
        if method == b"CONNECT" || method == b"TRACE" {
            return Err(Fault::Method);
        }
        if target.first() != Some(&b'/') || !target.iter().all(|byte| TARGET[usize::from(*byte)]) {
            return Err(Fault::Target);
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (name, value) = field(line)?;
        // Told apart by length first: most lines are none of these.
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        match name.len() {
            4 if is("host") => {
                if std::mem::replace(&mut self.host, true) {
                    return Err(Fault::Hosts);
                }
                if value.is_empty() || !value.iter().all(|byte| HOST[usize::from(*byte)]) {
                    return Err(Fault::OddHost);
                }
            }
            6 if is("expect")
                && (std::mem::replace(&mut self.expect, true)
                    || !value.eq_ignore_ascii_case(b"100-continue")) =>
            {
                return Err(Fault::Expect);
            }
            14 if is("content-length") => {
                let length = number(value).ok_or(Fault::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(Fault::Length);
                }
            }
            17 if is("transfer-encoding")
                && (std::mem::replace(&mut self.chunked, true)
                    || self.http10
                    || !value.eq_ignore_ascii_case(b"chunked")) =>
            {
                return Err(Fault::Coding);
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self) -> Result<Body, Fault> {
        if !self.host && !self.http10 {
            return Err(Fault::NoHost);
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::LengthAndCoding),
            (None, true) => Ok(Body::Chunks),
            (length, false) => Ok(Body::Length(length.unwrap_or(0))),
        }
    }
}

/// The name and the value of a line, the value without the blanks around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::Folded);
    }
    // A colon ends a token, and nothing else may.
    let end = line.iter().position(|byte| !TOKEN[usize::from(*byte)]);
    match end.map(|end| line.split_at(end)) {
        Some((name @ [_, ..], [b':', value @ ..])) => Ok((name, value.trim_ascii())),
        _ => Err(Fault::Name),
    }
}

/// A length in decimal digits, in the one spelling it has.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit);
    let one_spelling = matches!(text, [b'0'] | [b'1'..=b'9', ..]);
    // 18 digits never overflow.
    (digits && one_spelling && text.len() <= 18).then(|| {
        text.iter()
            .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    })
}

/// Whether there are no control characters but tabs. Sixteen bytes are looked at at once; the last sixteen may have been
/// before.
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

/// Where in a chunked body the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In a chunk's size, of which so many digits were read.
    Size(u32, u8),
    SizeLf(u32),
    /// In a chunk; so many bytes are left.
    Data(u32),
    DataCr,
    DataLf,
    /// Behind the last chunk, in its trailers or their end; so many bytes of them were read.
    Trailer(TrailerPart, u16),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TrailerPart {
    Start,
    Name,
    Value,
    Lf,
    LastLf,
}

impl Chunk {
    const FIRST: Self = Self::Size(0, 0);

    /// Goes on as far as the bytes are a chunked body: how many were, and whether that was all that are there.
    fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() && *self != Self::End {
            if let Self::Data(left) = *self {
                let now = usize::try_from(left)
                    .map_or(bytes.len() - at, |left| left.min(bytes.len() - at));
                at += now;
                let now = u32::try_from(now).expect("no more than are left of a chunk");
                *self = match left - now {
                    0 => Self::DataCr,
                    left => Self::Data(left),
                };
                continue;
            }
            let Some(next) = self.step(bytes[at]) else {
                return (at, false);
            };
            *self = next;
            at += 1;
        }
        (at, true)
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
            (Self::SizeLf(0), b'\n') => Self::Trailer(Start, 0),
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::FIRST,
            (Self::Trailer(LastLf, _), b'\n') => Self::End,
            (Self::Trailer(_, TRAILER_LIMIT), _) => return None,
            (Self::Trailer(part, read), byte) => {
                let part = match (part, byte) {
                    (Start, b'\r') => LastLf,
                    (Start | Name, byte) if TOKEN[usize::from(byte)] => Name,
                    (Name, b':') => Value,
                    (Value, b'\r') => Lf,
                    (Value, byte) if is_plain(&[byte]) => Value,
                    (Lf, b'\n') => Start,
                    _ => return None,
                };
                Self::Trailer(part, read + 1)
            }
            _ => return None,
        })
    }
}

/// How many bytes of trailers are read before they are too many. Nothing is done with them.
const TRAILER_LIMIT: u16 = 4096;

impl Fault {
    /// All of them, in their order.
    pub const ALL: [Self; 14] = [
        Self::TooLarge,
        Self::RequestLine,
        Self::Method,
        Self::Target,
        Self::Control,
        Self::Folded,
        Self::Name,
        Self::NoHost,
        Self::Hosts,
        Self::OddHost,
        Self::Length,
        Self::Coding,
        Self::LengthAndCoding,
        Self::Expect,
    ];

    /// What is wrong, for the caller.
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
            Self::Length => "Content-Length must stand once, in plain digits",
            Self::Coding => {
                "Transfer-Encoding must be chunked, once, in HTTP/1.1, without chunk extensions"
            }
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding exclude each other",
            Self::Expect => "nothing but 100-continue can be expected, once",
        }
    }

    /// The head that is handed on in place of one that has this fault: nothing of the caller's is in it. No caller can
    /// send it, since TRACE is a fault itself.
    pub fn stand_in(self) -> Vec<u8> {
        format!("TRACE /{} HTTP/1.1\r\n\r\n", self as u8).into_bytes()
    }

    /// The fault of the head that this one stands in for.
    pub fn of(parts: &request::Parts) -> Option<Self> {
        if parts.method != Method::TRACE || parts.version >= Version::HTTP_2 {
            return None;
        }
        let number: usize = parts.uri.path().strip_prefix('/')?.parse().ok()?;
        Self::ALL.get(number).copied()
    }
}

/// The bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = set(b"!#$%&'*+-.^_`|~");
/// The bytes of a path and query as hyper takes them: all of RFC 3986 and a few more.
const TARGET: [bool; 256] = set(b"!$%&'()*+,-./:;=?@[\\]^_{|}~");
/// The bytes of a host and a port.
const HOST: [bool; 256] = set(b"-._~:[]");

/// Letters and digits, and these.
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn the_fault_of_a_stand_in_is_known_from_it_and_no_caller_can_send_it() {
        for (number, fault) in Fault::ALL.into_iter().enumerate() {
            let stand_in = fault.stand_in();
            let line = std::str::from_utf8(&stand_in).unwrap();
            let path = line.split(' ').nth(1).unwrap();
            assert_eq!(path, format!("/{number}"));
            let request = Request::builder().method("TRACE").uri(path);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(Fault::of(&parts), Some(fault));
            assert_eq!(Framing::default().pass(&stand_in), Err(Fault::Method));
        }
        let two = Request::builder().method("TRACE").version(Version::HTTP_2);
        let (parts, ()) = two.uri("/1").body(()).unwrap().into_parts();
        assert_eq!(Fault::of(&parts), None, "HTTP/2 has frames");
    }
}
