//! A regular file that is opened once, so that its stamp and its text belong together.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use crate::disk::file_stamp::{FileStamp, FilesRead};

/// Opened; nothing is read yet.
pub(crate) struct RegularFile {
    file: File,
    pub(crate) metadata: Metadata,
}

impl RegularFile {
    /// Opens a file and notes its stamp before it is read: any later change is
    /// seen as a change. Devices and pipes have no end, and a folder no text: they are refused as a folder is.
    pub(crate) fn open(path: &Path, reads: &FilesRead) -> io::Result<Self> {
        let opened = Self::try_open(path).inspect_err(|_| {
            // There may be one all the same.
            reads.note(path, FileStamp::at(path));
        })?;
        reads.note(path, FileStamp::of(&opened.metadata));
        if opened.metadata.is_file() {
            Ok(opened)
        } else {
            Err(io::ErrorKind::IsADirectory.into())
        }
    }

    fn try_open(path: &Path) -> io::Result<Self> {
        // The file's type is known only once it is open: so opening must not wait for a pipe's writer, nor take a terminal.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let flags = flags.bits().try_into().expect("flags fit C's int");
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { file, metadata })
    }

    /// The length that its metadata gave; `None` for a file of procfs, which may have any.
    pub(crate) fn length(&self) -> Option<u64> {
        Some(self.metadata.len()).filter(|length| *length > 0)
    }

    /// Reads the file, at most `most` bytes, and stops at the length that its metadata gave:
    /// had it grown since, it would look different.
    pub(crate) fn read(self, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
        let length = self.length();
        let most = length.map_or(most, |length| length.min(most));
        bytes.reserve_exact(usize::try_from(length.unwrap_or(0).min(most)).unwrap_or(0));
        self.file.take(most).read_to_end(bytes).map(|_| ())
    }
}
