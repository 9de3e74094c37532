//! Early raise: operators have changes hold at once that would hold only after `raise_after`.
//!
//! Operators approve what they were shown. The id of a [`PendingRaise`] is made of its changes, so that another change of the
//! same caps in between has another id, and has to be approved anew.

use gatepay_core::exact_amount::ExactAmount;
use sha2::{Digest as _, Sha256};

use super::approval::ApprovalId;
use super::rule::{CapRuleName, CapScope};
use super::rule_book::{RuleBook, RuleState};

/// The changes of one scope that wait for `raise_after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRaise {
    /// Its id.
    pub id: ApprovalId,
    /// The scope.
    pub scope: CapScope,
    /// The changes, in the order of the rules.
    pub changes: Vec<RaiseChange>,
}

/// A rule that is about to allow more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseChange {
    /// The rule.
    pub name: CapRuleName,
    /// Its higher limit, if it has one.
    pub raised: Option<ExactAmount>,
    /// Whether it ends.
    pub is_removed: bool,
    /// Whether its currency may be spent from then on.
    pub opens: bool,
}

impl RuleBook {
    /// The changes that wait at a time, by scope.
    pub fn waiting_raises(&self, now_ms: u64) -> Vec<PendingRaise> {
        let scopes = self.scopes().into_iter();
        let waiting = scopes.filter_map(|scope| {
            let rules = self.rules.iter().filter(|(name, _)| name.scope == *scope);
            let changes = rules.filter_map(|(name, state)| RaiseChange::of(name, state, now_ms));
            let changes: Vec<RaiseChange> = changes.collect();
            (!changes.is_empty()).then(|| PendingRaise {
                id: id(&changes),
                scope: scope.clone(),
                changes,
            })
        });
        waiting.collect()
    }

    /// Has the changes of a scope hold now.
    pub(crate) fn raise_at_once(&mut self, scope: &CapScope, now_ms: u64) {
        for (name, state) in &mut self.rules {
            if name.scope != *scope {
                continue;
            }
            if let Some((limit, _)) = state.raise.take() {
                state.limit = limit;
            }
            state.opens_ms = state.opens_ms.min(now_ms);
            state.ends_ms = state.ends_ms.map(|ends_ms| ends_ms.min(now_ms));
        }
    }
}

impl RaiseChange {
    fn of(name: &CapRuleName, state: &RuleState, now_ms: u64) -> Option<Self> {
        let raise = state.raise.filter(|(_, from_ms)| *from_ms > now_ms);
        let change = Self {
            name: name.clone(),
            raised: raise.map(|(limit, _)| limit),
            is_removed: state.ends_ms.is_some(),
            opens: state.opens_ms > now_ms,
        };
        let changes = change.raised.is_some() || change.is_removed || change.opens;
        (changes && state.is_in_force(now_ms)).then_some(change)
    }
}

fn id(changes: &[RaiseChange]) -> ApprovalId {
    let mut digest = Sha256::new();
    for change in changes {
        let RaiseChange {
            name,
            raised,
            is_removed,
            opens,
        } = change;
        let limit = raised.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
        digest.update(format!(
            "{}\n{} {} {} {} {limit} {is_removed} {opens}\n",
            name.scope.as_str(),
            name.shadow,
            name.measure,
            name.currency_text(),
            name.calls_text(),
        ));
    }
    let digest = digest.finalize();
    let mut print = [0; 16];
    print.copy_from_slice(&digest[..16]);
    ApprovalId::of(&print)
}
