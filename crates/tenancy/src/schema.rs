//! JSON Schemas of the files, so that editors complete and check them.
//!
//! They are not written down anywhere: the readers themselves are run over nothing, and tell which keys they ask for and
//! what their parsers accept. So a schema knows a key exactly when its reader does. It says what can be said of a key by
//! itself; what keys have to do with each other, and with other files, is for `check`.

use std::path::Path;
use std::rc::Rc;

use gatepay_core::Catalogue;
use serde_json::{Value, json};

use crate::disk::file_stamp::FilesRead;
use crate::files::party_file::PartyBounds;
use crate::files::secrets::SecretSources;
use crate::files::{operations, operator_file, proxy_file, tenant_file};
use crate::model::claims::UniqueClaims;
use crate::model::notifications::EndpointBounds;
use crate::model::party::DEFAULT_WINDOW;
use crate::model::settings::SecretText;
use crate::syntax::problem::Problems;
use crate::syntax::schema_recorder::KeyRecorder;
use crate::syntax::table_reader::{SourceFile, TableReader};

/// The dialect that editors know best.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The schema of `proxy.toml`.
pub fn proxy() -> Value {
    let proxy = told(|mut reader, sources| {
        proxy_file::read(&mut reader, sources, &mut UniqueClaims::default());
        operations::read(&mut reader);
        reader.finish();
    });
    let mut schema = json!({ "$schema": DIALECT, "title": "gatepay-proxy: proxy.toml" });
    merge(&mut schema, &named(proxy));
    schema
}

/// The schema of a file with one tenant or several.
pub fn tenant() -> Value {
    let tenant = told(|reader, sources| {
        let (catalogue, endpoints) = (Catalogue::standard(), EndpointBounds::default());
        tenant_file::read(
            reader,
            terms(&catalogue, &endpoints),
            sources,
            &mut UniqueClaims::default(),
        );
    });
    one_or_many("tenant", &tenant)
}

/// The schema of a file with one operator or several.
pub fn operator() -> Value {
    let operator = told(|reader, sources| {
        let (catalogue, endpoints) = (Catalogue::standard(), EndpointBounds::default());
        operator_file::read(
            reader,
            terms(&catalogue, &endpoints),
            sources,
            &mut UniqueClaims::default(),
        );
    });
    one_or_many("operator", &operator)
}

fn terms<'a>(catalogue: &'a Catalogue, endpoints: &'a EndpointBounds) -> PartyBounds<'a> {
    PartyBounds {
        catalogue,
        window: DEFAULT_WINDOW,
        endpoints,
        has_store: true,
        approvers: None,
    }
}

/// The schema that a reader tells of itself.
fn told(read: impl FnOnce(TableReader<'_>, SecretSources<'_>)) -> Value {
    // Recording reads no file, so required keys are missing; that is no problem.
    let problems = Problems::default();
    let file = SourceFile {
        name: Path::new("").into(),
        problems: &problems,
    };
    let asked = Rc::new(KeyRecorder::default());
    let sources = SecretSources {
        text: SecretText::default(),
        folder: Path::new(""),
        env: &|_| None,
        elsewhere: false,
        reads: &FilesRead::default(),
    };
    read(TableReader::recording(file, Rc::clone(&asked)), sources);
    asked.schema()
}

/// A file is one table, or has a list of them and nothing else.
fn one_or_many(word: &str, table: &Value) -> Value {
    let keys = table["properties"].as_object().into_iter().flatten();
    let mut properties: Value = keys
        .map(|(key, _)| {
            (
                key.clone(),
                json!({ "$ref": format!("#/definitions/{word}/properties/{key}") }),
            )
        })
        .collect();
    properties[word] =
        json!({ "type": "array", "items": { "$ref": format!("#/definitions/{word}") } });
    named(json!({
        "$schema": DIALECT,
        "title": format!("gatepay-proxy: {word}"),
        "definitions": { word: table },
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "if": { "required": [word] },
        "then": { "propertyNames": { "enum": [word, "$schema"] } },
        "else": { "required": table["required"] },
    }))
}

/// A file may say which schema is its own.
fn named(mut schema: Value) -> Value {
    schema["properties"]["$schema"] = json!({ "type": "string" });
    schema
}

