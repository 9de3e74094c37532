//! Claims, due events, attempts and endpoints.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::PostgresStore;
use super::super::admit::{cell, millis};
use super::{
    big, event_id, millis_of, one_row, small, tenant, unexpected, unsigned, url_of, url_text,
};
use crate::error::StoreError;
use crate::notifications::delivery::{
    AttemptEffect, AttemptRecord, AttemptVerdict, CLAIM_LASTS, DueEvent, EndpointBreaker,
    EndpointClaim, EndpointKey, EndpointOffReason, EndpointState, LONGEST_SAID, UrlPrint,
};

const CLAIM: &str = "SELECT o_id AS id, o_turn AS turn, o_tenant AS tenant, o_incarnation AS incarnation,
        o_account AS account, o_url AS url, o_failures AS failures, o_failing_since AS failing_since,
        o_open_until AS open_until, o_failed_probes AS failed_probes
    FROM gatepay.claim_endpoints_v1($1, $2, $3)";
const RENEW: &str = "SELECT gatepay.renew_claims_v1($1, $2, $3) AS kept";
const RELEASE: &str = "SELECT gatepay.release_endpoints_v1($1, $2)";
const DUE: &str = "SELECT * FROM gatepay.due_events_v1($1, $2, $3)";
const RECORD: &str =
    "SELECT gatepay.record_attempts_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    AS verdicts";
const TURN: &str = "SELECT gatepay.turn_endpoint_v1($1, $2, $3, $4)";
/// Each endpoint with its oldest waiting event, which an index finds.
const ENDPOINTS: &str = "SELECT p.tenant, p.incarnation, i.account, p.url, p.off, p.gone, p.failures, p.failing_since,
        p.open_until, p.failed_probes, p.next_at, p.waiting, p.dead,
        CASE WHEN p.claimed_until > (SELECT gatepay.clock_v1()) THEN p.claimed_by END AS claimed_by,
        (SELECT e.received FROM gatepay.event AS e WHERE e.endpoint = p.id AND e.state = 'waiting'
            ORDER BY e.received LIMIT 1) AS oldest
    FROM gatepay.endpoint AS p
    JOIN gatepay.incarnation AS i ON i.tenant = p.tenant AND i.incarnation = p.incarnation ORDER BY p.id";

impl PostgresStore {
    pub(crate) async fn claim_endpoints(
        &self,
        instance: i64,
        most: u32,
    ) -> Result<Vec<EndpointClaim>, StoreError> {
        let lasts = millis_of(CLAIM_LASTS);
        let rows = self
            .run_on(
                &self.notifications.deliveries,
                CLAIM,
                &[&instance, &small(most), &lasts],
            )
            .await?;
        rows.iter().map(claim).collect()
    }

