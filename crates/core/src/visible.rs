//! Visible text: texts that others chose, made harmless for lines, terminals and pages.
//!
//! A control character ends a line or steers a terminal. A mark of direction shows a text in another order than its characters
//! have, so that one address looks like another; what has no width makes two texts look the same.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character is not seen as itself: it ends lines, steers terminals, turns the direction of text, or has no width.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text in which such characters stand as escapes.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c, escaped| escaped.extend(c.escape_default()))
}

/// JSON in which such characters stand as escapes of JSON: it means the same. Strings alone may have them.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    escaped(json, |c, escaped| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    })
}

fn escaped(text: &str, write: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            write(c, &mut escaped);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_as_itself_is_escaped() {
        assert_eq!(visible("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(
            visible("0x12\u{202e}43\u{2066}\u{200b}"),
            "0x12\\u{202e}43\\u{2066}\\u{200b}"
        );
        for plain in ["", "grüße 漢字 😀", "a  b", "עברית"] {
            assert!(matches!(visible(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn json_means_what_it_meant() {
        let value = serde_json::json!({"id": "a\u{1b}\u{9b}2J\u{7f}\n\u{202e}b\u{e0041}"});
        let text = value.to_string();
        let shown = visible_json(&text);
        assert!(!shown.contains(steers), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
