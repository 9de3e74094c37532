//! The store's loans to this instance of one party's limits: stocks of tokens, and seats.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use gatepay_admission::limit_name::{LimitName, LimitSet};
use gatepay_admission::limiter::{Limiter, RateExceeded};
use gatepay_admission::pushback_throttle::PushbackThrottle;
use gatepay_core::Kind;
use gatepay_store::limits::{
    LimitAnswers, LimitQuestions, SeatStock, SeatsTaken, StockEmpty, StockToken, StoreHeard,
    TokenStock,
};
use gatepay_tenancy::{PartyLimits, Rate};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::LoanQueue;

/// The loans of one party, or of the institution. They outlive reloads.
pub struct PartyLoans {
    queue: Arc<LoanQueue>,
    tenant: Arc<str>,
    /// Requests for a part of the institution's rate since the last exchange.
    asked: AtomicU32,
    /// Whether this instance's part of it was too small for a request since the last exchange.
    is_refused: AtomicBool,
    /// Whether the party asked in the last ten seconds.
    is_active: AtomicBool,
    /// The part of the party's demand that is at this instance: the bits of a floating-point number.
    fraction: AtomicU64,
    ledger: Mutex<LoanLedger>,
    /// The store has answered questions of this party, or failed to.
    answered: Notify,
}

/// A party's loans and its limits, by which they are asked for.
struct LoanLedger {
    limits: PartyLimits,
    weight: NonZeroU32,
    /// The seats over all instances.
    seats_of_all: u32,
    /// The party's rate while GatePay pushes it back.
    throttle: Option<Box<PushbackThrottle>>,
    /// By [`PARTY_RATES`]; made when a request asks, dropped when nothing is lent or to be reported.
    tokens: [Option<Box<TokenLoan>>; 4],
    seats: Option<Box<SeatStock>>,
    /// The figures that the store has of this instance.
    reported: [Option<Rate>; 4],
    /// How many token loans were made: their numbers.
    made: u64,
    rounds: AnswerRounds,
    /// The store's era of these loans.
    era: i64,
    /// When the task looks at these loans next.
    queued: Option<Duration>,
}

/// Tokens of one limit.
struct TokenLoan {
    number: u64,
    stock: TokenStock,
}

/// The calls to the store that had questions of this party.
#[derive(Default)]
struct AnswerRounds {
    begun: u64,
    ended: u64,
    /// The last one that failed.
    failed: u64,
}

impl AnswerRounds {
    /// Whether the last one failed.
    fn is_failing(&self) -> bool {
        self.failed > 0 && self.failed == self.ended
    }
}

/// The limits that have tokens, as the store names them.
const PARTY_RATES: [LimitName; 4] = [
    LimitName::Rate,
    LimitName::Read,
    LimitName::Write,
    LimitName::Money,
];
/// How often a throttled party's rate is looked at: it grows each second.
const THROTTLE_CHECK: Duration = Duration::from_secs(1);

/// Why a request gets no token or seat of its party's loans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoanRefused {
    /// It has to wait for the store's answer, and then ask again.
    Pending,
    /// The store did not answer.
    Away,
    /// A rate is spent.
    Rate(LimitName, RateExceeded),
    /// All seats are taken.
    Seats {
        /// The number of seats over all instances.
        all: u32,
    },
}

/// One request's way to a loan.
#[derive(Debug, Default)]
enum LoanWanted<T> {
    #[default]
    NotAsked,
    /// The request waits for the end of this round.
    Waiting(u64),
    Held(T),
    /// The limit is in shadow mode and would have refused the request.
    Shadowed,
}

/// One request's way to its party's tokens.
#[derive(Debug, Default)]
pub struct TokensWanted {
    /// The token of the rate over all calls, and that of the rate over calls of its kind, each with the number of its loan.
    tokens: [LoanWanted<(u64, StockToken)>; 2],
    kind: Option<Kind>,
}

/// One request's way to a seat.
#[derive(Debug, Default)]
pub struct SeatWanted(LoanWanted<()>);

