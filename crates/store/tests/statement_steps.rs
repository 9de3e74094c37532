//! A few days of calls, ends, failures and flushes, of which both engines make the same statements. The tests of both engines
//! include this file.

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;
use gatepay_core::notification::StatedAmount;
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::spend::{AttemptResult, SettledAttempt, SettledObject, SpendAmount};
use gatepay_store::engine::Store;
use gatepay_store::engine::statements::{ObjectWord, StatementSubject};
use gatepay_store::statement::account_book::CallUsage;
use gatepay_store::statement::daily_statement::{DailyStatement, LineTotal};
use gatepay_store::statement::usage_flush::{DayBounds, SecondCount, UsageCount, UsageFlush};

use crate::cap_steps::{START_MS, text};
use crate::rows::money_row;

const DAY_MS: u64 = 86_400_000;

/// A call; a money call has its amounts, or none if they cannot be read.
fn call(
    (number, now_ms): (u8, u64),
    operation: &'static str,
    key: Option<&str>,
    amounts: Option<&[(&str, &str)]>,
) -> AdmissionRow {
    let amounts = amounts.map(|amounts| {
        let part = |(currency, amount): &(&str, &str)| SpendAmount {
            currency: CurrencyCode::parse(currency).unwrap(),
            amount: ExactAmount::parse(amount).unwrap(),
        };
        amounts.iter().map(part).collect()
    });
    AdmissionRow {
        operation: operation.into(),
        usage: Some(Box::new(CallUsage {
            key: key.map(text),
            is_once: operation != "create_batch_transfer" && key.is_some(),
            amounts,
        })),
        ..money_row([number; 16], now_ms)
    }
}

async fn admit(store: &Store, row: AdmissionRow) {
    let mut batch = AdmissionBatch::default();
    batch.push(row).unwrap();
    let reply = store.admit(&batch).await.unwrap();
    assert_eq!(reply.verdicts, [AdmissionVerdict::Admitted]);
}

async fn end(store: &Store, number: u8, result: AttemptResult) {
    let stamp = [number; 16];
    let settled = [SettledAttempt { stamp, result }];
    store.settle_attempts(&settled).await.unwrap();
}

fn day(number: u64) -> DayBounds {
    DayBounds {
        date: format!("2026-01-0{}", number + 1),
        begins_ms: START_MS + number * DAY_MS,
        ends_ms: START_MS + (number + 1) * DAY_MS,
    }
}

fn flush(instance: i64, number: i64, days: Vec<DayBounds>, reads: u64) -> UsageFlush {
    UsageFlush {
        instance,
        number,
        is_last: instance == 2,
        counts: vec![UsageCount {
            party: text("acme"),
            account: text("100"),
            operation: "query_order".to_owned(),
            outcome: "success".to_owned(),
            calls: reads,
        }],
        seconds: vec![SecondCount {
            party: text("acme"),
            account: text("100"),
            second: days[0].begins_ms / 1000,
            calls: reads,
        }],
        days,
    }
}

async fn statement(store: &Store, account: &str, date: &str) -> Option<DailyStatement> {
    let subject = StatementSubject {
        party: text("acme"),
        account: Some(text(account)),
        date: date.to_owned(),
    };
    store.statement(&subject).await.unwrap()
}

fn told(total: &LineTotal) -> String {
    let amounts = total.amounts.iter();
    let amounts = amounts.map(|(currency, sum)| format!(" {sum} {currency}"));
    let unread = match total.unread {
        0 => String::new(),
        unread => format!(" {unread} unread"),
    };
    format!("{}{unread}{}", total.calls, amounts.collect::<String>())
}

fn calls(statement: &DailyStatement) -> Vec<String> {
    let lines = statement.calls.iter();
    let lines = lines.map(|(line, total)| {
        let standing = line.standing.as_str();
        format!("{} {standing} {}", line.operation, told(total))
    });
    lines.collect()
}

fn corrections(statement: &DailyStatement) -> Vec<String> {
    let lines = statement.corrections.iter();
    let lines = lines.map(|(line, total)| {
        let (before, now) = (line.before.as_str(), line.now.as_str());
        let operation = &line.operation;
        format!("{} {operation} {before} {now} {}", line.date, told(total))
    });
    lines.collect()
}

