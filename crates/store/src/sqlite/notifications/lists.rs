//! Lists, replay, counts and retention.

use gatepay_core::ownership::TenantIncarnation;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::SqliteStore;
use super::delivery::endpoints;
use super::{big, count, event_id, millis_of, refresh_line, small, url_of};
use crate::error::StoreError;
use crate::notifications::event::{EventId, EventState};
use crate::notifications::listing::{
    AttemptRow, EventDetail, EventPage, EventSummary, MOST_EXAMINED, MOST_LISTED, MOST_ON_PAGE,
    NotificationCounts, RETENTION_STEP, RedeliveryReport, ReplayFilter, RetentionReport,
    RetentionTerms,
};

pub(super) const SUMMARY: &str = "SELECT e.id, coalesce(e.place, 0), e.received, e.kind, e.object, e.status, e.tenant, e.incarnation,
        (SELECT i.account FROM incarnation AS i WHERE i.tenant = e.tenant AND i.incarnation = e.incarnation),
        e.placed_by, e.state, e.quarantine, e.has_conflict, e.is_changed, e.attempts, e.next_at";

impl SqliteStore {
    pub(crate) async fn tenant_events(
        &self,
        tenant: &TenantIncarnation,
        state: Option<EventState>,
        after: i64,
        most: u32,
    ) -> Result<EventPage, StoreError> {
        let tenant = tenant.clone();
        self.run(move |file| page(file.connection(), &tenant, state, after, most))
            .await
    }

    pub(crate) async fn list_events(
        &self,
        state: Option<EventState>,
        before: Option<EventId>,
        most: u32,
    ) -> Result<(Vec<EventSummary>, Option<EventId>), StoreError> {
        self.run(move |file| list(file.connection(), state, before, most))
            .await
    }

    pub(crate) async fn event(&self, id: EventId) -> Result<Option<EventDetail>, StoreError> {
        self.run(move |file| detail(file.connection(), id)).await
    }

    pub(crate) async fn replay(
        &self,
        filter: &ReplayFilter,
    ) -> Result<RedeliveryReport, StoreError> {
        let filter = filter.clone();
        self.change(move |change, now_ms| replay(change, &filter, now_ms))
            .await
    }