fn merge(schema: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        schema[key] = value.clone();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::files::written::plain;
    use crate::syntax::document;
    use crate::syntax::problem::Problem;

    type Root = BTreeMap<String, document::TableEntry>;

    fn config(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../config")
            .join(name)
    }

    /// As much of JSON Schema as these schemas use, and nothing else.
    fn accepts(schema: &Value, value: &Value, whole: &Value) -> bool {
        let Value::Object(rules) = schema else {
            panic!("{schema}")
        };
        let keys = || value.as_object().into_iter().flatten().map(|(key, _)| key);
        let all = |list: &Value, is: &dyn Fn(&str) -> bool| {
            list.as_array()
                .unwrap()
                .iter()
                .all(|it| is(it.as_str().unwrap()))
        };
        rules.iter().all(|(rule, said)| match rule.as_str() {
            "$schema" | "title" | "definitions" | "then" | "else" => true,
            "$ref" => {
                let pointer = said.as_str().unwrap().strip_prefix('#').unwrap();
                accepts(whole.pointer(pointer).unwrap(), value, whole)
            }
            "type" => match said.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                "boolean" => value.is_boolean(),
                other => panic!("{other}"),
            },
            "properties" => value.as_object().is_none_or(|object| {
                object.iter().all(|(key, value)| {
                    said.get(key)
                        .is_none_or(|schema| accepts(schema, value, whole))
                })
            }),
            "additionalProperties" => keys().all(|key| rules["properties"].get(key).is_some()),
            "required" => all(said, &|key| value.get(key).is_some()),
            "items" => value
                .as_array()
                .is_none_or(|items| items.iter().all(|it| accepts(said, it, whole))),
            "enum" => said.as_array().unwrap().contains(value),
            "const" => said == value,
            "not" => !accepts(said, value, whole),
            "anyOf" => said
                .as_array()
                .unwrap()
                .iter()
                .any(|schema| accepts(schema, value, whole)),
            "if" => {
                let branch = if accepts(said, value, whole) {
                    "then"
                } else {
                    "else"
                };
                accepts(&rules[branch], value, whole)
            }
            "propertyNames" => keys().all(|key| accepts(said, &json!(key), whole)),
            "minimum" => value
                .as_f64()
                .is_none_or(|number| number >= said.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|number| number <= said.as_f64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|items| json!(items.len()).as_u64() >= said.as_u64()),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| json!(items.len()).as_u64() <= said.as_u64()),
            "minProperties" => json!(keys().count()).as_u64() >= said.as_u64(),
            "maxProperties" => json!(keys().count()).as_u64() <= said.as_u64(),
            "format" => value
                .as_str()
                .is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok()),
            other => panic!("{other} is not known here"),
        })
    }

    fn json_of(root: Root) -> Value {
        plain(&document::ConfigValue::Table(root))
    }

    fn example(name: &str) -> Root {
        let path = config(name);
        let text = fs::read_to_string(&path).unwrap();
        document::parse(&path, &text).ok().unwrap()
    }

    /// The problems of a document that its reader finds, and that a schema could find too.
    fn complaints(of: &str, document: &Value) -> Vec<String> {
        let problems = Problems::default();
        let root = document::from_json(&document.to_string()).ok().unwrap();
        let file = SourceFile {
            name: Path::new("").into(),
            problems: &problems,
        };
        let sources = SecretSources {
            text: SecretText::default(),
            folder: Path::new("/nowhere"),
            env: &|_| None,
            elsewhere: true,
            reads: &FilesRead::default(),
        };
        let mut reader = TableReader::new(file, &root);
        let (catalogue, mut claims) = (Catalogue::standard(), UniqueClaims::default());
        let endpoints = EndpointBounds::default();
        match of {
            "proxy" => {
                proxy_file::read(&mut reader, sources, &mut claims);
                operations::read(&mut reader);
                reader.finish();
            }
            "tenant" => drop(tenant_file::read(
                reader,
                terms(&catalogue, &endpoints),
                sources,
                &mut claims,
            )),
            _ => drop(operator_file::read(
                reader,
                terms(&catalogue, &endpoints),
                sources,
                &mut claims,
            )),
        }
        problems.sorted().iter().map(Problem::to_string).collect()
    }

    fn all() -> [(&'static str, Value, &'static str); 3] {
        [
            ("proxy", proxy(), "proxy.toml"),
            ("tenant", tenant(), "tenants.d/acme.toml"),
            ("operator", operator(), "operators.d/backoffice.toml"),
        ]
    }

    #[test]
    fn the_checked_in_schemas_are_what_the_readers_tell() {
        for (name, schema, _) in all() {
            let file = format!("schema/{name}.schema.json");
            let checked_in = fs::read_to_string(config(&file)).unwrap_or_default();
            assert!(
                checked_in == format!("{schema:#}\n"),
                "its keys have changed: cargo run -p gatepay-proxy -- schema {name} > config/{file}"
            );
        }
    }

    #[test]
    fn the_example_files_match_their_schemas() {
        let others = [("tenant", tenant(), "tenants.d/globex.json")];
        for (name, schema, file) in all().into_iter().chain(others) {
            assert!(
                accepts(&schema, &json_of(example(file)), &schema),
                "{name}: {file}"
            );
        }
        let schema = tenant();
        let one = json_of(example("tenants.d/acme.toml"));
        let many = json!({ "$schema": "x", "tenant": [one, one] });
        assert!(accepts(&schema, &many, &schema));
        let mut both = many.clone();
        both["id"] = json!("acme");
        assert!(!accepts(&schema, &both, &schema));
        assert!(!accepts(&schema, &json!({}), &schema));
    }

    #[test]
    fn every_value_parser_records_the_values_it_accepts() {
        fn told(schema: &Value, path: &str) {
            for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
                assert_ne!(inner, &json!({}), "{path}.{key}");
                assert_ne!(inner["items"], json!({}), "{path}.{key}[]");
                told(inner, &format!("{path}.{key}"));
                told(&inner["items"], &format!("{path}.{key}[]"));
            }
        }
        for (name, schema, _) in all() {
            told(&schema, name);
            told(&schema["definitions"][name], name);
        }
    }

    /// The tables of a schema: where each is in a document that has all of them.
    fn tables(schema: &Value, at: &str, found: &mut Vec<(String, Value)>) {
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}/{key}");
            if inner["properties"].is_object() {
                tables(inner, &at, found);
            } else if inner["items"]["properties"].is_object() {
                tables(&inner["items"], &format!("{at}/0"), found);
            }
        }
        found.push((at.to_owned(), schema.clone()));
    }

    /// A value that a schema accepts.
    fn some(schema: &Value) -> Value {
        if let Some(word) = schema.get("const").or_else(|| schema["enum"].get(0)) {
            return word.clone();
        }
        match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("object"), _) => {
                // A secret has one of its keys.
                let most = schema["maxProperties"].as_u64().unwrap_or(99);
                let keys = schema["properties"].as_object().into_iter().flatten();
                let keys =
                    keys.filter(|(key, inner)| *key != "$schema" && inner["not"] != json!({}));
                keys.take(usize::try_from(most).unwrap())
                    .map(|(key, inner)| (key.clone(), some(inner)))
                    .collect()
            }
            (Some("array"), _) => json!([some(&schema["items"])]),
            (Some("string"), Some(_)) => json!("2026-01-01T00:00:00Z"),
            (Some("boolean"), _) => json!(true),
            (Some("integer"), _) => json!(schema["minimum"].as_u64().unwrap_or(1)),
            (Some("number"), _) => json!(0.5),
            _ => json!("word"),
        }
    }

    #[test]
    fn reader_and_schema_know_the_same_keys_and_types() {
        for (name, schema, _) in all() {
            let plain = if name == "proxy" {
                &schema
            } else {
                &schema["definitions"][name]
            };
            let full = some(plain);
            let unknown =
                |complaints: &[String]| complaints.iter().any(|it| it.contains("unknown key"));
            let said = complaints(name, &full);
            assert!(accepts(plain, &full, &schema), "{name}: {full}");
            assert!(!unknown(&said), "{name}: {said:?}");
            let typed = |it: &String| {
                [
                    "must be a table",
                    "must be a list",
                    "must be an integer",
                    "must be a string",
                    "must be true",
                    "is required",
                ]
                .iter()
                .any(|fault| it.contains(fault))
            };
            assert!(!said.iter().any(typed), "{name}: {said:?}");
            let mut found = Vec::new();
            tables(plain, "", &mut found);
            assert!(found.len() > 5, "{name}: {} tables", found.len());
            for (at, table) in found {
                let Some(before) = full.pointer(&at) else {
                    continue;
                };
                let mut keys: Vec<String> = before.as_object().unwrap().keys().cloned().collect();
                keys.push("hunter".to_owned());
                for key in keys {
                    let mut wrong = full.clone();
                    // No key holds a list of lists, or nothing at all.
                    wrong.pointer_mut(&at).unwrap()[&key] = json!([[null]]);
                    assert!(
                        !accepts(plain, &wrong, &schema),
                        "{name}: {at}/{key} in the schema"
                    );
                    let (now, before) = (complaints(name, &wrong), complaints(name, &full));
                    assert!(
                        now.iter().any(|it| !before.contains(it)),
                        "{name}: {at}/{key} in the reader: {now:?}"
                    );
                    assert_eq!(
                        unknown(&now),
                        key == "hunter",
                        "{name}: {at}/{key}: {now:?}"
                    );
                }
                for key in table["required"].as_array().into_iter().flatten() {
                    let key = key.as_str().unwrap();
                    let mut without = full.clone();
                    without
                        .pointer_mut(&at)
                        .unwrap()
                        .as_object_mut()
                        .unwrap()
                        .remove(key);
                    assert!(
                        !accepts(plain, &without, &schema),
                        "{name}: without {at}/{key}"
                    );
                    let said = complaints(name, &without);
                    assert!(
                        said.iter().any(|it| it.contains("is required")),
                        "{name}: without {at}/{key}: {said:?}"
                    );
                }
            }
        }
    }
}
