//! Settling: takes the outcomes that notifications prove to the store. The log, the metrics and the audit journal tell which
//! calls they settle.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::money::{MONEY_ROWS, MoneyRow};
use gatepay_core::notification::Notification;
use gatepay_core::ownership::TenantIncarnation;
use gatepay_core::settlement::{ObjectOutcome, OutcomeProof};
use gatepay_store::admission::StoredText;
use gatepay_store::caps::spend::SettledObject;
use gatepay_store::engine::statements::UsageSettlement;
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

/// The spends that a proof settles: those of calls whose key the notification names. What came of it was decided before the
/// notification came. A failure is that of a refund under the merchant's own number alone: other fields may be GatePay's
/// id, whose text a tenant can give to another object. It then counts on.
fn spends(news: &ObjectNews) -> Vec<SettledObject> {
    let (party, account) = (&news.holder.tenant, &news.holder.account);
    let (Some(party), Some(account)) = (StoredText::parse(party), StoredText::parse(account))
    else {
        return Vec::new();
    };
    let stands = news.proof.outcome != ObjectOutcome::Failed;
    let (keys, amounts): (Vec<&LedgerKey>, _) = match &news.proof.failed_refund {
        _ if stands => (news.proof.keys.iter().collect(), Vec::new()),
        Some(refund) => match &refund.amounts {
            Some(amounts) => (vec![&refund.number], amounts.clone()),
            None => return Vec::new(),
        },
        None => return Vec::new(),
    };
    let spends = keys.into_iter().filter_map(|key| {
        let counted_as = MoneyRow::keyed_by(key.kind());
        Some(SettledObject {
            party: party.clone(),
            account: account.clone(),
            key: StoredText::parse(key.text()).filter(|_| !counted_as.is_empty())?,
            counted_as,
            stands,
            amounts: amounts.clone(),
            decided_ms: news.event.came_ms(),
        })
    });
    spends.collect()
}

/// The booked calls that a proof settles: those that chose a key of the object. A money call fails with its object; a write
/// has made its object, however that ends.
fn usages(news: &ObjectNews) -> Vec<UsageSettlement> {
    let (party, account) = (&news.holder.tenant, &news.holder.account);
    let (Some(party), Some(account)) = (StoredText::parse(party), StoredText::parse(account))
    else {
        return Vec::new();
    };
    let failed = news.proof.outcome == ObjectOutcome::Failed;
    let is_money = |name: &&'static str| MONEY_ROWS.iter().any(|row| row.operation == *name);
    let usages = news.proof.keys.iter().flat_map(|key| {
        let (money, writes): (Vec<_>, Vec<_>) = LedgerRow::made_by(key.kind())
            .into_iter()
            .partition(is_money);
        let of = |operations: Vec<&'static str>, has_failed| {
            Some(UsageSettlement {
                party: party.clone(),
                account: account.clone(),
                key: StoredText::parse(key.text()).filter(|_| !operations.is_empty())?,
                operations,
                has_failed,
                decided_ms: news.event.came_ms(),
            })
        };
        [of(money, failed), of(writes, false)]
    });
    usages.flatten().collect()
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
        let spends: Vec<SettledObject> = news.iter().flat_map(spends).collect();
        let usages: Vec<UsageSettlement> = news.iter().flat_map(usages).collect();
        let settled = self
            .calls
            .call(move |store| async move { store.settle_objects(&news).await });
        let report = settled.await?;
        self.tell(&report.calls);
        self.note_usages(usages).await?;
        self.release(spends).await?;
        Ok(report)
    }

    /// Tells what a notification has settled together with the decision about its owner, and takes what it proves about
    /// spends to the store. After an error these count on; a repetition changes nothing.
    pub async fn settled(
        &self,
        news: &ObjectNews,
        report: &SettlementReport,
    ) -> Result<(), StoreCallError> {
        self.tell(&report.calls);
        self.note_usages(usages(news)).await?;
        self.release(spends(news)).await
    }

    async fn note_usages(&self, usages: Vec<UsageSettlement>) -> Result<(), StoreCallError> {
        for usage in usages {
            let settled = self
                .calls
                .call(move |store| async move { store.settle_usage(&usage).await });
            settled.await?;
        }
        Ok(())
    }

    async fn release(&self, spends: Vec<SettledObject>) -> Result<(), StoreCallError> {
        for spend in spends {
            let object = spend.clone();
            let settled = self
                .calls
                .call(move |store| async move { store.settle_object(&object).await });
            if settled.await? {
                let (party, key) = (spend.party.as_str(), spend.key.as_str());
                tracing::info!(%party, %key, "a notification releases the amount that a call had reserved");
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spends_of(body: &Value) -> Vec<SettledObject> {
        let notification = Notification::read(body.to_string().as_bytes());
        let news = ObjectNews {
            event: EventId::parse("019b76da-a800-7000-8000-000000000001").unwrap(),
            holder: TenantAccount {
                tenant: "acme".into(),
                account: "100".into(),
            },
            proof: OutcomeProof::of(&notification).unwrap(),
        };
        spends(&news)
    }

    #[test]
    fn a_failed_refund_releases_its_own_number_and_never_the_text_of_gatepays_ids() {
        let mut refund = json!({ "bizType": "PAY_REFUND", "bizStatus": "REFUND_REJECTED", "bizId": "P1",
            "data": { "refundInfo": { "refundRequestId": "r1", "prepayId": "P1", "refundAmount": "5" } } });
        let failed = spends_of(&refund);
        let told = failed.iter().map(|it| (it.key.as_str(), it.stands));
        assert_eq!(told.collect::<Vec<_>>(), [("r1", false)]);
        assert_eq!(failed[0].amounts[0].amount.to_string(), "5");
        refund["data"]["refundInfo"]["refundAmount"] = "5e0".into();
        assert_eq!(spends_of(&refund), [], "an amount that is not exact");
        refund["data"]["refundInfo"] = json!({ "prepayId": "P1" });
        assert_eq!(spends_of(&refund), []);
    }

    #[test]
    fn a_failed_payout_releases_nothing_and_one_that_stands_counts() {
        let payout = |status: &str| json!({ "main_order": { "batch_id": "7", "status": status }, "suborders": [] });
        assert_eq!(spends_of(&payout("FAIL")), []);
        let done = spends_of(&payout("SUCCESS"));
        assert!(
            done.iter().any(|it| it.stands && it.key.as_str() == "7"),
            "{done:?}"
        );
    }
}