    pub(crate) async fn notification_counts(&self) -> Result<NotificationCounts, StoreError> {
        self.run(|file| {
            let now_ms = file.now()?;
            let connection = file.connection();
            let quarantined =
                "SELECT count(*), min(received) FROM event WHERE state = 'quarantined'";
            let (quarantined, oldest): (i64, Option<i64>) =
                connection.query_row(quarantined, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let open = "SELECT count(DISTINCT call) FROM open_call";
            let open: i64 = connection.query_row(open, [], |row| row.get(0))?;
            Ok(NotificationCounts {
                open_calls: open.unsigned_abs(),
                quarantined: quarantined.unsigned_abs(),
                oldest_quarantined_ms: oldest.map(i64::unsigned_abs),
                endpoints: endpoints(connection, big(now_ms))?,
                now_ms,
            })
        })
        .await
    }

    pub(crate) async fn retain(
        &self,
        terms: &RetentionTerms,
    ) -> Result<RetentionReport, StoreError> {
        let terms = *terms;
        self.run(move |file| {
            let deleting_ms = big(file.deleting()?);
            let change = file.begin()?;
            let report = retain(&change, &terms, deleting_ms)?;
            change.commit()?;
            Ok(report)
        })
        .await
    }
}

fn page(
    connection: &Connection,
    tenant: &TenantIncarnation,
    state: Option<EventState>,
    after: i64,
    most: u32,
) -> Result<EventPage, StoreError> {
    let most = most.clamp(1, MOST_ON_PAGE);
    let examined = if state.is_some() { MOST_EXAMINED } else { most };
    let incarnation = big(tenant.incarnation);
    let last = "SELECT max(place), count(*) FROM (SELECT place FROM event
        WHERE tenant = ?1 AND incarnation = ?2 AND place > ?3 ORDER BY place LIMIT ?4)";
    let (last, seen): (Option<i64>, i64) = connection.query_row(
        last,
        params![tenant.tenant, incarnation, after, examined],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let last = last.unwrap_or(after);
    let of_tenant = format!(
        "{SUMMARY}, e.body FROM event AS e WHERE e.tenant = ?1 AND e.incarnation = ?2 AND e.place > ?3 AND e.place <= ?4
            AND (?5 IS NULL OR e.state = ?5) ORDER BY e.place LIMIT ?6"
    );
    let mut of_tenant = connection.prepare_cached(&of_tenant)?;
    let state = state.map(EventState::as_str);
    let events = of_tenant.query_map(
        params![tenant.tenant, incarnation, after, last, state, most],
        |row| Ok((summary(row)?, row.get(16)?)),
    )?;
    let events = events.collect::<Result<_, _>>()?;
    Ok(EventPage::of(events, last, small(seen) == examined, most))
}

fn list(
    connection: &Connection,
    state: Option<EventState>,
    before: Option<EventId>,
    most: u32,
) -> Result<(Vec<EventSummary>, Option<EventId>), StoreError> {
    let most = most.clamp(1, MOST_LISTED);
    let before = before.map_or([0xff; 16], |before| *before.0.as_bytes());
    let is_indexed = state.is_none_or(EventState::is_listed);
    let last = if is_indexed {
        None
    } else {
        last_examined(connection, &before)?
    };
    // The state stands in the text, so that its index is used.
    let in_state = state.map_or(String::new(), |state| format!("AND e.state = '{state}'"));
    let list = format!(
        "{SUMMARY} FROM event AS e WHERE e.id < ?1 AND e.id >= ?2 {in_state} ORDER BY e.id DESC LIMIT ?3"
    );
    let mut list = connection.prepare_cached(&list)?;
    let floor = last.map_or([0; 16], |last| *last.0.as_bytes());
    let events = list.query_map(params![before, floor, most], summary)?;
    let events: Vec<EventSummary> = events.collect::<Result<_, _>>()?;
    let next = EventSummary::next_page(&events, last, most);
    Ok((events, next))
}

/// The last id that a page examines, if there are more.
fn last_examined(
    connection: &Connection,
    before: &[u8; 16],
) -> Result<Option<EventId>, StoreError> {
    let last = "SELECT id FROM event WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2";
    let last = connection
        .prepare_cached(last)?
        .query_row(params![before, MOST_EXAMINED - 1], |row| event_id(row, 0));
    Ok(last.optional()?)
}

fn detail(connection: &Connection, id: EventId) -> Result<Option<EventDetail>, StoreError> {
    let one = format!(
        "{SUMMARY}, coalesce(p.url, ''), e.token, e.body FROM event AS e LEFT JOIN endpoint AS p ON p.id = e.endpoint
            WHERE e.id = ?1"
    );
    let one = connection
        .prepare_cached(&one)?
        .query_row([id.0.as_bytes()], |row| {
            Ok(EventDetail {
                summary: summary(row)?,
                url: url_of(row.get(16)?),
                token: row.get(17)?,
                body: row.get(18)?,
                attempts: Vec::new(),
            })
        });
    let Some(mut detail) = one.optional()? else {
        return Ok(None);
    };
    detail.attempts = attempts(connection, id)?;
    Ok(Some(detail))
}

pub(super) const ATTEMPTS: &str = "SELECT number, at, instance, took, status, outcome, said FROM attempt WHERE event = ?1 ORDER BY number";

/// The attempts to deliver an event.
pub(super) fn attempts(
    connection: &Connection,
    id: EventId,
) -> Result<Vec<AttemptRow>, StoreError> {
    let mut attempts = connection.prepare_cached(ATTEMPTS)?;
    let attempts = attempts.query_map([id.0.as_bytes()], |row| {
        Ok(AttemptRow {
            number: row.get(0)?,
            at_ms: row.get::<_, i64>(1)?.unsigned_abs(),
            instance: row.get(2)?,
            took_ms: row.get::<_, i64>(3)?.unsigned_abs(),
            status: row.get(4)?,
            outcome: row.get(5)?,
            said: row.get(6)?,
        })
    })?;
    Ok(attempts.collect::<Result<_, _>>()?)
}

pub(super) fn summary(row: &Row<'_>) -> Result<EventSummary, rusqlite::Error> {
    let tenant: Option<String> = row.get(6)?;
    let tenant = match tenant {
        Some(tenant) => Some(TenantIncarnation {
            tenant,
            incarnation: row.get::<_, i64>(7)?.unsigned_abs(),
            account: row.get(8)?,
        }),
        None => None,
    };
    let state: String = row.get(10)?;
    Ok(EventSummary {
        id: event_id(row, 0)?,
        place: row.get(1)?,
        received_ms: row.get::<_, i64>(2)?.unsigned_abs(),
        kind: row.get(3)?,
        object: row.get(4)?,
        status: row.get(5)?,
        tenant,
        placed_by: row.get(9)?,
        state: EventState::parse(&state).ok_or(rusqlite::Error::InvalidQuery)?,
        quarantine: row.get(11)?,
        has_conflict: row.get(12)?,
        is_changed: row.get(13)?,
        attempts: row.get(14)?,
        next_ms: row.get::<_, Option<i64>>(15)?.map(i64::unsigned_abs),
    })
}

/// A dead event.
struct DeadEvent {
    id: EventId,
    object: i64,
    endpoint: i64,
    is_late: bool,
}

fn replay(
    change: &Connection,
    filter: &ReplayFilter,
    now_ms: i64,
) -> Result<RedeliveryReport, StoreError> {
    let mut report = RedeliveryReport::default();
    let dead = dead_events(change, filter)?;
    for event in &dead {
        let id = event.id.0.as_bytes();
        if event.is_late {
            let late =
                "UPDATE event SET state = 'superseded', failed = 0, next_at = NULL WHERE id = ?1";
            change.prepare_cached(late)?.execute([id])?;
            report.superseded += 1;
        } else {
            let again = "UPDATE event SET state = 'waiting', failed = 0, waits_since = ?2, next_at = ?2 WHERE id = ?1";
            change.prepare_cached(again)?.execute(params![id, now_ms])?;
            report.waiting += 1;
        }
        let at = "UPDATE object SET at = ?2 WHERE id = ?1";
        change.prepare_cached(at)?.execute([event.object, now_ms])?;
        count(change, event.endpoint, i64::from(!event.is_late), -1)?;
        refresh_line(change, event.object)?;
    }
    let is_step = matches!(filter, ReplayFilter::Tenant { .. });
    report.has_more = is_step && dead.len() == usize::try_from(MOST_LISTED).unwrap_or(usize::MAX);
    Ok(report)
}

fn dead_events(change: &Connection, filter: &ReplayFilter) -> Result<Vec<DeadEvent>, StoreError> {
    let dead = "SELECT e.id, e.object_id, e.endpoint, coalesce(e.rank < o.rank, 0)
        FROM event AS e LEFT JOIN object AS o ON o.id = e.object_id WHERE e.state = 'dead'";
    let read = |row: &Row<'_>| {
        Ok(DeadEvent {
            id: event_id(row, 0)?,
            object: row.get(1)?,
            endpoint: row.get(2)?,
            is_late: row.get(3)?,
        })
    };
    Ok(match filter {
        ReplayFilter::Event(id) => {
            let mut one = change.prepare_cached(&format!("{dead} AND e.id = ?1"))?;
            one.query_map([id.0.as_bytes()], read)?
                .collect::<Result<_, _>>()?
        }
        ReplayFilter::Tenant { tenant, since_ms } => {
            let of_tenant = format!(
                "{dead} AND e.tenant = ?1 AND e.incarnation = ?2 AND e.received >= ?3 ORDER BY e.received, e.id LIMIT ?4"
            );
            let mut of_tenant = change.prepare_cached(&of_tenant)?;
            let keys = params![
                tenant.tenant,
                big(tenant.incarnation),
                big(*since_ms),
                MOST_LISTED
            ];
            of_tenant.query_map(keys, read)?.collect::<Result<_, _>>()?
        }
    })
}

