//! Exact amount: an amount of money as a fixed-point decimal, for money caps. Nothing is ever rounded.

use std::fmt;

/// An amount that is not negative, in units of the 18th decimal place; below [`TOO_LARGE`] whole coins.
///
/// The range is that of `numeric(38, 18)`, which the store's tables use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ExactAmount(u128);

/// Maximum number of places behind the decimal point.
pub const PLACES: usize = 18;
/// The smallest number of whole coins that no amount reaches: 10²⁰.
pub const TOO_LARGE: u128 = 10_u128.pow(20);
/// The most significant digits that a JSON number keeps in any parser that reads numbers as binary64.
pub const NUMBER_DIGITS: usize = 15;

const ONE: u128 = 10_u128.pow(18);
const LIMIT: u128 = TOO_LARGE * ONE;

/// Why a text is not an exact amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AmountFault {
    /// The text is not plain digits with at most one decimal point between digits.
    Malformed,
    /// The amount is below zero.
    Negative,
    /// The amount has an exponent.
    Exponent,
    /// The amount has more than [`PLACES`] places.
    TooPrecise,
    /// The amount reaches [`TOO_LARGE`].
    TooLarge,
    /// The amount is a JSON number of more than [`NUMBER_DIGITS`] significant digits, which parsers round differently.
    Rounded,
}

impl ExactAmount {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MOST: Self = Self(LIMIT - 1);

    /// Reads the content of a JSON string: digits, with at least one digit on both sides of a decimal point. A second
    /// leading zero is refused, since some parsers then read octal digits.
    pub fn parse(text: &str) -> Result<Self, AmountFault> {
        if text.starts_with('-') {
            return Err(AmountFault::Negative);
        }
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        if let Some((mantissa, _)) = text.split_once(['e', 'E'])
            && mantissa.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(AmountFault::Exponent);
        }
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_octal = whole.len() > 1 && whole.starts_with('0');
        if !is_digits(whole) || !is_digits(places) || is_octal {
            return Err(AmountFault::Malformed);
        }
        if places.len() > PLACES {
            return Err(AmountFault::TooPrecise);
        }
        if whole.len() > 20 {
            return Err(AmountFault::TooLarge);
        }
        let digits = |part: &str| {
            part.bytes()
                .fold(0, |sum, digit| sum * 10 + u128::from(digit - b'0'))
        };
        let scale = 10_u128.pow(u32::try_from(PLACES - places.len()).unwrap_or(0));
        Ok(Self(digits(whole) * ONE + digits(places) * scale))
    }

    /// Reads a JSON number, as written.
    pub fn parse_number(text: &str) -> Result<Self, AmountFault> {
        let amount = Self::parse(text)?;
        amount.unless_rounded(text)
    }

    /// Reads an amount of an answer of GatePay's. Java prints 10 as `1E+1` once surplus zeros are stripped, and 0.0000001 as `1E-7`.
    pub fn parse_printed(text: &str) -> Result<Self, AmountFault> {
        let Some((mantissa, exponent)) = text.split_once(['e', 'E']) else {
            return Self::parse(text);
        };
        Self::parse(mantissa)?;
        let exponent: i8 = exponent.parse().map_err(|_| AmountFault::Malformed)?;
        let (whole, places) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let zeros = "0".repeat(usize::from(exponent.unsigned_abs()));
        let (whole, places) = if exponent < 0 {
            let digits = format!("{zeros}{whole}");
            let (whole, moved) = digits.split_at(whole.len());
            (whole.to_owned(), format!("{moved}{places}"))
        } else {
            let digits = format!("{places}{zeros}");
            let (moved, places) = digits.split_at(zeros.len());
            (format!("{whole}{moved}"), places.to_owned())
        };
        let kept = |digits: &str| if digits.is_empty() { "0" } else { digits }.to_owned();
        let whole = kept(whole.trim_start_matches('0'));
        Self::parse(&format!("{whole}.{}", kept(places.trim_end_matches('0'))))
    }

    /// Like [`parse_printed`](Self::parse_printed), for a JSON number.
    pub fn parse_printed_number(text: &str) -> Result<Self, AmountFault> {
        let amount = Self::parse_printed(text)?;
        amount.unless_rounded(text.split(['e', 'E']).next().unwrap_or_default())
    }

    /// The amount, if any parser keeps all digits of the JSON number that it was read from.
    fn unless_rounded(self, number: &str) -> Result<Self, AmountFault> {
        let digits = number.bytes().filter(u8::is_ascii_digit);
        let count = digits.skip_while(|digit| *digit == b'0').count();
        (count <= NUMBER_DIGITS)
            .then_some(self)
            .ok_or(AmountFault::Rounded)
    }

    /// The amount in units of the 18th place.
    pub fn units(self) -> u128 {
        self.0
    }

    /// The amount of a number of units of the 18th place.
    pub fn from_units(units: u128) -> Option<Self> {
        (units < LIMIT).then_some(Self(units))
    }

    /// The sum, if it is an amount.
    pub fn plus(self, other: Self) -> Option<Self> {
        Self::from_units(self.0 + other.0)
    }

    /// The product, if it is an amount.
    pub fn times(self, times: u32) -> Option<Self> {
        Self::from_units(self.0.checked_mul(u128::from(times))?)
    }
}

/// Plain digits without surplus zeros, which [`ExactAmount::parse`] reads.
impl fmt::Display for ExactAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / ONE, self.0 % ONE);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let places = format!("{rest:0PLACES$}");
        write!(f, "{whole}.{}", places.trim_end_matches('0'))
    }
}

