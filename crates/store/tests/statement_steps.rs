//! A few days of calls, ends, failures and flushes, of which both engines make the same statements. The tests of both engines
//! include this file.

use gatepay_core::Kind;
use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict, StoredText};
use gatepay_store::caps::spend::{AttemptResult, SettledAttempt, SpendAmount};
use gatepay_store::engine::Store;
use gatepay_store::engine::statements::{StatementSubject, UsageSettlement};
use gatepay_store::statement::account_book::CallUsage;
use gatepay_store::statement::daily_statement::{DailyStatement, LineTotal};
use gatepay_store::statement::usage_flush::{DayBounds, SecondCount, UsageCount, UsageFlush};

pub(crate) const START_MS: u64 = 1_767_225_600_000;
const DAY_MS: u64 = 86_400_000;

fn text(text: &str) -> StoredText {
    StoredText::parse(text).unwrap()
}

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
        stamp: [number; 16],
        nonce: None,
        stamp_ms: now_ms,
        party: text("acme"),
        account: text("100"),
        kind: Kind::Money,
        module: "payout",
        operation: operation.into(),
        has_body: true,
        intents: Vec::new(),
        spend: None,
        usage: Some(Box::new(CallUsage {
            key: key.map(text),
            is_once: operation == "create_payout" && key.is_some(),
            amounts,
        })),
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

fn flush(instance: i64, number: i64, day: DayBounds, reads: u64) -> UsageFlush {
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
            second: day.begins_ms / 1000,
            calls: reads,
        }],
        day,
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
    store.flush_usage(&flush(1, 1, day(0), 3)).await.unwrap();
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
    store.flush_usage(&flush(2, 1, day(0), 4)).await.unwrap();
    // A flush that is told again changes nothing.
    store.flush_usage(&flush(2, 1, day(0), 4)).await.unwrap();
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
    another_time_zone(store, &set_clock).await;
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
    store.flush_usage(&flush(1, 2, day(1), 1)).await.unwrap();
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
    let failed = UsageSettlement {
        party: text("acme"),
        account: text("100"),
        operations: vec!["create_payout"],
        key: text("k1"),
        has_failed: true,
        decided_ms: second + 6_000,
    };
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

/// Days go on where the last one has ended.
async fn another_time_zone(store: &Store, set_clock: &impl AsyncFn(u64)) {
    set_clock(START_MS + 2 * DAY_MS + 1_000).await;
    let west = DayBounds {
        ends_ms: START_MS + 2 * DAY_MS + 5_000,
        ..day(1)
    };
    store.flush_usage(&flush(1, 3, west, 1)).await.unwrap();
    let days = store.statement_days().await.unwrap();
    let third = DayBounds {
        ends_ms: START_MS + 2 * DAY_MS + 5_000,
        ..day(2)
    };
    assert_eq!(days, [day(0), day(1), third]);
}
