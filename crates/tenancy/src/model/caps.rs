//! Money caps: how much calls may spend, per tenant and over all, as configured.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use gatepay_core::Operation;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;
use gatepay_core::operation::ApiModule;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// The settings of all caps, and the caps over all tenants together.
#[derive(Debug, Clone, PartialEq)]
pub struct CapSettings {
    /// The time zone whose midnights begin the days of `per_day`.
    pub time_zone: CapTimeZone,
    /// How long a raised or removed cap still holds as it was.
    pub raise_after: Duration,
    /// The caps that sum over all tenants and operators.
    pub all: Vec<Cap>,
}

/// One table of limits. Every limit of every cap that covers a call must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// The calls.
    pub calls: CappedCalls,
    /// The currency, or `None` (`"*"`) for each currency that has no cap of its own.
    pub currency: Option<CurrencyCode>,
    /// The most of one call.
    pub per_call: Option<ExactAmount>,
    /// The most of any hour.
    pub per_hour: Option<ExactAmount>,
    /// The most of any 24 hours.
    pub per_24h: Option<ExactAmount>,
    /// The most of a calendar day.
    pub per_day: Option<ExactAmount>,
    /// The most calls of any hour.
    pub count_per_hour: Option<u32>,
    /// The amount of a call above which two operators have to approve it.
    pub approve_above: Option<ExactAmount>,
    /// Whether a breach is only counted and logged.
    pub shadow: bool,
}

/// The calls that a cap covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CappedCalls {
    /// The words of the file: kinds of demand, modules, `money`, or operations.
    pub words: Vec<CappedWord>,
    /// The names under which the calls are [counted](gatepay_core::money::MoneyDemand::counted_as).
    pub counted: BTreeSet<&'static str>,
}

/// A word of `calls`, with the calls that it covers although their amounts cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CappedWord {
    /// The word.
    pub text: String,
    /// The operations without a known body that the word covers.
    pub unread: UnreadCalls,
}

/// Money operations of which no page says where their amount stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadCalls {
    /// None: the word names a kind of demand or one operation.
    None,
    /// The calls of a module.
    Module(ApiModule),
    /// All.
    All,
}

/// A time zone, for the midnights of `per_day`.
#[derive(Clone, PartialEq)]
pub struct CapTimeZone {
    name: String,
    zone: TimeZone,
}

/// Why a text is no time zone.
#[derive(Debug, thiserror::Error)]
#[error("must be a time zone of the IANA database, like \"UTC\" or \"Europe/Berlin\"")]
pub struct TimeZoneError;

impl CapSettings {
    /// A day: as long as it takes that a raised cap is noticed.
    pub const RAISE_AFTER: Duration = Duration::from_hours(24);
}

impl Default for CapSettings {
    fn default() -> Self {
        Self {
            time_zone: CapTimeZone::utc(),
            raise_after: Self::RAISE_AFTER,
            all: Vec::new(),
        }
    }
}

impl Cap {
    /// The limits that are set, with their keys, in the order of a file.
    pub fn amounts(&self) -> impl Iterator<Item = (&'static str, ExactAmount)> {
        let amounts = [
            ("per_call", self.per_call),
            ("per_hour", self.per_hour),
            ("per_24h", self.per_24h),
            ("per_day", self.per_day),
        ];
        amounts
            .into_iter()
            .filter_map(|(key, amount)| Some((key, amount?)))
    }

    /// The currency as a file has it.
    pub fn currency_text(&self) -> &str {
        self.currency.as_ref().map_or("*", CurrencyCode::as_str)
    }

    /// Whether it covers a money operation whose amount cannot be read.
    pub fn covers_unread(&self, operation: &Operation) -> bool {
        let covers = |word: &CappedWord| match word.unread {
            UnreadCalls::None => false,
            UnreadCalls::Module(module) => module == operation.module,
            UnreadCalls::All => true,
        };
        self.calls.words.iter().any(covers)
    }
}

impl CapTimeZone {
    /// The zone of a name in the IANA database.
    pub fn parse(name: &str) -> Result<Self, TimeZoneError> {
        let zone = TimeZone::get(name).map_err(|_| TimeZoneError)?;
        Ok(Self {
            name: name.to_owned(),
            zone,
        })
    }

    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            zone: TimeZone::UTC,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The date of a time: `2026-11-27`.
    pub fn date(&self, now_ms: u64) -> Option<String> {
        let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
        Some(now.to_zoned(self.zone.clone()).date().to_string())
    }

    /// The midnight that began the day of a time, and `after` midnights after it, in milliseconds since 1970. A day that has no
    /// midnight, because clocks are put forward then, begins with its first moment.
    pub fn midnights(&self, now_ms: u64, after: u32) -> Vec<u64> {
        let now = i64::try_from(now_ms).ok();
        let now = now.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let today = now.map(|now| now.to_zoned(self.zone.clone()).date());
        let midnights = (0..=after).filter_map(|days| {
            let date = today?.checked_add(i64::from(days).days()).ok()?;
            let midnight = date.to_zoned(self.zone.clone()).ok()?.start_of_day().ok()?;
            u64::try_from(midnight.timestamp().as_millisecond()).ok()
        });
        midnights.collect()
    }
}

impl fmt::Debug for CapTimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn midnights(zone: &str, from: &str, after: u32) -> Vec<String> {
        let from: Timestamp = from.parse().unwrap();
        let from = u64::try_from(from.as_millisecond()).unwrap();
        let times = CapTimeZone::parse(zone).unwrap().midnights(from, after);
        let text = |ms: &u64| Timestamp::from_millisecond(i64::try_from(*ms).unwrap()).unwrap();
        times.iter().map(|ms| text(ms).to_string()).collect()
    }

    #[test]
    fn days_at_a_change_of_clocks_have_23_and_25_hours() {
        assert_eq!(
            midnights("Europe/Berlin", "2026-03-28T23:30:00Z", 1),
            ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"],
        );
        assert_eq!(
            midnights("Europe/Berlin", "2026-10-24T22:00:00Z", 1),
            ["2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"],
        );
        assert_eq!(
            midnights("Asia/Kathmandu", "2026-01-01T18:14:59Z", 1),
            ["2025-12-31T18:15:00Z", "2026-01-01T18:15:00Z"],
        );
    }

    #[test]
    fn a_day_without_a_midnight_begins_with_its_first_moment() {
        // Clocks went from 24:00 to 01:00.
        assert_eq!(
            midnights("America/Santiago", "2024-09-08T12:00:00Z", 1),
            ["2024-09-08T04:00:00Z", "2024-09-09T03:00:00Z"],
        );
    }

    #[test]
    fn midnights_are_ascending_and_lie_on_the_slices_of_a_day() {
        for zone in [
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
        ] {
            let days = CapTimeZone::parse(zone).unwrap();
            let all = days.midnights(1_767_225_600_000, 800);
            assert_eq!(all.len(), 801, "{zone}");
            assert!(all.is_sorted_by(|one, next| one < next), "{zone}");
            assert!(all.iter().all(|ms| ms % 900_000 == 0), "{zone}");
        }
    }

    #[test]
    fn only_names_of_the_database_are_time_zones() {
        for bad in ["", "Mars/Olympus", "+01:00"] {
            assert!(CapTimeZone::parse(bad).is_err(), "{bad}");
        }
    }
}
