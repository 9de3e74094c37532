//! Ownership: decides which tenant a notification belongs to, from hints that the ledger has resolved.
//!
//! GatePay signs every notification with the institution's secret and names no tenant (protocol.md 5.3). The decision
//! is a function of all hints together, so that no order of look-ups can change it. If the hints leave a doubt, no
//! tenant gets the notification: it waits in quarantine.
//!
//! The decision rests on four facts. GatePay gives one id to one account only. GatePay's news about an object is the news
//! of the account that has it, whatever calls other accounts have made with its id. The ledger has every number that tenants
//! have chosen since it exists, since an intent is recorded before its call is sent. And a number from before that does
//! not equal an id of GatePay's for another tenant; only fields that may hold either depend on this, and their hints are
//! [`Strong`](HintStrength::Strong) at most.
//!
//! An intent is recorded whether GatePay accepts the call or not, so a tenant can have any number in the ledger. Where
//! certain hints name one tenant, the numbers of tenants with other sub-accounts say nothing: otherwise every tenant could
//! keep the news of another in quarantine.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::ledger_key::HintStrength;
use crate::notification::{NotificationAudience, OwnershipHint};
use crate::words::words;

/// A tenant id together with its sub-account. An id that is used again with another sub-account is another tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantIncarnation {
    /// The tenant id, as its file name states it.
    pub tenant: String,
    /// The sub-account that GatePay keeps for the tenant.
    pub account: String,
    /// Counts the sub-accounts that the tenant id has had, from 1 on.
    pub incarnation: u64,
}

/// What may be delivered to a tenant that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TenantStanding {
    /// The tenant is configured, and no other tenant has its sub-account or has had it.
    Alone,
    /// The tenant is configured, and shares its sub-account with other tenants, present or former. Neither an account nor
    /// GatePay's answer shows its objects apart from those of the others, so only certain hints count.
    Shared,
    /// The tenant is no longer configured under this id and sub-account.
    Removed,
}

/// A tenant that has a key, according to the ledger or, for an account, the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHolder {
    /// The tenant.
    pub tenant: TenantIncarnation,
    /// What may be delivered to it. Equal for every hint that leads to the same tenant.
    pub standing: TenantStanding,
}

/// A hint with every tenant that has its key, removed ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedHint {
    /// How much the key proves.
    pub strength: HintStrength,
    /// Whether two holders are a contradiction.
    pub is_of_one_tenant: bool,
    /// Whether callers choose the key, so that any tenant can have it in the ledger.
    pub is_chosen: bool,
    /// The key's text, if the hint has a key.
    pub text: Option<String>,
    /// The tenants that have the key. The list must be complete: a missing tenant would seem to disagree.
    pub holders: BTreeSet<KeyHolder>,
}

impl ResolvedHint {
    /// A hint of a notification, with every tenant that has its key.
    pub fn new(hint: &OwnershipHint, holders: BTreeSet<KeyHolder>) -> Self {
        Self {
            strength: hint.strength,
            is_of_one_tenant: hint.key.kind().is_of_one_tenant()
                && hint.strength == hint.key.kind().strength(),
            is_chosen: hint.key.kind().strength() == HintStrength::Weak,
            text: Some(hint.key.text().to_owned()),
            holders,
        }
    }

    /// Proof that a tenant has the object: the token of the URL that GatePay called, or GatePay's answer to a question
    /// on the tenant's behalf.
    pub fn certain(holder: KeyHolder) -> Self {
        Self {
            strength: HintStrength::Certain,
            is_of_one_tenant: true,
            is_chosen: false,
            text: None,
            holders: BTreeSet::from([holder]),
        }
    }
}

/// The decision about a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipDecision {
    /// The notification belongs to a tenant.
    Owner {
        /// The tenant, which is configured.
        tenant: TenantIncarnation,
        /// The strength of the hint that decided: certain or strong.
        by: HintStrength,
    },
    /// The notification goes to the operators' endpoint.
    Operators,
    /// Only numbers that tenants choose lead to these 1 to [`MOST_CANDIDATES`] tenants, in order. If GatePay, asked on
    /// behalf of each, has the object for exactly one, that answer is a certain hint. The object is the same only if
    /// GatePay's own id or the amount is the notification's: a candidate may have another object under the number.
    ///
    /// Without a proof that GatePay keeps accounts apart, treat this as a quarantine.
    Ask(Vec<TenantIncarnation>),
    /// The notification waits for an operator, or for the ledger to learn a key.
    Quarantine(QuarantineReason),
}

