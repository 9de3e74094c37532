//! Payouts: money to addresses on chains, in batches.
//!
//! An accepted payout is done at once, wholly or not at all, and without a fee. GatePay takes time and a fee, but
//! publishes neither in a form that can be emulated.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyMovement, MovementReason};
use crate::config::{AnswerForms, NumbersUniquePer};
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market;
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::OncePerNumber;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The first of GatePay's own ids, for batches and for sub-orders.
const FIRST_ID: u64 = 90_000_000_001;

/// The maximum number of sub-orders. GatePay does not publish its maximum.
const MOST_SUB_ORDERS: usize = 100;

/// All payouts.
pub(crate) struct PayoutBook {
    /// By `batch_id`.
    batches: OncePerNumber<SandboxPayout>,
    /// Account and `merchant_withdraw_id` of every sub-order.
    sub_orders: HashSet<(String, String)>,
}

struct SandboxPayout {
    id: String,
    channel_id: Option<String>,
    created_ms: u64,
    sub_orders: Vec<SubOrder>,
}

struct SubOrder {
    number: String,
    currency: String,
    amount: Amount,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    chain: String,
    address: String,
    memo: String,
    fee_type: u64,
}

/// `POST /v1/pay/withdraw`. A repeated batch id fails, even for an identical payout (protocol.md 4.2).
pub(crate) fn create(
    payouts: &mut PayoutBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let batch_id = batch_id(asked)?;
    if payouts.batches.is_taken(call.account, batch_id) {
        return Err(ApiFailure::PayoutExists);
    }
    let list = asked.objects("withdraw_list")?;
    if list.len() > MOST_SUB_ORDERS {
        return Err(ApiFailure::PayoutTooLong);
    }
    let sub_orders: Vec<_> = list.iter().map(SubOrder::asked).collect::<Result<_, _>>()?;
    let mut numbers = HashSet::new();
    for order in &sub_orders {
        let number = (call.account.to_owned(), order.number.clone());
        if payouts.sub_orders.contains(&number) || !numbers.insert(number) {
            return Err(ApiFailure::PayoutId);
        }
    }
    let id = payouts.batches.next_id(FIRST_ID);
    let reason = MovementReason {
        kind: "PAYOUT",
        id: &id,
        number: batch_id,
    };
    let movements: Vec<_> = sub_orders
        .iter()
        .map(|order| order.movement(call))
        .collect();
    let posted = balances.post(call.now, reason, &movements);
    posted.map_err(|failure| match failure {
        ApiFailure::InsufficientBalance => ApiFailure::PayoutBalance,
        other => other,
    })?;
    let payout = SandboxPayout {
        id,
        channel_id: Some(asked.echo_text("channel_id")).filter(|id| !id.is_empty()),
        created_ms: call.now,
        sub_orders,
    };
    news.tell(|| payout.news(batch_id, call));
    payouts.batches.keep(call, batch_id, asked, payout);
    payouts.sub_orders.extend(numbers);
    Ok(json!({ "batch_id": batch_id }))
}

/// `POST /v1/pay/withdraw/query`.
pub(crate) fn query(
    payouts: &PayoutBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let batch_id = batch_id(asked)?;
    // Every sub-order is done.
    let shows_done = matches!(asked.text("detail_status")?, "ALL" | "DONE");
    let payout = payouts.batches.find(call.account, batch_id);
    let payout = payout.ok_or(ApiFailure::PayoutId)?;
    let sub_orders: Vec<_> = payout
        .sub_orders
        .iter()
        .filter(|_| shows_done)
        .enumerate()
        .map(|(position, order)| order.describe(position, payout, batch_id, call))
        .collect();
    Ok(json!({
        "batch_id": batch_id,
        "merchant_id": merchant_id(call),
        "client_id": "",
        "status": "SUCCESS",
        "create_time": payout.created_ms,
        "channel_id": payout.channel_id,
        "withdraw_list": sub_orders,
    }))
}

