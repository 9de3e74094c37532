//! Cap report: the rules that the store keeps, what each counts, and what is left of it.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use super::early_raise::{PendingRaise, RaiseDigest};
use super::judge::{MeterCell, MeterSum};
use super::rule::{CapMeasure, CapRuleName, CapScope};
use super::rule_book::{RaiseDelay, RuleBook, RuleState};
use super::window::{CapWindow, SliceGrain};
use crate::stored_text::StoredText;

/// The tables of caps as a report reads them.
#[derive(Debug, Clone, Default)]
pub struct CapFacts {
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// The rules.
    pub book: RuleBook,
    /// The sums of the slices that windows may cover, of the scopes that the report is about.
    pub meters: BTreeMap<MeterCell, MeterSum>,
    /// The spends with an attempt whose end is not known.
    pub open: Vec<OpenSpend>,
    /// The operators that have approved changes that wait, by the digest of the changes.
    pub signers: Vec<(RaiseDigest, StoredText)>,
}

/// A spend in one currency that counts although GatePay is not known to have executed every attempt of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSpend {
    /// The sub-account.
    pub account: StoredText,
    /// The name under which the call is counted.
    pub counted_as: String,
    /// The currency.
    pub currency: CurrencyCode,
    /// The amount.
    pub amount: ExactAmount,
    /// When its last attempt was admitted.
    pub at_ms: u64,
    /// Whether the instances do not know the end either. If not, a call is under way.
    pub is_unknown: bool,
}

/// The sums that the caps of a report need: a caller may name any currency, and each is summed by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NeededSums {
    /// By scope and name of calls, the currencies that caps name.
    pub named: BTreeSet<(CapScope, String, CurrencyCode)>,
    /// The scopes and names of calls with caps for every other currency, of which at most [`MOST_OTHER_SUMS`] are read.
    pub others: BTreeSet<(CapScope, String)>,
    /// The first slice of each [grain](SliceGrain::ALL) that a window covers.
    pub first: [u64; 2],
}

/// The most slices of a scope, a name of calls and a grain in which a report looks for currencies that no cap names, in the
/// order of the currencies. The last currency is read to its end.
pub const MOST_OTHER_SUMS: u32 = 10_000;

/// The caps in force and about to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapReport {
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
    /// How late a raise holds; `None` before the first declaration.
    pub delay: Option<RaiseDelay>,
    /// The caps.
    pub caps: Vec<CapState>,
    /// The changes that wait, with the operators that have approved them.
    pub waiting: Vec<(PendingRaise, Vec<StoredText>)>,
}

/// One cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapState {
    /// Which limit it is.
    pub name: CapRuleName,
    /// Its present and future.
    pub state: RuleState,
    /// The limit that holds now.
    pub limit: ExactAmount,
    /// The counted amounts by currency. A cap per call counts nothing.
    pub uses: Vec<CapUse>,
}

/// The counted amount of a cap in one currency, or its counted calls. The parts add up to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapUse {
    /// The currency.
    pub currency: CurrencyCode,
    /// The whole counted amount.
    pub counted: ExactAmount,
    /// The amount of calls that are under way.
    pub reserved: ExactAmount,
    /// The amount of calls whose outcome is unknown.
    pub unknown: ExactAmount,
    /// The amount of calls that GatePay executed.
    pub spent: ExactAmount,
    /// The limit less the counted amount.
    pub left: ExactAmount,
    /// The earliest time at which something can leave the window, in milliseconds since 1970.
    pub frees_ms: Option<u64>,
}

impl NeededSums {
    /// Those of the rules of a sub-account and of all together; without one, of every rule.
    pub fn of(book: &RuleBook, of: Option<&StoredText>, now_ms: u64) -> Self {
        let first =
            SliceGrain::ALL.map(|grain| CapWindow::first_of_any(grain, now_ms, &book.midnights));
        let mut needed = Self {
            first,
            ..Self::default()
        };
        let summed = book.rules.iter().filter(|(name, state)| {
            let sums = CapWindow::of(name.measure, now_ms, &book.midnights).is_some();
            sums && is_shown(&name.scope, of) && state.is_in_force(now_ms)
        });
        for (name, _) in summed {
            for call in &name.calls {
                let (scope, call) = (name.scope.clone(), call.clone());
                match &name.currency {
                    Some(currency) => {
                        needed.named.insert((scope, call, currency.clone()));
                    }
                    None => {
                        needed.others.insert((scope, call));
                    }
                }
            }
        }
        needed
    }

