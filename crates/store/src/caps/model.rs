//! A model of the store's caps in plain Rust: the tables in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use super::approval::{
    APPROVAL_KEPT_MS, APPROVAL_MS, Approval, ApprovalId, ApprovalKey, ApprovalOrder, ApprovalState,
};
use super::approver_rule::ApproverRule;
use super::early_raise::RaiseDigest;
use super::judge::{
    self, CountedSpend, MeterCell, MeterSum, OpenAttempt, SpendJudgement, SpendName, SpendTables,
    SpendingCall,
};
use super::report::{CapFacts, OpenSpend};
use super::rule::{CapDeclaration, CapScope, CappedCalls};
use super::rule_book::RuleBook;
use super::spend::{
    ALIVE_MS, CLAIM_MS, KEPT_MS, LOST_REPORT_MS, SettledAttempt, SettledObject, UNKNOWN_AFTER_MS,
};
use super::window::CapWindow;
use crate::stored_text::{Fingerprint, StoredText};

/// The rules in force and all that counts.
#[derive(Debug, Clone, Default)]
pub struct CapModel {
    book: RuleBook,
    approvers: Option<ApproverRule>,
    /// The rules of each instance's configuration.
    claims: BTreeMap<i64, CapDeclaration>,
    /// The operators that have approved changes that wait, with the times.
    signatures: BTreeMap<(RaiseDigest, StoredText), u64>,
    /// The currency of orders by party, account and id; `None` if it is not certain.
    orders: BTreeMap<[StoredText; 3], Option<CurrencyCode>>,
    tables: MemoryTables,
}

#[derive(Debug, Clone, Default)]
struct MemoryTables {
    spends: BTreeMap<(SpendName, CurrencyCode), CountedSpend>,
    attempts: BTreeMap<Fingerprint, OpenAttempt>,
    meters: BTreeMap<MeterCell, MeterSum>,
    failures: BTreeMap<SpendName, u64>,
    approvals: BTreeMap<ApprovalId, Approval>,
}

impl CapModel {
    /// Puts the rules of an instance's configuration in force, with those of the others that are alive. `seen` is the last sign
    /// of life of each instance.
    pub fn declare(
        &mut self,
        (instance, declaration): (i64, &CapDeclaration),
        now_ms: u64,
        seen: &BTreeMap<i64, i64>,
    ) {
        self.claims.retain(|other, _| counts(*other, now_ms, seen));
        self.claims.remove(&instance);
        // Last, for its midnights.
        let all = self.claims.values().chain([declaration]);
        let stricter = CapDeclaration::stricter(all);
        self.claims.insert(instance, declaration.clone());
        let summed = self.book.sums_over_all();
        let before = self.book.clone();
        self.book.declare(&stricter, now_ms);
        if self.book != before {
            self.forget_signatures(now_ms);
        }
        self.declare_approvers(stricter.approvers, stricter.raise_after_ms, now_ms);
        if !summed && self.book.sums_over_all() {
            self.tables.sum_over_all();
        }
    }

    /// Whether an instance's last declaration is in force, beside those of other living instances only.
    pub fn stands(&self, instance: i64, now_ms: u64, seen: &BTreeMap<i64, i64>) -> bool {
        let mut others = self.claims.keys().filter(|other| **other != instance);
        self.claims.contains_key(&instance) && others.all(|other| counts(*other, now_ms, seen))
    }

    /// Whether the store knows a declaration of an instance.
    pub fn knows(&self, instance: i64) -> bool {
        self.claims.contains_key(&instance)
    }

    /// The tables as a report reads them.
    pub fn facts(&self, now_ms: u64) -> CapFacts {
        let MemoryTables {
            spends,
            attempts,
            meters,
            ..
        } = &self.tables;
        let open = spends.iter().filter_map(|((name, currency), spend)| {
            let mut own = attempts.values().filter(|it| it.name == *name).peekable();
            own.peek()?;
            Some(OpenSpend {
                account: StoredText::parse(&name.account)?,
                counted_as: name.counted_as.clone(),
                currency: currency.clone(),
                amount: spend.amount,
                at_ms: spend.at_ms,
                is_unknown: own.all(|attempt| attempt.unknown),
            })
        });
        CapFacts {
            now_ms,
            book: self.book.clone(),
            meters: meters.clone(),
            open: open.collect(),
            signers: self.signers(now_ms),
        }
    }

