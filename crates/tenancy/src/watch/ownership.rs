//! Unique keys of parties, and the files that have the same one twice.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepay_core::Credential;

use crate::disk::party_files::in_folder;
use crate::model::operator::Operator;
use crate::model::party::{DatedCredential, Party};
use crate::model::tenant::Tenant;

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
}

impl UniqueKeys for Tenant {
    fn visit_keys<'a>(&'a self, mut visit: impl FnMut(UniqueKey<'a>, bool)) {
        let account = UniqueKey::SubAccount(self.sub_account.as_str());
        visit(account, self.shared_sub_account);
        visit_party_keys(&self.party, visit);
    }
}

impl UniqueKeys for Operator {
    fn visit_keys<'a>(&'a self, mut visit: impl FnMut(UniqueKey<'a>, bool)) {
        if self.notifications.is_some() {
            visit(UniqueKey::OperatorNotifications, false);
        }
        visit_party_keys(&self.party, visit);
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

/// A hash of everything they hold.
pub(super) fn key_hashes<T: UniqueKeys>(parties: &[Arc<T>], hasher: &RandomState) -> Box<[u64]> {
    let mut hashes = Vec::new();
    for party in parties {
        party.visit_keys(|held, _| hashes.push(hasher.hash_one(held)));
    }
    hashes.into()
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
