//! Notifications over HTTP: their headers and kinds, their repetition by the sandbox's clock, and the own paths.

use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gatepay_core::notification::{
    ACKNOWLEDGMENT, NO_ACKNOWLEDGMENT, Notification, NotificationKind,
};
use gatepay_core::{Catalogue, ClientId, Credential, SecretKey};
use gatepay_sandbox::{NotificationSending, Sandbox, SandboxConfig, SendingFault, examples};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::RootCertStore;
use serde_json::{Value, json};
use sha2::Sha512;

use crate::receiver::{CallbackReceiver, ReceivedCallback, eventually};
use crate::support::{
    ACME, CREATE, NOW, call, config, create_body, credential, envelope, example, post, start,
};
use crate::tls::{acceptor, certificate};

/// A sandbox that notifies `url`.
fn notifying(url: &str, adjust: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
    let mut config = config();
    config.notifications = Some(NotificationSending::new(url, credential()));
    adjust(&mut config);
    start(config)
}

fn sending(config: &mut SandboxConfig) -> &mut NotificationSending {
    config.notifications.as_mut().unwrap()
}

/// Performs an example of an operation, and gives the data of the answer.
fn perform(sandbox: &Sandbox, operation: &str, set: impl FnOnce(&mut Value)) -> Value {
    let catalogue = Catalogue::standard();
    let row = catalogue.named(operation).unwrap();
    let mut asked = examples::prepare(sandbox, ACME, operation).unwrap();
    let mut body = serde_json::from_slice(&asked.body).unwrap();
    set(&mut body);
    asked.body = body.to_string().into();
    let path = row.institution_path.as_deref().unwrap();
    let (_, _, answer) = call(sandbox, &example(path, ACME, &asked));
    let mut answer: Value = serde_json::from_str(&answer).unwrap();
    answer["data"].take()
}

/// Waits until every notification is acknowledged or given up.
fn settle(sandbox: &Sandbox) {
    eventually(|| sandbox.notifications_waiting() == 0);
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The statuses of an object that have arrived, in the order of arrival.
fn statuses(receiver: &CallbackReceiver, kind: NotificationKind, object: &str) -> Vec<String> {
    let read = |one: &ReceivedCallback| Notification::read(&one.body);
    let arrived = receiver.received();
    let read = arrived.iter().map(read);
    read.filter(|read| read.kind == kind && read.object == object)
        .map(|read| read.status)
        .collect()
}

/// The signature of protocol.md 1.3, from the words of that section.
fn independent_signature(secret: &str, timestamp: &str, nonce: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha512>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{timestamp}\n{nonce}\n").as_bytes());
    mac.update(body);
    mac.update(b"\n");
    hex::encode(mac.finalize().into_bytes())
}

#[test]
fn a_payment_is_told_as_gatepay_tells_it() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&receiver.url("/gatepay?from=sandbox"), |_| {});
    let created = envelope(&sandbox, &post(CREATE, ACME, &create_body("order-1")));
    let prepay_id = text(&created["data"]["prepayId"]);
    assert_eq!(sandbox.notifications_waiting(), 0, "nothing is paid yet");
    sandbox.pay(ACME, prepay_id).unwrap();
    settle(&sandbox);

    let received = receiver.received();
    let [one] = received.as_slice() else {
        panic!("{} notifications", received.len());
    };
    assert_eq!(one.request_line, "POST /gatepay?from=sandbox HTTP/1.1");
    let mut names: Vec<_> = one.headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "host",
        "x-gatepay-nonce",
        "x-gatepay-signature",
        "x-gatepay-timestamp",
    ];
    assert_eq!(names, expected);
    let (timestamp, nonce) = (
        &one.headers["x-gatepay-timestamp"],
        &one.headers["x-gatepay-nonce"],
    );
    assert_eq!(*timestamp, NOW.to_string());
    assert!(nonce.len() == 32 && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let signature = independent_signature("c2VjcmV0", timestamp, nonce, &one.body);
    assert_eq!(one.headers["x-gatepay-signature"], signature);

    let body: Value = serde_json::from_slice(&one.body).unwrap();
    assert_eq!(
        (&body["bizType"], &body["bizStatus"], &body["bizId"]),
        (&json!("PAY"), &json!("PAY_SUCCESS"), &json!(prepay_id))
    );
    assert_eq!(body["client_id"], "institution");
    let data: Value = serde_json::from_str(text(&body["data"])).unwrap();
    assert_eq!(data["merchantTradeNo"], "order-1");
    assert!(
        !String::from_utf8_lossy(&one.body).contains(ACME),
        "no sample names the sub-account"
    );
}

