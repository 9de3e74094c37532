//! Handshakes: connections over TLS 1.3, each with one small request that the target refuses, and closed by the target.
//! With a full handshake the target signs; with a resumed one the caller has a ticket from its connection before.
//!
//! The callers verify no certificate: it would cost the load's core more than a handshake costs the target's.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepay_proxy::tls::config;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, HandshakeKind,
    ProtocolVersion, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::target::{Certificate, Kind, Setup, Target};
use crate::wire::Wire;
use crate::{Options, cores, middle};

const REQUEST: &[u8] =
    b"GET /v1/nothing HTTP/1.1\r\nHost: pay.example\r\nConnection: close\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 404 ";
/// A target's caches, and the callers' first tickets.
const WARM_UP: Duration = Duration::from_millis(300);

const TARGETS: [Kind; 2] = [Kind::Nginx, Kind::Proxy];
const HANDSHAKES: [HandshakeKind; 2] = [HandshakeKind::Full, HandshakeKind::Resumed];

/// One kind of handshake with one target: handshakes per second, processor time of each in microseconds, and the used
/// share of a core, each by rounds.
#[derive(Default)]
struct Measured {
    per_second: Vec<f64>,
    micros: Vec<f64>,
    busy: Vec<f64>,
    wrong: usize,
}

/// Measures full and resumed handshakes with all targets, in turn; returns the number of wrong ones.
pub(crate) fn run(options: &Options) -> usize {
    let mut all: [[Measured; 2]; 2] = Default::default();
    for _ in 0..options.of("--rounds") {
        for (kind, measured) in TARGETS.into_iter().zip(&mut all) {
            round(kind, options, measured);
        }
    }
    let names = ["rounds", "seconds", "connections"];
    let said = names.map(|name| format!("{} {name}", options.of(&format!("--{name}"))));
    println!("{}, TLS 1.3, ECDSA P-256; medians\n", said.join(", "));
    println!("| target | handshake | per second | to nginx | CPU µs | core | wrong |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    for at in [0, 1] {
        let nginx = middle(all[0][at].per_second.clone());
        for (kind, measured) in TARGETS.iter().zip(&all) {
            let measured = &measured[at];
            let per_second = middle(measured.per_second.clone());
            println!(
                "| {kind:?} | {:?} | {per_second:.0} | {:.2} | {:.1} | {:.0} % | {} |",
                HANDSHAKES[at],
                per_second / nginx,
                middle(measured.micros.clone()),
                middle(measured.busy.clone()) * 100.0,
                measured.wrong
            );
        }
    }
    all.iter().flatten().map(|measured| measured.wrong).sum()
}

fn round(kind: Kind, options: &Options, measured: &mut [Measured; 2]) {
    let certificate = Certificate::new();
    // Nothing gets as far as GatePay.
    let gatepay = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::start(
        kind,
        Setup {
            gatepay: gatepay.local_addr().unwrap(),
            tls: Some(&certificate),
            gatepay_tls: None,
            everything: false,
            tenants: options.of("--tenants"),
            workers: 1,
            core: (cores() > 1).then_some(0),
            counted: false,
            program: None,
        },
    );
    let time = Duration::from_secs(options.of("--seconds") as u64);
    for (handshake, measured) in HANDSHAKES.into_iter().zip(measured) {
        let mut callers = Callers::new(
            &certificate,
            target.address,
            handshake,
            options.of("--connections"),
        );
        callers.run(WARM_UP);
        (callers.good, callers.wrong) = (0, 0);
        let (begun, before) = (Instant::now(), target.used());
        callers.run(time);
        let used = target.used().saturating_sub(before).as_secs_f64();
        let (elapsed, good) = (begun.elapsed().as_secs_f64(), callers.good as f64);
        measured.per_second.push(good / elapsed);
        measured.micros.push(used * 1e6 / good);
        measured.busy.push(used / elapsed);
        measured.wrong += callers.wrong;
    }
}

/// Callers that have one connection after another.
struct Callers {
    poll: Poll,
    address: SocketAddr,
    /// One for each caller, so that each has its own tickets.
    configs: Vec<Arc<ClientConfig>>,
    /// The handshake that a connection is to have.
    handshake: HandshakeKind,
    good: usize,
    wrong: usize,
}

impl Callers {
    fn new(
        certificate: &Certificate,
        address: SocketAddr,
        handshake: HandshakeKind,
        count: usize,
    ) -> Self {
        let mut config = (*config::client(Some(&certificate.chain)).unwrap()).clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Unverified));
        let config = |_| {
            let mut config = config.clone();
            config.resumption = match handshake {
                HandshakeKind::Resumed => Resumption::in_memory_sessions(1),
                _ => Resumption::disabled(),
            };
            Arc::new(config)
        };
        Self {
            poll: Poll::new().unwrap(),
            address,
            configs: (0..count).map(config).collect(),
            handshake,
            good: 0,
            wrong: 0,
        }
    }

    /// Opens connections for this time, and waits for the end of each.
    fn run(&mut self, time: Duration) {
        let (begun, mut events) = (Instant::now(), Events::with_capacity(1_024));
        let mut wires: Vec<_> = (0..self.configs.len())
            .map(|at| Some(self.open(at)))
            .collect();
        while wires.iter().any(Option::is_some) {
            self.poll.poll(&mut events, None).unwrap();
            for event in &events {
                let Token(at) = event.token();
                let Some(wire) = &mut wires[at] else { continue };
                if wire.fill().unwrap_or(false) {
                    continue;
                }
                if is_good(wire, self.handshake) {
                    self.good += 1;
                } else {
                    self.wrong += 1;
                }
                wires[at] = (begun.elapsed() < time).then(|| self.open(at));
            }
        }
    }

    /// Opens a caller's next connection, and hands its request to the TLS library, which sends it after the handshake.
    fn open(&self, at: usize) -> Wire {
        let tcp = std::net::TcpStream::connect(self.address).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::clone(&self.configs[at]), name).unwrap();
        let mut wire = Wire::new(TcpStream::from_std(tcp), Some(Connection::from(tls)));
        let registry = self.poll.registry();
        registry
            .register(&mut wire.tcp, Token(at), Interest::READABLE)
            .unwrap();
        wire.send(REQUEST).unwrap();
        wire
    }
}

/// Whether the connection began with this handshake, and its request was refused.
fn is_good(wire: &Wire, handshake: HandshakeKind) -> bool {
    let tls = wire.tls.as_ref().unwrap();
    tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
        && tls.handshake_kind() == Some(handshake)
        && wire.inbox.starts_with(REFUSED)
}

/// Takes any certificate.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
