//! Watch: a configuration that is read again where its files differ, and kept where they do not.
//!
//! Whether a file differs is told by its `FileStamp`, without opening it; the parties of all others are shared with the
//! next [`Registry`]. The result is whole: it is built only from files that still look as they did when they were
//! read, all of them at one time, so that half a `git checkout` or half a turn of Kubernetes' `..data` is no
//! configuration.
//!
//! That takes two looks at every file, one before the reading and one after. A file that was not read, since it had not changed
//! at the first look, may have changed a moment later together with one that was read: only the second look tells, and the
//! dates of folders do not, since a file that is written in place leaves them as they were. If a file looks the same
//! both times it was the same in between, for the time of an inode's change cannot be set back; so at the moment when the last
//! reading ended all of them had the text that was read.
//!
//! The caller decides how often: [`Watch::glance`] looks, [`Watch::settled`] looks again at what differs,
//! [`Watch::read`] reads it, and [`Watch::next`] builds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepay_core::{Catalogue, StampWindow};
use sha2::{Digest as _, Sha256};

use crate::disk::file_stamp::{FileStamp, FilesRead, StampedFile};
use crate::files::party_file::Terms;
use crate::files::secrets::{Environment, Sources};
use crate::files::{operator_file, tenant_file};
use crate::load::{self, Reading};
use crate::model::claims::Claims;
use crate::model::configuration::Configuration;
use crate::model::operator::Operator;
use crate::model::party::DatedCredential;
use crate::model::registry::Registry;
use crate::model::restriction::Restrictions;
use crate::model::settings::{SecretText, Settings};
use crate::model::tenant::Tenant;
use crate::syntax::problem::Problem;
use crate::syntax::table_reader::{Place, Reader};

mod folder;
mod ownership;

use folder::{By, Differ, Folder, Threads, together};
use ownership::{KeyOwner, Owners, Owns as _, credentials_held};

/// How often reading begins anew at a start because files change meanwhile.
const TRIES: usize = 10;

/// The files of a configuration, as they were last read.
pub struct Watch {
    proxy_toml: PathBuf,
    proxy: ProxyFile,
    tenants: Folder<Tenant>,
    operators: Folder<Operator>,
    /// The listener's certificate, key and authorities, when they were last taken for read. Their users read them.
    certificates: Vec<StampedFile>,
    /// The authorities that vouch for GatePay, likewise, and their digest at the start.
    trust: Option<UpstreamCa>,
    /// The catalogue that parties are read by: that of the start, since rows of the catalogue are known by their position.
    catalogue: Catalogue,
    window: StampWindow,
    secret_text: SecretText,
    /// Unique keys are compared by hashes that cannot be predicted.
    hasher: RandomState,
}

/// `proxy.toml`, with its secrets.
struct ProxyFile {
    /// With its secrets.
    look: FileStamp,
    secrets: Box<[StampedFile]>,
    /// Its settings, unless it has a problem.
    said: Option<ParsedProxyFile>,
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
    tenants: Differ,
    operators: Differ,
}

/// The next configuration.
pub struct Next {
    /// The settings of `proxy.toml`. Most of them take effect after a restart.
    pub settings: Arc<Settings>,
    /// Keys of `proxy.toml` that take effect after a restart although they are unchanged: the file they name has changed.
    pub restart: Vec<&'static str>,
    /// All parties. Those of unchanged files are shared with the registries before.
    pub registry: Registry,
}

