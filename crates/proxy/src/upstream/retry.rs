//! Repeat: which attempts may be made again, how soon, and how many in all.
//!
//! A call that changes something is repeated only if nothing of it was written. What GatePay refuses is not repeated.
//! Repeats are a share of the traffic, so that they cannot make an outage worse.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gatepay_core::Kind;

use crate::process::clock;
use crate::upstream::exchange::{AnswerBody, CallFailure, UpstreamAnswer};
use crate::upstream::meters::RetryReason;

/// How often one request is repeated at most.
pub const MOST: u32 = 2;
/// How long the first repeat waits, about; each later one twice as long.
const PAUSE: Duration = Duration::from_millis(50);

/// Why an attempt that ended so may be made again; nothing if it may not.
pub fn reason(kind: Kind, tried: &Result<UpstreamAnswer, CallFailure>) -> Option<RetryReason> {
    match (tried, kind) {
        (Err(CallFailure::NotSent(_)), _) => Some(RetryReason::NotSent),
        (Err(CallFailure::Lost { .. }), Kind::Read) => Some(RetryReason::Lost),
        (Ok(answer), Kind::Read) if is_passing(answer) => Some(RetryReason::Answer),
        _ => None,
    }
}

/// Whether an answer says that the next one may be better. One that says when is believed: that is later than we wait.
fn is_passing(answer: &UpstreamAnswer) -> bool {
    let head = &answer.head;
    let code = match &answer.body {
        AnswerBody::Whole(_, judgement) => judgement.code,
        AnswerBody::Long(_) => None,
    };
    let asks_again = code.is_some_and(|code| matches!(code.as_str(), "300000" | "300001"));
    let is_gone = matches!(head.status.as_u16(), 502..=504);
    (asks_again || is_gone) && head.fields.get(&http::header::RETRY_AFTER).is_none()
}

/// How long to wait before a repeat: half to one and a half times the usual, so that callers who failed together do
/// not come back together.
pub fn pause(repeats: u32) -> Duration {
    let [jitter] = clock::random::<1>();
    PAUSE * (1 << repeats) * (128 + u32::from(jitter)) / 256
}

/// How many repeats there may be: every request earns a part of one, for its party and for all. A repeat is paid from
/// both, so that no party uses what others earned. A worker's own, so that no other waits for it.
pub struct RetryBudget {
    /// In thousandths of a repeat.
    left: AtomicI64,
    /// The same of each party; of more parties than there are accounts some share one.
    parties: [AtomicI64; ACCOUNTS],
    earned: i64,
}

const ONE: i64 = 1_000;
/// A quiet party can repeat too.
const AT_START: i64 = 10 * ONE;
/// What a long good time does not exceed, so that a bad one is not paid from it. All have it at the start, for no party
/// can use more of it than its own.
const AT_MOST: i64 = 100 * ONE;
const ACCOUNTS: usize = 256;

impl RetryBudget {
    /// A budget of this share of the traffic, 0 to 1.
    pub fn new(share: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a thousand fits"
        )]
        let earned = (share * 1_000.0).round() as i64;
        let start = |most| AtomicI64::new(if earned == 0 { 0 } else { most });
        Self {
            left: start(AT_MOST),
            parties: std::array::from_fn(|_| start(AT_START)),
            earned,
        }
    }

    /// A request of this party's begins; the number is one that no other party has.
    pub fn earn(&self, party: usize) {
        for account in [&self.left, self.account(party)] {
            // Only its own thread writes, so that nothing comes between.
            let left = account.load(Ordering::Relaxed);
            if left < AT_MOST {
                account.store(left + self.earned, Ordering::Relaxed);
            }
        }
    }

    /// Whether a repeat may be made for this party; then it is paid.
    pub fn spend(&self, party: usize) -> bool {
        let accounts = [&self.left, self.account(party)];
        let left = accounts.map(|account| account.load(Ordering::Relaxed));
        let enough = left.iter().all(|left| *left >= ONE);
        if enough {
            for (account, left) in accounts.into_iter().zip(left) {
                account.store(left - ONE, Ordering::Relaxed);
            }
        }
        enough
    }

    fn account(&self, party: usize) -> &AtomicI64 {
        // Numbers of parties are addresses, whose low bits are alike.
        let mixed = (party as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        &self.parties[usize::try_from(mixed).expect("8 bits") % ACCOUNTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_a_share_of_the_traffic() {
        let budget = RetryBudget::new(0.1);
        let mut repeats = 0;
        for _ in 0..10_000 {
            budget.earn(1);
            repeats += u32::from(budget.spend(1));
        }
        assert_eq!(repeats, 1_010, "a tenth, and what there was at the start");
    }

    #[test]
    fn a_good_time_is_not_saved_up_and_nothing_is_nothing() {
        let budget = RetryBudget::new(0.5);
        for _ in 0..1_000_000 {
            budget.earn(1);
        }
        assert_eq!((0..1_000).filter(|_| budget.spend(1)).count(), 100);
        let none = RetryBudget::new(0.0);
        none.earn(1);
        assert!(!none.spend(1));
    }

    #[test]
    fn a_party_that_fails_every_other_time_uses_nothing_that_others_earned() {
        let budget = RetryBudget::new(0.1);
        let mut repeats = 0;
        for call in 0..1_000 {
            budget.earn(1);
            repeats += u32::from(call % 2 == 1 && budget.spend(1));
        }
        assert_eq!(repeats, 110, "its own tenth, and what it had at the start");
        assert!((0..10).all(|_| budget.spend(2)), "another has its own");
        assert!(!budget.spend(2));
    }

    #[test]
    fn a_pause_is_about_as_long_as_it_should_be() {
        for _ in 0..1_000 {
            let (first, second) = (pause(0).as_millis(), pause(1).as_millis());
            assert!((25..75).contains(&first) && (50..150).contains(&second));
        }
    }
}
