//! Heads: the end of each run's chain, kept apart from the chain.
//!
//! A chain shows altered records by itself, but not that its end, or the whole last run, is gone. So each run has a
//! file such as `audit-000007.head` in `state_dir`, made before the run's first record. The file names the last record
//! that is on the disk. The file also keeps a run number from being given twice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gatepay_core::{ChainLink, SigningKey};

use super::folder::FilePart;
pub use super::place::ChainHead;
use super::place::ChainPosition;
use crate::process::file_access;
use crate::process::files::{FileSystem, OpenFile, if_exists};

/// The content of a run's head file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptHead {
    /// The run number was taken; no record is known to be on the disk.
    Claimed,
    /// The run's last record known to be on the disk, and the record's file.
    At(ChainHead, FilePart),
    /// The file is not as it was written.
    Altered,
}

/// The heads that are kept beside a journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct KeptHeads {
    /// The heads of all runs, by run number.
    pub heads: BTreeMap<u32, KeptHead>,
    /// The number of the latest run, from a file of its own.
    pub latest: LatestRun,
}

/// The number of the latest run that began. It shows that a run was removed together with its head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LatestRun {
    /// The number is not kept: earlier versions did not keep it.
    #[default]
    Unknown,
    /// The number, as kept.
    Known(u32),
    /// The kept number is not as it was written.
    Altered,
}

impl KeptHeads {
    /// Whether no head and no latest run is kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The highest run number that is known to have been given.
    pub(super) fn last(&self) -> Option<u32> {
        let latest = match self.latest {
            LatestRun::Known(run) => Some(run),
            LatestRun::Unknown | LatestRun::Altered => None,
        };
        latest.max(self.heads.keys().next_back().copied())
    }
}

/// The folder of the head files.
pub struct HeadFolder {
    files: FileSystem,
    folder: PathBuf,
}

/// The head file of the running process.
pub struct HeadFile {
    file: OpenFile,
    second: bool,
}

/// The text of a kept file.
enum KeptText {
    /// The file does not exist.
    Absent,
    /// The file is a link, or no regular file.
    Refused,
    Text(Vec<u8>),
}

/// The offsets of a head file's two places, which are written in turn, so that a whole place always remains.
const PLACES: [usize; 2] = [0, 4_096];
/// The size of a place in bytes, padded with blanks.
const BYTES: usize = 256;
/// The number of runs whose heads are kept: more than can be draining at a time.
const KEPT: u32 = 8;

impl HeadFolder {
    /// The heads in a folder, which need not exist.
    pub fn at(folder: &Path) -> Self {
        Self::with(FileSystem::default(), folder)
    }

    /// The heads of a journal, in the state folder or else in the journal's folder.
    pub fn of(state_dir: Option<&Path>, journal: &Path) -> Self {
        Self::at(state_dir.unwrap_or(journal))
    }

    pub(super) fn with(files: FileSystem, folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { files, folder }
    }

    /// Reports a fault that a start would fail by: a head file of any run that is a link or no regular file. Changes
    /// nothing.
    pub fn inspect(&self) -> io::Result<()> {
        let names = if_exists(self.files.names(&self.folder))?.unwrap_or_default();
        let latest = [LATEST.to_owned(), file_access::unfinished(LATEST)];
        let is_ours =
            |name: &str| run_of(name).is_some() || latest.iter().any(|latest| latest == name);
        for name in names
            .iter()
            .filter(|name| name.to_str().is_some_and(is_ours))
        {
            let path = self.folder.join(name);
            if let Some(metadata) = if_exists(self.files.link_metadata(&path))? {
                file_access::inspect_file(&path, &metadata)?;
            }
        }
        Ok(())
    }

