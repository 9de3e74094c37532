//! An operator: the institution's own back office.

use gatepay_core::Catalogue;

use crate::model::party::{DatedCredential, Party, PartyId, Standing};
use crate::model::permissions::Permissions;

/// A member of the institution's own back office. It calls institution paths, and so needs no institution secret.
pub struct Operator {
    /// Its credentials, permissions and limits.
    pub party: Party,
}

impl Operator {
    /// An operator with everything at its default, for operators made in a process instead of a file.
    pub fn new(id: PartyId, catalogue: &Catalogue, credentials: Vec<DatedCredential>) -> Self {
        Self {
            party: Party::new(id, Permissions::of_operators(catalogue), credentials),
        }
    }

    /// The same, suspended.
    pub(crate) fn with_standing(&self, standing: Standing) -> Self {
        Self {
            party: self.party.with_standing(standing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use static_assertions::assert_not_impl_any;
    use std::fmt;

    assert_not_impl_any!(Operator: fmt::Debug, fmt::Display, serde::Serialize, Clone);
}
