//! The file of the state folder that lists the manual suspensions: the parties, and the operators that suspended them.
//!
//! The file has a line of JSON and a line with its digest. A damaged file is an error and never an empty list: an empty
//! list would let a suspended party call again. Only the process that holds the folder's lock writes the file; other
//! processes may read it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gatepay_tenancy::PartyId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::access;
use super::evidence::FileIdentity;
use super::names::SUSPENDED;
use crate::process::files::FileSystem;
use crate::process::send_lock::SendLock;

const VERSION: u32 = 1;
const DIGEST: &str = "sha256 ";

/// The operator of a manual suspension, and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The name of the operator of the proxy that suspended the party.
    pub by: PartyId,
    /// The time of the suspension, in milliseconds since 1970.
    pub since_ms: u64,
}

/// All manual suspensions, by party.
pub type SuspensionList = BTreeMap<PartyId, Suspension>;

/// The storage of manual suspensions across restarts. An external store would replace this type.
pub struct SuspensionFile {
    files: FileSystem,
    folder: PathBuf,
    /// The identity of the folder that this process began with.
    identity: FileIdentity,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSuspension {
    version: u32,
    suspended: Vec<WrittenEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    party: String,
    by: String,
    since_ms: u64,
}

impl SuspensionFile {
    pub(super) fn new(files: FileSystem, folder: PathBuf, identity: FileIdentity) -> Self {
        Self {
            files,
            folder,
            identity,
        }
    }

    /// The list in the file; `None` without a file. A damaged file is an error.
    pub fn read(&self) -> io::Result<Option<SuspensionList>> {
        let path = self.folder.join(SUSPENDED);
        let content = access::read(&self.files, &path)?;
        content
            .map(|(content, _)| parse(&content).ok_or_else(|| damaged(&path)))
            .transpose()
    }

    /// Replaces the file. On return the new list is on the disk, and no process that has left the folder is sending by the old
    /// one; after a failure or a crash the file is either the new or the old one.
    pub fn write(&self, list: &SuspensionList) -> io::Result<()> {
        let here = FileIdentity::of(&self.files.metadata(&self.folder)?);
        if here != self.identity {
            return Err(io::Error::other(format!(
                "{} is not the folder that this process began with",
                self.folder.display()
            )));
        }
        let content = content(list);
        let _nothing_is_being_sent = SendLock::alone(&self.folder)?;
        access::replace(&self.files, &self.folder, SUSPENDED, |file| {
            file.write_all(&content)
        })?;
        Ok(())
    }
}

/// The list in a folder's file, for commands that do not hold the folder's lock; an empty list without a file.
pub(super) fn read_in(folder: &Path) -> io::Result<SuspensionList> {
    let path = folder.join(SUSPENDED);
    match access::look(&FileSystem::default(), &path)? {
        None => Ok(SuspensionList::new()),
        Some(content) => parse(&content).ok_or_else(|| damaged(&path)),
    }
}

fn damaged(path: &Path) -> io::Error {
    let path = path.display();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{path} is damaged: it says which tenants are suspended by hand. Put it back from a copy, or set their standing \
             in their files (the log and the audit journal name them) and remove it"
        ),
    )
}

fn content(list: &SuspensionList) -> Vec<u8> {
    let one = |(party, suspension): (&PartyId, &Suspension)| WrittenEntry {
        party: party.to_string(),
        by: suspension.by.to_string(),
        since_ms: suspension.since_ms,
    };
    let written = WrittenSuspension {
        version: VERSION,
        suspended: list.iter().map(one).collect(),
    };
    let mut content = serde_json::to_vec(&written).expect("its keys are texts");
    content.push(b'\n');
    let digest = hex::encode(Sha256::digest(&content));
    content.extend_from_slice(format!("{DIGEST}{digest}\n").as_bytes());
    content
}

