//! The identity and the position of a store, by which a failover, a restore and a snapshot put back are recognized.
//!
//! A store that lost acknowledged commits would admit their stamps again. Four things show that it may have:
//!
//! - another system id or timeline: a failover, or a dump restored into a fresh server;
//! - a position in the write-ahead log below the last one seen: a snapshot put back;
//! - a stamp, or an instance's sign of life, that the store acknowledged and no longer has: the same, even if the log has
//!   grown past that position;
//! - a start of the server that no instance with a recent memory of it has confirmed: nothing is known.

use std::fmt::Write as _;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::UNIX_EPOCH;

use rustix::fs::OFlags;

use crate::admission::Fingerprint;

/// The engine that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StoreIdentity {
    /// The system identifier that a server got when it was initialized; random for a SQLite file.
    pub system_id: i64,
    /// The timeline: one more after each promotion. A SQLite file's is drawn at each start of the process that uses it.
    pub timeline: i64,
}

/// The last contact of this instance with its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreContact {
    /// The engine that answered.
    pub identity: StoreIdentity,
    /// How far its log was flushed, in bytes. A SQLite file counts its commits.
    pub position: i64,
    /// The store's clock, in milliseconds since 1970.
    pub at_ms: i64,
    /// The last stamp that the store acknowledged, and its time in milliseconds since 1970.
    pub stamp: Option<(Fingerprint, i64)>,
    /// The instance's number and its last sign of life that the store acknowledged, by the store's clock.
    pub sign_of_life: Option<(i64, i64)>,
}

/// The last contact, as its file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptContact {
    /// The contact.
    pub contact: StoreContact,
    /// Whether the file is not the one that was written: the folder was copied, or put back. What it says was true once, and
    /// other contacts may have followed.
    pub is_copy: bool,
}

/// What a copy of a file does not share with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileOrigin {
    inode: u64,
    /// The time of birth, in nanoseconds since 1970; 0 where the file system does not tell it.
    born: u128,
}

/// The first line of a contact file; it names the format.
const FORMAT: &str = "gatepay-proxy store contact 1";

impl StoreContact {
    /// Whether another answer is the later one. Answers of two connections may arrive crosswise.
    fn is_before(&self, other: &Self) -> bool {
        self.identity != other.identity || self.at_ms <= other.at_ms
    }

    /// The contact after another answer. An older answer changes nothing, unless the store has set a new guard with it: then
    /// all that was known before counts no more. The last acknowledged stamp and sign of life are kept within one life.
    #[must_use]
    pub fn after(last: Option<Self>, mut answer: Self, new_guard: bool) -> Self {
        match last {
            Some(last) if !new_guard && !last.is_before(&answer) => last,
            Some(last) if !new_guard && last.identity == answer.identity => {
                answer.stamp = answer.stamp.or(last.stamp);
                answer.sign_of_life = answer.sign_of_life.or(last.sign_of_life);
                answer
            }
            _ => answer,
        }
    }

    /// The contact as a text of a few lines, for a file with this origin.
    fn to_text(self, origin: Option<FileOrigin>) -> String {
        let Self {
            identity,
            position,
            at_ms,
            stamp,
            sign_of_life,
        } = self;
        let mut text = format!(
            "{FORMAT}\nsystem {}\ntimeline {}\nposition {position}\nat {at_ms}\n",
            identity.system_id, identity.timeline
        );
        if let Some((print, at)) = stamp {
            let _ = writeln!(text, "stamp {} {at}", hex::encode(print));
        }
        if let Some((id, at)) = sign_of_life {
            let _ = writeln!(text, "instance {id} {at}");
        }
        if let Some(FileOrigin { inode, born }) = origin {
            let _ = writeln!(text, "file {inode} {born}");
        }
        text.push_str("end\n");
        text
    }

    /// The contact that [`to_text`](Self::to_text) wrote, and the origin of its file; `None` if the text is damaged or of another
    /// format.
    fn parse(text: &str) -> Option<(Self, Option<FileOrigin>)> {
        let mut lines = text.lines();
        if lines.next()? != FORMAT {
            return None;
        }
        let mut number = |name: &str| {
            let (key, value) = lines.next()?.split_once(' ')?;
            (key == name).then(|| value.parse::<i64>().ok())?
        };
        let mut contact = Self {
            identity: StoreIdentity {
                system_id: number("system")?,
                timeline: number("timeline")?,
            },
            position: number("position")?,
            at_ms: number("at")?,
            stamp: None,
            sign_of_life: None,
        };
        let mut line = lines.next()?;
        if let Some(stamp) = line.strip_prefix("stamp ") {
            let (print, at) = stamp.split_once(' ')?;
            contact.stamp = Some((fingerprint(print)?, at.parse().ok()?));
            line = lines.next()?;
        }
        if let Some(seen) = line.strip_prefix("instance ") {
            let (id, at) = seen.split_once(' ')?;
            contact.sign_of_life = Some((id.parse().ok()?, at.parse().ok()?));
            line = lines.next()?;
        }
        let mut origin = None;
        if let Some(file) = line.strip_prefix("file ") {
            let (inode, born) = file.split_once(' ')?;
            origin = Some(FileOrigin {
                inode: inode.parse().ok()?,
                born: born.parse().ok()?,
            });
            line = lines.next()?;
        }
        (line == "end" && lines.next().is_none()).then_some((contact, origin))
    }

