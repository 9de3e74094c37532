//! Balances: the amount of each currency that a holder has, and the bill entries behind it.
//!
//! Money is moved and never created: every amount that an account receives, another holder gives. Two holders may give
//! more than they have, because they stand for the outside world: `MoneyHolder::Outside` and `MoneyHolder::Market`.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::api::accounts::AccountBook;
use crate::config::AnswerForms;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::page::ListPage;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::{CURRENCIES, RequestParameters};

/// A holder of money.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum MoneyHolder {
    /// The institution or a sub-account.
    Account(String),
    /// All parties outside the institution: customers, banks, addresses on chains.
    Outside,
    /// The counterparty of every conversion.
    Market,
}

/// An amount that goes from one holder to another.
pub(crate) struct MoneyMovement<'a> {
    pub(crate) from: MoneyHolder,
    pub(crate) to: MoneyHolder,
    pub(crate) currency: &'a str,
    pub(crate) amount: Amount,
}

/// The reason for a movement of money, as bills show it.
#[derive(Clone, Copy)]
pub(crate) struct MovementReason<'a> {
    /// The kind of business. No page lists GatePay's words; these are the sandbox's.
    pub(crate) kind: &'static str,
    /// GatePay's own id of the business.
    pub(crate) id: &'a str,
    /// The merchant's own number of the business.
    pub(crate) number: &'a str,
}

/// The balances and bills of all holders.
#[derive(Default)]
pub(crate) struct Balances {
    flows: HashMap<MoneyHolder, BTreeMap<String, MoneyFlow>>,
    /// Oldest first.
    entries: Vec<BillEntry>,
}

/// The amounts received and given since the start of the sandbox.
#[derive(Clone, Copy)]
struct MoneyFlow {
    received: Amount,
    given: Amount,
}

/// A line of an account's bill.
struct BillEntry {
    account: String,
    at_ms: u64,
    kind: &'static str,
    id: String,
    number: String,
    currency: String,
    /// The amount with its sign: `-` for money given.
    amount: String,
    balance: Amount,
}

/// `POST /payment/open/institution/v1/balance`. No currency means all.
pub(crate) fn query(
    balances: &Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let list = balances.list(call.account, asked)?;
    Ok(json!({ "balanceList": list }))
}

/// `GET /payment/open/institution/v1/pay/balance/query`, which other sources print (protocol.md 7).
pub(crate) fn query_as_merchant(
    balances: &Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let list = balances.list(call.account, asked)?;
    let list = (!list.is_empty()).then_some(list);
    Ok(json!({ "balance_list": list }))
}

/// `GET /v1/pay/balance`.
pub(crate) fn all(balances: &Balances, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let only = asked.optional_text("currency")?;
    let held = balances.held(call.account);
    let shown = held.filter(|(currency, _)| only.is_none_or(|only| only == *currency));
    Ok(shown
        .map(|(currency, amount)| (currency.to_owned(), json!(amount.to_string())))
        .collect::<Map<_, _>>()
        .into())
}

/// `GET /v1/pay/bill/orderlist`, newest first.
pub(crate) fn bills(
    balances: &Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let from = asked.optional_time("startTime")?.unwrap_or_default();
    let to = asked.optional_time("endTime")?.unwrap_or(u64::MAX);
    let currency = asked.optional_text("currency")?;
    let kind = asked.optional_text("financialType")?;
    let id = asked.optional_text("orderIdNo")?;
    let page = ListPage::asked(asked, "page", "count")?;
    let entries = balances.entries.iter().enumerate().rev();
    let found: Vec<_> = entries
        .filter(|(_, entry)| entry.account == call.account)
        .filter(|(_, entry)| (from..=to).contains(&entry.at_ms))
        .filter(|(_, entry)| currency.is_none_or(|currency| currency == entry.currency))
        .filter(|(_, entry)| kind.is_none_or(|kind| kind == entry.kind))
        .filter(|(_, entry)| id.is_none_or(|id| id == entry.id || id == entry.number))
        .map(|(position, entry)| entry.describe(position, call.forms))
        .collect();
    let has_next = page.end() < found.len();
    Ok(json!({
        "merchant_id": call.merchant_id(),
        "total": found.len(),
        "hasNext": has_next,
        "nextPage": if has_next { page.number + 1 } else { 0 },
        "balance_history_item_list": page.of(&found),
    }))
}

