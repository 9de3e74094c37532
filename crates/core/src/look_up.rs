//! Look-up of a call's outcome: builds the question from the call's own key, and judges the answer.
//!
//! A look-up never proves that GatePay did *not* execute a call, for the call may still be under way. A look-up proves
//! execution only if the answer shows an object that this call alone creates, under the call's own key, with the values
//! that the call sent and no other amounts; and for a refund, whose number may be unique for its order only, if the answer
//! names the same order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::body::BodyReading;
use crate::envelope::{self, AnswerVerdict};
use crate::money::{MoneyPart, ObjectAmounts};
use crate::operation::{AnsweredAmounts, IdempotencyKey, Kind, LookUp, Method, Operation};
use crate::words::words;
use crate::{query, text};

/// The outcome of a call, as a look-up observed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObservedOutcome {
    /// GatePay has the object that this call creates.
    Found,
    /// GatePay has no object under the call's key, or an object with other values. The call may still be under way.
    NotFound,
    /// GatePay gave no conclusive answer.
    Unknown,
}

impl Serialize for ObservedOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

words!(ObservedOutcome { Found = "found", NotFound = "not_found", Unknown = "unknown" });

/// A look-up request, and the values that its answer is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUpQuestion {
    /// The query without `?`, if the look-up takes its parameters there.
    pub query: Option<String>,
    /// The body; empty if the look-up takes its parameters in the query.
    pub body: String,
    /// The call's key, as field and value.
    by: Vec<(String, String)>,
    /// Fields that the answer repeats, with the values that the call sent.
    same: Vec<(&'static str, String)>,
    /// The fields that name the order of a refund, and the order that the call refunds.
    of_order: Option<(&'static [&'static str], String)>,
    /// Where the answer states the amounts of the call.
    amounts: AnsweredAmounts,
    /// The amounts that the call asks for; empty if they are not known.
    asked: Vec<MoneyPart>,
    proves: bool,
}

/// The result of a [`LookUpQuestion`].
#[derive(Debug, Clone, Serialize)]
pub struct LookUpObservation {
    /// The observed outcome.
    pub observed: ObservedOutcome,
    /// GatePay's data about the call, as printed; `None` if GatePay has none.
    pub order: Option<Box<RawValue>>,
    /// The object in the data that is the call's, if it was found.
    #[serde(skip)]
    pub object: Option<String>,
    /// Whether GatePay has under the call's number a refund of another order, or of one that it does not name.
    #[serde(skip)]
    pub is_of_another_order: bool,
    /// The amounts of the object under the call's key, if the answer states them exactly.
    #[serde(skip)]
    pub amounts: Option<Box<ObjectAmounts>>,
    /// Whether these are not the amounts of the call. Then another call may have made the object; or this one, with amounts that
    /// GatePay states in other terms.
    #[serde(skip)]
    pub has_other_amounts: bool,
}

impl LookUpObservation {
    /// The observation without an answer.
    pub const UNKNOWN: Self = Self {
        observed: ObservedOutcome::Unknown,
        order: None,
        object: None,
        is_of_another_order: false,
        amounts: None,
        has_other_amounts: false,
    };
}

impl LookUpQuestion {
    /// The question to `row`, the look-up's own row, about a call. `None` if the call has no key, or gives the key two
    /// values.
    pub fn about(look_up: &LookUp, row: &Operation, sent: &BodyReading<'_>) -> Option<Self> {
        if sent.fault().is_some() {
            return None;
        }
        let by: Vec<_> = look_up
            .by
            .fields()
            .map(|field| Some((field.to_owned(), sent.only(field)?.into_owned())))
            .collect();
        let by: Vec<_> = match look_up.by {
            IdempotencyKey::Either(..) => by.into_iter().flatten().collect(),
            IdempotencyKey::None | IdempotencyKey::One(_) | IdempotencyKey::Both(..) => {
                by.into_iter().collect::<Option<_>>()?
            }
        };
        if by.is_empty() {
            return None;
        }
        let same = look_up.same.iter();
        let same = same.filter_map(|field| Some((*field, sent.only(field)?.into_owned())));
        let fields = by
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let fields = fields.chain(look_up.with.iter().copied());
        let (query, body) = match row.institution_method {
            Method::Get | Method::Delete => (Some(query::encode(fields)), String::new()),
            Method::Post | Method::Put => (None, object(fields)),
        };
        let order = (!look_up.of_order.is_empty()).then(|| sent.only("prepayId"));
        let proves = look_up.proves && order.as_ref().is_none_or(Option::is_some);
        let order = order.flatten().map(Cow::into_owned);
        Some(Self {
            query,
            body,
            same: same.collect(),
            of_order: order.map(|order| (look_up.of_order, order)),
            amounts: look_up.amounts,
            asked: Vec::new(),
            by,
            proves,
        })
    }

