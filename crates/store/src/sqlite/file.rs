//! The file's statements. Each public call is one transaction.

use std::fs::{Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use zeroize::Zeroizing;

use super::clock::{self, LastSign, MachineClock};
use super::file_place::FilePlace;
use super::log_file::{self, LogFile};
use super::main_file::{self, FileStand, MainFile};
use super::{SQLITE_SCHEMA, approval_rows, spend_tables, usage_tables};
use crate::admission::{AdmissionReply, AdmissionRow, AdmissionVerdict, HaltScope};
use crate::caps::rule::{CapBreach, ShadowBreach};
use crate::caps::rule_book::RuleBook;
use crate::error::StoreError;
use crate::identity::{KeptContact, StoreContact, StoreIdentity};
use crate::instance::{
    ClusterView, HaltEnd, HaltInForce, InstanceBeat, InstanceIntroduction, InstanceJoined,
    InstanceView, Replication, ResumeResult, lost_halts,
};
use crate::ring::{RingSlot, SLOTS, SlotRing, StampRules, UNUSED_RING, slice_ms, spends};
use crate::settings::StoreTerms;

/// The script of each schema, from 1 on. A script that was released never changes.
const SCHEMAS: [&str; SQLITE_SCHEMA as usize] = [include_str!("../../sql/sqlite_0001.sql")];
/// How long an order to end a halt waits for another operator, in milliseconds.
const PROPOSED_MS: u64 = 86_400_000;
const PRAGMAS: &str =
    "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
    PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF; PRAGMA wal_autocheckpoint = 0;";
/// The number of pages in the log from which on it is taken into the file: that of SQLite's own rule.
const LONG_LOG: i64 = 1_000;

/// The only connection to a file.
pub(super) struct StoreFile {
    connection: Connection,
    place: Arc<FilePlace>,
    /// Dropped after the connection.
    main: MainFile,
    log: LogFile,
    /// The number of commits in the file without its log, until the log says it.
    unnoted: Option<i64>,
    /// The last contact by a commit of this process.
    newest: Option<StoreContact>,
    terms: StoreTerms,
    /// The rules of caps, once they are read. No other process writes the file, and reading all rules of all tenants for each
    /// call would take longer than the call.
    book: Option<Arc<RuleBook>>,
    /// The last declarations that were taken. The file has one process, whose calls may overtake one another.
    pub(super) declared: LastDeclared,
    pub(super) machine: MachineClock,
    pub(super) last_sign: Option<LastSign>,
    /// In tests the machine's clock and the store's time at once, in milliseconds since 1970: setting it is no step.
    #[cfg(test)]
    pub(super) now_ms: Option<u64>,
}

/// The numbers of the last declarations of this process.
#[derive(Debug, Default)]
pub(super) struct LastDeclared {
    pub(super) caps: i64,
    pub(super) destinations: i64,
}

/// Refuses a file that every user may read or write: it holds the fingerprints' key.
pub(super) fn is_private(path: &Path, file: &Metadata) -> Result<(), StoreError> {
    if file.mode() & 0o007 != 0 {
        let path = path.display();
        return Err(StoreError::Settings(format!(
            "{path} is world-accessible: run `chmod o= {path}`"
        )));
    }
    Ok(())
}

/// The file that a log was written for.
enum LogOwner {
    /// The one that it lies beside.
    ThisFile,
    /// Another one: an earlier or a later copy of this file, or one of another store.
    OtherFile,
    /// Another one, or this one if a power cut has damaged it.
    Unclear,
}

/// The row of `cluster`.
struct FileState {
    system_id: i64,
    run: i64,
    previous_run: i64,
    position: i64,
    slice_ms: u64,
    guarded_until: u64,
    restored: bool,
    guard_ms: u64,
    bodyless: bool,
    bodyless_until: u64,
    before_run: i64,
    is_running: bool,
}

/// The findings of a start by the contact file.
struct FoundFile {
    /// The process before ended at its start, before it wrote the contact file and so before it admitted anything.
    was_started: bool,
    /// The run before ended in order, with all its commits. After a crash the last ones may be missing, or be another copy's.
    whole: bool,
    /// The file was put back.
    restored: bool,
}

impl StoreFile {
    pub(super) fn open(path: &Path, terms: StoreTerms) -> Result<Self, StoreError> {
        let found = Self::with_any_log(path, terms).and_then(|opened| {
            let owner = opened.owner_of_log(path)?;
            Ok((opened, owner))
        });
        let mut opened = match found {
            Ok((opened, LogOwner::ThisFile)) => opened,
            Ok((mut opened, LogOwner::Unclear)) => {
                opened.count_as_put_back()?;
                opened
            }
            Ok((opened, LogOwner::OtherFile)) => {
                drop(opened);
                Self::without_foreign_log(path, terms)?
            }
            // So the pages do not fit together by their log.
            Err(StoreError::Damaged(_)) if main_file::has_tables_without_log(path)? => {
                Self::without_foreign_log(path, terms)?
            }
            Err(error) => return Err(error),
        };
        opened.takes_log_at_close(true)?;
        if opened.schema()? == SQLITE_SCHEMA && opened.pages_of_log()? <= 0 {
            let _later = opened.note_whole_file();
        }
        opened.main.remember(&opened.connection)?;
        opened.remember_log()?;
        Ok(opened)
    }

    /// Opens a file that has the log of another file beside it, which no process has open: without the log, and as one that was
    /// put back.
    fn without_foreign_log(path: &Path, terms: StoreTerms) -> Result<Self, StoreError> {
        log_file::set_aside(path).map_err(|source| StoreError::file(path, source))?;
        let mut opened = Self::with_any_log(path, terms)?;
        opened.count_as_put_back()?;
        Ok(opened)
    }

    /// Whether the log is taken into the file when the connection is closed, which also removes what lies under the log's path.
    fn takes_log_at_close(&self, takes: bool) -> Result<(), StoreError> {
        let keep = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        self.connection.set_db_config(keep, !takes)?;
        Ok(())
    }

    /// Opens a file with the log that lies beside it. That may be another file's: so it stays out of the file for now.
    fn with_any_log(path: &Path, terms: StoreTerms) -> Result<Self, StoreError> {
        log_file::is_no_orphan(path)?;
        // SQLite gives its other files the same permissions.
        let made = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path);
        let made = made.and_then(|file| Ok((file.metadata()?, file)));
        let (made, main) = made.map_err(|source| StoreError::file(path, source))?;
        is_private(path, &made)?;
        let connection = Connection::open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch(PRAGMAS)?;
        let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        if synchronous < 2 {
            return Err(StoreError::Unsafe(format!("synchronous = {synchronous}")));
        }
        let page_size = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let log = LogFile::of(path, page_size).map_err(|source| StoreError::file(path, source))?;
        Ok(Self {
            connection,
            place: Arc::new(FilePlace::of(path, &made)),
            main: MainFile::of(main),
            log,
            unnoted: None,
            newest: None,
            terms,
            book: None,
            declared: LastDeclared::default(),
            machine: MachineClock::new(),
            last_sign: None,
            #[cfg(test)]
            now_ms: None,
        })
    }

    /// The file that the log beside this one was written for. This one is locked from here on: no other process takes its log into
    /// it.
    fn owner_of_log(&self, path: &Path) -> Result<LogOwner, StoreError> {
        let stands = match self.schema()? {
            0 => None,
            SQLITE_SCHEMA => self.stands()?,
            // Another version's, which this one refuses later on.
            _ => return Ok(LogOwner::ThisFile),
        };
        match (stands, main_file::without_log(path)?) {
            (None, None) => return Ok(LogOwner::ThisFile),
            // A new file has its tables in the log at first.
            (Some((first, _)), None) if first.position == 0 => return Ok(LogOwner::ThisFile),
            (Some(_), None) => return Ok(LogOwner::Unclear),
            (Some((first, last)), Some(found)) if first.is_under(found) && found.is_under(last) => {
                return Ok(LogOwner::ThisFile);
            }
            // A log of another store, or one of no store, which hides the tables of the file.
            (_, Some(_)) => {}
        }
        // A power cut while the log was taken into the file leaves one that only the log makes whole.
        Ok(if main_file::is_sound_without_log(path)? {
            LogOwner::OtherFile
        } else {
            LogOwner::Unclear
        })
    }

    /// The stand under the log and that with it; `None` if there is no table that has them.
    fn stands(&self) -> Result<Option<(FileStand, FileStand)>, StoreError> {
        let stand = |position| FileStand::read(&self.connection, position);
        match stand("under_log").and_then(|first| Ok((first, stand("position")?))) {
            Ok(stands) => Ok(Some(stands)),
            Err(error) if main_file::is_unreadable(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has money refused until an operator accepts the file.
    fn count_as_put_back(&mut self) -> Result<(), StoreError> {
        if self.schema()? != SQLITE_SCHEMA {
            return Ok(());
        }
        let now_ms = self.wall()?;
        let own_guard_ms = self.terms.guard_ms();
        let change = self.begin()?;
        let guard = now_ms + state(&change)?.guard_ms.max(own_guard_ms);
        change.execute(
            "UPDATE cluster SET restored = 1, guarded_until = max(guarded_until, ?1)",
            [to_sql(guard)],
        )?;
        approval_rows::void(&change, now_ms)?;
        committed(change, now_ms)?;
        Ok(())
    }

    /// Fails once the path has led elsewhere, or the file or its log has something that this process did not write.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.place.check()?;
        if self.main.is_kept() && self.log.is_kept() {
            return Ok(());
        }
        self.place.give_up();
        Err(StoreError::Replaced)
    }

    /// Takes a long log into the file. If that fails, the log grows until it succeeds.
    pub(super) fn shorten_log(&mut self) -> Result<(), StoreError> {
        self.note_log()?;
        if self.remember_log()? < LONG_LOG {
            return Ok(());
        }
        self.main.forget();
        self.log.forget();
        let take = "PRAGMA wal_checkpoint(RESTART)";
        let is_busy: bool = self.connection.query_row(take, [], |row| row.get(0))?;
        self.main.remember(&self.connection)?;
        if !is_busy && self.schema()? == SQLITE_SCHEMA {
            self.note_whole_file()?;
            self.remember_log()?;
        }
        Ok(())
    }

    /// Remembers the end of the log. Returns its number of pages.
    fn remember_log(&mut self) -> Result<i64, StoreError> {
        let pages = self.pages_of_log()?;
        let remembered = self.log.remember(pages);
        remembered.map_err(|error| StoreError::Unexpected(format!("the log: {error}")))?;
        Ok(pages)
    }

    /// The number of pages in the log.
    fn pages_of_log(&self) -> Result<i64, StoreError> {
        let look = "PRAGMA wal_checkpoint(NOOP)";
        let mut look = self.connection.prepare_cached(look)?;
        Ok(look.query_row([], |row| row.get(1))?)
    }

    /// Begins a log for the file as it is. Until then the old log is still there, with all that it is about, or there is none.
    fn note_whole_file(&mut self) -> Result<(), StoreError> {
        self.unnoted = Some(FileStand::read(&self.connection, "position")?.position);
        self.note_log()
    }

    /// Has the log say which commits are in the file without it.
    fn note_log(&mut self) -> Result<(), StoreError> {
        if let Some(position) = self.unnoted {
            let note = "UPDATE cluster SET under_log = ?1 WHERE under_log <> ?1";
            self.connection.execute(note, [position])?;
            self.unnoted = None;
        }
        Ok(())
    }

    /// Loses the halts in force, as a file does that is put back.
    #[cfg(test)]
    pub(super) fn lose_halts(&self) {
        self.connection.execute("DELETE FROM halt", []).unwrap();
    }

    pub(super) fn schema(&self) -> Result<u32, StoreError> {
        let version = self
            .connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok(version)
    }

    pub(super) fn migrate(&mut self) -> Result<u32, StoreError> {
        let before = self.schema()?;
        let behind = usize::try_from(before).unwrap_or(usize::MAX);
        for script in SCHEMAS.iter().skip(behind) {
            let change = self.begin()?;
            change.execute_batch(script)?;
            change.commit()?;
        }
        self.check_schema()?;
        Ok(before)
    }

    fn check_schema(&self) -> Result<u32, StoreError> {
        match self.schema()? {
            0 => Err(StoreError::NotMigrated),
            SQLITE_SCHEMA => Ok(SQLITE_SCHEMA),
            found => Err(StoreError::Schema {
                found,
                oldest: SQLITE_SCHEMA,
                newest: SQLITE_SCHEMA,
            }),
        }
    }

    pub(super) fn is_restored(&self) -> Result<bool, StoreError> {
        self.check_schema()?;
        Ok(state(&self.connection)?.restored)
    }

    pub(super) fn join(
        &mut self,
        introduction: &InstanceIntroduction,
        contact: Option<KeptContact>,
    ) -> Result<(InstanceJoined, StoreContact), StoreError> {
        let schema = self.check_schema()?;
        let now_ms = self.wall()?;
        let witness = self.witness(true);
        let own_guard_ms = self.terms.guard_ms();
        let change = self.begin()?;
        let file = state(&change)?;
        let guard_ms = file.guard_ms.max(own_guard_ms);
        let FoundFile {
            was_started,
            whole,
            restored,
        } = file.compared_with(contact.as_ref());
        let slice_ms = slice_ms(introduction.past_ms, guard_ms);
        let wider = slice_ms > file.slice_ms;
        if wider {
            change.execute("UPDATE cluster SET slice_ms = ?1", [to_sql(slice_ms)])?;
            change.execute("DELETE FROM stamp", [])?;
            change.execute("UPDATE slot SET slice = 0, filling = 1", [])?;
        }
        let guard = if whole && !restored && !wider && !introduction.uncovered {
            0
        } else {
            now_ms + guard_ms
        };
        let (steady, _) = clock::tick(&change, to_sql(now_ms), witness)?;
        if was_started {
            // As if the start before had not been: the contact file does not know its run.
            let undo = "UPDATE cluster SET run = previous_run, position = before_run";
            change.execute(undo, [])?;
        }
        begin_run(&change, (guard, restored), guard_ms, steady.unsigned_abs())?;
        refuse_bodyless(&change, &file, now_ms)?;
        change.execute("DELETE FROM instance", [])?;
        change.execute(
            "INSERT INTO instance VALUES (?1, ?2, ?2, ?3, ?4, ?5, NULL, 0, 0, ?6)",
            params![
                introduction.id,
                to_sql(now_ms),
                introduction.host,
                introduction.version,
                introduction.config_hash,
                steady
            ],
        )?;
        let key: Vec<u8> =
            change.query_row("SELECT fingerprint_key FROM cluster", [], |row| row.get(0))?;
        let contact = committed(change, now_ms)?;
        self.note_sign(now_ms, steady);
        let key = Zeroizing::new(key);
        let joined = InstanceJoined {
            fingerprint_key: Zeroizing::new(
                key.as_slice()
                    .try_into()
                    .expect("the table checks its length"),
            ),
            schema,
            now_ms,
            guarded_until: state(&self.connection)?.guarded_until,
        };
        Ok((joined, contact))
    }

    pub(super) fn admit(&mut self, rows: &[AdmissionRow]) -> Result<AdmissionReply, StoreError> {
        let now_ms = self.wall()?;
        let counted_ms = self.now()?;
        let future_ms = self.terms.future_ms;
        let (change, book) = self.begin_with_rules()?;
        let file = state(&change)?;
        let rules = file.rules(now_ms, future_ms);
        let before = slots(&change)?;
        let mut ring = before;
        rules.open(&mut ring, rows.iter().map(|row| row.stamp_ms));
        write_slots(&change, &before, &ring)?;
        let halts = halts(&change)?;
        let scopes: Vec<&HaltScope> = halts.iter().map(|halt| &halt.scope).collect();
        let mut verdicts = Vec::with_capacity(rows.len());
        let mut shadows = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let refusal = rules.refusal(row, &ring, scopes.iter().copied());
            let (verdict, shadow) = record(&change, (&rules, &book, counted_ms), row, refusal)?;
            let shadow = shadow.map(|breach| ShadowBreach {
                row: number,
                breach,
            });
            shadows.extend(shadow);
            verdicts.push(verdict);
        }
        self.newest = Some(committed(change, now_ms)?);
        Ok(AdmissionReply {
            verdicts,
            now_ms,
            guarded_until: file.guarded_until,
            new_guard: false,
            shadows,
        })
    }

    pub(super) fn beat(
        &mut self,
        introduction: &InstanceIntroduction,
        beat: &InstanceBeat,
    ) -> Result<StoreContact, StoreError> {
        let now_ms = self.wall()?;
        let witness = self.witness(false);
        let future_ms = self.terms.future_ms;
        let change = self.begin()?;
        let (steady, has_ticked) = clock::tick(&change, to_sql(now_ms), witness)?;
        let file = state(&change)?;
        if !beat.bodyless {
            refuse_bodyless(&change, &file, now_ms)?;
        }
        let before = slots(&change)?;
        let mut ring = before;
        // A clock that has stepped ahead must not empty a slot that the stamps of now need.
        let turning_ms = now_ms.min(steady.unsigned_abs());
        file.rules(turning_ms, future_ms).turn(&mut ring);
        for (slot, of) in ring.iter_mut().enumerate().filter(|(_, of)| !of.filling) {
            change.execute("DELETE FROM stamp WHERE slot = ?1", [number(slot)])?;
            of.filling = true;
        }
        write_slots(&change, &before, &ring)?;
        change.execute("DELETE FROM nonce WHERE until < ?1", [steady])?;
        change.execute(
            "UPDATE instance SET seen = ?2, config_hash = ?3, journal_head = ?4, halt_epoch = ?5, bodyless = ?6,
                steady = ?7
            WHERE id = ?1",
            params![
                introduction.id,
                to_sql(now_ms),
                beat.config_hash,
                beat.journal_head,
                beat.halt_epoch,
                beat.bodyless,
                steady
            ],
        )?;
        let contact = committed(change, now_ms)?;
        self.newest = Some(contact);
        // A sign that did not advance the store's time leaves its reference to the next one, so that a step it saw is not lost.
        if has_ticked {
            self.note_sign(now_ms, steady);
        }
        Ok(contact)
    }

    /// Brings back the halts that this process saw in force and that the file has lost. Returns their scopes.
    pub(super) fn bring_back(
        &mut self,
        known: &[HaltInForce],
    ) -> Result<Vec<HaltScope>, StoreError> {
        let now_ms = self.now()?;
        let lost = lost_halts(known, &halts(&self.connection)?, &ends(&self.connection)?);
        let Some(newest) = lost.iter().map(|halt| halt.epoch).max() else {
            return Ok(Vec::new());
        };
        let change = self.begin()?;
        let seen = "UPDATE cluster SET halt_epoch = max(halt_epoch, ?1)";
        change.execute(seen, [newest])?;
        let epoch = next_epoch(&change, now_ms)?;
        for HaltInForce {
            scope,
            since_ms,
            by,
            ..
        } in &lost
        {
            let halt = params![scope.to_string(), to_sql(*since_ms), by, epoch];
            change.execute("INSERT INTO halt VALUES (?1, ?2, ?3, ?4)", halt)?;
        }
        committed(change, now_ms)?;
        Ok(lost.into_iter().map(|halt| halt.scope).collect())
    }

    /// Ends the run. If the file was exchanged, the next start sees by the last contact that the other file lacks commits.
    pub(super) fn leave(&mut self, id: i64) -> Result<Option<StoreContact>, StoreError> {
        if self.check().is_err() {
            return Ok(self.newest);
        }
        let now_ms = self.wall()?;
        let change = self.begin()?;
        refuse_bodyless(&change, &state(&change)?, now_ms)?;
        change.execute("DELETE FROM instance WHERE id = ?1", [id])?;
        change.execute("UPDATE cluster SET is_running = 0", [])?;
        committed(change, now_ms).map(Some)
    }

    pub(super) fn halt(&mut self, scope: &str, by: &str) -> Result<i64, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let epoch = next_epoch(&change, now_ms)?;
        change.execute(
            "INSERT INTO halt VALUES (?1, ?2, ?3, ?4) ON CONFLICT (scope) DO UPDATE SET epoch = excluded.epoch",
            params![scope, to_sql(now_ms), by, epoch],
        )?;
        committed(change, now_ms)?;
        Ok(epoch)
    }

    pub(super) fn resume(
        &mut self,
        scope: &str,
        epoch_seen: i64,
    ) -> Result<ResumeResult, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let epoch = next_epoch(&change, now_ms)?;
        change.execute(
            "DELETE FROM halt WHERE scope = ?1 AND epoch = ?2",
            params![scope, epoch_seen],
        )?;
        let stands = "SELECT EXISTS (SELECT 1 FROM halt WHERE scope = ?1)";
        let stands: bool = change.query_row(stands, [scope], |row| row.get(0))?;
        if !stands {
            let end = "INSERT OR REPLACE INTO halt_end VALUES (?1, ?2)";
            change.execute(end, params![scope, epoch])?;
        }
        committed(change, now_ms)?;
        Ok(if stands {
            ResumeResult::SuspendedAgain
        } else {
            ResumeResult::Resumed { epoch }
        })
    }

    pub(super) fn propose_resume(
        &mut self,
        scope: &str,
        epoch: i64,
        by: &str,
    ) -> Result<Option<String>, StoreError> {
        let now_ms = self.now()?;
        let since = to_sql(now_ms.saturating_sub(PROPOSED_MS));
        let change = self.begin()?;
        let other = change.query_row(
            "SELECT proposed_by FROM halt_proposal
            WHERE scope = ?1 AND epoch = ?2 AND proposed_by <> ?3 AND at > ?4",
            params![scope, epoch, by, since],
            |row| row.get(0),
        );
        let other: Option<String> = other.optional()?;
        if other.is_none() {
            change.execute(
                "INSERT OR REPLACE INTO halt_proposal VALUES (?1, ?2, ?3, ?4)",
                params![scope, epoch, by, to_sql(now_ms)],
            )?;
        }
        committed(change, now_ms)?;
        Ok(other)
    }

    /// Fails if pages of the file do not fit together. It reads the whole file.
    pub(super) fn check_pages(&self) -> Result<(), StoreError> {
        match main_file::fault(&self.connection)? {
            None => Ok(()),
            Some(fault) => Err(StoreError::Damaged(fault)),
        }
    }

    pub(super) fn distrust(&mut self) -> Result<(u64, StoreContact), StoreError> {
        self.check_schema()?;
        // An operator who accepts a file that was put back relies on its being whole.
        self.check_pages()?;
        let now_ms = self.wall()?;
        let guard_ms = self.terms.guard_ms();
        let change = self.begin()?;
        let guard = now_ms + state(&change)?.guard_ms.max(guard_ms);
        change.execute(
            "UPDATE cluster SET previous_run = run, run = random(), before_run = position, is_running = 0,
            restored = 0, guarded_until = max(guarded_until, ?1), guard_ms = ?2",
            [to_sql(guard), to_sql(guard_ms)],
        )?;
        clock::accept(&change, to_sql(now_ms))?;
        approval_rows::void(&change, now_ms)?;
        let contact = committed(change, now_ms)?;
        Ok((state(&self.connection)?.guarded_until, contact))
    }

    pub(super) fn view(&self) -> Result<ClusterView, StoreError> {
        let epoch = "SELECT halt_epoch FROM cluster";
        let mut instances = self.connection.prepare_cached(
            "SELECT id, began, seen, host, version, config_hash, journal_head, halt_epoch FROM instance ORDER BY id",
        )?;
        let instances = instances.query_map([], |row| {
            Ok(InstanceView {
                id: row.get(0)?,
                began_ms: row.get::<_, i64>(1)?.unsigned_abs(),
                seen_ms: row.get::<_, i64>(2)?.unsigned_abs(),
                host: row.get(3)?,
                version: row.get(4)?,
                config_hash: row.get(5)?,
                journal_head: row.get(6)?,
                halt_epoch: row.get(7)?,
                lease: None,
            })
        })?;
        Ok(ClusterView {
            now_ms: self.wall()?,
            time: self.time()?,
            guarded_until: state(&self.connection)?.guarded_until,
            instances: instances.collect::<Result<_, _>>()?,
            gone: Vec::new(),
            halts: halts(&self.connection)?,
            halt_epoch: self.connection.query_row(epoch, [], |row| row.get(0))?,
            brought_back: Vec::new(),
            replication: Replication::None,
        })
    }

    /// The last contact by a commit of this process; `None` before the first.
    pub(super) fn newest(&self) -> Option<StoreContact> {
        self.newest
    }

    pub(super) fn place(&self) -> &Arc<FilePlace> {
        &self.place
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        let behavior = TransactionBehavior::Immediate;
        Ok(self.connection.transaction_with_behavior(behavior)?)
    }

    /// Begins, with the rules of caps as the file has them.
    pub(super) fn begin_with_rules(
        &mut self,
    ) -> Result<(Transaction<'_>, Arc<RuleBook>), StoreError> {
        let book = self.rules_of_caps()?;
        Ok((self.begin()?, book))
    }

    /// The rules of caps as the file has them.
    pub(super) fn rules_of_caps(&mut self) -> Result<Arc<RuleBook>, StoreError> {
        if let Some(book) = &self.book {
            return Ok(Arc::clone(book));
        }
        let book = Arc::new(spend_tables::rule_book(&self.connection)?);
        self.book = Some(Arc::clone(&book));
        Ok(book)
    }

    /// Has the rules read anew, since this process has written others.
    pub(super) fn forget_rules(&mut self) {
        self.book = None;
    }
}

