//! A tenant's HTTPS endpoint, which records deliveries and acknowledges them.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
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
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    background: Background,
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
        let deliveries = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&deliveries);
        Self {
            certificate: certificate.pem(),
            deliveries,
            background: Background::serve(move |listener| accept(listener, acceptor, kept)),
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
        self.deliveries.lock().len()
    }

    /// Takes the deliveries received so far.
    pub(crate) fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.deliveries.lock())
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, deliveries) = (acceptor.clone(), Arc::clone(&deliveries));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let service = service_fn(|request| record(request, &deliveries));
            // The proxy, not this endpoint, has to notice a broken connection.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn record(
    request: Request<Incoming>,
    deliveries: &Mutex<Vec<Delivery>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        let body = body.to_bytes();
        deliveries.lock().push(Delivery { head, body });
    }
    let answer = br#"{"returnCode":"SUCCESS","returnMessage":""}"#;
    Ok(Response::new(Full::new(Bytes::from_static(answer))))
}
