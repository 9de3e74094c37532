//! The seats of one tenant, at the instance that holds them.

use std::sync::Arc;
use std::time::Duration;

use super::messages::{LOAN_ENDS, SEATS_END, SeatAnswer, SeatQuestion};

/// The seats that an instance holds of one tenant: a call in flight takes one.
///
/// Seats stay with the instance while it gives signs of life ([`StoreHeard`]).
#[derive(Debug, Clone, Default)]
pub struct SeatStock {
    held: u32,
    taken: u32,
    stretch: u64,
    small: bool,
    waiting: u32,
    /// The most that were taken at once in this period and in the one before.
    peak: u32,
    last_peak: u32,
    turned_at: Duration,
    closed_until: Duration,
    /// The seats that the open question asks for.
    asking: Option<u32>,
    /// The number of seats over all instances in the last question.
    told: u32,
    /// A question has no answer: the store may count seats here that are not held.
    unsure: bool,
}

/// When the store last answered a call about limits.
///
/// A *stretch* is a time in one era without a silence in which the store may have lent an instance's seats to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreHeard {
    era: i64,
    stretch: u64,
    at: Duration,
    /// The end of the stretch before.
    last_at: Duration,
    /// The last answer of the era before.
    era_before_at: Option<Duration>,
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatsTaken {
    /// The store may have one: the request can wait for the answer to the next question.
    Ask,
    /// All are taken, over all instances.
    Full,
}

/// A period of peaks: seats that were free for one or two are given back.
const PERIOD: Duration = Duration::from_millis(500);
/// How long the store is not asked again after it had no seat, or did not answer.
const PAUSE: Duration = Duration::from_millis(50);
/// How long seats are declared: less than [`SEATS_END`] by the time that a question may be under way.
const DECLARED: Duration = Duration::from_secs(4);

impl StoreHeard {
    /// Notes an answer of an era that came `now` to a call that was made at `asked_at`. Returns whether a stretch begins:
    /// the seats of every tenant are declared then.
    pub fn note(&mut self, era: i64, asked_at: Duration, now: Duration) -> bool {
        let begins = era != self.era || now >= self.at + SEATS_END;
        if begins {
            if era != self.era && self.era != 0 {
                self.era_before_at = Some(self.at);
            }
            self.era = era;
            self.stretch += 1;
            (self.last_at, self.at) = (self.at, asked_at);
        }
        self.at = self.at.max(asked_at);
        begins
    }

    /// The era of the last answer; 0 before the first.
    pub fn era(&self) -> i64 {
        self.era
    }

    /// The time since the last answer of an era in which everything is `declared`, or of the one before this era.
    pub fn silent(&self, declared: i64, now: Duration) -> Option<Duration> {
        let at = if self.era == declared {
            (self.era != 0).then_some(self.at)
        } else {
            self.era_before_at
        };
        at.map(|at| now.saturating_sub(at))
    }

    /// The last answer in a stretch, if its seats can still count.
    fn heard_in(&self, stretch: u64) -> Option<Duration> {
        if stretch == 0 {
            None
        } else if stretch == self.stretch {
            Some(self.at)
        } else {
            (stretch + 1 == self.stretch).then_some(self.last_at)
        }
    }
}

impl SeatStock {
    /// Takes a seat for a request, which must [`leave`](Self::leave) it.
    pub fn take(&mut self, heard: &StoreHeard, now: Duration) -> Result<(), SeatsTaken> {
        let taken = self.take_after_answer(heard, now);
        if taken == Err(SeatsTaken::Ask) {
            self.waiting = self.waiting.saturating_add(1);
        }
        taken
    }

    /// Takes a seat for a request that has waited for an answer.
    pub fn take_after_answer(
        &mut self,
        heard: &StoreHeard,
        now: Duration,
    ) -> Result<(), SeatsTaken> {
        self.turn(now);
        if self.taken < self.held && now < self.taken_until(heard) {
            self.taken += 1;
            self.peak = self.peak.max(self.taken);
            Ok(())
        } else if now < self.closed_until {
            Err(SeatsTaken::Full)
        } else {
            Err(SeatsTaken::Ask)
        }
    }

