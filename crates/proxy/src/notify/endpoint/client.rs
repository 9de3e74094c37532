//! Endpoint client: sends one POST to a tenant's endpoint and reads the beginning of its answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gatepay_core::destination::{DestinationHost, DestinationUrl};
use gatepay_http1::header_block::HeaderBlock;
use gatepay_http1::{request_encoder, wire_lines};
use gatepay_tenancy::notifications::EndpointBounds;
use http::header;
use prometheus::IntGauge;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::notify::endpoint::checked_addresses::{AddressError, NameResolver, checked_addresses};
use crate::notify::endpoint::kept_connections::{EndpointConnection, KeptConnections};
use crate::upstream::connection::{CountedTcp, ExchangeError, UpstreamConnection, UpstreamStream};
use crate::upstream::happy_eyeballs::{self, AddressReached, SilentAddresses};

/// Timeout of connecting: name resolution, TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of an answer's body that are read.
pub const MOST_READ: usize = 4 * 1024;
/// The most addresses of a name that are tried for one connection. All are checked.
const MOST_TRIED: usize = 8;
/// The most look-ups of the names of one tenant's endpoints at once, abandoned ones included.
pub const LOOKUPS: usize = 4;

/// What the clients of all endpoints share.
pub struct EndpointNetwork {
    resolver: Arc<dyn NameResolver>,
    silent: SilentAddresses,
    open: IntGauge,
}

/// The client for one endpoint.
pub struct EndpointClient {
    url: DestinationUrl,
    bounds: EndpointBounds,
    tls: TlsConnector,
    server_name: ServerName<'static>,
    network: Arc<EndpointNetwork>,
    lookups: Arc<Semaphore>,
    kept: KeptConnections,
}

/// The answer of an endpoint, as far as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct EndpointAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The value of `Retry-After`.
    pub retry_after: Option<String>,
    /// The first [`MOST_READ`] bytes of the body.
    pub body: Vec<u8>,
    /// Whether the answer was cut short, by the endpoint or by the deadline, before `MOST_READ` bytes.
    pub is_cut: bool,
}

/// Why an endpoint gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The endpoint has no address that may be connected to. No connection was opened.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// No TCP connection was made.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The TLS handshake failed, certificate check included.
    #[error("tls: {}", crate::tls::fault_text::of_handshake(.0))]
    Tls(io::Error),
    /// No connection was made in time.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The request was sent, at least in part, and no head of an answer came.
    #[error("{0}")]
    NoAnswer(ExchangeError),
}

impl EndpointNetwork {
    /// Resolves names by `resolver`, and shows the number of open connections in `open`.
    pub fn new(resolver: Arc<dyn NameResolver>, open: IntGauge) -> Self {
        Self {
            resolver,
            silent: SilentAddresses::default(),
            open,
        }
    }
}

impl EndpointClient {
    /// A client without connections. Clients of one tenant share the permits of `lookups`.
    pub fn new(
        url: DestinationUrl,
        bounds: EndpointBounds,
        tls: Arc<ClientConfig>,
        (network, lookups): (Arc<EndpointNetwork>, Arc<Semaphore>),
    ) -> Result<Self, rustls_pki_types::InvalidDnsNameError> {
        let server_name = match url.host() {
            DestinationHost::Name(name) => ServerName::try_from(name.clone())?,
            DestinationHost::Address(address) => ServerName::IpAddress((*address).into()),
        };
        Ok(Self {
            url,
            bounds,
            tls: TlsConnector::from(tls),
            server_name,
            network,
            lookups,
            kept: KeptConnections::default(),
        })
    }

    /// Posts a JSON body, with the header lines that `sign` adds, and reads the beginning of the answer by `deadline`.
    ///
    /// A server may close a kept connection at the moment at which it is used. The body is then sent once more on a new
    /// connection, with lines that are added anew.
    pub async fn post(
        &self,
        body: &Bytes,
        mut sign: impl FnMut(&mut HeaderBlock) + Send,
        deadline: Instant,
    ) -> Result<EndpointAnswer, EndpointError> {
        if let Some(kept) = self.kept.take() {
            match self.exchange(kept, body, &mut sign, deadline).await {
                Err(ExchangeError::Closed | ExchangeError::Io(_)) => {}
                answered => return answered.map_err(EndpointError::NoAnswer),
            }
        }
        let opened = self.connect(deadline).await?;
        let answered = self.exchange(opened, body, &mut sign, deadline).await;
        answered.map_err(EndpointError::NoAnswer)
    }