impl Drop for StoreFile {
    /// Closing the connection takes the log into the file and removes the file under the log's path. If the file was exchanged, that is
    /// another process' log by now, and if the log was changed, it would damage the file. A log that was only removed is still whole.
    fn drop(&mut self) {
        let is_ours = self.place.is_always_here().unwrap_or(false);
        let is_whole = is_ours && self.main.is_kept() && self.log.has_its_end();
        if !is_whole {
            let _set = self.takes_log_at_close(false);
        }
    }
}

impl FileState {
    fn identity(&self) -> StoreIdentity {
        StoreIdentity {
            system_id: self.system_id,
            timeline: self.run,
        }
    }

    fn compared_with(&self, kept: Option<&KeptContact>) -> FoundFile {
        let contact = kept.map(|kept| &kept.contact);
        let known = contact.filter(|it| it.identity == self.identity());
        let was_started = self.was_only_started_since(contact);
        FoundFile {
            was_started,
            whole: if was_started {
                contact.is_some_and(|it| it.position == self.before_run)
            } else {
                known.is_some_and(|it| it.position == self.position) && !self.is_running
            },
            restored: match known {
                // The file may have been put back with it.
                _ if kept.is_some_and(|kept| kept.is_copy) => true,
                _ if was_started => false,
                Some(contact) => self.position < contact.position,
                None => self.position > 0 || contact.is_some(),
            },
        }
    }

