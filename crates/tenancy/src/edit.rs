//! Edits of existing tenants: standing, rotation of keys, removal.
//!
//! An edit keeps comments and order. Before it is made the whole configuration is read as it would be with it; if that has
//! a problem, nothing is changed. An edit that takes rights away is made nevertheless if the problems were there before:
//! a broken file must not keep an operator from stopping a stolen key. Random bytes and the time are arguments.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_core::ClientId;
use zeroize::Zeroizing;

use crate::disk::durable_write;
use crate::model::party::{PartyId, Standing};
use crate::plan::facts;
use crate::syntax::document::{self, ConfigTable};
use crate::syntax::problem::Problem;
use crate::syntax::value;

mod assign;
pub mod bulk;
pub(crate) mod files;
mod json;
pub(crate) mod new_credential;
pub mod onboard;
mod tenant_keys;
mod toml;

pub use assign::{AssignedKeys, Assignment, AssignmentError, EditMode, assign};
pub use files::{ConfigFiles, EditError};
pub use new_credential::RandomBytes;

use files::{FileFormat, LockedFolder, ProblemPolicy, TenantTable, at, load_edited};
use new_credential::{EndingCredential, NewCredential, UneditableText, draw};

/// The result of setting a tenant's standing.
pub struct StandingChange {
    /// The file that says it.
    pub file: PathBuf,
    /// The further files that name the tenant by mistake.
    pub copies: EditedCopies,
    /// Whether it had to be changed.
    pub changed: bool,
    /// The problems of the configuration that were there before.
    pub problems: Vec<Problem>,
}

/// Files that name a tenant besides the one that was edited first. A tenant has one table, and a running proxy may have it
/// from any of them.
#[derive(Default)]
pub struct EditedCopies {
    /// Edited in the same way.
    pub edited: Vec<PathBuf>,
    /// Not edited, each with the reason.
    pub failed: Vec<(PathBuf, EditError)>,
    /// Named after the tenant, and not readable.
    pub unreadable: Option<PathBuf>,
}

/// The new credential, for the tenant, and the files it was written to.
pub struct RotatedCredential {
    /// The client id, which the tenant is told.
    pub client_id: ClientId,
    /// The secret, which the tenant is told once, by a way that keeps it secret.
    pub secret: Zeroizing<String>,
    /// The tenant's table.
    pub tenant_file: PathBuf,
    /// The new secret.
    pub secret_file: PathBuf,
    /// The client ids that are good until then and no longer, from RFC 3339.
    pub ending: Vec<String>,
    /// When they end.
    pub ends: String,
    /// The further files that name the tenant by mistake.
    pub copies: EditedCopies,
    /// The problems of the configuration that were there before.
    pub problems: Vec<Problem>,
}

/// The removed files.
pub struct RemovedTenant {
    /// The tenant's file, or the file of many that it was taken out of.
    pub tenant_file: PathBuf,
    /// Whether the file as a whole was removed.
    pub whole_file: bool,
    /// Its secrets.
    pub secrets: Vec<PathBuf>,
    /// Those that were left, each with why.
    pub kept: Vec<(PathBuf, String)>,
}

/// The file that a tenant stands in.
pub fn file_of(files: &ConfigFiles<'_>, id: &PartyId) -> Result<PathBuf, EditError> {
    Ok(LockedFolder::of(files)?.find(id)?.file)
}

/// Sets a tenant's standing.
pub fn set_standing(
    files: &ConfigFiles<'_>,
    id: &PartyId,
    standing: Standing,
) -> Result<StandingChange, EditError> {
    let judging = match standing {
        Standing::Active => ProblemPolicy::Whole,
        Standing::ReadOnly | Standing::Suspended => ProblemPolicy::NoNewProblem,
    };
    let folder = LockedFolder::judging(files, judging)?;
    let tenant = folder.find(id)?;
    let (changed, mut problems) = stand(files, &tenant, standing)?;
    let mut copies = EditedCopies::default();
    if standing < Standing::Active {
        copies = edit_copies(&folder, &tenant, id, |copy| {
            if standing_of(copy) <= standing {
                return Ok(false);
            }
            (_, problems) = stand(files, copy, standing)?;
            Ok(true)
        });
    }
    Ok(StandingChange {
        file: tenant.file,
        changed: changed || !copies.edited.is_empty(),
        copies,
        problems,
    })
}

