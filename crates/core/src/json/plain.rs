//! Plain JSON, as bodies and answers mostly are, read in one pass by little code.
//!
//! It may give up on whatever it likes, for then `serde_json` reads the text. What it does read it reads as `serde_json`
//! does.
//!
//! Each function is given the text from where it is to read on, and gives what stands behind what it read.

use std::borrow::Cow;

use super::{Found, JsonMember, JsonShape, JsonText, JsonVisitor};

/// Reads a whole text and hands over each member of its top object, name and value, in their order. Nothing, if the text
/// is not plain, or not JSON; some of the members may have been handed over by then.
pub(super) fn read<'a>(text: &'a str, found: Found<'_, 'a>) -> Option<JsonShape> {
    read_into(text, &mut TopScanner { text, found })
}

/// Reads a whole text and hands over each member of each of its objects, behind its value. As with [`read`], some of them
/// may have been handed over of a text that is not plain.
pub(super) fn read_deep<'a>(text: &'a str, visit: &mut dyn JsonVisitor<'a>) -> Option<JsonShape> {
    read_into(text, &mut DeepScanner { text, visit })
}

fn read_into<'a>(text: &'a str, sink: &mut impl MemberSink<'a>) -> Option<JsonShape> {
    let begin = behind_space(text.as_bytes());
    let (shape, rest) = match begin {
        [b'{', rest @ ..] => (JsonShape::Object, members(rest, DEPTH, sink)?),
        [b'[', rest @ ..] => (JsonShape::Array, items(rest, DEPTH, sink)?),
        _ => (JsonShape::Scalar, value(begin, DEPTH, sink)?),
    };
    behind_space(rest).is_empty().then_some(shape)
}

/// Takes members. Places are told by how many bytes are left of the text.
trait MemberSink<'a> {
    /// A member of the object that begins where `object` bytes are left; `depth` counts down from [`DEPTH`].
    fn member(&mut self, depth: u8, object: usize, name: &'a [u8], begin: usize, end: usize);
}

struct TopScanner<'f, 'a> {
    text: &'a str,
    found: Found<'f, 'a>,
}

impl<'a> MemberSink<'a> for TopScanner<'_, 'a> {
    fn member(&mut self, depth: u8, _: usize, name: &'a [u8], begin: usize, end: usize) {
        if depth == DEPTH {
            // Both ends are beside a character of ASCII.
            let length = self.text.len();
            (self.found)(name, JsonText(&self.text[length - begin..length - end]));
        }
    }
}

struct DeepScanner<'v, 'a> {
    text: &'a str,
    visit: &'v mut dyn JsonVisitor<'a>,
}

impl<'a> MemberSink<'a> for DeepScanner<'_, 'a> {
    fn member(&mut self, depth: u8, object: usize, name: &'a [u8], begin: usize, end: usize) {
        let length = self.text.len();
        let at = name.as_ptr().addr() - self.text.as_ptr().addr() - 1;
        self.visit.member(JsonMember {
            object: length - object,
            depth: usize::from(DEPTH - depth),
            place: at..at + name.len() + 2,
            name: Cow::Borrowed(name),
            value: JsonText(&self.text[length - begin..length - end]),
        });
    }
}

/// How many arrays and objects may stand in one another below the top. What is deeper is not plain.
const DEPTH: u8 = 16;

fn value<'a>(text: &'a [u8], depth: u8, sink: &mut impl MemberSink<'a>) -> Option<&'a [u8]> {
    let (first, rest) = text.split_first()?;
    match first {
        b'"' => string(rest),
        b'{' => members(rest, depth.checked_sub(1)?, sink),
        b'[' => items(rest, depth.checked_sub(1)?, sink),
        b'-' => number(rest),
        b'0'..=b'9' => number(text),
        b't' => rest.strip_prefix(b"rue"),
        b'f' => rest.strip_prefix(b"alse"),
        b'n' => rest.strip_prefix(b"ull"),
        _ => None,
    }
}

