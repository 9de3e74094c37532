//! The store in PostgreSQL.

mod admit;
mod approvals;
mod cap_breach;
mod cap_facts;
mod cap_raises;
mod caps;
mod connector;
mod destinations;
mod instances;
mod limits;
mod migrations;
mod notifications;
mod session;
mod statements;

pub use migrations::{MigrationReport, NEWEST_SCHEMA, OLDEST_SCHEMA};

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_postgres::types::ToSql;
use zeroize::Zeroizing;

use crate::aside::aside;
use crate::error::StoreError;
use crate::identity::StoreContact;
use crate::instance::InstanceIntroduction;
use crate::settings::{Failover, PostgresSettings, StoreTerms};
use connector::PgConnector;
pub use connector::place;
use instances::{LastSign, OwnSigns};
use session::PgSession;

/// A PostgreSQL server, with up to nine connections: two that admit, one for limits, three for notifications, one for
/// statements, one for declarations and reports, one for everything else. A request may wait for a limit, so limits do not wait
/// for a halt that is confirmed by a standby. Arrivals, deliveries and lists of notifications do not wait for one another's
/// answers, and signs of life for none of a statement's many reads and for no look at the rules, lists or sums of all tenants.
///
/// Connections are made when they are needed. After an error, a time-out, a notice or a call that was dropped, the
/// connection of that call is closed, and the next call connects anew, to the first host that is writable.
pub struct PostgresStore {
    connector: PgConnector,
    terms: StoreTerms,
    admitting: [tokio::sync::Mutex<Option<PgSession>>; 2],
    limits: tokio::sync::Mutex<Option<PgSession>>,
    control: tokio::sync::Mutex<Option<PgSession>>,
    statements: tokio::sync::Mutex<Option<PgSession>>,
    long_calls: tokio::sync::Mutex<Option<PgSession>>,
    notifications: Box<NotificationLines>,
    contact: Mutex<Option<StoreContact>>,
    introduction: Mutex<Option<InstanceIntroduction>>,
    /// The key of the database that this instance joined.
    joined_key: Mutex<Option<Zeroizing<[u8; 16]>>>,
    own_signs: Mutex<OwnSigns>,
    last_sign: Mutex<Option<LastSign>>,
    contact_file: Option<PathBuf>,
}

/// How long a declaration or a report may take. Admissions do not wait while a declaration compares rules.
const LONG_CALL_TIME: Duration = Duration::from_mins(1);

/// The connections for notifications.
#[derive(Default)]
struct NotificationLines {
    arrivals: tokio::sync::Mutex<Option<PgSession>>,
    deliveries: tokio::sync::Mutex<Option<PgSession>>,
    lists: tokio::sync::Mutex<Option<PgSession>>,
}

impl PostgresStore {
    /// A store that is not connected yet. Reads the contact file.
    pub fn new(settings: &PostgresSettings, terms: StoreTerms) -> Result<Self, StoreError> {
        let contact_file = settings.contact_file.clone();
        let contact = match &contact_file {
            Some(path) => {
                StoreContact::read(path).map_err(|source| StoreError::file(path, source))?
            }
            None => None,
        };
        // Also of a copy: a server that is behind it has lost commits. Whether one is ahead of it, other instances know.
        let contact = contact.map(|kept| kept.contact);
        Ok(Self {
            connector: PgConnector::new(settings, terms.failover == Failover::Lossless)?,
            terms,
            admitting: Default::default(),
            limits: tokio::sync::Mutex::default(),
            control: tokio::sync::Mutex::default(),
            statements: tokio::sync::Mutex::default(),
            long_calls: tokio::sync::Mutex::default(),
            notifications: Box::default(),
            contact: Mutex::new(contact),
            introduction: Mutex::new(None),
            joined_key: Mutex::new(None),
            own_signs: Mutex::default(),
            last_sign: Mutex::default(),
            contact_file,
        })
    }

    /// Runs a function of the schema on the connection that does not admit, within the time limit. `statement` is
    /// prepared once per connection.
    pub(crate) async fn control(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        self.run_on(&self.control, statement, parameters).await
    }

    /// Runs a function of the limits on their connection, within the time limit.
    async fn limits(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        self.run_on(&self.limits, statement, parameters).await
    }

    /// Runs a statement about booked calls and counts on their connection, within the time limit.
    async fn statements(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        self.run_on(&self.statements, statement, parameters).await
    }

    /// Makes a call that reads what every tenant of every instance has: a declaration, or a report about all of them. It has a
    /// connection and a time limit of its own: that of other calls is for those that a request waits for, and such a call would
    /// otherwise be begun again and again.
    pub(crate) async fn long_call(
        &self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let limit = self.terms.timeout.max(LONG_CALL_TIME);
        within(limit, self.run_in(&self.long_calls, statement, parameters)).await
    }

    async fn run_on(
        &self,
        line: &tokio::sync::Mutex<Option<PgSession>>,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        self.within_timeout(self.run_in(line, statement, parameters))
            .await
    }

    async fn run_in(
        &self,
        line: &tokio::sync::Mutex<Option<PgSession>>,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let mut line = line.lock().await;
        let mut session = match line.take() {
            Some(session) => session,
            None => self.connector.connect().await?,
        };
        let rows = session.query(statement, parameters).await?;
        *line = Some(session);
        Ok(rows)
    }

    async fn within_timeout<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        within(self.terms.timeout, call).await
    }

    fn lossless(&self) -> bool {
        self.terms.failover == Failover::Lossless
    }

    fn remember(&self, answer: StoreContact, new_guard: bool) {
        let mut contact = self.contact.lock();
        *contact = Some(StoreContact::after(*contact, answer, new_guard));
    }

    /// The last contact with the store.
    pub fn contact(&self) -> Option<StoreContact> {
        *self.contact.lock()
    }

    /// The number of this instance; 0 before it has joined.
    fn instance(&self) -> i64 {
        let introduction = self.introduction.lock();
        introduction.as_ref().map_or(0, |it| it.id)
    }

    /// Writes the last contact to its file, beside the async threads.
    async fn save_contact(&self) -> Result<(), StoreError> {
        let (Some(path), Some(contact)) = (self.contact_file.clone(), self.contact()) else {
            return Ok(());
        };
        let write = move || {
            contact
                .write(&path)
                .map_err(|source| StoreError::file(&path, source))
        };
        aside(write).await
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    // Boxed, so that the future of a caller with several calls does not hold each of them.
    let ended = tokio::time::timeout(limit, Box::pin(call)).await;
    ended.unwrap_or_else(|_| Err(StoreError::TimedOut(limit.as_millis())))
}

/// A secret of a row, wiped when it is dropped.
fn key_of(bytes: Vec<u8>) -> Result<Zeroizing<[u8; 16]>, StoreError> {
    let bytes = Zeroizing::new(bytes);
    let key = <[u8; 16]>::try_from(bytes.as_slice());
    key.map(Zeroizing::new)
        .map_err(|_| StoreError::Unexpected("the fingerprint key has not 16 bytes".to_owned()))
}
