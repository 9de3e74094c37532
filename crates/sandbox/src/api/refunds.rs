//! Refunds of orders, in five forms; any query finds refunds of every form.
//!
//! A refund takes the order's price from the merchant, and gives the customer the corresponding payment. An accepted
//! refund is done at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use gatepay_core::order;
use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyHolder};
use crate::api::orders::{OrderBook, OrderStatus, SandboxOrder, of_address_payment};
use crate::config::{AnswerForms, NumbersUniquePer};
use crate::rules::call::{LedgerCall, Outcome, data};
use crate::rules::market;
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::RequestNumber;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The first id of GatePay's own.
const FIRST_ID: u64 = 70_000_000_000_000_001;

/// All refunds of the institution, by refundRequestId.
pub(crate) struct RefundBook {
    numbers_unique_per: NumbersUniquePer,
    refunds: HashMap<RequestNumber, SandboxRefund>,
}

struct SandboxRefund {
    account: String,
    number: String,
    id: String,
    asked: RefundTerms,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    /// The customer's amount, in the currency of the payment.
    pay_amount: Amount,
    done_ms: u64,
}

/// The books that a refund changes.
pub(crate) struct RefundBooks<'l> {
    pub(crate) refunds: &'l mut RefundBook,
    pub(crate) orders: &'l mut OrderBook,
    pub(crate) balances: &'l mut Balances,
    pub(crate) news: &'l mut NewsBook,
}

/// The terms of a refund. Two refunds are the same if their terms are equal; amounts are compared by value.
#[derive(PartialEq)]
struct RefundTerms {
    prepay_id: String,
    /// The amount in the currency of the order's price.
    amount: Amount,
    reason: String,
    target: RefundTarget,
}

/// The destination of a refund. 0 and empty text mean "not specified".
#[derive(PartialEq, Default)]
struct RefundTarget {
    /// 1 back to the payer, 2 to the named receiver.
    style: u64,
    /// 1 a Gate account, 2 a chain.
    channel: u64,
    gate_uid: u64,
    address: String,
    chain: String,
    /// The party that bears the fee. The sandbox takes no fee.
    bear_type: u64,
    /// 1 the whole amount, 2 a part.
    amount_type: u64,
}

/// `POST /v1/pay/order/refund`. A repeated refund is answered again and executed once.
pub(crate) fn refund(
    books: RefundBooks<'_>,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let target = RefundTarget::default();
    let (refund, order) = books.accept(call, asked, in_order_currency(asked, target)?)?;
    Ok(data(refund.describe(order)))
}

/// `POST /v2/standard/order/refund`; `/v3/order/refund` is on no page, and the sandbox treats it alike.
pub(crate) fn refund_v2(
    books: RefundBooks<'_>,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let target = RefundTarget::asked(asked)?;
    let (refund, order) = books.accept(call, asked, in_order_currency(asked, target)?)?;
    Ok(refund.describe_v2(order))
}

/// `POST /v1/pay/address/refund`: the refund of an order that was not converted.
pub(crate) fn refund_at_address(
    books: RefundBooks<'_>,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let wanted = in_order_currency(asked, RefundTarget::receiver(asked)?)?;
    let order = books.orders.own(call.account, &wanted.prepay_id);
    if order.map_err(of_address_payment)?.is_converted() {
        return Err(ApiFailure::NotConverted);
    }
    let (refund, order) = books.accept(call, asked, wanted)?;
    Ok(refund.describe_v2(order))
}

/// `POST /v1/pay/address/refundconvert`: the refund of an order that was converted.
pub(crate) fn refund_converted(
    books: RefundBooks<'_>,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = books.orders.own(call.account, asked.text("prepayId")?);
    if !order.map_err(of_address_payment)?.is_converted() {
        return Err(ApiFailure::NotConverted);
    }
    refund_checkout(books, call, asked)
}