fn retain(
    change: &Connection,
    terms: &RetentionTerms,
    now_ms: i64,
) -> Result<RetentionReport, StoreError> {
    let before = |age| now_ms - millis_of(age);
    let mut report = RetentionReport {
        events: retain_events(change, before(terms.events))?,
        ..RetentionReport::default()
    };
    // An object outlives its events: a replay asks it what has superseded them.
    if report.events < RETENTION_STEP {
        let objects = "DELETE FROM object WHERE id IN (SELECT id FROM object WHERE at < ?1 ORDER BY at LIMIT ?2)";
        report.objects = removed(change, objects, before(terms.events))?;
    }
    let attempts = "DELETE FROM attempt WHERE (event, number) IN (
        SELECT event, number FROM attempt WHERE at < ?1 ORDER BY at LIMIT ?2)";
    report.attempts = removed(change, attempts, before(terms.attempts))?;
    let owners = "DELETE FROM owner WHERE (kind, key, tenant, account) IN (
        SELECT kind, key, tenant, account FROM owner WHERE at < ?1 ORDER BY at LIMIT ?2)";
    report.owners = removed(change, owners, before(terms.owners))?;
    let open_calls = "DELETE FROM open_call WHERE at < ?1";
    change.execute(open_calls, [before(terms.owners)])?;
    Ok(report)
}

fn removed(change: &Connection, delete: &str, before_ms: i64) -> Result<u32, StoreError> {
    let removed = change
        .prepare_cached(delete)?
        .execute(params![before_ms, RETENTION_STEP])?;
    Ok(u32::try_from(removed).unwrap_or(u32::MAX))
}

fn retain_events(change: &Connection, before_ms: i64) -> Result<u32, StoreError> {
    let old = "SELECT id, object_id, endpoint, state FROM event
        WHERE id < ?1 AND state <> 'quarantined' AND coalesce(waits_since, 0) < ?2 ORDER BY id LIMIT ?3";
    let mut old = change.prepare_cached(old)?;
    let floor = EventId::floor(before_ms.max(0).unsigned_abs());
    let keys = params![floor.0.as_bytes(), before_ms, RETENTION_STEP];
    let old = old.query_map(keys, |row| {
        let object: Option<i64> = row.get(1)?;
        let endpoint: Option<i64> = row.get(2)?;
        Ok((
            event_id(row, 0)?,
            object.zip(endpoint),
            row.get::<_, String>(3)?,
        ))
    })?;
    let mut removed = 0;
    for (id, place, state) in old.collect::<Result<Vec<_>, _>>()? {
        let id = id.0.as_bytes();
        change
            .prepare_cached("DELETE FROM attempt WHERE event = ?1")?
            .execute([id])?;
        change
            .prepare_cached("DELETE FROM event WHERE id = ?1")?
            .execute([id])?;
        if let Some((object, endpoint)) = place {
            let was = |one: EventState| -i64::from(state == one.as_str());
            count(
                change,
                endpoint,
                was(EventState::Waiting),
                was(EventState::Dead),
            )?;
            refresh_line(change, object)?;
        }
        removed += 1;
    }
    Ok(removed)
}