    pub(crate) async fn renew_claims(
        &self,
        claims: &[EndpointClaim],
    ) -> Result<Vec<bool>, StoreError> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let (ids, turns) = columns(claims);
        let lasts = millis_of(CLAIM_LASTS);
        let rows = self
            .run_on(
                &self.notifications.deliveries,
                RENEW,
                &[&ids, &turns, &lasts],
            )
            .await?;
        cell(one_row(&rows)?, "kept")
    }

    pub(crate) async fn release_endpoints(
        &self,
        claims: &[EndpointClaim],
    ) -> Result<(), StoreError> {
        let (ids, turns) = columns(claims);
        self.run_on(&self.notifications.deliveries, RELEASE, &[&ids, &turns])
            .await?;
        Ok(())
    }

    pub(crate) async fn due_events(
        &self,
        claims: &[EndpointClaim],
        most: u32,
    ) -> Result<Vec<Vec<DueEvent>>, StoreError> {
        let (ids, turns) = columns(claims);
        let rows = self
            .run_on(
                &self.notifications.deliveries,
                DUE,
                &[&ids, &turns, &small(most)],
            )
            .await?;
        let mut due = vec![Vec::new(); claims.len()];
        for row in &rows {
            let at = usize::try_from(cell::<i64>(row, "o_claim")? - 1).ok();
            let list = at.and_then(|at| due.get_mut(at));
            list.ok_or_else(|| unexpected("an event of no claim"))?
                .push(due_event(row)?);
        }
        Ok(due)
    }

    pub(crate) async fn record_attempts(
        &self,
        attempts: &[AttemptRecord],
    ) -> Result<Vec<AttemptVerdict>, StoreError> {
        let columns = AttemptColumns::from(attempts);
        let rows = self
            .run_on(
                &self.notifications.deliveries,
                RECORD,
                &columns.parameters(),
            )
            .await?;
        let verdicts: Vec<i16> = cell(one_row(&rows)?, "verdicts")?;
        if verdicts.len() != attempts.len() {
            return Err(unexpected("verdicts are missing"));
        }
        let verdicts = verdicts.iter().map(|verdict| match verdict {
            0 => Ok(AttemptVerdict::Recorded),
            1 => Ok(AttemptVerdict::ClaimLost),
            2 => Ok(AttemptVerdict::Overtaken),
            3 => Ok(AttemptVerdict::Forgotten),
            _ => Err(unexpected("an unknown verdict about an attempt")),
        });
        verdicts.collect()
    }

    pub(crate) async fn turn_endpoint_off(
        &self,
        endpoint: &EndpointKey,
        reason: EndpointOffReason,
    ) -> Result<(), StoreError> {
        self.turn_endpoint(endpoint, Some(reason.as_str())).await
    }

    pub(crate) async fn turn_endpoint_on(&self, endpoint: &EndpointKey) -> Result<(), StoreError> {
        self.turn_endpoint(endpoint, None).await
    }

    async fn turn_endpoint(
        &self,
        endpoint: &EndpointKey,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let EndpointKey { tenant, url } = endpoint;
        let incarnation = big(tenant.incarnation);
        let url = url_text(url.as_deref());
        self.run_on(
            &self.notifications.deliveries,
            TURN,
            &[&tenant.tenant, &incarnation, &url, &reason],
        )
        .await?;
        Ok(())
    }

    pub(super) async fn endpoints(&self) -> Result<Vec<EndpointState>, StoreError> {
        let rows = self
            .run_on(&self.notifications.lists, ENDPOINTS, &[])
            .await?;
        rows.iter().map(endpoint_row).collect()
    }
}

fn columns(claims: &[EndpointClaim]) -> (Vec<i64>, Vec<i64>) {
    claims
        .iter()
        .map(|claim| (claim.number, claim.turn))
        .unzip()
}

fn claim(row: &Row) -> Result<EndpointClaim, StoreError> {
    Ok(EndpointClaim {
        endpoint: endpoint_key(row)?,
        number: cell(row, "id")?,
        turn: cell(row, "turn")?,
        breaker: breaker(row)?,
    })
}

fn endpoint_key(row: &Row) -> Result<EndpointKey, StoreError> {
    Ok(EndpointKey {
        tenant: tenant(row)?,
        url: url_of(cell(row, "url")?),
    })
}

fn breaker(row: &Row) -> Result<EndpointBreaker, StoreError> {
    Ok(EndpointBreaker {
        failures: cell::<i32>(row, "failures")?.unsigned_abs(),
        failing_since_ms: cell::<Option<i64>>(row, "failing_since")?.map(unsigned),
        open_until_ms: cell::<Option<i64>>(row, "open_until")?.map(unsigned),
        failed_probes: cell::<i32>(row, "failed_probes")?.unsigned_abs(),
    })
}

