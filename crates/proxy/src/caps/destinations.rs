//! Destinations: whether a tenant's money may go where a call sends it.
//!
//! A call has to pass two lists: that of the tenant's file, so that a removal holds with the reload that brings it, and
//! that of the store, which knows since when a destination is loaded. [`watch`] takes the first to the store and brings
//! the second back.

pub mod watch;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gatepay_core::money::{DemandFault, MoneyTarget, StatedTarget};
use gatepay_store::admission::StoredText;
use gatepay_store::destinations::{
    DestinationBook, DestinationFault, DestinationList, DestinationOwner,
};
use gatepay_tenancy::Tenant;
use gatepay_tenancy::destinations::{DestinationMode, TenantDestinations};

/// The targets of a call, or why they cannot be read.
pub type StatedTargets = Result<Vec<StatedTarget>, DemandFault>;

/// The lists that the store has, as this instance knows them.
#[derive(Default)]
pub struct StoredDestinations {
    /// `None` until the store has the lists of this process's configuration.
    book: ArcSwapOption<DestinationBook>,
}

/// The decision about the targets of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationVerdict {
    /// The money may go there.
    Allowed,
    /// It may not.
    Refused(DestinationFault),
    /// The store's lists are not known yet.
    Unknown,
}

impl StoredDestinations {
    /// Whether the lists are not known yet.
    pub fn is_unknown(&self) -> bool {
        self.book.load().is_none()
    }

    /// The lists that the store has now.
    fn know(&self, book: DestinationBook) {
        self.book.store(Some(Arc::new(book)));
    }

    /// Whether the targets of a tenant's money calls have to be read: it has a list, by its file or still by the store.
    pub fn may_bound(&self, tenant: &Tenant) -> bool {
        let is_configured = tenant.destinations().is_some_and(is_listed);
        is_configured
            || match &*self.book.load() {
                None => true,
                Some(book) if book.owners.is_empty() => false,
                Some(book) => list(book, tenant).is_some_and(|list| list.is_listed),
            }
    }

    /// Whether a tenant's money may go to these targets, by its file in force and by the store's clock.
    pub fn verdict(
        &self,
        tenant: &Tenant,
        stated: &StatedTargets,
        now_ms: u64,
    ) -> DestinationVerdict {
        let book = self.book.load();
        let configured = tenant.destinations();
        let list = book.as_ref().map(|book| list(book, tenant));
        let is_bound = configured.is_some_and(is_listed)
            || list.is_none_or(|list| list.is_some_and(|it| it.is_listed_at(now_ms)));
        let stated = match stated {
            _ if !is_bound => return DestinationVerdict::Allowed,
            // Before the lists are known the tenant may have none.
            Err(_) if list.is_none() => return DestinationVerdict::Unknown,
            Err(fault) => {
                return DestinationVerdict::Refused(DestinationFault::Unreadable(*fault));
            }
            Ok(stated) if stated.is_empty() => return DestinationVerdict::Allowed,
            Ok(stated) => stated,
        };
        let Some(list) = list else {
            return DestinationVerdict::Unknown;
        };
        let faults = stated.iter().filter_map(|stated| {
            let fault = fault(stated, configured, list, now_ms)?;
            Some((stated.entry, fault))
        });
        let first = faults.min_by_key(|(entry, _)| *entry);
        first.map_or(DestinationVerdict::Allowed, |(_, fault)| {
            DestinationVerdict::Refused(fault)
        })
    }
}

fn is_listed(destinations: &TenantDestinations) -> bool {
    destinations.mode == DestinationMode::Listed
}

fn list<'a>(book: &'a DestinationBook, tenant: &Tenant) -> Option<&'a DestinationList> {
    book.owners.get(&owner(tenant)?)
}

/// The key of a tenant's list.
fn owner(tenant: &Tenant) -> Option<DestinationOwner> {
    Some(DestinationOwner {
        party: StoredText::parse(tenant.party.id.as_str())?,
        account: StoredText::parse(tenant.sub_account.as_str())?,
    })
}

/// The text of a target in the store.
fn text(target: &MoneyTarget) -> Option<StoredText> {
    StoredText::parse(&target.to_string())
}

fn fault(
    stated: &StatedTarget,
    configured: Option<&TenantDestinations>,
    list: Option<&DestinationList>,
    now_ms: u64,
) -> Option<DestinationFault> {
    let StatedTarget { target, entry } = stated;
    if !configured.is_some_and(|it| it.listed.contains(target)) {
        return Some(DestinationFault::Unlisted(*entry));
    }
    let times = text(target).and_then(|text| list?.targets.get(&text));
    let until_ms = match times {
        Some(times) if times.usable_from_ms <= now_ms => return None,
        Some(times) => Some(times.usable_from_ms),
        None => None,
    };
    Some(DestinationFault::Held {
        entry: *entry,
        until_ms,
    })
}

#[cfg(test)]
mod tests;
