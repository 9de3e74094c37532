//! Store use: a file in `state_dir` that says that a run of this folder served with a store.
//!
//! Other instances may have admitted stamps there that this folder does not know. The first run without the store is
//! therefore guarded, also if it takes over the memory of the run before.

use std::io;
use std::path::Path;

use gatepay_tenancy::settings::{Settings, StoreSettings};

use crate::process::file_access;
use crate::process::files::FileSystem;

/// The file's name. It holds how far ahead of this machine's clock a stamp may be that an instance of the store admitted,
/// in milliseconds.
const NAME: &str = "store-used";

/// Notes the use, before anything is admitted through the store. Of several configurations the longest lead is kept.
pub fn note(folder: &Path, lead_ms: u64) -> io::Result<()> {
    let longest = match lead(folder)? {
        Some(noted) if noted >= lead_ms => return Ok(()),
        _ => lead_ms,
    };
    let text = format!("{longest}\n");
    file_access::replace(&FileSystem::default(), folder, NAME, |file| {
        file.write_all(text.as_bytes())
    })?;
    Ok(())
}

/// The noted lead, if a store was used. A file without a number counts as the longest lead of any configuration.
pub fn lead(folder: &Path) -> io::Result<Option<u64>> {
    let text = file_access::read_own(&FileSystem::default(), &folder.join(NAME))?;
    let number = |text: Vec<u8>| str::from_utf8(&text).ok()?.trim_end().parse().ok();
    Ok(text.map(|text| number(text).unwrap_or(LONGEST_MS)))
}

/// Removes the file, once a run without the store is guarded.
pub fn forget(folder: &Path) -> io::Result<()> {
    let files = FileSystem::default();
    file_access::remove(&files, &folder.join(NAME))?;
    files.sync_folder(folder)
}

/// The longest `timestamp.future_ms` and the longest `store.max_skew_ms` together.
const LONGEST_MS: u64 = Settings::LONGEST_FUTURE_MS + StoreSettings::LONGEST_SKEW_MS;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_longest_lead_is_kept_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(lead(folder).unwrap(), None);
        for (noted, kept) in [(11_000, 11_000), (61_000, 61_000), (1_300, 61_000)] {
            note(folder, noted).unwrap();
            assert_eq!(lead(folder).unwrap(), Some(kept));
        }
        fs::write(folder.join(NAME), "torn").unwrap();
        assert_eq!(lead(folder).unwrap(), Some(LONGEST_MS));
        forget(folder).unwrap();
        forget(folder).unwrap();
        assert_eq!(lead(folder).unwrap(), None);
    }
}
