//! Fixed lists of payable, refundable and convertible currencies. Where no page shows the answer, its form is the
//! sandbox's choice.

use serde_json::{Value, json};

use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market::{self, CURRENCIES};
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The minimum and maximum of one conversion, as answers show them. The sandbox does not enforce them.
const MIN: &str = "0.0001";
const MAX: &str = "5000000";

/// `GET /v1/pay/address/chains`.
pub(crate) fn chains(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let currency = crypto(asked.text("currency")?)?;
    Ok(json!({"currency": currency, "chains": market::chains_of(currency)}))
}

/// `GET /v1/pay/address/currencies`.
#[expect(clippy::unnecessary_wraps, reason = "all operations have one type")]
pub(crate) fn on_chains(_: LedgerCall<'_>, _: &RequestParameters) -> Outcome {
    Ok(json!({"currencies": market::cryptos()}))
}

/// `GET /v1/pay/address/supportedconvertcurrencies`: the payment currencies of an order in a given currency.
pub(crate) fn convertible(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let currency = market::currency(asked.text("currency")?)?.name;
    let mut others = market::cryptos();
    others.retain(|other| *other != currency);
    Ok(json!({"currency": currency, "currencies": others}))
}

/// `GET /v1/pay/convert/currency`.
pub(crate) fn tradable(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    // An official client library sends no side here.
    if asked.optional_text("side")?.is_some() {
        side(asked)?;
    }
    let names = CURRENCIES.map(|currency| currency.name);
    Ok(json!({ "currency": names }))
}

/// `GET /v1/pay/convert/pair`: every other currency, as sold for the given currency or bought with it.
pub(crate) fn pairs(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let currency = market::currency(asked.text("currency")?)?.name;
    let buys = side(asked)? == "buy";
    let others = CURRENCIES.iter().filter(|other| other.name != currency);
    let pairs = others.map(|other| {
        let (sold, bought) = if buys {
            (other.name, currency)
        } else {
            (currency, other.name)
        };
        json!({
            "pair": format!("{sold}_{bought}"),
            "sellCurrency": sold,
            "sellCurrencyMax": MAX,
            "sellCurrencyMin": MIN,
            "buyCurrency": bought,
            "buyCurrencyMax": MAX,
            "buyCurrencyMin": MIN,
        })
    });
    Ok(pairs.collect::<Vec<Value>>().into())
}

fn side(asked: &RequestParameters) -> Result<&str, ApiFailure> {
    let side = asked.text("side")?;
    match side {
        "buy" | "sell" => Ok(side),
        _ => Err(ApiFailure::Malformed("side")),
    }
}

fn crypto(name: &str) -> Result<&'static str, ApiFailure> {
    let currency = market::currency(name)?;
    currency
        .is_crypto
        .then_some(currency.name)
        .ok_or(ApiFailure::InvalidCurrency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::TestDesk;

    #[test]
    fn pairs_are_what_a_currency_is_sold_for_or_bought_with() {
        let mut desk = TestDesk::new();
        for (side, pair) in [("sell", "BTC_USDT"), ("buy", "USDT_BTC")] {
            let pairs = desk.get("convert_pairs", &json!({"currency": "BTC", "side": side}));
            assert_eq!(pairs[0]["pair"], pair);
            assert_eq!(pairs.as_array().unwrap().len(), CURRENCIES.len() - 1);
        }
        let odd = json!({"currency": "BTC", "side": "hold"});
        assert_eq!(desk.refusal("convert_pairs", &odd), "400001");
    }

    #[test]
    fn fiat_is_on_no_chain() {
        let mut desk = TestDesk::new();
        let chains = desk.get("address_chains", &json!({"currency": "USDT"}));
        assert_eq!(chains["chains"][1]["full_curr_type"], "USDT_MATIC");
        assert_eq!(
            desk.refusal("address_chains", &json!({"currency": "USD"})),
            "400205"
        );
    }
}
