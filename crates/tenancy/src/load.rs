//! Reads everything, and reports every problem at once.

use std::borrow::Cow;
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use gatepay_core::Catalogue;

use crate::disk::file_stamp::FilesRead;
use crate::disk::party_files::{folder_of, party_files, unread_names};
use crate::files::admin_operators::ApproverTerms;
use crate::files::party_file::PartyBounds;
use crate::files::secrets::{Environment, SecretSources};
use crate::files::{operations, operator_file, proxy_file, tenant_file, written};
use crate::model::claims::UniqueClaims;
use crate::model::configuration::Configuration;
use crate::model::notifications::EndpointBounds;
use crate::model::registry::Registry;
use crate::model::settings::{SecretText, Settings};
use crate::syntax::document;
use crate::syntax::document::{ConfigTable, SyntaxFault};
use crate::syntax::problem::{Problem, Problems};
use crate::syntax::table_reader::{SourceFile, SourceLocation, TableReader};

/// Reads `proxy.toml`, and the tenants and operators it names. `env` looks up an environment variable.
///
/// A configuration is used whole or not at all: one problem anywhere, and there is no configuration.
pub fn load(proxy_toml: &Path, env: &Environment<'_>) -> Result<Configuration, Vec<Problem>> {
    load_what_if(proxy_toml, env, WhatIf::default())
}

/// An edit that is judged before it is made.
#[derive(Clone, Copy, Default)]
pub struct WhatIf<'a> {
    /// A file of tenants, and its text after the edit; `None` if the edit removes it.
    pub file: Option<(&'a Path, Option<&'a str>)>,
    /// Secrets that this machine does not have stand for secrets of their own.
    pub secrets_elsewhere: bool,
}

/// Like [`load()`], of files that are not quite there yet.
pub fn load_what_if(
    proxy_toml: &Path,
    env: &Environment<'_>,
    what_if: WhatIf<'_>,
) -> Result<Configuration, Vec<Problem>> {
    let reads = FilesRead::default();
    let mut reading = ConfigReading::new(proxy_toml, env, &reads);
    reading.what_if = what_if;
    let mut claims = UniqueClaims::default();
    let configuration = reading.proxy(proxy_toml, &mut claims, |_| true);
    finish(reading.problems, configuration)
}

/// Like [`load_what_if`], but with all that can be read, and the problems of the rest: for looking, and for taking
/// rights away. Nothing is served by it. If `proxy.toml` is no TOML, tenants are looked for where they are by default.
pub fn load_readable(
    proxy_toml: &Path,
    env: &Environment<'_>,
    what_if: WhatIf<'_>,
) -> (Configuration, Vec<Problem>) {
    let reads = FilesRead::default();
    let mut reading = ConfigReading::new(proxy_toml, env, &reads);
    reading.what_if = what_if;
    let mut claims = UniqueClaims::default();
    if let Some(configuration) = reading.proxy(proxy_toml, &mut claims, |_| true) {
        return (configuration, reading.problems.sorted());
    }
    let mut problems = reading.problems.sorted();
    let mut bare = ConfigReading::new(proxy_toml, env, &reads);
    bare.what_if = what_if;
    let configuration = bare.configuration(
        proxy_toml,
        &ConfigTable::new(),
        &mut UniqueClaims::default(),
        |_| true,
    );
    // That an empty proxy.toml lacks keys is no news.
    let own = bare.file(proxy_toml).name;
    let rest = bare.problems.sorted();
    problems.extend(rest.into_iter().filter(|problem| *problem.file != *own));
    (configuration, problems)
}

/// The problems of `proxy.toml`, of the folders it names, and with these files of tenants and operators among each
/// other: a reload reports them, without reading all other files again.
pub(crate) fn problems(
    proxy_toml: &Path,
    among: impl Fn(&Path) -> bool,
    env: &Environment<'_>,
) -> Vec<Problem> {
    let reads = FilesRead::default();
    let reading = ConfigReading::new(proxy_toml, env, &reads);
    let _ = reading.proxy(proxy_toml, &mut UniqueClaims::default(), among);
    reading.problems.sorted()
}

fn finish<T>(problems: Problems, whole: Option<T>) -> Result<T, Vec<Problem>> {
    match whole {
        Some(whole) if problems.is_empty() => Ok(whole),
        _ => Err(problems.sorted()),
    }
}

/// The files of tenants and operators.
struct PartyFiles {
    tenants: Vec<PathBuf>,
    operators: Vec<PathBuf>,
}