#[test]
fn every_kind_of_business_is_told_with_its_object_and_statuses() {
    use NotificationKind as Kind;
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let url = receiver.url("/");
    let sandbox = notifying(&url, |_| {});
    let mut expected = Vec::new();
    let mut expect = |kind, object: &str, statuses: &'static [&'static str]| {
        expected.push((kind, object.to_owned(), statuses));
    };

    let refund = perform(&sandbox, "refund_order", |_| {});
    expect(Kind::Pay, text(&refund["prepayId"]), &["PAY_SUCCESS"]);
    let number = text(&refund["refundRequestId"]);
    expect(
        Kind::PayRefund,
        number,
        &["REFUND_PROCESS", "REFUND_SUCCESS"],
    );
    let placed = perform(&sandbox, "create_address_order", |_| {});
    let prepay_id = text(&placed["prepayId"]);
    sandbox.pay(ACME, prepay_id).unwrap();
    let arrival: &[&str] = &["TRANSFERRED_ADDRESS_IN_TERM"];
    expect(Kind::TransferAddress, &format!("0x{prepay_id}"), arrival);
    expect(Kind::PayAddress, prepay_id, &["PAY_SUCCESS"]);
    let mut closed = String::new();
    perform(&sandbox, "close_order", |asked| {
        text(&asked["prepayId"]).clone_into(&mut closed);
    });
    expect(Kind::Pay, &closed, &["PAY_CLOSE"]);
    let mut payout = Value::Null;
    perform(&sandbox, "create_payout", |asked| payout = asked.clone());
    let sub_order = text(&payout["withdraw_list"][0]["merchant_withdraw_id"]);
    let payout = format!("{} {sub_order}", text(&payout["batch_id"]));
    expect(Kind::Withdraw, &payout, &["INIT", "PROCESSING", "SUCCESS"]);
    let address = perform(&sandbox, "save_fixed_address", |asked| {
        asked["callbackUrl"] = json!(url);
    });
    let currency = text(&address["currencies"][0]);
    sandbox
        .deposit(text(&address["address"]), currency, "5")
        .unwrap();
    expect(Kind::PayFixedAddress, "D80000000001", &["PAY_SUCCESS"]);
    let batch = perform(&sandbox, "create_batch_transfer", |_| {});
    expect(Kind::PayBatch, text(&batch["batch_id"]), &["PAID"]);
    let card = perform(&sandbox, "create_gift_card", |_| {});
    expect(Kind::PayGiftBatch, text(&card["batchId"]), &["PAID"]);
    let otc = perform(&sandbox, "create_otc_order", |_| {});
    let otc_statuses: &[&str] = &["PROCESSING", "DISPATCHED", "DONE"];
    expect(Kind::Otc, text(&otc["orderId"]), otc_statuses);
    let deduction = perform(&sandbox, "deduct_subscription", |_| {});
    let number = text(&deduction["deductOrderNo"]);
    expect(Kind::AccountAuthDeduction, number, &["DEDUCT_SUCCESS"]);
    let subscription = text(&deduction["subscriptionOrderNo"]);
    sandbox.collect(subscription, "USDT", "2").unwrap();
    expect(Kind::SubscriptionPayment, "97000000001", &["SUCCESS"]);
    let account = perform(&sandbox, "create_account", |_| {});
    let account_statuses: &[&str] = &["INSTITUTION_ACCOUNT_SUCCESS"];
    expect(
        Kind::Institution,
        text(&account["request_id"]),
        account_statuses,
    );

    settle(&sandbox);
    for (kind, object, expected) in &expected {
        assert_eq!(
            statuses(&receiver, *kind, object),
            *expected,
            "{kind} {object}"
        );
    }
    for one in receiver.received() {
        assert_eq!(Notification::read(&one.body).fault, None);
    }
    let told: Vec<_> = expected.iter().map(|(kind, ..)| *kind).collect();
    let missing: Vec<_> = NotificationKind::ALL
        .iter()
        .filter(|kind| !told.contains(kind))
        .collect();
    let by_hand_only = [&Kind::FixedAddressRisk, &Kind::Unknown];
    assert_eq!(missing, by_hand_only);
    let payout = receiver.received().into_iter().find_map(|one| {
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        body.get("main_order").cloned()
    });
    assert_eq!(payout.unwrap()["client_id"], "institution");
}

