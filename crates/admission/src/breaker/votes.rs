//! The votes on whether GatePay is well, as arithmetic: no clock, no lock.
//!
//! Every party has one vote, and so has the proxy with its own reads. There are two polls:
//!
//! The *row* is about failures in a row. It begins with a failure. A party is *silent* in it if its last attempt
//! failed, and *answered* if its last attempt got an answer. Once more parties are answered than silent, the row is
//! void.
//!
//! The *window* is about the ratio of failed attempts, over ten seconds. A party is *failing* in it if that ratio of
//! its own attempts failed.

use std::time::Duration;

use gatepay_tenancy::settings;

/// How often a read of the proxy's own may probe GatePay: often enough to be back within a second.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// The time over which failures are compared with attempts.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// The fewest attempts that have a ratio.
pub(super) const FEWEST: u32 = 20;
/// The most of those attempts that one party contributes: a ratio takes two parties.
pub(super) const MOST_OF_ONE: u32 = FEWEST / 2;

/// Both polls.
#[derive(Debug)]
pub(super) struct BreakerVotes {
    rules: settings::BreakerSettings,
    row: FailureRow,
    window: FailureWindow,
    /// The last read of the proxy's own.
    own: Option<(OwnReadResult, Duration)>,
    /// Until then two failures are enough: the breaker was closed without knowing whether GatePay is well.
    wary: Option<Duration>,
}

#[derive(Debug, Default)]
struct FailureRow {
    /// The number of this row, from 1.
    number: u32,
    is_running: bool,
    /// Parties whose last attempt failed.
    silent: u32,
    /// Parties whose last attempt got an answer.
    answered: u32,
    /// Failures of the silent parties.
    failures: u32,
    own: Option<OwnReadResult>,
}

/// The result of the last read of the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnReadResult {
    Answered,
    Failed,
}

#[derive(Debug)]
struct FailureWindow {
    /// The number of this window, from 1.
    number: u16,
    is_running: bool,
    began: Duration,
    /// Parties that made an attempt.
    seen: u32,
    /// Parties among these that are failing.
    failing: u32,
    /// Attempts, of each party only the first few.
    attempts: u32,
    own: Option<OwnReadResult>,
}

/// A party's vote in a row: its failures since its last answer; zero if its last attempt was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PartyVote {
    pub(super) row: u32,
    pub(super) failures: u32,
}

/// A party's attempts in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct AttemptTally {
    pub(super) window: u16,
    /// Whether the party is counted as failing.
    pub(super) is_failing: bool,
    pub(super) attempts: u32,
    pub(super) failures: u32,
}

/// The evidence on which the breaker opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenEvidence {
    /// Failures in the row.
    pub in_a_row: u32,
    /// Parties that got no answer since their failure.
    pub parties: u32,
    /// Whether a read of the proxy's own failed too.
    pub own_failed: bool,
}

impl BreakerVotes {
    pub(super) fn new(rules: settings::BreakerSettings) -> Self {
        Self {
            rules,
            row: FailureRow::default(),
            window: FailureWindow {
                number: 0,
                is_running: false,
                began: Duration::ZERO,
                seen: 0,
                failing: 0,
                attempts: 0,
                own: None,
            },
            own: None,
            wary: None,
        }
    }

    /// The number of the row, or 0 if none is running.
    pub(super) fn row(&self) -> u32 {
        if self.row.is_running {
            self.row.number
        } else {
            0
        }
    }

    /// The number of the window, or 0 if none is running.
    pub(super) fn window(&self) -> u16 {
        if self.window.is_running {
            self.window.number
        } else {
            0
        }
    }

    /// Counts a party's failed attempt; returns its vote in the row.
    pub(super) fn failed(&mut self, vote: PartyVote, now: Duration) -> PartyVote {
        if !self.row.is_running {
            self.row = FailureRow {
                number: self.row.number.wrapping_add(1).max(1),
                is_running: true,
                own: self.heard_lately(now),
                ..FailureRow::default()
            };
        }
        let row = &mut self.row;
        let before = (vote.row == row.number).then_some(vote.failures);
        if before == Some(0) {
            row.answered = row.answered.saturating_sub(1);
        }
        if before.unwrap_or(0) == 0 {
            row.silent += 1;
        }
        row.failures = row.failures.saturating_add(1);
        PartyVote {
            row: row.number,
            failures: before.unwrap_or(0).saturating_add(1),
        }
    }

    /// Counts a party's answered attempt; returns its vote in the row.
    pub(super) fn answered(&mut self, vote: PartyVote) -> PartyVote {
        let row = &mut self.row;
        if !row.is_running {
            return vote;
        }
        match (vote.row == row.number).then_some(vote.failures) {
            Some(0) => {}
            Some(failures) => {
                row.silent = row.silent.saturating_sub(1);
                row.failures = row.failures.saturating_sub(failures);
                row.answered += 1;
            }
            None => row.answered += 1,
        }
        let vote = PartyVote {
            row: row.number,
            failures: 0,
        };
        self.void_if_outvoted();
        vote
    }

    /// Counts the result of a read of the proxy's own.
    pub(super) fn own(&mut self, is_answered: bool, now: Duration) {
        let own = if is_answered {
            self.wary = None;
            OwnReadResult::Answered
        } else {
            OwnReadResult::Failed
        };
        self.own = Some((own, now));
        if self.window.is_running {
            self.window.own = Some(own);
        }
        if self.row.is_running {
            self.row.own = Some(own);
            self.void_if_outvoted();
        }
    }

