//! Static addresses: save, query, and their deposits.

use serde_json::{Value, json};

use crate::api::balances::{Balances, MoneyMovement, MovementReason};
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::market;
use crate::rules::news::{BusinessNews, NewsBook};
use crate::rules::page::ListPage;
use crate::wire::amount::Amount;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// All static addresses, oldest first.
#[derive(Default)]
pub(crate) struct FixedAddresses(Vec<FixedAddress>);

struct FixedAddress {
    account: String,
    channel_id: String,
    chain: String,
    address: String,
    currencies: Vec<String>,
    callback_url: String,
    created_ms: u64,
    updated_ms: u64,
    /// Deposits, oldest first, in the form of a query.
    deposits: Vec<Value>,
}

/// `POST /v1/pay/fixedaddress/save`. A second save of the same channel and chain changes the first.
pub(crate) fn save(
    fixed_addresses: &mut FixedAddresses,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let channel_id = asked.id("channelId")?;
    let chain = asked.text("chain")?;
    asked.text("currencies")?;
    let currencies = asked.texts("currencies")?;
    let currencies = currencies.into_iter().map(ToOwned::to_owned).collect();
    let callback_url = asked.text("callbackUrl")?.to_owned();
    let FixedAddresses(addresses) = fixed_addresses;
    let number = addresses.len();
    let known = addresses
        .iter_mut()
        .find(|known| known.is(call.account, channel_id, chain));
    let saved = match known {
        Some(known) => {
            known.currencies = currencies;
            known.callback_url = callback_url;
            known.updated_ms = call.now;
            known
        }
        None => addresses.push_mut(FixedAddress {
            account: call.account.to_owned(),
            channel_id: channel_id.to_owned(),
            chain: chain.to_owned(),
            // This range is disjoint from the addresses of orders.
            address: market::address((1 << 32) + number),
            currencies,
            callback_url,
            created_ms: call.now,
            updated_ms: call.now,
            deposits: Vec::new(),
        }),
    };
    Ok(saved.describe())
}

/// `GET /v1/pay/fixedaddress/detail`.
pub(crate) fn detail(
    fixed_addresses: &FixedAddresses,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let (channel_id, chain) = (asked.id("channelId")?, asked.text("chain")?);
    let FixedAddresses(addresses) = fixed_addresses;
    let address = addresses
        .iter()
        .find(|known| known.is(call.account, channel_id, chain))
        .ok_or(ApiFailure::NotFound("channelId"))?;
    let mut answer = address.describe();
    answer["createTime"] = json!(address.created_ms);
    answer["updateTime"] = json!(address.updated_ms);
    answer["is_risk"] = json!(0);
    Ok(answer)
}

/// `GET /v1/pay/fixedaddress/order/query`, newest first.
pub(crate) fn deposits(
    fixed_addresses: &FixedAddresses,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let channel_id = asked.optional_id("channelId")?;
    let chain = asked.optional_text("chain")?;
    let page = ListPage::asked(asked, "page", "count")?;
    let FixedAddresses(addresses) = fixed_addresses;
    let mut details: Vec<_> = addresses
        .iter()
        .filter(|address| address.account == call.account)
        .filter(|address| channel_id.is_none_or(|id| id == address.channel_id))
        .filter(|address| chain.is_none_or(|chain| chain == address.chain))
        .flat_map(|address| &address.deposits)
        .collect();
    details.reverse();
    Ok(json!({"total": details.len(), "details": page.of(&details)}))
}

