//! A proxy in the test's process: its setup, and access through its real listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_core::Catalogue;
use gatepay_proxy::app::App;
use gatepay_proxy::process::clock::Clock;
use gatepay_proxy::process::state_dir::StateDir;
use gatepay_proxy::process::systemd::InheritedSockets;
use gatepay_proxy::server::{Server, ServerExit};
use gatepay_proxy::start_error::StartError;
use gatepay_tenancy::settings::{BreakerSettings, Institution, Settings, UpstreamUrl};
use gatepay_tenancy::{Configuration, DatedCredential, Registry};
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::log::Log;
use super::scripted::Scripted;
use super::{
    Answer, Call, Connection, GatePay, PATIENCE, Raw, Shop, T0, acme, any_port, globex,
    institution, rate, until,
};

/// The plan of a proxy that has not started yet.
pub(crate) struct Plan {
    clock: Clock,
    url: String,
    shops: Vec<Shop>,
    operators: Vec<Shop>,
    catalogue: Catalogue,
    adjust: Vec<Adjust>,
    fresh: bool,
    sockets: InheritedSockets,
}

impl Plan {
    /// Serves this shop. Naming any shop replaces the default shops.
    pub(crate) fn tenant(mut self, shop: Shop) -> Self {
        self.shops.push(shop);
        self
    }

    /// Serves this back office as well.
    pub(crate) fn operator(mut self, office: Shop) -> Self {
        self.operators.push(office);
        self
    }

    /// Uses this catalogue instead of GatePay's documentation.
    pub(crate) fn catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    pub(crate) fn with(mut self, adjust: impl FnOnce(&mut Settings) + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// Inherits this socket for operators, as from a launcher.
    pub(crate) fn admin_socket(mut self, socket: TcpListener) -> Self {
        self.sockets.admin = Some(socket);
        self
    }

    /// Starts as after a crash: the calls that the run before admitted are unknown.
    pub(crate) fn after_a_crash(mut self) -> Self {
        self.fresh = false;
        self
    }

    pub(crate) fn start(self) -> Proxy {
        self.try_start().expect("the proxy starts")
    }

    /// Starts, unless a remnant of an earlier run forbids it.
    pub(crate) fn try_start(mut self) -> Result<Proxy, StartError> {
        if self.shops.is_empty() {
            self.shops = vec![acme(), globex()];
        }
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
        // Fault tests continue after the faults, so the circuit breaker is off. Tests of the breaker set it.
        settings.upstream.breaker = BreakerSettings {
            failures: 0,
            ratio: 0.0,
        };
        // Look-ups after a lost answer take seconds, so they are off. Tests of look-ups set them.
        settings.upstream.resolve = Duration::ZERO;
        settings.upstream.quota.rate = rate(1_000_000, 1_000_000);
        for adjust in self.adjust {
            adjust(&mut settings);
        }
        let catalogue = self.catalogue;
        let tenants = self.shops.iter().map(|shop| shop.tenant(&catalogue));
        let operators = self.operators.iter().map(|shop| shop.operator(&catalogue));
        let registry = Registry::new(
            tenants.collect(),
            operators.collect(),
            &settings.institution.credentials,
        )
        .expect("parties that differ");
        let log = Log::default();
        let server = Server::start(
            Configuration {
                settings,
                registry,
                catalogue,
            },
            self.sockets,
            self.clock.clone(),
            Box::new(log.clone()),
            self.fresh,
        )?;
        Ok(Proxy {
            server: Some(server),
            clock: self.clock,
            log,
        })
    }
}

/// A change to the settings that all proxies of these tests share.
type Adjust = Box<dyn FnOnce(&mut Settings)>;

/// A running proxy.
pub(crate) struct Proxy {
    server: Option<Server>,
    pub(crate) clock: Clock,
    log: Log,
}

impl Proxy {
    /// Before the emulator, with its clock. The tenants are acme and globex unless others are named.
    pub(crate) fn before(gatepay: &GatePay) -> Plan {
        Self::at(&gatepay.url(), &gatepay.clock)
    }

    /// Before a scripted upstream.
    pub(crate) fn before_scripted(upstream: &Scripted) -> Plan {
        Self::at(&upstream.url(), &Clock::manual(T0))
    }

