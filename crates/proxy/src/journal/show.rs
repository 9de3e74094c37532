//! Finding what was asked for: records before and after, brought together by request.

use std::collections::HashMap;
use std::io;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::folder::Folder;

/// What to look for; what is `None` matches everything.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The tenant or operator.
    pub party: Option<String>,
    /// The value of the idempotency key, or of an id GatePay gave.
    pub key: Option<String>,
    /// The request's id.
    pub id: Option<String>,
    /// Compared with the time of the record before.
    pub since: Option<Timestamp>,
    /// Likewise; calls of this very moment are left out.
    pub until: Option<Timestamp>,
}

/// One call: what was asked for, and what became of it if that is known.
#[derive(Debug)]
pub struct Call {
    /// The record before.
    pub before: Map<String, Value>,
    /// The record after.
    pub after: Option<Map<String, Value>>,
}

/// All calls that match, in the order they were written down. Lines that are no records are passed over: whether
/// they should be there is for [`verify`](super::verify::verify) to say.
pub fn show(folder: &impl Folder, wanted: &Wanted) -> io::Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    for part in folder.parts()? {
        let text = folder.read(part)?;
        for line in text.split(|byte| *byte == b'\n') {
            let Ok(Value::Object(record)) = serde_json::from_slice(line) else {
                continue;
            };
            let Some(id) = text_of(&record, "id").map(str::to_owned) else {
                continue;
            };
            match text_of(&record, "record") {
                Some("before") if wanted.may_match(&record) => {
                    positions.insert(id, calls.len());
                    calls.push(Call {
                        before: record,
                        after: None,
                    });
                }
                Some("after") => {
                    if let Some(position) = positions.remove(&id) {
                        calls[position].after = Some(record);
                    }
                }
                _ => {}
            }
        }
    }
    if let Some(key) = &wanted.key {
        calls.retain(|call| call.has_key(key));
    }
    Ok(calls)
}

impl Wanted {
    /// All but the key, which the record after may have as well.
    fn may_match(&self, before: &Map<String, Value>) -> bool {
        let is = |name, wanted: &Option<String>| {
            wanted.is_none() || text_of(before, name) == wanted.as_deref()
        };
        let time = text_of(before, "time").and_then(|time| time.parse().ok());
        is("party", &self.party)
            && is("id", &self.id)
            && self.since.is_none_or(|since| time >= Some(since))
            && self.until.is_none_or(|until| time < Some(until))
    }
}

impl Call {
    fn has_key(&self, key: &str) -> bool {
        let ids = self.after.as_ref().and_then(|after| after.get("ids"));
        let ids = ids.and_then(Value::as_object);
        text_of(&self.before, "key") == Some(key)
            || ids.is_some_and(|ids| ids.values().any(|id| id.as_str() == Some(key)))
    }
}

fn text_of<'a>(record: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    record.get(name)?.as_str()
}