/// A request's part of the loans of its party and of the institution. Its seats are left when it is dropped, and its
/// tokens are given back then unless they are [spent](Self::spend).
pub struct TakenLoans {
    party: Arc<PartyLoans>,
    institution: Arc<PartyLoans>,
    /// The request's way to its tokens.
    pub tokens: TokensWanted,
    /// The request's way to a seat of its party.
    pub seat: SeatWanted,
    /// The request's way to a seat of the institution.
    pub institution_seat: SeatWanted,
    /// Whether the request holds one of the institution's places that this instance has without the store.
    has_place_alone: bool,
    is_spent: bool,
}

impl PartyLoans {
    pub(super) fn new(
        queue: &Arc<LoanQueue>,
        id: &str,
        limits: &PartyLimits,
        weight: NonZeroU32,
    ) -> Arc<Self> {
        let party = Arc::new(Self {
            queue: Arc::clone(queue),
            tenant: Arc::from(id),
            asked: AtomicU32::new(0),
            is_refused: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            fraction: AtomicU64::new(1.0_f64.to_bits()),
            ledger: Mutex::new(LoanLedger {
                limits: *limits,
                weight,
                seats_of_all: limits.in_flight.get(),
                throttle: None,
                tokens: Default::default(),
                seats: None,
                reported: [None; 4],
                made: 0,
                rounds: AnswerRounds::default(),
                era: 0,
                queued: None,
            }),
            answered: Notify::new(),
        });
        queue.note_party(&party);
        party
    }

    /// Puts other limits in force. Loans stay lent, and the store hears of the new figures.
    pub fn adjust(
        self: &Arc<Self>,
        limits: &PartyLimits,
        weight: NonZeroU32,
        full: Rate,
        now: Duration,
    ) {
        let mut ledger = self.ledger.lock();
        (ledger.limits, ledger.weight) = (*limits, weight);
        ledger.seats_of_all = limits.in_flight.get();
        if let Some(throttle) = &ledger.throttle {
            throttle.adjust(full, now);
        }
        ledger.note_figures(now);
        self.queue_again(&mut ledger, now);
    }

    /// Sets the number of seats over all instances.
    pub(super) fn set_seats(&self, all: NonZeroU32) {
        self.ledger.lock().seats_of_all = all.get();
    }

    /// Counts a request that asks for a part of the institution's rate. Returns the part of the party's weight that its
    /// demand has at this instance.
    pub fn ask_for_share(self: &Arc<Self>) -> f64 {
        if self.asked.fetch_add(1, Ordering::AcqRel) == 0 {
            self.queue.push_asking(Arc::clone(self));
        }
        f64::from_bits(self.fraction.load(Ordering::Acquire))
    }

    /// Notes that this instance's part of the institution's rate was too small for a request. If the store has not heard
    /// of the party's demand yet, it does soon.
    pub fn share_refused(&self) {
        self.is_refused.store(true, Ordering::Release);
        if !self.is_active.load(Ordering::Acquire) {
            self.queue.hurry_exchange();
        }
    }

    /// Takes tokens of every limit that applies to a call of this kind, or refuses and gives back those that it has.
    pub fn take_tokens(
        self: &Arc<Self>,
        kind: Kind,
        wanted: &mut TokensWanted,
        shadow: &mut LimitSet,
        now: Duration,
    ) -> Result<(), LoanRefused> {
        let mut ledger = self.ledger.lock();
        let taken = ledger.take_tokens(kind, wanted, shadow, now);
        if taken.is_err_and(|refused| refused != LoanRefused::Pending) {
            ledger.give_back(wanted, now);
        }
        self.queue_again(&mut ledger, now);
        taken
    }

    /// Takes a seat.
    pub fn take_seat(
        self: &Arc<Self>,
        wanted: &mut SeatWanted,
        now: Duration,
    ) -> Result<(), LoanRefused> {
        let heard = self.queue.heard();
        let mut ledger = self.ledger.lock();
        let taken = ledger.take_seat(wanted, &heard, now);
        self.queue_again(&mut ledger, now);
        taken
    }

