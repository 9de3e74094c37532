//! `find` answers the same from both engines, and looks at no table as a whole.

use std::time::{Duration, Instant};

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_store::admission::{AdmissionRow, AdmissionVerdict};
use gatepay_store::caps::spend::SpendDemand;
use gatepay_store::engine::Store;
use gatepay_store::found::{FoundInStore, FoundSpend};
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_store::notifications::settlement::OpenCall;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::{SqliteSettings, StoreTerms};
use gatepay_store::sqlite::SqliteStore;

use crate::notified::{acme, event};
use crate::postgres::{self, PgServer, until};
use crate::rows::{payout, units_of};
use crate::support::{TERMS, batch, introduction, now_ms, row_at, settings, text};

fn opened(server: &PgServer) -> Store {
    let terms = StoreTerms {
        timeout: Duration::from_secs(30),
        ..TERMS
    };
    Store::Postgres(Box::new(
        PostgresStore::new(&settings(&[server.port]), terms).unwrap(),
    ))
}

/// A refund of acme's without a known outcome, whose order was paid.
async fn told(store: &Store) {
    let tenant = acme(store, "100").await;
    let holder = TenantAccount {
        tenant: "acme".to_owned(),
        account: "100".to_owned(),
    };
    let key = |kind, text| LedgerKey::new(kind, text).unwrap();
    let note = |kind, text, operation: &str| LedgerNote {
        key: key(kind, text),
        holder: holder.clone(),
        at_ms: Some(1),
        operation: operation.to_owned(),
        currency: None,
    };
    let notes = [
        note(LedgerKeyKind::PrepayId, "P-1", "create_order"),
        note(LedgerKeyKind::RefundNumber, "R-1", "refund_order"),
        note(LedgerKeyKind::OrderRefund, "P-1 R-1", "refund_order"),
        note(LedgerKeyKind::OrderRefund, "P-10 R-10", "refund_order"),
    ];
    store
        .note_owners(&notes, LedgerSource::Answer)
        .await
        .unwrap();
    let open = OpenCall {
        call: "request-1".to_owned(),
        holder: holder.clone(),
        operation: "refund_order".to_owned(),
        keys: vec![
            key(LedgerKeyKind::RefundNumber, "R-1"),
            key(LedgerKeyKind::OrderRefund, "P-1 R-1"),
        ],
        closes: false,
    };
    store.note_open_calls(&[open]).await.unwrap();
    store.receive(&[event(&tenant, "P-1")]).await.unwrap();
}

/// The refund's spend, under its order and its number.
fn spend(stamp_ms: u64) -> AdmissionRow {
    let demand = SpendDemand {
        counted_as: "refund_order",
        key: Some(text("P-1 R-1")),
        ..payout(units_of("12.5", &["USDT"]))
    };
    AdmissionRow {
        spend: Some(Box::new(demand)),
        ..row_at(stamp_ms)
    }
}

/// The parts of the answer that do not depend on the clock: kinds of keys, request ids, objects, and spends.
fn parts(found: &FoundInStore) -> (Vec<&str>, Vec<&str>, Vec<&str>, Vec<String>) {
    let kinds = found.holders.iter().map(|(key, _)| key.kind().as_str());
    let calls = found.open_calls.iter().map(|call| call.call.as_str());
    let objects = found.events.iter().map(|(event, _)| event.object.as_str());
    let spends = found.spends.iter();
    let spends = spends.map(|it| format!("{} {}: {}", it.key, it.currency, it.amount));
    (
        kinds.collect(),
        calls.collect(),
        objects.collect(),
        spends.collect(),
    )
}

async fn answers(store: &Store) {
    let [prepay, refund, pair] = [
        LedgerKeyKind::PrepayId,
        LedgerKeyKind::RefundNumber,
        LedgerKeyKind::OrderRefund,
    ]
    .map(LedgerKeyKind::as_str);
    let (calls, spends) = (vec!["request-1"], vec!["P-1 R-1 USDT: 12.5".to_owned()]);
    let event = store.find("P-1").await.unwrap();
    let expected = (
        vec![prepay, pair],
        calls.clone(),
        vec!["P-1"],
        spends.clone(),
    );
    assert_eq!(parts(&event), expected, "a refund by its order");
    let id = event.events[0].0.id.to_string();
    let by_id = store.find(&id).await.unwrap();
    assert_eq!(parts(&by_id), (vec![], vec![], vec!["P-1"], vec![]));
    let by_key = store.find("R-1").await.unwrap();
    let expected = (vec![refund, pair], calls.clone(), vec![], spends.clone());
    assert_eq!(parts(&by_key), expected, "and by its number");
    let by_both = store.find("P-1 R-1").await.unwrap();
    let expected = (vec![pair], calls.clone(), vec![], spends);
    assert_eq!(parts(&by_both), expected, "and by both");
    let by_request = store.find("request-1").await.unwrap();
    assert_eq!(parts(&by_request), (vec![], calls, vec![], vec![]));
    for part in ["P-", "P-1 ", "P-1 R", "-1", "R-", "1"] {
        let found = store.find(part).await.unwrap();
        assert_eq!(found, FoundInStore::default(), "{part}");
    }
}

