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
    file: FileId,
    /// Set once the path led to another file, or to none. It stays set if the file is put back: another process may have used
    /// the other one meanwhile.
    was_left: AtomicBool,
    /// Set once the file or its log was found to be changed by something else than this process.
    is_given_up: AtomicBool,
}

/// The identity of a file on this machine, under any path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

impl FilePlace {
    pub(super) fn of(path: &Path, file: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            file: FileId::of(file),
            was_left: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// Whether no other process can have had a file under the path, as far as can be seen.
    pub fn is_kept(&self) -> bool {
        self.check().is_ok()
    }

    /// Fails once the path has led to another file, or to none, or the file was [given up](Self::give_up).
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let is_given_up = self.is_given_up.load(Ordering::Acquire);
        if self.is_always_here()? && !is_given_up {
            return Ok(());
        }
        Err(StoreError::Replaced)
    }

    /// Whether the path has led to the open file each time that it was looked at.
    pub(super) fn is_always_here(&self) -> Result<bool, StoreError> {
        if self.was_left.load(Ordering::Acquire) {
            return Ok(false);
        }
        let leads_here = match self.path.metadata() {
            Ok(now) => FileId::of(&now) == self.file,
            Err(error) if is_missing(error.kind()) => false,
            Err(error) => return Err(StoreError::file(&self.path, error)),
        };
        if !leads_here {
            self.was_left.store(true, Ordering::Release);
        }
        Ok(leads_here)
    }

    /// Has the file count as exchanged.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
    }
}

fn is_missing(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::NotFound | ErrorKind::NotADirectory)
}