    /// The next answer of the store about this party. Made before the loans are asked, so that no answer is missed.
    pub fn answer(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Notes that GatePay pushes the party back, perhaps for a stated time: its rate over all instances falls. `full` is
    /// its rate otherwise. Returns the rates before and after.
    pub fn pushed_back(
        self: &Arc<Self>,
        limiter: &Limiter,
        full: Rate,
        retry_after: Option<Duration>,
        now: Duration,
    ) -> (u32, u32) {
        let mut ledger = self.ledger.lock();
        let begun = || Box::new(PushbackThrottle::new(limiter, full, now));
        let throttle = ledger.throttle.get_or_insert_with(begun);
        let rates = throttle.pushed_back(retry_after, now);
        // Also if the rate has not changed: GatePay may have told a longer time.
        ledger.token_loan(0).stock.figures_changed();
        ledger.note_figures(now);
        self.queue_again(&mut ledger, now);
        rates
    }

    /// The party's rate per second while GatePay pushes it back.
    pub fn pushed_back_to(&self, now: Duration) -> Option<u32> {
        let mut ledger = self.ledger.lock();
        ledger.end_throttle(now);
        let throttle = ledger.throttle.as_ref()?;
        Some(throttle.left(now).0.per_second.get())
    }

    /// The scarcest of the rates that apply to calls of a kind, and the tokens of it that this instance holds.
    pub fn left(&self, kind: Kind, now: Duration) -> (Rate, u32) {
        let ledger = self.ledger.lock();
        let all = (ledger.figures(0, now).unwrap_or(ledger.limits.all), 0);
        let of_kind = ledger.figures(place(kind), now);
        let of_kind = of_kind.map(|rate| (rate, place(kind)));
        let held = |(rate, place): (Rate, usize)| {
            let loan = ledger.tokens[place].as_ref();
            (rate, loan.map_or(0, |loan| loan.stock.left(now)))
        };
        let of_kind = of_kind.map(held);
        let all = held(all);
        of_kind.filter(|of_kind| of_kind.1 < all.1).unwrap_or(all)
    }

    /// The rate over all calls in force at this instance: lower while GatePay pushes the party back.
    pub fn rate_of_all(&self, now: Duration) -> Rate {
        let mut ledger = self.ledger.lock();
        ledger.end_throttle(now);
        ledger.figures(0, now).unwrap_or(ledger.limits.all)
    }

    /// The seats that calls here have.
    pub(super) fn seats_taken(&self) -> u32 {
        let ledger = self.ledger.lock();
        let seats = ledger.seats.as_ref();
        seats.map_or(0, |seats| seats.held_and_taken().1)
    }

    /// The tokens of the rate over all calls that this instance holds.
    pub fn left_of_all(&self, now: Duration) -> u32 {
        let ledger = self.ledger.lock();
        let loan = ledger.tokens[0].as_ref();
        loan.map_or(0, |loan| loan.stock.left(now))
    }

    /// Whether the party has no loan, so that new loans would be no different.
    pub fn is_at_rest(&self, now: Duration) -> bool {
        let mut ledger = self.ledger.lock();
        ledger.drop_idle(now);
        ledger.tokens.iter().all(Option::is_none)
            && ledger.seats.is_none()
            && ledger.throttle.is_none()
    }

    /// Lets the task look at these loans when there is something to ask.
    fn queue_again(self: &Arc<Self>, ledger: &mut LoanLedger, now: Duration) {
        let due = ledger.due(&self.queue.heard(), now);
        self.queue_at(ledger, due);
    }

    fn queue_at(self: &Arc<Self>, ledger: &mut LoanLedger, due: Option<Duration>) {
        let Some(due) = due else {
            return;
        };
        if ledger.queued.is_none_or(|queued| due < queued) {
            ledger.queued = Some(due);
            self.queue.push_due(Arc::clone(self));
        }
    }

    fn leave_seat(self: &Arc<Self>, wanted: &mut SeatWanted, now: Duration) {
        if let LoanWanted::Held(()) = std::mem::take(&mut wanted.0) {
            let mut ledger = self.ledger.lock();
            if let Some(seats) = &mut ledger.seats {
                seats.leave();
            }
            self.queue_again(&mut ledger, now);
        }
    }
}

/// The task's side.
impl PartyLoans {
    pub(super) fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// When the task has to look at these loans.
    pub(super) fn queued(&self) -> Option<Duration> {
        self.ledger.lock().queued
    }

