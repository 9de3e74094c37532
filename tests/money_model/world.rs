//! A GatePay that outlives scenarios: its accounts are compared with the answers of each scenario.

use std::cell::Cell;
use std::collections::BTreeMap;

use gatepay_core::{Catalogue, header};
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::ReceivedRequest;
use gatepay_tenancy::Standing;
use gatepay_tenancy::settings::Settings;
use serde_json::{Value, json};

use super::history::Execution;
use super::scenario::{Change, Flaw, Merchant, Sort};
use crate::support::*;

pub(super) struct World {
    pub(super) gatepay: GatePay,
    pub(super) nowhere: Nowhere,
    catalogue: Catalogue,
    /// The prepay id of a paid order, by shop.
    paid: BTreeMap<&'static str, String>,
    numbers: Cell<u64>,
}

/// A call to be signed: operation, shop, key and body.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) sort: Sort,
    pub(super) shop: Merchant,
    pub(super) key: String,
    pub(super) body: String,
}

impl Merchant {
    fn tenant(self) -> Shop {
        match self {
            Self::Acme => acme(),
            Self::Globex => globex().rate(1, 1).seats(1),
        }
    }

    /// The shop's id in this module.
    fn id(self) -> &'static str {
        match self {
            Self::Acme => "acme",
            Self::Globex => "globex",
        }
    }
}

impl Change {
    fn of(self, shop: Shop) -> Shop {
        match self {
            Self::Nothing | Self::GatePayIsDown | Self::Unknown => shop,
            Self::Suspended => shop.with(|party| party.standing = Standing::Suspended),
            Self::ReadOnly => shop.with(|party| party.standing = Standing::ReadOnly),
            Self::OtherAddress => shop.with(|party| {
                let other = "203.0.113.0/24".parse().expect("addresses");
                party.addresses = [other].into();
            }),
        }
    }
}

/// A shop that sends no calls.
fn initech() -> Shop {
    Shop::new(
        "initech",
        "client-initech",
        "fake-initech-secret-0004",
        "2124538351",
    )
}

const PAYOUT: &str = "/v1/pay/withdraw";

impl Sort {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::CreateOrder => CREATE,
            Self::CloseOrder => CLOSE,
            Self::Refund | Self::RefundOfNothing => REFUND,
            Self::Payout => PAYOUT,
        }
    }

    /// The operation's path at GatePay.
    pub(super) fn institution_path(self) -> String {
        match self {
            Self::Payout => "/withdraw/open/institution/v1/pay/create/payouts".to_owned(),
            _ => format!("{PREFIX}{}", self.path()),
        }
    }

    /// Another state-changing path, which the call was not signed for.
    pub(super) fn other_path(self) -> &'static str {
        match self {
            Self::CloseOrder => REFUND,
            _ => CLOSE,
        }
    }

    /// The body field that holds the idempotency key.
    fn field(self) -> &'static str {
        match self {
            Self::CreateOrder | Self::CloseOrder => "merchantTradeNo",
            Self::Refund | Self::RefundOfNothing => "refundRequestId",
            Self::Payout => "batch_id",
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::CreateOrder => "create_order",
            Self::CloseOrder => "close_order",
            Self::Refund | Self::RefundOfNothing => "refund_order",
            Self::Payout => "create_payout",
        }
    }
}

impl World {
    pub(super) async fn new() -> Self {
        let gatepay = GatePay::with(|config| config.record = 10_000);
        let catalogue = everything_on();
        for shop in [acme(), globex()] {
            let funded = gatepay.sandbox.fund(shop.sub_account, "USDT", "1000000");
            funded.expect("an account");
        }
        let mut paid = BTreeMap::new();
        let proxy = Proxy::before(&gatepay).start();
        for shop in [acme(), globex()] {
            let body = order("PAID").replace("1.21", "100000");
            let made = proxy.send(shop.post(CREATE, body)).await.json();
            let prepay_id = made["data"]["prepayId"].as_str().expect("an order's id");
            let payment = gatepay.sandbox.pay(shop.sub_account, prepay_id);
            payment.expect("it can be paid");
            paid.insert(shop.id, prepay_id.to_owned());
        }
        proxy.stop().await;
        Self {
            gatepay,
            catalogue,
            paid,
            nowhere: Nowhere::reserve(),
            numbers: Cell::new(0),
        }
    }

    /// Clears the record of received requests, and resets the clock.
    pub(super) fn begin(&self) {
        self.gatepay.clock.set(T0);
        self.gatepay.sandbox.clear();
        self.gatepay.sandbox.clear_faults();
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.gatepay.clock
    }

    /// The plan of a process that starts after earlier ones.
    pub(super) fn proxy(
        &self,
        change: Change,
        adjust: impl FnOnce(&mut Settings) + 'static,
    ) -> Plan {
        let plan = match change {
            Change::GatePayIsDown => Proxy::at(&self.nowhere.url(), self.clock()),
            _ => Proxy::before(&self.gatepay),
        };
        let shops = [Merchant::Acme, Merchant::Globex].map(|shop| change.of(shop.tenant()));
        let plan = match change {
            Change::Unknown => plan.tenant(initech()),
            _ => shops.into_iter().fold(plan, Plan::tenant),
        };
        plan.catalogue(self.catalogue.clone())
            .with(adjust)
            .after_a_crash()
    }