impl Watch {
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
            text: "keeps changing while it is read, or a file it names does".to_owned(),
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
        let settings = Reading::new(proxy_toml, env, &reads).settings(proxy_toml);
        let (Some(said), Some((settings, catalogue))) = (&proxy.said, settings) else {
            return Err(Vec::new());
        };
        let mut watch = Self {
            proxy_toml: proxy_toml.to_owned(),
            tenants: Folder::at(Some(&said.settings.tenants)),
            operators: Folder::at(said.settings.operators.as_deref()),
            catalogue: catalogue.clone(),
            window: settings.window,
            secret_text: settings.secret_text,
            certificates: certificates(&settings),
            trust: settings.upstream.ca.as_deref().map(UpstreamCa::at),
            proxy,
            hasher: RandomState::new(),
        };
        let everything = ChangedFiles {
            tenants: watch.tenants.unread(),
            operators: watch.operators.unread(),
            ..ChangedFiles::default()
        };
        watch.read(&everything, env);
        let registry = watch.next(env)?.registry;
        let configuration = Configuration {
            settings,
            registry,
            catalogue,
        };
        let still = watch.glance().is_empty();
        Ok(still.then_some((watch, configuration)))
    }

    /// Looks at every file; reads none.
    pub fn glance(&self) -> ChangedFiles {
        self.glance_on(Threads::AsManyAsPay)
    }

    /// The same on this thread alone, so that its cost is known.
    pub fn glance_alone(&self) -> ChangedFiles {
        self.glance_on(Threads::One)
    }

    fn glance_on(&self, threads: Threads) -> ChangedFiles {
        let ProxyFile { look, .. } = self.proxy;
        let now = self.proxy.now(&self.proxy_toml);
        let trust = self.trust.iter().map(|trust| &trust.seen);
        let others = self.certificates.iter().chain(trust);
        let others = others.map(|seen| (seen, FileStamp::at(&seen.path)));
        ChangedFiles {
            proxy: (now != look).then_some(now),
            others: others
                .filter(|(seen, now)| seen.look != *now)
                .map(|(seen, now)| (seen.path.clone(), now))
                .collect(),
            tenants: self.tenants.glance(threads),
            operators: self.operators.glance(threads),
        }
    }

    /// Whether the changed files still have the same stamps, so that none is being written.
    pub fn settled(&self, glance: &ChangedFiles) -> bool {
        let mut others = glance.others.iter();
        glance
            .proxy
            .is_none_or(|look| self.proxy.now(&self.proxy_toml) == look)
            && others.all(|(path, look)| FileStamp::at(path) == *look)
            && self.tenants.settled(&glance.tenants)
            && self.operators.settled(&glance.operators)
    }

    /// Reads the changed files.
    pub fn read(&mut self, glance: &ChangedFiles, env: &Environment<'_>) {
        let mut elsewhere = [false; 2];
        if glance.proxy.is_some() {
            self.proxy = ProxyFile::read(&self.proxy_toml, env);
            // With a fault in it, the folders are those it named before.
            if let Some(said) = &self.proxy.said {
                elsewhere = [
                    self.tenants.follow(Some(&said.settings.tenants)),
                    self.operators.follow(said.settings.operators.as_deref()),
                ];
            }
        }
        for seen in &mut self.certificates {
            if glance.others.contains_key(&seen.path) {
                *seen = StampedFile::at(&seen.path);
            }
        }
        if let Some(trust) = &mut self.trust
            && glance.others.contains_key(&trust.seen.path)
        {
            trust.read();
        }
        let terms = Terms {
            catalogue: &self.catalogue,
            window: self.window,
        };
        let by = By {
            proxy_toml: &self.proxy_toml,
            env,
            hasher: &self.hasher,
            secret_text: self.secret_text,
        };
        let tenants = |table: Reader<'_>, sources: Sources<'_>, claims: &mut Claims<Place>| {
            tenant_file::read(table, terms, sources, claims)
        };
        let operators = |table: Reader<'_>, sources: Sources<'_>, claims: &mut Claims<Place>| {
            operator_file::read(table, terms, sources, claims)
        };
        // Of another folder nothing was seen yet; the next look is the first.
        let [tenants_elsewhere, operators_elsewhere] = elsewhere;
        if !tenants_elsewhere {
            self.tenants.read(&glance.tenants, "tenant", by, tenants);
        }
        if !operators_elsewhere {
            self.operators
                .read(&glance.operators, "operator", by, operators);
        }
    }

    /// The configuration that was read, or its problems. With no problem at all, the fault has
    /// passed meanwhile, and they have to be looked at again.
    pub fn next(&mut self, env: &Environment<'_>) -> Result<Next, Vec<Problem>> {
        let mut wrong: BTreeSet<PathBuf> = self.tenants.wrong().collect();
        wrong.extend(self.operators.wrong());
        if let Some(said) = &self.proxy.said
            && self.tenants.listed
            && self.operators.listed
        {
            self.conflicts(&said.settings.institution.credentials, &mut wrong);
            if wrong.is_empty() {
                let operations = said.catalogue.rows() != self.catalogue.rows();
                let operations = operations.then_some("operation");
                let trust = self.trust.as_ref().filter(|trust| trust.differs());
                let trust = trust.map(|_| "upstream.ca");
                return Ok(Next {
                    settings: Arc::clone(&said.settings),
                    restart: operations.into_iter().chain(trust).collect(),
                    registry: Registry::index(self.tenants.parties(), self.operators.parties()),
                });
            }
        }
        let problems = load::problems(&self.proxy_toml, &wrong, env);
        if problems.is_empty() {
            // A file was missing for a moment, or there were no descriptors to open it.
            self.proxy.look = FileStamp::NOTHING;
            self.tenants.forget(&wrong);
            self.operators.forget(&wrong);
        }
        Err(problems)
    }

    /// The restrictions in the files, as far as these were read, whether or not they can be used as a whole.
    pub fn restrictions(&self) -> impl Iterator<Item = &Restrictions> {
        self.tenants
            .restrictions()
            .chain(self.operators.restrictions())
    }

    /// Adds the files that hold something only one may hold.
    ///
    /// A hundred thousand tenants hold half a million things: their hashes are sorted, and only those are compared whose
    /// hash is there twice.
    fn conflicts(&self, institution: &[DatedCredential], wrong: &mut BTreeSet<PathBuf>) {
        let mut hashes = Vec::new();
        credentials_held(institution, |held| hashes.push(self.hasher.hash_one(held)));
        let tenants = self.tenants.holders().flat_map(|(file, _)| &file.held);
        let operators = self.operators.holders().flat_map(|(file, _)| &file.held);
        hashes.extend(tenants.chain(operators));
        hashes.sort_unstable();
        let twice = hashes.windows(2).filter(|pair| pair[0] == pair[1]);
        let twice: HashSet<u64> = twice.map(|pair| pair[0]).collect();
        if twice.is_empty() {
            return;
        }
        let mut holders = Owners::default();
        let proxy_toml = KeyOwner {
            folder: &self.proxy_toml,
            name: OsStr::new(""),
        };
        credentials_held(institution, |held| {
            // Twice is fine there: GatePay can change the secret and keep the id.
            holders.take(held, proxy_toml, false, &mut BTreeSet::new());
        });
        let mut take = |held, by, shared| holders.take(held, by, shared, wrong);
        let concerned = |held: &[u64]| held.iter().any(|hash| twice.contains(hash));
        for (file, by) in self.tenants.holders() {
            for tenant in file.parties.iter().filter(|_| concerned(&file.held)) {
                tenant.held(|held, shared| take(held, by, shared));
            }
        }
        for (file, by) in self.operators.holders() {
            for operator in file.parties.iter().filter(|_| concerned(&file.held)) {
                operator.held(|held, shared| take(held, by, shared));
            }
        }
    }
}

