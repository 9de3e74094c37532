//! Which operations a party may call: a set of rows of the catalogue.

use gatepay_core::operation::OperationScope;
use gatepay_core::{Catalogue, Operation};

/// A set of positions in [`Catalogue::rows`]. Rows that are off are never in it, and in a tenant's never the
/// institution's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permissions(PermissionBits);

/// A bit for each row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum PermissionBits {
    /// In place, where a request finds them without a look elsewhere: enough for the rows there are, and half as many again.
    Few([u64; 2]),
    /// Of a catalogue that was added to beyond that.
    Many(Box<[u64]>),
}

impl Permissions {
    /// Every operation that is open to tenants and on.
    pub fn of_tenants(catalogue: &Catalogue) -> Self {
        Self::all(catalogue, CallerClass::Tenants)
    }

    /// Every operation that is on: each has an institution path, which operators call.
    pub fn of_operators(catalogue: &Catalogue) -> Self {
        Self::all(catalogue, CallerClass::Operators)
    }

    /// Whether the operation at this position may be called.
    pub fn allows(&self, position: usize) -> bool {
        let word = self.words().get(position / 64);
        word.is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Whether nothing may be called.
    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    pub(crate) fn all(catalogue: &Catalogue, audience: CallerClass) -> Self {
        let mut all = Self::none(catalogue);
        all.add(catalogue, |_, row| audience.includes(row));
        all
    }

    pub(crate) fn none(catalogue: &Catalogue) -> Self {
        Self(match catalogue.rows().len().div_ceil(64) {
            0..=2 => PermissionBits::Few([0; 2]),
            words => PermissionBits::Many(vec![0; words].into()),
        })
    }

    fn words(&self) -> &[u64] {
        match &self.0 {
            PermissionBits::Few(words) => words,
            PermissionBits::Many(words) => words,
        }
    }

    pub(crate) fn add(
        &mut self,
        catalogue: &Catalogue,
        belongs: impl Fn(usize, &Operation) -> bool,
    ) {
        let words: &mut [u64] = match &mut self.0 {
            PermissionBits::Few(words) => words,
            PermissionBits::Many(words) => words,
        };
        for (position, row) in catalogue.rows().iter().enumerate() {
            if belongs(position, row) {
                words[position / 64] |= 1 << (position % 64);
            }
        }
    }
}

/// The group of callers that operations are open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerClass {
    Tenants,
    Operators,
}

impl CallerClass {
    pub(crate) fn includes(self, row: &Operation) -> bool {
        row.off().is_none() && (self == Self::Operators || row.scope == OperationScope::Tenant)
    }
}
