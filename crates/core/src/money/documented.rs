//! Documented fields: which fields of a money call say how much goes where, by its row; and whether a body has others.
//!
//! GatePay's refund calls resemble one another, and no page says that one of them leaves the fields of another alone. So a
//! field that would move money in another call has no certain reading in this one.

use super::{AmountPlace, DemandFault, FieldName, MoneyRow, TargetPlace};
use crate::body::{self, BodyReading};
use crate::header;
use crate::json::JsonText;
use crate::query::decode;
use crate::spelling::folded_name;
use crate::word_search::WordSearch;

/// The fields that say how much goes where. A lenient parser takes `refund_address` for `refundAddress`.
static FIELDS: [MoneyField; 21] = fields([
    "refundStyle",
    "refundAddress",
    "refundChain",
    "refundToGateUid",
    "refundAmount",
    "refundAmountTypeFull",
    "refundOrderAmount",
    "refundOrderCurrency",
    "refundPayAmount",
    "refundPayCurrency",
    "prepayId",
    "receiverId",
    "bankAccountId",
    "accountId",
    "sellAmount",
    "sellCurrency",
    "withdraw_list",
    "batchorderList",
    "amount",
    "currency",
    "memo",
]);
/// The fields of a list's item that say how much goes where.
static ITEM_FIELDS: [MoneyField; 6] =
    fields(["amount", "currency", "chain", "address", "memo", "user_id"]);
/// Words in the names of fields that say where money goes, without case and separators.
static TARGET_WORDS: WordSearch<18, 3> = WordSearch::new([
    "address",
    "chain",
    "memo",
    "receiver",
    "recipient",
    "payee",
    "beneficiary",
    "destination",
    "wallet",
    "iban",
    "gateuid",
    "userid",
    "accountid",
    "bankaccount",
    "refundstyle",
    "refundpaychannel",
    "withdrawlist",
    "batchorderlist",
]);
/// The fields among [`FIELDS`] that say how much.
const AMOUNTS: [&str; 11] = [
    "refundAmount",
    "refundAmountTypeFull",
    "refundOrderAmount",
    "refundOrderCurrency",
    "refundPayAmount",
    "refundPayCurrency",
    "prepayId",
    "sellAmount",
    "sellCurrency",
    "amount",
    "currency",
];

/// Whether a field says how much, or of which currency.
pub(super) fn is_of_amount(field: &str) -> bool {
    let others = [
        "count",
        "cryptoAmount",
        "fiatAmount",
        "cryptoCurrency",
        "fiatCurrency",
    ];
    AMOUNTS.contains(&field) || others.contains(&field)
}

/// The headers of a request that identify its signer (protocol.md 1.2), in lower case. The others of GatePay's name an account.
const OF_SIGNATURES: [&str; 5] = [
    header::CLIENT_ID,
    header::TIMESTAMP,
    header::NONCE,
    header::SIGNATURE,
    "x-gatepay-certificate-sn",
];
/// Fields that the published clients add to every body: the call's name among the library's, and a version.
const OF_CLIENTS: [&str; 2] = ["api", "version"];

/// Refuses a field that states something and is none of the call's documented fields, in any spelling, and a documented one
/// that holds fields of its own. So no field can name a target unseen.
pub(super) fn only_known(row: &MoneyRow, reading: &BodyReading<'_>) -> Result<(), DemandFault> {
    let list = match row.amounts {
        AmountPlace::Items { list, .. } => Some(list),
        _ => None,
    };
    let own = [row.fields, &OF_CLIENTS];
    for (name, value) in reading.top().filter(|(_, value)| states(*value)) {
        if are_headers(name, value) {
            continue;
        }
        let field = known(&own, name)?;
        if holds_fields(value) && Some(field) != list {
            return Err(DemandFault::Misshapen(field));
        }
    }
    for (name, value) in reading.parameters() {
        if !matches!(value, "" | "0") {
            known(&own, decode(name).as_bytes())?;
        }
    }
    Ok(())
}

/// As [`only_known`], of an item of the call's list.
pub(super) fn only_known_in_item(
    row: &MoneyRow,
    item: &BodyReading<'_>,
) -> Result<(), DemandFault> {
    for (name, value) in item.top().filter(|(_, value)| states(*value)) {
        let field = known(&[row.item_fields], name)?;
        if holds_fields(value) {
            return Err(DemandFault::Misshapen(field));
        }
    }
    Ok(())
}

