//! Watch: a configuration that is read again where its files differ, and kept where they do not.
//!
//! Whether a file differs is told by its `Look`, without opening it; what was parsed of all others is shared with the
//! next [`Registry`]. What comes out is whole: it is built only from files that still look as they did when they were
//! read, all of them at one time, so that half a `git checkout` or half a turn of Kubernetes' `..data` is no
//! configuration.
//!
//! Who asks, and how often, is not known here: [`Watch::glance`] looks, [`Watch::settled`] looks again at what differs,
//! [`Watch::read`] reads it, and [`Watch::next`] builds.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::BuildHasher as _;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use gatepay_core::{Catalogue, Credential, Window};
use sha2::{Digest as _, Sha256};

use crate::claims::Claims;
use crate::load::{self, Configuration, Reading, folder_of, party_files};
use crate::look::{Look, Reads, Seen};
use crate::operator::Operator;
use crate::party::{DatedCredential, Party};
use crate::party_file::Terms;
use crate::problem::Problem;
use crate::reader::{Place, Reader};
use crate::registry::Registry;
use crate::secrets::{Environment, Sources};
use crate::settings::Settings;
use crate::tenant::Tenant;
use crate::{operator_file, tenant_file};

/// How often reading begins anew at a start because files change meanwhile.
const TRIES: usize = 10;
/// Fewer files than this are read by one thread: that takes a second, and each thread's heap keeps some memory.
const FILES_FOR_A_THREAD: usize = 20_000;

/// The files of a configuration, as they were last read.
pub struct Watch {
    proxy_toml: PathBuf,
    proxy: ProxyFile,
    tenants: Folder<Tenant>,
    operators: Folder<Operator>,
    /// The listener's certificate, key and authorities, when they were last taken for read. Whoever asks reads them.
    certificates: Vec<Seen>,
    /// The authorities that vouch for GatePay, likewise, and what they were at the start.
    trust: Option<Trust>,
    /// What parties are read by: that of the start, since rows of the catalogue are known by their position.
    catalogue: Catalogue,
    window: Window,
}

/// `proxy.toml`, with its secrets.
struct ProxyFile {
    seen: Seen,
    secrets: Box<[Seen]>,
    /// What it says, unless something is wrong with it.
    said: Option<Said>,
}

struct Said {
    settings: Arc<Settings>,
    catalogue: Catalogue,
}

/// The files of tenants or operators.
struct Folder<T> {
    /// None if there are no operators.
    path: Option<PathBuf>,
    listed: bool,
    /// Sorted by name.
    files: Vec<PartyFile<T>>,
}

/// One of them, with the secrets it names. There may be a hundred thousand: nothing is written out twice.
struct PartyFile<T> {
    /// Within the folder; empty if that is the file itself.
    name: Box<Path>,
    /// Of the file and its secrets together.
    look: Look,
    /// As seen from the file.
    secrets: Box<[Box<Path>]>,
    parties: Box<[Arc<T>]>,
    /// Whether nothing is wrong with it by itself.
    fine: bool,
}

/// The files that differ from what was read of them, and what they look like now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Glance(BTreeMap<Box<Path>, Look>);

