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

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use gatepay_core::Operation;
use gatepay_core::money::{MONEY_ROWS, MoneyDirection, MoneyRow};
use gatepay_core::operation::OperationScope;
use gatepay_store::caps::rule::{CapScope, CappedCalls};
use gatepay_store::caps::spend::UnknownSpend;
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
    /// Whether this process has seen which rules the store has.
    is_learned: AtomicBool,
    /// Whether the store has the rules of a configuration of this process.
    is_declared: AtomicBool,
    /// What rules in force in the store cover, as this process last saw it: a cap that the files have no more holds for a
    /// while.
    in_store: ArcSwap<CappedAccounts>,
    /// Whether a rule asks for approvals: of this configuration, or of the store.
    asks_approvals: AtomicBool,
    /// The spends of unknown outcome, as this process last saw them.
    unknown: ArcSwap<Vec<UnknownSpend>>,
    /// Where the calls' ends arrive; `None` once the thread has it.
    unread: Mutex<Option<SpendReportsEnd>>,
}

/// Calls that rules of the store cover, by sub-account: a call looks at its own, however many others there are.
#[derive(Debug, Default)]
pub struct CappedAccounts {
    all: Vec<CappedCalls>,
    own: HashMap<String, Vec<CappedCalls>>,
}

impl Caps {
    /// Nothing is declared yet.
    pub fn new(meters: &CapMeters) -> Self {
        let (reports, unread) = spend_reports::queue(&meters.lost_reports);
        Self {
            reports,
            meters: meters.clone(),
            destinations: StoredDestinations::default(),
            is_learned: AtomicBool::new(false),
            is_declared: AtomicBool::new(false),
            in_store: ArcSwap::default(),
            asks_approvals: AtomicBool::new(false),
            unknown: ArcSwap::default(),
            unread: Mutex::new(Some(unread)),
        }
    }

    /// Whether money calls wait for the store: it does not have the caps and destinations of this process's configuration.
    pub fn is_starting(&self) -> bool {
        self.awaits_store() || self.destinations.is_unknown()
    }

    /// Whether the store's rules are not known, or the store does not have those of this process's configuration yet. Until
    /// then no money call is admitted.
    pub fn awaits_store(&self) -> bool {
        !(self.is_learned.load(Ordering::Acquire) && self.is_declared.load(Ordering::Acquire))
    }

    /// The store has rules in force that cover these calls.
    fn learned(&self, capped: Vec<CappedCalls>) {
        self.in_store.store(Arc::new(CappedAccounts::of(capped)));
        self.is_learned.store(true, Ordering::Release);
    }

    /// Whether the store has any rule in force, as this process last saw it.
    fn has_rules(&self) -> bool {
        !self.in_store.load().is_empty()
    }

    /// Whether a cap that is enforced covers calls for a sub-account to an operation: one of the files, or one that the store
    /// still keeps. A call that it covers and that cannot be read exactly must be refused.
    pub fn covers(&self, generation: &Generation, account: &str, operation: &Operation) -> bool {
        covers(generation, account, operation) || self.in_store.load().covers(account, operation)
    }

    /// The store has the rules.
    fn declared(&self) {
        self.is_declared.store(true, Ordering::Release);
    }

    /// Whether money calls tell the store the subject of their approval.
    pub fn asks_approvals(&self) -> bool {
        self.asks_approvals.load(Ordering::Acquire)
    }

    /// The spends of unknown outcome, as this process last saw them.
    pub fn unknown_spends(&self) -> Arc<Vec<UnknownSpend>> {
        self.unknown.load_full()
    }

    /// From now on they do.
    fn ask_approvals(&self) {
        self.asks_approvals.store(true, Ordering::Release);
    }
}

/// Whether any cap is configured.
pub fn has_any(generation: &Generation) -> bool {
    let mut tenants = generation.registry.tenants().iter();
    !generation.caps.all.is_empty() || tenants.any(|tenant| !tenant.caps().is_empty())
}

