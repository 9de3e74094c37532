//! Ledger rows: the fields of calls and answers that hold [ledger keys](crate::ledger_key).
//!
//! A call that makes something is recorded twice. Its **intents** are numbers that the caller chose, recorded before the
//! call is sent. GatePay's **own ids** come with GatePay's answer. [`ROWS`] names the fields of both for every row of
//! the catalogue that writes or moves money (protocol.md 5.3, schemas.md).

use crate::body::{BodyReading, BodyValue};
use crate::currency_code::CurrencyCode;
use crate::envelope::{self, AnswerVerdict};
use crate::ledger_key::{HintStrength, LedgerKey, LedgerKeyKind, key_text};
use crate::operation::Operation;
use crate::spelling::folded_name;
use crate::word_search::WordSearch;

/// The fields of a body or of an answer's data that form one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFields {
    /// The namespace of the key.
    pub kind: LedgerKeyKind,
    /// One field, or two.
    pub fields: &'static [&'static str],
}

/// The keys of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerRow {
    /// The operation's name in the catalogue.
    pub operation: &'static str,
    /// Fields of the call: numbers that the caller chooses.
    pub intents: &'static [KeyFields],
    /// Fields of the answer's data: ids that GatePay makes.
    pub own_ids: &'static [KeyFields],
    /// Fields of the call that name the order that it closes.
    pub closes: &'static [KeyFields],
    /// Why the row has no intents; empty for a row with intents.
    pub reason: &'static str,
}

impl LedgerRow {
    /// The row of an operation. A read has none, and neither has an operation that only `proxy.toml` defines.
    pub fn of(operation: &Operation) -> Option<&'static Self> {
        row(&operation.name)
    }

    /// The operations that make an object of which a key of this kind is the caller's own number.
    pub fn made_by(kind: LedgerKeyKind) -> Vec<&'static str> {
        let makes = |row: &&Self| row.intents.iter().any(|intent| intent.kind == kind);
        ROWS.iter().filter(makes).map(|row| row.operation).collect()
    }

    /// The intents of a call. A field with several values gives a key for each, since GatePay may take any of them.
    pub fn intents(&self, call: &BodyReading<'_>) -> Vec<LedgerKey> {
        keys(self.intents, call)
    }

    /// The keys of the order that a call closes.
    pub fn closes(&self, call: &BodyReading<'_>) -> Vec<LedgerKey> {
        keys(self.closes, call)
    }

    /// GatePay's own ids in a complete answer to the call. An answer that is not a success, or that parsers may read in
    /// more than one way, has none.
    ///
    /// An id that reads like one of the call's intents is not GatePay's own: the caller chose it, and GatePay may have
    /// trimmed it or changed its case. A batch's id counts only beside a number of the call's own in plain ASCII, since
    /// GatePay may have read a number that this reading has not.
    pub fn own_ids(
        &self,
        operation: &Operation,
        call: &BodyReading<'_>,
        status: u16,
        answer: &[u8],
    ) -> Vec<LedgerKey> {
        let intents = self.intents(call);
        let chosen: Vec<&str> = intents.iter().map(LedgerKey::text).collect();
        self.own_ids_beside(operation, &chosen, status, answer)
    }

    /// GatePay's own ids in the object that a look-up of the call has found: those that prove an owner, and that the caller
    /// has not chosen.
    pub fn found_ids(&self, chosen: &[LedgerKey], object: &str) -> Vec<LedgerKey> {
        let reading = BodyReading::strict(object.as_bytes());
        if !reading.has_one_reading() {
            return Vec::new();
        }
        let mut ids = keys(self.own_ids, &reading);
        let is_chosen = |id: &LedgerKey| {
            chosen
                .iter()
                .any(|key| plain(key.text()).eq(plain(id.text())))
        };
        ids.retain(|id| id.kind().strength() == HintStrength::Certain && !is_chosen(id));
        ids
    }

    /// As [`own_ids`](Self::own_ids), for a call with known intents.
    pub fn own_ids_beside(
        &self,
        operation: &Operation,
        chosen: &[&str],
        status: u16,
        answer: &[u8],
    ) -> Vec<LedgerKey> {
        if self.own_ids.is_empty() {
            return Vec::new();
        }
        let verdict = envelope::judge(operation.kind, status, answer).verdict;
        if verdict != AnswerVerdict::Success {
            return Vec::new();
        }
        let ids = answered(self.own_ids, answer);
        without_echoes(ids, chosen)
    }

    /// The currency of the order that a call makes, as the call states it; `None` if it states another currency or amount beside,
    /// by which GatePay may go.
    pub fn called_currency(call: &BodyReading<'_>) -> Option<CurrencyCode> {
        let mut names = call.stated_names();
        let states_another =
            names.any(|name| OTHER_CURRENCIES.first_in(folded_name(&name)).is_some());
        let currency = call.only("currency").filter(|_| !states_another)?;
        CurrencyCode::parse(&currency)
    }

    /// The currency of the order that a call has made, as GatePay says it in a complete answer; `None` if no page documents it for
    /// the operation.
    pub fn answered_currency(
        &self,
        operation: &Operation,
        status: u16,
        answer: &[u8],
    ) -> Option<CurrencyCode> {
        let is_documented = self.operation == CURRENCY_IN_ANSWER;
        let is_made = || {
            let verdict = envelope::judge(operation.kind, status, answer).verdict;
            verdict == AnswerVerdict::Success
        };
        if !is_documented || !is_made() {
            return None;
        }
        let stated = of_objects(answer, |object| texts(object, "currency").collect());
        match &stated[..] {
            [only] => CurrencyCode::parse(only),
            _ => None,
        }
    }

    /// The keys of a call that only an audit journal knows: by the value of its idempotency key, which is the field `named`,
    /// and the ids of GatePay's that its answer had, if it succeeded.
    ///
    /// A number of two fields is not in a journal. What is longer than [`JOURNALED_LENGTH`] may have been cut there, and is
    /// left out.
    pub fn journaled<'i>(
        &self,
        (named, key): (&str, Option<&str>),
        id: impl Fn(&str) -> Option<&'i str>,
    ) -> Vec<LedgerKey> {
        let intents = self.intents.iter().filter(|it| it.fields == [named]);
        let mut keys: Vec<LedgerKey> = intents
            .filter_map(|intent| LedgerKey::new(intent.kind, key?))
            .collect();
        let whole = |field| id(field).filter(|id| id.chars().count() < JOURNALED_LENGTH);
        let ids = self.own_ids.iter().filter_map(|own| match own.fields {
            [field] => LedgerKey::new(own.kind, whole(field)?),
            [first, second] => LedgerKey::pair(own.kind, whole(first)?, whole(second)?),
            _ => None,
        });
        let chosen: Vec<&str> = key.into_iter().collect();
        keys.extend(without_echoes(ids.collect(), &chosen));
        keys
    }

    /// The fields of GatePay's own ids.
    pub fn own_id_fields(&self) -> impl Iterator<Item = &'static str> {
        self.own_ids
            .iter()
            .flat_map(|own| own.fields.iter().copied())
    }
}