impl fmt::Display for AmountFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("is not a plain decimal amount"),
            Self::Negative => f.write_str("is negative"),
            Self::Exponent => f.write_str("has an exponent; write all digits"),
            Self::TooPrecise => write!(f, "has more than {PLACES} decimals"),
            Self::TooLarge => f.write_str("is 10^20 or more"),
            Self::Rounded => write!(
                f,
                "is a number of more than {NUMBER_DIGITS} digits, which parsers round; send it as text"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_exponent_of_an_answer_moves_the_point_and_nothing_else() {
        for (text, plain) in [
            ("1E+1", "10"),
            ("1e1", "10"),
            ("1.50E+2", "150"),
            ("1E+19", "10000000000000000000"),
            ("12.34E1", "123.4"),
            ("12.34E-1", "1.234"),
            ("1E-7", "0.0000001"),
            ("1.0E-18", "0.000000000000000001"),
            ("0.5E1", "5"),
            ("0E-8", "0"),
            ("0E+100", "0"),
            ("100E0", "100"),
        ] {
            let plain = ExactAmount::parse(plain);
            assert!(plain.is_ok());
            assert_eq!(ExactAmount::parse_printed(text), plain, "{text}");
            assert_eq!(ExactAmount::parse_printed_number(text), plain, "{text}");
        }
        for (text, fault) in [
            ("1E+20", AmountFault::TooLarge),
            ("1E-19", AmountFault::TooPrecise),
            ("-1E1", AmountFault::Negative),
            ("1E", AmountFault::Malformed),
            ("1E1E1", AmountFault::Malformed),
            ("1E1.5", AmountFault::Malformed),
            ("1E+1000", AmountFault::Malformed),
            ("01E1", AmountFault::Malformed),
            (".1E1", AmountFault::Malformed),
            ("E1", AmountFault::Malformed),
        ] {
            assert_eq!(ExactAmount::parse_printed(text), Err(fault), "{text}");
        }
        let long = ExactAmount::parse_printed_number("1.234567890123456E+1");
        assert_eq!(long, Err(AmountFault::Rounded));
    }

    #[test]
    fn an_amount_is_read_exactly_or_not_at_all() {
        for (text, units) in [
            ("0", 0),
            ("0.000000000000000001", 1),
            ("1.21", 1_210_000_000_000_000_000),
            ("99999999999999999999.999999999999999999", LIMIT - 1),
        ] {
            assert_eq!(ExactAmount::parse(text), Ok(ExactAmount(units)), "{text}");
        }
        for (text, fault) in [
            ("", AmountFault::Malformed),
            (".5", AmountFault::Malformed),
            ("5.", AmountFault::Malformed),
            ("+5", AmountFault::Malformed),
            (" 5", AmountFault::Malformed),
            ("1,5", AmountFault::Malformed),
            ("1_000", AmountFault::Malformed),
            ("1.2.3", AmountFault::Malformed),
            ("010", AmountFault::Malformed),
            ("0x10", AmountFault::Malformed),
            ("NaN", AmountFault::Malformed),
            ("\u{0665}", AmountFault::Malformed),
            ("-5", AmountFault::Negative),
            ("-0", AmountFault::Negative),
            ("1e3", AmountFault::Exponent),
            ("1E-3", AmountFault::Exponent),
            ("1.0000000000000000000", AmountFault::TooPrecise),
            ("100000000000000000000", AmountFault::TooLarge),
            (
                "340282366920938463463374607431768211456",
                AmountFault::TooLarge,
            ),
        ] {
            assert_eq!(ExactAmount::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn a_number_that_a_float_would_round_is_refused_while_its_text_is_not() {
        let digits = "9007199254740993";
        assert_eq!(
            ExactAmount::parse_number(digits),
            Err(AmountFault::Rounded),
            "2^53 + 1"
        );
        assert!(ExactAmount::parse(digits).is_ok());
        assert_eq!(
            ExactAmount::parse_number("0.00000123"),
            ExactAmount::parse("0.00000123"),
            "leading zeros are not significant"
        );
    }

    #[test]
    fn a_sum_or_product_beyond_the_range_is_none() {
        let (most, least) = (ExactAmount::MOST, ExactAmount(1));
        assert_eq!(most.plus(ExactAmount::ZERO), Some(most));
        assert_eq!(most.plus(least), None);
        assert_eq!(most.times(2), None);
        assert_eq!(most.times(u32::MAX), None);
        assert_eq!(least.times(3), Some(ExactAmount(3)));
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_read_as_the_same_amount(units in 0..LIMIT) {
            let amount = ExactAmount(units);
            prop_assert_eq!(ExactAmount::parse(&amount.to_string()), Ok(amount));
        }

        #[test]
        fn every_text_is_read_or_refused_and_never_panics(text in "\\PC{0,60}") {
            if let Ok(amount) = ExactAmount::parse(&text) {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
                prop_assert!(amount <= ExactAmount::MOST);
            }
        }

        #[test]
        fn a_sum_does_not_depend_on_the_order(units in prop::collection::vec(0..LIMIT / 8, 0..6)) {
            let sum = |units: Vec<u128>| {
                let mut amounts = units.into_iter().map(ExactAmount);
                amounts.try_fold(ExactAmount::ZERO, ExactAmount::plus)
            };
            let turned = units.iter().rev().copied().collect();
            prop_assert_eq!(sum(turned).map(ExactAmount::units), Some(units.iter().sum::<u128>()));
            prop_assert_eq!(sum(units.clone()).map(ExactAmount::units), Some(units.iter().sum::<u128>()));
        }
    }
}
