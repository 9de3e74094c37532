//! Lists, replay, counts and retention.

use gatepay_core::ownership::TenantIncarnation;
use tokio_postgres::Row;
use uuid::Uuid;

use super::super::PostgresStore;
use super::super::admit::{cell, millis};
use super::{
    big, event_id, millis_of, numbered, one_row, small, tenant, unexpected, unsigned, url_of,
};
use crate::error::StoreError;
use crate::notifications::event::{EventId, EventState};
use crate::notifications::listing::{
    AttemptRow, EventDetail, EventPage, EventSummary, MOST_EXAMINED, MOST_LISTED, MOST_ON_PAGE,
    NotificationCounts, RETENTION_STEP, RedeliveryReport, ReplayFilter, RetentionReport,
    RetentionTerms,
};

/// The columns of a summary.
macro_rules! summaries {
    ($rest:literal) => {
        concat!(
            "SELECT e.id::text AS id, coalesce(e.place, 0) AS place, e.received, e.kind, e.object, e.status, e.placed_by,
                e.state, e.quarantine, e.has_conflict, e.is_changed, e.attempts, e.next_at, e.tenant, e.incarnation,
                (SELECT i.account FROM gatepay.incarnation AS i
                    WHERE i.tenant = e.tenant AND i.incarnation = e.incarnation) AS account ",
            $rest
        )
    };
}
/// The last of the places that a page examines. All events up to it are visible: places are in the order of commits.
const LAST_PLACE: &str =
    "SELECT max(x.place) AS last, count(*) AS seen FROM (SELECT e.place FROM gatepay.event AS e
    WHERE e.tenant = $1 AND e.incarnation = $2 AND e.place > $3 ORDER BY e.place LIMIT $4) AS x";
const OF_TENANT: &str = summaries!(
    ", e.body FROM gatepay.event AS e WHERE e.tenant = $1 AND e.incarnation = $2 AND e.place > $3 AND e.place <= $4
        AND ($5::text IS NULL OR e.state = $5) ORDER BY e.place LIMIT $6"
);
const LAST_ID: &str =
    "SELECT e.id::text AS id FROM gatepay.event AS e WHERE e.id < $1::text::uuid ORDER BY e.id DESC
    LIMIT $2";
/// The events in one state, among the ids that were examined.
const AMONG: &str = summaries!(
    "FROM gatepay.event AS e WHERE e.id < $1::text::uuid AND e.id >= $2::text::uuid AND e.state = $3
        ORDER BY e.id DESC LIMIT $4"
);
const LIST: &str =
    summaries!("FROM gatepay.event AS e WHERE e.id < $1::text::uuid ORDER BY e.id DESC LIMIT $2");
// The state stands in the text, so that its index is used.
const QUARANTINED: &str = summaries!(
    "FROM gatepay.event AS e WHERE e.id < $1::text::uuid AND e.state = 'quarantined' ORDER BY e.id DESC LIMIT $2"
);
const OF_OPERATORS: &str = summaries!(
    "FROM gatepay.event AS e WHERE e.id < $1::text::uuid AND e.state = 'operator' ORDER BY e.id DESC LIMIT $2"
);
const DEAD: &str = summaries!(
    "FROM gatepay.event AS e WHERE e.id < $1::text::uuid AND e.state = 'dead' ORDER BY e.id DESC LIMIT $2"
);
const ONE: &str = summaries!(
    ", e.token, coalesce(p.url, '') AS url, e.body
    FROM gatepay.event AS e LEFT JOIN gatepay.endpoint AS p ON p.id = e.endpoint WHERE e.id = $1::text::uuid"
);
// With OFFSET the events are found before they are sorted: otherwise the limit would tempt the planner to look at all
// events in the order of their ids.
pub(super) const SUMMARIES_OF_OBJECTS: &str = summaries!(
    "FROM (SELECT * FROM gatepay.event AS x WHERE x.object = ANY($1::text[]) OFFSET 0) AS e ORDER BY e.id LIMIT $2"
);
const ATTEMPTS: &str =
    "SELECT i.n, t.number, t.at, t.instance, t.took, t.status, t.outcome, t.said
    FROM unnest($1::text[]) WITH ORDINALITY AS i(id, n) JOIN gatepay.attempt AS t ON t.event = i.id::uuid
    ORDER BY i.n, t.number";
