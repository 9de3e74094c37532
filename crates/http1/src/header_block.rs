//! Header block: the header lines of an answer, as they stand on the wire.
//!
//! The lines are text instead of a map: most answers only pass through, and a map costs a hash and an allocation for
//! every line. For HTTP/2, which needs a map, the map is made at the end.

use http::HeaderName;
use http::header::{HeaderMap, HeaderValue};
use memchr::memchr;

use crate::buffer_pool::{self, PooledBuffer};
use crate::wire_lines;

/// Lines of a head, each with its line end. No value contains a line end: values were parsed, or the proxy made them.
#[derive(Debug, Clone, Default)]
pub struct HeaderBlock(PooledBuffer);

impl HeaderBlock {
    /// An empty block with capacity for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut lines = buffer_pool::take();
        lines.reserve(bytes);
        Self(lines)
    }

    /// Adds a line.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        wire_lines::write(&mut self.0, name, value.as_ref());
    }

    /// The value of the first line of this name.
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        let name = name.as_str().as_bytes();
        self.lines().find_map(|line| {
            let (known, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// Name and value of each line, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.lines().filter_map(|line| {
            let colon = memchr(b':', line)?;
            Some((&line[..colon], &line[colon + 2..]))
        })
    }

    /// Each line without its line end.
    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let end = memchr(b'\n', rest)?;
            let (line, after) = (&rest[..end - 1], &rest[end + 1..]);
            rest = after;
            Some(line)
        })
    }

    /// The lines as they are written to the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The lines as a map, for hyper.
    pub fn to_map(&self) -> HeaderMap {
        let parsed = self.iter().filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name).ok()?;
            Some((name, HeaderValue::from_bytes(value).ok()?))
        });
        // `collect` would keep one line of each name.
        let mut map = HeaderMap::new();
        for (name, value) in parsed {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    #[test]
    fn what_is_added_is_found_and_written_in_its_order() {
        let mut fields = HeaderBlock::default();
        assert_eq!(fields.get(&header::DATE), None);
        fields.add("X-Empty", b"");
        fields.add("Date", b"a: b");
        fields.add(&header::VARY, "x");
        fields.add(&header::VARY, "y");
        assert_eq!(
            fields.as_bytes(),
            b"X-Empty: \r\nDate: a: b\r\nvary: x\r\nvary: y\r\n"
        );
        assert_eq!(fields.get(&header::DATE), Some(&b"a: b"[..]));
        assert_eq!(fields.get(&HeaderName::from_static("x-emp")), None);
        let map = fields.to_map();
        assert_eq!(
            (map.len(), &map["x-empty"], &map["date"]),
            (
                4,
                &HeaderValue::from_static(""),
                &HeaderValue::from_static("a: b")
            )
        );
        assert!(map.get_all("vary").iter().eq(["x", "y"]));
    }
}
