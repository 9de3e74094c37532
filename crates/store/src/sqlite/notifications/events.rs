//! Arrivals and quarantine.

use gatepay_core::delivery_order::{ArrivalVerdict, ObjectProgress};
use gatepay_core::notification::StatusRank;
use gatepay_core::ownership::{QuarantineReason, TenantIncarnation};
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::super::SqliteStore;
use super::settlement::settle_all;
use super::{
    big, count, event_id, is_newest, millis_of, next_place, refresh_line, unexpected, url_text,
};
use crate::error::StoreError;
use crate::notifications::event::{
    DECISION_LEASE, DecisionTerms, EventArrival, EventId, EventPlacement, EventState,
    FIRST_DECISION_DELAY, NewEvent, PROPOSAL_LASTS, PlacementBasis, ProposalResult,
    QuarantineDecision, QuarantineQueue, QuarantinedEvent, ReceiveResult,
};
use crate::notifications::settlement::{ObjectNews, SettledEvent, SettlementReport};

impl SqliteStore {
    pub(crate) async fn receive(
        &self,
        events: &[NewEvent],
    ) -> Result<Vec<ReceiveResult>, StoreError> {
        let events = events.to_vec();
        self.change(move |change, now_ms| {
            events
                .iter()
                .map(|event| receive(change, event, now_ms))
                .collect()
        })
        .await
    }

    pub(crate) async fn take_quarantined(
        &self,
        queue: QuarantineQueue,
        most: u32,
    ) -> Result<Vec<QuarantinedEvent>, StoreError> {
        self.change(move |change, now_ms| take_quarantined(change, queue, most, now_ms))
            .await
    }

    pub(crate) async fn settle_quarantine(
        &self,
        event: EventId,
        decision: &QuarantineDecision,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let terms = DecisionTerms::of(decision);
        self.settle(event, &[EventState::Quarantined], terms, proved)
            .await
    }

    pub(crate) async fn assign(
        &self,
        event: EventId,
        (tenant, url): (&TenantIncarnation, Option<&str>),
        by: &str,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let terms = DecisionTerms::assigned(tenant, url, by);
        let from = &[EventState::Quarantined, EventState::Operator];
        self.settle(event, from, terms, proved).await
    }

    async fn settle(
        &self,
        event: EventId,
        from: &'static [EventState],
        terms: DecisionTerms,
        proved: Option<&ObjectNews>,
    ) -> Result<Option<SettledEvent>, StoreError> {
        let proved = proved.cloned();
        self.change(move |change, now_ms| {
            let Some(arrival) = settle(change, event, from, &terms, now_ms)? else {
                return Ok(None);
            };
            let report = if arrival.is_owned() {
                settle_all(change, &proved, now_ms)?
            } else {
                SettlementReport::default()
            };
            Ok(Some(SettledEvent { arrival, report }))
        })
        .await
    }

    pub(crate) async fn hand_over_news(
        &self,
        to: &TenantIncarnation,
        most: u32,
    ) -> Result<u32, StoreError> {
        let to = to.clone();
        self.change(move |change, now_ms| hand_over(change, &to, most, now_ms))
            .await
    }

    pub(crate) async fn propose(
        &self,
        event: EventId,
        tenant: &TenantIncarnation,
        by: &str,
    ) -> Result<ProposalResult, StoreError> {
        let (tenant, by) = (tenant.clone(), by.to_owned());
        self.change(move |change, now_ms| propose(change, event, &tenant, &by, now_ms))
            .await
    }
}

fn propose(
    change: &Connection,
    event: EventId,
    tenant: &TenantIncarnation,
    by: &str,
    now_ms: i64,
) -> Result<ProposalResult, StoreError> {
    change.execute(
        "DELETE FROM proposal WHERE at <= ?1",
        [now_ms - millis_of(PROPOSAL_LASTS)],
    )?;
    let event = &event.0.as_bytes()[..];
    let other = "SELECT proposed_by, tenant, incarnation FROM proposal WHERE event = ?1 AND proposed_by <> ?2";
    let other = change
        .query_row(other, params![event, by], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    if let Some((by, other, incarnation)) = other {
        let is_same = other == tenant.tenant && incarnation == big(tenant.incarnation);
        return Ok(if is_same {
            ProposalResult::Confirmed { by }
        } else {
            ProposalResult::Differs { by, tenant: other }
        });
    }
    change.execute(
        "INSERT OR REPLACE INTO proposal VALUES (?1, ?2, ?3, ?4, ?5)",
        params![event, tenant.tenant, big(tenant.incarnation), by, now_ms],
    )?;
    Ok(ProposalResult::Noted)
}

/// The status of an event at an object.
struct ObjectStatus<'a> {
    kind: &'a str,
    object: &'a str,
    status: &'a str,
    rank: Option<i64>,
}

