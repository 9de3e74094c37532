//! Statements of a SQLite file.

use std::sync::Arc;

use crate::engine::Store;
use crate::instance::InstanceIntroduction;
use crate::settings::{SqliteSettings, StoreTerms};
use crate::sqlite::SqliteStore;
use crate::statement_steps::{START_MS, statements_of_a_few_days};

#[tokio::test]
async fn the_file_makes_exact_statements_of_days_that_do_not_change_after_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SqliteSettings {
        path: folder.path().join("gatepay.db"),
        contact_file: folder.path().join("store.contact"),
    };
    let store = SqliteStore::open(&settings, StoreTerms::default()).unwrap();
    store.migrate().await.unwrap();
    let file = Arc::clone(&store.file);
    file.lock().now_ms = Some(START_MS);
    let introduction = InstanceIntroduction {
        host: "machine".to_owned(),
        id: 1,
        version: "1".to_owned(),
        config_hash: "c".to_owned(),
        past_ms: 300_000,
        uncovered: false,
    };
    store.join(&introduction).await.unwrap();
    let store = Store::Sqlite(store);
    let set_clock = async |now_ms| file.lock().now_ms = Some(now_ms);
    statements_of_a_few_days(&store, set_clock).await;
}