/// Drives a store that has joined, and whose clock this sets.
pub(crate) async fn statements_of_a_few_days(store: &Store, set_clock: impl AsyncFn(u64)) {
    use AttemptResult::{Executed, Found, NotExecuted, Unknown};
    let first = START_MS + 60_000;
    set_clock(first).await;
    assert_eq!(statement(store, "100", "2026-01-01").await, None);
    store
        .flush_usage(&flush(1, 1, vec![day(0)], 3))
        .await
        .unwrap();
    let usdt = |amount: &'static str| [("USDT", amount)];
    let at = |number| (number, first);
    let five = usdt("5");
    admit(store, call(at(1), "create_payout", Some("k1"), Some(&five))).await;
    let exact = usdt("7.000000000000000001");
    admit(
        store,
        call(at(2), "create_payout", Some("k2"), Some(&exact)),
    )
    .await;
    admit(store, call(at(3), "create_order", Some("o1"), Some(&[]))).await;
    admit(store, call(at(4), "create_payout", Some("k3"), None)).await;
    let two = [("ETH", "1"), ("USDT", "2")];
    admit(
        store,
        call(at(5), "create_batch_transfer", None, Some(&two)),
    )
    .await;
    admit(store, call(at(6), "create_payout", Some("k6"), Some(&five))).await;
    for (number, result) in [
        (1, Executed),
        (3, Found),
        (4, NotExecuted),
        (5, Unknown),
        (1, NotExecuted),
    ] {
        end(store, number, result).await;
    }
    store
        .flush_usage(&flush(2, 1, vec![day(0)], 4))
        .await
        .unwrap();
    // A flush that is told again changes nothing.
    store
        .flush_usage(&flush(2, 1, vec![day(0)], 4))
        .await
        .unwrap();
    let open = statement(store, "100", "2026-01-01").await.unwrap();
    let first_day = [
        "create_batch_transfer unknown 1 1 ETH 2 USDT",
        "create_order executed 1",
        "create_payout executed 1 5 USDT",
        "create_payout refused 1 1 unread",
        "create_payout unknown 2 12.000000000000000001 USDT",
    ];
    assert_eq!(calls(&open), first_day);
    assert_eq!((open.counts.len(), open.counts[0].calls), (1, 7));
    assert_eq!(open.peak, Some((7, START_MS / 1000)), "over both instances");
    assert_eq!(
        calls(&statement(store, "200", "2026-01-01").await.unwrap()),
        [""; 0]
    );

    second_day(store, &set_clock, first_day).await;
    other_time_zones(store, &set_clock).await;
    failures(store, &set_clock).await;
    numbers_without_a_documented_key(store, &set_clock).await;
    unknown_calls(store, &set_clock).await;
    an_operator(store, &set_clock).await;
    many_calls_under_one_key(store, &set_clock).await;
    amounts_that_differ(store, &set_clock).await;
    amounts_that_gatepay_states(store, &set_clock).await;
    two_parties_of_one_account(store, &set_clock).await;
}

/// GatePay's word that an object has failed.
fn failed(operations: &[&str], key: &str, amount: &str, decided_ms: u64) -> ObjectWord {
    let word = stands(operations, key, decided_ms);
    let amount = StatedAmount {
        currency: None,
        amount: ExactAmount::parse(amount).unwrap(),
    };
    ObjectWord {
        object: SettledObject {
            stands: false,
            amounts: vec![amount],
            ..word.object
        },
        ..word
    }
}

/// GatePay's word that it has an object.
fn stands(operations: &[&str], key: &str, decided_ms: u64) -> ObjectWord {
    ObjectWord {
        object: SettledObject {
            party: text("acme"),
            account: text("100"),
            counted_as: Vec::new(),
            key: text(key),
            stands: true,
            amounts: Vec::new(),
            decided_ms,
        },
        operations: operations.iter().map(ToString::to_string).collect(),
        is_whole: false,
    }
}

/// GatePay's word that it has an object of these amounts and no others.
fn states(operation: &str, key: &str, amounts: &[(&str, &str)], decided_ms: u64) -> ObjectWord {
    let word = stands(&[operation], key, decided_ms);
    let amount = |(currency, amount): &(&str, &str)| StatedAmount {
        currency: CurrencyCode::parse(currency),
        amount: ExactAmount::parse(amount).unwrap(),
    };
    ObjectWord {
        object: SettledObject {
            amounts: amounts.iter().map(amount).collect(),
            ..word.object
        },
        is_whole: true,
        ..word
    }
}

