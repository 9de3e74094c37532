//! The state folder: who owns the replay memory, and whether a run before this one may have admitted stamps.
//!
//! | file | |
//! | --- | --- |
//! | `lock` | held by the process that runs |
//! | `used` | says that there was a run, and has the number of the latest |
//! | `mark` | above which no stamp was admitted, see [`mark`](crate::mark) |
//! | `replay` | between two runs: the memory, for the next |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::clock;
use crate::mark::Mark;

/// The lock on the folder, held until dropped.
pub struct State {
    _lock: File,
    folder: PathBuf,
}

/// What a run before this one left.
#[derive(Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// There was none: nothing can have been admitted before.
    FirstStart,
    /// Its replay memory, handed over when it ended in order.
    HandedOver(Vec<u8>),
    /// Nothing, though there was one: what it admitted is unknown.
    Lost,
}

/// Marks a folder that was in use, so that a first start is told apart from one whose hand-over was lost.
const USED: &str = "used";
/// How often a successor looks whether the lock is free.
const LOOK: Duration = Duration::from_millis(5);
/// Written by every run, so that a folder that has it was used too.
const MARK: &str = "mark";
/// What is handed over.
const MEMORY: &str = "replay";
/// The number of a run, in hexadecimal: random, so that no two runs have the same.
const RUN: usize = 32;
/// Behind the memory: the run that left it, and when its file was made, in milliseconds since 1970.
const TRAILER: usize = RUN + 8;
/// How long after it was made the file may have got its name and place. Restored from a backup it gets them much later.
const MADE_WITHIN_MS: i64 = 60_000;

