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
    pub account: String,
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
}

/// One call, as limits on their number count it.
const ONE: u128 = 10_u128.pow(18);

impl CapFacts {
    /// The caps of a sub-account and those over all; without one, every cap.
    pub fn report(&self, of: Option<&StoredText>) -> CapReport {
        let rules = self.book.rules.iter();
        let shown = rules
            .filter(|(name, state)| is_shown(&name.scope, of) && state.is_in_force(self.now_ms));
        let caps = shown.map(|(name, state)| CapState {
            name: name.clone(),
            state: *state,
            limit: state.limit_at(self.now_ms),
            uses: self.uses(name, state.limit_at(self.now_ms)),
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

    fn uses(&self, name: &CapRuleName, limit: ExactAmount) -> Vec<CapUse> {
        let midnights = &self.book.midnights;
        let Some(window) = CapWindow::of(name.measure, self.now_ms, midnights) else {
            return Vec::new();
        };
        let currencies = match &name.currency {
            Some(own) => BTreeSet::from([own]),
            None => self.other_currencies(name, &window),
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
                let open = self.open.iter().filter(|spend| {
                    spend.is_unknown == is_unknown
                        && spend.currency == *currency
                        && name.calls.contains(&spend.counted_as)
                        && window.covers(spend.at_ms)
                        && is_of(&name.scope, &spend.account)
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

    /// The currencies that a cap for all other ones counts.
    fn other_currencies(&self, name: &CapRuleName, window: &CapWindow) -> BTreeSet<&CurrencyCode> {
        let cells = self.meters.iter().filter(|(cell, sum)| {
            is_in(cell, name, window)
                && sum.calls > 0
                && name.covers(&cell.counted_as, &cell.currency)
        });
        cells.map(|(cell, _)| &cell.currency).collect()
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
    let waiting = book.waiting_raises(now_ms).into_iter();
    let waiting = waiting.map(|waiting| {
        let signers = signers.iter().filter(|(of, _)| *of == waiting.digest);
        let signers = signers.map(|(_, by)| by.clone()).collect();
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

fn is_in(cell: &MeterCell, name: &CapRuleName, window: &CapWindow) -> bool {
    cell.scope == name.scope
        && cell.grain == window.grain
        && cell.slice >= window.first
        && name.calls.contains(&cell.counted_as)
}

fn is_of(scope: &CapScope, account: &str) -> bool {
    match scope {
        CapScope::All => true,
        CapScope::Account(own) => own.as_str() == account,
    }
}

fn amount(units: u128) -> ExactAmount {
    ExactAmount::from_units(units).unwrap_or(ExactAmount::MOST)
}
