use super::*;
use crate::admission::{AdmissionRow, AdmissionVerdict};
use crate::cap_steps::START_MS;
use crate::engine::Store;
use crate::identity::StoreIdentity;
use crate::model::{ModelServer, StoreModel};
use crate::rows::money_row;
use crate::sqlite::test_files::{self, introduction};
use crate::stored_text::StoredText;
use gatepay_core::Kind;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn settings(&self) -> SqliteSettings {
        test_files::settings(&self.folder)
    }

    /// A migrated store at this time that has not joined.
    async fn open(&self, now_ms: u64) -> SqliteStore {
        let store = SqliteStore::open(&self.settings(), StoreTerms::default()).unwrap();
        store.file.lock().now_ms = Some(now_ms);
        store.migrate().await.unwrap();
        store
    }

    async fn joined(&self, now_ms: u64) -> SqliteStore {
        let store = self.open(now_ms).await;
        store.join(&introduction()).await.unwrap();
        store
    }

    /// A joined store after its first guard.
    async fn ready(&self) -> SqliteStore {
        let store = self.joined(START_MS).await;
        store.file.lock().now_ms = Some(START_MS + 60_000);
        store
    }

    /// The file of this name.
    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the contact file says.
    fn contact(&self) -> StoreContact {
        let kept = StoreContact::read(&self.settings().contact_file);
        kept.unwrap().unwrap().contact
    }

    /// Has the contact file as a process leaves it that wrote this one last.
    fn leaves_contact(&self, contact: &StoreContact) {
        contact.write(&self.settings().contact_file).unwrap();
    }

    /// The same as `ready`, after an orderly end.
    async fn ended(&self) {
        leave(self.ready().await).await;
    }

    fn save(&self) {
        for end in ["db", "db-wal"] {
            let from = self.folder.path().join(format!("gatepay.{end}"));
            if from.exists() {
                fs::copy(&from, from.with_extension(format!("{end}.saved"))).unwrap();
            }
        }
    }

    fn restore(&self) {
        for end in ["db", "db-wal"] {
            let to = self.folder.path().join(format!("gatepay.{end}"));
            let _ = fs::remove_file(&to);
            let saved = to.with_extension(format!("{end}.saved"));
            if saved.exists() {
                fs::copy(saved, &to).unwrap();
            }
        }
    }
}

fn row(number: u8, kind: Kind, stamp_ms: u64) -> AdmissionRow {
    AdmissionRow {
        kind,
        ..money_row([number; 16], stamp_ms)
    }
}

/// Ends the store's process in order.
async fn leave(store: SqliteStore) {
    store.leave().await.unwrap();
    drop(store);
}

/// The start at this time finds the file that the last run left: it knows this row.
async fn is_no_restore(files: &Files, admitted: &AdmissionRow, now_ms: u64) {
    let store = files.joined(now_ms).await;
    assert!(!store.is_restored().await.unwrap());
    let copy = verdict(&store, admitted).await;
    assert!(
        matches!(copy, AdmissionVerdict::Replayed { .. }),
        "{copy:?}"
    );
}

async fn verdict(store: &SqliteStore, row: &AdmissionRow) -> AdmissionVerdict {
    let mut batch = AdmissionBatch::default();
    batch.push(row.clone()).unwrap();
    store.admit(&batch).await.unwrap().verdicts.remove(0)
}

#[tokio::test]
async fn the_first_run_is_guarded_and_an_orderly_restart_is_not() {
    let files = Files::new();
    let store = files.joined(START_MS).await;
    let early = row(1, Kind::Money, START_MS);
    assert!(matches!(
        verdict(&store, &early).await,
        AdmissionVerdict::Guarded { wait_ms: 11_001 }
    ));
    store.file.lock().now_ms = Some(START_MS + 20_000);
    let late = row(2, Kind::Money, START_MS + 20_000);
    assert_eq!(verdict(&store, &late).await, AdmissionVerdict::Admitted);
    leave(store).await;

    let store = files.joined(START_MS + 21_000).await;
    let admitted_ms = START_MS + 20_000;
    assert_eq!(
        verdict(&store, &late).await,
        AdmissionVerdict::Replayed { admitted_ms }
    );
    assert_eq!(
        verdict(&store, &row(3, Kind::Money, START_MS + 21_000)).await,
        AdmissionVerdict::Admitted
    );
    assert!(!store.is_restored().await.unwrap());
}

