//! Whether a store that failed is asked again yet.

use std::time::Duration;

/// Opens at the first failure of the store, and closes at the first probe that succeeds. While it is open, requests are
/// refused at once instead of waiting for a time-out each.
///
/// Times count from any fixed point.
///
/// ```
/// use gatepay_store::breaker::StoreBreaker;
/// use std::time::Duration;
///
/// let mut breaker = StoreBreaker::new(7);
/// let now = Duration::from_secs(1);
/// assert_eq!(breaker.wait(now), None);
/// breaker.failed(now);
/// let wait = breaker.wait(now).expect("it is open");
/// assert!((188..=312).contains(&wait.as_millis()), "250 ms, a quarter more or less");
/// breaker.succeeded();
/// assert_eq!(breaker.wait(now), None);
/// ```
#[derive(Debug)]
pub struct StoreBreaker {
    /// When the next probe is due, while it is open.
    probe_at: Option<Duration>,
    pause: Duration,
    jitter: u64,
}

/// The pause before the first probe.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl StoreBreaker {
    /// A closed one. Instances with different seeds do not probe in step.
    pub fn new(seed: u64) -> Self {
        Self {
            probe_at: None,
            pause: FIRST_PAUSE,
            jitter: seed | 1,
        }
    }

    /// How long until the next probe is due, zero if it is due now; `None` while the breaker is closed.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.probe_at.map(|at| at.saturating_sub(now))
    }

    /// A call or a probe has failed: the next probe is due after a pause, which doubles from probe to probe.
    pub fn failed(&mut self, now: Duration) {
        if self.probe_at.is_some_and(|at| now < at) {
            // A call that was under way when the breaker opened.
            return;
        }
        self.pause = match self.probe_at {
            None => FIRST_PAUSE,
            Some(_) => (self.pause * 2).min(LONGEST_PAUSE),
        };
        self.probe_at = Some(now + self.jittered());
    }

    /// A call or a probe has succeeded.
    pub fn succeeded(&mut self) {
        self.probe_at = None;
    }

    /// The pause, up to a quarter longer or shorter.
    fn jittered(&mut self) -> Duration {
        // xorshift: it only has to differ between instances.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let part = u32::try_from(self.jitter % 500).expect("it is below 500");
        self.pause * (750 + part) / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_seconds() {
        let mut breaker = StoreBreaker::new(3);
        let mut now = Duration::ZERO;
        for pause in [250, 500, 1_000, 2_000, 2_000] {
            breaker.failed(now);
            let wait = breaker.wait(now).unwrap().as_millis();
            assert!(
                (pause * 3 / 4..=pause * 5 / 4).contains(&wait),
                "{pause}: {wait}"
            );
            // Others that fail meanwhile postpone nothing.
            breaker.failed(now);
            assert_eq!(breaker.wait(now).unwrap().as_millis(), wait);
            now += breaker.wait(now).unwrap();
            assert_eq!(breaker.wait(now), Some(Duration::ZERO));
        }
        breaker.succeeded();
        breaker.failed(now);
        assert!(breaker.wait(now).unwrap().as_millis() <= 313);
    }
}