    /// Closes connections that are idle for too long.
    pub fn close_idle(&self) {
        self.kept.close_idle();
    }

    /// A new connection to an address that was checked just now.
    async fn connect(&self, deadline: Instant) -> Result<EndpointConnection, EndpointError> {
        let deadline = deadline.min(Instant::now() + CONNECT);
        let connected = async {
            let network = &self.network;
            let addresses =
                checked_addresses(&self.url, &self.bounds, &network.resolver, &self.lookups);
            let mut addresses = addresses.await?;
            addresses.truncate(MOST_TRIED);
            self.dial(addresses, deadline).await
        };
        let late = |_| Err(EndpointError::ConnectTimeout);
        let stream = timeout_at(deadline, connected).await.unwrap_or_else(late)?;
        let connection = UpstreamConnection::new(stream, self.network.open.clone());
        Ok(EndpointConnection::new(connection))
    }

    async fn dial(
        &self,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Result<UpstreamStream, EndpointError> {
        let reached: Vec<_> = addresses
            .iter()
            .map(|_| AddressReached::default())
            .collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let silent = &self.network.silent;
        happy_eyeballs::connect(addresses, left, silent, &reached, |to, reached| {
            self.dial_one(to, reached)
        })
        .await
        .map_err(|error| error.unwrap_or(EndpointError::Address(AddressError::NoAddress)))
    }

    async fn dial_one(
        &self,
        address: SocketAddr,
        reached: &AddressReached,
    ) -> Result<UpstreamStream, EndpointError> {
        let connected = TcpStream::connect(address).await;
        let tcp = connected.map_err(EndpointError::Connect)?;
        reached.set();
        tcp.set_nodelay(true).map_err(EndpointError::Connect)?;
        let handshake = self
            .tls
            .connect(self.server_name.clone(), CountedTcp::new(tcp));
        let stream = handshake.await.map_err(EndpointError::Tls)?;
        Ok(UpstreamStream::Tls(Box::new(stream)))
    }

    async fn exchange(
        &self,
        mut used: EndpointConnection,
        body: &Bytes,
        sign: &mut (impl FnMut(&mut HeaderBlock) + Send),
        deadline: Instant,
    ) -> Result<EndpointAnswer, ExchangeError> {
        let mut attempt = |head: &mut Vec<u8>| {
            self.write_head(head, body.len(), sign);
            body.clone()
        };
        let passes = |name: &str| name.eq_ignore_ascii_case(header::RETRY_AFTER.as_str());
        let connection = &mut used.connection;
        let head = connection.ask(&mut attempt, passes, deadline).await?;
        let retry_after = head.fields.get(&header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| str::from_utf8(value).ok());
        let mut answer = EndpointAnswer {
            status: head.status.as_u16(),
            retry_after: retry_after.map(str::to_owned),
            body: Vec::new(),
            is_cut: false,
        };
        if read_body(connection, &mut answer).await {
            self.kept.keep(used);
        }
        Ok(answer)
    }

    fn write_head(
        &self,
        head: &mut Vec<u8>,
        length: usize,
        sign: &mut impl FnMut(&mut HeaderBlock),
    ) {
        let target = self.url.path_and_query();
        request_encoder::write_request_line(head, "POST", target, None);
        wire_lines::write(head, header::HOST, self.url.authority().as_bytes());
        wire_lines::write(head, header::USER_AGENT, b"gatepay-proxy");
        wire_lines::write(head, header::ACCEPT, b"application/json");
        wire_lines::write(head, header::CONTENT_TYPE, b"application/json");
        let mut lines = HeaderBlock::default();
        sign(&mut lines);
        head.extend_from_slice(lines.as_bytes());
        request_encoder::write_end(head, length, true);
    }
}

/// Reads the beginning of a body into the answer. Returns whether the body was over by then.
async fn read_body(connection: &mut UpstreamConnection, answer: &mut EndpointAnswer) -> bool {
    while answer.body.len() < MOST_READ {
        match connection.piece().await {
            Ok(Some(piece)) => {
                let room = MOST_READ - answer.body.len();
                let taken = &piece[..piece.len().min(room)];
                answer.body.extend_from_slice(taken);
                if taken.len() < piece.len() {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(_cut) => {
                answer.is_cut = true;
                return false;
            }
        }
    }
    // A body of exactly this length is over too, but its end was not read.
    false
}
