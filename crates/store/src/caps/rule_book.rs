//! Rule book: the rules in force. A rule that is new or lower holds at once; one that is raised or removed holds as it was
//! for a while longer.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use super::rule::{CapDeclaration, CapMeasure, CapRuleName, CapScope, CappedCalls};
use super::window::SHORTEST_DAY_MS;

/// All rules in force or about to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleBook {
    /// The rules, in the order in which they are compared with a call.
    pub rules: BTreeMap<CapRuleName, RuleState>,
    /// The midnights of the configured time zone, ascending, in milliseconds since 1970. After a change of the zone: up to the
    /// end of the day that was under way by the old one.
    pub midnights: Vec<u64>,
    /// The delay of raises; `None` before the first declaration.
    pub delay: Option<RaiseDelay>,
}

/// The delay of raises. A shorter delay is a raise too, so that it holds only once the longer one is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaiseDelay {
    /// The delay, in milliseconds.
    pub ms: u64,
    /// A shorter delay, and from when on it holds.
    pub shorter: Option<(u64, u64)>,
}

/// One rule's present and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleState {
    /// The limit.
    pub limit: ExactAmount,
    /// When it ends, if it is removed.
    pub ends_ms: Option<u64>,
    /// A higher limit, and from when on it holds.
    pub raise: Option<(ExactAmount, u64)>,
}

impl RuleBook {
    /// Takes over a declaration.
    pub fn declare(&mut self, declaration: &CapDeclaration, now_ms: u64) {
        let midnights = self.next_midnights(&declaration.midnights, now_ms);
        let protects = self.rules.values().any(|state| state.is_in_force(now_ms));
        let delay = self.delay.filter(|_| protects);
        let delay = RaiseDelay::after(delay, declaration.raise_after_ms, now_ms);
        self.delay = Some(delay);
        let later_ms = now_ms.saturating_add(delay.ms);
        self.rules.retain(|_, state| {
            if let Some((limit, from_ms)) = state.raise
                && from_ms <= now_ms
            {
                (state.limit, state.raise) = (limit, None);
            }
            state.is_in_force(now_ms)
        });
        let declared = declaration.by_name();
        for (name, state) in &mut self.rules {
            match declared.get(name) {
                Some(limit) => state.change(*limit, now_ms, later_ms),
                None => state.ends_ms = state.ends_ms.or(Some(later_ms)),
            }
        }
        let mut added = Vec::new();
        for (name, limit) in declared {
            if self.rules.contains_key(name) {
                continue;
            }
            let state = RuleState {
                limit,
                ends_ms: None,
                raise: None,
            };
            added.push((name.clone(), state));
        }
        self.rules.extend(added);
        self.midnights = midnights;
    }

    /// The midnights after a declaration. While a rule counts by day, the day under way ends when it would have ended, and no
    /// later day is shorter than the shortest of any zone: another zone makes no room.
    fn next_midnights(&self, declared: &[u64], now_ms: u64) -> Vec<u64> {
        let mut rules = self.rules.iter();
        let counts_days = rules
            .any(|(name, state)| name.measure == CapMeasure::PerDay && state.is_in_force(now_ms));
        let known = self.midnights.iter().copied();
        let began = known.clone().filter(|ms| *ms <= now_ms).max();
        let ends = known.filter(|ms| *ms > now_ms).min();
        let under_way = began.into_iter().chain(ends);
        let mut midnights: Vec<u64> = under_way.filter(|_| counts_days).collect();
        for ms in declared {
            let last = midnights.last();
            if last.is_none_or(|last| *ms >= last.saturating_add(SHORTEST_DAY_MS)) {
                midnights.push(*ms);
            }
        }
        midnights
    }

    /// The calls that rules in force cover, each once.
    pub fn capped_calls(&self, now_ms: u64) -> Vec<CappedCalls> {
        Self::capped(self.rules.iter(), now_ms)
    }

    /// Those of a scope and of all parties together, without a look at the rules of others.
    pub fn capped_calls_of(&self, scope: &CapScope, now_ms: u64) -> Vec<CappedCalls> {
        Self::capped(self.binding(scope), now_ms)
    }

