//! Wallet queries: reads whose answers have no envelope.

use serde_json::{Value, json};

use crate::api::balances::Balances;
use crate::api::payouts::PayoutBook;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market::{self, CHAINS};
use crate::wire::amount::Amount;
use crate::wire::parameters::RequestParameters;

/// The default period of the withdrawal list: 7 days, in seconds.
const WITHDRAWALS_S: u64 = 7 * 24 * 3600;

/// `GET /v1/pay/wallet/currency_chains`.
pub(crate) fn chains(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    market::currency(asked.text("currency")?)?;
    let chains = CHAINS.map(|(chain, _)| {
        json!({
            "chain": chain,
            "name_cn": chain,
            "name_en": chain,
            "contract_address": "",
            "is_disabled": 0,
            "is_deposit_disabled": 0,
            "is_withdraw_disabled": 0,
            "decimal": "6",
        })
    });
    Ok(json!(chains))
}

/// `GET /v1/pay/wallet/withdraw_status`: the fee of a payout, which is zero in the sandbox.
pub(crate) fn withdraw_status(_: LedgerCall<'_>, asked: &RequestParameters) -> Outcome {
    let only = asked.optional_text("currency")?;
    let mut currencies = market::cryptos();
    currencies.retain(|currency| only.is_none_or(|only| only == *currency));
    let settings = currencies.into_iter().map(|currency| {
        let on_chains = |value: &str| Value::from_iter(CHAINS.map(|(chain, _)| (chain, value)));
        json!({
            "currency": currency,
            "name": currency,
            "name_cn": currency,
            "deposit": "0",
            "withdraw_day_limit": "5000000",
            "withdraw_day_limit_remain": "5000000",
            "withdraw_amount_mini": "0.0001",
            "withdraw_eachtime_limit": "5000000",
            "withdraw_fix": "0",
            "withdraw_percent": "0%",
            "withdraw_fix_on_chains": on_chains("0"),
            "withdraw_percent_on_chains": on_chains("0%"),
        })
    });
    Ok(settings.collect::<Vec<_>>().into())
}

/// `GET /v1/pay/wallet/total_balance`: the value of all balances in USDT, or in another currency.
pub(crate) fn total_balance(
    balances: &Balances,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let currency = asked.optional_text("currency")?.unwrap_or("USDT");
    market::currency(currency)?;
    // A currency without a price counts as zero, and so does an amount worth less than 10^-8.
    let total = balances
        .held(call.account)
        .filter_map(|(held, amount)| market::buys(held, amount, currency).ok())
        .try_fold(Amount::ZERO, Amount::plus)
        .unwrap_or(Amount::ZERO);
    let total = json!({"amount": total.to_string(), "currency": currency});
    Ok(json!({"total": total, "details": {"spot": total}}))
}

/// `GET /v1/pay/wallet/withdrawals`, newest first. Its times are in seconds.
pub(crate) fn withdrawals(
    payouts: &PayoutBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let to = asked.optional_time("to")?.unwrap_or(call.now / 1000);
    let from = asked.optional_time("from")?;
    let from = from.unwrap_or(to.saturating_sub(WITHDRAWALS_S));
    let limit = asked.optional_integer("limit")?.unwrap_or(100);
    let offset = asked.optional_integer("offset")?.unwrap_or_default();
    let equal = ["currency", "withdraw_id", "withdraw_order_id"];
    let mut wanted = Vec::new();
    for (parameter, member) in equal
        .into_iter()
        .zip(["currency", "id", "withdraw_order_id"])
    {
        let value = asked.optional_text(parameter)?;
        wanted.extend(value.map(|value| (member, value)));
    }
    let all = payouts.withdrawals(call.account).into_iter();
    let list = all
        .filter(|(at_ms, _)| (from..=to).contains(&(at_ms / 1000)))
        .map(|(_, withdrawal)| withdrawal)
        .filter(|one| wanted.iter().all(|(member, value)| one[member] == *value))
        .skip(usize::try_from(offset).unwrap_or(usize::MAX))
        .take(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(list.collect::<Vec<_>>().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, TestDesk};

    #[test]
    fn withdrawals_are_the_payouts_newest_first() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "10");
        for number in ["1", "2"] {
            let part = json!({
                "merchant_withdraw_id": number, "currency": "USDT", "amount": "1", "chain": "TRX",
                "address": "T1",
            });
            desk.get(
                "create_payout",
                &json!({"batch_id": number, "withdraw_list": [part]}),
            );
            desk.now += 1000 * WITHDRAWALS_S;
        }
        let numbers = |desk: &mut TestDesk, asked: Value| {
            let list = desk.get("wallet_withdrawals", &asked);
            let list = list.as_array().unwrap().iter();
            list.map(|one| one["withdraw_order_id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(&mut desk, json!({})), ["2"], "of the last week");
        assert_eq!(numbers(&mut desk, json!({"from": "1"})), ["2", "1"]);
        assert_eq!(
            numbers(&mut desk, json!({"from": "1", "limit": 1, "offset": "1"})),
            ["1"]
        );
        let one = json!({"from": "1", "withdraw_order_id": "1"});
        assert_eq!(numbers(&mut desk, one), ["1"]);
        assert!(numbers(&mut desk, json!({"currency": "BTC"})).is_empty());
    }

    #[test]
    fn the_wallet_total_is_every_balance_at_its_price() {
        let mut desk = TestDesk::new();
        desk.fund(ACME, "USDT", "10");
        desk.fund(ACME, "GT", "2");
        desk.fund(ACME, "XYZ", "5");
        let total = desk.get("wallet_total_balance", &json!({}));
        assert_eq!(total["total"], json!({"amount": "30", "currency": "USDT"}));
        let total = desk.get("wallet_total_balance", &json!({"currency": "EUR"}));
        assert_eq!(total["total"]["amount"], "24");
    }
}
