//! Sequences of calls about notifications: an engine and the model in Rust give the same answers. The tests of both
//! engines include this file.

use std::collections::HashMap;
use std::time::Duration;

use gatepay_core::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind};
use gatepay_core::notification::{DuplicateKey, NotificationKind, StatusRank};
use gatepay_core::owner_look_up::IsolationVerdict;
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use gatepay_core::settlement::{ObjectOutcome, OutcomeProof};
use gatepay_store::engine::Store;
use gatepay_store::notifications::delivery::{
    AttemptEffect, AttemptRecord, DueEvent, EndpointBreaker, EndpointClaim, EndpointKey,
    EndpointOffReason, UrlPrint,
};
use gatepay_store::notifications::event::{
    EventId, EventPlacement, EventState, NewEvent, PlacementBasis, QuarantineDecision,
    QuarantineQueue, ReceiveResult,
};
use gatepay_store::notifications::isolation::{IsolationFinding, IsolationSubject};
use gatepay_store::notifications::ledger::{
    CallbackUrl, LastCredential, LedgerNote, LedgerSource, TenantAccount,
};
use gatepay_store::notifications::listing::{ReplayFilter, RetentionTerms};
use gatepay_store::notifications::model::NotificationModel;
use gatepay_store::notifications::settlement::{ObjectNews, OpenCall, SettlementReport};
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use crate::cap_steps::START_MS;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum NewsStep {
    Advance(u64),
    /// A configuration in which the tenant has the sub-account.
    Register(u8, u8),
    /// An instance says which credential two tenants have used last, or asks.
    LastUsed(Option<u8>, Option<u8>),
    Receive(Vec<AskedEvent>),
    Note(u8, u8, u8, Option<u64>),
    /// An answer of GatePay's to a question about an object.
    LearnByAsking(u8, u8, u8),
    /// A call about one or two keys ends without a known outcome, perhaps one that closes an order.
    OpenCall(u8, u8, u8, bool),
    /// Notifications about some keys prove outcomes.
    Prove(Vec<(u8, u8, u8, u8)>),
    Token(u8, u8, u8),
    TakeQuarantined(bool, u32),
    Settle(Index, AskedOwner, AskedDecision),
    /// Another operator gets the news for operators that waits.
    HandOver(u8, u32),
    Assign(Index, AskedOwner),
    /// One of two operators would give an event to a tenant.
    Propose(Index, u8, bool),
    /// A probe about two look-ups, with one of two credentials.
    Probe(u8, Vec<(u8, u8)>, u64),
    Claim(i64, u32),
    Renew(Index),
    Release(Index),
    /// An instance begins attempts under a claim.
    Begin(Index, u32),
    /// An attempt ends, perhaps long after its claim.
    End(Vec<(Index, u8)>),
    TurnOff(Index),
    TurnOn(Index),
    Replay(Index, bool),
    Retain,
}

/// A notification about one of a few objects.
#[derive(Debug, Clone)]
pub(crate) struct AskedEvent {
    kind: u8,
    object: u8,
    status: u8,
    body: u8,
    hint: u8,
    owner: AskedOwner,
}

/// The owner that a decision finds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AskedOwner {
    /// A tenant in its newest incarnation, or in the one before, at its own URL or at that of a call.
    Tenant {
        tenant: u8,
        is_older: bool,
        url: u8,
    },
    Operators,
    Nobody,
}

/// The next state of an event in quarantine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AskedDecision {
    Place,
    Again(u64),
    Ask,
}

fn asked_owner() -> impl Strategy<Value = AskedOwner> {
    let tenant = (0_u8..2, prop::bool::weighted(0.1), 0_u8..2);
    prop_oneof![
        8 => tenant.prop_map(|(tenant, is_older, url)| AskedOwner::Tenant { tenant, is_older, url }),
        1 => Just(AskedOwner::Operators),
        2 => Just(AskedOwner::Nobody),
    ]
}

fn asked_event() -> impl Strategy<Value = AskedEvent> {
    let event = (0_u8..3, 0_u8..3, 0_u8..6, 0_u8..2, 0_u8..4, asked_owner());
    event.prop_map(|(kind, object, status, body, hint, owner)| AskedEvent {
        kind,
        object,
        status,
        body,
        hint,
        owner,
    })
}

