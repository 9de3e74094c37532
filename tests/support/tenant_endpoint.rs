//! A tenant's HTTPS endpoint, which records deliveries and acknowledges them.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::background::Background;

/// A request that the endpoint received.
pub(crate) struct Delivery {
    pub(crate) head: Parts,
    pub(crate) body: Bytes,
    /// When it was received.
    pub(crate) at: Instant,
}

impl Delivery {
    /// The value of a header that stands once.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut values = self.head.headers.get_all(name).iter();
        let value = values.next().unwrap_or_else(|| panic!("{name} is missing"));
        assert!(values.next().is_none(), "{name} stands twice");
        value.to_str().unwrap()
    }
}

/// The endpoint; it ends when this value is dropped.
pub(crate) struct TenantEndpoint {
    /// Its certificate, to be trusted.
    certificate: String,
    kept: Arc<EndpointMemory>,
    background: Background,
}

/// What the endpoint received, and what it answers.
#[derive(Default)]
struct EndpointMemory {
    deliveries: Mutex<Vec<Delivery>>,
    /// The status of its answers; 0 for 200.
    status: AtomicU16,
    /// Whether a request that comes now is never answered.
    is_silent: AtomicBool,
}

impl TenantEndpoint {
    pub(crate) fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
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
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let kept = Arc::<EndpointMemory>::default();
        let memory = Arc::clone(&kept);
        Self {
            certificate: certificate.pem(),
            kept,
            background: Background::serve(move |listener| accept(listener, acceptor, memory)),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.background.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address())
    }

    /// Writes the certificate that a client has to trust.
    pub(crate) fn write_certificate(&self, path: &Path) {
        fs::write(path, &self.certificate).unwrap();
    }

    pub(crate) fn count(&self) -> usize {
        self.kept.deliveries.lock().len()
    }

    /// Answers with this status from now on.
    pub(crate) fn answers(&self, status: u16) {
        self.kept.status.store(status, Ordering::Relaxed);
    }

    /// Leaves requests that come from now on without an answer, or answers them again.
    pub(crate) fn falls_silent(&self, is_silent: bool) {
        self.kept.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Takes the deliveries received so far.
    pub(crate) fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.kept.deliveries.lock())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, kept: Arc<EndpointMemory>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, kept) = (acceptor.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let service = service_fn(|request| record(request, &kept));
            // The proxy, not this endpoint, has to notice a broken connection.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn record(
    request: Request<Incoming>,
    kept: &EndpointMemory,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        let body = body.to_bytes();
        let is_silent = kept.is_silent.load(Ordering::Relaxed);
        let at = Instant::now();
        kept.deliveries.lock().push(Delivery { head, body, at });
        if is_silent {
            std::future::pending::<()>().await;
        }
    }
    let answer = br#"{"returnCode":"SUCCESS","returnMessage":""}"#;
    let mut answer = Response::new(Full::new(Bytes::from_static(answer)));
    if let Ok(status) = StatusCode::from_u16(kept.status.load(Ordering::Relaxed)) {
        *answer.status_mut() = status;
    }
    Ok(answer)
}
