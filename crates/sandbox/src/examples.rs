//! One valid request for every operation, and the ledger state that the request needs.
//!
//! ```
//! # use std::sync::Arc;
//! # use gatepay_core::{ClientId, Credential, SecretKey};
//! use gatepay_sandbox::{SandboxConfig, Sandbox, SubAccount, examples};
//!
//! # let secret = SecretKey::new("secret".to_owned().into()).unwrap();
//! # let credential = Credential::new(ClientId::parse("institution").unwrap(), &secret);
//! let mut config = SandboxConfig::new(credential, Arc::new(|| 1_767_225_600_000));
//! config.sub_accounts = vec![SubAccount::active("2124538349")];
//! let sandbox = Sandbox::start(config, ([127, 0, 0, 1], 0).into()).unwrap();
//!
//! let refund = examples::prepare(&sandbox, "2124538349", "refund_order").unwrap();
//! assert!(refund.body.starts_with(b"{"), "a paid order is there to be refunded");
//! ```

use bytes::Bytes;
use gatepay_core::Operation;
use gatepay_core::operation::{MediaType, Method};
use serde_json::{Value, json};

use crate::operations::emulated;
use crate::rules::call::LedgerCall;
use crate::rules::market;
use crate::service::server::Sandbox;
use crate::service::world::SandboxState;
use crate::wire::amount::Amount;
use crate::wire::parameters::RequestParameters;

/// A request, apart from its path and its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExampleRequest {
    /// The HTTP method.
    pub method: Method,
    /// The query without its `?`, if there is one.
    pub query: Option<String>,
    /// The body; empty if there is none.
    pub body: Bytes,
    /// The media type of the body, if there is one.
    pub content_type: Option<&'static str>,
}

/// Prepares the state for an operation and returns the request.
///
/// The state (a paid order, a quote, money) belongs to an active sub-account, and the request is as a tenant sends it.
/// Every call returns a new request, with numbers of its own. The result is `None` for an operation that the catalogue
/// lacks, or that has no institution path.
pub fn prepare(sandbox: &Sandbox, sub_account: &str, operation: &str) -> Option<ExampleRequest> {
    let method = sandbox.world().catalogue().named(operation)?.method;
    prepare_for(sandbox, sub_account, operation, method)
}

/// Prepares a request as [`prepare`] does, in the form for a path called by `method`.
///
/// Forms differ where the institution's method is another than the merchant's, and on some alternative paths: the
/// balance query is a GET without a body or a POST of a list.
pub fn prepare_for(
    sandbox: &Sandbox,
    sub_account: &str,
    operation: &str,
    method: Method,
) -> Option<ExampleRequest> {
    let world = sandbox.world();
    let operation = world.catalogue().named(operation)?;
    let now = world.now();
    let mut state = world.state();
    state.examples += 1;
    let number = format!("example{}", state.examples);
    let call = state.ledger.call(sub_account, now);
    let mut preparation = ExampleDraft {
        state: &mut state,
        call,
        number,
    };
    let asked = preparation.ask(&operation.name, method)?;
    Some(ExampleRequest::new(operation, method, &asked))
}

/// An example under construction.
struct ExampleDraft<'a> {
    state: &'a mut SandboxState,
    call: LedgerCall<'a>,
    /// A merchant number, unique per example.
    number: String,
}

impl ExampleRequest {
    fn new(operation: &Operation, method: Method, asked: &Value) -> Self {
        let plain = Self {
            method,
            query: None,
            body: Bytes::new(),
            content_type: None,
        };
        match (operation.media, method) {
            (MediaType::Multipart, _) => Self {
                body: form(asked).into(),
                content_type: Some(FORM),
                ..plain
            },
            (MediaType::Json, Method::Get | Method::Delete) => Self {
                query: Some(query(asked)).filter(|query| !query.is_empty()),
                ..plain
            },
            (MediaType::Json, Method::Post | Method::Put) => Self {
                body: asked.to_string().into(),
                content_type: Some(operation.media.as_str()),
                ..plain
            },
        }
    }
}