const REPLAY: &str = "SELECT * FROM gatepay.replay_v1($1, $2, $3, $4, $5)";
const COUNTS: &str =
    "SELECT count(*) AS quarantined, min(e.received) AS oldest, gatepay.clock_v1() AS now,
        (SELECT count(DISTINCT c.call) FROM gatepay.open_call AS c) AS open_calls
    FROM gatepay.event AS e WHERE e.state = 'quarantined'";
const RETAIN: &str = "SELECT * FROM gatepay.retain_v1($1, $2, $3, $4, $5)";
/// The blocks of the ledger that one step looks at: some 1,000 rows.
const BLOCKS: i32 = 16;

impl PostgresStore {
    pub(crate) async fn tenant_events(
        &self,
        tenant: &TenantIncarnation,
        state: Option<EventState>,
        after: i64,
        most: u32,
    ) -> Result<EventPage, StoreError> {
        let most = most.clamp(1, MOST_ON_PAGE);
        let examined = if state.is_some() { MOST_EXAMINED } else { most };
        let (id, incarnation) = (&tenant.tenant, big(tenant.incarnation));
        let rows = self
            .run_on(
                &self.notifications.lists,
                LAST_PLACE,
                &[id, &incarnation, &after, &i64::from(examined)],
            )
            .await?;
        let row = one_row(&rows)?;
        let last = cell::<Option<i64>>(row, "last")?.unwrap_or(after);
        let seen: i64 = cell(row, "seen")?;
        let state = state.map(EventState::as_str);
        let rows = self
            .run_on(
                &self.notifications.lists,
                OF_TENANT,
                &[id, &incarnation, &after, &last, &state, &i64::from(most)],
            )
            .await?;
        let events = rows
            .iter()
            .map(|row| Ok((summary(row)?, cell(row, "body")?)));
        let events = events.collect::<Result<_, StoreError>>()?;
        Ok(EventPage::of(
            events,
            last,
            seen == i64::from(examined),
            most,
        ))
    }

    pub(crate) async fn list_events(
        &self,
        state: Option<EventState>,
        before: Option<EventId>,
        most: u32,
    ) -> Result<(Vec<EventSummary>, Option<EventId>), StoreError> {
        let most = most.clamp(1, MOST_LISTED);
        let before = before.unwrap_or(EventId(Uuid::max())).to_string();
        let statement = match state {
            None => LIST,
            Some(EventState::Quarantined) => QUARANTINED,
            Some(EventState::Operator) => OF_OPERATORS,
            Some(EventState::Dead) => DEAD,
            Some(state) => return self.list_among(state, &before, most).await,
        };
        let rows = self
            .run_on(
                &self.notifications.lists,
                statement,
                &[&before, &i64::from(most)],
            )
            .await?;
        let events = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
        let next = EventSummary::next_page(&events, None, most);
        Ok((events, next))
    }

    /// The events in a state that no index lists, among the last [`MOST_EXAMINED`] before an id.
    async fn list_among(
        &self,
        state: EventState,
        before: &str,
        most: u32,
    ) -> Result<(Vec<EventSummary>, Option<EventId>), StoreError> {
        let examined = i64::from(MOST_EXAMINED);
        let rows = self
            .run_on(&self.notifications.lists, LAST_ID, &[&before, &examined])
            .await?;
        let Some(row) = rows.last() else {
            return Ok((Vec::new(), None));
        };
        let last: String = cell(row, "id")?;
        let is_full = rows.len() == usize::try_from(MOST_EXAMINED).unwrap_or(usize::MAX);
        let rows = self
            .run_on(
                &self.notifications.lists,
                AMONG,
                &[&before, &last, &state.as_str(), &i64::from(most)],
            )
            .await?;
        let events = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
        let last = is_full.then(|| event_id(&last)).transpose()?;
        let next = EventSummary::next_page(&events, last, most);
        Ok((events, next))
    }

