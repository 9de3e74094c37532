//! Statements: booked calls and counts.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::admit::{cell, millis};
use super::caps::{only, stated};
use crate::caps::spend::UNKNOWN_AFTER_MS;
use crate::engine::statements::{
    CallPage, CallReading, DayFigures, MemberPlace, ObjectWord, PAGE_CALLS, PagePlace,
    StatementSubject,
};
use crate::error::StoreError;
use crate::statement::account_book::{
    BookedCall, KeyHead, LearnedResult, ObjectFailure, UnknownCall, amounts_of,
};
use crate::statement::daily_statement::{DayCount, HeadsByKey, KeyName};
use crate::statement::usage_flush::{DayBounds, UsageFlush};
use crate::stored_text::StoredText;

const FLUSH: &str = "SELECT gatepay.flush_usage_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
const SETTLE: &str =
    "SELECT gatepay.settle_usage_v1($1, $2, $3, $4, $5, $6, $7, $8, $9) AS is_other";
const AGE: &str = "SELECT gatepay.age_usage_v1()";
const DAYS: &str = "SELECT d.day::text AS day, d.begins, d.ends, gatepay.cap_now_v1() AS now
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
        AND w.flushed < (SELECT gatepay.cap_now_v1()) - 60000
    ORDER BY w.flushed";
const LOST: &str = "SELECT count(*) AS lost FROM gatepay.usage_writer AS w,
        (SELECT gatepay.cap_now_v1() AS now) AS t
    WHERE NOT w.ended AND w.flushed < t.now - 60000 AND w.flushed >= t.now - $1";
const HEADS: &str = "SELECT h.o_role, u.*
    FROM gatepay.usage_heads_v1($1, $2, $3, $4, $5, $6) AS h JOIN gatepay.usage_call AS u ON u.print = h.o_print";
const MEMBERS: &str =
    "SELECT m.* FROM unnest($2::text[], $3::text[], $4::text[]) AS k(account, operation, key)
    CROSS JOIN LATERAL (
        SELECT u.* FROM gatepay.usage_call AS u
        WHERE u.party = $1 AND u.account = k.account AND u.operation = k.operation AND u.key = k.key
            AND u.at < $5 AND u.print > $6
        ORDER BY u.print LIMIT $7
    ) AS m";
// The newest of each party first, then the second newest of each. Of no party and operation more are read than are told.
// The clock is a value here: a volatile function is no condition of an index.
const UNKNOWN: &str = "WITH RECURSIVE pair AS (
        (SELECT u.party, u.operation FROM gatepay.usage_call AS u
        WHERE u.result IS NULL AND left(u.key, 1) <> chr(31) ORDER BY u.party, u.operation LIMIT 1)
        UNION ALL
        SELECT n.party, n.operation FROM pair AS p CROSS JOIN LATERAL (
            SELECT u.party, u.operation FROM gatepay.usage_call AS u
            WHERE u.result IS NULL AND left(u.key, 1) <> chr(31) AND (u.party, u.operation) > (p.party, p.operation)
            ORDER BY u.party, u.operation LIMIT 1
        ) AS n
    )
    SELECT r.at, r.party, r.account, r.operation, r.key FROM (
        SELECT c.*, row_number() OVER (PARTITION BY c.party ORDER BY c.at DESC, c.print) AS place
        FROM pair AS p CROSS JOIN LATERAL (
            SELECT u.* FROM gatepay.usage_call AS u
            WHERE u.result IS NULL AND left(u.key, 1) <> chr(31)
                AND u.at < (SELECT gatepay.cap_now_v1() - $3)
                AND u.party = p.party AND u.operation = p.operation
            ORDER BY u.at DESC LIMIT $2
        ) AS c
        WHERE p.operation = ANY ($1)
    ) AS r
    ORDER BY r.place, r.at DESC, r.party COLLATE \"C\" LIMIT $2";

/// A page of calls by a column of times, from its index.
macro_rules! page_by {
    ($time:literal) => {
        concat!(
            "SELECT u.* FROM gatepay.usage_call AS u
            WHERE u.party = $1 AND ($2::text IS NULL OR u.account = $2) AND u.",
            $time,
            " >= $3 AND u.",
            $time,
            " < $4 AND (u.",
            $time,
            ", u.print) > ($5, $6::bytea) ORDER BY u.",
            $time,
            ", u.print LIMIT $7"
        )
    };
}

