//! Edits of tenants that are there: what they may do at all, their keys, their end.
//!
//! An edit keeps comments and order. Before it is made the whole configuration is read as it would be with it; if that has
//! a problem, nothing is changed. An edit that takes rights away is made all the same if the problems were there before:
//! a broken file must not keep anybody from stopping a stolen key. Random bytes and the time are arguments.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_core::ClientId;
use zeroize::Zeroizing;

use crate::document::{self, Node, Table, Value};
use crate::durable::{self, Replaced};
use crate::load::{Configuration, Supposing, load_readable, load_supposing, party_files};
use crate::onboard::{self, Random};
use crate::party::{PartyId, Standing};
use crate::party_file::STANDINGS;
use crate::problem::{Problem, closest};
use crate::secrets::Environment;
use crate::{facts, value};

mod json;
mod toml;

/// Which files are edited, and how they are read.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// It names the others.
    pub proxy_toml: &'a Path,
    /// What secrets may be named by besides files.
    pub env: &'a Environment<'a>,
    /// Secrets that this machine does not have stand for secrets of their own: a checkout has none.
    pub secrets_elsewhere: bool,
}

/// What became of a tenant's standing.
pub struct Stood {
    /// The file that says it.
    pub file: PathBuf,
    /// Whether it had to be changed.
    pub changed: bool,
    /// What else is wrong with the configuration, and was before.
    pub problems: Vec<Problem>,
}

/// What the tenant has to be told, and where it was written.
pub struct Rotated {
    /// To be told.
    pub client_id: ClientId,
    /// To be told, once, by a way that keeps it secret.
    pub secret: Zeroizing<String>,
    /// The tenant's table.
    pub tenant_file: PathBuf,
    /// The new secret.
    pub secret_file: PathBuf,
    /// The client ids that are good until then and no longer, from RFC 3339.
    pub ending: Vec<String>,
    /// When they end.
    pub ends: String,
    /// What else is wrong with the configuration, and was before.
    pub problems: Vec<Problem>,
}

/// What was removed.
pub struct Removed {
    /// The tenant's file, or the file of many that it was taken out of.
    pub tenant_file: PathBuf,
    /// Whether the file as a whole was removed.
    pub whole: bool,
    /// Its secrets.
    pub secrets: Vec<PathBuf>,
    /// Those that were left, each with why.
    pub left: Vec<(PathBuf, String)>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No file has such a tenant.
    #[error("there is no tenant {id} in {}{}", tenants.display(), meant(closest.as_deref()))]
    Unknown {
        /// The name.
        id: PartyId,
        /// Where it was looked for.
        tenants: PathBuf,
        /// One that is there, and may have been meant.
        closest: Option<String>,
    },
    /// What would be wrong then, or is wrong already.
    #[error("{} problems", _0.len())]
    Problems(Vec<Problem>),
    /// Not as these edits expect it.
    #[error("{} is written in a way that can only be edited by hand", _0.display())]
    Misshapen(PathBuf),
    /// Somebody else edited it at the same time.
    #[error("{} was changed by somebody else just now; look at it, and try again", _0.display())]
    Changed(PathBuf),
    /// A file or folder could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

fn meant(closest: Option<&str>) -> String {
    closest.map_or_else(String::new, |id| format!("; did you mean {id}?"))
}

/// A text is not of the form that an edit needs.
#[derive(Debug)]
struct Misshapen;

/// What is added to a tenant's table.
struct NewCredential<'a> {
    client_id: &'a str,
    secret_file: &'a str,
}

/// How much of the configuration has to be right for an edit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judging {
    /// All of it: the edit gives rights.
    Whole,
    /// The edit adds no problem: it takes rights away.
    NoNewProblem,
}

/// The file that a tenant stands in.
pub fn file_of(files: &Files<'_>, id: &PartyId) -> Result<PathBuf, EditError> {
    Ok(Folder::of(files)?.find(id)?.file)
}

/// Says what a tenant may do at all.
pub fn stand(files: &Files<'_>, id: &PartyId, standing: Standing) -> Result<Stood, EditError> {
    let judging = match standing {
        Standing::Active => Judging::Whole,
        Standing::ReadOnly | Standing::Suspended => Judging::NoNewProblem,
    };
    let folder = Folder::judging(files, judging)?;
    let tenant = folder.find(id)?;
    let word = standing.as_str();
    let says = document::text(tenant.table(), "standing").unwrap_or(Standing::Active.as_str());
    let changed = says != word;
    let mut problems = Vec::new();
    if changed {
        let edited = match tenant.form {
            Form::Json => json::stand(&tenant.text, tenant.index, word),
            Form::Toml => toml::stand(&tenant.text, tenant.index, word),
        };
        // From `suspended` even `read_only` gives rights.
        let before = STANDINGS.iter().find(|(word, _)| *word == says);
        let judging = match before {
            Some((_, before)) if *before < standing => Judging::Whole,
            _ => judging,
        };
        problems = tenant.rewrite(files, edited, judging)?;
    }
    Ok(Stood {
        file: tenant.file,
        changed,
        problems,
    })
}

