//! The emulated market: currencies, their fixed prices, and chains.
//!
//! All prices are invented and constant, so that a test can predict the result of a conversion.

use serde_json::{Value, json};

use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;

/// A currency and the price of one unit, in hundredths of a dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CurrencyPrice {
    pub(crate) name: &'static str,
    cents: u32,
    /// Whether the currency is held on chains; otherwise it is held at banks.
    pub(crate) is_crypto: bool,
}

/// All currencies.
pub(crate) const CURRENCIES: [CurrencyPrice; 7] = [
    crypto("USDT", 100),
    crypto("USDC", 100),
    crypto("BTC", 5_000_000),
    crypto("ETH", 250_000),
    crypto("GT", 1_000),
    fiat("USD", 100),
    fiat("EUR", 125),
];

/// Chains and their explorer URLs. Every crypto currency is on every chain.
pub(crate) const CHAINS: [(&str, &str); 3] = [
    ("ETH", "https://etherscan.io"),
    ("MATIC", "https://polygonscan.com"),
    ("TRX", "https://tronscan.org"),
];

const fn crypto(name: &'static str, cents: u32) -> CurrencyPrice {
    CurrencyPrice {
        name,
        cents,
        is_crypto: true,
    }
}

const fn fiat(name: &'static str, cents: u32) -> CurrencyPrice {
    CurrencyPrice {
        name,
        cents,
        is_crypto: false,
    }
}

/// The names of the crypto currencies.
pub(crate) fn cryptos() -> Vec<&'static str> {
    let cryptos = CURRENCIES.iter().filter(|currency| currency.is_crypto);
    cryptos.map(|currency| currency.name).collect()
}

/// A currency that is traded.
pub(crate) fn currency(name: &str) -> Result<CurrencyPrice, ApiFailure> {
    CURRENCIES
        .into_iter()
        .find(|currency| currency.name == name)
        .ok_or(ApiFailure::InvalidCurrency)
}

/// The amount of `bought` that an amount of `sold` buys.
pub(crate) fn buys(sold: &str, amount: Amount, bought: &str) -> Result<Amount, ApiFailure> {
    if sold == bought {
        return Ok(amount);
    }
    let (sold, bought) = (currency(sold)?, currency(bought)?);
    amount
        .scaled_down(sold.cents, bought.cents)
        .filter(|amount| *amount > Amount::ZERO)
        .ok_or(ApiFailure::WrongAmount)
}

/// The amount of `sold` that an amount of `bought` costs.
pub(crate) fn costs(bought: &str, amount: Amount, sold: &str) -> Result<Amount, ApiFailure> {
    if sold == bought {
        return Ok(amount);
    }
    let (sold, bought) = (currency(sold)?, currency(bought)?);
    amount
        .scaled_up(bought.cents, sold.cents)
        .ok_or(ApiFailure::WrongAmount)
}

/// The amount of `bought` that one unit of `sold` buys, for display only.
pub(crate) fn rate(sold: &str, bought: &str) -> Result<f64, ApiFailure> {
    Ok(f64::from(currency(sold)?.cents) / f64::from(currency(bought)?.cents))
}

/// A currency's name on a chain.
pub(crate) fn full_name(currency: &str, chain: &str) -> String {
    format!("{currency}_{chain}")
}

/// The chains of a currency, as `GET /v1/pay/address/chains` and `GET /v2/refund/support/chains` have them.
pub(crate) fn chains_of(currency: &str) -> Value {
    let chains = CHAINS.map(|(chain, explorer_url)| {
        json!({
            "chain": chain,
            "currency": currency,
            "full_curr_type": full_name(currency, chain),
            "symbol": currency,
            "explorer_url": explorer_url,
            "show_chain_name_en": chain,
            "hasWithdrawMemo": 0,
            "withdrawPercent": "0%",
            "withdrawFix": "0",
        })
    });
    json!(chains)
}

/// An address on any chain, unique per `number`.
pub(crate) fn address(number: usize) -> String {
    format!("0x{number:040x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_fixed_and_rounded_in_favor_of_the_market() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!(buys("BTC", amount("0.5"), "USDT"), Ok(amount("25000")));
        assert_eq!(costs("BTC", amount("0.5"), "USDT"), Ok(amount("25000")));
        assert_eq!(buys("USDT", amount("1"), "EUR"), Ok(amount("0.8")));
        assert_eq!(buys("GT", amount("1"), "BTC"), Ok(amount("0.0002")));
        let dust = amount("0.000001");
        assert_eq!(buys("USDT", dust, "BTC"), Err(ApiFailure::WrongAmount));
        assert_eq!(costs("USDT", dust, "BTC"), Ok(amount("0.00000001")));
        assert_eq!(buys("USDT", dust, "USDT"), Ok(dust));
        assert_eq!(buys("XYZ", dust, "USDT"), Err(ApiFailure::InvalidCurrency));
    }
}