pub(crate) fn news_step() -> impl Strategy<Value = NewsStep> {
    let advance = prop_oneof![
        4 => 0_u64..2_000, 4 => 4_000_u64..20_000, 3 => 25_000_u64..70_000, 1 => HOUR_MS..90 * HOUR_MS,
        1 => 20 * DAY_MS..60 * DAY_MS,
    ];
    let decision = prop_oneof![
        2 => Just(AskedDecision::Place), 1 => (0_u64..100_000).prop_map(AskedDecision::Again), 1 => Just(AskedDecision::Ask),
    ];
    let past = prop::option::of(0..10 * DAY_MS);
    let ends = prop::collection::vec((any::<Index>(), 0_u8..8), 1..4);
    prop_oneof![
        8 => advance.prop_map(NewsStep::Advance),
        2 => (0_u8..2, 0_u8..2).prop_map(|(tenant, account)| NewsStep::Register(tenant, account)),
        2 => (prop::option::of(0_u8..2), prop::option::of(0_u8..2))
            .prop_map(|(first, second)| NewsStep::LastUsed(first, second)),
        12 => prop::collection::vec(asked_event(), 1..6).prop_map(NewsStep::Receive),
        4 => (0_u8..4, 0_u8..2, 0_u8..2, past).prop_map(|(key, tenant, account, past)| NewsStep::Note(key, tenant, account, past)),
        4 => (0_u8..4, 0_u8..2, 0_u8..2, any::<bool>())
            .prop_map(|(key, tenant, account, closes)| NewsStep::OpenCall(key, tenant, account, closes)),
        4 => prop::collection::vec((0_u8..4, 0_u8..2, 0_u8..2, 0_u8..3), 1..4).prop_map(NewsStep::Prove),
        1 => (0_u8..2, 0_u8..18, 0_u8..2).prop_map(|(tenant, url, call)| NewsStep::Token(tenant, url, call)),
        3 => (any::<bool>(), 1_u32..4).prop_map(|(asks, most)| NewsStep::TakeQuarantined(asks, most)),
        3 => (any::<Index>(), asked_owner(), decision)
            .prop_map(|(at, owner, decision)| NewsStep::Settle(at, owner, decision)),
        1 => (0_u8..2, 1_u32..3).prop_map(|(tenant, most)| NewsStep::HandOver(tenant, most)),
        2 => (0_u8..4, 0_u8..2, 0_u8..2)
            .prop_map(|(key, look_up, tenant)| NewsStep::LearnByAsking(key, look_up, tenant)),
        1 => (any::<Index>(), asked_owner()).prop_map(|(at, owner)| NewsStep::Assign(at, owner)),
        1 => (any::<Index>(), 0..2_u8, any::<bool>())
            .prop_map(|(at, tenant, by)| NewsStep::Propose(at, tenant, by)),
        1 => (0..2_u8, prop::collection::btree_map(0..2_u8, 0..3_u8, 0..3), 0..60_000_u64)
            .prop_map(|(credential, found, took)| NewsStep::Probe(credential, found.into_iter().collect(), took)),
        8 => (1_i64..3, 1_u32..4).prop_map(|(instance, most)| NewsStep::Claim(instance, most)),
        2 => any::<Index>().prop_map(NewsStep::Renew),
        2 => any::<Index>().prop_map(NewsStep::Release),
        8 => (any::<Index>(), 1_u32..4).prop_map(|(at, most)| NewsStep::Begin(at, most)),
        8 => ends.prop_map(NewsStep::End),
        1 => any::<Index>().prop_map(NewsStep::TurnOff),
        1 => any::<Index>().prop_map(NewsStep::TurnOn),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(at, one)| NewsStep::Replay(at, one)),
        1 => Just(NewsStep::Retain),
    ]
}

/// An engine whose clock a test sets, without a row.
pub(crate) struct NewsEngine<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) store: &'a Store,
    pub(crate) set_clock: &'a dyn Fn(u64),
}

/// One sequence of steps.
struct NewsTrial<'a> {
    engine: NewsEngine<'a>,
    model: NotificationModel,
    ids: Vec<EventId>,
    claims: Vec<EndpointClaim>,
    begun: Vec<(EndpointClaim, DueEvent)>,
    tenants: HashMap<u8, Vec<TenantIncarnation>>,
    /// The highest rank that was acknowledged, by line.
    acknowledged: HashMap<i64, StatusRank>,
    tokens: u32,
}

macro_rules! both {
    ($trial:ident, $call:ident($($argument:expr),*)) => {{
        let answered = $trial
            .engine
            .runtime
            .block_on($trial.engine.store.$call($($argument),*))
            .unwrap();
        let expected = $trial.model.$call($($argument),*);
        assert_eq!(answered, expected, "{}", stringify!($call));
        answered
    }};
}

