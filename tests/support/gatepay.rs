//! The emulator, with an account for each shop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_core::Credential;
use gatepay_proxy::process::clock::Clock;
use gatepay_sandbox::{FaultInjection, ReceivedRequest, Sandbox, SandboxConfig, SubAccount};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{CREATE, Proxy, T0, acme, any_port, credential, globex, order};

pub(crate) const INSTITUTION_ID: &str = "institution-fake";
/// The account in which the emulator holds the institution's own money.
pub(crate) const INSTITUTION_ACCOUNT: &str = "1000000000";
pub(crate) const INSTITUTION_SECRET: &str = "fake-institution-secret-9999";

/// The certificate of a [`secured`](GatePay::secured) GatePay, made for `localhost` only.
pub(crate) const CERTIFICATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../sandbox/tests/sandbox/tls/certificate.pem"
);
const KEY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../sandbox/tests/sandbox/tls/key.pem"
);

/// The institution's credential, as GatePay and the proxy know it.
pub(crate) fn institution() -> Credential {
    credential(INSTITUTION_ID, INSTITUTION_SECRET)
}

pub(crate) struct GatePay {
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Clock,
}

impl GatePay {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// Starts with the test's changes to the emulator's configuration.
    pub(crate) fn with(adjust: impl FnOnce(&mut SandboxConfig)) -> Self {
        Self::at(Clock::manual(T0), adjust)
    }

    /// Starts with the machine's clock, for a program that cannot use a test clock.
    pub(crate) fn now() -> Self {
        Self::now_for(INSTITUTION_SECRET)
    }

    /// Like `now`, with the test's changes to the emulator's configuration.
    pub(crate) fn now_and(adjust: impl FnOnce(&mut SandboxConfig)) -> Self {
        Self::at(Clock::system(), adjust)
    }

    /// Like `now`, for an institution with these credentials.
    pub(crate) fn now_with(institution: Vec<Credential>) -> Self {
        Self::at(Clock::system(), |config| config.institution = institution)
    }

    /// Like `now`, for an institution with this secret.
    pub(crate) fn now_for(secret: &str) -> Self {
        let institution = credential(INSTITUTION_ID, secret);
        Self::at(Clock::system(), |config| {
            config.institution = vec![institution];
        })
    }

    /// Starts over TLS, as `localhost`. Clients trust [`CERTIFICATE`].
    pub(crate) fn secured(adjust: impl FnOnce(&mut SandboxConfig)) -> Self {
        Self::with(|config| {
            adjust(config);
            config.tls = Some(Arc::new(tls()));
        })
    }

    /// Like `now`, with a clock that is this far ahead of the machine's.
    pub(crate) fn ahead(by: Duration) -> Self {
        Self::at(Clock::system(), |config| {
            let clock = Arc::clone(&config.clock);
            let by_ms = u64::try_from(by.as_millis()).expect("a short time");
            config.clock = Arc::new(move || clock() + by_ms);
        })
    }

    /// Starts again at the address it had before it was stopped, with empty accounts.
    pub(crate) fn again(&mut self) {
        self.sandbox = Self::sandbox(&self.clock, |_| {}, self.sandbox.address());
    }

    fn at(clock: Clock, adjust: impl FnOnce(&mut SandboxConfig)) -> Self {
        let sandbox = Self::sandbox(&clock, adjust, any_port());
        Self { sandbox, clock }
    }

    fn sandbox(
        clock: &Clock,
        adjust: impl FnOnce(&mut SandboxConfig),
        address: SocketAddr,
    ) -> Sandbox {
        let told = clock.clone();
        let mut config = SandboxConfig::new(institution(), Arc::new(move || told.unix_ms()));
        config.institution_account = INSTITUTION_ACCOUNT.into();
        config.sub_accounts = [acme(), globex()]
            .map(|shop| SubAccount::active(shop.sub_account))
            .into();
        adjust(&mut config);
        Sandbox::start(config, address).expect("a port is free")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.sandbox.address())
    }

    /// Injects a fault.
    pub(crate) fn inject(&self, injection: FaultInjection) {
        self.sandbox.inject(injection);
    }

    pub(crate) fn received(&self) -> Vec<ReceivedRequest> {
        self.sandbox.received()
    }

    /// An order of acme's that can be refunded many times, made through a proxy before this GatePay.
    pub(crate) async fn paid_order(&self, proxy: &Proxy) -> String {
        let body = order("PAID").replace("1.21", "100000");
        let made = proxy.send(acme().post(CREATE, body)).await.json();
        let prepay_id = made["data"]["prepayId"].as_str().expect("an order's id");
        let paid = self.sandbox.pay(acme().sub_account, prepay_id);
        paid.expect("it can be paid");
        prepay_id.to_owned()
    }

    /// Acme's balance, in hundredths of a dollar.
    pub(crate) fn cents(&self) -> usize {
        let amount = self.sandbox.balance(acme().sub_account, "USDT");
        let (whole, part) = amount.split_once('.').unwrap_or((&amount, ""));
        format!("{whole}{part:0<2}").parse().expect("digits")
    }

    /// The last request received.
    pub(crate) fn last(&self) -> ReceivedRequest {
        self.received().pop().expect("GatePay got something")
    }

    pub(crate) fn count(&self) -> usize {
        self.received().len()
    }

    /// How many requests were executed.
    pub(crate) fn executed(&self) -> usize {
        let received = self.received();
        received.iter().filter(|request| request.executed).count()
    }
}

fn tls() -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(KEY).expect("its key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider's own versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together")
}
