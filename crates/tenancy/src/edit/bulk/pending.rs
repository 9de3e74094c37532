//! Secrets that are written before the file that names them. A note beside them lists them first, so that after a crash
//! the next command removes those that no file of tenants names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::disk::durable_write;

/// What the names of notes begin with.
const PREFIX: &str = ".adding-";

/// What is being written; on disk until it is.
pub(crate) struct PendingSecrets {
    note: PathBuf,
    listed: ListedSecrets,
}

/// Absolute, so that a command in another folder means the same files.
#[derive(Serialize, Deserialize)]
struct ListedSecrets {
    /// The folder of the file that names the secrets.
    tenants: PathBuf,
    secrets: Vec<PathBuf>,
}

impl PendingSecrets {
    /// Notes secrets of which none is there yet.
    pub(crate) fn note(folder: &Path, tenant_file: &Path, secrets: &[PathBuf]) -> io::Result<Self> {
        let name = tenant_file.file_stem().unwrap_or_default();
        let note = folder.join(format!("{PREFIX}{}", name.to_string_lossy()));
        let secrets = secrets.iter().map(absolute);
        let listed = ListedSecrets {
            tenants: absolute(tenant_file.parent().unwrap_or(Path::new("")))?,
            secrets: secrets.collect::<Result<_, _>>()?,
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

/// The secrets of killed commands.
#[derive(Default)]
pub(crate) struct Leftovers(Vec<PendingSecrets>);

impl Leftovers {
    /// Finds the secrets that no file of tenants names, in whichever file they are by now. The caller holds the lock of the
    /// tenants' folder, so no command is at work there; another folder's notes are left to its own commands.
    pub(crate) fn find(secrets: &Path, tenants: &Path) -> io::Result<Self> {
        let (mut left, mut texts) = (Vec::new(), None);
        for note in hidden(secrets, PREFIX)? {
            let Ok(mut listed) = serde_json::from_slice::<ListedSecrets>(&fs::read(&note)?) else {
                // It was cut off, and is synced before the first secret is made.
                left.push(PendingSecrets {
                    note,
                    listed: ListedSecrets {
                        tenants: PathBuf::new(),
                        secrets: Vec::new(),
                    },
                });
                continue;
            };
            if listed.tenants != absolute(tenants)? {
                continue;
            }
            let texts = match &mut texts {
                Some(texts) => texts,
                none => none.insert(read_all(tenants)?),
            };
            listed.secrets.retain(|secret| {
                let name = secret.file_name().unwrap_or_default().as_encoded_bytes();
                !texts.iter().any(|text| memmem::find(text, name).is_some())
            });
            left.push(PendingSecrets { note, listed });
        }
        Ok(Self(left))
    }

    /// Whether it is one of the secrets that no file names.
    pub(crate) fn has(&self, secret: &Path) -> bool {
        let secret = absolute(secret).unwrap_or_default();
        let mut secrets = self.0.iter().flat_map(|left| &left.listed.secrets);
        secrets.any(|left| *left == secret)
    }

    /// Removes them, and the unnamed neighbors of tenants' files.
    pub(crate) fn remove(self, tenants: &Path) -> io::Result<()> {
        self.0.into_iter().try_for_each(PendingSecrets::undo)?;
        hidden(tenants, durable_write::UNNAMED)?
            .into_iter()
            .try_for_each(fs::remove_file)
    }
}

/// The absolute path, with the links of its folder resolved.
fn absolute(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    let path = path.as_ref();
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
    Ok(path
        .file_name()
        .map_or_else(|| folder.clone(), |name| folder.join(name)))
}

/// The content of each file in the folder.
fn read_all(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // Not a file of tenants: a killed command had yet to give it its name.
            continue;
        }
        let path = entry.path();
        if fs::metadata(&path).is_ok_and(|it| it.is_file()) {
            texts.push(fs::read(&path)?);
        }
    }
    Ok(texts)
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
