//! Documented fields: which fields of a money call say how much goes where, by its row; and whether a body has others.
//!
//! GatePay's refund calls resemble one another, and no page says that one of them leaves the fields of another alone. So a
//! field that would move money in another call has no certain reading in this one.

use super::{AmountPlace, DemandFault, FieldName, MoneyRow, TargetPlace};
use crate::body::BodyReading;
use crate::json::JsonText;
use crate::query::decode;
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
/// The fields of a list's item that say how much goes where.
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

/// Whether a field says how much, or of which currency.
pub(super) fn is_of_amount(field: &str) -> bool {
    let others = [
        "count",
        "cryptoAmount",
        "fiatAmount",
        "cryptoCurrency",
        "fiatCurrency",
    ];
    AMOUNTS.contains(&field) || others.contains(&field)
}

/// The beginning of the names of GatePay's headers.
const OF_GATEPAY: &str = "X-GatePay-";
/// Fields that the published clients add to every body: the call's name among the library's, and a version.
const OF_CLIENTS: [&str; 2] = ["api", "version"];

/// Refuses a field that states something and is none of the call's documented fields, in any spelling, and a documented one
/// that holds fields of its own. So no field can name a target unseen.
pub(super) fn only_known(row: &MoneyRow, reading: &BodyReading<'_>) -> Result<(), DemandFault> {
    let list = match row.amounts {
        AmountPlace::Items { list, .. } => Some(list),
        _ => None,
    };
    let own = [row.fields, &OF_CLIENTS];
    for (name, value) in reading.top().filter(|(_, value)| states(*value)) {
        if are_headers(name, value) {
            continue;
        }
        let field = known(&own, name)?;
        if holds_fields(value) && Some(field) != list {
            return Err(DemandFault::Misshapen(field));
        }
    }
    for (name, value) in reading.parameters() {
        if !matches!(value, "" | "0") {
            known(&own, decode(name).as_bytes())?;
        }
    }
    Ok(())
}

/// As [`only_known`], of an item of the call's list.
pub(super) fn only_known_in_item(
    row: &MoneyRow,
    item: &BodyReading<'_>,
) -> Result<(), DemandFault> {
    for (name, value) in item.top().filter(|(_, value)| states(*value)) {
        let field = known(&[row.item_fields], name)?;
        if holds_fields(value) {
            return Err(DemandFault::Misshapen(field));
        }
    }
    Ok(())
}

/// The field of this name among the known ones. A name with an index or a key in brackets holds fields of its own.
fn known(fields: &[&[&'static str]], name: &[u8]) -> Result<&'static str, DemandFault> {
    let mut fields = fields.iter().copied().flatten();
    let is_plain = !name.contains(&b'[');
    let field =
        fields.find(|field| is_plain && folded_name(field.as_bytes()).eq(folded_name(name)));
    field
        .copied()
        .ok_or_else(|| DemandFault::Unknown(FieldName::of(name)))
}

/// Whether a value states anything. Clients send absent ones as null, empty, zero or false.
fn states(value: JsonText<'_>) -> bool {
    let text = value.as_str();
    let is_empty = |open: char, close: char| {
        let inner = text
            .strip_prefix(open)
            .and_then(|it| it.strip_suffix(close));
        inner.is_some_and(|inner| inner.trim().is_empty())
    };
    let is_absent = value.is_nothing()
        || matches!(text, "0" | "\"0\"" | "false")
        || is_empty('{', '}')
        || is_empty('[', ']');
    !is_absent
}

/// Whether a field is the published clients' copy of the request's own headers. The one for Go has it in every body.
fn are_headers(name: &[u8], value: JsonText<'_>) -> bool {
    let is_named = ["header", "headers"]
        .iter()
        .any(|own| folded_name(name).eq(own.bytes()));
    let headers = BodyReading::of_object(value.as_str()).filter(|_| is_named);
    headers.is_some_and(|headers| {
        let of_gatepay = |name: &[u8]| {
            let beginning = name.get(..OF_GATEPAY.len());
            beginning.is_some_and(|it| it.eq_ignore_ascii_case(OF_GATEPAY.as_bytes()))
        };
        headers
            .top()
            .all(|(name, value)| of_gatepay(name) && !holds_fields(value))
    })
}

fn holds_fields(value: JsonText<'_>) -> bool {
    value.as_str().starts_with(['{', '['])
}

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

/// As [`undocumented_target`], of an item of a list.
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
