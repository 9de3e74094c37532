//! Statements in the file: booked calls and counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::ToSql;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Row, Transaction, params};

use super::SqliteStore;
use super::file::{StoreFile, committed, to_sql};
use crate::caps::spend::{SettledObject, UNKNOWN_AFTER_MS};
use crate::engine::statements::{
    CallPage, CallReading, DayFigures, MemberPlace, ObjectWord, PAGE_CALLS, PagePlace,
    StatementSubject,
};
use crate::error::StoreError;
use crate::statement::account_book::{
    BookedCall, KeyHead, KeyHeads, LearnedResult, ObjectFailure, UnknownCall, amounts_of,
};
use crate::statement::daily_statement::{DayCount, HeadsByKey, KeyName};
use crate::statement::usage_flush::{DayBounds, KEPT_MS, SECONDS_KEPT, UsageFlush};
use crate::stored_text::StoredText;

impl SqliteStore {
    pub(crate) async fn flush_usage(&self, flush: &UsageFlush) -> Result<(), StoreError> {
        let flush = flush.clone();
        self.run(move |file| file.flush_usage(&flush)).await
    }

    pub(crate) async fn settle_usage(&self, word: &ObjectWord) -> Result<bool, StoreError> {
        let word = word.clone();
        self.run(move |file| file.settle_usage_key(&word)).await
    }

    pub(crate) async fn age_usage(&self) -> Result<(), StoreError> {
        self.run(StoreFile::age_usage).await
    }

    pub(crate) async fn usage_losses(&self, within_ms: u64) -> Result<u64, StoreError> {
        self.run(move |file| {
            let now_ms = file.now()?;
            let lost = "SELECT count(*) FROM usage_writer WHERE NOT ended AND flushed < ?1 AND flushed >= ?2";
            let times = [60_000, within_ms].map(|ms| to_sql(now_ms.saturating_sub(ms)));
            let lost: i64 = file
                .connection()
                .query_row(lost, times, |row| row.get(0))?;
            Ok(lost.unsigned_abs())
        })
        .await
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

    pub(crate) async fn key_heads(
        &self,
        party: &StoredText,
        names: &BTreeMap<KeyName, bool>,
        before_ms: u64,
    ) -> Result<HeadsByKey, StoreError> {
        let (party, names) = (party.clone(), names.clone());
        self.run(move |file| {
            let mut heads = HeadsByKey::new();
            for (name, is_each) in names {
                let of_key = key_heads(file.connection(), &party, &name, is_each, before_ms)?;
                heads.insert(name, of_key);
            }
            Ok(heads)
        })
        .await
    }

    pub(crate) async fn key_members(
        &self,
        party: &StoredText,
        names: &[KeyName],
        (before_ms, after, most): MemberPlace,
    ) -> Result<Vec<BookedCall>, StoreError> {
        let (party, names) = (party.clone(), names.to_vec());
        self.run(move |file| {
            let mut read = file.connection().prepare_cached(MEMBERS)?;
            let mut members = Vec::new();
            for name in &names {
                let asked = params![
                    party.as_str(),
                    name.account,
                    name.operation,
                    name.key,
                    to_sql(before_ms),
                    after,
                    most
                ];
                members.extend(calls(&mut read, asked)?);
            }
            Ok(members)
        })
        .await
    }

    pub(crate) async fn unknown_calls(
        &self,
        operations: &[&str],
        most: u32,
    ) -> Result<Vec<UnknownCall>, StoreError> {
        let operations: BTreeSet<String> = operations.iter().map(ToString::to_string).collect();
        self.run(move |file| unknown_calls(file, &operations, most))
            .await
    }
}

impl StoreFile {
    fn settle_usage_key(&mut self, word: &ObjectWord) -> Result<bool, StoreError> {
        let now_ms = self.now()?;
        let change = self.begin()?;
        let ObjectWord {
            object, operations, ..
        } = word;
        let failed = if object.stands {
            None
        } else {
            let Some(maker) = only_maker(&change, word)? else {
                return Ok(false);
            };
            Some(maker)
        };
        let mut is_other = false;
        for operation in operations {
            let key = params![
                object.party.as_str(),
                object.account.as_str(),
                operation,
                object.key.as_str(),
                to_sql(object.decided_ms),
                to_sql(now_ms)
            ];
            if object.stands && !object.amounts.is_empty() {
                is_other |= settle_by_amounts(&change, (word, operation), now_ms)?;
                continue;
            }
            change.execute(
                "UPDATE usage_call SET result = 3, learned = ?6
                WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND result IS NULL AND at <= ?5
                    AND once",
                key,
            )?;
            // Where each call may be one of its own, the word is about one of them: the oldest, if none is known yet.
            change.execute(
                "UPDATE usage_call SET result = 3, learned = ?6 WHERE print = (
                    SELECT print FROM usage_call
                    WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND result IS NULL AND at <= ?5
                        AND NOT once AND NOT EXISTS (SELECT 1 FROM usage_call AS k
                            WHERE k.party = ?1 AND k.account = ?2 AND k.operation = ?3 AND k.key = ?4
                                AND k.result IN (1, 3) AND k.own_result IS NOT 0)
                    ORDER BY at, print LIMIT 1)",
                key,
            )?;
            if failed.as_ref() == Some(operation) {
                change.execute(
                    "UPDATE usage_call SET failed = ?6, failed_by = ?5
                    WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND result IN (1, 3) AND at <= ?5",
                    key,
                )?;
            }
        }
        committed(change, now_ms)?;
        Ok(is_other)
    }

