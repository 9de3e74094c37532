//! Every way in which a store does not answer.

use std::io;
use std::path::Path;

/// Why a call to the store has no result.
///
/// After an error of `admit` it is unknown whether the stamps were recorded. They were not admitted: nothing may be
/// sent.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The connection string, a certificate or a key is unusable.
    #[error("store: {0}")]
    Settings(String),
    /// No host accepted a connection. The text names each host with its reason.
    #[error("store: no host is usable: {0}")]
    Unreachable(String),
    /// The call took longer than [`timeout`](crate::settings::StoreTerms::timeout).
    #[error("store: no answer within {0} ms")]
    TimedOut(u128),
    /// The connection broke, or the server answered with an error that ends it.
    #[error("store: connection lost: {0}")]
    Lost(String),
    /// The server is not, or is no longer, the primary.
    #[error("store: the server is read-only")]
    ReadOnly,
    /// The server sent a notice, so its answer does not count: a commit may be local only.
    #[error("store: the server warned, so its answer does not count: {0}")]
    Noticed(String),
    /// The server refused a statement.
    #[error("store: SQLSTATE {code}: {message}")]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// The server's message; it holds no parameters.
        message: String,
    },
    /// It is not known yet whether this start of the server has lost anything. The next sign of life, or the next
    /// admission, of any instance finds out.
    #[error("store: this start of the server is not confirmed yet")]
    Unconfirmed,
    /// The answer is not one of this version's functions.
    #[error("store: unexpected answer: {0}")]
    Unexpected(String),
    /// The database has no schema of the proxy.
    #[error("store: not migrated; run `gatepay-proxy store migrate`")]
    NotMigrated,
    /// The schema is older than this version needs, or more than one newer than it knows.
    #[error("store: schema {found}; this version works with {oldest} to {newest}")]
    Schema {
        /// The schema of the store.
        found: u32,
        /// The oldest that this version works with.
        oldest: u32,
        /// The newest that this version works with.
        newest: u32,
    },
    /// The engine may lose an acknowledged commit by its own settings.
    #[error("store: the engine may lose commits: {0}")]
    Unsafe(String),
    /// A file of the store cannot be read or written.
    #[error("store: {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// SQLite refused a statement.
    #[error("store: SQLite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The queue in front of the store has no room, or the store's thread has ended.
    #[error("store: the queue takes no more requests")]
    QueueFull,
    /// The store failed lately, and is not asked again before its next probe.
    #[error("store: failed lately; the next probe is due in {0} ms")]
    BreakerOpen(u128),
}

impl StoreError {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        Self::File { path, source }
    }
}
