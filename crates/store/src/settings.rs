//! The settings of a store, already checked: which engine, how to reach it, and the times that the engine judges by.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Which engine holds the store.
#[derive(Debug)]
pub enum EngineSettings {
    /// A PostgreSQL server (14 or newer) that any number of instances share.
    Postgres(Box<PostgresSettings>),
    /// A SQLite file of one process.
    Sqlite(SqliteSettings),
}

/// How to reach PostgreSQL.
pub struct PostgresSettings {
    /// A libpq connection string without a password, such as `host=db1,db2 dbname=gatepay user=gatepay_serve`. Hosts
    /// are tried in their order until one is writable, with any `target_session_attrs`: the store writes.
    pub conninfo: String,
    /// The password, from a file of its own.
    pub password: Option<Zeroizing<String>>,
    /// The certificates that the server's certificate is verified with. Empty: only plain connections are possible.
    pub trusted: Vec<CertificateDer<'static>>,
    /// The client certificate with its chain, and its key.
    pub client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Allows connections without TLS to hosts other than loopback and Unix sockets.
    pub plaintext: bool,
    /// The file that remembers the last contact with this store ([`StoreContact`](crate::identity::StoreContact)), in
    /// the instance's `state_dir`. `None`: the memory ends with the process.
    pub contact_file: Option<PathBuf>,
}

/// Where the SQLite file is.
#[derive(Debug, Clone)]
pub struct SqliteSettings {
    /// The database file. Its folder also gets the files of the write-ahead log.
    pub path: PathBuf,
    /// The file that remembers the last contact with the database, in `state_dir`. It must not be restored together
    /// with the database: the difference between the two shows a restore.
    pub contact_file: PathBuf,
}

/// The times and promises that a store judges by. All instances of a store should have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreTerms {
    /// How far a stamp may lie ahead of the store's clock, in milliseconds.
    pub future_ms: u64,
    /// How far clocks of the engine's machines may differ from each other, in milliseconds: part of every guard.
    pub max_skew_ms: u64,
    /// The limit of one call to the store, connecting included.
    pub timeout: Duration,
    /// The operator's promise about failovers of the engine.
    pub failover: Failover,
}

/// The meaning of a change of the engine's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failover {
    /// Acknowledged commits may be lost: stamps that may have been admitted before are refused.
    #[default]
    Guarded,
    /// This engine never loses an acknowledged commit, on the operator's word: only the first life is guarded.
    Lossless,
}

impl Default for StoreTerms {
    fn default() -> Self {
        Self {
            future_ms: 10_000,
            max_skew_ms: 1_000,
            timeout: Duration::from_secs(1),
            failover: Failover::Guarded,
        }
    }
}

impl StoreTerms {
    /// The length of a guard, in milliseconds: `future_ms` and `max_skew_ms`.
    pub fn guard_ms(&self) -> u64 {
        self.future_ms.saturating_add(self.max_skew_ms)
    }
}

impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A connection string may hold a password although it must not.
        let Self { plaintext, .. } = self;
        f.debug_struct("PostgresSettings")
            .field("plaintext", plaintext)
            .finish_non_exhaustive()
    }
}