    /// The time from which on spends count in any window. After a change of the time zone a day is longer than any other window.
    pub fn from_ms(&self) -> u64 {
        let first = SliceGrain::ALL.into_iter().zip(self.first);
        let first = first.map(|(grain, first)| first.saturating_mul(grain.slice_ms()));
        first.min().unwrap_or_default()
    }
}

/// One call, as limits on their number count it.
const ONE: u128 = 10_u128.pow(18);

impl CapFacts {
    /// The caps of a sub-account and those over all; without one, every cap.
    pub fn report(&self, of: Option<&StoredText>) -> CapReport {
        let rules = self.book.rules.iter();
        let shown = rules
            .filter(|(name, state)| is_shown(&name.scope, of) && state.is_in_force(self.now_ms));
        let index = FactIndex::of(self);
        let caps = shown.map(|(name, state)| CapState {
            name: name.clone(),
            state: *state,
            limit: state.limit_at(self.now_ms),
            uses: self.uses(name, state.limit_at(self.now_ms), &index),
        });
        let waiting = signed_raises(&self.book, &self.signers, self.now_ms).into_iter();
        let waiting = waiting.filter(|(waiting, _)| is_shown(&waiting.scope, of));
        CapReport {
            now_ms: self.now_ms,
            delay: self.book.delay,
            caps: caps.collect(),
            waiting: waiting.collect(),
        }
    }

    fn uses(&self, name: &CapRuleName, limit: ExactAmount, index: &FactIndex<'_>) -> Vec<CapUse> {
        let midnights = &self.book.midnights;
        let Some(window) = CapWindow::of(name.measure, self.now_ms, midnights) else {
            return Vec::new();
        };
        let currencies = match &name.currency {
            Some(own) => BTreeSet::from([own]),
            None => index.other_currencies(name, &window),
        };
        let uses = currencies.into_iter().map(|currency| {
            let sum = self.sum(name, currency, &window);
            let counts_calls = name.measure == CapMeasure::CountPerHour;
            let counted = if counts_calls {
                u128::from(sum.calls).saturating_mul(ONE)
            } else {
                sum.units
            };
            let open = |is_unknown: bool| -> u128 {
                let open = index.open_in(&name.scope, currency).iter().filter(|spend| {
                    spend.is_unknown == is_unknown
                        && name.calls.contains(&spend.counted_as)
                        && window.covers(spend.at_ms)
                });
                let units = open.map(|spend| {
                    if counts_calls {
                        ONE
                    } else {
                        spend.amount.units()
                    }
                });
                units.fold(0, u128::saturating_add)
            };
            let unknown = open(true).min(counted);
            let reserved = open(false).min(counted - unknown);
            CapUse {
                currency: currency.clone(),
                counted: amount(counted),
                reserved: amount(reserved),
                unknown: amount(unknown),
                spent: amount(counted - unknown - reserved),
                left: amount(limit.units().saturating_sub(counted)),
                frees_ms: window
                    .frees_ms(sum.oldest, self.now_ms, midnights)
                    .filter(|_| counted > 0),
            }
        });
        uses.collect()
    }

    fn sum(&self, name: &CapRuleName, currency: &CurrencyCode, window: &CapWindow) -> MeterSum {
        let mut total = MeterSum::default();
        for call in &name.calls {
            let from = MeterCell {
                scope: name.scope.clone(),
                counted_as: call.clone(),
                currency: currency.clone(),
                grain: window.grain,
                slice: window.first,
            };
            let to = MeterCell {
                slice: u64::MAX,
                ..from.clone()
            };
            for (cell, sum) in self.meters.range(from..=to) {
                total.add(cell.slice, sum.units, sum.calls);
            }
        }
        total
    }
}

