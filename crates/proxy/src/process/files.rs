//! The system calls on files that must not fail unnoticed: those on the state folder and on the audit journal.
//!
//! In the program they are the calls of the standard library. In tests `faults::Faults` makes any of them fail.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
/// The result of a call on a path; `None` if nothing has this name.
pub(crate) fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
use std::path::PathBuf;

/// The file system as the program uses it.
#[derive(Clone, Default)]
pub struct FileSystem {
    #[cfg(test)]
    faults: faults::Faults,
}

/// An open file.
pub struct OpenFile {
    file: File,
    files: FileSystem,
    is_locked: AtomicBool,
    #[cfg(test)]
    path: PathBuf,
}

/// A system call, for tests that make it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look at it"))]
pub(crate) enum SystemCall {
    Open,
    MakeFolder,
    List,
    Read,
    Write,
    Sync,
    SetLength,
    Metadata,
    Rename,
    Remove,
    Lock,
}

#[cfg_attr(
    not(test),
    expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "only tests let calls fail"
    )
)]
impl FileSystem {
    /// A file system whose calls fail as a test plans.
    #[cfg(test)]
    pub(crate) fn with(faults: &faults::Faults) -> Self {
        Self {
            faults: faults.clone(),
        }
    }

    /// Fails if a test plans it.
    #[inline]
    fn point(&self, call: SystemCall) -> io::Result<()> {
        #[cfg(test)]
        self.faults.point(call)?;
        let _ = call;
        Ok(())
    }

    /// Makes a folder and its missing parents, with access for their owner alone.
    pub fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.point(SystemCall::MakeFolder)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }

    /// The names of the entries of a folder.
    pub fn names(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.point(SystemCall::Open)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            self.point(SystemCall::List)?;
            names.push(entry?.file_name());
        }
        Ok(names)
    }

    /// Opens a file.
    pub fn open(&self, options: &OpenOptions, path: &Path) -> io::Result<OpenFile> {
        self.point(SystemCall::Open)?;
        #[cfg(test)]
        if !path.exists() {
            self.faults.named(path);
        }
        let file = options.open(path)?;
        Ok(OpenFile {
            file,
            files: self.clone(),
            is_locked: AtomicBool::new(false),
            #[cfg(test)]
            path: path.to_owned(),
        })
    }

    /// Reads the whole content of a file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.open(OpenOptions::new().read(true), path)?
            .read_to_end()
    }

    /// The metadata of the file at a path, which may differ from the file that was opened there.
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.point(SystemCall::Metadata)?;
        fs::metadata(path)
    }

    /// The metadata at a path, of the link itself if it is one.
    pub fn link_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.point(SystemCall::Metadata)?;
        fs::symlink_metadata(path)
    }

    /// Whether a file or folder exists at a path.
    pub fn is_there(&self, path: &Path) -> io::Result<bool> {
        self.point(SystemCall::Metadata)?;
        path.try_exists()
    }

    /// Renames a file, and replaces the file that has the new name.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.point(SystemCall::Rename)?;
        #[cfg(test)]
        self.faults.named(to);
        fs::rename(from, to)
    }

    /// Removes a file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.point(SystemCall::Remove)?;
        fs::remove_file(path)
    }

    /// Syncs a folder; on return its names are on the disk.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.point(SystemCall::Open)?;
        let folder = File::open(path)?;
        self.point(SystemCall::Sync)?;
        #[cfg(test)]
        if self.faults.synced_folder(path) {
            return Ok(());
        }
        folder.sync_all()
    }
}

