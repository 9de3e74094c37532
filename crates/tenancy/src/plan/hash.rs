//! A name for all that a configuration says, so that two processes, or one before and after, are compared quickly.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::model::facts::ConfigFacts;
use crate::model::snapshot::ConfigSnapshot;
use crate::plan::facts::{self, FactSource};
use crate::threads::on_threads;

/// Fewer parties than this are hashed by one thread: that takes some ten milliseconds.
const HASHED_BY_A_THREAD: usize = 5_000;
/// So many parties are listed at once: a list of a hundred thousand takes seven MB, on top of a start's other memory.
const HASHED_TOGETHER: usize = 20_000;

/// The same for the same configuration in any process. It is a sum over parts, so that a change among a hundred thousand
/// tenants costs only that change; it tells versions apart, and is no proof of integrity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigHash(u128);

impl ConfigHash {
    /// The hash of a whole configuration.
    pub fn of(side: ConfigSnapshot<'_>) -> Self {
        let mut hash = Self::default();
        hash.note("settings", "", None, Some(side.written));
        let institution = facts::of_institution(side.institution);
        hash.note("institution", "", None, Some(&institution));
        hash.add_all("operations", side.operations());
        hash.add_all("tenants", side.tenants());
        hash.add_all("operators", side.operators());
        hash
    }

    fn add_all<'a>(
        &mut self,
        section: &str,
        mut of: impl Iterator<Item = (&'a str, FactSource<'a>)>,
    ) {
        loop {
            let batch: Vec<_> = of.by_ref().take(HASHED_TOGETHER).collect();
            let parts = on_threads(&batch, HASHED_BY_A_THREAD, |(id, known)| {
                part(section, id, &known.facts())
            });
            self.0 = parts.into_iter().fold(self.0, u128::wrapping_add);
            if batch.len() < HASHED_TOGETHER {
                return;
            }
        }
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