/// The maximum number of tenants on whose behalf GatePay is asked about one notification.
pub const MOST_CANDIDATES: usize = 5;

/// Why a notification belongs to no tenant yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuarantineReason {
    /// The body has no single reading.
    Unreadable,
    /// No tenant has any of the keys.
    NoHolder,
    /// No tenant has every key that some tenant has, or two tenants have a key of one. Numbers of tenants with another
    /// sub-account than the certain hints' are left out.
    Disagreement,
    /// The tenant was removed, or its id now has another sub-account.
    Removed,
    /// The tenant shares its sub-account with other tenants, present or former, and no certain hint decides.
    SharedAccount,
    /// More than [`MOST_CANDIDATES`] tenants have chosen the number.
    TooManyCandidates,
    /// Only numbers that tenants choose lead to a tenant, and GatePay is not asked.
    Unproved,
}

words!(QuarantineReason {
    Unreadable = "unreadable",
    NoHolder = "no_holder",
    Disagreement = "disagreement",
    Removed = "removed",
    SharedAccount = "shared_account",
    TooManyCandidates = "too_many_candidates",
    Unproved = "unproved",
});

/// Decides by all hints together. A hint without a holder is no hint.
///
/// The owner has every key that some tenant has. Certain hints decide before strong ones; weak ones never decide. Like all
/// others they can contradict, but a certain hint only by tenants of its own sub-account.
pub fn decide(audience: NotificationAudience, hints: &[ResolvedHint]) -> OwnershipDecision {
    if audience == NotificationAudience::Institution {
        return OwnershipDecision::Operators;
    }
    let hints = without_numbers_of_other_accounts(hints);
    let hints: Vec<&ResolvedHint> = hints
        .iter()
        .map(|hint| &**hint)
        .filter(|hint| !hint.holders.is_empty())
        .collect();
    if hints.is_empty() {
        return without_hint(audience);
    }
    let agreed = agreed(&hints);
    let certain = || of_strength(&hints, HintStrength::Certain);
    let is_ambiguous = hints
        .iter()
        .any(|hint| hint.is_of_one_tenant && hint.holders.len() > 1);
    if agreed.is_empty() || is_ambiguous {
        return OwnershipDecision::Quarantine(QuarantineReason::Disagreement);
    }
    if let Some(owner) = only_holder(certain()) {
        return owned(owner, HintStrength::Certain);
    }
    let strong = of_strength(&hints, HintStrength::Strong);
    if let Some(owner) = only_holder(strong.filter(|hint| !may_be_a_number(hint, &hints))) {
        return owned(owner, HintStrength::Strong);
    }
    candidates(&agreed)
}

/// The hints; of keys that callers choose only the holders with the sub-account that the certain hints lead to, if these
/// lead to one tenant.
fn without_numbers_of_other_accounts(hints: &[ResolvedHint]) -> Vec<Cow<'_, ResolvedHint>> {
    let certain = hints
        .iter()
        .filter(|hint| hint.strength == HintStrength::Certain);
    let proved: BTreeSet<&KeyHolder> = certain.flat_map(|hint| &hint.holders).collect();
    let account = match (proved.first(), proved.len()) {
        (Some(owner), 1) => Some(&owner.tenant.account),
        _ => None,
    };
    let counts =
        |holder: &KeyHolder| account.is_none_or(|account| holder.tenant.account == *account);
    let kept = |hint| -> Cow<'_, ResolvedHint> {
        let hint: &ResolvedHint = hint;
        if !hint.is_chosen || hint.holders.iter().all(counts) {
            return Cow::Borrowed(hint);
        }
        let holders = hint.holders.iter().filter(|holder| counts(holder));
        Cow::Owned(ResolvedHint {
            strength: hint.strength,
            is_of_one_tenant: hint.is_of_one_tenant,
            is_chosen: hint.is_chosen,
            text: hint.text.clone(),
            holders: holders.cloned().collect(),
        })
    };
    hints.iter().map(kept).collect()
}

fn without_hint(audience: NotificationAudience) -> OwnershipDecision {
    match audience {
        NotificationAudience::Institution | NotificationAudience::Unstated => {
            OwnershipDecision::Operators
        }
        NotificationAudience::Tenant => OwnershipDecision::Quarantine(QuarantineReason::NoHolder),
        NotificationAudience::Unreadable => {
            OwnershipDecision::Quarantine(QuarantineReason::Unreadable)
        }
    }
}

