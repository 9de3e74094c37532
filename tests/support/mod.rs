//! The small language of these tests: a GatePay, a proxy before it, and shops that sign.
//!
//! ```text
//! let gatepay = GatePay::start();
//! let proxy = Proxy::before(&gatepay).tenant(acme().requests_per_second(1)).start();
//! assert_eq!(proxy.send(acme().post(QUERY, BY_NUMBER)).await.status, 200);
//! ```
//!
//! All of them share one clock, which stands still until a test moves it; ports are chosen by the system.

pub(crate) mod scripted;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::{Catalogue, ClientId, Credential, SecretKey, header, sign};
use gatepay_proxy::clock::Clock;
use gatepay_proxy::headers;
use gatepay_proxy::server::{Ended, Server};
use gatepay_sandbox::{Config, Received, Sandbox, SubAccount as Account};
use gatepay_tenancy::settings::{Institution, Settings, UpstreamUrl};
use gatepay_tenancy::{
    Configuration, DatedCredential, Rate, Registry, SubAccount, Tenant, TenantId,
};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// When these tests take place: the first moment of 2026.
pub(crate) const T0: u64 = 1_767_225_600_000;

pub(crate) const CREATE: &str = "/v1/pay/order";
pub(crate) const QUERY: &str = "/v1/pay/order/query";
pub(crate) const CLOSE: &str = "/v1/pay/order/close";
pub(crate) const REFUND: &str = "/v1/pay/order/refund";
pub(crate) const REFUND_QUERY: &str = "/v1/pay/order/refund/query";
/// Where those paths lead.
pub(crate) const PREFIX: &str = "/payment/open/institution";

pub(crate) const BY_NUMBER: &str = r#"{"merchantTradeNo":"A-0001"}"#;

pub(crate) const INSTITUTION_ID: &str = "institution-fake";
pub(crate) const INSTITUTION_SECRET: &str = "fake-institution-secret-9999";

/// The body that creates an order of that number.
pub(crate) fn order(number: &str) -> String {
    format!(
        r#"{{"merchantTradeNo":"{number}","env":{{"terminalType":"APP"}},"currency":"USDT","orderAmount":"1.21","goods":{{"goodsName":"NF2T"}}}}"#
    )
}

/// A credential whose secret everybody may see.
pub(crate) fn credential(client_id: &str, secret: &str) -> Credential {
    let secret = SecretKey::new(Zeroizing::new(secret.to_owned())).expect("a good secret");
    Credential::new(
        ClientId::parse(client_id).expect("a good client id"),
        &secret,
    )
}

/// The institution's, as GatePay and the proxy know it.
pub(crate) fn institution() -> Credential {
    credential(INSTITUTION_ID, INSTITUTION_SECRET)
}

/// The emulator, with an account for each shop.
pub(crate) struct GatePay {
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Clock,
}

impl GatePay {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// Starts with whatever else the test needs.
    pub(crate) fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let clock = Clock::manual(T0);
        let told = clock.clone();
        let mut config = Config::new(institution(), Arc::new(move || told.unix_ms()));
        config.sub_accounts = [acme(), globex()]
            .map(|shop| Account::active(shop.sub_account))
            .into();
        adjust(&mut config);
        let sandbox = Sandbox::start(config, any_port()).expect("a port is free");
        Self { sandbox, clock }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.sandbox.address())
    }

    /// What it got last.
    pub(crate) fn last(&self) -> Received {
        self.sandbox
            .received()
            .pop()
            .expect("GatePay got something")
    }

    pub(crate) fn count(&self) -> usize {
        self.sandbox.received().len()
    }
}

/// A sub-merchant: its shop's credential, and how the proxy knows it.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) id: &'static str,
    pub(crate) client_id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) sub_account: &'static str,
    adjust: Vec<Arc<dyn Fn(&mut Tenant) + Send + Sync>>,
}

pub(crate) fn acme() -> Shop {
    Shop::new("acme", "client-acme", "fake-acme-secret-0001", "2124538349")
}

pub(crate) fn globex() -> Shop {
    Shop::new(
        "globex",
        "client-globex",
        "fake-globex-secret-0002",
        "2124538350",
    )
}

impl Shop {
    pub(crate) fn new(
        id: &'static str,
        client_id: &'static str,
        secret: &'static str,
        sub_account: &'static str,
    ) -> Self {
        Self {
            id,
            client_id,
            secret,
            sub_account,
            adjust: Vec::new(),
        }
    }

    /// Changes how the proxy is configured for it.
    pub(crate) fn with(mut self, adjust: impl Fn(&mut Tenant) + Send + Sync + 'static) -> Self {
        self.adjust.push(Arc::new(adjust));
        self
    }