/// The last moment of the day, and the next day.
async fn second_day(store: &Store, set_clock: &impl AsyncFn(u64), first_day: [&str; 5]) {
    use AttemptResult::{Executed, Found};
    let usdt = |amount: &'static str| [("USDT", amount)];
    let five = usdt("5");
    set_clock(START_MS + DAY_MS - 1).await;
    let last = (7, START_MS + DAY_MS - 1);
    admit(store, call(last, "create_order", Some("o2"), Some(&[]))).await;
    let second = START_MS + DAY_MS;
    set_clock(second).await;
    end(store, 7, Executed).await;
    set_clock(second + 5_000).await;
    store
        .flush_usage(&flush(1, 2, vec![day(1)], 1))
        .await
        .unwrap();
    let closed = statement(store, "100", "2026-01-01").await.unwrap();
    let expected = [
        &first_day[..2],
        &["create_order unknown 1"],
        &first_day[2..],
    ];
    assert_eq!(calls(&closed), expected.concat());

    let again = (8, second + 5_000);
    admit(store, call(again, "create_payout", Some("k1"), Some(&five))).await;
    end(store, 8, Executed).await;
    end(store, 2, Executed).await;
    // The tenant repeats a call without a known end, and GatePay has it: one of the two is the transaction.
    let repeated = (9, second + 5_000);
    admit(
        store,
        call(repeated, "create_payout", Some("k6"), Some(&five)),
    )
    .await;
    end(store, 9, Found).await;
    set_clock(second + 6_000).await;
    let failed = failed(&["create_payout"], "k1", "5", second + 6_000);
    store.settle_usage(&failed).await.unwrap();
    store.settle_usage(&failed).await.unwrap();
    let today = statement(store, "100", "2026-01-02").await.unwrap();
    let now = [
        "create_payout executed 1 5 USDT",
        "create_payout repeated 1 5 USDT",
    ];
    assert_eq!(calls(&today), now);
    let corrected = [
        "2026-01-01 create_order unknown executed 1",
        "2026-01-01 create_payout executed failed 1 5 USDT",
        "2026-01-01 create_payout unknown executed 1 7.000000000000000001 USDT",
        "2026-01-01 create_payout unknown repeated 1 5 USDT",
    ];
    assert_eq!(corrections(&today), corrected);
    let later = statement(store, "100", "2026-01-01").await.unwrap();
    let seen_at = later.now_ms;
    assert_eq!(
        later,
        DailyStatement {
            now_ms: seen_at,
            losses_ms: later.losses_ms.clone(),
            ..closed
        }
    );
}

/// The days from a time on in a zone that is so many hours ahead of UTC.
fn days_in(ahead: i64, now_ms: u64) -> Vec<DayBounds> {
    let shift = ahead * 3_600_000;
    let today = now_ms.checked_add_signed(shift).unwrap() - START_MS;
    let days = (0..3).map(|later| {
        let number = today / DAY_MS + later;
        let begins = START_MS + number * DAY_MS;
        DayBounds {
            date: format!("2026-01-{:02}", number + 1),
            begins_ms: begins.checked_add_signed(-shift).unwrap(),
            ends_ms: (begins + DAY_MS).checked_add_signed(-shift).unwrap(),
        }
    });
    days.collect()
}

/// The last day, in hours since the start.
async fn last_day(store: &Store) -> (String, i64, i64) {
    let days = store.statement_days().await.unwrap();
    let hours = |ms: u64| i64::try_from((ms - START_MS) / 3_600_000).unwrap();
    for pair in days.windows(2) {
        assert!(pair[0].ends_ms <= pair[1].begins_ms && pair[0].date < pair[1].date);
    }
    let last = days.last().unwrap();
    (
        last.date.clone(),
        hours(last.begins_ms),
        hours(last.ends_ms),
    )
}

/// Days go on where the last one has ended. No date comes twice, and none is left out.
async fn other_time_zones(store: &Store, set_clock: &impl AsyncFn(u64)) {
    let at = |hours: u64| START_MS + hours * 3_600_000 + 1_000;
    let mut number = 10;
    let mut tell = async |ahead: i64, hours: u64| {
        set_clock(at(hours)).await;
        number += 1;
        let told = flush(1, number, days_in(ahead, at(hours)), 1);
        store.flush_usage(&told).await.unwrap();
        last_day(store).await
    };
    let day = |date: &str, begins: i64, ends: i64| (format!("2026-01-{date}"), begins, ends);
    // Five hours to the west: there it is still the date of the day that has ended.
    assert_eq!(tell(-5, 48).await, day("03", 48, 77));
    assert_eq!(tell(-5, 60).await, day("03", 48, 77));
    assert_eq!(tell(-5, 77).await, day("04", 77, 101));
    // Fourteen hours to the east.
    assert_eq!(tell(9, 101).await, day("05", 101, 111));
    assert_eq!(tell(9, 111).await, day("06", 111, 135));
    // From the furthest east to the furthest west.
    assert_eq!(tell(14, 135).await, day("07", 135, 154));
    assert_eq!(tell(-12, 154).await, day("08", 154, 204));
    assert_eq!(tell(0, 204).await, day("09", 204, 216));
    // An instance with a slow clock does not begin a day that has ended.
    set_clock(at(216)).await;
    let slow = flush(1, 30, days_in(0, at(215)), 1);
    store.flush_usage(&slow).await.unwrap();
    assert_eq!(last_day(store).await, day("10", 216, 240));
    // Nothing serves for two days.
    assert_eq!(
        tell_later(store, set_clock, 31, at(290)).await,
        day("13", 288, 312)
    );
    // The same, but a call was admitted just before its process was killed.
    set_clock(at(330)).await;
    let lost = call(
        (90, at(330)),
        "create_payout",
        Some("k90"),
        Some(&[("USDT", "3")]),
    );
    admit(store, lost).await;
    end(store, 90, AttemptResult::Executed).await;
    assert_eq!(
        tell_later(store, set_clock, 32, at(365)).await,
        day("16", 312, 384)
    );
    let found = statement(store, "100", "2026-01-16").await.unwrap();
    assert_eq!(calls(&found), ["create_payout executed 1 3 USDT"]);
}

