//! The watched configuration: changed files are read again, unchanged files are kept.
//!
//! A change shows in a file's `FileStamp`, without opening the file. The parties of unchanged files are shared with the
//! next [`Registry`]. A configuration is built only from files whose stamps are still those they had when they were
//! read, all at one time. So half a `git checkout`, or half a swap of Kubernetes' `..data`, is never used.
//!
//! This takes two stamps of every file, one before reading and one after. A file that was unchanged at the first stamp
//! may change a moment later, together with one that was read. Only the second stamp shows it: the times of a folder do
//! not change when a file is written in place. A file with the same stamp both times did not change in between, because
//! the change time of an inode cannot be set back. So at the end of the last reading all files had the text that was
//! read.
//!
//! File events are hints: they make changes be seen sooner, and nothing rests on them.
//!
//! The caller decides how often: [`ConfigWatch::changed_files`] takes the stamps, [`ConfigWatch::settled`] takes those of
//! the changed files again, [`ConfigWatch::read`] reads the settled files, and [`ConfigWatch::next`] builds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gatepay_core::{Catalogue, StampWindow};
use sha2::{Digest as _, Sha256};

use crate::disk::file_stamp::{FileStamp, FilesRead, StampedFile};
use crate::disk::party_files::folder_of;
use crate::files::admin_operators::ApproverTerms;
use crate::files::party_file::PartyBounds;
use crate::files::secrets::{Environment, SecretSources};
use crate::files::{operator_file, tenant_file};
use crate::load::{self, ConfigReading};
use crate::model::claims::UniqueClaims;
use crate::model::configuration::Configuration;
use crate::model::notifications::EndpointBounds;
use crate::model::operator::Operator;
use crate::model::party::DatedCredential;
use crate::model::registry::Registry;
use crate::model::settings::{SecretText, Settings};
use crate::model::tenant::Tenant;
use crate::syntax::problem::Problem;
use crate::syntax::table_reader::TableReader;

mod file_events;
mod folder;
mod ownership;
mod sorted;

use file_events::FileEvents;
use folder::{FolderChanges, PartyFolder, ReadInputs, StatThreads, combined_stamp};
use ownership::{KeyOwner, KeyOwners, UniqueKeys as _, visit_credential_keys};

/// How often reading begins anew at a start because files change meanwhile.
const TRIES: usize = 10;

/// The files of a configuration, as they were last read.
pub struct ConfigWatch {
    proxy_toml: PathBuf,
    proxy: ProxyFile,
    tenants: PartyFolder<Tenant>,
    operators: PartyFolder<Operator>,
    /// The listener's certificate, key and authorities, when they were last taken for read. Their users read them.
    certificates: Vec<StampedFile>,
    /// The authorities that vouch for GatePay, likewise, and their digest at the start.
    upstream_ca: Option<UpstreamCa>,
    start: StartTerms,
    /// Unique keys are compared by hashes that cannot be predicted.
    hasher: RandomState,
    /// Says where to look first, if there is any.
    events: Option<FileEvents>,
}

/// The terms by which files of parties are read: keys of `proxy.toml` as they were at the start.
struct StartTerms {
    /// Rows of the catalogue are known by their position.
    catalogue: Catalogue,
    window: StampWindow,
    endpoints: EndpointBounds,
    /// Whether the process has a store, which it has from its start or not at all.
    has_store: bool,
    secret_text: SecretText,
}

/// `proxy.toml`, with its secrets.
struct ProxyFile {
    /// The stamp of the file and its secrets together.
    stamp: FileStamp,
    secrets: Box<[StampedFile]>,
    /// Its settings, unless it has a problem.
    parsed: Option<ParsedProxyFile>,
}

struct ParsedProxyFile {
    settings: Arc<Settings>,
    catalogue: Catalogue,
}

/// The files that changed since they were read, with their present stamps.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedFiles {
    /// `proxy.toml` and its secrets.
    proxy: Option<FileStamp>,
    /// Certificates, and authorities.
    others: BTreeMap<Box<Path>, FileStamp>,
    tenants: FolderChanges,
    operators: FolderChanges,
}

