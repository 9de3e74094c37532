//! GatePay, two tenants, and a proxy with few connection slots.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use gatepay_core::{ClientId, Credential, SecretKey};
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{InjectedFault, Sandbox, SandboxConfig, SubAccount};

use crate::attacks::{Answers, Attack};
use crate::machine;
use crate::signed::Signer;

pub(crate) const QUERY: &str = "/v1/pay/order/query";
pub(crate) const REFUND: &str = "/v1/pay/order/refund";
pub(crate) const BANK: &str = "/withdraw/open/otc/api/bank/create";
pub(crate) const JSON: &str = "application/json";
pub(crate) const FORM: &str = "multipart/form-data; boundary=b";
/// The number of the proxy's connection slots.
pub(crate) const PLACES: usize = 200;

const INSTITUTION: Tenant = Tenant {
    client_id: "fake-institution",
    secret: "fake-institution-secret",
    sub_account: "1000000000",
};
/// The tenant that refunds.
pub(crate) const ACME: Tenant = Tenant {
    client_id: "client-acme",
    secret: "fake-acme-secret",
    sub_account: "2124538349",
};
/// The tenant that attacks.
pub(crate) const GLOBEX: Tenant = Tenant {
    client_id: "client-globex",
    secret: "fake-globex-secret",
    sub_account: "2124538350",
};

pub(crate) struct Tenant {
    pub(crate) client_id: &'static str,
    pub(crate) secret: &'static str,
    sub_account: &'static str,
}

/// The emulator of GatePay.
pub(crate) struct GatePay(Sandbox);

impl GatePay {
    pub(crate) fn start() -> Self {
        let secret = SecretKey::new(INSTITUTION.secret.to_owned().into()).unwrap();
        let client_id = ClientId::parse(INSTITUTION.client_id).unwrap();
        let clock = Clock::system();
        let mut config = SandboxConfig::new(
            Credential::new(client_id, &secret),
            Arc::new(move || clock.unix_ms()),
        );
        config.sub_accounts = [ACME, GLOBEX]
            .map(|tenant| SubAccount::active(tenant.sub_account))
            .into();
        // The emulator's record of requests would grow in memory during the measurement.
        config.record = 0;
        let any: SocketAddr = ([127, 0, 0, 3], 0).into();
        Self(Sandbox::start(config, any).unwrap())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Gives globex the attack's answers.
    pub(crate) fn misbehave(&self, attack: &Attack) {
        let fault = match attack.gatepay {
            Answers::Right => return,
            Answers::Nothing => InjectedFault::ResetBeforeExecuting,
            Answers::Status(status) => InjectedFault::Status {
                status,
                body: "no".into(),
            },
        };
        self.0.inject(fault.always().of(GLOBEX.sub_account));
    }

    pub(crate) fn behave(&self) {
        self.0.clear_faults();
    }

    /// An order of acme's that can be refunded many times, made through the proxy.
    pub(crate) fn paid_order(&self, proxy: SocketAddr) -> String {
        let body = br#"{"merchantTradeNo":"A-0001","env":{"terminalType":"APP"},"currency":"USDT","orderAmount":"100000","goods":{"goodsName":"tea"}}"#;
        let acme = Signer::new(ACME.client_id, ACME.secret);
        let mut tcp = TcpStream::connect(proxy).unwrap();
        tcp.write_all(&acme.post("/v1/pay/order", JSON, body))
            .unwrap();
        let mut answer = [0; 4096];
        let read = tcp.read(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..read]);
        let (_, json) = text.split_once("\r\n\r\n").unwrap();
        let made: serde_json::Value = serde_json::from_str(json).unwrap();
        let id = made["data"]["prepayId"].as_str().unwrap().to_owned();
        self.0.pay(ACME.sub_account, &id).unwrap();
        id
    }
}

/// Writes the proxy's configuration, with low limits.
pub(crate) fn configure(folder: &Path, gatepay: SocketAddr) {
    let file = |name: &str, text: &str| machine::write(folder, name, text);
    let institution = INSTITUTION.client_id;
    file(
        "proxy.toml",
        &format!(
            "[listen]
address = '127.0.0.1:0'
max_connections = {PLACES}
[admin]
address = '127.0.0.2:0'
[timestamp]
future_ms = 1
[upstream]
url = 'http://{gatepay}'
[[institution.credential]]
client_id = '{institution}'
secret = {{ file = 'secrets/institution.key' }}
"
        ),
    );
    file("secrets/institution.key", INSTITUTION.secret);
    for (name, tenant) in [("acme", ACME), ("globex", GLOBEX)] {
        file(&format!("secrets/{name}.key"), tenant.secret);
        let (client_id, account) = (tenant.client_id, tenant.sub_account);
        file(
            &format!("tenants.d/{name}.toml"),
            &format!(
                "id = '{name}'
sub_account = '{account}'
credential = [{{ client_id = '{client_id}', secret = {{ file = '../secrets/{name}.key' }} }}]
limits = {{ requests_per_second = 250, in_flight = 20 }}
"
            ),
        );
    }
}
