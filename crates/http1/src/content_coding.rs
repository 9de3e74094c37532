//! Content codings of answers (RFC 9110, 8.4.1): the coding that a head names, and gzip in both directions.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// The content coding that the head of an answer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCoding {
    /// No coding.
    Identity,
    /// `gzip` alone.
    Gzip,
    /// Another coding, or several.
    Other,
}

impl ContentCoding {
    /// The coding that one header line names.
    pub fn of(value: &[u8]) -> Self {
        let value = value.trim_ascii();
        let is = |name: &str| value.eq_ignore_ascii_case(name.as_bytes());
        match value {
            b"" => Self::Identity,
            _ if is("identity") => Self::Identity,
            _ if is("gzip") || is("x-gzip") => Self::Gzip,
            _ => Self::Other,
        }
    }

    /// The coding that two header lines name together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Identity, one) | (one, Self::Identity) => one,
            _ => Self::Other,
        }
    }
}

/// Whether a body begins with the magic bytes of gzip or Zstandard, which begin no text.
pub fn begins_coded(body: &[u8]) -> bool {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    body.starts_with(GZIP) || body.starts_with(ZSTD)
}

/// Decodes a body in gzip, if it is complete, decodes to at most `most` bytes, and is not coded twice.
pub fn decoded(body: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = u64::try_from(most).ok()?.checked_add(1)?;
    MultiGzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut plain)
        .ok()?;
    (plain.len() <= most && !begins_coded(&plain)).then_some(plain)
}

/// Codes a body in gzip, with the least work: a text of metrics takes a tenth of its bytes even then.
pub fn encoded(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("memory takes all bytes")
}

/// Whether the values of `Accept-Encoding` name gzip with a weight above zero. `*` does not count as gzip.
pub fn accepts_gzip<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    values.any(|value| value.split(|byte| *byte == b',').any(is_gzip))
}

/// Whether a value accepts gzip: `gzip` and `gzip;q=0.5` do, `gzip;q=0` does not.
fn is_gzip(part: &[u8]) -> bool {
    let mut part = part.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_named = part.next().is_some_and(|name| {
        name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip")
    });
    let weighs = |parameter: &[u8]| match parameter {
        [b'q' | b'Q', b'=', weight @ ..] => {
            matches!(weight.first(), Some(b'0' | b'1'))
                && weight.iter().any(|byte| matches!(byte, b'1'..=b'9'))
        }
        _ => false,
    };
    is_named && part.all(weighs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_coded_body_is_decoded_whole_or_not_at_all() {
        let coded = gzip(b"{}");
        assert_eq!(decoded(&coded, 2).as_deref(), Some(&b"{}"[..]));
        assert_eq!(decoded(&coded, 1), None, "it is longer");
        assert_eq!(decoded(&coded[..coded.len() - 1], 2), None, "it is cut");
        assert_eq!(decoded(&[&coded[..], b"x"].concat(), 9), None);
        assert_eq!(decoded(&gzip(&coded), 100), None, "it is coded twice");
        assert_eq!(decoded(b"{}", 100), None);
        let bomb = gzip(&vec![0; 32 << 20]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(decoded(&bomb, 1 << 20), None);
    }

    #[test]
    fn a_body_that_was_encoded_decodes_to_itself() {
        let long = b"series 1\n".repeat(10_000);
        assert!(encoded(&long).len() < long.len() / 10);
        for body in [&b""[..], b"{}", &long] {
            assert_eq!(decoded(&encoded(body), body.len()).as_deref(), Some(body));
        }
    }

    #[test]
    fn gzip_is_accepted_where_it_is_named_with_a_weight() {
        for (value, accepts) in [
            ("gzip", true),
            ("deflate, GZIP , br", true),
            ("br;q=1, gzip;q=0.1", true),
            ("x-gzip; Q=1", true),
            ("", false),
            ("identity", false),
            ("*", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=", false),
            ("gzip;q=x1", false),
            ("gzips", false),
        ] {
            assert_eq!(
                accepts_gzip([value.as_bytes()].into_iter()),
                accepts,
                "{value}"
            );
        }
        assert!(!accepts_gzip([].into_iter()));
    }
}