/// The row of the operation with this name.
pub(crate) fn row(operation: &str) -> Option<&'static LedgerRow> {
    ROWS.iter().find(|row| row.operation == operation)
}

/// The operation whose page documents the order's `currency` in its answer (schemas.md).
const CURRENCY_IN_ANSWER: &str = "create_checkout_order";
/// Words in the names of fields that state another currency of an order, or an amount in one, without case and separators. No page
/// says which of several GatePay goes by.
static OTHER_CURRENCIES: WordSearch<3, 1> =
    WordSearch::new(["fiatcurrency", "fiatamount", "actualcurrency"]);

/// The number of characters at which an audit journal cuts an id.
pub const JOURNALED_LENGTH: usize = 64;

/// The ids that are GatePay's own beside the numbers that the caller chose.
pub(crate) fn without_echoes(mut ids: Vec<LedgerKey>, chosen: &[&str]) -> Vec<LedgerKey> {
    let is_chosen = |id: &LedgerKey| chosen.iter().any(|text| plain(text).eq(plain(id.text())));
    let is_clear = !chosen.is_empty() && chosen.iter().all(|text| text.is_ascii());
    let may_be_an_echo = |id: &LedgerKey| {
        matches!(
            id.kind(),
            LedgerKeyKind::PayoutId | LedgerKeyKind::RewardBatchId | LedgerKeyKind::GiftBatchId
        )
    };
    ids.retain(|id| !is_chosen(id) && (is_clear || !may_be_an_echo(id)));
    ids
}

