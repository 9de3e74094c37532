//! Settling: takes the outcomes that notifications prove to the store. The log, the metrics and the audit journal tell which
//! calls they settle.

use gatepay_core::ledger_key::LedgerKey;
use gatepay_core::ledger_rows::LedgerRow;
use gatepay_core::money::{MONEY_ROWS, MoneyRow};
use gatepay_core::notification::{Notification, StatedRefund};
use gatepay_core::ownership::TenantIncarnation;
use gatepay_core::settlement::{ObjectOutcome, OutcomeProof};
use gatepay_store::admission::StoredText;
use gatepay_store::caps::spend::SettledObject;
use gatepay_store::engine::statements::ObjectWord;
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

/// What a proof says about spends and booked calls, which are settled by the same evidence: those of calls whose key the
/// notification names.
///
/// The proof covers calls that were admitted before the notification came. A failure is that of a refund by its order and the
/// merchant's own number alone: other fields may be GatePay's id, whose text a tenant can give to another object. Such
/// a failure proves nothing about money. A write has made its object, however that ends.
fn words(news: &ObjectNews) -> Vec<ObjectWord> {
    let (party, account) = (&news.holder.tenant, &news.holder.account);
    let (Some(party), Some(account)) = (StoredText::parse(party), StoredText::parse(account))
    else {
        return Vec::new();
    };
    // Of an object that stands, so that it is not taken for that of a call which asked for another one.
    let requested = |key: &LedgerKey| {
        let own = news.proof.refund.iter().filter(|it| it.number == *key);
        own.filter_map(|refund| refund.requested.clone()).collect()
    };
    let word = |key: &LedgerKey, operations: Vec<&'static str>, failed: Option<&StatedRefund>| {
        let moves_money = operations.iter().any(|name| is_money(name));
        let object = SettledObject {
            party: party.clone(),
            account: account.clone(),
            key: StoredText::parse(key.text()).filter(|_| !operations.is_empty())?,
            counted_as: if moves_money {
                MoneyRow::keyed_by(key.kind())
            } else {
                Vec::new()
            },
            stands: failed.is_none(),
            amounts: match failed {
                Some(refund) => refund.amounts.clone()?,
                None => requested(key),
            },
            decided_ms: news.event.came_ms(),
        };
        let operations = operations.into_iter().map(str::to_owned).collect();
        Some(ObjectWord {
            object,
            operations,
            is_whole: false,
        })
    };
    let made_by = |key: &LedgerKey| {
        let made_by = LedgerRow::made_by(key.kind()).into_iter();
        made_by.partition::<Vec<_>, _>(|name| is_money(name))
    };
    let has_failed = news.proof.outcome == ObjectOutcome::Failed;
    let stands = news.proof.keys.iter().flat_map(|key| {
        let (money, writes) = made_by(key);
        let money = (!has_failed).then(|| word(key, money, None)).flatten();
        [money, word(key, writes, None)]
    });
    let failed = news.proof.failed_refund().into_iter().filter_map(|refund| {
        let (money, _) = made_by(&refund.number);
        word(&refund.number, money, Some(refund))
    });
    stands.flatten().chain(failed).collect()
}

