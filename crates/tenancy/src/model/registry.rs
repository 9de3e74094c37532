//! All tenants and operators, found by client id.

use std::collections::HashSet;
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
struct CredentialEntry {
    party: SharedParty,
    credentials: Arc<[DatedCredential]>,
    position: u32,
    credential: u32,
}

/// A [`PartyRef`] with shared ownership.
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
    fn dated(&self) -> &DatedCredential {
        &self.credentials[self.credential as usize]
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
        let pinned: HashSet<&str> = metrics.pinned.iter().map(PartyId::as_str).collect();
        let is_pinned = |party: PartyRef<'_>| pinned.contains(party.party().id.as_str());
        let mut own: Vec<bool> = self.parties().map(is_pinned).collect();
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
        let place = |index| u32::try_from(index).expect("there are fewer than four billion");
        for (position, party) in registry.parties().enumerate() {
            for (credential, dated) in party.party().credentials.iter().enumerate() {
                let entry = CredentialEntry {
                    party: SharedParty::of(party),
                    credentials: Arc::clone(&party.party().credentials),
                    position: place(position),
                    credential: place(credential),
                };
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
        Some(Self::index(
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
