//! Sums of caps and lists of destinations in a SQLite file: nothing is left of what was not spent, and neither a report nor a
//! declaration that changes nothing holds up calls.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use crate::cap_steps::{START_MS, beside, rule, text};
use crate::caps::rule::{CapDeclaration, CapMeasure, CapRule, CapScope};
use crate::caps::spend::{AttemptResult, SettledAttempt};
use crate::destination_steps::declared;
use crate::destinations::DestinationDeclaration;
use crate::rows::{self, money_row, units_of};
use crate::sqlite::SqliteStore;
use crate::sqlite::file::StoreFile;
use crate::sqlite::test_files::{introduction, migrated};

const DAY_MS: u64 = 86_400_000;
const NOW_MS: u64 = START_MS + 60_000;

/// A file with caps, and a clock that the test sets.
async fn counted(
    rules: &[CapRule],
    folder: &tempfile::TempDir,
) -> (SqliteStore, Arc<Mutex<StoreFile>>) {
    let (store, file) = migrated(folder).await;
    file.lock().now_ms = Some(START_MS);
    store.join(&introduction()).await.unwrap();
    // After the first guard.
    file.lock().now_ms = Some(NOW_MS);
    let declaration = CapDeclaration {
        rules: rules.to_vec(),
        raise_after_ms: DAY_MS,
        ..CapDeclaration::default()
    };
    store.declare_caps(&declaration, 1).await.unwrap();
    (store, file)
}

fn payout(stamp: u8, currencies: &[String], units: &str) -> AdmissionRow {
    AdmissionRow {
        spend: Some(Box::new(rows::payout(units_of(units, currencies)))),
        ..money_row([stamp; 16], NOW_MS)
    }
}

async fn ask(store: &SqliteStore, row: &AdmissionRow) -> AdmissionVerdict {
    let mut batch = AdmissionBatch::default();
    batch.push(row.clone()).unwrap();
    store.admit(&batch).await.unwrap().verdicts.remove(0)
}

fn number(file: &Mutex<StoreFile>, query: &str) -> i64 {
    let file = file.lock();
    file.connection()
        .query_row(query, [], |row| row.get(0))
        .unwrap()
}

const SUMS: &str = "SELECT count(*) FROM meter";

#[tokio::test]
async fn a_call_that_gatepay_did_not_execute_leaves_no_sums_of_the_currencies_it_named() {
    let all = rule(CapScope::All, CapMeasure::Per24Hours, None, "1000000");
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = counted(&[all], &folder).await;
    let invented: Vec<String> = (0..16).map(|number| format!("X{number}")).collect();
    let row = payout(1, &invented, "1");
    assert_eq!(ask(&store, &row).await, AdmissionVerdict::Admitted);
    assert_eq!(number(&file, SUMS), 16 * 2 * 2);
    let kept = payout(2, &invented[..1], "3");
    assert_eq!(ask(&store, &kept).await, AdmissionVerdict::Admitted);
    let refuted = SettledAttempt {
        stamp: row.stamp,
        result: AttemptResult::NotExecuted,
    };
    store.settle_attempts(&[refuted]).await.unwrap();
    assert_eq!(number(&file, SUMS), 2 * 2, "of the other call");
}

#[tokio::test]
async fn a_clock_that_steps_forward_by_a_day_and_back_forgets_nothing_that_counts() {
    let hour = rule(beside("acme"), CapMeasure::PerHour, Some("USDT"), "100");
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = counted(&[hour], &folder).await;
    let usdt = ["USDT".to_owned()];
    let first = ask(&store, &payout(1, &usdt, "100")).await;
    assert_eq!(first, AdmissionVerdict::Admitted);
    file.lock().now_ms = Some(NOW_MS + DAY_MS);
    store.age_spends().await.unwrap();
    file.lock().now_ms = Some(NOW_MS + 1_000);
    let second = ask(&store, &payout(2, &usdt, "1")).await;
    assert!(
        matches!(second, AdmissionVerdict::CapExceeded(_)),
        "{second:?}"
    );
    file.lock().now_ms = Some(NOW_MS + 5 * DAY_MS);
    store.age_spends().await.unwrap();
    assert_eq!(number(&file, SUMS), 0);
}

#[tokio::test]
async fn a_report_reads_what_caps_need_and_calls_are_admitted_between_its_parts() {
    let rules: Vec<CapRule> = (0..6_400)
        .map(|number| {
            let of = format!("X{number}");
            rule(beside("acme"), CapMeasure::PerHour, Some(&of), "100")
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = counted(&rules, &folder).await;
    let others = format!(
        "WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
        INSERT INTO meter SELECT '100', 'create_payout', 'Y' || n, 0, {NOW_MS} / 37500, '1', 1 FROM n"
    );
    file.lock().connection().execute_batch(&others).unwrap();
    let report = store.cap_facts(None);
    tokio::pin!(report);
    let row = payout(1, &["X1".to_owned()], "1");
    tokio::select! {
        biased;
        facts = &mut report => panic!("the call waits for all of {} sums", facts.unwrap().meters.len()),
        verdict = ask(&store, &row) => assert_eq!(verdict, AdmissionVerdict::Admitted),
    }
    let facts = report.await.unwrap();
    assert!(
        facts.meters.len() <= 2,
        "the call's own, at most: no cap needs the others"
    );
}

#[tokio::test]
async fn a_declaration_writes_what_differs_and_nothing_if_nothing_does() {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = counted(&[], &folder).await;
    let targets: Vec<String> = (0..200).map(|it| format!("user {it}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let mut declaration = DestinationDeclaration::default();
    for account in 0..50 {
        let said = declared(true, DAY_MS, &targets);
        declaration
            .accounts
            .insert(text(&account.to_string()), said);
    }
    let changes = || number(&file, "SELECT total_changes()");
    let commits = || number(&file, "SELECT position FROM cluster");
    store.declare_destinations(&declaration, 1).await.unwrap();
    let (written, committed) = (changes(), commits());
    store.declare_destinations(&declaration, 2).await.unwrap();
    assert_eq!((changes(), commits()), (written, committed));
    let said = declared(true, DAY_MS, &targets[1..]);
    declaration.accounts.insert(text("7"), said);
    store.declare_destinations(&declaration, 3).await.unwrap();
    // The target, the list of its account, and the count of commits.
    assert_eq!(changes() - written, 3);
    assert_eq!(
        store.destinations().await.unwrap().accounts[&text("7")]
            .targets
            .len(),
        199
    );
}