impl ExampleDraft<'_> {
    /// Prepares the state for an operation, and returns the request's parameters.
    fn ask(&mut self, operation: &str, method: Method) -> Option<Value> {
        let asked = query_parameters(operation, method);
        asked
            .or_else(|| self.ask_orders(operation))
            .or_else(|| self.ask_payments(operation))
            .or_else(|| self.ask_otc_and_gift_cards(operation))
            .or_else(|| self.ask_subscriptions(operation))
            .or_else(|| self.ask_channels_and_accounts(operation))
            .or_else(|| self.ask_transfers(operation))
    }

    /// Orders, refunds, and fixed addresses.
    fn ask_orders(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "create_order" | "create_native_order" => self.order(),
            "query_order"
            | "close_order"
            | "query_order_v2"
            | "query_order_v3"
            | "query_address_order" => {
                json!({"prepayId": self.placed_order()})
            }
            "address_transactions" => json!({"prepayId": self.paid_address_order("USDT")}),
            "refund_order" | "refund_order_v2" | "refund_order_v3" => self.refund(),
            "query_refund" | "refund_details" | "refund_details_v3" => {
                let refund = self.refund();
                self.perform("refund_order", &refund);
                json!({"refundRequestId": number})
            }
            "create_checkout_order" | "create_address_order" => self.address_order("USDT"),
            "refund_address_order" => {
                let prepay_id = self.paid_address_order("USDT");
                json!({
                    "refundRequestId": number, "prepayId": prepay_id, "receiverId": RECEIVER,
                    "refundAmount": "1",
                })
            }
            "refund_checkout_order" | "refund_converted_address_order" => {
                let prepay_id = self.paid_address_order("USDC");
                json!({
                    "refundRequestId": number, "prepayId": prepay_id, "receiverId": RECEIVER,
                    "refundOrderCurrency": "USDT", "refundPayCurrency": "USDC",
                    "refundOrderAmount": "1", "refundReason": "an example",
                })
            }
            "save_fixed_address" => self.fixed_address(),
            "fixed_address_detail" | "fixed_address_orders" => {
                let address = self.fixed_address();
                self.perform("save_fixed_address", &address);
                json!({"channelId": number, "chain": CHAIN})
            }
            _ => return None,
        })
    }

    /// Conversions, payouts, and batch transfers.
    fn ask_payments(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "create_conversion" => self.quoted_conversion(),
            "query_conversion" => {
                let conversion = self.quoted_conversion();
                let done = self.perform("create_conversion", &conversion);
                json!({"orderId": done["order_id"]})
            }
            "create_payout" => self.payout(),
            "query_payout" => {
                let payout = self.payout();
                self.perform("create_payout", &payout);
                json!({"batch_id": number, "detail_status": "ALL"})
            }
            "create_batch_transfer" => self.rewards(),
            "query_batch_transfer" => {
                let rewards = self.rewards();
                self.perform("create_batch_transfer", &rewards);
                json!({"merchant_batch_no": number, "detail_status": "ALL"})
            }
            _ => return None,
        })
    }

    fn ask_otc_and_gift_cards(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "create_otc_order" => self.otc_order("SELL"),
            "otc_order_detail" => {
                let order = self.otc_order("SELL");
                self.perform("create_otc_order", &order);
                json!({"clientOrderId": number})
            }
            "otc_deposit_detail" => {
                let order = self.otc_order("BUY");
                let deposit = self.perform("create_otc_order", &order);
                json!({"orderId": deposit["orderId"]})
            }
            "create_otc_bank" => bank(),
            "supplement_otc_bank" => {
                let bank = self.perform("create_otc_bank", &bank());
                json!({"bankAccountId": bank["bankAccountId"], "file": "material.pdf"})
            }
            "create_gift_card" => self.gift_card(),
            "query_gift_card" => {
                let card = self.gift_card();
                let made = self.perform("create_gift_card", &card);
                json!({"card_number": made["card_num"]})
            }
            _ => return None,
        })
    }

    /// Plans, subscriptions, deductions, and products.
    fn ask_subscriptions(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "save_plan" => self.plan(),
            "plan_detail" => json!({"planNo": self.saved_plan()}),
            "create_subscription" => self.subscription(),
            "subscription_detail" => json!({"subscriptionOrderNo": self.subscribed()}),
            "complete_subscription" => {
                json!({"subscriptionOrderNo": self.subscribed(), "operationType": "CANCEL"})
            }
            "deduct_subscription" => self.deduction(),
            "deduction_detail" => {
                let deduction = self.deduction();
                self.perform("deduct_subscription", &deduction);
                json!({"merchantDeductNo": number})
            }
            "create_product" => product(),
            "query_product" => {
                let product = self.perform("create_product", &product());
                json!({"productNo": product["productNo"]})
            }
            _ => return None,
        })
    }

    fn ask_channels_and_accounts(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "save_channel" => self.channel(),
            "update_channel" => {
                let channel = self.channel();
                self.perform("save_channel", &channel);
                channel
            }
            "delete_channel" => {
                let channel = self.channel();
                self.perform("save_channel", &channel);
                json!({"channelId": number})
            }
            "create_account" => self.account(),
            "update_account" => json!({"display_name": "An example, renamed"}),
            "query_account" => {
                let account = self.account();
                self.perform("create_account", &account);
                json!({"request_id": number})
            }
            _ => return None,
        })
    }

    /// Fee rules, transfers, and charges.
    fn ask_transfers(&mut self, operation: &str) -> Option<Value> {
        let number = self.number.clone();
        Some(match operation {
            "create_fee_rule" => fee_rule(&self.new_account()),
            "upgrade_fee_rule" | "query_fee_rule" => {
                let rule = fee_rule(&self.new_account());
                self.perform("create_fee_rule", &rule);
                rule
            }
            "create_transfer" | "create_charge" => self.transfer(),
            "transfer_detail" => {
                let transfer = self.transfer();
                self.perform("create_transfer", &transfer);
                json!({"merchantBatchNo": number})
            }
            "charge_detail" => {
                let charge = self.transfer();
                self.perform("create_charge", &charge);
                json!({"merchantBatchNo": number})
            }
            _ => return None,
        })
    }

    fn order(&self) -> Value {
        json!({
            "merchantTradeNo": self.number,
            "env": {"terminalType": "APP"},
            "goods": {"goodsName": "An example"},
            "currency": "USDT",
            "orderAmount": "10",
        })
    }

    fn placed_order(&mut self) -> Value {
        let order = self.order();
        self.perform("create_order", &order)["prepayId"].take()
    }

    /// The parameters of a refund of a paid order.
    fn refund(&mut self) -> Value {
        let prepay_id = self.placed_order();
        self.pay(&prepay_id);
        json!({"refundRequestId": self.number, "prepayId": prepay_id, "refundAmount": "1"})
    }

    fn address_order(&self, pay_currency: &str) -> Value {
        let mut order = self.order();
        order["merchantUserId"] = json!(1);
        order["chain"] = json!(CHAIN);
        order["fullCurrType"] = json!(market::full_name(pay_currency, CHAIN));
        order["orderExpireTime"] = json!(self.call.now + 600_000);
        order
    }

    fn paid_address_order(&mut self, pay_currency: &str) -> Value {
        let order = self.address_order(pay_currency);
        let prepay_id = self.perform("create_address_order", &order)["prepayId"].take();
        self.pay(&prepay_id);
        prepay_id
    }

    fn fixed_address(&self) -> Value {
        json!({
            "channelId": self.number,
            "chain": CHAIN,
            "currencies": "USDT,USDC",
            "callbackUrl": "https://sandbox.invalid/callback",
        })
    }

    fn quoted_conversion(&mut self) -> Value {
        self.fund();
        let mut quoted = self.perform("preview_conversion", &conversion());
        quoted["clientReqId"] = json!(self.number);
        quoted
    }

    fn payout(&mut self) -> Value {
        self.fund();
        json!({
            "batch_id": self.number,
            "withdraw_list": [{
                "merchant_withdraw_id": self.number,
                "currency": "USDT",
                "amount": "1",
                "chain": CHAIN,
                "address": market::address(0),
                "fee_type": 0,
            }],
        })
    }

    fn rewards(&mut self) -> Value {
        self.fund();
        json!({
            "merchant_batch_no": self.number,
            "currency": "USDT",
            "batchorderList": [
                {"user_id": RECEIVER, "amount": "1", "rewardId": "1"},
            ],
        })
    }

    fn otc_order(&mut self, side: &str) -> Value {
        self.fund();
        let bank = self.perform("create_otc_bank", &bank());
        let mut order = self.perform("otc_quote", &otc_deal(side));
        order["clientOrderId"] = json!(self.number);
        order["bankAccountId"] = bank["bankAccountId"].clone();
        order
    }

    fn gift_card(&mut self) -> Value {
        self.fund();
        json!({"title": "An example", "templateId": "1", "currency": "USDT", "amount": "1"})
    }

    fn plan(&self) -> Value {
        json!({"merchantPlanNo": self.number, "planName": "An example", "priceNo": "PR000000001"})
    }

    fn saved_plan(&mut self) -> Value {
        let plan = self.plan();
        self.perform("save_plan", &plan)["planNo"].take()
    }

    fn subscription(&mut self) -> Value {
        let plan = self.saved_plan();
        json!({"merchantSubscriptionOrderNo": self.number, "planNo": plan})
    }

    fn subscribed(&mut self) -> Value {
        let subscription = self.subscription();
        let created = self.perform("create_subscription", &subscription);
        created["subscriptionOrderNo"].clone()
    }

    fn deduction(&mut self) -> Value {
        json!({
            "merchantDeductNo": self.number,
            "amount": 1.5,
            "currency": "USDT",
            "subscriptionOrderNo": self.subscribed(),
        })
    }

    fn channel(&self) -> Value {
        json!({"merchantChannelList": [{"channelId": self.number, "desc": "An example"}]})
    }

    fn account(&self) -> Value {
        json!({
            "request_id": self.number,
            "customer_id": self.number,
            "display_name": "An example",
            "account_holder": {
                "entity_country": "SG",
                "entity_type": "BUSINESS",
                "entity_name": "An example",
            },
        })
    }

    /// Creates a sub-account, activates it regardless of the configured delay, and returns its id.
    fn new_account(&mut self) -> String {
        let account = self.account();
        self.perform("create_account", &account);
        let accounts = &mut self.state.ledger.accounts;
        let newest = accounts.activate_newest(self.call.now);
        newest.expect("one was created a moment ago").to_owned()
    }

    /// The parameters of a transfer between two accounts that both have money.
    fn transfer(&mut self) -> Value {
        self.fund();
        let other = self.new_account();
        self.fund_account(&other);
        json!({
            "merchantBatchNo": self.number,
            "accountId": other,
            "currency": "USDT",
            "amount": "1",
        })
    }

    fn pay(&mut self, prepay_id: &Value) {
        let prepay_id = prepay_id.as_str().unwrap_or_default();
        let ledger = &mut self.state.ledger;
        crate::api::orders::pay(
            &mut ledger.orders,
            &mut ledger.balances,
            &mut ledger.news,
            self.call,
            prepay_id,
        )
        .expect("an order placed a moment ago can be paid");
    }

    fn fund(&mut self) {
        self.fund_account(self.call.account);
    }

    fn fund_account(&mut self, account: &str) {
        let call = LedgerCall {
            account,
            ..self.call
        };
        let amount = Amount::parse("100").expect("these are digits");
        let ledger = &mut self.state.ledger;
        crate::api::balances::fund(&ledger.accounts, &mut ledger.balances, call, "USDT", amount)
            .expect("examples are prepared for an active account");
    }

    /// Executes an operation that is known to succeed, and returns the data of its answer.
    fn perform(&mut self, operation: &str, asked: &Value) -> Value {
        let emulated = emulated(operation, Method::Post).expect("examples name operations");
        let asked = RequestParameters::parse(asked.to_string().as_bytes());
        let answer = emulated.perform(&mut self.state.ledger, self.call, asked);
        let mut answer: Value = serde_json::from_slice(&answer.body).expect("answers are JSON");
        answer["data"].take()
    }
}

