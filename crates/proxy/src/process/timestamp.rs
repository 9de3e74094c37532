//! Timestamps as RFC 3339 writes them, with milliseconds.

use std::fmt::{self, Display};

use serde::{Serialize, Serializer};

/// Milliseconds since 1970, written as RFC 3339.
pub(crate) struct Rfc3339(pub(crate) u64);

impl Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0).ok();
        let time = time.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        write!(f, "{:.3}", time.unwrap_or_default())
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Formats times like `Rfc3339`. Log lines mostly follow one another within a second, so the text of the last second is
/// kept.
#[derive(Default)]
pub struct Rfc3339Cache {
    second: Option<u64>,
    text: String,
}

impl Rfc3339Cache {
    /// The text of a time in milliseconds since 1970.
    pub(crate) fn text(&mut self, unix_ms: u64) -> &str {
        let (second, millis) = (unix_ms / 1_000, unix_ms % 1_000);
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = Rfc3339(second * 1_000).to_string();
        }
        self.text.truncate(self.text.len() - "000Z".len());
        let digits = three_digits(millis);
        let digits = str::from_utf8(&digits).expect("digits are ASCII");
        self.text.push_str(digits);
        self.text.push('Z');
        &self.text
    }
}

/// The last three digits of a number.
pub(crate) fn three_digits(number: u64) -> [u8; 3] {
    let digit = |place: u64| b'0' + u8::try_from(number / place % 10).expect("one digit");
    [digit(100), digit(10), digit(1)]
}
