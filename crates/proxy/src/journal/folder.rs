//! The journal's files: every run begins a new one, so that a process that drains and its successor never write the
//! same, and what a crash tore stays as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// One file: a run of the process, and which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Runs count from 1.
    pub run: u32,
    /// A run's files count from 1.
    pub part: u32,
}

/// Where the files are; a real folder, or one that fails when told to.
pub trait Folder {
    /// A file that is open for writing.
    type File: Medium + Send;
    /// The files there are, in order.
    fn parts(&self) -> io::Result<Vec<Part>>;
    /// What stands in one of them.
    fn read(&self, part: Part) -> io::Result<Vec<u8>>;
    /// Makes a file; one that exists is an error. When it returns, the file's name is on the disk.
    fn create(&self, part: Part) -> io::Result<Self::File>;
}

/// A file that is only added to.
pub trait Medium {
    /// Adds bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was added is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Takes back what stands after `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A folder on a disk.
pub struct Disk(PathBuf);

impl Disk {
    /// Opens the folder, and makes it if it is not there, for its owner alone.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Self::at(folder))
    }

    /// The folder, whether it is there or not, for reading.
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }
}

impl Folder for Disk {
    type File = File;

    fn parts(&self) -> io::Result<Vec<Part>> {
        let mut parts = Vec::new();
        for file in fs::read_dir(&self.0)? {
            parts.extend(file?.file_name().to_str().and_then(Part::parse));
        }
        parts.sort_unstable();
        Ok(parts)
    }

    fn read(&self, part: Part) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(part.to_string()))
    }

    fn create(&self, part: Part) -> io::Result<File> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.0.join(part.to_string()))?;
        File::open(&self.0)?.sync_all()?;
        Ok(file)
    }
}

impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.sync_all()
    }
}

impl Part {
    /// Reads a file's name; `None` for files that are not the journal's.
    pub fn parse(name: &str) -> Option<Self> {
        let (run, part) = name
            .strip_prefix("audit-")?
            .strip_suffix(".jsonl")?
            .split_once('-')?;
        let number = |digits: &str| digits.parse().ok().filter(|number: &u32| *number > 0);
        let part = Self {
            run: number(run)?,
            part: number(part)?,
        };
        (part.to_string() == name).then_some(part)
    }
}

/// The file's name; names sort as their numbers do.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "audit-{:06}-{:04}.jsonl", self.run, self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_no_other() {
        let part = Part { run: 7, part: 12 };
        assert_eq!(Part::parse(&part.to_string()), Some(part));
        for name in [
            "audit-7-12.jsonl",
            "audit-000000-0001.jsonl",
            "audit-000001-0001.jsonl.gz",
            "key",
        ] {
            assert_eq!(Part::parse(name), None, "{name}");
        }
    }
}