    /// Before the upstream at this URL.
    pub(crate) fn at(url: &str, clock: &Clock) -> Plan {
        Plan {
            clock: clock.clone(),
            url: url.to_owned(),
            shops: Vec::new(),
            operators: Vec::new(),
            catalogue: Catalogue::standard(),
            adjust: Vec::new(),
            fresh: true,
            sockets: InheritedSockets::default(),
        }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is stopped")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server().address()
    }

    /// Signs a call at this moment and sends it on a connection of its own.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        self.connect().await.send(call.request(&self.clock)).await
    }

    /// Opens a connection for more than one request.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    /// Opens a bare socket, for bytes that no client library would send.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::open(self.address()).await
    }

    /// Like `raw`, from another of this machine's loopback addresses.
    pub(crate) async fn raw_from(&self, address: &str) -> Raw {
        let raw = Raw::open_from(address, self.address()).await;
        raw.expect("the listener accepts")
    }

    /// The program's shared state, for values that no caller can see.
    pub(crate) fn app(&self) -> &App {
        self.server().app()
    }

    /// The address of the admin listener.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.server().admin_address()
    }

    /// The admin listener's answer at a path.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header("host", self.admin_address().to_string())
            .body(Full::default())
            .expect("well formed");
        Connection::open(self.server().admin_address())
            .await
            .send(request)
            .await
    }

    /// All metrics, as Prometheus scrapes them.
    pub(crate) async fn metrics(&self) -> String {
        let answer = self.admin("/metrics").await;
        String::from_utf8(answer.body.into()).expect("metrics are text")
    }

    /// Waits until a line stands in the metrics: a request is counted when its answer is over, not when it arrives.
    pub(crate) async fn counts(&self, line: &str) {
        let (series, _) = line.split_once(['{', ' ']).expect("a series and its value");
        let begun = Instant::now();
        loop {
            let metrics = self.metrics().await;
            let named = |other: &&str| other.starts_with(series);
            let lines = metrics
                .lines()
                .filter_map(|line| line.strip_prefix("gatepay_proxy_"));
            let found: Vec<&str> = lines
                .filter(named)
                .filter(|line| !line.contains("_bucket"))
                .collect();
            if found.contains(&line) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not {line}, but:\n{}",
                found.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks the server to end, without waiting.
    pub(crate) fn leave(&self) {
        self.server().leave();
    }

    /// Ends the server in order, and returns its access lines.
    pub(crate) async fn stop(self) -> Vec<Value> {
        let log = self.log.clone();
        self.end().await;
        log.lines()
    }

    /// Like `stop`, with the lines as written.
    pub(crate) async fn stop_and_read(self) -> String {
        let log = self.log.clone();
        self.end().await;
        log.text()
    }

    /// Ends the server as a kill does: it finishes no call, and hands over nothing but the files on the disk.
    pub(crate) async fn crash(mut self) {
        let server = self.server.take().expect("it is ended once");
        let app = Arc::downgrade(server.app());
        let folder = server.app().settings.state_dir.clone();
        server.hurry()();
        // The end is not awaited, so the server hands over no replay memory: its thread drops the memory.
        drop(server);
        until("nothing of it is left", || app.strong_count() == 0).await;
        until("its folder is free", || {
            folder.as_ref().is_none_or(|folder| is_free(folder))
        })
        .await;
    }

    /// Ends the server at once, with calls in flight. It hands over the stamps that it admitted.
    pub(crate) async fn end_at_once(mut self) {
        let server = self.server.take().expect("it is ended once");
        server.leave();
        server.hurry()();
        let ended = tokio::task::spawn_blocking(move || server.wait());
        ended.await.expect("no thread panicked");
    }

    async fn end(mut self) {
        let server = self.server.take().expect("it is stopped once");
        server.leave();
        // Clients continue meanwhile: a connection ends when both sides see the end.
        let ended = tokio::task::spawn_blocking(move || server.wait());
        assert_eq!(
            ended.await.expect("no thread panicked"),
            ServerExit::Drained
        );
    }
}

/// Whether the state folder is locked by no process.
pub(crate) fn is_free(folder: &Path) -> bool {
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    !StateDir::open(folder).as_ref().is_err_and(in_use)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.leave();
        }
    }
}
