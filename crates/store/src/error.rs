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
    #[error("{0}")]
    Settings(String),
    /// No host accepted a connection. The text names each host with its reason.
    #[error("no host is usable: {0}")]
    Unreachable(String),
    /// The call took longer than [`timeout`](crate::settings::StoreTerms::timeout).
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// No host is usable, and one refused this program for a reason that lasts: its user, its password, its database. The
    /// text names each host with its reason.
    #[error("no host is usable: {0}")]
    Denied(String),
    /// The connection broke, or the server answered with an error that ends it.
    #[error("connection: {0}{advice}", advice = lost_advice(.0))]
    Lost(String),
    /// The server is not, or is no longer, the primary.
    #[error("the server is read-only: a standby, or default_transaction_read_only is on")]
    ReadOnly,
    /// The server sent a notice, so its answer does not count: a commit may be local only.
    #[error("the server warned, so its answer does not count: {0}")]
    Noticed(String),
    /// The server refused a statement.
    #[error("SQLSTATE {code}: {message}{advice}", advice = advice(.code, .message))]
    Refused {
        /// The SQLSTATE.
        code: String,
        /// The server's message; it holds no parameters.
        message: String,
    },
    /// It is not known yet whether this start of the server has lost anything. The next sign of life, or the next
    /// admission, of any instance finds out.
    #[error("this start of the server is not confirmed yet")]
    Unconfirmed,
    /// The answer is not one of this version's functions.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// The database has no schema of the proxy.
    #[error("there are no tables yet; run `gatepay-proxy store migrate`")]
    NotMigrated,
    /// The schema is older than this version needs, or more than one newer than it knows.
    #[error("schema {found}; this version works with {oldest} to {newest}: {advice}", advice = schema_advice(*.found, *.oldest))]
    Schema {
        /// The schema of the store.
        found: u32,
        /// The oldest that this version works with.
        oldest: u32,
        /// The newest that this version works with.
        newest: u32,
    },
    /// The engine may lose an acknowledged commit by its own settings.
    #[error("the engine may lose commits: {0}")]
    Unsafe(String),
    /// The database is not the one that this instance joined: its fingerprints have another key, so copies of a request
    /// would not be recognized by the instances that joined this one. Or the store's file is no longer where it was opened, so
    /// that another process may have the one that is there now.
    #[error(
        "the database is another than the one that this instance joined: restart this instance"
    )]
    Replaced,
    /// Pages of the store's file do not fit together: by a faulty disk, or by a copy that was made while it was written.
    #[error(
        "the file is damaged ({0}): put a backup in its place, with the -wal of that backup or with none, or move both away and run `gatepay-proxy store migrate`"
    )]
    Damaged(String),
    /// A file of the store cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// SQLite refused a statement.
    #[error("SQLite: {0}{advice}", advice = sqlite_advice(.0))]
    Sqlite(rusqlite::Error),
    /// The queue in front of the store has no room, or the store's thread has ended.
    #[error("the queue takes no more requests")]
    QueueFull,
    /// The store failed lately, and is not asked again before its next probe.
    #[error("failed lately; the next probe is due in {0} ms")]
    BreakerOpen(u128),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match error.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}

impl StoreError {
    /// Whether the cause lasts until an operator changes the store, its settings or this program.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Settings(_)
            | Self::Denied(_)
            | Self::NotMigrated
            | Self::Schema { .. }
            | Self::Unsafe(_)
            | Self::Damaged(_) => true,
            // The rights of the program's user, its password, or the database.
            Self::Refused { code, .. } => {
                matches!(&**code, "28000" | "28P01" | "3D000" | "42501" | "42883")
            }
            _ => false,
        }
    }

    /// Whether another process holds the file of the store.
    pub fn is_file_in_use(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
        matches!(self, Self::Sqlite(error)
            if matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked)))
    }

    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        let path = path.display().to_string();
        Self::File { path, source }
    }
}

/// The cure for a refusal by PostgreSQL, as the end of a sentence.
fn advice(code: &str, message: &str) -> &'static str {
    match code {
        "28000" if message.contains("no encryption") => {
            "; set `ca`: the server lets this user in over TLS only, or correct its pg_hba.conf"
        }
        "28000" | "28P01" => "; check the user, its password and the server's pg_hba.conf",
        "3D000" => "; create the database, or correct dbname",
        "42501" if message.contains("pg_control") => {
            "; let the owner of the tables execute pg_control_system() and pg_control_checkpoint(), or set failover = \"lossless\""
        }
        "42501" if message.contains("for database") => {
            "; the user that migrates needs the right CREATE on the database"
        }
        "42501" => {
            "; the owner of the tables must run `gatepay-proxy store migrate --serve-role` with this user"
        }
        "26000" | "42P05" => {
            "; a connection pooler in transaction mode cannot be used: use session mode or no pooler"
        }
        _ => "",
    }
}

/// The cure for a certificate that is not accepted, as the end of a sentence.
fn lost_advice(text: &str) -> &'static str {
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        "; `ca` must hold the certificate of the authority that signed the server's"
    } else if text.contains("not valid for name") {
        "; write the host as the server's certificate names it"
    } else {
        ""
    }
}

fn sqlite_advice(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            "; a process that serves holds the file: stop it first"
        }
        Some(rusqlite::ErrorCode::CannotOpen) => "; its folder must exist and be writable",
        _ => "",
    }
}

fn schema_advice(found: u32, oldest: u32) -> &'static str {
    if found < oldest {
        "run `gatepay-proxy store migrate`"
    } else {
        "use a newer version of the program"
    }
}