    /// The operators that have approved changes within a day.
    fn signers(&self, now_ms: u64) -> Vec<(RaiseDigest, StoredText)> {
        let since_ms = now_ms.saturating_sub(APPROVAL_MS);
        let signatures = self.signatures.iter().filter(|(_, at)| **at > since_ms);
        let mut signers: Vec<_> = signatures.map(|((of, by), at)| (*of, *at, by)).collect();
        signers.sort();
        let signers = signers.into_iter().map(|(of, _, by)| (of, by.clone()));
        signers.collect()
    }

    fn forget_signatures(&mut self, now_ms: u64) {
        let waiting = self.book.waiting_raises(now_ms);
        let waiting: BTreeSet<RaiseDigest> = waiting.iter().map(|it| it.digest).collect();
        self.signatures.retain(|(of, _), _| waiting.contains(of));
    }

    /// Takes an operator's approval of changes that wait, of `needed` different operators each.
    pub fn raise(
        &mut self,
        digest: RaiseDigest,
        (by, needed): (&StoredText, usize),
        now_ms: u64,
    ) -> ApprovalOrder {
        let mut waiting = self.book.waiting_raises(now_ms).into_iter();
        let Some(waiting) = waiting.find(|waiting| waiting.digest == digest) else {
            return ApprovalOrder::NotFound;
        };
        let since_ms = now_ms.saturating_sub(APPROVAL_MS);
        self.signatures.retain(|_, at| *at > since_ms);
        let signature = (digest, by.clone());
        self.signatures.entry(signature).or_insert(now_ms);
        let needed = needed.max(self.approvers_needed(now_ms) as usize);
        let signers = self.signers(now_ms);
        if signers.iter().filter(|(of, _)| *of == digest).count() >= needed {
            self.book.raise_at_once(&waiting.scope, now_ms);
            self.forget_signatures(now_ms);
        }
        ApprovalOrder::Taken
    }

    /// The midnights by which days are counted.
    pub fn midnights(&self) -> &[u64] {
        &self.book.midnights
    }

    /// The calls that rules in force cover.
    pub fn capped_calls(&self, now_ms: u64) -> Vec<CappedCalls> {
        self.book.capped_calls(now_ms)
    }

    /// Those of a sub-account and of all together.
    pub fn capped_calls_of(&self, account: &StoredText, now_ms: u64) -> Vec<CappedCalls> {
        let scope = CapScope::of_account(account);
        self.book.capped_calls_of(&scope, now_ms)
    }

    /// Reserves what a call spends, if every rule holds.
    pub fn reserve(&mut self, now_ms: u64, call: SpendingCall<'_>) -> SpendJudgement {
        let mut demand = call.demand.clone();
        if let Some(currency) = self.order_currency(call) {
            demand.price(currency);
        }
        let call = SpendingCall {
            demand: &demand,
            ..call
        };
        let Ok(judgement) = judge::reserve(&mut self.tables, &self.book, now_ms, call);
        judgement
    }

    /// The currency of the order that a call refunds, if it is one and the ledger knows it.
    pub fn order_currency(&self, call: SpendingCall<'_>) -> Option<CurrencyCode> {
        let order = call.demand.of_order.as_ref()?.order.clone();
        let order = [call.party.clone(), call.account.clone(), order];
        self.orders.get(&order)?.clone()
    }

    /// Notes an order of a party and account in the ledger. Another currency than before makes it uncertain for ever.
    pub fn note_order(&mut self, order: [StoredText; 3], currency: &CurrencyCode) {
        let known = self.orders.entry(order);
        let known = known.or_insert_with(|| Some(currency.clone()));
        *known = known.take().filter(|known| known == currency);
    }

    /// Takes over what instances know about their calls.
    pub fn settle_attempts(&mut self, settled: &[SettledAttempt]) {
        let Ok(()) = judge::settle_attempts(&mut self.tables, &self.book, settled);
    }

    /// Takes over GatePay's last word on an object. Returns whether its spend is released by it.
    pub fn settle_object(&mut self, object: &SettledObject) -> bool {
        let Ok(is_released) = judge::settle_object(&mut self.tables, &self.book, object);
        is_released
    }

    /// Takes over how many operators the configurations ask for.
    fn declare_approvers(&mut self, number: u32, raise_after_ms: u64, now_ms: u64) {
        let before = self.approvers_needed(now_ms);
        let rule = ApproverRule::declared(self.approvers, (number, raise_after_ms), now_ms);
        self.approvers = Some(rule);
        let needed = self.approvers_needed(now_ms);
        if needed > before {
            for approval in self.tables.approvals.values_mut() {
                approval.wait_for(needed);
            }
        }
    }

