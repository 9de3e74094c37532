//! The search for one id.

use std::collections::BTreeSet;

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use rusqlite::{Connection, params};

use super::super::SqliteStore;
use super::lists::{SUMMARY, attempts, summary};
use crate::error::StoreError;
use crate::found::{EventSearch, FoundOpenCall, FoundSpend, MOST_FOUND, SpendSearch, refunds_of};
use crate::notifications::ledger::TenantAccount;
use crate::notifications::listing::{AttemptRow, EventSummary};

const OBJECT: &str = "SELECT object FROM event WHERE id = ?1";
const HINTED: &str = "SELECT e.object FROM hint AS h JOIN event AS e ON e.id = h.event
    WHERE h.kind = ?1 AND h.key = ?2 ORDER BY h.event LIMIT ?3";
const OPEN_BY_ID: &str =
    "SELECT call, tenant, account, operation, at FROM open_call WHERE call = ?1";
const OPEN_BY_KEY: &str =
    "SELECT call, tenant, account, operation, at FROM open_call WHERE kind = ?1 AND key = ?2";
const REFUNDS_OF_ORDER: &str = "SELECT DISTINCT key FROM owner
    WHERE kind = 'prepayId+refundRequestId' AND key > ?1 AND key < ?2 ORDER BY key LIMIT ?3";
const REFUNDS_BY_NUMBER: &str = "SELECT DISTINCT key FROM owner
    WHERE kind = 'prepayId+refundRequestId' AND substr(key, instr(key, ' ') + 1) = ?1 ORDER BY key LIMIT ?2";
const SPENDS: &str = "SELECT s.currency, s.amount, s.at, s.executed,
        (SELECT count(*) FROM spend_attempt AS a WHERE a.party = s.party AND a.account = s.account
            AND a.counted_as = s.counted_as AND a.key = s.key)
    FROM spend AS s WHERE s.party = ?1 AND s.account = ?2 AND s.counted_as = ?3 AND s.key = ?4";

fn of_object() -> String {
    format!("{SUMMARY} FROM event AS e WHERE e.object = ?1 ORDER BY e.id LIMIT {MOST_FOUND}")
}

impl SqliteStore {
    pub(crate) async fn find_events(
        &self,
        search: &EventSearch,
    ) -> Result<Vec<(EventSummary, Vec<AttemptRow>)>, StoreError> {
        let search = search.clone();
        self.run(move |file| events(file.connection(), &search))
            .await
    }

    pub(crate) async fn find_open_calls(
        &self,
        search: &EventSearch,
    ) -> Result<Vec<FoundOpenCall>, StoreError> {
        let search = search.clone();
        self.run(move |file| open_calls(file.connection(), &search))
            .await
    }

    pub(crate) async fn find_refunds(&self, text: &str) -> Result<Vec<LedgerKey>, StoreError> {
        let text = text.to_owned();
        self.run(move |file| refunds(file.connection(), &text))
            .await
    }

    pub(crate) async fn find_spends(
        &self,
        search: &SpendSearch,
    ) -> Result<Vec<FoundSpend>, StoreError> {
        let search = search.clone();
        self.run(move |file| spends(file.connection(), &search))
            .await
    }
}

fn events(
    connection: &Connection,
    search: &EventSearch,
) -> Result<Vec<(EventSummary, Vec<AttemptRow>)>, StoreError> {
    let mut objects = BTreeSet::from([search.text.clone()]);
    for id in &search.events {
        let mut named = connection.prepare_cached(OBJECT)?;
        let named = named.query_map([id.0.as_bytes()], |row| row.get(0))?;
        objects.extend(named.collect::<Result<Vec<String>, _>>()?);
    }
    for key in &search.keys {
        let mut hinted = connection.prepare_cached(HINTED)?;
        let named = params![key.kind().as_str(), key.text(), MOST_FOUND];
        let hinted = hinted.query_map(named, |row| row.get(0))?;
        objects.extend(hinted.collect::<Result<Vec<String>, _>>()?);
    }
    let of_object = of_object();
    let mut events = Vec::new();
    for object in &objects {
        let mut of_object = connection.prepare_cached(&of_object)?;
        let found = of_object.query_map([object], summary)?;
        events.extend(found.collect::<Result<Vec<_>, _>>()?);
    }
    events.sort_by_key(|event: &EventSummary| event.id);
    events.truncate(MOST_FOUND as usize);
    let with_attempts = events.into_iter().map(|event| {
        let attempts = attempts(connection, event.id)?;
        Ok((event, attempts))
    });
    with_attempts.collect()
}

