//! Whatever lies under the store's names at a start, and whatever happens to it meanwhile: nothing is admitted twice, and
//! nothing is lost unnoticed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use gatepay_core::Kind;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict};
use crate::error::StoreError;
use crate::rows::money_row;
use crate::settings::StoreTerms;
use crate::sqlite::SqliteStore;
use crate::sqlite::test_files::{self, introduction};

/// The file, its log and the contact file.
const NAMES: [&str; 3] = ["gatepay.db", "gatepay.db-wal", "store.contact"];
/// More than a guard lasts.
const PAUSE_MS: u64 = 12_000;
/// As many starts as fit into the time for which stamps are remembered.
const STARTS: usize = 12;

#[derive(Debug, Clone)]
enum FileStep {
    Admit,
    Beat,
    Stop,
    Crash,
    /// Keeps a copy of all files.
    Save,
    /// Puts the last or the first copy of some of them in the place of what is there: into the file that is there, or under its
    /// name.
    PutBack {
        names: [bool; 3],
        first: bool,
        renames: bool,
    },
}

/// A store's files, the process that has them, and what is to be expected of both.
struct FileWorld {
    folder: TempDir,
    store: Option<SqliteStore>,
    now_ms: u64,
    starts: usize,
    saves: usize,
    admitted: Vec<AdmissionRow>,
    /// How many of these the file must have, unless it says that it was put back: those before the last sign of life.
    noted: usize,
    /// Those that the file lacked when an operator accepted it, or at a start after a crash that came right after them.
    lost: BTreeSet<usize>,
    was_put_back: bool,
}

fn step() -> impl Strategy<Value = FileStep> {
    prop_oneof![
        6 => Just(FileStep::Admit),
        3 => Just(FileStep::Beat),
        2 => Just(FileStep::Stop),
        2 => Just(FileStep::Crash),
        3 => Just(FileStep::Save),
        3 => any::<([bool; 3], bool, bool)>().prop_map(|(names, first, renames)| {
            FileStep::PutBack { names, first, renames }
        }),
    ]
}

