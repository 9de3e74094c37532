//! Money target: where a call sends money, for the list of allowed destinations.

use std::fmt;

/// Where a call sends money. Two equal targets have one text, which the store keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MoneyTarget {
    /// An address on a chain.
    Address {
        /// The chain's name, in upper case.
        chain: String,
        /// The address. The hex digits of an Ethereum-like address are in lower case; other addresses depend on case.
        address: String,
        /// The memo; empty if there is none.
        memo: String,
    },
    /// A Gate user.
    User(String),
    /// A bank account that the tenant registered.
    Bank(String),
    /// An account of the institution.
    Account(String),
}

/// A target, and where a body names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatedTarget {
    /// The target.
    pub target: MoneyTarget,
    /// The entry of the body.
    pub entry: TargetEntry,
}

/// An entry of a body: `refundAddress`, or `withdraw_list[2]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetEntry {
    /// The field, or the list.
    pub field: &'static str,
    /// The place in the list, from 0 on.
    pub index: Option<usize>,
}

/// The part of an address that has a second reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressPart {
    /// Its chain.
    Chain,
    /// The address on the chain.
    Address,
    /// Its memo.
    Memo,
}

/// The longest address, in bytes.
const LONGEST_ADDRESS: usize = 120;
/// The longest memo, in bytes.
const LONGEST_MEMO: usize = 80;

impl MoneyTarget {
    /// An address on a chain, if all parts can be written down without a second reading; else the first part that cannot.
    pub fn address(chain: &str, address: &str, memo: &str) -> Result<Self, AddressPart> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let is_chain = (1..=32).contains(&chain.len()) && chain.bytes().all(is_name);
        let is_address = (1..=LONGEST_ADDRESS).contains(&address.len())
            && address.bytes().all(|byte| byte.is_ascii_graphic());
        let is_memo = memo.len() <= LONGEST_MEMO
            && !memo.chars().any(char::is_control)
            && memo.trim() == memo;
        let hex = address
            .strip_prefix("0x")
            .filter(|hex| hex.len() == 40 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if !is_chain {
            return Err(AddressPart::Chain);
        }
        if !is_address {
            return Err(AddressPart::Address);
        }
        if !is_memo {
            return Err(AddressPart::Memo);
        }
        Ok(Self::Address {
            chain: chain.to_ascii_uppercase(),
            address: hex.map_or_else(|| address.to_owned(), |_| address.to_ascii_lowercase()),
            memo: memo.to_owned(),
        })
    }

    /// A Gate user.
    pub fn user(id: &str) -> Option<Self> {
        Self::id(id).map(Self::User)
    }

    /// A bank account that the tenant registered.
    pub fn bank(id: &str) -> Option<Self> {
        Self::id(id).map(Self::Bank)
    }

    /// The target for people. Its tenant chose the memo, so it stands between quotes, with escapes for all that is not plain to
    /// see: else it could look like another target.
    pub fn told(&self) -> String {
        match self {
            Self::Address {
                chain,
                address,
                memo,
            } if !memo.is_empty() => format!("address {chain} {address} memo {memo:?}"),
            other => other.to_string(),
        }
    }

    /// An id of 1 to 64 visible ASCII characters.
    pub(super) fn id(text: &str) -> Option<String> {
        let is_id =
            (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_id.then(|| text.to_owned())
    }
}

impl StatedTarget {
    /// A target that a field of its own names.
    pub(super) fn at(field: &'static str, target: MoneyTarget) -> Self {
        let entry = TargetEntry { field, index: None };
        Self { target, entry }
    }
}

impl fmt::Display for TargetEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => f.write_str(self.field),
            Some(index) => write!(f, "{}[{index}]", self.field),
        }
    }
}

impl fmt::Display for MoneyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                chain,
                address,
                memo,
            } if memo.is_empty() => write!(f, "address {chain} {address}"),
            Self::Address {
                chain,
                address,
                memo,
            } => write!(f, "address {chain} {address} {memo}"),
            Self::User(id) => write!(f, "user {id}"),
            Self::Bank(id) => write!(f, "bank {id}"),
            Self::Account(id) => write!(f, "account {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_one_target_and_another_spelling_of_a_base58_address_is_another() {
        let target = |chain: &str, address: &str, memo: &str| {
            let target = MoneyTarget::address(chain, address, memo).unwrap();
            target.to_string()
        };
        let evm = "0x52908400098527886E0F7030069857D2E4169EE7";
        assert_eq!(
            target("eth", evm, ""),
            target("ETH", &evm.to_lowercase(), "")
        );
        assert_ne!(target("BSC", evm, ""), target("ETH", evm, ""));
        assert_ne!(target("ETH", evm, "7"), target("ETH", evm, ""));
        let tron = "TQn9Y2khEsLJW1ChVWFMSMeRDow5KcbLSE";
        assert_ne!(
            target("TRX", tron, ""),
            target("TRX", &tron.to_lowercase(), "")
        );
    }

    #[test]
    fn a_part_with_a_second_reading_makes_no_target() {
        for (chain, address, memo, part) in [
            ("", "a", "", AddressPart::Chain),
            ("E T", "a", "", AddressPart::Chain),
            ("ETH", "", "", AddressPart::Address),
            ("ETH", "a b", "", AddressPart::Address),
            ("ETH", "\u{0430}", "", AddressPart::Address),
            ("ETH", "a", " 7", AddressPart::Memo),
            ("ETH", "a", "7\n", AddressPart::Memo),
        ] {
            assert_eq!(
                MoneyTarget::address(chain, address, memo),
                Err(part),
                "{chain} {address} {memo}"
            );
        }
    }

    #[test]
    fn the_longest_target_fits_into_a_text_of_the_store() {
        let longest = MoneyTarget::address(&"C".repeat(32), &"a".repeat(120), &"m".repeat(80));
        assert!(longest.unwrap().to_string().len() <= 256);
    }

    #[test]
    fn a_memo_looks_like_no_other_target() {
        let told = |memo: &str| MoneyTarget::address("ETH", "0xa", memo).unwrap().told();
        assert_eq!(told(""), "address ETH 0xa");
        assert_eq!(
            told("7, address ETH 0xb"),
            "address ETH 0xa memo \"7, address ETH 0xb\""
        );
        assert_eq!(
            told("\", user \u{202e}1\u{200b}"),
            "address ETH 0xa memo \"\\\", user \\u{202e}1\\u{200b}\""
        );
    }
}
