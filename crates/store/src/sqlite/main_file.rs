//! Main file: the file without its log.
//!
//! A commit goes to the log, which SQLite takes into the file from time to time. A log belongs to one file. But SQLite reads any
//! file with the log that it finds beside it, and a copy that was put there lacks the commits that the file got between the copy
//! and the log.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::error::StoreError;

/// The open file, of which one page is compared with the page that this process wrote there.
pub(super) struct MainFile {
    /// Kept open until the connection is closed: closing any descriptor of a file gives up all locks of the process on it.
    file: File,
    /// `None` until the file has the page.
    written: Option<WrittenPage>,
}

/// The page that each commit changes, as it was taken into the file last.
struct WrittenPage {
    offset: u64,
    bytes: Vec<u8>,
}

/// Which store a file is, and how many commits it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStand {
    pub(super) system_id: i64,
    pub(super) position: i64,
}

impl FileStand {
    /// The stand in the row of `cluster`, by this column.
    pub(super) fn read(connection: &Connection, position: &str) -> rusqlite::Result<Self> {
        let stand = format!("SELECT system_id, {position} FROM cluster");
        connection.query_row(&stand, [], |row| {
            Ok(Self {
                system_id: row.get(0)?,
                position: row.get(1)?,
            })
        })
    }

    /// Whether another stand is the same store's, and this one or a later one.
    pub(super) fn is_under(self, other: Self) -> bool {
        self.system_id == other.system_id && self.position <= other.position
    }
}

impl MainFile {
    pub(super) fn of(file: File) -> Self {
        Self {
            file,
            written: None,
        }
    }

    /// Remembers the page as it lies in the file now.
    pub(super) fn remember(&mut self, connection: &Connection) -> Result<(), StoreError> {
        let size: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'cluster'";
        let root: Option<u32> = connection
            .query_row(root, [], |row| row.get(0))
            .optional()?;
        self.written = root.and_then(|root| {
            let offset = u64::from(root.saturating_sub(1)) * u64::from(size);
            let bytes = self.read(offset, usize::try_from(size).ok()?)?;
            Some(WrittenPage { offset, bytes })
        });
        Ok(())
    }

    /// Forgets it, before the log is taken into the file.
    pub(super) fn forget(&mut self) {
        self.written = None;
    }

    /// Whether the file has the page that was taken into it last. Another file may have been copied over it.
    pub(super) fn is_kept(&self) -> bool {
        self.written.as_ref().is_none_or(|page| {
            let now = self.read(page.offset, page.bytes.len());
            now.is_some_and(|now| now == page.bytes)
        })
    }

    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

/// The stand of a file without its log; `None` if it has no readable table. SQLite closes its descriptor only once no other connection
/// of this process has a lock on the file.
pub(super) fn without_log(path: &Path) -> Result<Option<FileStand>, StoreError> {
    let file = open_without_log(path)?;
    // A file into which a log is taken says its new length before it has that. SQLite refuses it otherwise.
    file.pragma_update(None, "writable_schema", true)?;
    match FileStand::read(&file, "position") {
        Ok(stand) => Ok(Some(stand)),
        // No table, or one that only the log makes whole.
        Err(error) if is_unreadable(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a file is a whole one without its log.
pub(super) fn is_sound_without_log(path: &Path) -> Result<bool, StoreError> {
    Ok(fault(&open_without_log(path)?)?.is_none())
}

/// Whether a file is a store's, and a whole one, without its log.
pub(super) fn has_tables_without_log(path: &Path) -> Result<bool, StoreError> {
    Ok(without_log(path)?.is_some() && is_sound_without_log(path)?)
}

/// The first fault of a file's pages, if there is one. All of them are read.
pub(super) fn fault(file: &Connection) -> Result<Option<String>, StoreError> {
    let found = file.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(found) => Ok((found != "ok").then(|| found.replace('\n', ": "))),
        Err(error) if is_unreadable(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn open_without_log(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(immutable(path), flags)
}

/// The address by which SQLite opens a file as it lies there, without its log.
fn immutable(path: &Path) -> String {
    let mut address = if path.is_absolute() {
        "file://"
    } else {
        "file:"
    }
    .to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                address.push(char::from(*byte));
            }
            _ => {
                let _ = write!(address, "%{byte:02X}");
            }
        }
    }
    address + "?immutable=1"
}

/// Whether an error says that a file has no such table with such a row, or none that can be read.
pub(super) fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, Unknown};
    let code = error.sqlite_error_code();
    let is_other_table = matches!(
        error,
        rusqlite::Error::QueryReturnedNoRows | rusqlite::Error::InvalidColumnType(..)
    );
    is_other_table || matches!(code, Some(DatabaseCorrupt | NotADatabase | Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_name_is_found_without_its_log() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.db", "a b?c#d%20&e=f.db", "größe.db"] {
            let path = folder.path().join(name);
            let file = Connection::open(&path).unwrap();
            file.execute_batch("CREATE TABLE cluster AS SELECT 7 AS system_id, 5 AS position")
                .unwrap();
            file.execute_batch("PRAGMA journal_mode = WAL; UPDATE cluster SET position = 6")
                .unwrap();
            let stand = FileStand {
                system_id: 7,
                position: 5,
            };
            assert_eq!(without_log(&path).unwrap(), Some(stand), "{name}");
        }
        let path = folder.path().join("empty.db");
        std::fs::write(&path, "").unwrap();
        assert_eq!(without_log(&path).unwrap(), None);
        assert!(without_log(&folder.path().join("missing.db")).is_err());
    }
}
