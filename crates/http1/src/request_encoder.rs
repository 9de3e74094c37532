//! Request encoder: writes the head of a request.

use std::ops::Range;

use crate::wire_lines;

/// Whether no byte of this path, or of this query, can end the target or begin another part of it.
pub fn is_target_part(part: &str) -> bool {
    let is_one = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'#';
    // One check of all bytes without a branch is several times cheaper than a branch for each byte.
    part.bytes().fold(true, |all, byte| all & is_one(byte))
}

/// Writes a request line to the end of `head`, and returns the place of the query in `head`.
///
/// Path and query are parts of a parsed URI, or [`is_target_part`] holds for them.
pub fn write_request_line(
    head: &mut Vec<u8>,
    method: &str,
    path: &str,
    query: Option<&str>,
) -> Option<Range<usize>> {
    head.extend_from_slice(method.as_bytes());
    head.push(b' ');
    head.extend_from_slice(path.as_bytes());
    let query = query.map(|query| {
        head.push(b'?');
        head.extend_from_slice(query.as_bytes());
        head.len() - query.len()..head.len()
    });
    head.extend_from_slice(b" HTTP/1.1\r\n");
    query
}

/// Writes the length of the body, if it is stated, and the end of the head.
///
/// A request without a body states its length only if its method usually has a body (RFC 9110, 8.6).
pub fn write_end(head: &mut Vec<u8>, body: usize, usually_has_body: bool) {
    if body > 0 || usually_has_body {
        wire_lines::write_length(head, body as u64);
    }
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_parser::{BodyFraming, RequestParser};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written(
            path in "/[!-~&&[^#?\"<>`]]{0,40}",
            query in proptest::option::of("[!-~&&[^#\"<>`]]{0,40}"),
            value in "[!-~]([ -~]{0,40}[!-~])?",
            body in 0_usize..100_000,
            posts: bool,
        ) {
            let method = if posts { "POST" } else { "GET" };
            let mut head = Vec::new();
            let at = write_request_line(&mut head, method, &path, query.as_deref());
            prop_assert_eq!(at.map(|at| &head[at]), query.as_deref().map(str::as_bytes));
            wire_lines::write(&mut head, "Host", b"x");
            wire_lines::write(&mut head, "X-Lab", value.as_bytes());
            write_end(&mut head, body, posts);
            let mut parser = RequestParser::default();
            prop_assert_eq!(parser.read(&head), Ok(Some(head.len())));
            prop_assert_eq!(parser.rest(), BodyFraming::Length(body as u64));
            let read = parser.head(&head);
            prop_assert_eq!((read.method, read.path, read.query), (method, &path[..], query.as_deref()));
            prop_assert!(read.all("x-lab").eq([value.as_bytes()]));
        }
    }

    #[test]
    fn no_part_of_a_target_ends_it() {
        for part in ["", "a=b&c", "%20", "\u{e9}"] {
            assert!(is_target_part(part), "{part:?}");
        }
        for part in ["a b", "a\r\nX: y", "a#b", "a\u{7f}", "\t", "\0"] {
            assert!(!is_target_part(part), "{part:?}");
        }
    }
}
