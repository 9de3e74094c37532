//! A machine's clock that steps, under a store in a SQLite file.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use crate::cap_steps::{START_MS, beside, rule};
use crate::caps::rule::{CapDeclaration, CapMeasure};
use crate::notifications::listing::RetentionTerms;
use crate::rows::{money_row, payout, units_of};
use crate::sqlite::SqliteStore;
use crate::sqlite::file::StoreFile;
use crate::sqlite::test_files::{self, introduction, migrated};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// A store whose machine's clock the test steps.
struct Stepped {
    store: SqliteStore,
    file: Arc<Mutex<StoreFile>>,
    /// The right time, in milliseconds since the test began.
    passed_ms: i64,
    ahead_ms: i64,
    stamps: u8,
}

impl Stepped {
    async fn start(folder: &tempfile::TempDir) -> Self {
        let (store, file) = migrated(folder).await;
        let mut stepped = Self {
            store,
            file,
            passed_ms: 0,
            ahead_ms: 0,
            stamps: 0,
        };
        stepped.wait(0);
        stepped.store.join(&introduction()).await.unwrap();
        // The first guard ends.
        for _ in 0..60 {
            stepped.wait(1_000);
            stepped.beat().await;
        }
        stepped
    }

    fn right_ms(&self) -> u64 {
        START_MS.saturating_add_signed(self.passed_ms)
    }

    fn wait(&mut self, ms: i64) {
        self.passed_ms += ms;
        let wall_ms = self.right_ms().saturating_add_signed(self.ahead_ms);
        self.file.lock().machine.set = Some((wall_ms, self.passed_ms));
    }

    /// Sets the clock so far ahead of the right one, a second later.
    fn set(&mut self, ahead_ms: i64) {
        self.ahead_ms = ahead_ms;
        self.wait(1_000);
    }

    async fn beat(&self) -> crate::store_clock::StoreTime {
        self.store.beat(&test_files::beat()).await.unwrap().time
    }

    async fn keep_house(&self) {
        let terms = RetentionTerms {
            events: Duration::from_hours(90 * 24),
            attempts: Duration::from_hours(30 * 24),
            owners: Duration::from_hours(400 * 24),
        };
        self.beat().await;
        self.store.age_spends().await.unwrap();
        self.store.age_usage().await.unwrap();
        self.store.retain(&terms).await.unwrap();
    }

    /// A call of the caller's, whose clock is right.
    fn row(&mut self) -> AdmissionRow {
        self.stamps += 1;
        money_row([self.stamps; 16], self.right_ms())
    }

    async fn pay(&mut self, units: &str) -> AdmissionVerdict {
        let row = AdmissionRow {
            spend: Some(Box::new(payout(units_of(units, &["USDT"])))),
            ..self.row()
        };
        self.ask(row).await
    }

    async fn ask(&self, row: AdmissionRow) -> AdmissionVerdict {
        let mut batch = AdmissionBatch::default();
        batch.push(row).unwrap();
        self.store.admit(&batch).await.unwrap().verdicts.remove(0)
    }

    fn number(&self, query: &str) -> i64 {
        let file = self.file.lock();
        let read = file.connection().query_row(query, [], |row| row.get(0));
        read.unwrap()
    }

    fn execute(&self, script: &str) {
        let now_ms = self.right_ms();
        let script = script.replace("NOW", &now_ms.to_string());
        let file = self.file.lock();
        file.connection().execute_batch(&script).unwrap();
    }
}

/// A new row in each table whose rows are deleted for their age.
const AGING: &str = "INSERT INTO nonce VALUES (x'01', NOW, NOW + 480000);
    INSERT INTO meter VALUES ('s', 'n', 'C', 0, NOW / 37500, '1', 1), ('s', 'n', 'C', 1, NOW / 900000, '1', 1);
    INSERT INTO spend VALUES ('p', 'a', 'n', 'k', 'C', '1', NOW, NULL);
    INSERT INTO spend_attempt VALUES (x'01', 'p', 'a', 'n', 'k', NOW, 1, 0);
    INSERT INTO spend_failure VALUES ('p', 'a', 'n', 'k', NOW);
    INSERT INTO approval VALUES (x'01', 'p', 'a', 'n', 'k', x'01', '1', '2', 0, NOW, NOW + 86400000);
    INSERT INTO usage_call (print, party, account, operation, key, once, parts, at)
        VALUES (x'01', 'p', 'a', 'o', 'k', 1, '', NOW);
    INSERT INTO object (tenant, incarnation, kind, object, at) VALUES ('t', 1, 'k', 'o', NOW);
    INSERT INTO attempt VALUES (x'01', 1, NOW, 1, 1, 200, 'o', x'');
    INSERT INTO owner (kind, key, tenant, account, at, operation, source) VALUES ('k', 'k', 't', 'a', NOW, 'o', 'call');
    INSERT INTO open_call VALUES ('k', 'k', 't', 'a', 'c', 'o', 0, NOW);";

const AGED: &str = "SELECT (SELECT count(*) FROM nonce) + (SELECT count(*) FROM meter) + (SELECT count(*) FROM spend)
    + (SELECT count(*) FROM spend_attempt) + (SELECT count(*) FROM spend_failure) + (SELECT count(*) FROM approval)
    + (SELECT count(*) FROM usage_call) + (SELECT count(*) FROM object) + (SELECT count(*) FROM attempt)
    + (SELECT count(*) FROM owner) + (SELECT count(*) FROM open_call)";