/// The files found by file events.
#[derive(Debug)]
pub struct HintedFiles {
    /// The files that were hinted at and have changed.
    pub changed: ChangedFiles,
    /// Whether any other file may have changed, so that a look at all of them is due.
    pub everywhere: bool,
}

/// How many files were looked at, and how many were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchWork {
    /// Looks at a file.
    pub looked_at: u64,
    /// Readings of a file.
    pub read: u64,
}

/// The next configuration.
pub struct NextConfiguration {
    /// The settings of `proxy.toml`. Most of them take effect after a restart.
    pub settings: Arc<Settings>,
    /// Keys of `proxy.toml` that take effect after a restart although they are unchanged: the file they name has changed.
    pub restart: Vec<&'static str>,
    /// All parties. Those of unchanged files are shared with the registries before.
    pub registry: Registry,
}

/// The files of tenants and operators that keep a configuration from being used; none if only `proxy.toml` or a folder
/// does.
pub struct InvalidFiles(BTreeSet<PathBuf>);

impl ConfigWatch {
    /// Reads everything for the first time.
    pub fn open(
        proxy_toml: &Path,
        env: &Environment<'_>,
    ) -> Result<(Self, Configuration), Vec<Problem>> {
        let mut problems = Vec::new();
        for _ in 0..TRIES {
            match Self::try_open(proxy_toml, env) {
                Ok(Some(opened)) => return Ok(opened),
                // Everything at once: the first complaint is the one that is read most.
                Err(found) => problems = load::load(proxy_toml, env).err().unwrap_or(found),
                Ok(None) => {}
            }
            if !problems.is_empty() {
                return Err(problems);
            }
        }
        Err(vec![Problem {
            file: proxy_toml.into(),
            line: None,
            key: String::new(),
            text: "this file or a file it names keeps changing while it is read; retry when writing has ended".to_owned(),
        }])
    }

    /// `None` if files changed meanwhile.
    fn try_open(
        proxy_toml: &Path,
        env: &Environment<'_>,
    ) -> Result<Option<(Self, Configuration)>, Vec<Problem>> {
        let proxy = ProxyFile::read(proxy_toml, env);
        // Read twice: one for the process, the other to compare with later versions of the file.
        let reads = FilesRead::default();
        let settings = ConfigReading::new(proxy_toml, env, &reads).settings(proxy_toml);
        let (Some(said), Some((settings, catalogue))) = (&proxy.parsed, settings) else {
            return Err(Vec::new());
        };
        let mut watch = Self {
            proxy_toml: proxy_toml.to_owned(),
            tenants: PartyFolder::at(Some(&said.settings.tenants)),
            operators: PartyFolder::at(said.settings.operators.as_deref()),
            start: StartTerms::of(&settings, &catalogue),
            certificates: certificates(&settings),
            upstream_ca: settings.upstream.ca.as_deref().map(UpstreamCa::at),
            proxy,
            hasher: RandomState::new(),
            events: None,
        };
        let everything = ChangedFiles {
            tenants: watch.tenants.unread(),
            operators: watch.operators.unread(),
            ..ChangedFiles::default()
        };
        watch.read(&everything, env);
        let next = watch.next();
        let registry = next
            .map_err(|invalid| watch.problems(&invalid, env))?
            .registry;
        watch.now_in_force();
        let configuration = Configuration {
            settings,
            registry,
            catalogue,
        };
        let still = watch.changed_files().is_empty();
        Ok(still.then_some((watch, configuration)))
    }

    /// From now on file events are hints where to look first.
    pub fn take_hints(&mut self) {
        let Some(mut events) = FileEvents::new() else {
            return;
        };
        let trust = self.upstream_ca.iter().map(|trust| &trust.file);
        let others = self.certificates.iter().chain(trust);
        let others = others.chain(&self.proxy.secrets).map(|it| &*it.path);
        let files = [&*self.proxy_toml].into_iter().chain(others);
        events.watch(files.map(|file| folder_of(file).to_owned()));
        events.watch(self.tenants.event_folders());
        events.watch(self.operators.event_folders());
        self.events = Some(events);
    }