impl PayoutBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self {
            batches: OncePerNumber::new(numbers),
            sub_orders: HashSet::new(),
        }
    }

    /// The time and description of an account's sub-orders for `GET /v1/pay/wallet/withdrawals`, newest first.
    pub(crate) fn withdrawals(&self, account: &str) -> Vec<(u64, Value)> {
        let payouts = self.batches.of(account).rev();
        payouts
            .flat_map(|payout| {
                let numbered = payout.sub_orders.iter().enumerate().rev();
                numbered.map(|(position, order)| {
                    let withdrawal = order.describe_withdrawal(position, payout);
                    (payout.created_ms, withdrawal)
                })
            })
            .collect()
    }
}

impl SandboxPayout {
    /// The payout from its acceptance to its end, without an envelope (protocol.md 5.1). Its name of a sub-order differs
    /// from the query's, and it has members of its own.
    fn news(&self, batch_id: &str, call: LedgerCall<'_>) -> BusinessNews {
        let main_order = json!({
            "batch_id": batch_id,
            "merchant_id": merchant_id(call),
            "status": "",
            "pay_back_status": null,
            "channel_id": self.channel_id,
        });
        let numbered = self.sub_orders.iter().enumerate();
        let sub_orders = numbered.map(|(position, order)| {
            let mut order = order.describe(position, self, batch_id, call);
            let own = ["id", "batch_id", "withdraw_id", "timestamp", "create_time"];
            for name in own.into_iter().chain(["update_time", "err_msg"]) {
                order.as_object_mut().and_then(|order| order.remove(name));
            }
            // Possibly empty, says the page.
            order["batch_withdraw_id"] = json!("");
            order["from_address"] = json!(market::address(0));
            order["reconciliation_status"] = json!("");
            order
        });
        BusinessNews::payout(&self.id, main_order, sub_orders.collect())
    }

    fn sub_order_id(&self, position: usize) -> String {
        format!("w{}{position:03}", self.id)
    }
}

impl SubOrder {
    fn asked(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        let amount_text = asked.text("amount").map_err(|_| ApiFailure::PayoutAmount)?;
        let amount = asked
            .amount("amount")
            .map_err(|_| ApiFailure::PayoutAmount)?;
        if !amount.fits_six_decimals() {
            return Err(ApiFailure::PayoutPrecision);
        }
        let text = |name, failure| asked.text(name).map(ToOwned::to_owned).map_err(|_| failure);
        Ok(Self {
            number: text("merchant_withdraw_id", ApiFailure::PayoutId)?,
            currency: text("currency", ApiFailure::PayoutCurrency)?,
            amount,
            amount_text: amount_text.to_owned(),
            chain: text("chain", ApiFailure::PayoutChain)?,
            address: text("address", ApiFailure::PayoutAddress)?,
            memo: asked.optional_text("memo")?.unwrap_or_default().to_owned(),
            fee_type: asked.optional_integer("fee_type")?.unwrap_or_default(),
        })
    }

