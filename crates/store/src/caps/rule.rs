//! Cap rule: one limit on what calls may spend; and the breach of one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::money::CurrencyCode;

use crate::stored_text::StoredText;

/// The parties that a rule sums over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapScope {
    /// All parties together.
    All,
    /// All parties that act for one sub-account, whatever their ids: the sub-account's money is what a cap protects.
    Account(StoredText),
}

/// What a rule limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapMeasure {
    /// The amount of one call.
    PerCall,
    /// The amounts of any hour.
    PerHour,
    /// The amounts of any 24 hours.
    Per24Hours,
    /// The amounts since midnight.
    PerDay,
    /// The number of calls of any hour.
    CountPerHour,
    /// The amount of one call, above which operators have to approve it.
    ApproveAbove,
    /// Nothing: a file with caps for a call allows no currency without one. Its limit is 0.
    NoCap,
}

/// One limit. Every rule that covers a call must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapRule {
    /// Which limit it is. A rule that differs here is another rule.
    pub name: CapRuleName,
    /// The limit: an amount, or a whole number of calls.
    pub limit: ExactAmount,
}

/// What makes a rule the same rule after a reload.
///
/// The order is that in which rules are compared with a call; the first breach is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CapRuleName {
    /// Whether a breach is only reported.
    pub shadow: bool,
    /// The parties.
    pub scope: CapScope,
    /// What is limited.
    pub measure: CapMeasure,
    /// The currency, or `None` for each currency but those of `exempt`.
    pub currency: Option<CurrencyCode>,
    /// The calls, by the names under which they are
    /// [counted](gatepay_core::money::MoneyDemand::counted_as).
    pub calls: BTreeSet<String>,
    /// The currencies that the same file has rules of their own for: `USDT`, or `USDT:create_payout` for one of the calls only.
    /// It is part of the rule, so that another file's rules for a currency lift nothing of this one.
    pub exempt: BTreeSet<String>,
}

/// All rules of a configuration, as an instance declares them.
#[derive(Debug, Clone, Default)]
pub struct CapDeclaration {
    /// The rules of all parties.
    pub rules: Vec<CapRule>,
    /// The midnights of the configured time zone, ascending, in milliseconds since 1970: at least the last one and those of
    /// the time until the next declaration. After the last one the day does not end. While a rule counts by day, midnights of
    /// another zone count from the end of the day under way on.
    pub midnights: Vec<u64>,
    /// How long a raised or removed rule still holds as it was, in milliseconds. While rules are in force, a shorter time than
    /// before holds only once the time before is over.
    pub raise_after_ms: u64,
    /// The number of operators for an order that one alone may not give. A larger number holds at once, over all instances; a
    /// smaller one as late as a raised rule.
    pub approvers: u32,
}

/// The calls that a rule in force covers: for one sub-account, or of all parties.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CappedCalls {
    /// Whether a breach of it is only reported.
    pub shadow: bool,
    /// The parties.
    pub scope: CapScope,
    /// The calls, by the names under which they are counted.
    pub calls: BTreeSet<String>,
}

/// Why a call has no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapBreach {
    /// Whether the rule sums over all parties.
    pub over_all: bool,
    /// The currency of the amount.
    pub currency: CurrencyCode,
    /// The rule's measure and limit; `None` if the sub-account has rules for the call but none for this currency.
    pub rule: Option<(CapMeasure, ExactAmount)>,
    /// What may still be spent, or called. Of a rule per call, the limit.
    pub left: ExactAmount,
    /// The earliest time at which room can come free, in milliseconds since 1970 by the store's clock. `None` if none will.
    pub frees_ms: Option<u64>,
}

/// A breach of a shadow rule by an admitted call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowBreach {
    /// The call's place in the batch, from 0 on.
    pub row: usize,
    /// The first shadow rule that was broken.
    pub breach: CapBreach,
}

