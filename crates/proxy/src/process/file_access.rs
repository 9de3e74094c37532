//! Access checks for the program's own folders: a world-writable folder is refused, and so is a name that leads
//! elsewhere.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::process::files::{FileSystem, OpenFile, if_exists};

/// Refuses a world-writable folder; `danger` names the possible attack. A group may write, because Kubernetes'
/// `fsGroup` requires it.
pub(crate) fn inspect_folder(folder: &Path, metadata: &Metadata, danger: &str) -> io::Result<()> {
    let folder = folder.display();
    if !metadata.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{folder} is no folder"),
        ));
    }
    if metadata.mode() & 0o002 != 0 {
        return refuse(&format!(
            "{folder}: the folder is world-writable, so any user could {danger}: run `chmod o-w {folder}`"
        ));
    }
    Ok(())
}

/// Refuses a link, a file that is not regular, and a file with a second name.
pub(crate) fn inspect_file(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let path = path.display();
    if metadata.is_symlink() {
        return refuse(&format!(
            "{path} is a symbolic link: run `rm {path}`; its target is not used"
        ));
    }
    if !metadata.is_file() {
        return refuse(&format!("{path} is no regular file: remove it"));
    }
    if metadata.nlink() > 1 {
        return refuse(&format!(
            "{path} has another name (a hard link), by which it could be changed or put back: remove that one, or run `rm {path}`"
        ));
    }
    Ok(())
}

/// Opens a file that is no link and has no second name. The file at a path can be exchanged after a check by name, so
/// the opened file is inspected.
pub(crate) fn open(files: &FileSystem, options: &OpenOptions, path: &Path) -> io::Result<OpenFile> {
    let mut options = options.clone();
    options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY));
    let file = match files.open(&options, path) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(match files.link_metadata(path) {
                Ok(metadata) => inspect_file(path, &metadata).err().unwrap_or(error),
                Err(_) => error,
            });
        }
        opened => opened?,
    };
    inspect_file(path, &file.metadata()?)?;
    Ok(file)
}

/// Creates a file that must not exist yet, not even as a link, with access for its owner alone.
pub(crate) fn create(files: &FileSystem, path: &Path) -> io::Result<OpenFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    open(files, &options, path)
}

/// The name of a file while its next content is being written.
pub(crate) fn unfinished(name: &str) -> String {
    format!("{name}.unfinished")
}

/// Replaces a file: a reader finds the complete new file or the complete old one, even after the machine stops at any
/// moment.
pub(crate) fn replace(
    files: &FileSystem,
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut OpenFile) -> io::Result<()>,
) -> io::Result<OpenFile> {
    let unfinished = folder.join(unfinished(name));
    remove(files, &unfinished)?;
    let mut file = create(files, &unfinished)?;
    write(&mut file)?;
    file.sync_all()?;
    files.rename(&unfinished, &folder.join(name))?;
    files.sync_folder(folder)?;
    Ok(file)
}

/// Reads a file that is no link and has no second name; `None` if there is none.
pub(crate) fn read_own(files: &FileSystem, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = if_exists(open(files, OpenOptions::new().read(true), path))?;
    file.map(|mut file| file.read_to_end()).transpose()
}

/// Removes a file, if it exists.
pub(crate) fn remove(files: &FileSystem, path: &Path) -> io::Result<()> {
    if_exists(files.remove(path)).map(drop)
}

/// Reads a regular file, wherever its name leads. Other kinds of files are refused, because reading them could block or
/// never end.
pub(crate) fn read(files: &FileSystem, path: &Path) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(flags(OFlags::NONBLOCK | OFlags::NOCTTY));
    let mut file = files.open(&options, path)?;
    if !file.metadata()?.is_file() {
        return refuse(&format!("{} is no regular file", path.display())).map(|()| Vec::new());
    }
    file.read_to_end()
}

pub(crate) fn refuse(what: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().try_into().expect("flags fit C's int")
}
