//! A caller's trace (W3C Trace Context), by which the caller's own tracing leads to the access line.
//!
//! The proxy reads, logs and answers the trace, and does not forward it: GatePay gets only the fields of a caller's
//! head that `headers` lists.

use crate::headers::KnownHeaders;

/// The fields of a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace id.
    pub id: [u8; 16],
    /// The caller's span in the trace.
    pub parent: [u8; 8],
    flags: u8,
}

/// Length in bytes of `00-` trace id `-` parent id `-` flags.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;

impl TraceContext {
    /// Reads the trace from a head. A malformed or repeated `traceparent` counts as none, as the standard requires.
    pub fn read(lines: &KnownHeaders<'_>) -> Option<Self> {
        Self::parse(lines.traceparent.ok()??)
    }

    /// Reads version 00, and the part of later versions that equals version 00.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let [version] = digits(&known[..2])?;
        let ends = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let (id, parent) = (digits(&known[3..35])?, digits(&known[36..52])?);
        let [flags] = digits(&known[53..])?;
        (ends && dashes && id != [0; 16] && parent != [0; 8]).then_some(Self { id, parent, flags })
    }

    /// Whether the caller's tracing samples this request, so that its access line will be wanted.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The answer's `traceparent`: the caller's trace with the proxy's span.
    pub fn answer(&self, span: [u8; 8]) -> [u8; LENGTH] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let parts = [
            (3..35, &self.id[..]),
            (36..52, &span),
            (53..55, &[self.flags & SAMPLED]),
        ];
        for (place, bytes) in parts {
            hex::encode_to_slice(bytes, &mut text[place]).expect("two digits for every byte");
        }
        text
    }
}

/// Decodes lower-case hexadecimal digits: the standard allows no others.
fn digits<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let mut bytes = [0; N];
    (text.iter().all(lower) && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_http1::request_head::RequestHead;
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text.as_bytes())
    }

    #[test]
    fn a_trace_is_answered_with_our_own_part_of_it() {
        let trace = parse(GOOD).unwrap();
        assert!(trace.is_sampled());
        assert_eq!(
            &trace.answer([0xab; 8]),
            b"00-0af7651916cd43dd8448eb211c80319c-abababababababab-01"
        );
        let unsampled = parse(&GOOD.replace("-01", "-02")).unwrap();
        assert!(!unsampled.is_sampled());
        assert!(unsampled.answer([1; 8]).ends_with(b"-00"));
    }

    #[test]
    fn of_a_later_version_the_part_that_is_known_is_read() {
        let later = GOOD.replace("00-0", "cc-0");
        assert_eq!(parse(&later), parse(GOOD));
        assert_eq!(
            parse(&format!("{later}-what-the-future-holds")),
            parse(GOOD)
        );
        assert_eq!(parse(&format!("{later}.")), None);
    }

    #[test]
    fn what_the_standard_forbids_says_nothing() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}-01"),
            &GOOD.replace("00-0", "ff-0"),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('b', "g"),
            &format!(" {}", &GOOD[1..]),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_that_stands_twice_says_nothing() {
        let read = |lines: &[&str]| {
            let request = lines
                .iter()
                .fold(http::Request::builder(), |request, line| {
                    request.header("traceparent", *line)
                });
            let (parts, ()) = request.body(()).unwrap().into_parts();
            TraceContext::read(&KnownHeaders::read(RequestHead::of_parts(&parts).lines()))
        };
        assert_eq!(read(&[GOOD]), parse(GOOD));
        assert_eq!(read(&[GOOD, GOOD]), None);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_what_is_answered_is_well_formed(text in "[0-9a-fg]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,3}") {
            if let Some(trace) = parse(&text) {
                let answer = trace.answer([7; 8]);
                prop_assert_eq!(TraceContext::parse(&answer).unwrap().id, trace.id);
                prop_assert_eq!(&answer[3..35], &text.as_bytes()[3..35]);
            }
        }
    }
}