async fn tell_later(
    store: &Store,
    set_clock: &impl AsyncFn(u64),
    number: i64,
    now_ms: u64,
) -> (String, i64, i64) {
    set_clock(now_ms).await;
    let told = flush(1, number, days_in(0, now_ms), 1);
    store.flush_usage(&told).await.unwrap();
    last_day(store).await
}

/// Begins a day of its own for the calls of a test.
async fn open_day(store: &Store, set_clock: &impl AsyncFn(u64), date: u64) -> (u64, String) {
    let now_ms = START_MS + (date - 1) * DAY_MS + 3_600_000;
    let number = i64::try_from(date).unwrap() + 100;
    tell_later(store, set_clock, number, now_ms).await;
    (now_ms, format!("2026-01-{date:02}"))
}

/// A failure is taken only if it is certain whose it is, and once.
async fn failures(store: &Store, set_clock: &impl AsyncFn(u64)) {
    use AttemptResult::{Executed, NotExecuted};
    let (now, date) = open_day(store, set_clock, 17).await;
    let refunds = ["refund_order", "refund_order_v2"];
    let five = [("USDT", "5")];
    let make = async |number: u8, operation, key, after_ms: u64, result| {
        set_clock(now + after_ms).await;
        let made = call((number, now + after_ms), operation, Some(key), Some(&five));
        admit(store, made).await;
        end(store, number, result).await;
    };
    let say = async |word: ObjectWord| store.settle_usage(&word).await.unwrap();
    let told = async || calls(&statement(store, "100", &date).await.unwrap());

    make(20, "refund_order", "r1", 0, Executed).await;
    say(failed(&refunds, "r1", "7", now + 1_000)).await;
    say(failed(&refunds, "r1", "5", now - 1)).await;
    assert_eq!(
        told().await,
        ["refund_order executed 1 5 USDT"],
        "another amount, or before"
    );
    say(failed(&refunds, "r1", "5", now + 1_000)).await;
    assert_eq!(told().await, ["refund_order failed 1 5 USDT"]);
    // The tenant repeats the refund, and GatePay the failure.
    make(21, "refund_order", "r1", 2_000, Executed).await;
    say(failed(&refunds, "r1", "5", now + 3_000)).await;
    let again = [
        "refund_order executed 1 5 USDT",
        "refund_order failed 1 5 USDT",
    ];
    assert_eq!(told().await, again);

    // Two operations have an object under the number, and the failure may be that of either.
    make(22, "refund_order", "r2", 3_000, Executed).await;
    make(23, "refund_order_v2", "r2", 3_000, Executed).await;
    say(failed(&refunds, "r2", "5", now + 4_000)).await;
    // One of them was refused.
    make(24, "refund_order", "r3", 3_000, NotExecuted).await;
    make(25, "refund_order_v2", "r3", 3_000, Executed).await;
    say(failed(&refunds, "r3", "5", now + 4_000)).await;
    let both = [
        "refund_order executed 2 10 USDT",
        "refund_order failed 1 5 USDT",
        "refund_order refused 1 5 USDT",
        "refund_order_v2 executed 1 5 USDT",
        "refund_order_v2 failed 1 5 USDT",
    ];
    assert_eq!(told().await, both);

    // The failure is learned late: a call after GatePay's decision has made another object.
    let (now, date) = open_day(store, set_clock, 18).await;
    let told = async || calls(&statement(store, "100", &date).await.unwrap());
    for (number, after_ms) in [(26, 0), (27, 10_000)] {
        set_clock(now + after_ms).await;
        let made = call(
            (number, now + after_ms),
            "refund_order",
            Some("r4"),
            Some(&five),
        );
        admit(store, made).await;
        end(store, number, Executed).await;
    }
    set_clock(now + 20_000).await;
    say(failed(&refunds, "r4", "5", now + 5_000)).await;
    assert_eq!(told().await, again);
    // A whole order has no readable amount, so that the failure may be that of another one.
    let whole = call((28, now + 20_000), "refund_order", Some("r5"), None);
    admit(store, whole).await;
    end(store, 28, Executed).await;
    say(failed(&refunds, "r5", "5", now + 21_000)).await;
    assert_eq!(told().await[0], "refund_order executed 2 1 unread 5 USDT");
}