fn open_calls(
    connection: &Connection,
    search: &EventSearch,
) -> Result<Vec<FoundOpenCall>, StoreError> {
    let call = |row: &rusqlite::Row<'_>| {
        Ok(FoundOpenCall {
            call: row.get(0)?,
            holder: TenantAccount {
                tenant: row.get(1)?,
                account: row.get(2)?,
            },
            operation: row.get(3)?,
            since_ms: row.get::<_, i64>(4)?.unsigned_abs(),
        })
    };
    let mut by_call = connection.prepare_cached(OPEN_BY_ID)?;
    let found = by_call.query_map([&search.text], call)?;
    let mut calls = found.collect::<Result<Vec<_>, _>>()?;
    for key in &search.keys {
        let mut by_key = connection.prepare_cached(OPEN_BY_KEY)?;
        let found = by_key.query_map([key.kind().as_str(), key.text()], call)?;
        calls.extend(found.collect::<Result<Vec<_>, _>>()?);
    }
    calls.sort_by(|one, other| (one.since_ms, &one.call).cmp(&(other.since_ms, &other.call)));
    // A call has a row for each of its keys.
    calls.dedup();
    calls.truncate(MOST_FOUND as usize);
    Ok(calls)
}

/// The keys of refunds of the order with this id, and under this number.
fn refunds(connection: &Connection, text: &str) -> Result<Vec<LedgerKey>, StoreError> {
    let (after, before) = refunds_of(text);
    let mut of_order = connection.prepare_cached(REFUNDS_OF_ORDER)?;
    let mut by_number = connection.prepare_cached(REFUNDS_BY_NUMBER)?;
    let key = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
    let of_order = of_order.query_map(params![after, before, MOST_FOUND], key)?;
    let by_number = by_number.query_map(params![text, MOST_FOUND], key)?;
    let keys: BTreeSet<String> = of_order.chain(by_number).collect::<Result<_, _>>()?;
    let keys = keys.into_iter().map(|key| {
        let unexpected = || StoreError::Unexpected("the key of a refund".to_owned());
        LedgerKey::new(LedgerKeyKind::OrderRefund, key).ok_or_else(unexpected)
    });
    keys.collect()
}

fn spends(connection: &Connection, search: &SpendSearch) -> Result<Vec<FoundSpend>, StoreError> {
    let mut spends = Vec::new();
    for (holder, key) in &search.keys {
        for counted_as in &search.counted_as {
            let mut of_key = connection.prepare_cached(SPENDS)?;
            let names = params![holder.tenant, holder.account, counted_as, key];
            let found = of_key.query_map(names, |row| {
                Ok(FoundSpend {
                    holder: holder.clone(),
                    counted_as: counted_as.clone(),
                    key: key.clone(),
                    currency: row.get(0)?,
                    amount: row.get(1)?,
                    at_ms: row.get::<_, i64>(2)?.unsigned_abs(),
                    executed_ms: row.get::<_, Option<i64>>(3)?.map(i64::unsigned_abs),
                    open_attempts: row.get::<_, i64>(4)?.unsigned_abs(),
                })
            })?;
            spends.extend(found.collect::<Result<Vec<_>, _>>()?);
        }
    }
    spends.sort_by_key(|spend: &FoundSpend| spend.at_ms);
    Ok(spends)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::OWNERS;
    use super::super::lists::ATTEMPTS;
    use super::*;

    #[test]
    fn no_search_for_an_id_scans_a_table() {
        let connection = Connection::open_in_memory().unwrap();
        let schema = include_str!("../../../sql/sqlite_0001.sql");
        connection.execute_batch(schema).unwrap();
        let of_object = of_object();
        for statement in [
            OWNERS,
            OBJECT,
            HINTED,
            &of_object,
            ATTEMPTS,
            OPEN_BY_ID,
            OPEN_BY_KEY,
            REFUNDS_OF_ORDER,
            REFUNDS_BY_NUMBER,
            SPENDS,
        ] {
            let mut plan = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
                .unwrap();
            let any = rusqlite::params_from_iter(std::iter::repeat_n("x", plan.parameter_count()));
            let steps = plan.query_map(any, |row| row.get::<_, String>(3)).unwrap();
            let steps: Vec<String> = steps.map(Result::unwrap).collect();
            assert!(
                !steps.iter().any(|step| step.starts_with("SCAN")),
                "{statement}: {steps:?}"
            );
            // All refunds have one kind, so that the kind alone narrows nothing.
            let narrow = match statement {
                REFUNDS_OF_ORDER => "key>? AND key<?",
                REFUNDS_BY_NUMBER => "owner_refund_number",
                _ => "",
            };
            assert!(steps[0].contains(narrow), "{statement}: {steps:?}");
        }
    }
}
