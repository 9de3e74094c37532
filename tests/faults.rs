//! Every connection to GatePay breaks at some byte. The stated outcome must be true every time.

use crate::support::*;
use gatepay_sandbox::{ReceivedRequest, SandboxConfig};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The number of concurrent callers: breaks that stall last as long as the deadline, so callers share that time.
const CALLERS: usize = 64;
/// The number of digits in each number is fixed, so that every call is as long as the first.
const DIGITS: usize = 7;

/// A call that is repeated, each time with a number of its own.
#[derive(Clone, Copy)]
struct Case {
    operation: &'static str,
    path: &'static str,
    /// The field that has the number.
    key: &'static str,
    repeats: bool,
    body: fn(order: &str, number: &str) -> String,
}

const CREATE_ORDER: Case = Case {
    operation: "create_order",
    path: CREATE,
    key: "merchantTradeNo",
    repeats: false,
    body: |_, number| order(number),
};
const REFUND_ORDER: Case = Case {
    operation: "refund_order",
    path: REFUND,
    key: "refundRequestId",
    repeats: false,
    body: |order, number| {
        format!(r#"{{"refundRequestId":"{number}","prepayId":"{order}","refundAmount":"0.01"}}"#)
    },
};
const QUERY_ORDER: Case = Case {
    operation: "query_order",
    path: QUERY,
    key: "merchantTradeNo",
    repeats: true,
    body: |_, number| format!(r#"{{"merchantTradeNo":"{number}"}}"#),
};

/// The protocol of the connection to GatePay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Plain,
    Tls,
}

impl Wire {
    fn gatepay(self) -> GatePay {
        let remember = |config: &mut SandboxConfig| config.record = 1_000_000;
        match self {
            Self::Plain => GatePay::with(remember),
            Self::Tls => GatePay::secured(remember),
        }
    }

    fn proxy(self, relay: &Relay, gatepay: &GatePay) -> Plan {
        let port = relay.address().port();
        match self {
            Self::Plain => Proxy::at(&format!("http://127.0.0.1:{port}"), &gatepay.clock),
            Self::Tls => Proxy::at(&format!("https://localhost:{port}"), &gatepay.clock)
                .with(|settings| settings.upstream.ca = Some(CERTIFICATE.into())),
        }
    }
}

#[tokio::test]
async fn an_answer_is_true_wherever_a_connection_breaks() {
    // Every 101st byte (over TLS every 331st), and the borders. The next test breaks at every byte.
    for (case, wire, every) in [
        (CREATE_ORDER, Wire::Plain, 101),
        (REFUND_ORDER, Wire::Plain, 101),
        (QUERY_ORDER, Wire::Plain, 101),
        (REFUND_ORDER, Wire::Tls, 331),
    ] {
        let report = break_everywhere(case, wire, every, Duration::from_secs(3)).await;
        println!("{report}");
    }
}

#[tokio::test]
#[ignore = "takes three minutes: breaks at every byte of request and answer"]
async fn an_answer_is_true_wherever_a_connection_breaks_at_every_byte() {
    for (case, wire) in [
        (CREATE_ORDER, Wire::Plain),
        (REFUND_ORDER, Wire::Plain),
        (QUERY_ORDER, Wire::Plain),
        (REFUND_ORDER, Wire::Tls),
    ] {
        let report = break_everywhere(case, wire, 1, Duration::from_secs(1)).await;
        println!("{report}");
    }
}

/// Breaks connections at every `every`th byte of two exchanges, in every way, and holds each answer against the
/// sandbox's books.
async fn break_everywhere(case: Case, wire: Wire, every: usize, deadline: Duration) -> String {
    let gatepay = wire.gatepay();
    let (paid, lengths) = measure(case, wire, &gatepay).await;
    let relay = Arc::new(Relay::before(gatepay.sandbox.address()));
    let proxy = wire
        .proxy(&relay, &gatepay)
        .tenant(acme().rate(1_000_000, 1_000_000))
        .with(move |settings| {
            settings.upstream.deadline = deadline;
            // A single pool, so that a connection with a planned break in its second exchange has a second exchange.
            settings.listen.threads = Some(1.try_into().unwrap());
        })
        .start();

    let plan = breaks(lengths, every);
    let planned = plan.len();
    relay.plan(plan);
    gatepay.sandbox.clear();
    let before = gatepay.cents();
    let begun = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (address, clock) = (proxy.address(), proxy.clock.clone());
        let (relay, begun, paid) = (Arc::clone(&relay), Arc::clone(&begun), paid.clone());
        callers.spawn(async move {
            let mut answers = Vec::new();
            let mut connection = Connection::open(address).await;
            while relay.struck() < planned {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                assert!(number < 40 * planned + 4_000, "breaks that nobody meets");
                let number = format!("N-{number:0DIGITS$}");
                let call = acme().post(case.path, (case.body)(&paid, &number));
                let answer = connection.send(call.request(&clock)).await;
                answers.push((number, answer));
            }
            answers
        });
    }
    let answers = callers.join_all().await.concat();
    let calls = answers.len();
    proxy.stop().await;
    until("all connections are over", || relay.is_quiet()).await;
    if case.operation == REFUND_ORDER.operation {
        until("each refund took one cent, once", || {
            before - gatepay.cents() == gatepay.executed()
        })
        .await;
    }

    let mut known: HashMap<String, Vec<ReceivedRequest>> = HashMap::new();
    for received in gatepay.received() {
        if received.operation.as_deref() == Some(case.operation)
            && let Ok(body) = serde_json::from_slice::<serde_json::Value>(&received.body)
        {
            let number = body[case.key].as_str().unwrap().to_owned();
            known.entry(number).or_default().push(received);
        }
    }
    let executed = known.values().flatten().filter(|one| one.executed).count();
    let mut tally = Tally::default();
    for (number, answer) in &answers {
        let known = known.remove(number).unwrap_or_default();
        tally.judge(case, number, answer, &known);
    }
    assert!(
        known.is_empty(),
        "GatePay was asked what nobody asked: {known:?}"
    );
    if !case.repeats && wire == Wire::Plain {
        // This holds also for calls that never arrived whole: a call has one beginning, or a statement that it had
        // none.
        let line = format!("POST {PREFIX}{} HTTP/1.1\r\n", case.path);
        let begun = relay.occurrences(line.as_bytes());
        assert!(
            begun <= calls - tally.not_executed,
            "{begun} of {calls}: {tally:?}"
        );
        assert!(begun >= executed);
    }
    // A break makes at most one answer unknown; every other answer came from GatePay.
    assert!(tally.unknown <= planned, "{tally:?}");
    let name = case.operation;
    format!("{name} {wire:?}: {planned} breaks, {calls} calls, {executed} executed, {tally:?}")
}

