//! Conversions: a conversion needs a quote, and is executed exactly as quoted, at the fixed prices of `market`.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyHolder, MoneyMovement, MovementReason};
use crate::config::NumbersUniquePer;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market;
use crate::rules::numbers::OncePerNumber;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The lifetime of a quote, in milliseconds. No page documents one.
const QUOTE_LIFE_MS: u64 = 60_000;

/// The first order id.
const FIRST_ID: u64 = 92_000_000_001;

/// Quotes and conversions.
pub(crate) struct ConversionBook {
    /// Unused quotes by quoteId.
    quotes: HashMap<String, ConversionQuote>,
    quoted: usize,
    /// Conversions by clientReqId, in the form of answers.
    done: OncePerNumber<Value>,
}

struct ConversionQuote {
    account: String,
    sold: CurrencyAmount,
    bought: CurrencyAmount,
    expires_ms: u64,
}

/// An amount of a currency.
#[derive(PartialEq)]
struct CurrencyAmount {
    currency: String,
    amount: Amount,
}

/// `POST /v1/pay/convert/preview`.
pub(crate) fn preview(
    conversions: &mut ConversionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let sold = market::currency(asked.text("sellCurrency")?)?.name;
    let bought = market::currency(asked.text("buyCurrency")?)?.name;
    if sold == bought {
        return Err(ApiFailure::InvalidCurrency);
    }
    let sell_amount = asked.optional_amount("sellAmount")?;
    let (sell_amount, buy_amount) = match (sell_amount, asked.optional_amount("buyAmount")?) {
        (Some(amount), _) => (amount, market::buys(sold, amount, bought)?),
        (None, Some(amount)) => (market::costs(bought, amount, sold)?, amount),
        (None, None) => return Err(ApiFailure::Malformed("sellAmount or buyAmount")),
    };
    conversions.quoted += 1;
    let id = format!("Q{}", conversions.quoted);
    let quote = ConversionQuote {
        account: call.account.to_owned(),
        sold: CurrencyAmount::new(sold, sell_amount),
        bought: CurrencyAmount::new(bought, buy_amount),
        expires_ms: call.now.saturating_add(QUOTE_LIFE_MS),
    };
    conversions.quotes.insert(id.clone(), quote);
    let rate = market::rate(sold, bought)?.to_string();
    Ok(json!({
        "quoteId": id,
        "sellCurrency": sold,
        "sellAmount": sell_amount.to_string(),
        "buyCurrency": bought,
        "buyAmount": buy_amount.to_string(),
        // Pages and client libraries have different names for the rate.
        "rate": rate,
        "price": rate,
    }))
}

/// `POST /v1/pay/convert`. A quote is valid for one conversion; a failed conversion leaves the quote valid.
pub(crate) fn convert(
    conversions: &mut ConversionBook,
    balances: &mut Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let earlier = conversions.done.before(call, "clientReqId", asked)?;
    if let Some(earlier) = earlier {
        return Ok(earlier.clone());
    }
    let number = asked.text("clientReqId")?;
    let quote_id = asked.text("quoteId")?;
    let quote = conversions
        .quotes
        .get(quote_id)
        .filter(|quote| quote.account == call.account)
        .ok_or(ApiFailure::Malformed("quoteId"))?;
    if call.now >= quote.expires_ms {
        return Err(ApiFailure::RateMoved);
    }
    let ConversionQuote { sold, bought, .. } = quote;
    if CurrencyAmount::asked(asked, "sellCurrency", "sellAmount")? != *sold {
        return Err(ApiFailure::Malformed("sellAmount"));
    }
    if CurrencyAmount::asked(asked, "buyCurrency", "buyAmount")? != *bought {
        return Err(ApiFailure::Malformed("buyAmount"));
    }
    let id = conversions.done.next_id(FIRST_ID);
    let reason = MovementReason {
        kind: "CONVERT",
        id: &id,
        number,
    };
    let movements = [
        sold.movement(MoneyHolder::account(call.account), MoneyHolder::Market),
        bought.movement(MoneyHolder::Market, MoneyHolder::account(call.account)),
    ];
    balances.post(call.now, reason, &movements)?;
    let done = json!({
        "order_id": id,
        "userId": call.merchant_id(),
        "sellCurrency": sold.currency,
        "sellAmount": sold.amount.to_string(),
        "buyCurrency": bought.currency,
        "buyAmount": bought.amount.to_string(),
        "status": 1,
        "rate": market::rate(&sold.currency, &bought.currency)?,
        "quoteId": quote_id,
        "createTime": call.now,
    });
    conversions.quotes.remove(quote_id);
    conversions.done.keep(call, number, asked, done.clone());
    Ok(done)
}

