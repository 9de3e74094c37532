//! Orders and their refunds: create, pay, query, close, refund.
//!
//! A pure ledger: it opens no sockets and reads no clock. Where GatePay's pages contradict each other (lengths of
//! numbers, decimals of amounts; protocol.md 7) it holds the caller only to what all of them say.

use std::collections::HashMap;

use gatepay_core::order;

use crate::amount::Amount;
use crate::body::Body;
use crate::{Failure, NumbersUniquePer};

/// How long an order may stay unpaid, at most and by default (samples.json).
const LONGEST_LIFE_MS: u64 = 3_600_000;

/// The first `prepayId` is the number after it; they have as many digits as those GatePay prints.
const BEFORE_FIRST_PREPAY_ID: u64 = 50_000_000_000_000_000;

/// Who calls, and when.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The sub-account in whose name the call is made.
    pub(crate) account: &'a str,
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
}

/// All orders and refunds of the institution.
pub(crate) struct Orders {
    numbers_unique_per: NumbersUniquePer,
    by_prepay_id: HashMap<String, Order>,
    /// By merchantTradeNo.
    prepay_ids: HashMap<Number, String>,
    /// By refundRequestId.
    refunds: HashMap<Number, Refund>,
}

/// A number that a merchant chose, and among whose it has to be unique.
#[derive(PartialEq, Eq, Hash)]
struct Number {
    account: Option<String>,
    number: String,
}

struct Order {
    prepay_id: String,
    account: String,
    number: String,
    goods_name: String,
    currency: String,
    amount: Amount,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    channel_id: String,
    created_ms: u64,
    expires_ms: u64,
    progress: Progress,
    /// What is not refunded yet.
    refundable: Amount,
}

/// What was done to an order; its status follows from this and the time.
#[derive(Clone, Copy)]
enum Progress {
    Created,
    Paid { at_ms: u64 },
    Closed,
}

/// PENDING, PAID and EXPIRED were seen in GatePay's answers; CLOSED is the sandbox's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Pending,
    Paid,
    Expired,
    Closed,
}

struct Refund {
    account: String,
    prepay_id: String,
    amount: Amount,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    reason: String,
}

impl Orders {
    pub(crate) fn new(numbers_unique_per: NumbersUniquePer) -> Self {
        Self {
            numbers_unique_per,
            by_prepay_id: HashMap::new(),
            prepay_ids: HashMap::new(),
            refunds: HashMap::new(),
        }
    }

    /// `POST /v1/pay/order`.
    pub(crate) fn create(
        &mut self,
        call: Call<'_>,
        body: &Body,
    ) -> Result<order::CreatedOrder, Failure> {
        let number = body.id("merchantTradeNo")?;
        let terminal_type = body.object("env")?.text("terminalType")?.to_owned();
        let goods_name = body.object("goods")?.text("goodsName")?.to_owned();
        let currency = body.text("currency")?;
        let amount_text = body.text("orderAmount")?;
        let amount = positive(amount_text).ok_or(Failure::Malformed("orderAmount"))?;
        let latest = call.now.saturating_add(LONGEST_LIFE_MS);
        let expires_ms = body.optional_time("orderExpireTime")?.unwrap_or(latest);
        if expires_ms <= call.now || expires_ms > latest {
            return Err(Failure::Malformed("orderExpireTime"));
        }
        let channel_id = body.optional_id("channelId")?.unwrap_or_default();

        let key = self.number(call.account, number);
        if self.prepay_ids.contains_key(&key) {
            return Err(Failure::OrderExists);
        }
        let order = Order {
            prepay_id: (BEFORE_FIRST_PREPAY_ID + 1 + self.by_prepay_id.len() as u64).to_string(),
            account: call.account.to_owned(),
            number: number.to_owned(),
            goods_name,
            currency: currency.to_owned(),
            amount,
            amount_text: amount_text.to_owned(),
            channel_id: channel_id.to_owned(),
            created_ms: call.now,
            expires_ms,
            progress: Progress::Created,
            refundable: amount,
        };
        let answer = order::CreatedOrder {
            prepay_id: order.prepay_id.clone(),
            terminal_type: Some(terminal_type),
            expire_time: Some(signed(expires_ms)),
            ..Default::default()
        };
        self.prepay_ids.insert(key, order.prepay_id.clone());
        self.by_prepay_id.insert(order.prepay_id.clone(), order);
        Ok(answer)
    }

