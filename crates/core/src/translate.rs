//! Translate: the rows that need more than a path prefix. A merchant call becomes an institution call with another
//! body, and the institution's answer becomes the merchant's answer (protocol.md 2).

use std::borrow::Cow;
use std::collections::HashSet;

use crate::body::BodyReading;
use crate::json::{self, JsonText};

/// The fields in which a merchant may name currencies; the page documents none of these fields.
const CURRENCY_FIELDS: [&str; 3] = ["currency", "currencies", "currencyList"];

/// The institution's balance query for a merchant's query: a JSON array of the caller's currencies, or of `default`.
pub fn balance_request<S: AsRef<str>>(sent: &BodyReading<'_>, default: &[S]) -> Vec<u8> {
    let mut currencies: Vec<String> = Vec::new();
    // Each currency occurs once, in the order of its first mention.
    let mut known = HashSet::new();
    for value in CURRENCY_FIELDS.iter().flat_map(|field| sent.values(field)) {
        for text in value.texts() {
            let words = text.split(',').map(str::trim);
            for currency in words.filter(|currency| !currency.is_empty()) {
                if known.insert(currency.to_owned()) {
                    currencies.push(currency.to_owned());
                }
            }
        }
    }
    let list: Vec<&str> = if currencies.is_empty() {
        default.iter().map(AsRef::as_ref).collect()
    } else {
        currencies.iter().map(String::as_str).collect()
    };
    serde_json::to_vec(&list).expect("strings always serialize")
}

/// The merchant's answer for an institution's answer: the member `balanceList` of `data` is renamed `balance_list`, and
/// the rest is unchanged. An answer of another shape, for example a refusal, is unchanged too.
pub fn balance_answer(body: &[u8]) -> Cow<'_, [u8]> {
    renamed(body).map_or(Cow::Borrowed(body), Cow::Owned)
}

fn renamed(body: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(body).ok()?;
    let data = member(text, "data").filter(|data| data.starts_with('{'))?;
    // The name stands before its value, and the value's address gives its offset in the text.
    let before = offset(text, member(data, "balanceList")?)?;
    let name = text[..before].rfind("\"balanceList\"")?;
    let between = &text[name + "\"balanceList\"".len()..before];
    if between.trim() != ":" {
        return None;
    }
    Some(
        [
            &text[..name],
            "\"balance_list\"",
            &text[name + "\"balanceList\"".len()..],
        ]
        .concat()
        .into_bytes(),
    )
}

/// The value of a member, verbatim: the last value, if several members have the name.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut last = None;
    let mut found = |other: &[u8], value: JsonText<'a>| {
        if other == name.as_bytes() {
            last = Some(value.as_str());
        }
    };
    json::read(text, &mut found).ok()?;
    last
}

/// The byte offset of a part of a text within the text.
fn offset(text: &str, part: &str) -> Option<usize> {
    (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    const DEFAULT: [&str; 2] = ["USDT", "BTC"];

    fn request(query: Option<&str>, body: &str) -> String {
        let catalogue = Catalogue::standard();
        let row = catalogue.named("query_balance").unwrap();
        let sent = BodyReading::read(row, query, body.as_bytes());
        String::from_utf8(balance_request(&sent, &DEFAULT)).unwrap()
    }

    #[test]
    fn currencies_of_a_balance_query_are_the_callers_or_the_default() {
        assert_eq!(request(None, ""), r#"["USDT","BTC"]"#);
        assert_eq!(request(Some("currency=GT"), ""), r#"["GT"]"#);
        assert_eq!(
            request(Some("currency=GT,%20ETH&currency=GT"), ""),
            r#"["GT","ETH"]"#
        );
        assert_eq!(
            request(None, r#"{"currencies":["GT","ETH"],"currency":null}"#),
            r#"["GT","ETH"]"#
        );
        assert_eq!(request(None, "not JSON"), r#"["USDT","BTC"]"#);
    }

    #[test]
    fn translation_of_a_batch_transfer_changes_only_the_name_of_the_list() {
        for (body, want) in [
            (
                r#"{"status":"SUCCESS", "code":"000000","data": {"x":"\"balanceList\"","balanceList" : [{"currency":"USDT","available":"1.0"}]}}"#,
                r#"{"status":"SUCCESS", "code":"000000","data": {"x":"\"balanceList\"","balance_list" : [{"currency":"USDT","available":"1.0"}]}}"#,
            ),
            (
                r#"{"data":{"balanceList":null}}"#,
                r#"{"data":{"balance_list":null}}"#,
            ),
            (
                r#"{"status":"FAIL","code":"400001","data":null}"#,
                r#"{"status":"FAIL","code":"400001","data":null}"#,
            ),
            (r#"{"balanceList":[]}"#, r#"{"balanceList":[]}"#),
            ("<html>", "<html>"),
        ] {
            assert_eq!(balance_answer(body.as_bytes()), want.as_bytes(), "{body}");
        }
    }
}
