//! Onboarding in bulk: a list of tenants becomes one file of tenants and a secret for each, all or nothing.
//!
//! The file of tenants appears by one rename, and the secrets before it; a note on disk lists them until then. So a running
//! proxy sees all tenants or none, and what a killed command left is removed by the next.

mod list;
pub(super) mod pending;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{self, Path, PathBuf};

use gatepay_core::ClientId;
use zeroize::Zeroizing;

pub use list::{ListProblem, TenantList};

use crate::disk::durable_write;
use crate::edit::assign::EditMode;
use crate::edit::files::{ConfigFiles, EditError, LockedFolder, at, load_edited};
use crate::edit::new_credential::{RandomBytes, draw};
use crate::edit::onboard::AddError;
use crate::model::party::PartyId;
use crate::syntax::problem::Problem;
use list::ListedTenant;
use pending::{Leftovers, PendingSecrets};

/// The added tenants.
pub struct AddedTenants {
    /// The file with all of them.
    pub tenant_file: PathBuf,
    /// A credential for each line of the list; none of a dry run.
    pub credentials: Vec<AddedCredential>,
}

/// The credential of one of them, and the file it was written to.
pub struct AddedCredential {
    /// The tenant.
    pub id: PartyId,
    /// The client id, which the tenant is told.
    pub client_id: ClientId,
    /// The secret, which the tenant is told once, by a way that keeps it secret.
    pub secret: Zeroizing<String>,
    /// The tenant's secret.
    pub secret_file: PathBuf,
}

/// Why no tenant was added.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The list is wrong, or wrong beside the tenants that are there.
    #[error("{} problem{}", _0.len(), if _0.len() == 1 { "" } else { "s" })]
    List(Vec<ListProblem>),
    /// The fault is not in the list.
    #[error(transparent)]
    Add(#[from] AddError),
}

/// Adds all tenants of a list, or none.
pub fn add(
    files: &ConfigFiles<'_>,
    list: &TenantList,
    secrets: Option<&Path>,
    mut random: impl FnMut() -> RandomBytes,
    mode: EditMode,
) -> Result<AddedTenants, BulkError> {
    let folder = LockedFolder::of(files).map_err(AddError::from)?;
    if folder.is_one_file() {
        return Err(AddError::NotAFolder(folder.tenants.clone()).into());
    }
    let place = BulkPlace::new(&folder, list, secrets, mode)?;
    let drawn: Vec<_> = list.rows.iter().map(|_| draw(&random())).collect();
    let ids = drawn.iter().map(|(client_id, _)| client_id);
    let text = place.text(list, ids)?;
    // First without the secrets, which are not there yet, then with them.
    let unwritten = ConfigFiles {
        secrets_elsewhere: true,
        ..*files
    };
    let judged = place.judge(&unwritten, list, &text);
    match &judged {
        // The tenants are there already, and that says more than that their secrets are.
        Err(BulkError::List(problems)) if problems.iter().any(|it| it.column.is_some()) => {}
        _ => place.refuse_taken(list)?,
    }
    judged?;
    if mode == EditMode::DryRun {
        return Ok(AddedTenants {
            tenant_file: place.tenant_file,
            credentials: Vec::new(),
        });
    }
    let pending = place.write_secrets(drawn.iter().map(|(_, secret)| &**secret))?;
    let written = place.judge(files, list, &text).and_then(|()| {
        let written = durable_write::write_tenant(&place.tenant_file, &text);
        written.map_err(|error| io_error(&place.tenant_file, error))
    });
    if let Err(error) = written {
        // The next command tries again what cannot be removed.
        let _unremoved = pending.undo();
        return Err(error);
    }
    // Everything is there; the next command removes the note too.
    let _noted = pending.done();
    let rows = list.rows.iter().zip(drawn).zip(&place.secret_files);
    let credentials = rows.map(|((row, (client_id, secret)), file)| AddedCredential {
        id: row.id.clone(),
        client_id,
        secret,
        secret_file: file.clone(),
    });
    Ok(AddedTenants {
        credentials: credentials.collect(),
        tenant_file: place.tenant_file,
    })
}

/// The files to write.
struct BulkPlace {
    secrets: PathBuf,
    tenant_file: PathBuf,
    secret_files: Vec<PathBuf>,
    /// As the file of tenants names them.
    named: Vec<PathBuf>,
    /// The secrets of killed commands, in a dry run, which leaves them in place.
    left: Leftovers,
}

