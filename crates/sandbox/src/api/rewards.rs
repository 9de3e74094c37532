//! Batch transfers: rewards to Gate users. Without On-Behalf-Of the institution's own account pays.

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyMovement, MovementReason};
use crate::config::{AnswerForms, NumbersUniquePer};
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::OncePerNumber;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The first id of GatePay's own.
const FIRST_ID: u64 = 91_000_000_001;

/// All batches, by `merchant_batch_no`.
pub(crate) struct RewardBook(OncePerNumber<RewardBatch>);

struct RewardBatch {
    id: String,
    number: String,
    currency: String,
    channel_id: String,
    created_ms: u64,
    rewards: Vec<GiftReward>,
    /// The list as sent, which the documentation's form repeats.
    list: Value,
}

struct GiftReward {
    user_id: u64,
    amount: Amount,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    currency: String,
    /// `rewardId`, the merchant's own number.
    number: String,
}

/// `POST /v1/pay/batch/transfer`. The batch is paid at once, wholly or not at all. The page has a currency in every
/// item of the list too; client libraries have a currency beside the list only.
pub(crate) fn create(
    rewards: &mut RewardBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let RewardBook(rewards) = rewards;
    if let Some(earlier) = rewards.before(call, "merchant_batch_no", asked)? {
        return Ok(earlier.describe_new());
    }
    let number = asked.text("merchant_batch_no")?;
    let currency = asked.text("currency")?;
    let list = asked.objects("batchorderList")?;
    let paid = list
        .iter()
        .map(|reward| GiftReward::asked(reward, currency));
    let paid = paid.collect::<Result<Vec<_>, _>>()?;
    let movements: Vec<_> = paid.iter().map(|reward| reward.movement(call)).collect();
    let id = rewards.next_id(FIRST_ID);
    let reason = MovementReason {
        kind: "REWARD",
        id: &id,
        number,
    };
    balances.post(call.now, reason, &movements)?;
    let batch = RewardBatch {
        id,
        number: number.to_owned(),
        currency: currency.to_owned(),
        channel_id: asked.echo_text("channelId"),
        created_ms: call.now,
        rewards: paid,
        list: asked.echo("batchorderList"),
    };
    let answer = batch.describe_new();
    news.tell(|| batch.news());
    rewards.keep(call, number, asked, batch);
    Ok(answer)
}

/// `POST /v1/pay/batch/transfer/query`. No page shows the answer; client libraries have types for it.
pub(crate) fn query(
    rewards: &RewardBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let RewardBook(rewards) = rewards;
    let number = asked.optional_text("merchant_batch_no")?;
    let id = asked.optional_text("batch_id")?;
    let batch = match (number, id) {
        (None, None) => return Err(ApiFailure::Malformed("batch_id or merchant_batch_no")),
        (Some(number), _) => rewards.find(call.account, number),
        (None, Some(id)) => rewards.of(call.account).find(|batch| batch.id == id),
    };
    batch
        .filter(|batch| id.is_none_or(|id| batch.id == id))
        .map(|batch| batch.describe(call))
        .ok_or(ApiFailure::NotFound("batch"))
}

impl RewardBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self(OncePerNumber::new(numbers))
    }
}

impl RewardBatch {
    fn news(&self) -> BusinessNews {
        let mut data = self.describe_new();
        data["currency"] = json!(self.currency);
        data["status"] = json!("PAID");
        data["createTime"] = json!(self.created_ms);
        BusinessNews::enveloped("PAY_BATCH", &self.id, &["PAID"], data)
    }

    fn describe_new(&self) -> Value {
        json!({"merchant_batch_no": self.number, "batch_id": self.id})
    }

    fn describe(&self, call: LedgerCall<'_>) -> Value {
        let mut answer = self.describe_new();
        answer["currency"] = json!(self.currency);
        answer["status"] = json!("PAID");
        match call.forms {
            AnswerForms::Clients => {
                let rewards = self.rewards.iter().enumerate();
                let rewards = rewards.map(|(position, reward)| reward.describe(position, self));
                answer["merchant_id"] = json!(call.merchant_id());
                answer["channel_id"] = json!(self.channel_id);
                answer["orders_list"] = rewards.collect();
            }
            AnswerForms::Documentation => {
                answer["channelId"] = json!(self.channel_id);
                answer["createTime"] = json!(self.created_ms);
                answer["batchorderList"] = self.list.clone();
            }
        }
        answer
    }
}

impl GiftReward {
    fn asked(asked: &RequestParameters, currency_of_batch: &str) -> Result<Self, ApiFailure> {
        let currency = asked.optional_text("currency")?;
        Ok(Self {
            user_id: asked.integer("user_id")?,
            amount: asked.amount("amount")?,
            amount_text: asked.echo_text("amount"),
            currency: currency.unwrap_or(currency_of_batch).to_owned(),
            number: asked.echo_text("rewardId"),
        })
    }

    fn movement(&self, call: LedgerCall<'_>) -> MoneyMovement<'_> {
        MoneyMovement::withdrawal(call.account, &self.currency, self.amount)
    }

    /// A reward in the form of client libraries' types: the currency is present only if it differs from the batch's.
    fn describe(&self, position: usize, batch: &RewardBatch) -> Value {
        let mut answer = json!({
            "receiver_id": self.user_id,
            "amount": self.amount_text,
            "status": "PAID",
            "reward_id": self.number,
            "transaction_id": format!("T{}{position:03}", batch.id),
            "create_time": batch.created_ms,
            "channel_id": batch.channel_id,
        });
        if self.currency != batch.currency {
            answer["currency"] = json!(self.currency);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn rewards(number: &str, amounts: &[&str]) -> Value {
        let list: Vec<_> = amounts
            .iter()
            .map(|amount| json!({"user_id": 1, "currency": "USDT", "amount": amount}))
            .collect();
        json!({"merchant_batch_no": number, "currency": "USDT", "batchorderList": list})
    }

    #[test]
    fn a_batch_is_paid_once_wholly_or_not_at_all() {
        let mut desk = TestDesk::new();
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
    fn the_currency_of_a_batch_applies_to_items_without_their_own() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "3");
        let list = json!([{"user_id": 7, "amount": "1.50", "RewardId": "r"}]);
        let asked = json!({"merchant_batch_no": "1", "currency": "USDT", "batchorderList": list});
        desk.get("create_batch_transfer", &asked);
        assert_eq!(desk.balance(ACME, "USDT"), "1.5");
        let found = desk.get("query_batch_transfer", &json!({"merchant_batch_no": "1"}));
        assert_eq!(found["currency"], "USDT");
        assert_eq!(found["merchant_id"], json!(2_124_538_349_u64));
        let order = &found["orders_list"][0];
        assert_eq!(order["receiver_id"], 7);
        assert_eq!(order["amount"], "1.50");
        assert_eq!(order["reward_id"], "r");
        assert!(order.get("currency").is_none());
    }

    #[test]
    fn the_documentations_form_repeats_the_list_that_was_sent() {
        let mut desk = TestDesk::documented();
        desk.fund(ACME, "USDT", "3");
        let asked = rewards("1", &["2"]);
        desk.get("create_batch_transfer", &asked);
        let found = desk.get("query_batch_transfer", &json!({"merchant_batch_no": "1"}));
        assert_eq!(found["batchorderList"], asked["batchorderList"]);
    }

    #[test]
    fn a_batch_is_found_by_either_number() {
        let mut desk = TestDesk::new();
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
