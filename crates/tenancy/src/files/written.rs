//! The keys of `proxy.toml` with the values that stand there.

use serde_json::Value;

use crate::model::facts::Facts;
use crate::syntax::document;

/// The process's keys of `proxy.toml`, as they are written. The institution and the operations have facts of their
/// own. No secret can be among them: one that is written down is a problem, and then there is no configuration.
pub(crate) fn as_written(root: &document::Table) -> Facts {
    let mut facts = Facts::new();
    for (key, entry) in root {
        if !["institution", "operation"].contains(&key.as_str()) {
            flatten(key, &entry.node.value, &mut facts);
        }
    }
    facts
}

fn flatten(key: &str, value: &document::Value, facts: &mut Facts) {
    match value {
        document::Value::Table(table) => {
            for (inner, entry) in table {
                flatten(&format!("{key}.{inner}"), &entry.node.value, facts);
            }
        }
        value => {
            facts.insert(key.to_owned(), plain(value));
        }
    }
}

pub(crate) fn plain(value: &document::Value) -> Value {
    match value {
        document::Value::Text(text) | document::Value::Time(text) => text.as_str().into(),
        document::Value::Integer(number) => (*number).into(),
        document::Value::Float(number) => (*number).into(),
        document::Value::Flag(flag) => (*flag).into(),
        document::Value::List(nodes) => nodes.iter().map(|node| plain(&node.value)).collect(),
        document::Value::Table(table) => {
            let entry =
                |(key, entry): (&String, &document::Entry)| (key.clone(), plain(&entry.node.value));
            Value::Object(table.iter().map(entry).collect())
        }
        document::Value::Null | document::Value::Question(_) => Value::Null,
    }
}