impl FileWorld {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&test_files::settings(&folder), StoreTerms::default());
        // Opening a file, which may set a guard, goes by the machine's clock.
        let now_ms = store.unwrap().file.lock().wall().unwrap();
        Self {
            folder,
            store: None,
            now_ms,
            starts: 0,
            saves: 0,
            admitted: Vec::new(),
            noted: 0,
            lost: BTreeSet::new(),
            was_put_back: false,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn open(&self) -> Result<SqliteStore, StoreError> {
        let settings = test_files::settings(&self.folder);
        let store = SqliteStore::open(&settings, StoreTerms::default())?;
        store.file.lock().now_ms = Some(self.now_ms);
        store.migrate().await?;
        store.join(&introduction()).await?;
        Ok(store)
    }

    /// The running store; `None` if a start is refused, or there were enough.
    async fn running(&mut self) -> Option<&SqliteStore> {
        if self.store.is_none() {
            let store = self.start().await?;
            self.store = Some(store);
        }
        self.store.as_ref()
    }

    async fn start(&mut self) -> Option<SqliteStore> {
        self.starts += 1;
        if self.starts > STARTS {
            return None;
        }
        let mut store = match self.open().await {
            Ok(store) => store,
            Err(error) => {
                assert!(self.was_put_back, "{error}");
                assert!(
                    matches!(error, StoreError::Damaged(_) | StoreError::Settings(_)),
                    "it names its cure: {error}"
                );
                return None;
            }
        };
        if store.is_restored().await.unwrap() {
            assert!(self.was_put_back, "a file that was left as it was");
            self.pass(&store);
            let money = self.row(Kind::Money, u32::MAX);
            let told = verdict(&store, &money).await.unwrap();
            assert_eq!(told, AdmissionVerdict::Restored);
            if store.distrust().await.is_err() {
                return None;
            }
            self.lost = self.missing(&store);
            drop(store);
            store = self.open().await.unwrap();
            assert!(!store.is_restored().await.unwrap());
        }
        let missing = self.missing(&store);
        let unnoticed = missing.difference(&self.lost);
        let noted: Vec<_> = unnoticed.filter(|number| **number < self.noted).collect();
        assert!(noted.is_empty(), "{noted:?} are lost unnoticed");
        assert!(missing == self.lost || self.was_put_back, "{missing:?}");
        self.lost = missing;
        self.was_put_back = false;
        self.noted = self.admitted.len();
        self.pass(&store);
        for row in &self.admitted {
            let again = verdict(&store, row).await.unwrap();
            assert_ne!(again, AdmissionVerdict::Admitted, "twice");
        }
        Some(store)
    }

    /// Time passes, so that no guard is in force.
    fn pass(&mut self, store: &SqliteStore) {
        self.now_ms += PAUSE_MS;
        store.file.lock().now_ms = Some(self.now_ms);
    }

    fn row(&self, kind: Kind, number: u32) -> AdmissionRow {
        let mut stamp = [0; 16];
        stamp[..4].copy_from_slice(&number.to_be_bytes());
        AdmissionRow {
            kind,
            ..money_row(stamp, self.now_ms)
        }
    }

    /// The admitted rows whose stamps are not in the file.
    fn missing(&self, store: &SqliteStore) -> BTreeSet<usize> {
        let file = store.file.lock();
        let is_there = "SELECT EXISTS (SELECT 1 FROM stamp WHERE print = ?1)";
        let mut is_there = file.connection().prepare(is_there).unwrap();
        let rows = self.admitted.iter().enumerate();
        let missing = rows.filter(|(_, row)| {
            let is_there = is_there.query_row([row.stamp], |row| row.get::<_, bool>(0));
            !is_there.unwrap()
        });
        missing.map(|(number, _)| number).collect()
    }

    async fn take(&mut self, step: FileStep) -> Option<()> {
        match step {
            FileStep::Admit => {
                let number = u32::try_from(self.admitted.len()).unwrap();
                let kind = [Kind::Write, Kind::Money][self.admitted.len() % 2];
                self.running().await?;
                self.now_ms += 1;
                let row = self.row(kind, number);
                let store = self.running().await?;
                store.file.lock().now_ms = Some(row.stamp_ms);
                match verdict(store, &row).await {
                    Ok(verdict) => {
                        assert_eq!(verdict, AdmissionVerdict::Admitted);
                        self.admitted.push(row);
                    }
                    Err(error) => self.is_exchanged(&error),
                }
            }
            FileStep::Beat => {
                let store = self.running().await?;
                match store.beat(&test_files::beat()).await {
                    Ok(_) => {
                        store.upkeep().await.unwrap();
                        self.noted = self.admitted.len();
                    }
                    Err(error) => self.is_exchanged(&error),
                }
            }
            FileStep::Stop => {
                if let Some(store) = self.store.take() {
                    store.leave().await.unwrap();
                    self.noted = self.admitted.len();
                }
            }
            FileStep::Crash => {
                if let Some(store) = self.store.take() {
                    let left = NAMES.map(|name| (self.at(name), fs::read(self.at(name)).ok()));
                    drop(store);
                    // The end of the process itself would have taken the log into the file.
                    for (path, bytes) in left.into_iter().take(2) {
                        match bytes {
                            Some(bytes) => fs::write(path, bytes).unwrap(),
                            None => drop(fs::remove_file(path)),
                        }
                    }
                }
            }
            FileStep::Save => {
                self.running().await?;
                self.saves += 1;
                for name in NAMES {
                    let saved = self.at(&format!("{name}.{}", self.saves));
                    let _no_log = fs::copy(self.at(name), saved);
                }
            }
            FileStep::PutBack {
                names,
                first,
                renames,
            } => {
                if self.saves == 0 {
                    return Some(());
                }
                let number = if first { 1 } else { self.saves };
                for (name, _) in NAMES.iter().zip(names).filter(|(_, chosen)| *chosen) {
                    let (place, saved) = (self.at(name), self.at(&format!("{name}.{number}")));
                    self.was_put_back = true;
                    if !saved.exists() {
                        let _absent = fs::remove_file(place);
                    } else if renames {
                        fs::copy(&saved, self.at("new")).unwrap();
                        fs::rename(self.at("new"), place).unwrap();
                    } else {
                        fs::copy(&saved, place).unwrap();
                    }
                }
            }
        }
        Some(())
    }

    /// The process noticed that its file is another one: it has said its last commit.
    fn is_exchanged(&mut self, error: &StoreError) {
        assert!(self.was_put_back, "{error}");
        if matches!(error, StoreError::Replaced) {
            self.noted = self.admitted.len();
        }
    }
}

async fn verdict(store: &SqliteStore, row: &AdmissionRow) -> Result<AdmissionVerdict, StoreError> {
    let mut batch = AdmissionBatch::default();
    batch.push(row.clone()).unwrap();
    let reply = store.admit(&batch).await;
    reply.map(|mut reply| reply.verdicts.remove(0))
}

async fn live_through(steps: Vec<FileStep>) {
    let mut world = FileWorld::new();
    for step in steps {
        if world.take(step).await.is_none() {
            return;
        }
    }
    world.store = None;
    world.start().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_put_back_nothing_is_admitted_twice_or_lost_unnoticed(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(live_through(steps));
    }
}
