//! The invariant of the ledger: no operation creates or destroys money.
//!
//! The test keeps a second set of books, computed from the answers. After each operation every balance equals its value
//! in these books, and the sums given and received by all holders are equal.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::api::fixed_addresses;
use crate::desk::{ACME, INSTITUTION, NOW, OTHER, TestDesk, address_order, order};
use crate::wire::amount::Amount;

const CURRENCIES: [&str; 3] = ["GT", "USDT", "BTC"];

/// An operation that moves money or attempts to. Amounts are in hundredths.
#[derive(Debug, Clone)]
enum MoneyStep {
    Fund(AccountName, Coin, u32),
    Order {
        converted: bool,
        cents: u32,
    },
    Refund {
        order: Index,
        cents: u32,
    },
    RefundConverted {
        order: Index,
        cents: u32,
    },
    Payout(Coin, Vec<u32>),
    Rewards(AccountName, Coin, Vec<u32>),
    Transfer(AccountName, AccountName, Coin, u32),
    Charge(AccountName, AccountName, Coin, u32),
    Convert {
        sold: Coin,
        bought: Coin,
        cents: u32,
        by_bought: bool,
    },
    GiftCards {
        count: u32,
        cents: u32,
    },
    Otc {
        side: &'static str,
        cents: u32,
    },
    Deduct(Coin, u32),
    Deposit(u32),
    /// Repeats the previous call unchanged.
    Again,
}

type AccountName = &'static str;
type Coin = &'static str;

fn step() -> impl Strategy<Value = MoneyStep> {
    let account = || prop::sample::select(vec![INSTITUTION, ACME, OTHER]);
    let coin = || prop::sample::select(CURRENCIES.to_vec());
    let cents = || 0..2000_u32;
    let parts = || prop::collection::vec(0..800_u32, 1..4);
    let order = || any::<Index>();
    prop_oneof![
        (account(), coin(), 1..2000_u32)
            .prop_map(|(caller, coin, cents)| MoneyStep::Fund(caller, coin, cents)),
        (any::<bool>(), cents())
            .prop_map(|(converted, cents)| MoneyStep::Order { converted, cents }),
        (order(), cents()).prop_map(|(order, cents)| MoneyStep::Refund { order, cents }),
        (order(), cents()).prop_map(|(order, cents)| MoneyStep::RefundConverted { order, cents }),
        (coin(), parts()).prop_map(|(coin, parts)| MoneyStep::Payout(coin, parts)),
        (account(), coin(), parts())
            .prop_map(|(caller, coin, parts)| MoneyStep::Rewards(caller, coin, parts)),
        (account(), account(), coin(), cents())
            .prop_map(|(a, b, coin, c)| MoneyStep::Transfer(a, b, coin, c)),
        (account(), account(), coin(), cents())
            .prop_map(|(a, b, coin, c)| MoneyStep::Charge(a, b, coin, c)),
        (coin(), coin(), cents(), any::<bool>()).prop_map(|(sold, bought, cents, by_bought)| {
            MoneyStep::Convert {
                sold,
                bought,
                cents,
                by_bought,
            }
        }),
        (1..4_u32, cents()).prop_map(|(count, cents)| MoneyStep::GiftCards { count, cents }),
        (prop::sample::select(vec!["BUY", "SELL"]), cents())
            .prop_map(|(side, cents)| MoneyStep::Otc { side, cents }),
        (coin(), cents()).prop_map(|(coin, cents)| MoneyStep::Deduct(coin, cents)),
        (1..2000_u32).prop_map(MoneyStep::Deposit),
        Just(MoneyStep::Again),
    ]
}

/// The second books: units of 10^-8 by account and currency.
type Books = BTreeMap<(&'static str, &'static str), i128>;

struct ConservationRun {
    desk: TestDesk,
    books: Books,
    /// The count of merchant numbers used.
    numbers: u32,
    /// Acme's orders that were paid.
    orders: Vec<String>,
    bank: Value,
    subscription: Value,
    address: String,
    last: Option<(AccountName, &'static str, Value)>,
}

impl ConservationRun {
    fn new() -> Self {
        let mut desk = TestDesk::new();
        let bank = json!({
            "bankAccountName": "A", "bankName": "B", "countryId": "SG", "iban": "I", "swift": "S",
        });
        let bank = desk.get("create_otc_bank", &bank)["bankAccountId"].take();
        let plan = json!({"merchantPlanNo": "p", "planName": "P", "priceNo": "1"});
        let plan = desk.get("save_plan", &plan)["planNo"].take();
        let subscription = json!({"merchantSubscriptionOrderNo": "s", "planNo": plan});
        let mut subscription = desk.get("create_subscription", &subscription);
        let address = json!({
            "channelId": "c", "chain": "ETH", "currencies": "USDT", "callbackUrl": "u",
        });
        let address = desk.get("save_fixed_address", &address);
        Self {
            desk,
            books: Books::new(),
            numbers: 0,
            orders: Vec::new(),
            bank,
            subscription: subscription["subscriptionOrderNo"].take(),
            address: address["address"].as_str().unwrap().to_owned(),
            last: None,
        }
    }