    /// The requests for a part of the institution's rate since the last call, the party's weight, and whether a request
    /// found this instance's part too small.
    pub(super) fn demand(&self) -> (u32, f64, bool) {
        self.is_active.store(true, Ordering::Release);
        let asked = self.asked.swap(0, Ordering::AcqRel);
        let is_refused = self.is_refused.swap(false, Ordering::AcqRel);
        (asked, self.ledger.lock().weight.get().into(), is_refused)
    }

    /// Notes that the party did not ask for ten seconds.
    pub(super) fn rest(&self) {
        self.is_active.store(false, Ordering::Release);
        self.fraction.store(1.0_f64.to_bits(), Ordering::Release);
    }

    pub(super) fn set_fraction(&self, fraction: f64) {
        self.fraction.store(fraction.to_bits(), Ordering::Release);
    }

    /// Prepares for a task that knows nothing of these loans: open questions have no answer.
    pub(super) fn recover(self: &Arc<Self>, now: Duration) {
        self.rest();
        if self.asked.load(Ordering::Acquire) > 0 {
            self.queue.push_asking(Arc::clone(self));
        }
        let mut ledger = self.ledger.lock();
        ledger.queued = None;
        for loan in ledger.tokens.iter_mut().flatten() {
            loan.stock.failed(now);
        }
        if let Some(seats) = &mut ledger.seats {
            seats.failed(now);
        }
        if ledger.rounds.begun > ledger.rounds.ended {
            ledger.rounds.ended = ledger.rounds.begun;
            ledger.rounds.failed = ledger.rounds.begun;
        }
        self.queue_again(&mut ledger, now);
        drop(ledger);
        self.answered.notify_waiters();
    }

    /// Lets the task look at these loans earlier if there is something to ask. Tokens of an earlier era end.
    pub(super) fn look_again(self: &Arc<Self>, heard: &StoreHeard, now: Duration) {
        let mut ledger = self.ledger.lock();
        ledger.enter_era(heard.era());
        let due = ledger.due(heard, now);
        self.queue_at(&mut ledger, due);
    }

    /// Whether the store has not counted the seats here in its era.
    pub(super) fn is_undeclared(&self, heard: &StoreHeard) -> bool {
        let ledger = self.ledger.lock();
        let seats = ledger.seats.as_ref();
        seats.is_some_and(|seats| seats.is_undeclared(heard))
    }

    /// Adds the questions that are due. Returns which limits they are about, in their order.
    pub(super) fn ask(
        &self,
        questions: &mut LimitQuestions,
        heard: &StoreHeard,
        now: Duration,
    ) -> OpenLoans {
        let mut ledger = self.ledger.lock();
        let ledger = &mut *ledger;
        ledger.queued = None;
        ledger.end_throttle(now);
        ledger.note_figures(now);
        let mut open = OpenLoans::default();
        for (place, name) in PARTY_RATES.iter().enumerate() {
            let figures = ledger.figures(place, now).or(ledger.reported[place]);
            let Some(rate) = figures else {
                // A reload removed the limit before anything was asked for: its waiting requests need no token.
                ledger.tokens[place] = None;
                continue;
            };
            let Some(loan) = &mut ledger.tokens[place] else {
                continue;
            };
            let (per_second, burst) = (rate.per_second.get(), rate.burst.get());
            let (name, tenant) = (name.as_str(), &self.tenant);
            let asked = loan
                .stock
                .question(tenant, name, per_second.into(), burst.into(), now);
            if let Some(mut asked) = asked {
                if place == 0
                    && let Some(throttle) = &ledger.throttle
                {
                    asked.holds = throttle.holds(now);
                }
                ledger.reported[place] = Some(rate);
                open.tokens[place] = true;
                questions.tokens.push(asked);
            }
        }
        let all = ledger.seats_of_all;
        let seats = ledger.seats.as_mut();
        let asked = seats.and_then(|seats| seats.question(&self.tenant, all, heard, now));
        open.seats = asked.is_some();
        questions.seats.extend(asked);
        ledger.rounds.begun += 1;
        open
    }

