//! A name for all that a configuration says, so that two processes, or one before and after, are compared quickly.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::model::facts::ConfigFacts;
use crate::model::snapshot::ConfigSnapshot;
use crate::plan::facts::{self, FactSource};

/// The same for the same configuration in any process. It is a sum over parts, so that a change among a hundred thousand
/// tenants costs only that change; it tells versions apart, and is no proof of integrity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigHash(u128);

impl ConfigHash {
    /// Of all that a side says.
    pub fn of(side: ConfigSnapshot<'_>) -> Self {
        let mut hash = Self::default();
        hash.note("settings", "", None, Some(side.written));
        let institution = facts::of_institution(side.institution);
        hash.note("institution", "", None, Some(&institution));
        let mut all = |section, of: &mut dyn Iterator<Item = (&str, FactSource<'_>)>| {
            for (id, known) in of {
                hash.note(section, id, None, Some(&known.facts()));
            }
        };
        all("operations", &mut side.operations());
        all("tenants", &mut side.tenants());
        all("operators", &mut side.operators());
        hash
    }

    /// Exchanges one part for another.
    pub(super) fn note(
        &mut self,
        section: &str,
        id: &str,
        before: Option<&ConfigFacts>,
        after: Option<&ConfigFacts>,
    ) {
        let part = |facts| part(section, id, facts);
        self.0 = self
            .0
            .wrapping_sub(before.map_or(0, part))
            .wrapping_add(after.map_or(0, part));
    }

    /// The hash after a change.
    #[must_use]
    pub(super) fn shifted(self, by: Self) -> Self {
        Self(self.0.wrapping_add(by.0))
    }
}

fn part(section: &str, id: &str, facts: &ConfigFacts) -> u128 {
    let text = serde_json::to_vec(&(section, id, facts)).expect("texts and JSON values are JSON");
    let digest: [u8; 32] = Sha256::digest(text).into();
    u128::from_be_bytes(*digest.first_chunk().expect("32 bytes have 16"))
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
