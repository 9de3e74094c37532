//! All tenants and operators, found by client id.

use std::hash::BuildHasher as _;
use std::num::NonZeroU32;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::model::claims::{UniqueClaim, UniqueClaims};
use crate::model::notifications::TenantNotifications;
use crate::model::operator::Operator;
use crate::model::party::{DatedCredential, Party, PartyId};
use crate::model::restriction::Restrictions;
use crate::model::settings::MetricsSettings;
use crate::model::tenant::Tenant;

/// If more than this part of the parties differ, a registry is indexed from nothing.
const PATCHED_PART: usize = 8;

/// All tenants and operators: immutable, built whole or not at all.
#[derive(Default)]
pub struct Registry {
    tenants: Vec<Arc<Tenant>>,
    operators: Vec<Arc<Operator>>,
    /// Neither table copies its keys: copies for 100,000 tenants would take 10 MB.
    by_client_id: HashTable<CredentialEntry>,
    by_account: HashTable<u32>,
    /// Keys come from configuration and callers only look up, so a caller cannot cause collisions.
    hasher: RandomState,
}

/// A credential: its owner, the owner's position, and the credential's index. The party and its credentials are
/// stored again, though the position leads to them: a request then misses the cache once instead of three times.
#[derive(Clone)]
struct CredentialEntry {
    party: SharedParty,
    credentials: Arc<[DatedCredential]>,
    position: u32,
    credential: u32,
}

/// The differences between a registry and the one before it. The parties of both are sorted by id, so those that both
/// share come in the same order.
struct PartyMoves {
    /// The positions before of parties that are not shared, ascending.
    left: Vec<usize>,
    /// The present positions of parties that are not shared, ascending.
    came: Vec<usize>,
    /// The present position of each party that is shared, by its position before.
    present: Vec<u32>,
}

/// A [`PartyRef`] with shared ownership.
#[derive(Clone)]
enum SharedParty {
    Tenant(Arc<Tenant>),
    Operator(Arc<Operator>),
}

/// A credential found by its client id, and its owner. Validity dates and standing are not checked.
#[derive(Clone, Copy)]
pub struct CredentialMatch<'a> {
    /// The owner.
    pub owner: PartyRef<'a>,
    /// The credential with this client id.
    pub credential: &'a DatedCredential,
    /// The owner's index in [`Registry::parties`], for tables kept beside the registry.
    pub position: usize,
    /// The credential's index among the owner's credentials.
    pub credential_index: usize,
}

/// A tenant or an operator.
#[derive(Clone, Copy)]
pub enum PartyRef<'a> {
    /// One of the institution's customers.
    Tenant(&'a Arc<Tenant>),
    /// The institution's own back office.
    Operator(&'a Arc<Operator>),
}

impl CredentialEntry {
    fn new(party: PartyRef<'_>, position: usize, credential: usize) -> Self {
        Self {
            party: SharedParty::of(party),
            credentials: Arc::clone(&party.party().credentials),
            position: place(position),
            credential: place(credential),
        }
    }

    fn dated(&self) -> &DatedCredential {
        &self.credentials[self.credential as usize]
    }
}

impl PartyMoves {
    fn between(before: &Registry, now: &Registry) -> Self {
        const GONE: u32 = u32::MAX;
        let (mut present, mut came) = (vec![GONE; before.len()], Vec::new());
        for (position, origin) in now.positions_in(before).into_iter().enumerate() {
            match origin {
                Some(origin) => present[origin] = place(position),
                None => came.push(position),
            }
        }
        let left = (0..before.len()).filter(|origin| present[*origin] == GONE);
        Self {
            left: left.collect(),
            came,
            present,
        }
    }

    /// Whether a shared party has another position than before.
    fn shift(&self) -> bool {
        self.left != self.came
    }
}

impl SharedParty {
    fn of(party: PartyRef<'_>) -> Self {
        match party {
            PartyRef::Tenant(tenant) => Self::Tenant(Arc::clone(tenant)),
            PartyRef::Operator(operator) => Self::Operator(Arc::clone(operator)),
        }
    }

    fn borrow(&self) -> PartyRef<'_> {
        match self {
            Self::Tenant(tenant) => PartyRef::Tenant(tenant),
            Self::Operator(operator) => PartyRef::Operator(operator),
        }
    }
}

