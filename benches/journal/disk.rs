//! The disk itself: its file system, and the time of a sync.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// The number of syncs in each measurement.
const SYNCS: usize = 100;
/// Bytes added before each sync: about the size of a few dozen records.
const BYTES: usize = 16 * 1024;

/// The time of each sync of a growing file in this folder, in milliseconds.
pub(super) fn syncs(folder: &Path) -> Vec<f64> {
    let path = folder.join("probe");
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create_new(true).open(&path).unwrap();
    let bytes = [b'x'; BYTES];
    let sync = |_| {
        file.write_all(&bytes).unwrap();
        let begun = Instant::now();
        file.sync_data().unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    };
    let took = (0..SYNCS).map(sync).collect();
    fs::remove_file(path).unwrap();
    took
}

/// The file system of a folder. A file system in memory has no syncs, so it is refused.
pub(super) fn describe(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let holding = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            folder.starts_with(at).then_some((at.len(), device, kind))
        })
        .max();
    let (_, device, kind) = holding.unwrap();
    assert!(
        !matches!(kind, "tmpfs" | "ramfs"),
        "{} is in memory; name a folder on a disk with JOURNAL_DIR",
        folder.display()
    );
    format!("{kind}, {device}")
}
