//! Many calls of every kind under random faults: GatePay's ledger and the answers agree on every call.

use crate::support::*;
use bytes::Bytes;
use gatepay_sandbox::{ApiFailure, InjectedFault, ReceivedRequest, SandboxConfig};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The deadline of a call, which a busy machine meets. The proxy may ask for the outcome for 1.4 s more, which is one question.
const DEADLINE: Duration = Duration::from_secs(3);
const RESOLVE: Duration = Duration::from_millis(1_400);
/// How many calls the sandbox remembers at a time.
const BATCH: usize = 10_000;

#[tokio::test]
async fn answers_and_ledger_agree_on_every_call_under_random_faults() {
    // 2,000 calls; the next test has 100,000.
    println!("{}", agree(2_000, 64, 1).await);
}

#[tokio::test]
#[ignore = "takes minutes: 100,000 calls under random faults"]
async fn gatepays_books_and_the_answers_agree_on_a_hundred_thousand_calls() {
    println!("{}", agree(100_000, 256, 2).await);
}

/// A call with a number of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Refund,
    QueryOrder,
    QueryRefund,
}

async fn agree(calls: usize, callers: usize, seed: u64) -> String {
    let gatepay = Arc::new(GatePay::with(|config: &mut SandboxConfig| {
        config.record = 1_000_000;
    }));
    let relay = Arc::new(Relay::before(gatepay.sandbox.address()));
    let url = format!("http://{}", relay.address());
    let proxy = Proxy::at(&url, &gatepay.clock)
        .tenant(acme().rate(1_000_000, 1_000_000))
        .with(|settings| {
            settings.upstream.deadline = DEADLINE;
            settings.upstream.resolve = RESOLVE;
        })
        .start();
    let paid: Arc<str> = gatepay.paid_order(&proxy).await.into();
    let before = gatepay.cents();
    let mut tally = Tally::default();
    for first in (0..calls).step_by(BATCH) {
        let last = calls.min(first + BATCH);
        gatepay.sandbox.clear();
        let next = Arc::new(AtomicUsize::new(first));
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let (gatepay, relay, paid) =
                (Arc::clone(&gatepay), Arc::clone(&relay), Arc::clone(&paid));
            let (next, address) = (Arc::clone(&next), proxy.address());
            let mut dice = Dice::new(seed << 48 | (first as u64) << 16 | caller as u64);
            calling.spawn(async move {
                let mut answers = Vec::new();
                let mut connection = Connection::open(address).await;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= last {
                        return answers;
                    }
                    disturb(&gatepay, &relay, &mut dice);
                    let kind = dice.one_of(&[
                        Kind::Create,
                        Kind::Refund,
                        Kind::QueryOrder,
                        Kind::QueryRefund,
                    ]);
                    let number = format!("N-{number}");
                    let request = kind.call(&number, &paid).request(&gatepay.clock);
                    let answer = connection.try_send(request).await.ok();
                    if answer.is_none() {
                        connection = Connection::open(address).await;
                    }
                    answers.push((kind, number, answer));
                }
            });
        }
        let answers = calling.join_all().await.concat();
        gatepay.sandbox.clear_faults();
        tally.hold(&answers, &gatepay.received());
        assert_eq!(
            before - gatepay.cents(),
            tally.refunded,
            "each refund took one cent, once"
        );
        tally.ask_again(&answers, &gatepay).await;
    }
    proxy.stop().await;
    assert_eq!(tally.calls, calls);
    assert!(
        tally.unknown > calls / 100 && tally.found > 0 && tally.relayed > calls / 2,
        "{tally:?}"
    );
    format!("{} connections broken, {tally:?}", relay.struck())
}

