//! Terminal text: texts of other programs, made harmless for lines and terminals.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::Value;

/// Characters that end lines or steer terminals as escapes.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// JSON in one line, with characters that steer terminals as escapes.
pub(crate) fn json_line(value: &Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        // JSON text has control characters only inside strings here.
        if c.is_control() {
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_stays_what_it_was_and_steers_no_terminal() {
        let value = json!({"id": "a\u{1b}[2J\u{9b}2J\u{7f}\n"});
        let line = json_line(&value);
        assert!(!line.contains(char::is_control), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }
}
