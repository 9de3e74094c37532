//! Notifications in a SQLite file: the statements answer as the model does.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::engine::Store;
use crate::notification_steps::{NewsEngine, NewsStep, an_account_that_returns, news_step, run};
use crate::sqlite::test_files::migrated;

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
    let sequences = prop::collection::vec(news_step(), 1..steps);
    let trial = |steps: &[NewsStep]| {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = runtime.block_on(migrated(&folder));
        let set_clock = |now_ms: u64| file.lock().now_ms = Some(now_ms);
        let store = Store::Sqlite(store);
        let engine = NewsEngine {
            runtime: &runtime,
            store: &store,
            set_clock: &set_clock,
        };
        run(engine, steps);
    };
    let result = runner.run(&sequences, |steps| {
        trial(&steps);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    trial(&an_account_that_returns());
}

#[test]
fn the_file_and_the_model_agree_about_notifications() {
    agree(40, 60);
}

#[test]
#[ignore = "minutes: the long form of the_file_and_the_model_agree_about_notifications"]
fn the_file_and_the_model_agree_about_notifications_in_many_long_sequences() {
    agree(2_000, 200);
}