    pub(crate) fn rate(self, per_second: u32, burst: u32) -> Self {
        self.with(move |tenant| tenant.limits.all = rate(per_second, burst))
    }

    pub(crate) fn seats(self, seats: u32) -> Self {
        self.with(move |tenant| {
            tenant.limits.in_flight = NonZeroU32::new(seats).expect("at least one")
        })
    }

    pub(crate) fn credential(&self) -> Credential {
        credential(self.client_id, self.secret)
    }

    fn tenant(&self) -> Tenant {
        let id = TenantId::parse(self.id).expect("a good id");
        let account = SubAccount::parse(self.sub_account).expect("a good account");
        let credentials = vec![DatedCredential::undated(self.credential())];
        let mut tenant = Tenant::new(id, account, &Catalogue::standard(), credentials);
        tenant.limits.all = rate(10_000, 10_000);
        tenant.limits.in_flight = NonZeroU32::new(1_000).expect("not zero");
        self.adjust.iter().for_each(|adjust| adjust(&mut tenant));
        tenant
    }

    /// A request of this shop's, to be signed when it is sent.
    pub(crate) fn post(&self, path: &str, body: impl Into<Bytes>) -> Call {
        Call::new(self, Method::POST, path, body.into())
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        Call::new(self, Method::GET, path, Bytes::new())
    }
}

pub(crate) fn rate(per_second: u32, burst: u32) -> Rate {
    Rate {
        per_second: NonZeroU32::new(per_second).expect("at least one"),
        burst: NonZeroU32::new(burst).expect("at least one"),
    }
}

/// A request in the making.
#[derive(Clone)]
pub(crate) struct Call {
    shop: Shop,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Bytes,
    /// What was signed, where it is not what is sent.
    signed_body: Option<Bytes>,
    timestamp: Option<String>,
    nonce: Option<String>,
    secret: Option<&'static str>,
    more: Vec<(String, String)>,
    less: Vec<String>,
}

impl Call {
    fn new(shop: &Shop, method: Method, path: &str, body: Bytes) -> Self {
        Self {
            shop: shop.clone(),
            method,
            path: path.to_owned(),
            body,
            signed_body: None,
            timestamp: None,
            nonce: None,
            secret: None,
            more: Vec::new(),
            less: Vec::new(),
        }
    }

    pub(crate) fn timestamp(mut self, text: impl ToString) -> Self {
        self.timestamp = Some(text.to_string());
        self
    }

    pub(crate) fn nonce(mut self, text: &str) -> Self {
        self.nonce = Some(text.to_owned());
        self
    }

    /// Signs other bytes than are sent.
    pub(crate) fn signing(mut self, body: impl Into<Bytes>) -> Self {
        self.signed_body = Some(body.into());
        self
    }

    /// Signs with another secret than the shop's.
    pub(crate) fn secret(mut self, secret: &'static str) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Adds a header line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a header out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.less.push(name.to_ascii_lowercase());
        self
    }

    /// The header lines, signed at the clock's time.
    pub(crate) fn lines(&self, clock: &Clock) -> Vec<(String, String)> {
        let fresh = clock.stamp();
        let timestamp = self
            .timestamp
            .clone()
            .unwrap_or_else(|| fresh.as_stamp().timestamp().to_owned());
        let nonce = self
            .nonce
            .clone()
            .unwrap_or_else(|| fresh.as_stamp().nonce().to_owned());
        let credential = credential(self.shop.client_id, self.secret.unwrap_or(self.shop.secret));
        let body = self.signed_body.as_ref().unwrap_or(&self.body);
        let signature = match gatepay_core::Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()) {
            Ok(stamp) => sign(&credential.key, &stamp, body).to_string(),
            // A stamp no client could sign is refused before its signature is looked at.
            Err(_) => "0".repeat(128),
        };
        let mut lines: Vec<(String, String)> = vec![
            ("host".into(), "pay.example".into()),
            (header::CLIENT_ID.into(), self.shop.client_id.into()),
            (header::TIMESTAMP.into(), timestamp),
            (header::NONCE.into(), nonce),
            (header::SIGNATURE.into(), signature),
        ];
        if !self.body.is_empty()
            && !self
                .more
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        {
            lines.push(("content-type".into(), "application/json".into()));
        }
        lines.retain(|(name, _)| !self.less.contains(name));
        lines.extend(self.more.iter().cloned());
        lines
    }

    /// As a request for a client library.
    pub(crate) fn request(&self, clock: &Clock) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path);
        for (name, value) in self.lines(clock) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(self.body.clone()))
            .expect("a well-formed request")
    }

    /// As bytes for a raw socket, with a Content-Length.
    pub(crate) fn bytes(&self, clock: &Clock) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in self.lines(clock) {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("content-length: {}\r\n\r\n", self.body.len());
        [text.as_bytes(), &self.body].concat()
    }
}