/// Edits the other tables that name a tenant. A table that cannot be edited does not stop the others.
fn edit_copies(
    folder: &LockedFolder,
    first: &TenantTable,
    id: &PartyId,
    mut edit: impl FnMut(&TenantTable) -> Result<bool, EditError>,
) -> EditedCopies {
    let mut copies = EditedCopies {
        unreadable: folder.unreadable_file(id),
        ..EditedCopies::default()
    };
    for place in folder.others_like(first, id) {
        let file = place.file.clone();
        let Some(copy) = TenantTable::at(place) else {
            continue;
        };
        match edit(&copy) {
            Ok(true) => copies.edited.push(file),
            Ok(false) => {}
            Err(error) => copies.failed.push((file, error)),
        }
    }
    copies
}

/// The standing in a table; one that is wrong may have been meant as any.
fn standing_of(tenant: &TenantTable) -> Standing {
    let says = tenant.table().get("standing");
    let standing = says.map(|entry| value::word(Standing::WORDS)(&entry.node.value));
    standing.and_then(Result::ok).unwrap_or(Standing::Active)
}

/// Sets the standing in one table. Returns whether that changed it, and the problems that were there before.
fn stand(
    files: &ConfigFiles<'_>,
    tenant: &TenantTable,
    standing: Standing,
) -> Result<(bool, Vec<Problem>), EditError> {
    let word = standing.as_str();
    let says = document::text(tenant.table(), "standing").unwrap_or(Standing::Active.as_str());
    if says == word {
        return Ok((false, Vec::new()));
    }
    let edited = match tenant.form {
        FileFormat::Json => json::stand(&tenant.text, tenant.index, word),
        FileFormat::Toml => toml::stand(&tenant.text, tenant.index, word),
    };
    // From `suspended` even `read_only` gives rights.
    let gives_rights = standing == Standing::Active || standing_of(tenant) < standing;
    let judging = if gives_rights {
        ProblemPolicy::Whole
    } else {
        ProblemPolicy::NoNewProblem
    };
    Ok((true, tenant.rewrite(files, edited, judging)?))
}

/// Gives a tenant one more credential, and lets those it has end after a time in which both are good. Without such a time
/// all of them end, also those that are not valid yet.
///
/// # Panics
/// Never: a UUID is visible ASCII.
pub fn rotate(
    files: &ConfigFiles<'_>,
    id: &PartyId,
    now_ms: u64,
    overlap: Duration,
    random: &RandomBytes,
) -> Result<RotatedCredential, EditError> {
    let judging = if overlap.is_zero() {
        ProblemPolicy::NoNewProblem
    } else {
        ProblemPolicy::Whole
    };
    let folder = LockedFolder::judging(files, judging)?;
    let tenant = folder.find(id)?;
    let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    // Whole seconds, which read better in a file.
    let ends_ms = now_ms.saturating_add(overlap_ms) / 1_000 * 1_000;
    let ends = facts::time(ends_ms);
    let (dated, mut ending) = outlasting(&tenant, ends_ms, overlap.is_zero());
    let (client_id, secret) = draw(random);
    let name = format!("{id}-{}.key", &client_id.as_str()[..8]);
    let named = tenant.secret_folder(&folder).join(name);
    let secret_file = durable_write::folder_of(&tenant.file).join(&named);
    let new = NewCredential {
        client_id: client_id.as_str(),
        secret_file: named
            .to_str()
            .ok_or_else(|| EditError::Misshapen(tenant.file.clone()))?,
    };
    let edited = end_credentials(&tenant, &dated, &ends, Some(&new));
    write_secret(&tenant, &secret_file, &secret)?;
    let mut problems = tenant.rewrite(files, edited, judging).inspect_err(|_| {
        // This process made it a moment ago, and no file names it.
        let _unremoved = fs::remove_file(&secret_file);
    })?;
    let mut copies = EditedCopies::default();
    if overlap.is_zero() {
        copies = edit_copies(&folder, &tenant, id, |copy| {
            let (dated, more) = outlasting(copy, ends_ms, true);
            if dated.is_empty() {
                return Ok(false);
            }
            let edited = end_credentials(copy, &dated, &ends, None);
            problems = copy.rewrite(files, edited, judging)?;
            ending.extend(more);
            Ok(true)
        });
    }
    Ok(RotatedCredential {
        client_id,
        secret,
        tenant_file: tenant.file,
        secret_file,
        ending,
        ends,
        copies,
        problems,
    })
}

