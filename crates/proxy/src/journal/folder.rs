//! The journal's files: every run begins a new one, so that a process that drains and its successor never write the
//! same, and what a crash tore stays as it is.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::process::file_access;
use crate::process::files::{FileSystem, OpenFile};

/// One file: a run of the process, and which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePart {
    /// Runs count from 1.
    pub run: u32,
    /// A run's files count from 1.
    pub part: u32,
}

/// Where the files are; a real folder, or one that fails when told to.
pub trait JournalFolder {
    /// A file that is open for writing.
    type File: JournalFile + Send;
    /// The files there are, in order.
    fn parts(&self) -> io::Result<Vec<FilePart>>;
    /// What stands in one of them.
    fn read(&self, part: FilePart) -> io::Result<Vec<u8>>;
    /// Makes a file; one that exists is an error. When it returns, the file's name is on the disk.
    fn create(&self, part: FilePart) -> io::Result<Self::File>;
    /// Opens a file that this run began to make and that counts for nothing yet, and empties it.
    fn reopen(&self, part: FilePart) -> io::Result<Self::File>;
    /// Whether the name still leads to this file: it was not moved, removed or replaced, and neither was the folder.
    fn is_in_place(&self, part: FilePart, file: &Self::File) -> io::Result<bool>;
    /// Whether a process has the file open for writing.
    fn is_written(&self, part: FilePart) -> io::Result<bool>;
}

/// A file that is only added to.
pub trait JournalFile {
    /// Adds bytes at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all that was added is on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Takes back what stands after `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A folder on a disk.
pub struct DiskFolder {
    files: FileSystem,
    folder: PathBuf,
}

impl DiskFolder {
    /// Opens the folder, and makes it if it is not there, for its owner alone.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let disk = Self::at(folder);
        disk.files.make_folder(folder)?;
        inspect_folder(&disk.files, folder)?;
        Ok(disk)
    }

    /// The folder, whether it is there or not, for reading.
    pub fn at(folder: &Path) -> Self {
        Self::with(FileSystem::default(), folder)
    }

    pub(super) fn with(files: FileSystem, folder: &Path) -> Self {
        let folder = folder.to_owned();
        Self { files, folder }
    }

    fn path(&self, part: FilePart) -> PathBuf {
        self.folder.join(part.to_string())
    }

    /// The file, locked for as long as it is open. It is no link: what is written, and emptied, is the journal's own.
    fn open_file(&self, options: &OpenOptions, part: FilePart) -> io::Result<OpenFile> {
        let file = file_access::open(&self.files, options, &self.path(part))?;
        file.try_lock()?;
        Ok(file)
    }
}

/// What starting would fail by: a folder that everybody may write. Changes nothing.
pub fn inspect(folder: &Path) -> io::Result<()> {
    match inspect_folder(&FileSystem::default(), folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        inspected => inspected,
    }
}

fn inspect_folder(files: &FileSystem, folder: &Path) -> io::Result<()> {
    let metadata = files.metadata(folder)?;
    file_access::inspect_folder(folder, &metadata, "remove the audit journal")
}

impl JournalFolder for DiskFolder {
    type File = OpenFile;

    fn parts(&self) -> io::Result<Vec<FilePart>> {
        let names = match self.files.names(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let names = names.iter().filter_map(|name| name.to_str());
        let mut parts: Vec<_> = names.filter_map(FilePart::parse).collect();
        parts.sort_unstable();
        Ok(parts)
    }

    fn read(&self, part: FilePart) -> io::Result<Vec<u8>> {
        file_access::read(&self.files, &self.path(part))
    }

    fn create(&self, part: FilePart) -> io::Result<OpenFile> {
        let mut options = OpenOptions::new();
        options.append(true).create_new(true).mode(0o600);
        let file = self.open_file(&options, part)?;
        self.files.sync_folder(&self.folder)?;
        Ok(file)
    }

    fn reopen(&self, part: FilePart) -> io::Result<OpenFile> {
        let mut file = self.open_file(OpenOptions::new().append(true), part)?;
        file.truncate(0)?;
        self.files.sync_folder(&self.folder)?;
        Ok(file)
    }

    fn is_in_place(&self, part: FilePart, file: &OpenFile) -> io::Result<bool> {
        file.is_at(&self.path(part))
    }

    fn is_written(&self, part: FilePart) -> io::Result<bool> {
        let file = self
            .files
            .open(OpenOptions::new().read(true), &self.path(part))?;
        Ok(!file.try_lock()?)
    }
}

impl JournalFile for OpenFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_length(length)?;
        self.sync_all()
    }
}

impl FilePart {
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
impl std::fmt::Display for FilePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "audit-{:06}-{:04}.jsonl", self.run, self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_no_other() {
        let part = FilePart { run: 7, part: 12 };
        assert_eq!(FilePart::parse(&part.to_string()), Some(part));
        for name in [
            "audit-7-12.jsonl",
            "audit-000000-0001.jsonl",
            "audit-000001-0001.jsonl.gz",
            "key",
        ] {
            assert_eq!(FilePart::parse(name), None, "{name}");
        }
    }
}
