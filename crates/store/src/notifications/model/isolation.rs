//! What probes have found out about GatePay.

use super::NotificationModel;
use crate::notifications::isolation::{
    IsolationFinding, IsolationRecord, IsolationSubject, KeptFinding,
};

impl NotificationModel {
    /// As [`Store::note_isolation`](crate::engine::Store::note_isolation).
    pub fn note_isolation(&mut self, subject: &IsolationSubject, findings: &[IsolationFinding]) {
        for finding in findings {
            let key = (subject.clone(), finding.operation.clone());
            self.isolation.insert(key, (finding.clone(), self.now_ms));
        }
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
