//! An instance's part of the institution's rate.

use std::time::Duration;

use super::messages::{
    DemandReport, EXCHANGE_AT_MOST, EXCHANGE_EVERY, LEASE_GRACE, LOAN_ENDS, LeaseGrant,
};

/// The lease in use, with its tokens.
///
/// Tokens flow in at the leased rate, up to the leased burst. A larger burst brings no tokens, and a smaller one takes
/// those beyond it: so all instances together never have more than the whole burst.
#[derive(Debug, Clone, Default)]
pub struct RateLease {
    grant: Option<LeaseGrant>,
    tokens: f64,
    now: Duration,
    until: Duration,
    /// When the newest exchange was asked for.
    asked_at: Duration,
    /// The lease has become smaller with the last answer.
    has_shrunk: bool,
    /// When the oldest exchange was asked for that has no answer: the lease may be another one since.
    unanswered: Option<Duration>,
}

impl RateLease {
    /// Notes that an exchange is about to be asked for.
    pub fn ask(&mut self, now: Duration) {
        self.asked_at = now;
        self.unanswered.get_or_insert(now);
    }

    /// Puts the answer to the newest exchange in force. An exchange without an answer is not noted: its lease ends.
    pub fn answered(&mut self, grant: LeaseGrant, now: Duration) {
        self.advance(now);
        self.until = self.asked_at + LOAN_ENDS;
        self.unanswered = None;
        let before = self.grant.as_ref().map_or(0.0, |it| it.rate);
        self.has_shrunk = grant.rate < 0.95 * before;
        self.tokens = self.tokens.min(grant.burst);
        self.grant = Some(grant);
    }

    /// Takes a token, or returns the time until there is one.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        self.advance(now);
        if now >= self.usable_until() {
            Err(EXCHANGE_AT_MOST)
        } else if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            let rate = self.rate(now);
            let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / rate);
            Err(wait.map_or(LOAN_ENDS, |wait| wait.min(LOAN_ENDS)))
        }
    }

    /// The rate that the instance may use now.
    pub fn rate(&self, now: Duration) -> f64 {
        match &self.grant {
            Some(grant) if now < self.usable_until() => grant.rate,
            _ => 0.0,
        }
    }

    /// The lease, whether it is still usable or not.
    pub fn grant(&self) -> Option<&LeaseGrant> {
        self.grant.as_ref()
    }

    /// The end of its use: while its exchange has no answer, it may have been lent to others already.
    pub fn usable_until(&self) -> Duration {
        let grace = self.unanswered.map(|asked| asked + LEASE_GRACE);
        grace.map_or(self.until, |grace| grace.min(self.until))
    }

    /// When the newest exchange was asked for.
    pub fn asked_at(&self) -> Duration {
        self.asked_at
    }

    /// The end of the lease, at which its tokens end too.
    pub fn ends(&self) -> Duration {
        self.until
    }

    /// The number for [`DemandReport::applied`].
    pub fn applied(&self) -> i64 {
        self.grant.as_ref().map_or(0, |it| it.number)
    }

    /// When the next exchange is due: earlier if the lease is below its target, or has become smaller.
    pub fn due(&self) -> Duration {
        let short = |it: &LeaseGrant| it.rate < 0.95 * it.target;
        let short = self.has_shrunk || self.grant.as_ref().is_none_or(short);
        self.asked_at
            + if short {
                EXCHANGE_AT_MOST
            } else {
                EXCHANGE_EVERY
            }
    }

    /// A report with the number of the lease in use.
    #[must_use]
    pub fn report(&self, report: DemandReport) -> DemandReport {
        DemandReport {
            applied: self.applied(),
            ..report
        }
    }

    fn advance(&mut self, now: Duration) {
        let flowed = now.min(self.usable_until()).saturating_sub(self.now);
        if let Some(grant) = &self.grant {
            self.tokens = (self.tokens + grant.rate * flowed.as_secs_f64()).min(grant.burst);
        }
        self.now = self.now.max(now);
        if now >= self.until {
            self.tokens = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn granted(lease: &mut RateLease, rate: f64, burst: f64, ms: u64) {
        lease.ask(at(ms));
        let grant = LeaseGrant {
            number: 1,
            era: 1,
            is_open: true,
            instances: 2,
            rate,
            burst,
            target: rate,
            whole_rate: 100.0,
            whole_burst: 100.0,
            weight: 1.0,
            seats_elsewhere: 0,
            fractions: Vec::new(),
        };
        lease.answered(grant, at(ms));
    }

    fn admitted(lease: &mut RateLease, ms: u64) -> u32 {
        (0..1_000)
            .map(|_| u32::from(lease.take(at(ms)).is_ok()))
            .sum()
    }

    #[test]
    fn tokens_come_by_the_rate_alone() {
        let mut lease = RateLease::default();
        granted(&mut lease, 100.0, 50.0, 9_000);
        assert_eq!(admitted(&mut lease, 9_000), 0);
        granted(&mut lease, 100.0, 10.0, 10_000);
        // The smaller burst took the tokens beyond it; the larger one brings none.
        granted(&mut lease, 100.0, 50.0, 10_000);
        assert_eq!(admitted(&mut lease, 10_000), 10);
        assert_eq!(admitted(&mut lease, 10_100), 10);
        assert_eq!(lease.take(at(10_100)).unwrap_err(), at(10));
    }

    #[test]
    fn the_tokens_end_with_the_lease() {
        let mut lease = RateLease::default();
        granted(&mut lease, 100.0, 50.0, 0);
        assert_eq!(admitted(&mut lease, 2_000), 0);
        granted(&mut lease, 100.0, 50.0, 3_000);
        assert_eq!(admitted(&mut lease, 3_000), 0);
    }

    #[test]
    fn a_lease_is_used_while_its_answer_is_late_and_ends_a_second_after_the_question() {
        let mut lease = RateLease::default();
        granted(&mut lease, 100.0, 50.0, 0);
        lease.ask(at(200));
        lease.ask(at(290));
        assert_eq!(admitted(&mut lease, 255), 25);
        assert_eq!(admitted(&mut lease, 700), 45);
        assert_eq!(admitted(&mut lease, 1_199), 49);
        assert_eq!(admitted(&mut lease, 1_200), 0);
        granted(&mut lease, 100.0, 50.0, 1_900);
        // The inflow until 1,200 ms, and no longer.
        assert_eq!(admitted(&mut lease, 1_900), 0);
    }

    #[test]
    fn a_smaller_lease_is_confirmed_by_an_early_exchange() {
        let mut lease = RateLease::default();
        granted(&mut lease, 100.0, 50.0, 0);
        assert_eq!(lease.due(), at(200));
        granted(&mut lease, 50.0, 50.0, 200);
        assert_eq!(lease.due(), at(250));
        granted(&mut lease, 50.0, 50.0, 250);
        assert_eq!(lease.due(), at(450));
    }
}
