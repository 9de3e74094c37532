//! Sequences of money calls, answers, crashes and reloads: an engine and the model in Rust give the same answers, and what
//! GatePay executes stays within the caps. The tests of both engines include this file.

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::exact_amount::ExactAmount;
use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use gatepay_core::money::CurrencyCode;
use gatepay_core::notification::StatedAmount;
use gatepay_store::admission::{AdmissionBatch, AdmissionRow, AdmissionVerdict, StoredText};
use gatepay_store::caps::approval::{
    ApprovalListing, ApprovalQuery, ApprovalState, ApprovalSubject, MOST_WAITING,
};
use gatepay_store::caps::judge::{SpendJudgement, SpendingCall};
use gatepay_store::caps::model::CapModel;
use gatepay_store::caps::rule::{CapDeclaration, CapMeasure, CapRule, CapRuleName, CapScope};
use gatepay_store::caps::spend::{
    AttemptResult, OrderSpend, SettledAttempt, SettledObject, SpendAmount, SpendDemand,
};
use gatepay_store::engine::Store;
use gatepay_store::notifications::ledger::{LedgerNote, LedgerSource, TenantAccount};
use gatepay_store::stored_text::ToldText;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use crate::rows::money_row;

pub(crate) const START_MS: u64 = 1_767_225_600_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Two of them act for one sub-account.
const PARTIES: [&str; 3] = ["acme", "globex", "acme_again"];
const CALLS: [&str; 2] = ["create_payout", "refund_order_v2/payout"];
const CURRENCIES: [&str; 3] = ["USDT", "BTC", "GT"];

/// A rule as it is drawn: scope, measure, currency, limit, whether it is a shadow, and whether it is in a file of its own.
type RuleNumbers = (u8, u8, u8, u8, bool, bool);

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum CapStep {
    /// An instance asks for a batch.
    Admit(u8, Vec<AskedCall>),
    /// GatePay receives a call that was admitted, perhaps long ago.
    Deliver(Index),
    /// An instance learns what became of a call, or that it cannot know.
    Answer(Vec<(Index, bool)>),
    /// An object at GatePay fails, or is seen to stand.
    Decide(Index, bool),
    /// GatePay's last word reaches the store; perhaps again.
    Notify(Index, u8),
    Advance(u64),
    Beat(u8),
    Age,
    /// The store's clock steps forward, spends age, and it steps back.
    AgeAhead(u64),
    /// A reload of an instance, with other rules beside those of [`lasting`] or in the file of another tenant of the sub-account,
    /// perhaps of another time zone.
    Declare(u8, Vec<RuleNumbers>, u8, bool),
    /// The last declaration of an instance but one reaches the store late.
    DeclareLate(u8),
    /// The ledger learns an order of a party, and its currency.
    NoteOrder(u8, u8, u8),
    /// One of two operators approves changes of caps that wait.
    Raise(Index, bool),
    /// One of a few operators, among them a party, approves or rejects a call.
    Sign(Index, u8, bool),
    /// An instance's configuration asks for so many operators, with or without a delay of fewer.
    Approvers(u8, u8, bool),
    /// An operator distrusts the store.
    Distrust,
}

/// A call of one of a few keys.
#[derive(Debug, Clone)]
pub(crate) struct AskedCall {
    party: u8,
    call: u8,
    key: Option<u8>,
    amounts: Vec<(u8, u8)>,
    /// The order whose currency the first amount has, if the call refunds one.
    order: Option<u8>,
}

fn asked_call() -> impl Strategy<Value = AskedCall> {
    let mostly_first = || prop_oneof![4 => Just(0_u8), 1 => Just(1)];
    let party = prop_oneof![3 => Just(0_u8), 1 => Just(1), 2 => Just(2)];
    let of = prop_oneof![6 => Just(0_u8), 2 => Just(1), 1 => Just(2)];
    (
        party,
        mostly_first(),
        prop::option::weighted(0.8, 0_u8..4),
        prop::collection::vec((of, 5_u8..25), 1..3),
        prop::option::weighted(0.2, 0_u8..3),
    )
        .prop_map(|(party, call, key, amounts, order)| AskedCall {
            party,
            call,
            key,
            amounts,
            order,
        })
}