/// What a shop was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Why the proxy refused, if it did.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.headers.get(headers::REFUSAL)?.to_str().ok()
    }

    pub(crate) fn outcome(&self) -> Option<&str> {
        self.headers.get(headers::OUTCOME)?.to_str().ok()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The code of the envelope.
    pub(crate) fn code(&self) -> String {
        self.json()["code"]
            .as_str()
            .expect("the envelope has a code")
            .to_owned()
    }

    /// The sentence of a refusal.
    pub(crate) fn message(&self) -> String {
        self.json()["errorMessage"]
            .as_str()
            .expect("the envelope has a message")
            .to_owned()
    }
}

/// A proxy in the making.
pub(crate) struct Plan {
    clock: Clock,
    url: String,
    shops: Vec<Shop>,
    adjust: Vec<Box<dyn FnOnce(&mut Settings)>>,
    fresh: bool,
}

impl Plan {
    pub(crate) fn tenant(mut self, shop: Shop) -> Self {
        self.shops.push(shop);
        self
    }

    pub(crate) fn with(mut self, adjust: impl FnOnce(&mut Settings) + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// Starts as after a crash: what the run before admitted is unknown.
    pub(crate) fn after_a_crash(mut self) -> Self {
        self.fresh = false;
        self
    }

    pub(crate) fn start(self) -> Proxy {
        let institution = Institution {
            account_id: None,
            merchant_id: None,
            credentials: vec![DatedCredential::undated(institution())],
        };
        let mut settings = Settings::new(
            UpstreamUrl::parse(&self.url).expect("a good URL"),
            institution,
        );
        settings.listen.address = any_port();
        settings.listen.threads = Some(2.try_into().expect("not zero"));
        settings.admin.address = any_port();
        settings.drain.grace = Duration::ZERO;
        settings.upstream.quota.rate = rate(1_000_000, 1_000_000);
        self.adjust
            .into_iter()
            .for_each(|adjust| adjust(&mut settings));
        let tenants = self.shops.iter().map(Shop::tenant).collect();
        let registry =
            Registry::new(tenants, &settings.institution.credentials).expect("tenants that differ");
        let log = Log::default();
        let configuration = Configuration { settings, registry };
        let server = Server::start(
            configuration,
            self.clock.clone(),
            Box::new(log.clone()),
            self.fresh,
        )
        .expect("the proxy starts");
        Proxy {
            server: Some(server),
            clock: self.clock,
            log,
        }
    }
}

/// A running proxy, reached through its real listener.
pub(crate) struct Proxy {
    server: Option<Server>,
    pub(crate) clock: Clock,
    log: Log,
}

impl Proxy {
    /// Before the emulator, with its clock, and with acme and globex as tenants unless others are named.
    pub(crate) fn before(gatepay: &GatePay) -> Plan {
        Self::at(&gatepay.url(), &gatepay.clock)
    }

    /// Before any upstream.
    pub(crate) fn at(url: &str, clock: &Clock) -> Plan {
        Plan {
            clock: clock.clone(),
            url: url.to_owned(),
            shops: Vec::new(),
            adjust: Vec::new(),
            fresh: true,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is stopped")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server().address()
    }

    /// Signs a call at this moment and sends it on a connection of its own.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        self.connect().await.send(call.request(&self.clock)).await
    }

    /// A connection for more than one request.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    /// What an operator sees at a path of the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header("host", "admin")
            .body(Full::default())
            .expect("well formed");
        Connection::open(self.server().admin_address())
            .await
            .send(request)
            .await
    }

    /// Ends it in order, and gives the access lines it wrote.
    pub(crate) fn stop(mut self) -> Vec<Value> {
        let server = self.server.take().expect("it is stopped once");
        server.leave();
        assert_eq!(server.wait(), Ended::Drained);
        self.log.lines()
    }

    /// The text of its access log so far, for tests of what must not be there.
    pub(crate) fn log_text(&self) -> String {
        self.log.text()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.leave();
        }
    }
}

/// A client's connection.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address)
            .await
            .expect("the listener accepts");
        let (sender, connection) = http1::handshake(TokioIo::new(tcp))
            .await
            .expect("an HTTP/1.1 connection");
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Answer> {
        self.0.ready().await?;
        let (head, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// An access log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panicked").clone())
            .expect("lines are UTF-8")
    }

    fn lines(&self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("no writer panicked")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
