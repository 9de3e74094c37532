//! What probes have found out about GatePay.

use gatepay_core::owner_look_up::IsolationVerdict;

use super::super::PostgresStore;
use super::super::admit::cell;
use super::{big, one_row, small, unexpected, unsigned};
use crate::error::StoreError;
use crate::notifications::isolation::{
    IsolationFinding, IsolationRecord, IsolationSubject, KeptFinding,
};

const NOTE: &str = "SELECT gatepay.note_isolation_v1($1, $2, $3, $4, $5, $6)";
const FINDINGS: &str = "SELECT * FROM gatepay.isolation_v1($1, $2)";

impl PostgresStore {
    pub(crate) async fn note_isolation(
        &self,
        subject: &IsolationSubject,
        findings: &[IsolationFinding],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        let operations: Vec<&str> = findings.iter().map(|it| &*it.operation).collect();
        let verdicts: Vec<&str> = findings.iter().map(|it| it.verdict.as_str()).collect();
        let accounts: Vec<i32> = findings.iter().map(|it| small(it.accounts)).collect();
        let (upstream, client_id) = (&subject.upstream, &subject.client_id);
        let line = &self.notifications.arrivals;
        self.run_on(
            line,
            NOTE,
            &[
                upstream,
                client_id,
                &operations,
                &verdicts,
                &accounts,
                &big(since_ms),
            ],
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn isolation(
        &self,
        subject: &IsolationSubject,
    ) -> Result<IsolationRecord, StoreError> {
        let (upstream, client_id) = (&subject.upstream, &subject.client_id);
        let line = &self.notifications.arrivals;
        let rows = self.run_on(line, FINDINGS, &[upstream, client_id]).await?;
        let now_ms = unsigned(cell(one_row(&rows)?, "now")?);
        let mut findings = Vec::new();
        for row in &rows {
            let Some(operation) = cell::<Option<String>>(row, "operation")? else {
                continue;
            };
            let verdict = IsolationVerdict::parse(&cell::<String>(row, "verdict")?);
            findings.push(KeptFinding {
                finding: IsolationFinding {
                    operation,
                    verdict: verdict.ok_or_else(|| unexpected("an unknown verdict"))?,
                    accounts: cell::<i32>(row, "accounts")?.unsigned_abs(),
                },
                at_ms: unsigned(cell(row, "at")?),
            });
        }
        Ok(IsolationRecord { findings, now_ms })
    }
}
