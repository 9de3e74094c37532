//! Terminal text: texts of other programs, made harmless for lines and terminals.

use std::borrow::Cow;
use std::fmt::Write as _;

use gatepay_core::visible::{steers, visible_json};
use serde_json::Value;

/// JSON in one line, with characters that steer terminals as escapes.
pub(crate) fn json_line(value: &Value) -> String {
    visible_json(&value.to_string()).into_owned()
}

/// Lines in which no character steers the terminal. It is the last guard of everything that is printed; a text of one line
/// is made [visible](gatepay_core::visible::visible) before, so that it stays one.
pub(crate) fn harmless_lines(text: &str) -> Cow<'_, str> {
    let steers = |c: char| steers(c) && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut lines = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        // CSV ends its lines with both.
        let ends_line = c == '\r' && rest.peek().is_none_or(|next| *next == '\n');
        if steers(c) && !ends_line {
            let _ = write!(lines, "{}", c.escape_default());
        } else {
            lines.push(c);
        }
    }
    Cow::Owned(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_lines_and_steer_no_terminal() {
        assert_eq!(
            harmless_lines("a\tb\nc\u{1b}[2J\r\u{202e}d\n"),
            "a\tb\nc\\u{1b}[2J\\r\\u{202e}d\n"
        );
        assert_eq!(harmless_lines("a,b\r\nc,d\r\n"), "a,b\r\nc,d\r\n");
        assert_eq!(harmless_lines("a,b\r"), "a,b\r", "the line end follows");
    }
}
