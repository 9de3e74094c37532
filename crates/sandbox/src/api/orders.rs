//! Orders: create in four ways, pay, query, close. Their refunds are in `refunds`.
//!
//! Where GatePay's pages contradict each other (lengths of numbers, decimals of amounts; protocol.md 7) the sandbox
//! enforces only the rules that all pages have.

use std::collections::HashMap;

use gatepay_core::order;
use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyHolder, MoneyMovement, MovementReason};
use crate::config::{AnswerForms, NumbersUniquePer, OrderLookUps};
use crate::rules::call::{LedgerCall, Outcome, data, signed};
use crate::rules::market;
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::RequestNumber;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The maximum and default payment deadline of an order, in milliseconds after creation (samples.json).
const LONGEST_LIFE_MS: u64 = 3_600_000;

/// The number before the first `prepayId`. Ids have as many digits as those in GatePay's samples.
const BEFORE_FIRST_PREPAY_ID: u64 = 50_000_000_000_000_000;

/// The Gate account of every customer.
const PAYER: &str = "7000001";

/// All orders of the institution.
pub(crate) struct OrderBook {
    numbers_unique_per: NumbersUniquePer,
    /// The orders that look-ups show.
    pub(crate) look_ups: OrderLookUps,
    by_prepay_id: HashMap<String, SandboxOrder>,
    /// `prepayId` by merchantTradeNo.
    prepay_ids: HashMap<RequestNumber, String>,
}

pub(crate) struct SandboxOrder {
    pub(crate) prepay_id: String,
    account: String,
    pub(crate) number: String,
    goods_name: String,
    pub(crate) price: OrderPrice,
    /// The currency of the customer's payment. Another currency than the price's makes this a converted order.
    pub(crate) pay_currency: String,
    pub(crate) pay_amount: Amount,
    /// The payment address, for orders that are paid on a chain.
    on_chain: Option<OnChain>,
    terminal_type: String,
    pub(crate) channel_id: String,
    return_url: String,
    created_ms: u64,
    expires_ms: u64,
    progress: OrderProgress,
    /// The amount not refunded yet, in the currency of the price.
    pub(crate) refundable: Amount,
}

/// The price of an order.
pub(crate) struct OrderPrice {
    pub(crate) currency: String,
    pub(crate) amount: Amount,
    /// The amount as the merchant wrote it, for answers.
    pub(crate) text: String,
    /// The merchant's fiat price (currency and amount) that `amount` was converted from, if there is one.
    fiat: Option<(String, String)>,
}

/// A payment address that belongs to one order.
struct OnChain {
    chain: String,
    full_curr_type: String,
    address: String,
}

/// The progress of an order. The order's status follows from its progress and the time.
#[derive(Clone, Copy)]
enum OrderProgress {
    Created,
    Paid { at_ms: u64 },
    Closed,
}

/// PENDING, PAID and EXPIRED occur in GatePay's answers; CLOSED is the sandbox's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderStatus {
    Pending,
    Paid,
    Expired,
    Closed,
}

/// `POST /v1/pay/order`.
pub(crate) fn create(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let price = OrderPrice::in_currency(asked)?;
    let order = orders.place(call, asked, price, None)?;
    Ok(data(order.describe_new()))
}

/// `POST /v1/pay/transactions/native`: to be paid by scanning.
pub(crate) fn create_native(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let price = OrderPrice::in_currency(asked)?;
    let order = orders.place(call, asked, price, None)?;
    let mut answer = data(order.describe_new());
    answer["qrContent"] = json!(order.location());
    answer["location"] = json!(order.location());
    Ok(answer)
}

/// `POST /v1/pay/checkout/order`: to be paid on GatePay's page.
pub(crate) fn create_checkout(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.place_on_chain(call, asked)?;
    let (fiat_currency, fiat_amount) = order.price.fiat.clone().unwrap_or_default();
    Ok(json!({
        "prepayId": order.prepay_id,
        "orderAmount": order.price.text,
        "surchargeAmount": asked.echo_text("surchargeAmount"),
        "toleranceAmount": asked.echo_text("toleranceAmount"),
        "currency": order.price.currency,
        "fiatCurrency": fiat_currency,
        "fiatAmount": fiat_amount,
        "terminalType": order.terminal_type,
        "expireTime": order.expires_ms,
        "qrContent": order.location(),
        "location": order.location(),
        "payCurrency": order.pay_currency,
        "payAmount": order.pay_amount.to_string(),
        "chain": order.describe_chain(),
        "channelId": order.channel_id,
        "goodsName": order.goods_name,
        "appName": "",
        "appLogo": "",
        "inUsdt": order.in_usdt(),
    }))
}

