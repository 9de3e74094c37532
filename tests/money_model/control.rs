//! Tests of the check itself: it finds a history that breaks a promise, and passes a history that keeps it.

use std::collections::BTreeSet;

use super::history::{Broken, Delivery, Execution, History, Moment, Said, SignedCall};

/// A history of stamps. Each delivery is answered before the next is sent, unless a test says otherwise.
struct Told(History);

impl Told {
    fn of(stamps: usize) -> Self {
        let stamp = |number: usize| SignedCall {
            key: format!("refund_order N{number}"),
            intent: 0,
        };
        Self(History {
            stamps: (0..stamps).map(stamp).collect(),
            ..History::default()
        })
    }

    fn now(&self) -> Moment {
        Moment {
            received: self.0.executions.len(),
        }
    }

    fn sent(mut self, stamp: usize) -> Self {
        self.0.deliveries.push(Delivery {
            stamp,
            elsewhere: false,
            group: self.0.deliveries.len(),
            sent: self.now(),
            whole: self.now(),
            answered: None,
        });
        self
    }

    /// Sends a delivery in the same group as the delivery before.
    fn sent_at_once(self, stamp: usize) -> Self {
        let mut told = self.sent(stamp);
        let [.., before, last] = &mut *told.0.deliveries else {
            panic!("there is one before");
        };
        last.group = before.group;
        told
    }

    fn executed(mut self, stamp: usize) -> Self {
        self.0.executions.push(Execution {
            at: self.0.executions.len(),
            stamp,
            key: self.0.stamps[stamp].key.clone(),
            took_effect: true,
        });
        self
    }

    fn refused_by_gatepay(self, stamp: usize) -> Self {
        let mut told = self.executed(stamp);
        let last = told.0.executions.last_mut();
        last.expect("there is one").took_effect = false;
        told
    }

    /// The delivery of this number gets a refusal with an outcome.
    fn refused(self, delivery: usize, outcome: &str) -> Self {
        self.answered(delivery, Some("starting"), Some(outcome))
    }

    /// The delivery of this number gets a GatePay answer with an outcome.
    fn relayed(self, delivery: usize, outcome: &str) -> Self {
        self.answered(delivery, None, Some(outcome))
    }

    fn answered(mut self, delivery: usize, refusal: Option<&str>, outcome: Option<&str>) -> Self {
        let said = Said {
            status: 200,
            refusal: refusal.map(str::to_owned),
            outcome: outcome.map(str::to_owned),
            succeeded: refusal.is_none(),
        };
        let now = self.now();
        self.0.deliveries[delivery].answered = Some((now, said));
        self
    }

    fn breaks(&self) -> Vec<Broken> {
        let violations = self.0.violations(&BTreeSet::new());
        violations.iter().map(|one| one.broken).collect()
    }
}

#[test]
fn a_denial_of_what_was_executed_is_found() {
    let before = Told::of(1)
        .sent(0)
        .executed(0)
        .sent(0)
        .refused(1, "not-executed");
    assert_eq!(before.breaks(), [Broken::NotExecutedButWas]);
    let own = Told::of(1).sent(0).executed(0).refused(0, "not-executed");
    assert_eq!(own.breaks(), [Broken::NotExecutedButWas]);
    let queued = Told::of(1).sent(0).sent(0).refused(1, "not-executed");
    let queued = queued.executed(0).relayed(0, "executed");
    assert_eq!(
        queued.breaks(),
        [Broken::NotExecutedButWas],
        "it had arrived"
    );
    let all = Told::of(1).sent(0).sent_at_once(0).executed(0);
    let all = all.refused(0, "not-executed").refused(1, "not-executed");
    assert_eq!(all.breaks(), [Broken::NotExecutedButWas; 2]);
}

#[test]
fn a_denial_before_the_copy_that_is_executed_arrives_is_true() {
    let later = Told::of(1).sent(0).refused(0, "not-executed");
    let later = later.sent(0).executed(0).relayed(1, "executed");
    assert_eq!(later.breaks(), []);
    let at_once = Told::of(1).sent(0).sent_at_once(0).executed(0);
    let at_once = at_once.refused(0, "not-executed").relayed(1, "executed");
    assert_eq!(at_once.breaks(), [], "either may have arrived first");
    let other = Told::of(2).sent(0).refused(0, "not-executed");
    let other = other.sent(1).executed(1).relayed(1, "executed");
    assert_eq!(other.breaks(), [], "signed anew");
    let refused = Told::of(1).sent(0).refused_by_gatepay(0);
    assert_eq!(refused.refused(0, "not-executed").breaks(), []);
}

#[test]
fn a_claim_that_something_was_executed_is_held_against_the_books() {
    let claim = || Told::of(1).sent(0);
    for outcome in ["executed", "found"] {
        assert_eq!(claim().executed(0).relayed(0, outcome).breaks(), []);
        let untrue = if outcome == "found" {
            Broken::FoundButNot
        } else {
            Broken::ExecutedButNot
        };
        assert_eq!(claim().relayed(0, outcome).breaks(), [untrue]);
        let early = claim().relayed(0, outcome).executed(0);
        assert_eq!(early.breaks(), [untrue], "it was not yet");
        let failed = claim().refused_by_gatepay(0).relayed(0, outcome);
        assert_eq!(failed.breaks(), [untrue]);
    }
    let silent = claim().answered(0, None, None);
    assert_eq!(silent.breaks(), [Broken::ExecutedButNot], "a success");
    let silent = claim().executed(0).answered(0, None, None);
    assert_eq!(silent.breaks(), [Broken::Unsaid]);
}

#[test]
fn a_refusal_of_gatepays_that_took_effect_is_found() {
    let refused = Told::of(1).sent(0).refused_by_gatepay(0);
    assert_eq!(refused.relayed(0, "refused").breaks(), []);
    let executed = Told::of(1).sent(0).executed(0).relayed(0, "refused");
    assert_eq!(executed.breaks(), [Broken::RefusedButExecuted]);
}

#[test]
fn an_event_that_happens_twice_is_found_by_the_model() {
    let twice = Told::of(1).sent(0).executed(0).relayed(0, "executed");
    let twice = twice.sent(0).executed(0).relayed(1, "executed");
    assert_eq!(twice.breaks(), [Broken::SentTwice, Broken::DoneTwice]);
    let refused = Told::of(1).sent(0).refused_by_gatepay(0).sent(0);
    let refused = refused.refused_by_gatepay(0);
    assert_eq!(
        refused.breaks(),
        [Broken::SentTwice],
        "though nothing was done"
    );
    let anew = Told::of(2).sent(0).executed(0).relayed(0, "executed");
    let anew = anew.sent(1).executed(1).relayed(1, "executed");
    assert_eq!(anew.breaks(), [Broken::DoneTwice]);
    let careless = anew.0.violations(&BTreeSet::from([0]));
    assert_eq!(careless, [], "its caller asked for it twice");
}

#[test]
fn an_unknown_outcome_is_never_untrue() {
    for told in [Told::of(1).sent(0), Told::of(1).sent(0).executed(0)] {
        assert_eq!(told.refused(0, "unknown").breaks(), []);
    }
}
