//! A stock of tokens of one limit, at the instance that holds it.

use std::sync::Arc;
use std::time::Duration;

use super::messages::{LOAN_ENDS, TokenAnswer, TokenQuestion};

/// The tokens that an instance holds of one tenant's limit.
///
/// A call takes a token without asking the store. When the stock runs low, [`question`](Self::question) asks for more;
/// when the bucket is empty, calls are refused here until the answer's wait is over, and the store is not asked.
#[derive(Debug, Clone, Default)]
pub struct TokenStock {
    left: u32,
    /// The end of the loan.
    until: Duration,
    /// The bucket has too few tokens to lend in advance.
    small: bool,
    /// When a token was last taken or lent.
    used_at: Duration,
    /// Tokens were spent, or lost, that no question has reported.
    unreported: bool,
    /// The limit's figures have changed since the last question.
    changed: bool,
    reported_at: Duration,
    /// The bucket is empty until then.
    closed_until: Duration,
    /// The number of questions without a token that requests waited for, less the number of those with one.
    in_vain: u32,
    asking: Option<OpenQuestion>,
    waiting: u32,
    recent: RecentAsks,
    /// The number of questions: a token that was taken before the last one is reported as spent.
    questions: u64,
}

/// A token that was taken from a stock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct StockToken {
    questions: u64,
}

/// Why a stock has no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StockEmpty {
    /// The store may have one: the request can wait for the answer to the next question, and then
    /// [take again](TokenStock::take_after_answer).
    Ask,
    /// The bucket is empty; there may be a token after this time.
    Wait(Duration),
}

#[derive(Debug, Clone, Copy)]
struct OpenQuestion {
    at: Duration,
    held: u32,
    waiting: u32,
}

/// The requests of this period and of the one before.
#[derive(Debug, Clone, Copy, Default)]
struct RecentAsks {
    period: u128,
    now: u32,
    before: u32,
}

/// The time after which unspent tokens are given back.
const IDLE: Duration = Duration::from_secs(1);
/// The time after which unspent tokens of a small bucket are given back: its requests wait already.
const IDLE_SMALL: Duration = Duration::from_millis(50);
/// How often spent tokens are reported if there is nothing else to ask.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// The pause after a question that failed.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a question that brought no token for waiting requests. The tenant is over its limit then, and other
/// instances get the tokens. Each further such question doubles the pause, up to 40 ms, which limits the number of questions
/// at any rate. An instance that gets tokens asks as soon as there is one, so that the tenant gets its rate.
const FIRST_PAUSE_IN_VAIN: Duration = Duration::from_millis(5);
/// The number of questions in vain with the longest pause.
const MOST_IN_VAIN: u32 = 4;
/// The period, in milliseconds. Its requests are the forecast for the next one.
const PERIOD_MS: u128 = 200;

impl TokenStock {
    /// Takes a token for a request.
    pub fn take(&mut self, now: Duration) -> Result<StockToken, StockEmpty> {
        self.recent.note(now);
        let taken = self.take_after_answer(now);
        if taken == Err(StockEmpty::Ask) {
            self.waiting = self.waiting.saturating_add(1);
        }
        taken
    }

