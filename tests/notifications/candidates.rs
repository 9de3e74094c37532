//! On whose behalf GatePay may be asked, what its answers prove, and that asking costs tenants nothing.

use gatepay_sandbox::InjectedFault;

use super::asking::{ORDERS, asked_about, asking_folder, decided};
use super::*;

/// A receiver with a server, after a proof that accounts are apart.
async fn receiver(gatepay: &GatePay) -> (Engine, Folder, Receiver) {
    let engine = Engine::Server(Box::new(PgServer::migrated().await));
    let folder = asking_folder(gatepay, &engine);
    let receiver = Receiver::start(&folder).await;
    receiver.proves().await;
    (engine, folder, receiver)
}

fn server(engine: &Engine) -> &PgServer {
    match engine {
        Engine::Server(server) => server,
        Engine::File => unreachable!("it is a server"),
    }
}

impl Receiver {
    /// Waits until a notification stays in quarantine for this reason.
    async fn stays_because(&self, reason: &str) {
        until_seen(async || {
            let page = self.looks("/notifications?state=quarantined").await;
            if_so(page["notifications"][0]["quarantine"] == reason, || {
                page.to_string()
            })
        })
        .await;
    }

    async fn are_unclear(&self, answers: u32) {
        until_so("the answers are unclear", async || {
            self.asked("unclear").await >= answers
        })
        .await;
    }
}

#[tokio::test]
async fn a_tenant_is_not_asked_about_if_another_one_has_or_has_had_its_account() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (engine, folder, receiver) = receiver(&gatepay).await;
    let account = acme().sub_account;
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    // Another instance registers a tenant that has the account, or had it: this one does not know it yet.
    server(&engine).sql(&format!(
        "INSERT INTO gatepay.incarnation VALUES ('former', 1, '{account}', 0)"
    ));
    receiver.acknowledges(&paid(&lost, "L-0001")).await;
    receiver.stays_because("shared_account").await;
    assert_eq!(asked_about(&gatepay, &lost), [""; 0]);
    receiver.program.stop().await;
    // After a start it is known from the beginning.
    let receiver = Receiver::start(&folder).await;
    server(&engine).sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined'");
    decided(server(&engine), 2).await;
    assert_eq!(asked_about(&gatepay, &lost), [""; 0]);
    server(&engine).sql("DELETE FROM gatepay.incarnation WHERE tenant = 'former'");
    receiver.program.stop().await;
    let receiver = Receiver::start(&folder).await;
    server(&engine).sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined'");
    receiver.is_placed(&lost).await;
    assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
    receiver.program.stop().await;
}

#[tokio::test]
async fn an_answer_that_one_tenant_has_the_object_stands_beside_an_unclear_one_about_another() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (_engine, _folder, receiver) = receiver(&gatepay).await;
    receiver.order(&globex(), "L-0001").await;
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    let fault = InjectedFault::Status {
        status: 503,
        body: Bytes::new(),
    };
    gatepay.inject(fault.always().on(ORDERS).of(globex().sub_account));
    receiver.acknowledges(&paid(&lost, "L-0001")).await;
    receiver.is_placed(&lost).await;
    assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
    assert_eq!(receiver.asked("unclear").await, 1);
    // The failed question was repeated from the quota's spare part.
    let counted = async |purpose: &str| {
        let series = format!("quota_own_calls_total{{purpose=\"{purpose}\"}}");
        receiver
            .program
            .metric(&series)
            .await
            .parse::<u32>()
            .unwrap()
    };
    let asked = asked_about(&gatepay, &lost).len();
    assert!(asked > 2, "{asked} look-ups");
    assert_eq!(counted("repeat").await, 0);
    receiver.program.stop().await;
}

#[tokio::test]
async fn notifications_for_which_gatepay_is_asked_keep_no_others_waiting_and_cost_tenants_nothing()
{
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (engine, _folder, receiver) = receiver(&gatepay).await;
    receiver.order(&acme(), "L-0001").await;
    let fault = InjectedFault::Delay(Duration::from_secs(20));
    gatepay.inject(fault.always().on(ORDERS).of(acme().sub_account));
    let many = 20;
    for number in 0..many {
        receiver
            .acknowledges(&paid(&format!("9000{number}"), "L-0001"))
            .await;
    }
    receiver.acknowledges(&paid("424242", "N-0001")).await;
    let server = server(&engine);
    server.sql(
        "UPDATE gatepay.event SET decide_at = CASE quarantine WHEN 'unproved' THEN 0 ELSE 1 END",
    );
    until("the other one is decided", || {
        let decided = "SELECT decisions FROM gatepay.event WHERE object = '424242'";
        server.sql(decided).trim() != "0"
    })
    .await;
    assert!(receiver.asked("unclear").await < many);
    // Acme's own calls go on.
    receiver.are_unclear(3).await;
    receiver.order(&acme(), "L-0002").await;
    receiver.program.stop().await;
}

#[tokio::test]
async fn while_all_calls_are_halted_gatepay_is_not_asked() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (engine, _folder, receiver) = receiver(&gatepay).await;
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    let (status, said) = receiver.orders("/-/halt?scope=all").await;
    assert_eq!(status, 200, "{said}");
    receiver.acknowledges(&paid(&lost, "L-0001")).await;
    receiver.are_unclear(1).await;
    assert_eq!(asked_about(&gatepay, &lost), [""; 0]);
    let (status, said) = receiver.orders("/-/halt/end?scope=all").await;
    assert_eq!(status, 200, "{said}");
    let began = Instant::now();
    while receiver.placed(&lost).await[0] == "quarantined" {
        assert!(began.elapsed() < PATIENCE, "{}", receiver.program.stderr());
        // The halt ends for this instance with its next sign of life.
        server(&engine)
            .sql("UPDATE gatepay.event SET decide_at = 0 WHERE state = 'quarantined' AND NOT asks");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(receiver.placed(&lost).await[1..], ["acme", "asked"]);
    receiver.program.stop().await;
}

#[tokio::test]
async fn the_news_of_a_refund_reaches_the_tenant_that_has_the_order() {
    if postgres::is_missing() {
        return;
    }
    let gatepay = GatePay::now();
    let (_engine, _folder, receiver) = receiver(&gatepay).await;
    let lost = receiver.lost_order(&gatepay, &acme(), "L-0001").await;
    let refund = json!({ "refundRequestId": "R-0001", "prepayId": lost, "refundAmount": "1" });
    receiver
        .call(&acme().post(REFUND, refund.to_string()))
        .await;
    let info = json!({ "refundRequestId": "R-0001", "prepayId": lost });
    receiver
        .acknowledges(&json!({
            "bizType": "PAY_REFUND", "bizId": "R-0001", "bizStatus": "REFUND_SUCCESS", "client_id": INSTITUTION_ID,
            "data": { "refundInfo": info },
        }))
        .await;
    receiver.shows(&quarantined("unproved")).await;
    receiver.is_placed("R-0001").await;
    assert_eq!(receiver.placed("R-0001").await[1..], ["acme", "asked"]);
    assert_eq!(asked_about(&gatepay, &lost), [acme().sub_account]);
    receiver.program.stop().await;
}
