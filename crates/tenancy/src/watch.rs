//! Watch: a configuration that is read again where its files differ, and kept where they do not.
//!
//! Whether a file differs is told by its [`Look`], without opening it; what was parsed of all others is shared with the
//! next [`Registry`]. What comes out is whole: it is built only from files that still look as they did when they were
//! read, all of them at one time, so that half a `git checkout` or half a turn of Kubernetes' `..data` is no
//! configuration.
//!
//! Who asks, and how often, is not known here: [`Watch::glance`] looks, [`Watch::settled`] looks again at what differs,
//! [`Watch::read`] reads it, and [`Watch::next`] builds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepay_core::{Catalogue, Credential, Window};
use sha2::{Digest as _, Sha256};

use crate::claims::Claims;
use crate::load::{self, Configuration, Reading, party_files};
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
    files: BTreeMap<Box<Path>, PartyFile<T>>,
}

/// One of them, with the secrets it names.
struct PartyFile<T> {
    look: Look,
    secrets: Box<[Seen]>,
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
        glance.note(&seen.path, seen.look, secrets);
        let trust = self.trust.iter().map(|trust| &trust.seen);
        for seen in self.certificates.iter().chain(trust) {
            glance.note(&seen.path, seen.look, &[]);
        }
        self.tenants.glance(&mut glance);
        self.operators.glance(&mut glance);
        glance
    }

    /// Whether what differed still looks as it did: nobody is writing it, as far as can be seen.
    pub fn settled(&self, glance: &Glance) -> bool {
        let secrets = |path: &Path| {
            let tenants = self.tenants.files.get(path).map(|file| &file.secrets);
            let operators = self.operators.files.get(path).map(|file| &file.secrets);
            let proxy = (*path == *self.proxy.seen.path).then_some(&self.proxy.secrets);
            let known = proxy.or(tenants).or(operators);
            known.map_or(&[][..], |secrets| secrets)
        };
        let mut looks = glance.0.iter();
        looks.all(|(path, look)| now(path, secrets(path)) == *look)
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
    fn conflicts(&self, institution: &[DatedCredential], wrong: &mut BTreeSet<PathBuf>) {
        let mut held = Holders(HashMap::new());
        let proxy_toml = &self.proxy.seen.path;
        for dated in institution {
            // Twice is fine here: GatePay can change the secret and keep the id.
            let Credential { client_id, key } = &dated.credential;
            held.take(Held::ClientId(client_id.as_str()), proxy_toml, false);
            held.take(Held::Secret(key.fingerprint()), proxy_toml, false);
        }
        let mut note = |other: Option<&Path>, path: &Path| {
            let both = other.map(|other| [other.to_owned(), path.to_owned()]);
            wrong.extend(both.into_iter().flatten());
        };
        for (path, file) in &self.tenants.files {
            for tenant in &file.parties {
                note(held.take_party(&tenant.party, path), path);
                let account = Held::SubAccount(tenant.sub_account.as_str());
                note(held.take(account, path, tenant.shared_sub_account), path);
            }
        }
        for (path, file) in &self.operators.files {
            for operator in &file.parties {
                note(held.take_party(&operator.party, path), path);
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
            files: BTreeMap::new(),
        }
    }

    /// Another folder is another beginning.
    fn follow(&mut self, path: Option<&Path>) {
        if self.path.as_deref() != path {
            *self = Self::at(path);
        }
    }

    fn list(&self) -> Option<Vec<PathBuf>> {
        let list = self.path.as_deref().map(party_files);
        list.map_or_else(|| Some(Vec::new()), Result::ok)
    }

    fn glance(&self, glance: &mut Glance) {
        let Some(path) = &self.path else {
            return;
        };
        let Some(list) = self.list() else {
            // What cannot be listed has not lost its files; nothing is known of them.
            if self.listed {
                glance.0.insert(path.as_path().into(), Look::NOTHING);
            }
            return;
        };
        if !self.listed {
            glance.0.insert(path.as_path().into(), Look::at(path));
        }
        // Both are sorted: one walk along the two.
        let mut known = self.files.iter().peekable();
        for path in &list {
            while let Some((gone, _)) = known.next_if(|(known, _)| ***known < **path) {
                glance.0.insert(gone.clone(), Look::NOTHING);
            }
            match known.next_if(|(known, _)| ***known == **path) {
                Some((_, file)) => glance.note(path, file.look, &file.secrets),
                None => {
                    glance.0.insert(path.as_path().into(), Look::at(path));
                }
            }
        }
        glance
            .0
            .extend(known.map(|(gone, _)| (gone.clone(), Look::NOTHING)));
    }

    fn read(
        &mut self,
        glance: &Glance,
        word: &'static str,
        by: By<'_>,
        mut read: impl FnMut(Reader<'_>, Sources<'_>, &mut Claims<Place>) -> Option<T>,
    ) {
        let list = self.list();
        self.listed = list.is_some();
        let list = list.unwrap_or_default();
        for path in glance.0.keys() {
            if list.binary_search_by(|listed| (**listed).cmp(path)).is_ok() {
                let file = PartyFile::read(path, word, by, &mut read);
                self.files.insert(path.clone(), file);
            } else if self.listed {
                self.files.remove(path);
            }
        }
    }

    fn parties(&self) -> Vec<Arc<T>> {
        let count = self.files.values().map(|file| file.parties.len()).sum();
        let mut parties = Vec::with_capacity(count);
        for file in self.files.values() {
            parties.extend(file.parties.iter().cloned());
        }
        parties
    }

    fn wrong(&self) -> impl Iterator<Item = PathBuf> {
        let wrong = self.files.iter().filter(|(_, file)| !file.fine);
        wrong.map(|(path, _)| path.to_path_buf())
    }

    /// Whatever these look like, it is news.
    fn forget(&mut self, files: &BTreeSet<PathBuf>) {
        for path in files {
            if let Some(file) = self.files.get_mut(path.as_path()) {
                file.look = Look::NOTHING;
            }
        }
    }
}

impl<T> PartyFile<T> {
    fn read(
        path: &Path,
        word: &'static str,
        by: By<'_>,
        mut read: impl FnMut(Reader<'_>, Sources<'_>, &mut Claims<Place>) -> Option<T>,
    ) -> Self {
        let look = Look::at(path);
        let reads = Reads::default();
        let reading = Reading::new(by.proxy_toml, by.env, &reads);
        let mut claims = Claims::default();
        let parties = reading.parties(&[path.to_owned()], word, |table, sources| {
            read(table, sources, &mut claims).map(Arc::new)
        });
        let fine = reading.problems.is_empty();
        Self {
            look,
            secrets: reads.into_seen(),
            parties: parties.into(),
            fine,
        }
    }
}

/// What one party holds and no other may.
#[derive(PartialEq, Eq, Hash)]
enum Held<'a> {
    Id(&'a str),
    SubAccount(&'a str),
    ClientId(&'a str),
    Secret([u8; 32]),
}

/// In which file each thing was seen first, and whether it may be shared.
struct Holders<'a>(HashMap<Held<'a>, (&'a Path, bool)>);

impl<'a> Holders<'a> {
    /// Gives the file that holds it already.
    fn take(&mut self, held: Held<'a>, path: &'a Path, shared: bool) -> Option<&'a Path> {
        match self.0.entry(held) {
            Entry::Vacant(entry) => {
                entry.insert((path, shared));
                None
            }
            Entry::Occupied(entry) => {
                let (other, may_be_shared) = *entry.get();
                (!(shared && may_be_shared)).then_some(other)
            }
        }
    }

    fn take_party(&mut self, party: &'a Party, path: &'a Path) -> Option<&'a Path> {
        let mut other = self.take(Held::Id(party.id.as_str()), path, false);
        for dated in &party.credentials {
            let Credential { client_id, key } = &dated.credential;
            let id = self.take(Held::ClientId(client_id.as_str()), path, false);
            let secret = self.take(Held::Secret(key.fingerprint()), path, false);
            other = other.or(id).or(secret);
        }
        other
    }
}

/// What a file looks like now, together with its secrets as far as they are known.
fn now(path: &Path, secrets: &[Seen]) -> Look {
    match Look::at(path) {
        Look::NOTHING => Look::NOTHING,
        look => look.and(secrets.iter().map(|secret| Look::at(&secret.path))),
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

    fn note(&mut self, path: &Path, look: Look, secrets: &[Seen]) {
        let now = now(path, secrets);
        if now != look.and(secrets.iter().map(|secret| secret.look)) {
            self.0.insert(path.into(), now);
        }
    }
}
