//! GatePay is asked for the owner of a notification: on behalf of the tenants that the ledger names, and only after a probe
//! has proved that it keeps accounts apart.

use std::time::Duration;

use gatepay_sandbox::{InjectedFault, OrderLookUps};

use super::*;

pub(super) const ORDERS: &str = "/payment/open/institution/v1/pay/order/query";
const NO_EFFECT: &str = "notifications.ask has no effect: notifications without a certain owner stay in quarantine; run `gatepay-proxy probe isolation`";
const ASKED: &str = "GatePay is asked for the owners of notifications";
const LEFT: &str = "a notification has left quarantine";

/// A folder that asks, and does not look up calls whose answer is lost.
pub(super) fn asking_folder(gatepay: &GatePay, engine: &Engine) -> Folder {
    let folder = folder(&gatepay.url(), engine);
    folder.edit("proxy.toml", "public_url =", "ask = true, public_url =");
    let url = format!("upstream = {{ url = '{}'", gatepay.url());
    folder.edit("proxy.toml", &url, &format!("{url}, resolve_ms = 0"));
    folder
}

impl Receiver {
    /// Creates an order whose answer is lost, so that the ledger has its number only. Returns GatePay's id.
    pub(super) async fn lost_order(&self, gatepay: &GatePay, shop: &Shop, number: &str) -> String {
        gatepay.inject(InjectedFault::ResetAfterExecuting.once());
        let answer = self.call(&shop.post(CREATE, order(number))).await;
        assert_eq!(answer.status, 504, "{}", answer.text());
        let answer: Value = serde_json::from_slice(&gatepay.last().answer_body).unwrap();
        answer["data"]["prepayId"].as_str().unwrap().to_owned()
    }

    /// Probes with these objects, and returns what is printed with the exit code.
    async fn probes(&self, objects: &[&str]) -> (String, Option<i32>) {
        // The tenants are registered soon after the start.
        until_so("the tenants are registered", async || {
            self.program.admin("GET", "/-/probe/isolation").await.status == 200
        })
        .await;
        let objects = objects.iter().flat_map(|id| ["--object", id]);
        let words = ["probe", "isolation"].into_iter().chain(objects);
        self.command(&words.collect::<Vec<_>>())
    }

    /// Proves with an order of each tenant that accounts are apart.
    pub(super) async fn proves(&self) {
        let ids = [
            self.order(&acme(), "P-0001").await,
            self.order(&globex(), "P-0001").await,
        ];
        let (said, code) = self.probes(&[&ids[0], &ids[1]]).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("query_order: apart: each of 2 accounts"),
            "{said}"
        );
    }

    async fn logs(&self, message: &str, times: usize) -> Vec<Value> {
        let lines = || self.logged(message);
        until(message, || lines().len() >= times).await;
        lines()
    }

    pub(super) async fn asked(&self, answer: &str) -> u32 {
        let series = format!("notification_inquiries_total{{answer=\"{answer}\"}}");
        self.program.metric(&series).await.parse().unwrap()
    }

    /// The only notification about this order: its state, its tenant and what placed it.
    pub(super) async fn placed(&self, order: &str) -> [Value; 3] {
        let page = self.looks("/notifications").await;
        let events = page["notifications"].as_array().unwrap();
        let mut events = events.iter().filter(|event| event["object"] == order);
        let event = events.next().unwrap_or_else(|| panic!("{page}"));
        ["state", "tenant", "placed_by"].map(|name| event[name].clone())
    }

    /// Waits until the notification about this order is in quarantine no more.
    pub(super) async fn is_placed(&self, order: &str) {
        until_so("it is placed", async || {
            self.placed(order).await[0] != "quarantined"
        })
        .await;
    }
}

