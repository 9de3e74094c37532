//! Connection: the store's settings as the store takes them.

use std::fs;
use std::path::{Path, PathBuf};

use gatepay_core::StampWindow;
use gatepay_store::engine::Store;
use gatepay_store::settings::{
    EngineSettings, Failover, PostgresSettings, SqliteSettings, StoreTerms,
};
use gatepay_tenancy::settings::{
    PostgresServer, StoreEngine, StoreFailover, StorePassword, StoreSettings,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The file in `state_dir` that remembers the last contact with the store.
const CONTACT: &str = "store-contact";

/// What a store is opened with.
pub struct StoreConnection {
    engine: EngineSettings,
    terms: StoreTerms,
}

impl StoreConnection {
    /// The connection with its contact file in this state folder. Reads the certificates and keys.
    pub fn in_folder(
        settings: &StoreSettings,
        window: StampWindow,
        state_dir: &Path,
    ) -> Result<Self, String> {
        Self::of(settings, window, state_dir.join(CONTACT))
    }

    fn of(
        settings: &StoreSettings,
        window: StampWindow,
        contact_file: PathBuf,
    ) -> Result<Self, String> {
        let terms = StoreTerms {
            future_ms: window.future_ms,
            max_skew_ms: settings.max_skew_ms,
            timeout: settings.timeout,
            failover: match settings.failover {
                StoreFailover::Guarded => Failover::Guarded,
                StoreFailover::Lossless => Failover::Lossless,
            },
        };
        let engine = match &settings.engine {
            StoreEngine::Postgres(server) => {
                EngineSettings::Postgres(Box::new(postgres(server, contact_file)?))
            }
            StoreEngine::File(path) => EngineSettings::Sqlite(SqliteSettings {
                path: path.clone(),
                contact_file,
            }),
        };
        Ok(Self { engine, terms })
    }

    /// Opens the store. Reads the contact file; a server is connected later.
    pub fn open(&self) -> Result<Store, String> {
        Store::open(&self.engine, self.terms).map_err(|error| error.to_string())
    }

    /// The times that the store judges by.
    pub fn terms(&self) -> &StoreTerms {
        &self.terms
    }
}

fn postgres(server: &PostgresServer, contact_file: PathBuf) -> Result<PostgresSettings, String> {
    let client = server.client.as_ref().map(|files| {
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?);
        let key = key.map_err(|_| format!("{}: no PEM key", files.key.display()))?;
        Ok::<_, String>((
            certificates(&read(&files.certificate)?, &files.certificate)?,
            key,
        ))
    });
    let trusted = match &server.ca {
        Some(ca) => certificates(&read(ca)?, ca)?,
        // Only plain connections are possible then: to this machine, or with `plaintext`.
        None => Vec::new(),
    };
    Ok(PostgresSettings {
        conninfo: server.conninfo.clone(),
        password: server.password.as_ref().map(StorePassword::reveal),
        trusted,
        client: client.transpose()?,
        plaintext: server.plaintext,
        contact_file: Some(contact_file),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{}: no PEM certificates", path.display())),
    }
}