/// `POST /v1/pay/address/create`: to be paid to an address.
pub(crate) fn create_at_address(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    asked.integer("orderExpireTime")?;
    let order = orders.place_on_chain(call, asked)?;
    let mut answer = data(order.describe_new());
    answer["chain"] = order.describe_chain();
    Ok(answer)
}

/// `POST /v1/pay/order/query`.
pub(crate) fn query(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.looked_up(call.account, asked)?;
    Ok(data(order.describe(call.now)))
}

/// `GET /v2/pay/order/query`; `/v3/…` is on no page and answers the same.
pub(crate) fn query_v2(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.looked_up(call.account, asked)?;
    Ok(order.describe_v2(call))
}

/// `GET /v1/pay/address/query`.
pub(crate) fn query_at_address(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.looked_up(call.account, asked);
    let order = order.map_err(of_address_payment)?;
    let mut answer = order.describe_v2(call);
    if call.forms == AnswerForms::Clients {
        // The currency and amount once more, under the names that client libraries have in this answer only.
        answer["payCurrency"] = json!(order.pay_currency);
        answer["payAmount"] = json!(order.pay_amount.to_string());
    }
    Ok(answer)
}

/// `GET /v1/pay/address/transactiondetail`. No page shows the answer; client libraries have types for it.
pub(crate) fn transactions(
    orders: &mut OrderBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.own(call.account, asked.text("prepayId")?);
    let order = order.map_err(of_address_payment)?;
    if call.forms == AnswerForms::Clients {
        return Ok(order.describe_with_transactions(call.now));
    }
    let mut answer = order.describe_chain();
    answer["prepayId"] = json!(order.prepay_id);
    answer["transaction_info"] = order.describe_transactions();
    Ok(answer)
}

/// `POST /v1/pay/order/close`.
pub(crate) fn close(
    orders: &mut OrderBook,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let order = orders.named(call.account, asked)?;
    match order.status(call.now) {
        OrderStatus::Pending => {
            order.progress = OrderProgress::Closed;
            news.tell(|| order.news("PAY_CLOSE"));
        }
        OrderStatus::Paid | OrderStatus::Expired | OrderStatus::Closed => {
            return Err(ApiFailure::OrderStatus);
        }
    }
    Ok(json!({"result": "SUCCESS"}))
}

/// Pays an order as its customer would. No call of the API does this.
pub(crate) fn pay(
    orders: &mut OrderBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    prepay_id: &str,
) -> Result<(), ApiFailure> {
    let order = orders.own(call.account, prepay_id)?;
    match order.status(call.now) {
        OrderStatus::Pending => {}
        OrderStatus::Paid => return Err(ApiFailure::DuplicatePayment),
        OrderStatus::Expired => return Err(ApiFailure::OrderTimedOut),
        OrderStatus::Closed => return Err(ApiFailure::OrderStatus),
    }
    let reason = order.reason("PAYMENT", &order.number);
    let merchant = MoneyHolder::account(call.account);
    let payment = order.movements(
        MoneyHolder::Outside,
        merchant,
        order.price.amount,
        order.pay_amount,
    );
    balances.post(call.now, reason, &payment)?;
    order.progress = OrderProgress::Paid { at_ms: call.now };
    if let Some(on_chain) = &order.on_chain {
        news.tell(|| order.arrival(on_chain, call.now));
    }
    news.tell(|| order.news("PAY_SUCCESS"));
    Ok(())
}

/// Replaces `UnknownOrder` with the code that address payments have for it.
pub(crate) fn of_address_payment(failure: ApiFailure) -> ApiFailure {
    match failure {
        ApiFailure::UnknownOrder => ApiFailure::UnknownAddressOrder,
        other => other,
    }
}

impl OrderBook {
    pub(crate) fn new(numbers_unique_per: NumbersUniquePer) -> Self {
        Self {
            numbers_unique_per,
            look_ups: OrderLookUps::OwnOrders,
            by_prepay_id: HashMap::new(),
            prepay_ids: HashMap::new(),
        }
    }

    /// The sub-account that an order belongs to.
    pub(crate) fn owner(&self, prepay_id: &str) -> Option<&str> {
        self.by_prepay_id
            .get(prepay_id)
            .map(|order| order.account.as_str())
    }

    /// The caller's own order. Another account's order is not found.
    pub(crate) fn own(
        &mut self,
        account: &str,
        prepay_id: &str,
    ) -> Result<&mut SandboxOrder, ApiFailure> {
        self.by_prepay_id
            .get_mut(prepay_id)
            .filter(|order| order.account == account)
            .ok_or(ApiFailure::UnknownOrder)
    }