/// The accounts on whose behalf GatePay was asked about this order by its id, in order.
pub(super) fn asked_about(gatepay: &GatePay, prepay_id: &str) -> Vec<String> {
    let body = format!(r#"{{"prepayId":"{prepay_id}"}}"#);
    let received = gatepay.received().into_iter();
    let look_ups = received.filter(|it| it.target == ORDERS && it.body == body.as_bytes());
    let accounts = look_ups.map(|it| it.header("x-gatepay-on-behalf-of").unwrap().to_owned());
    accounts.collect()
}

#[tokio::test]
async fn the_tenant_that_has_the_order_gets_its_news_once_isolation_is_proved() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = asking_folder(&gatepay, &engine);
        let receiver = Receiver::start(&folder).await;
        let why = &receiver.logs(NO_EFFECT, 1).await[0]["why"];
        assert_eq!(
            why,
            "GatePay's isolation is not proved for this upstream and credential"
        );
        assert_eq!(receiver.program.metric("notification_asking").await, "0");
        receiver.says("notifications.ask has no effect").await;
        // Of several instances only one asks.
        let other = match &engine {
            Engine::Server(_) => Some(asking_folder(&gatepay, &engine)),
            Engine::File => None,
        };
        let other = match &other {
            Some(folder) => Some(Receiver::start(folder).await),
            None => None,
        };
        receiver.proves().await;
        // Another tenant has an order of its own under the same number.
        receiver.order(&globex(), "L-0001").await;
        let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
        receiver.acknowledges(&paid(&lost, "L-0001")).await;
        receiver.shows(&quarantined("unproved")).await;

        until("it has an owner", || {
            asked_about(&gatepay, &lost).len() >= 2
        })
        .await;
        receiver.is_placed(&lost).await;
        assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
        let mut accounts = asked_about(&gatepay, &lost);
        accounts.sort_unstable();
        let mut both = [acme().sub_account, globex().sub_account];
        both.sort_unstable();
        assert_eq!(accounts, both);
        // The ledger remembers it, so that the next news needs no question.
        let path = format!("/ledger?kind=prepayId&key={lost}");
        let holder = until_seen(async || {
            let page = receiver.looks(&path).await;
            let holder = page["holders"].get(0).cloned();
            holder.ok_or_else(|| page.to_string())
        })
        .await;
        assert_eq!(
            (&holder["tenant"], &holder["source"]),
            (&json!("acme"), &json!("asked"))
        );
        let mut closed = paid(&lost, "L-0001");
        closed["bizStatus"] = "PAY_CLOSE".into();
        receiver.acknowledges(&closed).await;
        receiver
            .shows(&(Some("acme".into()), "waiting".into(), None))
            .await;
        assert_eq!(asked_about(&gatepay, &lost).len(), 2);
        if let Some(other) = other {
            let series = "notification_owner_total{by=\"asked\"}";
            let counted = [
                receiver.program.metric(series).await,
                other.program.metric(series).await,
            ];
            assert!(
                counted == ["0", "1"] || counted == ["1", "0"],
                "{counted:?}"
            );
            other.program.stop().await;
        }
        // The proof outlives the process.
        receiver.program.stop().await;
        let receiver = Receiver::start(&folder).await;
        let operations = &receiver.logs(ASKED, 1).await[0]["operations"];
        assert_eq!(operations, "query_order");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_number_that_a_tenant_copies_gains_it_no_notification() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = asking_folder(&gatepay, &engine);
        let receiver = Receiver::start(&folder).await;
        receiver.proves().await;
        // The order of acme's is not in the ledger, as one from before it existed: globex alone has the number, with an
        // order and an amount of its own.
        receiver.order(&globex(), "C-0001").await;
        let lost = receiver.lost_order(&gatepay, &acme(), "L-0002").await;
        receiver.acknowledges(&paid(&lost, "C-0001")).await;
        receiver.shows(&quarantined("unproved")).await;
        until("globex is asked about", || {
            !asked_about(&gatepay, &lost).is_empty()
        })
        .await;
        until_so("three answers say that it has not", async || {
            receiver.asked("has_not").await >= 3
        })
        .await;
        assert_eq!(asked_about(&gatepay, &lost), [globex().sub_account]);
        // Only the ledger or an operator moves it.
        let [state, tenant, _] = receiver.placed(&lost).await;
        assert_eq!((state, tenant), (json!("quarantined"), Value::Null));
        assert!(receiver.logged(LEFT).is_empty());
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_probe_finds_that_accounts_are_not_apart_and_gatepay_is_not_asked() {
    for engine in engines().await {
        let gatepay = GatePay::now_and(|config| config.order_look_ups = OrderLookUps::AllOrders);
        let folder = asking_folder(&gatepay, &engine);
        let receiver = Receiver::start(&folder).await;
        let ids = [
            receiver.order(&acme(), "P-0001").await,
            receiver.order(&globex(), "P-0001").await,
        ];
        let (said, code) = receiver.probes(&[&ids[0], &ids[1]]).await;
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("query_order: shared: account"), "{said}");
        let why = "the newest probe has not proved that GatePay keeps accounts apart";
        let is_told = || {
            receiver
                .logged(NO_EFFECT)
                .iter()
                .any(|line| line["why"] == why)
        };
        until("the log says so", is_told).await;
        let kept = receiver.looks("/-/probe/isolation").await;
        assert_eq!(kept["findings"][0]["verdict"], "shared");
        if let Engine::Server(server) = &engine {
            let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
            receiver.acknowledges(&paid(&lost, "L-0001")).await;
            decided(server, 1).await;
            assert_eq!(asked_about(&gatepay, &lost), [""; 0]);
        }
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_probe_without_what_it_needs_proves_nothing_and_says_what_is_missing() {
    let gatepay = GatePay::now();
    let folder = asking_folder(&gatepay, &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let id = receiver.order(&acme(), "P-0001").await;
    let (said, code) = receiver.probes(&[&id]).await;
    assert_eq!(code, Some(3), "{said}");
    let missing = "query_order: inconclusive: needs an object of each of two tenants";
    assert!(said.contains(missing), "{said}");
    assert_eq!(asked_about(&gatepay, &id), [""; 0]);
    // An id of no tenant's, and an order that GatePay does not know any more.
    let (said, code) = receiver.probes(&["77"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the ledger does not know it"), "{said}");
    let other = receiver.order(&globex(), "P-0001").await;
    let unknown = r#"{"status":"FAIL","code":"400202"}"#.as_bytes();
    let fault = InjectedFault::Status {
        status: 200,
        body: unknown.into(),
    };
    gatepay.inject(fault.always().on(ORDERS).of(globex().sub_account));
    let (said, code) = receiver.probes(&[&id, &other]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("does not find its own"), "{said}");
    let kept = receiver.looks("/-/probe/isolation").await;
    assert_eq!(kept["findings"][0]["verdict"], "inconclusive");
    assert_eq!(kept["findings"][0]["counts"], false);
    receiver.program.stop().await;
}

/// Waits until every notification in quarantine was decided this often.
pub(super) async fn decided(server: &PgServer, times: u32) {
    let least = "SELECT coalesce(min(decisions), 0) FROM gatepay.event WHERE state = 'quarantined' AND decide_at > gatepay.now_ms() + 1000";
    until("it is decided again", || {
        server.sql(least).parse::<u32>().unwrap() >= times
    })
    .await;
}

#[tokio::test]
async fn a_proof_that_is_old_or_of_another_credential_or_upstream_does_not_count() {
    if postgres::is_missing() {
        return;
    }
    let server = PgServer::migrated().await;
    let engine = Engine::Server(Box::new(server));
    let gatepay = GatePay::now();
    let folder = asking_folder(&gatepay, &engine);
    let receiver = Receiver::start(&folder).await;
    let Engine::Server(server) = &engine else {
        unreachable!("it is a server");
    };
    receiver.proves().await;
    receiver.logs(ASKED, 1).await;
    let month = "30 * 86400000::bigint";
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    for (spoilt, mended) in [
        (format!("at = at - {month}"), format!("at = at + {month}")),
        (
            "client_id = client_id || '2'".to_owned(),
            format!("client_id = '{INSTITUTION_ID}'"),
        ),
        (
            "upstream = upstream || '2'".to_owned(),
            format!("upstream = '{}'", gatepay.sandbox.address()),
        ),
    ] {
        server.sql(&format!("UPDATE gatepay.isolation SET {spoilt}"));
        receiver.acknowledges(&paid(&lost, "L-0001")).await;
        server.sql(
            "UPDATE gatepay.event SET decide_at = 0, decisions = 0 WHERE state = 'quarantined'",
        );
        decided(server, 1).await;
        assert_eq!(asked_about(&gatepay, &lost), [""; 0], "{spoilt}");
        server.sql(&format!("UPDATE gatepay.isolation SET {mended}"));
    }
    // The same proof counts again.
    server.sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined'");
    receiver.logs(LEFT, 1).await;
    assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_look_up_that_is_lost_slow_or_failing_decides_nothing_and_is_repeated() {
    if postgres::is_missing() {
        return;
    }
    let engine = Engine::Server(Box::new(PgServer::migrated().await));
    let Engine::Server(server) = &engine else {
        unreachable!("it is a server");
    };
    let gatepay = GatePay::now();
    let folder = asking_folder(&gatepay, &engine);
    let receiver = Receiver::start(&folder).await;
    receiver.proves().await;
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    receiver.order(&globex(), "L-0001").await;
    let mut faults = [
        InjectedFault::ResetAfterExecuting,
        InjectedFault::Status {
            status: 500,
            body: Bytes::new(),
        },
        InjectedFault::Delay(Duration::from_secs(20)),
    ]
    .into_iter();
    let inject = |fault: InjectedFault| {
        gatepay.sandbox.clear_faults();
        // Globex has no such order; whether acme has it stays unknown.
        gatepay.inject(fault.always().on(ORDERS).of(acme().sub_account));
    };
    inject(faults.next().unwrap());
    receiver.acknowledges(&paid(&lost, "L-0001")).await;
    for unclear in 1.. {
        until_so("the answer is unclear", async || {
            receiver.asked("unclear").await >= unclear
        })
        .await;
        decided(server, unclear).await;
        assert_eq!(receiver.placed(&lost).await[0], "quarantined");
        let Some(fault) = faults.next() else { break };
        inject(fault);
        server.sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined'");
    }
    gatepay.sandbox.clear_faults();
    let began = Instant::now();
    while receiver.placed(&lost).await[0] == "quarantined" {
        assert!(began.elapsed() < PATIENCE);
        server.sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined' AND decide_at > gatepay.now_ms() + 70000");
        server.sql(
            "UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined' AND decisions = 3",
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
    receiver.program.stop().await;
}
