//! `tenant set`: keys of one tenant, set or removed in its file.

use std::path::PathBuf;

use crate::edit::files::{
    ConfigFiles, EditError, FileFormat, LockedFolder, ProblemPolicy, TenantTable, load_edited,
};
use crate::edit::new_credential::UneditableText;
use crate::edit::tenant_keys::{self, KeyValue};
use crate::edit::{json, toml};
use crate::model::party::PartyId;

/// A key and its new value; without a value the key is removed, so that its default holds.
#[derive(Clone)]
pub struct Assignment {
    pub(super) path: String,
    pub(super) value: Option<KeyValue>,
}

/// The text is no assignment.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AssignmentError(String);

impl Assignment {
    /// Reads `key=value`, or `key=`, which removes the key.
    pub fn parse(text: &str) -> Result<Self, AssignmentError> {
        let error = |key: &str, why: &str| AssignmentError(format!("{key}: {why}"));
        let (path, value) = text
            .split_once('=')
            .ok_or_else(|| error(text, "must be KEY=VALUE, or KEY= to remove the key"))?;
        let keys = tenant_keys::all();
        let key = tenant_keys::named(&keys, path).map_err(|why| error(path, &why))?;
        let instead = match path {
            "id" => Some("a tenant keeps its id; remove it and add another"),
            "standing" => Some("use `tenant suspend` or `tenant resume`"),
            _ => None,
        };
        if let Some(instead) = instead {
            return Err(error(path, instead));
        }
        let value = if value.is_empty() {
            None
        } else {
            Some(key.read(value).map_err(|why| error(path, why))?)
        };
        Ok(Self {
            path: path.to_owned(),
            value,
        })
    }
}

/// The edited file.
pub struct AssignedKeys {
    /// The file.
    pub file: PathBuf,
    /// Its text before the edit.
    pub before: String,
    /// Its text after the edit; the same if nothing changed.
    pub after: String,
}

/// Whether the edit is made or only judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EditMode {
    /// It is made.
    Make,
    /// It is only judged: `--dry-run`.
    DryRun,
}

/// Sets or removes keys of a tenant. The whole configuration is judged first; if it has a problem, the file stays as it is.
pub fn assign(
    files: &ConfigFiles<'_>,
    id: &PartyId,
    assignments: &[Assignment],
    mode: EditMode,
) -> Result<AssignedKeys, EditError> {
    let folder = LockedFolder::of(files)?;
    let tenant = folder.find(id)?;
    let edited = edited(&tenant, assignments)
        .map_err(|UneditableText| EditError::Misshapen(tenant.file.clone()))?;
    if edited != tenant.text {
        match mode {
            EditMode::DryRun => {
                load_edited(files, &tenant.file, Some(&edited))?;
            }
            EditMode::Make => {
                tenant.rewrite(files, Ok(edited.clone()), ProblemPolicy::Whole)?;
            }
        }
    }
    Ok(AssignedKeys {
        file: tenant.file,
        before: tenant.text,
        after: edited,
    })
}

fn edited(tenant: &TenantTable, assignments: &[Assignment]) -> Result<String, UneditableText> {
    let mut text = tenant.text.clone();
    for Assignment { path, value } in assignments {
        let keys: Vec<&str> = path.split('.').collect();
        text = match tenant.form {
            FileFormat::Toml => toml::assign(&text, tenant.index, &keys, value.as_ref())?,
            FileFormat::Json => json::assign(&text, tenant.index, &keys, value.as_ref())?,
        };
    }
    Ok(text)
}