    /// The order that a look-up shows to the caller.
    fn looked_up(
        &mut self,
        account: &str,
        asked: &RequestParameters,
    ) -> Result<&mut SandboxOrder, ApiFailure> {
        let named = asked.optional_text("prepayId")?;
        let owner = match self.look_ups {
            OrderLookUps::OwnOrders => None,
            OrderLookUps::AllOrders => named.and_then(|id| self.owner(id)).map(str::to_owned),
        };
        self.named(owner.as_deref().unwrap_or(account), asked)
    }

    /// The caller's own order that is named by prepayId, merchantTradeNo, or both.
    fn named(
        &mut self,
        account: &str,
        asked: &RequestParameters,
    ) -> Result<&mut SandboxOrder, ApiFailure> {
        let prepay_id = asked.optional_text("prepayId")?;
        let number = asked.optional_id("merchantTradeNo")?;
        let prepay_id = match (prepay_id, number) {
            (None, None) => return Err(ApiFailure::Malformed("prepayId or merchantTradeNo")),
            (Some(prepay_id), _) => prepay_id.to_owned(),
            (None, Some(number)) => self
                .prepay_ids
                .get(&self.numbers_unique_per.number(account, number))
                .ok_or(ApiFailure::UnknownOrder)?
                .clone(),
        };
        let order = self.own(account, &prepay_id)?;
        if number.is_some_and(|number| number != order.number) {
            return Err(ApiFailure::UnknownOrder);
        }
        Ok(order)
    }

    /// Places an order that is paid on a chain, at an address of its own.
    fn place_on_chain(
        &mut self,
        call: LedgerCall<'_>,
        asked: &RequestParameters,
    ) -> Result<&SandboxOrder, ApiFailure> {
        asked.integer("merchantUserId")?;
        let chain = asked.text("chain")?;
        let full_curr_type = asked.text("fullCurrType")?;
        let pay_currency = full_curr_type
            .strip_suffix(chain)
            .and_then(|currency| currency.strip_suffix('_'))
            .ok_or(ApiFailure::Malformed("fullCurrType"))?;
        let price = match asked.optional_text("currency")? {
            Some(_) => OrderPrice::in_currency(asked)?,
            None => OrderPrice::in_fiat(asked, pay_currency)?,
        };
        let on_chain = OnChain {
            chain: chain.to_owned(),
            full_curr_type: full_curr_type.to_owned(),
            address: market::address(self.by_prepay_id.len() + 1),
        };
        let paid_in = Some((pay_currency, on_chain));
        self.place(call, asked, price, paid_in)
    }

    fn place(
        &mut self,
        call: LedgerCall<'_>,
        asked: &RequestParameters,
        price: OrderPrice,
        paid_in: Option<(&str, OnChain)>,
    ) -> Result<&SandboxOrder, ApiFailure> {
        let number = asked.id("merchantTradeNo")?;
        let terminal_type = asked.object("env")?.text("terminalType")?.to_owned();
        let goods_name = asked.object("goods")?.text("goodsName")?.to_owned();
        let latest = call.now.saturating_add(LONGEST_LIFE_MS);
        let expires_ms = asked.optional_time("orderExpireTime")?.unwrap_or(latest);
        if expires_ms <= call.now || expires_ms > latest {
            return Err(ApiFailure::Malformed("orderExpireTime"));
        }
        let channel_id = asked.optional_id("channelId")?.unwrap_or_default();
        let return_url = asked.optional_text("returnUrl")?.unwrap_or_default();
        let (pay_currency, on_chain) = match paid_in {
            Some((currency, on_chain)) => (currency.to_owned(), Some(on_chain)),
            None => (price.currency.clone(), None),
        };
        let pay_amount = market::costs(&price.currency, price.amount, &pay_currency)?;

        let key = self.numbers_unique_per.number(call.account, number);
        if self.prepay_ids.contains_key(&key) {
            return Err(ApiFailure::OrderExists);
        }
        let order = SandboxOrder {
            prepay_id: (BEFORE_FIRST_PREPAY_ID + 1 + self.by_prepay_id.len() as u64).to_string(),
            account: call.account.to_owned(),
            number: number.to_owned(),
            goods_name,
            refundable: price.amount,
            price,
            pay_currency,
            pay_amount,
            on_chain,
            terminal_type,
            channel_id: channel_id.to_owned(),
            return_url: return_url.to_owned(),
            created_ms: call.now,
            expires_ms,
            progress: OrderProgress::Created,
        };
        self.prepay_ids.insert(key, order.prepay_id.clone());
        Ok(self
            .by_prepay_id
            .entry(order.prepay_id.clone())
            .or_insert(order))
    }
}