#[tokio::test]
async fn after_a_crash_there_is_a_guard_and_money_goes_on_after_it() {
    let files = Files::new();
    let store = files.ready().await;
    let admitted = row(1, Kind::Money, START_MS + 60_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    // No beat and no leave: the contact file is older than the file.
    drop(store);
    let store = files.joined(START_MS + 61_000).await;
    assert!(!store.is_restored().await.unwrap());
    let fresh = row(2, Kind::Money, START_MS + 61_000);
    assert!(matches!(
        verdict(&store, &fresh).await,
        AdmissionVerdict::Guarded { .. }
    ));
    store.file.lock().now_ms = Some(START_MS + 80_000);
    assert_eq!(
        verdict(&store, &row(3, Kind::Money, START_MS + 80_000)).await,
        AdmissionVerdict::Admitted
    );
    assert!(matches!(
        verdict(&store, &admitted).await,
        AdmissionVerdict::Replayed { .. }
    ));
}

/// Admits after a copy was put back, and after the guard: reads and writes only, until the file is distrusted.
async fn is_recognized(files: &Files, lost: &AdmissionRow) {
    let now_ms = START_MS + 70_000;
    let store = files.joined(now_ms).await;
    assert!(store.is_restored().await.unwrap());
    assert!(matches!(
        verdict(&store, lost).await,
        AdmissionVerdict::Guarded { .. }
    ));
    let later = now_ms + 20_000;
    store.file.lock().now_ms = Some(later);
    assert_eq!(
        verdict(&store, &row(7, Kind::Money, later)).await,
        AdmissionVerdict::Restored
    );
    assert_eq!(
        verdict(&store, &row(8, Kind::Write, later)).await,
        AdmissionVerdict::Admitted
    );
    // A restart changes nothing.
    leave(store).await;
    let store = files.joined(later).await;
    assert_eq!(
        verdict(&store, &row(9, Kind::Money, later)).await,
        AdmissionVerdict::Restored
    );
    store.distrust().await.unwrap();
    store.file.lock().now_ms = Some(later + 20_000);
    assert_eq!(
        verdict(&store, &row(10, Kind::Money, later + 20_000)).await,
        AdmissionVerdict::Admitted
    );
    assert!(!matches!(
        verdict(&store, lost).await,
        AdmissionVerdict::Admitted
    ));
}

#[tokio::test]
async fn a_copy_of_an_earlier_run_is_recognized() {
    let files = Files::new();
    files.ended().await;
    files.save();
    let store = files.joined(START_MS + 60_000).await;
    a_restore_after_an_admission_is_recognized(&files, store).await;
}

#[tokio::test]
async fn a_copy_of_the_same_run_is_recognized() {
    let files = Files::new();
    let store = files.ready().await;
    files.save();
    a_restore_after_an_admission_is_recognized(&files, store).await;
}

/// Admits a stamp, and puts the saved file back, which lacks the stamp.
async fn a_restore_after_an_admission_is_recognized(files: &Files, store: SqliteStore) {
    let lost = row(1, Kind::Money, START_MS + 60_000);
    assert_eq!(verdict(&store, &lost).await, AdmissionVerdict::Admitted);
    leave(store).await;
    files.restore();
    is_recognized(files, &lost).await;
}

#[tokio::test]
async fn joins_that_could_not_write_the_contact_file_do_not_make_the_file_look_put_back() {
    let files = Files::new();
    drop(files.ready().await);
    let store = files.open(START_MS + 60_000).await;
    for _ in 0..2 {
        // An attempt that changed the file and then found the disk full.
        let contact = store.read_contact().await.unwrap();
        let joined = store.file.lock().join(&introduction(), contact);
        *store.contact.lock() = Some(joined.unwrap().1);
    }
    store.join(&introduction()).await.unwrap();
    assert!(!store.is_restored().await.unwrap());
}

#[tokio::test]
async fn a_file_without_its_contact_file_and_a_contact_file_without_its_file_are_recognized() {
    for lost in ["store.contact", "gatepay.db"] {
        let files = Files::new();
        files.ended().await;
        fs::remove_file(files.folder.path().join(lost)).unwrap();
        let store = files.joined(START_MS + 60_000).await;
        assert!(store.is_restored().await.unwrap(), "{lost}");
    }
}

#[tokio::test]
async fn a_start_that_ended_between_its_two_writes_is_no_restore() {
    let files = Files::new();
    files.ended().await;
    let contact = files.contact();
    drop(files.joined(START_MS + 60_000).await);
    files.leaves_contact(&contact);
    let store = files.joined(START_MS + 61_000).await;
    assert!(!store.is_restored().await.unwrap());
    assert_eq!(
        verdict(&store, &row(1, Kind::Money, START_MS + 61_000)).await,
        AdmissionVerdict::Admitted
    );
}

#[tokio::test]
async fn a_second_process_cannot_open_the_file() {
    let files = Files::new();
    let _first = files.ready().await;
    let second = SqliteStore::open(&files.settings(), StoreTerms::default());
    assert!(matches!(second, Err(StoreError::Sqlite(_))));
}

#[tokio::test]
async fn a_file_that_other_users_may_read_is_refused() {
    let files = Files::new();
    drop(files.ready().await);
    let path = files.settings().path;
    for (mode, is_refused) in [(0o604, true), (0o640, false), (0o600, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let opened = SqliteStore::open(&files.settings(), StoreTerms::default());
        let refused = opened.is_err_and(|error| error.to_string().contains("chmod o="));
        assert_eq!(refused, is_refused, "{mode:o}");
    }
}

#[tokio::test]
async fn halts_that_the_file_has_lost_are_brought_back_unless_they_ended() {
    let files = Files::new();
    let store = files.ready().await;
    let beat = |known_halts| InstanceBeat {
        known_halts,
        ..test_files::beat()
    };
    for money in [true, false] {
        store.halt(&scope(!money), "alice").await.unwrap();
    }
    let known = store.beat(&beat(Vec::new())).await.unwrap().halts;
    let ended = known.iter().find(|it| it.scope == HaltScope::All).unwrap();
    store.resume(&ended.scope, ended.epoch).await.unwrap();
    store.file.lock().lose_halts();
    let view = store.beat(&beat(known.clone())).await.unwrap();
    assert_eq!(view.brought_back, [HaltScope::Money]);
    let [halt] = &view.halts[..] else {
        panic!("{view:?}");
    };
    let before = known.iter().find(|it| it.scope == halt.scope).unwrap();
    assert_eq!((halt.since_ms, &halt.by), (before.since_ms, &before.by));
    assert!(halt.epoch > before.epoch && view.halt_epoch == halt.epoch);
    let again = store.beat(&beat(view.halts.clone())).await.unwrap();
    assert_eq!((again.brought_back, again.halts), (Vec::new(), view.halts));
}

#[tokio::test]
async fn nothing_is_admitted_before_joining() {
    let files = Files::new();
    let store = files.open(START_MS).await;
    let mut batch = AdmissionBatch::default();
    batch.push(row(1, Kind::Read, START_MS)).unwrap();
    assert!(store.admit(&batch).await.is_err());
}

/// Steps of the comparison with the model.
#[derive(Debug, Clone)]
enum Step {
    Admit(Vec<(u8, i64, u8, Option<u8>)>),
    Advance(u64),
    Beat(bool),
    Halt(bool),
    /// Whether by the epoch of its last order.
    Resume(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let row = (
        any::<u8>(),
        -400_000_i64..15_000,
        0_u8..3,
        prop::option::of(0_u8..4),
    );
    prop_oneof![
        6 => prop::collection::vec(row, 1..6).prop_map(Step::Admit),
        2 => prop_oneof![0_u64..5_000, 50_000_u64..500_000].prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Beat),
        1 => any::<bool>().prop_map(Step::Halt),
        1 => any::<(bool, bool)>().prop_map(|(all, by_last)| Step::Resume(all, by_last)),
    ]
}

fn scope(all: bool) -> HaltScope {
    if all {
        HaltScope::All
    } else {
        HaltScope::Money
    }
}

async fn agrees(steps: Vec<Step>) {
    let files = Files::new();
    let store = files.joined(START_MS).await;
    let mut model = StoreModel::new(StoreTerms::default());
    let mut server = ModelServer {
        identity: StoreIdentity::default(),
        position: 0,
        started: 0,
        now_ms: START_MS,
    };
    let (_, contact) = model.beat(&server, None, 1, false);
    let contact = Some(contact);
    let mut beat = test_files::beat();
    let mut seen = [0, 0];
    for step in steps {
        store.file.lock().now_ms = Some(server.now_ms);
        match step {
            Step::Admit(rows) => {
                let mut batch = AdmissionBatch::default();
                for (number, offset_ms, kind, nonce) in rows {
                    let kind = [Kind::Read, Kind::Write, Kind::Money][usize::from(kind)];
                    let mut row = row(number, kind, server.now_ms.saturating_add_signed(offset_ms));
                    // A fingerprint covers the time.
                    row.stamp[..8].copy_from_slice(&row.stamp_ms.to_be_bytes());
                    row.nonce = nonce.map(|nonce| [nonce; 16]);
                    row.has_body = number.is_multiple_of(2);
                    let _ = batch.push(row);
                }
                for _ in 0..2 {
                    let answered = store.admit(&batch).await.unwrap();
                    let (expected, _) = model.admit(&server, contact.as_ref(), batch.rows());
                    assert_eq!(answered, expected);
                }
            }
            Step::Advance(ms) => server.now_ms += ms,
            Step::Beat(bodyless) => {
                beat.bodyless = bodyless;
                store.beat(&beat).await.unwrap();
                model.beat(&server, contact.as_ref(), 1, bodyless);
                model.turn_ring(&server);
            }
            Step::Halt(all) => {
                let epoch = store.halt(&scope(all), "o").await.unwrap();
                assert_eq!(epoch, model.halt(&server, scope(all)));
                seen[usize::from(all)] = epoch;
            }
            Step::Resume(all, by_last) => {
                let seen = seen[usize::from(all)] - i64::from(!by_last);
                let resumed = store.resume(&scope(all), seen).await.unwrap();
                assert_eq!(resumed, model.resume(&server, &scope(all), seen));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_file_and_the_model_agree(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(agrees(steps));
    }
}

#[tokio::test]
async fn no_call_counts_once_the_file_was_exchanged_not_even_if_it_is_put_back() {
    let files = Files::new();
    let store = Store::Sqlite(files.ready().await);
    let file = files.settings().path;
    let away = file.with_extension("away");
    let order = StoredText::parse("5").unwrap();
    assert!(store.probe().await.is_ok());
    fs::rename(&file, &away).unwrap();
    for is_back in [false, true] {
        if is_back {
            fs::rename(&away, &file).unwrap();
        }
        // A probe that succeeds lets the log say that the store admits again.
        assert!(is_replaced(&store.probe().await), "{is_back}");
        assert!(is_replaced(&store.halt(&HaltScope::All, "ops").await));
        assert!(is_replaced(&store.cluster().await));
        assert!(is_replaced(&store.capped_calls_of(&order).await));
    }
}

#[tokio::test]
async fn the_start_after_a_crash_knows_that_the_file_was_exchanged_before() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    let store = files.joined(START_MS + 61_000).await;
    store.beat(&test_files::beat()).await.unwrap();
    store.upkeep().await.unwrap();
    fs::copy(at("gatepay.db-wal"), at("earlier")).unwrap();
    // No sign of life follows.
    let admitted = row(1, Kind::Money, START_MS + 61_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    fs::rename(at("earlier"), at("gatepay.db-wal")).unwrap();
    assert!(is_replaced(&store.cluster().await));
    let contact = files.contact();
    // An orderly end would take the log into the file that the process still has open, and a crash does not.
    files.save();
    drop(store);
    files.restore();
    files.leaves_contact(&contact);
    let store = files.joined(START_MS + 90_000).await;
    assert!(store.is_restored().await.unwrap());
}

#[tokio::test]
async fn a_file_that_is_put_back_together_with_its_contact_file_counts_as_put_back() {
    for crashes in [false, true] {
        let files = Files::new();
        files.ended().await;
        let both = ["gatepay.db", "store.contact"];
        let saved = |name: &str| files.at(&format!("{name}.saved"));
        for name in both {
            fs::copy(files.at(name), saved(name)).unwrap();
        }
        let store = files.joined(START_MS + 61_000).await;
        let lost = row(1, Kind::Money, START_MS + 61_000);
        assert_eq!(verdict(&store, &lost).await, AdmissionVerdict::Admitted);
        if crashes {
            drop(store);
            let _log = fs::remove_file(files.at("gatepay.db-wal"));
        } else {
            leave(store).await;
        }
        for name in both {
            fs::copy(saved(name), files.at(name)).unwrap();
        }
        let store = files.joined(START_MS + 62_000).await;
        assert!(store.is_restored().await.unwrap(), "{crashes}");
        store.distrust().await.unwrap();
        drop(store);
        let store = files.joined(START_MS + 90_000).await;
        assert!(
            !store.is_restored().await.unwrap(),
            "an operator accepts it"
        );
    }
}

#[tokio::test]
async fn the_start_after_an_exchange_knows_what_the_other_file_lacks() {
    let files = Files::new();
    files.ended().await;
    let file = files.settings().path;
    let older = file.with_extension("older");
    fs::copy(&file, &older).unwrap();
    let store = files.joined(START_MS + 61_000).await;
    let admitted = row(1, Kind::Money, START_MS + 61_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    fs::rename(&older, &file).unwrap();
    leave(store).await;
    let store = files.joined(START_MS + 62_000).await;
    let copy = verdict(&store, &admitted).await;
    assert_ne!(copy, AdmissionVerdict::Admitted);
}

fn is_replaced<T>(called: &Result<T, StoreError>) -> bool {
    matches!(called, Err(StoreError::Replaced))
}

/// Commits until the log was taken into the file and began anew. None of the commits records a stamp.
async fn begin_another_log(store: &SqliteStore) {
    let beat = test_files::beat();
    let under_log = || -> i64 {
        let under_log = "SELECT under_log FROM cluster";
        let file = store.file.lock();
        let under_log = file.connection().query_row(under_log, [], |row| row.get(0));
        under_log.unwrap()
    };
    let before = under_log();
    while under_log() == before {
        store.beat(&beat).await.unwrap();
    }
    store.beat(&beat).await.unwrap();
    store.upkeep().await.unwrap();
}

#[tokio::test]
async fn a_backup_under_the_log_of_a_crashed_run_counts_as_put_back() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    let now_ms = START_MS + 61_000;
    fs::copy(at("gatepay.db"), at("backup")).unwrap();
    let store = files.joined(now_ms).await;
    let admitted = row(1, Kind::Write, now_ms);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    begin_another_log(&store).await;
    // The files that a crash leaves.
    let left = ["gatepay.db", "gatepay.db-wal"];
    for name in left {
        fs::copy(at(name), at(&format!("{name}.left"))).unwrap();
    }
    let contact = files.contact();
    drop(store);
    for (file, is_restored) in [("gatepay.db.left", false), ("backup", true)] {
        for name in left {
            fs::copy(at(&format!("{name}.left")), at(name)).unwrap();
        }
        files.leaves_contact(&contact);
        fs::copy(at(file), at("gatepay.db")).unwrap();
        // A command that opens the file does not hide it.
        drop(SqliteStore::open(&files.settings(), StoreTerms::default()).unwrap());
        let store = files.joined(now_ms + 1_000).await;
        assert_eq!(store.is_restored().await.unwrap(), is_restored, "{file}");
        let copy = verdict(&store, &admitted).await;
        assert_ne!(copy, AdmissionVerdict::Admitted, "{file}");
    }
}

#[tokio::test]
async fn a_file_that_is_copied_over_the_open_one_is_noticed_now_and_at_the_next_start() {
    let files = Files::new();
    files.ended().await;
    let file = files.settings().path;
    let backup = file.with_extension("backup");
    fs::copy(&file, &backup).unwrap();
    let store = files.joined(START_MS + 61_000).await;
    let admitted = row(1, Kind::Write, START_MS + 61_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    begin_another_log(&store).await;
    assert!(store.cluster().await.is_ok());
    fs::copy(&backup, &file).unwrap();
    assert!(is_replaced(&store.cluster().await));
    leave(store).await;
    let store = files.joined(START_MS + 62_000).await;
    assert!(store.is_restored().await.unwrap());
    assert_ne!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_process_whose_file_was_exchanged_writes_nothing_into_the_log_of_the_next_one() {
    let files = Files::new();
    files.ended().await;
    let file = files.settings().path;
    let other = file.with_extension("other");
    fs::copy(&file, &other).unwrap();
    let store = files.joined(START_MS + 61_000).await;
    fs::rename(&other, &file).unwrap();
    let next = files.joined(START_MS + 62_000).await;
    next.file.lock().now_ms = Some(START_MS + 90_000);
    let admitted = row(2, Kind::Write, START_MS + 90_000);
    assert_eq!(verdict(&next, &admitted).await, AdmissionVerdict::Admitted);
    let log = || fs::read(files.folder.path().join("gatepay.db-wal")).unwrap();
    let before = log();
    leave(store).await;
    assert!(log() == before);
    drop(next);
    let last = files.joined(START_MS + 91_000).await;
    let copy = verdict(&last, &admitted).await;
    assert!(
        matches!(copy, AdmissionVerdict::Replayed { .. }),
        "{copy:?}"
    );
}

#[tokio::test]
async fn a_backup_of_an_earlier_run_under_the_log_of_a_later_one_counts_as_put_back() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    fs::copy(at("gatepay.db"), at("backup")).unwrap();
    let store = files.joined(START_MS + 61_000).await;
    let admitted = row(1, Kind::Write, START_MS + 61_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    leave(store).await;
    let store = files.joined(START_MS + 62_000).await;
    store.beat(&test_files::beat()).await.unwrap();
    store.upkeep().await.unwrap();
    // The log that a crash leaves.
    fs::copy(at("gatepay.db-wal"), at("log")).unwrap();
    let contact = files.contact();
    drop(store);
    files.leaves_contact(&contact);
    fs::copy(at("log"), at("gatepay.db-wal")).unwrap();
    fs::copy(at("backup"), at("gatepay.db")).unwrap();
    let store = files.joined(START_MS + 63_000).await;
    assert!(store.is_restored().await.unwrap());
    let copy = verdict(&store, &admitted).await;
    assert_ne!(copy, AdmissionVerdict::Admitted);
}

#[tokio::test]
async fn a_crash_that_lost_the_commits_after_the_last_contact_is_guarded() {
    let files = Files::new();
    let store = files.ready().await;
    let at = |name: &str| files.at(name);
    store.beat(&test_files::beat()).await.unwrap();
    store.upkeep().await.unwrap();
    let left = ["gatepay.db", "gatepay.db-wal"];
    for name in left {
        fs::copy(at(name), at(&format!("{name}.left"))).unwrap();
    }
    let contact = files.contact();
    let lost = row(1, Kind::Write, START_MS + 60_000);
    assert_eq!(verdict(&store, &lost).await, AdmissionVerdict::Admitted);
    drop(store);
    for name in left {
        fs::copy(at(&format!("{name}.left")), at(name)).unwrap();
    }
    files.leaves_contact(&contact);
    let store = files.joined(START_MS + 61_000).await;
    let copy = verdict(&store, &lost).await;
    assert!(matches!(copy, AdmissionVerdict::Guarded { .. }), "{copy:?}");
}

#[tokio::test]
async fn starts_after_a_crash_that_end_before_they_write_the_contact_file_are_no_restore() {
    let files = Files::new();
    let store = files.ready().await;
    let contact = files.contact();
    let admitted = row(1, Kind::Money, START_MS + 60_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    drop(store);
    for start in 1..4 {
        let store = files.joined(START_MS + 60_000 + start).await;
        assert!(!store.is_restored().await.unwrap(), "start {start}");
        let guarded_until = store.cluster().await.unwrap().guarded_until;
        assert!(guarded_until > START_MS + 70_000, "start {start}");
        drop(store);
        files.leaves_contact(&contact);
    }
    let store = files.joined(START_MS + 80_000).await;
    let copy = verdict(&store, &admitted).await;
    assert!(
        matches!(copy, AdmissionVerdict::Replayed { .. }),
        "{copy:?}"
    );
}

#[tokio::test]
async fn first_starts_that_end_before_they_write_the_contact_file_are_no_restore() {
    let files = Files::new();
    for start in 0..3 {
        let store = files.joined(START_MS + start).await;
        assert!(!store.is_restored().await.unwrap(), "start {start}");
        drop(store);
        fs::remove_file(files.settings().contact_file).unwrap();
    }
    let store = files.joined(START_MS + 3).await;
    let early = verdict(&store, &row(1, Kind::Money, START_MS)).await;
    assert!(
        matches!(early, AdmissionVerdict::Guarded { .. }),
        "{early:?}"
    );
}

type Damage = fn(&Path, &[u8]);

#[tokio::test]
async fn a_log_that_is_copied_over_cut_or_removed_is_noticed_and_damages_no_file() {
    let damages: [(&str, bool, Damage); 4] = [
        ("an earlier copy", true, |log, copy| {
            fs::write(log, copy).unwrap();
        }),
        ("cut", true, |log, _| fs::write(log, "").unwrap()),
        ("removed", false, |log, _| fs::remove_file(log).unwrap()),
        ("exchanged", false, |log, copy| {
            fs::remove_file(log).unwrap();
            fs::write(log, copy).unwrap();
        }),
    ];
    for (what, is_lost, damage) in damages {
        let files = Files::new();
        files.ended().await;
        let log = files.folder.path().join("gatepay.db-wal");
        let store = files.joined(START_MS + 61_000).await;
        let copy = fs::read(&log).unwrap();
        let admitted = row(1, Kind::Write, START_MS + 61_000);
        assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
        store.beat(&test_files::beat()).await.unwrap();
        store.upkeep().await.unwrap();
        damage(&log, &copy);
        assert!(is_replaced(&store.cluster().await), "{what}");
        leave(store).await;
        let store = files.joined(START_MS + 62_000).await;
        assert_eq!(store.is_restored().await.unwrap(), is_lost, "{what}");
        let copy = verdict(&store, &admitted).await;
        if is_lost {
            assert!(matches!(copy, AdmissionVerdict::Guarded { .. }), "{what}");
        } else {
            assert!(matches!(copy, AdmissionVerdict::Replayed { .. }), "{what}");
        }
    }
}

#[tokio::test]
async fn a_process_that_never_joined_takes_no_log_into_a_file_that_was_copied_over_its_own() {
    let files = Files::new();
    files.ended().await;
    let file = files.settings().path;
    let older = fs::read(&file).unwrap();
    leave(files.joined(START_MS + 61_000).await).await;
    let store = files.open(START_MS + 62_000).await;
    store.halt(&HaltScope::Money, "ops").await.unwrap();
    fs::write(&file, &older).unwrap();
    leave(store).await;
    assert!(fs::read(&file).unwrap() == older);
    let store = files.joined(START_MS + 63_000).await;
    assert!(store.is_restored().await.unwrap());
}

#[tokio::test]
async fn a_backup_under_the_log_of_a_later_file_is_used_without_it_and_can_be_distrusted() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    fs::copy(at("gatepay.db"), at("backup")).unwrap();
    let store = files.joined(START_MS + 61_000).await;
    let mut number = 0_u32;
    // More pages than the backup and the log have together.
    while fs::metadata(at("gatepay.db")).unwrap().len() < 1_000_000 {
        let mut batch = AdmissionBatch::default();
        for _ in 0..200 {
            let mut row = row(0, Kind::Write, START_MS + 61_000);
            row.stamp[..4].copy_from_slice(&number.to_le_bytes());
            row.intents = Vec::new();
            number += 1;
            batch.push(row).unwrap();
        }
        store.admit(&batch).await.unwrap();
    }
    begin_another_log(&store).await;
    fs::copy(at("gatepay.db-wal"), at("log")).unwrap();
    drop(store);
    fs::copy(at("backup"), at("gatepay.db")).unwrap();
    fs::copy(at("log"), at("gatepay.db-wal")).unwrap();
    let is_restored = async || {
        let store = files.open(START_MS + 62_000).await;
        store.is_restored().await.unwrap()
    };
    assert!(is_restored().await);
    files
        .open(START_MS + 62_000)
        .await
        .distrust()
        .await
        .unwrap();
    assert!(!is_restored().await);
    let file = rusqlite::Connection::open(at("gatepay.db")).unwrap();
    let check = file.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0));
    assert_eq!(check.unwrap(), "ok");
    assert!(fs::read(at("gatepay.db-wal.aside-1")).unwrap() == fs::read(at("log")).unwrap());
}

/// A database in a log alone, which is no store's.
#[tokio::test]
async fn the_log_of_another_database_hides_and_damages_no_table_of_the_file() {
    let contents = [
        ("no table", "CREATE TABLE other (it)"),
        (
            "a version",
            "CREATE TABLE other (it); PRAGMA user_version = 1",
        ),
        (
            "no schema",
            "CREATE TABLE other (it); PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = 'nonsense'",
        ),
        (
            "a table of that name",
            "CREATE TABLE cluster (system_id, position, under_log); PRAGMA user_version = 1",
        ),
    ];
    for (content, statements) in contents {
        let files = Files::new();
        let store = files.ready().await;
        let admitted = row(1, Kind::Money, START_MS + 60_000);
        assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
        leave(store).await;
        let other = rusqlite::Connection::open(files.at("other.db")).unwrap();
        let in_log = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;";
        other.execute_batch(in_log).unwrap();
        other.execute_batch(statements).unwrap();
        fs::copy(files.at("other.db-wal"), files.at("gatepay.db-wal")).unwrap();
        // Also by a command that does nothing else.
        drop(SqliteStore::open(&files.settings(), StoreTerms::default()));
        let store = files.joined(START_MS + 61_000).await;
        assert!(files.at("gatepay.db-wal.aside-1").exists(), "{content}");
        assert!(store.is_restored().await.unwrap(), "{content}");
        let copy = verdict(&store, &admitted).await;
        assert_ne!(copy, AdmissionVerdict::Admitted, "{content}");
        store.check_pages().await.unwrap();
        let known = "SELECT count(*) FROM stamp";
        let file = store.file.lock();
        let known = file
            .connection()
            .query_row(known, [], |row| row.get::<_, i64>(0));
        assert_eq!(known.unwrap(), 1, "{content}");
    }
}

#[tokio::test]
async fn an_earlier_log_beside_the_file_is_set_aside() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    let store = files.joined(START_MS + 61_000).await;
    fs::copy(at("gatepay.db-wal"), at("log")).unwrap();
    begin_another_log(&store).await;
    leave(store).await;
    fs::copy(at("log"), at("gatepay.db-wal")).unwrap();
    let store = files.joined(START_MS + 62_000).await;
    assert!(store.is_restored().await.unwrap());
    assert!(at("gatepay.db-wal.aside-1").exists());
}

#[tokio::test]
async fn a_log_whose_file_is_away_is_kept() {
    let files = Files::new();
    let store = files.ready().await;
    let admitted = row(1, Kind::Money, START_MS + 60_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    let at = |name: &str| files.at(name);
    fs::copy(at("gatepay.db-wal"), at("log")).unwrap();
    fs::copy(at("gatepay.db"), at("away")).unwrap();
    drop(store);
    fs::copy(at("log"), at("gatepay.db-wal")).unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::write(at("gatepay.db"), "").unwrap();
        } else {
            fs::remove_file(at("gatepay.db")).unwrap();
        }
        let opened = SqliteStore::open(&files.settings(), StoreTerms::default());
        let refused = opened.is_err_and(|error| error.to_string().contains("put the file back"));
        assert!(refused && at("gatepay.db").exists() == is_there);
    }
    fs::rename(at("away"), at("gatepay.db")).unwrap();
    is_no_restore(&files, &admitted, START_MS + 61_000).await;
}

#[tokio::test]
async fn a_process_that_ends_while_it_takes_the_log_into_a_growing_file_is_no_restore() {
    let files = Files::new();
    files.ended().await;
    let at = |name: &str| files.at(name);
    leave(files.joined(START_MS + 61_000).await).await;
    let length = fs::metadata(at("gatepay.db")).unwrap().len();
    let store = files.joined(START_MS + 62_000).await;
    let admitted = row(1, Kind::Money, START_MS + 62_000);
    assert_eq!(verdict(&store, &admitted).await, AdmissionVerdict::Admitted);
    for number in 2..200 {
        let more = row(number, Kind::Write, START_MS + 62_000);
        assert_eq!(verdict(&store, &more).await, AdmissionVerdict::Admitted);
    }
    fs::copy(at("gatepay.db-wal"), at("log")).unwrap();
    drop(store);
    // The pages that were there are written, and none behind them.
    let file = fs::File::options().write(true).open(at("gatepay.db"));
    let file = file.unwrap();
    assert!(file.metadata().unwrap().len() > length);
    file.set_len(length).unwrap();
    fs::rename(at("log"), at("gatepay.db-wal")).unwrap();
    is_no_restore(&files, &admitted, START_MS + 63_000).await;
}

#[tokio::test]
async fn a_file_with_a_damaged_page_is_told_by_the_check_and_not_accepted() {
    let files = Files::new();
    files.ended().await;
    let path = files.settings().path;
    let whole = fs::read(&path).unwrap();
    let table = |name: &str| -> usize {
        let file = rusqlite::Connection::open(&path).unwrap();
        let root = "SELECT (rootpage - 1) * page_size FROM sqlite_schema, pragma_page_size WHERE name = ?1";
        let offset: i64 = file.query_row(root, [name], |row| row.get(0)).unwrap();
        offset.try_into().unwrap()
    };
    let damages = ["stamp", "spend", "owner", "halt"].map(|name| (name, table(name)));
    for (name, offset) in damages {
        let mut damaged = whole.clone();
        damaged[offset..offset + 8].fill(0x5a);
        fs::write(&path, damaged).unwrap();
        let store = files.open(START_MS + 62_000).await;
        let distrusted = store.distrust().await;
        assert!(
            matches!(distrusted, Err(StoreError::Damaged(_))),
            "{name}: {distrusted:?}"
        );
        drop(store);
    }
    fs::write(&path, whole).unwrap();
    files
        .open(START_MS + 62_000)
        .await
        .distrust()
        .await
        .unwrap();
}
