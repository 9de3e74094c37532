//! The store's rules for notifications in Rust, without an engine. The property tests drive it beside both engines.
//!
//! It follows the rules with plain searches through all rows. Only the ids of events are not its own: an engine draws
//! them.

mod delivery;
mod isolation;
mod lists;
mod quarantine;
mod settlement;

use std::collections::{BTreeMap, BTreeSet};

use gatepay_core::delivery_order::{ArrivalVerdict, ObjectProgress};
use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};

use super::delivery::{AttemptRecord, EndpointBreaker, EndpointKey, EndpointOffReason, UrlPrint};
use super::event::{
    DecisionTerms, EventId, EventState, FIRST_DECISION_DELAY, NewEvent, PlacementBasis,
    ReceiveResult,
};
use super::isolation::{IsolationFinding, IsolationSubject};
use super::ledger::{
    CallbackToken, CallbackUrl, LastCredential, LedgerHolder, LedgerNote, LedgerSource,
    MOST_CALLBACK_URLS, ProvedOutcome, TenantAccount,
};
use super::settlement::OpenCall;

/// All that a store keeps of notifications.
#[derive(Debug, Clone, Default)]
pub struct NotificationModel {
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
    incarnations: BTreeMap<String, Vec<ModelIncarnation>>,
    /// The client ids, by party.
    last_credentials: BTreeMap<String, String>,
    owners: BTreeMap<(LedgerKey, TenantAccount), OwnerRow>,
    proved: BTreeMap<(LedgerKey, TenantAccount), ProvedOutcome>,
    open_calls: BTreeMap<String, (OpenCall, u64)>,
    tokens: Vec<(String, CallbackUrl)>,
    endpoints: Vec<ModelEndpoint>,
    objects: Vec<Option<ModelObject>>,
    events: BTreeMap<EventId, ModelEvent>,
    last_place: i64,
    /// Tenant, operator and time.
    proposals: BTreeMap<EventId, (TenantIncarnation, String, u64)>,
    isolation: BTreeMap<(IsolationSubject, String), (IsolationFinding, u64)>,
}

#[derive(Debug, Clone)]
struct ModelIncarnation {
    account: String,
    began_ms: u64,
}

#[derive(Debug, Clone)]
struct ModelEndpoint {
    key: EndpointKey,
    off: Option<EndpointOffReason>,
    on_since_ms: u64,
    gone: Option<UrlPrint>,
    breaker: EndpointBreaker,
    claimed_by: Option<i64>,
    claimed_until: u64,
    turn: i64,
}

#[derive(Debug, Clone)]
struct ModelObject {
    tenant: TenantIncarnation,
    kind: String,
    object: String,
    progress: ObjectProgress,
    at_ms: u64,
}

#[derive(Debug, Clone)]
struct ModelEvent {
    event: NewEvent,
    received_ms: u64,
    is_changed: bool,
    state: EventState,
    quarantine: Option<QuarantineReason>,
    decisions: u32,
    decide_ms: Option<u64>,
    asks: bool,
    owned: Option<OwnedEvent>,
    has_conflict: bool,
    waits_since_ms: Option<u64>,
    next_ms: Option<u64>,
    failed: u32,
    attempts: Vec<(u64, AttemptRecord)>,
    attempt_count: u32,
}

/// When a key was used last, by which operation, and the source of the row.
type OwnerRow = (u64, String, LedgerSource);

/// The place of an event that has an owner. Numbers count from 0.
#[derive(Debug, Clone)]
struct OwnedEvent {
    tenant: TenantIncarnation,
    by: PlacementBasis,
    object: usize,
    endpoint: usize,
    place: i64,
}

impl NotificationModel {
    /// As [`Store::register_tenants`](crate::engine::Store::register_tenants).
    pub fn register_tenants(&mut self, tenants: &[TenantAccount]) -> Vec<TenantIncarnation> {
        let mut registered = Vec::new();
        for TenantAccount { tenant, account } in tenants {
            let known = self.incarnations.entry(tenant.clone()).or_default();
            if known.last().is_none_or(|newest| newest.account != *account) {
                known.push(ModelIncarnation {
                    account: account.clone(),
                    began_ms: self.now_ms,
                });
                for endpoint in &mut self.endpoints {
                    if endpoint.key.tenant.tenant == *tenant {
                        endpoint.off = Some(EndpointOffReason::Removed);
                    }
                }
            }
            registered.push(TenantIncarnation {
                tenant: tenant.clone(),
                account: account.clone(),
                incarnation: known.len() as u64,
            });
        }
        registered
    }

