//! Caps: what money calls may spend, as this process uses the store that keeps it.
//!
//! The store judges and reserves in the transaction that admits a call. Here the configuration becomes the store's rules
//! ([`declaration`]), the end of each call goes back to the store ([`spend_reports`]), and a thread does both and shows what is spent
//! ([`thread`]). Where it may go is bound by [`destinations`].

pub mod declaration;
pub mod destinations;
pub mod meters;
pub mod spend_reports;
pub mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gatepay_core::Operation;
use gatepay_core::money::MoneyRow;
use gatepay_tenancy::PartyRef;
use gatepay_tenancy::caps::Cap;
use parking_lot::Mutex;

use crate::caps::destinations::StoredDestinations;
use crate::caps::meters::CapMeters;
use crate::caps::spend_reports::{SpendReports, SpendReportsEnd};
use crate::generation::Generation;

/// The state that calls and the thread `caps` share.
pub struct Caps {
    /// The way of calls' ends to the store.
    pub reports: SpendReports,
    /// The metrics.
    pub meters: CapMeters,
    /// Where tenants' money may go.
    pub destinations: StoredDestinations,
    /// Whether spends are counted: a cap is configured, or was since the start.
    is_counting: AtomicBool,
    /// Whether the store has the rules of a configuration of this process.
    is_declared: AtomicBool,
    /// Where the calls' ends arrive; `None` once the thread has it.
    unread: Mutex<Option<SpendReportsEnd>>,
}

impl Caps {
    /// Nothing is declared yet.
    pub fn new(meters: &CapMeters, counts: bool) -> Self {
        let (reports, unread) = spend_reports::queue(&meters.lost_reports);
        Self {
            reports,
            meters: meters.clone(),
            destinations: StoredDestinations::default(),
            is_counting: AtomicBool::new(counts),
            is_declared: AtomicBool::new(false),
            unread: Mutex::new(Some(unread)),
        }
    }

    /// Whether money calls tell the store what they spend.
    pub fn is_counting(&self) -> bool {
        self.is_counting.load(Ordering::Acquire)
    }

    /// Whether money calls wait for the store: it does not have the caps and destinations of this process's configuration.
    pub fn is_starting(&self) -> bool {
        self.awaits_store() || self.destinations.is_unknown()
    }

    /// Whether the store does not have the rules of this process's configuration yet. Until then no call that they may cover
    /// is admitted.
    pub fn awaits_store(&self) -> bool {
        self.is_counting() && !self.is_declared.load(Ordering::Acquire)
    }

    /// The store has the rules.
    fn declared(&self) {
        self.is_declared.store(true, Ordering::Release);
    }

    /// From now on money calls tell the store what they spend. A cap that is removed holds for a while longer, so that
    /// counting does not end before the process does.
    pub fn count(&self) {
        self.is_counting.store(true, Ordering::Release);
    }
}

/// The caps, if money calls tell the store what they spend.
pub fn counting(caps: Option<&Arc<Caps>>) -> Option<&Caps> {
    caps.map(|caps| &**caps).filter(|caps| caps.is_counting())
}

/// Whether any cap is configured.
pub fn has_any(generation: &Generation) -> bool {
    let mut tenants = generation.registry.tenants().iter();
    !generation.caps.all.is_empty() || tenants.any(|tenant| !tenant.caps().is_empty())
}

/// Whether a cap that is enforced covers calls of a party to an operation. A call that it covers and that cannot be read
/// exactly must be refused.
pub fn covers(generation: &Generation, party: PartyRef<'_>, operation: &Operation) -> bool {
    let own = match party {
        PartyRef::Tenant(tenant) => tenant.caps(),
        PartyRef::Operator(_) => &[],
    };
    let row = MoneyRow::of(operation);
    let covers = |cap: &Cap| match row {
        Some(row) => row
            .counted_names()
            .any(|name| cap.calls.counted.contains(name)),
        None => cap.covers_unread(operation),
    };
    let mut caps = own.iter().chain(&generation.caps.all);
    caps.any(|cap| !cap.shadow && covers(cap))
}
