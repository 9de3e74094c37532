//! The files of tenants and operators in their folders: which there are, by name.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The tenant or operator files of a folder, sorted by name; or the one file.
pub(crate) fn party_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let names = party_names(path)?;
    Ok(names.iter().map(|name| in_folder(path, name)).collect())
}

/// Their names within the folder; an empty one if that is the one file.
///
/// Names that begin with `.` are left out (editors' swap files, the `..data` of Kubernetes), as are those that end in
/// `~` and all but `.toml` and `.json`.
pub(crate) fn party_names(path: &Path) -> io::Result<Vec<OsString>> {
    if fs::metadata(path)?.is_file() {
        return Ok(vec![OsString::new()]);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if is_read(&name) {
            names.push(name);
        }
    }
    // As bytes: paths are compared part by part, which takes long for a hundred thousand.
    names.sort_unstable();
    Ok(names)
}

/// Whether a file of this name in the folder is one of tenants or operators.
pub(crate) fn is_read(name: &OsStr) -> bool {
    !is_hidden(name) && is_party_name(name)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_party_name(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    extension.is_some_and(|it| it == "toml" || it == "json")
}

/// The names in a folder that are not read, though nothing in them says that they are not meant: `ACME.TOML`,
/// `acme.yaml`, a folder. None of a folder that cannot be listed, and none beside one file in place of a folder.
pub(crate) fn unread_names(folder: &Path) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names.filter(|name| {
        let is_backup = name.as_encoded_bytes().ends_with(b"~");
        !is_hidden(name) && !is_backup && !is_party_name(name)
    })
}

/// A file by such a name.
pub(crate) fn in_folder(folder: &Path, name: &OsStr) -> PathBuf {
    if name.is_empty() {
        folder.to_owned()
    } else {
        folder.join(name)
    }
}

/// The folder a file is in; empty, which joins like the current one, if its path is a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}
