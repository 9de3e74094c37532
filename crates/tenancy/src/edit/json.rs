//! Edits of a JSON text that leave every other byte as it is.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::edit::new_credential::{EndingCredential, NewCredential, UneditableText};
use crate::edit::tenant_keys::KeyValue;

/// Says a tenant's standing.
pub(super) fn stand(
    text: &str,
    tenant: Option<usize>,
    standing: &str,
) -> Result<String, UneditableText> {
    let at = table(text, tenant)?;
    set(text, at, "standing", standing)
}

/// Sets the value at a path of keys in a tenant's object, or removes it.
pub(super) fn assign(
    text: &str,
    tenant: Option<usize>,
    path: &[&str],
    new: Option<&KeyValue>,
) -> Result<String, UneditableText> {
    let mut object = table(text, tenant)?;
    let (key, tables) = path.split_last().ok_or(UneditableText)?;
    for (depth, name) in tables.iter().enumerate() {
        let Ok(inner) = value(text, object.clone(), name) else {
            let Some(new) = new else {
                return Ok(text.to_owned());
            };
            let wrap = |inner: serde_json::Value, key: &&str| serde_json::json!({ *key: inner });
            let nested = path[depth + 1..].iter().rev().fold(new.json(), wrap);
            return set_raw(text, object, name, &nested.to_string());
        };
        object = inner;
    }
    match new {
        Some(new) => set_raw(text, object, key, &new.json().to_string()),
        None => remove_key(text, object, key),
    }
}

/// Removes a key with one comma: that before it, or for the first that after it.
fn remove_key(text: &str, object: Range<usize>, key: &str) -> Result<String, UneditableText> {
    let entries = entries(text, object.clone())?;
    let Some(at) = entries.iter().rposition(|(name, _)| name == key) else {
        return Ok(text.to_owned());
    };
    let end = entries[at].1.end;
    let begin = match at.checked_sub(1) {
        Some(before) => entries[before].1.end,
        None => object.start + 1 + lead(text, object.clone()).len(),
    };
    let cut = match (at, entries.get(1)) {
        // Up to the quotation mark that the next key begins with.
        (0, Some((_, place))) => {
            let between = &text[end..place.start];
            let quote = between.find('"').ok_or(UneditableText)?;
            begin..end + quote
        }
        _ => begin..end,
    };
    Ok(spliced(text, cut, ""))
}

/// Dates these of a tenant's credentials, and adds one if there is a new one.
pub(super) fn rotate(
    text: &str,
    tenant: Option<usize>,
    ending: &[EndingCredential],
    not_after: &str,
    new: Option<&NewCredential<'_>>,
) -> Result<String, UneditableText> {
    let mut edited = text.to_owned();
    for end in ending {
        // Each edit moves the text after it.
        let credential = |edited: &str| {
            let credentials = credentials(edited, tenant)?;
            let at = items(edited, credentials)?.get(end.index).cloned();
            at.ok_or(UneditableText)
        };
        if let Some(not_before) = &end.not_before {
            edited = set(&edited, credential(&edited)?, "not_before", not_before)?;
        }
        edited = set(&edited, credential(&edited)?, "not_after", not_after)?;
    }
    let Some(new) = new else {
        return Ok(edited);
    };
    let at = credentials(&edited, tenant)?;
    push(&edited, at, new)
}

/// Takes a tenant's object out of a file of many.
pub(super) fn remove(text: &str, tenant: usize) -> Result<String, UneditableText> {
    let tenants = items(text, value(text, 0..text.len(), "tenant")?)?;
    let own = tenants.get(tenant).ok_or(UneditableText)?;
    // With it goes one comma: that before it, or for the first that after it.
    let cut = match (tenant.checked_sub(1), tenants.get(tenant + 1)) {
        (Some(before), _) => tenants[before].end..own.end,
        (None, Some(next)) => own.start..next.start,
        (None, None) => own.clone(),
    };
    Ok(spliced(text, cut, ""))
}

fn table(text: &str, tenant: Option<usize>) -> Result<Range<usize>, UneditableText> {
    let top = 0..text.len();
    let Some(index) = tenant else {
        return Ok(top);
    };
    let tenants = items(text, value(text, top, "tenant")?)?;
    tenants.get(index).cloned().ok_or(UneditableText)
}

