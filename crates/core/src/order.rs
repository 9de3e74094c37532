//! Orders: the bodies and answers of create, query, close, refund and refund query, in GatePay's spelling.
//!
//! The models are for programs that write such bodies or read such answers. The proxy never parses and rewrites a body
//! that passes through. Amounts stay text. Undocumented fields survive in `extra`; an optional field that is null
//! counts as absent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Members that are not modeled.
pub type Extra = serde_json::Map<String, Value>;

/// The body of `POST /v1/pay/order`; its answer is [`CreatedOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateOrder {
    /// The merchant's own order number; makes a repetition harmless.
    pub merchant_trade_no: String,
    /// The kind of terminal the customer pays from.
    pub env: TerminalType,
    /// The order's currency, in upper case.
    pub currency: String,
    /// The order's amount: decimal text.
    pub order_amount: String,
    /// The goods the customer pays for.
    pub goods: OrderGoods,
    /// The expiry time in milliseconds since 1970; at most, and by default, one hour ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_expire_time: Option<i64>,
    /// The page that the customer reaches after paying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
    /// The page that the customer reaches after canceling the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_url: Option<String>,
    /// A free label of the merchant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<String>,
    /// The currency of the goods' price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fiat_currency: Option<String>,
    /// The amount in `fiat_currency`: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fiat_amount: Option<String>,
    /// The surcharge: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surcharge_amount: Option<String>,
    /// The currency the customer pays in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_currency: Option<String>,
    /// The amount in `pay_currency`: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_amount: Option<String>,
    /// The chain the customer pays on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The address the customer pays to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// GatePay's page does not explain the source type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_type: Option<String>,
    /// Ways to pay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_types: Option<Vec<String>>,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The kind of terminal a customer pays from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalType {
    /// `APP`, `WEB`, `WAP`, `MINIAPP` or `OTHERS`.
    pub terminal_type: String,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The goods of an order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderGoods {
    /// The name that the customer reads.
    pub goods_name: String,
    /// A longer description of the goods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goods_detail: Option<String>,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The data of an answer to [`CreateOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedOrder {
    /// GatePay's own id of the order.
    pub prepay_id: String,
    /// The terminal type, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminal_type: Option<String>,
    /// The expiry time in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<i64>,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The body of `POST /v1/pay/order/query`, answered by [`OrderData`], and of `…/close`, answered by [`ClosedOrder`].
/// One of the two ids is required.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderId {
    /// The merchant's own order number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merchant_trade_no: Option<String>,
    /// GatePay's own id of the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prepay_id: Option<String>,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The data of an answer to an order query.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderData {
    /// GatePay's own id of the order.
    pub prepay_id: String,
    /// GatePay's id of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merchant_id: Option<u64>,
    /// The merchant's own order number.
    pub merchant_trade_no: String,
    /// The id of the payment; empty until the order is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
    /// The goods' name, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goods_name: Option<String>,
    /// The order's currency, in upper case.
    pub currency: String,
    /// The order's amount: decimal text.
    pub order_amount: String,
    /// `PENDING`, `PAID`, `EXPIRED` and others.
    pub status: String,
    /// The creation time in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_time: Option<i64>,
    /// The expiry time in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<i64>,
    /// The payment time in milliseconds since 1970; 0 until the order is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transact_time: Option<i64>,
    /// GatePay's name for the order.
    #[serde(rename = "order_name", skip_serializing_if = "Option::is_none")]
    pub order_name: Option<String>,
    /// The currency of the payment.
    #[serde(rename = "pay_currency", skip_serializing_if = "Option::is_none")]
    pub pay_currency: Option<String>,
    /// The amount of the payment: decimal text.
    #[serde(rename = "pay_amount", skip_serializing_if = "Option::is_none")]
    pub pay_amount: Option<String>,
    /// The rate: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// The way of payment.
    #[serde(rename = "channel_type", skip_serializing_if = "Option::is_none")]
    pub channel_type: Option<String>,
    /// The amount in USDT: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_usdt: Option<String>,
    /// The URL of the application's logo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_logo: Option<String>,
    /// The name of the merchant's application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
    /// The merchant's label, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<String>,
    /// The total fee: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_fee_amount: Option<String>,
    /// The total settled: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_settle_amount: Option<String>,
    /// The payments, in a form that no page explains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pay_details: Option<Vec<Value>>,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The data of an answer to an order's close.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClosedOrder {
    /// `SUCCESS`.
    pub result: String,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The body of `POST /v1/pay/order/refund`; its answer is [`RefundData`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundOrder {
    /// The merchant's own refund number; makes a repetition harmless.
    pub refund_request_id: String,
    /// GatePay's own id of the order.
    pub prepay_id: String,
    /// The refund's amount: decimal text.
    pub refund_amount: String,
    /// The reason, for the customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_reason: Option<String>,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The body of `POST /v1/pay/order/refund/query`; its answer is [`RefundData`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundId {
    /// The merchant's own refund number.
    pub refund_request_id: String,
    /// Members that are not modeled, as sent.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The data of an answer to a refund or a refund query. An accepted refund is not yet executed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundData {
    /// The merchant's own refund number.
    pub refund_request_id: String,
    /// GatePay's own id of the order.
    pub prepay_id: String,
    /// The order's amount: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_amount: Option<String>,
    /// The refund's amount: decimal text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_amount: Option<String>,
    /// The refund's status; only the answer to a query has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_status: Option<String>,
    /// The merchant's label, as sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<String>,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

/// An answer in any of the envelopes GatePay prints (protocol.md 4.1). [`judge`](crate::envelope::judge) decides
/// whether the answer is a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderAnswer<T> {
    /// `SUCCESS` or `FAIL`, in either case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// GatePay's code: text or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Value>,
    /// The code as a word, on failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The code as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The sentence of an answer without `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Success as a boolean, in the answers of subscriptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<bool>,
    /// The data the caller asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<AnswerData<T>>,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The forms of `data` in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnswerData<T> {
    /// Data in a second envelope, as one page shows it.
    Wrapped(WrappedData<T>),
    /// The data itself.
    Plain(T),
    /// Any other value: `{}` of a failure, or JSON text in a string.
    Other(Value),
}

/// Data in a second envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WrappedData<T> {
    /// The second envelope's code: text or a number.
    pub biz_code: Value,
    /// The data itself, if present.
    pub biz_data: Option<T>,
    /// The code as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub biz_message: Option<String>,
    /// Members that are not modeled, as answered.
    #[serde(flatten)]
    pub extra: Extra,
}

impl<T: serde::de::DeserializeOwned> OrderAnswer<T> {
    /// The data the caller asked for, without its envelopes.
    pub fn into_data(self) -> Option<T> {
        match self.data? {
            AnswerData::Plain(data) => Some(data),
            AnswerData::Wrapped(wrapped) => wrapped.biz_data,
            AnswerData::Other(Value::String(text)) => serde_json::from_str(&text).ok(),
            AnswerData::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    /// Reads a value and writes it back.
    fn round_trip<T: Serialize + DeserializeOwned>(value: &Value) -> Value {
        let model: T = serde_json::from_value(value.clone()).unwrap();
        serde_json::to_value(&model).unwrap()
    }

    fn samples() -> Vec<Value> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/gatepay/samples.json"
        );
        let text = std::fs::read_to_string(path).unwrap();
        let mut file: Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(file["samples"].take()).unwrap()
    }

    #[test]
    fn every_published_order_sample_survives() {
        let samples = samples();
        assert_eq!(samples.len(), 4);
        for sample in samples {
            let (request, response) = (&sample["request"], &sample["response"]);
            let (request_back, response_back, data) = match sample["operation"].as_str() {
                Some("create order") => both::<CreateOrder, CreatedOrder>(request, response),
                Some("query order") => both::<OrderId, OrderData>(request, response),
                Some("close order") => both::<OrderId, ClosedOrder>(request, response),
                Some("refund order") => both::<RefundOrder, RefundData>(request, response),
                other => unreachable!("no model of {other:?}"),
            };
            assert_eq!(&request_back, request);
            assert_eq!(&response_back, response);
            assert_eq!(
                data, response["data"],
                "the data is read as the model, not as something else"
            );
        }
    }

    /// Request and response read and written back, and the response's data by itself.
    fn both<Q, A>(request: &Value, response: &Value) -> (Value, Value, Value)
    where
        Q: Serialize + DeserializeOwned,
        A: Serialize + DeserializeOwned,
    {
        let answer: OrderAnswer<A> = serde_json::from_value(response.clone()).unwrap();
        let data = serde_json::to_value(answer.into_data().unwrap()).unwrap();
        (
            round_trip::<Q>(request),
            round_trip::<OrderAnswer<A>>(response),
            data,
        )
    }

    #[test]
    fn the_order_is_found_in_every_envelope_form() {
        let refund = json!({"refundRequestId": "1", "prepayId": "2", "refundStatus": "PROCESSING"});
        for data in [
            refund.clone(),
            json!({"bizCode": "000000", "bizData": refund, "bizMessage": ""}),
            json!(refund.to_string()),
        ] {
            let value = json!({"status": "success", "code": 0, "data": data, "traceId": "t"});
            assert_eq!(round_trip::<OrderAnswer<RefundData>>(&value), value);
            let answer: OrderAnswer<RefundData> = serde_json::from_value(value).unwrap();
            assert_eq!(serde_json::to_value(answer.into_data()).unwrap(), refund);
        }
        for data in [json!(null), json!({}), json!([]), json!("")] {
            let value = json!({"code": null, "message": "x", "success": false, "data": data});
            let answer: OrderAnswer<RefundData> = serde_json::from_value(value).unwrap();
            assert_eq!(answer.into_data(), None);
        }
    }

    fn unknown_fields() -> impl Strategy<Value = Extra> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from)
        ];
        let value = leaf.prop_recursive(2, 8, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-z]{1,4}", inner), 0..4)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        });
        prop::collection::vec(("x_.{0,6}", value), 0..4)
            .prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        #[test]
        fn unknown_fields_of_an_order_survive(extra in unknown_fields(), which in 0_usize..4) {
            let sample = &samples()[which];
            let mut request = sample["request"].clone();
            let mut response = sample["response"].clone();
            for object in [&mut request, &mut response["data"]] {
                object.as_object_mut().unwrap().extend(extra.clone());
            }
            response.as_object_mut().unwrap().extend(extra.clone());
            let (request_back, response_back, data) = match which {
                0 => both::<CreateOrder, CreatedOrder>(&request, &response),
                1 => both::<OrderId, OrderData>(&request, &response),
                2 => both::<OrderId, ClosedOrder>(&request, &response),
                _ => both::<RefundOrder, RefundData>(&request, &response),
            };
            prop_assert_eq!(request_back, request);
            prop_assert_eq!(&response_back, &response);
            prop_assert_eq!(&data, &response["data"]);

            let mut query = json!({"refundRequestId": "1"});
            query.as_object_mut().unwrap().extend(extra);
            prop_assert_eq!(round_trip::<RefundId>(&query), query);
        }
    }
}
