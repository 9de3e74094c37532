//! Owner look-up: asks GatePay on behalf of one account whether the object of a notification is the account's.
//!
//! A look-up is made by an id that GatePay has made, never by a number that tenants choose: a tenant can have an object of
//! its own under any number. An answer shows the account as the owner only if it prints the same id. That proves ownership
//! only if GatePay keeps accounts apart, which no page says; `gatepay-proxy probe isolation` finds out for each look-up.

use crate::catalogue::Catalogue;
use crate::envelope::{self, AnswerVerdict};
use crate::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind};
use crate::ledger_rows::{KeyFields, answered, without_echoes};
use crate::look_up::{is_absence, object};
use crate::notification::{Notification, NotificationKind};
use crate::operation::{Kind, Method, Operation};
use crate::query;
use crate::words::words;

/// A read of GatePay's by which owners are looked up.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnerLookUp {
    /// The operation's name in the catalogue.
    pub operation: &'static str,
    /// The kinds of notifications whose object it shows.
    pub kinds: &'static [NotificationKind],
    /// GatePay's own id: the parameter, and the field of the answer.
    pub id: KeyFields,
    /// A number that the tenant chose, and that the answer repeats.
    pub number: KeyFields,
    /// The operations that make such objects.
    pub made_by: &'static [&'static str],
    /// Parameters with constant values.
    with: &'static [(&'static str, &'static str)],
}

/// One look-up of an object by its id. The account for which it is made is not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerInquiry {
    /// The read.
    pub look_up: &'static OwnerLookUp,
    /// The id of GatePay's.
    pub id: LedgerKey,
    /// The numbers that the notification states.
    numbers: Vec<LedgerKey>,
}

/// The content of the request to GatePay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InquiryContent {
    /// The query without `?`, if the read takes its parameters there.
    pub query: Option<String>,
    /// The body; empty if the read takes its parameters in the query.
    pub body: String,
}

/// What GatePay's answer shows about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnerAnswer {
    /// The account has the object.
    Has,
    /// GatePay has no such object for the account.
    HasNot,
    /// Neither: no answer, another refusal, or an object that contradicts the notification.
    Unclear,
}

words!(OwnerAnswer { Has = "has", HasNot = "has_not", Unclear = "unclear" });

/// What a probe has found out about a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IsolationVerdict {
    /// No account found the object of another: GatePay keeps accounts apart.
    Apart,
    /// An account found the object of another.
    Shared,
    /// Neither: a control failed.
    Inconclusive,
}

words!(IsolationVerdict { Apart = "apart", Shared = "shared", Inconclusive = "inconclusive" });

impl OwnerLookUp {
    /// Every look-up.
    pub const ALL: &[Self] = &[
        Self {
            operation: "query_order",
            // The owner of a refund is the account that has the order.
            kinds: &[NotificationKind::Pay, NotificationKind::PayRefund],
            id: key(LedgerKeyKind::PrepayId, &["prepayId"]),
            number: key(LedgerKeyKind::TradeNumber, &["merchantTradeNo"]),
            made_by: &[
                "create_order",
                "create_native_order",
                "create_checkout_order",
            ],
            with: &[],
        },
        Self {
            operation: "query_address_order",
            kinds: &[
                NotificationKind::PayAddress,
                NotificationKind::TransferAddress,
            ],
            id: key(LedgerKeyKind::PrepayId, &["prepayId"]),
            number: key(LedgerKeyKind::TradeNumber, &["merchantTradeNo"]),
            made_by: &["create_address_order"],
            with: &[],
        },
        Self {
            operation: "query_batch_transfer",
            kinds: &[NotificationKind::PayBatch, NotificationKind::PayGiftBatch],
            id: key(LedgerKeyKind::RewardBatchId, &["batch_id"]),
            number: key(LedgerKeyKind::RewardNumber, &["merchant_batch_no"]),
            made_by: &["create_batch_transfer"],
            with: &[("detail_status", "ALL")],
        },
        Self {
            operation: "otc_order_detail",
            kinds: &[NotificationKind::Otc],
            id: key(LedgerKeyKind::OtcId, &["orderId"]),
            number: key(LedgerKeyKind::OtcNumber, &["clientOrderId"]),
            made_by: &["create_otc_order"],
            with: &[],
        },
    ];

