//! Heads: where each run's chain ends, kept apart from the chain.
//!
//! A chain shows by itself what was altered in it, but not that its end, or the last run as a whole, is gone. So each run
//! has a file `audit-000007.head` in `state_dir`, made before the run's first record, with the last record that is on the
//! disk. It is also what keeps the number of a run from being given twice.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use gatepay_core::SigningKey;

use super::folder::Part;
pub use super::place::Head;
use super::place::Place;
use crate::files::{Files, OpenFile};

/// What the file of a run says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptHead {
    /// The number was taken; no record is known to be on the disk.
    Claimed,
    /// Its last record known to be on the disk, and in which file.
    At(Head, Part),
    /// It is not as it was written.
    Altered,
}

/// What the files of all runs say, by run.
pub type KeptHeads = BTreeMap<u32, KeptHead>;

/// The folder of the heads' files.
pub struct HeadFolder {
    files: Files,
    folder: PathBuf,
}

/// The file of the run that writes.
pub struct HeadFile {
    file: OpenFile,
    second: bool,
}

/// The file has two places, written in turns, so that one of them is always whole.
const PLACES: [usize; 2] = [0, 4_096];
/// A place has this many bytes, filled with blanks.
const BYTES: usize = 256;
/// Of so many runs the heads are kept: more than can be draining at a time.
const KEPT: u32 = 8;

impl HeadFolder {
    /// The heads in a folder, whether it is there or not.
    pub fn at(folder: &Path) -> Self {
        Self::with(Files::default(), folder)
    }

    /// Where the heads of a journal are: in the state folder, or else beside the journal.
    pub fn of(state_dir: Option<&Path>, journal: &Path) -> Self {
        Self::at(state_dir.unwrap_or(journal))
    }

    pub(super) fn with(files: Files, folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { files, folder }
    }

    /// What is known of all runs.
    pub fn read(&self, key: &SigningKey) -> io::Result<KeptHeads> {
        let names = match self.files.names(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let runs = names.iter().filter_map(|name| run_of(name.to_str()?));
        let mut kept = KeptHeads::new();
        for run in runs {
            match self.files.read(&self.path(run)) {
                // A run that begins at this moment removes old ones.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => _ = kept.insert(run, parse(run, &text?, key)),
            }
        }
        Ok(kept)
    }

    /// Takes the number of a run, which must be free. When it returns, that is on the disk.
    pub(super) fn claim(&self, run: u32) -> io::Result<HeadFile> {
        self.files.make_folder(&self.folder)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = self.files.open(&options, &self.path(run))?;
        self.files.sync_folder(&self.folder)?;
        Ok(HeadFile {
            file,
            second: false,
        })
    }

    /// Removes the heads of runs that are long over.
    pub(super) fn prune(&self, kept: &KeptHeads, run: u32) {
        for old in kept.keys().filter(|old| **old + KEPT <= run) {
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
    /// Notes the last record that is on the disk. It outlives the process at once, and the machine once it is
    /// [synced](Self::sync).
    pub(super) fn write(&mut self, place: &Place, part: Part, key: &SigningKey) -> io::Result<()> {
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

/// What one place has: the head, the file it is in, and a MAC over both, chained like a record so that it can only be
/// made by the journal's key.
fn line(head: &Head, part: Part, key: &SigningKey) -> String {
    let text = format!("head {head} {part}");
    let mac = head.link.next(key, text.as_bytes());
    format!("{text} {mac}")
}

/// The later of the places that are whole.
fn parse(run: u32, text: &[u8], key: &SigningKey) -> KeptHead {
    let whole = PLACES.into_iter().filter_map(|at| {
        let place = text.get(at..at + BYTES)?;
        let text = str::from_utf8(place).ok()?.trim_ascii_end();
        let mut words = text.split(' ').skip(1);
        let head: Head = words.next()?.parse().ok()?;
        let part = Part::parse(words.next()?)?;
        let is_own = head.run == run && part.run == run && line(&head, part, key) == text;
        is_own.then_some((head, part))
    });
    match whole.max_by_key(|(head, _)| head.seq) {
        Some((head, part)) => KeptHead::At(head, part),
        // The first was never written whole.
        None if text.len() < BYTES => KeptHead::Claimed,
        None => KeptHead::Altered,
    }
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
    use gatepay_core::Link;

    fn key(text: &str) -> SigningKey {
        SigningKey::new(&SecretKey::new(text.to_owned().into()).unwrap())
    }

    fn place(seq: u64) -> Place {
        let link = Link::ORIGIN.next(&key("k"), &seq.to_le_bytes());
        Place { run: 7, seq, link }
    }

    const PART: Part = Part { run: 7, part: 3 };

    #[test]
    fn a_head_is_read_as_it_was_written_by_its_key_alone() {
        let folder = tempfile::tempdir().unwrap();
        let heads = HeadFolder::at(&folder.path().join("state"));
        assert_eq!(heads.read(&key("k")).unwrap(), KeptHeads::new());
        let mut file = heads.claim(7).unwrap();
        let read = |by| heads.read(&key(by)).unwrap()[&7];
        assert_eq!(read("k"), KeptHead::Claimed);
        assert!(heads.claim(7).is_err(), "the number is taken");
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
        let mut file = heads.claim(7).unwrap();
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
            heads.claim(run).unwrap();
            heads.prune(&heads.read(&key("k")).unwrap(), run);
        }
        let kept: Vec<u32> = heads.read(&key("k")).unwrap().into_keys().collect();
        assert_eq!(kept, (12..20).collect::<Vec<_>>());
    }
}
