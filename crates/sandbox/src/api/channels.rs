//! A merchant's own channels, by `channelId`.
//!
//! No page shows the fields of a channel: in the documentation's forms an answer repeats the request. The types of
//! client libraries have several channels in a request, and name the fields of a list.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::config::AnswerForms;
use crate::rules::call::{LedgerCall, Outcome};
use crate::rules::page::ListPage;
use crate::wire::failure::ApiFailure;
use crate::wire::parameters::RequestParameters;

/// The name of the list in a request with several channels.
const LIST: &str = "merchantChannelList";

/// All channels, by account and `channelId`.
#[derive(Default)]
pub(crate) struct ChannelBook(BTreeMap<(String, String), PaymentChannel>);

#[derive(Clone)]
struct PaymentChannel {
    /// The channel's parameters, as sent.
    said: RequestParameters,
    created_ms: u64,
    updated_ms: u64,
}

/// `POST /v1/pay/channelmanage/save`. A second save replaces the first.
pub(crate) fn save(
    channels: &mut ChannelBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let ChannelBook(channels) = channels;
    let mut saved = Vec::new();
    for said in all(asked)? {
        let channel = PaymentChannel {
            said,
            created_ms: call.now,
            updated_ms: call.now,
        };
        saved.push((key(call, &channel.said)?, channel));
    }
    let answer = done(call, saved.iter().map(|(_, channel)| channel));
    channels.extend(saved);
    Ok(answer)
}

/// `GET /v1/pay/channelmanage/list`.
pub(crate) fn list(
    channels: &ChannelBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let page = ListPage::asked(asked, "page", "count")?;
    let mut wanted = Vec::new();
    for name in ["channelId", "desc", "channelType"] {
        wanted.extend(asked.optional_text(name)?.map(|value| (name, value)));
    }
    let ChannelBook(channels) = channels;
    let own: Vec<_> = channels
        .iter()
        .filter(|((account, _), _)| account == call.account)
        .map(|(_, channel)| channel)
        .filter(|channel| {
            let mut wanted = wanted.iter();
            wanted.all(|(name, value)| channel.said.echo_text(name) == *value)
        })
        .map(|channel| match call.forms {
            AnswerForms::Clients => channel.describe(),
            AnswerForms::Documentation => channel.as_sent(),
        })
        .collect();
    let name = match call.forms {
        AnswerForms::Clients => LIST,
        AnswerForms::Documentation => "list",
    };
    Ok(json!({"total": own.len(), name: page.of(&own)}))
}

/// `PUT /v1/pay/channelmanage/update`. Missing parameters keep their values. All channels are changed, or none.
pub(crate) fn update(
    channels: &mut ChannelBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let ChannelBook(channels) = channels;
    let mut updated = Vec::new();
    for said in all(asked)? {
        let key = key(call, &said)?;
        let known = channels
            .get(&key)
            .ok_or(ApiFailure::NotFound("channelId"))?;
        let mut channel = known.clone();
        channel.said.merge(&said);
        channel.updated_ms = call.now;
        updated.push((key, channel));
    }
    let answer = done(call, updated.iter().map(|(_, channel)| channel));
    channels.extend(updated);
    Ok(answer)
}

/// `DELETE /v1/pay/channelmanage/delete`.
pub(crate) fn delete(
    channels: &mut ChannelBook,
    call: LedgerCall<'_>,
    asked: &RequestParameters,
) -> Outcome {
    let ChannelBook(channels) = channels;
    let deleted = channels.remove(&key(call, asked)?);
    let deleted = deleted.ok_or(ApiFailure::NotFound("channelId"))?;
    Ok(done(call, [&deleted].into_iter()))
}

/// The channels of a request: the elements of its list, or without a list the request itself.
fn all(asked: &RequestParameters) -> Result<Vec<RequestParameters>, ApiFailure> {
    let lists = asked.echo_list(LIST);
    if lists.as_array().is_none_or(Vec::is_empty) {
        return Ok(vec![asked.clone()]);
    }
    asked.objects(LIST)
}

