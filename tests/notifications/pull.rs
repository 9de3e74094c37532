//! Tenants pull their own notifications, and have their dead ones sent again, by signed calls.

use super::orders::let_all_die;
use super::*;

const PULL: &str = "/-/notifications";
const REPLAY: &str = "/-/notifications/replay";

impl Receiver {
    /// The page that a tenant pulls by this query.
    pub(super) async fn pulls(&self, shop: &Shop, query: &str) -> Value {
        let answer = self.call(&shop.get(&format!("{PULL}{query}"))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let whole = answer.json();
        assert_eq!(whole["code"], "000000");
        whole["data"].clone()
    }

    async fn replays(&self, shop: &Shop, body: &Value) -> Option<u64> {
        let answer = self.call(&shop.post(REPLAY, body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["data"]["waiting"].as_u64()
    }
}

fn bodies(page: &Value) -> Vec<Value> {
    let events = page["notifications"].as_array().unwrap().iter();
    events
        .map(|event| serde_json::from_str(event["body"].as_str().unwrap()).unwrap())
        .collect()
}

#[tokio::test]
async fn a_tenant_pulls_its_own_notifications_page_by_page_and_no_others() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        let mut acmes = Vec::new();
        for number in ["A-0001", "A-0002", "A-0003"] {
            acmes.push(receiver.order(&acme(), number).await);
        }
        let globexs = receiver.order(&globex(), "A-0001").await;
        receiver.acknowledges(&paid(&acmes[0], "A-0001")).await;
        receiver.acknowledges(&paid(&globexs, "A-0001")).await;
        receiver.acknowledges(&paid(&acmes[1], "A-0002")).await;
        receiver.acknowledges(&paid("77", "A-0009")).await;
        receiver.acknowledges(&paid(&acmes[2], "A-0003")).await;
        let at_gatepay = gatepay.count();

        let page = receiver.pulls(&acme(), "").await;
        let ids: Vec<_> = bodies(&page)
            .iter()
            .map(|body| body["bizId"].clone())
            .collect();
        assert_eq!(ids, acmes);
        assert_eq!(page["has_more"], false);
        // As in a delivery, the client id is the tenant's.
        assert_eq!(bodies(&page)[0]["client_id"], acme().client_id);
        assert!(!page.to_string().contains(INSTITUTION_ID));
        let page = receiver.pulls(&globex(), "?state=waiting").await;
        assert_eq!(bodies(&page).len(), 1);
        assert_eq!(bodies(&page)[0]["bizId"], globexs);
        assert_eq!(
            bodies(&receiver.pulls(&acme(), "?state=dead").await).len(),
            0
        );

        let first = receiver.pulls(&acme(), "?limit=2").await;
        assert_eq!(
            (bodies(&first).len(), &first["has_more"]),
            (2, &json!(true))
        );
        let after = first["next"].as_str().unwrap();
        let rest = receiver
            .pulls(&acme(), &format!("?limit=2&after={after}"))
            .await;
        assert_eq!(bodies(&rest)[0]["bizId"], acmes[2]);
        let after = rest["next"].as_str().unwrap();
        let none = receiver.pulls(&acme(), &format!("?after={after}")).await;
        assert_eq!((bodies(&none).len(), &none["next"]), (0, &rest["next"]));

        for query in ["?tenant=globex", "?state=quarantined", "?limit=101"] {
            let refused = receiver.call(&acme().get(&format!("{PULL}{query}"))).await;
            assert_eq!(refused.refused(), (400, "malformed_request"), "{query}");
        }
        assert_eq!(gatepay.count(), at_gatepay, "nothing was sent to GatePay");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_pull_is_signed_and_used_once_like_any_call() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    // Then the tenants are registered.
    receiver.acknowledges(&paid("77", "A-0001")).await;
    let forged = acme().get(PULL).secret(globex().secret);
    let refused = receiver.call(&forged).await;
    assert_eq!(refused.refused(), (401, "signature_mismatch"));
    let once = acme().get(PULL).request(&Clock::system());
    let mut caller = Connection::open(receiver.program.address).await;
    let answer = caller.send(once.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = caller.send(once).await;
    assert_eq!(answer.refused().1, "replayed");
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_tenant_has_its_own_dead_notifications_sent_again() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    for id in ["77", "78"] {
        receiver.acknowledges(&paid(id, id)).await;
    }
    let page = receiver.program.admin("GET", "/notifications").await.json();
    let events = page["notifications"].as_array().unwrap().iter();
    let ids: Vec<String> = events
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    receiver.program.stop().await;
    let_all_die(&folder, &ids).await;

    let receiver = Receiver::start(&folder).await;
    receiver.acknowledges(&paid("79", "79")).await;
    let dead = receiver.pulls(&acme(), "?state=dead").await;
    assert_eq!(bodies(&dead).len(), 2);
    let one = json!({ "id": ids[0] });
    assert_eq!(
        receiver.replays(&globex(), &one).await,
        Some(0),
        "not globex's"
    );
    assert_eq!(
        receiver.replays(&globex(), &json!({ "since": 0 })).await,
        Some(0)
    );
    assert_eq!(receiver.replays(&acme(), &one).await, Some(1));
    assert_eq!(
        receiver.replays(&acme(), &one).await,
        Some(0),
        "it waits already"
    );
    assert_eq!(
        receiver.replays(&acme(), &json!({ "since": 0 })).await,
        Some(1)
    );
    let refused = receiver.call(&acme().post(REPLAY, "{}")).await;
    assert_eq!(refused.refused(), (400, "malformed_request"));
    let journal = folder.journal();
    assert_eq!(
        journal
            .matches("\"operation\":\"replay_notifications\"")
            .count(),
        6
    );
    assert_eq!(
        journal.matches("\"outcome\":\"success\"").count(),
        5,
        "{journal}"
    );
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_tenant_id_with_another_sub_account_has_none_of_the_former_ones_notifications() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let order = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&order, "A-0001")).await;
    assert_eq!(bodies(&receiver.pulls(&acme(), "").await).len(), 1);
    receiver.program.stop().await;
    let mut another = acme();
    another.sub_account = "2124538399";
    folder.tenant(&another, "");
    let receiver = Receiver::start(&folder).await;
    let began = Instant::now();
    let page = loop {
        let answer = receiver.call(&another.get(PULL)).await;
        if answer.status == 200 {
            break answer.json()["data"].clone();
        }
        // Until the store has registered it.
        assert_eq!(answer.refused(), (503, "store_unavailable"));
        assert!(began.elapsed() < PATIENCE);
    };
    assert_eq!(page["notifications"], json!([]));
    let shown = receiver.program.admin("GET", "/notifications").await.json();
    assert_eq!(shown["notifications"][0]["tenant"], "acme", "it is kept");
    receiver.program.stop().await;
}

#[tokio::test]
async fn pulls_count_toward_the_tenants_limits_and_operators_have_none() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    folder.operator(&office(), "");
    folder.tenant(&globex(), "limits = { requests_per_second = 1, burst = 1 }");
    let receiver = Receiver::start(&folder).await;
    let named = office().get(PULL);
    let named = named.header("x-gatepay-on-behalf-of", acme().sub_account);
    let refused = receiver.call(&named).await;
    assert_eq!(refused.refused(), (404, "unknown_operation"));
    let order = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&order, "A-0001")).await;
    receiver.pulls(&globex(), "").await;
    let mut caller = Connection::open(receiver.program.address).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = caller
            .send(globex().get(PULL).request(&Clock::system()))
            .await;
        refused = refused.or((answer.status != 200).then(|| answer.refused().1.to_owned()));
    }
    assert_eq!(refused.as_deref(), Some("rate_limited"));
    receiver.program.stop().await;
}

#[tokio::test]
async fn without_notifications_there_is_nothing_to_pull() {
    let gatepay = GatePay::start();
    let proxy = Proxy::before(&gatepay).start();
    let refused = proxy.send(acme().get(PULL)).await;
    assert_eq!(refused.refused(), (404, "unknown_operation"));
}