    /// Frees a seat that was taken.
    pub fn leave(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// The next question to the store, if there is one. Its answer goes to [`answered`](Self::answered), or its failure
    /// to [`failed`](Self::failed).
    pub fn question(
        &mut self,
        tenant: &Arc<str>,
        seats: u32,
        heard: &StoreHeard,
        now: Duration,
    ) -> Option<SeatQuestion> {
        if self.asking.is_some() {
            return None;
        }
        self.turn(now);
        let before = self.held;
        self.held = if now < self.declared_until(heard) {
            before.min(self.kept())
        } else {
            0
        };
        let is_other_stretch = self.stretch != heard.stretch;
        if is_other_stretch {
            // Calls in flight are declared however long the silence was. In the first 5 s of an era the store counts
            // them; later it keeps no more than it has not lent to others.
            self.held = self.held.max(self.taken);
        }
        let mut want = 0;
        if now >= self.closed_until {
            let waiting = std::mem::take(&mut self.waiting);
            if waiting > 0 {
                let ahead = (self.taken / 4).min(seats / 10);
                want = waiting.max(ahead);
            }
            // Calls that went on without a seat, since the loan ended, count first.
            want = want.saturating_add(self.taken.saturating_sub(self.held));
        }
        // Seats that are held keep the smallest number that an instance told in force.
        let is_other = is_other_stretch || self.told != seats;
        let declare = self.unsure || is_other && self.held > 0;
        if want == 0 && self.held == before && !declare {
            return None;
        }
        self.asking = Some(want);
        self.told = seats;
        self.unsure = false;
        Some(SeatQuestion {
            tenant: Arc::clone(tenant),
            seats,
            want,
            held: self.held,
        })
    }

    /// Whether [`question`](Self::question) may have something to ask now or at a later time. Seats that are held or
    /// taken are looked at each half second.
    pub fn due(&self, heard: &StoreHeard) -> Option<Duration> {
        if self.asking.is_some() {
            None
        } else if self.waiting > 0 || self.unsure {
            Some(self.closed_until)
        } else if self.held > self.kept() || self.is_undeclared(heard) {
            Some(Duration::ZERO)
        } else {
            self.is_in_use().then(|| self.turned_at + PERIOD)
        }
    }

    /// Reads the answer to the open question, which `heard` has noted.
    pub fn answered(&mut self, answer: SeatAnswer, heard: &StoreHeard, now: Duration) {
        let Some(want) = self.asking.take() else {
            return;
        };
        self.held = self.held.min(answer.kept) + answer.lent;
        self.stretch = heard.stretch;
        self.small = answer.small;
        self.closed_until = if answer.lent < want {
            now + PAUSE
        } else {
            Duration::ZERO
        };
        self.peak = self.peak.max(self.held.min(self.taken + answer.lent));
    }

    /// Notes that the open question has no answer.
    pub fn failed(&mut self, now: Duration) {
        if self.asking.take().is_some() {
            self.unsure = true;
            self.closed_until = now + PAUSE;
        }
    }

    /// Whether the stock is as good as a new one, so that it can be dropped.
    pub fn is_idle(&self, now: Duration) -> bool {
        let Self { held, taken, .. } = self;
        let is_empty = *held == 0 && *taken == 0 && self.waiting == 0;
        // A new one would repeat the last question at once.
        is_empty && self.asking.is_none() && !self.unsure && now >= self.closed_until
    }

    /// Whether the store has not counted the seats here since a stretch began.
    pub fn is_undeclared(&self, heard: &StoreHeard) -> bool {
        self.is_in_use() && self.stretch != heard.stretch
    }

    /// The seats that are held and the seats that are taken.
    pub fn held_and_taken(&self) -> (u32, u32) {
        (self.held, self.taken)
    }

    /// How long seats may be taken: no longer than two seconds of silence, so that their calls have time to end before
    /// the store counts them no more.
    fn taken_until(&self, heard: &StoreHeard) -> Duration {
        let at = heard.heard_in(self.stretch);
        at.map_or(Duration::ZERO, |at| at + LOAN_ENDS)
    }

    /// How long seats may be declared as held.
    fn declared_until(&self, heard: &StoreHeard) -> Duration {
        let at = heard.heard_in(self.stretch);
        at.map_or(Duration::ZERO, |at| at + DECLARED)
    }

    fn is_in_use(&self) -> bool {
        self.held > 0 || self.taken > 0
    }

    /// The seats that are not given back now.
    fn kept(&self) -> u32 {
        if self.small {
            self.taken
        } else {
            self.peak.max(self.last_peak).max(self.taken)
        }
    }

    fn turn(&mut self, now: Duration) {
        if now >= self.turned_at + PERIOD {
            self.last_peak = if now < self.turned_at + 2 * PERIOD {
                self.peak
            } else {
                self.taken
            };
            self.peak = self.taken;
            self.turned_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Ten seats that were lent at 1,000 ms, in era 1; one of them is taken.
    fn lent() -> (SeatStock, StoreHeard) {
        let (mut stock, mut heard) = (SeatStock::default(), StoreHeard::default());
        assert_eq!(stock.take(&heard, at(1_000)), Err(SeatsTaken::Ask));
        let asked = stock.question(&Arc::from("acme"), 20, &heard, at(1_000));
        assert_eq!(asked.unwrap().want, 1);
        heard.note(1, at(1_000), at(1_001));
        let answer = SeatAnswer {
            kept: 0,
            lent: 10,
            small: false,
        };
        stock.answered(answer, &heard, at(1_001));
        stock.take_after_answer(&heard, at(1_001)).unwrap();
        (stock, heard)
    }

    #[test]
    fn seats_are_not_taken_after_two_seconds_of_silence_nor_held_across_five() {
        let (mut stock, mut heard) = lent();
        stock.take(&heard, at(2_999)).unwrap();
        assert!(stock.take(&heard, at(3_000)).is_err());
        // An answer soon enough: the store still counts them.
        heard.note(1, at(5_000), at(5_001));
        stock.take(&heard, at(5_001)).unwrap();
        // One that may have come after the store lent them to others.
        heard.note(1, at(9_999), at(10_000));
        assert!(stock.take(&heard, at(10_000)).is_err());
        // Free seats are not held any more, and the store decides about those of calls in flight.
        let asked = stock.question(&Arc::from("acme"), 20, &heard, at(10_000));
        assert_eq!(asked.unwrap().held, 3);
    }

    #[test]
    fn free_seats_of_the_last_era_are_declared_while_they_count_and_those_of_calls_in_flight_always()
     {
        for (ms, held) in [(1_400, 10), (4_999, 3), (60_000, 3)] {
            let (mut stock, mut heard) = lent();
            for _ in 0..2 {
                stock.take(&heard, at(1_002)).unwrap();
            }
            assert!(heard.note(2, at(ms - 1), at(ms)));
            assert_eq!(stock.due(&heard), Some(Duration::ZERO));
            let asked = stock.question(&Arc::from("acme"), 20, &heard, at(ms));
            assert_eq!(asked.unwrap().held, held, "{ms}");
        }
    }

    #[test]
    fn another_number_of_seats_is_told_while_a_call_is_in_flight() {
        let (mut stock, mut heard) = lent();
        let tenant = Arc::from("acme");
        heard.note(1, at(2_600), at(2_601));
        let due = stock.due(&heard).unwrap();
        let _given_back = stock.question(&tenant, 20, &heard, due.max(at(2_601)));
        let kept = SeatAnswer {
            kept: 1,
            lent: 0,
            small: false,
        };
        stock.answered(kept, &heard, at(2_602));
        let due = stock.due(&heard).unwrap();
        assert_eq!(stock.question(&tenant, 20, &heard, due), None);
        let due = stock.due(&heard).unwrap();
        let asked = stock.question(&tenant, 200, &heard, due).unwrap();
        assert_eq!((asked.seats, asked.want, asked.held), (200, 0, 1));
    }

    #[test]
    fn calls_in_flight_ask_for_the_seats_that_the_store_has_lent_to_others_though_no_request_waits()
    {
        let (mut stock, mut heard) = lent();
        let tenant = Arc::from("acme");
        heard.note(1, at(16_000), at(16_001));
        let asked = stock.question(&tenant, 20, &heard, at(16_001)).unwrap();
        assert_eq!((asked.want, asked.held), (0, 1));
        let none = SeatAnswer {
            kept: 0,
            lent: 0,
            small: false,
        };
        stock.answered(none, &heard, at(16_002));
        let mut now = at(16_002);
        for _ in 0..3 {
            let due = stock.due(&heard).unwrap();
            assert!(due > now);
            heard.note(1, due, due);
            let asked = stock.question(&tenant, 20, &heard, due).unwrap();
            assert_eq!((asked.want, asked.held), (1, 0));
            stock.answered(none, &heard, due);
            now = due;
        }
    }

    #[test]
    fn a_question_without_an_answer_is_followed_by_what_is_held() {
        let (mut stock, mut heard) = lent();
        let tenant = Arc::from("acme");
        heard.note(1, at(3_000), at(3_001));
        // Nine free seats go back after a second or so; this question gets no answer.
        assert_eq!(
            stock.question(&tenant, 20, &heard, at(3_001)).unwrap().held,
            1
        );
        stock.failed(at(3_002));
        assert!(!stock.is_idle(at(3_002)));
        assert_eq!(stock.due(&heard), Some(at(3_052)));
        let asked = stock.question(&tenant, 20, &heard, at(3_052)).unwrap();
        assert_eq!((asked.want, asked.held), (0, 1));
    }
}
