//! The files of tenants or operators: their changes, and the parties that were read from them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::RandomState;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ownership::{HeldKeys, KeyHashes, KeyOwner, UniqueKeys};
use super::sorted::insert_sorted;
use crate::disk::file_stamp::{FileStamp, FilesRead, StampedFile};
use crate::disk::party_files::{folder_of, in_folder, is_read, party_names};
use crate::files::restrictions;
use crate::files::secrets::{Environment, SecretSources};
use crate::load::ConfigReading;
use crate::model::party::PartyId;
use crate::model::restriction::Restrictions;
use crate::model::settings::SecretText;
use crate::syntax::table_reader::TableReader;
use crate::threads::{on_threads, on_threads_beside};

/// Fewer files than this are read by one thread: that takes a second, and each thread's heap keeps some memory.
const READ_BY_A_THREAD: usize = 20_000;
/// Fewer than this are looked at by one thread: that takes some milliseconds.
const SEEN_BY_A_THREAD: usize = 5_000;

/// The files of tenants or operators.
pub(super) struct PartyFolder<T> {
    /// None if there are no operators.
    path: Option<PathBuf>,
    pub(super) listed: bool,
    /// Sorted by name.
    files: Vec<PartyFile<T>>,
    /// The parties that the configuration in force has from files that are gone since, by the names of these: one may come
    /// back before the change is in force.
    owned_by_gone: BTreeMap<Box<OsStr>, Box<[PartyId]>>,
    /// Those of all files, sorted by id. While files are wrong, an id may be there several times.
    parties: Vec<Arc<T>>,
    pub(super) held_keys: HeldKeys,
    pub(super) work: FolderWork,
}

/// How many files were looked at and read, ever.
#[derive(Default)]
pub(super) struct FolderWork {
    pub(super) looked_at: AtomicU64,
    pub(super) read: u64,
}

impl FolderWork {
    fn look_at(&self, files: usize) {
        let files = u64::try_from(files).unwrap_or(u64::MAX);
        self.looked_at.fetch_add(files, Ordering::Relaxed);
    }
}

/// One of them, with the secrets it names. There may be a hundred thousand: nothing is written out twice.
pub(super) struct PartyFile<T> {
    /// The file's name within the folder; empty if the folder is the file itself.
    name: Box<OsStr>,
    /// The stamp of the file and its secrets together.
    stamp: FileStamp,
    /// The paths of its secrets, as the file names them.
    secrets: Box<[Box<Path>]>,
    pub(super) parties: Box<[Arc<T>]>,
    /// Of the tables that restrict their party, and of those from which no party was read. Most files have none.
    restrictions: Box<[Restrictions]>,
    /// The parties that the configuration in force has from this file, if the file was read again since; `None` if they
    /// are those in `parties`.
    owned_before: Option<Box<[PartyId]>>,
    /// Whether nothing is wrong with it by itself.
    is_valid: bool,
    /// Whether one of its parties has links that each reload checks: few have any.
    pub(super) has_links: bool,
}

/// The changes of a folder since it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FolderChanges {
    /// Whether it can be listed, if that is news.
    listed: Option<bool>,
    /// Sorted by name; each with its present stamp, unless it is gone.
    files: Vec<(Box<OsStr>, Option<FileStamp>)>,
}

/// On how many threads files are looked at.
#[derive(Clone, Copy)]
pub(super) enum StatThreads {
    One,
    AsManyAsPay,
}

/// The context of reading a file.
#[derive(Clone, Copy)]
pub(super) struct ReadInputs<'a> {
    pub(super) proxy_toml: &'a Path,
    pub(super) env: &'a Environment<'a>,
    pub(super) hasher: &'a RandomState,
    pub(super) secret_text: SecretText,
}

impl FolderChanges {
    /// How many files differ, and one more if the folder does.
    pub(super) fn len(&self) -> usize {
        self.files.len() + usize::from(self.listed.is_some())
    }
}