impl CapDeclaration {
    /// The rules of several configurations together, by the midnights of the last: of a rule the lowest limit, the longest time
    /// until a raise, and the most operators.
    pub fn stricter<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut stricter = Self::default();
        for one in all {
            stricter.rules.extend_from_slice(&one.rules);
            stricter.midnights.clone_from(&one.midnights);
            stricter.raise_after_ms = stricter.raise_after_ms.max(one.raise_after_ms);
            stricter.approvers = stricter.approvers.max(one.approvers);
        }
        stricter
    }

    /// Whether a rule asks for approvals.
    pub fn asks_approvals(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.name.measure == CapMeasure::ApproveAbove)
    }

    /// The limits by rule. Of a rule that is declared twice, the lower limit.
    pub(crate) fn by_name(&self) -> BTreeMap<&CapRuleName, ExactAmount> {
        let mut limits = BTreeMap::new();
        for rule in &self.rules {
            let limit = limits.entry(&rule.name).or_insert(rule.limit);
            *limit = rule.limit.min(*limit);
        }
        limits
    }
}

/// The account in tables of calls that name none. No sub-account is called so.
const NO_ACCOUNT: &str = "\u{1f}";

impl CapScope {
    /// The parties that act for a sub-account; those of calls that name none, if it is empty.
    pub fn of_account(account: &StoredText) -> Self {
        if account.as_str().is_empty() {
            return Self::Account(StoredText::parse(NO_ACCOUNT).expect("one character is stored"));
        }
        Self::Account(account.clone())
    }

    /// The scope's text in tables: a sub-account, or nothing.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::All => "",
            Self::Account(account) => account.as_str(),
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::All),
            account => StoredText::parse(account).map(Self::Account),
        }
    }
}

impl CapMeasure {
    /// Every measure; the place is the number in tables.
    pub const ALL: [Self; 7] = [
        Self::PerCall,
        Self::PerHour,
        Self::Per24Hours,
        Self::PerDay,
        Self::CountPerHour,
        Self::ApproveAbove,
        Self::NoCap,
    ];

    /// The key of a configuration that sets it; of [`NoCap`](Self::NoCap), which none sets, the word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerCall => "per_call",
            Self::PerHour => "per_hour",
            Self::Per24Hours => "per_24h",
            Self::PerDay => "per_day",
            Self::CountPerHour => "count_per_hour",
            Self::ApproveAbove => "approve_above",
            Self::NoCap => "no_cap",
        }
    }

    pub(crate) fn number(self) -> i16 {
        match self {
            Self::PerCall => 0,
            Self::PerHour => 1,
            Self::Per24Hours => 2,
            Self::PerDay => 3,
            Self::CountPerHour => 4,
            Self::ApproveAbove => 5,
            Self::NoCap => 6,
        }
    }

    pub(crate) fn of(number: i64) -> Option<Self> {
        let at = usize::try_from(number).ok()?;
        Self::ALL.get(at).copied()
    }
}

impl CapRule {
    /// The rules of one file, of which the rules for every other currency do not know yet which currencies these are: those of
    /// which the file has no real rule for the call and the parties. Where it has rules for a sub-account's call, and none for
    /// every other currency, it has one more, which allows none.
    pub fn of_file(mut rules: Vec<Self>) -> Vec<Self> {
        let real: Vec<CapRuleName> = rules
            .iter()
            .filter(|rule| !rule.name.shadow)
            .map(|rule| rule.name.clone())
            .collect();
        for rule in rules.iter_mut().filter(|it| it.name.currency.is_none()) {
            rule.name.exempt = exempt(&real, &rule.name.scope, &rule.name.calls);
        }
        let scopes: BTreeSet<&CapScope> = real.iter().map(|name| &name.scope).collect();
        for scope in scopes.into_iter().filter(|scope| **scope != CapScope::All) {
            let own = || real.iter().filter(|name| name.scope == *scope);
            let calls_of = |name: &CapRuleName| name.calls.clone();
            let open = own().filter(|name| name.currency.is_none());
            let open: BTreeSet<String> = open.flat_map(calls_of).collect();
            let closed = own().flat_map(calls_of);
            let closed: BTreeSet<String> = closed.filter(|call| !open.contains(call)).collect();
            if closed.is_empty() {
                continue;
            }
            rules.push(Self {
                name: CapRuleName {
                    shadow: false,
                    scope: scope.clone(),
                    measure: CapMeasure::NoCap,
                    currency: None,
                    exempt: exempt(&real, scope, &closed),
                    calls: closed,
                },
                limit: ExactAmount::ZERO,
            });
        }
        rules
    }
}

