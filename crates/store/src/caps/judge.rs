//! Judge: reserves what a call spends, if every rule holds, and settles it. Written over [`SpendTables`], so that the
//! SQLite file and the model decide by the same lines; PostgreSQL's functions say the same.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use super::approval::{
    APPROVAL_MS, Approval, ApprovalDemand, ApprovalId, ApprovalKey, ApprovalOrder, ApprovalState,
    MOST_WAITING,
};
use super::rule::{CapBreach, CapMeasure, CapRuleName, CapScope};
use super::rule_book::{RuleBook, RuleState};
use super::spend::{AttemptResult, SettledAttempt, SettledObject, SpendDemand};
use super::window::{CapWindow, SliceGrain};
use crate::stored_text::{Fingerprint, StoredText};

/// The key of a spend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpendName {
    /// The tenant or operator.
    pub party: String,
    /// The sub-account.
    pub account: String,
    /// The name under which the call is counted.
    pub counted_as: String,
    /// The call's key, or its stamp's.
    pub key: String,
}

/// A spend that counts, in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedSpend {
    /// The largest amount of any attempt.
    pub amount: ExactAmount,
    /// When the last attempt was admitted: it counts in the slices of this time.
    pub at_ms: u64,
    /// When the newest attempt was admitted that GatePay accepted.
    pub executed_ms: Option<u64>,
}

/// An admitted call whose end is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAttempt {
    /// The stamp of the call.
    pub stamp: Fingerprint,
    /// Its spend.
    pub name: SpendName,
    /// When it was admitted.
    pub at_ms: u64,
    /// The instance that asked.
    pub instance: i64,
    /// Whether the instance does not know the end either.
    pub unknown: bool,
}

/// A sum of one slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MeterCell {
    /// The parties.
    pub scope: CapScope,
    /// The name under which the calls are counted.
    pub counted_as: String,
    /// The currency.
    pub currency: CurrencyCode,
    /// The length of the slice.
    pub grain: SliceGrain,
    /// The slice.
    pub slice: u64,
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MeterSum {
    /// The amounts, in units of the 18th place; the largest number if they are more.
    pub units: u128,
    /// The number of calls.
    pub calls: u64,
    /// The oldest slice with anything in it.
    pub oldest: Option<u64>,
}

/// The tables of spends.
pub trait SpendTables {
    /// Why a table cannot be read or written.
    type Error;

    /// A spend in one currency.
    fn spend(
        &self,
        name: &SpendName,
        currency: &CurrencyCode,
    ) -> Result<Option<CountedSpend>, Self::Error>;
    /// A spend in all its currencies.
    fn spends(&self, name: &SpendName) -> Result<Vec<(CurrencyCode, CountedSpend)>, Self::Error>;
    /// Writes a spend in one currency.
    fn put_spend(
        &mut self,
        name: &SpendName,
        currency: &CurrencyCode,
        spend: CountedSpend,
    ) -> Result<(), Self::Error>;
    /// Removes a spend in all its currencies.
    fn remove_spend(&mut self, name: &SpendName) -> Result<(), Self::Error>;

    /// Writes an attempt.
    fn put_attempt(&mut self, attempt: &OpenAttempt) -> Result<(), Self::Error>;
    /// The attempt of a stamp.
    fn attempt(&self, stamp: &Fingerprint) -> Result<Option<OpenAttempt>, Self::Error>;
    /// The attempts under a key.
    fn attempts(&self, name: &SpendName) -> Result<Vec<OpenAttempt>, Self::Error>;
    /// Whether an object under a key has failed.
    fn has_failed(&self, name: &SpendName) -> Result<bool, Self::Error>;
    /// Notes that the object under a key has failed, for as long as spends are kept.
    fn note_failure(&mut self, name: &SpendName, decided_ms: u64) -> Result<(), Self::Error>;
    /// Removes an attempt.
    fn remove_attempt(&mut self, stamp: &Fingerprint) -> Result<(), Self::Error>;

    /// Adds an amount and a call to a slice.
    fn count(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), Self::Error>;
    /// Takes an amount and a call from a slice, if it is still there.
    fn uncount(&mut self, cell: &MeterCell, amount: ExactAmount) -> Result<(), Self::Error>;
    /// The sum of calls in one currency from a slice on.
    fn sum(
        &self,
        scope: &CapScope,
        calls: &BTreeSet<String>,
        currency: &CurrencyCode,
        window: &CapWindow,
    ) -> Result<MeterSum, Self::Error>;