fn key(call: LedgerCall<'_>, said: &RequestParameters) -> Result<(String, String), ApiFailure> {
    Ok((call.account.to_owned(), said.id("channelId")?.to_owned()))
}

/// The answer to a change. Client libraries expect an object without members.
fn done<'c>(
    call: LedgerCall<'_>,
    mut channels: impl ExactSizeIterator<Item = &'c PaymentChannel>,
) -> Value {
    match (call.forms, channels.len()) {
        (AnswerForms::Clients, _) => json!({}),
        (AnswerForms::Documentation, 1) => channels.next().map(PaymentChannel::as_sent).into(),
        (AnswerForms::Documentation, _) => channels.map(PaymentChannel::as_sent).collect(),
    }
}

impl PaymentChannel {
    fn as_sent(&self) -> Value {
        self.said.members().clone().into()
    }

    /// The channel in the form of client libraries' types. Times are text: some libraries expect text, and the library
    /// that expects a number reads such text too.
    fn describe(&self) -> Value {
        json!({
            "channelId": self.said.echo_text("channelId"),
            "desc": self.said.echo_text("desc"),
            "channelType": self.said.echo_text("channelType"),
            "email": self.said.echo_text("email"),
            "chain": self.said.echo_text("chain"),
            "currency": self.said.echo_text("currency"),
            "address": self.said.echo_text("address"),
            "customFields": self.said.echo_list("customFields"),
            "createTime": self.created_ms.to_string(),
            "updateTime": self.updated_ms.to_string(),
            "result": "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{OTHER, TestDesk};

    #[test]
    fn a_channel_is_saved_updated_listed_and_deleted() {
        let mut desk = TestDesk::documented();
        desk.get(
            "save_channel",
            &json!({"channelId": "c", "name": "Shop", "city": "Berlin"}),
        );
        let updated = desk.get(
            "update_channel",
            &json!({"channelId": "c", "name": "Store"}),
        );
        assert_eq!(
            updated,
            json!({"channelId": "c", "name": "Store", "city": "Berlin"})
        );
        let list = desk.get("list_channels", &json!({}));
        assert_eq!(list, json!({"total": 1, "list": [updated]}));

        let by_id = json!({"channelId": "c"});
        let strange = desk.ask(OTHER, "delete_channel", &by_id);
        assert_eq!(strange, Err("400202".to_owned()));
        desk.get("delete_channel", &by_id);
        assert_eq!(desk.refusal("delete_channel", &by_id), "400202");
        assert_eq!(desk.refusal("update_channel", &by_id), "400202");
    }

    #[test]
    fn several_channels_are_saved_and_updated_together() {
        let mut desk = TestDesk::new();
        let list = |channels: Value| json!({"channelId": "", "merchantChannelList": channels});
        let saved = list(json!([
            {"channelId": "a", "desc": "Shop", "customFields": [{"code": "1", "name": "n", "value": "v"}]},
            {"channelId": "b", "desc": "Stall"},
        ]));
        assert_eq!(desk.get("save_channel", &saved), json!({}));
        desk.now += 5;
        let half_known = list(json!([{"channelId": "a", "desc": "x"}, {"channelId": "c"}]));
        assert_eq!(desk.refusal("update_channel", &half_known), "400202");
        let renamed = list(json!([{"channelId": "b", "desc": "Store", "chain": ""}]));
        assert_eq!(desk.get("update_channel", &renamed), json!({}));

        let all = desk.get("list_channels", &json!({"page": 1, "Count": 2}));
        let [a, b] = [0, 1].map(|position| &all["merchantChannelList"][position]);
        assert_eq!(all["total"], 2);
        assert_eq!((&a["desc"], &b["desc"]), (&json!("Shop"), &json!("Store")));
        assert_eq!(a["customFields"][0]["value"], "v");
        assert_ne!(b["createTime"], b["updateTime"]);
        let one = desk.get("list_channels", &json!({"channelId": "b"}));
        assert_eq!(one["merchantChannelList"], json!([b]));

        assert_eq!(
            desk.get("delete_channel", &json!({"channelId": "b"})),
            json!({})
        );
        assert_eq!(desk.get("list_channels", &json!({}))["total"], 1);
    }
}