    /// `POST /v1/pay/order/query`.
    pub(crate) fn query(&mut self, call: Call<'_>, body: &Body) -> Result<order::Order, Failure> {
        Ok(self.named(call.account, body)?.describe(call.now))
    }

    /// `POST /v1/pay/order/close`.
    pub(crate) fn close(
        &mut self,
        call: Call<'_>,
        body: &Body,
    ) -> Result<order::ClosedOrder, Failure> {
        let order = self.named(call.account, body)?;
        match order.status(call.now) {
            Status::Pending => order.progress = Progress::Closed,
            Status::Paid | Status::Expired | Status::Closed => return Err(Failure::OrderStatus),
        }
        Ok(order::ClosedOrder {
            result: "SUCCESS".to_owned(),
            ..Default::default()
        })
    }

    /// What the customer does, in no call of the API.
    pub(crate) fn pay(&mut self, call: Call<'_>, prepay_id: &str) -> Result<(), Failure> {
        let order = self.own(call.account, prepay_id)?;
        match order.status(call.now) {
            Status::Pending => order.progress = Progress::Paid { at_ms: call.now },
            Status::Paid => return Err(Failure::DuplicatePayment),
            Status::Expired => return Err(Failure::OrderTimedOut),
            Status::Closed => return Err(Failure::OrderStatus),
        }
        Ok(())
    }

    /// The sub-account that an order belongs to.
    pub(crate) fn owner(&self, prepay_id: &str) -> Option<&str> {
        self.by_prepay_id
            .get(prepay_id)
            .map(|order| order.account.as_str())
    }

    /// `POST /v1/pay/order/refund`. The same refund asked for again is answered again and done once.
    pub(crate) fn refund(&mut self, call: Call<'_>, body: &Body) -> Result<order::Refund, Failure> {
        let id = body.id("refundRequestId")?;
        let amount_text = body.text("refundAmount")?;
        let refund = Refund {
            account: call.account.to_owned(),
            prepay_id: body.text("prepayId")?.to_owned(),
            amount: Amount::parse(amount_text).ok_or(Failure::Malformed("refundAmount"))?,
            amount_text: amount_text.to_owned(),
            reason: body
                .optional_text("refundReason")?
                .unwrap_or_default()
                .to_owned(),
        };

        let key = self.number(call.account, id);
        if let Some(earlier) = self.refunds.get(&key) {
            if !earlier.is_same(&refund) {
                return Err(Failure::Malformed("refundRequestId"));
            }
            return Ok(earlier.describe(id, &self.by_prepay_id[&earlier.prepay_id]));
        }
        let order = self.own(call.account, &refund.prepay_id)?;
        match order.status(call.now) {
            Status::Paid => {}
            Status::Pending => return Err(Failure::OrderNotFinal),
            Status::Expired | Status::Closed => return Err(Failure::OrderStatus),
        }
        if refund.amount == Amount::ZERO {
            return Err(Failure::RefundAmount);
        }
        order.refundable = order
            .refundable
            .minus(refund.amount)
            .ok_or(Failure::RefundAmount)?;
        let answer = refund.describe(id, order);
        self.refunds.insert(key, refund);
        Ok(answer)
    }

