//! Money caps in a SQLite file: the statements answer as the model does.

use std::fs;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use crate::cap_steps::{
    CapEngine, CapStep, START_MS, beside, cap_step, crowd, rule, run, standstill, text, told,
};
use crate::caps::approval::{ApprovalOrder, ApprovalSubject};
use crate::caps::rule::{CapDeclaration, CapMeasure};
use crate::caps::spend::SpendDemand;
use crate::destination_steps::{self, reload_step};
use crate::engine::Store;
use crate::operator_steps;
use crate::refund_steps;
use crate::rows::{money_row, payout, units_of};
use crate::settings::StoreTerms;
use crate::sqlite::SqliteStore;
use crate::sqlite::test_files::{self, introduction, migrated, settings};

fn trial(runtime: &tokio::runtime::Runtime, steps: &[CapStep]) {
    on_a_file(runtime, |engine| run(engine, steps));
}

/// Hands an empty file to a trial.
fn on_a_file(runtime: &tokio::runtime::Runtime, trial: impl FnOnce(CapEngine<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = runtime.block_on(migrated(&folder));
    let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
    set_clock(START_MS);
    runtime.block_on(store.join(&introduction())).unwrap();
    let stores = [Store::Sqlite(store)];
    let sign = test_files::beat();
    let beat = |place: usize| {
        runtime.block_on(stores[place].beat(&sign)).unwrap();
    };
    trial(CapEngine {
        runtime,
        stores: &stores,
        set_clock: &set_clock,
        beat: &beat,
    });
}

fn agree(cases: u32, steps: usize) {
    let runtime = runtime();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(cap_step(), 1..steps);
    let result = runner.run(&sequences, |steps| {
        trial(&runtime, &steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_file_and_the_model_agree_about_caps_and_keep_them() {
    agree(40, 150);
}

#[test]
fn a_party_has_a_bounded_number_of_approvals_that_wait() {
    let runtime = runtime();
    on_a_file(&runtime, crowd);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_signature_is_for_the_changes_that_waited_when_it_was_given_and_from_the_same_limits() {
    on_a_file(&runtime(), operator_steps::raises_that_come_back);
}

#[test]
fn an_older_declaration_that_was_overtaken_changes_nothing() {
    on_a_file(&runtime(), standstill);
}

#[test]
fn a_refund_of_an_order_whose_currency_the_file_does_not_know_passes_no_cap() {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = runtime.block_on(migrated(&folder));
    let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
    set_clock(START_MS);
    runtime.block_on(store.join(&introduction())).unwrap();
    let stores = [Store::Sqlite(store)];
    let stamps = refund_steps::refunds_of_orders(CapEngine {
        runtime: &runtime,
        stores: &stores,
        set_clock: &set_clock,
        beat: &|_place| (),
    });
    let file = file.lock();
    let told = stamps.map(|stamp| {
        let parts = "SELECT parts FROM usage_call WHERE print = ?1";
        let parts = file
            .connection()
            .query_row(parts, [&stamp[..]], |row| row.get::<_, String>(0));
        parts.unwrap()
    });
    assert_eq!(told, ["?", "USDT=7.5"]);
}

#[test]
fn an_order_has_the_first_currency_that_is_stated_and_none_once_statements_differ() {
    on_a_file(&runtime(), refund_steps::currencies_of_orders);
}

#[test]
fn the_id_of_an_approval_names_one_call_though_another_stamp_begins_alike() {
    on_a_file(&runtime(), operator_steps::stamps_that_begin_alike);
}

#[tokio::test]
async fn an_approval_of_a_copy_that_was_put_back_lets_no_call_pass() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&folder);
    let open = async |now_ms: u64| {
        let store = SqliteStore::open(&settings, StoreTerms::default()).unwrap();
        store.file.lock().now_ms = Some(now_ms);
        store.migrate().await.unwrap();
        store.join(&introduction()).await.unwrap();
        store
    };
    let ask = async |store: &SqliteStore, stamp: u8, now_ms: u64| {
        store.file.lock().now_ms = Some(now_ms);
        let mut batch = AdmissionBatch::default();
        batch.push(payment(stamp, now_ms)).unwrap();
        store.admit(&batch).await.unwrap().verdicts.remove(0)
    };
    let needed = |verdict| match verdict {
        AdmissionVerdict::ApprovalRequired(demand) => demand.id.unwrap(),
        other => panic!("{other:?}"),
    };
    let store = open(START_MS).await;
    let declaration = CapDeclaration {
        rules: vec![rule(
            beside("acme"),
            CapMeasure::ApproveAbove,
            Some("USDT"),
            "10",
        )],
        midnights: vec![START_MS],
        raise_after_ms: 0,
        approvers: 1,
    };
    store.declare_caps(&declaration, 1).await.unwrap();
    let id = needed(ask(&store, 1, START_MS + 60_000).await);
    let signed = store.approve((id, &[7; 32]), &text("alice"), 1).await;
    assert_eq!(signed.unwrap(), ApprovalOrder::Taken);
    store.leave().await.unwrap();
    drop(store);
    let copy = fs::read(&settings.path).unwrap();

    let store = open(START_MS + 70_000).await;
    let passed = ask(&store, 2, START_MS + 70_000).await;
    assert_eq!(passed, AdmissionVerdict::Admitted);
    store.leave().await.unwrap();
    drop(store);

    fs::write(&settings.path, copy).unwrap();
    let store = open(START_MS + 80_000).await;
    store.distrust().await.unwrap();
    assert_ne!(needed(ask(&store, 3, START_MS + 120_000).await), id);
    let signed = store.approve((id, &[7; 32]), &text("bob"), 1).await;
    assert_eq!(signed.unwrap(), ApprovalOrder::Closed);
}

/// A call of 11 USDT under a key.
fn payment(stamp: u8, now_ms: u64) -> AdmissionRow {
    let spend = SpendDemand {
        key: Some(text("k")),
        approval: Some(ApprovalSubject {
            body_sha256: [7; 32],
            amounts: told("11 USDT"),
            targets: told("address ETH 0xa"),
        }),
        ..payout(units_of("11", &["USDT"]))
    };
    AdmissionRow {
        spend: Some(Box::new(spend)),
        ..money_row([stamp; 16], now_ms)
    }
}

#[test]
fn the_file_and_the_model_keep_the_same_destinations() {
    let runtime = runtime();
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(reload_step(), 1..20);
    let result = runner.run(&sequences, |steps| {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = runtime.block_on(migrated(&folder));
        let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
        let beat = |_place: usize| ();
        let stores = [Store::Sqlite(store)];
        destination_steps::run(&runtime, &stores, (&set_clock, &beat), &steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[ignore = "minutes: the long form of the_file_and_the_model_agree_about_caps_and_keep_them"]
fn the_file_and_the_model_agree_about_caps_in_many_long_sequences() {
    agree(3_000, 200);
}
