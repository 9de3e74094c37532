//! A tenant: one of the institution's customers, and the sub-account it acts for.

use std::borrow::Borrow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use gatepay_core::Catalogue;
use smol_str::SmolStr;

use crate::model::caps::Cap;
use crate::model::destinations::TenantDestinations;
use crate::model::notifications::TenantNotifications;
use crate::model::party::{DatedCredential, Party, PartyId};
use crate::model::permissions::Permissions;
use crate::model::restriction::Restrictions;

/// One of the institution's customers. Of a thousand none is in a near cache when its request comes, so the fields of a request
/// lie in two cache lines, with the counts of the [`Arc`](std::sync::Arc); fields of a reload alone are last.
#[repr(C)]
pub struct Tenant {
    /// The account it acts for: the value of `X-GatePay-On-Behalf-Of`.
    pub sub_account: SubAccount,
    /// Its credentials, permissions and limits.
    pub party: Party,
    /// Its share of the institution's quota, relative to the other tenants'.
    pub weight: NonZeroU32,
    /// Whether another tenant may name the same sub-account; both have to say so.
    pub shared_sub_account: bool,
    /// Settings that few tenants have, in one place to keep the others small.
    pub options: Option<Arc<TenantOptions>>,
}

/// Settings that few tenants have.
#[derive(Debug, Default)]
pub struct TenantOptions {
    /// How notifications are delivered to it; without it the tenant pulls.
    pub notifications: Option<Arc<TenantNotifications>>,
    /// How much its calls may spend; if there are none, as much as the caps over all allow.
    pub caps: Vec<Cap>,
    /// Where its money may go; anywhere if nothing is said.
    pub destinations: Option<TenantDestinations>,
    /// The names of the `[[admin.operator]]` that hold its secret, and so approve none of its calls.
    pub admin_operators: Vec<PartyId>,
    /// What people wrote about it.
    pub remarks: TenantRemarks,
}

/// What people wrote about a tenant, for people alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantRemarks {
    /// Whom to reach, and how.
    pub contact: Option<String>,
    /// Anything else.
    pub note: Option<String>,
}

impl TenantOptions {
    /// The options, if any is set.
    pub fn if_any(self) -> Option<Arc<Self>> {
        let is_set = self.notifications.is_some()
            || !self.caps.is_empty()
            || self.destinations.is_some()
            || !self.admin_operators.is_empty()
            || self.remarks != TenantRemarks::default();
        is_set.then(|| Arc::new(self))
    }
}

impl AsRef<Party> for Tenant {
    fn as_ref(&self) -> &Party {
        &self.party
    }
}

impl Tenant {
    /// A tenant with everything at its default, for tenants made in a process instead of a file.
    pub fn new(
        id: PartyId,
        sub_account: SubAccount,
        catalogue: &Catalogue,
        credentials: Vec<DatedCredential>,
    ) -> Self {
        Self {
            party: Party::new(id, Permissions::of_tenants(catalogue), credentials),
            sub_account,
            shared_sub_account: false,
            options: None,
            weight: NonZeroU32::MIN,
        }
    }

    /// How notifications are delivered to it; without it the tenant pulls.
    pub fn notifications(&self) -> Option<&Arc<TenantNotifications>> {
        self.options.as_ref()?.notifications.as_ref()
    }

    /// How much its calls may spend.
    pub fn caps(&self) -> &[Cap] {
        self.options.as_ref().map_or(&[], |options| &options.caps)
    }

    /// Where its money may go.
    pub fn destinations(&self) -> Option<&TenantDestinations> {
        self.options.as_ref()?.destinations.as_ref()
    }

    /// The names of the `[[admin.operator]]` that hold its secret.
    pub fn admin_operators(&self) -> &[PartyId] {
        let options = self.options.as_ref();
        options.map_or(&[], |options| &options.admin_operators)
    }

    /// The same tenant with fewer rights; `None` if it has no more than these restrictions leave.
    pub(crate) fn restricted(&self, by: &Restrictions) -> Option<Self> {
        Some(Self {
            party: by.applied_to(&self.party)?,
            sub_account: self.sub_account.clone(),
            shared_sub_account: self.shared_sub_account,
            options: self.options.clone(),
            weight: self.weight,
        })
    }
}

/// A sub-account as GatePay gave it: 1 to 64 visible ASCII characters, sent as `X-GatePay-On-Behalf-Of`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubAccount(SmolStr);

/// Why a text cannot be a sub-account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 visible ASCII characters, as GatePay gave it")]
pub struct SubAccountError;

impl SubAccount {
    /// Accepts the values that the header may have.
    pub fn parse(text: &str) -> Result<Self, SubAccountError> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        if visible && (1..=64).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(SubAccountError)
        }
    }

    /// The account as it stands in the header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SubAccount {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SubAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::party::ReplayRule;
    use static_assertions::assert_not_impl_any;
    use std::mem::offset_of;

    assert_not_impl_any!(Tenant: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    #[test]
    fn the_fields_of_a_request_lie_in_two_cache_lines_of_a_tenant() {
        // An `Arc` keeps two counts before its value.
        let tenant = |offset| 2 * size_of::<usize>() + offset;
        let party = offset_of!(Tenant, party);
        assert!(tenant(party + offset_of!(Party, replay) + size_of::<ReplayRule>()) <= 128);
        // An allocation of 193 bytes takes as much memory as one of 224: mimalloc's sizes go from 192 to 224.
        assert!(tenant(size_of::<Tenant>()) <= 208);
    }

    #[test]
    fn a_sub_account_is_a_valid_header_value() {
        assert!(SubAccount::parse("2124538349").is_ok());
        for bad in ["", "a b", "a\r\nb", "ä", &"1".repeat(65)] {
            assert_eq!(SubAccount::parse(bad), Err(SubAccountError), "{bad:?}");
        }
    }
}
