//! One party's part of the breaker: how often its attempts failed in a row, its votes, and a breaker of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_core::Kind;
use gatepay_tenancy::PartyId;

use super::votes::{AttemptTally, MOST_OF_ONE, PartyVote};

/// How often a read of a party whose breaker is open probes whether the party is answered again.
const READ_EVERY: Duration = Duration::from_millis(500);
/// How often another call probes. Such a call may be lost, as if there were no breaker, but without it a party that
/// never reads would be refused for ever.
const CHANGE_EVERY: Duration = Duration::from_secs(10);

/// A party's breaker. Every attempt reads the first word, in the near part of the party's `TenantLimits`; the rest is
/// read only while something fails. Written under the lock of the [`Breaker`](super::Breaker), but for counts and
/// trials.
pub struct PartyBreaker {
    streak: AtomicU64,
    rest: Box<PartyTrials>,
}

/// How often the institution's breaker closed, in the upper half, and how often GatePay was found well while it was
/// closed. Failures before that are no reason any more to hold a party's calls back.
#[derive(Clone, Default)]
pub struct BreakerEra(Arc<AtomicU32>);

struct PartyTrials {
    era: BreakerEra,
    vote: AtomicU64,
    tally: AtomicU64,
    /// When a read may probe, and when another call, in tenths of a second.
    trials: [AtomicU32; 2],
    id: PartyId,
}

/// The results of a party's last attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FailureStreak {
    /// The era in which the party's own breaker opened.
    pub(super) era: u32,
    /// Whether the party's own breaker is open.
    pub(super) is_open: bool,
    /// Failures without an answer since.
    pub(super) failures: u32,
}

const OPEN: u64 = 1 << 31;
const COUNT: u64 = OPEN - 1;

impl FailureStreak {
    fn from_word(word: u64) -> Self {
        Self {
            era: (word >> 32) as u32,
            is_open: word & OPEN != 0,
            failures: (word & COUNT) as u32,
        }
    }

    fn word(self) -> u64 {
        let count = u64::from(self.failures).min(COUNT);
        u64::from(self.era) << 32 | u64::from(self.is_open) << 31 | count
    }
}

impl PartyBreaker {
    /// A closed breaker.
    pub fn new(id: PartyId, era: BreakerEra) -> Self {
        Self {
            streak: AtomicU64::new(0),
            rest: Box::new(PartyTrials {
                era,
                vote: AtomicU64::new(0),
                tally: AtomicU64::new(0),
                trials: [AtomicU32::new(0), AtomicU32::new(0)],
                id,
            }),
        }
    }

    /// The party of this breaker.
    pub fn id(&self) -> &PartyId {
        &self.rest.id
    }

    /// Failures without an answer since.
    pub fn failures_in_a_row(&self) -> u32 {
        self.streak().failures
    }

    /// Whether this party's calls alone keep failing: its breaker is open, or half open and no call was answered since.
    pub fn is_failing(&self) -> bool {
        let streak = self.streak();
        streak.is_open && streak.era >> 16 == self.rest.era.now() >> 16
    }

    /// Whether the party's calls are refused.
    pub fn is_open(&self) -> bool {
        let word = self.streak.load(Ordering::Relaxed);
        // The era is read only if it matters.
        word & OPEN != 0 && FailureStreak::from_word(word).era == self.rest.era.now()
    }

    /// Whether an answer changes nothing: the party's last attempt was answered as well, and that has been counted in
    /// the running row and window, if there are any. Counts the answer in the window.
    pub(super) fn is_settled(&self, row: u32, window: u16) -> bool {
        // An era without failures means nothing.
        if self.streak.load(Ordering::Relaxed) & (OPEN | COUNT) != 0 {
            return false;
        }
        if row == 0 && window == 0 {
            return true;
        }
        let vote = self.vote();
        if row != 0 && (vote.row != row || vote.failures != 0) {
            return false;
        }
        window == 0 || self.is_tallied(window)
    }

    fn is_tallied(&self, window: u16) -> bool {
        let tally = self.tally();
        let counted =
            tally.window == window && tally.failures == 0 && tally.attempts >= MOST_OF_ONE;
        if counted && tally.attempts < TALLY_MOST / 2 {
            self.rest.tally.fetch_add(1 << 24, Ordering::Relaxed);
        }
        counted
    }

    pub(super) fn streak(&self) -> FailureStreak {
        FailureStreak::from_word(self.streak.load(Ordering::Relaxed))
    }