    /// Looks at the files that were hinted at since the last call, and at those beside the files of tenants and operators.
    /// The others may have changed as well.
    pub fn hinted_files(&mut self) -> HintedFiles {
        let hints = self.events.as_mut().map(FileEvents::take);
        let hints = hints.unwrap_or_default();
        HintedFiles {
            changed: ChangedFiles {
                tenants: self.tenants.hinted_changes(&hints.files),
                operators: self.operators.hinted_changes(&hints.files),
                ..self.changed_others()
            },
            everywhere: hints.everywhere,
        }
    }

    /// Looks at every file; reads none.
    pub fn changed_files(&self) -> ChangedFiles {
        self.changed_files_on(StatThreads::AsManyAsPay)
    }

    /// The same on this thread alone, so that its cost is known.
    pub fn changed_files_on_this_thread(&self) -> ChangedFiles {
        self.changed_files_on(StatThreads::One)
    }

    fn changed_files_on(&self, threads: StatThreads) -> ChangedFiles {
        ChangedFiles {
            tenants: self.tenants.changes(threads),
            operators: self.operators.changes(threads),
            ..self.changed_others()
        }
    }

    /// Of the files that are not those of tenants and operators.
    fn changed_others(&self) -> ChangedFiles {
        let ProxyFile { stamp: look, .. } = self.proxy;
        let now = self.proxy.now(&self.proxy_toml);
        let trust = self.upstream_ca.iter().map(|trust| &trust.file);
        let others = self.certificates.iter().chain(trust);
        let others = others.map(|seen| (seen, FileStamp::at(&seen.path)));
        ChangedFiles {
            proxy: (now != look).then_some(now),
            others: others
                .filter(|(seen, now)| seen.stamp != *now)
                .map(|(seen, now)| (seen.path.clone(), now))
                .collect(),
            ..ChangedFiles::default()
        }
    }

    /// Those of the changed files that still have the same stamps, so that none of these is being written.
    pub fn settled(&self, changed: &ChangedFiles) -> ChangedFiles {
        let proxy = changed.proxy;
        let others = changed.others.iter();
        ChangedFiles {
            proxy: proxy.filter(|stamp| self.proxy.now(&self.proxy_toml) == *stamp),
            others: others
                .filter(|(path, stamp)| FileStamp::at(path) == **stamp)
                .map(|(path, stamp)| (path.clone(), *stamp))
                .collect(),
            tenants: self.tenants.settled(&changed.tenants),
            operators: self.operators.settled(&changed.operators),
        }
    }

    /// Reads the changed files.
    pub fn read(&mut self, changed: &ChangedFiles, env: &Environment<'_>) {
        let mut elsewhere = [false; 2];
        if changed.proxy.is_some() {
            self.proxy = ProxyFile::read(&self.proxy_toml, env);
            // With a fault in it, the folders are those it named before.
            if let Some(said) = &self.proxy.parsed {
                elsewhere = [
                    self.tenants.follow(Some(&said.settings.tenants)),
                    self.operators.follow(said.settings.operators.as_deref()),
                ];
            }
        }
        for seen in &mut self.certificates {
            if changed.others.contains_key(&seen.path) {
                *seen = StampedFile::at(&seen.path);
            }
        }
        if let Some(trust) = &mut self.upstream_ca
            && changed.others.contains_key(&trust.file.path)
        {
            trust.read();
        }
        let terms = self.start.bounds();
        let by = ReadInputs {
            proxy_toml: &self.proxy_toml,
            env,
            hasher: &self.hasher,
            secret_text: self.start.secret_text,
        };
        // Keys that must be unique are compared over all files, by their hashes.
        let tenants = |table: TableReader<'_>, sources: SecretSources<'_>| {
            tenant_file::read(table, terms, sources, &mut UniqueClaims::uncompared())
        };
        let operators = |table: TableReader<'_>, sources: SecretSources<'_>| {
            operator_file::read(table, terms, sources, &mut UniqueClaims::uncompared())
        };
        // Of another folder nothing was seen yet; the next look is the first.
        let [tenants_elsewhere, operators_elsewhere] = elsewhere;
        if !tenants_elsewhere {
            self.tenants.read(&changed.tenants, "tenant", by, tenants);
        }
        if !operators_elsewhere {
            self.operators
                .read(&changed.operators, "operator", by, operators);
        }
        if changed.proxy.is_some() && self.events.is_some() {
            // Its folders and secrets may be others.
            self.take_hints();
        } else if let Some(events) = &mut self.events {
            events.watch(self.tenants.changed_event_folders(&changed.tenants));
            events.watch(self.operators.changed_event_folders(&changed.operators));
        }
    }

