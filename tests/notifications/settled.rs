//! A notification settles a call whose answer was lost.

use super::*;

const PAYOUT: &str = "/v1/pay/withdraw";
const CLOSE: &str = "/v1/pay/order/close";

/// An upstream that reads every request and never answers one.
fn silent() -> Scripted {
    Scripted::each(|_| None)
}

/// Starts a proxy with an audit journal before an upstream.
async fn receiver(upstream: &Scripted, engine: &Engine) -> (Folder, Receiver) {
    let folder = folder(&upstream.url(), engine);
    folder.edit(
        "proxy.toml",
        "upstream = { ",
        "upstream = { resolve_ms = 1, ",
    );
    folder.keeps_a_journal();
    let receiver = Receiver::start(&folder).await;
    (folder, receiver)
}

fn payout(number: &str) -> String {
    json!({ "batch_id": number, "withdraw_list": [
        { "merchant_withdraw_id": "w1", "amount": "3.5", "currency": "USDT", "chain": "ETH", "address": "0xabc" } ] })
    .to_string()
}

/// GatePay's news about a payout of a sub-account.
fn paid_out(number: &str, shop: &Shop, status: &str) -> Value {
    json!({ "main_order": { "batch_id": number, "merchant_id": shop.sub_account, "status": status, "client_id": INSTITUTION_ID },
        "sub_orders": [] })
}

impl Receiver {
    async fn settled(&self, outcome: &str) -> String {
        let series = format!("calls_settled_total{{outcome=\"{outcome}\"}}");
        self.program.metric(&series).await
    }

    async fn until_settled(&self, outcome: &str, count: &str) {
        until_so(&format!("{count} are {outcome}"), async || {
            self.settled(outcome).await == count
        })
        .await;
    }

    async fn ledger(&self, key: &str) -> Value {
        let answer = self
            .program
            .admin("GET", &format!("/ledger?key={key}"))
            .await;
        answer.json()["holders"].clone()
    }