    /// Reads the answers to these questions, which come next in `answers`; `None` if the call failed.
    pub(super) fn answer_to(
        self: &Arc<Self>,
        open: OpenLoans,
        answers: Option<&mut AnswersLeft<'_>>,
        heard: &StoreHeard,
        now: Duration,
    ) {
        let mut guard = self.ledger.lock();
        let ledger = &mut *guard;
        ledger.enter_era(heard.era());
        ledger.rounds.ended = ledger.rounds.begun;
        if answers.is_none() {
            ledger.rounds.failed = ledger.rounds.begun;
        }
        let mut answers = answers;
        for (place, is_open) in open.tokens.into_iter().enumerate() {
            let Some(loan) = ledger.tokens[place].as_mut().filter(|_| is_open) else {
                continue;
            };
            match answers.as_mut().and_then(|left| left.tokens.next()) {
                Some(answer) => loan.stock.answered(*answer, now),
                None => loan.stock.failed(now),
            }
        }
        if let Some(seats) = ledger.seats.as_mut().filter(|_| open.seats) {
            match answers.and_then(|left| left.seats.next()) {
                Some(answer) => seats.answered(*answer, heard, now),
                None => seats.failed(now),
            }
        }
        ledger.drop_idle(now);
        self.queue_again(&mut guard, now);
        drop(guard);
        self.answered.notify_waiters();
    }
}

/// The limits that a call to the store asks about.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct OpenLoans {
    tokens: [bool; 4],
    seats: bool,
}

impl OpenLoans {
    /// Whether nothing is asked.
    pub(super) fn is_empty(self) -> bool {
        !self.seats && self.tokens == [false; 4]
    }
}

/// The answers that no party has read yet.
pub(super) struct AnswersLeft<'a> {
    tokens: std::slice::Iter<'a, gatepay_store::limits::TokenAnswer>,
    seats: std::slice::Iter<'a, gatepay_store::limits::SeatAnswer>,
}

impl<'a> AnswersLeft<'a> {
    /// No answers.
    pub(super) fn none() -> Self {
        Self {
            tokens: [].iter(),
            seats: [].iter(),
        }
    }

    pub(super) fn of(answers: &'a LimitAnswers) -> Self {
        Self {
            tokens: answers.tokens.iter(),
            seats: answers.seats.iter(),
        }
    }
}

impl LoanLedger {
    fn take_tokens(
        &mut self,
        kind: Kind,
        wanted: &mut TokensWanted,
        shadow: &mut LimitSet,
        now: Duration,
    ) -> Result<(), LoanRefused> {
        self.end_throttle(now);
        wanted.kind = Some(kind);
        let applies = [Some(0), self.limits.of_kind(kind).map(|_| place(kind))];
        let (mut pending, mut worst) = (false, None);
        for (slot, place) in applies.into_iter().enumerate() {
            let Some(place) = place else { continue };
            let name = PARTY_RATES[place];
            match self.take_token(place, &mut wanted.tokens[slot], now) {
                Ok(()) => {}
                Err(LoanRefused::Pending) => pending = true,
                Err(LoanRefused::Rate(..)) if self.is_shadowed(place, kind) => {
                    shadow.add(name);
                    wanted.tokens[slot] = LoanWanted::Shadowed;
                }
                Err(refused) => worst = Some(longest(worst, refused)),
            }
        }
        match worst {
            Some(refused) => Err(refused),
            None if pending => Err(LoanRefused::Pending),
            None => Ok(()),
        }
    }

