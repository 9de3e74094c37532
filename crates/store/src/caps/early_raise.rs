//! Early raise: operators have changes hold at once that would hold only after `raise_after`.
//!
//! Operators approve what they were shown. The [`RaiseDigest`] of a [`PendingRaise`] is made of its changes, from which limit to
//! which, so that another change of the same caps in between has another one, and has to be approved anew. Signatures are kept
//! and compared under the whole digest; its first digits are for people. Once another set of changes waits for a scope, the
//! signatures of the one before are forgotten, also if that one comes back.

use std::collections::BTreeMap;
use std::fmt;

use gatepay_core::exact_amount::ExactAmount;
use sha2::{Digest as _, Sha256};

use super::approval::ApprovalId;
use super::rule::{CapRuleName, CapScope};
use super::rule_book::{RuleBook, RuleState};

/// SHA-256 of the changes of one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RaiseDigest([u8; 32]);

/// The changes of one scope that wait for `raise_after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRaise {
    /// The digest of its changes.
    pub digest: RaiseDigest,
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
    /// Its limit now.
    pub limit: ExactAmount,
    /// Its higher limit, if it has one.
    pub raised: Option<ExactAmount>,
    /// Whether it ends.
    pub is_removed: bool,
}

impl RuleBook {
    /// The changes that wait at a time, by scope.
    pub fn waiting_raises(&self, now_ms: u64) -> Vec<PendingRaise> {
        // In one pass: there may be tens of thousands of scopes.
        let mut by_scope: BTreeMap<&CapScope, Vec<RaiseChange>> = BTreeMap::new();
        for (name, state) in &self.rules {
            if let Some(change) = RaiseChange::of(name, state, now_ms) {
                by_scope.entry(&name.scope).or_default().push(change);
            }
        }
        let waiting = by_scope.into_iter().map(|(scope, changes)| PendingRaise {
            digest: RaiseDigest::of(&changes),
            scope: scope.clone(),
            changes,
        });
        waiting.collect()
    }

    /// Has the changes of a scope hold now.
    pub(crate) fn raise_at_once(&mut self, scope: &CapScope, now_ms: u64) {
        for shadow in [false, true] {
            for (_, state) in self.of_scope_mut(shadow, scope) {
                if let Some((limit, _)) = state.raise.take() {
                    state.limit = limit;
                }
                state.ends_ms = state.ends_ms.map(|ends_ms| ends_ms.min(now_ms));
            }
        }
    }
}

impl RaiseChange {
    fn of(name: &CapRuleName, state: &RuleState, now_ms: u64) -> Option<Self> {
        let raise = state.raise.filter(|(_, from_ms)| *from_ms > now_ms);
        let change = Self {
            name: name.clone(),
            limit: state.limit_at(now_ms),
            raised: raise.map(|(limit, _)| limit),
            is_removed: state.ends_ms.is_some(),
        };
        let changes = change.raised.is_some() || change.is_removed;
        (changes && state.is_in_force(now_ms)).then_some(change)
    }
}

impl RaiseDigest {
    fn of(changes: &[RaiseChange]) -> Self {
        let mut digest = Sha256::new();
        for change in changes {
            let RaiseChange {
                name,
                limit,
                raised,
                is_removed,
            } = change;
            let raised = raised.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
            digest.update(format!(
                "{}\n{} {} {} {} {} {limit} {raised} {is_removed}\n",
                name.scope.as_str(),
                name.shadow,
                name.measure,
                name.currency_text(),
                name.calls_text(),
                name.exempt_text(),
            ));
        }
        Self(digest.finalize().into())
    }

    /// The digits for people. Two sets of changes may have the same.
    pub fn id(&self) -> ApprovalId {
        let mut print = [0; 16];
        print.copy_from_slice(&self.0[..16]);
        ApprovalId::of(&print)
    }

    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RaiseDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