    /// The look-up of an operation.
    pub fn named(operation: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|it| it.operation == operation)
    }

    /// The row of the catalogue, if there is such a row and it is on.
    pub fn row<'c>(&self, catalogue: &'c Catalogue) -> Option<&'c Operation> {
        let row = catalogue.named(self.operation)?;
        (row.off().is_none() && row.kind == Kind::Read).then_some(row)
    }

    /// The object that a successful answer shows: the number that its tenant chose, and GatePay's own id. `None` unless the
    /// answer names exactly one of each, which do not read alike.
    pub fn shown(&self, status: u16, answer: &[u8]) -> Option<(LedgerKey, LedgerKey)> {
        let judgement = envelope::judge(Kind::Read, status, answer);
        if judgement.verdict != AnswerVerdict::Success {
            return None;
        }
        let number = only(answered(&[self.number], answer))?;
        let id = only(answered(&[self.id], answer))?;
        let id = without_echoes(vec![id], &[number.text()]).pop()?;
        Some((number, id))
    }

    /// Whether it shows the objects that an operation makes.
    pub fn shows(&self, operation: &str) -> bool {
        self.made_by.contains(&operation)
    }

    fn of(kind: NotificationKind) -> Option<&'static Self> {
        Self::ALL.iter().find(|it| it.kinds.contains(&kind))
    }
}

impl OwnerInquiry {
    /// The look-up of a notification's object. `None` if no look-up shows objects of its kind, or if the notification does
    /// not name exactly one id that is surely GatePay's own.
    pub fn about(notification: &Notification) -> Option<Self> {
        let look_up = OwnerLookUp::of(notification.kind)?;
        if notification.fault.is_some() {
            return None;
        }
        let hints = notification.hints.iter();
        let mut ids = hints.clone().filter(|hint| {
            hint.key.kind() == look_up.id.kind && hint.strength == HintStrength::Certain
        });
        let (id, others) = (ids.next()?, ids.next());
        let numbers = hints.filter(|hint| hint.key.kind() == look_up.number.kind);
        others.is_none().then(|| Self {
            look_up,
            id: id.key.clone(),
            numbers: numbers.map(|hint| hint.key.clone()).collect(),
        })
    }

    /// The look-up of an object by this id; `None` if the id is of another kind.
    pub fn by(look_up: &'static OwnerLookUp, id: LedgerKey) -> Option<Self> {
        (id.kind() == look_up.id.kind).then(|| Self {
            look_up,
            id,
            numbers: Vec::new(),
        })
    }

    /// The content of a request to `row`, the look-up's own row.
    pub fn content(&self, row: &Operation) -> InquiryContent {
        let by = self.look_up.id.fields.iter();
        let by = by.map(|field| (*field, self.id.text()));
        let fields = by.chain(self.look_up.with.iter().copied());
        let (query, body) = match row.institution_method {
            Method::Get | Method::Delete => (Some(query::encode(fields)), String::new()),
            Method::Post | Method::Put => (None, object(fields)),
        };
        InquiryContent { query, body }
    }

    /// Judges a complete answer.
    pub fn observe(&self, status: u16, answer: &[u8]) -> OwnerAnswer {
        let judgement = envelope::judge(Kind::Read, status, answer);
        match judgement.verdict {
            AnswerVerdict::Failure => match judgement.code {
                Some(code) if is_absence(code.as_str()) => OwnerAnswer::HasNot,
                _ => OwnerAnswer::Unclear,
            },
            AnswerVerdict::Success if self.is_shown(answer) => OwnerAnswer::Has,
            AnswerVerdict::Success | AnswerVerdict::Unknown => OwnerAnswer::Unclear,
        }
    }