/// The list in a file; `None` if the file is damaged or was not written by this program.
fn parse(content: &[u8]) -> Option<SuspensionList> {
    let line = content.iter().position(|byte| *byte == b'\n')? + 1;
    let (json, digest) = content.split_at(line);
    let expected = format!("{DIGEST}{}\n", hex::encode(Sha256::digest(json)));
    if digest != expected.as_bytes() {
        return None;
    }
    let WrittenSuspension { version, suspended } = serde_json::from_slice(json).ok()?;
    if version != VERSION {
        return None;
    }
    let mut list = SuspensionList::new();
    for one in suspended {
        let suspension = Suspension {
            by: PartyId::parse(&one.by).ok()?,
            since_ms: one.since_ms,
        };
        if list
            .insert(PartyId::parse(&one.party).ok()?, suspension)
            .is_some()
        {
            return None;
        }
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::super::StateDir;
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn list(parties: &[&str]) -> SuspensionList {
        let name = |text: &str| PartyId::parse(text).unwrap();
        let suspension = Suspension {
            by: name("alice"),
            since_ms: 1_767_225_600_000,
        };
        parties
            .iter()
            .map(|party| (name(party), suspension.clone()))
            .collect()
    }

    fn kept(folder: &Path, list: &SuspensionList) {
        let state = StateDir::open(folder).unwrap();
        state.suspensions().write(list).unwrap();
    }

    #[test]
    fn kept_suspensions_are_read_by_the_next_process_and_by_commands() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let file = state.suspensions();
        assert_eq!(file.read().unwrap(), None);
        assert_eq!(read_in(folder.path()).unwrap(), SuspensionList::new());
        for parties in [&["acme", "globex"][..], &["globex"], &[]] {
            file.write(&list(parties)).unwrap();
            assert_eq!(file.read().unwrap(), Some(list(parties)));
            assert_eq!(read_in(folder.path()).unwrap(), list(parties));
        }
        drop(state);
        let next = StateDir::open(folder.path()).unwrap();
        assert_eq!(next.suspensions().read().unwrap(), Some(list(&[])));
    }

    #[test]
    fn a_file_that_is_cut_or_changed_in_one_byte_is_an_error_and_never_a_shorter_list() {
        let folder = tempfile::tempdir().unwrap();
        kept(folder.path(), &list(&["acme", "globex"]));
        let path = folder.path().join(SUSPENDED);
        let whole = fs::read(&path).unwrap();
        let is_refused = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            let state = StateDir::open(folder.path()).unwrap();
            let refused = state.suspensions().read().unwrap_err();
            assert!(read_in(folder.path()).is_err());
            refused.kind() == io::ErrorKind::InvalidData
        };
        for cut in 0..whole.len() {
            assert!(is_refused(&whole[..cut]), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert!(is_refused(&other), "changed at {at}");
        }
        assert!(is_refused(&[&whole[..], b"\n"].concat()));
        assert!(is_refused(&vec![0; whole.len()]));
    }

    #[test]
    fn a_list_of_another_version_or_with_a_party_twice_is_not_read() {
        for json in [
            r#"{"version":2,"suspended":[]}"#,
            r#"{"version":1,"suspended":[],"more":1}"#,
            r#"{"version":1,"suspended":[{"party":"a","by":"b","since_ms":1},{"party":"a","by":"c","since_ms":1}]}"#,
            r#"{"version":1,"suspended":[{"party":"../a","by":"b","since_ms":1}]}"#,
            r#"{"version":1,"suspended":[{"party":"a","by":"b\n","since_ms":1}]}"#,
        ] {
            let line = format!("{json}\n");
            let digest = hex::encode(Sha256::digest(&line));
            let content = format!("{line}{DIGEST}{digest}\n");
            assert_eq!(parse(content.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn links_and_world_accessible_files_are_refused_by_commands_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SUSPENDED);
        kept(folder.path(), &list(&["acme"]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_in(folder.path()).is_err());
        assert!(StateDir::open(folder.path()).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(read_in(folder.path()).is_err());
        assert!(StateDir::open(folder.path()).is_err());
    }

    #[test]
    fn nothing_is_written_into_a_folder_that_was_exchanged_meanwhile() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let state = StateDir::open(&folder).unwrap();
        fs::rename(&folder, parent.path().join("old")).unwrap();
        assert!(state.suspensions().write(&list(&["acme"])).is_err());
        fs::create_dir(&folder).unwrap();
        assert!(state.suspensions().write(&list(&["acme"])).is_err());
        assert!(!folder.join(SUSPENDED).exists());
    }
}
