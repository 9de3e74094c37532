//! Gift cards: paid for by the account, and worth their amount to whoever has the key.

use serde_json::{Value, json};

use crate::Failure;
use crate::balances::{Holder, Movement, Reason};
use crate::ledger::{Call, Ledger, Outcome};
use crate::parameters::Parameters;

/// The number of the first card; they have as many digits as a card in a shop.
const FIRST_NUMBER: u64 = 6_000_000_000_000_001;

/// More cards than this are not made at once. No page has a number.
const MOST_AT_ONCE: u32 = 100;

/// The templates there are.
const TEMPLATES: [(&str, &str); 2] = [("1", "Birthday"), ("2", "Thank you")];

/// All cards, oldest first.
#[derive(Default)]
pub(crate) struct GiftCards(Vec<GiftCard>);

struct GiftCard {
    account: String,
    /// As answers have it.
    description: Value,
}

/// `POST /v1/pay/gift/create`. It has no number that would make a repetition harmless: asked for twice, paid twice.
/// One card is answered as an object, several as a list of them.
pub(crate) fn create(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let title = asked.text("title")?;
    let template = asked.text("templateId")?;
    if !TEMPLATES.iter().any(|(id, _)| *id == template) {
        return Err(Failure::Malformed("templateId"));
    }
    let currency = asked.text("currency")?;
    let amount = asked.amount("amount")?;
    let count = asked.optional_time("count")?.unwrap_or(1);
    let count = u32::try_from(count)
        .ok()
        .filter(|count| *count <= MOST_AT_ONCE)
        .ok_or(Failure::Malformed("count"))?;

    let GiftCards(cards) = &mut ledger.gift_cards;
    let first = FIRST_NUMBER + cards.len() as u64;
    let movement = Movement {
        from: Holder::account(call.account),
        to: Holder::Outside,
        currency,
        amount: amount.times(count).ok_or(Failure::WrongAmount)?,
    };
    let reason = Reason {
        kind: "GIFT_CARD",
        id: &first.to_string(),
        number: "",
    };
    ledger.balances.post(call.now, reason, &[movement])?;
    let made: Vec<_> = (first..)
        .zip(0..count)
        .map(|(number, _)| {
            json!({
                "card_num": number.to_string(),
                "card_key": format!("KEY{number}"),
                "amount": asked.echo("amount"),
                "currency": currency,
                "status": "PAID",
                "card_temp_id": template,
                "title": title,
                "creator": call.account,
                "create_time": call.now,
            })
        })
        .collect();
    cards.extend(made.iter().map(|card| GiftCard {
        account: call.account.to_owned(),
        description: card.clone(),
    }));
    match <[Value; 1]>::try_from(made) {
        Ok([card]) => Ok(card),
        Err(cards) => Ok(cards.into()),
    }
}

/// `POST /v1/pay/gift/query`. Where both are given the key counts.
pub(crate) fn query(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let (member, value) = match (
        asked.optional_text("key")?,
        asked.optional_text("card_number")?,
    ) {
        (Some(key), _) => ("card_key", key),
        (None, Some(number)) => ("card_num", number),
        (None, None) => return Err(Failure::Malformed("card_number or key")),
    };
    let GiftCards(cards) = &ledger.gift_cards;
    cards
        .iter()
        .filter(|card| card.account == call.account)
        .map(|card| &card.description)
        .find(|card| card[member] == value)
        .cloned()
        .ok_or(Failure::NotFound("card"))
}

/// `GET /v1/pay/gift/temp/list`.
#[expect(clippy::unnecessary_wraps, reason = "all operations have one type")]
pub(crate) fn templates(_: &mut Ledger, _: Call<'_>, _: &Parameters) -> Outcome {
    let templates = TEMPLATES.map(|(id, title)| json!({"template_id": id, "title": title}));
    Ok(json!({ "list": templates }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, Desk, OTHER};

    fn card(count: u64) -> Value {
        json!({
            "title": "Thanks", "templateId": "1", "currency": "USDT", "amount": "2", "count": count,
        })
    }

    #[test]
    fn a_card_is_paid_for_each_time_it_is_asked_for() {
        let mut desk = Desk::new();
        desk.fund(ACME, "USDT", "11");
        let first = desk.get("create_gift_card", &card(0));
        let second = desk.get("create_gift_card", &card(1));
        assert_ne!(first["card_num"], second["card_num"]);
        let several = desk.get("create_gift_card", &card(3));
        assert_eq!(several.as_array().unwrap().len(), 3);
        assert_eq!(desk.balance(ACME, "USDT"), "1");
        assert_eq!(desk.refusal("create_gift_card", &card(1)), "400605");
        assert_eq!(desk.refusal("create_gift_card", &card(101)), "400001");

        let both = json!({"card_number": first["card_num"], "key": second["card_key"]});
        assert_eq!(desk.get("query_gift_card", &both), second, "the key wins");
        let number = json!({"card_number": several[2]["card_num"]});
        assert_eq!(desk.get("query_gift_card", &number), several[2]);
        let strange = desk.ask(OTHER, "query_gift_card", &number);
        assert_eq!(strange, Err("400202".to_owned()));
    }
}