/// Where each call may be one of its own, GatePay's word on a number proves one of them.
async fn numbers_without_a_documented_key(store: &Store, set_clock: &impl AsyncFn(u64)) {
    use AttemptResult::{Executed, NotExecuted, Unknown};
    let batches = ["create_batch_transfer"];
    let one = [("USDT", "1")];
    let (now, date) = open_day(store, set_clock, 19).await;
    let told = async || calls(&statement(store, "100", &date).await.unwrap());
    for (number, key) in [(30, "b1"), (31, "b1"), (32, "b2"), (33, "b2")] {
        let made = call(
            (number, now),
            "create_batch_transfer",
            Some(key),
            Some(&one),
        );
        admit(store, made).await;
        end(store, number, Unknown).await;
    }
    for _ in 0..2 {
        let word = stands(&batches, "b1", now + 1_000);
        store.settle_usage(&word).await.unwrap();
        let found = [
            "create_batch_transfer executed 1 1 USDT",
            "create_batch_transfer unknown 3 3 USDT",
        ];
        assert_eq!(told().await, found);
    }
    // The word may have been about the other one, whose answer comes now.
    end(store, 31, Executed).await;
    let other = [
        "create_batch_transfer executed 1 1 USDT",
        "create_batch_transfer unknown 3 3 USDT",
    ];
    assert_eq!(told().await, other);
    end(store, 30, Executed).await;
    let word = stands(&batches, "b2", now + 1_000);
    store.settle_usage(&word).await.unwrap();
    end(store, 32, NotExecuted).await;
    let all = [
        "create_batch_transfer executed 2 2 USDT",
        "create_batch_transfer refused 1 1 USDT",
        "create_batch_transfer unknown 1 1 USDT",
    ];
    assert_eq!(told().await, all);
    let failure = failed(&batches, "b1", "1", now + 2_000);
    store.settle_usage(&failure).await.unwrap();
    assert_eq!(
        told().await,
        all,
        "which of the two has failed is not certain"
    );

    // A call's own end of the next day is a correction.
    let (now, date) = open_day(store, set_clock, 20).await;
    end(store, 33, Executed).await;
    set_clock(now + 1_000).await;
    let next = statement(store, "100", &date).await.unwrap();
    let corrected = ["2026-01-19 create_batch_transfer unknown executed 1 1 USDT"];
    assert_eq!(corrections(&next), corrected);
}

/// Of calls under one key with different amounts that one counts which GatePay accepted by its own answer, in whatever order the
/// ends are learned.
async fn amounts_that_differ(store: &Store, set_clock: &impl AsyncFn(u64)) {
    use AttemptResult::{Executed, Found, NotExecuted};
    let (now, date) = open_day(store, set_clock, 26).await;
    let (nine, cent) = ([("USDT", "9")], [("USDT", "0.01")]);
    let told = async || calls(&statement(store, "100", &date).await.unwrap());
    // The ends are learned at one time: the stamps are in both orders.
    for (key, big, small) in [("d1", 100, 101), ("d2", 103, 102)] {
        for (number, amount) in [(big, &nine), (small, &cent)] {
            let made = call((number, now), "create_payout", Some(key), Some(amount));
            admit(store, made).await;
        }
        let ends = [(small, Found), (big, Executed)].map(|(number, result)| SettledAttempt {
            stamp: [number; 16],
            result,
        });
        store.settle_attempts(&ends).await.unwrap();
    }
    let both = [
        "create_payout executed 2 18 USDT",
        "create_payout repeated 2 0.02 USDT",
    ];
    assert_eq!(told().await, both);
    // The small one is found first, and so long it is all that is known.
    let (now, date) = open_day(store, set_clock, 27).await;
    let told = async || calls(&statement(store, "100", &date).await.unwrap());
    for (number, amount) in [(104, &nine), (105, &cent)] {
        let made = call((number, now), "create_payout", Some("d3"), Some(amount));
        admit(store, made).await;
    }
    end(store, 105, Found).await;
    let small = [
        "create_payout executed 1 0.01 USDT",
        "create_payout repeated 1 9 USDT",
    ];
    assert_eq!(told().await, small);
    // Both are found by a notification, then GatePay's own answers come: one on the next day.
    for (number, amount) in [(106, &cent), (107, &nine)] {
        let made = call((number, now), "create_payout", Some("d4"), Some(amount));
        admit(store, made).await;
    }
    let word = stands(&["create_payout"], "d4", now + 1_000);
    store.settle_usage(&word).await.unwrap();
    end(store, 106, NotExecuted).await;
    set_clock(now + 1_000).await;
    let found = [
        "create_payout executed 2 9.01 USDT",
        "create_payout repeated 1 9 USDT",
        "create_payout refused 1 0.01 USDT",
    ];
    assert_eq!(told().await, found);
    let (now, date) = open_day(store, set_clock, 28).await;
    end(store, 104, Executed).await;
    end(store, 107, Executed).await;
    set_clock(now + 1_000).await;
    let next = statement(store, "100", &date).await.unwrap();
    let corrected = [
        "2026-01-27 create_payout executed repeated 1 0.01 USDT",
        "2026-01-27 create_payout repeated executed 1 9 USDT",
    ];
    assert_eq!(corrections(&next), corrected);
}