    /// Whether the only commit after all that this contact knows of, or after none, is that of a start.
    fn was_only_started_since(&self, contact: Option<&StoreContact>) -> bool {
        let before = StoreIdentity {
            system_id: self.system_id,
            timeline: self.previous_run,
        };
        let known = contact.map_or(self.before_run == 0, |it| {
            it.identity == before && it.position <= self.before_run
        });
        known && self.position == self.before_run + 1
    }

    fn rules(&self, now_ms: u64, future_ms: u64) -> StampRules {
        StampRules {
            now_ms,
            future_ms,
            guarded_until: self.guarded_until,
            slice_ms: self.slice_ms,
            restored: self.restored,
            bodyless: self.bodyless || now_ms < self.bodyless_until,
        }
    }
}

fn state(connection: &Connection) -> Result<FileState, StoreError> {
    let statement = "SELECT system_id, run, previous_run, position, slice_ms, guarded_until, restored, guard_ms,
        EXISTS (SELECT 1 FROM instance WHERE bodyless), bodyless_until, before_run, is_running FROM cluster";
    let state = connection.query_row(statement, [], |row| {
        Ok(FileState {
            system_id: row.get(0)?,
            run: row.get(1)?,
            previous_run: row.get(2)?,
            position: row.get(3)?,
            slice_ms: row.get::<_, i64>(4)?.unsigned_abs(),
            guarded_until: row.get::<_, i64>(5)?.unsigned_abs(),
            restored: row.get(6)?,
            guard_ms: row.get::<_, i64>(7)?.unsigned_abs(),
            bodyless: row.get(8)?,
            bodyless_until: row.get::<_, i64>(9)?.unsigned_abs(),
            before_run: row.get(10)?,
            is_running: row.get(11)?,
        })
    })?;
    Ok(state)
}

