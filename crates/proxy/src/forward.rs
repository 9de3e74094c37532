//! Forward: one request to GatePay within its deadline, and the truth about what was sent.
//!
//! Nothing else repeats: whatever the library would do by itself is off. An attempt is repeated only if nothing of it
//! was written, and every attempt is signed afresh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use crate::ingress::Pieces;
use crate::pool::{ConnectError, Connection, Pool};

/// Answers up to this size are read whole before any of them is relayed.
pub const WHOLE: usize = 64 * 1024;
/// How often a request of which nothing was written is tried in all.
const ATTEMPTS: u32 = 3;

/// GatePay's answer.
pub struct Answer {
    /// Status and headers.
    pub head: response::Parts,
    /// The body, or what has come of it.
    pub body: AnswerBody,
}

/// An answer's body.
pub enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// The beginning of a long one, and where the rest comes from.
    Long(Long),
}

/// A body too long to be held.
pub struct Long {
    /// What has come.
    pub begun: Option<Bytes>,
    /// What is to come.
    pub rest: Incoming,
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Long {
    /// All of it was read: the connection may serve another request.
    pub fn ended(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give_back(connection);
        }
    }
}

/// Why there is no answer. The two are different facts, and with money the difference is everything.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was written.
    NotSent(String),
    /// Something was written, and no whole answer came.
    Lost {
        /// What the caller is told.
        what: &'static str,
        /// What the log may know.
        detail: String,
    },
}

/// Sends what `attempt` makes, afresh for every try, and reads the answer.
pub async fn send(
    pool: &Arc<Pool>,
    deadline: Duration,
    mut attempt: impl FnMut() -> Request<Full<Bytes>>,
) -> Result<Answer, Failure> {
    let deadline = Instant::now() + deadline;
    let mut tried = 0;
    loop {
        tried += 1;
        let (connection, fresh) = match pool.reuse() {
            Some(connection) => (connection, false),
            None => (pool.connect(deadline).await.map_err(not_sent)?, true),
        };
        match exchange(pool, connection, attempt(), deadline).await {
            Ok(answer) => return Ok(answer),
            // A kept connection that had died is no verdict on GatePay; a fresh one that dies is.
            Err(Failure::NotSent(_)) if !fresh && tried < ATTEMPTS && Instant::now() < deadline => {
                pool.repeated();
            }
            Err(failure) => return Err(failure),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn not_sent(error: ConnectError) -> Failure {
    Failure::NotSent(error.to_string())
}

async fn exchange(
    pool: &Arc<Pool>,
    mut connection: Connection,
    request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let before = connection.written();
    let failed = |connection: &Connection, what: &'static str, detail: String| {
        // After the cut nothing more can be written, so the count is final.
        if connection.cut() == before {
            Failure::NotSent(detail)
        } else {
            Failure::Lost { what, detail }
        }
    };
    let response = match timeout_at(deadline, connection.sender().send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            return Err(failed(
                &connection,
                "the connection to GatePay broke before its answer",
                text(&error),
            ));
        }
        Err(_) => {
            return Err(failed(
                &connection,
                "GatePay did not answer in time",
                "deadline passed".to_owned(),
            ));
        }
    };
    let (head, mut rest) = response.into_parts();
    if head.status.as_u16() == 101 {
        // Nobody asked for it, and what follows is no answer.
        return Err(Failure::Lost {
            what: "GatePay's answer was none",
            detail: "101 Switching Protocols".to_owned(),
        });
    }
    let mut whole = Pieces::default();
    while !rest.is_end_stream() {
        match timeout_at(deadline, rest.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    whole.push(piece);
                }
            }
            Ok(Some(Err(error))) => {
                return Err(Failure::Lost {
                    what: "GatePay's answer was cut short",
                    detail: text(&error),
                });
            }
            Err(_) => {
                let what = "GatePay's answer did not end in time";
                return Err(Failure::Lost {
                    what,
                    detail: "deadline passed".to_owned(),
                });
            }
        }
        if whole.len() > WHOLE {
            let long = Long {
                begun: Some(whole.into_bytes()),
                rest,
                connection: Some(connection),
                pool: Arc::clone(pool),
            };
            return Ok(Answer {
                head,
                body: AnswerBody::Long(long),
            });
        }
    }
    pool.give_back(connection);
    Ok(Answer {
        head,
        body: AnswerBody::Whole(whole.into_bytes()),
    })
}

/// An error with its cause: hyper's own text leaves out which of many I/O errors it was.
fn text(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