    /// How many operators an order needs.
    pub fn approvers_needed(&self, now_ms: u64) -> u32 {
        ApproverRule::needed(self.approvers, now_ms)
    }

    /// The store may have lost commits: no earlier approval lets a call pass.
    pub fn void_approvals(&mut self, now_ms: u64) {
        for approval in self.tables.approvals.values_mut() {
            approval.void(now_ms);
        }
    }

    /// Takes an operator's approval of a call, of `needed` different operators each.
    pub fn approve(
        &mut self,
        shown: (&ApprovalId, &[u8; 32]),
        by: &StoredText,
        needed: usize,
        now_ms: u64,
    ) -> ApprovalOrder {
        let needed = needed.max(self.approvers_needed(now_ms) as usize);
        let Ok(order) = judge::approve(&mut self.tables, shown, (by, needed), now_ms);
        order
    }

    /// Takes an operator's rejection of a call.
    pub fn reject(&mut self, shown: (&ApprovalId, &[u8; 32]), now_ms: u64) -> ApprovalOrder {
        let Ok(order) = judge::reject(&mut self.tables, shown, now_ms);
        order
    }

    /// All approvals, by their ids.
    pub fn approvals(&self) -> Vec<Approval> {
        self.tables.approvals.values().cloned().collect()
    }

    /// Marks the attempts that instances left open when they ended as unknown, and forgets spends that no window covers. `seen`
    /// is the last sign of life of each instance.
    pub fn age(&mut self, now_ms: u64, seen: &BTreeMap<i64, i64>) {
        let is_alive = |instance: &i64| {
            let last = seen.get(instance).map(|ms| ms.unsigned_abs());
            last.is_some_and(|ms| ms > now_ms.saturating_sub(ALIVE_MS))
        };
        for attempt in self.tables.attempts.values_mut() {
            let age_ms = now_ms.saturating_sub(attempt.at_ms);
            attempt.unknown |= age_ms > LOST_REPORT_MS
                || age_ms > UNKNOWN_AFTER_MS && !is_alive(&attempt.instance);
        }
        let tables = &mut self.tables;
        tables
            .meters
            .retain(|cell, _| cell.slice >= cell.grain.oldest_kept(now_ms));
        let forgotten_ms = now_ms.saturating_sub(KEPT_MS);
        tables.spends.retain(|_, spend| spend.at_ms >= forgotten_ms);
        tables
            .attempts
            .retain(|_, attempt| attempt.at_ms >= forgotten_ms);
        tables.failures.retain(|_, at_ms| *at_ms >= forgotten_ms);
        let forgotten_ms = now_ms.saturating_sub(APPROVAL_KEPT_MS);
        tables
            .approvals
            .retain(|_, approval| approval.until_ms >= forgotten_ms);
    }

    /// The attempts without a known end, with their times of admission.
    pub fn unknown(&self) -> Vec<(u64, SpendName)> {
        let attempts = self.tables.attempts.values();
        let unknown = attempts.filter(|attempt| attempt.unknown);
        unknown
            .map(|attempt| (attempt.at_ms, attempt.name.clone()))
            .collect()
    }
}

/// Whether the rules of an instance count.
fn counts(instance: i64, now_ms: u64, seen: &BTreeMap<i64, i64>) -> bool {
    let last = seen.get(&instance).map(|ms| ms.unsigned_abs());
    last.is_some_and(|ms| ms > now_ms.saturating_sub(CLAIM_MS))
}

impl MemoryTables {
    fn sum_over_all(&mut self) {
        self.meters.retain(|cell, _| cell.scope != CapScope::All);
        let parties: Vec<(MeterCell, MeterSum)> = self
            .meters
            .iter()
            .map(|(cell, sum)| (cell.clone(), *sum))
            .collect();
        for (mut cell, sum) in parties {
            cell.scope = CapScope::All;
            let all = self.meters.entry(cell).or_default();
            all.units = all.units.saturating_add(sum.units);
            all.calls += sum.calls;
        }
    }
}

impl SpendTables for MemoryTables {
    type Error = Infallible;

    fn spend(
        &self,
        name: &SpendName,
        currency: &CurrencyCode,
    ) -> Result<Option<CountedSpend>, Infallible> {
        let key = (name.clone(), currency.clone());
        Ok(self.spends.get(&key).copied())
    }