/// One call in ten meets a fault of GatePay, one in twenty a connection that will break; chance chooses the calls.
fn disturb(gatepay: &GatePay, relay: &Relay, dice: &mut Dice) {
    if dice.below(10) == 0 {
        let millis = |dice: &mut Dice, most| Duration::from_millis(dice.below(most));
        let fault = match dice.below(14) {
            0 => InjectedFault::ResetBeforeReading,
            1 => InjectedFault::ResetBeforeExecuting,
            2 => InjectedFault::ResetAfterExecuting,
            3 => InjectedFault::ResetMidAnswer {
                after_bytes: usize::try_from(dice.below(600)).unwrap(),
            },
            4 => InjectedFault::Truncated,
            5 => InjectedFault::Garbage("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"SUCCESS\"".into()),
            6 => InjectedFault::Delay(millis(dice, 6_000)),
            7 => InjectedFault::Drip(millis(dice, 4)),
            8 => InjectedFault::Endless {
                max_bytes: 300 << 10,
                max_time: millis(dice, 1_000),
            },
            9 => InjectedFault::Failure(dice.one_of(&[
                ApiFailure::SystemError,
                ApiFailure::InternalError,
                ApiFailure::UnknownError,
            ])),
            10 => InjectedFault::Failure(
                dice.one_of(&[ApiFailure::InvalidSignature, ApiFailure::UnknownClient]),
            ),
            11 => InjectedFault::Failure(
                dice.one_of(&[ApiFailure::OrderStatus, ApiFailure::InsufficientBalance]),
            ),
            12 => InjectedFault::Status {
                status: dice.one_of(&[200, 404, 500, 502, 503, 504]),
                body: "not now".into(),
            },
            _ => InjectedFault::Status {
                status: dice.one_of(&[200, 202, 500]),
                body: Bytes::new(),
            },
        };
        gatepay.inject(fault.once());
    }
    if dice.below(20) == 0 {
        relay.plan([Break {
            way: dice.one_of(&[Way::Asked, Way::Answered]),
            at: usize::try_from(dice.below(4_000)).unwrap(),
            how: dice.one_of(&EVERY_HOW),
        }]);
    }
}

