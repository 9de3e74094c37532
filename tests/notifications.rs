//! GatePay's notifications, from its signed call to the store: of one process with a file, and with a real PostgreSQL.

mod approvals;
mod asking;
mod candidates;
mod delivered;
mod endpoints;
mod finding;
mod import;
mod kills;
mod neighbors;
mod operators;
mod orders;
mod pull;
mod queries;
mod rotating;
mod settled;
mod strangers;
mod takeover;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatepay_core::{FreshStamp, SecretKey, SigningKey, sign};
use gatepay_proxy::process::clock::{self, Clock};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::postgres::{self, PgServer};
use crate::support::program::{Folder, Program, printed, run};
use crate::support::scripted::{self, Scripted};
use crate::support::*;

const ACKNOWLEDGED: &str = r#"{"returnCode":"SUCCESS","returnMessage":""}"#;
const NOT_ACKNOWLEDGED: &str = r#"{"returnCode":"FAIL","returnMessage":""}"#;
const PATH: &str = "/gatepay";
const SAVE_ADDRESS: &str = "/v1/pay/fixedaddress/save";

/// A store: a file, or a server.
enum Engine {
    File,
    Server(Box<PgServer>),
}

/// Both engines; a file alone where PostgreSQL is not installed.
async fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::File];
    if !postgres::is_missing() {
        engines.push(Engine::Server(Box::new(PgServer::migrated().await)));
    }
    engines
}

/// A folder of acme and globex with notifications in this store.
fn folder(url: &str, engine: &Engine) -> Folder {
    let folder = Folder::before(url);
    let table = "notifications = { listen = '127.0.0.1:0', public_url = 'https://notify.example.com/gatepay' }";
    match engine {
        Engine::Server(server) => folder.uses_a_store(&[server.port], ", timeout_ms = 10_000"),
        Engine::File => {
            folder.proxy("timestamp = { future_ms = 300 }\nstore = { path = 'store/gatepay.db' }");
            fs::create_dir(folder.path("store")).unwrap();
        }
    }
    folder.proxy(table);
    if matches!(engine, Engine::File) {
        let (said, code) = printed(&run(&[
            "store",
            "migrate",
            "--config",
            &folder.name("proxy.toml"),
        ]));
        assert_eq!(code, Some(0), "{said}");
    }
    let endpoint =
        "notifications = { url = 'https://shop.example/hook', urls = ['https://b.example'] }";
    let limits = "limits = { in_flight = 1000, requests_per_second = 1000 }";
    folder.tenant(&acme(), &format!("{endpoint}\n{limits}"));
    folder
}

/// A program that receives notifications.
struct Receiver {
    program: Program,
    address: SocketAddr,
}

