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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gatepay_core::Kind;
use gatepay_tenancy::settings;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::Notify;

use party::FailureStreak;
pub use party::{BreakerEra, PartyBreaker};
use votes::{BreakerVotes, EVERY, OpenEvidence, WINDOW};

/// The institution's breaker, shared by all workers. While GatePay is well, an attempt costs four relaxed loads and no
/// write.
pub struct Breaker {
    /// Whether it is open, and the numbers of the running row and window: see [`BreakerPhase`].
    phase: AtomicU64,
    /// Ends when GatePay is found well: then every party's own breaker is half open.
    era: BreakerEra,
    /// The origin of times.
    begun: Instant,
    state: Mutex<BreakerState>,
    /// Notified when a read of the proxy's own is wanted.
    wanted: Notify,
    meters: BreakerMeters,
}

/// The metrics of the breaker.
#[derive(Clone)]
pub struct BreakerMeters {
    /// 1 while the breaker is open.
    pub is_open: IntGauge,
    /// How often the breaker opened.
    pub opened: IntCounter,
    /// How often a party's own breaker opened.
    pub party_opened: IntCounter,
}

struct BreakerState {
    votes: BreakerVotes,
    /// Whether the settings have a count of failures or a ratio by which it opens.
    is_on: bool,
    /// When the next read of the proxy's own may be sent as a probe.
    probe: Instant,
    /// Failures of parties since the last such read.
    unasked: u32,
    /// When the breaker opened.
    opened: Instant,
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
    fn party(self) -> Option<&'a PartyBreaker> {
        match self {
            Self::Own => None,
            Self::Party(party) | Self::LookUp(party) => Some(party),
        }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: settings::Breaker, era: BreakerEra, meters: BreakerMeters) -> Self {
        let now = Instant::now();
        Self {
            phase: AtomicU64::new(0),
            era,
            begun: now,
            state: Mutex::new(BreakerState {
                votes: BreakerVotes::new(settings, now),
                is_on: settings.failures > 0 || settings.ratio > 0.0,
                probe: now,
                unasked: 0,
                opened: now,
                has_party_opened: false,
            }),
            wanted: Notify::new(),
            meters,
        }
    }

    /// Whether an attempt of this kind may be sent now.
    pub fn pass(&self, sender: AttemptOwner<'_>, kind: Kind) -> Result<BreakerPass, BreakerOpen> {
        if self.is_open() {
            let probes = matches!(sender, AttemptOwner::Own) && self.claim(Instant::now());
            return probes
                .then_some(BreakerPass::Probe)
                .ok_or(BreakerOpen::Institution);
        }
        match sender {
            AttemptOwner::Party(party) if party.is_open() => {
                self.try_again(party, kind, Instant::now())
            }
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
    pub fn answered(&self, sender: AttemptOwner<'_>, pass: BreakerPass) {
        let Some(party) = sender.party() else {
            return self.own_answered(pass, Instant::now());
        };
        let phase = self.phase();
        if !party.is_settled(phase.row, phase.window) {
            self.party_answered(party, Instant::now());
        }
    }

    /// Counts a failure: no connection, no whole answer, or an answer of an intermediary before GatePay.
    pub fn failed(&self, sender: AttemptOwner<'_>) {
        match sender.party() {
            None => self.own_failed(Instant::now()),
            Some(party) => self.party_failed(party, Instant::now()),
        }
    }

    /// Waits until a read of the proxy's own is wanted.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether a read of the proxy's own should be sent now: while the breaker is open, and after half as many failures
    /// as open it.
    pub fn wants_read(&self) -> bool {
        self.wants_read_at(Instant::now())
    }

    fn wants_read_at(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.votes.end_window(now);
        self.show(&state);
        let is_wanted = self.is_open() || state.unasked >= state.votes.half();
        state.is_on && is_wanted && now >= state.probe
    }

    /// Notes that such a read is being sent.
    pub fn asked(&self) {
        self.asked_at(Instant::now());
    }

    fn asked_at(&self, now: Instant) {
        let mut state = self.state();
        state.unasked = 0;
        // While it is open, the attempt itself claims the next probe.
        if !self.is_open() {
            state.probe = now + EVERY;
        }
    }

    /// Notes that there is no read to probe with. After a while the breaker closes all the same, or all calls would be
    /// refused for ever; then two failures open it again.
    pub fn despair(&self) {
        self.despair_at(Instant::now());
    }

    fn despair_at(&self, now: Instant) {
        let mut state = self.state();
        let waited = now.saturating_duration_since(state.opened);
        if self.is_open() && waited > WINDOW {
            self.close(&mut state, Some(now + WINDOW), now);
        }
    }

    /// Claims the next probe, if it is due. A probe that hangs does not keep the next from being sent.
    fn claim(&self, now: Instant) -> bool {
        let mut state = self.state();
        let due = now >= state.probe;
        if due {
            state.probe = now + EVERY;
        }
        due
    }

    fn try_again(
        &self,
        party: &PartyBreaker,
        kind: Kind,
        now: Instant,
    ) -> Result<BreakerPass, BreakerOpen> {
        match party.claim(kind, self.since(now)) {
            Ok(()) => Ok(BreakerPass::Free),
            Err(wait) => Err(BreakerOpen::Party { wait }),
        }
    }

    fn own_answered(&self, pass: BreakerPass, now: Instant) {
        let mut state = self.state();
        state.votes.own(true, now);
        if std::mem::take(&mut state.has_party_opened) {
            self.era.found_well();
        }
        if self.is_open() {
            // An answer to an attempt sent before it opened proves little.
            if pass == BreakerPass::Probe {
                self.close(&mut state, None, now);
            }
        }
        self.show(&state);
    }

    fn own_failed(&self, now: Instant) {
        let mut state = self.state();
        state.votes.own(false, now);
        self.judge(&mut state, now);
    }

    fn party_answered(&self, party: &PartyBreaker, now: Instant) {
        let mut state = self.state();
        let streak = party.streak();
        party.set_streak(FailureStreak::default());
        let tally = if streak.is_open {
            tracing::warn!(party = %party.id().as_str(), "GatePay answers this party again: its calls are sent");
            state.votes.forget(party.tally())
        } else {
            party.tally()
        };
        party.set_tally(state.votes.count(tally, false, now));
        party.set_vote(state.votes.answered(party.vote()));
        self.show(&state);
    }

    fn party_failed(&self, party: &PartyBreaker, now: Instant) {
        let mut state = self.state();
        if !state.is_on || self.is_open() {
            return;
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
                self.open_party(&mut state, party, now);
            }
        }
        self.judge(&mut state, now);
        if !self.is_open() && state.unasked >= state.votes.half() && now >= state.probe {
            self.wanted.notify_one();
        }
    }

    /// Opens a party's own breaker. A breaker that was half open opens again without a second log line.
    fn open_party(&self, state: &mut BreakerState, party: &PartyBreaker, now: Instant) {
        let (streak, tally) = (party.streak(), party.tally());
        party.begin_trials(self.since(now));
        party.set_streak(FailureStreak {
            era: self.era.now(),
            is_open: true,
            ..streak
        });
        if streak.is_open {
            return;
        }
        state.has_party_opened = true;
        self.meters.party_opened.inc();
        tracing::error!(
            party = %party.id().as_str(),
            in_a_row = streak.failures,
            failures = tally.failures,
            attempts = tally.attempts,
            "GatePay keeps failing this party's calls: until one of them is answered, only a call now and then is sent"
        );
    }

    /// Opens the breaker if the votes say so.
    fn judge(&self, state: &mut BreakerState, now: Instant) {
        if self.is_open() {
            return;
        }
        let Some(OpenEvidence {
            in_a_row,
            parties,
            own_failed,
        }) = state.votes.verdict(now)
        else {
            return self.show(state);
        };
        (state.opened, state.probe) = (now, now + EVERY);
        self.set_phase(BreakerPhase {
            is_open: true,
            row: 0,
            window: 0,
        });
        self.meters.is_open.set(1);
        self.meters.opened.inc();
        tracing::error!(
            in_a_row,
            parties,
            own_failed,
            "GatePay keeps failing: until a read of the proxy's own gets through, nothing else is sent"
        );
    }

    fn close(&self, state: &mut BreakerState, wary: Option<Instant>, now: Instant) {
        state.votes.clear(wary);
        state.unasked = 0;
        self.era.outage_over();
        self.set_phase(BreakerPhase {
            is_open: false,
            row: 0,
            window: 0,
        });
        self.meters.is_open.set(0);
        let after = now.saturating_duration_since(state.opened);
        tracing::warn!(?after, "GatePay answers again: everything is sent");
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

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