/// The facts by what a rule looks for: neither the sums nor the open spends of all sub-accounts are gone through for the rules
/// of each.
struct FactIndex<'a> {
    /// The sums by scope and name of calls.
    cells: BTreeMap<(&'a CapScope, &'a str), Vec<(&'a MeterCell, &'a MeterSum)>>,
    /// The open spends by sub-account and currency; of all together under no sub-account.
    open: BTreeMap<(Option<&'a StoredText>, &'a CurrencyCode), Vec<&'a OpenSpend>>,
}

impl<'a> FactIndex<'a> {
    fn of(facts: &'a CapFacts) -> Self {
        let mut index = Self {
            cells: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        for (cell, sum) in &facts.meters {
            let place = (&cell.scope, cell.counted_as.as_str());
            index.cells.entry(place).or_default().push((cell, sum));
        }
        for spend in &facts.open {
            for scope in [None, Some(&spend.account)] {
                let place = (scope, &spend.currency);
                index.open.entry(place).or_default().push(spend);
            }
        }
        index
    }

    /// The currencies that a cap for all other ones counts.
    fn other_currencies(
        &self,
        name: &CapRuleName,
        window: &CapWindow,
    ) -> BTreeSet<&'a CurrencyCode> {
        let own = name.calls.iter();
        let own = own.filter_map(|call| self.cells.get(&(&name.scope, call.as_str())));
        let cells = own.flatten().filter(|(cell, sum)| {
            cell.grain == window.grain
                && cell.slice >= window.first
                && sum.calls > 0
                && name.covers(&cell.counted_as, &cell.currency)
        });
        cells.map(|(cell, _)| &cell.currency).collect()
    }

    /// The open spends in a currency that a scope sums over.
    fn open_in<'b>(
        &'b self,
        scope: &'b CapScope,
        currency: &'b CurrencyCode,
    ) -> &'b [&'a OpenSpend] {
        let account = match scope {
            CapScope::All => None,
            CapScope::Account(account) => Some(account),
        };
        let open = self.open.get(&(account, currency));
        open.map_or(&[], Vec::as_slice)
    }
}

impl CapState {
    /// The largest part of the limit that is used in any currency; 0 for a cap per call.
    pub fn used_ratio(&self) -> f64 {
        let ratio = |used: &CapUse| {
            let limit = self.limit.units();
            if limit == 0 {
                return 1.0;
            }
            // A ratio of two numbers of up to 38 digits needs no more than a float's.
            #[expect(clippy::cast_precision_loss, reason = "the ratio is for an alert")]
            let ratio = used.counted.units() as f64 / limit as f64;
            ratio
        };
        self.uses.iter().map(ratio).fold(0.0, f64::max)
    }
}

/// The changes that wait, with the operators that have approved them.
pub(crate) fn signed_raises(
    book: &RuleBook,
    signers: &[(RaiseDigest, StoredText)],
    now_ms: u64,
) -> Vec<(PendingRaise, Vec<StoredText>)> {
    let mut by_digest: BTreeMap<RaiseDigest, Vec<StoredText>> = BTreeMap::new();
    for (of, by) in signers {
        by_digest.entry(*of).or_default().push(by.clone());
    }
    let waiting = book.waiting_raises(now_ms).into_iter();
    let waiting = waiting.map(|waiting| {
        let signers = by_digest.remove(&waiting.digest).unwrap_or_default();
        (waiting, signers)
    });
    waiting.collect()
}

/// Whether a report about a sub-account, or about every one, shows the rules of a scope.
fn is_shown(scope: &CapScope, of: Option<&StoredText>) -> bool {
    match (scope, of) {
        (CapScope::All, _) | (_, None) => true,
        (CapScope::Account(account), Some(of)) => account == of,
    }
}