/// A key is unique for its sub-account: what two parties have sent under is one transaction, and counts where it was known first.
async fn two_parties_of_one_account(store: &Store, set_clock: &impl AsyncFn(u64)) {
    use AttemptResult::{Executed, Found, NotExecuted, Unknown};
    let (now, date) = open_day(store, set_clock, 28).await;
    let five = [("USDT", "5")];
    let at = async |ms: u64| set_clock(now + ms).await;
    let make = async |number: u8, party: &str, account: &str, key: &str, admitted_ms: u64| {
        let made = (number, now + admitted_ms);
        let made = AdmissionRow {
            party: text(party),
            account: text(account),
            ..call(made, "refund_order", Some(key), Some(&five))
        };
        admit(store, made).await;
    };
    let told = async |party: &str, date: &str| {
        let subject = StatementSubject {
            party: text(party),
            account: Some(text("300")),
            date: date.to_owned(),
        };
        store.statement(&subject).await.unwrap().unwrap()
    };
    let lines = async |party: &str| calls(&told(party, &date).await);
    make(130, "shop", "300", "P f1", 0).await;
    make(131, "till", "300", "P f1", 0).await;
    end(store, 130, Executed).await;
    assert_eq!(lines("till").await, ["refund_order unknown 1 5 USDT"]);
    at(1_000).await;
    end(store, 131, Executed).await;
    let one = ["refund_order executed 1 5 USDT"];
    let other = ["refund_order repeated 1 5 USDT"];
    assert_eq!(lines("shop").await, one);
    assert_eq!(lines("till").await, other);
    // Another sub-account's key is another one.
    make(132, "till", "301", "P f1", 1_000).await;
    end(store, 132, Executed).await;
    assert_eq!(lines("shop").await, one);
    // One that was only found is known first, and counts; so does one beside a refused call.
    make(133, "shop", "300", "P f2", 1_000).await;
    make(134, "till", "300", "P f2", 1_000).await;
    make(135, "shop", "300", "P f3", 1_000).await;
    make(136, "till", "300", "P f3", 1_000).await;
    end(store, 133, Found).await;
    end(store, 135, NotExecuted).await;
    at(2_000).await;
    end(store, 136, Executed).await;
    end(store, 134, Unknown).await;
    let one = [
        "refund_order executed 2 10 USDT",
        "refund_order refused 1 5 USDT",
    ];
    assert_eq!(lines("shop").await, one);
    let other = [
        "refund_order executed 1 5 USDT",
        "refund_order repeated 1 5 USDT",
        "refund_order unknown 1 5 USDT",
    ];
    assert_eq!(lines("till").await, other);
    // After the refund has failed, another one under the key is another transaction.
    let word = failed(&["refund_order"], "P f1", "5", now + 3_000);
    let object = SettledObject {
        party: text("shop"),
        account: text("300"),
        ..word.object
    };
    at(4_000).await;
    let word = ObjectWord { object, ..word };
    store.settle_usage(&word).await.unwrap();
    at(5_000).await;
    make(137, "till", "300", "P f1", 5_000).await;
    at(6_000).await;
    assert_eq!(lines("till").await[2], "refund_order unknown 2 10 USDT");
    end(store, 137, Executed).await;
    let again = [
        "refund_order executed 2 10 USDT",
        "refund_order repeated 1 5 USDT",
        "refund_order unknown 1 5 USDT",
    ];
    assert_eq!(lines("till").await, again);
    let failed = [
        "refund_order executed 1 5 USDT",
        "refund_order failed 1 5 USDT",
        "refund_order refused 1 5 USDT",
    ];
    assert_eq!(lines("shop").await, failed);
    // What is learned on the next day is a correction, of one party alone.
    let (next, tomorrow) = open_day(store, set_clock, 29).await;
    set_clock(next + 1_000).await;
    let closed = lines("shop").await;
    end(store, 134, Executed).await;
    set_clock(next + 2_000).await;
    assert_eq!(lines("shop").await, closed);
    let corrected = corrections(&told("till", &tomorrow).await);
    // The shop was known to have it before, by its key alone.
    assert_eq!(
        corrected,
        ["2026-01-28 refund_order unknown repeated 1 5 USDT"]
    );
}

