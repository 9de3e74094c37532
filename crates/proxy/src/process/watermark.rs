//! Stamp watermark: the moment above which no run has admitted a stamp. It is written to disk before it takes effect in
//! memory. It protects the start after a crash whose clock is earlier than the previous run's clock was.
//!
//! Without the watermark the replay guard after a crash would begin at the clock of the new start, and a stamp admitted
//! before by the later clock would count as new. The watermark runs ahead of the clock by as much as a stamp may, so in
//! normal operation it delays no request and does not lengthen the guard. The control thread advances it about once a
//! second.
//!
//! A file that cannot be read fails the start. The content of a damaged file is uncertain. Then the watermark is taken
//! to be as far ahead of the file's last write as any configuration allows, or to be the intact copy in the file if
//! that is later.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::process::files::OpenFile;

/// The moment up to which stamps may be admitted now.
pub struct StampWatermark {
    until_ms: AtomicU64,
    moved: Notify,
    /// `None` without a state folder, or once the file was left to the next process.
    place: Mutex<Option<WatermarkSlot>>,
    /// The watermark in the file when it was opened.
    left_ms: u64,
}

/// The place of the next write.
struct WatermarkSlot {
    file: OpenFile,
    /// The path that the next process will open.
    path: PathBuf,
    second: bool,
}

/// The file has two places, written alternately, so that one is always intact.
const PLACES: [usize; 2] = [0, 4096];
/// The length of a moment and its digest, in bytes.
const BYTES: usize = 40;
/// The furthest that any run's watermark is ahead of its clock, under any configuration: `timestamp.future_ms` is at
/// most this.
const WIDEST_LEAD_MS: u64 = 300_000;
/// The least lead of the watermark over the clock, however small `timestamp.future_ms` is.
const LEAST_LEAD_MS: u64 = 3_000;
/// How long a request with a stamp above the watermark waits. The watermark advances once a second, unless the disk is
/// slow.
const PATIENCE: Duration = Duration::from_secs(3);

impl StampWatermark {
    /// A watermark without a state folder, which is never written and covers every stamp.
    pub fn nowhere() -> Self {
        Self {
            until_ms: AtomicU64::new(u64::MAX),
            moved: Notify::new(),
            place: Mutex::new(None),
            left_ms: 0,
        }
    }

    /// The watermark in the file at this path, which must be intact, and open for reading and writing.
    pub fn in_file(file: OpenFile, path: PathBuf) -> io::Result<Self> {
        let [first, second] = [read(&file, PLACES[0])?, read(&file, PLACES[1])?];
        let left_ms = first.max(second);
        Ok(Self {
            until_ms: AtomicU64::new(left_ms),
            moved: Notify::new(),
            // The later place must stay until the other is intact.
            place: Mutex::new(Some(WatermarkSlot {
                file,
                path,
                second: first >= second,
            })),
            left_ms,
        })
    }

    /// The file content for a watermark at this moment; 0 before the first advance.
    pub fn content(until_ms: u64) -> Vec<u8> {
        let mut content = written(until_ms).to_vec();
        content.resize(PLACES[1], 0);
        content.extend_from_slice(&written(until_ms));
        content
    }

    /// The latest possible watermark of a damaged file, by its intact part and its last write; `None` if the file is
    /// intact.
    pub fn damaged(content: &[u8], changed_ms: u64) -> Option<u64> {
        let [first, second] = PLACES.map(|at| {
            let place = content.get(at..)?.first_chunk()?;
            moment(place)
        });
        if first.is_some() && second.is_some() {
            return None;
        }
        let latest = changed_ms.saturating_add(WIDEST_LEAD_MS);
        Some(latest.max(first.or(second).unwrap_or(0)))
    }

    /// The moment above which, as far as is known, no previous run admitted a stamp; 0 if no run admitted any.
    pub fn left_ms(&self) -> u64 {
        self.left_ms
    }

    /// Leaves the file to the next process: this process writes nothing more to it once this returns.
    pub fn close(&self) {
        *self.place() = None;
    }

    fn place(&self) -> MutexGuard<'_, Option<WatermarkSlot>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until_ms(&self) -> u64 {
        self.until_ms.load(Ordering::Acquire)
    }

    /// Waits until the watermark covers a stamp; false if that takes too long. Nearly every request passes at once.
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

    /// Whether the watermark is due to [`advance`](Self::advance).
    pub fn is_due(&self, now_ms: u64, future_ms: u64) -> bool {
        let lead = lead(future_ms);
        self.until_ms() < now_ms + lead - lead / 4
    }

    /// Advances the watermark ahead of `now_ms` by as much as a stamp may be, and never moves it back. Waits for the
    /// disk.
    pub fn advance(&self, now_ms: u64, future_ms: u64) -> io::Result<()> {
        let until_ms = now_ms + lead(future_ms);
        let mut place = self.place();
        let Some(WatermarkSlot { file, path, second }) =
            place.as_mut().filter(|_| until_ms > self.until_ms())
        else {
            return Ok(());
        };
        // The next process would not find an exchanged file, and might even run already.
        let (there, own) = (file.link_metadata(path)?, file.metadata()?);
        if (there.ino(), there.dev()) != (own.ino(), own.dev()) {
            return Err(io::Error::other(format!(
                "{} was exchanged while it was in use",
                path.display()
            )));
        }
        file.write_all_at(&written(until_ms), PLACES[usize::from(*second)] as u64)?;
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

/// The content of a place.
fn written(until_ms: u64) -> [u8; BYTES] {
    let moment = until_ms.to_le_bytes();
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&moment);
    bytes[8..].copy_from_slice(&Sha256::digest(moment));
    bytes
}

