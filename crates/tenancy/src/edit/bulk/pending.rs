//! Secrets that are written before the file that names them. A note beside them lists them first, so that after a crash
//! the next command removes those that no file names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::durable_write;

/// What the names of notes begin with.
const PREFIX: &str = ".adding-";

/// What is being written; on disk until it is.
pub(crate) struct PendingSecrets {
    note: PathBuf,
    listed: ListedSecrets,
}

#[derive(Serialize, Deserialize)]
struct ListedSecrets {
    /// The file that names the secrets. Once it is there, all of them are.
    tenant_file: PathBuf,
    secrets: Vec<PathBuf>,
}

impl PendingSecrets {
    /// Notes secrets of which none is there yet.
    pub(crate) fn note(
        folder: &Path,
        tenant_file: &Path,
        secrets: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let name = tenant_file.file_stem().unwrap_or_default();
        let note = folder.join(format!("{PREFIX}{}", name.to_string_lossy()));
        let listed = ListedSecrets {
            tenant_file: std::path::absolute(tenant_file)?,
            secrets,
        };
        let text = serde_json::to_string(&listed).map_err(io::Error::other)?;
        durable_write::write_note(&note, &text)?;
        Ok(Self { note, listed })
    }

    /// The file that names the secrets is there.
    pub(crate) fn done(self) -> io::Result<()> {
        durable_write::remove(&self.note)
    }

    /// The file that names the secrets will not be there.
    pub(crate) fn undo(self) -> io::Result<()> {
        for secret in &self.listed.secrets {
            match fs::remove_file(secret) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        durable_write::remove(&self.note)
    }
}

/// Ends what a killed command left: secrets that a file names stay, others are removed, as are the unnamed neighbors of
/// tenants' files. The caller holds the lock of the tenants' folder, so no command is at work.
pub(crate) fn recover(secrets: &Path, tenants: &Path) -> io::Result<()> {
    for note in hidden(secrets, PREFIX)? {
        let listed = serde_json::from_slice(&fs::read(&note)?).ok();
        let Some(listed) = listed else {
            // It was cut off, and is synced before the first secret is made.
            durable_write::remove(&note)?;
            continue;
        };
        let pending = PendingSecrets { note, listed };
        if pending.listed.tenant_file.exists() {
            pending.done()?;
        } else {
            pending.undo()?;
        }
    }
    for half in hidden(tenants, durable_write::UNNAMED)? {
        fs::remove_file(half)?;
    }
    Ok(())
}

fn hidden(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