    /// Reads the heads of all runs and the number of the latest run.
    pub fn read(&self, key: &SigningKey) -> io::Result<KeptHeads> {
        let names = if_exists(self.files.names(&self.folder))?.unwrap_or_default();
        let runs = names.iter().filter_map(|name| run_of(name.to_str()?));
        let mut heads = BTreeMap::new();
        for run in runs {
            let head = match self.text(&self.path(run))? {
                // A run that begins at this moment removes old head files.
                KeptText::Absent => continue,
                KeptText::Refused => KeptHead::Altered,
                KeptText::Text(text) => parse(run, &text, key),
            };
            heads.insert(run, head);
        }
        let latest = match self.text(&self.folder.join(LATEST))? {
            KeptText::Absent => LatestRun::Unknown,
            KeptText::Refused => LatestRun::Altered,
            KeptText::Text(text) => {
                latest_run(&text, key).map_or(LatestRun::Altered, LatestRun::Known)
            }
        };
        Ok(KeptHeads { heads, latest })
    }

    fn text(&self, path: &Path) -> io::Result<KeptText> {
        match file_access::read_own(&self.files, path) {
            // Without an OS error code, `file_access` refused the file: for example a link.
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && error.raw_os_error().is_none() =>
            {
                tracing::error!(%error, "the audit journal's kept head cannot be read: the journal's end is not compared with it");
                Ok(KeptText::Refused)
            }
            text => Ok(text?.map_or(KeptText::Absent, KeptText::Text)),
        }
    }

    /// Takes a run number, which must be free. When this returns, the number is on the disk.
    pub(super) fn claim(&self, run: u32, key: &SigningKey) -> io::Result<HeadFile> {
        self.files.make_folder(&self.folder)?;
        let file = file_access::create(&self.files, &self.path(run))?;
        self.files.sync_folder(&self.folder)?;
        self.keep_latest(run, key)?;
        Ok(HeadFile {
            file,
            second: false,
        })
    }

    /// Replaces the number of the latest run: a reader finds either the new number or the old.
    fn keep_latest(&self, run: u32, key: &SigningKey) -> io::Result<()> {
        file_access::replace(&self.files, &self.folder, LATEST, |file| {
            file.write_all(latest_line(run, key).as_bytes())
        })
        .map(drop)
    }

    /// Removes the heads of runs that are `KEPT` or more runs old.
    pub(super) fn prune(&self, kept: &KeptHeads, run: u32) {
        for old in kept.heads.keys().filter(|old| **old + KEPT <= run) {
            if let Err(error) = self.files.remove(&self.path(*old)) {
                tracing::warn!(%error, run = old, "the audit journal's head of an old run cannot be removed");
            }
        }
    }

    fn path(&self, run: u32) -> PathBuf {
        self.folder.join(name_of(run))
    }
}

impl HeadFile {
    /// Writes the last record that is on the disk. The head outlives the process at once, and the machine once it is
    /// [synced](Self::sync).
    pub(super) fn write(
        &mut self,
        place: &ChainPosition,
        part: FilePart,
        key: &SigningKey,
    ) -> io::Result<()> {
        let mut text = line(&place.head(), part, key).into_bytes();
        text.resize(BYTES - 1, b' ');
        text.push(b'\n');
        let at = PLACES[usize::from(self.second)];
        self.file.write_all_at(&text, at as u64)?;
        self.second = !self.second;
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The text of a place: the head, the record's file, and a MAC over both. The MAC is chained like a record, so that
/// only the journal's key can make it.
fn line(head: &ChainHead, part: FilePart, key: &SigningKey) -> String {
    let text = format!("head {head} {part}");
    let mac = head.link.next(key, text.as_bytes());
    format!("{text} {mac}")
}

/// The later head of the places that are whole.
fn parse(run: u32, text: &[u8], key: &SigningKey) -> KeptHead {
    let whole = PLACES.into_iter().filter_map(|at| {
        let place = text.get(at..at + BYTES)?;
        let text = str::from_utf8(place).ok()?.trim_ascii_end();
        let mut words = text.split(' ').skip(1);
        let head: ChainHead = words.next()?.parse().ok()?;
        let part = FilePart::parse(words.next()?)?;
        let is_own = head.run == run && part.run == run && line(&head, part, key) == text;
        is_own.then_some((head, part))
    });
    match whole.max_by_key(|(head, _)| head.seq) {
        Some((head, part)) => KeptHead::At(head, part),
        // The first place was never written whole.
        None if text.len() < BYTES => KeptHead::Claimed,
        None => KeptHead::Altered,
    }
}

/// The name of the file with the number of the latest run.
const LATEST: &str = "audit-latest";

/// The run number, and a MAC that only the journal's key can make.
fn latest_line(run: u32, key: &SigningKey) -> String {
    let text = format!("latest {run}");
    let mac = ChainLink::ORIGIN.next(key, text.as_bytes());
    format!("{text} {mac}\n")
}

fn latest_run(text: &[u8], key: &SigningKey) -> Option<u32> {
    let text = str::from_utf8(text).ok()?;
    let run = text.split(' ').nth(1)?.parse().ok()?;
    (latest_line(run, key) == text).then_some(run)
}

fn name_of(run: u32) -> String {
    format!("audit-{run:06}.head")
}

fn run_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".head")?;
    let run = digits.parse().ok().filter(|run| *run > 0)?;
    (name_of(run) == name).then_some(run)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use gatepay_core::SecretKey;