impl PartyFiles {
    /// A folder that cannot be listed is reported by its key.
    fn list(settings: &Settings, report: impl Fn(&'static str, &'static str)) -> Self {
        let list = |key, path: &Path| {
            party_files(path).unwrap_or_else(|error| {
                report(key, listing_fault(&error));
                Vec::new()
            })
        };
        let operators = settings.operators.as_deref();
        Self {
            tenants: list("tenants", &settings.tenants),
            operators: operators.map_or_else(Vec::new, |path| list("operators", path)),
        }
    }
}

impl PartyFiles {
    /// As they will be.
    fn apply_edit(&mut self, tenants: &Path, what_if: WhatIf<'_>) {
        match what_if.file {
            Some((file, None)) => self.tenants.retain(|it| it != file),
            Some((file, Some(_))) if file.parent() == Some(tenants) => {
                if let Err(at) = self.tenants.binary_search_by(|it| (**it).cmp(file)) {
                    self.tenants.insert(at, file.to_owned());
                }
            }
            _ => {}
        }
    }
}

/// The line of `proxy.toml` on which a key such as `audit.dir` stands, or else the table that would have it.
pub fn line_of(proxy_toml: &Path, key: &str) -> Option<u32> {
    let root = document::read(proxy_toml).ok()?;
    let (mut table, mut line) = (&root, None);
    for name in key.split('.') {
        let Some(entry) = table.get(name) else { break };
        line = entry.line;
        let Some(below) = entry.node.table() else {
            break;
        };
        table = below;
    }
    line
}

/// The files beside those of tenants and operators that are not read, though their names do not say that they are not
/// meant: `ACME.TOML`, `acme.yaml`, a folder. Sorted by name.
pub fn unread_files(settings: &Settings) -> Vec<PathBuf> {
    let folders = [Some(&settings.tenants), settings.operators.as_ref()];
    let folders = folders.into_iter().flatten();
    let mut unread: Vec<_> = folders
        .flat_map(|folder| unread_names(folder).map(|name| folder.join(name)))
        .collect();
    unread.sort();
    unread.dedup();
    unread
}

/// The tables of a file's tenants or operators: its top, or each of its `[[tenant]]` or `[[operator]]`.
fn party_tables<'a>(mut top: TableReader<'a>, word: &'static str) -> Vec<TableReader<'a>> {
    if !top.has(word) {
        return vec![top];
    }
    let tables = top.tables(word).unwrap_or_default();
    top.finish();
    tables
}

fn listing_fault(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "folder or file not found; create it, or change the path",
        io::ErrorKind::PermissionDenied => "permission denied: cannot list the folder",
        _ => "cannot list the folder",
    }
}

/// The context of one reading, over all files.
pub(crate) struct ConfigReading<'a> {
    /// The folder of `proxy.toml`, which names in problems are relative to.
    folder: &'a Path,
    env: &'a Environment<'a>,
    what_if: WhatIf<'a>,
    reads: &'a FilesRead,
    /// The `secret_text` of `proxy.toml`, for the files of tenants and operators.
    pub(crate) secret_text: Cell<SecretText>,
    pub(crate) problems: Problems,
}

impl<'a> ConfigReading<'a> {
    pub(crate) fn new(
        proxy_toml: &'a Path,
        env: &'a Environment<'a>,
        reads: &'a FilesRead,
    ) -> Self {
        Self {
            folder: folder_of(proxy_toml),
            env,
            what_if: WhatIf::default(),
            reads,
            secret_text: Cell::default(),
            problems: Problems::default(),
        }
    }

    /// `proxy.toml`, and those of the files it names that are `wanted`.
    fn proxy(
        &self,
        path: &Path,
        claims: &mut UniqueClaims<SourceLocation>,
        wanted: impl Fn(&Path) -> bool,
    ) -> Option<Configuration> {
        let root = self.document(path)?;
        Some(self.configuration(path, &root, claims, wanted))
    }

    fn configuration(
        &self,
        path: &Path,
        root: &ConfigTable,
        claims: &mut UniqueClaims<SourceLocation>,
        wanted: impl Fn(&Path) -> bool,
    ) -> Configuration {
        let mut reader = TableReader::new(self.file(path), root);
        let mut settings = proxy_file::read(&mut reader, self.sources(path), claims);
        settings.written = written::as_written(root);
        let catalogue = operations::read(&mut reader);
        let mut files = PartyFiles::list(&settings, |key, fault| reader.problem(key, fault));
        files.apply_edit(&settings.tenants, self.what_if);
        reader.finish();
        self.secret_text.set(settings.secret_text);
        files.tenants.retain(|path| wanted(path));
        files.operators.retain(|path| wanted(path));
        let registry = self.registry(&files, &settings, &catalogue, claims);
        Configuration {
            settings,
            registry,
            catalogue,
        }
    }