/// A sub-account that returns is a new incarnation, and rows of the ledger belong to the one of their time.
pub(crate) fn an_account_that_returns() -> Vec<NewsStep> {
    vec![
        NewsStep::Advance(1_000),
        NewsStep::Note(0, 0, 0, None),
        NewsStep::Advance(1_000),
        NewsStep::Register(0, 1),
        NewsStep::Note(1, 0, 1, None),
        NewsStep::Advance(1_000),
        NewsStep::Register(0, 0),
        NewsStep::Note(2, 0, 0, Some(1_500)),
        NewsStep::Note(3, 0, 0, None),
        NewsStep::Note(3, 0, 1, Some(DAY_MS)),
    ]
}

/// Runs steps, and compares each answer and what is stored after each step.
pub(crate) fn run(engine: NewsEngine<'_>, steps: &[NewsStep]) {
    let mut trial = NewsTrial {
        engine,
        model: NotificationModel::default(),
        ids: Vec::new(),
        claims: Vec::new(),
        begun: Vec::new(),
        tenants: HashMap::new(),
        acknowledged: HashMap::new(),
        tokens: 0,
    };
    trial.advance(START_MS);
    trial.register(0, 0);
    trial.register(1, 0);
    for step in steps {
        trial.step(step);
        both!(trial, notification_counts());
    }
    trial.compare_lists();
}

