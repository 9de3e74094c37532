//! `/openapi.json` of the admin address, compared with what the running listener answers, without a store and with one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::support::program::{Folder, Program, printed, run};
use crate::support::{Answer, UNUSED};

/// Queries that name existing objects, so that an answer is more than the name of a missing parameter.
const QUERIES: [(&str, &str); 11] = [
    ("/-/institution/switch", "client_id=no-such-client"),
    (
        "/-/notifications/replay",
        "tenant=acme&since=2026-01-01T00:00:00Z",
    ),
    ("/-/notifications/test", "tenant=globex"),
    ("/-/notifications/enable", "tenant=globex"),
    ("/-/suspend", "tenant=acme"),
    ("/-/resume", "tenant=acme"),
    ("/-/halt", "scope=money"),
    ("/-/halt/end", "scope=money"),
    ("/ledger", "key=T-1"),
    ("/find", "id=T-1"),
    ("/tenants", "after=acme"),
];

/// A path of the description, with an id in place of `{id}`.
fn concrete(path: &str) -> String {
    let id = match path {
        "/tenants/{id}" => "acme",
        _ => "0199f0a4-0000-7000-8000-000000000000",
    };
    path.replace("{id}", id)
}

/// The description of one method of one path.
struct Described {
    path: String,
    method: String,
    operation: Value,
}

fn text_of(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

impl Described {
    /// Fails unless the description has this answer, with its media type and all members of its object. Returns the
    /// number of members.
    fn has(&self, answer: &Answer) -> usize {
        let text = text_of(answer);
        let what = format!("{} {}: {} {text}", self.method, self.path, answer.status);
        let described = &self.operation["responses"][answer.status.to_string()];
        assert!(described.is_object(), "not described: {what}");
        if answer.status != 200 {
            return 0;
        }
        let kind = answer.header("content-type").unwrap();
        let kind = kind.split(';').next().unwrap();
        let schema = &described["content"][kind]["schema"];
        assert!(schema.is_object(), "no {kind}: {what}");
        let body = serde_json::from_str(&text);
        let (Ok(Value::Object(body)), Some(properties)) = (body, schema["properties"].as_object())
        else {
            return 0;
        };
        for member in body.keys() {
            assert!(properties.contains_key(member), "no {member}: {what}");
        }
        body.len()
    }

    /// The names of the parameters in the query.
    fn parameters(&self) -> BTreeSet<&str> {
        let parameters = self.operation["parameters"].as_array();
        let parameters = parameters.into_iter().flatten();
        parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect()
    }
}

/// Everything that this process describes.
async fn described(program: &Program) -> Vec<Described> {
    let answer = program.admin("GET", "/openapi.json").await;
    let description = answer.json();
    let mut found = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            found.push(Described {
                path: path.clone(),
                method: method.to_uppercase(),
                operation: operation.clone(),
            });
        }
    }
    assert!(found.len() > 30);
    found
}

/// A running process, with a store and notifications or without.
async fn program(with_store: bool) -> (Folder, Program) {
    let folder = Folder::before(UNUSED);
    if with_store {
        folder.proxy(
            "timestamp = { future_ms = 300 }\nstore = { path = 'store/gatepay.db' }\n\
             notifications = { listen = '127.0.0.1:0', public_url = 'https://notify.example.com/gatepay' }",
        );
        fs::create_dir(folder.path("store")).unwrap();
        let migrate = ["store", "migrate", "--config", &folder.name("proxy.toml")];
        let (said, code) = printed(&run(&migrate));
        assert_eq!(code, Some(0), "{said}");
    }
    let program = Program::serve(&folder).await;
    program.until_ready().await;
    (folder, program)
}

#[tokio::test]
async fn every_answer_of_the_admin_address_is_in_its_description() {
    for with_store in [false, true] {
        let (_folder, program) = program(with_store).await;
        let mut members = 0;
        for one in described(&program).await {
            let path = concrete(&one.path);
            members += one.has(&program.admin(&one.method, &path).await);
            for (_, query) in QUERIES.iter().filter(|(of, _)| *of == path) {
                let path = format!("{path}?{query}");
                members += one.has(&program.admin(&one.method, &path).await);
            }
        }
        assert!(members > 50, "{members} members were compared");
    }
}

#[tokio::test]
async fn the_admin_address_answers_the_methods_of_its_description_and_no_other() {
    let (_folder, program) = program(false).await;
    let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in described(&program).await {
        let of_path = methods.entry(one.path).or_default();
        if one.method == "GET" {
            of_path.insert("HEAD".to_owned());
        }
        of_path.insert(one.method);
    }
    for (path, methods) in &methods {
        // No path takes this method: the answer names those that it takes, or the path does not say.
        let answer = program.admin("DELETE", &concrete(path)).await;
        if answer.status == 405 {
            let allowed = answer.header("allow").unwrap().split(", ");
            let allowed: BTreeSet<_> = allowed.map(str::to_owned).collect();
            assert_eq!(&allowed, methods, "{path}");
        } else {
            assert_eq!(answer.status, 404, "{path}");
        }
        if !methods.contains("POST") {
            let status = program.admin("POST", &concrete(path)).await.status;
            assert!(matches!(status, 404 | 405), "POST {path}: {status}");
        }
        if !methods.contains("GET") {
            let status = program.admin("GET", &concrete(path)).await.status;
            assert!(matches!(status, 404 | 405), "GET {path}: {status}");
        }
    }
    // The answer to an unknown path lists all paths without ids.
    let unknown = program.admin("GET", "/no/such/path").await;
    assert_eq!(unknown.status, 404);
    let text = text_of(&unknown);
    let listed = text
        .split([',', ' ', '\n'])
        .filter(|word| word.starts_with('/'));
    let listed: BTreeSet<_> = listed.collect();
    let described = methods.keys().map(String::as_str);
    let described: BTreeSet<_> = described.filter(|path| !path.contains('{')).collect();
    assert_eq!(listed, described);
}

#[tokio::test]
async fn the_admin_address_takes_the_parameters_of_its_description_and_no_other() {
    let (_folder, program) = program(true).await;
    let mut compared = 0;
    for one in described(&program).await {
        let path = format!("{}?no_such_parameter=1", concrete(&one.path));
        let text = text_of(&program.admin(&one.method, &path).await);
        if let Some(named) = text.strip_prefix("the parameters are ") {
            let named: BTreeSet<_> = named.trim().split(", ").collect();
            assert_eq!(named, one.parameters(), "{path}");
            compared += 1;
        }
    }
    assert!(compared > 8, "{compared} answers name their parameters");
}
