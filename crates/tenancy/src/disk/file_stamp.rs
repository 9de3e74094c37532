//! Stamps of files, by which a change is seen without reading the file.

use std::cell::RefCell;
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Device, inode, size and both times of a file, as one number; there may be two hundred thousand of them.
///
/// Links are followed: Kubernetes swaps a whole folder by turning one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp(u64);

impl FileStamp {
    /// The file does not exist, or cannot be looked at.
    pub(crate) const NOTHING: Self = Self(0);

    pub(crate) fn at(path: &Path) -> Self {
        fs::metadata(path).map_or(Self::NOTHING, |seen| Self::of(&seen))
    }

    /// Of a file that is open, too: then it is that file's, even if its name leads to another by now.
    pub(crate) fn of(seen: &Metadata) -> Self {
        let mut hash = DefaultHasher::new();
        (seen.dev(), seen.ino(), seen.mode(), seen.size()).hash(&mut hash);
        (seen.mtime(), seen.mtime_nsec()).hash(&mut hash);
        // Changes with the owner and the mode too, and cannot be set back.
        (seen.ctime(), seen.ctime_nsec()).hash(&mut hash);
        Self(hash.finish().max(1))
    }

    /// The stamp of several files together, in this order.
    pub(crate) fn and(self, others: impl Iterator<Item = Self>) -> Self {
        let one = |all: Self, other: Self| Self(all.0.rotate_left(1).wrapping_add(other.0));
        others.fold(self, one)
    }
}

/// A file and its stamp when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StampedFile {
    pub(crate) path: Box<Path>,
    pub(crate) stamp: FileStamp,
}

impl StampedFile {
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.into(),
            stamp: FileStamp::at(path),
        }
    }
}

/// The files that were opened for one reading: a file, then its secrets.
#[derive(Default)]
pub(crate) struct FilesRead(RefCell<Vec<StampedFile>>);

impl FilesRead {
    pub(crate) fn note(&self, path: &Path, look: FileStamp) {
        let path = path.into();
        self.0.borrow_mut().push(StampedFile { path, stamp: look });
    }

    /// The file's stamp, and its secrets.
    pub(crate) fn into_seen(self) -> (FileStamp, Box<[StampedFile]>) {
        let mut all = self.0.into_inner().into_iter();
        let first = all.next().map_or(FileStamp::NOTHING, |file| file.stamp);
        (first, all.collect())
    }
}
