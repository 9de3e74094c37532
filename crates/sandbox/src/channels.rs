//! A merchant's own channels, by `channelId`. No page shows their fields: what is sent is kept as it is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value, json};

use crate::Failure;
use crate::ledger::{Call, Ledger, Outcome};
use crate::page::Page;
use crate::parameters::Parameters;

/// All channels, by account and `channelId`.
#[derive(Default)]
pub(crate) struct Channels(BTreeMap<(String, String), Map<String, Value>>);

/// `POST /v1/pay/channelmanage/save`. A second save replaces the first.
pub(crate) fn save(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let Channels(channels) = &mut ledger.channels;
    channels.insert(key(call, asked)?, asked.members().clone());
    Ok(asked.members().clone().into())
}

/// `GET /v1/pay/channelmanage/list`.
pub(crate) fn list(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let page = Page::asked(asked, "page", "count")?;
    let Channels(channels) = &ledger.channels;
    let own: Vec<_> = channels
        .iter()
        .filter(|((account, _), _)| account == call.account)
        .map(|(_, channel)| channel)
        .collect();
    Ok(json!({"total": own.len(), "list": page.of(&own)}))
}

/// `PUT /v1/pay/channelmanage/update`. What is not said stays.
pub(crate) fn update(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let Channels(channels) = &mut ledger.channels;
    let channel = channels.get_mut(&key(call, asked)?);
    let channel = channel.ok_or(Failure::NotFound("channelId"))?;
    channel.extend(asked.members().clone());
    Ok(channel.clone().into())
}

/// `DELETE /v1/pay/channelmanage/delete`.
pub(crate) fn delete(ledger: &mut Ledger, call: Call<'_>, asked: &Parameters) -> Outcome {
    let Channels(channels) = &mut ledger.channels;
    match channels.entry(key(call, asked)?) {
        Entry::Occupied(channel) => Ok(channel.remove().into()),
        Entry::Vacant(_) => Err(Failure::NotFound("channelId")),
    }
}

fn key(call: Call<'_>, asked: &Parameters) -> Result<(String, String), Failure> {
    Ok((call.account.to_owned(), asked.id("channelId")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::{Desk, OTHER};

    #[test]
    fn a_channel_is_saved_updated_listed_and_deleted() {
        let mut desk = Desk::new();
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
}