    fn number(&mut self) -> String {
        self.numbers += 1;
        format!("n{}", self.numbers)
    }

    /// Makes a call that may fail, and returns the data of a success.
    fn try_to(
        &mut self,
        caller: AccountName,
        operation: &'static str,
        asked: Value,
    ) -> Option<Value> {
        let answer = self.desk.ask(caller, operation, &asked).ok();
        self.last = answer.is_some().then_some((caller, operation, asked));
        answer
    }

    fn enter(&mut self, caller: AccountName, coin: Coin, grains: i128) {
        *self.books.entry((caller, coin)).or_default() += grains;
    }

    fn take(&mut self, step: MoneyStep) {
        match step {
            MoneyStep::Fund(caller, coin, cents) => {
                self.desk.fund(caller, coin, &text(cents));
                self.enter(caller, coin, grains(&text(cents)));
            }
            MoneyStep::Order { converted, cents } => self.pay_order(converted, cents),
            MoneyStep::Refund { order, cents } => {
                let refund = json!({"refundAmount": text(cents)});
                self.refund(order, "refund_order", refund, cents);
            }
            MoneyStep::RefundConverted { order, cents } => {
                let refund = json!({
                    "receiverId": 1, "refundReason": "r", "refundOrderCurrency": "GT",
                    "refundPayCurrency": "USDT", "refundOrderAmount": text(cents),
                });
                self.refund(order, "refund_converted_address_order", refund, cents);
            }
            MoneyStep::Payout(coin, parts) => self.pay_out(coin, &parts),
            MoneyStep::Rewards(caller, coin, parts) => self.reward(caller, coin, &parts),
            MoneyStep::Transfer(from, to, coin, cents) => {
                self.transfer("create_transfer", [from, to], [from, to], coin, cents);
            }
            MoneyStep::Charge(from, to, coin, cents) => {
                self.transfer("create_charge", [to, from], [from, to], coin, cents);
            }
            MoneyStep::Convert {
                sold,
                bought,
                cents,
                by_bought,
            } => {
                self.convert(sold, bought, cents, by_bought);
            }
            MoneyStep::GiftCards { count, cents } => self.buy_gift_cards(count, cents),
            MoneyStep::Otc { side, cents } => self.trade(side, cents),
            MoneyStep::Deduct(coin, cents) => self.deduct(coin, cents),
            MoneyStep::Deposit(cents) => self.deposit(cents),
            MoneyStep::Again => self.repeat_last(),
        }
    }

    fn buy_gift_cards(&mut self, count: u32, cents: u32) {
        let cards = json!({
            "title": "t", "templateId": "1", "currency": "USDT", "amount": text(cents),
            "count": count,
        });
        if self.try_to(ACME, "create_gift_card", cards).is_some() {
            self.enter(ACME, "USDT", -grains(&text(cents)) * i128::from(count));
        }
        // This call has no merchant number: a repetition would pay again.
        self.last = None;
    }

    fn deduct(&mut self, coin: Coin, cents: u32) {
        let deduction = json!({
            "merchantDeductNo": self.number(), "amount": f64::from(cents) / 100.0,
            "currency": coin, "subscriptionOrderNo": self.subscription,
        });
        let deducted = self.try_to(ACME, "deduct_subscription", deduction);
        if deducted.is_some() {
            self.enter(ACME, coin, grains(&text(cents)));
        }
    }

    fn deposit(&mut self, cents: u32) {
        let amount = Amount::parse(&text(cents)).unwrap();
        let ledger = &mut self.desk.ledger;
        fixed_addresses::deposit(
            &mut ledger.fixed_addresses,
            &mut ledger.balances,
            &mut ledger.news,
            NOW,
            &self.address,
            "USDT",
            amount,
        )
        .unwrap();
        self.enter(ACME, "USDT", grains(&text(cents)));
    }

    fn repeat_last(&mut self) {
        if let Some((caller, operation, asked)) = self.last.take() {
            let again = self.desk.ask(caller, operation, &asked);
            // A repeated payout fails; any other repeated call is answered again.
            assert_eq!(again.is_err(), operation == "create_payout");
        }
    }

    fn pay_order(&mut self, converted: bool, cents: u32) {
        let number = self.number();
        let placed = if converted {
            let order = address_order(&number, &text(cents), "USDT");
            self.desk.ask(ACME, "create_address_order", &order)
        } else {
            self.desk
                .ask(ACME, "create_order", &order(&number, &text(cents)))
        };
        if let Ok(placed) = placed {
            let prepay_id = placed["prepayId"].as_str().unwrap().to_owned();
            self.desk.pay(ACME, &prepay_id).unwrap();
            self.enter(ACME, "GT", grains(&text(cents)));
            self.orders.push(prepay_id);
        }
    }

