//! The files that are edited: a tenant found in them, and the whole configuration judged as it would be after the edit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::durable_write::{self, ReplaceResult};
use crate::disk::party_files::party_files;
use crate::edit::new_credential::UneditableText;
use crate::files::secrets::Environment;
use crate::load::{WhatIf, load_readable, load_what_if};
use crate::model::configuration::Configuration;
use crate::model::party::PartyId;
use crate::syntax::document::{self, ConfigTable, ConfigValue};
use crate::syntax::problem::{Problem, closest};

/// Which files are edited, and how they are read.
#[derive(Clone, Copy)]
pub struct ConfigFiles<'a> {
    /// It names the others.
    pub proxy_toml: &'a Path,
    /// The environment variables that secrets may be read from.
    pub env: &'a Environment<'a>,
    /// Secrets that this machine does not have stand for secrets of their own: a checkout has none.
    pub secrets_elsewhere: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No readable file has such a tenant.
    #[error("there is no tenant {id} in {}{}", tenants.display(), meant(closest.as_deref(), unreadable))]
    Unknown {
        /// The name.
        id: PartyId,
        /// Where it was looked for.
        tenants: PathBuf,
        /// One that is there, and may have been meant.
        closest: Option<String>,
        /// The files that cannot be read, of which one may have it.
        unreadable: Vec<PathBuf>,
    },
    /// The problems after the edit, new or old.
    #[error("{} problems", _0.len())]
    Problems(Vec<Problem>),
    /// Not as these edits expect it.
    #[error("{} is written in a way that can only be edited by hand", _0.display())]
    Misshapen(PathBuf),
    /// The file was changed by another process meanwhile.
    #[error("{} was changed by another process during the edit; check the file and retry", _0.display())]
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

fn meant(closest: Option<&str>, unreadable: &[PathBuf]) -> String {
    let Some(first) = unreadable.first() else {
        return closest.map_or_else(String::new, |id| format!("; did you mean {id}?"));
    };
    let first = first.display();
    let more = match unreadable.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "; its file may be {first}{more}, which cannot be read: correct it (`check` prints its problems)"
    )
}

/// How much of the configuration has to be right for an edit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProblemPolicy {
    /// All of it: the edit gives rights.
    Whole,
    /// The edit adds no problem: it takes rights away.
    NoNewProblem,
}

/// The files of a configuration, as far as edits have to know them.
pub(crate) struct LockedFolder {
    /// The folder of tenants, or the one file.
    pub(crate) tenants: PathBuf,
    operators: Option<PathBuf>,
    _lock: fs::File,
}

impl LockedFolder {
    /// Keeps other edits out until it is dropped.
    pub(crate) fn of(files: &ConfigFiles<'_>) -> Result<Self, EditError> {
        Self::judging(files, ProblemPolicy::Whole)
    }

    pub(super) fn judging(
        files: &ConfigFiles<'_>,
        judging: ProblemPolicy,
    ) -> Result<Self, EditError> {
        let problems = |faults: Vec<document::SyntaxFault>| {
            let problem = |fault: document::SyntaxFault| Problem {
                file: files.proxy_toml.file_name().unwrap_or_default().into(),
                line: fault.line,
                key: String::new(),
                text: fault.text,
            };
            EditError::Problems(faults.into_iter().map(problem).collect())
        };
        let root = match document::read(files.proxy_toml) {
            // It cannot say where the tenants are: they are looked for where they are by default.
            Err(_) if judging == ProblemPolicy::NoNewProblem => ConfigTable::new(),
            read => read.map_err(problems)?,
        };
        let beside = files.proxy_toml.parent().unwrap_or(Path::new(""));
        let named = |key| document::text(&root, key).map(|name| beside.join(name));
        let tenants = named("tenants").unwrap_or_else(|| beside.join("tenants.d"));
        let locked = if tenants.is_dir() {
            &tenants
        } else {
            durable_write::folder_of(&tenants)
        };
        Ok(Self {
            _lock: durable_write::lock(locked).map_err(at(locked))?,
            operators: named("operators"),
            tenants,
        })
    }

    pub(super) fn is_one_file(&self) -> bool {
        self.tenants.is_file()
    }

