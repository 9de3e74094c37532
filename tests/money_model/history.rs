//! The deliveries sent, their answers and the calls GatePay executed, and the check that the answers are true.
//!
//! A stamp is a timestamp and nonce that a shop signed once. Its deliveries are the requests that carry it: the same
//! bytes again, or the same signature on another path.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The history of a scenario.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) stamps: Vec<SignedCall>,
    pub(super) deliveries: Vec<Delivery>,
    /// The state-changing calls that GatePay received, in the order received.
    pub(super) executions: Vec<Execution>,
}

/// A signed call.
#[derive(Debug, Clone)]
pub(super) struct SignedCall {
    /// Operation and idempotency key.
    pub(super) key: String,
    /// The effect that the caller wants once, however often it signs the call.
    pub(super) intent: usize,
}

/// One request sent to the proxy.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) stamp: usize,
    /// Sent on another path than the signed one: the answer is about another operation.
    pub(super) elsewhere: bool,
    /// The group of deliveries sent together: their order of arrival is unknown.
    pub(super) group: usize,
    /// When the first byte was sent.
    pub(super) sent: Moment,
    /// When the last byte was sent.
    pub(super) whole: Moment,
    pub(super) answered: Option<(Moment, Said)>,
}

/// A point in the order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// How many requests GatePay had received by then.
    pub(super) received: usize,
}

/// The answer that the caller got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) refusal: Option<String>,
    pub(super) outcome: Option<String>,
    /// The answer's JSON reports success.
    pub(super) succeeded: bool,
}

/// One request that GatePay received.
#[derive(Debug, Clone)]
pub(super) struct Execution {
    /// The position among all requests that GatePay received, reads included.
    pub(super) at: usize,
    pub(super) stamp: usize,
    pub(super) key: String,
    /// GatePay carried the call out and did not refuse it.
    pub(super) took_effect: bool,
}

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Broken {
    /// The answer said `not-executed` of a stamp that was executed, by this delivery or by an earlier arrival.
    NotExecutedButWas,
    /// The answer said `executed`, or relayed a success, of a stamp that was not executed.
    ExecutedButNot,
    /// The answer said `found` of a key that GatePay does not have.
    FoundButNot,
    /// The answer said `refused` of a stamp that took effect.
    RefusedButExecuted,
    /// A GatePay answer to a state-changing call carries no outcome.
    Unsaid,
    /// One stamp reached GatePay more than once.
    SentTwice,
    /// A caller that followed its answers had one intent executed twice.
    DoneTwice,
}

/// The broken promise, and the delivery or stamp that it concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) broken: Broken,
    pub(super) about: String,
}

impl Said {
    pub(super) fn outcome(&self) -> Option<&str> {
        self.outcome.as_deref()
    }

    /// Whether the answer says that no call with this stamp was executed.
    pub(super) fn denies(&self) -> bool {
        self.outcome() == Some("not-executed")
    }
}

impl History {
    /// Every broken promise. `careless` are the intents whose caller did not follow its answers.
    pub(super) fn violations(&self, careless: &BTreeSet<usize>) -> Vec<Violation> {
        let told = self.deliveries.iter().enumerate();
        let of_answers = told.filter_map(|(number, delivery)| self.untrue(number, delivery));
        of_answers
            .chain(self.sent_twice())
            .chain(self.done_twice(careless))
            .collect()
    }

    /// The promise that the answer to a delivery breaks, if any.
    fn untrue(&self, number: usize, delivery: &Delivery) -> Option<Violation> {
        let (answered, said) = delivery.answered.as_ref()?;
        let effects = || self.executions.iter().filter(|one| one.took_effect);
        let own = || effects().filter(|one| one.stamp == delivery.stamp);
        let by_then = |one: &Execution| one.at < answered.received;
        let key = &self.stamps[delivery.stamp].key;
        let broken = match said.outcome() {
            Some("not-executed") if own().any(|one| self.contradicts(number, one)) => {
                Broken::NotExecutedButWas
            }
            Some("executed") if !own().any(by_then) => Broken::ExecutedButNot,
            None if said.refusal.is_none() && said.succeeded && !own().any(by_then) => {
                Broken::ExecutedButNot
            }
            None if said.refusal.is_none() => Broken::Unsaid,
            Some("found")
                if !delivery.elsewhere && !effects().any(|one| one.key == *key && by_then(one)) =>
            {
                Broken::FoundButNot
            }
            Some("refused") if own().next().is_some() => Broken::RefusedButExecuted,
            _ => return None,
        };
        Some(Violation {
            broken,
            about: format!("{delivery}"),
        })
    }

    /// Whether an execution of the same stamp makes a delivery's `not-executed` untrue. It does, unless another
    /// delivery can have arrived after this delivery was judged, and can be the executed one.
    fn contradicts(&self, number: usize, execution: &Execution) -> bool {
        let judged = &self.deliveries[number];
        execution.at < judged.whole.received
            || !self.deliveries.iter().enumerate().any(|(other, later)| {
                let may_be_later = other > number || later.group == judged.group;
                other != number
                    && later.stamp == judged.stamp
                    && may_be_later
                    && later.may_have_done(execution)
            })
    }

    fn sent_twice(&self) -> impl Iterator<Item = Violation> {
        let mut arrivals = BTreeMap::<usize, usize>::new();
        for one in &self.executions {
            *arrivals.entry(one.stamp).or_default() += 1;
        }
        arrivals
            .into_iter()
            .filter(|(_, times)| *times > 1)
            .map(|(stamp, times)| Violation {
                broken: Broken::SentTwice,
                about: format!("stamp {stamp} reached GatePay {times} times"),
            })
    }

    fn done_twice(&self, careless: &BTreeSet<usize>) -> impl Iterator<Item = Violation> {
        let mut done = BTreeMap::<usize, usize>::new();
        for one in self.executions.iter().filter(|one| one.took_effect) {
            let intent = self.stamps[one.stamp].intent;
            if !careless.contains(&intent) {
                *done.entry(intent).or_default() += 1;
            }
        }
        done.into_iter()
            .filter(|(_, times)| *times > 1)
            .map(|(intent, times)| Violation {
                broken: Broken::DoneTwice,
                about: format!("what stamp {intent} wants once was done {times} times"),
            })
    }
}

impl Delivery {
    /// Whether the delivery was sent before this execution, and was not denied before it.
    fn may_have_done(&self, execution: &Execution) -> bool {
        let open = match &self.answered {
            None => true,
            Some((answered, said)) => answered.received > execution.at && !said.denies(),
        };
        self.sent.received <= execution.at && open
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stamp {}", self.stamp)?;
        if self.elsewhere {
            f.write_str(" on another path")?;
        }
        match &self.answered {
            None => f.write_str(": no answer"),
            Some((_, said)) => {
                write!(f, ": {}", said.status)?;
                for word in [&said.refusal, &said.outcome] {
                    write!(f, " {}", word.as_deref().unwrap_or("-"))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.broken, self.about)
    }
}
