//! Open calls and proved outcomes of the model.

use gatepay_core::settlement::ObjectOutcome;

use super::super::ledger::ProvedOutcome;
use super::super::settlement::{
    ObjectNews, OpenCall, OutcomeChange, SettledCall, SettlementReport,
};
use super::NotificationModel;

impl NotificationModel {
    /// As [`Store::note_open_calls`](crate::engine::Store::note_open_calls).
    pub fn note_open_calls(&mut self, calls: &[OpenCall]) -> Vec<SettledCall> {
        for call in calls {
            let row = (call.clone(), self.now_ms);
            self.open_calls.entry(call.call.clone()).or_insert(row);
        }
        let mut settled = Vec::new();
        for id in self.open_calls.keys().cloned().collect::<Vec<_>>() {
            if calls.iter().any(|call| call.call == id)
                && let Some(proved) = self.known_outcome(&self.open_calls[&id].0)
            {
                settled.extend(self.settle_call(&id, proved));
            }
        }
        settled
    }

    /// As [`Store::settle_objects`](crate::engine::Store::settle_objects).
    pub fn settle_objects(&mut self, news: &[ObjectNews]) -> SettlementReport {
        let mut report = SettlementReport::default();
        for ObjectNews {
            event,
            holder,
            proof,
        } in news
        {
            let proved = ProvedOutcome {
                outcome: proof.outcome,
                status: proof.status.clone(),
                event: *event,
                at_ms: self.now_ms,
            };
            for key in &proof.keys {
                let row = (key.clone(), holder.clone());
                let before = self.proved.get(&row).map(|before| before.outcome);
                if let Some((_, operation, _)) = self.owners.get(&row)
                    && before < Some(proof.outcome)
                {
                    report.changes.push(OutcomeChange {
                        key: key.clone(),
                        holder: holder.clone(),
                        operation: operation.clone(),
                        before,
                        now: proof.outcome,
                    });
                    self.proved.insert(row, proved.clone());
                }
                let is_settled = |call: &OpenCall| {
                    call.holder == *holder
                        && call.keys.contains(key)
                        && settles(call, proof.outcome)
                };
                let open = self.open_calls.values();
                let settled = open.filter(|(call, _)| is_settled(call));
                let settled: Vec<String> = settled.map(|(call, _)| call.call.clone()).collect();
                for call in settled {
                    report.calls.extend(self.settle_call(&call, proved.clone()));
                }
            }
        }
        report
    }

    /// The greatest outcome that the ledger has for a key of a call.
    fn known_outcome(&self, call: &OpenCall) -> Option<ProvedOutcome> {
        let mut keys: Vec<_> = call.keys.iter().collect();
        keys.sort_by_key(|key| (key.kind().as_str(), key.text()));
        let mut known: Option<&ProvedOutcome> = None;
        for key in keys {
            let proved = self.proved.get(&(key.clone(), call.holder.clone()));
            let proved = proved.filter(|proved| settles(call, proved.outcome));
            if let Some(proved) = proved
                && known.is_none_or(|known| known.outcome < proved.outcome)
            {
                known = Some(proved);
            }
        }
        known.cloned()
    }

    fn settle_call(&mut self, call: &str, proved: ProvedOutcome) -> Option<SettledCall> {
        let (call, open_since_ms) = self.open_calls.remove(call)?;
        Some(SettledCall {
            call: call.call,
            holder: call.holder,
            operation: call.operation,
            closes: call.closes,
            open_since_ms,
            proved,
        })
    }
}

/// Whether an outcome of the object settles the call.
fn settles(call: &OpenCall, outcome: ObjectOutcome) -> bool {
    !call.closes || outcome > ObjectOutcome::Found
}
