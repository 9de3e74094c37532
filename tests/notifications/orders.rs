//! Operators list, show and assign notifications and send them again: on the admin address, and by commands.

use gatepay_core::ownership::TenantIncarnation;
use gatepay_store::engine::Store;
use gatepay_store::notifications::delivery::{AttemptEffect, AttemptRecord, EndpointBreaker};
use gatepay_store::notifications::event::EventId;
use gatepay_store::notifications::ledger::TenantAccount;
use gatepay_store::settings::{EngineSettings, Failover, SqliteSettings, StoreTerms};

use super::*;

/// A receiver with an audit journal, whose store is a file.
async fn receiver(gatepay: &GatePay) -> (Folder, Receiver) {
    let folder = folder(&gatepay.url(), &Engine::File);
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    (folder, receiver)
}

impl Receiver {
    pub(super) async fn looks(&self, path: &str) -> Value {
        let answer = self.program.admin("GET", path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The status, once one of its problems begins with this text.
    pub(super) async fn says(&self, problem: &str) -> Value {
        until_seen(async || {
            let status = self.looks("/status").await;
            let problems = status["problems"].as_array().unwrap();
            let mut texts = problems.iter().filter_map(|it| it["text"].as_str());
            if texts.any(|text| text.starts_with(problem)) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
        .await
    }

    /// The endpoint of a tenant or operator, once it is off for this reason.
    pub(super) async fn turns_off(&self, of: &str, reason: &str) -> Value {
        let path = format!("/notifications/endpoints?tenant={of}");
        until_seen(async || {
            let page = self.looks(&path).await;
            let endpoint = page["endpoints"][0].clone();
            if endpoint["off"] == reason {
                Ok(endpoint)
            } else {
                Err(page.to_string())
            }
        })
        .await
    }

    pub(super) async fn orders(&self, path: &str) -> (u16, Value) {
        let answer = self.program.admin("POST", path).await;
        let body = serde_json::from_slice(&answer.body);
        (answer.status, body.unwrap_or(Value::Null))
    }

    /// The ids on this page.
    pub(super) async fn ids(&self, path: &str) -> Vec<String> {
        let page = self.looks(path).await;
        let events = page["notifications"].as_array().unwrap().iter();
        events
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Runs a command that asks this process.
    pub(super) fn command(&self, words: &[&str]) -> (String, Option<i32>) {
        let address = self.program.admin.to_string();
        printed(&run(&[words, &["--admin", &address]].concat()))
    }
}

#[tokio::test]
async fn a_notification_in_quarantine_is_assigned_by_hand_and_the_journal_has_it() {
    let gatepay = GatePay::now();
    let (folder, receiver) = receiver(&gatepay).await;
    receiver.acknowledges(&paid("77", "A-0001")).await;
    receiver.shows(&quarantined("no_holder")).await;
    let page = receiver.looks("/notifications?state=quarantined").await;
    let event = &page["notifications"][0];
    assert_eq!(event["tenant"], Value::Null);
    assert_eq!(event["quarantine"], "no_holder");
    assert_eq!(page.get("next"), None);
    let id = event["id"].as_str().unwrap();

    // The body is shown on demand only.
    let body = paid("77", "A-0001").to_string();
    let shown = receiver.looks(&format!("/notifications/{id}")).await;
    assert_eq!(shown["body_bytes"], body.len());
    assert!(!shown.to_string().contains("totalFee"), "{shown}");
    let shown = receiver.looks(&format!("/notifications/{id}?body=1")).await;
    assert_eq!(shown["body"], body);

    let assign =
        |id: &str, tenant: &str| format!("/-/notifications/assign?id={id}&tenant={tenant}");
    let nil = "00000000-0000-7000-8000-000000000000";
    for (path, status) in [
        (assign(id, "nobody"), 404),
        (assign(nil, "acme"), 404),
        (assign("77", "acme"), 400),
        (format!("/-/notifications/assign?id={id}"), 400),
        (format!("{}&tenant=globex", assign(id, "acme")), 400),
    ] {
        assert_eq!(receiver.orders(&path).await.0, status, "{path}");
    }
    assert!(!folder.journal().contains("assign"));

    let (status, said) = receiver.orders(&assign(id, "acme")).await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(
        (&said["state"], &said["journaled"]),
        (&json!("waiting"), &json!(true))
    );
    assert_eq!(receiver.orders(&assign(id, "globex")).await.0, 409);
    let journal = folder.journal();
    let record = journal
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["record"] == "notification")
        .unwrap_or_else(|| panic!("{journal}"));
    for (member, expected) in [
        ("action", "assign"),
        ("event", id),
        ("party", "acme"),
        ("by", "loopback"),
    ] {
        assert_eq!(record[member], expected, "{record}");
    }
    assert_eq!(journal.matches("\"action\":\"assign").count(), 1);

    // Each tenant's list has its own.
    assert_eq!(receiver.ids("/notifications?tenant=acme").await, [id]);
    for none in [
        "tenant=globex",
        "tenant=acme&state=dead",
        "state=quarantined",
    ] {
        let ids = receiver.ids(&format!("/notifications?{none}")).await;
        assert!(ids.is_empty(), "{none}");
    }
    receiver.program.stop().await;
}

#[tokio::test]
async fn notifications_from_before_a_sub_account_was_edited_and_edited_back_are_assigned_to_its_tenant()
 {
    let gatepay = GatePay::now();
    let (folder, receiver) = receiver(&gatepay).await;
    let order = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&order, "A-0001")).await;
    receiver.shows(&owned("acme")).await;
    let id = receiver.ids("/notifications").await.remove(0);
    let assign = |tenant: &str| format!("/-/notifications/assign?id={id}&tenant={tenant}");
    assert_eq!(receiver.orders(&assign("acme")).await.0, 409);

    let (own, other) = (acme().sub_account, "2124538399");
    let moves = async |from: &str, to: &str| {
        folder.edit("tenants.d/acme.toml", from, to);
        let (_, guarded) = receiver.program.reload("").await;
        let hash = guarded["plan"]["hash"].as_str().unwrap();
        let (status, said) = receiver.program.reload(&format!("?confirm={hash}")).await;
        assert_eq!(status, 200, "{said}");
    };
    moves(own, other).await;
    until_so("the store has the tenant's new incarnation", async || {
        receiver.ids("/notifications?tenant=acme").await.is_empty()
    })
    .await;
    let shown = receiver.looks(&format!("/notifications/{id}")).await;
    assert_eq!(
        (&shown["former"], &shown["account"]),
        (&json!(true), &json!(own))
    );
    for tenant in ["acme", "globex"] {
        let (status, _) = receiver.orders(&assign(tenant)).await;
        assert_eq!(status, 409, "{tenant} has another sub-account");
    }

    moves(other, own).await;
    until_so("the tenant has its sub-account again", async || {
        receiver.orders(&assign("acme")).await.0 == 200
    })
    .await;
    assert_eq!(receiver.ids("/notifications?tenant=acme").await, [&*id]);
    let shown = receiver.looks(&format!("/notifications/{id}")).await;
    assert_eq!(
        (&shown["former"], &shown["state"]),
        (&Value::Null, &json!("waiting"))
    );
    let (said, code) = receiver.command(&["notifications", "list"]);
    assert_eq!(code, Some(0));
    assert!(!said.contains("former"), "{said}");
    receiver.program.stop().await;
}

#[tokio::test]
async fn without_its_record_in_the_journal_nothing_is_assigned() {
    let gatepay = GatePay::now();
    let (folder, receiver) = receiver(&gatepay).await;
    receiver.acknowledges(&paid("77", "A-0001")).await;
    receiver.shows(&quarantined("no_holder")).await;
    let id = receiver.ids("/notifications").await.remove(0);
    fs::rename(folder.path("audit"), folder.path("away")).unwrap();
    let path = format!("/-/notifications/assign?id={id}&tenant=acme");
    assert_eq!(receiver.orders(&path).await.0, 503);
    let shown = receiver.looks(&format!("/notifications/{id}")).await;
    assert_eq!(shown["state"], "quarantined");
    fs::rename(folder.path("away"), folder.path("audit")).unwrap();
    until_so("the order is taken", async || {
        receiver.orders(&path).await.0 == 200
    })
    .await;
    receiver.program.stop().await;
}

/// The stored notifications of a process that has ended, as acme's dead ones.
pub(super) async fn let_all_die(folder: &Folder, ids: &[String]) {
    let settings = SqliteSettings {
        path: folder.path("store/gatepay.db"),
        contact_file: folder.path("state/store-contact"),
    };
    let terms = StoreTerms {
        future_ms: 300,
        max_skew_ms: 1_000,
        timeout: PATIENCE,
        failover: Failover::Guarded,
    };
    let store = Store::open(&EngineSettings::Sqlite(settings), terms).unwrap();
    let account = TenantAccount {
        tenant: "acme".to_owned(),
        account: acme().sub_account.to_owned(),
    };
    let registered = store.register_tenants(&[account]).await.unwrap();
    let acme: &TenantIncarnation = &registered[0];
    for id in ids {
        let id = EventId::parse(id).unwrap();
        store
            .assign(id, (acme, None), "alice", None)
            .await
            .unwrap()
            .unwrap();
        let claims = store.claim_endpoints(1, 10).await.unwrap();
        let claim = &claims[0];
        let attempt = AttemptRecord {
            event: id,
            claim: (claim.number, claim.turn),
            instance: 1,
            took: Duration::from_millis(1),
            status: Some(500),
            outcome: "refused".to_owned(),
            said: b"secretive".to_vec(),
            effect: AttemptEffect::Dead,
            breaker: EndpointBreaker::default(),
        };
        store.record_attempts(&[attempt]).await.unwrap();
        store.release_endpoints(&claims).await.unwrap();
    }
    store.leave().await.unwrap();
}

#[tokio::test]
async fn dead_notifications_are_sent_again_one_by_one_or_a_tenants_since_a_time() {
    let gatepay = GatePay::now();
    let (folder, receiver) = receiver(&gatepay).await;
    receiver.acknowledges(&paid("77", "A-0001")).await;
    receiver.acknowledges(&paid("78", "A-0002")).await;
    receiver.acknowledges(&paid("79", "A-0003")).await;
    let ids = receiver.ids("/notifications?state=quarantined").await;
    assert_eq!(ids.len(), 3);
    receiver.program.stop().await;
    let (dead, quarantined) = ids.split_at(2);
    let_all_die(&folder, dead).await;

    let receiver = Receiver::start(&folder).await;
    assert_eq!(receiver.ids("/notifications?state=dead").await.len(), 2);
    let shown = receiver.looks(&format!("/notifications/{}", dead[0])).await;
    assert_eq!(shown["deliveries"][0]["status"], 500);
    assert!(!shown.to_string().contains("secretive"), "{shown}");
    let status = receiver.says("2 notifications were not delivered").await;
    let seen = &status["notifications"];
    assert_eq!(
        (&seen["dead"], &seen["quarantined"]),
        (&json!(2), &json!(1))
    );
    let replay = |query: &str| format!("/-/notifications/replay?{query}");
    for (query, status) in [
        (format!("id={}", quarantined[0]), 409),
        ("tenant=acme".to_owned(), 400),
        ("tenant=acme&since=yesterday".to_owned(), 400),
        ("tenant=nobody&since=0".to_owned(), 404),
    ] {
        assert_eq!(receiver.orders(&replay(&query)).await.0, status, "{query}");
    }
    let waiting = |said: &Value| said["waiting"].as_u64();
    let (_, said) = receiver.orders(&replay("tenant=globex&since=0")).await;
    assert_eq!(waiting(&said), Some(0), "they are not globex's");
    let (_, said) = receiver.orders(&replay(&format!("id={}", dead[0]))).await;
    assert_eq!(waiting(&said), Some(1), "{said}");
    let (_, said) = receiver
        .orders(&replay("tenant=acme&since=2100-01-01T00:00:00Z"))
        .await;
    assert_eq!(waiting(&said), Some(0), "it came earlier");
    let (_, said) = receiver.orders(&replay("tenant=acme&since=0")).await;
    assert_eq!(waiting(&said), Some(1), "{said}");
    assert!(receiver.ids("/notifications?state=dead").await.is_empty());
    assert_eq!(receiver.ids("/notifications?tenant=acme").await.len(), 2);
    let journal = folder.journal();
    assert_eq!(journal.matches("\"action\":\"replay\"").count(), 4);
    receiver.program.stop().await;
}

#[tokio::test]
async fn the_commands_ask_the_running_process() {
    let gatepay = GatePay::now();
    let (folder, receiver) = receiver(&gatepay).await;
    let order = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid("77", "A-0002")).await;
    receiver.shows(&quarantined("no_holder")).await;
    let id = receiver.ids("/notifications").await.remove(0);
    let config = folder.name("proxy.toml");

    let (said, code) = receiver.command(&["notifications", "list", "--state", "quarantined"]);
    assert!(said.contains(&id) && said.contains("(no_holder)"), "{said}");
    assert_eq!(code, Some(0));
    let (said, code) = receiver.command(&["notifications", "list", "--state", "lost"]);
    assert!(said.contains("a state is one of quarantined, "), "{said}");
    assert_eq!(code, Some(64));
    let (said, _) = receiver.command(&["notifications", "show", &id]);
    assert!(
        said.contains("no_holder") && !said.contains("totalFee"),
        "{said}"
    );
    let (said, _) = receiver.command(&["notifications", "show", &id, "--body", "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["body"], paid("77", "A-0002").to_string());

    let (said, code) = receiver.command(&["notifications", "assign", &id, "acme"]);
    assert_eq!(
        (&*said, code),
        ("assigned to acme: it is waiting\n", Some(0))
    );
    let (said, code) = receiver.command(&["notifications", "replay", &id]);
    assert!(
        said.contains("409") && said.contains("this one is waiting"),
        "{said}"
    );
    assert_eq!(code, Some(1));
    let since = [
        "notifications",
        "replay",
        "--tenant",
        "acme",
        "--since",
        "1h",
    ];
    let (said, code) = receiver.command(&since);
    assert!(said.starts_with("0 wait for delivery"), "{said}");
    assert_eq!(code, Some(0));

    let (said, code) = receiver.command(&["ledger", "show", "A-0001"]);
    assert!(said.starts_with("merchantTradeNo acme "), "{said}");
    assert!(said.contains("source call"), "{said}");
    assert_eq!(code, Some(0));
    let began = Instant::now();
    loop {
        let (said, _) = receiver.command(&["ledger", "show", &order, "--kind", "prepayId"]);
        if said.starts_with("prepayId acme ") {
            break;
        }
        assert_eq!(said, "no tenant has it\n");
        assert!(began.elapsed() < PATIENCE);
    }
    let (said, _) = receiver.command(&["ledger", "show", &order, "--kind", "merchantTradeNo"]);
    assert_eq!(said, "no tenant has it\n", "another kind is another key");
    assert_eq!(
        receiver
            .command(&["ledger", "show", &order, "--kind", "x"])
            .1,
        Some(64)
    );

    // The journal tells of the assignment by a command too.
    let show = [
        "audit",
        "show",
        "--kind",
        "notification",
        "--config",
        &config,
    ];
    let (said, _) = printed(&run(&show));
    assert!(
        said.contains(&format!("assign {id} acme by loopback")),
        "{said}"
    );
    receiver.program.stop().await;
}

#[tokio::test]
async fn without_notifications_the_admin_address_says_so() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let address = proxy.admin_address();
    for request in [
        Request::get("/notifications"),
        Request::get("/ledger?key=1"),
        Request::post("/-/notifications/replay?id=1"),
    ] {
        let request = request.header("host", "localhost");
        let request = request.body(Full::default()).unwrap();
        let answer = Connection::open(address).await.send(request).await;
        let expected = &b"proxy.toml has no [notifications]\n"[..];
        assert_eq!((answer.status, &answer.body[..]), (409, expected));
    }
}