/// Gives a tenant one more credential, and lets those it has end after a time in which both are good.
///
/// # Panics
/// Never: a UUID is visible ASCII.
pub fn rotate(
    files: &Files<'_>,
    id: &PartyId,
    now_ms: u64,
    overlap: Duration,
    random: &Random,
) -> Result<Rotated, EditError> {
    let judging = if overlap.is_zero() {
        Judging::NoNewProblem
    } else {
        Judging::Whole
    };
    let folder = Folder::judging(files, judging)?;
    let tenant = folder.find(id)?;
    let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    // Whole seconds, which read better in a file.
    let ends_ms = now_ms.saturating_add(overlap_ms) / 1_000 * 1_000;
    let ends = facts::time(ends_ms);
    let credentials = tenant.credentials();
    let date = |table: &Table, key| {
        table
            .get(key)
            .and_then(|it| value::time(&it.node.value).ok())
    };
    let outlasts = |table: &Table| {
        date(table, "not_before").is_none_or(|begin| begin < ends_ms)
            && date(table, "not_after").is_none_or(|end| end > ends_ms)
    };
    let (dated, ending) = credentials
        .iter()
        .enumerate()
        .filter(|(_, table)| outlasts(table))
        .map(|(index, table)| {
            (
                index,
                document::text(table, "client_id")
                    .unwrap_or_default()
                    .to_owned(),
            )
        })
        .unzip::<_, _, Vec<_>, Vec<_>>();

    let (client_id, secret) = onboard::draw(random);
    let name = format!("{id}-{}.key", &client_id.as_str()[..8]);
    let named = tenant.secret_folder(&folder).join(name);
    let secret_file = durable::folder_of(&tenant.file).join(&named);
    let new = NewCredential {
        client_id: client_id.as_str(),
        secret_file: named
            .to_str()
            .ok_or_else(|| EditError::Misshapen(tenant.file.clone()))?,
    };
    let edited = match tenant.form {
        Form::Json => json::rotate(&tenant.text, tenant.index, &dated, &ends, &new),
        Form::Toml => toml::rotate(&tenant.text, tenant.index, &dated, &ends, &new),
    };
    let secrets = durable::folder_of(&secret_file);
    durable::make_secrets_folder(secrets).map_err(at(secrets))?;
    let like = tenant.secret_files().last().filter(|like| like.is_file());
    durable::write_secret(&secret_file, &secret, like.as_deref()).map_err(at(&secret_file))?;
    let problems = tenant.rewrite(files, edited, judging).inspect_err(|_| {
        // It was made a moment ago, by us, and nobody names it.
        let _unremoved = fs::remove_file(&secret_file);
    })?;
    Ok(Rotated {
        client_id,
        secret,
        tenant_file: tenant.file,
        secret_file,
        ending,
        ends,
        problems,
    })
}

/// Removes a tenant, and its secret files if nobody else names them.
pub fn remove(files: &Files<'_>, id: &PartyId, keep_secrets: bool) -> Result<Removed, EditError> {
    let folder = Folder::of(files)?;
    let tenant = folder.find(id)?;
    let secrets: Vec<_> = tenant.secret_files().collect();
    let only = document::tenants(&tenant.root).len() == 1;
    let whole = tenant.index.is_none() || (only && !folder.is_one_file());
    if whole {
        judge(files, &tenant.file, None)?;
        tenant.unchanged()?;
        durable::remove(&tenant.file).map_err(at(&tenant.file))?;
    } else {
        let index = tenant.index.unwrap_or_default();
        let edited = match tenant.form {
            Form::Json => json::remove(&tenant.text, index),
            Form::Toml => toml::remove(&tenant.text, index, &tenant.lines()),
        };
        tenant.rewrite(files, edited, Judging::Whole)?;
    }
    let mut removed = Removed {
        tenant_file: tenant.file,
        whole,
        secrets: Vec::new(),
        left: Vec::new(),
    };
    for secret in secrets {
        let kept = if keep_secrets {
            Some("as it was asked for".to_owned())
        } else if let Some(by) = folder.names(files, &secret) {
            Some(format!("{} names it too", by.display()))
        } else {
            durable::remove(&secret)
                .err()
                .map(|error| error.to_string())
        };
        match kept {
            None => removed.secrets.push(secret),
            Some(why) => removed.left.push((secret, why)),
        }
    }
    Ok(removed)
}