#[test]
fn an_address_and_a_subscription_are_told_at_their_own_url() {
    let institution = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let own = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&institution.url("/"), |_| {});
    let address = perform(&sandbox, "save_fixed_address", |asked| {
        asked["callbackUrl"] = json!(own.url("/address"));
    });
    let currency = text(&address["currencies"][0]);
    sandbox
        .deposit(text(&address["address"]), currency, "5")
        .unwrap();
    let subscription = perform(&sandbox, "create_subscription", |asked| {
        asked["callbackUrl"] = json!(own.url("/subscription"));
    });
    let id = text(&subscription["subscriptionOrderNo"]);
    sandbox.collect(id, "USDT", "2").unwrap();
    perform(&sandbox, "deduct_subscription", |asked| {
        let asked = asked.as_object_mut().unwrap();
        asked.remove("merchantSubscriptionOrderNo");
        asked.insert("subscriptionOrderNo".to_owned(), json!(id));
    });
    settle(&sandbox);
    let mut lines: Vec<_> = own
        .received()
        .into_iter()
        .map(|one| one.request_line)
        .collect();
    lines.sort();
    let subscription = "POST /subscription HTTP/1.1";
    assert_eq!(
        lines,
        ["POST /address HTTP/1.1", subscription, subscription]
    );
    assert!(institution.received().is_empty());
}

#[test]
fn an_unacknowledged_notification_comes_again_by_the_sandboxs_clock() {
    let receiver = CallbackReceiver::start(200, NO_ACKNOWLEDGMENT);
    let clock = Arc::new(AtomicU64::new(NOW));
    let told = Arc::clone(&clock);
    let sandbox = notifying(&receiver.url("/"), |config| {
        config.clock = Arc::new(move || told.load(Ordering::Relaxed));
    });
    sandbox.notify("{}").unwrap();
    eventually(|| sandbox.notifications_sent().len() == 1);
    clock.store(NOW + 15_000, Ordering::Relaxed);
    eventually(|| sandbox.notifications_sent().len() == 2);
    receiver.answer(200, ACKNOWLEDGMENT);
    clock.store(NOW + 30_000, Ordering::Relaxed);
    settle(&sandbox);
    let sent = sandbox.notifications_sent();
    let attempts: Vec<_> = sent
        .iter()
        .map(|sent| (sent.attempt, sent.at_ms - NOW, sent.acknowledged))
        .collect();
    assert_eq!(
        attempts,
        [(1, 0, false), (2, 15_000, false), (3, 30_000, true)]
    );
    let nonces: std::collections::BTreeSet<_> = sent.iter().map(|sent| &sent.nonce).collect();
    assert_eq!(nonces.len(), 3, "each attempt has a stamp of its own");
}

#[test]
fn a_silent_receiver_holds_up_no_other() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&receiver.url("/"), |config| {
        sending(config).answer_timeout = Duration::from_mins(10);
    });
    let url = format!("http://{}/", silent.local_addr().unwrap());
    sandbox.notify_at(&url, "{}").unwrap();
    sandbox.notify("{}").unwrap();
    eventually(|| !sandbox.notifications_sent().is_empty());
    let sent = &sandbox.notifications_sent()[0];
    assert_eq!((sent.id, sent.acknowledged), (2, true));
    assert_eq!(sandbox.notifications_waiting(), 1);
}