    /// Looks first where `onboard` puts it.
    pub(super) fn find(&self, id: &PartyId) -> Result<TenantTable, EditError> {
        if let Some(found) = self
            .likely_files(id)
            .find_map(|file| TenantTable::first_in(file, id))
        {
            return Ok(found);
        }
        let files = party_files(&self.tenants).map_err(at(&self.tenants))?;
        if let Some(found) = files
            .iter()
            .find_map(|file| TenantTable::first_in(file.clone(), id))
        {
            return Ok(found);
        }
        let (mut roots, mut unreadable) = (Vec::new(), Vec::new());
        for file in files {
            match document::read(&file) {
                Ok(root) if !document::tenants(&root).is_empty() => roots.push(root),
                Ok(_) | Err(_) => unreadable.push(file),
            }
        }
        // The likely files first.
        unreadable.sort_by_key(|file| file.file_stem().is_none_or(|stem| stem != id.as_str()));
        let ids = roots.iter().flat_map(document::tenants);
        let ids = ids.filter_map(|table| document::text(table, "id"));
        Err(EditError::Unknown {
            id: id.clone(),
            tenants: self.tenants.clone(),
            closest: closest(id.as_str(), ids).map(str::to_owned),
            unreadable,
        })
    }

    fn likely_files(&self, id: &PartyId) -> impl Iterator<Item = PathBuf> {
        let name = |form| self.tenants.join(format!("{id}.{form}"));
        ["toml", "json"].map(name).into_iter()
    }

    /// All tables of this name but one. More than one is a mistake, and a running proxy may have its tenant from any of
    /// them, so all of them have to state a restriction.
    pub(super) fn others_like(&self, one: &TenantTable, id: &PartyId) -> Vec<TablePosition> {
        // Of a folder that cannot be listed, the likely files can still be read.
        let files = party_files(&self.tenants);
        let files = files.unwrap_or_else(|_| self.likely_files(id).collect());
        let places = files.into_iter().flat_map(|file| {
            let root = document::read(&file);
            let positions = root.map_or_else(|_| Vec::new(), |root| positions(&root, id));
            let place = move |position| TablePosition {
                file: file.clone(),
                position,
            };
            positions.into_iter().map(place)
        });
        places
            .filter(|place| place.file != one.file || place.position != one.position)
            .collect()
    }

    /// The file that is named after the tenant, if it cannot be read: it may be the one that a running proxy has.
    pub(super) fn unreadable_file(&self, id: &PartyId) -> Option<PathBuf> {
        let unreadable = |file: &PathBuf| file.exists() && document::read(file).is_err();
        self.likely_files(id).find(unreadable)
    }

    /// A file that names this one.
    pub(super) fn file_naming(&self, files: &ConfigFiles<'_>, named: &Path) -> Option<PathBuf> {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let same = |text: &str, file: &Path| {
            let path = Path::new(text);
            path.file_name() == named.file_name()
                && real(&durable_write::folder_of(file).join(path)) == real(named)
        };
        let parties = [Some(&self.tenants), self.operators.as_ref()];
        let parties = parties
            .into_iter()
            .flatten()
            .filter_map(|path| party_files(path).ok());
        let mut all = parties.flatten().chain([files.proxy_toml.to_owned()]);
        all.find(|file| match document::read(file) {
            Ok(root) => any_text(&ConfigValue::Table(root), &|text| same(text, file)),
            // An unreadable file may name it.
            Err(_) => true,
        })
    }
}

/// The place of a tenant's table.
pub(super) struct TablePosition {
    pub(super) file: PathBuf,
    position: usize,
}

/// A tenant's table in its file.
pub(super) struct TenantTable {
    pub(super) file: PathBuf,
    /// Its place among all tables of tenants in the file.
    position: usize,
    pub(super) form: FileFormat,
    /// The text that is edited, without a byte order mark.
    pub(super) text: String,
    /// The content of the file as it was read.
    on_disk: String,
    pub(super) root: ConfigTable,
    /// Its place among the `[[tenant]]` of the file, if it has those.
    pub(super) index: Option<usize>,
}

#[derive(Clone, Copy)]
pub(super) enum FileFormat {
    Toml,
    Json,
}

impl TenantTable {
    fn first_in(file: PathBuf, id: &PartyId) -> Option<Self> {
        let root = document::read(&file).ok()?;
        let position = *positions(&root, id).first()?;
        Self::read(file, root, position)
    }

    /// The table at a place, as it is now.
    pub(super) fn at(place: TablePosition) -> Option<Self> {
        let root = document::read(&place.file).ok()?;
        Self::read(place.file, root, place.position)
    }

    fn read(file: PathBuf, root: ConfigTable, position: usize) -> Option<Self> {
        let on_disk = fs::read_to_string(&file).ok()?;
        // Written again it has no byte order mark.
        let text = on_disk.strip_prefix('\u{feff}').unwrap_or(&on_disk);
        let text = text.to_owned();
        let json = file
            .extension()
            .is_some_and(|extension| extension == "json");
        Some(Self {
            form: if json {
                FileFormat::Json
            } else {
                FileFormat::Toml
            },
            index: root.contains_key("tenant").then_some(position),
            position,
            file,
            text,
            on_disk,
            root,
        })
    }

