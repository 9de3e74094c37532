//! Retry: which attempts are retried, how soon, and how often in all.
//!
//! A write or money call is retried only if no byte of it was written. A call that GatePay refuses is not retried.
//! Retries are limited to a share of the traffic, so that they cannot make an outage worse.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gatepay_core::Kind;

use crate::process::clock;
use crate::upstream::exchange::{AnswerBody, CallFailure, UpstreamAnswer};
use crate::upstream::meters::RetryReason;

/// Maximum number of retries of one request.
pub const MAX_RETRIES: u32 = 2;
/// Mean delay of the first retry; each later retry waits twice as long.
const MEAN_PAUSE: Duration = Duration::from_millis(50);

/// The reason for retrying an attempt with this outcome; `None` if a retry is not allowed.
pub fn reason(kind: Kind, outcome: &Result<UpstreamAnswer, CallFailure>) -> Option<RetryReason> {
    match (outcome, kind) {
        (Err(CallFailure::NotSent(_)), _) => Some(RetryReason::NotSent),
        (Err(CallFailure::Lost { .. }), Kind::Read) => Some(RetryReason::Lost),
        (Ok(answer), Kind::Read) if is_passing(answer) => Some(RetryReason::Answer),
        _ => None,
    }
}

/// Whether the answer reports a passing failure. An answer with `Retry-After` is not retried: its time is later than a
/// retry would be.
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

/// Delay before a retry: half to one and a half times the mean, so that calls that failed together are not retried
/// together.
pub fn pause(retries: u32) -> Duration {
    let [jitter] = clock::random::<1>();
    MEAN_PAUSE * (1 << retries) * (128 + u32::from(jitter)) / 256
}

/// The retry budget of one worker, which shares it with no other worker.
///
/// Every request earns a fraction of a retry, on its party's account and on the shared account. A retry is paid from
/// both accounts, so that no party spends the earnings of others.
pub struct RetryBudget {
    /// The shared account, in thousandths of a retry.
    balance: AtomicI64,
    /// The parties' accounts, in thousandths of a retry. Parties whose numbers hash alike share an account.
    parties: [AtomicI64; ACCOUNTS],
    earned: i64,
}

const ONE: i64 = 1_000;
/// Initial balance of a party's account, so that a party with little traffic can retry too.
const INITIAL_BALANCE: i64 = 10 * ONE;
/// Maximum balance of an account, so that a long time without failures does not pay for an outage. The shared account
/// starts with it, since each party is limited by its own account.
const MAX_BALANCE: i64 = 100 * ONE;
const ACCOUNTS: usize = 256;

impl RetryBudget {
    /// A budget of `share` retries per request, 0 to 1.
    pub fn new(share: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a thousand fits"
        )]
        let earned = (share * 1_000.0).round() as i64;
        let start = |most| AtomicI64::new(if earned == 0 { 0 } else { most });
        Self {
            balance: start(MAX_BALANCE),
            parties: std::array::from_fn(|_| start(INITIAL_BALANCE)),
            earned,
        }
    }

    /// Earns for a request of the party with this unique number.
    pub fn earn(&self, party: usize) {
        for account in [&self.balance, self.account(party)] {
            // Only this worker's thread writes, so that no write comes between load and store.
            let balance = account.load(Ordering::Relaxed);
            if balance < MAX_BALANCE {
                account.store(balance + self.earned, Ordering::Relaxed);
            }
        }
    }

    /// Pays for a retry of this party; `false` if either account has too little.
    pub fn spend(&self, party: usize) -> bool {
        let accounts = [&self.balance, self.account(party)];
        let balance = accounts.map(|account| account.load(Ordering::Relaxed));
        let enough = balance.iter().all(|balance| *balance >= ONE);
        if enough {
            for (account, balance) in accounts.into_iter().zip(balance) {
                account.store(balance - ONE, Ordering::Relaxed);
            }
        }
        enough
    }

    fn account(&self, party: usize) -> &AtomicI64 {
        // Party numbers are memory addresses with equal low bits.
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
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.earn(1);
            retries += u32::from(budget.spend(1));
        }
        assert_eq!(retries, 1_010, "a tenth, and what there was at the start");
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
        let mut retries = 0;
        for call in 0..1_000 {
            budget.earn(1);
            retries += u32::from(call % 2 == 1 && budget.spend(1));
        }
        assert_eq!(retries, 110, "its own tenth, and what it had at the start");
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