impl<'a> PartyRef<'a> {
    /// The common part.
    pub fn party(self) -> &'a Party {
        match self {
            Self::Tenant(tenant) => &tenant.party,
            Self::Operator(operator) => &operator.party,
        }
    }

    /// Its share of the institution's quota, relative to the others': an operator counts as one tenant.
    pub fn weight(self) -> NonZeroU32 {
        match self {
            Self::Tenant(tenant) => tenant.weight,
            Self::Operator(_) => NonZeroU32::MIN,
        }
    }

    /// How notifications are delivered to it.
    pub fn notifications(self) -> Option<&'a Arc<TenantNotifications>> {
        match self {
            Self::Tenant(tenant) => tenant.notifications(),
            Self::Operator(operator) => operator.notifications.as_ref(),
        }
    }

    /// The names of the `[[admin.operator]]` that hold its secret, and so approve none of its calls; `None` if an operator's file
    /// does not say.
    pub fn admin_operators(self) -> Option<&'a [PartyId]> {
        match self {
            Self::Tenant(tenant) => Some(tenant.admin_operators()),
            Self::Operator(operator) => operator.admin_operators.as_deref(),
        }
    }

    /// `tenant` or `operator`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Operator(_) => "operator",
        }
    }
}

/// Two owners share a value that must be unique.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} have the same {what}")]
pub struct RegistryConflict {
    /// The shared value's name.
    pub what: &'static str,
    /// The first owner.
    pub first: String,
    /// The second owner.
    pub second: String,
}

impl Registry {
    /// Indexes parties that were made in this process, by the same rules as [`load()`](crate::load()) has for files.
    pub fn new(
        tenants: Vec<Tenant>,
        operators: Vec<Operator>,
        institution: &[DatedCredential],
    ) -> Result<Self, Vec<RegistryConflict>> {
        let registry = Self::index(
            tenants.into_iter().map(Arc::new).collect(),
            operators.into_iter().map(Arc::new).collect(),
        );
        let mut claims = UniqueClaims::default();
        for dated in institution {
            let credential = &dated.credential;
            let owner = || "the institution".to_owned();
            let id = || UniqueClaim::ClientId(credential.client_id.clone());
            claims.stake(id, owner);
            claims.stake(|| UniqueClaim::Secret(credential.key.fingerprint()), owner);
        }
        let mut conflicts = Vec::new();
        for party_ref in registry.parties() {
            let party = party_ref.party();
            let owner = format!("{} {}", party_ref.word(), party.id);
            let mut conflict = |what, first: Option<&String>| {
                conflicts.extend(first.map(|first| RegistryConflict {
                    what,
                    first: first.clone(),
                    second: owner.clone(),
                }));
            };
            let owned = || owner.clone();
            let id = || UniqueClaim::Id(party.id.clone());
            conflict("id", claims.stake(id, owned));
            if let PartyRef::Operator(operator) = party_ref
                && operator.notifications.is_some()
            {
                let claim = || UniqueClaim::OperatorNotifications;
                conflict("notifications", claims.stake(claim, owned));
            }
            if let PartyRef::Tenant(tenant) = party_ref {
                let shared = tenant.shared_sub_account;
                let other = claims.stake_account(&tenant.sub_account, owned, shared);
                conflict("sub-account", other);
            }
            for dated in party.credentials.iter() {
                let credential = &dated.credential;
                let id = || UniqueClaim::ClientId(credential.client_id.clone());
                conflict("client id", claims.stake(id, owned));
                let secret = || UniqueClaim::Secret(credential.key.fingerprint());
                conflict("secret", claims.stake(secret, owned));
            }
        }
        if conflicts.is_empty() {
            Ok(registry)
        } else {
            Err(conflicts)
        }
    }