    fn flush_usage(&mut self, flush: &UsageFlush) -> Result<(), StoreError> {
        let (now_ms, deleting_ms) = (self.now()?, self.deleting()?);
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
        let date = day_of(&change, (now_ms, deleting_ms), &flush.days)?;
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
        let (now_ms, deleting_ms) = (self.now()?, self.deleting()?);
        let change = self.begin()?;
        change.execute(
            "DELETE FROM usage_call WHERE print IN (SELECT print FROM usage_call WHERE at < ?1 LIMIT 10000)",
            [to_sql(deleting_ms.saturating_sub(KEPT_MS))],
        )?;
        // Deletes counts of old days, a limited number each time, since no call is admitted meanwhile.
        for (table, key) in [
            ("usage_count", "party, account, day, operation, outcome"),
            ("usage_peak", "party, account, day"),
        ] {
            let statement = format!(
                "DELETE FROM {table} WHERE ({key}) IN (
                    SELECT {key} FROM {table} WHERE day < (SELECT min(day) FROM usage_day) LIMIT 10000)"
            );
            change.execute(&statement, [])?;
        }
        committed(change, now_ms)?;
        Ok(())
    }
}

/// Settles the calls to an operation under the key of an object that stands, with the amounts that GatePay states. Returns whether
/// one stays unknown because it asked for others, and none is known that asked for these.
fn settle_by_amounts(
    change: &Transaction<'_>,
    (word, operation): (&ObjectWord, &str),
    now_ms: u64,
) -> Result<bool, StoreError> {
    let object = &word.object;
    let under_key = calls_under(change, object, operation)?;
    let is_covered = |call: &&BookedCall| call.at_ms <= object.decided_ms;
    let asked_for = |call: &BookedCall| call.asked_for(&object.amounts, word.is_whole);
    let is_known = |call: &BookedCall| match call.own_end.or(call.learned) {
        Some((LearnedResult::Accepted | LearnedResult::Found, _)) => true,
        Some((LearnedResult::Refused, _)) | None => false,
    };
    let set = |statement: &str, result: i64, call: &BookedCall| {
        let mut set = change.prepare_cached(statement)?;
        set.execute(params![result, to_sql(now_ms), call.stamp])?;
        Ok::<_, StoreError>(())
    };
    let open = || {
        under_key
            .iter()
            .filter(is_covered)
            .filter(|call| call.learned.is_none())
    };
    // As if GatePay had accepted these calls by its own answer: of the calls under the key they come first.
    let mut has_maker = under_key
        .iter()
        .any(|call| is_known(call) && asked_for(call) == Some(true));
    for call in under_key.iter().filter(is_covered) {
        if call.is_found_repetition() && call.own_end.is_none() && asked_for(call) == Some(true) {
            set(OWN_END, 1, call)?;
        }
    }
    for call in open().filter(|call| call.is_once && asked_for(call) == Some(true)) {
        set(RESULT, 1, call)?;
        has_maker = true;
    }
    let mut is_other = false;
    for call in open().filter(|call| call.is_once) {
        match asked_for(call) {
            Some(true) => {}
            Some(false) if !has_maker => is_other = true,
            Some(false) | None => set(RESULT, 3, call)?,
        }
    }
    // Where each call may be one of its own, the word is about one of them: the oldest, if none is known yet.
    let each = open().filter(|call| !call.is_once && asked_for(call) != Some(false));
    let oldest = each.min_by_key(|call| (call.at_ms, call.stamp));
    if let Some(oldest) = oldest.filter(|_| !under_key.iter().any(is_known)) {
        set(RESULT, 3, oldest)?;
    }
    Ok(is_other)
}