impl State {
    /// Takes the lock. Nothing is changed yet: a start that goes no further leaves the memory where it is.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = private()
            .create(true)
            .truncate(false)
            .open(folder.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "{} is in use: one process at a time may own the replay memory",
                    folder.display()
                ),
            ),
            TryLockError::Error(error) => error,
        })?;
        Ok(Self {
            _lock: lock,
            folder: folder.to_owned(),
        })
    }

    /// The same once the process before this one lets go of it, for a successor that was started while that one drains.
    pub fn open_in_turn(folder: &Path, patience: Duration) -> io::Result<Self> {
        let began = Instant::now();
        let mut told = false;
        loop {
            match Self::open(folder) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if began.elapsed() >= patience {
                        return Err(error);
                    }
                    if !told {
                        told = true;
                        let folder = folder.display();
                        tracing::info!(%folder, ?patience, "waiting for the process before this one to hand over");
                    }
                    sleep(LOOK);
                }
                opened => return opened,
            }
        }
    }

    /// Takes what a run before this one left. It is removed as it is read, so that it is used once.
    pub fn inherit(&self) -> io::Result<Inheritance> {
        let inheritance = match fs::read(self.folder.join(USED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if self.folder.join(MARK).exists() => Inheritance::Lost,
            Err(_) => Inheritance::FirstStart,
            Ok(run) => self.memory_of(&run)?,
        };
        // Before anything is admitted it is certain that the folder is marked, and that no memory is for the next run
        // but what this one will leave: a copy of the file names another run.
        let run = hex::encode(clock::random::<{ RUN / 2 }>());
        self.replace(USED, |file| file.write_all(run.as_bytes()))?;
        match fs::remove_file(self.folder.join(MEMORY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.sync_folder()?,
        }
        Ok(inheritance)
    }

    /// The mark, as it was left.
    pub fn mark(&self) -> io::Result<Mark> {
        let mark = private()
            .read(true)
            .create(true)
            .truncate(false)
            .open(self.folder.join(MARK))?;
        self.sync_folder()?;
        Ok(Mark::in_file(mark))
    }

    /// The memory that this run left, if it is there, and the very file that was left.
    fn memory_of(&self, run: &[u8]) -> io::Result<Inheritance> {
        let path = self.folder.join(MEMORY);
        let mut memory = match fs::read(&path) {
            Ok(memory) => memory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inheritance::Lost),
            Err(error) => return Err(error),
        };
        let content = memory.len().saturating_sub(TRAILER);
        let trailer = memory.split_off(content);
        let of_run = trailer.strip_prefix(run).filter(|_| run.len() == RUN);
        let made = of_run.and_then(|made| made.try_into().ok());
        let there = fs::metadata(&path)?;
        let there = there.ctime() * 1000 + there.ctime_nsec() / 1_000_000;
        let lies = made.map(|made| there.saturating_sub(i64::from_le_bytes(made)));
        if lies.is_some_and(|lies| (-MADE_WITHIN_MS..=MADE_WITHIN_MS).contains(&lies)) {
            return Ok(Inheritance::HandedOver(memory));
        }
        tracing::warn!(
            "the replay memory in state_dir is not the file that the latest run left there: it is not used"
        );
        Ok(Inheritance::Lost)
    }

    /// Leaves the memory for the next run: whole or not at all.
    pub fn hand_over(&self, memory: &[u8]) -> io::Result<()> {
        let run = fs::read(self.folder.join(USED))?;
        self.replace(MEMORY, |file| {
            file.write_all(memory)?;
            file.write_all(&run)?;
            // By the clock that will say when it got its name.
            let made = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
            let made = made.map_err(io::Error::other)?.as_millis();
            let made = i64::try_from(made).map_err(io::Error::other)?;
            file.write_all(&made.to_le_bytes())
        })
    }

    /// Writes a file anew: whoever reads it finds all of it or all of the one before, whenever the machine stops.
    fn replace(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let unfinished = self.folder.join(format!("{name}.unfinished"));
        let mut file = private().create(true).truncate(true).open(&unfinished)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.folder.join(name))?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// For writing, readable by the owner alone: the memory's key would let others aim for collisions.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherit(folder: &Path) -> Inheritance {
        State::open(folder).unwrap().inherit().unwrap()
    }

    fn hand_over(folder: &Path, memory: &[u8]) {
        State::open(folder).unwrap().hand_over(memory).unwrap();
    }

    #[test]
    fn a_first_start_is_told_apart_from_a_lost_hand_over() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(inherit(folder.path()), Inheritance::FirstStart);
        assert_eq!(inherit(folder.path()), Inheritance::Lost);
        State::open(folder.path()).unwrap().mark().unwrap();
        fs::remove_file(folder.path().join(USED)).unwrap();
        assert_eq!(inherit(folder.path()), Inheritance::Lost, "it has a mark");
    }

    #[test]
    fn what_is_handed_over_is_used_once() {
        let folder = tempfile::tempdir().unwrap();
        inherit(folder.path());
        hand_over(folder.path(), b"memory");
        drop(State::open(folder.path()).unwrap());
        assert_eq!(
            inherit(folder.path()),
            Inheritance::HandedOver(b"memory".to_vec()),
            "a start that failed took nothing"
        );
        assert_eq!(
            inherit(folder.path()),
            Inheritance::Lost,
            "it may have admitted more since"
        );
    }

    #[test]
    fn a_memory_that_is_put_back_is_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let memory = folder.path().join(MEMORY);
        inherit(folder.path());
        hand_over(folder.path(), b"memory");
        let backup = fs::read(&memory).unwrap();
        inherit(folder.path());
        fs::write(&memory, &backup).unwrap();
        assert_eq!(
            inherit(folder.path()),
            Inheritance::Lost,
            "after a run that left none"
        );
        hand_over(folder.path(), b"newer");
        fs::write(&memory, &backup).unwrap();
        assert_eq!(
            inherit(folder.path()),
            Inheritance::Lost,
            "instead of the newer one"
        );
        assert!(!memory.exists());
    }

    /// The whole folder comes back, so that memory and run agree; only the system knows that the file is younger.
    #[test]
    fn a_folder_from_a_backup_hands_nothing_over() {
        let folder = tempfile::tempdir().unwrap();
        inherit(folder.path());
        hand_over(folder.path(), b"memory");
        let memory = folder.path().join(MEMORY);
        let mut older = fs::read(&memory).unwrap();
        let made = older.split_off(older.len() - 8);
        let made = i64::from_le_bytes(made.try_into().unwrap()) - MADE_WITHIN_MS - 1_000;
        older.extend(made.to_le_bytes());
        fs::write(&memory, older).unwrap();
        assert_eq!(inherit(folder.path()), Inheritance::Lost);
    }

    #[test]
    fn half_a_memory_and_an_empty_one_hand_nothing_over() {
        let folder = tempfile::tempdir().unwrap();
        inherit(folder.path());
        hand_over(folder.path(), b"memory");
        let memory = folder.path().join(MEMORY);
        let (used, whole) = (folder.path().join(USED), fs::read(&memory).unwrap());
        let run = fs::read(&used).unwrap();
        for cut in 0..whole.len() {
            fs::write(&memory, &whole[..cut]).unwrap();
            fs::write(&used, &run).unwrap();
            assert_eq!(inherit(folder.path()), Inheritance::Lost, "cut at {cut}");
        }
        fs::write(&used, "").unwrap();
        fs::write(&memory, &whole).unwrap();
        assert_eq!(inherit(folder.path()), Inheritance::Lost, "no run is named");
    }

    #[test]
    fn nobody_else_may_read_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        inherit(folder.path());
        State::open(folder.path()).unwrap().mark().unwrap();
        hand_over(folder.path(), b"memory");
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{:?}", file.file_name());
        }
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = State::open(folder.path()).unwrap();
        assert_eq!(
            State::open(folder.path()).err().unwrap().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