    pub(super) fn set_streak(&self, streak: FailureStreak) {
        self.streak.store(streak.word(), Ordering::Relaxed);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part of the word has its own bits"
    )]
    pub(super) fn vote(&self) -> PartyVote {
        let word = self.rest.vote.load(Ordering::Relaxed);
        PartyVote {
            row: (word >> 32) as u32,
            failures: word as u32,
        }
    }

    pub(super) fn set_vote(&self, vote: PartyVote) {
        let word = u64::from(vote.row) << 32 | u64::from(vote.failures);
        self.rest.vote.store(word, Ordering::Relaxed);
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part of the word has its own bits"
    )]
    pub(super) fn tally(&self) -> AttemptTally {
        let word = self.rest.tally.load(Ordering::Relaxed);
        AttemptTally {
            window: (word >> 48) as u16,
            is_failing: word & FAILING != 0,
            attempts: (word >> 24) as u32 & TALLY_MOST,
            failures: word as u32 & TALLY_MOST,
        }
    }

    pub(super) fn set_tally(&self, tally: AttemptTally) {
        let count = |count: u32| u64::from(count.min(TALLY_MOST));
        let counts = count(tally.attempts) << 24 | count(tally.failures);
        let word = u64::from(tally.window) << 48 | u64::from(tally.is_failing) << 47 | counts;
        self.rest.tally.store(word, Ordering::Relaxed);
    }

    /// The breaker opens at this time: the first trials are due later.
    pub(super) fn begin_trials(&self, now: Duration) {
        for (trial, every) in self.rest.trials.iter().zip([READ_EVERY, CHANGE_EVERY]) {
            trial.store(tenths(now + every), Ordering::Relaxed);
        }
    }

    /// Whether a call of this kind may probe now whether the party is answered again, or else the time until one may. A
    /// probe that hangs does not keep the next from being sent.
    pub(super) fn claim(&self, kind: Kind, now: Duration) -> Result<(), Duration> {
        let (trial, every) = match kind {
            Kind::Read => (&self.rest.trials[0], READ_EVERY),
            Kind::Write | Kind::Money => (&self.rest.trials[1], CHANGE_EVERY),
        };
        let due = trial.load(Ordering::Relaxed);
        let next = tenths(now + every);
        let claim = || trial.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed);
        if tenths(now) >= due && claim().is_ok() {
            return Ok(());
        }
        Err(Duration::from_millis(u64::from(due) * 100).saturating_sub(now))
    }
}

impl BreakerEra {
    /// The number of the present era.
    pub(super) fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that GatePay was found well, though calls of a party fail. Called under the breaker's lock.
    pub(super) fn found_well(&self) {
        let now = self.now();
        let next = now & 0xffff_0000 | now.wrapping_add(1) & 0xffff;
        self.0.store(next, Ordering::Relaxed);
    }

    /// Notes that the institution's breaker closed. Called under the breaker's lock.
    pub(super) fn outage_over(&self) {
        let next = self.now().wrapping_add(1 << 16);
        self.0.store(next, Ordering::Relaxed);
    }
}

/// The largest number of attempts, and of failures, that the tally can hold.
const TALLY_MOST: u32 = (1 << 23) - 1;
const FAILING: u64 = 1 << 47;

/// The time in tenths of a second: enough for thirteen years.
fn tenths(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / 100).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn party() -> PartyBreaker {
        PartyBreaker::new(PartyId::parse("acme").unwrap(), BreakerEra::default())
    }

    #[test]
    fn every_attempt_looks_at_one_word_beside_a_pointer() {
        assert_eq!(size_of::<PartyBreaker>(), 16);
        assert!(size_of::<PartyTrials>() <= 56);
    }

    #[test]
    fn trials_are_one_read_every_half_second_and_one_other_call_every_ten() {
        let party = party();
        party.begin_trials(Duration::ZERO);
        let mut let_through = [0, 0];
        for tenth in 0..1_000 {
            for (kind, count) in [Kind::Read, Kind::Money].into_iter().zip(&mut let_through) {
                let now = Duration::from_millis(tenth * 100);
                *count += u32::from(party.claim(kind, now).is_ok());
            }
        }
        assert_eq!(let_through, [199, 9]);
        let wait = party.claim(Kind::Write, Duration::from_secs(98));
        assert_eq!(wait, Err(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn packed_breaker_votes_unpack_unchanged(
            era: u32, is_open: bool, failures in 0..1_u32 << 31,
            row: u32, votes: u32,
            window: u16, is_failing: bool, attempts in 0..=TALLY_MOST, failed in 0..=TALLY_MOST,
        ) {
            let party = party();
            let streak = FailureStreak { era, is_open, failures };
            party.set_streak(streak);
            prop_assert_eq!(party.streak(), streak);
            let vote = PartyVote { row, failures: votes };
            party.set_vote(vote);
            prop_assert_eq!(party.vote(), vote);
            let tally = AttemptTally { window, is_failing, attempts, failures: failed };
            party.set_tally(tally);
            prop_assert_eq!(party.tally(), tally);
        }
    }
}
