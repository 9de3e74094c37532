//! Statements: booked calls and counts.

use tokio_postgres::Row;

use super::PostgresStore;
use super::admit::{cell, millis};
use crate::engine::statements::{
    CallPage, CallReading, DayFigures, PAGE_CALLS, PagePlace, StatementSubject, UsageSettlement,
};
use crate::error::StoreError;
use crate::statement::account_book::{BookedCall, LearnedResult, amounts_of};
use crate::statement::daily_statement::{DayCount, KeyGroups};
use crate::statement::usage_flush::{DayBounds, UsageFlush};
use crate::stored_text::StoredText;

const FLUSH: &str = "SELECT gatepay.flush_usage_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
const SETTLE: &str = "SELECT gatepay.settle_usage_v1($1, $2, $3, $4, $5, $6)";
const AGE: &str = "SELECT gatepay.age_usage_v1()";
const DAYS: &str = "SELECT d.day::text AS day, d.begins, d.ends, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now
    FROM gatepay.usage_day AS d ORDER BY d.begins";
const COUNTS: &str =
    "SELECT u.operation, u.outcome, sum(u.calls)::bigint AS calls FROM gatepay.usage_count AS u
    WHERE u.party = $1 AND ($2::text IS NULL OR u.account = $2) AND u.day::text = $3
    GROUP BY u.operation, u.outcome ORDER BY u.operation COLLATE \"C\", u.outcome COLLATE \"C\"";
const PEAK: &str = "SELECT p.calls, p.second FROM gatepay.usage_peak AS p
    WHERE p.party = $1 AND ($2::text IS NULL OR p.account = $2) AND p.day::text = $3
    ORDER BY p.calls DESC, p.second LIMIT 1";
// A process that has not flushed for a minute is gone, or counts on and will add it to a later day.
const LOSSES: &str = "SELECT w.flushed FROM gatepay.usage_writer AS w, gatepay.usage_day AS d
    WHERE d.day::text = $1 AND NOT w.ended AND w.flushed >= d.begins AND w.flushed < d.ends
        AND w.flushed < floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint - 60000
    ORDER BY w.flushed";
const ADMITTED: &str = "SELECT u.* FROM gatepay.usage_call AS u
    WHERE u.party = $1 AND ($2::text IS NULL OR u.account = $2) AND u.at >= $3 AND u.at < $4
        AND (u.at, u.print) > ($5, $6::bytea)
    ORDER BY u.at, u.print LIMIT $7";
const LEARNED: &str = "SELECT u.* FROM gatepay.usage_call AS u
    WHERE u.party = $1 AND ($2::text IS NULL OR u.account = $2)
        AND (u.learned >= $3 AND u.learned < $4 OR u.failed >= $3 AND u.failed < $4)
        AND (u.at < $3 OR left(u.key, 1) <> chr(31))
        AND (u.at, u.print) > ($5, $6::bytea)
    ORDER BY u.at, u.print LIMIT $7";
const GROUPS: &str = "SELECT u.* FROM unnest($3::text[], $4::text[]) AS k(operation, key)
    JOIN gatepay.usage_call AS u ON u.party = $1 AND ($2::text IS NULL OR u.account = $2)
        AND u.operation = k.operation AND u.key = k.key";

