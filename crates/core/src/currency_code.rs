//! Currency code: the name of a currency, as amounts and the ledger have it.

use std::fmt;

/// A currency in upper case: 1 to 32 letters, digits, and any of `_`, `-` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CurrencyCode(String);

impl CurrencyCode {
    /// A currency, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        let is_code = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let is_currency = (1..=32).contains(&text.len()) && text.bytes().all(is_code);
        is_currency.then(|| Self(text.to_ascii_uppercase()))
    }

    /// The currency in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CurrencyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
