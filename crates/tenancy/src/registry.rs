//! All tenants, found by client id.

use std::collections::HashMap;
use std::sync::Arc;

use gatepay_core::ClientId;

use crate::claims::{Claim, Claims};
use crate::tenant::{DatedCredential, Tenant};

/// All tenants: immutable, built whole or not at all.
#[derive(Default)]
pub struct Registry {
    tenants: Vec<Arc<Tenant>>,
    by_client_id: HashMap<ClientId, At>,
}

/// Where a credential is: places in `tenants` and in the tenant's `credentials`.
#[derive(Clone, Copy)]
struct At {
    tenant: u32,
    credential: u32,
}

/// Two things that must differ do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} have the same {what}")]
pub struct Conflict {
    /// What they share.
    pub what: &'static str,
    /// Who had it first.
    pub first: String,
    /// Who claims it as well.
    pub second: String,
}

impl Registry {
    /// Indexes tenants that were made in this process, by the same rules as [`load()`](crate::load()) has for files.
    pub fn new(
        tenants: Vec<Tenant>,
        institution: &[DatedCredential],
    ) -> Result<Self, Vec<Conflict>> {
        let mut claims = Claims::default();
        for dated in institution {
            let credential = &dated.credential;
            let owner = || "the institution".to_owned();
            claims.stake(Claim::ClientId(credential.client_id.clone()), owner());
            claims.stake(Claim::Secret(credential.key.fingerprint()), owner());
        }
        let mut conflicts = Vec::new();
        for tenant in &tenants {
            let owner = format!("tenant {}", tenant.id);
            let mut conflict = |what, first: Option<&String>| {
                conflicts.extend(first.map(|first| Conflict {
                    what,
                    first: first.clone(),
                    second: owner.clone(),
                }));
            };
            conflict(
                "id",
                claims.stake(Claim::Id(tenant.id.clone()), owner.clone()),
            );
            let account = tenant.sub_account.clone();
            let other = claims.stake_account(account, owner.clone(), tenant.shared_sub_account);
            conflict("sub-account", other);
            for dated in &tenant.credentials {
                let credential = &dated.credential;
                let id = Claim::ClientId(credential.client_id.clone());
                conflict("client id", claims.stake(id, owner.clone()));
                let secret = Claim::Secret(credential.key.fingerprint());
                conflict("secret", claims.stake(secret, owner.clone()));
            }
        }
        if conflicts.is_empty() {
            Ok(Self::index(tenants))
        } else {
            Err(conflicts)
        }
    }

    /// Sorts and indexes tenants whose claims do not conflict.
    pub(crate) fn index(mut tenants: Vec<Tenant>) -> Self {
        tenants.sort_by(|one, other| one.id.cmp(&other.id));
        let place = |index| u32::try_from(index).expect("there are fewer than four billion");
        let credentials = tenants.iter().map(|tenant| tenant.credentials.len()).sum();
        let mut by_client_id = HashMap::with_capacity(credentials);
        for (index, tenant) in tenants.iter().enumerate() {
            for (credential, dated) in tenant.credentials.iter().enumerate() {
                let at = At {
                    tenant: place(index),
                    credential: place(credential),
                };
                by_client_id.insert(dated.credential.client_id.clone(), at);
            }
        }
        Self {
            tenants: tenants.into_iter().map(Arc::new).collect(),
            by_client_id,
        }
    }

    /// The tenant and the credential a client id belongs to, by one hash look-up. Dates and standing are not judged.
    pub fn find(&self, client_id: &str) -> Option<(&Arc<Tenant>, &DatedCredential)> {
        let at = self.by_client_id.get(client_id)?;
        let tenant = &self.tenants[at.tenant as usize];
        Some((tenant, &tenant.credentials[at.credential as usize]))
    }

    /// All tenants, sorted by id.
    pub fn tenants(&self) -> &[Arc<Tenant>] {
        &self.tenants
    }

    /// How many tenants there are.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    /// Whether there are none: allowed, and worth a warning.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}
