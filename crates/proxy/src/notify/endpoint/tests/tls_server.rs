//! A tenant's HTTPS server, for tests.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gatepay_http1::request_parser::{BodyFraming, RequestParser};
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What the server does with each request.
#[derive(Clone)]
pub(crate) enum ServerManner {
    /// It writes these bytes.
    Answers(Vec<u8>),
    /// It writes these bytes and ends the connection.
    AnswersAndCloses(Vec<u8>),
    /// It accepts the connection and never speaks, not even TLS.
    SilentTcp,
    /// It reads the request and never answers.
    Silent,
    /// It closes the connection after the request.
    Closes,
    /// It resets the connection after the request.
    Resets,
    /// It writes the first bytes, then the second bytes again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// As `Endless`, with a pause before each repetition.
    Drips(Vec<u8>, Vec<u8>, Duration),
}

/// A request as the server received it.
#[derive(Debug, Clone)]
pub(crate) struct ReceivedRequest {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl ReceivedRequest {
    /// The value of a header line.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// A running server.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    /// The certificate, to be trusted.
    pub(crate) ca: PathBuf,
    accepted: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
    _folder: TempDir,
}

pub(crate) const SUCCESS: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n{\"returnCode\":\"SUCCESS\",\"returnMessage\":\"\"}";

impl TlsServer {
    /// A server at this address, with a certificate for `shop.example` and its address.
    pub(crate) async fn start(address: SocketAddr, manner: ServerManner) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = vec!["shop.example".to_owned(), address.ip().to_string()];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let server = Self {
            address,
            ca,
            accepted: Arc::default(),
            requests: Arc::default(),
            _folder: folder,
        };
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (accepted, requests) = (Arc::clone(&server.accepted), Arc::clone(&server.requests));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(
                    tcp,
                    acceptor.clone(),
                    manner.clone(),
                    Arc::clone(&requests),
                ));
            }
        });
        server
    }

    /// A server on the address `127.0.0.1`.
    pub(crate) async fn local(manner: ServerManner) -> Self {
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
        Self::start(address, manner).await
    }

    /// The number of accepted connections.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        self.requests.lock().clone()
    }
}

async fn serve(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    manner: ServerManner,
    requests: Arc<Mutex<Vec<ReceivedRequest>>>,
) {
    if matches!(manner, ServerManner::SilentTcp) {
        std::future::pending::<()>().await;
    }
    let Ok(mut stream) = acceptor.accept(tcp).await else {
        return;
    };
    while let Some(request) = read_request(&mut stream).await {
        requests.lock().push(request);
        match &manner {
            ServerManner::Answers(bytes) => {
                if stream.write_all(bytes).await.is_err() {
                    return;
                }
            }
            ServerManner::AnswersAndCloses(bytes) => {
                let _gone = stream.write_all(bytes).await;
                let _gone = stream.shutdown().await;
                return;
            }
            ServerManner::SilentTcp | ServerManner::Silent => std::future::pending().await,
            ServerManner::Closes => return,
            ServerManner::Resets => {
                let tcp = socket2::SockRef::from(stream.get_ref().0);
                tcp.set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            ServerManner::Endless(first, again) => {
                drip(&mut stream, first, again, Duration::ZERO).await;
                return;
            }
            ServerManner::Drips(first, again, pause) => {
                drip(&mut stream, first, again, *pause).await;
                return;
            }
        }
    }
}

async fn drip(stream: &mut (impl AsyncWrite + Unpin), first: &[u8], again: &[u8], pause: Duration) {
    let mut sent = stream.write_all(first).await;
    while sent.is_ok() && !again.is_empty() {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        sent = stream.write_all(again).await;
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<ReceivedRequest> {
    let (mut parser, mut bytes) = (RequestParser::default(), Vec::new());
    loop {
        if let Some(length) = parser.read(&bytes).ok()? {
            let BodyFraming::Length(body) = parser.rest() else {
                return None;
            };
            let whole = length + usize::try_from(body).ok()?;
            while bytes.len() < whole {
                stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
            }
            return Some(ReceivedRequest {
                head: String::from_utf8(bytes[..length].to_vec()).ok()?,
                body: bytes[length..].to_vec(),
            });
        }
        stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
    }
}
