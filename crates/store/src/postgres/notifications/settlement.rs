//! Open calls and proved outcomes.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::settlement::ObjectOutcome;
use tokio_postgres::Row;

use super::super::PostgresStore;
use super::super::admit::cell;
use super::{event_id, unexpected, unsigned};
use crate::error::StoreError;
use crate::notifications::ledger::{ProvedOutcome, TenantAccount};
use crate::notifications::settlement::{
    ObjectNews, OpenCall, OutcomeChange, SettledCall, SettlementReport,
};

const NOTE: &str = "SELECT * FROM gatepay.note_open_calls_v1($1, $2, $3, $4, $5, $6, $7)";
const SETTLE: &str = "SELECT * FROM gatepay.settle_objects_v1($1, $2, $3, $4, $5, $6, $7)";

impl PostgresStore {
    pub(crate) async fn note_open_calls(
        &self,
        calls: &[OpenCall],
    ) -> Result<Vec<SettledCall>, StoreError> {
        let rows: Vec<(&OpenCall, &LedgerKey)> = calls
            .iter()
            .flat_map(|call| call.keys.iter().map(move |key| (call, key)))
            .collect();
        let text = |of: fn(&OpenCall) -> &str| {
            let texts = rows.iter().map(|(call, _)| of(call));
            texts.collect::<Vec<&str>>()
        };
        let kinds: Vec<&str> = rows.iter().map(|(_, key)| key.kind().as_str()).collect();
        let keys: Vec<&str> = rows.iter().map(|(_, key)| key.text()).collect();
        let tenants = text(|call| &call.holder.tenant);
        let accounts = text(|call| &call.holder.account);
        let ids = text(|call| &call.call);
        let operations = text(|call| &call.operation);
        let closings: Vec<bool> = rows.iter().map(|(call, _)| call.closes).collect();
        let settled = self
            .run_on(
                &self.notifications.arrivals,
                NOTE,
                &[
                    &kinds,
                    &keys,
                    &tenants,
                    &accounts,
                    &ids,
                    &operations,
                    &closings,
                ],
            )
            .await?;
        settled.iter().map(settled_call).collect()
    }

    pub(crate) async fn settle_objects(
        &self,
        news: &[ObjectNews],
    ) -> Result<SettlementReport, StoreError> {
        let columns = NewsColumns::of(news);
        let answered = self
            .run_on(
                &self.notifications.arrivals,
                SETTLE,
                &[
                    &columns.kinds,
                    &columns.keys,
                    &columns.tenants,
                    &columns.accounts,
                    &columns.outcomes,
                    &columns.statuses,
                    &columns.events,
                ],
            )
            .await?;
        columns.report(&answered)
    }
}

/// Proved outcomes by columns, one row for each key.
pub(super) struct NewsColumns<'a> {
    rows: Vec<&'a LedgerKey>,
    pub(super) kinds: Vec<&'a str>,
    pub(super) keys: Vec<&'a str>,
    pub(super) tenants: Vec<&'a str>,
    pub(super) accounts: Vec<&'a str>,
    pub(super) outcomes: Vec<i16>,
    pub(super) statuses: Vec<&'a str>,
    pub(super) events: Vec<String>,
}

impl<'a> NewsColumns<'a> {
    pub(super) fn of(news: impl IntoIterator<Item = &'a ObjectNews>) -> Self {
        let rows = news.into_iter();
        let rows = rows.flat_map(|news| news.proof.keys.iter().map(move |key| (news, key)));
        let rows: Vec<(&ObjectNews, &LedgerKey)> = rows.collect();
        let of_news = rows.iter().map(|(news, _)| *news);
        Self {
            rows: rows.iter().map(|(_, key)| *key).collect(),
            kinds: rows.iter().map(|(_, key)| key.kind().as_str()).collect(),
            keys: rows.iter().map(|(_, key)| key.text()).collect(),
            tenants: of_news.clone().map(|it| &*it.holder.tenant).collect(),
            accounts: of_news.clone().map(|it| &*it.holder.account).collect(),
            outcomes: of_news
                .clone()
                .map(|it| it.proof.outcome.number())
                .collect(),
            statuses: of_news.clone().map(|it| &*it.proof.status).collect(),
            events: of_news.map(|it| it.event.to_string()).collect(),
        }
    }

    /// The effects, in the columns of `take_outcomes_v1`. A row whose `n` is NULL tells of none.
    pub(super) fn report(&self, answered: &[Row]) -> Result<SettlementReport, StoreError> {
        let mut report = SettlementReport::default();
        for row in answered {
            let Some(n) = cell::<Option<i64>>(row, "n")? else {
                continue;
            };
            if cell::<Option<String>>(row, "call")?.is_some() {
                report.calls.push(settled_call(row)?);
                continue;
            }
            let at = usize::try_from(n - 1).ok();
            let key = at
                .and_then(|at| self.rows.get(at))
                .ok_or_else(|| unexpected("a change of nothing asked"))?;
            let before = cell::<Option<i16>>(row, "before")?;
            report.changes.push(OutcomeChange {
                key: (*key).clone(),
                holder: holder(row)?,
                operation: cell(row, "operation")?,
                before: before.map(outcome).transpose()?,
                now: outcome(cell(row, "outcome")?)?,
            });
        }
        Ok(report)
    }
}

/// The outcome in the columns `outcome`, `status`, `event` and `at`.
pub(super) fn proved(row: &Row) -> Result<ProvedOutcome, StoreError> {
    Ok(ProvedOutcome {
        outcome: outcome(cell(row, "outcome")?)?,
        status: cell(row, "status")?,
        event: event_id(&cell::<String>(row, "event")?)?,
        at_ms: unsigned(cell(row, "at")?),
    })
}

pub(super) fn outcome(number: i16) -> Result<ObjectOutcome, StoreError> {
    ObjectOutcome::of_number(number).ok_or_else(|| unexpected("an unknown outcome"))
}

fn settled_call(row: &Row) -> Result<SettledCall, StoreError> {
    Ok(SettledCall {
        call: cell(row, "call")?,
        holder: holder(row)?,
        operation: cell(row, "operation")?,
        closes: cell(row, "closes")?,
        open_since_ms: unsigned(cell(row, "open_since")?),
        proved: proved(row)?,
    })
}

fn holder(row: &Row) -> Result<TenantAccount, StoreError> {
    Ok(TenantAccount {
        tenant: cell(row, "tenant")?,
        account: cell(row, "account")?,
    })
}