/// Begins a run. After a guard or a restore no earlier approval lets a call pass: the call may have passed already.
fn begin_run(
    change: &Transaction<'_>,
    (guard, restored): (u64, bool),
    guard_ms: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    change.execute(
        "UPDATE cluster SET previous_run = run, run = random(), before_run = position, is_running = 1,
        guarded_until = max(guarded_until, ?1), restored = max(restored, ?2), guard_ms = ?3",
        params![to_sql(guard), restored, to_sql(guard_ms)],
    )?;
    if guard > 0 || restored {
        approval_rows::void(change, now_ms)?;
    }
    Ok(())
}

fn slots(connection: &Connection) -> Result<SlotRing, StoreError> {
    let mut ring = UNUSED_RING;
    let mut statement = connection.prepare_cached("SELECT slot, slice, filling FROM slot")?;
    let rows = statement.query_map([], |row| {
        let slice: i64 = row.get(1)?;
        let slot: i64 = row.get(0)?;
        Ok((
            usize::try_from(slot).unwrap_or(0),
            slice.unsigned_abs(),
            row.get(2)?,
        ))
    })?;
    for row in rows {
        let (slot, slice, filling) = row?;
        ring[slot] = RingSlot { slice, filling };
    }
    Ok(ring)
}

fn write_slots(
    change: &Transaction<'_>,
    before: &SlotRing,
    after: &SlotRing,
) -> Result<(), StoreError> {
    let changed = before
        .iter()
        .zip(after)
        .enumerate()
        .filter(|(_, (before, after))| before != after);
    for (slot, (_, after)) in changed {
        change.execute(
            "UPDATE slot SET slice = ?2, filling = ?3 WHERE slot = ?1",
            params![number(slot), to_sql(after.slice), after.filling],
        )?;
    }
    Ok(())
}

