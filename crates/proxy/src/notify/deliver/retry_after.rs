//! `Retry-After` as a date (RFC 9110, 10.2.3): turned into seconds, which `core` reads without a clock.

use std::borrow::Cow;

use jiff::fmt::rfc2822;

/// The value of `Retry-After` in seconds from now, if it is a date; any other value as it is.
pub(super) fn in_seconds(value: &str, now_ms: u64) -> Cow<'_, str> {
    let is_date = value
        .trim_start()
        .starts_with(|first: char| first.is_ascii_alphabetic());
    let date = is_date.then(|| rfc2822::DateTimeParser::new().parse_timestamp(value.trim()));
    match date {
        Some(Ok(date)) => {
            let now = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
            Cow::Owned((date.as_second() - now).max(0).to_string())
        }
        _ => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_seconds_until_then_and_anything_else_stays() {
        // 2026-01-01T00:00:00Z.
        let now = 1_767_225_600_999;
        for (value, expected) in [
            ("Thu, 01 Jan 2026 00:02:00 GMT", "120"),
            ("Thu, 01 Jan 2026 00:02:00 +0000", "120"),
            (" Thu, 01 Jan 2026 00:02:00 GMT ", "120"),
            ("Wed, 31 Dec 2025 23:59:59 GMT", "0"),
            ("Thu, 31 Dec 9998 23:59:59 GMT", "251603539199"),
            ("120", "120"),
            ("-1", "-1"),
            ("soon", "soon"),
            (
                "Thu, 99 Jan 2026 00:02:00 GMT",
                "Thu, 99 Jan 2026 00:02:00 GMT",
            ),
            (
                "Thursday, 01-Jan-26 00:02:00 GMT",
                "Thursday, 01-Jan-26 00:02:00 GMT",
            ),
            ("", ""),
        ] {
            assert_eq!(in_seconds(value, now), expected, "{value:?}");
        }
    }
}