/// Whether a cap that is enforced covers calls for a sub-account to an operation, whichever party makes them. A call that it
/// covers and that cannot be read exactly must be refused.
fn covers(generation: &Generation, account: &str, operation: &Operation) -> bool {
    let is_own = operation.scope == OperationScope::Tenant;
    let tenants = generation.registry.tenants_of(account);
    let own = tenants.filter(|_| is_own).flat_map(|it| it.caps());
    let row = MoneyRow::of(operation);
    let covers = |cap: &Cap| match row {
        Some(row) => row
            .counted_names()
            .any(|name| cap.calls.counted.contains(name)),
        None => cap.covers_unread(operation),
    };
    let mut caps = own.chain(&generation.caps.all);
    caps.any(|cap| !cap.shadow && covers(cap))
}

impl CappedAccounts {
    /// Calls of all sub-accounts, of which those of shadow rules bind nothing.
    pub fn of(capped: Vec<CappedCalls>) -> Self {
        let mut by_account = Self::default();
        for capped in capped.into_iter().filter(|capped| !capped.shadow) {
            let of_scope = match &capped.scope {
                CapScope::All => &mut by_account.all,
                CapScope::Account(account) => {
                    let account = account.as_str().to_owned();
                    by_account.own.entry(account).or_default()
                }
            };
            of_scope.push(capped);
        }
        by_account
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.own.is_empty()
    }

    /// Whether a rule that is enforced covers calls for a sub-account to an operation. Rules do not name calls whose amount
    /// cannot be read: those are covered by a rule for all money that leaves.
    pub fn covers(&self, account: &str, operation: &Operation) -> bool {
        let row = MoneyRow::of(operation);
        let own = self.own.get(account).into_iter().flatten();
        let mut enforced = self.all.iter().chain(own);
        enforced.any(|capped| match row {
            Some(row) => row.counted_names().any(|name| capped.calls.contains(name)),
            None => MONEY_ROWS
                .iter()
                .filter(|row| row.direction == MoneyDirection::Out && !row.is_within_institution())
                .flat_map(MoneyRow::counted_names)
                .all(|name| capped.calls.contains(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use gatepay_core::Catalogue;
    use gatepay_store::admission::StoredText;
    use gatepay_tenancy::settings::MetricsSettings;

    fn acme() -> CapScope {
        CapScope::of_account(&StoredText::parse("100").unwrap())
    }

    fn capped(scope: CapScope, shadow: bool, calls: &[&str]) -> CappedCalls {
        CappedCalls {
            shadow,
            scope,
            calls: calls.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_cap_that_only_the_store_has_covers_calls_for_its_sub_account_or_for_all() {
        let catalogue = Catalogue::standard();
        let operation = |name| catalogue.named(name).unwrap();
        let payout = operation("create_payout");
        let in_store = |capped: CappedCalls| CappedAccounts::of(vec![capped]);
        let own = in_store(capped(acme(), false, &["create_payout"]));
        assert!(own.covers("100", payout));
        assert!(!own.covers("200", payout));
        assert!(!own.covers("100", operation("refund_order")));
        assert!(!own.covers("100", operation("mcp_call")));
        let disguised = in_store(capped(acme(), false, &["refund_order_v2/payout"]));
        assert!(disguised.covers("100", operation("refund_order_v2")));
        let shadow = in_store(capped(acme(), true, &["create_payout"]));
        assert!(!shadow.covers("100", payout));
        let out = MONEY_ROWS
            .iter()
            .filter(|row| row.direction == MoneyDirection::Out);
        let out: Vec<&str> = out.flat_map(MoneyRow::counted_names).collect();
        let all = in_store(capped(CapScope::All, false, &out));
        assert!(all.covers("100", operation("mcp_call")));
    }

    #[test]
    fn money_waits_until_the_store_has_told_its_rules_and_has_those_of_the_files() {
        let metrics = Metrics::new(&Catalogue::standard(), &MetricsSettings::default());
        let caps = Caps::new(&metrics.caps);
        assert!(caps.awaits_store(), "the store may have rules");
        caps.learned(Vec::new());
        assert!(caps.awaits_store());
        caps.declared();
        assert!(!caps.awaits_store());
    }
}