/// The halts in force. A scope that this version does not know covers everything.
fn halts(connection: &Connection) -> Result<Vec<HaltInForce>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT scope, since, set_by, epoch FROM halt ORDER BY scope")?;
    let halts = statement.query_map([], |row| {
        let scope: String = row.get(0)?;
        Ok(HaltInForce {
            scope: HaltScope::parse(&scope),
            since_ms: row.get::<_, i64>(1)?.unsigned_abs(),
            by: row.get(2)?,
            epoch: row.get(3)?,
        })
    })?;
    Ok(halts.collect::<Result<_, _>>()?)
}

fn ends(connection: &Connection) -> Result<Vec<HaltEnd>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT scope, epoch FROM halt_end")?;
    let ends = statement.query_map([], |row| {
        let scope: String = row.get(0)?;
        Ok(HaltEnd {
            scope: HaltScope::parse(&scope),
            epoch: row.get(1)?,
        })
    })?;
    Ok(ends.collect::<Result<_, _>>()?)
}

/// Records a row that may be admitted; a recorded stamp is `replayed`, also if something else refuses it. The breach is of a
/// shadow cap.
fn record(
    change: &Transaction<'_>,
    (rules, book, counted_ms): (&StampRules, &RuleBook, u64),
    row: &AdmissionRow,
    refusal: Option<AdmissionVerdict>,
) -> Result<(AdmissionVerdict, Option<CapBreach>), StoreError> {
    let (slot, _) = rules.place(row.stamp_ms);
    let now_ms = to_sql(rules.now_ms);
    let mut seen =
        change.prepare_cached("SELECT admitted FROM stamp WHERE slot = ?1 AND print = ?2")?;
    let seen: Option<i64> = seen
        .query_row(params![number(slot), row.stamp], |row| row.get(0))
        .optional()?;
    if let Some(admitted) = seen {
        let admitted_ms = admitted.unsigned_abs();
        return Ok((AdmissionVerdict::Replayed { admitted_ms }, None));
    }
    let mut insert = change.prepare_cached("INSERT INTO stamp VALUES (?1, ?2, ?3)")?;
    if let Some(refusal) = refusal {
        if spends(&refusal, row.kind) {
            insert.execute(params![number(slot), row.stamp, now_ms])?;
        }
        return Ok((refusal, None));
    }
    if let Some(nonce) = row.nonce {
        let mut seen =
            change.prepare_cached("SELECT admitted FROM nonce WHERE print = ?1 AND until >= ?2")?;
        let seen: Option<i64> = seen
            .query_row(params![nonce, to_sql(counted_ms)], |row| row.get(0))
            .optional()?;
        if let Some(admitted) = seen {
            let admitted_ms = admitted.unsigned_abs();
            return Ok((AdmissionVerdict::NonceReplayed { admitted_ms }, None));
        }
        let until = to_sql(row.stamp_ms.max(counted_ms) + SLOTS * rules.slice_ms);
        let mut insert =
            change.prepare_cached("INSERT OR REPLACE INTO nonce VALUES (?1, ?2, ?3)")?;
        insert.execute(params![nonce, now_ms, until])?;
    }
    insert.execute(params![number(slot), row.stamp, now_ms])?;
    let row = &*spend_tables::priced(change, row)?;
    let shadow = match spend_tables::reserve(change, book, counted_ms, row)? {
        Ok(shadow) => shadow,
        Err(mut exceeded) => {
            // When room comes free, as the caller's clock will show it.
            if let AdmissionVerdict::CapExceeded(breach) = &mut exceeded
                && let Some(frees_ms) = &mut breach.frees_ms
            {
                *frees_ms = (*frees_ms + rules.now_ms).saturating_sub(counted_ms);
            }
            return Ok((exceeded, None));
        }
    };
    usage_tables::note_usage(change, counted_ms, row)?;
    note_intents(change, counted_ms, row)?;
    Ok((AdmissionVerdict::Admitted, shadow))
}

