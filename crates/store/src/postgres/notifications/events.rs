//! Arrivals and quarantine.

use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::PostgresStore;
use super::super::admit::cell;
use super::settlement::NewsColumns;
use super::{big, event_id, millis_of, one_row, small, unexpected, unsigned, url_text};
use crate::error::StoreError;
use crate::notifications::event::{
    DECISION_LEASE, DecisionTerms, EventArrival, EventId, EventPlacement, EventState,
    FIRST_DECISION_DELAY, NewEvent, PROPOSAL_LASTS, PlacementBasis, ProposalResult,
    QuarantineDecision, QuarantineQueue, QuarantinedEvent, ReceiveResult,
};
use crate::notifications::settlement::{ObjectNews, SettledEvent};

const RECEIVE: &str = "SELECT * FROM gatepay.receive_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
    $16, $17)";
const TAKE_QUARANTINED: &str = "SELECT * FROM gatepay.take_quarantined_v1($1, $2, $3)";
const HAND_OVER: &str = "SELECT gatepay.hand_over_news_v1($1, $2, $3, $4, $5) AS given";
const PROPOSE: &str = "SELECT * FROM gatepay.propose_v1($1, $2, $3, $4, $5)";
/// Gives an event its place; if it has an owner then, what it proves is recorded as well.
const SETTLE: &str = "SELECT p.o_state, p.o_conflict, p.o_reason, s.*
    FROM gatepay.settle_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS p
    CROSS JOIN LATERAL (SELECT coalesce(p.o_state NOT IN ('quarantined', 'operator'), false) AS is_owned) AS o
    LEFT JOIN LATERAL gatepay.take_outcomes_v1(
        CASE WHEN o.is_owned THEN $10::text[] ELSE '{}' END, $11, $12, $13, $14, $15, $16) AS s ON o.is_owned";

impl PostgresStore {
    pub(crate) async fn receive(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<ReceiveResult>, StoreError> {
        let columns = EventColumns::from(events);
        let rows = self
            .run_on(&self.notifications.arrivals, RECEIVE, &columns.parameters())
            .await?;
        received(one_row(&rows)?, events.len())
    }

    pub(crate) async fn take_quarantined(
        &self,
        queue: QuarantineQueue,
        most: u32,
    ) -> Result<Vec<QuarantinedEvent>, StoreError> {
        let asking = queue == QuarantineQueue::Asked;
        let lease = millis_of(DECISION_LEASE);
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                TAKE_QUARANTINED,
                &[&asking, &small(most), &lease],
            )
            .await?;
        rows.iter().map(quarantined).collect()
    }

    pub(crate) async fn settle_quarantine(
        &self,
        event: EventId,
        decision: &QuarantineDecision,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let terms = DecisionTerms::of(decision);
        self.settle(event, &["quarantined"], &terms, proved).await
    }

    pub(crate) async fn assign(
        &self,
        event: EventId,
        (tenant, url): (&TenantIncarnation, Option<&str>),
        by: &str,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let terms = DecisionTerms::assigned(tenant, url, by);
        let from = ["quarantined", "operator"];
        self.settle(event, &from, &terms, proved).await
    }

    pub(crate) async fn hand_over_news(
        &self,
        to: &TenantIncarnation,
        most: u32,
    ) -> Result<u32, StoreError> {
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                HAND_OVER,
                &[
                    &to.tenant,
                    &big(to.incarnation),
                    &to.account,
                    &PlacementBasis::Institution.to_string(),
                    &small(most),
                ],
            )
            .await?;
        Ok(cell::<i32>(one_row(&rows)?, "given")?.unsigned_abs())
    }

    pub(crate) async fn propose(
        &self,
        event: EventId,
        tenant: &TenantIncarnation,
        by: &str,
    ) -> Result<ProposalResult, StoreError> {
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                PROPOSE,
                &[
                    &event.to_string(),
                    &tenant.tenant,
                    &big(tenant.incarnation),
                    &by,
                    &millis_of(PROPOSAL_LASTS),
                ],
            )
            .await?;
        let row = one_row(&rows)?;
        let text = |name| cell::<Option<String>>(row, name).map(Option::unwrap_or_default);
        match cell::<i16>(row, "verdict")? {
            0 => Ok(ProposalResult::Noted),
            1 => Ok(ProposalResult::Confirmed { by: text("o_by")? }),
            _ => Ok(ProposalResult::Differs {
                by: text("o_by")?,
                tenant: text("o_tenant")?,
            }),
        }
    }

    async fn settle(
        &self,
        event: EventId,
        states: &[&str],
        terms: &DecisionTerms,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let place = PlacementColumns::from(&terms.placement);
        let delay = terms.delay.map(millis_of);
        let news = NewsColumns::of(proved);
        let rows = self
            .run_on(
                &self.notifications.arrivals,
                SETTLE,
                &[
                    &event.to_string(),
                    &states,
                    &place.tenant,
                    &place.incarnation,
                    &place.url,
                    &place.basis,
                    &place.quarantine,
                    &delay,
                    &terms.to_ask,
                    &news.kinds,
                    &news.keys,
                    &news.tenants,
                    &news.accounts,
                    &news.outcomes,
                    &news.statuses,
                    &news.events,
                ],
            )
            .await?;
        let row = one_row(&rows)?;
        let Some(state) = cell::<Option<String>>(row, "o_state")? else {
            return Ok(None);
        };
        let reason: Option<String> = cell(row, "o_reason")?;
        let conflict = cell(row, "o_conflict")?;
        let arrival = arrival(event, &state, conflict, reason.as_deref())?;
        let report = news.report(&rows)?;
        Ok(Some(SettledEvent { arrival, report }))
    }
}

