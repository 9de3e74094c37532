//! Plain JSON: a small one-pass reader for the usual bodies and answers.
//!
//! The reader may give up on any text, and `serde_json` then reads the text. The two readers agree on every text that
//! this reader accepts. With `serde_json` alone a request costs 5.6 % more instructions, and 8.5 allocations in place of
//! 4.5 (docs/explanation/performance.md, "Hand-written or a crate").
//!
//! Each function takes the unread text, and returns the text that remains after the part it read.

use std::borrow::Cow;

use super::{Found, JsonMember, JsonShape, JsonText, JsonVisitor};

/// Reads a whole text and hands over the name and value of each member of its top object, in order.
///
/// Returns `None` if the text is not plain, or not JSON; some members may have been handed over before.
pub(super) fn read<'a>(text: &'a str, found: Found<'_, 'a>) -> Option<JsonShape> {
    read_into(text, &mut TopScanner { text, found })
}

/// Reads a whole text and hands over each member of each object, after the member's value.
///
/// As with [`read`], some members of a text that is not plain may have been handed over.
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

/// Takes members. A place in the text is given as the number of bytes from the place to the end of the text.
trait MemberSink<'a> {
    /// A member of the object that begins `object` bytes before the end; `depth` counts down from [`DEPTH`].
    fn member(&mut self, depth: u8, object: usize, name: &'a [u8], begin: usize, end: usize);
}

struct TopScanner<'f, 'a> {
    text: &'a str,
    found: Found<'f, 'a>,
}

impl<'a> MemberSink<'a> for TopScanner<'_, 'a> {
    fn member(&mut self, depth: u8, _: usize, name: &'a [u8], begin: usize, end: usize) {
        if depth == DEPTH {
            // Both ends of the value border on an ASCII character.
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

/// The maximum nesting depth of arrays and objects below the top. A deeper text is not plain.
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

/// An object after its opening brace.
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

/// An array after its opening bracket.
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

/// A string after its opening quote.
fn string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match from_mark(text) {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', rest @ ..] => escape(rest)?,
            _ => return None,
        }
    }
}

/// An escape after its backslash. A surrogate escape is not plain: half of a surrogate pair is not text.
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

/// The text from the next mark on: a quote, a backslash or a control character.
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

/// The text from the next mark on, within the last seven bytes. A separate function keeps the loop above small.
#[inline(never)]
fn from_last_mark(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && !matches!(first, b'"' | b'\\' | 0..0x20)
    {
        text = rest;
    }
    text
}

/// The top bit of each byte that is a mark, the first byte's lowest. Bits above the lowest set bit may be wrong.
fn marks(eight: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let bytes = u64::from_le_bytes(eight);
    // If a byte below 0x80 is less than its subtrahend, its top bit is set, and the next byte lends the borrow.
    let less = |bytes: u64, than: u8| bytes.wrapping_sub(ONES * u64::from(than)) & !bytes;
    let is = |byte: u8| less(bytes ^ (ONES * u64::from(byte)), 1);
    (less(bytes, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

/// A number after its sign. A number with many digits or a long exponent is not plain: it may be too large for parsers.
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

/// The maximum length of a number without its exponent. With an exponent of two digits such a number is still below the
/// largest that every parser can represent, about 10^308.
const MOST_DIGITS: usize = 200;

/// Skips digits; `None` without at least one digit.
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