    /// A party with a problem is left out; the registry is then not used.
    fn registry(
        &self,
        files: &PartyFiles,
        settings: &Settings,
        catalogue: &Catalogue,
        claims: &mut UniqueClaims<SourceLocation>,
    ) -> Registry {
        let bounds = EndpointBounds::default();
        let notifications = settings.notifications.as_ref();
        let terms = PartyBounds {
            catalogue,
            window: settings.window,
            has_store: settings.store.is_some(),
            approvers: Some(ApproverTerms::of(settings)),
            endpoints: notifications.map_or(&bounds, |settings| &settings.endpoints),
        };
        let tenants = self.parties(&files.tenants, "tenant", |table, sources| {
            tenant_file::read(table, terms, sources, claims).map(Arc::new)
        });
        let operators = self.parties(&files.operators, "operator", |table, sources| {
            operator_file::read(table, terms, sources, claims).map(Arc::new)
        });
        Registry::index(tenants, operators)
    }

    /// `proxy.toml` by itself.
    pub(crate) fn settings(&self, path: &Path) -> Option<(Settings, Catalogue)> {
        let root = self.document(path)?;
        let mut reader = TableReader::new(self.file(path), &root);
        let mut claims = UniqueClaims::default();
        let mut settings = proxy_file::read(&mut reader, self.sources(path), &mut claims);
        settings.written = written::as_written(&root);
        let catalogue = operations::read(&mut reader);
        reader.finish();
        Some((settings, catalogue))
    }

    /// Reads all tables of all files.
    pub(crate) fn parties<T>(
        &self,
        files: &[PathBuf],
        word: &'static str,
        mut read: impl FnMut(TableReader<'_>, SecretSources<'_>) -> Option<T>,
    ) -> Vec<T> {
        let mut parties = Vec::with_capacity(files.len());
        for path in files {
            let Some(text) = self.text(path) else {
                continue;
            };
            let sources = self.sources(path);
            if let Some(pieces) = document::pieces(path, &text, word) {
                drop(text);
                let mut before = 0;
                for piece in pieces {
                    let root = self.fine(path, piece.parse()).unwrap_or_default();
                    let mut reader = TableReader::new(self.file(path), &root);
                    let tables = reader.tables_from(word, before).unwrap_or_default();
                    before += tables.len();
                    parties.extend(tables.into_iter().filter_map(|table| read(table, sources)));
                }
                continue;
            }
            let Some(root) = self.fine(path, document::parse(path, &text)) else {
                continue;
            };
            let tables = party_tables(TableReader::new(self.file(path), &root), word);
            parties.extend(tables.into_iter().filter_map(|table| read(table, sources)));
        }
        parties
    }

    fn document(&self, path: &Path) -> Option<ConfigTable> {
        let text = self.text(path)?;
        self.fine(path, document::parse(path, &text))
    }

    /// The present or future text of a file.
    fn text(&self, path: &Path) -> Option<Cow<'a, str>> {
        match self.what_if.file {
            Some((file, Some(text))) if file == path => Some(text.into()),
            _ => {
                let text = document::text_noting(path, self.reads);
                self.fine(path, text).map(Cow::Owned)
            }
        }
    }

    /// What a file gives, unless it has faults, which are reported.
    fn fine<T>(&self, path: &Path, read: Result<T, Vec<SyntaxFault>>) -> Option<T> {
        read.inspect_err(|faults| {
            for fault in faults {
                let name = self.file(path).name;
                self.problems.add(&name, fault.line, "", &*fault.text);
            }
        })
        .ok()
    }

    fn file(&self, path: &Path) -> SourceFile<'_> {
        let name = path.strip_prefix(self.folder).unwrap_or(path);
        SourceFile {
            name: Rc::from(name),
            problems: &self.problems,
        }
    }

    fn sources<'s>(&'s self, path: &'s Path) -> SecretSources<'s> {
        SecretSources {
            folder: folder_of(path),
            env: self.env,
            elsewhere: self.what_if.secrets_elsewhere,
            reads: self.reads,
            text: self.secret_text.get(),
        }
    }
}