/// Gives an account money from outside. No call of the API does this.
pub(crate) fn fund(
    accounts: &AccountBook,
    balances: &mut Balances,
    call: LedgerCall<'_>,
    currency: &str,
    amount: Amount,
) -> Result<(), ApiFailure> {
    if !accounts.holds_money(call.account, call.now) {
        return Err(ApiFailure::UnknownAccount);
    }
    let reason = MovementReason {
        kind: "FUNDING",
        id: "",
        number: "",
    };
    let movement = MoneyMovement::deposit(call.account, currency, amount);
    balances.post(call.now, reason, &[movement])
}

impl MoneyHolder {
    pub(crate) fn account(id: &str) -> Self {
        Self::Account(id.to_owned())
    }
}

impl<'a> MoneyMovement<'a> {
    /// From outside into an account.
    pub(crate) fn deposit(account: &str, currency: &'a str, amount: Amount) -> Self {
        Self {
            from: MoneyHolder::Outside,
            to: MoneyHolder::account(account),
            currency,
            amount,
        }
    }

    /// Out of an account.
    pub(crate) fn withdrawal(account: &str, currency: &'a str, amount: Amount) -> Self {
        Self {
            from: MoneyHolder::account(account),
            to: MoneyHolder::Outside,
            currency,
            amount,
        }
    }
}