    /// The parties with metric series of their own, by position: pinned ones, then tenants and operators by id, up to `max_tenants`. It
    /// follows from configuration alone, so that no traffic can make a series.
    pub fn own_series(&self, metrics: &MetricsSettings) -> Vec<bool> {
        let mut own = vec![false; self.len()];
        let pinned = metrics.pinned.iter();
        for position in pinned.filter_map(|id| self.position(id.as_str())) {
            own[position] = true;
        }
        let named = own.iter().filter(|own| **own).count();
        let left = metrics.max_tenants.saturating_sub(named);
        for own in own.iter_mut().filter(|own| !**own).take(left) {
            *own = true;
        }
        own
    }

    /// Sorts and indexes parties; the caller checks that their ids and keys are unique.
    pub(crate) fn index(mut tenants: Vec<Arc<Tenant>>, mut operators: Vec<Arc<Operator>>) -> Self {
        tenants.sort_by(|one, other| one.party.id.cmp(&other.party.id));
        operators.sort_by(|one, other| one.party.id.cmp(&other.party.id));
        let mut registry = Self {
            tenants,
            operators,
            ..Self::default()
        };
        let hash_of = |text: &str| registry.hasher.hash_one(text);
        let credentials = registry
            .parties()
            .map(|party| party.party().credentials.len());
        let mut by_client_id = HashTable::with_capacity(credentials.sum());
        for (position, party) in registry.parties().enumerate() {
            for (credential, dated) in party.party().credentials.iter().enumerate() {
                let entry = CredentialEntry::new(party, position, credential);
                let hash = hash_of(dated.credential.client_id.as_str());
                // The capacity is exact, so no entry is rehashed.
                by_client_id.insert_unique(hash, entry, |_| hash);
            }
        }
        let mut by_account = HashTable::with_capacity(registry.tenants.len());
        for (position, tenant) in registry.tenants.iter().enumerate() {
            let hash = hash_of(tenant.sub_account.as_str());
            by_account.insert_unique(hash, place(position), |_| hash);
        }
        registry.by_client_id = by_client_id;
        registry.by_account = by_account;
        registry
    }

    /// As [`index`](Self::index), of parties that are sorted by id and mostly those of a registry before: its tables are
    /// copied, and only the entries of the other parties are looked up. With a hundred thousand parties that takes a
    /// third of the time.
    pub(crate) fn following(
        before: &Self,
        tenants: Vec<Arc<Tenant>>,
        operators: Vec<Arc<Operator>>,
    ) -> Self {
        let mut registry = Self {
            tenants,
            operators,
            hasher: before.hasher.clone(),
            ..Self::default()
        };
        let moves = PartyMoves::between(before, &registry);
        if moves.left.len() + moves.came.len() > before.len() / PATCHED_PART {
            return Self::index(registry.tenants, registry.operators);
        }
        let by_client_id = registry.patched_client_ids(before, &moves);
        let by_account = registry.patched_accounts(before, &moves);
        let (Some(by_client_id), Some(by_account)) = (by_client_id, by_account) else {
            return Self::index(registry.tenants, registry.operators);
        };
        registry.by_client_id = by_client_id;
        registry.by_account = by_account;
        registry
    }

    /// `None` if an entry that has to go is not found: no entry may stay without its party.
    fn patched_client_ids(
        &self,
        before: &Self,
        moves: &PartyMoves,
    ) -> Option<HashTable<CredentialEntry>> {
        let hash_of = |text: &str| self.hasher.hash_one(text);
        let mut by_client_id = before.by_client_id.clone();
        for position in moves.left.iter().copied() {
            for (index, dated) in before.at(position).party().credentials.iter().enumerate() {
                let hash = hash_of(dated.credential.client_id.as_str());
                let is_it = |entry: &CredentialEntry| {
                    (entry.position, entry.credential) == (place(position), place(index))
                };
                by_client_id.find_entry(hash, is_it).ok()?.remove();
            }
        }
        if moves.shift() {
            for entry in &mut by_client_id {
                entry.position = moves.present[entry.position as usize];
            }
        }
        for position in moves.came.iter().copied() {
            let party = self.at(position);
            for (index, dated) in party.party().credentials.iter().enumerate() {
                let hash = hash_of(dated.credential.client_id.as_str());
                let entry = CredentialEntry::new(party, position, index);
                by_client_id.insert_unique(hash, entry, |entry| {
                    hash_of(entry.dated().credential.client_id.as_str())
                });
            }
        }
        Some(by_client_id)
    }

