//! Previous instance: a file in `state_dir` with the number under which this folder's last run joined the store.
//!
//! A run that leaves the folder to the next one removes the file, since its last calls may still be in flight, and gives its
//! loans back by itself. So the file is that of a run that has ended: the store's loans to it are free at once, also after a
//! crash.

use std::io;
use std::path::Path;

use crate::process::file_access;
use crate::process::files::{FileSystem, if_exists};

/// The file's name.
const NAME: &str = "store-instance";

/// Writes the number of this run's instance, and returns that of the last run, if the file has one.
pub(super) fn replace(folder: &Path, id: i64) -> io::Result<Option<i64>> {
    let text = file_access::read_own(&FileSystem::default(), &folder.join(NAME));
    let number = |text: Vec<u8>| str::from_utf8(&text).ok()?.trim_end().parse().ok();
    let previous = text.ok().flatten().and_then(number);
    // Before anything is lent to this run: the next one must not take an older run's number for it.
    let text = format!("{id}\n");
    file_access::replace(&FileSystem::default(), folder, NAME, |file| {
        file.write_all(text.as_bytes())
    })?;
    Ok(previous)
}

/// Removes the file: this run goes on beside the next one.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    if_exists(FileSystem::default().remove(&folder.join(NAME))).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_finds_the_number_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let runs = [7, -8].map(|id| replace(folder.path(), id).unwrap());
        assert_eq!(runs, [None, Some(7)]);
        std::fs::write(folder.path().join(NAME), "torn").unwrap();
        assert_eq!(replace(folder.path(), 9).unwrap(), None);
        assert_eq!(replace(folder.path(), 10).unwrap(), Some(9));
        // Run 10 hands the folder over, and its last calls are still in flight.
        remove(folder.path()).unwrap();
        assert_eq!(replace(folder.path(), 11).unwrap(), None);
    }
}
