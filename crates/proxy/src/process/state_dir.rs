//! The state folder: the ownership of the replay memory, and whether a previous run may have admitted stamps.
//!
//! | file | |
//! | --- | --- |
//! | `lock` | the lock that the running process holds |
//! | `used` | states that there was a run, and holds the number of the latest |
//! | `mark` | the moment above which no stamp was admitted, see [`watermark`](crate::process::watermark) |
//! | `replay` | between two runs: the replay memory for the next run |
//! | `suspended` | the parties that are suspended by hand, see `suspended` |
//! | `never-served` | until the first run: the operator's statement that no run was before |

mod access;
mod evidence;
#[cfg(test)]
mod fault_tests;
mod names;
mod suspended;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::files::{FileSystem, OpenFile, if_exists};
use crate::process::watermark::StampWatermark;
use crate::process::{clock, file_access, predecessor};
use evidence::{FileIdentity, HandoverTrailer, RunNumber, TRAILER, boot, modified_ms};
use names::{LOCK, MARK, MEMORY, NEVER_SERVED, USED};
pub use suspended::{Suspension, SuspensionFile, SuspensionList};

/// The lock on the folder, held until dropped.
pub struct StateDir {
    files: FileSystem,
    lock: OpenFile,
    folder: PathBuf,
    identity: FileIdentity,
    /// The number of this run, once it has [inherited](Self::inherit) the folder.
    run: Option<RunNumber>,
}

/// The state that the previous run left.
#[derive(Debug, PartialEq, Eq)]
pub enum PreviousRun {
    /// There was no previous run, by the operator's statement or because the credentials were made a moment ago: no
    /// stamp can have been admitted before.
    NeverServed,
    /// There was no previous run in this folder; there may have been runs elsewhere.
    FirstUse,
    /// The replay memory of the previous run, handed over in an orderly shutdown.
    HandedOver(Vec<u8>),
    /// No replay memory, although there was a previous run: its admissions are unknown.
    Lost,
}

/// A replay memory that was left for the next run, by a process that has not ended yet.
pub struct HandoverFile {
    memory: OpenFile,
    last: u8,
    at: u64,
}

/// The state of the folder after [`init`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitResult {
    /// No process ever used the folder, and now the folder states that no process ever served the credentials.
    NeverServed,
    /// No process ever used the folder; the first start will wait.
    Unused,
    /// A process used the folder: there is nothing to do.
    Used,
}

/// The one foreign entry that an unused folder may contain, made by the file system.
const LOST_AND_FOUND: &str = "lost+found";

