//! Transfers and charges: money between the institution's accounts, at once.
//!
//! The account in On-Behalf-Of pays a transfer and receives a charge; the account in the body is the counterparty.

use serde_json::{Value, json};

use crate::api::accounts::AccountBook;
use crate::api::balances::{Balances, MoneyHolder, MoneyMovement, MovementReason};
use crate::config::NumbersUniquePer;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::numbers::OncePerNumber;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// All transfers and charges, by `merchantBatchNo`, in the form of answers.
pub(crate) struct TransferBook {
    transfers: OncePerNumber<Value>,
    charges: OncePerNumber<Value>,
}

/// `POST …/v1/pay/transfer`.
pub(crate) fn transfer(
    transfers: &mut TransferBook,
    accounts: &AccountBook,
    balances: &mut Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let other = other_side(accounts, call, asked)?;
    let (book, sides) = (&mut transfers.transfers, [call.account, other]);
    settle_once(book, balances, call, asked, "TRANSFER", sides)
}

/// `POST …/v1/pay/charge`.
pub(crate) fn charge(
    transfers: &mut TransferBook,
    accounts: &AccountBook,
    balances: &mut Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let other = other_side(accounts, call, asked)?;
    let (book, sides) = (&mut transfers.charges, [other, call.account]);
    settle_once(book, balances, call, asked, "CHARGE", sides)
}

/// `GET …/v1/pay/transfer/detail`.
pub(crate) fn transfer_detail(
    transfers: &TransferBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    detail(&transfers.transfers, call, asked)
}

/// `GET …/v1/pay/charges/detail`.
pub(crate) fn charge_detail(
    transfers: &TransferBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    detail(&transfers.charges, call, asked)
}

impl TransferBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self {
            transfers: OncePerNumber::new(numbers),
            charges: OncePerNumber::new(numbers),
        }
    }
}

/// The account in the body, which must be usable and differ from the caller's.
fn other_side<'a>(
    accounts: &AccountBook,
    call: LedgerCall<'_>,
    asked: &'a RequestParameters,
) -> Result<&'a str, ApiFailure> {
    let other = asked.text("accountId")?;
    if other == call.account {
        return Err(ApiFailure::Malformed("accountId"));
    }
    if !accounts.holds_money(other, call.now) {
        return Err(ApiFailure::UnknownAccount);
    }
    Ok(other)
}

/// Moves the money, or returns the answer of the earlier identical call.
fn settle_once(
    book: &mut OncePerNumber<Value>,
    balances: &mut Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
    kind: &'static str,
    sides: [&str; 2],
) -> Outcome {
    if let Some(earlier) = book.before(call, "merchantBatchNo", asked)? {
        return Ok(earlier.clone());
    }
    let done = settle(balances, call, asked, kind, sides)?;
    book.keep(call, asked.text("merchantBatchNo")?, asked, done.clone());
    Ok(done)
}

/// Moves the money, and returns the answer.
fn settle(
    balances: &mut Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
    kind: &'static str,
    [from, to]: [&str; 2],
) -> Outcome {
    let number = asked.text("merchantBatchNo")?;
    let amount = asked.amount("amount")?;
    let movement = MoneyMovement {
        from: MoneyHolder::account(from),
        to: MoneyHolder::account(to),
        currency: asked.text("currency")?,
        amount,
    };
    let reason = MovementReason {
        kind,
        id: number,
        number,
    };
    balances.post(call.now, reason, &[movement])?;
    Ok(json!({
        "merchantBatchNo": number,
        "status": "PAID",
        "fromAccountId": from,
        "toAccountId": to,
        "currency": asked.echo("currency"),
        "amount": asked.echo("amount"),
        "createTime": call.now,
    }))
}

fn detail(all: &OncePerNumber<Value>, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    all.find(call.account, asked.text("merchantBatchNo")?)
        .cloned()
        .ok_or(ApiFailure::NotFound("merchantBatchNo"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, INSTITUTION, OTHER, TestDesk};

    fn to(account: &str, amount: &str) -> Value {
        json!({
            "merchantBatchNo": "1", "accountId": account, "currency": "USDT", "amount": amount,
        })
    }

    #[test]
    fn a_transfer_is_paid_and_a_charge_received_by_the_one_who_asks() {
        let mut desk = TestDesk::new();
        desk.fund(INSTITUTION, "USDT", "10");
        let sent = desk
            .ask(INSTITUTION, "create_transfer", &to(ACME, "4"))
            .unwrap();
        assert_eq!(sent["fromAccountId"], INSTITUTION);
        assert_eq!(
            (&sent["toAccountId"], &sent["status"]),
            (&json!(ACME), &json!("PAID"))
        );
        let charged = desk.ask(OTHER, "create_charge", &to(ACME, "1")).unwrap();
        assert_eq!(charged["fromAccountId"], ACME);
        for (account, balance) in [(INSTITUTION, "6"), (ACME, "3"), (OTHER, "1")] {
            assert_eq!(desk.balance(account, "USDT"), balance);
        }
        let number = json!({"merchantBatchNo": "1"});
        assert_eq!(desk.ask(INSTITUTION, "transfer_detail", &number), Ok(sent));
        assert_eq!(desk.ask(OTHER, "charge_detail", &number), Ok(charged));
        assert_eq!(desk.refusal("transfer_detail", &number), "400202");
    }

    #[test]
    fn a_transfer_number_moves_money_once() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "5");
        let sent = desk.get("create_transfer", &to(OTHER, "2"));
        desk.now += 1;
        assert_eq!(desk.get("create_transfer", &to(OTHER, "2")), sent);
        assert_eq!(desk.refusal("create_transfer", &to(OTHER, "3")), "400001");
        assert_eq!(desk.balance(ACME, "USDT"), "3");
    }

    #[test]
    fn a_transfer_needs_another_active_account_and_a_sufficient_balance() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "5");
        assert_eq!(desk.refusal("create_transfer", &to(ACME, "1")), "400001");
        assert_eq!(desk.refusal("create_transfer", &to("17", "1")), "400203");
        assert_eq!(
            desk.refusal("create_transfer", &to(OTHER, "5.01")),
            "400605"
        );
        assert_eq!(desk.refusal("create_charge", &to(OTHER, "1")), "400605");
        assert_eq!(desk.balance(ACME, "USDT"), "5");
    }
}
