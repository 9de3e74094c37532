//! What is emulated: everything the emulator keeps, and one line for each operation of the catalogue.

use gatepay_core::operation::Method;
use serde::Serialize;
use serde_json::Value;

use crate::accounts::{self, Accounts};
use crate::answer::{Answer, Form};
use crate::balances::{self, Balances};
use crate::banks::{self, Banks};
use crate::channels::{self, Channels};
use crate::conversions::{self, Conversions};
use crate::fees::{self, FeeRules};
use crate::fixed_addresses::{self, FixedAddresses};
use crate::gift_cards::{self, GiftCards};
use crate::orders::{self, Orders};
use crate::otc::{self, Otc};
use crate::parameters::Parameters;
use crate::payouts::{self, Payouts};
use crate::plans::{self, Plans};
use crate::products::{self, Products};
use crate::refunds::{self, Refunds};
use crate::rewards::{self, Rewards};
use crate::subscriptions::{self, Subscriptions};
use crate::transfers::{self, Transfers};
use crate::{AnswerForms, Failure, NumbersUniquePer, currencies, wallet};

/// Everything that GatePay remembers of its merchants' business.
pub(crate) struct Ledger {
    answer_forms: AnswerForms,
    pub(crate) accounts: Accounts,
    pub(crate) balances: Balances,
    pub(crate) orders: Orders,
    pub(crate) refunds: Refunds,
    pub(crate) fixed_addresses: FixedAddresses,
    pub(crate) conversions: Conversions,
    pub(crate) payouts: Payouts,
    pub(crate) rewards: Rewards,
    pub(crate) transfers: Transfers,
    pub(crate) banks: Banks,
    pub(crate) otc: Otc,
    pub(crate) gift_cards: GiftCards,
    pub(crate) plans: Plans,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) products: Products,
    pub(crate) channels: Channels,
    pub(crate) fee_rules: FeeRules,
}

/// Who calls, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The account in whose name the call is made.
    pub(crate) account: &'a str,
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
    /// Which forms the answer has, where there are two.
    pub(crate) forms: AnswerForms,
}

/// Data, or why there is none.
pub(crate) type Outcome = Result<Value, Failure>;

/// What an operation does.
type Execute = fn(&mut Ledger, Call<'_>, &Parameters) -> Outcome;

/// An operation, ready to be carried out.
#[derive(Clone, Copy)]
pub(crate) struct Emulated {
    form: Form,
    execute: Execute,
}

impl Ledger {
    pub(crate) fn new(
        accounts: Accounts,
        numbers: NumbersUniquePer,
        answer_forms: AnswerForms,
    ) -> Self {
        Self {
            answer_forms,
            accounts,
            balances: Balances::default(),
            orders: Orders::new(numbers),
            refunds: Refunds::new(numbers),
            fixed_addresses: FixedAddresses::default(),
            conversions: Conversions::new(numbers),
            payouts: Payouts::new(numbers),
            rewards: Rewards::new(numbers),
            transfers: Transfers::new(numbers),
            banks: Banks::default(),
            otc: Otc::new(numbers),
            gift_cards: GiftCards::default(),
            plans: Plans::new(numbers),
            subscriptions: Subscriptions::new(numbers),
            products: Products::default(),
            channels: Channels::default(),
            fee_rules: FeeRules::default(),
        }
    }

    /// A call in an account's name.
    pub(crate) fn call<'a>(&self, account: &'a str, now: u64) -> Call<'a> {
        Call {
            account,
            now,
            forms: self.answer_forms,
        }
    }

    /// Carries out an operation. What cannot be read was not asked for.
    pub(crate) fn perform(
        &mut self,
        emulated: Emulated,
        call: Call<'_>,
        asked: Result<Parameters, Failure>,
    ) -> Answer {
        let outcome = asked.and_then(|asked| (emulated.execute)(self, call, &asked));
        Answer::new(emulated.form.under(call.forms), outcome)
    }
}

