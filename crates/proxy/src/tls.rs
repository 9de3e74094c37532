//! TLS configurations, with the provider named explicitly.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// Verifies GatePay's certificate by the platform's trust, or by the certificates in `ca` alone.
pub fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // TLS 1.2 or later (protocol.md 1.1).
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match ca {
        None => builder
            .with_platform_verifier()
            .map_err(|error| error.to_string())?,
        Some(path) => builder.with_root_certificates(roots(path)?),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let fault = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| fault(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        Err(fault(&"has no certificate in PEM form"))
    } else {
        Ok(roots)
    }
}

/// A server's certificate chain and key, both PEM. A key that does not fit the certificate is an error here, not at
/// the first handshake.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fault = |path: &Path, what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| fault(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| format!("{} and {}: {error}", certificate.display(), key.display()))?;
    Ok(Arc::new(config))
}
