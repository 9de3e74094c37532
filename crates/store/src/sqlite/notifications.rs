//! The calls about notifications: each is one transaction.

mod delivery;
mod events;
mod found;
mod isolation;
mod ledger;
mod lists;
mod settlement;
#[cfg(test)]
mod tests;

use gatepay_core::ownership::TenantIncarnation;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use uuid::Uuid;

use super::SqliteStore;
use super::file::StoreFile;
use crate::error::StoreError;
use crate::notifications::event::EventId;

impl SqliteStore {
    /// Runs a call in a transaction that is on disk when this returns. It is given the store's clock.
    async fn change<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Transaction<'_>, i64) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |file: &mut StoreFile| {
            let now_ms = big(file.now()?);
            let change = file.begin()?;
            let done = call(&change, now_ms)?;
            change.commit()?;
            Ok(done)
        })
        .await
    }
}

fn newest_incarnation(change: &Connection, tenant: &str) -> Result<i64, StoreError> {
    let newest = "SELECT coalesce(max(incarnation), 0) FROM incarnation WHERE tenant = ?1";
    let mut newest = change.prepare_cached(newest)?;
    Ok(newest.query_row([tenant], |row| row.get(0))?)
}

fn is_newest(change: &Connection, tenant: &TenantIncarnation) -> Result<bool, StoreError> {
    Ok(newest_incarnation(change, &tenant.tenant)? == big(tenant.incarnation))
}

fn next_place(change: &Connection) -> Result<i64, StoreError> {
    let next = "UPDATE event_place_number SET number = number + 1 RETURNING number";
    Ok(change
        .prepare_cached(next)?
        .query_row([], |row| row.get(0))?)
}

/// When an endpoint is to be claimed next.
fn refresh_endpoint(change: &Connection, endpoint: i64) -> Result<(), StoreError> {
    let refresh = "UPDATE endpoint SET next_at = CASE WHEN off IS NULL THEN (
            SELECT max(l.next_at, coalesce(open_until, 0)) FROM line AS l WHERE l.endpoint = ?1 ORDER BY l.next_at LIMIT 1
        ) END WHERE id = ?1";
    change.prepare_cached(refresh)?.execute([endpoint])?;
    Ok(())
}

/// The head of a line: the first event with a rank, which all have the same, or else the first without.
fn refresh_line(change: &Connection, object: i64) -> Result<(), StoreError> {
    let before = "SELECT endpoint FROM line WHERE object = ?1";
    let before: Option<i64> = change
        .prepare_cached(before)?
        .query_row([object], |row| row.get(0))
        .optional()?;
    let first = "SELECT endpoint, id, next_at FROM event WHERE object_id = ?1 AND state = 'waiting'
        ORDER BY (rank IS NULL), place LIMIT 1";
    let first: Option<(i64, Uuid, i64)> = change
        .prepare_cached(first)?
        .query_row([object], |row| {
            Ok((row.get(0)?, uuid(row, 1)?, row.get(2)?))
        })
        .optional()?;
    if let Some((endpoint, head, next_at)) = first {
        let place = "INSERT OR REPLACE INTO line VALUES (?1, ?2, ?3, ?4)";
        let mut place = change.prepare_cached(place)?;
        place.execute(params![object, endpoint, head.as_bytes(), next_at])?;
        refresh_endpoint(change, endpoint)?;
    } else {
        change
            .prepare_cached("DELETE FROM line WHERE object = ?1")?
            .execute([object])?;
    }
    match before {
        Some(before) if first.map(|first| first.0) != Some(before) => {
            refresh_endpoint(change, before)
        }
        _ => Ok(()),
    }
}

/// Changes the numbers of an endpoint's waiting and dead events.
fn count(change: &Connection, endpoint: i64, waiting: i64, dead: i64) -> Result<(), StoreError> {
    let count = "UPDATE endpoint SET waiting = waiting + ?2, dead = dead + ?3 WHERE id = ?1";
    change
        .prepare_cached(count)?
        .execute([endpoint, waiting, dead])?;
    Ok(())
}

fn uuid(row: &Row<'_>, at: usize) -> Result<Uuid, rusqlite::Error> {
    row.get::<_, [u8; 16]>(at).map(Uuid::from_bytes)
}

fn event_id(row: &Row<'_>, at: usize) -> Result<EventId, rusqlite::Error> {
    uuid(row, at).map(EventId)
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Unexpected(what.to_owned())
}

/// The URL of the tenant's file, as the tables spell it.
fn url_text(url: Option<&str>) -> &str {
    url.unwrap_or_default()
}

fn url_of(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn millis_of(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn small(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
