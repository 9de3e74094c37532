//! The store's calls about notifications.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ownership::TenantIncarnation;

use super::Store;
use crate::error::StoreError;
use crate::notifications::delivery::{
    AttemptRecord, AttemptVerdict, DueEvent, EndpointClaim, EndpointKey, EndpointOffReason,
};
use crate::notifications::event::{
    EventId, EventState, NewEvent, ProposalResult, QuarantineDecision, QuarantineQueue,
    QuarantinedEvent, ReceiveResult,
};
use crate::notifications::isolation::{IsolationFinding, IsolationRecord, IsolationSubject};
use crate::notifications::ledger::{
    CallbackToken, CallbackUrl, LastCredential, LedgerHolder, LedgerNote, LedgerSource,
    TenantAccount,
};
use crate::notifications::listing::{
    EventDetail, EventPage, EventSummary, NotificationCounts, RedeliveryReport, ReplayFilter,
    RetentionReport, RetentionTerms,
};
use crate::notifications::settlement::{
    ObjectNews, OpenCall, SettledCall, SettledEvent, SettlementReport,
};

impl Store {
    /// Registers the tenants of the configuration in force, and returns each with its incarnation, in the same order.
    ///
    /// A tenant id with another sub-account than its newest incarnation is a new one, also when an older sub-account returns.
    /// The endpoints of the older incarnation are turned off. Tenants that are left out stay as they are.
    pub async fn register_tenants(
        &self,
        tenants: &[TenantAccount],
    ) -> Result<Vec<TenantIncarnation>, StoreError> {
        match self {
            Self::Postgres(store) => store.register_tenants(tenants).await,
            Self::Sqlite(store) => store.register_tenants(tenants).await,
        }
    }

    /// Takes over which credential parties have used last, and returns the client id of the last one of each, used at any
    /// instance, in the same order. No party is named twice. What the store knows already is not written again.
    pub async fn last_credentials(
        &self,
        parties: &[LastCredential],
    ) -> Result<Vec<Option<String>>, StoreError> {
        match self {
            Self::Postgres(store) => store.last_credentials(parties).await,
            Self::Sqlite(store) => store.last_credentials(parties).await,
        }
    }

    /// For each sub-account, how many incarnations of tenants have it or have had it.
    pub async fn account_incarnations(&self, accounts: &[String]) -> Result<Vec<u64>, StoreError> {
        match self {
            Self::Postgres(store) => store.account_incarnations(accounts).await,
            Self::Sqlite(store) => store.account_incarnations(accounts).await,
        }
    }

    /// Every tenant that has each key, in the order of the keys; an empty list if the ledger does not have the key.
    pub async fn owners(&self, keys: &[LedgerKey]) -> Result<Vec<Vec<LedgerHolder>>, StoreError> {
        match self {
            Self::Postgres(store) => store.owners(keys).await,
            Self::Sqlite(store) => store.owners(keys).await,
        }
    }

    /// Adds rows to the ledger. Returns the events in quarantine that name one of the keys; they are due for another decision
    /// from now on, by any instance. Nothing is learned by asking with a look-up that shows the objects of other accounts.
    pub async fn note_owners(
        &self,
        notes: &[LedgerNote],
        source: LedgerSource,
    ) -> Result<Vec<EventId>, StoreError> {
        match self {
            Self::Postgres(store) => store.note_owners(notes, source).await,
            Self::Sqlite(store) => store.note_owners(notes, source).await,
        }
    }

    /// Records calls without a known outcome. Those whose object has a proved outcome already are settled at once and
    /// returned, each once.
    pub async fn note_open_calls(
        &self,
        calls: &[OpenCall],
    ) -> Result<Vec<SettledCall>, StoreError> {
        match self {
            Self::Postgres(store) => store.note_open_calls(calls).await,
            Self::Sqlite(store) => store.note_open_calls(calls).await,
        }
    }

    /// Takes the outcomes that notifications prove into the ledger, and settles open calls. The same news again changes
    /// nothing.
    pub async fn settle_objects(
        &self,
        news: &[ObjectNews],
    ) -> Result<SettlementReport, StoreError> {
        match self {
            Self::Postgres(store) => store.settle_objects(news).await,
            Self::Sqlite(store) => store.settle_objects(news).await,
        }
    }

    /// Gives a token to a tenant's URL: the proposed one, or the one that this URL and operation have.
    pub async fn callback_token(
        &self,
        wanted: &CallbackUrl,
        proposed: &str,
    ) -> Result<CallbackToken, StoreError> {
        match self {
            Self::Postgres(store) => store.callback_token(wanted, proposed).await,
            Self::Sqlite(store) => store.callback_token(wanted, proposed).await,
        }
    }