    /// `POST /v1/pay/order/refund/query`. Refunds are done as soon as they are accepted; the status is the word that
    /// notifications use for it, since no page prints this answer.
    pub(crate) fn query_refund(
        &mut self,
        call: Call<'_>,
        body: &Body,
    ) -> Result<order::Refund, Failure> {
        let id = body.id("refundRequestId")?;
        let refund = self
            .refunds
            .get(&self.number(call.account, id))
            .filter(|refund| refund.account == call.account)
            .ok_or(Failure::UnknownRefund)?;
        let mut answer = refund.describe(id, &self.by_prepay_id[&refund.prepay_id]);
        answer.refund_status = Some("REFUND_SUCCESS".to_owned());
        Ok(answer)
    }

    /// The caller's own order that a body names by prepayId, merchantTradeNo, or both.
    fn named(&mut self, account: &str, body: &Body) -> Result<&mut Order, Failure> {
        let prepay_id = body.optional_text("prepayId")?;
        let number = body.optional_id("merchantTradeNo")?;
        let prepay_id = match (prepay_id, number) {
            (None, None) => return Err(Failure::Malformed("prepayId or merchantTradeNo")),
            (Some(prepay_id), _) => prepay_id.to_owned(),
            (None, Some(number)) => self
                .prepay_ids
                .get(&self.number(account, number))
                .ok_or(Failure::UnknownOrder)?
                .clone(),
        };
        let order = self.own(account, &prepay_id)?;
        if number.is_some_and(|number| number != order.number) {
            return Err(Failure::UnknownOrder);
        }
        Ok(order)
    }

    /// The caller's own order. Another's is as unknown as none.
    fn own(&mut self, account: &str, prepay_id: &str) -> Result<&mut Order, Failure> {
        self.by_prepay_id
            .get_mut(prepay_id)
            .filter(|order| order.account == account)
            .ok_or(Failure::UnknownOrder)
    }

    fn number(&self, account: &str, number: &str) -> Number {
        Number {
            account: match self.numbers_unique_per {
                NumbersUniquePer::SubAccount => Some(account.to_owned()),
                NumbersUniquePer::Institution => None,
            },
            number: number.to_owned(),
        }
    }
}

impl Order {
    fn status(&self, now: u64) -> Status {
        match self.progress {
            Progress::Created if now >= self.expires_ms => Status::Expired,
            Progress::Created => Status::Pending,
            Progress::Paid { .. } => Status::Paid,
            Progress::Closed => Status::Closed,
        }
    }

    /// The answer to a query, with every field that samples.json has.
    fn describe(&self, now: u64) -> order::Order {
        let mut answer = order::Order {
            prepay_id: self.prepay_id.clone(),
            // A number in this answer. Account ids are decimal digits in all samples.
            merchant_id: Some(self.account.parse().unwrap_or_default()),
            merchant_trade_no: self.number.clone(),
            transaction_id: Some(String::new()),
            goods_name: Some(self.goods_name.clone()),
            currency: self.currency.clone(),
            order_amount: self.amount_text.clone(),
            status: self.status(now).as_str().to_owned(),
            create_time: Some(signed(self.created_ms)),
            expire_time: Some(signed(self.expires_ms)),
            transact_time: Some(0),
            order_name: Some(format!("MiniApp-Payment#{}", self.number)),
            pay_currency: Some(String::new()),
            pay_amount: Some("0".to_owned()),
            rate: Some("0".to_owned()),
            channel_type: Some(String::new()),
            in_usdt: Some(String::new()),
            app_logo: Some(String::new()),
            app_name: Some(String::new()),
            channel_id: Some(self.channel_id.clone()),
            total_fee_amount: Some("0".to_owned()),
            total_settle_amount: Some(String::new()),
            pay_details: Some(Vec::new()),
            ..Default::default()
        };
        if let Progress::Paid { at_ms } = self.progress {
            answer.transaction_id = Some(format!("T{}", self.prepay_id));
            answer.transact_time = Some(signed(at_ms));
            answer.pay_currency = Some(self.currency.clone());
            answer.pay_amount = Some(self.amount.to_string());
            answer.total_settle_amount = Some(self.amount.to_string());
        }
        answer
    }
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Paid => "PAID",
            Self::Expired => "EXPIRED",
            Self::Closed => "CLOSED",
        }
    }
}