#[tokio::test]
async fn every_id_of_a_call_finds_its_ledger_rows_open_calls_and_notifications_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SqliteSettings {
        path: folder.path().join("gatepay.db"),
        contact_file: folder.path().join("store.contact"),
    };
    let store = SqliteStore::open(&settings, TERMS).unwrap();
    store.migrate().await.unwrap();
    let store = Store::Sqlite(store);
    store.join(&introduction(1)).await.unwrap();
    told(&store).await;
    loop {
        let reply = store.admit(&batch(&[spend(now_ms())])).await.unwrap();
        match &reply.verdicts[..] {
            [AdmissionVerdict::Admitted] => break,
            // The first guard is not over.
            [AdmissionVerdict::Guarded { .. }] => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    }
    answers(&store).await;
}

/// Fills each table that `find` reads with so many rows.
fn fill(server: &PgServer, rows: u32) {
    server.sql(&format!(
        "INSERT INTO gatepay.event (id, received, kind, object, status, news, body_print, tenant, incarnation, place,
                state, is_changed, body)
            SELECT gatepay.event_id(n), 1, 'PAY', 'bulk ' || n, 'PAY_SUCCESS', int8send(n), int8send(n), 'acme', 1,
                nextval('gatepay.event_place_number'), 'delivered', false, 'x' FROM generate_series(1000, 1000 + {rows}) AS n;
        INSERT INTO gatepay.attempt SELECT e.id, 1, 1, 1, 1, 200, 'acknowledged', '' FROM gatepay.event AS e;
        INSERT INTO gatepay.hint SELECT 'prepayId', 'bulk ' || n, gatepay.event_id(n) FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.owner (kind, key, tenant, account, at, operation, source)
            SELECT 'prepayId', 'bulk ' || n, 'acme', '100', 1, 'create_order', 'answer' FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.owner (kind, key, tenant, account, at, operation, source)
            SELECT 'prepayId+refundRequestId', CASE WHEN n % 10 = 0 THEN 'order' || n || ' same' ELSE 'order' || n || ' bulk ' || n END,
                'acme', '100', 1, 'refund_order', 'call' FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.open_call SELECT 'refundRequestId', 'bulk ' || n, 'acme', '100', 'call ' || n, 'refund_order', false, 1
            FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.spend SELECT 'acme', '100', 'refund_order', 'bulk ' || n, 'USDT', 1.5, 1, 1
            FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.spend SELECT 'acme', '100', 'refund_order', 'order' || n || ' bulk ' || n, 'USDT', 2.5, 1, 1
            FROM generate_series(1, {rows}) AS n;
        INSERT INTO gatepay.spend_attempt SELECT int8send(n), 'acme', '100', 'refund_order', 'bulk ' || n, 1, 1
            FROM generate_series(1, {rows}) AS n;
        ANALYZE"
    ));
}

const TABLES: &str = "('event', 'attempt', 'hint', 'owner', 'open_call', 'spend', 'spend_attempt')";

/// The entries that were read in the indexes of the ledger.
fn ledger_entries(server: &PgServer) -> i64 {
    let statement = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes
        WHERE schemaname = 'gatepay' AND relname = 'owner'";
    server.sql(statement).trim().parse().unwrap()
}

/// The number of times that each table was read as a whole.
fn wholes(server: &PgServer) -> String {
    let statement = format!(
        "SELECT string_agg(relname || ' ' || seq_scan, ', ' ORDER BY relname) FROM pg_stat_user_tables
        WHERE schemaname = 'gatepay' AND relname IN {TABLES}"
    );
    server.sql(&statement).trim().to_owned()
}

fn scans(server: &PgServer, what: &str) -> i64 {
    let statement = format!(
        "SELECT coalesce(sum({what}), 0)::bigint FROM pg_stat_user_tables WHERE schemaname = 'gatepay' AND relname IN {TABLES}"
    );
    server.sql(&statement).trim().parse().unwrap()
}

