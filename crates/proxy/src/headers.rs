//! Header names and lists: the headers that are read, sent to GatePay, and returned.

use std::cell::Cell;

use http::header::HeaderName;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// `X-GatePay-Certificate-ClientId`.
pub const CLIENT_ID: HeaderName = HeaderName::from_static(gatepay_core::header::CLIENT_ID);
/// `X-GatePay-Timestamp`.
pub const TIMESTAMP: HeaderName = HeaderName::from_static(gatepay_core::header::TIMESTAMP);
/// `X-GatePay-Nonce`.
pub const NONCE: HeaderName = HeaderName::from_static(gatepay_core::header::NONCE);
/// `X-GatePay-Signature`.
pub const SIGNATURE: HeaderName = HeaderName::from_static(gatepay_core::header::SIGNATURE);

/// The scheme that every 401 names (RFC 9110, 11.6.1): it stands for the four headers above. Some clients report an I/O
/// error for a 401 without a scheme. Clients pass a 401 with an unknown scheme on to their caller.
pub const SCHEME: &str = "GatePay";

/// The id of this request in logs and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's trace (W3C Trace Context).
const TRACEPARENT: &str = "traceparent";
/// The response header that tells the caller our part of the trace.
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");
/// The slug of a refusal, which marks answers of the proxy, as opposed to GatePay's.
pub const REFUSAL: HeaderName = HeaderName::from_static("x-gatepay-proxy-refusal");
/// The rate limit that applied.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The remainder of that rate limit.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The outcome of the call: `not-executed`, `unknown`, `found`, `executed` or `refused`.
pub const OUTCOME: HeaderName = HeaderName::from_static("x-gatepay-proxy-outcome");

/// The name under which a header line of a tenant is forwarded, if it is: besides `Content-Type` no other header is
/// (design). The tenant's own `X-GatePay-*` values are rebuilt.
pub fn to_gatepay(name: &[u8]) -> Option<&'static str> {
    // Compared with constants, as in `passes`: with a name from a table a comparison takes several times as long.
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        6 if is("accept") => Some("accept"),
        10 if is("user-agent") => Some("user-agent"),
        15 if is("accept-language") => Some("accept-language"),
        _ => None,
    }
}

/// A header that may occur once occurred more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepeatedHeader;

/// The value of a header that may occur at most once.
pub type AtMostOnce<'a> = Result<Option<&'a [u8]>, RepeatedHeader>;

/// The headers of a caller that the proxy itself reads, found in one pass.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is the header of its name")]
pub struct KnownHeaders<'a> {
    pub client_id: AtMostOnce<'a>,
    pub timestamp: AtMostOnce<'a>,
    pub nonce: AtMostOnce<'a>,
    pub signature: AtMostOnce<'a>,
    pub on_behalf_of: AtMostOnce<'a>,
    pub content_type: AtMostOnce<'a>,
    pub traceparent: AtMostOnce<'a>,
    /// The number of header lines.
    pub count: usize,
    /// The number of bytes of the header lines.
    pub bytes: usize,
}

impl<'a> KnownHeaders<'a> {
    /// The result for a head without these headers.
    pub const NONE: Self = Self {
        client_id: Ok(None),
        timestamp: Ok(None),
        nonce: Ok(None),
        signature: Ok(None),
        on_behalf_of: Ok(None),
        content_type: Ok(None),
        traceparent: Ok(None),
        count: 0,
        bytes: 0,
    };

    /// Reads a head, line by line.
    pub fn read(head: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut lines = Self::NONE;
        for (name, value) in head {
            lines.count += 1;
            lines.bytes += name.len() + value.len() + 4;
            // Texts, since a constant `HeaderName` is made and dropped wherever it is named.
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
            // Distinguished by length first: most lines are none of these.
            let line = match name.len() {
                11 if is(TRACEPARENT) => &mut lines.traceparent,
                12 if is("content-type") => &mut lines.content_type,
                15 if is(gatepay_core::header::NONCE) => &mut lines.nonce,
                19 if is(gatepay_core::header::TIMESTAMP) => &mut lines.timestamp,
                19 if is(gatepay_core::header::SIGNATURE) => &mut lines.signature,
                22 if is(gatepay_core::header::ON_BEHALF_OF) => &mut lines.on_behalf_of,
                30 if is(gatepay_core::header::CLIENT_ID) => &mut lines.client_id,
                _ => continue,
            };
            *line = match line {
                Ok(None) => Ok(Some(value)),
                _ => Err(RepeatedHeader),
            };
        }
        lines
    }
}

/// This second in the format of `Date`. Most answers carry GatePay's own `Date`.
pub fn date(unix_s: u64) -> [u8; DATE] {
    thread_local! {
        static LAST: Cell<(u64, [u8; DATE])> = const { Cell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")) };
    }
    let (second, text) = LAST.get();
    if second == unix_s {
        return text;
    }
    let now = i64::try_from(unix_s)
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok());
    let now = now.and_then(|now| {
        DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&now)
            .ok()
    });
    let text = now
        .and_then(|now| now.as_bytes().try_into().ok())
        .unwrap_or(text);
    LAST.set((unix_s, text));
    text
}

/// The length of a `Date`, in bytes.
pub const DATE: usize = 29;

