//! Statements in the file: booked calls and counts.

use std::collections::hash_map::Entry;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::SqliteStore;
use super::file::{StoreFile, committed, to_sql};
use crate::caps::spend::NO_KEY;
use crate::engine::statements::{
    CallPage, CallReading, DayFigures, PAGE_CALLS, PagePlace, StatementSubject, UsageSettlement,
};
use crate::error::StoreError;
use crate::statement::account_book::{BookedCall, LearnedResult, amounts_of};
use crate::statement::daily_statement::{DayCount, KeyGroups};
use crate::statement::usage_flush::{DayBounds, KEPT_MS, SECONDS_KEPT, UsageFlush};
use crate::stored_text::StoredText;

impl SqliteStore {
    pub(crate) async fn flush_usage(&self, flush: &UsageFlush) -> Result<(), StoreError> {
        let flush = flush.clone();
        self.run(move |file| file.flush_usage(&flush)).await
    }

    pub(crate) async fn settle_usage(&self, settled: &UsageSettlement) -> Result<(), StoreError> {
        let settled = settled.clone();
        self.run(move |file| file.settle_usage_key(&settled)).await
    }

    pub(crate) async fn age_usage(&self) -> Result<(), StoreError> {
        self.run(StoreFile::age_usage).await
    }

    pub(crate) async fn statement_days(&self) -> Result<Vec<DayBounds>, StoreError> {
        self.run(|file| days(file.connection())).await
    }

    pub(crate) async fn day_figures(
        &self,
        subject: &StatementSubject,
    ) -> Result<DayFigures, StoreError> {
        let subject = subject.clone();
        self.run(move |file| figures(file, &subject)).await
    }

    pub(crate) async fn call_page(
        &self,
        subject: &StatementSubject,
        day: &DayBounds,
        reading: CallReading,
        after: Option<PagePlace>,
    ) -> Result<CallPage, StoreError> {
        let (subject, day) = (subject.clone(), day.clone());
        self.run(move |file| page(file.connection(), &subject, &day, reading, after))
            .await
    }
}

impl StoreFile {
    fn settle_usage_key(&mut self, settled: &UsageSettlement) -> Result<(), StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        for operation in &settled.operations {
            let key = params![
                settled.party.as_str(),
                settled.account.as_str(),
                operation,
                settled.key.as_str(),
                to_sql(settled.decided_ms),
                to_sql(now_ms)
            ];
            change.execute(
                "UPDATE usage_call SET result = 3, learned = ?6
                WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND result IS NULL AND at <= ?5",
                key,
            )?;
            if settled.has_failed {
                change.execute(
                    "UPDATE usage_call SET failed = ?6
                    WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND result IN (1, 3)
                        AND failed IS NULL AND at <= ?5",
                    key,
                )?;
            }
        }
        committed(change, now_ms)?;
        Ok(())
    }

    fn flush_usage(&mut self, flush: &UsageFlush) -> Result<(), StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let known =
            "SELECT EXISTS (SELECT 1 FROM usage_writer WHERE instance = ?1 AND number >= ?2)";
        if change.query_row(known, [flush.instance, flush.number], |row| row.get(0))? {
            return Ok(());
        }
        change.execute(
            "INSERT OR REPLACE INTO usage_writer VALUES (?1, ?2, ?3, ?4)",
            params![flush.instance, flush.number, to_sql(now_ms), flush.is_last],
        )?;
        let date = day_of(&change, now_ms, &flush.day)?;
        for count in &flush.counts {
            let mut add = change.prepare_cached(
                "INSERT INTO usage_count VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                ON CONFLICT DO UPDATE SET calls = calls + excluded.calls",
            )?;
            add.execute(params![
                date,
                count.party.as_str(),
                count.account.as_str(),
                count.operation,
                count.outcome,
                to_sql(count.calls)
            ])?;
        }
        for second in &flush.seconds {
            let (party, account) = (second.party.as_str(), second.account.as_str());
            let mut add = change.prepare_cached(
                "INSERT INTO usage_second VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT DO UPDATE SET calls = calls + excluded.calls RETURNING calls",
            )?;
            let at = to_sql(second.second);
            let told = params![party, account, at, to_sql(second.calls)];
            let calls: i64 = add.query_row(told, |row| row.get(0))?;
            let mut most = change.prepare_cached(
                "INSERT INTO usage_peak VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT DO UPDATE SET second = excluded.second, calls = excluded.calls
                WHERE calls < excluded.calls",
            )?;
            most.execute(params![date, party, account, at, calls])?;
        }
        change.execute(
            "DELETE FROM usage_second WHERE second < ?1",
            [to_sql((now_ms / 1000).saturating_sub(SECONDS_KEPT))],
        )?;
        committed(change, now_ms)?;
        Ok(())
    }

    fn age_usage(&mut self) -> Result<(), StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        change.execute(
            "DELETE FROM usage_call WHERE print IN (SELECT print FROM usage_call WHERE at < ?1 LIMIT 10000)",
            [to_sql(now_ms.saturating_sub(KEPT_MS))],
        )?;
        committed(change, now_ms)?;
        Ok(())
    }
}