/// The field of this name among the known ones. A name with an index or a key in brackets holds fields of its own.
fn known(fields: &[&[&'static str]], name: &[u8]) -> Result<&'static str, DemandFault> {
    let mut all = fields.iter().copied().flatten();
    // Nearly always a name is spelt as the page spells it, and that is found without folding.
    let spelt_alike = all.clone().find(|field| name == field.as_bytes());
    let is_plain = !name.contains(&b'[');
    let field = spelt_alike.or_else(|| {
        all.find(|field| is_plain && folded_name(field.as_bytes()).eq(folded_name(name)))
    });
    field
        .copied()
        .ok_or_else(|| DemandFault::Unknown(FieldName::of(name)))
}

/// Whether a value states anything. Clients send absent ones as null, empty, zero or false.
fn states(value: JsonText<'_>) -> bool {
    let text = value.as_str();
    let is_empty = |open: char, close: char| {
        let inner = text
            .strip_prefix(open)
            .and_then(|it| it.strip_suffix(close));
        inner.is_some_and(|inner| inner.trim().is_empty())
    };
    let is_absent = value.is_nothing()
        || matches!(text, "0" | "\"0\"" | "false")
        || is_empty('{', '}')
        || is_empty('[', ']');
    !is_absent
}

/// Whether a field is the published clients' copy of the headers that sign the request. The one for Go has it in every body.
fn are_headers(name: &[u8], value: JsonText<'_>) -> bool {
    let is_one_of = |names: &[&str], name: &[u8]| {
        let mut names = names.iter();
        names.any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    };
    let is_named = is_one_of(&["header", "headers"], name);
    let headers = is_named.then(|| BodyReading::of_object(value.as_str()));
    headers.flatten().is_some_and(|headers| {
        headers
            .top()
            .all(|(name, value)| is_one_of(&OF_SIGNATURES, name) && !holds_fields(value))
    })
}

fn holds_fields(value: JsonText<'_>) -> bool {
    value.as_str().starts_with(['{', '['])
}

/// What the names of a request, or of an item of its list, say about money. Each name is looked at once, whatever the number of
/// fields and words that it may be: a caller chooses how many names there are.
pub(super) struct MoneyNames {
    /// Whether a name is another spelling of a field that says how much goes where than in another case: `refund_address`,
    /// `refundAddress[0]`.
    pub(super) is_respelled: bool,
    /// A word for the first field that may name a target, and that no page describes for the call.
    pub(super) other_target: Option<&'static str>,
    /// The fields that say how much goes where and have a value, a bit for each by its place in the list of fields.
    stated: u32,
}

impl MoneyNames {
    /// The names of a call's request.
    pub(super) fn of_call(row: &MoneyRow, reading: &BodyReading<'_>) -> Self {
        let list = match row.amounts {
            AmountPlace::Items { list, .. } => Some(list),
            _ => None,
        };
        Self::of(reading, &FIELDS, &|field| {
            is_target(row, field) || list.is_some_and(|list| list.eq_ignore_ascii_case(field))
        })
    }

    /// The names of an item of the call's list.
    pub(super) fn of_item(row: &MoneyRow, item: &BodyReading<'_>) -> Self {
        let documented: &[&str] = match row.targets {
            TargetPlace::Users => &["user_id"],
            TargetPlace::Addresses => &["chain", "address", "memo"],
            _ => &[],
        };
        Self::of(item, &ITEM_FIELDS, &|field| is_one_of(documented, field))
    }

    /// A field that states an amount or a currency, and that no page describes for the call.
    pub(super) fn other_amount(&self, row: &MoneyRow) -> Option<&'static str> {
        let is_stated = |field: &&str| {
            let mut fields = FIELDS.iter().enumerate();
            fields.any(|(at, it)| it.name == *field && self.stated & (1 << at) != 0)
        };
        let mut others = AMOUNTS.into_iter().filter(|field| !is_amount(row, field));
        others.find(is_stated)
    }

    fn of(
        reading: &BodyReading<'_>,
        fields: &'static [MoneyField],
        is_documented: &dyn Fn(&str) -> bool,
    ) -> Self {
        let mut names = Self {
            is_respelled: false,
            other_target: None,
            stated: 0,
        };
        for (name, value) in reading.top() {
            names.take(name, fields, is_documented, &|| body::states(value));
        }
        for (name, value) in reading.parameters() {
            let name = decode(name);
            let states = || body::parameter_states(value);
            names.take(name.as_bytes(), fields, is_documented, &states);
        }
        names
    }

    fn take(
        &mut self,
        name: &[u8],
        fields: &'static [MoneyField],
        is_documented: &dyn Fn(&str) -> bool,
        is_stated: &dyn Fn() -> bool,
    ) {
        let letters = NameLetters::of(name);
        let alike = fields.iter().position(|field| field.letters == letters);
        if let Some(at) = alike {
            let is_field = name.eq_ignore_ascii_case(fields[at].name.as_bytes());
            self.is_respelled |= !is_field;
            if is_field && is_stated() {
                self.stated |= 1 << at;
            }
        }
        if self.other_target.is_none() {
            let word = TARGET_WORDS.first_in(folded_name(name));
            let is_other = || is_stated() && !str::from_utf8(name).is_ok_and(is_documented);
            self.other_target = word.filter(|_| is_other());
        }
    }
}

/// A field, with the letters of its name for comparisons.
struct MoneyField {
    name: &'static str,
    letters: NameLetters,
}

const fn fields<const N: usize>(names: [&'static str; N]) -> [MoneyField; N] {
    let mut fields = [const {
        MoneyField {
            name: "",
            letters: NameLetters::of(b""),
        }
    }; N];
    let mut at = 0;
    while at < N {
        fields[at] = MoneyField {
            name: names[at],
            letters: NameLetters::of(names[at].as_bytes()),
        };
        at += 1;
    }
    fields
}

/// The beginning of a [folded name](folded_name), which is all of it for the name of a field.
#[derive(PartialEq, Eq)]
struct NameLetters {
    length: usize,
    begin: [u8; LONGEST_FIELD],
}

const LONGEST_FIELD: usize = "refundAmountTypeFull".len();

impl NameLetters {
    const fn of(name: &[u8]) -> Self {
        let mut letters = Self {
            length: 0,
            begin: [0; LONGEST_FIELD],
        };
        let mut at = 0;
        while at < name.len() && name[at] != b'[' {
            if name[at].is_ascii_alphanumeric() {
                if letters.length < LONGEST_FIELD {
                    letters.begin[letters.length] = name[at].to_ascii_lowercase();
                }
                letters.length += 1;
            }
            at += 1;
        }
        letters
    }
}

fn is_target(row: &MoneyRow, field: &str) -> bool {
    let refund = [
        "refundStyle",
        "refundPayChannel",
        "refundAddress",
        "refundChain",
        "refundToGateUid",
        "memo",
    ];
    match row.targets {
        TargetPlace::None | TargetPlace::Users | TargetPlace::Addresses => false,
        TargetPlace::Refund => is_one_of(&refund, field),
        TargetPlace::User(own) | TargetPlace::Bank(own) | TargetPlace::Account(own) => {
            own.eq_ignore_ascii_case(field)
        }
    }
}

fn is_amount(row: &MoneyRow, field: &str) -> bool {
    match row.amounts {
        AmountPlace::Stated { amount, currency } => is_one_of(&[amount, currency], field),
        AmountPlace::OfOrder => {
            is_one_of(&["refundAmount", "refundAmountTypeFull", "prepayId"], field)
        }
        AmountPlace::Converted => {
            let order = ["refundOrderAmount", "refundOrderCurrency", "prepayId"];
            let paid = ["refundAmount", "refundPayAmount", "refundPayCurrency"];
            is_one_of(&order, field) || is_one_of(&paid, field)
        }
        AmountPlace::Items {
            common_currency, ..
        } => common_currency && field == "currency",
        AmountPlace::Cards => is_one_of(&["amount", "currency"], field),
        AmountPlace::Exchanged => false,
    }
}

fn is_one_of(fields: &[&str], field: &str) -> bool {
    fields.iter().any(|own| own.eq_ignore_ascii_case(field))
}