/// How an operation is carried out, by its name in the catalogue, and where it has two forms by its method. Nothing
/// for a row that has no institution path.
pub(crate) fn emulated(operation: &str, method: Method) -> Option<Emulated> {
    use Form::{Bare, Coded, Created, Flagged, Lower, Standard, Wrapped};
    let (form, execute): (Form, Execute) = match operation {
        "create_order" => (Created, orders::create),
        "query_order" => (Standard, orders::query),
        "close_order" => (Standard, orders::close),
        "refund_order" => (Standard, refunds::refund),
        "query_refund" => (Standard, refunds::query),
        "create_native_order" => (Coded("0"), orders::create_native),
        "create_checkout_order" => (Standard, orders::create_checkout),
        "refund_checkout_order" => (Standard, refunds::refund_checkout),
        "refund_order_v2" | "refund_order_v3" => (Standard, refunds::refund_v2),
        "query_order_v2" => (Wrapped, orders::query_v2),
        "refund_details" | "refund_details_v3" => (Standard, refunds::details),
        "refund_chains" | "refund_chains_v3" => (Standard, refunds::chains),
        "query_order_v3" => (Standard, orders::query_v2),
        "address_chains" => (Standard, currencies::chains),
        "address_currencies" => (Standard, currencies::on_chains),
        "address_convert_currencies" => (Standard, currencies::convertible),
        "create_address_order" => (Standard, orders::create_at_address),
        "query_address_order" => (Standard, orders::query_at_address),
        "refund_address_order" => (Standard, refunds::refund_at_address),
        "refund_converted_address_order" => (Coded("00000"), refunds::refund_converted),
        "address_transactions" => (Standard, orders::transactions),
        "save_fixed_address" => (Standard, fixed_addresses::save),
        "fixed_address_detail" => (Standard, fixed_addresses::detail),
        "fixed_address_orders" => (Standard, fixed_addresses::deposits),
        "query_balance" if method == Method::Get => (Standard, balances::query_as_merchant),
        "query_balance" => (Standard, balances::query),
        "all_balances" => (Standard, balances::all),
        "list_bills" => (Standard, balances::bills),
        "convert_currencies" => (Standard, currencies::tradable),
        "convert_pairs" => (Standard, currencies::pairs),
        "preview_conversion" => (Standard, conversions::preview),
        "create_conversion" => (Standard, conversions::convert),
        "query_conversion" => (Standard, conversions::query),
        "create_payout" => (Standard, payouts::create),
        "query_payout" => (Standard, payouts::query),
        "wallet_chains" => (Bare, wallet::chains),
        "wallet_withdraw_status" => (Bare, wallet::withdraw_status),
        "wallet_withdrawals" => (Bare, wallet::withdrawals),
        "wallet_total_balance" => (Bare, wallet::total_balance),
        "create_batch_transfer" => (Standard, rewards::create),
        "query_batch_transfer" => (Standard, rewards::query),
        "otc_quote" => (Lower, otc::quote),
        "create_otc_order" => (Standard, otc::create),
        "list_otc_orders" => (Standard, otc::list),
        "otc_order_detail" => (Standard, otc::detail),
        "create_otc_bank" => (Standard, banks::create),
        "list_otc_banks" => (Standard, banks::list),
        "supplement_otc_bank" => (Standard, banks::supplement),
        "otc_deposit_detail" => (Lower, otc::deposit),
        "create_gift_card" => (Standard, gift_cards::create),
        "list_gift_templates" => (Standard, gift_cards::templates),
        "query_gift_card" => (Standard, gift_cards::query),
        "save_plan" => (Flagged, plans::save),
        "list_plans" => (Flagged, plans::list),
        "plan_detail" => (Flagged, plans::detail),
        "create_subscription" => (Flagged, subscriptions::create),
        "list_subscriptions" => (Flagged, subscriptions::list),
        "subscription_detail" => (Flagged, subscriptions::detail),
        "complete_subscription" => (Flagged, subscriptions::complete),
        "deduct_subscription" => (Flagged, subscriptions::deduct),
        "deduction_detail" => (Flagged, subscriptions::deduction),
        "create_product" => (Flagged, products::create),
        "list_products" => (Flagged, products::list),
        "query_product" => (Flagged, products::query),
        "save_channel" => (Standard, channels::save),
        "list_channels" => (Standard, channels::list),
        "update_channel" => (Standard, channels::update),
        "delete_channel" => (Standard, channels::delete),
        "create_account" => (Standard, accounts::create),
        "update_account" => (Standard, accounts::update),
        "query_account" => (Standard, accounts::query),
        "list_accounts" => (Standard, accounts::list),
        "create_fee_rule" => (Standard, fees::create),
        "upgrade_fee_rule" => (Standard, fees::upgrade),
        "query_fee_rule" => (Standard, fees::query),
        "list_fee_rules" => (Standard, fees::list),
        "create_transfer" => (Standard, transfers::transfer),
        "transfer_detail" => (Standard, transfers::transfer_detail),
        "create_charge" => (Standard, transfers::charge),
        "charge_detail" => (Standard, transfers::charge_detail),
        _ => return None,
    };
    Some(Emulated { form, execute })
}

impl Call<'_> {
    /// The account as a number, which some answers have. Account ids are decimal digits in all samples.
    pub(crate) fn merchant_id(self) -> u64 {
        self.account.parse().unwrap_or_default()
    }
}

/// A model as data.
pub(crate) fn data(model: impl Serialize) -> Value {
    serde_json::to_value(model).expect("a model has text keys only")
}

/// A time in the type that models have it in.
pub(crate) fn signed(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{ACME, Desk};
    use gatepay_core::Catalogue;
    use proptest::prelude::*;

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

    /// JSON with names that matter and values of every kind.
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
        fn whatever_is_asked_is_answered(
            asked in prop::collection::vec((any::<prop::sample::Index>(), any_parameters()), 1..20),
            now: u64,
        ) {
            let mut desk = Desk::new();
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