impl PostgresStore {
    pub(crate) async fn flush_usage(&self, flush: &UsageFlush) -> Result<(), StoreError> {
        let UsageFlush {
            instance,
            number,
            is_last,
            day,
            counts,
            seconds,
        } = flush;
        let parties: Vec<&str> = counts.iter().map(|it| it.party.as_str()).collect();
        let accounts: Vec<&str> = counts.iter().map(|it| it.account.as_str()).collect();
        let operations: Vec<&str> = counts.iter().map(|it| it.operation.as_str()).collect();
        let outcomes: Vec<&str> = counts.iter().map(|it| it.outcome.as_str()).collect();
        let calls: Vec<i64> = counts.iter().map(|it| millis(it.calls)).collect();
        let s_parties: Vec<&str> = seconds.iter().map(|it| it.party.as_str()).collect();
        let s_accounts: Vec<&str> = seconds.iter().map(|it| it.account.as_str()).collect();
        let s_seconds: Vec<i64> = seconds.iter().map(|it| millis(it.second)).collect();
        let s_calls: Vec<i64> = seconds.iter().map(|it| millis(it.calls)).collect();
        self.control(
            FLUSH,
            &[
                instance,
                number,
                is_last,
                &day.date,
                &millis(day.begins_ms),
                &millis(day.ends_ms),
                &parties,
                &accounts,
                &operations,
                &outcomes,
                &calls,
                &s_parties,
                &s_accounts,
                &s_seconds,
                &s_calls,
            ],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn settle_usage(&self, settled: &UsageSettlement) -> Result<(), StoreError> {
        self.control(
            SETTLE,
            &[
                &settled.party.as_str(),
                &settled.account.as_str(),
                &settled.operations,
                &settled.key.as_str(),
                &settled.has_failed,
                &millis(settled.decided_ms),
            ],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn age_usage(&self) -> Result<(), StoreError> {
        self.control(AGE, &[]).await?;
        Ok(())
    }

    pub(crate) async fn statement_days(&self) -> Result<Vec<DayBounds>, StoreError> {
        let rows = self.control(DAYS, &[]).await?;
        rows.iter().map(day).collect()
    }

    pub(crate) async fn day_figures(
        &self,
        subject: &StatementSubject,
    ) -> Result<DayFigures, StoreError> {
        let days = self.control(DAYS, &[]).await?;
        let now_ms = days.first().map_or(Ok(0), |row| cell::<i64>(row, "now"))?;
        let (party, account) = whose(subject);
        let counts = self
            .control(COUNTS, &[&party, &account, &subject.date])
            .await?;
        let counts = counts.iter().map(|row| {
            Ok(DayCount {
                operation: cell(row, "operation")?,
                outcome: cell(row, "outcome")?,
                calls: cell::<i64>(row, "calls")?.unsigned_abs(),
            })
        });
        let counts: Result<Vec<DayCount>, StoreError> = counts.collect();
        let peak = self
            .control(PEAK, &[&party, &account, &subject.date])
            .await?;
        let peak = peak.first().map(|row| {
            let calls: i64 = cell(row, "calls")?;
            let second: i64 = cell(row, "second")?;
            Ok::<_, StoreError>((calls.unsigned_abs(), second.unsigned_abs()))
        });
        let losses = self.control(LOSSES, &[&subject.date]).await?;
        let losses = losses
            .iter()
            .map(|row| Ok(cell::<i64>(row, "flushed")?.unsigned_abs()));
        Ok(DayFigures {
            now_ms: now_ms.unsigned_abs(),
            days: days.iter().map(day).collect::<Result<_, _>>()?,
            counts: counts?,
            peak: peak.transpose()?,
            losses_ms: losses.collect::<Result<_, StoreError>>()?,
        })
    }

    pub(crate) async fn call_page(
        &self,
        subject: &StatementSubject,
        day: &DayBounds,
        reading: CallReading,
        after: Option<PagePlace>,
    ) -> Result<CallPage, StoreError> {
        let (party, account) = whose(subject);
        let statement = match reading {
            CallReading::Admitted => ADMITTED,
            CallReading::Learned => LEARNED,
        };
        let (after_ms, after_stamp) =
            after.map_or((-1, Vec::new()), |(ms, stamp)| (millis(ms), stamp.to_vec()));
        let rows = self
            .control(
                statement,
                &[
                    &party,
                    &account,
                    &millis(day.begins_ms),
                    &millis(day.ends_ms),
                    &after_ms,
                    &after_stamp,
                    &i64::from(PAGE_CALLS),
                ],
            )
            .await?;
        let calls: Vec<BookedCall> = rows.iter().map(call).collect::<Result<_, _>>()?;
        let keyed: Vec<&BookedCall> = calls.iter().filter(|call| call.has_key()).collect();
        let mut groups = KeyGroups::new();
        if !keyed.is_empty() {
            let mut names: Vec<(&str, &str)> = keyed
                .iter()
                .map(|call| (call.operation.as_str(), call.key.as_str()))
                .collect();
            names.sort_unstable();
            names.dedup();
            let (operations, keys): (Vec<&str>, Vec<&str>) = names.into_iter().unzip();
            let rows = self
                .control(GROUPS, &[&party, &account, &operations, &keys])
                .await?;
            for row in &rows {
                let call = call(row)?;
                let name = (call.operation.clone(), call.key.clone());
                groups.entry(name).or_default().push(call);
            }
        }
        let is_full = calls.len() == PAGE_CALLS as usize;
        let next = calls.last().filter(|_| is_full);
        let next = next.map(|call| (call.at_ms, call.stamp));
        Ok(CallPage {
            calls,
            groups,
            next,
        })
    }
}

fn whose(subject: &StatementSubject) -> (&str, Option<&str>) {
    let account = subject.account.as_ref().map(StoredText::as_str);
    (subject.party.as_str(), account)
}

fn day(row: &Row) -> Result<DayBounds, StoreError> {
    Ok(DayBounds {
        date: cell(row, "day")?,
        begins_ms: cell::<i64>(row, "begins")?.unsigned_abs(),
        ends_ms: cell::<i64>(row, "ends")?.unsigned_abs(),
    })
}

fn call(row: &Row) -> Result<BookedCall, StoreError> {
    let unexpected = |what: &str| StoreError::Unexpected(format!("{what} of a booked call"));
    let print: Vec<u8> = cell(row, "print")?;
    let parts: String = cell(row, "parts")?;
    let result: Option<i16> = cell(row, "result")?;
    let learned: Option<i64> = cell(row, "learned")?;
    let failed: Option<i64> = cell(row, "failed")?;
    let result = result.map(|it| LearnedResult::of(it.into()).ok_or(unexpected("result")));
    Ok(BookedCall {
        stamp: print.try_into().map_err(|_| unexpected("print"))?,
        operation: cell(row, "operation")?,
        key: cell(row, "key")?,
        is_once: cell(row, "once")?,
        amounts: amounts_of(&parts)?,
        at_ms: cell::<i64>(row, "at")?.unsigned_abs(),
        learned: result.transpose()?.zip(learned.map(i64::unsigned_abs)),
        failed_ms: failed.map(i64::unsigned_abs),
    })
}
