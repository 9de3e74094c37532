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
mod tests;
