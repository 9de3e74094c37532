//! Delivery schedule: when a notification is sent again, and what an answer to it means (protocol.md 5.4).

// From `core`, which has no clock.
use core::time::Duration;
use std::fmt;

use crate::body::BodyReading;
use crate::words::words;

/// The delays of a schedule: how often each delay comes, one after another.
///
/// The first attempt is made at once. Each delay runs from the end of a failed attempt to the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelaySteps(&'static [(u32, Duration)]);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn minutes(minutes: u64) -> Duration {
    seconds(minutes * 60)
}

const fn hours(hours: u64) -> Duration {
    minutes(hours * 60)
}

/// GatePay's current schedule: 15 repetitions in 24 h and 4 min.
pub const GATEPAY_CURRENT: DelaySteps = DelaySteps(&[
    (2, seconds(15)),
    (1, seconds(30)),
    (1, minutes(3)),
    (1, minutes(10)),
    (1, minutes(20)),
    (3, minutes(30)),
    (1, minutes(60)),
    (3, hours(3)),
    (2, hours(6)),
]);

/// The schedule of an older version of GatePay's page, which lists each delay once.
pub const GATEPAY_OLDER: DelaySteps = DelaySteps(&[
    (1, seconds(15)),
    (1, seconds(30)),
    (1, minutes(3)),
    (1, minutes(10)),
    (1, minutes(20)),
    (1, minutes(30)),
    (1, minutes(60)),
    (1, hours(3)),
    (1, hours(6)),
]);

/// The schedule of GatePay's old payment pages.
pub const GATEPAY_OLD_PAYMENT: DelaySteps = DelaySteps(&[(10, seconds(3))]);

/// The proxy's schedule towards tenants: GatePay's current one, then every 12 h until 72 h and 4 min, which is longer
/// than a weekend.
pub const TO_TENANTS: DelaySteps = DelaySteps(&[
    (2, seconds(15)),
    (1, seconds(30)),
    (1, minutes(3)),
    (1, minutes(10)),
    (1, minutes(20)),
    (3, minutes(30)),
    (1, minutes(60)),
    (3, hours(3)),
    (2, hours(6)),
    (4, hours(12)),
]);

/// The age at which a notification is dead although attempts are left, counted from when it was first due. Without it, a
/// notification that the breaker keeps from being sent would wait forever. It is above the longest schedule.
pub const OLDEST: Duration = hours(80);

/// The longest `Retry-After` that is honored.
pub const LONGEST_RETRY_AFTER: Duration = hours(1);

impl DelaySteps {
    /// The number of repetitions after the first attempt.
    pub fn repetitions(self) -> u32 {
        self.0.iter().map(|(times, _)| times).sum()
    }

    /// The time from the first attempt to the last, if no attempt takes time.
    pub fn total(self) -> Duration {
        self.0.iter().map(|(times, delay)| *delay * *times).sum()
    }

    /// The delay after the given number of failed attempts, from 1 on; `None` if the schedule is used up.
    pub fn delay(self, failed_attempts: u32) -> Option<Duration> {
        let mut rest = failed_attempts.checked_sub(1)?;
        for (times, delay) in self.0 {
            match rest.checked_sub(*times) {
                None => return Some(*delay),
                Some(after) => rest = after,
            }
        }
        None
    }
}

/// Writes a schedule for the docs: `15 s twice, 30 s, 3 h three times`.
impl fmt::Display for DelaySteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (times, delay)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Span(*delay))?;
            match times {
                1 => {}
                2 => f.write_str(" twice")?,
                3 => f.write_str(" three times")?,
                more => write!(f, " {more} times")?,
            }
        }
        Ok(())
    }
}

/// A whole number of hours from 2 on, else of minutes, else of seconds.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            hours if hours >= 7_200 && hours % 3_600 == 0 => write!(f, "{} h", hours / 3_600),
            minutes if minutes >= 60 && minutes % 60 == 0 => write!(f, "{} min", minutes / 60),
            seconds => write!(f, "{seconds} s"),
        }
    }
}

/// Which answers of a tenant acknowledge a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AckRule {
    /// As GatePay asks: HTTP status 2xx and `returnCode` `SUCCESS` in the body.
    #[default]
    ReturnCode,
    /// Any HTTP status 2xx.
    Status,
}

words!(AckRule { ReturnCode = "gatepay", Status = "status" });

/// The result of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The tenant has acknowledged the notification.
    Acknowledged,
    /// The endpoint is gone (410): it is turned off, and its tenant and the operators are told.
    Gone,
    /// The attempt failed: no complete answer, another status, a redirect, or no acknowledgment in the body.
    Failed {
        /// The delay that the tenant asked for, with status 429 or 503.
        retry_after: Option<Duration>,
    },
}

impl DeliveryOutcome {
    /// An attempt without a complete head of an answer.
    pub const NO_ANSWER: Self = Self::Failed { retry_after: None };

