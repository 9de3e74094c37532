//! HTTP/2 request heads under the rules of HTTP/1: the library accepts more, and two forms of the authority.

use gatepay_http1::request_parser::{self, FramingError};
use http::header::{EXPECT, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method};

/// Refuses a head for the faults for which an HTTP/1 head would be refused.
///
/// One rule cannot be enforced: the `http` crate cuts `:path` at `#` before this code sees it.
///
/// # Errors
/// The first fault found.
pub fn check(parts: &Parts) -> Result<(), FramingError> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(FramingError::Method);
    }
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    if !request_parser::is_target(target.as_bytes()) {
        return Err(FramingError::Target);
    }
    let mut expected = parts.headers.get_all(EXPECT).iter();
    if let Some(expect) = expected.next()
        && (expected.next().is_some() || !expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(FramingError::Expect);
    }
    check_host(parts)
}

/// Requires exactly one host: in `:authority`, in `Host`, or the same in both (RFC 9113, section 8.3.1).
fn check_host(parts: &Parts) -> Result<(), FramingError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(FramingError::Hosts);
    }
    let authority = parts.uri.authority().map(Authority::as_str);
    let authority = authority.map(str::as_bytes);
    for named in [authority, host].into_iter().flatten() {
        if !request_parser::is_host(named) {
            return Err(FramingError::OddHost);
        }
    }
    match (authority, host) {
        (None, None) => Err(FramingError::NoHost),
        (Some(authority), Some(host)) if !is_same(parts.uri.scheme_str(), authority, host) => {
            Err(FramingError::OtherHost)
        }
        _ => Ok(()),
    }
}

/// Whether both name the same host and port, regardless of case. The scheme's default port may be left out.
fn is_same(scheme: Option<&str>, one: &[u8], other: &[u8]) -> bool {
    let port: &[u8] = match scheme {
        Some("https") => b":443",
        _ => b":80",
    };
    let plain = |named: &[u8]| {
        let lower = named.to_ascii_lowercase();
        lower
            .strip_suffix(port)
            .map_or(lower.clone(), <[u8]>::to_vec)
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests;