/// The letters and digits of a text, in lower case.
fn plain(text: &str) -> impl Iterator<Item = char> {
    let letters = text.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_lowercase())
}

/// The keys in an answer's data. The data may be an object, a list of objects or JSON in a string, and one page wraps
/// it once more (protocol.md 4.1).
pub(crate) fn answered(wanted: &[KeyFields], answer: &[u8]) -> Vec<LedgerKey> {
    of_objects(answer, |object| keys(wanted, object))
}

/// What the objects of an answer's data hold.
fn of_objects<T>(answer: &[u8], read: impl Fn(&BodyReading<'_>) -> Vec<T>) -> Vec<T> {
    let whole = BodyReading::strict(answer);
    if !whole.has_one_reading() {
        return Vec::new();
    }
    let unescaped;
    let data = match whole.values("data").next() {
        None => return read(&whole),
        Some(BodyValue::Query(_)) => return Vec::new(),
        Some(BodyValue::Body(data)) => match data.text() {
            Some(text) => {
                unescaped = text;
                if !BodyReading::strict(unescaped.as_bytes()).has_one_reading() {
                    return Vec::new();
                }
                &*unescaped
            }
            None => data.as_str(),
        },
    };
    objects(data)
        .iter()
        .filter_map(|object| match object.values("bizData").next() {
            Some(wrapped) => wrapped.members().map(|inner| read(&inner)),
            None => Some(read(object)),
        })
        .flatten()
        .collect()
}

/// The object that a text is, or the objects of the list that it is.
fn objects(text: &str) -> Vec<BodyReading<'_>> {
    match BodyReading::of_object(text) {
        Some(object) => vec![object],
        None => BodyReading::objects_of_list(text),
    }
}

fn keys(wanted: &[KeyFields], reading: &BodyReading<'_>) -> Vec<LedgerKey> {
    let mut keys = Vec::new();
    for key in wanted {
        let mut found = match key.fields {
            [field] => texts(reading, field)
                .filter_map(|text| LedgerKey::new(key.kind, text))
                .collect(),
            [first, second] => pairs(key.kind, reading, first, second),
            _ => Vec::new(),
        };
        keys.append(&mut found);
    }
    keys.dedup();
    keys
}

fn pairs(
    kind: LedgerKeyKind,
    reading: &BodyReading<'_>,
    first: &str,
    second: &str,
) -> Vec<LedgerKey> {
    let seconds: Vec<String> = texts(reading, second).collect();
    let of_first = |first: String| {
        let pair = move |second: &String| LedgerKey::pair(kind, &first, second);
        seconds.iter().filter_map(pair).collect::<Vec<_>>()
    };
    texts(reading, first).flat_map(of_first).collect()
}

/// The values of a field that are texts or whole numbers.
fn texts(reading: &BodyReading<'_>, field: &str) -> impl Iterator<Item = String> {
    reading.values(field).filter_map(|value| key_text(&value))
}

const TRADE_NUMBER: &[KeyFields] = &[one(LedgerKeyKind::TradeNumber, &["merchantTradeNo"])];
const PREPAY_ID: &[KeyFields] = &[one(LedgerKeyKind::PrepayId, &["prepayId"])];
const REFUND: &[KeyFields] = &[
    one(LedgerKeyKind::RefundNumber, &["refundRequestId"]),
    one(LedgerKeyKind::OrderRefund, &["prepayId", "refundRequestId"]),
];
const TRANSFER_NUMBER: &[KeyFields] = &[one(LedgerKeyKind::TransferNumber, &["merchantBatchNo"])];

