//! An operator: the institution's own back office.

use std::sync::Arc;

use gatepay_core::Catalogue;

use crate::model::notifications::TenantNotifications;
use crate::model::party::{DatedCredential, Party, PartyId};
use crate::model::permissions::Permissions;
use crate::model::restriction::Restrictions;

/// A member of the institution's own back office. It calls institution paths, and so needs no institution secret.
pub struct Operator {
    /// Its credentials, permissions and limits.
    pub party: Party,
    /// How notifications about the institution itself are delivered to it. One operator at most has this.
    pub notifications: Option<Arc<TenantNotifications>>,
    /// The names of the `[[admin.operator]]` that hold its secret, and so approve none of its calls. `None` if its file does
    /// not say: then no call of it can be approved.
    pub admin_operators: Option<Vec<PartyId>>,
}

impl AsRef<Party> for Operator {
    fn as_ref(&self) -> &Party {
        &self.party
    }
}

impl Operator {
    /// An operator with everything at its default, for operators made in a process instead of a file.
    pub fn new(id: PartyId, catalogue: &Catalogue, credentials: Vec<DatedCredential>) -> Self {
        Self {
            party: Party::new(id, Permissions::of_operators(catalogue), credentials),
            notifications: None,
            admin_operators: None,
        }
    }

    /// The same operator with fewer rights; `None` if it has no more than these restrictions leave.
    pub(crate) fn restricted(&self, by: &Restrictions) -> Option<Self> {
        Some(Self {
            party: by.applied_to(&self.party)?,
            notifications: self.notifications.clone(),
            admin_operators: self.admin_operators.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(Operator: fmt::Debug, fmt::Display, serde::Serialize, Clone);
}