    /// The question about a call that asks for these amounts.
    #[must_use]
    pub fn asking_for(self, asked: Vec<MoneyPart>) -> Self {
        Self { asked, ..self }
    }

    /// Whether an answer can show that GatePay executed the call.
    pub fn can_prove(&self) -> bool {
        self.proves
    }

    /// Judges a complete answer.
    pub fn observe(&self, status: u16, body: &[u8]) -> LookUpObservation {
        let judgement = envelope::judge(Kind::Read, status, body);
        match judgement.verdict {
            AnswerVerdict::Unknown => LookUpObservation::UNKNOWN,
            AnswerVerdict::Failure => {
                let code = judgement.code;
                let absent = code.is_some_and(|code| is_absence(code.as_str()));
                LookUpObservation {
                    observed: if absent {
                        ObservedOutcome::NotFound
                    } else {
                        ObservedOutcome::Unknown
                    },
                    ..LookUpObservation::UNKNOWN
                }
            }
            AnswerVerdict::Success => text::decode(body)
                .and_then(|body| self.read(&body))
                .unwrap_or(LookUpObservation::UNKNOWN),
        }
    }

    fn read(&self, body: &str) -> Option<LookUpObservation> {
        let whole: Cow<'_, str> = match members(body).remove("data").map(RawValue::get) {
            Some(text) if text.starts_with('"') => Cow::Owned(serde_json::from_str(text).ok()?),
            Some(text) => Cow::Borrowed(text),
            None => Cow::Borrowed(body),
        };
        let data: Value = serde_json::from_str(&whole).ok()?;
        let things = things(whole.trim());
        let things: Vec<(&str, Value)> = things
            .into_iter()
            .filter_map(|text| Some((text, serde_json::from_str(text).ok()?)))
            .collect();
        let named = || things.iter().filter(|(_, thing)| self.names(thing));
        let own = named().find(|(_, thing)| self.is_of_order(thing));
        let Some((text_of_thing, thing)) = own.or_else(|| named().next()) else {
            // A list without the key shows that the object does not exist; any other answer proves nothing.
            return Some(LookUpObservation {
                observed: if is_list(&data) {
                    ObservedOutcome::NotFound
                } else {
                    ObservedOutcome::Unknown
                },
                ..LookUpObservation::UNKNOWN
            });
        };
        if self.of_order.is_some() && !self.is_of_order(thing) {
            // GatePay may have the call's refund as well: numbers may be unique for their order only.
            return Some(LookUpObservation {
                order: printed(body),
                is_of_another_order: true,
                ..LookUpObservation::UNKNOWN
            });
        }
        let agrees = self.same.iter().all(|(field, said)| {
            text(thing.get(*field)).is_none_or(|printed| agree(said, &printed))
        });
        let amounts = ObjectAmounts::read(self.amounts, text_of_thing);
        let mut stated = amounts.iter();
        let has_other_amounts = stated.any(|stated| !stated.may_be_of(&self.asked));
        let observed = match (agrees, self.proves && !has_other_amounts) {
            (false, _) => ObservedOutcome::NotFound,
            (true, true) => ObservedOutcome::Found,
            (true, false) => ObservedOutcome::Unknown,
        };
        Some(LookUpObservation {
            observed,
            order: printed(body),
            object: (observed == ObservedOutcome::Found).then(|| thing.to_string()),
            is_of_another_order: false,
            amounts: amounts.map(Box::new),
            has_other_amounts,
        })
    }

    /// Whether a looked-up refund is of the order that the call names; the first field that names one decides.
    fn is_of_order(&self, thing: &Value) -> bool {
        let Some((fields, order)) = &self.of_order else {
            return true;
        };
        let mut named = fields.iter().filter_map(|field| text(thing.get(*field)));
        named.next().is_some_and(|named| named == *order)
    }

    /// Whether an object has the key: at least one field of the key, and no field of the key with another value.
    fn names(&self, thing: &Value) -> bool {
        let mut named = false;
        self.by
            .iter()
            .all(|(field, value)| match text(thing.get(field)) {
                Some(printed) => {
                    named = true;
                    printed == *value
                }
                None => true,
            })
            && named
    }
}