/// A file that is read at the start only. Kubernetes writes it anew whenever a certificate beside it is renewed: so the
/// contents are compared, by digest.
struct UpstreamCa {
    seen: StampedFile,
    start: Option<Digest>,
    now: Option<Digest>,
}

type Digest = [u8; 32];

impl UpstreamCa {
    fn at(path: &Path) -> Self {
        let seen = StampedFile::at(path);
        let start = digest(path);
        Self {
            seen,
            start,
            now: start,
        }
    }

    fn read(&mut self) {
        self.seen = StampedFile::at(&self.seen.path);
        self.now = digest(&self.seen.path);
    }

    fn differs(&self) -> bool {
        self.now != self.start
    }
}

/// `None` if there is nothing to read.
fn digest(path: &Path) -> Option<Digest> {
    Some(Sha256::digest(fs::read(path).ok()?).into())
}

fn certificates(settings: &Settings) -> Vec<StampedFile> {
    let tls = settings.listen.tls.iter();
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
        let reading = Reading::new(path, env, &reads);
        let said = reading.settings(path);
        let fine = reading.problems.is_empty();
        let (look, secrets) = reads.into_seen();
        Self {
            look: look.and(secrets.iter().map(|secret| secret.look)),
            secrets,
            said: said
                .filter(|_| fine)
                .map(|(settings, catalogue)| ParsedProxyFile {
                    settings: Arc::new(settings),
                    catalogue,
                }),
        }
    }

    fn now(&self, path: &Path) -> FileStamp {
        together(path, self.secrets.iter().map(|secret| &secret.path))
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