/// The files of a configuration, as far as edits have to know them.
pub(crate) struct Folder {
    /// The folder of tenants, or the one file.
    pub(crate) tenants: PathBuf,
    operators: Option<PathBuf>,
    _lock: fs::File,
}

impl Folder {
    /// Keeps other edits out until it is dropped.
    pub(crate) fn of(files: &Files<'_>) -> Result<Self, EditError> {
        Self::judging(files, Judging::Whole)
    }

    fn judging(files: &Files<'_>, judging: Judging) -> Result<Self, EditError> {
        let problems = |faults: Vec<document::Fault>| {
            let problem = |fault: document::Fault| Problem {
                file: files.proxy_toml.file_name().unwrap_or_default().into(),
                line: fault.line,
                key: String::new(),
                text: fault.text,
            };
            EditError::Problems(faults.into_iter().map(problem).collect())
        };
        let root = match document::read(files.proxy_toml) {
            // It cannot say where the tenants are: they are looked for where they are by default.
            Err(_) if judging == Judging::NoNewProblem => Table::new(),
            read => read.map_err(problems)?,
        };
        let beside = files.proxy_toml.parent().unwrap_or(Path::new(""));
        let named = |key| document::text(&root, key).map(|name| beside.join(name));
        let tenants = named("tenants").unwrap_or_else(|| beside.join("tenants.d"));
        let locked = if tenants.is_dir() {
            &tenants
        } else {
            durable::folder_of(&tenants)
        };
        Ok(Self {
            _lock: durable::lock(locked).map_err(at(locked))?,
            operators: named("operators"),
            tenants,
        })
    }

    fn is_one_file(&self) -> bool {
        self.tenants.is_file()
    }

    /// Looks first where `onboard` puts it.
    fn find(&self, id: &PartyId) -> Result<Located, EditError> {
        let likely = ["toml", "json"].map(|form| self.tenants.join(format!("{id}.{form}")));
        if let Some(found) = likely
            .into_iter()
            .find_map(|file| Located::in_file(file, id))
        {
            return Ok(found);
        }
        let files = party_files(&self.tenants).map_err(at(&self.tenants))?;
        if let Some(found) = files
            .iter()
            .find_map(|file| Located::in_file(file.clone(), id))
        {
            return Ok(found);
        }
        let roots: Vec<_> = files
            .iter()
            .filter_map(|file| document::read(file).ok())
            .collect();
        let ids = roots.iter().flat_map(document::tenants);
        let ids = ids.filter_map(|table| document::text(table, "id"));
        Err(EditError::Unknown {
            id: id.clone(),
            tenants: self.tenants.clone(),
            closest: closest(id.as_str(), ids).map(str::to_owned),
        })
    }

    /// A file that names this one.
    fn names(&self, files: &Files<'_>, named: &Path) -> Option<PathBuf> {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let same = |text: &str, file: &Path| {
            let path = Path::new(text);
            path.file_name() == named.file_name()
                && real(&durable::folder_of(file).join(path)) == real(named)
        };
        let parties = [Some(&self.tenants), self.operators.as_ref()];
        let parties = parties
            .into_iter()
            .flatten()
            .filter_map(|path| party_files(path).ok());
        let mut all = parties.flatten().chain([files.proxy_toml.to_owned()]);
        all.find(|file| match document::read(file) {
            Ok(root) => any_text(&Value::Table(root), &|text| same(text, file)),
            // Nobody knows whom it names.
            Err(_) => true,
        })
    }
}

/// A tenant's table in its file.
struct Located {
    file: PathBuf,
    form: Form,
    text: String,
    root: Table,
    /// Its place among the `[[tenant]]` of the file, if it has those.
    index: Option<usize>,
}

#[derive(Clone, Copy)]
enum Form {
    Toml,
    Json,
}

impl Located {
    fn in_file(file: PathBuf, id: &PartyId) -> Option<Self> {
        let root = document::read(&file).ok()?;
        let text = fs::read_to_string(&file).ok()?;
        // Written again it has none.
        let text = text
            .strip_prefix('\u{feff}')
            .map(str::to_owned)
            .unwrap_or(text);
        let mut tables = document::tenants(&root).into_iter();
        let position = tables.position(|table| document::text(table, "id") == Some(id.as_str()))?;
        let json = file
            .extension()
            .is_some_and(|extension| extension == "json");
        Some(Self {
            form: if json { Form::Json } else { Form::Toml },
            index: root.contains_key("tenant").then_some(position),
            file,
            text,
            root,
        })
    }

