//! From GatePay's signed call to the tenant's HTTPS endpoint.

use gatepay_core::Stamp;

use super::*;
use crate::support::tenant_endpoint::{Delivery, TenantEndpoint};

/// A folder in which each of these tenants has an endpoint of its own.
pub(super) fn folder_with(
    url: &str,
    engine: &Engine,
    endpoints: [(&Shop, &TenantEndpoint); 2],
) -> Folder {
    let folder = folder(url, engine);
    let ports = endpoints.map(|(_, endpoint)| endpoint.address().port());
    folder.edit(
        "proxy.toml",
        "public_url = ",
        &format!("ports = {ports:?}, allow_networks = ['127.0.0.0/8'], public_url = "),
    );
    for (shop, endpoint) in endpoints {
        let ca = format!("{}-ca.pem", shop.client_id);
        endpoint.write_certificate(&folder.path(&ca));
        let url = endpoint.url("/hook?shop=1");
        let ca = folder.name(&ca);
        folder.tenant(
            shop,
            &format!("notifications = {{ url = '{url}', ca = '{ca}' }}"),
        );
    }
    folder
}

/// GatePay, and acme and globex with an endpoint each.
pub(super) struct EndpointPair {
    pub(super) gatepay: GatePay,
    pub(super) to_acme: TenantEndpoint,
    pub(super) to_globex: TenantEndpoint,
}

impl EndpointPair {
    pub(super) fn start() -> Self {
        let [to_acme, to_globex] = [(); 2].map(|()| TenantEndpoint::start());
        Self {
            gatepay: GatePay::now(),
            to_acme,
            to_globex,
        }
    }

    pub(super) fn folder(&self, engine: &Engine) -> Folder {
        let endpoints = [(&acme(), &self.to_acme), (&globex(), &self.to_globex)];
        folder_with(&self.gatepay.url(), engine, endpoints)
    }
}

/// Whether a tenant's own code accepts the delivery as GatePay's.
pub(super) fn verifies(delivery: &Delivery, secret: &str) -> bool {
    let key = SigningKey::new(&SecretKey::new(secret.to_owned().into()).unwrap());
    let [timestamp, nonce, signature] =
        ["timestamp", "nonce", "signature"].map(|it| delivery.header(&format!("x-gatepay-{it}")));
    let stamp = Stamp::parse(timestamp.as_bytes(), nonce.as_bytes()).unwrap();
    sign(&key, &stamp, &delivery.body).to_string() == signature
}

#[tokio::test]
async fn a_notification_reaches_its_own_tenant_once_and_verifies_with_its_secret() {
    for engine in engines().await {
        let pair = EndpointPair::start();
        let (to_acme, to_globex) = (&pair.to_acme, &pair.to_globex);
        let folder = pair.folder(&engine);
        let receiver = Receiver::start(&folder).await;
        for (shop, endpoint, other) in
            [(acme(), to_acme, to_globex), (globex(), to_globex, to_acme)]
        {
            // Both choose the same number.
            let id = receiver.order(&shop, "A-0001").await;
            let body = paid(&id, "A-0001");
            receiver.acknowledges(&body).await;
            until("the tenant has it", || endpoint.count() == 1).await;
            assert_eq!(other.count(), 0, "and no other tenant");

            let delivery = endpoint.take().remove(0);
            assert_eq!(delivery.head.method, "POST");
            assert_eq!(delivery.head.uri, "/hook?shop=1");
            assert_eq!(delivery.header("host"), endpoint.address().to_string());
            assert!(verifies(&delivery, shop.secret));
            assert!(!verifies(&delivery, INSTITUTION_SECRET));
            let client_id = "x-gatepay-certificate-clientid";
            assert_eq!(delivery.header(client_id), shop.client_id);
            assert_eq!(delivery.header("x-gatepay-proxy-attempt"), "1");
            assert!(!delivery.header("x-gatepay-proxy-event").is_empty());
            // GatePay's bytes, but for the institution's client id.
            let expected = body.to_string().replace(INSTITUTION_ID, shop.client_id);
            assert_eq!(delivery.body, expected);

            // GatePay's repetition is acknowledged and goes no further.
            receiver.acknowledges(&body).await;
            let delivered = format!(
                "deliveries_total{{result=\"delivered\",tenant=\"{}\"}}",
                shop.id
            );
            until_so("it is delivered", async || {
                receiver.program.metric(&delivered).await == "1"
            })
            .await;
            assert_eq!(endpoint.count(), 0, "once");
        }
        let status = receiver.program.admin("GET", "/status").await.json();
        let seen = &status["notifications"];
        let counts = ["received", "delivered", "failed", "dead", "lag_ms"].map(|name| &seen[name]);
        assert_eq!(json!(counts), json!([2, 2, 0, 0, 0]), "{seen}");
        receiver.program.stop().await;
    }
}

#[tokio::test]
async fn a_client_id_that_the_institution_has_no_more_does_not_reach_the_tenant() {
    for engine in engines().await {
        let pair = EndpointPair::start();
        let folder = pair.folder(&engine);
        let receiver = Receiver::start(&folder).await;
        let id = receiver.order(&acme(), "A-0001").await;
        let former = "institution-before-this-file";
        let body = paid(&id, "A-0001").to_string();
        let body = body.replace(INSTITUTION_ID, former);
        let body: Value = serde_json::from_str(&body).unwrap();
        receiver.acknowledges(&body).await;
        until("the tenant has it", || pair.to_acme.count() == 1).await;
        let delivery = pair.to_acme.take().remove(0);
        let expected = body.to_string().replace(former, acme().client_id);
        assert_eq!(delivery.body, expected);
        let page = receiver.pulls(&acme(), "").await;
        assert_eq!(page["notifications"][0]["body"], expected);
        receiver.program.stop().await;
    }
}
