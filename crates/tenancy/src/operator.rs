//! An operator: the institution's own back office.

use gatepay_core::Catalogue;

use crate::party::{DatedCredential, Party, PartyId};
use crate::permissions::Permissions;

/// Somebody of the institution's own back office. It calls institution paths, and so needs no institution secret.
pub struct Operator {
    /// Who signs for it, and what it may do.
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
    pub(crate) fn suspended(&self) -> Self {
        Self {
            party: self.party.suspended(),
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