fn endpoint_row(row: &Row) -> Result<EndpointState, StoreError> {
    let off: Option<String> = cell(row, "off")?;
    Ok(EndpointState {
        endpoint: endpoint_key(row)?,
        off: off
            .map(|word| {
                EndpointOffReason::parse(&word).ok_or_else(|| unexpected("an unknown reason"))
            })
            .transpose()?,
        gone: cell::<Option<i64>>(row, "gone")?.map(UrlPrint),
        breaker: breaker(row)?,
        next_ms: cell::<Option<i64>>(row, "next_at")?.map(unsigned),
        claimed_by: cell(row, "claimed_by")?,
        waiting: unsigned(cell(row, "waiting")?),
        dead: unsigned(cell(row, "dead")?),
        oldest_waiting_ms: cell::<Option<i64>>(row, "oldest")?.map(unsigned),
    })
}

fn due_event(row: &Row) -> Result<DueEvent, StoreError> {
    Ok(DueEvent {
        id: event_id(&cell::<String>(row, "o_id")?)?,
        line: cell(row, "o_line")?,
        kind: cell(row, "o_kind")?,
        object: cell(row, "o_object")?,
        status: cell(row, "o_status")?,
        received_ms: unsigned(cell(row, "o_received")?),
        waits_since_ms: unsigned(cell(row, "o_waits_since")?),
        attempts: cell::<i32>(row, "o_attempts")?.unsigned_abs(),
        failed_attempts: cell::<i32>(row, "o_failed")?.unsigned_abs(),
        has_conflict: cell(row, "o_conflict")?,
        is_changed: cell(row, "o_changed")?,
        body: cell(row, "o_body")?,
    })
}

/// A batch by columns.
#[derive(Default)]
struct AttemptColumns<'a> {
    events: Vec<String>,
    ids: Vec<i64>,
    turns: Vec<i64>,
    instances: Vec<i64>,
    tooks: Vec<i64>,
    statuses: Vec<Option<i32>>,
    outcomes: Vec<&'a str>,
    saids: Vec<&'a [u8]>,
    effects: Vec<i16>,
    delays: Vec<Option<i64>>,
    failures: Vec<i32>,
    failing_since: Vec<Option<i64>>,
    open_until: Vec<Option<i64>>,
    failed_probes: Vec<i32>,
}

impl<'a> From<&'a [AttemptRecord]> for AttemptColumns<'a> {
    fn from(attempts: &'a [AttemptRecord]) -> Self {
        let mut columns = Self::default();
        for attempt in attempts {
            columns.events.push(attempt.event.to_string());
            columns.ids.push(attempt.claim.0);
            columns.turns.push(attempt.claim.1);
            columns.instances.push(attempt.instance);
            columns.tooks.push(millis_of(attempt.took));
            columns.statuses.push(attempt.status.map(i32::from));
            columns.outcomes.push(&attempt.outcome);
            columns
                .saids
                .push(&attempt.said[..attempt.said.len().min(LONGEST_SAID)]);
            let (effect, delay) = match attempt.effect {
                AttemptEffect::Delivered => (0, None),
                AttemptEffect::Retry(delay) => (1, Some(millis_of(delay))),
                AttemptEffect::Dead => (2, None),
                AttemptEffect::EndpointOff(print) => (3, Some(print.0)),
            };
            columns.effects.push(effect);
            columns.delays.push(delay);
            let breaker = attempt.breaker;
            columns.failures.push(small(breaker.failures));
            columns
                .failing_since
                .push(breaker.failing_since_ms.map(millis));
            columns.open_until.push(breaker.open_until_ms.map(millis));
            columns.failed_probes.push(small(breaker.failed_probes));
        }
        columns
    }
}

impl AttemptColumns<'_> {
    fn parameters(&self) -> [&(dyn ToSql + Sync); 14] {
        [
            &self.events,
            &self.ids,
            &self.turns,
            &self.instances,
            &self.tooks,
            &self.statuses,
            &self.outcomes,
            &self.saids,
            &self.effects,
            &self.delays,
            &self.failures,
            &self.failing_since,
            &self.open_until,
            &self.failed_probes,
        ]
    }
}