impl OrderPrice {
    fn in_currency(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        Ok(Self {
            currency: asked.text("currency")?.to_owned(),
            amount: asked.amount("orderAmount")?,
            text: asked.text("orderAmount")?.to_owned(),
            fiat: None,
        })
    }

    /// The price in `currency`, converted from a fiat price.
    fn in_fiat(asked: &RequestParameters, currency: &str) -> Result<Self, ApiFailure> {
        let fiat_currency = asked.text("fiatCurrency")?;
        let amount = market::costs(fiat_currency, asked.amount("fiatAmount")?, currency)?;
        let fiat_amount = asked.text("fiatAmount")?;
        Ok(Self {
            currency: currency.to_owned(),
            amount,
            text: amount.to_string(),
            fiat: Some((fiat_currency.to_owned(), fiat_amount.to_owned())),
        })
    }
}

impl SandboxOrder {
    pub(crate) fn status(&self, now: u64) -> OrderStatus {
        match self.progress {
            OrderProgress::Created if now >= self.expires_ms => OrderStatus::Expired,
            OrderProgress::Created => OrderStatus::Pending,
            OrderProgress::Paid { .. } => OrderStatus::Paid,
            OrderProgress::Closed => OrderStatus::Closed,
        }
    }

    pub(crate) fn is_converted(&self) -> bool {
        self.pay_currency != self.price.currency
    }

