use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::program::{Folder, Program, printed};
use crate::support::*;

/// The configuration in force, once its hash is known.
async fn config(program: &Program) -> Value {
    let begun = Instant::now();
    loop {
        let answer = program.admin("GET", "/config").await;
        let config: Value = serde_json::from_slice(&answer.body).unwrap();
        if !config["hash"].is_null() {
            return config;
        }
        assert!(begun.elapsed() < PATIENCE, "it has no hash");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The hash that `check` prints for the files.
fn checked(folder: &Folder) -> Value {
    let (said, code) = printed(&folder.run("check"));
    assert_eq!(code, Some(0), "{said}");
    let mut lines = said.lines();
    let hash = lines.find_map(|line| line.strip_prefix("configuration: "));
    hash.unwrap().into()
}

/// The labels of the series that names the configuration in force; only one such series exists at a time.
async fn series(program: &Program) -> Value {
    let answer = program.admin("GET", "/metrics").await;
    let text = answer.text();
    let lines = text.lines().filter_map(|line| {
        let hash = line.strip_prefix("gatepay_proxy_configuration_info{hash=\"")?;
        hash.strip_suffix("\"} 1")
    });
    let all: Vec<_> = lines.collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].into()
}

#[tokio::test]
async fn the_configuration_in_force_has_one_hash_everywhere() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    let program = Program::serve(&folder).await;
    let first = config(&program).await["hash"].clone();
    assert_eq!(
        [checked(&folder), series(&program).await],
        [first.clone(), first.clone()]
    );

    folder.tenant(&acme(), "standing = 'suspended'");
    folder.tenant(&globex(), "weight = 2");
    assert_eq!(program.reload("").await.0, 200);
    let second = config(&program).await["hash"].clone();
    assert_ne!(second, first);
    assert_eq!(
        [checked(&folder), series(&program).await],
        [second.clone(), second.clone()]
    );

    // A change that needs a restart is not in force.
    folder.proxy("checks = 'off'");
    assert_eq!(program.reload("").await.0, 200);
    let waiting = config(&program).await;
    assert_eq!(
        (&waiting["hash"], &waiting["restart"]),
        (&second, &json!(["checks"]))
    );
    assert_eq!(waiting["settings"]["checks"], "certain");
    assert_ne!(checked(&folder), second);

    folder.edit("proxy.toml", "checks = 'off'", "");
    for shop in [acme(), globex()] {
        folder.tenant(
            &shop,
            "limits = { in_flight = 1000, requests_per_second = 1000 }",
        );
    }
    assert_eq!(program.reload("").await.0, 200);
    let again = config(&program).await["hash"].clone();
    assert_eq!(
        [again, checked(&folder), series(&program).await],
        [&first; 3].map(Value::clone)
    );
}

#[tokio::test]
async fn every_key_is_told_with_what_is_in_force_of_it_and_no_secret() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.keeps_a_journal();
    folder.proxy("poll_ms = 3_600_000");
    let program = Program::serve(&folder).await;
    let told = config(&program).await;
    let settings = told["settings"].as_object().unwrap();
    assert_eq!(settings["listen.idle_timeout_ms"], 120_000, "by default");
    assert_eq!(settings["poll_ms"], 3_600_000, "as it is written");
    assert_eq!(settings["audit.key"], "(set)");
    assert_eq!(told["written"]["poll_ms"], 3_600_000);
    assert!(told["written"].get("listen.idle_timeout_ms").is_none());
    let institution = told["institution"].as_object().unwrap();
    assert!(institution.keys().any(|key| key.ends_with(INSTITUTION_ID)));
    let text = told.to_string();
    assert!(
        !text.contains("fake-") && !text.contains(INSTITUTION_SECRET),
        "{text}"
    );

    let schema = crate::metrics::read("schema/proxy.schema.json");
    let mut keys = BTreeSet::new();
    flatten(&serde_json::from_str(&schema).unwrap(), "", &mut keys);
    assert_eq!(settings.keys().cloned().collect::<BTreeSet<_>>(), keys);

    // A change that needs no restart is in force at once.
    folder.edit(
        "proxy.toml",
        "upstream = {",
        "upstream = { quota = { requests_per_second = 77 },",
    );
    assert_eq!(program.reload("").await.0, 200);
    let settings = config(&program).await["settings"].clone();
    assert_eq!(settings["upstream.quota.requests_per_second"], 77);
    assert_eq!(settings["poll_ms"], 3_600_000);
}

/// The keys of a schema, without keys that are no setting of the process. A secret is one key, wherever it is.
fn flatten(schema: &Value, place: &str, keys: &mut BTreeSet<String>) {
    for (name, inner) in schema["properties"].as_object().unwrap() {
        if place.is_empty() && ["$schema", "institution", "operation"].contains(&name.as_str()) {
            continue;
        }
        let key = format!("{place}{name}");
        let properties = inner.get("properties");
        if properties.is_some_and(|properties| properties.get("env").is_none()) {
            flatten(inner, &format!("{key}."), keys);
        } else {
            keys.insert(key);
        }
    }
}
