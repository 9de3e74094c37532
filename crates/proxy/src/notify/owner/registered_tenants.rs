//! Registered tenants: the tenants of a configuration with the incarnations that the store counts.

use std::collections::HashMap;
use std::sync::Arc;

use gatepay_core::destination::DestinationUrl;
use gatepay_core::ownership::{KeyHolder, TenantIncarnation, TenantStanding};
use gatepay_store::notifications::ledger::{MOST_KEYS, TenantAccount};
use gatepay_tenancy::Party;

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::generation::Generation;

/// The account of the operator that gets the notifications about the institution itself. No sub-account has a space.
pub const INSTITUTION_ACCOUNT: &str = "the institution";

/// The tenants of one generation, as the store has registered them.
pub struct RegisteredTenants {
    generation: Arc<Generation>,
    /// The operator that gets the notifications about the institution itself.
    operator: Option<TenantIncarnation>,
    by_id: HashMap<String, KeyHolder>,
    by_account: HashMap<String, Vec<KeyHolder>>,
}

impl RegisteredTenants {
    /// Registers the tenants of a generation in the store.
    pub async fn register(
        calls: &StoreCalls,
        generation: Arc<Generation>,
    ) -> Result<Self, StoreCallError> {
        let account = |party: &Party, account: &str| TenantAccount {
            tenant: party.id.as_str().to_owned(),
            account: account.to_owned(),
        };
        let registry = &generation.registry;
        let tenants = registry.tenants().iter();
        let tenants = tenants.map(|it| account(&it.party, it.sub_account.as_str()));
        let operator = registry.notified_operator();
        let operator = operator.map(|it| account(&it.party, INSTITUTION_ACCOUNT));
        let accounts: Vec<TenantAccount> = tenants.chain(operator).collect();
        let mut incarnations = Vec::with_capacity(accounts.len());
        for some in accounts.chunks(MOST_KEYS) {
            let some = some.to_vec();
            let registered =
                calls.call(move |store| async move { store.register_tenants(&some).await });
            incarnations.extend(registered.await?);
        }
        let operator = incarnations.pop_if(|last| last.account == INSTITUTION_ACCOUNT);
        let accounts = incarnations.iter().map(|it| it.account.clone()).collect();
        let alone = have_always_been_alone(calls, accounts).await?;
        let holders = incarnations.into_iter().zip(alone);
        let holders = holders.map(|(tenant, is_alone)| KeyHolder {
            tenant,
            standing: if is_alone {
                TenantStanding::Alone
            } else {
                TenantStanding::Shared
            },
        });
        Ok(Self::of(generation, holders, operator))
    }

    /// The tenants, and the operator.
    fn of(
        generation: Arc<Generation>,
        holders: impl Iterator<Item = KeyHolder>,
        operator: Option<TenantIncarnation>,
    ) -> Self {
        let (mut by_id, mut by_account) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for holder in holders {
            let account = holder.tenant.account.clone();
            by_account.entry(account).or_default().push(holder.clone());
            by_id.insert(holder.tenant.tenant.clone(), holder);
        }
        Self {
            generation,
            operator,
            by_id,
            by_account,
        }
    }

    /// Whether these are the tenants of this generation.
    pub fn are_of(&self, generation: &Arc<Generation>) -> bool {
        Arc::ptr_eq(&self.generation, generation)
    }

    /// The generation.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// A tenant by its id.
    pub fn incarnation(&self, id: &str) -> Option<&TenantIncarnation> {
        self.by_id.get(id).map(|holder| &holder.tenant)
    }

    /// The operator that gets the notifications about the institution itself, if one has an endpoint or pulls.
    pub fn operator(&self) -> Option<&TenantIncarnation> {
        self.operator.as_ref()
    }

    /// A tenant, or the operator that gets notifications, by its id.
    pub fn addressee(&self, id: &str) -> Option<&TenantIncarnation> {
        let operator = self.operator.as_ref().filter(|it| it.tenant == id);
        operator.or_else(|| self.incarnation(id))
    }

    /// The tenants that have a sub-account.
    pub fn of_account(&self, account: &str) -> &[KeyHolder] {
        self.by_account.get(account).map_or(&[], Vec::as_slice)
    }

    /// A tenant of the ledger, as the present configuration sees it.
    pub fn holder(&self, tenant: TenantIncarnation) -> KeyHolder {
        let present = self.by_id.get(&tenant.tenant);
        let present = present.filter(|holder| holder.tenant == tenant);
        KeyHolder {
            standing: present.map_or(TenantStanding::Removed, |holder| holder.standing),
            tenant,
        }
    }

    /// The endpoint in a party's file.
    pub fn configured_url(&self, id: &str) -> Option<String> {
        let registry = &self.generation.registry;
        let notifications = registry.at(registry.position(id)?).notifications()?;
        notifications.url.as_ref().map(whole_url)
    }

    /// Whether an operator of the configuration has this id.
    pub fn is_operator(&self, id: &str) -> bool {
        let operators = self.generation.registry.operators();
        operators
            .iter()
            .any(|operator| operator.party.id.as_str() == id)
    }
}

/// Whether each sub-account has had no tenant but one since the store exists. The objects of all its tenants, also of removed
/// ones, are the account's to GatePay.
pub async fn have_always_been_alone(
    calls: &StoreCalls,
    accounts: Vec<String>,
) -> Result<Vec<bool>, StoreCallError> {
    let mut alone = Vec::with_capacity(accounts.len());
    for some in accounts.chunks(MOST_KEYS) {
        let some = some.to_vec();
        let counts =
            calls.call(move |store| async move { store.account_incarnations(&some).await });
        alone.extend(counts.await?.into_iter().map(|count| count <= 1));
    }
    Ok(alone)
}

/// A URL in its one spelling.
pub fn whole_url(url: &DestinationUrl) -> String {
    format!("{url}{}", url.path_and_query())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepay_tenancy::SubAccount;

    #[test]
    fn no_tenant_has_the_account_of_the_operator() {
        assert!(SubAccount::parse(INSTITUTION_ACCOUNT).is_err());
    }
}