const RESULT: &str = "UPDATE usage_call SET result = ?1, learned = ?2 WHERE print = ?3";
const OWN_END: &str = "UPDATE usage_call SET own_result = ?1, own_learned = ?2 WHERE print = ?3";

/// The booked calls to an operation under the key of an object.
fn calls_under(
    change: &Transaction<'_>,
    object: &SettledObject,
    operation: &str,
) -> Result<Vec<BookedCall>, StoreError> {
    let mut read = change.prepare_cached(&format!(
        "{CALL} WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4"
    ))?;
    let (party, account) = (object.party.as_str(), object.account.as_str());
    calls(
        &mut read,
        params![party, account, operation, object.key.as_str()],
    )
}

/// The operation whose object has failed; `None` if that is not certain: GatePay may keep an object of each operation that has
/// calls under the key, and told about one of them. A failure counts once: a late copy must not undo a later call.
fn only_maker(change: &Transaction<'_>, word: &ObjectWord) -> Result<Option<String>, StoreError> {
    let object = &word.object;
    let mut under_key = Vec::new();
    for operation in &word.operations {
        under_key.extend(calls_under(change, object, operation)?);
    }
    let is_refused_first = |call: &BookedCall| {
        let first = call.learned.map(|(result, _)| result);
        first == Some(LearnedResult::Refused)
    };
    under_key.retain(|call| !is_refused_first(call));
    let is_refused = |call: &BookedCall| {
        let own = call.own_end.map(|(result, _)| result);
        own == Some(LearnedResult::Refused)
    };
    let standing = under_key.iter().filter(|call| !is_refused(call));
    let makers: BTreeSet<&str> = standing.map(|call| call.operation.as_str()).collect();
    let Some(maker) = makers.first().filter(|_| makers.len() == 1) else {
        return Ok(None);
    };
    let states = |call: &BookedCall| {
        object.amounts.is_empty() || call.asked_for(&object.amounts, word.is_whole) == Some(true)
    };
    let mut of_maker = under_key.iter().filter(|call| call.operation == *maker);
    let is_certain = of_maker.all(|call| {
        let is_covered = call.at_ms <= object.decided_ms;
        call.failure.is_none() && (!is_covered || call.is_once && states(call))
    });
    Ok(is_certain.then(|| (*maker).to_owned()))
}