/// An owner by columns.
struct PlacementColumns<'a> {
    tenant: Option<&'a str>,
    incarnation: Option<i64>,
    url: Option<&'a str>,
    basis: Option<String>,
    quarantine: Option<&'static str>,
}

impl<'a> From<&'a EventPlacement> for PlacementColumns<'a> {
    fn from(placement: &'a EventPlacement) -> Self {
        let nothing = Self {
            tenant: None,
            incarnation: None,
            url: None,
            basis: None,
            quarantine: None,
        };
        match placement {
            EventPlacement::Tenant { tenant, url, by } => Self {
                tenant: Some(&tenant.tenant),
                incarnation: Some(big(tenant.incarnation)),
                url: Some(url_text(url.as_deref())),
                basis: Some(by.to_string()),
                quarantine: None,
            },
            EventPlacement::Operators => nothing,
            EventPlacement::Quarantine(reason) => Self {
                quarantine: Some(reason.as_str()),
                ..nothing
            },
        }
    }
}

/// A batch by columns. Numbers of rows count from 1, as SQL's arrays do.
#[derive(Default)]
struct EventColumns<'a> {
    kinds: Vec<&'a str>,
    objects: Vec<&'a str>,
    statuses: Vec<&'a str>,
    ranks: Vec<Option<i64>>,
    newses: Vec<Vec<u8>>,
    prints: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
    tokens: Vec<Option<&'a str>>,
    tenants: Vec<Option<&'a str>>,
    incarnations: Vec<Option<i64>>,
    urls: Vec<Option<&'a str>>,
    bases: Vec<Option<String>>,
    quarantines: Vec<Option<&'a str>>,
    hint_rows: Vec<i32>,
    hint_kinds: Vec<&'a str>,
    hint_keys: Vec<&'a str>,
    decide_after: i64,
}

impl<'a> From<&'a [NewEvent]> for EventColumns<'a> {
    fn from(events: &'a [NewEvent]) -> Self {
        let mut columns = Self {
            decide_after: millis_of(FIRST_DECISION_DELAY),
            ..Self::default()
        };
        for (number, event) in (1..).zip(events) {
            columns.kinds.push(event.key.kind.as_str());
            columns.objects.push(&event.key.object);
            columns.statuses.push(&event.key.status);
            columns.ranks.push(event.rank_number());
            columns.newses.push(event.news_digest().to_vec());
            columns.prints.push(&event.key.body_sha256);
            columns.bodies.push(&event.body);
            columns.tokens.push(event.token.as_deref());
            let place = PlacementColumns::from(&event.placement);
            columns.tenants.push(place.tenant);
            columns.incarnations.push(place.incarnation);
            columns.urls.push(place.url);
            columns.bases.push(place.basis);
            columns.quarantines.push(place.quarantine);
            for hint in &event.hints {
                columns.hint_rows.push(number);
                columns.hint_kinds.push(hint.kind().as_str());
                columns.hint_keys.push(hint.text());
            }
        }
        columns
    }
}

impl EventColumns<'_> {
    fn parameters(&self) -> [&(dyn ToSql + Sync); 17] {
        [
            &self.kinds,
            &self.objects,
            &self.statuses,
            &self.ranks,
            &self.newses,
            &self.prints,
            &self.bodies,
            &self.tokens,
            &self.tenants,
            &self.incarnations,
            &self.urls,
            &self.bases,
            &self.quarantines,
            &self.hint_rows,
            &self.hint_kinds,
            &self.hint_keys,
            &self.decide_after,
        ]
    }
}

fn received(row: &Row, asked: usize) -> Result<Vec<ReceiveResult>, StoreError> {
    let results: Vec<i16> = cell(row, "results")?;
    let ids: Vec<String> = cell(row, "ids")?;
    let states: Vec<String> = cell(row, "states")?;
    let conflicts: Vec<bool> = cell(row, "conflicts")?;
    let reasons: Vec<Option<String>> = cell(row, "reasons")?;
    let counts = [
        results.len(),
        ids.len(),
        states.len(),
        conflicts.len(),
        reasons.len(),
    ];
    if counts != [asked; 5] {
        return Err(unexpected("results are missing"));
    }
    let rows = results
        .iter()
        .zip(&ids)
        .zip(&states)
        .zip(&conflicts)
        .zip(&reasons);
    let rows = rows.map(|((((result, id), state), conflict), reason)| {
        let id = event_id(id)?;
        let arrival = || arrival(id, state, *conflict, reason.as_deref());
        Ok(match result {
            0 => ReceiveResult::New(arrival()?),
            1 => ReceiveResult::Changed(arrival()?),
            2 => ReceiveResult::Duplicate(id),
            _ => return Err(unexpected("an unknown result of an event")),
        })
    });
    rows.collect()
}

fn arrival(
    id: EventId,
    state: &str,
    has_conflict: bool,
    reason: Option<&str>,
) -> Result<EventArrival, StoreError> {
    let state = EventState::parse(state).ok_or_else(|| unexpected("an unknown state"))?;
    Ok(EventArrival {
        id,
        state,
        has_conflict,
        quarantine: reason.map(quarantine_reason).transpose()?,
    })
}

fn quarantine_reason(word: &str) -> Result<QuarantineReason, StoreError> {
    QuarantineReason::parse(word).ok_or_else(|| unexpected("an unknown reason"))
}

fn quarantined(row: &Row) -> Result<QuarantinedEvent, StoreError> {
    Ok(QuarantinedEvent {
        id: event_id(&cell::<String>(row, "o_id")?)?,
        received_ms: unsigned(cell(row, "o_received")?),
        reason: quarantine_reason(&cell::<String>(row, "o_reason")?)?,
        decisions: cell::<i32>(row, "o_decisions")?.unsigned_abs(),
        token: cell(row, "o_token")?,
        body: cell(row, "o_body")?,
    })
}
