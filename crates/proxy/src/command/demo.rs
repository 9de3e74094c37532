//! `demo`: sandbox, proxy and two tenants in one process, which show a newcomer the proxy at work in ten seconds.

mod demo_store;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use gatepay_core::order::{
    CreateOrder, CreatedOrder, OrderAnswer, OrderGoods, OrderId, RefundOrder, TerminalType,
};
use gatepay_core::own_operation::OwnOperation;
use gatepay_core::{
    Catalogue, ClientId, Credential, FreshStamp, Kind, SecretKey, envelope, header, sign,
};
use gatepay_proxy::app::Readiness;
use gatepay_proxy::process::clock::{self, Clock};
use gatepay_proxy::process::systemd::InheritedSockets;
use gatepay_proxy::server::{Server, ServerExit};
use gatepay_proxy::upstream::client;
use gatepay_proxy::upstream::connect::UpstreamConnector;
use gatepay_proxy::upstream::meters::UpstreamMeters;
use gatepay_proxy::upstream::pool::{Pool, PoolLimits};
use gatepay_sandbox::{
    NotificationSending, ReceivedRequest, Sandbox, SandboxConfig, SubAccount as Account,
};
use gatepay_tenancy::settings::{Institution, Settings, UpstreamUrl};
use gatepay_tenancy::{Configuration, DatedCredential, PartyId, Registry, SubAccount, Tenant};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;
use zeroize::Zeroizing;

use self::demo_store::{AHEAD_MS, DemoFolder};
use super::sandbox::wall_clock;
use super::signals::wait_for_signal;
use super::{ExitStatus, fail, say};

/// Run a sandbox, the proxy and two tenants in one process, without network, and with files in a temporary folder only.
///
/// Creates, queries, refunds and closes orders through the proxy, brings a payment's notification to its tenant, and prints
/// each exchange. Then it serves until Ctrl-C.
#[derive(Args)]
pub(crate) struct DemoCommand {
    /// Exit after the exchanges instead of serving until Ctrl-C.
    #[arg(long)]
    once: bool,
}

impl DemoCommand {
    pub(crate) fn run(self) -> ExitStatus {
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => return fail(error),
        };
        let stage = match runtime.block_on(DemoStage::set(self.once)) {
            Ok(stage) => stage,
            Err(error) => return fail(format_args!("cannot start: {error}")),
        };
        if let Err(error) = runtime.block_on(stage.play()) {
            return fail(format_args!("the demo failed: {error}"));
        }
        drop(runtime);
        if !self.once {
            stage.invite();
            if let Err(error) = wait_for_signal() {
                return fail(error);
            }
        }
        let DemoStage { server, folder, .. } = stage;
        server.leave();
        let ended = server.wait();
        drop(folder);
        match ended {
            ServerExit::Drained => ExitStatus::Fine,
            ServerExit::Late => ExitStatus::Late,
        }
    }
}

const CREATE: &str = "/v1/pay/order";
const QUERY: &str = "/v1/pay/order/query";
const CLOSE: &str = "/v1/pay/order/close";
const REFUND: &str = "/v1/pay/order/refund";
const NOTIFICATIONS: &str = "/-/notifications";
const FIRST: &str = "demo-0001";
const SECOND: &str = "demo-0002";

/// The servers and tenants of the demo.
struct DemoStage {
    sandbox: Sandbox,
    server: Server,
    pool: Pool,
    clock: Clock,
    acme: DemoActor,
    globex: DemoActor,
    folder: DemoFolder,
}

/// A tenant as its own shop holds it.
struct DemoActor {
    name: &'static str,
    sub_account: &'static str,
    credential: Credential,
    /// The secret, printed in the line to paste: it was made for this process and dies with it.
    secret: Zeroizing<String>,
}

/// The answer to a tenant.
struct DemoAnswer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

/// The fault that ended the demo, in words for a newcomer.
type DemoError = Box<dyn std::error::Error>;

