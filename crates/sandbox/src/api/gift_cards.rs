//! Gift cards: the account pays for a card, and the holder of the card's key owns its amount.

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyMovement, MovementReason};
use crate::config::AnswerForms;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::news::{BusinessNews, NewsBook};
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The number of the first card. Numbers have as many digits as those of cards in a shop.
const FIRST_NUMBER: u64 = 6_000_000_000_000_001;

/// The maximum number of cards per call. No page documents a maximum.
const MOST_AT_ONCE: u32 = 100;

/// The status of every card in the form of client libraries: a number without documented meanings.
const PAID: u8 = 1;

/// All templates: id and title.
const TEMPLATES: [(&str, &str); 2] = [("1", "Birthday"), ("2", "Thank you")];

/// All cards, oldest first.
#[derive(Default)]
pub(crate) struct GiftCards(Vec<GiftCard>);

struct GiftCard {
    account: String,
    number: String,
    key: String,
    /// The id of the batch: all cards of one call.
    batch_id: String,
    title: String,
    template: String,
    currency: String,
    /// The amount as the merchant wrote it, for answers.
    amount_text: String,
    created_ms: u64,
}

/// `POST /v1/pay/gift/create`. The call has no merchant number that makes a repetition harmless: a repeated call pays
/// again. The answer to one card is an object. For several cards the documentation has a list, and client libraries an
/// object: here the first card's object, with all cards in `cards`.
pub(crate) fn create(
    gift_cards: &mut GiftCards,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let title = asked.text("title")?;
    let template = asked.text("templateId")?;
    if !TEMPLATES.iter().any(|(id, _)| *id == template) {
        return Err(ApiFailure::Malformed("templateId"));
    }
    let currency = asked.text("currency")?;
    let amount = asked.amount("amount")?;
    let count = asked.optional_time("count")?.unwrap_or(1);
    let count = u32::try_from(count)
        .ok()
        .filter(|count| *count <= MOST_AT_ONCE)
        .ok_or(ApiFailure::Malformed("count"))?;

    let GiftCards(cards) = gift_cards;
    let first = FIRST_NUMBER + cards.len() as u64;
    let total = amount.times(count).ok_or(ApiFailure::WrongAmount)?;
    let movement = MoneyMovement::withdrawal(call.account, currency, total);
    let reason = MovementReason {
        kind: "GIFT_CARD",
        id: &first.to_string(),
        number: "",
    };
    balances.post(call.now, reason, &[movement])?;
    let made = (first..).zip(0..count).map(|(number, _)| GiftCard {
        account: call.account.to_owned(),
        number: number.to_string(),
        key: format!("KEY{number}"),
        batch_id: format!("B{first}"),
        title: title.to_owned(),
        template: template.to_owned(),
        currency: currency.to_owned(),
        amount_text: asked.echo_text("amount"),
        created_ms: call.now,
    });
    let before = cards.len();
    cards.extend(made);
    news.tell(|| batch_news(&cards[before..], call.now));
    let made: Vec<_> = cards[before..]
        .iter()
        .map(|card| card.describe(call))
        .collect();
    Ok(match (call.forms, made.as_slice()) {
        (_, [card]) => card.clone(),
        (AnswerForms::Documentation, _) => made.into(),
        (AnswerForms::Clients, _) => {
            let mut answer = made[0].clone();
            answer["cards"] = made.into();
            answer
        }
    })
}

/// `POST /v1/pay/gift/query`. Where both key and number are given the key takes precedence.
pub(crate) fn query(
    gift_cards: &GiftCards,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let key = asked.optional_text("key")?;
    let number = asked.optional_text("card_number")?;
    if key.or(number).is_none() {
        return Err(ApiFailure::Malformed("card_number or key"));
    }
    let GiftCards(cards) = gift_cards;
    let card = cards
        .iter()
        .filter(|card| card.account == call.account)
        .find(|card| match key {
            Some(key) => card.key == key,
            None => number == Some(&card.number),
        })
        .ok_or(ApiFailure::NotFound("card"))?;
    let mut answer = card.describe(call);
    if call.forms == AnswerForms::Clients {
        answer["key"] = json!(card.key);
        answer["exchange_time"] = json!(0);
    }
    Ok(answer)
}

