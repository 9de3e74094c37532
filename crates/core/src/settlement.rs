//! Settlement: the outcome that a notification proves for calls about its object.
//!
//! A notification that names the number of a call proves that GatePay has the object, whatever became of the call's
//! answer. The proof holds only for the tenant that the notification belongs to: a number alone shows no owner, so
//! [`ownership`](crate::ownership) decides first.

use std::collections::BTreeSet;

use crate::ledger_key::{LedgerKey, LedgerKeyKind};
use crate::notification::{Notification, NotificationKind, StatedRefund};
use crate::words::words;

/// The outcome of an object at GatePay. Of several notifications about one object the greatest outcome counts: money
/// that moved outweighs any other statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectOutcome {
    /// GatePay has the object. How it ends is open.
    Found,
    /// The object ended without moving money, or its order was closed.
    Failed,
    /// The object ended as the call asked. A payout that was paid in part counts as done.
    Done,
}

words!(ObjectOutcome { Found = "found", Failed = "failed", Done = "done" });

impl ObjectOutcome {
    /// The number that stores keep. A greater outcome has a greater number.
    pub const fn number(self) -> i16 {
        match self {
            Self::Found => 1,
            Self::Failed => 2,
            Self::Done => 3,
        }
    }

    /// The outcome with this number.
    pub fn of_number(number: i16) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|outcome| outcome.number() == number)
    }

    /// The outcome of a call that closes an order, if this is the order's outcome under this status. While the order is
    /// open, the call has none.
    pub fn of_closing(self, status: &str) -> Option<Self> {
        match self {
            Self::Found => None,
            Self::Failed if status == "PAY_CLOSE" => Some(Self::Done),
            Self::Failed | Self::Done => Some(Self::Failed),
        }
    }

    fn of_status(kind: NotificationKind, status: &str) -> Self {
        use NotificationKind as Kind;
        match (kind, status) {
            (Kind::Pay | Kind::PayAddress, "PAY_SUCCESS")
            | (Kind::PayRefund, "REFUND_SUCCESS")
            | (Kind::PayBatch | Kind::PayGiftBatch, "PAID")
            | (Kind::Withdraw, "SUCCESS" | "PARTIAL")
            | (Kind::SubscriptionPayment, "SUCCESS")
            | (Kind::AccountAuthDeduction, "DEDUCT_SUCCESS")
            | (Kind::Otc, "DONE") => Self::Done,
            (Kind::Pay | Kind::PayAddress, "PAY_ERROR" | "PAY_CLOSE")
            | (Kind::PayRefund, "REFUND_REJECTED")
            | (Kind::Withdraw | Kind::Otc, "FAIL")
            | (Kind::AccountAuthDeduction, "DEDUCT_FAILED") => Self::Failed,
            _ => Self::Found,
        }
    }
}

/// The proof in a notification about its own object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeProof {
    /// The keys of the object itself. Keys of other objects that the notification names, such as the order of a refund,
    /// are left out.
    pub keys: Vec<LedgerKey>,
    /// The outcome of the object.
    pub outcome: ObjectOutcome,
    /// The status as GatePay sent it.
    pub status: String,
    /// The refund, if the notification is surely about the merchant's own number. A payout never is: `batch_id` may be the
    /// merchant's number or GatePay's id, which may be the number of another payout.
    pub refund: Option<StatedRefund>,
}

impl OutcomeProof {
    /// The refund that has finally failed.
    pub fn failed_refund(&self) -> Option<&StatedRefund> {
        let has_failed = self.outcome == ObjectOutcome::Failed;
        self.refund.as_ref().filter(|_| has_failed)
    }