#[test]
fn an_attempt_without_an_answer_ends_in_time_and_is_repeated() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let sandbox = notifying(&url, |config| {
        sending(config).answer_timeout = Duration::from_millis(1);
        sending(config).speed = NonZeroU32::MAX;
    });
    sandbox.notify("{}").unwrap();
    eventually(|| sandbox.notifications_waiting() == 0);
    let sent = sandbox.notifications_sent();
    assert_eq!(sent.len(), 16, "the schedule has 15 repetitions");
    for sent in sent {
        assert_eq!(sent.error.as_deref(), Some("no answer in time"));
    }
}

#[test]
fn a_sub_accounts_creation_is_told_once_the_account_is_active() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let clock = Arc::new(AtomicU64::new(NOW));
    let told = Arc::clone(&clock);
    let sandbox = notifying(&receiver.url("/"), |config| {
        config.account_delay = Duration::from_mins(1);
        config.clock = Arc::new(move || told.load(Ordering::Relaxed));
    });
    perform(&sandbox, "create_account", |_| {});
    assert_eq!(sandbox.notifications_waiting(), 1);
    clock.store(NOW + 60_000, Ordering::Relaxed);
    settle(&sandbox);
    assert_eq!(sandbox.notifications_sent()[0].at_ms, NOW + 60_000);
    let received = receiver.received();
    let body: Value = serde_json::from_slice(&received[0].body).unwrap();
    let data: Value = serde_json::from_str(text(&body["data"])).unwrap();
    assert!(!text(&data["account_id"]).is_empty());
    assert_eq!(
        (&data["status"], &data["created"]),
        (&json!("ACTIVE"), &json!(NOW))
    );
}

#[test]
fn the_own_paths_send_by_hand_and_list_what_was_sent() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let other = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&receiver.url("/"), |_| {});
    let notify = |body: Value| {
        let sent = envelope(
            &sandbox,
            &post("/-/sandbox/notify", ACME, &body.to_string()),
        );
        settle(&sandbox);
        sent
    };
    assert_eq!(notify(json!({"body": "no JSON"}))["data"]["id"], 1);
    let risk = json!({"bizType": "FIXED_ADDRESS_RISK", "bizId": "88"});
    assert_eq!(notify(json!({"body": risk}))["data"]["id"], 2);
    assert_eq!(notify(json!({"id": 1}))["data"]["id"], 3);
    let elsewhere = json!({"body": "x", "url": other.url("/elsewhere")});
    assert_eq!(notify(elsewhere)["data"]["id"], 4);
    let far = json!({"body": "x", "url": "http://192.0.2.1/"});
    assert_eq!(notify(far)["code"], "400624");
    assert_eq!(notify(json!({"id": 9}))["code"], "400202");
    assert_eq!(notify(json!({}))["code"], "400001");

    let bodies: Vec<_> = receiver
        .received()
        .into_iter()
        .map(|one| one.body)
        .collect();
    let risk = risk.to_string().into_bytes();
    assert_eq!(bodies, [b"no JSON".to_vec(), risk, b"no JSON".to_vec()]);
    assert_eq!(other.received()[0].request_line, "POST /elsewhere HTTP/1.1");

    let request = "GET /-/sandbox/notifications HTTP/1.1\r\nHost: sandbox\r\n\r\n";
    let (_, _, listed) = call(&sandbox, request.as_bytes());
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let first = &listed[0];
    assert_eq!(
        (&first["id"], &first["attempt"], &first["body"]),
        (&json!(1), &json!(1), &json!("no JSON"))
    );
    assert_eq!(
        (&first["answerStatus"], &first["answerBody"]),
        (&json!(200), &json!(ACKNOWLEDGMENT))
    );
    assert_eq!(listed.as_array().unwrap().len(), 4);
    for sent in sandbox.notifications_sent() {
        assert!(!listed.to_string().contains(&sent.signature));
        assert!(!format!("{sent:?}").contains(&sent.signature));
    }
}

