//! Deliveries to real HTTPS servers, as the tenants' files say.

use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gatepay_core::delivery_schedule::AckRule;
use gatepay_core::destination::DestinationUrl;
use gatepay_core::{Catalogue, ClientId, Credential, SecretKey, Signature, Stamp, verify};
use gatepay_store::notifications::delivery::EndpointKey;
use gatepay_tenancy::notifications::{DeliveredClientId, EndpointBounds, TenantNotifications};
use gatepay_tenancy::settings::{Institution, Settings, UpstreamUrl};
use gatepay_tenancy::tenant::TenantOptions;
use gatepay_tenancy::{
    ConfigFacts, DatedCredential, PartyId, Registry, Standing, SubAccount, Tenant,
};
use prometheus::{IntGauge, Registry as MetricRegistry};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::fake_store::{FakeStore, key};
use crate::generation::institution_quota::InstitutionQuota;
use crate::generation::tenant_limits::TenantLimitsMap;
use crate::generation::tenant_meters::TenantSeries;
use crate::generation::{Generation, GenerationInputs};
use crate::notify::deliver::attempt::AttemptResult;
use crate::notify::deliver::delivery_store::DeliveryStore as _;
use crate::notify::deliver::target::{DeliveryHold, TargetDirectory as _};
use crate::notify::deliver::tenant_target::TenantDirectory;
use crate::notify::endpoint::client::EndpointNetwork;
use crate::notify::endpoint::tests::ScriptedResolver;
use crate::notify::endpoint::tests::tls_server::{
    ReceivedRequest, SUCCESS, ServerManner, TlsServer,
};
use crate::process::clock::Clock;
use crate::prom::registrar::Registrar;
use crate::tls::config;

const BODY: &[u8] =
    br#"{ "bizType":"PAY", "client_id":"institution-id","bizId":"1", "data":"{\"a\":1}" }
"#;

fn dated(client_id: &str) -> DatedCredential {
    let secret = SecretKey::new(Zeroizing::new(format!("fake-{client_id}"))).unwrap();
    DatedCredential::undated(Credential::new(
        ClientId::parse(client_id).unwrap(),
        &secret,
    ))
}

fn bounds(port: u16) -> EndpointBounds {
    crate::notify::endpoint::tests::bounds(&[port], &["127.0.0.1/32"])
}

fn parse(url: &str, port: u16) -> DestinationUrl {
    bounds(port)
        .with_rules(|rules| DestinationUrl::parse(url, rules))
        .unwrap()
}

pub(crate) fn notifications(port: u16, ca: &Path) -> TenantNotifications {
    TenantNotifications {
        url: Some(parse(&format!("https://shop.example:{port}/hook"), port)),
        urls: Vec::new(),
        credential: None,
        ca: Some(ca.to_owned()),
        client_certificate: None,
        client_id: DeliveredClientId::Tenant,
        ack: AckRule::ReturnCode,
        at_once: NonZeroU32::new(4).unwrap(),
    }
}

/// The tenant `acme` with these credentials.
pub(crate) fn tenant(notifications: Option<TenantNotifications>, credentials: &[&str]) -> Tenant {
    let credentials = credentials.iter().map(|id| dated(id)).collect();
    let account = SubAccount::parse("account-acme").unwrap();
    let id = PartyId::parse("acme").unwrap();
    let mut tenant = Tenant::new(id, account, &Catalogue::standard(), credentials);
    let options = TenantOptions {
        notifications: notifications.map(Arc::new),
        ..TenantOptions::default()
    };
    tenant.options = options.if_any();
    tenant
}

/// A configuration with one tenant.
pub(crate) fn generation(tenant: Tenant, clock: &Clock) -> Generation {
    let url = UpstreamUrl::parse("http://127.0.0.1:1").unwrap();
    let institution = Institution {
        account_id: None,
        merchant_id: None,
        credentials: vec![dated("institution-id")],
    };
    let settings = Settings::new(url, institution);
    let registered = MetricRegistry::new();
    let series = TenantSeries::new(&Registrar::new(&registered));
    let meters = series.limits.quota.clone();
    let quota = InstitutionQuota::new(&settings.upstream.quota, meters, clock);
    let limits = TenantLimitsMap::new(quota.into());
    let inputs = GenerationInputs {
        settings: &settings,
        tenant_limits: &limits,
        series: &series,
    };
    let registry = Registry::new(vec![tenant], Vec::new(), &[]).unwrap();
    let institution = Arc::clone(&settings.institution);
    Generation::new(
        None,
        Arc::new(Catalogue::standard()),
        registry,
        institution,
        (Arc::default(), ConfigFacts::new()),
        inputs,
    )
}

