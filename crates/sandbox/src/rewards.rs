//! Batch transfers: rewards to Gate users. Without On-Behalf-Of the institution's own account pays.

use serde_json::{Value, json};

use crate::balances::{Holder, Movement, Reason};
use crate::ledger::{Call, Ledger, Outcome};
use crate::numbers::Once;
use crate::parameters::Parameters;
use crate::{Failure, NumbersUniquePer};

/// The first id of GatePay's own.
const FIRST_ID: u64 = 91_000_000_001;

/// All batches, by `merchant_batch_no`, as a query has them.
pub(crate) struct Rewards(Once<Value>);

/// `POST /v1/pay/batch/transfer`. Paid at once, wholly or not at all.
pub(crate) fn create(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let Rewards(rewards) = &mut ledger.rewards;
    if let Some(earlier) = rewards.before(call, "merchant_batch_no", asked)? {
        return Ok(describe_new(earlier));
    }
    let number = asked.text("merchant_batch_no")?;
    asked.text("currency")?;
    let list = asked.objects("batchorderList")?;
    let mut movements = Vec::new();
    for reward in &list {
        reward.integer("user_id")?;
        movements.push(Movement {
            from: Holder::account(call.account),
            to: Holder::Outside,
            currency: reward.text("currency")?,
            amount: reward.amount("amount")?,
        });
    }
    let id = rewards.next_id(FIRST_ID);
    let reason = Reason {
        kind: "REWARD",
        id: &id,
        number,
    };
    ledger.balances.post(call.now, reason, &movements)?;
    let batch = json!({
        "merchant_batch_no": number,
        "batch_id": id,
        "currency": asked.echo("currency"),
        "status": "PAID",
        "channelId": asked.echo("channelId"),
        "createTime": call.now,
        "batchorderList": asked.echo("batchorderList"),
    });
    let answer = describe_new(&batch);
    rewards.keep(call, number, asked, batch);
    Ok(answer)
}

/// `POST /v1/pay/batch/transfer/query`. No page shows the answer.
pub(crate) fn query(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let Rewards(rewards) = &ledger.rewards;
    let number = asked.optional_text("merchant_batch_no")?;
    let id = asked.optional_text("batch_id")?;
    let batch = match (number, id) {
        (None, None) => return Err(Failure::Malformed("batch_id or merchant_batch_no")),
        (Some(number), _) => rewards.find(call.account, number),
        (None, Some(id)) => rewards
            .of(call.account)
            .find(|batch| batch["batch_id"] == id),
    };
    batch
        .filter(|batch| id.is_none_or(|id| batch["batch_id"] == id))
        .cloned()
        .ok_or(Failure::NotFound("batch"))
}

impl Rewards {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self(Once::new(numbers))
    }
}

fn describe_new(batch: &Value) -> Value {
    json!({
        "merchant_batch_no": batch["merchant_batch_no"],
        "batch_id": batch["batch_id"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, Desk, OTHER};

    fn rewards(number: &str, amounts: &[&str]) -> Value {
        let list: Vec<_> = amounts
            .iter()
            .map(|amount| json!({"user_id": 1, "currency": "USDT", "amount": amount}))
            .collect();
        json!({"merchant_batch_no": number, "currency": "USDT", "batchorderList": list})
    }

    #[test]
    fn a_batch_is_paid_once_wholly_or_not_at_all() {
        let mut desk = Desk::new();
        desk.fund(ACME, "USDT", "3");
        let too_much = rewards("1", &["2", "1.5"]);
        assert_eq!(desk.refusal("create_batch_transfer", &too_much), "400605");
        assert_eq!(desk.balance(ACME, "USDT"), "3");

        let paid = desk.get("create_batch_transfer", &rewards("1", &["2", "0.5"]));
        assert_eq!(
            desk.get("create_batch_transfer", &rewards("1", &["2", "0.5"])),
            paid
        );
        assert_eq!(
            desk.refusal("create_batch_transfer", &rewards("1", &["2"])),
            "400001"
        );
        assert_eq!(desk.balance(ACME, "USDT"), "0.5");
    }

    #[test]
    fn a_batch_is_found_by_either_number() {
        let mut desk = Desk::new();
        desk.fund(ACME, "USDT", "3");
        let paid = desk.get("create_batch_transfer", &rewards("1", &["2"]));
        let by_number = json!({"merchant_batch_no": "1"});
        let found = desk.get("query_batch_transfer", &by_number);
        assert_eq!(found["status"], "PAID");
        let by_id = json!({"batch_id": paid["batch_id"]});
        assert_eq!(desk.get("query_batch_transfer", &by_id), found);
        let both = json!({"merchant_batch_no": "1", "batch_id": "17"});
        assert_eq!(desk.refusal("query_batch_transfer", &both), "400202");
        assert_eq!(desk.refusal("query_batch_transfer", &json!({})), "400001");
        let strange = desk.ask(OTHER, "query_batch_transfer", &by_number);
        assert_eq!(strange, Err("400202".to_owned()));
    }
}