/// The date of the present day. If the last day has ended, the first day of `told` with a later date begins.
fn day_of(
    change: &Transaction<'_>,
    (now_ms, deleting_ms): (u64, u64),
    told: &[DayBounds],
) -> Result<String, StoreError> {
    let last = "SELECT day, ends FROM usage_day ORDER BY ends DESC LIMIT 1";
    let last = change.query_row(last, [], |row| {
        let ends: i64 = row.get(1)?;
        Ok((row.get(0)?, ends.unsigned_abs()))
    });
    let last: Option<(String, u64)> = last.optional()?;
    if let Some((date, ends_ms)) = &last
        && *ends_ms > now_ms
    {
        return Ok(date.clone());
    }
    let is_later = |day: &&DayBounds| last.as_ref().is_none_or(|(date, _)| day.date > *date);
    let mut days = told.iter().filter(|day| day.ends_ms > now_ms);
    let (Some(today), Some(next)) = (told.first(), days.find(is_later)) else {
        let (date, _) =
            last.ok_or_else(|| StoreError::Unexpected("a flush without a day".into()))?;
        return Ok(date);
    };
    // The time since the last day belongs to the new day if calls were admitted in it, and otherwise to no day.
    let begins_ms = match last {
        Some((_, ends_ms)) => {
            let admitted = "SELECT EXISTS (SELECT 1 FROM usage_call WHERE at >= ?1 AND at < ?2)";
            let between = [to_sql(ends_ms), to_sql(today.begins_ms)];
            let was_used: bool = change.query_row(admitted, between, |row| row.get(0))?;
            if was_used {
                ends_ms
            } else {
                ends_ms.max(today.begins_ms)
            }
        }
        None => today.begins_ms,
    };
    let date = next.date.clone();
    change.execute(
        "INSERT INTO usage_day VALUES (?1, ?2, ?3)",
        params![date, to_sql(begins_ms), to_sql(next.ends_ms)],
    )?;
    let forgotten = to_sql(deleting_ms.saturating_sub(KEPT_MS));
    change.execute("DELETE FROM usage_day WHERE ends < ?1", [forgotten])?;
    change.execute("DELETE FROM usage_writer WHERE flushed < ?1", [forgotten])?;
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

const CALL: &str = "SELECT print, account, operation, key, once, parts, at, result, learned, own_result, own_learned,
        failed, failed_by FROM usage_call";
const UNKNOWN_PAIR: &str = "SELECT party, operation FROM usage_call
    WHERE result IS NULL AND substr(key, 1, 1) <> char(31) AND (party, operation) > (?1, ?2)
    ORDER BY party, operation LIMIT 1";
const UNKNOWN: &str = "SELECT at, account, key, print FROM usage_call
    WHERE result IS NULL AND substr(key, 1, 1) <> char(31) AND party = ?1 AND operation = ?2 AND at < ?3
    ORDER BY at DESC LIMIT ?4";
const MEMBERS: &str = "SELECT print, account, operation, key, once, parts, at, result, learned, own_result, own_learned,
        failed, failed_by FROM usage_call
    WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND at < ?5 AND print > ?6 ORDER BY print LIMIT ?7";

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
    let mut read = connection.prepare_cached(&page_of(reading))?;
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
    Ok(reading.page(calls(&mut read, asked)?))
}

fn page_of(reading: CallReading) -> String {
    let time = match reading {
        CallReading::Admitted => "at",
        CallReading::Learned => "learned",
        CallReading::OwnEnd => "own_learned",
        CallReading::Failed => "failed",
    };
    format!(
        "{CALL} WHERE party = ?1 AND (?2 IS NULL OR account = ?2) AND {time} >= ?3 AND {time} < ?4
            AND ({time}, print) > (?5, ?6) ORDER BY {time}, print LIMIT ?7"
    )
}

/// The first call under a key with a result, among those that a condition selects. In the index `result` comes before the time,
/// so that each result has an order of its own.
fn head_of(which: &str) -> String {
    format!(
        "{CALL} WHERE party = ?1 AND account = ?2 AND operation = ?3 AND key = ?4 AND learned < ?5 AND {which}
            AND +at > ?6 ORDER BY learned, print LIMIT 1"
    )
}

/// The first call of another party for the same sub-account under a key, of which it was learned before a call of the party's that
/// GatePay has its object. What was learned later about it is left out. The party's own calls, of which there may be any
/// number, are not read.
const ELSEWHERE: &str = "SELECT print, account, operation, key, once, parts, at, result, learned, own_result, own_learned,
        failed, failed_by FROM (
    SELECT * FROM usage_call WHERE account = ?2 AND operation = ?3 AND key = ?4 AND party < ?1
    UNION ALL
    SELECT * FROM usage_call WHERE account = ?2 AND operation = ?3 AND key = ?4 AND party > ?1
) WHERE result IN (1, 3) AND once AND (learned, print) < (?5, ?6) AND (own_result = 0 AND own_learned < ?5) IS NOT 1
ORDER BY learned, print LIMIT 1";
const ACCEPTED: &str = "result = 1";
/// GatePay has the object, and the call's own end does not say that it is another call's.
const FOUND: &str = "result = 3 AND (own_result = 0 AND own_learned < ?5) IS NOT 1";
const ACCEPTED_LATER: &str = "result = 3 AND own_result = 1 AND own_learned < ?5";

