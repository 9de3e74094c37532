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
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
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
        self.place.lock()
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
mod tests;