/// `POST /v1/pay/checkout/refund`: the form of converted orders, for any order.
pub(crate) fn refund_checkout(
    books: RefundBooks<'_>,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let target = RefundTarget::receiver(asked)?;
    asked.text("refundReason")?;
    let order = books.orders.own(call.account, asked.text("prepayId")?)?;
    let wanted = in_either_currency(asked, order, target)?;
    let (refund, order) = books.accept(call, asked, wanted)?;
    Ok(match call.forms {
        AnswerForms::Clients => refund.describe_converted(order),
        AnswerForms::Documentation => refund.describe_v2(order),
    })
}

/// `POST /v1/pay/order/refund/query`. The status is the word that notifications use, since no page prints this answer.
pub(crate) fn query(
    refunds: &RefundBook,
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let refund = refunds.named(call, asked)?;
    let order = orders.own(call.account, &refund.asked.prepay_id)?;
    let mut answer = refund.describe(order);
    answer.refund_status = Some("REFUND_SUCCESS".to_owned());
    Ok(data(answer))
}

/// `GET /v2/pay/refund/details`; `/v3/…` is on no page and answers the same.
pub(crate) fn details(
    refunds: &RefundBook,
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let refund = refunds.named(call, asked)?;
    let order = orders.own(call.account, &refund.asked.prepay_id)?;
    Ok(refund.describe_details(order))
}

/// `GET /v2/refund/support/chains`, and `/v3/…`. No page shows the answer.
pub(crate) fn chains(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let currency = asked.optional_text("currency")?.unwrap_or("USDT");
    Ok(json!({"currency": currency, "chains": market::chains_of(currency)}))
}

/// Reads a refund whose amount is in the currency of the price.
fn in_order_currency(
    asked: &RequestParameters,
    target: RefundTarget,
) -> Result<RefundTerms, ApiFailure> {
    let amount = Amount::parse(asked.text("refundAmount")?);
    Ok(RefundTerms {
        prepay_id: asked.text("prepayId")?.to_owned(),
        amount: amount.ok_or(ApiFailure::Malformed("refundAmount"))?,
        reason: reason(asked)?,
        target,
    })
}

/// Reads a refund whose amount is in the currency of the price or of the payment.
fn in_either_currency(
    asked: &RequestParameters,
    order: &SandboxOrder,
    target: RefundTarget,
) -> Result<RefundTerms, ApiFailure> {
    if asked.text("refundOrderCurrency")? != order.price.currency
        || asked.text("refundPayCurrency")? != order.pay_currency
    {
        return Err(ApiFailure::RefundCurrency);
    }
    let of_price = asked.optional_amount("refundOrderAmount")?;
    let amount = match (of_price, asked.optional_amount("refundPayAmount")?) {
        (Some(amount), _) => amount,
        (None, Some(paid)) => market::buys(&order.pay_currency, paid, &order.price.currency)?,
        (None, None) => {
            return Err(ApiFailure::Malformed(
                "refundOrderAmount or refundPayAmount",
            ));
        }
    };
    Ok(RefundTerms {
        prepay_id: order.prepay_id.clone(),
        amount,
        reason: reason(asked)?,
        target,
    })
}

fn reason(asked: &RequestParameters) -> Result<String, ApiFailure> {
    Ok(asked
        .optional_text("refundReason")?
        .unwrap_or_default()
        .to_owned())
}

