//! Exact amounts of money: no floats.

use std::fmt;

/// Stored decimal places: the maximum of any currency on any chain.
const DECIMALS: usize = 18;
/// One whole unit.
const ONE: u128 = 10_u128.pow(18);
/// The rounding unit of conversions: 10^-8, as on exchanges.
const GRAIN: u128 = ONE / 10_u128.pow(8);
/// Maximum digits before the point. Every such amount fits: 10^20 · 10^18 is below 2^128.
const WHOLE_DIGITS: usize = 20;

/// An amount of at least zero, in units of 10^-18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(u128);

impl Amount {
    pub(crate) const ZERO: Self = Self(0);

    /// Reads digits with at most one point between them: no sign, no exponent, no white space.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, digits(fraction, DECIMALS)?),
            None => (text, ""),
        };
        let whole: u128 = digits(whole, WHOLE_DIGITS)?.parse().ok()?;
        let fraction: u128 = format!("{fraction:0<DECIMALS$}").parse().ok()?;
        Some(Self(whole * ONE + fraction))
    }

    /// Reads an amount above zero.
    pub(crate) fn positive(text: &str) -> Option<Self> {
        Self::parse(text).filter(|amount| *amount > Self::ZERO)
    }

    /// The sum of both amounts; `None` on overflow.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// This amount minus `other`; `None` if `other` is larger.
    pub(crate) fn minus(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// This amount times `count`; `None` on overflow.
    pub(crate) fn times(self, count: u32) -> Option<Self> {
        self.0.checked_mul(count.into()).map(Self)
    }

    /// `by / per` of this amount, in whole [`GRAIN`]s, rounded down; `None` on overflow.
    pub(crate) fn scaled_down(self, by: u32, per: u32) -> Option<Self> {
        let grains = self.0.checked_mul(by.into())? / (GRAIN * u128::from(per));
        Some(Self(grains * GRAIN))
    }

    /// `by / per` of this amount, in whole [`GRAIN`]s, rounded up; `None` on overflow.
    pub(crate) fn scaled_up(self, by: u32, per: u32) -> Option<Self> {
        let grains = self
            .0
            .checked_mul(by.into())?
            .div_ceil(GRAIN * u128::from(per));
        grains.checked_mul(GRAIN).map(Self)
    }

    /// Whether the amount has at most six decimal places, GatePay's maximum (schemas.md, general rules).
    pub(crate) fn fits_six_decimals(self) -> bool {
        self.0.is_multiple_of(ONE / 10_u128.pow(6))
    }
}

/// Accepts a text of one to `most` digits.
fn digits(text: &str, most: usize) -> Option<&str> {
    let fits = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    fits.then_some(text)
}

/// The shortest form: `1.2`, not `1.20`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / ONE, self.0 % ONE);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:0>DECIMALS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_is_digits_with_at_most_one_point_between() {
        for (text, shortest) in [
            ("0", "0"),
            ("0.0", "0"),
            ("1.20", "1.2"),
            ("007", "7"),
            ("0.000000000000000001", "0.000000000000000001"),
            (
                "99999999999999999999.999999999999999999",
                "99999999999999999999.999999999999999999",
            ),
        ] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), shortest);
        }
        for odd in [
            "",
            ".",
            "1.",
            ".1",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1e3",
            "1,5",
            "1.2.3",
            "NaN",
            "0x1",
            "١",
            "100000000000000000000",
            "0.0000000000000000001",
        ] {
            assert_eq!(Amount::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn subtracting_more_than_an_amount_is_refused() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!(amount("0.3").minus(amount("0.1")), Some(amount("0.2")));
        assert_eq!(amount("0.3").minus(amount("0.30")), Some(Amount::ZERO));
        assert_eq!(amount("0.3").minus(amount("0.300000000000000001")), None);
    }

    #[test]
    fn a_part_of_an_amount_is_rounded_to_eight_places() {
        let amount = |text| Amount::parse(text).unwrap();
        assert_eq!(amount("1").scaled_down(1, 3), Some(amount("0.33333333")));
        assert_eq!(amount("1").scaled_up(1, 3), Some(amount("0.33333334")));
        assert_eq!(amount("2").scaled_down(3, 4), Some(amount("1.5")));
        assert_eq!(amount("2").scaled_up(3, 4), Some(amount("1.5")));
        assert_eq!(Amount(u128::MAX).scaled_down(2, 2), None);
        assert_eq!(Amount(u128::MAX).scaled_up(1, 1), None);
    }

    #[test]
    fn six_decimals_are_counted_without_trailing_zeros() {
        let amount = |text| Amount::parse(text).unwrap();
        assert!(amount("1.123456000").fits_six_decimals() && amount("0").fits_six_decimals());
        assert!(!amount("1.0000001").fits_six_decimals());
    }

    proptest! {
        #[test]
        fn a_printed_amount_parses_to_itself(units in 0..10_u128.pow(38)) {
            let amount = Amount(units);
            prop_assert_eq!(Amount::parse(&amount.to_string()), Some(amount));
        }

        #[test]
        fn trailing_zeros_do_not_change_an_amount(whole in 0..1_000_000_u32, fraction in "[0-9]{1,9}", zeros in "0{0,9}") {
            let short = Amount::parse(&format!("{whole}.{fraction}"));
            prop_assert!(short.is_some());
            prop_assert_eq!(Amount::parse(&format!("{whole}.{fraction}{zeros}")), short);
        }

        #[test]
        fn parsing_an_amount_never_panics(text: String) {
            let _ = Amount::parse(&text);
        }
    }
}