impl<T: UniqueKeys> PartyFolder<T> {
    pub(super) fn at(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_owned),
            listed: path.is_none(),
            files: Vec::new(),
            owned_by_gone: BTreeMap::new(),
            parties: Vec::new(),
            held_keys: HeldKeys::default(),
            work: FolderWork::default(),
        }
    }

    /// Another folder is another beginning, of which nothing was seen yet. Says whether it is another. Another path to
    /// the same folder is not.
    pub(super) fn follow(&mut self, path: Option<&Path>) -> bool {
        if self.path.as_deref() == path {
            return false;
        }
        let real = |path: Option<&Path>| path.and_then(|path| fs::canonicalize(path).ok());
        let before = real(self.path.as_deref());
        if before.is_some() && before == real(path) {
            self.path = path.map(Path::to_owned);
            return false;
        }
        *self = Self::at(path);
        true
    }

    /// Everything there is, without looking at it: for the first reading, which looks for itself.
    pub(super) fn unread(&self) -> FolderChanges {
        let Some(Ok(names)) = self.path.as_deref().map(party_names) else {
            return FolderChanges::default();
        };
        let names = names
            .into_iter()
            .map(|name| (name.into(), Some(FileStamp::NOTHING)));
        FolderChanges {
            listed: Some(true),
            files: names.collect(),
        }
    }

    pub(super) fn changes(&self, threads: StatThreads) -> FolderChanges {
        let Some(folder) = self.path.as_deref() else {
            return FolderChanges::default();
        };
        let least = match threads {
            StatThreads::One => usize::MAX,
            StatThreads::AsManyAsPay => SEEN_BY_A_THREAD,
        };
        let look = |known: &PartyFile<T>| present_stamp(folder, &known.name, &known.secrets);
        let (names, stamps) = on_threads_beside(&self.files, least, look, || party_names(folder));
        self.work.look_at(self.files.len());
        let Ok(names) = names else {
            return self.changes_of_known_files(&stamps);
        };
        // Both are sorted: one walk along the two.
        let mut known = self.files.iter().zip(stamps).peekable();
        let mut files = Vec::new();
        let gone = |(known, _): (&PartyFile<T>, _)| (known.name.clone(), None);
        for name in names {
            while let Some(known) = known.next_if(|(known, _)| *known.name < *name) {
                files.push(gone(known));
            }
            match known.next_if(|(known, _)| *known.name == *name) {
                Some((known, stamp)) if known.stamp == stamp => {}
                Some((known, stamp)) => files.push((known.name.clone(), Some(stamp))),
                None => {
                    self.work.look_at(1);
                    let stamp = present_stamp(folder, &name, &[]);
                    files.push((name.into(), Some(stamp)));
                }
            }
        }
        files.extend(known.map(gone));
        FolderChanges {
            listed: (!self.listed).then_some(true),
            files,
        }
    }

    /// The changes of files that hints name: by their own names, or by those of their secrets.
    pub(super) fn hinted_changes(&self, hinted: &BTreeSet<PathBuf>) -> FolderChanges {
        let Some(folder) = self.path.as_deref() else {
            return FolderChanges::default();
        };
        let mut changed = BTreeMap::new();
        let mut gone = Vec::new();
        let names = self.names_of(folder, hinted);
        self.work.look_at(names.len());
        for name in names {
            let known = self.place_of(&name).ok().map(|at| &self.files[at]);
            let secrets = known.map(|known| &*known.secrets);
            let stamp = present_stamp(folder, &name, secrets.unwrap_or_default());
            if stamp == FileStamp::NOTHING {
                gone.push(name);
            } else if known.is_none_or(|known| known.stamp != stamp) {
                changed.insert(name, Some(stamp));
            }
        }
        // A file that cannot be looked at is gone only if the folder can be listed without it.
        if !gone.is_empty()
            && let Ok(names) = party_names(folder)
        {
            for name in gone {
                let stamp = self.place_of(&name).ok().map(|at| self.files[at].stamp);
                let exists = names.binary_search_by(|other| (**other).cmp(&name)).is_ok();
                let look = exists.then_some(FileStamp::NOTHING);
                if look != stamp {
                    changed.insert(name, look);
                }
            }
        }
        FolderChanges {
            listed: None,
            files: changed.into_iter().collect(),
        }
    }

    /// The names of the files that are meant by these paths, sorted.
    fn names_of(&self, folder: &Path, hinted: &BTreeSet<PathBuf>) -> BTreeSet<Box<OsStr>> {
        let mut names = BTreeSet::new();
        let mut secrets = HashSet::new();
        let base = self.base(folder);
        for path in hinted {
            let name = path.strip_prefix(folder).map(Path::as_os_str);
            match name {
                Ok(name) if name.is_empty() => {
                    // Perhaps the folder is the file itself.
                    if fs::metadata(folder).is_ok_and(|it| it.is_file()) {
                        names.insert(Box::from(name));
                    }
                }
                Ok(name) if is_read(name) && path.parent() == Some(folder) => {
                    names.insert(Box::from(name));
                }
                _ => _ = secrets.insert(path.strip_prefix(base).unwrap_or(path).as_os_str()),
            }
        }
        if !secrets.is_empty() {
            let files = self.files.iter().filter(|file| {
                let mut named = file.secrets.iter();
                named.any(|secret| secrets.contains(secret.as_os_str()))
            });
            names.extend(files.map(|file| file.name.clone()));
        }
        names
    }

    /// The folders of which events are hints: the one of the files, and those of their secrets.
    pub(super) fn event_folders(&self) -> Vec<PathBuf> {
        self.event_folders_of(self.files.iter())
    }

    /// The same after a change, with the folders of the changed files' secrets.
    pub(super) fn changed_event_folders(&self, changes: &FolderChanges) -> Vec<PathBuf> {
        let files = changes.files.iter();
        let files = files.filter_map(|(name, _)| Some(&self.files[self.place_of(name).ok()?]));
        self.event_folders_of(files)
    }

    fn event_folders_of<'f>(
        &'f self,
        files: impl Iterator<Item = &'f PartyFile<T>>,
    ) -> Vec<PathBuf> {
        let Some(folder) = self.path.as_deref() else {
            return Vec::new();
        };
        // If the folder is the one file, only the folder above it can be watched.
        let mut folders = vec![folder.to_owned(), folder_of(folder).to_owned()];
        // A hundred thousand secrets are in few folders, and neighbors mostly in the same one.
        let mut secret_folders = BTreeSet::new();
        let mut last = None;
        for secret in files.flat_map(|file| &file.secrets) {
            let secret_folder = folder_of(secret).as_os_str();
            if last != Some(secret_folder) {
                last = Some(secret_folder);
                secret_folders.insert(secret_folder);
            }
        }
        let base = self.base(folder);
        for secret_folder in secret_folders {
            folders.push(in_folder(base, secret_folder));
        }
        folders
    }

    /// The folder that the paths of secrets are relative to.
    fn base<'p>(&self, folder: &'p Path) -> &'p Path {
        match self.files.first() {
            Some(file) if file.name.is_empty() => folder_of(folder),
            _ => folder,
        }
    }

    /// The changes of a folder that cannot be listed. It has not lost its files, so a file that cannot be found is no
    /// change, but a file that can be read may suspend its party.
    fn changes_of_known_files(&self, stamps: &[FileStamp]) -> FolderChanges {
        let present = self.files.iter().zip(stamps.iter().copied());
        let changed =
            present.filter(|(known, stamp)| *stamp != FileStamp::NOTHING && *stamp != known.stamp);
        FolderChanges {
            listed: self.listed.then_some(false),
            files: changed
                .map(|(known, stamp)| (known.name.clone(), Some(stamp)))
                .collect(),
        }
    }

    /// Those of the changes that still have the same stamps.
    pub(super) fn settled(&self, changes: &FolderChanges) -> FolderChanges {
        let Some(folder) = self.path.as_deref() else {
            return FolderChanges::default();
        };
        self.work.look_at(changes.files.len());
        let is_listed = |listed: &bool| party_names(folder).is_ok() == *listed;
        let is_settled = |(name, stamp): &&(Box<OsStr>, Option<FileStamp>)| {
            let known = self.place_of(name);
            let secrets = known.map_or(&[][..], |at| &self.files[at].secrets);
            present_stamp(folder, name, secrets) == stamp.unwrap_or(FileStamp::NOTHING)
        };
        FolderChanges {
            listed: changes.listed.filter(is_listed),
            files: changes.files.iter().filter(is_settled).cloned().collect(),
        }
    }

    /// Reads the changed files. Each file is looked at anew when it is opened.
    pub(super) fn read(
        &mut self,
        differ: &FolderChanges,
        word: &'static str,
        by: ReadInputs<'_>,
        read: impl Fn(TableReader<'_>, SecretSources<'_>) -> Option<T> + Sync,
    ) {
        self.listed = differ.listed.unwrap_or(self.listed);
        let Some(folder) = self.path.as_deref() else {
            return;
        };
        let here = differ.files.iter().filter(|(_, look)| look.is_some());
        let here: Vec<&OsStr> = here.map(|(name, _)| &**name).collect();
        self.work.read += u64::try_from(here.len()).unwrap_or(u64::MAX);
        let known = &*self;
        let files = on_threads(&here, READ_BY_A_THREAD, |name| {
            let owned = match known.place_of(name) {
                Ok(at) => Some(known.files[at].owned().cloned().collect()),
                Err(_) => known.owned_by_gone.get(*name).cloned(),
            };
            PartyFile {
                owned_before: Some(owned.unwrap_or_default()),
                ..PartyFile::read(folder, name, word, by, &read)
            }
        });
        let came = parties_of(&files);
        for file in &files {
            self.owned_by_gone.remove(&file.name);
        }
        let gone = differ.files.iter().filter(|(_, look)| look.is_none());
        let left = self.exchange_files(files, gone.map(|(name, _)| &**name));
        let left = parties_of(&left);
        self.held_keys.exchange(
            KeyHashes::of(&left, by.hasher),
            KeyHashes::of(&came, by.hasher),
        );
        self.exchange_parties(&left, came);
    }

    /// Puts in files that were read, takes out those by these names, and returns the ones that were there before.
    fn exchange_files<'n>(
        &mut self,
        came: Vec<PartyFile<T>>,
        gone: impl Iterator<Item = &'n OsStr>,
    ) -> Vec<PartyFile<T>> {
        if self.files.is_empty() {
            // The first reading: nothing is moved.
            insert_sorted(&mut self.files, came, |one, other| {
                one.name.cmp(&other.name)
            });
            return Vec::new();
        }
        let (mut left, mut new) = (Vec::new(), Vec::new());
        for file in came {
            match self.place_of(&file.name) {
                Ok(at) => left.push(mem::replace(&mut self.files[at], file)),
                Err(_) => new.push(file),
            }
        }
        let gone: BTreeSet<usize> = gone.filter_map(|name| self.place_of(name).ok()).collect();
        if !gone.is_empty() {
            let mut places = 0..;
            let is_gone = |_: &mut _| places.next().is_some_and(|at| gone.contains(&at));
            let gone: Vec<_> = self.files.extract_if(.., is_gone).collect();
            for file in gone.iter().filter(|file| file.owned().next().is_some()) {
                let owned = file.owned().cloned().collect();
                self.owned_by_gone.insert(file.name.clone(), owned);
            }
            left.extend(gone);
        }
        insert_sorted(&mut self.files, new, |one, other| one.name.cmp(&other.name));
        left
    }

    fn exchange_parties(&mut self, left: &[Arc<T>], came: Vec<Arc<T>>) {
        if !left.is_empty() {
            let left: HashSet<*const T> = left.iter().map(Arc::as_ptr).collect();
            self.parties
                .retain(|party| !left.contains(&Arc::as_ptr(party)));
        }
        insert_sorted(&mut self.parties, came, |one, other| {
            let [one, other] = [one, other].map(PartyFile::id);
            one.cmp(other)
        });
    }

    fn place_of(&self, name: &OsStr) -> Result<usize, usize> {
        self.files.binary_search_by(|file| (*file.name).cmp(name))
    }

    pub(super) fn key_owners(&self) -> impl Iterator<Item = (&PartyFile<T>, KeyOwner<'_>)> {
        let folder = self.path.as_deref().unwrap_or(Path::new(""));
        let files = self.files.iter();
        files.map(move |file| {
            let name = &file.name;
            (file, KeyOwner { folder, name })
        })
    }

    /// The parties of all files, sorted by id.
    pub(super) fn parties(&self) -> Vec<Arc<T>> {
        self.parties.clone()
    }

    /// The parties of the files as they are read now are in force.
    pub(super) fn now_in_force(&mut self) {
        self.owned_by_gone.clear();
        // A look at each is enough: writing to all takes longer.
        for file in self
            .files
            .iter_mut()
            .filter(|file| file.owned_before.is_some())
        {
            file.owned_before = None;
        }
    }

    /// The restrictions of parties in force, also of tables that have problems.
    ///
    /// A party is restricted by its own file, the one it was loaded from. Another file with the same id is a mistake, such
    /// as a copy with the id still to be edited, and restricts the party only once its own file no longer names it.
    pub(super) fn restrictions(&self) -> Vec<&Restrictions> {
        let (mut valid, mut elsewhere) = (Vec::new(), Vec::new());
        for file in self.files.iter().filter(|file| file.restricts()) {
            let owned: HashSet<_> = file.owned().collect();
            let restrictions = file.restrictions.iter().filter(|it| it.restricts());
            let (own, other): (Vec<_>, Vec<_>) =
                restrictions.partition(|it| owned.contains(&it.id));
            valid.extend(own);
            elsewhere.extend(other);
        }
        let ids: HashSet<_> = elsewhere.iter().map(|it| &it.id).collect();
        let files = self.files.iter().filter(|_| !ids.is_empty());
        let with_own_file: HashSet<_> = files
            .flat_map(|file| {
                let owned: HashSet<_> = file.owned().filter(|id| ids.contains(id)).collect();
                file.named().filter(move |id| owned.contains(id))
            })
            .collect();
        elsewhere.retain(|it| !with_own_file.contains(&it.id));
        valid.append(&mut elsewhere);
        valid
    }

    pub(super) fn invalid_files(&self) -> impl Iterator<Item = PathBuf> {
        let wrong = self.key_owners().filter(|(file, _)| !file.is_valid);
        wrong.map(|(_, by)| by.path())
    }

    /// Marks these files as changed.
    pub(super) fn forget(&mut self, files: &BTreeSet<PathBuf>) {
        let Some(folder) = self.path.as_deref() else {
            return;
        };
        for file in &mut self.files {
            if files.contains(&in_folder(folder, &file.name)) {
                file.stamp = FileStamp::NOTHING;
            }
        }
    }
}