/// Codes for an object that does not exist (protocol.md 4.2): order, refund, order at an address, refund at an address,
/// batch.
const ABSENT: [&str; 5] = ["400202", "400304", "500203", "500207", "550249"];

/// Whether a code says that the object does not exist.
pub(crate) fn is_absence(code: &str) -> bool {
    ABSENT.contains(&code)
}

/// A JSON object of these members.
pub(crate) fn object<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let members = fields.map(|(name, value)| (name.to_owned(), Value::from(value)));
    Value::Object(members.collect()).to_string()
}

/// The objects of an answer: the data itself, without the `bizData` wrapper of one page, and the items of its lists. Each as
/// text, in which numbers have all their digits.
fn things(whole: &str) -> Vec<&str> {
    let inner = members(whole)
        .remove("bizData")
        .map_or(whole, RawValue::get);
    let mut things = vec![inner];
    let lists: Vec<&str> = if inner.starts_with('[') {
        vec![inner]
    } else {
        let values = members(inner).into_values().map(RawValue::get);
        values.filter(|value| value.starts_with('[')).collect()
    };
    for list in lists {
        let items: Vec<&RawValue> = serde_json::from_str(list).unwrap_or_default();
        things.extend(items.into_iter().map(RawValue::get));
    }
    things
}

/// The members of an object; none of anything else.
fn members(text: &str) -> BTreeMap<String, &RawValue> {
    serde_json::from_str(text).unwrap_or_default()
}

/// Whether an answer's data is a list of objects, as opposed to an object that has lists.
fn is_list(whole: &Value) -> bool {
    match whole {
        Value::Array(_) => true,
        Value::Object(members) => {
            members.values().any(Value::is_array) && !members.values().any(Value::is_string)
        }
        _ => false,
    }
}