/// The keys of every operation that writes or moves money, in the catalogue's order.
///
/// The address of an *order* is no key: GatePay may give it to a later order of another account. `merchant_withdraw_id`
/// of a payout's sub-orders is no key either: each notification names the batch beside it.
pub const ROWS: &[LedgerRow] = &[
    made("create_order", TRADE_NUMBER, PREPAY_ID),
    LedgerRow {
        closes: &[
            one(LedgerKeyKind::PrepayId, &["prepayId"]),
            one(LedgerKeyKind::TradeNumber, &["merchantTradeNo"]),
        ],
        ..none("close_order", CHANGES)
    },
    made("refund_order", REFUND, &[]),
    made("create_native_order", TRADE_NUMBER, PREPAY_ID),
    made("create_checkout_order", TRADE_NUMBER, PREPAY_ID),
    made("refund_checkout_order", REFUND, &[]),
    made("refund_order_v2", REFUND, &[]),
    made("refund_order_v3", REFUND, &[]),
    made("create_address_order", TRADE_NUMBER, PREPAY_ID),
    made("refund_address_order", REFUND, &[]),
    made("refund_converted_address_order", REFUND, &[]),
    made(
        "save_fixed_address",
        &[one(LedgerKeyKind::AddressLabel, &["chain", "channelId"])],
        &[one(LedgerKeyKind::DepositAddress, &["chain", "address"])],
    ),
    made(
        "create_conversion",
        &[one(LedgerKeyKind::ConversionNumber, &["clientReqId"])],
        &[one(LedgerKeyKind::ConversionId, &["order_id"])],
    ),
    // The documentation's sample answers with another number than was sent (schemas.md).
    made(
        "create_payout",
        &[one(LedgerKeyKind::PayoutNumber, &["batch_id"])],
        &[one(LedgerKeyKind::PayoutId, &["batch_id"])],
    ),
    made(
        "create_batch_transfer",
        &[one(LedgerKeyKind::RewardNumber, &["merchant_batch_no"])],
        &[one(LedgerKeyKind::RewardBatchId, &["batch_id"])],
    ),
    made(
        "create_otc_order",
        &[one(LedgerKeyKind::OtcNumber, &["clientOrderId"])],
        &[one(LedgerKeyKind::OtcId, &["orderId"])],
    ),
    none("create_otc_bank", NOT_NOTIFIED),
    none("supplement_otc_bank", NOT_NOTIFIED),
    // The official client libraries decode the batch of the cards.
    LedgerRow {
        own_ids: &[one(LedgerKeyKind::GiftBatchId, &["batchId"])],
        ..none(
            "create_gift_card",
            "GatePay documents no number that the caller chooses",
        )
    },
    made(
        "save_plan",
        &[one(LedgerKeyKind::PlanNumber, &["merchantPlanNo"])],
        &[one(LedgerKeyKind::PlanId, &["planNo"])],
    ),
    made(
        "create_subscription",
        &[one(
            LedgerKeyKind::SubscriptionNumber,
            &["merchantSubscriptionOrderNo"],
        )],
        &[one(LedgerKeyKind::SubscriptionId, &["subscriptionOrderNo"])],
    ),
    none("complete_subscription", CHANGES),
    made(
        "deduct_subscription",
        &[one(LedgerKeyKind::DeductionNumber, &["merchantDeductNo"])],
        &[
            one(LedgerKeyKind::DeductionId, &["deductOrderNo"]),
            one(LedgerKeyKind::PaymentId, &["paymentOrderNo"]),
        ],
    ),
    none("create_product", NOT_NOTIFIED),
    none("save_channel", NOT_NOTIFIED),
    none("update_channel", NOT_NOTIFIED),
    none("delete_channel", NOT_NOTIFIED),
    none("mcp_call", "GatePay documents no field of its body"),
    // The account's id comes later, by notification. The caller is an operator, so the id shows no tenant.
    made(
        "create_account",
        &[one(LedgerKeyKind::AccountRequest, &["request_id"])],
        &[one(LedgerKeyKind::Account, &["account_id"])],
    ),
    none("update_account", CHANGES),
    none("create_fee_rule", NOT_NOTIFIED),
    none("upgrade_fee_rule", NOT_NOTIFIED),
    made("create_transfer", TRANSFER_NUMBER, &[]),
    made("create_charge", TRANSFER_NUMBER, &[]),
];

const CHANGES: &str = "it changes an object that another call made";
const NOT_NOTIFIED: &str = "GatePay documents no notification about what it makes";

const fn one(kind: LedgerKeyKind, fields: &'static [&'static str]) -> KeyFields {
    KeyFields { kind, fields }
}

const fn made(
    operation: &'static str,
    intents: &'static [KeyFields],
    own_ids: &'static [KeyFields],
) -> LedgerRow {
    LedgerRow {
        operation,
        intents,
        own_ids,
        closes: &[],
        reason: "",
    }
}

const fn none(operation: &'static str, reason: &'static str) -> LedgerRow {
    LedgerRow {
        reason,
        ..made(operation, &[], &[])
    }
}