fn credentials(text: &str, tenant: Option<usize>) -> Result<Range<usize>, UneditableText> {
    value(text, table(text, tenant)?, "credential")
}

/// Replaces the value of a key, or adds the key after the last.
fn set(text: &str, object: Range<usize>, key: &str, word: &str) -> Result<String, UneditableText> {
    set_raw(text, object, key, &quoted(word))
}

fn set_raw(
    text: &str,
    object: Range<usize>,
    key: &str,
    word: &str,
) -> Result<String, UneditableText> {
    if let Ok(old) = value(text, object.clone(), key) {
        return Ok(spliced(text, old, word));
    }
    let Some((_, last)) = entries(text, object.clone())?.pop() else {
        let inside = object.start + 1..object.end - 1;
        return Ok(spliced(text, inside, &format!(" {}: {word} ", quoted(key))));
    };
    let added = format!(",{}{}: {word}", lead(text, object), quoted(key));
    Ok(spliced(text, last.end..last.end, &added))
}

/// Adds a credential after the last, in the form that one has.
fn push(text: &str, list: Range<usize>, new: &NewCredential<'_>) -> Result<String, UneditableText> {
    let last = items(text, list.clone())?.pop().ok_or(UneditableText)?;
    let lead = lead(text, list);
    let (id, file) = (quoted(new.client_id), quoted(new.secret_file));
    let inner = self::lead(text, last.clone());
    let outer = match text[last.clone()].rfind('\n') {
        Some(_) => lead,
        None => "",
    };
    let object = match outer.rfind('\n') {
        Some(_) => format!(
            "{{{inner}\"client_id\": {id},{inner}\"secret\": {{ \"file\": {file} }}{outer}}}"
        ),
        None => format!("{{ \"client_id\": {id}, \"secret\": {{ \"file\": {file} }} }}"),
    };
    let gap = if lead.is_empty() { " " } else { lead };
    Ok(spliced(
        text,
        last.end..last.end,
        &format!(",{gap}{object}"),
    ))
}

/// The space after the opening bracket, which is also that before each further item.
fn lead(text: &str, bracketed: Range<usize>) -> &str {
    let text = text[bracketed].trim_start();
    let inside = text.get(1..).unwrap_or_default();
    let space = inside.len() - inside.trim_start().len();
    &inside[..space]
}

