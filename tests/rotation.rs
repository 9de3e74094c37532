//! Keys are replaced under the running program.

use crate::support::program::{Folder, Program};
use crate::support::traffic::{Tally, Traffic};
use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const NEVER: &str = "poll_ms = 3_600_000";
const SOON: &str = "poll_ms = 100";
const PAUSE: Duration = Duration::from_millis(5);

async fn get(program: &Program, path: &str) -> Value {
    let answer = program.admin("GET", path).await;
    assert_eq!(answer.status, 200, "{path}");
    let text = str::from_utf8(&answer.body).unwrap();
    assert!(!text.contains("fake-"), "a secret: {text}");
    serde_json::from_str(text).unwrap()
}

fn fine(tally: &Tally) {
    assert_eq!(
        tally.keys().copied().collect::<Vec<_>>(),
        [200],
        "{tally:?}"
    );
}

/// Acme with another key.
fn renewed() -> Shop {
    Shop::new(
        "acme",
        "client-acme-2",
        "fake-acme-secret-0009",
        acme().sub_account,
    )
}

const TWO_KEYS: &str = "id = 'acme'
sub_account = '2124538349'
limits = { in_flight = 1000, requests_per_second = 1000 }
[[credential]]
client_id = 'client-acme'
secret = { file = '../secrets/acme.key' }
[[credential]]
client_id = 'client-acme-2'
secret = { file = '../secrets/acme-2.key' }
";

#[tokio::test]
async fn a_tenants_key_is_replaced_under_load_and_it_is_known_when_the_old_one_is_unused() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.proxy(SOON);
    let program = Program::serve(&folder).await;
    let old = Traffic::of(&acme(), program.address, 2, PAUSE);
    old.more(20).await;
    folder.secret("acme-2", renewed().secret);
    folder.file("tenants.d/acme.toml", TWO_KEYS);
    until("both are known", || {
        program.stderr().contains("client-acme-2")
    })
    .await;
    let new = Traffic::of(&renewed(), program.address, 2, PAUSE);
    old.more(20).await;
    new.more(20).await;
    // The tenant changes over.
    let (tally, _) = old.end().await;
    fine(&tally);
    let used = || async {
        let acme = get(&program, "/tenants/acme").await;
        let of = |place: usize| {
            let key = &acme["credentials"][place];
            (key["uses"].as_u64().unwrap(), key["last_used"].clone())
        };
        (of(0), of(1))
    };
    let (first, second) = used().await;
    assert_eq!(first.0, tally[&200] as u64, "counted on over the reload");
    assert!(first.1.is_string() && second.0 > 0);
    new.more(50).await;
    let (still, more) = used().await;
    assert_eq!(still, first, "nobody uses it any more");
    // Requests under way at the first look were counted then, and answered after the look.
    assert!(more.0 >= second.0 + 40, "{second:?}, then {more:?}");
    let series = r#"{client_id="client-acme",tenant="acme"}"#;
    let count = program
        .metric(&format!("credential_uses_total{series}"))
        .await;
    assert_eq!(count, first.0.to_string());
    let last = program
        .metric(&format!("credential_last_used_timestamp_seconds{series}"))
        .await;
    assert!(last.parse::<u64>().unwrap() > 1_700_000_000);

    // The first key can now be revoked safely.
    let one_key = TWO_KEYS.replacen(
        "[[credential]]\nclient_id = 'client-acme'\nsecret = { file = '../secrets/acme.key' }\n",
        "",
        1,
    );
    folder.file("tenants.d/acme.toml", &one_key);
    until("it is revoked", || {
        program.stderr().matches("\"reloaded\"").count() > 1
    })
    .await;
    let metrics = program.admin("GET", "/metrics").await;
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(!metrics.contains("client_id=\"client-acme\""), "{metrics}");
    new.more(20).await;
    let (tally, _) = new.end().await;
    fine(&tally);
    let request = acme()
        .post(QUERY, BY_NUMBER)
        .request(&gatepay_proxy::process::clock::Clock::system());
    let answer = Connection::open(program.address).await.send(request).await;
    assert_eq!(answer.refused(), (401, "unknown_client"));
}