    /// The proof in a notification; `None` if it names no key of its object, or has no single reading.
    pub fn of(notification: &Notification) -> Option<Self> {
        let Notification { kind, status, .. } = notification;
        if notification.fault.is_some() {
            return None;
        }
        let own = own_keys(*kind);
        let keys: BTreeSet<&LedgerKey> = notification
            .hints
            .iter()
            .map(|hint| &hint.key)
            .filter(|key| own.contains(&key.kind()))
            .collect();
        let outcome = ObjectOutcome::of_status(*kind, status);
        let refund = &notification.refund;
        (!keys.is_empty()).then(|| Self {
            keys: keys.into_iter().cloned().collect(),
            outcome,
            status: status.clone(),
            refund: refund.clone(),
        })
    }
}

/// The namespaces of the keys by which a kind names its own object.
const fn own_keys(kind: NotificationKind) -> &'static [LedgerKeyKind] {
    use LedgerKeyKind as Key;
    use NotificationKind as Kind;
    match kind {
        Kind::Pay | Kind::PayAddress | Kind::TransferAddress => &[Key::TradeNumber, Key::PrepayId],
        Kind::PayRefund => &[Key::RefundNumber, Key::OrderRefund],
        Kind::PayFixedAddress | Kind::FixedAddressRisk => &[Key::DepositAddress, Key::AddressLabel],
        Kind::PayBatch | Kind::PayGiftBatch => {
            &[Key::RewardNumber, Key::RewardBatchId, Key::GiftBatchId]
        }
        Kind::Withdraw => &[Key::PayoutNumber, Key::PayoutId],
        Kind::SubscriptionPayment | Kind::AccountAuthDeduction => {
            &[Key::DeductionNumber, Key::DeductionId, Key::PaymentId]
        }
        Kind::Otc => &[Key::OtcNumber, Key::OtcId],
        // The institution's own news settles no tenant's call, and an unknown kind may mean anything.
        Kind::Institution | Kind::Unknown => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn proof(body: &Value) -> Option<OutcomeProof> {
        OutcomeProof::of(&Notification::read(body.to_string().as_bytes()))
    }

    fn keys(body: &Value) -> Vec<String> {
        let keys = proof(body).map_or_else(Vec::new, |proof| proof.keys);
        let word = |key: &LedgerKey| format!("{}={}", key.kind(), key.text());
        keys.iter().map(word).collect()
    }

    #[test]
    fn a_paid_order_is_done_and_a_closed_one_has_failed() {
        for (status, outcome) in [
            ("PAY_SUCCESS", ObjectOutcome::Done),
            ("PAY_CLOSE", ObjectOutcome::Failed),
            ("PAY_ERROR", ObjectOutcome::Failed),
            ("A_STATUS_OF_THE_FUTURE", ObjectOutcome::Found),
        ] {
            let body = json!({ "bizType": "PAY", "bizId": "P", "bizStatus": status, "data": { "merchantTradeNo": "N" } });
            let proof = proof(&body).unwrap();
            assert_eq!((proof.outcome, &*proof.status), (outcome, status));
            assert_eq!(keys(&body), ["merchantTradeNo=N", "prepayId=P"]);
        }
    }

    #[test]
    fn a_refund_says_nothing_about_its_order() {
        let body = json!({ "bizType": "PAY_REFUND", "bizStatus": "REFUND_SUCCESS", "bizId": "R",
            "data": { "merchantTradeNo": "N", "prepayId": "P", "refundRequestId": "R" } });
        let keys = keys(&body);
        assert!(keys.contains(&"refundRequestId=R".to_owned()), "{keys:?}");
        assert!(keys.iter().all(|key| !key.starts_with("merchantTradeNo")));
        assert!(keys.iter().all(|key| !key.starts_with("prepayId=")));
        assert_eq!(proof(&body).unwrap().outcome, ObjectOutcome::Done);
    }

    #[test]
    fn only_a_refund_under_its_own_number_fails_for_sure() {
        let refund = |info: Value| {
            json!({ "bizType": "PAY_REFUND", "bizStatus": "REFUND_REJECTED", "bizId": "P",
                "data": { "refundInfo": info } })
        };
        let failed = |body: &Value| proof(body).and_then(|it| it.failed_refund().cloned());
        let told = failed(&refund(json!({ "prepayId": "P", "refundRequestId": "R",
            "refundAmount": "10.50", "refundPayAmount": 7, "refundPayCurrency": "btc" })));
        let told = told.unwrap();
        assert_eq!(told.number.text(), "P R");
        let amounts = told.amounts.unwrap().into_iter().map(|it| {
            let currency = it.currency.map(|currency| currency.to_string());
            (currency, it.amount.to_string())
        });
        let expected = [(None, "10.5".into()), (Some("BTC".into()), "7".into())];
        assert_eq!(amounts.collect::<Vec<(Option<String>, String)>>(), expected);
        let of_amount = |amount: &str| {
            let info = json!({ "prepayId": "P", "refundRequestId": "R", "refundAmount": amount });
            let amounts = failed(&refund(info)).unwrap().amounts?;
            Some(amounts.iter().map(|it| it.amount.to_string()).collect())
        };
        assert_eq!(
            of_amount("1E+1"),
            Some(vec!["10".to_owned()]),
            "as Java prints it"
        );
        assert_eq!(of_amount("1,5"), None);
        let nameless = refund(json!({ "prepayId": "P" }));
        assert!(
            keys(&nameless).contains(&"refundRequestId=P".to_owned()),
            "by bizId"
        );
        assert_eq!(failed(&nameless), None);
        let of_any_order = refund(json!({ "refundRequestId": "R" }));
        assert_eq!(failed(&of_any_order), None);
        let payout =
            json!({ "main_order": { "batch_id": "1", "status": "FAIL" }, "suborders": [] });
        assert_eq!(proof(&payout).unwrap().outcome, ObjectOutcome::Failed);
        assert_eq!(failed(&payout), None);
        let mut done = refund(json!({ "prepayId": "P", "refundRequestId": "R" }));
        done["bizStatus"] = "REFUND_SUCCESS".into();
        assert_eq!(failed(&done), None);
    }

    #[test]
    fn every_final_status_of_a_kind_with_keys_ends_its_object_and_no_other_does() {
        for kind in NotificationKind::ALL {
            for (status, rank) in kind.statuses() {
                let outcome = ObjectOutcome::of_status(*kind, status);
                let is_final = rank.is_some_and(|rank| rank.is_final);
                let ends = outcome != ObjectOutcome::Found;
                // A deposit ends, and its address stays.
                let is_of_address = *kind == NotificationKind::PayFixedAddress;
                let has_keys = !own_keys(*kind).is_empty();
                assert_eq!(
                    ends,
                    is_final && has_keys && !is_of_address,
                    "{kind} {status}"
                );
            }
        }
    }

    #[test]
    fn what_has_no_single_reading_proves_nothing() {
        assert_eq!(
            OutcomeProof::of(&Notification::read(
                br#"{"bizType":"PAY","bizId":"1","bizId":"2"}"#
            )),
            None
        );
        let institution = json!({ "bizType": "INSTITUTION", "bizStatus": "INSTITUTION_ACCOUNT_SUCCESS",
            "data": { "request_id": "r", "account_id": "9" } });
        assert_eq!(proof(&institution), None);
    }

    #[test]
    fn a_call_that_closes_is_done_only_by_the_closed_order() {
        let closing = |outcome: ObjectOutcome, status| outcome.of_closing(status);
        assert_eq!(
            closing(ObjectOutcome::Failed, "PAY_CLOSE"),
            Some(ObjectOutcome::Done)
        );
        assert_eq!(
            closing(ObjectOutcome::Failed, "PAY_ERROR"),
            Some(ObjectOutcome::Failed)
        );
        assert_eq!(
            closing(ObjectOutcome::Done, "PAY_SUCCESS"),
            Some(ObjectOutcome::Failed)
        );
        assert_eq!(closing(ObjectOutcome::Found, "PAY_BLOCK"), None);
        for outcome in ObjectOutcome::ALL {
            assert_eq!(ObjectOutcome::of_number(outcome.number()), Some(*outcome));
        }
    }
}
