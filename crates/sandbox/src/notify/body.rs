//! The bodies of notifications (protocol.md 5.1).

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::rules::news::{BusinessNews, NewsContent};

/// The form of a body. The default is the documentation's.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BodyForm {
    pub(crate) client_id: ClientIdMember,
    /// `data` is an object instead of JSON text in a string.
    pub(crate) has_plain_data: bool,
}

/// The member that has the application's client id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ClientIdMember {
    /// `client_id`.
    #[default]
    Snake,
    /// `clientId`.
    Camel,
    /// No member.
    Absent,
}

/// Members are in the order of the documentation's table.
#[derive(Serialize)]
struct NotificationEnvelope<'a> {
    #[serde(rename = "bizType")]
    kind: &'a str,
    #[serde(rename = "bizId")]
    id: &'a str,
    #[serde(rename = "bizStatus")]
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(rename = "clientId", skip_serializing_if = "Option::is_none")]
    camel_client_id: Option<&'a str>,
    data: Value,
}

#[derive(Serialize)]
struct PayoutBody {
    main_order: Value,
    suborders: Vec<Value>,
}

/// The body of the notification of one status. `kind` replaces the news' own kind, except of a payout, which shows none.
pub(crate) fn body(
    news: &BusinessNews,
    status: &str,
    kind: Option<&str>,
    client_id: &str,
    form: BodyForm,
) -> Bytes {
    match &news.content {
        NewsContent::Enveloped {
            kind: own,
            id,
            data,
        } => {
            let data = with_status(data, status, &news.statuses);
            json_bytes(&NotificationEnvelope {
                kind: kind.unwrap_or(own),
                id,
                status,
                client_id: (form.client_id == ClientIdMember::Snake).then_some(client_id),
                camel_client_id: (form.client_id == ClientIdMember::Camel).then_some(client_id),
                data: if form.has_plain_data {
                    data
                } else {
                    data.to_string().into()
                },
            })
        }
        NewsContent::Payout {
            main_order,
            sub_orders,
        } => {
            let mut main_order = main_order.clone();
            main_order["status"] = json!(status);
            match form.client_id {
                ClientIdMember::Snake => main_order["client_id"] = json!(client_id),
                ClientIdMember::Camel => main_order["clientId"] = json!(client_id),
                ClientIdMember::Absent => {}
            }
            json_bytes(&PayoutBody {
                main_order,
                suborders: sub_orders_under(status, sub_orders),
            })
        }
    }
}

/// The data of one status.
fn with_status(data: &Value, status: &str, statuses: &[&'static str]) -> Value {
    let mut data = data.clone();
    let follows = data.get("status").and_then(Value::as_str);
    if follows.is_some_and(|own| statuses.contains(&own)) {
        data["status"] = json!(status);
    }
    data
}

/// The sub-orders of a payout of this status. No page prints the status of a failed sub-order; it is the payout's here.
fn sub_orders_under(status: &str, sub_orders: &[Value]) -> Vec<Value> {
    let status_of = |position: usize| match status {
        "INIT" | "PROCESSING" => "PENDING",
        "FAIL" => "FAIL",
        "PARTIAL" if position > 0 => "FAIL",
        _ => "DONE",
    };
    let described = sub_orders.iter().enumerate().map(|(position, order)| {
        let mut order = order.clone();
        let status = status_of(position);
        order["status"] = json!(status);
        if status != "DONE" {
            order["done_amount"] = json!("0");
            order["tx_id"] = json!("");
            order["finish_time"] = json!(0);
        }
        order
    });
    described.collect()
}

fn json_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("a JSON value has text keys only")
        .into()
}
