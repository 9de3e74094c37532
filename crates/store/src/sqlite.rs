//! The store in a SQLite file, of one process.
//!
//! One connection writes, in exclusive mode, so a second process cannot open the file. A commit is on disk before it is
//! acknowledged (`synchronous = FULL`). A file that was put back is recognized by the contact file beside it: each start
//! draws a number for its run and writes it to both.

mod approval_rows;
mod approvals;
#[cfg(test)]
mod cap_sum_tests;
#[cfg(test)]
mod cap_tests;
mod caps;
mod clock;
#[cfg(test)]
mod clock_tests;
mod destinations;
mod file;
mod file_clock;
pub mod file_place;
mod log_file;
mod main_file;
mod notifications;
#[cfg(test)]
mod put_back_tests;
mod spend_tables;
#[cfg(test)]
mod statement_tests;
mod statements;
#[cfg(test)]
mod test_files;
#[cfg(test)]
mod tests;
mod usage_tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::admission::{AdmissionBatch, AdmissionReply, HaltScope};
use crate::aside::aside;
use crate::error::StoreError;
use crate::identity::{KeptContact, StoreContact};
use crate::instance::{
    ClusterView, InstanceBeat, InstanceIntroduction, InstanceJoined, ResumeResult,
};
use crate::settings::{SqliteSettings, StoreTerms};
use file::StoreFile;
use file_place::FilePlace;

/// A SQLite file. Calls run on tokio's blocking threads, one after another.
pub struct SqliteStore {
    file: Arc<Mutex<StoreFile>>,
    place: Arc<FilePlace>,
    contact_file: PathBuf,
    /// The last contact, which its file gets.
    contact: Arc<Mutex<Option<StoreContact>>>,
    /// Held while the contact file is written, so that it keeps the newest one.
    writing: Arc<Mutex<()>>,
    introduction: Mutex<Option<InstanceIntroduction>>,
}

/// The schema of the file that this version makes and works with.
pub const SQLITE_SCHEMA: u32 = 1;

impl SqliteStore {
    /// The faults that opening an existing file would find before its statements.
    pub fn inspect(path: &Path) -> Result<(), StoreError> {
        match std::fs::metadata(path) {
            Ok(found) => file::is_private(path, &found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(StoreError::file(path, source)),
        }
    }

    /// Opens the file, or makes an empty one.
    pub fn open(settings: &SqliteSettings, terms: StoreTerms) -> Result<Self, StoreError> {
        let file = StoreFile::open(&settings.path, terms)?;
        Ok(Self {
            place: Arc::clone(file.place()),
            file: Arc::new(Mutex::new(file)),
            contact_file: settings.contact_file.clone(),
            contact: Arc::default(),
            writing: Arc::default(),
            introduction: Mutex::new(None),
        })
    }

    /// Where the file lies, for those that have to know whether it still does.
    pub fn place(&self) -> Arc<FilePlace> {
        Arc::clone(&self.place)
    }

    /// Decides a batch in one transaction, on disk when this returns. Nothing is admitted before [`join`](Self::join).
    pub async fn admit(&self, batch: &AdmissionBatch) -> Result<AdmissionReply, StoreError> {
        if self.introduction.lock().is_none() {
            return Err(StoreError::Unexpected(
                "admission before joining".to_owned(),
            ));
        }
        let rows = batch.rows().to_vec();
        self.run(move |file| file.admit(&rows)).await
    }

    /// Joins: refuses another schema, compares the file with the contact file, and draws a number for this run. A file
    /// that was put back refuses money from here on, until [`distrust`](Self::distrust).
    pub async fn join(
        &self,
        introduction: &InstanceIntroduction,
    ) -> Result<InstanceJoined, StoreError> {
        // An attempt before this one may have changed the file, and not this.
        self.save_contact().await?;
        let contact = self.read_contact().await?;
        let asked = introduction.clone();
        let (joined, contact) = self.run(move |file| file.join(&asked, contact)).await?;
        self.write_contact(contact).await?;
        *self.introduction.lock() = Some(introduction.clone());
        Ok(joined)
    }

    /// Forgets the slots out of the ring, and returns the view. Called each second.
    pub async fn beat(&self, beat: &InstanceBeat) -> Result<ClusterView, StoreError> {
        let introduction = self.introduction.lock().clone();
        let introduction = introduction
            .ok_or_else(|| StoreError::Unexpected("a beat before joining".to_owned()))?;
        let beat = beat.clone();
        let run = self.run(move |file| {
            let brought_back = file.bring_back(&beat.known_halts)?;
            let contact = file.beat(&introduction, &beat)?;
            let view = file.view()?;
            let view = ClusterView {
                brought_back,
                ..view
            };
            Ok((view, contact))
        });
        let (view, contact) = run.await?;
        *self.contact.lock() = Some(contact);
        Ok(view)
    }

    /// Writes the contact file. Called after each sign of life.
    pub async fn upkeep(&self) -> Result<(), StoreError> {
        self.save_contact().await
    }

    /// Ends the run: the next start knows that nothing is missing.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let introduction = self.introduction.lock().take();
        let Some(introduction) = introduction else {
            return Ok(());
        };
        let file = Arc::clone(&self.file);
        let contact = aside(move || file.lock().leave(introduction.id)).await?;
        match contact {
            Some(contact) => self.write_contact(contact).await,
            None => Ok(()),
        }
    }