impl Kind {
    fn call(self, number: &str, paid: &str) -> Call {
        match self {
            Self::Create => acme().post(CREATE, order(number)),
            Self::Refund => acme().post(
                REFUND,
                format!(
                    r#"{{"refundRequestId":"{number}","prepayId":"{paid}","refundAmount":"0.01"}}"#
                ),
            ),
            Self::QueryOrder => acme().post(QUERY, format!(r#"{{"merchantTradeNo":"{number}"}}"#)),
            Self::QueryRefund => acme().get(&format!("{DETAILS}?refundRequestId={number}")),
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Create => "create_order",
            Self::Refund => "refund_order",
            Self::QueryOrder => "query_order",
            Self::QueryRefund => "refund_details",
        }
    }

    fn repeats(self) -> bool {
        matches!(self, Self::QueryOrder | Self::QueryRefund)
    }
}

type Answered = (Kind, String, Option<Answer>);

/// The callers' answers, each held against the sandbox's books.
#[derive(Debug, Default)]
struct Tally {
    calls: usize,
    relayed: usize,
    not_executed: usize,
    unknown: usize,
    /// Of the unknown outcomes, the calls that GatePay was found to have, and the calls that it was found not to have.
    found: usize,
    not_found: usize,
    /// Reads whose long answer was cut together with its connection.
    cut: usize,
    refunded: usize,
}

impl Tally {
    fn hold(&mut self, answers: &[Answered], received: &[ReceivedRequest]) {
        let mut known: HashMap<(&str, String), Vec<&ReceivedRequest>> = HashMap::new();
        for one in received {
            if let Some(operation) = &one.operation
                && let Some(number) = number(one)
            {
                known.entry((operation, number)).or_default().push(one);
            }
        }
        let none = Vec::new();
        for (kind, number, answer) in answers {
            let known = known.get(&(kind.operation(), number.clone()));
            self.judge(*kind, number, answer.as_ref(), known.unwrap_or(&none));
        }
    }

    fn judge(
        &mut self,
        kind: Kind,
        number: &str,
        answer: Option<&Answer>,
        known: &[&ReceivedRequest],
    ) {
        self.calls += 1;
        let executed = known.iter().any(|one| one.executed);
        if !kind.repeats() {
            assert!(known.len() <= 1, "{number} was sent {} times", known.len());
        }
        self.refunded += usize::from(kind == Kind::Refund && executed);
        let Some(answer) = answer else {
            assert!(kind.repeats(), "{kind:?} {number} was not answered");
            self.cut += 1;
            return;
        };
        match (answer.refusal(), answer.outcome()) {
            (None, outcome) => {
                Self::judge_outcome(kind, number, outcome, executed);
                let same = |one: &&ReceivedRequest| {
                    one.answer_status == Some(answer.status) && one.answer_body == answer.body
                };
                assert!(
                    known.iter().any(same),
                    "{kind:?} {number}: no answer of GatePay's: {answer:?}"
                );
                if !kind.repeats() && says_success(answer) {
                    assert!(executed, "{number}: {answer:?}");
                }
                self.relayed += 1;
            }
            (Some("upstream_unreachable" | "institution_rejected"), Some("not-executed")) => {
                assert!(
                    !executed || kind.repeats(),
                    "{kind:?} {number} was executed: {answer:?}"
                );
                self.not_executed += 1;
            }
            (Some("outcome_unknown"), Some(outcome)) => {
                self.unknown += 1;
                let observed = &answer.json()["data"]["observed"];
                assert_eq!(outcome == "found", observed == "found", "{answer:?}");
                match observed.as_str() {
                    Some("found") => {
                        assert!(executed, "{kind:?} {number}: {answer:?}");
                        self.found += 1;
                    }
                    Some("not_found") => {
                        assert!(!executed, "{kind:?} {number}: {answer:?}");
                        self.not_found += 1;
                    }
                    // The question was lost as well, or the call is a read.
                    _ => {}
                }
            }
            _ => panic!("{kind:?} {number}: {answer:?}"),
        }
    }

    /// Holds the outcome of a relayed answer against the sandbox's books.
    fn judge_outcome(kind: Kind, number: &str, outcome: Option<&str>, executed: bool) {
        match outcome {
            None => assert!(kind.repeats(), "{kind:?} {number}"),
            Some("executed" | "found") => assert!(executed, "{kind:?} {number}: {outcome:?}"),
            Some("refused") => assert!(!executed, "{kind:?} {number} was executed"),
            Some("unknown") => {}
            Some(_) => panic!("{kind:?} {number}: {outcome:?}"),
        }
    }

    /// Asks GatePay itself for every change without the outcome of success: GatePay has exactly the changes it
    /// executed.
    async fn ask_again(&self, answers: &[Answered], gatepay: &GatePay) {
        let proxy = Proxy::before(gatepay)
            .tenant(acme().rate(1_000_000, 1_000_000))
            .start();
        let received = gatepay.received();
        let executed: HashMap<_, _> = received
            .iter()
            .filter_map(|one| Some(((one.operation.as_deref()?, number(one)?), one.executed)))
            .collect();
        let mut connection = proxy.connect().await;
        for (kind, number, answer) in answers {
            let question = match kind {
                Kind::Create => Kind::QueryOrder,
                Kind::Refund => Kind::QueryRefund,
                _ => continue,
            };
            if answer
                .as_ref()
                .is_some_and(|answer| answer.refusal().is_none())
            {
                continue;
            }
            let call = question.call(number, "").request(&gatepay.clock);
            let has = connection.send(call).await.json()["status"] == "SUCCESS";
            let executed = executed.get(&(kind.operation(), number.clone()));
            assert_eq!(has, executed == Some(&true), "{kind:?} {number}");
        }
    }
}

fn says_success(answer: &Answer) -> bool {
    serde_json::from_slice(&answer.body).is_ok_and(|body: Value| body["status"] == "SUCCESS")
}

/// The number a request carries, in its body or its query.
fn number(received: &ReceivedRequest) -> Option<String> {
    if let Some((_, number)) = received.target.split_once("refundRequestId=") {
        return Some(number.to_owned());
    }
    let body: Value = serde_json::from_slice(&received.body).ok()?;
    let number = body
        .get("merchantTradeNo")
        .or(body.get("refundRequestId"))?;
    Some(number.as_str()?.to_owned())
}