    fn spends(&self, name: &SpendName) -> Result<Vec<(CurrencyCode, CountedSpend)>, Infallible> {
        let spends = self.spends.iter().filter(|((of, _), _)| of == name);
        Ok(spends
            .map(|((_, currency), spend)| (currency.clone(), *spend))
            .collect())
    }

    fn put_spend(
        &mut self,
        name: &SpendName,
        currency: &CurrencyCode,
        spend: CountedSpend,
    ) -> Result<(), Infallible> {
        self.spends.insert((name.clone(), currency.clone()), spend);
        Ok(())
    }

    fn remove_spend(&mut self, name: &SpendName) -> Result<(), Infallible> {
        self.spends.retain(|(of, _), _| of != name);
        Ok(())
    }

    fn put_attempt(&mut self, attempt: &OpenAttempt) -> Result<(), Infallible> {
        self.attempts.insert(attempt.stamp, attempt.clone());
        Ok(())
    }

    fn attempt(&self, stamp: &Fingerprint) -> Result<Option<OpenAttempt>, Infallible> {
        Ok(self.attempts.get(stamp).cloned())
    }

    fn attempts(&self, name: &SpendName) -> Result<Vec<OpenAttempt>, Infallible> {
        let attempts = self.attempts.values();
        Ok(attempts.filter(|it| it.name == *name).cloned().collect())
    }

    fn has_failed(&self, name: &SpendName) -> Result<bool, Infallible> {
        Ok(self.failures.contains_key(name))
    }

    fn note_failure(&mut self, name: &SpendName, decided_ms: u64) -> Result<(), Infallible> {
        self.failures.insert(name.clone(), decided_ms);
        Ok(())
    }

    fn remove_attempt(&mut self, stamp: &Fingerprint) -> Result<(), Infallible> {
        self.attempts.remove(stamp);
        Ok(())
    }

    fn count(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), Infallible> {
        let sum = self.meters.entry(cell.clone()).or_default();
        sum.units = sum.units.saturating_add(amount.units());
        sum.calls += 1;
        Ok(())
    }

    fn uncount(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), Infallible> {
        if let Some(sum) = self.meters.get_mut(cell) {
            sum.units = sum.units.saturating_sub(amount.units());
            sum.calls = sum.calls.saturating_sub(1);
            if (sum.units, sum.calls) == (0, 0) {
                self.meters.remove(cell);
            }
        }
        Ok(())
    }

    fn sum(
        &self,
        scope: &CapScope,
        calls: &BTreeSet<String>,
        currency: &CurrencyCode,
        window: &CapWindow,
    ) -> Result<MeterSum, Infallible> {
        let mut total = MeterSum::default();
        for (cell, sum) in &self.meters {
            let is_summed = cell.scope == *scope
                && calls.contains(&cell.counted_as)
                && cell.currency == *currency
                && cell.grain == window.grain
                && cell.slice >= window.first;
            if is_summed {
                total.add(cell.slice, sum.units, sum.calls);
            }
        }
        Ok(total)
    }

    fn approval_of(&self, of: &ApprovalKey, now_ms: u64) -> Result<Option<Approval>, Infallible> {
        let mut approvals = self.approvals.values();
        let found = approvals.find(|it| it.of == *of && !it.is_over(now_ms));
        Ok(found.cloned())
    }

    fn approvals_waiting(&self, party: &StoredText, now_ms: u64) -> Result<u64, Infallible> {
        let waiting = self.approvals.values().filter(|it| {
            it.state == ApprovalState::Waiting && it.of.party == *party && !it.is_over(now_ms)
        });
        Ok(waiting.count() as u64)
    }

    fn approval(&self, id: &ApprovalId) -> Result<Option<Approval>, Infallible> {
        Ok(self.approvals.get(id).cloned())
    }

    fn put_approval(&mut self, approval: &Approval) -> Result<(), Infallible> {
        self.approvals.insert(approval.id, approval.clone());
        Ok(())
    }
}

impl MeterSum {
    /// Adds a slice.
    pub(crate) fn add(&mut self, slice: u64, units: u128, calls: u64) {
        self.units = self.units.saturating_add(units);
        self.calls = self.calls.saturating_add(calls);
        if units > 0 || calls > 0 {
            self.oldest = Some(self.oldest.map_or(slice, |oldest| oldest.min(slice)));
        }
    }
}
