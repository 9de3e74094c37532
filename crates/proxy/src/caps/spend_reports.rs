//! Spend reports: takes the ends of admitted calls to the store, so that what they did not spend comes free.
//!
//! No answer waits for it. A report that is lost with its process is made up for by the store, which counts the call as one
//! of unknown outcome after a minute.

use gatepay_core::proof::{AnswerProof, LookUpRule};
use gatepay_store::admission::Fingerprint;
use gatepay_store::caps::spend::{AttemptResult, SettledAttempt};
use gatepay_store::notifications::ledger::LedgerNote;
use prometheus::IntCounter;
use tokio::sync::mpsc;

use crate::refusal::{CallOutcome, Refusal};

/// The most reports that wait for the store: a minute of money calls at GatePay's quota.
const WAITING: usize = 32_768;
/// The most reports in one call to the store.
pub const MOST: usize = 256;

/// The way of reports to the store.
#[derive(Clone)]
pub struct SpendReports {
    news: mpsc::Sender<SpendNews>,
    lost: IntCounter,
}

/// The other end of [`SpendReports`].
pub struct SpendReportsEnd {
    pub(super) news: mpsc::Receiver<SpendNews>,
}

/// What the store learns after a call.
pub(super) enum SpendNews {
    /// The end of a money call.
    End(SettledAttempt),
    /// GatePay's id of an order with its currency, for a refund of it.
    Order(Box<LedgerNote>),
}

/// The report about one admitted call, sent when this is dropped. Until more is known its outcome is unknown.
pub struct SpendReport {
    reports: SpendReports,
    stamp: Fingerprint,
    result: AttemptResult,
}

/// A queue and its other end. Reports that find no room are counted in `lost`.
pub fn queue(lost: &IntCounter) -> (SpendReports, SpendReportsEnd) {
    let (sender, news) = mpsc::channel(WAITING);
    let reports = SpendReports {
        news: sender,
        lost: lost.clone(),
    };
    (reports, SpendReportsEnd { news })
}

impl SpendReports {
    /// The report about a call that the store has admitted by this stamp. Nothing of it is sent yet.
    pub fn of(&self, stamp: Fingerprint) -> SpendReport {
        SpendReport {
            reports: self.clone(),
            stamp,
            result: AttemptResult::NotExecuted,
        }
    }

    /// Notes GatePay's id of an order. Never waits.
    pub fn note_order(&self, order: LedgerNote) {
        self.send(SpendNews::Order(Box::new(order)));
    }

    fn send(&self, news: SpendNews) {
        if self.news.try_send(news).is_err() {
            self.lost.inc();
        }
    }
}

impl SpendReport {
    /// The call is about to be sent: from here on it may be executed.
    pub fn may_be_sent(&mut self) {
        self.result = AttemptResult::Unknown;
    }

    /// GatePay answered the call. Only a refusal of this very delivery proves that it was not executed: of an earlier one under
    /// the same key the store has a report of its own. "Not found" proves nothing.
    ///
    /// An object that a look-up found under the call's key counts, whatever the code of the answer was: the store may lack the
    /// delivery that made it (lost by a failover, sent without this store, or repeated within GatePay). Where one key is one spend,
    /// it counts once with that of an earlier delivery; where no page documents a key, each call counts.
    ///
    /// A look-up that found `other_amounts` under the key disproves nothing: GatePay may state this call's in other terms.
    pub fn answered(&mut self, proof: AnswerProof, outcome: CallOutcome, other_amounts: bool) {
        self.result = match (proof, outcome) {
            _ if other_amounts => AttemptResult::Unknown,
            (AnswerProof::Executed, _) | (_, CallOutcome::Executed) => AttemptResult::Executed,
            (_, CallOutcome::Found) => AttemptResult::Found,
            // Only the code together with the look-up's "not found" says so: the code alone may be about an earlier delivery.
            (
                AnswerProof::Refused
                | AnswerProof::LookUp(LookUpRule::RefusedIfUnused | LookUpRule::RefusedUnlessFound),
                CallOutcome::Refused,
            ) => AttemptResult::NotExecuted,
            _ => AttemptResult::Unknown,
        };
    }

    /// The call has no answer that is relayed.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.result = match refusal.outcome() {
            CallOutcome::NotExecuted => AttemptResult::NotExecuted,
            CallOutcome::Executed => AttemptResult::Executed,
            CallOutcome::Found => AttemptResult::Found,
            CallOutcome::Unknown | CallOutcome::Refused => AttemptResult::Unknown,
        };
    }
}

impl Drop for SpendReport {
    fn drop(&mut self) {
        let end = SettledAttempt {
            stamp: self.stamp,
            result: self.result,
        };
        self.reports.send(SpendNews::End(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result that the store gets of a call that was sent and answered.
    fn told(proof: AnswerProof, outcome: CallOutcome, other_amounts: bool) -> AttemptResult {
        let (reports, mut end) = queue(&IntCounter::new("lost", "lost").unwrap());
        let mut report = reports.of([7; 16]);
        report.may_be_sent();
        report.answered(proof, outcome, other_amounts);
        drop(report);
        let Ok(SpendNews::End(attempt)) = end.news.try_recv() else {
            panic!("no end");
        };
        attempt.result
    }

    const RULES: [LookUpRule; 5] = [
        LookUpRule::UnderWay,
        LookUpRule::Decided,
        LookUpRule::RefusedIfAbsent,
        LookUpRule::RefusedIfUnused,
        LookUpRule::RefusedUnlessFound,
    ];

    #[test]
    fn another_amount_under_the_key_releases_nothing() {
        for rule in RULES {
            let result = told(AnswerProof::LookUp(rule), CallOutcome::Unknown, true);
            assert_eq!(result, AttemptResult::Unknown, "{rule:?}");
        }
    }

    #[test]
    fn what_a_look_up_found_counts_whatever_code_refused_the_delivery() {
        for rule in RULES {
            let result = told(AnswerProof::LookUp(rule), CallOutcome::Found, false);
            assert_eq!(result, AttemptResult::Found, "{rule:?}");
        }
        for rule in [LookUpRule::RefusedIfUnused, LookUpRule::RefusedUnlessFound] {
            let result = told(AnswerProof::LookUp(rule), CallOutcome::Refused, false);
            assert_eq!(result, AttemptResult::NotExecuted, "{rule:?}");
        }
        let refused = told(AnswerProof::Refused, CallOutcome::Refused, false);
        assert_eq!(refused, AttemptResult::NotExecuted);
    }

    #[test]
    fn a_look_up_that_nobody_answers_releases_nothing_whatever_code_refused_the_delivery() {
        for rule in RULES {
            let result = told(AnswerProof::LookUp(rule), CallOutcome::Unknown, false);
            assert_eq!(result, AttemptResult::Unknown, "{rule:?}");
        }
    }
}