/// Of calls under one key with different amounts that one is executed whose amounts GatePay states of the object.
async fn amounts_that_gatepay_states(store: &Store, set_clock: &impl AsyncFn(u64)) {
    use AttemptResult::{Executed, Unknown};
    let (now, date) = open_day(store, set_clock, 28).await;
    let (nine, cent) = ([("USDT", "9")], [("USDT", "0.01")]);
    let told = async || calls(&statement(store, "100", &date).await.unwrap());
    let make = async |number: u8, operation, key, amounts: Option<&[(&str, &str)]>| {
        admit(store, call((number, now), operation, Some(key), amounts)).await;
        end(store, number, Unknown).await;
    };
    let say = async |word: ObjectWord| store.settle_usage(&word).await.unwrap();
    let pay = "create_payout";
    let decided = now + 1_000;

    // The stamps are in both orders.
    for (key, big, small) in [("e1", 110, 111), ("e2", 113, 112)] {
        make(big, pay, key, Some(&nine)).await;
        make(small, pay, key, Some(&cent)).await;
        for _ in 0..2 {
            let is_other = say(states(pay, key, &[("USDT", "9.00")], decided)).await;
            assert!(!is_other, "{key}");
        }
    }
    let first = [
        "create_payout executed 2 18 USDT",
        "create_payout repeated 2 0.02 USDT",
    ];
    assert_eq!(told().await, first);
    // Both were found without amounts before.
    make(114, pay, "e3", Some(&nine)).await;
    make(115, pay, "e3", Some(&cent)).await;
    say(stands(&[pay], "e3", decided)).await;
    say(states(pay, "e3", &cent, decided)).await;
    let second = [
        "create_payout executed 3 18.01 USDT",
        "create_payout repeated 3 9.02 USDT",
    ];
    assert_eq!(told().await, second);
    // The one that GatePay has accepted is known. Another one asked for more than GatePay states.
    admit(store, call((116, now), pay, Some("e4"), Some(&nine))).await;
    end(store, 116, Executed).await;
    make(117, pay, "e4", Some(&[("ETH", "1"), ("USDT", "9")])).await;
    assert!(!say(states(pay, "e4", &nine, decided)).await);
    // No call is known that asked for what GatePay states.
    make(118, pay, "e5", Some(&nine)).await;
    assert!(
        say(states(
            pay,
            "e5",
            &[("USDT", "9.000000000000000001")],
            decided
        ))
        .await
    );
    assert!(say(states(pay, "e5", &[("ETH", "9")], decided)).await);
    assert!(
        !say(states(pay, "e5", &nine, now - 1)).await,
        "decided before"
    );
    let third = [
        "create_payout executed 4 27.01 USDT",
        "create_payout repeated 4 1 ETH 18.02 USDT",
        "create_payout unknown 1 9 USDT",
    ];
    assert_eq!(told().await, third);
    // A call whose own amounts cannot be read may be the one.
    make(119, pay, "e5", None).await;
    assert!(say(states(pay, "e5", &cent, decided)).await);
    assert_eq!(
        told().await[0],
        "create_payout executed 5 1 unread 27.01 USDT"
    );
    // Where each call may be one of its own, the word is about one that asked for it.
    let batch = "create_batch_transfer";
    make(120, batch, "e6", Some(&nine)).await;
    make(121, batch, "e6", Some(&cent)).await;
    make(122, batch, "e6", Some(&cent)).await;
    for _ in 0..2 {
        say(states(batch, "e6", &cent, decided)).await;
    }
    let each = [
        "create_batch_transfer executed 1 0.01 USDT",
        "create_batch_transfer unknown 2 9.01 USDT",
    ];
    assert_eq!(told().await[..2], each);
}