impl DemoStage {
    async fn set(once: bool) -> Result<Self, DemoError> {
        let clock = Clock::system();
        let institution_secret = secret("demo-institution");
        let institution = || credential("demo-institution", &institution_secret);
        let (acme, globex) = (
            DemoActor::new("acme", "2124538349")?,
            DemoActor::new("globex", "2124538350")?,
        );

        let mut config = SandboxConfig::new(institution()?, wall_clock(clock.clone()));
        config.sub_accounts = [&acme, &globex]
            .map(|actor| Account::active(actor.sub_account))
            .into();
        let from_gatepay = TcpListener::bind(any_port())?;
        let notified = demo_store::notifications(from_gatepay.local_addr()?);
        config.notifications = Some(NotificationSending::new(
            &notified.public_url,
            institution()?,
        ));
        let sandbox = Sandbox::start(config, (Ipv4Addr::LOCALHOST, 0).into())?;
        let institution = Institution {
            account_id: None,
            merchant_id: None,
            credentials: vec![DatedCredential::undated(institution()?)],
        };
        let mut settings = settings(once, sandbox.address(), institution)?;
        let folder = DemoFolder::make()?;
        settings.state_dir = Some(folder.state());
        settings.window.future_ms = AHEAD_MS;
        settings.store = Some(folder.store(settings.window).await?);
        settings.notifications = Some(notified);
        let tenants = vec![acme.tenant()?, globex.tenant()?];
        let registry = Registry::new(tenants, Vec::new(), &settings.institution.credentials)
            .map_err(|conflicts| conflicts[0].clone())?;
        let configuration = Configuration {
            settings,
            registry,
            catalogue: catalogue(),
        };
        let server = Server::start(
            configuration,
            InheritedSockets {
                notifications: Some(from_gatepay),
                ..InheritedSockets::default()
            },
            clock.clone(),
            Box::new(std::io::sink()),
            true,
        )?;
        Ok(Self {
            pool: pool(server.address())?,
            sandbox,
            server,
            clock,
            acme,
            globex,
            folder,
        })
    }