/// Where an event stands.
struct EventPlace {
    object: i64,
    endpoint: i64,
    state: EventState,
    has_conflict: bool,
}

fn receive(
    change: &Connection,
    event: &NewEvent,
    now_ms: i64,
) -> Result<ReceiveResult, StoreError> {
    let news = event.news_digest();
    let known = "SELECT id FROM event WHERE news = ?1 AND body_print = ?2";
    let known = change
        .prepare_cached(known)?
        .query_row(params![news, event.key.body_sha256], |row| event_id(row, 0))
        .optional()?;
    if let Some(known) = known {
        return Ok(ReceiveResult::Duplicate(known));
    }
    let changed = "SELECT EXISTS (SELECT 1 FROM event WHERE news = ?1)";
    let is_changed = change
        .prepare_cached(changed)?
        .query_row([&news], |row| row.get(0))?;
    let id = new_id(change, now_ms)?;
    insert(change, id, event, is_changed, now_ms)?;
    let terms = DecisionTerms::of(&QuarantineDecision::Placed(event.placement.clone()));
    let arrival = place(change, id, &status_of(event), &terms, now_ms)?;
    if arrival.state == EventState::Quarantined {
        let due = "UPDATE event SET decide_at = ?2 WHERE id = ?1";
        let due_ms = now_ms + millis_of(FIRST_DECISION_DELAY);
        change
            .prepare_cached(due)?
            .execute(params![id.0.as_bytes(), due_ms])?;
        let mut hint = change.prepare_cached("INSERT OR IGNORE INTO hint VALUES (?1, ?2, ?3)")?;
        for key in &event.hints {
            hint.execute(params![key.kind().as_str(), key.text(), id.0.as_bytes()])?;
        }
    }
    Ok(if is_changed {
        ReceiveResult::Changed(arrival)
    } else {
        ReceiveResult::New(arrival)
    })
}

fn status_of(event: &NewEvent) -> ObjectStatus<'_> {
    ObjectStatus {
        kind: event.key.kind.as_str(),
        object: &event.key.object,
        status: &event.key.status,
        rank: event.rank_number(),
    }
}

