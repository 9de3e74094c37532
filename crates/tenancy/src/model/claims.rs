//! Uniqueness of ids, sub-accounts, client ids and secrets, over all files.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use gatepay_core::ClientId;

use crate::model::party::PartyId;
use crate::model::tenant::SubAccount;

/// One thing that has one owner.
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum UniqueClaim {
    Id(PartyId),
    SubAccount(SubAccount),
    ClientId(ClientId),
    /// By fingerprint: equal for equal secrets, and says nothing else.
    Secret([u8; 32]),
    /// The notifications about the institution itself.
    OperatorNotifications,
}

/// The first owner of each claim; `P` names the owner or its place. `None` if claims are not compared.
pub(crate) struct UniqueClaims<P>(Option<HashMap<UniqueClaim, ClaimOwner<P>>>);

struct ClaimOwner<P> {
    owner: P,
    shared: bool,
}

impl<P> Default for UniqueClaims<P> {
    fn default() -> Self {
        Self(Some(HashMap::new()))
    }
}

impl<P> UniqueClaims<P> {
    /// For a reader that compares claims by other means: every claim is granted.
    pub(crate) fn uncompared() -> Self {
        Self(None)
    }

    /// Stakes a claim; `Some` is the earlier owner.
    pub(crate) fn stake(
        &mut self,
        claim: impl FnOnce() -> UniqueClaim,
        by: impl FnOnce() -> P,
    ) -> Option<&P> {
        self.insert(claim, by, false)
    }

    /// Claims a sub-account, which may have many owners if all of them say that it is shared.
    pub(crate) fn stake_account(
        &mut self,
        account: &SubAccount,
        by: impl FnOnce() -> P,
        shared: bool,
    ) -> Option<&P> {
        self.insert(|| UniqueClaim::SubAccount(account.clone()), by, shared)
    }

    fn insert(
        &mut self,
        claim: impl FnOnce() -> UniqueClaim,
        by: impl FnOnce() -> P,
        shared: bool,
    ) -> Option<&P> {
        match self.0.as_mut()?.entry(claim()) {
            Entry::Vacant(entry) => {
                let owner = by();
                entry.insert(ClaimOwner { owner, shared });
                None
            }
            Entry::Occupied(entry) if shared && entry.get().shared => None,
            Entry::Occupied(entry) => Some(&entry.into_mut().owner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_claim_of_a_unique_value_wins() {
        let id = || UniqueClaim::Id(PartyId::parse("acme").unwrap());
        let mut claims = UniqueClaims::default();
        assert_eq!(claims.stake(id, || "a"), None);
        assert_eq!(claims.stake(id, || "b"), Some(&"a"));
        assert_eq!(claims.stake(id, || "c"), Some(&"a"));
    }

    #[test]
    fn a_sub_account_is_shared_only_if_every_owner_shares_it() {
        let account = SubAccount::parse("2124538349").unwrap();
        let mut claims = UniqueClaims::default();
        assert_eq!(claims.stake_account(&account, || "a", true), None);
        assert_eq!(claims.stake_account(&account, || "b", true), None);
        assert_eq!(claims.stake_account(&account, || "c", false), Some(&"a"));
    }
}