    /// Judges an answer. `body` is its beginning, as far as it was read; `retry_after` is the value of its header.
    pub fn of(rule: AckRule, status: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        match status {
            200..=299 if rule == AckRule::Status || is_success(body) => Self::Acknowledged,
            410 => Self::Gone,
            429 | 503 => Self::Failed {
                retry_after: retry_after.and_then(delta_seconds),
            },
            _ => Self::NO_ANSWER,
        }
    }
}

/// Whether a body is an object with `returnCode` `SUCCESS`, in any case.
fn is_success(body: &[u8]) -> bool {
    let reading = BodyReading::strict(body);
    let code = reading
        .has_one_reading()
        .then(|| reading.only("returnCode"));
    code.flatten()
        .is_some_and(|code| code.eq_ignore_ascii_case("SUCCESS"))
}

/// A `Retry-After` in seconds (RFC 9110, 10.2.3). A date is left out: it needs a clock, and the schedule serves as well.
fn delta_seconds(text: &str) -> Option<Duration> {
    let digits = text.trim_ascii();
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    // A number beyond 64 bits is a long delay too.
    is_number.then(|| digits.parse().map_or(Duration::MAX, Duration::from_secs))
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// The next attempt is due after this delay.
    Retry(Duration),
    /// The notification is dead until it is replayed.
    Dead,
}

/// What follows a failed attempt in the schedule [`TO_TENANTS`].
///
/// `failed_attempts` counts the attempts so far, this one included. `age` is the time since the notification was first
/// due. `random` is any number; it moves the delay by up to 10 % either way, so that notifications that failed together
/// do not come together again. A tenant's `retry_after` of up to [`LONGEST_RETRY_AFTER`] only makes the delay longer.
pub fn after_failure(
    failed_attempts: u32,
    age: Duration,
    retry_after: Option<Duration>,
    random: u32,
) -> AfterFailure {
    match TO_TENANTS.delay(failed_attempts) {
        Some(delay) if age < OLDEST => {
            let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            AfterFailure::Retry(jittered(delay, random).max(asked))
        }
        _ => AfterFailure::Dead,
    }
}

