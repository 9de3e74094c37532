//! Text: decodes the encodings in which JSON occurs. RFC 8259 requires UTF-8 without a byte order mark, but a gateway
//! between the proxy and GatePay may write another encoding.

use std::borrow::Cow;

/// Decodes UTF-8, UTF-16 or UTF-32, with or without a byte order mark; `None` if the bytes are not text. Without a mark
/// the first bytes show the encoding, since JSON begins with ASCII (RFC 4627, section 3).
pub(crate) fn decode(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = match bytes {
        [0xef, 0xbb, 0xbf, text @ ..] => return utf8(text),
        [0xff, 0xfe, 0, 0, text @ ..] => utf32(text, u32::from_le_bytes),
        [0, 0, 0xfe, 0xff, text @ ..] => utf32(text, u32::from_be_bytes),
        [0xff, 0xfe, text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => utf16(text, u16::from_be_bytes),
        [0, 0, 0, _, ..] => utf32(bytes, u32::from_be_bytes),
        [_, 0, 0, 0, ..] => utf32(bytes, u32::from_le_bytes),
        [0, _, ..] => utf16(bytes, u16::from_be_bytes),
        [_, 0, ..] => utf16(bytes, u16::from_le_bytes),
        _ => return utf8(bytes),
    };
    text.map(Cow::Owned)
}

fn utf8(bytes: &[u8]) -> Option<Cow<'_, str>> {
    str::from_utf8(bytes).ok().map(Cow::Borrowed)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().copied().map(unit));
    text.collect::<Result<_, _>>()
        .ok()
        .filter(|_| rest.is_empty())
}

fn utf32(bytes: &[u8], unit: fn([u8; 4]) -> u32) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    let mut text = units.iter().copied().map(unit).map(char::from_u32);
    text.by_ref()
        .collect::<Option<_>>()
        .filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_is_the_same_in_every_encoding() {
        let text = r#"{"a":"é漢😀"}"#;
        let units: Vec<u16> = text.encode_utf16().collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let wide = |bytes: fn(u32) -> [u8; 4]| -> Vec<u8> {
            text.chars().flat_map(|c| bytes(c.into())).collect()
        };
        for (mark, bytes) in [
            (&b"\xef\xbb\xbf"[..], text.as_bytes().to_vec()),
            (b"\xfe\xff", big),
            (b"\xff\xfe", little),
            (b"\0\0\xfe\xff", wide(u32::to_be_bytes)),
            (b"\xff\xfe\0\0", wide(u32::to_le_bytes)),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Some(text));
            let marked = [mark, &bytes].concat();
            assert_eq!(decode(&marked).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_truncated_character_is_not_text() {
        for bytes in [
            &b"{\xff}"[..],
            b"\xff\xfe{\0}",
            b"{\0\x00\xd8",
            b"{\0\0\0}\0\0",
            b"{\0\0\0\0\0\x11\0",
            b"\x1f\x8b\x08\0",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(decode(b"").as_deref(), Some(""));
    }
}
