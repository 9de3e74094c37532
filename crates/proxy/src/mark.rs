//! Mark: above which moment no run has admitted a stamp. On disk before it is true in memory, for the start after a
//! crash with a clock that came back earlier than it was.
//!
//! Without it the guard after a crash would begin at the clock of that start, and a stamp that was admitted by the later
//! clock before would be new once more. The mark runs ahead of the clock by what a stamp may, so that in normal running
//! it makes nobody wait and adds nothing to the guard; it is moved once every second or so, by the control thread.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Up to which stamp may be admitted now.
pub struct Mark {
    until_ms: AtomicU64,
    moved: Notify,
    /// `None` if there is no folder to keep it in, or no longer.
    place: Mutex<Option<Place>>,
    /// What was found when it was opened.
    left_ms: u64,
}

/// Where it is written next.
struct Place {
    file: File,
    /// Where the next process will look for it.
    path: PathBuf,
    second: bool,
}

/// The file has two places, written in turns, so that one of them is always whole.
const PLACES: [u64; 2] = [0, 4096];
/// A moment and its digest.
const BYTES: usize = 40;
/// The mark runs at least so far ahead, however little the future of stamps is.
const LEAST_LEAD_MS: u64 = 3_000;
/// How long a stamp above the mark waits for it. It is moved once a second, unless the disk is slow.
const PATIENCE: Duration = Duration::from_secs(3);

impl Mark {
    /// Without a folder there is none to keep.
    pub fn nowhere() -> Self {
        Self {
            until_ms: AtomicU64::new(u64::MAX),
            moved: Notify::new(),
            place: Mutex::new(None),
            left_ms: 0,
        }
    }

    /// The mark in the file at this path, which must be open for reading and writing.
    pub fn in_file(file: File, path: PathBuf) -> Self {
        let [first, second] = PLACES.map(|at| read(&file, at).unwrap_or(0));
        let left_ms = first.max(second);
        Self {
            until_ms: AtomicU64::new(left_ms),
            moved: Notify::new(),
            // The later of the two must stay until the other is whole.
            place: Mutex::new(Some(Place {
                file,
                path,
                second: first >= second,
            })),
            left_ms,
        }
    }

    /// Above which no run before this one admitted anything, as far as was written down; 0 if nothing was.
    pub fn left_ms(&self) -> u64 {
        self.left_ms
    }

