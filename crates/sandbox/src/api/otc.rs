//! OTC orders: crypto sold for fiat that goes to a bank, or bought with fiat that comes from a bank. An order needs a
//! quote, and is executed at once, exactly as quoted, at the fixed prices of `market`.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyHolder, MoneyMovement, MovementReason};
use crate::api::banks::BankBook;
use crate::config::NumbersUniquePer;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market;
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::numbers::OncePerNumber;
use crate::rules::page::ListPage;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The lifetime of a quote, in seconds. The answer states it.
const QUOTE_LIFE_S: u64 = 60;

/// The first order id.
const FIRST_ID: u64 = 94_000_000_001;

/// Quotes and orders.
pub(crate) struct OtcBook {
    /// Unused quotes by quoteToken.
    quotes: HashMap<String, OtcQuote>,
    quoted: usize,
    /// Orders by clientOrderId, in the form of answers.
    orders: OncePerNumber<Value>,
}

struct OtcQuote {
    account: String,
    deal: OtcDeal,
    expires_ms: u64,
}

/// The side and the two amounts of a trade.
#[derive(PartialEq)]
struct OtcDeal {
    side: OtcSide,
    crypto_currency: String,
    crypto_amount: Amount,
    fiat_currency: String,
    fiat_amount: Amount,
}

/// The side of a trade: the merchant buys or sells crypto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OtcSide {
    Buy,
    Sell,
}

/// `POST …/v1/quote`.
pub(crate) fn quote(otc: &mut OtcBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let deal = OtcDeal::priced(asked)?;
    let rate = market::rate(&deal.crypto_currency, &deal.fiat_currency)?;
    let reverse = market::rate(&deal.fiat_currency, &deal.crypto_currency)?;
    otc.quoted += 1;
    let token = format!("quote{}", otc.quoted);
    let answer = json!({
        "quoteToken": token,
        "validPeriod": QUOTE_LIFE_S,
        "type": deal.side.as_str(),
        "cryptoCurrency": deal.crypto_currency,
        "cryptoAmount": deal.crypto_amount.to_string(),
        "fiatCurrency": deal.fiat_currency,
        "fiatAmount": deal.fiat_amount.to_string(),
        "fiatRate": rate.to_string(),
        "cryptoRate": reverse.to_string(),
    });
    let quote = OtcQuote {
        account: call.account.to_owned(),
        deal,
        expires_ms: call.now.saturating_add(QUOTE_LIFE_S * 1000),
    };
    otc.quotes.insert(token, quote);
    Ok(answer)
}

/// `POST …/order/create`. A quote is valid for one order; a failed order leaves the quote valid.
pub(crate) fn create(
    otc: &mut OtcBook,
    banks: &BankBook,
    balances: &mut Balances,
    news: &mut NewsBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    if let Some(earlier) = otc.orders.before(call, "clientOrderId", asked)? {
        return Ok(earlier.clone());
    }
    let number = asked.text("clientOrderId")?;
    let token = asked.text("quoteToken")?;
    let bank = asked.text("bankAccountId")?;
    if !banks.has(call.account, bank) {
        return Err(ApiFailure::NotFound("bankAccountId"));
    }
    let quote = otc
        .quotes
        .get(token)
        .filter(|quote| quote.account == call.account)
        .ok_or(ApiFailure::Malformed("quoteToken"))?;
    if call.now >= quote.expires_ms {
        return Err(ApiFailure::RateMoved);
    }
    let deal = OtcDeal::asked(asked)?;
    if deal != quote.deal {
        return Err(ApiFailure::WrongAmount);
    }
    let id = otc.orders.next_id(FIRST_ID);
    let reason = MovementReason {
        kind: "OTC",
        id: &id,
        number,
    };
    let movements = deal.movements(call.account);
    balances.post(call.now, reason, &movements)?;
    let order = json!({
        "orderId": id,
        "clientOrderId": number,
        "status": "DONE",
        "type": deal.side.as_str(),
        "quoteToken": token,
        "bankAccountId": bank,
        "cryptoCurrency": deal.crypto_currency,
        "cryptoAmount": asked.echo("cryptoAmount"),
        "fiatCurrency": deal.fiat_currency,
        "fiatAmount": asked.echo("fiatAmount"),
        "fiatRate": market::rate(&deal.crypto_currency, &deal.fiat_currency)?.to_string(),
        "createTime": call.now,
        "updateTime": call.now,
        "errMsg": "",
        "tradeFee": "0",
        "finalFiatAmount": asked.echo("fiatAmount"),
        "bankSlipInfo": "",
        "promCode": asked.echo("promotionCode"),
    });
    otc.quotes.remove(token);
    // The `bizType` of OTC orders was never seen; this one is the sandbox's.
    let statuses = ["PROCESSING", "DISPATCHED", "DONE"];
    news.tell(|| BusinessNews::enveloped("OTC_ORDER", &id, &statuses, order.clone()));
    otc.orders.keep(call, number, asked, order.clone());
    Ok(order)
}

