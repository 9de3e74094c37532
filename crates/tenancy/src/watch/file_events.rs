//! File events: the names that changed in the folders of the configuration, as hints where to look first.
//!
//! Events are no proof. A file system may send none, a watch may be refused, a link may lead to a folder that is not
//! watched. So a hint only makes a file be looked at before its turn, and a change that no hint names is found by the next look
//! at all files.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// More folders than this are not watched: the kernel holds some memory for each.
const MOST_FOLDERS: usize = 1_000;
/// More names than this are no hints: a look at all files takes no longer.
const MOST_NAMES: usize = 4_096;

/// The names that changed since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileHints {
    /// The changed files, each by the path of its folder as it was given to [`FileEvents::watch`].
    pub(super) files: BTreeSet<PathBuf>,
    /// Whether any file may have changed: a watched folder is another one, Kubernetes turned its `..data`, or there were
    /// more events than are kept.
    pub(super) everywhere: bool,
}

/// The watched folders.
pub(super) struct FileEvents {
    source: source::EventSource,
    /// The paths by which each folder was named: two may lead to the same folder.
    paths: HashMap<i32, Vec<Box<Path>>>,
    /// The last watch of each path.
    watches: HashMap<Box<Path>, i32>,
}

impl FileEvents {
    /// `None` if the system has no file events, or none to spare.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            source: source::EventSource::new()?,
            paths: HashMap::new(),
            watches: HashMap::new(),
        })
    }

    /// Watches these folders, and those above them, in which a folder is replaced as a whole. A folder that is another one
    /// by now is watched anew.
    pub(super) fn watch(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        let folders: BTreeSet<PathBuf> = folders.into_iter().collect();
        let above = folders.iter().filter_map(|folder| folder.parent());
        let above: BTreeSet<PathBuf> = above.map(Path::to_owned).collect();
        for folder in folders.union(&above) {
            self.watch_folder(folder);
        }
    }

    fn watch_folder(&mut self, folder: &Path) {
        let known = self.watches.get(folder).copied();
        if known.is_none() && self.watches.len() >= MOST_FOLDERS {
            // Folders that are gone make room first.
            let Self { watches, paths, .. } = self;
            watches.retain(|_, watch| paths.contains_key(watch));
            if watches.len() >= MOST_FOLDERS {
                return;
            }
        }
        let at = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let Some(watch) = self.source.add(at) else {
            return;
        };
        if known == Some(watch) && self.paths.contains_key(&watch) {
            return;
        }
        if let Some(known) = known
            && let Some(paths) = self.paths.get_mut(&known)
        {
            paths.retain(|path| **path != *folder);
        }
        self.watches.insert(folder.into(), watch);
        self.paths.entry(watch).or_default().push(folder.into());
    }

    /// The names that changed since the last call.
    pub(super) fn take(&mut self) -> FileHints {
        let Self {
            source,
            paths,
            watches,
        } = self;
        let mut hints = FileHints::default();
        source.each(|event| {
            let Some(folders) = paths.get(&event.watch) else {
                hints.everywhere |= event.is_overflow;
                return;
            };
            if event.is_end {
                // The folders' paths stay known: one may be made anew.
                paths.remove(&event.watch);
                hints.everywhere = true;
                return;
            }
            let name = OsStr::from_bytes(event.name);
            // Kubernetes turns the link `..data` to a new folder.
            hints.everywhere |= event.name.starts_with(b"..");
            for folder in folders {
                let path = folder.join(name);
                hints.everywhere |= watches.contains_key(&*path);
                hints.files.insert(path);
            }
        });
        hints.everywhere |= hints.files.len() > MOST_NAMES;
        hints
    }
}

/// An event.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there are none"))]
struct FileEvent<'e> {
    watch: i32,
    name: &'e [u8],
    /// Events were lost.
    is_overflow: bool,
    /// The folder is not watched any more.
    is_end: bool,
}

#[cfg(target_os = "linux")]
mod source {
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

    use super::FileEvent;

    pub(super) struct EventSource(OwnedFd);

    impl EventSource {
        pub(super) fn new() -> Option<Self> {
            let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
            inotify::init(flags).ok().map(Self)
        }

        pub(super) fn add(&self, folder: &Path) -> Option<i32> {
            // A file that is being written is no news before it is closed.
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::ATTRIB
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVE
                | WatchFlags::ONLYDIR;
            inotify::add_watch(&self.0, folder, flags).ok()
        }

        pub(super) fn each(&self, mut visit: impl FnMut(FileEvent<'_>)) {
            let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
            let mut events = Reader::new(&self.0, &mut buffer);
            // No event is left, or the next look at all files makes up for them.
            while let Ok(event) = events.next() {
                let is = |flags| event.events().intersects(flags);
                visit(FileEvent {
                    watch: event.wd(),
                    name: event.file_name().map_or(b"", |name| name.to_bytes()),
                    is_overflow: is(ReadFlags::QUEUE_OVERFLOW),
                    is_end: is(ReadFlags::IGNORED),
                });
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod source {
    use std::path::Path;

    use super::FileEvent;

    /// There is none.
    pub(super) enum EventSource {}

    impl EventSource {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn add(&self, _: &Path) -> Option<i32> {
            match *self {}
        }

        pub(super) fn each(&self, _: impl FnMut(FileEvent<'_>)) {
            match *self {}
        }
    }
}