    /// The approval for a call that is not over at a time.
    fn approval_of(&self, of: &ApprovalKey, now_ms: u64) -> Result<Option<Approval>, Self::Error>;
    /// The number of approvals of a party that wait for operators at a time.
    fn approvals_waiting(&self, party: &StoredText, now_ms: u64) -> Result<u64, Self::Error>;
    /// The approval of an id.
    fn approval(&self, id: &ApprovalId) -> Result<Option<Approval>, Self::Error>;
    /// Writes an approval.
    fn put_approval(&mut self, approval: &Approval) -> Result<(), Self::Error>;
}

/// A call that would be admitted, apart from its spend.
#[derive(Debug, Clone, Copy)]
pub struct SpendingCall<'a> {
    /// The stamp.
    pub stamp: &'a Fingerprint,
    /// The tenant or operator.
    pub party: &'a StoredText,
    /// The sub-account.
    pub account: &'a StoredText,
    /// What it spends.
    pub demand: &'a SpendDemand,
    /// The instance that asks.
    pub instance: i64,
}

/// The decision about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpendJudgement {
    /// The amounts are reserved. The breach is of a shadow rule.
    Reserved(Option<CapBreach>),
    /// A rule has no room, and nothing is reserved.
    Exceeded(CapBreach),
    /// Operators have to approve the call, and nothing is reserved.
    NeedsApproval(ApprovalDemand),
    /// A rule covers the call, and the currency of its order is not known. Nothing is reserved.
    UnknownCurrency,
}

/// Reserves what a call spends, if every rule holds.
pub fn reserve<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    now_ms: u64,
    call: SpendingCall<'_>,
) -> Result<SpendJudgement, T::Error> {
    let name = SpendName {
        party: call.party.as_str().to_owned(),
        account: call.account.as_str().to_owned(),
        counted_as: call.demand.counted_as.to_owned(),
        key: call.demand.stored_key(call.stamp),
    };
    let scope = CapScope::of_account(call.account);
    // Without its currency nothing can be counted.
    if call.demand.of_order.is_some() {
        let is_bound = book.binds(&scope, call.demand.counted_as, now_ms);
        return Ok(if is_bound {
            SpendJudgement::UnknownCurrency
        } else {
            SpendJudgement::Reserved(None)
        });
    }
    let parts = sums(call.demand);
    let (mut shadow, mut unapproved) = (None, Vec::new());
    for (currency, amount) in &parts {
        let own = tables.spend(&name, currency)?;
        let part = SpendPart {
            scope: &scope,
            name: &name,
            currency,
            amount: *amount,
            own,
        };
        match part.breach(tables, book, now_ms)? {
            Some((false, breach)) => return Ok(SpendJudgement::Exceeded(breach)),
            Some((true, breach)) => shadow = shadow.or(Some(breach)),
            None => {}
        }
        unapproved.extend(part.above(book, now_ms));
    }
    // Caps come first: no operator is asked for a call that has no room.
    unapproved.sort_by_key(|(is_shadow, _)| *is_shadow);
    match unapproved.into_iter().next() {
        Some((false, breach)) => {
            if let Some(demand) = use_approval(tables, now_ms, call, &breach)? {
                return Ok(SpendJudgement::NeedsApproval(demand));
            }
            // PostgreSQL's function tells the first breach only.
            shadow = None;
        }
        Some((true, breach)) => shadow = shadow.or(Some(breach)),
        None => {}
    }
    for (currency, amount) in parts {
        count_spend(tables, book, (&name, &currency, amount), now_ms)?;
    }
    tables.put_attempt(&OpenAttempt {
        stamp: *call.stamp,
        name,
        at_ms: now_ms,
        instance: call.instance,
        unknown: false,
    })?;
    Ok(SpendJudgement::Reserved(shadow))
}

/// Counts a spend in one currency from now on. Under a key that counts already the larger amount stays.
fn count_spend<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    (name, currency, amount): (&SpendName, &CurrencyCode, ExactAmount),
    now_ms: u64,
) -> Result<(), T::Error> {
    let own = tables.spend(name, currency)?;
    if let Some(own) = own {
        for cell in cells(book, name, currency, own.at_ms) {
            tables.uncount(&cell, own.amount)?;
        }
    }
    let counted = CountedSpend {
        amount: own.map_or(amount, |own| own.amount.max(amount)),
        at_ms: now_ms,
        executed_ms: own.and_then(|own| own.executed_ms),
    };
    for cell in cells(book, name, currency, now_ms) {
        tables.count(&cell, counted.amount)?;
    }
    tables.put_spend(name, currency, counted)
}