#[test]
fn faults_strike_on_the_wire() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&receiver.url("/"), |_| {});
    sandbox.inject_sending(SendingFault::WrongSignature.once());
    sandbox.inject_sending(SendingFault::NotJson.always().of_kind("PAY_REFUND"));
    perform(&sandbox, "refund_order", |_| {});
    settle(&sandbox);
    let received = receiver.received();
    assert_eq!(received.len(), 3);
    for (one, forged) in received.iter().zip([true, false, false]) {
        let (timestamp, nonce) = (
            &one.headers["x-gatepay-timestamp"],
            &one.headers["x-gatepay-nonce"],
        );
        let signature = independent_signature("c2VjcmV0", timestamp, nonce, &one.body);
        let is_right = one.headers["x-gatepay-signature"] == signature;
        assert_eq!(is_right, !forged);
        assert_eq!(Notification::read(&one.body).fault.is_none(), forged);
    }
    sandbox.clear_faults();
    perform(&sandbox, "refund_order", |_| {});
    settle(&sandbox);
    let read = receiver.received().split_off(3).into_iter();
    let mut read = read.map(|one| Notification::read(&one.body));
    assert!(read.all(|read| read.fault.is_none()));
}

#[test]
fn after_a_change_of_the_credential_the_new_secret_signs() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = notifying(&receiver.url("/"), |_| {});
    let secret = SecretKey::new("new".to_owned().into()).unwrap();
    let id = ClientId::parse("institution-2").unwrap();
    sandbox.sign_notifications_with(Credential::new(id, &secret));
    perform(&sandbox, "refund_order", |_| {});
    settle(&sandbox);
    for one in receiver.received() {
        let (timestamp, nonce) = (
            &one.headers["x-gatepay-timestamp"],
            &one.headers["x-gatepay-nonce"],
        );
        let signature = independent_signature("new", timestamp, nonce, &one.body);
        assert_eq!(one.headers["x-gatepay-signature"], signature);
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        assert_eq!(body["client_id"], "institution-2");
    }
}

#[test]
fn https_needs_a_receiver_that_the_trust_anchor_vouches_for() {
    let receiver = CallbackReceiver::start_tls(200, ACKNOWLEDGMENT, acceptor());
    let url = receiver.url("/").replace("127.0.0.1", "localhost");
    for trusted in [true, false] {
        let mut roots = RootCertStore::empty();
        if trusted {
            roots.add(certificate()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let sandbox = notifying(&url, |config| sending(config).tls = Some(Arc::new(tls)));
        sandbox.notify("{}").unwrap();
        eventually(|| !sandbox.notifications_sent().is_empty());
        let sent = &sandbox.notifications_sent()[0];
        assert_eq!(sent.acknowledged, trusted, "{sent:?}");
        assert_eq!(receiver.received().len(), 1);
    }
}

#[test]
fn without_the_setting_nothing_is_sent() {
    let receiver = CallbackReceiver::start(200, ACKNOWLEDGMENT);
    let sandbox = start(config());
    let address = perform(&sandbox, "save_fixed_address", |asked| {
        asked["callbackUrl"] = json!(receiver.url("/"));
    });
    let currency = text(&address["currencies"][0]);
    sandbox
        .deposit(text(&address["address"]), currency, "5")
        .unwrap();
    let body = json!({"body": {}, "url": receiver.url("/")}).to_string();
    let refused = envelope(&sandbox, &post("/-/sandbox/notify", ACME, &body));
    assert_eq!(refused["code"], "400624");
    assert_eq!(sandbox.notifications_sent(), []);
    assert!(receiver.received().is_empty());
}

#[test]
fn a_callback_url_that_must_not_be_called_is_refused_at_the_start() {
    for url in [
        "http://192.0.2.1/",
        "https://notify.example/",
        "ftp://127.0.0.1/",
    ] {
        let mut config = config();
        config.notifications = Some(NotificationSending::new(url, credential()));
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let refused = Sandbox::start(config, address).unwrap_err();
        assert!(refused.to_string().contains(url), "{refused}");
    }
}
