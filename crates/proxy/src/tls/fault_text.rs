//! Faults of certificates, keys and handshakes in an operator's words, with the remedy.

use std::io;
use std::path::Path;

use rustls::{CertificateError, Error, OtherError};
use rustls_pki_types::pem;

/// Why a file cannot be read, without the path.
pub fn of_file(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "file not found; create it, or change the path".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; make it readable for the user of the process".to_owned()
        }
        io::ErrorKind::IsADirectory => "is a folder, not a file".to_owned(),
        _ => error.to_string(),
    }
}

/// Why a PEM file holds nothing usable; `item` is what was looked for, such as "certificate".
pub(super) fn of_pem(error: &pem::Error, item: &str) -> String {
    match error {
        pem::Error::Io(error) => of_file(error),
        pem::Error::NoItemsFound => format!("has no {item} in PEM form"),
        _ => format!("its {item} is no valid PEM: check that the file was copied whole"),
    }
}

/// Why a handshake with a server broke.
pub fn of_handshake(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    cause.map_or_else(|| error.to_string(), of_tls)
}

/// A fault that rustls found; the certificate is the server's.
pub(super) fn of_tls(error: &Error) -> String {
    let Error::InvalidCertificate(fault) = error else {
        return error.to_string();
    };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: it has to be renewed there, or this machine's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: this machine's clock may be wrong"
        }
        CertificateError::UnknownIssuer => {
            "the server's certificate is of an authority that is not trusted here: name that authority's certificate as the trusted one"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name than that of the URL"
        }
        CertificateError::Other(OtherError(cause))
            if matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity)) =>
        {
            "the server presents an authority's certificate (CA:TRUE) as its own: trust exactly this certificate, or give the server one without CA:TRUE"
        }
        _ => return error.to_string(),
    }
    .to_owned()
}

/// A file and its fault.
pub(super) fn in_file(path: &Path, fault: &dyn std::fmt::Display) -> String {
    format!("{}: {fault}", path.display())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn faults_of_certificates_are_told_without_names_of_rust_types() {
        let authority = OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        for (fault, says) in [
            (CertificateError::Other(authority), "CA:TRUE"),
            (CertificateError::UnknownIssuer, "not trusted here"),
            (CertificateError::Expired, "has expired"),
            (CertificateError::NotValidYet, "not valid yet"),
            (CertificateError::NotValidForName, "another name"),
        ] {
            let error = io::Error::other(Error::InvalidCertificate(fault));
            let text = of_handshake(&error);
            assert!(text.contains(says), "{text}");
            for raw in ["Other", "Error", "invalid peer"] {
                assert!(!text.contains(raw), "{text}");
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_or_holds_no_pem_is_told_with_the_remedy() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(
            of_pem(&pem::Error::Io(missing), "private key"),
            "file not found; create it, or change the path"
        );
        assert_eq!(
            of_pem(&pem::Error::NoItemsFound, "private key"),
            "has no private key in PEM form"
        );
    }
}