    /// `None` as in [`patched_client_ids`](Self::patched_client_ids).
    fn patched_accounts(&self, before: &Self, moves: &PartyMoves) -> Option<HashTable<u32>> {
        let hash_of = |tenant: &Tenant| self.hasher.hash_one(tenant.sub_account.as_str());
        let mut by_account = before.by_account.clone();
        let left = moves.left.iter().copied();
        for position in left.take_while(|position| *position < before.tenants.len()) {
            let hash = hash_of(&before.tenants[position]);
            let entry = by_account.find_entry(hash, |other| *other == place(position));
            entry.ok()?.remove();
        }
        if moves.shift() {
            for position in &mut by_account {
                *position = moves.present[*position as usize];
            }
        }
        let came = moves.came.iter().copied();
        for position in came.take_while(|position| *position < self.tenants.len()) {
            let hash = hash_of(&self.tenants[position]);
            by_account.insert_unique(hash, place(position), |other| {
                hash_of(&self.tenants[*other as usize])
            });
        }
        Some(by_account)
    }

    /// For each party, by position: its position in a registry before, if it is the same one in memory there.
    pub fn positions_in(&self, before: &Self) -> Vec<Option<usize>> {
        let mut positions = Vec::with_capacity(self.len());
        positions.extend(shared_positions(&before.tenants, &self.tenants));
        let operators = shared_positions(&before.operators, &self.operators);
        positions.extend(operators.map(|at| Some(before.tenants.len() + at?)));
        positions
    }

    fn len(&self) -> usize {
        self.tenants.len() + self.operators.len()
    }