/// `POST …/order/list`, newest first.
pub(crate) fn list(otc: &OtcBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let from = asked.optional_time("startTime")?.unwrap_or_default();
    let to = asked.optional_time("endTime")?.unwrap_or(u64::MAX);
    let page = ListPage::asked(asked, "page", "pageSize")?;
    let mut wanted = Vec::new();
    for name in [
        "status",
        "type",
        "cryptoCurrency",
        "fiatCurrency",
        "clientOrderId",
    ] {
        wanted.extend(asked.optional_text(name)?.map(|value| (name, value)));
    }
    let orders = otc.orders.of(call.account).rev();
    let found: Vec<_> = orders
        .filter(|order| wanted.iter().all(|(name, value)| order[name] == *value))
        .filter(|order| (from..=to).contains(&order["createTime"].as_u64().unwrap_or_default()))
        .collect();
    Ok(json!({"total": found.len(), "list": page.of(&found)}))
}

/// `GET …/order/detail`.
pub(crate) fn detail(otc: &OtcBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let mut wanted = Vec::new();
    for name in ["orderId", "clientOrderId"] {
        wanted.extend(asked.optional_text(name)?.map(|value| (name, value)));
    }
    if wanted.is_empty() {
        return Err(ApiFailure::Malformed("orderId or clientOrderId"));
    }
    let mut orders = otc.orders.of(call.account);
    orders
        .find(|order| wanted.iter().all(|(name, value)| order[name] == *value))
        .cloned()
        .ok_or(ApiFailure::UnknownOrder)
}

/// `GET …/recharge/detail`. No known page has the calls that make a deposit; the sandbox shows buy orders as deposits.
pub(crate) fn deposit(otc: &OtcBook, call: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let order = detail(otc, call, asked)?;
    if order["type"] != OtcSide::Buy.as_str() {
        return Err(ApiFailure::UnknownOrder);
    }
    Ok(order)
}

impl OtcBook {
    pub(crate) fn new(numbers: NumbersUniquePer) -> Self {
        Self {
            quotes: HashMap::new(),
            quoted: 0,
            orders: OncePerNumber::new(numbers),
        }
    }
}

impl OtcDeal {
    /// Reads a trade with one amount, and computes the other amount.
    fn priced(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        let (side, crypto, fiat) = Self::terms(asked)?;
        let (crypto_amount, fiat_amount) = match asked.text("side")? {
            "CRYPTO" => {
                let amount = asked.amount("cryptoAmount")?;
                (amount, market::buys(crypto, amount, fiat)?)
            }
            "FIAT" => {
                let amount = asked.amount("fiatAmount")?;
                (market::costs(fiat, amount, crypto)?, amount)
            }
            _ => return Err(ApiFailure::Malformed("side")),
        };
        Ok(Self {
            side,
            crypto_currency: crypto.to_owned(),
            crypto_amount,
            fiat_currency: fiat.to_owned(),
            fiat_amount,
        })
    }

    /// Reads a trade with both amounts.
    fn asked(asked: &RequestParameters) -> Result<Self, ApiFailure> {
        let (side, crypto, fiat) = Self::terms(asked)?;
        Ok(Self {
            side,
            crypto_currency: crypto.to_owned(),
            crypto_amount: asked.amount("cryptoAmount")?,
            fiat_currency: fiat.to_owned(),
            fiat_amount: asked.amount("fiatAmount")?,
        })
    }

    fn terms(
        asked: &RequestParameters,
    ) -> Result<(OtcSide, &'static str, &'static str), ApiFailure> {
        let side = match asked.text("type")? {
            "BUY" => OtcSide::Buy,
            "SELL" => OtcSide::Sell,
            _ => return Err(ApiFailure::Malformed("type")),
        };
        let crypto = market::currency(asked.text("cryptoCurrency")?)?;
        let fiat = market::currency(asked.text("fiatCurrency")?)?;
        if !crypto.is_crypto || fiat.is_crypto {
            return Err(ApiFailure::InvalidCurrency);
        }
        Ok((side, crypto.name, fiat.name))
    }

