//! Destinations: whether the money of a sub-account may go where a call sends it.
//!
//! A call has to pass two lists: that of the files, so that a removal holds with the reload that brings it, and that of the
//! store, which knows since when a destination is loaded. Both are of the sub-account, so that they bind every party that
//! acts for it. A tenant that shares its sub-account goes by its own list besides. [`watch`] takes the first to the store and
//! brings the second back.

pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use gatepay_core::money::{DemandFault, MoneyTarget, StatedTarget};
use gatepay_core::operation::OperationScope;
use gatepay_core::{Kind, Operation};
use gatepay_store::admission::StoredText;
use gatepay_store::destinations::{DestinationBook, DestinationFault, DestinationList};
use gatepay_tenancy::destinations::{DestinationMode, TenantDestinations};
use gatepay_tenancy::{PartyRef, Registry};

use crate::process::clock::nanos;

/// The targets of a call, or why they cannot be read.
pub type StatedTargets = Result<Vec<StatedTarget>, DemandFault>;

/// The lists that the store has, as this instance knows them.
#[derive(Default)]
pub struct StoredDestinations {
    /// `None` until the store has the lists of this process's configuration.
    book: ArcSwapOption<DestinationBook>,
    /// When the store was last asked whether it has others, in nanoseconds of the clock's elapsed time.
    asked_at: AtomicU64,
    /// Whether calls are refused because it was not asked lately.
    refuses: AtomicBool,
}

/// How long the lists count after the store was asked about them: it is asked each second. A process that stood still, or whose
/// questions are not answered, may miss that an instance has removed a destination.
const LISTS_COUNT: Duration = Duration::from_secs(10);

/// What files say about the destinations of a call.
pub struct ConfiguredLists<'a> {
    /// The sub-account.
    account: &'a str,
    /// The list of the tenant that makes the call.
    own: Option<&'a TenantDestinations>,
    /// Those of all tenants that act for the sub-account.
    all: Vec<&'a TenantDestinations>,
}

/// The decision about the targets of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationVerdict {
    /// The money may go there.
    Allowed,
    /// It may not.
    Refused(DestinationFault),
    /// The store's lists are not known, or the store was not asked about them lately.
    Unknown,
}

impl<'a> ConfiguredLists<'a> {
    /// The lists about a party's call for a sub-account.
    pub fn of(registry: &'a Registry, account: &'a str, party: PartyRef<'a>) -> Self {
        let tenants = registry.tenants_of(account);
        Self {
            account,
            own: match party {
                PartyRef::Tenant(tenant) => tenant.destinations(),
                PartyRef::Operator(_) => None,
            },
            all: tenants.filter_map(|tenant| tenant.destinations()).collect(),
        }
    }

    /// Whether money goes to listed destinations only.
    fn is_listed(&self) -> bool {
        self.own.is_some_and(is_listed) || self.all.iter().any(|it| is_listed(it))
    }

    fn lists(&self, target: &MoneyTarget) -> bool {
        let own = self.own.filter(|own| is_listed(own));
        own.is_none_or(|own| own.listed.contains(target))
            && self.all.iter().any(|it| it.listed.contains(target))
    }
}

impl StoredDestinations {
    /// Whether the lists are not known yet.
    pub fn is_unknown(&self) -> bool {
        self.book.load().is_none()
    }

    /// Takes the lists that the store had at `asked`, in the clock's elapsed time.
    fn know(&self, book: DestinationBook, asked: Duration) {
        self.book.store(Some(Arc::new(book)));
        self.confirm(asked);
    }

    /// Notes that the store had no other lists at `asked`, in the clock's elapsed time.
    fn confirm(&self, asked: Duration) {
        self.asked_at.fetch_max(nanos(asked), Ordering::AcqRel);
        if self.refuses.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                "the store was asked about lists of destinations again: money calls are judged"
            );
        }
    }

    /// How long ago the store was asked, by the clock's elapsed time.
    pub fn age(&self, now: Duration) -> Duration {
        let asked_at = Duration::from_nanos(self.asked_at.load(Ordering::Acquire));
        now.saturating_sub(asked_at)
    }

    /// Whether the lists that are known do not count any more, so that money calls with a target are refused.
    ///
    /// A sub-account without a list is refused too: any other instance may have declared its first one meanwhile, which holds
    /// here within a second or two or not at all.
    pub fn is_stale(&self, now: Duration) -> bool {
        self.age(now) > LISTS_COUNT
    }

    /// Notes that a call was refused because the lists are not known or do not count. Returns whether it is the first one since
    /// they did.
    pub fn begins_to_refuse(&self) -> bool {
        !self.refuses.swap(true, Ordering::AcqRel)
    }

    /// Whether the targets of a money call have to be read: its sub-account has a list, by the files or still by the store.
    pub fn may_bound(&self, configured: &ConfiguredLists<'_>) -> bool {
        configured.is_listed()
            || match &*self.book.load() {
                None => true,
                Some(book) if book.accounts.is_empty() => false,
                Some(book) => list(book, configured.account).is_some_and(|list| list.is_listed),
            }
    }

    /// Whether a call's money may go to these targets, by the files in force and by the store's time `now_ms`. `stated` is `None`
    /// if no list bound the call when its body was read: a list that binds it by now has nothing to compare, and refuses it.
    /// `now` is the clock's elapsed time.
    pub fn verdict(
        &self,
        configured: &ConfiguredLists<'_>,
        stated: Option<&StatedTargets>,
        (now_ms, now): (u64, Duration),
    ) -> DestinationVerdict {
        let stated = stated.unwrap_or(&Err(DemandFault::NotRead));
        let book = self.book.load();
        let list = book
            .as_ref()
            .filter(|_| !self.is_stale(now))
            .map(|book| list(book, configured.account));
        let is_bound = configured.is_listed()
            || list.is_none_or(|list| list.is_some_and(|it| it.is_listed_at(now_ms)));
        let stated = match stated {
            _ if !is_bound => return DestinationVerdict::Allowed,
            // Before the lists are known the sub-account may have none.
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

/// Whether lists can bind a call to the operation. They bind every party that acts for a sub-account, but no call that only the
/// institution can make.
pub fn is_boundable(operation: &Operation) -> bool {
    operation.kind == Kind::Money && operation.scope == OperationScope::Tenant
}

fn is_listed(destinations: &TenantDestinations) -> bool {
    destinations.mode == DestinationMode::Listed
}

fn list<'a>(book: &'a DestinationBook, account: &str) -> Option<&'a DestinationList> {
    book.accounts.get(&StoredText::parse(account)?)
}

/// The text of a target in the store.
fn text(target: &MoneyTarget) -> Option<StoredText> {
    StoredText::parse(&target.to_string())
}

fn fault(
    stated: &StatedTarget,
    configured: &ConfiguredLists<'_>,
    list: Option<&DestinationList>,
    now_ms: u64,
) -> Option<DestinationFault> {
    let StatedTarget { target, entry } = stated;
    if !configured.lists(target) {
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