    /// Takes a token for a request that waits for an answer, or has waited for one.
    pub fn take_after_answer(&mut self, now: Duration) -> Result<StockToken, StockEmpty> {
        self.expire(now);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.used_at = now;
            self.unreported = true;
            let questions = self.questions;
            return Ok(StockToken { questions });
        }
        match self.closed_until.checked_sub(now) {
            Some(wait) if wait > Duration::ZERO => Err(StockEmpty::Wait(wait)),
            _ => Err(StockEmpty::Ask),
        }
    }

    /// Notes that the limit's figures have changed: the store hears of them soon, also if there is nothing else to ask.
    pub fn figures_changed(&mut self) {
        self.changed = true;
    }

    /// Puts back the token of a request that did not go ahead. A token that was reported as spent meanwhile is forfeit.
    pub fn give_back(&mut self, token: StockToken, now: Duration) {
        if token.questions == self.questions && now < self.until {
            self.left += 1;
        }
    }

    /// The next question to the store, if there is one. Its answer goes to [`answered`](Self::answered), or its failure
    /// to [`failed`](Self::failed).
    pub fn question(
        &mut self,
        tenant: &Arc<str>,
        limit: &'static str,
        rate: f64,
        burst: f64,
        now: Duration,
    ) -> Option<TokenQuestion> {
        if self.asking.is_some() {
            return None;
        }
        self.expire(now);
        let (mut want, mut waiting) = (0, 0);
        if self.needs_more() && now >= self.closed_until {
            want = self.forecast().saturating_sub(self.left).max(1);
            waiting = std::mem::take(&mut self.waiting);
        }
        let returned = if want == 0 && waiting == 0 && now >= self.used_at + self.idle() {
            std::mem::take(&mut self.left)
        } else {
            0
        };
        let report = (self.unreported || self.changed) && now >= self.report_due();
        if want == 0 && returned == 0 && !report {
            return None;
        }
        let held = self.left;
        self.asking = Some(OpenQuestion {
            at: now,
            held,
            waiting,
        });
        self.reported_at = now;
        (self.unreported, self.changed) = (false, false);
        self.questions += 1;
        Some(TokenQuestion {
            tenant: Arc::clone(tenant),
            limit,
            rate,
            burst,
            holds: Duration::ZERO,
            want,
            waiting,
            held,
            returned,
        })
    }

    /// When [`question`](Self::question) will have something to ask, if nothing changes.
    pub fn due(&self) -> Option<Duration> {
        if self.asking.is_some() {
            return None;
        }
        let more = self.needs_more().then_some(self.closed_until);
        let report = (self.unreported || self.changed).then(|| self.report_due());
        let idle = (self.left > 0).then(|| self.used_at + self.idle());
        [more, report, idle].into_iter().flatten().min()
    }

    /// Reads the answer to the open question.
    pub fn answered(&mut self, answer: TokenAnswer, now: Duration) {
        let Some(asked) = self.asking.take() else {
            return;
        };
        if answer.kept < asked.held {
            self.left = self.left.min(answer.kept);
            // The loan has ended for the tokens that were taken since the question too: they do not come back.
            self.questions += 1;
        }
        self.left += answer.lent;
        self.until = asked.at + LOAN_ENDS;
        self.small = answer.small;
        if answer.lent > 0 {
            self.used_at = now;
        }
        self.in_vain = match (answer.lent, asked.waiting) {
            (0, 0) => self.in_vain,
            (0, _) => (self.in_vain + 1).min(MOST_IN_VAIN),
            _ => self.in_vain.saturating_sub(1),
        };
        let told = Duration::from_millis(answer.wait_ms);
        let pause = if answer.lent == 0 && asked.waiting > 0 {
            FIRST_PAUSE_IN_VAIN * 2_u32.pow(self.in_vain - 1)
        } else {
            Duration::ZERO
        };
        self.closed_until = now + told.max(pause);
        self.expire(now);
    }

    /// Notes that the open question has no answer. Lent tokens are lost, and held tokens stay until their end.
    pub fn failed(&mut self, now: Duration) {
        if self.asking.take().is_some() {
            self.unreported = true;
            self.closed_until = now + PAUSE;
        }
    }

    /// Forgets tokens of an earlier era of the store. Those that were taken do not come back.
    pub fn era_ended(&mut self) {
        self.left = 0;
        self.questions += 1;
    }

    /// The tokens that are left.
    pub fn left(&self, now: Duration) -> u32 {
        if now < self.until { self.left } else { 0 }
    }

    /// Whether the stock is as good as a new one, so that it can be dropped.
    pub fn is_idle(&self, now: Duration) -> bool {
        self.left(now) == 0
            && self.waiting == 0
            && self.asking.is_none()
            && !self.unreported
            && !self.changed
            && now >= self.closed_until
    }

    fn expire(&mut self, now: Duration) {
        if now >= self.until && self.left > 0 {
            self.left = 0;
            self.unreported = true;
        }
    }

    fn needs_more(&self) -> bool {
        self.waiting > 0 || !self.small && self.unreported && self.left <= self.forecast() / 2
    }

    fn forecast(&self) -> u32 {
        self.recent.now.max(self.recent.before).max(1)
    }

    fn idle(&self) -> Duration {
        if self.small { IDLE_SMALL } else { IDLE }
    }

    fn report_due(&self) -> Duration {
        if self.small {
            Duration::ZERO
        } else {
            self.reported_at + REPORT_EVERY
        }
    }
}