    /// Whether the answer shows this object and no other, without a contradiction of the notification.
    fn is_shown(&self, answer: &[u8]) -> bool {
        let shown = |fields| answered(std::slice::from_ref(fields), answer);
        let ids = shown(&self.look_up.id);
        let numbers = shown(&self.look_up.number);
        let agree = |number: &LedgerKey| self.numbers.iter().all(|stated| stated == number);
        !ids.is_empty() && ids.iter().all(|id| *id == self.id) && numbers.iter().all(agree)
    }
}

/// The key, if there is one and no other.
fn only(mut keys: Vec<LedgerKey>) -> Option<LedgerKey> {
    keys.dedup();
    keys.pop().filter(|_| keys.is_empty())
}

const fn key(kind: LedgerKeyKind, fields: &'static [&'static str]) -> KeyFields {
    KeyFields { kind, fields }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn about(body: &Value) -> Option<OwnerInquiry> {
        OwnerInquiry::about(&Notification::read(body.to_string().as_bytes()))
    }

    fn paid() -> OwnerInquiry {
        let data = json!({ "merchantTradeNo": "A-1" });
        about(
            &json!({ "bizType": "PAY", "bizId": "506", "bizStatus": "PAY_SUCCESS", "data": data }),
        )
        .unwrap()
    }

    fn answer(data: &Value) -> OwnerAnswer {
        let answer = json!({ "status": "SUCCESS", "code": "000000", "data": data });
        paid().observe(200, answer.to_string().as_bytes())
    }

    #[test]
    fn an_answer_shows_an_object_only_if_it_names_one_number_and_one_id_that_the_number_does_not_resemble()
     {
        let look_up = OwnerLookUp::named("query_order").unwrap();
        let shown = |data: Value| {
            let answer = json!({ "status": "SUCCESS", "code": "000000", "data": data });
            let shown = look_up.shown(200, answer.to_string().as_bytes());
            shown.map(|(number, id)| (number.text().to_owned(), id.text().to_owned()))
        };
        let of = |number: &str, id: &str| Some((number.to_owned(), id.to_owned()));
        let order = json!({ "merchantTradeNo": "A-1", "prepayId": "506", "status": "PAID" });
        assert_eq!(shown(order.clone()), of("A-1", "506"));
        assert_eq!(shown(json!([order, order])), of("A-1", "506"));
        for other in [
            json!({ "prepayId": "506" }),
            json!({ "merchantTradeNo": "A-1" }),
            json!({ "merchantTradeNo": "50-6", "prepayId": "506" }),
            json!([order, { "merchantTradeNo": "A-2", "prepayId": "507" }]),
            json!("text"),
        ] {
            assert_eq!(shown(other.clone()), None, "{other}");
        }
        let failed = json!({ "status": "FAIL", "code": "400202", "data": order });
        assert_eq!(look_up.shown(200, failed.to_string().as_bytes()), None);
    }

    #[test]
    fn an_inquiry_is_made_by_the_id_that_gatepay_has_made_and_never_by_a_number() {
        let catalogue = Catalogue::standard();
        for (body, operation, query, content) in [
            (
                json!({ "bizType": "PAY", "bizId": "506", "data": { "merchantTradeNo": "A-1" } }),
                "query_order",
                None,
                r#"{"prepayId":"506"}"#,
            ),
            (
                json!({ "bizType": "PAY_REFUND", "bizId": "R-9",
                    "data": { "refundInfo": { "prepayId": "506", "refundRequestId": "R-1" } } }),
                "query_order",
                None,
                r#"{"prepayId":"506"}"#,
            ),
            (
                json!({ "bizType": "TRANSFER_ADDRESS", "bizId": "506", "data": {} }),
                "query_address_order",
                Some("prepayId=506"),
                "",
            ),
            (
                json!({ "bizType": "PAY_BATCH", "bizId": "N-1", "data": { "batch_id": "77" } }),
                "query_batch_transfer",
                None,
                r#"{"batch_id":"77","detail_status":"ALL"}"#,
            ),
            (
                json!({ "bizType": "", "bizStatus": "DONE", "data": { "orderId": "9", "clientOrderId": "C" } }),
                "otc_order_detail",
                Some("orderId=9"),
                "",
            ),
        ] {
            let inquiry = about(&body).unwrap();
            let row = inquiry.look_up.row(&catalogue).unwrap();
            assert_eq!(row.name, operation, "{body}");
            let asked = inquiry.content(row);
            assert_eq!(
                (asked.query.as_deref(), &*asked.body),
                (query, content),
                "{body}"
            );
        }
        for body in [
            // A number alone, two ids, an id that may be a number, a refund without its number, a body with two readings.
            json!({ "bizType": "PAY", "data": { "merchantTradeNo": "A-1" } }),
            json!({ "bizType": "PAY", "bizId": "506", "data": { "prepayId": "507" } }),
            json!({ "bizType": "PAY_BATCH", "bizId": "77", "data": { "merchant_batch_no": "77" } }),
            json!({ "bizType": "PAY_REFUND", "bizId": "506", "data": { "prepayId": "506" } }),
            json!({ "bizType": "PAY", "bizId": "506", "data": "{" }),
            // Payouts name the account, and their ids may be the caller's.
            json!({ "main_order": { "batch_id": "B", "status": "SUCCESS" } }),
            json!({ "bizType": "NEW_KIND", "bizId": "506", "data": { "prepayId": "506" } }),
        ] {
            assert_eq!(about(&body), None, "{body}");
        }
    }

    #[test]
    fn an_account_has_the_object_only_if_the_answer_prints_its_id_and_contradicts_nothing() {
        use OwnerAnswer::{Has, Unclear};
        for (data, expected) in [
            (json!({ "prepayId": "506", "merchantTradeNo": "A-1" }), Has),
            (json!({ "prepayId": 506, "merchantTradeNo": "A-1" }), Has),
            (json!({ "prepayId": "506" }), Has),
            (json!("{\"prepayId\":\"506\"}"), Has),
            (
                json!({ "bizCode": "", "bizData": { "prepayId": "506" } }),
                Has,
            ),
            // The account's own order under the same number.
            (
                json!({ "prepayId": "507", "merchantTradeNo": "A-1" }),
                Unclear,
            ),
            (json!({ "merchantTradeNo": "A-1" }), Unclear),
            (
                json!({ "prepayId": "506", "merchantTradeNo": "B-1" }),
                Unclear,
            ),
            (
                json!([{ "prepayId": "506" }, { "prepayId": "507" }]),
                Unclear,
            ),
            (json!({ "payDetails": [{ "prepayId": "506" }] }), Unclear),
            (json!({}), Unclear),
            (Value::Null, Unclear),
            (json!([]), Unclear),
        ] {
            assert_eq!(answer(&data), expected, "{data}");
        }
        let twice = br#"{"status":"SUCCESS","data":{"prepayId":"506","prepayId":"507"}}"#;
        assert_eq!(paid().observe(200, twice), Unclear);
    }

    #[test]
    fn an_account_has_no_object_only_by_a_code_that_says_so() {
        for (status, body, expected) in [
            (
                200,
                r#"{"status":"FAIL","code":"400202"}"#,
                OwnerAnswer::HasNot,
            ),
            (
                200,
                r#"{"status":"FAIL","code":"500203"}"#,
                OwnerAnswer::HasNot,
            ),
            (
                200,
                r#"{"status":"FAIL","code":"400203"}"#,
                OwnerAnswer::Unclear,
            ),
            (
                200,
                r#"{"status":"FAIL","code":"500008"}"#,
                OwnerAnswer::Unclear,
            ),
            (
                500,
                r#"{"status":"FAIL","code":"400202"}"#,
                OwnerAnswer::Unclear,
            ),
            (500, "", OwnerAnswer::Unclear),
            (429, "", OwnerAnswer::Unclear),
            (200, "<html>", OwnerAnswer::Unclear),
        ] {
            assert_eq!(paid().observe(status, body.as_bytes()), expected, "{body}");
        }
    }
}
