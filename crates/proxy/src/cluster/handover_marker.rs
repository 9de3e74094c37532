//! Hand-over marker: a file in `state_dir` that says that this folder's last run admitted requests through one store only.
//!
//! The store then has every stamp that the run admitted, and the next start need not wait for them to go stale. A run
//! without a store removes the file before it serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cluster::fingerprint::FingerprintKey;
use crate::process::file_access;
use crate::process::files::FileSystem;

/// The file's name.
const NAME: &str = "store-joined";

/// The marker in one folder.
pub struct HandoverMarker {
    folder: PathBuf,
    /// From when on it may be written, in milliseconds since 1970: no stamp of a run without the store is fresh then.
    from_ms: AtomicU64,
}

impl HandoverMarker {
    /// The marker in this folder. It may not be written yet.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.into(),
            from_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the file names the store of this key. An unreadable file names none.
    pub fn names(&self, key: &FingerprintKey) -> bool {
        let text = file_access::read_own(&FileSystem::default(), &self.folder.join(NAME));
        let named = |text: Vec<u8>| text.trim_ascii_end() == key.store_name().as_bytes();
        text.is_ok_and(|text| text.is_some_and(named))
    }

    /// Allows the file from this time on.
    pub fn may_be_written_from(&self, unix_ms: u64) {
        self.from_ms.store(unix_ms, Ordering::Release);
    }

    /// Writes the file if it is time and was not done yet.
    pub fn write(&self, key: &FingerprintKey, now_ms: u64) -> io::Result<()> {
        if now_ms < self.from_ms.load(Ordering::Acquire) {
            return Ok(());
        }
        let name = format!("{}\n", key.store_name());
        file_access::replace(&FileSystem::default(), &self.folder, NAME, |file| {
            file.write_all(name.as_bytes())
        })?;
        self.from_ms.store(u64::MAX, Ordering::Release);
        Ok(())
    }

    /// Whether a folder has the file.
    pub fn is_in(folder: &Path) -> io::Result<bool> {
        folder.join(NAME).try_exists()
    }

    /// Removes the file of a folder, before its next run admits requests without a store.
    pub fn remove(folder: &Path) -> io::Result<()> {
        let files = FileSystem::default();
        file_access::remove(&files, &folder.join(NAME))?;
        files.sync_folder(folder)
    }
}