/// The calls under a key that decide how all others stand before a time. Each is found in the order of an index.
fn key_heads(
    connection: &Connection,
    party: &StoredText,
    name: &KeyName,
    is_each: bool,
    before_ms: u64,
) -> Result<KeyHeads, StoreError> {
    let first_of = |which: &str, from_ms: i64| {
        let mut read = connection.prepare_cached(&head_of(which))?;
        let asked = params![
            party.as_str(),
            name.account,
            name.operation,
            name.key,
            to_sql(before_ms),
            from_ms
        ];
        let found = calls(&mut read, asked)?.into_iter().next();
        Ok::<_, StoreError>(found)
    };
    let known = |from_ms| {
        let accepted = first_of(ACCEPTED, from_ms)?;
        let found = first_of(FOUND, from_ms)?;
        let place = |call: &BookedCall| (call.learned.map(|(_, ms)| ms), call.stamp);
        let both = accepted.into_iter().chain(found);
        Ok::<_, StoreError>(both.min_by_key(place))
    };
    let first_accepted = |from_ms| {
        let accepted = first_of(ACCEPTED, from_ms)?;
        let own = first_of(ACCEPTED_LATER, from_ms)?;
        let place = |call: &BookedCall| (call.learned.map(|(_, ms)| ms), call.stamp);
        Ok::<_, StoreError>(accepted.into_iter().chain(own).min_by_key(place))
    };
    // The call that counts. Where all calls under the key are one, GatePay's own answer tells whose the object is.
    let counting = |from_ms| {
        let Some(known) = known(from_ms)? else {
            return Ok::<_, StoreError>(None);
        };
        let accepted = if known.is_found_repetition() {
            first_accepted(from_ms)?
        } else {
            None
        };
        Ok(Some(known.or_accepted(accepted, before_ms)))
    };
    let head = |call: &BookedCall| KeyHead::of(call, before_ms);
    let Some(first) = counting(-1)? else {
        return Ok(KeyHeads::default());
    };
    let (accepted, elsewhere) = if is_each {
        (first_accepted(-1)?, None)
    } else {
        (None, first_elsewhere(connection, party, name, &first)?)
    };
    // Of the object that both have under the key.
    let of_other = elsewhere.as_ref().map(head);
    let failure = head(&first).failure.or(of_other.and_then(|it| it.failure));
    let next = match failure {
        Some(failure) => counting(to_sql(failure.decided_ms))?,
        None => None,
    };
    Ok(KeyHeads {
        first: Some(head(&first)),
        next: next.as_ref().map(head),
        accepted: accepted.as_ref().map(head),
        elsewhere: elsewhere.as_ref().map(head),
    })
}

/// The call of another party that made the object before a party's first call under a key, if there is one.
fn first_elsewhere(
    connection: &Connection,
    party: &StoredText,
    name: &KeyName,
    first: &BookedCall,
) -> Result<Option<BookedCall>, StoreError> {
    let mut read = connection.prepare_cached(ELSEWHERE)?;
    let learned_ms = first.learned.map(|(_, ms)| to_sql(ms));
    let asked = params![
        party.as_str(),
        name.account,
        name.operation,
        name.key,
        learned_ms,
        first.stamp
    ];
    Ok(calls(&mut read, asked)?.into_iter().next())
}

/// Calls by their time and their stamp.
type NewestFirst = BTreeMap<(Reverse<u64>, Vec<u8>), UnknownCall>;

