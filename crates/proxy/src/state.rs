//! The state folder: who owns the replay memory, and whether a run before this one may have admitted stamps.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The lock on the folder, held until dropped.
pub struct State {
    _lock: File,
    /// Whether stamps of an earlier run have to go stale before requests are admitted.
    pub guarded: bool,
}

/// Marks a folder that was in use, so that a first start is told apart from one whose hand-over was lost.
const USED: &str = "used";

impl State {
    /// Takes the lock. A folder that was never used needs no guard: nothing can have been admitted before.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
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
        let used = folder.join(USED);
        let guarded = match OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&used)
        {
            Ok(marker) => {
                marker.sync_all()?;
                File::open(folder)?.sync_all()?;
                false
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(error) => return Err(error),
        };
        Ok(Self {
            _lock: lock,
            guarded,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_that_was_never_used_needs_no_guard() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!State::open(folder.path()).unwrap().guarded);
        assert!(State::open(folder.path()).unwrap().guarded);
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