    /// The same registry with fewer rights: the tenants and the operators that these restrictions name lose the rights
    /// that these take away. `None` if no party has more than they leave.
    pub(crate) fn restricted<'a>(
        &self,
        tenants: impl IntoIterator<Item = &'a Restrictions>,
        operators: impl IntoIterator<Item = &'a Restrictions>,
    ) -> Option<Self> {
        let tenants = fewer_rights(&self.tenants, tenants, Tenant::restricted);
        let operators = fewer_rights(&self.operators, operators, Operator::restricted);
        if tenants.is_none() && operators.is_none() {
            return None;
        }
        Some(Self::following(
            self,
            tenants.unwrap_or_else(|| self.tenants.clone()),
            operators.unwrap_or_else(|| self.operators.clone()),
        ))
    }

    /// The position of a party in [`parties`](Self::parties), by name.
    pub fn position(&self, id: &str) -> Option<usize> {
        let tenant = |tenant: &Arc<Tenant>| tenant.party.id.as_str().cmp(id);
        let operator = |operator: &Arc<Operator>| operator.party.id.as_str().cmp(id);
        let at = self.tenants.binary_search_by(tenant).ok();
        at.or_else(|| {
            let at = self.operators.binary_search_by(operator).ok();
            at.map(|at| self.tenants.len() + at)
        })
    }

    /// The owner of a client id, by one hash look-up.
    pub fn find(&self, client_id: &str) -> Option<CredentialMatch<'_>> {
        let hash = self.hasher.hash_one(client_id);
        let named =
            |entry: &CredentialEntry| entry.dated().credential.client_id.as_str() == client_id;
        let entry = self.by_client_id.find(hash, named)?;
        Some(CredentialMatch {
            owner: entry.party.borrow(),
            credential: entry.dated(),
            position: entry.position as usize,
            credential_index: entry.credential as usize,
        })
    }

    /// The party at a position in [`parties`](Self::parties).
    ///
    /// # Panics
    /// If there is no such position.
    pub fn at(&self, position: usize) -> PartyRef<'_> {
        match self.tenants.get(position) {
            Some(tenant) => PartyRef::Tenant(tenant),
            None => PartyRef::Operator(&self.operators[position - self.tenants.len()]),
        }
    }

    /// All tenants, sorted by id.
    pub fn tenants(&self) -> &[Arc<Tenant>] {
        &self.tenants
    }

    /// All operators, sorted by id.
    pub fn operators(&self) -> &[Arc<Operator>] {
        &self.operators
    }

    /// The operator that gets the notifications about the institution itself.
    pub fn notified_operator(&self) -> Option<&Arc<Operator>> {
        let mut operators = self.operators.iter();
        operators.find(|operator| operator.notifications.is_some())
    }

    /// All parties: the tenants, then the operators. The index of each is its [`CredentialMatch::position`].
    pub fn parties(&self) -> impl Iterator<Item = PartyRef<'_>> {
        let tenants = self.tenants.iter().map(PartyRef::Tenant);
        tenants.chain(self.operators.iter().map(PartyRef::Operator))
    }

    /// Whether some tenant acts for this sub-account.
    pub fn knows_account(&self, account: &str) -> bool {
        self.tenants_of(account).next().is_some()
    }

    /// The tenants that act for this sub-account: one, unless they share it.
    pub fn tenants_of(&self, account: &str) -> impl Iterator<Item = &Arc<Tenant>> {
        let hash = self.hasher.hash_one(account);
        let near = self.by_account.iter_hash(hash);
        near.map(|at| &self.tenants[*at as usize])
            .filter(move |tenant| tenant.sub_account.as_str() == account)
    }
}

/// For each party: its place in a list before, if it is the same one in memory there. Both lists are sorted by id.
fn shared_positions<T: AsRef<Party>>(
    before: &[Arc<T>],
    now: &[Arc<T>],
) -> impl Iterator<Item = Option<usize>> {
    let is_earlier = |one: &Arc<T>, other: &Arc<T>| T::as_ref(one).id < T::as_ref(other).id;
    let mut at = 0;
    now.iter().map(move |party| {
        let is_shared = |at: usize| before.get(at).is_some_and(|old| Arc::ptr_eq(old, party));
        // Nearly always, and without a look at the party.
        if !is_shared(at) {
            let rest = &before[at..];
            at += rest.iter().take_while(|old| is_earlier(old, party)).count();
        }
        is_shared(at).then(|| {
            at += 1;
            at - 1
        })
    })
}

fn place(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer than four billion")
}