/// What the files say now.
pub struct Next {
    /// What `proxy.toml` says. Most of it waits for the next start.
    pub settings: Arc<Settings>,
    /// Keys of `proxy.toml` that wait for the next start although they say what they said: what they name is another.
    pub restart: Vec<&'static str>,
    /// Everybody. Whose files did not change is shared with the registries before.
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
            text: "keeps changing, or a file it names does".to_owned(),
        }])
    }

    /// `None` if files changed meanwhile.
    fn try_open(
        proxy_toml: &Path,
        env: &Environment<'_>,
    ) -> Result<Option<(Self, Configuration)>, Vec<Problem>> {
        let proxy = ProxyFile::read(proxy_toml, env);
        // Read twice: one for the process, the other to compare with what the file says later.
        let reads = Reads::default();
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
            certificates: certificates(&settings),
            trust: settings.upstream.ca.as_deref().map(Trust::at),
            proxy,
        };
        let glance = watch.glance();
        watch.read(&glance, env);
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
    pub fn glance(&self) -> Glance {
        let mut glance = Glance::default();
        let ProxyFile { seen, secrets, .. } = &self.proxy;
        let look = seen.look.and(secrets.iter().map(|secret| secret.look));
        glance.note(&seen.path, look, self.proxy.now());
        let trust = self.trust.iter().map(|trust| &trust.seen);
        for seen in self.certificates.iter().chain(trust) {
            glance.note(&seen.path, seen.look, Look::at(&seen.path));
        }
        self.tenants.glance(&mut glance);
        self.operators.glance(&mut glance);
        glance
    }

    /// Whether what differed still looks as it did: nobody is writing it, as far as can be seen.
    pub fn settled(&self, glance: &Glance) -> bool {
        let now = |path: &Path| {
            if *path == *self.proxy.seen.path {
                return self.proxy.now();
            }
            let known = self.tenants.secrets(path);
            let known = known.or_else(|| self.operators.secrets(path));
            now(path, known.unwrap_or_default())
        };
        let mut looks = glance.0.iter();
        looks.all(|(path, look)| now(path) == *look)
    }

    /// Reads what differs.
    pub fn read(&mut self, glance: &Glance, env: &Environment<'_>) {
        if glance.0.contains_key(&self.proxy.seen.path) {
            self.proxy = ProxyFile::read(&self.proxy_toml, env);
            // With a fault in it, the folders are those it named before.
            if let Some(said) = &self.proxy.said {
                self.tenants.follow(Some(&said.settings.tenants));
                self.operators.follow(said.settings.operators.as_deref());
            }
        }
        for seen in &mut self.certificates {
            if glance.0.contains_key(&seen.path) {
                *seen = Seen::at(&seen.path);
            }
        }
        if let Some(trust) = &mut self.trust
            && glance.0.contains_key(&trust.seen.path)
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
        };
        let tenants = |table: Reader<'_>, sources: Sources<'_>, claims: &mut Claims<Place>| {
            tenant_file::read(table, terms, sources, claims)
        };
        let operators = |table: Reader<'_>, sources: Sources<'_>, claims: &mut Claims<Place>| {
            operator_file::read(table, terms, sources, claims)
        };
        self.tenants.read(glance, "tenant", by, tenants);
        self.operators.read(glance, "operator", by, operators);
    }

    /// What the files said when they were read, or what is wrong with them. With no problem at all, what was wrong has
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
            self.proxy.seen.look = Look::NOTHING;
            self.tenants.forget(&wrong);
            self.operators.forget(&wrong);
        }
        Err(problems)
    }

    /// Adds the files that hold something only one may hold.
    ///
    /// A hundred thousand tenants hold half a million things: their hashes are sorted, and only those are compared whose
    /// hash is there twice.
    fn conflicts(&self, institution: &[DatedCredential], wrong: &mut BTreeSet<PathBuf>) {
        let hasher = RandomState::new();
        let mut hashes = Vec::new();
        self.all_held(institution, |held, _, _| hashes.push(hasher.hash_one(held)));
        hashes.sort_unstable();
        let twice = hashes.windows(2).filter(|pair| pair[0] == pair[1]);
        let twice: HashSet<u64> = twice.map(|pair| pair[0]).collect();
        if twice.is_empty() {
            return;
        }
        let mut holders = Holders(HashMap::new());
        self.all_held(institution, |held, by, shared| {
            if twice.contains(&hasher.hash_one(&held))
                && let Some(other) = holders.take(held, by, shared)
                // Twice is fine there: GatePay can change the secret and keep the id.
                && by.folder != &*self.proxy.seen.path
            {
                wrong.extend([other.path(), by.path()]);
            }
        });
    }

    /// Shows everything that only one may hold: by whom it is held, and whether it may be shared.
    fn all_held<'a>(
        &'a self,
        institution: &'a [DatedCredential],
        mut visit: impl FnMut(Held<'a>, Holder<'a>, bool),
    ) {
        let proxy_toml = Holder {
            folder: &self.proxy.seen.path,
            name: Path::new(""),
        };
        credentials_held(institution, |held| visit(held, proxy_toml, false));
        for (file, by) in self.tenants.holders() {
            for tenant in &file.parties {
                party_held(&tenant.party, |held| visit(held, by, false));
                let account = Held::SubAccount(tenant.sub_account.as_str());
                visit(account, by, tenant.shared_sub_account);
            }
        }
        for (file, by) in self.operators.holders() {
            for operator in &file.parties {
                party_held(&operator.party, |held| visit(held, by, false));
            }
        }
    }
}