#[tokio::test]
async fn every_id_finds_the_same_in_a_server_and_no_table_is_scanned() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    told(&store).await;
    server.sql("INSERT INTO gatepay.spend VALUES ('acme', '100', 'refund_order', 'P-1 R-1', 'USDT', 12.5, 1, NULL)");
    fill(&server, 20_000);
    drop(store);
    let store = opened(&server);
    let statistics = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    until("the first connections have reported", || {
        server.sql(statistics).trim() == "1"
    });
    let (sequential, by_index) = (wholes(&server), scans(&server, "idx_scan"));
    let before = ledger_entries(&server);
    answers(&store).await;
    let spent = store.find("bulk 7").await.unwrap();
    let told = |spend: &FoundSpend| (spend.key.clone(), spend.amount.clone(), spend.open_attempts);
    let told: Vec<_> = spent.spends.iter().map(told).collect();
    let expected = [("bulk 7", "1.5", 1), ("order7 bulk 7", "2.5", 0)];
    assert_eq!(
        told,
        expected.map(|(key, amount, open)| (key.to_owned(), amount.to_owned(), open))
    );
    assert_eq!(spent.open_calls[0].call, "call 7");
    assert_eq!(spent.holders.len(), 2);
    let of_order = store.find("order7").await.unwrap();
    assert_eq!(of_order.spends, spent.spends[1..]);
    let many = store.find("same").await.unwrap();
    assert_eq!(many.holders.len(), 100, "of 2,000");
    drop(store);
    until("the connections of find have reported", || {
        server.sql(statistics).trim() == "1" && scans(&server, "idx_scan") > by_index
    });
    assert_eq!(wholes(&server), sequential);
    let read = ledger_entries(&server) - before;
    assert!(read <= 500, "{read} entries are read");
}

#[tokio::test]
async fn an_id_that_many_notifications_name_is_found_by_some_of_them_and_reads_no_body() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    acme(&store, "100").await;
    server.sql(
        "INSERT INTO gatepay.event (id, received, kind, object, status, news, body_print, state, quarantine, is_changed, body)
            SELECT gatepay.event_id(n), 1, 'PAY', 'object ' || n, 'PAY_SUCCESS', int8send(n), int8send(n), 'quarantined',
                'no_holder', false, convert_to(repeat('x', 8192), 'UTF8') FROM generate_series(1, 5000) AS n;
        INSERT INTO gatepay.hint SELECT 'prepayId', 'P-9', e.id FROM gatepay.event AS e;
        ANALYZE",
    );
    drop(store);
    let store = opened(&server);
    let read = |what: &str| -> i64 {
        let statement = format!(
            "SELECT {what} FROM pg_stat_user_tables AS t JOIN pg_statio_user_tables USING (relid)
            WHERE t.relname = 'event'"
        );
        server.sql(&statement).trim().parse().unwrap()
    };
    let statistics = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
    until("the first connections have reported", || {
        server.sql(statistics).trim() == "1"
    });
    let before = ["idx_tup_fetch", "toast_blks_hit + toast_blks_read"].map(read);
    let found = store.find("P-9").await.unwrap();
    assert_eq!(found.events.len(), 100);
    drop(store);
    until("the connections of find have reported", || {
        server.sql(statistics).trim() == "1" && read("idx_tup_fetch") > before[0]
    });
    let [rows, bodies] = ["idx_tup_fetch", "toast_blks_hit + toast_blks_read"].map(read);
    assert!(
        rows - before[0] <= 1_000,
        "{} rows are read",
        rows - before[0]
    );
    assert_eq!(bodies, before[1], "bodies are read");
}

#[tokio::test]
#[ignore = "minutes: ten million records"]
async fn an_id_is_found_within_200_ms_among_ten_million_records() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let store = opened(&server);
    told(&store).await;
    // Nine fillings.
    fill(&server, 1_120_000);
    let told = store.find("P-1").await.unwrap();
    let event = told.events[0].0.id.to_string();
    let bulk = |word: &str| {
        let numbers = (0..100).map(|round| round * 7_001 + 1);
        numbers.map(|number| format!("{word} {number}")).collect()
    };
    let mut slowest_of_all = Duration::ZERO;
    for (kind, ids) in [
        ("an id of GatePay's", vec!["P-1".to_owned(); 100]),
        ("a number of a tenant's", vec!["R-1".to_owned(); 100]),
        ("a notification's id", vec![event; 100]),
        ("a request id", bulk("call")),
        ("a number with a spend", bulk("bulk")),
        (
            "an order with a refund",
            (0..100)
                .map(|n| format!("order{}", n * 7_001 + 1))
                .collect(),
        ),
    ] {
        slowest_of_all = slowest_of_all.max(searched(&store, kind, ids).await);
    }
    assert_eq!(
        store.find("nothing").await.unwrap(),
        FoundInStore::default()
    );
    // The slowest of each has the machine's disk in it, which has just been written to.
    assert!(
        slowest_of_all < Duration::from_millis(200),
        "{slowest_of_all:?}"
    );
}

/// Finds each id. Returns the 99th percentile of the times.
async fn searched(store: &Store, kind: &str, ids: Vec<String>) -> Duration {
    let mut took = Vec::new();
    for id in ids {
        let began = Instant::now();
        assert_ne!(store.find(&id).await.unwrap(), FoundInStore::default());
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let [middle, most, slowest] =
        [50, 99, 100].map(|percent| took[(took.len() * percent).div_ceil(100) - 1]);
    eprintln!(
        "{kind} among 10,010,000 records: median {middle:?}, 99 % {most:?}, slowest {slowest:?} of {}",
        took.len()
    );
    most
}
