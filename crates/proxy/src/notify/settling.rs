//! Settling: takes the outcomes that notifications prove to the store. The log, the metrics and the audit journal tell which
//! calls they settle.

use gatepay_core::notification::Notification;
use gatepay_core::ownership::TenantIncarnation;
use gatepay_core::settlement::OutcomeProof;
use gatepay_store::notifications::event::EventId;
use gatepay_store::notifications::ledger::TenantAccount;
use gatepay_store::notifications::settlement::{
    ObjectNews, OpenCall, SettledCall, SettlementReport,
};

use crate::cluster::store_calls::{StoreCallError, StoreCalls};
use crate::journal::SettlementJournal;
use crate::journal::entry::CallSettlement;
use crate::notify::receive::meters::ReceptionMeters;

/// The way of proved outcomes and of open calls to the store.
#[derive(Clone)]
pub struct Settling {
    calls: StoreCalls,
    journal: Option<SettlementJournal>,
    meters: ReceptionMeters,
}

/// The news for the store about a notification of a tenant; `None` if the notification proves no outcome.
pub fn news(
    event: EventId,
    owner: &TenantIncarnation,
    notification: &Notification,
) -> Option<ObjectNews> {
    Some(ObjectNews {
        event,
        holder: TenantAccount {
            tenant: owner.tenant.clone(),
            account: owner.account.clone(),
        },
        proof: OutcomeProof::of(notification)?,
    })
}

impl Settling {
    /// A way to this store, which tells this journal.
    pub fn new(
        calls: &StoreCalls,
        journal: Option<SettlementJournal>,
        meters: &ReceptionMeters,
    ) -> Self {
        Self {
            calls: calls.clone(),
            journal,
            meters: meters.clone(),
        }
    }

    /// Takes proved outcomes to the store. The changes are committed when this returns; a repetition changes nothing.
    pub async fn settle(&self, news: Vec<ObjectNews>) -> Result<SettlementReport, StoreCallError> {
        if news.is_empty() {
            return Ok(SettlementReport::default());
        }
        let settled = self
            .calls
            .call(move |store| async move { store.settle_objects(&news).await });
        let report = settled.await?;
        self.tell(&report.calls);
        Ok(report)
    }

    /// Records calls whose outcome is not known, unless a notification has proved it before.
    pub async fn open(&self, calls: Vec<OpenCall>) -> Result<(), StoreCallError> {
        if calls.is_empty() {
            return Ok(());
        }
        let noted = self
            .calls
            .call(move |store| async move { store.note_open_calls(&calls).await });
        self.tell(&noted.await?);
        Ok(())
    }

    fn tell(&self, settled: &[SettledCall]) {
        for call in settled {
            let (outcome, proved) = (call.outcome(), &call.proved);
            self.meters.settled(outcome);
            tracing::info!(
                call = call.call, tenant = call.holder.tenant, operation = call.operation, %outcome,
                status = proved.status, event = %proved.event, "a call without a known outcome is settled"
            );
            if let Some(journal) = &self.journal {
                journal.settled(CallSettlement {
                    call: call.call.clone(),
                    party: call.holder.tenant.clone(),
                    operation: call.operation.clone(),
                    outcome: outcome.as_str(),
                    status: proved.status.clone(),
                    event: proved.event.to_string(),
                });
            }
        }
    }
}
