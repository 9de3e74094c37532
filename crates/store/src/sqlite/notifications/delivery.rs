//! Claims, due events, attempts and endpoints.

use gatepay_core::ownership::TenantIncarnation;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::SqliteStore;
use super::{
    big, count, event_id, millis_of, newest_incarnation, refresh_endpoint, refresh_line, url_of,
    url_text,
};
use crate::error::StoreError;
use crate::notifications::delivery::{
    AttemptEffect, AttemptRecord, AttemptVerdict, CLAIM_LASTS, DueEvent, EndpointBreaker,
    EndpointClaim, EndpointKey, EndpointOffReason, EndpointState, LONGEST_SAID, UrlPrint,
};
use crate::notifications::event::EventState;

const DUE: &str = "SELECT e.id, l.object, e.kind, e.object, e.status, e.received, max(e.waits_since, p.on_since), e.attempts, e.failed,
        e.has_conflict, e.is_changed, e.body
    FROM endpoint AS p JOIN line AS l ON l.endpoint = p.id AND l.next_at <= ?3 JOIN event AS e ON e.id = l.head
    WHERE p.id = ?1 AND p.turn = ?2 AND p.claimed_until > ?3 AND p.off IS NULL
    ORDER BY l.next_at, l.object LIMIT ?4";
const ENDPOINTS: &str = "SELECT p.tenant, p.incarnation, i.account, p.url, p.failures, p.failing_since, p.open_until,
        p.failed_probes, p.off, p.next_at, CASE WHEN p.claimed_until > ?1 THEN p.claimed_by END, p.waiting, p.dead,
        (SELECT e.received FROM event AS e WHERE e.endpoint = p.id AND e.state = 'waiting' ORDER BY e.received LIMIT 1), p.id, p.turn, p.gone
    FROM endpoint AS p JOIN incarnation AS i ON i.tenant = p.tenant AND i.incarnation = p.incarnation ";

impl SqliteStore {
    pub(crate) async fn claim_endpoints(
        &self,
        instance: i64,
        most: u32,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        self.change(move |change, now_ms| claim(change, instance, most, now_ms))
            .await
    }

    pub(crate) async fn renew_claims(
        &self,
        claims: &[EndpointClaim],
    ) -> Result<Vec<bool>, StoreError> {
        let claims = claims.to_vec();
        self.change(move |change, now_ms| {
            let renew = "UPDATE endpoint SET claimed_until = ?3
                WHERE id = ?1 AND turn = ?2 AND claimed_by IS NOT NULL";
            let mut renew = change.prepare_cached(renew)?;
            let until = now_ms + millis_of(CLAIM_LASTS);
            let renewed = claims
                .iter()
                .map(|claim| Ok(renew.execute(params![claim.number, claim.turn, until])? == 1));
            renewed.collect()
        })
        .await
    }