/// The date of the day of now, which begins if the last one has ended.
fn day_of(change: &Transaction<'_>, now_ms: u64, told: &DayBounds) -> Result<String, StoreError> {
    let last = "SELECT day, ends, date(day, '+1 day') FROM usage_day ORDER BY ends DESC LIMIT 1";
    let last = change.query_row(last, [], |row| {
        let ends: i64 = row.get(1)?;
        Ok((row.get(0)?, ends.unsigned_abs(), row.get(2)?))
    });
    let last: Option<(String, u64, String)> = last.optional()?;
    let (date, begins_ms) = match last {
        Some((date, ends_ms, _)) if ends_ms > now_ms => return Ok(date),
        Some((_, ends_ms, next)) => (next.max(told.date.clone()), told.begins_ms.max(ends_ms)),
        None => (told.date.clone(), told.begins_ms),
    };
    change.execute(
        "INSERT INTO usage_day VALUES (?1, ?2, ?3)",
        params![date, to_sql(begins_ms), to_sql(told.ends_ms)],
    )?;
    let forgotten = to_sql(now_ms.saturating_sub(KEPT_MS));
    change.execute("DELETE FROM usage_day WHERE ends < ?1", [forgotten])?;
    change.execute("DELETE FROM usage_writer WHERE flushed < ?1", [forgotten])?;
    for table in ["usage_count", "usage_peak"] {
        let statement = format!("DELETE FROM {table} WHERE day < (SELECT min(day) FROM usage_day)");
        change.execute(&statement, [])?;
    }
    Ok(date)
}

fn days(connection: &Connection) -> Result<Vec<DayBounds>, StoreError> {
    let mut days =
        connection.prepare_cached("SELECT day, begins, ends FROM usage_day ORDER BY begins")?;
    let days = days.query_map([], |row| {
        Ok(DayBounds {
            date: row.get(0)?,
            begins_ms: row.get::<_, i64>(1)?.unsigned_abs(),
            ends_ms: row.get::<_, i64>(2)?.unsigned_abs(),
        })
    })?;
    Ok(days.collect::<Result<_, _>>()?)
}

fn figures(file: &StoreFile, subject: &StatementSubject) -> Result<DayFigures, StoreError> {
    let connection = file.connection();
    let now_ms = file.now()?;
    let (party, account) = (
        subject.party.as_str(),
        subject.account.as_ref().map(StoredText::as_str),
    );
    let mut counts = connection.prepare_cached(
        "SELECT operation, outcome, sum(calls) FROM usage_count
        WHERE party = ?1 AND (?2 IS NULL OR account = ?2) AND day = ?3
        GROUP BY operation, outcome ORDER BY operation, outcome",
    )?;
    let counts = counts.query_map(params![party, account, subject.date], |row| {
        Ok(DayCount {
            operation: row.get(0)?,
            outcome: row.get(1)?,
            calls: row.get::<_, i64>(2)?.unsigned_abs(),
        })
    })?;
    let mut peak = connection.prepare_cached(
        "SELECT calls, second FROM usage_peak
        WHERE party = ?1 AND (?2 IS NULL OR account = ?2) AND day = ?3 ORDER BY calls DESC, second LIMIT 1",
    )?;
    let peak = peak.query_row(params![party, account, subject.date], |row| {
        let (calls, second): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok((calls.unsigned_abs(), second.unsigned_abs()))
    });
    let mut losses = connection.prepare_cached(
        "SELECT flushed FROM usage_writer, usage_day
        WHERE day = ?1 AND NOT ended AND flushed >= begins AND flushed < ends AND flushed < ?2 ORDER BY flushed",
    )?;
    let gone = to_sql(now_ms.saturating_sub(60_000));
    let losses = losses.query_map(params![subject.date, gone], |row| {
        Ok(row.get::<_, i64>(0)?.unsigned_abs())
    })?;
    Ok(DayFigures {
        now_ms,
        days: days(connection)?,
        counts: counts.collect::<Result<_, _>>()?,
        peak: peak.optional()?,
        losses_ms: losses.collect::<Result<_, _>>()?,
    })
}