    fn take_token(
        &mut self,
        place: usize,
        wanted: &mut LoanWanted<(u64, StockToken)>,
        now: Duration,
    ) -> Result<(), LoanRefused> {
        let (next, ended) = (self.rounds.begun + 1, self.rounds.ended);
        let is_away = self.rounds.is_failing();
        let rate = self.figures(place, now).unwrap_or(self.limits.all);
        let loan = self.token_loan(place);
        let taken = match *wanted {
            LoanWanted::Held(_) | LoanWanted::Shadowed => return Ok(()),
            LoanWanted::NotAsked => loan.stock.take(now),
            LoanWanted::Waiting(round) if round > ended => loan.stock.take_after_answer(now),
            // The answer is there. If a later request was quicker, this one asks again.
            LoanWanted::Waiting(_) if !is_away => match loan.stock.take_after_answer(now) {
                Err(StockEmpty::Ask) => {
                    *wanted = LoanWanted::NotAsked;
                    loan.stock.take(now)
                }
                taken => taken,
            },
            LoanWanted::Waiting(_) => return Err(LoanRefused::Away),
        };
        match taken {
            Ok(token) => {
                *wanted = LoanWanted::Held((loan.number, token));
                Ok(())
            }
            Err(StockEmpty::Ask) => {
                if let LoanWanted::NotAsked = wanted {
                    *wanted = LoanWanted::Waiting(next);
                }
                Err(LoanRefused::Pending)
            }
            // The store did not answer, and is asked again after a pause.
            Err(StockEmpty::Wait(_)) if is_away => Err(LoanRefused::Away),
            Err(StockEmpty::Wait(wait)) => {
                let name = PARTY_RATES[place];
                Err(LoanRefused::Rate(name, RateExceeded { wait, rate }))
            }
        }
    }

    fn take_seat(
        &mut self,
        wanted: &mut SeatWanted,
        heard: &StoreHeard,
        now: Duration,
    ) -> Result<(), LoanRefused> {
        let all = self.seats_of_all;
        let rounds = &self.rounds;
        let seats = self.seats.get_or_insert_default();
        let taken = match wanted.0 {
            LoanWanted::Held(()) | LoanWanted::Shadowed => return Ok(()),
            LoanWanted::NotAsked => seats.take(heard, now),
            LoanWanted::Waiting(round) if round > rounds.ended => {
                seats.take_after_answer(heard, now)
            }
            // The answer is there. If a later request was quicker, this one asks again.
            LoanWanted::Waiting(_) if !rounds.is_failing() => {
                wanted.0 = LoanWanted::NotAsked;
                seats.take(heard, now)
            }
            LoanWanted::Waiting(_) => return Err(LoanRefused::Away),
        };
        match taken {
            Ok(()) => {
                wanted.0 = LoanWanted::Held(());
                Ok(())
            }
            Err(SeatsTaken::Ask) => {
                if let LoanWanted::NotAsked = wanted.0 {
                    wanted.0 = LoanWanted::Waiting(rounds.begun + 1);
                }
                Err(LoanRefused::Pending)
            }
            Err(SeatsTaken::Full) if rounds.is_failing() => Err(LoanRefused::Away),
            Err(SeatsTaken::Full) => Err(LoanRefused::Seats { all }),
        }
    }

    fn give_back(&mut self, wanted: &mut TokensWanted, now: Duration) {
        let of_kind = wanted.kind.map(place);
        let tokens = std::mem::take(&mut wanted.tokens);
        for (place, token) in [Some(0), of_kind].into_iter().zip(tokens) {
            let (Some(place), LoanWanted::Held((number, token))) = (place, token) else {
                continue;
            };
            // A loan that was made since knows nothing of the token.
            if let Some(loan) = &mut self.tokens[place]
                && loan.number == number
            {
                loan.stock.give_back(token, now);
            }
        }
    }

    fn token_loan(&mut self, place: usize) -> &mut TokenLoan {
        let made = &mut self.made;
        self.tokens[place].get_or_insert_with(|| {
            *made += 1;
            Box::new(TokenLoan {
                number: *made,
                stock: TokenStock::default(),
            })
        })
    }