    pub(crate) async fn release_endpoints(
        &self,
        claims: &[EndpointClaim],
    ) -> Result<(), StoreError> {
        let claims = claims.to_vec();
        self.change(move |change, _| {
            let release =
                "UPDATE endpoint SET claimed_by = NULL, claimed_until = 0 WHERE id = ?1 AND turn = ?2";
            let mut release = change.prepare_cached(release)?;
            for claim in &claims {
                release.execute([claim.number, claim.turn])?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn due_events(
        &self,
        claims: &[EndpointClaim],
        most: u32,
    ) -> Result<Vec<Vec<DueEvent>>, StoreError> {
        let claims = claims.to_vec();
        self.run(move |file| {
            let now_ms = big(file.now()?);
            let connection = file.connection();
            claims
                .iter()
                .map(|claim| due(connection, claim, most, now_ms))
                .collect()
        })
        .await
    }

    pub(crate) async fn record_attempts(
        &self,
        attempts: &[AttemptRecord],
    ) -> Result<Vec<AttemptVerdict>, StoreError> {
        let attempts = attempts.to_vec();
        self.change(move |change, now_ms| {
            attempts
                .iter()
                .map(|attempt| record(change, attempt, now_ms))
                .collect()
        })
        .await
    }

    pub(crate) async fn turn_endpoint_off(
        &self,
        endpoint: &EndpointKey,
        reason: EndpointOffReason,
    ) -> Result<(), StoreError> {
        let endpoint = endpoint.clone();
        self.change(move |change, _| {
            turn(
                change,
                &endpoint,
                "UPDATE endpoint SET off = ?4",
                Some(reason),
            )
        })
        .await
    }

    pub(crate) async fn turn_endpoint_on(&self, endpoint: &EndpointKey) -> Result<(), StoreError> {
        let endpoint = endpoint.clone();
        self.change(move |change, now_ms| {
            let newest = newest_incarnation(change, &endpoint.tenant.tenant)?;
            if newest != big(endpoint.tenant.incarnation) {
                return Ok(());
            }
            let on = format!(
                "UPDATE endpoint SET off = ?4, on_since = {now_ms}, failures = 0, failing_since = NULL, open_until = NULL,
                    failed_probes = 0"
            );
            turn(change, &endpoint, &on, None)
        })
        .await
    }
}

/// Every endpoint.
pub(super) fn endpoints(
    connection: &Connection,
    now_ms: i64,
) -> Result<Vec<EndpointState>, StoreError> {
    let mut all = connection.prepare_cached(&format!("{ENDPOINTS} ORDER BY p.id"))?;
    Ok(all.query_map([now_ms], state)?.collect::<Result<_, _>>()?)
}

fn claim(
    change: &Connection,
    instance: i64,
    most: u32,
    now_ms: i64,
) -> Result<Vec<EndpointClaim>, StoreError> {
    let due = format!(
        "{ENDPOINTS} WHERE p.next_at IS NOT NULL AND p.next_at <= ?1 AND p.claimed_until <= ?1 ORDER BY p.next_at, p.id LIMIT ?2"
    );
    let mut due = change.prepare_cached(&due)?;
    let due = due.query_map(params![now_ms, most], |row| {
        Ok(EndpointClaim {
            endpoint: key(row)?,
            number: row.get(14)?,
            turn: row.get::<_, i64>(15)? + 1,
            breaker: breaker(row)?,
        })
    })?;
    let claims: Vec<EndpointClaim> = due.collect::<Result<_, _>>()?;
    let claim = "UPDATE endpoint SET claimed_by = ?2, claimed_until = ?3, turn = ?4 WHERE id = ?1";
    let mut claim = change.prepare_cached(claim)?;
    for it in &claims {
        claim.execute(params![
            it.number,
            instance,
            now_ms + millis_of(CLAIM_LASTS),
            it.turn
        ])?;
    }
    Ok(claims)
}

fn due(
    connection: &Connection,
    claim: &EndpointClaim,
    most: u32,
    now_ms: i64,
) -> Result<Vec<DueEvent>, StoreError> {
    let mut due = connection.prepare_cached(DUE)?;
    let due = due.query_map(params![claim.number, claim.turn, now_ms, most], |row| {
        Ok(DueEvent {
            id: event_id(row, 0)?,
            line: row.get(1)?,
            kind: row.get(2)?,
            object: row.get(3)?,
            status: row.get(4)?,
            received_ms: row.get::<_, i64>(5)?.unsigned_abs(),
            waits_since_ms: row.get::<_, i64>(6)?.unsigned_abs(),
            attempts: row.get(7)?,
            failed_attempts: row.get(8)?,
            has_conflict: row.get(9)?,
            is_changed: row.get(10)?,
            body: row.get(11)?,
        })
    })?;
    Ok(due.collect::<Result<_, _>>()?)
}

/// An event at the end of an attempt.
struct AttemptedEvent {
    state: String,
    object: Option<i64>,
    endpoint: Option<i64>,
    attempts: u32,
}

fn record(
    change: &Connection,
    attempt: &AttemptRecord,
    now_ms: i64,
) -> Result<AttemptVerdict, StoreError> {
    let known = "SELECT state, object_id, endpoint, attempts FROM event WHERE id = ?1";
    let known = change
        .prepare_cached(known)?
        .query_row([attempt.event.0.as_bytes()], |row| {
            Ok(AttemptedEvent {
                state: row.get(0)?,
                object: row.get(1)?,
                endpoint: row.get(2)?,
                attempts: row.get(3)?,
            })
        })
        .optional()?;
    let Some(known) = known else {
        return Ok(AttemptVerdict::Forgotten);
    };
    list_attempt(change, attempt, known.attempts + 1, now_ms)?;
    let (endpoint, turn) = attempt.claim;
    let is_valid = "SELECT EXISTS (SELECT 1 FROM endpoint WHERE id = ?1 AND turn = ?2)";
    let mut is_valid = change.prepare_cached(is_valid)?;
    let is_valid: bool = is_valid.query_row([endpoint, turn], |row| row.get(0))?;
    let is_valid = is_valid && known.endpoint == Some(endpoint);
    let is_waiting = known.state == EventState::Waiting.as_str();
    if let (Some(object), Some(endpoint)) = (known.object, known.endpoint) {
        take_effect(change, attempt, &known, endpoint, is_valid, now_ms)?;
        if is_valid {
            keep_breaker(change, attempt, endpoint)?;
        }
        refresh_line(change, object)?;
        refresh_endpoint(change, endpoint)?;
    }
    Ok(match (is_valid, is_waiting) {
        (false, _) => AttemptVerdict::ClaimLost,
        (true, false) => AttemptVerdict::Overtaken,
        (true, true) => AttemptVerdict::Recorded,
    })
}

fn list_attempt(
    change: &Connection,
    attempt: &AttemptRecord,
    number: u32,
    now_ms: i64,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO attempt VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    change.prepare_cached(insert)?.execute(params![
        attempt.event.0.as_bytes(),
        number,
        now_ms,
        attempt.instance,
        millis_of(attempt.took),
        attempt.status,
        attempt.outcome,
        &attempt.said[..attempt.said.len().min(LONGEST_SAID)],
    ])?;
    let number = "UPDATE event SET attempts = attempts + 1 WHERE id = ?1";
    change
        .prepare_cached(number)?
        .execute([attempt.event.0.as_bytes()])?;
    Ok(())
}

fn take_effect(
    change: &Connection,
    attempt: &AttemptRecord,
    known: &AttemptedEvent,
    endpoint: i64,
    is_valid: bool,
    now_ms: i64,
) -> Result<(), StoreError> {
    let id = attempt.event.0.as_bytes();
    let was = |state: EventState| i64::from(known.state == state.as_str());
    let (waiting, dead) = (was(EventState::Waiting), was(EventState::Dead));
    match attempt.effect {
        AttemptEffect::Delivered => {
            let delivered = "UPDATE event SET state = 'delivered', next_at = NULL WHERE id = ?1";
            change.prepare_cached(delivered)?.execute([id])?;
            count(change, endpoint, -waiting, -dead)?;
        }
        AttemptEffect::Retry(delay) if is_valid && waiting == 1 => {
            let retry = "UPDATE event SET failed = failed + 1, next_at = ?2 WHERE id = ?1";
            change
                .prepare_cached(retry)?
                .execute(params![id, now_ms + millis_of(delay)])?;
        }
        AttemptEffect::Dead if is_valid && waiting == 1 => {
            let die = "UPDATE event SET failed = failed + 1, state = 'dead', next_at = NULL WHERE id = ?1";
            change.prepare_cached(die)?.execute([id])?;
            count(change, endpoint, -1, 1)?;
        }
        AttemptEffect::EndpointOff(print) if is_valid => {
            let off = "UPDATE endpoint SET off = coalesce(off, 'gone'), gone = ?2 WHERE id = ?1";
            change.prepare_cached(off)?.execute([endpoint, print.0])?;
        }
        AttemptEffect::Retry(_) | AttemptEffect::Dead | AttemptEffect::EndpointOff(_) => {}
    }
    Ok(())
}

fn keep_breaker(
    change: &Connection,
    attempt: &AttemptRecord,
    endpoint: i64,
) -> Result<(), StoreError> {
    let EndpointBreaker {
        failures,
        failing_since_ms,
        open_until_ms,
        failed_probes,
    } = attempt.breaker;
    let keep = "UPDATE endpoint SET failures = ?2, failing_since = ?3, open_until = ?4, failed_probes = ?5 WHERE id = ?1";
    change.prepare_cached(keep)?.execute(params![
        endpoint,
        failures,
        failing_since_ms.map(big),
        open_until_ms.map(big),
        failed_probes
    ])?;
    Ok(())
}

/// Turns an endpoint on or off, if it exists.
fn turn(
    change: &Connection,
    endpoint: &EndpointKey,
    update: &str,
    reason: Option<EndpointOffReason>,
) -> Result<(), StoreError> {
    let EndpointKey { tenant, url } = endpoint;
    let update =
        format!("{update} WHERE tenant = ?1 AND incarnation = ?2 AND url = ?3 RETURNING id");
    let reason = reason.map(EndpointOffReason::as_str);
    let incarnation = big(tenant.incarnation);
    let id: Option<i64> = change
        .query_row(
            &update,
            params![tenant.tenant, incarnation, url_text(url.as_deref()), reason],
            |row| row.get(0),
        )
        .optional()?;
    id.map_or(Ok(()), |id| refresh_endpoint(change, id))
}

fn key(row: &Row<'_>) -> Result<EndpointKey, rusqlite::Error> {
    Ok(EndpointKey {
        tenant: TenantIncarnation {
            tenant: row.get(0)?,
            incarnation: row.get::<_, i64>(1)?.unsigned_abs(),
            account: row.get(2)?,
        },
        url: url_of(row.get(3)?),
    })
}

fn breaker(row: &Row<'_>) -> Result<EndpointBreaker, rusqlite::Error> {
    Ok(EndpointBreaker {
        failures: row.get(4)?,
        failing_since_ms: row.get::<_, Option<i64>>(5)?.map(i64::unsigned_abs),
        open_until_ms: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
        failed_probes: row.get(7)?,
    })
}

fn state(row: &Row<'_>) -> Result<EndpointState, rusqlite::Error> {
    let off: Option<String> = row.get(8)?;
    Ok(EndpointState {
        endpoint: key(row)?,
        // A reason of a newer version.
        off: off.map(|word| EndpointOffReason::parse(&word).unwrap_or(EndpointOffReason::Operator)),
        gone: row.get::<_, Option<i64>>(16)?.map(UrlPrint),
        breaker: breaker(row)?,
        next_ms: row.get::<_, Option<i64>>(9)?.map(i64::unsigned_abs),
        claimed_by: row.get(10)?,
        waiting: row.get::<_, i64>(11)?.unsigned_abs(),
        dead: row.get::<_, i64>(12)?.unsigned_abs(),
        oldest_waiting_ms: row.get::<_, Option<i64>>(13)?.map(i64::unsigned_abs),
    })
}