impl OpenFile {
    /// Writes all bytes after the last write, or at the end of the file if it was opened to append.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_with(bytes, |mut file, part, _| file.write(part))
    }

    /// Writes all bytes at an offset.
    pub fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_with(bytes, |file, part, done| file.write_at(part, at + done))
    }

    fn write_with(
        &self,
        mut bytes: &[u8],
        write: impl Fn(&File, &[u8], u64) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut done = 0;
        while !bytes.is_empty() {
            #[cfg(test)]
            let part = &bytes[..self.files.faults.write(&self.path, bytes.len())?];
            #[cfg(not(test))]
            let part = bytes;
            match write(&self.file, part, done) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    done += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            #[cfg(test)]
            self.files.faults.written()?;
        }
        Ok(())
    }

    /// Reads from the current position to the end of the file.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = Vec::with_capacity(length.try_into().unwrap_or(0));
        let mut reads = FileReads(self);
        reads.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The metadata of the file that is at a path now, or of a link there.
    pub fn link_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.files.link_metadata(path)
    }

    /// Fills the buffer from an offset.
    pub fn read_exact_at(&self, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let most = self.readable(bytes.len())?;
            match self.file.read_at(&mut bytes[..most], at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    bytes = &mut bytes[read..];
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How many of the requested bytes a read may give; tests lower the number.
    #[cfg_attr(
        not(test),
        expect(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "only tests let reads be short"
        )
    )]
    fn readable(&self, bytes: usize) -> io::Result<usize> {
        #[cfg(test)]
        let bytes = self.files.faults.read(bytes)?;
        Ok(bytes)
    }

    /// Syncs the content; on return all written bytes are on the disk.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_with(File::sync_data)
    }

    /// Syncs the content and the metadata of the file.
    pub fn sync_all(&self) -> io::Result<()> {
        self.sync_with(File::sync_all)
    }

    fn sync_with(&self, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
        self.files.point(SystemCall::Sync)?;
        #[cfg(test)]
        if self.files.faults.synced(&self.path) {
            return Ok(());
        }
        sync(&self.file)
    }

    /// Sets the length of the file, in bytes.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.files.point(SystemCall::SetLength)?;
        #[cfg(test)]
        self.files.faults.changed(&self.path);
        self.file.set_len(length)
    }

    /// The metadata of the open file.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.files.point(SystemCall::Metadata)?;
        self.file.metadata()
    }

    /// Takes the lock on the file, which is held until this is dropped; false if another holder has it.
    pub fn try_lock(&self) -> io::Result<bool> {
        self.files.point(SystemCall::Lock)?;
        match self.file.try_lock() {
            Ok(()) => {
                self.is_locked.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether the path still leads to this file, and not to another file or to none.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        let Some(there) = if_exists(self.files.metadata(path))? else {
            return Ok(false);
        };
        let own = self.metadata()?;
        Ok((there.dev(), there.ino()) == (own.dev(), own.ino()) && own.nlink() > 0)
    }
}

impl Drop for OpenFile {
    /// A child process that was made a moment ago has a copy of the descriptor until it executes its program, and would
    /// hold the lock beyond the close.
    fn drop(&mut self) {
        if *self.is_locked.get_mut() {
            let _ = self.file.unlock();
        }
    }
}

/// A reader of an open file, from its current position.
struct FileReads<'f>(&'f OpenFile);

