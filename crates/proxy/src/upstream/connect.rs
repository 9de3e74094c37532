//! Connect: opens one connection to GatePay: DNS name, address, the egress proxy if configured, TLS.
//!
//! A failure here means that no byte of a request was sent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gatepay_tenancy::settings::{EgressCredentials, EgressSettings, UpstreamUrl};
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::tls::fault_text;
use crate::upstream::connection::{CountedTcp, UpstreamConnection, UpstreamStream};
use crate::upstream::happy_eyeballs::{self, AddressReached, SilentAddresses};
use crate::upstream::meters::UpstreamMeters;

/// The largest head an egress proxy's answer may have.
const MAX_TUNNEL_HEAD: usize = 8 * 1024;

/// Opens connections to one GatePay URL, directly or through an egress proxy.
pub struct UpstreamConnector {
    url: UpstreamUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    egress: Option<EgressSettings>,
    /// Timeout of connecting, from name resolution to TLS.
    limit: Duration,
    silent: SilentAddresses,
}

/// Why no connection was opened. No byte of a request was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name resolution or TCP connect failed.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The egress proxy refused the tunnel or gave no valid answer.
    #[error("egress proxy: {0}")]
    Tunnel(TunnelError),
    /// The TLS handshake failed, certificate check included.
    #[error("tls: {}", fault_text::of_handshake(.0))]
    Tls(io::Error),
    /// The timeout passed.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// All connection slots were in use until the deadline.
    #[error("all {0} connections of this worker were in use")]
    NoPlace(usize),
}

/// Why an egress proxy made no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The egress proxy answered with another status than 2xx.
    #[error("answered {0}")]
    Refused(u16),
    /// The answer was not HTTP, or more bytes followed it.
    #[error("gave no answer that can be read")]
    Unreadable,
}

impl UpstreamConnector {
    /// A connector to GatePay at `url`, over TLS if `tls` is given; `limit` is the timeout of connecting.
    pub fn new(
        url: UpstreamUrl,
        tls: Option<Arc<rustls::ClientConfig>>,
        limit: Duration,
    ) -> Result<Self, rustls_pki_types::InvalidDnsNameError> {
        let tls = match tls {
            Some(config) => Some((
                TlsConnector::from(config),
                ServerName::try_from(url.host.clone())?,
            )),
            None => None,
        };
        Ok(Self {
            url,
            tls,
            egress: None,
            limit,
            silent: SilentAddresses::default(),
        })
    }

    /// The same connector through an egress proxy.
    #[must_use]
    pub fn by_way_of(self, egress: EgressSettings) -> Self {
        Self {
            egress: Some(egress),
            ..self
        }
    }

    /// The value of `Host`.
    pub fn authority(&self) -> String {
        self.url.authority()
    }

    /// A new connection to the first address of the name that answers, TLS included.
    pub async fn connect(
        &self,
        deadline: Instant,
        meters: &UpstreamMeters,
    ) -> Result<UpstreamConnection, ConnectError> {
        let now = Instant::now();
        let limit = self.limit.min(deadline.saturating_duration_since(now));
        let dialed = async {
            let addresses = self.resolve().await.map_err(ConnectError::Connect)?;
            self.dial(addresses, now + limit, meters).await
        };
        match timeout(limit, dialed).await {
            Ok(stream) => Ok(UpstreamConnection::new(stream?, meters.connections.clone())),
            Err(_) => Err(ConnectError::Timeout(limit)),
        }
    }

    /// The addresses of the first hop: of GatePay, or of the egress proxy.
    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let first = self.egress.as_ref().map_or(&self.url, |egress| &egress.url);
        let addresses = lookup_host((first.host.as_str(), first.port)).await?;
        Ok(addresses.collect())
    }

    async fn dial(
        &self,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
        meters: &UpstreamMeters,
    ) -> Result<UpstreamStream, ConnectError> {
        let reached: Vec<_> = addresses
            .iter()
            .map(|_| AddressReached::default())
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        happy_eyeballs::connect(addresses, left, &self.silent, &reached, |to, reached| {
            self.dial_one(to, reached, meters)
        })
        .await
        .map_err(|error| error.unwrap_or_else(no_address))
    }

    async fn dial_one(
        &self,
        address: SocketAddr,
        reached: &AddressReached,
        meters: &UpstreamMeters,
    ) -> Result<UpstreamStream, ConnectError> {
        let connected = TcpStream::connect(address).await;
        let mut tcp = connected.map_err(ConnectError::Connect)?;
        reached.set();
        tcp.set_nodelay(true).map_err(ConnectError::Connect)?;
        if let Some(egress) = &self.egress {
            tunnel(&mut tcp, &self.url, egress.authorization.as_ref())
                .await
                .map_err(ConnectError::Tunnel)?;
        }
        meters.connects.inc();
        let tcp = CountedTcp::new(tcp);
        let Some((tls, name)) = &self.tls else {
            return Ok(UpstreamStream::Plain(tcp));
        };
        let handshake = tls.connect(name.clone(), tcp).await;
        let stream = handshake.map_err(ConnectError::Tls)?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        meters.handshakes[usize::from(resumed)].inc();
        Ok(UpstreamStream::Tls(Box::new(stream)))
    }
}

