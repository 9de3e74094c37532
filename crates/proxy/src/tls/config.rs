//! TLS configurations, with the provider named explicitly.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use gatepay_tenancy::settings::ListenTls;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate;
use x509_cert::der::{self, Decode as _};

use crate::tls::fault_text::{self, in_file};
use crate::tls::pinned::PinnedVerifier;

/// Verifies a server's certificate by the platform's trust, or by the certificates in `ca` alone ([`PinnedVerifier`]).
pub fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    client_with(ca, None)
}

/// As [`client`], and presents a certificate with its key, both PEM, to a server that asks for one.
pub fn client_with(
    ca: Option<&Path>,
    own: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, String> {
    // TLS 1.2 or later (protocol.md 1.1).
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match ca {
        None => builder
            .with_platform_verifier()
            .map_err(|error| error.to_string())?,
        Some(path) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned(path)?)),
    };
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| key_fault(certificate, key, &error))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn pinned(path: &Path) -> Result<PinnedVerifier, String> {
    let certificates = certificates(path)?;
    let authorities =
        WebPkiServerVerifier::builder_with_provider(roots(path, &certificates)?, provider());
    Ok(PinnedVerifier::new(
        authorities.build().map_err(|error| in_file(path, &error))?,
        certificates,
    ))
}

fn roots(
    path: &Path,
    certificates: &[CertificateDer<'static>],
) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|_no_authority| {
            in_file(path, &"has a certificate that cannot be an authority's")
        })?;
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| in_file(path, &fault_text::of_pem(&error, "certificate")))?;
    if certificates.is_empty() {
        Err(in_file(path, &"has no certificate in PEM form"))
    } else {
        Ok(certificates)
    }
}

/// A server's certificate chain and key, both PEM; with `client_ca`, callers have to present a certificate signed by
/// one of its. A key that does not fit the certificate is an error here, not at the first handshake.
pub fn server(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<ServerConfig, String> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                roots(path, &certificates(path)?)?,
                provider(),
            )
            .build();
            builder.with_client_cert_verifier(verifier.map_err(|error| in_file(path, &error))?)
        }
    };
    builder
        .with_single_cert(chain, private)
        .map_err(|error| key_fault(certificate, key, &error))
}

/// A key that only its owner's group may read, besides its owner.
fn private_key(key: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let mode = std::fs::metadata(key)
        .map_err(|error| in_file(key, &fault_text::of_file(&error)))?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        return Err(in_file(key, &"is world-readable; run chmod o-rwx on it"));
    }
    PrivateKeyDer::from_pem_file(key)
        .map_err(|error| in_file(key, &fault_text::of_pem(&error, "private key")))
}

fn key_fault(certificate: &Path, key: &Path, error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let certificate = certificate.display();
            in_file(
                key,
                &format_args!(
                    "is not the key of {certificate}; each of them may be another's, or of another renewal"
                ),
            )
        }
        error => in_file(certificate, error),
    }
}

/// The earliest expiry in a certificate chain, in seconds since 1970.
pub fn expiry(certificate: &Path) -> Result<u64, String> {
    let seconds = |certificate: &CertificateDer<'_>| {
        let certificate = Certificate::from_der(certificate)?;
        let until = certificate.tbs_certificate.validity.not_after;
        Ok::<_, der::Error>(until.to_unix_duration().as_secs())
    };
    let all: Result<Vec<_>, _> = certificates(certificate)?.iter().map(seconds).collect();
    let all = all.map_err(|error| in_file(certificate, &error))?;
    Ok(all.into_iter().min().unwrap_or_default())
}

/// A listener with these protocols by ALPN, sessions resumed by tickets.
pub fn listener(files: &ListenTls, protocols: &[&str]) -> Result<TlsAcceptor, String> {
    let mut config = server(&files.certificate, &files.key, files.client_ca.as_deref())?;
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = protocols.collect();
    // The strongest cipher suite that both sides know takes precedence over the caller's favorite.
    config.ignore_client_order = true;
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| error.to_string())?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