    /// Leaves the file to the next process: it is not written once this returns.
    pub fn close(&self) {
        *self.place() = None;
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    /// Waits until a stamp is not above the mark; false if that takes too long. At once for nearly every request.
    pub async fn covers(&self, stamp_ms: u64) -> bool {
        let covered = async {
            loop {
                let moved = self.moved.notified();
                if stamp_ms <= self.until_ms() {
                    return;
                }
                moved.await;
            }
        };
        stamp_ms <= self.until_ms() || timeout(PATIENCE, covered).await.is_ok()
    }

    /// Whether it is time to [`advance`](Self::advance) it.
    pub fn is_due(&self, now_ms: u64, future_ms: u64) -> bool {
        let lead = lead(future_ms);
        self.until_ms() < now_ms + lead - lead / 4
    }

    /// Moves the mark ahead of `now_ms` by as much as a stamp may be. Never back. Waits for the disk.
    pub fn advance(&self, now_ms: u64, future_ms: u64) -> io::Result<()> {
        let until_ms = now_ms + lead(future_ms);
        let mut place = self.place();
        let Some(Place { file, path, second }) =
            place.as_mut().filter(|_| until_ms > self.until_ms())
        else {
            return Ok(());
        };
        // The next process would not find it, and might even run already.
        let (there, own) = (fs::symlink_metadata(&*path)?, file.metadata()?);
        if (there.ino(), there.dev()) != (own.ino(), own.dev()) {
            return Err(io::Error::other(format!(
                "{} was exchanged while it was in use",
                path.display()
            )));
        }
        let moment = until_ms.to_le_bytes();
        let digest = Sha256::digest(moment);
        file.write_all_at(
            &[moment.as_slice(), &digest].concat(),
            PLACES[usize::from(*second)],
        )?;
        file.sync_data()?;
        *second = !*second;
        self.until_ms.store(until_ms, Ordering::Release);
        self.moved.notify_waiters();
        Ok(())
    }
}

fn lead(future_ms: u64) -> u64 {
    future_ms.max(LEAST_LEAD_MS)
}

/// What stands in one of the places, if it is whole.
fn read(file: &File, at: u64) -> Option<u64> {
    let mut bytes = [0; BYTES];
    file.read_exact_at(&mut bytes, at).ok()?;
    let (moment, digest) = bytes.split_first_chunk()?;
    (Sha256::digest(moment).as_slice() == digest).then(|| u64::from_le_bytes(*moment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::path::Path;

    const NOW: u64 = 1_767_225_600_000;

    fn open(path: &Path) -> Mark {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Mark::in_file(file.unwrap(), path.to_owned())
    }

    #[test]
    fn it_outlives_the_process_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mark = open(&path);
        assert_eq!(mark.until_ms(), 0);
        for (now, until) in [
            (NOW, NOW + 10_000),
            (NOW + 1_000, NOW + 11_000),
            (NOW - 3_600_000, NOW + 11_000),
        ] {
            mark.advance(now, 10_000).unwrap();
            assert_eq!(mark.until_ms(), until);
            assert_eq!(open(&path).left_ms(), until);
        }
        mark.close();
        mark.advance(NOW + 60_000, 10_000).unwrap();
        assert_eq!(open(&path).left_ms(), NOW + 11_000, "it is the next one's");
    }

    #[test]
    fn it_is_not_moved_where_the_next_process_would_not_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mark = open(&path);
        mark.advance(NOW, 10_000).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(mark.advance(NOW + 1_000, 10_000).is_err(), "it is gone");
        open(&path).advance(NOW, 10_000).unwrap();
        assert!(mark.advance(NOW + 1_000, 10_000).is_err(), "it is another");
        assert_eq!(mark.until_ms(), NOW + 10_000);
    }

    #[test]
    fn it_is_moved_while_stamps_that_are_not_far_ahead_are_covered_still() {
        let folder = tempfile::tempdir().unwrap();
        let mark = open(&folder.path().join("mark"));
        assert!(mark.is_due(NOW, 10_000));
        mark.advance(NOW, 10_000).unwrap();
        assert!(!mark.is_due(NOW + 2_000, 10_000));
        assert!(mark.is_due(NOW + 3_000, 10_000));
        let short = open(&folder.path().join("short"));
        short.advance(NOW, 0).unwrap();
        assert_eq!(short.until_ms(), NOW + LEAST_LEAD_MS);
        assert!(!Mark::nowhere().is_due(NOW, 10_000));
    }

    #[test]
    fn whatever_becomes_of_one_place_the_other_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let mark = open(&path);
        mark.advance(NOW, 10_000).unwrap();
        mark.advance(NOW + 1_000, 10_000).unwrap();
        // By runs to come, whichever place they find the later.
        for step in [2_000, 3_000, 4_000] {
            let (whole, before) = (fs::read(&path).unwrap(), open(&path).left_ms());
            open(&path).advance(NOW + step, 10_000).unwrap();
            let after = fs::read(&path).unwrap();
            let place = usize::from(whole[..BYTES] == after[..BYTES]) * 4096;
            for cut in place..place + BYTES {
                fs::write(&path, [&after[..cut], &whole[cut..]].concat()).unwrap();
                assert!(open(&path).left_ms() >= before, "torn at {cut}");
            }
            fs::write(&path, &after).unwrap();
            assert_eq!(open(&path).left_ms(), NOW + step + 10_000);
        }
        fs::write(&path, b"").unwrap();
        assert_eq!(open(&path).until_ms(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stamp_above_it_waits_and_goes_on_once_it_has_moved() {
        let folder = tempfile::tempdir().unwrap();
        let mark = open(&folder.path().join("mark"));
        mark.advance(NOW, 10_000).unwrap();
        assert!(mark.covers(NOW + 10_000).await);
        let (covered, ()) = tokio::join!(mark.covers(NOW + 10_001), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            mark.advance(NOW + 1_000, 10_000).unwrap();
        });
        assert!(covered);
        assert!(!mark.covers(NOW + 11_001).await, "nobody moves it");
    }
}
