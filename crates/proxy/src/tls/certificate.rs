//! Identity: what the listener shows to callers, its certificate and key, exchanged while it serves.
//!
//! Connections that are open keep what they were opened with, but for one thing: once `client_ca` says something else, the
//! listener asks those to leave that were let in by what it said before.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gatepay_tenancy::settings::ListenTls;
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::tls::config;

/// Files, and what was last read from them.
pub struct ListenerIdentity {
    files: ListenTls,
    current: ArcSwap<LoadedIdentity>,
}

struct LoadedIdentity {
    acceptor: TlsAcceptor,
    expires: u64,
    /// Of all the files, so that reading the same again changes nothing.
    digest: FileDigests,
}

/// What files said, so that it shows when they say something else.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileDigests {
    all: [u8; 32],
    client_ca: ClientCa,
}

/// A content of `client_ca`, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientCa(Option<[u8; 32]>);

/// What reading the files again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateRenewal {
    /// They are as they were.
    Unchanged,
    /// New connections get the new certificate.
    Renewed,
}

impl ListenerIdentity {
    /// Reads the files.
    pub fn read(files: &ListenTls) -> Result<Self, String> {
        Ok(Self {
            current: ArcSwap::from_pointee(LoadedIdentity::read(files, digest(files)?)?),
            files: files.clone(),
        })
    }

    /// Reads the files again. If anything is wrong with them, nothing changes.
    ///
    /// New files mean new keys for tickets as well: a session that was resumed would not show its client's certificate
    /// again, which `client_ca` may no longer accept.
    pub fn reload(&self) -> Result<CertificateRenewal, String> {
        let digest = digest(&self.files)?;
        if digest == self.current.load().digest {
            return Ok(CertificateRenewal::Unchanged);
        }
        let renewed = LoadedIdentity::read(&self.files, digest)?;
        self.current.store(Arc::new(renewed));
        Ok(CertificateRenewal::Renewed)
    }

    /// What the next connection is accepted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.load().acceptor.clone()
    }

    /// By what the next caller's certificate is judged.
    pub fn client_ca(&self) -> ClientCa {
        self.current.load().digest.client_ca
    }

    /// When the first certificate of the chain that expires does, in seconds since 1970.
    pub fn expires(&self) -> u64 {
        self.current.load().expires
    }
}

impl LoadedIdentity {
    fn read(files: &ListenTls, digest: FileDigests) -> Result<Self, String> {
        Ok(Self {
            acceptor: config::listener(files)?,
            expires: config::expiry(&files.certificate)?,
            digest,
        })
    }
}

fn digest(files: &ListenTls) -> Result<FileDigests, String> {
    let of = |path: &PathBuf| {
        let bytes = std::fs::read(path).map(zeroize::Zeroizing::new);
        let bytes = bytes.map_err(|error| config::fault(path, &error.kind()))?;
        Ok::<[u8; 32], String>(Sha256::digest(&*bytes).into())
    };
    // Each by itself, so that nothing moved from one file to the next looks the same.
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