    /// The rate and the burst in force for this instance: the smallest of those that apply.
    fn figures(&self, place: usize, now: Duration) -> Option<Rate> {
        match (place, &self.throttle) {
            (0, None) => Some(self.limits.all),
            (0, Some(throttle)) => {
                let (own, lowered) = (self.limits.all, throttle.left(now).0);
                Some(Rate {
                    per_second: own.per_second.min(lowered.per_second),
                    burst: own.burst.min(lowered.burst),
                })
            }
            (place, _) => self.limits.of_kind(KINDS[place - 1]),
        }
    }

    /// Lets the store hear of changed figures, even if nothing is asked for.
    fn note_figures(&mut self, now: Duration) {
        for place in 0..PARTY_RATES.len() {
            let (now_in_force, known) = (self.figures(place, now), self.reported[place]);
            if known.is_some() && now_in_force.is_some() && known != now_in_force {
                self.token_loan(place).stock.figures_changed();
            }
        }
    }

    /// Ends a throttle once its rate has grown to the full one.
    fn end_throttle(&mut self, now: Duration) {
        if let Some(throttle) = &self.throttle
            && throttle.is_over(now)
        {
            self.throttle = None;
            self.note_figures(now);
        }
    }

    /// Whether a limit is in shadow mode. GatePay imposed a throttle: it is enforced in every shadow mode.
    fn is_shadowed(&self, place: usize, kind: Kind) -> bool {
        match place {
            0 => self.limits.shadow.all && self.throttle.is_none(),
            _ => self.limits.shadow.of_kind(kind),
        }
    }

    /// When there is something to ask.
    fn due(&self, heard: &StoreHeard, now: Duration) -> Option<Duration> {
        let loans = self.tokens.iter().flatten();
        let tokens = loans.filter_map(|loan| loan.stock.due()).min();
        let seats = self.seats.as_ref().and_then(|seats| seats.due(heard));
        let throttle = self.throttle.as_ref().map(|_| now + THROTTLE_CHECK);
        [tokens, seats, throttle].into_iter().flatten().min()
    }

    /// Ends the tokens of an earlier era.
    fn enter_era(&mut self, era: i64) {
        if self.era != era {
            self.era = era;
            for loan in self.tokens.iter_mut().flatten() {
                loan.stock.era_ended();
            }
        }
    }

    fn drop_idle(&mut self, now: Duration) {
        for loan in &mut self.tokens {
            loan.take_if(|loan| loan.stock.is_idle(now));
        }
        self.seats.take_if(|seats| seats.is_idle(now));
    }
}

impl TakenLoans {
    /// Nothing yet.
    pub fn new(party: &Arc<PartyLoans>, institution: &Arc<PartyLoans>) -> Self {
        Self {
            party: Arc::clone(party),
            institution: Arc::clone(institution),
            tokens: TokensWanted::default(),
            seat: SeatWanted::default(),
            institution_seat: SeatWanted::default(),
            has_place_alone: false,
            is_spent: false,
        }
    }

