//! File place: whether the open file still lies where it was opened.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::StoreError;

/// Where the open file lies. Another process locks the file that it finds under the path: if that is no longer this one, both
/// would admit the same stamps.
#[derive(Debug)]
pub struct FilePlace {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Set once the path led to another file, or to none. It stays set if the file is put back: another process may have used
    /// the other one meanwhile.
    was_left: AtomicBool,
}

impl FilePlace {
    pub(super) fn of(path: &Path, file: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
            was_left: AtomicBool::new(false),
        }
    }

    /// Whether no other process can have had a file under the path, as far as can be seen.
    pub fn is_kept(&self) -> bool {
        self.check().is_ok()
    }

    /// Fails once the path has led to another file, or to none.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.was_left.load(Ordering::Acquire) {
            return Err(StoreError::Replaced);
        }
        let leads_here = match self.path.metadata() {
            Ok(now) => (now.dev(), now.ino()) == (self.device, self.inode),
            Err(error) if is_missing(error.kind()) => false,
            Err(error) => return Err(StoreError::file(&self.path, error)),
        };
        if leads_here {
            return Ok(());
        }
        self.leave();
        Err(StoreError::Replaced)
    }

    /// Has the file count as exchanged.
    pub(super) fn leave(&self) {
        self.was_left.store(true, Ordering::Release);
    }
}

fn is_missing(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::NotFound | ErrorKind::NotADirectory)
}