const CALL: &str =
    "SELECT print, operation, key, once, parts, at, result, learned, failed FROM usage_call";

fn page(
    connection: &Connection,
    subject: &StatementSubject,
    day: &DayBounds,
    reading: CallReading,
    after: Option<PagePlace>,
) -> Result<CallPage, StoreError> {
    let (party, account) = (
        subject.party.as_str(),
        subject.account.as_ref().map(StoredText::as_str),
    );
    // The plus keeps the index of the order out: it has all that the party ever called.
    let (which, at) = match reading {
        CallReading::Admitted => ("at >= ?3 AND at < ?4", "at"),
        CallReading::Learned => (
            "(learned >= ?3 AND learned < ?4 OR failed >= ?3 AND failed < ?4)
                AND (+at < ?3 OR substr(key, 1, 1) <> char(31))",
            "+at",
        ),
    };
    let mut read = connection.prepare_cached(&format!(
        "{CALL} WHERE party = ?1 AND (?2 IS NULL OR account = ?2) AND {which}
            AND ({at}, print) > (?5, ?6) ORDER BY {at}, print LIMIT ?7"
    ))?;
    let (after_ms, after_stamp) =
        after.map_or((-1, Vec::new()), |(ms, stamp)| (to_sql(ms), stamp.to_vec()));
    let asked = params![
        party,
        account,
        to_sql(day.begins_ms),
        to_sql(day.ends_ms),
        after_ms,
        after_stamp,
        PAGE_CALLS
    ];
    let calls = calls(&mut read, asked)?;
    let mut group = connection.prepare_cached(&format!(
        "{CALL} WHERE party = ?1 AND (?2 IS NULL OR account = ?2) AND operation = ?3 AND key = ?4"
    ))?;
    let mut groups = KeyGroups::new();
    for call in calls.iter().filter(|call| !call.key.starts_with(NO_KEY)) {
        let name = (call.operation.clone(), call.key.clone());
        if let Entry::Vacant(group_of) = groups.entry(name) {
            let asked = params![party, account, call.operation, call.key];
            group_of.insert(self::calls(&mut group, asked)?);
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

fn calls(
    statement: &mut rusqlite::CachedStatement<'_>,
    asked: &[&dyn ToSql],
) -> Result<Vec<BookedCall>, StoreError> {
    let mut rows = statement.query(asked)?;
    let mut calls = Vec::new();
    while let Some(row) = rows.next()? {
        calls.push(call(row)?);
    }
    Ok(calls)
}

fn call(row: &Row<'_>) -> Result<BookedCall, StoreError> {
    let unexpected = |what: &str| StoreError::Unexpected(format!("{what} of a booked call"));
    let result: Option<i64> = row.get(6)?;
    let result = result.map(|it| LearnedResult::of(it).ok_or(unexpected("result")));
    let learned: Option<i64> = row.get(7)?;
    let parts: String = row.get(4)?;
    Ok(BookedCall {
        stamp: row.get(0)?,
        operation: row.get(1)?,
        key: row.get(2)?,
        is_once: row.get(3)?,
        amounts: amounts_of(&parts)?,
        at_ms: row.get::<_, i64>(5)?.unsigned_abs(),
        learned: result.transpose()?.zip(learned.map(i64::unsigned_abs)),
        failed_ms: row.get::<_, Option<i64>>(8)?.map(i64::unsigned_abs),
    })
}
