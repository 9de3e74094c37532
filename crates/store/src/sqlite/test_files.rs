//! SQLite files for tests.

use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::instance::{InstanceBeat, InstanceIntroduction};
use crate::settings::{SqliteSettings, StoreTerms};
use crate::sqlite::SqliteStore;
use crate::sqlite::file::StoreFile;

/// The places of a store in this folder.
pub(super) fn settings(folder: &TempDir) -> SqliteSettings {
    SqliteSettings {
        path: folder.path().join("gatepay.db"),
        contact_file: folder.path().join("store.contact"),
    }
}

/// A migrated store that has not joined, and its file, whose clock the test sets.
pub(super) async fn migrated(folder: &TempDir) -> (SqliteStore, Arc<Mutex<StoreFile>>) {
    let store = SqliteStore::open(&settings(folder), StoreTerms::default()).unwrap();
    store.migrate().await.unwrap();
    let file = Arc::clone(&store.file);
    (store, file)
}

/// A sign of life that knows of no halts.
pub(super) fn beat() -> InstanceBeat {
    InstanceBeat {
        config_hash: "c".to_owned(),
        journal_head: None,
        halt_epoch: 0,
        bodyless: false,
        known_halts: Vec::new(),
    }
}

/// The only instance of a file.
pub(super) fn introduction() -> InstanceIntroduction {
    InstanceIntroduction {
        host: "machine".to_owned(),
        id: 1,
        version: "1".to_owned(),
        config_hash: "c".to_owned(),
        past_ms: 300_000,
        uncovered: false,
    }
}