    fn movement(&self, call: LedgerCall<'_>) -> MoneyMovement<'_> {
        MoneyMovement::withdrawal(call.account, &self.currency, self.amount)
    }

    fn describe(
        &self,
        position: usize,
        payout: &SandboxPayout,
        batch_id: &str,
        call: LedgerCall<'_>,
    ) -> Value {
        let id = payout.sub_order_id(position);
        json!({
            "id": position + 1,
            "batch_id": batch_id,
            "merchant_id": merchant_id(call),
            "suborder_id": id,
            "withdraw_id": id,
            "chain": self.chain,
            "address": self.address,
            "currency": self.currency,
            "amount": self.amount_text,
            "fee": "0",
            "tx_id": format!("0x{id}"),
            "timestamp": payout.created_ms,
            "memo": self.memo,
            "create_time": payout.created_ms,
            "update_time": payout.created_ms,
            "status": "DONE",
            "err_msg": "",
            "merchant_withdraw_id": self.number,
            "fee_type": self.fee_type,
            "desc": "",
            "channel_id": payout.channel_id,
            "finish_time": payout.created_ms,
            "sub_amount": self.amount_text,
            "done_amount": self.amount_text,
        })
    }

    fn describe_withdrawal(&self, position: usize, payout: &SandboxPayout) -> Value {
        let id = payout.sub_order_id(position);
        let seconds = (payout.created_ms / 1000).to_string();
        json!({
            "id": id,
            "currency": self.currency,
            "address": self.address,
            "amount": self.amount_text,
            "fee": "0",
            "txid": format!("0x{id}"),
            "chain": self.chain,
            "timestamp": seconds,
            "status": "DONE",
            "withdraw_order_id": self.number,
            "block_number": "1",
            "fail_reason": "",
            "type": "",
            "timestamp2": seconds,
            "memo": self.memo,
        })
    }
}

/// The account id: a number in the types of client libraries, text on the page.
fn merchant_id(call: LedgerCall<'_>) -> Value {
    match call.forms {
        AnswerForms::Clients => json!(call.merchant_id()),
        AnswerForms::Documentation => json!(call.account),
    }
}

/// The batch id: at most 32 letters, digits and `_`.
fn batch_id(asked: &RequestParameters) -> Result<&str, ApiFailure> {
    let id = asked.text("batch_id").map_err(|_| ApiFailure::PayoutId)?;
    let is_word = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_word && id.len() <= 32)
        .then_some(id)
        .ok_or(ApiFailure::PayoutId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn part(number: &str, amount: &str) -> Value {
        json!({
            "merchant_withdraw_id": number, "currency": "USDT", "amount": amount, "chain": "TRX",
            "address": "T1",
        })
    }

    fn payout(batch_id: &str, list: &[Value]) -> Value {
        json!({"batch_id": batch_id, "withdraw_list": list, "channel_id": "shop"})
    }

    #[test]
    fn a_payout_is_done_at_once_and_described_in_the_documented_shape() {
        let mut desk = TestDesk::documented();
        desk.fund(ACME, "USDT", "10");
        let created = desk.get(
            "create_payout",
            &payout("b_1", &[part("1", "2.50"), part("2", "1")]),
        );
        assert_eq!(created, json!({"batch_id": "b_1"}));
        assert_eq!(desk.balance(ACME, "USDT"), "6.5");

        let all = json!({"batch_id": "b_1", "detail_status": "ALL"});
        let found = desk.get("query_payout", &all);
        assert_eq!(
            (&found["merchant_id"], &found["status"]),
            (&json!(ACME), &json!("SUCCESS"))
        );
        let parts = found["withdraw_list"].as_array().unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0]["amount"], "2.50",
            "the merchant's own spelling is kept"
        );
        assert_eq!(
            (&parts[1]["status"], &parts[1]["channel_id"]),
            (&json!("DONE"), &json!("shop"))
        );
        let pending = json!({"batch_id": "b_1", "detail_status": "PENDING"});
        assert_eq!(
            desk.get("query_payout", &pending)["withdraw_list"],
            json!([])
        );
        assert_eq!(
            desk.ask(OTHER, "query_payout", &all),
            Err("550249".to_owned())
        );
    }

    #[test]
    fn a_payout_is_refused_as_a_whole() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "10");
        desk.get("create_payout", &payout("done", &[part("1", "1")]));
        let without = |name: &str| {
            let mut part = part("2", "1");
            part[name] = json!("");
            part
        };
        for (batch_id, list, code) in [
            ("done", vec![part("2", "1")], "550245"),
            ("a-b", vec![part("2", "1")], "550249"),
            ("b", vec![part("1", "1")], "550249"),
            ("b", vec![part("2", "1"), part("2", "1")], "550249"),
            ("b", vec![part("2", "8"), part("3", "2")], "550233"),
            ("b", vec![part("2", "0.0000001")], "550235"),
            ("b", vec![part("2", "0")], "550239"),
            ("b", vec![without("currency")], "550240"),
            ("b", vec![without("address")], "550241"),
            ("b", vec![without("chain")], "550242"),
            ("b", vec![part("2", "1"); 101], "550238"),
            ("b", vec![], "400001"),
        ] {
            assert_eq!(
                desk.refusal("create_payout", &payout(batch_id, &list)),
                code
            );
        }
        assert_eq!(desk.balance(ACME, "USDT"), "9");
        desk.get("create_payout", &payout("b", &[part("2", "9")]));
    }
}