impl<'l> RefundBooks<'l> {
    /// Executes a refund, or returns the earlier identical refund.
    fn accept(
        self,
        call: LedgerCall<'_>,
        parameters: &RequestParameters,
        asked: RefundTerms,
    ) -> Result<(&'l SandboxRefund, &'l SandboxOrder), ApiFailure> {
        let Self {
            refunds,
            orders,
            balances,
            news,
        } = self;
        let number = parameters.id("refundRequestId")?;
        let key = refunds.numbers_unique_per.number(call.account, number);
        let order = orders.own(call.account, &asked.prepay_id);
        let id = (FIRST_ID + refunds.refunds.len() as u64).to_string();
        let slot = match refunds.refunds.entry(key) {
            Entry::Occupied(earlier) => {
                let earlier = earlier.into_mut();
                if earlier.account != call.account || earlier.asked != asked {
                    return Err(ApiFailure::Reused("refundRequestId"));
                }
                return Ok((earlier, order?));
            }
            Entry::Vacant(slot) => slot,
        };
        let order = order?;
        match order.status(call.now) {
            OrderStatus::Paid => {}
            OrderStatus::Pending => return Err(ApiFailure::OrderNotFinal),
            OrderStatus::Expired | OrderStatus::Closed => return Err(ApiFailure::OrderStatus),
        }
        if asked.amount == Amount::ZERO {
            return Err(ApiFailure::RefundAmount);
        }
        let left = order.refundable.minus(asked.amount);
        let left = left.ok_or(ApiFailure::RefundAmount)?;
        let pay_amount = market::buys(&order.price.currency, asked.amount, &order.pay_currency)?;
        let merchant = MoneyHolder::account(call.account);
        let movements = order.movements(merchant, MoneyHolder::Outside, asked.amount, pay_amount);
        balances.post(call.now, order.reason("REFUND", number), &movements)?;
        order.refundable = left;
        let amount_text = match parameters.optional_text("refundAmount")? {
            Some(text) => text.to_owned(),
            None => asked.amount.to_string(),
        };
        let refund = slot.insert(SandboxRefund {
            account: call.account.to_owned(),
            number: number.to_owned(),
            id,
            asked,
            amount_text,
            pay_amount,
            done_ms: call.now,
        });
        news.tell(|| refund.news(order));
        Ok((refund, order))
    }
}

impl RefundBook {
    pub(crate) fn new(numbers_unique_per: NumbersUniquePer) -> Self {
        Self {
            numbers_unique_per,
            refunds: HashMap::new(),
        }
    }

    /// The caller's own refund. Another account's refund is not found.
    fn named(
        &self,
        call: LedgerCall<'_>,
        asked: &RequestParameters,
    ) -> Result<&SandboxRefund, ApiFailure> {
        let number = asked.id("refundRequestId")?;
        self.refunds
            .get(&self.numbers_unique_per.number(call.account, number))
            .filter(|refund| refund.account == call.account)
            .ok_or(ApiFailure::UnknownRefund)
    }
}

impl RefundTarget {
    /// Reads the destination in the form of the second version.
    fn asked(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        let one_or_two = |name| match asked.optional_integer(name)? {
            Some(value @ 0..=2) => Ok(value),
            None => Ok(0),
            Some(_) => Err(ApiFailure::Malformed(name)),
        };
        let mut target = Self {
            style: one_or_two("refundStyle")?,
            bear_type: one_or_two("refundBearType")?,
            amount_type: one_or_two("refundAmountTypeFull")?,
            ..Self::default()
        };
        if target.style != 2 {
            return Ok(target);
        }
        target.channel = one_or_two("refundPayChannel")?;
        match target.channel {
            1 => target.gate_uid = asked.integer("refundToGateUid")?,
            2 => {
                asked.text("refundAddress")?.clone_into(&mut target.address);
                asked.text("refundChain")?.clone_into(&mut target.chain);
            }
            _ => return Err(ApiFailure::Malformed("refundPayChannel")),
        }
        Ok(target)
    }

    /// Reads the Gate user that a refund of an address payment names.
    fn receiver(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        Ok(Self {
            style: 2,
            channel: 1,
            gate_uid: asked.integer("receiverId")?,
            ..Self::default()
        })
    }
}

impl SandboxRefund {
    fn describe(&self, order: &SandboxOrder) -> order::RefundData {
        order::RefundData {
            refund_request_id: self.number.clone(),
            prepay_id: self.asked.prepay_id.clone(),
            order_amount: Some(order.price.text.clone()),
            refund_amount: Some(self.amount_text.clone()),
            channel_id: Some(order.channel_id.clone()),
            ..Default::default()
        }
    }

