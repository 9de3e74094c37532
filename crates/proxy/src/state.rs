//! The state folder: who owns the replay memory, and whether a run before this one may have admitted stamps.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

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
/// What is handed over.
const MEMORY: &str = "replay";

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
        let inheritance = match private().create_new(true).open(self.folder.join(USED)) {
            Ok(marker) => {
                marker.sync_all()?;
                Inheritance::FirstStart
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.take_memory()?,
            Err(error) => return Err(error),
        };
        // Before anything is admitted it is certain that the folder is marked and the memory is gone.
        self.sync_folder()?;
        Ok(inheritance)
    }

    fn take_memory(&self) -> io::Result<Inheritance> {
        let memory = self.folder.join(MEMORY);
        match fs::read(&memory) {
            Ok(bytes) => {
                fs::remove_file(&memory)?;
                Ok(Inheritance::HandedOver(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Inheritance::Lost),
            Err(error) => Err(error),
        }
    }

    /// Leaves the memory for the next run: whole or not at all.
    pub fn hand_over(&self, memory: &[u8]) -> io::Result<()> {
        let unfinished = self.folder.join("replay.unfinished");
        let mut file = private().create(true).truncate(true).open(&unfinished)?;
        file.write_all(memory)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.folder.join(MEMORY))?;
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

    #[test]
    fn a_first_start_is_told_apart_from_a_lost_hand_over() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(inherit(folder.path()), Inheritance::FirstStart);
        assert_eq!(inherit(folder.path()), Inheritance::Lost);
    }

    #[test]
    fn what_is_handed_over_is_used_once() {
        let folder = tempfile::tempdir().unwrap();
        State::open(folder.path()).unwrap().inherit().unwrap();
        State::open(folder.path())
            .unwrap()
            .hand_over(b"memory")
            .unwrap();
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
    fn two_processes_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = State::open(folder.path()).unwrap();
        assert_eq!(
            State::open(folder.path()).err().unwrap().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