impl BulkPlace {
    fn new(
        folder: &LockedFolder,
        list: &TenantList,
        secrets: Option<&Path>,
        mode: EditMode,
    ) -> Result<Self, BulkError> {
        let tenants = &folder.tenants;
        let beside = tenants.parent().unwrap_or(Path::new(""));
        let folder = secrets.map_or_else(|| beside.join("secrets"), Path::to_owned);
        let left = Leftovers::find(&folder, tenants).map_err(|error| io_error(&folder, error))?;
        let left = match mode {
            EditMode::DryRun => left,
            EditMode::Make => {
                let removed = left.remove(tenants);
                removed.map_err(|error| io_error(&folder, error))?;
                Leftovers::default()
            }
        };
        let names = list.rows.iter().map(|row| format!("{}.key", row.id));
        let secret_files: Vec<_> = names.clone().map(|name| folder.join(name)).collect();
        let named = if secrets.is_some() {
            let absolute = |file: &PathBuf| path::absolute(file).map_err(|it| io_error(file, it));
            secret_files
                .iter()
                .map(absolute)
                .collect::<Result<_, _>>()?
        } else {
            names
                .map(|name| Path::new("../secrets").join(name))
                .collect()
        };
        Ok(Self {
            tenant_file: free_name(tenants, &list.file),
            secrets: folder,
            secret_files,
            named,
            left,
        })
    }

    /// A secret is never overwritten. A tenant that is there already is told before, by `judge`.
    fn refuse_taken(&self, list: &TenantList) -> Result<(), BulkError> {
        let mut taken = Vec::new();
        for (row, file) in self.secret_files.iter().enumerate() {
            if fs::symlink_metadata(file).is_ok() && !self.left.has(file) {
                let text = format!(
                    "{} exists already; a secret is never overwritten",
                    file.display()
                );
                taken.push(list.problem(row, "id", text));
            }
        }
        if taken.is_empty() {
            Ok(())
        } else {
            Err(BulkError::List(taken))
        }
    }

    /// One table for each line of the list.
    fn text<'a>(
        &self,
        list: &TenantList,
        client_ids: impl Iterator<Item = &'a ClientId>,
    ) -> Result<String, BulkError> {
        let mut text = String::new();
        for ((row, named), client_id) in list.rows.iter().zip(&self.named).zip(client_ids) {
            let file = named.to_str();
            let file = file.ok_or_else(|| AddError::NotUtf8(named.clone()))?;
            table(&mut text, row, client_id, file);
        }
        Ok(text)
    }

    /// Says what is wrong by the places of the list.
    fn judge(
        &self,
        files: &ConfigFiles<'_>,
        list: &TenantList,
        text: &str,
    ) -> Result<(), BulkError> {
        let problems = match load_edited(files, &self.tenant_file, Some(text)) {
            Ok(_) => return Ok(()),
            Err(EditError::Problems(problems)) => problems,
            Err(error) => return Err(AddError::from(error).into()),
        };
        let root = files.proxy_toml.parent().unwrap_or(Path::new(""));
        let own = self.tenant_file.strip_prefix(root);
        let own = own.unwrap_or(&self.tenant_file);
        let (ours, others): (Vec<_>, Vec<_>) = problems
            .into_iter()
            .partition(|problem| problem.file == own);
        let clashes = others
            .iter()
            .filter_map(|problem| clash(list, text, own, problem));
        let mut listed: Vec<_> = clashes.collect();
        if ours.is_empty() && listed.is_empty() {
            return Err(AddError::from(EditError::Problems(others)).into());
        }
        // Credentials are drawn; one that stands twice does because its tenant's id does.
        let told = ours
            .iter()
            .filter(|problem| !problem.key.contains("].credential["));
        let told: Vec<_> = told.cloned().collect();
        let told = if told.is_empty() { ours } else { told };
        let told = told.into_iter();
        listed.extend(told.map(|problem| in_list(list, text, own, problem)));
        listed.sort();
        Err(BulkError::List(listed))
    }

    fn write_secrets<'a>(
        &self,
        secrets: impl Iterator<Item = &'a String>,
    ) -> Result<PendingSecrets, BulkError> {
        let folder = &self.secrets;
        durable_write::make_secrets_folder(folder).map_err(|error| io_error(folder, error))?;
        let pending = PendingSecrets::note(folder, &self.tenant_file, &self.secret_files);
        let pending = pending.map_err(|error| io_error(folder, error))?;
        for (file, secret) in self.secret_files.iter().zip(secrets) {
            if let Err(error) = durable_write::write_secret(file, secret, None) {
                let _unremoved = pending.undo();
                return Err(io_error(file, error));
            }
        }
        Ok(pending)
    }
}