    /// Waits until the proxy is ready: a new store refuses requests for a moment.
    async fn ready(&self) -> Result<(), DemoError> {
        for _ in 0..500 {
            if self.server.app().readiness() == Readiness::Ready {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Err("the proxy is not ready".into())
    }

    /// Makes the exchanges and prints each of them; an unexpected answer ends the demo.
    async fn play(&self) -> Result<(), DemoError> {
        say(format_args!(
            "proxy    http://{}  (tenants)",
            self.server.address()
        ));
        say(format_args!(
            "         http://{}  (/metrics, /ready)",
            self.server.admin_address()
        ));
        say(format_args!(
            "GatePay  http://{}  (an emulator, in this process)",
            self.sandbox.address()
        ));
        self.ready().await?;
        self.what_works().await?;
        say("\n-- refused requests --");
        self.what_must_not().await
    }

    async fn what_works(&self) -> Result<(), DemoError> {
        let acme = &self.acme;
        let created = self
            .act("acme creates an order", acme, CREATE, &order(FIRST))
            .await?;
        let created: OrderAnswer<CreatedOrder> = serde_json::from_slice(&created.body)?;
        let prepay_id = created
            .into_data()
            .ok_or("the answer has no data")?
            .prepay_id;
        let paid = self.sandbox.pay(acme.sub_account, &prepay_id);
        paid.map_err(|failure| failure.message().into_owned())?;
        say(format_args!(
            "\n   (its customer pays {prepay_id} at GatePay, which notifies the institution at the proxy)"
        ));
        self.notified().await?;

        let refund = RefundOrder {
            refund_request_id: "demo-refund-1".to_owned(),
            prepay_id,
            refund_amount: "0.80".to_owned(),
            ..RefundOrder::default()
        };
        self.act("acme asks for the order", acme, QUERY, &number(FIRST))
            .await?;
        self.act("acme refunds a part of it", acme, REFUND, &refund)
            .await?;
        self.act("acme creates another", acme, CREATE, &order(SECOND))
            .await?;
        self.act("and closes it", acme, CLOSE, &number(SECOND))
            .await?;
        Ok(())
    }

    /// The payment's notification comes to its tenant, and to no other.
    async fn notified(&self) -> Result<(), DemoError> {
        let (acme, globex) = (&self.acme, &self.globex);
        for _ in 0..100 {
            let request = acme.sign_get(&self.clock, NOTIFICATIONS)?;
            let answer = client::exchange(&self.pool, &request, Duration::from_secs(5)).await?;
            // At first the store may not know the tenants yet.
            if pulled(answer.body()).is_ok_and(|list| !list.is_empty()) {
                break;
            }
            // Below a tenant's rate, so that the exchanges after this wait find tokens however long it takes.
            sleep(Duration::from_millis(200)).await;
        }
        let request = acme.sign_get(&self.clock, NOTIFICATIONS)?;
        let answered = self
            .send("acme has its notification", acme, request)
            .await?;
        expect(&answered, 200, None)?;
        let [notification] = &pulled(&answered.body)?[..] else {
            return Err("acme's notification did not come".into());
        };
        let body = notification["body"].as_str().unwrap_or_default();
        let body: Value = serde_json::from_str(body)?;
        let word = |name: &str| body[name].as_str().unwrap_or("unknown");
        say(format_args!(
            "   {:<16} it says {} {}",
            "",
            word("bizType"),
            word("bizStatus")
        ));
        let request = globex.sign_get(&self.clock, NOTIFICATIONS)?;
        let answered = self.send("globex has none", globex, request).await?;
        expect(&answered, 200, None)?;
        if pulled(&answered.body)?.is_empty() {
            return Ok(());
        }
        Err("globex saw a notification of acme's".into())
    }

    async fn what_must_not(&self) -> Result<(), DemoError> {
        let (acme, globex) = (&self.acme, &self.globex);
        let answered = self
            .act(
                "globex asks for acme's order",
                globex,
                QUERY,
                &number(FIRST),
            )
            .await?;
        let judged = envelope::judge(Kind::Read, answered.status, &answered.body);
        if judged.code.is_none_or(|code| code.as_str() != "400202") {
            return Err("globex saw an order of acme's".into());
        }
        let stolen = [(header::ON_BEHALF_OF, acme.sub_account.to_owned())];
        let request = globex.sign(&self.clock, QUERY, &number(FIRST), &stolen)?;
        let answered = self
            .send("globex claims to act for acme", globex, request)
            .await?;
        expect(&answered, 403, Some("on_behalf_of_mismatch"))?;

        let request = acme.sign(&self.clock, QUERY, &number(FIRST), &[])?;
        let answered = self
            .send("acme asks once more", acme, request.clone())
            .await?;
        expect(&answered, 200, None)?;
        let answered = self
            .send("an eavesdropper replays the request", acme, request)
            .await?;
        expect(&answered, 401, Some("replayed"))
    }

    /// An exchange that has to reach GatePay and get an answer.
    async fn act(
        &self,
        title: &str,
        actor: &DemoActor,
        path: &str,
        body: &impl Serialize,
    ) -> Result<DemoAnswer, DemoError> {
        let request = actor.sign(&self.clock, path, body, &[])?;
        let answered = self.send(title, actor, request).await?;
        expect(&answered, 200, None)?;
        Ok(answered)
    }

    async fn send(
        &self,
        title: &str,
        actor: &DemoActor,
        request: Request<Bytes>,
    ) -> Result<DemoAnswer, DemoError> {
        self.sandbox.clear();
        say(format_args!("\n{title}"));
        let body = request.body().clone();
        say(format_args!(
            "   {:<16} {} {}",
            format!("{} sent", actor.name),
            request.method(),
            request.uri()
        ));
        let text = |name: &str| {
            request
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(ToOwned::to_owned)
        };
        describe(text);
        if !body.is_empty() {
            let body = String::from_utf8_lossy(&body);
            say(format_args!("   {:<16} {body}", ""));
        }

        let answer = client::exchange(&self.pool, &request, Duration::from_secs(5)).await?;
        let (head, answer) = answer.into_parts();
        let answered = DemoAnswer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: answer,
        };

        match self.sandbox.received().last() {
            None => say(format_args!("   {:<16} nothing", "GatePay received")),
            Some(received) => report(received, &body),
        }
        let slug = answered
            .refusal()
            .map(|slug| format!("  [{slug}]"))
            .unwrap_or_default();
        let answer = String::from_utf8_lossy(&answered.body);
        say(format_args!(
            "   {:<16} {}{slug} {answer}",
            format!("{} got", actor.name),
            answered.status
        ));
        Ok(answered)
    }

    /// Prints how to send a request by hand.
    fn invite(&self) {
        let DemoActor {
            credential, secret, ..
        } = &self.acme;
        say(
            "\nThe demo serves until Ctrl-C. This command signs a new request each time it is run:\n",
        );
        say(format_args!(
            "B='{{\"merchantTradeNo\":\"demo-0001\"}}'; T=$(date +%s)000; N=$(openssl rand -hex 16); \
             S=$(printf '%s\\n%s\\n%s\\n' \"$T\" \"$N\" \"$B\" | openssl dgst -sha512 -hmac '{}' -r | cut -d' ' -f1); \
             curl -s http://{}/v1/pay/order/query -H 'Content-Type: application/json' \
             -H 'X-GatePay-Certificate-ClientId: {}' -H \"X-GatePay-Timestamp: $T\" -H \"X-GatePay-Nonce: $N\" \
             -H \"X-GatePay-Signature: $S\" --data-binary \"$B\"; echo",
            secret.as_str(),
            self.server.address(),
            credential.client_id
        ));
        say(format_args!(
            "\nand this shows the metrics:\n\ncurl -s http://{}/metrics | grep -v '^#'",
            self.server.admin_address()
        ));
    }
}

/// GatePay's operations, and those of the proxy about notifications.
fn catalogue() -> Catalogue {
    let own = OwnOperation::ALL.map(OwnOperation::row);
    let rows = [Catalogue::standard().rows(), &own].concat();
    Catalogue::new(rows).expect("the proxy's own paths are none of GatePay's")
}

fn order(number: &str) -> CreateOrder {
    CreateOrder {
        merchant_trade_no: number.to_owned(),
        env: TerminalType {
            terminal_type: "APP".to_owned(),
            ..TerminalType::default()
        },
        currency: "USDT".to_owned(),
        order_amount: "1.21".to_owned(),
        goods: OrderGoods {
            goods_name: "demo goods".to_owned(),
            ..OrderGoods::default()
        },
        ..CreateOrder::default()
    }
}

fn number(number: &str) -> OrderId {
    OrderId {
        merchant_trade_no: Some(number.to_owned()),
        ..OrderId::default()
    }
}

/// A secret for the life of this process, recognizable as a demo secret.
fn secret(client_id: &str) -> Zeroizing<String> {
    Zeroizing::new(format!(
        "{client_id}-{}",
        hex::encode(clock::random::<12>())
    ))
}

fn credential(client_id: &str, secret: &Zeroizing<String>) -> Result<Credential, DemoError> {
    Ok(Credential::new(
        ClientId::parse(client_id)?,
        &SecretKey::new(secret.clone())?,
    ))
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The usual address, or any free port if another program uses it.
fn preferred(address: SocketAddr) -> SocketAddr {
    if TcpListener::bind(address).is_ok() {
        address
    } else {
        any_port()
    }
}

fn report(received: &ReceivedRequest, sent: &Bytes) {
    say(format_args!(
        "   {:<16} {} {}",
        "GatePay received", received.method, received.target
    ));
    describe(|name| received.header(name).map(ToOwned::to_owned));
    let body = if received.body == sent {
        "the same"
    } else {
        "OTHER"
    };
    say(format_args!(
        "   {:<16} {body} {} bytes of body",
        "",
        received.body.len()
    ));
}

/// Prints the relevant headers, with the signature masked.
fn describe(value: impl Fn(&str) -> Option<String>) {
    if let (Some(id), Some(signature)) = (value(header::CLIENT_ID), value(header::SIGNATURE)) {
        let signature: String = signature.chars().take(8).collect();
        say(format_args!(
            "   {:<16} as {id}, signature {signature}…",
            ""
        ));
    }
    if let Some(account) = value(header::ON_BEHALF_OF) {
        say(format_args!(
            "   {:<16} X-GatePay-On-Behalf-Of: {account}",
            ""
        ));
    }
}

/// The notifications in the answer to a pull.
fn pulled(answer: &Bytes) -> Result<Vec<Value>, DemoError> {
    let answer: Value = serde_json::from_slice(answer)?;
    let notifications = answer["data"]["notifications"].as_array();
    Ok(notifications
        .ok_or_else(|| format!("the answer has no list: {answer}"))?
        .clone())
}

fn expect(answered: &DemoAnswer, status: u16, refusal: Option<&str>) -> Result<(), DemoError> {
    if answered.status == status && answered.refusal() == refusal {
        return Ok(());
    }
    Err(format!(
        "expected {status} {refusal:?}, got {} {:?}",
        answered.status,
        answered.refusal()
    )
    .into())
}

impl DemoAnswer {
    fn refusal(&self) -> Option<&str> {
        self.headers
            .get(gatepay_proxy::headers::REFUSAL)?
            .to_str()
            .ok()
    }
}

/// The settings of the demo's proxy: `once` on any free ports, otherwise on the usual ports if they are free.
fn settings(
    once: bool,
    sandbox: SocketAddr,
    institution: Institution,
) -> Result<Settings, DemoError> {
    let url = UpstreamUrl::parse(&format!("http://{sandbox}"))?;
    let mut settings = Settings::new(url, institution);
    settings.drain.grace = Duration::ZERO;
    let address = |usual| if once { any_port() } else { preferred(usual) };
    settings.listen.address = address(settings.listen.address);
    settings.admin.address = address(settings.admin.address);
    Ok(settings)
}

/// The tenants' connections to the proxy.
fn pool(proxy: SocketAddr) -> Result<Pool, DemoError> {
    let url = UpstreamUrl::parse(&format!("http://{proxy}"))?;
    Ok(Pool::new(
        Arc::new(UpstreamConnector::new(url, None, Duration::from_secs(5))?),
        Arc::new(UpstreamMeters::unscraped()),
        PoolLimits {
            connections: 8,
            idle: 0,
            idle_timeout: Duration::ZERO,
        },
    ))
}

impl DemoActor {
    fn new(name: &'static str, sub_account: &'static str) -> Result<Self, DemoError> {
        let client_id = format!("demo-{name}");
        let secret = secret(&client_id);
        Ok(Self {
            name,
            sub_account,
            credential: credential(&client_id, &secret)?,
            secret,
        })
    }

    /// The tenant as the proxy holds it. The credential is made a second time, since credentials cannot be copied.
    fn tenant(&self) -> Result<Tenant, DemoError> {
        let credential = credential(self.credential.client_id.as_str(), &self.secret)?;
        let (id, sub_account) = (
            PartyId::parse(self.name)?,
            SubAccount::parse(self.sub_account)?,
        );
        Ok(Tenant::new(
            id,
            sub_account,
            &catalogue(),
            vec![DatedCredential::undated(credential)],
        ))
    }

    fn sign(
        &self,
        clock: &Clock,
        path: &str,
        body: &impl Serialize,
        more: &[(&str, String)],
    ) -> Result<Request<Bytes>, DemoError> {
        let body = serde_json::to_vec(body)?.into();
        let mut request = self.signed(clock, Method::POST, path, body)?;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(http::header::CONTENT_TYPE, json);
        for (name, value) in more {
            headers.insert(HeaderName::try_from(*name)?, value.parse()?);
        }
        Ok(request)
    }

    fn sign_get(&self, clock: &Clock, path: &str) -> Result<Request<Bytes>, DemoError> {
        self.signed(clock, Method::GET, path, Bytes::new())
    }

    fn signed(
        &self,
        clock: &Clock,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Bytes>, DemoError> {
        let stamp: FreshStamp = clock.stamp();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "demo");
        for (name, value) in sign::headers(&self.credential, &stamp.as_stamp(), &body) {
            request = request.header(name, value);
        }
        Ok(request.body(body)?)
    }
}