pub(crate) fn cap_step() -> impl Strategy<Value = CapStep> {
    let advance = prop_oneof![
        3 => 0_u64..60_000,
        3 => 60_000_u64..HOUR_MS,
        2 => HOUR_MS..8 * HOUR_MS,
        1 => 8 * HOUR_MS..DAY_MS + HOUR_MS,
    ];
    let rule = (
        0_u8..3,
        0_u8..6,
        0_u8..4,
        10_u8..200,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
    );
    let rules = prop::collection::vec(rule, 0..3);
    let zone = prop_oneof![3 => Just(0_u8), 1 => 1_u8..4];
    let answer = prop::collection::vec((any::<Index>(), any::<bool>()), 1..4);
    let admit = (0_u8..4, prop::collection::vec(asked_call(), 1..4));
    prop_oneof![
        12 => admit.prop_map(|(it, calls)| CapStep::Admit(it, calls)),
        9 => any::<Index>().prop_map(CapStep::Deliver),
        6 => answer.prop_map(CapStep::Answer),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(it, stands)| CapStep::Decide(it, stands)),
        3 => (any::<Index>(), 0_u8..4).prop_map(|(it, told)| CapStep::Notify(it, told)),
        5 => advance.prop_map(CapStep::Advance),
        2 => (0_u8..4).prop_map(CapStep::Beat),
        2 => Just(CapStep::Age),
        1 => (0..DAY_MS).prop_map(CapStep::AgeAhead),
        6 => (any::<Index>(), 0_u8..3, prop::bool::weighted(0.8)).prop_map(|(it, by, yes)| CapStep::Sign(it, by, yes)),
        1 => (0_u8..4, 1_u8..4, any::<bool>())
            .prop_map(|(it, number, at_once)| CapStep::Approvers(it, number, at_once)),
        1 => (0_u8..4).prop_map(CapStep::DeclareLate),
        3 => (any::<Index>(), any::<bool>()).prop_map(|(it, by)| CapStep::Raise(it, by)),
        2 => (0_u8..3, 0_u8..3, prop_oneof![6 => Just(0_u8), 1 => Just(1)])
            .prop_map(|(by, order, of)| CapStep::NoteOrder(by, order, of)),
        1 => Just(CapStep::Distrust),
        1 => (0_u8..4, rules, zone, any::<bool>())
            .prop_map(|(it, rules, zone, at_once)| CapStep::Declare(it, rules, zone, at_once)),
    ]
}

/// A server or file with a clock that the test sets, as one or more instances see it.
#[derive(Clone, Copy)]
pub(crate) struct CapEngine<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) stores: &'a [Store],
    pub(crate) set_clock: &'a dyn Fn(u64),
    /// Gives the sign of life of an instance, by its place.
    pub(crate) beat: &'a dyn Fn(usize),
}

/// A call that was admitted.
#[derive(Debug, Clone)]
struct Sent {
    row: AdmissionRow,
    at_ms: u64,
    /// What GatePay did with it, once it received it.
    executed: Option<bool>,
    answered: bool,
}

/// An object at GatePay, by party, call and key.
#[derive(Debug, Clone)]
struct Object {
    sent: usize,
    stands: bool,
    decided_ms: u64,
}

struct CapTrial<'a> {
    engine: CapEngine<'a>,
    model: CapModel,
    seen: BTreeMap<i64, i64>,
    now_ms: u64,
    number: u64,
    /// Whether stamps may begin alike.
    has_alike: bool,
    declarations: i64,
    /// The last declaration of each instance, with its number, and the one before.
    declared: BTreeMap<usize, [Option<(i64, CapDeclaration)>; 2]>,
    /// The files of each instance's last declaration.
    files: BTreeMap<usize, Vec<Vec<CapRule>>>,
    sent: Vec<Sent>,
    /// The midnights that were, and those to come.
    days: Vec<u64>,
    /// GatePay keeps one object of a key, for ever.
    objects: BTreeMap<(String, &'static str, String), Object>,
    /// The smallest number of operators that was in force.
    fewest: u32,
}

pub(crate) fn currency(text: &str) -> CurrencyCode {
    CurrencyCode::parse(text).unwrap()
}

pub(crate) fn amount(text: &str) -> ExactAmount {
    ExactAmount::parse(text).unwrap()
}

pub(crate) fn text(text: &str) -> StoredText {
    StoredText::parse(text).unwrap()
}

pub(crate) fn told(text: &str) -> ToldText {
    ToldText::parse(text).unwrap()
}

/// The sub-account of a party.
pub(crate) fn account(id: &str) -> StoredText {
    text(if id == "globex" { "200" } else { "100" })
}

/// The parties that act for the sub-account of this one.
pub(crate) fn beside(id: &str) -> CapScope {
    CapScope::of_account(&account(id))
}

/// A rule for both calls.
pub(crate) fn rule(scope: CapScope, measure: CapMeasure, of: Option<&str>, limit: &str) -> CapRule {
    CapRule {
        name: CapRuleName {
            shadow: false,
            scope,
            measure,
            currency: of.map(currency),
            calls: CALLS.iter().map(ToString::to_string).collect(),
            exempt: BTreeSet::new(),
        },
        limit: amount(limit),
    }
}

/// The rules that hold in every trial from its first moment to its last.
fn lasting() -> Vec<CapRule> {
    vec![
        rule(beside("acme"), CapMeasure::PerHour, Some("USDT"), "40"),
        rule(beside("acme"), CapMeasure::Per24Hours, Some("USDT"), "90"),
        rule(beside("acme"), CapMeasure::PerDay, Some("BTC"), "50"),
        rule(beside("acme"), CapMeasure::ApproveAbove, Some("USDT"), "15"),
        rule(CapScope::All, CapMeasure::Per24Hours, Some("USDT"), "120"),
    ]
}

