//! Response encoder: writes an answer to a caller, in the framing that the caller's version knows.

use http::{StatusCode, header};

use crate::response_parser::ResponseHead;
use crate::wire_lines;

/// The interim answer that tells an expecting caller to send the body (RFC 9110, 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The chunk that ends a body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The line end after the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The traits of a request that decide how its answer is written.
#[derive(Debug, Clone, Copy)]
pub struct RequestTraits {
    /// The method is HEAD: the answer has no body.
    pub for_head: bool,
    /// The request is HTTP/1.0.
    pub is_old: bool,
    /// The connection may be used for another request.
    pub keeps: bool,
}

impl RequestTraits {
    /// The traits of a request with a refused head: its answer ends the connection.
    pub const UNREADABLE: Self = Self {
        for_head: false,
        is_old: false,
        keeps: false,
    };
}

/// How the end of an answer is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerFraming {
    /// The answer has no body.
    AtOnce,
    /// The answer states its length, in bytes.
    Length(u64),
    /// A last chunk ends the answer.
    Chunks,
    /// The end of the connection ends the answer.
    Closing,
}

impl AnswerFraming {
    /// The framing of an answer with a body of this length, if the length is known (RFC 9112, 6).
    pub fn of(status: StatusCode, length: Option<u64>, asked: RequestTraits) -> Self {
        match length {
            _ if matches!(status.as_u16(), 204 | 304) => Self::AtOnce,
            Some(length) => Self::Length(length),
            None if asked.is_old => Self::Closing,
            None => Self::Chunks,
        }
    }
}

/// Writes the head of an answer to `out`. `date` gives the value of `Date` if the answer has none.
pub fn write_head<D: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    asked: RequestTraits,
    ends: AnswerFraming,
    date: impl FnOnce() -> D,
) {
    let ResponseHead { status, fields, .. } = head;
    let version: &[u8] = if asked.is_old {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    };
    let reason = status.canonical_reason().unwrap_or_default();
    for part in [
        version,
        status.as_str().as_bytes(),
        b" ",
        reason.as_bytes(),
        b"\r\n",
        fields.as_bytes(),
    ] {
        out.extend_from_slice(part);
    }
    match ends {
        AnswerFraming::AtOnce | AnswerFraming::Closing => {}
        AnswerFraming::Length(length) => wire_lines::write_length(out, length),
        AnswerFraming::Chunks => wire_lines::write(out, &header::TRANSFER_ENCODING, b"chunked"),
    }
    if fields.get(&header::DATE).is_none() {
        wire_lines::write(out, &header::DATE, date().as_ref());
    }
    match (asked.keeps, asked.is_old) {
        (false, _) => wire_lines::write(out, &header::CONNECTION, b"close"),
        (true, true) => wire_lines::write(out, &header::CONNECTION, b"keep-alive"),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the size line of a chunk with this many bytes.
pub fn write_chunk_size(out: &mut Vec<u8>, bytes: usize) {
    let size = format!("{bytes:x}\r\n");
    out.extend_from_slice(size.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_coding::ContentCoding;
    use crate::header_block::HeaderBlock;
    use crate::response_parser::{self, ResponseEvent, ResponseFraming};
    use bytes::BytesMut;
    use proptest::prelude::*;

    const DATE: &[u8] = b"Thu, 01 Jan 1970 00:00:00 GMT";

    fn written(
        status: u16,
        fields: &[(&str, &str)],
        asked: RequestTraits,
        length: Option<u64>,
    ) -> Vec<u8> {
        let mut head = ResponseHead {
            status: status.try_into().unwrap(),
            fields: HeaderBlock::default(),
            coding: ContentCoding::Identity,
        };
        for (name, value) in fields {
            head.fields.add(name, value);
        }
        let mut out = Vec::new();
        let ends = AnswerFraming::of(head.status, length, asked);
        write_head(&mut out, &head, asked, ends, || DATE);
        out
    }

    #[test]
    fn a_head_tells_the_end_of_its_body_in_the_callers_version() {
        let new = RequestTraits {
            keeps: true,
            ..RequestTraits::UNREADABLE
        };
        let old = RequestTraits {
            is_old: true,
            ..new
        };
        let of = |asked, length| {
            let head = written(200, &[("Date", "today")], asked, length);
            String::from_utf8(head).unwrap()
        };
        let date = "Date: today\r\n";
        for (asked, length, first, rest) in [
            (new, Some(2), "1.1", "content-length: 2\r\n"),
            (new, None, "1.1", "transfer-encoding: chunked\r\n"),
            (
                old,
                Some(0),
                "1.0",
                "content-length: 0\r\nconnection: keep-alive\r\n",
            ),
            (
                RequestTraits {
                    keeps: false,
                    ..old
                },
                None,
                "1.0",
                "connection: close\r\n",
            ),
        ] {
            let expected = format!("HTTP/{first} 200 OK\r\n{date}{rest}\r\n");
            assert_eq!(of(asked, length), expected);
        }
        let none = written(204, &[], new, Some(3));
        let expected = [b"HTTP/1.1 204 No Content\r\ndate: ", DATE, b"\r\n\r\n"].concat();
        assert_eq!(none, expected);
    }

    proptest! {
        #[test]
        fn an_answer_is_read_as_it_was_written(
            status in prop_oneof![Just(200_u16), Just(404), Just(503)],
            value in "[!-~]([ -~]{0,40}[!-~])?",
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..5),
            is_chunked: bool,
        ) {
            let whole = pieces.concat();
            let asked = RequestTraits { keeps: true, ..RequestTraits::UNREADABLE };
            let length = (!is_chunked).then_some(whole.len() as u64);
            let mut wire = written(status, &[("X-Lab", &value)], asked, length);
            for piece in &pieces {
                if is_chunked {
                    write_chunk_size(&mut wire, piece.len());
                }
                wire.extend_from_slice(piece);
                if is_chunked {
                    wire.extend_from_slice(CHUNK_END);
                }
            }
            if is_chunked {
                wire.extend_from_slice(LAST_CHUNK);
            }
            let mut received = BytesMut::from(&wire[..]);
            let head = response_parser::head(&mut received, 0, |_| true).unwrap();
            let mut head = head.expect("it is complete");
            prop_assert_eq!(head.parts.status.as_u16(), status);
            prop_assert!(head.keeps && head.rest != ResponseFraming::UntilClosed);
            let line = head.parts.fields.get(&http::HeaderName::from_static("x-lab"));
            prop_assert_eq!(line, Some(value.as_bytes()));
            let mut body = Vec::new();
            while let ResponseEvent::Piece(piece) = head.rest.step(&mut received).unwrap() {
                body.extend_from_slice(&piece);
            }
            prop_assert_eq!(body, whole);
            prop_assert_eq!(head.rest.step(&mut received), Ok(ResponseEvent::Over));
            prop_assert!(received.is_empty());
        }
    }
}