/// A UUID of version 7: 48 bits of time, 74 random ones.
fn new_id(change: &Connection, now_ms: i64) -> Result<EventId, StoreError> {
    let random = "SELECT randomblob(16)";
    let mut bytes: [u8; 16] = change
        .prepare_cached(random)?
        .query_row([], |row| row.get(0))?;
    bytes[..6].copy_from_slice(&now_ms.to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(EventId(Uuid::from_bytes(bytes)))
}

/// Writes an event that has no owner yet.
fn insert(
    change: &Connection,
    id: EventId,
    event: &NewEvent,
    is_changed: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO event (id, received, kind, object, status, rank, news, body_print, token, state, quarantine,
        is_changed, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'quarantined', 'no_holder', ?10, ?11)";
    change.prepare_cached(insert)?.execute(params![
        id.0.as_bytes(),
        now_ms,
        event.key.kind.as_str(),
        event.key.object,
        event.key.status,
        event.rank_number(),
        event.news_digest(),
        event.key.body_sha256,
        event.token,
        is_changed,
        event.body,
    ])?;
    Ok(())
}

/// Gives an event without an owner its place.
fn place(
    change: &Connection,
    id: EventId,
    status: &ObjectStatus<'_>,
    terms: &DecisionTerms,
    now_ms: i64,
) -> Result<EventArrival, StoreError> {
    let mut arrival = EventArrival {
        id,
        state: EventState::Quarantined,
        has_conflict: false,
        quarantine: None,
    };
    match &terms.placement {
        EventPlacement::Tenant { tenant, url, by } if is_newest(change, tenant)? => {
            let place = progress(change, tenant, url_text(url.as_deref()), status, now_ms)?;
            own(change, id, tenant, by, &place, now_ms)?;
            refresh_line(change, place.object)?;
            arrival.state = place.state;
            arrival.has_conflict = place.has_conflict;
        }
        EventPlacement::Operators => {
            let own = "UPDATE event SET state = 'operator', quarantine = NULL, decide_at = NULL WHERE id = ?1";
            change.prepare_cached(own)?.execute([id.0.as_bytes()])?;
            arrival.state = EventState::Operator;
        }
        EventPlacement::Tenant { .. } => arrival.quarantine = Some(QuarantineReason::Removed),
        EventPlacement::Quarantine(reason) => arrival.quarantine = Some(*reason),
    }
    if let Some(reason) = arrival.quarantine {
        // The ledger has learned a key since the event was taken, if it is due: it stays due, for a decision with that key.
        let keep = "UPDATE event SET quarantine = ?2,
            decide_at = CASE WHEN decide_at <= ?4 THEN decide_at ELSE ?3 END,
            asks = ?5 AND coalesce(decide_at > ?4, 1) WHERE id = ?1";
        let decide_at = terms.delay.map(|delay| now_ms + millis_of(delay));
        change.prepare_cached(keep)?.execute(params![
            id.0.as_bytes(),
            reason.as_str(),
            decide_at,
            now_ms,
            terms.to_ask
        ])?;
    } else {
        let mut forget = change.prepare_cached("DELETE FROM hint WHERE event = ?1")?;
        forget.execute([id.0.as_bytes()])?;
    }
    Ok(arrival)
}

fn own(
    change: &Connection,
    id: EventId,
    tenant: &TenantIncarnation,
    by: &PlacementBasis,
    place: &EventPlace,
    now_ms: i64,
) -> Result<(), StoreError> {
    let own = "UPDATE event SET tenant = ?2, incarnation = ?3, placed_by = ?4, object_id = ?5, endpoint = ?6, place = ?7,
        state = ?8, has_conflict = ?9, quarantine = NULL, decide_at = NULL, waits_since = ?10, next_at = ?10 WHERE id = ?1";
    let since = (place.state == EventState::Waiting).then_some(now_ms);
    change.prepare_cached(own)?.execute(params![
        id.0.as_bytes(),
        tenant.tenant,
        big(tenant.incarnation),
        by.to_string(),
        place.object,
        place.endpoint,
        next_place(change)?,
        place.state.as_str(),
        place.has_conflict,
        since,
    ])?;
    Ok(())
}

/// Takes the status of an event into its object, and supersedes what is lower.
fn progress(
    change: &Connection,
    tenant: &TenantIncarnation,
    url: &str,
    status: &ObjectStatus<'_>,
    now_ms: i64,
) -> Result<EventPlace, StoreError> {
    let endpoint = endpoint(change, tenant, url)?;
    let (object, mut progress) = object(change, tenant, status, now_ms)?;
    let before = progress.highest;
    let verdict = progress.arrive(status.status, status.rank.map(rank));
    let update =
        "UPDATE object SET rank = ?2, final_status = ?3, has_conflict = ?4, at = ?5 WHERE id = ?1";
    change.prepare_cached(update)?.execute(params![
        object,
        progress.highest.map(rank_number),
        progress.final_status,
        progress.has_conflict,
        now_ms
    ])?;
    if progress.highest != before {
        supersede(change, object, progress.highest.map(rank_number))?;
    }
    let state = match verdict {
        ArrivalVerdict::Waits | ArrivalVerdict::Conflicts => {
            count(change, endpoint, 1, 0)?;
            EventState::Waiting
        }
        ArrivalVerdict::Superseded | ArrivalVerdict::AfterFinal => EventState::Superseded,
    };
    Ok(EventPlace {
        object,
        endpoint,
        state,
        has_conflict: verdict == ArrivalVerdict::Conflicts,
    })
}

fn endpoint(change: &Connection, tenant: &TenantIncarnation, url: &str) -> Result<i64, StoreError> {
    let keys = params![tenant.tenant, big(tenant.incarnation), url];
    let known = "SELECT id FROM endpoint WHERE tenant = ?1 AND incarnation = ?2 AND url = ?3";
    let known: Option<i64> = change
        .prepare_cached(known)?
        .query_row(keys, |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let insert = "INSERT INTO endpoint (tenant, incarnation, url) VALUES (?1, ?2, ?3)";
    change.prepare_cached(insert)?.execute(keys)?;
    Ok(change.last_insert_rowid())
}

fn object(
    change: &Connection,
    tenant: &TenantIncarnation,
    status: &ObjectStatus<'_>,
    now_ms: i64,
) -> Result<(i64, ObjectProgress), StoreError> {
    let incarnation = big(tenant.incarnation);
    let known = "SELECT id, rank, final_status, has_conflict FROM object
        WHERE tenant = ?1 AND incarnation = ?2 AND kind = ?3 AND object = ?4";
    let known = change
        .prepare_cached(known)?
        .query_row(
            params![tenant.tenant, incarnation, status.kind, status.object],
            |row| {
                let progress = ObjectProgress {
                    highest: row.get::<_, Option<i64>>(1)?.map(rank),
                    final_status: row.get(2)?,
                    has_conflict: row.get(3)?,
                };
                Ok((row.get(0)?, progress))
            },
        )
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let insert =
        "INSERT INTO object (tenant, incarnation, kind, object, at) VALUES (?1, ?2, ?3, ?4, ?5)";
    change.prepare_cached(insert)?.execute(params![
        tenant.tenant,
        incarnation,
        status.kind,
        status.object,
        now_ms
    ])?;
    Ok((change.last_insert_rowid(), ObjectProgress::default()))
}

fn supersede(change: &Connection, object: i64, highest: Option<i64>) -> Result<(), StoreError> {
    let supersede = "UPDATE event SET state = 'superseded', next_at = NULL
        WHERE object_id = ?1 AND state = 'waiting' AND rank < ?2 RETURNING endpoint";
    let mut supersede = change.prepare_cached(supersede)?;
    let endpoints = supersede.query_map(params![object, highest], |row| row.get::<_, i64>(0))?;
    for endpoint in endpoints.collect::<Result<Vec<_>, _>>()? {
        count(change, endpoint, -1, 0)?;
    }
    Ok(())
}

fn settle(
    change: &Connection,
    event: EventId,
    from: &[EventState],
    terms: &DecisionTerms,
    now_ms: i64,
) -> Result<Option<EventArrival>, StoreError> {
    let known = "SELECT state, kind, object, status, rank FROM event WHERE id = ?1";
    let known: Option<(String, String, String, String, Option<i64>)> = change
        .prepare_cached(known)?
        .query_row([event.0.as_bytes()], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(4)?,
            ))
        })
        .optional()?;
    let Some((state, kind, object, status, rank)) = known else {
        return Ok(None);
    };
    let state = EventState::parse(&state).ok_or_else(|| unexpected("an unknown state"))?;
    let status = ObjectStatus {
        kind: &kind,
        object: &object,
        status: &status,
        rank,
    };
    if !from.contains(&state) {
        return give_former(change, event, &status, terms, now_ms);
    }
    // An operator's assignment to a tenant that is another incarnation by now changes nothing.
    if let EventPlacement::Tenant {
        tenant,
        by: PlacementBasis::Operator(_),
        ..
    } = &terms.placement
        && !is_newest(change, tenant)?
    {
        let quarantine = "SELECT quarantine FROM event WHERE id = ?1";
        let quarantine: Option<String> = change
            .prepare_cached(quarantine)?
            .query_row([event.0.as_bytes()], |row| row.get(0))?;
        return Ok(Some(EventArrival {
            id: event,
            state,
            has_conflict: false,
            quarantine: quarantine.as_deref().map(reason).transpose()?,
        }));
    }
    let arrival = place(change, event, &status, terms, now_ms)?;
    if arrival.quarantine.is_some() && !terms.to_ask {
        let made = "UPDATE event SET decisions = decisions + 1 WHERE id = ?1";
        change.prepare_cached(made)?.execute([event.0.as_bytes()])?;
    }
    Ok(Some(arrival))
}