    /// Makes a call whose answer is lost, and returns its request id.
    async fn loses(&self, call: &Call) -> String {
        let answer = self.call(call).await;
        assert_eq!(
            answer.refused(),
            (504, "outcome_unknown"),
            "{}",
            answer.text()
        );
        answer.header("x-request-id").unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_notification_settles_its_tenants_payout_and_no_other() {
    for engine in engines().await {
        let upstream = silent();
        let (folder, receiver) = receiver(&upstream, &engine).await;
        // Two tenants have chosen the same number; only acme's payout is done.
        let lost = receiver.loses(&acme().post(PAYOUT, payout("B-1"))).await;
        let other = receiver.loses(&globex().post(PAYOUT, payout("B-1"))).await;
        receiver
            .acknowledges(&paid_out("B-1", &acme(), "SUCCESS"))
            .await;
        receiver.until_settled("done", "1").await;
        let holders = receiver.ledger("B-1").await;
        assert_eq!(holders[0]["tenant"], "acme");
        assert_eq!(holders[0]["outcome"]["outcome"], "done", "{holders}");
        assert_eq!(holders[0]["outcome"]["status"], "SUCCESS");
        assert_eq!(holders[1]["tenant"], "globex");
        assert_eq!(holders[1]["outcome"], Value::Null);
        let told = &receiver.logged("a call without a known outcome is settled")[0];
        assert_eq!(
            (&told["call"], &told["tenant"]),
            (&json!(lost), &json!("acme"))
        );
        // GatePay's repetition settles nothing twice.
        receiver
            .acknowledges(&paid_out("B-1", &acme(), "SUCCESS"))
            .await;
        receiver
            .acknowledges(&paid_out("B-1", &globex(), "FAIL"))
            .await;
        receiver.until_settled("failed", "1").await;
        assert_eq!(receiver.settled("done").await, "1");
        receiver.program.stop().await;

        // The journal shows both calls as settled, with the notification.
        let config = folder.name("proxy.toml");
        let show = ["audit", "show", "--config", &config, "--outcome", "unknown"];
        let (said, code) = printed(&run(&show));
        assert_eq!(code, Some(0), "{said}");
        let event = told["event"].as_str().unwrap();
        let line = format!("done, by SUCCESS of notification {event}");
        assert_eq!(said.matches("settled at ").count(), 2, "{said}");
        assert!(
            said.contains(&line) && said.contains(": failed, by FAIL of "),
            "{said}"
        );
        for id in [&lost, &other] {
            let (said, _) = printed(&run(&[&show[..], &["--id", id, "--json"]].concat()));
            let shown: Value = serde_json::from_str(said.trim()).unwrap();
            assert_eq!(shown["settled"]["id"], **id, "{said}");
            assert_eq!(shown["verified"], true);
        }
    }
}

#[tokio::test]
async fn news_that_came_before_the_answer_was_lost_settles_the_call() {
    for engine in engines().await {
        let upstream = Scripted::held();
        let (_folder, receiver) = receiver(&upstream, &engine).await;
        let mut caller = Connection::open(receiver.program.address).await;
        let call = acme().post(PAYOUT, payout("B-1")).request(&Clock::system());
        let under_way = tokio::spawn(async move { caller.send(call).await });
        until("GatePay has the payout", || upstream.count() == 1).await;
        receiver
            .acknowledges(&paid_out("B-1", &acme(), "FAIL"))
            .await;
        assert_eq!(receiver.settled("failed").await, "0");
        drop(upstream);
        assert_eq!(under_way.await.unwrap().refused(), (504, "outcome_unknown"));
        receiver.until_settled("failed", "1").await;
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn the_end_of_an_order_settles_the_call_that_closes_it() {
    for engine in engines().await {
        let created = r#"{"status":"SUCCESS","code":"000000","data":{"prepayId":"5062036807"}}"#;
        let upstream = Scripted::each(move |request| {
            let is_order = request.contains("orderAmount");
            is_order.then(|| scripted::answer("200 OK", "", created.as_bytes()))
        });
        let (_folder, receiver) = receiver(&upstream, &engine).await;
        assert_eq!(receiver.order(&acme(), "A-0001").await, "5062036807");
        let close = json!({ "prepayId": "5062036807" }).to_string();
        receiver.loses(&acme().post(CLOSE, close)).await;
        // A payment that is held ends no order.
        let news = |status: &str| json!({ "bizType": "PAY_ADDRESS", "bizId": "5062036807", "bizStatus": status, "data": { "merchantTradeNo": "A-0001" } });
        receiver.acknowledges(&news("PAY_BLOCK")).await;
        receiver.shows(&owned("acme")).await;
        assert_eq!(
            receiver.ledger("5062036807").await[0]["outcome"]["outcome"],
            "found"
        );
        receiver.acknowledges(&news("PAY_CLOSE")).await;
        receiver.until_settled("done", "1").await;
        assert_eq!(receiver.settled("found").await, "0");
        assert_eq!(
            receiver.ledger("A-0001").await[0]["outcome"]["outcome"],
            "failed"
        );
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_notification_that_is_assigned_by_hand_settles_the_tenants_call() {
    for engine in engines().await {
        let upstream = silent();
        let (_folder, receiver) = receiver(&upstream, &engine).await;
        receiver.loses(&acme().post(CREATE, order("A-0001"))).await;
        // Nothing but acme's own number leads to acme, which proves no owner.
        receiver.acknowledges(&paid("77", "A-0001")).await;
        receiver.shows(&quarantined("unproved")).await;
        assert_eq!(receiver.settled("done").await, "0");
        let event = receiver.logged("notification")[0]["event"].clone();
        let assign = format!(
            "/-/notifications/assign?id={}&tenant=acme",
            event.as_str().unwrap()
        );
        let answer = receiver.program.admin("POST", &assign).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        receiver.until_settled("done", "1").await;
        let proved = &receiver.ledger("A-0001").await[0]["outcome"];
        assert_eq!(proved["notification"], event, "{proved}");
        receiver.program.stop().await;
    }
}

/// An upstream that loses the answer to every order, and shows the order to any tenant that asks for its number.
fn forgetful() -> Scripted {
    let orders = [("A-0001", "5062036807"), ("B-0001", "5062036808")];
    Scripted::each(move |request| {
        let is_order = request.contains("orderAmount");
        let asked = orders.iter().find(|(number, _)| request.contains(number));
        let (number, id) = asked.filter(|_| !is_order)?;
        let shown = json!({ "status": "SUCCESS", "code": "000000", "data": { "prepayId": id, "merchantTradeNo": number } });
        Some(scripted::answer("200 OK", "", shown.to_string().as_bytes()))
    })
}

#[tokio::test]
async fn an_id_that_a_look_up_finds_leads_the_news_to_its_tenant() {
    for engine in engines().await {
        let upstream = forgetful();
        let folder = folder(&upstream.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        let answer = receiver.call(&acme().post(CREATE, order("A-0001"))).await;
        assert_eq!(
            answer.header("x-gatepay-proxy-outcome"),
            Some("found"),
            "{}",
            answer.text()
        );
        receiver.acknowledges(&paid("5062036807", "A-0001")).await;
        until_so("the outcome is known", async || {
            receiver.ledger("5062036807").await[0]["outcome"]["outcome"] == "done"
        })
        .await;
        assert_eq!(receiver.ledger("5062036807").await[0]["source"], "asked");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn an_id_that_a_look_up_finds_proves_nothing_if_another_tenant_has_the_number_too() {
    for engine in engines().await {
        let upstream = forgetful();
        let folder = folder(&upstream.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        // GatePay shows the same order to both: the answer to acme may be about globex's order.
        for shop in [globex(), acme()] {
            receiver.call(&shop.post(CREATE, order("A-0001"))).await;
        }
        // The ledger decides in the order of the calls.
        receiver.call(&acme().post(CREATE, order("B-0001"))).await;
        until_so("the ledger has it", async || {
            receiver.ledger("5062036808").await != json!([])
        })
        .await;
        let holders = receiver.ledger("5062036807").await;
        let is_acmes = |row: &Value| row["tenant"] == "acme";
        assert!(
            !holders.as_array().unwrap().iter().any(is_acmes),
            "{holders}"
        );
        receiver.program.stop().await;
    }
}