impl Refund {
    /// Whether `other` asks for the same; amounts are compared by value.
    fn is_same(&self, other: &Self) -> bool {
        (&self.account, &self.prepay_id, self.amount, &self.reason)
            == (
                &other.account,
                &other.prepay_id,
                other.amount,
                &other.reason,
            )
    }

    fn describe(&self, id: &str, order: &Order) -> order::Refund {
        order::Refund {
            refund_request_id: id.to_owned(),
            prepay_id: self.prepay_id.clone(),
            order_amount: Some(order.amount_text.clone()),
            refund_amount: Some(self.amount_text.clone()),
            channel_id: Some(order.channel_id.clone()),
            ..Default::default()
        }
    }
}

fn positive(text: &str) -> Option<Amount> {
    Amount::parse(text).filter(|amount| *amount > Amount::ZERO)
}

/// A time in the type that answers have it in.
fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: u64 = 1_767_225_600_000;
    const ACME: Call<'_> = Call {
        account: "2124538349",
        now: NOW,
    };
    const OTHER: Call<'_> = Call {
        account: "2124538350",
        now: NOW,
    };

    fn body(value: &Value) -> Body {
        Body::parse(value.to_string().as_bytes()).unwrap()
    }

    fn create_body(number: &str, amount: &str) -> Value {
        json!({
            "merchantTradeNo": number,
            "env": {"terminalType": "APP"},
            "currency": "GT",
            "orderAmount": amount,
            "goods": {"goodsName": "NF2T"},
        })
    }

    fn by_number(number: &str) -> Body {
        body(&json!({ "merchantTradeNo": number }))
    }

    fn refund_body(id: &str, prepay_id: &str, amount: &str) -> Body {
        body(&json!({"refundRequestId": id, "prepayId": prepay_id, "refundAmount": amount}))
    }

    fn orders() -> Orders {
        Orders::new(NumbersUniquePer::SubAccount)
    }

    fn create(orders: &mut Orders, call: Call<'_>, number: &str, amount: &str) -> String {
        let created = orders.create(call, &body(&create_body(number, amount)));
        created.unwrap().prepay_id
    }

    fn paid(orders: &mut Orders, number: &str, amount: &str) -> String {
        let prepay_id = create(orders, ACME, number, amount);
        orders.pay(ACME, &prepay_id).unwrap();
        prepay_id
    }

    fn status(orders: &mut Orders, call: Call<'_>, number: &str) -> String {
        orders.query(call, &by_number(number)).unwrap().status
    }

    #[test]
    fn an_order_is_created_paid_queried_and_refunded() {
        let mut orders = orders();
        let created = orders
            .create(ACME, &body(&create_body("22212345678555", "1.210")))
            .unwrap();
        assert_eq!(created.prepay_id, "50000000000000001");
        assert_eq!(created.terminal_type.as_deref(), Some("APP"));
        assert_eq!(created.expire_time, Some(1_767_229_200_000));
        assert_eq!(status(&mut orders, ACME, "22212345678555"), "PENDING");

        let later = Call {
            now: NOW + 5,
            ..ACME
        };
        assert_eq!(orders.pay(later, &created.prepay_id), Ok(()));
        let order = orders.query(ACME, &by_number("22212345678555")).unwrap();
        assert_eq!(order.status, "PAID");
        assert_eq!(order.transact_time, Some(1_767_225_600_005));
        assert_eq!(
            order.order_amount, "1.210",
            "the merchant's own spelling is kept"
        );
        assert_eq!(order.merchant_id, Some(2_124_538_349));

        let refund = orders
            .refund(ACME, &refund_body("156123911", &created.prepay_id, "0.8"))
            .unwrap();
        assert_eq!(refund.order_amount.as_deref(), Some("1.210"));
        assert_eq!(refund.refund_amount.as_deref(), Some("0.8"));
        assert_eq!(refund.refund_status, None);
        let asked = body(&json!({"refundRequestId": "156123911"}));
        assert_eq!(
            orders.query_refund(ACME, &asked).unwrap().refund_status,
            Some("REFUND_SUCCESS".into())
        );
    }

    #[test]
    fn an_answer_to_a_query_has_the_fields_of_the_published_sample() {
        let mut orders = orders();
        paid(&mut orders, "order-1", "1");
        let order = orders.query(ACME, &by_number("order-1")).unwrap();
        let Value::Object(answer) = serde_json::to_value(order).unwrap() else {
            panic!("an order is an object");
        };
        let mut names: Vec<_> = answer.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "appLogo",
                "appName",
                "channelId",
                "channel_type",
                "createTime",
                "currency",
                "expireTime",
                "goodsName",
                "inUsdt",
                "merchantId",
                "merchantTradeNo",
                "orderAmount",
                "order_name",
                "payDetails",
                "pay_amount",
                "pay_currency",
                "prepayId",
                "rate",
                "status",
                "totalFeeAmount",
                "totalSettleAmount",
                "transactTime",
                "transactionId",
            ]
        );
    }

    #[test]
    fn a_number_is_taken_even_after_its_order_is_over() {
        let mut orders = orders();
        create(&mut orders, ACME, "order-1", "1");
        orders.close(ACME, &by_number("order-1")).unwrap();
        let again = orders.create(ACME, &body(&create_body("order-1", "1")));
        assert_eq!(again, Err(Failure::OrderExists));
    }

    #[test]
    fn two_sub_accounts_may_use_one_number_for_two_orders() {
        let mut orders = orders();
        let first = create(&mut orders, ACME, "order-1", "1");
        let second = create(&mut orders, OTHER, "order-1", "2");
        assert_ne!(first, second);
        orders.close(OTHER, &by_number("order-1")).unwrap();
        assert_eq!(status(&mut orders, ACME, "order-1"), "PENDING");
        assert_eq!(status(&mut orders, OTHER, "order-1"), "CLOSED");
    }

    #[test]
    fn numbers_may_be_unique_in_the_whole_institution() {
        let mut orders = Orders::new(NumbersUniquePer::Institution);
        let prepay_id = create(&mut orders, ACME, "order-1", "1");
        let taken = orders.create(OTHER, &body(&create_body("order-1", "1")));
        assert_eq!(taken, Err(Failure::OrderExists));
        assert_eq!(
            orders.query(OTHER, &by_number("order-1")),
            Err(Failure::UnknownOrder)
        );

        orders.pay(ACME, &prepay_id).unwrap();
        let refund = refund_body("refund-1", &prepay_id, "1");
        orders.refund(ACME, &refund).unwrap();
        assert_eq!(
            orders.refund(OTHER, &refund),
            Err(Failure::Malformed("refundRequestId"))
        );
        let asked = body(&json!({"refundRequestId": "refund-1"}));
        assert_eq!(
            orders.query_refund(OTHER, &asked),
            Err(Failure::UnknownRefund)
        );
    }

    #[test]
    fn another_sub_accounts_order_is_as_unknown_as_none() {
        let mut orders = orders();
        let prepay_id = paid(&mut orders, "order-1", "1");
        orders
            .refund(ACME, &refund_body("refund-1", &prepay_id, "1"))
            .unwrap();
        for stranger in [by_number("order-1"), body(&json!({"prepayId": prepay_id}))] {
            assert_eq!(orders.query(OTHER, &stranger), Err(Failure::UnknownOrder));
            assert_eq!(orders.close(OTHER, &stranger), Err(Failure::UnknownOrder));
        }
        assert_eq!(
            orders.refund(OTHER, &refund_body("refund-1", &prepay_id, "1")),
            Err(Failure::UnknownOrder)
        );
        assert_eq!(orders.pay(OTHER, &prepay_id), Err(Failure::UnknownOrder));
        let asked = body(&json!({"refundRequestId": "refund-1"}));
        assert_eq!(
            orders.query_refund(OTHER, &asked),
            Err(Failure::UnknownRefund)
        );
    }

    #[test]
    fn both_ids_have_to_name_one_order() {
        let mut orders = orders();
        let prepay_id = create(&mut orders, ACME, "order-1", "1");
        create(&mut orders, ACME, "order-2", "1");
        let named = |number| body(&json!({"prepayId": prepay_id, "merchantTradeNo": number}));
        assert!(orders.query(ACME, &named("order-1")).is_ok());
        assert_eq!(
            orders.query(ACME, &named("order-2")),
            Err(Failure::UnknownOrder)
        );
        assert!(orders.query(ACME, &named("")).is_ok(), "empty is absent");
        assert_eq!(
            orders.query(
                ACME,
                &body(&json!({"merchantTradeNo": "", "prepayId": null}))
            ),
            Err(Failure::Malformed("prepayId or merchantTradeNo"))
        );
    }

    #[test]
    fn only_an_unpaid_order_can_be_closed_or_paid() {
        let mut orders = orders();
        let closed = create(&mut orders, ACME, "closed", "1");
        assert_eq!(
            orders.close(ACME, &by_number("closed")).unwrap().result,
            "SUCCESS"
        );
        paid(&mut orders, "paid", "1");
        let expired = create(&mut orders, ACME, "expired", "1");
        let later = Call {
            now: NOW + 3_600_000,
            ..ACME
        };
        for number in ["closed", "paid", "expired"] {
            assert_eq!(
                orders.close(later, &by_number(number)),
                Err(Failure::OrderStatus),
                "{number}"
            );
        }
        assert_eq!(orders.pay(later, &closed), Err(Failure::OrderStatus));
        assert_eq!(orders.pay(later, &expired), Err(Failure::OrderTimedOut));
        assert_eq!(
            orders.pay(later, "50000000000000002"),
            Err(Failure::DuplicatePayment)
        );
        assert_eq!(orders.pay(later, "17"), Err(Failure::UnknownOrder));
    }

    #[test]
    fn an_unpaid_order_expires_at_its_time_and_a_paid_one_never() {
        let mut orders = orders();
        let mut request = create_body("order-1", "1");
        request["orderExpireTime"] = json!(NOW + 1000);
        orders.create(ACME, &body(&request)).unwrap();
        paid(&mut orders, "paid", "1");
        let at = |now| Call { now, ..ACME };
        assert_eq!(status(&mut orders, at(NOW + 999), "order-1"), "PENDING");
        assert_eq!(status(&mut orders, at(NOW + 1000), "order-1"), "EXPIRED");
        assert_eq!(status(&mut orders, at(u64::MAX), "paid"), "PAID");
    }

    #[test]
    fn a_field_that_is_missing_or_malformed_is_named() {
        let mut orders = orders();
        for (field, value) in [
            ("merchantTradeNo", json!(null)),
            ("merchantTradeNo", json!("n".repeat(33))),
            ("merchantTradeNo", json!(17)),
            ("env", json!(null)),
            ("goods", json!("NFT")),
            ("currency", json!("")),
            ("orderAmount", json!(1.21)),
            ("orderAmount", json!("0.00")),
            ("orderAmount", json!("-1")),
            ("orderAmount", json!("1e3")),
            ("orderExpireTime", json!(NOW)),
            ("orderExpireTime", json!(NOW + 3_600_001)),
            ("channelId", json!("c".repeat(33))),
        ] {
            let mut request = create_body("order-1", "1");
            request[field] = value;
            assert_eq!(
                orders.create(ACME, &body(&request)),
                Err(Failure::Malformed(field))
            );
        }
        let mut request = create_body("order-1", "1");
        request["env"] = json!({});
        assert_eq!(
            orders.create(ACME, &body(&request)),
            Err(Failure::Malformed("terminalType"))
        );
        assert_eq!(
            orders.refund(ACME, &refund_body("r", "1", "one")),
            Err(Failure::Malformed("refundAmount"))
        );
        assert_eq!(
            orders.query(ACME, &by_number("order-1")),
            Err(Failure::UnknownOrder)
        );
    }

    #[test]
    fn only_a_paid_order_can_be_refunded() {
        let mut orders = orders();
        let pending = create(&mut orders, ACME, "pending", "1");
        let closed = create(&mut orders, ACME, "closed", "1");
        orders.close(ACME, &by_number("closed")).unwrap();
        let mut refund = |id: &str| orders.refund(ACME, &refund_body("r", id, "1"));
        assert_eq!(refund(&pending), Err(Failure::OrderNotFinal));
        assert_eq!(refund(&closed), Err(Failure::OrderStatus));
        assert_eq!(refund("17"), Err(Failure::UnknownOrder));
        let asked = body(&json!({"refundRequestId": "r"}));
        assert_eq!(
            orders.query_refund(ACME, &asked),
            Err(Failure::UnknownRefund)
        );
    }

    #[test]
    fn refunds_together_are_at_most_the_orders_amount() {
        let mut orders = orders();
        let prepay_id = paid(&mut orders, "order-1", "1");
        let mut refund = |id: &str, amount: &str| {
            orders
                .refund(ACME, &refund_body(id, &prepay_id, amount))
                .map(|_| ())
        };
        assert_eq!(refund("r1", "0.9"), Ok(()));
        assert_eq!(refund("r2", "0.2"), Err(Failure::RefundAmount));
        assert_eq!(refund("r2", "0"), Err(Failure::RefundAmount));
        assert_eq!(
            refund("r2", "0.10"),
            Ok(()),
            "what was refused used no number"
        );
        assert_eq!(refund("r3", "0.000001"), Err(Failure::RefundAmount));
    }

    #[test]
    fn the_same_refund_asked_for_again_is_answered_again_and_done_once() {
        let mut orders = orders();
        let prepay_id = paid(&mut orders, "order-1", "1");
        let first = orders.refund(ACME, &refund_body("r1", &prepay_id, "0.6"));
        assert!(first.is_ok());
        for same in ["0.6", "0.60"] {
            assert_eq!(
                orders.refund(ACME, &refund_body("r1", &prepay_id, same)),
                first
            );
        }
        assert_eq!(
            orders.refund(ACME, &refund_body("r1", &prepay_id, "0.4")),
            Err(Failure::Malformed("refundRequestId"))
        );
        assert!(
            orders
                .refund(ACME, &refund_body("r2", &prepay_id, "0.4"))
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn refunds_never_exceed_the_orders_amount(
            cents in 1..500_u32,
            asked in prop::collection::vec((0..12_u8, 0..200_u32), 0..40),
        ) {
            let text = |cents: u32| format!("{}.{:02}", cents / 100, cents % 100);
            let mut orders = orders();
            let prepay_id = paid(&mut orders, "order-1", &text(cents));
            let mut done: HashMap<u8, u32> = HashMap::new();
            for (id, part) in asked {
                let request = refund_body(&format!("r{id}"), &prepay_id, &text(part));
                let answer = orders.refund(ACME, &request).map(|_| ());
                let left = cents - done.values().sum::<u32>();
                let expected = match done.get(&id) {
                    Some(earlier) if *earlier == part => Ok(()),
                    Some(_) => Err(Failure::Malformed("refundRequestId")),
                    None if part == 0 || part > left => Err(Failure::RefundAmount),
                    None => Ok(()),
                };
                prop_assert_eq!(answer, expected);
                if answer.is_ok() {
                    done.insert(id, part);
                }
                prop_assert!(done.values().sum::<u32>() <= cents);
            }
        }
    }
}