/// A delay between 90 % and 110 %, in milliseconds, evenly by `random`.
fn jittered(delay: Duration, random: u32) -> Duration {
    let full = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    let tenth = full / 10;
    let moved = u128::from(tenth) * 2 * u128::from(random) / u128::from(u32::MAX);
    let moved = u64::try_from(moved).unwrap_or(u64::MAX);
    Duration::from_millis((full - tenth).saturating_add(moved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delays(steps: DelaySteps) -> Vec<u64> {
        (1..)
            .map_while(|attempt| steps.delay(attempt))
            .map(|delay| delay.as_secs())
            .collect()
    }

    #[test]
    fn gatepays_three_schedules_are_the_documented_ones() {
        let current = [
            15, 15, 30, 180, 600, 1_200, 1_800, 1_800, 1_800, 3_600, 10_800, 10_800, 10_800,
            21_600, 21_600,
        ];
        assert_eq!(delays(GATEPAY_CURRENT), current);
        assert_eq!(GATEPAY_CURRENT.total(), hours(24) + minutes(4));
        assert_eq!(
            delays(GATEPAY_OLDER),
            [15, 30, 180, 600, 1_200, 1_800, 3_600, 10_800, 21_600]
        );
        assert_eq!(delays(GATEPAY_OLD_PAYMENT), [3; 10]);
        let page = include_str!("../../../docs/gatepay/protocol.md");
        for documented in [
            "after 15 s twice, 30 s, 3 min, 10 min, 20 min, 30 min three times, 60 min, 3 h three times, 6 h twice",
            "every 3 s, at most 10 times",
        ] {
            assert!(page.contains(documented), "{documented}");
        }
        let written = GATEPAY_CURRENT.to_string();
        assert!(page.contains(&format!("after {written}.")), "{written}");
    }

    #[test]
    fn ours_is_gatepays_and_then_every_twelve_hours_to_three_days() {
        let (ours, gatepays) = (delays(TO_TENANTS), delays(GATEPAY_CURRENT));
        assert_eq!(ours.strip_prefix(&*gatepays), Some(&[43_200; 4][..]));
        assert_eq!(TO_TENANTS.total(), hours(72) + minutes(4));
        assert_eq!(
            (TO_TENANTS.repetitions(), GATEPAY_CURRENT.repetitions()),
            (19, 15)
        );
        assert_eq!(
            TO_TENANTS.to_string(),
            "15 s twice, 30 s, 3 min, 10 min, 20 min, 30 min three times, 60 min, 3 h three times, 6 h twice, 12 h 4 times"
        );
    }

    /// The times of all attempts at an endpoint that always fails, in seconds after the first.
    fn attempts(retry_after: Option<Duration>, random: u32) -> Vec<u64> {
        let mut clock = Duration::ZERO;
        let mut attempts = vec![0];
        while let AfterFailure::Retry(delay) = after_failure(
            u32::try_from(attempts.len()).unwrap(),
            clock,
            retry_after,
            random,
        ) {
            clock += delay;
            attempts.push(clock.as_secs());
        }
        attempts
    }

    #[test]
    fn a_notification_is_dead_after_three_days() {
        let evenly = attempts(None, u32::MAX / 2);
        assert_eq!(evenly.len(), 20);
        assert!(
            evenly.last().unwrap().abs_diff(hours(72).as_secs()) < 300,
            "{evenly:?}"
        );
        assert!(hours(64).as_secs() < *attempts(None, 0).last().unwrap());
        let latest = attempts(None, u32::MAX);
        assert_eq!(latest.len(), 20);
        assert!(*latest.last().unwrap() < OLDEST.as_secs());
        // The breaker kept all later attempts from being made.
        assert_eq!(after_failure(1, OLDEST, None, 0), AfterFailure::Dead);
        assert_eq!(after_failure(20, hours(1), None, 0), AfterFailure::Dead);
        assert_eq!(after_failure(0, hours(1), None, 0), AfterFailure::Dead);
    }

    #[test]
    fn a_tenants_delay_is_honored_up_to_an_hour() {
        let after = |retry_after| after_failure(1, Duration::ZERO, Some(retry_after), 0);
        assert_eq!(after(minutes(7)), AfterFailure::Retry(minutes(7)));
        assert_eq!(after(hours(9)), AfterFailure::Retry(hours(1)));
        assert_eq!(after(Duration::MAX), AfterFailure::Retry(hours(1)));
        let schedule = AfterFailure::Retry(Duration::from_millis(13_500));
        assert_eq!(after(seconds(1)), schedule, "it makes no delay shorter");
        let asked = attempts(Some(hours(1)), 0);
        assert!(
            asked.windows(2).all(|two| two[1] - two[0] >= 3_240),
            "{asked:?}"
        );
    }

    #[test]
    fn answers_mean_what_gatepay_says() {
        let acknowledged = DeliveryOutcome::Acknowledged;
        let failed = DeliveryOutcome::NO_ANSWER;
        let later = |seconds| DeliveryOutcome::Failed {
            retry_after: Some(Duration::from_secs(seconds)),
        };
        for (status, retry_after, body, by_code, by_status) in [
            (
                200,
                None,
                r#"{"returnCode":"SUCCESS","returnMessage":""}"#,
                acknowledged,
                acknowledged,
            ),
            (
                200,
                None,
                r#"{"returnCode":"SUCCESS","returnMessage":null}"#,
                acknowledged,
                acknowledged,
            ),
            (
                201,
                None,
                r#" {"returnCode":"success"} "#,
                acknowledged,
                acknowledged,
            ),
            (
                200,
                None,
                r#"{"returnCode":"FAIL","returnMessage":"x"}"#,
                failed,
                acknowledged,
            ),
            (
                200,
                None,
                r#"{"returnCode":"FAIL","returnCode":"SUCCESS"}"#,
                failed,
                acknowledged,
            ),
            (
                200,
                None,
                r#"{"returnCode":"SUCCESS""#,
                failed,
                acknowledged,
            ),
            (
                200,
                None,
                r#"["returnCode","SUCCESS"]"#,
                failed,
                acknowledged,
            ),
            (
                200,
                None,
                r#"{"data":{"returnCode":"SUCCESS"}}"#,
                failed,
                acknowledged,
            ),
            (200, None, "SUCCESS", failed, acknowledged),
            (204, None, "", failed, acknowledged),
            (302, None, r#"{"returnCode":"SUCCESS"}"#, failed, failed),
            (404, Some("9"), "", failed, failed),
            (
                500,
                Some("9"),
                r#"{"returnCode":"SUCCESS"}"#,
                failed,
                failed,
            ),
            (410, None, "", DeliveryOutcome::Gone, DeliveryOutcome::Gone),
            (429, Some(" 120 "), "", later(120), later(120)),
            (
                503,
                Some("99999999999999999999999"),
                "",
                later_forever(),
                later_forever(),
            ),
            (503, Some("-1"), "", failed, failed),
            (
                503,
                Some("Fri, 31 Dec 1999 23:59:59 GMT"),
                "",
                failed,
                failed,
            ),
            (503, None, "", failed, failed),
        ] {
            let judged = |rule| DeliveryOutcome::of(rule, status, retry_after, body.as_bytes());
            assert_eq!(judged(AckRule::ReturnCode), by_code, "{status} {body}");
            assert_eq!(judged(AckRule::Status), by_status, "{status} {body}");
        }
    }

    fn later_forever() -> DeliveryOutcome {
        DeliveryOutcome::Failed {
            retry_after: Some(Duration::MAX),
        }
    }

    proptest! {
        #[test]
        fn a_delay_moves_by_at_most_a_tenth(attempt in 1..20_u32, random in any::<u32>()) {
            let delay = TO_TENANTS.delay(attempt).unwrap();
            let AfterFailure::Retry(moved) = after_failure(attempt, Duration::ZERO, None, random) else {
                panic!("it is retried");
            };
            prop_assert!(moved >= delay * 9 / 10 && moved <= delay * 11 / 10);
        }
    }
}