/// An object behind its brace.
fn members<'a>(mut text: &'a [u8], depth: u8, sink: &mut impl MemberSink<'a>) -> Option<&'a [u8]> {
    let object = text.len() + 1;
    if let [b'}', rest @ ..] = behind_space(text) {
        return Some(rest);
    }
    loop {
        let [b'"', quoted @ ..] = behind_space(text) else {
            return None;
        };
        // A name with an escape is not plain.
        let [b'"', rest @ ..] = from_mark(quoted) else {
            return None;
        };
        let name = &quoted[..quoted.len() - rest.len() - 1];
        let [b':', rest @ ..] = behind_space(rest) else {
            return None;
        };
        let begin = behind_space(rest);
        let end = value(begin, depth, sink)?;
        sink.member(depth, object, name, begin.len(), end.len());
        match behind_space(end) {
            [b',', rest @ ..] => text = rest,
            [b'}', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

/// An array behind its bracket.
fn items<'a>(mut text: &'a [u8], depth: u8, sink: &mut impl MemberSink<'a>) -> Option<&'a [u8]> {
    if let [b']', rest @ ..] = behind_space(text) {
        return Some(rest);
    }
    loop {
        match behind_space(value(behind_space(text), depth, sink)?) {
            [b',', rest @ ..] => text = rest,
            [b']', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

/// A string behind its quote.
fn string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match from_mark(text) {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', rest @ ..] => escape(rest)?,
            _ => return None,
        }
    }
}

/// An escape behind its backslash. One of a surrogate is not plain: it may be half of a pair, which is no text.
fn escape(text: &[u8]) -> Option<&[u8]> {
    match text {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            rest @ ..,
        ] => Some(rest),
        [b'u', digits @ ..] => {
            let (digits, rest) = digits.split_first_chunk::<4>()?;
            let is_surrogate = matches!(
                digits,
                [b'd' | b'D', b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F', ..]
            );
            (digits.iter().all(u8::is_ascii_hexdigit) && !is_surrogate).then_some(rest)
        }
        _ => None,
    }
}

/// The text from the next quote, backslash or control character on, behind what a string may have.
fn from_mark(text: &[u8]) -> &[u8] {
    let (eights, last) = text.as_chunks();
    for (at, eight) in eights.iter().enumerate() {
        let marks = marks(*eight);
        if marks != 0 {
            return &text[at * 8 + marks.trailing_zeros() as usize / 8..];
        }
    }
    from_last_mark(last)
}

/// The same at the end of a text. Apart, so that the loop above stays small.
#[inline(never)]
fn from_last_mark(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && !matches!(first, b'"' | b'\\' | 0..0x20)
    {
        text = rest;
    }
    text
}

/// The top bit of each byte that is a mark, the first byte's lowest. Behind a mark other bytes may seem to be one.
fn marks(eight: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let bytes = u64::from_le_bytes(eight);
    // Where a byte below 0x80 is less than what is taken from it its top bit is set, and the byte behind it pays.
    let less = |bytes: u64, than: u8| bytes.wrapping_sub(ONES * u64::from(than)) & !bytes;
    let is = |byte: u8| less(bytes ^ (ONES * u64::from(byte)), 1);
    (less(bytes, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// A number behind its sign. A long one is not plain, nor one with a long exponent: it may be too large to be read.
fn number(text: &[u8]) -> Option<&[u8]> {
    let mut rest = match text {
        [b'0', b'0'..=b'9', ..] => return None,
        _ => digits(text)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction)?;
    }
    if text.len() - rest.len() > MOST_DIGITS {
        return None;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', exponent @ ..] => exponent,
            _ => exponent,
        };
        rest = digits(exponent)?;
        if exponent.len() - rest.len() > 2 {
            return None;
        }
    }
    Some(rest)
}

/// With an exponent of two digits still below the largest number that every reader can hold, about 10^308.
const MOST_DIGITS: usize = 200;

/// At least one digit.
fn digits(text: &[u8]) -> Option<&[u8]> {
    let [b'0'..=b'9', rest @ ..] = text else {
        return None;
    };
    let mut text = rest;
    while let [b'0'..=b'9', rest @ ..] = text {
        text = rest;
    }
    Some(text)
}

fn behind_space(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}
