//! Destinations in PostgreSQL: the function keeps the same lists as the model, and nothing opens earlier than its hold allows.

use gatepay_store::destinations::{
    DestinationBook, DestinationDeclaration, DestinationList, DestinationTimes,
};
use gatepay_store::engine::Store;
use gatepay_store::postgres::PostgresStore;
use gatepay_store::settings::StoreTerms;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio_postgres::NoTls;

use crate::destination_steps::{START_MS, declared, reload_step, run, text};
use crate::postgres::{self, PgServer};
use crate::support::{beat, introduction, settings};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_function_and_the_model_keep_the_same_destinations() {
    if postgres::is_missing() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(PgServer::migrated());
    let settings = settings(&[server.port]);
    let admin = runtime.block_on(async {
        let (admin, connection) = tokio_postgres::connect(&settings.conninfo, NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let faked = "CREATE TABLE gatepay.clock (now bigint); INSERT INTO gatepay.clock VALUES (0);
            CREATE OR REPLACE FUNCTION gatepay.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
                'SELECT now FROM gatepay.clock'";
        admin.batch_execute(faked).await.unwrap();
        admin
    });
    let execute = |statement: &str| runtime.block_on(admin.batch_execute(statement)).unwrap();
    let set_clock = |now_ms: u64| execute(&format!("UPDATE gatepay.clock SET now = {now_ms}"));
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(reload_step(), 1..20);
    let result = runner.run(&sequences, |steps| {
        execute(
            "TRUNCATE gatepay.life, gatepay.instance, gatepay.account_destination, gatepay.account_list,
                gatepay.destination_claim",
        );
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
