//! The table of operations: for each row of the catalogue the function that executes it, the function's books, and the
//! form of the answer. Only this file knows all books; each function receives the books that it uses.

use gatepay_core::operation::Method;

use crate::api::refunds::RefundBooks;
use crate::api::{
    accounts, balances, banks, channels, conversions, currencies, fees, fixed_addresses,
    gift_cards, orders, otc, payouts, plans, products, refunds, rewards, subscriptions, transfers,
    wallet,
};
use crate::ledger::Ledger;
use crate::rules::call::{LedgerCall, Outcome};
use crate::wire::answer::{EnvelopeForm, SandboxAnswer};
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The function that executes an operation.
type Execute = fn(&mut Ledger, LedgerCall<'_>, &RequestParameters) -> Outcome;

/// An executable operation and the form of its answer.
#[derive(Clone, Copy)]
pub(crate) struct EmulatedOperation {
    form: EnvelopeForm,
    execute: Execute,
}

impl EmulatedOperation {
    /// Executes the operation. Unreadable parameters fail without execution.
    pub(crate) fn perform(
        self,
        ledger: &mut Ledger,
        call: LedgerCall<'_>,
        asked: Result<RequestParameters, ApiFailure>,
    ) -> SandboxAnswer {
        let outcome = asked.and_then(|asked| (self.execute)(ledger, call, &asked));
        SandboxAnswer::new(self.form.under(call.forms), outcome)
    }
}

/// Adapts a function to `Execute`: passes it the named books of the ledger.
macro_rules! with {
    ($function:path) => {
        |_, call, asked| $function(call, asked)
    };
    ($function:path, $($book:ident),+) => {
        |ledger, call, asked| $function($(&mut ledger.$book,)+ call, asked)
    };
}

/// As `with`, for a function that refunds.
macro_rules! refunding {
    ($function:path) => {
        |ledger, call, asked| {
            let books = RefundBooks {
                refunds: &mut ledger.refunds,
                orders: &mut ledger.orders,
                balances: &mut ledger.balances,
                news: &mut ledger.news,
            };
            $function(books, call, asked)
        }
    };
}

/// The emulation of an operation, by its name in the catalogue, and by its method where there are two forms. `None` for
/// a row without an institution path.
pub(crate) fn emulated(operation: &str, method: Method) -> Option<EmulatedOperation> {
    let (form, execute) = payments(operation)
        .or_else(|| funds(operation, method))
        .or_else(|| relations(operation))?;
    Some(EmulatedOperation { form, execute })
}

/// Orders, their refunds, and static addresses.
fn payments(operation: &str) -> Option<(EnvelopeForm, Execute)> {
    use EnvelopeForm::{Coded, Created, Standard, Wrapped};
    Some(match operation {
        "create_order" => (Created, with!(orders::create, orders)),
        "query_order" => (Standard, with!(orders::query, orders)),
        "close_order" => (Standard, with!(orders::close, orders, news)),
        "refund_order" => (Standard, refunding!(refunds::refund)),
        "query_refund" => (Standard, with!(refunds::query, refunds, orders)),
        "create_native_order" => (Coded("0"), with!(orders::create_native, orders)),
        "create_checkout_order" => (Standard, with!(orders::create_checkout, orders)),
        "refund_checkout_order" => (Standard, refunding!(refunds::refund_checkout)),
        "refund_order_v2" | "refund_order_v3" => (Standard, refunding!(refunds::refund_v2)),
        "query_order_v2" => (Wrapped, with!(orders::query_v2, orders)),
        "refund_details" | "refund_details_v3" => {
            (Standard, with!(refunds::details, refunds, orders))
        }
        "refund_chains" | "refund_chains_v3" => (Standard, with!(refunds::chains)),
        "query_order_v3" => (Standard, with!(orders::query_v2, orders)),
        "address_chains" => (Standard, with!(currencies::chains)),
        "address_currencies" => (Standard, with!(currencies::on_chains)),
        "address_convert_currencies" => (Standard, with!(currencies::convertible)),
        "create_address_order" => (Standard, with!(orders::create_at_address, orders)),
        "query_address_order" => (Standard, with!(orders::query_at_address, orders)),
        "refund_address_order" => (Standard, refunding!(refunds::refund_at_address)),
        "refund_converted_address_order" => (Coded("00000"), refunding!(refunds::refund_converted)),
        "address_transactions" => (Standard, with!(orders::transactions, orders)),
        "save_fixed_address" => (Standard, with!(fixed_addresses::save, fixed_addresses)),
        "fixed_address_detail" => (Standard, with!(fixed_addresses::detail, fixed_addresses)),
        "fixed_address_orders" => (Standard, with!(fixed_addresses::deposits, fixed_addresses)),
        _ => return None,
    })
}

/// Balances, conversions, payouts and trades of accounts.
fn funds(operation: &str, method: Method) -> Option<(EnvelopeForm, Execute)> {
    use EnvelopeForm::{Bare, Lower, Standard};
    Some(match operation {
        "query_balance" if method == Method::Get => {
            (Standard, with!(balances::query_as_merchant, balances))
        }
        "query_balance" => (Standard, with!(balances::query, balances)),
        "all_balances" => (Standard, with!(balances::all, balances)),
        "list_bills" => (Standard, with!(balances::bills, balances)),
        "convert_currencies" => (Standard, with!(currencies::tradable)),
        "convert_pairs" => (Standard, with!(currencies::pairs)),
        "preview_conversion" => (Standard, with!(conversions::preview, conversions)),
        "create_conversion" => (Standard, with!(conversions::convert, conversions, balances)),
        "query_conversion" => (Standard, with!(conversions::query, conversions)),
        "create_payout" => (Standard, with!(payouts::create, payouts, balances, news)),
        "query_payout" => (Standard, with!(payouts::query, payouts)),
        "wallet_chains" => (Bare, with!(wallet::chains)),
        "wallet_withdraw_status" => (Bare, with!(wallet::withdraw_status)),
        "wallet_withdrawals" => (Bare, with!(wallet::withdrawals, payouts)),
        "wallet_total_balance" => (Bare, with!(wallet::total_balance, balances)),
        "create_batch_transfer" => (Standard, with!(rewards::create, rewards, balances, news)),
        "query_batch_transfer" => (Standard, with!(rewards::query, rewards)),
        "otc_quote" => (Lower, with!(otc::quote, otc)),
        "create_otc_order" => (Standard, with!(otc::create, otc, banks, balances, news)),
        "list_otc_orders" => (Standard, with!(otc::list, otc)),
        "otc_order_detail" => (Standard, with!(otc::detail, otc)),
        "create_otc_bank" => (Standard, with!(banks::create, banks)),
        "list_otc_banks" => (Standard, with!(banks::list, banks)),
        "supplement_otc_bank" => (Standard, with!(banks::supplement, banks)),
        "otc_deposit_detail" => (Lower, with!(otc::deposit, otc)),
        "create_gift_card" => (
            Standard,
            with!(gift_cards::create, gift_cards, balances, news),
        ),
        "list_gift_templates" => (Standard, with!(gift_cards::templates)),
        "query_gift_card" => (Standard, with!(gift_cards::query, gift_cards)),
        _ => return None,
    })
}

/// Subscriptions, channels, and the operations of the institution only.
fn relations(operation: &str) -> Option<(EnvelopeForm, Execute)> {
    use EnvelopeForm::{Flagged, Standard};
    Some(match operation {
        "save_plan" => (Flagged, with!(plans::save, plans)),
        "list_plans" => (Flagged, with!(plans::list, plans)),
        "plan_detail" => (Flagged, with!(plans::detail, plans)),
        "create_subscription" => (Flagged, with!(subscriptions::create, subscriptions, plans)),
        "list_subscriptions" => (Flagged, with!(subscriptions::list, subscriptions)),
        "subscription_detail" => (Flagged, with!(subscriptions::detail, subscriptions)),
        "complete_subscription" => (Flagged, with!(subscriptions::complete, subscriptions)),
        "deduct_subscription" => (
            Flagged,
            with!(subscriptions::deduct, subscriptions, balances, news),
        ),
        "deduction_detail" => (Flagged, with!(subscriptions::deduction, subscriptions)),
        "create_product" => (Flagged, with!(products::create, products)),
        "list_products" => (Flagged, with!(products::list, products)),
        "query_product" => (Flagged, with!(products::query, products)),
        "save_channel" => (Standard, with!(channels::save, channels)),
        "list_channels" => (Standard, with!(channels::list, channels)),
        "update_channel" => (Standard, with!(channels::update, channels)),
        "delete_channel" => (Standard, with!(channels::delete, channels)),
        "create_account" => (Standard, with!(accounts::create, accounts, news)),
        "update_account" => (Standard, with!(accounts::update, accounts)),
        "query_account" => (Standard, with!(accounts::query, accounts)),
        "list_accounts" => (Standard, with!(accounts::list, accounts)),
        "create_fee_rule" => (Standard, with!(fees::create, accounts, fee_rules)),
        "upgrade_fee_rule" => (Standard, with!(fees::upgrade, accounts, fee_rules)),
        "query_fee_rule" => (Standard, with!(fees::query, fee_rules)),
        "list_fee_rules" => (Standard, with!(fees::list, fee_rules)),
        "create_transfer" => (
            Standard,
            with!(transfers::transfer, transfers, accounts, balances),
        ),
        "transfer_detail" => (Standard, with!(transfers::transfer_detail, transfers)),
        "create_charge" => (
            Standard,
            with!(transfers::charge, transfers, accounts, balances),
        ),
        "charge_detail" => (Standard, with!(transfers::charge_detail, transfers)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, TestDesk};
    use gatepay_core::Catalogue;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn every_row_with_an_institution_path_is_emulated_and_no_other() {
        for row in Catalogue::standard().rows() {
            let methods = row.alternatives.iter().map(|(method, _)| *method);
            for method in methods.chain([row.institution_method]) {
                let found = emulated(&row.name, method).is_some();
                assert_eq!(found, row.institution_path.is_some(), "{}", row.name);
            }
        }
    }

    /// JSON objects with known parameter names and values of every type.
    fn any_parameters() -> impl Strategy<Value = Value> {
        let name = prop::sample::select(vec![
            "merchantTradeNo",
            "env",
            "goods",
            "currency",
            "orderAmount",
            "orderExpireTime",
            "prepayId",
            "refundRequestId",
            "refundAmount",
            "terminalType",
            "goodsName",
            "chain",
            "fullCurrType",
            "merchantUserId",
            "channelId",
            "amount",
            "batch_id",
            "withdraw_list",
            "request_id",
            "page",
            "count",
            "limit",
            "cursor",
            "offset",
            "sellCurrency",
            "buyCurrency",
            "sellAmount",
            "side",
            "type",
            "effective_date",
            "sub_merchant_id",
            "r_markup",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[0-9.]{0,24}".prop_map(Value::from),
            "[a-z\u{e9}]{0,3}".prop_map(Value::from),
            prop::sample::select(vec!["USDT", "BTC", "USDT_ETH", "ETH", "sell", "SELL"])
                .prop_map(Value::from),
        ];
        let object = move |value: BoxedStrategy<Value>| {
            prop::collection::btree_map(name.clone(), value, 0..12).prop_map(|members| {
                let members = members.into_iter();
                members
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<Value>()
            })
        };
        let inner = object(leaf.clone().boxed());
        let list = prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from);
        object(prop_oneof![3 => leaf, 1 => inner, 1 => list].boxed())
    }

    proptest! {
        #[test]
        fn every_operation_answers_arbitrary_parameters(
            asked in prop::collection::vec((any::<prop::sample::Index>(), any_parameters()), 1..20),
            now: u64,
        ) {
            let mut desk = TestDesk::new();
            desk.now = now;
            let catalogue = Catalogue::standard();
            let rows: Vec<_> = catalogue
                .rows()
                .iter()
                .filter(|row| row.institution_path.is_some())
                .collect();
            for (row, asked) in asked {
                let _ = desk.ask(ACME, &row.get(&rows).name, &asked);
            }
        }
    }
}
