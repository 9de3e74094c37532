//! One connection, driven by the calls that use it.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Error, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::either::Either;

use crate::error::StoreError;

/// A TCP connection or a Unix socket.
pub(super) type Socket = Either<TcpStream, UnixStream>;
type TlsSocket = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// A connection on which every answer so far counts.
///
/// No task drives it: each call polls the connection beside its own answer, and so sees every notice before the
/// `ReadyForQuery` that the notice came before. A call that fails or is dropped leaves the session in an unknown state,
/// so its owner takes the session out of its place before the call, and puts it back only after success.
pub(super) struct PgSession {
    client: Client,
    connection: Connection<Socket, TlsSocket>,
    prepared: HashMap<&'static str, Statement>,
    /// When its last answer was complete.
    used: Instant,
}

/// The treatment of a server's notice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notices {
    /// It voids the answer: `pg_cancel_backend` ends a wait for a synchronous standby with nothing else.
    Refuse,
    /// Statements that change a schema send them as a matter of course, and so may a login.
    Ignore,
}

impl PgSession {
    pub(super) fn new(client: Client, connection: Connection<Socket, TlsSocket>) -> Self {
        Self {
            client,
            connection,
            prepared: HashMap::new(),
            used: Instant::now(),
        }
    }

    /// All rows of a statement, after `ReadyForQuery` without an error and without a notice.
    pub(super) async fn query(
        &mut self,
        statement: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let prepared = self.prepare(statement).await?;
        let answer = self.client.query(&prepared, parameters);
        let rows = drive(&mut self.connection, answer, Notices::Refuse).await?;
        self.used = Instant::now();
        Ok(rows)
    }

    /// How long no statement was answered.
    pub(super) fn idle(&self) -> Duration {
        self.used.elapsed()
    }

    /// Runs the statements of a migration or of a login, and ignores their notices.
    pub(super) async fn execute_script(&mut self, script: &str) -> Result<(), StoreError> {
        let answer = self.client.batch_execute(script);
        drive(&mut self.connection, answer, Notices::Ignore).await
    }

    async fn prepare(&mut self, statement: &'static str) -> Result<Statement, StoreError> {
        if let Some(prepared) = self.prepared.get(statement) {
            return Ok(prepared.clone());
        }
        let answer = self.client.prepare(statement);
        let prepared = drive(&mut self.connection, answer, Notices::Refuse).await?;
        self.prepared.insert(statement, prepared.clone());
        Ok(prepared)
    }
}

async fn drive<T>(
    connection: &mut Connection<Socket, TlsSocket>,
    answer: impl Future<Output = Result<T, Error>>,
    notices: Notices,
) -> Result<T, StoreError> {
    let mut answer = pin!(answer);
    let mut noticed = None;
    poll_fn(move |context| {
        // The connection first: it hands over an answer only after the notices that came before it.
        let ended = poll_connection(connection, context, &mut noticed);
        if let (Some(notice), Notices::Refuse) = (noticed.take(), notices) {
            return Poll::Ready(Err(StoreError::Noticed(notice)));
        }
        match (answer.as_mut().poll(context), ended) {
            (Poll::Ready(Ok(value)), _) => Poll::Ready(Ok(value)),
            // The reason why the connection ended says more than that it has ended.
            (Poll::Ready(Err(_)) | Poll::Pending, Some(ended)) => Poll::Ready(Err(ended)),
            (Poll::Ready(Err(error)), None) => Poll::Ready(Err(failed(&error))),
            (Poll::Pending, None) => Poll::Pending,
        }
    })
    .await
}

/// Reads and writes as far as possible. Returns why the connection has ended, if it has.
fn poll_connection(
    connection: &mut Connection<Socket, TlsSocket>,
    context: &mut Context<'_>,
    noticed: &mut Option<String>,
) -> Option<StoreError> {
    loop {
        match connection.poll_message(context) {
            Poll::Ready(Some(Ok(AsyncMessage::Notice(notice)))) => {
                let text = format!("{}: {}", notice.severity(), notice.message());
                noticed.get_or_insert(text);
            }
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Some(failed(&error)),
            Poll::Ready(None) => return Some(StoreError::Lost("closed".to_owned())),
            Poll::Pending => return None,
        }
    }
}

/// An error of the driver or of the server.
pub(super) fn failed(error: &Error) -> StoreError {
    let Some(refused) = error.as_db_error() else {
        return StoreError::Lost(chain(error));
    };
    let code = refused.code();
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        StoreError::ReadOnly
    } else if code.code().starts_with("57P") || code.code().starts_with("08") {
        StoreError::Lost(refused.message().to_owned())
    } else {
        StoreError::Refused {
            code: code.code().to_owned(),
            message: refused.message().to_owned(),
        }
    }
}

/// An error with its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        if !text.contains(&source_text) {
            text = format!("{text}: {source_text}");
        }
        next = source.source();
    }
    text
}

impl fmt::Debug for PgSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSession").finish_non_exhaustive()
    }
}