    use super::*;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(&SecretKey::new(text.to_owned().into()).unwrap())
    }

    fn place(seq: u64) -> ChainPosition {
        let link = ChainLink::ORIGIN.next(&key("k"), &seq.to_le_bytes());
        ChainPosition { run: 7, seq, link }
    }

    const PART: FilePart = FilePart { run: 7, part: 3 };

    #[test]
    fn a_head_is_read_as_it_was_written_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let heads = HeadFolder::at(&folder.path().join("state"));
        assert!(heads.read(&key("k")).unwrap().is_empty());
        let mut file = heads.claim(7, &key("k")).unwrap();
        let read = |by| heads.read(&key(by)).unwrap().heads[&7];
        assert_eq!(read("k"), KeptHead::Claimed);
        assert!(heads.claim(7, &key("k")).is_err(), "the number is taken");
        for seq in 1..5 {
            file.write(&place(seq), PART, &key("k")).unwrap();
            assert_eq!(read("k"), KeptHead::At(place(seq).head(), PART));
            assert_eq!(read("other"), KeptHead::Altered);
        }
    }

    #[test]
    fn a_torn_write_leaves_the_head_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let heads = HeadFolder::at(folder.path());
        let mut file = heads.claim(7, &key("k")).unwrap();
        let path = folder.path().join(name_of(7));
        file.write(&place(1), PART, &key("k")).unwrap();
        for seq in 2..5 {
            let before = fs::read(&path).unwrap();
            file.write(&place(seq), PART, &key("k")).unwrap();
            let after = fs::read(&path).unwrap();
            let at = PLACES[usize::from(seq % 2 == 0)];
            for cut in (at..at + BYTES).step_by(7) {
                let mut torn = after.clone();
                for (at, byte) in torn.iter_mut().enumerate().skip(cut) {
                    *byte = before.get(at).copied().unwrap_or(0);
                }
                let read = parse(7, &torn, &key("k"));
                let expected = [place(seq - 1), place(seq)].map(|it| KeptHead::At(it.head(), PART));
                assert!(expected.contains(&read), "{seq} torn at {cut}: {read:?}");
            }
        }
    }

    #[test]
    fn heads_of_runs_long_over_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let heads = HeadFolder::at(folder.path());
        for run in 1..20 {
            heads.claim(run, &key("k")).unwrap();
            heads.prune(&heads.read(&key("k")).unwrap(), run);
        }
        let kept = heads.read(&key("k")).unwrap();
        assert_eq!(kept.latest, LatestRun::Known(19));
        assert_eq!(
            heads.read(&key("other")).unwrap().latest,
            LatestRun::Altered
        );
        let kept: Vec<u32> = kept.heads.into_keys().collect();
        assert_eq!(kept, (12..20).collect::<Vec<_>>());
    }
}
