//! Log file: the commits that are not in the main file yet, beside it (`-wal`).
//!
//! SQLite goes on with the log that it has open, also if another is copied over it or lies under its path. It would take into the main file
//! the pages that it finds there, and commits to a log that was removed are lost with the process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::file_place::FileId;
use crate::error::StoreError;

/// The head of the log, and that of each page in it.
const HEAD: u64 = 32;
const PAGE_HEAD: usize = 24;

/// The open log, of which the end is compared with the end that this process wrote.
pub(super) struct LogFile {
    path: PathBuf,
    page_size: u32,
    /// `None` until there is one.
    open: Option<OpenLog>,
}

struct OpenLog {
    file: File,
    id: FileId,
    /// `None` while it is empty or begins anew.
    end: Option<LogEnd>,
}

/// The head of the log's last page, which has the log's number and a sum over all that is before it.
struct LogEnd {
    offset: u64,
    bytes: [u8; PAGE_HEAD],
}

impl LogFile {
    /// The log of the main file with this path.
    pub(super) fn of(path: &Path, page_size: u32) -> io::Result<Self> {
        Ok(Self {
            path: beside(path, "-wal")?,
            page_size,
            open: None,
        })
    }

    /// Remembers the end of the log, which has so many pages.
    pub(super) fn remember(&mut self, pages: i64) -> io::Result<()> {
        let Some(before) = u64::try_from(pages).ok().and_then(|it| it.checked_sub(1)) else {
            return Ok(());
        };
        let log = match &mut self.open {
            Some(open) => open,
            none => none.insert(OpenLog::at(&self.path)?),
        };
        let offset = HEAD + before * (u64::from(self.page_size) + PAGE_HEAD as u64);
        let bytes = log.head_at(offset)?;
        log.end = Some(LogEnd { offset, bytes });
        Ok(())
    }

    /// Forgets the end, before the log begins anew.
    pub(super) fn forget(&mut self) {
        if let Some(open) = &mut self.open {
            open.end = None;
        }
    }

    /// Whether the log has its end still, and is the one under its path.
    pub(super) fn is_kept(&self) -> bool {
        self.open.as_ref().is_none_or(|log| {
            let there = self.path.metadata();
            there.is_ok_and(|it| FileId::of(&it) == log.id) && self.has_its_end()
        })
    }

    /// Whether the open log has its end still, wherever it lies.
    pub(super) fn has_its_end(&self) -> bool {
        self.open.as_ref().is_none_or(OpenLog::has_its_end)
    }
}

impl OpenLog {
    fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            id: FileId::of(&file.metadata()?),
            file,
            end: None,
        })
    }

    fn has_its_end(&self) -> bool {
        self.end.as_ref().is_none_or(|end| {
            let now = self.head_at(end.offset);
            now.is_ok_and(|now| now == end.bytes)
        })
    }

    fn head_at(&self, offset: u64) -> io::Result<[u8; PAGE_HEAD]> {
        let mut bytes = [0; PAGE_HEAD];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// Fails if a log lies beside a main file that is missing or empty: SQLite would remove the log.
pub(super) fn is_no_orphan(path: &Path) -> Result<(), StoreError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let is_empty = |path: &Path| path.metadata().map_or(true, |it| it.len() == 0);
    if is_empty(Path::new(&log)) || !is_empty(path) {
        return Ok(());
    }
    let path = path.display();
    Err(StoreError::Settings(format!(
        "{path} is missing or empty, but its log {path}-wal is there: put the file back, or move the log away"
    )))
}

/// Renames the log of a main file, which no process has open, so that SQLite does not find it. Logs that were set aside before stay.
pub(super) fn set_aside(path: &Path) -> io::Result<()> {
    let mut number = 1;
    let aside = loop {
        let aside = beside(path, &format!("-wal.aside-{number}"))?;
        if !aside.try_exists()? {
            break aside;
        }
        number += 1;
    };
    fs::rename(beside(path, "-wal")?, &aside)?;
    let folder = aside.parent().unwrap_or(&aside);
    File::open(folder)?.sync_all()
}

/// The path of a file of SQLite's. It follows a link to the main file, and has its other files beside the file that the link leads to.
fn beside(path: &Path, end: &str) -> io::Result<PathBuf> {
    let mut path = fs::canonicalize(path)?.into_os_string();
    path.push(end);
    Ok(path.into())
}