#[tokio::test]
async fn all_tenants_are_listed_without_a_secret() {
    let gatepay = GatePay::now();
    let folder = Folder::before(&gatepay.url());
    folder.proxy(NEVER);
    folder.operator(&office(), "");
    folder.tenant(
        &globex(),
        "standing = 'read_only'\nlimits = { requests_per_second = 7, money = { requests_per_second = 1 } }",
    );
    let program = Program::serve(&folder).await;
    for _ in 0..3 {
        let call = globex().post(QUERY, BY_NUMBER);
        let request = call.request(&gatepay_proxy::process::clock::Clock::system());
        let answer = Connection::open(program.address).await.send(request).await;
        assert_eq!(answer.status, 200);
    }
    let page = get(&program, "/tenants").await;
    let parties = page["parties"].as_array().unwrap();
    let ids: Vec<_> = parties
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["acme", "globex", "office"]);
    assert!(page["since"].is_string() && page.get("next").is_none());
    let mut globex = parties[1].clone();
    assert!(globex["credentials"][0]["last_used"].take().is_string());
    for changing in ["left", "share", "used", "borrowed"] {
        assert!(globex[changing].take().is_number(), "{changing}");
    }
    assert_eq!(
        globex,
        json!({
            "id": "globex", "kind": "tenant", "sub_account": "2124538350", "standing": "read_only",
            "requests_per_second": 7, "burst": 14, "left": null, "in_flight_limit": 20, "in_flight": 0,
            "weight": 1, "share": null, "used": null, "borrowed": null, "refused": 0,
            "by_kind": { "money": { "requests_per_second": 1, "burst": 2 } },
            "credentials": [{
                "client_id": "client-globex", "not_before": null, "not_after": null, "valid": true,
                "uses": 3, "last_used": null,
            }],
        })
    );
    assert_eq!(parties[2]["kind"], "operator");
    let globex = get(&program, "/tenants/globex").await;
    assert_eq!(globex["credentials"], parties[1]["credentials"]);
    assert_eq!(program.admin("GET", "/tenants/nobody").await.status, 404);
    assert_eq!(program.admin("GET", "/tenants?before=x").await.status, 400);
    assert_eq!(program.admin("POST", "/tenants").await.status, 404);
    let rest = get(&program, "/tenants?after=acme").await;
    assert_eq!(rest["parties"][0]["id"], "globex");
}

const NEW_ID: &str = "institution-new";
const NEW_SECRET: &str = "fake-institution-secret-new";

/// Adds the institution's new credential.
fn renew(folder: &Folder, more: &str) {
    folder.secret("institution-new", NEW_SECRET);
    let proxy = fs::read_to_string(folder.path("proxy.toml")).unwrap();
    let credential = format!(
        "[[institution.credential]]\nclient_id = '{NEW_ID}'\nsecret = {{ file = 'secrets/institution-new.key' }}\n{more}\n"
    );
    folder.file("proxy.toml", &format!("{proxy}{credential}"));
}

fn signs(gatepay: &GatePay) -> String {
    let last = gatepay.last();
    assert!(last.verified, "GatePay accepts it");
    last.header("x-gatepay-certificate-clientid")
        .unwrap()
        .to_owned()
}

async fn switch(program: &Program, to: &str) -> (u16, Value) {
    let path = format!("/-/institution/switch?client_id={to}");
    let answer = program.admin("POST", &path).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[tokio::test]
async fn the_institutions_key_is_replaced_under_load_at_its_time_and_on_command() {
    let gatepay = GatePay::now_with(vec![institution(), credential(NEW_ID, NEW_SECRET)]);
    let folder = Folder::before(&gatepay.url());
    folder.proxy(SOON);
    let program = Program::serve(&folder).await;
    let traffic = Traffic::of(&acme(), program.address, 2, PAUSE);
    traffic.more(20).await;
    assert_eq!(signs(&gatepay), INSTITUTION_ID);
    renew(&folder, "not_before = 2026-01-01T00:00:00Z");
    until("the new one signs", || signs(&gatepay) == NEW_ID).await;
    traffic.more(50).await;
    assert_eq!(signs(&gatepay), NEW_ID);
    assert_eq!(
        switch(&program, INSTITUTION_ID).await,
        (200, json!({"result": "switched"}))
    );
    traffic.more(50).await;
    assert_eq!(signs(&gatepay), INSTITUTION_ID);
    assert_eq!(switch(&program, NEW_ID).await.0, 200);
    assert_eq!(
        switch(&program, NEW_ID).await,
        (200, json!({"result": "unchanged"}))
    );
    let escaped = NEW_ID.replace('-', "%2D");
    assert_ne!(escaped, NEW_ID);
    assert_eq!(
        switch(&program, &escaped).await,
        (200, json!({"result": "unchanged"}))
    );
    assert_eq!(switch(&program, "nobody").await.0, 404);
    traffic.more(50).await;
    assert_eq!(signs(&gatepay), NEW_ID);
    let (tally, _) = traffic.end().await;
    fine(&tally);
    assert_eq!(
        program
            .metric(r#"institution_switches_total{result="switched"}"#)
            .await,
        "3"
    );
    let state = get(&program, "/institution").await;
    assert_eq!(
        (&state["signs"], &state["failed"]),
        (&json!(NEW_ID), &Value::Null)
    );
}

#[tokio::test]
async fn a_key_that_gatepay_does_not_accept_never_signs_a_tenants_call() {
    let gatepay = GatePay::now_with(vec![institution()]);
    let folder = Folder::before(&gatepay.url());
    folder.proxy(SOON);
    let program = Program::serve(&folder).await;
    let traffic = Traffic::of(&acme(), program.address, 1, PAUSE);
    renew(&folder, "not_before = 2026-01-01T00:00:00Z");
    until("it is tried", || {
        program.stderr().contains("the one before signs on")
    })
    .await;
    traffic.more(50).await;
    assert_eq!(program.metric("institution_switch_failing").await, "1");
    let (code, said) = switch(&program, NEW_ID).await;
    assert_eq!((code, &said["result"]), (502, &json!("failed")), "{said}");
    let state = get(&program, "/institution").await;
    assert_eq!(
        (&state["signs"], &state["failed"]["client_id"]),
        (&json!(INSTITUTION_ID), &json!(NEW_ID))
    );
    traffic.more(20).await;
    let (tally, _) = traffic.end().await;
    fine(&tally);
}