    fn refund(&mut self, order: Index, operation: &'static str, mut refund: Value, cents: u32) {
        if self.orders.is_empty() {
            return;
        }
        refund["refundRequestId"] = json!(self.number());
        refund["prepayId"] = json!(order.get(&self.orders));
        if self.try_to(ACME, operation, refund).is_some() {
            self.enter(ACME, "GT", -grains(&text(cents)));
        }
    }

    fn pay_out(&mut self, coin: Coin, parts: &[u32]) {
        let list: Vec<_> = parts
            .iter()
            .map(|cents| {
                json!({
                    "merchant_withdraw_id": self.number(), "currency": coin, "chain": "ETH",
                    "address": "0x1", "amount": text(*cents),
                })
            })
            .collect();
        let payout = json!({"batch_id": self.number(), "withdraw_list": list});
        if self.try_to(ACME, "create_payout", payout).is_some() {
            self.enter(ACME, coin, -total(parts));
        }
    }

    fn reward(&mut self, caller: AccountName, coin: Coin, parts: &[u32]) {
        let list = parts
            .iter()
            .map(|cents| json!({"user_id": 1, "currency": coin, "amount": text(*cents)}));
        let list: Vec<_> = list.collect();
        let rewards = json!({
            "merchant_batch_no": self.number(), "currency": coin, "batchorderList": list,
        });
        if self
            .try_to(caller, "create_batch_transfer", rewards)
            .is_some()
        {
            self.enter(caller, coin, -total(parts));
        }
    }

    fn transfer(
        &mut self,
        operation: &'static str,
        [caller, other]: [AccountName; 2],
        [from, to]: [AccountName; 2],
        coin: Coin,
        cents: u32,
    ) {
        let transfer = json!({
            "merchantBatchNo": self.number(), "accountId": other, "currency": coin,
            "amount": text(cents),
        });
        if self.try_to(caller, operation, transfer).is_some() {
            self.enter(from, coin, -grains(&text(cents)));
            self.enter(to, coin, grains(&text(cents)));
        }
    }

    fn convert(&mut self, sold: Coin, bought: Coin, cents: u32, by_bought: bool) {
        let part = if by_bought { "buyAmount" } else { "sellAmount" };
        let wanted = json!({"sellCurrency": sold, "buyCurrency": bought, part: text(cents)});
        let Ok(mut quoted) = self.desk.ask(ACME, "preview_conversion", &wanted) else {
            return;
        };
        quoted["clientReqId"] = json!(self.number());
        if let Some(done) = self.try_to(ACME, "create_conversion", quoted) {
            self.enter(ACME, sold, -grains(done["sellAmount"].as_str().unwrap()));
            self.enter(ACME, bought, grains(done["buyAmount"].as_str().unwrap()));
        }
    }

    fn trade(&mut self, side: &'static str, cents: u32) {
        let wanted = json!({
            "cryptoCurrency": "USDT", "fiatCurrency": "EUR", "side": "CRYPTO", "type": side,
            "cryptoAmount": text(cents),
        });
        let Ok(mut quoted) = self.desk.ask(ACME, "otc_quote", &wanted) else {
            return;
        };
        quoted["clientOrderId"] = json!(self.number());
        quoted["bankAccountId"] = self.bank.clone();
        if self.try_to(ACME, "create_otc_order", quoted).is_some() {
            let sign = if side == "BUY" { 1 } else { -1 };
            self.enter(ACME, "USDT", sign * grains(&text(cents)));
        }
    }

    fn check(&self) {
        for account in [INSTITUTION, ACME, OTHER] {
            for coin in CURRENCIES {
                let books = self
                    .books
                    .get(&(account, coin))
                    .copied()
                    .unwrap_or_default();
                assert!(books >= 0, "{account} owes {coin}");
                let balance = grains(&self.desk.balance(account, coin));
                assert_eq!(balance, books, "{account} {coin}");
            }
        }
        for (currency, (received, given)) in self.desk.ledger.balances.sums() {
            assert_eq!(received, given, "{currency}");
        }
    }
}

fn text(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn total(parts: &[u32]) -> i128 {
    parts.iter().map(|cents| grains(&text(*cents))).sum()
}

/// Parses an amount of at most eight decimals, in units of 10^-8.
fn grains(amount: &str) -> i128 {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    assert!(fraction.len() <= 8, "{amount}");
    format!("{whole}{fraction:0<8}").parse().unwrap()
}

proptest! {
    #[test]
    fn money_is_moved_and_never_made(steps in prop::collection::vec(step(), 1..60)) {
        let mut play = ConservationRun::new();
        for step in steps {
            play.take(step);
            play.check();
        }
    }
}
