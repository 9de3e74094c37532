//! Access to the state folder: only its owner and group may add files there, and no name there leads elsewhere.
//!
//! A spent replay memory that is put back admits spent requests again. So a world-writable folder is refused, and so
//! are files with any permission for others, and links. A group may write, because Kubernetes' `fsGroup` requires it.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::process::file_access;
use crate::process::files::{FileSystem, OpenFile, if_exists};

/// Makes the folder with access for its owner alone if it does not exist; returns its path without links.
pub(super) fn open_folder(files: &FileSystem, folder: &Path) -> io::Result<PathBuf> {
    files.make_folder(folder)?;
    // The folder itself may be behind a link, as systemd makes one. The link is followed only once, so that the folder
    // stays the same.
    let folder = folder.canonicalize()?;
    inspect(files, &folder)?;
    Ok(folder)
}

/// Refuses a world-writable folder, and a folder in which a file of the program's is not regular, has a second name or
/// gives others any permission.
pub(super) fn inspect(files: &FileSystem, folder: &Path) -> io::Result<()> {
    let metadata = files.metadata(folder)?;
    file_access::inspect_folder(folder, &metadata, "put a spent replay memory back")?;
    let names = super::names::FILES.iter().map(|name| (*name).to_owned());
    let unfinished = super::names::FILES
        .iter()
        .map(|name| file_access::unfinished(name));
    for name in names.chain(unfinished) {
        inspect_file(files, &folder.join(name))?;
    }
    Ok(())
}

fn inspect_file(files: &FileSystem, path: &Path) -> io::Result<()> {
    match if_exists(files.link_metadata(path))? {
        Some(metadata) => inspect_opened(path, &metadata),
        None => Ok(()),
    }
}

fn inspect_opened(path: &Path, metadata: &Metadata) -> io::Result<()> {
    file_access::inspect_file(path, metadata)?;
    if metadata.mode() & 0o007 != 0 {
        let path = path.display();
        return file_access::refuse(&format!(
            "{path} is world-accessible: run `chmod o= {path}`"
        ));
    }
    Ok(())
}

/// Opens a file of the folder for reading and writing; makes a missing file with access for its owner alone.
pub(super) fn open(files: &FileSystem, path: &Path) -> io::Result<OpenFile> {
    opened(files, private().create(true).truncate(false), path)
}

/// The content and metadata of a file, if it exists.
pub(super) fn read(files: &FileSystem, path: &Path) -> io::Result<Option<(Vec<u8>, Metadata)>> {
    let Some(mut file) = if_exists(opened(files, &mut private(), path))? else {
        return Ok(None);
    };
    let metadata = file.metadata()?;
    Ok(Some((file.read_to_end()?, metadata)))
}

/// The content of a file, if it exists, for a process that may lack write permission.
pub(super) fn look(files: &FileSystem, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = if_exists(opened(files, private().write(false), path))?;
    file.map(|mut file| file.read_to_end()).transpose()
}

/// Replaces a file as [`file_access::replace`] does.
pub(super) fn replace(
    files: &FileSystem,
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut OpenFile) -> io::Result<()>,
) -> io::Result<OpenFile> {
    file_access::replace(files, folder, name, |file| {
        inspect_opened(&folder.join(name), &file.metadata()?)?;
        write(file)
    })
}

fn opened(files: &FileSystem, options: &mut OpenOptions, path: &Path) -> io::Result<OpenFile> {
    let file = file_access::open(files, options, path)?;
    inspect_opened(path, &file.metadata()?)?;
    Ok(file)
}

/// Options for a file that only its owner can read: the replay memory's key would let others aim for collisions.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(folder: &Path) -> String {
        let error = open_folder(&FileSystem::default(), folder).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        error.to_string()
    }

    #[test]
    fn a_world_writable_folder_is_refused_and_a_group_writable_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o1777, 0o702, 0o703] {
            set_mode(folder.path(), mode);
            let said = refusal(folder.path());
            assert!(said.contains("chmod o-w /"), "{mode:o}: {said}");
        }
        for mode in [0o700, 0o750, 0o755, 0o770, 0o2775] {
            set_mode(folder.path(), mode);
            assert!(
                open_folder(&FileSystem::default(), folder.path()).is_ok(),
                "{mode:o}"
            );
        }
        let made = open_folder(&FileSystem::default(), &folder.path().join("a/b")).unwrap();
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_state_file_that_is_a_link_or_no_file_or_world_accessible_is_refused() {
        for name in super::super::names::FILES {
            for name in [name.to_owned(), file_access::unfinished(name)] {
                let folder = tempfile::tempdir().unwrap();
                let (path, other) = (folder.path().join(&name), folder.path().join("other"));
                symlink(&other, &path).unwrap();
                assert!(refusal(folder.path()).contains("symbolic link"), "{name}");
                fs::remove_file(&path).unwrap();
                file_access::create(&FileSystem::default(), &other).unwrap();
                fs::hard_link(&other, &path).unwrap();
                assert!(refusal(folder.path()).contains("hard link"), "{name}");
                fs::remove_file(&other).unwrap();
                assert!(open_folder(&FileSystem::default(), folder.path()).is_ok());
                for mode in [0o604, 0o602, 0o666] {
                    set_mode(&path, mode);
                    assert!(refusal(folder.path()).contains("chmod o= /"), "{mode:o}");
                }
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                assert!(refusal(folder.path()).contains("no regular file"), "{name}");
            }
        }
    }

    #[test]
    fn a_folder_behind_a_link_is_used_by_its_own_path() {
        let folder = tempfile::tempdir().unwrap();
        let (own, link) = (folder.path().join("own"), folder.path().join("link"));
        fs::create_dir(&own).unwrap();
        symlink(&own, &link).unwrap();
        let own = own.canonicalize().unwrap();
        assert_eq!(open_folder(&FileSystem::default(), &link).unwrap(), own);
    }
}
