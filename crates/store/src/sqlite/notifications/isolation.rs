//! What probes have found out about GatePay.

use gatepay_core::owner_look_up::IsolationVerdict;
use rusqlite::params;

use super::super::SqliteStore;
use super::{big, unexpected};
use crate::error::StoreError;
use crate::notifications::isolation::{
    IsolationFinding, IsolationRecord, IsolationSubject, KeptFinding,
};

impl SqliteStore {
    pub(crate) async fn note_isolation(
        &self,
        subject: &IsolationSubject,
        findings: &[IsolationFinding],
        since_ms: u64,
    ) -> Result<(), StoreError> {
        let (subject, findings) = (subject.clone(), findings.to_vec());
        self.change(move |change, now_ms| {
            let note = "INSERT INTO isolation VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE
                SET verdict = excluded.verdict, accounts = excluded.accounts, at = excluded.at
                WHERE excluded.verdict = 'shared' OR verdict <> 'shared' OR at < ?7";
            let mut note = change.prepare_cached(note)?;
            let forget = "DELETE FROM owner WHERE source = 'asked' AND operation = ?1";
            let mut forget = change.prepare_cached(forget)?;
            for finding in &findings {
                note.execute(params![
                    subject.upstream,
                    subject.client_id,
                    finding.operation,
                    finding.verdict.as_str(),
                    finding.accounts,
                    now_ms,
                    big(since_ms),
                ])?;
                if finding.verdict == IsolationVerdict::Shared {
                    forget.execute([&finding.operation])?;
                }
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn isolation(
        &self,
        subject: &IsolationSubject,
    ) -> Result<IsolationRecord, StoreError> {
        let subject = subject.clone();
        self.run(move |file| {
            let now_ms = file.now()?;
            let findings = "SELECT operation, verdict, accounts, at FROM isolation
                WHERE upstream = ?1 AND client_id = ?2 ORDER BY operation";
            let mut findings = file.connection().prepare_cached(findings)?;
            let rows = findings.query_map([&subject.upstream, &subject.client_id], |row| {
                let at: i64 = row.get(3)?;
                Ok((
                    row.get(0)?,
                    row.get::<_, String>(1)?,
                    row.get(2)?,
                    at.unsigned_abs(),
                ))
            })?;
            let findings = rows.map(|row| {
                let (operation, verdict, accounts, at_ms) = row?;
                let verdict = IsolationVerdict::parse(&verdict);
                Ok(KeptFinding {
                    finding: IsolationFinding {
                        operation,
                        verdict: verdict.ok_or_else(|| unexpected("an unknown verdict"))?,
                        accounts,
                    },
                    at_ms,
                })
            });
            let findings = findings.collect::<Result<_, StoreError>>()?;
            Ok(IsolationRecord { findings, now_ms })
        })
        .await
    }
}
