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
        let rows: Vec<(&ObjectNews, &LedgerKey)> = news
            .iter()
            .flat_map(|news| news.proof.keys.iter().map(move |key| (news, key)))
            .collect();
        let text = |of: fn(&ObjectNews) -> &str| {
            let texts = rows.iter().map(|(news, _)| of(news));
            texts.collect::<Vec<&str>>()
        };
        let kinds: Vec<&str> = rows.iter().map(|(_, key)| key.kind().as_str()).collect();
        let keys: Vec<&str> = rows.iter().map(|(_, key)| key.text()).collect();
        let tenants = text(|news| &news.holder.tenant);
        let accounts = text(|news| &news.holder.account);
        let statuses = text(|news| &news.proof.status);
        let outcomes = rows.iter().map(|(news, _)| news.proof.outcome.number());
        let outcomes: Vec<i16> = outcomes.collect();
        let events: Vec<String> = rows
            .iter()
            .map(|(news, _)| news.event.to_string())
            .collect();
        let answered = self
            .run_on(
                &self.notifications.arrivals,
                SETTLE,
                &[
                    &kinds, &keys, &tenants, &accounts, &outcomes, &statuses, &events,
                ],
            )
            .await?;
        let mut report = SettlementReport::default();
        for row in &answered {
            if cell::<Option<String>>(row, "call")?.is_some() {
                report.calls.push(settled_call(row)?);
                continue;
            }
            let at = usize::try_from(cell::<i64>(row, "n")? - 1).ok();
            let (_, key) = at
                .and_then(|at| rows.get(at))
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