/// A tenant's endpoint, and the configuration that names it.
struct Shop {
    server: TlsServer,
    directory: TenantDirectory,
    in_force: Arc<ArcSwap<Generation>>,
    clock: Clock,
}

impl Shop {
    async fn open(arrange: impl FnOnce(&mut TenantNotifications), credentials: &[&str]) -> Self {
        let server = TlsServer::local(ServerManner::Answers(SUCCESS.to_vec())).await;
        let clock = Clock::system();
        let port = server.address.port();
        let mut wanted = notifications(port, &server.ca);
        arrange(&mut wanted);
        let first = generation(tenant(Some(wanted), credentials), &clock);
        let in_force = Arc::new(ArcSwap::from_pointee(first));
        let source = Arc::clone(&in_force);
        let local = "127.0.0.1".parse().unwrap();
        let resolver = ScriptedResolver::of(&[("shop.example", &[&[local]])]);
        let network = EndpointNetwork::new(resolver, IntGauge::new("open", "Open.").unwrap());
        let metrics = Settings::new(
            UpstreamUrl::parse("http://127.0.0.1:1").unwrap(),
            Institution {
                account_id: None,
                merchant_id: None,
                credentials: Vec::new(),
            },
        )
        .metrics;
        let directory = TenantDirectory::new(
            (Box::new(move || source.load_full()), Box::new(|_| false)),
            clock.clone(),
            bounds(port),
            metrics,
            (network, config::client(None).unwrap()),
        );
        Self {
            server,
            directory,
            in_force,
            clock,
        }
    }

    fn reload(&self, tenant: Tenant) {
        self.in_force
            .store(Arc::new(generation(tenant, &self.clock)));
    }

    /// Delivers an event once.
    async fn deliver(&self, endpoint: &EndpointKey) -> Result<AttemptResult, DeliveryHold> {
        let store = FakeStore {
            body: BODY,
            ..FakeStore::new()
        };
        store.arrive("acme");
        let claims = store.claim_endpoints(1).await.unwrap();
        let due = store.due_events(&claims, 1).await.unwrap();
        let target = self.directory.target(endpoint)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        let target: Rc<_> = target;
        Ok(target.attempt(&due[0][0], deadline).await)
    }

    fn last(&self) -> ReceivedRequest {
        self.server.requests().pop().unwrap()
    }
}

/// Whether a tenant's own code accepts the request, with the secret of this credential.
fn verifies(request: &ReceivedRequest, header: &str, client_id: &str) -> bool {
    let value = |name: &str| request.header(name).unwrap().as_bytes();
    let stamp = Stamp::parse(value("X-GatePay-Timestamp"), value("X-GatePay-Nonce")).unwrap();
    let signature = Signature::parse(value(header)).ok().unwrap();
    verify(
        &dated(client_id).credential.key,
        &stamp,
        &request.body,
        &signature,
    )
}

#[tokio::test]
async fn a_tenants_own_verification_accepts_a_delivery() {
    let shop = Shop::open(|_| {}, &["acme-id"]).await;
    let result = shop.deliver(&key("acme")).await.unwrap();
    assert_eq!(result.word.as_str(), "acknowledged", "{:?}", result.error);
    let request = shop.last();
    assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"));
    assert!(verifies(&request, "X-GatePay-Signature", "acme-id"));
    let expected = String::from_utf8(BODY.to_vec())
        .unwrap()
        .replace("institution-id", "acme-id");
    assert_eq!(
        request.body,
        expected.as_bytes(),
        "all other bytes are GatePay's"
    );
    assert_eq!(
        request.header("X-GatePay-Certificate-ClientId"),
        Some("acme-id")
    );
    assert_eq!(request.header("X-Gatepay-Proxy-Attempt"), Some("1"));
    assert_eq!(request.header("X-Gatepay-Proxy-Conflict"), None);
    assert_eq!(request.header("X-Gatepay-Proxy-Signature-Next"), None);
}

