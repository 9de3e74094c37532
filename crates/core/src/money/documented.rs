//! Documented fields: which fields of a money call say how much goes where, by its row; and whether a body has others.
//!
//! GatePay's refund calls resemble one another, and no page says that one of them leaves the fields of another alone. So a
//! field that would move money in another call has no certain reading in this one.

use super::{AmountPlace, MoneyRow, TargetPlace};
use crate::body::BodyReading;
use crate::spelling::folded_name;

/// The fields that say how much goes where. A lenient parser takes `refund_address` for `refundAddress`.
pub(super) const FIELDS: [&str; 21] = [
    "refundStyle",
    "refundAddress",
    "refundChain",
    "refundToGateUid",
    "refundAmount",
    "refundAmountTypeFull",
    "refundOrderAmount",
    "refundOrderCurrency",
    "refundPayAmount",
    "refundPayCurrency",
    "prepayId",
    "receiverId",
    "bankAccountId",
    "accountId",
    "sellAmount",
    "sellCurrency",
    "withdraw_list",
    "batchorderList",
    "amount",
    "currency",
    "memo",
];
/// Those of an item of a list.
pub(super) const ITEM_FIELDS: [&str; 6] =
    ["amount", "currency", "chain", "address", "memo", "user_id"];
/// Words in the names of fields that say where money goes, without case and separators.
const TARGET_WORDS: [&str; 18] = [
    "address",
    "chain",
    "memo",
    "receiver",
    "recipient",
    "payee",
    "beneficiary",
    "destination",
    "wallet",
    "iban",
    "gateuid",
    "userid",
    "accountid",
    "bankaccount",
    "refundstyle",
    "refundpaychannel",
    "withdrawlist",
    "batchorderlist",
];
/// The fields among [`FIELDS`] that say how much.
const AMOUNTS: [&str; 11] = [
    "refundAmount",
    "refundAmountTypeFull",
    "refundOrderAmount",
    "refundOrderCurrency",
    "refundPayAmount",
    "refundPayCurrency",
    "prepayId",
    "sellAmount",
    "sellCurrency",
    "amount",
    "currency",
];

/// A word for a field of the request that may name a target, and that no page describes for the call.
pub(super) fn undocumented_target(
    row: &MoneyRow,
    reading: &BodyReading<'_>,
) -> Option<&'static str> {
    let list = match row.amounts {
        AmountPlace::Items { list, .. } => Some(list),
        _ => None,
    };
    other_than(reading, &|field| {
        is_target(row, field) || list.is_some_and(|list| list.eq_ignore_ascii_case(field))
    })
}

/// The same of an item of a list.
pub(super) fn undocumented_in_item(row: &MoneyRow, item: &BodyReading<'_>) -> Option<&'static str> {
    let documented: &[&str] = match row.targets {
        TargetPlace::Users => &["user_id"],
        TargetPlace::Addresses => &["chain", "address", "memo"],
        _ => &[],
    };
    other_than(item, &|field| is_one_of(documented, field))
}

/// A field of the request that states an amount or a currency, and that no page describes for the call.
pub(super) fn undocumented_amount(
    row: &MoneyRow,
    reading: &BodyReading<'_>,
) -> Option<&'static str> {
    let others = AMOUNTS.into_iter().filter(|field| !is_amount(row, field));
    let mut others = others.filter(|field| {
        let mut names = reading.stated_names();
        names.any(|name| name.eq_ignore_ascii_case(field.as_bytes()))
    });
    others.next()
}

/// A word for the first field that may name a target and is none of the documented ones.
fn other_than(
    reading: &BodyReading<'_>,
    is_documented: &dyn Fn(&str) -> bool,
) -> Option<&'static str> {
    reading.stated_names().find_map(|name| {
        let folded: Vec<u8> = folded_name(&name).collect();
        let folded = String::from_utf8(folded).unwrap_or_default();
        let word = TARGET_WORDS.into_iter().find(|word| folded.contains(word));
        word.filter(|_| !str::from_utf8(&name).is_ok_and(is_documented))
    })
}

fn is_target(row: &MoneyRow, field: &str) -> bool {
    let refund = [
        "refundStyle",
        "refundPayChannel",
        "refundAddress",
        "refundChain",
        "refundToGateUid",
        "memo",
    ];
    match row.targets {
        TargetPlace::None | TargetPlace::Users | TargetPlace::Addresses => false,
        TargetPlace::Refund => is_one_of(&refund, field),
        TargetPlace::User(own) | TargetPlace::Bank(own) | TargetPlace::Account(own) => {
            own.eq_ignore_ascii_case(field)
        }
    }
}

fn is_amount(row: &MoneyRow, field: &str) -> bool {
    match row.amounts {
        AmountPlace::Stated { amount, currency } => is_one_of(&[amount, currency], field),
        AmountPlace::OfOrder => {
            is_one_of(&["refundAmount", "refundAmountTypeFull", "prepayId"], field)
        }
        AmountPlace::Converted => {
            let order = ["refundOrderAmount", "refundOrderCurrency", "prepayId"];
            let paid = ["refundAmount", "refundPayAmount", "refundPayCurrency"];
            is_one_of(&order, field) || is_one_of(&paid, field)
        }
        AmountPlace::Items {
            common_currency, ..
        } => common_currency && field == "currency",
        AmountPlace::Cards => is_one_of(&["amount", "currency"], field),
        AmountPlace::Exchanged => false,
    }
}

fn is_one_of(fields: &[&str], field: &str) -> bool {
    fields.iter().any(|own| own.eq_ignore_ascii_case(field))
}
