//! Amount: the amounts of a call, for the audit journal: as the body states them, never converted to a float.
//!
//! A row of the catalogue names their fields, as [`AmountField`]s. A value longer than [`LONGEST`] bytes, or with a
//! byte outside printable ASCII, is dropped as a whole: half an amount would be another amount.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::body::{BodyReading, BodyValue};
use crate::field::AmountField;
use crate::json::{self, JsonText};
use crate::operation::Operation;

/// The amount of one field of a body, in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BodyAmount {
    /// The field: [`AmountField::path`].
    pub field: &'static str,
    /// The amount as the body states it, or the exact sum of several amounts. `None` if the amount is missing or
    /// illegible, or if one of several amounts is not a plain decimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// The currency as the body states it. `None` if the body states none: a refund has its order's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Number of amounts in the sum.
    #[serde(skip_serializing_if = "is_one")]
    pub count: u32,
}

/// All amounts of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyAmounts {
    /// The amounts of each field in each currency, in the order of their first occurrence.
    pub listed: Vec<BodyAmount>,
    /// Number of amounts that are not listed, because their list has more than [`MOST_CURRENCIES`] currencies.
    pub unlisted: u32,
}

/// Maximum length of a kept amount or currency, in bytes.
pub const LONGEST: usize = 64;
/// Maximum number of currencies of one list that are summed separately.
pub const MOST_CURRENCIES: usize = 8;

impl BodyAmounts {
    /// The amounts of a request, by its row. A field that was not sent has no amount.
    pub fn read(operation: &Operation, reading: &BodyReading<'_>) -> Self {
        let mut amounts = Self::default();
        for field in operation.amounts {
            match field.path.split_once('.') {
                None if reading.has(field.path) => amounts.listed.push(single(field, reading)),
                Some((list, name)) if reading.has(list) => {
                    let sums = items(field, (list, name), reading);
                    amounts.unlisted += sums.unlisted;
                    let listed = sums.listed.into_iter().map(|sum| sum.amount(field.path));
                    amounts.listed.extend(listed);
                }
                _ => {}
            }
        }
        amounts
    }

    /// Whether the body has no amounts.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.unlisted == 0
    }
}

fn single(field: &AmountField, reading: &BodyReading<'_>) -> BodyAmount {
    let text = |field: &str| reading.only(field).and_then(|text| legible(&text));
    let mut sum = CurrencySum::of(field.currency.and_then(text));
    let amount = text(field.path);
    let times = match field.times {
        Some(times) if reading.has(times) => text(times).and_then(|times| times.parse().ok()),
        _ => Some(1),
    };
    sum.add(amount, times.unwrap_or(0));
    sum.amount(field.path)
}

fn items(
    field: &AmountField,
    (list, name): (&str, &str),
    reading: &BodyReading<'_>,
) -> CurrencySums {
    let common = field.currency.and_then(|currency| reading.only(currency));
    let mut items = ItemAmounts {
        name,
        currency: field.currency,
        common: common.and_then(|common| legible(&common)),
        sums: CurrencySums::default(),
    };
    let mut values = reading.values(list);
    let read = match (values.next(), values.next()) {
        (Some(BodyValue::Body(list)), None) => {
            serde_json::Deserializer::from_str(list.as_str()).deserialize_seq(&mut items)
        }
        _ => return CurrencySums::illegible(),
    };
    if read.is_err() {
        return CurrencySums::illegible();
    }
    items.sums
}

/// Adds up the items of a list while they are read.
struct ItemAmounts<'a> {
    name: &'a str,
    currency: Option<&'a str>,
    common: Option<String>,
    sums: CurrencySums,
}

impl ItemAmounts<'_> {
    fn item(&mut self, item: &str) {
        let (mut amount, mut currency) = (None, None);
        let is = |name: &[u8], field: &str| name.eq_ignore_ascii_case(field.as_bytes());
        // The whole list was already read as valid JSON.
        let _read = json::read(item, &mut |name, value| {
            if value.is_nothing() {
            } else if is(name, self.name) {
                amount = Some(value);
            } else if self.currency.is_some_and(|currency| is(name, currency)) {
                currency = Some(value);
            }
        });
        let text = |value: JsonText<'_>| value.text_or_number().and_then(|text| legible(&text));
        let currency = currency.map_or_else(|| self.common.clone(), text);
        self.sums.add(amount.and_then(text), currency);
    }
}

impl<'a> Visitor<'a> for &mut ItemAmounts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element::<&RawValue>()? {
            self.item(item.get());
        }
        Ok(())
    }
}

