//! The keys that `tenant set` and the columns of a list of tenants may name: those of the tenants' schema, as dotted paths.
//! Columns may name those of one cap too.

use serde_json::{Value, json};

use crate::schema;
use crate::syntax::problem::nearest;

/// A key of a tenant's table, and the form of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TenantKey {
    /// Dotted, as in `limits.requests_per_second`.
    pub(super) path: String,
    form: KeyForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyForm {
    Text,
    Integer,
    Flag,
    List,
}

/// A value that is written to a tenant's file; its reader judges it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyValue {
    Text(String),
    Integer(i64),
    Flag(bool),
    List(Vec<String>),
}

/// All keys with one value or a list of values, sorted by path. Lists of tables, such as `credential`, have commands of
/// their own.
pub(super) fn all() -> Vec<TenantKey> {
    let schema = schema::tenant();
    let mut keys = Vec::new();
    collect(&schema["definitions"]["tenant"], "", &mut keys);
    keys.sort_by(|one, other| one.path.cmp(&other.path));
    keys
}

/// The keys that a list's columns may name: [`all`], and those of one `[[cap]]`, as in `cap.per_day`.
pub(super) fn of_list() -> Vec<TenantKey> {
    let schema = schema::tenant();
    let mut keys = all();
    let cap = &schema["definitions"]["tenant"]["properties"]["cap"]["items"];
    collect(cap, "cap", &mut keys);
    keys.sort_by(|one, other| one.path.cmp(&other.path));
    keys
}

/// The key with this path, or the error that names the nearest.
pub(super) fn named<'a>(keys: &'a [TenantKey], path: &str) -> Result<&'a TenantKey, String> {
    if let Some(key) = keys.iter().find(|key| key.path == path) {
        return Ok(key);
    }
    // `sub-account` is how options spell it, and `burst` is the end of a path.
    let spelled = path.to_ascii_lowercase().replace(['-', ' '], "_");
    let paths = || keys.iter().map(|key| key.path.as_str());
    let same = paths().find(|known| *known == spelled);
    let tail = || paths().find(|known| known.rsplit('.').next() == Some(spelled.as_str()));
    let near = same.or_else(|| nearest(&spelled, paths()).first().copied());
    Err(match near.or_else(tail) {
        Some(near) => format!("unknown key (did you mean \"{near}\"?)"),
        None => "unknown key; `gatepay-proxy schema tenant` lists the keys".to_owned(),
    })
}

impl TenantKey {
    /// Reads a value as it is written in a cell or on the command line. The words of a list are separated by spaces, commas
    /// or semicolons.
    pub(super) fn read(&self, text: &str) -> Result<KeyValue, &'static str> {
        match self.form {
            KeyForm::Text => Ok(KeyValue::Text(text.to_owned())),
            KeyForm::Integer => {
                let digits = text.replace('_', "");
                let number = digits.parse().map_err(|_| "must be a whole number")?;
                Ok(KeyValue::Integer(number))
            }
            KeyForm::Flag => match text {
                "true" => Ok(KeyValue::Flag(true)),
                "false" => Ok(KeyValue::Flag(false)),
                _ => Err("must be true or false"),
            },
            KeyForm::List => {
                let words = text
                    .split([' ', '\t', ',', ';'])
                    .filter(|it| !it.is_empty());
                Ok(KeyValue::List(words.map(str::to_owned).collect()))
            }
        }
    }
}

impl KeyValue {
    pub(super) fn toml(&self) -> toml_edit::Value {
        match self {
            Self::Text(text) => text.into(),
            Self::Integer(number) => (*number).into(),
            Self::Flag(flag) => (*flag).into(),
            Self::List(words) => toml_edit::Value::Array(words.iter().collect()),
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Integer(number) => json!(number),
            Self::Flag(flag) => json!(flag),
            Self::List(words) => json!(words),
        }
    }
}

fn collect(table: &Value, path: &str, keys: &mut Vec<TenantKey>) {
    for (key, holds) in table["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let form = match holds["type"].as_str() {
            Some("object") => {
                collect(holds, &path, keys);
                continue;
            }
            Some("array") if holds["items"]["type"] == "object" => continue,
            Some("array") => KeyForm::List,
            Some("integer") => KeyForm::Integer,
            Some("boolean") => KeyForm::Flag,
            _ => KeyForm::Text,
        };
        keys.push(TenantKey { path, form });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_schema_without_credentials() {
        let keys = all();
        let paths: Vec<_> = keys.iter().map(|key| key.path.as_str()).collect();
        for path in ["id", "contact", "limits.money.burst", "notifications.url"] {
            assert!(paths.contains(&path), "{path} of {paths:?}");
        }
        assert!(!paths.iter().any(|path| path.starts_with("credential")));
    }

    #[test]
    fn a_list_may_name_the_keys_of_one_cap_too() {
        let keys = of_list();
        let paths: Vec<_> = keys.iter().map(|key| key.path.as_str()).collect();
        for path in ["cap.calls", "cap.currency", "cap.per_day", "cap.shadow"] {
            assert!(paths.contains(&path), "{path} of {paths:?}");
        }
        assert!(!all().iter().any(|key| key.path.starts_with("cap.")));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let keys = all();
        for (path, near) in [
            ("sub-account", "sub_account"),
            ("limits.brust", "limits.burst"),
            ("Contact", "contact"),
            ("in_flight", "limits.in_flight"),
        ] {
            let error = named(&keys, path).unwrap_err();
            assert!(error.contains(&format!("\"{near}\"")), "{path}: {error}");
        }
        assert!(named(&keys, "password").unwrap_err().contains("schema"));
    }

    #[test]
    fn a_value_has_the_form_of_its_key() {
        let keys = all();
        let read = |path: &str, text| named(&keys, path).unwrap().read(text);
        assert_eq!(read("weight", "1_000"), Ok(KeyValue::Integer(1_000)));
        assert!(read("weight", "much").is_err());
        let words = ["payment", "balance"].map(str::to_owned).to_vec();
        assert_eq!(
            read("operations.allow", "payment; balance"),
            Ok(KeyValue::List(words))
        );
        assert_eq!(read("shared_sub_account", "true"), Ok(KeyValue::Flag(true)));
        assert!(read("shared_sub_account", "yes").is_err());
        assert_eq!(
            read("sub_account", "0042"),
            Ok(KeyValue::Text("0042".to_owned()))
        );
    }
}