/// The currencies with real rules of their own for some of these calls.
fn exempt(real: &[CapRuleName], scope: &CapScope, calls: &BTreeSet<String>) -> BTreeSet<String> {
    let mut named: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in real.iter().filter(|name| name.scope == *scope) {
        let own = name.currency.iter();
        for currency in own.map(CurrencyCode::as_str) {
            let shared = name.calls.intersection(calls).map(String::as_str);
            named.entry(currency).or_default().extend(shared);
        }
    }
    let exempt = named.into_iter().flat_map(|(currency, shared)| {
        if shared.len() == calls.len() {
            return vec![currency.to_owned()];
        }
        let shared = shared.into_iter();
        shared.map(|call| format!("{currency}:{call}")).collect()
    });
    exempt.collect()
}

impl CapRuleName {
    /// A name that none of a scope is before.
    pub(super) fn first_of(shadow: bool, scope: &CapScope) -> Self {
        Self {
            shadow,
            scope: scope.clone(),
            measure: CapMeasure::ALL[0],
            currency: None,
            calls: BTreeSet::new(),
            exempt: BTreeSet::new(),
        }
    }

    /// Whether the rule is about calls in a currency, whoever makes them.
    pub fn covers(&self, call: &str, currency: &CurrencyCode) -> bool {
        let is_exempt = || {
            let currency = currency.as_str();
            self.exempt.contains(currency) || self.exempt.contains(&format!("{currency}:{call}"))
        };
        self.calls.contains(call)
            && match &self.currency {
                Some(own) => own == currency,
                None => self.exempt.is_empty() || !is_exempt(),
            }
    }

    /// The text in tables of currencies with rules of their own.
    pub(crate) fn exempt_text(&self) -> String {
        let exempt: Vec<&str> = self.exempt.iter().map(String::as_str).collect();
        exempt.join(",")
    }

    pub(crate) fn exempt_of(text: &str) -> BTreeSet<String> {
        let exempt = text.split(',').filter(|it| !it.is_empty());
        exempt.map(str::to_owned).collect()
    }

    /// The currency's text in tables: `*` for every other.
    pub(crate) fn currency_text(&self) -> &str {
        self.currency.as_ref().map_or("*", CurrencyCode::as_str)
    }

    /// The calls' text in tables.
    pub(crate) fn calls_text(&self) -> String {
        let calls: Vec<&str> = self.calls.iter().map(String::as_str).collect();
        calls.join(",")
    }

    /// The currency that a text in tables stands for.
    pub(crate) fn currency_of(text: &str) -> Option<CurrencyCode> {
        CurrencyCode::parse(text).filter(|_| text != "*")
    }

    pub(crate) fn calls_of(text: &str) -> BTreeSet<String> {
        text.split(',').map(str::to_owned).collect()
    }
}

impl fmt::Display for CapMeasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `per_day cap of 500 USDT: 20 left`.
impl fmt::Display for CapBreach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { currency, left, .. } = self;
        let all = if self.over_all {
            " over all tenants"
        } else {
            ""
        };
        match self.rule {
            None => write!(f, "no cap for {currency}, so none may be spent"),
            Some((CapMeasure::CountPerHour, limit)) => {
                write!(
                    f,
                    "count_per_hour cap of {limit} calls in {currency}{all}: {left} left"
                )
            }
            Some((CapMeasure::ApproveAbove, limit)) => {
                write!(f, "approve_above of {limit} {currency}{all}")
            }
            Some((measure, limit)) => {
                write!(f, "{measure} cap of {limit} {currency}{all}: {left} left")
            }
        }
    }
}