/// These parties with the restrictions that name them; `None` if none of them has more rights than the restrictions leave.
fn fewer_rights<'a, T: AsRef<Party>>(
    parties: &[Arc<T>],
    restrictions: impl IntoIterator<Item = &'a Restrictions>,
    restricted: fn(&T, &Restrictions) -> Option<T>,
) -> Option<Vec<Arc<T>>> {
    let mut changed: Option<Vec<Arc<T>>> = None;
    for by in restrictions {
        let id = |party: &Arc<T>| T::as_ref(party).id.cmp(&by.id);
        let Ok(at) = parties.binary_search_by(id) else {
            continue;
        };
        let before = changed
            .as_ref()
            .map_or(&parties[at], |changed| &changed[at]);
        if let Some(party) = restricted(before, by) {
            changed.get_or_insert_with(|| parties.to_vec())[at] = Arc::new(party);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tenant::SubAccount;
    use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use zeroize::Zeroizing;

    /// Enough that a registry follows another one that differs in a few.
    const PARTIES: u8 = 40;
    const ACCOUNTS: u8 = 12;

    /// A party in one version: `None` if it is absent.
    type Version = Option<(u8, u8)>;

    /// Versions of some parties: their sub-account, and which of three credentials they have.
    fn changes(most: usize) -> impl Strategy<Value = BTreeMap<u8, Version>> {
        let version = prop::option::weighted(0.8, (0..ACCOUNTS, 1..8_u8));
        btree_map(0..PARTIES * 2, version, 0..most)
    }

    fn credentials(number: u8, which: u8) -> Vec<DatedCredential> {
        let secret = SecretKey::new(Zeroizing::new("made-up".to_owned())).unwrap();
        let indexes = (0..3_u8).filter(|index| which & (1 << index) != 0);
        let client_ids = indexes.map(|index| format!("client-{number}-{index}"));
        let client_ids = client_ids.map(|id| ClientId::parse(&id).unwrap());
        let dated = client_ids.map(|id| DatedCredential::undated(Credential::new(id, &secret)));
        dated.collect()
    }

    #[derive(Default)]
    struct World {
        tenants: BTreeMap<PartyId, Arc<Tenant>>,
        operators: BTreeMap<PartyId, Arc<Operator>>,
    }

    impl World {
        /// The parties from [`PARTIES`] on are operators.
        fn change(&mut self, number: u8, version: Version) {
            let id = PartyId::parse(&format!("p{number:02}")).unwrap();
            let catalogue = Catalogue::standard();
            match version {
                None => {
                    self.tenants.remove(&id);
                    self.operators.remove(&id);
                }
                Some((account, which)) if number < PARTIES => {
                    let account = SubAccount::parse(&format!("10{account}")).unwrap();
                    let tenant =
                        Tenant::new(id.clone(), account, &catalogue, credentials(number, which));
                    self.tenants.insert(id, tenant.into());
                }
                Some((_, which)) => {
                    let operator =
                        Operator::new(id.clone(), &catalogue, credentials(number, which));
                    self.operators.insert(id, operator.into());
                }
            }
        }

        fn parties(&self) -> (Vec<Arc<Tenant>>, Vec<Arc<Operator>>) {
            (
                self.tenants.values().cloned().collect(),
                self.operators.values().cloned().collect(),
            )
        }
    }

    /// All that a registry answers.
    fn answers(registry: &Registry) -> Vec<String> {
        let pointer = |party: PartyRef<'_>| format!("{:p}", party.party());
        let mut all: Vec<_> = registry.parties().map(pointer).collect();
        for number in 0..PARTIES * 2 {
            all.push(format!("{:?}", registry.position(&format!("p{number:02}"))));
            for index in 0..3 {
                let found = registry.find(&format!("client-{number}-{index}"));
                let found = found.map(|found| {
                    let at = (found.position, found.credential_index);
                    format!("{at:?} {} {:p}", pointer(found.owner), found.credential)
                });
                all.push(found.unwrap_or_default());
            }
        }
        for account in 0..ACCOUNTS {
            let account = format!("10{account}");
            let tenants = registry.tenants_of(&account);
            let mut ids: Vec<_> = tenants.map(|it| it.party.id.as_str()).collect();
            ids.sort_unstable();
            all.push(ids.join(" "));
        }
        all.push(format!("{}", registry.by_client_id.len()));
        all.push(format!("{}", registry.by_account.len()));
        all
    }

    proptest! {
        #[test]
        fn a_registry_that_follows_others_answers_as_one_that_is_built_from_nothing(
            first in changes(120), rounds in vec(changes(8), 1..8)
        ) {
            let mut world = World::default();
            for number in 0..PARTIES * 2 {
                world.change(number, Some((number % ACCOUNTS, 1)));
            }
            let mut in_force = Registry::default();
            for round in [first].into_iter().chain(rounds) {
                for (number, version) in round {
                    world.change(number, version);
                }
                let (tenants, operators) = world.parties();
                let from_nothing = Registry::index(tenants.clone(), operators.clone());
                in_force = Registry::following(&in_force, tenants, operators);
                prop_assert_eq!(answers(&in_force), answers(&from_nothing));
            }
        }
    }
}