    fn table(&self) -> &Table {
        document::tenants(&self.root)[self.index.unwrap_or_default()]
    }

    fn credentials(&self) -> Vec<&Table> {
        let list = self
            .table()
            .get("credential")
            .map(|entry| &entry.node.value);
        let Some(Value::List(nodes)) = list else {
            return Vec::new();
        };
        nodes.iter().filter_map(Node::table).collect()
    }

    /// The files its secrets are in, as they are written.
    fn secrets(&self) -> impl Iterator<Item = &Path> {
        self.credentials().into_iter().filter_map(|credential| {
            let source = credential.get("secret")?.node.table()?;
            document::text(source, "file").map(Path::new)
        })
    }

    fn secret_files(&self) -> impl Iterator<Item = PathBuf> {
        self.secrets()
            .map(|path| durable::folder_of(&self.file).join(path))
    }

    /// Where its newest secret is; without one in a file, where `onboard` would put it.
    fn secret_folder(&self, folder: &Folder) -> PathBuf {
        let newest = self.secrets().last().and_then(Path::parent);
        newest.map_or_else(
            || {
                if folder.is_one_file() {
                    "secrets"
                } else {
                    "../secrets"
                }
                .into()
            },
            Path::to_owned,
        )
    }

    /// The lines that the tables of the file begin on.
    fn lines(&self) -> Vec<u32> {
        let list = self.root.get("tenant").map(|entry| &entry.node.value);
        let Some(Value::List(nodes)) = list else {
            return Vec::new();
        };
        nodes.iter().filter_map(|node| node.line).collect()
    }

    fn unchanged(&self) -> Result<(), EditError> {
        let now = fs::read(&self.file).map_err(at(&self.file))?;
        if now == self.text.as_bytes() {
            Ok(())
        } else {
            Err(EditError::Changed(self.file.clone()))
        }
    }

    /// Writes the edited text; gives the problems that were there before.
    fn rewrite(
        &self,
        files: &Files<'_>,
        edited: Result<String, Misshapen>,
        judging: Judging,
    ) -> Result<Vec<Problem>, EditError> {
        let edited = edited.map_err(|Misshapen| EditError::Misshapen(self.file.clone()))?;
        let problems = match judging {
            Judging::Whole => judge(files, &self.file, Some(&edited)).map(|_| Vec::new())?,
            Judging::NoNewProblem => judge_what_is_new(files, &self.file, &edited)?,
        };
        match durable::replace(&self.file, &self.text, &edited).map_err(at(&self.file))? {
            Replaced::Done => Ok(problems),
            Replaced::ChangedMeanwhile => Err(EditError::Changed(self.file.clone())),
        }
    }
}

/// Reads everything as it would be with one file saying this, or gone.
pub(crate) fn judge(
    files: &Files<'_>,
    file: &Path,
    says: Option<&str>,
) -> Result<Configuration, EditError> {
    let supposing = Supposing {
        file: Some((file, says)),
        secrets_elsewhere: files.secrets_elsewhere,
    };
    load_supposing(files.proxy_toml, files.env, supposing).map_err(EditError::Problems)
}

/// Reads what can be read as it would be with one file saying this; gives the problems, if all of them are there already.
fn judge_what_is_new(
    files: &Files<'_>,
    file: &Path,
    says: &str,
) -> Result<Vec<Problem>, EditError> {
    let problems = |file| {
        let supposing = Supposing {
            file,
            secrets_elsewhere: files.secrets_elsewhere,
        };
        load_readable(files.proxy_toml, files.env, supposing).1
    };
    let after = problems(Some((file, Some(says))));
    if after.is_empty() {
        return Ok(after);
    }
    let before = problems(None);
    let is_new = |one: &&Problem| !before.iter().any(|other| is_same(one, other));
    let new: Vec<Problem> = after.iter().filter(is_new).cloned().collect();
    if new.is_empty() {
        Ok(after)
    } else {
        Err(EditError::Problems(new))
    }
}

/// Whether both are one problem, whatever line it stands on now.
fn is_same(one: &Problem, other: &Problem) -> bool {
    let words = |problem: &Problem| problem.text.replace(|it: char| it.is_ascii_digit(), "");
    (&one.file, &one.key) == (&other.file, &other.key) && words(one) == words(other)
}

fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Text(text) => is(text),
        Value::List(nodes) => nodes.iter().any(|node| any_text(&node.value, is)),
        Value::Table(table) => table.values().any(|entry| any_text(&entry.node.value, is)),
        _ => false,
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> EditError {
    move |error| EditError::Io {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(Rotated: fmt::Debug, fmt::Display, serde::Serialize, Clone);
}