/// A problem of a table, as one of the line of the list that the table is made of.
fn in_list(list: &TenantList, text: &str, own: &Path, problem: Problem) -> ListProblem {
    let key = problem.key.strip_prefix("tenant[");
    let key = key.and_then(|rest| rest.split_once(']'));
    let row = key.and_then(|(row, _)| row.parse().ok()).unwrap_or(0);
    let path = key.map_or(problem.key.as_str(), |(_, path)| {
        path.trim_start_matches('.')
    });
    let of_cap = path.strip_prefix("cap[0].");
    let of_cap = of_cap.map(|key| format!("{CAP}{key}"));
    let path = of_cap.as_deref().unwrap_or(path);
    // Another place in the same file is another line of the list.
    let told = mention(text, own, &problem.text).and_then(|(before, line, after)| {
        let other = list.rows.get(line)?;
        let file = list.file.display();
        Some(format!("{before}{file}:{}{after}", other.line))
    });
    list.problem(
        row.min(list.rows.len() - 1),
        path,
        told.unwrap_or(problem.text),
    )
}

/// A problem that is told at a tenant that is there: it names a line of the list's tenants.
fn clash(list: &TenantList, text: &str, own: &Path, problem: &Problem) -> Option<ListProblem> {
    let (before, row, after) = mention(text, own, &problem.text)?;
    list.rows.get(row)?;
    let (file, line) = (problem.file.display(), problem.line);
    let line = line.map_or_else(String::new, |line| format!(":{line}"));
    let path = problem
        .key
        .rsplit_once("].")
        .map_or(problem.key.as_str(), |(_, path)| path);
    Some(list.problem(row, path, format!("{before}{file}{line}{after}")))
}

/// The text before and after a place in the tenants' file, and the number of the table at that place.
fn mention<'t>(text: &str, own: &Path, told: &'t str) -> Option<(&'t str, usize, &'t str)> {
    let (before, rest) = told.split_once(&format!("{}:", own.display()))?;
    let digits = rest.len()
        - rest
            .trim_start_matches(|it: char| it.is_ascii_digit())
            .len();
    let line: usize = rest[..digits].parse().ok()?;
    let tables = text.lines().take(line).filter(|it| *it == "[[tenant]]");
    Some((before, tables.count().checked_sub(1)?, &rest[digits..]))
}

/// The beginning of the paths of a cap's keys.
const CAP: &str = "cap.";

fn table(text: &mut String, row: &ListedTenant, client_id: &ClientId, secret_file: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str("[[tenant]]\n");
    let (cap, own): (Vec<_>, Vec<_>) = row
        .values
        .iter()
        .partition(|(path, _)| path.starts_with(CAP));
    let (first, rest): (Vec<_>, Vec<_>) = own
        .into_iter()
        .partition(|(path, _)| ["id", "sub_account"].contains(&path.as_str()));
    for (path, value) in first.into_iter().chain(rest) {
        let _infallible = writeln!(text, "{path} = {}", value.toml());
    }
    let (client_id, file) = (client_id.as_str(), toml_edit::Value::from(secret_file));
    let _infallible = write!(
        text,
        "[[tenant.credential]]\nclient_id = \"{client_id}\"\nsecret = {{ file = {file} }}\n"
    );
    if !cap.is_empty() {
        text.push_str("[[tenant.cap]]\n");
    }
    for (path, value) in cap {
        let key = path.trim_start_matches(CAP);
        let _infallible = writeln!(text, "{key} = {}", value.toml());
    }
}

/// The name of the list, or one with a number if a file has it.
fn free_name(tenants: &Path, list: &Path) -> PathBuf {
    let stem = list.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.filter(|stem| stem.starts_with(|it: char| it.is_ascii_alphanumeric()));
    let stem = stem.unwrap_or("tenants");
    let names = (2_u32..).map(|number| format!("{stem}-{number}"));
    let mut names = std::iter::once(stem.to_owned()).chain(names);
    let free = |name: &String| {
        let taken = |form| fs::symlink_metadata(tenants.join(format!("{name}.{form}"))).is_ok();
        !taken("toml") && !taken("json")
    };
    let name = names.find(free).unwrap_or_else(|| stem.to_owned());
    tenants.join(format!("{name}.toml"))
}

fn io_error(path: &Path, error: io::Error) -> BulkError {
    AddError::from(at(path)(error)).into()
}

#[cfg(test)]
mod tests;