    /// The refund, accepted and then done. `bizId` is the order's, as in the sample (protocol.md 5.3).
    fn news(&self, order: &SandboxOrder) -> BusinessNews {
        let data = json!({
            "merchantTradeNo": order.number,
            "transactionId": format!("T{}", self.id),
            "currency": order.price.currency,
            "refundInfo": {
                "refundRequestId": self.number,
                "prepayId": self.asked.prepay_id,
                "orderAmount": order.price.text,
                "refundAmount": self.amount_text,
                "refundPayCurrency": order.pay_currency,
                "refundPayAmount": self.pay_amount.to_string(),
            },
        });
        let statuses = ["REFUND_PROCESS", "REFUND_SUCCESS"];
        BusinessNews::enveloped("PAY_REFUND", &self.asked.prepay_id, &statuses, data)
            .about(format!("refund {}", self.id))
    }

    fn describe_v2(&self, order: &SandboxOrder) -> Value {
        json!({
            "refundRequestId": self.number,
            "refundGateId": self.id,
            "prepayId": self.asked.prepay_id,
            "orderAmount": order.price.text,
            "refundAmount": self.amount_text,
            "errMsg": "",
            "orderCurrency": order.price.currency,
            "payCurrency": order.pay_currency,
            "payAmount": self.pay_amount.to_string(),
        })
    }

    /// The refunded amount, in the currency of the price and in the currency of the payment.
    fn describe_converted(&self, order: &SandboxOrder) -> Value {
        json!({
            "refundRequestId": self.number,
            "prepayId": self.asked.prepay_id,
            "orderCurrency": order.price.currency,
            "orderAmount": order.price.text,
            "refundOrderAmount": self.asked.amount.to_string(),
            "payCurrency": order.pay_currency,
            "payAmount": order.pay_amount.to_string(),
            "refundPayAmount": self.pay_amount.to_string(),
        })
    }

    fn describe_details(&self, order: &SandboxOrder) -> Value {
        let target = &self.asked.target;
        json!({
            "refundRequestId": self.number,
            "gateRefundId": self.id,
            "refundId": self.id,
            "orderId": self.asked.prepay_id,
            "merchantTradeNo": order.number,
            "createTime": self.done_ms,
            "transactTime": self.done_ms,
            "transactionId": format!("T{}", self.id),
            "txHash": "",
            "orderAmount": order.price.text,
            "orderCurrency": order.price.currency,
            "requestAmount": self.amount_text,
            "requestCurrency": order.price.currency,
            "amount": self.pay_amount.to_string(),
            "currency": order.pay_currency,
            "status": "REFUND_SUCCESS",
            "remark": self.asked.reason,
            "refund_style": target.style,
            "refund_pay_channel": target.channel,
            "refund_address": target.address,
            "refund_chain": target.chain,
            "refund_bear_type": target.bear_type,
            "refund_amount_type": target.amount_type,
            "refund_fail_reason": "",
            "refund_to_gate_uid": target.gate_uid,
            "refundDetails": [],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, NOW, OTHER, TestDesk, address_order};
    use proptest::prelude::*;

    fn refund(number: &str, prepay_id: &str, amount: &str) -> Value {
        json!({"refundRequestId": number, "prepayId": prepay_id, "refundAmount": amount})
    }

    fn by_number(number: &str) -> Value {
        json!({ "refundRequestId": number })
    }

    /// An order of 2 GT for 20 USDT, paid.
    fn converted(desk: &mut TestDesk) -> String {
        let placed = desk.get(
            "create_address_order",
            &address_order("converted", "2", "USDT"),
        );
        let prepay_id = placed["prepayId"].as_str().unwrap().to_owned();
        desk.pay(ACME, &prepay_id).unwrap();
        prepay_id
    }

    fn converted_refund(prepay_id: &str) -> Value {
        json!({
            "refundRequestId": "r", "prepayId": prepay_id, "receiverId": 7, "refundReason": "why",
            "refundOrderCurrency": "GT", "refundPayCurrency": "USDT", "refundPayAmount": "5",
        })
    }

    #[test]
    fn a_refund_takes_the_money_back_and_is_found_by_every_query() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "1.210");
        let v2 = json!({
            "refundRequestId": "2", "prepayId": prepay_id, "refundAmount": "0.1", "refundStyle": 2,
            "refundPayChannel": 2, "refundAddress": "0x1", "refundChain": "ETH",
        });
        let address = json!({
            "refundRequestId": "3", "prepayId": prepay_id, "refundAmount": "0.1", "receiverId": 7,
        });
        let refunds = [
            ("refund_order", refund("1", &prepay_id, "0.8")),
            ("refund_order_v2", v2),
            ("refund_address_order", address),
        ];
        for (operation, asked) in refunds {
            desk.get(operation, &asked);
            let number = by_number(asked["refundRequestId"].as_str().unwrap());
            let found = desk.get("query_refund", &number);
            assert_eq!(found["orderAmount"], "1.210");
            assert_eq!(found["refundAmount"], asked["refundAmount"]);
            assert_eq!(found["refundStatus"], "REFUND_SUCCESS");
            for details in ["refund_details", "refund_details_v3"] {
                let details = desk.get(details, &number);
                assert_eq!(details["orderId"], json!(prepay_id));
                assert_eq!(details["createTime"], NOW);
            }
        }
        assert_eq!(desk.balance(ACME, "GT"), "0.21");
        let details = desk.get("refund_details", &by_number("2"));
        assert_eq!(details["refund_address"], "0x1");
    }

