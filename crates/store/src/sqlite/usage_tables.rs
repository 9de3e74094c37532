//! The booked calls in the file, in the transactions of admissions and settlements.

use rusqlite::{Transaction, params};

use crate::admission::AdmissionRow;
use crate::caps::spend::{AttemptResult, SettledAttempt};
use crate::error::StoreError;

/// Books an admitted call.
pub(super) fn note_usage(
    change: &Transaction<'_>,
    now_ms: u64,
    row: &AdmissionRow,
) -> Result<(), StoreError> {
    let Some(usage) = &row.usage else {
        return Ok(());
    };
    let mut insert = change.prepare_cached(
        "INSERT OR IGNORE INTO usage_call (print, party, account, operation, key, once, parts, at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute(params![
        row.stamp,
        row.party.as_str(),
        row.account.as_str(),
        row.operation.as_ref(),
        usage.stored_key(&row.stamp),
        usage.is_once,
        usage.parts_text(),
        to_sql(now_ms)
    ])?;
    Ok(())
}

/// Notes the ends of calls. The first result stays. Where that is GatePay's word on a number, which does not tell which of the
/// calls under the number made the object, the call's own end is kept beside it.
pub(super) fn settle_usage(
    change: &Transaction<'_>,
    now_ms: u64,
    settled: &[SettledAttempt],
) -> Result<(), StoreError> {
    let mut own = change.prepare_cached(
        "UPDATE usage_call SET own_result = ?2, own_learned = ?3
        WHERE print = ?1 AND result = 3 AND own_result IS NULL",
    )?;
    let mut update = change.prepare_cached(
        "UPDATE usage_call SET result = ?2, learned = ?3 WHERE print = ?1 AND result IS NULL",
    )?;
    for one in settled {
        let result = match one.result {
            AttemptResult::NotExecuted => 0,
            AttemptResult::Executed => 1,
            AttemptResult::Found => 3,
            AttemptResult::Unknown => continue,
        };
        let end = params![one.stamp, result, to_sql(now_ms)];
        if one.result != AttemptResult::Found {
            own.execute(end)?;
        }
        update.execute(end)?;
    }
    Ok(())
}

/// A number for a column. No clock of the next million years is beyond it.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