    /// The configuration that was read, unless files are invalid.
    pub fn next(&self) -> Result<NextConfiguration, InvalidFiles> {
        self.next_with(Registry::index)
    }

    /// The same, sooner, by means of a registry that has most of the parties: the one in force.
    pub fn next_after(&self, in_force: &Registry) -> Result<NextConfiguration, InvalidFiles> {
        self.next_with(|tenants, operators| Registry::following(in_force, tenants, operators))
    }

    fn next_with(
        &self,
        registry: impl FnOnce(Vec<Arc<Tenant>>, Vec<Arc<Operator>>) -> Registry,
    ) -> Result<NextConfiguration, InvalidFiles> {
        let mut wrong: BTreeSet<PathBuf> = self.tenants.invalid_files().collect();
        wrong.extend(self.operators.invalid_files());
        if let Some(said) = &self.proxy.parsed
            && self.tenants.listed
            && self.operators.listed
        {
            self.conflicts(&said.settings.institution.credentials, &mut wrong);
            self.unlinked(ApproverTerms::of(&said.settings), &mut wrong);
            if wrong.is_empty() {
                let operations = said.catalogue.rows() != self.start.catalogue.rows();
                let operations = operations.then_some("operation");
                let trust = self.upstream_ca.as_ref().filter(|trust| trust.differs());
                let trust = trust.map(|_| "upstream.ca");
                return Ok(NextConfiguration {
                    settings: Arc::clone(&said.settings),
                    restart: operations.into_iter().chain(trust).collect(),
                    registry: registry(self.tenants.parties(), self.operators.parties()),
                });
            }
        }
        Err(InvalidFiles(wrong))
    }

    /// Reads invalid files again for their problems: by `proxy.toml` as it is, and by the keys of the start that parties are
    /// read by. If there is no problem, the fault was transient, and the files have to be read again.
    pub fn problems(
        &mut self,
        InvalidFiles(files): &InvalidFiles,
        env: &Environment<'_>,
    ) -> Vec<Problem> {
        let mut problems = load::problems(&self.proxy_toml, |file| files.contains(file), env);
        if self.proxy.parsed.is_some() {
            let known: HashSet<_> = problems.iter().map(|it| it.file.clone()).collect();
            let others = self.problems_by_the_start(files, env).into_iter();
            problems.extend(others.filter(|problem| !known.contains(&problem.file)));
            problems.sort();
        }
        if problems.is_empty() {
            // A file was missing for a moment, or there were no descriptors to open it.
            self.proxy.stamp = FileStamp::NOTHING;
            self.tenants.forget(files);
            self.operators.forget(files);
        }
        problems
    }