fn text(value: Option<&Value>) -> Option<Cow<'_, str>> {
    match value? {
        Value::String(text) if !text.is_empty() => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// Whether two texts are equal, or equal amounts: GatePay may print more zeros than the call sent.
fn agree(one: &str, other: &str) -> bool {
    one == other
        || shortest(one)
            .zip(shortest(other))
            .is_some_and(|(one, other)| one == other)
}

/// An amount without leading and trailing zeros, as whole and fraction.
fn shortest(amount: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    (!whole.is_empty() && is_digits(whole) && is_digits(fraction)).then(|| {
        (
            whole.trim_start_matches('0'),
            fraction.trim_end_matches('0'),
        )
    })
}

/// The `data` of an answer, or the whole answer if it has no `data`, as printed.
fn printed(body: &str) -> Option<Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct PrintedForm {
        data: Option<Box<RawValue>>,
    }
    match serde_json::from_str::<PrintedForm>(body) {
        Ok(PrintedForm { data: Some(data) }) => Some(data),
        _ => serde_json::from_str(body).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Catalogue;
    use crate::money::MoneyCall;

    fn question(call: &str, query: &str, body: &str) -> Option<LookUpQuestion> {
        let catalogue = Catalogue::standard();
        let look_up = catalogue.named(call).unwrap().look_up.clone().unwrap();
        let row = catalogue.named(look_up.operation).unwrap();
        let query = Some(query).filter(|query| !query.is_empty());
        let sent = BodyReading::read(catalogue.named(call).unwrap(), query, body.as_bytes());
        LookUpQuestion::about(&look_up, row, &sent)
    }

    fn observe(call: &str, body: &str, answer: &str) -> (ObservedOutcome, Option<String>) {
        let seen = question(call, "", body)
            .unwrap()
            .observe(200, answer.as_bytes());
        (
            seen.observed,
            seen.order.map(|order| order.get().to_owned()),
        )
    }

    #[test]
    fn a_question_is_asked_by_the_calls_own_key_as_its_row_takes_it() {
        for (call, body, asked_query, asked_body) in [
            (
                "create_order",
                r#"{"merchantTradeNo":"A-1","orderAmount":"1"}"#,
                None,
                r#"{"merchantTradeNo":"A-1"}"#,
            ),
            (
                "create_order",
                r#"{"merchantTradeNo":17}"#,
                None,
                r#"{"merchantTradeNo":"17"}"#,
            ),
            (
                "create_order",
                r#"{"MerchantTradeNo":"A-1"}"#,
                None,
                r#"{"merchantTradeNo":"A-1"}"#,
            ),
            (
                "close_order",
                r#"{"prepayId":"P","x":1}"#,
                None,
                r#"{"prepayId":"P"}"#,
            ),
            (
                "refund_order",
                r#"{"refundRequestId":"R &=+%é","prepayId":"P"}"#,
                Some("refundRequestId=R%20%26%3D%2B%25%C3%A9"),
                "",
            ),
            (
                "save_fixed_address",
                r#"{"channelId":"c","chain":"ETH"}"#,
                Some("channelId=c&chain=ETH"),
                "",
            ),
            (
                "create_payout",
                r#"{"batch_id":"b\"1"}"#,
                None,
                r#"{"batch_id":"b\"1","detail_status":"ALL"}"#,
            ),
        ] {
            let asked = question(call, "", body).unwrap();
            assert_eq!(asked.query.as_deref(), asked_query, "{call}");
            assert_eq!(asked.body, asked_body, "{call}");
        }
    }

    #[test]
    fn a_call_without_exactly_one_key_has_no_look_up() {
        for (call, query, body) in [
            ("create_order", "", "{}"),
            ("create_order", "", "not json"),
            ("create_order", "", r#"{"merchantTradeNo":""}"#),
            (
                "create_order",
                "merchantTradeNo=B",
                r#"{"merchantTradeNo":"A"}"#,
            ),
            (
                "create_order",
                "merchanttradeno=B",
                r#"{"MerchantTradeNo":"A"}"#,
            ),
            ("create_order", "merchantTradeNo=A;B", "{}"),
            ("save_fixed_address", "", r#"{"channelId":"c"}"#),
            ("close_order", "", r#"{"x":"1"}"#),
        ] {
            assert_eq!(question(call, query, body), None, "{call} {body}");
        }
        let both = question(
            "create_order",
            "merchantTradeNo=A",
            r#"{"merchantTradeNo":"A"}"#,
        );
        assert!(both.is_some(), "the same twice is one");
    }

    #[test]
    fn a_looked_up_call_is_found_if_key_and_price_agree() {
        let order = r#"{"merchantTradeNo":"A-1","orderAmount":"1.21","currency":"USDT"}"#;
        for (data, observed) in [
            (
                r#"{"merchantTradeNo":"A-1","orderAmount":"1.210","currency":"USDT"}"#,
                ObservedOutcome::Found,
            ),
            (
                r#"{"merchantTradeNo":"A-1","orderAmount":1.21}"#,
                ObservedOutcome::Found,
            ),
            (
                r#"{"bizCode":"","bizData":{"merchantTradeNo":"A-1"}}"#,
                ObservedOutcome::Found,
            ),
            (
                r#"{"merchantTradeNo":"A-1","orderAmount":"5"}"#,
                ObservedOutcome::NotFound,
            ),
            (
                r#"{"merchantTradeNo":"A-1","currency":"GT"}"#,
                ObservedOutcome::NotFound,
            ),
        ] {
            let answer = format!(r#"{{"status":"SUCCESS","code":"000000","data":{data}}}"#);
            assert_eq!(
                observe("create_order", order, &answer),
                (observed, Some(data.to_owned()))
            );
        }
        for data in [
            r#"{"merchantTradeNo":"B-1","orderAmount":"1.21"}"#,
            "null",
            "{}",
            "\"A-1\"",
        ] {
            let answer = format!(r#"{{"status":"SUCCESS","data":{data}}}"#);
            assert_eq!(
                observe("create_order", order, &answer),
                (ObservedOutcome::Unknown, None),
                "{data}"
            );
        }
    }

    #[test]
    fn a_looked_up_record_that_may_be_older_than_the_call_proves_nothing() {
        let answer = r#"{"status":"SUCCESS","data":{"merchantTradeNo":"A","status":"CLOSED"}}"#;
        let (observed, order) = observe("close_order", r#"{"merchantTradeNo":"A"}"#, answer);
        assert_eq!(observed, ObservedOutcome::Unknown);
        assert!(order.unwrap().contains("CLOSED"));
    }

    #[test]
    fn a_looked_up_refund_of_another_order_proves_nothing() {
        let seen = |call: &str, body: &str, refund: &str| {
            let answer = format!(
                r#"{{"status":"SUCCESS","code":"000000","data":{{"refundRequestId":"R-1"{refund}}}}}"#
            );
            let seen = question(call, "", body)
                .unwrap()
                .observe(200, answer.as_bytes());
            (seen.observed, seen.is_of_another_order)
        };
        let (found, unknown) = (ObservedOutcome::Found, ObservedOutcome::Unknown);
        let body = r#"{"refundRequestId":"R-1","prepayId":"506","refundAmount":"1"}"#;
        for call in [
            "refund_order",
            "refund_order_v2",
            "refund_order_v3",
            "refund_checkout_order",
            "refund_address_order",
            "refund_converted_address_order",
        ] {
            for (refund, expected) in [
                (r#","orderId":"506""#, (found, false)),
                (r#","orderId":506"#, (found, false)),
                (r#","prepayId":"506","orderId":"77""#, (found, false)),
                (r#","orderId":"507""#, (unknown, true)),
                (r#","prepayId":"507","orderId":"506""#, (unknown, true)),
                (r#","merchantTradeNo":"A-1""#, (unknown, true)),
                (r#","orderId":null"#, (unknown, true)),
                (
                    r#","orderId":"507","refundDetails":[{"refundRequestId":"R-1","orderId":"506"}]"#,
                    (found, false),
                ),
            ] {
                assert_eq!(seen(call, body, refund), expected, "{call} {refund}");
            }
            let without = r#"{"refundRequestId":"R-1"}"#;
            let expected = (unknown, false);
            assert_eq!(
                seen(call, without, r#","orderId":"506""#),
                expected,
                "{call}"
            );
            assert!(!question(call, "", without).unwrap().can_prove());
            assert!(question(call, "", body).unwrap().can_prove());
        }
    }

    #[test]
    fn a_looked_up_object_of_another_amount_proves_nothing() {
        let catalogue = Catalogue::standard();
        let (found, other) = (ObservedOutcome::Found, ObservedOutcome::Unknown);
        let seen = |call: &str, body: &str, data: &str| {
            let operation = catalogue.named(call).unwrap();
            let sent = BodyReading::read(operation, None, body.as_bytes());
            let demand = MoneyCall::new(operation, &sent).demand().unwrap();
            let asked = question(call, "", body).unwrap();
            let asked = asked.asking_for(demand.map_or_else(|_| Vec::new(), |it| it.parts));
            let answer = format!(r#"{{"status":"SUCCESS","code":"000000","data":{data}}}"#);
            let seen = asked.observe(200, answer.as_bytes());
            assert!(seen.order.is_some(), "{data}");
            assert_eq!(seen.object.is_some(), seen.observed == found, "{data}");
            (seen.observed, seen.amounts.is_some())
        };
        let payout = r#"{"batch_id":"B","withdraw_list":[
            {"merchant_withdraw_id":"1","currency":"USDT","amount":"1.50","chain":"ETH","address":"0xa"},
            {"merchant_withdraw_id":"2","currency":"ETH","amount":"2","chain":"ETH","address":"0xa"}]}"#;
        let paid =
            |list: &str| format!(r#"{{"batch_id":"B","status":"SUCCESS","withdraw_list":{list}}}"#);
        for (list, expected) in [
            (
                r#"[{"currency":"ETH","amount":2},{"currency":"USDT","amount":"1.5"}]"#,
                (found, true),
            ),
            (
                r#"[{"currency":"ETH","amount":"2"},{"currency":"USDT","amount":"1.500000000000000001"}]"#,
                (other, true),
            ),
            (r#"[{"currency":"USDT","amount":"1.5"}]"#, (other, true)),
            (
                r#"[{"currency":"ETH","amount":2},{"currency":"USDT","amount":"15E-1"}]"#,
                (found, true),
            ),
            (
                r#"[{"currency":"ETH","amount":2},{"currency":"USDT","amount":"1.5E+3"}]"#,
                (other, true),
            ),
            (
                r#"[{"currency":"BTC","amount":"2"},{"currency":"USDT","amount":"1.5"}]"#,
                (other, true),
            ),
            // What is not stated, or not exactly, speaks neither for nor against it.
            (
                r#"[{"currency":"ETH"},{"currency":"USDT","amount":"1.5"}]"#,
                (found, false),
            ),
            ("[]", (found, false)),
            ("null", (found, false)),
        ] {
            assert_eq!(
                seen("create_payout", payout, &paid(list)),
                expected,
                "{list}"
            );
        }
        let refund = r#"{"refundRequestId":"R","prepayId":"5","refundAmount":"9"}"#;
        let details = |more: &str| format!(r#"{{"refundRequestId":"R","orderId":"5"{more}}}"#);
        let nine =
            r#","requestAmount":"9","requestCurrency":"USDT","amount":"0.1","currency":"ETH""#;
        let cent =
            r#","requestAmount":"0.01","requestCurrency":"USDT","amount":"9","currency":"USDT""#;
        for call in ["refund_order", "refund_order_v2", "refund_address_order"] {
            let named = refund.replace('}', r#","receiverId":7}"#);
            let has_receiver = call == "refund_address_order";
            let body = if has_receiver { &*named } else { refund };
            assert_eq!(seen(call, body, &details(nine)), (found, true), "{call}");
            assert_eq!(seen(call, body, &details(cent)), (other, true), "{call}");
            assert_eq!(seen(call, body, &details("")), (found, false), "{call}");
        }
        // No page describes these details.
        assert_eq!(
            seen("refund_order_v3", refund, &details(cent)),
            (found, false)
        );
        let whole =
            r#"{"refundRequestId":"R","prepayId":"5","refundAmount":"9","refundAmountTypeFull":1}"#;
        assert_eq!(
            seen("refund_order_v2", whole, &details(cent)),
            (found, true),
            "the whole order"
        );
        let converted = r#"{"refundRequestId":"R","prepayId":"5","receiverId":7,"refundReason":"r","refundOrderAmount":"9",
            "refundOrderCurrency":"USDT","refundPayCurrency":"ETH","refundPayAmount":"0.1"}"#;
        assert_eq!(
            seen("refund_converted_address_order", converted, &details(nine)),
            (found, true)
        );
        assert_eq!(
            seen("refund_converted_address_order", converted, &details(cent)),
            (other, true)
        );
        let sale = r#"{"clientOrderId":"C","quoteToken":"q","bankAccountId":"1","cryptoCurrency":"USDT","fiatCurrency":"USD",
            "cryptoAmount":"5","fiatAmount":"4.9","type":"SELL"}"#;
        assert_eq!(seen("create_otc_order", sale, sale), (found, true));
        let larger = sale.replace(r#""5""#, r#""6""#);
        assert_eq!(seen("create_otc_order", sale, &larger), (other, true));
        let booking = r#"{"merchantBatchNo":"M","accountId":"7","currency":"USDT","amount":"5"}"#;
        assert_eq!(seen("create_charge", booking, booking), (found, true));
        let larger = booking.replace(r#""5""#, r#""6""#);
        let differs = (ObservedOutcome::NotFound, true);
        assert_eq!(seen("create_transfer", booking, &larger), differs);
    }

    #[test]
    fn a_failure_is_absence_only_by_its_code() {
        for (code, observed) in [
            ("400202", ObservedOutcome::NotFound),
            ("400304", ObservedOutcome::NotFound),
            ("400001", ObservedOutcome::Unknown),
            ("300000", ObservedOutcome::Unknown),
            ("400002", ObservedOutcome::Unknown),
        ] {
            let answer = format!(r#"{{"status":"FAIL","code":"{code}","data":null}}"#);
            assert_eq!(
                observe("refund_order", r#"{"refundRequestId":"R"}"#, &answer),
                (observed, None),
                "{code}"
            );
        }
    }

    #[test]
    fn a_look_up_in_a_list_finds_the_key_or_reports_it_missing() {
        let call = r#"{"request_id":"r"}"#;
        let list = |items: &str| {
            format!(r#"{{"status":"SUCCESS","data":{{"accounts":[{items}],"has_more":false}}}}"#)
        };
        let found = observe("create_account", call, &list(r#"{"request_id":"r"}"#));
        assert_eq!(found.0, ObservedOutcome::Found);
        let absent = observe("create_account", call, &list(r#"{"request_id":"s"}"#));
        assert_eq!(absent, (ObservedOutcome::NotFound, None));
    }
}