    /// The reason that bills show for this order's movements of money.
    pub(crate) fn reason<'s>(&'s self, kind: &'static str, number: &'s str) -> MovementReason<'s> {
        let id = &self.prepay_id;
        MovementReason { kind, id, number }
    }

    /// The movements of money between customer and merchant, through the market if the order was converted.
    pub(crate) fn movements(
        &self,
        from: MoneyHolder,
        to: MoneyHolder,
        amount: Amount,
        pay_amount: Amount,
    ) -> Vec<MoneyMovement<'_>> {
        let movement = |from, to, currency, amount| MoneyMovement {
            from,
            to,
            currency,
            amount,
        };
        let (currency, pay_currency) = (&self.price.currency, &self.pay_currency);
        if !self.is_converted() {
            return vec![movement(from, to, currency, amount)];
        }
        let [first, second] = match from {
            MoneyHolder::Account(_) => [(currency, amount), (pay_currency, pay_amount)],
            MoneyHolder::Outside | MoneyHolder::Market => {
                [(pay_currency, pay_amount), (currency, amount)]
            }
        };
        vec![
            movement(from, MoneyHolder::Market, first.0, first.1),
            movement(MoneyHolder::Market, to, second.0, second.1),
        ]
    }

    /// The end of the order: paid from a Gate account, or to an address. No published sample names the sub-account, and
    /// this one does not either (protocol.md 5.3).
    fn news(&self, status: &'static str) -> BusinessNews {
        let paid_ms = match self.progress {
            OrderProgress::Paid { at_ms } => at_ms,
            OrderProgress::Created | OrderProgress::Closed => 0,
        };
        let mut order = json!({
            "merchantTradeNo": self.number,
            "transactionId": format!("T{}", self.prepay_id),
            "goodsName": self.goods_name,
            "terminalType": self.terminal_type,
            "currency": self.price.currency,
            "orderAmount": self.price.text,
            "payCurrency": self.pay_currency,
            "payAmount": self.done_amount().to_string(),
            "createTime": self.created_ms,
            "expireTime": self.expires_ms,
            "transactTime": paid_ms,
            "channelId": self.channel_id,
            "payerId": PAYER,
        });
        let kind = match &self.on_chain {
            None => "PAY",
            Some(on_chain) => {
                order["chain"] = json!(on_chain.chain);
                order["address"] = json!(on_chain.address);
                "PAY_ADDRESS"
            }
        };
        BusinessNews::enveloped(kind, &self.prepay_id, &[status], order).about(self.object())
    }

    /// The arrival of the payment at the order's address.
    fn arrival(&self, on_chain: &OnChain, now: u64) -> BusinessNews {
        let transaction = json!({
            "merchantTradeNo": self.number,
            "transactionId": format!("0x{}", self.prepay_id),
            "chain": on_chain.chain,
            "address": on_chain.address,
            "fromAddress": market::address(0),
            "currency": self.pay_currency,
            "amount": self.pay_amount.to_string(),
            "transactTime": now,
        });
        let statuses = ["TRANSFERRED_ADDRESS_IN_TERM"];
        BusinessNews::enveloped("TRANSFER_ADDRESS", &self.prepay_id, &statuses, transaction)
            .about(self.object())
    }

    /// The order as the object of its news: the arrival of a payment precedes the end of the order.
    fn object(&self) -> String {
        format!("order {}", self.prepay_id)
    }

    fn location(&self) -> String {
        format!("https://sandbox.invalid/pay/{}", self.prepay_id)
    }

    /// The order's price in USDT; empty if its currency has no market price.
    fn in_usdt(&self) -> String {
        market::buys(&self.price.currency, self.price.amount, "USDT")
            .map_or_else(|_| String::new(), |amount| amount.to_string())
    }

    fn describe_new(&self) -> order::CreatedOrder {
        order::CreatedOrder {
            prepay_id: self.prepay_id.clone(),
            terminal_type: Some(self.terminal_type.clone()),
            expire_time: Some(signed(self.expires_ms)),
            ..Default::default()
        }
    }

    /// The answer to a query, with every field that samples.json has.
    fn describe(&self, now: u64) -> order::OrderData {
        let mut answer = order::OrderData {
            prepay_id: self.prepay_id.clone(),
            // A number in this answer. Account ids are decimal digits in all samples.
            merchant_id: Some(self.account.parse().unwrap_or_default()),
            merchant_trade_no: self.number.clone(),
            transaction_id: Some(String::new()),
            goods_name: Some(self.goods_name.clone()),
            currency: self.price.currency.clone(),
            order_amount: self.price.text.clone(),
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
        if let OrderProgress::Paid { at_ms } = self.progress {
            answer.transaction_id = Some(format!("T{}", self.prepay_id));
            answer.transact_time = Some(signed(at_ms));
            answer.pay_currency = Some(self.pay_currency.clone());
            answer.pay_amount = Some(self.pay_amount.to_string());
            answer.total_settle_amount = Some(self.price.amount.to_string());
        }
        answer
    }

    /// The answer to a query of the second version: the first version's fields and more.
    fn describe_v2(&self, call: LedgerCall<'_>) -> Value {
        let chain = self.describe_chain();
        let mut answer = data(self.describe(call.now));
        match call.forms {
            AnswerForms::Clients => {
                let (currency, amount) = self.price.fiat.clone().unwrap_or_default();
                answer["fiatCurrency"] = json!(currency);
                answer["fiatAmount"] = json!(amount);
            }
            AnswerForms::Documentation => answer["merchantId"] = json!(self.account),
        }
        answer["location"] = json!(self.location());
        answer["merchantName"] = json!("");
        answer["returnUrl"] = json!(self.return_url);
        answer["address"] = chain["address"].clone();
        answer["chain"] = chain["chain_type"].clone();
        answer["fullCurrType"] = chain["fullCurrType"].clone();
        answer["transaction_info"] = self.describe_transactions();
        answer["whiteBrandInfo"] = Value::Null;
        answer
    }

    fn describe_chain(&self) -> Value {
        let of =
            |part: fn(&OnChain) -> &String| self.on_chain.as_ref().map_or("", |chain| part(chain));
        json!({
            "chain_type": of(|chain| &chain.chain),
            "address": of(|chain| &chain.address),
            "fullCurrType": of(|chain| &chain.full_curr_type),
        })
    }

    fn describe_transactions(&self) -> Value {
        let done = self.done_amount().to_string();
        json!({"done_amount": done, "confirming_list": []})
    }

    /// The amount that the customer has paid, in the currency of the payment.
    fn done_amount(&self) -> Amount {
        match self.progress {
            OrderProgress::Paid { .. } => self.pay_amount,
            OrderProgress::Created | OrderProgress::Closed => Amount::ZERO,
        }
    }

    /// The order, and its one transaction on a chain if it was paid on one.
    fn describe_with_transactions(&self, now: u64) -> Value {
        let order = self.describe(now);
        let none = || json!({"amount": "0", "txList": []});
        let (updated_ms, done) = match (self.progress, &self.on_chain) {
            (OrderProgress::Paid { at_ms }, Some(on_chain)) => {
                let transaction = json!({
                    "chain": on_chain.chain,
                    "address": on_chain.address,
                    "fullCurrType": on_chain.full_curr_type,
                    "amount": self.pay_amount.to_string(),
                    "txId": format!("0x{}", self.prepay_id),
                    "utcCreateTime": utc_text(at_ms),
                    "utcUpdateTime": utc_text(at_ms),
                    "fromAddress": market::address(0),
                });
                let amount = self.done_amount().to_string();
                (at_ms, json!({"amount": amount, "txList": [transaction]}))
            }
            (OrderProgress::Paid { at_ms }, None) => (at_ms, none()),
            (OrderProgress::Created | OrderProgress::Closed, _) => (self.created_ms, none()),
        };
        json!({
            "prepayId": order.prepay_id,
            "merchantId": order.merchant_id,
            "merchantTradeNo": order.merchant_trade_no,
            "transactionId": order.transaction_id,
            "goodsName": order.goods_name,
            "currency": order.currency,
            "orderAmount": order.order_amount,
            "payCurrency": self.pay_currency,
            "payAmount": self.pay_amount.to_string(),
            "status": order.status,
            "utcCreateTime": utc_text(self.created_ms),
            "utcExpireTime": utc_text(self.expires_ms),
            "utcUpdateTime": utc_text(updated_ms),
            "transactTime": order.transact_time,
            "order_name": order.order_name,
            "channelId": order.channel_id,
            "transactionDetail": {
                "inTerm": {"done": done, "wait": none()},
                "outOfTerm": {"done": none(), "wait": none()},
            },
        })
    }
}