/// The callers' answers.
#[derive(Debug, Default)]
struct Tally {
    relayed: usize,
    not_executed: usize,
    unknown: usize,
}

impl Tally {
    /// Holds one answer against all that arrived of its call.
    fn judge(&mut self, case: Case, number: &str, answer: &Answer, known: &[ReceivedRequest]) {
        if !case.repeats {
            assert!(known.len() <= 1, "{number} was sent {} times", known.len());
        }
        let executed = known.iter().any(|one| one.executed);
        match (answer.refusal(), answer.outcome()) {
            (None, outcome) => {
                let said = (!case.repeats).then_some(if executed { "executed" } else { "refused" });
                assert_eq!(outcome, said, "{number}: {answer:?}");
                let same = |one: &ReceivedRequest| {
                    one.answer_status == Some(answer.status) && one.answer_body == answer.body
                };
                assert!(
                    known.iter().any(same),
                    "{number}: no answer of GatePay's: {answer:?}"
                );
                self.relayed += 1;
            }
            (Some("upstream_unreachable"), Some("not-executed")) => {
                assert!(!executed, "{number} was executed: {answer:?}");
                self.not_executed += 1;
            }
            (Some("outcome_unknown"), Some("unknown")) => self.unknown += 1,
            _ => panic!("{number}: {answer:?}"),
        }
    }
}

/// Breaks over the length of two exchanges, in both directions.
fn breaks((asked, answered): (usize, usize), every: usize) -> Vec<Break> {
    let mut all = Vec::new();
    for (way, length) in [(Way::Asked, asked), (Way::Answered, answered)] {
        let mut places: Vec<usize> = (0..=2 * length).step_by(every).collect();
        places.extend([
            1,
            length - 1,
            length,
            length + 1,
            2 * length - 1,
            2 * length,
        ]);
        places.sort_unstable();
        places.dedup();
        for at in places {
            all.extend(EVERY_HOW.map(|how| Break { way, at, how }));
        }
    }
    all
}

/// An order that can be refunded many times, and the length in bytes of the call and of its answer on the wire.
async fn measure(case: Case, wire: Wire, gatepay: &GatePay) -> (String, (usize, usize)) {
    let relay = Relay::before(gatepay.sandbox.address());
    let proxy = wire.proxy(&relay, gatepay).start();
    let paid = gatepay.paid_order(&proxy).await;
    proxy.stop().await;

    let relay = Relay::before(gatepay.sandbox.address());
    let proxy = wire.proxy(&relay, gatepay).start();
    let number = format!("T-{:0DIGITS$}", 1);
    let call = acme().post(case.path, (case.body)(&paid, &number));
    assert_eq!(proxy.send(call).await.refusal(), None);
    proxy.stop().await;
    until("the connection is over", || relay.is_quiet()).await;
    (paid, relay.lengths().unwrap())
}