    /// A call of this sort, under a key of its own. `closes` is the number of the order to close.
    pub(super) fn ask(&self, sort: Sort, shop: Merchant, closes: Option<&str>) -> Asked {
        let number = self.numbers.get() + 1;
        self.numbers.set(number);
        let key = match (sort, closes) {
            (Sort::CloseOrder, Some(number)) => number.to_owned(),
            _ => format!("N{number}"),
        };
        let body = match sort {
            Sort::CreateOrder => order(&key),
            Sort::CloseOrder => json!({ "merchantTradeNo": key }).to_string(),
            Sort::Refund => refund(&key, &self.paid[shop.id()]),
            Sort::RefundOfNothing => refund(&key, "1"),
            Sort::Payout => payout(&key),
        };
        Asked {
            sort,
            shop,
            key: format!("{} {key}", sort.operation()),
            body,
        }
    }

    /// How many requests GatePay has received since the scenario began.
    pub(super) fn received(&self) -> usize {
        self.gatepay.count()
    }

    /// The received requests that change state.
    pub(super) fn executions(&self) -> Vec<Execution> {
        let received = self.gatepay.received();
        let all = received.iter().enumerate();
        all.filter_map(|(at, received)| execution(at, received))
            .collect()
    }

    /// A shop's balance, in hundredths of a dollar.
    pub(super) fn cents(&self, shop: Merchant) -> u64 {
        let account = shop.tenant().sub_account;
        let amount = self.gatepay.sandbox.balance(account, "USDT");
        let (whole, part) = amount.split_once('.').unwrap_or((&amount, ""));
        format!("{whole}{part:0<2}").parse().expect("digits")
    }
}

impl Asked {
    /// Signs the call with this skew from now, in milliseconds. The stamp's number reaches GatePay in the user agent.
    pub(super) fn sign(&self, clock: &Clock, stamp: usize, skew_ms: i64) -> Call {
        let at = clock.unix_ms().saturating_add_signed(skew_ms);
        let fresh = clock.stamp();
        self.shop
            .tenant()
            .post(self.sort.path(), self.body.clone())
            .timestamp(&at)
            .nonce(fresh.as_stamp().nonce())
            .header("user-agent", &format!("stamp/{stamp}"))
    }
}

impl Asked {
    /// A copy of the call with a flaw.
    pub(super) fn flawed(&self, call: &Call, flaw: Flaw) -> Call {
        match flaw {
            Flaw::Body => call.with_body(format!("{} ", self.body)),
            Flaw::Signature => call.clone().secret("fake-other"),
            Flaw::NoDigits => call.clone().signature("none"),
            Flaw::MediaType => call.clone().instead("content-type", "text/plain"),
            Flaw::OnBehalfOf => call.clone().header(header::ON_BEHALF_OF, "2124538999"),
        }
    }
}

fn refund(number: &str, prepay_id: &str) -> String {
    json!({ "refundRequestId": number, "prepayId": prepay_id, "refundAmount": "0.01" }).to_string()
}

fn payout(number: &str) -> String {
    let part = json!({
        "merchant_withdraw_id": format!("W{number}"), "currency": "USDT", "amount": "0.02", "chain": "TRX",
        "address": "T1",
    });
    json!({ "batch_id": number, "withdraw_list": [part], "channel_id": "shop" }).to_string()
}

/// The execution that a request stands for, if its operation changes state.
fn execution(at: usize, received: &ReceivedRequest) -> Option<Execution> {
    let operation = received.operation.as_deref()?;
    let sorts = [
        Sort::CreateOrder,
        Sort::CloseOrder,
        Sort::Refund,
        Sort::Payout,
    ];
    let sort = sorts
        .into_iter()
        .find(|sort| sort.operation() == operation)?;
    let stamp = received.header("user-agent")?.strip_prefix("stamp/")?;
    let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    let answer: Value = serde_json::from_slice(&received.answer_body).unwrap_or_default();
    let key = body[sort.field()].as_str().unwrap_or_default();
    Some(Execution {
        at,
        stamp: stamp.parse().ok()?,
        key: format!("{operation} {key}"),
        took_effect: received.executed && succeeded(&answer),
    })
}

/// Whether a GatePay answer reports success.
pub(super) fn succeeded(answer: &Value) -> bool {
    let word = |name| answer[name].as_str();
    match (word("status"), word("result"), word("code")) {
        (Some(status), _, _) => status == "SUCCESS",
        (None, Some(result), _) => result == "SUCCESS",
        (None, None, Some(code)) => code == "SUCCESS",
        (None, None, None) => answer["batch_id"].is_string(),
    }
}