/// A time as text. Client libraries document the type but not the format; this is the format of GatePay's other dates.
fn utc_text(time_ms: u64) -> String {
    let time = jiff::Timestamp::from_millisecond(signed(time_ms));
    time.map_or_else(
        |_| String::new(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

impl OrderStatus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Paid => "PAID",
            Self::Expired => "EXPIRED",
            Self::Closed => "CLOSED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, NOW, OTHER, TestDesk, address_order, order};

    fn by_number(number: &str) -> Value {
        json!({ "merchantTradeNo": number })
    }

    fn status(desk: &mut TestDesk, account: &str, number: &str) -> Value {
        let found = desk.ask(account, "query_order", &by_number(number));
        found.unwrap()["status"].take()
    }

    #[test]
    fn an_order_is_created_paid_and_queried() {
        let mut desk = TestDesk::new();
        let created = desk.get("create_order", &order("22212345678555", "1.210"));
        assert_eq!(
            created,
            json!({
                "prepayId": "50000000000000001",
                "terminalType": "APP",
                "expireTime": 1_767_229_200_000_u64,
            })
        );
        assert_eq!(status(&mut desk, ACME, "22212345678555"), "PENDING");

        desk.now += 5;
        assert_eq!(desk.pay(ACME, "50000000000000001"), Ok(()));
        let order = desk.get("query_order", &by_number("22212345678555"));
        assert_eq!(order["status"], "PAID");
        assert_eq!(order["transactTime"], NOW + 5);
        assert_eq!(
            order["orderAmount"], "1.210",
            "the merchant's own spelling is kept"
        );
        assert_eq!(order["merchantId"], 2_124_538_349_u64);
        assert_eq!(desk.balance(ACME, "GT"), "1.21");
    }

    #[test]
    fn an_answer_to_a_query_has_the_fields_of_the_published_sample() {
        let mut desk = TestDesk::new();
        desk.paid("order-1", "1");
        let answer = desk.get("query_order", &by_number("order-1"));
        let names: Vec<_> = answer.as_object().unwrap().keys().collect();
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
    fn every_query_finds_the_orders_of_every_kind() {
        let mut desk = TestDesk::new();
        let kinds = [
            ("create_order", order("1", "1")),
            ("create_native_order", order("2", "1")),
            ("create_checkout_order", address_order("3", "1", "GT")),
            ("create_address_order", address_order("4", "1", "USDT")),
        ];
        for (create, order) in kinds {
            let prepay_id = desk.get(create, &order)["prepayId"].take();
            for query in [
                "query_order",
                "query_order_v2",
                "query_order_v3",
                "query_address_order",
            ] {
                let found = desk.get(
                    query,
                    &by_number(order["merchantTradeNo"].as_str().unwrap()),
                );
                let found = found.get("bizData").unwrap_or(&found);
                assert_eq!(found["prepayId"], prepay_id, "{create} {query}");
            }
        }
        let unknown = by_number("5");
        assert_eq!(desk.refusal("query_order_v2", &unknown), "400202");
        assert_eq!(desk.refusal("query_address_order", &unknown), "500203");
    }

    #[test]
    fn an_order_paid_in_another_currency_is_converted_at_the_fixed_price() {
        let mut desk = TestDesk::new();
        let checkout = desk.get("create_checkout_order", &address_order("1", "2.5", "USDT"));
        assert_eq!(checkout["payCurrency"], "USDT");
        assert_eq!(checkout["payAmount"], "25");
        assert_eq!(checkout["chain"]["chain_type"], "MATIC");
        desk.pay(ACME, checkout["prepayId"].as_str().unwrap())
            .unwrap();
        assert_eq!(desk.balance(ACME, "GT"), "2.5");
        assert_eq!(desk.balance(ACME, "USDT"), "0");
        let order = desk.get("query_order_v3", &by_number("1"));
        assert_eq!(order["pay_amount"], "25");
        assert_eq!(order["transaction_info"]["done_amount"], "25");
        assert_eq!(order["address"], checkout["chain"]["address"]);

        let mut in_fiat = address_order("2", "1", "GT");
        in_fiat["currency"] = Value::Null;
        in_fiat["fiatCurrency"] = json!("EUR");
        in_fiat["fiatAmount"] = json!("80.00");
        let checkout = desk.get("create_checkout_order", &in_fiat);
        assert_eq!(
            (&checkout["currency"], &checkout["orderAmount"]),
            (&json!("GT"), &json!("10"))
        );
        assert_eq!(checkout["fiatAmount"], "80.00");
    }

    #[test]
    fn transactions_come_with_the_order_that_they_pay() {
        let mut desk = TestDesk::new();
        let order = desk.get("create_address_order", &address_order("1", "2.5", "USDT"));
        let by_id = json!({"prepayId": order["prepayId"]});
        let unpaid = desk.get("address_transactions", &by_id);
        assert_eq!(unpaid["status"], "PENDING");
        assert_eq!(unpaid["utcCreateTime"], "2026-01-01 00:00:00");
        let done = &unpaid["transactionDetail"]["inTerm"]["done"];
        assert_eq!(*done, json!({"amount": "0", "txList": []}));

        desk.pay(ACME, order["prepayId"].as_str().unwrap()).unwrap();
        let paid = desk.get("address_transactions", &by_id);
        assert_eq!(paid["merchantTradeNo"], "1");
        assert_eq!(paid["merchantId"], 2_124_538_349_u64);
        let done = &paid["transactionDetail"]["inTerm"]["done"];
        assert_eq!(done["amount"], "25");
        assert_eq!(done["txList"][0]["address"], order["chain"]["address"]);

        let mut desk = TestDesk::documented();
        let order = desk.get("create_address_order", &address_order("1", "2.5", "USDT"));
        let by_id = json!({"prepayId": order["prepayId"]});
        let printed = desk.get("address_transactions", &by_id);
        assert_eq!(printed["address"], order["chain"]["address"]);
        assert_eq!(printed["transaction_info"]["done_amount"], "0");
    }

    #[test]
    fn an_account_is_a_number_for_client_libraries_and_text_on_the_page_of_the_second_query() {
        for (mut desk, expected) in [
            (TestDesk::new(), json!(2_124_538_349_u64)),
            (TestDesk::documented(), json!(ACME)),
        ] {
            desk.paid("order-1", "1");
            let order = desk.get("query_order_v2", &by_number("order-1"));
            let order = order.get("bizData").unwrap_or(&order);
            assert_eq!(order["merchantId"], expected);
        }
    }

    #[test]
    fn an_order_on_a_chain_names_it_and_its_currency() {
        let mut desk = TestDesk::new();
        for (field, value, code) in [
            ("chain", json!(""), "400001"),
            ("fullCurrType", json!("MATIC"), "400001"),
            ("fullCurrType", json!("USDT_ETH"), "400001"),
            ("fullCurrType", json!("XYZ_MATIC"), "400205"),
            ("merchantUserId", json!("somebody"), "400001"),
            ("orderExpireTime", json!(null), "400001"),
        ] {
            let mut order = address_order("1", "1", "USDT");
            order[field] = value;
            assert_eq!(
                desk.refusal("create_address_order", &order),
                code,
                "{field}"
            );
        }
    }

    #[test]
    fn a_number_is_taken_even_after_its_order_is_over() {
        let mut desk = TestDesk::new();
        desk.order(ACME, "order-1", "1");
        desk.get("close_order", &by_number("order-1"));
        assert_eq!(
            desk.refusal("create_order", &order("order-1", "1")),
            "400201"
        );
        assert_eq!(
            desk.refusal("create_native_order", &order("order-1", "1")),
            "400201"
        );
    }

    #[test]
    fn two_sub_accounts_may_use_one_number_for_two_orders() {
        let mut desk = TestDesk::new();
        let first = desk.order(ACME, "order-1", "1");
        let second = desk.order(OTHER, "order-1", "2");
        assert_ne!(first, second);
        desk.ask(OTHER, "close_order", &by_number("order-1"))
            .unwrap();
        assert_eq!(status(&mut desk, ACME, "order-1"), "PENDING");
        assert_eq!(status(&mut desk, OTHER, "order-1"), "CLOSED");
    }

    #[test]
    fn numbers_may_be_unique_in_the_whole_institution() {
        let mut desk = TestDesk::with(NumbersUniquePer::Institution);
        desk.order(ACME, "order-1", "1");
        let taken = desk.ask(OTHER, "create_order", &order("order-1", "1"));
        assert_eq!(taken, Err("400201".to_owned()));
        let strange = desk.ask(OTHER, "query_order", &by_number("order-1"));
        assert_eq!(strange, Err("400202".to_owned()));
    }

    #[test]
    fn look_ups_of_all_orders_show_another_accounts_order_and_change_none() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.order(ACME, "order-1", "1");
        let by_id = json!({ "prepayId": prepay_id });
        let unknown = Err("400202".to_owned());
        assert_eq!(desk.ask(OTHER, "query_order", &by_id), unknown);
        desk.ledger.orders.look_ups = OrderLookUps::AllOrders;
        let shown = desk.ask(OTHER, "query_order", &by_id).unwrap();
        assert_eq!(shown["merchantTradeNo"], "order-1");
        assert_eq!(
            desk.ask(OTHER, "query_order", &by_number("order-1")),
            unknown
        );
        assert_eq!(desk.ask(OTHER, "close_order", &by_id), unknown);
    }

    #[test]
    fn another_sub_accounts_order_is_as_unknown_as_none() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "1");
        for strange in [by_number("order-1"), json!({"prepayId": prepay_id})] {
            for operation in ["query_order", "close_order"] {
                let refused = desk.ask(OTHER, operation, &strange);
                assert_eq!(refused, Err("400202".to_owned()));
            }
        }
        assert_eq!(desk.pay(OTHER, &prepay_id), Err(ApiFailure::UnknownOrder));
    }

    #[test]
    fn both_ids_have_to_name_one_order() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.order(ACME, "order-1", "1");
        desk.order(ACME, "order-2", "1");
        let named = |number| json!({"prepayId": prepay_id, "merchantTradeNo": number});
        desk.get("query_order", &named("order-1"));
        desk.get("query_order", &named(""));
        assert_eq!(desk.refusal("query_order", &named("order-2")), "400202");
        let neither = json!({"merchantTradeNo": "", "prepayId": null});
        assert_eq!(desk.refusal("query_order", &neither), "400001");
    }

    #[test]
    fn only_an_unpaid_order_can_be_closed_or_paid() {
        let mut desk = TestDesk::new();
        let closed = desk.order(ACME, "closed", "1");
        let answer = desk.get("close_order", &by_number("closed"));
        assert_eq!(answer, json!({"result": "SUCCESS"}));
        let paid = desk.paid("paid", "1");
        let expired = desk.order(ACME, "expired", "1");
        desk.now += 3_600_000;
        for number in ["closed", "paid", "expired"] {
            assert_eq!(desk.refusal("close_order", &by_number(number)), "400204");
        }
        assert_eq!(desk.pay(ACME, &closed), Err(ApiFailure::OrderStatus));
        assert_eq!(desk.pay(ACME, &expired), Err(ApiFailure::OrderTimedOut));
        assert_eq!(desk.pay(ACME, &paid), Err(ApiFailure::DuplicatePayment));
        assert_eq!(desk.pay(ACME, "17"), Err(ApiFailure::UnknownOrder));
        assert_eq!(desk.balance(ACME, "GT"), "1");
    }

    #[test]
    fn an_unpaid_order_expires_at_its_time_and_a_paid_one_never() {
        let mut desk = TestDesk::new();
        let mut request = order("order-1", "1");
        request["orderExpireTime"] = json!(NOW + 1000);
        desk.get("create_order", &request);
        desk.paid("paid", "1");
        for (now, expected) in [(NOW + 999, "PENDING"), (NOW + 1000, "EXPIRED")] {
            desk.now = now;
            assert_eq!(status(&mut desk, ACME, "order-1"), expected);
        }
        desk.now = u64::MAX;
        assert_eq!(status(&mut desk, ACME, "paid"), "PAID");
    }

    #[test]
    fn a_field_that_is_missing_or_malformed_is_refused() {
        let mut desk = TestDesk::new();
        for (field, value) in [
            ("merchantTradeNo", json!(null)),
            ("merchantTradeNo", json!("n".repeat(33))),
            ("merchantTradeNo", json!(17)),
            ("env", json!(null)),
            ("env", json!({})),
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
            let mut request = order("order-1", "1");
            request[field] = value;
            assert_eq!(desk.refusal("create_order", &request), "400001", "{field}");
        }
        assert_eq!(desk.refusal("query_order", &by_number("order-1")), "400202");
    }
}
