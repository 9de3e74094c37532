//! Circuit breaker: while GatePay keeps failing, the proxy sends only a read of its own now and then, to see whether
//! GatePay is back.
//!
//! A call that is refused meanwhile was certainly not executed; a call to a failing upstream has no such certainty.
//! Money is never sent to find out whether GatePay is well.
//!
//! Every party has one vote (`votes`), so that none can take GatePay away from the others. Failures of one party alone
//! open a breaker of that party's own (`party`).

mod party;
#[cfg(test)]
mod tests;
mod votes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatepay_core::Kind;
use gatepay_tenancy::settings;

use parking_lot::{Mutex, MutexGuard};
use party::FailureStreak;
pub use party::{BreakerEra, PartyBreaker};
pub use votes::OpenEvidence;
use votes::{BreakerVotes, EVERY, WINDOW};

/// The institution's breaker, shared by all workers. While GatePay is well, an attempt costs four relaxed loads and no
/// write.
///
/// Times are measured from the moment the breaker was made. The methods that every attempt calls take a function that
/// reads the time: they call it only while something fails.
pub struct Breaker {
    /// Whether it is open, and the numbers of the running row and window: see [`BreakerPhase`].
    phase: AtomicU64,
    /// Ends when GatePay is found well: then every party's own breaker is half open.
    era: BreakerEra,
    state: Mutex<BreakerState>,
}

struct BreakerState {
    votes: BreakerVotes,
    /// Whether the settings have a count of failures or a ratio by which it opens.
    is_on: bool,
    /// When the next read of the proxy's own may be sent as a probe.
    probe: Duration,
    /// Failures of parties since the last such read.
    unasked: u32,
    /// When the breaker opened.
    opened: Duration,
    /// Whether a party's breaker opened since GatePay was found well.
    has_party_opened: bool,
}

/// The single word that every attempt reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BreakerPhase {
    is_open: bool,
    /// 0 if no row is running.
    row: u32,
    /// 0 if no window is running.
    window: u16,
}

/// The owner of an attempt.
#[derive(Clone, Copy)]
pub enum AttemptOwner<'a> {
    /// The proxy itself.
    Own,
    /// A party's call.
    Party(&'a PartyBreaker),
    /// The look-up of a party's call whose outcome is unknown: the party's own breaker does not hold it back.
    LookUp(&'a PartyBreaker),
}

/// The right to send an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerPass {
    /// No breaker holds the attempt back.
    Free,
    /// GatePay is failing; this read of the proxy's own finds out whether it is well again.
    Probe,
}

/// The breaker that refuses an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerOpen {
    /// GatePay keeps failing.
    Institution,
    /// Only this party's calls keep failing.
    Party {
        /// The time until one of them may find out whether that is over.
        wait: Duration,
    },
}

/// The effects of a failure.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailureEffects {
    /// The party's own breaker opened.
    pub party_opened: Option<PartyOpenEvidence>,
    /// The institution's breaker opened.
    pub opened: Option<OpenEvidence>,
    /// A read of the proxy's own is wanted at once.
    pub wants_read: bool,
}

/// The evidence on which a party's own breaker opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartyOpenEvidence {
    /// The party's failures since its last answer.
    pub in_a_row: u32,
    /// The party's failures in the running window.
    pub failures: u32,
    /// The party's attempts in the running window.
    pub attempts: u32,
}

/// The breaker that closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerClosed {
    /// GatePay answers again, or no read can find out whether it does.
    Institution {
        /// How long the breaker was open.
        after: Duration,
    },
    /// GatePay answers this party again.
    Party,
}

impl BreakerPhase {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part of the word has its own bits"
    )]
    fn from_word(word: u64) -> Self {
        Self {
            is_open: word >> 48 != 0,
            row: (word >> 16) as u32,
            window: word as u16,
        }
    }

    fn word(self) -> u64 {
        u64::from(self.is_open) << 48 | u64::from(self.row) << 16 | u64::from(self.window)
    }
}