/// The midnights of one of a few time zones.
fn midnights(zone: u8) -> Vec<u64> {
    // Days of 23, 24 and 25 hours.
    let lengths = [24, 23, 24, 25, 24, 24, 24, 24];
    let mut at_ms = START_MS - 5 * HOUR_MS - u64::from(zone) * 7 * HOUR_MS;
    let days = lengths.into_iter().cycle().take(400);
    let mut midnights = vec![at_ms];
    midnights.extend(days.map(|hours| {
        at_ms += hours * HOUR_MS;
        at_ms
    }));
    midnights
}

pub(crate) fn run(engine: CapEngine<'_>, steps: &[CapStep]) {
    let mut trial = CapTrial::new(engine);
    trial.declare(0, (&[], 0, true));
    for step in steps {
        trial.step(step);
    }
    trial.check_executed();
}

/// One party's calls wait in such numbers that a further one is refused and begins nothing; they hide no other party's call,
/// and pages of any length list each of them once.
pub(crate) fn crowd(engine: CapEngine<'_>) {
    let mut trial = CapTrial::new(engine);
    trial.has_alike = false;
    trial.declare(0, (&[(0, 5, 0, 16, false, false)], 0, true));
    let call = |party, key| AskedCall {
        party,
        call: 0,
        key: Some(key),
        amounts: vec![(0, 20)],
        order: None,
    };
    for key in 0..=u8::try_from(MOST_WAITING).unwrap() {
        trial.admit(0, &[call(0, key)]);
        trial.now_ms += 1;
        (trial.engine.set_clock)(trial.now_ms);
    }
    trial.admit(0, &[call(1, 0)]);
    let waiting = Some(ApprovalListing::In(ApprovalState::Waiting));
    for (name, number) in [(PARTIES[0], MOST_WAITING), (PARTIES[1], 1)] {
        let mut query = ApprovalQuery {
            state: waiting,
            party: Some(text(name)),
            most: 30,
            ..ApprovalQuery::default()
        };
        let mut listed = Vec::new();
        loop {
            let page = trial.engine.stores[0].approvals(&query);
            let page = trial.engine.runtime.block_on(page).unwrap();
            let Some(last) = page.last() else { break };
            query.after = Some(last.place());
            listed.extend(page.iter().map(|it| it.id));
        }
        let places = trial.model.approvals();
        let mut expected: Vec<_> = places
            .iter()
            .filter(|it| it.of.party.as_str() == name)
            .collect();
        expected.sort_by_key(|it| std::cmp::Reverse((it.asked_ms, it.id)));
        let expected: Vec<_> = expected.iter().map(|it| it.id).collect();
        assert_eq!(listed, expected);
        assert_eq!(listed.len() as u64, number);
    }
    let over = ApprovalQuery {
        state: Some(ApprovalListing::Expired),
        most: 30,
        ..ApprovalQuery::default()
    };
    let store = &trial.engine.stores[0];
    let listed = trial.engine.runtime.block_on(store.approvals(&over));
    assert_eq!(listed.unwrap(), []);
    trial.step(&CapStep::Advance(DAY_MS));
    trial.admit(0, &[call(0, 200)]);
    let model = trial.model.approvals();
    let waits = model.iter().filter(|it| !it.is_over(trial.now_ms));
    assert_eq!(waits.count(), 1, "the others are over");
}

/// An instance stands still until its rules count no more, and comes back: an older declaration of it that arrives only now
/// changes nothing.
pub(crate) fn standstill(engine: CapEngine<'_>) {
    let declaration = |limits: &[&str]| {
        let limits = limits.iter();
        let rules =
            limits.map(|limit| rule(beside("acme"), CapMeasure::PerCall, Some("USDT"), limit));
        CapDeclaration {
            rules: rules.collect(),
            midnights: vec![START_MS],
            raise_after_ms: DAY_MS,
            approvers: 1,
        }
    };
    let first = &engine.stores[0];
    let declare = |store: &Store, limits: &[&str], number| {
        let declaration = declaration(limits);
        let declared = store.declare_caps(&declaration, number);
        engine.runtime.block_on(declared).unwrap()
    };
    let book = || {
        let facts = engine.runtime.block_on(first.cap_facts(None)).unwrap();
        facts.book
    };
    (engine.set_clock)(START_MS + 1_000);
    assert!(declare(first, &["100"], 1));
    assert!(declare(first, &["50"], 2));
    (engine.set_clock)(START_MS + 120_000);
    if let [_, other, ..] = engine.stores {
        (engine.beat)(1);
        assert!(declare(other, &[], 1), "the cap ends in a day");
    }
    (engine.beat)(0);
    let before = book();
    for late in [1, 2] {
        assert!(!declare(first, &["100"], late));
        assert_eq!(book(), before);
    }
    assert!(declare(first, &["60"], 3), "a new one is taken");
    assert_ne!(book(), before);
    if engine.stores.len() > 1 {
        engine.runtime.block_on(first.leave()).unwrap();
        let before = book();
        assert!(!declare(first, &["50"], 4), "it has left");
        assert_eq!(book(), before);
    }
}

