//! Request head: method, target and header lines of a caller's request, in HTTP/1 and HTTP/2 alike.

use http::header::{self, HeaderMap, HeaderValue};
use http::request;

/// The head of a caller's request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method, in the caller's spelling.
    pub method: &'a str,
    /// The target before `?`.
    pub path: &'a str,
    /// The target behind `?`.
    pub query: Option<&'a str>,
    lines: HeaderLines<'a>,
}

/// Span of a header line within its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldSpan {
    /// Begin and end of the name.
    pub name: (u16, u16),
    /// Begin and end of the value, without the blanks around it.
    pub value: (u16, u16),
}

#[derive(Debug, Clone, Copy)]
enum HeaderLines<'a> {
    Text(&'a [u8], &'a [FieldSpan]),
    Map(&'a HeaderMap),
}

/// Iterator over the lines of a head.
enum HeaderIter<'a> {
    Text(&'a [u8], std::slice::Iter<'a, FieldSpan>),
    Map(header::Iter<'a, HeaderValue>),
}

impl<'a> RequestHead<'a> {
    /// A head read from an HTTP/1 connection: its bytes, and the spans of its lines within them.
    pub fn of_text(
        method: &'a str,
        target: &'a str,
        text: &'a [u8],
        lines: &'a [FieldSpan],
    ) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        Self {
            method,
            path,
            query,
            lines: HeaderLines::Text(text, lines),
        }
    }

    /// A head that hyper parsed.
    pub fn of_parts(parts: &'a request::Parts) -> Self {
        Self {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
            lines: HeaderLines::Map(&parts.headers),
        }
    }

    /// Name and value of each line, in order. The names are in the caller's spelling.
    pub fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        match self.lines {
            HeaderLines::Text(text, lines) => HeaderIter::Text(text, lines.iter()),
            HeaderLines::Map(map) => HeaderIter::Map(map.iter()),
        }
    }

    /// The values of all lines of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |line: &(&[u8], &[u8])| line.0.eq_ignore_ascii_case(name.as_bytes());
        self.lines().filter(named).map(|(_, value)| value)
    }
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    // A request's head is iterated over three times.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Text(text, lines) => lines.next().map(|line| {
                let part = |(from, to): (u16, u16)| &text[usize::from(from)..usize::from(to)];
                (part(line.name), part(line.value))
            }),
            Self::Map(lines) => lines
                .next()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
        }
    }
}
