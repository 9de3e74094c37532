//! Listener identity: the certificate and key that the listener presents to callers, exchanged while it serves.
//!
//! Open connections keep the certificate that they were opened with. There is one exception: once the content of
//! `client_ca` changes, the listener asks the connections to leave that the earlier content admitted.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatepay_tenancy::settings::ListenTls;
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::tls::{config, fault_text};

/// The files of the identity, and their last loaded content.
pub struct ListenerIdentity {
    files: ListenTls,
    /// The protocols that the listener speaks, as ALPN names them.
    protocols: &'static [&'static str],
    current: ArcSwap<LoadedIdentity>,
}

struct LoadedIdentity {
    acceptor: TlsAcceptor,
    expires: u64,
    /// The digest of all files, so that reading unchanged files changes nothing.
    digest: FileDigests,
}

/// The digests of the files, by which a change is detected.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileDigests {
    all: [u8; 32],
    client_ca: ClientCa,
}

/// The digest of the content of `client_ca`, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCa(Option<[u8; 32]>);

/// The result of reading the files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRenewal {
    /// The files are unchanged.
    Unchanged,
    /// New connections get the new certificate.
    Renewed,
}

impl ListenerIdentity {
    /// Reads the files, for a listener with HTTP/2 and HTTP/1.1.
    pub fn read(files: &ListenTls) -> Result<Self, String> {
        Self::speaking(&["h2", "http/1.1"], files)
    }

    /// Reads the files, for a listener with HTTP/1.1 alone.
    pub fn read_http1(files: &ListenTls) -> Result<Self, String> {
        Self::speaking(&["http/1.1"], files)
    }

    fn speaking(protocols: &'static [&'static str], files: &ListenTls) -> Result<Self, String> {
        let loaded = LoadedIdentity::read(files, protocols, digest(files)?)?;
        Ok(Self {
            current: ArcSwap::from_pointee(loaded),
            files: files.clone(),
            protocols,
        })
    }

    /// Reads the files again. If any file is invalid, nothing changes.
    ///
    /// New files also mean new ticket keys: a resumed session would not present its client's certificate again, which
    /// `client_ca` may no longer accept.
    pub fn reload(&self) -> Result<CertificateRenewal, String> {
        let digest = digest(&self.files)?;
        if digest == self.current.load().digest {
            return Ok(CertificateRenewal::Unchanged);
        }
        let renewed = LoadedIdentity::read(&self.files, self.protocols, digest)?;
        self.current.store(Arc::new(renewed));
        Ok(CertificateRenewal::Renewed)
    }

    /// The TLS acceptor for the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.load().acceptor.clone()
    }

    /// The `client_ca` content that the next caller's certificate is checked against.
    pub fn client_ca(&self) -> ClientCa {
        self.current.load().digest.client_ca
    }

    /// The earliest expiry in the certificate chain, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.current.load().expires
    }
}

impl LoadedIdentity {
    fn read(files: &ListenTls, protocols: &[&str], digest: FileDigests) -> Result<Self, String> {
        Ok(Self {
            acceptor: config::listener(files, protocols)?,
            expires: config::expiry(&files.certificate)?,
            digest,
        })
    }
}

fn digest(files: &ListenTls) -> Result<FileDigests, String> {
    let of = |path: &PathBuf| {
        let bytes = std::fs::read(path).map(zeroize::Zeroizing::new);
        let bytes =
            bytes.map_err(|error| fault_text::in_file(path, &fault_text::of_file(&error)))?;
        Ok::<[u8; 32], String>(Sha256::digest(&*bytes).into())
    };
    // Each file is hashed by itself, so that bytes moved from one file to the next change the digest.
    let mut all = Sha256::new();
    all.update(of(&files.certificate)?);
    all.update(of(&files.key)?);
    let client_ca = files.client_ca.as_ref().map(of).transpose()?;
    all.update(client_ca.as_ref().map_or(&[][..], |digest| digest));
    Ok(FileDigests {
        all: all.finalize().into(),
        client_ca: ClientCa(client_ca),
    })
}