impl NewsTrial<'_> {
    fn step(&mut self, step: &NewsStep) {
        match step {
            NewsStep::Advance(ms) => self.advance(*ms),
            NewsStep::Register(tenant, account) => self.register(*tenant, *account),
            NewsStep::LastUsed(first, second) => self.last_used(*first, *second),
            NewsStep::Receive(events) => self.receive(events),
            NewsStep::Note(key, tenant, account, past) => self.note(*key, *tenant, *account, *past),
            NewsStep::OpenCall(key, tenant, account, closes) => {
                self.open_call(*key, *tenant, *account, *closes);
            }
            NewsStep::Prove(news) => self.prove(news),
            NewsStep::Token(tenant, url, call) => self.token(*tenant, *url, *call),
            NewsStep::TakeQuarantined(asks, most) => {
                let queue = if *asks {
                    QuarantineQueue::Asked
                } else {
                    QuarantineQueue::Known
                };
                both!(self, take_quarantined(queue, *most));
            }
            NewsStep::Settle(at, owner, decision) => self.settle(*at, *owner, *decision),
            NewsStep::HandOver(tenant, most) => {
                let to = self.tenant(*tenant, false);
                both!(self, hand_over_news(&to, *most));
            }
            NewsStep::LearnByAsking(key, look_up, tenant) => {
                self.learn_by_asking(*key, *look_up, *tenant);
            }
            NewsStep::Assign(at, owner) => self.assign(*at, *owner),
            NewsStep::Propose(at, tenant, by) => {
                if !self.ids.is_empty() {
                    let id = *at.get(&self.ids);
                    let tenant = self.tenant(*tenant, false);
                    let by = if *by { "olga" } else { "otto" };
                    both!(self, propose(id, &tenant, by));
                }
            }
            NewsStep::Probe(credential, found, took) => self.probe(*credential, found, *took),
            NewsStep::Claim(instance, most) => {
                let claims = both!(self, claim_endpoints(*instance, *most));
                self.claims.extend(claims);
            }
            NewsStep::Renew(at) => {
                if let Some(claim) = self.claim(*at) {
                    both!(self, renew_claims(std::slice::from_ref(&claim)));
                }
            }
            NewsStep::Release(at) => {
                if let Some(claim) = self.claim(*at) {
                    both!(self, release_endpoints(std::slice::from_ref(&claim)));
                }
            }
            NewsStep::Begin(at, most) => self.begin(*at, *most),
            NewsStep::End(ends) => self.end(ends),
            NewsStep::TurnOff(at) => {
                if let Some(key) = self.endpoint(*at) {
                    both!(self, turn_endpoint_off(&key, EndpointOffReason::Operator));
                }
            }
            NewsStep::TurnOn(at) => {
                if let Some(key) = self.endpoint(*at) {
                    both!(self, turn_endpoint_on(&key));
                }
            }
            NewsStep::Replay(at, is_one) => self.replay(*at, *is_one),
            NewsStep::Retain => self.retain(),
        }
    }

    fn advance(&mut self, ms: u64) {
        self.model.now_ms += ms;
        (self.engine.set_clock)(self.model.now_ms);
    }

    fn register(&mut self, tenant: u8, account: u8) {
        let asked = [TenantAccount {
            tenant: format!("t{tenant}"),
            account: format!("a{account}"),
        }];
        let registered = both!(self, register_tenants(&asked));
        let accounts = [0, 1].map(|account| format!("a{account}"));
        both!(self, account_incarnations(&accounts));
        let known = self.tenants.entry(tenant).or_default();
        if known.last() != registered.last() {
            known.extend(registered);
        }
    }

    fn last_used(&mut self, first: Option<u8>, second: Option<u8>) {
        let last = |tenant: &str, used: Option<u8>| LastCredential {
            party: tenant.to_owned(),
            used: used.map(|number| format!("client-{number}")),
        };
        let parties = [last("t1", second), last("t0", first), last("t2", None)];
        both!(self, last_credentials(&parties));
    }

    fn tenant(&self, tenant: u8, is_older: bool) -> TenantIncarnation {
        let known = &self.tenants[&tenant];
        let at = known.len() - 1;
        known[at.saturating_sub(usize::from(is_older))].clone()
    }

    fn placement(&self, owner: AskedOwner, by: PlacementBasis) -> EventPlacement {
        match owner {
            AskedOwner::Tenant {
                tenant,
                is_older,
                url,
            } => EventPlacement::Tenant {
                tenant: self.tenant(tenant, is_older),
                url: (url > 0).then(|| format!("https://shop.example/{url}")),
                by,
            },
            AskedOwner::Operators => EventPlacement::Operators,
            AskedOwner::Nobody => EventPlacement::Quarantine(QuarantineReason::NoHolder),
        }
    }

    fn event(&self, asked: &AskedEvent) -> NewEvent {
        let kinds = [
            NotificationKind::PayAddress,
            NotificationKind::Withdraw,
            NotificationKind::TransferAddress,
        ];
        let kind = kinds[usize::from(asked.kind)];
        let mut statuses = kind.statuses().to_vec();
        statuses.push(("A_STATUS_OF_THE_FUTURE", None));
        let (status, rank) = statuses[usize::from(asked.status) % statuses.len()];
        let body = format!("{} {} {status} {}", kind.as_str(), asked.object, asked.body);
        let mut body_sha256 = [asked.body; 32];
        body_sha256[1] = asked.status;
        NewEvent {
            key: DuplicateKey {
                kind,
                object: format!("o{}", asked.object),
                status: status.to_owned(),
                body_sha256,
            },
            rank,
            body: body.into_bytes(),
            token: (asked.hint == 0).then(|| "token".to_owned()),
            hints: vec![key(asked.hint)],
            placement: self.placement(asked.owner, PlacementBasis::Hints(HintStrength::Certain)),
        }
    }

    fn receive(&mut self, asked: &[AskedEvent]) {
        let events: Vec<NewEvent> = asked.iter().map(|asked| self.event(asked)).collect();
        let answered = self.engine.store.receive(&events);
        let answered = self.engine.runtime.block_on(answered).unwrap();
        let mut ids = Vec::new();
        for result in &answered {
            match result {
                ReceiveResult::New(arrival) | ReceiveResult::Changed(arrival) => {
                    ids.push(arrival.id);
                    self.ids.push(arrival.id);
                }
                ReceiveResult::Duplicate(id) => ids.push(*id),
            }
        }
        assert_eq!(answered, self.model.receive(&events, &ids), "{events:?}");
    }

    fn note(&mut self, number: u8, tenant: u8, account: u8, past: Option<u64>) {
        let note = LedgerNote {
            key: key(number),
            holder: account_of(tenant, account),
            at_ms: past.map(|past| self.model.now_ms - past),
            operation: "create_order".to_owned(),
            currency: None,
        };
        let notes = [note.clone(), note];
        both!(self, note_owners(&notes, LedgerSource::Answer));
        let keys: Vec<LedgerKey> = (0..4).map(key).collect();
        both!(self, owners(&keys));
    }

    fn learn_by_asking(&mut self, number: u8, look_up: u8, tenant: u8) {
        let note = LedgerNote {
            key: key(number),
            holder: account_of(tenant, 0),
            at_ms: None,
            operation: format!("look-up {look_up}"),
            currency: None,
        };
        let notes = [note];
        both!(self, note_owners(&notes, LedgerSource::Asked));
        let keys: Vec<LedgerKey> = (0..4).map(key).collect();
        both!(self, owners(&keys));
    }

    fn open_call(&mut self, number: u8, tenant: u8, account: u8, closes: bool) {
        self.tokens += 1;
        let other = self.tokens % 4;
        let mut keys = vec![key(number)];
        if closes && other != u32::from(number) {
            keys.push(key(u8::try_from(other).unwrap()));
        }
        let call = OpenCall {
            call: format!("call {}", self.tokens),
            holder: account_of(tenant, account),
            operation: "close_order".to_owned(),
            keys,
            closes,
        };
        let twice = [call.clone(), call];
        both!(self, note_open_calls(&twice));
    }

    fn prove(&mut self, asked: &[(u8, u8, u8, u8)]) {
        let Some(event) = self.ids.last().copied() else {
            return;
        };
        let news: Vec<ObjectNews> = asked
            .iter()
            .map(|(number, tenant, account, outcome)| ObjectNews {
                event,
                holder: account_of(*tenant, *account),
                proof: OutcomeProof {
                    keys: vec![key(*number), key((number + 1) % 4)],
                    outcome: ObjectOutcome::ALL[usize::from(*outcome)],
                    status: format!("STATUS_{outcome}"),
                    refund: None,
                },
            })
            .collect();
        both!(self, settle_objects(&news));
        // Whatever was settled is so once.
        let again = both!(self, settle_objects(&news));
        assert_eq!(again, SettlementReport::default());
        let keys: Vec<LedgerKey> = (0..4).map(key).collect();
        both!(self, owners(&keys));
    }

    fn token(&mut self, tenant: u8, url: u8, call: u8) {
        let wanted = CallbackUrl {
            tenant: self.tenant(tenant, url == 0),
            url: format!("https://shop.example/{url}"),
            made_for: format!("call_{call}"),
        };
        self.tokens += 1;
        let proposed = format!("token {}", self.tokens);
        both!(self, callback_token(&wanted, &proposed));
        both!(self, callback_urls(&["token 1", "none", &proposed]));
    }

    fn settle(&mut self, at: Index, owner: AskedOwner, decision: AskedDecision) {
        if self.ids.is_empty() {
            return;
        }
        let id = *at.get(&self.ids);
        let reason = QuarantineReason::Disagreement;
        let decision = match decision {
            AskedDecision::Again(delay) => {
                QuarantineDecision::Again(reason, Duration::from_millis(delay))
            }
            AskedDecision::Ask => QuarantineDecision::Ask(reason),
            AskedDecision::Place => {
                QuarantineDecision::Placed(self.placement(owner, PlacementBasis::Asked))
            }
        };
        let proved = self.proof_of(id);
        both!(self, settle_quarantine(id, &decision, Some(&proved)));
    }

    /// Proof about an order of a tenant's.
    fn proof_of(&self, event: EventId) -> ObjectNews {
        let number = u8::try_from(self.tokens % 4).unwrap();
        ObjectNews {
            event,
            holder: account_of(number % 2, number / 2),
            proof: OutcomeProof {
                keys: vec![key(number)],
                outcome: ObjectOutcome::ALL[usize::from(number % 3)],
                status: format!("STATUS_{number}"),
                refund: None,
            },
        }
    }

    fn probe(&mut self, credential: u8, found: &[(u8, u8)], took: u64) {
        let subject = IsolationSubject {
            upstream: "https://gatepay.example".to_owned(),
            client_id: format!("institution {credential}"),
        };
        let finding = |(look_up, verdict): &(u8, u8)| IsolationFinding {
            operation: format!("look-up {look_up}"),
            verdict: IsolationVerdict::ALL[usize::from(*verdict)],
            accounts: u32::from(*verdict),
        };
        let findings: Vec<IsolationFinding> = found.iter().map(finding).collect();
        let since_ms = self.model.now_ms - took;
        both!(self, note_isolation(&subject, &findings, since_ms));
        let keys: Vec<LedgerKey> = (0..4).map(key).collect();
        both!(self, owners(&keys));
        both!(self, isolation(&subject));
    }

    fn assign(&mut self, at: Index, owner: AskedOwner) {
        let AskedOwner::Tenant {
            tenant,
            is_older,
            url,
        } = owner
        else {
            return;
        };
        if !self.ids.is_empty() {
            let id = *at.get(&self.ids);
            let tenant = self.tenant(tenant, is_older);
            let url = (url > 0).then_some("https://shop.example/1");
            let proved = self.proof_of(id);
            both!(self, assign(id, (&tenant, url), "olga", Some(&proved)));
        }
    }

    fn claim(&self, at: Index) -> Option<EndpointClaim> {
        (!self.claims.is_empty()).then(|| at.get(&self.claims).clone())
    }

    fn endpoint(&self, at: Index) -> Option<EndpointKey> {
        self.claim(at).map(|claim| claim.endpoint)
    }

    fn begin(&mut self, at: Index, most: u32) {
        let Some(claim) = self.claim(at) else {
            return;
        };
        let due = both!(self, due_events(std::slice::from_ref(&claim), most));
        for event in due.into_iter().flatten() {
            let kind = NotificationKind::parse(&event.kind).unwrap();
            let before = self.acknowledged.get(&event.line).copied();
            let rank = kind.rank(&event.status);
            assert!(
                rank.is_none() || rank >= before,
                "{event:?} after {before:?}"
            );
            self.begun.push((claim.clone(), event));
        }
    }

    fn end(&mut self, ends: &[(Index, u8)]) {
        let mut records = Vec::new();
        for (at, effect) in ends {
            if self.begun.is_empty() {
                break;
            }
            let (claim, event) = self.begun.remove(at.index(self.begun.len()));
            let record = self.record(&claim, &event, *effect);
            if record.effect == AttemptEffect::Delivered {
                let kind = NotificationKind::parse(&event.kind).unwrap();
                let before = self.acknowledged.get(&event.line).copied();
                let highest = before.max(kind.rank(&event.status));
                self.acknowledged
                    .extend(highest.map(|highest| (event.line, highest)));
            }
            records.push(record);
        }
        if !records.is_empty() {
            both!(self, record_attempts(&records));
            both!(self, event(records[0].event));
        }
    }

    fn record(&self, claim: &EndpointClaim, event: &DueEvent, effect: u8) -> AttemptRecord {
        let now_ms = self.model.now_ms;
        let failures = u32::from(effect > 1);
        AttemptRecord {
            event: event.id,
            claim: (claim.number, claim.turn),
            instance: 1,
            took: Duration::from_millis(12),
            status: (effect > 0).then_some(200 + u16::from(effect)),
            outcome: "made up".to_owned(),
            said: vec![effect; usize::from(effect)],
            effect: match effect {
                0..=2 => AttemptEffect::Delivered,
                3..=4 => AttemptEffect::Retry(Duration::from_secs(15)),
                5 => AttemptEffect::Retry(Duration::ZERO),
                6 => AttemptEffect::Dead,
                _ => AttemptEffect::EndpointOff(UrlPrint(i64::from(failures))),
            },
            breaker: EndpointBreaker {
                failures,
                failing_since_ms: (failures > 0).then_some(now_ms),
                open_until_ms: (effect == 4).then_some(now_ms + 30_000),
                failed_probes: 0,
            },
        }
    }

    fn replay(&mut self, at: Index, is_one: bool) {
        if self.ids.is_empty() {
            return;
        }
        let filter = if is_one {
            ReplayFilter::Event(*at.get(&self.ids))
        } else {
            let tenant = u8::try_from(at.index(2)).unwrap();
            ReplayFilter::Tenant {
                tenant: self.tenant(tenant, false),
                since_ms: self.model.now_ms - HOUR_MS,
            }
        };
        both!(self, replay(&filter));
    }

    /// The ledger is removed block by block in one engine, and by age in the other.
    fn retain(&mut self) {
        let terms = RetentionTerms {
            owners: Duration::from_hours(24 * 365 * 200),
            ..RetentionTerms::default()
        };
        both!(self, retain(&terms));
    }

    fn compare_lists(&mut self) {
        let states = EventState::ALL.iter().copied().map(Some).chain([None]);
        for state in states {
            let mut before = None;
            loop {
                let page = both!(self, list_events(state, before, 3));
                before = page.1;
                if before.is_none() {
                    break;
                }
            }
            for tenant in self.tenants.values().flatten() {
                let mut after = 0;
                loop {
                    let page = both!(self, tenant_events(tenant, state, after, 4));
                    after = page.next;
                    if !page.has_more {
                        break;
                    }
                }
            }
        }
        for id in &self.ids {
            both!(self, event(*id));
        }
    }
}

fn account_of(tenant: u8, account: u8) -> TenantAccount {
    TenantAccount {
        tenant: format!("t{tenant}"),
        account: format!("a{account}"),
    }
}

fn key(number: u8) -> LedgerKey {
    LedgerKey::new(LedgerKeyKind::PrepayId, format!("{number}")).unwrap()
}