    /// The result of the last read of the proxy's own, while it is too early for the next one.
    fn heard_lately(&self, now: Duration) -> Option<OwnReadResult> {
        let (own, at) = self.own?;
        (now.saturating_sub(at) <= EVERY).then_some(own)
    }

    fn void_if_outvoted(&mut self) {
        let (row, own) = (&self.row, self.row.own);
        let answered = row.answered + u32::from(own == Some(OwnReadResult::Answered));
        let silent = row.silent + u32::from(own == Some(OwnReadResult::Failed));
        if row.silent == 0 || answered > silent {
            self.row.is_running = false;
            self.wary = None;
        }
    }

    /// Counts an attempt of a party in the window, which begins with a failure.
    pub(super) fn count(
        &mut self,
        tally: AttemptTally,
        has_failed: bool,
        now: Duration,
    ) -> AttemptTally {
        self.end_window(now);
        if has_failed && !self.window.is_running {
            self.window = FailureWindow {
                number: self.window.number.wrapping_add(1).max(1),
                is_running: true,
                began: now,
                seen: 0,
                failing: 0,
                attempts: 0,
                own: self.heard_lately(now),
            };
        }
        if !self.window.is_running {
            return tally;
        }
        let window = &mut self.window;
        let before = if tally.window == window.number {
            tally
        } else {
            window.seen += 1;
            AttemptTally {
                window: window.number,
                ..AttemptTally::default()
            }
        };
        window.attempts += u32::from(before.attempts < MOST_OF_ONE);
        let (attempts, failures) = (before.attempts + 1, before.failures + u32::from(has_failed));
        let tally = AttemptTally {
            window: before.window,
            is_failing: failures > 0 && self.is_much(failures, attempts),
            attempts,
            failures,
        };
        self.moved(before.is_failing, tally.is_failing);
        tally
    }

    /// Forgets a party's tally: it begins anew.
    pub(super) fn forget(&mut self, tally: AttemptTally) -> AttemptTally {
        if tally.window == self.window() {
            self.moved(tally.is_failing, false);
        }
        AttemptTally {
            window: tally.window,
            ..AttemptTally::default()
        }
    }

    fn moved(&mut self, was_failing: bool, is_failing: bool) {
        let failing = self.window.failing + u32::from(is_failing);
        self.window.failing = failing.saturating_sub(u32::from(was_failing));
    }

    /// Ends a window that is over.
    pub(super) fn end_window(&mut self, now: Duration) {
        if now.saturating_sub(self.window.began) > WINDOW {
            self.window.is_running = false;
        }
    }

    /// Whether a party alone fails so often that it gets a breaker of its own.
    pub(super) fn is_failing_alone(&self, in_a_row: u32, tally: AttemptTally) -> bool {
        let enough = self.rules.failures != 0 && in_a_row >= self.rules.failures;
        let is_current = tally.window != 0 && tally.window == self.window();
        enough || (is_current && tally.attempts >= FEWEST && tally.is_failing)
    }

    fn is_much(&self, part: u32, all: u32) -> bool {
        let ratio = self.rules.ratio;
        ratio > 0.0 && f64::from(part) >= ratio * f64::from(all)
    }

    /// The number of failures after which the proxy sends a read of its own.
    pub(super) fn half(&self) -> u32 {
        match self.rules.failures {
            0 => FEWEST / 2,
            failures => failures.div_ceil(2),
        }
    }

    /// Whether the breaker opens, on any of three kinds of evidence. Failures in a row of two parties without an answer
    /// since open it, if fewer voters were answered. Those of one party open it, if a read of the proxy's own failed
    /// too. So does a failure ratio that most parties reach.
    pub(super) fn verdict(&self, now: Duration) -> Option<OpenEvidence> {
        let row = &self.row;
        let own = row.own.filter(|_| row.is_running);
        let answered = row.answered + u32::from(own == Some(OwnReadResult::Answered));
        let agreed = match own {
            Some(OwnReadResult::Failed) => row.silent >= 1,
            _ => row.silent >= 2 && row.silent > answered,
        };
        let is_wary = self.wary.is_some_and(|until| now < until);
        let most = if is_wary { 2 } else { u32::MAX };
        let most = self.rules.failures.min(most);
        let enough = row.is_running && most != 0 && row.failures >= most && agreed;
        (enough || self.is_window_failing()).then_some(OpenEvidence {
            in_a_row: row.failures,
            parties: row.silent.max(self.window.failing),
            own_failed: [own, self.window.own].contains(&Some(OwnReadResult::Failed)),
        })
    }

    /// Whether most parties are failing; the proxy's own read is one of them.
    fn is_window_failing(&self) -> bool {
        let window = &self.window;
        let own = window.own;
        let heard = u32::from(own.is_some());
        let failing = window.failing + u32::from(own == Some(OwnReadResult::Failed));
        window.is_running
            && window.attempts + heard * MOST_OF_ONE >= FEWEST
            && window.failing >= 1
            && failing >= 2
            && 2 * failing > window.seen + heard
    }

    /// Begins anew: GatePay was found well, or (`wary`) no read can find out.
    pub(super) fn clear(&mut self, wary: Option<Duration>) {
        self.row.is_running = false;
        self.window.is_running = false;
        self.wary = wary;
    }
}
