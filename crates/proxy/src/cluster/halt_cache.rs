//! Halt cache: a file in `state_dir` with the store's halts in force as this folder's last run saw them.
//!
//! A run that starts while the store is away knows them for reads without the store, and a store that has lost them gets
//! them back. Another store gets them too, and a run without one keeps them itself.

use std::io;
use std::path::{Path, PathBuf};

use gatepay_store::admission::HaltScope;
use gatepay_store::instance::HaltInForce;
use serde::{Deserialize, Serialize};

use crate::cluster::fingerprint::FingerprintKey;
use crate::process::file_access;
use crate::process::files::FileSystem;

/// The file's name.
const NAME: &str = "store-halts";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HaltCache {
    /// The name of the store, by its key.
    store: String,
    halts: Vec<CachedHalt>,
}

/// A halt as the store showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CachedHalt {
    scope: String,
    since_ms: u64,
    by: String,
    epoch: i64,
}

/// The file of one folder.
pub(super) struct HaltCacheFile {
    path: PathBuf,
    written: Option<HaltCache>,
}

impl HaltCache {
    pub(super) fn new(key: &FingerprintKey, halts: &[HaltInForce]) -> Self {
        let halts = halts.iter().map(|halt| CachedHalt {
            scope: halt.scope.to_string(),
            since_ms: halt.since_ms,
            by: halt.by.clone(),
            epoch: halt.epoch,
        });
        Self {
            store: key.store_name(),
            halts: halts.collect(),
        }
    }

    /// Whether the halts are those of the store with this key.
    pub(super) fn is_of(&self, key: &FingerprintKey) -> bool {
        self.store == key.store_name()
    }

    pub(super) fn halts(&self) -> Vec<HaltInForce> {
        let halts = self.halts.iter().map(|halt| HaltInForce {
            scope: HaltScope::parse(&halt.scope),
            since_ms: halt.since_ms,
            by: halt.by.clone(),
            epoch: halt.epoch,
        });
        halts.collect()
    }
}

impl HaltCacheFile {
    /// The file in this folder, and the cache that it has. A torn file has none.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Option<HaltCache>)> {
        let path = folder.join(NAME);
        let text = file_access::read_own(&FileSystem::default(), &path)?;
        let written: Option<HaltCache> = text.and_then(|text| serde_json::from_slice(&text).ok());
        let file = Self {
            path,
            written: written.clone(),
        };
        Ok((file, written))
    }

    /// Writes a cache, unless the file has it. Waits for the disk.
    pub(super) fn keep(&mut self, cache: HaltCache) -> io::Result<()> {
        if self.written.as_ref() == Some(&cache) {
            return Ok(());
        }
        let text = serde_json::to_vec(&cache)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        file_access::replace(&FileSystem::default(), folder, NAME, |file| {
            file.write_all(&text)
        })?;
        self.written = Some(cache);
        Ok(())
    }
}

/// The halts that the last run of a folder saw in its store; `None` without a file. A damaged file is an error.
pub fn left_in(folder: &Path) -> io::Result<Option<Vec<HaltInForce>>> {
    let path = folder.join(NAME);
    let Some(text) = file_access::read_own(&FileSystem::default(), &path)? else {
        return Ok(None);
    };
    let left: HaltCache = serde_json::from_slice(&text).map_err(|_damaged| {
        let text = format!(
            "{} is damaged: it says which calls were halted in the store that the configuration has no more. Put it back from a copy, or remove it to halt none of them",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    Ok(Some(left.halts()))
}

/// Removes a folder's file, once its halts are kept without a store.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let files = FileSystem::default();
    file_access::remove(&files, &folder.join(NAME))?;
    files.sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn key(byte: u8) -> FingerprintKey {
        FingerprintKey::new(Zeroizing::new([byte; 16]))
    }

    #[test]
    fn a_run_finds_the_halts_that_the_one_before_saw_and_none_in_a_torn_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (mut file, found) = HaltCacheFile::open(folder).unwrap();
        assert_eq!(found, None);
        let halts = ["suspended:acme", "another:scope"].map(|scope| HaltInForce {
            scope: HaltScope::parse(scope),
            since_ms: 7,
            by: "alice \"a\"\n".to_owned(),
            epoch: 8,
        });
        file.keep(HaltCache::new(&key(1), &halts)).unwrap();
        let found = HaltCacheFile::open(folder).unwrap().1.unwrap();
        assert_eq!(found.halts(), halts);
        assert!(found.is_of(&key(1)) && !found.is_of(&key(2)));
        file.keep(HaltCache::new(&key(1), &[])).unwrap();
        let found = HaltCacheFile::open(folder).unwrap().1.unwrap();
        assert_eq!(found.halts(), []);
        std::fs::write(folder.join(NAME), "{\"store\":").unwrap();
        assert_eq!(HaltCacheFile::open(folder).unwrap().1, None);
    }
}
