//! Statements of a SQLite file.

use crate::cap_steps::START_MS;
use crate::engine::Store;
use crate::sqlite::test_files::{introduction, migrated};
use crate::statement_steps::statements_of_a_few_days;

#[tokio::test]
async fn the_file_makes_exact_statements_of_days_that_do_not_change_after_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let (store, file) = migrated(&folder).await;
    file.lock().now_ms = Some(START_MS);
    store.join(&introduction()).await.unwrap();
    let store = Store::Sqlite(store);
    let set_clock = async |now_ms| file.lock().now_ms = Some(now_ms);
    statements_of_a_few_days(&store, set_clock).await;
}