fn amount(units: u128) -> ExactAmount {
    ExactAmount::from_units(units).unwrap_or(ExactAmount::MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::rule::{CapDeclaration, CapRule};
    use crate::stored_text::comparisons;

    const NOW_MS: u64 = 1_767_225_600_000;
    const SCOPES: u64 = 10_000;

    fn rule(account: &StoredText, currency: Option<&str>, limit: u128) -> CapRule {
        CapRule {
            name: CapRuleName {
                shadow: false,
                scope: CapScope::of_account(account),
                measure: CapMeasure::PerHour,
                currency: currency.and_then(CurrencyCode::parse),
                calls: BTreeSet::from(["create_payout".to_owned()]),
                exempt: BTreeSet::new(),
            },
            limit: amount(limit * ONE),
        }
    }

    /// As many sub-accounts, of which each has two caps, a raise that waits, a sum and a call of unknown outcome.
    fn crowd(scopes: u64) -> CapFacts {
        let accounts = (0..scopes).map(|number| StoredText::parse(&number.to_string()));
        let accounts: Vec<StoredText> = accounts.map(Option::unwrap).collect();
        let declare = |limit| CapDeclaration {
            rules: accounts
                .iter()
                .flat_map(|account| [rule(account, Some("USDT"), limit), rule(account, None, 5)])
                .collect(),
            raise_after_ms: 1_000,
            ..CapDeclaration::default()
        };
        let mut facts = CapFacts {
            now_ms: NOW_MS,
            ..CapFacts::default()
        };
        facts.book.declare(&declare(1), NOW_MS);
        facts.book.declare(&declare(2), NOW_MS);
        let currency = CurrencyCode::parse("BTC").unwrap();
        let window = CapWindow::of(CapMeasure::PerHour, NOW_MS, &[]).unwrap();
        for account in accounts {
            let cell = MeterCell {
                scope: CapScope::of_account(&account),
                counted_as: "create_payout".to_owned(),
                currency: currency.clone(),
                grain: window.grain,
                slice: window.first,
            };
            let mut sum = MeterSum::default();
            sum.add(window.first, 3 * ONE, 1);
            facts.meters.insert(cell, sum);
            facts.open.push(OpenSpend {
                account,
                counted_as: "create_payout".to_owned(),
                currency: currency.clone(),
                amount: amount(3 * ONE),
                at_ms: NOW_MS,
                is_unknown: true,
            });
        }
        facts
    }

    #[test]
    fn a_report_about_ten_thousand_sub_accounts_compares_each_with_few_others() {
        let mut facts = crowd(SCOPES);
        // Some for each place in an index, in steps of its logarithm: all with all would be two hundred millions.
        let most = SCOPES * 500;
        let by = StoredText::parse("alice").unwrap();
        let waiting = comparisons::within(most, || facts.book.waiting_raises(NOW_MS));
        let signers = waiting.into_iter().map(|it| (it.digest, by.clone()));
        facts.signers = signers.collect();
        let report = comparisons::within(most, || facts.report(None));
        assert_eq!(report.caps.len(), 20_000);
        assert_eq!(report.waiting.len(), 10_000);
        assert!(report.waiting.iter().all(|(_, by)| by.len() == 1));
        let other = |state: &&CapState| state.name.currency.is_none();
        for state in report.caps.iter().filter(other) {
            let [used] = &state.uses[..] else {
                panic!("{:?}", state.uses);
            };
            assert_eq!(
                (used.counted, used.unknown),
                (amount(3 * ONE), amount(3 * ONE))
            );
        }
    }

    #[test]
    fn the_calls_that_rules_of_one_sub_account_cover_are_found_without_a_look_at_others() {
        let facts = crowd(SCOPES);
        let scope = CapScope::of_account(&StoredText::parse("77").unwrap());
        let find = || facts.book.capped_calls_of(&scope, NOW_MS);
        let capped = comparisons::within(500, find);
        assert_eq!(capped.len(), 1, "{capped:?}");
        assert_eq!(capped[0].scope, scope);
    }

    #[test]
    fn an_early_raise_of_one_sub_account_looks_at_no_rules_of_others() {
        let mut facts = crowd(SCOPES);
        let scope = CapScope::of_account(&StoredText::parse("77").unwrap());
        comparisons::within(500, || facts.book.raise_at_once(&scope, NOW_MS));
        let waiting = facts.book.waiting_raises(NOW_MS);
        assert_eq!(waiting.len(), 9_999);
        assert!(waiting.iter().all(|waiting| waiting.scope != scope));
    }
}