    /// The contact in a file; `None` if there is no such file or it is damaged, which counts as no memory at all. A link is
    /// an error.
    pub fn read(path: &Path) -> io::Result<Option<KeptContact>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(NO_LINK);
        let read = options.open(path).and_then(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok((text, FileOrigin::of(&file.metadata()?)))
        });
        match read {
            Ok((text, found)) => Ok(Self::parse(&text).map(|(contact, origin)| KeptContact {
                contact,
                // Earlier versions did not note it.
                is_copy: origin.is_some_and(|origin| !origin.is_that_of(found)),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file as a whole, on disk before this returns. The new file has a name that no other program can have
    /// put a link at, and is readable by its owner alone.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::Builder::new()
            .prefix(".store-contact-")
            .tempfile_in(folder)?;
        // The file keeps both under its name.
        let origin = FileOrigin::of(&file.as_file().metadata()?);
        file.write_all(self.to_text(Some(origin)).as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(folder)?.sync_all()
    }
}

impl FileOrigin {
    fn of(file: &Metadata) -> Self {
        let born = file.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Self {
            inode: file.ino(),
            born: born.map_or(0, |born| born.as_nanos()),
        }
    }

    /// Whether both are of one file. A kernel may tell the birth that an older one did not.
    fn is_that_of(self, other: Self) -> bool {
        let is_told = self.born != 0 && other.born != 0;
        self.inode == other.inode && (self.born == other.born || !is_told)
    }
}

/// A link at the path is not followed, and a pipe is not waited for.
#[expect(clippy::cast_possible_wrap, reason = "C's flags are an int")]
const NO_LINK: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

fn fingerprint(digits: &str) -> Option<Fingerprint> {
    let mut print = Fingerprint::default();
    hex::decode_to_slice(digits, &mut print).ok()?;
    Some(print)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn contact() -> StoreContact {
        StoreContact {
            identity: StoreIdentity {
                system_id: -7,
                timeline: 2,
            },
            position: 1_234,
            at_ms: 1_767_225_600_000,
            stamp: Some(([0xab; 16], 1_767_225_599_000)),
            sign_of_life: Some((-8, 1_767_225_599_500)),
        }
    }

    #[test]
    fn a_contact_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.contact");
        assert_eq!(StoreContact::read(&path).unwrap(), None);
        for contact in [contact(), StoreContact::default()] {
            contact.write(&path).unwrap();
            let is_copy = false;
            let kept = Some(KeptContact { contact, is_copy });
            assert_eq!(StoreContact::read(&path).unwrap(), kept);
        }
    }

    #[test]
    fn a_copy_of_a_contact_file_is_known_as_one_and_a_moved_file_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["store.contact", "other"].map(|name| folder.path().join(name));
        let is_copy = |path| StoreContact::read(path).unwrap().unwrap().is_copy;
        contact().write(&path).unwrap();
        fs::rename(&path, &other).unwrap();
        assert!(!is_copy(&other));
        fs::copy(&other, &path).unwrap();
        assert!(is_copy(&path));
        // In the place of a later one, and under the same name.
        contact().write(&other).unwrap();
        fs::copy(&path, &other).unwrap();
        assert!(is_copy(&other));
        fs::write(&path, contact().to_text(None)).unwrap();
        assert!(!is_copy(&path), "it does not say what it was");
        let found = FileOrigin::of(&fs::metadata(&path).unwrap());
        for (origin, copied) in [
            (FileOrigin { born: 0, ..found }, false),
            (FileOrigin { born: 1, ..found }, true),
            (FileOrigin { inode: 1, born: 0 }, true),
        ] {
            fs::write(&path, contact().to_text(Some(origin))).unwrap();
            assert_eq!(is_copy(&path), copied, "{origin:?}");
        }
    }

    #[test]
    fn a_contact_file_is_its_owners_alone_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.contact");
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, contact().to_text(None)).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(StoreContact::read(&path).is_err());
        StoreContact::default().write(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.mode() & 0o777, 0o600);
        let kept = fs::read_to_string(&elsewhere).unwrap();
        assert_eq!(kept, contact().to_text(None));
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 2, "nothing else is left");
    }

    #[test]
    fn a_contact_file_that_was_cut_counts_as_no_memory() {
        let (inode, born) = (7, 1_767_225_600_000_000_000);
        let text = contact().to_text(Some(FileOrigin { inode, born }));
        for end in 0..text.len() - 1 {
            assert_eq!(StoreContact::parse(&text[..end]), None, "{end}");
        }
        assert!(StoreContact::parse(&text).is_some());
    }
}