    /// The URLs that tokens were given to, in the order of the tokens; `None` for an unknown token.
    pub async fn callback_urls(
        &self,
        tokens: &[&str],
    ) -> Result<Vec<Option<CallbackUrl>>, StoreError> {
        match self {
            Self::Postgres(store) => store.callback_urls(tokens).await,
            Self::Sqlite(store) => store.callback_urls(tokens).await,
        }
    }

    /// Stores up to [`MOST_EVENTS`](crate::notifications::event::MOST_EVENTS) events in one transaction, committed when this
    /// returns; only then they may be acknowledged. The results are in the order of the events.
    ///
    /// After an error it is unknown whether the events are stored. They may be received again: then they are duplicates.
    pub async fn receive(&self, events: &[NewEvent]) -> Result<Vec<ReceiveResult>, StoreError> {
        match self {
            Self::Postgres(store) => store.receive(events).await,
            Self::Sqlite(store) => store.receive(events).await,
        }
    }

    /// Events in quarantine that are due for another decision in a queue, the longest due first.
    pub async fn take_quarantined(
        &self,
        queue: QuarantineQueue,
        most: u32,
    ) -> Result<Vec<QuarantinedEvent>, StoreError> {
        match self {
            Self::Postgres(store) => store.take_quarantined(queue, most).await,
            Self::Sqlite(store) => store.take_quarantined(queue, most).await,
        }
    }

    /// Records a repeated decision, and what the event proves if it has its owner now, in one transaction. `None` if the event
    /// is no longer in quarantine: another instance has settled it.
    ///
    /// If the ledger has learned a key since the event was taken, a decision that leaves it in quarantine does not count: it
    /// stays due.
    pub async fn settle_quarantine(
        &self,
        event: EventId,
        decision: &QuarantineDecision,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        match self {
            Self::Postgres(store) => store.settle_quarantine(event, decision, proved).await,
            Self::Sqlite(store) => store.settle_quarantine(event, decision, proved).await,
        }
    }

    /// Gives an event in quarantine, or of the operators, to a tenant; or one that waits or is dead for a former incarnation of the
    /// tenant with the same sub-account. `None` if it is none of these, or does not exist.
    ///
    /// If the incarnation is no longer the tenant's newest, the event stays where it is, as the answer says. Otherwise what
    /// it proves is recorded in the same transaction.
    pub async fn assign(
        &self,
        event: EventId,
        (tenant, url): (&TenantIncarnation, Option<&str>),
        by: &str,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        match self {
            Self::Postgres(store) => store.assign(event, (tenant, url), by, proved).await,
            Self::Sqlite(store) => store.assign(event, (tenant, url), by, proved).await,
        }
    }

    /// Gives a tenant the events that wait for other tenants with its account, `most` at most, the oldest first. Returns
    /// how many. Meant for the account of the institution itself, which operators have one after another.
    pub async fn hand_over_news(
        &self,
        to: &TenantIncarnation,
        most: u32,
    ) -> Result<u32, StoreError> {
        match self {
            Self::Postgres(store) => store.hand_over_news(to, most).await,
            Self::Sqlite(store) => store.hand_over_news(to, most).await,
        }
    }

    /// Notes that an operator would give an event to a tenant, for [`PROPOSAL_LASTS`], and returns whether another operator
    /// has proposed the same. Changes no event.
    ///
    /// [`PROPOSAL_LASTS`]: crate::notifications::event::PROPOSAL_LASTS
    pub async fn propose(
        &self,
        event: EventId,
        tenant: &TenantIncarnation,
        by: &str,
    ) -> Result<ProposalResult, StoreError> {
        match self {
            Self::Postgres(store) => store.propose(event, tenant, by).await,
            Self::Sqlite(store) => store.propose(event, tenant, by).await,
        }
    }

    /// Claims endpoints that are due and that no other instance delivers to, the longest due first.
    pub async fn claim_endpoints(
        &self,
        instance: i64,
        most: u32,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        match self {
            Self::Postgres(store) => store.claim_endpoints(instance, most).await,
            Self::Sqlite(store) => store.claim_endpoints(instance, most).await,
        }
    }

    /// Renews claims for [`CLAIM_LASTS`](crate::notifications::delivery::CLAIM_LASTS). `false` for a claim that was lost:
    /// nothing more is sent under it.
    pub async fn renew_claims(&self, claims: &[EndpointClaim]) -> Result<Vec<bool>, StoreError> {
        match self {
            Self::Postgres(store) => store.renew_claims(claims).await,
            Self::Sqlite(store) => store.renew_claims(claims).await,
        }
    }