#[tokio::test]
async fn during_a_rotation_deliveries_follow_the_credential_that_the_tenant_uses() {
    let shop = Shop::open(|_| {}, &["first-id", "second-id"]).await;
    let mut signed = Vec::new();
    for used in [None, Some(1), Some(0)] {
        if let Some(index) = used {
            tokio::time::sleep(Duration::from_millis(2)).await;
            shop.in_force
                .load()
                .used(0, index)
                .note(shop.clock.unix_ms());
        }
        shop.deliver(&key("acme")).await.unwrap();
        let request = shop.last();
        let signing = request
            .header("X-GatePay-Certificate-ClientId")
            .unwrap()
            .to_owned();
        let next = if signing == "first-id" {
            "second-id"
        } else {
            "first-id"
        };
        assert!(verifies(&request, "X-GatePay-Signature", &signing));
        assert!(verifies(&request, "X-Gatepay-Proxy-Signature-Next", next));
        let body = String::from_utf8(request.body).unwrap();
        assert!(body.contains(&signing) && !body.contains(next));
        signed.push(signing);
    }
    assert_eq!(signed, ["first-id", "second-id", "first-id"]);
}

#[tokio::test]
async fn a_body_is_as_sent_if_the_tenant_wants_it() {
    let shop = Shop::open(
        |wanted| wanted.client_id = DeliveredClientId::AsSent,
        &["acme-id"],
    )
    .await;
    shop.deliver(&key("acme")).await.unwrap();
    assert_eq!(shop.last().body, BODY);
}

#[tokio::test]
async fn a_callback_url_is_used_only_while_the_tenants_file_allows_its_origin() {
    let shop = Shop::open(|_| {}, &["acme-id"]).await;
    let port = shop.server.address.port();
    let at = |url: String| EndpointKey {
        url: Some(url),
        ..key("acme")
    };
    for (url, is_allowed) in [
        (format!("https://shop.example:{port}/orders?id=1"), true),
        (format!("https://other.example:{port}/"), false),
        (format!("http://shop.example:{port}/"), false),
        (format!("https://127.0.0.1:{port}/"), false),
        ("https://shop.example/".to_owned(), false),
        ("no URL".to_owned(), false),
    ] {
        let mut wanted = notifications(port, &shop.server.ca);
        wanted.urls = vec![parse(&format!("https://shop.example:{port}"), port)];
        wanted.url = None;
        shop.reload(tenant(Some(wanted), &["acme-id"]));
        let result = shop.deliver(&at(url.clone())).await;
        assert_eq!(result.is_ok(), is_allowed, "{url}");
    }
    assert!(
        shop.last()
            .head
            .starts_with("POST /orders?id=1 HTTP/1.1\r\n")
    );
    assert_eq!(shop.server.requests().len(), 1);
}

#[tokio::test]
async fn a_reload_decides_about_the_next_attempt() {
    let shop = Shop::open(|_| {}, &["acme-id"]).await;
    let port = shop.server.address.port();
    let wanted = || notifications(port, &shop.server.ca);
    shop.deliver(&key("acme")).await.unwrap();
    let mut moved = wanted();
    moved.url = Some(parse(&format!("https://shop.example:{port}/moved"), port));
    shop.reload(tenant(Some(moved), &["acme-id"]));
    shop.deliver(&key("acme")).await.unwrap();
    let paths: Vec<_> = shop
        .server
        .requests()
        .iter()
        .map(|request| request.head.clone())
        .collect();
    assert!(paths[0].starts_with("POST /hook ") && paths[1].starts_with("POST /moved "));
    let mut suspended = tenant(Some(wanted()), &["acme-id"]);
    suspended.party.standing = Standing::Suspended;
    let mut elsewhere = tenant(Some(wanted()), &["acme-id"]);
    elsewhere.sub_account = SubAccount::parse("another-account").unwrap();
    let mut over = tenant(Some(wanted()), &["acme-id"]);
    let mut ended = dated("acme-id");
    ended.not_after = Some(1);
    over.party.credentials = vec![ended].into();
    let mut pulls = wanted();
    pulls.url = None;
    for (tenant, hold) in [
        (suspended, DeliveryHold::Suspended),
        (elsewhere, DeliveryHold::NoEndpoint),
        (over, DeliveryHold::NoCredential),
        (tenant(Some(pulls), &["acme-id"]), DeliveryHold::NoEndpoint),
        (tenant(None, &["acme-id"]), DeliveryHold::NoEndpoint),
    ] {
        shop.reload(tenant);
        assert_eq!(shop.deliver(&key("acme")).await.err(), Some(hold));
    }
    assert_eq!(shop.server.requests().len(), 2);
}
