//! Open calls and proved outcomes.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::settlement::ObjectOutcome;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::SqliteStore;
use super::{event_id, unexpected};
use crate::error::StoreError;
use crate::notifications::ledger::{ProvedOutcome, TenantAccount};
use crate::notifications::settlement::{
    ObjectNews, OpenCall, OutcomeChange, SettledCall, SettlementReport,
};

/// The columns of an outcome, as [`proved`] reads them.
pub(super) const PROVED: &str = "o.outcome, o.outcome_status, o.outcome_event, o.outcome_at";

impl SqliteStore {
    pub(crate) async fn note_open_calls(
        &self,
        calls: &[OpenCall],
    ) -> Result<Vec<SettledCall>, StoreError> {
        let calls = calls.to_vec();
        self.change(move |change, now_ms| {
            for call in &calls {
                note_open_call(change, call, now_ms)?;
            }
            let mut ids: Vec<&str> = calls.iter().map(|call| &*call.call).collect();
            ids.sort_unstable();
            ids.dedup();
            let mut settled = Vec::new();
            for id in ids {
                if let Some(outcome) = known_outcome(change, id)? {
                    settled.extend(settle_call(change, id, &outcome)?);
                }
            }
            Ok(settled)
        })
        .await
    }

    pub(crate) async fn settle_objects(
        &self,
        news: &[ObjectNews],
    ) -> Result<SettlementReport, StoreError> {
        let news = news.to_vec();
        self.change(move |change, now_ms| settle_all(change, &news, now_ms))
            .await
    }
}

/// Takes proved outcomes into the ledger, and settles open calls.
pub(super) fn settle_all<'n>(
    change: &Connection,
    news: impl IntoIterator<Item = &'n ObjectNews>,
    now_ms: i64,
) -> Result<SettlementReport, StoreError> {
    let mut report = SettlementReport::default();
    for news in news {
        let proved = ProvedOutcome {
            outcome: news.proof.outcome,
            status: news.proof.status.clone(),
            event: news.event,
            at_ms: now_ms.unsigned_abs(),
        };
        for key in &news.proof.keys {
            let changed = change_row(change, key, &news.holder, &proved)?;
            report.changes.extend(changed);
            for call in open_calls(change, key, &news.holder, proved.outcome)? {
                report.calls.extend(settle_call(change, &call, &proved)?);
            }
        }
    }
    Ok(report)
}

fn note_open_call(change: &Connection, call: &OpenCall, now_ms: i64) -> Result<(), StoreError> {
    let insert = "INSERT OR IGNORE INTO open_call VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut insert = change.prepare_cached(insert)?;
    for key in &call.keys {
        insert.execute(params![
            key.kind().as_str(),
            key.text(),
            call.holder.tenant,
            call.holder.account,
            call.call,
            call.operation,
            call.closes,
            now_ms,
        ])?;
    }
    Ok(())
}

/// The greatest outcome that the ledger has for a key of an open call, if it settles the call.
fn known_outcome(change: &Connection, call: &str) -> Result<Option<ProvedOutcome>, StoreError> {
    let known = format!(
        "SELECT {PROVED} FROM open_call AS c
        JOIN owner AS o ON o.kind = c.kind AND o.key = c.key AND o.tenant = c.tenant AND o.account = c.account
        WHERE c.call = ?1 AND o.outcome > c.closes ORDER BY o.outcome DESC, c.kind, c.key LIMIT 1"
    );
    let mut known = change.prepare_cached(&known)?;
    let known = known.query_row([call], |row| proved(row, 0)).optional()?;
    known.flatten().transpose()
}

/// Raises the outcome of a row of the ledger.
fn change_row(
    change: &Connection,
    key: &LedgerKey,
    holder: &TenantAccount,
    proved: &ProvedOutcome,
) -> Result<Option<OutcomeChange>, StoreError> {
    let row = (
        key.kind().as_str(),
        key.text(),
        &holder.tenant,
        &holder.account,
    );
    let known = "SELECT operation, outcome FROM owner WHERE kind = ?1 AND key = ?2 AND tenant = ?3 AND account = ?4";
    let known: Option<(String, Option<i16>)> = change
        .prepare_cached(known)?
        .query_row(row, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let number = proved.outcome.number();
    let Some((operation, before)) = known.filter(|(_, before)| before.unwrap_or(0) < number) else {
        return Ok(None);
    };
    let raise =
        "UPDATE owner SET outcome = ?5, outcome_status = ?6, outcome_event = ?7, outcome_at = ?8
        WHERE kind = ?1 AND key = ?2 AND tenant = ?3 AND account = ?4";
    change.prepare_cached(raise)?.execute(params![
        row.0,
        row.1,
        row.2,
        row.3,
        number,
        proved.status,
        proved.event.0.as_bytes(),
        super::big(proved.at_ms),
    ])?;
    Ok(Some(OutcomeChange {
        key: key.clone(),
        holder: holder.clone(),
        operation,
        before: before.map(outcome).transpose()?,
        now: proved.outcome,
    }))
}

/// The open calls about a key that an outcome settles.
fn open_calls(
    change: &Connection,
    key: &LedgerKey,
    holder: &TenantAccount,
    outcome: ObjectOutcome,
) -> Result<Vec<String>, StoreError> {
    let open =
        "SELECT call FROM open_call WHERE kind = ?1 AND key = ?2 AND tenant = ?3 AND account = ?4
        AND ?5 > closes ORDER BY call";
    let mut open = change.prepare_cached(open)?;
    let about = params![
        key.kind().as_str(),
        key.text(),
        holder.tenant,
        holder.account,
        outcome.number(),
    ];
    let open = open.query_map(about, |row| row.get(0))?;
    Ok(open.collect::<Result<_, _>>()?)
}

/// Removes a call from the open ones; `None` if it is none.
fn settle_call(
    change: &Connection,
    call: &str,
    proved: &ProvedOutcome,
) -> Result<Option<SettledCall>, StoreError> {
    let remove =
        "DELETE FROM open_call WHERE call = ?1 RETURNING tenant, account, operation, closes, at";
    let mut remove = change.prepare_cached(remove)?;
    let removed = remove.query_map([call], |row| {
        Ok(SettledCall {
            call: call.to_owned(),
            holder: TenantAccount {
                tenant: row.get(0)?,
                account: row.get(1)?,
            },
            operation: row.get(2)?,
            closes: row.get(3)?,
            open_since_ms: row.get::<_, i64>(4)?.unsigned_abs(),
            proved: proved.clone(),
        })
    })?;
    let removed: Vec<SettledCall> = removed.collect::<Result<_, _>>()?;
    Ok(removed.into_iter().next())
}

/// The outcome in the columns of [`PROVED`] from `at` on.
pub(super) fn proved(
    row: &Row<'_>,
    at: usize,
) -> Result<Option<Result<ProvedOutcome, StoreError>>, rusqlite::Error> {
    let Some(number) = row.get::<_, Option<i16>>(at)? else {
        return Ok(None);
    };
    let (status, event) = (row.get(at + 1)?, event_id(row, at + 2)?);
    let at_ms = row.get::<_, i64>(at + 3)?.unsigned_abs();
    Ok(Some(outcome(number).map(|outcome| ProvedOutcome {
        outcome,
        status,
        event,
        at_ms,
    })))
}

fn outcome(number: i16) -> Result<ObjectOutcome, StoreError> {
    ObjectOutcome::of_number(number).ok_or_else(|| unexpected("an unknown outcome"))
}