impl<'a> AttemptOwner<'a> {
    /// The party's breaker, if the attempt is made for a party.
    pub fn party(self) -> Option<&'a PartyBreaker> {
        match self {
            Self::Own => None,
            Self::Party(party) | Self::LookUp(party) => Some(party),
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: settings::BreakerSettings, era: BreakerEra) -> Self {
        Self {
            phase: AtomicU64::new(0),
            era,
            state: Mutex::new(BreakerState {
                votes: BreakerVotes::new(settings),
                is_on: settings.failures > 0 || settings.ratio > 0.0,
                probe: Duration::ZERO,
                unasked: 0,
                opened: Duration::ZERO,
                has_party_opened: false,
            }),
        }
    }

    /// Whether an attempt of this kind may be sent now.
    pub fn pass(
        &self,
        sender: AttemptOwner<'_>,
        kind: Kind,
        now: impl FnOnce() -> Duration,
    ) -> Result<BreakerPass, BreakerOpen> {
        if self.is_open() {
            let probes = matches!(sender, AttemptOwner::Own) && self.claim(now());
            return probes
                .then_some(BreakerPass::Probe)
                .ok_or(BreakerOpen::Institution);
        }
        match sender {
            AttemptOwner::Party(party) if party.is_open() => match party.claim(kind, now()) {
                Ok(()) => Ok(BreakerPass::Free),
                Err(wait) => Err(BreakerOpen::Party { wait }),
            },
            AttemptOwner::Own | AttemptOwner::Party(_) | AttemptOwner::LookUp(_) => {
                Ok(BreakerPass::Free)
            }
        }
    }

    /// Whether GatePay keeps failing.
    pub fn is_open(&self) -> bool {
        self.phase().is_open
    }

    /// Counts an answer of GatePay, of any status.
    pub fn answered(
        &self,
        sender: AttemptOwner<'_>,
        pass: BreakerPass,
        now: impl FnOnce() -> Duration,
    ) -> Option<BreakerClosed> {
        let Some(party) = sender.party() else {
            return self.own_answered(pass, now());
        };
        let phase = self.phase();
        if party.is_settled(phase.row, phase.window) {
            return None;
        }
        self.party_answered(party, now())
    }

    /// Counts a failure: no connection, no whole answer, or an answer of an intermediary before GatePay.
    pub fn failed(&self, sender: AttemptOwner<'_>, now: Duration) -> FailureEffects {
        match sender.party() {
            None => self.own_failed(now),
            Some(party) => self.party_failed(party, now),
        }
    }

    /// Whether a read of the proxy's own should be sent now: while the breaker is open, and after half as many failures
    /// as open it.
    pub fn wants_read(&self, now: Duration) -> bool {
        let mut state = self.state();
        state.votes.end_window(now);
        self.show(&state);
        let is_wanted = self.is_open() || state.unasked >= state.votes.half();
        state.is_on && is_wanted && now >= state.probe
    }

    /// Notes that such a read is being sent.
    pub fn asked(&self, now: Duration) {
        let mut state = self.state();
        state.unasked = 0;
        // While it is open, the attempt itself claims the next probe.
        if !self.is_open() {
            state.probe = now + EVERY;
        }
    }

    /// Notes that there is no read to probe with. After a while the breaker closes anyway, or all calls would be
    /// refused for ever; then two failures open it again.
    pub fn despair(&self, now: Duration) -> Option<BreakerClosed> {
        let mut state = self.state();
        let waited = now.saturating_sub(state.opened);
        (self.is_open() && waited > WINDOW).then(|| self.close(&mut state, Some(now + WINDOW), now))
    }

    /// Claims the next probe, if it is due. A probe that hangs does not keep the next from being sent.
    fn claim(&self, now: Duration) -> bool {
        let mut state = self.state();
        let due = now >= state.probe;
        if due {
            state.probe = now + EVERY;
        }
        due
    }

    fn own_answered(&self, pass: BreakerPass, now: Duration) -> Option<BreakerClosed> {
        let mut state = self.state();
        state.votes.own(true, now);
        if std::mem::take(&mut state.has_party_opened) {
            self.era.found_well();
        }
        // An answer to an attempt sent before it opened proves little.
        let closes = self.is_open() && pass == BreakerPass::Probe;
        let closed = closes.then(|| self.close(&mut state, None, now));
        self.show(&state);
        closed
    }