/// The moment in a place, if the place is intact.
fn moment(place: &[u8; BYTES]) -> Option<u64> {
    let (moment, _) = place.split_first_chunk()?;
    let moment = u64::from_le_bytes(*moment);
    (*place == written(moment)).then_some(moment)
}

fn read(file: &OpenFile, at: usize) -> io::Result<u64> {
    let mut place = [0; BYTES];
    file.read_exact_at(&mut place, at as u64)?;
    moment(&place)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the mark is not whole"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::files::FileSystem;
    use std::fs::{self, OpenOptions};
    use std::path::Path;

    const NOW: u64 = 1_767_225_600_000;

    /// Opens the watermark as a start does.
    fn open(path: &Path) -> StampWatermark {
        let until_ms = match fs::read(path) {
            Ok(content) => StampWatermark::damaged(&content, 0),
            Err(_) => Some(0),
        };
        if let Some(until_ms) = until_ms {
            fs::write(path, StampWatermark::content(until_ms)).unwrap();
        }
        let file = FileSystem::default().open(OpenOptions::new().read(true).write(true), path);
        StampWatermark::in_file(file.unwrap(), path.to_owned()).unwrap()
    }

    #[test]
    fn it_outlives_the_process_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let watermark = open(&path);
        assert_eq!(watermark.until_ms(), 0);
        for (now, until) in [
            (NOW, NOW + 10_000),
            (NOW + 1_000, NOW + 11_000),
            (NOW - 3_600_000, NOW + 11_000),
        ] {
            watermark.advance(now, 10_000).unwrap();
            assert_eq!(watermark.until_ms(), until);
            assert_eq!(open(&path).left_ms(), until);
        }
        watermark.close();
        watermark.advance(NOW + 60_000, 10_000).unwrap();
        assert_eq!(open(&path).left_ms(), NOW + 11_000, "it is the next one's");
    }

    #[test]
    fn it_is_not_moved_where_the_next_process_would_not_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let watermark = open(&path);
        watermark.advance(NOW, 10_000).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(
            watermark.advance(NOW + 1_000, 10_000).is_err(),
            "it is gone"
        );
        open(&path).advance(NOW, 10_000).unwrap();
        assert!(
            watermark.advance(NOW + 1_000, 10_000).is_err(),
            "it is another"
        );
        assert_eq!(watermark.until_ms(), NOW + 10_000);
    }

    #[test]
    fn it_is_moved_while_stamps_that_are_not_far_ahead_are_covered_still() {
        let folder = tempfile::tempdir().unwrap();
        let watermark = open(&folder.path().join("mark"));
        assert!(watermark.is_due(NOW, 10_000));
        watermark.advance(NOW, 10_000).unwrap();
        assert!(!watermark.is_due(NOW + 2_000, 10_000));
        assert!(watermark.is_due(NOW + 3_000, 10_000));
        let short = open(&folder.path().join("short"));
        short.advance(NOW, 0).unwrap();
        assert_eq!(short.until_ms(), NOW + LEAST_LEAD_MS);
        assert!(!StampWatermark::nowhere().is_due(NOW, 10_000));
    }

    #[test]
    fn whatever_becomes_of_one_place_the_other_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let watermark = open(&path);
        watermark.advance(NOW, 10_000).unwrap();
        watermark.advance(NOW + 1_000, 10_000).unwrap();
        // Later runs advance it, whichever place holds the later moment.
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
    }

    #[test]
    fn a_file_that_is_not_whole_is_taken_to_reach_as_far_as_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let watermark = open(&path);
        for step in [0, 1_000] {
            watermark.advance(NOW + step, 10_000).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        let garbage = vec![b'x'; whole.len()];
        let zeros = vec![0; whole.len()];
        let half = [&whole[..BYTES], &zeros[BYTES..]].concat();
        let cuts = [0, 1, BYTES - 1, BYTES, 4096, 4096 + BYTES - 1].map(|cut| &whole[..cut]);
        for content in cuts.into_iter().chain([&*garbage, &*zeros, &*half]) {
            // The machine's clock was far earlier than the intact part of the file, or far later.
            for changed_ms in [NOW - 86_400_000, NOW + 86_400_000] {
                let latest = StampWatermark::damaged(content, changed_ms).unwrap();
                assert!(latest >= changed_ms + WIDEST_LEAD_MS);
                let first = content.get(..BYTES) == Some(&whole[..BYTES]);
                assert!(!first || latest >= NOW + 10_000);
            }
            fs::write(&path, content).unwrap();
            let file = FileSystem::default().open(OpenOptions::new().read(true).write(true), &path);
            assert!(StampWatermark::in_file(file.unwrap(), path.clone()).is_err());
        }
        assert_eq!(StampWatermark::damaged(&whole, NOW), None);
        assert_eq!(
            StampWatermark::damaged(&StampWatermark::content(0), NOW),
            None
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_no_mark_of_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        open(&path).advance(NOW, 10_000).unwrap();
        let before = fs::read(&path).unwrap();
        let unreadable = FileSystem::default()
            .open(OpenOptions::new().write(true), &path)
            .unwrap();
        assert!(StampWatermark::in_file(unreadable, path.clone()).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stamp_above_it_waits_and_goes_on_once_it_has_moved() {
        let folder = tempfile::tempdir().unwrap();
        let watermark = open(&folder.path().join("mark"));
        watermark.advance(NOW, 10_000).unwrap();
        assert!(watermark.covers(NOW + 10_000).await);
        let (covered, ()) = tokio::join!(watermark.covers(NOW + 10_001), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            watermark.advance(NOW + 1_000, 10_000).unwrap();
        });
        assert!(covered);
        assert!(!watermark.covers(NOW + 11_001).await, "nobody moves it");
    }
}