/// What is read at the start only. Kubernetes writes it anew whenever a certificate beside it is renewed: so it is by
/// what they say that two of them differ.
struct Trust {
    seen: Seen,
    start: Option<Digest>,
    now: Option<Digest>,
}

type Digest = [u8; 32];

impl Trust {
    fn at(path: &Path) -> Self {
        let seen = Seen::at(path);
        let start = digest(path);
        Self {
            seen,
            start,
            now: start,
        }
    }

    fn read(&mut self) {
        self.seen = Seen::at(&self.seen.path);
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

fn certificates(settings: &Settings) -> Vec<Seen> {
    let tls = settings.listen.tls.iter();
    let files = tls.flat_map(|tls| {
        [
            Some(&tls.certificate),
            Some(&tls.key),
            tls.client_ca.as_ref(),
        ]
    });
    files.flatten().map(|path| Seen::at(path)).collect()
}

impl ProxyFile {
    fn read(path: &Path, env: &Environment<'_>) -> Self {
        let seen = Seen::at(path);
        let reads = Reads::default();
        let reading = Reading::new(path, env, &reads);
        let said = reading.settings(path);
        let fine = reading.problems.is_empty();
        Self {
            seen,
            secrets: reads.into_seen(),
            said: said.filter(|_| fine).map(|(settings, catalogue)| Said {
                settings: Arc::new(settings),
                catalogue,
            }),
        }
    }

    fn now(&self) -> Look {
        let secrets = self.secrets.iter();
        together(
            &self.seen.path,
            secrets.map(|secret| Look::at(&secret.path)),
        )
    }
}

/// What reading a file needs to know.
#[derive(Clone, Copy)]
struct By<'a> {
    proxy_toml: &'a Path,
    env: &'a Environment<'a>,
}

impl<T> Folder<T> {
    fn at(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            listed: path.is_none(),
            files: Vec::new(),
        }
    }

    /// Another folder is another beginning.
    fn follow(&mut self, path: Option<&Path>) {
        if self.path.as_deref() != path {
            *self = Self::at(path);
        }
    }

    /// The names of the files there are.
    fn list(&self) -> Option<Vec<Box<Path>>> {
        let Some(folder) = self.path.as_deref() else {
            return Some(Vec::new());
        };
        let files = party_files(folder).ok()?;
        let name = |path: &PathBuf| path.strip_prefix(folder).ok().map(Box::from);
        Some(files.iter().filter_map(name).collect())
    }