#[tokio::test]
async fn a_step_of_the_clock_and_back_deletes_no_row_for_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let mut stepped = Stepped::start(&folder).await;
    stepped.execute(AGING);
    let rows = stepped.number(AGED);
    assert_eq!(rows, 12);
    for step in [25 * HOUR_MS, 365 * DAY_MS, 800 * DAY_MS] {
        for ahead in [step, 0, -step, 0] {
            stepped.set(ahead);
            for _ in 0..2 {
                stepped.keep_house().await;
                stepped.wait(1_000);
            }
            assert_eq!(stepped.number(AGED), rows, "after a step to {ahead} ms");
        }
    }
    let time = stepped.beat().await;
    assert_eq!((time.apart_ms, time.keeps), (0, false));
}

#[tokio::test]
async fn a_step_of_the_clock_makes_no_room_under_a_cap() {
    let folder = tempfile::tempdir().unwrap();
    let mut stepped = Stepped::start(&folder).await;
    let usdt = |measure| rule(beside("acme"), measure, Some("USDT"), "100");
    let declaration = CapDeclaration {
        rules: vec![usdt(CapMeasure::PerHour), usdt(CapMeasure::Per24Hours)],
        ..CapDeclaration::default()
    };
    stepped.store.declare_caps(&declaration, 1).await.unwrap();
    assert_eq!(stepped.pay("99").await, AdmissionVerdict::Admitted);
    for step in [25 * HOUR_MS, 365 * DAY_MS] {
        for ahead in [step, 0] {
            stepped.set(ahead);
            stepped.keep_house().await;
            let second = stepped.pay("2").await;
            let AdmissionVerdict::CapExceeded(breach) = second else {
                panic!("{ahead} ms ahead: {second:?}");
            };
            // By the clock as it stands, within a window.
            let frees_in =
                breach.frees_ms.unwrap() - stepped.right_ms().saturating_add_signed(ahead);
            assert!(frees_in <= 25 * 3_600_000, "{frees_in}");
        }
    }
}

#[tokio::test]
async fn a_nonce_is_not_used_again_after_the_clock_has_stepped() {
    let folder = tempfile::tempdir().unwrap();
    let mut stepped = Stepped::start(&folder).await;
    let nonce = Some([7; 16]);
    let first = AdmissionRow {
        nonce,
        ..stepped.row()
    };
    assert_eq!(stepped.ask(first).await, AdmissionVerdict::Admitted);
    for ahead in [25 * HOUR_MS, 0] {
        stepped.set(ahead);
        stepped.keep_house().await;
        let again = AdmissionRow {
            nonce,
            ..stepped.row()
        };
        let again = stepped.ask(again).await;
        let is_known = matches!(again, AdmissionVerdict::NonceReplayed { .. });
        assert!(is_known, "{ahead} ms ahead: {again:?}");
    }
}

#[tokio::test]
async fn time_that_passes_while_no_process_runs_counts_and_a_long_one_keeps_old_rows_for_a_day() {
    let folder = tempfile::tempdir().unwrap();
    let mut stepped = Stepped::start(&folder).await;
    stepped.execute(AGING);
    stepped.store.leave().await.unwrap();
    stepped.wait(500 * DAY_MS);
    stepped.store.join(&introduction()).await.unwrap();
    let time = stepped.beat().await;
    assert_eq!((time.now_ms, time.apart_ms), (stepped.right_ms(), 0));
    assert!(time.keeps);
    stepped.keep_house().await;
    assert_eq!(stepped.number("SELECT count(*) FROM spend"), 1);
    for _ in 0..=25 * 60 {
        stepped.wait(60_000);
        stepped.beat().await;
    }
    stepped.keep_house().await;
    assert_eq!(stepped.number(AGED), 0);
}

#[tokio::test]
async fn an_operator_accepts_a_clock_that_has_stepped() {
    let folder = tempfile::tempdir().unwrap();
    let mut stepped = Stepped::start(&folder).await;
    stepped.set(-40 * DAY_MS);
    let time = stepped.beat().await;
    assert!(time.keeps && time.apart_ms <= -40 * DAY_MS + 1_000);
    stepped.execute(
        "INSERT INTO endpoint (tenant, incarnation, url, next_at, claimed_until) VALUES ('acme', 1, '', NOW, NOW);
        INSERT INTO line VALUES (1, 1, x'01', NOW)",
    );
    stepped.store.distrust().await.unwrap();
    let wall_ms = stepped.right_ms() - 40 * 86_400_000;
    let time = stepped.store.cluster().await.unwrap().time;
    assert_eq!(
        (time.now_ms, time.apart_ms, time.keeps),
        (wall_ms, 0, false)
    );
    // What was due by the old time is due.
    let due = format!(
        "SELECT count(*) FROM endpoint, line WHERE endpoint.next_at <= {wall_ms}
        AND claimed_until = 0 AND line.next_at <= {wall_ms}"
    );
    assert_eq!(stepped.number(&due), 1);
}
