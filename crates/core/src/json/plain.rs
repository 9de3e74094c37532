//! Plain JSON, as bodies and answers mostly are, read in one pass by little code.
//!
//! It may give up on whatever it likes, for then `serde_json` reads the text. What it does read it reads as `serde_json`
//! does.
//!
//! Each function is given the text from where it is to read on, and gives what stands behind what it read.

use std::ops::Range;

use super::{Found, Raw, Shape};

/// Reads a whole text and hands over each member of its top object, name and value, in their order. Nothing, if the text
/// is not plain, or not JSON; some of the members may have been handed over by then.
pub(super) fn read<'a>(text: &'a str, found: Found<'_, 'a>) -> Option<Shape> {
    let begin = behind_space(text.as_bytes());
    let (shape, rest) = match begin {
        [b'{', rest @ ..] => {
            let found = |name: &[u8], value: &[u8], rest: &[u8]| {
                // Both ends are beside a character of ASCII.
                found(
                    name,
                    Raw(&text[text.len() - value.len()..text.len() - rest.len()]),
                );
            };
            (Shape::Object, members(rest, DEPTH, found)?)
        }
        [b'[', rest @ ..] => (Shape::Array, items(rest, DEPTH)?),
        _ => (Shape::Scalar, value(begin, DEPTH)?),
    };
    behind_space(rest).is_empty().then_some(shape)
}

/// How many arrays and objects may stand in one another below the top. What is deeper is not plain.
const DEPTH: u8 = 16;

fn value(text: &[u8], depth: u8) -> Option<&[u8]> {
    let (first, rest) = text.split_first()?;
    match first {
        b'"' => string(rest),
        b'{' => members(rest, depth.checked_sub(1)?, |_, _, _| {}),
        b'[' => items(rest, depth.checked_sub(1)?),
        b'-' => number(rest),
        b'0'..=b'9' => number(text),
        b't' => rest.strip_prefix(b"rue"),
        b'f' => rest.strip_prefix(b"alse"),
        b'n' => rest.strip_prefix(b"ull"),
        _ => None,
    }
}

/// An object behind its brace. Of each member it hands over the name, the text from its value on, and that behind it.
fn members<'a>(
    mut text: &'a [u8],
    depth: u8,
    mut found: impl FnMut(&'a [u8], &'a [u8], &'a [u8]),
) -> Option<&'a [u8]> {
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
        let end = value(begin, depth)?;
        found(name, begin, end);
        match behind_space(end) {
            [b',', rest @ ..] => text = rest,
            [b'}', rest @ ..] => return Some(rest),
            _ => return None,
        }
    }
}

/// An array behind its bracket.
fn items(mut text: &[u8], depth: u8) -> Option<&[u8]> {
    if let [b']', rest @ ..] = behind_space(text) {
        return Some(rest);
    }
    loop {
        match behind_space(value(behind_space(text), depth)?) {
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

/// Where the names stand in a text that is JSON, quotes included, of objects at every depth. Over another text it gives
/// whatever is followed by a colon.
pub(super) fn names(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let quote = rest.iter().position(|byte| *byte == b'"')?;
            let begin = text.len() - rest.len() + quote;
            let behind = string(&rest[quote + 1..])?;
            rest = behind;
            if let [b':', ..] = behind_space(behind) {
                return Some(begin..text.len() - behind.len());
            }
        }
    })
}

/// An escape behind its backslash. Half of a surrogate pair is one: nobody has asked for the text.
fn escape(text: &[u8]) -> Option<&[u8]> {
    match text {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            rest @ ..,
        ] => Some(rest),
        [b'u', digits @ ..] => {
            let (digits, rest) = digits.split_first_chunk::<4>()?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(rest)
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

/// A number behind its sign.
fn number(text: &[u8]) -> Option<&[u8]> {
    let mut rest = match text {
        [b'0', b'0'..=b'9', ..] => return None,
        _ => digits(text)?,
    };
    if let [b'.', fraction @ ..] = rest {
        rest = digits(fraction)?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = match exponent {
            [b'+' | b'-', exponent @ ..] => digits(exponent)?,
            _ => digits(exponent)?,
        };
    }
    Some(rest)
}

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
