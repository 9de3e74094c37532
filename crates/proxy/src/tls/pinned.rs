//! Trust in exactly the certificates of `upstream.ca`: as authorities, and each also as the server's own certificate.
//!
//! A self-signed certificate is usually marked as an authority's. A standard verifier refuses an authority's
//! certificate that a server presents as its own. An operator that puts such a certificate into `upstream.ca` means
//! that server.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// The standard verifier, and the certificates that are trusted as they are.
#[derive(Debug)]
pub struct PinnedVerifier {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl PinnedVerifier {
    /// Trusts these certificates and the certificates that they signed.
    pub fn new(
        authorities: Arc<WebPkiServerVerifier>,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self {
            authorities,
            certificates,
        }
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match judged {
            // This error arises only after the dates were found valid; a test enforces the order.
            Err(error)
                if is_authority(&error)
                    && self.certificates.iter().any(|pinned| pinned == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
        return false;
    };
    matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use std::time::Duration;

    fn certificate(adjust: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["gatepay.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2120, 1, 1);
        adjust(&mut params);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    fn judge(
        trusted: &CertificateDer<'static>,
        presented: &CertificateDer<'static>,
        name: &str,
    ) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let book = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_hours(490_896));
        let name = ServerName::try_from(name).unwrap();
        PinnedVerifier::new(book, vec![trusted.clone()])
            .verify_server_cert(presented, &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn a_self_signed_certificate_is_trusted_if_it_is_the_one_named() {
        let (named, other) = (certificate(|_| {}), certificate(|_| {}));
        assert_eq!(judge(&named, &named, "gatepay.example"), Ok(()));
        assert!(
            judge(&named, &other, "gatepay.example").is_err(),
            "another of the same name"
        );
        assert!(
            judge(&named, &named, "other.example").is_err(),
            "for another host"
        );
    }

    #[test]
    fn a_date_that_is_over_is_over_for_a_named_certificate_too() {
        let expired = certificate(|params| params.not_after = date_time_ymd(2021, 1, 1));
        assert_eq!(
            judge(&expired, &expired, "gatepay.example")
                .map_err(|error| error.to_string().contains("expired")),
            Err(true)
        );
    }
}