impl<'a> CapTrial<'a> {
    fn new(engine: CapEngine<'a>) -> Self {
        let now_ms = START_MS + 60_000;
        (engine.set_clock)(now_ms);
        Self {
            engine,
            model: CapModel::default(),
            seen: (1..)
                .map(|id| (id, START_MS.cast_signed()))
                .take(engine.stores.len())
                .collect(),
            now_ms,
            number: 0,
            has_alike: true,
            declarations: 0,
            declared: BTreeMap::new(),
            files: BTreeMap::new(),
            sent: Vec::new(),
            days: Vec::new(),
            objects: BTreeMap::new(),
            fewest: 2,
        }
    }
}

impl CapTrial<'_> {
    fn step(&mut self, step: &CapStep) {
        match step {
            CapStep::Admit(instance, calls) => self.admit(usize::from(*instance), calls),
            CapStep::Deliver(which) => self.deliver(*which),
            CapStep::Answer(which) => self.answer(which),
            CapStep::Decide(which, stands) => {
                let decided_ms = self.now_ms;
                if let Some(object) = self.object(*which).filter(|object| object.stands) {
                    (object.stands, object.decided_ms) = (*stands, decided_ms);
                }
            }
            CapStep::Notify(which, told) => self.notify(*which, *told),
            CapStep::Advance(ms) => {
                self.now_ms += ms;
                (self.engine.set_clock)(self.now_ms);
            }
            CapStep::Beat(instance) => {
                self.beat(usize::from(*instance) % self.engine.stores.len());
            }
            CapStep::Age => {
                let store = &self.engine.stores[0];
                self.engine.runtime.block_on(store.age_spends()).unwrap();
                self.model.age(self.now_ms, &self.seen);
            }
            CapStep::AgeAhead(ms) => {
                let now_ms = self.now_ms;
                self.step(&CapStep::Advance(*ms));
                self.step(&CapStep::Age);
                self.now_ms = now_ms;
                (self.engine.set_clock)(now_ms);
            }
            CapStep::Declare(instance, rules, zone, at_once) => {
                self.declare(usize::from(*instance), (rules, *zone, *at_once));
            }
            CapStep::Sign(which, by, approves) => self.sign(*which, *by, *approves),
            CapStep::Approvers(instance, number, at_once) => {
                self.declare_approvers(usize::from(*instance), u32::from(*number), *at_once);
            }
            CapStep::DeclareLate(instance) => self.declare_late(usize::from(*instance)),
            CapStep::NoteOrder(by, order, of) => self.note_order(*by, *order, *of),
            CapStep::Raise(which, by) => self.raise(*which, *by),
            CapStep::Distrust => self.distrust(),
        }
        self.fewest = self.fewest.min(self.model.approvers_needed(self.now_ms));
        self.check_unknown();
        self.check_claims();
        let capped = self.engine.stores[0].capped_calls();
        let mut capped = self.engine.runtime.block_on(capped).unwrap();
        capped.sort();
        assert_eq!(capped, self.model.capped_calls(self.now_ms));
        let own = account(PARTIES[0]);
        let capped = self.engine.stores[0].capped_calls_of(&own);
        let mut capped = self.engine.runtime.block_on(capped).unwrap();
        capped.sort();
        assert_eq!(capped, self.model.capped_calls_of(&own, self.now_ms));
        let asked = (self.number.is_multiple_of(2)).then(|| account(PARTIES[0]));
        let facts = self.engine.stores[0].cap_facts(asked.clone());
        let told = self
            .engine
            .runtime
            .block_on(facts)
            .unwrap()
            .report(asked.as_ref());
        let model = self.model.facts(self.now_ms).report(asked.as_ref());
        assert_eq!(told, model);
    }

    fn declare(&mut self, instance: usize, (rules, zone, at_once): (&[RuleNumbers], u8, bool)) {
        let (mut own, mut other) = (lasting(), Vec::new());
        for (scope, measure, of, limit, shadow, is_other) in rules {
            let scope = match scope {
                0 => CapScope::All,
                1 => beside(PARTIES[0]),
                _ => beside(PARTIES[1]),
            };
            let of = CURRENCIES.get(usize::from(*of)).copied();
            let measure = CapMeasure::ALL[usize::from(*measure)];
            let mut rule = rule(scope, measure, of, &limit.to_string());
            rule.name.shadow = *shadow;
            if limit % 3 == 0 {
                rule.name.calls.remove(CALLS[0]);
            }
            if *is_other {
                other.push(rule);
            } else {
                own.push(rule);
            }
        }
        let files = vec![own, other];
        let place = instance % self.engine.stores.len();
        let known = self
            .declared
            .get(&place)
            .and_then(|[last, _]| last.as_ref());
        let declaration = CapDeclaration {
            rules: files.iter().cloned().flat_map(CapRule::of_file).collect(),
            midnights: midnights(zone),
            raise_after_ms: if at_once { 0 } else { DAY_MS },
            approvers: known.map_or(2, |(_, known)| known.approvers),
        };
        self.files.insert(place, files);
        self.put(place, declaration);
    }

    /// An instance gives a sign of life. One that was taken for dead has to declare its files anew.
    fn beat(&mut self, place: usize) {
        (self.engine.beat)(place);
        let id = i64::try_from(place).unwrap() + 1;
        self.seen.insert(id, self.now_ms.cast_signed());
        if !self.model.knows(id) {
            self.files.remove(&place);
        }
    }

    /// An instance declares. It has given a sign of life before.
    fn put(&mut self, place: usize, declaration: CapDeclaration) {
        let files = self.files.remove(&place);
        self.beat(place);
        self.files.extend(files.map(|files| (place, files)));
        self.declarations += 1;
        let declared = self.engine.stores[place].declare_caps(&declaration, self.declarations);
        assert!(self.engine.runtime.block_on(declared).unwrap());
        let id = i64::try_from(place).unwrap() + 1;
        self.model
            .declare((id, &declaration), self.now_ms, &self.seen);
        let kept = self.declared.entry(place).or_default();
        kept.swap(0, 1);
        kept[0] = Some((self.declarations, declaration));
        let now_ms = self.now_ms;
        let is_over = |midnight: &u64| *midnight <= now_ms;
        self.days.retain(is_over);
        let to_come = self.model.midnights().iter().filter(|it| !is_over(it));
        self.days.extend(to_come);
    }

    /// A declaration that was overtaken changes nothing, also if its instance was taken for dead meanwhile.
    fn declare_late(&mut self, instance: usize) {
        let place = instance % self.engine.stores.len();
        let store = &self.engine.stores[place];
        if let Some([_, Some((number, late))]) = self.declared.get(&place) {
            let declared = store.declare_caps(late, *number);
            assert!(!self.engine.runtime.block_on(declared).unwrap());
        }
    }

    fn note_order(&mut self, by: u8, order: u8, of: u8) {
        let (party, order) = (PARTIES[usize::from(by)], format!("P-{order}"));
        let of = currency(CURRENCIES[usize::from(of)]);
        let note = LedgerNote {
            key: LedgerKey::new(LedgerKeyKind::PrepayId, order.clone()).unwrap(),
            holder: TenantAccount {
                tenant: party.to_owned(),
                account: account(party).as_str().to_owned(),
            },
            at_ms: Some(self.now_ms),
            operation: "create_order".to_owned(),
            currency: Some(of.as_str().to_owned()),
        };
        let notes = [note];
        let noted = self.engine.stores[0].note_owners(&notes, LedgerSource::Answer);
        self.engine.runtime.block_on(noted).unwrap();
        let order = [text(party), account(party), text(&order)];
        self.model.note_order(order, &of);
    }

    /// A signature for changes that wait; the engine and the model take it alike.
    fn raise(&mut self, which: Index, by: bool) {
        let facts = self.model.facts(self.now_ms);
        let waiting = facts.book.waiting_raises(self.now_ms);
        let Some(waiting) = (!waiting.is_empty()).then(|| which.get(&waiting)) else {
            return;
        };
        let by = text(if by { "alice" } else { "bob" });
        let taken = self.engine.stores[0].raise_caps(waiting.digest, &by, 2);
        let taken = self.engine.runtime.block_on(taken).unwrap();
        let expected = self.model.raise(waiting.digest, (&by, 2), self.now_ms);
        assert_eq!(taken, expected);
    }

    fn declare_approvers(&mut self, instance: usize, approvers: u32, at_once: bool) {
        let place = instance % self.engine.stores.len();
        let Some([Some((_, known)), _]) = self.declared.get(&place) else {
            return;
        };
        let raise_after_ms = if at_once { 0 } else { DAY_MS };
        let declaration = CapDeclaration {
            raise_after_ms,
            approvers,
            ..known.clone()
        };
        self.put(place, declaration);
        let store = &self.engine.stores[0];
        let needed = self.engine.runtime.block_on(store.approvers_needed());
        assert_eq!(needed.unwrap(), self.model.approvers_needed(self.now_ms));
        self.check_approvals();
    }

    /// The guard that follows is over once this returns.
    fn distrust(&mut self) {
        let distrusted = match &self.engine.stores[0] {
            Store::Postgres(server) => self.engine.runtime.block_on(server.distrust()),
            Store::Sqlite(file) => self.engine.runtime.block_on(file.distrust()),
        };
        distrusted.unwrap();
        self.model.void_approvals(self.now_ms);
        self.check_approvals();
        self.step(&CapStep::Advance(60_000));
    }

    /// The engine and the model keep the same approvals.
    fn check_approvals(&self) {
        let all = ApprovalQuery {
            most: 1_000,
            ..ApprovalQuery::default()
        };
        let kept = self.engine.stores[0].approvals(&all);
        let mut kept = self.engine.runtime.block_on(kept).unwrap();
        kept.sort_by_key(|approval| approval.id);
        assert_eq!(kept, self.model.approvals());
    }

    /// A signature or a rejection; the engine and the model take it alike, and keep the same approvals.
    fn sign(&mut self, which: Index, by: u8, approves: bool) {
        let known = self.model.approvals();
        let Some(approval) = (!known.is_empty()).then(|| which.get(&known)) else {
            return;
        };
        let by = text(["alice", "bob", PARTIES[0]][usize::from(by)]);
        let shown = (approval.id, &approval.of.body_sha256);
        let store = &self.engine.stores[0];
        let (told, expected) = if approves {
            let told = self.engine.runtime.block_on(store.approve(shown, &by, 1));
            (
                told,
                self.model.approve((&shown.0, shown.1), &by, 1, self.now_ms),
            )
        } else {
            let told = self.engine.runtime.block_on(store.reject(shown));
            (told, self.model.reject((&shown.0, shown.1), self.now_ms))
        };
        assert_eq!(told.unwrap(), expected, "{approval:?} by {by:?}");
        self.check_approvals();
    }

    fn admit(&mut self, instance: usize, calls: &[AskedCall]) {
        let mut batch = AdmissionBatch::default();
        for call in calls {
            let row = self.row(call);
            batch.push(row).unwrap();
        }
        let place = instance % self.engine.stores.len();
        let asked = self.engine.stores[place].admit(&batch);
        let reply = self.engine.runtime.block_on(asked).unwrap();
        let mut shadows = Vec::new();
        for (number, (row, verdict)) in batch.rows().iter().zip(&reply.verdicts).enumerate() {
            let call = SpendingCall {
                stamp: &row.stamp,
                party: &row.party,
                account: &row.account,
                demand: row.spend.as_ref().unwrap(),
                instance: i64::try_from(place).unwrap() + 1,
            };
            let expected = match self.model.reserve(self.now_ms, call) {
                SpendJudgement::Reserved(shadow) => {
                    shadows.extend(shadow.map(|breach| (number, breach)));
                    let mut row = row.clone();
                    let priced = self.model.order_currency(call);
                    let spend = row.spend.as_mut().unwrap();
                    if let Some(currency) = priced {
                        spend.price(currency);
                    }
                    assert_eq!(spend.of_order, None, "a rule over all covers each call");
                    self.check_files(&row);
                    self.sent.push(Sent {
                        row,
                        at_ms: self.now_ms,
                        executed: None,
                        answered: false,
                    });
                    AdmissionVerdict::Admitted
                }
                SpendJudgement::Exceeded(breach) => AdmissionVerdict::CapExceeded(Box::new(breach)),
                SpendJudgement::NeedsApproval(demand) => {
                    AdmissionVerdict::ApprovalRequired(Box::new(demand))
                }
                SpendJudgement::UnknownCurrency => AdmissionVerdict::UnknownCurrency,
            };
            assert_eq!(*verdict, expected, "{row:?}");
        }
        let told = reply.shadows.into_iter().map(|it| (it.row, it.breach));
        assert_eq!(told.collect::<Vec<_>>(), shadows);
    }

    /// A call that is admitted keeps each file of each living instance, read by itself: other files lift nothing of it.
    fn check_files(&self, row: &AdmissionRow) {
        let demand = row.spend.as_ref().unwrap();
        let is_alive = |place: &usize| {
            let id = i64::try_from(*place).unwrap() + 1;
            self.seen[&id] > self.now_ms.cast_signed() - 60_000
        };
        let files = self.files.iter().filter(|(place, _)| is_alive(place));
        let mut sums: BTreeMap<&CurrencyCode, u128> = BTreeMap::new();
        for part in &demand.parts {
            *sums.entry(&part.currency).or_default() += part.amount.units();
        }
        for file in files.flat_map(|(_, files)| files) {
            for scope in [CapScope::All, CapScope::of_account(&row.account)] {
                let rules = file.iter().filter(|rule| {
                    let is_real = !rule.name.shadow && rule.name.scope == scope;
                    is_real && rule.name.calls.contains(demand.counted_as)
                });
                let rules: Vec<_> = rules.collect();
                for (currency, units) in &sums {
                    let of = |own: Option<&CurrencyCode>| {
                        let mut rules = rules.iter();
                        rules.any(move |rule| rule.name.currency.as_ref() == own)
                    };
                    let is_named = of(Some(currency));
                    assert!(
                        scope == CapScope::All || rules.is_empty() || is_named || of(None),
                        "{currency:?} has no cap in {file:?}"
                    );
                    let bound = rules.iter().filter(|rule| {
                        let own = rule.name.currency.as_ref();
                        let covers = own.map_or(!is_named, |own| own == *currency);
                        rule.name.measure == CapMeasure::PerCall && covers
                    });
                    for rule in bound {
                        assert!(*units <= rule.limit.units(), "{row:?} breaks {rule:?}");
                    }
                }
            }
        }
    }

    fn row(&mut self, call: &AskedCall) -> AdmissionRow {
        self.number += 1;
        let mut stamp = [9; 16];
        // Some stamps begin alike: the ids of approvals are made of the beginning.
        let alike = self.number - u64::from(self.has_alike && self.number % 8 == 1);
        stamp[..8].copy_from_slice(&alike.to_be_bytes());
        stamp[8..].copy_from_slice(&self.number.to_be_bytes());
        let parts = call.amounts.iter().map(|(of, units)| SpendAmount {
            currency: currency(CURRENCIES[usize::from(*of)]),
            amount: amount(&units.to_string()),
        });
        let of_order = call.order.map(|order| OrderSpend {
            order: text(&format!("P-{order}")),
            amount: amount(&call.amounts[0].1.to_string()),
        });
        AdmissionRow {
            party: text(PARTIES[usize::from(call.party)]),
            account: account(PARTIES[usize::from(call.party)]),
            spend: Some(Box::new(SpendDemand {
                counted_as: CALLS[usize::from(call.call)],
                key: call.key.map(|key| text(&format!("k{key}"))),
                parts: parts.filter(|_| of_order.is_none()).collect(),
                of_order,
                approval: (!call.amounts.is_empty()).then(|| ApprovalSubject {
                    // Few digests, so that calls are repeated.
                    body_sha256: [call.amounts[0].1 / 7; 32],
                    amounts: told("amounts"),
                    targets: told("targets"),
                }),
            })),
            ..money_row(stamp, self.now_ms)
        }
    }

    /// GatePay executes a call if it has no object of its key.
    fn deliver(&mut self, which: Index) {
        let open: Vec<usize> = (0..self.sent.len())
            .filter(|at| self.sent[*at].executed.is_none() && !self.sent[*at].answered)
            .collect();
        if open.is_empty() {
            return;
        }
        let at = *which.get(&open);
        let key = self.sent[at].key();
        let is_new = !self.objects.contains_key(&key);
        self.sent[at].executed = Some(is_new);
        if is_new {
            self.objects.insert(
                key,
                Object {
                    sent: at,
                    stands: true,
                    decided_ms: self.now_ms,
                },
            );
        }
    }

    /// An instance reports only what is true: a call that GatePay has not received may never be sent any more.
    fn answer(&mut self, which: &[(Index, bool)]) {
        let mut settled = Vec::new();
        for (which, is_known) in which {
            let Some(at) = (!self.sent.is_empty()).then(|| which.index(self.sent.len())) else {
                continue;
            };
            let sent = &mut self.sent[at];
            if sent.answered {
                continue;
            }
            let result = match (*is_known, sent.executed) {
                // The code of a key that exists proves nothing.
                (false, _) | (true, Some(false)) => AttemptResult::Unknown,
                (true, Some(true)) => AttemptResult::Executed,
                (true, None) => AttemptResult::NotExecuted,
            };
            sent.answered = *is_known;
            settled.push(SettledAttempt {
                stamp: sent.row.stamp,
                result,
            });
        }
        let store = &self.engine.stores[0];
        let run = store.settle_attempts(&settled);
        self.engine.runtime.block_on(run).unwrap();
        self.model.settle_attempts(&settled);
    }

    fn object(&mut self, which: Index) -> Option<&mut Object> {
        let len = self.objects.len();
        let at = (len > 0).then(|| which.index(len))?;
        self.objects.values_mut().nth(at)
    }

    fn notify(&mut self, which: Index, told: u8) {
        let Some(object) = self.object(which).cloned() else {
            return;
        };
        let row = &self.sent[object.sent].row;
        let spend = row.spend.as_ref().unwrap();
        let Some(key) = spend.key.clone() else {
            return;
        };
        let settled = SettledObject {
            party: row.party.clone(),
            account: row.account.clone(),
            // The notification of a refund does not say which.
            counted_as: if object.sent.is_multiple_of(2) {
                CALLS.to_vec()
            } else {
                vec![spend.counted_as]
            },
            key,
            stands: object.stands,
            amounts: match told {
                0 => Vec::new(),
                1 => vec![StatedAmount {
                    currency: None,
                    amount: spend.parts[0].amount,
                }],
                2 => vec![StatedAmount {
                    currency: Some(spend.parts[0].currency.clone()),
                    amount: spend.parts[0].amount,
                }],
                _ => vec![StatedAmount {
                    currency: Some(currency(CURRENCIES[0])),
                    amount: amount("11"),
                }],
            },
            decided_ms: object.decided_ms,
        };
        let run = self.engine.stores[0].settle_object(&settled);
        let is_released = self.engine.runtime.block_on(run).unwrap();
        assert_eq!(
            is_released,
            self.model.settle_object(&settled),
            "{settled:?}"
        );
    }

    /// An instance whose declaration was lost, or beside which another one has ended, sees that it has to declare again.
    fn check_claims(&self) {
        let last = self.declared.iter();
        let last = last.filter_map(|(place, [last, _])| Some((place, last.as_ref()?.0)));
        for (place, number) in last {
            let store = &self.engine.stores[*place];
            let stand = |number| self.engine.runtime.block_on(store.caps_stand(number));
            let id = i64::try_from(*place).unwrap() + 1;
            // A file has one process, and so no other claims.
            let is_alone = matches!(store, Store::Sqlite(_));
            let expected = is_alone || self.model.stands(id, self.now_ms, &self.seen);
            assert_eq!(stand(number).unwrap(), expected);
            assert_eq!(stand(self.declarations + 1).unwrap(), is_alone);
        }
    }

    fn check_unknown(&self) {
        let unknown = self.engine.stores[0].unknown_spends(1_000);
        let unknown = self.engine.runtime.block_on(unknown).unwrap();
        let mut expected: BTreeMap<_, u64> = BTreeMap::new();
        for (at_ms, name) in self.model.unknown() {
            let since = expected.entry(name).or_insert(at_ms);
            *since = at_ms.min(*since);
        }
        let told: BTreeMap<_, u64> = unknown
            .into_iter()
            .map(|it| ((it.party, it.counted_as, it.key), it.since_ms))
            .collect();
        let keyed = expected
            .iter()
            .filter(|(name, _)| name.key.starts_with('k'));
        let keyed: BTreeMap<_, u64> = keyed
            .map(|(name, since)| {
                let key = Some(text(&name.key));
                ((text(&name.party), name.counted_as.clone(), key), *since)
            })
            .collect();
        let told_keyed = told.iter().filter(|((_, _, key), _)| key.is_some());
        let told_keyed: BTreeMap<_, u64> = told_keyed.map(|(it, ms)| (it.clone(), *ms)).collect();
        assert_eq!(told_keyed, keyed);
    }

    /// What GatePay executed and did not undo is within the lasting rules, in every window of their length.
    fn check_executed(&self) {
        let standing = self.objects.values().filter(|object| object.stands);
        let executed: Vec<&Sent> = standing.map(|object| &self.sent[object.sent]).collect();
        let days = &self.days;
        assert!(
            days.windows(2)
                .all(|days| days[1] - days[0] >= 23 * HOUR_MS)
        );
        let (above, others): (Vec<_>, Vec<_>) = lasting()
            .into_iter()
            .partition(|rule| rule.name.measure == CapMeasure::ApproveAbove);
        for rule in above {
            self.check_approved(&rule);
        }
        for rule in others {
            let spent = |from_ms: u64, to_ms: u64| {
                let within = executed.iter().filter(|it| {
                    let is_scope = match &rule.name.scope {
                        CapScope::All => true,
                        scope @ CapScope::Account(_) => {
                            *scope == CapScope::of_account(&it.row.account)
                        }
                    };
                    is_scope && (from_ms..=to_ms).contains(&it.at_ms)
                });
                let parts = within.flat_map(|it| &it.row.spend.as_ref().unwrap().parts);
                let parts =
                    parts.filter(|part| Some(&part.currency) == rule.name.currency.as_ref());
                parts.map(|part| part.amount.units()).sum::<u128>()
            };
            for first in &executed {
                let from_ms = first.at_ms;
                let to_ms = match rule.name.measure {
                    CapMeasure::PerHour => from_ms + HOUR_MS,
                    CapMeasure::Per24Hours => from_ms + DAY_MS,
                    _ => *days.iter().find(|midnight| **midnight > from_ms).unwrap() - 1,
                };
                let spent = spent(from_ms, to_ms);
                assert!(
                    spent <= rule.limit.units(),
                    "{:?} of {}: {spent} units executed from {from_ms} on",
                    rule.name,
                    rule.limit
                );
            }
        }
    }
}