    fn glance(&self, glance: &mut Glance) {
        let Some(folder) = self.path.as_deref() else {
            return;
        };
        let Some(list) = self.list() else {
            // What cannot be listed has not lost its files; nothing is known of them.
            if self.listed {
                glance.0.insert(folder.into(), Look::NOTHING);
            }
            return;
        };
        if !self.listed {
            glance.0.insert(folder.into(), Look::at(folder));
        }
        let mut gone = |file: &PartyFile<T>| {
            let path = file.path(folder).into();
            glance.0.insert(path, Look::NOTHING);
        };
        // Both are sorted: one walk along the two.
        let mut known = self.files.iter().peekable();
        let mut here = Vec::with_capacity(list.len());
        for name in &list {
            while let Some(file) = known.next_if(|known| known.name < *name) {
                gone(file);
            }
            here.push((name, known.next_if(|known| known.name == *name)));
        }
        known.for_each(gone);
        for (name, file) in here {
            let path = in_folder(folder, name);
            if let Some(file) = file {
                glance.note(&path, file.look, now(&path, &file.secrets));
            } else {
                let look = Look::at(&path);
                glance.0.insert(path.into(), look);
            }
        }
    }

    /// The secrets of the file at this path, if it was read.
    fn secrets(&self, path: &Path) -> Option<&[Box<Path>]> {
        let name = path.strip_prefix(self.path.as_deref()?).ok()?;
        let at = self.files.binary_search_by(|file| (*file.name).cmp(name));
        at.ok().map(|at| &*self.files[at].secrets)
    }

    fn read(
        &mut self,
        glance: &Glance,
        word: &'static str,
        by: By<'_>,
        read: impl Fn(Reader<'_>, Sources<'_>, &mut Claims<Place>) -> Option<T> + Sync,
    ) where
        T: Send + Sync,
    {
        let list = self.list();
        self.listed = list.is_some();
        let (Some(folder), Some(list)) = (self.path.as_deref(), list) else {
            return;
        };
        let paths = glance.0.keys();
        let differ: Vec<&Path> = paths
            .filter_map(|path| path.strip_prefix(folder).ok())
            .collect();
        let is_listed = |name: &&Path| list.binary_search_by(|it| (**it).cmp(name)).is_ok();
        let here: Vec<&Path> = differ.iter().copied().filter(is_listed).collect();
        let files = on_threads(&here, |name| PartyFile::read(folder, name, word, by, &read));
        self.files
            .retain(|file| differ.binary_search(&&*file.name).is_err());
        self.files.extend(files);
        // Two sorted runs: no more than a walk along the two.
        self.files.sort_by(|one, other| one.name.cmp(&other.name));
    }

    fn holders(&self) -> impl Iterator<Item = (&PartyFile<T>, Holder<'_>)> {
        let folder = self.path.as_deref().unwrap_or(Path::new(""));
        let files = self.files.iter();
        files.map(move |file| {
            let name = &file.name;
            (file, Holder { folder, name })
        })
    }

    fn parties(&self) -> Vec<Arc<T>> {
        let count = self.files.iter().map(|file| file.parties.len()).sum();
        let mut parties = Vec::with_capacity(count);
        for file in &self.files {
            parties.extend(file.parties.iter().cloned());
        }
        parties
    }

    fn wrong(&self) -> impl Iterator<Item = PathBuf> {
        let wrong = self.holders().filter(|(file, _)| !file.fine);
        wrong.map(|(_, by)| by.path())
    }

    /// Whatever these look like, it is news.
    fn forget(&mut self, files: &BTreeSet<PathBuf>) {
        let Some(folder) = self.path.as_deref() else {
            return;
        };
        for file in &mut self.files {
            if files.contains(&file.path(folder)) {
                file.look = Look::NOTHING;
            }
        }
    }
}

impl<T> PartyFile<T> {
    fn read(
        folder: &Path,
        name: &Path,
        word: &'static str,
        by: By<'_>,
        read: impl Fn(Reader<'_>, Sources<'_>, &mut Claims<Place>) -> Option<T>,
    ) -> Self {
        let path = in_folder(folder, name);
        let look = Look::at(&path);
        let reads = Reads::default();
        let reading = Reading::new(by.proxy_toml, by.env, &reads);
        let mut claims = Claims::default();
        let parties = reading.parties(std::slice::from_ref(&path), word, |table, sources| {
            read(table, sources, &mut claims).map(Arc::new)
        });
        let fine = reading.problems.is_empty();
        let seen = reads.into_seen();
        let beside = |secret: &Seen| match secret.path.strip_prefix(folder_of(&path)) {
            Ok(name) => name.into(),
            Err(_) => secret.path.clone(),
        };
        Self {
            name: name.into(),
            look: look.and(seen.iter().map(|secret| secret.look)),
            secrets: seen.iter().map(beside).collect(),
            parties: parties.into(),
            fine,
        }
    }