    /// The instance and the halts in the file.
    pub async fn cluster(&self) -> Result<ClusterView, StoreError> {
        self.run(|file| file.view()).await
    }

    /// Halts calls: once this returns, no call that the scope covers is admitted.
    pub async fn halt(&self, scope: &HaltScope, by: &str) -> Result<i64, StoreError> {
        let (scope, by) = (scope.to_string(), by.to_owned());
        self.run(move |file| file.halt(&scope, &by)).await
    }

    /// Ends a halt that was seen with this epoch; 0 if none was seen.
    pub async fn resume(
        &self,
        scope: &HaltScope,
        epoch_seen: i64,
    ) -> Result<ResumeResult, StoreError> {
        let scope = scope.to_string();
        self.run(move |file| file.resume(&scope, epoch_seen)).await
    }

    /// As [`Store::propose_resume`](crate::engine::Store::propose_resume).
    pub async fn propose_resume(
        &self,
        scope: &HaltScope,
        epoch: i64,
        by: &str,
    ) -> Result<Option<String>, StoreError> {
        let (scope, by) = (scope.to_string(), by.to_owned());
        self.run(move |file| file.propose_resume(&scope, epoch, &by))
            .await
    }

    /// Accepts the file as it is, with a guard: the contact file is written anew. Returns until when stamps are refused,
    /// in milliseconds since 1970.
    pub async fn distrust(&self) -> Result<u64, StoreError> {
        let (guarded_until, contact) = self.run(StoreFile::distrust).await?;
        self.write_contact(contact).await?;
        Ok(guarded_until)
    }

    /// Brings the file to the newest schema. Returns the schema before.
    pub async fn migrate(&self) -> Result<u32, StoreError> {
        self.run(StoreFile::migrate).await
    }

    /// The schema of the file; 0 if it has none.
    pub async fn schema(&self) -> Result<u32, StoreError> {
        self.run(|file| file.schema()).await
    }

    /// Fails with [`StoreError::Damaged`] if pages of the file do not fit together. It reads the whole file.
    pub async fn check_pages(&self) -> Result<(), StoreError> {
        self.run(|file| file.check_pages()).await
    }

    /// Whether the file was put back, and no operator has accepted it.
    pub async fn is_restored(&self) -> Result<bool, StoreError> {
        self.run(|file| file.is_restored()).await
    }

    async fn read_contact(&self) -> Result<Option<KeptContact>, StoreError> {
        let path = self.contact_file.clone();
        aside(move || {
            let contact = StoreContact::read(&path);
            contact.map_err(|source| StoreError::file(&path, source))
        })
        .await
    }

    async fn write_contact(&self, contact: StoreContact) -> Result<(), StoreError> {
        *self.contact.lock() = Some(contact);
        self.save_contact().await
    }

    async fn save_contact(&self) -> Result<(), StoreError> {
        let path = self.contact_file.clone();
        let (contact, writing) = (Arc::clone(&self.contact), Arc::clone(&self.writing));
        aside(move || {
            let _alone = writing.lock();
            let newest = *contact.lock();
            let written = newest.map_or(Ok(()), |contact| contact.write(&path));
            written.map_err(|source| StoreError::file(&path, source))
        })
        .await
    }

    /// Has the contact file know the last commit of this process, since the file is not this process' any more. The process may
    /// end before it could say more, and what lies in the file's place lacks what was committed since the last sign of life.
    async fn save_last_commit(&self) {
        let last = self.file.lock().newest();
        if last.is_none() || *self.contact.lock() == last {
            return;
        }
        *self.contact.lock() = last;
        // The call fails for the exchanged file all the same, and the end of the run tries again.
        let _next_time = self.save_contact().await;
    }

    /// Makes a call. It fails if the file was exchanged meanwhile: the next start finds another one.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut StoreFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        let done = aside(move || {
            let mut file = file.lock();
            file.check()?;
            let done = call(&mut file)?;
            file.check()?;
            let _later = file.shorten_log();
            Ok(done)
        })
        .await;
        if matches!(done, Err(StoreError::Replaced)) {
            self.save_last_commit().await;
        }
        done
    }
}
