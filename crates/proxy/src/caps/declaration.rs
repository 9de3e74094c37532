//! Declaration: the caps of a configuration as the store's rules.

use std::collections::BTreeSet;
use std::time::Duration;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::MoneyRow;
use gatepay_store::admission::StoredText;
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure, CapRule, CapRuleName, CapScope};
use gatepay_tenancy::caps::{Cap, CapSettings};

use crate::generation::Generation;

/// The longest time until midnights are declared anew.
pub const RENEWAL: Duration = Duration::from_hours(12);
/// The midnights to come that are declared, in days: a store can be without a declaration for as long.
const MIDNIGHTS: u32 = 40;

/// All rules of a configuration, the midnights from today's on, and the number of operators for an order that one alone may not
/// give.
pub fn declaration(generation: &Generation, now_ms: u64, approvers: u32) -> CapDeclaration {
    let CapSettings {
        time_zone,
        raise_after,
        all,
    } = &*generation.caps;
    let mut rules = file_rules(all, &CapScope::All);
    for tenant in generation.registry.tenants() {
        let account = StoredText::parse(tenant.sub_account.as_str());
        let scope = account.map(|account| CapScope::of_account(&account));
        rules.extend(
            scope
                .iter()
                .flat_map(|scope| file_rules(tenant.caps(), scope)),
        );
    }
    CapDeclaration {
        rules,
        midnights: time_zone.midnights(now_ms, MIDNIGHTS),
        raise_after_ms: u64::try_from(raise_after.as_millis()).unwrap_or(u64::MAX),
        approvers,
    }
}

/// The rules of one file.
fn file_rules(caps: &[Cap], scope: &CapScope) -> Vec<CapRule> {
    CapRule::of_file(caps.iter().flat_map(|cap| rules(cap, scope)).collect())
}

/// A rule for each limit of a cap.
fn rules(cap: &Cap, scope: &CapScope) -> Vec<CapRule> {
    let Cap {
        calls,
        currency,
        per_call,
        per_hour,
        per_24h,
        per_day,
        count_per_hour,
        approve_above,
        shadow,
    } = cap;
    let counted = calls.counted.iter().copied();
    let counted: BTreeSet<String> = counted
        .filter(|name| *scope == CapScope::All || !is_within_institution(name))
        .map(str::to_owned)
        .collect();
    let limits = [
        (CapMeasure::PerCall, *per_call),
        (CapMeasure::PerHour, *per_hour),
        (CapMeasure::Per24Hours, *per_24h),
        (CapMeasure::PerDay, *per_day),
        (CapMeasure::CountPerHour, count_per_hour.map(calls_of)),
        (CapMeasure::ApproveAbove, *approve_above),
    ];
    let limits = limits.into_iter().filter(|_| !counted.is_empty());
    let rules = limits.filter_map(|(measure, limit)| {
        let name = CapRuleName {
            shadow: *shadow,
            scope: scope.clone(),
            measure,
            currency: currency.clone(),
            calls: counted.clone(),
            exempt: BTreeSet::new(),
        };
        Some(CapRule {
            name,
            limit: limit?,
        })
    });
    rules.collect()
}

/// Whether calls that are counted under a name move money between the institution and a sub-account.
fn is_within_institution(name: &str) -> bool {
    MoneyRow::counted_as(name).is_some_and(MoneyRow::is_within_institution)
}

/// A number of calls as a limit.
fn calls_of(count: u32) -> ExactAmount {
    let units = u128::from(count) * 10_u128.pow(18);
    ExactAmount::from_units(units).unwrap_or(ExactAmount::MOST)
}