    #[test]
    fn a_refund_above_the_accounts_balance_is_refused() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "2");
        let transfer = json!({
            "merchantBatchNo": "1", "accountId": OTHER, "currency": "GT", "amount": "1.5",
        });
        desk.get("create_transfer", &transfer);
        assert_eq!(
            desk.refusal("refund_order", &refund("1", &prepay_id, "1")),
            "400605"
        );
        assert_eq!(desk.refusal("query_refund", &by_number("1")), "400304");
        desk.fund(ACME, "GT", "0.5");
        desk.get("refund_order", &refund("1", &prepay_id, "1"));
        assert_eq!(desk.balance(ACME, "GT"), "0");
    }

    #[test]
    fn a_converted_order_is_refunded_in_the_currency_it_was_paid_in() {
        let mut desk = TestDesk::new();
        let prepay_id = converted(&mut desk);
        let mut refund = converted_refund(&prepay_id);
        // A client library sends 0 for the amount that is not given.
        refund["refundOrderAmount"] = json!("0");
        let answer = desk.get("refund_converted_address_order", &refund);
        assert_eq!(
            (&answer["orderCurrency"], &answer["refundOrderAmount"]),
            (&json!("GT"), &json!("0.5"))
        );
        assert_eq!(
            (&answer["payCurrency"], &answer["refundPayAmount"]),
            (&json!("USDT"), &json!("5"))
        );
        assert_eq!(desk.balance(ACME, "GT"), "1.5");
    }

    #[test]
    fn the_documentation_has_one_form_for_refunds_of_converted_orders_and_others() {
        let mut desk = TestDesk::documented();
        let prepay_id = converted(&mut desk);
        let refund = converted_refund(&prepay_id);
        let answer = desk.get("refund_converted_address_order", &refund);
        assert_eq!(answer["refundAmount"], "0.5");
        assert_eq!(
            (&answer["payCurrency"], &answer["payAmount"]),
            (&json!("USDT"), &json!("5"))
        );
    }

    #[test]
    fn a_refund_of_the_other_kind_or_in_other_currencies_is_refused() {
        let mut desk = TestDesk::new();
        let (direct, converted) = (desk.paid("direct", "2"), converted(&mut desk));
        let mut asked = converted_refund(&direct);
        assert_eq!(
            desk.refusal("refund_converted_address_order", &asked),
            "500208"
        );
        asked = refund("r", &converted, "1");
        asked["receiverId"] = json!(7);
        assert_eq!(desk.refusal("refund_address_order", &asked), "500208");
        asked["prepayId"] = json!("17");
        assert_eq!(desk.refusal("refund_address_order", &asked), "500203");
        asked = converted_refund(&converted);
        asked["refundPayCurrency"] = json!("USDC");
        assert_eq!(
            desk.refusal("refund_converted_address_order", &asked),
            "500205"
        );
        asked = converted_refund(&direct);
        asked["refundPayCurrency"] = json!("GT");
        asked["refundPayAmount"] = json!("2");
        desk.get("refund_checkout_order", &asked);
    }

    #[test]
    fn a_refund_to_a_named_receiver_needs_the_receiver() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "2");
        for target in [
            json!({"refundStyle": 3}),
            json!({"refundStyle": 2}),
            json!({"refundStyle": 2, "refundPayChannel": 1}),
            json!({"refundStyle": 2, "refundPayChannel": 2, "refundAddress": "0x1"}),
        ] {
            let mut asked = refund("r", &prepay_id, "1");
            asked
                .as_object_mut()
                .unwrap()
                .extend(target.as_object().unwrap().clone());
            assert_eq!(
                desk.refusal("refund_order_v2", &asked),
                "400001",
                "{target}"
            );
        }
    }

    #[test]
    fn only_a_paid_order_can_be_refunded() {
        let mut desk = TestDesk::new();
        let pending = desk.order(ACME, "pending", "1");
        let closed = desk.order(ACME, "closed", "1");
        desk.get("close_order", &json!({"merchantTradeNo": "closed"}));
        for (prepay_id, code) in [
            (pending.as_str(), "400604"),
            (&closed, "400204"),
            ("17", "400202"),
        ] {
            assert_eq!(
                desk.refusal("refund_order", &refund("r", prepay_id, "1")),
                code
            );
        }
        assert_eq!(desk.refusal("query_refund", &by_number("r")), "400304");
    }

    #[test]
    fn another_sub_accounts_refund_is_as_unknown_as_none() {
        for numbers in [NumbersUniquePer::SubAccount, NumbersUniquePer::Institution] {
            let mut desk = TestDesk::with(numbers);
            let prepay_id = desk.paid("order-1", "1");
            let asked = refund("r", &prepay_id, "1");
            desk.get("refund_order", &asked);
            let strange = desk.ask(OTHER, "query_refund", &by_number("r"));
            assert_eq!(strange, Err("400304".to_owned()));
            let code = match numbers {
                NumbersUniquePer::SubAccount => "400202",
                NumbersUniquePer::Institution => "400001",
            };
            let strange = desk.ask(OTHER, "refund_order", &asked);
            assert_eq!(strange, Err(code.to_owned()));
        }
    }

    #[test]
    fn the_same_refund_asked_for_again_is_answered_again_and_done_once() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "1");
        let first = desk.get("refund_order", &refund("r1", &prepay_id, "0.6"));
        for same in ["0.6", "0.60"] {
            let again = desk.get("refund_order", &refund("r1", &prepay_id, same));
            assert_eq!(again, first);
        }
        let other = refund("r1", &prepay_id, "0.4");
        assert_eq!(desk.refusal("refund_order", &other), "400001");
        desk.get("refund_order", &refund("r2", &prepay_id, "0.4"));
        assert_eq!(desk.balance(ACME, "GT"), "0");
    }

    proptest! {
        #[test]
        fn refunds_never_exceed_the_orders_amount(
            cents in 1..500_u32,
            asked in prop::collection::vec((0..12_u8, 0..200_u32), 0..40),
        ) {
            let text = |cents: u32| format!("{}.{:02}", cents / 100, cents % 100);
            let mut desk = TestDesk::new();
            let prepay_id = desk.paid("order-1", &text(cents));
            let mut done: HashMap<u8, u32> = HashMap::new();
            for (number, part) in asked {
                let request = refund(&format!("r{number}"), &prepay_id, &text(part));
                let answer = desk.ask(ACME, "refund_order", &request).map(|_| ());
                let left = cents - done.values().sum::<u32>();
                let expected = match done.get(&number) {
                    Some(earlier) if *earlier == part => Ok(()),
                    Some(_) => Err("400001".to_owned()),
                    None if part == 0 || part > left => Err("400608".to_owned()),
                    None => Ok(()),
                };
                prop_assert_eq!(&answer, &expected);
                if answer.is_ok() {
                    done.insert(number, part);
                }
                prop_assert!(done.values().sum::<u32>() <= cents);
            }
        }
    }
}