impl RecentAsks {
    fn note(&mut self, now: Duration) {
        let period = now.as_millis() / PERIOD_MS;
        if period != self.period {
            self.before = if period == self.period + 1 {
                self.now
            } else {
                0
            };
            self.now = 0;
            self.period = period;
        }
        self.now = self.now.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A stock that was lent three tokens at 1 ms, with its tenant and the answer.
    fn lent() -> (TokenStock, Arc<str>, TokenAnswer) {
        let tenant: Arc<str> = Arc::from("acme");
        let mut stock = TokenStock::default();
        assert_eq!(stock.take(at(0)), Err(StockEmpty::Ask));
        let asked = stock.question(&tenant, "rate", 10.0, 100.0, at(0)).unwrap();
        assert_eq!((asked.want, asked.waiting, asked.held), (1, 1, 0));
        let answer = TokenAnswer {
            kept: 0,
            lent: 3,
            wait_ms: 0,
            small: false,
        };
        stock.answered(answer, at(1));
        (stock, tenant, answer)
    }

    #[test]
    fn figures_that_changed_are_reported_though_nothing_is_asked_for() {
        let mut stock = TokenStock::default();
        let (now, tenant) = (Duration::from_secs(9), Arc::from("acme"));
        assert_eq!(stock.question(&tenant, "rate", 10.0, 100.0, now), None);
        stock.figures_changed();
        assert!(stock.due().is_some_and(|due| due <= now) && !stock.is_idle(now));
        let report = stock.question(&tenant, "rate", 5.0, 50.0, now).unwrap();
        assert_eq!((report.rate, report.want, report.held), (5.0, 0, 0));
        assert_eq!(stock.due(), None);
    }

    #[test]
    fn a_token_is_given_back_unless_it_was_reported_as_spent() {
        let (mut stock, tenant, answer) = lent();
        let token = stock.take(at(2)).unwrap();
        stock.give_back(token, at(3));
        assert_eq!(stock.left(at(3)), 3);
        let token = stock.take(at(4)).unwrap();
        let report = stock
            .question(&tenant, "rate", 10.0, 100.0, at(205))
            .unwrap();
        assert_eq!(report.held, 2);
        stock.give_back(token, at(206));
        assert_eq!(stock.left(at(206)), 2);
        stock.answered(
            TokenAnswer {
                kept: 2,
                lent: 0,
                ..answer
            },
            at(207),
        );
        // The loan has ended, and the store hears of it.
        assert_eq!(stock.left(at(2_205)), 0);
        assert_eq!(stock.take(at(2_205)), Err(StockEmpty::Ask));
        stock.waiting = 0;
        assert!(!stock.is_idle(at(2_205)));
        let report = stock
            .question(&tenant, "rate", 10.0, 100.0, at(2_405))
            .unwrap();
        assert_eq!((report.held, report.returned), (0, 0));
    }

    #[test]
    fn a_token_of_a_loan_that_ended_before_the_answer_is_not_given_back() {
        let (mut stock, tenant, lent) = lent();
        let _reported = stock.take(at(2)).unwrap();
        let report = stock
            .question(&tenant, "rate", 10.0, 100.0, at(205))
            .unwrap();
        assert_eq!(report.held, 2);
        let token = stock.take(at(206)).unwrap();
        // The store has lent both to others.
        stock.answered(TokenAnswer { lent: 0, ..lent }, at(207));
        stock.give_back(token, at(208));
        assert_eq!(stock.left(at(208)), 0);
    }
}