impl CapTrial<'_> {
    /// Each admitted call above the limit has used an approval of its own, which as many operators have signed as it takes.
    fn check_approved(&self, rule: &CapRule) {
        let above = self.sent.iter().filter(|sent| {
            let spend = sent.row.spend.as_ref().unwrap();
            let parts = spend.parts.iter();
            let parts = parts.filter(|part| Some(&part.currency) == rule.name.currency.as_ref());
            let units: u128 = parts.map(|part| part.amount.units()).sum();
            units > rule.limit.units() && sent.row.account == account(PARTIES[0])
        });
        let approvals = self.model.approvals();
        let used = approvals
            .iter()
            .filter(|it| it.state == ApprovalState::Used);
        let used: Vec<_> = used.collect();
        assert!(above.count() <= used.len());
        for approval in used {
            let signers = approval.signers.len();
            assert!(signers >= self.fewest as usize, "{approval:?}");
            assert!(
                !approval.signers.contains(&approval.of.party),
                "{approval:?}"
            );
        }
    }
}

impl Sent {
    /// What GatePay takes for the same transaction. Calls without a key are all their own.
    fn key(&self) -> (String, &'static str, String) {
        let spend = self.row.spend.as_ref().unwrap();
        let key = spend.key.as_ref().map_or_else(
            || format!("{:?}", self.row.stamp),
            |key| key.as_str().to_owned(),
        );
        (self.row.party.as_str().to_owned(), spend.counted_as, key)
    }
}
