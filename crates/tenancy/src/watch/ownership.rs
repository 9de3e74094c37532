//! Unique keys of parties, and the files that have the same one twice.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepay_core::Credential;

use super::sorted::SortedHashes;
use crate::disk::party_files::in_folder;
use crate::model::operator::Operator;
use crate::model::party::{DatedCredential, Party};
use crate::model::tenant::Tenant;
use crate::threads::on_threads;

/// One thing that has one owner.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum UniqueKey<'a> {
    Id(&'a str),
    SubAccount(&'a str),
    ClientId(&'a str),
    Secret([u8; 32]),
    OperatorNotifications,
}

/// A tenant or an operator.
pub(super) trait UniqueKeys: AsRef<Party> + Send + Sync {
    /// Shows everything it holds, and whether that may be shared.
    fn visit_keys<'a>(&'a self, visit: impl FnMut(UniqueKey<'a>, bool));

    /// Whether its `admin_operators` have to be compared with `proxy.toml`.
    fn has_links(&self) -> bool;
}

impl UniqueKeys for Tenant {
    fn visit_keys<'a>(&'a self, mut visit: impl FnMut(UniqueKey<'a>, bool)) {
        let account = UniqueKey::SubAccount(self.sub_account.as_str());
        visit(account, self.shared_sub_account);
        visit_party_keys(&self.party, visit);
    }

    fn has_links(&self) -> bool {
        !self.admin_operators().is_empty()
    }
}

impl UniqueKeys for Operator {
    fn visit_keys<'a>(&'a self, mut visit: impl FnMut(UniqueKey<'a>, bool)) {
        if self.notifications.is_some() {
            visit(UniqueKey::OperatorNotifications, false);
        }
        visit_party_keys(&self.party, visit);
    }

    fn has_links(&self) -> bool {
        // Even one that names none: it may have to.
        true
    }
}

fn visit_party_keys<'a>(party: &'a Party, mut visit: impl FnMut(UniqueKey<'a>, bool)) {
    visit(UniqueKey::Id(party.id.as_str()), false);
    visit_credential_keys(&party.credentials, |held| visit(held, false));
}

pub(super) fn visit_credential_keys<'a>(
    credentials: &'a [DatedCredential],
    mut visit: impl FnMut(UniqueKey<'a>),
) {
    for dated in credentials {
        let Credential { client_id, key } = &dated.credential;
        visit(UniqueKey::ClientId(client_id.as_str()));
        visit(UniqueKey::Secret(key.fingerprint()));
    }
}

/// How many parties' hashes are in one list at first.
const HASHED_TOGETHER: usize = 512;
/// Fewer parties than this are hashed by one thread: that takes some milliseconds.
const HASHED_BY_A_THREAD: usize = 5_120;

/// A hash of each unique key of some parties.
#[derive(Default)]
pub(super) struct KeyHashes {
    /// Of keys with one owner.
    own: Vec<u64>,
    /// Of keys that may be shared among the parties that say so.
    shared: Vec<u64>,
}

impl KeyHashes {
    /// On several threads, since some keys take long to compute.
    pub(super) fn of<T: UniqueKeys>(parties: &[Arc<T>], hasher: &RandomState) -> Self {
        let parts: Vec<_> = parties.chunks(HASHED_TOGETHER).collect();
        let parts = on_threads(&parts, HASHED_BY_A_THREAD / HASHED_TOGETHER, |part| {
            let mut all = Self::default();
            for party in *part {
                party.visit_keys(|held, shared| {
                    let hashes = if shared {
                        &mut all.shared
                    } else {
                        &mut all.own
                    };
                    hashes.push(hasher.hash_one(held));
                });
            }
            all
        });
        Self {
            own: parts.iter().flat_map(|part| &part.own).copied().collect(),
            shared: parts
                .iter()
                .flat_map(|part| &part.shared)
                .copied()
                .collect(),
        }
    }
}

/// A hash of each unique key of all parties of a folder. Only keys whose hash is [`repeated`](Self::repeated) are compared
/// with each other.
#[derive(Default)]
pub(super) struct HeldKeys {
    own: SortedHashes,
    shared: SortedHashes,
}

impl HeldKeys {
    pub(super) fn exchange(&mut self, left: KeyHashes, came: KeyHashes) {
        self.own.exchange(left.own, came.own);
        self.shared.exchange(left.shared, came.shared);
    }

    /// The hashes of keys that have two owners, of whom at least one does not share.
    pub(super) fn repeated(&self) -> impl Iterator<Item = u64> {
        self.own.repeated().chain(self.shared.common(&self.own))
    }

    /// The hashes of keys that both have.
    pub(super) fn common(&self, other: &Self) -> impl Iterator<Item = u64> {
        let all = self.own.common(&other.own);
        let all = all.chain(self.own.common(&other.shared));
        let all = all.chain(self.shared.common(&other.own));
        all.chain(self.shared.common(&other.shared))
    }

    pub(super) fn contains(&self, hash: u64) -> bool {
        self.own.contains(hash) || self.shared.contains(hash)
    }
}

/// A file that holds something; the name is empty if the folder is the file.
#[derive(Clone, Copy)]
pub(super) struct KeyOwner<'a> {
    pub(super) folder: &'a Path,
    pub(super) name: &'a OsStr,
}

impl KeyOwner<'_> {
    pub(super) fn path(self) -> PathBuf {
        in_folder(self.folder, self.name)
    }
}

/// In which file each thing was seen first, and whether it may be shared.
#[derive(Default)]
pub(super) struct KeyOwners<'a>(HashMap<UniqueKey<'a>, (KeyOwner<'a>, bool)>);

impl<'a> KeyOwners<'a> {
    /// Notes the owner of a key, and adds the files that both have it.
    pub(super) fn take(
        &mut self,
        held: UniqueKey<'a>,
        by: KeyOwner<'a>,
        shared: bool,
        wrong: &mut BTreeSet<PathBuf>,
    ) {
        match self.0.entry(held) {
            Entry::Vacant(entry) => {
                entry.insert((by, shared));
            }
            Entry::Occupied(entry) => {
                let (other, may_be_shared) = *entry.get();
                if !(shared && may_be_shared) {
                    wrong.extend([other.path(), by.path()]);
                }
            }
        }
    }
}
