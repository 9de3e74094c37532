//! Money caps in a SQLite file: the statements answer as the model does.

use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cap_steps::{CapEngine, CapStep, START_MS, cap_step, run};
use crate::destination_steps::{self, reload_step};
use crate::engine::Store;
use crate::instance::{InstanceBeat, InstanceIntroduction};
use crate::settings::{SqliteSettings, StoreTerms};
use crate::sqlite::SqliteStore;
use crate::sqlite::file::StoreFile;

fn migrated(
    runtime: &tokio::runtime::Runtime,
    folder: &tempfile::TempDir,
) -> (SqliteStore, Arc<Mutex<StoreFile>>) {
    let settings = SqliteSettings {
        path: folder.path().join("gatepay.db"),
        contact_file: folder.path().join("store.contact"),
    };
    let store = SqliteStore::open(&settings, StoreTerms::default()).unwrap();
    runtime.block_on(store.migrate()).unwrap();
    let file = Arc::clone(&store.file);
    (store, file)
}

fn trial(runtime: &tokio::runtime::Runtime, steps: &[CapStep]) {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = migrated(runtime, &folder);
    let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
    set_clock(START_MS);
    let introduction = InstanceIntroduction {
        host: "machine".to_owned(),
        id: 1,
        version: "1".to_owned(),
        config_hash: "c".to_owned(),
        past_ms: 300_000,
        uncovered: false,
    };
    runtime.block_on(store.join(&introduction)).unwrap();
    let stores = [Store::Sqlite(store)];
    let sign = InstanceBeat {
        config_hash: "c".to_owned(),
        journal_head: None,
        halt_epoch: 0,
        bodyless: false,
        known_halts: Vec::new(),
    };
    let beat = |place: usize| {
        runtime.block_on(stores[place].beat(&sign)).unwrap();
    };
    let engine = CapEngine {
        runtime,
        stores: &stores,
        set_clock: &set_clock,
        beat: &beat,
    };
    run(engine, steps);
}

fn agree(cases: u32, steps: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
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
fn the_file_and_the_model_keep_the_same_destinations() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let sequences = prop::collection::vec(reload_step(), 1..20);
    let result = runner.run(&sequences, |steps| {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = migrated(&runtime, &folder);
        let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
        destination_steps::run(&runtime, &Store::Sqlite(store), &set_clock, &steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[ignore = "minutes: the long form of the_file_and_the_model_agree_about_caps_and_keep_them"]
fn the_file_and_the_model_agree_about_caps_in_many_long_sequences() {
    agree(3_000, 200);
}