/// Takes the approval of a call away, since the call passes. Without one, returns which it needs: it waits from now on.
fn use_approval<T: SpendTables>(
    tables: &mut T,
    now_ms: u64,
    call: SpendingCall<'_>,
    breach: &CapBreach,
) -> Result<Option<ApprovalDemand>, T::Error> {
    let needs = |id: Option<ApprovalId>, is_rejected| ApprovalDemand {
        id,
        is_rejected,
        begins: id == Some(ApprovalId::of(call.stamp)),
        is_crowded: false,
        breach: breach.clone(),
    };
    let Some(subject) = &call.demand.approval else {
        return Ok(Some(needs(None, false)));
    };
    let of = ApprovalKey {
        party: call.party.clone(),
        account: call.account.clone(),
        counted_as: call.demand.counted_as.to_owned(),
        key: call.demand.key.clone(),
        body_sha256: subject.body_sha256,
    };
    let Some(mut known) = tables.approval_of(&of, now_ms)? else {
        if tables.approvals_waiting(call.party, now_ms)? >= MOST_WAITING {
            return Ok(Some(ApprovalDemand {
                is_crowded: true,
                ..needs(None, false)
            }));
        }
        let id = ApprovalId::of(call.stamp);
        // Two stamps may begin alike, and somebody may have sought them: an id never names another call than before.
        if tables.approval(&id)?.is_some() {
            return Ok(Some(needs(None, false)));
        }
        tables.put_approval(&Approval {
            id,
            of,
            amounts: subject.amounts.clone(),
            targets: subject.targets.clone(),
            state: ApprovalState::Waiting,
            asked_ms: now_ms,
            until_ms: now_ms.saturating_add(APPROVAL_MS),
            signers: Vec::new(),
        })?;
        return Ok(Some(needs(Some(id), false)));
    };
    if known.state == ApprovalState::Approved {
        known.state = ApprovalState::Used;
        tables.put_approval(&known)?;
        return Ok(None);
    }
    let is_rejected = known.state == ApprovalState::Rejected;
    Ok(Some(needs(Some(known.id), is_rejected)))
}

/// The approval that an operator was shown, by its id and the digest of the call's body: the id alone has 64 bits, and names a
/// call to people.
fn shown_approval<T: SpendTables>(
    tables: &T,
    (id, digest): (&ApprovalId, &[u8; 32]),
) -> Result<Option<Approval>, T::Error> {
    let found = tables.approval(id)?;
    Ok(found.filter(|approval| approval.of.body_sha256 == *digest))
}

/// Takes an operator's approval of a call, of `needed` different operators each.
pub fn approve<T: SpendTables>(
    tables: &mut T,
    shown: (&ApprovalId, &[u8; 32]),
    (by, needed): (&StoredText, usize),
    now_ms: u64,
) -> Result<ApprovalOrder, T::Error> {
    let Some(mut approval) = shown_approval(tables, shown)? else {
        return Ok(ApprovalOrder::NotFound);
    };
    let order = approval.sign(by, needed, now_ms);
    if order == ApprovalOrder::Taken {
        tables.put_approval(&approval)?;
    }
    Ok(order)
}

/// Takes an operator's rejection of a call.
pub fn reject<T: SpendTables>(
    tables: &mut T,
    shown: (&ApprovalId, &[u8; 32]),
    now_ms: u64,
) -> Result<ApprovalOrder, T::Error> {
    let Some(mut approval) = shown_approval(tables, shown)? else {
        return Ok(ApprovalOrder::NotFound);
    };
    let order = approval.reject(now_ms);
    if order == ApprovalOrder::Taken {
        tables.put_approval(&approval)?;
    }
    Ok(order)
}

/// Takes over what instances know about their calls. An attempt that is not known is settled already.
pub fn settle_attempts<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    settled: &[SettledAttempt],
) -> Result<(), T::Error> {
    let mut refuted = Vec::new();
    for SettledAttempt { stamp, result } in settled {
        let Some(mut attempt) = tables.attempt(stamp)? else {
            continue;
        };
        match result {
            AttemptResult::Unknown => {
                attempt.unknown = true;
                tables.put_attempt(&attempt)?;
                continue;
            }
            AttemptResult::Executed | AttemptResult::Found => {
                for (currency, mut spend) in tables.spends(&attempt.name)? {
                    spend.executed_ms = spend.executed_ms.max(Some(attempt.at_ms));
                    tables.put_spend(&attempt.name, &currency, spend)?;
                }
            }
            AttemptResult::NotExecuted => refuted.push(attempt.name),
        }
        tables.remove_attempt(stamp)?;
    }
    // Last: another attempt of the same list may have been executed.
    for name in refuted {
        release_if_refuted(tables, book, &name)?;
    }
    Ok(())
}

