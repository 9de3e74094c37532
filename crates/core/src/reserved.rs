//! Reserved names: names that a tenant must not use freely, in any spelling.

use std::borrow::Cow;

use crate::query::unhex;

/// The reserved names, by their letters. Parsers differ in which spellings they take for the same name, so every
/// spelling counts as the name: `merchantId`, `merchant_id` and `MERCHANT-ID[]` are equal here.
const NAMES: [(&str, ReservedName); 5] = [
    ("merchantid", ReservedName::Account("merchant_id")),
    ("clientid", ReservedName::Account(CLIENT_ID)),
    ("accountid", ReservedName::Account("accountId (account_id)")),
    ("submerchantid", ReservedName::Account("sub_merchant_id")),
    // GatePay calls this URL, and signs the call with the institution's secret (schemas.md, static address).
    ("callbackurl", ReservedName::Callback),
];
pub(crate) const CLIENT_ID: &str = "client_id";
/// The fewest bytes of a reserved name. Each letter has at least one.
const SHORTEST: usize = "clientid".len();

/// A name that a tenant must not use freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReservedName {
    /// The field names an account (schemas.md). The text is the field's name in refusals.
    Account(&'static str),
    /// The field makes GatePay call a URL.
    Callback,
}

impl ReservedName {
    pub(crate) fn of(name: &[u8]) -> Option<Self> {
        if name.len() < SHORTEST {
            return None;
        }
        let name = fold(name);
        let named = |(letters, _): &&(&str, Self)| has_letters(&name, letters);
        NAMES.iter().find(named).map(|(_, name)| *name)
    }
}

/// A name with its letters as a parser that ignores case takes them. Some letters outside ASCII differ from an ASCII
/// letter only in case (`ſ`, `ı`, `İ` and the Kelvin sign), or only in width (the wide letters of East Asian
/// typesetting).
fn fold(name: &[u8]) -> Cow<'_, [u8]> {
    if name.is_ascii() {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(fold_letters(name))
    }
}

#[cold]
fn fold_letters(name: &[u8]) -> Vec<u8> {
    let name = String::from_utf8_lossy(name);
    let narrow = name.chars().map(|letter| match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(letter) - 0xfee0).unwrap_or(letter),
        _ => letter,
    });
    let folded = narrow
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase);
    folded.collect::<String>().into_bytes()
}

/// Whether a name has the given letters, without regard to case, separators and an index.
///
/// The function is not inlined: inlining would make five copies, of which most names need only the length check.
#[inline(never)]
fn has_letters(name: &[u8], letters: &str) -> bool {
    if name.len() < letters.len() {
        return false;
    }
    let mut letters = letters.bytes();
    for byte in name {
        if *byte == b'[' {
            break;
        }
        if byte.is_ascii_alphanumeric() && letters.next() != Some(byte.to_ascii_lowercase()) {
            return false;
        }
    }
    letters.next().is_none()
}

/// Whether a reserved name occurs anywhere in a body, in any spelling, escape or width of characters.
///
/// Letters outside ASCII may stand for `i`, `k` or `s` (see [`fold`]), in any encoding. So the search ignores these
/// three letters in the names and in the body.
#[cold]
pub(crate) fn is_mentioned(body: &[u8]) -> bool {
    let keep = |letter: u8| {
        let letter = letter.to_ascii_lowercase();
        let kept = letter.is_ascii_lowercase() && !matches!(letter, b'i' | b'k' | b's');
        kept.then(|| char::from(letter))
    };
    let mut letters = String::with_capacity(body.len());
    let folded = fold(body);
    let mut rest = &*folded;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'\\', [b'u', a, b, c, d, after @ ..])
                if let (Some(high), Some(low)) = (unhex(*a, *b), unhex(*c, *d)) =>
            {
                (if high == 0 { low } else { 0 }, after)
            }
            _ => (*first, after),
        };
        letters.extend(keep(byte));
        rest = after;
    }
    NAMES.iter().any(|(name, _)| {
        let name: String = name.bytes().filter_map(keep).collect();
        letters.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every spelling of a reserved name is recognized, and no other name.
        #[test]
        fn a_reserved_name_is_recognized_in_any_case_and_separator(name in "[ms][a-z_]{0,3}(ub_?|erc[hH])?(ant|Id|_ID|[.-]id){0,2}[x\\[é]{0,2}[0-9]?|(?i)sub[_-]?merchant.?id.{0,2}|(?i)callback.url") {
            let plain: String = name.split('[').next().unwrap().to_uppercase().to_lowercase().chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|letter| letter.to_ascii_lowercase())
                .collect();
            let known = NAMES.iter().find(|(other, _)| *other == plain).map(|(_, name)| *name);
            prop_assert_eq!(ReservedName::of(name.as_bytes()), known);
        }
    }
}