/// Sums by currency.
#[derive(Default)]
struct CurrencySums {
    listed: Vec<CurrencySum>,
    unlisted: u32,
}

impl CurrencySums {
    /// The sums of a field that was sent and is not a list.
    fn illegible() -> Self {
        let mut sums = Self::default();
        sums.add(None, None);
        sums
    }

    fn add(&mut self, amount: Option<String>, currency: Option<String>) {
        let known = self.listed.iter().position(|sum| sum.currency == currency);
        match known {
            Some(at) => self.listed[at].add(amount, 1),
            None if self.listed.len() < MOST_CURRENCIES => {
                let mut sum = CurrencySum::of(currency);
                sum.add(amount, 1);
                self.listed.push(sum);
            }
            None => self.unlisted = self.unlisted.saturating_add(1),
        }
    }
}

/// The sum of the amounts in one currency.
struct CurrencySum {
    currency: Option<String>,
    count: u32,
    /// The first amount as written, while it is the only amount.
    only: Option<String>,
    total: Option<Decimal>,
}

impl CurrencySum {
    fn of(currency: Option<String>) -> Self {
        Self {
            currency,
            count: 0,
            only: None,
            total: Some(Decimal::default()),
        }
    }

    /// Adds an amount `times` times. With zero times the total becomes unknown.
    fn add(&mut self, amount: Option<String>, times: u32) {
        let decimal = amount.as_deref().and_then(Decimal::parse);
        let added = decimal.and_then(|decimal| decimal.times(times.into()));
        self.total = self
            .total
            .zip(added)
            .and_then(|(total, added)| total.plus(added));
        if self.count == 0 && times == 1 {
            self.only = amount;
        }
        if times == 0 {
            self.total = None;
        }
        self.count = self.count.saturating_add(times.max(1));
    }

    fn amount(self, field: &'static str) -> BodyAmount {
        let amount = match self.count {
            1 => self.only,
            _ => self.total.map(|total| total.to_string()),
        };
        BodyAmount {
            field,
            amount,
            currency: self.currency,
            count: self.count,
        }
    }
}

/// An exact decimal that is not negative, of at most [`DECIMALS`] places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Decimal {
    /// The value in units of the last possible place, the 18th.
    units: u128,
    /// Number of written places.
    places: usize,
}

/// Maximum number of places behind the decimal point.
const DECIMALS: usize = 18;

impl Decimal {
    /// Reads digits, with at least one digit behind a decimal point.
    fn parse(text: &str) -> Option<Self> {
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, places) = match text.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (text, ""),
        };
        if whole.is_empty() || !is_digits(whole) || !is_digits(places) || places.len() > DECIMALS {
            return None;
        }
        let units = |digits: &str, place: usize| {
            let digits: u128 = digits.parse().ok()?;
            digits.checked_mul(10_u128.pow(u32::try_from(place).ok()?))
        };
        let behind = match places {
            "" => 0,
            places => units(places, DECIMALS - places.len())?,
        };
        Some(Self {
            units: units(whole, DECIMALS)?.checked_add(behind)?,
            places: places.len(),
        })
    }

    fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            units: self.units.checked_add(other.units)?,
            places: self.places.max(other.places),
        })
    }

    fn times(self, times: u128) -> Option<Self> {
        let units = self.units.checked_mul(times)?;
        Some(Self { units, ..self })
    }
}

/// Writes as many places as the longest of the added amounts has.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = 10_u128.pow(18);
        let (whole, rest) = (self.units / one, self.units % one);
        let rest = format!("{rest:0DECIMALS$}");
        match &rest[..self.places] {
            "" => write!(f, "{whole}"),
            places => write!(f, "{whole}.{places}"),
        }
    }
}