impl Balances {
    /// Makes all movements or none. An account gives no more than it has.
    pub(crate) fn post(
        &mut self,
        now: u64,
        reason: MovementReason<'_>,
        movements: &[MoneyMovement<'_>],
    ) -> Result<(), ApiFailure> {
        for (done, movement) in movements.iter().enumerate() {
            if let Err(failure) = self.shift(movement) {
                for movement in movements[..done].iter().rev() {
                    self.shift_back(movement);
                }
                return Err(failure);
            }
        }
        for movement in movements {
            let MoneyMovement { from, to, .. } = movement;
            self.enter(now, reason, from, "-", movement);
            self.enter(now, reason, to, "", movement);
        }
        Ok(())
    }

    /// The balance of an account in a currency.
    pub(crate) fn available(&self, account: &str, currency: &str) -> Amount {
        self.flows
            .get(&MoneyHolder::account(account))
            .and_then(|flows| flows.get(currency))
            .map_or(Amount::ZERO, |flow| flow.left())
    }

    /// The balances of an account, by currency.
    pub(crate) fn held(&self, account: &str) -> impl Iterator<Item = (&str, Amount)> {
        let flows = self.flows.get(&MoneyHolder::account(account));
        let flows = flows.into_iter().flatten();
        flows.map(|(currency, flow)| (currency.as_str(), flow.left()))
    }

    /// The balances of the currencies asked for, or of all that are held.
    fn list(&self, account: &str, asked: &RequestParameters) -> Result<Vec<Value>, ApiFailure> {
        let mut currencies = asked.texts(CURRENCIES)?;
        currencies.extend(asked.optional_text("currency")?);
        if currencies.is_empty() {
            currencies.extend(self.held(account).map(|(currency, _)| currency));
        }
        let balances = currencies.into_iter().map(|currency| {
            let available = self.available(account, currency).to_string();
            json!({"currency": currency, "available": available})
        });
        Ok(balances.collect())
    }

    fn shift(&mut self, movement: &MoneyMovement<'_>) -> Result<(), ApiFailure> {
        let (from, to) = self.ends(movement);
        let given = from
            .given
            .plus(movement.amount)
            .ok_or(ApiFailure::WrongAmount)?;
        let received = to
            .received
            .plus(movement.amount)
            .ok_or(ApiFailure::WrongAmount)?;
        if matches!(movement.from, MoneyHolder::Account(_)) && given > from.received {
            return Err(ApiFailure::InsufficientBalance);
        }
        self.flow(&movement.from, movement.currency).given = given;
        self.flow(&movement.to, movement.currency).received = received;
        Ok(())
    }

    fn shift_back(&mut self, movement: &MoneyMovement<'_>) {
        let (from, to) = self.ends(movement);
        let taken_back = "what was added a moment ago can be taken away";
        let given = from.given.minus(movement.amount).expect(taken_back);
        let received = to.received.minus(movement.amount).expect(taken_back);
        self.flow(&movement.from, movement.currency).given = given;
        self.flow(&movement.to, movement.currency).received = received;
    }

    fn ends(&mut self, movement: &MoneyMovement<'_>) -> (MoneyFlow, MoneyFlow) {
        let from = *self.flow(&movement.from, movement.currency);
        let to = *self.flow(&movement.to, movement.currency);
        (from, to)
    }

    fn flow(&mut self, holder: &MoneyHolder, currency: &str) -> &mut MoneyFlow {
        let flows = self.flows.entry(holder.clone()).or_default();
        flows.entry(currency.to_owned()).or_insert(MoneyFlow {
            received: Amount::ZERO,
            given: Amount::ZERO,
        })
    }

    /// Adds an entry to an account's bill; `Outside` and `Market` have no bill.
    fn enter(
        &mut self,
        now: u64,
        reason: MovementReason<'_>,
        holder: &MoneyHolder,
        sign: &str,
        movement: &MoneyMovement<'_>,
    ) {
        let MoneyHolder::Account(account) = holder else {
            return;
        };
        self.entries.push(BillEntry {
            account: account.clone(),
            at_ms: now,
            kind: reason.kind,
            id: reason.id.to_owned(),
            number: reason.number.to_owned(),
            currency: movement.currency.to_owned(),
            amount: format!("{sign}{}", movement.amount),
            balance: self.available(account, movement.currency),
        });
    }

    /// The sums received and given by all holders, by currency: the two are equal.
    #[cfg(test)]
    pub(crate) fn sums(&self) -> BTreeMap<&str, (Amount, Amount)> {
        let mut sums = BTreeMap::new();
        for (currency, flow) in self.flows.values().flatten() {
            let sum = sums
                .entry(currency.as_str())
                .or_insert((Amount::ZERO, Amount::ZERO));
            sum.0 = sum.0.plus(flow.received).unwrap();
            sum.1 = sum.1.plus(flow.given).unwrap();
        }
        sums
    }
}

impl MoneyFlow {
    fn left(self) -> Amount {
        let left = self.received.minus(self.given);
        left.expect("an account gives no more than it received")
    }
}

impl BillEntry {
    fn describe(&self, position: usize, forms: AnswerForms) -> Value {
        json!({
            "transactId": format!("{}", 60_000_000_001 + position),
            "transactTime": self.at_ms,
            "orderId": self.id,
            "merchantTradeNo": self.number,
            "financialType": self.kind,
            "payAmount": self.amount,
            "currency": self.currency,
            "balance": self.balance.to_string(),
            "balanceCurrency": self.currency,
            "status": "SUCCESS",
            "payer": match forms {
                AnswerForms::Clients => json!(0),
                AnswerForms::Documentation => json!(""),
            },
            "buyer": "",
            "fullChain": "",
            "hash": "",
            "address": "",
            "payChannel": "",
            "refund_gate_id": "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, NOW, OTHER, TestDesk};

    #[test]
    fn a_balance_is_asked_for_by_list_or_by_name_or_whole() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "1.50");
        desk.fund(ACME, "BTC", "2");
        let asked = json!({"currencies": ["USDT", "GT"]});
        assert_eq!(
            desk.get("query_balance", &asked),
            json!({"balanceList": [
                {"currency": "USDT", "available": "1.5"},
                {"currency": "GT", "available": "0"},
            ]})
        );
        let all = desk.get("query_balance", &json!({"currencies": []}));
        assert_eq!(all["balanceList"].as_array().unwrap().len(), 2);
        let all = desk.get("all_balances", &json!({}));
        assert_eq!(all, json!({"BTC": "2", "USDT": "1.5"}));
        let one = desk.get("all_balances", &json!({"currency": "BTC"}));
        assert_eq!(one, json!({"BTC": "2"}));
        assert_eq!(desk.ask(OTHER, "all_balances", &json!({})), Ok(json!({})));
    }

    #[test]
    fn the_merchants_form_has_no_list_if_there_is_nothing() {
        let mut desk = TestDesk::new();
        let call = desk.ledger.call(ACME, NOW);
        let nothing = query_as_merchant(&desk.ledger.balances, call, &RequestParameters::default());
        assert_eq!(nothing, Ok(json!({"balance_list": null})));
        desk.fund(ACME, "USDT", "1");
        let something =
            query_as_merchant(&desk.ledger.balances, call, &RequestParameters::default());
        let list = json!([{"currency": "USDT", "available": "1"}]);
        assert_eq!(something, Ok(json!({ "balance_list": list })));
    }

    #[test]
    fn bills_list_every_movement_with_its_sign_newest_first() {
        let mut desk = TestDesk::new();
        let prepay_id = desk.paid("order-1", "3");
        desk.now += 10;
        desk.get(
            "refund_order",
            &json!({"refundRequestId": "r1", "prepayId": prepay_id, "refundAmount": "1"}),
        );
        desk.fund(OTHER, "GT", "7");
        let lines = |desk: &mut TestDesk, asked: Value| {
            let bills = desk.get("list_bills", &asked);
            let lines = bills["balance_history_item_list"]
                .as_array()
                .unwrap()
                .iter();
            let lines = lines.map(|line| {
                format!(
                    "{} {} {}",
                    line["financialType"].as_str().unwrap(),
                    line["payAmount"].as_str().unwrap(),
                    line["balance"].as_str().unwrap()
                )
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines(&mut desk, json!({})), ["REFUND -1 2", "PAYMENT 3 3"]);
        assert_eq!(
            lines(&mut desk, json!({"count": 1, "page": 2})),
            ["PAYMENT 3 3"]
        );
        assert_eq!(
            lines(&mut desk, json!({"startTime": NOW + 1})),
            ["REFUND -1 2"]
        );
        assert_eq!(
            lines(&mut desk, json!({"orderIdNo": "order-1"})),
            ["PAYMENT 3 3"]
        );
        assert!(lines(&mut desk, json!({"currency": "USDT"})).is_empty());
        let first = desk.get("list_bills", &json!({"count": 1}));
        assert_eq!(
            (&first["hasNext"], &first["nextPage"]),
            (&json!(true), &json!(2))
        );
    }

    #[test]
    fn movements_are_made_together_or_not_at_all() {
        let mut balances = Balances::default();
        let movement = |from, to, amount| MoneyMovement {
            from,
            to,
            currency: "GT",
            amount: Amount::parse(amount).unwrap(),
        };
        let reason = MovementReason {
            kind: "TEST",
            id: "",
            number: "",
        };
        let [acme, other] = [ACME, OTHER].map(MoneyHolder::account);
        let movements = [
            movement(MoneyHolder::Outside, acme.clone(), "5"),
            movement(acme, other.clone(), "2"),
            movement(other, MoneyHolder::Outside, "3"),
        ];
        let posted = balances.post(NOW, reason, &movements);
        assert_eq!(posted, Err(ApiFailure::InsufficientBalance));
        for account in [ACME, OTHER] {
            assert_eq!(balances.available(account, "GT"), Amount::ZERO);
        }
        assert!(balances.entries.is_empty());
        assert_eq!(balances.post(NOW, reason, &movements[..2]), Ok(()));
        assert_eq!(balances.available(ACME, "GT").to_string(), "3");
    }
}