    /// The problems that these files have by the start's keys of `proxy.toml`.
    fn problems_by_the_start(
        &self,
        files: &BTreeSet<PathBuf>,
        env: &Environment<'_>,
    ) -> Vec<Problem> {
        let reads = FilesRead::default();
        let reading = ConfigReading::new(&self.proxy_toml, env, &reads);
        reading.secret_text.set(self.start.secret_text);
        let (terms, mut claims) = (self.start.bounds(), UniqueClaims::uncompared());
        let among = |invalid: &PathBuf| files.contains(invalid);
        let tenants: Vec<_> = self.tenants.invalid_files().filter(among).collect();
        reading.parties(&tenants, "tenant", |table, sources| {
            tenant_file::read(table, terms, sources, &mut claims)
        });
        let operators: Vec<_> = self.operators.invalid_files().filter(among).collect();
        reading.parties(&operators, "operator", |table, sources| {
            operator_file::read(table, terms, sources, &mut claims)
        });
        let mut problems = reading.problems.sorted();
        for problem in &mut problems {
            problem.text +=
                "; the present proxy.toml, which takes effect after a restart, allows it";
        }
        problems
    }

    /// The problems that the next start would find in the files that were read, though by the keys of this one they can be
    /// used. Reads all files again if those keys are others by now.
    pub fn problems_of_the_next_start(&self, env: &Environment<'_>) -> Vec<Problem> {
        let next = self.proxy.parsed.as_ref();
        let next = next.map(|said| StartTerms::of(&said.settings, &said.catalogue));
        if next.is_none_or(|next| next == self.start) {
            return Vec::new();
        }
        load::problems(&self.proxy_toml, |_| true, env)
    }

    /// How many files of tenants and operators were looked at since the start, each with its secrets, and how many were
    /// read.
    pub fn work(&self) -> WatchWork {
        let (tenants, operators) = (&self.tenants.work, &self.operators.work);
        let looks = [&tenants.looked_at, &operators.looked_at];
        WatchWork {
            looked_at: looks
                .map(|looks| looks.load(Ordering::Relaxed))
                .iter()
                .sum(),
            read: tenants.read + operators.read,
        }
    }

    /// Records that the configuration which [`next`](Self::next) last returned is in force.
    pub fn now_in_force(&mut self) {
        self.tenants.now_in_force();
        self.operators.now_in_force();
    }

    /// The registry in force with the rights taken away that the files take away, as far as these were read, whether or
    /// not they can be used as a whole. `None` if nothing changes.
    pub fn restricted(&self, in_force: &Registry) -> Option<Registry> {
        in_force.restricted(self.tenants.restrictions(), self.operators.restrictions())
    }

    /// Adds the files whose links to approvers are wrong.
    fn unlinked(&self, terms: ApproverTerms<'_>, wrong: &mut BTreeSet<PathBuf>) {
        for (file, by) in self.tenants.key_owners().filter(|(file, _)| file.has_links) {
            let mut holders = file.parties.iter().map(|it| it.admin_operators());
            if holders.any(|holders| terms.unknown(holders).is_some()) {
                wrong.insert(by.path());
            }
        }
        for (file, by) in self.operators.key_owners() {
            let mut holders = file.parties.iter().map(|it| it.admin_operators.as_deref());
            if holders.any(|holders| terms.fault(holders).is_some()) {
                wrong.insert(by.path());
            }
        }
    }

    /// Adds the files that hold something only one may hold.
    ///
    /// A hundred thousand tenants hold half a million things: only those are compared whose hash is there twice.
    fn conflicts(&self, institution: &[DatedCredential], wrong: &mut BTreeSet<PathBuf>) {
        let (tenants, operators) = (&self.tenants.held_keys, &self.operators.held_keys);
        let mut twice: HashSet<u64> = tenants.repeated().chain(operators.repeated()).collect();
        twice.extend(operators.common(tenants));
        visit_credential_keys(institution, |held| {
            let hash = self.hasher.hash_one(held);
            if tenants.contains(hash) || operators.contains(hash) {
                twice.insert(hash);
            }
        });
        if twice.is_empty() {
            return;
        }
        let mut holders = KeyOwners::default();
        let proxy_toml = KeyOwner {
            folder: &self.proxy_toml,
            name: OsStr::new(""),
        };
        visit_credential_keys(institution, |held| {
            // Twice is fine there: GatePay can change the secret and keep the id.
            holders.take(held, proxy_toml, false, &mut BTreeSet::new());
        });
        let mut take = |held, by, shared| {
            if twice.contains(&self.hasher.hash_one(&held)) {
                holders.take(held, by, shared, wrong);
            }
        };
        for (file, by) in self.tenants.key_owners() {
            for tenant in &file.parties {
                tenant.visit_keys(|held, shared| take(held, by, shared));
            }
        }
        for (file, by) in self.operators.key_owners() {
            for operator in &file.parties {
                operator.visit_keys(|held, shared| take(held, by, shared));
            }
        }
    }
}

