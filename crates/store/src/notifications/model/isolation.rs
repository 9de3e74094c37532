//! What probes have found out about GatePay.

use gatepay_core::owner_look_up::IsolationVerdict;

use super::{NotificationModel, OwnerRow};
use crate::notifications::isolation::{
    IsolationFinding, IsolationRecord, IsolationSubject, KeptFinding,
};
use crate::notifications::ledger::LedgerSource;

impl NotificationModel {
    /// As [`Store::note_isolation`](crate::engine::Store::note_isolation).
    pub fn note_isolation(
        &mut self,
        subject: &IsolationSubject,
        findings: &[IsolationFinding],
        since_ms: u64,
    ) {
        for finding in findings {
            let is_shared = finding.verdict == IsolationVerdict::Shared;
            let key = (subject.clone(), finding.operation.clone());
            let is_older = self.isolation.get(&key).is_some_and(|(known, at_ms)| {
                known.verdict == IsolationVerdict::Shared && *at_ms >= since_ms
            });
            if is_shared || !is_older {
                self.isolation.insert(key, (finding.clone(), self.now_ms));
            }
            if is_shared {
                let gone =
                    |row: &OwnerRow| row.2 == LedgerSource::Asked && row.1 == finding.operation;
                self.owners.retain(|_, row| !gone(row));
                let owners = &self.owners;
                self.proved.retain(|row, _| owners.contains_key(row));
            }
        }
    }

    /// Whether a look-up is known to show the objects of other accounts.
    pub(super) fn is_shared(&self, operation: &str) -> bool {
        let mut known = self.isolation.iter();
        known.any(|((_, of), (finding, _))| {
            of == operation && finding.verdict == IsolationVerdict::Shared
        })
    }

    /// As [`Store::isolation`](crate::engine::Store::isolation).
    pub fn isolation(&self, subject: &IsolationSubject) -> IsolationRecord {
        let own = self.isolation.iter().filter(|((of, _), _)| of == subject);
        let kept = own.map(|(_, (finding, at_ms))| KeptFinding {
            finding: finding.clone(),
            at_ms: *at_ms,
        });
        IsolationRecord {
            findings: kept.collect(),
            now_ms: self.now_ms,
        }
    }
}