/// The whole text if it is fit for the journal, otherwise `None`.
fn legible(text: &str) -> Option<String> {
    let is_fit =
        (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    is_fit.then(|| text.to_owned())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands it a reference"
)]
fn is_one(count: &u32) -> bool {
    *count == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;
    use crate::operation::{Kind, MediaType};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// The amounts of a call, as `field amount currency ×count`.
    fn amounts(row: &str, query: &str, body: &str) -> Vec<String> {
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::standard);
        let row = CATALOGUE.named(row).unwrap();
        let read = BodyAmounts::read(row, &BodyReading::read(row, Some(query), body.as_bytes()));
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let mut lines: Vec<String> = read
            .listed
            .into_iter()
            .map(|one| {
                let (amount, currency) = (dash(one.amount), dash(one.currency));
                format!("{} {amount} {currency} ×{}", one.field, one.count)
            })
            .collect();
        if read.unlisted > 0 {
            lines.push(format!("{} unlisted", read.unlisted));
        }
        lines
    }

    #[test]
    fn each_call_has_its_amounts_where_gatepay_reads_them() {
        for (row, body, expected) in [
            (
                "create_order",
                r#"{"currency":"GT","orderAmount":"1.21"}"#,
                &["orderAmount 1.21 GT ×1"][..],
            ),
            (
                "create_checkout_order",
                r#"{"fiatCurrency":"EUR","fiatAmount":"1.20"}"#,
                &["fiatAmount 1.20 EUR ×1"],
            ),
            (
                "refund_order",
                r#"{"refundAmount":"1.210"}"#,
                &["refundAmount 1.210 - ×1"],
            ),
            (
                "refund_converted_address_order",
                r#"{"refundOrderCurrency":"GT","refundOrderAmount":"1","refundPayCurrency":"USDT"}"#,
                &["refundOrderAmount 1 GT ×1"],
            ),
            (
                "create_conversion",
                r#"{"sellAmount":"1","sellCurrency":"GT","buyAmount":"9.5","buyCurrency":"USDT"}"#,
                &["sellAmount 1 GT ×1", "buyAmount 9.5 USDT ×1"],
            ),
            (
                "create_otc_order",
                r#"{"cryptoAmount":"10","cryptoCurrency":"USDT","fiatAmount":"9","fiatCurrency":"USD"}"#,
                &["cryptoAmount 10 USDT ×1", "fiatAmount 9 USD ×1"],
            ),
            (
                "create_payout",
                r#"{"withdraw_list":[{"amount":"0.1","currency":"GT"},{"amount":"0.20","currency":"GT"},{"amount":"5","currency":"BTC"}]}"#,
                &[
                    "withdraw_list.amount 0.30 GT ×2",
                    "withdraw_list.amount 5 BTC ×1",
                ],
            ),
            (
                "create_batch_transfer",
                r#"{"currency":"USDT","batchorderList":[{"amount":1},{"amount":2.50,"currency":"USDT"}]}"#,
                &["batchorderList.amount 3.50 USDT ×2"],
            ),
            (
                "create_gift_card",
                r#"{"amount":"0.5","currency":"USDT","count":3}"#,
                &["amount 1.5 USDT ×3"],
            ),
            (
                "deduct_subscription",
                r#"{"amount":5.00,"currency":"USDT"}"#,
                &["amount 5.00 USDT ×1"],
            ),
            (
                "create_transfer",
                r#"{"AMOUNT":"5","Currency":"USDT"}"#,
                &["amount 5 USDT ×1"],
            ),
            ("close_order", r#"{"orderAmount":"1"}"#, &[]),
        ] {
            assert_eq!(amounts(row, "", body), expected, "{row}");
        }
    }

    /// A money row without amount fields would leave the journal without amounts.
    #[test]
    fn every_call_that_moves_money_says_where_its_amount_stands() {
        let catalogue = Catalogue::standard();
        let money = catalogue
            .rows()
            .iter()
            .filter(|row| row.kind == Kind::Money);
        for row in money.filter(|row| row.name != "mcp_call") {
            assert_ne!(row.amounts, [], "{}", row.name);
            assert_eq!(row.media, MediaType::Json, "{}", row.name);
        }
    }

    #[test]
    fn an_amount_is_kept_as_it_was_written_or_not_at_all() {
        let refund =
            |value: &str| amounts("refund_order", "", &format!("{{\"refundAmount\":{value}}}"));
        for (value, kept) in [
            (r#""1.10""#, "1.10"),
            ("1.10", "1.10"),
            ("1e400", "1e400"),
            (
                "0.1000000000000000000000000000001",
                "0.1000000000000000000000000000001",
            ),
            (r#""=1+1""#, "=1+1"),
            (r#""-5""#, "-5"),
            (r#""\u0031\u002c5""#, "1,5"),
            (r#"" 1""#, " 1"),
            (r#""１""#, "-"),
            (r#""1\n2""#, "-"),
            (r#""1\u0000""#, "-"),
            ("true", "-"),
            ("[1]", "-"),
            (
                &format!("\"{}\"", "9".repeat(LONGEST)),
                &"9".repeat(LONGEST),
            ),
            (&format!("\"{}\"", "9".repeat(LONGEST + 1)), "-"),
        ] {
            assert_eq!(
                refund(value),
                [format!("refundAmount {kept} - ×1")],
                "{value}"
            );
        }
        for nothing in ["null", r#""""#] {
            assert_eq!(refund(nothing), [""; 0]);
        }
        let twice = |query, body| amounts("refund_order", query, body);
        let body = r#"{"refundAmount":"1"}"#;
        assert_eq!(twice("refundAmount=1", body), ["refundAmount 1 - ×1"]);
        assert_eq!(twice("refundAmount=2", body), ["refundAmount - - ×1"]);
        assert_eq!(twice("refundAmount=2", ""), ["refundAmount 2 - ×1"]);
    }

    #[test]
    fn several_amounts_are_added_exactly_or_only_counted() {
        let payout = |items: &str| {
            amounts(
                "create_payout",
                "",
                &format!("{{\"withdraw_list\":{items}}}"),
            )
        };
        let of = |texts: &[&str]| {
            let items: Vec<_> = texts
                .iter()
                .map(|text| format!(r#"{{"amount":"{text}","currency":"GT"}}"#))
                .collect();
            payout(&format!("[{}]", items.join(",")))
        };
        let sum = |text: &str, count: usize| [format!("withdraw_list.amount {text} GT ×{count}")];
        assert_eq!(of(&["0.1"; 10]), sum("1.0", 10));
        assert_eq!(
            of(&["0.1", "0.000000000000000001"]),
            sum("0.100000000000000001", 2)
        );
        assert_eq!(
            of(&["9007199254740993", "0.1"]),
            sum("9007199254740993.1", 2)
        );
        for odd in [
            "1e3",
            "-1",
            "+1",
            "1.",
            ".5",
            "0.0000000000000000001",
            "x",
            "1 ",
        ] {
            assert_eq!(of(&["1", odd]), sum("-", 2), "{odd}");
            assert_eq!(of(&[odd]), sum(odd, 1), "{odd}");
        }
        let most = "9".repeat(LONGEST);
        assert_eq!(of(&[&most, "1"]), sum("-", 2), "no overflow");
        let high = "300000000000000000000";
        assert_eq!(of(&[high, high]), sum("-", 2), "no overflow of the sum");
        assert_eq!(payout("[]"), [""; 0]);
        for odd in ["[1]", "[[]]", "{}", "7", "\"x\""] {
            assert_eq!(payout(odd), ["withdraw_list.amount - - ×1"], "{odd}");
        }
    }

    #[test]
    fn a_card_of_which_the_number_is_unclear_has_no_amount() {
        let gift = |count: &str| {
            let body = format!(r#"{{"amount":"2","currency":"GT","count":{count}}}"#);
            amounts("create_gift_card", "", &body)
        };
        assert_eq!(gift("1"), ["amount 2 GT ×1"]);
        assert_eq!(gift("null"), ["amount 2 GT ×1"]);
        assert_eq!(gift(r#""2""#), ["amount 4 GT ×2"]);
        for odd in ["0", "-1", "1.5", r#""many""#, "99999999999"] {
            assert_eq!(gift(odd), ["amount - GT ×1"], "{odd}");
        }
    }

    #[test]
    fn the_list_of_sums_stays_short_for_any_number_of_currencies() {
        let items: Vec<_> = (0..1_000)
            .map(|at| format!(r#"{{"amount":"1","currency":"C{at}"}}"#))
            .collect();
        let body = format!("{{\"withdraw_list\":[{}]}}", items.join(","));
        let amounts = amounts("create_payout", "", &body);
        assert_eq!(amounts.len(), MOST_CURRENCIES + 1);
        assert_eq!(amounts[MOST_CURRENCIES], "992 unlisted");
    }

    proptest! {
        /// The sum is compared with arithmetic on whole numbers.
        #[test]
        fn a_sum_of_amounts_equals_the_sum_of_its_parts(cents: Vec<u32>) {
            let texts = cents.iter().map(|cents| format!("{}.{:02}", cents / 100, cents % 100));
            let mut sum = CurrencySum::of(None);
            texts.for_each(|text| sum.add(Some(text), 1));
            let total: u64 = cents.iter().map(|cents| u64::from(*cents)).sum();
            if !cents.is_empty() {
                let expected = format!("{}.{:02}", total / 100, total % 100);
                prop_assert_eq!(sum.amount("amount").amount, Some(expected));
            }
        }

        #[test]
        fn reading_amounts_never_panics(body: String, item: String) {
            for row in ["refund_order", "create_payout", "create_gift_card"] {
                amounts(row, &item, &body);
                amounts(row, "", &format!("{{\"withdraw_list\":[{item}]}}"));
            }
        }
    }
}