async fn unknown_calls(store: &Store, set_clock: &impl AsyncFn(u64)) {
    let (now, _) = open_day(store, set_clock, 21).await;
    for (number, operation, key) in [
        (40, "create_order", Some("u1")),
        (41, "create_order", Some("u2")),
        (42, "create_order", None),
        (43, "save_plan", Some("u3")),
        (44, "create_order", Some("u4")),
    ] {
        set_clock(now + u64::from(number) * 1_000).await;
        let made = (number, now + u64::from(number) * 1_000);
        admit(store, call(made, operation, key, Some(&[]))).await;
    }
    end(store, 44, AttemptResult::Executed).await;
    let asked = async |most| {
        let unknown = store.unknown_calls(&["create_order"], most).await.unwrap();
        let keys = unknown.iter().map(|it| it.key.as_str().to_owned());
        keys.filter(|key| key.starts_with('u')).collect::<Vec<_>>()
    };
    assert_eq!(asked(9).await, [""; 0], "their instance may still know");
    set_clock(now + 200_000).await;
    assert_eq!(asked(9).await, ["u2", "u1"], "the newest first");
    assert_eq!(asked(1).await, ["u2"]);
    // Another party has more than are told at once, all of them newer.
    for number in 230..235 {
        let made = call(
            (number, now + 200_000),
            ["create_order", "create_payout"][usize::from(number % 2)],
            Some(&format!("u{number}")),
            Some(&[]),
        );
        let party = text("globex");
        admit(store, AdmissionRow { party, ..made }).await;
    }
    set_clock(now + 400_000).await;
    let operations = ["create_order", "create_payout"];
    let unknown = store.unknown_calls(&operations, 5).await.unwrap();
    let unknown = unknown.iter().map(|it| it.key.as_str());
    assert_eq!(
        unknown.collect::<Vec<_>>(),
        ["u230", "u2", "u231", "u1", "u232"],
        "those of each party in turn"
    );
    assert_eq!(
        store.usage_losses(DAY_MS).await.unwrap(),
        1,
        "one flushes no more"
    );
    assert_eq!(store.usage_losses(100_000).await.unwrap(), 0);
}

/// Calls for two sub-accounts under one number are two transactions.
async fn an_operator(store: &Store, set_clock: &impl AsyncFn(u64)) {
    let (now, date) = open_day(store, set_clock, 22).await;
    for (number, account) in [(50, "100"), (51, "200")] {
        let made = call(
            (number, now),
            "create_transfer",
            Some("t"),
            Some(&[("USDT", "1")]),
        );
        let made = AdmissionRow {
            party: text("backoffice"),
            account: text(account),
            ..made
        };
        admit(store, made).await;
        end(store, number, AttemptResult::Executed).await;
    }
    let subject = StatementSubject {
        party: text("backoffice"),
        account: None,
        date,
    };
    set_clock(now + 1_000).await;
    let told = store.statement(&subject).await.unwrap().unwrap();
    let lines = told.calls.iter();
    let lines: Vec<(&str, &str, u64)> = lines
        .map(|(line, total)| (&*line.account, line.standing.as_str(), total.calls))
        .collect();
    assert_eq!(lines, [("100", "executed", 1), ("200", "executed", 1)]);
}

/// More calls than a page has, on two days: the first that is known counts, whichever page it is on.
async fn many_calls_under_one_key(store: &Store, set_clock: &impl AsyncFn(u64)) {
    const MANY: u32 = 1_300;
    let stamp = |number: u32| {
        let mut stamp = [77; 16];
        stamp[..4].copy_from_slice(&number.to_be_bytes());
        stamp
    };
    let (now, first) = open_day(store, set_clock, 23).await;
    let rows = (0..MANY).map(|number| AdmissionRow {
        stamp: stamp(number),
        ..call(
            (0, now),
            "create_payout",
            Some("many"),
            Some(&[("USDT", "2")]),
        )
    });
    let rows: Vec<AdmissionRow> = rows.collect();
    for some in rows.chunks(200) {
        let mut batch = AdmissionBatch::default();
        for row in some {
            batch.push(row.clone()).unwrap();
        }
        store.admit(&batch).await.unwrap();
    }
    set_clock(now + 1_000).await;
    let one = SettledAttempt {
        stamp: stamp(700),
        result: AttemptResult::Executed,
    };
    let (now, second) = open_day(store, set_clock, 24).await;
    store.settle_attempts(&[one]).await.unwrap();
    set_clock(now + 1_000).await;
    let before = statement(store, "100", &first).await.unwrap();
    assert_eq!(calls(&before), ["create_payout unknown 1300 2600 USDT"]);
    let after = statement(store, "100", &second).await.unwrap();
    let corrected = [
        "2026-01-23 create_payout unknown executed 1 2 USDT",
        "2026-01-23 create_payout unknown repeated 1299 2598 USDT",
    ];
    assert_eq!(corrections(&after), corrected);
    let rest: Vec<SettledAttempt> = (0..MANY)
        .map(|number| SettledAttempt {
            stamp: stamp(number),
            result: AttemptResult::Executed,
        })
        .collect();
    let (now, third) = open_day(store, set_clock, 25).await;
    store.settle_attempts(&rest).await.unwrap();
    set_clock(now + 1_000).await;
    let after = statement(store, "100", &third).await.unwrap();
    assert_eq!(corrections(&after), [""; 0], "they stay repetitions");
}
