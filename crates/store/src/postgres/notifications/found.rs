//! The search for one id.

use gatepay_core::ledger_key::{LedgerKey, LedgerKeyKind};
use tokio_postgres::Row;

use super::super::PostgresStore;
use super::super::admit::cell;
use super::lists::{SUMMARIES_OF_OBJECTS, summary};
use super::{unexpected, unsigned};
use crate::error::StoreError;
use crate::found::{EventSearch, FoundOpenCall, FoundSpend, MOST_FOUND, SpendSearch, refunds_of};
use crate::notifications::ledger::TenantAccount;
use crate::notifications::listing::{AttemptRow, EventSummary};

/// The objects that an id leads to. Each branch has an index.
const OBJECTS: &str = "SELECT $1::text AS object
    UNION SELECT e.object FROM unnest($2::text[]) AS i(id) JOIN gatepay.event AS e ON e.id = i.id::uuid
    UNION SELECT e.object FROM unnest($3::text[], $4::text[]) AS k(kind, key)
        CROSS JOIN LATERAL (SELECT h.event FROM gatepay.hint AS h
            WHERE h.kind = k.kind AND h.key = k.key ORDER BY h.event LIMIT $5) AS h
        JOIN gatepay.event AS e ON e.id = h.event";
/// The open calls with a request id, or with one of the keys, each of which is sought by itself however many there are.
const OPEN: &str = "SELECT c.call, c.tenant, c.account, c.operation, c.at FROM gatepay.open_call AS c WHERE c.call = $1
    UNION SELECT c.call, c.tenant, c.account, c.operation, c.at FROM unnest($2::text[], $3::text[]) AS k(kind, key)
        CROSS JOIN LATERAL (SELECT * FROM gatepay.open_call AS c WHERE c.kind = k.kind AND c.key = k.key
            ORDER BY c.tenant, c.account, c.call LIMIT $4) AS c
    ORDER BY at, call LIMIT $4";
/// The refunds of an order, whose keys lie between two texts, or under a number. Each branch has an index.
const REFUNDS: &str = "(SELECT DISTINCT o.key COLLATE \"C\" AS key FROM gatepay.owner AS o
        WHERE o.kind = 'prepayId+refundRequestId' AND o.key COLLATE \"C\" > $2 AND o.key COLLATE \"C\" < $3 ORDER BY 1 LIMIT $4)
    UNION (SELECT DISTINCT o.key COLLATE \"C\" FROM gatepay.owner AS o
        WHERE o.kind = 'prepayId+refundRequestId' AND substr(o.key, strpos(o.key, ' ') + 1) = $1 ORDER BY 1 LIMIT $4)";
/// The spends under these keys, each of its party and sought by itself.
const SPENDS: &str = "SELECT s.party AS tenant, s.account, s.counted_as, s.key, s.currency, s.amount::text AS amount, s.at, s.executed,
        (SELECT count(*) FROM gatepay.spend_attempt AS a WHERE a.party = s.party AND a.account = s.account
            AND a.counted_as = s.counted_as AND a.key = s.key) AS open
    FROM unnest($1::text[], $2::text[], $4::text[]) AS h(party, account, key)
    CROSS JOIN unnest($3::text[]) AS n(counted_as)
    CROSS JOIN LATERAL (SELECT * FROM gatepay.spend AS s WHERE s.party = h.party AND s.account = h.account
        AND s.counted_as = n.counted_as AND s.key = h.key OFFSET 0) AS s
    ORDER BY s.at, s.party COLLATE \"C\", s.account COLLATE \"C\", s.counted_as COLLATE \"C\", s.key COLLATE \"C\",
        s.currency COLLATE \"C\"";