    fn own_failed(&self, now: Duration) -> FailureEffects {
        let mut state = self.state();
        state.votes.own(false, now);
        FailureEffects {
            opened: self.judge(&mut state, now),
            ..FailureEffects::default()
        }
    }

    fn party_answered(&self, party: &PartyBreaker, now: Duration) -> Option<BreakerClosed> {
        let mut state = self.state();
        let streak = party.streak();
        party.set_streak(FailureStreak::default());
        let tally = if streak.is_open {
            state.votes.forget(party.tally())
        } else {
            party.tally()
        };
        party.set_tally(state.votes.count(tally, false, now));
        party.set_vote(state.votes.answered(party.vote()));
        self.show(&state);
        streak.is_open.then_some(BreakerClosed::Party)
    }

    fn party_failed(&self, party: &PartyBreaker, now: Duration) -> FailureEffects {
        let mut state = self.state();
        let mut effects = FailureEffects::default();
        if !state.is_on || self.is_open() {
            return effects;
        }
        state.unasked = state.unasked.saturating_add(1);
        let streak = party.streak();
        let failures = streak.failures.saturating_add(1);
        party.set_streak(FailureStreak { failures, ..streak });
        // A party whose own breaker is open has no vote.
        if !party.is_open() {
            party.set_tally(state.votes.count(party.tally(), true, now));
            party.set_vote(state.votes.failed(party.vote(), now));
            if state.votes.is_failing_alone(failures, party.tally()) {
                effects.party_opened = self.open_party(&mut state, party, now);
            }
        }
        effects.opened = self.judge(&mut state, now);
        effects.wants_read =
            !self.is_open() && state.unasked >= state.votes.half() && now >= state.probe;
        effects
    }

    /// Opens a party's own breaker. That a breaker which was half open opens again is no news.
    fn open_party(
        &self,
        state: &mut BreakerState,
        party: &PartyBreaker,
        now: Duration,
    ) -> Option<PartyOpenEvidence> {
        let (streak, tally) = (party.streak(), party.tally());
        party.begin_trials(now);
        party.set_streak(FailureStreak {
            era: self.era.now(),
            is_open: true,
            ..streak
        });
        if streak.is_open {
            return None;
        }
        state.has_party_opened = true;
        Some(PartyOpenEvidence {
            in_a_row: streak.failures,
            failures: tally.failures,
            attempts: tally.attempts,
        })
    }

    /// Opens the breaker if the votes say so.
    fn judge(&self, state: &mut BreakerState, now: Duration) -> Option<OpenEvidence> {
        if self.is_open() {
            return None;
        }
        let Some(evidence) = state.votes.verdict(now) else {
            self.show(state);
            return None;
        };
        (state.opened, state.probe) = (now, now + EVERY);
        self.set_phase(BreakerPhase {
            is_open: true,
            row: 0,
            window: 0,
        });
        Some(evidence)
    }

    fn close(
        &self,
        state: &mut BreakerState,
        wary: Option<Duration>,
        now: Duration,
    ) -> BreakerClosed {
        state.votes.clear(wary);
        state.unasked = 0;
        self.era.outage_over();
        self.set_phase(BreakerPhase {
            is_open: false,
            row: 0,
            window: 0,
        });
        BreakerClosed::Institution {
            after: now.saturating_sub(state.opened),
        }
    }

    /// Shows the running row and window to attempts, while it is closed.
    fn show(&self, state: &BreakerState) {
        if !self.is_open() {
            self.set_phase(BreakerPhase {
                is_open: false,
                row: state.votes.row(),
                window: state.votes.window(),
            });
        }
    }

    fn phase(&self) -> BreakerPhase {
        BreakerPhase::from_word(self.phase.load(Ordering::Relaxed))
    }

    fn set_phase(&self, phase: BreakerPhase) {
        self.phase.store(phase.word(), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock()
    }
}