/// The parameters of operations that need no prepared state: lists, look-ups by currency, and quotes.
fn query_parameters(operation: &str, method: Method) -> Option<Value> {
    Some(match operation {
        "refund_chains"
        | "refund_chains_v3"
        | "address_chains"
        | "wallet_chains"
        | "address_convert_currencies"
        | "wallet_withdraw_status"
        | "all_balances" => {
            json!({"currency": "USDT"})
        }
        "query_balance" if method == Method::Post => json!(["USDT", "BTC"]),
        "address_currencies"
        | "query_balance"
        | "list_bills"
        | "wallet_total_balance"
        | "wallet_withdrawals"
        | "list_otc_orders"
        | "list_otc_banks"
        | "list_gift_templates"
        | "list_plans"
        | "list_subscriptions"
        | "list_products"
        | "list_channels"
        | "list_accounts"
        | "list_fee_rules" => json!({}),
        "convert_currencies" => json!({"side": "sell"}),
        "convert_pairs" => json!({"currency": "USDT", "side": "sell"}),
        "preview_conversion" => conversion(),
        "otc_quote" => otc_deal("SELL"),
        _ => return None,
    })
}

fn conversion() -> Value {
    json!({"sellCurrency": "USDT", "buyCurrency": "BTC", "sellAmount": "10"})
}