impl StateDir {
    /// Takes the lock. Nothing is changed yet: if the start fails later, the replay memory stays in place.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::open_with(FileSystem::default(), folder)
    }

    fn open_with(files: FileSystem, folder: &Path) -> io::Result<Self> {
        let folder = access::open_folder(&files, folder)?;
        let lock = access::open(&files, &folder.join(LOCK))?;
        if !lock.try_lock()? {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "{} is in use: one process at a time may own the replay memory",
                    folder.display()
                ),
            ));
        }
        Ok(Self {
            lock,
            identity: FileIdentity::of(&files.metadata(&folder)?),
            folder,
            files,
            run: None,
        })
    }

    /// Like [`open`](Self::open), but waits until the previous process releases the lock, for a successor that starts
    /// while the previous process drains.
    pub fn open_in_turn(folder: &Path, patience: Duration) -> io::Result<Self> {
        let is_held = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        predecessor::open_after(
            patience,
            || Self::open(folder),
            is_held,
            || {
                let folder = folder.display();
                tracing::info!(%folder, ?patience, "waiting for the process before this one to hand over state_dir");
            },
        )
    }

    /// Takes the replay memory that the previous run left less than `within` ago. The file is removed as it is read, so
    /// that it is used once.
    pub fn inherit(&mut self, within: Duration) -> io::Result<PreviousRun> {
        let inheritance = match access::read(&self.files, &self.path(USED))? {
            Some((run, _)) => self.memory_of(&run, within)?,
            None if self.files.is_there(&self.path(MARK))?
                || self.files.is_there(&self.path(MEMORY))? =>
            {
                PreviousRun::Lost
            }
            None if self.is_never_served()? => PreviousRun::NeverServed,
            None => {
                let folder = self.folder.display();
                tracing::warn!(
                    %folder,
                    "state_dir is used for the first time: earlier requests are unknown, so requests wait"
                );
                PreviousRun::FirstUse
            }
        };
        // Before anything is admitted, the folder is durably marked as used, and the only replay memory for the next
        // run is the one that this run will leave: a copy of the file names another run.
        let mut run = RunNumber::default();
        hex::encode_to_slice(clock::random::<16>(), &mut run).map_err(io::Error::other)?;
        self.replace(USED, |file| file.write_all(&run))?;
        self.run = Some(run);
        file_access::remove(&self.files, &self.path(MEMORY))?;
        file_access::remove(&self.files, &self.path(NEVER_SERVED))?;
        self.sync_folder()?;
        Ok(inheritance)
    }

    /// The stamp watermark of the previous run. A new file is intact once it has its name, so a file that is not was
    /// damaged.
    pub fn watermark(&self) -> io::Result<StampWatermark> {
        let until_ms = match access::read(&self.files, &self.path(MARK))? {
            None => Some(0),
            Some((content, metadata)) => {
                let damaged = StampWatermark::damaged(&content, modified_ms(&metadata));
                if let Some(until_ms) = damaged {
                    tracing::error!(
                        until_ms,
                        "the mark in state_dir is damaged: stamps up to the latest possible mark are refused"
                    );
                }
                damaged
            }
        };
        if let Some(until_ms) = until_ms {
            self.replace(MARK, |file| {
                file.write_all(&StampWatermark::content(until_ms))
            })?;
        }
        let path = self.path(MARK);
        StampWatermark::in_file(access::open(&self.files, &path)?, path)
    }

    /// The replay memory that the run `run` left, if it is there and is the original file.
    fn memory_of(&self, run: &[u8], within: Duration) -> io::Result<PreviousRun> {
        let Some((mut memory, metadata)) = access::read(&self.files, &self.path(MEMORY))? else {
            return Ok(PreviousRun::Lost);
        };
        let trailer = memory.split_off(memory.len().saturating_sub(TRAILER));
        let now_ms = self.now_ms()?;
        let misfit = match HandoverTrailer::parse(&trailer) {
            Some(trailer) => trailer.misfit(run, &metadata, boot(&self.files)?, now_ms, within),
            None => Some("it is not whole, or of another version"),
        };
        let Some(why) = misfit else {
            return Ok(PreviousRun::HandedOver(memory));
        };
        tracing::warn!(
            why,
            "the replay memory in state_dir is not the latest run's: it is not used"
        );
        Ok(PreviousRun::Lost)
    }

    /// The present time by the file system's clock, in milliseconds since 1970.
    fn now_ms(&self) -> io::Result<u64> {
        self.lock.write_all_at(b"\n", 0)?;
        Ok(modified_ms(&self.lock.metadata()?))
    }

    /// Whether the operator's statement is there, and was given for this very folder.
    fn is_never_served(&self) -> io::Result<bool> {
        let Some((word, metadata)) = access::read(&self.files, &self.path(NEVER_SERVED))? else {
            return Ok(false);
        };
        let is_here = word == self.word(FileIdentity::of(&metadata));
        if !is_here {
            tracing::warn!(
                "state_dir is a copy of one that was marked as never served: the mark is ignored"
            );
        }
        Ok(is_here)
    }

    /// The content of the file that states that no process ever served.
    fn word(&self, file: FileIdentity) -> Vec<u8> {
        let identities = [self.identity, file].map(FileIdentity::to_bytes).concat();
        hex::encode(identities).into_bytes()
    }

    /// Writes the replay memory for the next run, entirely or not at all.
    pub fn hand_over(&self, memory: &[u8]) -> io::Result<HandoverFile> {
        let here = FileIdentity::of(&self.files.metadata(&self.folder)?);
        let used = access::read(&self.files, &self.path(USED))?.map(|(run, _)| run);
        let Some(run) = self
            .run
            .filter(|run| here == self.identity && used.as_deref() == Some(run))
        else {
            return Err(io::Error::other(format!(
                "{} is not the folder that this process began with",
                self.folder.display()
            )));
        };
        let mut last = 0;
        let file = self.replace(MEMORY, |file| {
            let metadata = file.metadata()?;
            let trailer = HandoverTrailer {
                run,
                file: FileIdentity::of(&metadata),
                boot: boot(&self.files)?,
                written_ms: modified_ms(&metadata),
            };
            let trailer = trailer.to_bytes();
            last = trailer[TRAILER - 1];
            file.write_all(memory)?;
            file.write_all(&trailer)
        })?;
        Ok(HandoverFile {
            memory: file,
            last,
            at: (memory.len() + TRAILER - 1) as u64,
        })
    }

    /// The file of manual suspensions. It may be written for as long as this process holds the lock.
    pub fn suspensions(&self) -> SuspensionFile {
        let folder = self.folder.clone();
        SuspensionFile::new(self.files.clone(), folder, self.identity)
    }

    /// Whether a process used this folder.
    pub fn is_used(&self) -> io::Result<bool> {
        self.files.is_there(&self.path(USED))
    }

    /// Replaces a file: a reader finds the complete new file or the complete old one, even after the machine stops at
    /// any moment.
    fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut OpenFile) -> io::Result<()>,
    ) -> io::Result<OpenFile> {
        access::replace(&self.files, &self.folder, name, write)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.files.sync_folder(&self.folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl HandoverFile {
    /// Marks the end of this process: the time until the next run counts from now. The content does not change.
    pub fn touch(&self) -> io::Result<()> {
        self.memory.write_all_at(&[self.last], self.at)
    }
}

/// Makes a state folder with access for its owner alone. With `never_served` the folder is marked: no process ever
/// served the credentials of its configuration, so the first start need not wait. A used folder is not marked.
pub fn init(folder: &Path, never_served: bool) -> io::Result<InitResult> {
    let state = StateDir::open(folder)?;
    let known = [LOCK, NEVER_SERVED, LOST_AND_FOUND];
    for name in state.files.names(&state.folder)? {
        if !known.iter().any(|known| name == *known) {
            return Ok(InitResult::Used);
        }
    }
    if !never_served {
        let is_marked = state.is_never_served()?;
        return Ok(if is_marked {
            InitResult::NeverServed
        } else {
            InitResult::Unused
        });
    }
    file_access::remove(&state.files, &state.path(NEVER_SERVED))?;
    state.replace(NEVER_SERVED, |file| {
        let word = state.word(FileIdentity::of(&file.metadata()?));
        file.write_all(&word)
    })?;
    Ok(InitResult::NeverServed)
}

/// Checks the folder for faults by which a start would fail: its permissions and its files. Changes nothing.
pub fn inspect(folder: &Path) -> io::Result<()> {
    if if_exists(access::inspect(&FileSystem::default(), folder))?.is_none() {
        return Ok(());
    }
    match suspended_in(folder) {
        // The user of the service may read the file even if the user of this check may not.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// The manual suspensions that a folder records, while another process may be using the folder.
pub fn suspended_in(folder: &Path) -> io::Result<SuspensionList> {
    suspended::read_in(folder)
}

/// Whether a start with this folder must wait, because it is the first and nothing states that no process served
/// without the folder.
pub fn is_first_use(folder: &Path) -> io::Result<bool> {
    for name in [USED, MARK, MEMORY, NEVER_SERVED] {
        if folder.join(name).try_exists()? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