    fn capped<'a>(
        rules: impl Iterator<Item = (&'a CapRuleName, &'a RuleState)>,
        now_ms: u64,
    ) -> Vec<CappedCalls> {
        let in_force = rules.filter(|(_, state)| state.is_in_force(now_ms));
        let capped: BTreeSet<CappedCalls> = in_force
            .map(|(name, _)| CappedCalls {
                shadow: name.shadow,
                scope: name.scope.clone(),
                calls: name.calls.clone(),
            })
            .collect();
        capped.into_iter().collect()
    }

    /// Whether any rule sums over all parties.
    pub fn sums_over_all(&self) -> bool {
        let shadows = [false, true].into_iter();
        let mut all = shadows.flat_map(|shadow| self.of_scope(shadow, &CapScope::All));
        all.next().is_some()
    }

    /// The rules of a scope, without a look at those of others.
    fn of_scope(
        &self,
        shadow: bool,
        scope: &CapScope,
    ) -> impl Iterator<Item = (&CapRuleName, &RuleState)> {
        let rules = self.rules.range(CapRuleName::first_of(shadow, scope)..);
        rules.take_while(move |(name, _)| name.shadow == shadow && name.scope == *scope)
    }

    /// The same, to change their states.
    pub(super) fn of_scope_mut(
        &mut self,
        shadow: bool,
        scope: &CapScope,
    ) -> impl Iterator<Item = (&CapRuleName, &mut RuleState)> {
        let rules = self.rules.range_mut(CapRuleName::first_of(shadow, scope)..);
        rules.take_while(move |(name, _)| name.shadow == shadow && name.scope == *scope)
    }

    /// Whether any rule that is enforced is about a call of a sub-account, in whatever currency.
    pub(super) fn binds(&self, scope: &CapScope, call: &str, now_ms: u64) -> bool {
        let all = self.of_scope(false, &CapScope::All);
        let mut rules = all.chain(self.of_scope(false, scope));
        rules.any(|(name, state)| state.is_in_force(now_ms) && name.calls.contains(call))
    }

    /// The rules in force that bind a call of a sub-account in a currency, in their order.
    pub(super) fn covering(
        &self,
        scope: &CapScope,
        (call, currency): (&str, &CurrencyCode),
        now_ms: u64,
    ) -> impl Iterator<Item = (&CapRuleName, &RuleState)> {
        let rules = self.binding(scope);
        rules.filter(move |(name, state)| state.is_in_force(now_ms) && name.covers(call, currency))
    }

    /// The rules of all parties together and of a scope, in their order.
    fn binding(&self, scope: &CapScope) -> impl Iterator<Item = (&CapRuleName, &RuleState)> {
        let shadows = [false, true].into_iter();
        shadows.flat_map(move |shadow| {
            let all = self.of_scope(shadow, &CapScope::All);
            all.chain(self.of_scope(shadow, scope))
        })
    }
}

impl RaiseDelay {
    /// The delay after a declaration of `ms`. Without one before, nothing is protected by it.
    pub(super) fn after(before: Option<Self>, ms: u64, now_ms: u64) -> Self {
        let Some(Self { ms: known, shorter }) = before else {
            return Self { ms, shorter: None };
        };
        let (known, shorter) = match shorter {
            Some((shorter, from_ms)) if from_ms <= now_ms => (shorter, None),
            shorter => (known, shorter),
        };
        if ms >= known {
            return Self { ms, shorter: None };
        }
        let under_way = shorter.filter(|(shorter, _)| *shorter <= ms);
        let from_ms = under_way.map_or(now_ms.saturating_add(known), |(_, from_ms)| from_ms);
        Self {
            ms: known,
            shorter: Some((ms, from_ms)),
        }
    }
}

impl RuleState {
    /// Whether the rule holds.
    pub fn is_in_force(&self, now_ms: u64) -> bool {
        self.ends_ms.is_none_or(|ends_ms| ends_ms > now_ms)
    }

    /// The limit that holds.
    pub fn limit_at(&self, now_ms: u64) -> ExactAmount {
        match self.raise {
            Some((limit, from_ms)) if from_ms <= now_ms => limit,
            _ => self.limit,
        }
    }

    fn change(&mut self, limit: ExactAmount, now_ms: u64, later_ms: u64) {
        self.ends_ms = None;
        if limit <= self.limit {
            (self.limit, self.raise) = (limit, None);
            return;
        }
        let known = self.raise.filter(|(known, _)| *known >= limit);
        let from_ms = known.map_or(later_ms, |(_, from_ms)| from_ms);
        self.raise = Some((limit, from_ms.max(now_ms)));
    }
}
