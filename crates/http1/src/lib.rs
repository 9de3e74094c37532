//! HTTP/1 messages: parsers, framing and encoders of both directions. Each message has a single possible start and end.
//!
//! The proxy reads requests of callers and answers of GatePay with this crate, and writes both with it. The crate is
//! pure: bytes in, spans and bytes out. It has no I/O, no clock and no async runtime; the proxy's `listener` and
//! `upstream` own the sockets.
//!
//! # One reading
//!
//! Request smuggling needs two parsers that read the same bytes differently: a load balancer before the proxy, and the
//! proxy; or the proxy, and GatePay's front. So a request that two parsers in use may read differently is refused, even
//! where RFC 9112 lets a server repair it. A refused request is the last of its connection.
//!
//! | refused in a request | because | RFC |
//! | --- | --- | --- |
//! | a line that ends in LF alone, a CR inside a line, other control characters | some parsers end a line there | 9112, 2.2; 9110, 5.5 |
//! | a folded line | some parsers read it as a line of its own | 9112, 5.2 |
//! | blanks before a colon, a name that is no token | some parsers drop the line, some the blanks | 9112, 5.1 |
//! | several blanks in the request line, a version besides 1.1 and 1.0 | the parts of the line move | 9112, 3 and 2.3 |
//! | a target that is no path: a URL, `*`, `host:port`, or one with `#` | its host may contradict `Host`; parsers cut at `#` | 9112, 3.2 |
//! | no `Host` in HTTP/1.1, two, or one that is no host | parsers take the first, the last, or the target's | 9112, 3.2 |
//! | two lengths, even equal ones, a list, a sign, leading zeros, more than 18 digits | parsers take the first, the last, or overflow | 9112, 6.3; 9110, 8.6 |
//! | a length beside a transfer coding | parsers differ about which counts | 9112, 6.1 and 6.3 |
//! | a transfer coding that is not `chunked` once, or any in HTTP/1.0 | parsers skip a coding they do not know | 9112, 6.1 |
//! | chunk extensions, blanks in a chunk's size, more than 8 digits, a bare LF | parsers differ about where they end | 9112, 7.1 and 7.1.1 |
//! | trailers that would be refused as header lines | they are read by the rules of the head, its number of lines included, and dropped | 9112, 7.1.2 |
//! | an expectation besides one `100-continue` | the proxy cannot meet it | 9110, 10.1.1 |
//! | `CONNECT` and `TRACE` | bytes after `CONNECT` are no message; `TRACE` returns secrets | 9110, 9.3.6 and 9.3.8 |
//! | a head over 16 KiB or 64 lines | memory | 9110, 5.4 |
//!
//! An answer is read as a client may read it (folded lines, LF alone), because a refused answer to a payment is an
//! unknown outcome. Only an answer with two possible ends is refused: contradicting lengths, a length beside a transfer
//! coding, broken chunks. A connection that carried an odd answer serves no other request.
//!
//! # Example
//!
//! ```
//! use gatepay_http1::request_parser::{BodyFraming, FramingError, RequestParser};
//!
//! let mut parser = RequestParser::default();
//! let bytes = b"POST /v1/pay HTTP/1.1\r\nHost: pay.example\r\nContent-Length: 2\r\n\r\n{}";
//! // Parsing continues where it stopped, when more bytes have arrived.
//! assert_eq!(parser.read(&bytes[..20]), Ok(None));
//! let length = parser.read(bytes)?.expect("the head is complete");
//! assert_eq!(&bytes[length..], b"{}");
//! assert_eq!(parser.rest(), BodyFraming::Length(2));
//! let head = parser.head(bytes);
//! assert_eq!((head.method, head.path), ("POST", "/v1/pay"));
//! assert!(head.all("host").eq([b"pay.example"]));
//!
//! parser.reset();
//! let two_lengths = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 0\r\n\r\n{}";
//! assert_eq!(parser.read(two_lengths), Err(FramingError::Length));
//! # Ok::<(), FramingError>(())
//! ```
//!
//! Read [`request_parser`] first, then [`response_parser`], then the two encoders.

pub mod request_parser;
pub mod response_parser;

pub mod request_encoder;
pub mod response_encoder;

pub mod request_head;

pub mod body_buffer;
pub mod content_coding;

pub mod buffer_pool;
pub mod header_block;
pub mod wire_lines;