/// Gives an event a tenant, by an operator's order, that waits or is dead for a former incarnation of the tenant with the same
/// sub-account.
fn give_former(
    change: &Connection,
    event: EventId,
    status: &ObjectStatus<'_>,
    terms: &DecisionTerms,
    now_ms: i64,
) -> Result<Option<EventArrival>, StoreError> {
    let EventPlacement::Tenant {
        tenant,
        by: PlacementBasis::Operator(_),
        ..
    } = &terms.placement
    else {
        return Ok(None);
    };
    if !is_newest(change, tenant)? {
        return Ok(None);
    }
    let former = "SELECT e.object_id, e.endpoint, e.state = 'dead', e.has_conflict FROM event AS e
        JOIN incarnation AS f ON f.tenant = e.tenant AND f.incarnation = e.incarnation
        JOIN incarnation AS n ON n.tenant = f.tenant AND n.account = f.account
        WHERE e.id = ?1 AND e.state IN ('waiting', 'dead') AND n.tenant = ?2 AND n.incarnation = ?3
            AND f.incarnation < n.incarnation";
    let keys = params![event.0.as_bytes(), tenant.tenant, big(tenant.incarnation)];
    let former: Option<(i64, i64, bool, bool)> = change
        .prepare_cached(former)?
        .query_row(keys, |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((object, endpoint, was_dead, had_conflict)) = former else {
        return Ok(None);
    };
    let arrival = place(change, event, status, terms, now_ms)?;
    let anew = "UPDATE event SET failed = 0, has_conflict = has_conflict OR ?2 WHERE id = ?1";
    let anew = change
        .prepare_cached(anew)?
        .execute(params![event.0.as_bytes(), had_conflict])?;
    debug_assert_eq!(anew, 1, "it was found above");
    let (waiting, dead) = if was_dead { (0, -1) } else { (-1, 0) };
    count(change, endpoint, waiting, dead)?;
    refresh_line(change, object)?;
    Ok(Some(arrival))
}

fn reason(word: &str) -> Result<QuarantineReason, StoreError> {
    QuarantineReason::parse(word).ok_or_else(|| unexpected("an unknown reason"))
}

/// Gives the events to a tenant that wait for other tenants with its account.
fn hand_over(
    change: &Connection,
    to: &TenantIncarnation,
    most: u32,
    now_ms: i64,
) -> Result<u32, StoreError> {
    if !is_newest(change, to)? {
        return Ok(0);
    }
    let waiting =
        "SELECT e.id, e.kind, e.object, e.status, e.rank, e.object_id, e.endpoint, e.has_conflict
        FROM incarnation AS i
        JOIN endpoint AS p ON p.tenant = i.tenant AND p.incarnation = i.incarnation
        JOIN event AS e ON e.endpoint = p.id AND e.state = 'waiting'
        WHERE i.account = ?1 AND i.tenant <> ?2 ORDER BY e.place LIMIT ?3";
    let mut waiting = change.prepare_cached(waiting)?;
    let waiting = waiting.query_map(params![to.account, to.tenant, most], |row| {
        let status: (String, String, String, Option<i64>) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let place = EventPlace {
            object: row.get(5)?,
            endpoint: row.get(6)?,
            state: EventState::Waiting,
            has_conflict: row.get(7)?,
        };
        Ok((event_id(row, 0)?, status, place))
    })?;
    let waiting = waiting.collect::<Result<Vec<_>, _>>()?;
    for (id, (kind, object, status, rank), before) in &waiting {
        count(change, before.endpoint, -1, 0)?;
        let status = ObjectStatus {
            kind,
            object,
            status,
            rank: *rank,
        };
        let mut place = progress(change, to, url_text(None), &status, now_ms)?;
        place.has_conflict |= before.has_conflict;
        own(
            change,
            *id,
            to,
            &PlacementBasis::Institution,
            &place,
            now_ms,
        )?;
        let anew = "UPDATE event SET failed = 0 WHERE id = ?1";
        change.prepare_cached(anew)?.execute([id.0.as_bytes()])?;
        refresh_line(change, before.object)?;
        refresh_line(change, place.object)?;
    }
    Ok(u32::try_from(waiting.len()).unwrap_or(u32::MAX))
}

fn take_quarantined(
    change: &Connection,
    queue: QuarantineQueue,
    most: u32,
    now_ms: i64,
) -> Result<Vec<QuarantinedEvent>, StoreError> {
    let due = "SELECT id, received, quarantine, decisions, token, body FROM event
        WHERE state = 'quarantined' AND asks = ?3 AND decide_at IS NOT NULL AND decide_at <= ?1
        ORDER BY decide_at, id LIMIT ?2";
    let asks = queue == QuarantineQueue::Asked;
    let mut due = change.prepare_cached(due)?;
    let due = due.query_map(params![now_ms, most, asks], |row| {
        let reason: String = row.get(2)?;
        Ok((
            reason,
            QuarantinedEvent {
                id: event_id(row, 0)?,
                received_ms: row.get::<_, i64>(1)?.unsigned_abs(),
                reason: QuarantineReason::NoHolder,
                decisions: row.get::<_, u32>(3)? + 1,
                token: row.get(4)?,
                body: row.get(5)?,
            },
        ))
    })?;
    let lease = "UPDATE event SET decide_at = ?2 WHERE id = ?1";
    let mut lease = change.prepare_cached(lease)?;
    let mut taken = Vec::new();
    for due in due.collect::<Result<Vec<_>, _>>()? {
        let (word, event) = due;
        let reason = reason(&word)?;
        lease.execute(params![
            event.id.0.as_bytes(),
            now_ms + millis_of(DECISION_LEASE)
        ])?;
        taken.push(QuarantinedEvent { reason, ..event });
    }
    Ok(taken)
}

/// A rank in one number with the same order: odd if it is final.
fn rank_number(rank: StatusRank) -> i64 {
    i64::from(rank.rank) * 2 + i64::from(rank.is_final)
}

fn rank(number: i64) -> StatusRank {
    StatusRank {
        rank: u32::try_from(number / 2).unwrap_or(u32::MAX),
        is_final: number % 2 == 1,
    }
}
