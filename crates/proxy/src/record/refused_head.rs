//! The stamps that a refused head shows, so that the refusal's outcome covers every copy of the request.
//!
//! A copy may be torn or changed on the way: a field line may be repeated, folded or cut off. So every client id,
//! timestamp and nonce that a lenient reader finds counts, in each combination. The replay memory is only asked about
//! these stamps: nothing is admitted by them.

use std::borrow::Cow;
use std::str;

use arrayvec::ArrayVec;
use gatepay_admission::replay::EarlierCopy;
use gatepay_core::{Stamp, header};

/// Client ids, timestamps and nonces of a head that was refused before its caller was identified.
#[derive(Default)]
pub struct RefusedHead<'a> {
    client_ids: StampValues<'a>,
    timestamps: StampValues<'a>,
    nonces: StampValues<'a>,
    /// Whether the rest of the head did not arrive, or was not read.
    is_cut: bool,
    /// Whether a field is repeated more than `MOST` times.
    is_beyond: bool,
}

type StampValues<'a> = ArrayVec<Cow<'a, [u8]>, MOST>;

/// The most values of each field that are asked about. No client signs a head that has more.
const MOST: usize = 4;

impl<'a> RefusedHead<'a> {
    /// Takes the stamp fields from a head that arrived whole, as names and values.
    pub fn of_lines(lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut head = Self::default();
        for (name, value) in lines {
            head.line(name, value);
        }
        head
    }

    /// Takes the stamp fields from the bytes so far of a head that the [parser](gatepay_http1::request_parser) refuses.
    /// Lines end at LF or CR, and a line that begins with a blank continues the line before.
    pub fn of_bytes(bytes: &'a [u8]) -> Self {
        let begin = bytes.iter().position(|byte| !is_end_of_line(*byte));
        let bytes = &bytes[begin.unwrap_or(bytes.len())..];
        let end = end_of_head(bytes);
        let mut head = Self {
            is_cut: end.is_none(),
            ..Self::default()
        };
        let mut last: &[u8] = &[];
        let whole = &bytes[..end.unwrap_or(bytes.len())];
        for line in whole.split(|byte| is_end_of_line(*byte)) {
            match line {
                [] => {}
                [b' ' | b'\t', ..] => head.continues(last, line.trim_ascii()),
                _ => {
                    let colon = line.iter().position(|byte| *byte == b':');
                    let (name, value) = line.split_at(colon.unwrap_or(line.len()));
                    last = name.trim_ascii();
                    head.line(last, value.get(1..).unwrap_or_default().trim_ascii());
                }
            }
        }
        head
    }

    fn line(&mut self, name: &[u8], value: &'a [u8]) {
        let is_full = self
            .values(name)
            .is_some_and(|values| values.try_push(Cow::Borrowed(value)).is_err());
        self.is_beyond |= is_full;
    }

    /// Appends a piece of a folded line to the value, after a blank.
    fn continues(&mut self, name: &[u8], piece: &[u8]) {
        if let Some(last) = self.values(name).and_then(|values| values.last_mut()) {
            if !last.is_empty() && !piece.is_empty() {
                last.to_mut().push(b' ');
            }
            last.to_mut().extend_from_slice(piece);
        }
    }

    fn values(&mut self, name: &[u8]) -> Option<&mut StampValues<'a>> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is(header::CLIENT_ID) {
            Some(&mut self.client_ids)
        } else if is(header::TIMESTAMP) {
            Some(&mut self.timestamps)
        } else if is(header::NONCE) {
            Some(&mut self.nonces)
        } else {
            None
        }
    }

    /// Why a copy of the request may have been executed, by the answers of `ask` about each stamp in the head. A whole
    /// head without a stamp was not signed, so it has no copy. A cut head without a stamp stays in doubt.
    pub fn doubt(
        &self,
        ask: impl Fn(&str, &Stamp<'_>) -> Option<EarlierCopy>,
    ) -> Option<EarlierCopy> {
        let has_all = ![&self.client_ids, &self.timestamps, &self.nonces]
            .iter()
            .any(|values| values.is_empty());
        if self.is_beyond || (self.is_cut && !has_all) {
            return Some(EarlierCopy::Unreadable);
        }
        let stamps = self.timestamps.iter().flat_map(|timestamp| {
            let nonces = self.nonces.iter();
            nonces.filter_map(|nonce| Stamp::parse(timestamp, nonce).ok())
        });
        let mut client_ids = self.client_ids.iter();
        client_ids.find_map(|client_id| {
            let client_id = str::from_utf8(client_id).ok()?;
            stamps.clone().find_map(|stamp| ask(client_id, &stamp))
        })
    }
}