    /// # Panics
    /// Never: the position is that of a table.
    pub(super) fn table(&self) -> &ConfigTable {
        let tables = document::tenants_by_position(&self.root).into_iter();
        let mut own = tables.filter(|(position, _)| *position == self.position);
        own.next().expect("the table at this position was read").1
    }

    /// The credentials, each with its place in the list.
    pub(super) fn credentials(&self) -> Vec<(usize, &ConfigTable)> {
        document::tables_of(self.table(), "credential")
    }

    /// The files its secrets are in, as they are written.
    fn secrets(&self) -> impl Iterator<Item = &Path> {
        self.credentials()
            .into_iter()
            .filter_map(|(_, credential)| {
                let source = credential.get("secret")?.node.table()?;
                document::text(source, "file").map(Path::new)
            })
    }

    pub(super) fn secret_files(&self) -> impl Iterator<Item = PathBuf> {
        self.secrets()
            .map(|path| durable_write::folder_of(&self.file).join(path))
    }

    /// Where its newest secret is; without one in a file, where `onboard` would put it.
    pub(super) fn secret_folder(&self, folder: &LockedFolder) -> PathBuf {
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
    pub(super) fn lines(&self) -> Vec<u32> {
        let list = self.root.get("tenant").map(|entry| &entry.node.value);
        let Some(ConfigValue::List(nodes)) = list else {
            return Vec::new();
        };
        nodes.iter().filter_map(|node| node.line).collect()
    }

    pub(super) fn unchanged(&self) -> Result<(), EditError> {
        let now = fs::read(&self.file).map_err(at(&self.file))?;
        if now == self.on_disk.as_bytes() {
            Ok(())
        } else {
            Err(EditError::Changed(self.file.clone()))
        }
    }

    /// Writes the edited text; gives the problems that were there before.
    pub(super) fn rewrite(
        &self,
        files: &ConfigFiles<'_>,
        edited: Result<String, UneditableText>,
        judging: ProblemPolicy,
    ) -> Result<Vec<Problem>, EditError> {
        let edited = edited.map_err(|UneditableText| EditError::Misshapen(self.file.clone()))?;
        let problems = match judging {
            ProblemPolicy::Whole => {
                load_edited(files, &self.file, Some(&edited)).map(|_| Vec::new())?
            }
            ProblemPolicy::NoNewProblem => new_problems(files, &self.file, &edited)?,
        };
        match durable_write::replace(&self.file, &self.on_disk, &edited).map_err(at(&self.file))? {
            ReplaceResult::Done => Ok(problems),
            ReplaceResult::ChangedMeanwhile => Err(EditError::Changed(self.file.clone())),
        }
    }
}

/// The places of the tables with this name.
fn positions(root: &ConfigTable, id: &PartyId) -> Vec<usize> {
    let tables = document::tenants_by_position(root).into_iter();
    tables
        .filter(|(_, table)| document::text(table, "id") == Some(id.as_str()))
        .map(|(position, _)| position)
        .collect()
}

/// Reads everything as it would be with one file saying this, or gone.
pub(crate) fn load_edited(
    files: &ConfigFiles<'_>,
    file: &Path,
    says: Option<&str>,
) -> Result<Configuration, EditError> {
    let what_if = WhatIf {
        file: Some((file, says)),
        secrets_elsewhere: files.secrets_elsewhere,
    };
    load_what_if(files.proxy_toml, files.env, what_if).map_err(EditError::Problems)
}

/// Reads all readable files as if one file had this text; gives the problems, if all of them are there already.
fn new_problems(
    files: &ConfigFiles<'_>,
    file: &Path,
    says: &str,
) -> Result<Vec<Problem>, EditError> {
    let problems = |file| {
        let what_if = WhatIf {
            file,
            secrets_elsewhere: files.secrets_elsewhere,
        };
        load_readable(files.proxy_toml, files.env, what_if).1
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

/// Whether both are one problem, on any line.
fn is_same(one: &Problem, other: &Problem) -> bool {
    let words = |problem: &Problem| problem.text.replace(|it: char| it.is_ascii_digit(), "");
    (&one.file, &one.key) == (&other.file, &other.key) && words(one) == words(other)
}

fn any_text(value: &ConfigValue, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        ConfigValue::Text(text) => is(text),
        ConfigValue::List(nodes) => nodes.iter().any(|node| any_text(&node.value, is)),
        ConfigValue::Table(table) => table.values().any(|entry| any_text(&entry.node.value, is)),
        _ => false,
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> EditError {
    move |error| EditError::Io {
        path: path.to_owned(),
        error,
    }
}