/// Whether a header line of GatePay's answer may reach a caller. Excluded are hop-by-hop headers, headers about
/// GatePay's own site, and headers that mark an answer as the proxy's.
pub fn passes(name: &str) -> bool {
    // Distinguished by length first: few headers that pass have the length of an excluded one.
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let stays = match name.len() {
        2 => is("te"),
        6 => is("server"),
        7 => is("trailer") || is("upgrade") || is("alt-svc"),
        10 => is("connection") || is("keep-alive") || is("set-cookie"),
        12 => is("x-request-id"),
        13 => is("traceresponse"),
        // `Content-Length` is written anew, from the body that is relayed.
        14 => is("content-length"),
        // GatePay's challenge addresses the institution; a client that received it would repeat the call with other
        // credentials.
        16 => is("proxy-connection") || is("www-authenticate"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        25 => is("strict-transport-security"),
        _ => false,
    };
    !stays && !is_ours(name)
}

/// Whether the name has a prefix of the proxy's own headers: the outcome of a call, and the rate limits of the tenant.
/// GatePay's rate limits are the institution's, and a client that heeds them would wait for the wrong limits.
fn is_ours(name: &str) -> bool {
    const BEGINNINGS: [&str; 4] = [
        "ratelimit",
        "x-ratelimit",
        "x-rate-limit",
        "x-gatepay-proxy-",
    ];
    let begins = |with: &&str| {
        let beginning = name.as_bytes().get(..with.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(with.as_bytes()))
    };
    matches!(name.as_bytes(), [b'r' | b'R' | b'x' | b'X', ..]) && BEGINNINGS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_http1::request_head::{FieldSpan, RequestHead};
    use gatepay_http1::response_parser;
    use http::{Request, header, request};

    fn parts(lines: &[(&str, &str)]) -> request::Parts {
        let request = Request::builder();
        let request = lines.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_repeated_header_is_never_read_as_its_first_value() {
        let parts = parts(&[
            ("x-gatepay-nonce", "a"),
            ("X-GatePay-Timestamp", "1"),
            ("x-gatepay-nonce", "b"),
            ("x-gatepay-nonce", "b"),
        ]);
        let lines = KnownHeaders::read(RequestHead::of_parts(&parts).lines());
        assert_eq!(lines.nonce, Err(RepeatedHeader));
        assert_eq!(lines.timestamp, Ok(Some(&b"1"[..])));
        assert_eq!(lines.signature, Ok(None));
        assert_eq!((lines.count, lines.bytes), (4, 64 + 4 + 4 * 4));
    }

    #[test]
    fn names_are_told_apart_in_any_spelling() {
        for name in [
            gatepay_core::header::CLIENT_ID,
            gatepay_core::header::TIMESTAMP,
            gatepay_core::header::NONCE,
            gatepay_core::header::SIGNATURE,
            gatepay_core::header::ON_BEHALF_OF,
            "content-type",
            TRACEPARENT,
        ] {
            for name in [name.to_owned(), name.to_uppercase()] {
                let value = u16::try_from(name.len() + 2).unwrap();
                let text = format!("{name}: x");
                let at = [FieldSpan {
                    name: (0, value - 2),
                    value: (value, value + 1),
                }];
                let lines = KnownHeaders::read(
                    RequestHead::of_text("GET", "/", text.as_bytes(), &at).lines(),
                );
                let read = [
                    lines.client_id,
                    lines.timestamp,
                    lines.nonce,
                    lines.signature,
                    lines.on_behalf_of,
                    lines.content_type,
                    lines.traceparent,
                ];
                let found: Vec<_> = read.into_iter().filter_map(|line| line.unwrap()).collect();
                assert_eq!(found, [b"x"], "{name}");
            }
        }
        assert_eq!(to_gatepay(b"ACCEPT"), Some("accept"));
        assert_eq!(to_gatepay(b"accept-encoding"), None);
    }

    #[test]
    fn hop_by_hop_headers_and_the_proxys_own_headers_do_not_pass() {
        for name in [
            REQUEST_ID,
            REFUSAL,
            OUTCOME,
            TRACERESPONSE,
            RATELIMIT,
            RATELIMIT_POLICY,
            HeaderName::from_static("ratelimit-limit"),
            HeaderName::from_static("ratelimit-reset"),
            HeaderName::from_static("x-ratelimit-remaining"),
            HeaderName::from_static("x-rate-limit-limit"),
            HeaderName::from_static("x-gatepay-proxy-anything"),
            header::CONNECTION,
            HeaderName::from_static("keep-alive"),
            HeaderName::from_static("proxy-connection"),
            header::PROXY_AUTHENTICATE,
            header::PROXY_AUTHORIZATION,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            header::CONTENT_LENGTH,
            header::SET_COOKIE,
            header::ALT_SVC,
            header::STRICT_TRANSPORT_SECURITY,
            header::SERVER,
        ] {
            assert!(!passes(name.as_str()), "{name}");
            assert!(!passes(&name.as_str().to_uppercase()), "{name}");
        }
        for name in [
            "x",
            "rate",
            "x-rate",
            "retry-after",
            "x-gatepay-timestamp",
            "date",
        ] {
            assert!(passes(name), "{name}");
        }
    }

    #[test]
    fn no_hop_by_hop_header_or_header_of_the_proxys_own_is_taken_from_an_answer() {
        let answer = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nconnection: x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
             Set-Cookie: a\r\nset-cookie: b\r\nX-GatePay-Proxy-Refusal: forged\r\nX-Lab: stays\r\nx-lab: too\r\n\r\n";
        let head = response_parser::head(&mut answer.as_bytes().into(), 0, passes);
        let head = head.unwrap().expect("the head is complete");
        let fields = head.parts.fields.as_bytes();
        assert_eq!(fields, b"X-Lab: stays\r\nx-lab: too\r\n");
    }
}
