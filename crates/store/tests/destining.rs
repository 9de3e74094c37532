//! Destinations in PostgreSQL: the function keeps the same lists as the model, and nothing opens earlier than its hold allows.

use gatepay_store::admission::HaltScope;
use gatepay_store::destinations::{
    DestinationBook, DestinationDeclaration, DestinationList, DestinationTimes,
};
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cap_steps::{START_MS, text};
use crate::clocked::Clocked;
use crate::destination_steps::{declared, reload_step, run};
use crate::failover::rejoins;
use crate::postgres::{self, PgServer};
use crate::support::{beat, connected, introduction, runtime, settings};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_function_and_the_model_keep_the_same_destinations() {
    if postgres::is_missing() {
        return;
    }
    let runtime = runtime();
    let clocked = runtime.block_on(Clocked::start());
    let settings = settings(&[clocked.server.port]);
    let empty = "TRUNCATE gatepay.life, gatepay.instance, gatepay.account_destination, gatepay.account_list,
        gatepay.destination_claim";
    let set_clock = |now_ms: u64| runtime.block_on(clocked.set(now_ms));
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(reload_step(), 1..20);
    let result = runner.run(&sequences, |steps| {
        runtime
            .block_on(clocked.admin.batch_execute(empty))
            .unwrap();
        set_clock(START_MS);
        let stores = [1, 2].map(|id| {
            let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
            runtime.block_on(store.join(&introduction(id))).unwrap();
            Store::Postgres(Box::new(store))
        });
        let beat = |place: usize| {
            runtime.block_on(stores[place].beat(&beat())).unwrap();
        };
        run(&runtime, &stores, (&set_clock, &beat), &steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// A list, and the time.
#[derive(Default)]
struct Listed {
    book: DestinationBook,
    now_ms: u64,
}

impl Listed {
    fn after(&mut self, hours: u64, is_listed: bool, hold_hours: u64, targets: &[&str]) {
        self.now_ms += hours * HOUR_MS;
        let mut declaration = DestinationDeclaration::default();
        let said = declared(is_listed, hold_hours * HOUR_MS, targets);
        declaration.accounts.insert(text("100"), said);
        self.book.declare(&declaration, self.now_ms);
    }

    fn list(&self) -> &DestinationList {
        &self.book.accounts[&text("100")]
    }

    /// The hour from which on a destination is usable.
    fn usable_from(&self, target: &str) -> u64 {
        let times: DestinationTimes = self.list().targets[&text(target)];
        times.usable_from_ms / HOUR_MS
    }
}

#[test]
fn a_new_destination_waits_and_one_that_comes_again_waits_anew() {
    let mut listed = Listed::default();
    listed.after(0, true, 24, &["a"]);
    listed.after(3, true, 24, &["a", "b"]);
    assert_eq!((listed.usable_from("a"), listed.usable_from("b")), (24, 27));
    listed.after(27, true, 24, &["a"]);
    assert_eq!(listed.list().targets.len(), 1);
    listed.after(1, true, 24, &["a", "b"]);
    assert_eq!((listed.usable_from("a"), listed.usable_from("b")), (24, 55));
}

#[test]
fn a_shorter_hold_opens_nothing_that_the_longer_one_kept_closed() {
    let mut listed = Listed::default();
    listed.after(0, true, 24, &["a"]);
    listed.after(1, true, 0, &["a", "b"]);
    assert_eq!((listed.usable_from("a"), listed.usable_from("b")), (24, 25));
    // The shorter one holds once the longer one would have passed.
    listed.after(23, true, 0, &["a", "b", "c"]);
    assert_eq!(listed.usable_from("c"), 48);
    listed.after(1, true, 0, &["a", "b", "c", "d"]);
    assert_eq!((listed.usable_from("c"), listed.usable_from("d")), (48, 25));
    // A longer one holds at once for targets that still wait.
    listed.after(1, true, 48, &["a", "b", "c", "d"]);
    assert_eq!((listed.usable_from("c"), listed.usable_from("d")), (72, 25));
}

#[test]
fn a_list_that_is_no_longer_configured_ends_after_its_hold() {
    let mut listed = Listed::default();
    listed.after(0, true, 24, &["a"]);
    listed.after(30, false, 0, &["a"]);
    let at = |hour| hour * HOUR_MS;
    assert!(listed.list().is_listed_at(at(54) - 1));
    assert!(!listed.list().is_listed_at(at(54)));
    assert_eq!(listed.usable_from("a"), 24);
    // The holds of listed targets are counted meanwhile, so that a list can begin without a pause.
    listed.after(30, false, 24, &["a", "b"]);
    assert!(!listed.list().is_listed_at(listed.now_ms));
    listed.after(24, true, 24, &["a", "b"]);
    assert!(listed.list().is_listed_at(listed.now_ms));
    assert_eq!(listed.usable_from("b"), 84);
}

/// Sub-accounts with twenty targets each, all in lists.
fn long_lists(accounts: u32) -> DestinationDeclaration {
    let targets: Vec<String> = (0..20).map(|it| format!("user {it}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let said = declared(true, HOUR_MS, &targets);
    let accounts = (0..accounts).map(|number| (text(&number.to_string()), said.clone()));
    DestinationDeclaration {
        accounts: accounts.collect(),
    }
}

/// Three instances with the time limits of a default configuration declare the same lists, and one of them leaves. Returns how
/// many rows of claims were read and how many rows of lists were written after the first declaration.
async fn declared_by_three(accounts: u32) -> (i64, i64) {
    let server = PgServer::migrated().await;
    let settings = settings(&[server.port]);
    let admin = connected(&server).await;
    let declaration = long_lists(accounts);
    let targets = 20 * accounts as usize;
    let mut stores = Vec::new();
    for id in 1..=3 {
        let store = PostgresStore::new(&settings, StoreTerms::default()).unwrap();
        store.join(&introduction(id)).await.unwrap();
        let store = Store::Postgres(Box::new(store));
        store.declare_destinations(&declaration, 1).await.unwrap();
        assert_eq!(store.destination_epoch().await.unwrap(), 1, "of the first");
        stores.push(store);
    }
    let book = stores[0].destinations().await.unwrap();
    let kept = book.accounts.values().map(|list| list.targets.len());
    assert_eq!(kept.sum::<usize>(), targets);
    stores.pop().unwrap().leave().await.unwrap();
    for store in &stores {
        store.declare_destinations(&declaration, 2).await.unwrap();
        assert!(store.destinations_stand(2).await.unwrap());
        assert_eq!(store.destination_epoch().await.unwrap(), 1);
    }
    // Late, and older than the one that stands.
    let none = DestinationDeclaration::default();
    stores[0].declare_destinations(&none, 1).await.unwrap();
    assert!(stores[0].destinations_stand(2).await.unwrap());
    assert_eq!(stores[0].destinations().await.unwrap(), book);
    drop(stores);
    // A session that ends tells the server what it has read and written.
    let connected =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatepay-proxy'";
    while admin
        .query_one(connected, &[])
        .await
        .unwrap()
        .get::<_, i64>(0)
        > 0
    {
        tokio::task::yield_now().await;
    }
    let counts = "SELECT
            sum(seq_tup_read) FILTER (WHERE relname = 'destination_claim')::bigint,
            sum(n_tup_ins + n_tup_upd + n_tup_del) FILTER (WHERE relname <> 'destination_claim')::bigint
        FROM pg_stat_user_tables WHERE relname IN ('destination_claim', 'account_list', 'account_destination')";
    let counts = admin.query_one(counts, &[]).await.unwrap();
    let written = counts.get::<_, i64>(1) - i64::try_from(targets).unwrap() - i64::from(accounts);
    (counts.get(0), written)
}

#[tokio::test]
async fn a_declaration_reads_each_claim_a_few_times_and_writes_only_what_changes() {
    if postgres::is_missing() {
        return;
    }
    let (read, written) = declared_by_three(50).await;
    assert!(read < 100, "{read} claims read");
    assert_eq!(written, 0);
}

#[tokio::test]
#[ignore = "a minute: the long form of a_declaration_reads_each_claim_a_few_times_and_writes_only_what_changes"]
async fn a_hundred_thousand_destinations_are_declared_by_every_instance() {
    let began = std::time::Instant::now();
    let (read, written) = declared_by_three(5_000).await;
    eprintln!(
        "five declarations of 100,000 destinations: {:?}",
        began.elapsed()
    );
    assert!(read < 100, "{read} claims read");
    assert_eq!(written, 0);
}

#[tokio::test]
async fn a_declaration_may_take_longer_than_a_call_that_requests_wait_for() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let settings = settings(&[server.port]);
    let admin = connected(&server).await;
    let terms = StoreTerms {
        timeout: std::time::Duration::from_millis(500),
        ..StoreTerms::default()
    };
    let store = PostgresStore::new(&settings, terms).unwrap();
    rejoins(&store, 1).await;
    let store = Store::Postgres(Box::new(store));
    let locked =
        "BEGIN; LOCK TABLE gatepay.account_list, gatepay.halt_proposal IN ACCESS EXCLUSIVE MODE";
    admin.batch_execute(locked).await.unwrap();
    let declaration = long_lists(1);
    let declaring = store.declare_destinations(&declaration, 1);
    tokio::pin!(declaring);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while admin.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::select! {
            biased;
            done = &mut declaring => panic!("{done:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    // This call begins later, waits for the same transaction, and has the limit of all calls.
    let scope = HaltScope::parse("all");
    let other = store.propose_resume(&scope, 1, "alice");
    tokio::select! {
        biased;
        done = &mut declaring => panic!("{done:?}"),
        ended = other => assert!(matches!(ended, Err(StoreError::TimedOut(500))), "{ended:?}"),
    }
    admin.batch_execute("COMMIT").await.unwrap();
    declaring.await.unwrap();
    assert!(store.destinations_stand(1).await.unwrap());
}