fn is_money(operation: &str) -> bool {
    MONEY_ROWS.iter().any(|row| row.operation == operation)
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
        let words: Vec<ObjectWord> = news.iter().flat_map(words).collect();
        let settled = self
            .calls
            .call(move |store| async move { store.settle_objects(&news).await });
        let report = settled.await?;
        self.tell(&report.calls);
        self.take(words).await?;
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
        self.take(words(news)).await
    }

    async fn take(&self, words: Vec<ObjectWord>) -> Result<(), StoreCallError> {
        for word in words {
            let object = word.object.clone();
            let settled = self.calls.call(move |store| async move {
                store.settle_usage(&word).await?;
                if word.object.counted_as.is_empty() {
                    return Ok(false);
                }
                store.settle_object(&word.object).await
            });
            if settled.await? {
                let (party, key) = (object.party.as_str(), object.key.as_str());
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
    use gatepay_core::ledger_key::LedgerKeyKind;
    use serde_json::{Value, json};

    fn words_of(body: &Value) -> Vec<ObjectWord> {
        let notification = Notification::read(body.to_string().as_bytes());
        let news = ObjectNews {
            event: EventId::parse("019b76da-a800-7000-8000-000000000001").unwrap(),
            holder: TenantAccount {
                tenant: "acme".into(),
                account: "100".into(),
            },
            proof: OutcomeProof::of(&notification).unwrap(),
        };
        words(&news)
    }

    /// Keys, operations, and whether the object stands.
    fn told(words: &[ObjectWord]) -> Vec<(&str, Vec<&str>, bool)> {
        let told = words.iter().map(|word| {
            let operations = word.operations.iter().map(String::as_str).collect();
            (word.object.key.as_str(), operations, word.object.stands)
        });
        told.collect()
    }

    #[test]
    fn a_failed_refund_is_that_of_its_own_number_and_never_of_the_text_of_gatepays_ids() {
        let mut refund = json!({ "bizType": "PAY_REFUND", "bizStatus": "REFUND_REJECTED", "bizId": "P1",
            "data": { "refundInfo": { "refundRequestId": "r1", "prepayId": "P1", "refundAmount": "5" } } });
        let failed = words_of(&refund);
        let refunds = LedgerRow::made_by(LedgerKeyKind::OrderRefund);
        assert_eq!(told(&failed), [("P1 r1", refunds, false)]);
        let object = &failed[0].object;
        assert_eq!(object.amounts[0].amount.to_string(), "5");
        assert!(object.counted_as.contains(&"refund_order"));
        // One that stands is of the call which asked for it, whatever is paid.
        refund["bizStatus"] = "REFUND_SUCCESS".into();
        refund["data"]["refundInfo"]["refundPayAmount"] = "0.1".into();
        let stands = words_of(&refund);
        let own = stands.iter().find(|it| it.object.key.as_str() == "P1 r1");
        let amounts = own.unwrap().object.amounts.iter();
        let amounts: Vec<String> = amounts.map(|it| it.amount.to_string()).collect();
        assert_eq!(amounts, ["5"]);
        refund["bizStatus"] = "REFUND_REJECTED".into();
        refund["data"]["refundInfo"]["refundAmount"] = "5,0".into();
        assert_eq!(words_of(&refund), [], "an amount that is not exact");
        for info in [
            json!({ "prepayId": "P1" }),
            // Another order may have a refund of this number.
            json!({ "refundRequestId": "r1", "refundAmount": "5" }),
        ] {
            refund["data"]["refundInfo"] = info;
            assert_eq!(words_of(&refund), []);
        }
    }

    #[test]
    fn a_failed_payout_settles_nothing_and_one_that_stands_counts() {
        let payout = |status: &str| json!({ "main_order": { "batch_id": "7", "status": status }, "suborders": [] });
        assert_eq!(words_of(&payout("FAIL")), []);
        let done = words_of(&payout("SUCCESS"));
        assert_eq!(told(&done), [("7", vec!["create_payout"], true)]);
        assert_eq!(done[0].object.counted_as, ["create_payout"]);
    }

    #[test]
    fn an_order_was_made_however_it_ends_and_no_cap_counts_it() {
        let order = |status: &str| json!({ "bizType": "PAY", "bizId": "P", "bizStatus": status, "data": { "merchantTradeNo": "N" } });
        for status in ["PAY_SUCCESS", "PAY_CLOSE", "PAY_ERROR"] {
            let words = words_of(&order(status));
            let [word] = &words[..] else {
                panic!("{status}: {words:?}");
            };
            let makes_orders = word.operations.iter().any(|it| it == "create_order");
            assert!(makes_orders && word.object.stands, "{status}: {word:?}");
            assert_eq!(word.object.counted_as, [""; 0]);
        }
    }
}
