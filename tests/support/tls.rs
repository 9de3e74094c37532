//! TLS as callers use it: fresh test certificates, and connections that report their handshake.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use gatepay_tenancy::settings::ListenTls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The name in all of these certificates.
const NAME: &str = "pay.example";

/// A self-signed certificate and its key.
pub(crate) struct Pair {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
    params: CertificateParams,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        adjust(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            certificate,
            key,
            params,
        }
    }

    /// The self-signed certificate of an authority.
    pub(crate) fn authority() -> Self {
        Self::with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
    }

    /// A certificate signed by this one, with its key.
    pub(crate) fn signs(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let params = CertificateParams::new(vec!["caller.example".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        (certificate.der().clone(), private)
    }
}

/// A folder with the listener's files.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn of(pair: &Pair) -> Self {
        let files = Self(TempDir::new().expect("a folder"));
        files.certificate(pair);
        files.key(pair);
        files
    }

    pub(crate) fn certificate(&self, pair: &Pair) {
        fs::write(self.0.path().join("cert.pem"), pair.certificate.pem()).expect("a file");
    }

    pub(crate) fn key(&self, pair: &Pair) {
        let path = self.0.path().join("key.pem");
        fs::write(&path, pair.key.serialize_pem()).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
    }

    /// Writes the authority of the client certificates that the listener accepts.
    pub(crate) fn client_ca(&self, authority: &Pair) {
        fs::write(self.0.path().join("ca.pem"), authority.certificate.pem()).expect("a file");
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn named(&self) -> ListenTls {
        ListenTls {
            certificate: self.0.path().join("cert.pem"),
            key: self.0.path().join("key.pem"),
            client_ca: None,
        }
    }

    pub(crate) fn named_with_client_ca(&self) -> ListenTls {
        ListenTls {
            client_ca: Some(self.0.path().join("ca.pem")),
            ..self.named()
        }
    }
}

/// A caller that trusts some certificates and keeps sessions for resumption.
pub(crate) struct Caller(Arc<ClientConfig>);

impl Caller {
    pub(crate) fn trusting(pairs: &[&Pair]) -> Self {
        Self::speaking(rustls::ALL_VERSIONS, &["http/1.1"], pairs, None)
    }

    pub(crate) fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
        pairs: &[&Pair],
        shows: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for pair in pairs {
            roots.add(pair.certificate.der().clone()).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions there are")
            .with_root_certificates(roots);
        let mut config = match shows {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config
                .with_client_auth_cert(vec![certificate], key)
                .expect("they belong together"),
        };
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        Self(Arc::new(config))
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.over(TcpStream::connect(address).await?).await
    }

    /// Begins TLS on a connection that has already carried other bytes.
    pub(crate) async fn over(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(NAME).expect("a name");
        TlsConnector::from(Arc::clone(&self.0))
            .connect(name, tcp)
            .await
    }
}