/// The text in which these credentials of a tenant end, and one is added.
fn end_credentials(
    tenant: &TenantTable,
    ending: &[EndingCredential],
    ends: &str,
    new: Option<&NewCredential<'_>>,
) -> Result<String, UneditableText> {
    let edit = match tenant.form {
        FileFormat::Json => json::rotate,
        FileFormat::Toml => toml::rotate,
    };
    edit(&tenant.text, tenant.index, ending, ends, new)
}

/// The credentials that are valid after a time, and their client ids. Those that begin after it count only if all end.
fn outlasting(
    tenant: &TenantTable,
    ends_ms: u64,
    all_end: bool,
) -> (Vec<EndingCredential>, Vec<String>) {
    let date = |table: &ConfigTable, key| {
        table
            .get(key)
            .and_then(|entry| value::time(&entry.node.value).ok())
    };
    let client_id = |table| document::text(table, "client_id").unwrap_or_default();
    let credentials = tenant.credentials().into_iter();
    let ending = credentials.filter_map(|(index, table)| {
        let begins_later = date(table, "not_before").is_some_and(|begin| begin >= ends_ms);
        let outlasts = date(table, "not_after").is_none_or(|end| end > ends_ms);
        let ending = EndingCredential {
            index,
            // A table has to begin before it ends.
            not_before: begins_later.then(|| facts::time(ends_ms.saturating_sub(1_000))),
        };
        (outlasts && (all_end || !begins_later)).then(|| (ending, client_id(table).to_owned()))
    });
    ending.unzip()
}

/// Writes the secret to a new file with the owner and mode of the tenant's newest secret file.
fn write_secret(tenant: &TenantTable, file: &Path, secret: &str) -> Result<(), EditError> {
    let folder = durable_write::folder_of(file);
    durable_write::make_secrets_folder(folder).map_err(at(folder))?;
    let like = tenant.secret_files().last().filter(|like| like.is_file());
    durable_write::write_secret(file, secret, like.as_deref()).map_err(at(file))
}

/// Removes a tenant, and its secret files if no other file names them.
pub fn remove(
    files: &ConfigFiles<'_>,
    id: &PartyId,
    keep_secrets: bool,
) -> Result<RemovedTenant, EditError> {
    let folder = LockedFolder::of(files)?;
    let tenant = folder.find(id)?;
    let secrets: Vec<_> = tenant.secret_files().collect();
    let only = document::tenants(&tenant.root).len() == 1;
    let whole = tenant.index.is_none() || (only && !folder.is_one_file());
    if whole {
        load_edited(files, &tenant.file, None)?;
        tenant.unchanged()?;
        durable_write::remove(&tenant.file).map_err(at(&tenant.file))?;
    } else {
        let index = tenant.index.unwrap_or_default();
        let edited = match tenant.form {
            FileFormat::Json => json::remove(&tenant.text, index),
            FileFormat::Toml => toml::remove(&tenant.text, index, &tenant.lines()),
        };
        tenant.rewrite(files, edited, ProblemPolicy::Whole)?;
    }
    let mut removed = RemovedTenant {
        tenant_file: tenant.file,
        whole_file: whole,
        secrets: Vec::new(),
        kept: Vec::new(),
    };
    for secret in secrets {
        let kept = if keep_secrets {
            Some("kept on request".to_owned())
        } else if let Some(by) = folder.file_naming(files, &secret) {
            Some(format!("{} also names it", by.display()))
        } else {
            durable_write::remove(&secret)
                .err()
                .map(|error| error.to_string())
        };
        match kept {
            None => removed.secrets.push(secret),
            Some(why) => removed.kept.push((secret, why)),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(RotatedCredential: fmt::Debug, fmt::Display, serde::Serialize, Clone);
}
