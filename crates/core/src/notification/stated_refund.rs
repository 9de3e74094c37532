//! Stated refund: the refund that a notification names by its order and the merchant's own number, with the amounts that it
//! states.

use super::hint_fields::BodyPart;
use super::{NotificationParts, text_of};
use crate::body::{BodyReading, BodyValue};
use crate::exact_amount::ExactAmount;
use crate::ledger_key::{LedgerKey, LedgerKeyKind};
use crate::money::{CurrencyCode, StatedAmount};

/// A refund of an order under its own number. The number alone would not do: the pages do not say that it is unique beyond its
/// order. `bizId` is left out: GatePay's sample shows the order's id there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedRefund {
    /// `prepayId` and `refundRequestId`, which the merchant chose.
    pub number: LedgerKey,
    /// The amount that the refund asked for, of which another one may be paid after a conversion; `None` if it is not stated, or
    /// not exactly.
    pub requested: Option<StatedAmount>,
    /// All amounts; `None` if one of them cannot be read exactly.
    pub amounts: Option<Vec<StatedAmount>>,
}

/// The fields of the amount that a refund asks for, and of its currency.
const REQUESTED: [(&str, &str); 2] = [
    ("refundAmount", "orderCurrency"),
    ("refundOrderAmount", "refundOrderCurrency"),
];
/// Those of what is paid.
const PAID: (&str, &str) = ("refundPayAmount", "refundPayCurrency");

/// The refund that `refundInfo` describes, if it has an order and a number.
pub(super) fn stated_refund(parts: &NotificationParts<'_>) -> Option<StatedRefund> {
    let part = parts.part(BodyPart::Refund).first()?;
    let order = text_of(part, "prepayId")?;
    let number = text_of(part, "refundRequestId")?;
    let (requested, paid) = (
        stated_amounts(part, &REQUESTED),
        stated_amounts(part, &[PAID]),
    );
    Some(StatedRefund {
        number: LedgerKey::pair(LedgerKeyKind::OrderRefund, &order, &number)?,
        requested: requested.iter().flatten().next().cloned(),
        amounts: requested.zip(paid).map(|(all, paid)| [all, paid].concat()),
    })
}

/// The amounts of a refund in these fields; `None` if one cannot be read.
fn stated_amounts(part: &BodyReading<'_>, fields: &[(&str, &str)]) -> Option<Vec<StatedAmount>> {
    let mut amounts = Vec::new();
    for (amount, currency) in fields {
        let Some(amount) = written(part, amount) else {
            continue;
        };
        let currency = match written(part, currency) {
            None => None,
            Some(currency) => Some(CurrencyCode::parse(&currency)?),
        };
        let amount = ExactAmount::parse_printed(&amount).ok()?;
        amounts.push(StatedAmount { currency, amount });
    }
    Some(amounts)
}

/// The text of a field that is neither absent, `null` nor empty.
fn written(part: &BodyReading<'_>, field: &str) -> Option<String> {
    let BodyValue::Body(raw) = part.values(field).next()? else {
        return None;
    };
    let text = match raw.text() {
        Some(text) => text.into_owned(),
        None => raw.as_str().to_owned(),
    };
    (!matches!(&*text, "" | "null")).then_some(text)
}