impl Receiver {
    async fn start(folder: &Folder) -> Self {
        let program = Program::serve(folder).await;
        program.until_ready().await;
        let began = Instant::now();
        let line = loop {
            let lines = program.stderr();
            let line = lines
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "receiving GatePay's notifications");
            if let Some(line) = line {
                break line;
            }
            assert!(began.elapsed() < PATIENCE, "{lines}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let address = line["address"].as_str().unwrap().parse().unwrap();
        Self { program, address }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (u16, String) {
        let mut connection = Connection::open(self.address).await;
        let answer = connection.send(request).await;
        (
            answer.status,
            String::from_utf8(answer.body.to_vec()).unwrap(),
        )
    }

    /// Sends a notification at this path, and returns the status and the body of the answer.
    async fn notify_at(&self, path: &str, body: &Value) -> (u16, String) {
        self.send(notification(path, body, INSTITUTION_SECRET))
            .await
    }

    /// Sends a notification until the tenants are registered and it is acknowledged.
    async fn acknowledges(&self, body: &Value) {
        let began = Instant::now();
        loop {
            let (status, text) = self.notify_at(PATH, body).await;
            if status == 200 {
                assert_eq!(text, ACKNOWLEDGED);
                return;
            }
            assert_eq!((status, &*text), (503, NOT_ACKNOWLEDGED));
            assert!(began.elapsed() < PATIENCE, "{}", self.program.stderr());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The log lines with this message.
    fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.program.stderr();
        let lines = lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Waits until the newest notification in the log has this tenant, state and reason.
    async fn shows(&self, expected: &StoredAs) {
        let began = Instant::now();
        loop {
            let lines = self.logged("notification");
            let newest = lines.last().map(|line| {
                let text = |key: &str| line[key].as_str().map(str::to_owned);
                (text("tenant"), text("state").unwrap(), text("quarantine"))
            });
            if newest.as_ref() == Some(expected) {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{newest:?} and not {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn received(&self, kind: &str, result: &str) -> String {
        let series = format!("notifications_received_total{{kind=\"{kind}\",result=\"{result}\"}}");
        self.program.metric(&series).await
    }

    /// Creates an order of a tenant's, and returns GatePay's id.
    async fn order(&self, shop: &Shop, number: &str) -> String {
        let answer = self.call(&shop.post(CREATE, order(number))).await;
        let id = answer.json()["data"]["prepayId"].clone();
        let id = id.as_str().unwrap_or_else(|| panic!("{}", answer.text()));
        self.has_recorded(id).await;
        id.to_owned()
    }

    /// Waits until the ledger has a key: the ids of an answer are written after it, and news that outruns them waits in quarantine.
    async fn has_recorded(&self, key: &str) {
        let path = format!("/find?id={key}");
        until_so("the ledger has the key", async || {
            let found = self.program.admin("GET", &path).await.json();
            let mut entries = found["entries"].as_array().into_iter().flatten();
            entries.any(|it| it["source"] == "ledger")
        })
        .await;
    }

    async fn call(&self, call: &Call) -> Answer {
        send_to_instance(self.program.address, &call.request(&Clock::system())).await
    }
}

/// A signed call of GatePay's.
fn notification(path: &str, body: &Value, secret: &str) -> Request<Full<Bytes>> {
    let body = body.to_string();
    let key = SigningKey::new(&SecretKey::new(secret.to_owned().into()).unwrap());
    let stamp = FreshStamp::new(Clock::system().unix_ms(), clock::random());
    let signature = sign(&key, &stamp.as_stamp(), body.as_bytes()).to_string();
    Request::post(path)
        .header("host", "notify.example.com")
        .header("content-type", "application/json")
        .header("x-gatepay-timestamp", stamp.as_stamp().timestamp())
        .header("x-gatepay-nonce", stamp.as_stamp().nonce())
        .header("x-gatepay-signature", signature)
        .body(Full::new(body.into()))
        .unwrap()
}

/// The news that an order is paid.
fn paid(prepay_id: &str, number: &str) -> Value {
    json!({
        "bizType": "PAY", "bizId": prepay_id, "bizStatus": "PAY_SUCCESS", "client_id": INSTITUTION_ID,
        "data": json!({ "merchantTradeNo": number, "totalFee": "1" }).to_string(),
    })
}

/// Tenant, state and reason of a stored notification.
type StoredAs = (Option<String>, String, Option<String>);

fn owned(tenant: &str) -> StoredAs {
    (Some(tenant.to_owned()), "waiting".to_owned(), None)
}

fn quarantined(reason: &str) -> StoredAs {
    (None, "quarantined".to_owned(), Some(reason.to_owned()))
}

#[tokio::test]
async fn a_notification_is_stored_for_the_tenant_that_made_the_order_and_acknowledged_once() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        // Two tenants choose the same number; GatePay's id tells their orders apart.
        let acmes = receiver.order(&acme(), "A-0001").await;
        let globexs = receiver.order(&globex(), "A-0001").await;
        receiver.acknowledges(&paid(&acmes, "A-0001")).await;
        receiver.shows(&owned("acme")).await;
        receiver.acknowledges(&paid(&globexs, "A-0001")).await;
        receiver.shows(&owned("globex")).await;
        assert_eq!(receiver.received("PAY", "new").await, "2");
        // The same once more is the same event.
        receiver.acknowledges(&paid(&acmes, "A-0001")).await;
        assert_eq!(receiver.received("PAY", "duplicate").await, "1");
        assert_eq!(receiver.received("PAY", "new").await, "2");
        // The number alone leads to both, and proves neither.
        let number = json!({ "bizType": "PAY", "bizStatus": "PAY_CLOSE", "data": { "merchantTradeNo": "A-0001" } });
        receiver.acknowledges(&number).await;
        receiver.shows(&quarantined("unproved")).await;
        // News about the institution is the operators'.
        let account = json!({ "bizType": "INSTITUTION", "bizStatus": "INSTITUTION_ACCOUNT_SUCCESS", "data": { "request_id": "r", "account_id": "9" } });
        receiver.acknowledges(&account).await;
        receiver.shows(&(None, "operator".to_owned(), None)).await;
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_notification_with_a_wrong_signature_is_refused_and_counted() {
    let gatepay = GatePay::now();
    let folder = folder(&gatepay.url(), &Engine::File);
    let receiver = Receiver::start(&folder).await;
    let body = paid("1", "A-0001");
    let forged = notification(PATH, &body, acme().secret);
    let refused = (401, NOT_ACKNOWLEDGED.to_owned());
    assert_eq!(receiver.send(forged).await, refused);
    assert_eq!(receiver.received("UNKNOWN", "unsigned").await, "1");
    let mut changed = notification(PATH, &body, INSTITUTION_SECRET);
    *changed.body_mut() = Full::new("{}".into());
    changed.headers_mut().remove("content-length");
    assert_eq!(receiver.send(changed).await, refused);
    let mut bare = notification(PATH, &body, INSTITUTION_SECRET);
    bare.headers_mut().remove("x-gatepay-signature");
    assert_eq!(receiver.send(bare).await, refused);
    assert_eq!(receiver.received("UNKNOWN", "unsigned").await, "2");
    assert_eq!(receiver.received("UNKNOWN", "malformed").await, "1");
    // Paths, methods and sizes that GatePay does not use.
    let not_found = receiver.notify_at("/elsewhere", &body).await;
    assert_eq!(not_found, (404, NOT_ACKNOWLEDGED.to_owned()));
    let mut get = notification(PATH, &body, INSTITUTION_SECRET);
    *get.method_mut() = http::Method::GET;
    assert_eq!(receiver.send(get).await.0, 405);
    let long = json!({ "bizType": "PAY", "data": "x".repeat(1 << 20) });
    assert_eq!(receiver.notify_at(PATH, &long).await.0, 413);
    assert_eq!(receiver.received("PAY", "new").await, "0");
    receiver.program.stop().await;
}

#[tokio::test]
async fn without_its_store_a_notification_is_not_acknowledged() {
    if postgres::is_missing() {
        return;
    }
    let (gatepay, engine) = (GatePay::now(), PgServer::migrated().await);
    let mut engine = Engine::Server(Box::new(engine));
    let folder = folder(&gatepay.url(), &engine);
    let receiver = Receiver::start(&folder).await;
    let id = receiver.order(&acme(), "A-0001").await;
    receiver.acknowledges(&paid(&id, "A-0001")).await;
    let Engine::Server(server) = &mut engine else {
        unreachable!("it is a server");
    };
    server.kill();
    let later = paid(&id, "A-0001 again");
    let away = receiver.notify_at(PATH, &later).await;
    assert_eq!(away, (503, NOT_ACKNOWLEDGED.to_owned()));
    assert_eq!(receiver.received("PAY", "failed").await, "1");
    server.start_again();
    receiver.acknowledges(&later).await;
    receiver.shows(&owned("acme")).await;
    receiver.program.stop().await;
}

#[tokio::test]
async fn a_notification_before_the_answer_waits_until_the_ledger_learns_its_order() {
    for engine in engines().await {
        let mut id = 5_062_036_807_u64;
        in_one_of_some_looks(async || {
            id += 1;
            let created =
                format!(r#"{{"status":"SUCCESS","code":"000000","data":{{"prepayId":"{id}"}}}}"#);
            let upstream = Scripted::body(&created);
            let folder = folder(&upstream.url(), &engine);
            let receiver = Receiver::start(&folder).await;
            let began = Instant::now();
            receiver
                .acknowledges(&paid(&id.to_string(), "A-0001"))
                .await;
            receiver.shows(&quarantined("no_holder")).await;
            assert_eq!(receiver.order(&acme(), "A-0001").await, id.to_string());
            until("it has left quarantine", || {
                let left = receiver.logged("a notification has left quarantine");
                !left.is_empty()
            })
            .await;
            let waited = began.elapsed();
            receiver.program.stop().await;
            // Not by its first repetition, which comes 5 s after it was stored, but at once.
            if_so(waited < Duration::from_secs(5), || format!("{waited:?}"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_kill_after_the_acknowledgment_loses_nothing() {
    for engine in engines().await {
        let gatepay = GatePay::now();
        let folder = folder(&gatepay.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        let id = receiver.order(&acme(), "A-0001").await;
        // The order's id is in the ledger before the kill; its notification shows that.
        receiver.acknowledges(&paid(&id, "A-0001")).await;
        let sent: Vec<Value> = (0..20).map(|n| paid(&id, &format!("A-{n}"))).collect();
        for body in &sent {
            receiver.acknowledges(body).await;
        }
        receiver.program.signal("-KILL");
        let _ended = receiver.program.end().await;
        let receiver = Receiver::start(&folder).await;
        for body in &sent {
            receiver.acknowledges(body).await;
        }
        assert_eq!(receiver.received("PAY", "duplicate").await, "20");
        assert_eq!(receiver.received("PAY", "new").await, "0");
        receiver.program.stop().await;
    }
}

/// The body of a call that saves a fixed address.
fn address(callback: &str) -> String {
    json!({ "channelId": "c1", "chain": "ETH", "currencies": "USDT", "callbackUrl": callback })
        .to_string()
}

#[tokio::test]
async fn a_callback_url_of_a_fixed_address_becomes_the_proxys_own() {
    for engine in engines().await {
        let upstream = Scripted::each(|_| {
            let saved =
                r#"{"status":"SUCCESS","code":"000000","data":{"chain":"ETH","address":"0xabc"}}"#;
            Some(scripted::answer("200 OK", "", saved.as_bytes()))
        });
        let folder = folder(&upstream.url(), &engine);
        let receiver = Receiver::start(&folder).await;
        let body = address("https://b.example/deposits?shop=1");
        let saved = receiver
            .call(&acme().post(SAVE_ADDRESS, body.clone()))
            .await;
        assert_eq!(
            (saved.status, saved.refusal()),
            (200, None),
            "{}",
            saved.text()
        );
        let sent = String::from_utf8(upstream.bodies().pop().unwrap()).unwrap();
        let begin = "https://notify.example.com/gatepay/n/";
        let (before, rest) = sent.split_once(begin).unwrap_or_else(|| panic!("{sent}"));
        let (token, after) = rest.split_once('"').unwrap();
        let whole = format!("{before}https://b.example/deposits?shop=1\"{after}");
        assert_eq!(whole, body, "all other bytes are the tenant's");
        // The same URL has the same token.
        receiver.call(&acme().post(SAVE_ADDRESS, body)).await;
        assert!(upstream.received_text().matches(token).count() == 2);
        // A call to the token is the tenant's, although nothing in it names the tenant.
        let deposit = json!({ "bizType": "PAY_FIXED_ADDRESS", "bizId": "d1", "bizStatus": "PAY_SUCCESS", "data": {} });
        let answer = receiver
            .notify_at(&format!("/gatepay/n/{token}"), &deposit)
            .await;
        assert_eq!(answer, (200, ACKNOWLEDGED.to_owned()));
        receiver.shows(&owned("acme")).await;
        // A URL that is neither acme's endpoint nor of one of its origins, and a tenant without any.
        let before = upstream.count();
        for (shop, url) in [
            (acme(), "https://shop.example/other"),
            (acme(), "https://b.example.evil.example/"),
            (acme(), "http://b.example/"),
            (globex(), "https://b.example/deposits"),
        ] {
            let refused = receiver.call(&shop.post(SAVE_ADDRESS, address(url))).await;
            assert_eq!(refused.refused(), (403, "operation_not_allowed"), "{url}");
        }
        assert_eq!(upstream.count(), before);
        receiver.program.stop().await;
    }
}
