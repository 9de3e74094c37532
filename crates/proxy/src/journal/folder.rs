//! The journal's files. Every run begins a new file, so that a draining process and its successor never write the same
//! file, and a file that a crash tore stays as it is.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::process::file_access;
use crate::process::files::{FileSystem, OpenFile, if_exists};

/// A journal file: the run of the process, and the number of the file in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePart {
    /// Runs count from 1.
    pub run: u32,
    /// A run's files count from 1.
    pub part: u32,
}

/// A folder of journal files: on a disk, or simulated in tests.
pub trait JournalFolder {
    /// A file that is open for writing.
    type File: JournalFile + Send;
    /// The files in the folder, in order.
    fn parts(&self) -> io::Result<Vec<FilePart>>;
    /// Reads a file.
    fn read(&self, part: FilePart) -> io::Result<Vec<u8>>;
    /// Makes a file. An existing file is an error. When this returns, the file's name is on the disk.
    fn create(&self, part: FilePart) -> io::Result<Self::File>;
    /// Opens and empties a file that this run began to make and that holds no valid record yet.
    fn reopen(&self, part: FilePart) -> io::Result<Self::File>;
    /// Whether the name still leads to this open file: neither file nor folder was moved, removed or replaced.
    fn is_in_place(&self, part: FilePart, file: &Self::File) -> io::Result<bool>;
    /// Whether a process has the file open for writing.
    fn is_written(&self, part: FilePart) -> io::Result<bool>;
}

/// An append-only file.
pub trait JournalFile {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when all appended bytes are on the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Removes the bytes after `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A folder on a disk.
pub struct DiskFolder {
    files: FileSystem,
    folder: PathBuf,
}

impl DiskFolder {
    /// Opens the folder, and makes it with access for its owner alone if it does not exist.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let disk = Self::at(folder);
        disk.files.make_folder(folder)?;
        inspect_folder(&disk.files, folder)?;
        Ok(disk)
    }

    /// The folder for reading, which need not exist.
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

    /// Opens a file, which stays locked while it is open. Links are refused, so that only the journal's own files are
    /// written or emptied.
    fn open_file(&self, options: &OpenOptions, part: FilePart) -> io::Result<OpenFile> {
        let file = file_access::open(&self.files, options, &self.path(part))?;
        file.try_lock()?;
        Ok(file)
    }
}

/// Reports a fault that a start would fail by: a folder that every user may write. Changes nothing.
pub fn inspect(folder: &Path) -> io::Result<()> {
    if_exists(inspect_folder(&FileSystem::default(), folder)).map(drop)
}

fn inspect_folder(files: &FileSystem, folder: &Path) -> io::Result<()> {
    let metadata = files.metadata(folder)?;
    file_access::inspect_folder(folder, &metadata, "remove the audit journal")
}

impl JournalFolder for DiskFolder {
    type File = OpenFile;

    fn parts(&self) -> io::Result<Vec<FilePart>> {
        let names = if_exists(self.files.names(&self.folder))?.unwrap_or_default();
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
    /// Parses a file name; `None` for files that are not the journal's.
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

/// The file's name. Names sort like their numbers.
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
