//! The calls about notifications, on connections of their own.

mod delivery;
mod events;
mod found;
mod isolation;
mod ledger;
mod lists;
mod settlement;

use gatepay_core::ownership::TenantIncarnation;
use tokio_postgres::Row;

use super::admit::cell;
use crate::error::StoreError;
use crate::notifications::event::EventId;

/// The URL of the tenant's file, as the tables spell it.
fn url_text(url: Option<&str>) -> &str {
    url.unwrap_or_default()
}

fn url_of(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn unexpected(what: &str) -> StoreError {
    StoreError::Unexpected(what.to_owned())
}

fn one_row(rows: &[Row]) -> Result<&Row, StoreError> {
    rows.first()
        .ok_or_else(|| unexpected("an answer without a row"))
}

fn event_id(text: &str) -> Result<EventId, StoreError> {
    EventId::parse(text).ok_or_else(|| unexpected("an id that is no UUID"))
}

/// The owner in the columns `tenant`, `account` and `incarnation`.
fn tenant(row: &Row) -> Result<TenantIncarnation, StoreError> {
    Ok(TenantIncarnation {
        tenant: cell(row, "tenant")?,
        account: cell(row, "account")?,
        incarnation: cell::<i64>(row, "incarnation")?.unsigned_abs(),
    })
}

/// A number of the model for a `bigint`.
fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn millis_of(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The element that the column `n` counts, from 1 on.
fn numbered<'a, T>(list: &'a mut [T], row: &Row) -> Result<&'a mut T, StoreError> {
    let at = usize::try_from(cell::<i64>(row, "n")? - 1).ok();
    at.and_then(|at| list.get_mut(at))
        .ok_or_else(|| unexpected("a row about nothing asked"))
}