impl PostgresStore {
    pub(crate) async fn find_events(
        &self,
        search: &EventSearch,
    ) -> Result<Vec<(EventSummary, Vec<AttemptRow>)>, StoreError> {
        let ids: Vec<String> = search.events.iter().map(ToString::to_string).collect();
        let (kinds, keys) = words(search);
        let line = &self.notifications.lists;
        let most = i64::from(MOST_FOUND);
        let rows = self
            .run_on(line, OBJECTS, &[&search.text, &ids, &kinds, &keys, &most])
            .await?;
        let objects = rows.iter().map(|row| cell::<String>(row, "object"));
        let objects = objects.collect::<Result<Vec<_>, _>>()?;
        let rows = self
            .run_on(line, SUMMARIES_OF_OBJECTS, &[&objects, &most])
            .await?;
        let events = rows.iter().map(summary).collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<String> = events.iter().map(|event| event.id.to_string()).collect();
        let attempts = self.attempts(&ids).await?;
        Ok(events.into_iter().zip(attempts).collect())
    }

    pub(crate) async fn find_open_calls(
        &self,
        search: &EventSearch,
    ) -> Result<Vec<FoundOpenCall>, StoreError> {
        let (kinds, keys) = words(search);
        let most = i64::from(MOST_FOUND);
        let rows = self
            .run_on(
                &self.notifications.lists,
                OPEN,
                &[&search.text, &kinds, &keys, &most],
            )
            .await?;
        let call = |row: &Row| {
            Ok(FoundOpenCall {
                call: cell(row, "call")?,
                holder: holder(row)?,
                operation: cell(row, "operation")?,
                since_ms: unsigned(cell(row, "at")?),
            })
        };
        rows.iter().map(call).collect()
    }

    /// The keys of refunds of the order with this id, and under this number.
    pub(crate) async fn find_refunds(&self, text: &str) -> Result<Vec<LedgerKey>, StoreError> {
        let (after, before) = refunds_of(text);
        let most = i64::from(MOST_FOUND);
        let line = &self.notifications.lists;
        let rows = self
            .run_on(line, REFUNDS, &[&text, &after, &before, &most])
            .await?;
        let keys = rows.iter().map(|row| {
            let key: String = cell(row, "key")?;
            LedgerKey::new(LedgerKeyKind::OrderRefund, key)
                .ok_or_else(|| unexpected("the key of a refund"))
        });
        keys.collect()
    }

    pub(crate) async fn find_spends(
        &self,
        search: &SpendSearch,
    ) -> Result<Vec<FoundSpend>, StoreError> {
        let parties = || search.keys.iter().map(|(party, _)| party);
        let accounts: Vec<&str> = parties().map(|it| &*it.account).collect();
        let parties: Vec<&str> = parties().map(|it| &*it.tenant).collect();
        let keys: Vec<&str> = search.keys.iter().map(|(_, key)| &**key).collect();
        let rows = self
            .run_on(
                &self.notifications.lists,
                SPENDS,
                &[&parties, &accounts, &search.counted_as, &keys],
            )
            .await?;
        let spend = |row: &Row| {
            Ok(FoundSpend {
                holder: holder(row)?,
                counted_as: cell(row, "counted_as")?,
                key: cell(row, "key")?,
                currency: cell(row, "currency")?,
                amount: plain(&cell::<String>(row, "amount")?).to_owned(),
                at_ms: unsigned(cell(row, "at")?),
                executed_ms: cell::<Option<i64>>(row, "executed")?.map(unsigned),
                open_attempts: unsigned(cell(row, "open")?),
            })
        };
        rows.iter().map(spend).collect()
    }
}

fn holder(row: &Row) -> Result<TenantAccount, StoreError> {
    Ok(TenantAccount {
        tenant: cell(row, "tenant")?,
        account: cell(row, "account")?,
    })
}

fn words(search: &EventSearch) -> (Vec<&str>, Vec<&str>) {
    let kinds = search.keys.iter().map(|key| key.kind().as_str());
    (
        kinds.collect(),
        search.keys.iter().map(LedgerKey::text).collect(),
    )
}

/// The column has 18 decimals, most of them zeros.
fn plain(amount: &str) -> &str {
    if amount.contains('.') {
        amount.trim_end_matches('0').trim_end_matches('.')
    } else {
        amount
    }
}
