//! One operator gets the notifications about the institution itself, and the proxy's news about its own work.

use super::delivered::{folder_with, verifies};
use super::*;
use crate::support::tenant_endpoint::TenantEndpoint;

/// A receiver with an endpoint of acme's and one of the back office's.
async fn receiver(
    gatepay: &GatePay,
    engine: &Engine,
) -> (Folder, Receiver, TenantEndpoint, TenantEndpoint) {
    let [to_acme, to_office] = [(); 2].map(|()| TenantEndpoint::start());
    let shops = [acme(), globex()];
    let folder = folder_with(
        &gatepay.url(),
        engine,
        [(&shops[0], &to_acme), (&shops[1], &to_office)],
    );
    // The port is the back office's, and globex pulls.
    folder.tenant(&globex(), "");
    to_office.write_certificate(&folder.path("office-ca.pem"));
    let (url, ca) = (to_office.url("/news?key=1"), folder.name("office-ca.pem"));
    let office_lines = format!("notifications = {{ url = '{url}', ca = '{ca}' }}");
    folder.operator(&office(), &office_lines);
    let receiver = Receiver::start(&folder).await;
    (folder, receiver, to_acme, to_office)
}

fn account_opened(request: &str) -> Value {
    json!({
        "bizType": "INSTITUTION", "bizStatus": "INSTITUTION_ACCOUNT_SUCCESS", "client_id": INSTITUTION_ID,
        "data": { "request_id": request, "account_id": "9" },
    })
}

#[tokio::test]
async fn news_about_the_institution_reaches_the_operators_endpoint_and_no_tenant() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let (_folder, receiver, to_acme, to_office) = receiver(&gatepay, &engine).await;
        let news = account_opened("r-1");
        receiver.acknowledges(&news).await;
        until("the operator has it", || to_office.count() == 1).await;
        let delivery = to_office.take().remove(0);
        assert_eq!(delivery.head.uri, "/news?key=1");
        assert!(verifies(&delivery, office().secret));
        assert_eq!(delivery.body, news.to_string(), "as GatePay sent it");
        assert_eq!(to_acme.count(), 0);

        let page = receiver.looks("/notifications?tenant=office").await;
        let listed = &page["notifications"][0];
        assert_eq!(
            (&listed["kind"], &listed["placed_by"]),
            (&json!("INSTITUTION"), &json!("institution"))
        );
        assert!(
            receiver
                .ids("/notifications?state=operator")
                .await
                .is_empty()
        );
        // The operator pulls it too, for no account; the tenants do not see it.
        let pulled = receiver.call(&office().get("/-/notifications")).await;
        assert_eq!(pulled.status, 200, "{}", pulled.text());
        let pulled = &pulled.json()["data"]["notifications"];
        assert_eq!(pulled.as_array().unwrap().len(), 1);
        assert_eq!(pulled[0]["body"], news.to_string());
        let acmes = receiver.call(&acme().get("/-/notifications")).await.json();
        assert_eq!(acmes["data"]["notifications"], json!([]));

        let (said, code) = receiver.command(&["notifications", "test", "--tenant", "office"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(to_office.take().len(), 1, "the test event");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn the_operator_is_told_that_a_tenants_endpoint_is_gone_and_not_of_its_own() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let (_folder, receiver, to_acme, to_office) = receiver(&gatepay, &engine).await;
        to_acme.answers(410);
        let id = receiver.order(&acme(), "A-0001").await;
        receiver.acknowledges(&paid(&id, "A-0001")).await;
        until("the operator is told", || to_office.count() == 1).await;
        let delivery = to_office.take().remove(0);
        assert!(verifies(&delivery, office().secret));
        let body: Value = serde_json::from_slice(&delivery.body).unwrap();
        let parts = ["bizType", "bizId", "bizStatus"].map(|name| &body[name]);
        assert_eq!(json!(parts), json!(["PROXY_ENDPOINT", "acme", "OFF"]));
        let data: Value = serde_json::from_str(body["data"].as_str().unwrap()).unwrap();
        let [event] = &receiver.ids("/notifications?tenant=acme").await[..] else {
            panic!("acme has one notification");
        };
        assert_eq!(data["notification"], **event);

        let delivered = "deliveries_total{result=\"delivered\",tenant=\"office\"}";
        until_so("the operator has it", async || {
            receiver.program.metric(delivered).await == "1"
        })
        .await;
        // The operator's own endpoint is gone: its news waits, and is sent once it is turned on by hand.
        to_office.answers(410);
        receiver.acknowledges(&account_opened("r-1")).await;
        let endpoint = receiver.turns_off("office", "gone").await;
        assert_eq!(endpoint["waiting"], 1, "no news of it: {endpoint}");
        to_office.answers(200);
        assert_eq!(to_office.take().len(), 1);
        let (said, code) = receiver.command(&["notifications", "enable", "--tenant", "office"]);
        assert_eq!(code, Some(0), "{said}");
        until("the operator has it", || to_office.count() == 1).await;
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_notification_that_came_before_the_operators_endpoint_is_assigned_to_it() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    receiver.acknowledges(&account_opened("r-1")).await;
    let ids = receiver.ids("/notifications?state=operator").await;
    let assign = format!("/-/notifications/assign?id={}&tenant=office", ids[0]);
    assert_eq!(receiver.orders(&assign).await.0, 404);
    receiver.program.stop().await;
    // An operator without a URL pulls.
    folder.operator(&office(), "notifications = {}");
    let receiver = Receiver::start(&folder).await;
    receiver.acknowledges(&account_opened("r-2")).await;
    let (status, said) = receiver.orders(&assign).await;
    assert_eq!(status, 200, "{said}");
    let pulled = receiver
        .call(&office().get("/-/notifications"))
        .await
        .json();
    let pulled = pulled["data"]["notifications"].as_array().unwrap();
    assert_eq!(pulled.len(), 2);
    receiver.program.stop().await;
}

#[tokio::test]
async fn news_that_an_operator_has_not_got_reaches_the_operator_that_takes_its_place() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let (folder, receiver, _to_acme, to_office) = receiver(&gatepay, &engine).await;
        to_office.answers(410);
        receiver.acknowledges(&account_opened("r-1")).await;
        receiver.turns_off("office", "gone").await;
        to_office.answers(200);
        to_office.take();
        // Another operator gets notifications from now on, at the same machine.
        let desk = Shop::new("desk", "client-desk", "fake-desk-secret-0004", "");
        let (url, ca) = (to_office.url("/desk"), folder.name("office-ca.pem"));
        for (shop, lines) in [
            (office(), String::new()),
            (
                desk.clone(),
                format!("notifications = {{ url = '{url}', ca = '{ca}' }}"),
            ),
        ] {
            let (id, client) = (shop.id, shop.client_id);
            let credential = format!(
                "credential = [{{ client_id = '{client}', secret = {{ file = '../secrets/{id}.key' }} }}]"
            );
            let text = format!("id = '{id}'\n{credential}\n{lines}\n");
            folder.secret(id, shop.secret);
            folder.file(&format!("operators.d/{id}.toml"), &text);
        }
        let (status, said) = receiver.program.reload("").await;
        assert_eq!(status, 200, "{said}");
        until("the other operator has it", || to_office.count() == 1).await;
        let delivery = to_office.take().remove(0);
        assert_eq!(delivery.head.uri, "/desk");
        assert!(verifies(&delivery, desk.secret));
        assert_eq!(delivery.body, account_opened("r-1").to_string());
        receiver.program.stop().await;
    }
}
