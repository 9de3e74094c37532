//! Object amounts: the amounts of an object under a call's key as the answer to the call's look-up states them.
//!
//! GatePay has one transaction under a key. If its amounts are not those of a call, they are no proof that this call made it.

use super::{
    AmountPlace, AmountSpelling, CurrencyCode, DemandKind, DemandReader, MoneyDirection, MoneyPart,
    MoneyRow, PartCurrency, StatedAmount, TargetPlace,
};
use crate::body::BodyReading;
use crate::exact_amount::ExactAmount;
use crate::operation::AnsweredAmounts;

/// The amounts of an object, as an answer states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectAmounts {
    /// The amounts, at least one.
    pub amounts: Vec<StatedAmount>,
    /// Whether they are all that the object has, one for each currency.
    pub is_whole: bool,
}

/// The row that an object of an answer is read by: it names no targets, and its amounts are where the look-up says.
static OBJECT: MoneyRow = MoneyRow {
    operation: "look-up",
    kind: DemandKind::Payout,
    payout_name: None,
    direction: MoneyDirection::Out,
    amounts: AmountPlace::OfOrder,
    targets: TargetPlace::None,
    key: None,
    fields: &[],
    item_fields: &[],
};

impl ObjectAmounts {
    /// The amounts in an object of an answer; `None` if it states none, or one that cannot be read exactly.
    pub(crate) fn read(place: AnsweredAmounts, object: &str) -> Option<Self> {
        let reading = BodyReading::of_object(object)?;
        let reader = DemandReader {
            spelling: AmountSpelling::Printed,
            ..DemandReader::new(&OBJECT, &reading)
        };
        let sums = match place {
            AnsweredAmounts::Undocumented => return None,
            AnsweredAmounts::Stated { amount, currency } => {
                let amount = reader.amount(amount).ok()??;
                let currency = if reading.has(currency) {
                    Some(reader.currency(currency).ok()?)
                } else {
                    None
                };
                return Some(Self {
                    amounts: vec![StatedAmount { currency, amount }],
                    is_whole: false,
                });
            }
            AnsweredAmounts::Items(list) => reader.parts(AmountPlace::Items {
                list,
                common_currency: false,
            }),
            AnsweredAmounts::Exchanged => reader.parts(AmountPlace::Exchanged),
        };
        let amounts = sums.ok()?.into_iter().map(|(currency, amount)| {
            let currency = match currency {
                PartCurrency::Stated(currency) => Some(currency),
                PartCurrency::OfOrder(_) => None,
            };
            StatedAmount { currency, amount }
        });
        Some(Self {
            amounts: amounts.collect(),
            is_whole: true,
        })
    }

    /// Whether the object may be that of a call with these parts. A call whose amounts are not known has none, and then
    /// nothing speaks against it.
    pub(crate) fn may_be_of(&self, parts: &[MoneyPart]) -> bool {
        let parts = parts.iter().map(|part| {
            let currency = match &part.currency {
                PartCurrency::Stated(currency) => Some(currency),
                PartCurrency::OfOrder(_) => None,
            };
            (currency, part.amount)
        });
        let parts: Vec<_> = parts.collect();
        parts.is_empty() || are_of(&self.amounts, self.is_whole, &parts)
    }
}

/// Whether each of the stated amounts is one of the parts, and if they are the whole of an object, each part one of them. A part
/// whose currency is not known, or an amount without one, is compared by the amount alone.
pub fn are_of(
    stated: &[StatedAmount],
    is_whole: bool,
    parts: &[(Option<&CurrencyCode>, ExactAmount)],
) -> bool {
    let is_part = |told: &StatedAmount| {
        parts.iter().any(|(currency, amount)| {
            let currencies = told.currency.as_ref().zip(*currency);
            currencies.is_none_or(|(told, own)| told == own) && told.amount == *amount
        })
    };
    stated.iter().all(is_part) && (!is_whole || stated.len() == parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUND: AnsweredAmounts = AnsweredAmounts::Stated {
        amount: "requestAmount",
        currency: "requestCurrency",
    };
    const PAYOUT: AnsweredAmounts = AnsweredAmounts::Items("withdraw_list");

    fn read(place: AnsweredAmounts, object: &str) -> Option<String> {
        let told = ObjectAmounts::read(place, object)?;
        let amounts = told.amounts.iter().map(|it| match &it.currency {
            Some(currency) => format!("{} {currency}", it.amount),
            None => it.amount.to_string(),
        });
        let whole = if told.is_whole { " in all" } else { "" };
        Some(format!("{}{whole}", amounts.collect::<Vec<_>>().join(", ")))
    }

    #[test]
    fn amounts_of_an_answer_are_read_exactly_or_not_at_all() {
        for (place, object, expected) in [
            (
                REFUND,
                r#"{"requestAmount":"1.000000000000000001","requestCurrency":"usdt"}"#,
                Some("1.000000000000000001 USDT"),
            ),
            (REFUND, r#"{"requestAmount":1.50}"#, Some("1.5")),
            (REFUND, r#"{"requestAmount":0.1000000000000000001}"#, None),
            (REFUND, r#"{"requestAmount":"1e1"}"#, Some("10")),
            (REFUND, r#"{"requestAmount":1E-7}"#, Some("0.0000001")),
            (REFUND, r#"{"requestAmount":"1E+20"}"#, None),
            (REFUND, r#"{"requestAmount":"0"}"#, None),
            (
                REFUND,
                r#"{"requestAmount":"1","requestCurrency":"?"}"#,
                None,
            ),
            (REFUND, r#"{"amount":"1"}"#, None),
            (
                PAYOUT,
                r#"{"withdraw_list":[{"currency":"USDT","amount":"1.5","fee":"1"},{"currency":"ETH","amount":1},
                    {"currency":"USDT","amount":"0.5"}]}"#,
                Some("1 ETH, 2 USDT in all"),
            ),
            (
                PAYOUT,
                r#"{"withdraw_list":[{"currency":"USDT","amount":"1E+2"},{"currency":"USDT","amount":2e1}]}"#,
                Some("120 USDT in all"),
            ),
            (PAYOUT, r#"{"withdraw_list":[]}"#, None),
            (PAYOUT, r#"{"withdraw_list":null}"#, None),
            (PAYOUT, r#"{"withdraw_list":[{"amount":"1"}]}"#, None),
            (PAYOUT, r#"{"status":"INIT"}"#, None),
            (
                AnsweredAmounts::Exchanged,
                r#"{"type":"SELL","cryptoAmount":"2","cryptoCurrency":"USDT","fiatAmount":"9","fiatCurrency":"USD"}"#,
                Some("2 USDT in all"),
            ),
            (
                AnsweredAmounts::Undocumented,
                r#"{"requestAmount":"1"}"#,
                None,
            ),
            (REFUND, "[]", None),
        ] {
            assert_eq!(read(place, object).as_deref(), expected, "{object}");
        }
    }
}
