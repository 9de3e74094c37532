//! Files that are there whole or not at all, also after a power cut.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::Path;

use zeroize::Zeroizing;

/// Everything for the owner, nothing for others.
const SECRET_MODE: u32 = 0o600;
/// The folder of secrets likewise.
const SECRETS_MODE: u32 = 0o700;
/// What the names of files begin with that have no name of their own yet.
pub(crate) const UNNAMED: &str = ".new-";
/// It has no secret, but the list of customers is confidential.
const TENANT_MODE: u32 = 0o640;

/// Makes the folder if there is none.
pub(crate) fn make_secrets_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(SECRETS_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Writes a secret where nothing is yet. `like` is a secret whose owner and mode it gets: the process that reads that one has to read
/// this one too.
pub(crate) fn write_secret(path: &Path, secret: &str, like: Option<&Path>) -> io::Result<()> {
    let mut line = Zeroizing::new(String::with_capacity(secret.len() + 1));
    line.push_str(secret);
    line.push('\n');
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)?;
    let written = file
        .write_all(line.as_bytes())
        .and_then(|()| like.map_or(Ok(()), |like| hand_over(&file, &fs::metadata(like)?)))
        .and_then(|()| file.sync_all())
        .and_then(|()| sync_folder_of(path));
    if written.is_err() {
        let _unremoved = fs::remove_file(path);
    }
    written
}

/// Writes a tenant's file where nothing is yet.
pub(crate) fn write_tenant(path: &Path, text: &str) -> io::Result<()> {
    let file = beside(path, text)?;
    let mode = Permissions::from_mode(TENANT_MODE);
    file.as_file().set_permissions(mode)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// Writes a note where nothing is yet, whole and for good.
pub(crate) fn write_note(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_folder_of(path)
}

/// Replaces a file, which keeps its mode and owner, if its text is unchanged. A link stays a link.
pub(crate) fn replace(path: &Path, said: &str, text: &str) -> io::Result<ReplaceResult> {
    let path = fs::canonicalize(path)?;
    let metadata = fs::metadata(&path)?;
    let file = beside(&path, text)?;
    hand_over(file.as_file(), &metadata)?;
    file.as_file().sync_all()?;
    if fs::read(&path)? != said.as_bytes() {
        return Ok(ReplaceResult::ChangedMeanwhile);
    }
    file.persist(&path).map_err(|error| error.error)?;
    sync_folder_of(&path)?;
    Ok(ReplaceResult::Done)
}

/// Gives a file the owner and mode of another.
fn hand_over(file: &File, like: &Metadata) -> io::Result<()> {
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
        fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(like.permissions())
}

/// Whether a file was replaced.
#[must_use]
pub(crate) enum ReplaceResult {
    Done,
    /// Another process has changed the file, which was left alone.
    ChangedMeanwhile,
}

/// Removes a file for good.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_folder_of(path)
}

/// Keeps others of us out of a folder until dropped. Editors do not ask.
pub(crate) fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

/// A nameless neighbor, as far as listings of tenants go: they leave out names that begin with a dot.
fn beside(path: &Path, text: &str) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(UNNAMED)
        .tempfile_in(folder_of(path))?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// A new name lasts once its folder is on disk.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}