fn no_address() -> ConnectError {
    let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    ConnectError::Connect(error)
}

/// Asks an egress proxy for a tunnel to GatePay (RFC 9110, 9.3.6). No byte for GatePay is sent before a 2xx answer.
async fn tunnel(
    tcp: &mut TcpStream,
    to: &UpstreamUrl,
    authorization: Option<&EgressCredentials>,
) -> Result<(), TunnelError> {
    let host = if to.host.contains(':') {
        format!("[{}]:{}", to.host, to.port)
    } else {
        format!("{}:{}", to.host, to.port)
    };
    let mut head = zeroize::Zeroizing::new(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n"));
    if let Some(authorization) = authorization {
        // Reserved at once: a growing string would leave copies of the secret in memory.
        head.reserve(authorization.header().len() + 32);
        head.push_str("Proxy-Authorization: ");
        head.push_str(authorization.header());
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    tcp.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let status = status(&answer).ok_or(TunnelError::Unreadable)?;
            return match status {
                // GatePay never sends first: bytes behind this head are not from GatePay.
                200..=299 if end + 4 == answer.len() => Ok(()),
                200..=299 => Err(TunnelError::Unreadable),
                status => Err(TunnelError::Refused(status)),
            };
        }
        if answer.len() > MAX_TUNNEL_HEAD {
            return Err(TunnelError::Unreadable);
        }
        if tcp.read_buf(&mut answer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// The status of an answer's first line.
fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let digits = str::from_utf8(rest.get(2..5)?).ok()?;
    digits.parse().ok().filter(|_| rest[1] == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    /// An address whose connections are never completed: its queue is full, so SYNs are dropped.
    struct BlackHole {
        address: SocketAddr,
        _listener: socket2::Socket,
        _queued: Vec<std::net::TcpStream>,
    }

    impl BlackHole {
        fn new() -> Self {
            let listener =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let any: SocketAddr = ([127, 0, 0, 1], 0).into();
            listener.bind(&any.into()).unwrap();
            listener.listen(0).unwrap();
            let address = listener.local_addr().unwrap().as_socket().unwrap();
            let patience = Duration::from_millis(50);
            let connect = || std::net::TcpStream::connect_timeout(&address, patience).ok();
            Self {
                address,
                _queued: std::iter::from_fn(connect).take(16).collect(),
                _listener: listener,
            }
        }
    }

    #[tokio::test]
    async fn dead_addresses_before_a_good_one_do_not_keep_it_from_being_used() {
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let holes: Vec<_> = (0..4).map(|_| BlackHole::new()).collect();
        let mut addresses: Vec<_> = holes.iter().map(|hole| hole.address).collect();
        addresses.push(good.local_addr().unwrap());
        let url = UpstreamUrl::parse("http://127.0.0.1:9").unwrap();
        let upstream = UpstreamConnector::new(url, None, Duration::from_secs(5)).unwrap();
        let meters = UpstreamMeters::unscraped();
        for _ in 0..2 {
            let deadline = Instant::now() + Duration::from_mins(1);
            let dialed = upstream.dial(addresses.clone(), deadline, &meters);
            let Ok(UpstreamStream::Plain(_)) = dialed.await else {
                panic!("the good address was not reached");
            };
        }
        assert_eq!(meters.connects.get(), 2);
    }

    #[test]
    fn a_tunnels_status_is_read_or_refused() {
        for (line, read) in [
            ("HTTP/1.1 200 Connection established", Some(200)),
            ("HTTP/1.0 407 Proxy Authentication Required", Some(407)),
            ("HTTP/1.1 2000", Some(200)),
            ("HTTP/2 200", None),
            ("HTTP/1.1200", None),
            ("HTTP/1.1 2", None),
            ("SSH-2.0-x", None),
            ("", None),
        ] {
            assert_eq!(status(line.as_bytes()), read, "{line}");
        }
    }
}