fn spliced(text: &str, cut: Range<usize>, new: &str) -> String {
    [&text[..cut.start], new, &text[cut.end..]].concat()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where the value of a key stands. Of a key that comes twice the last counts, as for the reader of the file.
fn value(text: &str, object: Range<usize>, key: &str) -> Result<Range<usize>, UneditableText> {
    let entries = entries(text, object)?.into_iter();
    let mut found = entries.filter(|(name, _)| name == key);
    found.next_back().map(|(_, at)| at).ok_or(UneditableText)
}

fn entries(
    text: &str,
    object: Range<usize>,
) -> Result<Vec<(String, Range<usize>)>, UneditableText> {
    let JsonEntries(entries) = serde_json::from_str(&text[object]).map_err(|_| UneditableText)?;
    let place = |(key, raw): (String, &RawValue)| (key, place(text, raw));
    Ok(entries.into_iter().map(place).collect())
}

fn items(text: &str, list: Range<usize>) -> Result<Vec<Range<usize>>, UneditableText> {
    let items: Vec<&RawValue> = serde_json::from_str(&text[list]).map_err(|_| UneditableText)?;
    Ok(items.into_iter().map(|raw| place(text, raw)).collect())
}

/// `raw` is borrowed from `text`, so the distance of their beginnings is its offset.
fn place(text: &str, raw: &RawValue) -> Range<usize> {
    let raw = raw.get();
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.len()
}

/// The entries of an object, in their order.
struct JsonEntries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonEntries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = JsonEntries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(JsonEntries(entries))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: NewCredential<'_> = NewCredential {
        client_id: "new",
        secret_file: "../secrets/new.key",
    };

    fn end(index: usize) -> EndingCredential {
        EndingCredential {
            index,
            not_before: None,
        }
    }

    #[test]
    fn assigning_in_json_leaves_every_other_byte() {
        let number = KeyValue::Integer(80);
        let text = r#"{"id": "a", "limits": { "burst": 1,  "in_flight": 2 }, "tail": 1}"#;
        let path = ["limits", "burst"];
        let edited = |text, path: &[&str], value| assign(text, None, path, value).ok().unwrap();
        assert_eq!(
            edited(text, &path, Some(&number)),
            text.replace("\"burst\": 1", "\"burst\": 80")
        );
        assert_eq!(
            edited(text, &path, None),
            text.replace("\"burst\": 1,  ", "")
        );
        assert_eq!(
            edited(text, &["limits", "in_flight"], None),
            text.replace(",  \"in_flight\": 2", "")
        );
        assert_eq!(edited(text, &["limits", "money", "burst"], None), text);
        assert_eq!(
            edited(text, &["limits", "money", "burst"], Some(&number)),
            text.replace("2 }", "2, \"money\": {\"burst\":80} }")
        );
        assert_eq!(
            edited(r#"{"limits": {}}"#, &path, Some(&number)),
            r#"{"limits": { "burst": 80 }}"#
        );
        let note = KeyValue::Text("a \"b\"".to_owned());
        assert_eq!(
            edited(r#"{"id": "a"}"#, &["note"], Some(&note)),
            r#"{"id": "a","note": "a \"b\""}"#
        );
        assert_eq!(edited(r#"{"note": 1}"#, &["note"], None), "{}");
    }

    const PRETTY: &str = r#"{
  "id": "globex",
  "standing"  :  "active",
  "credential": [
    {
      "client_id": "old",
      "secret": { "file": "../secrets/old.key" }
    }
  ],
  "limits": {"burst": 7}
}
"#;

    #[test]
    fn setting_the_standing_in_json_changes_no_other_byte() {
        let edited = stand(PRETTY, None, "suspended").ok().unwrap();
        assert_eq!(edited, PRETTY.replace("\"active\"", "\"suspended\""));
        let edited = stand(
            "{\"tenant\": [{\"id\": \"a\"}, { \"id\": \"b\" }]}",
            Some(1),
            "read_only",
        );
        assert_eq!(
            edited.ok().unwrap(),
            "{\"tenant\": [{\"id\": \"a\"}, { \"id\": \"b\", \"standing\": \"read_only\" }]}"
        );
    }

    #[test]
    fn a_credential_added_to_json_follows_the_format_of_the_others() {
        let edited = rotate(PRETTY, None, &[end(0)], "2026-01-01T00:00:00Z", Some(&NEW))
            .ok()
            .unwrap();
        let old = "      \"secret\": { \"file\": \"../secrets/old.key\" }\n    }";
        let new = "      \"secret\": { \"file\": \"../secrets/old.key\" },\n      \
                   \"not_after\": \"2026-01-01T00:00:00Z\"\n    },\n    {\n      \"client_id\": \"new\",\n      \
                   \"secret\": { \"file\": \"../secrets/new.key\" }\n    }";
        assert_eq!(edited, PRETTY.replace(old, new));
        let short = r#"{"credential":[{"client_id":"old","not_after":"2027-01-01T00:00:00Z"}]}"#;
        assert_eq!(
            rotate(short, None, &[end(0)], "2026-01-01T00:00:00Z", Some(&NEW))
                .ok()
                .unwrap(),
            r#"{"credential":[{"client_id":"old","not_after":"2026-01-01T00:00:00Z"}, { "client_id": "new", "secret": { "file": "../secrets/new.key" } }]}"#
        );
    }

    #[test]
    fn removing_a_tenant_from_json_removes_one_comma() {
        let list = |items: &str| format!("{{ \"tenant\": [ {items} ] }}");
        let three = list("{\"id\":\"a\"}, {\"id\":\"b\"},\n{\"id\":\"c\"}");
        let without = |index| remove(&three, index).ok().unwrap();
        assert_eq!(without(0), list("{\"id\":\"b\"},\n{\"id\":\"c\"}"));
        assert_eq!(without(1), list("{\"id\":\"a\"},\n{\"id\":\"c\"}"));
        assert_eq!(without(2), list("{\"id\":\"a\"}, {\"id\":\"b\"}"));
        assert_eq!(remove(&list("{}"), 0).ok().unwrap(), list(""));
        assert!(remove(&three, 3).is_err());
    }
}