impl io::Read for FileReads<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = self.0.readable(bytes.len())?;
        (&self.0.file).read(&mut bytes[..most])
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! System calls that fail: the n-th, and as many after it as a test plans.

    use std::collections::HashSet;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, MutexGuard};

    use super::SystemCall;

    /// Defines the calls that fail. Without a plan no call fails.
    #[derive(Clone, Default)]
    pub(crate) struct Faults(Option<Arc<Mutex<Plan>>>);

    pub(crate) struct Plan {
        calls: usize,
        first: usize,
        last: usize,
        error: i32,
        /// Set by a write that took part of its bytes before its failure.
        pending: bool,
        failed: Vec<SystemCall>,
        /// Files that were changed and not synced since.
        unsynced: HashSet<PathBuf>,
        /// Files in a folder that was not synced since the file got its name.
        unnamed: HashSet<PathBuf>,
    }

    impl Faults {
        /// Makes the calls from the `first` to the `last`, counted from 0, fail with an error number. A write takes
        /// half of its bytes first.
        pub(crate) fn between(first: usize, last: usize, error: i32) -> Self {
            Self(Some(Arc::new(Mutex::new(Plan {
                calls: 0,
                first,
                last,
                error,
                pending: false,
                failed: Vec::new(),
                unsynced: HashSet::new(),
                unnamed: HashSet::new(),
            }))))
        }

        /// Makes no call fail, and only tracks which writes are synced.
        pub(crate) fn none() -> Self {
            Self::between(usize::MAX, 0, 0)
        }

        fn plan(&self) -> Option<MutexGuard<'_, Plan>> {
            self.0.as_ref().map(|plan| plan.lock().unwrap())
        }

        /// Ends all failures.
        pub(crate) fn end(&self) {
            if let Some(mut plan) = self.plan() {
                plan.last = 0;
                plan.first = usize::MAX;
            }
        }

        /// The number of calls so far.
        pub(crate) fn calls(&self) -> usize {
            self.plan().map_or(0, |plan| plan.calls)
        }

        /// The calls that failed.
        pub(crate) fn failed(&self) -> Vec<SystemCall> {
            self.plan()
                .map(|plan| plan.failed.clone())
                .unwrap_or_default()
        }

        /// Whether all written bytes of the file, and its name, are on the disk.
        pub(crate) fn is_durable(&self, path: &Path) -> bool {
            let plan = self.plan().unwrap();
            !plan.unsynced.contains(path) && !plan.unnamed.contains(path)
        }

        pub(super) fn point(&self, call: SystemCall) -> io::Result<()> {
            let Some(mut plan) = self.plan() else {
                return Ok(());
            };
            let fails = plan.is_next_to_fail(call);
            plan.result(fails)
        }

        /// How many bytes a read may give: a short one gives a single byte.
        pub(super) fn read(&self, bytes: usize) -> io::Result<usize> {
            let Some(mut plan) = self.plan() else {
                return Ok(bytes);
            };
            let is_short = plan.is_next_to_fail(SystemCall::Read);
            plan.result(is_short && plan.error != 0)?;
            Ok(if is_short { bytes.min(1) } else { bytes })
        }

        /// How many bytes of a write are taken.
        pub(super) fn write(&self, path: &Path, bytes: usize) -> io::Result<usize> {
            let Some(mut plan) = self.plan() else {
                return Ok(bytes);
            };
            plan.unsynced.insert(path.to_owned());
            if !plan.is_next_to_fail(SystemCall::Write) {
                return Ok(bytes);
            }
            // A single byte has no half: its write fails at once, and no later write is left to fail.
            plan.pending = bytes > 1;
            match (bytes / 2, plan.error) {
                (0, 0) => Ok(bytes),
                (0, error) => Err(io::Error::from_raw_os_error(error)),
                (half, _) => Ok(half),
            }
        }

        /// Fails if the write that took half of its bytes was planned to fail. A short write alone is no failure.
        pub(super) fn written(&self) -> io::Result<()> {
            let Some(mut plan) = self.plan() else {
                return Ok(());
            };
            let fails = std::mem::take(&mut plan.pending) && plan.error != 0;
            plan.result(fails)
        }

        pub(super) fn named(&self, path: &Path) {
            if let Some(mut plan) = self.plan() {
                plan.unnamed.insert(path.to_owned());
            }
        }

        pub(super) fn changed(&self, path: &Path) {
            if let Some(mut plan) = self.plan() {
                plan.unsynced.insert(path.to_owned());
            }
        }

        /// Whether the wait for the disk can be skipped because a test tracks syncs.
        pub(super) fn synced(&self, path: &Path) -> bool {
            let plan = self.plan();
            plan.is_some_and(|mut plan| {
                plan.unsynced.remove(path);
                true
            })
        }

        /// As [`synced`](Self::synced), for the names in a folder.
        pub(super) fn synced_folder(&self, path: &Path) -> bool {
            let plan = self.plan();
            plan.is_some_and(|mut plan| {
                plan.unnamed.retain(|file| file.parent() != Some(path));
                true
            })
        }
    }

    impl Plan {
        fn result(&self, fails: bool) -> io::Result<()> {
            if fails {
                Err(io::Error::from_raw_os_error(self.error))
            } else {
                Ok(())
            }
        }

        fn is_next_to_fail(&mut self, call: SystemCall) -> bool {
            let number = self.calls;
            self.calls += 1;
            // Error 0 stands for short reads and writes: no other call can be short.
            let fails = (self.first..=self.last).contains(&number)
                && (self.error != 0 || matches!(call, SystemCall::Read | SystemCall::Write));
            if fails {
                self.failed.push(call);
            }
            fails
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_when_it_is_dropped_though_a_child_process_still_has_a_copy_of_the_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || {
            let options = OpenOptions::new().create(true).append(true).clone();
            FileSystem::default().open(&options, &path).unwrap()
        };
        let first = open();
        assert!(first.try_lock().unwrap());
        assert!(!open().try_lock().unwrap());
        let _of_a_child = first.file.try_clone().unwrap();
        drop(first);
        assert!(open().try_lock().unwrap());
    }
}