    /// The movements from the account to the bank, or from the bank to the account, through the market.
    fn movements(&self, account: &str) -> [MoneyMovement<'_>; 2] {
        let movement = |from, to, currency, amount| MoneyMovement {
            from,
            to,
            currency,
            amount,
        };
        let account = MoneyHolder::account(account);
        let (crypto, fiat) = (&self.crypto_currency, &self.fiat_currency);
        match self.side {
            OtcSide::Sell => [
                movement(account, MoneyHolder::Market, crypto, self.crypto_amount),
                movement(
                    MoneyHolder::Market,
                    MoneyHolder::Outside,
                    fiat,
                    self.fiat_amount,
                ),
            ],
            OtcSide::Buy => [
                movement(
                    MoneyHolder::Outside,
                    MoneyHolder::Market,
                    fiat,
                    self.fiat_amount,
                ),
                movement(MoneyHolder::Market, account, crypto, self.crypto_amount),
            ],
        }
    }
}

impl OtcSide {
    fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "BUY",
            Self::Sell => "SELL",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn bank(desk: &mut TestDesk) -> Value {
        let bank = json!({
            "bankAccountName": "Acme", "bankName": "B", "countryId": "SG", "iban": "DE02",
            "swift": "S",
        });
        desk.get("create_otc_bank", &bank)["bankAccountId"].take()
    }

    fn quoted(desk: &mut TestDesk, number: &str, side: &str) -> Value {
        let wanted = json!({
            "cryptoCurrency": "USDT", "fiatCurrency": "EUR", "side": "FIAT", "fiatAmount": "80",
            "type": side,
        });
        let mut quote = desk.get("otc_quote", &wanted);
        quote["clientOrderId"] = json!(number);
        quote["bankAccountId"] = bank(desk);
        quote
    }

    #[test]
    fn an_otc_order_sells_or_buys_crypto_as_quoted_and_once() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "150");
        let sale = quoted(&mut desk, "1", "SELL");
        assert_eq!(
            (&sale["cryptoAmount"], &sale["validPeriod"]),
            (&json!("100"), &json!(60))
        );
        let sold = desk.get("create_otc_order", &sale);
        assert_eq!(sold["status"], "DONE");
        assert_eq!(desk.get("create_otc_order", &sale), sold);
        assert_eq!(desk.balance(ACME, "USDT"), "50");
        let purchase = quoted(&mut desk, "2", "BUY");
        let bought = desk.get("create_otc_order", &purchase);
        assert_eq!(desk.balance(ACME, "USDT"), "150");

        assert_eq!(
            desk.get("otc_order_detail", &json!({"clientOrderId": "1"})),
            sold
        );
        let by_id = json!({"orderId": bought["orderId"]});
        assert_eq!(desk.get("otc_deposit_detail", &by_id), bought);
        assert_eq!(
            desk.refusal("otc_deposit_detail", &json!({"clientOrderId": "1"})),
            "400202"
        );
        let sales = desk.get(
            "list_otc_orders",
            &json!({"type": "SELL", "status": "DONE"}),
        );
        assert_eq!(sales["list"], json!([sold]));
        let strange = desk.ask(OTHER, "otc_order_detail", &by_id);
        assert_eq!(strange, Err("400202".to_owned()));
    }

    #[test]
    fn an_otc_order_that_differs_from_its_quote_is_refused() {
        let mut desk = TestDesk::new();
        let quote = quoted(&mut desk, "1", "SELL");
        for (field, value, code) in [
            ("cryptoAmount", "99", "400621"),
            ("type", "BUY", "400621"),
            ("type", "GIFT", "400001"),
            ("fiatCurrency", "BTC", "400205"),
            ("quoteToken", "q", "400001"),
            ("bankAccountId", "17", "400202"),
        ] {
            let mut other = quote.clone();
            other[field] = json!(value);
            assert_eq!(desk.refusal("create_otc_order", &other), code, "{field}");
        }
        assert_eq!(desk.refusal("create_otc_order", &quote), "400605");
        desk.now += 1000 * QUOTE_LIFE_S;
        assert_eq!(desk.refusal("create_otc_order", &quote), "400622");
    }
}