    /// Takes one of the institution's places without the store. Returns how many such places are taken here.
    pub(super) fn take_place_alone(&mut self) -> u32 {
        let places = &self.party.queue.places_alone;
        if std::mem::replace(&mut self.has_place_alone, true) {
            return places.load(Ordering::Acquire);
        }
        places.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether the tokens are spent: they are not given back then.
    pub fn spend(&mut self, is_spent: bool) {
        self.is_spent = is_spent;
    }
}

impl Drop for TakenLoans {
    fn drop(&mut self) {
        let now = self.party.queue.clock.elapsed();
        self.party.leave_seat(&mut self.seat, now);
        self.institution.leave_seat(&mut self.institution_seat, now);
        if self.has_place_alone {
            let places = &self.party.queue.places_alone;
            places.fetch_sub(1, Ordering::AcqRel);
        }
        if !self.is_spent {
            let mut ledger = self.party.ledger.lock();
            ledger.give_back(&mut self.tokens, now);
            self.party.queue_again(&mut ledger, now);
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Money];

/// The place of a kind's rate among [`PARTY_RATES`].
fn place(kind: Kind) -> usize {
    1 + kind as usize
}

/// The refusal with the longer wait; a store that is away comes before both.
fn longest(one: Option<LoanRefused>, other: LoanRefused) -> LoanRefused {
    match (one, other) {
        (Some(LoanRefused::Away), _) => LoanRefused::Away,
        (Some(first @ LoanRefused::Rate(_, one)), LoanRefused::Rate(_, two))
            if one.wait >= two.wait =>
        {
            first
        }
        (_, other) => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use gatepay_store::limits::TokenAnswer;
    use prometheus::Registry;

    use super::*;
    use crate::cluster::limits::LoanMeters;
    use crate::process::clock::Clock;
    use crate::prom::registrar::Registrar;

    fn queue() -> Arc<LoanQueue> {
        let meters = LoanMeters::new(&Registrar::new(&Registry::new()));
        LoanQueue::new(&Clock::manual(0), &meters)
    }

    #[test]
    fn a_limit_that_a_reload_removes_before_it_is_asked_about_leaves_nothing_to_ask() {
        let queue = queue();
        let rate = |per_second| Rate {
            per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(per_second).unwrap(),
        };
        let without = PartyLimits {
            all: rate(100),
            ..PartyLimits::default()
        };
        let with = PartyLimits {
            money: Some(rate(10)),
            ..without
        };
        let now = Duration::from_secs(9);
        let party = PartyLoans::new(&queue, "acme", &with, NonZeroU32::MIN);
        let mut wanted = TokensWanted::default();
        let taken = party.take_tokens(Kind::Money, &mut wanted, &mut LimitSet::default(), now);
        assert_eq!(taken, Err(LoanRefused::Pending));
        party.adjust(&without, NonZeroU32::MIN, rate(100), now);

        let (mut questions, heard) = (LimitQuestions::default(), StoreHeard::default());
        let open = party.ask(&mut questions, &heard, now);
        assert_eq!(questions.tokens.len(), 1);
        let answers = LimitAnswers {
            era: 1,
            instances: 1,
            seats: Vec::new(),
            tokens: vec![TokenAnswer {
                kept: 0,
                lent: 1,
                wait_ms: 0,
                small: false,
            }],
        };
        party.answer_to(open, Some(&mut AnswersLeft::of(&answers)), &heard, now);
        assert!(party.queued().is_none_or(|due| due > now));
    }

    #[test]
    fn a_question_of_a_task_that_has_ended_is_asked_again() {
        let queue = queue();
        let at = Duration::from_millis;
        let party = PartyLoans::new(&queue, "acme", &PartyLimits::default(), NonZeroU32::MIN);
        let mut wanted = TokensWanted::default();
        let mut take =
            |ms| party.take_tokens(Kind::Read, &mut wanted, &mut LimitSet::default(), at(ms));
        assert_eq!(take(9_000), Err(LoanRefused::Pending));
        let heard = StoreHeard::default();
        party.ask(&mut LimitQuestions::default(), &heard, at(9_001));
        // The task ends here, and never reads the answer.
        assert_eq!(party.queued(), None);
        queue.due.lock().clear();
        for known in queue.parties.lock().iter().filter_map(Weak::upgrade) {
            known.recover(at(9_002));
        }
        assert_eq!(take(9_003), Err(LoanRefused::Away));
        assert_eq!(queue.due.lock().len(), 1);
        let due = party.queued().unwrap();
        let mut again = LimitQuestions::default();
        assert!(!party.ask(&mut again, &heard, due.max(at(9_300))).is_empty());
    }

    #[test]
    fn an_exchange_is_hurried_for_a_refused_party_that_the_store_does_not_know_yet_and_for_no_other()
     {
        let queue = queue();
        let is_hurried = || queue.is_hurried.swap(false, Ordering::AcqRel);
        let party = PartyLoans::new(&queue, "acme", &PartyLimits::default(), NonZeroU32::MIN);
        party.ask_for_share();
        assert!(!is_hurried());
        party.share_refused();
        assert!(is_hurried());
        // An exchange reports its demand.
        assert_eq!(party.demand(), (1, 1.0, true));
        party.share_refused();
        assert!(!is_hurried());
    }
}