    /// Gives up claims, after the last attempt under them was recorded. Lost claims are left alone.
    pub async fn release_endpoints(&self, claims: &[EndpointClaim]) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.release_endpoints(claims).await,
            Self::Sqlite(store) => store.release_endpoints(claims).await,
        }
    }

    /// The heads of due lines of each claimed endpoint, at most `most` each, the longest due first. Lines with an attempt
    /// under way are among them: the caller leaves these out. A lost claim has none.
    pub async fn due_events(
        &self,
        claims: &[EndpointClaim],
        most: u32,
    ) -> Result<Vec<Vec<DueEvent>>, StoreError> {
        match self {
            Self::Postgres(store) => store.due_events(claims, most).await,
            Self::Sqlite(store) => store.due_events(claims, most).await,
        }
    }

    /// Records up to [`MOST_EVENTS`](crate::notifications::event::MOST_EVENTS) attempts in one transaction, in their order.
    pub async fn record_attempts(
        &self,
        attempts: &[AttemptRecord],
    ) -> Result<Vec<AttemptVerdict>, StoreError> {
        match self {
            Self::Postgres(store) => store.record_attempts(attempts).await,
            Self::Sqlite(store) => store.record_attempts(attempts).await,
        }
    }

    /// Turns an endpoint off: its events wait. An endpoint that no event has gone to yet is left alone.
    pub async fn turn_endpoint_off(
        &self,
        endpoint: &EndpointKey,
        reason: EndpointOffReason,
    ) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.turn_endpoint_off(endpoint, reason).await,
            Self::Sqlite(store) => store.turn_endpoint_off(endpoint, reason).await,
        }
    }

    /// Turns an endpoint on again, with a breaker as new, and makes its waiting events due. An endpoint of an older incarnation
    /// stays off.
    pub async fn turn_endpoint_on(&self, endpoint: &EndpointKey) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.turn_endpoint_on(endpoint).await,
            Self::Sqlite(store) => store.turn_endpoint_on(endpoint).await,
        }
    }

    /// A page of a tenant's events after a cursor; 0 is before the first. Every event that gets the tenant as its owner is
    /// behind every cursor that was returned before.
    pub async fn tenant_events(
        &self,
        tenant: &TenantIncarnation,
        state: Option<EventState>,
        after: i64,
        most: u32,
    ) -> Result<EventPage, StoreError> {
        match self {
            Self::Postgres(store) => store.tenant_events(tenant, state, after, most).await,
            Self::Sqlite(store) => store.tenant_events(tenant, state, after, most).await,
        }
    }

    /// Events of all tenants, the newest first, before an id. With a state that is rare among many events a page may be
    /// shorter than `most` and not the last: it goes on before the id that is returned.
    pub async fn list_events(
        &self,
        state: Option<EventState>,
        before: Option<EventId>,
        most: u32,
    ) -> Result<(Vec<EventSummary>, Option<EventId>), StoreError> {
        match self {
            Self::Postgres(store) => store.list_events(state, before, most).await,
            Self::Sqlite(store) => store.list_events(state, before, most).await,
        }
    }

    /// One event.
    pub async fn event(&self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        match self {
            Self::Postgres(store) => store.event(id).await,
            Self::Sqlite(store) => store.event(id).await,
        }
    }

    /// Sends dead events again, each at its place in its line. Later statuses have superseded some of them.
    pub async fn replay(&self, filter: &ReplayFilter) -> Result<RedeliveryReport, StoreError> {
        match self {
            Self::Postgres(store) => store.replay(filter).await,
            Self::Sqlite(store) => store.replay(filter).await,
        }
    }

    /// The figures for metrics.
    pub async fn notification_counts(&self) -> Result<NotificationCounts, StoreError> {
        match self {
            Self::Postgres(store) => store.notification_counts().await,
            Self::Sqlite(store) => store.notification_counts().await,
        }
    }

    /// Removes what is older than the terms, at most [`RETENTION_STEP`](crate::notifications::listing::RETENTION_STEP) rows of
    /// each table.
    pub async fn retain(&self, terms: &RetentionTerms) -> Result<RetentionReport, StoreError> {
        match self {
            Self::Postgres(store) => store.retain(terms).await,
            Self::Sqlite(store) => store.retain(terms).await,
        }
    }

    /// Keeps the findings of a probe that began at `since_ms`, in place of earlier findings about the same look-ups. A finding
    /// since then that accounts share objects stays, since it is newer. Once accounts share objects, the ledger forgets what was
    /// learned by the look-up.
    pub async fn note_isolation(
        &self,
        subject: &IsolationSubject,
        findings: &[IsolationFinding],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.note_isolation(subject, findings, since_ms).await,
            Self::Sqlite(store) => store.note_isolation(subject, findings, since_ms).await,
        }
    }

    /// What the newest probes have found out.
    pub async fn isolation(
        &self,
        subject: &IsolationSubject,
    ) -> Result<IsolationRecord, StoreError> {
        match self {
            Self::Postgres(store) => store.isolation(subject).await,
            Self::Sqlite(store) => store.isolation(subject).await,
        }
    }
}
