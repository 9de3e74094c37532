//! Breaker rules: hold the deliveries to one endpoint back while the endpoint keeps failing, so that a dead endpoint costs
//! one attempt now and then.
//!
//! The store keeps the breaker's state with the endpoint, since any instance may serve the endpoint next, and gives out no
//! event before the pause ends. Times are the store's, in milliseconds since 1970.

use std::time::Duration;

use gatepay_store::notifications::delivery::EndpointBreaker;

/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;
/// The time that they must take at least: a restart of the endpoint is shorter.
const OVER: Duration = Duration::from_secs(30);
/// The first pause; it doubles with each failed probe.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// How many attempts a breaker allows now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerAllowance {
    /// As many as the endpoint takes at once.
    All,
    /// One, which finds out whether the endpoint works again.
    Probe,
    /// None before the pause ends.
    Nothing,
}

/// How many attempts are allowed.
pub fn allowance(breaker: &EndpointBreaker, now_ms: u64) -> BreakerAllowance {
    match breaker.open_until_ms {
        None => BreakerAllowance::All,
        Some(until) if now_ms < until => BreakerAllowance::Nothing,
        Some(_) => BreakerAllowance::Probe,
    }
}

/// The endpoint acknowledged a notification. Returns whether the breaker closed.
pub fn acknowledged(breaker: &mut EndpointBreaker) -> bool {
    std::mem::take(breaker).open_until_ms.is_some()
}

/// An attempt failed. Returns whether the breaker opened.
///
/// Attempts that began before the breaker opened may end after it; they do not make the pause longer.
pub fn failed(breaker: &mut EndpointBreaker, now_ms: u64) -> bool {
    let failing_since = *breaker.failing_since_ms.get_or_insert(now_ms);
    breaker.failures = breaker.failures.saturating_add(1);
    match breaker.open_until_ms {
        Some(until) if now_ms < until => false,
        Some(_) => {
            breaker.failed_probes = breaker.failed_probes.saturating_add(1);
            breaker.open_until_ms = Some(end_of_pause(breaker.failed_probes, now_ms));
            false
        }
        None => {
            let failing_for = now_ms.saturating_sub(failing_since);
            let opens = breaker.failures >= FAILURES && failing_for >= ms(OVER);
            breaker.open_until_ms = opens.then(|| end_of_pause(0, now_ms));
            opens
        }
    }
}

fn end_of_pause(failed_probes: u32, now_ms: u64) -> u64 {
    let doubled = 1_u32.checked_shl(failed_probes).unwrap_or(u32::MAX);
    let pause = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
    now_ms.saturating_add(ms(pause))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_767_225_600_000;

    fn failed_at(seconds: &[u64]) -> (EndpointBreaker, Vec<bool>) {
        let mut breaker = EndpointBreaker::default();
        let times = seconds.iter().map(|second| START + second * 1_000);
        let opened = times.map(|at| failed(&mut breaker, at)).collect();
        (breaker, opened)
    }

    #[test]
    fn five_failures_in_a_row_over_thirty_seconds_open_it() {
        for (seconds, opens) in [
            (&[0, 1, 2, 3, 4, 5, 6, 29][..], false),
            (&[0, 10, 20, 30], false),
            (&[0, 1, 2, 3, 30], true),
            (&[0, 1, 2, 3, 4, 5, 30], true),
        ] {
            let (breaker, opened) = failed_at(seconds);
            assert_eq!(breaker.open_until_ms.is_some(), opens, "{seconds:?}");
            assert_eq!(opened.last(), Some(&opens));
        }
        let (mut breaker, _) = failed_at(&[0, 10, 20, 30]);
        assert!(!acknowledged(&mut breaker));
        assert!(!failed(&mut breaker, START + 40_000), "not in a row");
    }

    #[test]
    fn one_probe_is_allowed_after_each_pause_and_the_pause_doubles_to_fifteen_minutes() {
        let (mut breaker, _) = failed_at(&[0, 1, 2, 3, 30]);
        let mut now = START + 30_000;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert_eq!(allowance(&breaker, now), BreakerAllowance::Nothing);
            let until = breaker.open_until_ms.unwrap();
            pauses.push((until - now) / 1_000);
            now = until;
            assert_eq!(allowance(&breaker, now), BreakerAllowance::Probe);
            assert!(!failed(&mut breaker, now));
        }
        assert_eq!(pauses[..7], [30, 60, 120, 240, 480, 900, 900]);
        assert_eq!(pauses.last(), Some(&900));
        assert!(acknowledged(&mut breaker));
        assert_eq!(allowance(&breaker, now), BreakerAllowance::All);
        assert_eq!(breaker, EndpointBreaker::default());
    }

    #[test]
    fn attempts_that_end_after_the_breaker_opened_do_not_make_its_pause_longer() {
        let (mut breaker, _) = failed_at(&[0, 1, 2, 3, 30]);
        let before = breaker.open_until_ms;
        for _ in 0..4 {
            assert!(!failed(&mut breaker, START + 31_000));
        }
        assert_eq!(breaker.open_until_ms, before);
    }
}