/// A deposit on a chain. No call of the API does this.
pub(crate) fn deposit(
    fixed_addresses: &mut FixedAddresses,
    balances: &mut Balances,
    news: &mut NewsBook,
    now: u64,
    address: &str,
    currency: &str,
    amount: Amount,
) -> Result<(), ApiFailure> {
    let FixedAddresses(addresses) = fixed_addresses;
    let number: usize = addresses.iter().map(|address| address.deposits.len()).sum();
    let saved = addresses
        .iter_mut()
        .find(|known| known.address == address)
        .ok_or(ApiFailure::NotFound("address"))?;
    if !saved.currencies.iter().any(|known| known == currency) {
        return Err(ApiFailure::InvalidCurrency);
    }
    let id = format!("D{}", 80_000_000_001_usize + number);
    let reason = MovementReason {
        kind: "DEPOSIT",
        id: &id,
        number: &saved.channel_id,
    };
    let movement = MoneyMovement::deposit(&saved.account, currency, amount);
    balances.post(now, reason, &[movement])?;
    let deposit = json!({
        "chain": saved.chain,
        "channelId": saved.channel_id,
        "currency": currency,
        "address": saved.address,
        "amount": amount.to_string(),
        "status": "PAY_SUCCESS",
        "txTime": now,
        "fromAddress": market::address(0),
        "txHash": format!("0x{number:064x}"),
        "transactionId": id,
    });
    news.tell(|| {
        let statuses = ["PAY_SUCCESS"];
        BusinessNews::enveloped("PAY_FIXED_ADDRESS", &id, &statuses, deposit.clone())
            .to(&saved.callback_url)
    });
    saved.deposits.push(deposit);
    Ok(())
}

impl FixedAddress {
    fn is(&self, account: &str, channel_id: &str, chain: &str) -> bool {
        self.account == account && self.channel_id == channel_id && self.chain == chain
    }

    fn describe(&self) -> Value {
        json!({
            "channelId": self.channel_id,
            "chain": self.chain,
            "address": self.address,
            "currencies": self.currencies,
            "callbackUrl": self.callback_url,
            "desc": "",
            "ChainShowEn": self.chain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, OTHER, TestDesk};

    fn saved(desk: &mut TestDesk, channel_id: &str, currencies: &str) -> Value {
        let asked = json!({
            "channelId": channel_id, "chain": "ETH", "currencies": currencies, "callbackUrl": "u",
        });
        desk.get("save_fixed_address", &asked)
    }

    #[test]
    fn a_second_save_changes_the_first() {
        let mut desk = TestDesk::new();
        let first = saved(&mut desk, "c", "USDT");
        desk.now += 5;
        let second = saved(&mut desk, "c", "USDT,BTC");
        assert_eq!(second["address"], first["address"]);
        assert_eq!(second["currencies"], json!(["USDT", "BTC"]));
        assert_ne!(saved(&mut desk, "d", "USDT")["address"], first["address"]);
        let by_channel = json!({"channelId": "c", "chain": "ETH"});
        let found = desk.get("fixed_address_detail", &by_channel);
        assert_eq!(
            found["updateTime"].as_u64().unwrap() - found["createTime"].as_u64().unwrap(),
            5
        );
        let strange = desk.ask(OTHER, "fixed_address_detail", &by_channel);
        assert_eq!(strange, Err("400202".to_owned()));
    }

    #[test]
    fn a_deposit_is_credited_and_listed() {
        let mut desk = TestDesk::new();
        let address = saved(&mut desk, "c", "USDT");
        let address = address["address"].as_str().unwrap();
        let now = desk.now;
        let mut send = |address: &str, currency: &str| {
            let amount = Amount::parse("2.5").unwrap();
            deposit(
                &mut desk.ledger.fixed_addresses,
                &mut desk.ledger.balances,
                &mut desk.ledger.news,
                now,
                address,
                currency,
                amount,
            )
        };
        assert_eq!(send(address, "USDT"), Ok(()));
        assert_eq!(send(address, "BTC"), Err(ApiFailure::InvalidCurrency));
        assert_eq!(send("0x0", "USDT"), Err(ApiFailure::NotFound("address")));
        assert_eq!(desk.balance(ACME, "USDT"), "2.5");
        let list = desk.get("fixed_address_orders", &json!({"channelId": "c"}));
        assert_eq!(
            (&list["total"], &list["details"][0]["amount"]),
            (&json!(1), &json!("2.5"))
        );
        let none = desk.get("fixed_address_orders", &json!({"chain": "TRX"}));
        assert_eq!(none["total"], 0);
    }
}
