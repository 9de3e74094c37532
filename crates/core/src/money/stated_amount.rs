//! Stated amount: an amount of an object as GatePay states it.

use crate::currency_code::CurrencyCode;
use crate::exact_amount::ExactAmount;

/// An amount of an object as GatePay states it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatedAmount {
    /// The currency, if GatePay states it.
    pub currency: Option<CurrencyCode>,
    /// The amount.
    pub amount: ExactAmount,
}