/// `GET /v1/pay/gift/temp/list`.
#[expect(clippy::unnecessary_wraps, reason = "all operations have one type")]
pub(crate) fn templates(call: LedgerCall<'_>, _: &RequestParameters) -> Outcome {
    Ok(match call.forms {
        AnswerForms::Clients => json!(TEMPLATES.map(|(id, title)| {
            json!({
                "card_temp_id": id,
                "image_url": format!("https://sandbox.invalid/gift/{id}.png"),
                "title_en": title,
                "title_cn": title,
                "cover_type": "1",
            })
        })),
        AnswerForms::Documentation => {
            let templates = TEMPLATES.map(|(id, title)| json!({"template_id": id, "title": title}));
            json!({ "list": templates })
        }
    })
}

/// The cards of one call. Their keys are worth money, so the notification has none.
fn batch_news(cards: &[GiftCard], now: u64) -> BusinessNews {
    let card = cards.first().expect("a call makes at least one card");
    let data = json!({
        "batchId": card.batch_id,
        "title": card.title,
        "currency": card.currency,
        "amount": card.amount_text,
        "count": cards.len(),
        "status": "PAID",
        "createTime": now,
    });
    BusinessNews::enveloped("PAY_GIFT_BATCH", &card.batch_id, &["PAID"], data)
}

impl GiftCard {
    fn describe(&self, call: LedgerCall<'_>) -> Value {
        let mut card = json!({
            "card_num": self.number,
            "card_key": self.key,
            "amount": self.amount_text,
            "currency": self.currency,
            "card_temp_id": self.template,
            "title": self.title,
            "create_time": self.created_ms,
        });
        match call.forms {
            AnswerForms::Clients => {
                card["status"] = json!(PAID);
                card["creator"] = json!(call.merchant_id());
                card["creator_name"] = json!("");
                card["owner"] = json!(call.merchant_id());
                card["exchange_uid"] = json!(0);
                card["give_count"] = json!(0);
                card["last_give_time"] = json!(0);
                card["batchId"] = json!(self.batch_id);
                card["reason"] = json!("");
                card["err_msg"] = json!("");
            }
            AnswerForms::Documentation => {
                card["status"] = json!("PAID");
                card["creator"] = json!(self.account);
            }
        }
        card
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn card(count: u64) -> Value {
        json!({
            "title": "Thanks", "templateId": "1", "currency": "USDT", "amount": "2", "count": count,
        })
    }

    #[test]
    fn a_card_is_paid_for_each_time_it_is_asked_for() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "11");
        let first = desk.get("create_gift_card", &card(0));
        let second = desk.get("create_gift_card", &card(1));
        assert_ne!(first["card_num"], second["card_num"]);
        let answer = desk.get("create_gift_card", &card(3));
        let several = answer["cards"].as_array().unwrap();
        assert_eq!(several.len(), 3);
        assert_eq!(answer["card_num"], several[0]["card_num"]);
        assert!(
            several
                .iter()
                .all(|one| one["batchId"] == answer["batchId"])
        );
        assert_eq!(desk.balance(ACME, "USDT"), "1");
        assert_eq!(desk.refusal("create_gift_card", &card(1)), "400605");
        assert_eq!(desk.refusal("create_gift_card", &card(101)), "400001");

        let both = json!({"card_number": first["card_num"], "key": second["card_key"]});
        let found = desk.get("query_gift_card", &both);
        assert_eq!(found["card_num"], second["card_num"], "the key wins");
        assert_eq!(found["key"], second["card_key"]);
        let number = json!({"card_number": several[2]["card_num"]});
        let found = desk.get("query_gift_card", &number);
        assert_eq!(found["card_num"], several[2]["card_num"]);
        let strange = desk.ask(OTHER, "query_gift_card", &number);
        assert_eq!(strange, Err("400202".to_owned()));
    }

    #[test]
    fn the_documentation_has_several_cards_and_the_templates_in_lists() {
        let mut desk = TestDesk::documented();
        desk.fund(ACME, "USDT", "6");
        let one = desk.get("create_gift_card", &card(1));
        assert_eq!(
            (&one["status"], &one["creator"]),
            (&json!("PAID"), &json!(ACME))
        );
        let number = json!({"card_number": one["card_num"]});
        assert_eq!(desk.get("query_gift_card", &number), one);
        let several = desk.get("create_gift_card", &card(2));
        assert_eq!(several.as_array().unwrap().len(), 2);
        let templates = desk.get("list_gift_templates", &json!({}));
        assert_eq!(templates["list"][0]["template_id"], "1");
    }
}