fn otc_deal(side: &str) -> Value {
    json!({
        "cryptoCurrency": "USDT",
        "fiatCurrency": "USD",
        "side": "CRYPTO",
        "cryptoAmount": "10",
        "type": side,
    })
}

fn bank() -> Value {
    json!({
        "bankAccountName": "An example",
        "bankName": "Bank of Examples",
        "countryId": "SG",
        "address": "1 Example Street",
        "iban": "DE02120300000000202051",
        "swift": "BYLADEM1001",
        "file": "statement.pdf",
    })
}

fn product() -> Value {
    json!({"productName": "An example", "currency": "USDT", "amount": "1"})
}

fn fee_rule(sub_account: &str) -> Value {
    json!({
        "sub_merchant_id": sub_account,
        "r_markup": 0.1,
        "effective_date": "2026-01-01 00:00:00",
    })
}

/// Encodes the members of an object as a query.
fn query(asked: &Value) -> String {
    let members = asked.as_object().into_iter().flatten();
    let pairs = members.map(|(name, value)| {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        format!("{}={}", escaped(name), escaped(&value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Percent-encodes all bytes except the unreserved characters of RFC 3986.
fn escaped(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}

/// Encodes the members of an object as a form; the member `file` becomes a file.
fn form(asked: &Value) -> String {
    let members = asked.as_object().into_iter().flatten();
    let parts = members.map(|(name, value)| {
        let value = value.as_str().unwrap_or_default();
        let (file, value) = match name.as_str() {
            "file" => (
                format!("; filename=\"{value}\"\r\nContent-Type: application/pdf"),
                "%PDF-1.7",
            ),
            _ => (String::new(), value),
        };
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n"
        )
    });
    format!("{}--{BOUNDARY}--\r\n", parts.collect::<String>())
}

const BOUNDARY: &str = "example-boundary";
const FORM: &str = "multipart/form-data; boundary=example-boundary";

/// The chain of all examples.
const CHAIN: &str = "MATIC";

/// The Gate user who receives refunds and rewards.
const RECEIVER: u64 = 10_001;