    pub(crate) async fn event(&self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        let id = id.to_string();
        let rows = self.run_on(&self.notifications.lists, ONE, &[&id]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let attempts = self.attempts(&[id]).await?.pop().unwrap_or_default();
        Ok(Some(EventDetail {
            summary: summary(row)?,
            url: url_of(cell(row, "url")?),
            token: cell(row, "token")?,
            body: cell(row, "body")?,
            attempts,
        }))
    }

    /// The attempts to deliver each of these events.
    pub(super) async fn attempts(
        &self,
        ids: &[String],
    ) -> Result<Vec<Vec<AttemptRow>>, StoreError> {
        let line = &self.notifications.lists;
        let mut attempts = vec![Vec::new(); ids.len()];
        for row in &self.run_on(line, ATTEMPTS, &[&ids]).await? {
            numbered(&mut attempts, row)?.push(attempt_row(row)?);
        }
        Ok(attempts)
    }

    pub(crate) async fn replay(
        &self,
        filter: &ReplayFilter,
    ) -> Result<RedeliveryReport, StoreError> {
        let (one, tenant, since) = match filter {
            ReplayFilter::Event(id) => (Some(id.to_string()), None, 0),
            ReplayFilter::Tenant { tenant, since_ms } => (None, Some(tenant), millis(*since_ms)),
        };
        let id = tenant.map(|tenant| &*tenant.tenant);
        let incarnation = tenant.map(|tenant| big(tenant.incarnation));
        let rows = self
            .run_on(
                &self.notifications.lists,
                REPLAY,
                &[&one, &id, &incarnation, &since, &small(MOST_LISTED)],
            )
            .await?;
        let row = one_row(&rows)?;
        let waiting = cell::<i32>(row, "o_waiting")?.unsigned_abs();
        let superseded = cell::<i32>(row, "o_superseded")?.unsigned_abs();
        Ok(RedeliveryReport {
            waiting,
            superseded,
            has_more: tenant.is_some() && waiting + superseded == MOST_LISTED,
        })
    }

    pub(crate) async fn notification_counts(&self) -> Result<NotificationCounts, StoreError> {
        let rows = self.run_on(&self.notifications.lists, COUNTS, &[]).await?;
        let row = one_row(&rows)?;
        Ok(NotificationCounts {
            quarantined: unsigned(cell(row, "quarantined")?),
            oldest_quarantined_ms: cell::<Option<i64>>(row, "oldest")?.map(unsigned),
            open_calls: unsigned(cell(row, "open_calls")?),
            endpoints: self.endpoints().await?,
            now_ms: unsigned(cell(row, "now")?),
        })
    }

    pub(crate) async fn retain(
        &self,
        terms: &RetentionTerms,
    ) -> Result<RetentionReport, StoreError> {
        let [events, attempts, owners] =
            [terms.events, terms.attempts, terms.owners].map(millis_of);
        let rows = self
            .run_on(
                &self.notifications.lists,
                RETAIN,
                &[&events, &attempts, &owners, &small(RETENTION_STEP), &BLOCKS],
            )
            .await?;
        let row = one_row(&rows)?;
        let removed =
            |name| -> Result<u32, StoreError> { Ok(cell::<i32>(row, name)?.unsigned_abs()) };
        Ok(RetentionReport {
            events: removed("o_events")?,
            attempts: removed("o_attempts")?,
            owners: removed("o_owners")?,
            objects: removed("o_objects")?,
        })
    }
}

pub(super) fn summary(row: &Row) -> Result<EventSummary, StoreError> {
    let state: String = cell(row, "state")?;
    let is_owned = cell::<Option<i64>>(row, "incarnation")?.is_some();
    Ok(EventSummary {
        id: event_id(&cell::<String>(row, "id")?)?,
        place: cell(row, "place")?,
        received_ms: unsigned(cell(row, "received")?),
        kind: cell(row, "kind")?,
        object: cell(row, "object")?,
        status: cell(row, "status")?,
        tenant: is_owned.then(|| tenant(row)).transpose()?,
        placed_by: cell(row, "placed_by")?,
        state: EventState::parse(&state).ok_or_else(|| unexpected("an unknown state"))?,
        quarantine: cell(row, "quarantine")?,
        has_conflict: cell(row, "has_conflict")?,
        is_changed: cell(row, "is_changed")?,
        attempts: cell::<i32>(row, "attempts")?.unsigned_abs(),
        next_ms: cell::<Option<i64>>(row, "next_at")?.map(unsigned),
    })
}

fn attempt_row(row: &Row) -> Result<AttemptRow, StoreError> {
    let status: Option<i32> = cell(row, "status")?;
    Ok(AttemptRow {
        number: cell::<i32>(row, "number")?.unsigned_abs(),
        at_ms: unsigned(cell(row, "at")?),
        instance: cell(row, "instance")?,
        took_ms: unsigned(cell(row, "took")?),
        status: status.and_then(|status| u16::try_from(status).ok()),
        outcome: cell(row, "outcome")?,
        said: cell(row, "said")?,
    })
}