/// The tenants that every hint leads to.
fn agreed(hints: &[&ResolvedHint]) -> BTreeSet<KeyHolder> {
    let Some((first, others)) = hints.split_first() else {
        return BTreeSet::new();
    };
    let has = |hint: &&ResolvedHint, holder: &KeyHolder| hint.holders.contains(holder);
    let by_all = |holder: &&KeyHolder| others.iter().all(|hint| has(hint, holder));
    first.holders.iter().filter(by_all).cloned().collect()
}

fn of_strength<'h>(
    hints: &'h [&ResolvedHint],
    strength: HintStrength,
) -> impl Iterator<Item = &'h ResolvedHint> {
    let of_strength = move |hint: &&ResolvedHint| hint.strength == strength;
    hints.iter().copied().filter(of_strength)
}

/// Whether the text of a hint is also a number that another tenant has chosen: the field may hold either.
fn may_be_a_number(hint: &ResolvedHint, hints: &[&ResolvedHint]) -> bool {
    let same = hints
        .iter()
        .filter(|it| it.is_chosen && it.text.is_some() && it.text == hint.text);
    same.flat_map(|number| &number.holders)
        .any(|holder| !hint.holders.contains(holder))
}

/// The tenant of the first hint that leads to one tenant alone. The hints agree, so that any such hint leads to it.
fn only_holder<'h>(mut hints: impl Iterator<Item = &'h ResolvedHint>) -> Option<&'h KeyHolder> {
    let hint = hints.find(|hint| hint.holders.len() == 1)?;
    hint.holders.first()
}

fn owned(owner: &KeyHolder, by: HintStrength) -> OwnershipDecision {
    let tenant = owner.tenant.clone();
    match (owner.standing, by) {
        (TenantStanding::Removed, _) => OwnershipDecision::Quarantine(QuarantineReason::Removed),
        (TenantStanding::Shared, HintStrength::Weak | HintStrength::Strong) => {
            OwnershipDecision::Quarantine(QuarantineReason::SharedAccount)
        }
        (TenantStanding::Shared, HintStrength::Certain) | (TenantStanding::Alone, _) => {
            OwnershipDecision::Owner { tenant, by }
        }
    }
}

