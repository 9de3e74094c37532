//! The keys of `proxy.toml` with the values that stand there.

use serde_json::Value;

use crate::model::facts::ConfigFacts;
use crate::syntax::document;

/// The process's keys of `proxy.toml`, as they are written. The institution and the operations have facts of their
/// own. No secret can be among them: one that is written down is a problem, and then there is no configuration.
pub(crate) fn as_written(root: &document::ConfigTable) -> ConfigFacts {
    let mut facts = ConfigFacts::new();
    for (key, entry) in root {
        if !["institution", "operation"].contains(&key.as_str()) {
            flatten(key, &entry.node.value, &mut facts);
        }
    }
    facts
}

fn flatten(key: &str, value: &document::ConfigValue, facts: &mut ConfigFacts) {
    match value {
        document::ConfigValue::Table(table) => {
            for (inner, entry) in table {
                flatten(&format!("{key}.{inner}"), &entry.node.value, facts);
            }
        }
        value => {
            facts.insert(key.to_owned(), plain(value));
        }
    }
}

pub(crate) fn plain(value: &document::ConfigValue) -> Value {
    match value {
        document::ConfigValue::Text(text) | document::ConfigValue::Time(text) => {
            text.as_str().into()
        }
        document::ConfigValue::Integer(number) => (*number).into(),
        document::ConfigValue::Float(number) => (*number).into(),
        document::ConfigValue::Flag(flag) => (*flag).into(),
        document::ConfigValue::List(nodes) => nodes.iter().map(|node| plain(&node.value)).collect(),
        document::ConfigValue::Table(table) => {
            let entry = |(key, entry): (&String, &document::TableEntry)| {
                (key.clone(), plain(&entry.node.value))
            };
            Value::Object(table.iter().map(entry).collect())
        }
        document::ConfigValue::Null | document::ConfigValue::Recording(_) => Value::Null,
    }
}
