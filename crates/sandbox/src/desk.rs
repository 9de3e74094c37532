//! Test support: a ledger, a clock, and a caller.

use std::time::Duration;

use gatepay_core::Catalogue;
use gatepay_core::envelope::{AnswerVerdict, judge};
use serde_json::{Value, json};

use crate::api::accounts::AccountBook;
use crate::api::{balances, orders};
use crate::config::{AnswerForms, NumbersUniquePer, SubAccount};
use crate::ledger::Ledger;
use crate::operations::emulated;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

pub(crate) const NOW: u64 = 1_767_225_600_000;
pub(crate) const INSTITUTION: &str = "1000000000";
pub(crate) const ACME: &str = "2124538349";
pub(crate) const OTHER: &str = "2124538350";

/// The time until a new account becomes active, in milliseconds.
pub(crate) const DELAY_MS: u64 = 1000;

pub(crate) struct TestDesk {
    pub(crate) ledger: Ledger,
    pub(crate) now: u64,
    catalogue: Catalogue,
}

impl TestDesk {
    pub(crate) fn new() -> Self {
        Self::with(NumbersUniquePer::SubAccount)
    }

    /// A desk with this scope of unique numbers.
    pub(crate) fn with(numbers: NumbersUniquePer) -> Self {
        Self::with_rules(numbers, AnswerForms::Clients)
    }

    /// A desk with the answers that the documentation prints.
    pub(crate) fn documented() -> Self {
        Self::with_rules(NumbersUniquePer::SubAccount, AnswerForms::Documentation)
    }

    fn with_rules(numbers: NumbersUniquePer, forms: AnswerForms) -> Self {
        let sub_accounts = vec![SubAccount::active(ACME), SubAccount::active(OTHER)];
        let delay = Duration::from_millis(DELAY_MS);
        let accounts = AccountBook::new(INSTITUTION.to_owned(), None, delay, sub_accounts);
        Self {
            ledger: Ledger::new(accounts, numbers, forms),
            now: NOW,
            catalogue: Catalogue::standard(),
        }
    }

    /// The data of an answer, or the code of the refusal.
    pub(crate) fn ask(
        &mut self,
        account: &str,
        operation: &str,
        asked: &Value,
    ) -> Result<Value, String> {
        let row = self.catalogue.named(operation).unwrap();
        let emulated = emulated(operation, row.institution_method).unwrap();
        let call = self.ledger.call(account, self.now);
        let asked = RequestParameters::parse(asked.to_string().as_bytes());
        let answer = emulated.perform(&mut self.ledger, call, asked);
        assert_eq!(answer.status, 200, "{operation}");
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let judgement = judge(row.kind, answer.status, &answer.body);
        match judgement.verdict {
            AnswerVerdict::Success => Ok(body.get("data").cloned().unwrap_or(body)),
            AnswerVerdict::Failure => Err(judgement.code.unwrap().to_string()),
            AnswerVerdict::Unknown => panic!("{operation}: {body}"),
        }
    }

    /// The data of Acme's answer.
    pub(crate) fn get(&mut self, operation: &str, asked: &Value) -> Value {
        self.ask(ACME, operation, asked).unwrap()
    }

    /// The code of Acme's refusal.
    pub(crate) fn refusal(&mut self, operation: &str, asked: &Value) -> String {
        self.ask(ACME, operation, asked).unwrap_err()
    }

    /// Gives an account money from outside.
    pub(crate) fn fund(&mut self, account: &str, currency: &str, amount: &str) {
        let call = self.ledger.call(account, self.now);
        let amount = Amount::parse(amount).unwrap();
        let ledger = &mut self.ledger;
        balances::fund(
            &ledger.accounts,
            &mut ledger.balances,
            call,
            currency,
            amount,
        )
        .unwrap();
    }

    pub(crate) fn balance(&self, account: &str, currency: &str) -> String {
        let amount = self.ledger.balances.available(account, currency);
        amount.to_string()
    }

    /// Places an order in GT.
    pub(crate) fn order(&mut self, account: &str, number: &str, amount: &str) -> String {
        let placed = self.ask(account, "create_order", &order(number, amount));
        placed.unwrap()["prepayId"].as_str().unwrap().to_owned()
    }

    pub(crate) fn pay(&mut self, account: &str, prepay_id: &str) -> Result<(), ApiFailure> {
        let call = self.ledger.call(account, self.now);
        orders::pay(
            &mut self.ledger.orders,
            &mut self.ledger.balances,
            &mut self.ledger.news,
            call,
            prepay_id,
        )
    }

    /// Acme's order in GT, paid.
    pub(crate) fn paid(&mut self, number: &str, amount: &str) -> String {
        let prepay_id = self.order(ACME, number, amount);
        self.pay(ACME, &prepay_id).unwrap();
        prepay_id
    }
}

pub(crate) fn order(number: &str, amount: &str) -> Value {
    json!({
        "merchantTradeNo": number,
        "env": {"terminalType": "APP"},
        "currency": "GT",
        "orderAmount": amount,
        "goods": {"goodsName": "NF2T"},
    })
}

/// An order to be paid on a chain, in `pay_currency`.
pub(crate) fn address_order(number: &str, amount: &str, pay_currency: &str) -> Value {
    let mut order = order(number, amount);
    order["merchantUserId"] = json!(7);
    order["chain"] = json!("MATIC");
    order["fullCurrType"] = json!(format!("{pay_currency}_MATIC"));
    order["orderExpireTime"] = json!(NOW + 1000);
    order
}