/// The tenants that GatePay may be asked about. For tenants that share an account, its answer is the same.
fn candidates(agreed: &BTreeSet<KeyHolder>) -> OwnershipDecision {
    let of = |standing| {
        agreed
            .iter()
            .filter(move |holder| holder.standing == standing)
    };
    let alone: Vec<TenantIncarnation> = of(TenantStanding::Alone)
        .map(|holder| holder.tenant.clone())
        .collect();
    let reason = match alone.len() {
        0 if of(TenantStanding::Shared).next().is_some() => QuarantineReason::SharedAccount,
        0 => QuarantineReason::Removed,
        1..=MOST_CANDIDATES => return OwnershipDecision::Ask(alone),
        _ => QuarantineReason::TooManyCandidates,
    };
    OwnershipDecision::Quarantine(reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger_key::{LedgerKey, LedgerKeyKind};
    use proptest::prelude::*;

    /// Tenants `a` to `h`: `e` and `f` share an account, `g` is removed, `h` is removed and its id has come again.
    fn holder(name: char) -> KeyHolder {
        let standing = match name {
            'e' | 'f' => TenantStanding::Shared,
            'g' | 'h' => TenantStanding::Removed,
            _ => TenantStanding::Alone,
        };
        let (tenant, account, incarnation) = match name {
            'e' | 'f' => (name.to_string(), "shared".to_owned(), 1),
            // The second life of `h`.
            'i' => ("h".to_owned(), "account i".to_owned(), 2),
            _ => (name.to_string(), format!("account {name}"), 1),
        };
        KeyHolder {
            tenant: TenantIncarnation {
                tenant,
                account,
                incarnation,
            },
            standing,
        }
    }

    fn hint(strength: HintStrength, holders: &str) -> ResolvedHint {
        ResolvedHint {
            strength,
            is_of_one_tenant: strength == HintStrength::Certain,
            is_chosen: strength == HintStrength::Weak,
            text: None,
            holders: holders.chars().map(holder).collect(),
        }
    }

    /// The decision about hints such as `certain:a`, which leads to tenant `a`.
    fn decided(hints: &str) -> OwnershipDecision {
        let hints: Vec<_> = hints
            .split_whitespace()
            .map(|one| {
                let (strength, holders) = one.split_once(':').unwrap();
                hint(HintStrength::parse(strength).unwrap(), holders)
            })
            .collect();
        decide(NotificationAudience::Tenant, &hints)
    }

    fn owner(name: char, by: HintStrength) -> OwnershipDecision {
        OwnershipDecision::Owner {
            tenant: holder(name).tenant,
            by,
        }
    }

    fn ask(names: &str) -> OwnershipDecision {
        OwnershipDecision::Ask(names.chars().map(|name| holder(name).tenant).collect())
    }

    #[test]
    fn each_strength_decides_as_documented() {
        use HintStrength::{Certain, Strong};
        use QuarantineReason::{Disagreement, NoHolder, Removed, SharedAccount, TooManyCandidates};
        let quarantine = OwnershipDecision::Quarantine;
        for (hints, expected) in [
            ("certain:a", owner('a', Certain)),
            ("certain:a certain:a weak:ab", owner('a', Certain)),
            ("certain:a strong:ab", owner('a', Certain)),
            ("certain:a strong: weak:", owner('a', Certain)),
            ("certain:a certain:b", quarantine(Disagreement)),
            ("certain:a strong:b", quarantine(Disagreement)),
            ("certain:a weak:b", owner('a', Certain)),
            ("certain:a weak:bc weak:d", owner('a', Certain)),
            ("certain:a strong:b weak:a", quarantine(Disagreement)),
            ("certain:ab", quarantine(Disagreement)),
            ("certain:ab certain:a", quarantine(Disagreement)),
            ("strong:a", owner('a', Strong)),
            ("strong:a weak:abc", owner('a', Strong)),
            ("strong:a strong:b", quarantine(Disagreement)),
            ("strong:a weak:b", quarantine(Disagreement)),
            ("strong:ab", ask("ab")),
            ("weak:a", ask("a")),
            ("weak:cba weak:bcd", ask("bc")),
            ("weak:a weak:b", quarantine(Disagreement)),
            ("weak:", quarantine(NoHolder)),
            ("", quarantine(NoHolder)),
            // A shared account.
            ("certain:e", owner('e', Certain)),
            ("certain:e strong:ef", owner('e', Certain)),
            ("certain:e weak:f", quarantine(Disagreement)),
            ("certain:e weak:fa", quarantine(Disagreement)),
            ("certain:e weak:a", owner('e', Certain)),
            ("strong:ef", quarantine(SharedAccount)),
            ("strong:e", quarantine(SharedAccount)),
            ("strong:ef weak:e", quarantine(SharedAccount)),
            ("weak:e", quarantine(SharedAccount)),
            ("weak:ae", ask("a")),
            // A removed tenant, and one whose id has come again.
            ("certain:g", quarantine(Removed)),
            ("strong:g", quarantine(Removed)),
            ("weak:g", quarantine(Removed)),
            ("certain:h", quarantine(Removed)),
            ("certain:i", owner('i', Certain)),
            ("certain:g weak:a", quarantine(Removed)),
            ("certain:h weak:i", quarantine(Removed)),
            ("certain:i weak:hi", owner('i', Certain)),
            ("weak:hi", ask("i")),
            ("certain:hi", quarantine(Disagreement)),
        ] {
            assert_eq!(decided(hints), expected, "{hints}");
        }
        let five = "weak:abcdi";
        assert!(matches!(decided(five), OwnershipDecision::Ask(five) if five.len() == 5));
        assert_eq!(decided("weak:abcdij"), quarantine(TooManyCandidates));
    }

    /// The decision about the refund of an order of `order`'s that the tenants `refund` have asked for.
    fn decided_refund(order: &str, refund: &str) -> OwnershipDecision {
        let key = LedgerKey::pair(LedgerKeyKind::OrderRefund, "506", "r1").unwrap();
        let strength = HintStrength::Weak;
        let refund = ResolvedHint::new(
            &OwnershipHint { key, strength },
            hint(strength, refund).holders,
        );
        let order = hint(HintStrength::Certain, order);
        decide(NotificationAudience::Tenant, &[order, refund])
    }

    #[test]
    fn a_refund_that_two_tenants_of_an_account_have_asked_for_belongs_to_neither() {
        let disagreement = OwnershipDecision::Quarantine(QuarantineReason::Disagreement);
        for refund in ["ef", "f", "aef"] {
            assert_eq!(decided_refund("e", refund), disagreement, "{refund}");
        }
        assert_eq!(decided_refund("e", "e"), owner('e', HintStrength::Certain));
    }

    #[test]
    fn a_refund_that_another_account_has_asked_for_belongs_to_the_tenant_of_the_order() {
        for refund in ["a", "ab", "b", "bef"] {
            let expected = owner('a', HintStrength::Certain);
            assert_eq!(decided_refund("a", refund), expected, "{refund}");
        }
    }

    #[test]
    fn an_id_that_is_also_the_number_of_another_tenant_decides_nothing() {
        let of = |kind, strength, text: &str, holders: &str| {
            let key = LedgerKey::new(kind, text).unwrap();
            ResolvedHint::new(
                &OwnershipHint { key, strength },
                hint(strength, holders).holders,
            )
        };
        let decided = |number: &str, holders: &str| {
            let hints = [
                of(
                    LedgerKeyKind::RewardNumber,
                    HintStrength::Weak,
                    number,
                    holders,
                ),
                of(
                    LedgerKeyKind::RewardBatchId,
                    HintStrength::Strong,
                    "1004",
                    "b",
                ),
            ];
            decide(NotificationAudience::Tenant, &hints)
        };
        // The number of `a` equals an id that GatePay gave to `b`, and `b` has chosen the number too.
        assert_eq!(decided("1004", "ab"), ask("b"));
        assert_eq!(decided("1004", "b"), owner('b', HintStrength::Strong));
        assert_eq!(decided("n1", "ab"), owner('b', HintStrength::Strong));
    }

    #[test]
    fn an_order_that_proves_nothing_still_contradicts_a_certain_hint() {
        let key = LedgerKey::new(LedgerKeyKind::PrepayId, "506").unwrap();
        let strength = HintStrength::Weak;
        let order = ResolvedHint::new(
            &OwnershipHint { key, strength },
            hint(strength, "b").holders,
        );
        let token = ResolvedHint::certain(holder('a'));
        let decision = decide(NotificationAudience::Tenant, &[order, token]);
        let expected = OwnershipDecision::Quarantine(QuarantineReason::Disagreement);
        assert_eq!(decision, expected);
    }

    #[test]
    fn the_audience_decides_where_no_hint_does() {
        use NotificationAudience::{Institution, Tenant, Unreadable, Unstated};
        let quarantine = OwnershipDecision::Quarantine;
        for (audience, without, with) in [
            (
                Institution,
                OwnershipDecision::Operators,
                OwnershipDecision::Operators,
            ),
            (
                Unstated,
                OwnershipDecision::Operators,
                owner('a', HintStrength::Certain),
            ),
            (
                Tenant,
                quarantine(QuarantineReason::NoHolder),
                owner('a', HintStrength::Certain),
            ),
            (
                Unreadable,
                quarantine(QuarantineReason::Unreadable),
                owner('a', HintStrength::Certain),
            ),
        ] {
            assert_eq!(decide(audience, &[]), without, "{audience:?}");
            let hints = [hint(HintStrength::Certain, "a")];
            assert_eq!(decide(audience, &hints), with, "{audience:?}");
        }
    }

    fn hints() -> impl Strategy<Value = Vec<ResolvedHint>> {
        let strength = prop::sample::select(HintStrength::ALL);
        // Few tenants, so that hints often agree.
        let holders = prop::collection::btree_set(
            prop::sample::select(vec!['a', 'b', 'e', 'f', 'g', 'h', 'i']),
            0..4,
        );
        let one = (strength, holders)
            .prop_map(|(strength, names)| hint(strength, &names.into_iter().collect::<String>()));
        let free = prop::collection::vec(one, 0..5);
        let name = prop::sample::select(vec!['a', 'e', 'g', 'i']);
        let agreeing = (free.clone(), name).prop_map(|(mut hints, name)| {
            for hint in &mut hints {
                hint.holders.insert(holder(name));
            }
            hints
        });
        prop_oneof![free, agreeing]
    }

    /// The holders that count: beside certain hints of one tenant, a number only for tenants of its account.
    fn counting(hints: &[ResolvedHint]) -> Vec<BTreeSet<KeyHolder>> {
        let certain = of(hints, HintStrength::Certain);
        let mut accounts: BTreeSet<&str> = certain.clone().map(|it| &*it.tenant.account).collect();
        if certain.collect::<BTreeSet<_>>().len() > 1 {
            accounts.clear();
        }
        let counts = |hint: &ResolvedHint| {
            let mut holders = hint.holders.clone();
            if hint.is_chosen && !accounts.is_empty() {
                holders.retain(|it| accounts.contains(&*it.tenant.account));
            }
            holders
        };
        let sets = hints.iter().map(counts);
        sets.filter(|holders| !holders.is_empty()).collect()
    }

    fn of(
        hints: &[ResolvedHint],
        strength: HintStrength,
    ) -> impl Iterator<Item = &KeyHolder> + Clone {
        let of_strength = hints.iter().filter(move |hint| hint.strength == strength);
        of_strength.flat_map(|hint| &hint.holders)
    }

    fn holds(hint: &ResolvedHint, tenant: &TenantIncarnation) -> bool {
        hint.holders.iter().any(|holder| holder.tenant == *tenant)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_order_of_hints_does_not_matter(
            (hints, other) in hints().prop_flat_map(|hints| (Just(hints.clone()), Just(hints).prop_shuffle())),
        ) {
            let tenant = NotificationAudience::Tenant;
            prop_assert_eq!(decide(tenant, &hints), decide(tenant, &other));
        }

        #[test]
        fn an_owner_has_every_key_that_some_tenant_has(hints in hints()) {
            if let OwnershipDecision::Owner { tenant, by } = decide(NotificationAudience::Tenant, &hints) {
                let is_certain = by == HintStrength::Certain;
                let counts = |hint: &&ResolvedHint| {
                    let of_account = |holder: &KeyHolder| holder.tenant.account == tenant.account;
                    let says_nothing = is_certain && hint.is_chosen && !hint.holders.iter().any(of_account);
                    !hint.holders.is_empty() && !says_nothing
                };
                for hint in hints.iter().filter(counts) {
                    prop_assert!(holds(hint, &tenant));
                    prop_assert!(hint.strength != HintStrength::Certain || hint.holders.len() == 1);
                }
                prop_assert!(by > HintStrength::Weak);
                let decides = |hint: &&ResolvedHint| hint.strength == by && hint.holders.len() == 1;
                let holder = hints.iter().find(decides).and_then(|hint| hint.holders.first()).unwrap();
                prop_assert!(holder.standing != TenantStanding::Removed);
                prop_assert!(holder.standing == TenantStanding::Alone || by == HintStrength::Certain);
            }
        }

        #[test]
        fn a_disagreement_is_never_an_owner_and_never_asked(hints in hints()) {
            let sets = counting(&hints);
            let is_disjoint = |one: &BTreeSet<KeyHolder>| sets.iter().any(|other| one.is_disjoint(other));
            if sets.iter().any(is_disjoint) {
                let decision = decide(NotificationAudience::Tenant, &hints);
                let expected = OwnershipDecision::Quarantine(QuarantineReason::Disagreement);
                prop_assert_eq!(decision, expected);
            }
        }

        #[test]
        fn a_certain_hint_decides_unless_another_hint_disagrees(mut hints in hints(), at in 0..5_usize) {
            let certain = hint(HintStrength::Certain, "a");
            hints.insert(at.min(hints.len()), certain);
            let is_agreeing = |hint: &ResolvedHint| {
                let of_one = hint.strength != HintStrength::Certain || hint.holders.len() < 2;
                // No other tenant has the account of `a`, so that no number contradicts.
                hint.is_chosen || hint.holders.is_empty() || (holds(hint, &holder('a').tenant) && of_one)
            };
            let decision = decide(NotificationAudience::Tenant, &hints);
            let decides = decision == owner('a', HintStrength::Certain);
            prop_assert_eq!(decides, hints.iter().all(is_agreeing));
        }

        #[test]
        fn gatepay_is_asked_only_for_tenants_that_its_answer_can_tell_apart(hints in hints()) {
            if let OwnershipDecision::Ask(candidates) = decide(NotificationAudience::Tenant, &hints) {
                prop_assert!((1..=MOST_CANDIDATES).contains(&candidates.len()));
                prop_assert!(candidates.is_sorted());
                for candidate in &candidates {
                    prop_assert!(!["e", "f", "g"].contains(&&*candidate.tenant));
                    let known = hints.iter().filter(|hint| !hint.holders.is_empty());
                    prop_assert!(known.into_iter().all(|hint| holds(hint, candidate)));
                }
            }
        }
    }
}