    fn path(&self, folder: &Path) -> PathBuf {
        in_folder(folder, &self.name)
    }
}

fn in_folder(folder: &Path, name: &Path) -> PathBuf {
    if name.as_os_str().is_empty() {
        folder.to_owned()
    } else {
        folder.join(name)
    }
}

/// Does the same with each, on as many threads as there are processors if there are many. What comes out is in order.
fn on_threads<A: Sync, B: Send>(all: &[A], each: impl Fn(&A) -> B + Sync) -> Vec<B> {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let part = all.len().div_ceil(processors).max(FILES_FOR_A_THREAD);
    let run = |part: &[A]| part.iter().map(&each).collect::<Vec<B>>();
    let run = &run;
    thread::scope(|scope| {
        let mut parts = all.chunks(part);
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| {
                let other = thread::Builder::new().spawn_scoped(scope, move || run(part));
                (part, other)
            })
            .collect();
        let mut done = run(first);
        for (part, other) in others {
            done.extend(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread to be had.
                Err(_) => run(part),
            });
        }
        done
    })
}

/// What one party holds and no other may.
#[derive(PartialEq, Eq, Hash)]
enum Held<'a> {
    Id(&'a str),
    SubAccount(&'a str),
    ClientId(&'a str),
    Secret([u8; 32]),
}

/// A file that holds something; the name is empty if the folder is the file.
#[derive(Clone, Copy)]
struct Holder<'a> {
    folder: &'a Path,
    name: &'a Path,
}

impl Holder<'_> {
    fn path(self) -> PathBuf {
        in_folder(self.folder, self.name)
    }
}

/// In which file each thing was seen first, and whether it may be shared.
struct Holders<'a>(HashMap<Held<'a>, (Holder<'a>, bool)>);

impl<'a> Holders<'a> {
    /// Gives the file that holds it already.
    fn take(&mut self, held: Held<'a>, by: Holder<'a>, shared: bool) -> Option<Holder<'a>> {
        match self.0.entry(held) {
            Entry::Vacant(entry) => {
                entry.insert((by, shared));
                None
            }
            Entry::Occupied(entry) => {
                let (other, may_be_shared) = *entry.get();
                (!(shared && may_be_shared)).then_some(other)
            }
        }
    }
}

fn party_held<'a>(party: &'a Party, mut visit: impl FnMut(Held<'a>)) {
    visit(Held::Id(party.id.as_str()));
    credentials_held(&party.credentials, visit);
}

fn credentials_held<'a>(credentials: &'a [DatedCredential], mut visit: impl FnMut(Held<'a>)) {
    for dated in credentials {
        let Credential { client_id, key } = &dated.credential;
        visit(Held::ClientId(client_id.as_str()));
        visit(Held::Secret(key.fingerprint()));
    }
}

/// What a file looks like now, together with its secrets as far as they are known.
fn now(path: &Path, secrets: &[Box<Path>]) -> Look {
    let folder = folder_of(path);
    let secrets = secrets.iter();
    together(path, secrets.map(|secret| Look::at(&folder.join(secret))))
}

fn together(path: &Path, secrets: impl Iterator<Item = Look>) -> Look {
    match Look::at(path) {
        Look::NOTHING => Look::NOTHING,
        look => look.and(secrets),
    }
}

impl Glance {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many files differ; of secrets, those that name them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn note(&mut self, path: &Path, look: Look, now: Look) {
        if now != look {
            self.0.insert(path.into(), now);
        }
    }
}