/// Takes over GatePay's last word on an object. Returns whether its spend is released by it.
pub fn settle_object<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    object: &SettledObject,
) -> Result<bool, T::Error> {
    let mut names = Vec::new();
    for counted_as in &object.counted_as {
        let name = SpendName {
            party: object.party.as_str().to_owned(),
            account: object.account.as_str().to_owned(),
            counted_as: (*counted_as).to_owned(),
            key: object.key.as_str().to_owned(),
        };
        if !tables.spends(&name)?.is_empty() {
            names.push(name);
        }
    }
    // GatePay may keep an object of each name, and told about one of them.
    if !object.stands {
        return match &names[..] {
            [name] => fail(tables, book, object, name),
            _ => Ok(false),
        };
    }
    for name in names {
        remove_covered_attempts(tables, object, &name)?;
        for (currency, mut spend) in tables.spends(&name)? {
            spend.executed_ms = spend.executed_ms.max(Some(object.decided_ms));
            tables.put_spend(&name, &currency, spend)?;
        }
    }
    Ok(false)
}

/// Takes over the failure of the object under a key, once: when a notification came says little about when GatePay
/// decided, so that a late copy of it must not undo a later spend under the key.
fn fail<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    object: &SettledObject,
    name: &SpendName,
) -> Result<bool, T::Error> {
    let spends = tables.spends(name)?;
    let is_same = object.amounts.iter().all(|stated| {
        spends.iter().any(|(currency, spend)| {
            let is_currency = stated.currency.as_ref().is_none_or(|it| it == currency);
            is_currency && spend.amount == stated.amount
        })
    });
    if !is_same || tables.has_failed(name)? {
        return Ok(false);
    }
    let mut has_changed = remove_covered_attempts(tables, object, name)?;
    for (currency, mut spend) in spends {
        let executed = spend.executed_ms;
        spend.executed_ms = executed.filter(|ms| *ms > object.decided_ms);
        has_changed |= spend.executed_ms != executed;
        tables.put_spend(name, &currency, spend)?;
    }
    let is_released = release_if_refuted(tables, book, name)?;
    if has_changed || is_released {
        tables.note_failure(name, object.decided_ms)?;
    }
    Ok(is_released)
}

/// Removes the attempts of unknown outcome that GatePay's word is about. Returns whether there were any.
fn remove_covered_attempts<T: SpendTables>(
    tables: &mut T,
    object: &SettledObject,
    name: &SpendName,
) -> Result<bool, T::Error> {
    let mut attempts = tables.attempts(name)?;
    attempts.retain(|attempt| attempt.unknown && attempt.at_ms <= object.decided_ms);
    for attempt in &attempts {
        tables.remove_attempt(&attempt.stamp)?;
    }
    Ok(!attempts.is_empty())
}

fn release_if_refuted<T: SpendTables>(
    tables: &mut T,
    book: &RuleBook,
    name: &SpendName,
) -> Result<bool, T::Error> {
    let spends = tables.spends(name)?;
    let is_executed = spends.iter().any(|(_, spend)| spend.executed_ms.is_some());
    if spends.is_empty() || is_executed || !tables.attempts(name)?.is_empty() {
        return Ok(false);
    }
    for (currency, spend) in spends {
        for cell in cells(book, name, &currency, spend.at_ms) {
            tables.uncount(&cell, spend.amount)?;
        }
    }
    tables.remove_spend(name)?;
    Ok(true)
}

/// The slices in which a spend of this time counts.
fn cells(book: &RuleBook, name: &SpendName, currency: &CurrencyCode, at_ms: u64) -> Vec<MeterCell> {
    let own = StoredText::parse(&name.account).map(|account| CapScope::of_account(&account));
    let all = book.sums_over_all().then_some(CapScope::All);
    let scopes = own.into_iter().chain(all);
    let cells = scopes.flat_map(|scope| {
        SliceGrain::ALL.map(|grain| MeterCell {
            scope: scope.clone(),
            counted_as: name.counted_as.clone(),
            currency: currency.clone(),
            grain,
            slice: grain.slice(at_ms),
        })
    });
    cells.collect()
}

