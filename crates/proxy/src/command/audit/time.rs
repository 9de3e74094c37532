//! Times on the command line.

use gatepay_proxy::process::clock::Clock;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Parses a time as an operator writes it on the command line.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(date) = text.parse::<Date>() {
        let day = date.to_zoned(TimeZone::UTC);
        return day
            .map(|day| day.timestamp())
            .map_err(|error| error.to_string());
    }
    let now =
        Timestamp::from_millisecond(i64::try_from(Clock::system().unix_ms()).unwrap_or(i64::MAX))
            .map_err(|error| error.to_string())?;
    let ago = |span: Span| now.to_zoned(TimeZone::UTC).checked_sub(span).ok();
    text.parse::<Span>()
        .ok()
        .and_then(ago)
        .map(|moment| moment.timestamp())
        .ok_or_else(|| "must be RFC 3339, a date, or a time ago such as 2h or 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_a_time_ago() {
        let time = moment("2026-11-21T10:00:00Z").unwrap();
        assert_eq!(
            moment("2026-11-21").unwrap(),
            "2026-11-21T00:00:00Z".parse().unwrap()
        );
        assert!(time > moment("2026-11-21").unwrap());
        assert!(moment("1h").unwrap() > moment("2d").unwrap());
        assert!(moment("yesterday").is_err());
    }
}