impl PartialEq for StartTerms {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            catalogue,
            window,
            endpoints,
            has_store,
            secret_text,
        } = self;
        catalogue.rows() == other.catalogue.rows()
            && *window == other.window
            && *endpoints == other.endpoints
            && *has_store == other.has_store
            && *secret_text == other.secret_text
    }
}

impl StartTerms {
    fn of(settings: &Settings, catalogue: &Catalogue) -> Self {
        let notifications = settings.notifications.as_ref();
        let endpoints = notifications.map(|settings| settings.endpoints.clone());
        Self {
            catalogue: catalogue.clone(),
            window: settings.window,
            endpoints: endpoints.unwrap_or_default(),
            has_store: settings.store.is_some(),
            secret_text: settings.secret_text,
        }
    }

    fn bounds(&self) -> PartyBounds<'_> {
        PartyBounds {
            has_store: self.has_store,
            // Checked with the settings of the moment, once all files are read.
            approvers: None,
            catalogue: &self.catalogue,
            window: self.window,
            endpoints: &self.endpoints,
        }
    }
}

/// A file that is read at the start only. Kubernetes writes it anew whenever a certificate beside it is renewed: so the
/// contents are compared, by digest.
struct UpstreamCa {
    file: StampedFile,
    start: Option<FileDigest>,
    now: Option<FileDigest>,
}

type FileDigest = [u8; 32];

impl UpstreamCa {
    fn at(path: &Path) -> Self {
        let seen = StampedFile::at(path);
        let start = digest(path);
        Self {
            file: seen,
            start,
            now: start,
        }
    }

    fn read(&mut self) {
        self.file = StampedFile::at(&self.file.path);
        self.now = digest(&self.file.path);
    }

    fn differs(&self) -> bool {
        self.now != self.start
    }
}

/// `None` if there is nothing to read.
fn digest(path: &Path) -> Option<FileDigest> {
    Some(Sha256::digest(fs::read(path).ok()?).into())
}

fn certificates(settings: &Settings) -> Vec<StampedFile> {
    let notifications = settings.notifications.iter();
    let notifications = notifications.filter_map(|settings| settings.tls.as_ref());
    let tls = settings.listen.tls.iter().chain(notifications);
    let files = tls.flat_map(|tls| {
        [
            Some(&tls.certificate),
            Some(&tls.key),
            tls.client_ca.as_ref(),
        ]
    });
    files.flatten().map(|path| StampedFile::at(path)).collect()
}

impl ProxyFile {
    fn read(path: &Path, env: &Environment<'_>) -> Self {
        let reads = FilesRead::default();
        let reading = ConfigReading::new(path, env, &reads);
        let said = reading.settings(path);
        let fine = reading.problems.is_empty();
        let (look, secrets) = reads.into_seen();
        Self {
            stamp: look.and(secrets.iter().map(|secret| secret.stamp)),
            secrets,
            parsed: said
                .filter(|_| fine)
                .map(|(settings, catalogue)| ParsedProxyFile {
                    settings: Arc::new(settings),
                    catalogue,
                }),
        }
    }

    fn now(&self, path: &Path) -> FileStamp {
        combined_stamp(path, self.secrets.iter().map(|secret| &secret.path))
    }
}

impl ChangedFiles {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many files differ; of secrets, those that name them.
    pub fn len(&self) -> usize {
        usize::from(self.proxy.is_some())
            + self.others.len()
            + self.tenants.len()
            + self.operators.len()
    }
}