    /// As [`Store::last_credentials`](crate::engine::Store::last_credentials).
    pub fn last_credentials(&mut self, parties: &[LastCredential]) -> Vec<Option<String>> {
        let known = &mut self.last_credentials;
        let news = parties
            .iter()
            .filter_map(|it| Some((it.party.clone(), it.used.clone()?)));
        known.extend(news);
        let last = parties.iter().map(|it| known.get(&it.party).cloned());
        last.collect()
    }

    /// As [`Store::owners`](crate::engine::Store::owners).
    pub fn owners(&self, keys: &[LedgerKey]) -> Vec<Vec<LedgerHolder>> {
        let holders = |key: &LedgerKey| {
            let rows = self.owners.iter().filter(|((known, _), _)| known == key);
            let holder = |((_, holder), (at_ms, operation, source)): (
                &(LedgerKey, TenantAccount),
                &(u64, String, LedgerSource),
            )| LedgerHolder {
                tenant: self.incarnation_at(holder, *at_ms),
                at_ms: *at_ms,
                operation: operation.clone(),
                source: source.as_str().to_owned(),
                proved: self.proved.get(&(key.clone(), holder.clone())).cloned(),
            };
            rows.map(holder).collect()
        };
        keys.iter().map(holders).collect()
    }

    fn incarnation_at(&self, holder: &TenantAccount, at_ms: u64) -> TenantIncarnation {
        let known = self
            .incarnations
            .get(&holder.tenant)
            .map_or(&[][..], Vec::as_slice);
        let of_account = |from: u64| {
            let with_numbers = (1_u64..).zip(known);
            let fitting =
                with_numbers.filter(|(_, it)| it.account == holder.account && it.began_ms <= from);
            fitting.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let at = of_account(at_ms).last().copied();
        let first = of_account(u64::MAX).first().copied();
        TenantIncarnation {
            tenant: holder.tenant.clone(),
            account: holder.account.clone(),
            incarnation: at.or(first).unwrap_or(0),
        }
    }

    /// As [`Store::account_incarnations`](crate::engine::Store::account_incarnations).
    pub fn account_incarnations(&self, accounts: &[String]) -> Vec<u64> {
        let known = || self.incarnations.values().flatten();
        let count = |account: &String| known().filter(|it| it.account == *account).count() as u64;
        accounts.iter().map(count).collect()
    }

    /// As [`Store::note_owners`](crate::engine::Store::note_owners).
    pub fn note_owners(&mut self, notes: &[LedgerNote], source: LedgerSource) -> Vec<EventId> {
        for note in notes {
            let row = (
                note.at_ms.unwrap_or(self.now_ms),
                note.operation.clone(),
                source,
            );
            if source == LedgerSource::Asked && self.is_shared(&note.operation) {
                continue;
            }
            let key = (note.key.clone(), note.holder.clone());
            let known = self.owners.entry(key).or_insert_with(|| row.clone());
            let at_ms = known.0.max(row.0);
            let is_newer = known.0 < row.0 || source != LedgerSource::Asked;
            if known.2 == LedgerSource::Asked && is_newer {
                *known = row;
            }
            known.0 = at_ms;
        }
        let mut woken = Vec::new();
        for (id, event) in &mut self.events {
            let is_named = |note: &LedgerNote| event.event.hints.contains(&note.key);
            if event.state == EventState::Quarantined && notes.iter().any(is_named) {
                event.decide_ms = Some(self.now_ms);
                event.asks = false;
                woken.push(*id);
            }
        }
        woken
    }

    /// As [`Store::callback_token`](crate::engine::Store::callback_token).
    pub fn callback_token(&mut self, wanted: &CallbackUrl, proposed: &str) -> CallbackToken {
        if !self.is_newest(&wanted.tenant) {
            return CallbackToken::Removed;
        }
        if let Some((token, _)) = self.tokens.iter().find(|(_, known)| known == wanted) {
            return CallbackToken::Token(token.clone());
        }
        let of_tenant = self
            .tokens
            .iter()
            .filter(|(_, known)| known.tenant == wanted.tenant);
        let urls: BTreeSet<&str> = of_tenant.map(|(_, known)| &*known.url).collect();
        if !urls.contains(&*wanted.url) && urls.len() >= MOST_CALLBACK_URLS as usize {
            return CallbackToken::TooManyUrls;
        }
        self.tokens.push((proposed.to_owned(), wanted.clone()));
        CallbackToken::Token(proposed.to_owned())
    }

    /// As [`Store::callback_urls`](crate::engine::Store::callback_urls).
    pub fn callback_urls(&self, tokens: &[&str]) -> Vec<Option<CallbackUrl>> {
        let url = |token: &&str| {
            let known = self.tokens.iter().find(|(known, _)| known == token);
            known.map(|(_, url)| url.clone())
        };
        tokens.iter().map(url).collect()
    }

    /// As [`Store::receive`](crate::engine::Store::receive); `ids` are those that the engine drew.
    pub fn receive(&mut self, events: &[NewEvent], ids: &[EventId]) -> Vec<ReceiveResult> {
        let with_ids = events.iter().zip(ids);
        with_ids
            .map(|(event, id)| self.receive_one(event, *id))
            .collect()
    }

    fn receive_one(&mut self, event: &NewEvent, id: EventId) -> ReceiveResult {
        let mut known = self.events.iter();
        if let Some((known, _)) = known.find(|(_, known)| known.event.key == event.key) {
            return ReceiveResult::Duplicate(*known);
        }
        let mut known = self.events.values();
        let is_changed = known.any(|known| known.event.key.same_news(&event.key));
        self.events.insert(
            id,
            ModelEvent {
                event: event.clone(),
                received_ms: self.now_ms,
                is_changed,
                state: EventState::Quarantined,
                quarantine: None,
                decisions: 0,
                decide_ms: None,
                asks: false,
                owned: None,
                has_conflict: false,
                waits_since_ms: None,
                next_ms: None,
                failed: 0,
                attempts: Vec::new(),
                attempt_count: 0,
            },
        );
        let arrival = self.place(
            id,
            &DecisionTerms {
                placement: event.placement.clone(),
                delay: Some(FIRST_DECISION_DELAY),
                to_ask: false,
            },
        );
        if is_changed {
            ReceiveResult::Changed(arrival)
        } else {
            ReceiveResult::New(arrival)
        }
    }

    fn is_newest(&self, tenant: &TenantIncarnation) -> bool {
        let known = self.incarnations.get(&tenant.tenant).map_or(0, Vec::len);
        known as u64 == tenant.incarnation
    }

    fn own(
        &mut self,
        id: EventId,
        tenant: &TenantIncarnation,
        url: Option<&str>,
        by: &PlacementBasis,
    ) {
        let endpoint = self.endpoint_number(tenant, url);
        let event = self.events[&id].event.clone();
        let object = self.object_number(tenant, event.key.kind.as_str(), &event.key.object);
        let now_ms = self.now_ms;
        let known = self.objects[object].as_mut().expect("it was found or made");
        known.at_ms = now_ms;
        let verdict = known.progress.arrive(&event.key.status, event.rank);
        let progress = known.progress.clone();
        for other in self.events.values_mut() {
            let is_of_object = other
                .owned
                .as_ref()
                .is_some_and(|owned| owned.object == object);
            let is_late = progress.supersedes(other.event.rank);
            if is_of_object && other.state == EventState::Waiting && is_late {
                other.state = EventState::Superseded;
                other.next_ms = None;
            }
        }
        self.last_place += 1;
        let event = self.events.get_mut(&id).expect("the caller has it");
        event.quarantine = None;
        event.decide_ms = None;
        event.has_conflict = verdict == ArrivalVerdict::Conflicts;
        event.owned = Some(OwnedEvent {
            tenant: tenant.clone(),
            by: by.clone(),
            object,
            endpoint,
            place: self.last_place,
        });
        event.state = match verdict {
            ArrivalVerdict::Waits | ArrivalVerdict::Conflicts => EventState::Waiting,
            ArrivalVerdict::Superseded | ArrivalVerdict::AfterFinal => EventState::Superseded,
        };
        let since = (event.state == EventState::Waiting).then_some(now_ms);
        event.waits_since_ms = since;
        event.next_ms = since;
    }

    fn endpoint_number(&mut self, tenant: &TenantIncarnation, url: Option<&str>) -> usize {
        let key = EndpointKey {
            tenant: tenant.clone(),
            url: url.map(str::to_owned),
        };
        let known = self.endpoints.iter().position(|known| known.key == key);
        known.unwrap_or_else(|| {
            self.endpoints.push(ModelEndpoint {
                key,
                off: None,
                on_since_ms: 0,
                gone: None,
                breaker: EndpointBreaker::default(),
                claimed_by: None,
                claimed_until: 0,
                turn: 0,
            });
            self.endpoints.len() - 1
        })
    }

    fn object_number(&mut self, tenant: &TenantIncarnation, kind: &str, object: &str) -> usize {
        let is_own = |known: &Option<ModelObject>| {
            let known = known.as_ref();
            known.is_some_and(|it| it.tenant == *tenant && it.kind == kind && it.object == object)
        };
        let known = self.objects.iter().position(is_own);
        known.unwrap_or_else(|| {
            self.objects.push(Some(ModelObject {
                tenant: tenant.clone(),
                kind: kind.to_owned(),
                object: object.to_owned(),
                progress: ObjectProgress::default(),
                at_ms: self.now_ms,
            }));
            self.objects.len() - 1
        })
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