fn parties_of<T>(files: &[PartyFile<T>]) -> Vec<Arc<T>> {
    let count = files.iter().map(|file| file.parties.len()).sum();
    let mut parties = Vec::with_capacity(count);
    for file in files {
        parties.extend(file.parties.iter().cloned());
    }
    parties
}

impl<T: UniqueKeys> PartyFile<T> {
    /// Whether a table of the file takes a right away.
    fn restricts(&self) -> bool {
        self.restrictions.iter().any(Restrictions::restricts)
    }

    /// The parties that the configuration in force has from this file.
    fn owned(&self) -> impl Iterator<Item = &PartyId> {
        let before = self.owned_before.iter().flatten();
        let still = self.owned_before.is_none().then_some(&self.parties);
        before.chain(still.into_iter().flatten().map(Self::id))
    }

    fn id(party: &Arc<T>) -> &PartyId {
        &T::as_ref(party).id
    }

    /// The parties that the file names now. A party may come twice.
    fn named(&self) -> impl Iterator<Item = &PartyId> {
        let read = self.parties.iter().map(Self::id);
        read.chain(self.restrictions.iter().map(|it| &it.id))
    }

    fn read(
        folder: &Path,
        name: &OsStr,
        word: &'static str,
        by: ReadInputs<'_>,
        read: impl Fn(TableReader<'_>, SecretSources<'_>) -> Option<T>,
    ) -> Self {
        let path = in_folder(folder, name);
        let reads = FilesRead::default();
        let reading = ConfigReading::new(by.proxy_toml, by.env, &reads);
        reading.secret_text.set(by.secret_text);
        let mut stated = Vec::new();
        let parties = reading.parties(std::slice::from_ref(&path), word, |table, sources| {
            let restrictions = restrictions::read(&table);
            let party = read(table, sources).map(Arc::new);
            stated.extend(restrictions.filter(|it| it.restricts() || party.is_none()));
            party
        });
        let fine = reading.problems.is_empty();
        let (look, seen) = reads.into_seen();
        let stamp = look.and(seen.iter().map(|secret| secret.stamp));
        let beside = |secret: StampedFile| match secret.path.strip_prefix(folder_of(&path)) {
            Ok(name) => name.into(),
            Err(_) => secret.path,
        };
        Self {
            name: name.into(),
            stamp,
            // Each path is freed once it is made: one file may have a hundred thousand.
            secrets: seen.into_iter().map(beside).collect(),
            has_links: parties.iter().any(|party| party.has_links()),
            parties: parties.into(),
            restrictions: stated.into(),
            owned_before: None,
            is_valid: fine,
        }
    }
}

/// The present stamp of a file together with its known secrets.
fn present_stamp(folder: &Path, name: &OsStr, secrets: &[Box<Path>]) -> FileStamp {
    let path = in_folder(folder, name);
    let beside = folder_of(&path);
    combined_stamp(&path, secrets.iter().map(|secret| beside.join(secret)))
}

pub(super) fn combined_stamp(
    path: &Path,
    secrets: impl Iterator<Item = impl AsRef<Path>>,
) -> FileStamp {
    match FileStamp::at(path) {
        FileStamp::NOTHING => FileStamp::NOTHING,
        look => look.and(secrets.map(|secret| FileStamp::at(secret.as_ref()))),
    }
}
