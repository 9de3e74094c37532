//! Destinations: where the money of sub-accounts may go, and from when on.
//!
//! A destination is usable once its *hold* has passed since it was first loaded, by the store's clock, whatever instance
//! restarts meanwhile. What is removed is unusable at once, and waits anew if it comes again. Whatever would open
//! something earlier waits itself: a shorter hold holds after the longer one, and a list that is no longer configured
//! ends after its hold.
//!
//! [`DestinationBook`] is the whole in Rust. The SQLite file keeps one; PostgreSQL's function
//! (`sql/0001_destinations.sql`) answers the same.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::money::{DemandFault, TargetEntry};

use crate::stored_text::StoredText;

/// The destinations of a configuration, as an instance declares them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationDeclaration {
    /// The sub-accounts whose tenants have any, or that say so.
    pub accounts: BTreeMap<StoredText, DeclaredDestinations>,
}

/// The destinations of one sub-account: those of all tenants that act for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredDestinations {
    /// Whether money goes to listed destinations only.
    pub is_listed: bool,
    /// How long a new destination waits, in milliseconds.
    pub hold_ms: u64,
    /// The texts of the [targets](gatepay_core::money::MoneyTarget).
    pub targets: BTreeSet<StoredText>,
}

/// The lists of all sub-accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationBook {
    /// The lists.
    pub accounts: BTreeMap<StoredText, DestinationList>,
}

/// The list of one sub-account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DestinationList {
    /// Whether money goes to listed destinations only.
    pub is_listed: bool,
    /// How long a new destination waits, in milliseconds.
    pub hold_ms: u64,
    /// A shorter hold, and from when on it holds.
    pub shorter: Option<(u64, u64)>,
    /// When the list ends, if it is no longer configured.
    pub opens_ms: Option<u64>,
    /// The destinations, with the times at which they were first loaded and from which on they are usable.
    pub targets: BTreeMap<StoredText, DestinationTimes>,
}

/// The times of one destination, in milliseconds since 1970 by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DestinationTimes {
    /// When it was first loaded.
    pub first_loaded_ms: u64,
    /// From when on it is usable.
    pub usable_from_ms: u64,
}

/// Why a call's money may not go where it sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationFault {
    /// The targets cannot be read exactly.
    Unreadable(DemandFault),
    /// The target is not in the list of the sub-account, or of the tenant.
    Unlisted(TargetEntry),
    /// The target is new.
    Held {
        /// The entry that names it.
        entry: TargetEntry,
        /// From when on it is usable, in milliseconds since 1970; `None` until the store has it.
        until_ms: Option<u64>,
    },
}

impl DestinationDeclaration {
    /// The lists of several configurations together: a destination counts if every configuration with a list of the sub-account
    /// has it.
    pub fn stricter<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut stricter = Self::default();
        for (account, declared) in all.flat_map(|one| &one.accounts) {
            let known = stricter.accounts.entry(account.clone());
            let known = known.or_insert_with(|| declared.clone());
            known.is_listed |= declared.is_listed;
            known.hold_ms = known.hold_ms.max(declared.hold_ms);
            known
                .targets
                .retain(|target| declared.targets.contains(target));
        }
        stricter
    }
}

impl DestinationBook {
    /// Takes over a declaration.
    pub fn declare(&mut self, declaration: &DestinationDeclaration, now_ms: u64) {
        let declared = &declaration.accounts;
        self.accounts.retain(|account, list| {
            list.mature(now_ms);
            if !declared.contains_key(account) {
                list.targets.clear();
            }
            list.is_listed || declared.contains_key(account)
        });
        for (account, list) in &mut self.accounts {
            let is_configured = declared.get(account).is_some_and(|it| it.is_listed);
            if list.is_listed && !is_configured {
                let opens_ms = now_ms.saturating_add(list.hold_ms);
                list.opens_ms = list.opens_ms.or(Some(opens_ms));
            }
        }
        for (account, declared) in declared {
            let list = self.accounts.entry(account.clone());
            let list = list.or_insert_with(|| DestinationList {
                hold_ms: declared.hold_ms,
                ..DestinationList::default()
            });
            list.change(declared, now_ms);
        }
    }
}

impl DestinationList {
    /// Whether money goes to listed destinations only.
    pub fn is_listed_at(&self, now_ms: u64) -> bool {
        self.is_listed && self.opens_ms.is_none_or(|opens_ms| opens_ms > now_ms)
    }

    fn mature(&mut self, now_ms: u64) {
        if let Some((hold_ms, from_ms)) = self.shorter
            && from_ms <= now_ms
        {
            (self.hold_ms, self.shorter) = (hold_ms, None);
        }
        if self.opens_ms.is_some_and(|opens_ms| opens_ms <= now_ms) {
            (self.is_listed, self.opens_ms) = (false, None);
        }
    }

    fn change(&mut self, declared: &DeclaredDestinations, now_ms: u64) {
        if declared.is_listed {
            (self.is_listed, self.opens_ms) = (true, None);
        }
        self.shorter = (declared.hold_ms < self.hold_ms).then(|| {
            let known = self.shorter.filter(|(hold, _)| *hold <= declared.hold_ms);
            let later_ms = now_ms.saturating_add(self.hold_ms);
            (
                declared.hold_ms,
                known.map_or(later_ms, |(_, from_ms)| from_ms),
            )
        });
        self.hold_ms = self.hold_ms.max(declared.hold_ms);
        self.targets
            .retain(|target, _| declared.targets.contains(target));
        for times in self.targets.values_mut() {
            if times.usable_from_ms > now_ms {
                let held_ms = times.first_loaded_ms.saturating_add(self.hold_ms);
                times.usable_from_ms = times.usable_from_ms.max(held_ms);
            }
        }
        for target in &declared.targets {
            let times = DestinationTimes {
                first_loaded_ms: now_ms,
                usable_from_ms: now_ms.saturating_add(self.hold_ms),
            };
            self.targets.entry(target.clone()).or_insert(times);
        }
    }
}