/// `GET /v1/pay/convert/order`. The parameter's name is inferred; the other spelling is accepted too.
pub(crate) fn query(
    conversions: &ConversionBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let id = match asked.optional_text("orderId")? {
        Some(id) => id,
        None => asked
            .optional_text("order_id")?
            .ok_or(ApiFailure::Malformed("orderId"))?,
    };
    let mut done = conversions.done.of(call.account);
    done.find(|conversion| conversion["order_id"] == id)
        .cloned()
        .ok_or(ApiFailure::NotFound("orderId"))
}

impl ConversionBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self {
            quotes: HashMap::new(),
            quoted: 0,
            done: OncePerNumber::new(numbers),
        }
    }
}

impl CurrencyAmount {
    fn new(currency: &str, amount: Amount) -> Self {
        Self {
            currency: currency.to_owned(),
            amount,
        }
    }

    fn asked(
        asked: &RequestParameters,
        currency: &'static str,
        amount: &'static str,
    ) -> Result<Self, ApiFailure> {
        Ok(Self::new(asked.text(currency)?, asked.amount(amount)?))
    }

    fn movement(&self, from: MoneyHolder, to: MoneyHolder) -> MoneyMovement<'_> {
        MoneyMovement {
            from,
            to,
            currency: &self.currency,
            amount: self.amount,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn quoted(desk: &mut TestDesk, number: &str) -> Value {
        let wanted = json!({"sellCurrency": "BTC", "buyCurrency": "USDT", "buyAmount": "25000"});
        let mut quote = desk.get("preview_conversion", &wanted);
        quote["clientReqId"] = json!(number);
        quote
    }

    #[test]
    fn a_conversion_is_done_as_quoted_and_once() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "BTC", "1");
        let quote = quoted(&mut desk, "1");
        assert_eq!(
            (&quote["sellAmount"], &quote["rate"]),
            (&json!("0.5"), &json!("50000"))
        );
        let done = desk.get("create_conversion", &quote);
        assert_eq!(
            (&done["rate"], &done["status"]),
            (&json!(50_000.0), &json!(1))
        );
        assert_eq!(desk.get("create_conversion", &quote), done);
        assert_eq!(desk.balance(ACME, "BTC"), "0.5");
        assert_eq!(desk.balance(ACME, "USDT"), "25000");
        let by_id = json!({"orderId": done["order_id"]});
        assert_eq!(desk.get("query_conversion", &by_id), done);
        let strange = desk.ask(OTHER, "query_conversion", &by_id);
        assert_eq!(strange, Err("400202".to_owned()));

        let mut again = quote;
        again["clientReqId"] = json!("2");
        assert_eq!(
            desk.refusal("create_conversion", &again),
            "400001",
            "the quote is used"
        );
    }

    #[test]
    fn a_conversion_that_differs_from_its_quote_is_refused() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "BTC", "1");
        desk.fund(OTHER, "BTC", "1");
        let quote = quoted(&mut desk, "1");
        for (field, value) in [
            ("sellAmount", "0.51"),
            ("buyAmount", "25000.01"),
            ("buyCurrency", "USDC"),
            ("quoteId", "Q17"),
        ] {
            let mut other = quote.clone();
            other[field] = json!(value);
            assert_eq!(
                desk.refusal("create_conversion", &other),
                "400001",
                "{field}"
            );
        }
        let strange = desk.ask(OTHER, "create_conversion", &quote);
        assert_eq!(strange, Err("400001".to_owned()));
        desk.now += QUOTE_LIFE_MS;
        assert_eq!(desk.refusal("create_conversion", &quote), "400622");
        desk.now -= 1;
        desk.get("create_conversion", &quote);
    }

    #[test]
    fn a_quote_survives_a_conversion_that_fails() {
        let mut desk = TestDesk::new();
        let quote = quoted(&mut desk, "1");
        assert_eq!(desk.refusal("create_conversion", &quote), "400605");
        desk.fund(ACME, "BTC", "1");
        desk.get("create_conversion", &quote);
    }

    #[test]
    fn only_two_currencies_that_are_traded_are_quoted() {
        let mut desk = TestDesk::new();
        for (sold, bought) in [("XYZ", "USDT"), ("USDT", "XYZ"), ("USDT", "USDT")] {
            let wanted = json!({"sellCurrency": sold, "buyCurrency": bought, "sellAmount": "1"});
            assert_eq!(desk.refusal("preview_conversion", &wanted), "400205");
        }
        let nothing = json!({"sellCurrency": "USDT", "buyCurrency": "BTC"});
        assert_eq!(desk.refusal("preview_conversion", &nothing), "400001");
    }
}