/// Notes the keys of an admitted call in the ledger, with its party and account.
fn note_intents(
    change: &Transaction<'_>,
    counted_ms: u64,
    row: &AdmissionRow,
) -> Result<(), StoreError> {
    for intent in &row.intents {
        let mut insert = change.prepare_cached(
            "INSERT INTO owner (kind, key, tenant, account, at, currency, operation, source)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'call')
                ON CONFLICT DO UPDATE SET at = excluded.at WHERE at < excluded.at",
        )?;
        insert.execute(params![
            intent.key_kind,
            intent.key.as_str(),
            row.party.as_str(),
            row.account.as_str(),
            to_sql(counted_ms),
            intent
                .currency
                .as_ref()
                .map(crate::admission::StoredText::as_str),
            row.operation.as_ref(),
        ])?;
    }
    Ok(())
}

/// Refuses writes without a body for as long as stamps are remembered, if the instance stops that served reads while the
/// store was away: the signatures of those reads fit such writes.
fn refuse_bodyless(
    change: &Transaction<'_>,
    file: &FileState,
    now_ms: u64,
) -> Result<(), StoreError> {
    if file.bodyless {
        let until = now_ms + SLOTS * file.slice_ms;
        change.execute("UPDATE cluster SET bodyless_until = ?1", [to_sql(until)])?;
    }
    Ok(())
}

/// Another epoch of halts. Epochs of a copy that was put back do not come again: they are lower than the time.
fn next_epoch(change: &Transaction<'_>, now_ms: u64) -> Result<i64, StoreError> {
    let next = "UPDATE cluster SET halt_epoch = max(halt_epoch + 1, ?1) RETURNING halt_epoch";
    Ok(change.query_row(next, [to_sql(now_ms)], |row| row.get(0))?)
}

/// Counts the commit, and makes it.
pub(super) fn committed(change: Transaction<'_>, now_ms: u64) -> Result<StoreContact, StoreError> {
    change.execute("UPDATE cluster SET position = position + 1", [])?;
    let file = state(&change)?;
    change.commit()?;
    Ok(StoreContact {
        identity: file.identity(),
        position: file.position,
        at_ms: to_sql(now_ms),
        stamp: None,
        sign_of_life: None,
    })
}

/// A number for a column. No clock of the next million years is beyond it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The number of a slot.
fn number(slot: usize) -> i64 {
    i64::try_from(slot).expect("a slot's number is small")
}