fn sums(demand: &SpendDemand) -> BTreeMap<CurrencyCode, ExactAmount> {
    let mut sums: BTreeMap<CurrencyCode, ExactAmount> = BTreeMap::new();
    for part in &demand.parts {
        let sum = sums.entry(part.currency.clone()).or_default();
        *sum = sum.plus(part.amount).unwrap_or(ExactAmount::MOST);
    }
    sums
}

/// The amount of a call in one currency.
struct SpendPart<'a> {
    /// The scope of the sub-account.
    scope: &'a CapScope,
    name: &'a SpendName,
    currency: &'a CurrencyCode,
    amount: ExactAmount,
    /// What counts already under the call's key.
    own: Option<CountedSpend>,
}

impl SpendPart<'_> {
    /// The first rule that is broken, and whether it is a shadow rule.
    fn breach<T: SpendTables>(
        &self,
        tables: &T,
        book: &RuleBook,
        now_ms: u64,
    ) -> Result<Option<(bool, CapBreach)>, T::Error> {
        let mut rules = self.rules(book, now_ms);
        if rules.any(|(rule, _)| rule.measure == CapMeasure::NoCap) {
            let breach = CapBreach {
                over_all: false,
                currency: self.currency.clone(),
                rule: None,
                left: ExactAmount::ZERO,
                frees_ms: None,
            };
            return Ok(Some((false, breach)));
        }
        let rules = self.rules(book, now_ms);
        for (rule, state) in rules.filter(|(rule, _)| rule.measure != CapMeasure::ApproveAbove) {
            let limit = state.limit_at(now_ms);
            let Some(window) = CapWindow::of(rule.measure, now_ms, &book.midnights) else {
                if self.amount > limit {
                    let breach = self.told(rule.scope == CapScope::All, rule.measure, limit);
                    return Ok(Some((rule.shadow, breach)));
                }
                continue;
            };
            let sum = tables.sum(&rule.scope, &rule.calls, self.currency, &window)?;
            if let Some(left) = self.room(rule.measure, limit, &window, &sum) {
                let breach = CapBreach {
                    left,
                    frees_ms: window.frees_ms(sum.oldest, now_ms, &book.midnights),
                    ..self.told(rule.scope == CapScope::All, rule.measure, limit)
                };
                return Ok(Some((rule.shadow, breach)));
            }
        }
        Ok(None)
    }

    /// The first rule above which operators have to approve the call, and whether it is a shadow rule.
    fn above(&self, book: &RuleBook, now_ms: u64) -> Option<(bool, CapBreach)> {
        let mut rules = self
            .rules(book, now_ms)
            .filter(|(rule, _)| rule.measure == CapMeasure::ApproveAbove);
        rules.find_map(|(rule, state)| {
            let limit = state.limit_at(now_ms);
            let breach = || self.told(rule.scope == CapScope::All, rule.measure, limit);
            (self.amount > limit).then(|| (rule.shadow, breach()))
        })
    }

    /// The rules in force that cover the amount, in their order.
    fn rules<'b>(
        &self,
        book: &'b RuleBook,
        now_ms: u64,
    ) -> impl Iterator<Item = (&'b CapRuleName, &'b RuleState)> {
        let call = &*self.name.counted_as;
        book.covering(self.scope, (call, self.currency), now_ms)
    }

    fn told(&self, over_all: bool, measure: CapMeasure, limit: ExactAmount) -> CapBreach {
        CapBreach {
            over_all,
            currency: self.currency.clone(),
            rule: Some((measure, limit)),
            left: limit,
            frees_ms: None,
        }
    }

    /// The amount that is left of a window, if the call does not fit in. What counts under the call's own key is left out.
    fn room(
        &self,
        measure: CapMeasure,
        limit: ExactAmount,
        window: &CapWindow,
        sum: &MeterSum,
    ) -> Option<ExactAmount> {
        let own = self.own.filter(|own| window.covers(own.at_ms));
        let (used, takes) = if measure == CapMeasure::CountPerHour {
            let one = 10_u128.pow(18);
            let used = u128::from(sum.calls).saturating_mul(one);
            (used, if own.is_some() { 0 } else { one })
        } else {
            let kept = self
                .own
                .map_or(self.amount, |own| own.amount.max(self.amount));
            let counted = own.map_or(0, |own| own.amount.units());
            (
                sum.units.saturating_sub(counted),
                if kept.units() > counted {
                    kept.units()
                } else {
                    0
                },
            )
        };
        let left = limit.units().saturating_sub(used);
        (takes > left).then(|| ExactAmount::from_units(left).unwrap_or(ExactAmount::ZERO))
    }
}