/// The newest of each party first, then the second newest of each. Of no party and operation more are read than are told.
fn unknown_calls(
    file: &StoreFile,
    operations: &BTreeSet<String>,
    most: u32,
) -> Result<Vec<UnknownCall>, StoreError> {
    let mut next_pair = file.connection().prepare_cached(UNKNOWN_PAIR)?;
    let mut newest = file.connection().prepare_cached(UNKNOWN)?;
    let before = to_sql(file.now()?.saturating_sub(UNKNOWN_AFTER_MS));
    let text = |text: &str| {
        let stored = StoredText::parse(text);
        stored.ok_or_else(|| StoreError::Unexpected("a text of a booked call".to_owned()))
    };
    let mut parties: BTreeMap<String, NewestFirst> = BTreeMap::new();
    let mut pair = (String::new(), String::new());
    loop {
        let found = next_pair.query_row([&pair.0, &pair.1], |row| Ok((row.get(0)?, row.get(1)?)));
        let Some(found) = found.optional()? else {
            break;
        };
        pair = found;
        let (party, operation) = &pair;
        if !operations.contains(operation) {
            continue;
        }
        let of_party = parties.entry(party.clone()).or_default();
        let mut rows = newest.query(params![party, operation, before, most])?;
        while let Some(row) = rows.next()? {
            let at_ms = row.get::<_, i64>(0)?.unsigned_abs();
            let call = UnknownCall {
                at_ms,
                party: text(party)?,
                account: text(&row.get::<_, String>(1)?)?,
                operation: operation.clone(),
                key: text(&row.get::<_, String>(2)?)?,
            };
            of_party.insert((Reverse(at_ms), row.get(3)?), call);
        }
    }
    let of_parties = parties.into_values();
    let mut ranked: Vec<_> = of_parties
        .flat_map(|calls| calls.into_values().enumerate())
        .collect();
    // Stable: of one place and time in the order of the parties.
    ranked.sort_by_key(|(place, call)| (*place, Reverse(call.at_ms)));
    ranked.truncate(most as usize);
    Ok(ranked.into_iter().map(|(_, call)| call).collect())
}

fn calls(
    statement: &mut CachedStatement<'_>,
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
    let end = |at: usize| {
        let result: Option<i64> = row.get(at)?;
        let result = result.map(|it| LearnedResult::of(it).ok_or(unexpected("result")));
        let learned: Option<i64> = row.get(at + 1)?;
        Ok::<_, StoreError>(result.transpose()?.zip(learned.map(i64::unsigned_abs)))
    };
    let parts: String = row.get(5)?;
    let failed: Option<i64> = row.get(11)?;
    let failed_by: Option<i64> = row.get(12)?;
    Ok(BookedCall {
        stamp: row.get(0)?,
        account: row.get(1)?,
        operation: row.get(2)?,
        key: row.get(3)?,
        is_once: row.get(4)?,
        amounts: amounts_of(&parts)?,
        at_ms: row.get::<_, i64>(6)?.unsigned_abs(),
        learned: end(7)?,
        own_end: end(9)?,
        failure: failed
            .zip(failed_by)
            .map(|(learned, decided)| ObjectFailure {
                learned_ms: learned.unsigned_abs(),
                decided_ms: decided.unsigned_abs(),
            }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_statement_are_read_in_the_order_of_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        let schema = include_str!("../../sql/sqlite_0001.sql");
        connection.execute_batch(schema).unwrap();
        for (statement, index) in [
            (page_of(CallReading::Admitted), "usage_call_at"),
            (page_of(CallReading::Learned), "usage_call_learned"),
            (page_of(CallReading::OwnEnd), "usage_call_own"),
            (page_of(CallReading::Failed), "usage_call_failed"),
            (head_of(ACCEPTED), "usage_call_key"),
            (head_of(FOUND), "usage_call_key"),
            (head_of(ACCEPTED_LATER), "usage_call_key"),
            (UNKNOWN_PAIR.to_owned(), "usage_call_unknown"),
            (
                UNKNOWN.to_owned(),
                "usage_call_unknown (party=? AND operation=? AND at<?)",
            ),
        ] {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
                .unwrap();
            let any = rusqlite::params_from_iter(std::iter::repeat_n("x", plan.parameter_count()));
            let steps = plan.query_map(any, |row| row.get::<_, String>(3)).unwrap();
            let steps: Vec<String> = steps.map(Result::unwrap).collect();
            let [step] = &steps[..] else {
                panic!("{statement}: {steps:?}");
            };
            assert!(step.contains(index), "{statement}: {step}");
        }
        let mut plan = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {ELSEWHERE}"))
            .unwrap();
        let steps = plan.query_map(["x"; 6], |row| row.get::<_, String>(3));
        let steps: Vec<String> = steps.unwrap().map(Result::unwrap).collect();
        for range in ["party<?", "party>?"] {
            let key = "usage_call_key (account=? AND operation=? AND key=? AND ";
            let found = steps
                .iter()
                .any(|it| it.contains(&format!("{key}{range})")));
            assert!(found, "{range}: {steps:?}");
        }
    }
}