impl PostgresStore {
    pub(crate) async fn flush_usage(&self, flush: &UsageFlush) -> Result<(), StoreError> {
        let UsageFlush {
            instance,
            number,
            is_last,
            days,
            counts,
            seconds,
        } = flush;
        let dates: Vec<&str> = days.iter().map(|day| day.date.as_str()).collect();
        let begins: Vec<i64> = days.iter().map(|day| millis(day.begins_ms)).collect();
        let ends: Vec<i64> = days.iter().map(|day| millis(day.ends_ms)).collect();
        let parties: Vec<&str> = counts.iter().map(|it| it.party.as_str()).collect();
        let accounts: Vec<&str> = counts.iter().map(|it| it.account.as_str()).collect();
        let operations: Vec<&str> = counts.iter().map(|it| it.operation.as_str()).collect();
        let outcomes: Vec<&str> = counts.iter().map(|it| it.outcome.as_str()).collect();
        let calls: Vec<i64> = counts.iter().map(|it| millis(it.calls)).collect();
        let s_parties: Vec<&str> = seconds.iter().map(|it| it.party.as_str()).collect();
        let s_accounts: Vec<&str> = seconds.iter().map(|it| it.account.as_str()).collect();
        let s_seconds: Vec<i64> = seconds.iter().map(|it| millis(it.second)).collect();
        let s_calls: Vec<i64> = seconds.iter().map(|it| millis(it.calls)).collect();
        self.statements(
            FLUSH,
            &[
                instance,
                number,
                is_last,
                &dates,
                &begins,
                &ends,
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

    pub(crate) async fn settle_usage(&self, word: &ObjectWord) -> Result<bool, StoreError> {
        let ObjectWord {
            object,
            operations,
            is_whole,
        } = word;
        let (currencies, amounts) = stated(&object.amounts);
        let rows = self
            .control(
                SETTLE,
                &[
                    &object.party.as_str(),
                    &object.account.as_str(),
                    operations,
                    &object.key.as_str(),
                    &object.stands,
                    &millis(object.decided_ms),
                    &currencies,
                    &amounts,
                    is_whole,
                ],
            )
            .await?;
        only(&rows, "is_other")
    }

    pub(crate) async fn age_usage(&self) -> Result<(), StoreError> {
        self.statements(AGE, &[]).await?;
        Ok(())
    }

    pub(crate) async fn usage_losses(&self, within_ms: u64) -> Result<u64, StoreError> {
        let rows = self.statements(LOST, &[&millis(within_ms)]).await?;
        let lost = rows.first().map_or(Ok(0), |row| cell::<i64>(row, "lost"))?;
        Ok(lost.unsigned_abs())
    }

    pub(crate) async fn statement_days(&self) -> Result<Vec<DayBounds>, StoreError> {
        let rows = self.statements(DAYS, &[]).await?;
        rows.iter().map(day).collect()
    }

    pub(crate) async fn day_figures(
        &self,
        subject: &StatementSubject,
    ) -> Result<DayFigures, StoreError> {
        let days = self.statements(DAYS, &[]).await?;
        let now_ms = days.first().map_or(Ok(0), |row| cell::<i64>(row, "now"))?;
        let (party, account) = whose(subject);
        let counts = self
            .statements(COUNTS, &[&party, &account, &subject.date])
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
            .statements(PEAK, &[&party, &account, &subject.date])
            .await?;
        let peak = peak.first().map(|row| {
            let calls: i64 = cell(row, "calls")?;
            let second: i64 = cell(row, "second")?;
            Ok::<_, StoreError>((calls.unsigned_abs(), second.unsigned_abs()))
        });
        let losses = self.statements(LOSSES, &[&subject.date]).await?;
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
            CallReading::Admitted => page_by!("at"),
            CallReading::Learned => page_by!("learned"),
            CallReading::OwnEnd => page_by!("own_learned"),
            CallReading::Failed => page_by!("failed"),
        };
        let (after_ms, after_stamp) =
            after.map_or((-1, Vec::new()), |(ms, stamp)| (millis(ms), stamp.to_vec()));
        let asked: [&(dyn ToSql + Sync); 7] = [
            &party,
            &account,
            &millis(day.begins_ms),
            &millis(day.ends_ms),
            &after_ms,
            &after_stamp,
            &i64::from(PAGE_CALLS),
        ];
        let rows = self.statements(statement, &asked).await?;
        Ok(reading.page(calls(&rows)?))
    }

    pub(crate) async fn key_heads(
        &self,
        party: &StoredText,
        names: &BTreeMap<KeyName, bool>,
        before_ms: u64,
    ) -> Result<HeadsByKey, StoreError> {
        let (accounts, operations, keys) = columns(names.keys());
        let each: Vec<bool> = names.values().copied().collect();
        let before = millis(before_ms);
        let asked: [&(dyn ToSql + Sync); 6] = [
            &party.as_str(),
            &accounts,
            &operations,
            &keys,
            &each,
            &before,
        ];
        let rows = self.statements(HEADS, &asked).await?;
        let mut heads = HeadsByKey::new();
        for row in &rows {
            let call = call(row)?;
            let head = Some(KeyHead::of(&call, before_ms));
            let name = KeyName::of(&call);
            let name = name.ok_or_else(|| StoreError::Unexpected("a head without a key".into()))?;
            let of_key = heads.entry(name).or_default();
            match cell::<i32>(row, "o_role")? {
                1 => of_key.first = head,
                2 => of_key.next = head,
                3 => of_key.accepted = head,
                _ => of_key.elsewhere = head,
            }
        }
        Ok(heads)
    }

    pub(crate) async fn key_members(
        &self,
        party: &StoredText,
        names: &[KeyName],
        (before_ms, after, most): MemberPlace,
    ) -> Result<Vec<BookedCall>, StoreError> {
        let (accounts, operations, keys) = columns(names.iter());
        let asked: [&(dyn ToSql + Sync); 7] = [
            &party.as_str(),
            &accounts,
            &operations,
            &keys,
            &millis(before_ms),
            &after,
            &i64::from(most),
        ];
        calls(&self.statements(MEMBERS, &asked).await?)
    }

    pub(crate) async fn unknown_calls(
        &self,
        operations: &[&str],
        most: u32,
    ) -> Result<Vec<UnknownCall>, StoreError> {
        let minute = millis(UNKNOWN_AFTER_MS);
        let asked: [&(dyn ToSql + Sync); 3] = [&operations, &i64::from(most), &minute];
        let rows = self.statements(UNKNOWN, &asked).await?;
        let unknown = rows.iter().map(|row| {
            let text = |name| {
                let text: String = cell(row, name)?;
                StoredText::parse(&text)
                    .ok_or_else(|| StoreError::Unexpected(format!("{name} of a booked call")))
            };
            Ok(UnknownCall {
                at_ms: cell::<i64>(row, "at")?.unsigned_abs(),
                party: text("party")?,
                account: text("account")?,
                operation: cell(row, "operation")?,
                key: text("key")?,
            })
        });
        unknown.collect()
    }
}

/// The accounts, operations and keys of names.
fn columns<'n>(
    names: impl Iterator<Item = &'n KeyName>,
) -> (Vec<&'n str>, Vec<&'n str>, Vec<&'n str>) {
    let names = names.map(|name| (&*name.account, &*name.operation, &*name.key));
    names.collect()
}

fn calls(rows: &[Row]) -> Result<Vec<BookedCall>, StoreError> {
    rows.iter().map(call).collect()
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
    let end = |result, learned| {
        let result: Option<i16> = cell(row, result)?;
        let learned: Option<i64> = cell(row, learned)?;
        let result = result.map(|it| LearnedResult::of(it.into()).ok_or(unexpected("result")));
        Ok::<_, StoreError>(result.transpose()?.zip(learned.map(i64::unsigned_abs)))
    };
    let failed: Option<i64> = cell(row, "failed")?;
    let failed_by: Option<i64> = cell(row, "failed_by")?;
    Ok(BookedCall {
        stamp: print.try_into().map_err(|_| unexpected("print"))?,
        account: cell(row, "account")?,
        operation: cell(row, "operation")?,
        key: cell(row, "key")?,
        is_once: cell(row, "once")?,
        amounts: amounts_of(&parts)?,
        at_ms: cell::<i64>(row, "at")?.unsigned_abs(),
        learned: end("result", "learned")?,
        own_end: end("own_result", "own_learned")?,
        failure: failed
            .zip(failed_by)
            .map(|(learned, decided)| ObjectFailure {
                learned_ms: learned.unsigned_abs(),
                decided_ms: decided.unsigned_abs(),
            }),
    })
}