fn is_end_of_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// The position at which the first empty line of a head begins, with LF or CRLF as line ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut ends = (0..bytes.len()).filter(|at| bytes[*at] == b'\n');
    ends.find(|at| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ADMITTED: EarlierCopy = EarlierCopy::Admitted { admitted_ms: 7 };

    /// The doubt about a head when nonce `once` at timestamp 17 by `acme` was admitted.
    fn doubt(head: &str) -> Option<EarlierCopy> {
        RefusedHead::of_bytes(head.as_bytes()).doubt(|client_id, stamp| {
            let stamp = (client_id, stamp.timestamp(), stamp.nonce());
            (stamp == ("acme", "17", "once")).then_some(ADMITTED)
        })
    }

    const ID: &str = "X-GatePay-Certificate-ClientId: acme\r\n";
    const TIME: &str = "x-gatepay-timestamp: 17\r\n";
    const NONCE: &str = "X-Gatepay-Nonce: once\r\n";

    #[test]
    fn a_stamp_is_found_however_a_head_is_torn() {
        for head in [
            format!("POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n{ID}{TIME}{NONCE}\r\n"),
            format!("POST / HTTP/1.1\n{ID}{TIME}{NONCE}\n"),
            format!("\r\n\r\nPOST / HTTP/1.1\r\n{NONCE}{TIME}{ID}"),
            format!("POST / HTTP/1.1\r{ID}{TIME}{NONCE}\r\n"),
            format!("POST / HTTP/1.1\r\n{ID}{TIME}X-GatePay-Nonce : \tonce \r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ID}{TIME}X-GatePay-Nonce:\r\n once\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{ID}{ID}{TIME}x-gatepay-nonce: other\r\n{NONCE}\r\n"),
            format!("{ID}{TIME}{NONCE}\r\n"),
        ] {
            assert_eq!(doubt(&head), Some(ADMITTED), "{head:?}");
            let other = head.replace("acme", "another");
            assert_eq!(doubt(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_head_that_shows_no_stamp_is_certain_only_if_it_is_whole() {
        for (head, certain) in [
            (
                "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
                true,
            ),
            ("nonsense\r\n\r\n".to_owned(), true),
            (format!("GET / HTTP/1.1\r\n{ID}{TIME}\r\n{NONCE}"), true),
            (
                format!("GET / HTTP/1.1\r\n{ID}{TIME}x-gatepay-nonce: on\u{1}ce\r\n\r\n"),
                true,
            ),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n".to_owned(), false),
            (format!("GET / HTTP/1.1\r\n{ID}{TIME}X-GatePay-No"), false),
            (format!("GET /{}", "x".repeat(20_000)), false),
            (String::new(), false),
        ] {
            let expected = (!certain).then_some(EarlierCopy::Unreadable);
            assert_eq!(doubt(&head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_head_that_shows_more_stamps_than_any_client_signs_is_not_certain() {
        let head = |nonces: usize| {
            let other = "x-gatepay-nonce: other\r\n".repeat(nonces);
            format!("GET / HTTP/1.1\r\n{ID}{TIME}{other}\r\n")
        };
        assert_eq!(doubt(&head(MOST)), None);
        assert_eq!(doubt(&head(MOST + 1)), Some(EarlierCopy::Unreadable));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reading_of_a_refused_head_panic(bytes: Vec<u8>, head in "(x-gatepay-nonce|[\r\n :a-z]){0,40}") {
            let _unasked = RefusedHead::of_bytes(&bytes).doubt(|_, _| None);
            let _unasked = RefusedHead::of_bytes(head.as_bytes()).doubt(|_, _| None);
        }
    }
}
