//! Connection: the store's settings as the store takes them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gatepay_core::StampWindow;
use gatepay_store::engine::Store;
use gatepay_store::error::StoreError;
use gatepay_store::settings::{
    EngineSettings, Failover, PostgresSettings, SqliteSettings, StoreTerms,
};
use gatepay_store::sqlite::SqliteStore;
use gatepay_tenancy::settings::{
    PostgresServer, StoreEngine, StoreFailover, StorePassword, StoreSettings,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::process::files::FileSystem;
use crate::process::predecessor;

/// The file in `state_dir` that remembers the last contact with the store.
const CONTACT: &str = "store-contact";

/// The inputs that a store is opened with.
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

    /// Makes the folder of a SQLite file, with its missing parents, for its owner alone.
    fn make_folder(&self) -> Result<(), String> {
        let Some(folder) = self.file().and_then(folder_of) else {
            return Ok(());
        };
        let made = FileSystem::default().make_folder(folder);
        made.map_err(|error| format!("{} cannot be made: {error}", folder.display()))
    }

    /// Opens the store, and makes the file and its folder if they are missing. Reads the contact file; a server is connected
    /// later.
    pub fn open(&self) -> Result<Store, String> {
        self.make_folder()?;
        Store::open(&self.engine, self.terms).map_err(|error| error.to_string())
    }

    /// Like [`open`](Self::open), but waits until the previous process closes the file, for a successor that starts while
    /// the last calls of the previous process end.
    pub fn open_in_turn(&self, patience: Duration) -> Result<Store, String> {
        self.make_folder()?;
        let open = || Store::open(&self.engine, self.terms);
        let opened = predecessor::open_after(patience, open, StoreError::is_file_in_use, || {
            let place = self.place();
            tracing::info!(%place, ?patience, "waiting for the process before this one to close the store");
        });
        opened.map_err(|error| error.to_string())
    }

    /// The same server, as another user of the database.
    #[must_use]
    pub fn as_user(mut self, user: &str, password: Option<Zeroizing<String>>) -> Self {
        if let EngineSettings::Postgres(server) = &mut self.engine {
            let quoted = user.replace('\\', r"\\").replace('\'', r"\'");
            // The last of equal keys counts.
            server.conninfo = format!("{} user='{quoted}'", server.conninfo);
            server.password = password;
        }
        self
    }

    /// The SQLite file, if the store is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.engine {
            EngineSettings::Sqlite(settings) => Some(&settings.path),
            EngineSettings::Postgres(_) => None,
        }
    }

    /// The faults that opening would find, without opening the file or connecting to the server.
    pub fn inspect(&self) -> Result<(), String> {
        match &self.engine {
            EngineSettings::Postgres(_) => self.open().map(drop),
            EngineSettings::Sqlite(settings) => match folder_of(&settings.path) {
                // A folder that is missing is made with the file.
                Some(folder) if folder.exists() && !folder.is_dir() => {
                    Err(format!("{} is no folder", folder.display()))
                }
                _ => SqliteStore::inspect(&settings.path).map_err(|error| error.to_string()),
            },
        }
    }

    /// The store's place for people.
    pub fn place(&self) -> String {
        match &self.engine {
            EngineSettings::Postgres(server) => server_place(&server.conninfo),
            EngineSettings::Sqlite(settings) => file_place(&settings.path),
        }
    }

    /// The times that the store judges by.
    pub fn terms(&self) -> &StoreTerms {
        &self.terms
    }
}

/// The folder that a path names for its file.
fn folder_of(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
}

fn postgres(server: &PostgresServer, contact_file: PathBuf) -> Result<PostgresSettings, String> {
    let client = server.client.as_ref().map(|files| {
        let key = PrivateKeyDer::from_pem_slice(&read_secret(&files.key)?);
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

/// The place for people of the store that these settings name: hosts, database and user, or the file. Never a password.
pub fn place(settings: &StoreSettings) -> String {
    match &settings.engine {
        StoreEngine::Postgres(server) => server_place(&server.conninfo),
        StoreEngine::File(path) => file_place(path),
    }
}

fn server_place(conninfo: &str) -> String {
    gatepay_store::postgres::place(conninfo).unwrap_or_default()
}

fn file_place(path: &Path) -> String {
    format!("SQLite file {}", path.display())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The content of a file with a secret, which is wiped. As for every secret, other users must have no right to the file.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let fault = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    if metadata.mode() & 0o007 != 0 {
        let path = path.display();
        return Err(format!("{path} is world-accessible: run `chmod o= {path}`"));
    }
    // Room for all of it: a buffer that grows leaves copies behind.
    let length = usize::try_from(metadata.len()).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(length + 1));
    file.read_to_end(&mut content).map_err(fault)?;
    Ok(content)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{}: no PEM certificates", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_folder_of_a_file_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/store/gatepay.db");
        let connection = StoreConnection {
            engine: EngineSettings::Sqlite(SqliteSettings {
                path: path.clone(),
                contact_file: folder.path().join(CONTACT),
            }),
            terms: StoreTerms::default(),
        };
        assert_eq!(connection.inspect(), Ok(()));
        assert!(!folder.path().join("state").exists(), "check makes nothing");
        assert!(connection.open().is_ok() && path.exists());
        for made in ["state", "state/store"] {
            let made = fs::metadata(folder.path().join(made)).unwrap();
            assert_eq!(made.mode() & 0o777, 0o700);
        }
        drop(fs::remove_dir_all(folder.path().join("state")));
        fs::write(folder.path().join("state"), "a file").unwrap();
        assert!(connection.open().is_err());
    }

    #[test]
    fn a_client_key_that_other_users_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        fs::write(&path, "key").unwrap();
        for (mode, is_accepted) in [(0o600, true), (0o440, true), (0o604, false), (0o644, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret(&path).is_ok(), is_accepted, "{mode:o}");
        }
    }
}
